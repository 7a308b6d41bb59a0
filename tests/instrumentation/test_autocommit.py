"""The transactions that recording opens: how they find their connection, and how they begin."""

from __future__ import annotations

import asyncio
import threading
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import IntegrityError, connections, transaction
from django.utils.connection import ConnectionDoesNotExist

from signalbox.instrumentation import autocommit
from signalbox.models import Event
from tests.connecting import get_connection
from tests.shop.models import Tag, Uniq

if TYPE_CHECKING:
    from collections.abc import Iterator


def found() -> tuple[Any, Any]:
    return autocommit.get_connection("default"), connections["default"]


def in_thread() -> tuple[Any, Any]:
    pair: list[Any] = []

    def look() -> None:
        pair.extend(found())

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    return pair[0], pair[1]


async def in_loop() -> tuple[Any, Any]:
    return found()


async def beside_loop() -> tuple[Any, Any]:
    return await sync_to_async(found)()


def test_the_connection_is_the_one_that_django_finds_wherever_it_is_asked() -> None:
    pairs = {
        "here": found(),
        "in a thread": in_thread(),
        "in an event loop": asyncio.run(in_loop()),
        "beside an event loop": async_to_sync(beside_loop)(),
    }
    assert dict.fromkeys(pairs, True) == {name: mine is its for name, (mine, its) in pairs.items()}
    assert pairs["here"][0] is not pairs["in a thread"][0]
    assert autocommit._connection_storage is not None, (
        "it is found the short way, unless asgiref keeps it elsewhere by now"
    )


def test_another_connection_that_is_put_in_its_place_is_found() -> None:
    before = connections["default"]
    other = before.copy()
    connections["default"] = other
    try:
        assert other is autocommit.get_connection("default")
    finally:
        connections["default"] = before
    assert before is autocommit.get_connection("default")


def test_a_database_that_there_is_not_is_djangos_error() -> None:
    with pytest.raises(ConnectionDoesNotExist):
        autocommit.get_connection("nowhere")


