"""The page: sections into one self-contained HTML file that opens offline and holds no script at all.

A content security policy forbids every request and every script. Stored strings reach the page through escaping only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from markupsafe import Markup

from vsae_search.report.markup import bullets

if TYPE_CHECKING:
    from collections.abc import Sequence

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True)
class Section:
    """An analysis as it stands in the page: parts, or the reason why there are none."""

    name: str
    title: str
    parts: Sequence[Markup]
    reason: str | None = None
    failed: bool = False


@dataclass(frozen=True)
class Heading:
    """What stands above the sections."""

    title: str
    description: str
    facts: Sequence[tuple[str, str]]
    notes: Sequence[str]


_PAGE = Markup("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<meta name="color-scheme" content="light dark">
<title>{title}: analysis</title>
<style>{style}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<header>
<p class="kicker">Analysis of one autoencoder</p>
<h1>{title}</h1>
<p class="description">{description}</p>
<dl class="summary">{facts}</dl>
{notes}
</header>
<nav aria-label="Sections">{links}</nav>
<main id="content">
{sections}
</main>
<footer><p>{footer}</p></footer>
</body>
</html>
""")
_SECTION = Markup("""<section id="{name}" aria-labelledby="{name}-title">
<h2 id="{name}-title">{title}</h2>
{reason}{parts}
</section>
""")


def render_page(heading: Heading, sections: Sequence[Section], footer: str) -> str:
    """Return the whole page as text."""
    return _PAGE.format(
        policy=POLICY,
        style=_style(),
        title=heading.title,
        description=heading.description,
        facts=_joined(Markup("<div><dt>{}</dt><dd>{}</dd></div>"), heading.facts),
        notes=bullets(heading.notes) if heading.notes else "",
        links=_joined(Markup('<a href="#{}">{}</a>\n'), [(section.name, section.title) for section in sections]),
        sections=Markup("").join(_section(section) for section in sections),
        footer=footer,
    )


def _section(section: Section) -> Markup:
    css = "failed" if section.failed else "unavailable"
    reason = Markup('<p class="{}">{}</p>').format(css, section.reason) if section.reason is not None else Markup("")
    parts = Markup("\n").join(section.parts)
    return _SECTION.format(name=section.name, title=section.title, reason=reason, parts=parts)


def _joined(shape: Markup, rows: Sequence[tuple[str, str]]) -> Markup:
    return Markup("").join(shape.format(*row) for row in rows)


@cache
def _style() -> Markup:
    """The style sheet of the report, for its colours in the light and in the dark, and what an analysis adds."""
    sheets = (("vsae_search.report", "templates/style.css"), ("vsae_search.analysis", "page.css"))
    texts = [files(package).joinpath(name).read_text(encoding="utf-8") for package, name in sheets]
    return Markup("\n").join(map(Markup, texts))  # the package's own files, without any stored string
