"""Delete the rows of one database that are older than the retention rules, or than a time, in short transactions.

Rows are read in windows by primary key and deleted by primary key, so no other row is locked. The number of rows of a
transaction depends on the time that the last one took (``pace``). ``scanning`` describes how rows are found.

- **Errors are deleted before their event or trace.** A purge that is killed leaves no error without it.

- **Deliveries do not need their event's row:** they contain their arguments. An event with a pending delivery is kept
  nevertheless, because the pages explain the delivery by it. So is one with a dead letter, which can be retried. This
  is one query by index for each window.
- **A trace is kept while it has events.** Its time is that of its end.
- **A horizon is stored before the first event of a sender is deleted.** It is the time before which the sender's events
  may be missing. The history of an object states nothing about earlier times.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Final, NamedTuple

from django.db import Error as DatabaseFailure
from django.db import connections, router, transaction
from django.db.models import Max, Min, Q

from signalbox.core.clock import now_us
from signalbox.models import Delivery, Error, Event, PurgeState, Trace
from signalbox.outbox.queue import FIRST_POSITION, DeliveryQueue, FinishedPosition
from signalbox.pipeline import backends, batches, missing_tables
from signalbox.retention import watermarks
from signalbox.retention.pace import Pace
from signalbox.retention.rules import DAY_US, DELIVERY_STATES, RetentionRules
from signalbox.retention.scanning import WINDOW_ROWS, Scan
from signalbox.retention.watermarks import Watermark

STATE_SIGNALS: Final = frozenset(
    {"post_save", "post_delete", "m2m_changed", "bulk_create", "bulk_update", "update", "bulk_delete"}
)
"""The signals of events from which the state of an object is derived."""

UNFINISHED_STATES: Final = (Delivery.PENDING, Delivery.DEAD)
"""The states of deliveries whose events are kept."""


class EventRow(NamedTuple):
    """The columns of an event that a purge reads."""

    id: int
    time: int
    signal: str
    sender: str
    trace_id: str
    span: int


class TraceRow(NamedTuple):
    """The columns of a trace that a purge reads. ``time`` is that of its end."""

    id: int
    time: int
    trace_id: str


class ErrorRow(NamedTuple):
    """The columns of an error that a purge reads."""

    id: int
    time: int
    trace_id: str
    span: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class PurgeProgress:
    """The progress of a purge."""

    database: str
    """Alias of the database."""
    rule: str
    """Name of the rule that is applied."""
    deleted: int
    """Rows that were deleted by this rule; with ``dry_run``, rows that would be."""
    fraction: float
    """The part of this rule's work that is done, from 0 to 1."""


def _select(events: Sequence[EventRow]) -> dict[str, Any]:
    """Return a filter for rows of ``events``, and for some others of their traces.

    The events may belong to one long trace. The range of spans then leaves out its other rows.
    """
    spans = [row.span for row in events]
    return {"trace_id__in": {row.trace_id for row in events}, "span__range": (min(spans), max(spans))}


def get_candidate_databases() -> list[str]:
    """Return the aliases of the databases in which the router allows the event log.

    A router can exclude a replica from purges. The databases need not have the tables.
    """
    return [alias for alias in connections if router.allow_migrate_model(alias, Event)]


def find_purge_databases() -> tuple[list[str], dict[str, DatabaseFailure]]:
    """Return the aliases of the candidates that have the tables, and the errors of those that can't be read."""
    aliases: list[str] = []
    errors: dict[str, DatabaseFailure] = {}
    for alias in get_candidate_databases():
        try:
            if has_tables(alias):
                aliases.append(alias)
        except DatabaseFailure as error:
            errors[alias] = error
    return aliases, errors


def has_tables(alias: str) -> bool:
    """Return whether a database has the tables that a purge needs."""
    connection = connections[alias]
    return missing_tables.has_tables(connection) and PurgeState._meta.db_table in connection.introspection.table_names()


