"""Runs in PostgreSQL and artifacts on an S3 store: real servers, started by the test."""

from __future__ import annotations

from contextlib import closing

import pytest
from services.postgres import PASSWORD, Postgres

from vsae_search.space import TrackingSpec
from vsae_search.tracking import MlflowListener

BUCKET = "artifacts"


@pytest.fixture(scope="module")
def s3():
    """An S3 store in this process; gives its client."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "canary-key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "canary-secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("MLFLOW_S3_ENDPOINT_URL", f"http://{host}:{port}")
        client = boto3.client("s3", endpoint_url=f"http://{host}:{port}")
        client.create_bucket(Bucket=BUCKET)
        yield client
        client.close()
    server.stop()


@pytest.fixture(scope="module")
def database():
    server = Postgres()
    server.query("postgres", "CREATE DATABASE mlflow")
    yield server
    server.remove()


def record_one(directory, record, trial, spec) -> MlflowListener:
    """A sweep with one trial, told to a listener."""
    listener = MlflowListener(directory, spec, flush_period_s=0.05)
    listener.on_sweep_start(record)
    listener.on_trial_start(trial.uid, trial.architecture, trial.params)
    listener.on_trial_end(trial)
    listener.on_sweep_end(record.model_copy(update={"status": "completed"}))
    return listener


@pytest.mark.parametrize("named_by", ["file", "environment"])
def test_runs_in_postgresql_and_artifacts_in_a_bucket(
    s3, database, sweep_dir, sweep_record, make_trial, monkeypatch, named_by
):
    """The password is in PGPASSWORD; weights and documents are in the bucket, and none in the sweep directory."""
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    uri, place = database.address("mlflow"), f"s3://{BUCKET}/{named_by}"
    spec = TrackingSpec(uri=uri, artifacts=place, experiment=named_by)
    if named_by == "environment":
        monkeypatch.setenv("VSAE_SEARCH_TRACKING_URI", uri)
        monkeypatch.setenv("VSAE_SEARCH_ARTIFACTS", place)
        spec = TrackingSpec(experiment=named_by)
    trial = make_trial()
    status = record_one(sweep_dir, sweep_record, trial, spec).close(60.0)
    assert status.complete, status
    assert PASSWORD not in status.uri
    stored = s3.list_objects_v2(Bucket=BUCKET, Prefix=f"{named_by}/")["Contents"]
    assert sorted(entry["Key"].rpartition("/")[2] for entry in stored) == [
        *("sae.json", "sae.safetensors", "space.yaml", "sweep.json")
    ]
    weights = next(entry["Key"] for entry in stored if entry["Key"].endswith("sae.safetensors"))
    with closing(s3.get_object(Bucket=BUCKET, Key=weights)["Body"]) as body:
        assert body.read() == b"weights of topk-0000"
    assert not (sweep_dir / "mlartifacts").exists()
    found = database.query(
        "mlflow",
        "SELECT r.status, r.artifact_uri FROM runs r JOIN tags t ON t.run_uuid = r.run_uuid "
        "JOIN experiments e ON e.experiment_id = r.experiment_id "
        f"WHERE t.key = 'vsae.trial_uid' AND t.value = '{trial.uid}' AND e.name = '{named_by}'",
    )
    assert [(state, address.startswith(place)) for state, address in found] == [("FINISHED", True)]


def test_a_bucket_that_is_gone_costs_the_artifacts_and_not_the_runs(
    s3, database, sweep_dir, sweep_record, make_trial, monkeypatch, warnings_of
):
    """After a few attempts the runs go without; the weights stay in the sweep directory."""
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    monkeypatch.setattr("vsae_search.tracking.delivery._ARTIFACT_ATTEMPTS", 1)
    spec = TrackingSpec(uri=database.address("mlflow"), artifacts="s3://no-such-bucket/x", experiment="gone")
    status = record_one(sweep_dir, sweep_record, make_trial(), spec).close(60.0)
    assert (status.pending, status.rejected) == (0, 2)
    assert any("the weights of topk-0000 stay in" in line for line in warnings_of())
