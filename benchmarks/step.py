"""Speed and memory of one training step against SAELens, dictionary_learning and sparsify.

Run in the environment of the peers, made once by ``benchmarks/setup_peers.sh``:

    OMP_NUM_THREADS=1 .venv-peers/bin/python benchmarks/step.py

On a CPU with one thread, time is that of the process, so that other programs disturb it little. Runners take turns
within a round; a table shows the median over rounds and half the distance between the quartiles. Memory is measured in
a fresh process for each runner. ``--device cuda`` measures the same on a GPU, in elapsed time.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from step_runners import OWN_DENSE, PEERS, WITHOUT_PEERS, Case, build, runners

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

SHAPES = ((20, 160, 1024, 8), (64, 512, 4096, 8), (512, 4096, 2048, 32), (768, 6144, 2048, 32))
CUDA_SHAPES = ((768, 6144, 8192, 32), (768, 24576, 8192, 32))
ARCHITECTURES = ("relu", "topk", "batch_topk", "jumprelu", "gated")
PEER_NAMES = ("SAELens", "dictionary_learning", "sparsify")
THRESHOLDED = ("relu", "jumprelu", "gated")
SCOPES = {"topk_ridge": (("ridge_scope", "all"),), "vsae_topk": (("kl_scope", "all"),)}
"""What makes the architectures without peers look at all latents, beside what they keep."""
OURS = ("ours", "products", OWN_DENSE)
PRODUCTS = {"gated": 7}
"""Dense matrix products of a step; 5 for every other architecture."""
MB = 1 << 20
_MIN_SPARSE_D_SAE = 512


def cases(shape: tuple[int, int, int, int], device: str, dtype: torch.dtype) -> list[Case]:
    """All cases of one shape."""
    d_in, d_sae, batch, k = shape
    common = {"d_in": d_in, "d_sae": d_sae, "batch": batch, "k": k, "device": device, "dtype": dtype}
    plain = [Case(name, sparse=False, dead=0.0, **common) for name in ARCHITECTURES]
    sparse = [Case(name, sparse=True, dead=0.0, **common) for name in THRESHOLDED]
    found = [*plain, *sparse, Case("topk", sparse=False, dead=0.5, **common)]
    if d_sae >= _MIN_SPARSE_D_SAE:
        found += [Case(name, sparse=False, dead=0.0, params=SCOPES[name], **common) for name in WITHOUT_PEERS]
        found += [Case("vsae_topk", sparse=False, dead=0.0, **common)]
    return found


def batch_of(case: Case) -> Tensor:
    """Standard normal rows, so that the mean of ‖x‖² is d_in."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(case.batch, case.d_in, generator=generator).to(case.device, case.dtype)


def products(case: Case, x_BD: Tensor) -> Callable[[Tensor], None]:
    """The matrix products of a dense step and nothing else, into memory that is reused; for gated, five of seven."""
    d_in, d_sae = case.d_in, case.d_sae
    W_DF, W_FD = x_BD.new_ones(d_in, d_sae), x_BD.new_ones(d_sae, d_in)
    pre_BF, out_BD = x_BD.new_empty(case.batch, d_sae), torch.empty_like(x_BD)

    def step(x_BD: Tensor) -> None:
        torch.mm(x_BD, W_DF, out=pre_BF)
        torch.mm(pre_BF, W_FD, out=out_BD)
        torch.mm(out_BD, W_FD.T, out=pre_BF)
        torch.mm(pre_BF.T, out_BD, out=W_FD)
        torch.mm(x_BD.T, pre_BF, out=W_DF)
        for weight in (W_DF, W_FD):  # or they would overflow after a few rounds
            weight.fill_(1.0)

    return step


