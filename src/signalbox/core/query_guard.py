"""Connections that refuse queries while the application's code is asked for a word: a model's name, what is to be kept.

That code runs in the middle of somebody's work: a query of its own would be counted there, and one that fails takes
PostgreSQL's open transaction along.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from django.db import DEFAULT_DB_ALIAS, connections, router

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django.db.backends.base.base import BaseDatabaseWrapper

_CURSOR_METHODS: Final[tuple[str, ...]] = ("cursor", "chunked_cursor")
_SAVED_ATTRIBUTES: Final[tuple[str, ...]] = (*_CURSOR_METHODS, "needs_rollback", "rollback_exc")
_BLOCKED_METHODS: Final[tuple[str, ...]] = (
    *_CURSOR_METHODS,
    "savepoint",
    "set_autocommit",
    "commit",
    "rollback",
    "close",
)
_TRANSACTION_STATE: Final[tuple[str, ...]] = ("in_atomic_block", "commit_on_exit", "needs_rollback", "rollback_exc")


class QueryForbidden(Exception):
    """The database may not be asked here."""

    def __str__(self) -> str:
        return super().__str__() or (type(self).__doc__ or "")


def _forbid_query(*_: object, **__: object) -> Any:
    raise QueryForbidden


def block_queries(connection: BaseDatabaseWrapper | None) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Block queries on open connections, before they are counted or logged. Return the state for ``unblock_queries``.

    The state includes what Django sets after a failed query, such as ``needs_rollback``.
    """
    # Without routers, objects are read from their own or the default database. Looking for other connections is slow.
    alone = connection is not None and connection.alias == DEFAULT_DB_ALIAS and not router.routers
    undo: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for one in [connection] if alone else connections.all(initialized_only=True):
        own: dict[str, Any] = one.__dict__
        undo.append((own, {name: own[name] for name in _SAVED_ATTRIBUTES if name in own}))
        own["cursor"] = own["chunked_cursor"] = _forbid_query
    return undo


def unblock_queries(saved: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    """Undo ``block_queries``."""
    for own, found in saved:
        del own["cursor"], own["chunked_cursor"]
        own.update(found)


@contextmanager
def isolated() -> Iterator[None]:
    """Let this thread's connections refuse queries, and leave their transactions as they were, whatever the block
    tries: what it catches itself, a save of its own, would else have them rolled back."""
    found = []
    for connection in connections.all(initialized_only=True):
        own: dict[str, Any] = connection.__dict__
        kept = {name: own[name] for name in (*_BLOCKED_METHODS, *_TRANSACTION_STATE) if name in own}
        found.append((own, kept, list(connection.savepoint_ids), list(connection.atomic_blocks)))
        own.update(dict.fromkeys(_BLOCKED_METHODS, _forbid_query))
    try:
        yield
    finally:
        for own, kept, savepoints, blocks in found:
            for name in (*_BLOCKED_METHODS, *_TRANSACTION_STATE):
                own.pop(name, None)
            own.update(kept)
            own["savepoint_ids"][:], own["atomic_blocks"][:] = savepoints, blocks
