"""``doctor --address``: is a cluster ready for a sweep? Every node is asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsae_search.cli.doctor import Check
from vsae_search.errors import EnvironmentNotReady, UserInputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vsae_search.search.resources.nodes import NodeFacts
    from vsae_search.space import ExperimentSpace, SearchSpace

_MUST_AGREE = ("python", "ray", "torch", "vsae_search")
_LEAST_MEMORY_GB = 1.0


def checks_by_driver(address: str, root: Path, space: SearchSpace | ExperimentSpace | None) -> list[Check]:
    """Join a cluster and look at it.

    Args:
        address: ``HOST:PORT`` of its head.
        root: Folder of sweeps.
        space: A search space whose model is looked for.
    """
    from vsae_search.search.resources.cluster import connected
    from vsae_search.search.resources.nodes import describe_nodes
    from vsae_search.space import ResourcesSpec

    subject = getattr(space, "subject", None)
    try:
        with connected(ResourcesSpec(), address):
            nodes = describe_nodes(subject)
            return [_size(nodes), _door(nodes), *_nodes(nodes), *_folder(root, nodes)]
    except EnvironmentNotReady as error:
        return [Check("fail", error.message, error.hint)]


def checks_by_job(address: str, root: Path) -> list[Check]:
    """Have a job on the cluster look at it, from where the driver of a submitted sweep would run.

    Args:
        address: ``http://HOST:PORT`` of the job server.
        root: Folder of sweeps on the cluster.

    Raises:
        UserInputError: The folder is not an absolute path.
    """
    from vsae_search.cli._connect import job_server
    from vsae_search.cli._jobs import json_in
    from vsae_search.cli._parcel import parcel

    if not root.is_absolute():
        raise UserInputError(
            f"--root {root} is not an absolute path", "name the folder of sweeps on the cluster, which every node sees"
        )
    try:
        server = job_server(address)
        with parcel(None, package=True) as sent:
            _, printed = server.ask(["doctor", "--root", str(root), "--output", "json"], sent)
    except EnvironmentNotReady as error:
        return [Check("fail", error.message, error.hint)]
    found: Any = json_in(printed)
    if not isinstance(found, list):
        last = printed.strip().splitlines()[-1:] or ["it printed nothing"]
        return [Check("fail", f"doctor cannot run on the cluster: {last[0]}", "install constraints.txt on its nodes")]
    there = [Check(**one) for one in found]
    return [Check("ok", f"the job server at {address} takes jobs"), *(_on_head(check) for check in there)]


def _on_head(check: Check) -> Check:
    return Check(check.level, f"there: {check.found}", check.fix)


def _size(nodes: Sequence[NodeFacts]) -> Check:
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    return Check("ok", f"the cluster has {len(nodes)} nodes with {cpus:g} CPUs and {gpus:g} GPUs for trials")


def _door(nodes: Sequence[NodeFacts]) -> Check:
    """Whether every node asks for the token."""
    open_ = [node.node for node in nodes if not node.fault and not node.asks_for_token]
    if not open_:
        return Check("ok", "the cluster asks for a token")
    return Check(
        "warn",
        f"{', '.join(open_)} let in everybody who can reach them",
        "start Ray with RAY_AUTH_MODE=token on every node; keep its ports in a private network in any case",
    )


def _nodes(nodes: Sequence[NodeFacts]) -> Iterator[Check]:
    driver = next(node for node in nodes if node.here)
    if len(nodes) > 1 and driver.cpus > 0:
        yield Check(
            "warn", f"trials may run on {driver.node}, beside the driver", "start it with --num-cpus=0 --num-gpus=0"
        )
    for node in nodes:
        if node.fault:
            yield Check("fail", f"{node.node} does not answer: {node.fault}", "look at it with: ray status")
            continue
        other = [
            f"{name} {node.versions.get(name, 'none')} instead of {driver.versions[name]}"
            for name in _MUST_AGREE
            if node.versions.get(name) != driver.versions[name]
        ]
        found = f"{node.node}: {node.cpus:g} CPUs, {node.gpus:g} GPUs" + (f", {', '.join(other)}" if other else "")
        yield Check("fail", found, "install the same constraints.txt on every node") if other else Check("ok", found)
        yield from _belongings(node)


def _belongings(node: NodeFacts) -> Iterator[Check]:
    """What only matters when it is missing."""
    free_gb = (node.shared_memory_bytes or 0) / 1e9
    if node.shared_memory_bytes is not None and free_gb < _LEAST_MEMORY_GB:
        fix = "in a container mount a larger /dev/shm; Ray keeps the activations on disk otherwise"
        yield Check("warn", f"{node.node} has {free_gb:.1f} GB of shared memory for the activation bank", fix)
    if node.has_model is False:
        fix = "it is downloaded there once, or point HF_HOME of every node to a shared cache"
        yield Check("warn", f"{node.node} does not have the model yet", fix)


def _folder(root: Path, nodes: Sequence[NodeFacts]) -> Iterator[Check]:
    from vsae_search.search.resources.reach import reach_of

    if len(nodes) == 1:
        return
    try:
        root.mkdir(parents=True, exist_ok=True)
        found = reach_of(root.resolve())
    except OSError as error:
        yield Check("fail", f"nothing can be written to {root}: {error.strerror}", "choose another folder with --root")
        return
    fix = "give --root a folder that every node mounts under the same path (NFS, EFS, Filestore, a shared volume)"
    for reach in found:
        if reach.fault:
            yield Check("fail", f"{reach.node} {reach.fault}", fix)
    if not any(reach.fault for reach in found):
        yield Check("ok", f"every node sees and writes {root.resolve()}")
