"""What a language-model subject needs of its text: a tokenizer, and sequences of tokens in four disjoint splits.

Shapes: S sequences, T tokens in a sequence (the context length).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from vsae_search.subjects.base import Split


class Tokenizer(Protocol):
    """Text to token numbers and back."""

    @property
    def bos_id(self) -> int:
        """Token with which every sequence begins."""
        ...

    @property
    def eos_id(self) -> int:
        """Token that is put between two documents; the same as ``bos_id`` in models that have only one."""
        ...

    @property
    def special_ids(self) -> frozenset[int]:
        """Tokens that stand for no text (BOS, EOS, padding); positions that hold one are not explained."""
        ...

    @property
    def vocab_size(self) -> int:
        """Number of tokens; all token numbers are below it."""
        ...

    @property
    def fingerprint(self) -> str:
        """Sha256 (hex) over everything that determines the tokens of a text."""
        ...

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each text, without adding special tokens."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of some tokens; special tokens appear as themselves."""
        ...


class TokenSource(Protocol):
    """Sequences of tokens, all of the same length, each with BOS first."""

    @property
    def fingerprint(self) -> str:
        """Sha256 (hex) over everything that determines the sequences."""
        ...

    def sequences(self, split: Split, start: int, count: int) -> NDArray[np.int64]:
        """Return sequences ``start`` to ``start + count`` of a split, [S, T].

        A function of (fingerprint, split, start, count) and nothing else. No document contributes to two splits.

        Raises:
            UserInputError: The text is too short for so many sequences, or it cannot be read.
            EnvironmentNotReady: The text is on a hub that cannot be reached.
            CorruptFile: A stored file of tokens is damaged.
        """
        ...

    def available(self, split: Split, wanted: int) -> int:
        """Return how many sequences a split has, counting no further than ``wanted``; makes them if necessary."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return what is worth recording about the text, as values that JSON can hold."""
        ...
