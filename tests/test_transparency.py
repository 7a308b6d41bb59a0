"""With Signalbox and without it, an application sees the same."""

from __future__ import annotations

import gc
import inspect
import logging
import pickle
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property, partial
from typing import Any, TypeVar

import pytest
from asgiref.sync import async_to_sync, iscoroutinefunction
from django.db import IntegrityError, connection, connections, models, transaction
from django.db.models.signals import ModelSignal, m2m_changed, post_delete, post_init, post_save, pre_delete, pre_save
from django.dispatch import Signal, receiver
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from pytest_django import DjangoAssertNumQueries

import signalbox
from signalbox.core import catalog
from signalbox.instrumentation import install
from signalbox.pipeline import unit_of_work
from tests.shop.models import Customer, Enrolment, Item10, Order, OrderLine, Person, Restaurant, Tag

pytestmark = [pytest.mark.every_database, pytest.mark.django_db(databases=["default", "other"])]

T = TypeVar("T")
METHODS = ["send", "send_robust", "asend", "asend_robust"]


@pytest.fixture(autouse=True)
def reinstalled() -> Iterator[None]:
    yield
    signalbox.start_recording()


def both(observe: Callable[[], T]) -> T:
    """Return what `observe` returns, with Signalbox and without it: the same."""
    assert install.is_recording()
    with_it = observe()
    signalbox.stop_recording()
    without = observe()
    signalbox.start_recording()
    assert without == with_it
    return without


def new_signal(kind: type[Signal] = Signal, **options: Any) -> Signal:
    """Return a signal whose sends are recorded where Signalbox is installed."""
    signal = kind(**options)
    signalbox.register_signal(signal, "tests.undisturbed")
    assert install.is_recording() == ("send" in signal.__dict__)
    return signal


def sent(signal: Signal, method: str, sender: object = None, /, **named: Any) -> Any:
    """Send it, and return what that returns, or the exception that it raises."""
    send = getattr(signal, method)
    try:
        return async_to_sync(send)(sender, **named) if method.startswith("a") else send(sender, **named)
    except BaseException as error:  # noqa: BLE001 - any at all is what the application would see
        return error


def plain(answer: Any) -> Any:
    """Return answers as values that compare."""
    if isinstance(answer, BaseExceptionGroup):
        return type(answer), [plain(error) for error in answer.exceptions]
    if isinstance(answer, BaseException):
        return type(answer), str(answer), type(answer.__context__), type(answer.__cause__)
    if isinstance(answer, list):
        return [(who, plain(what)) for who, what in answer]
    return answer


