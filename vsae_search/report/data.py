"""The numbers of a report. Everything that is drawn or written is drawn from these models and nothing else.

They are what ``report.json`` holds; numbers in it are finite, and what could not be measured is null.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from vsae_search.report.confirmed import ConfirmSummary
from vsae_search.report.points import AxisPoint
from vsae_search.report.references import ReferenceRow
from vsae_search.space.strict import Strict

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT: Literal[1] = 1


class Axes(Strict):
    """The plane in which hypervolumes are measured."""

    reference: AxisPoint | None
    """Upper right corner, fixed when the sweep started; null when the sweep ended before it was known."""
    reference_source: str | None
    """``given`` in the search space or ``measured`` at the start."""
    ideal: AxisPoint | None
    """Lower left corner; points beyond it are moved onto it."""
    l0_range: tuple[float, float] | None = None
    """Smallest and largest L0 that count, when the search space asks for a range; null when all do."""
    l0_scale: Literal["log2"] = "log2"
    """Areas are measured on the binary logarithm of L0."""
    delta_ce_scale: Literal["linear"] = "linear"
    """Areas are measured on delta_ce itself."""
    loss_name: str
    """What delta_ce measures."""
    loss_unit: str
    """Its unit."""


class SweepSummary(Strict):
    """What ran, on what, with which versions."""

    name: str
    """Name of the sweep."""
    description: str
    """The search space's own words."""
    status: str
    """``running``, ``completed``, ``interrupted`` or ``failed``."""
    digest: str
    """SHA-256 of the search space."""
    seed: int
    """Seed of the sweep."""
    git_commit: str | None
    """Commit of the source tree."""
    git_dirty: bool | None
    """Whether tracked files differed from that commit."""
    versions: dict[str, str]
    """Python and library versions."""
    subject: dict[str, Any]
    """What the subject says about itself."""
    true_l0: float | None
    """Mean number of active ground-truth features per row, where the subject knows it."""
    bank: dict[str, Any]
    """Summary of the activation bank, with its digests."""
    resources: dict[str, Any]
    """Processors per trial, concurrency, nodes."""
    utilisation: dict[str, Any]
    """Planned and achieved parts, 0 to 1, of processors and GPUs in use during the last session."""
    early_stopping: dict[str, Any]
    """Whether it was on, and what it did: trials stopped, trials audited, the rate of false stops."""
    space: dict[str, Any]
    """The whole search space; passwords inside addresses are masked."""
    sessions: int
    """How many times the sweep was started."""
    started_at: str
    """UTC, ISO 8601."""
    ended_at: str
    """UTC, ISO 8601; empty while running."""


class SweepPart(Strict):
    """One of several sweeps that are compared in one report."""

    name: str
    """Name of the sweep; its architectures are called ``<name>/<architecture>``."""
    status: str
    """``running``, ``completed``, ``interrupted`` or ``failed``."""
    digest: str
    """SHA-256 of its search space."""
    seed: int
    """Its seed."""
    git_commit: str | None
    """Commit of the source tree."""
    reference: AxisPoint | None
    """Its own reference point; the report uses the largest of all sweeps in each coordinate."""


class HypervolumeSummary(Strict):
    """Hypervolume of one set of trials."""

    value: float
    """Octaves of L0 times the unit of delta_ce."""
    normalised: float
    """Fraction of the box between ideal and reference."""
    num_outside: int
    """Trials on or beyond the reference point, which add nothing."""
    num_clipped: int
    """Trials moved onto the ideal point in one coordinate."""


class Stairs(Strict):
    """Corners of a staircase by rising L0, to be drawn with horizontal-then-vertical steps."""

    l0: tuple[float, ...]
    """Mean number of firing latents per token, strictly rising."""
    delta_ce: tuple[float, ...]
    """Extra loss, strictly falling."""


class ArchitectureSummary(Strict):
    """One architecture in a sweep."""

    name: str
    """Registered name."""
    colour: str
    """Colour of its marks, ``#rrggbb``."""
    symbol: str
    """Shape of its marks, a Plotly symbol name."""
    planned: int | None
    """Trials in its budget."""
    ranges: dict[str, Any]
    """Searched ranges and constants, spelled as in a search-space file."""
    states: dict[str, int]
    """Number of trials by state."""
    num_non_finite: int
    """Completed trials whose L0 or delta_ce is missing or not finite."""
    frontier: tuple[str, ...]
    """Uids of its non-dominated completed trials by rising L0."""
    staircase: Stairs
    """What it attains at each L0."""
    hypervolume: HypervolumeSummary | None
    """Null without a reference point."""


