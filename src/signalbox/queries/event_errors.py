"""Which events have an error: as a condition in SQL, and of an event that was read."""

from __future__ import annotations

from typing import Final

from django.db.models import Q

from signalbox.core.receiver_stats import PASSED_THROUGH_KEY
from signalbox.models import Event

REQUEST_EXCEPTION_SIGNAL: Final = "got_request_exception"
"""The signal of a request that ended in an exception."""

ERRORS_ONLY: Final = (
    Q(errors__gt=0)
    | Q(signal=REQUEST_EXCEPTION_SIGNAL)
    | Q(outcome="failed", **{f"data__{PASSED_THROUGH_KEY}__isnull": True})
)
"""Condition on an event with an error: a receiver, the operation or the request raised."""


def has_error(event: Event) -> bool:
    """Return whether ``event`` meets ``ERRORS_ONLY``."""
    if event.errors or event.signal == REQUEST_EXCEPTION_SIGNAL:
        return True
    return event.outcome == "failed" and PASSED_THROUGH_KEY not in (event.data or {})
