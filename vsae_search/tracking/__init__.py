"""The MLflow record of a sweep, behind a local spool that survives every outage."""

from __future__ import annotations

from vsae_search.tracking.index import RunIndex, read_run_index
from vsae_search.tracking.listener import MlflowListener
from vsae_search.tracking.status import TrackingStatus
from vsae_search.tracking.uris import check_uri, default_uri, mask_secrets, web_address

__all__ = [
    "MlflowListener",
    "RunIndex",
    "TrackingStatus",
    "check_uri",
    "default_uri",
    "mask_secrets",
    "read_run_index",
    "web_address",
]
