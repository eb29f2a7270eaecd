"""The tables that are written beside the page: frontier, trials, matched L0, comparisons, confirmed runs."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from vsae_search.report.metrics import headline
from vsae_search.report.tableformats import Table, csv_cell, markdown_cell
from vsae_search.report.text import number

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vsae_search.report.data import ReportData, TrialRow

__all__ = ["csv_cell", "frontier_csv", "frontier_markdown", "markdown_cell", "table_files", "trials_csv"]

logger = logging.getLogger(__name__)


def table_files(data: ReportData) -> dict[str, str | bytes]:
    """File name to content of every table that the report has numbers for.

    A table that cannot be made is logged and left out, so that it does not cost the others.
    """
    makers: dict[str, Callable[[ReportData], dict[str, str | bytes]]] = {
        "frontier": lambda report: {
            **_files("frontier", frontier_table(report), "csv", "parquet"),
            **_files("frontier", frontier_summary(report), "md", "tex"),
        },
        "trials": lambda report: _files("trials", _trials_table(report.trials), "csv", "parquet"),
        "matched": lambda report: _files("matched", matched_table(report)),
        "comparison": lambda report: _files("comparison", comparison_table(report)),
        "confirmed": lambda report: _files("confirmed", confirmed_table(report), "csv", "parquet"),
    }
    if data.experiment is not None:
        makers = {"trials": makers["trials"]}
    files: dict[str, str | bytes] = {}
    for name, make in makers.items():
        try:
            files |= make(data)
        except Exception:  # the same boundary as for cards
            logger.exception("report.table_failed table=%s", name)
    return files


def frontier_csv(data: ReportData) -> str:
    """Every frontier trial, by architecture and L0, with all metrics and hyper-parameters."""
    return frontier_table(data).csv()


def trials_csv(data: ReportData) -> str:
    """Every trial that ended, in uid order, with all metrics and hyper-parameters."""
    return _trials_table(data.trials).csv()


def frontier_markdown(data: ReportData) -> str:
    """The frontier trials with the headline metrics, as a Markdown table."""
    return frontier_summary(data).markdown()


def frontier_table(data: ReportData) -> Table:
    """Every frontier trial with all that is known about it."""
    return _trials_table([row for entry in data.architectures for row in data.frontier(entry.name)])


def frontier_summary(data: ReportData) -> Table:
    """The frontier trials with the headline metrics."""
    metrics = headline(data)
    titles = ("architecture", "trial", "L0", "delta-CE", "pooled", *(m.title for m in metrics), "hyper-parameters")
    rows = [
        (
            *(row.architecture, row.uid, row.l0, row.delta_ce, row.on_pooled_frontier),
            *(metric.text(row) for metric in metrics),
            ", ".join(f"{key}={number(value, 4)}" for key, value in row.params.items()),
        )
        for entry in data.architectures
        for row in data.frontier(entry.name)
    ]
    return Table(titles, tuple(rows))


def matched_table(data: ReportData) -> Table:
    """delta_ce at matched L0: one row per architecture, L0 and basis (confirmed runs or search)."""
    found = data.cards.get("matched", {})
    rows = [
        (
            *(row["architecture"], row["l0"], basis, len(row["values"]), row["num_reached"], row["mean"]),
            *_ends(row["mean_interval"]),
            row["median"],
        )
        for basis in ("confirmed", "search")
        for row in found.get(basis, ())
    ]
    titles = ("architecture", "L0", "basis", "runs", "runs reaching", "mean delta-CE", "low", "high", "median")
    return Table(titles, tuple(rows))


def comparison_table(data: ReportData) -> Table:
    """Every pair at every endpoint: effect size, interval, corrected p or why there is none."""
    titles = (
        *("first", "second", "endpoint", "L0", "difference", "low", "high", "Hodges-Lehmann", "P(better)"),
        *("p", "winner", "paired", "runs of first", "runs of second", "why no p"),
    )
    rows = [
        (
            *(row["a"], row["b"], row["endpoint"], row["l0"], row["difference"], *_ends(row["interval"])),
            *(row["hodges_lehmann"], row["superiority"], row["p_value"], row["winner"], row["paired"]),
            *(row["num_runs_a"], row["num_runs_b"], row["why_no_p"]),
        )
        for row in data.cards.get("comparison", {}).get("comparisons", ())
    ]
    return Table(titles, tuple(rows))


def confirmed_table(data: ReportData) -> Table:
    """Every retrained SAE with the score of the search beside it."""
    titles = (
        *("architecture", "uid", "rank", "seed", "state", "l0", "delta_ce"),
        *("search_l0", "search_delta_ce"),
    )
    configurations = data.confirmation.configurations if data.confirmation else ()
    rows = [
        (
            *(row.architecture, row.uid, row.rank, one.seed, one.state, one.l0, one.delta_ce),
            *(row.search.l0, row.search.delta_ce),
        )
        for row in configurations
        for one in row.replicates
    ]
    return Table(titles, tuple(rows))


def _files(name: str, table: Table, *kinds: str) -> dict[str, str | bytes]:
    """The table in the given formats, all four by default; nothing for a table without rows that may be missing."""
    if not table.rows and name not in ("frontier", "trials"):
        return {}
    write: dict[str, Callable[[], str | bytes]] = {
        "csv": table.csv,
        "parquet": table.parquet,
        "md": table.markdown,
        "tex": table.latex,
    }
    return {f"{name}.{kind}": write[kind]() for kind in kinds or write}


def _ends(interval: dict[str, Any] | None) -> tuple[float | None, float | None]:
    return (None, None) if interval is None else (interval["low"], interval["high"])


def _trials_table(rows: Sequence[TrialRow]) -> Table:
    metrics = sorted({key for row in rows for key in row.metrics} - {"l0", "delta_ce"})
    params = sorted({key for row in rows for key in row.params})
    fields = (
        *("architecture", "uid", "state", "l0", "delta_ce", "on_frontier", "on_pooled_frontier", "outside_reference"),
        *("d_sae", "seed", "attempt", "wall_s", "overhead_s", "error", "run_url"),
    )
    return Table(
        (*fields, *metrics, *(f"param.{key}" for key in params)),
        tuple(
            (
                *(getattr(row, field) for field in fields),
                *(row.metrics.get(key) for key in metrics),
                *(row.params.get(key) for key in params),
            )
            for row in rows
        ),
    )
