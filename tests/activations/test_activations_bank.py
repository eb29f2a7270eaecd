from __future__ import annotations

import math
import pickle
import shutil
import time
from collections import namedtuple
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest
import ray
import torch
from activations_fakes import FakeSubject, TextSubject

from vsae_search.activations import ActivationBank, BankManifest, BatchStream, build_bank, stores
from vsae_search.activations import bank as bank_module
from vsae_search.activations import plan as plan_module
from vsae_search.errors import CorruptFile, EnvironmentNotReady, UserInputError
from vsae_search.space import ActivationsSpec

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("local_ray")

SPEC = ActivationsSpec(num_tokens=70, evaluation_tokens=12, calibration_tokens=9, shard_tokens=16)
FILES = [*(f"train-{index}" for index in range(5)), "calibration-0", "evaluation-0"]
Usage = namedtuple("Usage", "total used free")


def home_of(bank: ActivationBank, tmp_path: Path) -> Path:
    return tmp_path / "bank" / bank.manifest.key


def training_rows(subject: FakeSubject) -> np.ndarray:
    return np.concatenate([subject.harvest(index, rows).x_ND for index, rows in enumerate((16, 16, 16, 16, 6))])


def epoch_of(stream: BatchStream, num_batches: int) -> np.ndarray:
    return torch.cat([next(stream) for _ in range(num_batches)]).numpy()


def assert_reaches_every_row(steps):
    """One stage is told from 0 to the rows of all seven files, never backwards, and in at least one step per file."""
    total = SPEC.num_tokens + SPEC.calibration_tokens + SPEC.evaluation_tokens
    done = [step.rows_done for step in steps]
    assert {step.rows_total for step in steps} == {total}
    assert done == sorted(done)
    assert (done[0], done[-1], len(set(done))) == (0, total, len(FILES) + 1)
    seconds = [step.seconds for step in steps]
    assert seconds == sorted(seconds)


def test_bank_holds_the_rows_of_the_subject_and_is_not_harvested_twice(subject, tmp_path):
    steps = []
    bank = build_bank(subject, SPEC, tmp_path / "bank", on_progress=steps.append)
    assert subject.harvests() == sorted(FILES)
    assert list(dict.fromkeys(step.stage for step in steps)) == ["harvest", "load"]
    assert_reaches_every_row([step for step in steps if step.stage == "harvest"])
    assert_reaches_every_row([step for step in steps if step.stage == "load"])

    steps.clear()
    again = build_bank(subject, SPEC, tmp_path / "bank", on_progress=steps.append)
    assert subject.harvests() == sorted(FILES)
    assert {step.stage for step in steps} == {"load"}
    assert_reaches_every_row(steps)
    assert again.manifest == bank.manifest
    assert again.plan.missing_bytes == 0
    assert bank.plan.missing_bytes == bank.plan.total_bytes == bank.manifest.num_bytes

    seen_ND = epoch_of(again.stream(batch_size=7, seed=0), 10)
    expected_ND = training_rows(subject) * np.float32(bank.manifest.scale)
    np.testing.assert_array_equal(seen_ND[np.argsort(seen_ND[:, 0])], expected_ND)


def test_every_gpu_has_a_harvester_of_its_own(subject, tmp_path):
    reader = TextSubject(log=subject.log)
    bank = build_bank(reader, SPEC, tmp_path / "bank")
    assert reader.devices() == ["gpu 0", "gpu 1"]
    assert len(reader.processes()) == 2, "each holds the model while it harvests shard after shard"
    end = time.monotonic() + 60
    while any(psutil.pid_exists(process) for process in reader.processes()):
        assert time.monotonic() < end, "a harvester still holds a GPU's memory"
        time.sleep(0.05)
    told = "prepare-16-[('calibration', 9), ('evaluation', 12), ('train', 70)]"
    assert [path.name for path in subject.log.glob("prepare-*")] == [told]
    assert bank.manifest.num_rows == 70
    assert bank.owner is None, "this Ray ends with its driver"
    bank.release()
    assert len(epoch_of(bank.stream(batch_size=7, seed=0), 10)) == 70


def test_a_spill_folder_too_small_is_refused_before_anything_is_harvested(subject, tmp_path, monkeypatch):
    assert stores.measure_stores(tmp_path, 160_000_000)[0].spill_directory is None, "80 % fit: nothing to look at"
    seen = stores.measure_stores(tmp_path, 160_000_001)
    assert [store.capacity_bytes for store in seen] == [200_000_000]
    assert seen[0].spill_directory.is_dir()
    assert 0 < seen[0].usable_bytes < shutil.disk_usage(seen[0].spill_directory).free
    small = [replace(seen[0], capacity_bytes=1000, usable_bytes=1500, holds_files=False)]
    monkeypatch.setattr(bank_module, "measure_stores", lambda *_: tuple(small))
    with pytest.raises(EnvironmentNotReady, match=r"holds 1\.0 kB: Ray needs 1\.8 kB for spilling"):
        build_bank(subject, SPEC, tmp_path / "bank")
    assert subject.harvests() == []
    assert not (tmp_path / "bank").exists()


