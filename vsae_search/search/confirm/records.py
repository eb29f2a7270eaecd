"""What a confirmation leaves on disk, and what it says about every configuration.

``<sweep>/confirm/`` is laid out like a sweep directory: ``confirm.json`` for the confirmation as a whole, and
``trials/<uid>-r<replicate>/record.json`` for one configuration trained with one seed.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from vsae_search.search.records import Record, SweepRecord, TrialRecord, read_record, read_trials

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

CONFIRM_FOLDER = "confirm"
CONFIRM_FILE = "confirm.json"
_UID = re.compile(r"(?P<configuration>.+-\d{4,})-r(?P<replicate>\d{2,})")


class Configuration(Record):
    """A configuration that is trained again.

    Attributes:
        uid: The trial of the search that had it.
        architecture: Registered name.
        rank: 0 for the frontier of its architecture, 1 for what is the frontier without rank 0, and so on; as it was
            when the configuration was chosen first.
    """

    uid: str
    architecture: str
    rank: int


class ConfirmRecord(SweepRecord):
    """The confirmation of a sweep; its trials are configurations trained again with new seeds.

    Of the inherited fields, ``name`` is ``<sweep>/confirm``; ``architectures`` holds the trainings of each
    architecture; ``bank`` describes the rows with the held-out set in place of the evaluation set; ``reference`` stays
    empty, because the sweep's holds and replicates of one configuration span no hypervolume together.

    Attributes:
        kind: Tells it from the record of a sweep.
        margin: Largest rank that was chosen last.
        max_configurations: Most configurations of one architecture that were chosen last; None for the default.
        seeds: Seed of each replicate, by its number; it decides the initial weights and the order of the data.
        configurations: Everything that has been chosen so far.
    """

    kind: Literal["confirm"] = "confirm"
    margin: int
    max_configurations: int | None = None
    seeds: tuple[int, ...]
    configurations: tuple[Configuration, ...]


@dataclass(frozen=True)
class Confirmed:
    """One configuration: what the search measured and what its replicates measured.

    Attributes:
        uid: The trial of the search.
        architecture: Registered name.
        rank: Rank within its architecture when it was chosen.
        params: Hyper-parameters.
        search: Metrics of the search: one seed, the evaluation rows, and chosen for being good.
        seeds: Seeds of the replicates that have ended.
        replicates: Their records, in the same order: completed, diverged or failed.
    """

    uid: str
    architecture: str
    rank: int
    params: dict[str, Any]
    search: dict[str, float]
    seeds: tuple[int, ...]
    replicates: tuple[TrialRecord, ...]

    def values(self, metric: str) -> tuple[float | None, ...]:
        """A metric of every replicate; None for one that diverged or failed, or where it is not finite."""
        return tuple(_finite(replicate, metric) for replicate in self.replicates)

    def mean(self, metric: str) -> float | None:
        """Mean over the replicates that completed; None when there is none."""
        found = [value for value in self.values(metric) if value is not None]
        return math.fsum(found) / len(found) if found else None

    def spread(self, metric: str) -> float | None:
        """Standard deviation over the replicates that completed (divisor n - 1); None for fewer than two."""
        found = [value for value in self.values(metric) if value is not None]
        if len(found) < 2:
            return None
        mean = math.fsum(found) / len(found)
        return math.sqrt(math.fsum((value - mean) ** 2 for value in found) / (len(found) - 1))

    def gap(self, metric: str) -> float | None:
        """Optimism gap: what the search measured minus the mean of the replicates.

        Of a metric that is minimised it is negative when the search was too optimistic: a configuration is chosen for
        a good score, and part of a good score is luck. The two are measured on different rows.
        """
        mean, search = self.mean(metric), self.search.get(metric)
        return None if mean is None or search is None else search - mean


def replicate_uid(configuration: str, replicate: int) -> str:
    """Uid of a replicate: ``topk-0003-r02``."""
    return f"{configuration}-r{replicate:02d}"


def split_uid(uid: str) -> tuple[str, int] | None:
    """Configuration and number of a replicate; None for the uid of a search's trial."""
    found = _UID.fullmatch(uid)
    return None if found is None else (found["configuration"], int(found["replicate"]))


def load_confirm(directory: Path) -> tuple[ConfirmRecord, list[TrialRecord]] | None:
    """Read the confirmation of a sweep, finished or not.

    Args:
        directory: The sweep directory.

    Returns:
        The confirmation and the replicates that have ended, by uid; None when the sweep has not been confirmed.

    Raises:
        CorruptFile: A record cannot be read.
    """
    home = directory / CONFIRM_FOLDER
    if not (home / CONFIRM_FILE).is_file():
        return None
    return read_record(home / CONFIRM_FILE, ConfirmRecord), list(read_trials(home).values())


def pair_with_search(
    record: ConfirmRecord, trials: Iterable[TrialRecord], replicates: Iterable[TrialRecord]
) -> tuple[Confirmed, ...]:
    """Put the search's and the replicates' numbers of every configuration side by side.

    Args:
        record: The confirmation.
        trials: The trials of the search.
        replicates: The replicates that have ended.

    Returns:
        One entry per configuration in the order of the record, those without a replicate included.
    """
    searched = {trial.uid: trial for trial in trials}
    found: dict[str, dict[int, TrialRecord]] = {}
    for replicate in replicates:
        parts = split_uid(replicate.uid)
        if parts is not None:
            found.setdefault(parts[0], {})[parts[1]] = replicate
    return tuple(
        _confirmed(chosen, searched[chosen.uid], found.get(chosen.uid, {}), record.seeds)
        for chosen in record.configurations
        if chosen.uid in searched
    )


def _confirmed(
    chosen: Configuration, trial: TrialRecord, replicates: Mapping[int, TrialRecord], seeds: tuple[int, ...]
) -> Confirmed:
    numbers = sorted(number for number in replicates if number < len(seeds))
    return Confirmed(
        uid=chosen.uid,
        architecture=chosen.architecture,
        rank=chosen.rank,
        params=trial.params,
        search=trial.metrics,
        seeds=tuple(seeds[number] for number in numbers),
        replicates=tuple(replicates[number] for number in numbers),
    )


def _finite(record: TrialRecord, metric: str) -> float | None:
    value = record.metrics.get(metric, math.nan) if record.state == "completed" else math.nan
    return value if math.isfinite(value) else None
