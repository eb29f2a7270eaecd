from __future__ import annotations

import hashlib
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest

from vsae_search.errors import CorruptFile
from vsae_search.space import FeatureSpec, ToyModelSubject
from vsae_search.subjects import Rows, build_subject
from vsae_search.subjects.features import build_features
from vsae_search.subjects.toy_model import ToyModel

SPEC = ToyModelSubject(
    features=FeatureSpec(count=6, probability=0.2, sets=[{"kind": "correlated", "size": 2}]),
    d_hidden=3,
    steps=100,
    batch_size=64,
)


def by_hand(model="basic", importance=(1.0, 0.5)):
    """Two features in two dimensions: W = [[1, -2], [1, 1]], b = (0.1, -0.2)."""
    features = build_features(FeatureSpec(count=2, probability=0.5, importance=importance))
    W_DM = np.array([[1, -2], [1, 1]], dtype=np.float32)
    return ToyModel(features, model, W_DM, np.array([0.1, -0.2], dtype=np.float32), "by hand")


def test_loss_and_splice_by_hand():
    subject = by_hand()
    rows = Rows(np.array([[1, 1], [0, 1.5]], dtype=np.float32), np.array([[1, 0], [1, 0.5]], dtype=np.float32))
    # W^T h + b: row 0: (1 + 1 + 0.1, -2 + 1 - 0.2) -> (2.1, 0); row 1: (1.6, 1.3)
    expected = [(1.1**2) / 2, (0.6**2 + 0.5 * 0.8**2) / 2]
    np.testing.assert_allclose(subject.splice(rows, rows.x_ND), expected, rtol=1e-6)
    # splicing (0.5, 0): (0.6, -1.2) -> (0.6, 0); splicing 0: (0.1, 0)
    half = np.array([[0.5, 0], [0.5, 0]], dtype=np.float32)
    np.testing.assert_allclose(subject.splice(rows, half), [0.16 / 2, (0.16 + 0.5 * 0.25) / 2], rtol=1e-6)
    baseline = subject.baseline(rows)
    np.testing.assert_allclose(baseline.zero_S, [0.81 / 2, (0.81 + 0.125) / 2], rtol=1e-6)
    # the mean of the rows is (0.5, 1.25): (1.85, 0.05)
    mean = [(0.85**2 + 0.5 * 0.05**2) / 2, (0.85**2 + 0.5 * 0.45**2) / 2]
    np.testing.assert_allclose(baseline.mean_S, mean, rtol=1e-5)


def test_hidden_activations_by_hand():
    one_hot = np.eye(2, dtype=np.float32)
    np.testing.assert_array_equal(by_hand()._hidden(one_hot), [[1, 1], [-2, 1]])
    np.testing.assert_array_equal(by_hand("neuron")._hidden(one_hot), [[1, 1], [0, 1]])


@pytest.mark.parametrize("model", ["basic", "neuron"])
def test_identity_splice_is_exactly_clean(model):
    subject = by_hand(model)
    rows = subject.harvest(0, 1000, "evaluation")
    baseline = subject.baseline(rows)
    np.testing.assert_array_equal(subject.splice(rows, rows.x_ND.copy()), baseline.clean_S)
    assert baseline.clean_S.dtype == np.float64
    assert not np.array_equal(baseline.zero_S, baseline.mean_S)


def test_truth_of_the_basic_and_of_the_neuron_model():
    s = 1 / np.sqrt(2)
    basic, neuron = by_hand().truth, by_hand("neuron").truth
    np.testing.assert_allclose(basic.directions_MD, [[s, s], [-2 / np.sqrt(5), 1 / np.sqrt(5)]], rtol=1e-6)
    np.testing.assert_allclose(neuron.directions_MD, [[s, s], [0, 1]], rtol=1e-6)
    assert basic.represented_M.all()
    assert basic.true_l0 == 1.0


def test_features_with_a_short_trace_are_not_represented():
    features = build_features(FeatureSpec(count=3, probability=(0.5, 0.25, 0.125)))
    W_DM = np.array([[0.6, 0.4, 0.0], [0.0, 0.2, -2.0]], dtype=np.float32)
    basic = ToyModel(features, "basic", W_DM, np.zeros(3, np.float32), "x").truth
    neuron = ToyModel(features, "neuron", W_DM, np.zeros(3, np.float32), "x").truth
    np.testing.assert_array_equal(basic.represented_M, [True, False, True])
    assert basic.true_l0 == 0.625
    np.testing.assert_array_equal(neuron.represented_M, [True, False, False])
    np.testing.assert_array_equal(neuron.directions_MD[2], [0, 0])
    assert neuron.true_l0 == 0.5


def test_harvest_depends_on_split_and_index_and_nothing_else(tmp_path):
    subject = build_subject(SPEC, tmp_path)
    first = subject.harvest(3, 500)
    again = subject.harvest(3, 500, "train")
    np.testing.assert_array_equal(first.x_ND, again.x_ND)
    assert first.x_ND.dtype == np.float32
    assert first.x_ND.shape == (500, subject.d_in)
    np.testing.assert_allclose(first.x_ND, first.features_NM @ subject.W_DM.T, atol=1e-6)
    seen = set()
    for split in ("train", "calibration", "evaluation", "confirm"):
        for index in (0, 1):
            rows = subject.harvest(index, 500, split)
            keys = {row.tobytes() for row in rows.features_NM if row.any()}
            assert len(keys) > 250
            assert not keys & seen
            seen |= keys


