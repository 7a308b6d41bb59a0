"""The status: sizes, deliveries and workers, and the rules that decide whether Signalbox is healthy."""

from __future__ import annotations

import datetime as dt
import json
import re
import threading
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from django.db import DatabaseError, connection, connections, transaction
from django.db.models.signals import post_save
from django.test import override_settings
from django.test.utils import CaptureQueriesContext

import signalbox
from signalbox.core import clock
from signalbox.core.clock import now_us
from signalbox.core.event import Outcome, PendingEvent
from signalbox.models import Delivery, Event, PurgeState, Trace, Worker
from signalbox.outbox import health, registry
from signalbox.outbox.database_clock import SECOND_US, get_lease_time
from signalbox.outbox.outbox_processor import OUTBOX
from signalbox.outbox.worker_registry import LOST_AFTER_SECONDS
from signalbox.pipeline import backends, dropped_events, exporter, missing_tables, processors
from signalbox.queries.status import LOG_TABLES, Status, get_status
from signalbox.queries.status_export import status_to_dict
from signalbox.queries.status_problems import Problem, find_problems, is_healthy
from signalbox.queries.status_sections import build_sections
from signalbox.retention import watermarks
from tests.rows import create_event, create_trace
from tests.shop.models import Order, Tag

if TYPE_CHECKING:
    from collections.abc import Iterator

    from signalbox.retention.overdue import RetentionStatus

pytestmark = [pytest.mark.django_db(transaction=True, databases=["default", "other"]), pytest.mark.every_database]

ROOT = Path(__file__).parent.parent.parent
MINUTES_AGO = 300 * SECOND_US
ROLE = f"signalbox_{uuid.uuid4().hex[:16]}"
"""Roles are shared by all databases of a server, on which other tests may run."""


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(dropped_events, "write_stats", dropped_events.WriteStats())
    Worker.objects.all().delete()
    yield
    for name in list(registry.get_durable_receivers()):
        registry.disconnect(name)
    processors.uninstall(OUTBOX)
    signalbox.start_recording()
    exporter.discard_pending()


def send_invoice(instance: Order, **kwargs: object) -> None:
    """Do nothing: it is not run here."""


def add_due_delivery() -> None:
    signalbox.receiver(post_save, sender="shop.Order", durable=True)(send_invoice)
    with transaction.atomic():
        Order.objects.create(number="1")
    now = get_lease_time(connection)
    Delivery.objects.update(run_at=now - MINUTES_AGO, next_check_at=now - MINUTES_AGO)


def add_worker(age_seconds: float = 0.0, **given: Any) -> None:
    now = get_lease_time(connection)
    values = {"host": "web-1", "pid": 17, "version": "1", "queues": "", "threads": 2, "started": now}
    Worker.objects.create(id="a" * 32, heartbeat=now - int(age_seconds * SECOND_US), **values | given)


def problems(status: Status | None = None) -> list[Problem]:
    return find_problems(status or get_status())


def codes(*, warnings: bool = False) -> list[str]:
    return [problem.code.value for problem in problems() if problem.is_warning is warnings]


def get_text(title: str, label: str, status: Status | None = None) -> str:
    sections = {one.title: one for one in build_sections(status or get_status(), process_note="")}
    return next(row.text for row in sections[title].rows if row.label == label)


def test_the_storage_has_estimates_and_the_first_and_last_event() -> None:
    Event.objects.all().delete()
    for number in range(30):
        Tag.objects.create(name=str(number))
    exporter.flush()
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("ANALYZE signalbox_event")
        elif connection.vendor == "mysql":
            cursor.execute("ANALYZE TABLE signalbox_event")
            cursor.fetchall()
    storage = next(one for one in get_status().storage if one.alias == "default")
    assert set(LOG_TABLES) == storage.storage.tables.keys()
    rows = storage.storage.tables["signalbox_event"].rows
    assert rows is not None
    assert 25 <= rows <= 60
    times = Event._base_manager.order_by("id").values_list("time", flat=True)
    assert times[0] == storage.oldest_event
    assert storage.newest_event in times[25:]  # the status opens connections, which are events
    size = storage.storage.file_bytes or storage.total_bytes
    assert size is not None
    assert size > 8_000


def test_empty_tables_have_no_rows_and_no_events() -> None:
    Event.objects.all().delete()
    Trace.objects.all().delete()
    if connection.vendor != "sqlite":  # deleted rows remain in the statistics
        with connection.cursor() as cursor:
            cursor.execute("TRUNCATE TABLE signalbox_event")
    status = get_status()
    storage = next(one for one in status.storage if one.alias == "default")
    assert (None, None, 0) == (
        storage.oldest_event,
        storage.newest_event,
        storage.storage.tables["signalbox_event"].rows,
    )
    assert "none" == get_text("Database default", "oldest", status)


