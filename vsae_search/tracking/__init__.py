"""The MLflow record of a sweep, behind a local spool that survives every outage."""

from __future__ import annotations

from vsae_search.tracking.index import RunIndex, read_run_index
from vsae_search.tracking.listener import MlflowListener
from vsae_search.tracking.spool import has_spool
from vsae_search.tracking.status import TrackingStatus
from vsae_search.tracking.tensorboard import (
    INSTALL_TENSORBOARD,
    TensorboardListener,
    require_tensorboard,
    tensorboard_missing,
)
from vsae_search.tracking.uris import check_uri, default_uri, mask_secrets, tracking_uri, web_address

__all__ = [
    "INSTALL_TENSORBOARD",
    "MlflowListener",
    "RunIndex",
    "TensorboardListener",
    "TrackingStatus",
    "check_uri",
    "default_uri",
    "has_spool",
    "mask_secrets",
    "read_run_index",
    "require_tensorboard",
    "tensorboard_missing",
    "tracking_uri",
    "web_address",
]
