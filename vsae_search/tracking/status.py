"""How much of a sweep's record has reached MLflow."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrackingStatus:
    """State of the record at one moment.

    Attributes:
        uri: Address of the tracking store, passwords masked.
        delivered: Events that MLflow holds.
        pending: Events that wait in the spool.
        rejected: Events or artifacts that MLflow refused for good; they stay in the spool file.
        last_error: Why delivery does not work at the moment, or why the last event was refused; None when all is well.
    """

    uri: str
    delivered: int
    pending: int
    rejected: int
    last_error: str | None

    @property
    def complete(self) -> bool:
        """Whether MLflow holds everything."""
        return self.pending == 0 and self.rejected == 0
