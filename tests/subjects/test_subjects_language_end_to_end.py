"""From a language model to a bank, a trained autoencoder and its evaluation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from language_models import legacy, subject

from vsae_search import saes
from vsae_search.activations import build_bank, hold_out
from vsae_search.evaluation import evaluate
from vsae_search.space import ActivationsSpec, TrainingSpec
from vsae_search.training import fit

HOOK = "blocks.0.hook_mlp_out"
ACTIVATIONS = ActivationsSpec(
    num_tokens=2500, evaluation_tokens=400, calibration_tokens=300, shard_tokens=1000, dtype="bf16"
)


@pytest.fixture(scope="module")
def bank(local_ray, tmp_path_factory):
    return build_bank(subject(legacy(), HOOK), ACTIVATIONS, tmp_path_factory.mktemp("banks"))


def run(sae, bank):
    found = subject(legacy(), HOOK)
    rows = bank.evaluation()
    return evaluate(sae, rows, scale=bank.manifest.scale, subject=found, baseline=found.baseline(rows))


class Identity(torch.nn.Module):
    """A perfect autoencoder."""

    def __init__(self, d_in):
        super().__init__()
        self.W_dec = torch.nn.Parameter(torch.eye(d_in))
        self.config = type("Config", (), {"d_sae": d_in})

    def encode(self, x_BD):
        return x_BD

    def decode(self, f_BF):
        return f_BF


def test_evaluation_rows_come_with_their_sequences(bank):
    rows = bank.evaluation()
    direct = subject(legacy(), HOOK).harvest(0, 400, "evaluation")
    np.testing.assert_array_equal(rows.tokens_ST, direct.tokens_ST)
    np.testing.assert_array_equal(rows.kept_ST, direct.kept_ST)
    np.testing.assert_allclose(rows.x_ND, direct.x_ND, atol=1e-6)
    assert rows.x_ND.dtype == np.float32
    assert rows.kept_ST.dtype == np.bool_
    assert bank.manifest.shard_rows == (1000, 1000, 500)
    assert bank.calibration().shape == (300, 16)


def test_held_out_rows_come_with_sequences_that_nothing_else_has(bank):
    found = subject(legacy(), HOOK)
    held_out = hold_out(bank, found, 400)
    rows = held_out.evaluation()
    np.testing.assert_array_equal(rows.tokens_ST, found.harvest(0, 400, "confirm").tokens_ST)
    np.testing.assert_allclose(found.splice(rows, rows.x_ND), found.baseline(rows).clean_S, atol=1e-5)
    others = [found.harvest(0, 300, "calibration"), bank.evaluation(), *(found.harvest(i, 1000) for i in range(2))]
    taken = {row.tobytes() for other in others for row in other.x_ND}
    mine = {row.tobytes() for row in rows.x_ND}
    assert len(mine & taken) < 0.1 * len(mine), "only the first tokens of a sequence recur"
    assert held_out.manifest.evaluation_digest != bank.manifest.evaluation_digest
    assert (held_out.manifest.scale, held_out.shards) == (bank.manifest.scale, bank.shards)
    held_out.verify()


def test_shards_hold_different_rows(bank):
    x_ND = np.concatenate(
        [batch.numpy() for batch, _ in zip(bank.stream(batch_size=500, seed=0), range(5), strict=False)]
    )
    assert len(np.unique(x_ND, axis=0)) > 0.93 * 2500, "only the first tokens of a sequence recur"


def test_a_short_training_brings_the_predictions_back(bank):
    training = TrainingSpec(num_tokens=60_000, batch_size=200, rungs=(1.0,))
    sae = saes.create("topk", seed=0, d_in=16, d_sae=64, lr=3e-3, k=8)
    calibration = torch.from_numpy(bank.calibration() * np.float32(bank.manifest.scale))
    sae.initialise(calibration)
    untrained = run(sae, bank).metrics
    fit(sae, bank.stream(batch_size=200, seed=0), training, on_rung=lambda rung: None, checkpoint=None)
    sae.calibrate(calibration)
    trained = run(sae, bank)
    metrics = trained.metrics
    assert metrics["fvu"] < 0.5 * untrained["fvu"]
    assert metrics["kl"] < 0.5 * untrained["kl"]
    assert abs(metrics["delta_ce"]) < abs(untrained["delta_ce"]), "of a random model ablation may lower the loss"
    assert metrics["delta_ce"] == pytest.approx(metrics["ce_spliced"] - metrics["ce_clean"])
    assert trained.arrays["delta_ce_sequences"].shape == trained.arrays["kl_sequences"].shape
    assert len(trained.arrays["kl_sequences"]) == len(bank.evaluation().tokens_ST)


def test_a_perfect_autoencoder_costs_nothing(bank):
    metrics = run(Identity(16), bank).metrics
    assert abs(metrics["delta_ce"]) < 1e-5
    assert metrics["kl"] < 1e-6


def test_too_little_text_is_refused_before_the_harvest(bank, tmp_path):
    from vsae_search.errors import UserInputError

    huge = ActivationsSpec(num_tokens=10**6, evaluation_tokens=10**6, calibration_tokens=10, shard_tokens=10**5)
    with pytest.raises(UserInputError, match="the text is too short"):
        build_bank(subject(legacy(), HOOK), huge, tmp_path)
    assert not list(tmp_path.rglob("train-*"))
