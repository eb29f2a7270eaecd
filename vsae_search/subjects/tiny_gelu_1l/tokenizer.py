"""A byte-level tokenizer: every text has tokens, and the tokens give the text back."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

BOS = "<|BOS|>"


@dataclass(eq=False)
class ByteTokenizer:
    """A byte-level BPE tokenizer with one special token, which is BOS and EOS in one.

    Attributes:
        rules: Content of its ``tokenizer.json``.
    """

    rules: str
    _backend: Backend | None = field(default=None, repr=False)

    @property
    def backend(self) -> Backend:
        """The tokenizer of the tokenizers library, made from the rules when it is first needed."""
        if self._backend is None:
            self._backend = Backend.from_str(self.rules)
            self._backend.encode_special_tokens = True  # the name of the special token in a text is text
        return self._backend

    @property
    def bos_id(self) -> int:
        """Token with which every sequence begins."""
        return 0

    @property
    def eos_id(self) -> int:
        """Token between two documents."""
        return 0

    @property
    def special_ids(self) -> frozenset[int]:
        """Tokens that stand for no text."""
        return frozenset({0})

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return self.backend.get_vocab_size()

    @property
    def fingerprint(self) -> str:
        """Sha256 (hex) of the rules."""
        return hashlib.sha256(self.rules.encode()).hexdigest()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each text, without adding special tokens."""
        return [encoding.ids for encoding in self.backend.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of some tokens; the special token appears as ``<|BOS|>``."""
        return self.backend.decode([int(token) for token in ids], skip_special_tokens=False)

    def __getstate__(self) -> dict[str, Any]:
        return {"rules": self.rules, "_backend": None}


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> ByteTokenizer:
    """Learn the merges of a byte-level BPE tokenizer; the same texts in the same order give the same rules.

    Args:
        texts: Documents.
        vocab_size: Number of tokens: BOS, 256 bytes, and merges.
    """
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[BOS], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    assert backend.token_to_id(BOS) == 0
    return ByteTokenizer(backend.to_str() + "\n")  # a text file ends with a line feed
