"""From documents to sequences of equal length, each with BOS first, the splits apart.

Documents of a split are joined into one stream with an EOS token after each (in models that have one token for both,
such as GPT-2, that token is also BOS), and the stream is cut into pieces of T - 1 tokens, each of which gets a BOS in
front. Nothing is padded and nothing is lost but the end of the last piece. This is how GPT-2 and the GELU models were
trained, except that every sequence has a BOS, as in TransformerLens. Rows that were packed before are not joined:
each is cut by itself, without the special tokens at its ends.

Shapes: S sequences, T tokens in a sequence (the context length).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vsae_search.errors import UserInputError
from vsae_search.subjects.text.splits import SHARES, split_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    from vsae_search.subjects.base import Split
    from vsae_search.subjects.text.base import Tokenizer
    from vsae_search.subjects.text.documents import Document, TokenDocument

    Tokens = NDArray[np.int64]

_BATCH_DOCUMENTS = 256
_BATCH_CHARACTERS = 2**20

NO_TOKENS: Tokens = np.empty(0, dtype=np.int64)


class Packer:
    """Collects the sequences of the four splits.

    Attributes:
        num_tokens: Tokens taken in so far, separators and dropped ones included.
        num_documents: Documents of each split so far.
        short_rows: Packed rows so far that were shorter than a sequence, and therefore left out.
    """

    def __init__(self, tokenizer: Tokenizer, context_length: int, leftover: Mapping[Split, Tokens]) -> None:
        self.num_tokens = 0
        self.num_documents: dict[Split, int] = dict.fromkeys(SHARES, 0)
        self.short_rows = 0
        self._tokenizer = tokenizer
        self._body = context_length - 1
        self._streams = {split: [leftover.get(split, NO_TOKENS)] for split in SHARES}
        self._rows: dict[Split, list[Tokens]] = {split: [] for split in SHARES}

    def add(self, documents: Iterable[Document]) -> None:
        """Take in some documents.

        Raises:
            UserInputError: A document that is already tokenised does not fit the vocabulary.
        """
        documents = list(documents)
        encoded = iter(self._tokenizer.encode([text for text in documents if isinstance(text, str)]))
        for document in documents:
            split = split_of(document if isinstance(document, str) else document.ids)
            self.num_documents[split] += 1
            if isinstance(document, str):
                self._join(split, np.asarray(next(encoded), dtype=np.int64))
            else:
                self._check(document)
                take = self._cut if document.packed else self._join
                take(split, document.ids)

    def take(self) -> tuple[dict[Split, Tokens], dict[Split, Tokens]]:
        """Return the sequences of every split, [S, T], and the tokens that are left over for the next ones."""
        sequences: dict[Split, Tokens] = {}
        leftover: dict[Split, Tokens] = {}
        for split in SHARES:
            stream = np.concatenate(self._streams[split])
            whole = len(stream) // self._body * self._body
            bodies = np.concatenate([stream[:whole].reshape(-1, self._body), *self._rows[split]])
            bos = np.full((len(bodies), 1), self._tokenizer.bos_id, dtype=np.int64)
            sequences[split], leftover[split] = np.concatenate([bos, bodies], axis=1), stream[whole:]
        return sequences, leftover

    def _join(self, split: Split, ids: Tokens) -> None:
        """Append a document and a separator to the stream of its split."""
        self._streams[split] += [ids, np.asarray([self._tokenizer.eos_id], dtype=np.int64)]
        self.num_tokens += len(ids) + 1

    def _cut(self, split: Split, ids: Tokens) -> None:
        """Cut a row that was packed before; what does not fill a sequence at its end is dropped."""
        text = np.flatnonzero(~np.isin(ids, sorted(self._tokenizer.special_ids)))
        ids = ids[text[0] : text[-1] + 1] if len(text) else NO_TOKENS
        whole = len(ids) // self._body * self._body
        if whole:
            self._rows[split].append(ids[:whole].reshape(-1, self._body))
        else:
            self.short_rows += 1
        self.num_tokens += len(ids)

    def _check(self, document: TokenDocument) -> None:
        size = self._tokenizer.vocab_size
        if len(wrong := document.ids[(document.ids < 0) | (document.ids >= size)]):
            raise UserInputError(
                f"{document.where}: there is the token {int(wrong[0])}, and the vocabulary has {size}",
                "the tokens were made with another tokenizer",
            )


def batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    """Group documents so that a tokenizer works on many at a time; a function of the documents alone."""
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document) if isinstance(document, str) else len(document.ids)
        if len(batch) == _BATCH_DOCUMENTS or size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
