"""Models of the GELU-1L family: loading, against a plain re-implementation, and rewriting."""

from __future__ import annotations

import json
import math
import zipfile

import numpy as np
import pytest
import torch
from language_models import VOCABULARY, gpt2, legacy, legacy_weights, save_legacy
from safetensors.torch import save_file

from vsae_search.errors import CorruptFile, UserInputError
from vsae_search.subjects.language_model.checkpoint import read_tensors
from vsae_search.subjects.language_model.fold import fold
from vsae_search.subjects.language_model.legacy import is_legacy, load_legacy, tokenizer_of

TOKENS = torch.randint(0, VOCABULARY, (3, 20), generator=torch.Generator().manual_seed(5))


def norm(x, weight, bias):
    x = x - x.mean(-1, keepdim=True)
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight + bias


def by_hand(w, tokens):
    """The forward pass written out, head by head and in float64."""
    w = {name: value.double() for name, value in w.items()}
    resid = w["embed.W_E"][tokens] + w["pos_embed.W_pos"][: tokens.shape[1]]
    read = norm(resid, w["blocks.0.ln1.w"], w["blocks.0.ln1.b"])
    attn = w["blocks.0.attn.b_O"].expand_as(resid).clone()
    for head in range(4):
        q, k, v = (read @ w[f"blocks.0.attn.W_{n}"][head] + w[f"blocks.0.attn.b_{n}"][head] for n in "QKV")
        scores = q @ k.transpose(1, 2) / math.sqrt(4)
        scores = scores.masked_fill(torch.ones(scores.shape[1:]).triu(1).bool(), -torch.inf)
        attn += scores.softmax(-1) @ v @ w["blocks.0.attn.W_O"][head]
    mid = resid + attn
    pre = norm(mid, w["blocks.0.ln2.w"], w["blocks.0.ln2.b"]) @ w["blocks.0.mlp.W_in"] + w["blocks.0.mlp.b_in"]
    post = pre * 0.5 * (1 + torch.erf(pre / math.sqrt(2)))
    mlp = post @ w["blocks.0.mlp.W_out"] + w["blocks.0.mlp.b_out"]
    final = norm(mid + mlp, w["ln_final.w"], w["ln_final.b"])
    logits = final @ w["unembed.W_U"] + w.get("unembed.b_U", 0)
    return {"hook_attn_out": attn, "hook_resid_mid": mid, "mlp.hook_post": post, "hook_mlp_out": mlp}, logits


def test_it_computes_what_the_definition_says():
    model = load_legacy(legacy())
    hooks, logits = by_hand(legacy_weights(), TOKENS)
    for name, expected in hooks.items():
        found = model.run_to(TOKENS, f"blocks.0.{name}").value_STW
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model(TOKENS).double(), logits, rtol=1e-5, atol=2e-5)


def test_lnpre_has_no_scale_and_no_shift(tmp_path):
    weights = legacy_weights()
    plain = {name: value for name, value in weights.items() if "ln" not in name}
    model = load_legacy(save_legacy(tmp_path, plain, normalization="LNPre"))
    neutral = {name: torch.ones(16) if name.endswith(".w") else torch.zeros(16) for name in weights if "ln" in name}
    torch.testing.assert_close(model(TOKENS).double(), by_hand({**plain, **neutral}, TOKENS)[1], rtol=1e-5, atol=2e-5)


def test_an_unembedding_bias_is_used(tmp_path):
    weights = {**legacy_weights(), "unembed.b_U": torch.linspace(-1, 1, VOCABULARY)}
    model = load_legacy(save_legacy(tmp_path, weights))
    torch.testing.assert_close(model(TOKENS).double(), by_hand(weights, TOKENS)[1], rtol=1e-5, atol=2e-5)


def test_safetensors_come_first(tmp_path):
    save_legacy(tmp_path, legacy_weights(seed=1))
    save_file(legacy_weights(seed=2), tmp_path / "model.safetensors")
    torch.testing.assert_close(load_legacy(tmp_path).embed.W_E.data, legacy_weights(seed=2)["embed.W_E"])