class TrialRow(Strict):
    """One trial that ended."""

    uid: str
    """The name that Tune, Optuna and MLflow use too."""
    architecture: str
    """Registered name."""
    number: int
    """Position among the trials of its architecture."""
    state: str
    """``completed``, ``stopped``, ``diverged`` or ``failed``."""
    seed: int
    """Training seed."""
    params: dict[str, Any]
    """Hyper-parameters."""
    d_sae: int | None
    """Number of latents, where it is known."""
    l0: float | None
    """Mean number of firing latents per token."""
    delta_ce: float | None
    """Extra loss when the reconstruction replaces the activation."""
    metrics: dict[str, float | None]
    """Every final metric; null where it is not finite."""
    on_frontier: bool
    """Non-dominated within its architecture (completed trials only)."""
    on_pooled_frontier: bool
    """Non-dominated among the trials of all architectures."""
    outside_reference: bool
    """On or beyond the reference point."""
    wall_s: float
    """Seconds from start to end."""
    overhead_s: float
    """Seconds of it that were not training."""
    attempt: int
    """Attempts before this one that the infrastructure lost."""
    error: str | None
    """Why it diverged or failed."""
    run_url: str | None
    """Its MLflow run, when the address is known and safe to open."""


class Owned(Strict):
    """A range of L0 and the architectures whose staircase is lowest in it."""

    low: float
    """Smallest L0."""
    high: float
    """Largest L0."""
    owners: tuple[str, ...]
    """More than one only in an exact tie."""


class Provenance(Strict):
    """What is needed to run the sweep again and to check that it was this one."""

    command: str
    """Command that runs the search space shown below."""
    space_yaml: str
    """The search-space file; passwords inside addresses are masked."""
    checksums: dict[str, str]
    """SHA-256 of the files that this report was made from."""
    report_version: str
    """Version of the program that wrote the report."""


class ReportData(Strict):
    """Everything in a report."""

    format: Literal[1] = FORMAT
    """Version of this layout."""
    sweep: SweepSummary
    """What ran."""
    axes: Axes
    """The plane of the frontiers."""
    architectures: tuple[ArchitectureSummary, ...]
    """In the order of the search space."""
    trials: tuple[TrialRow, ...]
    """In uid order."""
    pooled_hypervolume: HypervolumeSummary | None
    """Hypervolume of all architectures together."""
    ownership: tuple[Owned, ...]
    """Which architecture is lowest at which L0."""
    provenance: Provenance
    """How to run it again."""
    sweeps: tuple[SweepPart, ...] = ()
    """The sweeps that are compared; empty for the report of a single sweep."""
    confirmation: ConfirmSummary | None = None
    """Retrained configurations on held-out rows; null until the sweep is confirmed."""
    references: tuple[ReferenceRow, ...] = ()
    """Autoencoders from elsewhere, measured on the same rows; part of no frontier."""
    cards: dict[str, Any] = Field(default_factory=dict)
    """Numbers that single cards computed, by card name."""
    card_errors: dict[str, str] = Field(default_factory=dict)
    """Cards whose numbers could not be computed, and why."""

    def trial(self, uid: str) -> TrialRow:
        """The trial with a uid.

        Raises:
            KeyError: There is no such trial.
        """
        return self._by_uid[uid]

    def architecture(self, name: str) -> ArchitectureSummary:
        """The architecture with a name.

        Raises:
            KeyError: There is no such architecture.
        """
        return {architecture.name: architecture for architecture in self.architectures}[name]

    @property
    def experiment(self) -> str | None:
        """Kind of toy experiment that this is the report of; None for that of a sweep."""
        return experiment_kind(self.sweep.space)

    @cached_property
    def _by_uid(self) -> dict[str, TrialRow]:
        return {row.uid: row for row in self.trials}

    def frontier(self, name: str) -> tuple[TrialRow, ...]:
        """Frontier trials of one architecture by rising L0."""
        rows = self._by_uid
        return tuple(rows[uid] for uid in self.architecture(name).frontier)


def experiment_kind(space: Mapping[str, Any]) -> str | None:
    """Kind of the toy experiment that a stored space describes; None when it is a search space."""
    kind = (space.get("experiment") or {}).get("type")
    return str(kind) if kind in ("geometry", "phase_transition") else None


def report_schema() -> dict[str, Any]:
    """JSON Schema of ``report.json``."""
    return ReportData.model_json_schema(mode="serialization")
