"""Cross-entropy and Kullback-Leibler divergence from what comes out of the last LayerNorm, a few tokens at a time.

All logits of 100 000 tokens and a vocabulary of 50 000 would take 20 GB; a chunk of them takes some megabytes.

Shapes: S sequences, T positions, R residual stream, N scored positions, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from vsae_search.subjects.language_model.base import CausalModel

_CHUNK_NUMBERS = {"cpu": 1 << 20, "cuda": 1 << 26}  # of one [N, V] tensor of logits; on a CPU it stays in a cache
_MIN_ROWS = 256  # below this, reading the unembedding takes longer than multiplying with it


def cross_entropy(model: CausalModel, final_STR: Tensor, tokens_ST: Tensor, kept_ST: Tensor) -> Tensor:
    """Return the mean loss of each sequence.

    Args:
        model: Supplies the logits.
        final_STR: What comes out of the last LayerNorm.
        tokens_ST: Tokens; position t predicts token t + 1.
        kept_ST: Positions whose prediction is scored; at least one before the last, from which nothing is predicted.

    Returns:
        Nats per prediction, float64 [S].
    """
    found = []
    for final_NR, target_N in _chunks(model, final_STR, tokens_ST, kept_ST):
        logits_NV = model.logits(final_NR)
        found.append(_surprise(logits_NV, logits_NV.logsumexp(dim=-1), target_N))
    return _by_sequence(torch.cat(found), kept_ST)


def cross_entropy_and_kl(
    model: CausalModel, final_STR: Tensor, reference_STR: Tensor, tokens_ST: Tensor, kept_ST: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the mean loss of each sequence, and its mean KL(reference || this), both in nats, float64 [S].

    Args:
        model: Supplies the logits.
        final_STR: What comes out of the last LayerNorm.
        reference_STR: The same for the predictions to compare with.
        tokens_ST: Tokens.
        kept_ST: Positions whose prediction is scored.
    """
    losses, divergences = [], []
    pairs = zip(
        _chunks(model, final_STR, tokens_ST, kept_ST),
        _chunks(model, reference_STR, tokens_ST, kept_ST),
        strict=True,
    )
    for (final_NR, target_N), (reference_NR, _) in pairs:
        logits_NV = model.logits(final_NR)
        normaliser_N = logits_NV.logsumexp(dim=-1)
        losses.append(_surprise(logits_NV, normaliser_N, target_N))
        log_p_NV = model.logits(reference_NR)
        log_p_NV -= log_p_NV.logsumexp(dim=-1, keepdim=True)  # as for q, so that equal predictions differ by exactly 0
        difference_NV = logits_NV.sub_(normaliser_N[:, None]).neg_().add_(log_p_NV)  # in place: memory is what costs
        divergences.append(torch.linalg.vecdot(log_p_NV.exp_(), difference_NV))
    return _by_sequence(torch.cat(losses), kept_ST), _by_sequence(torch.cat(divergences), kept_ST)


def _surprise(logits_NV: Tensor, normaliser_N: Tensor, target_N: Tensor) -> Tensor:
    """Return -log q(target); both functions above go through here, so that they agree to the last bit."""
    return normaliser_N - logits_NV.gather(1, target_N[:, None])[:, 0]


def _chunks(
    model: CausalModel, final_STR: Tensor, tokens_ST: Tensor, kept_ST: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield scored positions and the tokens that follow them, a few at a time, in order."""
    final_NR, target_N = final_STR[:, :-1][kept_ST[:, :-1]], tokens_ST[:, 1:][kept_ST[:, :-1]]
    rows = max(_MIN_ROWS, _CHUNK_NUMBERS[final_STR.device.type] // model.d_vocab)
    yield from zip(torch.split(final_NR, rows), torch.split(target_N, rows), strict=True)


def _by_sequence(value_N: Tensor, kept_ST: Tensor) -> Tensor:
    """Return the mean over the scored positions of each sequence, in float64 and in a fixed order on every device."""
    scored_ST = kept_ST[:, :-1]
    value_ST = torch.zeros(scored_ST.shape, dtype=torch.float64, device=value_N.device)
    value_ST[scored_ST] = value_N.double()
    return value_ST.sum(dim=1) / scored_ST.sum(dim=1)
