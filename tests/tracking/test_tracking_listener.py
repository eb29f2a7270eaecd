"""A whole sweep through the listener into a real SQLite store."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vsae_search.errors import UserInputError
from vsae_search.space import TrackingSpec
from vsae_search.tracking import MlflowListener, read_run_index

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

    from vsae_search.search import SweepRecord, TrialRecord


def listener(directory: Path, **spec: object) -> MlflowListener:
    return MlflowListener(directory, TrackingSpec(**spec), flush_period_s=0.05)


def play(tracking: MlflowListener, record: SweepRecord, trials: list[TrialRecord], status: str = "completed") -> None:
    tracking.on_sweep_start(record)
    for trial in trials:
        tracking.on_trial_start(trial.uid, trial.architecture, trial.params)
        for rung in trial.rungs:
            tracking.on_rung(trial.uid, rung)
        tracking.on_trial_end(trial)
    tracking.on_sweep_end(record.model_copy(update={"status": status, "ended_at": "2026-01-02T04:00:00+00:00"}))


def runs_of(client: MlflowClient, query: str = "tags.`vsae.kind` = 'trial'") -> dict[str, Run]:
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, query)
    named = {run.info.run_name: run for run in runs}
    assert len(named) == len(runs), "two runs of one name"
    return named


def history(client: MlflowClient, run: Run) -> dict[tuple[str, int], float]:
    points = [metric for key in run.data.metrics for metric in client.get_metric_history(run.info.run_id, key)]
    found = {(metric.key, metric.step): metric.value for metric in points}
    assert len(found) == len(points), "a metric has two values at one step"
    return found


def test_one_finished_run_per_trial(
    sweep_dir: Path, client: MlflowClient, sweep_record: SweepRecord, make_trial: Callable[..., TrialRecord]
) -> None:
    trials = [make_trial(0), make_trial(1)]
    tracking = listener(sweep_dir)
    play(tracking, sweep_record, trials)
    status = tracking.close()
    assert status.complete
    assert status.last_error is None
    assert status.delivered == 2 + 2 * 4
    runs = runs_of(client)
    assert sorted(runs) == ["topk-0000", "topk-0001"]
    parent = runs_of(client, "tags.`vsae.kind` = 'sweep'")["sweep"]
    for trial in trials:
        run = runs[trial.uid]
        assert run.info.status == "FINISHED"
        assert run.data.params == {
            "architecture": "topk",
            "d_sae": "64",
            "k": "4",
            "lr": "0.001",
            "seed": str(trial.seed),
        }
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.tags["vsae.trial_uid"] == trial.uid
        assert run.data.tags["vsae.state"] == "completed"
        assert run.info.end_time == 1767323160000
        assert {key: run.data.metrics[key] for key in trial.metrics} == trial.metrics
        values = history(client, run)
        for rung in trial.rungs:
            for key, value in rung.metrics.items():
                assert values[f"rung/{key}", rung.tokens] == value
        assert values["l0", 1000] == trial.metrics["l0"]
        assert run.data.metrics["wall_s"] == trial.wall_s


def test_the_run_of_the_sweep(
    sweep_dir: Path, client: MlflowClient, sweep_record: SweepRecord, make_trial: Callable[..., TrialRecord]
) -> None:
    tracking = listener(sweep_dir, experiment="compared")
    play(tracking, sweep_record, [make_trial()])
    tracking.close()
    run = runs_of(client, "tags.`vsae.kind` = 'sweep'")["sweep"]
    assert client.get_experiment(run.info.experiment_id).name == "compared"
    assert run.info.status == "FINISHED"
    assert run.info.start_time == 1767323045000
    assert run.data.params["training.batch_size"] == "1024"
    assert run.data.params["training.rungs"] == "[0.5, 1.0]"
    tags = run.data.tags
    assert tags["mlflow.source.git.commit"] == "c" * 40
    assert tags["vsae.version.torch"] == "2.13.0"
    assert tags["vsae.bank.key"] == "b" * 64
    assert tags["vsae.reference.l0"] == "64.0"
    assert tags["vsae.subject.type"] == "toy_model"
    assert tags["vsae.state"] == "completed"
    names = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert names == {"space.yaml", "sweep.json"}


def test_the_report_is_added_to_the_run_of_the_sweep_and_replaced_by_the_next(
    sweep_dir: Path,
    client: MlflowClient,
    sweep_record: SweepRecord,
    make_trial: Callable[..., TrialRecord],
    tmp_path: Path,
) -> None:
    tracking = listener(sweep_dir)
    play(tracking, sweep_record, [make_trial()])
    tracking.close()
    before = {name: history(client, run) for name, run in runs_of(client).items()}
    page, numbers = tmp_path / "report.html", tmp_path / "report.json"
    for text in ("the first", "the second, which is longer"):
        page.write_text(f"<html>{text}</html>", encoding="utf-8")
        numbers.write_text(f'["{text}"]', encoding="utf-8")
        reporting = listener(sweep_dir)
        reporting.log_report("sweep", (page, numbers))
        assert reporting.close().complete
        run = runs_of(client, "tags.`vsae.kind` = 'sweep'")["sweep"]
        assert run.info.status == "FINISHED", "a report does not start the sweep again"
        kept = client.list_artifacts(run.info.run_id, "report")
        assert [item.path for item in kept] == ["report/report.html", "report/report.json"]
        copies = [Path(client.download_artifacts(run.info.run_id, item.path)) for item in kept]
        assert [copy.read_text(encoding="utf-8") for copy in copies] == [page.read_text(), numbers.read_text()]
    assert {name: history(client, run) for name, run in runs_of(client).items()} == before


def test_a_report_that_is_gone_is_said_and_costs_nothing(
    sweep_dir: Path, sweep_record: SweepRecord, tmp_path: Path, warnings_of: Callable[[], list[str]]
) -> None:
    tracking = listener(sweep_dir)
    play(tracking, sweep_record, [])
    tracking.close()
    reporting = listener(sweep_dir)
    reporting.log_report("sweep", (tmp_path / "gone" / "report.html",))
    assert reporting.close().complete
    assert [line for line in warnings_of() if "a report is gone" in line]


def test_weights_are_artifacts_of_completed_trials(
    sweep_dir: Path,
    client: MlflowClient,
    sweep_record: SweepRecord,
    make_trial: Callable[..., TrialRecord],
    tmp_path: Path,
) -> None:
    tracking = listener(sweep_dir)
    play(tracking, sweep_record, [make_trial(0), make_trial(1, state="stopped")])
    tracking.close()
    runs = runs_of(client)
    assert runs["topk-0000"].info.artifact_uri.startswith((sweep_dir / "mlartifacts").resolve().as_uri())
    folder = client.download_artifacts(runs["topk-0000"].info.run_id, "", str(tmp_path))
    assert (tmp_path / "sae.safetensors").read_bytes() == b"weights of topk-0000", folder
    assert json.loads((tmp_path / "sae.json").read_text())["architecture"] == "topk"
    assert client.list_artifacts(runs["topk-0001"].info.run_id) == []


def test_weights_can_be_left_out(
    sweep_dir: Path, client: MlflowClient, sweep_record: SweepRecord, make_trial: Callable[..., TrialRecord]
) -> None:
    tracking = listener(sweep_dir, save_weights=False)
    play(tracking, sweep_record, [make_trial()])
    tracking.close()
    assert client.list_artifacts(runs_of(client)["topk-0000"].info.run_id) == []


@pytest.mark.parametrize(("state", "status"), [("stopped", "FINISHED"), ("diverged", "FAILED"), ("failed", "FAILED")])
def test_only_completed_trials_have_plain_metrics(
    sweep_dir: Path,
    client: MlflowClient,
    sweep_record: SweepRecord,
    make_trial: Callable[..., TrialRecord],
    state: str,
    status: str,
) -> None:
    trial = make_trial(state=state, metrics={"l0": 3.0, "delta_ce": float("nan")}, error="loss is nan")
    tracking = listener(sweep_dir)
    play(tracking, sweep_record, [trial])
    assert tracking.close().complete
    run = runs_of(client)[trial.uid]
    assert run.info.status == status
    assert run.data.tags["vsae.state"] == state
    assert run.data.tags["vsae.error"] == "loss is nan"
    assert "l0" not in run.data.metrics
    assert run.data.metrics["partial/l0"] == 3.0
    assert run.data.metrics["partial/delta_ce"] != run.data.metrics["partial/delta_ce"]


def test_search_runs_compares_sweeps_by_their_final_values(
    sweep_dir: Path, sweep_record: SweepRecord, make_trial: Callable[..., TrialRecord]
) -> None:
    import mlflow

    tracking = listener(sweep_dir)
    play(tracking, sweep_record, [make_trial(0), make_trial(1), make_trial(2, state="diverged", metrics={})])
    tracking.close()
    mlflow.set_tracking_uri(tracking.uri)
    try:
        table = mlflow.search_runs(
            experiment_names=["sweep"], filter_string="tags.`vsae.state` = 'completed' and metrics.l0 > 0"
        )
    finally:
        mlflow.set_tracking_uri(None)
    assert dict(zip(table["tags.vsae.trial_uid"], table["metrics.l0"], strict=True)) == {
        "topk-0000": 4.0,
        "topk-0001": 5.0,
    }


def test_a_crash_before_the_mark_doubles_nothing(
    sweep_dir: Path, client: MlflowClient, sweep_record: SweepRecord, make_trial: Callable[..., TrialRecord]
) -> None:
    trials = [make_trial(0), make_trial(1)]
    first = listener(sweep_dir)
    play(first, sweep_record, trials)
    first.close()
    before = {name: history(client, run) for name, run in runs_of(client).items()}
    ids = {name: run.info.run_id for name, run in runs_of(client).items()}
    (sweep_dir / "tracking" / "delivered.json").unlink()
    second = listener(sweep_dir)
    second.on_sweep_start(sweep_record)
    for trial in trials:  # a sweep that goes on tells its earlier trials again
        second.on_trial_end(trial)
    second.on_sweep_end(sweep_record.model_copy(update={"status": "completed"}))
    status = second.close()
    assert status.complete
    assert status.delivered == 10 + 2, "the known trials were spooled again"
    after = runs_of(client)
    assert {name: run.info.run_id for name, run in after.items()} == ids
    assert {name: history(client, run) for name, run in after.items()} == before
    assert {run.info.status for run in after.values()} == {"FINISHED"}
    assert len(runs_of(client, "tags.`vsae.kind` = 'sweep'")) == 1


def test_a_trial_that_starts_again_keeps_its_run(
    sweep_dir: Path, client: MlflowClient, sweep_record: SweepRecord, make_trial: Callable[..., TrialRecord]
) -> None:
    trial = make_trial()
    first = listener(sweep_dir)
    first.on_sweep_start(sweep_record)
    first.on_trial_start(trial.uid, trial.architecture, trial.params)
    first.on_rung(trial.uid, trial.rungs[0])
    first.close()  # the process dies here: no end of the trial, none of the sweep
    assert runs_of(client)[trial.uid].info.status == "RUNNING"
    second = listener(sweep_dir)
    play(second, sweep_record, [trial])
    assert second.close().complete
    run = runs_of(client)[trial.uid]
    assert run.info.status == "FINISHED"
    assert history(client, run)["rung/l0", 500] == 3.0


def test_an_interrupted_trial_is_marked_and_goes_on(
    sweep_dir: Path, client: MlflowClient, sweep_record: SweepRecord, make_trial: Callable[..., TrialRecord]
) -> None:
    trial = make_trial()
    first = listener(sweep_dir)
    first.on_sweep_start(sweep_record)
    first.on_trial_start(trial.uid, trial.architecture, trial.params)
    first.on_sweep_end(sweep_record.model_copy(update={"status": "interrupted"}))
    first.close()
    run = runs_of(client)[trial.uid]
    assert (run.info.status, run.data.tags["vsae.state"]) == ("KILLED", "interrupted")
    assert runs_of(client, "tags.`vsae.kind` = 'sweep'")["sweep"].info.status == "KILLED"
    second = listener(sweep_dir)
    play(second, sweep_record, [trial])
    second.close()
    run = runs_of(client)[trial.uid]
    assert (run.info.status, run.data.tags["vsae.state"]) == ("FINISHED", "completed")


def test_a_lost_spool_is_made_up_for_by_the_records(
    sweep_dir: Path, client: MlflowClient, sweep_record: SweepRecord, make_trial: Callable[..., TrialRecord]
) -> None:
    trial = make_trial()
    tracking = listener(sweep_dir)
    tracking.on_sweep_start(sweep_record)
    tracking.on_trial_end(trial)  # nothing else about it was spooled
    tracking.close()
    assert history(client, runs_of(client)[trial.uid])["rung/l0", 500] == 3.0


def test_secrets_are_nowhere(
    sweep_dir: Path,
    client: MlflowClient,
    sweep_record: SweepRecord,
    make_trial: Callable[..., TrialRecord],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_canary_value")
    (sweep_dir / "space.yaml").write_text("tracking: {uri: 'postgresql://me:canary_word@db/x'}  # hf_canary_value\n")
    record = sweep_record.model_copy(update={"space": {"tracking": {"uri": "postgresql://me:canary_word@db/x"}}})
    trial = make_trial(state="failed", error="401 for https://me:canary_word@hub with hf_canary_value")
    tracking = listener(sweep_dir)
    play(tracking, record, [trial])
    assert tracking.close().complete
    kept = [path for path in sweep_dir.rglob("*") if path.is_file() and path.name != "space.yaml"]
    kept += list((sweep_dir / "mlartifacts").rglob("space.yaml"))
    assert len(kept) > 4
    with closing(sqlite3.connect(sweep_dir / "mlflow.db")) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    found = [path for path in kept if b"canary" in path.read_bytes()]
    assert found == []
    assert "***" in runs_of(client)[trial.uid].data.tags["vsae.error"]


def test_an_address_of_another_kind_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match="ftp"):
        MlflowListener(tmp_path / "none", TrackingSpec.model_construct(uri="ftp://host/x"))
    listener(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_links_exist_on_servers_only(
    sweep_dir: Path, sweep_record: SweepRecord, make_trial: Callable[..., TrialRecord]
) -> None:
    tracking = listener(sweep_dir)
    play(tracking, sweep_record, [make_trial()])
    tracking.close()
    index = read_run_index(sweep_dir)
    assert index is not None
    assert index.address is None
    assert set(index.trials) == {"topk-0000"}
    assert tracking.run_url("topk-0000") is None
    assert tracking.tracking_url is None
    assert index.path("topk-0000") == f"/#/experiments/{index.experiment_id}/runs/{index.trials['topk-0000']}"
    assert index.path("topk-0001") is None


def test_calls_return_at_once(
    sweep_dir: Path, sweep_record: SweepRecord, make_trial: Callable[..., TrialRecord]
) -> None:
    trial = make_trial()
    tracking = listener(sweep_dir)
    tracking.on_sweep_start(sweep_record)
    durations = []
    for _ in range(50):
        start = time.perf_counter()
        tracking.on_rung(trial.uid, trial.rungs[0])
        durations.append(time.perf_counter() - start)
    tracking.close()
    assert sorted(durations)[25] < 0.005


def test_a_full_disk_does_not_reach_the_sweep(
    sweep_dir: Path,
    sweep_record: SweepRecord,
    make_trial: Callable[..., TrialRecord],
    monkeypatch: pytest.MonkeyPatch,
    warnings_of: Callable[[], list[str]],
) -> None:
    tracking = listener(sweep_dir)
    tracking.on_sweep_start(sweep_record)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    assert tracking._spool is not None
    monkeypatch.setattr(tracking._spool, "_write", full)
    tracking.on_trial_end(make_trial())
    tracking.on_trial_end(make_trial(1))
    status = tracking.close()
    assert "No space left" in (status.last_error or "")
    assert len([line for line in warnings_of() if "No space left" in line]) == 1


def test_the_database_is_in_wal_mode(sweep_dir: Path, sweep_record: SweepRecord) -> None:
    tracking = listener(sweep_dir)
    play(tracking, sweep_record, [])
    tracking.close()
    with closing(sqlite3.connect(sweep_dir / "mlflow.db")) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert (sweep_dir / "tracking").stat().st_mode & 0o077 == 0
    assert (sweep_dir / "tracking" / "events.jsonl").stat().st_mode & 0o077 == 0
