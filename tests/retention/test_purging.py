from __future__ import annotations

import datetime as dt
import os
import signal as os_signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from io import StringIO
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.db import InterfaceError, connection, connections, transaction
from django.test import override_settings
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import signalbox
from signalbox.core.catalog import BUILTIN_SIGNALS
from signalbox.models import Delivery, Event, PurgeState, Trace
from signalbox.outbox.queue import now_us
from signalbox.queries.filters import FilterError
from signalbox.retention import pace, purging, scanning, watermarks
from signalbox.retention.purging import Purge
from signalbox.retention.rules import DAY_US, RetentionRules
from tests.rows import build_event, create_event, create_trace
from tests.shop.models import Order, Tag

every_database = pytest.mark.every_database
pytestmark = [pytest.mark.django_db]

spans = count(1)


@pytest.fixture(autouse=True)
def _without_events_of_migrations(request: pytest.FixtureRequest) -> None:
    request.getfixturevalue("_django_db_helper")
    for model in (Event, Trace, Delivery, PurgeState):
        model._base_manager.all().delete()


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Purge without the pauses for other writers. A test would wait for many."""
    for name in ("PAUSE", "MIN_PAUSE_SECONDS"):
        monkeypatch.setattr(pace, name, 0.0)


def days_ago(days: float) -> dt.datetime:
    return dt.datetime.now(dt.UTC) - dt.timedelta(days=days)


def event(days: float, **values: Any) -> Event:
    return create_event(at=days_ago(days), span=next(spans), **values)


def trace(days: float, trace_id: str, **values: Any) -> Trace:
    return create_trace(at=days_ago(days), trace_id=trace_id, **values)


def delivery(found: Event | None, state: str, days: float = 0, **values: Any) -> Delivery:
    finished = None if state == "pending" else now_us() - int(days * DAY_US)
    created: Delivery = Delivery.objects.create(
        receiver="shop.receivers.send",
        queue="default",
        ordering_key="",
        trace_id=found.trace_id if found else "0" * 32,
        span=found.span if found else next(spans),
        signal="post_save",
        sender="shop.Order",
        object_key="1",
        database="default",
        state=state,
        run_at=0,
        created=0,
        finished=finished,
        payload={},
        **values,
    )
    return created


def purge(retention: dict[str, float | None], **options: Any) -> dict[str, int]:
    with pytest.MonkeyPatch.context() as patch:  # override_settings() sends a signal, which is recorded
        patch.setattr(django_settings, "SIGNALBOX", {"RETENTION": retention}, raising=False)
        return signalbox.purge(using="default", **options)["default"]


def kept() -> set[int]:
    return set(Event.objects.values_list("id", flat=True))


# ------------------------------------------------------------ rules

SIGNALS = ["post_save", "post_delete", "update", "user_logged_in", "request_started", "tests.shop.signals.order_paid"]
SENDERS = ["shop.Order", "shop.ExpressOrder", "shop.Order_tags", "shop.Tag", "auth.User", "", "gone.Model"]
NAMES = ["events", "auth", "model", "bulk", "custom", "post_save", "update", "shop.Order", "shop.Tag", "shop.order"]
COVERED = {
    "shop.Order": {"shop.Order", "shop.ExpressOrder", "shop.Order_tags"},
    "shop.order": {"shop.Order", "shop.ExpressOrder", "shop.Order_tags"},
    "shop.Tag": {"shop.Tag"},
}


def is_deleted(retention: dict[str, float | None], row: tuple[str, str, float]) -> bool:
    """Decide about a row as the documentation's table does, step by step."""
    signal, sender, age = row
    group = BUILTIN_SIGNALS[signal].group if signal in BUILTIN_SIGNALS else "custom"
    for names in ([name for name in COVERED if sender in COVERED[name]], [signal], [group], ["events"]):
        periods = [retention[name] for name in names if name in retention]
        if periods:
            longest = None if None in periods else max(period for period in periods if period is not None)
            return longest is not None and age > longest
    return False