def test_manifest_describes_the_bank(subject, tmp_path):
    bank = build_bank(subject, SPEC, tmp_path / "bank")
    manifest = bank.manifest
    x_ND = training_rows(subject).astype(np.float64)
    assert manifest.scale == pytest.approx(math.sqrt(4 / np.mean(np.sum(x_ND**2, axis=1))), rel=1e-13)
    np.testing.assert_allclose(manifest.mean_D, x_ND.mean(axis=0), rtol=1e-12)
    assert manifest.max_norm == pytest.approx(np.linalg.norm(x_ND, axis=1).max(), rel=1e-13)
    assert manifest.max_norm_ratio == manifest.max_norm / manifest.median_norm
    assert (manifest.num_rows, manifest.shard_rows, manifest.d_in) == (70, (16, 16, 16, 16, 6), 4)
    assert manifest.subject == subject.fingerprint
    assert [f"{entry.split}-{entry.index}" for entry in manifest.files] == FILES
    assert manifest.evaluation_digest == manifest.files[-1].sha256
    assert manifest.calibration_digest == manifest.files[-2].sha256
    stored = BankManifest.model_validate_json((home_of(bank, tmp_path) / "manifest.json").read_bytes())
    assert stored == manifest
    names = {entry.file for entry in manifest.files}
    assert {path.name for path in home_of(bank, tmp_path).iterdir()} == names | {"manifest.json"}


def test_evaluation_and_calibration_are_private_copies_of_disjoint_rows(subject, tmp_path):
    bank = build_bank(subject, SPEC.model_copy(update={"dtype": "fp16"}), tmp_path / "bank")
    rows, expected = bank.evaluation(), subject.harvest(0, 12, "evaluation")
    np.testing.assert_array_equal(rows.x_ND, expected.x_ND)  # float32 even when training rows are not
    np.testing.assert_array_equal(rows.features_NM, expected.features_NM)
    calibration_ND = bank.calibration()
    np.testing.assert_array_equal(calibration_ND, subject.harvest(0, 9, "calibration").x_ND)
    assert not np.isin(calibration_ND[:, 1], rows.x_ND[:, 1]).any()
    rows.x_ND[:] = 0
    calibration_ND[:] = 0
    np.testing.assert_array_equal(bank.evaluation().x_ND, expected.x_ND)
    bank.verify()


def test_writing_through_a_batch_leaves_the_bank_unchanged(tmp_path, subject):
    # shards above 100 kB live in shared memory, where a write in one process would be seen by all
    wide = FakeSubject(log=subject.log, d_in=512, row_number_step=10)
    spec = ActivationsSpec(num_tokens=200, evaluation_tokens=5, calibration_tokens=5, shard_tokens=100)
    bank = build_bank(wide, spec, tmp_path / "bank")
    shared_ND = ray.get(bank.shards[0])["x_ND"]
    before_ND = shared_ND.copy()
    assert not shared_ND.flags.writeable
    stream = bank.stream(batch_size=100, seed=0)
    for _ in range(4):
        x_BD = next(stream)
        assert not np.shares_memory(x_BD.numpy(), shared_ND)
        x_BD.mul_(-3.0)
        x_BD.numpy()[:] = 7.0
    bank.verify()
    np.testing.assert_array_equal(ray.get(bank.shards[0])["x_ND"], before_ND)


def test_verify_notices_a_write_to_shared_memory(tmp_path, subject):
    wide = FakeSubject(log=subject.log, d_in=512)
    spec = ActivationsSpec(num_tokens=100, evaluation_tokens=5, calibration_tokens=5, shard_tokens=100)
    bank = build_bank(wide, spec, tmp_path / "bank")
    shared_ND = ray.get(bank.shards[0])["x_ND"]
    with pytest.warns(UserWarning, match="not writable"):
        trap_ND = torch.from_numpy(shared_ND)  # what the stream must never do
    trap_ND[0, 0] += 1
    with pytest.raises(CorruptFile, match="object store"):
        bank.verify()


