"""The page: cards into one self-contained HTML file that opens offline.

Plotly's script is inlined once. A content security policy forbids every request, so the page cannot load or send
anything; stored strings reach it only through autoescaping templates and escaped JSON.
"""

from __future__ import annotations

import itertools
import json
import logging
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from vsae_search.report.card import Figure, discover
from vsae_search.report.text import number
from vsae_search.tracking.uris import mask_secrets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vsae_search.report.card import Card, Part
    from vsae_search.report.data import ReportData

logger = logging.getLogger(__name__)

_JSON_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


@dataclass(frozen=True)
class Section:
    """A card as it stands in the page: parts, or the reason why there are none."""

    name: str
    title: str
    parts: Sequence[Part]
    reason: str | None
    failed: bool = False


def render_page(data: ReportData, *, cards: Sequence[Card] | None = None) -> str:
    """The whole page as text.

    Args:
        data: Numbers of the report.
        cards: Cards to show; None shows all that are installed.
    """
    sections = [section(card, data) for card in (discover() if cards is None else cards)]
    has_figures = any(isinstance(part, Figure) for entry in sections for part in entry.parts)
    environment = _environment()
    return environment.get_template("page.html.j2").render(
        data=data,
        sections=sections,
        facts=_facts(data),
        style=_asset("style.css"),
        script=_asset("page.js"),
        plotly=_plotly() if has_figures else Markup(),
        next_id=itertools.count(1).__next__,
    )


def section(card: Card, data: ReportData) -> Section:
    """Draw one card; whatever goes wrong becomes the reason that the section shows."""
    if card.name in data.card_errors:
        return Section(card.name, card.title, (), f"Its numbers failed: {data.card_errors[card.name]}", failed=True)
    try:
        reason = card.unavailable(data)
        parts = tuple(card.render(data)) if reason is None else ()
        for part in parts:
            _check(part)
    except Exception as error:  # the card boundary: one broken card never loses the report
        logger.exception("report.card_failed card=%s stage=render", card.name)
        text = mask_secrets(f"Drawing it failed: {type(error).__name__}: {error}")
        return Section(card.name, card.title, (), text, failed=True)
    return Section(card.name, card.title, parts, reason)


def safe_json(value: Any) -> Markup:
    """JSON that cannot end the script element that holds it.

    Raises:
        ValueError: The value holds a number that JSON does not know.
    """
    text = json.dumps(value, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    for character, escaped in _JSON_ESCAPES.items():
        text = text.replace(character, escaped)
    return Markup(text)  # noqa: S704 - no markup character is left in it


def _check(part: Part) -> None:
    """A part that is neither markup nor a JSON-able figure fails here, inside the boundary of its card."""
    if isinstance(part, Figure):
        safe_json(part.spec)
    elif not isinstance(part, Markup):
        raise TypeError(f"a card returned {type(part).__name__}, not markup or a figure")


def _facts(data: ReportData) -> list[tuple[str, str]]:
    reference = data.axes.reference
    trials = sum(entry.states.get("completed", 0) for entry in data.architectures)
    return [
        ("status", data.sweep.status),
        ("trials", f"{trials} completed of {len(data.trials)} ended"),
        ("architectures", str(len(data.architectures))),
        ("seed", str(data.sweep.seed)),
        (
            "reference",
            f"L0 {number(reference.l0, 4)}, delta-CE {number(reference.delta_ce, 4)}" if reference else "none",
        ),
        ("ended", data.sweep.ended_at[:19].replace("T", " ") or "not yet"),
    ]


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("vsae_search.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["safe_json"] = safe_json
    environment.tests["figure"] = lambda part: isinstance(part, Figure)
    return environment


@cache
def _asset(name: str) -> Markup:
    """A style sheet or script that belongs to the package and holds no stored string."""
    return Markup((files("vsae_search.report") / "templates" / name).read_text(encoding="utf-8"))  # noqa: S704


@cache
def _plotly() -> Markup:
    from plotly.offline import get_plotlyjs

    return Markup(get_plotlyjs())  # noqa: S704 - the library's own script
