"""The features of a two-dimensional toy model: true directions and decoder rows as arrows.

Shapes: M features, A alive latents.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vsae_search.report.arrows import arrows, plane_layout
from vsae_search.report.card import Control, Figure
from vsae_search.report.chart import GREY
from vsae_search.report.decoders import RULE, best_trials, read_decoder
from vsae_search.report.markup import Cell, Column, details, table
from vsae_search.report.text import counted, listed, number
from vsae_search.report.truth import INDEPENDENT, grouped, stored_truth, why_no_truth

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vsae_search.report.card import Part
    from vsae_search.report.data import ReportData
    from vsae_search.report.source import Source

MOST_ARROWS = 256
"""Features, or latents of one decoder, up to which arrows can be told apart at all."""
_DIGITS = 3
_DASHES = {INDEPENDENT: "solid", "correlated": "dash", "anticorrelated": "dot", "hierarchical": "dashdot"}


class FeaturePlaneCard:
    """Arrows in the plane of the hidden layer."""

    name = "feature_plane"
    title = "Features in the plane"
    order = 620

    def compute(self, source: Source, data: ReportData) -> Mapping[str, Any]:
        """Ends of the true arrows by kind of set, and of each architecture's living decoder rows."""
        truth = stored_truth(source)
        if truth is None:
            return {}
        width, count = truth.directions_MD.shape[1], len(truth.directions_MD)
        if width != 2 or count > MOST_ARROWS:
            return {"width": width, "num_features": count}
        order_M, groups = grouped(truth, np.arange(count))
        decoders, gone = [], []
        for name, row in best_trials(data).items():
            decoder = read_decoder(source, row.uid, width)
            if decoder is None:
                gone.append(row.uid)
                continue
            alive = np.flatnonzero(decoder.alive_F)
            latents = alive[:MOST_ARROWS]
            feature_of = dict(zip(decoder.latent_M.tolist(), decoder.feature_M.tolist(), strict=True))
            decoders.append(
                {
                    "architecture": name,
                    "uid": row.uid,
                    "latents": latents.tolist(),
                    "features": [feature_of.get(latent) for latent in latents.tolist()],
                    "ends": decoder.w_FD[latents].round(_DIGITS).tolist(),
                    "not_drawn": len(alive) - len(latents),
                    "dead": int(np.count_nonzero(~decoder.alive_F)),
                }
            )
        return {
            "width": width,
            "num_features": count,
            "trained": truth.W_DM is not None,
            "features": order_M.tolist(),
            "groups": [list(group) for group in groups],
            "ends": truth.traces_MD[order_M].round(_DIGITS).tolist(),
            "decoders": decoders,
            "gone": gone,
        }

    def unavailable(self, data: ReportData) -> str | None:
        """The true features are not known, or do not lie in a plane."""
        found = data.cards["feature_plane"]
        if not found:
            return why_no_truth(data)
        if found["width"] != 2:
            return f"The hidden layer has {found['width']} dimensions; arrows can be drawn when it has 2."
        if "ends" not in found:
            return f"{found['num_features']} features are too many arrows; at most {MOST_ARROWS} are drawn."
        return None

    def render(self, data: ReportData) -> Sequence[Part]:
        """One figure; buttons choose the architecture. Then the angles as a table."""
        found = data.cards["feature_plane"]
        true = [_true(found, name, first, last) for name, first, last in found["groups"]]
        learnt = [_learnt(data, decoder, visible=index == 0) for index, decoder in enumerate(found["decoders"])]
        controls = [
            Control(
                decoder["architecture"],
                {},
                pressed=index == 0,
                visible=[True] * len(true) + [other == index for other in range(len(learnt))],
            )
            for index, decoder in enumerate(found["decoders"])
        ]
        ends = [np.array(part["ends"]).reshape(-1, 2) for part in (found, *found["decoders"])]
        layout = plane_layout(ends, ("hidden unit 0", "hidden unit 1"))
        figure = Figure(
            spec={"data": [*true, *learnt], "layout": layout},
            alt=_alt(found),
            caption=_caption(found),
            controls=[controls] if len(controls) > 1 else (),
            height_px=620,
        )
        return figure, details("The arrows as a table", _table(data, found))


