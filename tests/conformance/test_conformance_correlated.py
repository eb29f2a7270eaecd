"""Variational architectures with correlated priors, and the legacy objectives, on the suite for every architecture."""

from __future__ import annotations

from typing import ClassVar

import torch
from sae_suite import SaeConformance, toy_rows

import vsae_search.saes as saes
from vsae_search.training.optimiser import trainable


class TestVsaeMulti(SaeConformance):
    architecture = "vsae_multi"
    params: ClassVar = {"rank": 3, "shared_variance": 0.4}


class TestVsaeMultiResampled(SaeConformance):
    architecture = "vsae_multi"
    params: ClassVar = {"rank": 3, "resample_dead": True}


class TestVsaeMultiThresholded(SaeConformance):
    architecture = "vsae_multi"
    params: ClassVar = {"rank": 3, "target_l0": 2.0}


class TestVsaeMultiBlock(SaeConformance):
    architecture = "vsae_multi"
    params: ClassVar = {"covariance": "block", "block_size": 5, "rho": 0.7, "kl_coefficient": 0.5}


class TestVsaeMultiFixed(SaeConformance):
    architecture = "vsae_multi"
    params: ClassVar = {"rank": 2, "learn_covariance": False, "learn_sigma": False, "initial_log_variance": -3.0}


class Mix(SaeConformance):
    architecture = "vsae_mix"
    params: ClassVar = {"prior_l0": 2.0}

    # what is decoded in training is E[z], in the code of a token every gate is open or closed
    def test_reconstruction_is_sum_over_dimensions_mean_over_tokens(self):
        sae, x_BD = self.make(), toy_rows(16)
        xhat_BD = sae.decode(sae.posterior(x_BD)[0].mean_BF)
        torch.testing.assert_close(sae.loss(x_BD, 1.0).reconstruction, (xhat_BD - x_BD).square().sum(1).mean())


class TestVsaeMix(Mix):
    pass


class TestVsaeMixWithSets(Mix):
    params: ClassVar = {"prior_l0": 2.0, "sets_from": "oracle", "smoothing": 0.02}

    def make(self, **params) -> saes.SparseAutoencoder:
        sae = super().make(**params)
        directions = sae.W_dec.detach()[:5].clone()
        sae.assign_sets(directions, [("correlated", (0, 1)), ("anticorrelated", (2, 4))])
        assert len(sae.sets()) == 2
        return sae


class TestVsaeMixFixed(Mix):
    params: ClassVar = {"prior_l0": 2.0, "sets_from": "none", "learn_sigma": False}


class Legacy(SaeConformance):
    loss_is_per_token = False  # one draw of noise for a batch; sums or means over it

    # most of the loss is the noise of variance 1 or more, which no training removes
    def test_loss_decreases(self):
        sae, rows = self.make(lr=3e-3), toy_rows(2048)
        sae.initialise(rows)
        before, after = (model.loss(rows, 1.0).total.detach() for model in (sae, self.trained(300)))
        assert float(after) < float(before)

    # an exponential of an unbounded head overflows at inputs 10^4 times too large; training then stops as diverged
    def test_gradients_are_finite_on_hard_inputs(self):
        sae = self.make()
        for rows in (torch.zeros(4, self.d_in), toy_rows(4)[:1].repeat(4, 1), toy_rows(1)):
            sae.loss(rows, 0.0).total.backward()
            for name, parameter in trainable(sae).items():
                assert torch.isfinite(parameter.grad).all(), name


class TestLegacyIso(Legacy):
    architecture = "vsae_iso"
    params: ClassVar = {"legacy_seed": True}


class TestLegacyMix(Legacy):
    architecture = "vsae_mix"
    params: ClassVar = {
        "legacy_seed": True,
        "prior_l0": 2.0,
        "legacy_correlated_pairs": 1,
        "legacy_anticorrelated_pairs": 1,
    }


class TestLegacyMulti(Legacy):
    architecture = "vsae_multi"
    params: ClassVar = {"legacy_seed": True, "learn_sigma": False}
