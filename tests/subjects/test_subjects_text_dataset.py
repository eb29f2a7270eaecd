"""Datasets from a hub on this machine: streaming, pinning, working offline, and every way in which it can fail."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hub.repositories import dataset_files, json_lines, parquet, sentences, token_dataset_files
from hub.server import STRANGER, TOKEN

from vsae_search.errors import EnvironmentNotReady, UserInputError
from vsae_search.space.text import DatasetText
from vsae_search.subjects.text import open_text
from vsae_search.subjects.text.dataset import open_dataset

DOCUMENTS = sentences(60)


def spec(name="tiny/text", **keys):
    return DatasetText(source="dataset", name=name, **keys)


def read(tmp_path, *args, **keys):
    return list(open_dataset(spec(*args, **keys), tmp_path / "cache").read(0))


def text_of(tmp_path, tokenizer, **keys):
    return open_text(spec(**keys), tokenizer, context_length=16, cache=tmp_path / "cache", seed=0)


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_documents_in_order(hub, tmp_path, form):
    repository = hub.add("datasets", "tiny/text", dataset_files(form=form))
    documents = open_dataset(spec(), tmp_path)
    assert documents.commit == repository.refs["main"]
    assert list(documents.read(0)) == DOCUMENTS
    assert list(documents.read(41)) == DOCUMENTS[41:]
    assert documents.describe()["commit"] == repository.refs["main"]


def test_the_repositorys_own_splits(hub, tmp_path):
    hub.add("datasets", "tiny/text", dataset_files())
    assert read(tmp_path, split="test") == sentences(10, seed=2)
    with pytest.raises(UserInputError, match=r"the dataset tiny/text cannot be used: .*Bad split") as caught:
        read(tmp_path, split="validation")
    assert "split" in caught.value.hint


def test_configurations(hub, tmp_path):
    card = "configs:\n" + "".join(f"- config_name: {n}\n  data_files: {n}/*.jsonl\n" for n in ("en", "de"))
    files = {"README.md": f"---\n{card}---\n".encode()}
    hub.add("datasets", "tiny/text", {**files, "en/a.jsonl": json_lines(["one"]), "de/a.jsonl": json_lines(["eins"])})
    assert read(tmp_path, config="de") == ["eins"]
    with pytest.raises(UserInputError, match="Config name is missing"):
        read(tmp_path)
    with pytest.raises(UserInputError, match="'fr' not found"):
        read(tmp_path, config="fr")


def test_rows_without_text_are_skipped(hub, tmp_path):
    hub.add("datasets", "tiny/text", {"a.parquet": parquet({"body": ["one", None, "", "two"], "n": [1, 2, 3, 4]})})
    assert read(tmp_path, field="body") == ["one", "two"]
    with pytest.raises(UserInputError, match="has no column 'text', only 'body', 'n'"):
        read(tmp_path)
    with pytest.raises(UserInputError, match="row 0: the column 'n' holds a number"):
        read(tmp_path, field="n")


@pytest.mark.parametrize("column", ["tokens", "input_ids"])
def test_tokenised_datasets(hub, tmp_path, byte_tokenizer, column):
    draw = np.random.default_rng(0)
    rows = [[256, *draw.integers(0, 256, 45).tolist()] for _ in range(100)]
    hub.add("datasets", "tiny/text", token_dataset_files(rows, column=column))
    text = text_of(tmp_path, byte_tokenizer)
    got = [
        row
        for split in ("train", "calibration", "evaluation", "confirm")
        for row in text.sequences(split, 0, text.available(split, 10**6)).tolist()
    ]
    assert sorted(got) == sorted([256, *row[i : i + 15]] for row in rows for i in (1, 16, 31))


def test_tokens_of_another_vocabulary(hub, tmp_path, byte_tokenizer):
    hub.add("datasets", "tiny/text", token_dataset_files([[1] * 20, [1, 5000] + [2] * 20]))
    with pytest.raises(UserInputError, match="tiny/text, row 1: there is the token 5000, and the vocabulary has 258"):
        text_of(tmp_path, byte_tokenizer).available("train", 1)


def test_a_revision_is_pinned(hub, tmp_path, byte_tokenizer):
    repository = hub.add("datasets", "tiny/text", {"a.jsonl": json_lines(sentences(50))})
    first = repository.refs["main"]
    repository.refs["v1"] = first
    old = text_of(tmp_path, byte_tokenizer)
    want = old.sequences("train", 0, 20)
    second = repository.commit({"a.jsonl": json_lines(sentences(50, seed=9))})
    assert open_dataset(spec(), tmp_path).commit == second
    assert text_of(tmp_path, byte_tokenizer).fingerprint != old.fingerprint
    for revision in (first, "v1"):
        again = text_of(tmp_path / "new", byte_tokenizer, revision=revision)
        assert again.fingerprint == old.fingerprint
        np.testing.assert_array_equal(again.sequences("train", 0, 20), want)


def test_offline_the_tokens_that_are_there_are_used(hub, tmp_path, byte_tokenizer, go_offline):
    hub.add("datasets", "tiny/text", dataset_files())
    want = text_of(tmp_path, byte_tokenizer).sequences("train", 0, 20)
    hub.requests.clear()
    go_offline()
    text = text_of(tmp_path, byte_tokenizer)
    np.testing.assert_array_equal(text.sequences("train", 0, 20), want)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(text)).sequences("train", 0, 20), want)
    assert hub.requests == []


def test_a_hub_that_is_down_is_no_obstacle_to_tokens_that_are_there(hub, tmp_path, byte_tokenizer):
    hub.add("datasets", "tiny/text", dataset_files())
    want = text_of(tmp_path, byte_tokenizer).sequences("train", 0, 20)
    hub.close()
    np.testing.assert_array_equal(text_of(tmp_path, byte_tokenizer).sequences("train", 0, 20), want)


def test_offline_a_downloaded_dataset_is_used(hub, tmp_path, go_offline):
    from datasets import load_dataset

    hub.add("datasets", "tiny/text", dataset_files())
    load_dataset("tiny/text")  # as a user prepares a machine without a network
    hub.requests.clear()
    go_offline()
    assert read(tmp_path) == DOCUMENTS
    assert hub.requests == []


def test_offline_a_download_of_another_commit_is_refused(hub, tmp_path, go_offline):
    from datasets import load_dataset

    repository = hub.add("datasets", "tiny/text", dataset_files())
    cached = repository.refs["main"]
    load_dataset("tiny/text")
    other = repository.commit(dataset_files(30))
    go_offline()
    with pytest.raises(EnvironmentNotReady, match=f"at the commit {cached[:12]}, and {other[:12]} is wanted"):
        read(tmp_path, revision=other)


def test_offline_with_nothing_cached(hub, tmp_path, go_offline):
    hub.add("datasets", "tiny/text", dataset_files())
    go_offline()
    with pytest.raises(EnvironmentNotReady, match=r"dataset tiny/text .*HF_HUB_OFFLINE") as caught:
        read(tmp_path)
    assert "HF_HOME" in caught.value.hint
    assert hub.requests == []


def test_offline_with_the_commit_known_but_no_data(hub, tmp_path, go_offline):
    repository = hub.add("datasets", "tiny/text", dataset_files())
    go_offline()
    with pytest.raises(EnvironmentNotReady, match="dataset tiny/text"):
        read(tmp_path, revision=repository.refs["main"])


def test_a_missing_repository(hub, tmp_path, monkeypatch):
    for token in (None, TOKEN):
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(
            UserInputError, match=r"dataset tiny/none does not exist on http.*, or it is private"
        ) as caught:
            read(tmp_path, "tiny/none")
        assert "HF_TOKEN" in caught.value.hint
        assert "HF_ENDPOINT" in caught.value.hint


def test_a_wrong_revision(hub, tmp_path):
    hub.add("datasets", "tiny/text", dataset_files())
    with pytest.raises(UserInputError, match="dataset tiny/text has no revision 'v9'"):
        read(tmp_path, revision="v9")
    with pytest.raises(UserInputError, match="dataset tiny/text has no revision 'aaaaaaaa"):
        read(tmp_path, revision="a" * 40)


def test_a_private_repository(hub, tmp_path, monkeypatch):
    hub.add("datasets", "tiny/text", dataset_files(), private=True)
    with pytest.raises(UserInputError, match=r"or it is private \(HTTP 401\)"):
        read(tmp_path)
    monkeypatch.setenv("HF_TOKEN", STRANGER)
    with pytest.raises(UserInputError, match=r"or it is private \(HTTP 404\)"):
        read(tmp_path)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert read(tmp_path) == DOCUMENTS


def test_a_gated_repository(hub, tmp_path, monkeypatch):
    hub.add("datasets", "tiny/text", dataset_files(), gated=True)
    for token in (None, STRANGER):
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(UserInputError, match="access to the dataset tiny/text is restricted") as caught:
            read(tmp_path)
        assert "HF_TOKEN" in caught.value.hint
        assert "/datasets/tiny/text" in caught.value.hint
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert read(tmp_path) == DOCUMENTS


def test_a_token_that_is_not_valid(hub, tmp_path, monkeypatch):
    hub.add("datasets", "tiny/text", dataset_files())
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 34)
    with pytest.raises(UserInputError, match=r"refused the token that was sent for the dataset tiny/text \(HTTP 401\)"):
        read(tmp_path)


def test_a_hub_that_is_down(hub, tmp_path):
    hub.close()
    with pytest.raises(
        EnvironmentNotReady, match=r"dataset tiny/text cannot be fetched: the connection to .* failed"
    ) as caught:
        read(tmp_path)
    assert "HF_ENDPOINT" in caught.value.hint


def test_a_hub_out_of_order(hub, tmp_path):
    hub.failure = 503
    with pytest.raises(EnvironmentNotReady, match=r"dataset tiny/text cannot be fetched"):
        read(tmp_path)


def test_a_hub_that_goes_down_while_it_is_read(hub, tmp_path):
    hub.add("datasets", "tiny/text", dataset_files(form="jsonl"))
    documents = open_dataset(spec(), tmp_path)
    hub.failure = 503
    with pytest.raises(EnvironmentNotReady, match="dataset tiny/text"):
        list(documents.read(0))
    hub.close()
    with pytest.raises(EnvironmentNotReady, match="dataset tiny/text"):
        list(documents.read(0))


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_a_download_that_ends_too_early(hub, tmp_path, form):
    repository = hub.add("datasets", "tiny/text", dataset_files(form=form))
    documents = open_dataset(spec(), tmp_path)
    repository.truncated = {path for path in repository.commits[documents.commit] if "00001" in path}
    with pytest.raises(EnvironmentNotReady, match="dataset tiny/text cannot be fetched") as caught:
        list(documents.read(0))
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.parquet", b"PAR1 is not enough PAR1"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n'),
        ("a.jsonl", b'{"text": "\xff\xfe"}\n'),
    ],
)
def test_corrupt_files(hub, tmp_path, name, content):
    hub.add("datasets", "tiny/text", {name: content})
    with pytest.raises(UserInputError, match="the dataset tiny/text has a file that cannot be read") as caught:
        read(tmp_path)
    assert "HF_HOME" in caught.value.hint
    assert "\n" not in caught.value.message


def test_a_repository_without_data(hub, tmp_path):
    hub.add("datasets", "tiny/text", {"README.md": b"nothing"})
    with pytest.raises(UserInputError, match="dataset tiny/text has no data files"):
        read(tmp_path)


def test_code_of_a_repository_is_never_run(hub, tmp_path):
    trap = f"open({str(tmp_path / 'trap')!r}, 'w')\n".encode()
    hub.add("datasets", "tiny/text", {"text.py": trap})
    with pytest.raises(UserInputError, match="code of its own"):
        read(tmp_path)
    assert not (tmp_path / "trap").exists()


def test_a_folder_of_the_same_name_is_not_taken_for_the_repository(hub, tmp_path, monkeypatch):
    (tmp_path / "tiny" / "text").mkdir(parents=True)
    (tmp_path / "tiny" / "text" / "a.jsonl").write_bytes(json_lines(["wrong"]))
    monkeypatch.chdir(tmp_path)
    hub.add("datasets", "tiny/text", dataset_files())
    assert read(tmp_path) == DOCUMENTS


def test_in_a_process_of_its_own(hub, hub_environment, tmp_path):
    """Nothing is patched there: the variables alone must do."""
    hub.add("datasets", "tiny/text", dataset_files())
    script = """
import sys
from pathlib import Path
from vsae_search.space.text import DatasetText
from vsae_search.subjects.text.dataset import open_dataset
documents = open_dataset(DatasetText(source="dataset", name="tiny/text"), Path(sys.argv[1]))
sys.exit(0 if len(list(documents.read(0))) == 60 else 1)
"""
    root = Path(__file__).parents[2]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")} | hub_environment
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "cache")],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert any("/resolve/" in request for request in hub.requests)
