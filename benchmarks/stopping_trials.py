"""Real trials outside a sweep: one process, no Ray, every rung's numbers kept. Used by ``stopping.py``."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from vsae_search.activations import BatchStream
from vsae_search.saes import config_classes
from vsae_search.search.assignment import Assignment
from vsae_search.search.propose.proposals import Proposals
from vsae_search.search.reference import reference_point
from vsae_search.search.seeds import derive_seed
from vsae_search.search.trial import TrialContext, TrialRun
from vsae_search.space import load_space
from vsae_search.subjects import build_subject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vsae_search.search.records import ReferenceRecord, TrialRecord
    from vsae_search.space import SearchSpace
    from vsae_search.subjects import Rows

BUILD = Path("build/stopping")
RUNGS = (0.125, 0.25, 0.5, 1.0)
SPACES: dict[str, dict[str, Any]] = {
    "toy": {
        "architectures": ("relu", "topk", "jumprelu", "vsae_iso"),
        "overrides": ["activations.num_tokens=200000", "activations.evaluation_tokens=4000"],
        "num_tokens": 200_000,
    },
    "tiny_lm": {
        "architectures": ("relu", "topk", "vsae_iso"),
        "overrides": ["activations.num_tokens=100000", "activations.evaluation_tokens=2560"],
        "num_tokens": 100_000,
    },
}
"""Search spaces of the repository with shorter trials; the ranges of hyper-parameters are theirs."""


class Halted(Exception):
    """Raised inside a trial to stop it at a rung."""


class Bank:
    """The bank of a subject in the memory of this process."""

    def __init__(self, subject: Any, space: SearchSpace) -> None:
        spec = space.activations
        self._rows_ND = subject.harvest(0, spec.num_tokens, "train").x_ND
        self._evaluation = subject.harvest(0, spec.evaluation_tokens, "evaluation")
        self._calibration = subject.harvest(0, 4096, "calibration").x_ND
        scale = float(np.sqrt(subject.d_in / np.square(self._rows_ND.astype(np.float64)).sum(axis=1).mean()))
        self.manifest = SimpleNamespace(scale=scale)

    def stream(self, *, batch_size: int, seed: int, device: str = "cpu") -> Iterator[Any]:
        """Endless scaled batches."""
        rows = self._rows_ND
        return BatchStream(
            lambda _: rows,
            [len(rows)],
            d_in=rows.shape[1],
            dtype="fp32",
            scale=self.manifest.scale,
            batch_size=batch_size,
            seed=seed,
            device=device,
        )

    def evaluation(self) -> Rows:
        """The fixed evaluation rows."""
        rows: Rows = self._evaluation
        return rows

    def calibration(self) -> Any:
        """The calibration rows."""
        return self._calibration


@dataclass
class Laboratory:
    """One search space with short trials, ready to run them one after the other.

    Attributes:
        name: Name of a file in ``search_spaces/``.
        rungs: Where a trial is evaluated.
    """

    name: str
    rungs: tuple[float, ...] = RUNGS

    @cached_property
    def space(self) -> SearchSpace:
        """The search space with short trials and many rungs."""
        setting = SPACES[self.name]
        rungs = ", ".join(map(str, self.rungs))
        overrides = [
            *setting["overrides"],
            f"training.num_tokens={setting['num_tokens']}",
            f"training.rungs=[{rungs}]",
        ]
        return load_space(Path(f"search_spaces/{self.name}.yaml"), config_classes(), overrides=overrides)

    @property
    def architectures(self) -> tuple[str, ...]:
        """Those that take part."""
        names: tuple[str, ...] = SPACES[self.name]["architectures"]
        return names

    @cached_property
    def context(self) -> TrialContext:
        """Subject, rows and baseline; the subject's preparation is kept under ``build/``."""
        subject = build_subject(self.space.subject, BUILD / "bank")
        bank = Bank(subject, self.space)
        baseline = subject.baseline(bank.evaluation())
        return TrialContext(bank, subject, baseline, self.space.training, Path(tempfile.mkdtemp(prefix="stopping-")))

    @cached_property
    def reference(self) -> ReferenceRecord:
        """The sweep's reference point."""
        return reference_point(self.space, self.context.baseline)

    def proposals(self, architecture: str, seed: int = 0) -> Proposals:
        """The searched hyper-parameters of an architecture."""
        return Proposals.of(self.space.ranges(architecture), derive_seed(seed, "spread", architecture))

    def run(self, assignment: Assignment, on_rung: Callable[[TrialRecord], bool] = lambda _: False) -> TrialRecord:
        """Train one trial; ``on_rung`` says True to stop it."""
        last: list[TrialRecord] = []

        def report(record: TrialRecord) -> None:
            last.append(record)
            if on_rung(record):
                raise Halted

        try:
            return TrialRun(assignment, self.context, report).run()
        except Halted:
            return last[-1]


def collect(name: str, per_architecture: int) -> Path:
    """Train random configurations of every architecture and keep their numbers at every rung; goes on where it was."""
    laboratory = Laboratory(name)
    path = BUILD / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    known = {json.loads(line)["uid"] for line in path.read_text().splitlines()} if path.is_file() else set()
    reference = laboratory.reference
    (BUILD / f"{name}.reference.json").write_text(json.dumps({"l0": reference.l0, "delta_ce": reference.delta_ce}))
    with path.open("a") as file:
        for number in range(per_architecture):
            for architecture in laboratory.architectures:
                uid = f"{architecture}-{number:04d}"
                if uid not in known:
                    file.write(json.dumps(_trial(laboratory, architecture, number, uid)) + "\n")
                    file.flush()
    return path


def _trial(laboratory: Laboratory, architecture: str, number: int, uid: str) -> dict[str, Any]:
    proposals = laboratory.proposals(architecture)
    random = np.random.default_rng(derive_seed("table", uid))
    stored = {key: dimension.at(random.random()) for key, dimension in proposals.dimensions.items()}
    params = proposals.params(stored)
    seed = derive_seed("table seed", uid)
    seconds: list[float] = []

    def note(record: TrialRecord) -> bool:
        seconds.append(record.train_s + record.evaluate_s)
        return False

    record = laboratory.run(Assignment(uid, architecture, number, params, seed, 0), note)
    return {
        "uid": uid,
        "architecture": architecture,
        "params": params,
        "state": record.state,
        "rungs": [[rung.fraction, rung.metrics["l0"], rung.metrics["delta_ce"]] for rung in record.rungs],
        "seconds": [*seconds, record.train_s + record.evaluate_s],
    }
