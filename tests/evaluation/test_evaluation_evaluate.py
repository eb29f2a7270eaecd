from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from evaluation_standins import Identity, Linear, Predictor, Squares, random_unit, run, sparse_rows, truth_of

from vsae_search import saes
from vsae_search.errors import Diverged
from vsae_search.evaluation import Metric, MetricInfo, evaluate, metric_classes, metric_info, metrics
from vsae_search.space import DirectionsSubject, FeatureSet, FeatureSpec
from vsae_search.subjects import Rows, build_subject

GROUPS = (("correlated", (0, 1)), ("anticorrelated", (2, 3)), ("hierarchical", (4, 5, 6)))


@pytest.fixture
def world():
    """A subject with every kind of set, its rows, and an imperfect autoencoder with a dead latent."""
    directions = random_unit(10, 6)
    subject = Predictor(truth_of(directions, GROUPS))
    W_dec = random_unit(14, 6, seed=1)
    sae = Linear(W_dec, sigma=lambda pre: torch.relu(pre - 0.2))
    with torch.no_grad():
        sae.W_enc[:, 3] = 0
    return subject, sparse_rows(directions), sae


def test_every_declared_number_appears_for_a_subject_that_has_everything(world):
    subject, rows, sae = world
    found = run(sae, rows, subject, scale=1.7)
    assert set(found.metrics) | set(found.arrays) == set(metric_info())
    assert set(found.arrays) == {key for key, info in metric_info().items() if info.unit == "array"}
    assert all(type(value) is float for value in found.metrics.values())
    assert found.metrics["dead_fraction"] == 1 / 14


@pytest.mark.parametrize("chunk_rows", [1, 7, 64, 399, 1000])
def test_chunk_size_changes_nothing(world, chunk_rows):
    subject, rows, sae = world
    whole, parts = run(sae, rows, subject), run(sae, rows, subject, chunk_rows=chunk_rows)
    assert whole.metrics.keys() == parts.metrics.keys()
    for key, value in whole.metrics.items():
        assert parts.metrics[key] == pytest.approx(value, rel=2e-6, abs=1e-7), key
    for key, array in whole.arrays.items():
        np.testing.assert_allclose(parts.arrays[key], array, rtol=1e-4, atol=1e-6, err_msg=key)


