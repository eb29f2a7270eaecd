from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from synthetic_sweeps import make_sweep, make_trial, write_sweep

from vsae_search.report.build import build_report
from vsae_search.report.cards import importance as module
from vsae_search.report.cards.importance import CARD, FEWEST, octaves_behind
from vsae_search.report.importance import QUANTILE, Values, cells_of, density, divergences, importances
from vsae_search.report.render import render_page
from vsae_search.report.searched import searched_axes


def values(cell_N, cells, *, ordered=True):
    return Values(np.asarray(cell_N), cells, ordered)


def test_importance_of_a_choice_by_hand():
    # 8 trials, 2 of them best; of the choices a and b, both best trials chose a, of all trials one half
    choice = values([0, 0, 0, 0, 1, 1, 1, 1], 2, ordered=False)
    # best: one cell seen, so 1/2 of a trial is shared out: (2 + 1/2 * 2) / (1 + 1) + 1/2 = 2 of 3 trials in a
    np.testing.assert_allclose(density(np.array([0, 0]), choice), [2 / 3, 1 / 3], atol=1e-11)
    np.testing.assert_allclose(density(choice.cell_N, choice), [0.5, 0.5], atol=1e-11)
    # sum over p of p (q/p - 1)^2 = 1/2 (1/3)^2 + 1/2 (1/3)^2
    score_N = np.arange(8.0)
    np.testing.assert_allclose(divergences([choice], score_N), [1 / 9], atol=1e-10)


def test_a_density_is_one_in_all_and_highest_where_the_values_are():
    cells = values(np.repeat([3, 30, 31], [5, 1, 1]), 50)
    found = density(cells.cell_N, cells)
    assert found.sum() == pytest.approx(1)
    assert found.argmax() == 3
    assert found[3] > found[30] > found[49]


def test_chance_alone_is_marked_once_in_twenty():
    rng = np.random.default_rng(0)
    marked = [
        bool(importances([values(rng.integers(0, 6, 24), 6)], rng.random((1, 24)))[0].beats_chance_P[0])
        for _ in range(200)
    ]
    assert 2 <= sum(marked) <= 20  # binomial with mean 10: outside of this once in two hundred


def test_equal_scores_decide_nothing():
    choice = values([0, 1, 0, 1, 0, 1, 0, 1], 2)
    assert divergences([choice], np.zeros(8)).tolist() == [0.0]
    (found,) = importances([choice], np.zeros((1, 8)))
    assert found.share_P.tolist() == [0.0]
    assert not found.beats_chance_P.any()


def test_places_go_to_the_nearest_cell():
    assert cells_of([0.0, 0.12, 0.13, 0.49, 0.51, 1.0], 5).tolist() == [0, 0, 1, 2, 2, 4]
    assert cells_of([0.125], 5).tolist() == [0], "half way goes down"


