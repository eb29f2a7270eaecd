from __future__ import annotations

import json
import math

import pytest
from jsonschema import Draft202012Validator
from synthetic_sweeps import CURVES, TRUE_L0, make_sweep, make_trial, ordinary, write_runs, write_sweep

from vsae_search.errors import UserInputError
from vsae_search.report import ReportData, build_report, report_schema
from vsae_search.report.render import render_page
from vsae_search.search.records import ArchitecturePlan, ReferenceRecord


def point(architecture, number, l0, delta_ce, **changes):
    return make_trial(architecture, number, metrics={"l0": l0, "delta_ce": delta_ce}, **changes)


@pytest.fixture
def by_hand(tmp_path):
    """Reference (64, 0.5), true L0 2.4, hence ideal (0.5, 0): a box of 7 octaves times 0.5."""
    trials = [
        point("topk", 0, 4.0, 0.1),
        point("topk", 1, 8.0, 0.2),  # dominated
        point("topk", 2, 16.0, 0.05),
        point("relu", 0, 2.0, 0.3),
        point("relu", 1, 32.0, 0.02),
        point("relu", 2, 1.0, 0.6),  # outside
        point("relu", 3, 1.0, 0.01, state="stopped"),  # would win, but had a smaller budget
        point("relu", 4, math.nan, 0.0),
        point("relu", 5, 1.0, 0.01, state="diverged"),
    ]
    return build_report(write_sweep(tmp_path / "s", make_sweep(architectures=("topk", "relu")), trials))


def test_frontiers_hold_completed_finite_trials_only(by_hand):
    assert by_hand.architecture("topk").frontier == ("topk-0000", "topk-0002")
    assert by_hand.architecture("relu").frontier == ("relu-0002", "relu-0000", "relu-0001")
    assert by_hand.architecture("relu").staircase.l0 == (1.0, 2.0, 32.0)
    assert by_hand.architecture("relu").num_non_finite == 1
    assert by_hand.architecture("relu").states == {"completed": 4, "diverged": 1, "stopped": 1}
    assert by_hand.trial("relu-0004").metrics["l0"] is None


def test_hypervolume_by_hand(by_hand):
    # topk: 4 octaves x 0.4 + 2 octaves x 0.05 = 1.7; relu: 5 x 0.2 + 1 x 0.28 = 1.28, the outside point adds nothing
    assert by_hand.axes.ideal is not None
    assert (by_hand.axes.ideal.l0, by_hand.axes.ideal.delta_ce) == (0.5, 0.0)
    topk, relu = (by_hand.architecture(name).hypervolume for name in ("topk", "relu"))
    assert topk.value == pytest.approx(1.7)
    assert relu.value == pytest.approx(1.28)
    assert topk.normalised == pytest.approx(1.7 / 3.5)
    assert relu.num_outside == 1
    # pooled: (2, 0.3), (4, 0.1), (16, 0.05), (32, 0.02)
    assert by_hand.pooled_hypervolume.value == pytest.approx(5 * 0.2 + 4 * 0.2 + 2 * 0.05 + 1 * 0.03)


def test_ownership_and_pooled_flags(by_hand):
    assert [(part.low, part.high, part.owners) for part in by_hand.ownership] == [
        (2.0, 4.0, ("relu",)),
        (4.0, 32.0, ("topk",)),
        (32.0, 64.0, ("relu",)),
    ]
    pooled = {row.uid for row in by_hand.trials if row.on_pooled_frontier}
    assert pooled == {"relu-0002", "relu-0000", "topk-0000", "topk-0002", "relu-0001"}
    assert [row.uid for row in by_hand.trials if row.outside_reference] == ["relu-0002"]


def test_json_is_valid_finite_and_matches_its_schema(tmp_path):
    data = build_report(ordinary(tmp_path / "s")[0])
    text = data.model_dump_json()
    assert "NaN" not in text
    assert "Infinity" not in text
    schema = report_schema()
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(json.loads(text))
    assert ReportData.model_validate_json(text).model_dump_json() == text


def test_same_directory_same_report(tmp_path):
    directory, _ = ordinary(tmp_path / "s")
    assert build_report(directory).model_dump_json() == build_report(directory).model_dump_json()


