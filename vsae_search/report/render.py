"""The page: cards into one self-contained HTML file that opens offline.

Plotly's script is inlined once, compressed. A content security policy forbids every request, so the page cannot load
or send anything, and every script but the page's own two; stored strings reach it only through autoescaping templates
and escaped JSON.
"""

from __future__ import annotations

import base64
import json
import logging
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from vsae_search.report.card import Figure, discover
from vsae_search.report.packed import LARGE_CHARACTERS, Packed, digest, pack
from vsae_search.report.text import number
from vsae_search.tracking.uris import mask_secrets

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

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


@dataclass(frozen=True)
class Placed:
    """A figure at its place in the page.

    Attributes:
        id: Of its element.
        figure: What is drawn.
        spec: Its specification as JSON, compressed when it is long.
        packed: Whether it is compressed.
        file: Name of its picture in ``figures/``; None when there is none.
        picture: The picture as the address of an image, for browsers that cannot draw; None when it is left out.
    """

    id: str
    figure: Figure
    spec: Markup
    packed: bool
    file: str | None
    picture: str | None


def render_page(data: ReportData, *, cards: Sequence[Card] | None = None) -> str:
    """The whole page as text, without pictures.

    Args:
        data: Numbers of the report.
        cards: Cards to show; None shows all that are installed.
    """
    return page_of(data, sections_of(data, cards), {})


def sections_of(data: ReportData, cards: Sequence[Card] | None = None) -> list[Section]:
    """Draw every card.

    Args:
        data: Numbers of the report.
        cards: Cards to draw; None draws all that are installed.
    """
    return [section(card, data) for card in (discover(data.experiment) if cards is None else cards)]


def page_of(data: ReportData, sections: Sequence[Section], pictures: Mapping[str, bytes | None]) -> str:
    """Lay out cards that are drawn.

    Args:
        data: Numbers of the report.
        sections: Its cards.
        pictures: The figures that have an SVG file, by `figure_names`, with its content where the page carries it.
    """
    placed = [(entry, list(_placed(entry, pictures))) for entry in sections]
    has_figures = any(isinstance(part, Placed) for _, parts in placed for part in parts)
    plotly, script = _plotly() if has_figures else None, _asset("page.js")
    scripts = [digest(script), *([plotly.digest] if plotly else [])]
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            data=data,
            sections=placed,
            kind="Pareto report" if data.experiment is None else "Toy experiment",
            facts=_facts(data),
            style=_asset("style.css"),
            script=script,
            plotly=plotly,
            allowed=Markup(" ").join(Markup("'{}'").format(one) for one in scripts),
        )
    )


def figure_names(entry: Section) -> list[str]:
    """Names of a card's figures, by which their files are called: ``frontier``, ``frontier-2``, ..."""
    count = sum(isinstance(part, Figure) for part in entry.parts)
    return [entry.name if number == 1 else f"{entry.name}-{number}" for number in range(1, count + 1)]


def _placed(entry: Section, pictures: Mapping[str, bytes | None]) -> Iterator[Markup | Placed]:
    names = iter(figure_names(entry))
    for part in entry.parts:
        yield part if isinstance(part, Markup) else _place(part, next(names), pictures)


def _place(figure: Figure, name: str, pictures: Mapping[str, bytes | None]) -> Placed:
    spec, picture = safe_json(figure.spec), pictures.get(name)
    packed = len(spec) >= LARGE_CHARACTERS
    return Placed(
        id=f"figure-{name}",
        figure=figure,
        spec=Markup(pack(str(spec)).text) if packed else spec,  # noqa: S704 - base64
        packed=packed,
        file=f"{name}.svg" if name in pictures else None,
        picture=None if picture is None else f"data:image/svg+xml;base64,{base64.b64encode(picture).decode()}",
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


def _search_facts(data: ReportData) -> list[tuple[str, str]]:
    reference = data.axes.reference
    box = f"L0 {number(reference.l0, 4)}, delta-CE {number(reference.delta_ce, 4)}" if reference else "none"
    return [("architectures", str(len(data.architectures))), ("reference", box)]


def _facts(data: ReportData) -> list[tuple[str, str]]:
    trials = sum(entry.states.get("completed", 0) for entry in data.architectures)
    return [
        ("status", data.sweep.status),
        ("trials", f"{trials} completed of {len(data.trials)} ended"),
        *(_search_facts(data) if data.experiment is None else [("experiment", data.experiment.replace("_", " "))]),
        ("seed", str(data.sweep.seed)),
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
    environment.tests["figure"] = lambda part: isinstance(part, Placed)
    return environment


@cache
def _asset(name: str) -> Markup:
    """A style sheet or script that belongs to the package and holds no stored string."""
    return Markup((files("vsae_search.report") / "templates" / name).read_text(encoding="utf-8"))  # noqa: S704


@cache
def _plotly() -> Packed:
    from plotly.offline import get_plotlyjs

    return pack(get_plotlyjs())
