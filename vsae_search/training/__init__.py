"""Fitting one sparse autoencoder to a stream of activations."""

from __future__ import annotations

from vsae_search.training.curve import Curve
from vsae_search.training.loop import fit
from vsae_search.training.rung import Rung

__all__ = ["Curve", "Rung", "fit"]
