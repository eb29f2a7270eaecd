"""Addresses that a search space, the environment or an option may name, and those that they may not."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from vsae_search.cli._connect import _checked
from vsae_search.errors import UserInputError
from vsae_search.search.store.studies_home import studies_home
from vsae_search.space import SearchSpec, TrackingSpec
from vsae_search.tracking import tracking_uri
from vsae_search.tracking.uris import artifact_place

ELSEWHERE = (
    "gopher://host/1",
    "ftp://host/x",
    "javascript:alert(1)",
    "data:text/html,x",
    "jar:file:///x",
    "mysql://host/db",
    "databricks://x",
    "ssh://host/x",
    "//host/x",
    "\\\\host\\x",
)


@pytest.mark.parametrize("address", ELSEWHERE)
def test_only_known_schemes_are_opened(address, tmp_path, monkeypatch):
    """From the file and from the environment, for runs, studies and artifacts."""
    for make in (
        lambda: TrackingSpec(uri=address),
        lambda: TrackingSpec(artifacts=address),
        lambda: SearchSpec(study_storage=address),
        lambda: _checked(address),
    ):
        with pytest.raises((ValidationError, UserInputError)):
            make()
    for name in ("VSAE_SEARCH_TRACKING_URI", "VSAE_SEARCH_ARTIFACTS", "VSAE_SEARCH_STUDY_STORAGE"):
        monkeypatch.setenv(name, address)
    for read in (
        lambda: tracking_uri(TrackingSpec()),
        lambda: artifact_place(TrackingSpec()),
        lambda: studies_home(tmp_path, None),
    ):
        with pytest.raises(UserInputError):
            read()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "place", ["../up", "relative", "s3://", "s3://UPPER/x", "s3://b/../x", "s3://key:secret@b/x", "/a/../b"]
)
def test_places_for_artifacts_stay_where_they_are(place):
    with pytest.raises((ValidationError, UserInputError)):
        TrackingSpec(artifacts=place)


@pytest.mark.parametrize(
    ("place", "address"), [("/shared/x", "file:///shared/x"), ("s3://bucket/a/b", "s3://bucket/a/b")]
)
def test_folders_and_buckets_can_hold_artifacts(place, address, monkeypatch):
    """The file comes before the environment."""
    monkeypatch.setenv("VSAE_SEARCH_ARTIFACTS", "/other")
    assert artifact_place(TrackingSpec(artifacts=place)) == address
    assert artifact_place(TrackingSpec()) == "file:///other"


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:6379",
        "ray://host:10001",
        "http://",
        "http://user@host:8265",
        "http://host:x",
        "http://host/path",
        "http://h\nost",
    ],
)
def test_a_job_server_has_a_plain_web_address(address):
    with pytest.raises(UserInputError):
        _checked(address)
    assert _checked("http://host:8265/") == "http://host:8265"
