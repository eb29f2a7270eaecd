from __future__ import annotations

import json

import numpy as np
import pytest

from vsae_search.errors import CorruptFile
from vsae_search.subjects.store import load_or_make, write_atomically

IDENTITY = {"a": 1}


def make():
    return {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}, {"note": "made"}


def never():
    raise AssertionError("computed a second time")


def test_stored_once_then_loaded(tmp_path):
    cache = tmp_path / "deep" / "cache"
    arrays, facts = load_or_make(cache, "kind", IDENTITY, make)
    again, facts_again = load_or_make(cache, "kind", IDENTITY, never)
    np.testing.assert_array_equal(arrays["w"], make()[0]["w"])
    np.testing.assert_array_equal(again["w"], arrays["w"])
    assert facts == facts_again == {"note": "made"}
    assert sorted(path.suffix for path in cache.iterdir()) == [".json", ".safetensors"]


def test_another_identity_is_another_entry(tmp_path):
    load_or_make(tmp_path, "kind", IDENTITY, make)
    load_or_make(tmp_path, "kind", {"a": 2}, make)
    load_or_make(tmp_path, "other", IDENTITY, make)
    assert len(list(tmp_path.glob("*.json"))) == 3


def flip_a_byte(cache):
    path = next(cache.glob("*.safetensors"))
    payload = bytearray(path.read_bytes())
    payload[-1] ^= 1
    path.write_bytes(payload)


def truncate(cache):
    path = next(cache.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-4])


def lose_the_tensors(cache):
    next(cache.glob("*.safetensors")).unlink()


def break_the_sidecar(cache):
    next(cache.glob("*.json")).write_text('{"address": ')


def empty_the_sidecar(cache):
    next(cache.glob("*.json")).write_text("[]")


def claim_another_address(cache):
    path = next(cache.glob("*.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), "address": "0" * 64}))


@pytest.mark.parametrize(
    "damage",
    [flip_a_byte, truncate, lose_the_tensors, break_the_sidecar, empty_the_sidecar, claim_another_address],
)
def test_damage_is_reported_not_repaired(tmp_path, damage):
    load_or_make(tmp_path, "kind", IDENTITY, make)
    damage(tmp_path)
    with pytest.raises(CorruptFile) as caught:
        load_or_make(tmp_path, "kind", IDENTITY, never)
    assert "Delete" in caught.value.hint
    next(tmp_path.glob("*.json")).unlink()  # what the hint says
    arrays, _ = load_or_make(tmp_path, "kind", IDENTITY, make)
    np.testing.assert_array_equal(arrays["w"], make()[0]["w"])


def test_a_stored_name_cannot_lead_out_of_the_cache(tmp_path):
    outside, cache = tmp_path / "outside.safetensors", tmp_path / "cache"
    load_or_make(cache, "kind", IDENTITY, make)
    next(cache.glob("*.safetensors")).rename(outside)
    path = next(cache.glob("*.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), "file": "../outside.safetensors"}))
    with pytest.raises(CorruptFile, match="missing"):
        load_or_make(cache, "kind", IDENTITY, never)


def test_an_interrupted_write_leaves_nothing(tmp_path):
    target = tmp_path / "file"
    target.write_bytes(b"old")
    with pytest.raises(TypeError):
        write_atomically(target, "not bytes")
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_failed_computation_stores_nothing(tmp_path):
    with pytest.raises(AssertionError):
        load_or_make(tmp_path, "kind", IDENTITY, never)
    assert list(tmp_path.iterdir()) == []
