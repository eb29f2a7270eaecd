"""One table in four formats: CSV that no spreadsheet runs, Markdown and LaTeX that take no cell for markup, parquet."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vsae_search.report.text import DASH, number

if TYPE_CHECKING:
    from collections.abc import Sequence

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "|", "%", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+!|~$])")
_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    DASH: "--",
    "\u2212": "$-$",
}


@dataclass(frozen=True)
class Table:
    """A table with the values as they are.

    Attributes:
        columns: Headings.
        rows: Cells; numbers, text, booleans, lists, or None for nothing.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def csv(self) -> str:
        """Comma-separated, numbers without loss, line feeds as line ends."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(csv_cell(title) for title in self.columns)
        for row in self.rows:
            writer.writerow(csv_cell(value) for value in row)
        return buffer.getvalue()

    def markdown(self) -> str:
        """A Markdown table with rounded numbers."""
        aligned = ["---:" if self._numeric(index) else "---" for index in range(len(self.columns))]
        lines = [
            _markdown_row(self.columns),
            "| " + " | ".join(aligned) + " |",
            *(_markdown_row([_text(value) for value in row]) for row in self.rows),
        ]
        return "\n".join(lines) + "\n"

    def latex(self) -> str:
        """A ``tabular`` with the rules of the booktabs package and rounded numbers."""
        places = "".join("r" if self._numeric(index) else "l" for index in range(len(self.columns)))
        lines = [
            "% needs \\usepackage{booktabs} and \\usepackage[T1]{fontenc}",
            f"\\begin{{tabular}}{{{places}}}",
            "\\toprule",
            _latex_row(self.columns),
            "\\midrule",
            *(_latex_row([_text(value) for value in row]) for row in self.rows),
            "\\bottomrule",
            "\\end{tabular}",
        ]
        return "\n".join(lines) + "\n"

    def parquet(self) -> bytes:
        """Columns typed as numbers, booleans or text; a column that mixes them is text."""
        import pyarrow as pa  # a third of a second, so only when a table is written
        import pyarrow.parquet as pq

        columns = [_uniform([row[index] for row in self.rows]) for index in range(len(self.columns))]
        buffer = io.BytesIO()
        pq.write_table(pa.table([pa.array(column) for column in columns], names=list(self.columns)), buffer)
        return buffer.getvalue()

    def _numeric(self, index: int) -> bool:
        values = [row[index] for row in self.rows if row[index] is not None]
        return bool(values) and all(_is_number(value) for value in values)


def csv_cell(value: Any) -> str | int | float:
    """A cell that a spreadsheet shows and does not run: numbers as they are, risky text behind an apostrophe."""
    if value is None:
        return ""
    if _is_number(value):
        return float(value) if isinstance(value, float) else int(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA) else text


def markdown_cell(text: str) -> str:
    """A cell in which no character means anything to Markdown or HTML."""
    return html.escape(_MARKDOWN.sub(r"\\\1", " ".join(text.split())), quote=False)


def latex_cell(text: str) -> str:
    """A cell in which no character means anything to LaTeX."""
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    return number(value, 4)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _uniform(values: Sequence[Any]) -> list[Any]:
    """Values of one kind: numbers as floats unless all are whole, anything mixed as text."""
    given = [value for value in values if value is not None]
    if all(isinstance(value, bool) for value in given) or all(isinstance(value, str) for value in given):
        return list(values)
    if all(_is_number(value) for value in given):
        whole = all(isinstance(value, int) for value in given)
        return [value if value is None or whole else float(value) for value in values]
    return [
        None if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for value in values
    ]


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(markdown_cell(cell) for cell in cells) + " |"


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(latex_cell(cell) for cell in cells) + r" \\"
