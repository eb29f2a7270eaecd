"""Small pieces of HTML for cards. Every string is escaped unless it already is markup."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: Heading.
        numeric: Whether its cells are aligned to the right.
        hint: Longer explanation shown on hovering.
    """

    title: str
    numeric: bool = False
    hint: str = ""


@dataclass(frozen=True)
class Cell:
    """A cell with a value to sort by that differs from its text."""

    text: str | Markup
    sort: float | str | None = None


def paragraph(text: str | Markup, css: str = "") -> Markup:
    """A paragraph, optionally with a CSS class."""
    return Markup('<p class="{}">{}</p>').format(css, text) if css else Markup("<p>{}</p>").format(text)


def strong(text: str) -> Markup:
    """Emphasised text."""
    return Markup("<strong>{}</strong>").format(text)


def code(text: str) -> Markup:
    """Text in the monospaced face."""
    return Markup("<code>{}</code>").format(text)


def link(url: str | None, text: str) -> Markup:
    """A link that opens in a new tab, or the bare text when there is no address."""
    if url is None:
        return escape(text)
    return Markup('<a href="{}" target="_blank" rel="noopener noreferrer">{}</a>').format(url, text)


def bullets(items: Iterable[str | Markup], css: str = "") -> Markup:
    """A list."""
    rows = Markup("").join(Markup("<li>{}</li>").format(item) for item in items)
    return Markup('<ul class="{}">{}</ul>').format(css, rows)


def details(summary: str, content: Markup) -> Markup:
    """Something that the reader opens; it is open on paper."""
    return Markup("<details><summary>{}</summary>{}</details>").format(summary, content)


def definitions(pairs: Iterable[tuple[str, str | Markup]]) -> Markup:
    """Terms with their values."""
    rows = Markup("").join(Markup("<div><dt>{}</dt><dd>{}</dd></div>").format(*pair) for pair in pairs)
    return Markup('<dl class="facts">{}</dl>').format(rows)


def block(text: str, label: str) -> Markup:
    """Preformatted text in a box that scrolls and can be reached with the keyboard."""
    return Markup('<pre tabindex="0" role="region" aria-label="{}"><code>{}</code></pre>').format(label, text)


def swatch(colour: str, symbol: str) -> Markup:
    """A small mark in an architecture's colour and shape, decorative only."""
    return Markup('<span class="swatch" data-symbol="{}" style="--mark:{}" aria-hidden="true"></span>').format(
        symbol, colour
    )


def table(
    columns: Sequence[Column],
    rows: Iterable[Sequence[Cell | str | Markup]],
    *,
    caption: str,
    sortable: bool = False,
) -> Markup:
    """A table in a box that scrolls sideways on narrow screens.

    Args:
        columns: Headings.
        rows: Cells of each row, as many as there are columns; the first one is the heading of its row.
        caption: What the table holds, for people and screen readers.
        sortable: Whether its headings become buttons that sort it.
    """
    heads = Markup("").join(_heading(column) for column in columns)
    body = Markup("").join(
        Markup("<tr>{}</tr>").format(
            Markup("").join(_cell(columns[index], cell, index == 0) for index, cell in enumerate(row))
        )
        for row in rows
    )
    return Markup(
        '<div class="scroll" tabindex="0" role="region" aria-label="{}"><table{}><caption>{}</caption>'
        "<thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>"
    ).format(caption, Markup(" data-sortable") if sortable else "", caption, heads, body)


def _heading(column: Column) -> Markup:
    return Markup('<th scope="col"{}{}>{}</th>').format(
        Markup(' class="num"') if column.numeric else "",
        Markup(' title="{}"').format(column.hint) if column.hint else "",
        column.title,
    )


def _cell(column: Column, cell: Cell | str | Markup, first: bool) -> Markup:
    value = cell if isinstance(cell, Cell) else Cell(cell)
    attributes = Markup(' class="num"') if column.numeric else Markup("")
    if value.sort is not None:
        attributes += Markup(' data-sort="{}"').format(value.sort)
    shape = Markup('<th scope="row"{}>{}</th>') if first else Markup("<td{}>{}</td>")
    return shape.format(attributes, value.text)
