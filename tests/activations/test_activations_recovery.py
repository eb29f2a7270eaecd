"""A node dies while every CPU is taken by a trial that waits for its shards."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
import ray
from activations_fakes import FakeSubject
from ray.cluster_utils import Cluster

from vsae_search.activations import build_bank, owner
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


@pytest.fixture(scope="module")
def cluster():
    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def second(cluster):
    """A second node, to be killed."""
    node = cluster.add_node(**NODE)
    end = time.monotonic() + 120
    while node.node_id not in ray.get([where.remote() for _ in range(4)]):  # the scheduler learns of it a little later
        assert time.monotonic() < end, "no task is sent to the second node"
    yield node
    if node in cluster.list_all_nodes():
        cluster.remove_node(node, allow_graceful=False)


@ray.remote(num_cpus=0, scheduling_strategy="SPREAD")
def where() -> str:
    return ray.get_runtime_context().get_node_id()


@ray.remote(num_cpus=1, max_restarts=0)
class Reader:
    """A trial: keeps its CPU while it waits."""

    def __init__(self, arguments: dict) -> None:
        self.bank = arguments["bank"]
        self.stream: BatchStream = self.bank.stream(batch_size=1_000, seed=0)

    def node(self) -> str:
        return ray.get_runtime_context().get_node_id()

    def epoch(self) -> np.ndarray:
        return np.concatenate([next(self.stream).numpy() for _ in range(12)])


def owner_node(name: str) -> str:
    actor = ray.get_actor(name, namespace=owner.NAMESPACE)
    return str(ray._private.state.actors(actor._actor_id.hex())["Address"]["NodeID"])


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("detached", [False, True])
def test_lost_shards_are_rebuilt_while_every_cpu_is_taken(cluster, second, subject, tmp_path, detached):
    wide = FakeSubject(log=subject.log, d_in=32, row_number_step=2_000)
    bank = build_bank(wide, SPEC, tmp_path / "bank", detached=detached)
    if detached:
        assert owner_node(bank.owner) == cluster.head_node.node_id, "the one node that is not removed"
    harvested = wide.harvests()
    locations = ray.experimental.get_object_locations(list(bank.shards))
    lost = [reference for reference in bank.shards if locations[reference]["node_ids"] == [second.node_id]]
    assert lost, "some shards are on the second node only"
    # one of the lost shards must be harvested again, the others are read from their files
    home = tmp_path / "bank" / bank.manifest.key
    os.unlink(home / bank.manifest.files[bank.shards.index(lost[0])].file)

    readers = [Reader.remote({"bank": bank}) for _ in range(2)]
    nodes = ray.get([reader.node.remote() for reader in readers])
    assert sorted(nodes) == sorted([cluster.head_node.node_id, second.node_id]), "every CPU is held by a trial"
    reader = readers[nodes.index(cluster.head_node.node_id)]
    cluster.remove_node(second, allow_graceful=False)

    x_ND = ray.get(reader.epoch.remote(), timeout=240)
    numbers_N = np.sort(np.rint(x_ND[:, 0] / bank.manifest.scale).astype(int))
    np.testing.assert_array_equal(numbers_N, np.arange(1, 12_001))
    assert ray.available_resources().get("CPU", 0) == 0, "the trial held the only CPU throughout"
    bank.verify()
    assert len(wide.harvests()) == len(harvested) + 1
    ray.kill(reader)
    bank.release()
