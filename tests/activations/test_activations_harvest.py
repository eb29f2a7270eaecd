from __future__ import annotations

import numpy as np
import pytest
from activations_fakes import Unrepeatable

from vsae_search.activations.files import ShardRequest
from vsae_search.activations.harvest import ensure_shard, harvest_arrays, load_or_harvest
from vsae_search.errors import CorruptFile


def request_for(subject, split: str = "train", index: int = 2, num_rows: int = 40, dtype: str = "fp32") -> ShardRequest:
    return ShardRequest(subject.fingerprint, split, index, num_rows, dtype, num_rows)


def test_training_rows_are_shuffled_and_complete(subject):
    request = request_for(subject)
    x_ND = harvest_arrays(subject, request)["x_ND"]
    harvested_ND = subject.harvest(2, 40).x_ND
    assert not np.array_equal(x_ND, harvested_ND)
    np.testing.assert_array_equal(x_ND[np.argsort(x_ND[:, 0])], harvested_ND)
    np.testing.assert_array_equal(harvest_arrays(subject, request)["x_ND"], x_ND)
    other_ND = harvest_arrays(subject, request_for(subject, index=3))["x_ND"]
    assert not np.array_equal(np.argsort(other_ND[:, 0]), np.argsort(x_ND[:, 0]))


def test_every_slice_of_a_shard_mixes_its_documents(subject):
    x_ND = harvest_arrays(subject, request_for(subject, index=0, num_rows=2000))["x_ND"]
    document_N = (x_ND[:, 0] - 1) // 50  # forty documents of fifty rows
    for batch in np.split(document_N, 20):
        assert len(np.unique(batch)) >= 30, "a random hundred rows come from 36.8 of them on average"


def test_evaluation_rows_stay_in_order_with_their_features(subject):
    arrays = harvest_arrays(subject, request_for(subject, "evaluation", 0))
    rows = subject.harvest(0, 40, "evaluation")
    np.testing.assert_array_equal(arrays["x_ND"], rows.x_ND)
    np.testing.assert_array_equal(arrays["features_NM"], rows.features_NM)
    assert harvest_arrays(subject, request_for(subject, "calibration", 0)).keys() == {"x_ND"}


def test_ensure_writes_once_and_then_reads(subject, tmp_path):
    request = request_for(subject, dtype="bf16")
    first = ensure_shard(subject, request, tmp_path)
    second = ensure_shard(subject, request, tmp_path)
    assert subject.harvests() == ["train-2"]
    assert first.entry == second.entry
    assert first.entry.shapes == {"x_ND": (40, 4)}
    assert first.entry.num_bytes == 40 * 4 * 2
    assert first.sums.sum_square == second.sums.sum_square


def test_deleted_file_is_harvested_again_with_the_same_bytes(subject, tmp_path):
    request = request_for(subject)
    entry = ensure_shard(subject, request, tmp_path).entry
    path = tmp_path / entry.file
    before = path.read_bytes()
    served, num_bytes = load_or_harvest(subject, request, entry, tmp_path)
    assert num_bytes == entry.num_bytes
    path.unlink()
    again, _ = load_or_harvest(subject, request, entry, tmp_path)
    np.testing.assert_array_equal(again["x_ND"], served["x_ND"])
    assert path.read_bytes() == before
    assert subject.harvests() == ["train-2", "train-2"]


def test_damaged_file_is_never_served_nor_overwritten(subject, tmp_path):
    request = request_for(subject)
    entry = ensure_shard(subject, request, tmp_path).entry
    path = tmp_path / entry.file
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    for serve in (
        lambda: load_or_harvest(subject, request, entry, tmp_path),
        lambda: ensure_shard(subject, request, tmp_path),
    ):
        with pytest.raises(CorruptFile, match="checksum") as caught:
            serve()
        assert str(path) in caught.value.message
        assert "delete it" in caught.value.hint
    assert path.read_bytes() == damaged
    assert subject.harvests() == ["train-2"]


def test_rows_that_differ_the_second_time_are_not_served(tmp_path):
    (tmp_path / "log").mkdir()
    subject = Unrepeatable(log=tmp_path / "log")
    request = request_for(subject)
    entry = ensure_shard(subject, request, tmp_path).entry
    (tmp_path / entry.file).unlink()
    with pytest.raises(CorruptFile, match="different rows"):
        load_or_harvest(subject, request, entry, tmp_path)
    assert not (tmp_path / entry.file).exists()
