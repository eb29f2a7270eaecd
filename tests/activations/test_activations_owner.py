"""A cluster that outlives its drivers: the next one finds the bank in the object store."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from activations_fakes import FakeSubject

from vsae_search.activations import build_bank, owner
from vsae_search.activations.progress import ProgressReporter
from vsae_search.errors import CorruptFile
from vsae_search.space import ActivationsSpec

SIZES = {"num_tokens": 70, "evaluation_tokens": 12, "calibration_tokens": 9, "shard_tokens": 16}
SPEC = ActivationsSpec(**SIZES)
DRIVER = Path(__file__).with_name("activations_driver.py")


@pytest.fixture(scope="module")
def head():
    """Address of a cluster that no driver started."""
    folder = Path(tempfile.mkdtemp(prefix="vsae-", dir="/tmp"))  # short: the paths of sockets are limited
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=1"]
    command += ["--include-dashboard=false", "--object-store-memory=80000000", f"--temp-dir={folder}", "--port=0"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        address = folder / "ray_current_cluster"
        wait_until(address.exists, process, 90)
        yield address.read_text().strip()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def wait_until(condition, process=None, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        assert process is None or process.poll() is None, "the process ended"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def first(head, tmp_path_factory):
    """What a driver left behind that built a bank and was killed: its banks, its log and the name of the owner."""
    folder = tmp_path_factory.mktemp("owner")
    log, banks = folder / "harvests", folder / "bank"
    log.mkdir()
    path = os.pathsep.join([str(DRIVER.parent), str(DRIVER.parents[2])])
    command = [sys.executable, str(DRIVER), head, str(log), str(banks), json.dumps(SIZES)]
    environment = {**os.environ, "PYTHONPATH": path}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        told = json.loads(process.stdout.readline())
        process.kill()
    return FakeSubject(log=log), banks, told["owner"]


@pytest.fixture(scope="module")
def second(head):
    """This process as the second driver."""
    ray.init(address=head, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()


def rows_of(bank) -> np.ndarray:
    stream = bank.stream(batch_size=7, seed=0)
    x_ND = torch.cat([next(stream) for _ in range(10)]).numpy() / np.float32(bank.manifest.scale)
    return x_ND[np.argsort(x_ND[:, 0])]


def is_alive(name: str) -> bool:
    return any(actor["name"] == name for actor in ray.util.list_named_actors(all_namespaces=True))


@pytest.mark.slow
@pytest.mark.usefixtures("second")
class TestStandingCluster:
    def test_the_next_driver_finds_the_rows_of_one_that_was_killed(self, first):
        subject, banks, name = first
        before = subject.harvests()
        (home,) = banks.iterdir()
        files = {path: path.read_bytes() for path in home.glob("*.safetensors")}
        for path in files:
            path.unlink()  # whoever loads a file now must harvest it
        loaded = []
        try:
            bank = build_bank(subject, SPEC, banks, on_progress=loaded.append)
            assert bank.owner == name
            assert subject.harvests() == before, "nothing was loaded, so nothing was harvested"
            assert (loaded[0].rows_done, loaded[-1].rows_done) == (0, 91)
            x_ND = np.concatenate([subject.harvest(index, rows).x_ND for index, rows in enumerate((16, 16, 16, 16, 6))])
            np.testing.assert_allclose(rows_of(bank), x_ND, rtol=1e-6)
            bank.verify()
        finally:
            for path, content in files.items():
                path.write_bytes(content)

    def test_other_rows_and_other_code_have_owners_of_their_own(self, first, monkeypatch):
        subject, banks, name = first
        other = build_bank(subject, SPEC.model_copy(update={"num_tokens": 20}), banks)
        monkeypatch.setattr(owner, "_source_digest", lambda: "edited")
        edited = build_bank(subject, SPEC, banks)
        assert len({name, other.owner, edited.owner}) == 3
        assert all(is_alive(one) for one in (name, other.owner, edited.owner))
        assert len(rows_of(edited)) == 70
        for bank in (other, edited):
            bank.release()
            wait_until(lambda bank=bank: not is_alive(bank.owner))
        assert is_alive(name)
        bank.release()  # of an owner that has ended: nothing happens

    def test_an_owner_without_a_living_driver_ends_after_a_while(self, first):
        subject, banks, _ = first
        spec = SPEC.model_copy(update={"num_tokens": 30})
        built = build_bank(subject, spec, banks, detached=False)  # its files
        assert built.owner is None
        requests = owner_requests(subject, spec)
        reporter = ProgressReporter(None)
        places = (subject, requests, built.manifest.files, built.plan.directory, reporter)
        owner.serve_from_owner("kept", *places, idle_s=0.1, check_s=0.05)
        actor = ray.get_actor("kept", namespace=owner.NAMESPACE)
        time.sleep(0.5)
        assert is_alive("kept"), "this driver lives"
        ray.get(actor.attach.remote("fffffff0", 0.1))  # a driver that has ended; its job is not among the living
        with contextlib.suppress(ray.exceptions.ActorDiedError):  # the answer may come too late
            ray.get(actor.release.remote(owner._this_job(), at_once=False))
        wait_until(lambda: not is_alive("kept"))

    def test_a_damaged_file_reaches_the_driver_and_can_be_replaced(self, first):
        subject, banks, _ = first
        spec = SPEC.model_copy(update={"num_tokens": 31})
        built = build_bank(subject, spec, banks, detached=False)
        path = built.plan.directory / built.manifest.files[1].file
        good = path.read_bytes()
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        with pytest.raises(CorruptFile, match="checksum"):
            build_bank(subject, spec, banks)
        path.write_bytes(good)
        bank = build_bank(subject, spec, banks)
        assert len(rows_of(bank)[:31]) == 31
        bank.release()


def owner_requests(subject, spec):
    from vsae_search.activations.manifest import bank_requests

    return bank_requests(subject.fingerprint, spec)