ROWS = st.lists(
    st.tuples(st.sampled_from(SIGNALS), st.sampled_from(SENDERS), st.integers(0, 9).map(lambda days: days + 0.5)),
    max_size=30,
)
RULES = st.dictionaries(st.sampled_from(NAMES), st.one_of(st.none(), st.integers(0, 9)), max_size=6)


@every_database
@hypothesis_settings(
    max_examples=int(os.environ.get("SIGNALBOX_TEST_EXAMPLES", "40")),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(rows=ROWS, first=RULES, second=RULES, window=st.sampled_from([1, 3, 2000]))
def test_exactly_the_rows_that_the_rules_name_are_deleted(
    rows: list[tuple[str, str, float]],
    first: dict[str, float | None],
    second: dict[str, float | None],
    window: int,
) -> None:
    Event._base_manager.all().delete()
    PurgeState.objects.all().delete()
    stored = {event(age, signal=signal, sender=sender).id: (signal, sender, age) for signal, sender, age in rows}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scanning, "WINDOW_ROWS", window)
        for retention in (first, second, second):
            expected = {id_ for id_, row in stored.items() if is_deleted(retention, row)}
            counted = purge(retention, dry_run=True)
            assert stored.keys() == kept()
            assert counted == purge(retention)
            assert len(expected) == sum(counted.values())
            stored = {id_: row for id_, row in stored.items() if id_ not in expected}
            assert stored.keys() == kept()


def test_without_rules_nothing_is_deleted() -> None:
    event(10_000)
    delivery(None, "done", 10_000)
    trace(10_000, "a" * 32)
    assert {} == purge({})
    assert (1, 1, 1) == (Event.objects.count(), Delivery.objects.count(), Trace.objects.count())


def test_an_invalid_rule_deletes_nothing() -> None:
    event(100)
    with pytest.raises(ImproperlyConfigured, match=r'Did you mean "shop\.Order"\? Nothing was deleted'):
        purge({"events": 1, "shop.Ordr": 1})
    assert 1 == Event.objects.count()


# ------------------------------------------------------------ deliveries and traces


@every_database
def test_an_event_with_an_unfinished_delivery_is_kept() -> None:
    states = ["pending", "dead", "done", "discarded"]
    events = {state: event(9, trace_id=f"{number}" * 32) for number, state in enumerate(states)}
    for state, found in events.items():
        delivery(found, state)
    assert {"events": 2} == purge({"events": 5})
    assert {events["pending"].id, events["dead"].id} == kept()


@every_database
def test_the_event_of_a_finished_delivery_is_deleted_by_the_next_scan_of_the_table() -> None:
    found = delivery(event(9), "pending")
    assert {"events": 0} == purge({"events": 5})
    Delivery.objects.filter(pk=found.pk).update(state="done")
    assert {"events": 0} == purge({"events": 5})
    PurgeState.objects.update(full_scan_at=now_us() - 8 * DAY_US)
    assert {"events": 1} == purge({"events": 5})


@every_database
def test_only_finished_deliveries_are_deleted() -> None:
    for state in ("pending", "dead", "done", "discarded"):
        for days in (1, 9):
            delivery(None, state, days)
    Delivery.objects.filter(state="pending").update(created=0, lease_expires_at=1)
    assert {"deliveries": 2} == purge({"deliveries": 5}, dry_run=True) == purge({"deliveries": 5})
    assert {"deliveries": 2} == purge({"deliveries": 0})
    assert {"dead_deliveries": 1} == purge({"dead_deliveries": 5}, dry_run=True) == purge({"dead_deliveries": 5})
    assert ["dead", "pending", "pending"] == sorted(Delivery.objects.values_list("state", flat=True))


