from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from sae_suite import SaeConformance, toy_rows

import vsae_search.saes as saes
from vsae_search.errors import UnsupportedExport, UserInputError


class OfTheMean:
    """The loss is that of the posterior mean ``E[z]``, which is not the code where a latent may be off."""

    def test_reconstruction_is_sum_over_dimensions_mean_over_tokens(self):
        sae: Any = self.make()
        x_BD = toy_rows(16)
        expected = (sae.decode(sae.posterior(x_BD)[0].mean_BF) - x_BD).square().sum(1).mean()
        torch.testing.assert_close(sae.loss(x_BD, 1.0).reconstruction, expected)


class TestVsaeSpikeSlab(OfTheMean, SaeConformance):
    architecture = "vsae_spike_slab"
    params: ClassVar = {"prior_l0": 2.0}


class TestVsaeSpikeSlabFixedSigma(OfTheMean, SaeConformance):
    architecture = "vsae_spike_slab"
    params: ClassVar = {"prior_l0": 2.0, "slab_mean": 0.5, "learn_sigma": False, "observation_variance": 0.3}


class TestVsaeSpikeSlabUntied(OfTheMean, SaeConformance):
    architecture = "vsae_spike_slab"
    params: ClassVar = {"prior_l0": 2.0, "tied_gate": False}

    def test_canonical_form_is_the_same_function(self):
        with pytest.raises(UnsupportedExport, match="untied") as caught:
            self.make().canonical()
        assert isinstance(caught.value, UserInputError)
        assert "tied_gate: true" in caught.value.hint


class TestVsaeRectified(OfTheMean, SaeConformance):
    architecture = "vsae_rectified"
    params: ClassVar = {"prior_l0": 2.0}


class TestVsaeLaplace(SaeConformance):
    architecture = "vsae_laplace"


class TestVsaeLaplaceThresholded(SaeConformance):
    architecture = "vsae_laplace"
    params: ClassVar = {"target_l0": 2.0, "l1_coefficient": 0.5}


class TestVsaeTopK(SaeConformance):
    architecture = "vsae_topk"
    params: ClassVar = {"k": 3}


class TestVsaeTopKOverAll(SaeConformance):
    architecture = "vsae_topk"
    params: ClassVar = {"k": 3, "kl_scope": "all", "observation_variance": 0.01}


@pytest.mark.parametrize("architecture", ["vsae_spike_slab", "vsae_rectified"])
def test_prior_that_is_not_sparse_is_refused(architecture):
    with pytest.raises(UserInputError, match=r"prior_l0 = 24 is not less than d_sae = 24"):
        saes.create(architecture, d_in=8, d_sae=24, prior_l0=24)
