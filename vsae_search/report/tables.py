"""Tables as files: CSV that no spreadsheet runs, and Markdown that no renderer takes for markup."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from typing import TYPE_CHECKING, Any

from vsae_search.report.metrics import headline
from vsae_search.report.text import number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vsae_search.report.data import ReportData, TrialRow

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "|", "%", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+!|~$])")


def frontier_csv(data: ReportData) -> str:
    """Every frontier trial, by architecture and L0, with all metrics and hyper-parameters."""
    return _trials_csv([row for entry in data.architectures for row in data.frontier(entry.name)])


def trials_csv(data: ReportData) -> str:
    """Every trial that ended, in uid order, with all metrics and hyper-parameters."""
    return _trials_csv(data.trials)


def frontier_markdown(data: ReportData) -> str:
    """The frontier trials with the headline metrics, as a Markdown table."""
    metrics = headline(data)
    titles = ["architecture", "trial", "L0", "delta-CE", "pooled", *(m.title for m in metrics), "hyper-parameters"]
    rows = [
        [
            row.architecture,
            row.uid,
            number(row.l0, 4),
            number(row.delta_ce, 4),
            "yes" if row.on_pooled_frontier else "",
            *(metric.text(row) for metric in metrics),
            ", ".join(f"{key}={number(value, 4)}" for key, value in row.params.items()),
        ]
        for entry in data.architectures
        for row in data.frontier(entry.name)
    ]
    aligned = ["---", "---", "---:", "---:", "---", *("---:" for _ in metrics), "---"]
    lines = [_markdown_row(titles), "| " + " | ".join(aligned) + " |", *(_markdown_row(row) for row in rows)]
    return "\n".join(lines) + "\n"


def csv_cell(value: Any) -> str | int | float:
    """A cell that a spreadsheet shows and does not run: numbers as they are, risky text behind an apostrophe."""
    if value is None:
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA) else text


def markdown_cell(text: str) -> str:
    """A cell in which no character means anything to Markdown or HTML."""
    return html.escape(_MARKDOWN.sub(r"\\\1", " ".join(text.split())), quote=False)


def _trials_csv(rows: Sequence[TrialRow]) -> str:
    metrics = sorted({key for row in rows for key in row.metrics} - {"l0", "delta_ce"})
    params = sorted({key for row in rows for key in row.params})
    fields = (
        *("architecture", "uid", "state", "l0", "delta_ce", "on_frontier", "on_pooled_frontier", "outside_reference"),
        *("d_sae", "seed", "attempt", "wall_s", "overhead_s", "error", "run_url"),
    )
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(csv_cell(title) for title in (*fields, *metrics, *(f"param.{key}" for key in params)))
    for row in rows:
        values = [*(getattr(row, field) for field in fields), *(row.metrics.get(key) for key in metrics)]
        writer.writerow(csv_cell(value) for value in (*values, *(row.params.get(key) for key in params)))
    return buffer.getvalue()


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(markdown_cell(cell) for cell in cells) + " |"