def test_trained_once_and_loaded_ever_after(tmp_path):
    first = build_subject(SPEC, tmp_path)
    stamps = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = build_subject(SPEC, tmp_path)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == stamps
    assert first.fingerprint == again.fingerprint
    elsewhere = build_subject(SPEC, tmp_path / "elsewhere")  # trained again: the same bits
    assert elsewhere.fingerprint == first.fingerprint
    np.testing.assert_array_equal(elsewhere.W_DM, first.W_DM)
    other = build_subject(SPEC.model_copy(update={"seed": 1}), tmp_path)
    assert other.fingerprint != first.fingerprint
    assert len(list(tmp_path.glob("*.json"))) == 2


def test_a_damaged_model_is_not_retrained_silently(tmp_path):
    build_subject(SPEC, tmp_path)
    path = next(tmp_path.glob("*.safetensors"))
    payload = bytearray(path.read_bytes())
    payload[-3] ^= 16
    path.write_bytes(payload)
    with pytest.raises(CorruptFile, match="sha256"):
        build_subject(SPEC, tmp_path)


def test_pickled_subjects_draw_the_same_rows_in_another_process(tmp_path):
    subject = build_subject(SPEC, tmp_path)
    payload = pickle.dumps(subject)
    assert len(payload) < 20_000
    code = (
        "import sys, pickle, hashlib\n"
        "subject = pickle.loads(sys.stdin.buffer.read())\n"
        "rows = subject.harvest(2, 300, 'evaluation')\n"
        "print(hashlib.sha256(rows.x_ND.tobytes() + rows.features_NM.tobytes()).hexdigest(), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=payload, capture_output=True, check=True, timeout=120)
    rows = subject.harvest(2, 300, "evaluation")
    expected = hashlib.sha256(rows.x_ND.tobytes() + rows.features_NM.tobytes()).hexdigest()
    assert done.stdout.decode().split() == [expected, "False"]


def test_describe_is_json_and_measures_what_was_asked_for(tmp_path):
    subject = build_subject(SPEC, tmp_path)
    facts = json.loads(json.dumps(subject.describe(), allow_nan=False))
    achieved = facts["achieved"]
    np.testing.assert_allclose(achieved["marginals"], 0.2, atol=5 * np.sqrt(0.16 / achieved["sample_rows"]))
    phi = np.array(achieved["phi"])
    np.testing.assert_array_equal(np.diag(phi), 1)
    assert phi[0, 1] == 1  # the pair is always together
    assert np.abs(phi[np.triu_indices(6, 2)]).max() < 0.02
    assert achieved["l0"] == pytest.approx(1.2, abs=0.02)
    assert facts["digest"] == subject.fingerprint
    assert facts["features"]["sets"] == [{"kind": "correlated", "members": [0, 1]}]
    rows = subject.harvest(0, 50_000, "confirm")
    clean = subject.baseline(rows).clean_S
    assert facts["toy_loss"] == pytest.approx(clean.mean(), abs=6 * clean.std() / np.sqrt(50_000))
    x = rows.features_NM.astype(np.float64)
    fvu = clean.sum() * 6 / ((x - x.mean(axis=0)) ** 2).sum()  # importance is 1
    assert facts["toy_fvu"] == pytest.approx(fvu, rel=0.03)
    assert facts["features_per_dimension"] == pytest.approx((subject.W_DM**2).sum() / 3, rel=1e-5)
    assert facts["features_represented"] == subject.truth.represented_M.sum()


def test_a_constant_feature_has_no_correlation():
    features = build_features(FeatureSpec(count=2, probability=(1.0, 0.5)))
    subject = ToyModel(features, "basic", np.eye(2, dtype=np.float32), np.zeros(2, np.float32), "constant")
    facts = subject.describe()
    assert facts["achieved"]["phi"] == [[None, None], [None, 1.0]]
    assert facts["toy_loss"] == 0
    assert facts["dimensionality"] == [1, 1]


def best_geometry(kind, probability, tmp_path):
    """Cosines and loss of the best of four toy models with four features in the plane; a single one can get stuck."""
    features = FeatureSpec(count=4, probability=probability, sets=[{"kind": kind, "size": 2, "count": 2}])
    spec = ToyModelSubject(features=features, d_hidden=2, steps=1200, batch_size=512, lr=1e-2)
    models = [build_subject(spec.model_copy(update={"seed": seed}), tmp_path) for seed in range(3, 7)]
    best = min(models, key=lambda model: model.loss_curve[-1])
    assert best.truth.represented_M.all()
    return best.truth.directions_MD @ best.truth.directions_MD.T, best.describe()["toy_loss"]


def test_anticorrelated_pairs_become_antipodal(tmp_path):
    cosine_MM, loss = best_geometry("anticorrelated", 0.2, tmp_path)
    assert cosine_MM[0, 1] < -0.95
    assert cosine_MM[2, 3] < -0.95
    assert abs(cosine_MM[0, 2]) < 0.2
    assert loss < 1e-6  # features that are never on together can share a line without any loss


def test_correlated_pairs_become_orthogonal(tmp_path):
    cosine_MM, _ = best_geometry("correlated", 0.05, tmp_path)
    assert abs(cosine_MM[0, 1]) < 0.2
    assert abs(cosine_MM[2, 3]) < 0.2


def test_represented_features_of_a_dense_model_are_the_most_important(tmp_path):
    features = FeatureSpec(count=8, probability=0.9, importance={"decay": 0.5})
    spec = ToyModelSubject(features=features, d_hidden=3, steps=1500, batch_size=256, lr=1e-2)
    truth = build_subject(spec, tmp_path).truth
    np.testing.assert_array_equal(np.flatnonzero(truth.represented_M), [0, 1, 2])
    assert truth.true_l0 == pytest.approx(2.7)
