"""Reads rows by pages, and groups them into the batches of one transaction each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from django.db.models import QuerySet

    from signalbox.models import Event

BATCH_SIZE: Final = 200
"""Rows of one transaction."""


def iter_by_id(queryset: QuerySet[Event]) -> Iterator[Event]:
    """Yield the rows of ``queryset`` in the order of their ids, by pages."""
    last = 0
    while page := list(queryset.filter(pk__gt=last).order_by("pk")[:BATCH_SIZE]):
        last = page[-1].pk
        yield from page


def batched(rows: Iterable[Any]) -> Iterator[list[Any]]:
    """Yield ``rows`` in lists of up to ``BATCH_SIZE``."""
    batch: list[Any] = []
    for row in rows:
        batch.append(row)
        if len(batch) >= BATCH_SIZE:
            yield batch
            batch = []
    if batch:
        yield batch
