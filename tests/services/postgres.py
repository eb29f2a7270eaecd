"""A PostgreSQL server of the test's own: on a free port of 127.0.0.1, with a password, gone afterwards."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import closing
from pathlib import Path

import pytest

USER, PASSWORD = "vsae", "canary-postgres-password"
_LIMIT_S = 60.0


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def programs() -> Path | None:
    """The folder of the server's programs: on the path, or where Debian puts them."""
    on_path = shutil.which("initdb")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return Path(on_path).parent if on_path else found[-1].parent if found else None


class Postgres:
    """A database cluster in a folder of its own. The server refuses to run as root: then another user runs it."""

    def __init__(self) -> None:
        found = programs()
        if found is None:
            pytest.skip("needs PostgreSQL (Debian: apt-get install postgresql)")
        self.programs, self.port = found, free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="vsae-pg-", dir="/tmp"))
        self.process: subprocess.Popen[bytes] | None = None
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        if os.getuid() == 0:
            user = self._other_user()
            for path in (self.folder, secret):
                os.chown(path, user.pw_uid, user.pw_gid)
        self._run("initdb", "-D", self.data, "-U", USER, "-A", "scram-sha-256", "--pwfile", str(secret), "-N")
        self.start()

    @property
    def data(self) -> str:
        return str(self.folder / "data")

    def address(self, database: str, *, password: str | None = None) -> str:
        """SQLAlchemy address; without a password the client takes it from PGPASSWORD."""
        secret = "" if password is None else f":{password}"
        return f"postgresql://{USER}{secret}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        options = ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-k", str(self.folder), "-p", str(self.port)]
        command = self._command("postgres", "-D", self.data, *options)
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", start_new_session=True)
        end = time.monotonic() + _LIMIT_S
        while not self._answers():
            assert time.monotonic() < end, (self.folder / "log").read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        """End it at once; clients lose their connections."""
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait()
            self.process = None

    def remove(self) -> None:
        """End it, and leave nothing behind."""
        self.stop()
        shutil.rmtree(self.folder)

    def query(self, database: str, statement: str) -> list[tuple]:
        """Rows of a statement; one without rows gives none."""
        import psycopg

        with psycopg.connect(self.address(database, password=PASSWORD), autocommit=True) as connection:
            found = connection.execute(statement)
            return found.fetchall() if found.description else []

    def _answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.address("postgres", password=PASSWORD), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _run(self, *command: str) -> None:
        done = subprocess.run(self._command(*command), capture_output=True, text=True, cwd="/")
        assert done.returncode == 0, done.stderr

    def _command(self, program: str, *arguments: str) -> list[str]:
        command = [str(self.programs / program), *arguments]
        if os.getuid() != 0:
            return command
        user = self._other_user()
        return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", *command]

    @staticmethod
    def _other_user() -> pwd.struct_passwd:
        names = {entry.pw_name: entry for entry in pwd.getpwall()}
        return names.get("postgres") or names["nobody"]
