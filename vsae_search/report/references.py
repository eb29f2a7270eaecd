"""Autoencoders from elsewhere, measured on a sweep's own evaluation rows: points to compare its frontiers with.

They were trained on other data with other budgets, so they are drawn and listed, and enter no frontier, hypervolume,
comparison or claim.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from vsae_search.report.markup import Column, table
from vsae_search.report.metrics import headline
from vsae_search.report.text import number
from vsae_search.search.records import Record, read_record
from vsae_search.space.strict import Strict

if TYPE_CHECKING:
    from pathlib import Path

    from markupsafe import Markup

    from vsae_search.report.data import ReportData

REFERENCES_FOLDER = "references"
COLOUR, SYMBOL = "#6f7681", "hexagram-open"
"""A mark that no architecture has, in a grey that is read on light and on dark pages."""

logger = logging.getLogger(__name__)


class ImportedSae(Record):
    """An imported autoencoder as ``<sweep>/references/<label>.json`` holds it.

    Attributes:
        label: What it is called.
        format: Format that it was read from.
        class_name: What that format calls this kind of autoencoder.
        source: Where it was read, as it was given.
        model: Model that it says it was trained on.
        hook: Activation that it says it describes.
        dataset: Text that it says it was trained on.
        d_sae: Number of latents.
        digest: SHA-256 of its weights.
        evaluation_digest: Digest of the rows that it was measured on.
        metrics: Metrics, by the names of docs/metrics.md.
    """

    label: str
    format: str
    class_name: str
    source: str
    model: str | None = None
    hook: str | None = None
    dataset: str | None = None
    d_sae: int
    digest: str
    evaluation_digest: str
    metrics: dict[str, float]


class ReferenceRow(Strict):
    """An autoencoder from elsewhere, measured on the evaluation rows."""

    label: str
    """What it is called."""
    format: str
    """Format that it was read from."""
    class_name: str
    """What that format calls this kind of autoencoder."""
    model: str | None
    """Model that it says it was trained on."""
    dataset: str | None
    """Text that it says it was trained on."""
    d_sae: int
    """Number of latents."""
    l0: float | None
    """Mean number of firing latents per token."""
    delta_ce: float | None
    """Extra loss when the reconstruction replaces the activation."""
    metrics: dict[str, float | None]
    """Every metric; null where it is not finite."""


def read_references(directory: Path, evaluation_digest: str | None) -> tuple[ImportedSae, ...]:
    """The autoencoders that were imported into a sweep, by label; those measured on other rows are left out.

    Args:
        directory: The sweep directory.
        evaluation_digest: Digest of its evaluation rows; None when it is not known.

    Raises:
        CorruptFile: A record cannot be read.
    """
    found = [read_record(path, ImportedSae) for path in sorted((directory / REFERENCES_FOLDER).glob("*.json"))]
    foreign = [one.label for one in found if evaluation_digest not in (None, one.evaluation_digest)]
    if foreign:
        logger.warning("report.references_of_other_rows labels=%s", ",".join(foreign))
    return tuple(one for one in found if one.label not in foreign)


def drawable(data: ReportData) -> tuple[tuple[ReferenceRow, float, float], ...]:
    """The references that have a place in the plane, with their L0 and delta_ce."""
    return tuple((row, row.l0, row.delta_ce) for row in data.references if row.l0 and row.delta_ce is not None)


def references_table(data: ReportData) -> Markup:
    """What the references are and how they do."""
    metrics = headline(data)
    columns = [
        *(Column("reference"), Column("class"), Column("trained on")),
        *(Column(title, numeric=True) for title in ("d_sae", "L0", "delta-CE", *(metric.title for metric in metrics))),
    ]
    rows = [
        [
            *(row.label, f"{row.class_name} ({row.format})", ", ".join(filter(None, (row.model, row.dataset)))),
            *(number(value, 4) for value in (row.d_sae, row.l0, row.delta_ce)),
            *(metric.text(row) for metric in metrics),
        ]
        for row in data.references
    ]
    caption = "References: trained elsewhere, measured on the same rows. They enter no frontier, hypervolume or claim."
    return table(columns, rows, caption=caption)
