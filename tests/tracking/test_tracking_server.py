"""A tracking server over HTTP that fails in every way: down at the start, down in the middle, answers lost."""

from __future__ import annotations

import logging
import threading
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from vsae_search.space import TrackingSpec
from vsae_search.tracking import MlflowListener, read_run_index

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mlflow.entities import Run

    from vsae_search.search import SweepRecord, TrialRecord

DOWN = b"the server is being restarted"


class Outages:
    """Stands before MLflow's own server application and fails on demand."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.address = ""
        self.down = False
        self.requests = 0
        self.lose_answers_to = ""
        self.lost = 0

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        self.requests += 1
        if self.down:
            return self._unavailable(start)
        if self.lose_answers_to and environ["PATH_INFO"].endswith(self.lose_answers_to):
            self.lost += 1
            if self.lost % 2:  # the request is carried out, its answer is lost on the way
                list(self.app(environ, lambda *_: None))
                return self._unavailable(start)
        return self.app(environ, start)  # type: ignore[no-any-return]

    def _unavailable(self, start: Callable[..., Any]) -> Iterable[bytes]:
        start("503 Service Unavailable", [("Content-Type", "text/plain"), ("Retry-After", "3600")])
        return [DOWN]


@pytest.fixture(scope="module")
def running_server(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Outages]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "server.db").write_bytes(empty_database.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("_MLFLOW_SERVER_FILE_STORE", f"sqlite:///{folder / 'server.db'}")
        patch.setenv("_MLFLOW_SERVER_ARTIFACT_ROOT", "mlflow-artifacts:/")
        patch.setenv("_MLFLOW_SERVER_ARTIFACT_DESTINATION", (folder / "artifacts").as_uri())
        patch.setenv("_MLFLOW_SERVER_SERVE_ARTIFACTS", "true")
        with warnings.catch_warnings():  # MLflow's server imports a deprecated part of starlette
            warnings.filterwarnings("ignore", message="starlette.middleware.wsgi is deprecated")
            import mlflow.server.fastapi_app  # noqa: F401
        from mlflow.server import app
        from werkzeug.serving import make_server

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        outages = Outages(app)
        server = make_server("127.0.0.1", 0, outages, threaded=True)
        outages.address = f"http://127.0.0.1:{server.port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield outages
        server.shutdown()
        thread.join(10)
        server.server_close()


@pytest.fixture
def server(running_server: Outages, monkeypatch: pytest.MonkeyPatch) -> Outages:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "0")
    running_server.down, running_server.lose_answers_to, running_server.lost = False, "", 0
    return running_server


@pytest.fixture
def listen(sweep_dir: Path, server: Outages, request: pytest.FixtureRequest) -> Callable[[], MlflowListener]:
    spec = TrackingSpec(uri=server.address, experiment=request.node.name)
    return lambda: MlflowListener(sweep_dir, spec, flush_period_s=0.05)


@pytest.fixture
def runs(server: Outages, request: pytest.FixtureRequest) -> Callable[[str], list[Run]]:
    """The runs of this test's experiment, by kind."""
    from mlflow.tracking import MlflowClient

    def find(kind: str) -> list[Run]:
        client = MlflowClient(tracking_uri=server.address)
        experiment = client.get_experiment_by_name(request.node.name)
        found = list(client.search_runs([experiment.experiment_id]))
        return [run for run in found if kind == ("trial" if "vsae.trial_uid" in run.data.tags else "sweep")]

    return find


def play(tracking: MlflowListener, record: SweepRecord, trials: list[TrialRecord]) -> None:
    tracking.on_sweep_start(record)
    for trial in trials:
        tracking.on_trial_start(trial.uid, trial.architecture, trial.params)
        for rung in trial.rungs:
            tracking.on_rung(trial.uid, rung)
        tracking.on_trial_end(trial)
    tracking.on_sweep_end(record.model_copy(update={"status": "completed"}))