class Listener:
    """Receivers of every kind, that answer with their names and note their calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def note(self, name: str) -> str:
        self.calls.append(name)
        return name

    def method(self, **named: Any) -> str:
        return self.note("method")

    def failing_method(self, **named: Any) -> None:
        self.note("failing method")
        raise ValueError("of a method")

    def __call__(self, **named: Any) -> None:
        self.note("instance")

    async def later(self, **named: Any) -> str:
        return self.note("later")

    async def failing_later(self, **named: Any) -> str:
        self.note("failing later")
        raise LookupError("later")

    def receivers(self, *names: str) -> dict[str, Any]:
        def function(**named: Any) -> str:
            return self.note("function")

        def failing(**named: Any) -> None:
            self.note("failing")
            raise KeyError("of a function")

        def exiting(**named: Any) -> None:
            self.note("exiting")
            raise SystemExit(3)

        every = {
            "function": function,
            "method": self.method,
            "instance": self,
            "later": self.later,
            "failing": failing,
            "failing method": self.failing_method,
            "failing later": self.failing_later,
            "exiting": exiting,
        }
        return {name: every[name] for name in names}


MIXES = [
    (),
    ("function",),
    ("instance", "function", "method"),
    ("later",),
    ("function", "later", "method"),
    ("function", "failing", "method"),
    ("failing method", "function"),
    ("failing later", "later"),
    ("failing", "later"),
    ("function", "exiting", "method"),
]


@pytest.mark.parametrize("mix", MIXES, ids=", ".join)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("caching", [False, True], ids=["uncached", "cached"])
def test_answers_exceptions_and_the_order_of_receivers(
    method: str, mix: tuple[str, ...], caching: bool, caplog: pytest.LogCaptureFixture
) -> None:
    class Sender:
        pass

    def observe() -> tuple[Any, ...]:
        caplog.clear()
        listener = Listener()
        signal = new_signal(use_caching=caching)
        chosen = listener.receivers(*mix)
        for one in chosen.values():
            signal.connect(one, sender=Sender)
        answers = []
        for _ in range(2):
            answer = sent(signal, method, Sender, value=1)
            if isinstance(answer, list):
                names = {id(one): name for name, one in chosen.items() if not inspect.ismethod(one)}
                methods = {one: name for name, one in chosen.items() if inspect.ismethod(one)}
                answer = [(names.get(id(who)) or methods[who], what) for who, what in answer]
            answers.append(plain(answer))
        logged = [(record.name, record.levelname, record.getMessage()) for record in caplog.records]
        return answers, listener.calls, logged

    with caplog.at_level(logging.DEBUG, "django.dispatch"):
        both(observe)


@pytest.mark.parametrize("method", METHODS)
def test_a_partial_that_fails_fails_as_in_django(method: str) -> None:
    """Django 5.2 names a failing receiver by an attribute that a partial doesn't have."""

    def failing(**named: Any) -> None:
        raise ValueError("of a partial")

    part = partial(failing, more=1)

    def observe() -> Any:
        signal = new_signal()
        signal.connect(part)
        answer = sent(signal, method)
        return plain([(who is part, what) for who, what in answer] if isinstance(answer, list) else answer)

    both(observe)


@pytest.mark.parametrize("method", METHODS)
def test_receivers_are_given_the_signal_itself_and_every_argument(method: str) -> None:
    def observe() -> list[Any]:
        found: list[Any] = []
        signal = new_signal()

        def listen(signal: Signal, sender: object, **named: Any) -> None:
            found.append((signal is own, sender, named))

        async def listen_later(signal: Signal, sender: object, **named: Any) -> None:
            found.append((signal is own, sender, named))

        own = signal
        signal.connect(listen)
        signal.connect(listen_later)
        value: list[int] = []
        sent(signal, method, "sender", value=value, draft=1, capture=2, method=3, named=4, robust=5)
        assert all(named["value"] is value for _, _, named in found)
        return found

    assert all(own for own, _, _ in both(observe))


def test_arguments_that_django_refuses_are_refused() -> None:
    def listen(**named: Any) -> None:
        pass

    def observe() -> list[type]:
        signal = new_signal()
        signal.connect(listen)
        found = [type(_error(partial(getattr(signal, method), None, signal=1))) for method in ("send", "asend")]
        [(_, robust)] = signal.send_robust(None, signal=1)
        return [*found, type(robust), type(_error(signal.send)), type(_error(lambda: signal.send(None, 1)))]  # type: ignore[call-arg]

    def _error(call: Callable[..., Any]) -> BaseException:
        with pytest.raises(TypeError) as caught:
            async_to_sync(call)() if iscoroutinefunction(call) else call()
        return caught.value

    assert [TypeError] * 5 == both(observe)


def test_a_collected_receiver_is_not_called() -> None:
    def observe() -> list[Any]:
        signal = new_signal()

        def listen(**named: Any) -> str:
            return "here"

        signal.connect(listen)
        before = [answer for _, answer in signal.send(None)]
        listening = signal.has_listeners()
        del listen
        gc.collect()
        return [before, listening, signal.send(None), signal.has_listeners(), len(signal.receivers)]

    assert [["here"], True, [], False, 0] == both(observe)


def test_a_method_is_disconnected_with_its_collected_instance() -> None:
    def observe() -> list[Any]:
        signal = new_signal()
        listener = Listener()
        signal.connect(listener.method)
        signal.send(None)
        del listener
        gc.collect()
        return [signal.send(None), signal.send_robust(None)]

    assert [[], []] == both(observe)


