"""When things happen during training: learning rate, rungs, resampling, reporting."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vsae_search.space import TrainingSpec

REPORT_STEPS = 100
"""Steps between two looks at the device: losses are read, dead latents marked, finiteness checked."""
_MAX_WARMUP_STEPS = 1000
_MAX_DEAD_WINDOW_TOKENS = 10_000_000


def warmup_steps(spec: TrainingSpec) -> int:
    """Steps in which the learning rate rises; at most 1000."""
    return min(_MAX_WARMUP_STEPS, round(spec.lr_warmup_fraction * spec.num_steps))


def lr_factor(step: int, spec: TrainingSpec, *, restarted_at: int | None = None) -> float:
    """Factor of the learning rate: linear rise, plateau, fall in the shape that the specification names.

    Args:
        step: Index of the step, from 0.
        spec: Training budget and fractions.
        restarted_at: Step at which latents were last resampled; the rise is repeated from there.

    Returns:
        A factor in (0, 1]. The last step still has the size of one notch of the fall.
    """
    warmup = warmup_steps(spec)
    decay = round(spec.lr_decay_fraction * spec.num_steps)
    factor = 1.0
    for start in (0, restarted_at):
        if start is not None and 0 <= step - start < warmup:
            factor = min(factor, (step - start + 1) / warmup)
    if step >= spec.num_steps - decay:
        factor = min(factor, _fall((spec.num_steps - step) / decay, spec))
    return factor


def _fall(left: float, spec: TrainingSpec) -> float:
    """Factor of the learning rate when a share of its fall is left, in (0, 1]."""
    match spec.lr_decay_shape:
        case "linear":
            return left
        case "cosine":
            return 0.5 * (1 - math.cos(math.pi * left))
        case "quarter_cosine":
            return math.sin(0.5 * math.pi * left)


def step_at(fraction: float, spec: TrainingSpec) -> int:
    """Number of steps that make up a share of training; at least 1."""
    return max(1, round(fraction * spec.num_steps))


def dead_window_tokens(spec: TrainingSpec) -> int:
    """Rows without firing after which a latent counts as dead: as given, or min(10 million, a tenth of the budget)."""
    return spec.dead_window_tokens or max(1, min(_MAX_DEAD_WINDOW_TOKENS, spec.num_tokens // 10))
