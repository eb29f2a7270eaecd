"""Every way in which a trial can end, without starting Ray."""

from __future__ import annotations

import copy
import math
import pickle
import shutil

import pytest
from optuna.trial import TrialState

from vsae_search.search.assignment import Assignment
from vsae_search.search.objectives import Objectives
from vsae_search.search.propose.database import open_database
from vsae_search.search.propose.proposals import Proposals
from vsae_search.search.propose.searcher import StudySearcher, reconcile
from vsae_search.search.propose.studies import Plan, Studies
from vsae_search.search.records import RungRecord, TrialRecord, read_trials
from vsae_search.search.store.ledger import Ledger
from vsae_search.space import ChoiceRange, ConstantRange, LogRange

OBJECTIVES = Objectives(l0=256.0, delta_ce=2.0)
RANGES = {"lr": LogRange(low=1e-4, high=1e-2), "k": ChoiceRange(choices=(4, 8, 16)), "aux": ConstantRange(value=0.5)}


class Listener:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def on_sweep_start(self, record) -> None:
        self.events.append(("sweep_start", record.name))

    def on_trial_start(self, uid, architecture, params) -> None:
        self.events.append(("start", uid))

    def on_rung(self, uid, rung) -> None:
        self.events.append((f"rung {rung.index}", uid))

    def on_trial_end(self, trial) -> None:
        self.events.append((trial.state, trial.uid))

    def on_sweep_end(self, record) -> None:
        self.events.append(("sweep_end", record.status))


WORKER_DIED = "ActorDiedError: The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR"


class Driver:
    """One session of a sweep of two architectures, as often as it is opened."""

    def __init__(
        self, directory, *, budget=4, startup=2, sampler="random", max_retries=1, architectures=("relu", "topk")
    ) -> None:
        (directory / "trials").mkdir(exist_ok=True)
        plans = {
            name: Plan(Proposals.of(RANGES, seed=number), budget, startup) for number, name in enumerate(architectures)
        }
        self.studies = Studies(
            "s", 3, plans, sampler=sampler, max_retries=max_retries, storage=f"sqlite:///{directory / 'optuna.db'}"
        )
        self.listener = Listener()
        self.ledger = Ledger(directory, [self.listener])
        self.orphans = reconcile(self.studies, self.ledger, OBJECTIVES)
        self.searcher = StudySearcher(self.studies, OBJECTIVES, self.ledger, lambda _: WORKER_DIED)
        self.count = 0

    def ask(self) -> tuple[str, Assignment]:
        self.count += 1
        trial_id = f"tune-{self.count}"
        config = self.searcher.suggest(trial_id)
        assert isinstance(config, dict), config
        return trial_id, Assignment(**config)

    def complete(self, metrics=None) -> str:
        trial_id, assignment = self.ask()
        self.searcher.on_trial_complete(trial_id, result=report(assignment, "completed", metrics))
        return assignment.uid

    def trials(self, name="relu"):
        return self.studies._studies[name].get_trials()

    def best(self, name="relu"):
        return {trial.user_attrs["uid"] for trial in self.studies._studies[name].best_trials}

    def close(self) -> None:
        self.studies.close()


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory):
    """Creating the tables takes most of a second; once is enough."""
    path = tmp_path_factory.mktemp("database") / "optuna.db"
    storage = open_database(f"sqlite:///{path}")
    storage.remove_session()
    storage.engine.dispose()
    return path


@pytest.fixture(autouse=True)
def _database(tmp_path, empty_database):
    shutil.copy(empty_database, tmp_path / "optuna.db")


@pytest.fixture
def driver(tmp_path):
    opened = Driver(tmp_path)
    yield opened
    opened.close()


def report(assignment, state, metrics=None, error=None):
    metrics = {"l0": 8.0, "delta_ce": 0.5} if metrics is None else metrics
    rung = RungRecord(index=0, fraction=0.5, step=1, tokens=1, metrics=metrics)
    record = TrialRecord(
        uid=assignment.uid,
        architecture=assignment.architecture,
        number=assignment.number,
        params=assignment.params,
        seed=assignment.seed,
        attempt=assignment.attempt,
        state=state,
        metrics=metrics,
        rungs=(rung,),
        error=error,
    )
    return {"record": record.model_dump_json()}


