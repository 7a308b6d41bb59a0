"""Writes in autocommit: the transactions that recording opens, joins or leaves out."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import django
import pytest
from django.db import DatabaseError, IntegrityError, InternalError, ProgrammingError, connections, transaction
from django.db.models.signals import post_save
from django.test.utils import CaptureQueriesContext, override_settings

import signalbox
from signalbox.core import query_guard
from signalbox.instrumentation import autocommit
from signalbox.models import Delivery, Event
from signalbox.outbox.outbox_processor import OUTBOX
from signalbox.pipeline import exporter, processors
from tests.connecting import get_connection
from tests.shop.models import Order, Ref, Tag, Uniq

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.every_database]


def saves(**conditions: Any) -> list[str]:
    """Return the names in the events of saved tags."""
    events = Event.objects.filter(signal="post_save", sender="shop.Tag", **conditions).order_by("id")
    return [event.data["row"]["name"] for event in events]


def is_idle(connection: Any) -> bool:
    is_closed = connection.connection is None
    return not connection.in_atomic_block and not connection.execute_wrappers and (is_closed or connection.autocommit)


@contextmanager
def calling_in_pre_save(call: Callable[[], object]) -> Iterator[None]:
    """Call ``call`` whenever Django asks the field ``Tag.name`` for the value to write."""
    field = Tag._meta.get_field("name")
    original = field.pre_save

    def pre_save(instance: Any, add: bool) -> Any:
        call()
        return original(instance, add)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(field, "pre_save", pre_save)
        yield


def begin() -> None:
    with get_connection().cursor() as cursor:
        cursor.execute("BEGIN")


def end(statement: str) -> None:
    with get_connection().cursor() as cursor:
        cursor.execute(statement)


@pytest.fixture
def separate() -> Iterator[Any]:
    """Yield another connection to the database under test."""
    made = get_connection().copy("separate")
    connections["separate"] = made
    try:
        yield made
    finally:
        made.close()
        made.close_pool()
        del connections["separate"]


# ------------------------------------------------------------------ AUTOCOMMIT = "atomic"


def test_the_query_log_holds_the_application_s_statement_only() -> None:
    get_connection().ensure_connection()
    with CaptureQueriesContext(get_connection()) as queries:
        Tag.objects.create(name="first")
    assert ["INSERT"] == [query["sql"].split()[0] for query in queries]
    assert is_idle(get_connection())


def test_an_execute_wrapper_sees_the_application_s_statement_only() -> None:
    seen: list[str] = []

    def wrapper(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        seen.append(sql.split(maxsplit=1)[0])
        return execute(sql, params, many, context)

    get_connection().ensure_connection()
    with get_connection().execute_wrapper(wrapper):
        tag = Tag.objects.create(name="first")
    assert ["INSERT"] == seen
    assert tag.pk


def test_statements_of_on_commit_hooks_are_logged() -> None:
    counts: list[int] = []

    def hook() -> None:
        assert is_idle(get_connection())
        if not counts:  # Django 6.1 calls pre_save() twice
            counts.append(Tag.objects.count())

    with calling_in_pre_save(lambda: transaction.on_commit(hook)), CaptureQueriesContext(get_connection()) as queries:
        Tag.objects.create(name="first")
    assert ["INSERT", "SELECT"] == [query["sql"].split()[0] for query in queries]


def test_a_refused_statement_leaves_no_transaction_open_and_keeps_its_error() -> None:
    Uniq.objects.create(k="taken")
    with pytest.raises(IntegrityError):
        Uniq.objects.create(k="taken")
    assert is_idle(get_connection())
    Uniq.objects.create(k="free")
    assert 2 == Uniq.objects.count() == Event.objects.filter(signal="post_save", outcome="committed").count()


def test_code_within_the_write_finds_an_open_block() -> None:
    found: list[Any] = []
    with calling_in_pre_save(lambda: found.append(get_connection().in_atomic_block)):
        Tag.objects.create(name="first")
    assert {True} == set(found)


def explain(execute: Any, sql: Any, params: Any, many: bool, context: Any) -> Any:
    """Send EXPLAIN after each statement, also after one that failed, as tools that analyze statements do."""
    try:
        return execute(sql, params, many, context)
    finally:
        if str(sql).startswith("UPDATE"):
            execute(f"EXPLAIN {sql}", params, many, context)


def test_a_statement_that_code_sends_after_a_failure_does_not_hide_the_failure() -> None:
    Uniq.objects.create(k="taken")
    Uniq.objects.create(k="free")
    connection = get_connection()
    with connection.execute_wrapper(explain), pytest.raises(IntegrityError, match=r"(?i)unique|duplicate"):
        Uniq.objects.filter(k="free").update(k="taken")
    assert is_idle(connection)
    assert 1 == Uniq.objects.filter(k="free").count()


@pytest.mark.postgres
def test_an_error_from_before_the_write_does_not_replace_the_error_of_the_write() -> None:
    """The write fails in a transaction that another statement has broken, whose error the application caught."""
    Uniq.objects.create(k="taken")

    def fail() -> None:
        with suppress(ProgrammingError), get_connection().cursor() as cursor:
            cursor.execute("SELECT missing FROM nowhere")

    with calling_in_pre_save(fail):
        try:
            Uniq.objects.create(k="taken")
        except IntegrityError:
            with pytest.raises(InternalError, match="current transaction is aborted"):
                Tag.objects.create(name="first")
    assert is_idle(get_connection())


@pytest.mark.postgres
def test_the_isolation_level_of_the_connection_does_not_change(separate: Any) -> None:
    import psycopg

    separate.ensure_connection()
    separate.connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
    with autocommit.ImplicitTransaction(separate), separate.cursor() as cursor:
        cursor.execute("SHOW transaction_isolation")
        assert ("serializable",) == cursor.fetchone()
    assert is_idle(separate)


def test_writers_that_read_first_wait_for_each_other() -> None:
    """SQLite: a transaction that reads before it writes fails at once if another one wrote in between."""
    errors: list[Exception] = []

    def work(name: str) -> None:
        try:
            for _ in range(20):
                Tag.objects.create(name=name)
        except DatabaseError as error:
            errors.append(error)
        finally:
            connections.close_all()

    with calling_in_pre_save(Tag.objects.count):
        threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [] == errors
    assert 40 == Tag.objects.count() == len(saves(outcome="committed"))


# ------------------------------------------------------------------ transactions that Django does not know of


def test_a_save_within_a_raw_begin_is_undone_by_its_rollback() -> None:
    begin()
    Tag.objects.create(name="undone")
    end("ROLLBACK")
    assert not Tag.objects.exists()
    exporter.flush()
    assert [] == saves()
    assert is_idle(get_connection())


def test_a_save_within_a_raw_begin_is_recorded_with_its_commit() -> None:
    begin()
    Tag.objects.create(name="kept")
    end("COMMIT")
    assert ["kept"] == list(Tag.objects.values_list("name", flat=True))
    assert ["kept"] == saves(outcome="committed")


def test_bulk_operations_join_a_raw_begin() -> None:
    Tag.objects.create(name="before")
    begin()
    Tag.objects.update(name="changed")
    Tag.objects.bulk_create([Tag(name="another")]) if django.VERSION >= (6, 0) else None  # before, Django begins itself
    end("ROLLBACK")
    assert ["before"] == list(Tag.objects.values_list("name", flat=True))
    exporter.flush()
    assert not Event.objects.filter(sender="shop.Tag", signal__in=["update", "bulk_create"]).exists()


def test_after_a_foreign_transaction_old_values_are_unknown_until_the_next_read() -> None:
    tag = Tag.objects.create(name="first")
    begin()
    tag.name = "second"
    tag.save()
    end("ROLLBACK")
    tag.name = "third"
    tag.save()
    event = Event.objects.filter(signal="post_save").latest("id")
    assert "third" == event.data["changes"]["name"][-1]
    assert "second" not in event.data["changes"]["name"], "it was rolled back, or was it?"
    tag.refresh_from_db()
    tag.name = "fourth"
    tag.save()
    assert ["third", "fourth"] == Event.objects.filter(signal="post_save").latest("id").data["changes"]["name"]


def test_a_receiver_s_result_follows_an_event_of_a_foreign_transaction() -> None:
    def receiver(**kwargs: Any) -> None:
        """Only to be recorded."""

    post_save.connect(receiver, sender=Tag)
    try:
        begin()
        Tag.objects.create(name="kept")
        end("COMMIT")
    finally:
        post_save.disconnect(receiver, sender=Tag)
    exporter.flush()
    [event] = Event.objects.filter(signal="post_save")
    assert 1 == len(event.data["receivers"])


def test_a_delivery_is_made_within_a_foreign_transaction(durable_tags: None) -> None:
    begin()
    Tag.objects.create(name="kept")
    end("COMMIT")
    begin()
    Tag.objects.create(name="undone")
    end("ROLLBACK")
    assert 1 == Delivery.objects.count()


@pytest.mark.postgres
def test_a_save_within_a_transaction_of_psycopg_is_undone_with_it() -> None:
    get_connection().ensure_connection()

    def fail() -> None:
        raw: Any = get_connection().connection
        with raw.transaction():
            Tag.objects.create(name="undone")
            raise ValueError("undo")

    with pytest.raises(ValueError, match="undo"):
        fail()
    assert not Tag.objects.exists()


@contextmanager
def driver_without_autocommit() -> Iterator[None]:
    """Switch off autocommit of the driver or the session. Django does not know of it."""
    connection = get_connection()
    connection.ensure_connection()
    raw: Any = connection.connection
    match connection.vendor:
        case "postgresql":
            raw.autocommit = False
        case "sqlite":
            raw.isolation_level = "DEFERRED"
        case _:
            end("SET autocommit = 0")
    try:
        yield
    finally:
        connection.close()


@pytest.mark.parametrize("mode", ["atomic", "after"])
def test_a_save_without_the_driver_s_autocommit_is_not_committed_by_recording(mode: str) -> None:
    with override_settings(SIGNALBOX={"AUTOCOMMIT": mode}):
        with driver_without_autocommit():
            raw: Any = get_connection().connection
            Tag.objects.create(name="undone")
            Tag.objects.filter(name="undone").update(name="changed")
            exporter.flush()
            raw.rollback()
            Tag.objects.create(name="kept")
            raw.commit()
            Tag.objects.create(name="not committed")
        assert ["kept"] == list(Tag.objects.values_list("name", flat=True))
        exporter.flush()
        assert ["kept"] == saves(outcome="committed")
        assert not Event.objects.filter(signal="update").exists()


# ------------------------------------------------------------------ AUTOCOMMIT = "after"


@pytest.fixture
def after() -> Iterator[None]:
    with override_settings(SIGNALBOX={"AUTOCOMMIT": "after"}):
        yield


@pytest.mark.usefixtures("after")
def test_after_opens_no_transaction() -> None:
    found: list[bool] = []
    with calling_in_pre_save(lambda: found.append(get_connection().in_atomic_block)):
        Tag.objects.create(name="first")
    assert {False} == set(found)


@pytest.mark.usefixtures("after")
def test_after_writes_the_events_with_their_trace() -> None:
    with signalbox.trace("import"):
        Tag.objects.create(name="first")
        Tag.objects.filter(name="first").update(name="second")
        Tag.objects.get().delete()
    events = Event.objects.filter(sender="shop.Tag", outcome="committed").order_by("span")
    assert ["post_save", "update", "post_delete"] == [event.signal for event in events if event.signal[:3] != "pre"]


@pytest.mark.usefixtures("after")
def test_after_records_a_failed_statement_as_no_save() -> None:
    Uniq.objects.create(k="taken")
    with pytest.raises(IntegrityError):
        Uniq.objects.create(k="taken")
    exporter.flush()
    assert ["committed"] == [event.outcome for event in Event.objects.filter(signal="post_save")]


@pytest.mark.usefixtures("after")
def test_after_knows_old_values() -> None:
    tag = Tag.objects.create(name="first")
    tag.name = "second"
    tag.save()
    exporter.flush()
    assert ["first", "second"] == Event.objects.filter(signal="post_save").latest("span").data["changes"]["name"]


@pytest.mark.usefixtures("after")
def test_after_writes_a_model_with_a_durable_receiver_in_a_transaction(durable_tags: None) -> None:
    found: list[bool] = []
    with calling_in_pre_save(lambda: found.append(get_connection().in_atomic_block)):
        Tag.objects.create(name="first")
    assert {True} == set(found)
    assert 1 == Delivery.objects.count()


@pytest.mark.usefixtures("after")
def test_after_does_not_touch_transactions_of_the_application() -> None:
    with pytest.raises(ValueError, match="undo"), transaction.atomic():
        Tag.objects.create(name="undone")
        raise ValueError("undo")
    with transaction.atomic():
        Tag.objects.create(name="kept")
    exporter.flush()
    assert ["kept"] == saves(outcome="committed")
    assert ["undone"] == saves(outcome="rolled_back")


# ------------------------------------------------------------------ interrupts


class TimeLimit(Exception):
    """Raised by the handler of an alarm, like the soft time limit of a task queue."""


@contextmanager
def alarms() -> Iterator[None]:
    def handler(*args: Any) -> None:
        raise TimeLimit

    before = signal.signal(signal.SIGALRM, handler)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        remove_blocks()


def remove_blocks() -> None:
    """Remove the blocks of queries that a time limit has left, which otherwise end with the next query."""
    for one in connections.all(initialized_only=True):
        for name, block in list(vars(one).items()):
            if isinstance(block, query_guard._Blocked):
                replaced = block.args[2]
                if replaced is None:
                    del vars(one)[name]
                else:
                    vars(one)[name] = replaced


def run_before(seconds: float, work: Callable[[], Any]) -> None:
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        work()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it may strike in a finalizer
def test_a_time_limit_reaches_the_application_unchanged_wherever_it_strikes() -> None:
    if get_connection().vendor == "mysql":
        pytest.skip("MySQLdb raises an error of its own when it closes the cursor of an interrupted statement")
    struck = 0
    with alarms():
        for step in range(150):
            get_connection().ensure_connection()
            try:
                run_before(0.00003 * (step + 1), lambda: Order.objects.create(number="1"))
            except TimeLimit:
                struck += 1
                assert is_idle(get_connection())
                get_connection().close()  # the interrupted statement may still be in progress
    assert struck
    exporter.flush()
    committed = Event.objects.filter(signal="post_save", outcome="committed").count()
    assert committed == Order.objects.count()


@pytest.mark.skipif(connections["default"].vendor == "mysql", reason="MySQL has no deferred constraints")
def test_a_failure_while_a_time_limit_is_handled_is_the_application_s() -> None:
    def handler(*args: Any) -> None:
        raise TimeLimit

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        signal.raise_signal(signal.SIGUSR1)
    except TimeLimit:
        with pytest.raises(IntegrityError):
            Ref.objects.create(order_id=999)  # fails at COMMIT
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert is_idle(get_connection())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.postgres
def test_a_time_limit_within_a_query_of_the_catalogue_is_not_swallowed() -> None:
    """PostgreSQL: an update asks first whether it may return rows."""
    struck = 0
    with alarms():
        for step in range(150):
            get_connection().ensure_connection()
            try:
                run_before(0.00003 * (step + 1), lambda: Tag.objects.filter(name="a").update(name="b"))
            except TimeLimit:
                struck += 1
            get_connection().close()  # the interrupted statement may still be in progress
    assert struck


@pytest.fixture
def durable_tags() -> Iterator[None]:
    from signalbox.outbox import registry
    from tests.outbox import receivers

    signalbox.receiver(post_save, sender="shop.Tag", durable=True)(receivers.saved)
    yield
    for name in list(registry.get_durable_receivers()):
        registry.disconnect(name)
    processors.uninstall(OUTBOX)
    signalbox.start_recording()
