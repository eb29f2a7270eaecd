"""Ranges and features built in Python: what they mean, and which requests no data could meet."""

from __future__ import annotations

import itertools
import math

import pytest
from pydantic import ValidationError

from vsae_search.space import (
    ActivationsSpec,
    ChoiceRange,
    CopulaSpec,
    DirectionsSubject,
    FeatureSet,
    FeatureSpec,
    IntRange,
    LogRange,
    TrackingSpec,
    TrainingSpec,
    UniformRange,
)
from vsae_search.space.bounds import phi_bounds


def test_log_spaced_probabilities_form_a_geometric_sequence():
    probabilities = FeatureSpec(count=3, probability={"log": [0.1, 0.001]}).probabilities()
    assert probabilities == pytest.approx((0.1, 0.01, 0.001))
    assert FeatureSpec(count=1, probability={"log": [0.1, 0.001]}).probabilities() == (0.1,)


def test_importance_decays_geometrically():
    assert FeatureSpec(count=3, probability=0.1, importance={"decay": 0.5}).importances() == (1.0, 0.5, 0.25)
    assert FeatureSpec(count=2, probability=0.1).importances() == (1.0, 1.0)


def test_sets_occupy_the_first_features_in_order():
    spec = FeatureSpec(
        count=9,
        probability=0.1,
        sets=[{"kind": "correlated", "size": 2, "count": 2}, {"kind": "hierarchical", "size": 3}],
    )
    assert [(group.kind, members) for group, members in spec.members()] == [
        ("correlated", (0, 1)),
        ("correlated", (2, 3)),
        ("hierarchical", (4, 5, 6)),
    ]
    assert spec.num_in_sets == 7


def brute_force_phi(p: float, q: float) -> tuple[float, float]:
    """Extremes of phi over the joint probability of both, by its Fréchet bounds."""
    joint = (max(0.0, p + q - 1), min(p, q))
    low, high = ((both - p * q) / math.sqrt(p * (1 - p) * q * (1 - q)) for both in joint)
    return low, high


@pytest.mark.parametrize(("p", "q"), list(itertools.product((0.01, 0.05, 0.3, 0.5, 0.7, 0.99), repeat=2)))
def test_phi_bounds_are_the_frechet_bounds(p, q):
    assert phi_bounds(p, q) == pytest.approx(brute_force_phi(p, q))


def test_phi_of_equal_rare_features_reaches_its_bound_and_not_further():
    bound = -0.05 / 0.95
    FeatureSpec(count=2, probability=0.05, copula=CopulaSpec(phi=bound))
    with pytest.raises(ValidationError, match=r"-p/\(1-p\) = -0.05263"):
        FeatureSpec(count=2, probability=0.05, copula=CopulaSpec(phi=bound - 1e-4))


def test_phi_is_bounded_by_the_tightest_pair_of_every_block():
    rng_probabilities = (0.02, 0.3, 0.1, 0.6, 0.05, 0.4)

    def accepted(phi: float, block_size: int | None) -> bool:
        try:
            FeatureSpec(count=6, probability=rng_probabilities, copula=CopulaSpec(phi=phi, block_size=block_size))
        except ValidationError:
            return False
        return True

    for block_size, phi in itertools.product((None, 2, 3, 4), [i / 50 for i in range(-50, 51)]):
        size = block_size or 6
        blocks = [rng_probabilities[i : i + size] for i in range(0, 6, size)]
        pairs = [pair for block in blocks for pair in itertools.combinations(block, 2)]
        possible = all(brute_force_phi(p, q)[0] <= phi <= brute_force_phi(p, q)[1] for p, q in pairs)
        assert accepted(phi, block_size) == possible, (block_size, phi)


def test_a_phi_matrix_is_checked_pair_by_pair():
    with pytest.raises(ValidationError, match="upper bound") as caught:
        FeatureSpec(count=2, probability=(0.01, 0.5), copula=CopulaSpec(phi=((1, 0.5), (0.5, 1))))
    assert caught.value.errors()[0]["loc"] == ("copula", "phi", 0, 1)


def test_anticorrelated_sets_meet_their_bound_exactly():
    FeatureSpec(count=4, probability=0.25, sets=[FeatureSet(kind="anticorrelated", size=4)])
    FeatureSpec(count=3, probability=(0.5, 0.4, 0.1), sets=[FeatureSet(kind="anticorrelated", size=3)])
    with pytest.raises(ValidationError, match=r"at most 1 \(probability at most 0.5\)"):
        FeatureSpec(count=2, probability=0.51, sets=[FeatureSet(kind="anticorrelated", size=2)])
    FeatureSpec(count=2, probability=0.9, sets=[FeatureSet(kind="anticorrelated", size=2, strength=0)])


def test_a_correlation_matrix_is_accepted_for_the_features_outside_the_sets():
    matrix = ((1, 0.3), (0.3, 1))
    spec = FeatureSpec(
        count=4, probability=0.1, sets=[FeatureSet(kind="correlated", size=2)], copula=CopulaSpec(rho=matrix)
    )
    assert spec.copula is not None
    assert spec.copula.rho == matrix


def test_a_matrix_has_no_blocks():
    with pytest.raises(ValidationError, match="already says which features belong together"):
        CopulaSpec(rho=((1, 0), (0, 1)), block_size=2)


def test_equally_spaced_directions_need_enough_dimensions():
    features = FeatureSpec(count=4, probability=0.1)
    DirectionsSubject(type="directions", features=features, d_in=4, directions="orthogonal")
    with pytest.raises(ValidationError, match="cannot be mutually orthogonal in 3"):
        DirectionsSubject(type="directions", features=features, d_in=3, directions="orthogonal")


@pytest.mark.parametrize(
    "make",
    [
        lambda: LogRange(low=float("inf"), high=float("inf")),
        lambda: LogRange(low=1.5, high=3, integer=True),
        lambda: UniformRange(low=float("nan"), high=1),
        lambda: UniformRange(low=True, high=2),
        lambda: IntRange(low=1.0, high=2),
        lambda: ChoiceRange(choices=()),
        lambda: ChoiceRange(choices=(1, 1.0)),
        lambda: TrainingSpec(batch_sise=3),
        lambda: TrainingSpec(lr_warmup_fraction=0.6, lr_decay_fraction=0.6),
    ],
)
def test_impossible_values_are_refused_in_python_too(make):
    with pytest.raises(ValidationError):
        make()


def test_true_and_one_are_different_choices():
    assert ChoiceRange(choices=(True, 1)).choices == (True, 1)


def test_models_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        ActivationsSpec().num_tokens = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    "uri", ["http://host:5000", "https://me@host", "sqlite:////x.db", "postgresql+psycopg2://me@db/x"]
)
def test_addresses_of_the_tracking_store(uri):
    assert TrackingSpec(uri=uri).uri == uri


@pytest.mark.parametrize(
    "uri", ["http://u:p@host", "postgresql://db/x?user=u&password=p", "s3://bucket", "javascript:x"]
)
def test_addresses_that_are_refused(uri):
    with pytest.raises(ValidationError):
        TrackingSpec(uri=uri)
