"""Models by their name on the hub: fetched at one commit, found again offline, and every way in which that fails."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hub.repositories import gelu_1l_files, gpt2_files, json_lines, sentences, tokenizer_files
from hub.server import STRANGER, TOKEN
from safetensors.torch import load

from vsae_search.errors import CorruptFile, EnvironmentNotReady, UserInputError
from vsae_search.space import LanguageModelSubject
from vsae_search.subjects import build_subject, width_of
from vsae_search.subjects.language_model import load as loading
from vsae_search.subjects.language_model.locate import locate, official_name

GELU = "NeelNanda/GELU_1L512W_C4_Code"


@pytest.fixture(autouse=True)
def no_model_is_remembered():
    loading._models.clear()
    yield
    loading._models.clear()


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.jsonl"
    path.write_bytes(json_lines(sentences(3000)))
    return {"source": "files", "paths": (str(path),)}


def spec(model, text, **changes):
    settings = {"context_length": 16, "harvest_batch": 8, "hook": "blocks.0.hook_mlp_out", "text": text}
    return LanguageModelSubject.model_validate({"type": "language_model", "model": model, **settings, **changes})


def test_a_model_is_read_at_one_commit_and_found_again_offline(hub, go_offline, text, tmp_path):
    repository = hub.add("models", "tiny/gpt2", {**gpt2_files(), "onnx/model.onnx": b"x", "64.tflite": b"x"})
    first = repository.refs["main"]
    online = build_subject(spec("tiny/gpt2", text), tmp_path / "cache")
    assert online.model.files.commit == first
    assert online.describe()["revision"] == first
    assert not [line for line in hub.requests if "onnx" in line or "tflite" in line]
    rows = online.harvest(0, 100, "evaluation")
    go_offline()
    loading._models.clear()
    hub.requests.clear()
    offline = build_subject(spec("tiny/gpt2", text), tmp_path / "cache")
    assert hub.requests == []
    assert offline.fingerprint == online.fingerprint
    np.testing.assert_array_equal(offline.harvest(0, 100, "evaluation").x_ND, rows.x_ND)
    assert width_of(spec("tiny/gpt2", text)) == online.d_in


def test_another_revision_is_another_subject(hub, text, tmp_path):
    repository = hub.add("models", "tiny/gpt2", gpt2_files())
    first = build_subject(spec("tiny/gpt2", text), tmp_path / "cache")
    repository.commit(gpt2_files(seed=1), ref="v2")
    second = build_subject(spec("tiny/gpt2", text, revision="v2"), tmp_path / "cache")
    assert first.fingerprint != second.fingerprint
    assert second.model.files.commit == repository.refs["v2"]
    again = build_subject(spec("tiny/gpt2", text, revision=repository.refs["main"]), tmp_path / "cache")
    assert again.fingerprint == first.fingerprint


@pytest.mark.parametrize("name", ["gelu-1l", GELU])
def test_gelu_1l_loads_by_both_names_and_offline(hub, go_offline, text, tmp_path, name):
    files = gelu_1l_files("NeelNanda/gpt-neox-tokenizer-digits")
    hub.add("models", GELU, {**files, "checkpoints/model_100.pth": b"x"})
    hub.add("models", "NeelNanda/gpt-neox-tokenizer-digits", tokenizer_files())
    online = build_subject(spec(name, text), tmp_path / "cache")
    assert online.model.files.repository == GELU
    assert not [line for line in hub.requests if "checkpoints" in line and line.startswith("GET")]
    go_offline()
    loading._models.clear()
    hub.requests.clear()
    offline = build_subject(spec(name, text), tmp_path / "cache")
    assert hub.requests == []
    assert offline.fingerprint == online.fingerprint
    assert offline.describe()["tokenizer"]["revision"] is not None


def test_weights_in_the_old_format_of_transformers(hub, text, tmp_path):
    files = gpt2_files()
    weights = load(files.pop("model.safetensors"))
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    hub.add("models", "tiny/old", {**files, "pytorch_model.bin": buffer.getvalue()})
    hub.add("models", "tiny/new", gpt2_files())
    old, new = (build_subject(spec(name, text), tmp_path / "cache") for name in ("tiny/old", "tiny/new"))
    np.testing.assert_array_equal(old.harvest(0, 50).x_ND.sum(0) != 0, True)
    assert old.model.weights == new.model.weights


def test_a_model_without_files(hub, text, tmp_path):
    files = gpt2_files()
    hub.add("models", "tiny/noweights", {name: data for name, data in files.items() if "safetensors" not in name})
    with pytest.raises(UserInputError, match="cannot be loaded"):
        build_subject(spec("tiny/noweights", text), tmp_path / "cache")
    hub.add("models", "tiny/empty", {"README.md": b"nothing"})
    with pytest.raises(UserInputError, match="lacks a file that is needed"):
        build_subject(spec("tiny/empty", text), tmp_path / "cache")


def test_weights_that_are_incomplete_are_never_filled_with_random_ones(hub, text, tmp_path):
    from safetensors.torch import save

    files = gpt2_files()
    weights = load(files["model.safetensors"])
    weights.pop("transformer.h.1.mlp.c_fc.weight")
    hub.add("models", "tiny/part", {**files, "model.safetensors": save(weights, metadata={"format": "pt"})})
    with pytest.raises(CorruptFile, match=r"h\.1\.mlp\.c_fc\.weight"):
        build_subject(spec("tiny/part", text), tmp_path / "cache")


def test_wrong_names_revisions_and_rights(hub, text, tmp_path):
    hub.add("models", "tiny/gpt2", gpt2_files())
    hub.add("models", "tiny/gated", gpt2_files(), gated=True)
    for changes, word in (
        ({"model": "tiny/none"}, "does not exist"),
        ({"model": "tiny/gpt2", "revision": "v9"}, "no revision 'v9'"),
        ({"model": "tiny/gated"}, "restricted"),
    ):
        with pytest.raises(UserInputError, match=word):
            locate(spec(**{"text": text, **changes}))


def test_a_private_model_and_a_token_that_is_not_valid(hub, text, monkeypatch):
    repository = hub.add("models", "tiny/private", gpt2_files(), private=True)
    hub.add("models", "tiny/gpt2", gpt2_files())
    with pytest.raises(UserInputError, match=r"or it is private \(HTTP 401\)"):
        locate(spec("tiny/private", text))
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 34)
    with pytest.raises(UserInputError, match=r"refused the token that was sent for the model tiny/gpt2 \(HTTP 401\)"):
        locate(spec("tiny/gpt2", text))
    monkeypatch.setenv("HF_TOKEN", STRANGER)
    with pytest.raises(UserInputError, match=r"or it is private \(HTTP 404\)"):
        locate(spec("tiny/private", text))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert locate(spec("tiny/private", text)).commit == repository.refs["main"]


@pytest.mark.parametrize("content", [b"<html>not found</html>", None], ids=["not weights", "cut off"])
def test_damaged_weights_are_refused(hub, text, tmp_path, content):
    files = gpt2_files()
    weights = files["model.safetensors"]
    damaged = {**files, "model.safetensors": weights[: len(weights) // 2] if content is None else content}
    hub.add("models", "tiny/damaged", damaged)
    with pytest.raises((UserInputError, CorruptFile), match="tiny/damaged") as caught:
        build_subject(spec("tiny/damaged", text), tmp_path / "cache")
    assert caught.value.hint


def test_a_hub_that_is_down_and_a_cache_that_is_empty(hub, go_offline, text):
    with pytest.raises(UserInputError):
        locate(spec("tiny/none", text))
    go_offline()
    with pytest.raises(EnvironmentNotReady, match="HF_HUB_OFFLINE is set"):
        locate(spec("tiny/gpt2", text))
    hub.close()


def test_code_of_a_repository_is_never_run(hub, text, tmp_path):
    files = gpt2_files()
    mine = b'"model_type": "mine", "auto_map": {"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M"}'
    config = files["config.json"].replace(b'"model_type": "gpt2"', mine)
    assert config != files["config.json"]
    trace = tmp_path / "trace"
    code = f"open({str(trace)!r}, 'w')\n".encode()
    hub.add("models", "tiny/code", {**files, "config.json": config, "mine.py": code})
    with pytest.raises(UserInputError):
        build_subject(spec("tiny/code", text), tmp_path / "cache")
    assert not trace.exists()


def test_short_names_are_those_of_transformer_lens():
    assert official_name("gelu-1l") == GELU
    assert official_name("gpt2") == "gpt2"
