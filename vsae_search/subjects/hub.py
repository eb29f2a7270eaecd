"""The Hugging Face hub: revisions pinned to commits, and its errors in the words of the user.

Every repository is read at one commit, which is looked up once and recorded. Code that a repository brings along is
never run.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from vsae_search.errors import EnvironmentNotReady, UserInputError, VsaeSearchError

if TYPE_CHECKING:
    from collections.abc import Iterator

Kind = Literal["model", "dataset"]

# Names rather than classes, because the client library changed its HTTP library between versions.
_REFUSED = {"HfHubHTTPError"}
_UNREACHABLE = {"TransportError", "ConnectionError", "TimeoutError", "ClientConnectionError"}
_NOT_CACHED = {"RevisionResolutionError", "LocalEntryNotFoundError"}
_NO_DATA = {"EmptyDatasetError", "DataFilesNotFoundError"}
_UNREADABLE = {"ArrowInvalid", "ArrowTypeError", "JSONDecodeError", "UnicodeDecodeError", "SafetensorError"}
_LONGEST_REASON = 160


def resolve_revision(repository: str, revision: str | None, kind: Kind) -> str:
    """Return the commit hash of a branch or tag; when the hub is out of reach, the one that was looked up last.

    Args:
        repository: Name in the form owner/name.
        revision: Commit hash, tag or branch; None is the main branch.
        kind: Model or dataset.

    Raises:
        UserInputError: There is no such repository or revision, or it may not be read.
        EnvironmentNotReady: The hub cannot be reached and nothing is known from earlier.
    """
    from huggingface_hub import HfApi

    with hub_errors(repository, kind, revision):
        return str(HfApi().resolve_revision(repository, repo_type=kind, revision=revision).resolved)


@contextmanager
def hub_errors(repository: str, kind: Kind, revision: str | None = None) -> Iterator[None]:
    """Turn what the client libraries raise inside the block into one error for the user.

    Errors that have nothing to do with the hub or its files pass through unchanged.

    Args:
        repository: Name of the repository that is being read.
        kind: Model or dataset.
        revision: The revision that was asked for.

    Raises:
        UserInputError: The name, the revision, the access or the content of the repository is at fault.
        EnvironmentNotReady: The network, the hub or the local cache is.
    """
    try:
        yield
    except VsaeSearchError:
        raise
    except Exception as error:  # several of these libraries' errors have no closer base class; the rest is re-raised
        translated = _translate(error, repository, kind, revision)
        if translated is None:
            raise
        raise translated from error


def endpoint() -> str:
    """Return the address of the hub in use."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def _translate(error: Exception, repository: str, kind: Kind, revision: str | None) -> VsaeSearchError | None:
    """Return the error for the user, or None when neither the hub nor its files have anything to do with it."""
    what, chain = f"the {kind} {repository}", _chain(error)
    for cause in chain:  # the hub's own answer says most
        status = _status(cause)
        if status is not None:
            return _answered(type(cause).__name__, status, what, repository, kind, revision)
    names = {base.__name__ for cause in chain for base in type(cause).__mro__}
    if "DatasetNotFoundError" in names:  # the datasets library drops the answer of the hub
        name = "GatedRepoError" if "gated" in str(error) else "RepositoryNotFoundError"
        return _answered(name, None, what, repository, kind, revision)
    if "HFValidationError" in names:
        return UserInputError(
            f"{repository!r} is not the name of a {kind} on the hub, nor a folder that exists",
            "a name has the form owner/name; check the path of a folder",
        )
    if names & (_UNREACHABLE | _NOT_CACHED) and _offline():
        return EnvironmentNotReady(
            f"{what} is not in the local cache, and HF_HUB_OFFLINE is set",
            f"unset HF_HUB_OFFLINE once to fetch it, or point HF_HOME to a cache that has it ({_home()} does not)",
        )
    if names & _UNREACHABLE:
        return EnvironmentNotReady(
            f"{what} cannot be fetched: the connection to {endpoint()} failed ({_reason(chain[-1])})",
            "check the network; HF_ENDPOINT names another hub or a mirror, HF_HOME a cache that was filled elsewhere",
        )
    if names & _NOT_CACHED:
        return EnvironmentNotReady(
            f"{what} cannot be fetched, and the local cache does not have all of it",
            f"check the network and HF_ENDPOINT ({endpoint()}), or point HF_HOME to a cache that has it",
        )
    if names & _NO_DATA:
        return UserInputError(f"{what} has no data files that can be read", "choose another repository or config")
    if names & _UNREADABLE:
        reason = _reason(next(cause for cause in chain if _has_base(cause, _UNREADABLE)))
        return UserInputError(
            f"{what} has a file that cannot be read: {reason}",
            f"the repository is at fault, or the download was damaged: delete its folder under HF_HOME ({_home()}) and"
            " try again",
        )
    return None


def _answered(
    name: str, status: int | None, what: str, repository: str, kind: Kind, revision: str | None
) -> VsaeSearchError:
    """Return the error for a request that the hub answered with an error of its own."""
    answer = f" (HTTP {status})" if status else ""
    page = f"{endpoint()}/{'datasets/' if kind == 'dataset' else ''}{repository}"
    if name == "GatedRepoError":
        return UserInputError(
            f"access to {what} is restricted{answer}",
            f"ask for access at {page}, then set HF_TOKEN to a token of the account that was admitted",
        )
    if name == "RevisionNotFoundError":
        shown = f"revision {revision!r}" if revision else "main branch"
        return UserInputError(f"{what} has no {shown}{answer}", f"see {page}/commits, or leave revision out")
    if name == "RepositoryNotFoundError":
        return UserInputError(
            f"{what} does not exist on {endpoint()}, or it is private{answer}",
            "check the spelling (owner/name); for a private repository set HF_TOKEN; HF_ENDPOINT names another hub",
        )
    if name == "RemoteEntryNotFoundError":
        return UserInputError(f"{what} lacks a file that is needed{answer}", f"see its files at {page}/tree")
    if status in (401, 403):
        return UserInputError(
            f"{endpoint()} refused the token that was sent for {what}{answer}",
            "set HF_TOKEN to a valid token with read access, or unset it; a stored one lies under HF_HOME",
        )
    return EnvironmentNotReady(
        f"{what} cannot be fetched: {endpoint()} answered with an error{answer}",
        "try again later; HF_ENDPOINT names another hub or a mirror, HF_HOME a cache that was filled elsewhere",
    )


def _chain(error: BaseException) -> list[BaseException]:
    """Return an error and what caused it, outermost first."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return chain


def _status(error: BaseException) -> int | None:
    """Return the HTTP status of an answer of the hub."""
    response = getattr(error, "response", None)
    return int(response.status_code) if _has_base(error, _REFUSED) and response is not None else None


def _has_base(error: BaseException, names: set[str]) -> bool:
    return any(base.__name__ in names for base in type(error).__mro__)


def _reason(error: BaseException) -> str:
    """Return the first line of an error, cut to a readable length."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line if len(line) <= _LONGEST_REASON else f"{line[: _LONGEST_REASON - 3]}..."


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.is_offline_mode())


def _home() -> str:
    from huggingface_hub import constants

    return os.path.expanduser(constants.HF_HOME)
