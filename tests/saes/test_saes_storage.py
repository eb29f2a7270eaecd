from __future__ import annotations

import json
import os

import pytest
import torch

import vsae_search.saes as saes
from vsae_search.errors import CorruptFile, UserInputError
from vsae_search.saes import tensor_file


@pytest.fixture
def saved(tmp_path):
    saes.save(saes.create("topk", d_in=3, d_sae=6, k=2, seed=5), tmp_path)
    return tmp_path


def edit(directory, **changes):
    path = directory / "sae.json"
    record = json.loads(path.read_text())
    for key, value in changes.items():
        record[key] = value(record[key]) if callable(value) else value
    path.write_text(json.dumps(record))


def patch_weights(directory, change):
    path = directory / "sae.safetensors"
    path.write_bytes(change(bytearray(path.read_bytes())))


def flip_last(data):
    data[-1] ^= 1
    return data


def huge_header(data):
    length = int.from_bytes(data[:8], "little")
    header = json.loads(bytes(data[8 : 8 + length]))
    header["W_enc"]["shape"] = [1 << 40, 1 << 20]
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(data[8 + length :])


def test_files_are_only_the_pair(saved):
    assert sorted(path.name for path in saved.iterdir()) == ["sae.json", "sae.safetensors"]
    assert saes.load(saved).seed == 5
    assert saes.load(saved).initialised


@pytest.mark.parametrize(
    "change",
    [
        flip_last,
        lambda data: data[:-4],
        lambda data: data + b"0000",
        lambda data: data[:6],
        lambda data: b"",
        lambda data: (1 << 50).to_bytes(8, "little") + bytes(data[8:]),
        lambda data: data[:8] + b"x" * (len(data) - 8),
        huge_header,
    ],
    ids=["flipped bit", "truncated", "longer", "stub", "empty", "long header", "garbage", "huge shape"],
)
def test_altered_weights_are_refused(saved, change):
    patch_weights(saved, change)
    with pytest.raises(CorruptFile, match=r"sae\.safetensors"):
        saes.load(saved)


@pytest.mark.parametrize(
    "changes",
    [
        {"shapes": lambda shapes: shapes | {"W_enc": [6, 3]}},
        {"shapes": lambda shapes: shapes | {"extra": [1]}},
        {"config": lambda config: config | {"d_sae": 1 << 45}},
        {"config": lambda config: config | {"k": 7}},
        {"config": lambda config: config | {"unknown": 1}},
        {"dtypes": lambda dtypes: dtypes | {"W_enc": "Tensor"}},
        {"dtypes": lambda dtypes: dtypes | {"W_enc": "float64"}},
        {"dtypes": {}},
        {"format": 2},
        {"sha256": "0" * 64},
        {"seed": "five"},
        {"stranger": 1},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_altered_record_is_refused(saved, changes):
    path = saved / "sae.json"
    if "stranger" in changes:
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    else:
        edit(saved, **changes)
    with pytest.raises(CorruptFile):
        saes.load(saved)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "[" * 100_000])
def test_a_record_that_is_no_object_is_refused(saved, text):
    (saved / "sae.json").write_text(text)
    with pytest.raises(CorruptFile, match=r"sae\.json"):
        saes.load(saved)


@pytest.mark.parametrize("name", ["sae.json", "sae.safetensors"])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(CorruptFile, match=name):
        saes.load(saved)


def test_unknown_architecture_is_a_user_error(saved):
    edit(saved, architecture="topkk")
    with pytest.raises(UserInputError, match="topkk"):
        saes.load(saved)


def test_an_interrupted_write_leaves_the_old_file(saved, monkeypatch):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}

    def full(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        saes.save(saes.create("topk", d_in=3, d_sae=6, k=2, seed=6), saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_a_pair_from_two_savings_is_refused(saved, tmp_path):
    other = tmp_path / "other"
    saes.save(saes.create("topk", d_in=3, d_sae=6, k=2, seed=6), other)
    (saved / "sae.safetensors").write_bytes((other / "sae.safetensors").read_bytes())
    with pytest.raises(CorruptFile, match="checksum"):
        saes.load(saved)


def test_types_survive(tmp_path):
    saes.save(saes.create("relu", d_in=3, d_sae=6).to(torch.bfloat16), tmp_path)
    assert saes.load(tmp_path).W_dec.dtype == torch.bfloat16


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        tensor_file.write_json(tmp_path / "a.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []
