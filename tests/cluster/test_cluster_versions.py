"""Every version in the folder is the one that the project is tested with, and every command exists."""

from __future__ import annotations

import re
import shlex
import sys

import pytest
import ray
from manifests import (
    CLUSTER,
    COMPOSE,
    DOCKERFILE,
    KUBERAY,
    LAUNCHERS,
    ROOT,
    SBATCH,
    cluster_spec,
    instructions,
    leaves,
    load,
    pins,
    pod_templates,
    project,
)
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from vsae_search import __version__

OWN_IMAGE = re.compile(r"vsae-search:([\d.]+)-(cpu|cuda)")
TEXTS = sorted(path for path in CLUSTER.rglob("*") if path.is_file())


def test_the_pinned_ray_is_the_one_that_runs():
    assert pins()["ray"] == ray.__version__


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_is_told_the_version_of_ray(name):
    assert cluster_spec(load(name))["rayVersion"] == ray.__version__


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(CLUSTER)))
def test_own_images_carry_the_version_of_the_package(path):
    assert {version for version, _ in OWN_IMAGE.findall(path.read_text())} <= {__version__}


def test_all_pods_run_the_own_image_and_services_the_small_one():
    for name in KUBERAY:
        for template in pod_templates(load(name)).values():
            assert {part["image"] for part in template["spec"]["containers"]} == {f"vsae-search:{__version__}-cuda"}
    images = {name: service["image"] for name, service in load(COMPOSE)["services"].items()}
    assert images["mlflow"] == images["bucket"] == f"vsae-search:{__version__}-cpu"
    (image,) = load("kuberay/kustomization.yaml")["images"]
    assert f"{image['name']}:{image['newTag']}" == f"vsae-search:{__version__}-cuda"


def test_the_image_has_a_python_that_the_package_is_tested_with():
    steps = dict(reversed(instructions(DOCKERFILE.read_text())))
    version = re.match(r"python:(\d+\.\d+)\.\d+-", steps["FROM"])[1]
    assert SpecifierSet(project()["requires-python"]).contains(version)
    tested = [line.rpartition(" ")[2] for line in project()["classifiers"] if line.startswith("Programming Language")]
    assert version in tested
    assert version == f"{sys.version_info.major}.{sys.version_info.minor}" or version in tested


def test_extras_that_are_installed_exist_and_bring_what_a_cluster_needs():
    texts = [DOCKERFILE.read_text(), *((CLUSTER / name).read_text() for name in LAUNCHERS)]
    named = {extra for text in texts for extra in re.findall(r'"\.\[(\w+)\]"', text)}
    assert named == {"cluster"}
    needed = {item.name: item for item in map(Requirement, project()["optional-dependencies"]["cluster"])}
    needed |= {item.name: item for item in map(Requirement, project()["dependencies"]) if item.name not in needed}
    assert {"boto3", "psycopg", "ray"} <= needed.keys()
    assert "default" in needed["ray"].extras


def test_versions_that_are_installed_by_hand_are_exact_and_no_other_than_the_pins():
    for name in LAUNCHERS:
        for _, value in leaves(load(name)):
            for package, version in re.findall(r"([\w-]+)==([\w.]+)", str(value)):
                assert pins().get(package, version) == version


COMMAND = re.compile(r"python -m vsae_search ([^`\n#&|]+)")
PAGES = (ROOT / "README.md", CLUSTER / "README.md", ROOT / "docs/cluster.md", ROOT / "docs/scaling.md")


def commands() -> list[tuple[str, str]]:
    """Every command of this package in the folder, in its guides and in the README, and where it stands."""
    texts = {name: load(name)["spec"].get("entrypoint", "") for name in KUBERAY}
    texts["sweep.sbatch"] = SBATCH.read_text().replace("\\\n", " ")
    texts |= {page.name: page.read_text() for page in PAGES}
    return [(where, line.strip()) for where, text in texts.items() for line in COMMAND.findall(text)]


@pytest.fixture(scope="module")
def program():
    import typer

    from vsae_search.cli.app import build_app

    return typer.main.get_command(build_app())


@pytest.mark.parametrize(("where", "line"), commands())
def test_commands_are_understood_with_their_arguments(where, line, program):
    name, *arguments = [word for word in shlex.split(line) if word != "$@"]
    program.commands[name].make_context(name, arguments)


def test_commands_are_found_everywhere():
    found = {where for where, _ in commands()}
    assert {"kuberay/rayjob.yaml", "sweep.sbatch", "README.md", "cluster.md"} <= found


@pytest.mark.parametrize("line", ["sweep", "submit toy.yaml --root /x", "sweep toy.yaml --adress auto", "stop"])
def test_a_command_that_is_not_understood_is_found(line, program):
    name, *arguments = line.split()
    with pytest.raises(Exception, match=r"Missing|No such option"):
        program.commands[name].make_context(name, arguments)
