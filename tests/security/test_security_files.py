"""Files that somebody else may have written, or may read."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

import pytest
import torch

from vsae_search import saes
from vsae_search.atomic import write_bytes
from vsae_search.cli import _console, app
from vsae_search.cli._options import require_trusted
from vsae_search.errors import CorruptFile, EnvironmentNotReady
from vsae_search.search.store.directory import prepare_directory
from vsae_search.space import SearchSpace

VALUES = {
    "name": "toy",
    "subject": {"type": "directions", "d_in": 8, "features": {"count": 12, "probability": 0.1}},
    "architectures": {"topk": {"d_sae": 16, "k": 2}},
}


class Evil:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return (Path.touch, (self.trace,))


@pytest.fixture
def run(monkeypatch, capsys):
    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["vsae_search", *map(str, arguments)])
        _console.stderr.cache_clear()
        with pytest.raises(SystemExit) as leaving:
            app.main()
        shown = capsys.readouterr()
        return int(leaving.value.code or 0), shown.out + shown.err

    yield call
    _console.configure(quiet=False, debug=False, no_color=False)


def test_a_pickle_in_place_of_weights_is_never_opened(tmp_path):
    """Neither one under the name of the weights, nor one beside them."""
    trace = tmp_path / "trace"
    folder = tmp_path / "sae"
    saes.save(saes.create("topk", seed=0, d_in=4, d_sae=8, k=2), folder)
    torch.save(Evil(trace), folder / "sae.pt")
    saes.load(folder)
    torch.save(Evil(trace), folder / "sae.safetensors")
    with pytest.raises(CorruptFile):
        saes.load(folder)
    assert not trace.exists()
    torch.load(folder / "sae.pt", weights_only=False)
    assert trace.exists(), "the pickle does what it was made for"


def test_a_link_in_place_of_a_record_is_replaced_and_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    link = tmp_path / "record.json"
    link.symlink_to(victim)
    write_bytes(link, b"new")
    assert (victim.read_text(), link.read_bytes(), link.is_symlink()) == ("untouched", b"new", False)


def test_sweeps_and_activations_are_for_their_owner_only(tmp_path):
    """Whatever the umask: activations can tell what the texts were."""
    before = os.umask(0)
    try:
        directory = prepare_directory(SearchSpace.model_validate(VALUES), tmp_path / "sweeps")
    finally:
        os.umask(before)
    for folder in (directory, tmp_path / "sweeps" / ".bank"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_a_folder_that_others_can_write_to_needs_trust(tmp_path, mode):
    tmp_path.chmod(mode)
    with pytest.raises(EnvironmentNotReady, match="can be written to by other users"):
        require_trusted(tmp_path, trust=False)
    require_trusted(tmp_path, trust=True)
    tmp_path.chmod(0o755)
    require_trusted(tmp_path, trust=False)
    require_trusted(tmp_path / "new", trust=False)


@pytest.mark.parametrize("command", ["sweep", "resume", "confirm"])
def test_going_on_in_a_foreign_folder_needs_trust(run, tmp_path, monkeypatch, command):
    """All commands that go on with a sweep refuse before they read it, and say how to go on."""
    file = tmp_path / "toy.yaml"
    file.write_text(json.dumps(VALUES))
    directory = tmp_path / "sweeps" / "toy"
    directory.mkdir(parents=True, mode=0o700)
    (directory / "sweep.json").write_text("{}")
    monkeypatch.setattr(os, "getuid", lambda: directory.stat().st_uid + 1)
    what = file if command == "sweep" else "toy"
    code, shown = run(command, what, "--root", tmp_path / "sweeps")
    assert code == 3
    assert "belongs to another user" in shown
    assert "--trust" in shown
    code, shown = run(
        command, what, "--root", tmp_path / "sweeps", "--trust", *(("--dry-run",) * (command != "resume"))
    )
    assert "belongs to another user" not in shown


@pytest.mark.parametrize("name", ["../up", "/abs", "a/b", "a\\b", ".", "..", "a" * 300, "-x", "A", "a b"])
def test_a_name_cannot_leave_the_root(run, tmp_path, name):
    """As --name of a sweep and of a submitted one, and as the name that other commands look for."""
    file = tmp_path / "toy.yaml"
    file.write_text(json.dumps(VALUES))
    before = sorted(tmp_path.rglob("*"))
    for command in (("sweep", file), ("submit", file, "--address", "http://127.0.0.1:1")):
        code, _ = run(*command, f"--name={name}", "--root", tmp_path / "sweeps")
        assert code == 2
    for command in ("status", "stop", "resume", "report"):
        code, _ = run(command, "--root", tmp_path / "sweeps", "--", name)
        assert code == 2
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("root", ["s3://bucket/sweeps", "gs://bucket/sweeps", "file:///tmp/x"])
def test_an_address_is_no_folder(run, tmp_path, monkeypatch, root):
    """It would silently become a folder called s3: here."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "toy.yaml"
    file.write_text(json.dumps(VALUES))
    for command in ("sweep", "submit"):
        code, shown = run(command, file, "--root", root, *(("--address", "http://127.0.0.1:1") * (command == "submit")))
        assert code == 2
        assert "tracking.artifacts" in shown
    assert [path.name for path in tmp_path.iterdir()] == ["toy.yaml"]
