"""Small charts as SVG markup: no script, the colours of the page, readable in the dark and on paper.

Every string is escaped; what a chart shows is also said in words for people who cannot see it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from markupsafe import Markup

from vsae_search.report.text import number

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_WIDTH, _HEIGHT = 640, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 12, 14, 44
_TICKS = 5


def histogram(
    edges: Sequence[float],
    counts: Sequence[float],
    *,
    x: str,
    y: str,
    alt: str,
    shown: Callable[[float], str] = number,
    mark: tuple[float, str] | None = None,
) -> Markup:
    """Bars between edges; empty ones at either end are left out.

    Args:
        edges: One more than there are bars, rising.
        counts: Heights.
        x: Title of the horizontal axis.
        y: Title of the vertical axis.
        alt: What the chart shows, in words.
        shown: How a value of the horizontal axis is written.
        mark: A place on the horizontal axis with a dashed line, and what it is.
    """
    edges, counts = _without_empty_ends(edges, counts, mark[0] if mark else None)
    frame = _Frame((edges[0], edges[-1]), (0.0, max([*counts, 1e-12])))
    bars = Markup("").join(
        Markup(
            '<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>'
        ).format(
            frame.x(low),
            frame.y(count),
            max(frame.x(high) - frame.x(low) - 1, 0.5),
            frame.y(0) - frame.y(count),
            f"{shown(low)} to {shown(high)}: {number(count)}",
        )
        for low, high, count in zip(edges, edges[1:], counts, strict=False)
        if count > 0
    )
    return frame.figure(bars + (frame.mark(*mark) if mark else Markup("")), x, y, alt, shown)


def lines(
    series: Sequence[tuple[str, Sequence[float], Sequence[float]]],
    *,
    x: str,
    y: str,
    alt: str,
    shown: Callable[[float], str] = number,
) -> Markup:
    """Lines with points: each a name, places and heights; a legend names them when there are several."""
    xs, ys = [v for _, places, _ in series for v in places], [v for _, _, heights in series for v in heights]
    frame = _Frame(_padded(xs), (min([0.0, *ys]), max([*ys, 1e-12]) * 1.05))
    content = Markup("")
    for index, (name, places, heights) in enumerate(series):
        points = [(frame.x(a), frame.y(b)) for a, b in zip(places, heights, strict=True)]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        content += Markup('<polyline class="line c{}" points="{}"/>').format(index, path)
        for (a, b), place, height in zip(points, places, heights, strict=True):
            content += _dot(a, b, index, f"{name}: {shown(place)}, {number(height)}", 3)
    names = enumerate(name for name, _, _ in series)
    legend = Markup(", ").join(Markup('<span class="key c{}">{}</span>').format(*pair) for pair in names)
    return frame.figure(content, x, y, alt, shown, legend if len(series) > 1 else "")


def scatter(
    places: Sequence[tuple[float, float]],
    groups: Sequence[int],
    labels: Sequence[str],
    *,
    x: str,
    y: str,
    alt: str,
) -> Markup:
    """Points in the colours of their groups, each with a label that appears on hovering."""
    frame = _Frame(_padded([p[0] for p in places]), _padded([p[1] for p in places]), height=420)
    content = Markup("").join(
        _dot(frame.x(a), frame.y(b), group % 8, label, 2.5)
        for (a, b), group, label in zip(places, groups, labels, strict=True)
    )
    return frame.figure(content, x, y, alt, number)


def _without_empty_ends(
    edges: Sequence[float], counts: Sequence[float], mark: float | None
) -> tuple[Sequence[float], Sequence[float]]:
    """From the first to the last bar with something in it, or at the mark, and one more on either side."""
    used = [
        index
        for index, (low, high, count) in enumerate(zip(edges, edges[1:], counts, strict=False))
        if count > 0 or (mark is not None and low <= mark < high)
    ]
    first, last = (max(used[0] - 1, 0), min(used[-1] + 1, len(counts) - 1)) if used else (0, len(counts) - 1)
    return edges[first : last + 2], counts[first : last + 1]


def _dot(x: float, y: float, group: int, label: str, radius: float) -> Markup:
    return Markup('<circle class="dot c{}" cx="{:.1f}" cy="{:.1f}" r="{}"><title>{}</title></circle>').format(
        group, x, y, radius, label
    )


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    room = 0.04 * (high - low) or 0.5
    return low - room, high + room


class _Frame:
    """Where numbers lie in the picture, and what is around them."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float], height: int = _HEIGHT) -> None:
        self._x, self._y, self._height = x, y, height

    def x(self, value: float) -> float:
        low, high = self._x
        return _LEFT + (value - low) / ((high - low) or 1.0) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        low, high = self._y
        return self._height - _BOTTOM - (value - low) / ((high - low) or 1.0) * (self._height - _TOP - _BOTTOM)

    def mark(self, value: float, text: str) -> Markup:
        """A dashed line at a place of the horizontal axis."""
        place = self.x(min(max(value, self._x[0]), self._x[1]))
        side = "end" if place > _WIDTH * 0.7 else "start"
        return Markup(
            '<line class="mark" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>'
            '<text class="note" x="{3:.1f}" y="{4}" text-anchor="{5}">{6}</text>'
        ).format(place, _TOP, self._height - _BOTTOM, place + (-5 if side == "end" else 5), _TOP + 10, side, text)

    def figure(
        self, content: Markup, x: str, y: str, alt: str, shown: Callable[[float], str], legend: Markup | str = ""
    ) -> Markup:
        """The picture with its axes, and its legend below."""
        return Markup(
            '<figure class="chart"><svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}{}{}'
            '<text class="title" x="{}" y="{}" text-anchor="middle">{}</text>'
            '<text class="title" transform="translate(13 {}) rotate(-90)" text-anchor="middle">{}</text>'
            "</svg>{}</figure>"
        ).format(
            *(_WIDTH, self._height, alt, self._grid(), content, self._labels(shown)),
            *((_LEFT + _WIDTH - _RIGHT) / 2, self._height - 6, x, (_TOP + self._height - _BOTTOM) / 2, y),
            Markup("<figcaption>{}</figcaption>").format(legend) if legend else "",
        )

    def _grid(self) -> Markup:
        return Markup("").join(
            Markup(
                '<line class="grid" x1="{0}" x2="{1}" y1="{2:.1f}" y2="{2:.1f}"/>'
                '<text class="tick" x="{3}" y="{4:.1f}" text-anchor="end">{5}</text>'
            ).format(_LEFT, _WIDTH - _RIGHT, self.y(tick), _LEFT - 6, self.y(tick) + 4, number(tick))
            for tick in ticks(*self._y)
        )

    def _labels(self, shown: Callable[[float], str]) -> Markup:
        return Markup("").join(
            Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
                self.x(tick), self._height - _BOTTOM + 16, shown(tick)
            )
            for tick in ticks(*self._x)
        )


def ticks(low: float, high: float) -> list[float]:
    """Round numbers inside a range, about five of them: multiples of 1, 2 or 5 times a power of ten."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return []
    rough = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]