def test_a_dispatch_uid_connects_once() -> None:
    def observe() -> list[Any]:
        signal = new_signal()
        listener = Listener()
        for _ in range(2):
            signal.connect(lambda **named: listener.note("once"), weak=False, dispatch_uid="one")
        signal.send(None)
        return [listener.calls, signal.disconnect(dispatch_uid="one"), signal.send(None), listener.calls]

    assert [["once"], True, [], ["once"]] == both(observe)


def test_receivers_that_connect_and_disconnect_while_it_is_sent() -> None:
    def observe() -> list[Any]:
        signal = new_signal(use_caching=True)
        listener = Listener()
        late = listener.receivers("function")["function"]

        def first(**named: Any) -> None:
            listener.note("first")
            signal.connect(late)
            signal.disconnect(listener.method)

        signal.connect(first)
        signal.connect(listener.method)
        for _ in range(2):
            signal.send(Listener)
        return listener.calls

    both(observe)


def test_a_receiver_that_sends_the_same_signal() -> None:
    def observe() -> list[Any]:
        signal = new_signal()
        depths = []

        def listen(depth: int, **named: Any) -> int:
            depths.append(depth)
            if depth < 3:
                signal.send(None, depth=depth + 1)
            return depth

        signal.connect(listen)
        answers = [answer for _, answer in signal.send(None, depth=0)]
        return [answers, depths]

    assert [[0], [0, 1, 2, 3]] == both(observe)


def test_has_listeners() -> None:
    def observe() -> list[bool]:
        signals = [post_save, pre_save, post_delete, pre_delete, m2m_changed, post_init]
        quiet = [signal.has_listeners(sender) for signal in signals for sender in (Tag, Order.tags.through)]
        listener = Listener()
        post_save.connect(listener.method, sender=Tag)
        try:
            heard = [post_save.has_listeners(sender) for sender in (Tag, Order)]
        finally:
            post_save.disconnect(listener.method, sender=Tag)
        return [*quiet, *heard]

    assert [True, False] == both(observe)[-2:]


def test_the_cache_of_receivers() -> None:
    def observe() -> list[Any]:
        signal = new_signal(ModelSignal, use_caching=True)
        listener = Listener()
        sizes = []

        def look() -> None:
            sizes.append(
                {sender.__name__: type(held).__name__ for sender, held in signal.sender_receivers_cache.items()}
            )

        look()
        signal.send(Tag)
        look()
        signal.connect(listener.method, sender=Tag)
        look()
        signal.send(Tag)
        signal.send(Order)
        look()
        signal.disconnect(listener.method, sender=Tag)
        look()
        return sizes

    both(observe)


class Loud(Signal):
    """A signal whose send is its own."""

    def send(self, sender: Any, **named: Any) -> Any:
        answers = super().send(sender, **{**named, "loud": True})
        return [(receiver, f"{answer}!") for receiver, answer in answers]

    async def asend(self, sender: Any, **named: Any) -> Any:
        return ["own", *await super().asend(sender, **named)]


@pytest.mark.parametrize("method", METHODS)
def test_a_send_of_ones_own(method: str) -> None:
    def observe() -> list[Any]:
        signal = new_signal(Loud)
        found: list[dict[str, Any]] = []

        def listen(**named: Any) -> str:
            found.append({name: value for name, value in named.items() if name != "signal"})
            return "heard"

        signal.connect(listen)
        answer = sent(signal, method, value=1)
        return [[one if isinstance(one, str) else one[1] for one in answer], found]

    both(observe)


def test_recorded_signals_have_the_methods_of_django() -> None:
    def observe() -> list[Any]:
        signal = new_signal()
        return [
            [iscoroutinefunction(getattr(signal, method)) for method in METHODS],
            [getattr(signal, method).__name__ for method in METHODS],
            isinstance(signal, Signal),
            type(signal),
        ]

    both(observe)


