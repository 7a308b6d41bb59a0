"""Builds table rows of pending events and traces."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

from signalbox.core import interrupts, loggers
from signalbox.core.error_fingerprint import compute_fingerprint
from signalbox.core.event import Outcome, PendingEvent, ReceiverCall, TransactionEnd
from signalbox.core.receiver_stats import PASSED_THROUGH_KEY
from signalbox.core.text import fit_column
from signalbox.core.tracing import SYSTEM_KINDS
from signalbox.pipeline import dropped_events, processors
from signalbox.pipeline.batches import DELIVERY_COLUMNS, Batch, TableRow
from signalbox.pipeline.dropped_events import DropReason
from signalbox.pipeline.processors import EventBatch
from signalbox.serialization import encoder
from signalbox.serialization.configured_redactor import get_redactor
from signalbox.serialization.diff import RowChange, describe, get_choice_labels

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping, Sequence

    from signalbox.core.raised_error import RaisedError
    from signalbox.core.receivers import CodeLocation
    from signalbox.core.tracing import Trace

ChangeDescription = tuple[str, dict[str, Any]]

T = TypeVar("T")

logger = loggers.get_logger("recording")

record_unchanged = True
"""Whether a save without a change and without a failed receiver has an event."""

UNCHANGED: Final[ChangeDescription] = ("changes", {})


def build_batch(
    events: Iterable[PendingEvent],
    *,
    using: str,
    traces: Sequence[TableRow] = (),
    event_updates: Sequence[TableRow] = (),
    trace_updates: Sequence[TableRow] = (),
    errors: Sequence[TableRow] = (),
    is_committed: bool = False,
) -> Batch:
    """Return the rows of ``events`` and of their errors, with the deliveries that event processors add.

    ``errors`` are those of the traces and updates.

    The outcome of the events is ``committed`` unless they have another. ``using`` is the alias of the database to write
    to, and ``is_committed`` says whether the changes are already committed. If they are not, raises an exception that
    occurs while a delivery is built, because a delivery must not be dropped.
    """
    deliveries: Sequence[TableRow] = ()
    spans_with_deliveries: set[object] = set()
    if processors.has_on_flush():
        flushed = EventBatch(events=list(events), using=using, is_committed=is_committed)
        processors.on_flush(flushed)
        events, deliveries = flushed.events, flushed.deliveries
        spans_with_deliveries = {row[_DELIVERY_SPAN_INDEX] for row in deliveries}
    written = _build_event_rows(events, Outcome.COMMITTED, spans_with_deliveries)
    pending = [event for event, _ in written] if processors.has_on_commit() else ()
    all_errors = [*errors, *build_error_rows(event for event, _ in written)]
    return Batch([row for _, row in written], traces, event_updates, deliveries, trace_updates, pending, all_errors)


_DELIVERY_SPAN_INDEX: Final = [name for name, _ in DELIVERY_COLUMNS].index("span")


def build_event_rows(
    events: Iterable[PendingEvent], outcome: Outcome, spans_with_deliveries: Container[object] = ()
) -> list[TableRow]:
    """Return the rows of ``events``. ``outcome`` is that of their transaction.

    An event that can't be encoded is dropped, counted and logged, and the others are kept. Events whose spans are in
    ``spans_with_deliveries`` are kept even if they changed nothing.
    """
    return [row for _, row in _build_event_rows(events, outcome, spans_with_deliveries)]


def _build_event_rows(
    events: Iterable[PendingEvent], outcome: Outcome, spans_with_deliveries: Container[object]
) -> list[tuple[PendingEvent, TableRow]]:
    rows = []
    stored_outcome = outcome._value_  # ``value`` is a property, which is slower
    for event in events:
        try:
            described = None if event.change is None else describe(event.change)
            if (
                described == UNCHANGED
                and not record_unchanged
                and not event.errors
                and event.span not in spans_with_deliveries
            ):
                continue
            rows.append((event, build_event_row(event, stored_outcome, described)))
        except Exception as error:
            interrupts.raise_if_interrupt(error)
            dropped_events.write_stats.add_dropped(DropReason.NOT_ENCODABLE)
            logger.exception(
                "An event of %s could not be encoded and is dropped.", event.signal, extra=loggers.describe_event(event)
            )
    return rows


def build_event_row(event: PendingEvent, outcome: str, description: ChangeDescription | None = None) -> TableRow:
    """Return the row of ``event``, in the order of ``EVENT_COLUMNS``.

    ``outcome`` is that of its transaction, and ``description`` the result of ``describe`` for its change.
    """
    actor = event.actor
    duration = event.duration
    return (
        event.time // 1000,
        event.trace.id,
        event.span,
        event.parent,
        event.signal,
        event.sender,
        event.key,
        event.label,
        "" if actor is None else actor.key,
        "" if actor is None else actor.label,
        event.using,
        get_stored_outcome(event, outcome),
        None if duration is None else duration // 1000,
        event.errors,
        event.trace.kind in SYSTEM_KINDS,
        build_data_json(event, description),
    )


def get_stored_outcome(event: PendingEvent, outcome: str) -> str:
    """Return the outcome to store. A change is committed or rolled back, also if its receivers failed."""
    if event.outcome is None:
        return outcome
    if event.outcome is Outcome.ROLLED_BACK or outcome == "rolled_back":
        return "rolled_back"
    return outcome if event.change is not None else event.outcome.value


def build_data_json(event: PendingEvent, description: ChangeDescription | None = None) -> str:
    """Return the JSON text of the column ``data``."""
    text = ""
    args = event.args
    if args is not None:  # the arguments of most saves are already JSON text
        text = f'"args":{args if type(args) is str else encoder.dumps(args)},'
    if event.pre_signal_time is not None:
        text += f'"pre_signal_time":{event.pre_signal_time // 1000},'
    if description is not None and event.change is not None:
        text += _build_change_json(event.change, description) + ","
    if event.transaction_id is not None:
        text += f'"transaction":"{event.transaction_id:016x}",'
    if event.parent_receiver is not None:
        text += f'"parent_receiver":{event.parent_receiver},'
    if event.receiver_calls is not None:
        calls = [_build_receiver_call_json(call, index) for index, call in enumerate(event.receiver_calls)]
        text += f'"receivers":[{",".join(calls)}],'
    if not event.errors and (
        event.is_passed_through or any(call.is_passed_through for call in event.receiver_calls or ())
    ):
        text += f'"{PASSED_THROUGH_KEY}":true,'
    if event.extra:
        text += f'"extra":{encoder.dumps(encoder.encode(event.extra, redactor=get_redactor()))},'
    if event.is_late:
        text += '"late":true,'
    return f"{{{text[:-1]}}}"


def _build_receiver_call_json(call: ReceiverCall, position: int) -> str:
    location, duration_ns, error, is_passed_through, start_ns, sent_position = call
    text = _build_location_json(location)
    if start_ns is not None:
        # Negative if the time of day was set back between the event and the send.
        text += f'"start_us":{start_ns // 1000 if start_ns > 0 else 0},'
    else:
        text += '"start_us":null,'
    text += '"duration_us":null,' if duration_ns is None else f'"duration_us":{duration_ns // 1000},'
    if sent_position is not None and sent_position != position:  # asynchronous receivers end in any order
        text += f'"index":{sent_position},'
    if is_passed_through:
        text += f'"{PASSED_THROUGH_KEY}":true,'
    return f'{text}"error":null}}' if error is None else f'{text}"error":{encoder.dumps(error)}}}'


@lru_cache(maxsize=1000)
def _build_location_json(location: CodeLocation) -> str:
    """Return the beginning of a JSON object. It is cached, because this is the largest part of a receiver's cost."""
    name, place = location
    return f'{{"name":{encoder.dumps(name)},"location":{encoder.dumps(place)},'


