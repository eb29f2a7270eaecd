"""Writing a report: every file is replaced in one step, so a reader never sees half of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vsae_search.atomic import write_bytes
from vsae_search.errors import EnvironmentNotReady
from vsae_search.report.build import build_report
from vsae_search.report.card import discover
from vsae_search.report.picture import draw_frontier
from vsae_search.report.render import render_page
from vsae_search.report.tables import frontier_csv, frontier_markdown, trials_csv

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from vsae_search.report.data import ReportData


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
        EnvironmentNotReady: The files cannot be written.
    """
    cards = discover()
    data = build_report(sweep_dir, tracking_url=tracking_url, cards=cards)
    pictures = draw_frontier(data)
    page, text = render_page(data, cards=cards), data.model_dump_json(indent=2) + "\n"
    try:
        return _write_all(out_dir, data, page, text, pictures)
    except OSError as error:
        raise EnvironmentNotReady(
            f"the report cannot be written to {out_dir}: {error.strerror or error}",
            "make room or permission for it there, or choose another folder with --reports",
        ) from error


def _write_all(
    out_dir: Path, data: ReportData, page: str, text: str, pictures: Mapping[Literal["png", "svg"], bytes]
) -> ReportPaths:
    return ReportPaths(
        html=_write(out_dir / "report.html", page),
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
    write_bytes(path, content.encode() if isinstance(content, str) else content, mode=None)
    return path
