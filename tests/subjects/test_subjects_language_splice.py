"""A splice in the built-in model, and in a model of the hub, against forward passes that share no code with it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hub.repositories import gpt2_files, json_lines, sentences
from language_models import subject
from torch.nn import functional as F

from vsae_search.space import LanguageModelSubject
from vsae_search.subjects import build_subject
from vsae_search.subjects.language_model import load as loading
from vsae_search.subjects.language_model import losses
from vsae_search.subjects.language_model.splicing import Splicer, full_losses
from vsae_search.subjects.tiny_gelu_1l import load_model

HOOKS = {
    "blocks.0.hook_resid_pre": 128,
    "blocks.0.hook_attn_out": 128,
    "blocks.0.hook_resid_mid": 128,
    "blocks.0.mlp.hook_post": 512,
    "blocks.0.hook_mlp_out": 128,
    "blocks.0.hook_resid_post": 128,
}
ROWS = 150


def built_in(hook):
    found = subject("tiny_gelu_1l", hook)
    return found, found.harvest(0, ROWS, "evaluation")


def tensors(rows):
    return torch.from_numpy(rows.tokens_ST.astype(np.int64)), torch.from_numpy(rows.kept_ST.copy())


def ways_of(hook):
    """What may replace the activation: a function of the activation there, for an independent forward pass."""
    generator = torch.Generator().manual_seed(2)
    noise_D = torch.randn(HOOKS.get(hook, 16), generator=generator, dtype=torch.float64)
    return {
        "clean": lambda x_STD, mean_D: x_STD,
        "zero": lambda x_STD, mean_D: torch.zeros_like(x_STD),
        "mean": lambda x_STD, mean_D: mean_D.to(x_STD).expand_as(x_STD),
        "noise": lambda x_STD, mean_D: x_STD + noise_D.to(x_STD),
    }


def plain_forward(weights, tokens_ST, hook, replace):
    """Logits of GELU-1L's architecture, float64, written down from its definition with a replacement at one hook."""

    def norm(x_STD, place):
        return F.layer_norm(x_STD, x_STD.shape[-1:], weights[f"{place}.w"], weights[f"{place}.b"], 1e-5)

    def at(name, x_STW):
        return replace(x_STW) if name == hook else x_STW

    attn, mlp, place = "blocks.0.attn.", "blocks.0.mlp.", "blocks.0.hook_"
    length = tokens_ST.shape[1]
    resid = at(f"{place}resid_pre", weights["embed.W_E"][tokens_ST] + weights["pos_embed.W_pos"][:length])
    read = norm(resid, "blocks.0.ln1")
    q, k, v = (
        torch.einsum("std,hdk->shtk", read, weights[f"{attn}W_{name}"]) + weights[f"{attn}b_{name}"][:, None]
        for name in "QKV"
    )
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -math.inf)
    z = scores.softmax(-1) @ v
    out = at(f"{place}attn_out", torch.einsum("shtk,hkd->std", z, weights[f"{attn}W_O"]) + weights[f"{attn}b_O"])
    mid = at(f"{place}resid_mid", resid + out)
    pre = norm(mid, "blocks.0.ln2") @ weights[f"{mlp}W_in"] + weights[f"{mlp}b_in"]
    post = at("blocks.0.mlp.hook_post", 0.5 * pre * (1 + torch.erf(pre / math.sqrt(2))))
    written = at(f"{place}mlp_out", post @ weights[f"{mlp}W_out"] + weights[f"{mlp}b_out"])
    final = norm(at(f"{place}resid_post", mid + written), "ln_final")
    return final @ weights["unembed.W_U"] + weights["unembed.b_U"]


def by_definition(logits_STV, tokens_ST, kept_ST):
    """Mean cross-entropy of each sequence over the predictions made at kept positions, in nats."""
    losses_S = []
    for logits_TV, tokens_T, kept_T in zip(logits_STV.double(), tokens_ST, kept_ST, strict=True):
        log_q_TV = logits_TV.log_softmax(-1)
        scored = [t for t in range(len(tokens_T) - 1) if kept_T[t]]
        losses_S.append(-sum(float(log_q_TV[t, tokens_T[t + 1]]) for t in scored) / len(scored))
    return np.array(losses_S)


