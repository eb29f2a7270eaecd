"""Losses of the last steps, kept on the device until somebody looks, and the guard against non-finite values."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from vsae_search.errors import Diverged
from vsae_search.training.schedule import REPORT_STEPS

if TYPE_CHECKING:
    from torch import Tensor

    from vsae_search.saes import Loss

_HINT = "lower the upper end of lr, or raise lr_warmup_fraction"


class Meter:
    """Means of every loss term and of the gradient norm between two rungs.

    Each step writes one row of a small table on the device; :meth:`flush` reads the table, once per reporting step.

    Attributes:
        sums: Sum of each term since the last rung, by name; ``grad_norm`` is one of them.
        count: Steps in the sums.
        recent_sums: The same since the last point of the training curve.
        recent_count: Steps in these.
    """

    def __init__(self, subject: str) -> None:
        self.sums: dict[str, float] = {}
        self.count = 0
        self.recent_sums: dict[str, float] = {}
        self.recent_count = 0
        self._subject = subject
        self._names: tuple[str, ...] = ()
        self._table: Tensor | None = None
        self._filled = 0

    @torch.no_grad()
    def add(self, loss: Loss, grad_norm: Tensor | None) -> None:
        """Note one step; never waits for the device."""
        terms = [loss.total, loss.reconstruction, *loss.penalties.values()]
        terms.append(torch.zeros_like(loss.total) if grad_norm is None else grad_norm)
        if self._table is None:
            self._names = ("total", "reconstruction", *loss.penalties, "grad_norm")
            self._table = torch.zeros(REPORT_STEPS, len(terms), dtype=loss.total.dtype, device=loss.total.device)
        torch.stack(terms, out=self._table[self._filled])
        self._filled += 1

    def flush(self, step: int) -> None:
        """Move the table into the sums.

        Args:
            step: Steps done so far, the last row of the table being the latest.

        Raises:
            Diverged: A term was not finite; names the term and the first such step.
        """
        if self._table is None or self._filled == 0:
            return
        rows: list[list[float]] = self._table[: self._filled].double().tolist()
        first = step - self._filled + 1
        for offset, row in enumerate(rows):
            for name, value in zip(self._names, row, strict=True):
                # `total` contains every other term: the cause is named in preference to the sum
                if not math.isfinite(value) and (name != "total" or all(map(math.isfinite, row[1:]))):
                    raise Diverged(f"{self._subject}: {name} became {value} at step {first + offset}", _HINT)
                self.sums[name] = self.sums.get(name, 0.0) + value
                self.recent_sums[name] = self.recent_sums.get(name, 0.0) + value
        self.count += self._filled
        self.recent_count += self._filled
        self._filled = 0

    def take(self) -> dict[str, float]:
        """Means since the last call, by name, and start again."""
        means = {name: total / max(1, self.count) for name, total in self.sums.items()}
        self.sums, self.count = {}, 0
        return means

    def take_recent(self) -> dict[str, float]:
        """The same for the training curve."""
        means = {name: total / max(1, self.recent_count) for name, total in self.recent_sums.items()}
        self.recent_sums, self.recent_count = {}, 0
        return means


def check_weights(weights: dict[str, Tensor], subject: str, step: int) -> None:
    """Refuse weights that are not finite.

    Raises:
        Diverged: Names the first parameter that holds a NaN or an infinity.
    """
    for name, weight in weights.items():
        if not bool(torch.isfinite(weight).all()):
            raise Diverged(f"{subject}: {name} is not finite after step {step}", _HINT)
