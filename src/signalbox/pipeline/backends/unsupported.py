"""A database that Signalbox does not support, or none: without the setting ``DATABASES``, Django has a dummy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import NotSupportedError

from signalbox.pipeline.backends.base import DatabaseBackend, Storage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from signalbox.core.event import Schema
    from signalbox.pipeline.backends.base import Grant, Storage
    from signalbox.pipeline.batches import Batch, TableRow


class UnsupportedBackend(DatabaseBackend):
    """It has no tables of Signalbox, and nothing is sent to it. Events of its transactions are written elsewhere."""

    has_server = False

    def is_transaction_alive(self, error: BaseException) -> bool:
        return False

    def write(
        self, batch: Batch, *, nested: bool, schema: str | None = None, lock_timeout: float | None = None
    ) -> None:
        raise NotSupportedError(
            f"Events can't be written to the database {self.connection.alias!r}. "
            "Expected SQLite, PostgreSQL, MariaDB or MySQL. Route the models of Signalbox to such a database."
        )

    def get_target_schema(self, schema: Schema) -> str | None:
        raise LookupError

    def has_tables_in_a_schema(self) -> bool:
        return False

    def query_error_keys(self, trace_ids: Sequence[str], schema: str | None = None) -> set[TableRow]:
        return set()

    def query_has_tables(self) -> bool:
        return False

    def query_missing_grants(self, grants: Sequence[Grant]) -> list[Grant]:
        return []

    vacuum_refusal = "Its backend is not supported."

    def vacuum(self, tables: Sequence[str]) -> None:
        raise NotSupportedError(self.vacuum_refusal)

    def query_storage(self, tables: Sequence[str]) -> Storage:
        return Storage({})
