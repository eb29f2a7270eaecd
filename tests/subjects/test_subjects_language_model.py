"""A language model as a subject: what is harvested, and what a splice costs, against hooks put in by hand."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from language_models import CONTEXT, gpt2, home, legacy, neox, spec, subject
from torch.nn import functional as F

from vsae_search.errors import CorruptFile, UserInputError
from vsae_search.subjects import ComparesPredictions, ReadsText, build_subject, width_of
from vsae_search.subjects.language_model import load as loading
from vsae_search.subjects.language_model.positions import explained, take_rows
from vsae_search.subjects.language_model.splicing import Splicer, full_losses

ROWS = 200
CASES = [
    (legacy, "blocks.0.hook_resid_pre"),
    (legacy, "blocks.0.hook_attn_out"),
    (legacy, "blocks.0.hook_resid_mid"),
    (legacy, "blocks.0.mlp.hook_post"),
    (legacy, "blocks.0.hook_mlp_out"),
    (legacy, "blocks.0.hook_resid_post"),
    (gpt2, "blocks.0.hook_mlp_out"),
    (gpt2, "blocks.1.hook_mlp_out"),
    (gpt2, "blocks.2.hook_mlp_out"),
    (gpt2, "blocks.1.hook_attn_out"),
    (gpt2, "blocks.1.mlp.hook_post"),
    (gpt2, "blocks.2.hook_resid_pre"),
    (gpt2, "blocks.1.hook_resid_post"),
    (gpt2, "blocks.1.attn.hook_z"),
    (neox, "blocks.1.hook_mlp_out"),
    (neox, "blocks.0.hook_resid_post"),
    (neox, "blocks.1.hook_attn_out"),
]
IDS = [f"{model.__name__}-{hook}" for model, hook in CASES]


def harvested(model, hook="blocks.0.hook_mlp_out", **changes):
    found = subject(model(), hook, **changes)
    return found, found.harvest(0, ROWS, "evaluation")


def tensors(rows):
    return torch.from_numpy(rows.tokens_ST.astype(np.int64)), torch.from_numpy(rows.kept_ST.copy())


def by_hand(logits_STV, tokens_ST, kept_ST):
    """Cross-entropy, sequence by sequence, of the predictions made at kept positions."""
    losses = []
    for logits_TV, tokens_T, kept_T in zip(logits_STV, tokens_ST, kept_ST, strict=True):
        positions = [position for position in range(len(tokens_T) - 1) if kept_T[position]]
        targets = tokens_T[[position + 1 for position in positions]]
        losses.append(float(F.cross_entropy(logits_TV[positions].double(), targets)))
    return np.asarray(losses)


@pytest.mark.parametrize(("model", "hook"), CASES, ids=IDS)
def test_identity_costs_nothing_and_the_restart_is_the_full_forward(model, hook):
    found, rows = harvested(model, hook)
    baseline = found.baseline(rows)
    np.testing.assert_allclose(found.splice(rows, rows.x_ND), baseline.clean_S, atol=1e-5)
    tokens_ST, kept_ST = tensors(rows)
    whole = full_losses(found.load(), hook, tokens_ST, kept_ST, None)
    np.testing.assert_allclose(baseline.clean_S, whole, atol=1e-4)
    replacement_STD = torch.randn(*tokens_ST.shape, found.d_in, generator=torch.Generator().manual_seed(1))
    whole = full_losses(found.load(), hook, tokens_ST, kept_ST, replacement_STD)
    spliced = found.splice(rows, replacement_STD[kept_ST].numpy())
    np.testing.assert_allclose(spliced, whole, atol=1e-4)
    assert np.abs(spliced - baseline.clean_S).max() > 1e-3, "the model must notice"


@pytest.mark.parametrize(
    ("model", "hook", "module"),
    [
        (gpt2, "blocks.1.hook_mlp_out", "transformer.h.1.mlp"),
        (gpt2, "blocks.1.mlp.hook_post", "transformer.h.1.mlp.act"),
        (gpt2, "blocks.0.hook_resid_post", "transformer.h.0"),
        (neox, "blocks.1.hook_mlp_out", "gpt_neox.layers.1.mlp"),
    ],
)
def test_ablations_are_those_of_hooks_on_the_original_model(model, hook, module):
    from transformers import AutoModelForCausalLM

    found, rows = harvested(model, hook)
    tokens_ST, kept_ST = tensors(rows)
    original = AutoModelForCausalLM.from_pretrained(model(), attn_implementation="eager").eval()
    seen = []

    def ablate(value_D):
        def change(_module, _inputs, output):
            seen.append(output)
            return output if value_D is None else torch.where(kept_ST[..., None], value_D, output)

        handle = original.get_submodule(module).register_forward_hook(change)
        with torch.no_grad():
            logits_STV = original(tokens_ST).logits
        handle.remove()
        return by_hand(logits_STV, tokens_ST, kept_ST)

    clean_S = ablate(None)
    x_ND = seen[0][kept_ST]
    torch.testing.assert_close(torch.from_numpy(rows.x_ND), x_ND, rtol=1e-4, atol=1e-5)
    baseline = found.baseline(rows)
    np.testing.assert_allclose(baseline.clean_S, clean_S, atol=1e-4)
    np.testing.assert_allclose(baseline.zero_S, ablate(torch.zeros(())), atol=1e-4)
    np.testing.assert_allclose(baseline.mean_S, ablate(x_ND.mean(dim=0)), atol=1e-4)


def test_ablations_of_the_one_layer_model():
    found, rows = harvested(legacy)
    tokens_ST, kept_ST = tensors(rows)
    model = found.load()._model
    baseline = found.baseline(rows)
    point = model.run_to(tokens_ST, found.hook)
    for value, expected_S in ((0.0, baseline.zero_S), (torch.from_numpy(rows.x_ND).mean(dim=0), baseline.mean_S)):
        value_STD = torch.where(kept_ST[..., None], torch.as_tensor(value), point.value_STW)
        logits_STV = model.logits(model.finish(point._replace(value_STW=value_STD)))
        np.testing.assert_allclose(expected_S, by_hand(logits_STV, tokens_ST, kept_ST), atol=1e-4)


@pytest.mark.parametrize("model", [legacy, gpt2])
def test_the_divergence_is_that_of_the_definition(model):
    found, rows = harvested(model, "blocks.0.hook_mlp_out")
    tokens_ST, kept_ST = tensors(rows)
    runner = found.load()
    xhat_ND = 0.5 * rows.x_ND
    result = found.splice_with_kl(rows, xhat_ND)
    np.testing.assert_array_equal(result.loss_S, found.splice(rows, xhat_ND))

    def halve(x_STD):
        return torch.where(kept_ST[..., None], 0.5 * x_STD, x_STD)

    logits = [runner.logits(runner.full(tokens_ST, found.hook, edit).flatten(0, 1)) for edit in (lambda x: x, halve)]
    p, q = (torch.log_softmax(value.double(), -1).unflatten(0, tokens_ST.shape) for value in logits)
    kl_ST = (p.exp() * (p - q)).sum(-1)
    scored_ST = kept_ST.clone()
    scored_ST[:, -1] = False
    np.testing.assert_allclose(result.kl_S, (kl_ST * scored_ST).sum(1) / scored_ST.sum(1), atol=1e-5)
    assert np.abs(found.splice_with_kl(rows, rows.x_ND).kl_S).max() < 1e-6


def test_two_identical_autoencoders_get_identical_numbers():
    found, rows = harvested(gpt2, "blocks.1.hook_mlp_out")
    first, second = (found.splice_with_kl(rows, 0.9 * rows.x_ND) for _ in range(2))
    np.testing.assert_array_equal(first.loss_S, second.loss_S)
    np.testing.assert_array_equal(first.kl_S, second.kl_S)


def test_rows_are_the_activations_at_kept_positions():
    found, rows = harvested(gpt2, "blocks.1.hook_mlp_out")
    assert rows.x_ND.shape == (ROWS, 16)
    assert rows.x_ND.dtype == np.float32
    assert rows.kept_ST.sum() == ROWS
    assert not rows.kept_ST[:, 0].any()
    assert not (rows.kept_ST & (rows.tokens_ST == 0)).any()
    lengths = rows.kept_ST.sum(axis=1)
    assert lengths.max() - lengths.min() <= 2
    tokens_ST, kept_ST = tensors(rows)
    with torch.inference_mode():
        x_STD = found.load().activations(tokens_ST, found.hook)
    np.testing.assert_allclose(rows.x_ND, x_STD[kept_ST], atol=1e-5)


def test_only_the_kept_positions_are_replaced():
    found, rows = harvested(legacy)
    tokens_ST, kept_ST = tensors(rows)
    part_ST = kept_ST.clone()
    part_ST[:, CONTEXT // 2 :] = False
    whole = Splicer(found.load(), found.hook, rows.tokens_ST, rows.kept_ST, 4)
    part = Splicer(found.load(), found.hook, rows.tokens_ST, part_ST.numpy(), 4)
    zero_ND = np.zeros_like(rows.x_ND)
    assert not np.allclose(whole.losses(zero_ND).loss_S, part.losses(zero_ND[: int(part_ST.sum())]).loss_S)
    expected_S = full_losses(found.load(), found.hook, tokens_ST, part_ST, torch.zeros(*tokens_ST.shape, 16))
    np.testing.assert_allclose(part.losses(zero_ND[: int(part_ST.sum())]).loss_S, expected_S, atol=1e-5)


def test_special_tokens_and_the_first_position_are_not_explained():
    tokens_ST = np.array([[0, 5, 0, 7], [9, 5, 6, 2]])
    expected = [[False, True, False, True], [False, True, True, False]]
    np.testing.assert_array_equal(explained(tokens_ST, {0, 2}), expected)


def test_rows_are_left_out_at_the_ends_and_evenly():
    kept_ST = np.ones((4, 6), dtype=bool)
    kept_ST[:, 0] = False
    kept_ST[1, 3] = False  # five, four, five, five
    np.testing.assert_array_equal(take_rows(kept_ST, 19), kept_ST)
    np.testing.assert_array_equal(take_rows(kept_ST, 16).sum(axis=1), [4, 4, 4, 4])
    np.testing.assert_array_equal(take_rows(kept_ST, 15).sum(axis=1), [4, 4, 4, 3])
    assert take_rows(kept_ST, 16)[1].tolist() == kept_ST[1].tolist()
    assert take_rows(kept_ST, 15)[3].tolist() == [False, True, True, True, False, False]


def test_splits_and_shards_share_no_sequence():
    found = subject(gpt2(), "blocks.1.hook_mlp_out")
    seen = []
    for split, index in (("evaluation", 0), ("evaluation", 1), ("confirm", 0)):
        seen.append({tuple(tokens_T) for tokens_T in found.harvest(index, 150, split).tokens_ST.tolist()})
    assert all(first.isdisjoint(second) for i, first in enumerate(seen) for second in seen[i + 1 :])
    train = [found.harvest(index, rows, "train", shard_rows=150).x_ND for index, rows in ((0, 150), (1, 150), (2, 40))]
    rows = np.concatenate([*train, found.harvest(0, 150, "calibration").x_ND])
    assert len(np.unique(rows.round(4), axis=0)) > 0.97 * len(rows), "activations of different contexts differ"


def test_training_rows_are_shuffled_and_carry_no_sequences():
    found = subject(gpt2(), "blocks.1.hook_mlp_out")
    rows = found.harvest(0, 150, "train", shard_rows=150)
    assert rows.tokens_ST is None
    assert rows.kept_ST is None
    tokens_ST, kept_ST = found._sequences("train", 0, 150)
    ordered_ND = found._activations(tokens_ST, kept_ST)
    assert not np.allclose(rows.x_ND, ordered_ND)
    order = [np.lexsort(x_ND.round(4).T) for x_ND in (rows.x_ND, ordered_ND)]
    np.testing.assert_allclose(rows.x_ND[order[0]], ordered_ND[order[1]], atol=1e-5)


def test_a_copy_in_another_process_gives_the_same(tmp_path):
    found, rows = harvested(gpt2, "blocks.1.hook_mlp_out")
    (tmp_path / "subject").write_bytes(pickle.dumps(found))
    script = f"""
