"""Harvesters: one process for each GPU, which holds the model while it writes shard after shard.

They end with the harvest, and the memory that model and CUDA took on the GPUs is free again before the first trial. A
harvester whose GPU is taken by somebody else delays nothing: it is given work when it has started.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ray

from vsae_search.activations.harvest import WrittenShard, ensure_shard
from vsae_search.activations.tasks import MAX_RETRIES, TICK_S, ObjectRef, fetch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vsae_search.activations.files import ShardRequest
    from vsae_search.activations.progress import ProgressReporter
    from vsae_search.subjects import Subject


class Harvester:
    """Holds a GPU, and the model from its first shard on."""

    def start(self) -> None:
        """Return once there is a GPU."""

    def ensure(self, subject: Subject, request: ShardRequest, directory: Path) -> WrittenShard:
        """Make sure that a shard file is on disk, as ``ensure_shard`` does."""
        return ensure_shard(subject, request, directory)


def write_on_gpus(
    subject_ref: ObjectRef, requests: Sequence[ShardRequest], home: Path, report: ProgressReporter
) -> dict[int, WrittenShard]:
    """Have every file written (or found), by as many harvesters as there are GPUs; the first error is raised."""
    count = min(int(ray.cluster_resources()["GPU"]), len(requests))
    options = {"num_cpus": 0, "num_gpus": 1, "max_restarts": -1, "max_task_retries": MAX_RETRIES}
    harvesters = [ray.remote(**options)(Harvester).remote() for _ in range(count)]
    waiting = list(reversed(range(len(requests))))
    written: dict[int, WrittenShard] = {}
    pending: dict[ObjectRef, tuple[Any, int | None]] = {one.start.remote(): (one, None) for one in harvesters}
    try:
        while len(written) < len(requests):
            ready, _ = ray.wait(list(pending), num_returns=1, timeout=TICK_S)
            if not ready:
                report.tick()
            for reference in ready:
                harvester, index = pending.pop(reference)
                result = fetch(reference)
                if index is not None:
                    written[index] = result
                    report.finish(index)
                if waiting:
                    index = waiting.pop()
                    pending[harvester.ensure.remote(subject_ref, requests[index], home)] = (harvester, index)
    finally:
        for harvester in harvesters:
            ray.kill(harvester)
    return written
