from __future__ import annotations

from collections import namedtuple
from pathlib import Path

import pytest
import ray

from vsae_search.activations import plan as plan_module
from vsae_search.activations import plan_bank
from vsae_search.activations.files import write_shard
from vsae_search.activations.harvest import harvest_arrays
from vsae_search.activations.manifest import bank_key, bank_requests, split_rows
from vsae_search.activations.plan import format_bytes
from vsae_search.activations.stores import NodeStore
from vsae_search.errors import EnvironmentNotReady, UserInputError
from vsae_search.space import ActivationsSpec

SPEC = ActivationsSpec(num_tokens=100, evaluation_tokens=10, calibration_tokens=5, shard_tokens=30, dtype="bf16")
Usage = namedtuple("Usage", "total used free")


def test_sizes_by_hand_without_ray_and_without_creating_anything(tmp_path):
    assert not ray.is_initialized()
    plan = plan_bank(8, SPEC, tmp_path / "not" / "there", num_features=3)
    assert plan.num_shards == 4
    assert split_rows(SPEC) == (30, 30, 30, 10)
    assert plan.train_bytes == 100 * 8 * 2
    assert plan.calibration_bytes == 5 * 8 * 4
    assert plan.evaluation_bytes == 10 * (8 + 3) * 4
    assert plan.total_bytes == plan.missing_bytes == 1600 + 160 + 440
    assert plan.free_disk_bytes > 0
    assert plan.object_store_bytes is None
    assert plan.spilled_bytes == 0
    plan.check()
    assert list(tmp_path.iterdir()) == []


def test_exact_multiple_has_no_empty_shard():
    assert split_rows(SPEC.model_copy(update={"num_tokens": 90})) == (30, 30, 30)
    assert split_rows(SPEC.model_copy(update={"num_tokens": 7})) == (7,)


def test_disk_too_small_is_refused_with_the_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(plan_module.shutil, "disk_usage", lambda _: Usage(10_000, 8_000, 2_000))
    with pytest.raises(EnvironmentNotReady) as caught:
        plan_bank(8, SPEC, tmp_path, num_features=3).check()
    assert "2.3 kB" in caught.value.message  # 2200 bytes and 5 %
    assert "2.0 kB is free" in caught.value.message
    assert "num_tokens" in caught.value.hint


