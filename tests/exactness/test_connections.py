"""Threads, processes, event loops, and connections that end before their transaction does."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import (
    DatabaseError,
    Error,
    OperationalError,
    close_old_connections,
    connection,
    connections,
    transaction,
)

import signalbox
from signalbox.models import Event
from signalbox.pipeline import exporter, unit_of_work
from signalbox.pipeline.backends import postgresql
from tests.connecting import get_connection
from tests.exactness import register
from tests.exactness.blocks import create_tag, rolled_back_atomic
from tests.outbox.proxy import Proxy
from tests.shop.models import Tag, Uniq

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])


def in_thread(work: Callable[[], object]) -> threading.Thread:
    """Start `work` in a thread that closes its connections."""

    def run() -> None:
        try:
            work()
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_each_thread_has_its_own_unit_of_work() -> None:
    def work() -> None:
        for number in range(10):
            with suppress(KeyError), transaction.atomic():
                create_tag(f"{threading.get_ident()} {number}")
                if number % 3 == 0:
                    raise KeyError

    for thread in [in_thread(work) for _ in range(6)]:
        thread.join()
    assert 36 == len(register.assert_rows_match())
    get_connection().ensure_connection()
    exporter.flush()
    assert 24 == len(register.read_recorded_values("rolled_back", "post_save"))


def test_another_threads_open_transaction_is_not_committed_by_this_one() -> None:
    if get_connection().vendor == "sqlite":
        pytest.skip("one writer at a time")
    begun, go = threading.Event(), threading.Event()

    def work() -> None:
        with rolled_back_atomic():
            create_tag("theirs")
            begun.set()
            assert go.wait(60)

    thread = in_thread(work)
    assert begun.wait(60)
    create_tag("mine")
    assert ["mine"] == register.assert_rows_match()
    go.set()
    thread.join()
    assert ["mine"] == register.assert_rows_match()


def child(work: Callable[[], object]) -> int:
    """Fork, and return the exit status of the child. It does not use the connections of the parent."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    status = 1
    try:
        work()
        status = 0
    finally:
        os._exit(status)


def test_the_parent_writes_the_events_after_a_fork_within_a_transaction() -> None:
    def work() -> None:
        own = unit_of_work.get_unit_of_work(get_connection())
        assert own is not None
        assert [] == own.events
        assert not exporter.has_pending()

    with transaction.atomic():
        create_tag("a")
        assert 0 == child(work)
        create_tag("b")
    assert ["a", "b"] == register.assert_rows_match()


def test_a_forked_child_records_what_it_does_itself() -> None:
    def work() -> None:
        in_thread(lambda: create_tag("childs")).join()

    if get_connection().vendor == "sqlite":
        create_tag("parents")
        connections.close_all()  # SQLite's files don't survive a fork
        assert 0 == child(work)
    else:
        with transaction.atomic():
            create_tag("parents")
            assert 0 == child(work)
    assert ["childs", "parents"] == register.assert_rows_match()
    assert 2 == len({event.span for event in Event.objects.filter(signal="post_save")})


def test_pending_events_of_the_parent_are_written_once() -> None:
    def work() -> None:
        connection.ensure_connection()
        exporter.flush()

    with transaction.atomic():  # which the rolled-back event has to wait for
        with rolled_back_atomic(using="other"):
            create_tag("a", "other")
        assert exporter.has_pending()
        assert 0 == child(lambda: in_thread(work).join())
    assert ["a"] == register.read_recorded_values("rolled_back", "post_save")


def in_this_thread(work: Coroutine[Any, Any, None]) -> None:
    async def run() -> None:
        await work

    async_to_sync(run)()


