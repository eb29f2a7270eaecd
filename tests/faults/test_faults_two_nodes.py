"""A node of a cluster dies in the middle of a sweep that takes every CPU there is."""

from __future__ import annotations

import psutil
import pytest
import ray
from fault_helpers import at_gate, close_gate, facts, gated, meanwhile, open_gate, optuna_states, toy, until
from ray.cluster_utils import Cluster

from vsae_search.search import load_sweep, run_sweep
from vsae_search.search import sweep as sweep_module

NODE = {"num_cpus": 1, "object_store_memory": 100_000_000, "include_dashboard": False}


def runs(pid: int) -> bool:
    """Whether a process is there and not just waiting to be forgotten."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def cluster():
    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    second = cluster.add_node(**NODE)
    ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
    yield cluster, second
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_node_killed_in_a_packed_cluster(cluster, folder, monkeypatch):
    """One trial runs on each node when the second node dies, and shards with it: all trials end, each once."""
    cluster, second = cluster
    close_gate(folder)
    monkeypatch.setattr(sweep_module, "run_trial", gated(str(folder)))

    def act() -> None:
        until(lambda: len(at_gate(folder)) == 2)
        assert ray.available_resources().get("CPU", 0) == 0, "the cluster is packed"
        workers = at_gate(folder).values()
        cluster.remove_node(second, allow_graceful=False)
        # the worker outlives its node for a moment, in which an open gate would let its trial end
        until(lambda: not all(map(runs, workers)))
        open_gate(folder)

    with meanwhile(act):
        record = run_sweep(toy(search={"trials": 8}), root=folder / "sweeps")
    directory = folder / "sweeps" / "toy"
    trials = load_sweep(directory)[1]
    assert (record.status, record.resources["nodes"]) == ("completed", 2)
    assert {trial.state for trial in trials} == {"completed"}
    assert len(facts(directory)) == 8
    assert {trial.attempt for trial in trials} == {0}, "a lost node costs no attempt"
    states = optuna_states(directory)
    assert sorted(uid for uid, state in states if state == "COMPLETE") == [trial.uid for trial in trials]
    assert states.total() == 9, "the trial of the dead node was repeated"
