"""What a worker is told to run; apart from the studies, so that workers need no Optuna."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Assignment:
    """One trial to run.

    Attributes:
        uid: Stable name of the trial, kept by its later attempts.
        architecture: Registered name.
        number: Position among the trials of the architecture, from 0.
        params: Hyper-parameters, constants included.
        seed: Training seed.
        attempt: 0, or how many attempts were lost to the infrastructure before.
    """

    uid: str
    architecture: str
    number: int
    params: dict[str, Any]
    seed: int
    attempt: int
