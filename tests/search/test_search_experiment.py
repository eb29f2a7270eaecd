"""Toy experiments on one Ray: records, resuming, interruptions."""

from __future__ import annotations

import os
import signal
import threading

import numpy as np
import pytest
from safetensors.numpy import load_file

from vsae_search.errors import UserInputError
from vsae_search.search import load_sweep
from vsae_search.search.experiment.plan import TOY_FILE, arm_plans, toy_trials
from vsae_search.search.experiment.run import run_experiment
from vsae_search.search.experiment.trial import run_toy_trial
from vsae_search.search.store.overview import overview
from vsae_search.space import ExperimentSpace

PHASE = {
    "type": "phase_transition",
    "num_features": 6,
    "d_hidden": 2,
    "sparsity": [0.2, 0.9],
    "recipes": {"well": {"steps": 40, "batch_size": 32}, "wild": {"steps": 40, "batch_size": 32, "lr": 1e30}},
    "seeds": 2,
}
GEOMETRY = {
    "type": "geometry",
    "models": {
        "neurons": {
            "d_hidden": 2,
            "model": "neuron",
            "features": {"count": 4, "probability": 0.5},
            "recipe": {"steps": 40, "batch_size": 32},
            "expect": "privileged_basis",
        }
    },
    "seeds": 1,
    "snapshots": 3,
}


def space(experiment, name="toy", **changes):
    return ExperimentSpace.model_validate({"name": name, "experiment": {**experiment, **changes}})


class Listener:
    """Remembers what it was told, and acts at the first trial's end."""

    def __init__(self, act=None) -> None:
        self.started, self.ended, self.states, self.act = [], [], [], act

    def on_sweep_start(self, record) -> None:
        self.states.append(record.status)

    def on_trial_start(self, uid, architecture, params) -> None:
        assert uid.startswith(architecture)
        assert params["replicate"] >= 0
        self.started.append(uid)

    def on_rung(self, uid, rung) -> None:
        raise AssertionError("a toy model has no rungs")

    def on_trial_end(self, trial) -> None:
        self.ended.append(trial.uid)
        if self.act is not None and len(self.ended) == 1:
            self.act()

    def on_sweep_end(self, record) -> None:
        self.states.append(record.status)


def test_trials_keep_their_names_when_seeds_are_added():
    few, many = toy_trials(space(PHASE)), toy_trials(space(PHASE, seeds=4))
    assert [trial.assignment for trial in many[: len(few)]] == [trial.assignment for trial in few]
    uids = [trial.assignment.uid for trial in many]
    assert len(set(uids)) == 16
    assert uids[:4] == ["well-0000", "well-0001", "wild-0000", "wild-0001"]
    assert few[1].assignment.params == {"sparsity": 0.9, "replicate": 0}
    assert len({trial.assignment.seed for trial in many}) == 16
    assert {arm: plan.trials for arm, plan in arm_plans(space(PHASE)).items()} == {"well": 4, "wild": 4}


@pytest.mark.usefixtures("local_ray")
class TestOnRay:
    def test_an_experiment_leaves_a_record_of_every_trial(self, tmp_path):
        listener = Listener()
        record = run_experiment(space(PHASE), root=tmp_path, listeners=[listener])
        assert record.status == "completed"
        assert listener.states == ["running", "completed"]
        stored, trials = load_sweep(tmp_path / "toy")
        assert stored == record
        assert {trial.uid for trial in trials} == set(listener.started) == set(listener.ended)
        assert {trial.state for trial in trials if trial.architecture == "wild"} == {"diverged"}
        assert "learning rate 1e+30" in next(trial.error for trial in trials if trial.architecture == "wild")
        found = overview(tmp_path / "toy")
        assert (found.state, found.total, len(found.trials)) == ("completed", 8, 8)

    def test_a_trial_is_what_the_same_call_gives_without_ray(self, tmp_path):
        one = space(GEOMETRY)
        run_experiment(one, root=tmp_path)
        _, (trial,) = load_sweep(tmp_path / "toy")
        planned = toy_trials(one)[0]
        outcome = run_toy_trial(planned.setting, planned.assignment.seed)
        assert trial.metrics == outcome.metrics
        assert trial.metrics["geometry_found"] in (0.0, 1.0)
        arrays = load_file(tmp_path / "toy" / "trials" / trial.uid / TOY_FILE)
        assert set(arrays) == {"W", "b", "loss_curve", "snapshot_steps", "snapshot_W", "phi", "firing"}
        for name, array in outcome.arrays.items():
            np.testing.assert_array_equal(arrays[name], array)
        assert arrays["snapshot_steps"].tolist() == [0, 20, 40]
        assert arrays["firing"].shape == (3, 2)

    def test_more_seeds_add_trials_and_nothing_is_trained_twice(self, tmp_path):
        run_experiment(space(GEOMETRY), root=tmp_path)
        (file,) = (tmp_path / "toy" / "trials").glob("*/record.json")
        before = file.read_bytes()
        listener = Listener()
        record = run_experiment(space(GEOMETRY, seeds=3), root=tmp_path, listeners=[listener])
        assert listener.started == ["neurons-0001", "neurons-0002"]
        assert sorted(listener.ended) == ["neurons-0000", "neurons-0001", "neurons-0002"]
        assert file.read_bytes() == before
        assert (record.sessions, record.architectures["neurons"].trials) == (2, 3)
        again = Listener()
        assert run_experiment(space(GEOMETRY, seeds=3), root=tmp_path, listeners=[again]).status == "completed"
        assert (again.started, len(again.ended)) == ([], 3)

    def test_a_changed_experiment_is_refused(self, tmp_path):
        run_experiment(space(GEOMETRY), root=tmp_path)
        with pytest.raises(UserInputError, match=r"experiment\.snapshots: was 3, is 5"):
            run_experiment(space(GEOMETRY, snapshots=5), root=tmp_path)

    def test_ctrl_c_lets_the_running_trials_finish_and_the_rest_is_run_later(self, tmp_path):
        assert threading.current_thread() is threading.main_thread()
        drained = []
        listener = Listener(act=lambda: os.kill(os.getpid(), signal.SIGINT))
        one = space(GEOMETRY, seeds=6)
        with pytest.raises(KeyboardInterrupt):
            run_experiment(one, root=tmp_path, listeners=[listener], on_drain=drained.append)
        record, trials = load_sweep(tmp_path / "toy")
        assert record.status == "interrupted"
        assert 0 < len(trials) < 6
        assert {trial.uid for trial in trials} == set(listener.started)
        assert len(drained) == 1
        rest = Listener()
        assert run_experiment(one, root=tmp_path, listeners=[rest]).status == "completed"
        assert len(rest.started) == 6 - len(trials)
