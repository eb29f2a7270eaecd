"""The sweep: Optuna proposes, Ray Tune runs, one record per trial stays."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vsae_search.search import _quiet  # noqa: F401 - has to come before the first import of Ray
from vsae_search.search.budgets import trial_budgets
from vsae_search.search.listener import SweepListener
from vsae_search.search.records import (
    ArchitecturePlan,
    ReferenceRecord,
    RungRecord,
    SweepRecord,
    TrialRecord,
    load_sweep,
)

if TYPE_CHECKING:
    from vsae_search.search.sweep import run_sweep

__all__ = [
    "ArchitecturePlan",
    "ReferenceRecord",
    "RungRecord",
    "SweepListener",
    "SweepRecord",
    "TrialRecord",
    "load_sweep",
    "run_sweep",
    "trial_budgets",
]


def __getattr__(name: str) -> Any:
    # reading a sweep needs neither Ray nor Optuna: they are imported with run_sweep only
    if name == "run_sweep":
        return importlib.import_module("vsae_search.search.sweep").run_sweep
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
