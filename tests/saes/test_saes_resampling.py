"""Resampling of dead latents as an option: the same field, the same times, and it does revive them."""

from __future__ import annotations

import pytest
import torch

from vsae_search import saes
from vsae_search.space import TrainingSpec
from vsae_search.training import fit

OPTIONAL = ["relu", "april", "gated", "p_anneal", "vsae_iso", "vsae_multi"]
SPEC = TrainingSpec(num_tokens=80 * 64, batch_size=64, dead_window_tokens=64 * 8, rungs=(0.25, 1.0))


def create(name, **params):
    return saes.create(name, d_in=4, d_sae=12, lr=1e-3, **params)


def train(name, **params):
    """Training of an autoencoder three of whose latents cannot fire, nor be reached by a gradient."""
    sae = create(name, **params)
    rows_BD = torch.randn(80 * 64, 4, generator=torch.Generator().manual_seed(0))
    sae.initialise(rows_BD)
    with torch.no_grad():
        sae.b_enc[:3] = -100.0
    rungs = []
    fit(sae, iter(rows_BD.split(64)), SPEC, on_rung=rungs.append)
    return sae, rungs, rows_BD


@pytest.mark.parametrize("name", OPTIONAL)
def test_it_is_off_by_default_and_the_same_everywhere(name):
    field = saes.get(name).Config.model_fields["resample_dead"]
    assert field.default is False
    assert field.description == saes.get("relu").Config.model_fields["resample_dead"].description
    assert create(name).resample_at() == ()
    assert create(name, resample_dead=True).resample_at() == (0.25, 0.5)


@pytest.mark.parametrize(
    ("name", "params"),
    [*((name, {}) for name in OPTIONAL), ("vsae_multi", {"covariance": "block"}), ("vsae_iso", {"legacy_seed": True})],
)
def test_dead_latents_fire_again(name, params):
    sae, rungs, rows_BD = train(name, resample_dead=True, **params)
    assert rungs[0].dead_fraction == pytest.approx(3 / 12)
    assert rungs[-1].dead_fraction == 0
    assert (sae.encode(rows_BD) > 0).any(0)[:3].all()


@pytest.mark.parametrize("name", ["april", "vsae_iso", "vsae_multi"])
def test_without_it_they_stay_dead(name):
    sae, rungs, rows_BD = train(name)
    assert rungs[-1].dead_fraction == pytest.approx(3 / 12)
    assert not (sae.encode(rows_BD) > 0).any(0)[:3].any()


def test_every_architecture_has_something_against_dead_latents():
    controls, remedies = {"pca", "random_dictionary"}, {"resample_dead", "aux_coefficient", "preact_coefficient"}
    for name, config in saes.config_classes().items():
        assert name in controls or remedies & set(config.model_fields), name
