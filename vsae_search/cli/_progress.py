"""How a running sweep shows itself: one live block on a terminal; elsewhere plain lines, one per finished trial.

The harvest before the first trial has a bar of its own on a terminal, and a line every ten seconds elsewhere.
"""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from vsae_search.cli import _console
from vsae_search.cli._harvest import Pace, count, in_words
from vsae_search.frontier import hypervolume

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

    from vsae_search.activations import HarvestProgress
    from vsae_search.search import RungRecord, SweepRecord, TrialRecord

_REFRESH_PER_S = 4
_LINE_EVERY_S = 10.0
_BAR_WIDTH = 30
_STATES = ("completed", "stopped", "diverged", "failed")
_SHOWN = ("l0", "delta_ce", "toy_fvu", "features_per_dimension")
"""Metrics that are shown of a trial that has ended: of an autoencoder the first two, of a toy model the others."""


class Tally:
    """Counts, objectives and pace of a sweep: plain numbers, no drawing."""

    def __init__(self) -> None:
        self.budgets: dict[str, int] = {}
        self.states: dict[str, Counter[str]] = defaultdict(Counter)
        self.running: dict[str, str] = {}
        self.points: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self.reference: tuple[float, float] | None = None
        self.l0_range: tuple[float, float] | None = None
        self.started = time.monotonic()
        self.earlier = 0

    def start(self, record: SweepRecord) -> None:
        """Take over the plan of the sweep."""
        self.budgets = {name: plan.trials for name, plan in record.architectures.items()}
        if record.reference is not None:
            self.reference = (record.reference.l0, record.reference.delta_ce)
            self.l0_range = record.reference.l0_range
        self.started = time.monotonic()

    def begin(self, uid: str, architecture: str) -> None:
        """Count a running trial."""
        self.running[uid] = architecture

    def add(self, trial: TrialRecord) -> None:
        """Count a finished trial."""
        if self.running.pop(trial.uid, None) is None:  # told again from an earlier session of the sweep
            self.earlier += 1
        self.states[trial.architecture][trial.state] += 1
        if trial.state == "completed" and "l0" in trial.metrics:  # a toy model has none
            self.points[trial.architecture].append((trial.metrics["l0"], trial.metrics["delta_ce"]))

    @property
    def done(self) -> int:
        """Trials that ended for good, in this session or an earlier one."""
        return sum(sum(states.values()) for states in self.states.values())

    @property
    def total(self) -> int:
        """Trials in the budget."""
        return sum(self.budgets.values())

    def hypervolume(self, architecture: str | None = None) -> float | None:
        """Hypervolume of one architecture's trials, or of all; None before the reference point is known."""
        names = [architecture] if architecture else list(self.points)
        low, high = self.l0_range or (-math.inf, math.inf)
        points = [point for name in names for point in self.points[name] if low <= point[0] <= high]
        if self.reference is None or not points:
            return None
        return hypervolume(np.array(points), self.reference).value

    def remaining_s(self) -> float | None:
        """Estimated seconds to the end from this session's own pace; None before the first trial ended."""
        fresh = self.done - self.earlier
        if fresh <= 0:
            return None
        return (time.monotonic() - self.started) / fresh * max(self.total - self.done, 0)


