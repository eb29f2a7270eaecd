"""The training curve of a trial, in ``curve.json`` beside its record: at most a few hundred points."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationError, model_validator

from vsae_search.search.records import Record, write_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

CURVE_FILE = "curve.json"
_MOST_BYTES = 1_000_000

logger = logging.getLogger(__name__)


class CurveRecord(Record):
    """A training curve by columns.

    Attributes:
        format: Version of this layout.
        columns: Columns of equal length by name: ``step``, ``tokens`` (training rows seen), ``total`` and
            ``reconstruction`` loss, every penalty and ``grad_norm`` as means since the point before, ``l0`` and
            ``dead_fraction`` of the training code at that step.
    """

    format: Literal[1] = 1
    columns: dict[str, tuple[float, ...]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _rectangular(self) -> CurveRecord:
        if len({len(values) for values in self.columns.values()}) > 1:
            raise ValueError("the columns of a curve have different lengths")
        return self


def write_curve(directory: Path, columns: Mapping[str, Sequence[float]]) -> None:
    """Replace the curve of a trial; without a point there is nothing to write.

    Args:
        directory: The trial's folder.
        columns: Columns of equal length by name.
    """
    if columns:
        record = CurveRecord(columns={name: tuple(values) for name, values in columns.items()})
        write_text(directory / CURVE_FILE, record.model_dump_json() + "\n", durable=False)


def read_curve(directory: Path) -> CurveRecord | None:
    """The curve of a trial; None when there is none, or none that can be read.

    Args:
        directory: The trial's folder.
    """
    path = directory / CURVE_FILE
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError("too large")
        return CurveRecord.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError, ValueError):
        logger.warning("search.curve_unreadable path=%s", path)
        return None
