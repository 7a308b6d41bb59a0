"""Transactions that the application runs itself, with autocommit off."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from django.db import DatabaseError, connection, transaction

from tests.exactness import register
from tests.exactness.blocks import savepoint, tag, undone

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "other"]),
    pytest.mark.usefixtures("spill", "manual"),
]


@pytest.fixture
def manual() -> Iterator[None]:
    transaction.set_autocommit(False)
    yield
    transaction.rollback()
    transaction.set_autocommit(True)


def test_commit_and_rollback() -> None:
    tag("a")
    tag("b")
    assert [] == register.exact()
    transaction.commit()
    assert ["a", "b"] == register.exact()
    tag("c")
    transaction.rollback()
    tag("d")
    transaction.commit()
    assert ["a", "b", "d"] == register.exact()


def test_turning_autocommit_on_commits_where_the_driver_lets_it() -> None:
    tag("a")
    if connection.vendor == "postgresql":
        with pytest.raises(DatabaseError, match="transaction status INTRANS"):
            transaction.set_autocommit(True)
        assert [] == register.exact()
        transaction.commit()
    else:
        transaction.set_autocommit(True)
    assert ["a"] == register.exact()


def test_closing_the_connection_rolls_back() -> None:
    tag("a")
    connection.close()
    assert [] == register.exact()
    assert connection.get_autocommit()
    tag("b")
    assert ["b"] == register.exact()


def test_an_atomic_block_within_is_committed_with_the_rest() -> None:
    tag("a")
    with transaction.atomic():
        tag("b")
    with undone():
        tag("c")
    assert [] == register.exact()
    transaction.commit()
    assert ["a", "b"] == register.exact()


def test_an_atomic_block_that_comes_first() -> None:
    """On SQLite its savepoint opens the transaction, and releasing it commits."""
    with transaction.atomic():
        tag("a")
        with undone():
            tag("b")
        with transaction.atomic():
            tag("c")
    at_once = connection.vendor == "sqlite"
    assert (["a", "c"] if at_once else []) == register.exact()
    transaction.rollback()
    assert (["a", "c"] if at_once else []) == register.exact()


def test_an_atomic_block_that_comes_first_and_raises() -> None:
    with undone():
        tag("a")
    transaction.commit()
    assert [] == register.exact()


def test_a_savepoint_that_comes_first_is_released() -> None:
    first = savepoint()
    tag("a")
    transaction.savepoint_commit(first)
    tag("b")
    transaction.commit()
    assert ["a", "b"] == register.exact()


def test_savepoints() -> None:
    tag("a")
    first = savepoint()
    tag("b")
    transaction.savepoint_rollback(first)
    tag("c")
    transaction.savepoint_commit(first)
    transaction.commit()
    # On SQLite Django makes none outside of an atomic block: the driver would commit.
    assert (["a", "b", "c"] if connection.vendor == "sqlite" else ["a", "c"]) == register.exact()


def test_updates_and_deletes() -> None:
    kept, lost = tag("kept"), tag("lost")
    transaction.commit()
    kept.name = "kept on"
    kept.save()
    lost.delete()
    assert ["kept", "lost"] == register.exact()
    transaction.commit()
    assert ["kept on"] == register.exact()
    kept.delete()
    transaction.rollback()
    assert ["kept on"] == register.exact()
