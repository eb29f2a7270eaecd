"""The cards on true features, on a sweep whose truth, weights and matchings are written by hand."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import plotly.graph_objects as go
import pytest
from safetensors.numpy import save_file
from synthetic_sweeps import make_sweep, make_trial, write_sweep

from vsae_search.report import build_report
from vsae_search.report.against import nearest_to_true_l0, null_band
from vsae_search.report.arrows import arrows, plane_layout
from vsae_search.report.card import Figure, discover
from vsae_search.report.cards.decoder_cosines import MOST_CELLS, MOST_UNMATCHED, _rows_of_each
from vsae_search.report.matrix import block_maxima, blocks, coded, decoded, heatmap
from vsae_search.report.truth import grouped
from vsae_search.search.records import trial_directory
from vsae_search.search.store.truth import write_truth
from vsae_search.subjects.base import FeatureGroup, GroundTruth

CARDS = {card.name: card for card in discover()}
NAMES = ("gram", "decoder_cosines", "feature_plane", "recovery", "leakage")
# features 0 and 1 are an antipodal pair, 2 and 3 share an axis; 3 is too short to be represented
W_DM = np.array([[1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.5]])
SETS = (FeatureGroup("anticorrelated", (0, 1)), FeatureGroup("correlated", (2, 3)))
W_DEC = np.array([[-2.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.6, 0.8], [0.0, 0.0]])
DENSITY, LATENT_OF = (0.1, 0.1, 0.1, 0.2, 0.0), (2, 0, 1)  # features 0, 1, 2


def toy(W=W_DM, sets=SETS):
    norms = np.linalg.norm(W, axis=0)
    truth = GroundTruth(
        directions_MD=np.ascontiguousarray((W / norms).T).astype(np.float32),
        represented_M=norms > 0.5,
        probability_M=np.full(W.shape[1], 0.1),
        sets=sets,
        true_l0=2.4,
    )
    return SimpleNamespace(truth=truth, W_DM=W.astype(np.float32))


def trial(architecture, number, l0, delta_ce, mmcs, leakage=0.1, **changes):
    metrics = {"l0": l0, "delta_ce": delta_ce, "mmcs": mmcs, "recovered_fraction": mmcs / 2}
    nulls = {"null_mmcs": 0.5 + 0.1 * number, "null_recovered_fraction": 0.1, "null_leakage": 0.4}
    leaks = {"leakage": leakage, "response_leakage": leakage / 2, "anticorrelated_response_leakage": 0.0}
    return make_trial(architecture, number, metrics={**metrics, **nulls, **leaks}, **changes)


TRIALS = (
    trial("topk", 0, 2.0, 0.2, 0.8, leakage=0.3),
    trial("topk", 1, 4.0, 0.1, 0.9),
    trial("topk", 2, 8.0, 0.3, 0.99),  # finds most, but is dominated
    trial("relu", 0, 3.0, 0.15, 0.45, leakage=0.2),  # below its null of 0.5
)


def write_weights(directory, uid, W_dec=W_DEC, latent=LATENT_OF):
    folder = trial_directory(directory, uid)
    save_file({"W_dec": W_dec.astype(np.float32), "b_dec": np.zeros(2, dtype=np.float32)}, folder / "sae.safetensors")
    arrays = {"density": np.array(DENSITY), "feature_index": np.arange(3), "feature_latent": np.array(latent)}
    save_file(arrays, folder / "arrays.safetensors")


@pytest.fixture
def directory(tmp_path):
    directory = write_sweep(tmp_path / "s", make_sweep(architectures=("topk", "relu")), list(TRIALS))
    write_truth(directory, toy())
    for one in TRIALS:
        write_weights(directory, one.uid)
    return directory


def figures(data, name):
    assert data.card_errors == {}
    assert CARDS[name].unavailable(data) is None
    return [part for part in CARDS[name].render(data) if isinstance(part, Figure)]


@pytest.mark.parametrize("name", NAMES)
def test_every_card_draws_a_valid_figure_with_words_for_it(directory, name):
    data = build_report(directory)
    for figure in figures(data, name):
        json.dumps(figure.spec, allow_nan=False)
        go.Figure(figure.spec)
        assert len(figure.alt) > 60
        for control in (control for group in figure.controls for control in group):
            assert len(control.visible) == len(figure.spec["data"])
            go.Figure(figure.spec).update_layout({key.replace(".", "_"): val for key, val in control.relayout.items()})
    again = type(data).model_validate_json(data.model_dump_json())
    assert [str(part) for part in CARDS[name].render(again)] == [str(part) for part in CARDS[name].render(data)]


def test_gram_by_hand(directory):
    found = build_report(directory).cards["gram"]
    assert found["names"] == ["feature 2", "feature 3", "feature 0", "feature 1"]
    assert found["groups"] == [["correlated", 0, 2], ["anticorrelated", 2, 4]]
    expected = [[1, 0.5, 0, 0], [0.5, 0.25, 0, 0], [0, 0, 1, -1], [0, 0, -1, 1]]
    assert decoded(found["matrix"]) == pytest.approx(np.array(expected))
    rows = {row["group"]: row for row in found["rows"]}
    # D_2 = 1 / (1 + 0.25), D_3 = 0.0625 / (0.25 + 0.0625); an antipodal pair shares a dimension
    assert rows["correlated"]["total_dimensionality"] == pytest.approx(0.8 + 0.2)
    assert rows["anticorrelated"]["mean_dimensionality"] == pytest.approx(0.5)
    assert (rows["correlated"]["represented"], rows["all"]["represented"]) == (1, 3)
    assert rows["correlated"]["mean_norm"] == pytest.approx(0.75)
    assert (found["largest_off_diagonal"], found["features_per_dimension"]) == (1.0, pytest.approx(3.25 / 2))


def test_many_features_share_cells_and_the_card_says_so(tmp_path):
    W = np.random.default_rng(0).standard_normal((8, 512)) / 3
    directory = write_sweep(tmp_path / "s", make_sweep(), [TRIALS[0]])
    write_truth(directory, toy(W, sets=()))
    data = build_report(directory)
    found, figure = data.cards["gram"], figures(data, "gram")[0]
    assert (found["block"], found["matrix"]["shape"], found["names"][1]) == (8, [64, 64], "features 8 \u2026 15")
    gram = W.T @ W
    cell = gram[:8, 8:16]
    assert decoded(found["matrix"])[0, 1] == pytest.approx(
        cell.flat[np.abs(cell).argmax()], abs=found["matrix"]["unit"] / 2
    )
    assert "block of 8 x 8 features" in figure.caption


def test_cosines_are_ordered_by_the_matching_with_dead_latents_last(directory):
    found = build_report(directory).cards["decoder_cosines"]
    topk = found["matrices"][0]
    assert topk["uid"] == "topk-0001", "the largest MMCS of the frontier, not that of a dominated trial"
    assert topk["features"] == ["feature 2", "feature 0", "feature 1"]
    assert topk["latents"] == ["latent 1", "latent 2", "latent 0", "latent 3", "latent 4"]
    expected = [[1, 0, 0, 0.8, 0], [0, 1, -1, 0.6, 0], [0, -1, 1, -0.6, 0]]
    assert decoded(topk["matrix"]) == pytest.approx(np.array(expected), abs=0.01)
    assert topk["latent_groups"] == [["matched (3)", 0, 3], ["unmatched (1)", 3, 4], ["dead (1)", 4, 5]]
    assert (topk["recovered"], topk["mean_matched"]) == (3, pytest.approx(1.0))


def test_buttons_show_one_architecture_each(directory):
    data = build_report(directory)
    for name, fixed in (("decoder_cosines", 0), ("feature_plane", 2)):
        (figure,) = figures(data, name)
        (group,) = figure.controls
        assert [control.label for control in group] == ["topk", "relu"]
        shown = np.array([control.visible for control in group])
        assert shown[:, :fixed].all()
        assert (shown[:, fixed:] == np.eye(2, dtype=bool)).all()


def test_weights_that_are_gone_or_unreadable_are_named(directory):
    (trial_directory(directory, "topk-0001") / "sae.safetensors").unlink()
    data = build_report(directory)
    assert [matrix["uid"] for matrix in data.cards["decoder_cosines"]["matrices"]] == ["relu-0000"]
    assert "topk-0001" in figures(data, "decoder_cosines")[0].caption
    assert "topk-0001" in figures(data, "feature_plane")[0].caption
    (trial_directory(directory, "relu-0000") / "arrays.safetensors").write_bytes(b"no tensors")
    data = build_report(directory)
    assert "topk-0001 and relu-0000" in CARDS["decoder_cosines"].unavailable(data)
    assert len(figures(data, "feature_plane")[0].spec["data"]) == 2, "the true arrows stay"


@pytest.mark.parametrize("bad", [np.ones((5, 3)), np.full((5, 2), np.nan), np.ones((4, 2))])
def test_weights_that_do_not_fit_are_not_drawn(directory, bad):
    write_weights(directory, "topk-0001", W_dec=bad)
    assert build_report(directory).cards["decoder_cosines"]["gone"] == ["topk-0001"]


def test_arrows_of_the_plane(directory):
    data = build_report(directory)
    found = data.cards["feature_plane"]
    assert found["ends"] == [[0, 1], [0, 0.5], [1, 0], [-1, 0]]
    topk = found["decoders"][0]
    assert (topk["latents"], topk["features"], topk["dead"]) == ([0, 1, 2, 3], [1, 2, 0, None], 1)
    assert topk["ends"] == [[-1, 0], [0, 1], [1, 0], [0.6, 0.8]]
    (figure,) = figures(data, "feature_plane")
    true, learnt = figure.spec["data"][1], figure.spec["data"][2]
    assert (true["x"], true["y"]) == ([0, 1, None, 0, -1, None], [0, 0, None, 0, 0, None])
    assert learnt["hovertext"][1] == "latent 0, matched with feature 1<br>(-1, 0)"
    assert figure.spec["layout"]["yaxis"]["scaleanchor"] == "x"
    assert "90\u00b0" in figure.alt


@pytest.mark.parametrize(("shape", "said"), [((3, 4), "has 3 dimensions"), ((2, 300), "300 features are too many")])
def test_arrows_need_a_plane_and_room(tmp_path, shape, said):
    directory = write_sweep(tmp_path / "s", make_sweep(), [TRIALS[0]])
    write_truth(directory, toy(np.random.default_rng(0).standard_normal(shape), sets=()))
    assert said in CARDS["feature_plane"].unavailable(build_report(directory))


def test_arrow_names_are_escaped():
    trace = arrows(np.eye(2), ["<b>a", "b"], label="<i>", colour="#000000")
    assert trace["hovertext"][1].startswith("&lt;b&gt;a<br>")
    assert trace["name"] == "&lt;i&gt;"
    assert plane_layout([np.zeros((1, 2))], ("a", "b"))["xaxis"]["range"] == [-1, 1]


def test_recovery_by_hand(directory):
    data = build_report(directory)
    found = data.cards["recovery"]
    assert found["nulls"]["mmcs"] == {"low": 0.5, "middle": pytest.approx(0.55), "high": pytest.approx(0.7)}
    assert (found["above_null"], found["num_trials"]) == (3, 4)
    assert found["architectures"][0] == {"architecture": "topk", "best": "topk-0002", "nearest": "topk-0000"}
    (figure,) = figures(data, "recovery")
    above = [trace for trace in figure.spec["data"] if trace["yaxis"] == "y"]
    assert [(trace["name"], trace["x"], trace["y"]) for trace in above] == [
        ("dominated", [8.0], [0.99]),
        ("topk", [2.0, 4.0], [0.8, 0.9]),
        ("relu", [3.0], [0.45]),
    ]
    rectangles = [shape for shape in figure.spec["layout"]["shapes"] if shape["type"] == "rect"]
    assert [(one["yref"], one["y0"], one["y1"]) for one in rectangles] == [("y", 0.5, 0.7), ("y2", 0.1, 0.1)]
    (note,) = figure.spec["layout"]["annotations"]
    assert 10 ** note["x"] == pytest.approx(2.4)


def test_nearest_is_in_octaves_and_on_the_frontier(directory):
    data = build_report(directory)
    # true L0 2.4: 2 is log2(1.2) = 0.26 away, 4 is 0.74
    assert nearest_to_true_l0(data, "topk", "mmcs").uid == "topk-0000"
    assert nearest_to_true_l0(data, "topk", "not_measured") is None
    assert null_band(data, "anticorrelated_response_leakage") is None


def test_leakage_by_hand(directory):
    data = build_report(directory)
    found = data.cards["leakage"]
    assert [(view["kind"], view["measure"]) for view in found["views"]] == [
        ("correlated", "response"),
        ("correlated", "direction"),
        ("anticorrelated", "response"),
    ]
    assert found["views"][1]["null"] == {"low": 0.4, "middle": 0.4, "high": 0.4}
    assert found["nearest"][0] == {
        **{"architecture": "topk", "uid": "topk-0000", "response_leakage": 0.15},
        **{"leakage": 0.3, "anticorrelated_response_leakage": 0.0},
    }
    (figure,) = figures(data, "leakage")
    assert sum(trace["visible"] for trace in figure.spec["data"]) == 3
    assert figure.spec["data"][1]["y"] == [0.15, 0.05]
    assert [sum(control.visible) for control in figure.controls[0]] == [3, 3, 3]


def test_only_what_was_measured_is_offered(tmp_path):
    old = TRIALS[0].model_copy(update={"metrics": {**TRIALS[0].metrics, "response_leakage": math.nan}})
    old.metrics.pop("anticorrelated_response_leakage")
    data = build_report(write_sweep(tmp_path / "s", make_sweep(), [old]))
    assert [view["key"] for view in data.cards["leakage"]["views"]] == ["leakage"]
    (figure,) = figures(data, "leakage")
    assert figure.controls == ()
    assert "Responses were not measured" in figure.caption


@pytest.mark.parametrize("name", NAMES)
def test_a_subject_without_a_truth_is_told(tmp_path, name):
    trials = [make_trial("topk", 0, metrics={"l0": 2.0, "delta_ce": 0.1})]
    data = build_report(write_sweep(tmp_path / "s", make_sweep(subject={"kind": "language_model"}), trials))
    assert data.card_errors == {}
    assert "toy subject" in CARDS[name].unavailable(data)


@pytest.mark.parametrize("name", NAMES)
def test_a_toy_sweep_that_kept_nothing_is_told(tmp_path, name):
    trials = [make_trial("topk", 0, metrics={"l0": 2.0, "delta_ce": 0.1})]
    data = build_report(write_sweep(tmp_path / "s", make_sweep(), trials))
    said = {"recovery": "No completed trial has recovery", "leakage": "No completed trial has leakage"}
    assert said.get(name, "truth.safetensors") in CARDS[name].unavailable(data)


def test_a_damaged_truth_costs_its_cards_only(directory):
    (directory / "truth.safetensors").write_bytes(b"no tensors")
    data = build_report(directory)
    assert set(data.card_errors) == {"gram", "decoder_cosines", "feature_plane"}


def test_a_comparison_takes_the_truth_of_its_sweeps(tmp_path):
    folders = []
    for name in ("a", "b"):
        folders.append(write_sweep(tmp_path / name, make_sweep(name=name), [TRIALS[1]]))
        write_truth(folders[-1], toy())
        write_weights(folders[-1], TRIALS[1].uid)
    matrices = build_report(folders).cards["decoder_cosines"]["matrices"]
    assert [matrix["uid"] for matrix in matrices] == ["a/topk-0001", "b/topk-0001"]


def test_block_maxima_against_brute_force():
    matrix = np.random.default_rng(3).standard_normal((23, 10))
    rows, columns = blocks(23, 8), blocks(10, 64)
    assert rows[0] == (0, 2)
    assert rows[-1] == (21, 22)
    assert columns == [(place, place) for place in range(10)]
    found = block_maxima(matrix, rows, columns)
    for row, (first, last) in enumerate(rows):
        for column in range(10):
            cell = matrix[first : last + 1, column]
            assert found[row, column] == cell[np.abs(cell).argmax()]
    assert block_maxima(matrix, rows, []).shape == (8, 0)


@pytest.mark.parametrize(("largest", "unit"), [(1.0, 0.01), (1.3, 0.02), (11.0, 0.1), (500.0, 1.0)])
def test_codes_are_within_half_a_unit(largest, unit):
    matrix = np.linspace(-largest, largest, 12).reshape(3, 4)
    found = coded(matrix)
    assert (found["unit"], found["shape"]) == (unit, [3, 4])
    kept = np.clip(matrix, -127 * unit, 127 * unit)
    assert np.abs(decoded(found) - kept).max() <= unit / 2 + 1e-9
    trace = heatmap(found, ["a", "b", "c"], ["d", "e", "f", "g"], limit=1.0, hover="%{z}")
    assert (trace["zmax"], trace["z"][0][0]) == (1 / unit, round(kept[0, 0] / unit))


def test_features_are_grouped_by_kind_and_set(directory):
    truth = SimpleNamespace(sets=(("hierarchical", (4, 5)), ("correlated", (3, 2)), ("hierarchical", (0, 1))))
    order, groups = grouped(truth, np.array([0, 1, 2, 4, 5, 6]))
    assert order.tolist() == [2, 4, 5, 0, 1, 6]
    assert groups == (("correlated", 0, 1), ("hierarchical", 1, 5), ("independent", 5, 6))


def test_all_matrices_together_stay_small():
    assert _rows_of_each(18, 64) == 64
    for num_matrices in (1, 18, 40, 400):
        rows = _rows_of_each(num_matrices, 500)
        assert 1 <= rows <= 64
        assert rows == 1 or num_matrices * rows * (rows + 2 * MOST_UNMATCHED) <= MOST_CELLS
