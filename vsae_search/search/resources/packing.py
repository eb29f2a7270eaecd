"""How many trials share a machine: from what a trial was measured to need to the part of a node that it gets.

Plain arithmetic; the measuring is done in :mod:`.probe`. Ray counts fractions of a CPU or GPU in ten-thousandths, so
every share is rounded down to one of them: n shares are then never more than the whole.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from vsae_search.errors import EnvironmentNotReady

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vsae_search.space import ResourcesSpec

GRAIN = 10_000
"""Ray's smallest part of a CPU or GPU is one of so many."""
CONTEXT_BYTES = 600 * 10**6
"""What CUDA and its libraries hold on a card for every process, outside torch's allocator."""
CARD_PART = 0.95
"""Part of a card that is given out; the rest covers what other programs and fragmentation take."""
HOST_PART = 0.8
"""The same for the memory of a node."""
GROWTH = 1.25
"""A trial may need this many times what the short trial needed: denser codes, larger k, fragmentation."""
SPEED_UP = 1.25
"""More threads are given to a trial when they make it at least so many times as fast."""
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""Numbers of trials that may share a GPU. They are few, because a worker is reused by trials of the same share only."""


@dataclass(frozen=True)
class Measured:
    """What a short trial needed.

    Attributes:
        host_bytes: Memory of its process, without what it shares with others.
        step_s: Seconds of one training step, by number of threads; one thread is always there.
        gpu_bytes: Peak of torch's allocator on the GPU.
        gpu_busy: Part of the time in which the GPU was computing, 0 to 1; None when nobody could tell.
    """

    host_bytes: int
    step_s: Mapping[int, float]
    gpu_bytes: int = 0
    gpu_busy: float | None = None


@dataclass(frozen=True)
class Node:
    """One machine of the cluster, or one like all of them.

    Attributes:
        cpus: Its processors.
        gpus: Its GPUs.
        host_bytes: Memory that is free for trials.
        card_bytes: Memory of one GPU.
    """

    cpus: float
    gpus: float = 0.0
    host_bytes: int = 0
    card_bytes: int = 0


@dataclass(frozen=True)
class Share:
    """What one trial gets.

    Attributes:
        cpus: Processors, as Ray counts them.
        gpus: Part of a GPU, or several.
        threads: Threads of torch.
        memory_fraction: Part of the card that torch's allocator may hold; 0 without a GPU.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    threads: int = 1
    memory_fraction: float = 0.0

    @classmethod
    def given(cls, cpus: float, gpus: float) -> Share:
        """A share whose numbers the search space gives: one thread per whole CPU, and its part of the card."""
        return cls(cpus, gpus, max(1, math.floor(cpus)), min(1.0, CARD_PART * gpus))


@dataclass(frozen=True)
class Packing:
    """The share of every trial.

    Attributes:
        default: For trials that were not measured.
        shares: By architecture and width, as :func:`share_key` writes them.
    """

    default: Share = field(default_factory=Share)
    shares: Mapping[str, Share] = field(default_factory=dict)

    @classmethod
    def fixed(cls, spec: ResourcesSpec) -> Packing:
        """What the search space says, as far as it gives numbers; one CPU and no GPU where it says ``auto``."""
        cpus = 1.0 if spec.cpus_per_trial == "auto" else spec.cpus_per_trial
        return cls(Share.given(cpus, 0.0 if spec.gpus_per_trial == "auto" else spec.gpus_per_trial))

    def share(self, architecture: str, params: Mapping[str, Any]) -> Share:
        """The share of a trial: that of the next larger width that was measured, else of the largest one."""
        width = params.get("d_sae")
        if share_key(architecture, width) in self.shares or not isinstance(width, int | float):
            return self.shares.get(share_key(architecture, width), self.default)
        widths = [text for name, _, text in (key.rpartition("/") for key in self.shares) if name == architecture]
        known = sorted(int(text) for text in widths if text.isdigit())
        nearest = next((other for other in known if other >= width), known[-1] if known else None)
        return self.default if nearest is None else self.shares[share_key(architecture, nearest)]

    @property
    def all(self) -> tuple[Share, ...]:
        """Every different share that a trial may get."""
        return tuple(dict.fromkeys(self.shares.values() if self.shares else (self.default,)))

    def describe(self) -> dict[str, dict[str, float]]:
        """The shares as JSON values; trials that were not measured are under ``default``."""
        return {key: asdict(share) for key, share in (self.shares or {"default": self.default}).items()}


def share_key(architecture: str, width: Any) -> str:
    """Name of an architecture at a width."""
    return f"{architecture}/{width}"


def part(count: int) -> float:
    """One of ``count`` equal parts of a CPU or GPU, rounded down to what Ray can count."""
    return math.floor(GRAIN / count) / GRAIN