def clock(device: str) -> float:
    """Seconds: of the process on a CPU, elapsed on a GPU once it has finished."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def measure(case: Case, *, rounds: int, target_s: float) -> dict[str, list[float]]:
    """Seconds per step of every runner, one number per round."""
    x_BD = batch_of(case)
    steps = {name: build(name, case, x_BD) for name in runners(case)}
    steps["products"] = products(case, x_BD)
    repeats, seconds = {}, {name: [] for name in steps}
    for name, step in steps.items():
        step(x_BD)
        start = clock(case.device)
        step(x_BD)
        repeats[name] = max(1, min(500, int(target_s / max(1e-6, clock(case.device) - start))))
    for turn in range(rounds):
        order = list(steps)
        for name in order[turn % len(order) :] + order[: turn % len(order)]:
            start = clock(case.device)
            for _ in range(repeats[name]):
                steps[name](x_BD)
            seconds[name].append((clock(case.device) - start) / repeats[name])
    del steps
    gc.collect()
    return seconds


def peak_memory(name: str, case: Case) -> float:
    """MB that two steps add at their peak to a process that has imported the library and made its batch."""
    build(name, dataclasses.replace(case, d_in=8, d_sae=64, batch=64, k=8), torch.randn(64, 8, device=case.device))
    x_BD = batch_of(case)
    gc.collect()
    if case.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from the present size
        before = status_kb("VmRSS") * 1024
    step = build(name, case, x_BD)
    for _ in range(2):
        step(x_BD)
    peak = torch.cuda.max_memory_allocated() if case.device != "cpu" else status_kb("VmHWM") * 1024
    return (peak - before) / MB


def status_kb(field: str) -> int:
    """One size of this process in kB, as Linux reports it."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(field)))


def memory_in_child(name: str, case: Case) -> float:
    """:func:`peak_memory` in a fresh process."""
    wanted = dataclasses.asdict(case) | {"dtype": str(case.dtype).removeprefix("torch.")}
    arguments = [sys.executable, str(Path(__file__)), "--memory-of", json.dumps([name, wanted])]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def spread(values: list[float]) -> float:
    """Half the distance between the quartiles over the median."""
    if len(values) < 3:
        return float("nan")
    low, _, high = statistics.quantiles(values, n=4)
    return 0.5 * (high - low) / statistics.median(values)


def speed_row(case: Case, seconds: dict[str, list[float]]) -> str:
    """One line of the speed table; ratios are taken within a round before their median."""
    ours = statistics.median(seconds["ours"])
    ratios = {
        name: [other / own for other, own in zip(values, seconds["ours"], strict=True)]
        for name, values in seconds.items()
        if name not in {"ours", "products"}
    }
    of_peers = [statistics.median(values) for name, values in ratios.items() if name not in OURS]
    best = f"**{min(of_peers):.2f}**" if of_peers else "-"
    bound = statistics.median(seconds["products"]) * PRODUCTS.get(case.architecture, 5) / 5
    cells = [
        f"{statistics.median(ratios[name]):.2f} ± {spread(ratios[name]):.0%}" if name in ratios else "-"
        for name in (*PEERS, OWN_DENSE)
    ]
    return (
        f"| {case.label} | {1 / ours:.4g} ± {spread(seconds['ours']):.0%} | {case.batch / ours:,.0f} | "
        f"{' | '.join(cells)} | {best} | {bound / ours:.2f} |"
    )


def speed_table(shape: tuple[int, int, int, int], rows: list[str]) -> str:
    """Table of one shape."""
    d_in, d_sae, batch, k = shape
    columns = (
        "architecture",
        "ours, steps/s",
        "ours, rows/s",
        *[f"/ {name}" for name in (*PEER_NAMES, OWN_DENSE)],
        "/ best",
        "bound",
    )
    head = f"| {' | '.join(columns)} |"
    return "\n".join(
        [f"### d_in {d_in}, d_sae {d_sae}, batch {batch}, k {k}\n", head, "|---" * len(columns) + "|", *rows, ""]
    )


def memory_table(shape: tuple[int, int, int, int], device: str, dtype: torch.dtype) -> str:
    """Peak memory of every runner at one shape."""
    rows = []
    for case in cases(shape, device, dtype):
        peaks = {name: memory_in_child(name, case) for name in runners(case)}
        columns = [f"{peaks[name]:.0f}" if name in peaks else "-" for name in ("ours", *PEERS, OWN_DENSE)]
        rows.append(f"| {case.label} | {' | '.join(columns)} |")
    d_in, d_sae, batch, _ = shape
    title = f"## Peak memory of a step (MB), d_in {d_in}, d_sae {d_sae}, batch {batch}\n"
    head = f"| architecture | ours | {' | '.join((*PEER_NAMES, OWN_DENSE))} |"
    return "\n".join([title, head, "|---" * 6 + "|", *rows, ""])