@every_database
def test_a_deleted_dead_letter_no_longer_blocks_its_key() -> None:
    delivery(None, "dead", 9, partition_id=7)
    later = delivery(None, "pending", partition_id=7, next_check_at=2**60)
    purge({"dead_deliveries": 5})
    later.refresh_from_db()
    assert 0 == later.next_check_at


@every_database
def test_a_trace_is_kept_while_it_has_events() -> None:
    for letter in "abc":
        trace(9, letter * 32)
    trace(9, "d" * 32, duration=8 * DAY_US)
    event(9, trace_id="a" * 32)
    event(1, trace_id="b" * 32)
    assert {"traces": 1} == purge({"traces": 5})
    assert {"events": 1, "traces": 1} == purge({"events": 5, "traces": 5})
    assert {"b" * 32, "d" * 32} == set(Trace.objects.values_list("trace_id", flat=True))


# ------------------------------------------------------------ watermarks


def count_read_rows(retention: dict[str, float | None], monkeypatch: pytest.MonkeyPatch) -> int:
    read: list[int] = []
    original = scanning.Scan.run

    def run(self: Any, watermark: Any) -> None:
        def reading(after: int, limit: int) -> Any:
            rows = self.read(after, limit)
            read.append(len(rows))
            return rows

        values = {name: getattr(self, name) for name in self.__slots__}
        original(scanning.Scan(**{**values, "read": reading}), watermark)

    with monkeypatch.context() as patch:
        patch.setattr(scanning.Scan, "run", run)
        purge(retention)
    return sum(read)


@every_database
def test_rows_to_keep_at_the_beginning_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "WINDOW_ROWS", 10)
    Event.objects.bulk_create([build_event(at=days_ago(90 - number / 10), span=number) for number in range(300)])
    retention: dict[str, float | None] = {"events": 70, "shop.Order": None}
    assert 300 == count_read_rows(retention, monkeypatch)
    assert count_read_rows(retention, monkeypatch) <= 20
    assert 300 == count_read_rows({**retention, "shop.Tag": None}, monkeypatch)


@every_database
def test_late_rows_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "WINDOW_ROWS", 2)
    for days in (9, 8, 3, 2):
        event(days)
    assert {"events": 2} == purge({"events": 5})
    for days in (1, 1, 1, 7, 1):
        event(days)
    assert {"events": 0} == purge({"events": 5})
    Event.objects.update(time=0)  # every row becomes due
    assert {"events": 7} == purge({"events": 5})


@every_database
def test_a_row_from_the_future_does_not_stop_the_watermark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "WINDOW_ROWS", 2)
    ahead = event(-1000)
    old = [event(9) for _ in range(4)]
    assert {"events": 4} == purge({"events": 5})
    assert [old[-1].id] == list(PurgeState.objects.filter(name="rule events").values_list("position", flat=True))
    assert {ahead.id} == kept()


@every_database
def test_a_changed_setting_scans_the_whole_table() -> None:
    event(9)
    event(3)
    assert {"events": 0} == purge({"events": 20})
    assert {"events": 1} == purge({"events": 5})
    assert {"events": 0, "model": 1} == purge({"events": 5, "model": 1})


@every_database
@pytest.mark.parametrize("shorter", ["shop.Order", "shop.order"])
def test_rules_whose_names_differ_in_case_have_watermarks_of_their_own(shorter: str) -> None:
    for _ in range(3):
        event(9)
    names = sorted(["shop.Order", "shop.order"], key=lambda name: name != shorter)
    rules: dict[str, float | None] = dict(zip(names, [1, 5], strict=True))
    assert {shorter: 0, names[1]: 3} == purge(rules)


@every_database
def test_a_scan_at_a_time_in_the_future_is_repeated() -> None:
    event(9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watermarks, "now_us", lambda: now_us() + 400 * DAY_US)
        assert {"events": 0} == purge({"events": 20})
    Event.objects.update(time=0)
    assert {"events": 1} == purge({"events": 20})


