"""Early stopping: the rule by hand, against brute force, and in whole sweeps."""

from __future__ import annotations

import math

import numpy as np
import optuna
import pytest
from search_helpers import tiny_space

from vsae_search.report.build import build_report
from vsae_search.search import load_sweep, run_sweep
from vsae_search.search.objectives import Objectives
from vsae_search.search.records import RungRecord, TrialRecord, write_record
from vsae_search.search.resources.cluster import connected
from vsae_search.search.stopping.halving import Halving, Rule, crowding_distances, front_ranks, stopped_early
from vsae_search.search.stopping.scheduler import EarlyStopping, ParetoHalving, audit_summary, is_audited
from vsae_search.search.store.ledger import AUDIT_FILE, Ledger
from vsae_search.search.trial import CHECKPOINT_FOLDER, PARTIAL_FILE
from vsae_search.space import ResourcesSpec

OBJECTIVES = Objectives(l0=1024.0, delta_ce=1.0)


def dominates(a, b):
    return a[0] <= b[0] and a[1] <= b[1] and a != b


def peeled(points):
    """Fronts by their definition: take away what nothing dominates, again and again."""
    ranks, left, rank = {}, set(range(len(points))), 0
    while left:
        front = {i for i in left if not any(dominates(points[j], points[i]) for j in left)}
        ranks |= dict.fromkeys(front, rank)
        left, rank = left - front, rank + 1
    return [ranks[i] for i in range(len(points))]


@pytest.mark.parametrize("levels", [3, 6, 1000])
def test_fronts_are_those_of_the_definition(levels):
    random = np.random.default_rng(levels)
    for count in (1, 2, 7, 40):
        points = [tuple(map(float, row)) for row in random.integers(0, levels, (count, 2))]  # few levels: many equals
        assert front_ranks(points) == peeled(points)
    assert front_ranks([]) == []


def test_crowding_is_the_gap_between_the_neighbours_on_a_front():
    # one front: 0, 1, 5, 6 in log2 L0; another one of a single point
    points = [(5.0, 1.0), (0.0, 4.0), (6.0, 0.0), (1.0, 2.0), (6.0, 5.0)]
    ranks = front_ranks(points)
    assert ranks == [0, 0, 0, 0, 1]
    assert crowding_distances(points, ranks) == [5.0, math.inf, math.inf, 5.0, math.inf]
    equal = [(5.0, 1.0), (0.0, 4.0), (5.0, 1.0), (0.0, 4.0), (1.0, 2.0)]
    assert crowding_distances(equal, front_ranks(equal)) == [math.inf, math.inf, 0.0, 0.0, 5.0]


CHAIN = [(float(i), float(i)) for i in range(9)]
"""Every point dominates those after it."""


@pytest.mark.parametrize(("newcomer", "kept"), [(-1.0, True), (2.5, True), (3.5, True), (4.5, False), (9.0, False)])
def test_the_best_part_goes_on(newcomer, kept):
    """Ten results: five go on with eta 2, four with eta 3, and the ends of both rules lie on different sides of 3.5."""
    rule = Rule(eta=2.0, min_results=4)
    assert rule.keeps((newcomer, newcomer), CHAIN) is kept
    assert Rule(eta=3.0, min_results=4).keeps((newcomer, newcomer), CHAIN) is (newcomer < 3)  # 0, 1, 2, newcomer


def test_nothing_stops_before_there_is_enough_to_compare_with():
    rule = Rule(eta=2.0, min_results=4)
    assert rule.keeps((9.0, 9.0), CHAIN[:2])
    assert not rule.keeps((9.0, 9.0), CHAIN[:3])
    assert Rule.of(tiny_space()).min_results == 4
    search = {"trials": 4, "eta": 3.5}
    assert Rule.of(tiny_space(search=search)).min_results == 7


FRONT = [(0.0, 6.0), (1.0, 5.0), (4.0, 2.0), (5.0, 1.0), (6.0, 0.0)]


