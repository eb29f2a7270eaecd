"""How a running sweep shows itself."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from vsae_search.cli import _console, _progress
from vsae_search.search import ArchitecturePlan, ReferenceRecord, SweepRecord, TrialRecord


def sweep(**changes) -> SweepRecord:
    plans = {"topk": ArchitecturePlan(trials=2, startup=1), "relu": ArchitecturePlan(trials=2, startup=1)}
    values = {
        "name": "toy",
        "digest": "0",
        "seed": 0,
        "status": "running",
        "architectures": plans,
        "reference": ReferenceRecord(l0=8, delta_ce=1, source="given"),
    }
    return SweepRecord(**{**values, **changes})


def trial(uid: str, l0: float, delta_ce: float, **changes) -> TrialRecord:
    values = {"architecture": uid.split("-")[0], "number": 0, "params": {}, "seed": 0, "state": "completed"}
    values["metrics"] = {"l0": l0, "delta_ce": delta_ce}
    return TrialRecord(uid=uid, **{**values, **changes})


@pytest.fixture
def screen(monkeypatch):
    console = Console(file=io.StringIO(), width=140, force_terminal=False)
    monkeypatch.setattr(_console, "stderr", lambda: console)
    return console.file


def test_hypervolume_is_that_of_the_completed_trials():
    tally = _progress.Tally()
    tally.start(sweep())
    assert tally.hypervolume() is None
    tally.add(trial("topk-0", 4, 0.5))
    tally.add(trial("relu-0", 2, 0.1, state="diverged", metrics={}))
    # log2(8/4) x (1 - 0.5): the one completed trial against the reference (8, 1)
    assert tally.hypervolume() == pytest.approx(0.5)
    assert tally.hypervolume("relu") is None
    assert (tally.done, tally.total) == (2, 4)


def test_pace_counts_this_session_only(monkeypatch):
    monkeypatch.setattr(_progress.time, "monotonic", lambda: 0.0)
    tally = _progress.Tally()
    tally.start(sweep())
    tally.add(trial("topk-0", 4, 0.5))  # never started here: it is from an earlier session
    assert tally.remaining_s() is None
    tally.begin("topk-1", "topk")
    tally.add(trial("topk-1", 4, 0.5))
    monkeypatch.setattr(_progress.time, "monotonic", lambda: 30.0)
    assert tally.remaining_s() == pytest.approx(60.0)  # two left at 30 s each


def test_plain_progress_prints_one_line_per_finished_trial(screen):
    progress = _progress.PlainProgress()
    progress.on_sweep_start(sweep(ray_logs="/logs"))
    progress.on_trial_start("topk-0", "topk", {})
    progress.on_trial_end(trial("topk-0", 4, 0.5, wall_s=1.25))
    progress.on_trial_start("relu-0", "relu", {})
    progress.on_trial_end(trial("relu-0", 1, 1, state="diverged", error="loss is not finite", metrics={}))
    progress.on_sweep_end(sweep(status="completed"))
    lines = screen.getvalue().splitlines()
    assert len(lines) == 4
    assert "trials=4" in lines[0]
    assert "ray_logs=/logs" in lines[0]
    assert "done=1/4 uid=topk-0 state=completed l0=4 delta_ce=0.5 wall_s=1.2" in lines[1]
    assert 'error="loss is not finite"' in lines[2]
    assert "completed=1 diverged=1" in lines[3]


def test_plain_progress_has_one_line_for_all_trials_of_earlier_sessions(screen):
    progress = _progress.PlainProgress()
    progress.on_sweep_start(sweep())
    for uid in ("topk-0", "topk-1", "relu-0"):
        progress.on_trial_end(trial(uid, 4, 0.5))
    progress.on_trial_start("relu-1", "relu", {})
    progress.on_trial_end(trial("relu-1", 4, 0.5))
    progress.on_sweep_end(sweep(status="completed"))
    lines = screen.getvalue().splitlines()
    assert len(lines) == 4
    assert "3 trials kept" in lines[1]
    assert "done=4/4 uid=relu-1" in lines[2]


def test_plain_progress_of_a_finished_sweep(screen):
    progress = _progress.PlainProgress()
    progress.on_sweep_start(sweep())
    progress.on_trial_end(trial("topk-0", 4, 0.5))
    progress.on_sweep_end(sweep(status="completed"))
    assert [line.split(" ", 1)[1] for line in screen.getvalue().splitlines()[1:]] == [
        'kept what="1 trial kept"',
        "sweep_ended name=toy completed=1",
    ]


def test_live_block_shows_counts_hypervolume_and_last_events(screen):
    progress = _progress.LiveProgress()
    progress.on_sweep_start(sweep())
    progress.on_trial_start("topk-0", "topk", {})
    progress.on_trial_end(trial("topk-0", 4, 0.5))
    progress.on_trial_start("relu-0", "relu", {})
    progress.on_sweep_end(sweep(status="completed"))
    progress.close()
    shown = screen.getvalue()
    assert "toy: completed" in shown
    assert "1/4 trials" in shown
    assert "hypervolume 0.5" in shown
    assert "topk-0  completed  l0 4  delta_ce 0.5" in shown


def test_quiet_says_nothing(capsys):
    _console.configure(quiet=True, debug=False, no_color=False)
    try:
        _progress.PlainProgress().on_sweep_start(sweep())
        assert capsys.readouterr().err == ""
    finally:
        _console.configure(quiet=False, debug=False, no_color=False)


@pytest.mark.parametrize(("seconds", "text"), [(None, "--:--"), (5.2, "0:06"), (61, "1:01"), (3723, "1:02:03")])
def test_clock(seconds, text):
    assert _progress._clock(seconds) == text
