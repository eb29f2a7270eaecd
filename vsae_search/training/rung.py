"""What a trial reports when it has used up a fraction of its training budget."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rung:
    """State of training at a rung.

    Attributes:
        index: Position in the list of rungs, from 0.
        fraction: Share of the training budget that is used up.
        step: Optimiser steps done.
        tokens: Activation rows seen.
        losses: Means per token since the last rung: ``total``, ``reconstruction`` and every penalty by name.
        grad_norm: Mean norm of the gradient before clipping since the last rung; 0 without gradient.
        lr: Learning rate of the last step.
        dead_fraction: Share of latents that have been silent for the dead window.
        train_s: Seconds spent in training so far, without evaluation and without the time before a resume.
    """

    index: int
    fraction: float
    step: int
    tokens: int
    losses: dict[str, float]
    grad_norm: float
    lr: float
    dead_fraction: float
    train_s: float