def fits_cpus(cpus: float, share: float) -> int:
    """How many shares a number of CPUs holds, counted as Ray counts; a share may lie on two of them."""
    return round(cpus * GRAIN) // max(1, round(share * GRAIN))


def fits_gpus(gpus: float, share: float) -> int:
    """How many shares a number of GPUs holds; a part of a GPU never lies on two of them."""
    if share >= 1:
        return math.floor(gpus / share)
    return math.floor(gpus) * (GRAIN // max(1, round(share * GRAIN)))


def per_card(measured: Measured, node: Node) -> int:
    """How many such trials one GPU's memory holds; 0 when it does not hold one."""
    need = GROWTH * measured.gpu_bytes + CONTEXT_BYTES
    return math.floor(CARD_PART * node.card_bytes / need)


def per_host(measured: Measured, node: Node) -> int:
    """How many such trials the memory of a node holds; 0 when it does not hold one."""
    return math.floor(HOST_PART * node.host_bytes / max(1.0, GROWTH * measured.host_bytes))


def cpu_share(measured: Measured, node: Node, *, most: int, what: str) -> Share:
    """The share of a trial on a node without GPUs.

    One CPU for every trial. More of them only when memory, or the number of trials that there are, leaves some idle;
    and then no more threads than were measured to pay.

    Args:
        measured: What the trial needs.
        node: Where it runs.
        most: Trials that could run on a node at the same time if it were large enough.
        what: Name of the trial for an error.

    Raises:
        EnvironmentNotReady: The memory of the node does not hold one such trial.
    """
    memory = _at_least_one(per_host(measured, node), GROWTH * measured.host_bytes, HOST_PART * node.host_bytes, what)
    count = max(1, min(math.floor(node.cpus), memory, most))
    threads = paying_threads(measured.step_s, math.floor(node.cpus / count))
    if memory < fits_cpus(node.cpus, threads):  # Ray must not start more of them than the memory holds
        return Share(math.floor(GRAIN * node.cpus / memory) / GRAIN, 0.0, threads)
    return Share(float(threads), 0.0, threads)


def gpu_share(measured: Measured, node: Node, *, most: int, what: str, cpus: float | None = None) -> Share:
    """The share of a trial on a node with GPUs.

    As many trials share a GPU as its memory holds, as the node has processors for, and as keep it busy: two trials
    that each keep a GPU busy half of the time fill it.

    Args:
        measured: What the trial needs.
        node: Where it runs.
        most: Trials that could run on a node at the same time if it were large enough.
        what: Name of the trial for an error.
        cpus: CPUs of a trial where the search space gives them; None for one, or less where there are not enough.

    Raises:
        EnvironmentNotReady: The memory of the GPU, or of the node, does not hold one such trial.
    """
    cards = max(1, math.floor(node.gpus))
    need = GROWTH * measured.gpu_bytes + CONTEXT_BYTES
    by_card = _at_least_one(per_card(measured, node), need, CARD_PART * node.card_bytes, what)
    by_host = _at_least_one(per_host(measured, node), GROWTH * measured.host_bytes, HOST_PART * node.host_bytes, what)
    by_cpu = fits_cpus(node.cpus, cpus) // cards if cpus else math.floor(node.cpus / cards)
    by_busy = math.ceil(1 / measured.gpu_busy) if measured.gpu_busy else SIZES[-1]
    count = max(1, min(by_card, by_host // cards, by_cpu, by_busy, math.ceil(most / cards)))
    count = max(size for size in SIZES if size <= count)
    share = cpus or min(1.0, math.floor(GRAIN * node.cpus / cards / count) / GRAIN)
    fraction = CARD_PART / count - CONTEXT_BYTES / node.card_bytes
    return Share(share, part(count), max(1, math.floor(share)), math.floor(fraction * GRAIN) / GRAIN)


def paying_threads(step_s: Mapping[int, float], most: int) -> int:
    """The number of threads that a trial gets: one, or more if they were measured to make it faster by enough.

    Args:
        step_s: Seconds of a step by number of threads.
        most: CPUs that the trial may have.
    """
    known = {threads: seconds for threads, seconds in step_s.items() if threads <= most}
    best = min(known, key=lambda threads: (known[threads], threads), default=1)
    return best if best > 1 and known.get(1, math.inf) >= SPEED_UP * known[best] else 1


def _at_least_one(count: int, needed: float, there: float, what: str) -> int:
    if count < 1:
        raise EnvironmentNotReady(
            f"a trial of {what} needs {needed / 1e9:.2g} GB of memory, and {there / 1e9:.2g} GB can be given out",
            "lower training.batch_size or d_sae, or give the number of CPUs and GPUs of a trial yourself",
        )
    return count
