"""Confirming a tiny sweep: what is chosen, what is trained, on which rows, and through interruptions."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
from collections import Counter
from dataclasses import asdict

import numpy as np
import pytest
from safetensors.numpy import load_file
from search_helpers import tiny_space

from vsae_search import saes
from vsae_search.activations import BatchStream
from vsae_search.errors import EnvironmentNotReady, UserInputError
from vsae_search.evaluation import evaluate
from vsae_search.search import TrialRecord, load_confirm, load_sweep, pair_with_search, run_confirm, run_sweep
from vsae_search.search.assignment import Assignment
from vsae_search.search.confirm import run as confirm_module
from vsae_search.search.confirm.plan import ConfirmRequest, draw_seeds, plan_confirm
from vsae_search.search.confirm.queue import ReplicateSearcher
from vsae_search.search.confirm.records import Configuration, ConfirmRecord, replicate_uid, split_uid
from vsae_search.search.confirm.selection import choose, default_limit
from vsae_search.search.records import ReferenceRecord, write_record
from vsae_search.search.resources.cluster import connected
from vsae_search.search.seeds import derive_seed
from vsae_search.search.store.ledger import Ledger
from vsae_search.search.store.lock import driver_lock
from vsae_search.search.trial import TrialContext, TrialRun
from vsae_search.space import ResourcesSpec
from vsae_search.subjects import build_subject

run_trial = confirm_module.run_trial
SEARCH = {"trials": 6, "sampler": "qmc", "max_retries": 1}
ACTIVATIONS = {"num_tokens": 2048, "evaluation_tokens": 512, "calibration_tokens": 256, "shard_tokens": 128}
TWO = ConfirmRequest(seeds=2)


def space(**changes):
    return tiny_space(activations=ACTIVATIONS, **{"search": SEARCH} | changes)


class Listener:
    """Counts what it hears, and acts when so many trainings have ended."""

    def __init__(self, act=None, after: int = 2) -> None:
        self.started: list[str] = []
        self.ended: list[str] = []
        self.act, self.after = act, after

    def on_sweep_start(self, record) -> None:
        self.budgets = {name: plan.trials for name, plan in record.architectures.items()}

    def on_trial_start(self, uid, architecture, params) -> None:
        self.started.append(uid)

    def on_rung(self, uid, rung) -> None: ...

    def on_trial_end(self, trial) -> None:
        self.ended.append(trial.uid)
        if self.act is not None and len(self.ended) == self.after:
            self.act()

    def on_sweep_end(self, record) -> None:
        self.status = record.status


def facts(directory):
    """What has to be equal in two confirmations of one sweep: everything but times."""
    _, replicates = load_confirm(directory)
    return {r.uid: (r.params, r.seed, r.state, r.metrics, [rung.metrics for rung in r.rungs]) for r in replicates}


# -- choosing, without Ray ------------------------------------------------------------------------------------------


def trial(number, l0, delta_ce, *, state="completed", **params):
    metrics = {"l0": l0, "delta_ce": delta_ce} if state == "completed" else {}
    return TrialRecord(
        uid=f"topk-{number:04d}",
        architecture="topk",
        number=number,
        params={"k": number, **params},
        seed=number,
        state=state,
        metrics=metrics,
    )


def uids(chosen):
    return [int(configuration.uid[-4:]) for configuration in chosen]


def test_the_frontier_and_its_margin_are_chosen_by_rank():
    trials = [trial(0, 1, 8.0), trial(1, 2, 4.0), trial(2, 4, 2.0), trial(3, 4, 3.0), trial(4, 8, 5.0)]
    trials += [trial(5, 0, 0, state="diverged"), trial(6, 0, 0, state="failed"), trial(7, 0.5, 0.5, state="stopped")]
    trials += [trial(8, 1, float("nan"))]
    assert uids(choose(trials, "topk", margin=0, limit=9)) == [0, 1, 2]
    with_margin = choose(trials, "topk", margin=1, limit=9)
    assert [(c.uid[-1], c.rank) for c in with_margin] == [("0", 0), ("1", 0), ("2", 0), ("3", 1)]
    assert uids(choose(trials, "topk", margin=2, limit=9)) == [0, 1, 2, 3, 4]
    assert choose(trials, "relu", margin=1) == []


def test_too_many_are_thinned_evenly_over_log2_l0_and_keep_what_was_confirmed():
    frontier = [trial(i, 2.0**i, 100.0 - i) for i in range(9)]
    margin = [trial(20 + i, 2.0**i, 100.5 - i) for i in range(9)]
    assert uids(choose([*frontier, *margin], "topk", margin=1, limit=3)) == [0, 4, 8]
    assert uids(choose([*frontier, *margin], "topk", margin=1, limit=5)) == [0, 2, 4, 6, 8]
    kept = choose([*frontier, *margin], "topk", margin=1, limit=3, earlier={"topk-0005", "topk-0020"})
    assert uids(kept) == [0, 5, 8]  # number 20 was confirmed too, but better ranks come first


def test_copies_and_points_beyond_the_reference_are_left_out():
    reference = ReferenceRecord(l0=16, delta_ce=1.0, source="given")
    twins = [trial(0, 2, 0.5, k=1), trial(1, 2, 0.4, k=1), trial(2, 3, 0.3, k=2)]
    beyond = [trial(3, 0.1, 1.0), trial(4, 16, 0.0)]
    assert uids(choose([*twins, *beyond], "topk", margin=1, reference=reference)) == [1, 2]
    assert uids(choose([*twins, *beyond], "topk", margin=1, reference=reference, earlier={"topk-0000"})) == [0, 2]
    assert uids(choose(beyond, "topk", margin=1, reference=reference)) == [3, 4]


@pytest.mark.parametrize(
    ("completed", "frontier", "limit"),
    [(1, 1, 3), (6, 2, 3), (6, 6, 6), (13, 2, 4), (40, 4, 10), (40, 11, 11), (40, 20, 12), (500, 5, 12)],
)
def test_the_default_number_of_configurations(completed, frontier, limit):
    assert default_limit(completed, frontier) == limit


def test_a_frontier_is_trained_again_as_a_whole():
    frontier = [trial(i, 2.0**i, 100.0 - i) for i in range(7)]
    behind = [trial(20 + i, 2.0**i, 100.5 - i) for i in range(2)]
    assert uids(choose([*frontier, *behind], "topk", margin=1)) == list(range(7))


def test_seeds_are_kept_extended_and_never_those_of_the_search():
    first = draw_seeds(7, 3, (), set())
    assert first == tuple(derive_seed(7, "confirm", number, 0) for number in range(3))
    assert draw_seeds(7, 5, first, set())[:3] == first
    assert draw_seeds(7, 2, first, set()) == first
    assert not set(draw_seeds(7, 3, (), set(first))) & set(first)
    assert draw_seeds(8, 3, (), set()) != first


def test_uids_of_replicates():
    assert replicate_uid("vsae_iso-0003", 2) == "vsae_iso-0003-r02"
    assert split_uid("vsae_iso-0003-r02") == ("vsae_iso-0003", 2)
    assert split_uid("topk-0003-r104") == ("topk-0003", 104)
    assert split_uid("topk-0003") is None


def test_search_and_replicates_side_by_side():
    record = ConfirmRecord(
        name="s/confirm",
        digest="d",
        seed=0,
        status="completed",
        margin=1,
        seeds=(11, 12, 13),
        configurations=(
            Configuration(uid="topk-0000", architecture="topk", rank=0),
            Configuration(uid="topk-0001", architecture="topk", rank=1),
        ),
    )
    replicates = [
        trial(0, 4.0, value, state=state).model_copy(update={"uid": replicate_uid("topk-0000", n)})
        for n, (value, state) in enumerate([(0.5, "completed"), (0.0, "diverged"), (0.7, "completed")])
    ]
    one, other = pair_with_search(record, [trial(0, 3.0, 0.4), trial(1, 9.0, 0.1)], replicates)
    assert (one.seeds, one.values("delta_ce")) == ((11, 12, 13), (0.5, None, 0.7))
    assert one.mean("delta_ce") == pytest.approx(0.6)
    assert one.spread("delta_ce") == pytest.approx(0.1 * 2**0.5)  # (0.1² + 0.1²) / (2 - 1)
    assert one.gap("delta_ce") == pytest.approx(-0.2)
    assert one.gap("l0") == pytest.approx(-1.0)
    assert (other.seeds, other.mean("l0"), other.spread("l0"), other.gap("l0")) == ((), None, None, None)


# -- whole confirmations on one Ray ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def _ray():
    with connected(ResourcesSpec()):
        yield


@pytest.fixture(scope="module")
def searched(_ray, tmp_path_factory):
    """A root with a finished sweep that nothing has confirmed; to be copied."""
    root = tmp_path_factory.mktemp("searched")
    run_sweep(space(), root=root)
    return root


@pytest.fixture
def copy(searched, tmp_path):
    """The directory of a copy of that sweep."""
    shutil.copytree(searched, tmp_path / "sweeps")
    return tmp_path / "sweeps" / "tiny"


@pytest.fixture(scope="module")
def confirmed(searched, tmp_path_factory):
    """A confirmation with two seeds that ran through."""
    root = tmp_path_factory.mktemp("confirmed") / "sweeps"
    shutil.copytree(searched, root)
    listener = Listener()
    record = run_confirm(root / "tiny", TWO, listeners=[listener])
    return root / "tiny", record, listener


def test_every_configuration_is_trained_once_with_every_new_seed(confirmed):
    directory, record, listener = confirmed
    stored, replicates = load_confirm(directory)
    _, trials = load_sweep(directory)
    assert stored == record
    assert (record.name, record.status, record.sessions) == ("tiny/confirm", "completed", 1)
    assert {c.architecture for c in record.configurations} == {"topk", "relu"}
    expected = {replicate_uid(c.uid, n): (c.uid, n) for c in record.configurations for n in range(2)}
    assert sorted(listener.started) == sorted(listener.ended) == sorted(expected)
    assert {replicate.uid for replicate in replicates} == set(expected)
    params = {one.uid: one.params for one in trials}
    for replicate in replicates:
        uid, number = expected[replicate.uid]
        assert replicate.state == "completed"
        assert replicate.params == params[uid]
        assert replicate.seed == record.seeds[number]
    assert not set(record.seeds) & {one.seed for one in trials}
    counted = Counter(c.architecture for c in record.configurations)
    assert listener.budgets == {name: 2 * count for name, count in counted.items()}


def test_held_out_rows_share_nothing_with_what_the_search_used(confirmed):
    directory, record, _ = confirmed
    sweep, _ = load_sweep(directory)
    assert record.bank["evaluation_digest"] != sweep.bank["evaluation_digest"]
    assert record.bank["scale"] == sweep.bank["scale"]
    rows: dict[str, set[bytes]] = {}
    for file in (directory.parent / ".bank").glob("*/*.safetensors"):
        x_ND = load_file(file)["x_ND"]
        rows.setdefault(file.name.split("-")[0], set()).update(row.tobytes() for row in x_ND if row.any())
    assert set(rows) == {"train", "calibration", "evaluation", "confirm"}
    assert len(rows["confirm"]) > 300
    assert not rows["confirm"] & (rows["train"] | rows["calibration"] | rows["evaluation"])


def test_the_numbers_are_those_of_the_held_out_rows(confirmed):
    directory, record, _ = confirmed
    subject = build_subject(space().subject, directory.parent / ".bank")
    for replicate in load_confirm(directory)[1]:
        sae = saes.load(directory / "confirm" / "trials" / replicate.uid)
        measured = {}
        for split in ("confirm", "evaluation"):
            rows = subject.harvest(0, 512, split)
            found = evaluate(sae, rows, scale=record.bank["scale"], subject=subject, baseline=subject.baseline(rows))
            measured[split] = found.metrics["delta_ce"]
        assert replicate.metrics["delta_ce"] == pytest.approx(measured["confirm"], rel=1e-6)
        assert replicate.metrics["delta_ce"] != pytest.approx(measured["evaluation"], rel=1e-6)


class HashingBank:
    """A bank in memory whose streams leave a digest of every batch they give."""

    def __init__(self, subject) -> None:
        self.shards = [subject.harvest(index, 128, "train").x_ND for index in range(16)]
        self.rows = {split: subject.harvest(0, 512, split) for split in ("calibration", "confirm")}
        self.digest = hashlib.sha256()

    @property
    def manifest(self):
        return self

    scale = 1.0

    def stream(self, *, batch_size, seed, device="cpu"):
        options = {"d_in": 8, "dtype": "fp32", "scale": 1.0, "batch_size": batch_size, "seed": seed, "device": device}
        stream = BatchStream(lambda index: self.shards[index], [128] * 16, **options)
        for x_BD in stream:
            self.digest.update(x_BD.numpy().tobytes())
            yield x_BD

    def evaluation(self):
        return self.rows["confirm"]

    def calibration(self):
        return self.rows["calibration"].x_ND


def test_architectures_read_the_same_batches_in_one_replicate(searched, tmp_path):
    plan = plan_confirm(searched / "tiny", TWO)
    subject = build_subject(space().subject, searched / ".bank")
    digests: dict[int, set[str]] = {0: set(), 1: set()}
    seen = set()
    for assignment in plan.pending:
        if (assignment.architecture, assignment.number) in seen:
            continue
        seen.add((assignment.architecture, assignment.number))
        bank = HashingBank(subject)
        baseline = subject.baseline(bank.evaluation())
        context = TrialContext(bank, subject, baseline, space().training, tmp_path)
        assert TrialRun(assignment, context, lambda _: None).run().state == "completed"
        digests[assignment.number].add(bank.digest.hexdigest())
    assert len(seen) == 4
    assert [len(found) for found in digests.values()] == [1, 1]
    assert digests[0] != digests[1]


def test_a_second_call_trains_nothing_and_starts_nothing(confirmed, monkeypatch):
    directory, record, _ = confirmed

    def started(*_, **__):
        raise AssertionError("nothing has to be started")

    monkeypatch.setattr(confirm_module, "connected", started)
    monkeypatch.setattr(confirm_module, "build_subject", started)
    before = {path: path.stat().st_mtime_ns for path in (directory / "confirm" / "trials").rglob("*")}
    listener = Listener()
    assert run_confirm(directory, TWO, listeners=[listener]) == record
    assert listener.started == []
    assert len(listener.ended) == 2 * len(record.configurations)  # told again, for the MLflow record
    assert before == {path: path.stat().st_mtime_ns for path in (directory / "confirm" / "trials").rglob("*")}


def test_an_interrupted_confirmation_ends_as_if_it_had_not_been(confirmed, copy):
    whole, _, _ = confirmed
    with pytest.raises(KeyboardInterrupt):
        run_confirm(copy, TWO, listeners=[Listener(act=lambda: os.kill(os.getpid(), signal.SIGINT))])
    record, replicates = load_confirm(copy)
    assert record.status == "interrupted"
    assert 2 <= len(replicates) < 2 * len(record.configurations)
    again = Listener()
    record = run_confirm(copy, TWO, listeners=[again])
    assert (record.status, record.sessions) == ("completed", 2)
    assert not set(again.started) & {replicate.uid for replicate in replicates}
    assert facts(copy) == facts(whole)


def test_more_seeds_and_a_larger_sweep_add_and_change_nothing(confirmed, copy):
    whole, first, _ = confirmed
    shutil.copytree(whole / "confirm", copy / "confirm")
    fewer = run_confirm(copy, ConfirmRequest(seeds=2, margin=0, architectures=("topk",)))
    assert (fewer.configurations, fewer.seeds) == (first.configurations, first.seeds)
    topk = ConfirmRequest(seeds=3, architectures=("topk",))
    listener = Listener()
    more = run_confirm(copy, topk, listeners=[listener])
    assert more.seeds[:2] == first.seeds
    assert sorted(listener.started) == sorted(
        replicate_uid(c.uid, 2) for c in first.configurations if c.architecture == "topk"
    )
    kept = facts(copy)
    assert facts(whole).items() <= kept.items()

    run_sweep(space(search=SEARCH | {"trials": 12}), root=copy.parent)
    after = run_confirm(copy, ConfirmRequest(seeds=2))
    assert set(first.configurations) < set(after.configurations)
    assert kept.items() <= facts(copy).items()
    runs = {c.uid: sum(uid.startswith(f"{c.uid}-r") for uid in facts(copy)) for c in after.configurations}
    assert {runs[c.uid] for c in after.configurations if c.architecture == "topk"} == {3}  # none is lopsided
    assert {runs[c.uid] for c in after.configurations if c.architecture == "relu"} == {2}


def test_failures_of_every_kind(copy, monkeypatch):
    """One worker is killed once, one training diverges, one always raises: the first is repeated, none is dropped."""
    pending = [assignment.uid for assignment in plan_confirm(copy, TWO).pending]
    killed, broken, diverging = pending[:3]

    def faulty(config, context):
        died = context.directory / "died"
        if config["uid"] == killed and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if config["uid"] == broken:
            raise RuntimeError("a broken disk")
        if config["uid"] == diverging:
            config = {**config, "params": {**config["params"], "lr": 1e30}}
        run_trial(config, context)

    monkeypatch.setattr(confirm_module, "run_trial", faulty)
    record = run_confirm(copy, TWO)
    ends = {replicate.uid: (replicate.state, replicate.attempt) for replicate in load_confirm(copy)[1]}
    assert record.status == "completed"
    assert set(ends) == set(pending)
    assert (ends[killed], ends[broken], ends[diverging]) == (("completed", 1), ("failed", 1), ("diverged", 0))

    monkeypatch.setattr(confirm_module, "run_trial", run_trial)
    listener = Listener()
    run_confirm(copy, TWO, listeners=[listener])
    assert listener.started == [broken]  # what the infrastructure lost is tried again, what diverged is not
    assert {replicate.state for replicate in load_confirm(copy)[1]} == {"completed", "diverged"}
    found = pair_with_search(load_confirm(copy)[0], load_sweep(copy)[1], load_confirm(copy)[1])
    assert sum(value is None for one in found for value in one.values("l0")) == 1


def test_a_running_sweep_is_not_confirmed(copy):
    with driver_lock(copy), pytest.raises(EnvironmentNotReady, match="is being run"):
        run_confirm(copy, TWO)
    assert load_confirm(copy) is None


@pytest.mark.parametrize(
    ("request_", "message", "hint"),
    [
        (ConfirmRequest(seeds=1), "1 seed cannot show a spread", "at least 2"),
        (ConfirmRequest(margin=-1), "margin", "frontier alone"),
        (ConfirmRequest(max_configurations=0), "no configuration", "at least 1"),
        (ConfirmRequest(architectures=("topl",)), "no architecture 'topl'", "did you mean topk"),
        (ConfirmRequest(architectures=("zzz",)), "no architecture 'zzz'", "it has topk, relu"),
    ],
)
def test_what_cannot_be_confirmed_is_refused_with_a_hint(searched, request_, message, hint):
    with pytest.raises(UserInputError, match=message) as refused:
        plan_confirm(searched / "tiny", request_)
    assert hint in refused.value.hint


def test_a_sweep_without_a_completed_trial_is_refused(copy):
    for one in load_sweep(copy)[1]:
        if one.architecture == "topk":
            lost = one.model_copy(update={"state": "diverged", "metrics": {}})
            write_record(copy / "trials" / one.uid / "record.json", lost)
    plan = plan_confirm(copy, TWO)
    assert plan.empty == ("topk",)
    assert any("topk has no completed trial" in text for text in plan.warnings)
    with pytest.raises(UserInputError, match="no completed trial of topk"):
        plan_confirm(copy, ConfirmRequest(architectures=("topk",)))


def test_rows_that_come_out_differently_are_refused(copy):
    sweep, _ = load_sweep(copy)
    write_record(copy / "sweep.json", sweep.model_copy(update={"bank": sweep.bank | {"evaluation_digest": "0" * 64}}))
    with pytest.raises(UserInputError, match="come out differently"):
        run_confirm(copy, TWO)
    assert load_confirm(copy) is None


def test_an_unfinished_sweep_is_confirmed_with_a_warning(copy):
    sweep, _ = load_sweep(copy)
    write_record(copy / "sweep.json", sweep.model_copy(update={"status": "interrupted"}))
    warnings = plan_confirm(copy, TWO).warnings
    assert any("not finished" in text for text in warnings)
    assert any("needs 6" in text for text in warnings)
    assert plan_confirm(copy, ConfirmRequest(seeds=6)).warnings == warnings[:1]


def test_the_estimate_is_the_time_of_the_search(searched):
    plan = plan_confirm(searched / "tiny", ConfirmRequest(seeds=3, margin=0))
    spent = {one.uid: one.train_s + one.evaluate_s for one in plan.trials}
    assert plan.estimated_s == pytest.approx(3 * sum(spent[c.uid] for c in plan.configurations))
    assert np.isfinite(plan.estimated_s)


def test_a_replicate_whose_machine_goes_is_repeated_free_of_charge(tmp_path):
    told = "ActorDiedError: The actor died because its node has died."
    one = Assignment(uid="topk-0000-r00", architecture="topk", number=0, params={}, seed=1, attempt=0)
    ledger = Ledger(tmp_path)
    searcher = ReplicateSearcher([one], ledger, max_retries=0, error_of=lambda _: told)
    for number in range(10):
        assert searcher.suggest(str(number)) == asdict(one)
        searcher.on_trial_complete(str(number), error=True)
        assert not ledger.ended
    searcher.suggest("last")
    searcher.on_trial_complete("last", error=True)
    assert ledger.ended[one.uid].state == "failed"
    assert searcher.exhausted
