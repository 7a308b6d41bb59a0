"""Replaces the methods with which a connection begins, divides and ends its transaction.

These are the methods with which a ``DatabaseWrapper`` calls its driver, replaced on the instance. Other hooks see less:
``commit()`` is not called by ``set_autocommit(True)``, ``Atomic.__exit__`` does not run in a transaction without
``atomic()``, and ``run_on_commit`` ignores savepoints that are not Django's.
"""

from __future__ import annotations

import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from signalbox.core.instance_layer import get_referent
from signalbox.pipeline import backends, exporter
from signalbox.pipeline.backends import sqlite_threads
from signalbox.pipeline.backends.base import without_query_logging

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.db.backends.base.base import BaseDatabaseWrapper

    from signalbox.pipeline.unit_of_work import UnitOfWork

BEGIN_METHOD: Final = "_start_transaction_under_autocommit"
"""The method with which a connection to SQLite begins a transaction. Others have no such method."""

METHODS: Final = (
    "_commit",
    "_rollback",
    "_close",
    "_savepoint",
    "_savepoint_rollback",
    "_savepoint_commit",
    "_set_autocommit",
)
"""Names of the replaced methods. The replacements are the methods of ``ConnectionMethods`` with the same names."""


def replace(connection: BaseDatabaseWrapper, unit_of_work: UnitOfWork) -> None:
    """Replace the methods of ``connection``, so that ``unit_of_work`` follows its transaction."""
    methods = ConnectionMethods(connection, unit_of_work)
    for name in METHODS:
        unit_of_work.layer.replace(name, getattr(methods, name))
    if hasattr(connection, BEGIN_METHOD):
        do_begin = unit_of_work.layer.get_weak_original(BEGIN_METHOD)
        get_connection = partial(get_referent, weakref.ref(connection))

        def start_transaction_under_autocommit(*args: Any, **kwargs: Any) -> None:
            sqlite_threads.begin(get_connection(), partial(do_begin, *args, **kwargs))

        unit_of_work.layer.replace(BEGIN_METHOD, start_transaction_under_autocommit)


class ConnectionMethods:
    """The replacements for one connection.

    They belong to the connection. Strong references to it, or to its unit of work, would make reference cycles.
    """

    __slots__ = ("_get_connection", "_get_unit_of_work", "_originals")

    def __init__(self, connection: BaseDatabaseWrapper, unit_of_work: UnitOfWork) -> None:
        self._get_connection = partial(get_referent, weakref.ref(connection))
        self._get_unit_of_work = partial(get_referent, weakref.ref(unit_of_work))
        self._originals: dict[str, Callable[..., Any]] = {
            name: unit_of_work.layer.get_weak_original(name) for name in METHODS
        }

    def _commit(self) -> None:
        unit_of_work = self._get_unit_of_work()
        do_commit: Callable[[], None] = self._originals["_commit"]
        if unit_of_work.is_implicit:
            do_commit = partial(self._finish_implicit, unit_of_work, do_commit)
        if unit_of_work.is_empty():
            do_commit()
        else:
            unit_of_work.commit(do_commit)

    def _finish_implicit(self, unit_of_work: UnitOfWork, finish: Callable[[], None]) -> None:
        # Only the COMMIT itself is hidden: hooks of on_commit() run before the block around it has ended.
        with without_query_logging(self._get_connection()):
            finish()
        unit_of_work.is_implicit = False

    def _rollback(self) -> None:
        unit_of_work = self._get_unit_of_work()
        try:
            if unit_of_work.is_implicit:
                self._finish_implicit(unit_of_work, self._originals["_rollback"])
            else:
                self._originals["_rollback"]()
        finally:
            unit_of_work.after_rollback()

    def _close(self) -> None:
        unit_of_work = self._get_unit_of_work()
        try:
            self._originals["_close"]()
        finally:
            with exporter.suspended():
                unit_of_work.after_rollback()

    def _savepoint(self, sid: str) -> None:
        unit_of_work = self._get_unit_of_work()
        # SQLite with autocommit off: a SAVEPOINT may itself open the transaction, and its RELEASE then commits it.
        opens = backends.get_backend(self._get_connection()).opens_transaction_with_savepoint()
        self._originals["_savepoint"](sid)
        if opens:
            unit_of_work.outermost_savepoint = sid
        unit_of_work.add_savepoint(sid)

    def _savepoint_rollback(self, sid: str) -> None:
        unit_of_work = self._get_unit_of_work()
        self._originals["_savepoint_rollback"](sid)
        unit_of_work.rollback_to(sid)

    def _savepoint_commit(self, sid: str) -> None:
        unit_of_work = self._get_unit_of_work()
        is_outermost = sid == unit_of_work.outermost_savepoint
        if is_outermost:
            unit_of_work.flush()
            if unit_of_work.commit_error is not None:
                raise unit_of_work.build_commit_error()  # Django rolls back to the savepoint
        self._originals["_savepoint_commit"](sid)
        unit_of_work.release(sid)
        if is_outermost:
            unit_of_work.after_commit()

    def _set_autocommit(self, autocommit: bool) -> None:
        unit_of_work, connection = self._get_unit_of_work(), self._get_connection()
        set_autocommit = self._originals["_set_autocommit"]
        if autocommit and not connection.autocommit and not unit_of_work.is_empty():
            unit_of_work.commit(partial(set_autocommit, autocommit))
        else:
            set_autocommit(autocommit)
        if autocommit and exporter.has_pending():
            connection.autocommit = True  # already true, and Django sets it after this method
            exporter.flush()