@every_database
def test_a_stopped_purge_ends_after_its_statement_and_is_continued() -> None:
    for _ in range(50):
        event(9)
    stopped = threading.Event()
    found = Purge("default", should_stop=stopped.is_set)
    found.pace.rows = 10

    def stop(execute: Callable[..., Any], sql: str, *args: Any) -> Any:
        if sql.startswith("DELETE"):
            stopped.set()
        return execute(sql, *args)

    with connection.execute_wrapper(stop):
        found.apply_rules(RetentionRules({"events": 5}))
    assert {"events": 10} == found.deleted
    assert {"events": 40} == purge({"events": 5})


@every_database
def test_a_dry_run_counts_what_the_purge_deletes_after_it() -> None:
    for letter, days, state in (("a", 9, "dead"), ("b", 9, "pending"), ("c", 9, "done"), ("d", 1, "done")):
        trace(9, letter * 32)
        delivery(event(days, trace_id=letter * 32), state, 9)
    rules: dict[str, float | None] = {"events": 5, "traces": 5, "deliveries": 5, "dead_deliveries": 5}
    expected = {"deliveries": 2, "dead_deliveries": 1, "events": 2, "traces": 2}
    assert expected == purge(rules, dry_run=True) == purge(rules)


# ------------------------------------------------------------ before a time


@every_database
def test_events_before_a_time_are_deleted_by_signal_and_sender() -> None:
    old = [event(9, signal=signal, sender=sender) for signal in SIGNALS[:2] for sender in ("shop.Order", "auth.User")]
    event(1)
    trace(9, "a" * 32)
    before = days_ago(5)
    assert {"events": 1} == purge({}, before=before, signal="post_save", sender=["shop"])
    assert {"events": 1} == purge({}, before=before, sender="shop.Order")
    assert {"events": 2, "traces": 1} == purge({}, before=before)
    assert 1 == Event.objects.count()
    assert len(old) == 4


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"signal": "post_saved"}, FilterError, "post_save"),
        ({"sender": "shop.Ordr"}, FilterError, "shop.Order"),
        ({"sender": ""}, FilterError, "a name was expected"),
        ({"sender": []}, FilterError, "a name was expected"),
        ({"signal": ["post_save", " "]}, FilterError, "a name was expected"),
        ({"before": dt.datetime(2100, 1, 1, tzinfo=dt.UTC)}, FilterError, "in the past"),
        ({"before": dt.datetime(2020, 1, 1)}, TypeError, "aware"),  # noqa: DTZ001
        ({"before": None, "signal": "post_save"}, ValueError, "add before"),
    ],
)
def test_a_wrong_argument_is_an_error_and_deletes_nothing(
    options: dict[str, Any], error: type[Exception], text: str
) -> None:
    event(9)
    with pytest.raises(error, match=text):
        purge({"events": 5}, **{"before": days_ago(5), **options})
    assert 1 == Event.objects.count()


# ------------------------------------------------------------ with others


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("rules", [{"events": 5}, {"deliveries": 5}, {}])
def test_a_purge_in_a_transaction_is_refused(rules: dict[str, float | None]) -> None:
    event(9)
    delivery(None, "done", 9)
    with transaction.atomic(), pytest.raises(RuntimeError, match="durable"):
        purge(rules)
    assert (1, 1) == (Event.objects.filter(object_key="17").count(), Delivery.objects.count())


@every_database
@pytest.mark.django_db(transaction=True)
def test_a_purge_of_a_connection_that_does_not_commit_is_refused() -> None:
    event(9)
    connection.set_autocommit(False)
    try:
        with pytest.raises(RuntimeError, match="AUTOCOMMIT"):
            purge({"events": 5})
    finally:
        connection.rollback()
        connection.set_autocommit(True)
    assert Event.objects.filter(object_key="17").exists()


