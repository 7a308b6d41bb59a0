"""The transactions that recording opens around an application's statement, so that it and its event commit together.

In autocommit the application sends no BEGIN and no COMMIT of its own: neither is in its query log.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from django.db import connections
from django.db.transaction import Atomic

from signalbox import buffer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from django.db.backends.base.base import BaseDatabaseWrapper


class Unseen(Atomic):
    """An atomic block whose BEGIN, COMMIT and ROLLBACK are no statements of the application.

    Only where autocommit is on and no block is open, on a connection that has been opened.
    """

    def __init__(self, using: str) -> None:
        super().__init__(using, False, False)
        self._connection: Any = connections[using]

    def __enter__(self) -> None:
        connection = self._connection
        if connection.queries_logged or connection.execute_wrappers:
            connection.ensure_connection()  # what its opening runs is the application's
            with buffer.unlogged(connection):
                super().__enter__()
        else:
            super().__enter__()
        buffer.open_for(connection).unseen = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            super().__exit__(kind, error, traceback)
        finally:
            found = buffer.of(self._connection)
            if found is not None:  # recording may have been switched off meanwhile
                found.unseen = False


@contextmanager
def in_transaction(using: str, *, seen: bool = False) -> Iterator[BaseDatabaseWrapper]:
    """Make sure that an operation and its event commit together. ``seen`` says that Django itself begins and commits
    a transaction for the operation where none is open."""
    connection = connections[using]
    if connection.in_atomic_block or not connection.get_autocommit():
        yield connection
        return
    with Atomic(using, False, False) if seen else Unseen(using):
        yield connection
