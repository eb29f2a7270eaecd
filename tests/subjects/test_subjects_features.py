from __future__ import annotations

import numpy as np
import pytest

from vsae_search.errors import UserInputError
from vsae_search.space import CopulaSpec, FeatureSet, FeatureSpec
from vsae_search.subjects.base import FeatureGroup
from vsae_search.subjects.copula import phi_of_rho
from vsae_search.subjects.features import build_features
from vsae_search.subjects.seeds import stream
from vsae_search.subjects.summary import phi_matrix

ROWS = 200_000


def draw(spec: FeatureSpec, rows: int = ROWS) -> np.ndarray:
    return build_features(spec).sample(stream("test", "features", 0), rows)


def joint(x: np.ndarray) -> np.ndarray:
    present = (x > 0).astype(np.float32)
    return (present.T @ present).astype(np.float64) / len(x)


def assert_rate(got, expected, rows=ROWS, deviations=5.0):
    """Within five standard deviations of a binomial share (and exact where the expected share is 0 or 1)."""
    expected = np.asarray(expected)
    np.testing.assert_array_less(np.abs(got - expected), deviations * np.sqrt(expected * (1 - expected) / rows) + 1e-12)


def test_independent_marginals_pairs_and_values():
    p = (0.5, 0.2, 0.05, 0.01, 1.0)
    x = draw(FeatureSpec(count=5, probability=p))
    assert x.dtype == np.float32
    both = joint(x)
    expected = np.outer(p, p)
    np.fill_diagonal(expected, p)
    assert_rate(both, expected)
    values = x[x > 0]
    assert values.max() <= 1
    assert values.mean() == pytest.approx(0.5, abs=5 / np.sqrt(12 * len(values)))
    assert (values**2).mean() == pytest.approx(1 / 3, abs=0.003)
    assert abs(np.corrcoef(x[:, 0], x[:, 1])[0, 1]) < 0.012


def test_log_spaced_probabilities():
    features = build_features(FeatureSpec(count=3, probability={"log": [0.1, 0.001]}))
    np.testing.assert_allclose(features.probability_M, [0.1, 0.01, 0.001])


def test_correlated_sets_are_always_together_with_independent_values():
    x = draw(FeatureSpec(count=7, probability=0.1, sets=[{"kind": "correlated", "size": 3, "count": 2}]))
    present = x > 0
    assert (present[:, 0] == present[:, 1]).all()
    assert (present[:, 1] == present[:, 2]).all()
    assert (present[:, 3] == present[:, 5]).all()
    both = joint(x)
    assert_rate(np.diag(both), np.full(7, 0.1))
    assert_rate(both[0, 3], 0.01)  # sets are independent of each other
    assert_rate(both[0, 6], 0.01)
    on = present[:, 0]
    assert abs(np.corrcoef(x[on, 0], x[on, 1])[0, 1]) < 5 / np.sqrt(on.sum())


def test_correlated_members_of_unequal_probability_are_nested():
    sets = [{"kind": "correlated", "size": 2}]
    x = draw(FeatureSpec(count=2, probability=(0.1, 0.3), sets=sets))
    assert not ((x[:, 0] > 0) & (x[:, 1] == 0)).any()
    assert_rate(np.diag(joint(x)), [0.1, 0.3])


def test_anticorrelated_sets_are_never_together():
    x = draw(FeatureSpec(count=8, probability=0.2, sets=[{"kind": "anticorrelated", "size": 4, "count": 2}]))
    present = x > 0
    assert present[:, :4].sum(axis=1).max() == 1
    assert_rate((present[:, :4].sum(axis=1) == 1).mean(), 0.8)
    assert_rate(np.diag(joint(x)), np.full(8, 0.2))
    assert phi_matrix(joint(x))[0, 1] == pytest.approx(-0.2 / 0.8, abs=0.005)


def test_exactly_one_member_is_on_when_the_probabilities_fill_the_interval():
    x = draw(FeatureSpec(count=4, probability=0.25, sets=[{"kind": "anticorrelated", "size": 4}]), 20_000)
    assert ((x > 0).sum(axis=1) == 1).all()


@pytest.mark.parametrize("strength", [0.0, 0.3, 0.7])
def test_partial_strength_scales_the_correlation_and_keeps_the_marginals(strength):
    sets = [
        {"kind": "correlated", "size": 2, "strength": strength},
        {"kind": "anticorrelated", "size": 2, "strength": strength},
    ]
    both = joint(draw(FeatureSpec(count=4, probability=0.2, sets=sets)))
    assert_rate(np.diag(both), np.full(4, 0.2))
    assert_rate(both[0, 1], strength * 0.2 + (1 - strength) * 0.04)  # phi = r
    assert_rate(both[2, 3], (1 - strength) * 0.04)  # phi = -r p / (1 - p)
    assert_rate(both[0, 2], 0.04)


