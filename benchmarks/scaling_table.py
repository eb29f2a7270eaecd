"""The tables of ``benchmarks/scaling_model.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scaling_model import Sweep, bottlenecks, check, predict, settled

if TYPE_CHECKING:
    from scaling_model import Parts

GPUS = (8, 64, 512)
ROWS = (1e8, 1e9, 1e10)
GB = 1e9
SETTINGS = {
    "harvested": "`activations.num_tokens` {:.2g}, several passes",
    "trials_per_gpu": "`resources.gpus_per_trial: {}`",
    "sampler": "`search.sampler: {}`",
}
"""Field that was changed to how it is set."""


def page(parts: Parts, points: dict[str, Any]) -> str:
    """The whole page as Markdown."""
    return f"""# Scaling

Made by `python benchmarks/scaling_model.py`, which simulates and measures nothing; what it says and does not say is in
[docs/scaling.md](../../docs/scaling.md).

## Parts

{_parts(parts)}

## Sweeps

{_sweeps(parts)}

## After the settings

The same sweeps after every setting that moves a bottleneck and shortens the sweep.

{_settled(parts)}

## Against measurements

{_check(parts, points)}
"""


def _parts(parts: Parts) -> str:
    measured, assumed = "measured", "assumed"
    rows = [
        (
            "training on one GPU",
            f"{parts.gpu_flops / 1e12:.0f} TFLOP/s in 32 bits",
            assumed,
            "an A100 has 19.5 at most; the share of the peak that the step reaches on a processor, "
            "[0.77 to 0.9](step_cpu.md), is taken to hold on a GPU",
        ),
        (
            "harvest on one GPU",
            f"{parts.harvest_flops / 1e12:.0f} TFLOP/s",
            assumed,
            "smaller products than in training; the harvest takes as long as the bare model, "
            "[1.02 of it for GPT-2 small](harvest.md)",
        ),
        ("evaluation on one GPU", f"{parts.splice_flops / 1e12:.0f} TFLOP/s", assumed, "as the harvest"),
        (
            "object store of a node",
            f"{parts.store_bytes / GB:.0f} GB",
            "Ray",
            "30 % of the memory, and no more than 200 GB unless `--object-store-memory` says so",
        ),
        (
            "a node reads from others",
            f"{parts.pull_bytes_per_s / GB:.2f} GB/s",
            measured,
            "two nodes on one machine, 24 MB shards one after the other ([points](scaling_points.json)); "
            "a single node reads spill files, which was [1 GB/s](harvest.md) at best, and counts the same",
        ),
        ("shared folder takes", f"{parts.folder_bytes_per_s / GB:.0f} GB/s", assumed, "a managed NFS of middle size"),
        (
            "a trial beyond its training",
            f"{parts.trial_overhead_s:.2f} s",
            measured,
            "[overhead](overhead.md), three rungs",
        ),
        (
            "the driver, per trial",
            f"{parts.driver_s:.2f} s",
            measured,
            "its processor time ([points](scaling_points.json))",
        ),
        (
            "a proposal of the Gaussian process",
            f"{parts.proposal_s:.2f} s",
            measured,
            "[71 s for 128 trials](samplers.md)",
        ),
        ("checkpoint", f"every {parts.checkpoint_interval_s:.0f} s", "product", "weights and two moments, 32 bits"),
        (
            "a GPU for an hour",
            f"{parts.gpu_hour_usd:.2f} USD",
            assumed,
            "an A100 of 80 GB; the cost is proportional to it",
        ),
    ]
    lines = ["| part | number | known | from |", "|---|---|---|---|"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def _sweeps(parts: Parts) -> str:
    lines = [
        "| GPUs | rows per trial | bank, GB | harvest | whole sweep | rows/s | GPUs busy | read from other nodes, GB/s "
        "per node | driver busy | cost, USD | first bottleneck (share of the time) | next |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for gpus in GPUS:
        for rows in ROWS:
            sweep = Sweep(num_tokens=rows, harvested=rows)
            found = predict(sweep, gpus, parts)
            named = [f"{limit} ({share:.0%})" for limit, share in bottlenecks(sweep, gpus, parts)] + ["training", ""]
            lines.append(
                f"| {gpus} | {rows:.0e} | {found.bank_bytes / GB:,.0f} | {_time(found.harvest_s)} "
                f"| {_time(found.wall_s)} | {found.rows_per_s:,.0f} | {found.busy:.0%} "
                f"| {found.node_bytes_per_s / GB:.2f} | {found.driver_load:.0%} | {found.cost_usd:,.0f} "
                f"| {named[0]} | {named[1]} |"
            )
    return "\n".join(lines)


def _settled(parts: Parts) -> str:
    lines = [
        "| GPUs | rows per trial | settings | whole sweep | times as fast | GPUs busy | driver busy | cost, USD "
        "| what is left |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for gpus in GPUS:
        for rows in ROWS:
            before = Sweep(num_tokens=rows, harvested=rows)
            after = settled(before, gpus, parts)
            slow, fast = predict(before, gpus, parts), predict(after, gpus, parts)
            changed = [
                text.format(getattr(after, field))
                for field, text in SETTINGS.items()
                if getattr(after, field) != getattr(before, field)
            ]
            left = [f"{limit} ({share:.0%})" for limit, share in bottlenecks(after, gpus, parts)] or ["training"]
            lines.append(
                f"| {gpus} | {rows:.0e} | {', '.join(changed) or '-'} | {_time(fast.wall_s)} "
                f"| {slow.wall_s / fast.wall_s:.1f} | {fast.busy:.0%} | {fast.driver_load:.0%} | {fast.cost_usd:,.0f} "
                f"| {', '.join(left)} |"
            )
    return "\n".join(lines)


def _check(parts: Parts, points: dict[str, Any]) -> str:
    found = check(points, parts)
    lines = [
        f"{points['trials']} trials of {points['rows']:,} rows (`topk`, 64 to 512), one CPU per node, all nodes on one "
        f"machine of two cores, which had other work to do; {len(points['rounds'])} measurement(s) of each.",
        "The prediction knows the speed of a step, measured just before, and the overhead of a trial: no fit.",
        "",
        "| nodes | rows/s of one step | sweep, predicted | sweep, measured | error |",
        "|---|---|---|---|---|",
    ]
    for nodes in ("1", "2"):
        row = found[nodes]
        lines.append(
            f"| {nodes} | {points['rows_per_s'][nodes]:,.0f} | {row['predicted']:.1f} s | {row['measured']:.1f} s "
            f"| {row['error']:+.0%} |"
        )
    row = found["speed-up"]
    lines.append(f"| 2 against 1 | | {row['predicted']:.2f} | {row['measured']:.2f} | {row['error']:+.0%} |")
    return "\n".join(lines)


def _time(seconds: float) -> str:
    """Seconds as people say them."""
    for unit, length in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
