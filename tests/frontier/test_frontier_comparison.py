from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from vsae_search.frontier import (
    Replicates,
    compare,
    hodges_lehmann,
    holm,
    holm_families,
    hypervolumes,
    paired_p,
    smallest_p,
    superiority,
    unpaired_p,
)
from vsae_search.frontier.permutation import NUM_SAMPLED

REFERENCE = (64.0, 2.0)

small = st.integers(-4, 4).map(float)  # many ties
values = st.one_of(small, st.floats(-10, 10).map(lambda value: round(value, 3)))


def table(num_rows, num_columns):
    row = st.lists(values, min_size=num_columns, max_size=num_columns)
    return st.lists(row, min_size=num_rows, max_size=num_rows).map(np.array)


# ---- permutation p


def brute_paired(differences):
    observed = abs(sum(differences))
    sums = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in itertools.product([1, -1], repeat=len(differences))
    ]
    return np.mean([value >= observed - 1e-9 for value in sums])


def brute_unpaired(first, second):
    pooled = [*first, *second]

    def distance(chosen):
        rest = [v for index, v in enumerate(pooled) if index not in chosen]
        return abs(np.mean([pooled[index] for index in chosen]) - np.mean(rest))

    observed = distance(range(len(first)))
    found = [distance(chosen) for chosen in itertools.combinations(range(len(pooled)), len(first))]
    return np.mean([value >= observed - 1e-9 for value in found])


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 6).flatmap(lambda n: table(n, 1)))
def test_one_paired_endpoint_matches_brute_force(differences):
    assert paired_p(differences)[0] == pytest.approx(brute_paired(differences[:, 0]))


@settings(max_examples=60, deadline=None)
@given(st.tuples(st.integers(1, 4), st.integers(1, 4)).flatmap(lambda n: st.tuples(table(n[0], 1), table(n[1], 1))))
def test_one_unpaired_endpoint_matches_brute_force(groups):
    first, second = groups
    assert unpaired_p(first, second)[0] == pytest.approx(brute_unpaired(first[:, 0], second[:, 0]))


@pytest.mark.parametrize("kind", ["samples", "independent"])
def test_p_agrees_with_scipy(kind):
    generator = np.random.default_rng(0)
    first, second = generator.normal(0, 1, 7), generator.normal(0.8, 1, 7)
    expected = stats.permutation_test(
        (first, second), lambda a, b: a.mean() - b.mean(), permutation_type=kind, n_resamples=np.inf
    ).pvalue
    found = paired_p((first - second)[:, None]) if kind == "samples" else unpaired_p(first[:, None], second[:, None])
    assert found[0] == pytest.approx(expected)


def brute_max_t(statistics):
    """Westfall and Young's step-down by its definition: rows are rearrangements, the observed one first."""
    order = sorted(range(statistics.shape[1]), key=lambda e: -statistics[0, e])
    found, last = {}, 0.0
    for place, endpoint in enumerate(order):
        rest = order[place:]
        count = sum(max(row[e] for e in rest) >= statistics[0, endpoint] - 1e-9 for row in statistics)
        last = found[endpoint] = max(last, count / len(statistics))
    return [found[endpoint] for endpoint in range(statistics.shape[1])]


@settings(max_examples=50, deadline=None)
@given(table(4, 3))
def test_several_paired_endpoints_match_step_down_max_t(differences):
    rms = np.sqrt((differences**2).mean(axis=0))
    rows = []
    for signs in itertools.product([1, -1], repeat=4):
        means = np.abs((np.array(signs)[:, None] * differences).mean(axis=0))
        rows.append(np.divide(means, rms, out=np.zeros(3), where=rms > 0))
    np.testing.assert_allclose(paired_p(differences), brute_max_t(np.array(rows)))


