"""Revisions and errors of the hub, as the loading of models meets them."""

from __future__ import annotations

import pickle

import pytest
from hub.repositories import gpt2_files, tokenizer_files
from hub.server import STRANGER, TOKEN

from vsae_search.errors import EnvironmentNotReady, UserInputError
from vsae_search.subjects.hub import hub_errors, resolve_revision
from vsae_search.subjects.text import open_tokenizer


@pytest.fixture
def repository(hub):
    return hub.add("models", "tiny/tok", tokenizer_files())


# revisions


def test_branches_tags_and_commits(hub, repository):
    first = repository.refs["main"]
    repository.refs["v1"] = first
    second = repository.commit({"a": b"b"})
    assert resolve_revision("tiny/tok", None, "model") == second
    assert resolve_revision("tiny/tok", "main", "model") == second
    assert resolve_revision("tiny/tok", "v1", "model") == first
    assert resolve_revision("tiny/tok", first, "model") == first


def test_offline_the_last_known_commit_is_used(hub, repository, go_offline):
    commit = resolve_revision("tiny/tok", "main", "model")
    hub.requests.clear()
    go_offline()
    assert resolve_revision("tiny/tok", None, "model") == commit
    assert hub.requests == []
    with pytest.raises(EnvironmentNotReady, match="the model tiny/tok is not in the local cache, and HF_HUB_OFFLINE"):
        resolve_revision("tiny/tok", "v2", "model")


def test_wrong_names_and_revisions(hub, repository):
    with pytest.raises(UserInputError, match="the model tiny/tok has no revision 'v9'"):
        resolve_revision("tiny/tok", "v9", "model")
    with pytest.raises(UserInputError, match="the model tiny/none does not exist on http"):
        resolve_revision("tiny/none", None, "model")
    with pytest.raises(UserInputError, match="the dataset tiny/tok does not exist"):
        resolve_revision("tiny/tok", None, "dataset")


def test_a_hub_that_is_down(hub, repository):
    hub.close()
    with pytest.raises(EnvironmentNotReady, match=r"the model tiny/tok cannot be fetched: the connection to .* failed"):
        resolve_revision("tiny/tok", None, "model")


def test_a_hub_out_of_order(hub, repository):
    hub.failure = 500
    with pytest.raises(EnvironmentNotReady, match=r"the model tiny/tok cannot be fetched: http.*\(HTTP 500\)"):
        resolve_revision("tiny/tok", None, "model")


# errors in general


def test_other_errors_pass_through():
    for error in (ValueError("mine"), KeyError("k"), ZeroDivisionError()):
        with pytest.raises(type(error)) as caught, hub_errors("a/b", "model"):
            raise error
        assert caught.value is error
    own = UserInputError("mine", "hint")
    with pytest.raises(UserInputError) as caught, hub_errors("a/b", "model"):
        raise own
    assert caught.value is own


def test_errors_survive_pickling(hub):
    with pytest.raises(UserInputError) as caught:
        resolve_revision("tiny/none", None, "model")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.message, again.hint) == (caught.value.message, caught.value.hint)


def test_files_of_a_model(hub):
    from huggingface_hub import hf_hub_download

    repository = hub.add("models", "tiny/gpt2", {"config.json": b"{}", "model.safetensors": b"x" * 1000})

    def fetch(name):
        with hub_errors("tiny/gpt2", "model"):
            return hf_hub_download("tiny/gpt2", name, revision=repository.refs["main"])

    with pytest.raises(UserInputError, match=r"the model tiny/gpt2 lacks a file that is needed \(HTTP 404\)"):
        fetch("pytorch_model.bin")
    repository.truncated = {"model.safetensors"}
    with pytest.raises(EnvironmentNotReady, match=r"the model tiny/gpt2 cannot be fetched") as caught:
        fetch("model.safetensors")
    assert "\n" not in caught.value.message
    repository.truncated = set()
    with open(fetch("model.safetensors"), "rb") as file:
        assert file.read() == b"x" * 1000


# tokenizers


def test_a_tokenizer_of_the_hub(hub, repository):
    tokenizer = open_tokenizer("tiny/tok")
    assert (tokenizer.name, tokenizer.revision) == ("tiny/tok", repository.refs["main"])
    assert (tokenizer.eos_id, tokenizer.bos_id) == (0, 1)
    assert tokenizer.special_ids == {0, 1, 2}
    assert 259 <= tokenizer.vocab_size <= 300
    texts = ["the cat sat", "", "Zürich 東京\n\tdef f(x): return x", "the " * 500]
    encoded = tokenizer.encode(texts)
    assert [tokenizer.decode(ids) for ids in encoded] == texts
    assert len(encoded[3]) >= 500
    assert tokenizer.encode([]) == []
    assert tokenizer.decode([1, *encoded[0]]) == "<|BOS|>the cat sat"


