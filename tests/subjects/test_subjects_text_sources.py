from __future__ import annotations

import json
import os
import pickle

import numpy as np
import pytest

from vsae_search.errors import EnvironmentNotReady, UserInputError
from vsae_search.space.text import FilesText, PythonStdlibText, TokensText
from vsae_search.subjects.text import open_text
from vsae_search.subjects.text import stdlib as stdlib_module
from vsae_search.subjects.text.arrays import open_array
from vsae_search.subjects.text.files import open_files
from vsae_search.subjects.text.stdlib import open_standard_library


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def files(*paths, field="text"):
    return open_files(FilesText(source="files", paths=tuple(map(str, paths)), field=field))


def read(documents, start=0):
    return list(documents.read(start))


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


def write_parquet(path, **columns):
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table(columns), path)
    return str(path)


# files


def test_plain_text_is_one_document_per_file(tmp_path):
    write(tmp_path / "b.txt", "second\nfile\n")
    write(tmp_path / "a.txt", "\ufefffirst é")
    write(tmp_path / "deep" / "c.txt", "third")
    write(tmp_path / "empty.txt", "")
    assert read(files(tmp_path / "**" / "*.txt")) == ["first é", "second\nfile\n", "third"]
    assert read(files(tmp_path / "b.txt", tmp_path / "*.txt")) == ["second\nfile\n", "first é"]


def test_json_lines(tmp_path):
    path = write(tmp_path / "a.jsonl", lines({"text": "one"}, {"text": ""}, {"text": None}, {"text": "zwei ü"}) + "\n")
    assert read(files(path)) == ["one", "zwei ü"]
    assert read(files(path), 1) == ["zwei ü"]


def test_json_list_and_single_record(tmp_path):
    many = write(tmp_path / "a.json", json.dumps([{"body": "one"}, {"body": "two"}]))
    one = write(tmp_path / "b.json", json.dumps({"body": "three"}))
    assert read(files(many, one, field="body")) == ["one", "two", "three"]


