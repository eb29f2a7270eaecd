"""The object stores of a cluster, and the disks to which they spill."""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vsae_search.errors import EnvironmentNotReady

if TYPE_CHECKING:
    from collections.abc import Mapping

SPILL_THRESHOLD = 0.8
"""Ray begins to spill when its store is this full."""
_USABLE = 0.95
"""Ray makes no more objects when the disk to which it spills is fuller than this."""
_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class NodeStore:
    """The object store of one node.

    Attributes:
        node: Address of the node.
        capacity_bytes: Size of the store.
        spill_directory: Where Ray puts what the store cannot hold; None when that was not looked at.
        usable_bytes: Space on that disk until Ray stops using it.
        holds_files: Whether the bank's files go to the same file system.
    """

    node: str
    capacity_bytes: int
    spill_directory: Path | None = None
    usable_bytes: int = 0
    holds_files: bool = False

    def holds(self, num_bytes: int) -> bool:
        """Whether the store holds so many bytes without spilling any."""
        return num_bytes <= self.capacity_bytes * SPILL_THRESHOLD


def measure_stores(directory: Path, num_bytes: int) -> tuple[NodeStore, ...]:
    """Look at the object store of every node and, where it will spill, at the disk to which it does.

    The disk of a node other than the driver's is looked at by a task on it. A spill folder that was set for a single
    node, other than the head, is not known; that node's session folder is looked at instead.

    Args:
        directory: Where the bank's files will be; it need not exist.
        num_bytes: Size of the bank, which Ray spreads evenly over the nodes.

    Returns:
        One entry for each node; none when Ray spills to a service instead of a disk.

    Raises:
        EnvironmentNotReady: A node does not answer.
    """
    setting = json.loads(ray._private.state.state.get_system_config().get("object_spilling_config") or "{}")
    if setting.get("type", "filesystem") != "filesystem":
        return ()
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("object_store_memory")]
    stores = [NodeStore(node["NodeManagerAddress"], int(node["Resources"]["object_store_memory"])) for node in nodes]
    configured, share = _configured_directory(setting), math.ceil(num_bytes / max(1, len(nodes)))
    found = {
        index: _look_on(nodes[index]["NodeID"], configured, directory)
        for index, store in enumerate(stores)
        if not store.holds(share)
    }
    for index, answer in found.items():
        folder, usable, same = _answer(answer, stores[index].node)
        stores[index] = replace(stores[index], spill_directory=folder, usable_bytes=usable, holds_files=same)
    return tuple(stores)


def look_at_disk(configured: Path | None, directory: Path) -> tuple[Path, int, bool]:
    """Return the spill folder of this node, its usable bytes, and whether ``directory`` is on the same file system.

    Args:
        configured: The spill folder that was set for the cluster; None is the node's session folder.
        directory: Where the bank's files will be.
    """
    folder = configured or Path(ray._private.worker._global_node.get_session_dir_path())
    disk = shutil.disk_usage(existing(folder))
    usable = disk.free - round(disk.total * (1 - _USABLE))
    same = os.stat(existing(folder)).st_dev == os.stat(existing(directory)).st_dev
    return folder, max(0, usable), same


def existing(directory: Path) -> Path:
    """Return the nearest ancestor that exists: the file system on which the directory would be created."""
    directory = directory.absolute()
    while not directory.exists():
        directory = directory.parent
    return directory


def _look_on(node: str, configured: Path | None, directory: Path) -> Any:
    """Return what ``look_at_disk`` says of a node, or the reference to it."""
    if node == ray.get_runtime_context().get_node_id():
        return look_at_disk(configured, directory)
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=there)(look_at_disk).remote(configured, directory)


def _answer(found: Any, node: str) -> tuple[Path, int, bool]:
    if isinstance(found, tuple):
        return found
    try:
        answer: tuple[Path, int, bool] = ray.get(found, timeout=_TIMEOUT_S)
    except ray.exceptions.RayError as error:
        raise EnvironmentNotReady(
            f"node {node} of the Ray cluster does not answer: {type(error).__name__}",
            "look at the node with: ray status; start again when it is back or removed",
        ) from error
    return answer


def _configured_directory(setting: Mapping[str, Any]) -> Path | None:
    """Return the spill folder set for the cluster; None when every node uses its session folder."""
    directories = setting.get("params", {}).get("directory_path") or []
    first = directories if isinstance(directories, str) else next(iter(directories), None)
    # the setting names the session folder of the head when the user has set nothing
    session = Path(ray._private.worker._global_node.get_session_dir_path())
    return None if first is None or Path(first).name == session.name else Path(first)
