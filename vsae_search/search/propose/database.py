"""The database of the studies: SQLite beside the records, or any address that SQLAlchemy knows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from optuna.storages import RDBStorage
from sqlalchemy import create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

_BUSY_TIMEOUT_S = 30
_CONNECT = {"connect_timeout": 10}
_LOCAL_FILE_SYSTEMS = {"apfs", "btrfs", "ext2", "ext3", "ext4", "overlay", "tmpfs", "xfs", "zfs"}


def open_database(address: str) -> RDBStorage:
    """Open, or create, the database of the studies.

    A trial takes about 15 small transactions. On a local disk SQLite writes them to a write-ahead log and leaves it to
    the system when the log reaches the disk: three times faster, and still whole after a killed process or a power cut.
    On other file systems the log's shared memory does not work and SQLite's own defaults stay.

    Args:
        address: SQLAlchemy address.
    """
    url = make_url(address)
    if url.get_backend_name() != "sqlite":
        # a server may have closed a connection that was left alone for hours
        return RDBStorage(address, engine_kwargs={"pool_pre_ping": True, "connect_args": _CONNECT})
    storage = RDBStorage(address, engine_kwargs={"connect_args": {"timeout": _BUSY_TIMEOUT_S}})
    if url.database and _is_local(Path(url.database)):
        _use_write_ahead_log(storage.engine)
    return storage


def unreachable(address: str) -> str | None:
    """Why a database takes no connections, in its own words; None when it takes them, or is a file.

    Args:
        address: SQLAlchemy address.
    """
    try:
        if make_url(address).get_backend_name() == "sqlite":
            return None
        engine = create_engine(address, connect_args=_CONNECT)
    except (ImportError, ArgumentError) as error:
        return str(error)
    try:
        engine.connect().close()
    except SQLAlchemyError as error:
        return str(getattr(error, "orig", None) or error).strip().splitlines()[0]
    finally:
        engine.dispose()
    return None


def _use_write_ahead_log(engine: Engine) -> None:
    def prepare(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    event.listen(engine, "connect", prepare)
    engine.dispose()  # connections that are open already do not have the settings


def _is_local(path: Path) -> bool:
    """Whether a file is on a file system of this machine; False when that is not known."""
    folders = {str(folder) for folder in path.resolve().parents}
    mounts = [mount for mount in psutil.disk_partitions(all=True) if mount.mountpoint in folders]
    nearest = max(mounts, key=lambda mount: len(mount.mountpoint), default=None)
    return nearest is not None and nearest.fstype in _LOCAL_FILE_SYSTEMS
