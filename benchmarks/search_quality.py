"""What each sampler finds on real trials: hypervolume against training tokens, with seeds.

    nice -n 5 .venv/bin/python benchmarks/search_quality.py --subject toy --samplers random tpe gp --seeds 3

Trials train and are evaluated as in a sweep (``TrialRun``), on proposals of the sweep's own studies, one after the
other in one process and without Ray, so that a figure depends on the search alone. The hypervolume of an architecture
is taken on (log2 L0, delta-CE) as in a report, normalised by its box, and averaged over the architectures.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from samplers import write_section

from vsae_search.activations import BatchStream
from vsae_search.frontier import hypervolume
from vsae_search.saes import config_classes
from vsae_search.search.propose.planning import objectives_of, open_studies
from vsae_search.search.propose.searcher import judge, told_of
from vsae_search.search.reference import reference_point
from vsae_search.search.trial import TrialContext, TrialRun
from vsae_search.space import load_space
from vsae_search.subjects import build_subject

if TYPE_CHECKING:
    from collections.abc import Callable

    from vsae_search.search.assignment import Assignment
    from vsae_search.search.records import TrialRecord
    from vsae_search.space import SearchSpace

SPACES = Path(__file__).parents[1] / "search_spaces"
SUBJECTS: dict[str, list[str]] = {
    "toy": [
        "activations.num_tokens=65536",
        "activations.evaluation_tokens=4096",
        "activations.calibration_tokens=4096",
        "training.num_tokens=131072",
        "training.batch_size=512",
        "training.rungs=[1.0]",
        "subject.steps=2000",
    ],
    "tiny_lm": [
        "activations.num_tokens=65536",
        "activations.evaluation_tokens=2048",
        "activations.calibration_tokens=4096",
        "training.num_tokens=131072",
        "training.batch_size=1024",
        "training.rungs=[1.0]",
    ],
}
KEPT = ("relu", "topk", "jumprelu", "vsae_iso")
CHECKPOINTS = (0.25, 0.5, 0.75, 1.0)


class MemoryBank:
    """The activation bank of one process."""

    def __init__(self, space: SearchSpace, cache: Path) -> None:
        spec = space.activations
        self.subject = build_subject(space.subject, cache)
        self.rows_ND = self.subject.harvest(0, spec.num_tokens, "train").x_ND
        self._evaluation = self.subject.harvest(0, spec.evaluation_tokens, "evaluation")
        self._calibration = self.subject.harvest(0, spec.calibration_tokens, "calibration").x_ND
        scale = float(np.sqrt(self.subject.d_in / np.square(self.rows_ND).sum(axis=1).mean()))
        self.manifest = SimpleNamespace(scale=scale)

    def stream(self, *, batch_size: int, seed: int, device: str = "cpu") -> BatchStream:
        """Endless scaled batches."""
        return BatchStream(
            lambda _: self.rows_ND,
            [len(self.rows_ND)],
            d_in=self.subject.d_in,
            dtype="fp32",
            scale=self.manifest.scale,
            batch_size=batch_size,
            seed=seed,
            device=device,
        )

    def evaluation(self) -> Any:
        """The fixed evaluation rows."""
        return self._evaluation

    def calibration(self) -> Any:
        """The calibration rows."""
        return self._calibration


@dataclass
class Searched:
    """One sampler with one seed.

    Attributes:
        records: Trials in the order in which they ran.
        tokens: Training rows that each of them saw.
        suggest_s: Seconds spent on proposals.
    """

    records: list[TrialRecord] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    suggest_s: float = 0.0

    def until(self, budget: float) -> list[TrialRecord]:
        """The trials that had ended when so many rows were spent."""
        spent = np.cumsum(self.tokens)
        return [record for record, total in zip(self.records, spent, strict=True) if total <= budget]


def search(space: SearchSpace, context: TrialContext, run: Callable[[Assignment], TrialRecord]) -> Searched:
    """Spend the budget of a search space.

    Args:
        space: The search space.
        context: What all trials share.
        run: Runs one trial; a trial that is stopped early has a record with fewer tokens at its last rung.
    """
    objectives = objectives_of(space, reference_point(space, context.baseline))
    studies, made = open_studies(space, f"sqlite:///{context.directory}/optuna.db"), Searched()
    while True:
        begun = time.monotonic()
        one = studies.ask()
        made.suggest_s += time.monotonic() - begun
        if one is None:
            break
        record = judge(run(one))
        studies.tell(one.uid, told_of(record, objectives))
        made.records.append(record)
        made.tokens.append(record.rungs[-1].tokens if record.rungs else space.training.num_tokens)
    studies.close()
    return made


def volume(records: list[TrialRecord], names: list[str], reference: tuple[float, float]) -> float:
    """Normalised hypervolume of completed trials, mean over architectures."""
    volumes = []
    for name in names:
        own = [one for one in records if one.architecture == name and one.state == "completed"]
        points = [(one.metrics["l0"], one.metrics["delta_ce"]) for one in own]
        volumes.append(hypervolume(np.array(points).reshape(-1, 2), reference).normalised)
    return float(np.mean(volumes))


def one_run(subject: str, sampler: str, seed: int, trials: int, bank_root: Path) -> tuple[Searched, list[float]]:
    """Search with one sampler and one seed.

    Returns:
        The trials, and the hypervolume at each checkpoint of the tokens.
    """
    path = SPACES / f"{subject}.yaml"
    settings = [*SUBJECTS[subject], f"search.sampler={sampler}", f"seed={seed}"]
    space = load_space(path, config_classes(), overrides=settings)
    kept = {name: space.architectures[name] for name in KEPT if name in space.architectures}
    defaults = space.search.model_copy(update={"startup_trials": None, "trials": trials})
    space = space.model_copy(update={"architectures": kept, "search": defaults})
    bank = MemoryBank(space, bank_root)
    baseline = bank.subject.baseline(bank.evaluation())
    with tempfile.TemporaryDirectory() as folder:
        context = TrialContext(
            bank=bank, subject=bank.subject, baseline=baseline, training=space.training, directory=Path(folder)
        )

        def run(one: Assignment) -> TrialRecord:
            return TrialRun(one, context, lambda _: None).run()

        made = search(space, context, run)
    point = reference_point(space, baseline)
    reference = (point.l0, point.delta_ce)
    total = sum(made.tokens)
    return made, [volume(made.until(part * total), list(kept), reference) for part in CHECKPOINTS]


def table(subject: str, samplers: list[str], seeds: int, trials: int) -> str:
    """The table of a subject."""
    torch.set_num_threads(1)
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as bank_root:
        for sampler in samplers:
            runs = [one_run(subject, sampler, seed, trials, Path(bank_root)) for seed in range(seeds)]
            if not lines:
                lines = _head(subject, seeds, trials, runs[0][0])
            found = np.array([volumes for _, volumes in runs])
            deviation = found.std(axis=0, ddof=1) if seeds > 1 else np.full(len(CHECKPOINTS), np.nan)
            cells = [f"{mean:.3f} ({sd:.3f})" for mean, sd in zip(found.mean(axis=0), deviation, strict=True)]
            each = ", ".join(f"{volumes[-1]:.3f}" for _, volumes in runs)
            suggest_s = float(np.mean([made.suggest_s for made, _ in runs]))
            lines.append(f"| {sampler} | {' | '.join(cells)} | {each} | {suggest_s:.1f} |")
            print(lines[-1], flush=True)
    return "\n".join(lines)


def _head(subject: str, seeds: int, trials: int, made: Searched) -> list[str]:
    total = sum(made.tokens) / 1e6
    names = ", ".join(dict.fromkeys(record.architecture for record in made.records))
    columns = " | ".join(f"{part * total:.2f} M tokens" for part in CHECKPOINTS)
    return [
        f"Subject `{subject}`; {names}; {trials} trials of {made.tokens[0]:,} training tokens, one after the other; "
        f"{seeds} seeds. Normalised hypervolume, mean over architectures, as mean over seeds (standard deviation).",
        "",
        f"| sampler | {columns} | each seed, at the end | seconds to propose |",
        f"|---|{'---|' * len(CHECKPOINTS)}---|---|",
    ]


def main() -> None:
    """Run what was asked for and write its section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subject", choices=list(SUBJECTS), default="toy")
    parser.add_argument("--samplers", nargs="+", default=["random", "tpe", "gp"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=32)
    options = parser.parse_args()
    text = table(options.subject, options.samplers, options.seeds, options.trials)
    write_section(f"Real trials: hypervolume against training tokens, subject {options.subject}", text)


if __name__ == "__main__":
    main()
