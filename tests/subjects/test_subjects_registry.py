from __future__ import annotations

from dataclasses import dataclass

import pytest

from vsae_search.subjects import build_subject, registry
from vsae_search.subjects.seeds import digest, stream


@dataclass(frozen=True)
class Invented:
    name: str


def test_a_new_kind_of_subject_is_one_registration(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_BUILDERS", dict(registry._BUILDERS))

    @registry.builds(Invented)
    def build(spec, cache):
        return spec.name, cache

    assert build_subject(Invented("new"), tmp_path) == ("new", tmp_path)
    with pytest.raises(AssertionError, match="two builders"):
        registry.builds(Invented)(build)


def test_streams_are_named():
    first = stream("a", "train", 0).random(4).tolist()
    assert stream("a", "train", 0).random(4).tolist() == first
    others = [stream("b", "train", 0), stream("a", "confirm", 0), stream("a", "train", 1)]
    assert all(other.random(4).tolist() != first for other in others)


def test_streams_do_not_change_from_release_to_release():
    assert digest(["a", 1]) == digest(("a", 1))
    assert stream("fingerprint", "train", 0).integers(0, 2**32, 3).tolist() == [505197467, 3069084645, 3623790377]
