from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import time

import pytest
from search_helpers import tiny_space

from vsae_search.errors import EnvironmentNotReady, UserInputError
from vsae_search.saes import config_classes
from vsae_search.search import SweepRecord
from vsae_search.search.records import SWEEP_FILE, write_record
from vsae_search.search.signals import Interrupts
from vsae_search.search.store.directory import SPACE_FILE, differences, earlier_session, prepare_directory, write_space
from vsae_search.search.store.lock import LOCK_FILE, driver_lock, is_taken_over
from vsae_search.search.store.requests import stop_requests
from vsae_search.space import load_space


def test_only_the_owner_can_read_a_new_directory(tmp_path):
    directory = prepare_directory(tiny_space(), tmp_path / "sweeps")
    assert directory == tmp_path / "sweeps" / "tiny"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    directory.chmod(0o755)
    prepare_directory(tiny_space(), tmp_path / "sweeps")
    assert stat.S_IMODE(directory.stat().st_mode) == 0o755


def test_the_copy_of_the_search_space_means_the_same(tmp_path):
    space = tiny_space()
    write_space(space, tmp_path)
    again = load_space(tmp_path / SPACE_FILE, config_classes())
    assert again.digest() == space.digest()


def record_of(space) -> SweepRecord:
    return SweepRecord(
        name=space.name, digest=space.digest(), space=space.model_dump(mode="json"), seed=space.seed, status="running"
    )


def test_a_sweep_goes_on_with_the_same_search_space_only(tmp_path):
    space = tiny_space()
    assert earlier_session(space, tmp_path) is None
    record = record_of(space)
    write_record(tmp_path / SWEEP_FILE, record)
    assert earlier_session(tiny_space(), tmp_path) == record
    changed = tiny_space(seed=2, training={"num_tokens": 4096, "batch_size": 128, "rungs": [0.5, 1.0]})
    with pytest.raises(UserInputError) as caught:
        earlier_session(changed, tmp_path)
    assert "seed: was 1, is 2" in caught.value.message
    assert "training.num_tokens: was 2048, is 4096" in caught.value.message
    assert "batch_size" not in caught.value.message
    assert "--name" in caught.value.hint


@pytest.mark.parametrize("root", ["file", "/proc/nothing"])
def test_a_folder_that_cannot_be_written_is_no_bug(tmp_path, root):
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentNotReady, match="cannot be kept in") as caught:
        prepare_directory(tiny_space(), tmp_path / root)
    assert "--root" in caught.value.hint


def test_an_existing_directory_has_to_be_writable(tmp_path, monkeypatch):
    prepare_directory(tiny_space(), tmp_path)

    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("vsae_search.search.store.directory.tempfile.TemporaryFile", refuse)
    with pytest.raises(EnvironmentNotReady, match="Permission denied"):
        prepare_directory(tiny_space(), tmp_path)


def test_a_lock_that_cannot_be_written_is_no_bug(tmp_path):
    (tmp_path / LOCK_FILE).mkdir()
    with pytest.raises(EnvironmentNotReady, match="cannot be written"), driver_lock(tmp_path):
        pass


def test_what_changes_no_result_may_change(tmp_path):
    write_record(tmp_path / SWEEP_FILE, record_of(tiny_space()))
    harmless = {
        "description": "other words",
        "resources": {"max_concurrent": 2, "cpus_per_trial": 2.0},
        "tracking": {"experiment": "other"},
        "search": {"trials": 8, "sampler": "qmc", "max_retries": 1},
    }
    assert earlier_session(tiny_space(**harmless), tmp_path) is not None
    with pytest.raises(UserInputError) as caught:
        earlier_session(tiny_space(**harmless, seed=2), tmp_path)
    assert caught.value.message.splitlines()[1:] == ["  seed: was 1, is 2"]


def test_a_digest_of_another_version_is_said_to_be_one(tmp_path):
    write_record(tmp_path / SWEEP_FILE, record_of(tiny_space()).model_copy(update={"digest": "0"}))
    with pytest.raises(UserInputError, match="another version"):
        earlier_session(tiny_space(), tmp_path)


