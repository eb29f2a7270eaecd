"""The Dockerfile and the compose file, by their own linters and schemas, and what they may not contain."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from types import SimpleNamespace

import pytest
from manifests import CLUSTER, COMPOSE, DOCKERFILE, ROOT, TOOLS, instructions, leaves, load
from ruamel.yaml import YAML

EXACT_TAG = re.compile(r"[\w./-]+:v?\d+\.\d+[\w.-]*")


def hadolint(file) -> str:
    done = subprocess.run([TOOLS / "hadolint", "--no-color", file], capture_output=True, text=True, check=False)
    return done.stdout


def test_hadolint_finds_nothing():
    assert hadolint(DOCKERFILE) == ""


@pytest.mark.parametrize(
    ("right", "wrong", "rule"),
    [
        ("FROM python:3.11.13-slim-bookworm", "FROM python:latest", "DL3007"),
        ("USER 1000:1000", "USER root", "DL3002"),
        ("--no-install-recommends ", "", "DL3015"),
        ("WORKDIR /opt/vsae", "WORKDIR opt/vsae", "DL3000"),
    ],
)
def test_hadolint_finds_a_mistake(tmp_path, right, wrong, rule):
    text = DOCKERFILE.read_text()
    assert right in text
    file = tmp_path / "Dockerfile"
    file.write_text(text.replace(right, wrong))
    assert rule in hadolint(file)


def test_images_run_as_a_user_and_are_built_from_exact_versions():
    steps = instructions(DOCKERFILE.read_text())
    stages = [argument.split() for word, argument in steps if word == "FROM"]
    assert [stage[-1] for stage in stages] == ["base", "cpu", "cuda"]
    assert EXACT_TAG.fullmatch(stages[0][0])
    assert [stage[0] for stage in stages[1:]] == ["base", "base"]
    users = [argument for word, argument in steps if word == "USER"]
    assert users == ["1000:1000"]
    assert ("ENV", "RAY_AUTH_MODE=token") in [
        ("ENV", part) for word, text in steps if word == "ENV" for part in text.split()
    ]
    installs = [argument for word, argument in steps if word == "RUN" and "pip install" in argument]
    assert len(installs) == 2
    assert all("--constraint constraints.txt" in argument for argument in installs)


def test_what_is_copied_into_the_image_exists_and_is_let_through():
    rules = (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text().splitlines()
    assert next(rule for rule in rules if rule and not rule.startswith("#")) == "*"
    for word, argument in instructions(DOCKERFILE.read_text()):
        if word == "COPY":
            sources = [part for part in argument.split() if not part.startswith("--")][:-1]
            assert all((ROOT / source).exists() for source in sources)
            assert all(f"!{source}" in rules for source in sources)


def compose_mistakes(file) -> str:
    words = [TOOLS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", file]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout


def test_the_compose_file_is_one(tmp_path):
    assert compose_mistakes(CLUSTER / COMPOSE) == ""
    document = load(COMPOSE)
    document["services"]["mlflow"]["environment_"] = document["services"]["mlflow"].pop("environment")
    file = tmp_path / "compose.yaml"
    with file.open("w") as stream:
        YAML().dump(document, stream)
    assert "environment_" in compose_mistakes(file)


@pytest.mark.parametrize("service", load(COMPOSE)["services"])
def test_services_are_open_to_this_machine_only(service):
    definition = load(COMPOSE)["services"][service]
    assert all(port.startswith("127.0.0.1:") for port in definition.get("ports", []))
    assert "network_mode" not in definition
    assert not definition.get("privileged", False)


@pytest.mark.parametrize("service", load(COMPOSE)["services"])
def test_services_are_pinned_and_watched(service):
    definition = load(COMPOSE)["services"][service]
    assert EXACT_TAG.fullmatch(definition["image"])
    assert "healthcheck" in definition or definition["restart"] == "no"
    for name, wanted in definition.get("depends_on", {}).items():
        other = load(COMPOSE)["services"][name]
        awaited = "service_healthy" if "healthcheck" in other else "service_completed_successfully"
        assert wanted == {"condition": awaited}


def test_mounted_files_exist():
    for definition in load(COMPOSE)["services"].values():
        for volume in definition.get("volumes", []):
            source, _, rest = volume.partition(":")
            if source.startswith("."):
                assert (CLUSTER / "compose" / source).is_file()
                assert rest.endswith(":ro")


def test_every_secret_has_to_be_set_and_none_is_given():
    used = set()
    for path, value in leaves(load(COMPOSE)):
        if re.search(r"PASSWORD|KEY", path.rpartition(".")[2]):
            assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", str(value)), path
        used |= set(re.findall(r"\$\{(\w+)", str(value)))
    example = (CLUSTER / "compose/.env.example").read_text()
    assert set(re.findall(r"^(\w+)=(.*)$", example, flags=re.MULTILINE)) == {(name, "") for name in used}


def test_databases_that_addresses_name_are_made():
    document = load(COMPOSE)
    made = {document["services"]["postgres"]["environment"]["POSTGRES_DB"]}
    made |= set(re.findall(r"CREATE DATABASE (\w+);", (CLUSTER / "compose/optuna.sql").read_text()))
    address = document["services"]["mlflow"]["environment"]["MLFLOW_BACKEND_STORE_URI"]
    assert address.rpartition("/")[2] in made
    assert made == {"mlflow", "optuna"}


@pytest.mark.parametrize("existing", [[], ["other"], ["mlflow"]])
def test_a_bucket_is_made_once(monkeypatch, existing):
    made = []
    client = SimpleNamespace(
        list_buckets=lambda: {"Buckets": [{"Name": name} for name in existing]},
        create_bucket=lambda Bucket: made.append(Bucket),
    )
    monkeypatch.setitem(sys.modules, "boto3", SimpleNamespace(client=lambda service: client))
    monkeypatch.setattr(sys, "argv", ["bucket.py", "mlflow"])
    runpy.run_path(str(CLUSTER / "compose/bucket.py"), run_name="__main__")
    assert made == ([] if "mlflow" in existing else ["mlflow"])
