"""An event is written in the PostgreSQL schema in which it was recorded."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import DatabaseError, connections, transaction
from django.db.models.signals import post_save
from django.dispatch import Signal

import signalbox
from signalbox.pipeline import batches, dropped_events, exporter, missing_tables, unit_of_work, writer
from signalbox.pipeline.backends import get_backend, postgresql
from tests.connecting import get_connection
from tests.settings import RUN_ID
from tests.shop.models import Tag

pytestmark = [pytest.mark.postgres, pytest.mark.django_db(transaction=True)]

TABLES = (*batches.TABLE_COLUMNS, Tag._meta.db_table)

noted = Signal()


def sql(statement: str) -> list[Any]:
    with get_connection().cursor() as cursor:
        cursor.execute(statement)
        return list(cursor.fetchall()) if cursor.description else []


@pytest.fixture(autouse=True)
def tenants() -> Iterator[None]:
    """Two schemas with the tables besides ``public``, and one without."""
    signalbox.register_signal(noted, "tests.noted")
    for schema in ("a", "b"):
        sql(f"CREATE SCHEMA {schema}")
        for table in TABLES:
            sql(f"CREATE TABLE {schema}.{table} (LIKE public.{table} INCLUDING ALL)")
    sql("CREATE SCHEMA empty")
    missing_tables.clear_table_cache()
    yield
    exporter.discard_pending()
    if get_connection().in_atomic_block:  # a test failed
        get_connection().close()
    sql("RESET search_path")
    for schema in ("a", "b", "empty", "later"):
        sql(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
    missing_tables.clear_table_cache()


def in_schema(schema: str) -> list[tuple[str, str]]:
    """The labels and outcomes of a schema's events."""
    exporter.flush()
    found = sql(
        f"SELECT object_label, outcome FROM {schema}.signalbox_event "
        "WHERE signal IN ('post_save', 'tests.noted') ORDER BY id"
    )
    return [(label, outcome) for label, outcome in found]


def traces_in(schema: str) -> list[str]:
    return [name for (name,) in sql(f"SELECT name FROM {schema}.signalbox_trace WHERE kind = 'custom' ORDER BY id")]


def test_a_save_in_autocommit_is_recorded_in_the_session_s_schema() -> None:
    for schema in ("a", "b", "public"):
        sql(f"SET search_path = {schema}")
        Tag.objects.create(name=f"of {schema}")
    for schema in ("a", "b", "public"):
        assert [(f"of {schema}", "committed")] == in_schema(schema)


def test_a_transaction_with_several_schemas_writes_each_event_into_its_own() -> None:
    with transaction.atomic():
        for schema in ("a", "b", "a"):
            sql(f"SET LOCAL search_path = {schema}, public")
            Tag.objects.create(name=f"of {schema}")
    assert [("of a", "committed")] * 2 == in_schema("a")
    assert [("of b", "committed")] == in_schema("b")
    assert [] == in_schema("public")


@pytest.mark.parametrize("local", ["", "LOCAL"])
def test_events_that_are_rolled_back_stay_in_their_schema(local: str) -> None:
    sql("SET search_path = b")
    with signalbox.trace("work"):
        with pytest.raises(KeyError), transaction.atomic():
            sql(f"SET {local} search_path = a")
            Tag.objects.create(name="of a")
            raise KeyError
        Tag.objects.create(name="of b")
    assert [("of a", "rolled_back")] == in_schema("a")
    assert [("of b", "committed")] == in_schema("b")
    assert [["work"], ["work"], []] == [traces_in(schema) for schema in ("a", "b", "public")]


def test_events_that_fail_in_an_aborted_transaction_stay_in_its_schema() -> None:
    with signalbox.trace("work"):
        with pytest.raises(DatabaseError), transaction.atomic():
            sql("SET LOCAL search_path = a")
            Tag.objects.create(name="of a")
            try:
                sql("SELECT 1 / 0")
            finally:
                noted.send("after the error")
        sql("SET search_path = b")
    assert [] == in_schema("b")
    assert [("of a", "rolled_back")] == [row for row in in_schema("a") if row[0]]


def test_an_event_without_a_transaction_keeps_its_schema_until_its_trace_finishes() -> None:
    with signalbox.trace("work"):
        sql("SET search_path = a")
        noted.send("one")
        sql("SET search_path = b")
    assert 1 == len(in_schema("a"))
    assert [] == in_schema("b")
    assert [["work"], [], []] == [traces_in(schema) for schema in ("a", "b", "public")]


def test_an_event_stays_pending_until_its_schema_has_the_tables() -> None:
    sql("CREATE SCHEMA later")
    sql(f"CREATE TABLE later.{Tag._meta.db_table} (LIKE public.{Tag._meta.db_table} INCLUDING ALL)")
    sql("SET search_path = later")
    Tag.objects.create(name="early")
    assert exporter.has_pending()
    for schema in ("a", "b", "public"):
        assert [] == in_schema(schema)
    for table in batches.TABLE_COLUMNS:
        sql(f"CREATE TABLE later.{table} (LIKE public.{table} INCLUDING ALL)")
    sql("SET search_path = b")
    missing_tables.clear_table_cache()  # as post_migrate does
    assert [("early", "committed")] == in_schema("later")
    assert [] == in_schema("b")


