"""Choosing settings, and turning the runs of the recovery benchmark into Markdown."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from recovery_plan import CHOICE_SEED, STEPS, TOY_TITLES, TRUE_L0, Entry, Reference, Run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Choices = Mapping[tuple[str, str], tuple[float, float]]

L0_TOLERANCE, MMCS_TOLERANCE = 0.05, 0.01
_COLUMNS = {
    "L0": ("l0", 2),
    "MMCS": ("mmcs", 3),
    "MCC": ("mcc", 3),
    "F1": ("f1", 2),
    "leakage": ("leakage", 3),
    "merged pairs": ("merge_rate", 2),
    "FVU": ("fvu", 3),
    "dead %": ("dead_fraction", 0),
}
_MMCS_MARGIN, _RELATIVE_MARGIN = 0.02, 0.1
_NOTHING = "-"
_COMPARED = ("mmcs", "l0", "fvu")


class Runs:
    """Finished runs, looked up by what was run.

    Args:
        results: Contents of the cache by key.
        seeds: Seeds of the tables.
        steps: Training steps of every run.
    """

    def __init__(self, results: Mapping[str, dict[str, Any]], seeds: Sequence[int], steps: int = STEPS) -> None:
        self.results, self.seeds, self.steps = results, tuple(seeds), steps

    def numbers(self, run: Run) -> dict[str, float] | None:
        """Metrics of one run; None when it is missing or diverged."""
        metrics: dict[str, float] = self.results.get(run.key, {}).get("metrics", {})
        return metrics or None

    def chosen_on(self, entry: Entry, toy: str, values: Sequence[float]) -> dict[float, dict[str, float]]:
        """Metrics of the values of an axis, on the seed that settings are chosen on."""
        found = {value: self.numbers(entry.run(toy, CHOICE_SEED, value, self.steps)) for value in values}
        return {value: numbers for value, numbers in found.items() if numbers is not None}

    def at(self, entry: Entry, toy: str, value: float) -> list[dict[str, float]]:
        """Metrics at one value for every seed of the tables."""
        return self.of([entry.run(toy, seed, value, self.steps) for seed in self.seeds])

    def of(self, runs: Sequence[Run]) -> list[dict[str, float]]:
        """Metrics of runs; missing and diverged ones are left out."""
        return [numbers for numbers in map(self.numbers, runs) if numbers is not None]


def interpolated(found: Mapping[float, Mapping[str, float]]) -> float | None:
    """A further value at which L0 should be the true one; None when a value is there already, or none brackets it.

    Linear in the logarithms of value and L0, between the two neighbours on either side of the true L0.
    """
    l0 = {value: max(numbers["l0"], 1e-3) for value, numbers in sorted(found.items())}
    if any(abs(x - TRUE_L0) <= L0_TOLERANCE * TRUE_L0 for x in l0.values()):
        return None
    values = list(l0)
    for low, high in pairwise(values):
        if (l0[low] - TRUE_L0) * (l0[high] - TRUE_L0) < 0:
            share = math.log(TRUE_L0 / l0[low]) / math.log(l0[high] / l0[low])
            return float(f"{low * (high / low) ** share:.3g}")
    return None


def matched(found: Mapping[float, Mapping[str, float]]) -> float:
    """The value with L0 nearest to the true one; of several within 5 % of it, the one with the lowest FVU."""
    close = {v: numbers for v, numbers in found.items() if abs(numbers["l0"] - TRUE_L0) <= L0_TOLERANCE * TRUE_L0}
    if close:
        return min(close, key=lambda value: close[value]["fvu"])
    return min(found, key=lambda value: abs(found[value]["l0"] - TRUE_L0))


def best(found: Mapping[float, Mapping[str, float]], at_l0: float) -> float:
    """The value with the highest MMCS; ``at_l0`` itself unless that is higher by more than 0.01."""
    value = max(found, key=lambda value: found[value]["mmcs"])
    return value if found[value]["mmcs"] > found[at_l0]["mmcs"] + MMCS_TOLERANCE else at_l0


def spread(values: Sequence[float], digits: int) -> str:
    """Median [min, max]."""
    if not values:
        return _NOTHING
    median, low, high = (_fixed(value, digits) for value in (float(np.median(values)), min(values), max(values)))
    return f"{median} [{low}, {high}]"


def _fixed(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0.0:.{digits}f}"  # adding 0 turns -0 into 0


def toy_table(runs: Runs, toy: str, entries: Sequence[Entry], choices: Choices) -> list[str]:
    """The table of one toy: for every architecture a row at matched L0 and, where it differs, one at its best MMCS.

    Args:
        runs: Finished runs.
        toy: The toy.
        entries: Rows.
        choices: Value at matched L0 and value of the best MMCS, by label and toy.
    """
    rows = []
    for entry in entries:
        if (entry.label, toy) not in choices:
            continue
        at_l0, at_best = choices[entry.label, toy]
        kinds = [("L0", at_l0)] if at_l0 == at_best else [("L0", at_l0), ("MMCS", at_best)]
        lines = [_row(entry, kind, value, runs.at(entry, toy, value), len(runs.seeds)) for kind, value in kinds]
        order = float(np.median([numbers["mmcs"] for numbers in runs.at(entry, toy, at_l0)] or [0.0]))
        rows.append((order, lines))
    rows.sort(key=lambda row: -row[0])
    head = ["architecture", "chosen for", "setting", *_COLUMNS]
    return [
        f"### {TOY_TITLES[toy][0].upper()}{TOY_TITLES[toy][1:]}",
        "",
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
        *(line for _, lines in rows for line in lines),
        "",
    ]


def _row(entry: Entry, kind: str, value: float, found: Sequence[Mapping[str, float]], num_seeds: int) -> str:
    cells = []
    for key, digits in _COLUMNS.values():
        factor = 100.0 if key == "dead_fraction" else 1.0
        cells.append(spread([factor * numbers[key] for numbers in found if key in numbers], digits))
    lost = num_seeds - len(found)
    note = f" ({lost} of {num_seeds} diverged)" if lost else ""
    return f"| {_name(entry)} | {kind} | {entry.axis} {value:g}{note} | {' | '.join(cells)} |"


def _name(entry: Entry) -> str:
    return f"`{entry.architecture}`{entry.label.removeprefix(entry.architecture)}"


def comparison_table(
    runs: Runs,
    baseline: Entry,
    entries: Sequence[Entry],
    toys: Sequence[str],
    choices: Choices,
) -> list[str]:
    """Paired differences in MMCS at matched L0 between variational architectures and one that is not."""
    lines = [
        f"### MMCS of variational architectures minus that of `{baseline.label}`, at matched L0",
        "",
        f"| architecture | {' | '.join(toys)} |",
        f"|{'---|' * (len(toys) + 1)}",
    ]
    for entry in entries:
        if entry.prior:
            cells = [_difference(runs, baseline, entry, toy, choices) for toy in toys]
            lines.append(f"| {_name(entry)} | {' | '.join(cells)} |")
    return [*lines, ""]


def _difference(runs: Runs, baseline: Entry, entry: Entry, toy: str, choices: Choices) -> str:
    if (entry.label, toy) not in choices or (baseline.label, toy) not in choices:
        return _NOTHING
    pairs = [
        [runs.numbers(one.run(toy, seed, choices[one.label, toy][0], runs.steps)) for one in (entry, baseline)]
        for seed in runs.seeds
    ]
    differences = [own["mmcs"] - other["mmcs"] for own, other in pairs if own is not None and other is not None]
    ahead = sum(difference > 0 for difference in differences)
    return f"{spread(differences, 3)}, ahead in {ahead} of {len(differences)}"


def reference_table(runs: Runs, references: Sequence[Reference]) -> list[str]:
    """Known numbers beside ours, with a verdict, on independent features."""
    lines = [
        "| setting | MMCS | known | L0 | known | FVU | known | recovered | known | verdict |",
        f"|{'---|' * 10}",
    ]
    for reference in references:
        found = runs.of([reference.run("independent", seed, runs.steps) for seed in runs.seeds])
        cells = []
        for key, digits in (("mmcs", 3), ("l0", 1), ("fvu", 3), ("recovered_fraction", 2)):
            cells += [spread([numbers[key] for numbers in found], digits), f"{reference.expected[key]:g}"]
        lines.append(f"| {reference.label} | {' | '.join(cells)} | {verdict(found, reference.expected)} |")
    return [*lines, ""]


def verdict(found: Sequence[Mapping[str, float]], expected: Mapping[str, float]) -> str:
    """Which known numbers lie outside the range of the seeds, widened by 0.02 (MMCS) or 10 % (L0, FVU)."""
    if not found:
        return _NOTHING
    outside = []
    for key in _COMPARED:
        values = [numbers[key] for numbers in found]
        margin = _MMCS_MARGIN if key == "mmcs" else _RELATIVE_MARGIN * expected[key]
        if not min(values) - margin <= expected[key] <= max(values) + margin:
            outside.append(key.upper())
    return f"outside: {', '.join(outside)}" if outside else "within"


def other_toys_table(runs: Runs, references: Sequence[Reference], toys: Sequence[str]) -> list[str]:
    """Known MMCS on other toys beside ours."""
    lines = [
        f"| setting | {' | '.join(f'{toy} | known | verdict' for toy in toys)} |",
        f"|{'---|' * (1 + 3 * len(toys))}",
    ]
    for reference in references:
        cells = []
        for toy in toys:
            values = [
                numbers["mmcs"] for numbers in runs.of([reference.run(toy, seed, runs.steps) for seed in runs.seeds])
            ]
            known = reference.other_toys[toy]
            within = values and min(values) - _MMCS_MARGIN <= known <= max(values) + _MMCS_MARGIN
            cells += [spread(values, 3), f"{known:g}", "within" if within else "outside" if values else _NOTHING]
        lines.append(f"| {reference.label} | {' | '.join(cells)} |")
    return [*lines, ""]
