"""How the harvest shows itself, on a terminal and in a log."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from vsae_search.activations import HarvestProgress
from vsae_search.cli import _console, _harvest, _progress


def reports(seconds_per_file: float, files: int, *, rows: int = 1000, stage: str = "harvest") -> list[HarvestProgress]:
    """What a bank of equal files tells: its beginning, a tick in the middle of every file, and every file."""
    told = [HarvestProgress(stage, 0, rows * files, 0.0)]
    for done in range(files):
        told.append(HarvestProgress(stage, rows * done, rows * files, seconds_per_file * (done + 0.5)))
        told.append(HarvestProgress(stage, rows * (done + 1), rows * files, seconds_per_file * (done + 1)))
    return told


def lines_of(console: Console) -> list[str]:
    """The lines of a log without their times."""
    lines = console.file.getvalue().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT[\d:]+\+00:00 ", line) for line in lines)
    return [line.split(" ", 1)[1] for line in lines]


@pytest.fixture
def log(monkeypatch):
    """A console that is no terminal."""
    console = Console(file=io.StringIO(), width=140, force_terminal=False)
    monkeypatch.setattr(_console, "stderr", lambda: console)
    return console


@pytest.fixture
def terminal(monkeypatch):
    """A terminal that keeps what was drawn on it."""
    console = Console(file=io.StringIO(), width=140, force_terminal=True, color_system=None, record=True)
    monkeypatch.setattr(_console, "stderr", lambda: console)
    return console


def test_pace_and_what_is_left():
    pace = _harvest.Pace()
    assert (pace.rows_per_s, pace.remaining_s, pace.finished) == (None, None, False)
    for progress in reports(4.0, 5)[:5]:
        pace.add(progress)
    assert pace.rows_per_s == pytest.approx(2000 / 8)
    assert pace.remaining_s == pytest.approx(3000 / 250)
    pace.add(HarvestProgress("harvest", 2000, 5000, 12.0))
    assert pace.rows_per_s == pytest.approx(2000 / 12), "time without a file counts"


def test_files_that_were_there_do_not_count_for_long():
    pace = _harvest.Pace()
    pace.add(HarvestProgress("harvest", 0, 100_000, 0.0))
    pace.add(HarvestProgress("harvest", 50_000, 100_000, 0.1))  # found on disk
    for second in range(10, 101, 10):
        pace.add(HarvestProgress("harvest", 50_000 + 100 * second, 100_000, second))
    assert pace.rows_per_s == pytest.approx(100, rel=0.01)
    assert pace.remaining_s == pytest.approx(400, rel=0.01)


def test_a_new_stage_has_a_pace_of_its_own():
    pace = _harvest.Pace()
    for progress in reports(1.0, 3):
        pace.add(progress)
    assert pace.finished
    pace.add(HarvestProgress("load", 0, 3000, 0.0))
    assert (pace.rows_per_s, pace.finished) == (None, False)


@pytest.mark.parametrize(("number", "text"), [(0, "0"), (999, "999"), (52_100, "52.1 k"), (20_000_000, "20 M")])
def test_counts_are_short(number, text):
    assert _harvest.count(number) == text


def test_a_log_has_a_line_about_every_ten_seconds(log):
    progress = _progress.PlainProgress("tokens")
    for report in [HarvestProgress("tokenise", 0, 0, 0.0), *reports(4.0, 8), *reports(0.01, 8, stage="load")]:
        progress.on_harvest(report)
    assert lines_of(log) == [
        'preparing what="reading the text"',
        'preparing what="harvesting activations"',
        "harvest tokens=2000/8000 tokens_per_s=200 eta=0:30 elapsed_s=10",
        "harvest tokens=5000/8000 tokens_per_s=250 eta=0:12 elapsed_s=20",
        "harvest tokens=7000/8000 tokens_per_s=233 eta=0:05 elapsed_s=30",
        "harvest tokens=8000/8000 tokens_per_s=250 eta=0:00 elapsed_s=32",
    ]


def test_a_log_is_told_of_a_slow_file_too(log):
    progress = _progress.PlainProgress()
    for second in range(25):
        progress.on_harvest(HarvestProgress("harvest", 0, 5000, float(second)))
    assert lines_of(log)[1:] == [
        "harvest rows=0/5000 rows_per_s=- eta=--:-- elapsed_s=10",
        "harvest rows=0/5000 rows_per_s=- eta=--:-- elapsed_s=20",
    ]


def test_a_bank_that_is_there_says_nothing_in_a_log(log):
    progress = _progress.PlainProgress()
    for report in reports(0.01, 8, stage="load"):
        progress.on_harvest(report)
    assert lines_of(log) == []


def test_a_terminal_has_a_bar_with_pace_and_time_left(terminal):
    progress = _progress.LiveProgress("tokens")
    for report in reports(4.0, 5)[:5]:
        progress.on_harvest(report)
    terminal.clear()
    terminal.print(progress._block())
    shown = terminal.export_text()
    assert "harvesting activations" in shown
    assert "2 k/5 k tokens   250 tokens/s   ETA 0:12" in shown
    bar = re.search("━+", shown)
    assert bar is not None
    progress.stage("writing the report")
    terminal.print(progress._block())
    after = terminal.export_text()
    progress.close()
    assert "tokens/s" not in after[after.index("writing the report") :]


def test_a_terminal_says_how_long_the_text_has_been_read(terminal, monkeypatch):
    monkeypatch.setattr(_progress.time, "monotonic", lambda: 100.0)
    progress = _progress.LiveProgress()
    progress.on_harvest(HarvestProgress("tokenise", 0, 0, 0.0))
    monkeypatch.setattr(_progress.time, "monotonic", lambda: 165.0)
    terminal.print(progress._block())
    progress.close()
    shown = terminal.export_text()
    assert "reading the text" in shown
    assert "1:05 so far" in shown
