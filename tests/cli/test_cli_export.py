"""``export`` and ``import-sae`` on the command line: from a sweep to another library's files, and back."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from vsae_search.cli import _console, app
from vsae_search.cli.import_sae import default_label
from vsae_search.search.resources.cluster import connected
from vsae_search.space import ResourcesSpec

SPACE = """
name: tiny
subject:
  type: directions
  d_in: 8
  features: {count: 12, probability: 0.1}
activations: {num_tokens: 1024, evaluation_tokens: 512, calibration_tokens: 256, shard_tokens: 512}
training: {num_tokens: 1024, batch_size: 128, rungs: [1.0]}
shared: {d_sae: 16, lr: 3e-3}
architectures:
  relu: {}
  topk: {k: 2}
search: {trials: 2, sampler: random}
"""


def call(*arguments: str) -> int:
    before, sys.argv = sys.argv, ["vsae_search", *arguments]
    _console.stderr.cache_clear()
    try:
        with pytest.raises(SystemExit) as leaving:
            app.main()
    finally:
        sys.argv = before
        _console.configure(quiet=False, debug=False, no_color=False)
    return int(leaving.value.code or 0)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A folder with a finished sweep of two trials."""
    folder = tmp_path_factory.mktemp("exported")
    (folder / "space.yaml").write_text(SPACE)
    places = ("--root", str(folder / "sweeps"), "--reports", str(folder / "reports"))
    with connected(ResourcesSpec()):
        assert call("--quiet", "sweep", str(folder / "space.yaml"), *places) == 0
    return folder / "sweeps"


def export(root, *more):
    return call("export", "tiny", "--root", str(root), "--format", "saelens", *more)


def test_an_export_prints_json_and_comes_back_as_a_reference_with_the_same_numbers(root, tmp_path, capsys):
    out = tmp_path / "out"
    assert export(root, "--output", str(out)) == 0
    printed = capsys.readouterr()
    done = json.loads(printed.out)
    assert (done["sweep"], done["format"], done["directory"], done["pushed"]) == ("tiny", "saelens", str(out), None)
    assert [one["class"] for one in done["exported"]] == ["standard", "topk"]
    assert "2 in" in printed.err
    topk = done["exported"][1]
    assert export(root, "--output", str(out)) == 0
    assert {one["state"] for one in json.loads(capsys.readouterr().out)["exported"]} == {"unchanged"}

    sweeps = tmp_path / "sweeps"
    shutil.copytree(root, sweeps)
    where = ("--root", str(sweeps))
    assert call("import-sae", "tiny", topk["folder"], "--format", "saelens", *where, "-o", "json") == 0
    imported = json.loads(capsys.readouterr().out)
    assert imported["label"] == topk["uid"]
    assert imported["metrics"]["l0"] == topk["l0"]
    assert imported["metrics"]["delta_ce"] == pytest.approx(topk["delta_ce"], rel=1e-4)
    assert call("import-sae", "tiny", topk["folder"], "--format", "saelens", *where, "--label", "other") == 0
    assert capsys.readouterr().out.startswith("other  topk, 16 latents  l0 ")
    assert call("report", "tiny", *where, "--reports", str(tmp_path / "reports")) == 0
    page = (tmp_path / "reports" / "tiny" / "report.html").read_text()
    assert "topk (saelens)" in page


def test_the_default_folder_names_sweep_and_format(root, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert export(root, "--select", "relu-0000") == 0
    assert sorted(path.name for path in (tmp_path / "exports" / "tiny" / "saelens").iterdir()) == ["relu-0000"]
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("export", "tiny", "--format", "sealens"), "did you mean 'saelens'"),
        (("export", "tiny", "--format", "saelens", "--select", "topk-0007"), "no trial 'topk-0007'"),
        (("export", "other", "--format", "saelens"), "no sweep called 'other'"),
        (("export", "tiny", "--format", "saelens", "--push", "nobody"), "OWNER/REPO"),
        (("import-sae", "tiny", "nowhere", "--format", "saelens"), "has no cfg.json"),
        (("import-sae", "tiny", "nowhere", "--format", "pickle"), "unknown format"),
    ],
)
def test_wrong_input_ends_with_2_and_a_hint(root, tmp_path, capsys, arguments, message):
    output = ("--output", str(tmp_path / "out")) if arguments[0] == "export" else ()
    assert call(*arguments, "--root", str(root), *output) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert not printed.out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("path", "label"), [("my sae (v2)", "my-sae-v2"), ("layer_8.L0-32", "layer_8.L0-32"), ("x" * 80, "x" * 60)]
)
def test_the_label_is_made_from_the_name_of_the_folder(tmp_path, path, label):
    (tmp_path / path).mkdir()
    assert default_label(tmp_path / path) == label
