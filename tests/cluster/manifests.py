"""The files of ``cluster/``, read as their tools read them, and changed copies of them."""

from __future__ import annotations

import copy
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
LAUNCHERS = ("ray-aws.yaml", "ray-gcp.yaml")
KUBERAY = ("kuberay/raycluster.yaml", "kuberay/rayjob.yaml")
CORE_OBJECTS = ("kuberay/namespace.yaml", "kuberay/networkpolicy.yaml", "kuberay/pvc.yaml")
COMPOSE = "compose/compose.yaml"
DOCKERFILE = CLUSTER / "docker/Dockerfile"
SBATCH = CLUSTER / "slurm/sweep.sbatch"
TOOLS = ROOT / ".venv/bin"


def load(name: str) -> dict[str, Any]:
    """One document as plain data; anchors and merges are resolved, so it can be changed without side effects."""
    document = YAML(typ="safe").load((CLUSTER / name).read_text())
    assert isinstance(document, dict)
    return copy.deepcopy(_unshared(document))


def _unshared(value: Any) -> Any:
    """Every anchor a copy of its own."""
    if isinstance(value, dict):
        return {key: _unshared(part) for key, part in value.items()}
    return [_unshared(part) for part in value] if isinstance(value, list) else value


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is neither a mapping nor a list, with the way to it."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from leaves(part, f"{path}.{key}")
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from leaves(part, f"{path}[{index}]")
    else:
        yield path, value


def cluster_spec(document: dict[str, Any]) -> dict[str, Any]:
    """The RayCluster's spec, which a RayJob carries inside its own."""
    spec = document["spec"]
    return spec.get("rayClusterSpec", spec)


def pod_templates(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The pod templates of a RayCluster or RayJob, by the place they stand at."""
    spec = cluster_spec(document)
    templates = {"head": spec["headGroupSpec"]["template"]}
    templates |= {group["groupName"]: group["template"] for group in spec["workerGroupSpecs"]}
    if "submitterPodTemplate" in document["spec"]:
        templates["submitter"] = document["spec"]["submitterPodTemplate"]
    return templates


def pins() -> dict[str, str]:
    """Package to version, of constraints.txt."""
    found = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


def project() -> dict[str, Any]:
    """The ``project`` table of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirement(name: str) -> Requirement:
    """What the package itself asks for."""
    return next(item for item in map(Requirement, project()["dependencies"]) if item.name == name)


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """Instruction and argument, with continued lines joined and comments left out."""
    kept = "\n".join(line for line in dockerfile.splitlines() if not line.lstrip().startswith("#"))
    lines = re.sub(r"\\\n\s*", " ", kept).splitlines()
    return [(line.split(None, 1)[0].upper(), line.split(None, 1)[1].strip()) for line in lines if line.strip()]
