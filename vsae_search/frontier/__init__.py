"""Frontiers as numbers: dominance, hypervolume, staircases and who owns which range. Arrays in, arrays out."""

from vsae_search.frontier.dominance import count_non_finite, finite_rows, nondominated
from vsae_search.frontier.hypervolume import Hypervolume, default_ideal, hypervolume, outside
from vsae_search.frontier.ownership import Segment, ownership
from vsae_search.frontier.staircase import attained, staircase

__all__ = [
    "Hypervolume",
    "Segment",
    "attained",
    "count_non_finite",
    "default_ideal",
    "finite_rows",
    "hypervolume",
    "nondominated",
    "outside",
    "ownership",
    "staircase",
]