class Purge:
    """A purge of one database."""

    def __init__(
        self,
        alias: str,
        *,
        dry_run: bool = False,
        on_progress: Callable[[PurgeProgress], object] | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.alias = alias
        self.deleted: dict[str, int] = {}
        """Number of deleted rows by rule; with ``dry_run``, of rows that would be deleted."""
        self._connection = connections[alias]
        self._dry_run, self._on_progress, self._should_stop = dry_run, on_progress, should_stop
        self._now = now_us()
        self._dead_cutoff = 0
        """Dead letters that died before this time (µs) are deleted before the events."""
        self.pace = Pace(self._connection)
        self._marked: set[tuple[str, int]] = set()
        """Senders and times whose horizons this purge has stored."""

    def apply_rules(self, rules: RetentionRules) -> None:
        """Delete what ``rules`` do not keep: deliveries, then events by rule, then traces.

        Raises ``RuntimeError`` if a transaction is open.
        """
        self._check_autocommit()

        def is_due(row: EventRow) -> bool:
            rule = rules.find(row.signal, row.sender)
            return rule is not None and rule.days is not None and row.time < rule.get_cutoff(self._now)

        cutoffs = {name: self._now - int(days * DAY_US) for name, days in rules.table_days.items() if days is not None}
        for name in DELIVERY_STATES:
            if name in cutoffs:
                self._purge_deliveries(name, cutoffs[name])
        self._dead_cutoff = cutoffs.get("dead_deliveries", self._dead_cutoff)
        for rule in rules.event_rules:
            if rule.days is not None:
                self._purge_events(
                    rule.name,
                    rule.get_cutoff(self._now),
                    lambda row, rule=rule: rules.find(row.signal, row.sender) is rule,  # type: ignore[misc]
                    rules.fingerprint,
                )
        if "traces" in cutoffs:
            self._purge_traces(cutoffs["traces"], is_due, rules.fingerprint)
        if not self._dry_run and not self._is_stopped():
            self.pace.retry(lambda: watermarks.set_last_purge(self.alias, self._now))

    def delete_before(self, time: int, signals: Collection[str] = (), senders: Collection[str] = ()) -> None:
        """Delete the events before ``time`` (µs) of some signals and senders.

        Without signals and senders, all events, and the traces without events that ended before. Raises
        ``RuntimeError`` if a transaction is open.
        """
        self._check_autocommit()

        def applies(row: EventRow) -> bool:
            app = row.sender.partition(".")[0]
            return (not signals or row.signal in signals) and (
                not senders or row.sender in senders or (app in senders and "." in row.sender)
            )

        self._purge_events("events", time, applies)
        if not signals and not senders:
            self._purge_traces(time, lambda row: row.time < time)

    def _check_autocommit(self) -> None:
        """Raise ``RuntimeError`` if the deletions would be committed later, or never."""
        if self._dry_run:
            return
        if not self._connection.in_atomic_block and not self._connection.get_autocommit():
            raise RuntimeError(f"Database {self.alias!r} has AUTOCOMMIT off: a purge would not be committed.")
        with transaction.atomic(using=self.alias, durable=True):
            pass

    # ------------------------------------------------------------ tables

    def _purge_deliveries(self, name: str, cutoff: int) -> None:
        queue, states = DeliveryQueue(self.alias), DELIVERY_STATES[name]
        self.deleted[name] = 0
        total = sum(queue.count_finished(state, cutoff) for state in states)
        if self._dry_run:
            self._add(name, total)
            return
        for state in states:
            position: FinishedPosition | None = FIRST_POSITION
            while position is not None and not self._is_stopped():
                delete = partial(queue.delete_finished, state, cutoff, position, self.pace.rows)
                count, position = self.pace.run(delete)
                self._add(name, count)
                self._report(name, min(1.0, self.deleted[name] / max(total, 1)))

    def _purge_events(
        self, name: str, cutoff: int, applies: Callable[[EventRow], bool], fingerprint: str | None = None
    ) -> None:
        rows = Event._base_manager.using(self.alias).order_by("id").values_list(*EventRow._fields)

        def read(after: int, limit: int) -> list[EventRow]:
            return [EventRow(*values) for values in rows.filter(id__gt=after)[:limit]]

        def delete(due: list[EventRow]) -> None:
            kept = self._find_unfinished(due)
            found = [row for row in due if (row.trace_id, row.span) not in kept]
            self._raise_horizons({row.sender for row in found if row.signal in STATE_SIGNALS}, cutoff)
            spans = {(row.trace_id, row.span) for row in found}
            errors = self._read_errors(**_select(found)) if found and not self._dry_run else []
            self._delete(batches.ERROR_TABLE, [one.id for one in errors if (one.trace_id, one.span) in spans])
            self._delete(batches.EVENT_TABLE, [row.id for row in found], name)

        self._scan(name, Event, cutoff, read, applies, delete, fingerprint)

    def _purge_traces(self, cutoff: int, is_due: Callable[[EventRow], bool], fingerprint: str | None = None) -> None:
        rows = Trace._base_manager.using(self.alias).order_by("id").values_list("id", "time", "duration", "trace_id")

        def read(after: int, limit: int) -> list[TraceRow]:
            found = rows.filter(id__gt=after)[:limit]
            return [TraceRow(id_, time + (duration or 0), trace_id) for id_, time, duration, trace_id in found]

        def delete(due: list[TraceRow]) -> None:
            kept = self._find_traces_with_events({row.trace_id for row in due}, is_due)
            found = [row for row in due if row.trace_id not in kept]
            errors = [] if self._dry_run else self._read_errors(trace_id__in={row.trace_id for row in found})
            self._delete(batches.ERROR_TABLE, [one.id for one in errors if one.time < cutoff])
            self._delete(batches.TRACE_TABLE, [row.id for row in found], "traces")

        self._scan("traces", Trace, cutoff, read, lambda _: True, delete, fingerprint)

    def _scan(
        self,
        name: str,
        model: type[Event | Trace],
        cutoff: int,
        read: Callable[[int, int], Sequence[Any]],
        applies: Callable[[Any], bool],
        delete: Callable[[list[Any]], object],
        fingerprint: str | None,
    ) -> None:
        self.deleted[name] = 0
        if self._is_stopped():
            return
        watermark = None
        if fingerprint is not None and not self._dry_run:
            watermark = self.pace.retry(lambda: Watermark(self.alias, name, fingerprint))
        start = 0 if watermark is None else watermark.scanned_to
        ends = model._base_manager.using(self.alias).filter(id__gt=start).aggregate(first=Min("id"), last=Max("id"))
        first, last = ends["first"] or 0, ends["last"] or 0

        def report(scanned_to: int) -> None:
            self._report(name, min(1.0, (scanned_to - first) / max(last - first, 1)))
            if not self._dry_run:
                self.pace.pause()

        Scan(
            cutoff=cutoff,
            now=self._now,
            read=read,
            applies=applies,
            delete=delete,
            save=lambda found, *, completed: self.pace.retry(lambda: found.save(completed=completed)),
            should_stop=self._is_stopped,
            report=report,
        ).run(watermark)

    # ------------------------------------------------------------ rows

    def _find_unfinished(self, events: Sequence[EventRow]) -> set[tuple[str, int]]:
        """Return trace and span of those of ``events`` that have an unfinished delivery."""
        unfinished = Delivery._base_manager.using(self.alias).filter(state__in=UNFINISHED_STATES)
        if self._dry_run:  # dead letters that a purge would delete before the events
            unfinished = unfinished.exclude(Q(state=Delivery.DEAD, finished__lt=self._dead_cutoff))
        if not unfinished.exists():
            return set()
        return set(unfinished.filter(**_select(events)).values_list("trace_id", "span"))

    def _find_traces_with_events(self, trace_ids: set[str], is_due: Callable[[EventRow], bool]) -> set[str]:
        """Return those of ``trace_ids`` that have events; in a dry run, events that a purge would keep."""
        events = Event._base_manager.using(self.alias).filter(trace_id__in=trace_ids).order_by()
        if not self._dry_run:
            return set(events.values_list("trace_id", flat=True).distinct())
        kept: set[str] = set()
        rows = (EventRow(*values) for values in events.values_list(*EventRow._fields).iterator(WINDOW_ROWS))
        while part := list(islice(rows, WINDOW_ROWS)):
            unfinished = self._find_unfinished(part)
            kept |= {row.trace_id for row in part if not is_due(row) or (row.trace_id, row.span) in unfinished}
        return kept

    def _raise_horizons(self, senders: set[str], cutoff: int) -> None:
        new = {sender for sender in senders if (sender, cutoff) not in self._marked}
        if new and not self._dry_run:
            self.pace.retry(lambda: watermarks.raise_horizons(self.alias, new, cutoff))
            self._marked |= {(sender, cutoff) for sender in new}

    def _read_errors(self, **selection: Any) -> list[ErrorRow]:
        errors = Error._base_manager.using(self.alias).filter(**selection).order_by()
        return [ErrorRow(*values) for values in errors.values_list(*ErrorRow._fields)]

    def _delete(self, table: str, ids: list[int], name: str = "") -> None:
        """Delete rows until the purge is stopped, and count them by ``name`` if it is given."""
        while ids and not (self._dry_run or self._is_stopped()):
            part, ids = ids[: self.pace.rows], ids[self.pace.rows :]
            count = self.pace.run(partial(self._delete_ids, table, part))
            if name:
                self._add(name, count)
        if name and self._dry_run:
            self._add(name, len(ids))

    def _delete_ids(self, table: str, ids: Sequence[int]) -> int:
        backend = backends.get_backend(self._connection)
        with backend.relaxed_durability(), self._connection.cursor() as cursor:
            cursor.execute(backend.build_delete(table, ids))
            return int(cursor.rowcount)

    # ------------------------------------------------------------ progress

    def _is_stopped(self) -> bool:
        return self._should_stop()

    def _add(self, name: str, count: int) -> None:
        self.deleted[name] = self.deleted.get(name, 0) + count

    def _report(self, name: str, fraction: float) -> None:
        if self._on_progress is not None:
            progress = PurgeProgress(
                database=self.alias, rule=name, deleted=self.deleted.get(name, 0), fraction=fraction
            )
            self._on_progress(progress)