def test_a_trial_that_nothing_dominates_goes_on_unless_the_rule_says_otherwise():
    newcomer = (4.5, 1.5)
    assert Rule(min_results=4).keeps(newcomer, FRONT)
    assert not Rule(min_results=4, spare_front=False).keeps(newcomer, FRONT)


@pytest.mark.parametrize(("newcomer", "kept"), [((2.5, 3.5), True), ((4.5, 1.5), False), ((7.0, -1.0), True)])
def test_within_a_front_gaps_and_ends_go_on(newcomer, kept):
    """Six on one front, three go on: both ends, and the one with the widest gap around it."""
    assert Rule(min_results=4, spare_front=False).keeps(newcomer, FRONT) is kept


def test_among_equals_the_first_one_goes_on():
    equal = [(1.0, 1.0)] * 5
    assert not Rule(min_results=4, spare_front=False).keeps((1.0, 1.0), equal)


def record(uid, points, *, state="stopped", **changes) -> TrialRecord:
    """A trial with these (L0, delta-CE) at rungs 1/4, 1/2, 1."""
    fractions = (0.25, 0.5, 1.0)
    rungs = tuple(
        RungRecord(index=i, fraction=fractions[i], step=1, tokens=1, metrics={"l0": l0, "delta_ce": delta})
        for i, (l0, delta) in enumerate(points)
    )
    metrics = rungs[-1].metrics if rungs and state in ("stopped", "completed") else {}
    name, number = uid.rsplit("-", 1)
    return TrialRecord(
        uid=uid,
        architecture=name,
        number=int(number),
        params={},
        seed=0,
        state=state,
        rungs=rungs,
        metrics=metrics,
        **changes,
    )


def worse_and_worse(name, count, rungs=2):
    """Trials of which each dominates the next, at every rung."""
    return [record(f"{name}-{i:04d}", [(2.0 + i, 0.1 + i / 100)] * rungs) for i in range(count)]


def test_architectures_are_not_compared_with_each_other():
    halving = Halving(Rule(), OBJECTIVES)
    halving.remember(worse_and_worse("topk", 6))
    assert halving.stops(record("topk-0009", [(50.0, 0.5), (50.0, 0.5)]))
    assert not halving.stops(record("relu-0000", [(50.0, 0.5), (50.0, 0.5)]))


def test_every_rung_has_results_of_its_own():
    halving = Halving(Rule(), OBJECTIVES)
    halving.remember(worse_and_worse("topk", 6, rungs=1))
    assert halving.stops(record("topk-0008", [(50.0, 0.5)]))
    assert not halving.stops(record("topk-0009", [(50.0, 0.5), (50.0, 0.5)]))  # the second rung knows nobody else
    assert set(halving.results("topk", 1)) == {"topk-0009"}
    assert "topk-0009" in halving.results("topk", 0)


def test_the_grace_lasts_until_its_fraction_and_the_end_never_decides():
    rule = Rule(grace=0.5)
    assert [rule.decides_at(fraction) for fraction in (0.25, 0.49, 0.5, 0.75, 1.0)] == [False, False, True, True, False]
    halving = Halving(rule, OBJECTIVES)
    halving.remember(worse_and_worse("topk", 6))
    bad = [(50.0, 0.5)]
    assert not halving.stops(record("topk-0009", bad))
    assert halving.stops(record("topk-0009", bad * 2))


@pytest.mark.parametrize(
    ("asked", "warm_up", "grace"), [(0.5, 0.05, 0.5), (0.0, 0.05, 0.1), (0.2, 0.3, 0.6), (0.0, 0.9, 1.0)]
)
def test_the_grace_is_longer_than_the_warm_up_of_the_penalty(asked, warm_up, grace):
    training = {"num_tokens": 2048, "batch_size": 128, "penalty_warmup_fraction": warm_up}
    space = tiny_space(training=training, search={"trials": 4, "grace_fraction": asked})
    assert Rule.of(space).grace == pytest.approx(grace)


def test_a_trial_that_reports_a_rung_again_counts_once():
    halving = Halving(Rule(min_results=4), OBJECTIVES)
    halving.remember(worse_and_worse("topk", 3))
    again = record("topk-0002", [(4.0, 0.12)] * 2)
    assert not halving.stops(again)  # three results, the trial's own among them
    assert len(halving.results("topk", 1)) == 3