@pytest.mark.parametrize("hook", HOOKS)
def test_the_built_in_model_against_its_definition(hook):
    found, rows = built_in(hook)
    assert found.d_in == HOOKS[hook]
    tokens_ST, kept_ST = tensors(rows)
    weights = {name: value.double() for name, value in load_model().state_dict().items()}
    mean_D = torch.from_numpy(rows.x_ND).double().mean(dim=0)
    seen = {}

    def loss_with(name, way):
        def replace(x_STW):
            seen[name] = torch.where(kept_ST[..., None], way(x_STW, mean_D), x_STW)
            return seen[name]

        return by_definition(plain_forward(weights, tokens_ST, hook, replace), tokens_ST, kept_ST)

    expected = {name: loss_with(name, way) for name, way in ways_of(hook).items()}
    np.testing.assert_allclose(rows.x_ND, seen["clean"][kept_ST], atol=1e-4)
    baseline = found.baseline(rows)
    np.testing.assert_allclose(baseline.clean_S, expected["clean"], atol=1e-4)
    np.testing.assert_allclose(baseline.zero_S, expected["zero"], atol=1e-4)
    np.testing.assert_allclose(baseline.mean_S, expected["mean"], atol=1e-4)
    spliced_S = found.splice(rows, seen["noise"][kept_ST].float().numpy())
    np.testing.assert_allclose(spliced_S, expected["noise"], atol=1e-4)
    assert np.abs(expected["noise"] - expected["clean"]).max() > 0.1, "the model must notice"


@pytest.mark.parametrize("hook", HOOKS)
def test_the_identity_costs_nothing_in_the_built_in_model(hook):
    found, rows = built_in(hook)
    clean_S = found.baseline(rows).clean_S
    assert abs(float((found.splice(rows, rows.x_ND) - clean_S).mean())) < 1e-5
    np.testing.assert_allclose(found.splice(rows, rows.x_ND), clean_S, atol=1e-5)
    assert np.abs(found.splice_with_kl(rows, rows.x_ND).kl_S).max() < 1e-6


@pytest.mark.parametrize("hook", HOOKS)
def test_the_restart_of_the_built_in_model_is_its_full_forward(hook):
    found, rows = built_in(hook)
    tokens_ST, kept_ST = tensors(rows)
    replacement_STD = torch.randn(*tokens_ST.shape, found.d_in, generator=torch.Generator().manual_seed(3))
    whole_S = full_losses(found.load(), hook, tokens_ST, kept_ST, replacement_STD)
    np.testing.assert_allclose(found.splice(rows, replacement_STD[kept_ST].numpy()), whole_S, atol=1e-4)


@pytest.fixture
def from_hub(hub, tmp_path):
    """A tiny GPT-2 that was fetched from the local hub, its evaluation rows, and the repository's files on disk."""
    files = gpt2_files()
    hub.add("models", "tiny/gpt2", files)
    text = tmp_path / "text.jsonl"
    text.write_bytes(json_lines(sentences(3000)))
    folder = tmp_path / "repository"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    loading._models.clear()

    def build(hook):
        spec = LanguageModelSubject.model_validate(
            {
                "type": "language_model",
                "model": "tiny/gpt2",
                "hook": hook,
                "context_length": 16,
                "harvest_batch": 8,
                "text": {"source": "files", "paths": (str(text),)},
            }
        )
        found = build_subject(spec, tmp_path / "cache")
        return found, found.harvest(0, ROWS, "evaluation")

    yield build, folder
    loading._models.clear()