import pickle, sys, numpy as np
from pathlib import Path
subject = pickle.loads(Path({str(tmp_path / "subject")!r}).read_bytes())
rows = subject.harvest(0, {ROWS}, "evaluation")
np.savez({str(tmp_path / "found.npz")!r}, x=rows.x_ND, tokens=rows.tokens_ST, loss=subject.splice(rows, rows.x_ND * 0))
print(subject.fingerprint)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == found.fingerprint
    other = np.load(tmp_path / "found.npz")
    np.testing.assert_array_equal(other["tokens"], rows.tokens_ST)
    np.testing.assert_allclose(other["x"], rows.x_ND, atol=1e-6)
    np.testing.assert_allclose(other["loss"], found.baseline(rows).zero_S, atol=1e-6)


def test_a_pickled_subject_is_small():
    assert len(pickle.dumps(subject(gpt2(), "blocks.1.hook_mlp_out"))) < 20_000


def test_the_fingerprint_tells_subjects_apart():
    base = subject(gpt2(), "blocks.1.hook_mlp_out")
    others = [
        subject(gpt2(), "blocks.1.hook_attn_out"),
        subject(neox(), "blocks.1.hook_mlp_out"),
        subject(gpt2(), "blocks.1.hook_mlp_out", context_length=CONTEXT - 1),
        subject(gpt2(), "blocks.1.hook_mlp_out", seed=1),
        subject(gpt2(), "blocks.1.hook_mlp_out", dtype="bf16"),
        subject(gpt2(), "blocks.1.hook_mlp_out", processing="folded"),
    ]
    assert len({base.fingerprint, *(other.fingerprint for other in others)}) == 7
    again = build_subject(spec(gpt2(), hook=None, layer=1, act_name="mlp_out"), home() / "cache")
    assert again.fingerprint == base.fingerprint, "both forms of a hook mean the same"