# ------------------------------------------------------------------ PostgreSQL: BEGIN with the first statement


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is given to the driver."""
    import psycopg

    texts: list[str] = []
    original = psycopg.ClientCursor.execute

    def execute(self: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
        texts.append(str(query))
        return original(self, query, *args, **kwargs)

    monkeypatch.setattr(psycopg.ClientCursor, "execute", execute)
    return texts


@pytest.fixture
def loose() -> Iterator[Any]:
    """A connection of its own to the database under test."""
    made = get_connection().copy("loose")
    connections["loose"] = made
    try:
        yield made
    finally:
        made.close()
        made.close_pool()
        del connections["loose"]


def idle(connection: Any) -> bool:
    return bool(
        connection.autocommit
        and not connection.in_atomic_block
        and not connection.execute_wrappers
        and connection.connection.info.transaction_status == 0
    )


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_a_save_in_autocommit_takes_two_messages_and_no_more(sent: list[str]) -> None:
    tag = Tag.objects.create(name="first")
    sent.clear()
    tag.save()
    first, second = sent
    assert first.startswith("BEGIN; UPDATE ")
    assert second.endswith("; COMMIT")
    assert idle(get_connection())
    assert 2 == Event.objects.filter(signal="post_save", outcome="committed").count()


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_an_applications_wrapper_sees_its_own_statement() -> None:
    seen: list[str] = []

    def wrapper(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        seen.append(sql)
        return execute(sql, params, many, context)

    with get_connection().execute_wrapper(wrapper):
        tag = Tag.objects.create(name="first")
    assert 1 == len(seen)
    assert seen[0].startswith("INSERT ")
    assert tag.pk, "what is returned is the answer to the application's statement"


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_a_transaction_begins_once_where_an_applications_wrapper_asks_something_itself(sent: list[str]) -> None:
    asked: list[Any] = []

    def wrapper(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if not asked:
            asked.append(None)
            with get_connection().cursor() as cursor:
                cursor.execute("SELECT 17")
                asked.append(cursor.fetchone())
        return execute(sql, params, many, context)

    with get_connection().execute_wrapper(wrapper):
        tag = Tag.objects.create(name="first")
    assert [None, (17,)] == asked
    assert ["BEGIN; SELECT 17"] == [text for text in sent if "BEGIN" in text]
    assert tag.pk
    assert idle(get_connection())


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_a_statement_that_is_refused_leaves_nothing_open() -> None:
    Uniq.objects.create(k="taken")
    with pytest.raises(IntegrityError):
        Uniq.objects.create(k="taken")
    assert idle(get_connection())
    Uniq.objects.create(k="free")
    assert 2 == Uniq.objects.count() == Event.objects.filter(signal="post_save", outcome="committed").count()


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_a_block_in_which_nothing_is_sent_begins_nothing(sent: list[str]) -> None:
    Tag.objects.create(name="before")
    sent.clear()
    assert 0 == Tag.objects.filter(pk__in=[]).update(name="nobody")
    assert [] == sent
    with autocommit.ImplicitTransaction(get_connection()):
        pass
    assert [] == sent
    assert idle(get_connection())


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("first", ["many", "composed", "named", "savepoint"])
def test_a_first_statement_that_begins_nothing_itself_comes_after_a_begin(first: str) -> None:
    from psycopg import sql

    insert = "INSERT INTO shop_uniq (k) VALUES (%s)"

    def work() -> None:
        if first == "named":
            with get_connection().chunked_cursor() as chunked:
                chunked.execute("SELECT 1")
                assert (1,) == chunked.fetchone()
        with transaction.atomic() if first == "savepoint" else nullcontext(), get_connection().cursor() as cursor:
            if first == "many":
                cursor.executemany(insert, [("a",), ("b",)])
            elif first == "composed":
                cursor.execute(sql.SQL("INSERT INTO shop_uniq (k) VALUES ({})").format(sql.Literal("a")))
            else:
                cursor.execute(insert, ["a"])

    def fail() -> None:
        with autocommit.ImplicitTransaction(get_connection()):
            work()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert idle(get_connection())
    assert not Uniq.objects.exists(), "it was in a transaction"
    with autocommit.ImplicitTransaction(get_connection()):
        work()
    assert idle(get_connection())
    assert Uniq.objects.exists()


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_a_connection_whose_transactions_begin_in_another_way_begins_them_so(loose: Any) -> None:
    import psycopg

    loose.ensure_connection()
    loose.connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
    with autocommit.ImplicitTransaction(loose), loose.cursor() as cursor:
        cursor.execute("SHOW transaction_isolation")
        assert ("serializable",) == cursor.fetchone()
    assert idle(loose)


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_parameters_that_the_server_binds_go_without_a_begin_in_their_message(loose: Any) -> None:
    loose.settings_dict = {**loose.settings_dict, "OPTIONS": {"server_side_binding": True}}
    loose.features.__dict__.pop("uses_server_side_binding", None)

    def fail() -> None:
        with autocommit.ImplicitTransaction(loose), loose.cursor() as cursor:
            cursor.execute("INSERT INTO shop_uniq (k) VALUES (%s) RETURNING k", ["a"])
            assert ("a",) == cursor.fetchone()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert idle(loose)
    assert not Uniq.objects.exists()


# ------------------------------------------------------------------ MariaDB: autocommit stays as it is


def _sent_to_mariadb() -> dict[str, int]:
    with get_connection().cursor() as cursor:
        cursor.execute("SHOW SESSION STATUS WHERE Variable_name IN ('Com_begin', 'Com_commit', 'Com_set_option')")
        return {name: int(value) for name, value in cursor.fetchall()}


@pytest.mark.mariadb
@pytest.mark.django_db(transaction=True)
def test_a_save_in_autocommit_begins_without_turning_it_off() -> None:
    Tag.objects.create(name="first")
    before = _sent_to_mariadb()
    Tag.objects.create(name="second")
    after = _sent_to_mariadb()
    sent = {name: after[name] - before[name] for name in after}
    assert {"Com_begin": 1, "Com_commit": 1, "Com_set_option": 0} == sent
    assert 2 == Event.objects.filter(signal="post_save", outcome="committed").count()
