"""Documents from a dataset on the Hugging Face hub, streamed, at one commit."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vsae_search.errors import EnvironmentNotReady, UserInputError
from vsae_search.subjects.hub import hub_errors, resolve_revision
from vsae_search.subjects.seeds import digest
from vsae_search.subjects.store import write_atomically
from vsae_search.subjects.text.documents import choose_column, document_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vsae_search.space.text import DatasetText
    from vsae_search.subjects.text.documents import Document


@dataclass(frozen=True)
class DatasetDocuments:
    """The rows of one split of a dataset.

    Attributes:
        name: Repository.
        config: Configuration; None for the only or default one.
        split: The repository's own split.
        commit: Commit hash.
        column: Column that holds the text or the tokens.
    """

    name: str
    config: str | None
    split: str
    commit: str
    column: str

    @property
    def fingerprint(self) -> str:
        """Digest of the commit and of what is read from it."""
        return digest(["dataset", self.name, self.config, self.split, self.commit, self.column])

    def read(self, start: int) -> Iterator[Document]:
        """Yield the documents from number ``start`` on; rows without text count, but yield nothing.

        Raises:
            UserInputError: The repository cannot be read, or it holds something else than text.
            EnvironmentNotReady: The hub cannot be reached.
        """
        number = 0
        for row, record in enumerate(self._records()):
            document = document_of(record[self.column], self.column, f"dataset {self.name}, row {row}")
            if document is not None:
                if number >= start:
                    yield document
                number += 1

    def _records(self) -> Iterator[dict[str, Any]]:
        with _dataset_errors(self.name, self.commit):
            stream = _stream(self.name, self.config, self.split, self.commit)
            yield from stream.select_columns([self.column])

    def describe(self) -> dict[str, Any]:
        """Return the repository, its commit and what is read from it."""
        return {
            "source": "dataset",
            "name": self.name,
            "config": self.config,
            "split": self.split,
            "commit": self.commit,
            "column": self.column,
        }


def open_dataset(spec: DatasetText, cache: Path) -> DatasetDocuments:
    """Find the commit of a specification, and the column to read.

    What was found is kept under ``cache``, so that tokens that are there can be used again without a network.

    Raises:
        UserInputError: The repository, revision, configuration, split or column does not exist, or may not be read.
        EnvironmentNotReady: The hub cannot be reached, and nothing is known from earlier.
    """
    commit = resolve_revision(spec.name, spec.revision, "dataset")
    identity = [spec.name, spec.config, spec.split, commit, spec.field]
    note = cache / f"dataset-{digest(identity)[:32]}.json"
    column = _noted(note, identity)
    if column is None:
        column = _find_column(spec, commit)
        cache.mkdir(parents=True, exist_ok=True)
        write_atomically(note, json.dumps({"identity": identity, "column": column}).encode())
    return DatasetDocuments(spec.name, spec.config, spec.split, commit, column)


def _noted(note: Path, identity: list[str | None]) -> str | None:
    """Return the column that was found earlier; None when there is no note, or one that cannot be used."""
    try:
        record = json.loads(note.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(record, dict) or record.get("identity") != identity:
        return None
    column = record.get("column")
    return column if isinstance(column, str) else None


def _find_column(spec: DatasetText, commit: str) -> str:
    """Look at the first row of a dataset."""
    with _dataset_errors(spec.name, commit):
        first = next(iter(_stream(spec.name, spec.config, spec.split, commit)), None)
    if first is None:
        raise UserInputError(f"the split {spec.split!r} of the dataset {spec.name} is empty", "choose another split")
    return choose_column(list(first), spec.field, f"the dataset {spec.name}")


def _stream(name: str, config: str | None, split: str, commit: str) -> Any:
    """Open a split for streaming; without a network, from what an earlier download left in the local cache."""
    from datasets import load_dataset_builder

    # The prefix keeps a local folder of the same name from being taken for the repository.
    builder = load_dataset_builder(f"hf://datasets/{name}", config, revision=commit)
    if builder.hash is not None and _is_commit(builder.hash) and builder.hash != commit:
        raise EnvironmentNotReady(
            f"the local cache has the dataset {name} at the commit {builder.hash[:12]}, and {commit[:12]} is wanted",
            f"set revision to {builder.hash}, or fetch the other commit with network access",
        )
    return builder.as_streaming_dataset(split=split)


def _is_commit(text: str) -> bool:
    return len(text) == 40 and all(letter in "0123456789abcdef" for letter in text)


@contextmanager
def _dataset_errors(name: str, commit: str) -> Iterator[None]:
    """Turn what the datasets library raises inside the block into one error for the user."""
    try:
        with hub_errors(name, "dataset", commit):
            yield
    except UserInputError:
        raise
    except (ValueError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())
        if isinstance(error, RuntimeError) and "script" not in reason:
            raise
        hint = "check the keys config, split and field"
        if "script" in reason:
            reason, hint = "it works only with code of its own, which is never run", "choose another dataset"
        raise UserInputError(f"the dataset {name} cannot be used: {reason[:300]}", hint) from error
