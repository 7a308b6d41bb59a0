"""Requests for columns of the rows that a bulk statement changes, for the statements of a block."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from contextlib import AbstractContextManager

    from django.db.models import Field, Model

    StatementKind = Literal["insert", "update", "delete"]

# Reasons for unknown keys, in the argument "keys_unknown" of an event.
COUNT_ONLY: Final = 'BULK = "count"'
RULES: Final = "rules"
ROW_SECURITY: Final = "row security"
COLUMN_PRIVILEGES: Final = "column privileges"
NO_TABLE: Final = "not a table"
NO_TRANSACTION: Final = "no transaction"
NOT_SUPPORTED: Final = "not supported"
NOT_READABLE: Final = "not readable"
CONCURRENT_CHANGE: Final = "concurrent change"


class ReturningRequest:
    """Columns of a model's rows that the next statements of one kind are to return."""

    __slots__ = (
        "before_update",
        "count_only",
        "fields",
        "include_plain_inserts",
        "is_counted",
        "kind",
        "max_rows",
        "model",
        "row_count",
        "rows",
        "unknown_reason",
    )

    def __init__(
        self,
        kind: StatementKind,
        model: type[Model],
        fields: Sequence[Field[Any, Any]],
        *,
        include_plain_inserts: bool,
        before_update: bool,
        count_only: bool,
        max_rows: int | None,
    ) -> None:
        self.kind = kind
        self.before_update = before_update
        """True if the values before an update are requested, as the update changes them."""
        self.count_only = count_only
        """True if only the number of rows is requested, also of statements whose number Django does not use."""
        self.include_plain_inserts = include_plain_inserts
        """True if inserts that ignore no conflicts are included. They insert all of their rows."""
        self.model = model
        self.fields = fields
        self.max_rows = max_rows
        """Maximum number of rows to keep; None keeps all."""
        self.row_count = 0
        """Number of rows that the statements changed, as counted by the database."""
        self.is_counted = True
        """False if the database has not counted the rows of a statement."""
        self.rows: list[Sequence[Any]] | None = None
        """The rows. None if they are unknown, or before the first statement."""
        self.unknown_reason = ""
        """The reason for unknown rows, or an empty string."""

    def count_rows(self, row_count: Any) -> None:
        """Add the number of rows that a statement changed, as the database driver returned it."""
        if isinstance(row_count, int) and row_count >= 0:
            self.row_count += row_count
        else:
            self.is_counted = False

    def add_rows(self, rows: Iterable[Sequence[Any]]) -> None:
        """Keep ``rows``, up to ``max_rows`` in total."""
        if self.unknown_reason:
            return
        if self.rows is None:
            self.rows = []
        self.rows.extend(rows)
        if self.max_rows is not None:
            del self.rows[self.max_rows :]

    def needs_rows(self) -> bool:
        """Return True if another row would be kept."""
        if self.unknown_reason:
            return False
        return self.max_rows is None or self.rows is None or len(self.rows) < self.max_rows

    def mark_unknown(self, reason: str) -> None:
        """Drop all rows, as those of one statement are unknown for ``reason``."""
        self.rows = None
        self.unknown_reason = self.unknown_reason or reason


current_request: ContextVar[ReturningRequest | None] = ContextVar("signalbox_returning_request", default=None)
"""The request of the innermost block, if there is one."""


class _ReturningContext:
    """A block with a request. A class, as ``@contextmanager`` is three times slower here."""

    __slots__ = ("_token", "requested")

    def __init__(self, requested: ReturningRequest | None) -> None:
        self.requested = requested

    def __enter__(self) -> Any:
        self._token = current_request.set(self.requested)
        return self.requested

    def __exit__(self, *_: object) -> None:
        current_request.reset(self._token)


def request_returning(
    kind: StatementKind,
    model: type[Model],
    fields: Sequence[Field[Any, Any]],
    *,
    include_plain_inserts: bool = False,
    before_update: bool = False,
    count_only: bool = False,
    max_rows: int | None = None,
) -> AbstractContextManager[ReturningRequest]:
    """Return a block whose statements of ``kind`` on ``model`` return ``fields``, which are columns of its own table.

    Args:
        kind: The kind of the statements.
        model: The concrete model.
        fields: The fields.
        include_plain_inserts: Include inserts that ignore no conflicts.
        before_update: Request the values before an update.
        count_only: Request only the number of rows.
        max_rows: Maximum number of rows to keep; None keeps all.
    """
    return _ReturningContext(
        ReturningRequest(
            kind,
            model,
            fields,
            include_plain_inserts=include_plain_inserts,
            before_update=before_update,
            count_only=count_only,
            max_rows=max_rows,
        )
    )


def suspend_returning() -> AbstractContextManager[None]:
    """Return a block whose statements do not belong to the request of an outer block."""
    return _ReturningContext(None)
