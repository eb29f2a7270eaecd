"""Fixtures around the local hub, known to every test through the root conftest.

``hub`` gives a running, empty hub to which this process (and, through ``hub_environment``, any child process) talks
online; every other test stays offline.
"""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hub.server import LocalHub


@pytest.fixture
def hub_environment(tmp_path: Path) -> dict[str, str]:
    """Variables that confine the client libraries to a fresh folder; ``hub`` adds HF_ENDPOINT."""
    home = tmp_path / "hf_home"
    return {
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_DATASETS_CACHE": str(home / "datasets"),
        "HF_HUB_OFFLINE": "0",
        "HF_DATASETS_OFFLINE": "0",
        "TRANSFORMERS_OFFLINE": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }


@pytest.fixture
def hub(hub_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """A hub of its own for one test; this process talks to it, with an empty cache and without pauses."""
    from hub.server import LocalHub

    server = LocalHub()
    hub_environment["HF_ENDPOINT"] = server.url
    for name, value in hub_environment.items():
        monkeypatch.setenv(name, value)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    _redirect(hub_environment, monkeypatch)
    yield server
    server.close()
    _forget_connections()


@pytest.fixture
def go_offline(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it to set HF_HUB_OFFLINE=1 for the rest of the test; the hub keeps running, to notice requests."""

    def switch() -> None:
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
            monkeypatch.setenv(name, "1")
        _set_offline(monkeypatch, offline=True)

    return switch


def _redirect(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the libraries, which read their variables once at import, the new values."""
    import datasets.config
    from huggingface_hub import constants, hf_api
    from huggingface_hub.utils import _http

    home, endpoint = environment["HF_HOME"], environment["HF_ENDPOINT"]
    for name, value in {
        "ENDPOINT": endpoint,
        "HF_HOME": home,
        "HF_HUB_CACHE": environment["HF_HUB_CACHE"],
        "HUGGINGFACE_HUB_CACHE": environment["HF_HUB_CACHE"],
        "HF_TOKEN_PATH": os.path.join(home, "token"),
        "HF_STORED_TOKENS_PATH": os.path.join(home, "stored_tokens"),
        "HF_HUB_DISABLE_XET": True,
        "HUGGINGFACE_CO_URL_TEMPLATE": endpoint + "/{repo_id}/resolve/{revision}/{filename}",
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(hf_api.api, "endpoint", endpoint)
    for name, value in {
        "HF_ENDPOINT": endpoint,
        "HF_CACHE_HOME": home,
        "HF_DATASETS_CACHE": environment["HF_DATASETS_CACHE"],
        "STREAMING_READ_MAX_RETRIES": 2,
        "STREAMING_READ_RETRY_INTERVAL": 0,
        "STREAMING_OPEN_MAX_RETRIES": 2,
        "STREAMING_OPEN_RETRY_INTERVAL": 0,
        "STREAMING_READ_SERVER_UNAVAILABLE_RETRY_INTERVAL": 0,
    }.items():
        monkeypatch.setattr(datasets.config, name, value)
    _set_offline(monkeypatch, offline=False)
    quick = SimpleNamespace(**{**vars(_http.time), "sleep": lambda _: None})
    monkeypatch.setattr(_http, "time", quick)  # failed requests are repeated, here without waiting
    if (copy := sys.modules.get("transformer_lens.utilities.hf_utils")) is not None:
        monkeypatch.setattr(copy, "HF_HUB_CACHE", environment["HF_HUB_CACHE"])
    _forget_connections()


def _set_offline(monkeypatch: pytest.MonkeyPatch, *, offline: bool) -> None:
    import datasets.config
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", offline)


def _forget_connections() -> None:
    """Close the connections of the client, and forget the listings that it remembers."""
    from huggingface_hub import HfFileSystem, close_session

    close_session()
    HfFileSystem.clear_instance_cache()