@settings(max_examples=30, deadline=None)
@given(table(3, 2), table(3, 2))
def test_several_unpaired_endpoints_match_step_down_max_t(first, second):
    pooled = np.concatenate([first, second])
    spread = pooled.std(axis=0)
    rows = []
    for chosen in itertools.combinations(range(6), 3):
        rest = [index for index in range(6) if index not in chosen]
        distance = np.abs(pooled[list(chosen)].mean(axis=0) - pooled[rest].mean(axis=0))
        rows.append(np.divide(distance, spread, out=np.zeros(2), where=spread > 1e-12))
    np.testing.assert_allclose(unpaired_p(first, second), brute_max_t(np.array(rows)))


@settings(max_examples=50, deadline=None)
@given(table(5, 3), st.floats(1e-200, 1e150))
def test_p_does_not_depend_on_units_nor_on_which_comes_first(differences, factor):
    np.testing.assert_array_equal(paired_p(differences * factor), paired_p(differences))
    np.testing.assert_array_equal(paired_p(-differences), paired_p(differences))


def test_joint_p_is_never_below_the_single_one():
    generator = np.random.default_rng(1)
    for _ in range(20):
        differences = generator.normal(0.5, 1, (6, 4))
        single = [paired_p(differences[:, [e]])[0] for e in range(4)]
        joint = paired_p(differences)
        assert (joint >= np.array(single) - 1e-12).all()


def test_no_difference_at_all_is_p_one_and_disturbs_no_other_endpoint():
    differences = np.array([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]])
    assert paired_p(differences).tolist() == [1.0, 0.25]
    third = np.full((4, 1), 1 / 3)
    assert unpaired_p(third, third).tolist() == [1.0]
    assert paired_p(np.empty((3, 0))).shape == (0,)


def test_sampled_rearrangements_agree_with_theory():
    generator = np.random.default_rng(2)
    differences = generator.normal(0.3, 1, (40, 1))  # 2^40 flips: sampled
    normal_p = 2 * stats.norm.sf(abs(differences.sum()) / math.sqrt((differences**2).sum()))
    assert paired_p(differences)[0] == pytest.approx(normal_p, abs=0.01)
    assert paired_p(differences, seed=3)[0] == paired_p(differences, seed=3)[0]
    first, second = generator.normal(0, 1, (30, 1)), generator.normal(0.4, 1, (25, 1))
    assert unpaired_p(first, second)[0] == pytest.approx(stats.ttest_ind(first, second).pvalue[0], abs=0.01)
    assert unpaired_p(first, first + 100)[0] == pytest.approx(1 / (NUM_SAMPLED + 1))


# ---- what numbers of seeds can reach


@pytest.mark.parametrize(
    ("seeds", "unpaired", "paired"), [(3, 0.1, 0.25), (4, 0.0286, 0.125), (5, 0.0079, 0.0625), (6, 0.0022, 0.031)]
)
def test_smallest_p_of_few_seeds(seeds, unpaired, paired):
    assert smallest_p(seeds, seeds, paired=False) == pytest.approx(unpaired, abs=5e-4)
    assert smallest_p(seeds, seeds, paired=True) == pytest.approx(paired, abs=5e-4)


@pytest.mark.parametrize(("a", "b"), [(1, 1), (1, 3), (2, 3), (3, 3), (4, 3), (5, 5)])
def test_smallest_p_is_reached_and_not_undercut(a, b):
    generator = np.random.default_rng(4)
    apart = np.arange(a)[:, None] * 0.01, 100 + np.arange(b)[:, None] * 0.01
    assert unpaired_p(*apart)[0] == pytest.approx(smallest_p(a, b, paired=False))
    others = [unpaired_p(generator.normal(0, 1, (a, 1)), generator.normal(3, 1, (b, 1)))[0] for _ in range(100)]
    assert min(others) >= smallest_p(a, b, paired=False) - 1e-12
    assert paired_p(1 + np.arange(a)[:, None])[0] == pytest.approx(smallest_p(a, a, paired=True))


def test_no_runs_reach_nothing():
    assert smallest_p(0, 0, paired=True) == 1.0
    assert smallest_p(0, 5, paired=False) == 1.0
    assert smallest_p(40, 40, paired=True) == 1 / (NUM_SAMPLED + 1)


