from __future__ import annotations

import math

import pytest
import torch

from vsae_search.saes import _cofiring
from vsae_search.saes._cofiring import LatentSet, Partners, match_directions, match_sets, update_partners

INF = math.inf


def planted(num_rows=8000, p=0.1, d_sae=40, seed=0):
    """Firing with a correlated triple, a loosely correlated pair, latents that take turns, and independent ones."""
    generator = torch.Generator().manual_seed(seed)
    fires = torch.rand(num_rows, d_sae, generator=generator) < p
    fires[:, 7] = fires[:, 21] = fires[:, 30]
    same = torch.rand(num_rows, generator=generator) < 0.7
    fires[:, 3] = torch.where(same, fires[:, 12], fires[:, 3])
    turn = torch.rand(num_rows, generator=generator)
    for place, latent in enumerate((1, 18, 33)):
        fires[:, latent] = (turn >= place * p) & (turn < (place + 1) * p)
    return fires


SETS = [
    LatentSet("correlated", (7, 21, 30)),
    LatentSet("correlated", (3, 12)),
    LatentSet("anticorrelated", (1, 18, 33)),
]


def learn(fires, *, max_size=4, alpha=0.1, least=(0.3, 0.8)):
    partners = update_partners(Partners.none(fires.shape[1], 8), fires, 0.5)
    return match_sets(partners, alpha=alpha, max_size=max_size, min_scores=least)


def test_planted_sets_are_found():
    assert learn(planted()) == SETS


@pytest.mark.parametrize("seed", range(3))
def test_independent_latents_form_no_sets(seed):
    fires = torch.rand(8000, 60, generator=torch.Generator().manual_seed(seed)) < 0.1
    assert learn(fires) == []


def test_scores_equal_their_definitions():
    fires = planted(3000)
    partners = update_partners(Partners.none(40, 39), fires, 0.0)
    phi = torch.corrcoef(fires.double().T)
    share = fires.double().mean(0)
    missing = 1 - (fires.double().T @ fires.double() / 3000) / torch.outer(share, share)
    for number, wanted in enumerate((phi, missing)):
        rows, places = partners.score[number].isfinite().nonzero(as_tuple=True)
        others = partners.latent[number][rows, places]
        assert len(rows) == 40 * 39
        torch.testing.assert_close(
            partners.score[number][rows, places].double(), wanted[rows, others], rtol=1e-4, atol=1e-5
        )
        assert (partners.score[number].diff(dim=1) <= 0).all(), "the best partner comes first"


def test_it_does_not_matter_how_the_work_is_cut(monkeypatch):
    fires = planted()
    whole = update_partners(Partners.none(40, 8), fires, 0.0)
    monkeypatch.setattr(_cofiring, "_CHUNK_ELEMENTS", 300)
    parts = update_partners(Partners.none(40, 8), fires, 0.0)
    assert torch.equal(whole.score, parts.score)
    assert torch.equal(whole.latent, parts.latent)


def test_scores_are_averaged_with_earlier_ones():
    first, second = planted(seed=1), planted(seed=2)
    second[:, 7] = torch.rand(8000, generator=torch.Generator().manual_seed(9)) < 0.1  # leaves its set
    one = update_partners(Partners.none(40, 4), first, 0.5)
    two = update_partners(one, second, 0.5)
    phi = torch.corrcoef(second[:, [7, 30]].double().T)[0, 1].item()
    assert score(one, 7, 30) == pytest.approx(1.0, abs=1e-5)
    assert score(two, 7, 30) == pytest.approx(0.5 + 0.5 * phi, abs=1e-4)
    # a pair that comes in starts with what it is now
    again = update_partners(update_partners(Partners.none(40, 1), first, 0.5), second, 0.5)
    assert score(again, 21, 30) == pytest.approx(1.0, abs=1e-5)


def score(partners, latent, partner):
    place = partners.latent[0, latent].tolist().index(partner)
    return partners.score[0, latent, place].item()