class PlainProgress:
    """One ``key=value`` line on standard error per finished trial, for logs.

    Args:
        unit: What a row of activations stands for.
    """

    def __init__(self, unit: str = "rows") -> None:
        self.tally = Tally()
        self._pace, self._unit = Pace(), unit
        self._spoken: tuple[str, float] = ("", 0.0)  # the stage of the harvest's last line, and its time
        self._kept = 0  # trials of earlier sessions that are not on a line yet

    def on_harvest(self, progress: HarvestProgress) -> None:
        """One line about every ten seconds, and one at the end of the harvest."""
        self._pace.add(progress)
        stage, spoken_s = self._spoken
        if stage != progress.stage:
            self._spoken = (progress.stage, 0.0)
            if progress.stage != "load":  # which takes a moment
                self.stage(in_words(progress))
            return
        ends = self._pace.finished and progress.stage == "harvest"
        if not ends and progress.seconds - spoken_s < _LINE_EVERY_S:
            return
        self._spoken = (progress.stage, progress.seconds)
        self._line(progress.stage, **self._harvest_values(progress))

    def _harvest_values(self, progress: HarvestProgress) -> dict[str, object]:
        values: dict[str, object] = {}
        if progress.rows_total:
            values[self._unit] = f"{progress.rows_done}/{progress.rows_total}"
        if progress.stage == "harvest":
            pace = progress.rows_done / progress.seconds if self._pace.finished else self._pace.rows_per_s
            values[f"{self._unit}_per_s"] = "-" if pace is None else f"{pace:.0f}"
            values["eta"] = _clock(self._pace.remaining_s)
        return {**values, "elapsed_s": f"{progress.seconds:.0f}"}

    def on_sweep_start(self, record: SweepRecord) -> None:
        """Say where the details go."""
        self.tally.start(record)
        self._line("sweep_started", name=record.name, trials=self.tally.total, ray_logs=record.ray_logs or "-")

    def on_trial_start(self, uid: str, architecture: str, params: dict[str, Any]) -> None:
        """No line: the one at the trial's end is enough."""
        self._say_kept()
        self.tally.begin(uid, architecture)

    def on_rung(self, uid: str, rung: RungRecord) -> None:
        """Nothing: a line when the trial has ended is enough."""

    def on_trial_end(self, trial: TrialRecord) -> None:
        """One line with what the trial reached; those of earlier sessions share one."""
        if trial.uid not in self.tally.running:
            self._kept += 1
            self.tally.add(trial)
            return
        self.tally.add(trial)
        numbers = {key: f"{trial.metrics[key]:.4g}" for key in _SHOWN if key in trial.metrics}
        self._line(
            "trial",
            done=f"{self.tally.done}/{self.tally.total}",
            uid=trial.uid,
            state=trial.state,
            **numbers,
            wall_s=f"{trial.wall_s:.1f}",
            **({"error": trial.error} if trial.error else {}),
        )

    def on_sweep_end(self, record: SweepRecord) -> None:
        """One line with the counts."""
        self._say_kept()
        counts = sum((states for states in self.tally.states.values()), Counter[str]())
        self._line("sweep_ended", name=record.name, **{state: counts[state] for state in _STATES if counts[state]})
        for event, values in closing_numbers(record).items():
            self._line(event, **values)

    def stage(self, text: str) -> None:
        """Say what is being prepared."""
        self._line("preparing", what=text)

    def on_drain(self, running: int) -> None:
        """Say that the sweep has been asked to stop."""
        self._line("stopping", running=running, what="what runs is finished; Ctrl-C again stops at once")

    def close(self) -> None:
        """Nothing is held open."""

    def _say_kept(self) -> None:
        if self._kept:
            self._line("kept", what=f"{self._kept} trial{'s' if self._kept > 1 else ''} kept")
        self._kept = 0

    def _line(self, event: str, **values: object) -> None:
        pairs = " ".join(f"{key}={_quoted(value)}" for key, value in values.items())
        _console.note(f"{datetime.now(UTC).isoformat(timespec='seconds')} {event} {pairs}")


