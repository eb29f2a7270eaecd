"""How much of the machines a session used: what was planned, and what the trials did with it."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from vsae_search.search.resources.gpu import read_cards

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vsae_search.search.records import RungRecord, SweepRecord, TrialRecord
    from vsae_search.search.resources.gpu import Card
    from vsae_search.search.resources.packing import Packing

_PERIOD_S = 5.0


class UtilisationMeter:
    """A listener that adds up the work of the trials that start in this session.

    The clock runs from the first trial's start to the last one's end. A trial that is repeated, or interrupted, counts
    with what its last record says of it.

    Args:
        cpus: CPUs of the cluster.
        gpus: GPUs of the cluster.
        concurrent: Trials that run at the same time.
        packing: What each of them gets.
        cards: Reads the GPUs of this machine; those of other nodes are not seen.
        clock: Seconds that only ever increase.
    """

    def __init__(
        self,
        *,
        cpus: float,
        gpus: float,
        concurrent: int,
        packing: Packing,
        cards: Callable[[], list[Card]] = read_cards,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.cpus, self.gpus, self.concurrent, self.packing = cpus, gpus, concurrent, packing
        self._clock, self._sampler = clock, _CardSampler(cards) if gpus else None
        self._running: set[str] = set()
        self._begun: float | None = None
        self._ended = 0.0
        self._trained = self._worked = 0.0

    @classmethod
    def of(cls, resources: Mapping[str, Any], packing: Packing) -> UtilisationMeter:
        """The meter of a session, from the ``resources`` of its sweep's record."""
        there = resources["cluster"]
        return cls(cpus=there["CPU"], gpus=there["GPU"], concurrent=resources["max_concurrent"], packing=packing)

    def on_sweep_start(self, record: SweepRecord) -> None:
        """Nothing."""

    def on_trial_start(self, uid: str, architecture: str, params: dict[str, Any]) -> None:
        """Start the clock with the first trial."""
        del architecture, params
        self._running.add(uid)
        if self._begun is None:
            self._begun = self._clock()
            if self._sampler is not None:
                self._sampler.start()

    def on_rung(self, uid: str, rung: RungRecord) -> None:
        """Nothing."""

    def on_trial_end(self, trial: TrialRecord) -> None:
        """Add the trial's work; one that another session trained is not this one's."""
        if trial.uid not in self._running:
            return
        self._running.discard(trial.uid)
        self._ended = self._clock()
        cpus = self.packing.share(trial.architecture, trial.params).cpus
        # what an earlier attempt trained before this session is not in the wall time that the driver saw
        self._trained += cpus * min(trial.train_s, trial.wall_s)
        self._worked += cpus * min(trial.train_s + trial.evaluate_s, trial.wall_s)

    def on_sweep_end(self, record: SweepRecord) -> None:
        """Stop looking at the GPUs."""
        del record
        if self._sampler is not None:
            self._sampler.stop()

    def summary(self) -> dict[str, Any]:
        """Parts of the cluster, 0 to 1; None for what is not known.

        Returns:
            ``cpu_planned`` and ``gpu_planned``: what the trials that run at the same time were given;
            ``cpu_training`` and ``cpu_busy``: trial seconds in training, and in training or evaluation, times their
            CPUs, over the session's seconds times the cluster's CPUs; ``gpu_busy`` and ``gpu_memory``: means over the
            GPUs of the driver's machine; ``wall_s``: seconds from the first trial's start to the last one's end.
        """
        shares = self.packing.all
        wall_s = max(self._ended - self._begun, 0.0) if self._begun is not None else 0.0
        capacity = wall_s * self.cpus
        planned = {
            "cpu_planned": _planned(self.concurrent, [share.cpus for share in shares], self.cpus),
            "gpu_planned": _planned(self.concurrent, [share.gpus for share in shares], self.gpus),
        }
        return planned | {
            "cpu_training": self._trained / capacity if capacity else None,
            "cpu_busy": self._worked / capacity if capacity else None,
            "gpu_busy": self._sampler.busy() if self._sampler is not None else None,
            "gpu_memory": self._sampler.memory() if self._sampler is not None else None,
            "wall_s": wall_s,
        }


def _planned(concurrent: int, shares: list[float], there: float) -> float | None:
    """The part that so many trials of the mean share take; never more than there is."""
    return min(1.0, concurrent * sum(shares) / len(shares) / there) if there > 0 else None


class _CardSampler:
    """Looks at the cards now and then, in a thread of its own."""

    def __init__(self, read: Callable[[], list[Card]]) -> None:
        self._read, self._samples = read, list[tuple[float, float]]()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="gpu-sampler", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def busy(self) -> float | None:
        return _mean([busy for busy, _ in self._samples])

    def memory(self) -> float | None:
        return _mean([memory for _, memory in self._samples])

    def _run(self) -> None:
        while not self._stop.is_set():
            cards = self._read()
            if not cards:
                return
            busy = sum(card.busy for card in cards) / len(cards)
            memory = sum(card.used_bytes for card in cards) / sum(card.total_bytes for card in cards)
            self._samples.append((busy, memory))
            self._stop.wait(_PERIOD_S)


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
