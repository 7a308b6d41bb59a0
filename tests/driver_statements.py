"""Captures the statements that reach the driver of a database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import pytest
from django.db import connection

from signalbox.pipeline import missing_tables
from signalbox.pipeline.backends import postgresql


@contextmanager
def sent() -> Iterator[list[str]]:
    """Every statement that reaches the database's driver.

    PostgreSQL is not asked meanwhile which schemas have the tables, which it is after a time otherwise.
    """
    statements: list[str] = []
    connection.ensure_connection()
    if connection.vendor == "sqlite":
        connection.connection.set_trace_callback(statements.append)
        try:
            yield statements
        finally:
            connection.connection.set_trace_callback(None)
        return
    module: Any = import_module("psycopg" if connection.vendor == "postgresql" else "MySQLdb.cursors")
    owner = module.Cursor if connection.vendor == "postgresql" else module.BaseCursor
    original = owner.execute

    def execute(self: Any, query: Any, *rest: Any, **options: Any) -> Any:
        statements.append(str(query))
        return original(self, query, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(postgresql, "LAYOUT_SECONDS", 600.0)
        missing_tables.clear_table_cache()
        assert missing_tables.has_tables(connection)
        patch.setattr(owner, "execute", execute)
        try:
            yield statements
        finally:
            missing_tables.clear_table_cache()