def test_the_completion_of_an_event_follows_its_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_of_work, "FLUSH_THRESHOLD", 1)  # the event is written before its receivers have run

    def set_path(**arguments: Any) -> None:
        sql("SET search_path = b")

    post_save.connect(set_path, sender=Tag)
    try:
        sql("SET search_path = a")
        with transaction.atomic():
            Tag.objects.create(name="of a")
    finally:
        post_save.disconnect(set_path, sender=Tag)
    assert [("of a", "committed")] == in_schema("a")
    assert [] == in_schema("b")
    (data,) = [data for (data,) in sql("SELECT data FROM a.signalbox_event WHERE signal = 'post_save'")]
    assert "set_path" in str(data)


def test_a_new_session_s_schema_is_that_of_events_sent_without_a_connection() -> None:
    get_connection().close()
    with signalbox.trace("work"):
        noted.send("one")
    sql("SET search_path = a")
    assert [] == in_schema("a")
    assert 1 == len(in_schema("public"))


def test_a_single_schema_is_used_whatever_the_search_path_is(django_assert_num_queries: Any) -> None:
    for schema in ("a", "b"):
        sql(f"DROP TABLE {', '.join(f'{schema}.{table}' for table in batches.TABLE_COLUMNS)}")
    missing_tables.clear_table_cache()
    sql("SET search_path = a")
    assert None is writer.resolve_schema(get_connection())
    with django_assert_num_queries(1):
        Tag.objects.create(name="of a")
    assert [("of a", "committed")] == in_schema("public")


def test_a_second_schema_is_noticed_although_recording_did_not_create_it() -> None:
    for schema in ("a", "b"):
        sql(f"DROP SCHEMA {schema} CASCADE")
    missing_tables.clear_table_cache()
    Tag.objects.create(name="of public")
    sql("CREATE SCHEMA later")
    for table in TABLES:
        sql(f"CREATE TABLE later.{table} (LIKE public.{table} INCLUDING ALL)")
    time.sleep(postgresql.LAYOUT_SECONDS)
    sql("SET search_path = later, public")
    Tag.objects.create(name="of later")
    assert [("of later", "committed")] == in_schema("later")
    assert [("of public", "committed")] == in_schema("public")


def test_statements_of_resolving_are_not_in_the_query_log(django_assert_num_queries: Any) -> None:
    sql("SET search_path = a")
    with django_assert_num_queries(1):
        Tag.objects.create(name="of a")


def test_the_schema_of_a_tenant_that_is_switched_lazily() -> None:
    """A connection like that of django-tenants sets the search path with the next cursor."""
    connection: Any = connections["default"]
    make_cursor = connection._cursor

    def _cursor(name: str | None = None) -> Any:
        cursor = make_cursor(name)
        cursor.execute(f"SET search_path = {connection.schema_name}, public")
        return cursor

    connection._cursor = _cursor
    connection.schema_name = "a"
    try:
        with transaction.atomic():
            Tag.objects.create(name="of a")
            connection.schema_name = "b"
            noted.send("one")
            connection.schema_name = "a"
            Tag.objects.create(name="of a too")
    finally:
        del connection._cursor, connection.schema_name
    assert [("of a", "committed"), ("of a too", "committed")] == in_schema("a")
    assert 1 == len(in_schema("b"))


def test_missing_grants_are_named_and_events_are_counted(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    role = f"signalbox_restricted_{RUN_ID}"  # roles are those of the server
    sql(f"CREATE ROLE {role}")
    try:
        sql(f"GRANT USAGE ON SCHEMA public TO {role}")
        sql(f"GRANT ALL ON public.{Tag._meta.db_table} TO {role}")
        sql(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}")
        sql(f"GRANT SELECT, UPDATE ON public.signalbox_event TO {role}")
        assert [] == writer.get_missing_grants(get_connection())
        sql(f"SET ROLE {role}")
        missing = [str(grant) for grant in writer.get_missing_grants(get_connection())]
        assert "INSERT ON signalbox_event" in missing
        assert "UPDATE ON signalbox_event" not in missing
        monkeypatch.setattr(dropped_events, "write_stats", dropped_events.WriteStats())
        for name in "abc":
            Tag.objects.create(name=name)
        assert 3 <= dropped_events.write_stats.dropped
        assert 1 == sum("lacks a grant" in record.message for record in caplog.records)
    finally:
        sql("RESET ROLE")
        sql(f"DROP OWNED BY {role}")
        sql(f"DROP ROLE {role}")
    assert ["a", "b", "c"] == [tag.name for tag in Tag.objects.order_by("id")]
    assert get_backend(get_connection()).has_tables_in_a_schema()


def test_resolving_a_schema_opens_no_transaction() -> None:
    get_connection().set_autocommit(False)
    try:
        noted.send("one")
        sql("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")  # an error after any other statement
    finally:
        get_connection().rollback()
        get_connection().set_autocommit(True)
    assert 1 == len(in_schema("public"))
