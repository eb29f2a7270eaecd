"""The report of a toy experiment: its numbers by hand, and every card drawn from records on disk."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import numpy as np
import pytest
from safetensors.numpy import save_file

from vsae_search.errors import UserInputError
from vsae_search.report import write_report
from vsae_search.report.build import build_report
from vsae_search.report.card import discover
from vsae_search.report.quantiles import band_traces, quartiles
from vsae_search.report.render import sections_of
from vsae_search.report.transition import crossing, peaks, transition_summary
from vsae_search.search.experiment.plan import TOY_FILE, arm_plans, toy_trials
from vsae_search.search.experiment.trial import run_toy_trial
from vsae_search.search.records import SweepRecord, TrialRecord, write_record
from vsae_search.space import ExperimentSpace

RECIPE = {"steps": 60, "batch_size": 32, "lr": 0.02}
PHASE = {
    "type": "phase_transition",
    "num_features": 6,
    "d_hidden": 2,
    "sparsity": [0.2, 0.6, 0.95],
    "recipes": {"well": RECIPE, "single": {**RECIPE, "batch_size": 1, "num_rows": 20, "lr_schedule": "constant"}},
    "seeds": 3,
}
GEOMETRY = {
    "type": "geometry",
    "models": {
        "pairs": {
            "d_hidden": 2,
            "features": {"count": 4, "probability": 0.2, "sets": [{"kind": "correlated", "size": 2, "count": 2}]},
            "recipe": RECIPE,
            "expect": "orthogonal_pairs",
        },
        "neurons": {
            "d_hidden": 3,
            "model": "neuron",
            "features": {"count": 5, "probability": 0.5},
            "recipe": RECIPE,
            "expect": "privileged_basis",
        },
        "plain": {"d_hidden": 3, "features": {"count": 5, "probability": 0.5}, "recipe": RECIPE},
    },
    "seeds": 2,
    "snapshots": 4,
}


def directory_of(root, experiment, *, failing=False):
    """The records of an experiment, as a run of it leaves them."""
    space = ExperimentSpace.model_validate({"name": experiment["type"], "experiment": experiment})
    directory, now = root / space.name, datetime.now(UTC).isoformat()
    for trial in toy_trials(space):
        one, folder = trial.assignment, directory / "trials" / trial.assignment.uid
        folder.mkdir(parents=True)
        outcome = run_toy_trial(trial.setting, one.seed)
        record = TrialRecord(
            **{"uid": one.uid, "architecture": one.architecture, "number": one.number, "params": one.params},
            **{"seed": one.seed, "state": "failed" if failing else outcome.state, "started_at": now, "ended_at": now},
            metrics={} if failing else outcome.metrics,
        )
        if not failing:
            save_file(outcome.arrays, folder / TOY_FILE)
        write_record(folder / "record.json", record)
    record = SweepRecord(
        **{"name": space.name, "digest": space.digest(), "space": space.model_dump(mode="json"), "seed": 0},
        **{"status": "completed", "architectures": arm_plans(space), "started_at": now, "ended_at": now},
    )
    write_record(directory / "sweep.json", record)
    return directory


@pytest.fixture(scope="module")
def phase(tmp_path_factory):
    return directory_of(tmp_path_factory.mktemp("sweeps"), PHASE)


@pytest.fixture(scope="module")
def geometry(tmp_path_factory):
    return directory_of(tmp_path_factory.mktemp("sweeps"), GEOMETRY)


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ([1.0, 1.0, 1.1, 1.5], 0.45),  # half of the way from 0.3 (1.0) to 0.6 (1.1)
        ([1.0, 1.2, 1.0, 1.1], 0.75),  # the last time up counts
        ([1.2, 1.1, 1.3, 1.5], 0.1),  # above everywhere
        ([1.0, 1.2, 1.2, 1.05], None),  # ends at the threshold
        ([1.0, float("nan"), 1.1, 1.5], 0.35),  # from 0.1 to 0.6
        ([float("nan")] * 4, None),
    ],
)
def test_crossing_by_hand(values, place):
    got = crossing([0.1, 0.3, 0.6, 0.9], values, 1.05)
    assert got == (None if place is None else pytest.approx(place))


def test_peaks_by_hand():
    assert peaks([1, 2, 3, 4, 5], [0, 2, 1, 3, 0]) == [2, 4]
    assert peaks([1, 2, 3], [3, 2, 1]) == []
    assert peaks([1, 2, 3], [1, 2, 2]) == []


def test_the_summary_of_a_transition_by_hand():
    values_RP = np.array([[1.0, 1.1], [1.0, 1.2], [0.9, 1.0], [1.1, 1.2]])
    got = transition_summary([0.0, 1.0], values_RP, 1.05)
    assert got["places"] == [pytest.approx(0.5), pytest.approx(0.25), None, 0.0]
    assert (got["seeds"], got["crossed"], got["from_start"]) == (4, 3, 1)
    assert (got["low"], got["median"], got["high"]) == pytest.approx((0.125, 0.25, 0.375))


def test_quartiles_leave_out_what_is_not_finite():
    values_RP = np.array([[1.0, np.nan], [2.0, np.nan], [np.inf, np.nan], [4.0, np.nan], [3.0, np.nan]])
    assert quartiles(values_RP) == {"low": [1.75, None], "median": [2.5, None], "high": [3.25, None]}


def test_the_band_goes_there_and_back():
    band = {"low": [0.0, None, 2.0], "median": [1.0, None, 3.0], "high": [2.0, None, 4.0]}
    area, line = band_traces([1, 2, 3], band, name="<b>", colour="#0072b2", xaxis="x2")
    assert (area["x"], area["y"]) == ([1, 3, 3, 1], [2.0, 4.0, 2.0, 0.0])
    assert area["fillcolor"] == "rgba(0,114,178,0.18)"
    assert (line["y"], line["name"], line["xaxis"]) == ([1.0, None, 3.0], "&lt;b&gt;", "x2")


@pytest.mark.parametrize("kind", ["geometry", "phase_transition"])
def test_every_card_is_drawn(kind, request):
    data = build_report(request.getfixturevalue(kind.removesuffix("_transition")))
    assert data.experiment == kind
    assert data.card_errors == {}
    sections = sections_of(data)
    assert {section.name for section in sections} == {card.name for card in discover(kind)}
    assert [(one.name, one.reason) for one in sections if one.failed or one.reason] == []


def test_the_numbers_of_the_geometry_report_are_those_of_the_trials(geometry):
    cards = build_report(geometry).cards
    pairs, neurons, plain = cards["found"]["rows"]
    assert pairs["losses"] == sorted(pairs["losses"])
    assert (pairs["seeds"], plain["found"], plain["found_seeds"]) == (2, None, None)
    stored = json.loads((geometry / "trials" / neurons["uid"] / "record.json").read_text())
    assert stored["metrics"]["geometry_measured"] == neurons["measured"]
    (row,) = cards["feature_plots"]["rows"]  # the only one in two dimensions
    assert (row["model"], row["sets"]) == ("pairs", [0, 0, 1, 1])
    product = np.array(cards["products"]["rows"][0]["matrix"])
    W_2M = np.array(row["seeds"][0]["W"])
    np.testing.assert_allclose(product, W_2M.T @ W_2M, atol=2e-3)
    assert [one["model"] for one in cards["neurons"]["rows"]] == ["neurons"]
    phi = np.array(cards["correlations"]["rows"][0]["matrix"])
    assert phi[0, 1] == pytest.approx(1, abs=1e-3)  # always together
    assert abs(phi[0, 2]) < 0.02


def test_the_numbers_of_the_phase_report_are_the_quartiles_of_the_trials(phase):
    data = build_report(phase)
    own = [
        row.metrics["toy_fvu"] for row in data.trials if row.architecture == "well" and row.params["sparsity"] == 0.6
    ]
    assert len(own) == 3
    assert data.cards["phase"]["recipes"]["well"]["toy_fvu"]["median"][1] == pytest.approx(np.median(own))
    assert data.cards["transition"]["recipes"]["well"]["seeds"] == 3
    assert np.shape(data.cards["peaks"]["recipes"]["single"]["seeds"]) == (3, 3)


def test_the_page_and_its_files_are_written(phase, tmp_path):
    paths = write_report(phase, tmp_path / "out")
    page = paths.html.read_text()
    assert "Toy experiment" in page
    assert "Pareto" not in page.partition("<script")[0]
    assert {path.name for path in paths.figures} == {"phase.svg", "peaks.svg"}
    assert {path.stem for path in paths.tables} == {"trials"}


def test_an_experiment_without_a_completed_trial_says_so(tmp_path):
    small = {**GEOMETRY, "seeds": 1}
    sections = sections_of(build_report(directory_of(tmp_path, small, failing=True)))
    reasons = {section.name: section.reason for section in sections if section.name != "provenance"}
    assert set(reasons.values()) == {"No toy model has been trained to its end."}


def test_experiments_are_not_compared(phase, geometry, tmp_path):
    with pytest.raises(UserInputError, match="cannot be compared"):
        write_report([phase, geometry], tmp_path)


def test_damaged_weights_cost_their_cards_only(tmp_path):
    directory = directory_of(tmp_path, {**GEOMETRY, "seeds": 1})
    next(directory.glob(f"trials/pairs-0000/{TOY_FILE}")).write_bytes(b"torn")
    data = build_report(directory)
    assert "damaged" in data.card_errors["found"]
    assert len(sections_of(data)) == len(discover("geometry"))
