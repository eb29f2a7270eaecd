"""The conformance suite once more, with every code treated as sparse however small and dense it is."""

from __future__ import annotations

from typing import ClassVar

import pytest
from sae_suite import SaeConformance

from vsae_search.saes import _sparse_select


class SparseConformance(SaeConformance):
    @pytest.fixture(autouse=True)
    def _always_sparse(self, monkeypatch):
        monkeypatch.setattr(_sparse_select, "MIN_D_SAE", 0)
        monkeypatch.setattr(_sparse_select, "MAX_DENSITY", 1.0)
        monkeypatch.setattr(_sparse_select, "MAX_AUXILIARY_DENSITY", 1.0)


class CountsEntries(SparseConformance):
    """Finding the entries above a threshold needs their number; that is done on a CPU only, where nothing waits."""

    def test_a_step_never_waits_for_the_device(self):
        pytest.skip("takes the sparse path on a CPU only")


class TestSparseTopK(SparseConformance):
    architecture = "topk"
    params: ClassVar = {"k": 3}


class TestSparseTopKRidge(SparseConformance):
    architecture = "topk_ridge"
    params: ClassVar = {"k": 3, "ridge_coefficient": 0.1}


class TestSparseTopKRidgeOnWinners(SparseConformance):
    architecture = "topk_ridge"
    params: ClassVar = {"k": 3, "ridge_coefficient": 0.1, "ridge_scope": "winners"}


class TestSparseVsaeTopK(SparseConformance):
    architecture = "vsae_topk"
    params: ClassVar = {"k": 3}


class TestSparseVsaeTopKOverAll(SparseConformance):
    architecture = "vsae_topk"
    params: ClassVar = {"k": 3, "kl_scope": "all", "observation_variance": 0.01}


class TestSparseBatchTopK(CountsEntries):
    architecture = "batch_topk"
    params: ClassVar = {"k": 3}
    loss_is_per_token = False


class TestSparseMatryoshka(CountsEntries):
    architecture = "matryoshka"
    params: ClassVar = {"k": 3, "num_widths": 3}
    loss_is_per_token = False


class TestSparsePAnneal(CountsEntries):
    architecture = "p_anneal"


class TestSparseRelu(CountsEntries):
    architecture = "relu"


class TestSparseApril(CountsEntries):
    architecture = "april"


class TestSparseGated(CountsEntries):
    architecture = "gated"
    smooth = False


class TestSparseJumpRelu(CountsEntries):
    architecture = "jumprelu"
    smooth = False