def _build_change_json(change: RowChange, description: ChangeDescription) -> str:
    """Return a row's change as members of a JSON object, limited in size and with secrets redacted."""
    part, values = description
    fields = change.fields
    text = f'"{part}":{encoder.dump_fields(values, non_scalar=fields.non_scalar, redactor=fields.redactor)}'
    if not fields.choices and not change.labels:
        return text
    labels = {**get_choice_labels(values, fields), **(change.labels or {})}
    return text if not labels else text + ',"labels":' + encoder.dumps(labels)


def build_error_rows(events: Iterable[PendingEvent]) -> list[TableRow]:
    """Return the rows of the exceptions that are counted with ``events``."""
    return [
        _build_error_row(error, event.trace.id, event.span, position)
        for event in events
        if event.raised_errors
        for position, error in enumerate(event.raised_errors)
    ]


def build_trace_error_rows(traces: Iterable[Trace]) -> list[TableRow]:
    """Return the rows of the exceptions with which ``traces`` ended."""
    return [
        _build_error_row(trace.raised_error, trace.id, None, 0) for trace in traces if trace.raised_error is not None
    ]


def _build_error_row(error: RaisedError, trace_id: str, span: int | None, position: int) -> TableRow:
    return (trace_id, span, position, *build_error_columns(error))


