"""The event processors that Signalbox provides for projects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from django.utils.module_loading import import_string

from signalbox.pipeline.processors import EventProcessor

if TYPE_CHECKING:
    from signalbox.core.event import PendingEvent
    from signalbox.core.tracing import Trace

_ID_PART_DIGITS: Final = 8
"""Hexadecimal digits of a trace's id that decide about its recording. They are random (W3C Trace Context, 3.2.2.3)."""


class Sample(EventProcessor):
    """Record only a share of the traces that neither changed data nor failed.

    The trace's id decides, so that all processes of a distributed trace decide alike.

    Args:
        rate: The share to record, from 0 (none) to 1 (all).

    Raises:
        ValueError: ``rate`` is not a number from 0 to 1.
    """

    def __init__(self, rate: float) -> None:
        given: object = rate  # it comes from the settings
        if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given <= 1:
            raise ValueError(f"rate is {rate!r}. Expected a number from 0 to 1.")
        self.rate = rate

    def on_trace_end(self, trace: Trace) -> bool:
        """Return True for a trace with an error or a write, and for the share of the others."""
        if trace.errors or trace.has_writes or trace.is_failed():
            return True
        return int(trace.id[:_ID_PART_DIGITS], 16) < self.rate * 16**_ID_PART_DIGITS


class Enrich(EventProcessor):
    """Add data of the project to every event, stored under ``extra``: bounded and redacted like other data.

    Args:
        function: A callable or its dotted path. It receives the event, and returns a mapping to add, or None.

    Raises:
        TypeError: ``function`` is not callable.
        ImportError: ``function`` is a dotted path that cannot be imported.
    """

    def __init__(self, function: str | Callable[[PendingEvent], Mapping[str, Any] | None]) -> None:
        found: Any = import_string(function) if isinstance(function, str) else function
        if not callable(found):
            raise TypeError(f"function is {function!r}. Expected a callable or its dotted path.")
        self.function: Callable[[PendingEvent], Mapping[str, Any] | None] = found

    def on_event(self, event: PendingEvent) -> PendingEvent:
        """Add the mapping that the function returns."""
        found = self.function(event)
        if isinstance(found, Mapping):
            event.extra = {**(event.extra or {}), **found}
        return event
