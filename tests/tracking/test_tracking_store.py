from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from vsae_search.tracking.content import Content, Point
from vsae_search.tracking.store import MAX_METRICS, RunStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mlflow.tracking import MlflowClient


@pytest.fixture
def store(sweep_dir: Path) -> Iterator[RunStore]:
    made = open_store(sweep_dir)
    yield made
    made.close()


def open_store(sweep_dir: Path, name: str = "experiment") -> RunStore:
    return RunStore(f"sqlite:///{sweep_dir / 'mlflow.db'}", name, "sweep-id", sweep_dir / "mlartifacts")


def test_runs_are_found_again(store: RunStore, sweep_dir: Path) -> None:
    run = store.trial("a", "sweep", 5)
    other = open_store(sweep_dir)
    assert other.trial("a", "sweep", 9).run_id == run.run_id
    assert other.parent("sweep").run_id == store.parent("sweep").run_id
    assert other.trial("b", "sweep", 9).run_id != run.run_id
    other.close()


def test_another_sweep_with_the_same_uids_has_its_own_runs(store: RunStore, sweep_dir: Path) -> None:
    uri = f"sqlite:///{sweep_dir / 'mlflow.db'}"
    other = RunStore(uri, "experiment", "another-id", sweep_dir)
    assert other.trial("a", "sweep", 1).run_id != store.trial("a", "sweep", 1).run_id
    other.close()


def test_of_twins_the_one_with_data_stays(store: RunStore, sweep_dir: Path, client: MlflowClient) -> None:
    run = store.trial("a", "sweep", 1)
    store.write(run, Content(points=[Point("x", 1.0, 1, 0)]))
    for start in (0, 2):
        client.create_run(store.experiment_id, start_time=start, tags=run.tags)
    other = open_store(sweep_dir)
    assert other.trial("a", "sweep", 9).run_id == run.run_id
    assert len(client.search_runs([store.experiment_id], "tags.`vsae.trial_uid` = 'a'")) == 1
    other.close()


def test_the_first_value_of_a_step_and_of_a_parameter_stays(
    store: RunStore, sweep_dir: Path, client: MlflowClient
) -> None:
    run = store.trial("a", "sweep", 1)
    store.write(run, Content({"k": "4"}, {"t": "1"}, [Point("x", 1.0, 10, 5), Point("x", 1.5, 11, 5)]))
    store.write(run, Content({"k": "5"}, {"t": "2"}, [Point("x", 2.0, 20, 5), Point("x", 3.0, 20, 6)]))
    other = open_store(sweep_dir)
    again = other.trial("a", "sweep", 1)
    other.write(again, Content({"k": "6"}, {"t": "3"}, [Point("x", 4.0, 30, 5), Point("y", 5.0, 30, 5)]))
    other.close()
    points = [(point.step, point.value) for point in client.get_metric_history(run.run_id, "x")]
    assert sorted(points) == [(5, 1.0), (6, 3.0)]
    data = client.get_run(run.run_id).data
    assert data.params == {"k": "4"}
    assert data.tags["t"] == "3"
    assert data.metrics["y"] == 5.0


def test_more_than_mlflow_takes_at_once(store: RunStore, client: MlflowClient) -> None:
    run = store.trial("a", "sweep", 1)
    points = [Point("x", float(step), step, step) for step in range(MAX_METRICS + 5)]
    names = {f"p{number}": str(number) for number in range(150)}
    store.write(run, Content(params=names, tags=names, points=points))
    assert len(client.get_metric_history(run.run_id, "x")) == MAX_METRICS + 5
    data = client.get_run(run.run_id).data
    assert data.params == names
    assert {key: value for key, value in data.tags.items() if key in names} == names


def test_an_ended_run_runs_again(store: RunStore, sweep_dir: Path, client: MlflowClient) -> None:
    run = store.trial("a", "sweep", 1)
    store.set_status(run, "KILLED", 7)
    assert client.get_run(run.run_id).info.status == "KILLED"
    assert client.get_run(run.run_id).info.end_time == 7
    other = open_store(sweep_dir)
    other.set_status(other.trial("a", "sweep", 1), "RUNNING")
    assert client.get_run(run.run_id).info.status == "RUNNING"
    other.close()


def test_a_deleted_experiment_is_said(store: RunStore, sweep_dir: Path, client: MlflowClient) -> None:
    client.delete_experiment(store.experiment_id)
    with pytest.raises(RuntimeError, match="has been deleted"):
        open_store(sweep_dir)


def test_artifacts_of_a_database_lie_in_the_sweep_directory(store: RunStore, sweep_dir: Path) -> None:
    folder = (sweep_dir / "mlartifacts").resolve().as_uri()
    assert store.trial("a", "sweep", 1).artifact_uri.startswith(folder)