def _true(found: Mapping[str, Any], name: str, first: int, last: int) -> dict[str, Any]:
    ends = np.array(found["ends"][first:last]).reshape(-1, 2)
    names = [f"feature {feature}, {name}" for feature in found["features"][first:last]]
    return arrows(ends, names, label=f"true, {name}", colour=GREY, width=4, dash=_DASHES.get(name, "longdash"))


def _learnt(data: ReportData, decoder: Mapping[str, Any], *, visible: bool) -> dict[str, Any]:
    ends = np.array(decoder["ends"]).reshape(-1, 2)
    names = [
        f"latent {latent}" + ("" if feature is None else f", matched with feature {feature}")
        for latent, feature in zip(decoder["latents"], decoder["features"], strict=True)
    ]
    colour = data.architecture(decoder["architecture"]).colour
    return arrows(ends, names, label=f"decoder rows of {decoder['uid']}", colour=colour, width=1.5, visible=visible)


def _alt(found: Mapping[str, Any]) -> str:
    learnt = "; ".join(
        f"{decoder['architecture']}: {counted(len(decoder['latents']) + decoder['not_drawn'], 'living decoder row')}"
        for decoder in found["decoders"]
    )
    angles = listed([f"{angle:.0f}\u00b0" for angle in _angles(found["ends"])[:12]])
    return f"Arrows of {found['num_features']} true features at {angles}. {learnt}."


def _caption(found: Mapping[str, Any]) -> str:
    length = "as long as its trace in the hidden layer" if found["trained"] else "of length 1"
    text = (
        f"Grey: true features, each {length}, dashed by kind of set. Coloured, of length 1: decoder rows of latents "
        f"that fire, of {RULE} of each architecture."
    )
    hidden = [f"{part['uid']}: {part['not_drawn']}" for part in found["decoders"] if part["not_drawn"]]
    if hidden:
        text += f" Rows not drawn: {listed(hidden)}."
    if found["gone"]:
        text += f" Weights gone or unreadable: {listed(found['gone'])}."
    return text


def _angles(ends: Sequence[Sequence[float]]) -> list[float]:
    """Direction of each arrow in degrees, from 0 to 360."""
    return [float(np.degrees(np.arctan2(up, right)) % 360) for right, up in ends]


def _table(data: ReportData, found: Mapping[str, Any]) -> Any:
    kinds = [name for name, first, last in found["groups"] for _ in range(first, last)]
    angles, lengths = _angles(found["ends"]), [float(np.hypot(*end)) for end in found["ends"]]
    matched = [
        {
            feature: angle
            for feature, angle in zip(decoder["features"], _angles(decoder["ends"]), strict=True)
            if feature is not None
        }
        for decoder in found["decoders"]
    ]
    entries = [data.architecture(decoder["architecture"]) for decoder in found["decoders"]]
    columns = [
        Column("feature", numeric=True),
        Column("set"),
        Column("norm", numeric=True),
        Column("angle", numeric=True, hint="Degrees from hidden unit 0"),
        *(Column(entry.name, numeric=True, hint="Angle of the matched decoder row") for entry in entries),
    ]
    rows = [
        [
            Cell(str(feature), sort=feature),
            kind,
            number(length),
            f"{angle:.0f}\u00b0",
            *(f"{part[feature]:.0f}\u00b0" if feature in part else number(None) for part in matched),
        ]
        for feature, kind, length, angle in zip(found["features"], kinds, lengths, angles, strict=True)
    ]
    return table(
        columns, rows, caption="Angles of true features and of the decoder rows matched with them", sortable=True
    )


CARD = FeaturePlaneCard()
