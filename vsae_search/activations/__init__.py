"""The activation bank: rows harvested once, shared by every trial through the Ray object store."""

from __future__ import annotations

from vsae_search.activations.bank import ActivationBank, build_bank
from vsae_search.activations.manifest import BankManifest, ShardEntry
from vsae_search.activations.plan import BankPlan, plan_bank
from vsae_search.activations.stream import BatchStream

__all__ = [
    "ActivationBank",
    "BankManifest",
    "BankPlan",
    "BatchStream",
    "ShardEntry",
    "build_bank",
    "plan_bank",
]
