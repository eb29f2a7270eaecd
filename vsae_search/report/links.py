"""Addresses of MLflow runs that are safe to open from a page."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import urlsplit

_HOST = re.compile(r"[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]")
_PATH = re.compile(r"[A-Za-z0-9._~/-]*")
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class RunAddress(NamedTuple):
    """Where MLflow keeps a run."""

    experiment_id: str
    run_id: str


def safe_base(url: str | None) -> str | None:
    """The address of a tracking server without a trailing slash, or None when a page must not link to it.

    Only ``http`` and ``https`` with a plain host, port and path pass; user names and passwords, queries and fragments
    are dropped.

    Args:
        url: Address as the user gave it.
    """
    if not url or any(character.isspace() or not character.isprintable() for character in url):
        return None
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    host = parts.netloc.rpartition("@")[2]
    name = host.rsplit(":", 1)[0] if port is not None else host
    if parts.scheme not in ("http", "https") or not _HOST.fullmatch(name) or not _PATH.fullmatch(parts.path):
        return None
    return f"{parts.scheme}://{host}{parts.path}".rstrip("/")


def run_url(base: str | None, address: RunAddress | None) -> str | None:
    """The page of one run, or None when either part is missing or not safe.

    Args:
        base: Result of :func:`safe_base`.
        address: Where MLflow keeps the run.
    """
    if base is None or address is None or not all(_ID.fullmatch(part) for part in address):
        return None
    return f"{base}/#/experiments/{address.experiment_id}/runs/{address.run_id}"
