"""Finding the job server of a cluster: its address, the token, and what may answer there instead."""

from __future__ import annotations

import json
import logging
import os
import stat
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from vsae_search.cli._jobs import JobServer, refused
from vsae_search.errors import EnvironmentNotReady, UserInputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_ANSWER_S = 10.0
_REDIRECTING = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
_TALKATIVE = (
    *("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"),
    "ray._private.runtime_env.packaging",
)
_INSTALL = "pip install 'vsae_search[cluster]'"


class _Here(HTTPRedirectHandler):
    """Goes nowhere else: the token is for the address that the user gave."""

    def redirect_request(self, *_: Any) -> None:
        """Nothing: a redirection is an error."""


def job_server(address: str) -> JobServer:
    """Find the job server of a cluster.

    Args:
        address: ``http(s)://HOST:PORT``.

    Raises:
        UserInputError: It is not such an address.
        EnvironmentNotReady: Nobody answers there, it is no job server, it refuses the token, or the client is missing.
    """
    address = _checked(address)
    headers = {"Authorization": f"Bearer {token}"} if (token := read_token()) else {}
    _probe(address, headers)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    kept = {name: os.environ.pop(name) for name in _REDIRECTING if name in os.environ}  # Ray prefers them to --address
    try:
        from ray.job_submission import JobSubmissionClient

        client = JobSubmissionClient(address, headers=headers)
    except (ImportError, RuntimeError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise EnvironmentNotReady(
            f"the job server at {address} cannot be used from here: {reason[0]}",
            f"{_INSTALL}, with the version of Ray that the cluster has",
        ) from error
    finally:
        os.environ.update(kept)
    return JobServer(address, client)


def read_token() -> str | None:
    """The token with which Ray lets callers in: from the environment, or the file that it names, or Ray's own file.

    A file that other users can read is closed to them.

    Raises:
        EnvironmentNotReady: The file that the environment names cannot be read.
    """
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    if not named and not path.is_file():
        return None
    try:
        found = path.stat()
        if found.st_uid == os.getuid() and found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            path.chmod(0o600)
        return path.read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError) as error:
        raise EnvironmentNotReady(
            f"the token of the cluster cannot be read from {path}: {error}", "correct RAY_AUTH_TOKEN_PATH"
        ) from error


def _checked(address: str) -> str:
    hint = "give the address of Ray's dashboard, http://HEAD:8265; a driver joins with: sweep --address HEAD:6379"
    shown = address.rpartition("@")[2]
    try:
        parts = urlsplit(address)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or True)
    except ValueError:
        usable = False
    if not usable or not address.isprintable() or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise UserInputError(f"--address {shown!r} is not the address of a job server", hint)
    if parts.username is not None:
        raise UserInputError("--address contains a user name", "Ray's job server asks for a token: set RAY_AUTH_TOKEN")
    return address.rstrip("/")


def _probe(address: str, headers: Mapping[str, str]) -> None:
    """One request with a time limit; Ray's own client would wait for ever."""
    request = Request(f"{address}/api/version", headers=dict(headers))  # noqa: S310 - http and https only, as checked
    hint = "is the cluster up, with ray[default] on its head, and the port reachable from here?"
    try:
        with build_opener(_Here).open(request, timeout=_ANSWER_S) as answer:
            known = "ray_version" in json.loads(answer.read(10_000))
    except HTTPError as error:
        if error.code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise refused(address) from error
        known = False
    except ValueError:  # not JSON
        known = False
    except (URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise EnvironmentNotReady(f"no cluster answers at {address}: {reason}", hint) from error
    if not known:
        raise EnvironmentNotReady(f"what answers at {address} is not Ray's job server", hint)
