"""How good each sampler's frontiers are on a synthetic problem, through the sweep's own studies.

    nice -n 5 .venv/bin/python benchmarks/samplers.py --seeds 10

Every method gets 128 trials and is asked in batches of four, as a sweep of four workers would ask. The score is the
hypervolume of the noise-free values in (log2 L0, log2 delta-CE) as a share of what is attainable: of all trials
together, on average over the architectures, and of the worst one. ``--coverage`` compares the same sampler with and
without a range of L0 to fill; ``--stall`` measures what a proposal costs the loop that processes results.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from synthetic_problem import ARCHITECTURES, OBJECTIVES, area, attainable, measure, spread

from vsae_search.search.objectives import Objectives
from vsae_search.search.propose.coverage import unevenness
from vsae_search.search.propose.grid import grid_points
from vsae_search.search.propose.plans import Plan
from vsae_search.search.propose.studies import Studies, Told

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

RESULTS = Path(__file__).parent / "results" / "samplers.md"
METHODS = {
    "random, per architecture": ("random", False),
    "Sobol, per architecture": ("qmc", False),
    "grid, per architecture": ("grid", False),
    "NSGA-II, per architecture": ("nsga2", False),
    "TPE, per architecture": ("tpe", False),
    "GP, per architecture (auto)": ("gp", False),
    "random, joint": ("random", True),
    "NSGA-II, joint": ("nsga2", True),
    "TPE, joint (auto)": ("tpe", True),
    "GP, joint": ("gp", True),
}
CHECKPOINTS = (32, 64, 128)
WANTED = (4.0, 128.0)


@dataclass
class Run:
    """One method with one seed.

    Attributes:
        uids: Trials in the order in which they were asked for.
        points: Noise-free (L0, delta-CE) of every trial.
    """

    uids: list[str] = field(default_factory=list)
    points: list[tuple[float, float]] = field(default_factory=list)

    def of(self, name: str, count: int | None = None) -> list[tuple[float, float]]:
        """Points of one architecture among the first trials."""
        pairs = zip(self.uids[:count], self.points[:count], strict=True)
        return [point for uid, point in pairs if uid.rsplit("-", 1)[0] == name]


def plans(sampler: str, trials: int, seed: int, joint: bool) -> dict[str, Plan]:
    """The plan of every architecture, as a sweep makes it."""
    share, rest = divmod(trials, len(ARCHITECTURES))
    made = {}
    for position, (name, proposals) in enumerate(spread(seed).items()):
        budget = share + (position < rest)
        startup = max(5, 2 * len(proposals.dimensions)) if not joint else 2
        startup = (16 if not joint else 3) if sampler == "nsga2" else startup
        grid = tuple(grid_points(ARCHITECTURES[name].ranges(), budget, seed)) if sampler == "grid" else ()
        made[name] = Plan(proposals, min(budget, len(grid)) if grid else budget, startup, (), grid)
    return made


def run(
    sampler: Any, joint: bool, seed: int, *, trials: int = 128, batch: int = 4, objectives: Objectives = OBJECTIVES
) -> Run:
    """Search the synthetic problem."""
    made = Run()
    with tempfile.TemporaryDirectory() as folder:
        studies = Studies(
            "synthetic",
            seed,
            plans(sampler, trials, seed, joint),
            sampler=sampler,
            max_retries=0,
            storage=f"sqlite:///{folder}/optuna.db",
            joint=joint,
            wanted=objectives.wanted,
        )
        while True:
            asked = [one for one in (studies.ask() for _ in range(batch)) if one is not None]
            for one in asked:
                l0, delta_ce = measure(one.architecture, one.params, one.seed)
                told = Told(objectives.values(l0, delta_ce), usable=True, outside=objectives.outside(l0))
                studies.tell(one.uid, told)
                made.uids.append(one.uid)
                made.points.append(ARCHITECTURES[one.architecture].values(one.params))
            if not asked:
                break
        studies.close()
    return made


def scores(made: Run, count: int) -> tuple[float, float, float]:
    """Hypervolume as a share of the attainable one: all together, mean over architectures, worst architecture."""
    each = [area(made.of(name, count)) / attainable(name) for name in ARCHITECTURES]
    best = max(attainable(name) for name in ARCHITECTURES)
    return area(made.points[:count]) / best, float(np.mean(each)), min(each)


def quality(seeds: int, methods: Sequence[str], cpu_minutes: float) -> None:
    """Write the table of all methods, after each of them."""
    lines = [
        "128 trials on six synthetic architectures, asked in batches of four; mean over seeds (standard deviation). A "
        "share of 1 is every architecture perfectly tuned. All methods share the seeds from 0 on.",
        "",
        "| method | seeds | all, 32 trials | all, 64 | all, 128 | per architecture, 32 | 64 | 128 "
        "| worst architecture, 128 | CPU seconds for 128 trials |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for method in methods:
        begun, runs = time.process_time(), []
        while len(runs) < seeds and time.process_time() - begun < 60 * cpu_minutes:
            runs.append(run(*METHODS[method], len(runs)))
        seconds = (time.process_time() - begun) / len(runs)
        table = np.array([[scores(made, count) for count in CHECKPOINTS] for made in runs])  # [seed, count, score]
        cells = [str(len(runs)), *(f"{table[:, i, 0].mean():.3f}" for i in range(2)), _spread(table[:, 2, 0])]
        cells += [*(f"{table[:, i, 1].mean():.3f}" for i in range(2)), _spread(table[:, 2, 1])]
        cells += [f"{table[:, 2, 2].mean():.3f}", f"{seconds:.0f}"]
        lines.append(f"| {method} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
        write_section("Hypervolume of each sampler on a synthetic problem", "\n".join(lines))


def _spread(values: NDArray[np.float64]) -> str:
    deviation = values.std(ddof=1) if len(values) > 1 else float("nan")
    return f"{values.mean():.3f} ({deviation:.3f})"


def coverage(seeds: int, trials: int = 96) -> str:
    """The same samplers with and without a range of L0 to fill."""
    lines = [
        f"{trials} trials, {seeds} seeds, wanted L0 {WANTED[0]:g} to {WANTED[1]:g}. Widest gap: of a frontier's trials "
        "inside the range, in log2 L0, as a share of the range, mean over architectures (smaller is better). "
        "Hypervolume: inside the range only, mean over architectures, in square octaves. Inside: share of the trials.",
        "",
        "| sampler | `l0_range` | widest gap | hypervolume inside | trials inside |",
        "|---|---|---|---|---|",
    ]
    narrow = Objectives(OBJECTIVES.l0, OBJECTIVES.delta_ce, WANTED)
    for sampler in ("tpe", "nsga2", "gp"):
        for objectives in (OBJECTIVES, narrow):
            found = [_covered(run(sampler, False, seed, trials=trials, objectives=objectives)) for seed in range(seeds)]
            mean, deviation = np.mean(found, axis=0), np.std(found, axis=0, ddof=1)
            cells = [f"{m:.3f} ({d:.3f})" for m, d in zip(mean, deviation, strict=True)]
            given = "left out" if objectives is OBJECTIVES else "4 to 128"
            lines.append(f"| {sampler} | {given} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    return "\n".join(lines)


def _covered(made: Run) -> tuple[float, float, float]:
    from vsae_search.search.propose.coverage import frontier_order

    widest, areas = [], []
    for name in ARCHITECTURES:
        inside = [point for point in made.of(name) if WANTED[0] <= point[0] <= WANTED[1]]
        widest.append(unevenness([inside[i][0] for i in frontier_order(inside)], *WANTED))
        areas.append(area(inside, *WANTED))
    is_inside = [WANTED[0] <= l0 <= WANTED[1] for l0, _ in made.points]
    return float(np.mean(widest)), float(np.mean(areas)), float(np.mean(is_inside))


def stall(trials: int = 48) -> str:
    """What the loop waits for proposals: made when they are asked for, and made ahead."""
    lines = [
        f"Two architectures, {trials} trials of 0.5 s, four at a time, sampler `gp`. Time of one call inside the loop "
        "that processes results; the loop polls every 50 ms. Idle: seconds from a slot's end to its next trial, "
        "0.05 s of it the poll.",
        "",
        "| proposals | `suggest`, median | `suggest`, largest | `tell`, median | `tell`, largest | idle, mean "
        "| idle, largest |",
        "|---|---|---|---|---|---|---|",
    ]
    for slots, label in ((1, "when asked for"), (4, "ahead, in the background")):
        suggest, tell, idle = _loop(trials, slots)
        cells = [f"{value:.1f} ms" for times in (suggest, tell) for value in (np.median(times), max(times))]
        cells += [f"{np.mean(idle):.2f} s", f"{max(idle):.2f} s"]
        lines.append(f"| {label} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def _loop(trials: int, slots: int) -> tuple[list[float], list[float], list[float]]:
    """A loop as Tune's: four workers whose trials take half a second."""
    suggest: list[float] = []
    tell: list[float] = []
    idle: list[float] = []
    two = dict(list(plans("gp", 3 * trials, 0, joint=False).items())[:2])
    two = {name: Plan(plan.proposals, trials // 2, plan.startup) for name, plan in two.items()}
    with tempfile.TemporaryDirectory() as folder:
        database = f"sqlite:///{folder}/optuna.db"
        studies = Studies("stall", 0, two, sampler="gp", max_retries=0, storage=database, slots=slots)
        free, running = [time.monotonic()] * 4, []
        while running or not studies.exhausted():
            for end, one in list(running):
                if time.monotonic() >= end:
                    running.remove((end, one))
                    begun = time.monotonic()
                    values = OBJECTIVES.values(*measure(one.architecture, one.params, one.seed))
                    studies.tell(one.uid, Told(values, usable=True))
                    tell.append(1e3 * (time.monotonic() - begun))
                    free.append(end)
            while free:
                begun = time.monotonic()
                one = studies.ask(patient=not running)
                if one is None:
                    break
                suggest.append(1e3 * (time.monotonic() - begun))
                idle.append(time.monotonic() - free.pop(0))
                running.append((time.monotonic() + 0.5, one))
            time.sleep(0.05)
        studies.close()
    return suggest, tell, idle


def write_section(title: str, text: str) -> None:
    """Replace one section of the results file and leave the others."""
    head = f"## {title}\n"
    old = RESULTS.read_text(encoding="utf-8") if RESULTS.is_file() else "# Samplers\n"
    parts = [part for part in ("\n" + old).split("\n## ") if not part.startswith(f"{title}\n")]
    kept = "\n## ".join(part.rstrip("\n") + "\n" for part in parts).lstrip("\n").rstrip("\n")
    RESULTS.write_text(f"{kept}\n\n{head}\n{text.rstrip()}\n", encoding="utf-8")


def main() -> None:
    """Run what was asked for and write its section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--minutes", type=float, default=60.0, help="no further seed of a method after this CPU time")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), metavar="METHOD")
    parser.add_argument("--coverage", action="store_true", help="compare with and without a range of L0")
    parser.add_argument("--stall", action="store_true", help="measure what the loop waits for proposals")
    options = parser.parse_args()
    if options.coverage:
        write_section("An even frontier along a range of L0", coverage(options.seeds))
    elif options.stall:
        write_section("What proposals cost the loop that processes results", stall())
    else:
        quality(options.seeds, options.methods, options.minutes)


if __name__ == "__main__":
    main()