def test_no_query_counts_or_scans_the_events() -> None:
    with CaptureQueriesContext(connection) as queries:
        get_status()
    statements = [one["sql"].replace("`", '"') for one in queries if "signalbox_event" in one["sql"]]
    of_events = [sql for sql in statements if 'FROM "signalbox_event"' in sql and not sql.endswith("WHERE 1 = 0")]
    assert 2 == len(of_events)
    assert all(sql.rstrip().endswith("LIMIT 1") and "ORDER BY" in sql for sql in of_events)
    assert not any("count(" in sql.lower() for sql in of_events)


def test_due_deliveries_without_a_worker_are_a_problem() -> None:
    add_due_delivery()
    [problem] = [problem for problem in problems() if not problem.is_warning]
    assert "deliveries_stalled" == problem.code
    assert problem.text.endswith("No worker is alive: start manage.py signalbox work.")
    add_worker()
    [problem] = [problem for problem in problems() if not problem.is_warning]
    assert "1 worker is alive" in problem.text
    Delivery.objects.update(state=Delivery.DONE, next_check_at=None, finished=get_lease_time(connection))
    assert ([], ["no_worker"]) == (codes(), codes(warnings=True))  # of the other database


@pytest.mark.parametrize(("dispatcher", "name"), [("celery", "Celery"), ("tasks", "the backend of Django's Tasks")])
def test_the_workers_of_a_dispatcher_are_not_listed(dispatcher: str, name: str) -> None:
    with override_settings(SIGNALBOX={"DURABLE": {"DISPATCHER": dispatcher}}):
        add_due_delivery()
        [problem] = [problem for problem in problems() if not problem.is_warning]
        assert f"Check that the workers of {name} run." in problem.text
        assert f"{name} runs the deliveries" in get_text("Deliveries in default", "dispatcher")
        assert "no_worker" not in codes(warnings=True)


def test_a_missing_worker_is_a_warning_while_nothing_is_due() -> None:
    signalbox.receiver(post_save, sender="shop.Order", durable=True)(send_invoice)
    assert ([], ["no_worker"] * 2) == (codes(), codes(warnings=True))
    assert is_healthy(problems())
    add_worker(LOST_AFTER_SECONDS + 1)
    assert ["no_worker"] * 2 == codes(warnings=True)
    assert "0 alive, 1 lost" == get_text("Deliveries in default", "workers")
    assert re.match(r"lost, heartbeat [3-9]\d", get_text("Deliveries in default", "web-1 17"))
    Worker.objects.all().delete()
    add_worker(queues="mail,slow")
    assert ["no_worker"] == codes(warnings=True)  # of the other database
    text = get_text("Deliveries in default", "web-1 17")
    assert text.startswith("alive, heartbeat ")
    assert text.endswith("2 threads, queues mail, slow, version 1")


def test_dead_letters_are_a_warning() -> None:
    add_due_delivery()
    Delivery.objects.update(state=Delivery.DEAD, next_check_at=None)
    assert ([], True) == (codes(), "dead_letters" in codes(warnings=True))


def test_queued_and_late_events_are_counted() -> None:
    with exporter.suspended(), signalbox.trace("work") as trace:
        for name in ("tests.first", "tests.second", "tests.third"):
            event = PendingEvent(clock.now(), trace, None, name, "", "default")
            event.outcome = Outcome.SENT
            exporter.enqueue(event)
        event.is_late = True
    status = get_status()
    data = status_to_dict(status, [])
    assert (3, 1) == (data["queued"], data["late"])
    assert "3 events, 1 of them late" == get_text("This process", "queued", status)
    exporter.flush()
    data = status_to_dict(get_status(), [])
    assert (0, 0) == (data["queued"], data["late"])


def test_an_error_in_a_transaction_does_not_abort_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(alias: str) -> None:
        with connections[alias].cursor() as cursor:
            cursor.execute("SELECT * FROM does_not_exist")

    monkeypatch.setattr(health, "get_lag", fail)
    with transaction.atomic():
        Tag.objects.create(name="kept")
        status = get_status()
        assert "does_not_exist" in str(status.databases[0].error)
    assert Tag.objects.filter(name="kept").exists()


def test_an_unavailable_database_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise DatabaseError("connection refused")

    monkeypatch.setattr(connections["other"].introspection, "table_names", refuse)
    status = get_status()
    [problem] = [problem for problem in find_problems(status) if not problem.is_warning]
    assert "Database 'other' can't be read: connection refused" == problem.text
    assert ["default"] == [one.alias for one in status.deliveries]


