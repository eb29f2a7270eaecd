"""What is explained: toy models of superposition and synthetic activations from known directions."""

from vsae_search.subjects import directions, toy_model  # noqa: F401 - each registers its builder
from vsae_search.subjects.base import Baseline, FeatureGroup, GroundTruth, Rows, Split, Subject
from vsae_search.subjects.registry import build_subject

__all__ = ["Baseline", "FeatureGroup", "GroundTruth", "Rows", "Split", "Subject", "build_subject"]