@pytest.mark.parametrize("model", [legacy, gpt2])
def test_sixteen_bits_and_folding(model):
    found, rows = harvested(model, "blocks.0.hook_mlp_out", dtype="bf16")
    assert (rows.x_ND == torch.from_numpy(rows.x_ND).bfloat16().float().numpy()).all()
    np.testing.assert_allclose(found.splice(rows, rows.x_ND), found.baseline(rows).clean_S, atol=1e-5)
    plain, plain_rows = harvested(model, "blocks.0.hook_mlp_out")
    folded, folded_rows = harvested(model, "blocks.0.hook_mlp_out", processing="folded")
    np.testing.assert_allclose(folded.baseline(folded_rows).clean_S, plain.baseline(plain_rows).clean_S, atol=1e-4)
    assert not np.allclose(folded_rows.x_ND, plain_rows.x_ND, atol=1e-3)


def test_a_cpu_never_computes_in_fp16():
    with pytest.raises(UserInputError, match="no GPU"):
        build_subject(spec(gpt2(), dtype="fp16"), home() / "cache")


@pytest.mark.parametrize(
    ("model", "hook", "near"),
    [
        (legacy, "blocks.0.mlp_out", "blocks.0.hook_mlp_out"),
        (gpt2, "blocks.7.hook_mlp_out", "blocks.2.hook_mlp_out"),
        (gpt2, "blocks.1.hook_mlp_outt", "blocks.1.hook_mlp_out"),
    ],
)
def test_a_wrong_hook_lists_the_near_ones(model, hook, near):
    with pytest.raises(UserInputError) as caught:
        build_subject(spec(model(), hook), home() / "cache")
    assert hook in caught.value.message
    assert near in caught.value.hint


