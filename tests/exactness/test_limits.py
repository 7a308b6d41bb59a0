"""Documented limits: a transaction that ends without Django is not followed."""

from __future__ import annotations

import pytest
from django.db import connection, transaction

from tests.exactness import register
from tests.exactness.blocks import create_tag

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])


def test_a_commit_of_the_applications_own_cursor_is_not_seen() -> None:
    with transaction.atomic():
        create_tag("a")
        with connection.cursor() as cursor:
            cursor.execute("COMMIT")
            cursor.execute("BEGIN")
        transaction.set_rollback(True)
    assert ["a"] == list(register.read_rows("shop.Tag").values())
    assert {} == register.replay_rows("shop.Tag")


@pytest.mark.mariadb
def test_the_implicit_commit_of_a_changed_schema_is_not_seen() -> None:
    with transaction.atomic():
        create_tag("a")
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE passing (a int)")
            cursor.execute("DROP TABLE passing")
        transaction.set_rollback(True)
    assert ["a"] == list(register.read_rows("shop.Tag").values())
    assert {} == register.replay_rows("shop.Tag")
