"""Autoencoders for other libraries, and theirs for ours: SAELens (also read by SAEBench) and dictionary_learning."""

from __future__ import annotations

from vsae_search.export.sweep import Export, Exported, Refused, export_sweep

__all__ = ["Export", "Exported", "Refused", "export_sweep"]
