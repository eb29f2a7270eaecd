"""Does the report claim a difference where there is none, and does it find one that is there?

Run by hand: ``python benchmarks/self_comparison.py [--repetitions 20] [--architectures topk relu]``.

One repetition is three sweeps of one architecture on the same rows, each with trials, frontier and confirmation of its
own: two that differ in nothing but the seed, and one whose trials get a part of the training rows. The report compares
the first with the second, where every claim is false, and the first with the third. Sweeps are real: the product's
trials, its choice of configurations, its seeds and its report; only Ray, Optuna's model and MLflow are left out. They
are kept under ``build/self_comparison``, so the same command goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import platform
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from stopping_trials import Bank

from vsae_search.report.build import build_report
from vsae_search.report.card import discover
from vsae_search.search.assignment import Assignment
from vsae_search.search.confirm.plan import ConfirmRequest, plan_confirm
from vsae_search.search.confirm.records import CONFIRM_FILE, CONFIRM_FOLDER, ConfirmRecord
from vsae_search.search.propose.proposals import Proposals
from vsae_search.search.records import SWEEP_FILE, ArchitecturePlan, SweepRecord, trial_directory, write_record
from vsae_search.search.reference import reference_point
from vsae_search.search.seeds import derive_seed
from vsae_search.search.trial import TrialContext, TrialRun
from vsae_search.space import SearchSpace
from vsae_search.subjects import build_subject

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vsae_search.report.data import ReportData

BUILD = Path("build/self_comparison")
TRIALS, SEEDS, HANDICAP = 12, 6, 10
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "topk": {"k": {"choice": [1, 2, 3, 4, 6]}},
    "relu": {"l1_coefficient": {"log": [0.1, 10]}},
}
NUM_TOKENS = 40_000
HELD_OUT_SHARD = 1


class Count(NamedTuple):
    """Repetitions of one comparison.

    Attributes:
        claims: In how many the report claims a difference.
        right: In how many it names the right winner at least once, and the wrong one never.
        total: How many there are.
        differences: Difference of the mean hypervolume in each, in points of the box.
    """

    claims: int
    right: int
    total: int
    differences: list[float]


def space_of(architecture: str, seed: int, num_tokens: int) -> SearchSpace:
    """A search space that trains in a tenth of a second."""
    return SearchSpace.model_validate(
        {
            "name": "self",
            "seed": seed,
            "subject": {"type": "directions", "d_in": 16, "features": {"count": 32, "probability": 0.06}},
            "activations": {"num_tokens": 20_000, "evaluation_tokens": 4_000, "calibration_tokens": 2_000},
            "training": {"num_tokens": num_tokens, "batch_size": 256, "rungs": [1.0]},
            "shared": {"d_sae": 32, "lr": {"log": [3e-3, 2e-2]}},
            "architectures": {architecture: ARCHITECTURES[architecture]},
            "search": {"trials": TRIALS},
        }
    )


class HeldOut(Bank):
    """The same training rows, measured on rows that the search never saw."""

    def __init__(self, subject: Any, space: SearchSpace) -> None:
        super().__init__(subject, space)
        self._evaluation = subject.harvest(HELD_OUT_SHARD, space.activations.evaluation_tokens, "confirm")


@cache
def grounds() -> tuple[Any, Bank, Bank]:
    """Subject, rows of the search, and rows of the confirmation; the same for every sweep."""
    space = space_of("topk", 0, NUM_TOKENS)
    subject = build_subject(space.subject, BUILD / "bank")
    return subject, Bank(subject, space), HeldOut(subject, space)


def context(bank: Bank, space: SearchSpace, directory: Path) -> TrialContext:
    """What the trials of one sweep share."""
    subject = grounds()[0]
    return TrialContext(bank, subject, subject.baseline(bank.evaluation()), space.training, directory.resolve())


def train(assignments: Iterable[Assignment], shared: TrialContext) -> None:
    """Train what has no record yet."""
    shared.directory.mkdir(parents=True, exist_ok=True)
    for one in assignments:
        path = trial_directory(shared.directory, one.uid) / "record.json"
        if not path.is_file():
            record = TrialRun(one, shared, lambda _: None).run()
            path.parent.mkdir(parents=True, exist_ok=True)
            write_record(path, record, durable=False)


def sweep(name: str, architecture: str, seed: int, num_tokens: int = NUM_TOKENS) -> Path:
    """A sweep and its confirmation; what is there already is kept."""
    directory = BUILD / name
    subject, rows, held_out = grounds()
    space = space_of(architecture, seed, num_tokens)
    shared = context(rows, space, directory)
    proposals = Proposals.of(space.ranges(architecture), derive_seed(seed, "proposals", architecture))
    train(
        (
            Assignment(
                uid := f"{architecture}-{number:04d}",
                architecture,
                number,
                proposals.params(proposals.point(number)),
                derive_seed(seed, "trial", uid),
                0,
            )
            for number in range(TRIALS)
        ),
        shared,
    )
    record = SweepRecord(
        name=name,
        digest=space.digest(),
        space=space.model_dump(mode="json"),
        seed=seed,
        status="completed",
        reference=reference_point(space, shared.baseline),
        loss_name=subject.loss_name,
        loss_unit=subject.loss_unit,
        subject=subject.describe(),
        architectures={architecture: ArchitecturePlan(trials=TRIALS, startup=TRIALS)},
    )
    write_record(directory / SWEEP_FILE, record, durable=False)
    confirm(directory, record, context(held_out, space, directory / CONFIRM_FOLDER))
    return directory


def confirm(directory: Path, sweep_record: SweepRecord, shared: TrialContext) -> None:
    """Train its best configurations again, chosen and seeded as ``confirm`` does."""
    if (shared.directory / CONFIRM_FILE).is_file():
        return
    plan = plan_confirm(directory, ConfirmRequest(seeds=SEEDS))
    train(plan.pending, shared)
    record = ConfirmRecord(
        **{
            **sweep_record.model_dump(exclude={"kind"}),
            "name": f"{sweep_record.name}/{CONFIRM_FOLDER}",
            "bank": {"evaluation_digest": "held-out rows", "evaluation_rows": 4_000},
            "margin": plan.request.margin,
            "seeds": plan.seeds,
            "configurations": plan.configurations,
        }
    )
    write_record(shared.directory / CONFIRM_FILE, record, durable=False)


def winners(data: ReportData) -> set[str]:
    """Sweeps that the report says are better at anything."""
    rows = data.cards["comparison"]["comparisons"]
    return {row["winner"].partition("/")[0] for row in rows if row["winner"] is not None}


def compared(pairs: Iterable[tuple[Path, Path]]) -> Count:
    """What the report says about pairs of sweeps of which the first is at least as good."""
    claims, right, differences = 0, 0, []
    for first, second in pairs:
        data = build_report([first, second], cards=[card for card in discover() if card.name == "comparison"])
        assert not data.card_errors, data.card_errors
        found = winners(data)
        claims += bool(found)
        right += found == {first.name}
        area = next(row for row in data.cards["comparison"]["comparisons"] if row["endpoint"] == "hypervolume")
        differences.append(100 * area["difference"])
    return Count(claims, right, len(differences), differences)


def measure(architecture: str, repetitions: int) -> tuple[Count, Count]:
    """The same against itself, and against a part of the training rows."""
    same, planted = [], []
    for number in range(repetitions):
        names = [f"{architecture}-{number:02d}-{kind}" for kind in ("a", "b", f"rows-{HANDICAP}")]
        a, b = (sweep(names[place], architecture, 1000 * place + number) for place in (0, 1))
        short = sweep(names[2], architecture, 2000 + number, NUM_TOKENS // HANDICAP)
        same.append((a, b))
        planted.append((a, short))
        sys.stdout.write(f"{architecture} {number + 1}/{repetitions}\n")
        sys.stdout.flush()
    return compared(same), compared(planted)


def row(architecture: str, what: str, count: Count, expected: str) -> str:
    """One line of the table."""
    sizes = [abs(one) for one in count.differences]
    return (
        f"| {architecture} | {what} | {count.total} | {count.claims} | {count.right} | {expected} "
        f"| {sum(sizes) / len(sizes):.2f} (largest {max(sizes):.2f}) |"
    )


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--architectures", nargs="+", default=list(ARCHITECTURES))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/self_comparison.md"))
    arguments = parser.parse_args()
    lines = [
        "# The report on an architecture against itself",
        "",
        f"`python benchmarks/self_comparison.py --repetitions {arguments.repetitions} "
        f"--architectures {' '.join(arguments.architectures)}`, Python "
        f"{platform.python_version()}, {platform.machine()}. Each sweep: {TRIALS} trials, its best configurations "
        f"confirmed with {SEEDS} seeds. A claim is a corrected p of at most 0.05 at any endpoint, hypervolume or "
        "delta-CE at a matched L0. Right: every claim names the better sweep.",
        "",
        "| architecture | second sweep | repetitions | with a claim | right | expected | mean difference, points |",
        "|---|---|---:|---:|---:|---|---:|",
    ]
    failed = False
    for architecture in arguments.architectures:
        same, planted = measure(architecture, arguments.repetitions)
        lines.append(row(architecture, "the same, another seed", same, "at most 1 of 20 with a claim"))
        lines.append(row(architecture, f"1/{HANDICAP} of the training rows", planted, "right in all"))
        failed |= 20 * same.claims > same.total or planted.right < planted.total
    arguments.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.stdout.write("\n".join(lines) + "\n")
    if failed:
        raise SystemExit("the report claimed what is not so, or missed what is")


if __name__ == "__main__":
    main()
