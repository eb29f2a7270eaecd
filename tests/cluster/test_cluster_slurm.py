"""The Slurm script: linted, and run with stand-ins for Slurm and Ray."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from manifests import SBATCH, TOOLS

SPACE = "my spaces/it's $HOME.yaml"
DRIVER = ["-m", "vsae_search", "sweep", SPACE, "--address", "node-a:6379", "--root"]


def shellcheck(file: Path) -> str:
    return subprocess.run([TOOLS / "shellcheck", file], capture_output=True, text=True, check=False).stdout


def test_shellcheck_and_bash_find_nothing():
    assert shellcheck(SBATCH) == ""
    subprocess.run(["bash", "-n", SBATCH], check=True)
    assert SBATCH.stat().st_mode & stat.S_IXUSR


@pytest.mark.parametrize(
    ("right", "wrong", "rule"), [('"$space"', "$space", "SC2086"), ("steps=$!", "stpes=$!", "SC2034")]
)
def test_shellcheck_finds_a_mistake(tmp_path, right, wrong, rule):
    file = tmp_path / "sweep.sbatch"
    file.write_text(SBATCH.read_text().replace(right, wrong))
    assert rule in shellcheck(file)


def test_the_job_has_its_nodes_to_itself_and_can_be_requeued():
    options = re.findall(r"^#SBATCH (--[\w-]+)(?:=(\S+))?$", SBATCH.read_text(), flags=re.MULTILINE)
    given = dict(options)
    assert {"--exclusive", "--requeue"} <= given.keys()
    assert given["--signal"] == "B:TERM@180"
    assert given["--open-mode"] == "append"
    assert given["--ntasks-per-node"] == "1"


class Job:
    """A run of the script as Slurm would start it on the first of two nodes."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self.calls_file = folder / "calls.jsonl"
        self.root = folder / "shared folder"
        bin_folder = folder / "home/.venv/bin"
        bin_folder.mkdir(parents=True)
        stub = Path(__file__).with_name("slurm_stub.py")
        for name in ("scontrol", "srun", "ray", "python"):
            file = bin_folder / name
            file.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{stub}" "$0" "$@"\n')
            file.chmod(0o755)
        slurm = {"SLURM_JOB_ID": "42", "SLURM_JOB_NODELIST": "node-[a-b]", "SLURM_JOB_NUM_NODES": "2"}
        machine = {"SLURM_CPUS_ON_NODE": "16", "SLURM_GPUS_ON_NODE": "4", "VSAE_HOME": str(folder / "home")}
        private = {
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "CALLS": str(self.calls_file),
            "PATH": os.environ["PATH"],
        }
        words = ["bash", SBATCH, SPACE, self.root, "--name", "two words"]
        self.process = subprocess.Popen(
            words,
            env={**slurm, **machine, **private, **environment, "CALLS": str(self.calls_file)},
            start_new_session=True,
            text=True,
        )

    @property
    def calls(self) -> list[dict]:
        return (
            [json.loads(line) for line in self.calls_file.read_text().splitlines()] if self.calls_file.exists() else []
        )

    def of(self, name: str) -> list[dict]:
        return [call for call in self.calls if call["name"] == name]

    def terminate_when_it_drives(self) -> int:
        deadline = time.monotonic() + 60
        while not any("ready" in call for call in self.calls):
            assert self.process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@pytest.fixture
def start(tmp_path):
    """Starts the script; what is left of it at the end is killed, with everything that it started."""
    jobs = []

    def begin(**environment: str) -> Job:
        jobs.append(Job(tmp_path, **environment))
        return jobs[-1]

    yield begin
    for job in jobs:
        if job.process.poll() is None:
            os.killpg(job.process.pid, signal.SIGKILL)
            job.process.wait()


def test_every_node_runs_ray_and_the_first_one_the_sweep(start):
    job = start(DRIVER_CODE="4")
    assert job.process.wait(60) == 4  # that of the sweep
    (srun,), (ray,), (driver,) = job.of("srun"), job.of("ray"), job.of("python")
    assert srun["argv"][:4] == ["--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=16", "--cpu-bind=none"]
    options = ["--address", "node-a:6379", "--min-nodes", "2", "--num-cpus", "16", "--num-gpus", "4"]
    assert ray["argv"][:10] == ["symmetric-run", *options, "--"]
    assert driver["argv"] == [*DRIVER, str(job.root), "--reports", f"{job.root}/reports", "--name", "two words"]
    assert {call["token"] for call in (srun, ray, driver)} == {"token"}
    assert [call["argv"][0] for call in job.of("scontrol")] == ["show"]
    assert not list(job.folder.glob("vsae-driver.*"))


def test_the_token_is_made_once_and_for_its_owner_only(start, tmp_path):
    token = tmp_path / ".ray/auth_token"
    assert start(DRIVER_CODE="0").process.wait(60) == 0
    assert (len(token.read_text()), stat.S_IMODE(token.stat().st_mode)) == (64, 0o600)


def test_a_token_that_is_there_is_kept_and_closed(start, tmp_path):
    token = tmp_path / ".ray/auth_token"
    token.parent.mkdir()
    token.write_text("mine")
    token.chmod(0o644)
    assert start(DRIVER_CODE="0").process.wait(60) == 0
    assert (token.read_text(), stat.S_IMODE(token.stat().st_mode)) == ("mine", 0o600)


def test_when_time_is_up_the_driver_is_told_and_the_job_goes_back_into_the_queue(start):
    job = start()
    assert job.terminate_when_it_drives() == 0
    assert {"name": "driver", "signal": signal.SIGTERM} in job.calls
    assert [call["argv"] for call in job.of("scontrol")][1:] == [["requeue", "42"]]


def test_a_job_is_not_requeued_for_ever(start):
    job = start(SLURM_RESTART_COUNT="3", VSAE_MAX_RESTARTS="3")
    assert job.terminate_when_it_drives() == 143
    assert [call["argv"][0] for call in job.of("scontrol")] == ["show"]


def test_without_arguments_it_says_how_it_is_used(tmp_path):
    done = subprocess.run(["bash", SBATCH], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode != 0
    assert "usage: sbatch" in done.stderr