def test_deleted_file_is_harvested_again(subject, tmp_path):
    bank = build_bank(subject, SPEC, tmp_path / "bank")
    path = home_of(bank, tmp_path) / bank.manifest.files[1].file
    before = path.read_bytes()
    path.unlink()
    again = build_bank(subject, SPEC, tmp_path / "bank")
    assert path.read_bytes() == before
    assert subject.harvests() == sorted([*FILES, "train-1"])
    assert again.manifest == bank.manifest


def test_interrupted_build_reuses_its_files(subject, tmp_path):
    bank = build_bank(subject, SPEC, tmp_path / "bank")
    home = home_of(bank, tmp_path)
    (home / "manifest.json").unlink()
    (home / bank.manifest.files[3].file).unlink()
    again = build_bank(subject, SPEC, tmp_path / "bank")
    assert subject.harvests() == sorted([*FILES, "train-3"])
    assert again.manifest == bank.manifest


@pytest.mark.parametrize("finished", [True, False])
def test_corrupt_file_is_refused(subject, tmp_path, finished):
    bank = build_bank(subject, SPEC, tmp_path / "bank")
    path = home_of(bank, tmp_path) / bank.manifest.files[2].file
    damaged = bytearray(path.read_bytes())
    damaged[-7] ^= 0x10
    path.write_bytes(damaged)
    if not finished:
        (home_of(bank, tmp_path) / "manifest.json").unlink()
    with pytest.raises(CorruptFile, match="checksum") as caught:
        build_bank(subject, SPEC, tmp_path / "bank")
    assert type(caught.value) is CorruptFile
    assert str(path) in caught.value.message
    path.unlink()
    assert build_bank(subject, SPEC, tmp_path / "bank").manifest == bank.manifest


def test_corrupt_manifest_is_refused(subject, tmp_path):
    bank = build_bank(subject, SPEC, tmp_path / "bank")
    path = home_of(bank, tmp_path) / "manifest.json"
    other = build_bank(subject, SPEC.model_copy(update={"num_tokens": 71}), tmp_path / "bank")
    for content, reason in [("{}", "not a valid manifest"), (other.manifest.model_dump_json(), "another bank")]:
        path.write_text(content)
        with pytest.raises(CorruptFile, match=reason):
            build_bank(subject, SPEC, tmp_path / "bank")
    path.unlink()
    assert build_bank(subject, SPEC, tmp_path / "bank").manifest == bank.manifest


def test_disk_too_small_is_refused_before_anything_is_harvested(subject, tmp_path, monkeypatch):
    monkeypatch.setattr(plan_module.shutil, "disk_usage", lambda _: Usage(100, 60, 40))
    with pytest.raises(EnvironmentNotReady, match="40 B is free"):
        build_bank(subject, SPEC, tmp_path / "bank")
    assert subject.harvests() == []
    assert not (tmp_path / "bank").exists()


def test_error_of_a_subject_reaches_the_caller(subject, tmp_path):
    large = FakeSubject(log=subject.log, row_number_step=100_000)
    with pytest.raises(UserInputError, match="fp16"):
        build_bank(large, SPEC.model_copy(update={"dtype": "fp16"}), tmp_path / "bank")


def test_handle_can_be_pickled_and_read_by_trials(subject, tmp_path):
    bank = build_bank(subject, SPEC, tmp_path / "bank")
    expected_ND = epoch_of(bank.stream(batch_size=7, seed=3), 12)

    @ray.remote(num_cpus=1)
    def trial(arguments: dict) -> tuple[np.ndarray, np.ndarray, int]:
        stream = arguments["bank"].stream(batch_size=7, seed=3)
        rows = torch.cat([next(stream) for _ in range(12)]).numpy()
        return rows, arguments["bank"].evaluation().x_ND, len(ray.cloudpickle.dumps(arguments["bank"]))

    for x_ND, evaluation_ND, handle_bytes in ray.get([trial.remote({"bank": bank}) for _ in range(2)]):
        np.testing.assert_array_equal(x_ND, expected_ND)
        np.testing.assert_array_equal(evaluation_ND, bank.evaluation().x_ND)
        assert handle_bytes < 20_000
    again = pickle.loads(ray.cloudpickle.dumps(bank))
    assert again.manifest == bank.manifest
    np.testing.assert_array_equal(epoch_of(again.stream(batch_size=7, seed=3), 12), expected_ND)


def test_skip_on_a_bank_equals_dropping(subject, tmp_path):
    bank = build_bank(subject, SPEC.model_copy(update={"dtype": "bf16"}), tmp_path / "bank")
    skipped, reference = bank.stream(batch_size=8, seed=1), bank.stream(batch_size=8, seed=1)
    assert skipped.rows_per_epoch == 70
    skipped.skip(13)
    epoch_of(reference, 13)
    np.testing.assert_array_equal(epoch_of(skipped, 10), epoch_of(reference, 10))
