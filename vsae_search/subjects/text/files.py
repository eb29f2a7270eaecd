"""Documents from files: plain text, JSON, JSON Lines and Parquet."""

from __future__ import annotations

import functools
import glob
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsae_search.errors import UserInputError
from vsae_search.subjects.seeds import digest
from vsae_search.subjects.text.documents import field_of, text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vsae_search.space.text import FilesText
    from vsae_search.subjects.text.documents import Document

_COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip", ".7z", ".tar")
_BLOCK_BYTES = 2**22
_BATCH_ROWS = 1024


@dataclass(frozen=True)
class FileDocuments:
    """Documents of files, in the order of the files and, inside a file, of its records.

    Attributes:
        paths: The files, as absolute paths.
        sha256: Checksum of each.
        field: Name of the column with the text.
    """

    paths: tuple[Path, ...]
    sha256: tuple[str, ...]
    field: str

    @property
    def fingerprint(self) -> str:
        """Digest of the content of the files; their names do not matter, their kinds do."""
        return digest(["files", [_reader(path).__name__ for path in self.paths], self.sha256, self.field])

    def read(self, start: int) -> Iterator[Document]:
        """Yield the documents from number ``start`` on.

        Raises:
            UserInputError: A file cannot be read, is not what its name says, or was changed meanwhile.
        """
        number = 0
        for path, checksum in zip(self.paths, self.sha256, strict=True):
            if file_digest(path) != checksum:
                raise UserInputError(f"{path} was changed while it was in use", "start again with a new sweep name")
            for text in _reader(path)(path, self.field):
                if text is not None:
                    if number >= start:
                        yield text
                    number += 1

    def describe(self) -> dict[str, Any]:
        """Return the files and their checksums."""
        return {
            "source": "files",
            "field": self.field,
            "files": [{"path": str(p), "sha256": c} for p, c in zip(self.paths, self.sha256, strict=True)],
        }


def open_files(spec: FilesText) -> FileDocuments:
    """Find the files of a specification.

    Raises:
        UserInputError: A path leads nowhere, or to something that is not a file of a known kind.
    """
    paths = list(dict.fromkeys(path for pattern in spec.paths for path in _matching(pattern)))
    for path in paths:
        if path.suffix.lower() in _COMPRESSED:
            raise UserInputError(f"{path} is compressed", "unpack it first, or convert it to Parquet")
    return FileDocuments(tuple(paths), tuple(file_digest(path) for path in paths), spec.field)


def file_digest(path: Path) -> str:
    """Return the sha256 (hex) of a file; read once per process unless its size or time stamp changes.

    Raises:
        UserInputError: The file cannot be read.
    """
    try:
        status = path.stat()
        return _digest_of(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise unreadable(path, error) from error


@functools.lru_cache(maxsize=4096)
def _digest_of(path: Path, _size: int, _modified_ns: int) -> str:
    state = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            state.update(block)
    return state.hexdigest()


def unreadable(path: Path, error: OSError) -> UserInputError:
    """Return the error for a file that the operating system does not let us read."""
    return UserInputError(f"{path} cannot be read: {error.strerror or error}", "check the path and its permissions")


def _matching(pattern: str) -> list[Path]:
    """Return the files of a path or pattern, in alphabetical order."""
    path = Path(pattern).expanduser()
    if path.is_file():  # a name may itself contain the characters of a pattern
        return [path.resolve()]
    if path.is_dir():
        raise UserInputError(f"{pattern} is a folder", f"name its files, for example {pattern.rstrip('/')}/**/*.txt")
    found = sorted(Path(name) for name in glob.glob(str(path), recursive=True))
    files = [name.resolve() for name in found if name.is_file()]
    if not files:
        what = "matches no file" if glob.has_magic(pattern) else "does not exist"
        raise UserInputError(f"{pattern} {what}", f"relative paths begin at {Path.cwd()}")
    return files


def _reader(path: Path) -> Callable[[Path, str], Iterator[str | None]]:
    """Return the function that reads files with this ending."""
    readers = {".json": _json, ".jsonl": _json_lines, ".ndjson": _json_lines, ".parquet": _parquet}
    return readers.get(path.suffix.lower(), _plain)


def _plain(path: Path, _field: str) -> Iterator[str | None]:
    """Yield a file of plain text as one document."""
    yield _decode(path, _bytes(path)).removeprefix("\ufeff") or None


def _json(path: Path, field: str) -> Iterator[str | None]:
    """Yield the records of a JSON file: a list of objects, or one object."""
    text = _decode(path, _bytes(path)).removeprefix("\ufeff")
    try:
        records = json.loads(text)
    except json.JSONDecodeError as error:
        raise _not_json(path, error.lineno, error) from error
    for index, record in enumerate(records if isinstance(records, list) else [records]):
        where = f"{path}, record {index}"
        yield text_of(field_of(record, field, where), field, where)


def _json_lines(path: Path, field: str) -> Iterator[str | None]:
    """Yield the lines of a JSON Lines file; empty lines are skipped."""
    offset = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                text = _decode(path, line, offset, number).removeprefix("\ufeff" if number == 1 else "")
                offset += len(line)
                if not text.strip():
                    continue
                try:
                    record = json.loads(text)
                except json.JSONDecodeError as error:
                    raise _not_json(path, number, error) from error
                where = f"{path}:{number}"
                yield text_of(field_of(record, field, where), field, where)
    except OSError as error:
        raise unreadable(path, error) from error


def _parquet(path: Path, field: str) -> Iterator[str | None]:
    """Yield the rows of a Parquet file."""
    import pyarrow as pa
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            columns = file.schema_arrow.names
            if field not in columns:
                known = ", ".join(map(repr, columns))
                raise UserInputError(f"{path} has no column {field!r}, only {known}", "set field to one of them")
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=[field]):
                for value in batch.column(0).to_pylist():
                    yield text_of(value, field, f"{path}, row {number}")
                    number += 1
    except pa.ArrowException as error:
        reason = " ".join(str(error).split())[:160]
        raise UserInputError(f"{path} is not a Parquet file, or it is damaged: {reason}", "write it again") from error
    except OSError as error:
        raise unreadable(path, error) from error


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error


def _decode(path: Path, content: bytes, offset: int = 0, line: int = 1) -> str:
    """Return bytes as text, or say where they stop being UTF-8."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line += before.count(b"\n")
        raise UserInputError(
            f"{path}:{line}: byte 0x{content[error.start]:02x} at position {offset + error.start} is not UTF-8",
            "convert the file, for example with: iconv -f latin1 -t utf-8",
        ) from error


def _not_json(path: Path, line: int, error: json.JSONDecodeError) -> UserInputError:
    hint = "a .json file holds one list of records; one record per line belongs into a .jsonl file"
    return UserInputError(f"{path}:{line}:{error.colno}: this is not valid JSON: {error.msg}", hint)
