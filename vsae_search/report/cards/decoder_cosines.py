"""What the decoders learnt: true directions against decoder rows, ordered by the optimal matching.

Shapes: M represented features, F latents, A alive latents.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vsae_search.report.card import Control, Figure
from vsae_search.report.decoders import RULE, best_trials, read_decoder
from vsae_search.report.markup import Cell, Column, link, swatch, table
from vsae_search.report.matrix import axes, block_maxima, blocks, coded, heatmap, span
from vsae_search.report.text import listed, number, percent
from vsae_search.report.truth import grouped, stored_truth, why_no_truth

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vsae_search.report.card import Part
    from vsae_search.report.data import ReportData
    from vsae_search.report.decoders import Decoder
    from vsae_search.report.source import Source
    from vsae_search.search.store.truth import StoredTruth

MOST_FEATURES = 64
"""Rows up to which every feature has its own."""
MOST_UNMATCHED = 8
"""Columns of alive latents without a feature, and of dead latents; of more latents, blocks share one."""
MOST_CELLS = 96_000
"""Cells of all matrices together, a byte each; beyond, more features share a row."""
_MATCHED, _SPARE, _DEAD = "matched", "unmatched", "dead"
_RECOVERED = 0.9
_UNIT = 0.02  # half the bytes of the page that 0.01 would take once it is compressed


class DecoderCosinesCard:
    """One matrix of cosines per architecture."""

    name = "decoder_cosines"
    title = "True directions against decoder rows"
    order = 610

    def compute(self, source: Source, data: ReportData) -> Mapping[str, Any]:
        """Per architecture the trial that stands for it and its matrix in the order in which it is shown."""
        truth = stored_truth(source)
        if truth is None:
            return {}
        matrices, gone = [], []
        best = best_trials(data)
        most = _rows_of_each(len(best), int(truth.represented_M.sum()))
        for name, row in best.items():
            decoder = read_decoder(source, row.uid, truth.directions_MD.shape[1])
            if decoder is None or len(truth.directions_MD) <= decoder.feature_M.max(initial=-1):
                gone.append(row.uid)
            else:
                matrices.append({"architecture": name, "uid": row.uid, **_ordered(truth, decoder, most)})
        return {"matrices": matrices, "gone": gone}

    def unavailable(self, data: ReportData) -> str | None:
        """No true features, no frontier trial with recovery numbers, or no weights."""
        found = data.cards["decoder_cosines"]
        if not found:
            return why_no_truth(data)
        if found["matrices"]:
            return None
        if found["gone"]:
            return f"The weights of {listed(found['gone'])} are not in the sweep directory any more, or unreadable."
        return "No frontier trial has recovery numbers."

    def render(self, data: ReportData) -> Sequence[Part]:
        """One figure; buttons choose the architecture. Then a table."""
        found = data.cards["decoder_cosines"]
        matrices = found["matrices"]
        layouts = [_layout(matrix) for matrix in matrices]
        traces = [
            heatmap(
                matrix["matrix"],
                matrix["features"],
                matrix["latents"],
                limit=1.0,
                hover="%{y}, %{x}: %{z}",
                visible=index == 0,
            )
            for index, matrix in enumerate(matrices)
        ]
        controls = [
            Control(
                matrix["architecture"],
                _changes(layouts, index),
                pressed=index == 0,
                visible=[other == index for other in range(len(matrices))],
            )
            for index, matrix in enumerate(matrices)
        ]
        figure = Figure(
            spec={"data": traces, "layout": layouts[0]},
            alt=_alt(data, matrices),
            caption=_caption(found),
            controls=[controls] if len(controls) > 1 else (),
            height_px=600,
        )
        return figure, _table(data, matrices)


def _rows_of_each(num_matrices: int, num_features: int) -> int:
    """Rows of every matrix, so that all of them together stay small."""
    rows = min(num_features, MOST_FEATURES)
    while rows > 1 and num_matrices * rows * (rows + 2 * MOST_UNMATCHED) > MOST_CELLS:
        rows -= 1
    return max(rows, 1)


def _ordered(truth: StoredTruth, decoder: Decoder, most: int) -> dict[str, Any]:
    """Features by kind of set; their latents in the same order, then unmatched ones by falling cosine, then dead ones.

    The unmatched latents are ordered by their largest absolute cosine with any feature.
    """
    order_M, groups = grouped(truth, decoder.feature_M)
    latent_of = dict(zip(decoder.feature_M.tolist(), decoder.latent_M.tolist(), strict=True))
    matched = np.array([latent for feature in order_M if (latent := latent_of[feature]) >= 0], dtype=np.int64)
    cosine_MF = truth.directions_MD[order_M] @ decoder.w_FD.T
    dead = np.flatnonzero(~decoder.alive_F)
    spare = np.setdiff1d(np.flatnonzero(decoder.alive_F), matched)
    spare = spare[np.argsort(-np.abs(cosine_MF[:, spare]).max(axis=0, initial=0.0), kind="stable")]
    columns: list[tuple[int, int]] = []
    places = [(_MATCHED, matched, most), (_SPARE, spare, MOST_UNMATCHED), (_DEAD, dead, MOST_UNMATCHED)]
    sections: list[tuple[str, int, int]] = []
    start = 0
    for name, latents, limit in places:
        parts = [(first + start, last + start) for first, last in blocks(len(latents), limit)] if len(latents) else []
        sections.append((f"{name} ({len(latents)})", len(columns), len(columns) + len(parts)))
        columns, start = [*columns, *parts], start + len(latents)
    latent_F = np.concatenate([matched, spare, dead])
    rows = blocks(len(order_M), most)
    block = rows[0][1] - rows[0][0] + 1
    hit = np.array(
        [cosine_MF[row, latent_of[feature]] for row, feature in enumerate(order_M) if latent_of[feature] >= 0]
    )
    return {
        "matrix": coded(block_maxima(cosine_MF[:, latent_F], rows, columns), finest=_UNIT),
        "features": [span("feature", order_M, *part) for part in rows],
        "latents": [span("latent", latent_F, *part) for part in columns],
        "feature_groups": [[name, first // block, -(-last // block)] for name, first, last in groups],
        "latent_groups": [list(section) for section in sections],
        "blocks": [block, *(_widest(columns[first:last]) for _, first, last in sections)],
        "num_features": len(order_M),
        "matched": len(matched),
        "unmatched": len(spare),
        "dead": len(dead),
        "mean_matched": float(hit.mean()) if len(hit) else None,
        "recovered": int(np.count_nonzero(hit > _RECOVERED)),
    }


def _widest(parts: Sequence[tuple[int, int]]) -> int:
    return max((last - first + 1 for first, last in parts), default=1)


def _layout(matrix: Mapping[str, Any]) -> dict[str, Any]:
    groups = [[tuple(group) for group in matrix[key]] for key in ("feature_groups", "latent_groups")]
    return axes(*groups)


def _changes(layouts: Sequence[Mapping[str, Any]], index: int) -> dict[str, Any]:
    """What a button changes: ticks and lines of its matrix, as far as they are not the same for all of them."""
    found: dict[str, Any] = {"xaxis.autorange": True, "yaxis.autorange": "reversed"}
    for axis, key in (("xaxis", "tickvals"), ("xaxis", "ticktext"), ("yaxis", "tickvals"), ("yaxis", "ticktext")):
        values = [layout[axis][key] for layout in layouts]
        if any(value != values[0] for value in values):
            found[f"{axis}.{key}"] = values[index]
    for place, shape in enumerate(layouts[index]["shapes"]):
        for key in ("x0", "x1", "y0", "y1"):
            if any(layout["shapes"][place][key] != shape[key] for layout in layouts):
                found[f"shapes[{place}].{key}"] = shape[key]
    return found


def _alt(data: ReportData, matrices: Sequence[Mapping[str, Any]]) -> str:
    words = [
        f"{matrix['architecture']} at L0 {number(data.trial(matrix['uid']).l0)}: {matrix['recovered']} of "
        f"{matrix['num_features']} features with a cosine above 0.9, {matrix['dead']} dead latents"
        for matrix in matrices
    ]
    return f"Heat maps of cosines between true directions and decoder rows. {'; '.join(words)}."


def _caption(found: Mapping[str, Any]) -> str:
    text = (
        f"For each architecture {RULE}. Rows: represented features by kind of set. Columns: the latent that the "
        "optimal matching gives to each of them in the same order, then latents that fire without a feature of their "
        "own, then dead ones. A perfect dictionary is a blue diagonal with nothing around it but the overlap of the "
        "true directions."
    )
    names = ("features", "matched latents", "unmatched latents", "dead latents")
    sizes = [max(matrix["blocks"][place] for matrix in found["matrices"]) for place in range(len(names))]
    shared = [f"up to {size} {name}" for size, name in zip(sizes, names, strict=True) if size > 1]
    if shared:
        text += f" Where there are many, a cell is the cosine of largest absolute value of a block: {listed(shared)}."
    if found["gone"]:
        text += f" Weights gone or unreadable: {listed(found['gone'])}."
    return text


def _table(data: ReportData, matrices: Sequence[Mapping[str, Any]]) -> Part:
    columns = [
        Column("trial"),
        Column("L0", numeric=True),
        Column("MMCS", numeric=True, hint="Mean over features of the largest cosine with a latent"),
        Column("mean matched cosine", numeric=True, hint="Over the pairs of the optimal matching"),
        Column("above 0.9", numeric=True, hint="Features whose latent has a cosine above 0.9"),
        Column("unmatched", numeric=True, hint="Latents that fire and have no feature of their own"),
        Column("dead", numeric=True, hint="Latents that never fire on the evaluation rows"),
    ]
    rows: list[list[Any]] = []
    for matrix in matrices:
        entry, trial = data.architecture(matrix["architecture"]), data.trial(matrix["uid"])
        share = matrix["recovered"] / max(1, matrix["num_features"])
        rows.append(
            [
                Cell(swatch(entry.colour, entry.symbol) + link(trial.run_url, trial.uid), sort=trial.uid),
                Cell(number(trial.l0), sort=trial.l0),
                Cell(number(trial.metrics.get("mmcs")), sort=trial.metrics.get("mmcs")),
                Cell(number(matrix["mean_matched"]), sort=matrix["mean_matched"]),
                Cell(f"{matrix['recovered']} ({percent(share)})", sort=matrix["recovered"]),
                str(matrix["unmatched"]),
                str(matrix["dead"]),
            ]
        )
    return table(columns, rows, caption="The trials of the figure", sortable=True)


CARD = DecoderCosinesCard()