# ---- corrections


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]).tolist() == [1.0, 1.0]
    assert holm([]).shape == (0,)
    assert holm([0.2]).tolist() == [0.2]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([0.001, 0.01, 0.02, 0.03, 0.2, 1.0]), min_size=1, max_size=6))
def test_holm_matches_its_definition(p_values):
    order, running, expected = sorted(range(len(p_values)), key=lambda i: p_values[i]), 0.0, {}
    for rank, index in enumerate(order):
        running = expected[index] = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
    assert holm(p_values).tolist() == pytest.approx([expected[i] for i in range(len(p_values))])


def rejected_step_by_step(families, alpha):
    """The procedure itself: a family leaves the count once all of it is rejected."""
    rejected = [[False] * len(p) for p in families]
    while True:
        remaining = sum(not all(marks) for marks in rejected)
        update = [
            [old or value * max(remaining, 1) <= alpha + 1e-12 for old, value in zip(marks, p, strict=True)]
            for marks, p in zip(rejected, families, strict=True)
        ]
        if update == rejected:
            return rejected
        rejected = update


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from([0.001, 0.01, 0.013, 0.02, 0.03, 0.2]), min_size=1, max_size=3), max_size=5),
    st.sampled_from([0.01, 0.02, 0.05, 0.06, 0.1]),
)
def test_families_are_rejected_as_the_procedure_rejects(families, alpha):
    corrected = holm_families(families)
    assert [(p_E <= alpha + 1e-12).tolist() for p_E in corrected] == rejected_step_by_step(families, alpha)


def test_a_family_with_something_left_still_counts():
    # Both families reject their first; what is left of each is still multiplied by two.
    first, second = holm_families([[0.001, 0.03], [0.001, 0.04]])
    assert first.tolist() == pytest.approx([0.002, 0.06])
    assert second.tolist() == pytest.approx([0.002, 0.06])
    assert [p.tolist() for p in holm_families([[], [0.01]])] == [[], [0.01]]


# ---- effect sizes


@settings(max_examples=80, deadline=None)
@given(st.lists(values, min_size=1, max_size=5), st.lists(values, min_size=1, max_size=5))
def test_superiority_counts_all_meetings(first, second):
    wins = [(a < b) + 0.5 * (a == b) for a in first for b in second]
    assert superiority(first, second, "lower", paired=False) == pytest.approx(np.mean(wins))
    assert superiority(first, second, "higher", paired=False) == pytest.approx(1 - np.mean(wins))


def test_effects_by_hand():
    assert superiority([1, 2, 3], [2, 2, 1], "lower", paired=True) == pytest.approx(0.5)
    assert superiority([1, np.inf], [2, np.inf], "lower", paired=True) == pytest.approx(0.75)
    assert superiority([], [1.0], "lower", paired=False) is None
    assert hodges_lehmann([1, 2, 10], [0, 0, 0], paired=True) == pytest.approx(3.75)  # of 1 1.5 2 5.5 6 10
    assert hodges_lehmann([1, 2, 10], [0, 1], paired=False) == pytest.approx(1.5)  # of 0 1 1 2 9 10
    assert hodges_lehmann([1, np.inf], [0, 1], paired=False) is None
    with pytest.raises(ValueError, match="pairs"):
        superiority([1, 2], [1], "lower", paired=True)


# ---- whole comparisons


def arm(name, seeds, shift=0.0, noise=0.01, l0=(8.0, 32.0)):
    rows = []
    for seed in seeds:
        generator = np.random.default_rng([seed, *name.encode()])
        rows.append([(x, y + shift + noise * generator.normal()) for x, y in zip(l0, (1.0, 0.5), strict=True)])
    return Replicates(name, tuple(seeds), np.array(rows))