def only(driver):
    (trial,) = driver.trials()
    return trial


# -- the six endings that a searcher has to tell apart -------------------------------------------------------------


def test_error_without_a_result_fails_and_is_repeated(driver):
    trial_id, first = driver.ask()
    driver.searcher.on_trial_complete(trial_id, error=True)
    failed, waiting = driver.trials()
    assert failed.state == TrialState.FAIL
    assert waiting.state == TrialState.WAITING
    assert driver.listener.events == []
    _, second = driver.ask()
    assert (second.uid, second.params, second.seed) == (first.uid, first.params, first.seed)
    assert (first.attempt, second.attempt) == (0, 1)


def test_error_after_a_partial_report_is_not_data(driver):
    trial_id, assignment = driver.ask()
    partial = report(assignment, "stopped")
    driver.searcher.on_trial_result(trial_id, partial)
    driver.searcher.on_trial_complete(trial_id, result=partial, error=True)
    failed, waiting = driver.trials()
    assert failed.state == TrialState.FAIL
    assert failed.values is None
    assert waiting.user_attrs == {"uid": assignment.uid, "attempt": 1}
    assert driver.ledger.ended == {}


@pytest.mark.parametrize(
    "metrics",
    [
        {"l0": 8.0, "delta_ce": math.nan},
        {"l0": 8.0},
        {"l0": math.inf, "delta_ce": 0.5},
    ],
    ids=["nan", "missing", "inf"],
)
def test_an_objective_that_is_no_number_is_the_worst_point(driver, metrics):
    trial_id, assignment = driver.ask()
    driver.searcher.on_trial_complete(trial_id, result=report(assignment, "completed", metrics))
    trial = only(driver)
    assert trial.state == TrialState.COMPLETE
    assert tuple(trial.values) == OBJECTIVES.worst()
    assert trial.constraints == {"unusable": 1.0}
    assert driver.best() == set()
    record = driver.ledger.ended[assignment.uid]
    assert record.state == "diverged"
    assert driver.listener.events == [("diverged", assignment.uid)]


def test_stopped_early_is_learnt_from_but_never_among_the_best(driver):
    trial_id, assignment = driver.ask()
    driver.searcher.on_trial_complete(trial_id, result=report(assignment, "stopped", {"l0": 1.0, "delta_ce": 0.001}))
    trial = only(driver)
    assert trial.state == TrialState.COMPLETE
    assert tuple(trial.values) == OBJECTIVES.values(1.0, 0.001)
    assert trial.constraints == {"unusable": 1.0}
    driver.complete()  # topk
    other = driver.complete()  # relu, dominated by the stopped one
    assert driver.best() == {other}


# -- the ordinary ending, and idempotence ---------------------------------------------------------------------------


def test_completed(driver):
    uid = driver.complete({"l0": 8.0, "delta_ce": 0.25})
    trial = only(driver)
    assert trial.state == TrialState.COMPLETE
    assert trial.values == [3.0, -2.0]
    assert trial.constraints == {"unusable": -1.0}
    assert driver.best() == {uid}


def test_diverged(driver):
    trial_id, assignment = driver.ask()
    driver.searcher.on_trial_complete(trial_id, result=report(assignment, "diverged", {}, error="loss is nan"))
    assert tuple(only(driver).values) == OBJECTIVES.worst()
    assert driver.ledger.ended[assignment.uid].error == "loss is nan"


def test_ending_twice_changes_nothing(driver):
    trial_id, assignment = driver.ask()
    good, bad = report(assignment, "completed"), report(assignment, "diverged", {})
    driver.searcher.on_trial_complete(trial_id, result=good)
    before = only(driver)
    driver.searcher.on_trial_complete(trial_id, result=bad)
    driver.searcher.on_trial_complete(trial_id, error=True)
    driver.searcher.on_trial_complete("unknown", error=True)
    assert only(driver) == before
    assert driver.listener.events == [("completed", assignment.uid)]


