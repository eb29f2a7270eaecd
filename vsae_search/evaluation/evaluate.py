"""Runs one autoencoder over the fixed evaluation rows, in chunks, and gathers every metric.

Shapes: B rows of one chunk, N evaluation rows, D activation width, F latents, M represented features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vsae_search.errors import Diverged
from vsae_search.evaluation.base import Batch, Context, Metric
from vsae_search.evaluation.registry import metric_classes
from vsae_search.evaluation.summary import Summary, Tally
from vsae_search.evaluation.truth import represented

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from numpy.typing import NDArray

    from vsae_search.saes import SparseAutoencoder
    from vsae_search.subjects import Baseline, Rows, Subject

_CHUNK_NUMBERS = 1 << 19  # of one [B, F] tensor: its float32 form stays in a second-level cache
_MIN_CHUNK_ROWS, _MAX_CHUNK_ROWS = 64, 8192
_HINT = "The autoencoder has diverged; a smaller learning rate or a larger penalty warm-up may help."


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All metrics of one autoencoder.

    Attributes:
        metrics: Numbers by key, all finite; ``metric_info()`` and docs/metrics.md say what they mean.
        arrays: Arrays by key (histograms, per-sequence losses, per-feature scores), all finite.
    """

    metrics: dict[str, float]
    arrays: dict[str, NDArray[Any]]


@torch.no_grad()
def evaluate(
    sae: SparseAutoencoder,
    rows: Rows,
    *,
    scale: float,
    subject: Subject,
    baseline: Baseline,
    only: Collection[str] | None = None,
    chunk_rows: int | None = None,
) -> Evaluation:
    """Evaluate an autoencoder on fixed rows.

    The rows are scaled, encoded and decoded once, chunk by chunk; every metric sees the same code, so the code that
    L0 is counted on is the code that is spliced. Sums are kept in float64. The result is a function of the arguments
    alone: random dictionaries and clusterings have fixed seeds, and no global random state is touched.

    Args:
        sae: The autoencoder; left in the mode (training or evaluation) in which it came.
        rows: Evaluation rows in the subject's own units, and their features where known.
        scale: Factor that brings rows to the autoencoder's scale (``BankManifest.scale``).
        subject: What is explained; its ``splice`` turns reconstructions into losses.
        baseline: ``subject.baseline(rows)``, computed once for all trials.
        only: Keys that are wanted. Families of metrics without any of them are not computed, which makes an
            evaluation in the middle of training several times cheaper; ``None`` computes everything.
        chunk_rows: Rows per chunk; chosen from the width if ``None``. Changes nothing but memory and speed.

    Returns:
        Metrics and arrays (with ``only``: those asked for). Metrics without a meaning for this autoencoder or subject
        are absent.

    Raises:
        Diverged: A code, a reconstruction or a metric is not finite; the message names the metric.
        KeyError: ``only`` holds a key that no metric has.
    """
    context = Context(rows, scale, subject, baseline, int(sae.config.d_sae), represented(subject.truth))
    metrics = [cls(context) for cls in _chosen(only) if cls.applies(context)]
    tally = Tally(context.d_sae, sae.W_dec.device)
    was_training = sae.training
    sae.eval()
    try:
        for batch in _batches(sae, context, chunk_rows):
            tally.update(batch)
            for metric in metrics:
                metric.update(batch)
    finally:
        sae.train(was_training)
    return _gather(metrics, tally.summary(sae.W_dec, context.truth), only)


def _chosen(only: Collection[str] | None) -> list[type[Metric]]:
    """Return the metrics that hold at least one of the wanted keys."""
    classes = metric_classes()
    if only is None:
        return list(classes)
    unknown = set(only) - {info.key for cls in classes for info in cls.infos}
    if unknown:
        raise KeyError(f"no metric is called {', '.join(sorted(unknown))}")
    return [cls for cls in classes if any(info.key in only for info in cls.infos)]


def _batches(sae: SparseAutoencoder, context: Context, chunk_rows: int | None) -> Iterator[Batch]:
    """Yield the evaluation rows chunk by chunk, encoded and decoded."""
    x_ND, features_NM, device = context.rows.x_ND, context.rows.features_NM, sae.W_dec.device
    step = chunk_rows or min(max(_CHUNK_NUMBERS // context.d_sae, _MIN_CHUNK_ROWS), _MAX_CHUNK_ROWS)
    for start in range(0, context.num_rows, step):
        # The product is a new array: shared, read-only rows never become a tensor that could be written to.
        scaled_BD = np.multiply(x_ND[start : start + step], np.float32(context.scale), dtype=np.float32)
        x_BD = torch.from_numpy(scaled_BD).to(device)
        f_BF = sae.encode(x_BD)
        xhat_BD = sae.decode(f_BF)
        _require_finite(f_BF, "l0", "code", start)
        _require_finite(xhat_BD, "nmse", "reconstruction", start)
        present_BM = None
        if context.truth is not None and features_NM is not None:
            present = features_NM[start : start + step, context.truth.index_M] > 0
            present_BM = torch.from_numpy(present.astype(np.float32)).to(device)
        yield Batch(start, x_BD, f_BF, xhat_BD, present_BM)


def _require_finite(tensor: torch.Tensor, metric: str, what: str, start: int) -> None:
    """Stop before numbers that are not numbers reach the subject or a solver."""
    # A finite sum has finite terms only, and is cheap; a sum that merely overflows is no reason to stop.
    if not bool(torch.isfinite(tensor.sum())) and not bool(torch.isfinite(tensor).all()):
        end = start + len(tensor)
        raise Diverged(
            f"metric {metric!r} is not finite: the {what} of evaluation rows {start}-{end - 1} is not", _HINT
        )


def _gather(metrics: list[Metric], summary: Summary, only: Collection[str] | None) -> Evaluation:
    """Collect the results of all metrics and refuse any that is not finite."""
    numbers: dict[str, float] = {}
    arrays: dict[str, NDArray[Any]] = {}
    for metric in metrics:
        declared = {info.key for info in metric.infos}
        for key, value in metric.result(summary).items():
            assert key in declared, f"{type(metric).__name__} returned the undeclared key {key!r}"
            if not np.all(np.isfinite(value)):
                shown = value if np.ndim(value) == 0 else f"{np.count_nonzero(~np.isfinite(value))} of {np.size(value)}"
                raise Diverged(f"metric {key!r} is not finite ({shown})", _HINT)
            if only is not None and key not in only:
                continue
            if isinstance(value, np.ndarray) and value.ndim > 0:
                arrays[key] = value
            else:
                numbers[key] = float(value)
    return Evaluation(numbers, arrays)
