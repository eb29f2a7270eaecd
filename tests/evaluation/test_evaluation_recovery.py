"""Recovery, detection and pair diagnostics against the truth, by hand and by brute force."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from evaluation_standins import Fixed, Linear, Squares, random_unit, run, sparse_rows, truth_of, unit

from vsae_search.evaluation.matching import match
from vsae_search.evaluation.metrics.detection import auroc
from vsae_search.evaluation.metrics.pairs import pair_scores
from vsae_search.evaluation.metrics.recovery import null_recovery, recovery_scores
from vsae_search.evaluation.null import MAX_DRAWS, MIN_DRAWS, random_dictionaries
from vsae_search.evaluation.truth import represented
from vsae_search.subjects import Rows


def fires(directions):
    """Autoencoder whose latents point along the directions and all fire on ordinary rows."""
    return Linear(directions, sigma=lambda pre: pre.abs() + 0.01)


def test_permuted_true_dictionary_is_full_recovery():
    directions = random_unit(12, 8)
    order = np.random.default_rng(1).permutation(12)
    subject = Squares(truth_of(directions, [("correlated", (0, 1)), ("anticorrelated", (4, 7, 9))]))
    found = run(fires(3.0 * directions[order]), sparse_rows(directions), subject)  # norms are free
    numbers = found.metrics
    for key in ("mmcs", "mmcs_reverse", "mcc", "recovered_fraction", "recovered_fraction_07", "uniqueness"):
        assert numbers[key] == pytest.approx(1, abs=1e-6), key
    assert numbers["leakage"] == pytest.approx(0, abs=1e-6)
    assert numbers["anticorrelated_leakage"] == pytest.approx(0, abs=1e-6)
    assert numbers["merge_rate"] == numbers["composite_rate"] == 0
    np.testing.assert_array_equal(order[found.arrays["feature_latent"]], np.arange(12))
    assert numbers["null_mcc"] < 0.9


def test_surplus_latents_and_surplus_features():
    eye = np.eye(4)
    more = recovery_scores(eye @ unit(np.concatenate([eye, np.ones((1, 4))])).T, signed=False)
    assert more["mcc"] == more["mmcs"] == more["recovered_fraction"] == more["uniqueness"] == 1
    assert more["mmcs_reverse"] == pytest.approx((4 + 0.5) / 5)
    fewer = recovery_scores(eye @ eye[:3].T, signed=False)
    assert fewer["mcc"] == 1  # over min(M, A) pairs
    assert fewer["mmcs"] == fewer["recovered_fraction"] == 0.75
    assert fewer["mmcs_reverse"] == 1


def test_recovery_thresholds_by_hand():
    directions = np.eye(3)
    w_AD = unit([[0.95, np.sqrt(1 - 0.95**2), 0], [0, 0.8, 0.6], [0, 0.6, 0.8]])
    found = recovery_scores(directions @ w_AD.T, signed=False)
    assert found["recovered_fraction"] == pytest.approx(1 / 3)
    assert found["recovered_fraction_07"] == 1
    assert found["mcc"] == pytest.approx((0.95 + 0.8 + 0.8) / 3)


def test_assignment_is_the_best_of_all_permutations():
    score = np.random.default_rng(0).standard_normal((4, 6))
    feature_K, latent_K = match(score)
    best = max(sum(score[i, j] for i, j in enumerate(chosen)) for chosen in permutations(range(6), 4))
    assert score[feature_K, latent_K].sum() == pytest.approx(best)
    assert len(set(latent_K.tolist())) == 4


def test_antipodal_features_are_told_apart_by_a_non_negative_code():
    directions = np.array([[1.0, 0.0], [-1.0, 0.0]])
    subject, rows = Squares(truth_of(directions, [("anticorrelated", (0, 1))])), sparse_rows(directions, p=0.4)
    rows.x_ND[:] = np.where(np.all(rows.features_NM > 0, axis=1, keepdims=True), 0, rows.x_ND)
    rows.features_NM[np.all(rows.features_NM > 0, axis=1)] = 0
    found = run(Linear(directions[::-1].copy()), rows, subject)
    np.testing.assert_array_equal(found.arrays["feature_latent"], [1, 0])
    assert found.metrics["f1"] == found.metrics["auroc"] == found.metrics["uniqueness"] == 1
    assert found.metrics["anticorrelated_composite_rate"] == 0  # the sum of the two is no direction


def test_signed_code_is_compared_by_absolute_cosine():
    directions = random_unit(4, 6)
    subject, rows = Squares(truth_of(directions)), sparse_rows(directions)
    signed = run(Linear(-directions, sigma=lambda pre: pre), rows, subject).metrics
    assert signed["mmcs"] == pytest.approx(1, abs=1e-6)
    positive = run(fires(-directions), rows, subject).metrics
    assert positive["mmcs"] < 0.9
    assert positive["recovered_fraction"] == 0
    assert positive["mcc"] == pytest.approx(1, abs=1e-6)  # on |cos|, as published


def test_dead_latents_do_not_count():
    directions = np.eye(4)
    codes = np.zeros((50, 4))
    codes[:, :2] = 1
    subject = Squares(truth_of(directions))
    found = run(Fixed(codes, directions), sparse_rows(directions, 50), subject)
    assert found.metrics["mmcs"] == found.metrics["recovered_fraction"] == 0.5
    assert found.metrics["mmcs_reverse"] == 1
    assert sorted(found.arrays["feature_latent"].tolist()) == [-1, -1, 0, 1]
    assert np.count_nonzero(found.arrays["feature_similarity"]) == 2


def test_all_dead_has_its_documented_limits():
    directions = np.eye(4)
    subject = Squares(truth_of(directions, [("correlated", (0, 1))]))
    found = run(Fixed(np.zeros((50, 4)), directions), sparse_rows(directions, 50), subject)
    zero = ("l0", "mmcs", "mmcs_reverse", "mcc", "recovered_fraction", "uniqueness", "precision", "recall", "f1")
    assert all(found.metrics[key] == 0 for key in zero)
    assert all(found.metrics[f"null_{key}"] == 0 for key in zero[1:])
    assert found.metrics["dead_fraction"] == 1
    absent = {"leakage", "merge_rate", "auroc", "latent_entropy", "label_entropy", "cluster_ami", "decoder_max_abs_cos"}
    assert not absent & set(found.metrics)


def test_latent_without_a_direction_is_counted_but_not_matched():
    codes, W_dec = np.ones((20, 3)), np.eye(3)
    W_dec[1] = 0
    found = run(Fixed(codes, W_dec), sparse_rows(np.eye(3), 20), Squares(truth_of(np.eye(3)))).metrics
    assert found["l0"] == 3
    assert found["recovered_fraction"] == pytest.approx(2 / 3)


def test_only_represented_features_count():
    directions = np.eye(4, dtype=np.float32)
    directions[3] = 0
    truth = truth_of(directions, [("correlated", (0, 2)), ("hierarchical", (1, 3))], [True, False, True, True])
    kept = represented(truth)
    np.testing.assert_array_equal(kept.index_M, [0, 2])
    assert kept.groups == (("correlated", (0, 1)),)  # renumbered; the other set has no pair left
    found = run(fires(np.eye(4)[[0, 2]]), sparse_rows(directions), Squares(truth))
    assert found.metrics["recovered_fraction"] == 1
    np.testing.assert_array_equal(found.arrays["feature_index"], [0, 2])
    assert represented(truth_of(directions, represented=[False] * 4)) is None
    assert represented(None) is None


def test_sets_are_labelled_and_paired():
    kept = represented(truth_of(np.eye(6), [("correlated", (1, 2, 4)), ("anticorrelated", (0, 5))]))
    np.testing.assert_array_equal(kept.set_M, [1, 0, 0, 2, 0, 1])
    assert kept.num_sets == 3
    pairs, group = kept.pairs("correlated")
    assert pairs.tolist() == [[1, 2], [1, 4], [2, 4]]
    assert group.tolist() == [0, 0, 0]
    assert kept.pairs("hierarchical")[0].shape == (0, 2)
    again = represented(truth_of(np.eye(6), [("correlated", (1, 2, 4)), ("anticorrelated", (0, 5))]))
    assert kept == again
    assert hash(kept) == hash(again)
    assert kept != represented(truth_of(np.eye(6), [("correlated", (1, 2, 4))]))


def test_merged_pair_is_detected():
    directions = np.eye(4)
    kept = represented(truth_of(directions, [("correlated", (0, 1))]))
    merged = unit([[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    found = pair_scores(kept, "correlated", merged, signed=False)
    assert found == {"leakage": pytest.approx(np.sqrt(0.5)), "merge_rate": 1, "composite_rate": 1}
    apart = pair_scores(kept, "correlated", np.concatenate([directions, merged[:1]]), signed=False)
    assert apart == {"leakage": 0, "merge_rate": 0, "composite_rate": 1}  # true latents, and a composite beside them


def test_half_merged_pair_by_hand():
    kept = represented(truth_of(np.eye(3), [("correlated", (0, 1))]))
    found = pair_scores(kept, "correlated", np.array([[0.8, 0.6, 0], [0, 1, 0]]), signed=False)
    # the first latent sees 0.6 of the other feature, the second nothing; cos(w, (1, 1)/sqrt 2) = 0.99
    assert found == {"leakage": pytest.approx(0.3), "merge_rate": 0, "composite_rate": 1}


def test_nearly_parallel_features_are_not_composites_of_each_other():
    directions = unit([[1, 0.2], [1, -0.2]])
    kept = represented(truth_of(directions, [("correlated", (0, 1))]))
    assert pair_scores(kept, "correlated", directions, signed=False)["composite_rate"] == 0
    assert pair_scores(kept, "correlated", unit([[1, 0]]), signed=False)["composite_rate"] == 1


def test_composite_of_a_whole_set_is_detected():
    kept = represented(truth_of(np.eye(5), [("correlated", (0, 1, 2)), ("correlated", (3, 4))]))
    w_AD = unit([[1, 1, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]])
    found = pair_scores(kept, "correlated", w_AD, signed=False)
    assert found["composite_rate"] == found["merge_rate"] == 0.75  # 3 of 4 pairs


def test_detection_by_hand():
    present = np.array([[1, 1], [1, 0], [0, 1], [0, 0], [0, 0]], dtype=np.float32)
    codes = np.array([[0.5, 0], [0, 0], [0, 0.2], [0.1, 0.3], [0, 0]])
    found = run(Fixed(codes, np.eye(2)), Rows(present.copy(), present), Squares(truth_of(np.eye(2))))
    # latent 0 fires on rows 0 and 3, its feature is on 0 and 1; latent 1 fires on 2 and 3, its feature is on 0 and 2
    np.testing.assert_array_equal(found.arrays["feature_precision"], [0.5, 0.5])
    np.testing.assert_array_equal(found.arrays["feature_recall"], [0.5, 0.5])
    assert found.metrics["f1"] == 0.5
    # feature 0: (0.5, 0) against (0, 0.1, 0): 3 wins, and 0 against 0, 0.1, 0: two ties
    # feature 1: (0, 0.2) against (0, 0.3, 0): 2 wins and two ties
    assert found.metrics["auroc"] == pytest.approx(((3 + 1) / 6 + (2 + 1) / 6) / 2)


def test_feature_that_never_occurs_is_left_out_of_the_mean():
    present = np.array([[1, 0], [0, 0]], dtype=np.float32)
    found = run(Fixed([[1, 1], [0, 1]], np.eye(2)), Rows(present.copy(), present), Squares(truth_of(np.eye(2))))
    assert found.metrics["recall"] == found.metrics["precision"] == found.metrics["auroc"] == 1
    nothing = np.zeros((2, 2), dtype=np.float32)
    found = run(Fixed([[1, 1], [0, 1]], np.eye(2)), Rows(nothing, nothing), Squares(truth_of(np.eye(2)))).metrics
    assert not {"precision", "recall", "f1", "null_f1", "auroc", "label_entropy"} & set(found)


def test_auroc_against_all_pairs():
    generator = np.random.default_rng(0)
    for _ in range(20):
        present = generator.random(60) < 0.3
        code = np.maximum(generator.normal(size=60) + present, 0).round(1).astype(np.float32)
        with_it, without = code[present][:, None], code[~present][None, :]
        expected = np.mean((with_it > without) + 0.5 * (with_it == without))
        assert auroc(code, present) == pytest.approx(expected, abs=1e-12)
    assert auroc(code, np.ones(60, dtype=bool)) is None
    assert auroc(code, np.zeros(60, dtype=bool)) is None


def test_auroc_of_a_wide_code_uses_the_first_rows_only(monkeypatch):
    from vsae_search.evaluation.metrics import detection

    directions = np.eye(3)
    rows, subject = sparse_rows(directions, 100), Squares(truth_of(directions))
    monkeypatch.setattr(detection, "_KEPT_NUMBERS", 3 * 40)
    head = Rows(rows.x_ND[:40], rows.features_NM[:40])
    sae = Linear(random_unit(3, 3))
    expected = run(sae, head, subject, only={"auroc"}).metrics["auroc"]
    for chunk_rows in (7, 100):
        found = run(sae, rows, subject, chunk_rows=chunk_rows, only={"precision", "auroc"}).metrics
        assert found["auroc"] == expected


def test_null_grows_with_the_number_of_latents():
    kept = represented(truth_of(random_unit(16, 10)))
    found = [null_recovery(kept, size, False) for size in (1, 4, 16, 64, 256)]
    mmcs, mcc = ([draw[key] for draw in found] for key in ("mmcs", "mcc"))
    assert mmcs == sorted(mmcs)
    assert mmcs[-1] > mmcs[0] + 0.3
    assert mcc[2:] == sorted(mcc[2:])  # below M latents it is the mean over fewer, better chosen pairs
    assert mcc[-1] > mcc[2] + 0.1
    assert found[-1]["recovered_fraction"] <= 0.2


def test_random_dictionary_scores_like_its_null():
    directions = random_unit(16, 10)
    kept = represented(truth_of(directions))
    own = [recovery_scores(directions @ random_unit(32, 10, seed).T, signed=False) for seed in range(100, 120)]
    null = null_recovery(kept, 32, False)
    for key in ("mmcs", "mmcs_reverse", "mcc", "uniqueness"):
        assert np.mean([draw[key] for draw in own]) == pytest.approx(null[key], abs=0.03), key


def test_null_of_detection_keeps_the_codes_and_scrambles_the_map():
    directions = np.eye(10)
    found = run(Linear(directions), sparse_rows(directions, p=0.1), Squares(truth_of(directions))).metrics
    assert found["f1"] == 1
    assert 0.02 < found["null_f1"] < 0.4  # a feature meets its own latent now and then, others by chance


def test_random_dictionaries_are_seeded_unit_and_bounded():
    first, second = list(random_dictionaries(20, 5)), list(random_dictionaries(20, 5))
    assert len(first) == MAX_DRAWS
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(np.linalg.norm(a, axis=1), 1)
    assert not np.array_equal(first[0], first[1])
    assert len(list(random_dictionaries(100, 50, num_features=10**6))) == MIN_DRAWS
