"""Starting Ray without leaving doors open."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from pathlib import Path

import pytest

from vsae_search.errors import EnvironmentNotReady
from vsae_search.search.resources import cluster as cluster_module
from vsae_search.search.resources.cluster import Cluster, close_token
from vsae_search.search.resources.packing import Packing, Share
from vsae_search.space import ResourcesSpec


def test_the_token_of_ray_is_for_its_owner_only(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    umask = os.umask(0)
    try:
        close_token()
    finally:
        os.umask(umask)
    token = tmp_path / ".ray" / "auth_token"
    assert len(token.read_text()) == 64
    assert (mode(token), mode(token.parent)) == (0o600, 0o700)
    token.write_text("secret")
    token.chmod(0o644)
    close_token()
    assert (mode(token), token.read_text()) == (0o600, "secret")
    assert list(token.parent.iterdir()) == [token]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture
def temporary(monkeypatch):
    """A short folder in place of /tmp."""
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def test_the_folder_of_ray_lies_in_a_closed_one(temporary):
    folder = cluster_module._temporary()
    assert folder == temporary / f"vsae-{os.getuid()}" / "ray"
    assert mode(folder.parent) == 0o700
    folder.chmod(0o777)  # as Ray leaves it
    assert cluster_module._temporary() == folder


@pytest.mark.parametrize("found", ["open", "a link", "a file", "of another user"])
def test_a_folder_that_others_could_have_touched_is_not_used(temporary, monkeypatch, found):
    usual = temporary / f"vsae-{os.getuid()}"
    if found == "a link":
        (temporary / "elsewhere").mkdir(mode=0o700)
        usual.symlink_to(temporary / "elsewhere")
    elif found == "a file":
        usual.touch(mode=0o700)
    else:
        usual.mkdir(mode=0o700)
        usual.chmod(0o770 if found == "open" else 0o700)
    if found == "of another user":
        theirs = os.stat_result((0o40700, 1, 1, 1, os.getuid() + 1, 0, 0, 0, 0, 0))
        monkeypatch.setattr(Path, "lstat", lambda _: theirs)
    folder = cluster_module._temporary()
    monkeypatch.undo()
    assert folder.parent != usual
    assert mode(folder.parent) == 0o700
    assert len(str(folder)) <= 40


def test_a_long_temporary_folder_is_too_long_for_sockets(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("long" * 10)))
    assert len(str(cluster_module._temporary())) <= 40


def test_a_home_that_cannot_be_written_is_no_bug(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(EnvironmentNotReady, match="Ray cannot be started"):
        cluster_module._start(ResourcesSpec(), None)


@pytest.mark.parametrize(
    ("spec", "trials", "expected"),
    [
        (ResourcesSpec(), 100, 8),
        (ResourcesSpec(), 3, 3),
        (ResourcesSpec(max_concurrent=2), 100, 2),
        (ResourcesSpec(cpus_per_trial=3), 100, 2),
        (ResourcesSpec(cpus_per_trial=0.5, gpus_per_trial=0.25), 100, 4),
        (ResourcesSpec(cpus_per_trial=16), 100, 1),
        (ResourcesSpec(cpus_per_trial=0.1), 100, 80),  # 8 // 0.1 is 79 in floating point
        (ResourcesSpec(cpus_per_trial="auto", gpus_per_trial="auto"), 100, 8),
    ],
)
def test_concurrency_is_what_fits_and_what_is_asked_for(spec, trials, expected):
    assert Cluster({"CPU": 8, "GPU": 1}, nodes=1, logs="").concurrency(spec, trials) == expected


def test_concurrency_with_measured_shares_is_that_of_the_smallest():
    cluster = Cluster({"CPU": 16, "GPU": 2}, nodes=1, logs="")
    packing = Packing(shares={"topk/64": Share(1.0, 0.25), "relu/64": Share(1.0, 1.0)})
    assert cluster.concurrency(ResourcesSpec(), 100, packing) == 8
    assert cluster.concurrency(ResourcesSpec(max_concurrent=3), 100, packing) == 3
    assert cluster.concurrency(ResourcesSpec(), 100, Packing(shares={"topk/64": Share(1.0, 0.4)})) == 4


def test_what_is_missing_is_named_with_what_there_is():
    cluster = Cluster({"CPU": 2}, nodes=1, logs="")
    assert cluster.missing(ResourcesSpec()) is None
    assert cluster.missing(ResourcesSpec(gpus_per_trial=0.5)) == "0.5 GPU (the cluster has 0)"


def test_nodes_that_an_autoscaler_may_start_count(monkeypatch):
    """A cluster may begin with its head alone, which gives nothing."""
    promised = {"CPU": 64, "GPU": 8}
    monkeypatch.setattr(
        cluster_module.ray._private.state.state, "get_max_resources_from_cluster_config", lambda: promised
    )
    assert cluster_module._with_promised({"memory": 5.0}) == {"memory": 5.0, "CPU": 64.0, "GPU": 8.0}
    assert cluster_module._with_promised({"CPU": 100.0, "GPU": 1.0}) == {"CPU": 100.0, "GPU": 8.0}
    promised.update(CPU=sys.maxsize)
    assert cluster_module._with_promised({})["CPU"] == 1e6
    monkeypatch.setattr(cluster_module.ray._private.state.state, "get_max_resources_from_cluster_config", lambda: None)
    assert cluster_module._with_promised({"CPU": 2.0}) == {"CPU": 2.0}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConnectionError("Failed to connect to Ray cluster at 10.0.0.1:6379"), "cannot be joined: Failed to connect"),
        (cluster_module.ray.exceptions.AuthenticationError("no"), "refuses the token"),
        (ValueError("Malformed address"), "cannot be joined: Malformed address"),
    ],
)
def test_a_cluster_that_cannot_be_joined_is_told_with_what_to_do(monkeypatch, tmp_path, error, said):
    def init(**_):
        raise error

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(cluster_module.ray, "init", init)
    monkeypatch.setattr(cluster_module.ray, "is_initialized", lambda: False)
    with (
        pytest.raises(EnvironmentNotReady, match=said),
        cluster_module.connected(ResourcesSpec(), "10.0.0.1:6379"),
    ):
        pass
