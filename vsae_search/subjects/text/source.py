"""Text as sequences of tokens: read, split by document, packed and kept in files that grow as far as needed.

Shapes: S sequences, T tokens in a sequence (the context length).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from vsae_search.errors import UserInputError
from vsae_search.space.text import DatasetText, FilesText, PythonStdlibText, TokensText
from vsae_search.subjects.seeds import digest, stream
from vsae_search.subjects.text.arrays import open_array
from vsae_search.subjects.text.chunks import FORMAT_VERSION, Chunk, ChunkFacts, chunk_path, open_chunk, write_chunk
from vsae_search.subjects.text.dataset import open_dataset
from vsae_search.subjects.text.files import open_files
from vsae_search.subjects.text.packing import Packer, batches
from vsae_search.subjects.text.splits import SHARES
from vsae_search.subjects.text.stdlib import open_standard_library

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from vsae_search.space.text import TextSpec
    from vsae_search.subjects.base import Split
    from vsae_search.subjects.text.base import Tokenizer
    from vsae_search.subjects.text.documents import Document, Documents

_FIRST_CHUNK = 2**18
_LARGEST_CHUNK = 2**22
_SHORT_ROWS = 1024  # so many packed rows without a single long enough one are no accident


def open_text(spec: TextSpec, tokenizer: Tokenizer, *, context_length: int, cache: Path, seed: int) -> PackedText:
    """Open the text of a search space.

    Revisions are pinned to commits, patterns to files and files to checksums here; what is returned refers to exactly
    this content on every machine. Tokens are made when they are first asked for.

    Args:
        spec: The ``text`` section.
        tokenizer: Tokenizer of the model.
        context_length: Number of tokens in a sequence, BOS included; at least 2.
        cache: Directory for token files; created when missing.
        seed: Seed of the order of the sequences.

    Returns:
        A token source; picklable if the tokenizer is.

    Raises:
        UserInputError: The text cannot be found or used.
        EnvironmentNotReady: The text is on a hub that cannot be reached.
    """
    assert context_length >= 2, context_length
    return PackedText(_open(spec, tokenizer, cache), tokenizer, context_length, cache, seed)


def _open(spec: TextSpec, tokenizer: Tokenizer, cache: Path) -> Documents:
    match spec:
        case PythonStdlibText():
            return open_standard_library()
        case DatasetText():
            return open_dataset(spec, cache)
        case FilesText():
            return open_files(spec)
        case TokensText():
            return open_array(spec, tokenizer)


@dataclass(eq=False)
class PackedText:
    """Sequences of a text, made chunk by chunk and kept in files.

    Attributes:
        documents: Where the text comes from.
        tokenizer: What turns it into tokens.
        context_length: Number of tokens in a sequence.
        cache: Directory of the token files.
        seed: Seed of the order of the sequences inside a chunk.
    """

    documents: Documents
    tokenizer: Tokenizer
    context_length: int
    cache: Path
    seed: int
    _chunks: list[Chunk] = field(default_factory=list, repr=False)
    _reader: tuple[int, Iterator[Document]] | None = field(default=None, repr=False)

    @property
    def fingerprint(self) -> str:
        """Sha256 (hex) over everything that determines the sequences."""
        parts = [self.documents.fingerprint, self.tokenizer.fingerprint, self.context_length, self.seed]
        return digest(["text", FORMAT_VERSION, *parts])

    def sequences(self, split: Split, start: int, count: int) -> NDArray[np.int64]:
        """Return sequences ``start`` to ``start + count`` of a split, [S, T].

        Raises:
            UserInputError: The text is too short for so many sequences, or it cannot be read.
            EnvironmentNotReady: The text is on a hub that cannot be reached, or the disk is full.
            CorruptFile: A stored file of tokens is damaged.
        """
        assert start >= 0, start
        assert count >= 0, count
        stop = start + count
        found = self.available(split, stop)
        if found < stop:
            raise self._too_short(split, found, stop)
        pieces, offset = [np.empty((0, self.context_length), dtype=np.int64)], 0
        for chunk in self._chunks:
            first, last = max(0, start - offset), min(chunk.num_sequences[split], stop - offset)
            if first < last:
                pieces.append(chunk.sequences(split, first, last))
            offset += chunk.num_sequences[split]
        return np.concatenate(pieces)

    def available(self, split: Split, wanted: int) -> int:
        """Return how many sequences a split has, counting no further than ``wanted``; makes them if necessary."""
        while (found := sum(chunk.num_sequences[split] for chunk in self._chunks)) < wanted:
            if self._chunks and self._chunks[-1].facts.exhausted:
                return found
            self._chunks.append(self._next_chunk())
        return wanted

    def describe(self) -> dict[str, Any]:
        """Return the source and how it is packed, as values that JSON can hold."""
        return {
            **self.documents.describe(),
            "fingerprint": self.fingerprint,
            "tokenizer": self.tokenizer.fingerprint,
            "context_length": self.context_length,
            "seed": self.seed,
            "split_shares": dict(SHARES),
        }

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_chunks": [], "_reader": None}

    def _next_chunk(self) -> Chunk:
        """Open the next chunk, making it first when it is not there yet."""
        index = len(self._chunks)
        path = chunk_path(self.cache, self.fingerprint, index)
        if not path.exists():
            self._make(path, index)
        return open_chunk(path, self.fingerprint, index)

    def _make(self, path: Path, index: int) -> None:
        """Read documents until the chunk is full, and write it."""
        last = self._chunks[-1] if self._chunks else None
        next_document = last.facts.next_document if last else 0
        packer = Packer(self.tokenizer, self.context_length, last.left_over() if last else {})
        size = min(_FIRST_CHUNK << index, _LARGEST_CHUNK)
        reader = self._documents_from(next_document)
        exhausted = True
        for batch in batches(reader):
            packer.add(batch)
            next_document += len(batch)
            if packer.num_tokens >= size:
                exhausted = False
                break
            self._check_rows(packer)
        self._reader = None if exhausted else (next_document, reader)
        sequences, left_over = packer.take()
        facts = ChunkFacts(next_document, exhausted, packer.num_documents, packer.short_rows)
        ordered = {split: self._shuffled(split, index, array_ST) for split, array_ST in sequences.items()}
        write_chunk(path, self.fingerprint, index, ordered, left_over, facts)

    def _documents_from(self, number: int) -> Iterator[Document]:
        """Return the documents from a number on; goes on where the last chunk ended when this process made it."""
        reader, self._reader = self._reader, None
        return reader[1] if reader is not None and reader[0] == number else self.documents.read(number)

    def _shuffled(self, split: Split, index: int, array_ST: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return sequences in random order, so that consecutive ones come from different documents."""
        order = stream(self.fingerprint, f"order of {split} sequences", index).permutation(len(array_ST))
        return array_ST[order]

    def _check_rows(self, packer: Packer) -> None:
        if packer.short_rows >= _SHORT_ROWS and packer.short_rows == sum(packer.num_documents.values()):
            raise UserInputError(
                f"the rows of the tokenised text are shorter than context_length ({self.context_length})",
                "such rows are cut, not joined; lower context_length, or choose another text",
            )

    def _too_short(self, split: Split, found: int, wanted: int) -> UserInputError:
        documents = sum(chunk.facts.num_documents[split] for chunk in self._chunks)
        total = sum(sum(chunk.facts.num_documents.values()) for chunk in self._chunks)
        short = sum(chunk.facts.short_rows for chunk in self._chunks)
        note = f"; {short} rows were shorter than that and left out" if short else ""
        return UserInputError(
            f"the text is too short: its {split} split has {documents} of {total} documents, enough for {found}"
            f" sequences of {self.context_length} tokens, and {wanted} are needed{note}",
            f"give more text, or ask for fewer tokens; {SHARES[split]:.0%} of the documents belong to this split (a"
            " plain text file is one document)",
        )
