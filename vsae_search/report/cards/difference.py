"""Where on the plane one architecture attains more often than another, for the best few architectures."""

from __future__ import annotations

import itertools
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from vsae_search.frontier import attainment_difference, attainment_surface, hypervolumes
from vsae_search.report.card import Control, Figure
from vsae_search.report.chart import plane, steps
from vsae_search.report.replicated import box, not_confirmed, replicates, seeds_text
from vsae_search.report.text import number, percent
from vsae_search.report.view import box_text, frontier_view

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vsae_search.frontier import AttainmentDifference, Replicates
    from vsae_search.frontier.hypervolume import Point
    from vsae_search.report.card import Part
    from vsae_search.report.data import ReportData
    from vsae_search.report.source import Source

MOST_ARCHITECTURES = 3
"""The best ones, whose pairs can be chosen."""
SIDE_A, SIDE_B = "0,114,178", "213,94,0"
"""Blue and vermilion of Okabe and Ito; the second side is hatched too."""
_DIGITS = 4


class DifferenceCard:
    """Attainment differences, one pair at a time."""

    name = "difference"
    title = "Where one architecture beats another"
    order = 34

    def compute(self, source: Source, data: ReportData) -> Mapping[str, Any]:  # noqa: ARG002 - part of the protocol
        """Rectangles of the pairs among the architectures with the largest mean hypervolumes, best pair first."""
        corners, runs = box(data), replicates(data)
        if corners is None or len(runs) < 2:
            return {"pairs": []}
        reference, ideal = corners
        means = {name: float(hypervolumes(one.points_RN2, reference, ideal=ideal).mean()) for name, one in runs.items()}
        best = sorted(means, key=lambda name: (-means[name], name))[:MOST_ARCHITECTURES]
        return {"pairs": [_pair(runs[a], runs[b], reference, ideal) for a, b in itertools.combinations(best, 2)]}

    def unavailable(self, data: ReportData) -> str | None:
        """No reference point, or too few confirmed architectures."""
        if box(data) is None:
            return "Without a reference point there is no box on which to compare."
        return not_confirmed(data, "A map of how often each architecture attains a place", at_least=2)

    def render(self, data: ReportData) -> Sequence[Part]:
        """One figure; buttons choose the pair."""
        view = frontier_view(data)
        assert view is not None, "confirmed trials are drawable"
        pairs = data.cards["difference"]["pairs"]
        groups = [_traces(pair, data) for pair in pairs]
        owner = [index for index, traces in enumerate(groups) for _ in traces]
        traces = [{**trace, "visible": index == 0} for index, group in enumerate(groups) for trace in group]
        controls = [
            Control(f"{pair['a']} / {pair['b']}", {}, pressed=index == 0, visible=[own == index for own in owner])
            for index, pair in enumerate(pairs)
        ]
        return (
            Figure(
                spec={"data": traces, "layout": plane(data, view)},
                alt="Difference of attainment. " + " ".join(map(_in_words, pairs)),
                caption=_caption(data, pairs),
                controls=[controls] if len(controls) > 1 else (),
            ),
        )


def _pair(a: Replicates, b: Replicates, reference: Point, ideal: Point) -> dict[str, Any]:
    found = attainment_difference(a.points_RN2, b.points_RN2, reference, ideal=ideal)
    return {
        "a": a.architecture,
        "b": b.architecture,
        "num_runs_a": found.num_runs_a,
        "num_runs_b": found.num_runs_b,
        "favours_a": found.favours_a,
        "favours_b": found.favours_b,
        "levels": _levels(found),
        "medians": [attainment_surface(runs.points_RN2).corners_M2.tolist() for runs in (a, b)],
    }


def _levels(found: AttainmentDifference) -> list[dict[str, Any]]:
    """Rectangles by the difference that they have, smallest difference first."""
    difference_C = np.round(found.difference_C, _DIGITS)
    return [
        {
            "difference": float(value),
            "boxes": [[_rounded(edge) for edge in edges] for edges in found.boxes_C4[difference_C == value].tolist()],
        }
        for value in sorted(np.unique(difference_C).tolist(), key=abs)
    ]


def _rounded(value: float) -> float:
    """Few digits: thousands of rectangles are drawn, and no pixel is finer."""
    return float(f"{value:.{_DIGITS}g}")


def _traces(pair: Mapping[str, Any], data: ReportData) -> list[dict[str, Any]]:
    traces = [_rectangles(pair, level) for level in pair["levels"] if level["difference"]]
    end = data.axes.reference.l0 if data.axes.reference else None
    for name, corners in zip((pair["a"], pair["b"]), pair["medians"], strict=True):
        entry = data.architecture(name)
        x, y = steps(corners, end)
        line = {"shape": "hv", "color": entry.colour, "width": 2}
        marker = {"symbol": entry.symbol, "size": 7, "color": entry.colour}
        look = {"mode": "lines+markers", "line": line, "marker": marker, "hoverinfo": "skip", "showlegend": True}
        traces.append({"type": "scatter", "name": f"{escape(name)}, half of the seeds", "x": x, "y": y, **look})
    return traces


def _rectangles(pair: Mapping[str, Any], level: Mapping[str, Any]) -> dict[str, Any]:
    """All rectangles of one difference as one shape with gaps."""
    value = level["difference"]
    x: list[float | None] = []
    y: list[float | None] = []
    for left, low, right, high in level["boxes"]:
        x += [left, right, right, left, left, None]
        y += [low, low, high, high, low, None]
    winner, loser = (pair["a"], pair["b"]) if value > 0 else (pair["b"], pair["a"])
    side = SIDE_A if value > 0 else SIDE_B
    colour = f"rgba({side},{0.15 + 0.65 * abs(value):.3f})"
    fill: dict[str, Any] = {"fillcolor": colour}
    if value < 0:  # hatched, so that colour is not the only difference
        fill["fillpattern"] = {"shape": "/", "size": 6, "solidity": 0.25, "fgcolor": "rgba(255,255,255,0.7)"}
    text = f"{escape(winner)} attains this in {percent(abs(value))} more of its seeds than {escape(loser)}"
    return {
        **{"type": "scatter", "x": x, "y": y, "mode": "lines", "line": {"width": 0}, "fill": "toself"},
        **{"hoveron": "fills", "hoverinfo": "text", "text": text, "showlegend": False, "name": escape(winner)},
        **fill,
    }


def _in_words(pair: Mapping[str, Any]) -> str:
    return (
        f"{pair['a']} against {pair['b']}: the first is ahead on {percent(pair['favours_a'])} of the reference box, "
        f"the second on {percent(pair['favours_b'])}, weighted by how much more often."
    )


def _caption(data: ReportData, pairs: Sequence[Mapping[str, Any]]) -> str:
    first = pairs[0]
    runs = f"{number(first['num_runs_a'])} against {number(first['num_runs_b'])} runs"
    return (
        f"Plain blue: the first architecture attains the place in more of its seeds; hatched orange: the second; the "
        f"stronger, the more seeds. Best pair by mean hypervolume first ({runs}, {seeds_text(data)} in all). "
        f"{' '.join(map(_in_words, pairs))} {box_text(data)}"
    )


CARD = DifferenceCard()