@pytest.mark.parametrize(
    ("hook", "module", "part"),
    [
        ("blocks.1.hook_mlp_out", "transformer.h.1.mlp", "output"),
        ("blocks.1.mlp.hook_post", "transformer.h.1.mlp.act", "output"),
        ("blocks.1.hook_resid_pre", "transformer.h.1", "input"),
        ("blocks.0.hook_resid_post", "transformer.h.1", "input"),
    ],
)
def test_a_model_of_the_hub_against_hooks_of_torch(from_hub, hook, module, part):
    from transformers import AutoModelForCausalLM

    build, folder = from_hub
    found, rows = build(hook)
    tokens_ST, kept_ST = tensors(rows)
    mean_D = torch.from_numpy(rows.x_ND).mean(dim=0)
    original = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    place = original.get_submodule(module)
    seen = {}

    def loss_with(name, way):
        def changed(x_STD):
            seen[name] = torch.where(kept_ST[..., None], way(x_STD, mean_D), x_STD)
            return seen[name]

        if part == "output":
            handle = place.register_forward_hook(lambda _module, _inputs, output: changed(output))
        else:
            handle = place.register_forward_pre_hook(lambda _module, inputs: (changed(inputs[0]), *inputs[1:]))
        with torch.no_grad():
            logits_STV = original(tokens_ST).logits
        handle.remove()
        return by_definition(logits_STV, tokens_ST, kept_ST)

    hidden = rows.x_ND.shape[1]
    generator = torch.Generator().manual_seed(2)
    noise_D = torch.randn(hidden, generator=generator)
    ways = {**ways_of(hook), "noise": lambda x_STD, mean_D: x_STD + noise_D}
    expected = {name: loss_with(name, way) for name, way in ways.items()}
    np.testing.assert_allclose(rows.x_ND, seen["clean"][kept_ST], rtol=1e-4, atol=1e-5)
    baseline = found.baseline(rows)
    np.testing.assert_allclose(baseline.clean_S, expected["clean"], atol=1e-4)
    np.testing.assert_allclose(baseline.zero_S, expected["zero"], atol=1e-4)
    np.testing.assert_allclose(baseline.mean_S, expected["mean"], atol=1e-4)
    np.testing.assert_allclose(found.splice(rows, seen["noise"][kept_ST].numpy()), expected["noise"], atol=1e-4)
    assert np.abs(expected["noise"] - expected["clean"]).max() > 1e-3, "the model must notice"
    np.testing.assert_allclose(found.splice(rows, rows.x_ND), baseline.clean_S, atol=1e-5)
    replacement_STD = torch.randn(*tokens_ST.shape, hidden, generator=generator)
    whole_S = full_losses(found.load(), hook, tokens_ST, kept_ST, replacement_STD)
    np.testing.assert_allclose(found.splice(rows, replacement_STD[kept_ST].numpy()), whole_S, atol=1e-4)


class Counting:
    """A model that notes how many rows of logits it is asked for at a time."""

    def __init__(self, model):
        self._model, self.rows = model, []

    def __getattr__(self, name):
        return getattr(self._model, name)

    def logits(self, final_NR):
        self.rows.append(len(final_NR))
        return self._model.logits(final_NR)


def test_logits_are_made_a_few_at_a_time(monkeypatch):
    found, rows = built_in("blocks.0.hook_mlp_out")
    expected = found.splice_with_kl(rows, 0.5 * rows.x_ND)
    monkeypatch.setattr(losses, "_MIN_ROWS", 4)
    monkeypatch.setattr(losses, "_CHUNK_NUMBERS", {"cpu": 10 * found.load().d_vocab})
    model = Counting(found.load())
    result = Splicer(model, found.hook, rows.tokens_ST, rows.kept_ST, 8).losses(0.5 * rows.x_ND, kl=True)
    assert max(model.rows) == 10, "ten rows of logits are the limit that was set"
    scored = int(rows.kept_ST[:, :-1].sum())
    assert sum(model.rows) == 2 * scored, "every prediction once, and once more to compare with"
    np.testing.assert_allclose(result.loss_S, expected.loss_S, atol=1e-6)
    np.testing.assert_allclose(result.kl_S, expected.kl_S, atol=1e-6)
