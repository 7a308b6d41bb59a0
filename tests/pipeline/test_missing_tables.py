"""Test how a database is checked for the tables. What happens without them is tested with each kind of write."""

from __future__ import annotations

import pytest
from django.db import connection

from signalbox.core import clock
from signalbox.pipeline import missing_tables

pytestmark = [pytest.mark.every_database, pytest.mark.django_db(transaction=True)]


def test_the_tables_are_checked_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = clock.monotonic()
    monkeypatch.setattr(clock, "monotonic", lambda: now)
    names = ("signalbox_event", "signalbox_trace")
    with connection.cursor() as cursor:
        for name in names:
            cursor.execute(f"ALTER TABLE {name} RENAME TO {name}_away")
    try:
        missing_tables.clear_table_cache()
        assert not missing_tables.has_tables(connection)
    finally:
        with connection.cursor() as cursor:
            for name in names:
                cursor.execute(f"ALTER TABLE {name}_away RENAME TO {name}")
    assert not missing_tables.has_tables(connection)
    now += missing_tables.TABLE_CHECK_SECONDS + 0.1
    assert missing_tables.has_tables(connection)
    monkeypatch.undo()
    missing_tables.clear_table_cache()  # what was found at a later time would be known for longer
    assert missing_tables.has_tables(connection)
