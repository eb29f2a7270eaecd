"""One Ray for the sweeps of a module, and databases of MLflow that are ready."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fault_helpers import facts, toy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="module")
def shared_ray() -> Iterator[None]:
    """A Ray as a sweep starts it."""
    from vsae_search.search.resources.cluster import connected
    from vsae_search.space import ResourcesSpec

    with connected(ResourcesSpec()):
        yield


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables; making them takes seconds, so it is done once and copied."""
    from vsae_search.tracking.store import RunStore, load_mlflow

    load_mlflow()
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    RunStore(f"sqlite:///{path}", "Default", "none", path.parent).close()
    return path


@pytest.fixture
def folder(tmp_path: Path, empty_mlflow: Path) -> Path:
    """A folder in which the sweep ``toy`` finds its MLflow database made, and nothing else."""
    (tmp_path / "sweeps" / "toy").mkdir(parents=True)
    shutil.copy(empty_mlflow, tmp_path / "sweeps" / "toy" / "mlflow.db")
    return tmp_path


_UNDISTURBED: list[list[tuple[object, ...]]] = []


@pytest.fixture(scope="module")
def undisturbed(shared_ray: None, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[object, ...]]:
    """What the sweep gives when nothing happens to it; run once for all modules."""
    from vsae_search.search import run_sweep

    if not _UNDISTURBED:
        root = tmp_path_factory.mktemp("undisturbed")
        run_sweep(toy(), root=root)
        _UNDISTURBED.append(facts(root / "toy"))
    return _UNDISTURBED[0]


@pytest.fixture
def finish(shared_ray: None, folder: Path) -> Callable[[], None]:
    """Go on with the sweep in this process until nothing is left to do, and record it in MLflow."""

    def run(**changes: object) -> None:
        from vsae_search.search import run_sweep
        from vsae_search.space import TrackingSpec
        from vsae_search.tracking import MlflowListener

        tracking = MlflowListener(folder / "sweeps" / "toy", TrackingSpec(), flush_period_s=0.1)
        run_sweep(toy(**changes), root=folder / "sweeps", listeners=[tracking])
        assert tracking.close().complete

    return run
