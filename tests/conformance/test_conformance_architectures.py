from __future__ import annotations

import importlib
from pathlib import Path
from typing import ClassVar

from sae_suite import SaeConformance

import vsae_search.saes as saes


class TestRelu(SaeConformance):
    architecture = "relu"
    params: ClassVar = {"resample_dead": True}


class TestApril(SaeConformance):
    architecture = "april"


class TestAprilResampled(SaeConformance):
    architecture = "april"
    params: ClassVar = {"resample_dead": True}


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


class TestVsaeIsoResampled(SaeConformance):
    architecture = "vsae_iso"
    params: ClassVar = {"resample_dead": True}


class TestVsaeIsoFixedSigma(SaeConformance):
    architecture = "vsae_iso"
    params: ClassVar = {"learn_sigma": False, "initial_log_variance": -3.0}


class TestPAnneal(SaeConformance):
    architecture = "p_anneal"


class TestGated(SaeConformance):
    architecture = "gated"
    smooth = False  # the auxiliary loss holds the decoder constant


class TestBatchTopK(SaeConformance):
    architecture = "batch_topk"
    params: ClassVar = {"k": 3}
    loss_is_per_token = False


class TestMatryoshka(SaeConformance):
    architecture = "matryoshka"
    params: ClassVar = {"k": 3, "num_widths": 3}
    loss_is_per_token = False


class TestJumpRelu(SaeConformance):
    architecture = "jumprelu"
    smooth = False  # straight-through


class TestJumpReluStep(SaeConformance):
    architecture = "jumprelu"
    params: ClassVar = {"mode": "step", "sparsity_coefficient": 0.5}
    smooth = False


class TestJumpReluTarget(SaeConformance):
    architecture = "jumprelu"
    params: ClassVar = {"mode": "target_l0", "target_l0": 3.0}
    smooth = False
    loss_is_per_token = False  # squares the mean of L0 over the batch


class TestTopKRidge(SaeConformance):
    architecture = "topk_ridge"
    params: ClassVar = {"k": 3}


class TestTopKRidgeOnWinners(SaeConformance):
    architecture = "topk_ridge"
    params: ClassVar = {"k": 3, "ridge_scope": "winners", "ridge_coefficient": 0.5}


class TestRandomDictionary(SaeConformance):
    architecture = "random_dictionary"
    params: ClassVar = {"k": 3}


class TestPca(SaeConformance):
    architecture = "pca"
    params: ClassVar = {"k": 3}


def architectures_of(cls: type[SaeConformance]) -> set[str]:
    """Architectures that subclasses of the suite, at any depth, are about."""
    own = {cls.architecture} if hasattr(cls, "architecture") else set()
    return own.union(*(architectures_of(subclass) for subclass in cls.__subclasses__()))


def test_every_architecture_has_a_conformance_test():
    for path in Path(__file__).parent.glob("test_conformance_*.py"):  # so that this test can be run alone
        importlib.import_module(path.stem)
    assert architectures_of(SaeConformance) >= set(saes.names())
