"""A node dies while every CPU is taken by a trial that waits for its shards."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import pytest
import ray
from activations_fakes import FakeSubject
from ray.cluster_utils import Cluster

from vsae_search.activations import build_bank
from vsae_search.errors import EnvironmentNotReady
from vsae_search.space import ActivationsSpec

if TYPE_CHECKING:
    from vsae_search.activations.stream import BatchStream

NODE = {"num_cpus": 1, "object_store_memory": 100_000_000, "include_dashboard": False}
SPEC = ActivationsSpec(num_tokens=12_000, evaluation_tokens=5, calibration_tokens=5, shard_tokens=2_000)


def test_ray_must_be_running(subject, tmp_path):
    with pytest.raises(EnvironmentNotReady, match="Ray is not running"):
        build_bank(subject, SPEC, tmp_path / "bank")
    assert not (tmp_path / "bank").exists()


@pytest.fixture
def cluster():
    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    second = cluster.add_node(**NODE)
    ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
    yield cluster, second
    ray.shutdown()
    cluster.shutdown()


@ray.remote(num_cpus=1, max_restarts=0)
class Reader:
    """A trial: keeps its CPU while it waits."""

    def __init__(self, arguments: dict) -> None:
        self.bank = arguments["bank"]
        self.stream: BatchStream = self.bank.stream(batch_size=1_000, seed=0)

    def ready(self) -> bool:
        return True

    def epoch(self) -> np.ndarray:
        return np.concatenate([next(self.stream).numpy() for _ in range(12)])


@pytest.mark.slow
def test_lost_shards_are_rebuilt_while_every_cpu_is_taken(cluster, subject, tmp_path):
    cluster, second = cluster
    wide = FakeSubject(log=subject.log, d_in=32, row_number_step=2_000)
    bank = build_bank(wide, SPEC, tmp_path / "bank")
    harvested = wide.harvests()
    locations = ray.experimental.get_object_locations(list(bank.shards))
    lost = [reference for reference in bank.shards if second.node_id in locations[reference]["node_ids"]]
    assert lost, "the shards are spread over both nodes"
    # one of the lost shards must be harvested again, the others are read from their files
    home = tmp_path / "bank" / bank.manifest.key
    os.unlink(home / bank.manifest.files[bank.shards.index(lost[0])].file)

    head = ray.get_runtime_context().get_node_id()
    here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(head, soft=False)
    reader = Reader.options(scheduling_strategy=here).remote({"bank": bank})
    assert ray.get(reader.ready.remote())
    cluster.remove_node(second, allow_graceful=False)

    x_ND = ray.get(reader.epoch.remote(), timeout=60)
    numbers_N = np.sort(np.rint(x_ND[:, 0] / bank.manifest.scale).astype(int))
    np.testing.assert_array_equal(numbers_N, np.arange(1, 12_001))
    assert ray.available_resources().get("CPU", 0) == 0, "the trial held the only CPU throughout"
    bank.verify()
    assert len(wide.harvests()) == len(harvested) + 1
