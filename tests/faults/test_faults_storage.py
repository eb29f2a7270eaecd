"""The disk is full, or somebody holds the database."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from fault_helpers import check_exactly_once, ended, facts, meanwhile, optuna_states, toy, until

from vsae_search.errors import EnvironmentNotReady
from vsae_search.search import load_sweep, run_sweep
from vsae_search.search import sweep as sweep_module
from vsae_search.search.propose import database

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.usefixtures("shared_ray"), pytest.mark.timeout(900)]


@contextmanager
def small_disk(place: Path, megabytes: int) -> Iterator[None]:
    """A file system of its own that is soon full; where nobody may mount one, the test is skipped."""
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(place)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("this user may not mount a small file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(place: Path) -> None:
    """Write until nothing more fits."""
    with (place / "ballast").open("wb", buffering=0) as file:
        for size in (2**16, 2**10, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def orphans(directory: Path) -> set[str]:
    """Trials that Optuna believes to be failed: they would have lost an attempt."""
    return {uid for uid, state in optuna_states(directory) if state == "FAIL"}


def test_full_disk_stops_the_sweep_and_loses_nothing(folder, undisturbed, finish):
    """A real file system fills up in the middle: no further trial is spent on it, and with room again all goes on."""
    root = folder / "sweeps"
    database_file = (root / "toy" / "mlflow.db").read_bytes()
    with small_disk(root, 8):
        (root / "toy").mkdir()
        (root / "toy" / "mlflow.db").write_bytes(database_file)

        def act() -> None:
            until(lambda: len(ended(folder)) >= 3)
            fill(root)

        with meanwhile(act), pytest.raises(EnvironmentNotReady, match="is full") as caught:
            run_sweep(toy(), root=root)
        assert "resume toy" in caught.value.hint
        kept = ended(folder)
        assert 3 <= len(kept) < 12
        (root / "ballast").unlink()
        finish()
        assert facts(root / "toy") == undisturbed
        check_exactly_once(root / "toy")


def limited(folder: str) -> Any:
    """A worker whose files may not grow beyond a kilobyte while ``full`` exists: the kernel refuses its writes."""

    def run(config: dict[str, Any], context: Any) -> None:
        import resource
        from pathlib import Path

        from vsae_search.search.trainable import run_trial

        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        full = (Path(folder) / "full").exists() and config["number"] >= 2
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000 if full else soft, hard))
        try:
            run_trial(config, context)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return run


def test_worker_that_cannot_write_costs_no_attempt(folder, undisturbed, monkeypatch):
    directory = folder / "sweeps" / "toy"
    (folder / "full").touch()
    monkeypatch.setattr(sweep_module, "run_trial", limited(str(folder)))
    with pytest.raises(EnvironmentNotReady, match="is full"):
        run_sweep(toy(), root=folder / "sweeps")
    assert load_sweep(directory)[0].status == "failed"
    assert orphans(directory) == set()
    (folder / "full").unlink()
    run_sweep(toy(), root=folder / "sweeps")
    assert facts(directory) == undisturbed
    assert {trial.attempt for trial in load_sweep(directory)[1]} == {0}


@contextmanager
def held(path: Path) -> Iterator[None]:
    """A second program has a database for itself."""
    with closing(sqlite3.connect(path, timeout=30.0, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")


def test_locked_databases_are_waited_for(folder, undisturbed, finish):
    """Both databases are held for a while in the middle of the sweep: nothing fails, and nothing is lost."""
    directory = folder / "sweeps" / "toy"

    def act() -> None:
        until(lambda: len(ended(folder)) >= 2)
        with held(directory / "optuna.db"), held(directory / "mlflow.db"):
            time.sleep(2.0)

    with meanwhile(act):
        finish()
    assert facts(directory) == undisturbed
    check_exactly_once(directory)


def test_database_that_stays_locked_ends_the_sweep_with_a_hint(folder, undisturbed, monkeypatch):
    directory = folder / "sweeps" / "toy"
    monkeypatch.setattr(database, "_BUSY_TIMEOUT_S", 0.5)
    over = []

    def act() -> None:
        until(lambda: len(ended(folder)) >= 2)
        with held(directory / "optuna.db"):
            until(lambda: over)

    def sweep() -> None:
        try:
            run_sweep(toy(), root=folder / "sweeps")
        finally:
            over.append(True)

    with meanwhile(act), pytest.raises(EnvironmentNotReady, match="held by another program") as caught:
        sweep()
    assert "resume toy" in caught.value.hint
    run_sweep(toy(), root=folder / "sweeps")
    assert facts(directory) == undisturbed
