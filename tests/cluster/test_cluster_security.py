"""What holds for every file of the folder: tokens on, doors closed, no secrets, floors."""

from __future__ import annotations

import re
import subprocess

import pytest
from manifests import (
    CLUSTER,
    COMPOSE,
    DOCKERFILE,
    KUBERAY,
    LAUNCHERS,
    ROOT,
    SBATCH,
    cluster_spec,
    leaves,
    load,
    requirement,
)

FILES = sorted(path for path in CLUSTER.rglob("*") if path.suffix not in (".md", ".json") and path.is_file())
PAGES = sorted([*CLUSTER.rglob("*.md"), ROOT / "docs/cluster.md", ROOT / "docs/scaling.md"])
# What a key of a well-known service looks like, and a name of a secret with a value that is written out.
KEYS = re.compile(
    r"AKIA[0-9A-Z]{16}|hf_[A-Za-z0-9]{30,}|gh[pousr]_[A-Za-z0-9]{30,}|-----BEGIN [A-Z ]*PRIVATE KEY-----|://[^/\s:@$]+:[^@\s$]+@"
)
ASSIGNED = re.compile(r"(?i)\b[\w-]*(?:password|passwd|secret_key|access_key|auth_token)\b\s*[:=][ \t]*(\S+)")
# A variable, the demand for one, a path, or nothing: not a secret.
NO_SECRET = re.compile(r"^(?:\?|[\"']?\$|[\"']?~?/|[\"']?\.\.\.|\||#)")


def written_out(text: str) -> list[str]:
    """Secrets that a text carries: keys by their shape, and values given to what is named like a secret."""
    values = [match[1] for match in ASSIGNED.finditer(text)]
    return KEYS.findall(text) + [value for value in values if not NO_SECRET.match(value)]


@pytest.mark.parametrize("path", [*FILES, *PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_no_secret_is_written_out(path):
    assert written_out(path.read_text()) == []


@pytest.mark.parametrize(
    "line",
    [
        "POSTGRES_PASSWORD: postgres",
        "AWS_SECRET_ACCESS_KEY=minioadmin",
        "url: postgresql://vsae:hunter2@db/mlflow",
        "key: AKIAABCDEFGHIJKLMNOP",
        "RAY_AUTH_TOKEN: abc",
    ],
)
def test_a_secret_that_is_written_out_is_found(line):
    assert written_out(line)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CLUSTER)))
def test_no_floating_tag(path):
    assert ":latest" not in path.read_text()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CLUSTER)))
def test_nothing_listens_everywhere_but_a_container_behind_its_own_port_list(path):
    lines = [line for line in path.read_text().splitlines() if "0.0.0.0" in line]
    inside = ["command: [server, -dir=/data, -ip.bind=0.0.0.0, -s3, -s3.port=8333]", "- --host=0.0.0.0"]
    assert [line.strip() for line in lines] == (inside if path == CLUSTER / COMPOSE else [])
    assert "dashboard-host=0" not in path.read_text()


def test_every_way_to_start_ray_asks_for_a_token():
    for name in LAUNCHERS:
        starts = [value for _, value in leaves(load(name)) if "ray start" in str(value)]
        assert starts
        assert all("RAY_AUTH_MODE=token" in command for command in starts)
    for name in KUBERAY:
        assert cluster_spec(load(name))["authOptions"]["mode"] == "token"
    assert "export RAY_AUTH_MODE=token" in SBATCH.read_text()
    assert "RAY_AUTH_MODE=token" in DOCKERFILE.read_text()
    for page in PAGES:
        for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL):
            assert "ray start" not in block or "RAY_AUTH_MODE=token" in block, page


def test_no_environment_of_a_job_carries_a_secret():
    for path in FILES:
        assert "runtimeEnvYAML" not in path.read_text()
        assert "env_vars" not in path.read_text()


def test_env_files_stay_out_of_git():
    done = subprocess.run(
        ["git", "check-ignore", "cluster/compose/.env"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "cluster/compose/.env", "git would take the file with the passwords"


@pytest.mark.parametrize(("name", "floor"), [("ray", "2.54.0"), ("mlflow", "3.17.0"), ("torch", "2.6.0")])
def test_floors(name, floor):
    specifier = requirement(name).specifier
    major, minor, _ = map(int, floor.split("."))
    assert specifier.contains(floor)
    assert not specifier.contains(f"{major}.{minor - 1}.99")
