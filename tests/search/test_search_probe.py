"""How trials are packed: the arithmetic by hand, short trials with a stand-in for the card, and one that is real."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from search_helpers import MemoryBank, tiny_space, tiny_subject

from vsae_search.errors import EnvironmentNotReady
from vsae_search.search import trainable as trainable_module
from vsae_search.search.records import TrialRecord
from vsae_search.search.resources import gpu as gpu_module
from vsae_search.search.resources import probe as probe_module
from vsae_search.search.resources.cluster import Cluster
from vsae_search.search.resources.gpu import Card, parse_cards, read_cards
from vsae_search.search.resources.packing import (
    CARD_PART,
    CONTEXT_BYTES,
    SIZES,
    Measured,
    Node,
    Packing,
    Share,
    cpu_share,
    fits_cpus,
    fits_gpus,
    gpu_share,
    part,
    paying_threads,
)
from vsae_search.search.resources.probe import Probe, choose_packing, measure, pack, probes_of
from vsae_search.search.resources.utilisation import UtilisationMeter
from vsae_search.search.session import bundle_of
from vsae_search.search.trial import TrialContext
from vsae_search.space import ResourcesSpec

GB = 10**9
AUTO = ResourcesSpec(cpus_per_trial="auto", gpus_per_trial="auto")


@pytest.mark.parametrize(("count", "share"), [(1, 1.0), (2, 0.5), (3, 0.3333), (6, 0.1666), (7, 0.1428), (48, 0.0208)])
def test_a_part_is_rounded_down_to_what_ray_counts(count, share):
    assert part(count) == share


@pytest.mark.parametrize("count", range(1, 100))
def test_so_many_parts_are_never_more_than_the_whole_and_no_other_one_fits(count):
    tenthousandths = round(part(count) * 10_000)
    assert count * tenthousandths <= 10_000
    assert fits_gpus(1, part(count)) >= count
    if count in SIZES:
        assert fits_gpus(1, part(count)) == count
        assert fits_gpus(8, part(count)) == 8 * count


@pytest.mark.parametrize(
    ("gpus", "share", "expected"),
    [
        (1, 0.25, 4),
        (1, 0.3, 3),
        (2, 0.3, 6),
        (2, 0.4, 4),
        (2, 0.6, 2),
        (1, 0.1, 10),
        (4, 2.0, 2),
        (3, 1.0, 3),
        (0, 0.5, 0),
    ],
)
def test_a_part_of_a_gpu_never_lies_on_two(gpus, share, expected):
    assert fits_gpus(gpus, share) == expected


@pytest.mark.parametrize(
    ("cpus", "share", "expected"), [(2, 0.6, 3), (1, 0.1, 10), (8, 3.0, 2), (8, 2.6666, 3), (2, 4.0, 0)]
)
def test_cpus_are_shared_as_one_pool(cpus, share, expected):
    assert fits_cpus(cpus, share) == expected


def needs(host=GB, times=None, gpu_bytes=0, busy=None) -> Measured:
    return Measured(int(host), times or {1: 1.0}, int(gpu_bytes), busy)


LAPTOP = Node(cpus=8, host_bytes=20 * GB)
"""16 GB can be given out: 0.8 x 20 GB."""


@pytest.mark.parametrize(
    ("measured", "most", "expected"),
    [
        # one CPU each as long as trials and memory are there for all of them
        (needs(), 100, Share(1.0, 0.0, 1)),
        (needs(times={1: 1.0, 2: 0.5, 4: 0.3}), 100, Share(1.0, 0.0, 1)),
        # three trials on eight CPUs: two threads each, when they pay
        (needs(times={1: 1.0, 2: 0.6}), 3, Share(2.0, 0.0, 2)),
        (needs(times={1: 1.0, 2: 0.9}), 3, Share(1.0, 0.0, 1)),
        (needs(times={1: 1.0, 2: 0.6, 4: 0.5, 8: 0.7}), 1, Share(4.0, 0.0, 4)),
        # 4 GB x 1.25 = 5 GB: three fit into 16 GB, so Ray may start three: 8 / 3 = 2.6666
        (needs(host=4 * GB), 100, Share(2.6666, 0.0, 1)),
        (needs(host=4 * GB, times={1: 1.0, 2: 0.6}), 100, Share(2.6666, 0.0, 2)),
        (needs(host=4 * GB, times={1: 1.0, 2: 0.6, 4: 0.3}), 2, Share(4.0, 0.0, 4)),
    ],
)
def test_the_share_without_a_gpu(measured, most, expected):
    share = cpu_share(measured, LAPTOP, most=most, what="topk")
    assert share == expected
    assert fits_cpus(8, share.cpus) * 1.25 * measured.host_bytes <= 0.8 * LAPTOP.host_bytes


SERVER = Node(cpus=32, gpus=4, host_bytes=400 * GB, card_bytes=80 * GB)
"""76 GB of each card and 320 GB of memory can be given out; eight CPUs for each card."""


@pytest.mark.parametrize(
    ("measured", "most", "count"),
    [
        # 1.25 x 10 GB + 0.6 GB = 13.1 GB: five fit into 76 GB, and four is the next smaller size
        (needs(gpu_bytes=10 * GB), 1000, 4),
        (needs(gpu_bytes=19 * GB), 1000, 3),  # 24.35 GB
        (needs(gpu_bytes=60 * GB), 1000, 1),  # 75.6 GB
        (needs(gpu_bytes=0.1 * GB), 1000, 8),  # not more than CPUs
        (needs(gpu_bytes=0.1 * GB, busy=0.3), 1000, 4),  # ceil(1 / 0.3)
        (needs(gpu_bytes=0.1 * GB, busy=0.9), 1000, 2),
        (needs(gpu_bytes=0.1 * GB, busy=1.0), 1000, 1),
        (needs(gpu_bytes=0.1 * GB, busy=0.0), 1000, 8),  # nobody could tell
        (needs(gpu_bytes=0.1 * GB, host=20 * GB), 1000, 3),  # 25 GB: twelve in the memory of the node
        (needs(gpu_bytes=0.1 * GB), 6, 2),  # six trials on four cards
    ],
)
def test_the_share_of_a_gpu(measured, most, count):
    share = gpu_share(measured, SERVER, most=most, what="topk")
    assert share.gpus == part(count)
    assert share.cpus == 1.0
    held = share.memory_fraction * SERVER.card_bytes
    assert held >= measured.gpu_bytes
    assert count * (held + CONTEXT_BYTES) <= CARD_PART * SERVER.card_bytes + 1
    assert fits_gpus(4, share.gpus) == 4 * count


def test_few_cpus_are_shared_by_the_trials_of_a_gpu():
    node = Node(cpus=2, gpus=1, host_bytes=64 * GB, card_bytes=80 * GB)
    assert gpu_share(needs(gpu_bytes=GB), node, most=100, what="topk").gpus == 0.5
    given = gpu_share(needs(gpu_bytes=GB), node, most=100, what="topk", cpus=0.25)
    assert (given.gpus, given.cpus, given.threads) == (part(8), 0.25, 1)


@pytest.mark.parametrize(
    ("measured", "text"),
    [(needs(gpu_bytes=79 * GB), "topk needs 99 GB of memory, and 76 GB"), (needs(host=300 * GB), "needs 3.8e\\+02 GB")],
)
def test_what_does_not_fit_is_refused(measured, text):
    with pytest.raises(EnvironmentNotReady, match=text):
        gpu_share(measured, SERVER, most=1, what="topk")
    with pytest.raises(EnvironmentNotReady, match="of memory"):
        cpu_share(needs(host=13 * GB), LAPTOP, most=1, what="topk")


@pytest.mark.parametrize(
    ("times", "most", "threads"),
    [
        ({1: 1.0, 2: 0.79}, 2, 2),
        ({1: 1.0, 2: 0.81}, 2, 1),
        ({1: 1.0, 2: 0.5, 4: 0.4}, 2, 2),
        ({1: 1.0}, 8, 1),
        ({}, 8, 1),
    ],
)
def test_threads_have_to_pay(times, most, threads):
    assert paying_threads(times, most) == threads


def test_a_trial_gets_the_share_of_the_next_larger_width():
    small, large = Share(gpus=0.25), Share(gpus=0.5)
    packing = Packing(Share(gpus=1.0), {"topk/512": small, "topk/2048": large, "pca/None": small})
    widths = {256: small, 512: small, 513: large, 2048: large, 4096: large}
    assert {width: packing.share("topk", {"d_sae": width}) for width in widths} == widths
    assert packing.share("pca", {}) == small
    assert packing.share("topk", {}).gpus == packing.share("relu", {"d_sae": 512}).gpus == 1.0
    assert packing.all == (small, large)
    bundle = bundle_of(packing, {"architecture": "topk", "params": {"d_sae": 600}})
    assert bundle.bundles == [{"CPU": 1.0, "GPU": 0.5}]


def test_numbers_of_the_search_space_are_kept():
    spec = ResourcesSpec(cpus_per_trial=2.5, gpus_per_trial=0.25)
    assert Packing.fixed(spec).default == Share(2.5, 0.25, 2, pytest.approx(0.95 * 0.25))
    context = SimpleNamespace()
    assert choose_packing(
        tiny_space(resources=spec.model_dump()), context, Cluster({"CPU": 8}, 1, "")
    ) == Packing.fixed(spec)


def test_a_head_that_gives_nothing_is_not_a_node_for_trials(monkeypatch):
    """Two nodes of 16 CPUs beside such a head are nodes of 16, not of 10.7."""
    seen = []

    def measured(probes, context, node, threads):
        seen.append((node.cpus, node.gpus))
        raise EnvironmentNotReady("enough")

    monkeypatch.setattr(probe_module, "_measure_remotely", measured)
    space = tiny_space(resources={"cpus_per_trial": "auto", "gpus_per_trial": "auto"})
    with pytest.raises(EnvironmentNotReady, match="enough"):
        choose_packing(space, SimpleNamespace(), Cluster({"CPU": 32, "GPU": 8}, 3, "", trial_nodes=2))
    assert seen == [(16.0, 4.0)]


def test_every_architecture_is_tried_at_every_width():
    space = tiny_space(
        architectures={
            "topk": {"d_sae": {"choice": [64, 16, 32]}, "k": {"int": [1, 8]}},
            "relu": {"d_sae": {"int": [64, 4096]}},
            "april": {"d_sae": 24},
        },
        search={"trials": 3},
    )
    probes = list(probes_of(space))
    assert [(p.architecture, p.width) for p in probes] == [
        *(("topk", width) for width in (16, 32, 64)),
        *(("relu", width) for width in (256, 1024, 4096)),
        ("april", 24),
    ]
    assert probes[0].params == ({"d_sae": 16, "k": 5}, {"d_sae": 16, "k": 1})


def test_shares_follow_from_measurements_and_numbers_are_kept():
    probes = [Probe("topk", 16, ()), Probe("relu", 16, ()), Probe("pca", None, ())]
    found = [needs(gpu_bytes=10 * GB), needs(gpu_bytes=30 * GB), None]
    packing = pack(probes, found, SERVER, AUTO, most=100)
    assert {key: share.gpus for key, share in packing.shares.items()} == {"topk/16": 0.25, "relu/16": 1.0}
    assert packing.default == packing.shares["relu/16"]  # what could not be measured is taken to be large
    given = pack(probes, found, SERVER, ResourcesSpec(cpus_per_trial=2, gpus_per_trial="auto"), most=100)
    assert {share.cpus for share in given.shares.values()} == {2.0}
    only_cpu = pack(probes, found, LAPTOP, AUTO, most=100)
    assert set(only_cpu.shares.values()) == {Share(1.0, 0.0, 1)}
    on_card = pack(probes, found, SERVER, ResourcesSpec(cpus_per_trial="auto", gpus_per_trial=0.5), most=100)
    assert {(share.cpus, share.gpus) for share in on_card.shares.values()} == {(1.0, 0.5)}


@pytest.fixture(scope="module")
def context(tmp_path_factory) -> TrialContext:
    subject = tiny_subject(tmp_path_factory.mktemp("cache"))
    bank = MemoryBank(subject)
    folder = tmp_path_factory.mktemp("sweep")
    return TrialContext(bank, subject, subject.baseline(bank.evaluation()), tiny_space().training, folder)


class FakeCard:
    """A card whose memory is what the test says."""

    def __init__(self, peak=0, busy=None) -> None:
        self.peak, self.is_busy, self.resets = peak, busy, 0

    def reset(self) -> None:
        self.resets += 1

    def peak_bytes(self) -> int:
        return self.peak

    def total_bytes(self) -> int:
        return 80 * GB

    def busy(self):
        return self.is_busy


TOPK = Probe("topk", 16, ({"d_sae": 16, "k": 2},))


def test_a_short_trial_measures_time_and_memory(context):
    threads = torch.get_num_threads()
    measured = measure(TOPK, context, FakeCard(3 * GB, 0.4), (1, 2))
    assert set(measured.step_s) == {1, 2}
    assert all(0 < seconds < 10 for seconds in measured.step_s.values())
    assert 50_000_000 < measured.host_bytes < 10 * GB
    assert (measured.gpu_bytes, measured.gpu_busy) == (3 * GB, 0.4)
    assert torch.get_num_threads() == threads
    assert list(context.directory.iterdir()) == []  # it leaves nothing behind


def test_a_long_enough_look_at_the_card_takes_more_steps(context, monkeypatch):
    steps = []
    run = probe_module._run
    monkeypatch.setattr(probe_module, "_run", lambda a, c, n: steps.append(n) or run(a, c, n))
    monkeypatch.setattr(probe_module, "MAX_STEPS", 12)
    measure(TOPK, context, FakeCard(), (1,), seconds=1.0)
    assert steps == [8, 12]


def test_hyper_parameters_that_are_refused_are_not_the_end(context):
    refused = {"d_sae": 16, "k": 17}
    assert measure(replace(TOPK, params=(refused, *TOPK.params)), context, FakeCard(), (1,)) is not None
    assert measure(replace(TOPK, params=(refused,)), context, FakeCard(), (1,)) is None


def test_a_trial_that_does_not_fit_is_known_not_to(context, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("vsae_search.search.trial.fit", full)
    measured = measure(TOPK, context, FakeCard(79 * GB), (1,))
    assert (measured.gpu_bytes, measured.step_s) == (79 * GB, {1: math.inf})


def test_a_process_is_capped_with_its_share(monkeypatch):
    capped = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", capped.append)
    threads = torch.get_num_threads()
    try:
        trainable_module._prepare_process(Share(1.0, 0.25, 1, 0.2278), 0)
    finally:
        torch.set_num_threads(threads)
    assert capped == [0.2278]


@pytest.mark.gpu
def test_a_real_card_is_measured_and_its_cap_holds(context):
    context = replace(context, share=Share(1.0, 1.0, 1, 0.95))
    card = probe_module.CudaCard()
    measured = measure(TOPK, context, card, (1,), seconds=1.0)
    assert 0 < measured.gpu_bytes < card.total_bytes()
    node = Node(8, 1, 64 * GB, card.total_bytes())
    share = gpu_share(measured, node, most=100, what="topk")
    try:
        trainable_module._prepare_process(share, 0)
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(int(share.memory_fraction * card.total_bytes()) + GB, dtype=torch.uint8, device="cuda")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_the_table_of_cards_is_read():
    text = "0, 37, 1024, 81559\n1, [N/A], 10, 81559\n\n2, 100, 0, 81559\n"
    assert parse_cards(text) == [Card(0, 0.37, 1024 * 2**20, 81559 * 2**20), Card(2, 1.0, 0, 81559 * 2**20)]


def test_without_the_tool_there_are_no_cards(monkeypatch):
    monkeypatch.setattr(gpu_module.shutil, "which", lambda _: None)
    assert read_cards() == []


def trial(uid, train_s, evaluate_s, wall_s) -> TrialRecord:
    return TrialRecord(
        uid=uid,
        architecture="topk",
        number=0,
        params={"d_sae": 16},
        seed=0,
        state="completed",
        train_s=train_s,
        evaluate_s=evaluate_s,
        wall_s=wall_s,
    )


def test_utilisation_is_work_over_what_was_there():
    """Two trials at a time on four CPUs for ten seconds: 40 CPU seconds, of which 9 trained and 3 more evaluated."""
    now = [100.0]
    packing = Packing(Share(1.5, 0.0))
    meter = UtilisationMeter(cpus=4, gpus=0, concurrent=2, packing=packing, clock=lambda: now[0])
    meter.on_trial_end(trial("topk-0000", 50, 50, 100))  # of an earlier session
    assert meter.summary()["cpu_busy"] is None
    meter.on_trial_start("topk-0001", "topk", {})
    meter.on_trial_start("topk-0002", "topk", {})
    now[0] = 104.0
    meter.on_trial_end(trial("topk-0001", 2, 1, 4))
    now[0] = 110.0
    meter.on_trial_end(trial("topk-0002", 4, 1, 10))
    now[0] = 200.0  # what comes after the last trial does not count
    summary = meter.summary()
    assert summary["wall_s"] == 10.0
    assert summary["cpu_planned"] == pytest.approx(2 * 1.5 / 4)
    assert summary["cpu_training"] == pytest.approx(1.5 * 6 / 40)
    assert summary["cpu_busy"] == pytest.approx(1.5 * 8 / 40)
    assert summary["gpu_planned"] is None
    assert summary["gpu_busy"] is None


def test_what_an_earlier_session_trained_is_not_counted_here():
    now = [0.0]
    meter = UtilisationMeter(cpus=1, gpus=0, concurrent=1, packing=Packing(), clock=lambda: now[0])
    meter.on_trial_start("topk-0000", "topk", {})
    now[0] = 10.0
    meter.on_trial_end(trial("topk-0000", 500, 1, 10))  # it went on from a checkpoint
    assert meter.summary()["cpu_training"] == pytest.approx(1.0)


def test_cards_are_looked_at_while_trials_run():
    cards = [Card(0, 0.5, 10, 100), Card(1, 0.25, 30, 100)]
    meter = UtilisationMeter(cpus=8, gpus=2, concurrent=8, packing=Packing(Share(1, 0.25)), cards=lambda: cards)
    meter.on_trial_start("topk-0000", "topk", {})
    meter.on_sweep_end(None)
    summary = meter.summary()
    assert (summary["gpu_busy"], summary["gpu_memory"], summary["gpu_planned"]) == (0.375, 0.2, 1.0)
