"""How the toy model packs its features: W^T W, feature by feature.

Shapes: M features, D activation width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vsae_search.report.card import Figure
from vsae_search.report.markup import Cell, Column, table
from vsae_search.report.matrix import axes, block_maxima, blocks, coded, heatmap, span
from vsae_search.report.text import number, percent
from vsae_search.report.truth import grouped, stored_truth, why_no_truth
from vsae_search.subjects.superposition import dimensionality, features_per_dimension

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from vsae_search.report.card import Part
    from vsae_search.report.data import ReportData
    from vsae_search.report.matrix import Group
    from vsae_search.report.source import Source

MOST_CELLS = 64
"""Rows of the heat map up to which every feature has its own; of more features, blocks share one."""


class GramCard:
    """The Gram matrix of the true features, grouped by their sets."""

    name = "gram"
    title = "W\u1d40W: how the toy model packs its features"
    order = 600

    def compute(self, source: Source, data: ReportData) -> Mapping[str, Any]:  # noqa: ARG002 - part of the protocol
        """The matrix in the order in which it is shown, and norm and dimensionality by kind of set."""
        truth = stored_truth(source)
        if truth is None:
            return {}
        W_DM = truth.columns_DM
        order_M, groups = grouped(truth, np.arange(W_DM.shape[1]))
        gram_MM = W_DM[:, order_M].T @ W_DM[:, order_M]
        parts = blocks(len(order_M), MOST_CELLS)
        norm_M, share_M = np.linalg.norm(W_DM, axis=0)[order_M], dimensionality(W_DM)[order_M]
        everything: Group = ("all", 0, len(order_M))
        return {
            "trained": truth.W_DM is not None,
            "num_features": len(order_M),
            "width": len(W_DM),
            "features_per_dimension": features_per_dimension(W_DM),
            "block": parts[0][1] - parts[0][0] + 1,
            "names": [span("feature", order_M, *part) for part in parts],
            "groups": [list(group) for group in groups],
            "matrix": coded(block_maxima(gram_MM, parts, parts)),
            "rows": [
                _row(name, norm_M[first:last], share_M[first:last], truth.represented_M[order_M[first:last]])
                for name, first, last in (*groups, *([everything] if len(groups) > 1 else []))
            ],
            "largest_off_diagonal": float(np.abs(gram_MM - np.diag(np.diag(gram_MM))).max(initial=0.0)),
        }

    def unavailable(self, data: ReportData) -> str | None:
        """The true features are not known, or not kept."""
        return None if data.cards["gram"] else why_no_truth(data)

    def render(self, data: ReportData) -> Sequence[Part]:
        """A heat map and a table."""
        found = data.cards["gram"]
        names, block = found["names"], found["block"]
        groups = [(name, first // block, -(-last // block)) for name, first, last in found["groups"]]
        limit = max(1.0, found["largest_off_diagonal"])
        layout = axes(groups, groups)
        layout["yaxis"].update({"scaleanchor": "x", "constrain": "domain", "constraintoward": "top"})
        layout["xaxis"].update({"constrain": "domain"})
        trace = heatmap(found["matrix"], names, names, limit=limit, hover="%{y}, %{x}: %{z}")
        spec = {"data": [trace], "layout": layout}
        return Figure(spec=spec, alt=_alt(found), caption=_caption(found), height_px=620), _table(found)


def _row(
    name: str, norm_G: NDArray[np.float64], share_G: NDArray[np.float64], represented_G: NDArray[np.bool_]
) -> dict[str, Any]:
    return {
        "group": name,
        "features": len(norm_G),
        "represented": int(represented_G.sum()),
        "mean_norm": float(norm_G.mean()),
        "smallest_norm": float(norm_G.min()),
        "largest_norm": float(norm_G.max()),
        "mean_dimensionality": float(share_G.mean()),
        "total_dimensionality": float(share_G.sum()),
    }


def _alt(found: Mapping[str, Any]) -> str:
    kinds = ", ".join(f"{row['features']} {row['group']}" for row in found["rows"] if row["group"] != "all")
    whole = found["rows"][-1]
    return (
        f"Heat map of products between the directions of {found['num_features']} features ({kinds}) in "
        f"{found['width']} dimensions. Mean norm {number(whole['mean_norm'])}, mean dimensionality "
        f"{number(whole['mean_dimensionality'])}, largest product of two different features "
        f"{number(found['largest_off_diagonal'])} in absolute value."
    )


def _caption(found: Mapping[str, Any]) -> str:
    what = (
        "The diagonal holds the squared norms, everything else is interference"
        if found["trained"]
        else "This subject has unit directions and no trained W, so the cells are their cosines"
    )
    text = (
        f"{what}. Blue: positive; orange: negative, as between antipodal features. "
        f"{number(found['features_per_dimension'])} features per dimension (\u2016W\u2016\u00b2 / D)."
    )
    if found["block"] > 1:
        size = found["block"]
        text += f" Each cell is the product of largest absolute value of a block of {size} x {size} features."
    return text


def _table(found: Mapping[str, Any]) -> Part:
    columns = [
        Column("features"),
        Column("number", numeric=True),
        Column("represented", numeric=True, hint="Norm of the trace above 0.5"),
        Column("mean norm", numeric=True),
        Column("smallest", numeric=True),
        Column("largest", numeric=True),
        Column("mean dimensionality", numeric=True, hint="Share of a dimension that a feature has for itself"),
        Column("sum", numeric=True, hint="At most the number of dimensions"),
    ]
    rows = [
        [
            row["group"],
            str(row["features"]),
            Cell(f"{row['represented']} ({percent(row['represented'] / row['features'])})", sort=row["represented"]),
            *(number(row[key]) for key in ("mean_norm", "smallest_norm", "largest_norm", "mean_dimensionality")),
            f"{number(row['total_dimensionality'])} of {found['width']}",
        ]
        for row in found["rows"]
    ]
    return table(columns, rows, caption="Norm and dimensionality by kind of set")


CARD = GramCard()
