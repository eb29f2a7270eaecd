"""The activation bank: rows harvested once, shared by every trial through the Ray object store."""

from __future__ import annotations

from vsae_search.activations.bank import ActivationBank, build_bank, hold_out
from vsae_search.activations.manifest import BankManifest, ShardEntry
from vsae_search.activations.plan import BankPlan, plan_bank
from vsae_search.activations.progress import HarvestProgress
from vsae_search.activations.stream import BatchStream

__all__ = [
    "ActivationBank",
    "BankManifest",
    "BankPlan",
    "BatchStream",
    "HarvestProgress",
    "ShardEntry",
    "build_bank",
    "hold_out",
    "plan_bank",
]
