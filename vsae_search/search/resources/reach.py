"""Whether every node of a cluster sees the folder of a sweep; told before anything is computed.

Shards, checkpoints and weights are files that any node may write and another one read. A node that has a folder of its
own under the same path would lose the weights of its trials, and a shard would be harvested again wherever it is
missing.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vsae_search.errors import EnvironmentNotReady

if TYPE_CHECKING:
    from pathlib import Path

_PATIENCE_S = 5.0
"""A network file system may show a new file a little later on other machines."""
_TIMEOUT_S = 120.0
_POLL_S = 0.1


@dataclass(frozen=True)
class Reach:
    """What one node says of a folder.

    Attributes:
        node: Address of the node.
        fault: What is wrong, as a sentence goes on after the node's name; empty when nothing is.
    """

    node: str
    fault: str = ""


def require_shared(directory: Path) -> None:
    """Refuse a folder that a node of the cluster does not share with this one.

    Args:
        directory: The sweep directory; it exists here.

    Raises:
        EnvironmentNotReady: Names the nodes, and says what each of them finds.
    """
    faulty = [reach for reach in reach_of(directory) if reach.fault]
    if faulty:
        raise EnvironmentNotReady(
            "\n".join([f"{directory} is not shared by all nodes:", *(f"  {one.node} {one.fault}" for one in faulty)]),
            "give --root a folder that every node mounts under the same path (NFS, EFS, Filestore, a shared volume), "
            "writable by the user that runs Ray",
        )


def reach_of(directory: Path) -> list[Reach]:
    """Ask every node but this one; there is none to ask on a single machine.

    Args:
        directory: A folder that exists here.
    """
    here = ray.get_runtime_context().get_node_id()
    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    nodes.pop(here, None)
    if not nodes:
        return []
    mark, word = directory / f".reach-{secrets.token_hex(8)}", secrets.token_hex(16)
    mark.write_text(word)
    try:
        asked = {node: _look_on(node, mark, word) for node in nodes}
        return [Reach(nodes[node], _answer(answer, mark, node, word)) for node, answer in asked.items()]
    finally:
        for file in (mark, *(_reply_of(mark, node) for node in nodes)):
            file.unlink(missing_ok=True)


def look(mark: Path, reply: Path, word: str) -> str:
    """What another node finds: runs there.

    Args:
        mark: A file that the driver wrote.
        reply: A file for the driver to see.
        word: Content of both.

    Returns:
        What is wrong; empty when nothing is.
    """
    if not _holds(mark, word):
        return f"does not see what the driver writes to {mark.parent}"
    try:
        reply.write_text(word)
    except OSError as error:
        return f"cannot write to {mark.parent}: {error.strerror}"
    return ""


def _look_on(node: str, mark: Path, word: str) -> Any:
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(look).remote(
        mark, _reply_of(mark, node), word
    )


def _answer(asked: Any, mark: Path, node: str, word: str) -> str:
    """What is wrong with a node; the reply is looked at from here too."""
    try:
        fault: str = ray.get(asked, timeout=_TIMEOUT_S)
    except ray.exceptions.RayError as error:
        return f"does not answer: {type(error).__name__}"
    if not fault and not _holds(_reply_of(mark, node), word):
        return f"writes to a {mark.parent} of its own"
    return fault


def _reply_of(mark: Path, node: str) -> Path:
    return mark.with_name(f"{mark.name}-{node[:16]}")


def _holds(file: Path, word: str) -> bool:
    """Whether a file appears with this content, within a few seconds."""
    end = time.monotonic() + _PATIENCE_S
    while True:
        try:
            if file.read_text() == word:
                return True
        except OSError:
            pass
        if time.monotonic() > end:
            return False
        time.sleep(_POLL_S)
