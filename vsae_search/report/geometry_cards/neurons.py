"""How many hidden neurons are active while a toy model with a ReLU on its hidden layer is trained.

Shapes: R seeds, T snapshots, D neurons.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vsae_search.report.card import Figure
from vsae_search.report.panels import join_panels, panel, panel_names
from vsae_search.report.quantiles import band_traces, quartiles
from vsae_search.report.styles import COLOURS
from vsae_search.report.toy_models import nothing_trained, stored_toys

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vsae_search.report.card import Part
    from vsae_search.report.data import ReportData
    from vsae_search.report.source import Source

_CURVES = {
    "alive": "neurons that fire on some row",
    "firing": "neurons that fire on a row, on average",
}


class NeuronsCard:
    """A panel for every toy model with neurons."""

    name = "neurons"
    title = "Active neurons over time"
    order = 50

    def compute(self, source: Source, data: ReportData) -> Mapping[str, Any]:  # noqa: ARG002 - part of the protocol
        """Share of neurons that fire at all, and on a row, over the training: quartiles over the seeds."""
        rows = []
        for arm, toys in stored_toys(source).items():
            firing = [toy.arrays["firing"] for toy in toys if "firing" in toy.arrays]
            if firing:
                firing_RTD = np.stack(firing)
                rows.append(
                    {
                        "model": arm,
                        "seeds": len(firing),
                        "steps": toys[0].arrays["snapshot_steps"].tolist(),
                        "alive": quartiles((firing_RTD > 0).mean(axis=2)),
                        "firing": quartiles(firing_RTD.mean(axis=2)),
                    }
                )
        return {"rows": rows}

    def unavailable(self, data: ReportData) -> str | None:
        """No toy model has neurons."""
        reason = nothing_trained(data)
        if reason is None and not data.cards["neurons"]["rows"]:
            return "No toy model has a ReLU on its hidden layer."
        return reason

    def render(self, data: ReportData) -> Sequence[Part]:
        """One figure."""
        rows = data.cards["neurons"]["rows"]
        traces: list[dict[str, Any]] = []
        panels: list[dict[str, Any]] = []
        for index, row in enumerate(rows):
            x_name, y_name = panel_names(index)
            for key, colour in zip(_CURVES, COLOURS, strict=False):
                place = {"xaxis": x_name, "yaxis": y_name, "legendgroup": key}
                band, line = band_traces(row["steps"], row[key], name=_CURVES[key], colour=colour, **place)
                traces += [band, {**line, "mode": "lines", "showlegend": index == 0}]
            title = {"title": {"text": "share of the neurons"}} if index == 0 else {}
            x, y = {"title": {"text": "optimiser steps"}}, {"range": [0, 1.03], **title}
            panels.append(panel(index, len(rows), len(rows), heading=row["model"], x=x, y=y))
        legend = {"orientation": "h", "x": 0, "y": 1.1, "xanchor": "left", "yanchor": "bottom"}
        layout = join_panels(panels, legend=legend, margin={"l": 64, "r": 24, "t": 84, "b": 56})
        return (
            Figure(
                spec={"data": traces, "layout": layout},
                alt="Share of active hidden neurons over the training, one panel per toy model with neurons.",
                caption="Measured on the rows of a fixed sample of 4096 that have a feature. Lines: median over the "
                "seeds; bands: between the quartiles.",
                height_px=400,
            ),
        )


CARD = NeuronsCard()
