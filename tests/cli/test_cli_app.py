"""The command line as a user meets it: help, exit codes, refusals that leave nothing behind."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from email.message import Message
from pathlib import Path
from urllib.error import HTTPError

import pytest

from vsae_search.cli import _console, _options, app, doctor, ui
from vsae_search.errors import Diverged, EnvironmentNotReady, Terminated, UserInputError

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


def test_every_command_has_its_place_in_the_help():
    assert tuple(app._command_names()) == app._ORDER


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
    [
        (UserInputError("bad", "do this"), 2),
        (Diverged("the toy model diverged", "lower lr"), 2),
        (EnvironmentNotReady("full", "free it"), 3),
        (KeyboardInterrupt(), 130),
        (Terminated(), 143),
    ],
)
def test_errors_end_with_their_code_and_hint(run, monkeypatch, error, code):
    def fail(*_args, **_kwargs):
        raise error

    monkeypatch.setattr("vsae_search.cli.schema._console.out_json", fail)
    got, _, err = run("schema")
    assert got == code
    if isinstance(error, KeyboardInterrupt | Terminated):
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
    code, out, _ = run("sweep", str(SPACES / "toy.yaml"), "--dry-run", "--root", str(root), "--trials", "36")
    assert code == 0
    assert "36 trials" in out
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


def test_errors_of_options_show_the_assignment_with_a_caret(run, tmp_path):
    wrong = ("--set", "seed=1", "--set", "training.batch_size=x", "--name", "Up")
    code, _, err = run("sweep", str(SPACES / "toy.yaml"), *wrong, "--root", str(tmp_path / "s"))
    assert code == 2
    assert f"    training.batch_size=x\n    {' ' * 20}^\n" in err
    assert f"    name=Up\n    {' ' * 5}^\n" in err


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_pipe_or_device_is_refused_without_reading_it(kind, tmp_path):
    path = Path("/dev/zero")
    if kind == "pipe":
        os.mkfifo(path := tmp_path / "pipe.yaml")
    command = [sys.executable, "-m", "vsae_search", "validate", str(path)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert finished.returncode == 2
    assert finished.stderr.count("this is not a regular file") == 1
    assert "^" not in finished.stderr


def test_only_the_beginning_of_a_large_file_is_read(run, tmp_path):
    path = tmp_path / "large.yaml"
    path.write_text("name: large\n")
    os.truncate(path, 1 << 40)  # a file with a hole: no disk holds it, and no memory
    code, _, err = run("validate", str(path))
    assert code == 2
    assert "larger than 1 MB" in err
    assert "    name: large\n" in err


@pytest.mark.parametrize("plain", ["NO_COLOR", "--no-color", ""])
def test_without_colour_nothing_is_bold_or_dim_either(run, monkeypatch, tmp_path, plain):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1" if plain == "NO_COLOR" else "")
    _, _, err = run(*(["--no-color"] if plain == "--no-color" else []), "validate", str(tmp_path / "missing.yaml"))
    assert "there is no such file" in err
    assert ("\x1b[" in err) == (plain == "")


def test_help_of_name_says_where_the_default_comes_from(run):
    _, out, _ = run("sweep", "--help")
    assert "key 'name'" in " ".join(out.replace("│", " ").split())


def test_a_bank_beyond_every_disk_is_refused_by_the_dry_run(run, tmp_path):
    toy, places = str(SPACES / "toy.yaml"), ("--root", str(tmp_path / "s"), "--dry-run")
    code, out, err = run("sweep", toy, *places, "--set", "activations.num_tokens=1000000000000000000")
    assert code == 3
    assert "Nothing was started" in out
    assert "the activation bank needs" in err
    assert "activations.num_tokens" in err
    many = ("--set", "activations.num_tokens=20000000", "--set", "activations.shard_tokens=1")
    code, _, err = run("sweep", toy, *places, *many)
    assert code in (2, 3)  # 3 where the disk is too small even for the rows
    assert "Traceback" not in err


def test_more_processors_than_there_are_is_told_unless_a_cluster_is_asked(run, tmp_path):
    arguments = ("sweep", str(SPACES / "toy.yaml"), "--dry-run", "--root", str(tmp_path), "--set")
    _, out, _ = run(*arguments, "resources.cpus_per_trial=4096")
    assert "a trial asks for 4096 CPUs and this machine has " in out
    _, out, _ = run(*arguments, "resources.cpus_per_trial=4096", "--address", "10.0.0.1:6379")
    assert "Warning" not in out
    _, out, _ = run(*arguments, "resources.cpus_per_trial=1")
    assert "Warning" not in out


def test_the_plan_names_the_digest_as_the_one_of_the_search_space(run, tmp_path):
    arguments = ("sweep", str(SPACES / "toy.yaml"), "--dry-run", "--root", str(tmp_path))
    _, out, _ = run(*arguments, "-o", "json")
    plan = json.loads(out)
    _, out, _ = run(*arguments)
    assert plan["state"] == "new"
    assert f"(new; {SPACES / 'toy.yaml'}, search space {plan['digest'][:12]})" in out
    assert "sha256" not in out


@pytest.mark.parametrize("option", ["--root", "--reports"])
def test_a_folder_that_cannot_be_written_stops_the_sweep_before_it_starts(run, monkeypatch, tmp_path, option):
    monkeypatch.setattr("vsae_search.cli.sweep._run", lambda *_: pytest.fail("the sweep was started"))
    (tmp_path / "file").write_text("precious")
    places = {"--root": str(tmp_path / "s"), "--reports": str(tmp_path / "r"), option: str(tmp_path / "file" / "x")}
    code, _, err = run("sweep", str(SPACES / "toy.yaml"), *(text for pair in places.items() for text in pair))
    assert code == 3
    assert f"{tmp_path / 'file'}: Not a directory" in err
    assert f"Name another with {option}." in err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_obstacle_tries_and_leaves_nothing(monkeypatch, tmp_path):
    assert _options.obstacle(tmp_path / "not" / "there") is None
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert "No such file" in str(_options.obstacle(tmp_path / "link"))

    def read_only(**_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("vsae_search.cli._options.tempfile.TemporaryFile", read_only)
    assert _options.obstacle(tmp_path / "x") == f"{tmp_path}: Read-only file system"


@pytest.mark.parametrize("url", ["javascript:alert(1)", "data:text/html,x", "sqlite:///x.db", "localhost:5000", ""])
def test_report_refuses_an_address_that_is_no_web_server(run, tmp_path, url):
    (tmp_path / "known").mkdir()
    (tmp_path / "known" / "sweep.json").write_text("{}")
    code, _, err = run("report", "known", "--root", str(tmp_path), "--tracking-url", url)
    assert code == 2
    assert f"--tracking-url {url!r} is not the address of a web server" in err


def test_ui_refuses_a_port_in_use(run, monkeypatch, tmp_path):
    (tmp_path / "known").mkdir()
    for name in ("sweep.json", "mlflow.db"):
        (tmp_path / "known" / name).write_text("{}")
    monkeypatch.setattr("vsae_search.cli.ui.os.execve", lambda *_: pytest.fail("the server was started"))
    with socket.create_server((ui.UI_HOST, 0)) as other:
        port = other.getsockname()[1]
        code, _, err = run("ui", "known", "--root", str(tmp_path), "--port", str(port))
    assert code == 3
    assert f"Port {port} of 127.0.0.1 cannot be used: Address already in use" in err
    assert "--port" in err


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


@pytest.mark.parametrize("below", [".", "x/y"])
def test_doctor_fails_on_a_root_that_is_a_file(run, tmp_path, below):
    (tmp_path / "file").write_text("")
    code, out, _ = run("doctor", "--root", str(tmp_path / "file" / below))
    assert code == 3
    assert "fail  nothing can be written to" in out
    assert "choose another folder with --root" in out


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


@pytest.mark.parametrize(
    ("uri", "variables", "login"),
    [
        ("http://127.0.0.1:9", {}, None),
        ("http://127.0.0.1:9", {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "pw"}, "Basic bWU6cHc="),
        ("http://me@127.0.0.1:9", {"MLFLOW_TRACKING_PASSWORD": "pw"}, "Basic bWU6cHc="),
        ("http://me:p%77@127.0.0.1:9", {}, "Basic bWU6cHc="),
        ("http://127.0.0.1:9", {"MLFLOW_TRACKING_TOKEN": "t"}, "Bearer t"),
    ],
)
def test_doctor_logs_in_to_mlflow_as_a_sweep_does(monkeypatch, uri, variables, login):
    asked = []

    def refuse(request, timeout):
        asked.append(request)
        raise HTTPError(request.full_url, 401, "", Message(), None)

    for name in ("USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    found = doctor._mlflow_server(uri)
    (request,) = asked
    assert request.full_url == "http://127.0.0.1:9/api/2.0/mlflow/experiments/search"
    assert request.unredirected_hdrs.get("Authorization") == login, "and no server that it is sent to gets it"
    assert (found.level, found.found) == ("fail", "MLflow at http://127.0.0.1:9 answers 401")
    assert "MLFLOW_TRACKING_PASSWORD" in found.fix


def test_help_is_light():
    """``--help`` must not pay for packages that only some commands need."""
    check = (
        "import sys; import vsae_search.cli.app as app; app.build_app();"
        "heavy = {'torch', 'ray', 'mlflow', 'optuna', 'pandas', 'plotly', 'numpy', 'scipy'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    finished = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=60, check=False)
    assert finished.returncode == 0, finished.stderr
