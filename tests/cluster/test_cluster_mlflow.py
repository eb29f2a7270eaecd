"""The list of hosts in the compose file, on a real MLflow server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from http.client import HTTPConnection

import pytest
from manifests import COMPOSE, load

QUESTION = "/api/2.0/mlflow/experiments/get?experiment_id=0"


def answer(port: int, path: str, host: str) -> int:
    """The status that a client gets that calls the server by this name."""
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path, headers={"Host": host})
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with the options of the compose file, but for address, port and stores."""
    command = load(COMPOSE)["services"]["mlflow"]["command"]
    assert command[:2] == ["mlflow", "server"]
    kept = [option for option in command[2:] if option.split("=")[0] == "--allowed-hosts"]
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=1", *kept]
    words += [f"--backend-store-uri=sqlite:///{folder}/mlflow.db", f"--artifacts-destination={folder}"]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(words, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while True:
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            try:
                if answer(port, "/health", "localhost:5000") == 200:
                    break
            except OSError:
                time.sleep(0.1)
        yield port
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("mlflow:5000", 200),  # other services
        ("localhost:5000", 200),  # this machine
        ("127.0.0.1:5000", 200),
        ("evil.example", 403),
        ("evil.example:5000", 403),
        ("mlflow.evil.example:5000", 403),
        ("192.168.1.7:5000", 403),
    ],
)
def test_only_named_hosts_are_answered(server, host, status):
    assert answer(server, QUESTION, host) == status


def test_the_health_check_asks_what_a_refused_client_would_see(server):
    """/health is answered to everybody, so the check of the compose file must not ask for it."""
    check = " ".join(load(COMPOSE)["services"]["mlflow"]["healthcheck"]["test"])
    assert answer(server, "/health", "evil.example") == 200
    assert "/health'" not in check
    assert QUESTION in check
    assert "'Host': 'mlflow:5000'" in check
