"""``submit`` against a job server that only remembers what it is sent."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from vsae_search.cli import _connect, _console, _jobs, _parcel, _submitted, app
from vsae_search.errors import EnvironmentNotReady, UserInputError
from vsae_search.space import SearchSpace

SPACE = {
    "name": "toy",
    "subject": {"type": "directions", "d_in": 8, "features": {"count": 12, "probability": 0.1}},
    "architectures": {"topk": {"d_sae": 16, "k": 2}},
}
ADDRESS = "http://127.0.0.1:8265"


class Remembers:
    """The part of Ray's client that is used; jobs end when the test says so."""

    def __init__(self) -> None:
        self.sent: list[dict] = []
        self.status: dict[str, str] = {}
        self.files: list[set[str]] = []

    def submit_job(self, **job):
        if job["submission_id"] in self.status:
            raise RuntimeError(f"Job with submission_id {job['submission_id']} already exists")
        folder = job["runtime_env"].get("working_dir")
        names = set() if folder is None else {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*")}
        self.files.append(names)
        self.sent.append(job)
        self.status[job["submission_id"]] = "RUNNING"
        return job["submission_id"]

    def list_jobs(self):
        return [
            SimpleNamespace(
                submission_id=job["submission_id"],
                metadata=job["metadata"],
                status=SimpleNamespace(value=self.status[job["submission_id"]]),
                message="",
                start_time=None,
            )
            for job in self.sent
        ]


@pytest.fixture
def server(monkeypatch):
    client = Remembers()
    monkeypatch.setattr(_connect, "job_server", lambda address: _jobs.JobServer(address, client))
    return client


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    file = tmp_path / "my space.yaml"
    file.write_text(json.dumps(SPACE))

    def call(*arguments: object) -> tuple[int, str, str]:
        command = ["vsae_search", "submit", str(file), "--address", ADDRESS, "--root", "/shared/my sweeps"]
        monkeypatch.setattr(sys, "argv", [*command, *map(str, arguments)])
        _console.stderr.cache_clear()
        with pytest.raises(SystemExit) as leaving:
            app.main()
        shown = capsys.readouterr()
        return int(leaving.value.code or 0), shown.out, shown.err

    yield call
    _console.configure(quiet=False, debug=False, no_color=False)


def test_arguments_reach_the_cluster_as_they_are(run, server):
    """The cluster's shell takes the command apart again: nothing in it may have a meaning of its own there."""
    text = "description='a; touch /tmp/x $(id) `id` \"b\"'"
    code, out, _ = run("--name", "other", "--trials", 3, "--set", text, "--set", "seed=5", "--trust")
    assert (code, out) == (0, "vsae-other-1\n")
    assert shlex.split(server.sent[0]["entrypoint"]) == [
        *("python", "-m", "vsae_search", "sweep", "my space.yaml", "--name", "other", "--trials", "3"),
        *("--set", text, "--set", "seed=5", "--root", "/shared/my sweeps", "--reports", "/shared/my sweeps/reports"),
        "--trust",
    ]


def test_the_parcel_holds_the_package_and_the_search_space_and_nothing_else(run, server):
    run()
    assert "my space.yaml" in server.files[0]
    assert {"vsae_search/cli/submit.py", "vsae_search/subjects/tiny_gelu_1l/weights.safetensors"} <= server.files[0]
    assert {name.split("/")[0] for name in server.files[0]} == {"my space.yaml", "vsae_search"}
    assert not any("__pycache__" in name for name in server.files[0])
    assert not Path(server.sent[0]["runtime_env"]["working_dir"]).exists(), "it is taken apart again"
    assert set(server.sent[0]["runtime_env"]["env_vars"]) == {"PYTHONUNBUFFERED"}, "no variable of this machine"


def test_the_package_of_the_cluster(run, server, tmp_path):
    pins = tmp_path / "pins.txt"
    pins.write_text("# ours\nnumpy==2.4.0\n\ntorch==2.13.0+cpu  # small\n")
    assert run("--installed", "--requirements", pins)[0] == 0
    assert server.files[0] == {"my space.yaml"}
    assert server.sent[0]["runtime_env"]["pip"] == ["numpy==2.4.0", "torch==2.13.0+cpu"]
    pins.write_text("numpy>=2\n-r other.txt\nhttps://x/y.whl\nnumpy==1 ; x\n")
    code, _, err = run("--requirements", pins, "--name", "b")
    assert code == 2
    assert all(repr(line) in err for line in ("numpy>=2", "-r other.txt", "https://x/y.whl", "numpy==1 ; x"))


def test_one_job_of_a_sweep_at_a_time(run, server):
    """A second one is refused with the first; after its end the next one has a name of its own."""
    assert run()[:2] == (0, "vsae-toy-1\n")
    code, _, err = run()
    assert code == 3
    assert f"the sweep toy is running already: job vsae-toy-1 at {ADDRESS}" in err
    assert f"python -m vsae_search logs toy --address {ADDRESS}" in err
    for number, end in ((2, "FAILED"), (3, "STOPPED"), (4, "SUCCEEDED")):
        server.status[f"vsae-toy-{number - 1}"] = end
        assert run()[:2] == (0, f"vsae-toy-{number}\n")
    assert run("--name", "toy-4")[:2] == (0, "vsae-toy-4-1\n")


def test_of_two_at_the_same_moment_one_is_refused(run, server, monkeypatch):
    """Both look before either has begun; the cluster takes a name only once."""
    seen = []

    def of(self, sweep):
        seen.append(sweep)
        return [] if len(seen) <= 2 else real(self, sweep)

    real = _jobs.JobServer.of
    monkeypatch.setattr(_jobs.JobServer, "of", of)
    assert run()[0] == 0
    code, _, err = run()
    assert code == 3
    assert "the sweep toy is running already: job vsae-toy-1" in err


def test_a_parcel_has_a_limit(run, server, monkeypatch):
    monkeypatch.setattr(_parcel, "MAX_BYTES", 1000)
    code, _, err = run()
    assert code == 2
    assert "--installed" in err
    assert server.sent == []


def test_files_of_this_machine_are_refused():
    values = {"type": "language_model", "model": "gpt2", "layer": 0, "act_name": "mlp_out"}
    for text, fine in (
        ({"source": "files", "paths": ["/shared/*.txt", "corpus/*.txt"]}, False),
        ({"source": "tokens", "path": "tokens.npy"}, False),
        ({"source": "files", "paths": ["/shared/*.txt"]}, True),
        ({"source": "python_stdlib"}, True),
    ):
        space = SearchSpace.model_validate({**SPACE, "subject": {**values, "text": text}})
        if fine:
            _parcel.require_reachable(space)
        else:
            with pytest.raises(UserInputError, match="which the cluster does not see"):
                _parcel.require_reachable(space)


def test_a_refused_search_space_is_not_sent(run, server):
    code, _, err = run("--set", "architectures.topk.k=0")
    assert code == 2
    assert "architectures.topk.k" in err
    assert server.sent == []


def test_what_is_no_job_server_is_told(monkeypatch):
    """Nobody there; and Ray's own variables do not lead elsewhere."""
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:2")
    with pytest.raises(EnvironmentNotReady, match=r"no cluster answers at http://127\.0\.0\.1:1: "):
        _connect.job_server("http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("printed", "value"),
    [
        ('2026 INFO Running entrypoint\n{"a": [1]}\n', {"a": [1]}),
        ("noise {x}\n[\n  1\n]\nmore", [1]),
        ("{broken\n", None),
        ("", None),
    ],
)
def test_json_is_found_in_what_a_job_printed(printed, value):
    assert _jobs.json_in(printed) == value


def test_following_tells_every_line_once(monkeypatch):
    """Whole lines while the job runs, so that nothing is masked by halves; the rest at its end."""
    printed = iter(["", "one\ntw", "one\ntwo\n", "one\ntwo\n", "one\ntwo\nend"])
    states = iter(["PENDING", "RUNNING", "RUNNING", "RUNNING", "FAILED"])
    client = SimpleNamespace(
        get_job_status=lambda _: SimpleNamespace(value=next(states)), get_job_logs=lambda _: next(printed)
    )
    monkeypatch.setattr(_jobs, "_FOLLOW_S", 0.0)
    assert list(_jobs.JobServer(ADDRESS, client).follow(SimpleNamespace(id="x"))) == ["one\n", "two\n", "end"]


@pytest.mark.parametrize(
    ("status", "answer", "ended", "told"),
    [
        ("RUNNING", (True, '{"sweep": "toy", "asked": true}\n'), [], "starts no more trials"),
        ("RUNNING", (True, '{"sweep": "toy", "asked": false}\n'), ["vsae-toy-1"], "had not begun to search"),
        ("RUNNING", (False, "no such folder\n"), ["vsae-toy-1"], "could not be asked"),
        ("PENDING", None, ["vsae-toy-1"], "had not begun to search"),
        ("SUCCEEDED", None, [], "is not running: job vsae-toy-1 has succeeded"),
    ],
)
def test_a_job_is_asked_through_its_sweep_and_ended_where_there_is_none(
    monkeypatch, capsys, status, answer, ended, told
):
    stopped: list[str] = []
    job = _jobs.Job("vsae-toy-1", 1, "toy", "/shared", False, status, "", None)
    server = SimpleNamespace(
        address=ADDRESS, latest=lambda _: job, ask=lambda *_: answer, stop=lambda one: stopped.append(one.id)
    )
    monkeypatch.setattr(_submitted, "job_server", lambda _: server)
    monkeypatch.setattr(sys, "argv", ["vsae_search", "stop", "toy", "--address", ADDRESS, "--output", "json"])
    _console.stderr.cache_clear()
    with pytest.raises(SystemExit) as leaving:
        app.main()
    shown = capsys.readouterr()
    assert not leaving.value.code
    assert told in shown.err
    assert json.loads(shown.out) == {"sweep": "toy", "job": "vsae-toy-1", "asked": status != "SUCCEEDED"}
    assert stopped == ended
