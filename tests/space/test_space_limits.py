"""Hostile files are refused quickly, and importing the room stays cheap."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

import vsae_search.space
from vsae_search.errors import SearchSpaceError
from vsae_search.space import load_space
from vsae_search.space.strict import Strict

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


def bomb(path):
    path.write_text(BOMB)


def huge(path):
    with path.open("wb") as file:  # 50 MB without writing them
        file.truncate(50_000_000)


def long_list(path):
    path.write_text("a: [" + "1, " * 300_000 + "1]")


def deep_brackets(path):
    path.write_text("a: " + "[" * 900_000)


def deep_blocks(path):
    path.write_text("- " * 400_000 + "x")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (bomb, "more than 20000 values after its aliases are expanded"),
        (huge, "the file is larger than 1 MB"),
        (long_list, "more than 20000 values"),
        (deep_brackets, "nested more than 24 deep"),
        (deep_blocks, "nested more than 24 deep"),
    ],
)
def test_a_hostile_file_is_refused_within_a_second(make, words, tmp_path, catalog):
    path = tmp_path / "hostile.yaml"
    make(path)
    best = float("inf")
    for _ in range(3):  # the fastest of three, so that a busy machine does not fail the test
        start = time.process_time()
        with pytest.raises(SearchSpaceError, match=words):
            load_space(path, catalog)
        best = min(best, time.process_time() - start)
    assert best < 1


def test_a_bomb_in_an_assignment_is_refused(tmp_path, catalog, good_text):
    path = tmp_path / "good.yaml"
    path.write_text(good_text)
    value = "{" + BOMB.replace("\n", ", ") + "}"
    with pytest.raises(SearchSpaceError, match=r"--set:1:.*more than 20000 values"):
        load_space(path, catalog, overrides=[f"description={value}"])


def test_a_device_is_not_read(catalog):
    from pathlib import Path

    with pytest.raises(SearchSpaceError, match="not a regular file"):
        load_space(Path("/dev/zero"), catalog)


def test_every_model_refuses_unknown_keys_and_is_frozen():
    def subclasses(model: type[Strict]) -> list[type[Strict]]:
        return [found for child in model.__subclasses__() for found in (child, *subclasses(child))]

    models = [model for model in subclasses(Strict) if model.__module__.startswith("vsae_search.space")]
    assert len(models) >= 16
    for model in models:
        assert model.model_config.get("extra") == "forbid", model
        assert model.model_config.get("frozen") is True, model
    exported = [
        value for name in vsae_search.space.__all__ if isinstance(value := getattr(vsae_search.space, name), type)
    ]
    assert all(issubclass(value, Strict) for value in exported)


def test_every_field_is_documented_in_a_full_sentence():
    from vsae_search.space.features import Decay, LogSpaced

    models = [
        value for name in vsae_search.space.__all__ if isinstance(value := getattr(vsae_search.space, name), type)
    ]
    for model in [*models, LogSpaced, Decay]:
        for name, field in model.model_fields.items():
            text = field.description or ""
            assert text.endswith("."), f"{model.__name__}.{name}: {text!r}"
            assert text[0].isupper(), f"{model.__name__}.{name}: {text!r}"


def test_importing_the_room_loads_nothing_heavy():
    code = (
        "import sys, vsae_search.space\n"
        "heavy = {'torch', 'ray', 'mlflow', 'optuna', 'scipy', 'pandas', 'plotly', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
