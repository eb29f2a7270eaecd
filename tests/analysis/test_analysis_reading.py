"""The pass over the rows, and what the analyses make of it, against dense arrays and independent formulas."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from analysis_sweeps import dictionary, material, sparse_rows, topk

from vsae_search import saes
from vsae_search.analysis import discover
from vsae_search.analysis.analyses import coactivation, density, latent_space, reconstruction, shrinkage, similarity
from vsae_search.analysis.compute import analyse, plain
from vsae_search.analysis.material import choose_features
from vsae_search.analysis.reading import read
from vsae_search.evaluation import evaluate
from vsae_search.subjects import Baseline, Rows

EMPTY = Baseline(*(np.empty(0) for _ in range(3)))


def relu(d_in=6, d_sae=10, seed=0):
    """Decoder rows of different norms, and biases."""
    sae = saes.create("april", d_in=d_in, d_sae=d_sae, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        sae.W_enc.copy_(torch.randn(d_in, d_sae, generator=generator))
        sae.W_dec.copy_(torch.randn(d_sae, d_in, generator=generator) * torch.linspace(0.1, 2, d_sae)[:, None])
        sae.b_enc.copy_(torch.randn(d_sae, generator=generator) - 2)
        sae.b_dec.copy_(torch.randn(d_in, generator=generator) * 0.1)
    return sae


@torch.no_grad()
def dense(sae, rows, scale=1.0):
    """Scaled activation, strength and reconstruction of all rows at once, in numpy."""
    x = torch.from_numpy(rows.x_ND * np.float32(scale))
    f = sae.encode(x)
    return x.numpy(), (f * sae.W_dec.norm(dim=1)).numpy(), sae.decode(f).numpy()


def test_codes_are_the_deterministic_codes_times_the_decoder_norms(monkeypatch):
    monkeypatch.setattr("vsae_search.analysis.reading.CHUNK_NUMBERS", 70)  # chunks of 7 rows
    sae, rows = relu(), sparse_rows(6, 100)
    found = read(sae, rows, scale=2.0, subject=None).codes
    strength = dense(sae, rows, 2.0)[1]
    np.testing.assert_allclose(found.by_row.toarray(), strength, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.fired_F, (strength > 0).sum(axis=0))
    for latent in range(10):
        row, value = found.of(latent)
        np.testing.assert_array_equal(row, np.flatnonzero(strength[:, latent]))
        np.testing.assert_allclose(value, strength[row, latent], rtol=1e-5)
    np.testing.assert_allclose(found.total(found.by_latent.data), strength.sum(axis=0), rtol=1e-5)


def test_a_dense_code_is_read_on_fewer_rows(monkeypatch):
    monkeypatch.setattr("vsae_search.analysis.reading.CHUNK_NUMBERS", 70)
    sae, rows = relu(), sparse_rows(6, 900)
    whole = read(sae, rows, scale=1.0, subject=None).codes
    cut = read(sae, rows, scale=1.0, subject=None, max_entries=whole.by_row.nnz // 2).codes
    assert 300 < cut.num_rows < 600
    np.testing.assert_array_equal(cut.by_row.toarray(), whole.by_row[: cut.num_rows].toarray())


def test_reconstruction_is_that_of_the_evaluation():
    sae, rows = relu(), sparse_rows(6, 300)
    keys = {"fvu", "fvu_centred", "nmse", "cosine", "norm_ratio", "relative_bias"}
    expected = evaluate(sae, rows, scale=1.5, subject=_NoTruth(), baseline=EMPTY, only=keys).metrics
    assert read(sae, rows, scale=1.5, subject=None).overall == pytest.approx(expected)


class _NoTruth:
    truth = None


def test_groups_are_the_rows_of_the_group(monkeypatch):
    monkeypatch.setattr("vsae_search.analysis.reading.CHUNK_NUMBERS", 70)
    sae, rows = relu(), sparse_rows(6, 100)
    group = np.arange(100) % 3
    group[group == 1] = 3  # group 1 is empty
    found = read(sae, rows, scale=1.0, subject=None, groupings={"g": group}).groups["g"]
    assert found[1] == {}
    alone = read(sae, Rows(rows.x_ND[group == 2]), scale=1.0, subject=None).overall
    assert found[2] == pytest.approx(alone)


def test_the_best_factor_of_a_latent_is_that_of_least_squares():
    sae, rows = relu(), sparse_rows(6, 400)
    found = shrinkage.ANALYSIS.compute(material(sae, rows))
    x, strength, xhat = dense(sae, rows)
    unit = (sae.W_dec / sae.W_dec.norm(dim=1, keepdim=True)).detach().numpy()
    for latent in range(10):
        part = np.outer(strength[:, latent], unit[latent])
        if not part.any():
            assert np.isnan(found.per_latent["rescale"][latent])
            continue
        factor = np.linalg.lstsq(part.reshape(-1, 1), (x - xhat + part).ravel(), rcond=None)[0][0]
        assert found.per_latent["rescale"][latent] == pytest.approx(factor, rel=1e-3)


def test_a_shrunk_copy_is_told_to_grow_by_what_it_lost():
    rows = Rows(np.abs(sparse_rows(4, 200).x_ND))
    sae = relu(4, 4)
    with torch.no_grad():
        for parameter, value in ((sae.W_enc, torch.eye(4)), (sae.W_dec, torch.eye(4) * 0.5)):
            parameter.copy_(value)
        sae.b_enc.zero_()
        sae.b_dec.zero_()
    found = shrinkage.ANALYSIS.compute(material(sae, rows))
    np.testing.assert_allclose(found.per_latent["rescale"], 2.0, rtol=1e-5)
    assert found.numbers["global_rescale"] == pytest.approx(2.0)
    assert found.numbers["shrunk_fraction"] == 1.0


def test_densities_against_dense_counts():
    sae, rows = relu(), sparse_rows(6, 500)
    found = density.ANALYSIS.compute(material(sae, rows))
    strength = dense(sae, rows)[1]
    np.testing.assert_allclose(found.per_latent["density"], (strength > 0).mean(axis=0))
    with np.errstate(invalid="ignore"):
        mean = strength.sum(axis=0) / (strength > 0).sum(axis=0)
    np.testing.assert_allclose(found.per_latent["mean_strength"], mean, rtol=1e-5)
    alive = (strength > 0).any(axis=0)
    np.testing.assert_allclose(found.per_latent["max_strength"][alive], strength.max(axis=0)[alive], rtol=1e-5)
    assert np.isnan(found.per_latent["max_strength"][~alive]).all()
    assert found.numbers["l0"] == pytest.approx((strength > 0).sum(axis=1).mean())
    assert found.numbers["dead"] == (~alive).sum()
    assert sum(found.numbers["histogram"]) == alive.sum()


def phi_of(a, b):
    return np.corrcoef(a, b)[0, 1]


def test_co_activation_against_dense_correlation(monkeypatch):
    monkeypatch.setattr(coactivation, "_BLOCK_NUMBERS", 30)  # blocks of 3 latents
    sae, rows = relu(), sparse_rows(6, 500)
    found = coactivation.ANALYSIS.compute(material(sae, rows))
    fired = dense(sae, rows)[1] > 0
    together = fired.T.astype(int) @ fired
    expected = {
        (i, j): (phi_of(fired[:, i], fired[:, j]), together[i, j])
        for i in range(10)
        for j in range(i + 1, 10)
        if together[i, j] >= coactivation.MIN_TOGETHER
    }
    assert len(expected) > 5
    assert found.numbers["pairs"] == len(expected)
    top = {tuple(pair["latents"]): pair for pair in found.numbers["top"]}
    assert set(top) == set(expected)
    unit = (sae.W_dec / sae.W_dec.norm(dim=1, keepdim=True)).detach().numpy()
    for (i, j), (phi, count) in expected.items():
        pair, p = top[i, j], count / 500
        assert pair["phi"] == pytest.approx(phi)
        assert pair["together"] == count
        assert pair["npmi"] == pytest.approx(np.log(p / fired[:, i].mean() / fired[:, j].mean()) / -np.log(p))
        assert pair["jaccard"] == pytest.approx(count / (fired[:, i] | fired[:, j]).sum())
        assert pair["cosine"] == pytest.approx(unit[i] @ unit[j], abs=1e-5)
    phis = [pair["phi"] for pair in found.numbers["top"]]
    assert phis == sorted(phis, reverse=True)
    for latent in range(10):
        own = {pair: phi for pair, (phi, _) in expected.items() if latent in pair}
        if not own:
            assert found.per_latent["partner"][latent] == -1
            continue
        best = max(own, key=own.get)
        assert found.per_latent["partner"][latent] == sum(best) - latent
        assert found.per_latent["partner_phi"][latent] == pytest.approx(own[best])


def test_of_a_code_that_is_too_dense_to_count_rows_are_drawn(monkeypatch):
    codes = material(relu(), sparse_rows(6, 500)).reading.codes
    whole = coactivation.firing_indicators(codes, 0)
    monkeypatch.setattr(coactivation, "MAX_WORK", 800)
    drawn = coactivation.firing_indicators(codes, 0)
    assert 0 < drawn.shape[0] < whole.shape[0]
    assert drawn.shape[1] == whole.shape[1]
    np.testing.assert_array_equal(coactivation.firing_indicators(codes, 0).toarray(), drawn.toarray())


def test_similarity_tells_neighbours_and_the_null():
    sae, rows = topk(d_sae=30), sparse_rows()
    with torch.no_grad():
        sae.W_dec[7] = sae.W_dec[3]
    found = similarity.ANALYSIS.compute(material(sae, rows))
    assert found.per_latent["neighbour_1"][[3, 7]].tolist() == [7, 3]
    assert found.numbers["closest"][0]["latents"] == (3, 7)
    assert found.numbers["closest"][0]["cosine"] == pytest.approx(1, abs=1e-6)
    assert found.numbers["max_cosine"] == pytest.approx(1, abs=1e-6)
    assert 0.5 < found.numbers["null_mean_nearest"] < 1
    assert found.per_latent["alignment"][0] == pytest.approx(1, abs=1e-6)  # the encoder starts as the decoder


def test_chosen_features_come_from_every_level_of_density():
    density_F = np.concatenate([np.zeros(10), np.geomspace(1e-4, 0.5, 50)])
    chosen = choose_features(density_F, 0)
    assert len(set(chosen)) == 25
    assert np.histogram(chosen, bins=[10, 20, 30, 40, 50, 60])[0].tolist() == [5] * 5
    assert choose_features(density_F, 0) == chosen
    assert choose_features(density_F, 1) != chosen
    assert choose_features(np.array([0, 0.1, 0, 0.2]), 0) == (1, 3)
    assert choose_features(np.zeros(4), 0) == ()


def test_every_analysis_defines_its_numbers_and_columns():
    found, columns = analyse(material(topk(), sparse_rows(), others=(dictionary(np.eye(8)),)), discover())
    for name, entry in found["analyses"].items():
        assert entry["failed"] is None, name
        if entry["numbers"] is not None:
            described = " ".join(entry["definitions"]) + json.dumps(entry["definitions"])
            for key in entry["numbers"]:
                assert key in described or key.endswith("_edges") or key in ("others", "loss"), f"{name}: {key}"
    entries = found["analyses"].values()
    described = {word.strip(",") for entry in entries for key in entry["definitions"] for word in key.split()}
    assert {re.sub(r"_\d", "_1", key) for key in columns} - {"latent"} <= described
    assert all(len(column) == 16 for column in columns.values())


def test_a_broken_analysis_says_why_and_loses_nothing_else():
    class Broken:
        name, title, order, definitions = "broken", "Broken", 1, ()

        def unavailable(self, material):
            return None

        def compute(self, material):
            raise ValueError("no luck with https://user:secret@host/")

    found, _ = analyse(material(topk(), sparse_rows()), (Broken(), density.ANALYSIS))
    assert found["analyses"]["broken"]["failed"] == "ValueError: no luck with https://***@host/"
    assert found["analyses"]["density"]["numbers"]["l0"] == 2


class TestFaultsOfTheSeedAnalyser:
    """What the analyser of the seed repository gets wrong (analyze_gpt2_sae.py), one test each."""

    def test_codes_are_never_sampled(self):
        sae = saes.create("vsae_iso", d_in=8, d_sae=32, target_l0=3.0)
        rows = sparse_rows()
        sae.initialise(torch.from_numpy(rows.x_ND))
        sae.calibrate(torch.from_numpy(rows.x_ND))
        first, second = (density.ANALYSIS.compute(material(sae, rows)) for _ in range(2))
        np.testing.assert_array_equal(first.per_latent["density"], second.per_latent["density"])
        assert first.numbers["l0"] < 8  # a sampled Gaussian code is never 0, so that all 32 would fire

    def test_dead_latents_come_with_what_so_few_rows_can_tell(self):
        sae = topk(d_sae=64, k=1)
        few, many = (density.ANALYSIS.compute(material(sae, sparse_rows(num_rows=n))).numbers for n in (40, 4000))
        assert few["dead"] > many["dead"]
        assert few["unseen_below"] == pytest.approx(3 / 40, rel=0.05)
        assert many["unseen_below"] == pytest.approx(3 / 4000, rel=0.05)

    def test_reconstruction_has_fvu_and_the_spliced_loss(self):
        made = material(topk(), sparse_rows())
        made.request.trained.trial.metrics.update(delta_ce=0.125, ce_score_zero=0.75)
        numbers = reconstruction.ANALYSIS.compute(made).numbers
        assert 0 < numbers["fvu"] < 1
        assert numbers["recorded"] == {"delta_ce": 0.125, "ce_score_zero": 0.75}

    def test_no_array_of_all_pairs_of_latents_is_made(self, monkeypatch):
        import tracemalloc

        monkeypatch.setattr("vsae_search.analysis.cosines.BLOCK_NUMBERS", 1 << 16)
        monkeypatch.setattr(coactivation, "_BLOCK_NUMBERS", 1 << 16)
        sae = topk(d_sae=3000, k=4)
        made = material(sae, sparse_rows(num_rows=2000))
        made.reading.codes.by_latent  # noqa: B018 - held before memory is measured
        tracemalloc.start()
        for analysis in (similarity.ANALYSIS, coactivation.ANALYSIS):
            analysis.compute(made)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 3000 * 3000 * 4 / 4

    def test_numpy_numbers_do_not_break_the_json(self):
        value = {
            "a": np.int64(3),
            "b": np.float32(0.5),
            "c": [np.nan, np.inf],
            4: np.arange(2),
            "d": (np.bool_(True), None),
        }
        assert json.loads(json.dumps(plain(value), allow_nan=False)) == {
            "a": 3,
            "b": 0.5,
            "c": [None, None],
            "4": [0, 1],
            "d": [True, None],
        }

    def test_without_umap_the_map_is_that_of_the_components(self, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "umap", None)
        made = material(topk(d_sae=40), sparse_rows())
        found = latent_space.ANALYSIS.compute(made)
        assert found.numbers["map"] == "pca"
        variance = np.var([[p["x"], p["y"]] for p in found.numbers["points"]], axis=0)
        unit = made.own.unit_FD - made.own.unit_FD.mean(axis=0)
        np.testing.assert_allclose(variance, np.linalg.svd(unit)[1][:2] ** 2 / 40, rtol=1e-3)

    def test_with_umap_the_map_is_its_own(self, monkeypatch):
        import importlib.machinery
        import types

        class UMAP:
            def __init__(self, **options):
                assert options == {"n_components": 2, "metric": "cosine", "random_state": 0}

            def fit_transform(self, rows):
                return rows[:, :2] * 7

        umap = types.ModuleType("umap")
        umap.__spec__, umap.UMAP = importlib.machinery.ModuleSpec("umap", None), UMAP
        monkeypatch.setitem(__import__("sys").modules, "umap", umap)
        made = material(topk(d_sae=40), sparse_rows())
        found = latent_space.ANALYSIS.compute(made)
        assert found.numbers["map"] == "umap"
        np.testing.assert_allclose(found.per_latent["x"], made.own.unit_FD[:, 0] * 7, rtol=1e-5)
