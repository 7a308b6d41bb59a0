"""Finds the erasures of an object, after which some of its events can't be found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from signalbox.core.object_keys import digest_secret
from signalbox.models import Event
from signalbox.pipeline.recorded_operations import ERASED
from signalbox.queries.row_effects import BULK_SIGNALS
from signalbox.serialization import encoder


@dataclass(frozen=True, slots=True)
class ErasureRecord:
    """The record of an erasure."""

    time: int
    """Microseconds since the epoch."""
    with_keys: bool
    """Whether the object's key was erased in all of its events."""


def get_erasure_records(labels: Iterable[str], key: str, using: str) -> list[ErasureRecord]:
    """Return the records of the erasures of an object, oldest first.

    Args:
        labels: The labels of models with which it can be selected.
        key: Its key, as events contain it.
        using: Alias of the database with its events.
    """
    digest = digest_secret(key)
    names = {f"{label}:{text}" for label in labels for text in (key, digest)}
    records = Event.objects.using(using).filter(signal=ERASED).order_by("id").values_list("time", "data")
    return [
        ErasureRecord(time, bool(data["args"]["keys"]))
        for time, data in records.iterator(chunk_size=500)
        if names.intersection(data["args"]["objects"])
    ]


def contains_erased_key(event: Event) -> bool:
    """Return whether ``event`` is a bulk operation from whose keys one was erased."""
    args = event.data.get("args") or {}
    return event.signal in BULK_SIGNALS and encoder.contains_erased([args.get("keys"), args.get("new_keys")])


__all__ = ["ErasureRecord", "contains_erased_key", "get_erasure_records"]