@pytest.mark.parametrize("status", ["running", "completed"])
def test_empty_sweep(tmp_path, status):
    data = build_report(write_sweep(tmp_path / "s", make_sweep(status=status), []))
    assert data.trials == ()
    assert data.ownership == ()
    assert all(entry.frontier == () and entry.hypervolume.value == 0 for entry in data.architectures)
    assert data.card_errors == {}


@pytest.mark.parametrize("reference", [None, ReferenceRecord(l0=math.nan, delta_ce=1, source="measured")])
def test_without_a_usable_reference_there_is_no_hypervolume(tmp_path, reference):
    data = build_report(write_sweep(tmp_path / "s", make_sweep(reference=reference), [make_trial("topk", 0)]))
    assert data.axes.reference is None
    assert data.architecture("topk").hypervolume is None
    assert data.architecture("topk").frontier == ("topk-0000",)
    assert "reference" in {finding["check"] for finding in data.cards["health"]["findings"]}


def test_architecture_missing_from_the_plan_still_appears(tmp_path):
    record = make_sweep(architectures=("relu",))
    data = build_report(write_sweep(tmp_path / "s", record, [make_trial("topk", 0), make_trial("relu", 0)]))
    assert [entry.name for entry in data.architectures] == ["relu", "topk"]
    assert data.architecture("topk").planned is None


def test_d_sae_comes_from_the_stored_sae_when_it_is_a_default(tmp_path):
    trial = make_trial("topk", 0, params={"k": 4})
    directory = write_sweep(tmp_path / "s", make_sweep(), [trial, make_trial("topk", 1, params={})])
    sae = directory / "trials" / trial.uid / "sae.json"
    sae.write_text(json.dumps({"architecture": "topk", "config": {"d_sae": 96}}), encoding="utf-8")
    data = build_report(directory)
    assert data.trial("topk-0000").d_sae == 96
    assert data.trial("topk-0001").d_sae is None


def test_run_links(tmp_path):
    directory, trials = ordinary(tmp_path / "s")
    write_runs(directory, trials, address="https://user:pw@mlflow.example:8443/base/")
    url = build_report(directory).trials[0].run_url
    assert url is not None
    assert url.startswith("https://mlflow.example:8443/base/#/experiments/1/runs/0000")
    other = build_report(directory, tracking_url="http://127.0.0.1:5000").trials[0].run_url
    assert other is not None
    assert other.startswith("http://127.0.0.1:5000/#/experiments/1/runs/")
    assert all(row.run_url is None for row in build_report(directory, tracking_url="javascript:alert(1)").trials)


