from __future__ import annotations

import pytest
import torch

from vsae_search.saes._batch_select import largest_entries, smallest_kept


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (64, 96), (33, 127), (1024, 3)])
@pytest.mark.parametrize("share", [0.0001, 0.01, 0.2, 0.9, 1.0, 3.0])
def test_against_sorting(shape, share):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    count = max(1, int(share * values.numel()))
    found = largest_entries(values, count)
    expected = values.flatten().sort(descending=True).values[:count]
    assert len(found) == len(found.unique()) == min(count, values.numel())
    assert torch.equal(values.flatten()[found].sort(descending=True).values, expected)


@pytest.mark.parametrize("count", [1, 5, 40, 399])
def test_ties_are_kept_up_to_the_count(count):
    values = torch.randint(0, 3, (20, 20), generator=torch.Generator().manual_seed(0)).float()
    found = largest_entries(values, count)
    assert len(found.unique()) == count
    expected = values.flatten().sort(descending=True).values[:count]
    assert torch.equal(values.flatten()[found].sort(descending=True).values, expected)
    assert len(largest_entries(torch.zeros(20, 20), count).unique()) == count


def test_all_large_entries_in_one_corner():
    values = torch.zeros(100, 100)
    values[-3:, -37:] = 1.0 + torch.rand(3, 37, generator=torch.Generator().manual_seed(0))
    found = largest_entries(values, 111)
    assert sorted(found.tolist()) == (values.flatten() > 0).nonzero().flatten().tolist()


def test_views_that_are_not_contiguous():
    values = torch.randn(50, 60, generator=torch.Generator().manual_seed(0)).T
    assert values.flatten()[largest_entries(values, 1)].item() == values.max().item()


# -- by counting -------------------------------------------------------------------------------------------------------


def normal(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("shape", [(1024, 160), (333, 127), (4096, 64)])
@pytest.mark.parametrize("share", [0.01, 0.05, 0.3, 0.9])
def test_the_smallest_kept_is_that_of_sorting(shape, share):
    values = normal(*shape)
    count = int(share * values.numel())
    assert smallest_kept(values, count).item() == values.flatten().sort(descending=True).values[count - 1].item()


def test_rows_that_differ_from_each_other():
    values = normal(1024, 160) * torch.linspace(0.1, 3.0, 1024)[:, None]
    assert smallest_kept(values, 8192).item() == values.flatten().topk(8192).values[-1].item()


def test_where_counting_says_nothing():
    assert smallest_kept(normal(30, 40), 60) is None  # so few that a selection is faster
    assert smallest_kept(normal(1024, 160), 3) is None  # none of them may be in the sample
    assert smallest_kept(normal(1024, 160), 1024 * 160) is None
    assert smallest_kept(torch.zeros(1024, 160), 8192) is None
    misled = torch.zeros(1024, 160)
    misled.view(-1)[::8] = 1.0 + normal(1024 * 20).abs()  # the sample sees the large entries and nothing else
    assert smallest_kept(misled, 8192) is None
    tied = normal(1024, 160)
    tied = torch.where(tied > 1.0, torch.full_like(tied, 1.5), tied)
    assert smallest_kept(tied, 8192) is None