def test_what_is_not_finite_is_not_compared():
    halving = Halving(Rule(), OBJECTIVES)
    halving.remember(worse_and_worse("topk", 6))
    assert not halving.stops(record("topk-0009", [(math.nan, 0.5)]))
    assert not halving.stops(record("topk-0010", []))
    assert len(halving.results("topk", 0)) == 6


def test_the_audit_is_a_fixed_draw():
    uids = [f"topk-{i:04d}" for i in range(2000)]
    drawn = [uid for uid in uids if is_audited(3, uid, 0.1)]
    assert 150 < len(drawn) < 250
    assert drawn == [uid for uid in uids if is_audited(3, uid, 0.1)]
    assert set(drawn) < {uid for uid in uids if is_audited(3, uid, 0.3)}
    assert drawn != [uid for uid in uids if is_audited(4, uid, 0.1)]
    assert not any(is_audited(3, uid, 0.0) for uid in uids)
    assert all(is_audited(3, uid, 1.0) for uid in uids)


def test_false_stops_are_audited_trials_on_the_frontier_of_their_architecture():
    done = {"state": "completed"}
    records = [
        record("topk-0000", [(9.0, 0.9), (8.0, 0.5), (8.0, 0.2)], **done),
        record("topk-0001", [(9.0, 0.9), (9.0, 0.6), (4.0, 0.4)], **done, audited_rung=1),  # ended on the frontier
        record("topk-0002", [(9.0, 0.9), (9.0, 0.6), (9.0, 0.3)], **done, audited_rung=1),  # dominated
        record("relu-0000", [(9.0, 0.9), (9.0, 0.6), (9.0, 0.3)], **done, audited_rung=0),  # alone in its architecture
        record("topk-0003", [(9.0, 0.9)], state="stopped"),
        record("topk-0004", [(1.0, 0.1), (1.0, 0.1)], state="stopped"),  # would dominate everything, had it ended so
        record("topk-0005", [(9.0, 0.9)], state="failed", audited_rung=0),
    ]
    summary = audit_summary(records, (0.25, 0.5, 1.0))
    assert (summary["stopped"], summary["audited"], summary["false_stops"]) == (2, 3, 2)
    assert summary["false_stop_rate"] == pytest.approx(2 / 3)
    assert summary["training_saved"] == pytest.approx((0.75 + 0.5) / 7)
    assert summary["stopped_at"] == {"0.25": 1, "0.5": 1}
    assert audit_summary([], (1.0,))["false_stop_rate"] is None


@pytest.mark.parametrize(
    ("asked", "sampler", "stops"),
    [
        ("on", "gp", ("topk", "vsae_iso")),
        ("off", "random", ()),
        ("auto", "random", ("topk",)),
        ("auto", "auto", ()),
    ],
)
def test_auto_is_on_where_it_was_measured_to_pay(asked, sampler, stops):
    search = {"trials": 4, "early_stopping": asked, "sampler": sampler}
    assert stopped_early(tiny_space(architectures={"topk": {}, "vsae_iso": {}}, search=search)) == stops


def test_an_architecture_for_which_it_is_off_is_left_alone(tmp_path):
    stopping = EarlyStopping(
        Halving(Rule(), OBJECTIVES), Ledger(tmp_path), seed=0, audit_fraction=0.0, architectures=["topk"]
    )
    for name, stops in (("topk", True), ("relu", False)):
        stopping.halving.remember(worse_and_worse(name, 6))
        assert stopping.stops(record(f"{name}-0009", [(50.0, 0.5)] * 2)) is stops