def test_folding_predicts_the_same_with_other_activations():
    plain, folded = load_legacy(legacy()), fold(load_legacy(legacy()))
    same = torch.log_softmax(plain(TOKENS), -1)
    torch.testing.assert_close(torch.log_softmax(folded(TOKENS), -1), same, rtol=1e-4, atol=1e-4)
    hook = "blocks.0.hook_mlp_out"
    before, after = (model.run_to(TOKENS, hook).value_STW for model in (plain, folded))
    torch.testing.assert_close(after, before - before.mean(-1, keepdim=True), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(after, before, atol=1e-2)


def test_folding_is_that_of_transformer_lens():
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.utilities.tl_checkpoint_conversion import convert_tl_checkpoint

    config = TransformerBridgeConfig(
        d_model=16, n_layers=1, d_mlp=64, d_head=4, n_heads=4, n_ctx=32, d_vocab=VOCABULARY, act_fn="gelu",
        normalization_type="LN", positional_embedding_type="standard", architecture="TransformerLensNative",
    )  # fmt: skip
    bridge = TransformerBridge.boot_native(config)
    weights = convert_tl_checkpoint(legacy_weights(), config)
    bridge.load_state_dict({**weights, "unembed.bias": torch.zeros(VOCABULARY)}, strict=True)
    bridge.enable_compatibility_mode(disable_warnings=True)
    folded = fold(load_legacy(legacy()))
    with torch.no_grad():
        _, cache = bridge.run_with_cache(TOKENS)
    for name in ("hook_resid_pre", "hook_attn_out", "hook_resid_mid", "mlp.hook_post", "hook_mlp_out"):
        found = folded.run_to(TOKENS, f"blocks.0.{name}").value_STW
        torch.testing.assert_close(found, cache[f"blocks.0.{name}"], rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"n_layers": 2}, "n_layers = 2"),
        ({"act_fn": "solu_ln"}, "act_fn = solu_ln"),
        ({"normalization": None}, "normalization = None"),
        ({"attn_only": True}, "attn_only = True"),
        ({"shortformer_pos": True}, "shortformer_pos = True"),
        ({"d_head": 8}, "d_head * n_heads = 32"),
    ],
)
def test_what_would_be_computed_differently_is_refused(tmp_path, change, word):
    with pytest.raises(UserInputError) as caught:
        load_legacy(save_legacy(tmp_path, legacy_weights(), **change))
    assert word in caught.value.message


def test_missing_and_unknown_weights_are_named(tmp_path):
    weights = legacy_weights()
    weights["blocks.0.attn.W_new"] = weights.pop("blocks.0.attn.W_Q")
    with pytest.raises(CorruptFile, match=r"lacks blocks.0.attn.W_Q; has blocks.0.attn.W_new"):
        load_legacy(save_legacy(tmp_path, weights))


@pytest.mark.parametrize("wrong", [torch.zeros(3, 3), torch.full((VOCABULARY, 16), torch.nan)])
def test_a_wrong_weight_is_named(tmp_path, wrong):
    with pytest.raises(CorruptFile, match=r"embed\.W_E has shape"):
        load_legacy(save_legacy(tmp_path, {**legacy_weights(), "embed.W_E": wrong}))


def test_a_truncated_file_is_damaged(tmp_path):
    path = save_legacy(tmp_path, legacy_weights()) / "model_final.pth"
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(CorruptFile):
        load_legacy(tmp_path)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_file_that_would_run_code_is_refused_and_does_not(tmp_path):
    trace = tmp_path / "trace"
    torch.save({"embed.W_E": Malicious(trace)}, tmp_path / "model_final.pth")
    with pytest.raises(UserInputError, match="could run code"):
        read_tensors(tmp_path / "model_final.pth")
    assert not trace.exists()


def test_old_formats_are_refused(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(CorruptFile, match="cannot be read safely"):
        read_tensors(tmp_path / "old.pth")
    with zipfile.ZipFile(tmp_path / "other.pth", "w") as archive:
        archive.writestr("hello", "world")
    with pytest.raises(CorruptFile):
        read_tensors(tmp_path / "other.pth")


def test_something_other_than_tensors_is_refused(tmp_path):
    torch.save({"a": [1, 2]}, tmp_path / "list.pth")
    with pytest.raises(UserInputError, match="dictionary of tensors"):
        read_tensors(tmp_path / "list.pth")


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(UserInputError, match=r"no config.json"):
        load_legacy(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CorruptFile, match="not JSON"):
        load_legacy(tmp_path)
    save_legacy(tmp_path, legacy_weights())
    (tmp_path / "model_final.pth").unlink()
    with pytest.raises(UserInputError, match="no weights"):
        load_legacy(tmp_path)


def test_the_format_is_told_by_the_configuration():
    config = json.loads((legacy() / "config.json").read_text())
    assert is_legacy(config)
    assert not is_legacy({"d_model": 3})
    assert not is_legacy(json.loads((gpt2() / "config.json").read_text()))
    assert tokenizer_of(config) == "nobody/nothing"
    assert np.unique([tokenizer_of({}), tokenizer_of({"tokenizer_name": None})]).tolist() == ["EleutherAI/gpt-neox-20b"]
