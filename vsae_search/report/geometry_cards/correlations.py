"""Which features are present together: the correlation matrix of what the toy models were trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vsae_search.report.card import Figure
from vsae_search.report.geometry_cards.products import MOST_FEATURES
from vsae_search.report.matrix_grid import as_lists, matrix_grid
from vsae_search.report.toy_models import nothing_trained, stored_toys

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vsae_search.report.card import Part
    from vsae_search.report.data import ReportData
    from vsae_search.report.source import Source


class CorrelationsCard:
    """Heat maps of the measured correlations of presence."""

    name = "correlations"
    title = "Correlation of the features"
    order = 60

    def compute(self, source: Source, data: ReportData) -> Mapping[str, Any]:  # noqa: ARG002 - part of the protocol
        """The phi coefficients on 100 000 rows, and the largest one between different features."""
        rows = []
        for arm, toys in stored_toys(source).items():
            phi_MM = toys[0].arrays.get("phi") if toys else None
            if phi_MM is not None and len(phi_MM) <= MOST_FEATURES:
                between = np.abs(phi_MM[~np.eye(len(phi_MM), dtype=np.bool_)])
                largest = float(np.nanmax(between)) if np.isfinite(between).any() else None
                rows.append({"heading": arm, "matrix": as_lists(phi_MM), "largest": largest})
        return {"rows": rows}

    def unavailable(self, data: ReportData) -> str | None:
        """Nothing was trained, or everything has too many features."""
        reason = nothing_trained(data)
        if reason is None and not data.cards["correlations"]["rows"]:
            return f"Every toy model has more than {MOST_FEATURES} features."
        return reason

    def render(self, data: ReportData) -> Sequence[Part]:
        """One figure."""
        rows = data.cards["correlations"]["rows"]
        spec, height = matrix_grid(rows, 1.0, "phi")
        return (
            Figure(
                spec=spec,
                alt="Heat maps of the correlations of presence, one per toy model.",
                caption="Phi coefficients of the presence of two features, measured on 100 000 rows. Anticorrelation "
                "is bounded: two features of probability p reach at most -p / (1 - p).",
                height_px=height,
            ),
        )


CARD = CorrelationsCard()
