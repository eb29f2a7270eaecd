"""Short trials before the sweep: what does a trial of each architecture and width need, on the real device?

The model, the batch and the number of latents decide the answer, so it is asked for each of them: the same code that
runs a trial trains a few steps and evaluates, and memory and time are measured while it does.
"""

from __future__ import annotations

import math
import tempfile
import threading
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import psutil
import ray
import torch

from vsae_search.errors import EnvironmentNotReady
from vsae_search.search.assignment import Assignment
from vsae_search.search.propose.proposals import Proposals
from vsae_search.search.records import REFUSED
from vsae_search.search.resources.gpu import read_cards
from vsae_search.search.resources.packing import Measured, Node, Packing, Share, cpu_share, gpu_share, share_key
from vsae_search.search.trial import TrialRun
from vsae_search.space import ChoiceRange, ConstantRange

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vsae_search.search.records import TrialRecord
    from vsae_search.search.resources.cluster import Cluster
    from vsae_search.search.trial import TrialContext
    from vsae_search.space import ResourcesSpec, SearchSpace

STEPS = 8
"""Steps of a short trial; the first half warms up, the second is timed."""
GPU_SECONDS = 2.0
"""How long a GPU is kept at it before it is asked how busy it is: the answer is a mean over about a second."""
MAX_STEPS = 2000
MAX_WIDTHS = 3
"""Most widths that are measured of one architecture; a width between two of them gets the share of the larger one."""
_POLL_S = 0.01


@dataclass(frozen=True)
class Probe:
    """One short trial.

    Attributes:
        architecture: Registered name.
        width: Number of latents; None for the architecture's default.
        params: Hyper-parameters to try one after the other, until the architecture takes them.
    """

    architecture: str
    width: int | None
    params: tuple[dict[str, Any], ...]


class Device(Protocol):
    """The memory of the device on which a short trial runs; tests stand in for it."""

    def reset(self) -> None:
        """Forget peaks and let go of unused memory."""
        ...

    def peak_bytes(self) -> int:
        """Most that torch's allocator has held since the last reset."""
        ...

    def total_bytes(self) -> int:
        """Memory of the card."""
        ...

    def busy(self) -> float | None:
        """Part of the last second in which the card was computing."""
        ...


class Processor:
    """The device of a trial without a GPU."""

    def reset(self) -> None:
        """Nothing is kept."""

    def peak_bytes(self) -> int:
        """Nothing."""
        return 0

    def total_bytes(self) -> int:
        """Nothing."""
        return 0

    def busy(self) -> float | None:
        """Not known."""
        return None


class CudaCard:
    """The GPU that Ray gave to this process."""

    def reset(self) -> None:
        """Empty the allocator's cache and forget its peak."""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()

    def peak_bytes(self) -> int:
        """Peak of what the allocator reserved, which is what other processes cannot have."""
        return int(torch.cuda.max_memory_reserved())

    def total_bytes(self) -> int:
        """Memory of the card."""
        return int(torch.cuda.get_device_properties(0).total_memory)

    def busy(self) -> float | None:
        """As nvidia-smi tells it, for the card that Ray gave; None where it cannot."""
        ids = {str(card) for card in ray.get_gpu_ids()} if ray.is_initialized() else set()
        return next((card.busy for card in read_cards() if str(card.index) in ids), None)


def packed(context: TrialContext, space: SearchSpace, cluster: Cluster) -> TrialContext:
    """The context with the share of every trial."""
    return replace(context, packing=choose_packing(space, context, cluster))


