"""Locked tables and conflicting transactions delay events, and do not fail a save."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import DatabaseError, OperationalError, connections, transaction
from django.dispatch import Signal

import signalbox
from signalbox import conf
from signalbox.models import Event, Trace
from signalbox.pipeline import dropped_events, exporter, unit_of_work, writer
from signalbox.pipeline.backends import get_backend
from signalbox.queries.event_summary import summarize_event
from tests.connecting import get_connection
from tests.shop.models import Tag

pytestmark = pytest.mark.django_db(transaction=True)

noted = Signal()


@pytest.fixture(autouse=True)
def ready() -> Iterator[None]:
    signalbox.register_signal(noted, "tests.noted")
    get_connection().ensure_connection()
    Tag.objects.create(name="first")  # the tables are known from now on
    yield
    exporter.discard_pending()


@contextmanager
def locked(table: str = "signalbox_event") -> Iterator[None]:
    """Hold the lock of CREATE INDEX, or of LOCK TABLES, in another session."""
    other: Any = get_connection().copy("locker")
    is_postgresql = other.vendor == "postgresql"
    try:
        with other.cursor() as cursor:
            if is_postgresql:
                other.set_autocommit(False)
            cursor.execute(f"LOCK TABLE {table} IN SHARE MODE" if is_postgresql else f"LOCK TABLES {table} READ")
            yield
            cursor.execute("ROLLBACK" if is_postgresql else "UNLOCK TABLES")
    finally:
        other.close()


def late_events() -> list[tuple[str, bool]]:
    found = Event.objects.filter(signal="post_save", sender="shop.Tag").exclude(object_label="first").order_by("id")
    return [(event.object_label, event.data.get("late", False)) for event in found]


def get_lock_settings() -> list[Any]:
    with get_connection().cursor() as cursor:
        if get_connection().vendor == "postgresql":
            cursor.execute("SHOW lock_timeout")
        else:
            cursor.execute("SELECT @@lock_wait_timeout, @@innodb_lock_wait_timeout")
        return list(cursor.fetchone())


def set_lock_setting(seconds: int) -> None:
    with get_connection().cursor() as cursor:
        if get_connection().vendor == "postgresql":
            cursor.execute(f"SET LOCAL lock_timeout = '{seconds}s'")
        else:
            cursor.execute(f"SET SESSION lock_wait_timeout = {seconds}, SESSION innodb_lock_wait_timeout = {seconds}")


needs_server = pytest.mark.skipif(connections["default"].vendor == "sqlite", reason="SQLite has no locks on tables")


@pytest.mark.every_database
@needs_server
def test_a_locked_event_table_delays_a_transaction_once_and_its_events_are_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timeouts: list[float] = []
    write = writer.write

    def write_and_note(*args: Any, lock_timeout: float, **named: Any) -> None:
        timeouts.append(lock_timeout)
        write(*args, lock_timeout=lock_timeout, **named)

    monkeypatch.setattr(writer, "write", write_and_note)
    with locked():
        start = time.monotonic()
        with transaction.atomic():
            for name in "abc":
                Tag.objects.create(name=name)
                Event.objects.count()  # writes what the transaction has recorded
        assert time.monotonic() - start < 15
        assert exporter.has_pending()
    assert [conf.get().LOCK_TIMEOUT] == [seconds for seconds in timeouts if seconds]
    assert {"first", "a", "b", "c"} == set(Tag.objects.values_list("name", flat=True))
    exporter.flush()
    assert [("a", True), ("b", True), ("c", True)] == late_events()
    Tag.objects.create(name="d")
    assert ("d", False) == late_events()[-1]


@contextmanager
def refusing_writes() -> Iterator[None]:
    """Refuse further writes in the session or the open transaction, at least to the tables of events."""
    before, after = {
        "postgresql": ("SET TRANSACTION READ ONLY", None),
        "sqlite": ("PRAGMA query_only = 1", "PRAGMA query_only = 0"),
    }.get(get_connection().vendor, ("LOCK TABLES shop_tag WRITE", "UNLOCK TABLES"))
    with get_connection().cursor() as cursor:
        cursor.execute(before)
        yield
        if after:
            cursor.execute(after)


@pytest.mark.every_database
def test_events_of_a_transaction_that_refuses_further_writes_are_late() -> None:
    with transaction.atomic():
        Tag.objects.create(name="a")
        with refusing_writes():
            unit_of_work.flush_all()
    exporter.flush()
    assert [("a", True)] == late_events()
    assert {"first", "a"} == set(Tag.objects.values_list("name", flat=True))


@pytest.mark.mariadb
def test_pending_events_do_not_release_the_application_s_locks() -> None:
    other: Any = get_connection().copy("reader")
    try:
        with other.cursor() as cursor:
            cursor.execute("SET SESSION lock_wait_timeout = 1")
            with refusing_writes():
                noted.send(sender=None)
                Tag.objects.create(name="a")
                exporter.flush()
                with pytest.raises(OperationalError):
                    cursor.execute("SELECT count(*) FROM shop_tag")
    finally:
        other.close()
    exporter.flush()
    assert [("a", True)] == late_events()


@pytest.mark.every_database
@needs_server
def test_late_events_follow_savepoints_and_rollbacks() -> None:
    with locked(), transaction.atomic():
        Tag.objects.create(name="a")
        with pytest.raises(KeyError), transaction.atomic():
            Tag.objects.create(name="b")
            raise KeyError
    with locked(), pytest.raises(KeyError), transaction.atomic():
        Tag.objects.create(name="c")
        raise KeyError
    exporter.flush()
    found = Event.objects.filter(signal="post_save", sender="shop.Tag").exclude(object_label="first")
    assert {("a", "committed"), ("b", "rolled_back"), ("c", "rolled_back")} == set(
        found.values_list("object_label", "outcome")
    )
    assert 3 == found.count()


@pytest.mark.every_database
@needs_server
def test_the_application_s_own_lock_timeout_is_restored() -> None:
    with transaction.atomic():
        set_lock_setting(7)
        own = get_lock_settings()
        Tag.objects.create(name="a")
        Event.objects.count()  # writes what the transaction has recorded
        assert own == get_lock_settings()
    with locked(), transaction.atomic():
        set_lock_setting(7)
        Tag.objects.create(name="b")
        Event.objects.count()
        assert own == get_lock_settings()
    get_connection().close()  # MariaDB's setting is that of the session


@pytest.mark.every_database
@needs_server
@pytest.mark.parametrize("table", ["signalbox_event", "signalbox_trace"])
def test_the_rows_of_a_request_do_not_wait(table: str, settings: Any) -> None:
    settings.SIGNALBOX = {"LOCK_TIMEOUT": 30}
    with locked(table):
        start = time.monotonic()
        with signalbox.trace("request", kind="request") as trace:
            noted.send(None)
        assert time.monotonic() - start < 15
        assert exporter.has_pending()
    exporter.flush()
    assert not exporter.has_pending()
    assert 1 == Event.objects.filter(trace_id=trace.id).count() == Trace.objects.filter(trace_id=trace.id).count()


@pytest.mark.every_database
@needs_server
def test_errors_about_rows_are_raised_if_the_setting_requires_it(settings: Any) -> None:
    settings.SIGNALBOX = {"ON_ERROR": "raise"}
    with locked(), pytest.raises(DatabaseError), transaction.atomic():
        Tag.objects.create(name="a")
    assert not Tag.objects.filter(name="a").exists()
    exporter.discard_pending()


@pytest.mark.postgres
def test_the_exporter_retries_after_a_conflict_with_another_transaction() -> None:
    """A trigger raises a serialization failure until a sequence has reached a value."""
    with get_connection().cursor() as cursor:
        cursor.execute("CREATE SEQUENCE conflicts")
        cursor.execute(
            "CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "IF nextval('conflicts') <= TG_ARGV[0]::int THEN "
            "RAISE EXCEPTION 'lost' USING ERRCODE = '40001'; END IF; RETURN NEW; END $$"
        )
        dropped = dropped_events.write_stats.dropped
        try:
            for losses, is_written in ((exporter.MAX_CONFLICTS, True), (exporter.MAX_CONFLICTS + 1, False)):
                cursor.execute("ALTER SEQUENCE conflicts RESTART")
                cursor.execute(
                    "CREATE TRIGGER lose BEFORE INSERT ON signalbox_event FOR EACH STATEMENT "
                    f"EXECUTE FUNCTION lose({losses})"
                )
                noted.send(None)
                assert is_written is not exporter.has_pending()
                cursor.execute("DROP TRIGGER lose ON signalbox_event")
        finally:
            cursor.execute("DROP FUNCTION lose CASCADE")
            cursor.execute("DROP SEQUENCE conflicts")
    exporter.flush()
    assert 2 == Event.objects.filter(signal="tests.noted").count()
    assert dropped == dropped_events.write_stats.dropped


@pytest.mark.postgres
def test_a_conflict_of_an_event_reaches_the_application_with_its_sqlstate() -> None:
    with get_connection().cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "RAISE EXCEPTION 'lost' USING ERRCODE = '40001'; END $$"
        )
        cursor.execute("CREATE TRIGGER lose BEFORE INSERT ON signalbox_event EXECUTE FUNCTION lose()")
        try:
            with pytest.raises(OperationalError) as caught, transaction.atomic():
                Tag.objects.create(name="a")
        finally:
            cursor.execute("DROP FUNCTION lose CASCADE")
    assert get_backend(get_connection()).is_conflict(caught.value)
    assert not Tag.objects.filter(name="a").exists()


@pytest.mark.postgres
def test_the_exporter_waits_while_a_pipeline_is_open(settings: Any) -> None:
    settings.SIGNALBOX = {"AUTOCOMMIT": "after"}
    connection = get_connection()
    if not hasattr(connection.connection, "pipeline"):
        pytest.skip("only psycopg has a pipeline mode")
    with connection.connection.pipeline():
        for name in "ab":
            Tag.objects.create(name=name)
        assert exporter.has_pending()
    exporter.flush()
    assert [("a", False), ("b", False)] == late_events()


@pytest.mark.postgres
def test_an_update_within_a_pipeline_has_no_count(settings: Any) -> None:
    settings.SIGNALBOX = {"AUTOCOMMIT": "after"}
    connection = get_connection()
    if not hasattr(connection.connection, "pipeline"):
        pytest.skip("only psycopg has a pipeline mode")
    Tag.objects.create(name="a")
    with connection.connection.pipeline():
        Tag.objects.filter(name="a").update(name="b")
    exporter.flush()
    event = Event.objects.get(signal="update")
    assert (None, {"name": "b"}) == (event.data["args"]["count"], event.data["args"]["values"])
    assert "Tag · rows · name = b" == str(summarize_event(event))


@pytest.mark.postgres
def test_a_transaction_within_a_pipeline_contains_its_events() -> None:
    connection = get_connection()
    if not hasattr(connection.connection, "pipeline"):
        pytest.skip("only psycopg has a pipeline mode")
    with connection.connection.pipeline():
        with transaction.atomic():
            Tag.objects.create(name="a")
        with pytest.raises(KeyError), transaction.atomic():
            Tag.objects.create(name="b")
            raise KeyError
    found = Event.objects.filter(signal="post_save", sender="shop.Tag").order_by("id")
    assert {("first", "committed"), ("a", "committed"), ("b", "rolled_back")} == set(
        found.values_list("object_label", "outcome")
    )
