"""A search problem with a known answer, for the studies alone: no training, no Ray."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from vsae_search.search.objectives import Objectives
from vsae_search.search.propose.database import open_database
from vsae_search.search.propose.plans import Plan
from vsae_search.search.propose.proposals import Proposals
from vsae_search.search.propose.studies import Studies, Told
from vsae_search.space import ChoiceRange, LogRange

OBJECTIVES = Objectives(l0=256.0, delta_ce=4.0)
LR = LogRange(low=1e-4, high=1e-1)
RANGES: dict[str, dict[str, Any]] = {
    "relu": {"lr": LR, "l1": LogRange(low=1e-2, high=1e2)},
    "topk": {"lr": LR, "k": ChoiceRange(choices=(2, 4, 8, 16, 32)), "d_sae": ChoiceRange(choices=(64, 128))},
}


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with its tables and nothing else: making them takes most of a second."""
    path: Path = tmp_path_factory.mktemp("database") / "optuna.db"
    storage = open_database(f"sqlite:///{path}")
    storage.remove_session()
    storage.engine.dispose()
    return path


def address(empty: Path, folder: Path) -> str:
    """A copy of the empty database, made when it is not there yet."""
    if not (folder / "optuna.db").exists():
        shutil.copy(empty, folder / "optuna.db")
    return f"sqlite:///{folder / 'optuna.db'}"


def plans(budget: int, startup: int, names: tuple[str, ...] = ("relu", "topk"), **more: Any) -> dict[str, Plan]:
    """Equal plans of some architectures."""
    return {name: Plan(Proposals.of(RANGES[name], seed), budget, startup, **more) for seed, name in enumerate(names)}


def outcome(params: dict[str, Any], objectives: Objectives = OBJECTIVES) -> Told:
    """The end of a trial: relu covers all sparsities, and both want a learning rate of 3e-3."""
    mistuned = math.log10(params["lr"] / 3e-3) ** 2
    l0 = float(params["k"]) if "k" in params else min(16.0 / params.get("l1", 1.0), 256.0)
    delta_ce = 2.0 * l0**-0.7 * math.exp(mistuned)
    return Told(objectives.values(l0, delta_ce), usable=True, outside=objectives.outside(l0))


def spend(studies: Studies, objectives: Objectives = OBJECTIVES, limit: int = 1000) -> list[Any]:
    """Ask, run and tell, one trial after the other, until nothing is left."""
    asked = []
    while len(asked) < limit and (one := studies.ask()) is not None:
        studies.tell(one.uid, outcome(one.params, objectives))
        asked.append(one)
    return asked
