"""Starting Ray without leaving doors open."""

from __future__ import annotations

import pytest

from vsae_search.search.cluster import Cluster, close_token
from vsae_search.space import ResourcesSpec


def test_the_token_of_ray_is_for_its_owner_only(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    close_token()  # nothing there: nothing happens
    assert list(tmp_path.iterdir()) == []
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("secret")
    token.chmod(0o644)
    close_token()
    assert token.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("spec", "trials", "expected"),
    [
        (ResourcesSpec(), 100, 8),
        (ResourcesSpec(), 3, 3),
        (ResourcesSpec(max_concurrent=2), 100, 2),
        (ResourcesSpec(cpus_per_trial=3), 100, 2),
        (ResourcesSpec(cpus_per_trial=0.5, gpus_per_trial=0.25), 100, 4),
        (ResourcesSpec(cpus_per_trial=16), 100, 1),
    ],
)
def test_concurrency_is_what_fits_and_what_is_asked_for(spec, trials, expected):
    assert Cluster({"CPU": 8, "GPU": 1}, nodes=1, logs="").concurrency(spec, trials) == expected


def test_what_is_missing_is_named_with_what_there_is():
    cluster = Cluster({"CPU": 2}, nodes=1, logs="")
    assert cluster.missing(ResourcesSpec()) is None
    assert cluster.missing(ResourcesSpec(gpus_per_trial=0.5)) == "0.5 GPU (the cluster has 0)"
