"""Optuna without its notices on the terminal."""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

from optuna.exceptions import ExperimentalWarning

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna's notices about experimental features and its log lines off the terminal, for these calls only.

    Filters of warnings belong to the process, so this is for the driver's loop and not for its threads.
    """
    logger = logging.getLogger("optuna")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    finally:
        logger.setLevel(level)
