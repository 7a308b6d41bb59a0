"""The field that holds what has no column of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import models

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper


class TrustedJSONField(models.JSONField):
    """JSON that Signalbox alone writes, as text that its encoder has made.

    SQLite would parse each once more to check it: an eighth of the instructions that inserting an event takes.
    """

    def db_check(self, connection: BaseDatabaseWrapper) -> str | None:
        """Return the column's constraint: none on SQLite."""
        return None if connection.vendor == "sqlite" else super().db_check(connection)
