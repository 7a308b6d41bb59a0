"""Captures the statements that reach the driver of a database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import pytest
from django.db import connection


@contextmanager
def sent() -> Iterator[list[str]]:
    """Every statement that reaches the database's driver."""
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
        patch.setattr(owner, "execute", execute)
        yield statements
