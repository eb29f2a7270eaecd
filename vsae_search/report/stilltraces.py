"""Plotly's scatter, bar and heatmap traces, drawn on a Matplotlib plane."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_rgba

from vsae_search.report.picture import GREY, MARKERS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.colorbar import Colorbar
    from matplotlib.colors import Colormap

POINTS_PER_PIXEL = 0.75
DASHES: dict[str, Any] = {
    "solid": "-",
    "dot": (0, (1, 2)),
    "dash": (0, (4, 3)),
    "longdash": (0, (7, 3)),
    "dashdot": (0, (4, 2, 1, 2)),
    "longdashdot": (0, (7, 2, 1, 2)),
}
_STEPS = {"hv": "steps-post", "vh": "steps-pre", "hvh": "steps-mid"}
_RAISED, _HIGH = re.compile("<sup>(.*?)</sup>"), str.maketrans("0123456789-\u2212", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁻")
_TAGS = re.compile(r"<[^<>]*>")
_RGBA = re.compile(r"rgba?\(([^)]*)\)")
RGBA = tuple[float, float, float, float]


def draw_trace(axes: Axes, trace: Mapping[str, Any], layout: Mapping[str, Any], stack: dict[Any, float]) -> None:
    """Draw one trace.

    Args:
        axes: The plane.
        trace: Plotly's description of it.
        layout: The figure's layout, for how bars stand beside each other.
        stack: Height of the bars that are drawn so far, by place; changed.

    Raises:
        NotImplementedError: The kind of trace is not known here.
    """
    match trace.get("type", "scatter"):
        case "scatter":
            _scatter(axes, trace)
        case "bar":
            _bar(axes, trace, layout, stack)
        case "heatmap":
            _heatmap(axes, trace)
        case kind:
            raise NotImplementedError(f"traces of the kind {kind!r} have no picture")


def plain(text: str) -> str:
    """Plotly's text without its tags: line breaks, raised digits and entities as the characters that they stand for."""
    raised = _RAISED.sub(lambda found: found.group(1).translate(_HIGH), text.replace("<br>", "\n"))
    return html.unescape(_TAGS.sub("", raised))


def colour(value: Any) -> RGBA:
    """A colour as Plotly writes it: a name, ``#rrggbb``, ``rgb()`` or ``rgba()``."""
    found = _RGBA.fullmatch(str(value).strip())
    if found is None:
        return to_rgba(value)
    red, green, blue, *alpha = (float(part) for part in found.group(1).split(","))
    return red / 255, green / 255, blue / 255, alpha[0] if alpha else 1.0


def _label(trace: Mapping[str, Any]) -> str:
    """Its entry in the legend; Matplotlib leaves out what begins with an underscore."""
    shown = trace.get("showlegend", True) and trace.get("name")
    return plain(trace["name"]) if shown else "_"


def _numbers(values: Sequence[Any]) -> Any:
    """Coordinates; nothing is a gap."""
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _scatter(axes: Axes, trace: Mapping[str, Any]) -> None:
    y = _numbers(trace.get("y", ()))
    x = _numbers(trace["x"]) if "x" in trace else np.arange(len(y), dtype=np.float64)
    mode, line, marker = trace.get("mode", "lines"), trace.get("line", {}), trace.get("marker", {})
    base = line.get("color") or (marker.get("color") if isinstance(marker.get("color"), str) else None) or GREY
    opacity = trace.get("opacity", 1.0)
    if trace.get("fill", "none") != "none":
        _area(axes, trace, x, y, base)
    label = _label(trace)
    if "lines" in mode and line.get("width", 2) > 0:
        style = DASHES.get(line.get("dash", "solid"), "-")
        look: dict[str, Any] = {"color": colour(base), "alpha": opacity if opacity < 1 else None, "linestyle": style}
        look |= {"linewidth": POINTS_PER_PIXEL * line.get("width", 2), "zorder": 3}
        look |= {"drawstyle": _STEPS.get(line.get("shape", "linear"), "default"), "label": label}
        alike = all(isinstance(marker.get(key, ""), str) for key in ("symbol", "color"))
        if "markers" not in mode or alike:
            axes.plot(x, y, **look, **(_line_marks(marker, base, len(x)) if "markers" in mode else {}))
        else:
            axes.plot(x, y, **{**look, "label": "_"})
            _marks(axes, x, y, marker, base, opacity, label)
    elif "markers" in mode:
        _marks(axes, x, y, marker, base, opacity, label)
    if "text" in mode:
        _words(axes, trace, x, y)
    for which in ("x", "y"):
        if f"error_{which}" in trace:
            _error(axes, trace, which, x, y, base)


