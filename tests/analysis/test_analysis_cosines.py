"""Nearest rows, block by block, and one-to-one pairs, against all pairs at once."""

from __future__ import annotations

import numpy as np
import pytest
from analysis_sweeps import dictionary
from scipy.optimize import linear_sum_assignment

from vsae_search.analysis import cosines
from vsae_search.analysis.analyses.similarity import all_pairs
from vsae_search.analysis.analyses.splitting import families
from vsae_search.analysis.analyses.stability import compare
from vsae_search.analysis.clusters import cluster, principal_axes, silhouette
from vsae_search.analysis.cosines import blocks, nearest, null_nearest, random_directions, unit_rows
from vsae_search.analysis.pairing import pair


@pytest.fixture
def tiny_blocks(monkeypatch):
    """At most 100 cosines at the same time: a few rows of a block."""
    monkeypatch.setattr(cosines, "BLOCK_NUMBERS", 100)


def test_blocks_are_small_and_make_up_the_whole(tiny_blocks):
    a, b = random_directions(37, 5, 0), random_directions(23, 5, 1)
    found = [(start, block.copy()) for start, block in blocks(a, b)]
    assert max(block.size for _, block in found) <= 100
    assert [start for start, _ in found] == list(range(0, 37, 4))
    np.testing.assert_allclose(np.concatenate([block for _, block in found]), a @ b.T, atol=1e-6)


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("itself", [False, True])
def test_nearest_rows_are_those_of_the_whole_matrix(tiny_blocks, absolute, itself):
    a = random_directions(37, 5, 0)
    b = a if itself else random_directions(23, 5, 1)
    full = np.abs(a @ b.T) if absolute else a @ b.T
    if itself:
        np.fill_diagonal(full, -np.inf)
    index, cosine = nearest(a, b, 4, itself=itself, absolute=absolute)
    expected = np.argsort(-full, axis=1)[:, :4]
    np.testing.assert_array_equal(index, expected)
    np.testing.assert_allclose(cosine, np.take_along_axis(full, expected, axis=1), atol=1e-6)


def test_fewer_rows_than_neighbours(tiny_blocks):
    a = random_directions(3, 5, 0)
    assert nearest(a, a, 5, itself=True)[0].shape == (3, 2)
    assert nearest(a[:1], a[:1], 5, itself=True)[0].shape == (1, 0)


