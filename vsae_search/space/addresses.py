"""Addresses of what a sweep shares with others: tracking servers, databases, places for artifacts."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from vsae_search.errors import UserInputError

_TRACKING_SCHEMES = ("http", "https", "sqlite", "postgresql")
_DATABASE_SCHEMES = ("sqlite", "postgresql")
_BUCKET = re.compile(r"s3://[a-z0-9][a-z0-9.\-]{1,61}[a-z0-9](/[A-Za-z0-9!_.*'()/=\-]*)?")


def fault_of_tracking(uri: str) -> str | None:
    """Why MLflow cannot use an address; None when it can."""
    scheme, separator, _ = uri.partition("://")
    scheme = scheme.partition("+")[0].lower()  # postgresql+psycopg names a driver
    if scheme == "file" or not separator:
        return "a folder cannot be the tracking store, because MLflow no longer writes folders; use sqlite:///<path>"
    if scheme not in _TRACKING_SCHEMES:
        return f"'{scheme}' is not among the possible schemes: {', '.join(_TRACKING_SCHEMES)}"
    return None


def fault_of_database(address: str) -> str | None:
    """Why an address cannot be that of a database; None when it can."""
    scheme, separator, rest = address.partition("://")
    scheme = scheme.partition("+")[0].lower()
    if not separator:
        return "is not an address; use postgresql://user@host/database or sqlite:///<path>"
    if scheme not in _DATABASE_SCHEMES:
        return f"'{scheme}' is not among the possible schemes: {', '.join(_DATABASE_SCHEMES)}"
    if scheme == "sqlite" and not rest.startswith("//"):
        return "names a file by a relative path; use sqlite:////absolute/path"
    if scheme == "postgresql" and not rest.partition("/")[0].rpartition("@")[2] and "host=" not in rest:
        return "names no host; use postgresql://user@host/database"
    if not address.isprintable() or " " in address:
        return "contains spaces or control characters"
    return None


def check_database(address: str) -> str:
    """Refuse an address that is not that of a database.

    Raises:
        UserInputError: Says why, without the address: it may hold a password.
    """
    fault = fault_of_database(address)
    if fault is not None:
        raise UserInputError(f"the address of the studies' database {fault}", "correct VSAE_SEARCH_STUDY_STORAGE")
    return address


def fault_of_artifacts(place: str) -> str | None:
    """Why artifacts cannot be kept at a place; None when they can."""
    if _BUCKET.fullmatch(place) and ".." not in place:
        return None
    if "://" in place or place.startswith("//"):
        return "is neither a folder nor s3://bucket/prefix"
    path = PurePosixPath(place)
    if not path.is_absolute() or ".." in path.parts or not place.isprintable():
        return "is a folder by a relative path; use an absolute one, or s3://bucket/prefix"
    return None


def fault_of_password(address: str) -> str | None:
    """Where a password belongs that stands in an address of a file; None when there is none."""
    scheme, _, rest = address.partition("://")
    user, at, _ = rest.partition("/")[0].rpartition("@")
    if (at and ":" in user) or "password=" in rest.lower():
        where = "PGPASSWORD or ~/.pgpass" if scheme.startswith("postgresql") else "MLFLOW_TRACKING_PASSWORD"
        return f"a password in the file would be stored beside the results; leave it out and set {where}"
    return None