def test_names_of_special_tokens_in_a_text_are_text(hub, repository):
    tokenizer = open_tokenizer("tiny/tok")
    text = "a <|BOS|> b <|EOS|><|PAD|>"
    (ids,) = tokenizer.encode([text])
    assert not tokenizer.special_ids & set(ids)
    assert tokenizer.decode(ids) == text


def test_a_folder_is_a_tokenizer_too(hub, repository, tmp_path, go_offline):
    for name, content in tokenizer_files().items():
        (tmp_path / name).write_bytes(content)
    from_hub = open_tokenizer("tiny/tok")
    hub.requests.clear()
    go_offline()
    from_folder = open_tokenizer(str(tmp_path))
    assert from_folder.fingerprint == from_hub.fingerprint
    assert from_folder.encode(["the cat"]) == from_hub.encode(["the cat"])
    assert (from_folder.name, from_folder.revision) == (str(tmp_path), None)
    assert hub.requests == []


def test_a_cached_tokenizer_works_offline_and_in_workers(hub, repository, go_offline):
    tokenizer = open_tokenizer("tiny/tok")
    before = tokenizer.encode(["the dog"])
    payload = pickle.dumps(tokenizer)
    assert len(payload) < 1000
    go_offline()
    again = pickle.loads(payload)
    assert again.encode(["the dog"]) == before
    assert open_tokenizer("tiny/tok").fingerprint == tokenizer.fingerprint


def test_encoding_does_not_change_the_fingerprint(hub, repository):
    tokenizer = open_tokenizer("tiny/tok")
    tokenizer.encode(["the cat"])
    again = pickle.loads(pickle.dumps(tokenizer))
    again.encode(["the cat"])  # compares the fingerprint of what it loads


def test_a_folder_that_changes_is_noticed(tmp_path):
    for name, content in tokenizer_files().items():
        (tmp_path / name).write_bytes(content)
    tokenizer = pickle.loads(pickle.dumps(open_tokenizer(str(tmp_path))))
    for name, content in tokenizer_files(bos="<|START|>").items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserInputError, match="is not the one with which the work was started"):
        tokenizer.encode(["the cat"])


def test_one_token_for_bos_and_eos(hub):
    hub.add("models", "tiny/gpt2", gpt2_files())
    tokenizer = open_tokenizer("tiny/gpt2")
    assert tokenizer.bos_id == tokenizer.eos_id == 0
    assert tokenizer.special_ids == {0}


def test_missing_bos_and_eos(tmp_path):
    files = tokenizer_files()
    for removed, want in ((("bos_token",), (0, 0)), (("eos_token",), (1, 1)), (("bos_token", "eos_token"), None)):
        config = files["tokenizer_config.json"].decode()
        for name in removed:
            config = config.replace(f'"{name}"', f'"no_{name}"')
        (tmp_path / "tokenizer.json").write_bytes(files["tokenizer.json"])
        (tmp_path / "tokenizer_config.json").write_text(config)
        if want:
            tokenizer = open_tokenizer(str(tmp_path))
            assert (tokenizer.bos_id, tokenizer.eos_id) == want
        else:
            with pytest.raises(UserInputError, match="neither a BOS nor an EOS token"):
                open_tokenizer(str(tmp_path))


def test_tokenizers_that_cannot_be_loaded(hub, tmp_path):
    with pytest.raises(UserInputError, match="the model tiny/none does not exist"):
        open_tokenizer("tiny/none")
    for name in ("no such name", "/no/such/folder", "a/b/c"):
        with pytest.raises(UserInputError, match="is not the name of a model on the hub, nor a folder"):
            open_tokenizer(name)
    hub.add("models", "tiny/empty", {"README.md": b"x"})
    with pytest.raises(UserInputError, match="the tokenizer tiny/empty cannot be loaded"):
        open_tokenizer("tiny/empty")
    (tmp_path / "tokenizer.json").write_text('{"version": ')
    (tmp_path / "tokenizer_config.json").write_bytes(tokenizer_files()["tokenizer_config.json"])
    with pytest.raises(UserInputError, match="cannot be read") as caught:
        open_tokenizer(str(tmp_path))
    assert "\n" not in caught.value.message


def test_a_gated_tokenizer(hub, monkeypatch):
    hub.add("models", "tiny/tok", tokenizer_files(), gated=True)
    for token in (None, STRANGER):
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(UserInputError, match="access to the model tiny/tok is restricted") as caught:
            open_tokenizer("tiny/tok")
        assert "HF_TOKEN" in caught.value.hint
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert open_tokenizer("tiny/tok").bos_id == 1


def test_the_code_of_a_tokenizer_is_never_run(hub, tmp_path):
    trap = f"open({str(tmp_path / 'trap')!r}, 'w')\n"
    config = b'{"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", null]}}'
    hub.add("models", "tiny/tok", {"own.py": trap.encode(), "tokenizer_config.json": config, "config.json": b"{}"})
    with pytest.raises(UserInputError, match="code of its own"):
        open_tokenizer("tiny/tok")
    assert not (tmp_path / "trap").exists()
