"""Decoder cosines, entropies and clusters against hand values and known distributions."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation_standins import Fixed, Linear, Squares, random_unit, run, sparse_rows, truth_of, unit

from vsae_search.evaluation.agreement import agreement, entropy, expected_mutual_information
from vsae_search.evaluation.clustering import k_means, spectral_clusters
from vsae_search.evaluation.metrics import geom_cluster_entropy, geometry
from vsae_search.evaluation.metrics.geom_cluster_entropy import cluster_entropy, knn_entropy
from vsae_search.evaluation.metrics.geometry import cosine_scores
from vsae_search.evaluation.metrics.label_entropy import normalised_entropy
from vsae_search.subjects import Rows


def test_decoder_cosines_by_hand():
    found = cosine_scores(unit([[1, 0], [1, 1], [0, -1]]))
    half = np.sqrt(0.5)
    assert found["decoder_mean_abs_cos"] == pytest.approx((half + half + 0) / 3)
    assert found["decoder_nearest_abs_cos"] == pytest.approx(half)
    assert found["decoder_max_abs_cos"] == pytest.approx(half)


def test_decoder_cosines_in_blocks_and_in_samples(monkeypatch):
    w_AD = random_unit(300, 5)
    whole = cosine_scores(w_AD)
    absolute = np.abs(w_AD @ w_AD.T)[~np.eye(300, dtype=bool)].reshape(300, 299)
    assert whole["decoder_mean_abs_cos"] == pytest.approx(absolute.mean())
    assert whole["decoder_nearest_abs_cos"] == pytest.approx(absolute.max(axis=1).mean())
    monkeypatch.setattr(geometry, "_BLOCK_NUMBERS", 1000)
    assert cosine_scores(w_AD) == pytest.approx(whole)
    monkeypatch.setattr(geometry, "_WORK", 100 * 300 * 5)
    sampled = cosine_scores(w_AD)
    assert sampled != whole
    assert sampled == pytest.approx(whole, rel=0.05)


def test_expected_cosine_of_random_directions():
    # E|cos| in d dimensions is Gamma(d/2) / (sqrt(pi) Gamma((d+1)/2)); for d = 3 it is 1/2
    assert geometry.null_cosines(400, 3)["decoder_mean_abs_cos"] == pytest.approx(0.5, abs=0.01)


def test_one_alive_latent_has_no_cosines():
    codes = np.zeros((10, 3))
    codes[:, 1] = 1
    found = run(Fixed(codes, np.eye(3)), Rows(np.ones((10, 3), dtype=np.float32))).metrics
    assert not {"decoder_mean_abs_cos", "geom_cluster_entropy", "null_geom_cluster_entropy"} & set(found)


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_knn_entropy_of_a_gaussian_and_of_a_cube(dimension):
    generator = np.random.default_rng(dimension)
    gaussian = 0.5 * dimension * np.log(2 * np.pi * np.e)
    assert knn_entropy(generator.standard_normal((4000, dimension))) == pytest.approx(gaussian, abs=0.12)
    if dimension < 3:  # beyond, the estimate is biased upwards where the density ends abruptly
        assert knn_entropy(3 * generator.random((4000, dimension))) == pytest.approx(dimension * np.log(3), abs=0.1)


def test_knn_entropy_by_hand():
    # points at 0, 1, 3, 6; second neighbours at distances 3, 2, 3, 5; digamma(4) - digamma(2) = 1/2 + 1/3
    found = knn_entropy(np.array([[0.0], [1.0], [3.0], [6.0]]), neighbours=2)
    assert found == pytest.approx(1 / 2 + 1 / 3 + np.log(2) + np.mean(np.log([3, 2, 3, 5])))


def test_cluster_entropy_is_0_for_a_gaussian_cloud_and_grows_with_clusters():
    generator = np.random.default_rng(0)
    stretched = generator.standard_normal((2000, 4)) * [5, 1, 0.2, 1e-9]  # the last component is left out by D - 1
    assert cluster_entropy(stretched) == pytest.approx(0, abs=0.1)
    centres = 10 * generator.standard_normal((5, 4))
    gaps = []
    for width in (3.0, 1.0, 0.1):
        points = centres[np.arange(2000) % 5] + width * generator.standard_normal((2000, 4))
        gaps.append(cluster_entropy(points))
    assert 0 < gaps[0] < gaps[1] < gaps[2]
    assert gaps[2] > 3


def test_cluster_entropy_of_a_circle_does_not_depend_on_the_number_of_points():
    # one component of a uniform unit vector in the plane: variance 1/2, entropy log(pi / 2) (arcsine distribution)
    exact = 0.5 * np.log(2 * np.pi * np.e * 0.5) - np.log(np.pi / 2)
    for size in (500, 2000):
        assert cluster_entropy(random_unit(size, 2)) == pytest.approx(exact, abs=0.1)


def test_cluster_entropy_survives_copies_and_tells_nothing_of_one_direction():
    copies = np.repeat(random_unit(4, 6), 10, axis=0)
    assert np.isfinite(cluster_entropy(copies))
    assert cluster_entropy(copies) > cluster_entropy(random_unit(40, 6)) + 5
    assert cluster_entropy(np.repeat(random_unit(1, 6), 40, axis=0)) is None
    assert cluster_entropy(random_unit(7, 6)) is None


def test_cluster_entropy_takes_a_fixed_choice_of_many(monkeypatch):
    w_AD = random_unit(600, 5)
    whole = cluster_entropy(w_AD)
    monkeypatch.setattr(geom_cluster_entropy, "_MAX_POINTS", 300)
    assert cluster_entropy(w_AD) == cluster_entropy(w_AD)
    assert cluster_entropy(w_AD) == pytest.approx(whole, abs=0.3)


def test_random_decoder_is_no_more_clustered_than_its_null():
    w_AD = random_unit(64, 12, seed=5)
    found = run(Linear(w_AD, sigma=lambda pre: pre.abs()), sparse_rows(random_unit(8, 12))).metrics
    assert found["geom_cluster_entropy"] == pytest.approx(found["null_geom_cluster_entropy"], abs=0.6)


def test_normalised_entropy_by_hand():
    found = normalised_entropy(np.array([[1.0, 1, 0, 0], [5, 0, 0, 0], [2, 2, 2, 2]]))
    np.testing.assert_allclose(found, [0.5, 0, 1], atol=1e-15)


def test_label_entropy_by_hand():
    # features 0 and 1 are a set, feature 2 is alone; latent 0 is with the set only, latent 1 half and half
    present = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]], dtype=np.float32)
    codes = np.array([[2, 0], [2, 0], [0, 1], [0, 1]])
    W_dec = np.array([[1.0, 0, 0], [0, 0, 3]])
    subject = Squares(truth_of(np.eye(3), [("correlated", (0, 1))]))
    found = run(Fixed(codes, W_dec), Rows(present.copy(), present), subject).metrics
    # weights sum |f| ||w||: 4 and 2 * 3
    assert found["label_entropy"] == pytest.approx((4 * 0 + 6 * 1) / 10)
    two_of_three = np.log(2) / np.log(3)
    assert found["feature_entanglement_entropy"] == pytest.approx(two_of_three)


def test_label_entropy_needs_sets_and_entanglement_two_features():
    rows = sparse_rows(np.eye(3))
    found = run(Linear(np.eye(3)), rows, Squares(truth_of(np.eye(3)))).metrics
    assert "label_entropy" not in found
    assert 0 < found["feature_entanglement_entropy"] < 0.7
    single = run(Linear(np.eye(3)), rows, Squares(truth_of(np.eye(3), represented=[True, False, False]))).metrics
    assert "feature_entanglement_entropy" not in single


def test_latent_entropy_by_hand():
    codes = np.array([[1, 3, 0], [1, 0, 0], [1, 0, 0], [1, 1, 0]])
    found = run(Fixed(codes, np.eye(3)), Rows(np.ones((4, 3), dtype=np.float32)), chunk_rows=3).metrics
    second = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25)) / np.log(4)
    assert found["latent_entropy"] == pytest.approx((1 + second) / 2)  # the dead latent has none
    once = run(Fixed([[7.0], [0.0]], np.ones((1, 2))), Rows(np.ones((2, 2), dtype=np.float32))).metrics
    assert once["latent_entropy"] == pytest.approx(0, abs=1e-6)
    one_row = run(Fixed([[7.0]], np.ones((1, 2))), Rows(np.ones((1, 2), dtype=np.float32))).metrics
    assert "latent_entropy" not in one_row


def test_entropy_of_counts():
    assert entropy(np.array([2.0, 2.0, 0.0])) == pytest.approx(np.log(2))
    assert entropy(np.array([5.0])) == 0


def test_agreement_with_known_values():
    true, found = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 2]), np.array([0, 0, 1, 1, 1, 1, 2, 2, 0, 2])
    score = agreement(true, found)  # reference values of scikit-learn 1.9
    assert score.homogeneity == pytest.approx(0.6180656462921543)
    assert score.completeness == pytest.approx(0.6180656462921543)
    assert score.v_measure == pytest.approx(0.6180656462921543)
    assert score.ami == pytest.approx(0.47728999000145694)


def test_agreement_limits():
    labels = np.array([0, 0, 1, 1, 2, 2])
    same = agreement(labels, 5 - labels)
    assert same.homogeneity == same.completeness == same.v_measure == pytest.approx(1)
    assert same.ami == pytest.approx(1)
    divided = agreement(labels, np.arange(6))
    assert divided.homogeneity == pytest.approx(1)
    assert divided.completeness == pytest.approx(np.log(3) / np.log(6))
    assert divided.ami == pytest.approx(0, abs=1e-9)  # singletons always contain the same information
    one = agreement(labels, np.zeros(6, dtype=np.int64))
    assert (one.homogeneity, one.completeness, one.v_measure) == (0, 1, 0)
    assert agreement(np.zeros(4, dtype=np.int64), np.ones(4, dtype=np.int64)).ami == 1


def test_expected_mutual_information_is_the_mean_over_permutations():
    generator = np.random.default_rng(0)
    true, found = np.repeat([0, 1, 2], [4, 3, 5]), np.repeat([0, 1], [7, 5])
    drawn = []
    for _ in range(4000):
        shuffled = generator.permutation(found)
        table = np.zeros((3, 2))
        np.add.at(table, (true, shuffled), 1)
        drawn.append(entropy(table.sum(1)) + entropy(table.sum(0)) - entropy(table.ravel()))
    expected = expected_mutual_information(np.array([4.0, 3, 5]), np.array([7.0, 5]), 12.0)
    assert expected == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / np.sqrt(4000))


def test_k_means_finds_separate_blobs_and_survives_copies():
    generator = np.random.default_rng(0)
    true = np.repeat([0, 1, 2, 3], 15)
    points = 10 * generator.standard_normal((4, 3))[true] + 0.1 * generator.standard_normal((60, 3))
    assert agreement(true, k_means(points, 4)).ami == pytest.approx(1)
    np.testing.assert_array_equal(k_means(points, 4), k_means(points, 4))
    assert len(np.unique(k_means(np.repeat(points[:2], 5, axis=0), 4))) == 2


def test_spectral_clusters_of_orthogonal_bundles():
    generator = np.random.default_rng(0)
    true = np.repeat([0, 1, 2], [10, 6, 4])
    w_AD = unit(np.eye(6)[true] + 0.05 * np.abs(generator.standard_normal((20, 6))))
    found = spectral_clusters(w_AD, 3)
    assert agreement(true, found).ami == pytest.approx(1)
    assert np.bincount(spectral_clusters(np.eye(5), 5)).tolist() == [1] * 5  # isolated rows have a degree too


def set_of_clusters():
    """Three true sets whose members lie close together, and a dictionary with two latents per feature."""
    generator = np.random.default_rng(1)
    directions = unit(np.eye(9)[np.repeat([0, 1, 2], 3)] + 0.25 * generator.standard_normal((9, 9)))
    groups = [("correlated", (0, 1, 2)), ("correlated", (3, 4, 5)), ("hierarchical", (6, 7, 8))]
    return directions, Squares(truth_of(directions, groups))


def test_decoder_clusters_that_are_the_sets():
    directions, subject = set_of_clusters()
    sae = Linear(np.repeat(directions, 2, axis=0), sigma=lambda pre: pre.abs())
    found = run(sae, sparse_rows(directions), subject).metrics
    assert found["cluster_size_entropy"] == pytest.approx(1)
    for key in ("cluster_homogeneity", "cluster_completeness", "cluster_v_measure", "cluster_ami"):
        assert found[key] == pytest.approx(1), key


def test_decoder_clusters_of_random_directions_are_at_chance():
    directions, subject = set_of_clusters()
    sae = Linear(random_unit(60, 9, seed=9), sigma=lambda pre: pre.abs())
    found = run(sae, sparse_rows(directions), subject).metrics
    assert found["cluster_ami"] < 0.6
    assert 0 < found["cluster_size_entropy"] <= 1


def test_many_latents_are_clustered_by_a_fixed_choice(monkeypatch):
    from vsae_search.evaluation.metrics import set_clusters

    directions, subject = set_of_clusters()
    monkeypatch.setattr(set_clusters, "_MAX_LATENTS", 20)
    sae = Linear(np.repeat(directions, 10, axis=0), sigma=lambda pre: pre.abs())
    assert run(sae, sparse_rows(directions), subject).metrics["cluster_ami"] == pytest.approx(1)
