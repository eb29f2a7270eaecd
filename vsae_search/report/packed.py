"""Large texts inside the page: compressed with gzip, written in base64, inflated by the browser.

Plotly's script is three quarters of a page. A browser inflates it in a tenth of a second, and runs it because the
content security policy names the digest of the inflated text: nothing else can take its place.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
from typing import NamedTuple

LARGE_CHARACTERS = 30_000
"""Specifications of figures from this length on are compressed; shorter ones stay readable in the page's source."""


class Packed(NamedTuple):
    """A compressed text.

    Attributes:
        text: gzip in base64; the same for the same content, because no time is stored in it.
        digest: What a content security policy calls the content, see `digest`.
    """

    text: str
    digest: str


def pack(content: str) -> Packed:
    """Compress a text and name its content."""
    return Packed(base64.b64encode(gzip.compress(content.encode(), 9, mtime=0)).decode("ascii"), digest(content))


def unpack(text: str) -> str:
    """The content of a compressed text, as the page's own script finds it."""
    return gzip.decompress(base64.b64decode(text, validate=True)).decode()


def digest(content: str) -> str:
    """Source expression of a content security policy that allows an inline script with exactly this content."""
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode('ascii')}"