def test_the_data_is_json_and_the_brief_status_finds_the_same_problems() -> None:
    add_due_delivery()
    full, brief = get_status(), get_status(brief=True)
    data = json.loads(json.dumps(status_to_dict(full, find_problems(full))))
    assert not data["healthy"]
    assert ["deliveries_stalled"] == [one["code"] for one in data["problems"]]
    assert ((), None) == (brief.storage, brief.deliveries[0].health)
    assert codes() == [problem.code.value for problem in find_problems(brief) if not problem.is_warning]


@pytest.fixture
def replaced_connection() -> Iterator[None]:
    """Put the connection back that is closed before the database is dropped. Its successor's session would be left."""
    original = connections["default"]
    yield
    connections["default"].close()
    connections["default"] = original
    original.dec_thread_sharing()


@pytest.mark.postgres
@pytest.mark.usefixtures("replaced_connection")
def test_a_locked_table_is_a_problem_and_its_connection_is_closed_later() -> None:
    locker = connection.copy()
    try:
        locker.set_autocommit(False)
        with locker.cursor() as cursor:
            cursor.execute("LOCK TABLE signalbox_event IN ACCESS EXCLUSIVE MODE")
        before = connection.connection
        status = get_status(timeout=0.5)
        assert "it did not answer within 0.5 s" == status.databases[0].error
        locker.rollback()
    finally:
        locker.close()
    for thread in threading.enumerate():
        if thread.name == "signalbox-read-default":
            thread.join(20)
    assert before.closed
    assert connections["default"].connection is not before
    assert get_status(timeout=20).databases[0].error is None


class ReplicaRouter:
    """Allows no migration to the database ``other``."""

    def allow_migrate(self, db: str, app_label: str, **hints: object) -> bool | None:
        return False if db == "other" else None


@pytest.mark.mariadb
def test_a_read_only_replica_is_healthy() -> None:
    with connections["other"].cursor() as cursor:
        cursor.execute("SET SESSION TRANSACTION READ ONLY")
    try:
        with override_settings(DATABASE_ROUTERS=[ReplicaRouter()]):
            assert [] == codes()
    finally:
        connections["other"].close()


@pytest.mark.postgres
def test_a_replica_needs_no_grants_to_write() -> None:
    with transaction.atomic(using="other"), connections["other"].cursor() as cursor:
        cursor.execute(f"CREATE ROLE {ROLE}")
        cursor.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {ROLE}")
        cursor.execute(f"SET LOCAL ROLE {ROLE}")
        assert ["grant_missing"] == codes()
        with override_settings(DATABASE_ROUTERS=[ReplicaRouter()]):
            assert [] == codes()
        transaction.set_rollback(True, using="other")


@pytest.mark.parametrize("column", ["signalbox_event.is_system", "signalbox_delivery.chain_length"])
def test_a_column_that_a_migration_would_add_is_named(column: str) -> None:
    table, name = column.split(".")
    with connections["other"].cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} RENAME COLUMN {name} TO elsewhere")
    try:
        [problem] = [problem for problem in problems() if not problem.is_warning]
        assert column in get_text("Database other", "missing")
    finally:
        with connections["other"].cursor() as cursor:
            cursor.execute(f"ALTER TABLE {table} RENAME COLUMN elsewhere TO {name}")
    assert f"Database 'other' has no column {column}: run manage.py migrate --database other." == problem.text


@pytest.mark.mariadb
def test_a_missing_table_can_be_one_that_the_role_may_not_see() -> None:
    with connections["other"].cursor() as cursor:
        cursor.execute("RENAME TABLE signalbox_worker TO elsewhere")
    try:
        [problem] = [problem for problem in problems() if not problem.is_warning]
    finally:
        with connections["other"].cursor() as cursor:
            cursor.execute("RENAME TABLE elsewhere TO signalbox_worker")
    assert problem.text.endswith("MariaDB and MySQL also hide a table if the role has no grant for it.")


@pytest.mark.postgres
def test_other_schemas_with_the_tables_are_named() -> None:
    assert "public" == get_text("Database default", "schema")
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA tenant")
        for table in ("signalbox_event", "signalbox_trace"):
            cursor.execute(f"CREATE TABLE tenant.{table} (LIKE public.{table})")
        missing_tables.clear_table_cache()
        assert "public; not read: tenant" == get_text("Database default", "schema")
        transaction.set_rollback(True)
    missing_tables.clear_table_cache()


