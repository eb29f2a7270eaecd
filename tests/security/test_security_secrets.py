"""Secrets of the environment: on no disk after a sweep that went wrong, and in nothing that is printed."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path

import pytest

from vsae_search.cli import _console, app
from vsae_search.search import sweep as sweep_module

CANARIES = {
    "HF_TOKEN": "hf_canary0123456789",
    "AWS_ACCESS_KEY_ID": "AKIACANARY0000000001",
    "AWS_SECRET_ACCESS_KEY": "canary/aws/secret/0123456789",
    "MLFLOW_TRACKING_PASSWORD": "canary-mlflow-password",
    "PGPASSWORD": "canary-postgres-password",
}
IN_ADDRESS = "canary-in-an-address"
SPACE = {
    "name": "canary",
    "subject": {"type": "directions", "d_in": 8, "features": {"count": 12, "probability": 0.1}},
    "activations": {"num_tokens": 512, "evaluation_tokens": 128, "calibration_tokens": 64},
    "training": {"num_tokens": 512, "batch_size": 128},
    "architectures": {"topk": {"d_sae": 16, "k": {"choice": [1, 2, 4]}}, "relu": {"d_sae": 16}},
    "search": {"trials": 4, "sampler": "random", "max_retries": 0, "max_failures": None},
    "resources": {"max_concurrent": 1},
}


@pytest.fixture(scope="module")
def secrets():
    """The environment of the driver, and of the workers that Ray starts from it."""
    from vsae_search.search.resources.cluster import connected
    from vsae_search.space import ResourcesSpec

    with pytest.MonkeyPatch.context() as patch:
        for name, value in CANARIES.items():
            patch.setenv(name, value)
        with connected(ResourcesSpec()):
            yield


@pytest.fixture
def run(monkeypatch, capsys):
    """The command line in this process; returns (exit code, stdout and stderr)."""

    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["vsae_search", *map(str, arguments)])
        _console.stderr.cache_clear()
        with pytest.raises(SystemExit) as leaving:
            app.main()
        shown = capsys.readouterr()
        return int(leaving.value.code or 0), shown.out + shown.err

    yield call
    _console.configure(quiet=False, debug=False, no_color=False)


def talkative():
    """The trainable of the product, whose last trial of topk fails and tells everything; it is sent by value."""

    def run(config, context):
        import os

        from vsae_search.search.trainable import run_trial
        from vsae_search.search.trial import TrialRun

        def tell(self):
            known = [value for value in os.environ.values() if "canary" in value.lower()]
            raise RuntimeError(f"postgresql://me:canary-in-an-address@host/db {known}")

        kept = TrialRun.run
        if config["uid"] == "topk-0001":
            TrialRun.run = tell
        try:
            run_trial(config, context)
        finally:
            TrialRun.run = kept

    return run


def leaks(text: bytes | str) -> list[str]:
    """Names of the secrets that a text holds."""
    content = text if isinstance(text, bytes) else text.encode()
    token = Path.home() / ".ray" / "auth_token"
    ray = {"token of Ray": token.read_text()} if token.is_file() else {}
    secrets = {**CANARIES, **ray, "address": IN_ADDRESS}
    return [name for name, value in secrets.items() if value.encode() in content]


def test_no_secret_is_on_disk_after_a_sweep_whose_trial_told_them(secrets, run, tmp_path, monkeypatch):
    """Records, Optuna, MLflow, artifacts, Tune's files, the bank and the report: zero hits."""
    monkeypatch.setattr(sweep_module, "run_trial", talkative())
    file = tmp_path / "canary.yaml"
    file.write_text(json.dumps(SPACE))
    code, shown = run("sweep", file, "--root", tmp_path / "sweeps", "--reports", tmp_path / "reports")
    assert code == 0, shown
    assert leaks(shown) == []
    record = json.loads((tmp_path / "sweeps" / "canary" / "trials" / "topk-0001" / "record.json").read_text())
    assert record["state"] == "failed"
    assert record["error"].count("***") >= len(CANARIES), "the trial did tell them"
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"optuna.db", "mlflow.db", "events.jsonl", "report.html"} <= {path.name for path in files}
    assert {str(path): leaks(path.read_bytes()) for path in files if leaks(path.read_bytes())} == {}


