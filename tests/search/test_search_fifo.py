"""The next trial, found among those that have not ended."""

from __future__ import annotations

import pickle
from dataclasses import dataclass

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler

from vsae_search.search.fifo import FirstLive


@dataclass
class Controller:
    """Tune's controller, as far as a scheduler sees it."""

    trials: list

    def get_trials(self):
        return self.trials


@dataclass
class One:
    """A trial of Tune, that counts how often it is looked at."""

    name: str
    status: str = Trial.PENDING
    looks: int = 0

    def is_finished(self):
        self.looks += 1
        return self.status in (Trial.ERROR, Trial.TERMINATED)


def test_it_chooses_as_tune_does_whatever_has_ended():
    controller = Controller([One(str(number)) for number in range(6)])
    ours, tunes = FirstLive(), FIFOScheduler()
    for trial in controller.trials:
        ours.on_trial_add(controller, trial)
    changes = [
        (0, Trial.RUNNING),
        (1, Trial.RUNNING),
        (0, Trial.TERMINATED),
        (2, Trial.PAUSED),
        (3, Trial.ERROR),
        (1, Trial.PENDING),
        (4, Trial.TERMINATED),
        (1, Trial.TERMINATED),
        (5, Trial.TERMINATED),
        (2, Trial.TERMINATED),
    ]
    chosen = []
    for number, status in changes:
        controller.trials[number].status = status
        chosen.append(ours.choose_trial_to_run(controller))
        assert chosen[-1] is tunes.choose_trial_to_run(controller)
    assert [one and one.name for one in chosen] == ["1", "2", "2", "3", "4", "1", "1", "5", "2", None]


def test_a_trial_that_has_ended_is_looked_at_no_more():
    controller = Controller([One("ended", Trial.TERMINATED), One("runs", Trial.RUNNING)])
    scheduler = FirstLive()
    for trial in controller.trials:
        scheduler.on_trial_add(controller, trial)
    for _ in range(10):
        assert scheduler.choose_trial_to_run(controller) is None
    assert [trial.looks for trial in controller.trials] == [1, 10]


def test_tune_pickles_it_without_its_trials():
    scheduler = FirstLive()
    scheduler.on_trial_add(Controller([]), One("runs"))
    assert pickle.loads(pickle.dumps(scheduler)).choose_trial_to_run(None) is None