@pytest.mark.parametrize("num", [20, 57])
def test_the_same_numbers_as_optuna(num):
    optuna = pytest.importorskip("optuna")
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
    from optuna.importance import PedAnovaImportanceEvaluator

    rng = np.random.default_rng(num)
    distributions = {
        "u": FloatDistribution(0, 1),
        "log": FloatDistribution(1e-4, 1e-1, log=True),
        "few": IntDistribution(0, 5),
        "many": IntDistribution(3, 90),
        "text": CategoricalDistribution(["x", "y", "z"]),
    }
    rows = [
        {
            "u": float(rng.random()),
            "log": float(10 ** rng.uniform(-4, -1)),
            "few": int(rng.integers(6)),
            "many": int(rng.integers(3, 91)),
            "text": str(rng.choice(["x", "y", "z"])),
        }
        for _ in range(num)
    ]
    score_N = np.array([row["u"] + 0.2 * row["few"] + rng.random() for row in rows])
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study()
    study.add_trials(
        [
            optuna.trial.create_trial(params=row, distributions=distributions, value=float(score))
            for row, score in zip(rows, score_N, strict=True)
        ]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the evaluator is marked as experimental
        expected = PedAnovaImportanceEvaluator(target_quantile=QUANTILE).evaluate(study)
    found = divergences(
        [
            values(cells_of([row["u"] for row in rows], 50), 50),
            values(cells_of([math.log(row["log"] / 1e-4) / math.log(1e3) for row in rows], 50), 50),
            values(cells_of([row["few"] / 5 for row in rows], 6), 6),
            values(cells_of([(row["many"] - 3) / 87 for row in rows], 50), 50),
            values(["xyz".index(row["text"]) for row in rows], 3, ordered=False),
        ],
        score_N,
    )
    share_of_best = math.ceil(QUANTILE * num) / num  # Optuna weighs all with its square, which shares do not see
    assert dict(zip(distributions, found * share_of_best**2, strict=True)) == pytest.approx(expected, rel=1e-9)


def test_distance_behind_the_frontier_by_hand():
    points = np.array([[0.0, 2.0], [2.0, 0.0], [3.0, 3.0], [0.5, 2.0], [2.0, 2.0], [0.0, 5.0]])
    # (3, 3) has to fall by 1 to be level with one coordinate of each frontier point; (0.5, 2) is level in the second
    assert octaves_behind(points).tolist() == [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    np.testing.assert_allclose(octaves_behind(np.array([[0.0, 0.0], [1.0, 0.25], [4.0, 4.0]])), [0, 0.25, 4])


def planted(directory, num=60, **names):
    """lr decides how far a trial is behind its frontier, k decides L0, and junk decides nothing."""
    lr, k, junk = names.get("lr", "lr"), names.get("k", "k"), names.get("junk", "junk")
    rng = np.random.default_rng(3)
    trials = []
    for number in range(num):
        rate, size = float(10 ** rng.uniform(-4, -2)), int(rng.choice([1, 2, 4, 8, 16]))
        worse = 1 + 6 * abs(math.log10(rate) + 3)  # best at 1e-3
        metrics = {"l0": size * float(1 + 0.01 * rng.random()), "delta_ce": 0.3 * worse / (1 + size)}
        params = {lr: rate, k: size, junk: str(rng.choice(["a", "b"])), "d_sae": 64}
        trials.append(make_trial("topk", number, params=params, metrics=metrics))
    ranges = {lr: {"log": [1e-4, 1e-2]}, k: {"choice": [1, 2, 4, 8, 16]}, junk: {"choice": ["a", "b"]}, "d_sae": 64}
    record = make_sweep(architectures=("topk",), space={"name": "toy", "architectures": {"topk": ranges}})
    return write_sweep(directory, record, trials)


def test_the_planted_parameter_wins(tmp_path):
    data = build_report(planted(tmp_path / "s"), cards=[CARD])
    (found,) = data.cards["importance"]["architectures"]
    assert found["parameters"] == ["lr", "k", "junk"], "what is constant is no hyper-parameter"
    shares = {key: dict(zip(found["parameters"], one["share"], strict=True)) for key, one in found["targets"].items()}
    sure = {
        key: dict(zip(found["parameters"], one["beats_chance"], strict=True)) for key, one in found["targets"].items()
    }
    assert shares["frontier"]["lr"] > 0.6
    assert sure["frontier"]["lr"]
    assert shares["l0"]["k"] > 0.8
    assert sure["l0"]["k"]
    assert all(shares[key]["junk"] < 0.1 for key in shares)
    assert not sure["frontier"]["junk"]
    for one in found["targets"].values():
        assert sum(one["share"]) == pytest.approx(1, abs=1e-3)
        for share, low, high in zip(one["share"], one["low"], one["high"], strict=True):
            assert low - 0.2 <= share <= high + 0.2
    assert build_report(tmp_path / "s", cards=[CARD]).cards == data.cards, "the same numbers every time"
    text = render_page(data, cards=[CARD])
    assert "close to the frontier: lr (" in text
    assert '<th scope="row"' in text


def test_too_few_trials_and_nothing_searched_are_said(tmp_path):
    data = build_report(planted(tmp_path / "few", num=FEWEST - 1), cards=[CARD])
    assert CARD.unavailable(data) == "Importance needs 20 completed trials of an architecture that searches something."
    trials = [make_trial("topk", number, params={"d_sae": 64}) for number in range(FEWEST)]
    data = build_report(write_sweep(tmp_path / "fixed", make_sweep(architectures=("topk",)), trials), cards=[CARD])
    assert data.cards["importance"]["left_out"][0]["reason"] == "no hyper-parameter differs between its trials"
    both = [make_trial(name, n) for name, num in (("topk", FEWEST), ("relu", 3)) for n in range(num)]
    data = build_report(write_sweep(tmp_path / "both", make_sweep(), both), cards=[CARD])
    assert "relu (3 completed trials, fewer than 20)" in render_page(data, cards=[CARD])


def test_of_many_trials_a_fixed_choice_is_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST", 30)
    directory = planted(tmp_path / "s", num=60)
    data = build_report(directory, cards=[CARD])
    assert data.cards["importance"]["architectures"][0]["num_trials"] == 30
    assert build_report(directory, cards=[CARD]).cards == data.cards


def test_axes_follow_the_ranges_and_the_values(tmp_path):
    data = build_report(planted(tmp_path / "s"), cards=[])
    rows = [row for row in data.trials if row.architecture == "topk"]
    lr, k, junk = searched_axes(data.architecture("topk"), rows)
    assert (lr.scale, lr.low, lr.high) == ("log", 1e-4, 1e-2)
    assert lr.place(1e-3) == pytest.approx(0.5)
    assert [text for _, text in lr.ticks()] == ["1.00e-4", "0.01"]
    assert (k.scale, k.choices, k.ordered, k.cells) == ("choice", (1, 2, 4, 8, 16), True, 5)
    assert [k.place(value) for value in (1, 4.0, 16)] == [0.0, 0.5, 1.0]
    assert (junk.choices, junk.ordered) == (("a", "b"), False)
    # without ranges, from the values alone; a value outside of its range widens the axis
    bare = data.architecture("topk").model_copy(update={"ranges": {"lr": {"log": [5e-4, 6e-4]}, "k": {"int": [1, 9]}}})
    lr, k, _ = searched_axes(bare, rows)
    assert lr.low < 5e-4
    assert all(0 <= lr.place(row.params["lr"]) <= 1 for row in rows)
    assert (k.scale, k.low, k.high, k.cells) == ("linear", 1, 16, 16)
    mixed = [rows[0].model_copy(update={"params": {"a": value, "b": 1}}) for value in (True, 1, None, "x")]
    (axis,) = searched_axes(data.architecture("topk"), mixed)
    assert [axis.place(value) for value in axis.choices] == pytest.approx([0, 1 / 3, 2 / 3, 1])
