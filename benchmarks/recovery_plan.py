"""What the recovery benchmark runs: toys, architectures with their sparsity axes, and the numbers to reproduce."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

NUM_FEATURES, D_IN, D_SAE, PROBABILITY = 40, 20, 40, 0.05
TRUE_L0 = NUM_FEATURES * PROBABILITY
STEPS, BATCH_SIZE, LEARNING_RATE = 4000, 256, 3e-3
SEEDS = (0, 1, 2, 3, 4)
CHOICE_SEED = 100
"""Seed on which settings are chosen; it is not among those of the tables."""

TOYS: dict[str, dict[str, Any]] = {
    "independent": {},
    "correlated": {"sets": [{"kind": "correlated", "size": 2, "count": NUM_FEATURES // 2}]},
    "anticorrelated": {"sets": [{"kind": "anticorrelated", "size": 2, "count": NUM_FEATURES // 2}]},
    "copula": {"copula": {"rho": 0.7, "block_size": 8}},
    "partly": {"sets": [{"kind": "correlated", "size": 2, "count": NUM_FEATURES // 2, "strength": 0.7}]},
}
"""Features of each toy, beyond count and probability."""
TOY_TITLES = {
    "independent": "independent features",
    "correlated": "perfectly correlated pairs (always present together)",
    "partly": "partly correlated pairs (drawn together in 70 % of rows)",
    "anticorrelated": "anticorrelated pairs (never present together)",
    "copula": "Gaussian copula (correlation 0.7 within blocks of 8)",
}
GROUP_SIZE = {"copula": 8}
"""Features that belong together where they are not drawn as a set; 2, that is pairs, for a toy that is not named."""


@dataclass(frozen=True)
class Run:
    """One training: a toy, a seed (of directions, data and weights) and an architecture with its hyper-parameters."""

    toy: str
    seed: int
    architecture: str
    params: dict[str, Any] = field(hash=False)
    steps: int = STEPS

    @property
    def key(self) -> str:
        """Name of its file in the cache: a digest of everything above."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:20]


@dataclass(frozen=True)
class Entry:
    """One row of the main tables.

    Attributes:
        label: Name of the row.
        architecture: Registered name.
        axis: The hyper-parameter that is swept.
        values: Its values, increasing.
        params: What else differs from the defaults.
        refine: Whether the axis is continuous and decides L0, so that a further value may be interpolated.
        toys: Toys it is run on; all of them if empty.
        prior: Prior of a variational architecture, ``gaussian`` or ``sparse``; empty for the others.
    """

    label: str
    architecture: str
    axis: str
    values: tuple[float, ...]
    params: dict[str, Any] = field(default_factory=dict)
    refine: bool = True
    toys: tuple[str, ...] = ()
    prior: str = ""

    def run(self, toy: str, seed: int, value: float, steps: int) -> Run:
        """The training at one value of the axis."""
        return Run(toy, seed, self.architecture, {**self.params, self.axis: value}, steps)

    def on(self, toy: str) -> bool:
        """Whether the row exists for a toy."""
        return not self.toys or toy in self.toys


_LAMBDAS = (0.5, 1.0, 2.0)
_KAPPAS = (0.6, 2.0)
_KEPT = (2, 3)
_PRIOR_L0 = (2.0, 6.0, 16.0)
_OBSERVED = {"observation_variance": 0.1}
_CUT_OFF = {"target_l0": TRUE_L0}
"""For codes without exact zeros: one threshold, calibrated on held-out rows to the true L0."""
_PAIRED = ("correlated", "partly", "anticorrelated")

ENTRIES = (
    Entry("random_dictionary", "random_dictionary", "k", _KEPT, refine=False),
    Entry("pca", "pca", "k", _KEPT, refine=False),
    Entry("relu", "relu", "l1_coefficient", _LAMBDAS),
    Entry("april", "april", "l1_coefficient", _LAMBDAS),
    Entry("p_anneal", "p_anneal", "l1_coefficient", (0.5, 1.0)),
    Entry("gated", "gated", "l1_coefficient", (1.0, 2.0)),
    Entry("jumprelu", "jumprelu", "sparsity_coefficient", (0.2, 0.4)),
    Entry("jumprelu (target L0)", "jumprelu", "target_l0", (TRUE_L0,), {"mode": "target_l0"}, refine=False),
    Entry("topk", "topk", "k", _KEPT, refine=False),
    Entry("batch_topk", "batch_topk", "k", _KEPT, refine=False),
    Entry("matryoshka", "matryoshka", "k", _KEPT, refine=False),
    Entry("topk_ridge", "topk_ridge", "k", _KEPT, refine=False),
    Entry("vsae_topk", "vsae_topk", "k", _KEPT, refine=False, prior="gaussian"),
    Entry("vsae_iso", "vsae_iso", "kl_coefficient", _KAPPAS, _CUT_OFF, refine=False, prior="gaussian"),
    Entry("vsae_multi", "vsae_multi", "kl_coefficient", _KAPPAS, _CUT_OFF, refine=False, prior="gaussian"),
    Entry("vsae_laplace", "vsae_laplace", "l1_coefficient", (0.5, 1.0), _CUT_OFF, refine=False, prior="sparse"),
    Entry("vsae_rectified", "vsae_rectified", "prior_l0", _PRIOR_L0, _OBSERVED, prior="sparse"),
    Entry("vsae_spike_slab", "vsae_spike_slab", "prior_l0", _PRIOR_L0, _OBSERVED, prior="sparse"),
    Entry("vsae_mix", "vsae_mix", "prior_l0", _PRIOR_L0, _OBSERVED, prior="sparse"),
    Entry(
        "vsae_mix (oracle sets)",
        "vsae_mix",
        "prior_l0",
        _PRIOR_L0,
        {**_OBSERVED, "sets_from": "oracle"},
        toys=_PAIRED,
        prior="sparse",
    ),
)