def test_parquet(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", text=["one", None, "two", ""] * 700, n=list(range(2800)))
    assert read(files(path)) == ["one", "two"] * 700
    assert read(files(path), 1399) == ["two"]


def test_start_counts_documents_over_all_files(tmp_path):
    paths = [write(tmp_path / f"{n}.jsonl", lines(*({"text": f"{n}{i}"} for i in range(3)))) for n in range(3)]
    all_of_them = read(files(*paths))
    for start in range(10):
        assert read(files(*paths), start) == all_of_them[start:]


def test_a_name_may_look_like_a_pattern(tmp_path):
    assert read(files(write(tmp_path / "a[1].txt", "odd"))) == ["odd"]


def test_relative_paths_survive_a_change_of_directory(tmp_path, monkeypatch):
    write(tmp_path / "a.txt", "here")
    monkeypatch.chdir(tmp_path)
    documents = files("a.txt")
    monkeypatch.chdir("/")
    assert read(pickle.loads(pickle.dumps(documents))) == ["here"]


def test_the_fingerprint_is_the_content_not_the_place(tmp_path):
    here, there = write(tmp_path / "a.txt", "same"), write(tmp_path / "x" / "b.txt", "same")
    other = write(tmp_path / "c.txt", "other")
    assert files(here).fingerprint == files(there).fingerprint
    assert len({files(p).fingerprint for p in (here, other)} | {files(here, other).fingerprint}) == 3
    assert files(here, other).fingerprint != files(other, here).fingerprint
    assert files(here).describe()["files"][0]["path"] == here


def test_a_file_that_changes_is_noticed(tmp_path):
    path = write(tmp_path / "a.txt", "before")
    documents = files(path)
    write(tmp_path / "a.txt", "after!")
    os.utime(path, ns=(1, 1))
    with pytest.raises(UserInputError, match="changed while it was in use"):
        read(documents)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"ab\ncd\xff", r"a\.txt:2: byte 0xff at position 5 is not UTF-8"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xe9"}\n', r"a\.jsonl:2: byte 0xe9 at position 24 is not UTF-8"),
        ("a.jsonl", '{"text": "a"}\n{"text": \n', r"a\.jsonl:2:\d+: this is not valid JSON"),
        ("a.jsonl", '{"txt": "a", "id": 1}\n', r"a\.jsonl:1: the record has no field 'text', only 'txt', 'id'"),
        ("a.jsonl", "{}\n", r"a\.jsonl:1: the record has no field 'text', only none at all"),
        ("a.jsonl", '"a"\n', r"a\.jsonl:1: the record is a text, not an object"),
        ("a.jsonl", '{"text": 3}\n', r"a\.jsonl:1: the field 'text' holds a number, not a text"),
        ("a.jsonl", '{"text": ["a"]}\n', r"a\.jsonl:1: the field 'text' holds a list, not a text"),
        ("a.json", '[{"text": "a"},\n {"text" "b"}]', r"a\.json:2:10: this is not valid JSON"),
        ("a.json", "[1]", r"a\.json, record 0: the record is a number"),
        ("a.parquet", b"PAR1 is not enough", r"a\.parquet is not a Parquet file, or it is damaged"),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    with pytest.raises(UserInputError, match=message) as caught:
        read(files(write(tmp_path / name, content)))
    assert caught.value.hint
    assert "\n" not in caught.value.message


def test_truncated_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    write_parquet(path, text=["x" * 100] * 1000)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(UserInputError, match="damaged"):
        read(files(path))


def test_parquet_columns(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", body=["a"], n=[1])
    with pytest.raises(UserInputError, match="has no column 'text', only 'body', 'n'"):
        read(files(path))
    with pytest.raises(UserInputError, match="row 0: the field 'n' holds a number"):
        read(files(path, field="n"))


def test_paths_that_lead_nowhere(tmp_path):
    with pytest.raises(UserInputError, match="does not exist"):
        files(tmp_path / "no.txt")
    with pytest.raises(UserInputError, match="matches no file"):
        files(tmp_path / "*.txt")
    with pytest.raises(UserInputError, match="is a folder"):
        files(tmp_path)
    with pytest.raises(UserInputError, match="is compressed"):
        files(write(tmp_path / "a.txt.gz", b""))


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_without_permission(tmp_path):
    path = write(tmp_path / "a.txt", "x")
    os.chmod(path, 0)
    with pytest.raises(UserInputError, match="Permission denied"):
        files(path)


# arrays of tokens


def array(tmp_path, tokenizer, values):
    np.save(tmp_path / "a.npy", values)
    return open_array(TokensText(source="tokens", path=str(tmp_path / "a.npy")), tokenizer)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.int64, ">i4"])
def test_rows_of_an_array(tmp_path, byte_tokenizer, dtype):
    values = np.arange(24).reshape(3, 8).astype(dtype)
    documents = read(array(tmp_path, byte_tokenizer, values))
    assert [document.ids.tolist() for document in documents] == values.tolist()
    assert all(document.packed for document in documents)
    assert [document.ids.tolist() for document in read(array(tmp_path, byte_tokenizer, values), 2)] == [
        values[2].tolist()
    ]


def test_a_flat_array_is_cut_at_bos_and_eos(tmp_path, byte_tokenizer):
    values = np.array([256, 1, 2, 257, 257, 3, 256, 4, 5])
    documents = array(tmp_path, byte_tokenizer, values)
    assert [document.ids.tolist() for document in read(documents)] == [[1, 2], [3], [4, 5]]
    assert [document.ids.tolist() for document in read(documents, 1)] == [[3], [4, 5]]
    assert not any(document.packed for document in read(documents))


def test_a_flat_array_without_separators_is_refused(tmp_path, byte_tokenizer):
    with pytest.raises(UserInputError, match="without BOS or EOS"):
        array(tmp_path, byte_tokenizer, np.arange(100))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[1, 258]]), "the token 258 at position row 0, column 1, and the vocabulary has 258"),
        (np.array([256, 5, -1]), "the token -1 at position 2"),
        (np.array([[1.0]]), "holds float64, not whole numbers"),
        (np.array([[True]]), "holds bool, not whole numbers"),
        (np.zeros((2, 2, 2), dtype=int), "has the shape 2x2x2"),
        (np.zeros((0, 4), dtype=int), "has the shape 0x4"),
        (np.array(3), "has the shape"),
    ],
)
def test_bad_arrays(tmp_path, byte_tokenizer, values, message):
    with pytest.raises(UserInputError, match=message):
        array(tmp_path, byte_tokenizer, values)


