"""How the hypervolume of each architecture grew: over trials, over training rows, and over training seconds."""

from __future__ import annotations

import itertools
import math
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from vsae_search.frontier import hypervolume_history
from vsae_search.report.card import Control, Figure
from vsae_search.report.replicated import box, counted
from vsae_search.report.text import mask, number, percent
from vsae_search.report.view import box_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vsae_search.report.card import Part
    from vsae_search.report.data import ReportData
    from vsae_search.report.source import Source
    from vsae_search.search.records import TrialRecord

AXES = {
    "trials": "trials that have ended",
    "tokens": "training rows, all trials together",
    "seconds": "seconds of training, all trials together",
}


class HypervolumeCard:
    """Anytime curves on three axes of effort."""

    name = "hypervolume"
    title = "Hypervolume over trials and compute"
    order = 40

    def compute(self, source: Source, data: ReportData) -> Mapping[str, Any]:
        """Per architecture the places at which its hypervolume grew, and where it ended."""
        corners = box(data)
        if corners is None:
            return {"curves": []}
        curves = []
        for entry in data.architectures:
            trials = [trial for trial in source.trials if mask(trial.architecture) == entry.name]
            trials.sort(key=lambda trial: (trial.ended_at, trial.number))
            if trials:
                points_N2 = counted(np.array([_point(trial) for trial in trials], dtype=np.float64), data)
                history_N = hypervolume_history(points_N2, corners[0], ideal=corners[1])
                curves.append({"architecture": entry.name, **_curve(trials, history_N.tolist())})
        return {"curves": curves}

    def unavailable(self, data: ReportData) -> str | None:
        """No reference point or no trial."""
        if box(data) is None:
            return "Without a reference point no hypervolume can be measured."
        return None if data.cards["hypervolume"]["curves"] else "No trial has ended yet."

    def render(self, data: ReportData) -> Sequence[Part]:
        """One figure; buttons choose the axis of effort."""
        curves = data.cards["hypervolume"]["curves"]
        usable = [axis for axis in AXES if any(curve[axis][-1] > 0 for curve in curves)]
        traces = [{**_trace(data, curve, axis), "visible": axis == usable[0]} for axis in usable for curve in curves]
        controls = [
            Control(
                axis,
                {"xaxis.title.text": AXES[axis], "xaxis.autorange": True},
                pressed=axis == usable[0],
                visible=[other == axis for other in usable for _ in curves],
            )
            for axis in usable
        ]
        return (
            Figure(
                spec={"data": traces, "layout": _layout(AXES[usable[0]])},
                alt="Hypervolume over effort; at the end: " + "; ".join(map(_in_words, curves)) + ".",
                caption=_CAPTION + box_text(data),
                controls=[controls] if len(controls) > 1 else (),
                height_px=460 + 14 * max(0, len(curves) - 6),
            ),
        )


_CAPTION = (
    "Share of the reference box that the completed trials dominate, as scored by the search. Trials of all outcomes "
    "count as effort, in the order in which they ended; trials of different architectures ran side by side. "
)


def _point(trial: TrialRecord) -> tuple[float, float]:
    if trial.state != "completed":
        return math.nan, math.nan
    return trial.metrics.get("l0", math.nan), trial.metrics.get("delta_ce", math.nan)


def _curve(trials: Sequence[TrialRecord], history: Sequence[float]) -> dict[str, list[float]]:
    """Where the curve bends: its first trial, every improvement and the last trial."""
    last = len(trials) - 1
    kept = [n for n in range(len(trials)) if n in (0, last) or history[n] > history[n - 1]]
    tokens = list(itertools.accumulate(trial.rungs[-1].tokens if trial.rungs else 0 for trial in trials))
    seconds = list(itertools.accumulate(trial.train_s or trial.wall_s for trial in trials))
    return {
        "trials": [n + 1 for n in kept],
        "tokens": [tokens[n] for n in kept],
        "seconds": [round(seconds[n], 3) for n in kept],
        "hypervolume": [history[n] for n in kept],
    }


def _trace(data: ReportData, curve: Mapping[str, Any], axis: str) -> dict[str, Any]:
    entry = data.architecture(curve["architecture"])
    return {
        "type": "scatter",
        "name": escape(entry.name),
        "legendgroup": escape(
            entry.name
        ),  # groups follow one another; single names stand in columns, which take more room
        "x": curve[axis],
        "y": [100 * value for value in curve["hypervolume"]],
        "mode": "lines+markers",
        "line": {"shape": "hv", "color": entry.colour, "width": 2},
        "marker": {"symbol": entry.symbol, "size": 6, "color": entry.colour},
        "hovertemplate": f"{escape(entry.name)}<br>%{{y:.3g}} % at %{{x:.4g}}<extra></extra>",
    }


def _layout(title: str) -> dict[str, Any]:
    return {
        "xaxis": {"title": {"text": title}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": "hypervolume, % of the reference box"}, "rangemode": "tozero"},
        "hovermode": "closest",
        "legend": {"orientation": "h", "x": 0, "y": 1.05, "xanchor": "left", "yanchor": "bottom"},
        "margin": {"l": 72, "r": 24, "t": 48, "b": 60},
    }


def _in_words(curve: Mapping[str, Any]) -> str:
    return f"{curve['architecture']} {percent(curve['hypervolume'][-1])} after {number(curve['trials'][-1])} trials"


CARD = HypervolumeCard()