class LiveProgress:
    """One block that redraws itself on a terminal: bar, counts per architecture, hypervolume, last events.

    Args:
        unit: What a row of activations stands for.
    """

    def __init__(self, unit: str = "rows") -> None:
        self.tally = Tally()
        self._pace, self._unit = Pace(), unit
        self._harvesting, self._began = False, 0.0
        self._stage = "starting"
        self._events: list[str] = []
        self._live: Live | None = None
        self._logs = ""

    def on_harvest(self, progress: HarvestProgress) -> None:
        """Draw how far the harvest is."""
        self._pace.add(progress)
        self._harvesting = True
        self._began = time.monotonic() - progress.seconds
        self._say(in_words(progress))

    def on_sweep_start(self, record: SweepRecord) -> None:
        """Begin to draw the table."""
        self.tally.start(record)
        self._logs = record.ray_logs or ""
        self.stage(f"{record.name}: running")

    def on_trial_start(self, uid: str, architecture: str, params: dict[str, Any]) -> None:
        """Show the trial as running."""
        self.tally.begin(uid, architecture)
        self._draw()

    def on_rung(self, uid: str, rung: RungRecord) -> None:
        """Redraw; the numbers of a rung are in MLflow."""
        self._draw()

    def on_trial_end(self, trial: TrialRecord) -> None:
        """Count the trial and show it among the last events."""
        self.tally.add(trial)
        reached = "  ".join(f"{key} {trial.metrics[key]:.3g}" for key in _SHOWN if key in trial.metrics)
        self._events = [*self._events, f"{trial.uid}  {trial.state}  {reached or trial.error or ''}"][-3:]
        self._draw()

    def on_sweep_end(self, record: SweepRecord) -> None:
        """Leave the final table on the screen."""
        numbers = [f"{key} {value}" for values in closing_numbers(record).values() for key, value in values.items()]
        self.stage("   ".join([f"{record.name}: {record.status}", *numbers]))

    def stage(self, text: str) -> None:
        """Say what is being done now."""
        self._harvesting = False
        self._say(text)

    def _say(self, text: str) -> None:
        self._stage = text
        if self._live is None:
            from rich.live import Live

            self._live = Live(console=_console.stderr(), refresh_per_second=_REFRESH_PER_S)
            self._live.start()
        self._draw()

    def on_drain(self, running: int) -> None:
        """Say that the sweep has been asked to stop."""
        self.stage(f"stopping: {running} trials are finished first; Ctrl-C again stops at once")

    def close(self) -> None:
        """Stop redrawing; what is on the screen stays."""
        if self._live is not None:
            self._draw()
            self._live.stop()
            self._live = None

    def _draw(self) -> None:
        if self._live is not None:
            self._live.update(self._block())

    def _block(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        lines: list[RenderableType] = [Text(self._stage, style="bold")]
        if self._harvesting:
            lines.append(self._harvest_bar())
        if self.tally.total:
            lines += [self._bar(), self._table(), *(Text(event, style="dim") for event in self._events)]
        if self._logs:
            lines.append(Text(f"Ray logs: {self._logs}", style="dim", overflow="fold"))
        return Group(*lines)

    def _harvest_bar(self) -> RenderableType:
        from rich.columns import Columns
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        progress = self._pace.latest
        assert progress is not None, "there is a report to draw"
        if not progress.rows_total:
            return _Elapsed(self._began)
        pace = self._pace.rows_per_s
        shown = f"{count(progress.rows_done)}/{count(progress.rows_total)} {self._unit}"
        shown += "" if pace is None else f"   {count(pace)} {self._unit}/s"
        bar = ProgressBar(total=progress.rows_total, completed=progress.rows_done, width=_BAR_WIDTH)
        return Columns([bar, Text(f"{shown}   ETA {_clock(self._pace.remaining_s)}")])

    def _bar(self) -> RenderableType:
        from rich.columns import Columns
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        volume = self.tally.hypervolume()
        shown = f"{self.tally.done}/{self.tally.total} trials   ETA {_clock(self.tally.remaining_s())}"
        if volume is not None:
            shown += f"   hypervolume {volume:.4g}"
        bar = ProgressBar(total=self.tally.total, completed=self.tally.done, width=_BAR_WIDTH)
        return Columns([bar, Text(shown)])

    def _table(self) -> RenderableType:
        from rich.table import Table

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("architecture")
        for heading in ("running", *_STATES, "of", "hypervolume"):
            table.add_column(heading, justify="right")
        running = Counter(self.tally.running.values())
        for name, budget in self.tally.budgets.items():
            states = self.tally.states[name]
            volume = self.tally.hypervolume(name)
            counts = [str(count) if count else "-" for count in (running[name], *(states[state] for state in _STATES))]
            table.add_row(name, *counts, str(budget), "-" if volume is None else f"{volume:.4g}")
        return table


class _Elapsed:
    """Time since something began, read anew whenever it is drawn."""

    def __init__(self, began: float) -> None:
        self._began = began

    def __rich__(self) -> str:
        return f"{_clock(time.monotonic() - self._began)} so far"


def closing_numbers(record: SweepRecord) -> dict[str, dict[str, str]]:
    """What the last lines of a sweep say: how busy the machines were, and what early stopping did."""
    shown: dict[str, dict[str, str]] = {}
    used = {key: value for key, value in record.utilisation.items() if key != "wall_s" and value is not None}
    if record.utilisation.get("wall_s"):
        shown["utilisation"] = {key: f"{value:.0%}" for key, value in used.items()}
    stopping = record.early_stopping
    if stopping.get("on"):
        rate = stopping["false_stop_rate"]
        shown["early_stopping"] = {
            "stopped": str(stopping["stopped"]),
            "training_saved": f"{stopping['training_saved']:.0%}",
            "audited": str(stopping["audited"]),
            "false_stop_rate": "-" if rate is None else f"{rate:.0%}",
        }
    return shown


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "--:--"
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _quoted(value: object) -> str:
    text = str(value)
    return f'"{text}"' if " " in text or not text else text
