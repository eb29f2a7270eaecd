"""What the nodes of a cluster say of themselves, each asked by a task that runs there."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray._private.authentication.authentication_utils import is_token_auth_enabled
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vsae_search.search.store.environment import versions
from vsae_search.subjects import width_of

if TYPE_CHECKING:
    from vsae_search.space import SubjectSpec

_TIMEOUT_S = 120.0
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the object store lives there; nothing is written


@dataclass(frozen=True)
class NodeFacts:
    """One node.

    Attributes:
        node: Its address.
        here: Whether the driver runs there.
        cpus: Processors that it gives to trials.
        gpus: GPUs that it gives to trials.
        versions: Python, this package, and the libraries that numbers depend on; empty when it does not answer.
        shared_memory_bytes: Free shared memory, in which its part of the bank is kept; None where there is none.
        asks_for_token: Whether Ray on it lets in only who has the token.
        has_model: Whether the subject's model is on it; None when there is no model, or none was asked for.
        fault: Why it does not answer; empty when it does.
    """

    node: str
    here: bool
    cpus: float
    gpus: float
    versions: dict[str, str]
    shared_memory_bytes: int | None = None
    asks_for_token: bool = False
    has_model: bool | None = None
    fault: str = ""


def describe_nodes(subject: SubjectSpec | None = None) -> list[NodeFacts]:
    """Ask every live node.

    Args:
        subject: Whose model is looked for; None to look for none.
    """
    driver = ray.get_runtime_context().get_node_id()
    nodes = [node for node in ray.nodes() if node["Alive"]]
    asked = [_ask(node["NodeID"], subject) for node in nodes]
    return [_facts(node, node["NodeID"] == driver, answer) for node, answer in zip(nodes, asked, strict=True)]


def look_around(subject: SubjectSpec | None) -> dict[str, Any]:
    """What a node finds; keys are attributes of :class:`NodeFacts`."""
    free = shutil.disk_usage(_SHARED_MEMORY).free if _SHARED_MEMORY.is_dir() else None
    has_model = None if subject is None or subject.type != "language_model" else width_of(subject) is not None
    return {
        "versions": versions(),
        "shared_memory_bytes": free,
        "asks_for_token": is_token_auth_enabled(),
        "has_model": has_model,
    }


def _ask(node: str, subject: SubjectSpec | None) -> Any:
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(look_around).remote(subject)


def _facts(node: dict[str, Any], here: bool, answer: Any) -> NodeFacts:
    resources = node["Resources"]
    known = (node["NodeManagerAddress"], here, resources.get("CPU", 0.0), resources.get("GPU", 0.0))
    try:
        return NodeFacts(*known, **ray.get(answer, timeout=_TIMEOUT_S))
    except ray.exceptions.RayError as error:
        return NodeFacts(*known, versions={}, fault=type(error).__name__)
