"""Deliveries of an event: what each durable receiver is given, and what its deliveries are ordered by."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from django.apps import apps

from signalbox.core import tracing
from signalbox.core.event import UNKNOWN, Outcome, PendingEvent
from signalbox.outbox import ordering, serializer
from signalbox.outbox.registry import CannotBeDurable, DurableReceiver, get_subscribers
from signalbox.pipeline import batches
from signalbox.serialization import encoder
from signalbox.serialization.configured_redactor import get_redactor
from signalbox.serialization.diff import is_expression
from signalbox.serialization.redaction import REDACTED, redact

if TYPE_CHECKING:

    from signalbox.serialization.diff import RowChange


class SerializedArguments(dict[str, Any]):
    """A send's arguments as they travel."""

    def __init__(self, arguments: Mapping[str, Any], ordering_keys: Mapping[str, str]) -> None:
        super().__init__(arguments)
        self.ordering_keys = ordering_keys
        """By receiver what its delivery is ordered by: told of the arguments themselves, while they are at hand."""


def serialize_arguments(
    signal: str, sender: str, arguments: Mapping[str, Any], recorded_arguments: Mapping[str, Any]
) -> SerializedArguments:
    """Return a send's arguments as they travel; ``facts`` are the recorded ones, which stand in for a request.

    Raises ``NotDurable`` for an argument that a durable receiver names and that cannot travel, or holds a secret: a
    value is stored as it is or not at all. Only ``credentials`` go without the secret ones, as they tell who failed.
    """
    bounded = {name: serializer.mark_too_deep(value) for name, value in arguments.items()}
    packed = _serialize_arguments(signal, sender, bounded, recorded_arguments)
    about = ordering.build_instance_key(arguments.get("instance", arguments.get("user")), get_redactor())
    told = {name: REDACTED if packed.get(name) == REDACTED else value for name, value in arguments.items()}
    takers = get_subscribers(signal, sender)
    return SerializedArguments(
        packed, {one.name: ordering.get_ordering_key(one, about, told, get_redactor()) for one in takers}
    )


def _serialize_arguments(
    signal: str, sender: str, arguments: Mapping[str, Any], recorded_arguments: Mapping[str, Any]
) -> dict[str, Any]:
    packed = {}
    for name, value in arguments.items():
        takers = [durable.name for durable in get_subscribers(signal, sender) if name in durable.parameter_names]
        if name == "request":
            packed[name] = recorded_arguments.get(name)
        elif get_redactor().should_redact(name, value):
            if takers:
                raise CannotBeDurable(
                    f"{signal} was sent with {name!r}, which {takers[0]} takes: it is secret by its name, and is not "
                    "stored. Let the receiver load it, or give the argument a name that opens no door."
                )
            packed[name] = REDACTED
        else:
            try:
                found = serializer.serialize(redact(serializer.resolve_lazy(value), get_redactor()))
            except serializer.NotSerializable as error:
                if takers:
                    raise CannotBeDurable(
                        f"{signal} was sent with {name!r}, which {takers[0]} takes and which cannot travel to a "
                        f"worker: {error}. Send its key, or what JSON can say."
                    ) from error
                continue
            if name == "credentials" or not _contains_secret(found):
                packed[name] = found
            elif takers:
                raise CannotBeDurable(
                    f"{signal} was sent with {name!r}, which {takers[0]} takes: it holds a secret, which is not "
                    "stored. Let the receiver load it."
                )
    return packed


def _contains_secret(serialized: Any) -> bool:
    """Tell whether a secret was taken out of what travels, or would have to be: an object's key that is one itself."""
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


def build_delivery_rows(event: PendingEvent) -> Sequence[batches.TableRow]:
    """Return the deliveries that a committed event makes, in the order of ``tables.DELIVERY_COLUMNS``."""
    takers = get_subscribers(event.signal, event.sender)
    if not takers or event.outcome is Outcome.ROLLED_BACK or _is_pre_change(event):
        return ()
    now = tracing.now() // 1000
    values = _get_known_values(event)
    payload = _build_payload(event, values)
    facts = (event.trace.id, event.span, event.signal, event.sender, event.key, event.using)
    return [
        build_delivery_row(durable, facts, key, payload, now)
        for durable, key in zip(takers, _get_ordering_keys(event, takers, values), strict=True)
    ]


