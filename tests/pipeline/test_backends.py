"""Commits wait for the disk, except for rows that a crash may lose."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, transaction
from django.db.backends.sqlite3.base import DatabaseWrapper

from signalbox.core import clock, tracing
from signalbox.core.event import Outcome, PendingEvent
from signalbox.pipeline import backends, batches, serializer, writer

pytestmark = pytest.mark.django_db(transaction=True)


def a_trace() -> batches.Batch:
    return batches.Batch(traces=[serializer.build_trace_row(tracing.Trace("custom", "stocktaking"))])


def events(*signals: str) -> batches.Batch:
    events = [PendingEvent(clock.now(), tracing.get_current_trace(), None, signal, "", "default") for signal in signals]
    return batches.Batch(events=serializer.build_event_rows(events, Outcome.SENT))


def a_request() -> batches.Batch:
    return events("request_started", "connection_created", "request_finished")._replace(traces=a_trace().traces)


def a_failed_login() -> batches.Batch:
    return events("request_started", "user_login_failed", "request_finished")


@contextmanager
def said_by_postgresql() -> Iterator[list[str]]:
    """Collect the values of ``synchronous_commit`` while rows of Signalbox are inserted."""
    said: list[str] = []
    with connection.cursor() as cursor:
        cursor.execute("SET synchronous_commit TO on")
        cursor.execute("CREATE TABLE noted (setting text)")
        cursor.execute(
            "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "INSERT INTO noted VALUES (current_setting('synchronous_commit')); RETURN NEW; END $$"
        )
        for table in (batches.EVENT_TABLE, batches.TRACE_TABLE):
            cursor.execute(f"CREATE TRIGGER note BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION note()")
    try:
        yield said
        with connection.cursor() as cursor:
            cursor.execute("SELECT setting FROM noted")
            said += [setting for (setting,) in cursor.fetchall()]
            cursor.execute("SHOW synchronous_commit")
            assert ("on",) == cursor.fetchone()
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP FUNCTION note CASCADE")
            cursor.execute("DROP TABLE noted")
            cursor.execute("RESET synchronous_commit")


@pytest.mark.postgres
@pytest.mark.parametrize(("batch", "waits"), [(a_trace, "off"), (a_request, "off"), (a_failed_login, "on")])
def test_postgresql_waits_for_the_disk_except_for_rows_of_a_request(
    batch: Callable[[], batches.Batch], waits: str
) -> None:
    with said_by_postgresql() as said:
        writer.write(connection, batch())
    assert {waits} == set(said)


@pytest.mark.postgres
def test_postgresql_waits_for_the_disk_in_a_transaction_of_the_application() -> None:
    with said_by_postgresql() as said, transaction.atomic():
        writer.write(connection, a_trace())
    assert ["on"] == said


class Told:
    """A database file of SQLite, and the statements that were sent to it."""

    def __init__(self, path: str, mode: str) -> None:
        self.connection: Any = DatabaseWrapper(
            {
                **connection.settings_dict,
                "NAME": path,
                "OPTIONS": {"init_command": f"PRAGMA journal_mode = {mode}; PRAGMA synchronous = FULL"},
            },
            alias="told",
        )
        self.connection.ensure_connection()
        raw: Any = self.connection.connection
        for table, columns in (
            (batches.EVENT_TABLE, batches.EVENT_COLUMNS),
            (batches.TRACE_TABLE, batches.TRACE_COLUMNS),
        ):
            raw.execute(f"CREATE TABLE {table} ({', '.join(name for name, _ in columns)}, CHECK (data <> 'refused'))")
        self.statements: list[str] = []
        raw.set_trace_callback(self.statements.append)

    def synchronous(self) -> int:
        """Return the value of ``PRAGMA synchronous``: 2 waits for the disk at each commit."""
        number: int = self.connection.connection.execute("PRAGMA synchronous").fetchone()[0]
        return number

    def while_inserting(self) -> str:
        """Return the last ``PRAGMA synchronous`` before a row was inserted, or an empty string."""
        insert = next(place for place, sql in enumerate(self.statements) if sql.startswith("INSERT"))
        return next((sql for sql in reversed(self.statements[:insert]) if "synchronous =" in sql), "")


@contextmanager
def told(mode: str) -> Iterator[Told]:
    with tempfile.TemporaryDirectory() as folder:
        made = Told(str(Path(folder, "told.sqlite3")), mode)
        with closing(made.connection):
            yield made


@pytest.mark.parametrize(
    ("mode", "batch", "set_to"),
    [
        ("WAL", a_trace, "PRAGMA synchronous = 1"),
        ("WAL", a_request, "PRAGMA synchronous = 1"),
        ("WAL", a_failed_login, ""),
        ("DELETE", a_trace, ""),  # the file could be damaged
    ],
)
def test_sqlite_in_wal_mode_waits_for_the_disk_except_for_rows_of_a_request(
    mode: str, batch: Callable[[], batches.Batch], set_to: str
) -> None:
    with told(mode) as file:
        backends.get_backend(file.connection).write(batch(), nested=False)
        assert set_to == file.while_inserting()
        assert 2 == file.synchronous()


def test_sqlite_is_not_changed_in_a_transaction_of_the_application() -> None:
    with told("WAL") as file:
        file.connection.set_autocommit(False)
        backends.get_backend(file.connection).write(a_trace(), nested=True)
        assert "" == file.while_inserting()
        file.connection.rollback()


def test_sqlite_waits_for_the_disk_again_after_an_error() -> None:
    with told("WAL") as file:
        refused = batches.Batch(traces=[("refused",) * len(batches.TRACE_COLUMNS)])
        with pytest.raises(file.connection.Database.IntegrityError):
            backends.get_backend(file.connection).write(refused, nested=False)
        assert 2 == file.synchronous()
