"""The sweep: Optuna proposes, Ray Tune runs, one record per trial stays."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vsae_search.search import _quiet  # noqa: F401 - has to come before the first import of Ray
from vsae_search.search.confirm.records import Configuration, Confirmed, ConfirmRecord, load_confirm, pair_with_search
from vsae_search.search.listener import SweepListener
from vsae_search.search.propose.budgets import trial_budgets
from vsae_search.search.records import (
    ArchitecturePlan,
    ReferenceRecord,
    RungRecord,
    SweepRecord,
    TrialRecord,
    load_sweep,
)

if TYPE_CHECKING:
    from vsae_search.search.confirm.run import run_confirm
    from vsae_search.search.sweep import run_sweep

__all__ = [
    "ArchitecturePlan",
    "Configuration",
    "ConfirmRecord",
    "Confirmed",
    "ReferenceRecord",
    "RungRecord",
    "SweepListener",
    "SweepRecord",
    "TrialRecord",
    "load_confirm",
    "load_sweep",
    "pair_with_search",
    "run_confirm",
    "run_sweep",
    "trial_budgets",
]


def __getattr__(name: str) -> Any:
    # reading a sweep needs neither Ray nor Optuna: they are imported with what runs one
    if name == "run_sweep":
        return importlib.import_module("vsae_search.search.sweep").run_sweep
    if name == "run_confirm":
        return importlib.import_module("vsae_search.search.confirm.run").run_confirm
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
