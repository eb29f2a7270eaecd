"""Sparse and variational sparse autoencoders: one file per architecture, torch only."""

from __future__ import annotations

from vsae_search.saes.base import Loss, SaeConfig, SparseAutoencoder
from vsae_search.saes.canonical import CanonicalSae
from vsae_search.saes.registry import config_classes, create, get, names, register
from vsae_search.saes.storage import load, save

__all__ = [
    "CanonicalSae",
    "Loss",
    "SaeConfig",
    "SparseAutoencoder",
    "config_classes",
    "create",
    "get",
    "load",
    "names",
    "register",
    "save",
]
