"""Every figure of the page as a file, and those among them that the page itself carries."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from vsae_search.report.card import Figure
from vsae_search.report.picture import draw_frontier
from vsae_search.report.render import figure_names
from vsae_search.report.still import draw_still

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vsae_search.report.data import ReportData
    from vsae_search.report.picture import Kind
    from vsae_search.report.render import Section

FRONTIER = "frontier"
KINDS: tuple[Kind, ...] = ("png", "svg", "pdf")
PAGE_BYTES = 400_000
"""Pictures up to this many bytes in all lie in the page too, for browsers that cannot draw; the first ones win."""

logger = logging.getLogger(__name__)


def picture_files(data: ReportData, sections: Sequence[Section], kinds: Sequence[Kind] = ("svg",)) -> dict[str, bytes]:
    """File name to content: the frontier as PNG, SVG and PDF, every other figure in the formats that are asked for.

    A picture that cannot be drawn is logged and left out, so that it does not cost the others.
    """
    files: dict[str, bytes] = {}
    try:
        if data.experiment is None:
            files |= {f"{FRONTIER}.{kind}": image for kind, image in draw_frontier(data).items()}
    except Exception:  # the same boundary as for cards
        logger.exception("report.picture_failed figure=%s", FRONTIER)
    for entry in sections:
        figures = [part for part in entry.parts if isinstance(part, Figure)]
        for name, figure in zip(figure_names(entry), figures, strict=True):
            if f"{name}.svg" not in files:
                files |= _files(name, figure, kinds)
    return files


def page_pictures(files: Mapping[str, bytes]) -> dict[str, bytes | None]:
    """Every figure that has an SVG file, by name; with its content where the page carries it."""
    found: dict[str, bytes | None] = {}
    room = PAGE_BYTES
    for name, image in files.items():
        if name.endswith(".svg"):
            carried = len(image) <= room
            room -= len(image) if carried else 0
            found[name.removesuffix(".svg")] = image if carried else None
    return found


def _files(name: str, figure: Figure, kinds: Sequence[Kind]) -> dict[str, bytes]:
    try:
        return {f"{name}.{kind}": image for kind, image in draw_still(figure, kinds).items()}
    except Exception:  # the same boundary as for cards
        logger.exception("report.picture_failed figure=%s", name)
        return {}
