"""Build the deliveries of an event: the payload and the ordering key for each durable receiver."""

from __future__ import annotations

import math
from base64 import b64decode
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from django.apps import apps

from signalbox.core import clock, interrupts, tracing
from signalbox.core.event import UNKNOWN, Outcome, PendingEvent
from signalbox.outbox import ordering, serializer
from signalbox.outbox.durable_receiver import CannotBeDurable, DurableReceiver
from signalbox.outbox.registry import get_subscribers
from signalbox.pipeline import batches
from signalbox.serialization import encoder
from signalbox.serialization.configured_redactor import get_redactor
from signalbox.serialization.diff import is_expression
from signalbox.serialization.encoder import NotRestorable
from signalbox.serialization.redaction import REDACTED, redact

if TYPE_CHECKING:
    from signalbox.serialization.diff import RowChange


class SerializedArguments(dict[str, Any]):
    """The serialized arguments of a send, with the ordering keys of its deliveries."""

    def __init__(self, arguments: Mapping[str, Any], ordering_keys: Mapping[str, str]) -> None:
        super().__init__(arguments)
        self.ordering_keys = ordering_keys
        """Ordering keys by receiver. They are computed from the original arguments, which are not stored."""


def serialize_arguments(
    signal: str, sender: str, arguments: Mapping[str, Any], recorded_arguments: Mapping[str, Any]
) -> SerializedArguments:
    """Return the serialized arguments of a send. A request is replaced by its recorded form.

    Raises ``CannotBeDurable`` for an argument that a durable receiver takes and that can't be serialized or contains a
    secret: values are stored completely or not at all. Only ``credentials`` are stored without their secrets, because
    they identify the user.
    """
    redactor = get_redactor()
    bounded = {name: serializer.mark_too_deep(value) for name, value in arguments.items()}
    serialized = _serialize_arguments(signal, sender, bounded, recorded_arguments)
    object_key = ordering.build_instance_key(arguments.get("instance", arguments.get("user")), redactor)
    arguments_for_key = {
        name: ordering.build_secret_key(value, redactor) if serialized.get(name) == REDACTED else value
        for name, value in arguments.items()
    }
    ordering_keys = {
        durable.name: ordering.get_ordering_key(durable, object_key, arguments_for_key, redactor)
        for durable in get_subscribers(signal, sender)
    }
    return SerializedArguments(serialized, ordering_keys)


def _serialize_arguments(
    signal: str, sender: str, arguments: Mapping[str, Any], recorded_arguments: Mapping[str, Any]
) -> dict[str, Any]:
    serialized = {}
    for name, value in arguments.items():
        subscribers = [durable.name for durable in get_subscribers(signal, sender) if name in durable.parameter_names]
        if name == "request":
            serialized[name] = recorded_arguments.get(name)
        elif get_redactor().should_redact(name, value):
            if subscribers:
                raise CannotBeDurable(
                    f"{signal} was sent with {name!r}, which {subscribers[0]} takes: it is secret by its name, and is "
                    "not stored. Load it in the receiver, or rename the argument."
                )
            serialized[name] = REDACTED
        else:
            try:
                content = serializer.serialize(redact(serializer.resolve_lazy(value), get_redactor()))
            except serializer.NotSerializable as error:
                if subscribers:
                    raise CannotBeDurable(
                        f"{signal} was sent with {name!r}, which {subscribers[0]} takes and which can't be sent to a "
                        f"worker: {error}. Send its key, or a value of a JSON type."
                    ) from error
                continue
            if name == "credentials" or not _contains_secret(content):
                serialized[name] = content
            elif subscribers:
                raise CannotBeDurable(
                    f"{signal} was sent with {name!r}, which {subscribers[0]} takes: it contains a secret, which is "
                    "not stored. Load it in the receiver."
                )
    return serialized


def _contains_secret(serialized: Any) -> bool:
    """Return whether a secret was redacted from a serialized value, or the key of an object in it is a secret."""
    if isinstance(serialized, str):
        return REDACTED in serialized
    if isinstance(serialized, list):
        return any(map(_contains_secret, serialized))
    if not isinstance(serialized, dict):
        return False
    match serialized.get(serializer.TYPE_TAG):
        case "bytes":
            return REDACTED.encode() in b64decode(serialized["v"])
        case "model":
            return encoder.has_secret_pk(apps.get_model(serialized["v"][0]), get_redactor())
    return any(map(_contains_secret, (*serialized, *serialized.values())))


TRACE_CONTEXT_KEY: Final = "trace_context"
"""Key of a payload: the headers of W3C Trace Context that name the cause."""


def build_delivery_rows(event: PendingEvent) -> Sequence[batches.TableRow]:
    """Return the deliveries of a committed event, in the order of ``batches.DELIVERY_COLUMNS``."""
    subscribers = get_subscribers(event.signal, event.sender)
    if not subscribers or event.outcome is Outcome.ROLLED_BACK or _is_pre_change(event):
        return ()
    now = clock.now_us()
    chain_length = event.trace.chain_length + 1
    values = _get_known_values(event)
    payload = _build_payload(event, values)
    trace_context = tracing.get_trace_context(event.trace)
    if trace_context is not None:
        state = trace_context.get("tracestate", "")  # its content is up to the client
        if get_redactor().redact_text(state) != state:
            del trace_context["tracestate"]
        payload = f'{payload[:-1]},"{TRACE_CONTEXT_KEY}":{encoder.dumps(trace_context)}}}'
    reference = (event.trace.id, event.span, event.signal, event.sender, event.key, event.using)
    return [
        build_delivery_row(durable, reference, key, payload, now, chain_length)
        for durable, key in zip(subscribers, _get_ordering_keys(event, subscribers, values), strict=True)
    ]


