"""Scores of random dictionaries: what a number would be if the decoder had learnt nothing.

Shapes: A alive latents, D activation width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

Score = Callable[["NDArray[np.float64]"], dict[str, float]]

MAX_DRAWS, MIN_DRAWS = 8, 2
_SEED = 20250131
_WORK = 1 << 23  # multiplications that all draws together may cost, beyond the least number of draws


def random_dictionaries(num_latents: int, dimension: int, *, num_features: int = 1) -> Iterator[NDArray[np.float64]]:
    """Yield dictionaries ``[A, D]`` of independent uniform directions, the same ones at every call.

    There are 8 of them, fewer (at least 2) when comparing them with ``num_features`` directions would be expensive.
    """
    work = max(1, num_latents * dimension * num_features)
    generator = np.random.default_rng((_SEED, num_latents, dimension))
    for _ in range(min(MAX_DRAWS, max(MIN_DRAWS, _WORK // work))):
        w_AD = generator.standard_normal((num_latents, dimension))
        yield w_AD / np.linalg.norm(w_AD, axis=1, keepdims=True)


def mean_scores(score: Score, num_latents: int, dimension: int, *, num_features: int = 1) -> dict[str, float]:
    """Return the mean of every number that ``score`` returns over the random dictionaries."""
    draws = [score(w_AD) for w_AD in random_dictionaries(num_latents, dimension, num_features=num_features)]
    return {key: float(np.mean([draw[key] for draw in draws])) for key in draws[0]}


def prefixed(scores: dict[str, float]) -> dict[str, float]:
    """Return the scores under their ``null_`` keys."""
    return {f"null_{key}": value for key, value in scores.items()}
