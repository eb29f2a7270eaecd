"""A Ray cluster of real ``ray start`` processes on this machine; each node but the head is at an address of its own in
127.0.0.0/8."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import psutil
from ray.util import get_node_ip_address
from services.postgres import free_port

_LIMIT_S = 240.0
_STORE_BYTES = 80_000_000


class RayNodes:
    """A head that gives no CPU, and the nodes that join it; all ask for a token.

    Args:
        environment: Variables of every node, and so of the jobs that run there.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="vsr-", dir="/tmp"))  # short: sockets are made below it
        self.token = secrets.token_hex(32)
        self.gcs_port, self.port = free_port(), free_port()
        token_file = self.folder / "token"
        token_file.touch(mode=0o600)
        token_file.write_text(self.token)
        self.access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token_file)}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**os.environ, **self.access, "PATH": path, **environment}
        self.head = get_node_ip_address()  # drivers look for a node with the address of their machine
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def address(self) -> str:
        """Of the head, for drivers."""
        return f"{self.head}:{self.gcs_port}"

    @property
    def jobs(self) -> str:
        """Of the job server."""
        return f"http://127.0.0.1:{self.port}"

    def start_head(self) -> None:
        dashboard = ["--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={self.port}"]
        self._start(self.head, ["--head", f"--port={self.gcs_port}", "--num-cpus=0", "--num-gpus=0", *dashboard])
        self._until(self._takes_jobs, "the job server")

    def start_node(self, host: str, cpus: int, *, around: tuple[str, ...] = ()) -> None:
        """Have a node join; ``around`` is a command that runs it."""
        arguments = [f"--address={self.address}", f"--num-cpus={cpus}", "--num-gpus=0"]
        arguments.append(f"--resources={json.dumps({f'on_{host}': 1})}")
        self._start(host, arguments, around)

    def until_joined(self, count: int) -> None:
        """Wait until so many nodes are alive, the head among them."""
        self._until(lambda: len(self._alive()) >= count, f"{count} nodes")

    def kill(self, host: str) -> None:
        """SIGKILL a node with all that runs on it."""
        process = self.nodes.pop(host)
        with suppress(psutil.NoSuchProcess):
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            for member in family:
                with suppress(psutil.NoSuchProcess):
                    member.send_signal(signal.SIGKILL)
            psutil.wait_procs(family, timeout=30)
        process.wait()

    def remove(self) -> None:
        """End every node, the head last, and leave nothing behind."""
        for host in reversed(list(self.nodes)):
            self.kill(host)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, host: str, arguments: list[str], around: tuple[str, ...] = ()) -> None:
        ports = [f"--dashboard-agent-listen-port={free_port()}", f"--node-ip-address={host}"]
        limits = [f"--object-store-memory={_STORE_BYTES}", "--disable-usage-stats", "--block"]
        temporary = [
            "--temp-dir",
            str(self.folder / host),
        ]  # a node removes what another one unpacked in the same place
        command = [
            *around,
            sys.executable,
            "-m",
            "ray.scripts.scripts",
            "start",
            *arguments,
            *ports,
            *limits,
            *temporary,
        ]
        with (self.folder / f"{host}.log").open("ab") as log:
            self.nodes[host] = subprocess.Popen(
                command, env=self.environment, stdout=log, stderr=log, cwd=self.folder, start_new_session=True
            )

    def _alive(self) -> list[Any]:
        try:
            answer = self._get("/nodes?view=summary")
        except (URLError, OSError):
            return []
        return [node for node in answer["data"]["summary"] if node["raylet"].get("state") == "ALIVE"]

    def _takes_jobs(self) -> bool:
        try:
            return isinstance(self._get("/api/jobs/"), list)
        except (URLError, OSError):
            return False

    def _get(self, path: str) -> Any:
        request = Request(f"{self.jobs}{path}", headers={"Authorization": f"Bearer {self.token}"})
        with urlopen(request, timeout=10) as answer:
            return json.loads(answer.read())

    def _until(self, condition: Any, what: str) -> None:
        end = time.monotonic() + _LIMIT_S
        while not condition():
            assert time.monotonic() < end, f"{what} did not come"
            for host, process in self.nodes.items():
                assert process.poll() is None, (self.folder / f"{host}.log").read_text()[-2000:]
            time.sleep(0.2)
