"""Several sweeps in one report."""

from __future__ import annotations

import json

import numpy as np
import pytest
from synthetic_sweeps import (
    confirmed,
    make_sweep,
    make_trial,
    ordinary,
    write_confirmation,
    write_runs,
    write_sweep,
)

from vsae_search.cli._options import Output
from vsae_search.cli.report import comparison_name, report
from vsae_search.errors import UserInputError
from vsae_search.report import build_report
from vsae_search.report.render import render_page
from vsae_search.search.records import ReferenceRecord, SweepRecord, read_record, write_record


def renamed(directory, name):
    record = read_record(directory / "sweep.json", SweepRecord)
    write_record(directory / "sweep.json", record.model_copy(update={"name": name, "seed": 8}))
    return directory


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    root = tmp_path_factory.mktemp("several")
    return confirmed(root / "toy"), renamed(confirmed(root / "other"), "other")


def test_architectures_carry_the_name_of_their_sweep(pair):
    data = build_report(pair)
    assert not data.card_errors
    names = [entry.name for entry in data.architectures]
    assert names == [f"{sweep}/{one}" for sweep in ("toy", "other") for one in ("relu", "topk", "april", "vsae_iso")]
    assert [part.seed for part in data.sweeps] == [7, 8]
    single = build_report(pair[0])
    for entry in single.architectures:
        for sweep in ("toy", "other"):  # the numbers are those of the sweep's own report
            assert data.architecture(f"{sweep}/{entry.name}").hypervolume == entry.hypervolume
            assert data.architecture(f"{sweep}/{entry.name}").planned == 12
    assert len({(entry.colour, entry.symbol) for entry in data.architectures}) == 8
    assert data.provenance.command.splitlines() == [
        "python -m vsae_search sweep toy.yaml",
        "python -m vsae_search sweep other.yaml",
    ]
    assert "other/sweep.json" in data.provenance.checksums


def test_an_architecture_against_itself_in_another_sweep_is_no_difference(pair):
    data = build_report(pair)
    tested = [row for row in data.cards["comparison"]["comparisons"] if row["p_value"] is not None]
    assert {(row["a"], row["b"]) for row in tested} == {
        (f"toy/{name}", f"other/{name}") for name in ("relu", "topk", "april", "vsae_iso")
    }
    assert not any(row["significant"] for row in tested)  # both sweeps hold the same numbers
    assert "Drawing it failed" not in render_page(data)


def searched(directory, first, factor):
    """A sweep of topk whose trials and confirmed runs all have a delta_ce ``factor`` times what the curve says."""
    trials = [make_trial("topk", number) for number in range(first, first + 12)]
    metrics = [{**trial.metrics, "delta_ce": factor * trial.metrics["delta_ce"]} for trial in trials]
    trials = [trial.model_copy(update={"metrics": own}) for trial, own in zip(trials, metrics, strict=True)]
    write_sweep(directory, make_sweep(name=directory.name, architectures=("topk",)), trials)
    best = sorted(trials, key=lambda trial: trial.metrics["delta_ce"] * trial.metrics["l0"])[:3]
    points = {
        trial.uid: [(trial.metrics["l0"], trial.metrics["delta_ce"] * (1 + seed / 500)) for seed in range(6)]
        for trial in best
    }
    write_confirmation(directory, points)
    return directory


def test_what_another_seed_of_the_search_explains_is_not_claimed(tmp_path, monkeypatch):
    first, lucky, worse = (
        searched(tmp_path / name, start, factor) for name, start, factor in (("a", 0, 1), ("b", 12, 1), ("c", 24, 6))
    )

    def claims(*sweeps):
        return [row for row in build_report(sweeps).cards["comparison"]["comparisons"] if row["significant"]]

    assert not claims(first, lucky)
    assert {row["winner"] for row in claims(first, worse)} == {"a/topk"}
    # training alone varies so little that what the two searches happened to find looks like a difference
    monkeypatch.setattr("vsae_search.report.statistics.search_p", lambda *_, l0s, **__: np.full(1 + len(l0s), 0.001))
    assert claims(first, lucky)


def test_d_sae_and_runs_are_found_in_the_sweep_of_the_trial(tmp_path):
    first, trials = ordinary(tmp_path / "toy")
    second = write_sweep(tmp_path / "other", make_sweep("other"), trials)
    write_runs(second, trials, address="https://mlflow.example")
    data = build_report([first, second])
    assert data.trial("toy/relu-0000").run_url is None
    assert data.trial("other/relu-0000").run_url.startswith("https://mlflow.example/#/experiments/1/runs/")
    assert data.trial("other/relu-0000").d_sae == 64


def test_the_reference_point_is_the_larger_one_in_each_coordinate(tmp_path):
    trial = [make_trial("topk", 0)]
    first = write_sweep(tmp_path / "a", make_sweep("a"), trial)
    changes = {"reference": ReferenceRecord(l0=32, delta_ce=0.9, source="given")}
    second = write_sweep(tmp_path / "b", make_sweep("b", **changes), trial)
    data = build_report([first, second])
    assert (data.axes.reference.l0, data.axes.reference.delta_ce) == (64, 0.9)
    assert data.sweeps[1].reference.delta_ce == 0.9


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"subject": {"kind": "toy_model", "true_l0": 2.4, "digest": "xyz"}}, "subject digest"),
        ({"subject": {"kind": "language_model", "digest": "abc"}}, "subject kind"),
        ({"bank": {"evaluation_digest": "22"}}, "evaluation digest 11 in a, 22 in b"),
        ({"loss_unit": "nats"}, "unit squared error in a, nats in b"),
    ],
)
def test_sweeps_on_different_activations_are_refused_by_name_of_the_difference(tmp_path, changes, named):
    base = {"subject": {"kind": "toy_model", "true_l0": 2.4, "digest": "abc"}, "bank": {"evaluation_digest": "11"}}
    first = write_sweep(tmp_path / "a", make_sweep("a", **base), [])
    second = write_sweep(tmp_path / "b", make_sweep("b", **{**base, **changes}), [])
    with pytest.raises(UserInputError, match="a and b cannot be compared") as caught:
        build_report([first, second])
    assert named in str(caught.value)


def test_the_same_sweep_twice_is_refused(pair):
    with pytest.raises(UserInputError, match="given twice"):
        build_report([pair[0], pair[0]])


def test_the_command_writes_one_report_for_several_sweeps(pair, tmp_path, capsys):
    report(["toy", "other"], root=pair[0].parent, reports=tmp_path / "reports", output=Output.JSON)
    written = json.loads(capsys.readouterr().out)
    assert written["html"] == str(tmp_path / "reports" / "toy+other" / "report.html")
    assert "toy/topk" in (tmp_path / "reports" / "toy+other" / "tables" / "matched.csv").read_text()


def test_the_folder_of_many_sweeps_has_a_bearable_name():
    assert comparison_name(["toy"]) == "toy"
    assert (
        comparison_name([f"sweep-with-a-long-name-{index}" for index in range(9)]) == "sweep-with-a-long-name-0+8-more"
    )