def test_rungs_come_back_from_the_disk(tmp_path):
    space = stopping_space(audit_fraction=1.0)
    ended, running = worse_and_worse("topk", 5), record("topk-0007", [(3.0, 0.3)])
    for trial in ended:
        (tmp_path / "trials" / trial.uid).mkdir(parents=True)
        write_record(tmp_path / "trials" / trial.uid / "record.json", trial)
    (tmp_path / "trials" / running.uid).mkdir()
    write_record(tmp_path / "trials" / running.uid / PARTIAL_FILE, running)
    (tmp_path / "trials" / "topk-0008").mkdir()
    (tmp_path / "trials" / "topk-0008" / PARTIAL_FILE).write_text("{")  # torn

    ledger = Ledger(tmp_path)
    stopping = EarlyStopping.of(space, OBJECTIVES, ledger)
    assert set(stopping.halving.results("topk", 0)) == {trial.uid for trial in [*ended, running]}
    assert set(stopping.halving.results("topk", 1)) == {trial.uid for trial in ended}
    late = record("topk-0009", [(50.0, 0.5)] * 2)
    assert not stopping.stops(late)  # everything is audited
    assert EarlyStopping.of(stopping_space(), OBJECTIVES, ledger).stops(late)
    assert EarlyStopping.of(tiny_space(), OBJECTIVES, ledger) is None

    # the driver dies here: the next one knows that this trial is finished for the audit
    written = Ledger(tmp_path).end(late.model_copy(update={"state": "completed"}))
    assert written.audited_rung == 1
    assert not (tmp_path / "trials" / "topk-0009" / AUDIT_FILE).exists()


def test_what_a_stopped_trial_leaves_is_removed_by_the_next_driver(tmp_path):
    trial = record("topk-0000", [(2.0, 0.1)])
    folder = tmp_path / "trials" / trial.uid
    (folder / CHECKPOINT_FOLDER).mkdir(parents=True)
    (folder / PARTIAL_FILE).touch()
    write_record(folder / "record.json", trial)  # and then the driver died
    Ledger(tmp_path).open(None)
    assert [path.name for path in folder.iterdir()] == ["record.json"]


def stopping_space(trials=20, **search):
    """Short trials of one architecture with two rungs before the end."""
    wanted = {"sampler": "random", "early_stopping": "on", "audit_fraction": 0.0, "grace_fraction": 0.0, **search}
    return tiny_space(
        training={"num_tokens": 2048, "batch_size": 128, "rungs": [0.25, 0.5, 1.0]},
        architectures={"topk": {"d_sae": 16, "k": {"int": [1, 8]}, "lr": {"log": [1e-5, 1e-1]}}},
        search={"trials": trials, "max_retries": 1, **wanted},
    )


@pytest.fixture(scope="module")
def cluster():
    with connected(ResourcesSpec()) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def swept(cluster, tmp_path_factory):
    """A sweep in which trials were stopped, and some that ought to were finished."""
    root = tmp_path_factory.mktemp("sweeps")
    run_sweep(stopping_space(audit_fraction=0.4), root=root)
    return root / "tiny"


def by_state(directory):
    trials = load_sweep(directory)[1]
    return {state: [t for t in trials if t.state == state] for state in ("completed", "stopped", "diverged", "failed")}


def test_a_stopped_trial_leaves_a_record_and_its_curve(swept):
    found = by_state(swept)
    assert len(found["stopped"]) >= 2
    assert len(found["completed"]) >= 4
    assert sum(map(len, found.values())) == 20
    for trial in found["stopped"]:
        left = sorted(path.name for path in (swept / "trials" / trial.uid).iterdir())
        assert left == ["curve.json", "record.json"]
        assert trial.rungs[-1].fraction < 1
        assert trial.metrics == trial.rungs[-1].metrics
        assert trial.audited_rung is None
        assert 0 < trial.train_s < trial.wall_s


def test_decisions_follow_from_the_records(swept):
    """Trials run one at a time, so the rule can be applied again to the records in their order."""
    halving = Halving(Rule(), Objectives(16.0, load_sweep(swept)[0].reference.delta_ce))
    for trial in load_sweep(swept)[1]:
        reports = [trial.model_copy(update={"rungs": trial.rungs[:count]}) for count in (1, 2, 3)]
        decided = [halving.stops(report) for report in reports[: len(trial.rungs)]]
        if trial.state == "stopped":
            assert decided == [False] * (len(decided) - 1) + [True]
        elif trial.audited_rung is not None:
            assert decided.index(True) == trial.audited_rung
        else:
            assert not any(decided)


