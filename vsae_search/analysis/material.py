"""What all analyses of one autoencoder share: its rows, codes, directions, and the autoencoders it is held against.

Shapes: N rows, D activation width, F latents, A alive latents.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from vsae_search.analysis.cosines import unit_rows
from vsae_search.analysis.passages import Places
from vsae_search.analysis.reading import read
from vsae_search.errors import UserInputError
from vsae_search.space import SearchSpace
from vsae_search.subjects import build_subject
from vsae_search.subjects.language_model.positions import explained
from vsae_search.subjects.language_model.subject import LanguageModel

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from vsae_search.analysis.choose import Trained
    from vsae_search.analysis.reading import Reading
    from vsae_search.saes import SparseAutoencoder
    from vsae_search.subjects import Rows, Split, Subject

DEFAULT_ROWS = 100_000
STRATA, PER_STRATUM = 5, 5
NORM_GROUPS, POSITION_GROUPS = 10, 8
_SPLIT: Split = "evaluation"


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        trained: The autoencoder.
        against: Others that it is compared with.
        features: Latents to show one by one; empty for the default choice.
        num_rows: Rows to read; None for up to ``DEFAULT_ROWS``, as far as the text reaches.
        seed: Seed of everything that is drawn.
    """

    trained: Trained
    against: tuple[Trained, ...] = ()
    features: tuple[int, ...] = ()
    num_rows: int | None = None
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Dictionary:
    """The directions of an autoencoder.

    Attributes:
        name: ``SWEEP/UID``.
        d_sae: Number of latents.
        unit_FD: Unit decoder rows, float32.
        norm_F: Their norms before.
        alive_A: Latents that fired on the evaluation rows of their sweep, and have a direction.
    """

    name: str
    d_sae: int
    unit_FD: NDArray[np.float32]
    norm_F: NDArray[np.float32]
    alive_A: NDArray[np.int64]

    @cached_property
    def alive_AD(self) -> NDArray[np.float32]:
        """Unit decoder rows of the alive latents."""
        return self.unit_FD[self.alive_A]


@dataclass(frozen=True, eq=False)
class Material:
    """What analyses work with.

    Attributes:
        request: What was asked for.
        subject: What is explained.
        places: Where each row stands in the text; there may be more rows than were read. None without a text.
        reading: What the pass over them has seen.
        own: The directions of the autoencoder.
        others: Those of the others.
        align_F: Cosine between the encoder column and the decoder row of each latent; NaN where one is zero.
        features: Latents that are shown one by one.
        choice: How these were chosen, in words.
        notes: What the reader must know.
    """

    request: Request
    subject: Subject
    places: Places | None
    reading: Reading
    own: Dictionary
    others: tuple[Dictionary, ...]
    align_F: NDArray[np.float32]
    features: tuple[int, ...]
    choice: str
    notes: tuple[str, ...]

    @property
    def num_rows(self) -> int:
        """Rows that were read."""
        return self.reading.codes.num_rows

    @property
    def seed(self) -> int:
        """Seed of everything that is drawn."""
        return self.request.seed


def gather(request: Request, cache: Path) -> Material:
    """Build the subject and read its rows: :func:`collect` for a sweep as it lies on disk.

    Args:
        request: What is asked for.
        cache: Where trained toy models and tokens are kept.

    Raises:
        UserInputError: A feature does not exist, the text is too short, or an autoencoder of another width is given.
        EnvironmentNotReady: The model or its text cannot be fetched.
        CorruptFile: A stored file is damaged.
    """
    _require_features(request.features, request.trained.load().config.d_sae)  # before anything that takes long
    return collect(request, build_subject(SearchSpace.model_validate(request.trained.sweep.space).subject, cache))


def collect(request: Request, subject: Subject) -> Material:
    """Harvest rows of the evaluation split, and run them through the autoencoder once.

    Args:
        request: What is asked for.
        subject: What is explained.

    Raises:
        UserInputError: A feature does not exist, the text is too short, or an autoencoder of another width is given.
        CorruptFile: A stored file is damaged.
    """
    trained = request.trained
    sae = trained.load()
    _require_features(request.features, sae.config.d_sae)
    others = tuple(_require_width(_dictionary(other, other.load()), sae, trained.name) for other in request.against)
    own = _dictionary(trained, sae)
    notes = list(_same_subject(trained, subject))
    rows = subject.harvest(0, _how_many(request, subject), _SPLIT)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    reading = read(
        sae.to(device),
        rows,
        scale=float(trained.sweep.bank["scale"]),
        subject=subject,
        groupings=_groupings(rows),
    )
    if reading.codes.num_rows < len(rows.x_ND):
        notes.append(f"The code is dense: only the first {reading.codes.num_rows} of {len(rows.x_ND)} rows were read.")
    features, choice = _choose_features(request, reading)
    places = None
    if rows.tokens_ST is not None and rows.kept_ST is not None:
        places = Places.of(rows.tokens_ST, rows.kept_ST)
    return Material(
        request, subject, places, reading, own, others, _alignment(sae, own), features, choice, tuple(notes)
    )


