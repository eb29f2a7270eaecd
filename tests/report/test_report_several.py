"""Several sweeps in one report."""

from __future__ import annotations

import json

import pytest
from synthetic_sweeps import confirmed, make_sweep, make_trial, ordinary, write_runs, write_sweep

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
