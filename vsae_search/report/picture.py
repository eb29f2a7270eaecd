"""The frontier figure as PNG, SVG and PDF, for papers and for places that show no HTML.

The files are the same, byte for byte, whenever the numbers are the same.
"""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Any, Literal

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from vsae_search.report.references import COLOUR, drawable
from vsae_search.report.view import box_text, delta_ce_title, frontier_view, l0_marks, l0_title, tick_label

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from vsae_search.report.data import ReportData, TrialRow
    from vsae_search.report.view import FrontierView, Series

MARKERS: dict[str, Any] = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "triangle-up": "^",
    "triangle-down": "v",
    "pentagon": "p",
    "star": "*",
    "cross": "P",
    "x": "X",
    "hexagram": (6, 1, 0),
}
_WIDTH_INCH, _HEIGHT_INCH, _WIDTH_CHARACTERS = 8.4, 5.4, 100
Kind = Literal["png", "svg", "pdf"]
GREY, INK, LINE = "#9aa0a8", "#1d2128", "#dfe3e8"
RC: Any = {
    "svg.hashsalt": "vsae_search",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.usetex": False,
    "text.parse_math": False,  # a name with a dollar sign is not mathematics
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def draw_frontier(data: ReportData) -> dict[Kind, bytes]:
    """Draw the frontier of every architecture.

    Args:
        data: Numbers of the report.

    Returns:
        The three files.
    """
    with mpl.rc_context(RC), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # a box stands for such a character
        view = frontier_view(data)
        columns, rows = _legend_grid(view)
        figure = Figure(figsize=(_WIDTH_INCH, _HEIGHT_INCH + 0.22 * max(0, rows - 1)), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        if view is None:
            _empty(axes)
        else:
            _draw(axes, data, view)
            _legend(axes, view, columns, references=bool(drawable(data)))
        _title(figure, data)
        figure.supxlabel(box_text(data) or " ", x=0.988, ha="right", fontsize=7.5, color="#5c6470")
        return {"png": save(figure, "png"), "svg": save(figure, "svg"), "pdf": save(figure, "pdf")}


def save(figure: Figure, kind: Kind) -> bytes:
    """A figure as a file whose bytes depend on nothing but the figure."""
    # neither a date nor a version: both would change the bytes
    metadata = {
        "png": {"Software": None},
        "svg": {"Date": None, "Creator": None},
        "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
    }[kind]
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=160, metadata=metadata, facecolor="white")
    return buffer.getvalue()


def _empty(axes: Axes) -> None:
    axes.set_axis_off()
    axes.text(0.5, 0.5, "No trial was completed with a finite L0 and delta-CE.", ha="center", transform=axes.transAxes)


def _title(figure: Figure, data: ReportData) -> None:
    figure.suptitle(_shortened(data.sweep.name, 60), x=0.012, ha="left", fontsize=13, fontweight="bold")


def _draw(axes: Axes, data: ReportData, view: FrontierView) -> None:
    axes.set_xscale("log", base=2)
    if view.scale == "log":
        axes.set_yscale("log")
    for series in view.series:
        _scatter(axes, series.dominated, view, marker=MARKERS[series.symbol], s=16, color=GREY, alpha=0.45, zorder=2)
    for series in view.series:
        _staircase(axes, series, view)
    _references(axes, data, view)
    _elsewhere(axes, data, view)
    axes.set_xlim(*view.l0_range)
    axes.set_ylim(*(view.log_range if view.scale == "log" and view.log_range else view.linear_range))
    axes.xaxis.set_major_locator(FixedLocator(view.l0_ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick_label(value)))
    if view.scale == "log":
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(l0_title())
    axes.set_ylabel(_shortened(delta_ce_title(data), 60))
    axes.grid(color="#eceff2", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=0, pad=6)


def _scatter(axes: Axes, rows: Sequence[TrialRow], view: FrontierView, **style: Any) -> None:
    x, y = [max(row.l0 or 0.0, view.floor) for row in rows], [row.delta_ce or 0.0 for row in rows]
    axes.scatter(x, y, linewidths=style.pop("linewidths", 0), **style)


def _staircase(axes: Axes, series: Series, view: FrontierView) -> None:
    if not series.corners:
        return
    x, y = zip(*series.corners, strict=True)
    axes.plot(x, y, drawstyle="steps-post", color=series.colour, linewidth=2, zorder=3)
    if series.tail:
        ends = zip(series.corners[-1], series.tail, strict=True)
        axes.plot(*ends, color=series.colour, linewidth=1.2, linestyle=(0, (1, 2)), zorder=3)
    mark = MARKERS[series.symbol]
    look = {
        "s": 110 if mark == "*" else 52,
        "color": series.colour,
        "edgecolors": "white",
        "linewidths": 0.9,
        "zorder": 4,
    }
    _scatter(axes, series.frontier, view, marker=mark, **look)


def _elsewhere(axes: Axes, data: ReportData, view: FrontierView) -> None:
    """Autoencoders from elsewhere, each with its label."""
    for row, l0, delta_ce in drawable(data):
        x = max(l0, view.floor)
        axes.scatter([x], [delta_ce], marker=MARKERS["hexagram"], s=110, facecolors="none", edgecolors=COLOUR, zorder=5)
        label = _shortened(row.label, 30)
        place: dict[str, Any] = {"textcoords": "offset points", "ha": "center"}
        axes.annotate(label, (x, delta_ce), (0, 8), fontsize=8.5, **place)


def _references(axes: Axes, data: ReportData, view: FrontierView) -> None:
    """Lines at the true and the reference L0, labelled above the plot where no mark can be."""
    line: dict[str, Any] = {"color": GREY, "linewidth": 0.9, "linestyle": (0, (4, 3)), "zorder": 1}
    note: dict[str, Any] = {"color": "#5c6470", "fontsize": 8.5, "va": "bottom"}
    note["transform"] = axes.get_xaxis_transform()
    for value, text in l0_marks(data):
        axes.axvline(value, **line)
        axes.text(value, 1.008, text, ha="right" if value > view.l0_range[1] / 2 else "center", **note)
    if data.axes.reference and data.axes.reference.delta_ce <= view.linear_range[1]:
        axes.axhline(data.axes.reference.delta_ce, **line)


def _legend_names(view: FrontierView) -> list[str]:
    return [_shortened(series.name, 40) for series in view.series if series.corners]


def _legend_grid(view: FrontierView | None) -> tuple[int, int]:
    """Columns and rows of the legend, so that the longest name fits the width."""
    names = [*_legend_names(view), "dominated"] if view else []
    widest = max(map(len, names), default=1)
    columns = max(1, min(len(names), 6, _WIDTH_CHARACTERS // (widest + 8)))
    return columns, -(-len(names) // columns)


def _legend(axes: Axes, view: FrontierView, columns: int, *, references: bool) -> None:
    handles = [
        Line2D([], [], color=s.colour, marker=MARKERS[s.symbol], markersize=7, markeredgecolor="white", linewidth=2)
        for s in view.series
        if s.corners
    ]
    names = _legend_names(view)
    if any(s.dominated for s in view.series):
        handles.append(Line2D([], [], color=GREY, marker="o", markersize=4, linestyle="none", alpha=0.6))
        names.append("dominated")
    if references:
        star: dict[str, Any] = {
            "marker": MARKERS["hexagram"],
            "markerfacecolor": "none",
            "markersize": 9,
            "linestyle": "none",
        }
        handles.append(Line2D([], [], color=COLOUR, **star))
        names.append("references")
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (-0.01, 1.045)}
    axes.legend(handles, names, ncols=columns, frameon=False, columnspacing=1.6, **place)


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."
