"""A past event as a delivery once more: what its receiver is given, as far as it was kept.

A delivery of the event that is still there tells it exactly. Else the register does, where a value is bounded and told
in JSON's types: an object is known again by its form, and so are bytes; a date or a decimal is the text that it became.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from signalbox import conf
from signalbox.core import catalog
from signalbox.models import Delivery
from signalbox.outbox import ordering, payload, queue, serializer
from signalbox.serialization import encoder
from signalbox.serialization.configured_redactor import get_redactor
from signalbox.serialization.redaction import REDACTED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from django.db.models import Model

    from signalbox.models import Event
    from signalbox.outbox.registry import DurableReceiver
    from signalbox.pipeline import batches

RECORDED_FORM_ARGUMENTS: Final = frozenset({"request", "credentials"})
"""Arguments of which every delivery carries what the register says."""

_TRUNCATED_PATTERN: Final = re.compile(
    r"… \((?:[\d,]+ more|too deep|too long|cycle)\)\Z|\A<[\w.]+(?:: cannot be read)?>\Z"
)
"""Texts that stand for what was left out, or for an object of which the class alone is told."""


class IncompleteRecord(Exception):
    """What the receiver takes of the event was kept in part, or not at all."""


def get_stored_payloads(events: Sequence[Event], alias: str) -> dict[tuple[str, int], dict[str, Any]]:
    """Return by trace and span what the deliveries of ``events`` carry, of which any are still there."""
    spans = {(event.trace_id, event.span) for event in events}
    kept = Delivery.objects.using(alias).filter(trace_id__in={trace for trace, _ in spans}).order_by("-id")
    found = kept.values_list("trace_id", "span", "payload").iterator()
    return {(trace, span): payload for trace, span, payload in found if (trace, span) in spans}


def build_row(
    durable: DurableReceiver, event: Event, stored_payload: Mapping[str, Any] | None, run_at: int
) -> batches.TableRow:
    """Return the row of a delivery of ``event``; ``stored_payload`` is what an earlier one carried.

    Raises ``IncompleteRecord`` where the receiver takes what is not there any more, ``ordering.OrderingKeyError`` where its key isn't.
    """
    args = event.data.get("args") or {}
    content = stored_payload or _build_recorded_payload(event, args)
    packed = content.get("packed")
    if packed is not None:
        _require_arguments(durable, args, packed)
    about = ordering.build_object_key(ordering.get_model_label(event.signal, event.sender, args), event.object_key)
    key = about if durable.key == "pk" else _get_ordering_key(durable, about, event, content)
    facts = (event.trace_id, event.span, event.signal, event.sender, event.object_key, event.database)
    return payload.build_delivery_row(durable, facts, key, encoder.dumps(content), run_at)


def _build_recorded_payload(event: Event, args: Mapping[str, Any]) -> dict[str, Any]:
    data = event.data
    if "row" in data or "changes" in data:
        values = {**data.get("row", {}), **{name: change[-1] for name, change in data.get("changes", {}).items()}}
        whole = {
            name: encoder.unwrap_literal(value) for name, value in values.items() if _is_complete_field_value(value)
        }
        return {"args": args, "row": whole}
    entry = catalog.BUILTIN_SIGNALS.get(event.signal)
    if entry is not None and (entry.group == "bulk" or event.signal in ("post_delete", "m2m_changed")):
        return {"args": args}
    using = event.database or queue.get_deliveries_database()
    return {
        "packed": {
            name: serializer.from_recorded(value, using)
            for name, value in args.items()
            if name in RECORDED_FORM_ARGUMENTS or _is_complete(value)
        }
    }


def _require_arguments(durable: DurableReceiver, args: Mapping[str, Any], serialized: Mapping[str, Any]) -> None:
    """Raise ``NotKept`` if the receiver takes, or is ordered by, an argument of the send that is not in ``packed``."""
    for name in args:
        taken = name in durable.parameter_names or name == durable.key
        if taken and name not in RECORDED_FORM_ARGUMENTS and serialized.get(name, REDACTED) == REDACTED:
            raise IncompleteRecord(name)


def _get_ordering_key(durable: DurableReceiver, object_key: str, event: Event, payload: Mapping[str, Any]) -> str:
    redactor = get_redactor()
    if "packed" in payload:
        try:
            values = {name: serializer.deserialize(value) for name, value in payload["packed"].items()}
        except (LookupError, ImportError) as error:
            raise IncompleteRecord(str(error)) from error
        return ordering.get_ordering_key(durable, object_key, values, redactor)
    model = ordering.find_model(event.sender)
    if model is None or "row" not in payload:
        return ordering.get_ordering_key(durable, object_key, payload["args"], redactor)
    fields = {field.name: field for field in model._meta.concrete_fields}
    values = {name: fields[name].to_python(value) for name, value in payload["row"].items() if name in fields}
    unread = fields.keys() - values.keys() - _get_unstored_fields(model)
    lies = ordering.RowReference(model, event.database, event.object_key, unread)
    return ordering.get_ordering_key(durable, object_key, values, redactor, lies)


def _get_unstored_fields(model: type[Model]) -> set[str]:
    """Return names of fields that are not stored."""
    excluded = conf.get_fields_by_option("exclude")
    return {
        field.name
        for field in model._meta.concrete_fields
        if encoder.is_secret_field(field, model, get_redactor())
        or any(field.name in excluded.get(one._meta.label_lower, ()) for one in (model, field.model))
    }


def _is_complete_field_value(value: Any) -> bool:
    """Tell whether the recorded value of a field is the whole of it."""
    return not encoder.is_recorded_expression(value) and _is_complete(value)


def _is_complete(value: Any) -> bool:
    """Tell whether a recorded value is the whole of it, without a mark of what was left out or hidden."""
    if isinstance(value, str):
        return REDACTED not in value and not _TRUNCATED_PATTERN.search(value)
    if isinstance(value, list):
        return all(map(_is_complete, value))
    if not isinstance(value, dict):
        return True
    if value.keys() in ({"queryset"}, {"bytes"}):
        return False
    if value.keys() == {"bytes", "text"} and serializer.parse_recorded_bytes(value) is None:
        return False
    return encoder.ELLIPSIS not in value and all(_is_complete(part) for pair in value.items() for part in pair)
