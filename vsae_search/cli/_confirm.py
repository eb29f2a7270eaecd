"""What a confirmation is going to do, and what it found: plain data first, then the text that people read."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from vsae_search.frontier import hypervolume

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vsae_search.search import Confirmed, ReferenceRecord
    from vsae_search.search.confirm.plan import ConfirmPlan

_HEADINGS = ("architecture", "configuration", "seeds", "L0 search", "L0 confirmed", "search", "confirmed", "gap")


def describe(plan: ConfirmPlan) -> dict[str, Any]:
    """Everything that is decided before the first training, as values that JSON can hold."""
    l0 = {trial.uid: trial.metrics.get("l0") for trial in plan.trials}
    pending = Counter(assignment.architecture for assignment in plan.pending)
    kept = Counter(replicate.architecture for replicate in plan.replicates)
    architectures = {
        name: {
            "configurations": [
                {"uid": chosen.uid, "rank": chosen.rank, "l0": l0.get(chosen.uid)}
                for chosen in plan.configurations
                if chosen.architecture == name
            ],
            "kept": kept[name],
            "trainings": pending[name],
        }
        for name in dict.fromkeys(chosen.architecture for chosen in plan.configurations)
    }
    return {
        "sweep": plan.sweep.name,
        "directory": str(plan.directory),
        "seeds": plan.request.seeds,
        "margin": plan.request.margin,
        "architectures": architectures,
        "kept": len(plan.replicates),
        "trainings": len(plan.pending),
        "steps_per_training": plan.space.training.num_steps,
        "batch_size": plan.space.training.batch_size,
        "held_out_rows": plan.space.activations.evaluation_tokens,
        "estimated_s": round(plan.estimated_s, 1),
        "warnings": list(plan.warnings),
    }


def plan_as_text(data: dict[str, Any]) -> str:
    """The plan as the block of lines that people read."""
    count = sum(len(one["configurations"]) for one in data["architectures"].values())
    rank = "the frontier" if data["margin"] == 0 else f"rank 0 to {data['margin']}"
    kept = f"{data['kept']} are there · " if data["kept"] else ""
    lines = [
        ("Confirm", f"{data['sweep']}   {len(data['architectures'])} architectures · {count} configurations, {rank}"),
        ("Rows", f"{data['held_out_rows']} held-out rows that no trial of the search has seen"),
    ]
    for name, one in data["architectures"].items():
        found = [f"{configuration['l0']:.3g}" for configuration in one["configurations"]]
        lines.append(("", f"  {name:<18} {one['trainings']:>4} trainings   L0 {', '.join(found)}"))
    steps = f"{data['steps_per_training']} steps of {data['batch_size']} rows each"
    lines += [
        ("Plan", f"{data['seeds']} seeds · {kept}{data['trainings']} trainings · {steps}"),
        ("Time", f"about {_duration(data['estimated_s'])}, by the pace of the search"),
        ("Storage", f"{data['directory']}/confirm"),
        *(("Warning", text) for text in data["warnings"]),
    ]
    return "\n".join(f"{label:<10}{text}" for label, text in lines)


def summarise(confirmed: Sequence[Confirmed], reference: ReferenceRecord | None) -> list[dict[str, Any]]:
    """One row per architecture: its best configuration, as the search and as the replicates saw it.

    The best is chosen by the search's numbers, so that the replicates' numbers are no result of a choice: the largest
    hypervolume of its own.
    """
    rows = []
    for name in dict.fromkeys(one.architecture for one in confirmed):
        mine = [one for one in confirmed if one.architecture == name and one.replicates]
        if not mine:
            continue
        best = max(mine, key=lambda one: (_area(one, reference), -one.search["delta_ce"]))
        states = Counter(replicate.state for one in mine for replicate in one.replicates)
        row: dict[str, Any] = {"architecture": name, "configuration": best.uid, "states": dict(states)}
        row["seeds"] = sum(value is not None for value in best.values("delta_ce"))
        row["tried"] = len(best.replicates)
        for metric in ("l0", "delta_ce"):
            row[metric] = {
                "search": best.search[metric],
                "mean": best.mean(metric),
                "standard_deviation": best.spread(metric),
                "gap": best.gap(metric),
            }
        rows.append(row)
    return rows


def summary_as_text(rows: Sequence[dict[str, Any]], loss: str) -> str:
    """The summary as a table, with the definitions below it."""
    table = [_HEADINGS, *(_cells(row) for row in rows)]
    widths = [max(len(cells[column]) for cells in table) for column in range(len(_HEADINGS))]
    lines = [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in table
    ]
    lost = sum((Counter(row["states"]) for row in rows), Counter[str]())
    notes = [
        f"search, confirmed, gap: {loss}; gap = search minus confirmed, negative where the search was too optimistic.",
        "configuration: the one with the largest hypervolume of its own in the search; ±: standard deviation.",
    ]
    notes += [f"trainings {state}: {lost[state]}" for state in ("diverged", "failed") if lost[state]]
    notes.append("Bands, intervals and tests in the report use these trainings only.")
    return "\n".join([*lines, "", *notes])


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    l0, loss = row["l0"], row["delta_ce"]
    return (
        row["architecture"],
        row["configuration"],
        f"{row['seeds']}/{row['tried']}",
        f"{l0['search']:.3g}",
        _with_spread(l0),
        f"{loss['search']:.3g}",
        _with_spread(loss),
        "-" if loss["gap"] is None else f"{loss['gap']:+.2g}",
    )


def _with_spread(numbers: dict[str, float | None]) -> str:
    if numbers["mean"] is None:
        return "-"
    spread = numbers["standard_deviation"]
    return f"{numbers['mean']:.3g} ± {'-' if spread is None else f'{spread:.2g}'}"


def _area(one: Confirmed, reference: ReferenceRecord | None) -> float:
    if reference is None:
        return 0.0
    point = np.array([[one.search["l0"], one.search["delta_ce"]]])
    return hypervolume(point, (reference.l0, reference.delta_ce)).value


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
