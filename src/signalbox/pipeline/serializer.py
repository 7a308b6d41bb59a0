"""Builds table rows of pending events and traces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

from signalbox.core import interrupts
from signalbox.core.event import Outcome, PendingEvent, ReceiverCall
from signalbox.core.text import fit_column
from signalbox.pipeline import processors
from signalbox.pipeline.batches import EVENT_COLUMNS, Batch, TableRow
from signalbox.pipeline.deliveries import NO_DELIVERIES, get_source
from signalbox.pipeline.writer import logger, write_stats
from signalbox.serialization import encoder
from signalbox.serialization.diff import RowChange, describe, get_choice_labels
from signalbox.serialization.redaction import redact_text

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Sequence

    from signalbox.core.tracing import Trace

ChangeDescription = tuple[str, dict[str, Any]]

T = TypeVar("T")

_EVENT_COLUMN_NAMES: Final = tuple(name for name, _ in EVENT_COLUMNS)

record_unchanged = True
"""Whether a save without a change and without a failed receiver has an event."""

UNCHANGED: Final[ChangeDescription] = ("changes", {})


def build_batch(
    events: Iterable[PendingEvent],
    *,
    traces: Sequence[TableRow] = (),
    event_updates: Sequence[TableRow] = (),
    trace_updates: Sequence[TableRow] = (),
    on_delivery_error: Callable[[PendingEvent, Exception], None] | None = None,
) -> Batch:
    """Return the rows of ``events``, with their deliveries. Their outcome is ``committed`` unless they have another.

    An exception while a delivery is built is raised: an event may be dropped, a delivery must not. If the change is
    already committed, pass ``on_delivery_error``, which is called with the event and the exception instead.
    """
    source = get_source()
    if source is NO_DELIVERIES:
        return Batch(build_event_rows(events, Outcome.COMMITTED), traces, event_updates, (), trace_updates)
    deliveries: list[TableRow] = []
    spans_with_deliveries = set()
    events = list(events)
    for event in events:
        try:
            made = source.build_delivery_rows(event)
        except Exception as error:
            interrupts.raise_if_interrupt(error)
            if on_delivery_error is None:
                raise
            on_delivery_error(event, error)
            continue
        if made:
            deliveries += made
            spans_with_deliveries.add(event.span)
    rows = build_event_rows(events, Outcome.COMMITTED, spans_with_deliveries)
    return Batch(rows, traces, event_updates, deliveries, trace_updates)


def build_event_rows(
    events: Iterable[PendingEvent], outcome: Outcome, spans_with_deliveries: Container[int] = ()
) -> list[TableRow]:
    """Return the rows of ``events``; ``outcome`` is that of their transaction.

    An event that can't be encoded is dropped, counted and logged, and the others are kept. Events whose spans are in
    ``spans_with_deliveries`` are kept even if they changed nothing.
    """
    rows = []
    processor = processors.get_configured_processor()
    word = outcome._value_  # ``value`` is a property, which is slower
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
            row = build_event_row(event, word, described)
            if processor is not None:
                text = processors.apply(processor, dict(zip(_EVENT_COLUMN_NAMES, row, strict=True)), row[-1])
                if text is None and event.span not in spans_with_deliveries:
                    continue
                row = (*row[:-1], text or row[-1])
            rows.append(row)
        except Exception as error:  # noqa: BLE001 - values come from the application and may raise any error
            interrupts.raise_if_interrupt(error)
            write_stats.dropped += 1
            logger.exception("An event of %s could not be encoded and is dropped.", event.signal)
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
    if event.receiver_calls is not None:
        text += f'"receivers":{encoder.dumps([_build_receiver_call_data(call) for call in event.receiver_calls])},'
    if event.is_late:
        text += '"late":true,'
    return f"{{{text[:-1]}}}"


def _build_receiver_call_data(call: ReceiverCall) -> dict[str, Any]:
    location, duration_ns, error = call
    return {
        "name": location.name,
        "location": location.location,
        "duration_us": None if duration_ns is None else duration_ns // 1000,
        "error": error,
    }


def _build_change_json(change: RowChange, description: ChangeDescription) -> str:
    """Return a row's change as members of a JSON object, limited in size and with secrets redacted."""
    part, values = description
    fields = change.fields
    text = f'"{part}":{encoder.dump_fields(values, non_scalar=fields.non_scalar, redactor=fields.redactor)}'
    if not fields.choices and not change.labels:
        return text
    labels = {**get_choice_labels(values, fields), **(change.labels or {})}
    return text if not labels else text + ',"labels":' + encoder.dumps(labels)


def build_trace_row(trace: Trace) -> TableRow:
    """Return the row of ``trace``, in the order of ``TRACE_COLUMNS``."""
    actor = trace.get_actor()
    counted: dict[str, Any] = trace.init_counts
    counts = {
        signal: {model._meta.label: number for model, number in models.items()}
        for signal, models in counted.items()
        if models
    }
    return (
        trace.id,
        fit_column(trace.kind, 16),
        fit_column(redact_text(trace.name) if trace.kind == "process" else trace.name, 200),
        "" if actor is None else actor.key,
        "" if actor is None else actor.label,
        trace.started // 1000,
        None if trace.duration is None else trace.duration // 1000,
        fit_column(trace.status, 16),
        trace.events,
        trace.errors,
        trace.rolled_back,
        encoder.dumps({**trace.data, "init_counts": counts} if counts else trace.data),
    )


def build_event_update(event: PendingEvent) -> TableRow:
    """Return the columns that an UPDATE of ``event`` sets: duration, errors and data; then its trace id and span."""
    duration = event.duration
    described = None if event.change is None else describe(event.change)
    text = build_data_json(event, described)
    processor = processors.get_configured_processor()
    if processor is not None:  # its addition is kept, and it can't drop an event that was written
        row = build_event_row(event, "committed", described)
        text = processors.apply(processor, dict(zip(_EVENT_COLUMN_NAMES, row, strict=True)), text) or text
    return (None if duration is None else duration // 1000, event.errors, text, event.trace.id, event.span)


def build_trace_update(trace: Trace) -> TableRow:
    """Return the columns that an UPDATE of a finished ``trace`` sets; then its id and start time."""
    trace_id, *_, started, duration, status, events, errors, rolled_back, data = build_trace_row(trace)
    return (duration, status, events, errors, rolled_back, data, trace_id, started)


def build_trace_rows(traces: Iterable[Trace]) -> list[TableRow]:
    """Return the rows of ``traces`` that can be encoded."""
    return _build_rows(build_trace_row, traces, "A trace")


def build_trace_updates(traces: Iterable[Trace]) -> list[TableRow]:
    """Return the updates of the rows of ``traces`` that can be encoded."""
    return _build_rows(build_trace_update, traces, "The end of a trace")


def build_event_updates(events: Iterable[PendingEvent]) -> list[TableRow]:
    """Return the updates of ``events`` that can be encoded."""
    return _build_rows(build_event_update, events, "What came late of an event")


def _build_rows(build: Callable[[T], TableRow], items: Iterable[T], label: str) -> list[TableRow]:
    rows = []
    for item in items:
        try:
            rows.append(build(item))
        except Exception as error:  # noqa: BLE001 - values come from the application and may raise any error
            interrupts.raise_if_interrupt(error)
            write_stats.dropped += 1
            logger.exception("%s could not be encoded and is dropped.", label)
    return rows