def test_a_planted_difference_is_found_with_its_size():
    found = compare([arm("relu", range(6), 0.2), arm("topk", range(6))], REFERENCE, l0s=(8, 16, 32))
    assert [(c.endpoint, c.l0) for c in found] == [
        ("hypervolume", None),
        ("delta_ce", 8),
        ("delta_ce", 16),
        ("delta_ce", 32),
    ]
    for c in found:
        assert (c.paired, c.num_shared, c.num_runs_a, c.num_runs_b) == (True, 6, 6, 6)
        assert c.p_value == c.smallest_p == 2 / 64
        assert (c.significant, c.winner, c.why_no_p) == (True, "topk", "")
        assert (c.superiority, c.cliffs_delta) == (0.0, -1.0)
    for c in found[1:]:
        assert c.difference == pytest.approx(0.2, abs=0.02)
        assert c.interval.low < c.difference < c.interval.high
        assert c.hodges_lehmann == pytest.approx(c.difference, abs=0.02)
        assert c.interval.method == "paired student t"


def test_numbers_of_a_comparison_are_those_of_the_runs():
    a, b = arm("relu", range(6), 0.2), arm("topk", range(6))
    area, eight = compare([a, b], REFERENCE, l0s=(8,))
    areas = hypervolumes(a.points_RN2, REFERENCE), hypervolumes(b.points_RN2, REFERENCE)
    assert (area.mean_a, area.mean_b) == pytest.approx((areas[0].mean(), areas[1].mean()))
    assert area.difference == pytest.approx((areas[0] - areas[1]).mean())
    differences = a.points_RN2[:, 0, 1] - b.points_RN2[:, 0, 1]
    assert eight.difference == pytest.approx(differences.mean())
    assert eight.interval.high == pytest.approx(
        differences.mean() + stats.t.ppf(0.975, 5) * differences.std(ddof=1) / math.sqrt(6)
    )
    assert (area.better, eight.better) == ("higher", "lower")


def test_runs_without_shared_seeds_are_dealt_out():
    for c in compare([arm("relu", range(6), 0.2), arm("topk", range(10, 16))], REFERENCE, l0s=(8,)):
        assert (c.paired, c.num_shared, c.significant) == (False, 0, True)
        assert c.p_value == pytest.approx(2 / 924)
        assert c.interval.method == "welch t"


@pytest.mark.parametrize(
    ("num_seeds", "text"),
    [
        (1, "1 seed shared by both: the smallest possible p is 1, above 0.05"),
        (
            3,
            "3 seeds shared by both: the smallest possible p is 0.25, above 0.05",
        ),
    ],
)
def test_too_few_seeds_give_no_p_and_say_so(num_seeds, text):
    for c in compare([arm("relu", range(num_seeds), 0.2), arm("topk", range(num_seeds))], REFERENCE, l0s=(8,)):
        assert c.why_no_p == f"{text}; it takes 4 seeds of each architecture"
        assert (c.p_value, c.significant, c.winner) == (None, False, None)
        assert c.difference is not None


def test_few_pairs_fall_back_to_independent_runs_only_where_that_helps():
    arms = [arm("relu", range(5), 0.2), arm("topk", range(5))]
    found = compare(arms, REFERENCE, l0s=(8,))
    assert [(c.paired, c.p_value) for c in found] == [(False, pytest.approx(2 / 252))] * 2
    refused = compare(arms, REFERENCE, l0s=(8,), pairing="seeds")
    assert {(c.paired, c.p_value) for c in refused} == {(True, None)}
    assert "it takes 6 seeds" in refused[0].why_no_p
    assert not compare([arm("relu", range(6)), arm("topk", range(6))], REFERENCE, pairing="none")[0].paired


def test_only_shared_seeds_are_paired():
    c = compare([arm("relu", range(8), 0.2), arm("topk", range(2, 9))], REFERENCE, l0s=())[0]
    assert (c.paired, c.num_shared, c.num_runs_a, c.num_runs_b) == (True, 6, 6, 6)