@pytest.mark.parametrize("run", [asyncio.run, in_this_thread])
class TestAsync:
    """Writes in a thread of the event loop, or in this one."""

    def test_the_async_orm(self, run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        async def work() -> None:
            await Tag.objects.acreate(name="a")
            one = Tag(name="b")
            await one.asave()
            await one.adelete()
            await asyncio.gather(*(Tag.objects.acreate(name=str(number)) for number in range(10)))
            await sync_to_async(connections.close_all)()

        run(work())
        assert 11 == len(register.assert_rows_match())

    def test_a_transaction_in_sync_to_async(self, run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        def in_sync() -> None:
            with rolled_back_atomic():
                create_tag("a")
            with transaction.atomic():
                create_tag("b")

        async def work() -> None:
            await sync_to_async(in_sync)()
            assert ["b"] == await sync_to_async(register.assert_rows_match)()
            await sync_to_async(exporter.flush)()
            await sync_to_async(connections.close_all)()

        run(work())
        assert ["a"] == register.read_recorded_values("rolled_back", "post_save")


class TestOpenBefore:
    """A connection of another thread that was open when recording was started."""

    def test_saves_of_its_thread_are_recorded(self) -> None:
        def elsewhere(ready: threading.Event, go: threading.Event) -> None:
            Tag.objects.exists()
            ready.set()
            go.wait(60)
            create_tag("a")
            with transaction.atomic():
                create_tag("b")
                with rolled_back_atomic():
                    create_tag("c")
            connections.close_all()

        ready, go = threading.Event(), threading.Event()
        thread = threading.Thread(target=elsewhere, args=(ready, go))
        thread.start()
        ready.wait(60)
        signalbox.stop_recording()
        signalbox.start_recording()
        go.set()
        thread.join()
        assert ["a", "b"] == register.assert_rows_match()


def kill() -> None:
    """End the connection of this thread on the server."""
    if get_connection().vendor == "postgresql":
        number = get_connection().connection.info.backend_pid
        end, find = "SELECT pg_terminate_backend({})", "SELECT 1 FROM pg_stat_activity WHERE pid = {}"
    else:
        with get_connection().cursor() as cursor:
            cursor.execute("SELECT connection_id()")
            number = cursor.fetchone()[0]
        end, find = "KILL {}", "SELECT 1 FROM information_schema.processlist WHERE id = {}"
    register.execute("default", end.format(number))
    wait_until(lambda: not register.execute("default", find.format(number)))


def wait_until(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has no server")
class TestLost:
    def test_a_connection_that_is_lost_within_a_transaction(self) -> None:
        def write() -> None:
            with transaction.atomic():
                create_tag("a")
                kill()
                create_tag("b")

        with pytest.raises(Error):
            write()
        connection.close()
        with transaction.atomic():
            create_tag("c")
        assert ["c"] == register.assert_rows_match()

    def test_a_connection_that_is_lost_before_the_commit(self) -> None:
        def write() -> None:
            with transaction.atomic():
                create_tag("a")
                kill()

        with pytest.raises(OperationalError):  # the class that the application gets without recording
            write()
        connection.close()
        create_tag("c")
        assert ["c"] == register.assert_rows_match()
        exporter.flush()
        assert ["a"] == register.read_recorded_values("rolled_back", "post_save")  # no COMMIT was sent

    def test_a_connection_that_is_lost_after_the_events_were_written(self) -> None:
        def write() -> None:
            with transaction.atomic():
                create_tag("a")
                unit_of_work.flush_all()
                kill()

        with pytest.raises(Error):
            write()
        connection.close()
        create_tag("c")
        assert ["c"] == register.assert_rows_match()

    def test_a_connection_that_is_lost_between_two_saves(self) -> None:
        create_tag("a")
        kill()
        with suppress(Error):
            create_tag("b")
        connection.close()
        create_tag("c")
        assert ["a", "c"] == register.assert_rows_match()


@pytest.mark.postgres
class TestAborted:
    """A caught error has aborted the transaction of PostgreSQL, which answers COMMIT with ROLLBACK."""

    def test_an_error_of_a_raw_statement(self) -> None:
        with transaction.atomic():
            create_tag("a")
            with suppress(DatabaseError), connection.cursor() as cursor:
                cursor.execute("SELECT * FROM nowhere")
        assert [] == register.assert_rows_match()
        exporter.flush()
        assert ["a"] == register.read_recorded_values("rolled_back", "post_save")

    def test_an_error_of_the_orm(self) -> None:
        with transaction.atomic():
            Uniq.objects.create(k="a")
            with suppress(DatabaseError):
                Uniq.objects.create(k="a")
        assert [] == register.assert_rows_match("shop.Uniq")

    def test_a_manual_commit(self) -> None:
        transaction.set_autocommit(False)
        create_tag("a")
        with suppress(DatabaseError), connection.cursor() as cursor:
            cursor.execute("SELECT * FROM nowhere")
        transaction.commit()
        create_tag("b")
        transaction.commit()
        transaction.set_autocommit(True)
        assert ["b"] == register.assert_rows_match()


def test_closing_the_connection_within_a_block_rolls_back() -> None:
    with transaction.atomic():
        create_tag("a")
        connection.close()
    create_tag("b")
    assert ["b"] == register.assert_rows_match()
    exporter.flush()
    assert ["a"] == register.read_recorded_values("rolled_back", "post_save")


@pytest.mark.postgres
def test_closing_sends_no_question_about_schemas(monkeypatch: pytest.MonkeyPatch) -> None:
    """The schema of the rolled back event is not known any more, as if a transaction had lasted long."""
    monkeypatch.setattr(postgresql, "LAYOUT_SECONDS", 0.0)
    with transaction.atomic():
        create_tag("a")
        connection.close()
    create_tag("b")
    assert ["b"] == register.assert_rows_match()


def test_closing_within_a_request_opens_no_other_connection() -> None:
    """With a pool, a connection that is opened while another is closed would never be returned."""
    with transaction.atomic():
        create_tag("a")
        connection.close()
        assert get_connection().closed_in_transaction
        with pytest.raises(DatabaseError):
            create_tag("b")
    assert not get_connection().in_atomic_block
    assert [] == register.assert_rows_match()


def test_closing_a_manual_transaction_opens_no_other_connection() -> None:
    """The rolled back events are written when the next connection is opened."""
    transaction.set_autocommit(False)
    create_tag("a")
    connection.close()
    assert get_connection().connection is None
    if (pool := getattr(get_connection(), "pool", None)) is not None:
        # A pool that was just opened still makes connections.
        wait_until(lambda: (stats := pool.get_stats())["pool_size"] == stats["pool_available"])
    create_tag("b")
    assert ["b"] == register.assert_rows_match()


def test_persistent_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(get_connection().settings_dict, "CONN_MAX_AGE", None)
    if get_connection().settings_dict["OPTIONS"].get("pool"):
        pytest.skip("a pool takes no CONN_MAX_AGE")
    get_connection().ensure_connection()
    raw = get_connection().connection
    for number in range(3):
        close_old_connections()
        with suppress(KeyError), transaction.atomic():
            create_tag(str(number))
            if number == 1:
                raise KeyError
        close_old_connections()
    assert raw is get_connection().connection
    assert ["0", "2"] == register.assert_rows_match()


def test_a_connection_that_is_opened_again_starts_empty() -> None:
    for name in ("a", "b"):
        create_tag(name)
        connection.close()
        with rolled_back_atomic():
            create_tag("c")
    assert ["a", "b"] == register.assert_rows_match()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """The proxy between the connection of this thread and the server."""
    its = get_connection().settings_dict
    before = its["HOST"], its["PORT"]
    proxy = Proxy(its["HOST"] or "127.0.0.1", int(its["PORT"] or 5432))
    _hang_up()
    its["HOST"], its["PORT"] = "127.0.0.1", str(proxy.port)
    yield proxy
    proxy.end()
    _hang_up()
    its["HOST"], its["PORT"] = before


def _hang_up() -> None:
    """Close all connections, also those in a pool."""
    get_connection().close()
    if get_connection().pool is not None:
        get_connection().close_pool()


@pytest.mark.postgres
@pytest.mark.parametrize("flush_threshold", [1, 1000])
def test_a_commit_whose_answer_is_lost_keeps_row_and_event_together(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, flush_threshold: int
) -> None:
    monkeypatch.setattr(unit_of_work, "FLUSH_THRESHOLD", flush_threshold)
    create_tag("before")
    proxy.drop_reply_to = b"COMMIT"

    def write() -> None:
        with transaction.atomic():
            create_tag("a")

    with pytest.raises(DatabaseError):
        write()
    proxy.drop_reply_to = b""
    get_connection().close()
    create_tag("c")
    exporter.flush()
    assert ["a", "before", "c"] == sorted(register.assert_rows_match())
    assert [] == register.read_recorded_values("rolled_back", "post_save")  # the outcome is unknown here