def _get_ordering_keys(
    event: PendingEvent, subscribers: Sequence[DurableReceiver], values: Mapping[str, Any]
) -> list[str]:
    """Return what the deliveries to ``takers`` are ordered by.

    Raises ``ordering.NotOrdered`` where that can't be known.
    """
    about = ordering.build_object_key(ordering.get_model_label(event.signal, event.sender, event.args), event.key)
    if isinstance(event.outbox_arguments, SerializedArguments):
        return [event.outbox_arguments.ordering_keys.get(durable.name, about) for durable in subscribers]
    row = None
    if event.change is not None and any(durable.key not in ("pk", None) for durable in subscribers):
        model = ordering.find_model(event.sender)
        row = (
            None
            if model is None
            else ordering.RowReference(model, event.using, event.key, _get_unloaded_fields(event.change))
        )
    return [ordering.get_ordering_key(durable, about, values, get_redactor(), row) for durable in subscribers]


def _get_unloaded_fields(change: RowChange) -> set[str]:
    """Return names of fields whose values nobody knows, as they were not loaded or the database makes them."""
    fields = change.fields
    known = [row for row in (change.new, change.old) if row is not None and row is not UNKNOWN]
    unread = set(fields.names) - fields.secret - fields.excluded
    for place, name in enumerate(fields.names):
        value = next((row[place] for row in known if row[place] is not UNKNOWN), UNKNOWN)
        if value is not UNKNOWN and not is_expression(value):
            unread.discard(name)
    return unread


def _is_pre_change(event: PendingEvent) -> bool:
    """Tell whether an ``m2m_changed`` announces its change; it is delivered once the change is made."""
    args = event.args
    return event.signal == "m2m_changed" and isinstance(args, Mapping) and str(args.get("action")).startswith("pre_")

EventReference = tuple[str, int, str, str, str, str]
"""What a delivery repeats of its event: trace, span, signal, sender, object key, database."""


def build_delivery_row(
    durable: DurableReceiver, event_reference: EventReference, ordering_key: str, payload: str, run_at: int
) -> batches.TableRow:
    """Return one delivery's row, in the order of ``tables.DELIVERY_COLUMNS``."""
    trace_id, span, signal, sender, object_key, using = event_reference
    lane = ordering.get_partition_id(durable.name, ordering_key) if ordering_key else None
    return (
        durable.name,
        durable.queue,
        ordering_key,
        lane,
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
    )


def _get_known_values(event: PendingEvent) -> dict[str, Any]:
    """Return what is known of the event by name: the row's fields, or the arguments."""
    if event.change is not None:
        return _get_row_values(event.change)
    if event.outbox_arguments is not None:
        return dict(event.outbox_arguments)
    return dict(event.args) if isinstance(event.args, Mapping) else {}

_EXACT_TYPE_NAMES: Final = frozenset(
    {"str", "int", "float", "bool", "NoneType", "Decimal", "datetime", "date", "time", "timedelta", "UUID"}
)


def _get_row_values(change: RowChange) -> dict[str, Any]:
    """Return the row's values by field: each exactly, or not at all where it is secret or unknown."""
    fields, old, new = change.fields, change.old, change.new
    if new is None or new is UNKNOWN:
        old, new = None, old
    if new is UNKNOWN or new is None:
        return {}
    before = new if old is None or old is UNKNOWN else old
    found = {}
    for name, was, written in zip(fields.names, before, new, strict=True):
        value = was if written is UNKNOWN else written
        if value is UNKNOWN or name in fields.secret or name in fields.excluded or is_expression(value):
            continue
        if name not in fields.non_scalar or type(value).__name__ in _EXACT_TYPE_NAMES:
            found[name] = value
        elif isinstance(value, dict | list):
            if redact(value, fields.redactor) == value:
                found[name] = value
        elif hasattr(value, "field") and hasattr(value, "name"):  # a FieldFile is stored by its name
            found[name] = value.name
    return found

MAX_ROW_CHARS: Final = 256 * 1024
"""Characters of a row's text that a delivery carries; the longest values of a larger row stay behind."""


def _build_payload(event: PendingEvent, values: dict[str, Any]) -> str:
    """Return as JSON text what the receiver is to be given, besides the object itself."""
    if event.outbox_arguments is not None:
        return '{"packed":' + encoder.dumps(event.outbox_arguments) + "}"
    args = event.args
    text = "{}" if args is None else args if type(args) is str else encoder.dumps(args)
    if event.change is None:
        return '{"args":' + text + "}"
    row = encoder.dumps(values)
    hides = event.change.fields.redactor
    if len(row) > MAX_ROW_CHARS or not hides.is_clean(row):
        data = hides.redact_data
        values = {
            k: v for k, v in values.items() if not isinstance(v, str) or (len(v) <= MAX_ROW_CHARS // 8 and data(v) == v)
        }
        row = encoder.dumps(values)
    return '{"args":' + text + ',"row":' + row + "}"
