"""The features of two-dimensional toy models as arrows, with the paths on which they came there.

Shapes: M features, T snapshots.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vsae_search.report.arrows import arrows
from vsae_search.report.card import Figure
from vsae_search.report.chart import GREY
from vsae_search.report.panels import join_panels, panel, panel_names
from vsae_search.report.styles import COLOURS
from vsae_search.report.text import listed, number
from vsae_search.report.toy_models import ASCENDING, nothing_trained, settings_of, stored_toys

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vsae_search.report.card import Part
    from vsae_search.report.data import ReportData
    from vsae_search.report.source import Source
    from vsae_search.report.toy_models import StoredToy
    from vsae_search.space import ToySetting

MOST_SEEDS = 5
_ROOM = 1.15


class FeaturePlotsCard:
    """A row of planes for every two-dimensional toy model."""

    name = "feature_plots"
    title = "Features in two dimensions"
    order = 20

    def compute(self, source: Source, data: ReportData) -> Mapping[str, Any]:  # noqa: ARG002 - part of the protocol
        """Columns of W, their paths, and which features were drawn together."""
        settings = settings_of(source)
        return {
            "rows": [
                {"model": arm, "sets": _sets(settings[arm]), "seeds": [_seed(toy) for toy in toys[:MOST_SEEDS]]}
                for arm, toys in stored_toys(source).items()
                if settings[arm].d_hidden == 2 and toys
            ]
        }

    def unavailable(self, data: ReportData) -> str | None:
        """No toy model has two hidden dimensions."""
        reason = nothing_trained(data)
        if reason is None and not data.cards["feature_plots"]["rows"]:
            return "No toy model has two hidden dimensions."
        return reason

    def render(self, data: ReportData) -> Sequence[Part]:
        """One figure."""
        rows = data.cards["feature_plots"]["rows"]
        columns = max(len(row["seeds"]) for row in rows)
        traces: list[dict[str, Any]] = []
        panels: list[dict[str, Any]] = []
        for place, row in enumerate(rows):
            for column, seed in enumerate(row["seeds"]):
                index = place * columns + column
                traces += _traces(row, seed, index)
                panels.append(_panel(row, seed, index, len(rows) * columns, columns))
        layout = join_panels(panels, showlegend=False, hovermode="closest", margin={"l": 16, "r": 16, "t": 52, "b": 12})
        return (
            Figure(
                spec={"data": traces, "layout": layout},
                alt=f"Columns of W as arrows for {listed([row['model'] for row in rows])}, one plane per seed.",
                caption=f"Arrows: columns of W, one per feature; colours: features drawn together, or each its own. "
                f"Thin lines: how they came there. {ASCENDING}",
                height_px=76 + 215 * len(rows),
            ),
        )


def _sets(setting: ToySetting) -> list[int]:
    """For every feature the number of its set; features outside of sets each have a number of their own."""
    number_of = {m: place for place, (_, members) in enumerate(setting.features.members()) for m in members}
    following = iter(range(len(setting.features.members()), setting.features.count + len(number_of)))
    return [number_of[i] if i in number_of else next(following) for i in range(setting.features.count)]


def _seed(toy: StoredToy) -> dict[str, Any]:
    paths_TDM = toy.arrays["snapshot_W"].astype(np.float64).round(3)
    metrics = toy.record.metrics
    return {
        "uid": toy.record.uid,
        "loss": metrics["toy_loss"],
        "found": bool(metrics["geometry_found"]) if "geometry_found" in metrics else None,
        "W": toy.arrays["W"].astype(np.float64).round(4).tolist(),
        "paths": paths_TDM.transpose(2, 1, 0).tolist(),
    }


def _traces(row: Mapping[str, Any], seed: Mapping[str, Any], index: int) -> list[dict[str, Any]]:
    place = dict(zip(("xaxis", "yaxis"), panel_names(index), strict=True))
    x: list[float | None] = []
    y: list[float | None] = []
    for right, up in seed["paths"]:
        x += [*right, None]
        y += [*up, None]
    line = {"color": GREY, "width": 1}
    found = [{"type": "scatter", "mode": "lines", "x": x, "y": y, "line": line, "hoverinfo": "skip", **place}]
    W_2M, sets = np.array(seed["W"]), np.array(row["sets"])
    for number_of_set in sorted(set(row["sets"])):
        members = np.flatnonzero(sets == number_of_set)
        names = [f"{row['model']}, feature {member}" for member in members]
        colour = COLOURS[number_of_set % len(COLOURS)]
        found.append({**arrows(W_2M[:, members].T, names, label=str(number_of_set), colour=colour), **place})
    return found


def _panel(row: Mapping[str, Any], seed: Mapping[str, Any], index: int, count: int, columns: int) -> dict[str, Any]:
    reach = _ROOM * max(float(np.abs(one[part]).max()) for one in row["seeds"] for part in ("W", "paths"))
    x_name, _ = panel_names(index)
    bare = {"range": [-reach, reach], "showgrid": False, "showticklabels": False, "zeroline": True}
    mark = {True: " \u2713", False: " \u2717", None: ""}[seed["found"]]
    first = f"{row['model']}: " if index % columns == 0 else ""
    heading = f"{first}loss {number(seed['loss'], 2)}{mark}"
    square = {"scaleanchor": x_name, "constrain": "domain"}
    return panel(
        index, count, columns, heading=heading, x={**bare, "constrain": "domain"}, y={**bare, **square}, gap=(0.03, 0.1)
    )


CARD = FeaturePlotsCard()
