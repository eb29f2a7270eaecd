from __future__ import annotations

import os
from typing import TYPE_CHECKING

import activations_fakes
import pytest
import ray
from activations_fakes import FakeSubject

if TYPE_CHECKING:
    from pathlib import Path

# workers do not have this folder on their path
ray.cloudpickle.register_pickle_by_value(activations_fakes)

# read by ray.init: no usage report, no token file in the home directory, no warning about future defaults
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


@pytest.fixture(scope="module")
def local_ray():
    ray.init(
        address="local",
        num_cpus=2,
        num_gpus=2,  # in name only: which harvester is given which one is all that is looked at
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=200_000_000,
        configure_logging=False,
    )
    yield
    ray.shutdown()


@pytest.fixture
def subject(tmp_path: Path) -> FakeSubject:
    log = tmp_path / "harvests"
    log.mkdir()
    return FakeSubject(log=log)
