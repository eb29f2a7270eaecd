"""Frontiers as numbers: dominance, hypervolume, attainment, matched L0, comparison. Arrays in, arrays out.

One set of points: `nondominated`, `pareto_rank`, `staircase`, `attained`, `hypervolume`, `hypervolume_history`.
Several sets: `ownership`, `pooled_frontier`, `epsilon_additive`, `igd_plus`.
Repeated runs: `Replicates` (what a replicate is), `attainment_band`, `attainment_difference`, `matched`, `compare`,
`optimism`, and the intervals they carry.
"""

from vsae_search.frontier.attainment import (
    AttainmentSurface,
    Cells,
    attainment,
    attainment_band,
    attainment_cells,
    attainment_surface,
    attainment_volume,
)
from vsae_search.frontier.comparison import Comparison, compare
from vsae_search.frontier.difference import AttainmentDifference, attainment_difference
from vsae_search.frontier.dominance import count_non_finite, finite_rows, nondominated, pareto_rank
from vsae_search.frontier.effects import hodges_lehmann, superiority
from vsae_search.frontier.hypervolume import (
    Hypervolume,
    default_ideal,
    hypervolume,
    hypervolume_history,
    hypervolumes,
    outside,
)
from vsae_search.frontier.indicators import Indicator, epsilon_additive, igd_plus, pooled_frontier
from vsae_search.frontier.intervals import Interval, difference_interval, mean_interval, median_interval
from vsae_search.frontier.matched import MATCHED_L0, Matched, interpolated, matched, read_frontiers
from vsae_search.frontier.optimism import Gap, Optimism, optimism
from vsae_search.frontier.ownership import Segment, ownership
from vsae_search.frontier.permutation import holm, holm_families, paired_p, smallest_p, unpaired_p
from vsae_search.frontier.replicates import Replicates, replicates_from_rows, shared_seeds
from vsae_search.frontier.searches import search_p
from vsae_search.frontier.staircase import attained, staircase

__all__ = [
    "MATCHED_L0",
    "AttainmentDifference",
    "AttainmentSurface",
    "Cells",
    "Comparison",
    "Gap",
    "Hypervolume",
    "Indicator",
    "Interval",
    "Matched",
    "Optimism",
    "Replicates",
    "Segment",
    "attained",
    "attainment",
    "attainment_band",
    "attainment_cells",
    "attainment_difference",
    "attainment_surface",
    "attainment_volume",
    "compare",
    "count_non_finite",
    "default_ideal",
    "difference_interval",
    "epsilon_additive",
    "finite_rows",
    "hodges_lehmann",
    "holm",
    "holm_families",
    "hypervolume",
    "hypervolume_history",
    "hypervolumes",
    "igd_plus",
    "interpolated",
    "matched",
    "mean_interval",
    "median_interval",
    "nondominated",
    "optimism",
    "outside",
    "ownership",
    "paired_p",
    "pareto_rank",
    "pooled_frontier",
    "read_frontiers",
    "replicates_from_rows",
    "search_p",
    "shared_seeds",
    "smallest_p",
    "staircase",
    "superiority",
    "unpaired_p",
]