def test_the_decorator() -> None:
    def observe() -> list[Any]:
        signals = [new_signal(), new_signal()]

        @receiver(signals, sender=Tag)
        def listen(**named: Any) -> str:
            return "heard"

        return [[answer for _, answer in signal.send(sender)] for signal in signals for sender in (Tag, Order)]

    assert [["heard"], [], ["heard"], []] == both(observe)


# ------------------------------------------------------------------ statements


def statements(work: Callable[[], Any]) -> list[str]:
    """Return the statements that `work` runs in a transaction, without their values."""
    with transaction.atomic():
        with CaptureQueriesContext(connection) as captured:
            work()
        transaction.set_rollback(True)
    return [re.sub(r"\d+", "0", re.sub(r"'[^']*'", "''", query["sql"])) for query in captured]


def _update(order: Order) -> None:
    order.number = "b"
    order.save()


def _pick(order: Order) -> None:
    order.note = "c"
    order.save(update_fields=["note"])


# Given keys are negative: the database gives the others.
WORKS: dict[str, Callable[[Order], Any]] = {
    "create": lambda order: Tag.objects.create(name="x"),
    "create with a key of two columns": lambda order: Enrolment.objects.create(
        person=Person.objects.create(name="p"), course="c"
    ),
    "save": _update,
    "save of one field": _pick,
    "save of an object without a row": lambda order: Tag(pk=-1, name="x").save(),
    "get_or_create": lambda order: Tag.objects.get_or_create(name="new"),
    "update_or_create": lambda order: Tag.objects.update_or_create(name="a", defaults={"name": "b"}),
    "refresh": lambda order: order.refresh_from_db(),
    "load": lambda order: list(Order.objects.all()),
    "load in part": lambda order: [row.note for row in Order.objects.only("number")],
    "delete": lambda order: order.delete(),
    "delete of an object without references": lambda order: OrderLine.objects.get().delete(),
    "delete of a queryset": lambda order: Tag.objects.all().delete(),
    "delete of a queryset that cascades": lambda order: Order.objects.all().delete(),
    "delete that sets null": lambda order: Customer.objects.all().delete(),
    "add": lambda order: order.tags.add(*Tag.objects.all()),
    "add by key": lambda order: order.tags.add(Tag.objects.create(name="n").pk),
    "remove": lambda order: order.tags.remove(*order.tags.all()),
    "set": lambda order: order.tags.set(Tag.objects.filter(name="b")),
    "clear": lambda order: order.tags.clear(),
    "add to the other side": lambda order: Tag.objects.get(name="b").orders.set([order]),
}


@pytest.mark.parametrize("name", WORKS)
def test_the_applications_statements_are_its_own(name: str) -> None:
    customer = Customer.objects.create(name="c")
    order = Order.objects.create(number="a", customer=customer)
    OrderLine.objects.create(order=order, sku="x")
    order.tags.add(Tag.objects.create(name="a"))
    Tag.objects.create(name="b")

    def observe() -> list[str]:
        fresh = Order.objects.get()
        return _without_keys(statements(lambda: WORKS[name](fresh)))

    assert both(observe)


BULK: dict[str, Callable[[], Any]] = {
    "bulk_create": lambda: Tag.objects.bulk_create([Tag(name=str(number)) for number in range(5)]),
    "bulk_create that ignores conflicts": lambda: Tag.objects.bulk_create([Tag(name="x")], ignore_conflicts=True),
    "bulk_update": lambda: Tag.objects.bulk_update(list(Tag.objects.all()), ["name"]),
    "update": lambda: Tag.objects.filter(name="a").update(name="b"),
    "update of nothing": lambda: Tag.objects.filter(name="nobody").update(name="b"),
    "raw delete": lambda: Tag.objects.all()._raw_delete("default"),
}


class Rollback(Exception):
    """Ends a block."""


def rolled_back(order: Order) -> None:
    with suppress(Rollback), transaction.atomic():
        order.save()
        raise Rollback


