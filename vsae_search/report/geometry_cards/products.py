"""W^T W of every toy model: norms on the diagonal, interference beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vsae_search.report.card import Figure
from vsae_search.report.matrix_grid import as_lists, matrix_grid
from vsae_search.report.toy_models import nothing_trained, stored_toys

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vsae_search.report.card import Part
    from vsae_search.report.data import ReportData
    from vsae_search.report.source import Source

MOST_FEATURES = 128


class ProductsCard:
    """Heat maps of the seed with the lowest loss."""

    name = "products"
    title = "W\u1d40W"
    order = 30

    def compute(self, source: Source, data: ReportData) -> Mapping[str, Any]:  # noqa: ARG002 - part of the protocol
        """The products of toy models with at most 128 features."""
        rows = []
        for arm, toys in stored_toys(source).items():
            if toys and toys[0].arrays["W"].shape[1] <= MOST_FEATURES:
                W_DM = toys[0].arrays["W"].astype(np.float64)
                rows.append({"heading": arm, "uid": toys[0].record.uid, "matrix": as_lists(W_DM.T @ W_DM)})
        return {"rows": rows}

    def unavailable(self, data: ReportData) -> str | None:
        """Nothing was trained, or everything has too many features."""
        reason = nothing_trained(data)
        if reason is None and not data.cards["products"]["rows"]:
            return f"Every toy model has more than {MOST_FEATURES} features."
        return reason

    def render(self, data: ReportData) -> Sequence[Part]:
        """One figure."""
        rows = data.cards["products"]["rows"]
        spec, height = matrix_grid(rows, 1.0, "product")
        return (
            Figure(
                spec=spec,
                alt="Heat maps of the products of the columns of W, one per toy model.",
                caption="Products of the columns of W, of the seed with the lowest loss: squared norms on the diagonal "
                "and interference beside it. Blue: positive; orange: negative, as in antipodal pairs; full colour "
                "from 1 on.",
                height_px=height,
            ),
        )


CARD = ProductsCard()
