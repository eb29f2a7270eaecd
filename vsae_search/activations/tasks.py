"""The Ray tasks of a bank, and how they are handed out.

Every object of a bank is the result of a task that can be run again: a node that dies costs a reload. The tasks ask for
no CPU, because a trial that waits for a lost shard keeps its own CPU, and in a cluster packed with such trials a task
that wanted one would never start. Since Ray would then start every task at once, each in a process of its own, they
are handed out a few at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import ray

from vsae_search.activations.harvest import ensure_shard, load_or_harvest
from vsae_search.errors import VsaeSearchError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vsae_search.activations.progress import ProgressReporter

ObjectRef: TypeAlias = Any
"""Ray has no types that a checker can follow."""

MAX_RETRIES = 5
"""How often a task is run again when its process or its node dies."""
TICK_S = 1.0
"""How often whoever waits is told that it goes on."""
_MAX_TASKS = 64

_OPTIONS = {"num_cpus": 0, "max_retries": MAX_RETRIES, "scheduling_strategy": "SPREAD"}
ensure_task = ray.remote(**_OPTIONS)(ensure_shard)
"""Writes a file of a bank; returns what it wrote."""
load_task = ray.remote(**_OPTIONS, num_returns=2)(load_or_harvest)
"""Loads a file of a bank; returns the arrays, and their size as an acknowledgement."""


def fetch(reference: ObjectRef) -> Any:
    """Return an object, waiting for it to be rebuilt if it was lost.

    Raises:
        VsaeSearchError: The task that makes it failed with this error; it is raised as it was there.
    """
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, VsaeSearchError):
            raise error.cause from None
        raise


def run_windowed(submits: Mapping[int, Callable[[], ObjectRef]], report: ProgressReporter) -> dict[int, Any]:
    """Submit tasks, one for each CPU at a time, and return their (small) results; the first error is raised.

    Args:
        submits: Submits the task of each file, by the file's number.
        report: Told of every file that is finished.
    """
    window = min(_MAX_TASKS, max(1, int(ray.cluster_resources().get("CPU", 1))))
    waiting = sorted(submits, reverse=True)
    results: dict[int, Any] = {}
    pending: dict[ObjectRef, int] = {}
    while waiting or pending:
        while waiting and len(pending) < window:
            index = waiting.pop()
            pending[submits[index]()] = index
        ready, _ = ray.wait(list(pending), num_returns=1, timeout=TICK_S)
        if not ready:
            report.tick()
        for reference in ready:
            index = pending.pop(reference)
            results[index] = fetch(reference)
            report.finish(index)
    return results