def device_name(device: str) -> str:
    """Name of the processor or of the card."""
    if device != "cpu":
        return torch.cuda.get_device_name()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def versions() -> str:
    """Versions of what is compared."""
    from importlib import metadata

    names = ("torch", "sae-lens", "dictionary-learning", "eai-sparsify")
    return ", ".join(f"{name} {metadata.version(name)}" for name in names)


TEXT = """# One training step against peers, {device}

{name}, {threads} thread(s), {precision}; {versions}. Made by `benchmarks/step.py`; {rounds} interleaved rounds.

Every runner makes a full optimiser step on the same batch. Ours: loss, backward, decoder projection, gradient clipping,
fused Adam, decoder norm, dead-latent tracking and loss bookkeeping. SAELens: `SAETrainer.step`. dictionary_learning:
`trainer.update`. sparsify: `SparseCoder` forward and backward and Adam, without the rest of its loop. A ratio is how
many times as fast ours is: the median over rounds ± half the distance between the quartiles. "Best" is the ratio to the
fastest peer. "Bound" is the time of the dense matrix products of a step alone (5; 7 for gated) over our time: above 1
means that a sparse step does less than those products.

Rows without a remark start from initial weights, where half of a thresholded code fires. "1.5 % dense" has biases set
so that 1.5 % fires. "Half of the latents dead" has the auxiliary loss at work. No peer has `topk_ridge` or `vsae_topk`:
they are compared with their own step when nothing in it is treated as sparse.
"""


def report(options: argparse.Namespace, dtype: torch.dtype, precision: str) -> str:
    """All tables for one precision."""
    shapes = (*SHAPES, *CUDA_SHAPES) if options.device != "cpu" else SHAPES
    shapes = [shape for shape in shapes if not options.d_in or shape[0] in options.d_in]
    parts = [
        TEXT.format(
            device=options.device.upper(),
            name=device_name(options.device),
            threads=torch.get_num_threads(),
            precision=precision,
            versions=versions(),
            rounds=options.rounds,
        ),
        "## Speed\n",
    ]
    for shape in shapes:
        rows = []
        for case in cases(shape, options.device, dtype):
            if options.architecture and case.architecture not in options.architecture:
                continue
            with contextlib.redirect_stdout(io.StringIO()):  # peers report on their own
                seconds = measure(case, rounds=options.rounds, target_s=options.seconds)
            rows.append(speed_row(case, seconds))
            print(f"{shape}: {rows[-1]}", file=sys.stderr, flush=True)
        parts.append(speed_table(shape, rows))
    if not options.no_memory:
        parts.append(memory_table(shapes[-1], options.device, dtype))
    return "\n".join(parts)


def child(argument: str) -> None:
    """Print the peak memory of one runner."""
    name, wanted = json.loads(argument)
    wanted["dtype"] = getattr(torch, wanted["dtype"])
    wanted["params"] = tuple(tuple(pair) for pair in wanted["params"])
    case = Case(**wanted)
    with contextlib.redirect_stdout(io.StringIO()):
        peak = peak_memory(name, case)
    print(peak)


def main() -> None:
    """Parse the options, measure, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "tf32", "bf16"), nargs="+", default=["fp32"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="least time per runner and round")
    parser.add_argument("--d-in", type=int, nargs="+", help="only shapes of these widths")
    parser.add_argument("--architecture", nargs="+", choices=(*ARCHITECTURES, *WITHOUT_PEERS))
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this project is not installed beside the peers
    if options.device == "cpu":
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if options.memory_of:
        child(options.memory_of)
        return
    reports = []
    for precision in options.precision:
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        reports.append(report(options, torch.bfloat16 if precision == "bf16" else torch.float32, precision))
    text = "\n".join(reports)
    print(text)
    output = options.output or Path(__file__).parent / "results" / f"step_{options.device}.md"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