@every_database
@pytest.mark.django_db(transaction=True)
def test_a_purge_does_not_wait_for_a_transaction_that_writes() -> None:
    if connection.vendor == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    old = [event(9).id for _ in range(60)]
    begun, end = threading.Event(), threading.Event()
    ended: list[bool] = []

    def write() -> None:
        try:
            with transaction.atomic():
                create_event(at=days_ago(0), span=next(spans), object_key="new")
                begun.set()
                ended.append(end.wait(60))
        finally:
            connections.close_all()

    writer = threading.Thread(target=write)
    writer.start()
    assert begun.wait(20)
    try:
        purge({"events": 5})
        assert not Event.objects.filter(id__in=old).exists()
    finally:
        end.set()
        writer.join()
    assert [True] == ended  # after the purge
    assert Event.objects.filter(object_key="new").exists()


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
def test_each_database_with_the_tables_is_purged() -> None:
    for alias in ("default", "other"):
        create_event(at=days_ago(9), using=alias)
    with override_settings(SIGNALBOX={"RETENTION": {"events": 5}}):
        assert {"default": {"events": 1}, "other": {"events": 1}} == signalbox.purge()


class ReplicaRouter:
    """Routes nothing to the database ``other``."""

    def allow_migrate(self, db: str, app_label: str, **hints: object) -> bool | None:
        return False if db == "other" else None


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
def test_a_database_to_which_the_router_allows_no_migration_is_purged_only_by_name() -> None:
    create_event(at=days_ago(9), using="other")
    rules = {"RETENTION": {"events": 5}}
    with override_settings(SIGNALBOX=rules, DATABASE_ROUTERS=[ReplicaRouter()]):
        assert ["default"] == list(signalbox.purge())
        assert {"other": {"events": 1}} == signalbox.purge(using="other")


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
def test_the_other_databases_are_purged_if_a_connection_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Purge.apply_rules

    def lose(self: Purge, rules: Any) -> None:
        if self.alias == "default":
            raise InterfaceError("connection already closed")
        original(self, rules)

    monkeypatch.setattr(Purge, "apply_rules", lose)
    create_event(at=days_ago(9), using="other")
    with (
        override_settings(SIGNALBOX={"RETENTION": {"events": 5}}),
        pytest.raises(signalbox.PurgeError, match="connection already closed") as error,
    ):
        signalbox.purge()
    assert {"events": 1} == error.value.deleted["other"]


def test_a_purge_without_any_table_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purging, "has_tables", lambda alias: False)
    with pytest.raises(ImproperlyConfigured, match="No database has Signalbox's tables"):
        signalbox.purge()


