"""SQL conditions on the order of a partition: which delivery ``d`` is first, and which is leased."""

from __future__ import annotations

from typing import Final

from signalbox.pipeline import batches

TABLE: Final = batches.DELIVERY_TABLE


def first_in_partition_sql(vendor: str) -> str:
    """Return the SQL condition that ``d`` is the first delivery of its partition."""
    return runnable_sql(vendor, "p.id < d.id")


def runnable_sql(vendor: str, leased_condition: str) -> str:
    """Return the SQL condition that ``d`` has no unleased delivery before it, and no leased one meets a condition."""
    return (
        f"(d.partition_id IS NULL OR (COALESCE({first_unleased_sql(vendor)}, d.id) >= d.id "
        f"AND {leased_sql(vendor, leased_condition)} IS NULL))"
    )


def first_unleased_sql(vendor: str) -> str:
    """Return a query for the first delivery without a lease in the partition of ``d``.

    It reads one entry of an index, however long the partition is.
    """
    # All rows that match have the same lease, NULL. PostgreSQL uses the index only if the order names it, and MariaDB
    # would sort the whole partition in that case.
    order = "p.lease_expires_at, p.id" if vendor == "postgresql" else "p.id"
    return (
        f"(SELECT p.id FROM {TABLE} p WHERE p.partition_id = d.partition_id AND p.lease_expires_at IS NULL "
        f"ORDER BY {order} LIMIT 1)"
    )


def leased_sql(vendor: str, condition: str) -> str:
    """Return a query for a leased delivery in the partition of ``d`` that meets ``condition``.

    Few are leased, and they are at one end of the index.
    """
    if vendor == "mysql":  # MySQL would also read rows without a lease; the first of these, which sort last, ends it
        return (
            f"(SELECT CASE WHEN p.lease_expires_at IS NOT NULL THEN p.id END FROM {TABLE} p "
            f"WHERE p.partition_id = d.partition_id AND (p.lease_expires_at IS NULL OR {condition}) "
            "ORDER BY p.lease_expires_at DESC, p.id DESC LIMIT 1)"
        )
    # Without the order PostgreSQL would scan the table where its statistics show one long partition.
    order = "ORDER BY p.lease_expires_at, p.id " if vendor == "postgresql" else ""
    return (
        f"(SELECT p.id FROM {TABLE} p WHERE p.partition_id = d.partition_id AND p.lease_expires_at IS NOT NULL "
        f"AND {condition} {order}LIMIT 1)"
    )
