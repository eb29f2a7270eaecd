"""A language model at one hook point as a subject: rows are activations, the loss is next-token cross-entropy.

Let p be the positions that are explained (see ``positions``). A reconstruction replaces the activation at p and
nowhere else, and the loss of a sequence is the mean over p of -log q(next token), with float32 logits. All sequences
have the same length and weigh the same. ``baseline`` gives the same with the activation itself, with 0 and with the
mean of the rows in its place.

The subject holds names and checksums only. A process that needs the model loads it once and keeps it.

Shapes: N rows, S sequences, T positions, D width of the hook.

Reference: Bricken et al., "Towards Monosemanticity", 2023 (splicing, loss recovered).
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vsae_search.errors import UserInputError
from vsae_search.subjects.base import Baseline, GroundTruth, Rows, Spliced, Split
from vsae_search.subjects.language_model.load import load
from vsae_search.subjects.language_model.positions import explained, take_rows
from vsae_search.subjects.language_model.splicing import Losses, Splicer, SplicerCache
from vsae_search.subjects.seeds import digest, stream

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from vsae_search.space import LanguageModelSubject
    from vsae_search.subjects.language_model.base import CausalModel
    from vsae_search.subjects.language_model.load import ModelIdentity
    from vsae_search.subjects.text import TokenSource

FORMAT_VERSION = 1
"""To be raised with the rule of kept positions or the order of rows."""

_SPARE = 1.02  # sequences set aside for a shard beyond what it takes on average
_SHUFFLED: tuple[Split, ...] = ("train", "calibration")
_splicers = SplicerCache()


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A hook point of a language model that reads a text.

    Attributes:
        spec: The subject section of the search space.
        model: The model, with its revision and the checksum of its weights.
        text: The sequences.
        special_ids: Tokens at whose positions nothing is explained.
        d_in: Width of the activation.
        rows_per_sequence: Mean number of explained positions in a sequence.
        libraries: Versions of the libraries that have a part in the activations.
        facts: What is worth recording beside all that.
    """

    spec: LanguageModelSubject
    model: ModelIdentity
    text: TokenSource
    special_ids: frozenset[int]
    d_in: int
    rows_per_sequence: float
    libraries: Mapping[str, str]
    facts: Mapping[str, Any]

    loss_name = "delta-CE"
    loss_unit = "nats per token"
    truth: GroundTruth | None = None

    @property
    def hook(self) -> str:
        """The hook, by its TransformerLens name."""
        return self.spec.hook_name

    @property
    def fingerprint(self) -> str:
        """Sha256 (hex) over everything that determines the rows and the losses."""
        files = self.model.files
        source = [files.kind, files.repository, files.commit]  # a folder is known by its content, not by its path
        reading = [
            self.hook,
            self.model.processing,
            self.model.dtype,
            self.spec.harvest_batch,
            self.spec.context_length,
        ]
        text = [self.text.fingerprint, sorted(self.special_ids), self.rows_per_sequence, self.spec.seed]
        return digest(
            ["language model", FORMAT_VERSION, source, self.model.weights, reading, text, dict(self.libraries)]
        )

    @property
    def wants_gpu(self) -> bool:
        """A forward pass is work for a GPU, where there is one."""
        return True

    def prepare(self, num_rows: Mapping[Split, int], shard_rows: int) -> None:
        """Make the tokens for so many rows of each split, and refuse a text that is too short, before any harvest.

        Args:
            num_rows: Rows of each split.
            shard_rows: Rows of a full training shard.

        Raises:
            UserInputError: The text is too short.
        """
        for split, rows in num_rows.items():
            size = shard_rows if split == "train" else rows
            full, rest = divmod(rows, size)
            count = full * self._per_shard(size) + (self._per_shard(rest) if rest else 0)
            if self.text.available(split, count) < count:
                self.text.sequences(split, 0, count)  # raises, and says how much there is

    def harvest(self, index: int, num_rows: int, split: Split = "train", *, shard_rows: int | None = None) -> Rows:
        """Run the model up to the hook on the sequences of one shard.

        Rows of the training and calibration splits are shuffled; those of the others stay in the order of their
        sequences, which come with them, so that losses can be computed.

        Raises:
            UserInputError: The text is too short, or an activation is not finite.
        """
        first = index * self._per_shard(shard_rows or num_rows)
        tokens_ST, kept_ST = self._sequences(split, first, num_rows)
        x_ND = self._activations(tokens_ST, kept_ST)
        if split in _SHUFFLED:
            return Rows(x_ND[stream(self.fingerprint, f"rows of {split}", index).permutation(num_rows)])
        return Rows(x_ND, tokens_ST=tokens_ST.astype(np.int32), kept_ST=kept_ST)

    def baseline(self, rows: Rows) -> Baseline:
        """Return the losses of the sequences untouched, zero-ablated and mean-ablated."""
        splicer = self._splicer(rows)
        mean_D = rows.x_ND.mean(axis=0, dtype=np.float64).astype(np.float32)
        return Baseline(
            clean_S=splicer.losses(None).loss_S,
            zero_S=splicer.losses(np.zeros_like(rows.x_ND)).loss_S,
            mean_S=splicer.losses(np.broadcast_to(mean_D, rows.x_ND.shape)).loss_S,
        )

    def splice(self, rows: Rows, xhat_ND: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the loss of every sequence when ``xhat_ND`` replaces ``rows.x_ND``."""
        return self._splicer(rows).losses(xhat_ND).loss_S

    def splice_with_kl(self, rows: Rows, xhat_ND: NDArray[np.float32]) -> Spliced:
        """Return the loss of every sequence and how far its predictions moved, KL(untouched || spliced)."""
        found: Losses = self._splicer(rows).losses(xhat_ND, kl=True)
        assert found.kl_S is not None, "it was asked for"
        return Spliced(found.loss_S, found.kl_S)

    def describe(self) -> dict[str, Any]:
        """Return the model, the text and what was measured on a few sequences."""
        files = self.model.files
        return {
            "kind": "language_model",
            "d_in": self.d_in,
            "digest": self.fingerprint,
            "loss_name": self.loss_name,
            "loss_unit": self.loss_unit,
            "model": files.name,
            "repository": files.repository,
            "revision": files.commit,
            "folder": files.local,
            "weights_sha256": self.model.weights,
            "hook": self.hook,
            "processing": self.model.processing,
            "dtype": self.model.dtype,
            "context_length": self.spec.context_length,
            "rows_per_sequence": self.rows_per_sequence,
            "text": self.text.describe(),
            "libraries": dict(self.libraries),
            **self.facts,
        }

    def load(self) -> CausalModel:
        """Return the model, loading it when this process does not have it yet."""
        return load(self.model)

    def _per_shard(self, num_rows: int) -> int:
        """Return how many sequences are set aside for a shard."""
        return math.ceil(num_rows / self.rows_per_sequence * _SPARE) + 1

    def _sequences(self, split: Split, first: int, num_rows: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return sequences from ``first`` on with exactly ``num_rows`` kept positions; none without a prediction."""
        tokens, kept, found = [], [], 0
        while found < num_rows:
            count = math.ceil((num_rows - found) / self.rows_per_sequence)
            tokens_ST = self.text.sequences(split, first, count)
            kept_ST = explained(tokens_ST, self.special_ids)
            useful_S = kept_ST[:, :-1].any(axis=1)
            tokens.append(tokens_ST[useful_S])
            kept.append(kept_ST[useful_S])
            found += int(kept[-1].sum())
            first += count
        tokens_ST, kept_ST = np.concatenate(tokens), take_rows(np.concatenate(kept), num_rows)
        useful_S = kept_ST[:, :-1].any(axis=1)
        return tokens_ST[useful_S], kept_ST[useful_S]

    def _activations(self, tokens_ST: NDArray[np.int64], kept_ST: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Return the activations at the kept positions, in order of sequence and position."""
        model = self.load()
        x_ND = np.empty((int(kept_ST.sum()), self.d_in), dtype=np.float32)
        done = 0
        with torch.inference_mode():
            for start in range(0, len(tokens_ST), self.spec.harvest_batch):
                part = slice(start, start + self.spec.harvest_batch)
                x_STD = model.activations(torch.from_numpy(tokens_ST[part]).to(model.device), self.hook)
                found_ND = x_STD[torch.from_numpy(kept_ST[part]).to(model.device)].float().cpu().numpy()
                x_ND[done : done + len(found_ND)] = found_ND
                done += len(found_ND)
        if not np.isfinite(x_ND).all():
            raise UserInputError(
                f"{self.hook} of {self.model.files.name} has activations that are not finite in {self.model.dtype}",
                "Use dtype: fp32 or bf16; fp16 overflows in many models.",
            )
        return x_ND

    def _splicer(self, rows: Rows) -> Splicer:
        """Return what replaces activations in the sequences of some rows."""
        assert rows.tokens_ST is not None, "only rows of the evaluation and confirm splits carry their sequences"
        assert rows.kept_ST is not None, "sequences come with their kept positions"
        assert int(rows.kept_ST.sum()) == len(rows.x_ND), "one row for each kept position"
        content = hashlib.sha256(np.ascontiguousarray(rows.tokens_ST).data)
        content.update(np.ascontiguousarray(rows.kept_ST).data)
        model = self.load()
        key = (self.fingerprint, str(model.device), content.hexdigest())
        return _splicers.get(key, model, self.hook, rows.tokens_ST, rows.kept_ST, self.spec.harvest_batch)
