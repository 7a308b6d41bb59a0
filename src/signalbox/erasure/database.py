"""Erases a selection in the tables of one database, in short transactions that can be repeated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeAlias

from django.db import DatabaseError, transaction
from django.db.models import Max, Model, Q, QuerySet

from signalbox.core import clock, tracing
from signalbox.core.catalog import BUILTIN_SIGNALS
from signalbox.core.event import Actor, Outcome
from signalbox.core.object_keys import digest_secret
from signalbox.erasure.names import NameFinder
from signalbox.erasure.replacements import (
    RequestScope,
    erase_attempt,
    erase_delivery,
    erase_event,
    erase_stored_error,
    erase_trace,
    refers_to_object,
)
from signalbox.erasure.roles import Role, get_role
from signalbox.erasure.row_batches import batched, iter_by_id
from signalbox.erasure.selection import Selection
from signalbox.models import Attempt, Delivery, Error, ErrorState, Event, Trace
from signalbox.pipeline import recorded_operations
from signalbox.serialization.encoder import ERASED

SCAN_SIZE: Final = 1_000
"""Ids of one query that reads a table by its primary key."""

MODEL_SIGNALS: Final = [entry.name for entry in BUILTIN_SIGNALS.values() if entry.group in ("model", "bulk")]
"""Signals whose events contain no data of a request."""

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with the database, the number of rows that were examined, and the number that were erased."""


class ErasureError(Exception):
    """Nothing was erased: the selectors match nothing, or the role may not update the tables."""


