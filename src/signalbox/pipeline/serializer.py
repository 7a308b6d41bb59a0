"""Builds table rows of pending events and traces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

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
"""Whether a save that changed nothing, and whose receivers did not fail, makes an event."""

UNCHANGED: Final[ChangeDescription] = ("changes", {})


def build_batch(
    events: Iterable[PendingEvent],
    *,
    traces: Sequence[TableRow] = (),
    event_updates: Sequence[TableRow] = (),
    trace_updates: Sequence[TableRow] = (),
    on_delivery_error: Callable[[PendingEvent, Exception], None] | None = None,
) -> Batch:
    """Return what is to be written of ``drafts``, whose transaction commits unless they say otherwise: their events and
    the deliveries of these.

    Raises what making a delivery raises: an event may be dropped, a delivery may not. Where the change can't be taken
    back any more, ``lost`` is told instead.
    """
    source = get_source()
    if source is NO_DELIVERIES:
        return Batch(build_event_rows(events, Outcome.COMMITTED), traces, event_updates, (), trace_updates)
    deliveries: list[TableRow] = []
    awaited = set()
    events = list(events)
    for draft in events:
        try:
            made = source.build_delivery_rows(draft)
        except Exception as error:
            if on_delivery_error is None:
                raise
            on_delivery_error(draft, error)
            continue
        if made:
            deliveries += made
            awaited.add(draft.span)
    return Batch(build_event_rows(events, Outcome.COMMITTED, awaited), traces, event_updates, deliveries, trace_updates)


def build_event_rows(
    events: Iterable[PendingEvent], outcome: Outcome, spans_with_deliveries: Container[int] = ()
) -> list[TableRow]:
    """Return the rows of ``drafts``; ``outcome`` is that of their transaction. A draft that can't be encoded is
    dropped, counted and logged: it must not take the others with it. ``awaited`` are the spans of events that have
    deliveries, and are kept even if they changed nothing."""
    rows = []
    processor = processors.get_configured_processor()
    word = outcome._value_  # ``value`` takes a call
    for draft in events:
        try:
            described = None if draft.change is None else describe(draft.change)
            if (
                described == UNCHANGED
                and not record_unchanged
                and not draft.errors
                and draft.span not in spans_with_deliveries
            ):
                continue
            row = build_event_row(draft, word, described)
            if processor is not None:
                text = processors.apply(processor, dict(zip(_EVENT_COLUMN_NAMES, row, strict=True)), row[-1])
                if text is None and draft.span not in spans_with_deliveries:
                    continue
                row = (*row[:-1], text or row[-1])
            rows.append(row)
        except Exception:  # values come from the application; whatever they do stays here
            write_stats.dropped += 1
            logger.exception("An event of %s could not be encoded and is dropped.", draft.signal)
    return rows


def build_event_row(event: PendingEvent, outcome: str, description: ChangeDescription | None = None) -> TableRow:
    """Return the row of ``draft``, in the order of ``EVENT_COLUMNS``; ``outcome`` is that of its transaction, and
    ``described`` what ``describe`` says of its change."""
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
    """Return the outcome that is stored: a change is committed or rolled back, whatever its receivers did."""
    if event.outcome is None:
        return outcome
    if event.outcome is Outcome.ROLLED_BACK or outcome == "rolled_back":
        return "rolled_back"
    return outcome if event.change is not None else event.outcome.value


def build_data_json(event: PendingEvent, description: ChangeDescription | None = None) -> str:
    """Return the JSON text of what has no column of its own."""
    text = ""
    args = event.args
    if args is not None:  # the common save's arguments come as ready-made text
        text = f'"args":{args if type(args) is str else encoder.dumps(args)},'
    if event.pre_signal_time is not None:
        text += f'"pre_signal_time":{event.pre_signal_time // 1000},'
    if description is not None and event.change is not None:
        text += _build_change_json(event.change, description) + ","
    if event.receiver_calls is not None:
        text += f'"receivers":{encoder.dumps([_build_receiver_call_data(run) for run in event.receiver_calls])},'
    return f"{{{text[:-1]}}}"


def _build_receiver_call_data(call: ReceiverCall) -> dict[str, Any]:
    site, spent, error = call
    return {
        "name": site.name,
        "location": site.location,
        "duration_us": None if spent is None else spent // 1000,
        "error": error,
    }


def _build_change_json(change: RowChange, description: ChangeDescription) -> str:
    """Return what a row's change stores, as the inside of a JSON object: each value bounded and without secrets."""
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
    """Return what is known of ``draft`` only after it was written: duration, errors and data, with trace and span."""
    duration = event.duration
    described = None if event.change is None else describe(event.change)
    text = build_data_json(event, described)
    processor = processors.get_configured_processor()
    if processor is not None:  # the update keeps what it adds, and can't drop an event that was written
        row = build_event_row(event, "committed", described)
        text = processors.apply(processor, dict(zip(_EVENT_COLUMN_NAMES, row, strict=True)), text) or text
    return (None if duration is None else duration // 1000, event.errors, text, event.trace.id, event.span)


def build_trace_update(trace: Trace) -> TableRow:
    """Return what is known of ``trace`` only when it has ended, with its id and time."""
    trace_id, *_, started, duration, status, events, errors, rolled_back, data = build_trace_row(trace)
    return (duration, status, events, errors, rolled_back, data, trace_id, started)


def build_trace_rows(traces: Iterable[Trace]) -> list[TableRow]:
    """Return the rows of ``traces`` that can be encoded."""
    return _build_rows(build_trace_row, traces, "A trace")


def build_trace_updates(traces: Iterable[Trace]) -> list[TableRow]:
    """Return what completes the rows of ``traces``, of those that can be encoded."""
    return _build_rows(build_trace_update, traces, "The end of a trace")


def build_event_updates(events: Iterable[PendingEvent]) -> list[TableRow]:
    """Return the late rows of ``drafts`` that can be encoded."""
    return _build_rows(build_event_update, events, "What came late of an event")


def _build_rows(build: Callable[[T], TableRow], items: Iterable[T], label: str) -> list[TableRow]:
    rows = []
    for thing in items:
        try:
            rows.append(build(thing))
        except Exception:  # values come from the application; whatever they do stays here
            write_stats.dropped += 1
            logger.exception("%s could not be encoded and is dropped.", label)
    return rows
