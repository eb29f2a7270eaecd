"""Which database the studies of a sweep are in: SQLite in its directory, or one that a cluster shares.

A shared database holds the studies of many sweeps, and of sweeps that were deleted. So the directory keeps a name of
its own for its studies there, and refuses another database: without its studies a sweep would begin again.
"""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from vsae_search.errors import EnvironmentNotReady, UserInputError
from vsae_search.search.records import Record, read_record, write_record
from vsae_search.space.addresses import check_database

if TYPE_CHECKING:
    from pathlib import Path

STORAGE_VARIABLE = "VSAE_SEARCH_STUDY_STORAGE"
STUDIES_FILE = "optuna.db"
HOME_FILE = "studies.json"


class StudiesHome(NamedTuple):
    """Where the studies of a sweep are.

    Attributes:
        address: SQLAlchemy address; it may hold a password.
        sweep_id: What tells this sweep from others of its name in a shared database; empty in its own.
    """

    address: str
    sweep_id: str = ""


class _SharedHome(Record):
    """The file in the sweep directory.

    Attributes:
        storage: The database, without user and password.
        sweep_id: See :class:`StudiesHome`.
    """

    storage: str
    sweep_id: str


def study_storage(given: str | None) -> str | None:
    """The database that a search space names, else that of the environment; None for one in the sweep directory."""
    return given or os.environ.get(STORAGE_VARIABLE) or None


def studies_home(directory: Path, given: str | None) -> StudiesHome:
    """Find, or choose, the database of a sweep.

    Args:
        directory: The sweep directory.
        given: Address from the search space; None looks into ``VSAE_SEARCH_STUDY_STORAGE``, then takes SQLite.

    Raises:
        UserInputError: The address cannot be used, or the studies of this sweep are in another database.
        EnvironmentNotReady: The driver of the database is not installed.
    """
    address = study_storage(given)
    file, own = directory / HOME_FILE, directory / STUDIES_FILE
    earlier = read_record(file, _SharedHome) if file.is_file() else None
    if address is None:
        if earlier is not None:
            raise _elsewhere(directory, earlier.storage)
        return StudiesHome(f"sqlite:///{own}")
    check_database(address)
    _require_driver(address)
    storage = _without_user(address)
    if earlier is None:
        if own.is_file():
            raise _elsewhere(directory, str(own))
        earlier = _SharedHome(storage=storage, sweep_id=secrets.token_hex(6))
        write_record(file, earlier)
    elif earlier.storage != storage:
        raise _elsewhere(directory, earlier.storage)
    return StudiesHome(_with_driver(address), earlier.sweep_id)


def _elsewhere(directory: Path, storage: str) -> UserInputError:
    return UserInputError(
        f"the studies of the sweep in {directory} are in {storage}, and another database is given",
        f"give that one, with search.study_storage or {STORAGE_VARIABLE}, or leave both out for a file of the sweep's "
        f"own; a database that has moved is named in {directory / HOME_FILE}",
    )


def _without_user(address: str) -> str:
    """The address as it is told and stored: no user, password, driver or options."""
    parts = urlsplit(address)
    scheme = parts.scheme.partition("+")[0]
    return parts._replace(scheme=scheme, netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _with_driver(address: str) -> str:
    """The address with the driver that this package installs, where none is named."""
    scheme, separator, rest = address.partition("://")
    return f"postgresql+psycopg{separator}{rest}" if scheme == "postgresql" else address


def _require_driver(address: str) -> None:
    if address.partition("://")[0] not in ("postgresql", "postgresql+psycopg"):
        return
    try:
        import psycopg  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise EnvironmentNotReady(
            "the studies are to be kept in PostgreSQL, and its driver is not installed",
            "pip install 'vsae_search[cluster]'",
        ) from error