def test_telling_a_study_twice_changes_nothing(driver):
    from vsae_search.search.propose.studies import Told

    _, assignment = driver.ask()
    assert driver.studies.tell(assignment.uid, Told((1.0, 1.0), usable=True))
    assert not driver.studies.tell(assignment.uid, Told((2.0, 2.0), usable=False))
    assert not driver.studies.fail(assignment.uid)
    assert only(driver).values == [1.0, 1.0]


def test_a_worker_that_dies_after_its_final_report_has_finished(driver):
    trial_id, assignment = driver.ask()
    driver.searcher.on_trial_complete(trial_id, result=report(assignment, "completed"), error=True)
    assert only(driver).state == TrialState.COMPLETE


def test_tune_may_leave_the_result_out_when_a_worker_dies(driver):
    trial_id, assignment = driver.ask()
    driver.searcher.on_trial_result(trial_id, report(assignment, "completed"))
    driver.searcher.on_trial_complete(trial_id, error=True)
    assert only(driver).state == TrialState.COMPLETE


@pytest.mark.parametrize("record", ["", "{", '{"uid": 3}', "null"])
def test_a_report_that_cannot_be_read_is_a_lost_attempt(driver, record):
    trial_id, _ = driver.ask()
    driver.searcher.on_trial_complete(trial_id, result={"record": record})
    assert [trial.state for trial in driver.trials()] == [TrialState.FAIL, TrialState.WAITING]


def test_a_trial_is_given_up_after_its_retries(driver):
    uids = []
    for _ in range(2):
        trial_id, assignment = driver.ask()
        while assignment.architecture == "topk":
            driver.searcher.on_trial_complete(trial_id, result=report(assignment, "completed"))
            trial_id, assignment = driver.ask()
        uids.append(assignment.uid)
        driver.searcher.on_trial_complete(trial_id, error=True)
    assert uids == ["relu-0000", "relu-0000"]
    assert [trial.state for trial in driver.trials()] == [TrialState.FAIL, TrialState.FAIL]
    record = driver.ledger.ended["relu-0000"]
    assert (record.state, record.error, record.attempt) == ("failed", WORKER_DIED, 1)
    assert ("failed", "relu-0000") in driver.listener.events
    assert driver.ask()[1].uid != "relu-0000"


@pytest.mark.parametrize(
    "error",
    [
        "ActorDiedError: The actor died because its node has died. Node Id: 5c1f",
        "ActorUnavailableError: The actor 81 is unavailable: The actor is temporarily unavailable: RpcError",
    ],
)
def test_a_lost_node_costs_no_attempt(tmp_path, error):
    """Spot machines come and go; but a trial that loses one after the other may be what kills them."""
    driver = Driver(tmp_path, max_retries=1, architectures=("relu",))
    driver.searcher.error_of = lambda _: error
    attempts = []
    for _ in range(12):
        trial_id, assignment = driver.ask()
        assert assignment.uid == "relu-0000"
        attempts.append(assignment.attempt)
        driver.searcher.on_trial_complete(trial_id, error=True)
    assert attempts == [0] * 11 + [1]
    assert driver.ledger.ended["relu-0000"].state == "failed"
    assert driver.ask()[1].uid == "relu-0001"
    driver.close()


def test_the_trial_s_own_words_say_why_it_was_given_up(tmp_path):
    driver = Driver(tmp_path, max_retries=0)
    trial_id, assignment = driver.ask()
    driver.searcher.on_trial_result(trial_id, report(assignment, "failed", {}, error="RuntimeError: broken"))
    driver.searcher.on_trial_complete(trial_id, error=True)
    assert driver.ledger.ended[assignment.uid].error == "RuntimeError: broken"
    driver.close()


# -- budgets ---------------------------------------------------------------------------------------------------------


