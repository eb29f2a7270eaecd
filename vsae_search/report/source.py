"""Reading a sweep directory: the only place of the report that looks at files."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vsae_search.report.confirmed import ConfirmSummary, read_confirmation
from vsae_search.report.links import RunAddress, run_url, safe_base
from vsae_search.report.references import ImportedSae, read_references
from vsae_search.search.records import SWEEP_FILE, TRIALS_FOLDER, SweepRecord, TrialRecord, load_sweep
from vsae_search.tracking.index import RunIndex, read_run_index

if TYPE_CHECKING:
    from pathlib import Path

SPACE_FILE = "space.yaml"
_LARGEST_SPACE_BYTES = 1_000_000

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """A sweep as it lies on disk.

    Attributes:
        directory: The sweep directory.
        record: The sweep.
        trials: The trials that ended, in uid order.
        runs: Their MLflow runs; None when nothing has been recorded there.
        space_yaml: Text of the search-space file; empty when it is missing or larger than a megabyte.
        confirmation: Its retrained configurations; None when it has not been confirmed.
        references: Autoencoders from elsewhere, measured on its evaluation rows.
        parts: The single sweeps behind a comparison; empty for a single sweep.
    """

    directory: Path
    record: SweepRecord
    trials: tuple[TrialRecord, ...]
    runs: RunIndex | None
    space_yaml: str
    confirmation: ConfirmSummary | None = None
    references: tuple[ImportedSae, ...] = ()
    parts: tuple[Source, ...] = ()

    def part(self, uid: str) -> tuple[Source, str]:
        """The single sweep that a trial belongs to, and the trial's uid in there."""
        for part in self.parts:
            if uid.startswith(f"{part.record.name}/"):
                return part, uid.removeprefix(f"{part.record.name}/")
        return self, uid

    def folder(self, uid: str) -> Path:
        """Where a trial keeps its files."""
        part, own = self.part(uid)
        return part.directory / TRIALS_FOLDER / own

    def d_sae(self, trial: TrialRecord) -> int | None:
        """Number of latents of a trial: its hyper-parameter, or the architecture's default from the stored SAE."""
        value = trial.params.get("d_sae")
        if value is None:
            value = self._stored_config(trial.uid).get("d_sae")
        return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None

    def run_url(self, uid: str, tracking_url: str | None) -> str | None:
        """The page of a trial's MLflow run, when its address is known and safe.

        Args:
            uid: The trial.
            tracking_url: Address of the server; None takes the one the sweep was recorded at.
        """
        part, own = self.part(uid)
        if part.runs is None or own not in part.runs.trials:
            return None
        address = RunAddress(part.runs.experiment_id, part.runs.trials[own])
        return run_url(safe_base(tracking_url or part.runs.address), address)

    def checksums(self) -> dict[str, str]:
        """SHA-256 of the sweep's record, its search space, and all trial records together."""
        if self.parts:
            return {f"{part.record.name}/{name}": digest for part in self.parts for name, digest in _digests(part)}
        return dict(_digests(self))

    def _stored_config(self, uid: str) -> dict[str, Any]:
        try:
            stored = json.loads((self.folder(uid) / "sae.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}  # a diverged or failed trial stores no SAE
        config = stored.get("config") if isinstance(stored, dict) else None
        return config if isinstance(config, dict) else {}


def read_source(directory: Path) -> Source:
    """Read a sweep, finished or not.

    Args:
        directory: The sweep directory.

    Raises:
        UserInputError: There is no sweep in that directory.
        CorruptFile: A record cannot be read.
    """
    record, trials = load_sweep(directory)
    return Source(
        directory=directory,
        record=record,
        trials=tuple(trials),
        runs=read_run_index(directory),
        space_yaml=_space_yaml(directory),
        confirmation=read_confirmation(directory, trials),
        references=read_references(directory, record.bank.get("evaluation_digest")),
    )


def _digests(source: Source) -> list[tuple[str, str]]:
    trials = hashlib.sha256()
    for path in sorted((source.directory / TRIALS_FOLDER).glob("*/record.json")):
        trials.update(path.parent.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    single = [
        (name, hashlib.sha256(path.read_bytes()).hexdigest())
        for name in (SWEEP_FILE, SPACE_FILE)
        if (path := source.directory / name).is_file()
    ]
    return [*single, (f"{TRIALS_FOLDER}/*/record.json", trials.hexdigest())]


def _space_yaml(directory: Path) -> str:
    path = directory / SPACE_FILE
    if not path.is_file():
        return ""
    if path.stat().st_size > _LARGEST_SPACE_BYTES:
        logger.warning("report.space_too_large path=%s", path)
        return ""
    return path.read_text(encoding="utf-8", errors="replace")
