"""A figure of the page as a picture: the Plotly specification that a card made, drawn once more by Matplotlib.

Cards describe a figure once. What stands here reads the part of Plotly's language that they use: scatter, bar and
heatmap traces on one plane or on several, lines and rectangles as shapes, notes, and a legend. A picture shows the
state in which the page opens; hover texts and buttons have no place in it. The same figure gives the same bytes.
"""

from __future__ import annotations

import textwrap
import warnings
from typing import TYPE_CHECKING, Any, Literal

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from vsae_search.report.categories import numbered
from vsae_search.report.picture import GREY, INK, LINE, RC, Kind, save
from vsae_search.report.stilltraces import DASHES, colour, draw_trace, plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from matplotlib.axes import Axes

    from vsae_search.report.card import Figure as PageFigure

PIXELS_PER_INCH = 100
_WIDTH_PX, _LEGEND_ROW_PX, _LEGEND_CHARACTERS = 1040, 19, 140
_MARGIN = {"l": 72, "r": 24, "t": 48, "b": 60}
_LEFT_PX, _BAR_PX, _TITLE_PX_PER_CHARACTER, _FONT_POINTS = 92, 44, 7.4, 9.4
_SIDES = {"auto": "center", "middle": "center"}
Plane = tuple[str, str]
Frame = tuple[float, float, float, float]