def build_error_columns(error: RaisedError) -> TableRow:
    """Return the columns of ``error`` itself, in the order of the last ones of ``ERROR_COLUMNS``."""
    file, line, function = error.place or ("", None, "")
    return (
        compute_fingerprint(error),
        error.time // 1000,
        error.exception,
        error.message,
        file,
        line,
        function,
        error.receiver,
        encoder.dumps({"frames": [list(frame) for frame in error.frames]}),
    )


def build_trace_row(trace: Trace) -> TableRow:
    """Return the row of ``trace``, in the order of ``TRACE_COLUMNS``."""
    actor = trace.get_actor()
    counted: Mapping[str, dict[Any, int]] = trace.send_counts
    counts = {
        signal: {
            sender if isinstance(sender, str) else sender._meta.label: number for sender, number in senders.items()
        }
        for signal, senders in counted.items()
        if senders
    }
    return (
        trace.id,
        fit_column(trace.kind, 16),
        fit_column(get_redactor().redact_text(trace.name) if trace.kind == "process" else trace.name, 200),
        "" if actor is None else actor.key,
        "" if actor is None else actor.label,
        trace.started // 1000,
        None if trace.duration is None else trace.duration // 1000,
        fit_column(trace.status, 16),
        trace.events,
        trace.errors,
        trace.rolled_back,
        encoder.dumps(_build_trace_data(trace, counts)),
    )


def _build_trace_data(trace: Trace, counts: dict[str, Any]) -> dict[str, Any]:
    data = dict(trace.data)
    if counts:
        data["send_counts"] = counts
    if trace.transaction_ends:
        data["transactions"] = [_build_transaction_end_data(end) for end in trace.transaction_ends]
        data["transaction_count"] = trace.transaction_end_count
    return data


def _build_transaction_end_data(end: TransactionEnd) -> dict[str, Any]:
    data: dict[str, Any] = {
        "id": f"{end.transaction_id:016x}",
        "database": end.database,
        "outcome": end.outcome.value,
        "time_us": end.time // 1000,
        "events": end.event_count,
    }
    return {**data, "savepoint": True} if end.is_savepoint else data


def build_event_update(event: PendingEvent) -> TableRow:
    """Return the values for an UPDATE of ``event``: duration, errors, data. The last two are its trace id and span."""
    duration = event.duration
    described = None if event.change is None else describe(event.change)
    return (
        None if duration is None else duration // 1000,
        event.errors,
        build_data_json(event, described),
        event.trace.id,
        event.span,
    )


def build_trace_update(trace: Trace) -> TableRow:
    """Return the values for an UPDATE of a finished ``trace``. The last two are its id and start time.

    Its kind and name were those of the process if it became the trace of a command later.
    """
    trace_id, kind, name, _, _, started, duration, status, events, errors, rolled_back, data = build_trace_row(trace)
    return (kind, name, duration, status, events, errors, rolled_back, data, trace_id, started)


def build_trace_rows(traces: Iterable[Trace]) -> list[TableRow]:
    """Return the rows of ``traces`` that can be encoded."""
    return _build_rows(build_trace_row, traces, "A trace")


def build_trace_updates(traces: Iterable[Trace]) -> list[TableRow]:
    """Return the updates of the rows of ``traces`` that can be encoded."""
    return _build_rows(build_trace_update, traces, "An update of a trace")


def build_event_updates(events: Iterable[PendingEvent]) -> list[TableRow]:
    """Return the updates of ``events`` that can be encoded."""
    return _build_rows(build_event_update, events, "An update of an event")


def _build_rows(build: Callable[[T], TableRow], items: Iterable[T], label: str) -> list[TableRow]:
    rows = []
    for item in items:
        try:
            rows.append(build(item))
        except Exception as error:
            interrupts.raise_if_interrupt(error)
            dropped_events.write_stats.add_dropped(DropReason.NOT_ENCODABLE)
            logger.exception("%s could not be encoded and is dropped.", label)
    return rows
