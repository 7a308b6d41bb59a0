"""The field of the column ``data``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from django.db import models

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper


class PlainEncoder(json.JSONEncoder):
    """Writes letters beyond ASCII as they are. A filter searches the text of the column."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options | {"ensure_ascii": False})


class TrustedJSONField(models.JSONField):
    """JSON that only Signalbox writes, as text from its encoder.

    SQLite does not check it: to parse it again took an eighth of the instructions of inserting an event.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options | {"encoder": PlainEncoder})

    def deconstruct(self) -> Any:
        """Return the field without its encoder, which is always the same."""
        name, path, args, kwargs = super().deconstruct()
        del kwargs["encoder"]
        return name, path, args, kwargs

    def db_check(self, connection: BaseDatabaseWrapper) -> str | None:
        """Return no constraint. Django has one only on SQLite; PostgreSQL and MariaDB check their type themselves."""
        return None