def test_a_hook_without_one_vector_per_position_is_refused():
    with pytest.raises(UserInputError, match="does not hold one vector for each position"):
        build_subject(spec(gpt2(), "blocks.1.attn.hook_pattern"), home() / "cache")


def test_a_context_beyond_the_model_is_refused():
    with pytest.raises(UserInputError, match="reads at most 32 tokens"):
        build_subject(spec(gpt2(), context_length=33), home() / "cache")


def test_a_model_that_is_nowhere_is_refused():
    with pytest.raises(UserInputError, match="neither a folder nor the name"):
        build_subject(spec(Path("./no/such/folder")), home() / "cache")
    with pytest.raises(UserInputError, match="a local folder"):
        build_subject(spec(gpt2(), revision="main"), home() / "cache")


def test_weights_that_changed_are_noticed(tmp_path):
    from language_models import legacy_weights, save_legacy, save_tokenizer

    folder = save_legacy(tmp_path / "model", legacy_weights())
    save_tokenizer(folder)
    found = build_subject(spec(folder), tmp_path / "cache")
    save_legacy(folder, legacy_weights(seed=9))
    loading._models.clear()
    with pytest.raises(CorruptFile, match="not those with which the sweep was prepared"):
        found.load()


def test_too_little_text_is_refused_before_anything_is_harvested():
    found = subject(gpt2(), "blocks.1.hook_mlp_out")
    found.prepare({"train": 1000, "calibration": 100, "evaluation": 100}, 300)
    with pytest.raises(UserInputError, match="the text is too short"):
        found.prepare({"train": 10**8}, 10**6)


