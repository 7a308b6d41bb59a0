"""Manual transactions of the application, with autocommit off."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from django.db import DatabaseError, connection, transaction

from tests.exactness import register
from tests.exactness.blocks import create_tag, rolled_back_atomic, savepoint

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "other"]),
    pytest.mark.usefixtures("flush_threshold", "manual"),
]


@pytest.fixture
def manual() -> Iterator[None]:
    transaction.set_autocommit(False)
    yield
    transaction.rollback()
    transaction.set_autocommit(True)


def test_commit_and_rollback() -> None:
    create_tag("a")
    create_tag("b")
    assert [] == register.assert_rows_match()
    transaction.commit()
    assert ["a", "b"] == register.assert_rows_match()
    create_tag("c")
    transaction.rollback()
    create_tag("d")
    transaction.commit()
    assert ["a", "b", "d"] == register.assert_rows_match()


def test_turning_autocommit_on_commits_if_the_driver_allows_it() -> None:
    create_tag("a")
    if connection.vendor == "postgresql":
        with pytest.raises(DatabaseError, match="transaction status INTRANS"):
            transaction.set_autocommit(True)
        assert [] == register.assert_rows_match()
        transaction.commit()
    else:
        transaction.set_autocommit(True)
    assert ["a"] == register.assert_rows_match()


def test_closing_the_connection_rolls_back() -> None:
    create_tag("a")
    connection.close()
    assert [] == register.assert_rows_match()
    assert connection.get_autocommit()
    create_tag("b")
    assert ["b"] == register.assert_rows_match()


def test_an_atomic_block_within_is_committed_with_the_rest() -> None:
    create_tag("a")
    with transaction.atomic():
        create_tag("b")
    with rolled_back_atomic():
        create_tag("c")
    assert [] == register.assert_rows_match()
    transaction.commit()
    assert ["a", "b"] == register.assert_rows_match()


def test_an_atomic_block_that_comes_first() -> None:
    """On SQLite its savepoint opens the transaction, and releasing it commits."""
    with transaction.atomic():
        create_tag("a")
        with rolled_back_atomic():
            create_tag("b")
        with transaction.atomic():
            create_tag("c")
    at_once = connection.vendor == "sqlite"
    assert (["a", "c"] if at_once else []) == register.assert_rows_match()
    transaction.rollback()
    assert (["a", "c"] if at_once else []) == register.assert_rows_match()


def test_an_atomic_block_that_comes_first_and_raises() -> None:
    with rolled_back_atomic():
        create_tag("a")
    transaction.commit()
    assert [] == register.assert_rows_match()


def test_a_savepoint_that_comes_first_is_released() -> None:
    first = savepoint()
    create_tag("a")
    transaction.savepoint_commit(first)
    create_tag("b")
    transaction.commit()
    assert ["a", "b"] == register.assert_rows_match()


def test_savepoints() -> None:
    create_tag("a")
    first = savepoint()
    create_tag("b")
    transaction.savepoint_rollback(first)
    create_tag("c")
    transaction.savepoint_commit(first)
    transaction.commit()
    # On SQLite Django creates none outside of an atomic block, because the driver would commit.
    assert (["a", "b", "c"] if connection.vendor == "sqlite" else ["a", "c"]) == register.assert_rows_match()


def test_updates_and_deletes() -> None:
    kept, lost = create_tag("kept"), create_tag("lost")
    transaction.commit()
    kept.name = "kept on"
    kept.save()
    lost.delete()
    assert ["kept", "lost"] == register.assert_rows_match()
    transaction.commit()
    assert ["kept on"] == register.assert_rows_match()
    kept.delete()
    transaction.rollback()
    assert ["kept on"] == register.assert_rows_match()