def _get_ordering_keys(
    event: PendingEvent, subscribers: Sequence[DurableReceiver], values: Mapping[str, Any]
) -> list[str]:
    """Return the ordering keys of the deliveries to ``subscribers``.

    Raises ``ordering.OrderingKeyError`` if one can't be determined.
    """
    object_key = ordering.build_object_key(ordering.get_model_label(event.signal, event.sender, event.args), event.key)
    if isinstance(event.outbox_arguments, SerializedArguments):
        return [event.outbox_arguments.ordering_keys.get(durable.name, object_key) for durable in subscribers]
    row = None
    if event.change is not None and any(durable.key not in ("pk", None) for durable in subscribers):
        model = ordering.find_model(event.sender)
        values = _read_row_values(event.change, values)
        row = (
            None
            if model is None
            else ordering.RowReference(model, event.using, event.key, _get_unloaded_fields(event.change))
        )
    return [ordering.get_ordering_key(durable, object_key, values, get_redactor(), row) for durable in subscribers]


def _get_unloaded_fields(change: RowChange) -> set[str]:
    """Return names of fields whose values are unknown, because they were not loaded or the database computes them."""
    fields = change.fields
    rows = [row for row in (change.new, change.old) if row is not None and row is not UNKNOWN]
    unloaded = set(fields.names) - fields.secret - fields.excluded
    for index, name in enumerate(fields.names):
        value = next((row[index] for row in rows if row[index] is not UNKNOWN), UNKNOWN)
        if value is not UNKNOWN and not is_expression(value):
            unloaded.discard(name)
    return unloaded


def _is_pre_change(event: PendingEvent) -> bool:
    """Return whether an ``m2m_changed`` was sent before its change. Only the one after it is delivered."""
    args = event.args
    return event.signal == "m2m_changed" and isinstance(args, Mapping) and str(args.get("action")).startswith("pre_")


EventReference = tuple[str, int, str, str, str, str]
"""The columns that a delivery copies from its event: trace, span, signal, sender, object key, database."""


def build_delivery_row(
    durable: DurableReceiver,
    event_reference: EventReference,
    ordering_key: str,
    payload: str,
    run_at: int,
    chain_length: int,
) -> batches.TableRow:
    """Return the row of a delivery, in the order of ``batches.DELIVERY_COLUMNS``."""
    trace_id, span, signal, sender, object_key, using = event_reference
    partition_id = ordering.get_partition_id(durable.name, ordering_key) if ordering_key else None
    return (
        durable.name,
        durable.queue,
        ordering_key,
        partition_id,
        trace_id,
        span,
        signal,
        sender,
        object_key,
        using,
        run_at,
        run_at,
        run_at,
        payload,
        chain_length,
    )


def _get_known_values(event: PendingEvent) -> dict[str, Any]:
    """Return the known values of the event by name: the fields of its row, or the arguments."""
    if event.change is not None:
        return _get_row_values(event.change)
    if event.outbox_arguments is not None:
        return dict(event.outbox_arguments)
    return dict(event.args) if isinstance(event.args, Mapping) else {}


def _get_row_values(change: RowChange) -> dict[str, Any]:
    """Return the recorded values of the row by field, without secret, unknown and not restorable ones."""
    fields, old, new = change.fields, change.old, change.new
    if new is None or new is UNKNOWN:
        old, new = None, old
    if new is UNKNOWN or new is None:
        return {}
    previous = new if old is None or old is UNKNOWN else old
    values = {}
    for name, recorder, old_value, new_value in zip(fields.names, fields.recorders, previous, new, strict=True):
        value = old_value if new_value is UNKNOWN else new_value
        if value is UNKNOWN or name in fields.secret or name in fields.excluded or is_expression(value):
            continue
        recorded = recorder.record(value)
        if type(recorded) is float and not math.isfinite(recorded):  # JSON has no such number
            recorded = str(recorded)
        if not isinstance(recorded, NotRestorable | bytes | bytearray | memoryview) and (
            not isinstance(recorded, dict | list) or redact(recorded, fields.redactor) == recorded
        ):
            values[name] = recorded
    return values


def _read_row_values(change: RowChange, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a row as its fields read them, as in a replay."""
    recorders = dict(zip(change.fields.names, change.fields.recorders, strict=True))
    read = {}
    for name, value in values.items():
        try:
            read[name] = None if value is None else recorders[name].read(value)
        except Exception as error:  # noqa: BLE001 - a field's own code on a value that the database may refuse
            interrupts.raise_if_interrupt(error)
            read[name] = value
    return read


MAX_ROW_CHARS: Final = 256 * 1024
"""Maximum length of the JSON text of a delivery's row. The longest values of a larger row are left out."""


def _build_payload(event: PendingEvent, values: dict[str, Any]) -> str:
    """Return the payload as JSON text. The object itself is loaded when the receiver runs."""
    if event.outbox_arguments is not None:
        return '{"serialized":' + encoder.dumps(event.outbox_arguments) + "}"
    args = event.args
    args_json = "{}" if args is None else args if type(args) is str else encoder.dumps(args)
    if event.change is None:
        return '{"args":' + args_json + "}"
    row_json = encoder.dumps(values)
    redactor = event.change.fields.redactor
    if len(row_json) > MAX_ROW_CHARS or not redactor.is_clean(row_json):
        values = {
            name: value
            for name, value in values.items()
            if not isinstance(value, str) or (len(value) <= MAX_ROW_CHARS // 8 and redactor.redact_data(value) == value)
        }
        row_json = encoder.dumps(values)
    return '{"args":' + args_json + ',"row":' + row_json + "}"