def test_differences_name_what_came_and_went():
    old = {"a": {"k": {"choice": [1, 2]}, "lr": 0.1}, "b": 1}
    new = {"a": {"k": {"choice": [1, 3]}}, "c": None, "b": 1}
    assert list(differences(old, new)) == [
        "  a.k.choice: was [1, 2], is [1, 3]",
        "  a.lr: was 0.1, is gone",
        "  c: is new: None",
    ]


# -- one driver ------------------------------------------------------------------------------------------------------


def test_a_second_driver_is_refused(tmp_path):
    with driver_lock(tmp_path):
        holder = json.loads((tmp_path / LOCK_FILE).read_text())
        assert (holder["host"], holder["pid"]) == (socket.gethostname(), os.getpid())
        refused = pytest.raises(EnvironmentNotReady, match=f"process {os.getpid()} on {socket.gethostname()}")
        with refused, driver_lock(tmp_path):
            pass
    with driver_lock(tmp_path):
        pass


def test_the_lock_is_let_go_of_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), driver_lock(tmp_path):
        raise ZeroDivisionError
    assert (tmp_path / LOCK_FILE).read_text() == ""


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from vsae_search.search.store.lock import driver_lock\n"
        "lock = driver_lock(Path(sys.argv[1])); lock.__enter__(); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -9
    assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] not in (None, os.getpid())
    with driver_lock(tmp_path):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("pid", [2**22 + 1, os.getppid()], ids=["no such process", "another one of that number"])
def test_a_name_left_in_the_file(tmp_path, pid):
    (tmp_path / LOCK_FILE).write_text(json.dumps({"host": socket.gethostname(), "pid": pid, "created": 1.0}))
    with driver_lock(tmp_path):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()


ELSEWHERE = {"host": "another-machine", "pid": 1, "created": 1.0}


def heard_of(path, seconds_ago) -> None:
    then = time.time() - seconds_ago
    os.utime(path, (then, then))


def test_a_driver_of_another_machine_that_is_heard_of_keeps_the_lock(tmp_path, monkeypatch):
    path = tmp_path / LOCK_FILE
    path.write_text(json.dumps(ELSEWHERE))
    heard_of(path, 9.0)
    monkeypatch.setattr("vsae_search.search.store.lock.time.sleep", lambda _: heard_of(path, 0.0))
    with pytest.raises(EnvironmentNotReady, match="process 1 on another-machine"), driver_lock(tmp_path):
        pass
    assert json.loads(path.read_text()) == ELSEWHERE


def test_a_driver_of_another_machine_that_stays_silent_is_taken_over(tmp_path, monkeypatch):
    """Its machine is gone, and the job is repeated on another one."""
    path, waited = tmp_path / LOCK_FILE, []

    def wait(seconds) -> None:
        waited.append(seconds)
        heard_of(path, 9.0 + 20.0 * len(waited))

    path.write_text(json.dumps(ELSEWHERE))
    heard_of(path, 9.0)
    monkeypatch.setattr("vsae_search.search.store.lock.time.sleep", wait)
    with driver_lock(tmp_path):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert len(waited) == 3  # 9, 29 and 49 seconds are not a minute
    assert path.read_text() == ""


def test_whoever_was_taken_over_stops_and_leaves_the_lock_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("vsae_search.search.store.requests.POLL_S", 0.01)
    interrupts = Interrupts()
    with driver_lock(tmp_path), stop_requests(tmp_path, interrupts), interrupts.looping():
        assert not is_taken_over(tmp_path)
        (tmp_path / LOCK_FILE).write_text(json.dumps(ELSEWHERE))
        end = time.monotonic() + 30
        while not interrupts.now and time.monotonic() < end:
            time.sleep(0.01)
        assert interrupts.now
    assert json.loads((tmp_path / LOCK_FILE).read_text()) == ELSEWHERE


def test_a_torn_lock_file_belongs_to_nobody(tmp_path):
    (tmp_path / LOCK_FILE).write_text('{"host": ')
    with driver_lock(tmp_path):
        pass
