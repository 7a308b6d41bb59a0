"""Count the work of the database, which unlike time does not depend on the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from django.db import connection

from signalbox.models import Delivery

if TYPE_CHECKING:
    from collections.abc import Callable

STEP_INTERVAL = 10
"""Number of steps of SQLite's virtual machine between two calls of the progress handler."""


def measure_work(call: Callable[[], object]) -> int:
    """Return the work of the database in a call: steps of SQLite's machine, or the rows and index entries read."""
    if connection.vendor == "sqlite":
        return _count_sqlite_steps(call)
    read = _count_postgresql_reads if connection.vendor == "postgresql" else _count_mariadb_reads
    before = read()
    call()
    return read() - before


def _count_sqlite_steps(call: Callable[[], object]) -> int:
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += STEP_INTERVAL
        return 0

    connection.ensure_connection()
    raw: Any = connection.connection
    raw.set_progress_handler(count, STEP_INTERVAL)
    try:
        call()
    finally:
        raw.set_progress_handler(None, 0)
    return steps


def _count_postgresql_reads() -> int:
    if connection.pg_version < 150_000:  # type: ignore[attr-defined]
        pytest.skip("PostgreSQL tells at once what it has read from version 15 on")
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_force_next_flush()")
        cursor.execute(
            "SELECT seq_tup_read + (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes i WHERE i.relid = t.relid) "
            "FROM pg_stat_user_tables t WHERE relname = %s",
            [Delivery._meta.db_table],
        )
        return int(cursor.fetchone()[0])


def _count_mariadb_reads() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SHOW SESSION STATUS LIKE 'Handler_read%'")
        return sum(int(value) for _, value in cursor.fetchall())
