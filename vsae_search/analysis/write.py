"""Writing an analysis: numbers, a table with a line for every latent, and the page drawn from the numbers."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from vsae_search.analysis.base import discover
from vsae_search.analysis.compute import analyse
from vsae_search.analysis.page import Heading, Section, render_page
from vsae_search.atomic import write_bytes
from vsae_search.errors import EnvironmentNotReady
from vsae_search.report.text import mask, number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from vsae_search.analysis.base import Analysis
    from vsae_search.analysis.material import Material

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AnalysisPaths:
    """Where the files of an analysis lie.

    Attributes:
        html: The page; one file that opens offline.
        json: Every number on it, with definitions.
        latents: One line for every latent.
    """

    html: Path
    json: Path
    latents: Path


def write_analysis(material: Material, out_dir: Path, *, analyses: Sequence[Analysis] | None = None) -> AnalysisPaths:
    """Analyse, and write the files; each is replaced in one step.

    Args:
        material: What is analysed.
        out_dir: Folder for the files; made when missing.
        analyses: Analyses to run; None runs all that there are.

    Raises:
        EnvironmentNotReady: The files cannot be written.
    """
    analyses = discover() if analyses is None else analyses
    data, columns = analyse(material, analyses)
    text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    page = render_analysis(json.loads(text), analyses)
    paths = AnalysisPaths(out_dir / "analysis.html", out_dir / "analysis.json", out_dir / "latents.csv")
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        for path, content in ((paths.json, text), (paths.latents, as_csv(columns)), (paths.html, page)):
            write_bytes(path, content.encode("utf-8", "replace"), mode=None)
    except OSError as error:
        raise EnvironmentNotReady(
            f"the analysis cannot be written to {out_dir}: {error.strerror or error}",
            "make room or permission for it there, or choose another folder with --output",
        ) from error
    return paths


def render_analysis(data: Mapping[str, Any], analyses: Sequence[Analysis]) -> str:
    """The whole page as text, drawn from what ``analysis.json`` holds and nothing else."""
    heading = Heading(
        title=f"{data['sweep']}/{data['uid']}",
        description=_description(data),
        facts=_facts(data),
        notes=data["notes"],
    )
    sections = [_section(analysis, data["analyses"][analysis.name]) for analysis in analyses]
    footer = (
        f"Written by vsae_search {data['version']} from analysis.json, which holds every number on this page with its "
        "definition. latents.csv has a line for every latent."
    )
    return render_page(heading, sections, footer)


def as_csv(columns: Mapping[str, NDArray[Any]]) -> str:
    """A table with a line for every latent; a missing number is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in zip(*(np.asarray(column).tolist() for column in columns.values()), strict=True):
        writer.writerow([_cell(value) for value in row])
    return text.getvalue()


def _section(analysis: Analysis, entry: Mapping[str, Any]) -> Section:
    """Draw one analysis; whatever goes wrong becomes the reason that the section shows."""
    name, title = analysis.name, analysis.title
    if entry["failed"] is not None:
        return Section(name, title, (), f"Its numbers failed: {entry['failed']}", failed=True)
    if entry["unavailable"] is not None:
        return Section(name, title, (), entry["unavailable"])
    try:
        parts = tuple(analysis.render(entry["numbers"]))
        assert all(isinstance(part, Markup) for part in parts), "a part is markup, or it would be escaped"
    except Exception as error:  # the boundary of an analysis, as when it computes
        logger.exception("analysis.failed name=%s stage=render", name)
        return Section(name, title, (), mask(f"Drawing it failed: {type(error).__name__}: {error}"), failed=True)
    return Section(name, title, parts)


def _description(data: Mapping[str, Any]) -> str:
    params = ", ".join(f"{key} {number(value)}" for key, value in data["params"].items())
    subject = data["subject"]
    what = f"{subject['model']} at {subject['hook']}" if subject.get("hook") else str(subject.get("kind") or "")
    return f"{data['architecture']} ({params}) on {what}"


def _facts(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("latents", f"{data['d_sae']} for {data['d_in']} coordinates"),
        ("rows read", f"{data['rows']}, {data['split']} split"),
        ("L0 in the sweep", number(data["trial_metrics"]["l0"])),
        ("delta-CE in the sweep", number(data["trial_metrics"]["delta_ce"])),
        ("compared with", ", ".join(data["against"]) or "nothing"),
        ("seed", str(data["seed"])),
    ]


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.7g}" if math.isfinite(value) else ""
    return value
