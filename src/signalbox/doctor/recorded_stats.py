"""Statistics of receivers in the newest recorded events, and of stored deliveries."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from django.apps import apps
from django.db import DatabaseError, connections, router
from django.db.models import Count, Max

from signalbox.core import loggers
from signalbox.core.receiver_stats import CallTotals, ReceiverStats

MAX_EVENTS: Final = 5_000
"""Number of the latest events that are read."""

logger = loggers.get_logger("doctor")


@dataclass(frozen=True, kw_only=True, slots=True)
class DeliveryStats:
    """Numbers of stored deliveries of one durable receiver, by state."""

    receiver: str
    """Dotted name."""
    pending: int
    """Pending deliveries, including running ones."""
    done: int
    dead: int
    deferred: int
    """Pending and dead deliveries whose receiver a worker did not have."""
    last_error: str
    """The error of one dead delivery; empty without dead deliveries."""


def read_receiver_stats() -> tuple[ReceiverStats, ...]:
    """Read the latest events; empty if Signalbox is not installed, or its table is missing or can't be read."""
    if not apps.is_installed("signalbox"):
        return ()
    from signalbox.models import Event

    alias = router.db_for_read(Event)
    try:
        if Event._meta.db_table not in connections[alias].introspection.table_names():
            return ()
        rows = Event.objects.using(alias).order_by("-id").values_list("signal", "data")[:MAX_EVENTS]
        return tuple(aggregate_calls(rows))
    except DatabaseError:
        logger.warning(
            "The doctor can't read the recorded events of database %r. Rules about them find nothing.",
            alias,
            exc_info=True,
        )
        return ()


def read_delivery_stats() -> tuple[DeliveryStats, ...]:
    """Count the stored deliveries by receiver; none if the table is missing or can't be read."""
    if not apps.is_installed("signalbox"):
        return ()
    from signalbox.models import Delivery

    alias = router.db_for_read(Delivery)
    try:
        if Delivery._meta.db_table not in connections[alias].introspection.table_names():
            return ()
        rows = Delivery.objects.using(alias).order_by().values_list("receiver", "state")
        return tuple(aggregate_deliveries(rows.annotate(Count("id"), Count("deferred_since"), Max("error"))))
    except DatabaseError:
        logger.warning(
            "The doctor can't read the deliveries of database %r. Rules about them find nothing.", alias, exc_info=True
        )
        return ()


def aggregate_deliveries(rows: Iterable[tuple[str, str, int, int, str]]) -> Iterator[DeliveryStats]:
    """Sum up deliveries, given as receiver, state, number, number of deferred ones and an error."""
    by_receiver: defaultdict[str, dict[str, tuple[int, int, str]]] = defaultdict(dict)
    for receiver, state, number, deferred, error in rows:
        by_receiver[receiver][state] = number, deferred, error
    for receiver, states in sorted(by_receiver.items()):
        pending, done, dead = (states.get(state, (0, 0, "")) for state in ("pending", "done", "dead"))
        yield DeliveryStats(
            receiver=receiver,
            pending=pending[0],
            done=done[0],
            dead=dead[0],
            deferred=pending[1] + dead[1],
            last_error=dead[2],
        )


def aggregate_calls(rows: Iterable[tuple[str, Any]]) -> Iterable[ReceiverStats]:
    """Sum up events, newest first, given as pairs of the signal's name and the event's data."""
    totals: defaultdict[tuple[str, str], CallTotals] = defaultdict(CallTotals)
    for signal, data in rows:
        for call in (data.get("receivers") if isinstance(data, Mapping) else None) or ():
            totals[signal, call["name"]].add_call(call)
    for (signal, receiver), found in sorted(totals.items(), key=lambda item: item[0]):
        yield found.build_stats(signal, receiver)