def test_silent_latents_keep_their_scores():
    one = update_partners(Partners.none(40, 4), planted(), 0.5)
    two = update_partners(one, torch.zeros(500, 40, dtype=torch.bool), 0.5)
    assert torch.equal(torch.sort(one.score).values, torch.sort(two.score).values)
    nothing = update_partners(Partners.none(40, 4), torch.zeros(500, 40, dtype=torch.bool), 0.5)
    assert (nothing.score == -INF).all()


def test_too_few_rows_decide_nothing():
    fires = torch.zeros(100, 6, dtype=torch.bool)
    fires[:19, :2] = True
    assert learn(fires) == []
    fires[:20, :2] = True
    assert learn(fires) == [LatentSet("correlated", (0, 1))]


def partners_of(pairs, d_sae=8, kind=0):
    """Partners with given scores, in one direction only."""
    latent, values = torch.zeros(2, d_sae, 4, dtype=torch.long), torch.full((2, d_sae, 4), -INF)
    used = [0] * d_sae
    for (first, second), value in pairs.items():
        latent[kind, first, used[first]], values[kind, first, used[first]] = second, value
        used[first] += 1
    return Partners(latent, values)


def test_every_pair_of_a_set_must_be_good():
    chain = {(0, 1): 0.9, (1, 2): 0.8}
    assert match_sets(partners_of(chain), alpha=0.1, max_size=4, min_scores=(0.3, 0.8)) == [
        LatentSet("correlated", (0, 1))
    ]
    triangle = chain | {(2, 0): 0.31}
    assert match_sets(partners_of(triangle), alpha=0.1, max_size=4, min_scores=(0.3, 0.8)) == [
        LatentSet("correlated", (0, 1, 2))
    ]
    assert match_sets(partners_of(triangle), alpha=0.1, max_size=2, min_scores=(0.3, 0.8)) == [
        LatentSet("correlated", (0, 1))
    ]


def test_pairs_of_sets_are_joined():
    complete = {(0, 1): 0.9, (2, 3): 0.9, (0, 2): 0.5, (0, 3): 0.5, (1, 2): 0.5, (1, 3): 0.5}
    assert match_sets(partners_of(complete), alpha=0.1, max_size=4, min_scores=(0.3, 0.8)) == [
        LatentSet("correlated", (0, 1, 2, 3))
    ]
    assert match_sets(partners_of(complete), alpha=0.1, max_size=3, min_scores=(0.3, 0.8)) == [
        LatentSet("correlated", (0, 1)),
        LatentSet("correlated", (2, 3)),
    ]


def test_no_more_latents_take_turns_than_fit():
    complete = dict.fromkeys([(0, 1), (0, 2), (1, 2)], 0.95)
    found = match_sets(partners_of(complete, kind=1), alpha=0.4, max_size=4, min_scores=(0.3, 0.8))
    assert found == [LatentSet("anticorrelated", (0, 1))]
    assert match_sets(partners_of(complete, kind=1), alpha=0.6, max_size=4, min_scores=(0.3, 0.8)) == []


def test_a_latent_is_in_one_set():
    both = Partners(*(first + 0 for first in partners_of({(0, 1): 0.9})))
    other = partners_of({(1, 2): 0.95}, kind=1)
    both.latent[1], both.score[1] = other.latent[1], other.score[1]
    assert match_sets(both, alpha=0.1, max_size=4, min_scores=(0.3, 0.8)) == [LatentSet("correlated", (0, 1))]


def test_directions_are_matched_one_to_one_and_the_closest_first():
    directions = torch.eye(4)[:3]
    rows = torch.tensor([[0.0, 1, 0, 0], [2, 0.4, 0, 0], [3, 0, 0, 0], [0, 0, 0.1, 1]])
    assert match_directions(rows, directions, 0.5) == {0: 2, 1: 0}
    assert match_directions(rows, torch.zeros(1, 4), 0.5) == {}
    # feature 1 would like latent 0, which feature 0 has
    near = torch.nn.functional.normalize(torch.tensor([[1.0, 0.1, 0, 0], [1.0, 0.2, 0, 0]]), dim=1)
    assert match_directions(torch.eye(4)[:2], near, 0.1) == {0: 0, 1: 1}
