"""Tracking addresses: which are allowed, and which can be opened in a browser."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from vsae_search.errors import EnvironmentNotReady, UserInputError
from vsae_search.space.addresses import fault_of_artifacts
from vsae_search.space.secrets import mask_nested as mask_nested
from vsae_search.space.secrets import mask_secrets as mask_secrets

if TYPE_CHECKING:
    from vsae_search.space import TrackingSpec

URI_VARIABLE, ARTIFACTS_VARIABLE = "VSAE_SEARCH_TRACKING_URI", "VSAE_SEARCH_ARTIFACTS"
DATABASE_FILE = "mlflow.db"
ARTIFACTS_FOLDER = "mlartifacts"

_WEB = ("http", "https")
_DATABASES = ("sqlite", "postgresql")


def tracking_uri(spec: TrackingSpec) -> str | None:
    """The tracking address of a search space, else that of the environment; None for a file in the sweep directory.

    Raises:
        UserInputError: It is not one.
    """
    uri = spec.uri or os.environ.get(URI_VARIABLE) or None
    return None if uri is None else check_uri(uri)


def artifact_place(spec: TrackingSpec) -> str | None:
    """Where the search space, or else the environment, wants artifacts; None leaves it to the tracking store.

    Raises:
        UserInputError: Nothing can be kept there.
        EnvironmentNotReady: It is an S3 store, and the client for those is not installed.
    """
    place = spec.artifacts or os.environ.get(ARTIFACTS_VARIABLE) or None
    if place is None:
        return None
    if (fault := fault_of_artifacts(place)) is not None:
        raise UserInputError(f"the place for artifacts, {place!r}, {fault}", f"correct {ARTIFACTS_VARIABLE}")
    if place.startswith("s3://") and importlib.util.find_spec("boto3") is None:
        raise EnvironmentNotReady(
            "artifacts are to be kept in an S3 store, and its client is not installed",
            "pip install 'vsae_search[cluster]'",
        )
    return place if "://" in place else Path(place).as_uri()


def check_uri(uri: str) -> str:
    """Refuse a tracking address that is not a server or a database.

    Args:
        uri: ``http(s)://host[:port][/path]``, ``sqlite:///file`` or ``postgresql[+driver]://...``.

    Returns:
        The address, unchanged.

    Raises:
        UserInputError: another scheme, no host, no file, or characters that no address has.
    """
    hint = "use http://host:port, https://host, postgresql://user:password@host/database or sqlite:///file"
    shown = mask_secrets(uri)
    if not uri.isprintable() or any(character.isspace() for character in uri):
        raise UserInputError(f"tracking.uri {shown!r} contains spaces or control characters", hint)
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise UserInputError(f"tracking.uri {shown!r} is not an address: {error}", hint) from None
    scheme = parts.scheme.partition("+")[0]
    if scheme == "file" or not parts.scheme:
        raise UserInputError(f"tracking.uri {shown!r}: MLflow no longer writes runs to plain folders", hint)
    if parts.scheme not in _WEB and scheme not in _DATABASES:
        raise UserInputError(f"tracking.uri {shown!r}: the scheme {parts.scheme!r} is not allowed", hint)
    if scheme == "sqlite" and not sqlite_path(uri):
        raise UserInputError(f"tracking.uri {shown!r} names no file", hint)
    if scheme != "sqlite" and not parts.hostname:
        raise UserInputError(f"tracking.uri {shown!r} names no host", hint)
    return uri


def default_uri(directory: Path) -> str:
    """The embedded store of a sweep: one SQLite file in its directory."""
    return f"sqlite:///{(directory / DATABASE_FILE).resolve()}"


def sqlite_path(uri: str) -> str:
    """The file that a SQLite address names; empty for any other address and for databases in memory."""
    prefix, found, path = uri.partition(":///")
    path = path.partition("?")[0]
    return path if found and prefix.partition("+")[0] == "sqlite" and path != ":memory:" else ""


def web_address(uri: str) -> str | None:
    """The address to open in a browser, without user name and password; None when there is no server."""
    parts = urlsplit(uri)
    if parts.scheme not in _WEB or not parts.hostname:
        return None
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl().rstrip("/")