def refused(order: Order) -> None:
    with suppress(IntegrityError):
        Order(pk=order.pk, number="b").save(force_insert=True)


def hooked(order: Order) -> None:
    """Each call of a hook is recorded."""

    def hook() -> None:
        with suppress(Rollback), transaction.atomic():
            Tag.objects.create(name="of a hook")
            raise Rollback

    with transaction.atomic():
        transaction.on_commit(hook)
        order.save()


def by_hand(order: Order) -> None:
    transaction.set_autocommit(False)
    order.save()
    transaction.commit()
    transaction.set_autocommit(True)


AUTOCOMMIT: dict[str, Callable[[Order], Any]] = {
    **WORKS,
    "bulk_create": lambda order: Tag.objects.bulk_create([Tag(name=str(number)) for number in range(5)]),
    "bulk_create in batches": lambda order: Tag.objects.bulk_create([Tag(name="x") for _ in range(5)], batch_size=2),
    "bulk_create with keys": lambda order: Tag.objects.bulk_create([Tag(pk=-1, name="x"), Tag(pk=-2, name="y")]),
    "bulk_create with a key": lambda order: Tag.objects.bulk_create([Tag(pk=-1, name="x"), Tag(name="y")]),
    "bulk_create of many": lambda order: Tag.objects.bulk_create([Tag(name="x") for _ in range(1100)]),
    "bulk_update": lambda order: Tag.objects.bulk_update(list(Tag.objects.all()), ["name"]),
    "update": lambda order: Tag.objects.filter(name="a").update(name="b"),
    "raw delete": lambda order: OrderLine.objects.all()._raw_delete("default"),
    "save in a block": rolled_back,
    "save that is refused": refused,
    "on_commit": hooked,
    "child and parent": lambda order: Restaurant.objects.create(name="r", stars=1),
    "transaction by hand": by_hand,
}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("debug", [False, True], ids=["captured", "debug"])
@pytest.mark.parametrize("name", AUTOCOMMIT)
def test_the_applications_statements_are_its_own_in_autocommit(name: str, debug: bool) -> None:
    def observe() -> tuple[list[str], list[str]]:
        for model in (OrderLine, Order, Customer, Restaurant, Tag):
            model._default_manager.all().delete()
        order = Order.objects.create(number="a", customer=Customer.objects.create(name="c"))
        OrderLine.objects.create(order=order, sku="x")
        order.tags.add(Tag.objects.create(name="a"))
        Tag.objects.create(name="b")
        fresh, wrapped = Order.objects.get(), []

        def wrapper(execute: Any, sql: str, *rest: Any) -> Any:
            wrapped.append(sql)
            return execute(sql, *rest)

        connection.queries_log.clear()
        with (
            override_settings(DEBUG=debug),
            CaptureQueriesContext(connection) as captured,
            connection.execute_wrapper(wrapper),
        ):
            AUTOCOMMIT[name](fresh)
        assert connection.get_autocommit()
        logged = [re.sub(r"\d+", "0", re.sub(r"'[^']*'", "''", query["sql"])) for query in captured]
        return _without_keys(logged), _without_keys([re.sub(r"\d+", "0", sql) for sql in wrapped])

    assert both(observe)


@pytest.mark.django_db(transaction=True)
def test_a_save_in_autocommit_is_one_query(django_assert_num_queries: DjangoAssertNumQueries) -> None:
    with django_assert_num_queries(1):
        Tag.objects.create(name="a")


@pytest.mark.django_db(transaction=True)
def test_queries_of_on_commit_hooks_are_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    insert: Any = Tag._do_insert  # type: ignore[attr-defined]
    seen: list[int] = []

    def hooking(self: Tag, *args: Any, **kwargs: Any) -> Any:
        transaction.on_commit(lambda: seen.append(Tag.objects.count()))
        return insert(self, *args, **kwargs)

    monkeypatch.setattr(Tag, "_do_insert", hooking)

    def observe() -> list[str]:
        seen.clear()
        with CaptureQueriesContext(connection) as captured:
            Tag(name="a").save()
        assert 1 == len(seen)
        return sorted(query["sql"].split()[0] for query in captured)

    assert ["INSERT", "SELECT"] == both(observe)