def test_it_says_what_it_is():
    import json

    found = subject(gpt2(), "blocks.1.hook_mlp_out")
    facts = json.loads(json.dumps(found.describe(), allow_nan=False))
    assert facts["restart"] == "after block 1"
    assert facts["hook"] == "blocks.1.hook_mlp_out"
    assert facts["sample"]["ce_clean"] > 0
    assert facts["sample"]["median_norm"] > 0
    assert len(facts["weights_sha256"]) == 64
    assert facts["libraries"].keys() == {"torch", "transformers", "transformer_lens"}
    assert isinstance(found, ReadsText)
    assert isinstance(found, ComparesPredictions)
    assert (found.loss_name, found.loss_unit) == ("delta-CE", "nats per token")


def test_the_restart_skips_what_comes_before():
    found = subject(gpt2(), "blocks.2.hook_mlp_out")
    model = found.load()
    blocks = model._bridge.blocks
    runs = []
    handles = [block.mlp.register_forward_hook(lambda *_: runs.append(1)) for block in blocks]
    tokens_ST = torch.arange(20).reshape(2, 10)
    state = model.start(tokens_ST, found.hook)
    runs.clear()
    model.finish(tokens_ST, found.hook, state, lambda x_STD: x_STD)
    for handle in handles:
        handle.remove()
    assert runs == []


def test_what_is_kept_has_a_limit(monkeypatch):
    from vsae_search.subjects.language_model import splicing

    found, rows = harvested(gpt2, "blocks.1.hook_mlp_out")
    expected = found.splice_with_kl(rows, 0.5 * rows.x_ND)
    monkeypatch.setattr(splicing, "_KEPT_BYTES", 5000)
    splicer = Splicer(found.load(), found.hook, rows.tokens_ST, rows.kept_ST, found.spec.harvest_batch)
    for _ in range(2):
        result = splicer.losses(0.5 * rows.x_ND, kl=True)
        np.testing.assert_allclose(result.loss_S, expected.loss_S, atol=1e-6)
        np.testing.assert_allclose(result.kl_S, expected.kl_S, atol=1e-6)
    assert splicer._kept_bytes <= 5000


@pytest.mark.parametrize(
    ("model", "hook", "width"),
    [
        (gpt2, "blocks.1.hook_mlp_out", 16),
        (gpt2, "blocks.1.mlp.hook_post", 64),
        (legacy, "blocks.0.mlp.hook_post", 64),
        (neox, "blocks.0.hook_resid_pre", 16),
        (neox, "blocks.0.mlp.hook_post", 32),
        (gpt2, "blocks.1.attn.hook_z", None),
    ],
)
def test_the_width_is_known_from_the_configuration(model, hook, width):
    assert width_of(spec(model(), hook)) == width
    if width is not None:
        assert subject(model(), hook).d_in == width


def test_the_width_of_a_model_that_was_never_fetched_is_unknown():
    assert width_of(spec(Path("nobody/nothing-at-all"))) is None