@pytest.mark.parametrize("fingerprint", [None, "a"])
def test_a_bank_beyond_memory_is_planned_and_refused(tmp_path, fingerprint):
    spec = SPEC.model_copy(update={"num_tokens": 10**18})
    plan = plan_bank(8, spec, tmp_path, fingerprint=fingerprint)
    assert plan.num_shards == -(-(10**18) // 30)
    assert plan.missing_bytes == plan.total_bytes == 10**18 * 8 * 2 + 5 * 8 * 4 + 10 * 8 * 4
    with pytest.raises(EnvironmentNotReady, match="the activation bank needs"):
        plan.check()


def test_more_shards_than_can_be_listed_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(plan_module.shutil, "disk_usage", lambda _: Usage(10**12, 0, 10**12))
    spec = SPEC.model_copy(update={"num_tokens": 1_000_001, "shard_tokens": 1})
    plan_bank(8, spec.model_copy(update={"num_tokens": 1_000_000}), tmp_path).check()
    with pytest.raises(UserInputError, match="1000001 shards") as caught:
        plan_bank(8, spec, tmp_path).check()
    assert "shard_tokens" in caught.value.hint


def test_files_on_disk_are_not_counted_again(tmp_path, subject, monkeypatch):
    home = tmp_path / bank_key(subject.fingerprint, SPEC)
    home.mkdir()
    request = bank_requests(subject.fingerprint, SPEC)[0]
    write_shard(home / request.file_name, request, harvest_arrays(subject, request))
    plan = plan_bank(4, SPEC, tmp_path, fingerprint=subject.fingerprint)
    assert plan.directory == home
    assert plan.missing_bytes == plan.total_bytes - 30 * 4 * 2
    monkeypatch.setattr(plan_module.shutil, "disk_usage", lambda _: Usage(1, 1, plan.required_disk_bytes))
    plan_bank(4, SPEC, tmp_path, fingerprint=subject.fingerprint).check()


def node_store(capacity: int, usable: int = 10**9, *, holds_files: bool = False, node: str = "a") -> NodeStore:
    return NodeStore(node, capacity, Path(f"/spill/{node}"), usable, holds_files)


def test_larger_than_the_object_store_is_reported_and_allowed(tmp_path):
    plan = plan_bank(8, SPEC, tmp_path, num_features=3, stores=[node_store(1_200)])
    assert plan.object_store_bytes == 1_200
    assert plan.spilled_bytes == 1_000
    assert "1.0 kB more than the object store holds, Ray will spill to /spill/a" in plan.describe()
    plan.check()
    assert "spill" not in plan_bank(8, SPEC, tmp_path, stores=[node_store(10_000)]).describe()


def test_a_spill_folder_too_small_is_refused_with_the_numbers(tmp_path):
    # 2200 bytes and 5 %: all of the bank is counted, since reading it in other orders spills the rest too
    plan_bank(8, SPEC, tmp_path, num_features=3, stores=[node_store(1_200, 2_310)]).check()
    with pytest.raises(EnvironmentNotReady) as caught:
        plan_bank(8, SPEC, tmp_path, num_features=3, stores=[node_store(1_200, 2_309)]).check()
    for number in ("is 2.2 kB", "node a holds 1.2 kB", "needs 2.3 kB for spilling on the disk of /spill/a"):
        assert number in caught.value.message
    assert "where 2.3 kB can be used" in caught.value.message
    assert "object_store_gb" in caught.value.hint


def test_files_and_spilling_share_a_disk(tmp_path):
    plan_bank(8, SPEC, tmp_path, num_features=3, stores=[node_store(1_200, 4_620, holds_files=True)]).check()
    with pytest.raises(EnvironmentNotReady, match=r"spilling and 2\.3 kB for the bank's files"):
        plan_bank(8, SPEC, tmp_path, num_features=3, stores=[node_store(1_200, 4_619, holds_files=True)]).check()


def test_a_store_that_holds_the_bank_needs_no_spill_folder(tmp_path):
    # Ray begins to spill at 80 %: 2200 bytes fit without spilling in 2750
    plan_bank(8, SPEC, tmp_path, num_features=3, stores=[node_store(2_750, 0)]).check()
    with pytest.raises(EnvironmentNotReady, match="for spilling"):
        plan_bank(8, SPEC, tmp_path, num_features=3, stores=[node_store(2_749, 0)]).check()


def test_every_node_holds_its_share(tmp_path):
    stores = [node_store(1_375, 0, node="a"), node_store(1_000, 1_155, node="b")]
    plan = plan_bank(8, SPEC, tmp_path, num_features=3, stores=stores)  # 1100 bytes each
    plan.check()
    assert plan.spilled_bytes == 100
    assert plan.object_store_bytes == 2_375
    with pytest.raises(EnvironmentNotReady, match="node b holds"):
        plan_bank(8, SPEC, tmp_path, num_features=3, stores=[stores[0], node_store(1_000, 1_154, node="b")]).check()


def test_bank_key_depends_on_subject_and_sizes():
    specs = [
        SPEC,
        *(
            SPEC.model_copy(update={name: 20})
            for name in ("num_tokens", "evaluation_tokens", "calibration_tokens", "shard_tokens")
        ),
        SPEC.model_copy(update={"dtype": "fp16"}),
    ]
    assert len({bank_key("a", spec) for spec in specs} | {bank_key("b", SPEC)}) == 7


def test_format_bytes():
    assert [format_bytes(count) for count in (999, 1_500, 2_345_678, 3 * 10**9, 5 * 10**15)] == [
        "999 B",
        "1.5 kB",
        "2.3 MB",
        "3.0 GB",
        "5000.0 TB",
    ]
