"""Reads the labels of related objects that are stored beside their keys. They cost no query."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from signalbox.core.event import UNKNOWN
from signalbox.instrumentation import model_metadata, signal_arguments

if TYPE_CHECKING:
    from collections.abc import Sequence

    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.models import Model

    from signalbox.instrumentation import m2m
    from signalbox.instrumentation.model_metadata import ModelMetadata


def get_foreign_key_labels(
    metadata: ModelMetadata, state: Any, known: Any, written: Sequence[Any], connection: BaseDatabaseWrapper
) -> dict[str, dict[str, str]] | None:
    """Return labels for changed foreign keys whose related object is already cached."""
    cached = state.__dict__.get("fields_cache")
    if not cached:
        return None
    labels = {}
    for cache_name in metadata.foreign_keys.keys() & cached.keys():
        position, field = metadata.foreign_keys[cache_name]
        target = cached[cache_name]
        key = written[position]
        if target is None or key is UNKNOWN or (known is not UNKNOWN and known[position] == key):
            continue
        label = model_metadata.get_metadata(target.__class__).get_label(target, connection)
        if label:
            labels[field] = {str(key): label}
    return labels or None


MAX_M2M_LABELS: Final = 20
"""Maximum number of labels of related objects in an event."""


def encode_m2m_labels(operation: m2m.M2MOperation, encoded_keys: list[int | str]) -> dict[str, Any]:
    """Return the labels of the first changed objects as an argument, of those that were given as instances.

    Objects that were given by their keys have no label. The name is that of the foreign key of the
    through table, as in the labels of other events.
    """
    manager = operation.manager
    if not manager.target_field.target_field.primary_key:
        return {}
    metadata = model_metadata.get_metadata(manager.model)
    wanted = set(encoded_keys[:MAX_M2M_LABELS])
    changed: dict[int | str, Model] = {}
    for instance in operation.objects:
        if len(changed) < len(wanted) and isinstance(instance, manager.model):
            key = signal_arguments.encode_key(instance.pk, metadata)
            if key in wanted:
                changed.setdefault(key, instance)
    if not changed:
        return {}
    labels = zip(changed, model_metadata.get_labels(changed.values()), strict=True)
    labelled = {str(key): label for key, label in labels if label}
    return {"labels": {manager.target_field_name: labelled}} if labelled else {}