def choose_features(density_F: NDArray[np.float64], seed: int) -> tuple[int, ...]:
    """Draw latents from every level of density: the firing latents in five equal parts by density, five from each.

    Args:
        density_F: Share of rows on which each latent fires.
        seed: Seed of the draw.
    """
    firing = np.flatnonzero(density_F > 0)
    ordered = firing[np.argsort(density_F[firing], kind="stable")]
    generator = np.random.default_rng([seed, 5])
    drawn = [
        generator.choice(part, size=min(PER_STRATUM, len(part)), replace=False)
        for part in np.array_split(ordered, STRATA)
        if len(part)
    ]
    return tuple(int(latent) for latent in np.sort(np.concatenate(drawn))) if drawn else ()


def _choose_features(request: Request, reading: Reading) -> tuple[tuple[int, ...], str]:
    if request.features:
        return request.features, "as asked for"
    density_F = reading.codes.fired_F / reading.codes.num_rows
    words = f"{PER_STRATUM} drawn at random (seed {request.seed}) from each fifth of the firing latents by density"
    return choose_features(density_F, request.seed), words


def _require_features(features: Sequence[int], d_sae: int) -> None:
    wrong = [latent for latent in features if not 0 <= latent < d_sae]
    if wrong:
        raise UserInputError(
            f"There is no latent {', '.join(map(str, wrong[:5]))}: the autoencoder has {d_sae}.",
            f"Latents are numbered from 0 to {d_sae - 1}.",
        )


def _require_width(other: Dictionary, sae: SparseAutoencoder, name: str) -> Dictionary:
    if other.unit_FD.shape[1] != sae.config.d_in:
        raise UserInputError(
            f"{other.name} explains activations of width {other.unit_FD.shape[1]}, {name} of width {sae.config.d_in}.",
            "Compare autoencoders of the same activation.",
        )
    return other


def _dictionary(trained: Trained, sae: SparseAutoencoder) -> Dictionary:
    unit_FD, norm_F = unit_rows(sae.W_dec.detach().float().cpu().numpy())
    density_F = trained.density()
    alive_F = norm_F > 0 if density_F is None else (density_F > 0) & (norm_F > 0)
    return Dictionary(trained.name, len(norm_F), unit_FD, norm_F, np.flatnonzero(alive_F))


def _alignment(sae: SparseAutoencoder, own: Dictionary) -> NDArray[np.float32]:
    encoder_FD, norm_F = unit_rows(sae.W_enc.detach().float().cpu().numpy().T)
    cosine_F = np.einsum("fd,fd->f", encoder_FD, own.unit_FD)
    return np.where((norm_F > 0) & (own.norm_F > 0), cosine_F, np.nan).astype(np.float32)


def _same_subject(trained: Trained, subject: Subject) -> list[str]:
    recorded = trained.sweep.bank.get("subject")
    if recorded in (None, subject.fingerprint):
        return []
    return [
        "The subject is not exactly that of the sweep (another version of a library, or a changed model or text), so "
        "numbers may differ from the recorded ones."
    ]


def _how_many(request: Request, subject: Subject) -> int:
    """Rows to harvest: what was asked for, or up to the default, as far as the text of the split reaches."""
    if request.num_rows is not None:
        return request.num_rows
    if not isinstance(subject, LanguageModel):
        return DEFAULT_ROWS
    wanted = math.ceil(DEFAULT_ROWS / subject.rows_per_sequence * 1.05)
    found = subject.text.available(_SPLIT, wanted)
    if found == wanted:
        return DEFAULT_ROWS
    tokens_ST = subject.text.sequences(_SPLIT, 0, found)
    explained_rows = int(explained(tokens_ST, subject.special_ids).sum())
    # the harvest asks for sequences by their mean number of rows: two sequences are left as a reserve
    most = min(explained_rows, int(found * subject.rows_per_sequence)) - 2 * subject.spec.context_length
    return max(1, min(DEFAULT_ROWS, most))


def _groupings(rows: Rows) -> dict[str, NDArray[np.int64]]:
    """Tenths of the rows by norm, and, where there is a text, eighths of the sequence by position."""
    norm_N = np.einsum("nd,nd->n", rows.x_ND, rows.x_ND)
    rank_N = np.empty(len(norm_N), dtype=np.int64)
    rank_N[np.argsort(norm_N, kind="stable")] = np.arange(len(norm_N))
    found = {"norm": rank_N * NORM_GROUPS // max(1, len(norm_N))}
    if rows.kept_ST is not None:
        position_N = np.nonzero(rows.kept_ST)[1]
        found["position"] = position_N * POSITION_GROUPS // rows.kept_ST.shape[1]
    return found
