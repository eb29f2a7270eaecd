"""Tracking addresses: which are allowed, which can be opened in a browser, and how they are shown without secrets."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from vsae_search.errors import UserInputError

if TYPE_CHECKING:
    from pathlib import Path

DATABASE_FILE = "mlflow.db"
ARTIFACTS_FOLDER = "mlartifacts"

_WEB = ("http", "https")
_DATABASES = ("sqlite", "postgresql")
_HIDDEN = "***"
_SHORTEST_SECRET = 6
_SECRET_NAME = re.compile(r"(TOKEN|PASSWORD|PASSWD|SECRET|API_KEY|ACCESS_KEY|PRIVATE_KEY)$", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"([a-z][a-z0-9+.\-]*://[^\s/:@\"'<>]*):[^\s/\"'<>]*@", re.IGNORECASE)
_QUERY_PASSWORD = re.compile(
    r"([?&](?:password|passwd|token|secret|api_?key|sig|signature)=)[^&\s\"'<>]+", re.IGNORECASE
)


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


def mask_secrets(text: str) -> str:
    """Replace passwords in addresses, and the values of secret environment variables, by ``***``."""
    return _mask(text, _environment_secrets())


def mask_nested(value: Any) -> Any:
    """:func:`mask_secrets` on every string inside lists and mappings; everything else stays as it is."""
    return _mask_nested(value, _environment_secrets())


def _mask(text: str, secrets: list[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, _HIDDEN)
    return _QUERY_PASSWORD.sub(rf"\1{_HIDDEN}", _URL_PASSWORD.sub(rf"\1:{_HIDDEN}@", text))


def _mask_nested(value: Any, secrets: list[str]) -> Any:
    if isinstance(value, str):
        return _mask(value, secrets)
    if isinstance(value, dict):
        return {key: _mask_nested(item, secrets) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mask_nested(item, secrets) for item in value]
    return value


def _environment_secrets() -> list[str]:
    """Values of variables such as HF_TOKEN, longest first so that none hides a part of another."""
    values = {
        value for name, value in os.environ.items() if _SECRET_NAME.search(name) and len(value) >= _SHORTEST_SECRET
    }
    return sorted(values, key=len, reverse=True)