def test_a_row_of_zeros_has_no_direction():
    unit, norm = unit_rows([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(unit, [[0.6, 0.8], [0, 0]])
    np.testing.assert_allclose(norm, [5, 0])


def test_all_pairs_against_the_upper_triangle(tiny_blocks):
    a = random_directions(40, 6, 3)
    upper = (a @ a.T)[np.triu_indices(40, 1)]
    found = all_pairs(a)
    assert found["mean_cosine"] == pytest.approx(upper.mean(), abs=1e-6)
    assert found["mean_abs_cosine"] == pytest.approx(np.abs(upper).mean(), abs=1e-6)
    assert found["median_cosine"] == pytest.approx(np.median(upper), abs=0.011)
    assert found["pairs_histogram"].sum() == 40 * 39 // 2
    np.testing.assert_array_equal(found["pairs_histogram"], np.histogram(upper, bins=200, range=(-1, 1))[0])


def test_the_null_is_that_of_random_directions():
    full = (random_directions(300, 10, 8) @ random_directions(300, 10, 7).T).max(axis=1).mean()
    assert null_nearest(300, 10, seed=7) == pytest.approx(full, abs=1e-6)


def test_pairs_solve_the_assignment_problem():
    a, b = random_directions(12, 6, 0), random_directions(20, 6, 1)
    cosine = a @ b.T
    rows, columns = linear_sum_assignment(cosine, maximize=True)
    found = pair(a, b)
    assert found.exact
    assert found.cosine_K.sum() == pytest.approx(cosine[rows, columns].sum(), abs=1e-5)
    assert len(set(found.second_K)) == len(found.second_K) == 12


def test_near_pairs_agree_with_all_pairs_where_they_matter():
    generator = np.random.default_rng(0)
    a = random_directions(60, 32, 0)
    b = unit_rows(a[generator.permutation(60)] + 0.08 * generator.standard_normal((60, 32)))[0]
    exact, near = pair(a, b), pair(a, b, exact_numbers=0)
    assert not near.exact
    np.testing.assert_array_equal(near.second_K[np.argsort(near.first_K)], exact.second_K)
    assert near.cosine_K.sum() == pytest.approx(exact.cosine_K.sum(), abs=1e-5)


def test_near_pairs_leave_out_what_has_no_partner():
    a = np.eye(6, dtype=np.float32)
    found = pair(a[:4], a[2:], exact_numbers=0)
    assert sorted(zip(found.first_K, found.second_K, strict=True)) == [(2, 0), (3, 1)]


@pytest.mark.parametrize("absolute", [False, True])
def test_the_same_dictionary_in_another_order_is_perfectly_stable(absolute):
    a = random_directions(50, 12, 0)
    order = np.random.default_rng(1).permutation(50)
    b = a[order] * (np.random.default_rng(2).choice([-1, 1], 50)[:, None] if absolute else 1)
    numbers, partner, cosine = compare(dictionary(a), dictionary(b), absolute=absolute, seed=0)
    for key in ("nearest", "nearest_back", "paired"):
        assert numbers[key] == pytest.approx(1.0, abs=1e-6)
    assert numbers["above_0.7"] == numbers["above_0.9"] == 1.0
    np.testing.assert_array_equal(order[partner], np.arange(50))
    np.testing.assert_allclose(cosine, 1, atol=1e-6)
    assert 0.4 < numbers["null_nearest"] < 0.9
    assert numbers["null_paired"] < numbers["null_nearest"]


def test_an_opposite_direction_is_another_one_unless_the_code_is_signed():
    a = random_directions(50, 12, 0)
    assert compare(dictionary(a), dictionary(-a), absolute=False, seed=0)[0]["paired"] < 0.8
    assert compare(dictionary(a), dictionary(-a), absolute=True, seed=0)[0]["paired"] == pytest.approx(1, abs=1e-6)


def test_dead_latents_are_left_out_of_a_comparison():
    a = random_directions(10, 6, 0)
    numbers, partner, cosine = compare(
        dictionary(a, alive=[1, 4]), dictionary(a[::-1], alive=[5, 8]), absolute=False, seed=0
    )
    assert numbers["latents"] == (2, 2)
    assert (partner[1], partner[4]) == (8, 5)
    assert set(partner[[0, 2, 3, 5]]) == {-1}
    assert np.isnan(cosine[0])


def test_children_of_split_latents_by_hand():
    axes = np.eye(5, dtype=np.float32)
    narrow = dictionary(axes[:3], "n")  # latent 0 splits in two, latent 1 stays, latent 2 vanishes, axis 3 is new
    wide = dictionary([axes[0] + 0.3 * axes[4], axes[0] - 0.3 * axes[4], axes[1], axes[3]], "w")
    parent, numbers = families(narrow, wide, absolute=False, seed=0)
    assert parent.tolist() == [0, 0, 1, -1]
    assert (numbers["childless_fraction"], numbers["split_fraction"]) == pytest.approx((1 / 3, 1 / 3))
    assert numbers["new_fraction"] == 0.25
    assert numbers["histogram"].tolist() == [1, 1, 1]
    assert [(f["parent"], f["count"], [c["latent"] for c in f["children"]]) for f in numbers["families"]] == [
        (0, 2, [0, 1]),
        (1, 1, [2]),
    ]
    assert numbers["families"][0]["children"][0]["cosine"] == pytest.approx(1 / np.hypot(1, 0.3))
    assert numbers["best_child"] == pytest.approx((1 / np.hypot(1, 0.3) + 1 + 0) / 3)


def test_principal_axes_against_the_singular_values():
    a = random_directions(80, 7, 0)
    mean, axes, variance = principal_axes(a)
    singular = np.linalg.svd(a - a.mean(axis=0), full_matrices=False)[1]
    np.testing.assert_allclose(variance, singular**2 / 80, rtol=1e-4)
    np.testing.assert_allclose((((a - mean) @ axes) ** 2).mean(axis=0), variance, rtol=1e-4)


def test_the_silhouette_by_hand():
    points = np.array([[0.0], [1.0], [4.0], [10.0]])
    # cluster {0, 1} and {4, 10}: a = 1, 1, 6, 6; b = 7, 6, 3.5, 9.5
    expected = np.mean([6 / 7, 5 / 6, -2.5 / 6, 3.5 / 9.5])
    assert silhouette(points, np.array([0, 0, 1, 1])) == pytest.approx(expected)
    assert silhouette(points, np.zeros(4, dtype=int)) == 0


def test_clusters_that_are_there_are_found():
    centres = np.eye(4)[:, :3] * 5
    truth = np.repeat(np.arange(3), 40)
    points = centres[truth] + 0.1 * np.random.default_rng(0).standard_normal((120, 3))
    label, width = cluster(points, 0)
    assert [len(set(label[truth == group])) for group in range(3)] == [1, 1, 1]
    assert len(set(label)) == 3
    assert width > 0.9
    assert cluster(points, 0)[0].tolist() == label.tolist()
