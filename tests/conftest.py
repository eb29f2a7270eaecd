"""Environment and fixtures of the test suite: no network, one thread, nothing written to the user's home."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_plugins = ["hub.fixtures"]  # a Hugging Face hub on 127.0.0.1

_ROOT = Path(__file__).resolve().parent.parent
_HOME = tempfile.mkdtemp(prefix="vsae-home-")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)

# A shell ignores Ctrl-C for what it starts in the background, and so would everything that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Set before any test module is imported: most of these are read once, at import.
os.environ.update(
    {
        "HOME": _HOME,  # Ray writes ~/.ray/auth_token, Hugging Face and matplotlib their caches
        "MPLCONFIGDIR": str(_ROOT / ".pytest_cache" / "matplotlib"),  # kept: building the font cache takes seconds
        "MPLBACKEND": "Agg",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the coming default; without it Ray warns
        "RAY_DEDUP_LOGS": "0",
    }
)
for _name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "MLFLOW_TRACKING_URI"):
    os.environ.pop(_name, None)
Path(os.environ["MPLCONFIGDIR"]).mkdir(parents=True, exist_ok=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked ``gpu`` where there is no CUDA device."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """A Ray of its own for the tests of one module: two CPUs, no dashboard, shut down afterwards."""
    import ray

    assert not ray.is_initialized(), "an earlier test left Ray running"
    ray.init(
        address="local",
        num_cpus=2,
        num_gpus=0,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        object_store_memory=200 * 2**20,
    )
    yield
    ray.shutdown()