def test_hierarchical_children_need_their_parent():
    sets = [{"kind": "hierarchical", "size": 3, "count": 2, "child_probability": 0.4}]
    spec = FeatureSpec(count=6, probability=0.3, sets=sets)
    x = draw(spec)
    present = x > 0
    assert not (~present[:, 0] & (present[:, 1] | present[:, 2])).any()
    np.testing.assert_allclose(build_features(spec).probability_M, [0.3, 0.12, 0.12, 0.3, 0.12, 0.12])
    both = joint(x)
    assert_rate(np.diag(both), [0.3, 0.12, 0.12, 0.3, 0.12, 0.12])
    assert_rate(both[1, 2], 0.3 * 0.4 * 0.4)  # independent given the parent
    assert_rate(both[0, 3], 0.09)


def test_hierarchical_with_partial_strength_keeps_the_marginals():
    sets = [{"kind": "hierarchical", "size": 2, "strength": 0.5, "child_probability": 0.5}]
    both = joint(draw(FeatureSpec(count=2, probability=0.4, sets=sets)))
    assert_rate(np.diag(both), [0.4, 0.2])
    assert_rate(both[0, 1], 0.5 * 0.2 + 0.5 * 0.4 * 0.2)


@pytest.mark.parametrize(("p", "rho"), [(0.05, 0.5), (0.1, 0.8), (0.2, -0.3)])
def test_copula_gives_the_phi_of_its_rho(p, rho):
    spec = FeatureSpec(count=5, probability=p, copula={"rho": rho, "block_size": 2})
    both = joint(draw(spec))
    phi = float(phi_of_rho(np.array(rho), np.array(p), np.array(p)))
    assert_rate(np.diag(both), np.full(5, p))
    assert_rate(both[[0, 2], [1, 3]], np.full(2, p * p + phi * p * (1 - p)))
    assert_rate(both[0, 2], p * p)


def test_copula_reaches_a_target_phi_beside_sets_and_unequal_marginals():
    p = (0.1, 0.1, 0.1, 0.2, 0.05)
    phi = ((1.0, 0.3, 0.0), (0.3, 1.0, 0.1), (0.0, 0.1, 1.0))
    sets = [{"kind": "correlated", "size": 2}]
    both = joint(draw(FeatureSpec(count=5, probability=p, sets=sets, copula={"phi": phi})))
    assert_rate(np.diag(both), p)
    assert_rate(both[0, 1], 0.1)
    assert_rate(both[2, 3], 0.02 + 0.3 * np.sqrt(0.1 * 0.9 * 0.2 * 0.8))
    assert_rate(both[3, 4], 0.01 + 0.1 * np.sqrt(0.2 * 0.8 * 0.05 * 0.95))
    assert_rate(both[2, 4], 0.005)
    assert_rate(both[0, 2], 0.01)


def test_groups_name_the_members_in_file_order():
    sets = [{"kind": "anticorrelated", "size": 2, "count": 2}, {"kind": "correlated", "size": 3}]
    features = build_features(FeatureSpec(count=9, probability=0.1, sets=sets))
    assert features.groups == (
        FeatureGroup("anticorrelated", (0, 1)),
        FeatureGroup("anticorrelated", (2, 3)),
        FeatureGroup("correlated", (4, 5, 6)),
    )


def unchecked(**values):
    """A specification that the search-space file would refuse, so that the subject has to."""
    sets = tuple(
        FeatureSet.model_construct(**{"count": 1, "strength": 1.0, **entry}) for entry in values.pop("sets", ())
    )
    return FeatureSpec.model_construct(**{"importance": 1.0, "copula": None, "sets": sets, **values})


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (
            unchecked(count=5, probability=0.3, sets=[{"kind": "anticorrelated", "size": 4}]),
            ["m * p", "1.2", "at most 1", "features 0 to 3"],
        ),
        (unchecked(count=3, probability=0.1, sets=[{"kind": "correlated", "size": 2, "count": 2}]), ["need 4", "is 3"]),
        (unchecked(count=3, probability=(0.1, 0.2)), ["2 numbers for 3"]),
        (unchecked(count=3, probability=0.1, importance=(1.0,)), ["importance", "1 numbers for 3"]),
        (unchecked(count=2, probability=0.05, copula=CopulaSpec.model_construct(phi=-0.3)), ["-0.05263"]),
    ],
)
def test_impossible_features_are_refused_with_their_bound(spec, words):
    with pytest.raises(UserInputError) as caught:
        build_features(spec)
    for word in words:
        assert word in caught.value.message


def test_num_rows_need_not_fill_a_chunk():
    spec = FeatureSpec(count=3, probability=0.5)
    assert draw(spec, 1).shape == (1, 3)
    assert draw(spec, 0).shape == (0, 3)
    x = draw(spec, 20_001)
    assert (x[-1000:] > 0).mean() == pytest.approx(0.5, abs=0.05)
    assert len(np.unique(x[x > 0])) > 0.99 * (x > 0).sum()  # chunks do not repeat each other


def test_marginals_of_overlapping_children_of_one_probability_parent():
    sets = [{"kind": "hierarchical", "size": 2, "child_probability": 1.0}]
    x = draw(FeatureSpec(count=2, probability=1.0, sets=sets), 1000)
    assert (x > 0).all()
