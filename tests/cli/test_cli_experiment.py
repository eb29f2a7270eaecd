"""Toy experiments and event files on the command line; nothing is trained here."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from vsae_search.cli import _console, app
from vsae_search.tracking import tensorboard

SPACES = Path(__file__).parents[2] / "search_spaces"
GEOMETRY = str(SPACES / "toy_geometry.yaml")
SEEDS = sorted((SPACES / "seeds").glob("*.yaml"))


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


def test_a_dry_run_prints_the_plan_and_creates_nothing(run, tmp_path):
    root = tmp_path / "sweeps"
    code, out, _ = run("sweep", GEOMETRY, "--dry-run", "--root", str(root), "--set", "experiment.seeds=2")
    assert code == 0
    assert "12 trials: 6 settings with 2 seeds each" in out
    assert "Nothing was started" in out
    assert not root.exists()
    code, out, _ = run("sweep", GEOMETRY, "--dry-run", "--root", str(root), "-o", "json")
    assert json.loads(out)["experiment"] == "geometry"


@pytest.mark.parametrize(("option", "advice"), [("--trials", "experiment.seeds"), ("--from", "Leave it out")])
def test_options_of_a_search_are_refused(run, tmp_path, option, advice):
    code, _, err = run("sweep", GEOMETRY, option, "3", "--root", str(tmp_path))
    assert code == 2
    assert f"{option} does not apply" in err
    assert advice in err


def test_validate_counts_settings_and_seeds(run):
    code, out, _ = run("validate", GEOMETRY)
    assert (code, out) == (0, f"{GEOMETRY}: ok (geometry experiment, 6 settings with 8 seeds each)\n")


@pytest.mark.parametrize("path", SEEDS, ids=lambda path: path.stem)
def test_the_command_of_a_seed_has_a_plan(run, tmp_path, path):
    code, out, err = run("sweep", str(path), "--dry-run", "--root", str(tmp_path))
    assert code == 0, err
    assert f"Sweep     seed_{path.stem}" in out


def test_the_schema_of_experiments_is_printed(run):
    code, out, _ = run("schema", "--experiment")
    assert code == 0
    assert json.loads(out)["title"] == "vsae_search toy experiment"


def test_a_missing_event_writer_is_told_before_anything_starts(run, tmp_path, monkeypatch):
    monkeypatch.setattr(tensorboard, "find_spec", lambda name: None)
    wanted, root = ("--set", "tracking.tensorboard=true"), tmp_path / "sweeps"
    for path in (GEOMETRY, str(SPACES / "toy.yaml")):
        for more in ((), ("--dry-run",)):
            code, _, err = run("sweep", path, *wanted, *more, "--root", str(root), "--reports", str(tmp_path))
            assert code == 3
            assert "tensorboardX is not installed" in err
            assert not (root / Path(path).stem).exists()
    seed = str(SPACES / "seeds" / "toy_vanilla_sae.yaml")
    code, out, err = run("validate", seed)
    assert (code, ": ok" in out, "tensorboardX is not installed" in err) == (0, True, True)
    code, out, _ = run("doctor", "--space", seed, "--root", str(tmp_path))
    assert code == 3
    assert "fail  tracking.tensorboard asks for event files" in out


def test_doctor_says_that_event_files_can_be_written(run, tmp_path):
    code, out, _ = run("doctor", "--space", str(SPACES / "seeds" / "toy_vanilla_sae.yaml"), "--root", str(tmp_path))
    assert code == 0
    assert "TensorBoard event files can be written" in out
