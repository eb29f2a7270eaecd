"""The text section of a language model: what is accepted, and what is refused in which words."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from vsae_search.errors import SearchSpaceError
from vsae_search.space import load_space
from vsae_search.space.text import DatasetText, FilesText, PythonStdlibText, TextSpec, TokensText, check_revision

ADAPTER = TypeAdapter(TextSpec)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        ({"source": "python_stdlib"}, PythonStdlibText),
        ({"source": "dataset", "name": "wikitext"}, DatasetText),
        ({"source": "dataset", "name": "NeelNanda/c4-code-tokenized-2b", "field": "tokens"}, DatasetText),
        (
            {"source": "dataset", "name": "a/b", "revision": "refs/pr/3", "split": "train.clean", "config": "en"},
            DatasetText,
        ),
        ({"source": "files", "paths": ["a.txt", "b/**/*.jsonl"]}, FilesText),
        ({"source": "tokens", "path": "a.npy"}, TokensText),
    ],
)
def test_accepted(data, kind):
    assert isinstance(ADAPTER.validate_python(data), kind)


@pytest.mark.parametrize(
    ("data", "where", "message"),
    [
        ({"source": "web"}, (), "python_stdlib"),
        ({}, (), "source"),
        ({"source": "python_stdlib", "field": "x"}, ("python_stdlib", "field"), "Extra inputs"),
        ({"source": "dataset"}, ("dataset", "name"), "required"),
        ({"source": "dataset", "name": "../etc"}, ("dataset", "name"), "not the name of a repository"),
        ({"source": "dataset", "name": "/abs/path"}, ("dataset", "name"), "not the name of a repository"),
        ({"source": "dataset", "name": "a/b/c"}, ("dataset", "name"), "not the name of a repository"),
        ({"source": "dataset", "name": "hf://datasets/a"}, ("dataset", "name"), "not the name of a repository"),
        ({"source": "dataset", "name": "a--b"}, ("dataset", "name"), "not the name of a repository"),
        ({"source": "dataset", "name": ""}, ("dataset", "name"), "not the name of a repository"),
        ({"source": "dataset", "name": "a/b", "revision": "../x"}, ("dataset", "revision"), "not a commit hash"),
        ({"source": "dataset", "name": "a/b", "revision": ""}, ("dataset", "revision"), "not a commit hash"),
        ({"source": "dataset", "name": "a/b", "split": "train[:10%]"}, ("dataset", "split"), "name of one split"),
        ({"source": "dataset", "name": "a/b", "split": "train+test"}, ("dataset", "split"), "name of one split"),
        ({"source": "dataset", "name": "a/b", "field": ""}, ("dataset", "field"), "at least 1 character"),
        ({"source": "dataset", "name": "a/b", "trust_remote_code": True}, ("dataset", "trust_remote_code"), "Extra"),
        ({"source": "files", "paths": []}, ("files", "paths"), "at least 1 item"),
        ({"source": "files", "paths": ["a/"]}, ("files", "paths", 0), "is a folder"),
        ({"source": "files", "paths": ["a.txt", " "]}, ("files", "paths", 1), "is empty"),
        ({"source": "files", "paths": ["a.txt", "a.txt"]}, ("files", "paths", 1), "listed twice"),
        ({"source": "files", "paths": ["https://x/a.txt"]}, ("files", "paths", 0), "is an address"),
        ({"source": "files", "paths": ["a\0b"]}, ("files", "paths", 0), "NUL"),
        ({"source": "tokens", "path": "a.npz"}, ("tokens", "path"), "is not a .npy file"),
        ({"source": "tokens", "path": "s3://x/a.npy"}, ("tokens", "path"), "is an address"),
    ],
)
def test_refused(data, where, message):
    with pytest.raises(ValidationError) as caught:
        ADAPTER.validate_python(data)
    (error,) = caught.value.errors()
    assert error["loc"] == where
    assert message in error["msg"]


def test_every_problem_of_a_list_is_reported():
    with pytest.raises(ValidationError) as caught:
        ADAPTER.validate_python({"source": "files", "paths": ["a/", "", "b.txt"]})
    assert [error["loc"][-1] for error in caught.value.errors()] == [0, 1]


@pytest.mark.parametrize("revision", [None, "main", "v1.0", "a" * 40, "refs/pr/1"])
def test_revisions(revision):
    assert check_revision(revision) == revision


@pytest.mark.parametrize("kind", [PythonStdlibText, DatasetText, FilesText, TokensText])
def test_every_key_is_described_in_a_full_sentence(kind):
    assert kind.__doc__.endswith(".")
    for name, info in kind.model_fields.items():
        assert info.description is not None, name
        assert info.description.endswith("."), name


FILE = """\
name: words
subject:
  type: language_model
  model: tiny_gelu_1l
  hook: blocks.0.hook_mlp_out
  text: TEXT
shared: {d_sae: 8}
architectures: {relu: }
"""


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("{source: files, pathes: [a.txt]}", 25, "'pathes' is an unknown key. Did you mean 'paths'?"),
        ("{source: python_stdlib, zzz: 1}", 33, "'zzz' is an unknown key. Known: source"),
        ("{source: files, paths: [a.txt, b/]}", 40, "subject.text.paths.1: 'b/' is a folder"),
        ("{source: dataset, name: ../x}", 33, "is not the name of a repository"),
        ("{source: datasets, name: a/b}", 18, "'datasets' is not a type. Did you mean 'dataset'?"),
    ],
)
def test_mistakes_in_a_file(tmp_path, catalog, text, column, message):
    path = tmp_path / "space.yaml"
    path.write_text(FILE.replace("TEXT", text))
    with pytest.raises(SearchSpaceError) as caught:
        load_space(path, catalog)
    (problem,) = caught.value.problems
    assert message in problem.message
    assert (problem.line, problem.column) == (6, column)
