"""Writing a report: every file is replaced in one step, so a reader never sees half of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import uuid4

from vsae_search.report.build import build_report
from vsae_search.report.card import discover
from vsae_search.report.picture import draw_frontier
from vsae_search.report.render import render_page
from vsae_search.report.tables import frontier_csv, frontier_markdown, trials_csv

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class ReportPaths:
    """Where the files of a report lie.

    Attributes:
        html: The page; one file that opens offline.
        json: Every number of the report.
        figures: Figures as PNG and SVG.
        tables: Tables as CSV and Markdown.
    """

    html: Path
    json: Path
    figures: tuple[Path, ...]
    tables: tuple[Path, ...]


def write_report(sweep_dir: Path, out_dir: Path, tracking_url: str | None = None) -> ReportPaths:
    """Write the report of a sweep, finished or not.

    Args:
        sweep_dir: The sweep directory.
        out_dir: Folder for the files; made when missing.
        tracking_url: Address of the MLflow server that shows the runs; None takes the one the sweep was recorded at.
            Only ``http`` and ``https`` addresses become links.

    Raises:
        UserInputError: There is no sweep in ``sweep_dir``.
        CorruptFile: A record cannot be read.
    """
    cards = discover()
    data = build_report(sweep_dir, tracking_url=tracking_url, cards=cards)
    pictures = draw_frontier(data)
    text = data.model_dump_json(indent=2) + "\n"
    return ReportPaths(
        html=_write(out_dir / "report.html", render_page(data, cards=cards)),
        json=_write(out_dir / "report.json", text),
        figures=tuple(_write(out_dir / "figures" / f"frontier.{kind}", image) for kind, image in pictures.items()),
        tables=(
            _write(out_dir / "tables" / "frontier.csv", frontier_csv(data)),
            _write(out_dir / "tables" / "frontier.md", frontier_markdown(data)),
            _write(out_dir / "tables" / "trials.csv", trials_csv(data)),
        ),
    )


def _write(path: Path, content: str | bytes) -> Path:
    """Write beside the target, then replace it; a link in its place is replaced, not followed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
