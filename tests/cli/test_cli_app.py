"""The command line as a user meets it: help, exit codes, refusals that leave nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vsae_search.cli import _console, app, doctor
from vsae_search.errors import EnvironmentNotReady, UserInputError

SPACES = Path(__file__).parents[2] / "search_spaces"


@pytest.fixture
def run(monkeypatch, capsys):
    """Call the command line in this process; returns (exit code, stdout, stderr)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["vsae_search", *arguments])
        _console.stderr.cache_clear()
        with pytest.raises(SystemExit) as leaving:
            app.main()
        shown = capsys.readouterr()
        return int(leaving.value.code or 0), shown.out, shown.err

    yield call
    _console.configure(quiet=False, debug=False, no_color=False)


def test_help_lists_every_command_file(run):
    code, out, _ = run("--help")
    assert code == 0
    for name in ("sweep", "report", "ui", "validate", "schema", "doctor"):
        assert f" {name} " in out


def test_no_arguments_shows_the_help_and_is_a_usage_error(run):
    code, out, _ = run()
    assert code == 2
    assert "Commands" in out


def test_unknown_command_and_option_name_the_near_ones(run):
    code, _, err = run("swep")
    assert code == 2
    assert "Did you mean 'sweep'" in err
    code, _, err = run("sweep", "x.yaml", "--tirals", "3")
    assert code == 2
    assert "--trials" in err


def test_version_is_printed_on_stdout(run):
    code, out, _ = run("--version")
    assert (code, out) == (0, "vsae_search 0.1.0\n")


@pytest.mark.parametrize(
    ("error", "code"),
    [(UserInputError("bad", "do this"), 2), (EnvironmentNotReady("full", "free it"), 3), (KeyboardInterrupt(), 130)],
)
def test_errors_end_with_their_code_and_hint(run, monkeypatch, error, code):
    def fail(*_args, **_kwargs):
        raise error

    monkeypatch.setattr("vsae_search.cli.schema._console.out_json", fail)
    got, _, err = run("schema")
    assert got == code
    if isinstance(error, KeyboardInterrupt):
        assert "interrupted" in err
    else:
        assert error.message in err
        assert error.hint in err
    assert "Traceback" not in err


def test_a_bug_shows_its_traceback_and_ends_with_1(run, monkeypatch):
    def fail(*_args, **_kwargs):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("vsae_search.cli.schema._console.out_json", fail)
    code, _, err = run("schema")
    assert code == 1
    assert "ZeroDivisionError" in err


def test_debug_adds_the_traceback_to_a_user_error(run, tmp_path):
    code, _, err = run("--debug", "report", "nothing", "--root", str(tmp_path))
    assert code == 2
    assert "Traceback" in err


def test_shipped_search_spaces_are_valid(run):
    code, out, _ = run("validate", *map(str, sorted(SPACES.glob("*.yaml"))))
    assert code == 0
    assert out.count(": ok") == len(list(SPACES.glob("*.yaml"))) > 0


def test_validate_reports_every_file_and_the_place_in_it(run, tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("nam: x\n")
    code, out, err = run("validate", str(bad), str(SPACES / "toy.yaml"))
    assert code == 2
    assert f"{bad}:1:1:" in err
    assert "toy.yaml: ok" in out


def test_committed_schema_is_the_generated_one(run):
    code, out, _ = run("schema")
    assert code == 0
    committed = json.loads((SPACES / "schema.json").read_text())
    assert committed == json.loads(out), "run: python -m vsae_search schema > search_spaces/schema.json"


def test_dry_run_prints_the_plan_and_creates_nothing(run, tmp_path):
    root = tmp_path / "sweeps"
    code, out, _ = run("sweep", str(SPACES / "toy.yaml"), "--dry-run", "--root", str(root), "--trials", "8")
    assert code == 0
    assert "8 trials" in out
    assert "Nothing was started" in out
    assert not root.exists()


def test_dry_run_as_json(run, tmp_path):
    code, out, _ = run("sweep", str(SPACES / "toy.yaml"), "--dry-run", "--root", str(tmp_path), "-o", "json")
    assert code == 0
    assert json.loads(out)["trials"] > 0


def test_refused_space_creates_nothing(run, tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("name: ../outside\n")
    root = tmp_path / "sweeps"
    code, _, err = run("sweep", str(bad), "--root", str(root), "--reports", str(tmp_path / "reports"))
    assert code == 2
    assert "bad.yaml:1:" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.yaml"]


def test_bad_override_is_a_usage_error(run, tmp_path):
    wrong = "training.batchsize=3"
    code, _, err = run("sweep", str(SPACES / "toy.yaml"), "--set", wrong, "--root", str(tmp_path / "s"))
    assert code == 2
    assert "batch_size" in err
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("name", ["missing", "../missing", "/etc"])
def test_report_of_an_unknown_sweep_lists_the_known_ones(run, tmp_path, name):
    (tmp_path / "known").mkdir()
    (tmp_path / "known" / "sweep.json").write_text("{}")
    code, _, err = run("report", name, "--root", str(tmp_path))
    assert code == 2
    assert "known" in err


def test_doctor_passes_here_and_speaks_json(run, tmp_path):
    code, out, _ = run("doctor", "--root", str(tmp_path), "-o", "json")
    found = json.loads(out)
    assert code == (3 if any(check["level"] == "fail" for check in found) else 0)
    assert any(check["found"].startswith("torch ") for check in found)


def test_doctor_fails_on_an_unreachable_server(run, tmp_path):
    space = tmp_path / "space.yaml"
    space.write_text((SPACES / "toy.yaml").read_text() + "\ntracking:\n  uri: http://127.0.0.1:9\n")
    code, out, _ = run("doctor", "--space", str(space), "--root", str(tmp_path))
    assert code == 3
    assert "MLflow at http://127.0.0.1:9 cannot be reached" in out
    assert "fix: " in out


def test_doctor_masks_a_password(monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", lambda *_args, **_kwargs: (_ for _ in ()).throw(OSError("refused")))
    found = doctor._mlflow_server("http://user:secret@127.0.0.1:9")
    assert "127.0.0.1:9" in found.found
    assert "secret" not in found.found + found.fix


def test_help_is_light():
    """``--help`` must not pay for packages that only some commands need."""
    check = (
        "import sys; import vsae_search.cli.app as app; app.build_app();"
        "heavy = {'torch', 'ray', 'mlflow', 'optuna', 'pandas', 'plotly', 'numpy', 'scipy'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    finished = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=60, check=False)
    assert finished.returncode == 0, finished.stderr
