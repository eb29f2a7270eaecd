"""``analyze`` on the command line: files, defaults that are said, and mistakes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from analysis.analysis_sweeps import DIRECTIONS, topk, write_sweep

from vsae_search.cli import _console, app


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
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("analyze")
    trained = {"topk-0000": (topk(), 2.0, 0.5), "topk-0001": (topk(k=4), 3.0, 0.1), "topk-0002": (topk(k=8), 8.0, 0.09)}
    write_sweep(folder, "toys", DIRECTIONS, trained)
    write_sweep(folder, "wide", DIRECTIONS, {"topk-0000": topk(d_sae=32)})
    return "--root", str(folder), "--reports", str(folder / "reports")


def test_three_files_and_the_default_is_said(places, capsys):
    assert call("analyze", "toys", "--tokens", "500", "--json", *places) == 0
    captured = capsys.readouterr()
    paths = json.loads(captured.out)
    assert paths["html"].endswith("reports/toys/analysis/topk-0001/analysis.html")
    assert "topk-0001: the knee of the frontier" in captured.err
    data = json.loads(Path(paths["json"]).read_text())
    assert (data["uid"], data["rows"], data["against"]) == ("topk-0001", 500, [])
    assert len(Path(paths["latents"]).read_text().splitlines()) == 17


def test_compared_with_two_others_and_chosen_features(places, capsys, tmp_path):
    others = ("--against", "topk-0001", "--against", "wide/topk-0000")
    assert (
        call(
            "analyze",
            "toys",
            "topk-0000",
            *others,
            "--features",
            "3, 1,3",
            "--tokens",
            "300",
            "--output",
            str(tmp_path),
            *places,
        )
        == 0
    )
    assert capsys.readouterr().out.strip() == str(tmp_path / "analysis.html")
    data = json.loads((tmp_path / "analysis.json").read_text())
    assert data["against"] == ["toys/topk-0001", "wide/topk-0000"]
    assert data["features"] == [3, 1]
    assert data["analyses"]["splitting"]["numbers"]["others"][0]["narrow"]["name"] == "toys/topk-0000"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nothing",), "There is no sweep called 'nothing'"),
        (("toys", "topk-0009"), "Trained autoencoders of toys: topk-0000, topk-0001, topk-0002."),
        (("toys", "--against", "nowhere/topk-0000"), "There is no sweep called 'nowhere'"),
        (("toys", "--features", "3,x"), "is not a list of numbers of latents"),
        (("toys", "--features", ","), "is not a list of numbers of latents"),
        (("toys", "--features", "16"), "There is no latent 16"),
    ],
)
def test_mistakes_are_told_plainly(places, capsys, arguments, words):
    assert call("analyze", *arguments, *places) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""
