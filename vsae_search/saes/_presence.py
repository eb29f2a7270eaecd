"""Joint priors of which latents of a set are on, and the divergence of independent gates from them, in closed form.

Shapes: B batch, S sets, M latents in a set.

A prior of the gates ``g`` of one set is a mixture of a structured and an independent part,

    p(g) = (1 - ε) p_structured(g) + ε Π_i Bernoulli(g_i; α)

* correlated: all on with probability ``α``, all off otherwise;
* anticorrelated: exactly latent i on with probability ``α`` each, all off otherwise.

Every latent is on with probability ``α`` under both parts, so a set changes what goes together, not how often. The
structured part touches few states, and ``log p`` is that of the independent part, plus ``log ε``, on all others. Hence

    KL(q ‖ p) = Σ_i KL(q_i ‖ Bernoulli(α)) - log ε - Σ_s q(s) log(1 + (1 - ε) p_structured(s) / (ε Π Bernoulli(s_i; α)))

with 2 or M + 1 states ``s``, instead of a sum over 2^M.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

SetKind = Literal["correlated", "anticorrelated"]
SET_KINDS: tuple[SetKind, ...] = ("correlated", "anticorrelated")


def largest_set(kind: SetKind, alpha: float, limit: int) -> int:
    """Latents that a set may have: any number up to the limit, or as many as can take turns, ``M α <= 1``."""
    return limit if kind == "correlated" else min(limit, math.floor(1.0 / alpha + 1e-9))


def structure_correction(logit_BSM: Tensor, kind: SetKind, alpha: float, smoothing: float) -> Tensor:
    """What the joint prior of a set adds to the divergence from independent gates; negative where the set fits.

    Args:
        logit_BSM: ``logit γ`` of the gates of every set [B, S, M].
        kind: Which structured part.
        alpha: Prior probability ``α`` that a latent is on, in (0, 1); ``M α <= 1`` for ``anticorrelated``.
        smoothing: Weight ``ε`` of the independent part, in (0, 1].

    Returns:
        ``KL(q ‖ p) - Σ_i KL(q_i ‖ Bernoulli(α))`` in nats [B, S].
    """
    size = logit_BSM.shape[-1]
    log_off_BS = torch.nn.functional.logsigmoid(-logit_BSM).sum(-1)
    log_alpha, log_rest = math.log(alpha), math.log1p(-alpha)
    odds = math.log1p(-smoothing) - math.log(smoothing) if smoothing < 1 else -math.inf
    if kind == "correlated":
        log_on_BS = torch.nn.functional.logsigmoid(logit_BSM).sum(-1)
        gain_BS = log_on_BS.exp() * _log1pexp(odds + (1 - size) * log_alpha)
        none = 1.0 - alpha
    else:
        # one on, the others off: moving one gate from off to on multiplies the probability by its odds
        only_BSM = (log_off_BS.unsqueeze(-1) + logit_BSM).exp()
        gain_BS = only_BSM.sum(-1) * _log1pexp(odds + (1 - size) * log_rest)
        none = 1.0 - size * alpha
    if none > 0:
        gain_BS = gain_BS + log_off_BS.exp() * _log1pexp(odds + math.log(none) - size * log_rest)
    return -math.log(smoothing) - gain_BS


def _log1pexp(value: float) -> float:
    return max(value, 0.0) + math.log1p(math.exp(-abs(value)))
