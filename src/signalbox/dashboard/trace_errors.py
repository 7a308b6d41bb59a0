"""The errors of a trace, with the lines of source where they were raised."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from django.db import InterfaceError, OperationalError, connections, router

from signalbox.core import loggers
from signalbox.dashboard.source_excerpt import get_excerpt
from signalbox.doctor.findings import SourceLine
from signalbox.models import Delivery, Error
from signalbox.outbox import queue
from signalbox.queries import errors

logger = loggers.get_logger("dashboard")


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownError:
    """One error on the page of its trace."""

    error: Error
    state: str
    """The state of its group."""
    excerpt: tuple[SourceLine, ...]
    """Lines of source; empty unless ``DASHBOARD["SHOW_SOURCE"]`` is set."""
    delivery: Delivery | None
    """The delivery whose attempt raised it; None if none did, or if it was purged."""


def get_trace_errors(trace_id: str, expected_count: int) -> tuple[list[ShownError], bool]:
    """Return the first errors of a trace in their order, and whether there are more.

    An error is stored with its event, which may be in another database. The other databases are searched if that for
    errors has fewer than ``expected_count``, the number of errors in the rows of the trace.
    """
    alias = router.db_for_read(Error)
    found, has_more = errors.get_trace_errors(alias, trace_id)
    if len(found) < expected_count and len(list(connections)) > 1:
        for other in queue.get_delivery_databases():
            if other == alias:
                continue
            try:
                others, has_more_others = errors.get_trace_errors(other, trace_id)
            except (OperationalError, InterfaceError):
                logger.warning("The errors of a trace in database %r could not be read.", other, exc_info=True)
                continue
            found, has_more = found + others, has_more or has_more_others
        found.sort(key=lambda one: one.error.time)
        has_more = has_more or len(found) > errors.MAX_TRACE_ERRORS
    shown = found[: errors.MAX_TRACE_ERRORS]
    deliveries = _find_deliveries(shown)
    return [
        ShownError(
            error=one.error,
            state=one.state,
            excerpt=get_excerpt(one.error.file, one.error.line),
            delivery=deliveries.get((one.error._state.db, one.error.delivery_id)),
        )
        for one in shown
    ], has_more


def _find_deliveries(found: list[errors.TraceError]) -> dict[tuple[str | None, int | None], Delivery]:
    """Return the deliveries that raised the errors and were not purged, by database and id."""
    wanted: defaultdict[str | None, set[int]] = defaultdict(set)
    for one in found:
        if one.error.delivery_id is not None:
            wanted[one.error._state.db].add(one.error.delivery_id)
    return {
        (alias, row.pk): row
        for alias, ids in wanted.items()
        for row in Delivery.objects.using(alias).filter(pk__in=ids)
    }
