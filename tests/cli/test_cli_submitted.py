"""A submitted sweep on a cluster that shares PostgreSQL and a folder: it loses a node, and ends with its report.

The head gives no CPU; one node has one, the other has two. All are ``ray start`` processes of their own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
import pytest
from services.postgres import PASSWORD, Postgres
from services.ray_nodes import RayNodes

from vsae_search.cli import _console, app
from vsae_search.search import load_sweep

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
TOY = Path(__file__).parents[2] / "search_spaces" / "toy.yaml"
SMALL, LARGE = "127.0.0.2", "127.0.0.3"
ROWS = 65_536
BANK_BYTES = ROWS * 20 * 4
SHRUNK = (
    *("--trials", "28", "--set", f"activations.num_tokens={ROWS}", "--set", "activations.evaluation_tokens=1024"),
    *("--set", "activations.calibration_tokens=512", "--set", "activations.shard_tokens=8192"),
    *("--set", "training.num_tokens=600000", "--set", "subject.steps=50", "--set", "search.sampler=qmc"),
)
LIMIT_S = 400.0


@pytest.fixture(scope="module")
def database():
    server = Postgres()
    for name in ("mlflow", "optuna"):
        server.query("postgres", f"CREATE DATABASE {name}")
    yield server
    server.remove()


@pytest.fixture(scope="module")
def nodes(database):
    shared = {
        "VSAE_SEARCH_STUDY_STORAGE": database.address("optuna"),
        "VSAE_SEARCH_TRACKING_URI": database.address("mlflow"),
        "PGPASSWORD": PASSWORD,
    }
    nodes = RayNodes(shared)
    try:
        nodes.start_head()
        nodes.start_node(SMALL, 1)
        nodes.start_node(LARGE, 2)
        nodes.until_joined(3)
        yield nodes
    finally:
        nodes.remove()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("shared") / "sweeps"


@pytest.fixture
def run(nodes, monkeypatch, capsys):
    """The command line in this process, with the token of the cluster; returns (exit code, stdout, stderr)."""
    for name, value in nodes.access.items():
        monkeypatch.setenv(name, value)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["vsae_search", *map(str, arguments)])
        _console.stderr.cache_clear()
        with pytest.raises(SystemExit) as leaving:
            app.main()
        shown = capsys.readouterr()
        return int(leaving.value.code or 0), shown.out, shown.err

    yield call
    _console.configure(quiet=False, debug=False, no_color=False)


def until(condition, what: str):
    end = time.monotonic() + LIMIT_S
    while not (found := condition()):
        assert time.monotonic() < end, f"{what} did not come true"
        time.sleep(0.2)
    return found


def ended(root: Path, name: str) -> int:
    return len(list((root / name / "trials").glob("*/record.json")))


def status_of(run, nodes, name: str) -> str:
    _, out, _ = run("status", "--address", nodes.jobs, "-o", "json")
    return next(job["status"] for job in json.loads(out) if job["sweep"] == name)


LOOK = """
import json, sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
from ray._private.internal_api import node_stats
from ray._private.state import actors
where = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
for _ in sys.stdin:
    stores, trials = {}, {}
    for node in where.values():
        stats = node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], False).store_stats
        stores[node["NodeManagerAddress"]] = stats.object_store_bytes_used
    for actor in actors().values():
        node = where.get(actor["Address"]["NodeID"])
        if node is not None and actor["ActorClassName"] == "ImplicitFunc":  # Tune's name for a function
            trials[node["NodeManagerAddress"]] = trials.get(node["NodeManagerAddress"], 0) + 1
    print(json.dumps({"stores": stores, "trials": trials}), flush=True)
