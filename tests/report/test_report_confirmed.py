"""Cards of a confirmed sweep, against hand calculations and against the statistics that they show."""

from __future__ import annotations

import json
import math

import numpy as np
import plotly.graph_objects as go
import pytest
from synthetic_sweeps import confirmed, make_sweep, make_trial, ordinary, write_confirmation, write_sweep

from vsae_search.frontier import attainment, hypervolumes
from vsae_search.report import build_report
from vsae_search.report.card import Figure, discover
from vsae_search.report.chart import between, steps
from vsae_search.report.families import families
from vsae_search.report.render import render_page, section
from vsae_search.report.replicated import matched_levels, replicates

CARDS = {card.name: card for card in discover()}
OWN = ("verdict", "frontier", "ownership", "difference", "comparison", "matched", "hypervolume", "optimism")


def at(architecture, number, l0, delta_ce, **changes):
    return make_trial(architecture, number, metrics={"l0": l0, "delta_ce": delta_ce}, **changes)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return build_report(confirmed(tmp_path_factory.mktemp("confirmed") / "toy"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return build_report(ordinary(tmp_path_factory.mktemp("plain") / "toy")[0])


@pytest.fixture
def by_hand(tmp_path):
    """Box from (0.5, 0) to (64, 0.5): 7 octaves times 0.5. Two seeds; the second replicate of topk-0001 diverged."""
    trials = [at("topk", 0, 4.0, 0.1), at("topk", 1, 16.0, 0.05), at("relu", 0, 2.0, 0.3), at("relu", 1, 32.0, 0.02)]
    directory = write_sweep(tmp_path / "s", make_sweep(architectures=("topk", "relu")), trials)
    points = {
        "topk-0000": [(4.0, 0.2), (4.0, 0.1)],
        "topk-0001": [(16.0, 0.1), (math.nan, math.nan)],
        "relu-0000": [(2.0, 0.4), (2.0, 0.4)],
        "relu-0001": [(32.0, 0.1), (32.0, 0.1)],
    }
    write_confirmation(directory, points, seeds=(11, 12))
    return build_report(directory)


def text_of(card, data):
    return "".join(str(part) for part in section(CARDS[card], data).parts if not isinstance(part, Figure))


def figures(card, data):
    return [part for part in section(CARDS[card], data).parts if isinstance(part, Figure)]


@pytest.mark.parametrize("name", OWN)
def test_every_card_of_a_confirmed_sweep_draws_valid_figures_with_words_for_them(report, name):
    drawn = section(CARDS[name], report)
    assert drawn.reason is None
    assert drawn.parts
    for figure in figures(name, report):
        go.Figure(figure.spec)  # raises on an unknown attribute or value
        assert len(figure.alt) > 40
        for control in (control for group in figure.controls for control in group):
            assert control.visible is None or len(control.visible) == len(figure.spec["data"])
        assert {trace["type"] for trace in figure.spec["data"]} == {"scatter"}


@pytest.mark.parametrize("name", ["difference", "comparison", "optimism"])
def test_a_card_that_takes_confirmed_runs_names_the_command(plain, name):
    drawn = section(CARDS[name], plain)
    assert drawn.parts == ()
    assert "python -m vsae_search confirm toy" in drawn.reason


def test_hypervolumes_of_seeds_by_hand(by_hand):
    found = {entry["architecture"]: entry for entry in by_hand.cards["comparison"]["scores"]}
    # topk: seed 11 4 x 0.3 + 2 x 0.1 = 1.4, seed 12 (one SAE) 4 x 0.4 = 1.6; relu: 5 x 0.1 + 1 x 0.3 = 0.8 twice
    assert found["topk"]["hypervolume"] == pytest.approx(1.5 / 3.5)
    assert found["relu"]["hypervolume"] == pytest.approx(0.8 / 3.5)
    (row,) = [row for row in by_hand.cards["comparison"]["comparisons"] if row["endpoint"] == "hypervolume"]
    assert {row["a"], row["b"]} == {"topk", "relu"}
    assert abs(row["difference"]) == pytest.approx(0.7 / 3.5)
    assert row["p_value"] is None
    assert "2 seeds" in row["why_no_p"]
    assert "No difference is tested" in text_of("verdict", by_hand)


def test_optimism_by_hand(by_hand):
    gaps = {entry["architecture"]: entry for entry in by_hand.cards["optimism"]["architectures"]}
    # search of relu: 5 x 0.2 + 1 x 0.28 = 1.28; confirmed 0.8 in both seeds
    assert gaps["relu"]["hypervolume"]["gap"] == pytest.approx((1.28 - 0.8) / 3.5)
    assert gaps["relu"]["mean_delta_ce"]["gap"] == pytest.approx(0.16 - 0.25)
    assert gaps["topk"]["num_in_mean"] == 1  # topk-0001 diverged with one seed
    assert gaps["topk"]["mean_delta_ce"]["gap"] == pytest.approx(0.1 - 0.15)


def test_ownership_is_of_confirmed_medians(by_hand):
    found = by_hand.cards["ownership"]
    assert found["basis"] == "confirmed"
    # half of two seeds is one seed: topk attains 0.1 at 4, relu 0.4 at 2 and 0.1 at 32, a tie from there on
    assert [(part["low"], part["high"], list(part["owners"])) for part in found["stretches"]] == [
        (2.0, 4.0, ["relu"]),
        (4.0, 32.0, ["topk"]),
        (32.0, 64.0, ["relu", "topk"]),
    ]
    shares = {entry["architecture"]: entry for entry in found["architectures"]}
    assert shares["topk"]["octaves"] == pytest.approx(4.0)
    assert shares["relu"]["alone_adds"] == pytest.approx(1 * 0.1 / 3.5)


def test_ownership_of_a_search_is_its_own(plain):
    found = plain.cards["ownership"]
    assert found["basis"] == "search"
    assert [tuple(part["owners"]) for part in found["stretches"]] == [part.owners for part in plain.ownership]


def test_ownership_begins_where_the_figures_do(tmp_path):
    """The ideal L0 is 0.5: relu leads below it and on to 1, april only below it."""
    points = (("april", 0.01, 0.45), ("relu", 0.25, 0.4), ("topk", 1.0, 0.1))
    trials = [at(architecture, 0, l0, delta_ce) for architecture, l0, delta_ce in points]
    data = build_report(write_sweep(tmp_path / "s", make_sweep(architectures=("april", "relu", "topk")), trials))
    found = data.cards["ownership"]
    assert [(part["low"], part["high"], *part["owners"]) for part in found["stretches"]] == [
        (0.5, 1.0, "relu"),
        (1.0, 64.0, "topk"),
    ]
    assert found["pooled"] == [[0.5, 0.4], [1.0, 0.1]]
    assert {share["architecture"]: share["octaves"] for share in found["architectures"]} == {
        **{"april": 0.0, "relu": 1.0, "topk": 6.0},
    }
    words = [entry["text"] for entry in data.cards["verdict"]["statements"]]
    assert "relu has the lowest delta-CE at L0 0.5 to 1 (14 % of the octaves of L0 that any frontier reaches)." in words


def test_a_seed_that_the_infrastructure_lost_is_left_out(tmp_path):
    directory, _ = ordinary(tmp_path / "s")
    write_confirmation(directory, {"topk-0000": [(4.0, 0.1)] * 3}, seeds=(1, 2, 3), lost=("topk-0000-r01",))
    data = build_report(directory)
    assert replicates(data)["topk"].seeds == (1, 3)
    assert "1 retraining of the confirmation failed" in text_of("health", data)


def test_bands_are_attained_by_as_many_seeds_as_they_say(report):
    for name, band in report.cards["frontier"]["bands"].items():
        runs = replicates(report)[name].points_RN2
        assert [surface["level"] for surface in band["surfaces"]] == [0.25, 0.5, 0.75]
        for surface in band["surfaces"]:
            corners = np.column_stack([surface["l0"], surface["delta_ce"]])
            assert (attainment(runs, corners) >= surface["num_attaining"] / 6).all()
            assert (attainment(runs, corners - [0, 1e-9]) < surface["num_attaining"] / 6).all()


def test_difference_map_holds_the_difference_of_hypervolumes(report):
    runs, axes = replicates(report), report.axes
    corners = (axes.reference.l0, axes.reference.delta_ce), (axes.ideal.l0, axes.ideal.delta_ce)
    for pair in report.cards["difference"]["pairs"]:
        means = [hypervolumes(runs[pair[side]].points_RN2, corners[0], ideal=corners[1]).mean() for side in "ab"]
        assert pair["favours_a"] - pair["favours_b"] == pytest.approx(means[0] - means[1])
        area = sum(
            level["difference"] * math.log2(right / left) * (high - low)
            for level in pair["levels"]
            for left, low, right, high in level["boxes"]
        )
        assert area / 3.5 == pytest.approx(means[0] - means[1], abs=2e-3)  # the boxes are rounded for drawing


def test_difference_buttons_show_one_pair_each(report):
    (figure,) = figures("difference", report)
    (group,) = figure.controls
    pairs = report.cards["difference"]["pairs"]
    assert [control.label for control in group] == [f"{pair['a']} / {pair['b']}" for pair in pairs]
    assert [trace["visible"] for trace in figure.spec["data"]] == list(group[0].visible)
    assert np.array([control.visible for control in group]).sum(axis=0).tolist() == [1] * len(figure.spec["data"])


def test_six_seeds_that_never_overlap_are_claimed_and_said(report):
    rows = [row for row in report.cards["comparison"]["comparisons"] if row["endpoint"] == "hypervolume"]
    best = report.cards["comparison"]["scores"][0]["architecture"]
    beaten = {row["b"] if row["a"] == best else row["a"] for row in rows if row["winner"] == best}
    assert "vsae_iso" in beaten
    words = text_of("verdict", report)
    assert f"{best} beats" in words
    assert "held-out rows with 6 seeds" in words
    assert "optimistic" not in words
    assert report.cards["verdict"]["basis"] == "confirmed"


def test_the_verdict_of_a_search_says_that_it_is_optimistic(plain):
    words = text_of("verdict", plain)
    assert "scores of the search, and they are optimistic" in words
    assert "python -m vsae_search confirm toy" in words


def test_too_many_pairs_for_the_seeds_leave_those_of_the_best_of_the_search(tmp_path):
    names = tuple(f"a{index}" for index in range(9))  # 36 pairs, of which 6 seeds can carry 23
    rng = np.random.default_rng(0)
    trials = [at(name, 0, 4.0, 0.1 + 0.01 * index) for index, name in enumerate(names)]
    directory = write_sweep(tmp_path / "s", make_sweep(architectures=names), trials)
    points = {t.uid: [(4.0, t.metrics["delta_ce"] + 1e-3 * rng.random()) for _ in range(6)] for t in trials}
    write_confirmation(directory, points)
    data = build_report(directory)
    rows = [row for row in data.cards["comparison"]["comparisons"] if row["endpoint"] == "hypervolume"]
    assert len(rows) == 36
    assert {frozenset((row["a"], row["b"])) for row in rows if row["p_value"] is not None} == {
        frozenset(("a0", name)) for name in names[1:]
    }
    assert all(row["difference"] is not None for row in rows)
    assert "only 8 of 36 pairs are tested" in text_of("verdict", data)


def test_matched_levels_follow_the_subject_and_the_search(report, tmp_path):
    assert matched_levels(report) == (2.0, 4.0, 8.0, 16.0)  # octaves around 2.4 that some search frontier reaches
    trials = [at("topk", 0, 9.0, 0.1), at("topk", 1, 70.0, 0.05)]
    changes = {"subject": {}, "reference": make_sweep().reference.model_copy(update={"l0": 100.0})}
    model = build_report(write_sweep(tmp_path / "s", make_sweep(**changes), trials))
    assert matched_levels(model) == (16.0, 32.0, 64.0)
    values = {row["l0"]: row["mean"] for row in model.cards["matched"]["search"]}
    assert values == {16.0: 0.1, 32.0: 0.1, 64.0: 0.1}


def test_hypervolume_curves_end_where_the_report_does_and_never_fall(plain):
    for curve in plain.cards["hypervolume"]["curves"]:
        assert curve["hypervolume"] == sorted(curve["hypervolume"])
        assert curve["hypervolume"][-1] == pytest.approx(
            plain.architecture(curve["architecture"]).hypervolume.normalised
        )
        assert curve["trials"][-1] == 12
        assert curve["seconds"] == sorted(curve["seconds"])


def test_steps_and_area_between_staircases():
    lower = steps([(1.0, 4.0), (2.0, 3.0)], end=8.0, floor=1.5)
    assert lower == ([1.5, 2.0, 8.0], [4.0, 3.0, 3.0])
    x, y = between(lower, steps([(4.0, 5.0)], end=8.0), top=9.0)
    # area between the two by the shoelace formula: (2-1.5) x (9-4) + (4-2) x (9-3) + (8-4) x (5-3)
    area = 0.5 * abs(sum(x[i - 1] * y[i] - x[i] * y[i - 1] for i in range(len(x))))
    assert area == pytest.approx(0.5 * 5 + 2 * 6 + 4 * 2)
    x, y = between(lower, ([], []), top=9.0)
    assert 0.5 * abs(sum(x[i - 1] * y[i] - x[i] * y[i - 1] for i in range(len(x)))) == pytest.approx(0.5 * 5 + 6 * 6)


def test_many_architectures_are_drawn_by_family(tmp_path):
    names = ("relu", "gated", "topk", "batch_topk", "vsae_iso", "vsae_topk", "pca", "mine")
    assert list(families(names)) == [
        "penalties and thresholds",
        "fixed number of latents",
        "variational",
        "others",
        "controls",
    ]
    assert families(("s/topk", "t/topk")) == {"": ("s/topk", "t/topk")}
    trials = [make_trial(name, number) for name in names for number in range(3)]
    data = build_report(write_sweep(tmp_path / "s", make_sweep(architectures=names), trials))
    drawn = figures("frontier", data)
    assert len(drawn) == 6
    shown = [{trace["name"] for trace in figure.spec["data"]} for figure in drawn]
    assert shown[0] == set(names)
    assert shown[3] == {"vsae_iso", "vsae_topk", "best of the others"}


def test_one_broken_card_loses_neither_tables_nor_page(tmp_path, monkeypatch):
    from vsae_search.report import write_report
    from vsae_search.report.cards import comparison

    def explode(data):
        raise ZeroDivisionError("seventeen")

    monkeypatch.setattr(comparison, "comparisons", explode)
    paths = write_report(confirmed(tmp_path / "s"), tmp_path / "out")
    text = paths.html.read_text(encoding="utf-8")
    assert "ZeroDivisionError: seventeen" in text
    assert "Optimism gap" in text
    names = [path.name for path in paths.tables]
    assert "matched.tex" in names
    assert "comparison.csv" not in names
    assert json.loads(paths.json.read_text())["card_errors"] == {"comparison": "ZeroDivisionError: seventeen"}


def test_an_unfinished_confirmation_is_shown_as_such(tmp_path):
    directory, _ = ordinary(tmp_path / "s")
    write_confirmation(directory, {"topk-0000": []}, status="interrupted")
    data = build_report(directory)
    assert "the confirmation is interrupted and no seed is complete" in section(CARDS["comparison"], data).reason
    assert "Drawing it failed" not in render_page(data)


def test_a_frontier_that_was_confirmed_in_part_is_told_of(tmp_path):
    """Of three frontier trials of topk one lies beyond the reference point, one was trained again; of relu all were."""
    trials = [at("topk", 0, 4.0, 0.1), at("topk", 1, 16.0, 0.05), at("topk", 2, 80.0, 0.01), at("relu", 0, 2.0, 0.3)]
    directory = write_sweep(tmp_path / "s", make_sweep(architectures=("topk", "relu")), trials)
    points = {"topk-0000": [(4.0, 0.2), (4.0, 0.1)], "relu-0000": [(2.0, 0.4), (2.0, 0.4)]}
    write_confirmation(directory, points, seeds=(11, 12))
    told = [
        entry["text"] for entry in build_report(directory).cards["verdict"]["statements"] if entry["kind"] == "in_part"
    ]
    assert told == [
        "Only a part of the frontier was trained again, and the hypervolume is that of the part: topk (1 of 2)."
    ]


def test_a_frontier_that_was_confirmed_as_a_whole_needs_no_word(by_hand):
    assert not [entry for entry in by_hand.cards["verdict"]["statements"] if entry["kind"] == "in_part"]
