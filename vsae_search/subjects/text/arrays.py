"""Documents from a NumPy file of token numbers.

Shapes: N sequences, T tokens in a row of the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vsae_search.errors import UserInputError
from vsae_search.subjects.seeds import digest
from vsae_search.subjects.text.documents import TokenDocument
from vsae_search.subjects.text.files import file_digest, unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vsae_search.space.text import TokensText
    from vsae_search.subjects.text.base import Tokenizer

_BLOCK = 2**22


@dataclass(frozen=True)
class ArrayDocuments:
    """The rows of an array, or the parts of a flat one between BOS and EOS tokens.

    Attributes:
        path: The file, as an absolute path.
        sha256: Its checksum.
        separators: Tokens at which a flat array is cut into documents.
    """

    path: Path
    sha256: str
    separators: tuple[int, ...]

    @property
    def fingerprint(self) -> str:
        """Digest of the content of the file and of the rule by which it is cut."""
        return digest(["tokens", self.sha256, self.separators])

    def read(self, start: int) -> Iterator[TokenDocument]:
        """Yield the documents from number ``start`` on.

        Raises:
            UserInputError: The file cannot be read, or was changed meanwhile.
        """
        if file_digest(self.path) != self.sha256:
            raise UserInputError(f"{self.path} was changed while it was in use", "start again with a new sweep name")
        array = load_array(self.path)
        if array.ndim == 2:
            for index in range(start, len(array)):
                yield TokenDocument(array[index].astype(np.int64), True, f"{self.path}, row {index}")
        else:
            for index, (begin, end) in enumerate(_parts(array, self.separators)):
                if index >= start:
                    yield TokenDocument(array[begin:end].astype(np.int64), False, f"{self.path}, from token {begin}")

    def describe(self) -> dict[str, Any]:
        """Return the file and its checksum."""
        return {"source": "tokens", "path": str(self.path), "sha256": self.sha256}


def open_array(spec: TokensText, tokenizer: Tokenizer) -> ArrayDocuments:
    """Check the array of a specification.

    Raises:
        UserInputError: The file is missing or not an array of token numbers of this tokenizer, or it is flat and has
            no BOS or EOS token at which it could be cut into documents.
    """
    path = Path(spec.path).expanduser().resolve()
    array = load_array(path)
    _check_range(array, tokenizer.vocab_size, path)
    separators = tuple(sorted({tokenizer.bos_id, tokenizer.eos_id}))
    if array.ndim == 1 and not np.isin(array, separators).any():
        raise UserInputError(
            f"{path} is one flat list of tokens without BOS or EOS ({', '.join(map(str, separators))}) between its"
            " documents, so that it cannot be divided into training and evaluation documents",
            "put such a token between the documents, or store rows, shape [sequences, tokens]",
        )
    return ArrayDocuments(path, file_digest(path), separators)


def load_array(path: Path) -> NDArray[np.integer]:
    """Map an array of whole numbers into memory; nothing is ever unpickled.

    Raises:
        UserInputError: The file is missing, damaged, or holds something else.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, EOFError) as error:
        reason = "it holds Python objects" if "allow_pickle" in str(error) else str(error).splitlines()[0]
        raise UserInputError(
            f"{path} is not a plain array of numbers: {reason}", "write it with numpy.save, of an array of integers"
        ) from error
    if not isinstance(array, np.ndarray):
        array.close()  # an archive of several arrays
        raise UserInputError(f"{path} is an archive of several arrays", "write one array with numpy.save")
    if not np.issubdtype(array.dtype, np.integer):
        raise UserInputError(f"{path} holds {array.dtype}, not whole numbers", "convert the array to int32")
    if array.ndim not in (1, 2) or array.size == 0:
        shape = "x".join(map(str, array.shape))
        raise UserInputError(f"{path} has the shape {shape}", "token arrays have one or two axes and are not empty")
    return array


def _check_range(array: NDArray[np.integer], vocab_size: int, path: Path) -> None:
    """Refuse token numbers outside the vocabulary, naming the first."""
    flat = array.reshape(-1)
    for begin in range(0, len(flat), _BLOCK):
        block = flat[begin : begin + _BLOCK]
        if block.min() < 0 or block.max() >= vocab_size:
            index = begin + int(np.argmax((block < 0) | (block >= vocab_size)))
            place = f"row {index // array.shape[1]}, column {index % array.shape[1]}" if array.ndim == 2 else str(index)
            raise UserInputError(
                f"{path} has the token {int(flat[index])} at position {place}, and the vocabulary has {vocab_size}",
                "the array was made with another tokenizer; token numbers start at 0",
            )


def _parts(array: NDArray[np.integer], separators: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Yield begin and end of the parts between separators, without the empty ones."""
    cuts = np.flatnonzero(np.isin(array, separators))
    begin = 0
    for cut in [*cuts.tolist(), len(array)]:
        if cut > begin:
            yield begin, cut
        begin = cut + 1