def choose_packing(space: SearchSpace, context: TrialContext, cluster: Cluster) -> Packing:
    """The share of every trial of a sweep; short trials are run only where the search space says ``auto``.

    Args:
        space: What is searched.
        context: What all trials share.
        cluster: Where they run; its nodes, and their GPUs, are taken to be alike.

    Raises:
        EnvironmentNotReady: A trial does not fit, or measuring it killed the process.
    """
    spec = space.resources
    if "auto" not in (spec.cpus_per_trial, spec.gpus_per_trial):
        return Packing.fixed(spec)
    cards = cluster.resources.get("GPU", 0.0)
    on_gpu = cards >= 1 and spec.gpus_per_trial != 0
    nodes = cluster.trial_nodes
    node = Node(cluster.resources.get("CPU", 1.0) / nodes, cards / nodes if on_gpu else 0.0)
    probes = tuple(probes_of(space))
    threads = (1,) if on_gpu or spec.cpus_per_trial != "auto" else _thread_counts(math.floor(node.cpus))
    node, found = _measure_remotely(probes, context, node, threads)
    most = math.ceil(min(space.search.trials, spec.max_concurrent or space.search.trials) / nodes)
    return pack(probes, found, node, spec, most=most)


def pack(
    probes: Sequence[Probe], found: Sequence[Measured | None], node: Node, spec: ResourcesSpec, *, most: int
) -> Packing:
    """Shares from measurements.

    Args:
        probes: What was tried.
        found: What each needed; None for one that could not be run.
        node: Where trials run.
        spec: What the search space says; numbers that it gives are kept.
        most: Trials that could run on a node at the same time if it were large enough.
    """
    fixed = Packing.fixed(spec).default
    shares = {}
    for probe, measured in zip(probes, found, strict=True):
        if measured is None:
            continue
        what = probe.architecture if probe.width is None else f"{probe.architecture} with {probe.width} latents"
        if spec.gpus_per_trial == "auto" and node.gpus:
            cpus = None if spec.cpus_per_trial == "auto" else fixed.cpus
            share = gpu_share(measured, node, most=most, what=what, cpus=cpus)
        elif spec.cpus_per_trial == "auto" and not fixed.gpus:
            share = cpu_share(measured, node, most=most, what=what)
        else:
            share = fixed
        shares[share_key(probe.architecture, probe.width)] = share
    # what could not be measured gets the largest share: it is refused or diverges, or it is as large as the others
    default = max(shares.values(), key=lambda share: (share.gpus, share.cpus), default=fixed)
    return Packing(default, shares)


def probes_of(space: SearchSpace) -> Iterator[Probe]:
    """The short trials of a search space: every architecture at every width, the other ranges at their middles."""
    for name in space.architectures:
        ranges = space.ranges(name)
        proposals = Proposals.of(ranges, 0)
        middles = [
            proposals.params({key: dimension.at(unit) for key, dimension in proposals.dimensions.items()})
            for unit in (0.5, 0.0)
        ]
        for width in _widths(ranges.get("d_sae")):
            tried = tuple(params if width is None else params | {"d_sae": width} for params in middles)
            yield Probe(name, width, tried)


def measure(
    probe: Probe, context: TrialContext, device: Device, threads: Sequence[int], *, seconds: float = 0.0
) -> Measured | None:
    """Run the short trials of one architecture and width in this process.

    Args:
        probe: What to try.
        context: What all trials share.
        device: Whose memory is read.
        threads: Numbers of threads to time, one first.
        seconds: How long to keep the device at it; 0 for a few steps.

    Returns:
        What a trial needs; None when the architecture takes none of the hyper-parameters.
    """
    before = torch.get_num_threads()
    try:
        for params in probe.params:
            assignment = Assignment("probe-0000", probe.architecture, 0, params, seed=0, attempt=0)
            device.reset()
            with _peak_memory() as peak:
                torch.set_num_threads(threads[0])
                step_s, record = _run(assignment, context, STEPS)
                if step_s is not None and seconds:
                    steps = min(MAX_STEPS, max(STEPS, math.ceil(seconds / step_s)))
                    step_s = _run(assignment, context, steps)[0] or step_s
            if record.state == "diverged" and (record.error or "").startswith(REFUSED):
                continue
            if step_s is None:  # out of memory, or not finite: nothing smaller is known to do
                return Measured(peak[0], {1: math.inf}, device.peak_bytes() or device.total_bytes(), None)
            times = {threads[0]: step_s} | {count: _timed(assignment, context, count) for count in threads[1:]}
            return Measured(peak[0], times, device.peak_bytes(), device.busy())
    finally:
        torch.set_num_threads(before)
    return None


