"""Cards: one part of the report each, one file each in ``report/cards/``, found by scanning that package.

A card file defines a class that is a :class:`Card` and a module constant ``CARD`` that holds one instance of it.
A card draws from :class:`ReportData` alone. When it needs numbers that are not in there yet, it is a
:class:`Computes` too: what ``compute`` returns is stored in ``report.json`` under the card's name, and ``render``
reads it back from ``data.cards[name]``.

An exception inside a card is logged with its traceback and becomes a card that says why.
"""

from __future__ import annotations

import importlib
import logging
import pkgutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

from markupsafe import Markup

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vsae_search.report.data import ReportData
    from vsae_search.report.source import Source

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Control:
    """A button under a figure.

    Attributes:
        label: What it says.
        relayout: Plotly layout changes that it makes.
        pressed: Whether the figure starts in this state.
        visible: Which traces are shown, one value per trace; None leaves them as they are.
    """

    label: str
    relayout: Mapping[str, Any]
    pressed: bool = False
    visible: Sequence[bool] | None = None


@dataclass(frozen=True)
class Figure:
    """An interactive figure.

    Attributes:
        spec: Plotly figure: ``{"data": [...], "layout": {...}}``, JSON-able; user strings in it escaped with
            ``html.escape``, because Plotly reads a few tags. ``customdata`` strings are addresses opened on a click.
        alt: What the figure shows, in words, for people who cannot see it.
        caption: Markup shown below it.
        controls: Groups of buttons; one button of a group is pressed at a time.
        height_px: Height on the page.
    """

    spec: Mapping[str, Any]
    alt: str
    caption: Markup | str = ""
    controls: Sequence[Sequence[Control]] = ()
    height_px: int = 520


Part = Markup | Figure


class Card(Protocol):
    """One part of the report.

    Attributes:
        name: Short and unique, ``[a-z0-9_]+``; it is the card's anchor in the page and its key in ``report.json``.
        title: Heading.
        order: Position in the report; small numbers come first.
    """

    name: str
    title: str
    order: int

    def unavailable(self, data: ReportData) -> str | None:
        """Why this card has nothing to show for these numbers, as a sentence; None when it has."""

    def render(self, data: ReportData) -> Sequence[Part]:
        """Markup and figures, top to bottom; called only when ``unavailable`` returned None."""


@runtime_checkable
class Computes(Protocol):
    """A card that contributes numbers of its own to ``report.json``."""

    name: str

    def compute(self, source: Source, data: ReportData) -> Mapping[str, Any]:
        """JSON-able numbers; ``data`` is the report without any card's numbers."""


def discover(experiment: str | None = None) -> tuple[Card, ...]:
    """Every card of a report, by order and name. A file that cannot be imported becomes a card that says why.

    Args:
        experiment: Kind of toy experiment, whose cards lie in ``report/<kind>_cards/``; None for those of a sweep.

    Raises:
        ValueError: Two cards have the same name.
    """
    folder = "cards" if experiment is None else f"{experiment}_cards"
    package = importlib.import_module(f"vsae_search.report.{folder}")
    found = [_load(f"{package.__name__}.{module.name}") for module in pkgutil.iter_modules(package.__path__)]
    if experiment is not None:
        found.append(_load("vsae_search.report.cards.provenance"))
    names = [card.name for card in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two cards are called {', '.join(twice)}")
    return tuple(sorted(found, key=lambda card: (card.order, card.name)))


@dataclass(frozen=True)
class BrokenCard:
    """Stands in for a card whose file cannot be imported."""

    name: str
    reason: str
    order: int = 10_000

    @property
    def title(self) -> str:
        """Name of the card that is missing."""
        return self.name

    def unavailable(self, data: ReportData) -> str | None:  # noqa: ARG002 - part of the protocol
        """Why the card is missing."""
        return self.reason

    def render(self, data: ReportData) -> Sequence[Part]:  # noqa: ARG002 - part of the protocol
        """Nothing."""
        return ()


def _load(module: str) -> Card:
    try:
        card: Card = importlib.import_module(module).CARD
    except Exception as error:  # the card boundary: one broken card never loses the report
        logger.exception("report.card_failed card=%s stage=import", module)
        reason = f"This card cannot be loaded: {type(error).__name__}: {error}"
        return cast("Card", BrokenCard(module.rpartition(".")[2], reason))
    return card
