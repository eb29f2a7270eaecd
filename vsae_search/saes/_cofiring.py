"""Which latents fire together, or take turns: counted on recent rows, and turned into sets.

Shapes: N rows, F d_sae, P partners, L latents of a chunk.

Everything is a function of the rows and of the earlier scores: equal inputs give equal sets. Memory is O(N F), in
bytes, and O(F P); no F x F matrix is formed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vsae_search.saes._presence import SET_KINDS, SetKind, largest_set

_CHUNK_ELEMENTS = 1 << 24
_MIN_FIRED = 20
"""Rows on which both latents must have fired before their correlation is believed."""
_MIN_EXPECTED = 20
"""Rows in which two latents should have fired together by chance before their not doing so is believed."""


class LatentSet(NamedTuple):
    """Latents with a joint prior.

    Attributes:
        kind: ``correlated`` or ``anticorrelated``.
        members: Their indices.
    """

    kind: SetKind
    members: tuple[int, ...]


class Partners(NamedTuple):
    """Best partners of every latent, for each of the two kinds.

    Attributes:
        latent: Indices of partners [2, F, P].
        score: Averaged scores, at most 1 [2, F, P]; ``-inf`` where there is no partner.
    """

    latent: Tensor
    score: Tensor

    @classmethod
    def none(cls, d_sae: int, num_partners: int) -> Partners:
        """No partner for any latent yet."""
        shape = (len(SET_KINDS), d_sae, min(num_partners, max(1, d_sae - 1)))
        return cls(torch.zeros(shape, dtype=torch.long), torch.full(shape, -torch.inf))


@torch.no_grad()
def update_partners(partners: Partners, fires_NF: Tensor, memory: float) -> Partners:
    """Scores of the best partners on new rows, averaged with what they were before.

    The score is the phi coefficient for ``correlated``, and for ``anticorrelated`` the share of joint firings that
    chance would make and that are missing, ``1 - p_ij / (p_i p_j)``: the phi coefficient of two rare latents cannot
    come near -1.

    Args:
        partners: The earlier partners.
        fires_NF: Which latents fired on which row [N, F], bool.
        memory: Weight of the earlier score of a partner that has one, in [0, 1).

    Returns:
        As many partners as before; they and their scores.
    """
    num_rows, d_sae = fires_NF.shape
    count_F = fires_NF.sum(0).to(torch.float32)
    latent, score = torch.empty_like(partners.latent), torch.empty_like(partners.score)
    chunk = max(1, _CHUNK_ELEMENTS // d_sae)
    for start in range(0, d_sae, chunk):
        latents = slice(start, min(start + chunk, d_sae))
        together_LF = _counts_together(fires_NF, latents)
        for number, scores_LF in enumerate(_scores(together_LF, count_F, latents, num_rows)):
            scores_LF[:, latents].fill_diagonal_(-torch.inf)
            old_index_LP, old_score_LP = partners.latent[number, latents], partners.score[number, latents]
            now_LP = scores_LF.gather(1, old_index_LP)
            # an earlier partner that these rows say too little about keeps the score that it had
            averaged_LP = torch.where(now_LP.isfinite(), memory * old_score_LP + (1 - memory) * now_LP, old_score_LP)
            scores_LF.scatter_(1, old_index_LP, torch.where(old_score_LP.isfinite(), averaged_LP, now_LP))
            best = scores_LF.topk(latent.shape[2], dim=1)
            latent[number, latents], score[number, latents] = best.indices, best.values
    return Partners(latent, score)


def _counts_together(fires_NF: Tensor, latents: slice) -> Tensor:
    """Rows on which each latent of a slice fired together with each latent [L, F], float32 (exact up to 2^24)."""
    num_rows, d_sae = fires_NF.shape
    step = max(1, _CHUNK_ELEMENTS // d_sae)
    together_LF = torch.zeros(latents.stop - latents.start, d_sae, device=fires_NF.device)
    for start in range(0, num_rows, step):
        rows_NF = fires_NF[start : start + step].to(torch.float32)
        together_LF.addmm_(rows_NF[:, latents].T, rows_NF)
    return together_LF


def _scores(together_LF: Tensor, count_F: Tensor, latents: slice, num_rows: int) -> tuple[Tensor, Tensor]:
    """Both scores [L, F], ``-inf`` where there are too few rows to tell."""
    expected_LF = torch.outer(count_F[latents] / num_rows, count_F)
    spread_F = (count_F * (1.0 - count_F / num_rows)).sqrt()
    phi_LF = (together_LF - expected_LF) / torch.outer(spread_F[latents], spread_F)
    missing_LF = 1.0 - together_LF / expected_LF
    enough_F = count_F >= _MIN_FIRED
    known_LF = enough_F[latents, None] & enough_F & phi_LF.isfinite()
    return (
        phi_LF.masked_fill(~known_LF, -torch.inf),
        missing_LF.masked_fill(expected_LF < _MIN_EXPECTED, -torch.inf),
    )


def match_sets(partners: Partners, *, alpha: float, max_size: int, min_scores: tuple[float, float]) -> list[LatentSet]:
    """Disjoint sets, grown greedily from the best pair down, correlated ones first.

    Two groups join when *every* pair across them is good enough, and the result is not too large.

    Args:
        partners: Best partners of every latent.
        alpha: Prior probability that a latent is on, which limits how many can take turns.
        max_size: Latents in a set.
        min_scores: Least score of a correlated and of an anticorrelated pair.

    Returns:
        Sets of at least two latents; the better pair's first.
    """
    taken: set[int] = set()
    found: list[LatentSet] = []
    for number, kind in enumerate(SET_KINDS):
        pairs = _good_pairs(partners.latent[number], partners.score[number], min_scores[number], taken)
        groups = _join(pairs, largest_set(kind, alpha, max_size))
        found += [LatentSet(kind, tuple(sorted(group))) for group in groups]
        taken.update(latent for group in groups for latent in group)
    return found


def _good_pairs(index_FP: Tensor, score_FP: Tensor, least: float, taken: set[int]) -> dict[tuple[int, int], float]:
    """Pairs of free latents with a score of at least ``least``, best first."""
    latent_E, slot_E = (score_FP >= least).nonzero(as_tuple=True)
    scores: dict[tuple[int, int], float] = {}
    for first, second, score in zip(
        latent_E.tolist(), index_FP[latent_E, slot_E].tolist(), score_FP[latent_E, slot_E].tolist(), strict=True
    ):
        if first not in taken and second not in taken:
            pair = (min(first, second), max(first, second))
            scores[pair] = max(score, scores.get(pair, -1.0))
    return dict(sorted(scores.items(), key=lambda item: (-item[1], item[0])))


def _join(pairs: dict[tuple[int, int], float], max_size: int) -> list[list[int]]:
    """Groups of latents in which every pair is one of ``pairs``."""
    group_of: dict[int, list[int]] = {}
    for first, second in pairs:
        left, right = group_of.get(first, [first]), group_of.get(second, [second])
        if left is right or len(left) + len(right) > max_size:
            continue
        if all((min(a, b), max(a, b)) in pairs for a in left for b in right):
            joined = left + right
            group_of.update(dict.fromkeys(joined, joined))
    seen: set[int] = set()
    groups = []
    for first, _ in pairs:
        if first in group_of and first not in seen:
            groups.append(group_of[first])
            seen.update(group_of[first])
    return groups


@torch.no_grad()
def match_directions(W_dec_FD: Tensor, directions_MD: Tensor, min_cosine: float) -> dict[int, int]:
    """One latent for each true feature, the closest pairs first.

    Args:
        W_dec_FD: Decoder rows [F, D].
        directions_MD: True unit directions [M, D].
        min_cosine: Pairs less similar than this are not matched.

    Returns:
        Latent by feature, for the features that have one.
    """
    unit_FD = torch.nn.functional.normalize(W_dec_FD.to(torch.float32), dim=1)
    cosine_MF = directions_MD.to(unit_FD) @ unit_FD.T
    latents: dict[int, int] = {}
    order = cosine_MF.flatten().argsort(descending=True, stable=True)
    for position in order[: int((cosine_MF >= min_cosine).sum())].tolist():
        feature, latent = divmod(position, cosine_MF.shape[1])
        if feature not in latents and latent not in latents.values():
            latents[feature] = latent
    return latents
