"""Whether nodes share a folder: what each of them looks at, and what the sweep says."""

from __future__ import annotations

import pytest

from vsae_search.errors import EnvironmentNotReady
from vsae_search.search.resources import reach
from vsae_search.search.resources.reach import Reach, look, require_shared


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(reach, "_PATIENCE_S", 0.0)


def test_a_shared_folder_passes_and_the_reply_is_written(tmp_path):
    (tmp_path / "mark").write_text("word")
    assert look(tmp_path / "mark", tmp_path / "reply", "word") == ""
    assert (tmp_path / "reply").read_text() == "word"


def test_a_folder_of_its_own_is_told(tmp_path):
    """Nothing there, or a file of the same name that says something else."""
    assert look(tmp_path / "mark", tmp_path / "reply", "word") == f"does not see what the driver writes to {tmp_path}"
    (tmp_path / "mark").write_text("another")
    assert "does not see" in look(tmp_path / "mark", tmp_path / "reply", "word")
    assert not (tmp_path / "reply").exists()


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "mark").write_text("word")
    (tmp_path / "reply").mkdir()
    said = look(tmp_path / "mark", tmp_path / "reply", "word")
    assert said == f"cannot write to {tmp_path}: Is a directory"


def test_the_refusal_names_every_node_with_what_it_found(tmp_path, monkeypatch):
    found = [Reach("10.0.0.1"), Reach("10.0.0.2", "does not see it"), Reach("10.0.0.3", "cannot write")]
    monkeypatch.setattr(reach, "reach_of", lambda _: found)
    with pytest.raises(EnvironmentNotReady) as told:
        require_shared(tmp_path)
    assert told.value.message.splitlines() == [
        f"{tmp_path} is not shared by all nodes:",
        "  10.0.0.2 does not see it",
        "  10.0.0.3 cannot write",
    ]
    monkeypatch.setattr(reach, "reach_of", lambda _: found[:1])
    require_shared(tmp_path)
