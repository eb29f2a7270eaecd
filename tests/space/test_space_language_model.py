"""The subject section of a language model."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from vsae_search.space import LanguageModelSubject


def subject(**keys):
    return LanguageModelSubject.model_validate({"type": "language_model", "model": "gpt2", **keys})


@pytest.mark.parametrize(
    ("act_name", "hook"),
    [
        ("mlp_out", "blocks.3.hook_mlp_out"),
        ("hook_mlp_out", "blocks.3.hook_mlp_out"),
        ("resid_pre", "blocks.3.hook_resid_pre"),
        ("attn_out", "blocks.3.hook_attn_out"),
        ("post", "blocks.3.mlp.hook_post"),
        ("mlp.hook_post", "blocks.3.mlp.hook_post"),
        ("z", "blocks.3.attn.hook_z"),
        ("ln2.hook_normalized", "blocks.3.ln2.hook_normalized"),
    ],
)
def test_the_short_form_of_a_hook(act_name, hook):
    assert subject(layer=3, act_name=act_name).hook_name == hook


def test_the_long_form_is_taken_as_it_is():
    assert subject(hook="blocks.0.hook_mlp_out").hook_name == "blocks.0.hook_mlp_out"


@pytest.mark.parametrize(
    ("keys", "place", "word"),
    [
        ({}, "hook", "is missing"),
        ({"layer": 3}, "act_name", "is missing"),
        ({"act_name": "mlp_out"}, "layer", "is missing"),
        ({"hook": "a", "layer": 0}, "layer", "not both"),
        ({"hook": "a", "model": "https://huggingface.co/gpt2"}, "model", "neither the name of a model"),
        ({"hook": "a", "model": "   "}, "model", "neither the name of a model"),
        ({"hook": "a", "revision": "../x"}, "revision", "not a commit hash"),
        ({"hook": "a", "dtype": "int8"}, "dtype", "fp32"),
        ({"hook": "a", "context_length": 1}, "context_length", "greater than or equal to 4"),
        ({"hook": "a", "model": "tiny_gelu_1l", "processing": "folded"}, "processing", "only used as it is"),
        ({"hook": "a", "text": {"source": "web"}}, "text", "python_stdlib"),
    ],
)
def test_what_cannot_be_is_refused_at_its_place(keys, place, word):
    with pytest.raises(ValidationError) as caught:
        subject(**keys)
    (error,) = caught.value.errors()
    assert error["loc"][0] == place
    assert word in error["msg"]
