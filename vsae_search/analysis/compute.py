"""Runs every analysis and puts its numbers into plain values that JSON holds."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from vsae_search import __version__
from vsae_search.report.text import mask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from vsae_search.analysis.base import Analysis
    from vsae_search.analysis.material import Material

FORMAT = 1
logger = logging.getLogger(__name__)
Columns = dict[str, "NDArray[Any]"]


def analyse(material: Material, analyses: Sequence[Analysis]) -> tuple[dict[str, Any], Columns]:
    """Compute everything.

    An analysis that fails is logged with its traceback, and says why in its place; the others are not affected.

    Returns:
        What ``analysis.json`` holds, and the columns of ``latents.csv``.
    """
    columns: Columns = {"latent": np.arange(material.own.d_sae)}
    found: dict[str, Any] = {}
    for analysis in analyses:
        entry: dict[str, Any] = {"title": analysis.title, "unavailable": None, "failed": None, "numbers": None}
        try:
            entry["unavailable"] = analysis.unavailable(material)
            if entry["unavailable"] is None:
                result = analysis.compute(material)
                entry["numbers"] = plain(result.numbers)
                columns |= result.per_latent
        except Exception as error:  # the boundary of an analysis: a broken one never loses the others
            logger.exception("analysis.failed name=%s", analysis.name)
            entry["failed"] = mask(f"{type(error).__name__}: {error}")
        entry["definitions"] = {item.key: {"unit": item.unit, "definition": item.text} for item in analysis.definitions}
        found[analysis.name] = entry
    return {**_header(material), "analyses": found}, columns


def _header(material: Material) -> dict[str, Any]:
    trained = material.request.trained
    trial, bank = trained.trial, trained.sweep.bank
    header = {
        "format": FORMAT,
        "version": __version__,
        "sweep": trained.sweep.name,
        "uid": trial.uid,
        "architecture": trial.architecture,
        "params": trial.params,
        "trial_metrics": {key: trial.metrics.get(key) for key in ("l0", "delta_ce", "fvu", "dead_fraction")},
        "d_in": material.subject.d_in,
        "d_sae": material.own.d_sae,
        "rows": material.num_rows,
        "split": "evaluation",
        "scale": bank["scale"],
        "seed": material.seed,
        "subject": {key: trained.sweep.subject.get(key) for key in ("kind", "model", "hook", "revision")},
        "subject_fingerprint": material.subject.fingerprint,
        "against": [other.name for other in material.others],
        "features": material.features,
        "choice": material.choice,
        "notes": material.notes,
        "units": {
            "scaled activation": "activations are multiplied by scale, so that the mean squared norm of a row is d_in"
        },
    }
    plain_header: dict[str, Any] = plain(header)
    return plain_header


def plain(value: Any) -> Any:
    """Return a value in the types that JSON knows: numpy numbers and arrays converted, non-finite numbers null.

    Floating-point numbers keep seven significant digits, which is what the activations have.
    """
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or isinstance(value, bool | int):
        return value
    return mask(str(value))
