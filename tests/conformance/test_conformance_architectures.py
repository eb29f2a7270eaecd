from __future__ import annotations

from typing import ClassVar

from sae_suite import SaeConformance

import vsae_search.saes as saes


class TestRelu(SaeConformance):
    architecture = "relu"
    params: ClassVar = {"resample_dead": True}


class TestApril(SaeConformance):
    architecture = "april"


class TestTopK(SaeConformance):
    architecture = "topk"
    params: ClassVar = {"k": 3}


class TestVsaeIso(SaeConformance):
    architecture = "vsae_iso"


class TestVsaeIsoThresholded(SaeConformance):
    architecture = "vsae_iso"
    params: ClassVar = {"target_l0": 2.0, "kl_coefficient": 0.3}

    # the loss is that of the posterior mean; the code that it is spliced with is thresholded
    def test_reconstruction_is_sum_over_dimensions_mean_over_tokens(self):
        sae = self.make()
        assert float(sae.threshold) == 0.0
        super().test_reconstruction_is_sum_over_dimensions_mean_over_tokens()


class TestVsaeIsoFixedSigma(SaeConformance):
    architecture = "vsae_iso"
    params: ClassVar = {"learn_sigma": False, "initial_log_variance": -3.0}


def test_every_architecture_has_a_conformance_test():
    tested = {cls.architecture for cls in SaeConformance.__subclasses__()}
    assert tested >= set(saes.names())