def test_secrets_are_masked_everywhere(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_canary_token")
    uri = "postgresql://me:canary_pw@db/x"
    record = make_sweep(description=f"at {uri}", space={"tracking": {"uri": uri}}, bank={"from": uri})
    trial = make_trial("topk", 0, state="failed", error=f"cannot reach {uri} with hf_canary_token", params={"a": uri})
    data = build_report(write_sweep(tmp_path / "s", record, [trial], space_yaml=f"tracking: {{uri: '{uri}'}}\n"))
    text = data.model_dump_json()
    assert "canary_pw" not in text
    assert "hf_canary_token" not in text
    assert "@db/x" in text


def test_how_busy_the_machines_were_is_told(tmp_path):
    used = {"cpu_planned": 1.0, "gpu_planned": None, "cpu_training": 0.61, "cpu_busy": 0.874, "wall_s": 3.0}
    stopping = {"on": True, "stopped": 3, "false_stop_rate": 0.25}
    resources = {"cpus_per_trial": 1.0, "shares": {"default": {"cpus": 1.0, "threads": 1}}}
    sweep = make_sweep(utilisation=used, early_stopping=stopping, resources=resources)
    data = build_report(write_sweep(tmp_path / "s", sweep, [make_trial("topk", 0)]))
    page = render_page(data)
    assert "<dd>CPU planned 100 %, CPU training 61 %, CPU busy 87 % (last session)</dd>" in page
    assert "<dd>on yes, stopped 3, false_stop_rate 0.25</dd>" in page
    assert "<dd>cpus_per_trial 1, shares (default (cpus 1, threads 1))</dd>" in page
    plain = build_report(write_sweep(tmp_path / "plain", make_sweep(), [make_trial("topk", 0)]))
    assert "<dt>utilisation</dt><dd>not recorded</dd>" in "".join(render_page(plain).split("\n"))


def test_missing_sweep_is_a_user_error(tmp_path):
    with pytest.raises(UserInputError):
        build_report(tmp_path)


def texts(data, card, kind_key, kind):
    key = "statements" if card == "verdict" else "findings"
    return [entry["text"] for entry in data.cards[card][key] if entry[kind_key] == kind]


def test_verdict_sentences(by_hand):
    order = texts(by_hand, "verdict", "kind", "order")
    assert order == [
        "topk has the largest hypervolume: it dominates 49 % of the reference box, followed by relu (37 %)."
    ]
    ranges = texts(by_hand, "verdict", "kind", "range")
    assert ranges[0].startswith("topk has the lowest delta-CE at L0 4 to 32 (60 % of the octaves")
    assert ranges[1].startswith("relu has the lowest delta-CE at L0 2 to 4 and 32 to 64 (40 %")
    assert "one seed" in by_hand.cards["verdict"]["caution"]


def test_never_sparse_rule(tmp_path):
    trials = [point("vsae_iso", 0, 21.3, 0.1), point("vsae_iso", 1, 40.0, 0.05), point("topk", 0, 4.0, 0.1)]
    data = build_report(write_sweep(tmp_path / "s", make_sweep(), trials))
    assert texts(data, "verdict", "kind", "not_sparse") == [
        "vsae_iso does not become sparse: its sparsest frontier SAE still fires 21.3 of 64 latents per token (33 %), "
        "true L0 is 2.4."
    ]


@pytest.mark.parametrize(
    ("l0", "d_sae", "true_l0", "dense"),
    [
        (12.8, 64, None, True),  # exactly a fifth
        (12.7, 64, None, False),
        (1.0, 5, 1.0, False),  # a fifth, but exactly the true number
        (2.0, 5, 1.0, True),
        (30.0, 64, 20.0, False),
        (30.0, None, None, False),
    ],
)
def test_is_dense(tmp_path, l0, d_sae, true_l0, dense):
    from vsae_search.report.cards.verdict import is_dense

    trial = point("relu", 0, l0, 0.1, params={"d_sae": d_sae} if d_sae else {})
    data = build_report(write_sweep(tmp_path / "s", make_sweep(), [trial]))
    assert is_dense(data.trials[0], true_l0) is dense


def test_recovery_names_the_trial_nearest_to_the_true_l0(tmp_path):
    trials = [
        make_trial("topk", 0, metrics={"l0": 2.5, "delta_ce": 0.2, "mmcs": 0.95, "null_mmcs": 0.4}),
        make_trial("topk", 1, metrics={"l0": 1.0, "delta_ce": 0.3, "mmcs": 0.5}),
        make_trial("relu", 0, metrics={"l0": 20.0, "delta_ce": 0.2, "mmcs": 0.7, "recovered_fraction": 0.25}),
        make_trial("april", 0, metrics={"l0": 0.0, "delta_ce": 0.4, "mmcs": 0.1}),
    ]
    data = build_report(write_sweep(tmp_path / "s", make_sweep(), trials))
    assert texts(data, "verdict", "kind", "recovery") == [
        f"Nearest to the true L0 of {TRUE_L0}, topk (trial topk-0000, L0 2.5) reaches MMCS 0.95 "
        "(random dictionary: 0.4).",
        f"relu has no frontier trial within an octave of the true L0 of {TRUE_L0}; its nearest one "
        "(trial relu-0000, L0 20) reaches MMCS 0.7 and recovers 25 % of the features.",
    ]


def test_health_checks(tmp_path):
    data = build_report(ordinary(tmp_path / "s")[0])
    found = {(entry["check"], entry["architecture"]) for entry in data.cards["health"]["findings"]}
    assert {
        ("failed", "topk"),
        ("diverged", "relu"),
        ("non_finite", "april"),
        ("outside_reference", "april"),
        ("seeds", None),
    } <= found
    assert ("non_finite", "topk") not in found
    levels = [entry["level"] for entry in data.cards["health"]["findings"]]
    assert levels == sorted(levels, key=("alarm", "warning", "note").index)


def test_health_does_not_call_a_refused_trial_non_finite(tmp_path):
    def told(name, *errors):
        trials = [make_trial("relu", i, state="diverged", metrics={}, error=error) for i, error in enumerate(errors)]
        data = build_report(write_sweep(tmp_path / name, make_sweep(architectures=("relu",)), trials))
        return texts(data, "health", "check", "diverged")

    assert told("refused", "refused: k is too large") == [
        "relu: 1 trial diverged (refused with these hyper-parameters): 1 x refused: k is too large."
    ]
    assert told("both", "refused: k", "nan")[0].startswith("relu: 2 trials diverged (non-finite, out of memory or refu")
    assert told("neither", "nan")[0].startswith("relu: 1 trial diverged (non-finite or out of memory)")


def test_health_says_that_an_architecture_was_given_up(tmp_path):
    plans = {name: ArchitecturePlan(trials=12, startup=5) for name in ("relu", "topk")}
    plans["relu"] = ArchitecturePlan(trials=12, startup=5, given_up_after=5)
    record = make_sweep(architectures=tuple(plans)).model_copy(update={"architectures": plans})
    trials = [make_trial("relu", number, state="diverged", metrics={}, error="nan") for number in range(5)]
    data = build_report(write_sweep(tmp_path / "s", record, trials))
    assert texts(data, "health", "check", "given_up") == [
        "relu: given up after 5 trials, none of which was completed; 7 trials of its budget not run."
    ]


def test_health_budgets_few_points_dead_latents_and_status(tmp_path):
    plans = {"topk": ArchitecturePlan(trials=12, startup=5), "relu": ArchitecturePlan(trials=24, startup=5)}
    dead = {"l0": 4.0, "delta_ce": 0.1, "dead_fraction": 0.8}
    record = make_sweep(architectures=tuple(plans), status="interrupted").model_copy(update={"architectures": plans})
    data = build_report(write_sweep(tmp_path / "s", record, [make_trial("topk", 0, metrics=dead)]))
    found = {(entry["check"], entry["level"]) for entry in data.cards["health"]["findings"]}
    assert {("budget", "warning"), ("few_points", "warning"), ("dead_latents", "alarm"), ("status", "warning")} <= found
    assert "35 planned trials had not ended" in data.cards["verdict"]["caution"]


def test_health_reports_range_edges(tmp_path):
    trials = [
        make_trial("topk", n, params={"lr": 0.0099, "k": n}, metrics={"l0": 2.0 + n, "delta_ce": 0.3 - n / 50})
        for n in range(6)
    ]
    data = build_report(write_sweep(tmp_path / "s", make_sweep(architectures=("topk",)), trials))
    assert texts(data, "health", "check", "range_edge") == [
        "topk: 6 of 6 frontier trials lie at the upper end of lr (0.01); a wider range may hold better ones."
    ]


@pytest.mark.parametrize(
    ("spelled", "values", "hits"),
    [
        ({"log": [1e-4, 1e-2]}, [1e-4, 1.2e-4, 1.3e-4, 5e-3, 0.9e-2], (2, 1)),  # 5 % of two decades is a factor 1.26
        ({"uniform": [0.0, 1.0]}, [0.04, 0.06, 0.96, None, "x", True], (1, 1)),
        ({"int": [1, 101]}, [1, 6, 7, 100], (2, 1)),
        ({"choice": [1, 2]}, [1, 2], None),
        (64, [64], None),
    ],
)
def test_edge_hits(spelled, values, hits):
    from vsae_search.report.cards.health import edge_hits

    found = edge_hits(spelled, values)
    assert ([count for _, _, count in found] or None) == (list(hits) if hits else None)


def test_every_architecture_is_judged(tmp_path):
    data = build_report(ordinary(tmp_path / "s")[0])
    judged = {entry["architecture"] for entry in data.cards["verdict"]["statements"]}
    assert set(CURVES) <= judged
