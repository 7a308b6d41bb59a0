"""The outcomes of attempts of durable deliveries."""

from __future__ import annotations

from enum import StrEnum


class AttemptOutcome(StrEnum):
    """The result of one attempt of a delivery."""

    SUCCEEDED = "succeeded"
    """The receiver returned."""
    FAILED = "failed"
    """The receiver raised an exception."""
    TIMED_OUT = "timed_out"
    """The receiver was interrupted at its timeout, or did not end after it."""
    LOST = "lost"
    """Its lease expired before a result was written: the worker was killed, or lost its database."""
