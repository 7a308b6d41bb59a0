"""Find the earlier deliveries that deliveries wait for, because they have the same key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import connections

from signalbox.outbox.partitions import TABLE, first_unleased_sql, leased_sql

if TYPE_CHECKING:
    from collections.abc import Collection


def find_blocking_deliveries(alias: str, ids: Collection[int]) -> dict[int, int]:
    """Return the ids of the first deliveries of their partitions, by the id of a later one among ``ids``.

    Each takes two entries of an index, however long its partition is.
    """
    if not ids:
        return {}
    connection = connections[alias]
    unleased, leased = first_unleased_sql(connection.vendor), leased_sql(connection.vendor, "p.id < d.id")
    placeholders = ", ".join(["%s"] * len(ids))
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT d.id, {unleased}, {leased} FROM {TABLE} d "
            f"WHERE d.id IN ({placeholders}) AND d.partition_id IS NOT NULL",
            list(ids),
        )
        rows = cursor.fetchall()
    found = {}
    for delivery_id, *others in rows:
        earlier = [other for other in others if other is not None and other < delivery_id]
        if earlier:
            found[delivery_id] = min(earlier)
    return found
