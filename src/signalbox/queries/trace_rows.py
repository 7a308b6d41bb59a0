"""The rows of one trace in a table, in the order of their keys."""

from __future__ import annotations

from typing import TypeVar

from django.db.models import QuerySet

from signalbox.models import Delivery, Event, Trace

TraceRow = TypeVar("TraceRow", Event, Trace, Delivery)


def select_trace_rows(rows: QuerySet[TraceRow], trace_id: str, *, newest_first: bool = False) -> QuerySet[TraceRow]:
    """Return those of ``rows`` that belong to a trace, ordered by their keys.

    With ``=`` and an order by the key only, PostgreSQL may read the whole table in that order if it expects a large
    trace. With an order by both columns, it uses the index of the trace's id.
    """
    sign = "-" if newest_first else ""
    return rows.filter(trace_id__range=(trace_id, trace_id)).order_by(f"{sign}trace_id", f"{sign}id")
