"""Records as a sweep would make them, and MLflow stores that are ready in milliseconds."""

from __future__ import annotations

import logging
import shutil
import time
from typing import TYPE_CHECKING, Any

import pytest

from vsae_search.search import ReferenceRecord, RungRecord, SweepRecord, TrialRecord
from vsae_search.tracking.store import RunStore, load_mlflow

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlflow.tracking import MlflowClient

load_mlflow()


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with MLflow's tables; making them takes seconds, so it is done once and copied."""
    path = tmp_path_factory.mktemp("schema") / "mlflow.db"
    RunStore(f"sqlite:///{path}", "Default", "none", path.parent).close()
    return path


@pytest.fixture
def sweep_dir(tmp_path: Path, empty_database: Path) -> Path:
    """A sweep directory with a search-space file and an MLflow database that has no runs."""
    directory = tmp_path / "sweep"
    directory.mkdir()
    shutil.copy(empty_database, directory / "mlflow.db")
    (directory / "space.yaml").write_text("name: sweep  # a comment\n", encoding="utf-8")
    return directory


@pytest.fixture
def client(sweep_dir: Path) -> MlflowClient:
    """A client of the embedded store."""
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=f"sqlite:///{sweep_dir / 'mlflow.db'}")


@pytest.fixture
def sweep_record() -> SweepRecord:
    return SweepRecord(
        name="sweep",
        description="a small sweep",
        digest="d" * 64,
        space={"name": "sweep", "training": {"batch_size": 1024, "rungs": [0.5, 1.0]}, "tracking": {"uri": None}},
        seed=3,
        status="running",
        versions={"torch": "2.13.0"},
        git_commit="c" * 40,
        git_dirty=False,
        reference=ReferenceRecord(l0=64.0, delta_ce=0.5, source="measured"),
        loss_name="extra toy-model loss",
        loss_unit="nats",
        subject={"type": "toy_model"},
        bank={"key": "b" * 64, "num_rows": 1000},
        resources={"cpus_per_trial": 1.0},
        started_at="2026-01-02T03:04:05+00:00",
    )


def rung(index: int, tokens: int, **metrics: float) -> RungRecord:
    return RungRecord(index=index, fraction=(index + 1) / 2, step=tokens // 10, tokens=tokens, metrics=metrics)


@pytest.fixture
def make_trial(sweep_dir: Path) -> Callable[..., TrialRecord]:
    """A completed trial with two rungs and weights on disk; keywords change fields of the record."""

    def make(number: int = 0, **changes: Any) -> TrialRecord:
        uid = f"topk-{number:04d}"
        folder = sweep_dir / "trials" / uid
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "sae.safetensors").write_bytes(b"weights of " + uid.encode())
        (folder / "sae.json").write_text('{"architecture": "topk"}', encoding="utf-8")
        fields: dict[str, Any] = {
            "uid": uid,
            "architecture": "topk",
            "number": number,
            "params": {"d_sae": 64, "k": 4, "lr": 0.001},
            "seed": 100 + number,
            "state": "completed",
            "metrics": {"l0": 4.0 + number, "delta_ce": 0.1},
            "rungs": (rung(0, 500, l0=3.0, delta_ce=0.2), rung(1, 1000, l0=4.0 + number, delta_ce=0.1)),
            "wall_s": 2.0,
            "train_s": 1.5,
            "overhead_s": 0.5,
            "started_at": "2026-01-02T03:05:00+00:00",
            "ended_at": "2026-01-02T03:06:00+00:00",
        }
        return TrialRecord(**{**fields, **changes})

    return make


@pytest.fixture
def wait_for() -> Callable[[Callable[[], bool]], None]:
    """Wait until a condition holds, and fail when it does not within ten seconds."""

    def wait(condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 10.0
        while not condition():
            assert time.monotonic() < end, "the condition did not come true"
            time.sleep(0.01)

    return wait


@pytest.fixture
def warnings_of(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """The warnings that the room has logged so far."""
    caplog.set_level(logging.WARNING, logger="vsae_search.tracking")
    return lambda: [entry.getMessage() for entry in caplog.records if entry.name.startswith("vsae_search.tracking")]