def test_ten_lost_workers_are_listed() -> None:
    now = get_lease_time(connection)
    values = {"host": "web", "version": "1", "queues": "", "threads": 2, "started": now, "heartbeat": now - MINUTES_AGO}
    Worker.objects.bulk_create(Worker(id=f"{number:032}", pid=number, **values) for number in range(1000))
    add_worker()
    sections = {one.title: one for one in build_sections(get_status(), process_note="")}
    rows = sections["Deliveries in default"].rows
    assert ("workers", "1 alive, 999 lost") in {row[:2] for row in rows}
    assert 1 + 10 == sum(row.label.startswith("web") for row in rows)
    assert ("others", "989 more lost ones are not listed") == rows[-1][:2]


@pytest.mark.postgres
def test_a_role_that_may_not_read_the_workers_is_a_problem() -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"CREATE ROLE {ROLE}")
        cursor.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {ROLE}")
        cursor.execute(f"REVOKE ALL ON signalbox_worker FROM {ROLE}")
        cursor.execute(f"SET LOCAL ROLE {ROLE}")
        texts = [problem.text for problem in problems()]
        transaction.set_rollback(True)
    assert ["The role of database 'default' lacks grants: SELECT ON signalbox_worker."] == texts


@pytest.mark.postgres
def test_a_table_without_statistics_has_no_estimate_and_a_partitioned_one_has_a_sum() -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("CREATE TABLE parts (id int) PARTITION BY RANGE (id)")
        for low in (0, 10):
            cursor.execute(f"CREATE TABLE parts_{low} PARTITION OF parts FOR VALUES FROM ({low}) TO ({low + 10})")
        assert 0 == backends.query_storage(connection, ["parts"]).tables["parts"].rows
        cursor.execute("INSERT INTO parts SELECT generate_series(0, 19)")
        cursor.execute("ANALYZE parts_0, parts_10")
        size = backends.query_storage(connection, ["parts"]).tables["parts"]
        transaction.set_rollback(True)
    assert 20 == size.rows
    assert size.bytes is not None
    assert size.bytes >= 16_384


def purged(*, hours_ago: float, rule: str = "events") -> None:
    """Purge now, and store that it was earlier."""
    with override_settings(SIGNALBOX={"RETENTION": {rule: 5}}):
        signalbox.purge(using="default")
    started = now_us() - int(hours_ago * 3600 * SECOND_US)
    PurgeState.objects.filter(name="last purge").update(run_at=started)


def get_retention(days: dict[str, float | None]) -> tuple[RetentionStatus, list[str]]:
    with override_settings(SIGNALBOX={"RETENTION": days}):
        status = get_status()
        found = [problem.code.value for problem in find_problems(status) if "'default'" in problem.text]
        return next(one for one in status.retention if one.alias == "default"), found


@pytest.fixture
def _no_rows() -> None:
    for model in (Event, Trace, Delivery, PurgeState):
        model._base_manager.all().delete()


@pytest.mark.usefixtures("_no_rows")
def test_a_rule_is_due_for_as_long_as_its_oldest_row() -> None:
    for days in (9, 7, 1):
        create_event(at=dt.datetime.now(dt.UTC) - dt.timedelta(days=days))
    retention, found = get_retention({"events": 5, "auth": 1, "traces": 1, "deliveries": None})
    assert {"events": pytest.approx(4 * 86_400, abs=60)} == retention.overdue_seconds
    assert (None, None) == (retention.last_purge, retention.next_purge)
    assert ["purge_overdue"] == found


@pytest.mark.usefixtures("_no_rows")
def test_a_rule_is_overdue_after_rows_that_another_rule_keeps() -> None:
    for sender in ("shop.Order", "shop.Order", "shop.Tag"):
        create_event(at=dt.datetime.now(dt.UTC) - dt.timedelta(days=9), sender=sender)
    retention, found = get_retention({"events": 5, "shop.Order": None})
    assert {"events": pytest.approx(4 * 86_400, abs=60)} == retention.overdue_seconds
    assert ["purge_overdue"] == found


@pytest.mark.usefixtures("_no_rows")
def test_traces_and_deliveries_are_due_by_their_end() -> None:
    create_trace(at=dt.datetime.now(dt.UTC) - dt.timedelta(days=3))
    add_due_delivery()
    Delivery.objects.update(state=Delivery.DONE, finished=now_us() - 2 * 86_400 * SECOND_US)
    retention, _ = get_retention({"traces": 2, "deliveries": 1, "dead_deliveries": 1})
    assert {
        "traces": pytest.approx(86_400, abs=60),
        "deliveries": pytest.approx(86_400, abs=60),
    } == retention.overdue_seconds