def _without_keys(found: list[str]) -> list[str]:
    """Leave out RETURNING clauses and, on MariaDB and MySQL, queries with FOR UPDATE that read keys."""
    if connection.vendor == "mysql":
        found = [sql for sql in found if "FOR UPDATE" not in sql]
    return [re.sub(r" RETURNING [^()]+$", "", sql) for sql in found]


@pytest.mark.parametrize("name", BULK)
def test_bulk_statements_are_the_applications_but_for_the_keys_that_they_return(name: str) -> None:
    Tag.objects.create(name="a")

    def observe() -> list[str]:
        return _without_keys(statements(BULK[name]))

    assert both(observe)


@pytest.mark.parametrize("name", BULK)
def test_bulk_operations_answer_as_they_did(name: str) -> None:
    def observe() -> Any:
        with transaction.atomic():
            Tag.objects.create(name="a")
            answer = BULK[name]()
            names = sorted(Tag.objects.values_list("name", flat=True))
            transaction.set_rollback(True)
        return ([one.name for one in answer] if isinstance(answer, list) else answer), names

    both(observe)


def test_fast_deletes_stay_fast() -> None:
    Item10.objects.bulk_create([Item10(name=str(number)) for number in range(500)])

    def observe() -> int:
        return len(statements(lambda: Item10.objects.all().delete()))

    assert 1 == both(observe)


def test_delete_returns_the_same_numbers() -> None:
    def observe() -> Any:
        with transaction.atomic():
            order = Order.objects.create(number="a")
            OrderLine.objects.create(order=order, sku="x")
            order.tags.add(Tag.objects.create(name="a"))
            answers = [order.delete(), Tag.objects.all().delete(), Tag(pk=-1, name="gone").delete()]
            transaction.set_rollback(True)
        return answers

    both(observe)


