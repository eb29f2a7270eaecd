"""How often confirmed runs attain what: the surfaces at 25, 50 and 75 % of each architecture's seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vsae_search.frontier import attainment_band
from vsae_search.report.replicated import replicates

if TYPE_CHECKING:
    from vsae_search.report.data import ReportData

FEWEST_FOR_BAND = 3
"""Seeds below which a band would be a line between two single runs."""


def bands(data: ReportData) -> dict[str, Any]:
    """Per architecture with complete seeds: number of runs and its surfaces, JSON-able.

    With fewer than 3 seeds only the surface at 50 % is given.
    """
    found: dict[str, Any] = {}
    for name, runs in replicates(data).items():
        levels = (0.25, 0.5, 0.75) if runs.num_runs >= FEWEST_FOR_BAND else (0.5,)
        found[name] = {
            "num_runs": runs.num_runs,
            "surfaces": [
                {
                    "level": surface.level,
                    "num_attaining": surface.num_attaining,
                    "l0": surface.corners_M2[:, 0].tolist(),
                    "delta_ce": surface.corners_M2[:, 1].tolist(),
                }
                for surface in attainment_band(runs.points_RN2, levels)
            ],
        }
    return found


def surface(band: dict[str, Any] | None, level: float) -> list[tuple[float, float]]:
    """Corners of one surface; empty where there is none."""
    for entry in (band or {}).get("surfaces", ()):
        if entry["level"] == level:
            return list(zip(entry["l0"], entry["delta_ce"], strict=True))
    return []
