"""Build deliveries of past events from the recorded data.

A stored delivery of the event has the exact arguments. Otherwise the recorded event is used, whose values may be
truncated and are JSON types: objects and bytes are recognized by their form, dates and decimals stay texts.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from signalbox import conf
from signalbox.core import catalog, tracing
from signalbox.core.event import ERASED_COLUMNS_KEY
from signalbox.models import Delivery
from signalbox.outbox import ordering, payload, queue, serializer
from signalbox.serialization import encoder, field_values
from signalbox.serialization.configured_redactor import get_redactor
from signalbox.serialization.redaction import REDACTED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from django.db.models import Model

    from signalbox.models import Event
    from signalbox.outbox.durable_receiver import DurableReceiver
    from signalbox.pipeline import batches

RECORDED_FORM_ARGUMENTS: Final = frozenset({"request", "credentials"})
"""Arguments that every delivery carries in their recorded form."""

_TRUNCATED_PATTERN: Final = re.compile(
    r"… \((?:[\d,]+ more|too deep|too long|cycle)\)\Z|\A<[\w.]+(?:: cannot be read)?>\Z"
)
"""Texts that replace truncated values, and objects for which only the class was recorded."""


class IncompleteRecord(Exception):
    """An argument that the receiver takes was recorded incompletely or not at all."""


def get_stored_payloads(events: Sequence[Event], alias: str) -> dict[tuple[str, int], dict[str, Any]]:
    """Return the payloads of stored deliveries of ``events``, by trace and span."""
    spans = {(event.trace_id, event.span) for event in events}
    stored = Delivery.objects.using(alias).filter(trace_id__in={trace for trace, _ in spans}).order_by("-id")
    rows = stored.values_list("trace_id", "span", "payload").iterator()
    return {
        (trace, span): payload
        for trace, span, payload in rows
        if (trace, span) in spans and not encoder.is_erased(payload)
    }


def build_row(
    durable: DurableReceiver, event: Event, stored_payload: Mapping[str, Any] | None, run_at: int
) -> batches.TableRow:
    """Return the row of a delivery of ``event``. ``stored_payload`` is that of an earlier delivery of it.

    Raises ``IncompleteRecord`` if an argument that the receiver takes is missing or was erased, and
    ``ordering.OrderingKeyError`` if the ordering key can't be determined.
    """
    args = event.data.get("args") or {}
    if encoder.contains_erased(args) or "object_key" in event.data.get(ERASED_COLUMNS_KEY, ()):
        raise IncompleteRecord("erased")
    content = stored_payload or _build_recorded_payload(event, args)
    serialized = content.get("serialized")
    if serialized is not None:
        _require_arguments(durable, args, serialized)
    object_key = ordering.build_object_key(ordering.get_model_label(event.signal, event.sender, args), event.object_key)
    key = object_key if durable.key == "pk" else _get_ordering_key(durable, object_key, event, content)
    reference = (event.trace_id, event.span, event.signal, event.sender, event.object_key, event.database)
    # A replay begins a new chain, as its event may have come at the end of an old one.
    chain_length = tracing.get_current_trace().chain_length + 1
    return payload.build_delivery_row(durable, reference, key, encoder.dumps(content), run_at, chain_length)


def _build_recorded_payload(event: Event, args: Mapping[str, Any]) -> dict[str, Any]:
    data = event.data
    if "row" in data or "changes" in data:
        values = {**data.get("row", {}), **{name: change[-1] for name, change in data.get("changes", {}).items()}}
        row = {name: encoder.unwrap_literal(value) for name, value in values.items() if _is_complete_field_value(value)}
        return {"args": args, "row": row}
    entry = catalog.BUILTIN_SIGNALS.get(event.signal)
    if entry is not None and (entry.group == "bulk" or event.signal in ("post_delete", "m2m_changed")):
        return {"args": args}
    using = event.database or queue.get_deliveries_database()
    return {
        "serialized": {
            name: serializer.from_recorded(value, using)
            for name, value in args.items()
            if name in RECORDED_FORM_ARGUMENTS or _is_complete(value)
        }
    }


def _require_arguments(durable: DurableReceiver, args: Mapping[str, Any], serialized: Mapping[str, Any]) -> None:
    """Raise ``IncompleteRecord`` if an argument is missing that the receiver takes or is ordered by."""
    for name in args:
        is_needed = name in durable.parameter_names or name == durable.key
        if is_needed and name not in RECORDED_FORM_ARGUMENTS and serialized.get(name, REDACTED) == REDACTED:
            raise IncompleteRecord(name)


def _get_ordering_key(durable: DurableReceiver, object_key: str, event: Event, payload: Mapping[str, Any]) -> str:
    redactor = get_redactor()
    if "serialized" in payload:
        try:
            values = {name: serializer.deserialize(value) for name, value in payload["serialized"].items()}
        except (LookupError, ImportError) as error:
            raise IncompleteRecord(str(error)) from error
        return ordering.get_ordering_key(durable, object_key, values, redactor)
    model = ordering.find_model(event.sender)
    if model is None or "row" not in payload:
        return ordering.get_ordering_key(durable, object_key, payload["args"], redactor)
    fields = {field.name: field for field in model._meta.concrete_fields}
    values = {
        name: field_values.read_value(fields[name], value) for name, value in payload["row"].items() if name in fields
    }
    unloaded = fields.keys() - values.keys() - _get_unstored_fields(model)
    row = ordering.RowReference(model, event.database, event.object_key, unloaded)
    return ordering.get_ordering_key(durable, object_key, values, redactor, row)


def _get_unstored_fields(model: type[Model]) -> set[str]:
    """Return names of fields that are secret or excluded, and so never recorded."""
    excluded = conf.get_fields_by_option("exclude")
    return {
        field.name
        for field in model._meta.concrete_fields
        if encoder.is_secret_field(field, model, get_redactor())
        or any(field.name in excluded.get(owner._meta.label_lower, ()) for owner in (model, field.model))
    }


def _is_complete_field_value(value: Any) -> bool:
    """Return whether the value of a field was recorded completely."""
    return not encoder.is_recorded_expression(value) and not encoder.is_not_restorable(value) and _is_complete(value)


def _is_complete(value: Any) -> bool:
    """Return whether a recorded value is complete: it contains no mark of truncation or redaction."""
    if isinstance(value, str):
        return REDACTED not in value and not _TRUNCATED_PATTERN.search(value)
    if isinstance(value, list):
        return all(map(_is_complete, value))
    if not isinstance(value, dict):
        return True
    if value.keys() in ({"queryset"}, {"bytes"}) or encoder.is_erased(value):
        return False
    if value.keys() == {"bytes", "text"} and serializer.parse_recorded_bytes(value) is None:
        return False
    return encoder.ELLIPSIS not in value and all(_is_complete(part) for pair in value.items() for part in pair)