def test_an_array_of_objects_is_never_unpickled(tmp_path, byte_tokenizer):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "trap"),))

    with pytest.raises(UserInputError, match="Python objects"):
        array(tmp_path, byte_tokenizer, np.array([Trap()], dtype=object))
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize("content", [b"", b"no numpy file", b"\x80\x04K\x01."])
def test_files_that_are_no_arrays(tmp_path, byte_tokenizer, content):
    path = write(tmp_path / "a.npy", content)
    with pytest.raises(UserInputError, match="is not a plain array"):
        open_array(TokensText(source="tokens", path=path), byte_tokenizer)


def test_a_truncated_array(tmp_path, byte_tokenizer):
    np.save(tmp_path / "a.npy", np.zeros((100, 10), dtype=np.int64))
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-8])
    with pytest.raises(UserInputError, match="is not a plain array"):
        open_array(TokensText(source="tokens", path=str(tmp_path / "a.npy")), byte_tokenizer)


def test_an_archive_and_a_missing_file(tmp_path, byte_tokenizer):
    np.savez(tmp_path / "a.npz", x=np.arange(3))
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    with pytest.raises(UserInputError, match="archive of several arrays"):
        open_array(TokensText(source="tokens", path=str(tmp_path / "a.npy")), byte_tokenizer)
    with pytest.raises(UserInputError, match="No such file"):
        open_array(TokensText(source="tokens", path=str(tmp_path / "b.npy")), byte_tokenizer)


# the standard library


@pytest.fixture
def small_library(monkeypatch):
    """A standard library of three modules, in place of the real one."""
    modules = ["import os\n", "x = 1\n" * 50, "def f():\n    pass\n"]
    monkeypatch.setattr(stdlib_module, "_documents", lambda: iter(modules))
    stdlib_module._digest.cache_clear()
    yield modules
    stdlib_module._digest.cache_clear()


def test_the_standard_library(small_library):
    library = open_standard_library()
    assert read(library) == small_library
    assert read(library, 2) == small_library[2:]
    assert library.describe()["sha256"] == library.sha256


def test_another_standard_library_is_noticed(small_library):
    library = open_standard_library()
    small_library.append("new = True\n")
    stdlib_module._digest.cache_clear()
    assert open_standard_library().fingerprint != library.fingerprint
    with pytest.raises(EnvironmentNotReady, match="differs from that of"):
        read(library)


def test_the_real_standard_library_packs(tmp_path, byte_tokenizer):
    text = open_text(PythonStdlibText(), byte_tokenizer, context_length=128, cache=tmp_path, seed=0)
    assert text.sequences("train", 100, 3).shape == (3, 128)
    assert b"def " in bytes(t for t in text.sequences("evaluation", 0, 40).ravel().tolist() if t < 256)
    assert text.describe()["source"] == "python_stdlib"


# all the way


@pytest.mark.parametrize("kind", ["files", "tokens"])
def test_open_text_is_deterministic_and_picklable(tmp_path, byte_tokenizer, kind):
    if kind == "files":
        path = write(tmp_path / "a.jsonl", lines(*({"text": f"{n} " + "word " * (n % 7)} for n in range(500))))
        spec = FilesText(source="files", paths=(path,))
    else:
        np.save(tmp_path / "a.npy", np.random.default_rng(0).integers(0, 256, (500, 40)))
        spec = TokensText(source="tokens", path=str(tmp_path / "a.npy"))
    texts = [
        open_text(spec, byte_tokenizer, context_length=8, cache=tmp_path / name, seed=3) for name in ("x", "y", "x")
    ]
    texts.append(pickle.loads(pickle.dumps(texts[0])))
    assert len({text.fingerprint for text in texts}) == 1
    for split in ("train", "evaluation"):
        found = [text.sequences(split, 1, 9) for text in texts]
        assert all(np.array_equal(found[0], other) for other in found[1:])
        assert (found[0][:, 0] == 256).all()
    json.dumps(texts[0].describe())
