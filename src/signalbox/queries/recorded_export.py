"""An export: the matching events in a format, oldest first, in parts. Each export is recorded as an event."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from django.db import connections

from signalbox.core import clock, tracing
from signalbox.core.event import Outcome
from signalbox.pipeline.recorded_operations import EXPORTED, record_operation
from signalbox.queries import event_stream

if TYPE_CHECKING:
    from django.db.models import QuerySet

    from signalbox.core.event import Actor
    from signalbox.models import Event
    from signalbox.queries.export_formats import ExportFormat


class EventExport(Iterator[bytes]):
    """An iterator over the bytes of an export. It records the export at its end, also if it is closed before that.

    The order is that of the ids. The end is the newest event at the start, so the export ends while the site writes.

    Args:
        queryset: The events to export.
        export_format: Their format.
        described_filter: The filter, as the event of the export contains it.
        origin: Where the export was started.
        actor: Who started it.
    """

    def __init__(
        self,
        queryset: QuerySet[Event],
        export_format: ExportFormat,
        *,
        described_filter: Mapping[str, Any],
        origin: Literal["command", "page"],
        actor: Actor | None,
    ) -> None:
        self.event_count = 0
        """Number of events that the parts so far contain."""
        self.last_id: int | None = None
        """Id of the last of them."""
        self.is_complete = False
        """Whether all events were exported."""
        self.is_recorded: bool | None = None
        """Whether the event of the export was written; None before the end."""
        self._first_id: int | None = None
        self._passed_id: int | None = 0
        self._end_id = event_stream.get_newest_id(queryset.db)
        self._alias = queryset.db
        self._format = export_format
        self._arguments = {"format": export_format.name, "filter": dict(described_filter), "origin": origin}
        self._actor = actor
        self._trace = tracing.get_current_trace()
        self._started_ns = clock.monotonic_ns()
        self._lists = event_stream.iter_oldest_first(queryset, self._end_id)
        self._header = export_format.header

    def __next__(self) -> bytes:
        """Return the next part: the lines of up to 200 events. It is empty if a range of ids has none."""
        if self.is_recorded is not None:
            raise StopIteration
        try:
            events, self._passed_id = next(self._lists, ([], None))
        except BaseException as error:
            # An interrupted query leaves a connection that can't be used. A transaction of a caller is not ours to end.
            connection = connections[self._alias]
            if not isinstance(error, Exception) and not connection.in_atomic_block:
                connection.close()
            self._record(Outcome.FAILED if isinstance(error, Exception) else Outcome.SENT)
            raise
        if self._passed_id is None and not self._header:
            self.is_complete = True
            self._record(Outcome.SENT)
            raise StopIteration
        text = self._header + "".join(map(self._format.write_event, events))
        self._header = ""
        if events:
            self._first_id = events[0].id if self._first_id is None else self._first_id
            self.last_id = events[-1].id
            self.event_count += len(events)
        return text.encode(errors="replace")

    @property
    def progress(self) -> float:
        """The share of the ids that is done, from 0 to 1."""
        if self._passed_id is None:
            return 1.0
        before = 0 if self._first_id is None else self._first_id - 1
        return (self._passed_id - before) / max(self._end_id - before, 1)

    def close(self) -> None:
        """Record the export as incomplete, unless it has ended."""
        if self.is_recorded is None:
            self._record(Outcome.SENT)

    def _record(self, outcome: Outcome) -> None:
        self.is_recorded = False
        self.is_recorded = record_operation(
            EXPORTED,
            {
                **self._arguments,
                "events": self.event_count,
                "first_id": self._first_id,
                "last_id": self.last_id,
                "is_complete": self.is_complete,
            },
            actor=self._actor,
            trace=self._trace,
            duration_ns=clock.monotonic_ns() - self._started_ns,
            outcome=outcome,
        )
