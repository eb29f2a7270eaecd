from __future__ import annotations

import json
import pickle

import numpy as np
import pytest

from vsae_search.errors import UserInputError
from vsae_search.space import DirectionsSubject, FeatureSpec
from vsae_search.subjects import build_subject
from vsae_search.subjects.directions import make_directions
from vsae_search.subjects.seeds import stream


def spec(count=12, d_in=6, **changes):
    importance = changes.pop("importance", 1.0)
    probability = changes.pop("probability", 0.2)
    features = FeatureSpec(count=count, probability=probability, importance=importance)
    return DirectionsSubject(type="directions", features=features, d_in=d_in, **changes)


def draw(kind, count, d_in):
    return make_directions(kind, count, d_in, stream("test", "directions", 0))


def off_diagonal(rows_MD):
    cosine_MM = np.abs(rows_MD @ rows_MD.T)
    return cosine_MM[~np.eye(len(rows_MD), dtype=bool)]


@pytest.mark.parametrize("kind", ["random", "repelled", "orthogonal"])
@pytest.mark.parametrize(("count", "d_in"), [(5, 5), (3, 8), (1, 1)])
def test_directions_are_unit_rows(kind, count, d_in):
    directions_MD = draw(kind, count, d_in)
    assert directions_MD.shape == (count, d_in)
    np.testing.assert_allclose(np.linalg.norm(directions_MD, axis=1), 1)


@pytest.mark.parametrize("kind", ["repelled", "orthogonal"])
def test_directions_that_fit_are_orthogonal(kind):
    np.testing.assert_allclose(off_diagonal(draw(kind, 6, 8)), 0, atol=1e-12)


@pytest.mark.parametrize(("count", "d_in"), [(6, 4), (40, 20), (64, 8), (5, 1)])
def test_repelled_directions_are_less_coherent_than_random_ones(count, d_in):
    random, repelled = off_diagonal(draw("random", count, d_in)), off_diagonal(draw("repelled", count, d_in))
    np.testing.assert_allclose(np.linalg.norm(draw("repelled", count, d_in), axis=1), 1)
    welch = np.sqrt((count - d_in) / (d_in * (count - 1)))  # no set of directions has a smaller largest cosine
    assert repelled.max() >= welch - 1e-9
    assert d_in == 1 or repelled.max() < 0.8 * random.max()


def test_repulsion_finds_the_best_three_lines_in_the_plane():
    np.testing.assert_allclose(off_diagonal(draw("repelled", 3, 2)), 0.5, atol=0.01)  # 120 degrees apart


def test_too_many_orthogonal_directions_are_refused_with_the_bound():
    with pytest.raises(UserInputError, match="7 orthogonal directions do not fit into 6 dimensions") as caught:
        draw("orthogonal", 7, 6)
    assert caught.value.hint


def test_rows_are_sums_of_directions(tmp_path):
    subject = build_subject(spec(), tmp_path)
    rows = subject.harvest(0, 200)
    np.testing.assert_allclose(rows.x_ND, rows.features_NM @ subject.truth.directions_MD, atol=1e-6)
    assert rows.x_ND.dtype == np.float32
    assert subject.truth.represented_M.all()
    assert subject.truth.true_l0 == pytest.approx(2.4)


def test_noise_has_the_standard_deviation_that_was_asked_for(tmp_path):
    subject = build_subject(spec(noise=0.3), tmp_path)
    rows = subject.harvest(0, 20_000)
    noise = rows.x_ND - rows.features_NM @ subject.truth.directions_MD
    assert noise.std() == pytest.approx(0.3, rel=0.02)
    again = pickle.loads(pickle.dumps(subject)).harvest(0, 20_000)
    np.testing.assert_array_equal(again.x_ND, rows.x_ND)
    assert not np.array_equal(subject.harvest(1, 20_000).x_ND, rows.x_ND)