def _words(axes: Axes, trace: Mapping[str, Any], x: Any, y: Any) -> None:
    """Text at its places, above, below or beside them."""
    size = POINTS_PER_PIXEL * trace.get("textfont", {}).get("size", 12)
    sides = _each(trace.get("textposition", "middle center"), len(x))
    for place, text, side in zip(zip(x, y, strict=True), trace["text"], sides, strict=True):
        high, _, wide = side.partition(" ")
        look: dict[str, Any] = {"va": {"top": "bottom", "bottom": "top"}.get(high, "center")}
        look |= {"ha": {"left": "right", "right": "left"}.get(wide, "center"), "fontsize": size, "zorder": 5}
        shift = ({"left": -4, "right": 4}.get(wide, 0), {"top": 4, "bottom": -4}.get(high, 0))
        axes.annotate(plain(str(text)), place, shift, textcoords="offset points", **look)


def _line_marks(marker: Mapping[str, Any], base: Any, count: int) -> dict[str, Any]:
    """Marks on a line, all alike, on as many of its points as are wanted."""
    symbol, size, tint = str(marker.get("symbol", "circle")), marker.get("size", 6), marker.get("color", base)
    face = colour(tint if isinstance(tint, str) else base)
    most = marker.get("maxdisplayed", 0)
    return {
        "marker": _shape_of(symbol),
        "markevery": -(-count // most) if most else None,
        "markersize": _points(symbol, float(np.max(size))),
        "markerfacecolor": "none" if symbol.endswith("-open") else face,
        "markeredgecolor": face,
        "markeredgewidth": 0.75,
    }


def _marks(axes: Axes, x: Any, y: Any, marker: Mapping[str, Any], base: Any, opacity: float, label: str) -> None:
    """Marks without a line, each perhaps of its own shape, size or colour."""
    symbols = _each(marker.get("symbol", "circle"), len(x))
    sizes, opacities = (_each(marker.get(key, usual), len(x)) for key, usual in (("size", 6), ("opacity", 1.0)))
    tints, edge = marker.get("color", base), marker.get("line", {})
    faces = _faces(tints, len(x), marker)
    for symbol in dict.fromkeys(symbols):
        own = [index for index, one in enumerate(symbols) if one == symbol]
        hollow = str(symbol).endswith("-open")
        colours = _once([faces[index] for index in own])
        look: dict[str, Any] = {"facecolors": "none" if hollow else colours, "marker": _shape_of(symbol), "zorder": 4}
        look |= {"edgecolors": colours if hollow else colour(edge.get("color", "white"))}
        look |= {"s": _once([(_points(symbol, sizes[index])) ** 2 for index in own])}
        look |= {"linewidths": POINTS_PER_PIXEL * float(np.max(edge.get("width", 1.0 if hollow else 0.0)))}
        alpha = opacity * float(opacities[own[0]])
        look |= {"alpha": alpha} if alpha < 1 else {}  # otherwise colours keep their own
        look["label"] = label if symbol == symbols[-1] else "_"  # one entry in the legend
        axes.scatter([x[index] for index in own], [y[index] for index in own], **look)


def _once(values: list[Any]) -> list[Any]:
    """One value where all are the same: a third of the bytes of a picture."""
    return values[:1] if all(value == values[0] for value in values) else values


def _each(value: Any, count: int) -> Sequence[Any]:
    """A value for every mark."""
    return [value] * count if isinstance(value, str | int | float) else list(value)


def _shape_of(symbol: Any) -> str:
    shape: str = MARKERS.get(str(symbol).removesuffix("-open").removesuffix("-dot"), "o")
    return shape


def _points(symbol: Any, pixels: float) -> float:
    """Size of a mark; Matplotlib's star looks smaller than its other marks of the same size."""
    return POINTS_PER_PIXEL * float(pixels) * (1.6 if _shape_of(symbol) == "*" else 1.0)


def _faces(tints: Any, count: int, marker: Mapping[str, Any]) -> list[RGBA]:
    """Colour of every mark: one for all, one each, or a number on a scale."""
    if isinstance(tints, str) or (tints and isinstance(tints[0], str)):
        return [colour(one) for one in _each(tints, count)]
    values = _numbers(tints)
    low, high = marker.get("cmin", np.nanmin(values)), marker.get("cmax", np.nanmax(values))
    scaled = (values - low) / ((high - low) or 1.0)
    found: list[RGBA] = _colours(marker.get("colorscale", "Viridis"))(scaled).tolist()
    return found


def _area(axes: Axes, trace: Mapping[str, Any], x: Any, y: Any, base: Any) -> None:
    fill = colour(trace.get("fillcolor", base))
    pattern = trace.get("fillpattern", {})
    look: dict[str, Any] = {"facecolor": fill, "edgecolor": "none", "zorder": 2}
    if pattern.get("shape"):
        look |= {"hatch": 2 * pattern["shape"], "edgecolor": colour(pattern.get("fgcolor", "#ffffff")), "linewidth": 0}
    if trace["fill"] == "toself":
        for part_x, part_y in _parts(x, y):
            axes.fill(part_x, part_y, **look)
        return
    steps: dict[str, Literal["post", "pre"]] = {"hv": "post", "vh": "pre"}
    axes.fill_between(x, y, 0.0, step=steps.get(trace.get("line", {}).get("shape", "linear")), **look)


def _parts(x: Any, y: Any) -> list[tuple[Any, Any]]:
    """Outlines between gaps."""
    gaps = np.flatnonzero(np.isnan(x) | np.isnan(y))
    return [
        (own_x[~np.isnan(own_x)], own_y[~np.isnan(own_y)])
        for own_x, own_y in zip(np.split(x, gaps), np.split(y, gaps), strict=True)
        if (~np.isnan(own_x)).any()
    ]


def _error(axes: Axes, trace: Mapping[str, Any], which: str, x: Any, y: Any, base: Any) -> None:
    error = trace[f"error_{which}"]
    if error.get("visible") is False:
        return
    above = _numbers(error["array"])
    below = above if error.get("symmetric", "arrayminus" not in error) else _numbers(error["arrayminus"])
    look: dict[str, Any] = {"ecolor": colour(error.get("color", base)), "elinewidth": 1.0, "capsize": 2.5, "zorder": 3}
    look[f"{which}err"] = np.stack([below, above])
    axes.errorbar(x, y, fmt="none", **look)


def _bar(axes: Axes, trace: Mapping[str, Any], layout: Mapping[str, Any], stack: dict[Any, float]) -> None:
    """Bars; stacked ones begin where the last one at their place ended, others stand on zero."""
    lying = trace.get("orientation") == "h"
    places, heights = (_numbers(trace[key]) for key in (("y", "x") if lying else ("x", "y")))
    tint = trace.get("marker", {}).get("color", GREY)
    faces = [colour(one) for one in tint] if not isinstance(tint, str) else colour(tint)
    stacked = layout.get("barmode") in ("stack", "relative")
    keys = [(str(one), height >= 0) for one, height in zip(places, heights, strict=True)]
    starts = np.array([stack.get(key, 0.0) if stacked else 0.0 for key in keys])
    for key, start, height in zip(keys, starts, heights, strict=True):
        stack[key] = float(start + np.nan_to_num(height))
    wide = trace.get("width") or 0.8 * _spacing(places)
    alpha = trace.get("opacity", trace.get("marker", {}).get("opacity", 1.0))
    look: dict[str, Any] = {"color": faces, "alpha": alpha, "label": _label(trace), "zorder": 3}
    if lying:
        axes.barh(places, heights, height=wide, left=starts, **look)
    else:
        axes.bar(places, heights, width=wide, bottom=starts, **look)


def _spacing(places: Any) -> float:
    gaps = np.diff(np.unique(places))
    return float(gaps.min()) if gaps.size else 1.0


def _heatmap(axes: Axes, trace: Mapping[str, Any]) -> None:
    z_RC = np.array([[np.nan if v is None else v for v in row] for row in trace["z"]], dtype=np.float64)
    edges = []
    for key, count in (("x", z_RC.shape[1]), ("y", z_RC.shape[0])):
        centres = _numbers(trace.get(key, range(count)))
        edges.append(centres if len(centres) == count + 1 else _edges(centres))
    low, high = trace.get("zmin", np.nanmin(z_RC)), trace.get("zmax", np.nanmax(z_RC))
    if trace.get("zmid") is not None and "zmin" not in trace:
        half = max(high - trace["zmid"], trace["zmid"] - low)
        low, high = trace["zmid"] - half, trace["zmid"] + half
    cmap = _colours(trace.get("colorscale", "Viridis"), reverse=bool(trace.get("reversescale")))
    axes.grid(visible=False)
    mesh = axes.pcolormesh(*edges, z_RC, cmap=cmap, vmin=low, vmax=high, rasterized=True)
    if trace.get("showscale", True):
        figure = axes.get_figure()
        assert figure is not None, "a plane belongs to a figure"
        _colour_bar(figure.colorbar(mesh, ax=axes, fraction=0.05, pad=0.02), trace.get("colorbar", {}))


def _colour_bar(bar: Colorbar, spec: Mapping[str, Any]) -> None:
    """Title and ticks of the bar beside a heat map."""
    bar.outline.set_visible(False)
    if "tickvals" in spec:
        bar.set_ticks(spec["tickvals"], labels=[plain(str(text)) for text in spec["ticktext"]])
    if title := spec.get("title", {}).get("text"):
        bar.ax.set_title(plain(title), fontsize=8, loc="left")


def _edges(centres: Any) -> Any:
    """Borders of cells half way between their centres."""
    if len(centres) == 1:
        return np.array([centres[0] - 0.5, centres[0] + 0.5])
    middle = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])


def _colours(scale: Any, *, reverse: bool = False) -> Colormap:
    """Plotly's colour scale: pairs of place and colour, a list of colours, or a name that Matplotlib knows too."""
    if isinstance(scale, str):
        import matplotlib as mpl

        names = {name.lower(): name for name in mpl.colormaps}
        found: Colormap = mpl.colormaps[names.get(scale.lower(), "viridis")]
        return found.reversed() if reverse else found
    stops = [(float(one[0]), colour(one[1])) for one in scale] if not isinstance(scale[0], str) else None
    stops = stops or [(place / (len(scale) - 1), colour(one)) for place, one in enumerate(scale)]
    made: Colormap = LinearSegmentedColormap.from_list("plotly", stops)
    return made.reversed() if reverse else made