def check(runs: Callable[[str], list[Run]], trials: list[TrialRecord], address: str) -> None:
    """Exactly one finished run per trial, each metric once per step."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=address)
    found = runs("trial")
    assert sorted(run.data.tags["vsae.trial_uid"] for run in found) == [trial.uid for trial in trials]
    by_uid = {run.data.tags["vsae.trial_uid"]: run for run in found}
    assert len(runs("sweep")) == 1
    for trial in trials:
        run = by_uid[trial.uid]
        assert run.info.status == "FINISHED"
        assert {key: run.data.metrics[key] for key in trial.metrics} == trial.metrics
        curve = [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, "rung/l0")]
        assert sorted(curve) == [(rung.tokens, rung.metrics["l0"]) for rung in trial.rungs]


def test_a_server_gets_runs_artifacts_and_links(
    server: Outages,
    listen: Callable[[], MlflowListener],
    runs: Callable[[str], list[Run]],
    sweep_record: SweepRecord,
    make_trial: Callable[..., TrialRecord],
    sweep_dir: Path,
) -> None:
    from mlflow.tracking import MlflowClient

    trials = [make_trial(0), make_trial(1)]
    tracking = listen()
    play(tracking, sweep_record, trials)
    assert tracking.close().complete
    check(runs, trials, server.address)
    run = next(run for run in runs("trial") if run.info.run_name == "topk-0000")
    items = MlflowClient(tracking_uri=server.address).list_artifacts(run.info.run_id)
    assert {item.path for item in items} == {"sae.safetensors", "sae.json"}
    link = f"{server.address}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    assert tracking.run_url("topk-0000") == link
    assert tracking.run_url("topk-0009") is None
    index = read_run_index(sweep_dir)
    assert index is not None
    assert tracking.tracking_url == index.tracking_url
    assert index.sweep == runs("sweep")[0].info.run_id


def test_down_at_the_start_costs_nothing_and_the_next_start_makes_up(
    server: Outages,
    listen: Callable[[], MlflowListener],
    runs: Callable[[str], list[Run]],
    sweep_record: SweepRecord,
    make_trial: Callable[..., TrialRecord],
    warnings_of: Callable[[], list[str]],
) -> None:
    server.down = True
    trials = [make_trial(0), make_trial(1)]
    tracking = listen()
    start = time.monotonic()
    play(tracking, sweep_record, trials)
    status = tracking.close()
    assert time.monotonic() - start < 10
    assert status.pending == 10
    assert status.delivered == 0
    assert "503" in (status.last_error or "")
    assert len([line for line in warnings_of() if "cannot be reached" in line]) == 1
    assert [line for line in warnings_of() if line.startswith("10 events have not reached MLflow")]
    server.down = False
    again = listen()
    again.on_sweep_start(sweep_record)
    for trial in trials:
        again.on_trial_end(trial)
    again.on_sweep_end(sweep_record.model_copy(update={"status": "completed"}))
    assert again.close().complete
    check(runs, trials, server.address)


def test_a_report_waits_for_the_server_and_is_there_once(
    server: Outages,
    listen: Callable[[], MlflowListener],
    runs: Callable[[str], list[Run]],
    sweep_record: SweepRecord,
    tmp_path: Path,
) -> None:
    from mlflow.tracking import MlflowClient

    tracking = listen()
    play(tracking, sweep_record, [])
    assert tracking.close().complete
    page = tmp_path / "report.html"
    page.write_text("<html>first</html>", encoding="utf-8")
    server.down = True
    first = listen()
    first.log_report("sweep", (page,))
    assert first.close().pending == 1
    server.down = False
    page.write_text("<html>second</html>", encoding="utf-8")
    second = listen()
    second.log_report("sweep", (page,))
    assert second.close().complete
    (run,) = runs("sweep")
    client = MlflowClient(tracking_uri=server.address)
    (item,) = client.list_artifacts(run.info.run_id, "report")
    copy = client.download_artifacts(run.info.run_id, item.path, str(tmp_path))
    assert "second" in Path(copy).read_text(encoding="utf-8")


def test_down_in_the_middle_is_made_up_for_when_it_is_back(
    server: Outages,
    listen: Callable[[], MlflowListener],
    runs: Callable[[str], list[Run]],
    sweep_record: SweepRecord,
    make_trial: Callable[..., TrialRecord],
    wait_for: Callable[[Callable[[], bool]], None],
) -> None:
    first, second = make_trial(0), make_trial(1)
    tracking = listen()
    tracking.on_sweep_start(sweep_record)
    tracking.on_trial_start(first.uid, first.architecture, first.params)
    tracking.on_rung(first.uid, first.rungs[0])
    wait_for(lambda: tracking.status.pending == 0)
    server.down = True
    tracking.on_rung(first.uid, first.rungs[1])
    tracking.on_trial_end(first)
    wait_for(lambda: tracking.status.last_error is not None)
    tracking.on_trial_start(second.uid, second.architecture, second.params)
    tracking.on_trial_end(second)
    server.down = False
    wait_for(lambda: tracking.status.pending == 0)
    tracking.on_sweep_end(sweep_record.model_copy(update={"status": "completed"}))
    status = tracking.close()
    assert status.complete
    assert status.last_error is None
    check(runs, [first, second], server.address)


@pytest.mark.parametrize("path", ["/runs/create", "/runs/log-batch", "/runs/update"])
def test_a_lost_answer_doubles_nothing(
    server: Outages,
    listen: Callable[[], MlflowListener],
    runs: Callable[[str], list[Run]],
    sweep_record: SweepRecord,
    make_trial: Callable[..., TrialRecord],
    path: str,
) -> None:
    server.lose_answers_to = path
    trials = [make_trial(0), make_trial(1)]
    tracking = listen()
    play(tracking, sweep_record, trials)
    assert tracking.close().complete
    assert server.lost > 2
    check(runs, trials, server.address)


def test_a_lost_answer_without_retries_doubles_nothing(
    server: Outages,
    listen: Callable[[], MlflowListener],
    runs: Callable[[str], list[Run]],
    sweep_record: SweepRecord,
    make_trial: Callable[..., TrialRecord],
    wait_for: Callable[[Callable[[], bool]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    server.lose_answers_to = "/runs/create"
    trials = [make_trial(0), make_trial(1)]
    tracking = listen()
    play(tracking, sweep_record, trials)
    wait_for(lambda: tracking.status.pending == 0)
    assert tracking.close().complete
    check(runs, trials, server.address)


def test_a_closed_port(
    server: Outages, sweep_dir: Path, sweep_record: SweepRecord, make_trial: Callable[..., TrialRecord]
) -> None:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    spec = TrackingSpec.model_construct(uri=f"http://me:canary@127.0.0.1:{port}")
    tracking = MlflowListener(sweep_dir, spec, flush_period_s=0.05)
    start = time.monotonic()
    play(tracking, sweep_record, [make_trial()])
    assert time.monotonic() - start < 2, "an outage was felt by the sweep"
    status = tracking.close(timeout_s=10)
    assert time.monotonic() - start < 12
    assert status.pending == 6
    assert status.uri == f"http://me:***@127.0.0.1:{port}"
    assert "canary" not in (status.last_error or "")
    assert tracking.run_url("topk-0000") is None


def test_a_server_that_names_a_local_folder_gets_no_weights(
    server: Outages,
    listen: Callable[[], MlflowListener],
    runs: Callable[[str], list[Run]],
    sweep_record: SweepRecord,
    make_trial: Callable[..., TrialRecord],
    tmp_path: Path,
    request: pytest.FixtureRequest,
    warnings_of: Callable[[], list[str]],
) -> None:
    from mlflow.tracking import MlflowClient

    chosen = tmp_path / "chosen-by-the-server"
    MlflowClient(tracking_uri=server.address).create_experiment(request.node.name, artifact_location=chosen.as_uri())
    trials = [make_trial()]
    tracking = listen()
    play(tracking, sweep_record, trials)
    status = tracking.close()
    check(runs, trials, server.address)
    assert not chosen.exists()
    assert (status.pending, status.rejected) == (0, 2)
    assert [line for line in warnings_of() if "--serve-artifacts" in line]