"""


class Look:
    """A driver of its own that is connected already when it is asked what the nodes hold."""

    def __init__(self, nodes: RayNodes) -> None:
        command = [sys.executable, "-c", LOOK, nodes.address]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, env=nodes.environment, text=True, cwd="/tmp", **pipes)

    def now(self) -> dict:
        """Bytes in the object store, and processes that run trials, by node."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return json.loads(next(line for line in self.process.stdout if line.startswith("{")))

    def end(self) -> None:
        self.process.communicate(timeout=LIMIT_S)


def test_a_cluster_that_is_ready_passes_the_doctor(run, nodes, root):
    """Asked through a job, from where the driver of a submitted sweep would run."""
    code, out, err = run("doctor", "--address", nodes.jobs, "--root", root)
    assert code == 0, out + err
    assert f"the job server at {nodes.jobs} takes jobs" in out
    assert "there: the cluster has 3 nodes with 3 CPUs and 0 GPUs for trials" in out
    assert "there: the cluster asks for a token" in out
    assert f"there: every node sees and writes {root}" in out
    assert "trials may run on" not in out


def test_a_submitted_sweep_loses_a_node_and_ends_with_its_report(run, nodes, root, database):
    """Through the job server with a token; studies and runs in PostgreSQL; trials and the bank on both nodes."""
    code, out, err = run("submit", TOY, "--address", nodes.jobs, "--root", root, *SHRUNK)
    assert (code, out) == (0, "vsae-toy-1\n"), err
    code, _, err = run("submit", TOY, "--address", nodes.jobs, "--root", root, *SHRUNK)
    assert code == 3, "a second driver is refused"
    assert f"job vsae-toy-1 at {nodes.jobs}" in err
    look = Look(nodes)
    until(lambda: ended(root, "toy") >= 9, "a third of the trials")
    seen = look.now()
    look.end()
    nodes.kill(LARGE)
    assert ended(root, "toy") < 28, "the node died in the middle"
    until(lambda: status_of(run, nodes, "toy") not in ("PENDING", "RUNNING"), "the end of the job")
    _, printed, _ = run("logs", "toy", "--address", nodes.jobs)
    assert status_of(run, nodes, "toy") == "SUCCEEDED", printed

    assert set(seen["trials"]) == {SMALL, LARGE}, f"trials on both nodes, none on the head: {seen}"
    for host in (SMALL, LARGE):
        assert 0 < seen["stores"][host] < 1.5 * BANK_BYTES, f"one copy of the bank: {seen}"
    record, trials = load_sweep(root / "toy")
    assert (record.status, record.resources["nodes"], len(trials)) == ("completed", 3, 28)
    assert {trial.state for trial in trials} <= {"completed", "diverged"}
    check_report(root / "reports" / "toy")
    check_databases(database, root / "toy", {trial.uid for trial in trials})


def check_report(folder: Path) -> None:
    """Every trial of every architecture is in the report."""
    report = json.loads((folder / "report.json").read_text())
    assert (folder / "report.html").stat().st_size > 100_000
    assert PASSWORD not in (folder / "report.html").read_text() + json.dumps(report)


def check_databases(database: Postgres, directory: Path, uids: set[str]) -> None:
    """Each trial once in Optuna and once in MLflow, and nothing of either in the sweep directory."""
    told = database.query(
        "optuna",
        "SELECT a.value_json FROM trials t JOIN trial_user_attributes a ON a.trial_id = t.trial_id AND a.key = 'uid' "
        "WHERE t.state = 'COMPLETE'",
    )
    assert sorted(json.loads(row[0]) for row in told) == sorted(uids)
    runs = database.query("mlflow", "SELECT t.value FROM tags t WHERE t.key = 'vsae.trial_uid'")
    assert sorted(row[0] for row in runs) == sorted(uids)
    assert not {"optuna.db", "mlflow.db"} & {path.name for path in directory.iterdir()}


def test_the_same_command_again_goes_on(run, nodes, root):
    """A new job of the same name finds nothing left to do; the status is asked for on the cluster."""
    before = {path: path.stat().st_mtime_ns for path in (root / "toy" / "trials").glob("*/record.json")}
    code, out, _ = run("submit", TOY, "--address", nodes.jobs, "--root", root, *SHRUNK)
    assert (code, out) == (0, "vsae-toy-2\n")
    code, out, err = run("logs", "toy", "--address", nodes.jobs, "--follow")
    assert "report.html" in out, err
    assert out.count("report.html") == 1
    assert "vsae-toy-2   succeeded" in err
    assert before == {path: path.stat().st_mtime_ns for path in (root / "toy" / "trials").glob("*/record.json")}
    code, out, _ = run("status", "toy", "--address", nodes.jobs)
    assert code == 0
    assert "vsae-toy-2   succeeded" in out
    assert "completed   28/28 trials" in out


def test_a_submitted_sweep_is_stopped_from_outside(run, nodes, root):
    """``stop --now`` reaches the driver on the cluster through the sweep directory."""
    slow = ("--name", "slow", *SHRUNK, "--set", "training.num_tokens=50000000")
    assert run("submit", TOY, "--address", nodes.jobs, "--root", root, *slow)[0] == 0
    running = root / "slow" / "running.json"
    until(lambda: running.is_file() and "architecture" in running.read_text(), "a trial")
    code, _, err = run("stop", "slow", "--now", "--address", nodes.jobs)
    assert (code, "slow, job vsae-slow-1, is stopped" in err) == (0, True), err
    until(lambda: status_of(run, nodes, "slow") == "FAILED", "the end of the job")
    assert load_sweep(root / "slow")[0].status == "interrupted"
    code, _, err = run("stop", "slow", "--address", nodes.jobs)
    assert "slow is not running: job vsae-slow-1 has failed" in err


@pytest.mark.skipif(
    os.getuid() != 0 or shutil.which("unshare") is None, reason="needs root, to hide a folder from a node"
)
def test_a_node_that_does_not_share_the_folder_is_named(run, nodes, root):
    """It has an empty folder under the same path: doctor and sweep say so, and nothing is computed."""
    hide = f'mount -t tmpfs none {root.parent} && mkdir -p {root} && exec "$@"'
    tried = subprocess.run(["unshare", "-m", "sh", "-c", "true"], capture_output=True)
    if tried.returncode != 0:
        pytest.skip("this machine does not let a process have mounts of its own")
    nodes.start_node("127.0.0.4", 1, around=("unshare", "-m", "sh", "-c", hide, "sh"))
    nodes.until_joined(len(nodes.nodes))
    code, out, _ = run("doctor", "--address", nodes.jobs, "--root", root)
    assert code == 3
    assert "there: 127.0.0.4 does not see what the driver writes" in out
    assert run("submit", TOY, "--name", "split", "--address", nodes.jobs, "--root", root, *SHRUNK)[0] == 0
    until(lambda: status_of(run, nodes, "split") == "FAILED", "the end of the job")
    _, out, _ = run("logs", "split", "--address", nodes.jobs)
    assert f"{root / 'split'} is not shared by all nodes" in out
    assert "127.0.0.4 does not see" in out
    assert not list((root / "split" / "trials").iterdir())


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("logs", "nothing"), 2, "No sweep called 'nothing' was submitted"),
        (("status", "nothing"), 2, "No sweep called 'nothing' was submitted"),
        (("stop", "nothing"), 2, "No sweep called 'nothing' was submitted"),
    ],
)
def test_an_unknown_job_is_refused_with_the_known_ones(run, nodes, arguments, code, said):
    got, _, err = run(*arguments, "--address", nodes.jobs)
    assert got == code
    assert said in err


def test_a_wrong_token_is_refused(run, nodes, monkeypatch):
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    code, _, err = run("status", "--address", nodes.jobs)
    assert code == 3
    assert f"the cluster at {nodes.jobs} refuses the token" in err


def test_the_job_server_takes_nothing_without_the_token(nodes):
    """Neither a job nor a question, and it listens on the loopback alone."""
    job = json.dumps({"entrypoint": "true"}).encode()
    for path, body in (("/api/jobs/", job), ("/api/jobs/", None), ("/nodes?view=summary", None)):
        with pytest.raises(HTTPError) as refused:
            urlopen(Request(nodes.jobs + path, data=body, headers={"Content-Type": "application/json"}), timeout=30)
        assert refused.value.code == 401
        refused.value.close()
    listening = [c.laddr for c in psutil.net_connections("tcp4") if c.laddr.port == nodes.port and c.status == "LISTEN"]
    assert {address.ip for address in listening} == {"127.0.0.1"}
