"""Who holds the references of a bank when Ray outlives the driver: a detached actor, one for each bank.

An object is lost with the process that owns it. On a cluster that goes on without the driver, the loading tasks are
therefore called by a detached actor; the next driver asks it for the references and loads nothing. A Ray that a driver
started for itself ends with the driver, and has no such actor.

The actor asks for no CPU. Its name is a hash of the bank's files, their folder and this package's source, so that a
driver with other rows, or with code that might harvest lost rows in another way, gets an actor of its own. It ends when
the last driver releases the bank, or when no living driver has used it for a while; its rows then leave the object
store, and their files stay.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

import vsae_search
from vsae_search.activations.tasks import ObjectRef, fetch, load_task, run_windowed
from vsae_search.errors import VsaeSearchError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vsae_search.activations.files import ShardRequest
    from vsae_search.activations.manifest import BankManifest, ShardEntry
    from vsae_search.activations.progress import ProgressReporter
    from vsae_search.subjects import Subject

NAMESPACE = "vsae_search"
"""Ray namespace of the actors; drivers have namespaces of their own."""
IDLE_S = 1800.0
"""How long a bank stays in the object store after its last driver."""

_CHECK_S = 10.0
_ATTEMPTS = 3
_RETRY_S = 1.0
_HEAD = "node:__internal_head__"
_LITTLE = 0.001
_ROOMS = ("space", "subjects", "activations")


class BankOwner:
    """Owns the objects of one bank.

    Args:
        subject: What lost rows are harvested from when their file is gone too.
        requests: The files of the bank, in order.
        entries: Their entries in the manifest.
        home: Folder of the bank.
        check_s: Time between two looks at who still uses the bank.
    """

    def __init__(
        self,
        subject: Subject,
        requests: Sequence[ShardRequest],
        entries: Sequence[ShardEntry],
        home: Path,
        check_s: float,
    ) -> None:
        self._subject_ref = ray.put(subject)
        self._requests, self._entries, self._home = requests, entries, home
        self._check_s, self._idle_s = check_s, IDLE_S
        self._objects: dict[int, tuple[ObjectRef, ObjectRef]] = {}
        self._drivers: set[str] = set()
        self._last_used = time.monotonic()
        self._watch: asyncio.Task[None] | None = None

    async def attach(self, driver: str, idle_s: float) -> list[int]:
        """Count a driver (by its job) as a user of the bank; return the files that are not in the object store yet."""
        self._drivers.add(driver)
        self._idle_s = idle_s
        if self._watch is None:
            self._watch = asyncio.create_task(self._end_when_unused())
        return [index for index in range(len(self._requests)) if index not in self._objects]

    async def place(self, index: int) -> int:
        """Load a file, unless that was asked for before; return its size once it is loaded.

        Raises:
            VsaeSearchError: The file cannot be loaded; it can be asked for again.
        """
        if index not in self._objects:
            request, entry = self._requests[index], self._entries[index]
            self._objects[index] = tuple(load_task.remote(self._subject_ref, request, entry, self._home))
        try:
            num_bytes: int = await self._objects[index][1]
        except ray.exceptions.RayTaskError as error:
            self._objects.pop(index, None)
            if isinstance(error.cause, VsaeSearchError):
                raise error.cause from None
            raise
        return num_bytes

    async def references(self) -> list[ObjectRef]:
        """Return the references to all files, in order; every one must have been placed."""
        return [self._objects[index][0] for index in range(len(self._requests))]

    async def release(self, driver: str, *, at_once: bool = True) -> None:
        """Forget a driver; when it was the last one, end at once, or when no other has come for a while."""
        self._drivers.discard(driver)
        self._drivers &= _living_jobs()
        self._last_used = time.monotonic()
        if at_once and not self._drivers:
            _end()

    async def _end_when_unused(self) -> None:
        while True:
            await asyncio.sleep(self._check_s)
            self._drivers &= _living_jobs()
            if self._drivers:
                self._last_used = time.monotonic()
            elif time.monotonic() - self._last_used > self._idle_s:
                _end()


def outlives_driver() -> bool:
    """Whether the Ray that this process is connected to goes on without it."""
    node = ray._private.worker._global_node
    return node is None or not node.is_head()


def owner_name(manifest: BankManifest, home: Path) -> str:
    """Return the name of the actor that owns a bank."""
    parts = (manifest.model_dump_json(), str(home), _source_digest())
    return f"bank-{manifest.key}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:16]}"


def has_owner(name: str) -> bool:
    """Whether there is an actor of that name."""
    try:
        ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        return False
    return True


def serve_from_owner(
    name: str,
    subject: Subject,
    requests: Sequence[ShardRequest],
    entries: Sequence[ShardEntry],
    home: Path,
    report: ProgressReporter,
    *,
    idle_s: float = IDLE_S,
    check_s: float = _CHECK_S,
) -> tuple[ObjectRef, ...]:
    """Attach to the owner of a bank, or make one; have it load what is missing; return the references, in order.

    Args:
        name: Name of the owner.
        subject: What is being explained.
        requests: The files of the bank.
        entries: Their entries in the manifest.
        home: Folder of the bank.
        report: Told of every file.
        idle_s: How long the rows stay in the object store after the last driver that uses them.
        check_s: Time between two looks at who still uses them.
    """
    report.begin("load", [request.num_rows for request in requests])
    for attempt in range(_ATTEMPTS):
        owner = _owner(name, subject, requests, entries, home, check_s)
        try:
            missing = set(ray.get(owner.attach.remote(_this_job(), idle_s)))
            for index in range(len(requests)):
                if index not in missing:
                    report.finish(index)
            run_windowed({index: partial(owner.place.remote, index) for index in sorted(missing)}, report)
            references = fetch(owner.references.remote())
        except ray.exceptions.ActorDiedError:  # it was about to end when it was found
            if attempt == _ATTEMPTS - 1:
                raise
            time.sleep(_RETRY_S)
            report.begin("load", [request.num_rows for request in requests])
        else:
            return tuple(references)
    raise AssertionError("the last attempt returns or raises")


def release_owner(name: str) -> None:
    """Let go of a bank; its owner ends when no other living driver uses it. Nothing happens when it has ended."""
    try:
        ray.get(ray.get_actor(name, namespace=NAMESPACE).release.remote(_this_job()))
    except (ValueError, ray.exceptions.ActorDiedError):
        return


def _owner(
    name: str,
    subject: Subject,
    requests: Sequence[ShardRequest],
    entries: Sequence[ShardEntry],
    home: Path,
    check_s: float,
) -> Any:
    """Return the actor, made on the head node when there is none: that node cannot be scaled down."""
    # a little of the head's own resource: a preference for its node would be void where a node has not heard of it yet
    head = {_HEAD: _LITTLE} if _HEAD in ray.cluster_resources() else {}
    actor = ray.remote(num_cpus=0, resources=head, max_restarts=0)(BankOwner).options(
        name=name, namespace=NAMESPACE, lifetime="detached", get_if_exists=True
    )
    return actor.remote(subject, list(requests), list(entries), home, check_s)


def _this_job() -> str:
    return str(ray.get_runtime_context().get_job_id())


def _living_jobs() -> set[str]:
    """Return the jobs whose driver has not ended; Ray learns of it even when a driver is killed."""
    return {job["JobID"] for job in ray._private.state.jobs() if not job["IsDead"]}


def _end() -> None:
    """End this actor, on purpose: Ray does not report a crash."""
    ray.kill(ray.get_runtime_context().current_actor)


@cache
def _source_digest() -> str:
    """Return the sha256 (hex) of the source that rows depend on: other code must not stand in for it."""
    root = Path(vsae_search.__file__).parent
    state = hashlib.sha256()
    for path in sorted([*root.glob("*.py"), *(file for room in _ROOMS for file in (root / room).rglob("*.py"))]):
        state.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return state.hexdigest()