def test_audited_trials_are_finished_and_counted(swept):
    record, trials = load_sweep(swept)
    audited = [trial for trial in trials if trial.audited_rung is not None]
    assert audited
    assert all(trial.state == "completed" and is_audited(1, trial.uid, 0.4) for trial in audited)
    expected = audit_summary(trials, (0.25, 0.5, 1.0))
    assert record.early_stopping == {"on": True, "architectures": ["topk"], **expected}
    assert expected["audited"] == len(audited)


def test_the_study_learns_that_a_stopped_trial_is_not_a_good_one(swept):
    storage = f"sqlite:///{swept / 'optuna.db'}"
    (name,) = optuna.get_all_study_names(storage)
    trials = {trial.user_attrs["uid"]: trial for trial in optuna.load_study(study_name=name, storage=storage).trials}
    found = by_state(swept)
    for record in found["stopped"] + found["completed"]:
        trial = trials[record.uid]
        assert trial.state == optuna.trial.TrialState.COMPLETE
        assert (trial.constraints["unusable"] > 0) is (record.state == "stopped")
        assert trial.values[0] == pytest.approx(math.log2(max(record.metrics["l0"], 1 / 64)))


def test_no_frontier_shows_a_stopped_trial(swept):
    found = by_state(swept)
    report = build_report(swept)
    shown = {uid for entry in report.architectures for uid in entry.frontier}
    assert shown
    assert shown <= {trial.uid for trial in found["completed"]}
    assert report.architecture("topk").states["stopped"] == len(found["stopped"])


class Starts:
    """Remembers which trials started."""

    def __init__(self) -> None:
        self.uids: list[str] = []

    def on_trial_start(self, uid, architecture, params) -> None:
        self.uids.append(uid)

    on_sweep_start = on_rung = on_trial_end = on_sweep_end = lambda *_: None


def test_a_sweep_that_goes_on_does_not_start_stopped_trials_again(swept):
    before = {path: path.read_bytes() for path in swept.glob("trials/*/record.json")}
    starts = Starts()
    run_sweep(stopping_space(trials=22, audit_fraction=0.4), root=swept.parent, listeners=[starts])
    assert starts.uids == ["topk-0020", "topk-0021"]
    assert {path: path.read_bytes() for path in before} == before
    assert load_sweep(swept)[0].early_stopping["stopped"] == len(by_state(swept)["stopped"])


class Died(Exception):
    """The driver is gone: nothing after it happens."""


def test_a_driver_that_dies_between_the_decision_and_the_record(cluster, tmp_path, monkeypatch):
    """The trial is not lost, not doubled, and its rung is there once."""
    end, died = Ledger.end, []

    def dies(self, record):
        if record.state == "stopped" and not died:
            died.append(record.uid)
            raise Died
        return end(self, record)

    monkeypatch.setattr(Ledger, "end", dies)
    with pytest.raises(Died):
        run_sweep(stopping_space(), root=tmp_path)
    (uid,) = died
    folder = tmp_path / "tiny" / "trials" / uid
    assert not (folder / "record.json").exists()
    assert (folder / CHECKPOINT_FOLDER).exists()
    starts = Starts()
    record = run_sweep(stopping_space(), root=tmp_path, listeners=[starts])
    assert starts.uids[0] == uid
    assert len(starts.uids) == len(set(starts.uids))
    found = by_state(tmp_path / "tiny")
    uids = sorted(trial.uid for trials in found.values() for trial in trials)
    assert uids == [f"topk-{i:04d}" for i in range(20)]
    assert uid in {trial.uid for trial in found["stopped"]}  # decided about in the same way
    assert not (folder / CHECKPOINT_FOLDER).exists()
    assert record.early_stopping["stopped"] == len(found["stopped"])


def test_tune_is_given_nothing_to_keep():
    scheduler = ParetoHalving(None)
    assert scheduler.__getstate__() == {"_live": [], "_stopping": None}
    assert scheduler.metric is None
    assert scheduler.set_search_properties("l0", "min")