def test_architectures_take_turns_until_every_budget_is_spent(driver):
    uids = [driver.complete() for _ in range(8)]
    assert uids == [f"{name}-{number:04d}" for number in range(4) for name in ("relu", "topk")]
    assert driver.searcher.suggest("more") == StudySearcher.FINISHED


def test_the_search_waits_for_trials_that_may_have_to_be_repeated(driver):
    running = [driver.ask() for _ in range(8)]
    assert driver.searcher.suggest("more") is None
    for trial_id, assignment in running[1:]:
        driver.searcher.on_trial_complete(trial_id, result=report(assignment, "completed"))
    assert driver.searcher.suggest("more") is None
    driver.searcher.on_trial_complete(running[0][0], error=True)
    trial_id, again = driver.ask()
    assert again.uid == running[0][1].uid
    driver.searcher.on_trial_complete(trial_id, result=report(again, "completed"))
    assert driver.searcher.suggest("more") == StudySearcher.FINISHED


def test_budgets_are_spent_even_if_everything_fails(tmp_path):
    driver = Driver(tmp_path, budget=2, max_retries=1)
    for _ in range(8):
        trial_id, _ = driver.ask()
        driver.searcher.on_trial_complete(trial_id, error=True)
    assert driver.searcher.suggest("more") == StudySearcher.FINISHED
    assert {record.state for record in driver.ledger.ended.values()} == {"failed"}
    assert len(driver.ledger.ended) == 4
    driver.close()


# -- proposals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["auto", "tpe", "nsga2", "qmc", "random"])
def test_proposals_depend_on_the_history_and_not_on_restarts(tmp_path, empty_database, sampler):
    def run(directory, restart: bool) -> list[Assignment]:
        directory.mkdir()
        shutil.copy(empty_database, directory / "optuna.db")
        driver, asked = Driver(directory, budget=4, startup=3, sampler=sampler), []
        for number in range(8):
            if restart and number in (1, 7):
                driver.close()
                driver = Driver(directory, budget=4, startup=3, sampler=sampler)
            trial_id, assignment = driver.ask()
            asked.append(assignment)
            metrics = {"l0": float(assignment.params["k"]), "delta_ce": assignment.params["lr"] * 50}
            driver.searcher.on_trial_complete(trial_id, result=report(assignment, "completed", metrics))
        driver.close()
        return asked

    through, restarted = run(tmp_path / "a", restart=False), run(tmp_path / "b", restart=True)
    assert through == restarted
    assert len({assignment.seed for assignment in through}) == 8
    sobol = Proposals.of(RANGES, seed=0)
    relu = [assignment.params for assignment in through if assignment.architecture == "relu"]
    agree = [params == sobol.params(sobol.point(number)) for number, params in enumerate(relu)]
    assert agree == {"qmc": [True] * 4, "random": [False] * 4}.get(sampler, [True, True, True, False])


@pytest.mark.parametrize("diverges", [False, True], ids=["all complete", "small rates diverge"])
def test_the_model_moves_towards_better_points(tmp_path, diverges):
    driver = Driver(tmp_path, budget=9, startup=5, sampler="auto", architectures=("relu",))
    rates = []
    for _ in range(9):
        trial_id, assignment = driver.ask()
        rates.append(assignment.params["lr"])
        distance = abs(math.log10(rates[-1]) + 2)  # the best learning rate is the largest, 1e-2
        metrics = {"l0": 16.0 + 100.0 * distance, "delta_ce": 0.01 + distance}
        bad = diverges and rates[-1] < 3e-3
        result = report(assignment, "diverged", {}) if bad else report(assignment, "completed", metrics)
        driver.searcher.on_trial_complete(trial_id, result=result)
    driver.close()
    assert sum(rate > 5e-3 for rate in rates[5:]) >= 3, rates


# -- after a crash of the driver -------------------------------------------------------------------------------------