def test_the_same_autoencoder_gives_the_same_numbers_and_leaves_no_trace(world):
    subject, rows, sae = world
    twin = Linear(sae.W_dec.detach().numpy(), sae.W_enc.detach().numpy(), sae.sigma)
    before = {name: value.clone() for name, value in sae.state_dict().items()}
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002 - must not move
    sae.train()
    first, second = run(sae, rows, subject), run(twin, rows, subject)
    assert first.metrics == second.metrics
    for key, array in first.arrays.items():
        np.testing.assert_array_equal(array, second.arrays[key])
    assert sae.training
    assert all(torch.equal(value, before[name]) for name, value in sae.state_dict().items())
    assert all(parameter.grad is None for parameter in sae.parameters())
    assert torch.equal(torch_state, torch.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize("scale", [1.0, 0.37, 3.0, 11.1])
def test_identity_is_perfect_at_every_scale(scale):
    rows = Rows(np.random.default_rng(0).standard_normal((50, 4), dtype=np.float32))
    found = run(Identity(4), rows, scale=scale).metrics
    assert found["delta_ce"] == 0
    assert found["delta_ce_se"] == 0
    assert found["fvu"] == found["fvu_centred"] == found["nmse"] == 0
    assert found["cosine"] == found["norm_ratio"] == found["relative_bias"] == 1
    assert found["ce_score_zero"] == found["ce_score_mean"] == 1
    assert found["l0"] == 4


def test_zero_autoencoder_equals_zero_ablation():
    rows = sparse_rows(random_unit(8, 5))
    found = run(Linear(np.zeros((3, 5)), np.zeros((5, 3))), rows, scale=2.3).metrics
    assert found["ce_spliced"] == found["ce_zero"]
    assert found["ce_score_zero"] == 0
    assert found["nmse"] == 1
    assert found["cosine"] == found["norm_ratio"] == found["l0"] == 0
    assert found["dead_fraction"] == 1
    assert "relative_bias" not in found


def test_code_that_is_counted_is_the_code_that_is_spliced():
    class Counting(Linear):
        calls = 0

        def encode(self, x_BD):
            self.calls += len(x_BD)
            return super().encode(x_BD)

    rows, subject, sae = sparse_rows(random_unit(8, 5)), Squares(), Counting(random_unit(9, 5, seed=3))
    scale = 1.9
    run(sae, rows, subject, scale=scale, chunk_rows=33)
    with torch.no_grad():
        expected = sae.decode(torch.relu(torch.from_numpy(rows.x_ND * np.float32(scale)) @ sae.W_enc)).numpy() / scale
    assert sae.calls == len(rows.x_ND)
    np.testing.assert_allclose(subject.spliced[-1], expected, rtol=1e-5, atol=1e-6)


def test_read_only_rows_are_neither_written_nor_complained_about(world):
    subject, rows, sae = world
    rows.x_ND.flags.writeable = False
    rows.features_NM.flags.writeable = False
    assert run(sae, rows, subject).metrics["l0"] > 0


def test_rows_without_known_features_have_no_recovery():
    found = run(Identity(3), Rows(np.eye(3, dtype=np.float32)))
    assert not {"mmcs", "f1", "leakage", "label_entropy", "cluster_ami"} & set(found.metrics)
    assert {"l0", "fvu", "delta_ce", "latent_entropy", "decoder_mean_abs_cos"} <= set(found.metrics)


def test_only_computes_what_is_asked_for(world):
    subject, rows, sae = world
    everything = run(sae, rows, subject)
    found = run(sae, rows, subject, only={"l0", "mmcs", "density"})
    assert found.metrics == {key: everything.metrics[key] for key in found.metrics}
    assert set(found.metrics) == {"l0", "mmcs"}
    assert set(found.arrays) == {"density"}
    with pytest.raises(KeyError, match="l_zero"):
        run(sae, rows, subject, only={"l_zero"})


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_a_divergence(world, bad):
    subject, rows, sae = world
    with torch.no_grad():
        sae.W_dec[2, 1] = bad
    with pytest.raises(Diverged, match="'nmse'"):
        run(sae, rows, subject)
    with torch.no_grad():
        sae.W_enc[:, 1] = bad
    with pytest.raises(Diverged, match="'l0'"):
        run(sae, rows, subject)


def test_loss_that_is_not_finite_is_a_divergence_that_names_the_metric(world):
    _, rows, sae = world

    class Broken(Squares):
        def splice(self, rows, xhat_ND):
            losses = super().splice(rows, xhat_ND)
            if len(self.spliced) > 3:
                losses[5] = np.inf
            return losses

    with pytest.raises(Diverged, match="'delta_ce'"):
        run(sae, rows, Broken(), only={"delta_ce"})


def test_large_finite_reconstruction_is_no_divergence():
    rows = Rows(np.ones((4, 2), dtype=np.float32))
    found = run(Linear(np.full((2, 2), 3e37), np.eye(2)), rows, only={"nmse"})  # the float32 sum of the chunk overflows
    assert found.metrics["nmse"] > 1e60


NEW_METRIC = '''
from vsae_search.evaluation import Metric, MetricInfo

class Loudest(Metric):
    """Largest code, in scaled units."""

    infos = (MetricInfo("loudest", "scaled activation", "none", "Largest code of any latent on any row."),)

    def __init__(self, context):
        super().__init__(context)
        self.value = 0.0

    def update(self, batch):
        self.value = max(self.value, float(batch.f_BF.max()))

    def result(self, summary):
        return {"loudest": self.value}
'''


@pytest.fixture
def plug_in(tmp_path, monkeypatch):
    """Writes modules beside the real metrics, and forgets them afterwards."""
    monkeypatch.setattr(metrics, "__path__", [*metrics.__path__, str(tmp_path)])
    names = []

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        names.append(f"{metrics.__name__}.{name}")

    yield write
    for name in names:
        sys.modules.pop(name, None)


def test_new_metric_is_one_new_file(world, plug_in):
    subject, rows, sae = world
    assert "loudest" not in run(sae, rows, subject).metrics
    plug_in("loudest_code", NEW_METRIC)
    found = run(sae, rows, subject, chunk_rows=50)
    with torch.no_grad():
        assert found.metrics["loudest"] == pytest.approx(float(sae.encode(torch.from_numpy(rows.x_ND)).max()))
    assert metric_info()["loudest"].unit == "scaled activation"


def test_two_metrics_with_one_key_are_refused(plug_in):
    plug_in("loudest_code", NEW_METRIC.replace("loudest", "fvu"))
    with pytest.raises(TypeError, match="'fvu' belongs to both"):
        metric_classes()


def test_undocumented_metric_is_refused(plug_in):
    plug_in("loudest_code", NEW_METRIC.replace('    """Largest code, in scaled units."""\n', ""))
    with pytest.raises(TypeError, match="docstring"):
        metric_classes()


def test_undeclared_key_is_an_error(world, plug_in):
    subject, rows, sae = world
    plug_in("loudest_code", NEW_METRIC.replace('return {"loudest"', 'return {"softest"'))
    with pytest.raises(AssertionError, match="softest"):
        run(sae, rows, subject)


def test_nan_of_one_metric_is_named(world, plug_in):
    subject, rows, sae = world
    plug_in("loudest_code", NEW_METRIC.replace("self.value}", 'float("nan")}'))
    with pytest.raises(Diverged, match="'loudest'"):
        run(sae, rows, subject)


def test_metric_base_cannot_be_used_bare():
    with pytest.raises(TypeError):
        Metric(None)
    assert MetricInfo("a", "1", "none", "b").key == "a"


@pytest.mark.parametrize("name", ["relu", "topk", "vsae_iso"])
def test_real_architectures_on_a_real_subject(name, tmp_path):
    sets = [FeatureSet(kind="correlated", size=2, count=2), FeatureSet(kind="anticorrelated", size=2, count=1)]
    features = FeatureSpec(count=12, probability=0.1, sets=sets)
    subject = build_subject(DirectionsSubject(type="directions", d_in=8, features=features), tmp_path)
    rows = subject.harvest(0, 600, "evaluation")
    scale = float(np.sqrt(8 / np.square(rows.x_ND).sum(axis=1).mean()))
    sae = saes.create(name, d_in=8, d_sae=16, seed=0, **({"k": 3} if name == "topk" else {}))
    sae.initialise(torch.from_numpy(rows.x_ND * np.float32(scale)))
    found = evaluate(sae, rows, scale=scale, subject=subject, baseline=subject.baseline(rows)).metrics
    assert 0 < found["l0"] <= 16
    assert 0 <= found["f1"] <= 1
    assert found["delta_ce"] == pytest.approx(found["ce_spliced"] - found["ce_clean"])
    assert {"leakage", "anticorrelated_leakage", "cluster_ami"} <= set(found)
    assert "hierarchical_leakage" not in found


def test_true_dictionary_of_a_real_subject_is_recovered(tmp_path):
    spec = DirectionsSubject(
        type="directions", d_in=16, directions="orthogonal", features=FeatureSpec(count=12, probability=0.1)
    )
    subject = build_subject(spec, tmp_path)
    rows = subject.harvest(0, 2000, "evaluation")
    order = np.random.default_rng(0).permutation(12)
    sae = Linear(subject.truth.directions_MD[order], sigma=lambda pre: torch.relu(pre) * (pre > 1e-3))
    found = evaluate(sae, rows, scale=2.0, subject=subject, baseline=subject.baseline(rows)).metrics
    assert found["mcc"] == pytest.approx(1, abs=1e-6)
    assert found["recovered_fraction"] == 1
    assert found["f1"] > 0.99
    assert found["l0"] == pytest.approx(subject.truth.true_l0, rel=0.05)
    assert found["delta_ce"] == pytest.approx(0, abs=1e-6)
    assert found["fvu"] < 1e-6
