from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from vsae_search.activations.codec import encode_rows
from vsae_search.activations.stream import BatchStream

SHARD_ROWS = (16, 16, 16, 16, 6)
NUM_ROWS = sum(SHARD_ROWS)


def make_shards() -> list[np.ndarray]:
    numbers_N = np.arange(NUM_ROWS, dtype=np.float32)
    x_ND = np.stack([numbers_N, -numbers_N, numbers_N + 0.5], axis=1)
    shards = np.split(x_ND, np.cumsum(SHARD_ROWS)[:-1])
    for shard in shards:
        shard.flags.writeable = False
    return shards


def make_stream(seed: int = 0, batch_size: int = 8, *, load=None, prefetch=None, scale: float = 1.0) -> BatchStream:
    return BatchStream(
        load or make_shards().__getitem__,
        SHARD_ROWS,
        d_in=3,
        dtype="fp32",
        scale=scale,
        batch_size=batch_size,
        seed=seed,
        prefetch=prefetch,
    )


def numbers(stream: BatchStream, num_rows: int) -> np.ndarray:
    batches = itertools.islice(stream, -(-num_rows // stream.batch_size))
    return torch.cat([batch[:, 0] for batch in batches]).numpy()[:num_rows]


@pytest.mark.parametrize("batch_size", [1, 7, 8, 16, 70, 200])
def test_every_row_of_an_epoch_appears_exactly_once(batch_size):
    seen_N = numbers(make_stream(batch_size=batch_size), 4 * NUM_ROWS)
    for epoch_N in seen_N.reshape(4, NUM_ROWS):
        np.testing.assert_array_equal(np.sort(epoch_N), np.arange(NUM_ROWS))


def test_batches_are_whole_rows_scaled_and_full():
    for x_BD in itertools.islice(make_stream(scale=0.25), 30):
        assert x_BD.shape == (8, 3)
        assert x_BD.dtype == torch.float32
        number_B = x_BD[:, 0] / 0.25
        assert torch.equal(x_BD, torch.stack([number_B, -number_B, number_B + 0.5], dim=1) * 0.25)


def test_rows_follow_the_shard_order_of_seed_and_epoch():
    stream = make_stream(seed=5)
    shards = make_shards()
    expected = np.concatenate([shards[index][:, 0] for epoch in range(3) for index in stream.shard_order(epoch)])
    np.testing.assert_array_equal(numbers(stream, 3 * NUM_ROWS), expected)


def test_order_is_a_function_of_seed_and_epoch():
    same, other = make_stream(seed=3), make_stream(seed=4)
    orders = {tuple(make_stream(seed=3).shard_order(epoch)) for epoch in range(20)}
    assert len(orders) > 10
    assert all((make_stream(seed=3).shard_order(epoch) == same.shard_order(epoch)).all() for epoch in range(20))
    assert any((other.shard_order(epoch) != same.shard_order(epoch)).any() for epoch in range(20))
    assert any((make_stream(seed=-3).shard_order(epoch) != same.shard_order(epoch)).any() for epoch in range(20))
    np.testing.assert_array_equal(numbers(make_stream(seed=3), 300), numbers(same, 300))


@pytest.mark.parametrize("dropped", [0, 1, 2, 8, 9, 26, 100])
def test_skip_equals_dropping(dropped):
    skipped, reference = make_stream(), make_stream()
    next(skipped), next(reference)  # also from the middle of a shard
    skipped.skip(dropped)
    for _ in range(dropped):
        next(reference)
    assert skipped.position == reference.position == 8 * (dropped + 1)
    for _ in range(20):
        assert torch.equal(next(skipped), next(reference))


def test_skip_reads_nothing():
    loaded = []
    shards = make_shards()
    stream = make_stream(load=lambda index: loaded.append(index) or shards[index])
    stream.skip(10**9)
    assert loaded == []
    next(stream)
    assert 1 <= len(loaded) <= 2


def test_each_shard_is_loaded_once_per_epoch_and_asked_for_beforehand():
    events = []
    shards = make_shards()
    stream = make_stream(
        batch_size=7,  # two epochs are 20 batches
        load=lambda index: events.append(("load", index)) or shards[index],
        prefetch=lambda index: events.append(("prefetch", index)),
    )
    numbers(stream, 2 * NUM_ROWS)
    order = [*stream.shard_order(0), *stream.shard_order(1), stream.shard_order(2)[0]]
    expected = []
    for here, there in itertools.pairwise(order):
        if not expected or expected[-2] != ("load", here):  # the last shard of an epoch may be the first of the next
            expected += [("load", here), ("prefetch", there)]
    assert events == expected


def test_batches_are_fresh_and_writing_to_one_changes_nothing():
    shards = make_shards()
    before = [shard.copy() for shard in shards]
    stream = make_stream(load=shards.__getitem__, batch_size=16)
    first, second = next(stream), next(stream)
    kept = second.clone()
    first.fill_(1e9)
    first.numpy()[:] = -1e9
    assert torch.equal(second, kept)
    for shard, original in zip(shards, before, strict=True):
        np.testing.assert_array_equal(shard, original)
    assert first.untyped_storage().data_ptr() != second.untyped_storage().data_ptr()


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_half_precision_shards_come_out_as_float32(dtype):
    stored = [encode_rows(shard, dtype) for shard in make_shards()]  # small numbers: exact in both
    stream = BatchStream(stored.__getitem__, SHARD_ROWS, d_in=3, dtype=dtype, scale=3.0, batch_size=8, seed=0)
    reference = make_stream(scale=3.0)
    for _ in range(20):
        assert torch.equal(next(stream), next(reference))


def test_one_row_of_one_shard():
    stream = BatchStream(
        lambda _: np.ones((1, 2), dtype=np.float32), (1,), d_in=2, dtype="fp32", scale=2.0, batch_size=3, seed=0
    )
    assert torch.equal(next(stream), torch.full((3, 2), 2.0))
    assert stream.position == 3