@dataclass(frozen=True)
class Reference:
    """One setting whose numbers are known from an independent implementation.

    Attributes:
        label: Name of the row.
        architecture: Registered name.
        params: Hyper-parameters.
        expected: Known numbers by metric, for independent features.
        other_toys: Known MMCS on other toys (mean of two seeds).
    """

    label: str
    architecture: str
    params: dict[str, Any]
    expected: dict[str, float]
    other_toys: dict[str, float] = field(default_factory=dict)

    def run(self, toy: str, seed: int, steps: int) -> Run:
        """The training on a toy."""
        return Run(toy, seed, self.architecture, self.params, steps)


def _numbers(mmcs: float, recovered: float | None, l0: float, fvu: float) -> dict[str, float]:
    found = {"mmcs": mmcs, "l0": l0, "fvu": fvu}
    return found if recovered is None else {**found, "recovered_fraction": recovered}


def _others(correlated: float, partly: float, anticorrelated: float) -> dict[str, float]:
    return {"correlated": correlated, "partly": partly, "anticorrelated": anticorrelated}


def _ridge(coefficient: float) -> dict[str, Any]:
    """``λ Σ f² / 2`` on every latent: TopK that keeps all of them, so that only its ridge penalty is left."""
    return {"k": D_SAE, "ridge_coefficient": coefficient / 2}


def _iso(variance: float) -> dict[str, Any]:
    return {"kl_coefficient": 2 * variance}


def _laplace(variance: float, scale: float) -> dict[str, Any]:
    return {"observation_variance": variance, "l1_coefficient": 2 * variance / scale}


def _rectified(variance: float) -> dict[str, Any]:
    """Prior of standard deviation 6.5 with a share 0.05 above 0 (mean -1.645 standard deviations)."""
    return {"observation_variance": variance, "prior_l0": TRUE_L0, "prior_scale": 6.5**2 * TRUE_L0 / D_IN}


def _spike_slab(variance: float) -> dict[str, Any]:
    """Slab N(0, 9), a share 0.05 on."""
    return {
        "observation_variance": variance,
        "prior_l0": TRUE_L0,
        "prior_scale": 9 * TRUE_L0 / D_IN,
        "tied_gate": False,
    }


REFERENCES = (
    Reference("L1, 0.3", "relu", {"l1_coefficient": 0.3}, _numbers(0.749, 0.13, 10.9, 0.030)),
    Reference(
        "L1, 1", "relu", {"l1_coefficient": 1.0}, _numbers(0.983, 0.98, 3.1, 0.100), _others(0.916, 0.947, 0.983)
    ),
    Reference("L1, 2", "relu", {"l1_coefficient": 2.0}, _numbers(0.988, 0.95, 2.1, 0.167)),
    Reference("ridge, 0.03", "topk_ridge", _ridge(0.03), _numbers(0.626, 0.0, 33, 0.003)),
    Reference("ridge, 0.3", "topk_ridge", _ridge(0.3), _numbers(0.680, 0.0, 24, 0.024)),
    Reference("ridge, 1", "topk_ridge", _ridge(1.0), _numbers(0.737, 0.0, 20, 0.094), _others(0.693, 0.731, 0.750)),
    Reference("isotropic, τ² 0.03", "vsae_iso", _iso(0.03), _numbers(0.625, 0.0, 33, 0.008)),
    Reference("isotropic, τ² 0.3", "vsae_iso", _iso(0.3), _numbers(0.592, 0.0, 24, 0.096)),
    Reference("isotropic, τ² 1", "vsae_iso", _iso(1.0), _numbers(0.512, 0.0, 22, 0.381)),
    Reference("Laplace, b 0.3, τ² 0.1", "vsae_laplace", _laplace(0.1, 0.3), _numbers(0.919, 0.70, 8.8, 0.066)),
    Reference(
        "Laplace, b 0.3, τ² 0.3",
        "vsae_laplace",
        _laplace(0.3, 0.3),
        _numbers(0.983, 0.98, 4.3, 0.145),
        _others(0.796, 0.943, 0.986),
    ),
    Reference("rectified, τ² 0.03", "vsae_rectified", _rectified(0.03), _numbers(0.644, 0.05, 6.8, 0.054)),
    Reference(
        "rectified, τ² 0.1",
        "vsae_rectified",
        _rectified(0.1),
        _numbers(0.935, 0.78, 2.4, 0.111),
        _others(0.858, 0.933, 0.966),
    ),
    Reference("rectified, τ² 0.3", "vsae_rectified", _rectified(0.3), _numbers(0.966, 0.88, 1.6, 0.169)),
    Reference("spike-slab, τ² 0.03", "vsae_spike_slab", _spike_slab(0.03), _numbers(0.767, 0.28, 4.3, 0.053)),
    Reference("spike-slab, τ² 0.1", "vsae_spike_slab", _spike_slab(0.1), _numbers(0.981, 0.95, 1.5, 0.091)),
    Reference(
        "spike-slab, τ² 0.3",
        "vsae_spike_slab",
        _spike_slab(0.3),
        _numbers(0.999, 1.0, 1.2, 0.107),
        _others(0.866, 0.961, 0.963),
    ),
)
