from __future__ import annotations

import errno
import pickle
import random

import numpy as np
import pytest

from vsae_search.errors import CorruptFile, EnvironmentNotReady, UserInputError
from vsae_search.subjects.text import source as source_module
from vsae_search.subjects.text import split_of
from vsae_search.subjects.text.documents import TokenDocument
from vsae_search.subjects.text.packing import Packer, batches
from vsae_search.subjects.text.source import PackedText
from vsae_search.subjects.text.splits import SHARES

BOS, EOS = 256, 257
SPLITS = list(SHARES)


class Listed:
    """Documents from a list, counting how often they are read."""

    def __init__(self, documents, fingerprint="listed"):
        self.documents = documents
        self.fingerprint = fingerprint
        self.starts = []

    def read(self, start):
        self.starts.append(start)
        yield from self.documents[start:]

    def describe(self):
        return {"source": "listed"}


def texts(count, seed=0):
    draw = random.Random(seed)
    return [f"<{index}>" + "".join(draw.choices("abcdefgh ", k=draw.randint(0, 60))) for index in range(count)]


def rows(count, length, seed=0):
    draw = np.random.default_rng(seed)
    return [TokenDocument(draw.integers(0, 256, length), True, f"row {index}") for index in range(count)]


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 512, 1024 and then 2048 tokens, batches of 4 documents."""
    monkeypatch.setattr(source_module, "_FIRST_CHUNK", 512)
    monkeypatch.setattr(source_module, "_LARGEST_CHUNK", 2048)
    monkeypatch.setattr("vsae_search.subjects.text.packing._BATCH_DOCUMENTS", 4)


def packed(tmp_path, tokenizer, documents, *, context_length=9, seed=0):
    return PackedText(Listed(documents), tokenizer, context_length, tmp_path / "cache", seed)


def everything(text, split):
    return text.sequences(split, 0, text.available(split, 10**9))


def test_split_of_is_the_interval_of_the_hash():
    import hashlib

    for text in texts(50):
        position = int(hashlib.sha256(text.encode()).hexdigest()[:16], 16) / 2**64
        bounds = [("train", 0.9), ("calibration", 0.92), ("evaluation", 0.96), ("confirm", 1.0)]
        assert split_of(text) == next(name for name, bound in bounds if position < bound)


def test_split_shares():
    found = [split_of(str(number)) for number in range(20_000)]
    for split, share in SHARES.items():
        expected, deviation = 20_000 * share, (20_000 * share * (1 - share)) ** 0.5
        assert abs(found.count(split) - expected) < 4 * deviation


def test_split_of_tokens_does_not_depend_on_their_type():
    ids = np.arange(300)
    assert split_of(ids.astype(np.uint16)) == split_of(ids.astype(np.int64)) == split_of(np.repeat(ids, 2)[::2])
    assert {split_of(ids + number) for number in range(200)} == set(SPLITS)


def train_texts(*wanted):
    """Variants of these texts that belong to the training split: one that does not gets a letter appended."""
    found = []
    for text in wanted:
        while split_of(text) != "train":
            text += "x"
        found.append(text)
    return found


def test_packing_by_hand(byte_tokenizer):
    first, second = train_texts("abc", "defgh")
    packer = Packer(byte_tokenizer, 5, {})
    packer.add([first, second])
    sequences, left_over = packer.take()
    flat = [*first.encode(), EOS, *second.encode(), EOS]
    whole = len(flat) // 4
    assert sequences["train"].tolist() == [[BOS, *flat[4 * i : 4 * i + 4]] for i in range(whole)]
    assert left_over["train"].tolist() == flat[4 * whole :]
    assert sequences["train"][0].tolist() == [BOS, *b"abc", EOS]
    assert [len(sequences[split]) for split in SPLITS[1:]] == [0, 0, 0]
    assert packer.num_tokens == len(flat)


def test_packing_goes_on_with_what_was_left_over(byte_tokenizer):
    (text,) = train_texts("de")
    packer = Packer(byte_tokenizer, 5, {"train": np.array([97, 98, 99])})
    packer.add([text])
    sequences, left_over = packer.take()
    flat = [97, 98, 99, *text.encode(), EOS]
    assert sequences["train"].tolist()[0] == [BOS, *flat[:4]]
    assert left_over["train"].tolist() == flat[len(flat) // 4 * 4 :]


def test_packed_rows_are_cut_by_themselves(byte_tokenizer):
    row = np.array([BOS, 1, 2, 3, EOS, 4, 5, 6, 7, 8, EOS, EOS])
    split = split_of(row)
    packer = Packer(byte_tokenizer, 4, {})
    packer.add([TokenDocument(row, True, "row 0")])
    sequences, left_over = packer.take()
    # BOS at the front and EOS at the end are not text; 9 tokens are three pieces of 3; the EOS inside stays.
    assert sequences[split].tolist() == [[BOS, 1, 2, 3], [BOS, EOS, 4, 5], [BOS, 6, 7, 8]]
    assert left_over[split].size == 0
    assert packer.short_rows == 0


def test_short_rows_are_counted(byte_tokenizer):
    packer = Packer(byte_tokenizer, 9, {})
    packer.add(
        [TokenDocument(np.array([BOS, 1, 2, EOS]), True, "row 0"), TokenDocument(np.array([EOS]), True, "row 1")]
    )
    sequences, _ = packer.take()
    assert packer.short_rows == 2
    assert sum(map(len, sequences.values())) == 0


def test_tokens_outside_the_vocabulary_are_refused(byte_tokenizer):
    packer = Packer(byte_tokenizer, 4, {})
    with pytest.raises(UserInputError, match="row 7: there is the token 258, and the vocabulary has 258"):
        packer.add([TokenDocument(np.array([1, 258, 2]), True, "row 7")])
    with pytest.raises(UserInputError, match="token -1"):
        packer.add([TokenDocument(np.array([1, -1]), False, "row 7")])


def test_batches_are_bounded(monkeypatch):
    monkeypatch.setattr("vsae_search.subjects.text.packing._BATCH_CHARACTERS", 10)
    assert list(batches(iter(["aaaa", "bbbb", "cc", "d" * 30, "e"]))) == [["aaaa", "bbbb", "cc"], ["d" * 30], ["e"]]


@pytest.mark.usefixtures("small_chunks")
def test_every_token_once_and_in_its_own_split(tmp_path, byte_tokenizer):
    documents = texts(300)
    text = packed(tmp_path, byte_tokenizer, documents)
    for split in SPLITS:
        flat = [t for d in documents if split_of(d) == split for t in [*d.encode(), EOS]]
        want = sorted([BOS, *flat[i : i + 8]] for i in range(0, len(flat) // 8 * 8, 8))
        assert sorted(everything(text, split).tolist()) == want


@pytest.mark.usefixtures("small_chunks")
def test_no_document_in_two_splits(tmp_path, byte_tokenizer):
    documents = texts(120) * 3  # every document three times, far apart
    text = packed(tmp_path, byte_tokenizer, documents, context_length=65)
    names = {split: set() for split in SPLITS}
    for split in SPLITS:
        for sequence in everything(text, split):
            for piece in byte_tokenizer.decode(sequence[1:]).split("<")[1:]:
                if ">" in piece:
                    names[split].add(piece.partition(">")[0])
    found = [name for split in SPLITS for name in names[split]]
    assert len(found) == len(set(found))
    assert len(found) > 100


@pytest.mark.usefixtures("small_chunks")
def test_grown_in_steps_equals_made_at_once(tmp_path, byte_tokenizer):
    documents = texts(400)
    once = packed(tmp_path / "once", byte_tokenizer, documents)
    want = {split: everything(once, split) for split in SPLITS}
    assert len(list((tmp_path / "once" / "cache").iterdir())) > 3

    steps = packed(tmp_path / "steps", byte_tokenizer, documents)
    got = []
    for start in range(0, len(want["train"]), 7):
        count = min(7, len(want["train"]) - start)
        if start % 5 == 0:  # as in another process
            steps = pickle.loads(pickle.dumps(steps))
        got.append(steps.sequences("train", start, count))
    np.testing.assert_array_equal(np.concatenate(got), want["train"])
    for split in SPLITS:
        np.testing.assert_array_equal(everything(steps, split), want[split])
    files = sorted(path.name for path in (tmp_path / "once" / "cache").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "steps" / "cache").iterdir())
    for name in files:
        content = [(tmp_path / where / "cache" / name).read_bytes() for where in ("once", "steps")]
        assert content[0] == content[1]


@pytest.mark.usefixtures("small_chunks")
def test_rows_grow_too(tmp_path, byte_tokenizer):
    documents = rows(100, 41)
    text = packed(tmp_path, byte_tokenizer, documents)
    got = np.concatenate([everything(text, split) for split in SPLITS])
    want = [[BOS, *row.ids[i : i + 8]] for row in documents for i in range(0, 40, 8)]
    assert sorted(got.tolist()) == sorted(want)


def test_files_are_used_again(tmp_path, byte_tokenizer):
    documents = texts(100)
    want = everything(packed(tmp_path, byte_tokenizer, documents), "train")
    again = packed(tmp_path, byte_tokenizer, documents)
    np.testing.assert_array_equal(everything(again, "train"), want)
    assert again.documents.starts == []


@pytest.mark.usefixtures("small_chunks")
def test_one_process_reads_its_source_once(tmp_path, byte_tokenizer):
    text = packed(tmp_path, byte_tokenizer, texts(400))
    everything(text, "confirm")
    assert text.documents.starts == [0]


def test_order_depends_on_the_seed_and_nothing_else_does(tmp_path, byte_tokenizer):
    documents = texts(200)
    a, b = (packed(tmp_path, byte_tokenizer, documents, seed=seed) for seed in (0, 1))
    assert a.fingerprint != b.fingerprint
    x, y = everything(a, "train"), everything(b, "train")
    assert not np.array_equal(x, y)
    assert sorted(x.tolist()) == sorted(y.tolist())


def test_the_fingerprint_covers_everything(tmp_path, byte_tokenizer):
    text = packed(tmp_path, byte_tokenizer, [])
    other = [
        packed(tmp_path, byte_tokenizer, [], context_length=10),
        packed(tmp_path, byte_tokenizer, [], seed=1),
        PackedText(Listed([], "other"), byte_tokenizer, 9, tmp_path, 0),
        PackedText(Listed([]), type(byte_tokenizer)(fingerprint="other"), 9, tmp_path, 0),
    ]
    assert len({text.fingerprint, *(item.fingerprint for item in other)}) == 5
    assert packed(tmp_path / "elsewhere", byte_tokenizer, []).fingerprint == text.fingerprint


def test_too_short(tmp_path, byte_tokenizer):
    text = packed(tmp_path, byte_tokenizer, texts(30))
    number = text.available("train", 10**6)
    assert text.sequences("train", number, 0).shape == (0, 9)
    with pytest.raises(
        UserInputError, match=f"enough for {number} sequences of 9 tokens, and {number + 1} are"
    ) as caught:
        text.sequences("train", 0, number + 1)
    assert "90%" in caught.value.hint


def test_an_empty_text(tmp_path, byte_tokenizer):
    text = packed(tmp_path, byte_tokenizer, [])
    assert text.available("train", 1) == 0
    with pytest.raises(UserInputError, match="0 of 0 documents"):
        text.sequences("train", 0, 1)


def test_rows_shorter_than_the_context_are_refused_early(tmp_path, byte_tokenizer):
    text = packed(tmp_path, byte_tokenizer, rows(2000, 5))
    with pytest.raises(UserInputError, match="shorter than context_length"):
        text.available("train", 1)


def test_a_failure_in_the_middle_leaves_no_file_and_can_be_repeated(tmp_path, byte_tokenizer):
    bad = TokenDocument(np.array([999] * 50), True, "row")
    text = packed(tmp_path, byte_tokenizer, [*texts(50), bad])
    for _ in range(2):
        with pytest.raises(UserInputError, match="999"):
            text.available("train", 1)
    text.documents.documents.pop()
    assert text.available("train", 1) == 1
    assert len(list(text.cache.iterdir())) == 1


def damage(how, path):
    payload = bytearray(path.read_bytes())
    if how == "flipped":
        payload[-3] ^= 1
    elif how == "cut":
        payload = payload[:-10]
    elif how == "emptied":
        payload = bytearray()
    else:
        payload = payload.replace(b"next_document", b"next_documant")
    path.write_bytes(payload)


@pytest.mark.parametrize("how", ["flipped", "cut", "emptied", "header"])
def test_damage_is_reported_not_repaired(tmp_path, byte_tokenizer, how):
    documents = texts(60)
    want = everything(packed(tmp_path, byte_tokenizer, documents), "train")
    (path,) = (tmp_path / "cache").iterdir()
    damage(how, path)
    with pytest.raises(CorruptFile, match="damaged") as caught:
        packed(tmp_path, byte_tokenizer, documents).sequences("train", 0, 1)
    assert "Delete" in caught.value.hint
    path.unlink()  # what the hint says
    np.testing.assert_array_equal(everything(packed(tmp_path, byte_tokenizer, documents), "train"), want)


def test_a_file_of_another_text_is_noticed(tmp_path, byte_tokenizer):
    a, b = (packed(tmp_path / name, byte_tokenizer, texts(60), seed=seed) for seed, name in enumerate("ab"))
    everything(a, "train"), everything(b, "train")
    (mine,), (foreign,) = (list((tmp_path / name / "cache").iterdir()) for name in "ab")
    mine.write_bytes(foreign.read_bytes())
    with pytest.raises(CorruptFile, match="another text"):
        packed(tmp_path / "a", byte_tokenizer, texts(60)).sequences("train", 0, 1)


def test_large_vocabularies_are_stored_exactly(tmp_path, byte_tokenizer):
    tokenizer = type(byte_tokenizer)(
        bos_id=300_000, eos_id=300_001, special_ids=frozenset({300_000}), vocab_size=400_000
    )
    row = np.arange(399_000, 399_080)
    text = packed(tmp_path, tokenizer, [TokenDocument(row, True, "row")])
    got = np.concatenate([everything(text, split) for split in SPLITS])
    assert sorted(got[:, 1:].ravel().tolist()) == row.tolist()
    assert set(got[:, 0].tolist()) == {300_000}
    assert got.dtype == np.int64


def test_a_full_disk(tmp_path, byte_tokenizer, monkeypatch):
    def full(path, payload):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("vsae_search.subjects.text.chunks.write_atomically", full)
    with pytest.raises(EnvironmentNotReady, match="no space left while writing"):
        packed(tmp_path, byte_tokenizer, texts(60)).sequences("train", 0, 1)
