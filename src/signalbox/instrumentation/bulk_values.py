"""Encodes the values and the new primary keys of ``update()`` for its event."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from signalbox.core import interrupts
from signalbox.serialization import encoder
from signalbox.serialization.diff import expression_text, get_choice_labels
from signalbox.serialization.expressions import NO_ANNOTATIONS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from signalbox.instrumentation.model_metadata import ModelMetadata


def get_new_pk_values(metadata: ModelMetadata, values: dict[str, Any]) -> dict[str, Any]:
    """Return the new values of primary key fields in the arguments of ``update()``, by attribute."""
    return {
        field.attname: values[given]
        for field in metadata.pk_fields
        for given in (field.name, field.attname, *(("pk",) if len(metadata.pk_fields) == 1 else ()))
        if given in values
    }


def get_new_keys(metadata: ModelMetadata, keys: list[Any] | None, new_pk_values: dict[str, Any]) -> list[Any] | None:
    """Return the new keys of the rows with ``keys``, None if the database computed them."""
    if keys is None or any(hasattr(value, "resolve_expression") for value in new_pk_values.values()):
        return None
    given = {
        position: _to_field_value(metadata.pk_fields[position], new_pk_values[field.attname])
        for position, field in enumerate(metadata.pk_fields)
        if field.attname in new_pk_values
    }
    if len(metadata.pk_fields) == 1:
        return [given[0]] * len(keys)
    return [tuple(given.get(position, part) for position, part in enumerate(key)) for key in keys]


def _to_field_value(field: Any, value: Any) -> Any:
    """Return ``value`` as the row contains it: the key of an object, the number in a text."""
    while field.is_relation:
        field = field.target_field
        if hasattr(value, "_meta"):
            value = getattr(value, field.attname)
    return field.to_python(value)


def encode_update(
    metadata: ModelMetadata, values: dict[str, Any], annotations: Mapping[str, Any] = NO_ANNOTATIONS
) -> dict[str, Any]:
    """Return the arguments of ``update()`` as they are recorded, with the labels of choices."""
    rendered, plain = _encode_update_values(metadata, values, annotations)
    labels = get_choice_labels(plain, metadata.fields)
    return {"values": rendered, "labels": labels} if labels else {"values": rendered}


def _encode_update_values(
    metadata: ModelMetadata, values: dict[str, Any], annotations: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the encoded values of ``update()``, and its plain values without encoding.

    The encoded values have keys of objects and texts of expressions, without secrets. Plain values are neither secrets
    nor expressions.
    """
    redactor = metadata.fields.redactor
    encoded: dict[str, Any] = {}
    given_values: dict[str, Any] = {}
    for given, value in values.items():
        name = metadata.concrete_model._meta.get_field(given).name if given != "pk" else given
        if name in metadata.fields.excluded:
            continue
        if name in metadata.fields.secret or redactor.should_redact(name, value):
            encoded[name] = redactor.placeholder
        elif hasattr(value, "resolve_expression"):
            encoded[name] = expression_text(value, metadata.fields, annotations)
        else:
            given_values[name] = _get_written_value(metadata, name, value)
    return {**encoded, **encoder.encode_fields(given_values, redactor=redactor)}, given_values


def _get_written_value(metadata: ModelMetadata, name: str, value: Any) -> Any:
    """Return the value that ``update()`` wrote to a field, as the event of a save has it."""
    try:
        written = _to_field_value(metadata.concrete_model._meta.get_field(name), value)
    except Exception as error:  # noqa: BLE001 - the field's own code on a value that the database took
        interrupts.raise_if_interrupt(error)
        written = getattr(value, "pk", value)
    fields = metadata.fields
    return fields.recorders[fields.names.index(name)].record(written) if name in fields.names else written