def test_execute_wrappers_see_only_the_statements_of_the_application() -> None:
    def observe() -> int:
        seen = []

        def wrapper(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
            seen.append(sql)
            return execute(sql, params, many, context)

        with connection.execute_wrapper(wrapper), transaction.atomic():
            Tag.objects.create(name="x")
            unit_of_work.flush_all()
            transaction.set_rollback(True)
        return len(seen)

    both(observe)


def test_instances_pickle_as_they_did() -> None:
    order = Order.objects.create(number="a", meta={"a": [1]})

    def observe() -> bytes:
        loaded = Order.objects.get(pk=order.pk)
        loaded.note = "changed"
        loaded.save(update_fields=["note"])
        return pickle.dumps(loaded)

    assert "a" == pickle.loads(both(observe)).number


# ------------------------------------------------------------------ traces of it


def traces_left() -> set[str]:
    """Return the places in Django's classes, modules, signals and connections that have code of Signalbox."""
    found = set()
    for module_name, module in list(sys.modules.items()):
        if module_name.partition(".")[0] == "django":
            for name, value in list(vars(module).items()):
                found |= {f"{module_name}.{name}"} if _ours(value) else set()
                if isinstance(value, type) and value.__module__.partition(".")[0] == "django":
                    found |= {f"{value.__qualname__}.{key}" for key, held in list(vars(value).items()) if _ours(held)}
    for entry in catalog.BUILTIN_SIGNALS.values():
        if entry.path:
            found |= {f"{entry.name}.{key}" for key, held in vars(catalog.import_signal(entry)).items() if _ours(held)}
    for one in connections.all():
        found |= {f"{one.alias}.{key}" for key, held in vars(one).items() if _ours(held)}
    return found


def _ours(value: object) -> bool:
    value = getattr(value, "__func__", value)
    code = getattr(value, "__code__", None)
    ours = type(value).__module__.startswith("signalbox.") and not isinstance(value, models.base.ModelBase)
    return ours or (code is not None and "/src/signalbox/" in code.co_filename)


def dictionaries() -> dict[str, dict[str, Any]]:
    """Return what the objects that Signalbox touches hold, each value by identity."""
    from django.core.management.base import BaseCommand
    from django.db.models.base import ModelState
    from django.db.models.deletion import Collector
    from django.db.models.query_utils import DeferredAttribute
    from django.db.models.sql import compiler

    owners: list[Any] = [
        models.Model,
        models.QuerySet,
        models.Manager,
        ModelState,
        DeferredAttribute,
        Collector,
        BaseCommand,
        *(value for value in vars(compiler).values() if isinstance(value, type)),
        *(catalog.import_signal(entry) for entry in catalog.BUILTIN_SIGNALS.values() if entry.path),
        *connections.all(),
    ]
    return {f"{owner!r}": {key: id(value) for key, value in vars(owner).items()} for owner in owners}


def test_uninstalling_leaves_no_trace() -> None:
    assert {"Model._save_table", "Collector.delete", "post_save.send", "default._commit"} <= traces_left()
    signalbox.stop_recording()
    assert set() == traces_left()


def test_installing_and_uninstalling_leaves_every_object_as_it_was() -> None:
    signalbox.stop_recording()
    before = dictionaries()
    signalbox.start_recording()
    assert before != dictionaries()
    signalbox.stop_recording()
    after = dictionaries()
    volatile = {"queries_log", "savepoint_state"}
    for owner, held in before.items():
        changed = {key for key in held.keys() | after[owner].keys() if held.get(key) != after[owner].get(key)}
        assert set() == changed - volatile, owner


def test_connections_of_other_threads_are_given_back_too() -> None:
    opened, go = threading.Event(), threading.Event()
    left: list[set[str]] = []

    def work() -> None:
        connection.ensure_connection()
        opened.set()
        assert go.wait(10)
        left.append({key for key, held in vars(connections["default"]).items() if _ours(held)})
        connection.close()

    thread = threading.Thread(target=work)
    thread.start()
    assert opened.wait(10)
    signalbox.stop_recording()
    go.set()
    thread.join()
    assert [set()] == left


# ------------------------------------------------------------------ what an object calls itself


def test_a_name_that_tries_to_write_costs_nothing_that_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def named(self: Customer) -> str:
        with suppress(Exception):
            Tag.objects.filter(pk=0).update(name="named")
        return self.name

    monkeypatch.setattr(Customer, "__str__", named)

    def observe() -> list[str]:
        Customer.objects.all().delete()
        with transaction.atomic():
            Customer.objects.create(name="Ada")
            Customer.objects.create(name="Bob")
        return list(Customer.objects.order_by("name").values_list("name", flat=True))

    assert ["Ada", "Bob"] == both(observe)


def test_a_cached_property_that_a_label_computes_is_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    title = cached_property(lambda self: f"{self.name} of {self.email or 'nowhere'}")
    title.__set_name__(Customer, "title")
    monkeypatch.setattr(Customer, "title", title, raising=False)
    monkeypatch.setattr(Customer, "__str__", lambda self: self.title)

    def observe() -> list[str]:
        customer = Customer.objects.create(name="Ada")
        customer.name = "Bob"
        names = [str(customer)]
        customer.save()  # what the application has made itself stays
        customer.name = "Cid"
        return [*names, str(customer)]

    assert ["Bob of nowhere", "Bob of nowhere"] == both(observe)


def test_a_name_that_sets_attributes_leaves_the_object_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def named(self: Any) -> str:
        self.name = self.name.upper()
        del self.email
        self.shown = True
        return str(self.name)

    monkeypatch.setattr(Customer, "__str__", named)

    def observe() -> Any:
        customer = Customer.objects.create(name="Ada", email="ada@example.org")
        customer.save()
        customer.refresh_from_db()
        return customer.name, customer.email, hasattr(customer, "shown")

    assert ("Ada", "ada@example.org", False) == both(observe)