def _timed(assignment: Assignment, context: TrialContext, threads: int) -> float:
    torch.set_num_threads(threads)
    return _run(assignment, context, STEPS)[0] or math.inf


def _run(assignment: Assignment, context: TrialContext, steps: int) -> tuple[float | None, TrialRecord]:
    """Seconds of a step of a short trial, None when it did not come to its end; and its record."""
    batch = context.training.batch_size
    short = context.training.model_copy(update={"num_tokens": steps * batch, "rungs": (0.5, 1.0)})
    halfway: list[TrialRecord] = []
    with tempfile.TemporaryDirectory(prefix="vsae-probe-") as folder:
        run = TrialRun(assignment, replace(context, training=short, directory=Path(folder)), halfway.append)
        record = run.run()
    if record.state != "completed" or not halfway:
        return None, record
    timed = record.rungs[-1].step - halfway[-1].rungs[-1].step
    return max(record.train_s - halfway[-1].train_s, 1e-9) / max(timed, 1), record


def _measure_remotely(
    probes: tuple[Probe, ...], context: TrialContext, node: Node, threads: tuple[int, ...]
) -> tuple[Node, list[Measured | None]]:
    """Measure in one process of the cluster; it has the node's memory, and a GPU to itself where there is one."""
    share = Share.given(float(threads[-1]), 1.0 if node.gpus else 0.0)
    context = replace(context, share=share)
    remote = ray.remote(num_cpus=share.cpus, num_gpus=share.gpus, max_retries=0)(_measure_all)
    try:
        host, card, found = ray.get(remote.remote(probes, context, threads))
    except ray.exceptions.RayError as error:
        raise EnvironmentNotReady(
            f"a short trial that was to measure what a trial needs was lost: {error}",
            "give resources.cpus_per_trial and resources.gpus_per_trial as numbers",
        ) from error
    return replace(node, host_bytes=host, card_bytes=card), found


def _measure_all(
    probes: tuple[Probe, ...], context: TrialContext, threads: tuple[int, ...]
) -> tuple[int, int, list[Measured | None]]:
    """Memory of the node, memory of its card, and what every short trial needs."""
    device: Device = CudaCard() if context.share.gpus else Processor()
    free = psutil.virtual_memory().available
    seconds = GPU_SECONDS if context.share.gpus else 0.0
    found = [measure(probe, context, device, threads, seconds=seconds) for probe in probes]
    return free, device.total_bytes(), found


def _widths(searched: Any) -> list[int | None]:
    """The widths that are measured: those that are listed, or the largest of a range and two smaller ones."""
    if searched is None:
        return [None]
    if isinstance(searched, ConstantRange):
        return [int(str(searched.value))]
    if isinstance(searched, ChoiceRange):
        listed = sorted({int(str(choice)) for choice in searched.choices})
        step = max(1, math.ceil(len(listed) / MAX_WIDTHS))
        return list(listed[::-1][::step][::-1])
    low, high = max(1.0, float(searched.low)), float(searched.high)
    return sorted({round(high * (low / high) ** (i / MAX_WIDTHS)) for i in range(MAX_WIDTHS)})


def _thread_counts(cpus: int) -> tuple[int, ...]:
    """One thread, and its doubles up to the CPUs of a node, at most eight."""
    return tuple(2**power for power in range(4) if 2**power <= max(1, cpus))


@contextmanager
def _peak_memory() -> Iterator[list[int]]:
    """Most memory of this process inside the block, without what it shares with others; a thread looks all the time."""
    peak, done = [_own_memory()], threading.Event()

    def look() -> None:
        while not done.wait(_POLL_S):
            peak[0] = max(peak[0], _own_memory())

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()
        peak[0] = max(peak[0], _own_memory())


def _own_memory() -> int:
    """Resident memory of this process that is not shared, so that the activation bank is not counted."""
    memory = psutil.Process().memory_info()
    return int(memory.rss - getattr(memory, "shared", 0))
