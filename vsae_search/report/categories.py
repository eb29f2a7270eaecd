"""Plotly's axes of words as axes of numbers: the first word is 0, the next 1, and the ticks say which is which."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Places = dict[str, dict[str, int]]


def numbered(
    traces: Sequence[Mapping[str, Any]], layout: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Copies of traces and layout in which every coordinate is a number.

    Args:
        traces: Traces in Plotly's language.
        layout: Their layout.
    """
    places: Places = {}
    for trace in traces:
        for which in "xy":
            for value in trace.get(which, ()):
                if isinstance(value, str):
                    own = places.setdefault(trace.get(f"{which}axis", which), {})
                    own.setdefault(value, len(own))
    axes = {
        f"{name[0]}axis{name[1:]}": _ticks(layout.get(f"{name[0]}axis{name[1:]}", {}), places[name]) for name in places
    }
    return [_trace(trace, places) for trace in traces], {**layout, **axes}


def _trace(trace: Mapping[str, Any], places: Places) -> dict[str, Any]:
    found = dict(trace)
    for which in "xy":
        own = places.get(trace.get(f"{which}axis", which))
        if own is not None and which in trace:
            found[which] = [own.get(value, value) for value in trace[which]]
    return found


def _ticks(axis: Mapping[str, Any], own: Mapping[str, int]) -> dict[str, Any]:
    """The axis with ticks at numbers; without ticks of its own, one for every word that is not empty."""
    values = axis.get("tickvals", [word for word in own if word])
    texts = axis.get("ticktext", values)
    return {**axis, "tickvals": [own.get(value, value) for value in values], "ticktext": list(texts)}
