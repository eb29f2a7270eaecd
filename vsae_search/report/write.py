"""Writing a report: every file is replaced in one step, so a reader never sees half of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vsae_search.atomic import write_bytes
from vsae_search.errors import EnvironmentNotReady, UserInputError
from vsae_search.report.build import build_report
from vsae_search.report.card import discover
from vsae_search.report.data import experiment_kind, report_schema
from vsae_search.report.pictures import KINDS, page_pictures, picture_files
from vsae_search.report.render import page_of, sections_of
from vsae_search.report.tables import table_files
from vsae_search.search.records import load_sweep

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True)
class ReportPaths:
    """Where the files of a report lie.

    Attributes:
        html: The page; one file that opens offline.
        json: Every number of the report.
        schema: JSON Schema of that.
        figures: Figures as PNG, SVG and PDF.
        tables: Tables as CSV, parquet, Markdown and LaTeX.
    """

    html: Path
    json: Path
    schema: Path
    figures: tuple[Path, ...]
    tables: tuple[Path, ...]


def write_report(
    sweep_dir: Path | Sequence[Path], out_dir: Path, tracking_url: str | None = None, *, every_format: bool = False
) -> ReportPaths:
    """Write the report of a sweep, finished or not, or of several that are compared.

    Args:
        sweep_dir: The sweep directory, or several of sweeps that describe the same activations.
        out_dir: Folder for the files; made when missing.
        tracking_url: Address of the MLflow server that shows the runs; None takes the one the sweep was recorded at.
            Only ``http`` and ``https`` addresses become links.
        every_format: Whether every figure is written as PNG and PDF too, and not only as SVG.

    Raises:
        UserInputError: There is no sweep in ``sweep_dir``, or the sweeps cannot be compared.
        CorruptFile: A record cannot be read.
        EnvironmentNotReady: The files cannot be written.
    """
    cards = discover(_experiment([sweep_dir] if isinstance(sweep_dir, Path) else sweep_dir))
    data = build_report(sweep_dir, tracking_url=tracking_url, cards=cards)
    sections = sections_of(data, cards)
    pictures, tables = picture_files(data, sections, KINDS if every_format else ("svg",)), table_files(data)
    page, text = page_of(data, sections, page_pictures(pictures)), data.model_dump_json(indent=2) + "\n"
    try:
        return _write_all(out_dir, page, text, pictures, tables)
    except OSError as error:
        raise EnvironmentNotReady(
            f"the report cannot be written to {out_dir}: {error.strerror or error}",
            "make room or permission for it there, or choose another folder with --reports",
        ) from error


def _experiment(directories: Sequence[Path]) -> str | None:
    """Kind of the toy experiment that is reported; None for sweeps.

    Raises:
        UserInputError: Something is to be compared with an experiment, or there is no sweep.
    """
    kinds = [experiment_kind(load_sweep(directory)[0].space) for directory in directories]
    if len(kinds) > 1 and any(kinds):
        raise UserInputError(
            "a toy experiment cannot be compared in one report: it has no autoencoders", "report it by itself"
        )
    return kinds[0]


def _write_all(
    out_dir: Path, page: str, text: str, pictures: Mapping[str, bytes], tables: Mapping[str, str | bytes]
) -> ReportPaths:
    return ReportPaths(
        html=_write(out_dir / "report.html", page),
        json=_write(out_dir / "report.json", text),
        schema=_write(out_dir / "report.schema.json", json.dumps(report_schema(), indent=2) + "\n"),
        figures=tuple(_write(out_dir / "figures" / name, image) for name, image in pictures.items()),
        tables=tuple(_write(out_dir / "tables" / name, content) for name, content in tables.items()),
    )


def _write(path: Path, content: str | bytes) -> Path:
    """Write beside the target, then replace it; a link in its place is replaced, not followed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, content.encode() if isinstance(content, str) else content, mode=None)
    return path
