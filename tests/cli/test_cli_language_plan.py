"""Plans of sweeps on language models: what is known without the network, and that nothing is fetched for them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from vsae_search.cli import _console, _plan, app

SPACES = Path(__file__).resolve().parents[2] / "search_spaces"


@pytest.fixture
def run(capsys):
    """Run the command line in this process; returns its exit code and what it printed."""

    def call(*arguments: str) -> tuple[int, str]:
        before, sys.argv = sys.argv, ["vsae_search", *arguments]
        _console.stderr.cache_clear()
        try:
            with pytest.raises(SystemExit) as leaving:
                app.main()
        finally:
            sys.argv = before
            _console.configure(quiet=False, debug=False, no_color=False)
        return int(leaving.value.code or 0), capsys.readouterr().out

    return call


def line_of(plan: str, label: str) -> str:
    return next(line for line in plan.splitlines() if line.startswith(label))


@pytest.mark.parametrize(
    ("name", "model", "text"),
    [
        ("gelu1l", "gelu-1l at blocks.0.hook_mlp_out", "dataset NeelNanda/c4-code-tokenized-2b train"),
        ("gpt2", "gpt2 at blocks.8.hook_resid_pre", "dataset apollo-research/Skylion007-openwebtext-tokenizer-gpt2"),
    ],
)
def test_a_plan_of_a_model_of_the_hub_asks_the_hub_nothing(run, hub, tmp_path, name, model, text):
    code, plan = run("sweep", str(SPACES / f"{name}.yaml"), "--dry-run", "--root", str(tmp_path / "sweeps"))
    assert code == 0
    subject = line_of(plan, "Subject")
    assert model in subject
    assert text in subject
    assert "d_in read from the model" in subject
    assert "306 shards, 40.0 MB for each of the d_in coordinates" in line_of(plan, "Rows")
    assert hub.requests == []
    assert not (tmp_path / "hf_home").exists()
    assert not (tmp_path / "sweeps").exists()


def test_a_plan_of_the_built_in_model_is_complete(run, tmp_path):
    code, plan = run("sweep", str(SPACES / "tiny_lm.yaml"), "--dry-run", "--root", str(tmp_path / "sweeps"))
    assert code == 0
    assert "tiny_gelu_1l at blocks.0.hook_mlp_out, context 128, text python_stdlib   d_in 128" in plan
    assert "10 shards" in line_of(plan, "Rows")
    assert "Warning" not in plan


def test_a_missing_gpu_is_said_before_anything_starts(run, monkeypatch, tmp_path):
    arguments = ("sweep", str(SPACES / "gpt2.yaml"), "--dry-run", "--root", str(tmp_path))
    for gpus, warns in ((0, True), (1, False)):
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        _, plan = run(*arguments)
        assert ("a trial asks for 0.25 GPU and this machine has 0" in plan) is warns
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    _, plan = run(*arguments, "--address", "127.0.0.1:6379")
    assert "Warning" not in plan, "a cluster has its own GPUs"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ({"source": "python_stdlib"}, "python_stdlib"),
        ({"source": "dataset", "name": "a/b", "config": "en"}, "dataset a/b en train"),
        ({"source": "files", "paths": ["x/*.txt", "y.jsonl"]}, "files x/*.txt and 1 more"),
        ({"source": "tokens", "path": "t.npy"}, "tokens t.npy"),
    ],
)
def test_the_text_is_named(text, words):
    from vsae_search.space import LanguageModelSubject

    values = {
        "type": "language_model",
        "model": "gpt2",
        "revision": "v1",
        "hook": "blocks.0.hook_mlp_out",
        "text": text,
    }
    told = _plan._source(LanguageModelSubject.model_validate(values))
    assert told == f"gpt2@v1 at blocks.0.hook_mlp_out, context 128, text {words}"
