"""Delete finished deliveries together with their attempts. The tables have no foreign keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from signalbox.outbox.partitions import TABLE
from signalbox.outbox.table import ATTEMPT_TABLE
from signalbox.pipeline.backends import get_backend

if TYPE_CHECKING:
    from collections.abc import Sequence

    from django.db.backends.base.base import BaseDatabaseWrapper


class FinishedPosition(NamedTuple):
    """A place in the order in which finished deliveries are deleted."""

    finished: int
    """In microseconds since 1970."""
    id: int


FIRST_POSITION: Final = FinishedPosition(0, 0)


def delete_rows(connection: BaseDatabaseWrapper, ids: Sequence[int], state: str, finished_before: int) -> int:
    """Delete those of the deliveries ``ids`` that are in ``state`` since before a time, and their attempts.

    Return how many. ``finished_before`` is in microseconds since 1970. A delivery that an operator has made due again
    is not deleted. Call it in a transaction. Raises ``django.db.Error`` if the database is unavailable or locked.
    """
    with connection.cursor() as cursor:
        condition = "state = %s AND finished < %s"
        cursor.execute(get_backend(connection).build_delete(TABLE, ids, condition), [state, finished_before])
        count: int = cursor.rowcount
        if count:
            remaining = f"SELECT 1 FROM {TABLE} d WHERE d.id = {ATTEMPT_TABLE}.delivery_id"
            numbers = ", ".join(map(str, ids))
            cursor.execute(f"DELETE FROM {ATTEMPT_TABLE} WHERE delivery_id IN ({numbers}) AND NOT EXISTS ({remaining})")
    return count
