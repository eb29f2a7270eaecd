"""A real MLflow server is down when the sweep starts, or is killed in the middle and comes back."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from fault_helpers import Listener, check_exactly_once, ended, facts, meanwhile, toy, until

from vsae_search.search import run_sweep
from vsae_search.space import TrackingSpec
from vsae_search.tracking import MlflowListener

LONGEST_CALL_S = 1.0
"""A request to a dead server takes seconds; the loop that schedules trials must not feel one."""

pytestmark = [pytest.mark.usefixtures("shared_ray"), pytest.mark.timeout(900)]


class Server:
    """``mlflow server`` as a process, on a port that stays the same."""

    def __init__(self, folder: Path, database: Path) -> None:
        self.folder, self.database = folder, folder / "server.db"
        shutil.copy(database, self.database)
        with closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)),
            *("--workers", "1", "--backend-store-uri", f"sqlite:///{self.database}", "--serve-artifacts"),
            *("--artifacts-destination", str(self.folder / "artifacts")),
        ]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        until(self.answers, "the server")

    def answers(self) -> bool:
        try:
            with urlopen(f"{self.address}/health", timeout=1) as answer:
                return answer.status == 200
        except OSError:
            return False

    def kill(self) -> None:
        """SIGKILL it and its worker."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def server(folder, empty_mlflow, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    (folder / "server").mkdir()
    server = Server(folder / "server", empty_mlflow)
    yield server
    server.kill()


class Timed:
    """A listener between the sweep and another one: how long did the sweep wait for it?"""

    def __init__(self, inner: Any) -> None:
        self.inner, self.longest_s = inner, 0.0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)

        def call(*arguments: Any) -> Any:
            begun = time.monotonic()
            try:
                return method(*arguments)
            finally:
                self.longest_s = max(self.longest_s, time.monotonic() - begun)

        return call


def track(folder: Path, server: Server) -> MlflowListener:
    return MlflowListener(folder / "sweeps" / "toy", TrackingSpec(uri=server.address), flush_period_s=0.1)


def test_mlflow_down_at_start(folder, server, undisturbed):
    """The sweep ends as ever, says what is missing, and the next start delivers it without training anything."""
    tracking = track(folder, server)
    timed = Timed(tracking)
    run_sweep(toy(), root=folder / "sweeps", listeners=[timed])
    status = tracking.close()
    assert facts(folder / "sweeps" / "toy") == undisturbed
    assert status.pending > 0
    assert status.last_error is not None
    assert timed.longest_s < LONGEST_CALL_S

    server.start()
    again, listener = track(folder, server), Listener()
    run_sweep(toy(), root=folder / "sweeps", listeners=[again, listener])
    assert again.close().complete
    assert {what for what, _ in listener.told} == {"end"}
    server.kill()
    check_exactly_once(folder / "sweeps" / "toy", server.database)


def test_mlflow_down_in_the_middle_and_back(folder, server, undisturbed):
    """The server is killed while trials run and comes back before the end: no trial waits, and nothing is missing."""
    server.start()
    tracking = track(folder, server)
    timed = Timed(tracking)
    back = []

    def act() -> None:
        until(lambda: len(ended(folder)) >= 2 and tracking.status.delivered > 0)
        server.kill()
        until(lambda: len(ended(folder)) >= 10)
        server.start()
        back.append(True)

    with meanwhile(act):
        run_sweep(toy(), root=folder / "sweeps", listeners=[timed])
        until(lambda: back)
    assert tracking.close().complete
    assert timed.longest_s < LONGEST_CALL_S
    assert facts(folder / "sweeps" / "toy") == undisturbed
    server.kill()
    check_exactly_once(folder / "sweeps" / "toy", server.database)
