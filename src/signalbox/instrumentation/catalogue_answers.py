"""Keeps what a database's catalogue answers about a table until the transaction ends in which it was asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from signalbox.pipeline import backends, unit_of_work

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from django.db.backends.base.base import BaseDatabaseWrapper


def get_answer(connection: BaseDatabaseWrapper, key: Hashable, ask: Callable[[], str]) -> str:
    """Return what ``ask()`` returns: the reason why a table must not return columns, an empty string if it may.

    It is called once for each ``key`` in a transaction or savepoint, and each time outside of transactions.
    """
    if not backends.in_transaction(connection):
        return ask()
    savepoints: Sequence[str | None] = connection.savepoint_ids  # a block without one has None
    savepoint = next((sid for sid in reversed(savepoints) if sid is not None), None)
    answers = unit_of_work.get_or_attach(connection).catalogue_answers
    known = answers.get(key)
    if known is None or known[0] != savepoint:
        known = answers[key] = savepoint, ask()
    return known[1]