@pytest.mark.usefixtures("_no_rows")
def test_nothing_is_due_after_a_purge() -> None:
    create_event(at=dt.datetime.now(dt.UTC) - dt.timedelta(days=9))
    create_event(at=dt.datetime.now(dt.UTC))
    purged(hours_ago=2)
    retention, found = get_retention({"events": 5})
    assert ({}, []) == (retention.overdue_seconds, found)
    assert retention.last_purge is not None


@pytest.mark.usefixtures("_no_rows")
@pytest.mark.parametrize(("hours", "expected"), [(23, []), (25, ["purge_overdue"])])
def test_a_day_without_a_purge_is_a_warning(hours: float, expected: list[str]) -> None:
    purged(hours_ago=hours)
    assert expected == get_retention({"events": 5})[1]
    assert [] == get_retention({"events": None})[1]
    assert [] == get_retention({})[1]


@pytest.mark.usefixtures("_no_rows")
def test_the_section_has_rules_due_rows_and_times() -> None:
    create_event(at=dt.datetime.now(dt.UTC) - dt.timedelta(days=92), sender="shop.Tag")
    with override_settings(SIGNALBOX={"RETENTION": {"events": 90, "auth": 1, "shop.Order": None}}):
        watermarks.take_lease("default")
        status = get_status()
    assert "events 90 days, auth 1 day, shop.Order for ever" == get_text("Retention in default", "rules", status)
    assert "events for 48 h 00 m" == get_text("Retention in default", "due", status)
    assert "none" == get_text("Retention in default", "last purge", status)
    assert "20" == get_text("Retention in default", "next purge", status)[:2]
    assert "none: rows are stored for ever" == get_text("Retention in default", "rules")


@pytest.mark.postgres
def test_a_role_that_only_records_lacks_the_grants_of_other_commands() -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"CREATE ROLE {ROLE}")
        for tables, grants in read_documented_grants("site"):
            cursor.execute(f"GRANT {grants} ON {tables} TO {ROLE}")
        cursor.execute(f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {ROLE}")
        cursor.execute(f"SET LOCAL ROLE {ROLE}")
        status = get_status()
        transaction.set_rollback(True)
    database = next(one for one in status.databases if one.alias == "default")
    assert () == database.missing_grants
    assert {"work", "errors", "purge", "erase"} == database.missing_job_grants.keys()
    assert "DELETE ON signalbox_attempt" in database.missing_job_grants["purge"]
    assert ("INSERT ON signalbox_attempt", "INSERT ON signalbox_worker") == database.missing_job_grants["work"][:2]


def read_documented_grants(role: str) -> list[tuple[str, str]]:
    """Return the tables and the grants of one role, as docs/retention.md lists them."""
    text = (ROOT / "docs" / "retention.md").read_text()
    rows = text.partition("<!-- grants -->")[2].partition("<!-- end of grants -->")[0].strip().splitlines()[2:]
    found, current = [], ""
    for row in rows:
        name, tables, grants = (cell.strip() for cell in row.strip("|").split("|"))
        current = name or current
        if current.strip("`").startswith(role):
            found.append((tables.replace("`", ""), grants))
    return found


@pytest.mark.postgres
@pytest.mark.usefixtures("_no_rows")
def test_the_documented_grants_of_a_purge_are_enough() -> None:
    create_event(at=dt.datetime.now(dt.UTC) - dt.timedelta(days=9))
    create_trace(at=dt.datetime.now(dt.UTC) - dt.timedelta(days=9), trace_id="f" * 32)
    add_due_delivery()
    Delivery.objects.update(state=Delivery.DEAD, finished=now_us() - 9 * 86_400 * SECOND_US)
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE ROLE {ROLE}")
        for tables, grants in read_documented_grants("purge"):
            cursor.execute(f"GRANT {grants} ON {tables} TO {ROLE}")
        cursor.execute(f"SET ROLE {ROLE}")
    try:
        rules = {"events": 5, "traces": 5, "deliveries": 5, "dead_deliveries": 5}
        with override_settings(SIGNALBOX={"RETENTION": rules}):
            deleted = signalbox.purge(using="default")["default"]
            database = next(one for one in get_status().databases if one.alias == "default")
    finally:
        with connection.cursor() as cursor:
            cursor.execute("RESET ROLE")
            cursor.execute(f"DROP OWNED BY {ROLE}")
            cursor.execute(f"DROP ROLE {ROLE}")
    assert {"events": 1, "traces": 1, "deliveries": 0, "dead_deliveries": 1} == deleted
    assert "purge" not in database.missing_job_grants