@pytest.fixture
def unavailable(tmp_path: Path) -> Iterator[str]:
    """The alias of a database, the first one, that can't be opened."""
    others = dict(connections.settings)
    missing = {**others["default"], "ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "missing" / "db")}
    connections.settings.clear()
    connections.settings.update({"unavailable": {**missing, "OPTIONS": {}}, **others})
    opened: Any = connections["unavailable"]

    def connect() -> None:
        with opened.wrap_database_errors:
            opened.connect()

    opened.ensure_connection = connect  # the test case would block Django's
    yield "unavailable"
    del connections["unavailable"], connections.settings["unavailable"]


@pytest.mark.django_db(databases=["default", "other"], transaction=True)
def test_the_other_databases_are_purged_if_one_is_unavailable(unavailable: str) -> None:
    event(9)
    with (
        override_settings(SIGNALBOX={"RETENTION": {"events": 5}}),
        pytest.raises(signalbox.PurgeError, match="'unavailable' could not be purged: unable to open") as error,
    ):
        signalbox.purge()
    assert [unavailable] == list(error.value.errors)
    assert {"default": {"events": 1}, "other": {"events": 0}} == error.value.deleted
    assert not Event.objects.filter(object_key="17").exists()


@pytest.mark.django_db(databases=["default", "other"], transaction=True)
def test_the_command_purges_the_others_and_names_the_unavailable_one(unavailable: str) -> None:
    event(9)
    output = StringIO()
    with (
        override_settings(SIGNALBOX={"RETENTION": {"events": 5}}),
        pytest.raises(CommandError, match="'unavailable' could not be purged") as error,
    ):
        call_command("signalbox", "purge", stdout=output)
    assert 1 == error.value.returncode
    assert ["default", "events", "1"] == output.getvalue().splitlines()[1].split()
    assert not Event.objects.filter(object_key="17").exists()


def fill(number: int) -> None:
    rows = [build_event(at=days_ago(9), span=place, trace_id=f"{place % 50:032x}") for place in range(number)]
    Event._base_manager.bulk_create(rows, batch_size=500)


PROGRAM = """
import django, signalbox
django.setup()
print("begun", flush=True)
print(signalbox.purge(using="default"), flush=True)
"""


def start_purge(retention: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"}
    code = f"from django.conf import settings; settings.SIGNALBOX = {{'RETENTION': {retention}}}\n{PROGRAM}"
    return subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)


@every_database
@pytest.mark.crash
@pytest.mark.django_db(transaction=True)
def test_a_killed_purge_is_continued(crash_count: int) -> None:
    fill(6000)
    keep = event(9, sender="shop.Tag", trace_id="f" * 32)
    rng = Random(7)
    for _ in range(crash_count):
        running = start_purge("{'events': 5, 'shop.Tag': None}")
        assert running.stdout is not None
        running.stdout.readline()
        time.sleep(rng.random() / 2)
        running.send_signal(os_signal.SIGKILL)
        running.wait()
        running.stdout.close()
    purge({"events": 5, "shop.Tag": None})
    assert [keep.id] == list(Event.objects.filter(signal="post_save").values_list("id", flat=True))


@every_database
@pytest.mark.django_db(transaction=True)
def test_two_purges_and_writers_do_not_disturb_each_other() -> None:
    fill(4000)
    failures: list[BaseException] = []
    deleted: list[int] = []
    ended = threading.Event()

    def run() -> None:
        try:
            deleted.append(sum(run_purge().values()))
        except BaseException as error:  # noqa: BLE001 - shown by the assertion
            failures.append(error)
        finally:
            connections.close_all()

    def run_purge() -> dict[str, int]:
        found = Purge("default")
        found.delete_before(now_us() - 5 * DAY_US)
        return found.deleted

    def write() -> None:
        try:
            while not ended.is_set():
                Tag.objects.create(name="tag")
        except BaseException as error:  # noqa: BLE001 - as above
            failures.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run) for _ in range(2)]
    writer = threading.Thread(target=write)
    for thread in (*threads, writer):
        thread.start()
    for thread in threads:
        thread.join()
    ended.set()
    writer.join()
    assert [] == failures
    assert 4000 == sum(deleted)
    assert Tag.objects.count() == Event.objects.filter(sender="shop.Tag", signal="post_save").count()
    assert 0 == Event.objects.filter(sender="shop.Order").count()


@every_database
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("aim", "counts"), [(0.0, [100, *[25] * 16]), (1000.0, [100, 200, 200])])
def test_a_transaction_of_a_purge_has_the_rows_for_which_there_is_time(
    monkeypatch: pytest.MonkeyPatch, aim: float, counts: list[int]
) -> None:
    monkeypatch.setattr(pace, "AIM_SECONDS", aim)
    fill(500)
    found = Purge("default")
    run, deleted = found.pace.run, []

    def run_and_keep(delete: Callable[[], Any]) -> Any:
        deleted.append(run(delete))
        return deleted[-1]

    found.pace.run = run_and_keep  # type: ignore[method-assign]
    found.delete_before(now_us() - 5 * DAY_US)
    assert {"events": 500, "traces": 0} == found.deleted
    assert counts == deleted


def test_a_purge_sends_no_signal_and_records_nothing() -> None:
    event(9)
    order = Order.objects.create(number="1")
    before = Event.objects.count()
    purge({"events": 5})
    assert before - 1 == Event.objects.count()
    assert order.pk
