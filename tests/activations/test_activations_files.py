from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from vsae_search.activations import files
from vsae_search.activations.files import ShardRequest, digest, read_shard, write_atomically, write_shard
from vsae_search.errors import CorruptFile, EnvironmentNotReady

if TYPE_CHECKING:
    from pathlib import Path

REQUEST = ShardRequest("f" * 64, "train", 3, 6, "fp32", 6)


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / REQUEST.file_name
    write_shard(path, REQUEST, {"x_ND": np.arange(24, dtype=np.float32).reshape(6, 4)})
    return path


def test_round_trip_keeps_arrays_and_digest(tmp_path):
    arrays = {"x_ND": np.arange(24, dtype=np.int16).reshape(6, 4), "features_NM": np.ones((6, 0), dtype=np.float32)}
    sha256 = write_shard(tmp_path / "s", REQUEST, {**arrays, "x_ND": arrays["x_ND"][:, ::-1][:, ::-1]})
    found, found_sha256 = read_shard(tmp_path / "s", REQUEST, sha256)
    assert found_sha256 == sha256 == digest(arrays)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


def test_digest_by_hand():
    array = np.array([[1, 2]], dtype="<i2")
    assert digest({"x": array}) == hashlib.sha256(b"x <i2 (1, 2)\n" + b"\x01\x00\x02\x00").hexdigest()
    assert digest({"x": array}) != digest({"x": array.reshape(2, 1)})


def test_key_depends_on_every_field():
    others = [
        replace(REQUEST, subject="e" * 64),
        replace(REQUEST, split="evaluation"),
        replace(REQUEST, index=4),
        replace(REQUEST, num_rows=7),
        replace(REQUEST, dtype="fp16"),
    ]
    assert len({request.key for request in [REQUEST, *others]}) == 6
    assert REQUEST.key == replace(REQUEST).key
    assert REQUEST.file_name.startswith("train-000003-")


def test_any_changed_byte_is_found_out(shard):
    content = shard.read_bytes()
    original_ND = np.arange(24, dtype=np.float32).reshape(6, 4)
    sha256 = digest({"x_ND": original_ND})
    unnoticed = []
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 0x04
        shard.write_bytes(damaged)
        with contextlib.suppress(CorruptFile):
            np.testing.assert_array_equal(read_shard(shard, REQUEST, sha256)[0]["x_ND"], original_ND)
            unnoticed.append(position)
    # what may change unnoticed are the words of the header that carry nothing; never a byte of the rows
    assert len(unnoticed) < 20
    assert max(unnoticed, default=0) < len(content) - original_ND.nbytes


@pytest.mark.parametrize("keep", [0, 5, 60, -1])
def test_truncated_file_is_corrupt(shard, keep):
    shard.write_bytes(shard.read_bytes()[:keep])
    with pytest.raises(CorruptFile):
        read_shard(shard, REQUEST)


def test_file_of_other_rows_is_corrupt(shard):
    with pytest.raises(CorruptFile, match="other rows"):
        read_shard(shard, replace(REQUEST, index=4))


def test_file_that_the_manifest_does_not_describe_is_corrupt(shard):
    with pytest.raises(CorruptFile, match="manifest"):
        read_shard(shard, REQUEST, "0" * 64)


def test_missing_file_is_not_corrupt(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_shard(tmp_path / "none", REQUEST)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(shard, monkeypatch):
    before = shard.read_bytes()

    def killed(*_):
        raise RuntimeError("killed")

    monkeypatch.setattr(files.os, "fsync", killed)
    with pytest.raises(RuntimeError, match="killed"):
        write_atomically(shard, b"half")
    assert shard.read_bytes() == before
    assert list(shard.parent.iterdir()) == [shard]


def test_full_disk_is_a_user_error(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(EnvironmentNotReady, match="no space left"):
        write_atomically(tmp_path / "s", b"1234")
    assert list(tmp_path.iterdir()) == []


def test_only_old_temporaries_are_removed(tmp_path):
    old, new, shard = tmp_path / ".a.tmp", tmp_path / ".b.tmp", tmp_path / "c.safetensors"
    for path in (old, new, shard):
        path.touch()
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(old, (two_days_ago, two_days_ago))
    os.utime(shard, (two_days_ago, two_days_ago))
    files.remove_stale_temporaries(tmp_path)
    assert set(tmp_path.iterdir()) == {new, shard}