def test_orphans_start_again_under_their_uid_and_lose_no_attempt(tmp_path):
    driver = Driver(tmp_path)
    done = driver.complete()
    lost = [driver.ask()[1] for _ in range(2)]
    driver.close()
    again = Driver(tmp_path)
    assert sorted(again.orphans) == sorted(assignment.uid for assignment in lost)
    assert {trial.state for trial in again.trials("topk")} == {TrialState.FAIL, TrialState.WAITING}
    asked = [again.ask()[1] for _ in range(2)]
    assert sorted(asked, key=lambda a: a.uid) == sorted(lost, key=lambda a: a.uid)
    assert done in again.ledger.ended
    again.close()


def test_a_trial_whose_record_is_on_disk_is_not_trained_again(tmp_path, monkeypatch):
    driver = Driver(tmp_path)
    trial_id, assignment = driver.ask()

    def crash(*_: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(driver.studies, "tell", crash)
    with pytest.raises(KeyboardInterrupt):
        driver.searcher.on_trial_complete(
            trial_id, result=report(assignment, "completed", {"l0": 8.0, "delta_ce": 0.25})
        )
    driver.close()
    assert list(read_trials(tmp_path)) == [assignment.uid]
    again = Driver(tmp_path)
    assert again.orphans == []
    assert only(again).values == [3.0, -2.0]
    again.close()


def test_a_crash_between_repeating_and_failing_repeats_once(tmp_path, monkeypatch):
    driver = Driver(tmp_path)
    trial_id, assignment = driver.ask()

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(driver.studies, "_fail", crash)
    with pytest.raises(KeyboardInterrupt):
        driver.searcher.on_trial_complete(trial_id, error=True)
    assert [trial.state for trial in driver.trials()] == [TrialState.RUNNING, TrialState.WAITING]
    driver.close()
    again = Driver(tmp_path)
    assert again.orphans == [assignment.uid]
    assert [trial.state for trial in again.trials()] == [TrialState.FAIL, TrialState.WAITING]
    again.close()


def test_a_crash_as_a_trial_begins_loses_nothing_and_doubles_nothing(tmp_path, monkeypatch):
    """A trial enters its study in one transaction: a driver that dies before it has begun nothing, and after it all."""
    driver = Driver(tmp_path, startup=0)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("optuna.study.Study.add_trial", crash)
    with pytest.raises(KeyboardInterrupt):
        driver.ask()
    assert driver.trials() == []
    monkeypatch.undo()
    monkeypatch.setattr(driver.studies, "_assignment", crash)
    with pytest.raises(KeyboardInterrupt):
        driver.ask()
    begun = only(driver)
    driver.close()
    again = Driver(tmp_path, startup=0)
    assert again.orphans == ["relu-0000"]
    assert [trial.state for trial in again.trials()] == [TrialState.FAIL, TrialState.WAITING]
    _, repeated = again.ask()
    assert (repeated.uid, repeated.attempt) == ("relu-0000", 0)
    assert again.trials()[1].params == begun.params
    again.close()


def test_a_given_up_trial_stays_given_up(tmp_path, monkeypatch):
    driver = Driver(tmp_path, max_retries=0)
    trial_id, assignment = driver.ask()
    monkeypatch.setattr(driver.studies, "fail", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        driver.searcher.on_trial_complete(trial_id, error=True)
    driver.close()
    again = Driver(tmp_path, max_retries=0)
    assert again.orphans == []
    assert [trial.state for trial in again.trials()] == [TrialState.FAIL]
    assert again.ledger.ended[assignment.uid].state == "failed"
    again.close()


def test_finished_trials_count_towards_the_budget(tmp_path):
    driver = Driver(tmp_path)
    first = [driver.complete() for _ in range(5)]
    driver.close()
    again = Driver(tmp_path)
    second = [again.complete() for _ in range(3)]
    assert again.searcher.suggest("more") == StudySearcher.FINISHED
    assert len({*first, *second}) == 8
    again.close()


def test_tune_can_pickle_and_copy_what_it_likes(driver):
    from vsae_search.search.bridge import LedgerCallback

    callback = LedgerCallback(driver.ledger)
    assert copy.deepcopy(callback) is callback
    assert pickle.loads(pickle.dumps(callback))._ledger is None
    assert type(pickle.loads(pickle.dumps(driver.searcher))) is StudySearcher