def test_readout_is_the_linear_least_squares_one(tmp_path):
    subject = build_subject(spec(noise=0.1, probability=0.3), tmp_path)
    rows = subject.harvest(0, 200_000, "confirm")
    x = np.concatenate([rows.x_ND.astype(np.float64), np.ones((len(rows.x_ND), 1))], axis=1)
    solution = np.linalg.lstsq(x, rows.features_NM.astype(np.float64), rcond=None)[0]
    np.testing.assert_allclose(subject.readout_DM, solution[:-1], atol=0.01)
    np.testing.assert_allclose(subject.intercept_M, solution[-1], atol=0.01)


def test_orthogonal_features_are_read_out_exactly(tmp_path):
    subject = build_subject(spec(count=5, d_in=8, directions="orthogonal", importance=(1, 2, 3, 4, 5)), tmp_path)
    rows = subject.harvest(0, 1000, "evaluation")
    np.testing.assert_allclose(subject.readout_DM, subject.directions_MD.T, atol=1e-6)
    np.testing.assert_allclose(subject.baseline(rows).clean_S, 0, atol=1e-11)
    error = np.random.default_rng(0).standard_normal(rows.x_ND.shape).astype(np.float32)
    along = error.astype(np.float64) @ subject.directions_MD.T
    expected = (along**2 * [1, 2, 3, 4, 5]).sum(axis=1) / 5  # errors outside the span of the features cost nothing
    np.testing.assert_allclose(subject.splice(rows, rows.x_ND + error), expected, rtol=1e-4)


def test_ablations_by_direct_computation(tmp_path):
    subject = build_subject(spec(importance={"decay": 0.7}), tmp_path)
    rows = subject.harvest(0, 20_000, "evaluation")
    baseline = subject.baseline(rows)
    weight = 0.7 ** np.arange(12) / 12
    zero = ((rows.features_NM - subject.intercept_M) ** 2 @ weight).mean()
    assert baseline.zero_S.mean() == pytest.approx(zero, rel=1e-6)
    variance = (rows.features_NM.astype(np.float64).var(axis=0) @ weight).sum()
    assert baseline.mean_S.mean() == pytest.approx(variance, rel=0.01)
    assert 0 < baseline.clean_S.mean() < 0.7 * baseline.mean_S.mean()
    np.testing.assert_array_equal(subject.splice(rows, rows.x_ND.copy()), baseline.clean_S)


def test_linear_reconstructions_never_beat_the_activation(tmp_path):
    subject = build_subject(spec(noise=0.05), tmp_path)
    rows = subject.harvest(0, 50_000, "evaluation")
    clean = subject.splice(rows, rows.x_ND)
    for shrink in (0.8, 0.95, 1.05):
        extra = subject.splice(rows, np.float32(shrink) * rows.x_ND).mean() - clean.mean()
        error = (shrink - 1) * rows.x_ND.astype(np.float64) @ subject.readout_DM
        assert extra == pytest.approx((error**2).mean(), rel=0.05)  # the cross term vanishes
        assert extra > 0


def test_the_same_specification_is_the_same_subject(tmp_path):
    first = build_subject(spec(), tmp_path / "a")
    again = build_subject(spec(), tmp_path / "b")
    assert first.fingerprint == again.fingerprint == build_subject(spec(), tmp_path / "a").fingerprint
    others = [spec(noise=0.1), spec(seed=1), spec(directions="random"), spec(probability=0.1), spec(importance=2.0)]
    assert len({first.fingerprint} | {build_subject(other, tmp_path).fingerprint for other in others}) == 6


def test_describe_is_json(tmp_path):
    subject = build_subject(spec(), tmp_path)
    facts = json.loads(json.dumps(subject.describe(), allow_nan=False))
    assert facts["kind"] == "directions"
    np.testing.assert_allclose(facts["achieved"]["marginals"], 0.2, atol=0.007)
    assert facts["largest_abs_cosine"] == pytest.approx(off_diagonal(subject.directions_MD).max(), abs=1e-6)
    rows = subject.harvest(5, 50_000, "confirm")
    assert facts["clean_loss"] == pytest.approx(subject.splice(rows, rows.x_ND).mean(), rel=0.05)
    single = build_subject(spec(count=1, d_in=1), tmp_path).describe()
    assert single["largest_abs_cosine"] == single["mean_abs_cosine"] == 0