class DatabaseEraser:
    """Erases a selection in the tables of one database."""

    def __init__(
        self, alias: str, selection: Selection, operator: Actor, dry_run: bool, progress: Progress | None
    ) -> None:
        self.alias = alias
        self.places: Counter[str] = Counter()
        self.rows: Counter[str] = Counter()
        self.pending: set[int] = set()
        """Ids of pending deliveries that were left as they are."""
        self.record_id: int | None = None
        self._selection, self._operator = selection, operator
        self._dry_run, self._progress = dry_run, progress
        self._examined = 0
        self._counted: set[tuple[type[Model], int | str, str]] = set()
        """Rows that were counted, and their places. A row can be found more than once, in a dry run unchanged."""

    # ------------------------------------------------------------ before anything is changed

    def check_grants(self) -> None:
        """Raise ``ErasureError`` if the role may not update a table."""
        for model, column in _CHECKED_COLUMNS.items():
            rows: QuerySet[Any] = QuerySet(model, using=self.alias)
            try:
                with self._atomic():
                    rows.filter(pk=-1).update(**{column: ""})  # checks the privilege and changes nothing
            except DatabaseError as error:
                table = model._meta.db_table
                raise ErasureError(
                    f"The role of database {self.alias!r} can't update {table}: {str(error).strip()}. Run the erasure "
                    f"with a role that has GRANT UPDATE ON {table}. Nothing was erased."
                ) from error

    def has_match(self, part: Selection) -> bool:
        """Return whether the log contains something of an actor or an object, or the record of its erasure."""
        return self._is_mentioned(part) or self._is_recorded(part)

    def _is_recorded(self, part: Selection) -> bool:
        """Return whether the keys of an actor or an object were erased. An interrupted erasure may be repeated."""
        actor, objects = _describe(replace(part, keys=True))
        return any(
            record.data["args"]["actor"] == actor if actor else objects[0] in record.data["args"]["objects"]
            for record in iter_by_id(self._events.filter(signal=recorded_operations.ERASED))
        )

    def _is_mentioned(self, part: Selection) -> bool:
        if part.actor:
            if self._events.filter(actor_key=part.actor).exists() or self._traces.filter(actor_key=part.actor).exists():
                return True
            named = part.with_names(NameFinder(self.alias, part).find_logins(), ())
            return any(get_role(event, named).is_login for event in self._iter_failed_logins(named))
        one = part.objects[0]
        if self._events.filter(sender__in=one.senders, object_key=one.key).exists():
            return True
        named = Selection(objects=(NameFinder(self.alias, part).find_target_values(one),), keys=True)
        return any(get_role(event, named) or refers_to_object(event, named) for event in self._iter_mentions(named))

    def _atomic(self) -> transaction.Atomic:
        """Return the block of one batch. It can't be nested: the rollback of another transaction would undo it."""
        return transaction.atomic(using=self.alias, durable=not self._dry_run)

    # ------------------------------------------------------------ queries

    @property
    def _events(self) -> QuerySet[Event]:
        return QuerySet(Event, using=self.alias)

    @property
    def _traces(self) -> QuerySet[Trace]:
        return QuerySet(Trace, using=self.alias)

    @property
    def _deliveries(self) -> QuerySet[Delivery]:
        return QuerySet(Delivery, using=self.alias)

    @property
    def _errors(self) -> QuerySet[Error]:
        return QuerySet(Error, using=self.alias)

    def _iter_failed_logins(self, selection: Selection) -> Iterator[Event]:
        if selection.logins:
            yield from iter_by_id(self._events.filter(signal="user_login_failed"))

    def _iter_mentions(self, selection: Selection) -> Iterator[Event]:
        """Yield events that may mention the objects. The table is read by its primary key, as no index has them."""
        condition = Q()
        for one in selection.objects:
            condition |= Q(sender__in=one.senders | one.foreign_keys.keys() | one.throughs)
            without_references = MODEL_SIGNALS if selection.keys else [*BUILTIN_SIGNALS]
            condition |= ~Q(signal__in=without_references) | (~Q(signal__in=MODEL_SIGNALS) & Q(object_key=one.key))
        if selection.objects:
            yield from self._scan(self._events.filter(condition).exclude(signal=recorded_operations.ERASED))

    def _scan(self, queryset: QuerySet[Any]) -> Iterator[Any]:
        """Yield the rows of ``queryset`` in the order of their ids, a range of ids at a time."""
        last = queryset.model.objects.using(self.alias).aggregate(last=Max("pk"))["last"] or 0
        for start in range(0, last + 1, SCAN_SIZE):
            yield from queryset.filter(pk__gt=start - 1, pk__lt=start + SCAN_SIZE).order_by("pk")
            self._report()

    # ------------------------------------------------------------ erasing

    def run(self) -> None:
        """Erase. Names are found first and erased last, so that a repetition finds them again."""
        selection = self._selection = NameFinder(self.alias, self._selection).find()
        self._erase_events(
            event for event in self._iter_failed_logins(selection) if get_role(event, selection).is_login
        )
        self._erase_events(self._iter_mentions(selection))
        for one in selection.objects:
            for sender in sorted(one.senders):
                self._erase_events(iter_by_id(self._events.filter(sender=sender, object_key=one.key)))
        if selection.actor:
            for traces in batched(self._scan(self._traces.filter(actor_key=selection.actor))):
                self._erase_batch([], {trace.trace_id: RequestScope.ALL for trace in traces})
            self._erase_events(iter_by_id(self._events.filter(actor_key=selection.actor)))
            self._erase_error_states()
        self._erase_deliveries_without_events()
        if selection.keys:
            self._erase_keys_of_records()
        if not self._dry_run:
            with self._atomic():
                self._write_record(is_complete=True)

    def _erase_events(self, events: Iterator[Event]) -> None:
        for batch in batched(events):
            self._erase_batch(batch, {})

    def _erase_batch(self, events: Sequence[Event], scopes: dict[str, RequestScope]) -> None:
        """Erase events with their traces and finished deliveries in one transaction."""
        selection = self._selection
        for event in events:
            role = get_role(event, selection)
            if role:
                wanted = RequestScope.ALL if role.is_actor or role.is_login else RequestScope.PATH
                scopes[event.trace_id] = max(scopes.get(event.trace_id, wanted), wanted)
        with self._atomic():
            all_events = {event.pk: event for event in (*events, *self._find_siblings(scopes))}
            changed = self._update_events(list(all_events.values()), scopes)
            for trace in self._traces.filter(trace_id__in=list(scopes)):
                scope = scopes[trace.trace_id]
                if scope is RequestScope.ALL and trace.actor_key not in ("", selection.actor):
                    scope = RequestScope.PATH
                columns, places = erase_trace(trace, selection, scope)
                changed |= self._apply(trace, columns, places)
                for error in self._errors.filter(trace_id=trace.trace_id, span=None):
                    changed |= self._apply(error, *erase_stored_error(error, selection, is_own=True, is_related=True))
            if changed and not self._dry_run:
                self._write_record()
        self._examined += len(events)
        self._report()

    def _find_siblings(self, scopes: Mapping[str, RequestScope]) -> QuerySet[Event]:
        """Return the events of the same traces that may contain a request."""
        return self._events.filter(trace_id__in=list(scopes)).exclude(signal__in=MODEL_SIGNALS)

    def _update_events(self, events: Sequence[Event], scopes: Mapping[str, RequestScope]) -> bool:
        selection, changed = self._selection, False
        spans = {(event.trace_id, event.span): event for event in events}
        deliveries: dict[tuple[str, int], list[Delivery]] = {}
        for delivery in self._deliveries.filter(trace_id__in={event.trace_id for event in events}):
            if (delivery.trace_id, delivery.span) in spans:
                deliveries.setdefault((delivery.trace_id, delivery.span), []).append(delivery)
        errors: dict[tuple[str, int | None], list[Error]] = {}
        for error in self._errors.filter(trace_id__in={event.trace_id for event in events}):
            errors.setdefault((error.trace_id, error.span), []).append(error)
        for span, event in spans.items():
            role, scope = get_role(event, selection), scopes.get(event.trace_id)
            if scope is RequestScope.ALL and event.actor_key not in ("", selection.actor):
                scope = RequestScope.PATH
            own_deliveries = deliveries.get(span, [])
            columns_of_event = erase_event(event, selection, role, scope)
            is_related = bool(own_deliveries or errors.get(span)) and (
                bool(columns_of_event[0]) or refers_to_object(event, selection)
            )
            erased: list[tuple[Event | Delivery | Error, tuple[dict[str, Any], Counter[str]]]] = [
                (event, columns_of_event)
            ]
            erased += [
                (one, erase_delivery(one, selection, role, scope, is_related=is_related)) for one in own_deliveries
            ]
            pending = [one.pk for one in own_deliveries if one.state == Delivery.PENDING]
            if pending and any(columns for _, (columns, _) in erased):
                self.pending.update(pending)
                continue
            # As the argument ``exception`` of the event of a crashed request.
            is_own = bool(role) or (scope is not None and event.signal not in MODEL_SIGNALS)
            erased += [
                (error, erase_stored_error(error, selection, is_own=is_own, is_related=is_related))
                for error in errors.get(span, ())
            ]
            for row, (columns, places) in erased:
                changed |= self._apply(row, columns, places)
                if isinstance(row, Delivery):
                    changed |= self._erase_attempts(row, role, is_related=bool(columns_of_event[0]))
        return changed

    def _erase_deliveries_without_events(self) -> None:
        """Erase deliveries of the objects whose events were purged. No index has the objects."""
        for one in self._selection.objects:
            found = self._deliveries.filter(sender__in=one.senders, object_key=one.key)
            for batch in batched(self._scan(found)):
                with self._atomic():
                    changed = False
                    for delivery in batch:
                        if delivery.state == Delivery.PENDING:
                            self.pending.add(delivery.pk)
                            continue
                        changed |= self._apply(
                            delivery,
                            *erase_delivery(delivery, self._selection, Role(own=one), None, is_related=True),
                        )
                        changed |= self._erase_attempts(delivery, Role(own=one), is_related=True)
                    if changed and not self._dry_run:
                        self._write_record()

    def _erase_error_states(self) -> None:
        """Erase the name of the actor who decided about errors."""
        states: QuerySet[ErrorState] = QuerySet(ErrorState, using=self.alias)
        with self._atomic():
            changed = False
            for state in states.filter(actor_key=self._selection.actor):
                columns = {"actor_label": ERASED} if state.actor_label != ERASED else {}
                if self._selection.keys:
                    columns["actor_key"] = ERASED
                changed |= self._apply(state, columns, Counter(f"error_state_{name}" for name in columns))
            if changed and not self._dry_run:
                self._write_record()

    def _erase_attempts(self, delivery: Delivery, role: Role, *, is_related: bool) -> bool:
        """Erase the errors of the attempts of a finished delivery. Return whether one was changed."""
        changed = False
        attempts: QuerySet[Attempt] = QuerySet(Attempt, using=self.alias).filter(delivery_id=delivery.pk)
        for error in self._errors.filter(trace_id=delivery.trace_id, delivery_id=delivery.pk):
            erased = erase_stored_error(error, self._selection, is_own=bool(role), is_related=is_related)
            changed |= self._apply(error, *erased)
        for attempt in attempts.exclude(error="").order_by("fencing_token"):
            changed |= self._apply(attempt, *erase_attempt(attempt, self._selection, role, is_related=is_related))
        return changed

    def _apply(
        self,
        row: Event | Trace | Delivery | Attempt | Error | ErrorState,
        columns: Mapping[str, Any],
        places: Counter[str],
    ) -> bool:
        """Write the changed columns of a row, unless this is a dry run, and count it."""
        if not columns:
            return False
        identity = (type(row), row.pk)
        if not self._dry_run:
            rows: QuerySet[Any] = QuerySet(type(row), using=self.alias).filter(pk=row.pk)
            if isinstance(row, Delivery):
                rows = rows.exclude(state=Delivery.PENDING)  # it may have been retried since it was read
            rows.update(**columns)
        for place in ("", *places):
            if (*identity, place) not in self._counted:
                self._counted.add((*identity, place))
                if place:
                    self.places[place] += 1
                else:
                    self.rows[_ROW_NAMES[type(row)]] += 1
        return True

    def _report(self) -> None:
        if self._progress is not None:
            self._progress(self.alias, self._examined, sum(self.rows.values()))

    # ------------------------------------------------------------ record

    def _erase_keys_of_records(self) -> None:
        """Replace the keys in the records of earlier erasures without ``keys`` by digests."""
        selection = self._selection
        digests = {f"{one.label}:{one.key}": f"{one.label}:{digest_secret(one.key)}" for one in selection.objects}
        for record in iter_by_id(
            self._events.filter(signal=recorded_operations.ERASED).exclude(pk=self.record_id or 0)
        ):
            args = dict(record.data["args"])
            args["objects"] = [digests.get(text, text) for text in args["objects"]]
            if selection.actor and args["actor"] == selection.actor:
                args["actor"] = digest_secret(selection.actor)
            if args != record.data["args"]:
                with self._atomic():
                    if self._apply(record, {"data": {"args": args}}, Counter({"records": 1})) and not self._dry_run:
                        self._write_record()

    def _write_record(self, *, is_complete: bool = False) -> None:
        """Write the event that records the erasure, or update it, in the transaction of a batch."""
        selection = self._selection
        actor, objects = _describe(selection)
        args = {
            "actor": actor,
            "objects": objects,
            "keys": selection.keys,
            "counts": dict(sorted(self.rows.items())),
            "places": dict(sorted(self.places.items())),
            "pending_deliveries": len(self.pending),
            "complete": is_complete,
        }
        if self.record_id is not None:
            self._events.filter(pk=self.record_id).update(data={"args": args})
            return
        trace, running = tracing.get_current_trace(), tracing.running_receiver.get()
        self.record_id = self._events.create(
            time=clock.now() // 1000,
            trace_id=trace.id,
            span=trace.next_span(),
            parent=None if running is None else running[0],
            signal=recorded_operations.ERASED,
            sender="signalbox.Event",
            object_key="",
            object_label="",
            actor_key=self._operator.key,
            actor_label=self._operator.label,
            database=self.alias,
            outcome=Outcome.COMMITTED.value,
            duration=None,
            errors=0,
            data={"args": args},
        ).pk


_CHECKED_COLUMNS: Final[Mapping[type[Model], str]] = {
    Event: "trace_id",
    Trace: "trace_id",
    Delivery: "trace_id",
    Attempt: "error",
    Error: "message",
}
"""Tables that an erasure updates, and one of the columns."""

_ROW_NAMES: Final[Mapping[type[Model], str]] = {
    Event: "events",
    Trace: "traces",
    Delivery: "deliveries",
    Attempt: "attempts",
    Error: "errors",
    ErrorState: "error_states",
}


def _describe(selection: Selection) -> tuple[str | None, list[str]]:
    """Return the actor and the objects as an erasure is recorded, with digests if their keys are erased."""
    describe = digest_secret if selection.keys else str
    actor = describe(selection.actor) if selection.actor else None
    return actor, [f"{one.label}:{describe(one.key)}" for one in selection.objects]