def test_more_pairs_of_architectures_need_more_seeds():
    names = ["a", "b", "c"]
    three = compare([arm(name, range(6)) for name in names], REFERENCE, l0s=(8,), pairing="seeds")
    assert {c.p_value for c in three} == {None}
    assert three[0].smallest_p == pytest.approx(3 * 2 / 64)
    assert "0.094 corrected for 3 tests" in three[0].why_no_p
    assert "it takes 7 seeds" in three[0].why_no_p
    enough = compare([arm(name, range(7)) for name in names], REFERENCE, l0s=(8,), pairing="seeds")
    assert all(c.p_value is not None and c.paired for c in enough)
    chosen = compare([arm(n, range(6)) for n in names], REFERENCE, l0s=(8,), pairing="seeds", pairs=[("c", "a")])
    assert [(c.a, c.b) for c in chosen] == [("c", "a")] * 2
    assert all(c.p_value is not None for c in chosen)


def test_holm_over_all_pairs_and_endpoints():
    arms = [arm("relu", range(10, 16), 0.2), arm("topk", range(6))]
    found = compare(arms, REFERENCE, l0s=(8, 16, 32), correction="holm")
    assert [c.p_value for c in found] == pytest.approx([4 * 2 / 924] * 4)
    paired = compare(
        [arm("relu", range(6)), arm("topk", range(6))], REFERENCE, l0s=(8, 16, 32), correction="holm", pairing="seeds"
    )
    assert {c.p_value for c in paired} == {None}
    assert "0.12 corrected for 4 tests" in paired[0].why_no_p
    # An endpoint that nobody reaches still counts.
    assert [c.p_value for c in compare(arms, REFERENCE, l0s=(1, 16, 32), correction="holm")][2:] == pytest.approx(
        [8 / 924] * 2
    )


def test_a_level_that_a_run_does_not_reach():
    sparse, dense = arm("topk", range(6)), arm("relu", range(6), l0=(9.0, 32.0))
    area, eight, sixteen = compare([sparse, dense], REFERENCE, l0s=(8, 16))
    assert (eight.p_value, eight.difference, eight.interval, eight.hodges_lehmann) == (None, None, None, None)
    assert eight.why_no_p == "0 of 6 runs of topk and 6 of 6 runs of relu have no SAE with an L0 of at most 8"
    assert (eight.mean_a, eight.mean_b, eight.superiority) == (pytest.approx(1.0, abs=0.02), None, 1.0)
    assert area.p_value is not None
    assert sixteen.p_value is not None


def test_without_reference_without_runs_and_alone():
    pair = [arm("relu", range(6)), arm("topk", range(6))]
    assert [c.l0 for c in compare(pair, None, l0s=(8, 16))] == [8, 16]
    assert compare(pair, None, l0s=()) == compare(pair, None, l0s=(), correction="holm") == ()
    assert compare(pair[:1], REFERENCE) == compare([], REFERENCE) == ()
    nobody = compare([Replicates("none", (), np.empty((0, 2, 2))), pair[0]], REFERENCE, l0s=(8,))
    assert [(c.p_value, c.superiority, c.mean_a) for c in nobody] == [(None, None, None)] * 2
    diverged = Replicates("nan", tuple(range(6)), np.full((6, 2, 2), np.nan))
    area, eight = compare([diverged, pair[0]], REFERENCE, l0s=(8,))
    assert (area.winner, area.mean_a, eight.why_no_p[:13]) == ("relu", 0.0, "6 of 6 runs o")


def test_an_architecture_with_its_own_copy_is_not_different():
    a = arm("relu", range(6))
    for c in compare([a, Replicates("again", a.seeds, a.points_RN2)], REFERENCE, l0s=(8,)):
        assert (c.p_value, c.difference, c.superiority, c.winner) == (1.0, 0.0, 0.5, None)


def test_what_cannot_be_asked():
    a, b = arm("relu", range(6)), arm("topk", range(6))
    for arms, pairs in [([a, a], None), ([a, b], [("relu", "topk"), ("topk", "relu")]), ([a, b], [("relu", "relu")])]:
        with pytest.raises(ValueError, match="twice"):
            compare(arms, REFERENCE, pairs=pairs)
    with pytest.raises(KeyError):
        compare([a, b], REFERENCE, pairs=[("relu", "gated")])