def draw_still(figure: PageFigure, kinds: Iterable[Kind]) -> dict[Kind, bytes]:
    """Draw a figure of the page.

    Args:
        figure: What a card returned.
        kinds: Formats that are wanted.

    Raises:
        NotImplementedError: It has a kind of trace that is not drawn here.
    """
    with mpl.rc_context({**RC, "font.size": _FONT_POINTS}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # a box stands for such a character
        canvas = _draw(*numbered(figure.spec["data"], figure.spec.get("layout", {})), figure.height_px)
        return {kind: save(canvas, kind) for kind in kinds}


def _draw(data: Sequence[Mapping[str, Any]], layout: Mapping[str, Any], height_px: int) -> Figure:
    traces = [trace for trace in data if trace.get("visible", True) is True]
    margin = {**_MARGIN, **layout.get("margin", {})}
    margin["l"] = max(margin["l"], _LEFT_PX, _label_px(layout))
    if any(trace.get("type") == "heatmap" and trace.get("showscale", True) for trace in traces):
        margin["r"] += _BAR_PX
    rows = _legend_rows(traces, layout)
    top_px = max(margin["t"], 30 + _LEGEND_ROW_PX * (rows + 1) if rows else 0)
    figure = Figure(figsize=(_WIDTH_PX / PIXELS_PER_INCH, height_px / PIXELS_PER_INCH))
    FigureCanvasAgg(figure)
    frame = (
        margin["l"] / _WIDTH_PX,
        margin["b"] / height_px,
        1 - (margin["l"] + margin["r"]) / _WIDTH_PX,
        1 - (margin["b"] + top_px) / height_px,
    )
    planes: dict[Plane, Axes] = {}
    for trace in traces:
        place = (trace.get("xaxis", "x"), trace.get("yaxis", "y"))
        if place not in planes:
            planes[place] = _plane(figure, layout, place, frame)
    for place, axes in planes.items():
        _fill(axes, [one for one in traces if (one.get("xaxis", "x"), one.get("yaxis", "y")) == place], layout, place)
    _annotate(figure, planes, layout, frame)
    if rows:
        _legend(figure, planes, traces, frame, height_px)
    return figure


def _label_px(layout: Mapping[str, Any]) -> float:
    """Room for the longest tick label at the left edge."""
    texts = layout.get("yaxis", {}).get("ticktext", ())
    return 24 + _TITLE_PX_PER_CHARACTER * max((len(plain(str(text))) for text in texts), default=0)


def _plane(figure: Figure, layout: Mapping[str, Any], place: Plane, frame: Frame) -> Axes:
    """An empty plane where its two axes lie."""
    x, y = (_domain(layout, name) for name in place)
    left, bottom, width, height = frame
    box = (left + x[0] * width, bottom + y[0] * height, (x[1] - x[0]) * width, (y[1] - y[0]) * height)
    axes: Axes = figure.add_axes(box)
    axes.set_axisbelow(True)
    axes.grid(color=LINE, linewidth=0.7)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return axes


def _axis_of(layout: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    axis: Mapping[str, Any] = layout.get(f"{name[0]}axis{name[1:]}", {})
    return axis


def _domain(layout: Mapping[str, Any], name: str) -> tuple[float, float]:
    """Share of the frame that an axis spans: its own domain, or its cell of a grid."""
    given = _axis_of(layout, name).get("domain")
    grid = layout.get("grid")
    if given is not None or not grid:
        low, high = given or (0.0, 1.0)
        return float(low), float(high)
    number = int(name[1:] or 1) - 1
    columns, rows = int(grid.get("columns", 1)), int(grid.get("rows", 1))
    shared = grid.get("pattern", "coupled") == "coupled"
    if name[0] == "x":
        return _cell(number if shared else number % columns, columns, float(grid.get("xgap", 0.1)))
    row = number if shared else number // columns
    return _cell(rows - 1 - row, rows, float(grid.get("ygap", 0.1)))  # rows count from the top


def _cell(number: int, count: int, gap: float) -> tuple[float, float]:
    """One of several equal parts, with a gap that is a share of a part with its gap."""
    size = 1 / (count - gap) if count > 1 else 1.0
    return number * size, number * size + (size * (1 - gap) if count > 1 else 1.0)


def _fill(axes: Axes, traces: Sequence[Mapping[str, Any]], layout: Mapping[str, Any], place: Plane) -> None:
    """Traces, axes and shapes of one plane."""
    for name, which in zip(place, "xy", strict=True):
        if _axis_of(layout, name).get("type") == "log":
            axes.set(**{f"{which}scale": "log"})
    stack: dict[Any, float] = {}
    for trace in traces:
        draw_trace(axes, trace, layout, stack)
    for shape in layout.get("shapes", ()):
        _shape(axes, shape, place)
    _axis(axes, "x", _axis_of(layout, place[0]))
    _axis(axes, "y", _axis_of(layout, place[1]))


def _axis(axes: Axes, which: Literal["x", "y"], spec: Mapping[str, Any]) -> None:
    """Title, range and ticks of an axis."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    title = spec.get("title", "")
    text = plain(title.get("text", "") if isinstance(title, dict) else title)
    axes.set(**{f"{which}label": "\n".join(textwrap.wrap(text, _longest_title(axes, which)))})
    if spec.get("visible") is False or spec.get("showticklabels") is False:
        axis.set_ticklabels([])
        axis.set_ticks([])
    elif "tickvals" in spec:
        labels = {value: plain(str(text)) for value, text in zip(spec["tickvals"], spec["ticktext"], strict=True)}
        axis.set_minor_locator(NullLocator())
        axis.set_major_locator(FixedLocator(list(labels)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: labels.get(value, f"{value:g}")))
    elif spec.get("type") == "log":
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if angle := spec.get("tickangle"):
        axes.tick_params(axis=which, rotation=-angle)
    _limits(axes, which, spec)


def _longest_title(axes: Axes, which: str) -> int:
    """Characters that fit along an axis."""
    box, (width, height) = axes.get_position(), axes.get_figure(root=True).get_size_inches()  # type: ignore[union-attr]
    pixels = PIXELS_PER_INCH * (box.width * width if which == "x" else box.height * height)
    return max(12, int(pixels / _TITLE_PX_PER_CHARACTER))


def _limits(axes: Axes, which: str, spec: Mapping[str, Any]) -> None:
    log = spec.get("type") == "log"
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    if spec.get("range") is not None:
        low, high = (10.0**end if log else end for end in spec["range"])
    elif spec.get("rangemode") == "tozero" and not log:
        low, high = min(low, 0.0), max(high, 0.0)
    if spec.get("autorange") == "reversed":
        low, high = high, low
    axes.set(**{f"{which}lim": (low, high)})


def _shape(axes: Axes, shape: Mapping[str, Any], place: Plane) -> None:
    """A line or rectangle; a coordinate that refers to the paper spans the plane."""
    refs = shape.get("xref", "x"), shape.get("yref", "y")
    across = [ref == "paper" or ref.endswith(" domain") for ref in refs]
    own = [ref.removesuffix(" domain") in (name, "paper") for ref, name in zip(refs, place, strict=True)]
    if not all(own):
        return
    line, frame = shape.get("line", {}), _frames(axes)[across[0], across[1]]
    x, y = (shape["x0"], shape["x1"]), (shape["y0"], shape["y1"])
    look = {"linewidth": 0.75 * line.get("width", 2), "linestyle": DASHES[line.get("dash", "solid")]}
    edge = colour(line.get("color", GREY))
    if shape.get("type") == "line":
        axes.plot(x, y, color=edge, transform=frame, zorder=1.5, scalex=False, scaley=False, **look)
        return
    fill = colour(shape.get("fillcolor", "rgba(0,0,0,0)"))
    corner, size = (min(x), min(y)), (abs(x[1] - x[0]), abs(y[1] - y[0]))
    axes.add_patch(Rectangle(corner, *size, facecolor=fill, edgecolor=edge, transform=frame, zorder=0.5, **look))


def _annotate(figure: Figure, planes: Mapping[Plane, Axes], layout: Mapping[str, Any], frame: Frame) -> None:
    """Notes; on a logarithmic axis Plotly places them by the logarithm."""
    whole: Axes = figure.add_axes(frame, facecolor="none", zorder=5)
    whole.set_axis_off()
    for note in layout.get("annotations", ()):
        refs = note.get("xref", "x"), note.get("yref", "y")
        names = [ref.removesuffix(" domain") for ref in refs]
        axes = next((one for place, one in planes.items() if names[0] == place[0] or names[1] == place[1]), whole)
        free = [ref == "paper" or ref.endswith(" domain") for ref in refs]
        logs = axes.get_xscale() == "log", axes.get_yscale() == "log"
        x, y = (
            10.0**value if log and not loose else value
            for value, log, loose in zip((note.get("x", 0.5), note.get("y", 0.5)), logs, free, strict=True)
        )
        look: dict[str, Any] = {"transform": _frames(axes)[free[0], free[1]], "color": INK}
        look |= {"ha": _SIDES.get(note.get("xanchor", "auto"), note.get("xanchor"))}
        look |= {"va": _SIDES.get(note.get("yanchor", "auto"), note.get("yanchor"))}
        look |= {"fontsize": 0.75 * note.get("font", {}).get("size", 12), "rotation": -note.get("textangle", 0)}
        axes.text(x, y, plain(str(note.get("text", ""))), **look)


def _frames(axes: Axes) -> dict[tuple[bool, bool], Any]:
    """Coordinates by whether x and y are shares of the plane instead of data."""
    return {
        (False, False): axes.transData,
        (True, False): axes.get_yaxis_transform(),
        (False, True): axes.get_xaxis_transform(),
        (True, True): axes.transAxes,
    }


def _entries(traces: Sequence[Mapping[str, Any]], layout: Mapping[str, Any]) -> list[str]:
    """Names in the legend; Plotly shows one for a single trace only when told to."""
    if layout.get("showlegend") is False:
        return []
    shown = [one for one in traces if one.get("showlegend", one.get("type") != "heatmap") and one.get("name")]
    if len(traces) == 1 and not (layout.get("showlegend") or traces[0].get("showlegend")):
        return []
    return list(dict.fromkeys(plain(one["name"]) for one in shown))


def _legend_columns(names: Sequence[str]) -> int:
    return max(1, min(len(names), 7, _LEGEND_CHARACTERS // (max(map(len, names), default=1) + 7)))


def _legend_rows(traces: Sequence[Mapping[str, Any]], layout: Mapping[str, Any]) -> int:
    names = _entries(traces, layout)
    return -(-len(names) // _legend_columns(names)) if names else 0


def _legend(
    figure: Figure,
    planes: Mapping[Plane, Axes],
    traces: Sequence[Mapping[str, Any]],
    frame: Frame,
    height_px: int,
) -> None:
    """Names above the frame, above the notes that stand on its upper edge."""
    handles: dict[str, Any] = {}
    for axes in planes.values():
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    names = [name for name in _entries(traces, {}) if name in handles] or list(handles)
    at = (frame[0] - 0.008, frame[1] + frame[3] + 20 / height_px)
    figure.legend(
        [handles[name] for name in names],
        names,
        loc="lower left",
        bbox_to_anchor=at,
        ncols=_legend_columns(names),
        frameon=False,
        fontsize=9,
        columnspacing=1.4,
        handletextpad=0.5,
    )
