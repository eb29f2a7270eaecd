"""Numbers and stored strings as text for people: rounding, masking, joining."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_CREDENTIALS = re.compile(r"(?<=://)[^/\s@'\"]+@")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_RAISED = str.maketrans("-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079")
DASH = "\u2013"  # an en dash: nothing to show


def mask(text: str) -> str:
    """Hide user names and passwords inside addresses, and drop control characters."""
    return _CONTROL.sub("", _CREDENTIALS.sub("***@", text))


def clean(value: Any) -> Any:
    """A JSON-able copy in which strings are masked and non-finite numbers are null."""
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {mask(str(key)): clean(item) for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset):
        return [clean(item) for item in value]
    return value if value is None or isinstance(value, bool | int) else mask(str(value))


def number(value: Any, digits: int = 3) -> str:
    """A number with a few significant digits; other values as their text; nothing as a dash."""
    if value is None:
        return DASH
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return str(value)
    if not math.isfinite(value):
        return DASH
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e4:
        decimals = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
        return _trim(f"{value:.{decimals}f}")
    return re.sub(r"e([+-])0*(\d)", r"e\1\2", f"{value:.{digits - 1}e}").replace("e+", "e")


def percent(value: float | None, decimals: int | None = None) -> str:
    """A fraction as a percentage; with one decimal below 10 % unless a number of decimals is given."""
    if value is None or not math.isfinite(value):
        return DASH
    if decimals is not None:
        return f"{100 * value:.{decimals}f} %"
    return f"{_trim(f'{100 * value:.1f}') if abs(value) < 0.0995 else f'{100 * value:.0f}'} %"


def power_of_ten(exponent: int) -> str:
    """``10`` with a raised exponent, in plain characters."""
    return f"10{str(exponent).translate(_RAISED)}"


def points(value: float | None) -> str:
    """A difference of two fractions in percentage points, with its sign."""
    if value is None or not math.isfinite(value):
        return DASH
    return f"{100 * value:+.2f}".replace("-", "\u2212") if value else "0"


def ranged(low: float | None, high: float | None, shown: Callable[[float], str]) -> str:
    """An interval; an end that is None is without bound."""
    ends = ["without bound" if end is None else shown(end) for end in (low, high)]
    return f"{ends[0]} to {ends[1]}"


def listed(items: Sequence[str]) -> str:
    """Words joined as in a sentence: ``a, b and c``."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


def counted(count: int, singular: str, plural: str | None = None) -> str:
    """A count with its noun: ``1 trial``, ``3 trials``."""
    return f"{count} {singular if count == 1 else plural or singular + 's'}"


def _trim(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text