def test_a_bug_is_shown_without_secrets(run, monkeypatch, secrets):
    def fail(*_):
        raise ZeroDivisionError(f"postgresql://me:{IN_ADDRESS}@host/db {CANARIES['HF_TOKEN']}")

    monkeypatch.setattr("vsae_search.cli.schema._console.out_json", fail)
    code, shown = run("schema")
    assert code == 1
    assert "ZeroDivisionError" in shown
    assert leaks(shown) == []


def test_log_lines_are_masked(secrets):
    record = logging.LogRecord("x", logging.WARNING, "x", 1, "token %s", (CANARIES["HF_TOKEN"],), None)
    assert _console.MaskingFormatter("%(message)s").format(record) == "token ***"


@pytest.mark.parametrize("key", ["tracking: {uri: %s}", "search: {study_storage: %s}"])
def test_a_password_in_a_search_space_is_refused_and_not_repeated(run, tmp_path, key):
    """Also not in the line of the file that is shown."""
    text = json.dumps({name: value for name, value in SPACE.items() if name != "search"})[1:-1]
    file = tmp_path / "space.yaml"
    file.write_text("{" + text + ", " + key % f"'postgresql://me:{IN_ADDRESS}@host/db'" + "}")
    code, shown = run("validate", file)
    assert (code, "a password in the file" in shown, leaks(shown)) == (2, True, [])


def test_doctor_shows_no_password(run, tmp_path, monkeypatch):
    """Neither when a server is named in the environment, nor when it does not answer."""
    file = tmp_path / "space.yaml"
    file.write_text(json.dumps(SPACE))
    monkeypatch.setenv("VSAE_SEARCH_TRACKING_URI", f"http://me:{IN_ADDRESS}@127.0.0.1:1")
    monkeypatch.setenv("VSAE_SEARCH_STUDY_STORAGE", f"postgresql+psycopg://me:{IN_ADDRESS}@127.0.0.1:1/db")
    code, shown = run("doctor", "--space", file, "--root", tmp_path)
    assert code == 3
    assert "MLflow at http://127.0.0.1:1 cannot be reached" in shown
    assert "the database of Optuna's studies, postgresql+psycopg://me:***@127.0.0.1:1/db, takes none" in shown
    assert leaks(shown) == []


def test_a_plan_shows_no_password(run, tmp_path, monkeypatch):
    file = tmp_path / "space.yaml"
    file.write_text(json.dumps(SPACE))
    monkeypatch.setenv("VSAE_SEARCH_TRACKING_URI", f"postgresql://me:{IN_ADDRESS}@host/db")
    code, shown = run("sweep", file, "--dry-run", "--root", tmp_path / "sweeps")
    assert (code, leaks(shown)) == (0, [])
    assert "postgresql://me:***@host/db" in shown


def test_the_token_of_a_cluster_is_closed_before_it_is_used(tmp_path, monkeypatch):
    """A token that other users can read is no secret any more than their patience allows."""
    from vsae_search.cli._connect import read_token

    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    token = tmp_path / "token"
    token.write_text("0123456789abcdef\n")
    token.chmod(0o644)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    assert read_token() == "0123456789abcdef"
    assert token.stat().st_mode & 0o777 == 0o600
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_token() is None
    (tmp_path / ".ray").mkdir()
    token.rename(tmp_path / ".ray" / "auth_token").chmod(0o644)
    assert read_token() == "0123456789abcdef"
    assert (tmp_path / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600
    assert os.environ.get("RAY_AUTH_TOKEN") is None


def test_a_token_goes_to_no_other_server(monkeypatch, tmp_path):
    """A job server that redirects is not followed: the token would go along."""
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    from vsae_search.cli._connect import job_server
    from vsae_search.errors import EnvironmentNotReady

    heard = []

    class Redirects(BaseHTTPRequestHandler):
        def do_GET(self):
            heard.append(self.path)
            self.send_response(302)
            self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}/elsewhere")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Redirects)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0123456789abcdef")
    try:
        with pytest.raises(EnvironmentNotReady, match="not Ray's job server"):
            job_server(f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()
    assert heard == ["/api/version"]


def test_doctor_warns_of_an_open_token(run, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("0123456789abcdef")
    token.chmod(0o644)
    _, shown = run("doctor", "--root", tmp_path)
    assert f"{token} has mode 0644" in shown
    assert f"chmod 600 {token}" in shown
    assert "0123456789abcdef" not in shown
