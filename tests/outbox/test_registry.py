from __future__ import annotations

import asyncio
import functools
import gc
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from django.contrib.auth.signals import user_logged_in, user_login_failed
from django.contrib.sessions.models import Session
from django.core.signals import request_started
from django.db import DatabaseError, transaction
from django.db.models.signals import m2m_changed, post_delete, post_save, pre_save
from django.dispatch import Signal
from django.utils.functional import SimpleLazyObject
from django.utils.safestring import mark_safe
from django.utils.translation import gettext_lazy

import signalbox
from signalbox.core.receivers import get_connected_receivers, get_name
from signalbox.instrumentation import model_metadata
from signalbox.models import Delivery, Event
from signalbox.outbox import registry
from signalbox.pipeline import batches, exporter
from signalbox.serialization.redaction import REDACTED
from tests.outbox import receivers
from tests.shop import signals
from tests.shop.models import Customer, Order, OrderLine, Tag, Word
from tests.shop.signals import order_paid as imported_here

if TYPE_CHECKING:
    from collections.abc import Callable


class Holder:
    def method(self, **kwargs: Any) -> None: ...

    def __call__(self, **kwargs: Any) -> None: ...


def without_kwargs(sender: Any, instance: Any) -> None: ...


def test_a_receiver_that_no_worker_could_import_is_refused_at_once() -> None:
    def local(**kwargs: Any) -> None: ...

    for function, expected in (
        (local, "is defined in a function"),
        (lambda **kwargs: None, "is defined in a function"),
        (Holder().method, "is bound to an object"),
        (Holder(), "has no dotted name"),
        (functools.partial(receivers.saved), "has no dotted name"),
        (without_kwargs, "must accept keyword arguments"),
    ):
        with pytest.raises(registry.CannotBeDurable, match=expected):
            signalbox.receiver(post_save, sender=Order, durable=True)(function)
    assert {} == registry.get_durable_receivers()


@pytest.mark.parametrize(
    "found", [float("nan"), float("inf"), None, "soon", 10**400, ZeroDivisionError(), SystemExit()]
)
def test_a_backoff_that_tells_no_time_is_said_once_and_the_usual_one_waited(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, found: Any
) -> None:
    def backoff(attempt: int) -> Any:
        if isinstance(found, BaseException):
            raise found
        return found

    monkeypatch.setattr(registry, "_invalid_backoffs_logged", set())
    one = registry.DurableReceiver(
        name="shop.receiver", function=receivers.saved, parameter_names=frozenset(), backoff=backoff
    )
    assert all(7.5 * 2**n <= one.get_retry_delay(n + 1) <= 12.5 * 2**n for n in range(4))
    assert ["The backoff of shop.receiver returned no valid time; the default is used."] == caplog.messages


@pytest.mark.parametrize(
    ("told", "waited"), [(0.25, 0.25), (86_400, 86_400), (-5, 0), (1e13, registry.MAX_CUSTOM_BACKOFF_SECONDS)]
)
def test_what_a_backoff_tells_is_waited_as_far_as_a_database_takes_it(told: float, waited: float) -> None:
    one = registry.DurableReceiver(
        name="r", function=receivers.saved, parameter_names=frozenset(), backoff=lambda attempt: told
    )
    assert waited == one.get_retry_delay(1)


def test_a_signal_whose_arguments_cannot_travel_is_refused_at_once() -> None:
    for signal, expected in (
        (request_started, "carries the request's environ, which can't be sent"),
        ("connection_created", "carries a connection, which can't be sent"),
        (pre_save, "use post_save"),
        ("post_init", "is sent for each instance"),
    ):
        with pytest.raises(registry.CannotBeDurable, match=expected):
            signalbox.receiver(signal, durable=True)(receivers.saved)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"durable": True, "retrys": 3}, "no option 'retrys'; did you mean 'retries'"),
        ({"retries": 3}, "add durable=True"),
        ({"durable": True, "after_commit": True}, "leave out after_commit"),
        ({"durable": True, "retries": -1}, "retries=-1; a whole number, 0 or more, was expected"),
        ({"durable": True, "backoff": 0}, "backoff=0"),
        ({"durable": True, "key": ""}, "key=''"),
        ({"durable": True, "timeout": "1"}, "timeout='1'"),
        ({"durable": True, "on_dead": "wait"}, "on_dead='wait'"),
        ({"durable": True, "queue": ""}, "queue=''"),
        ({"durable": True, "sender": "Order"}, "sender='Order' names no model"),
    ],
)
def test_options_that_are_not_understood_are_named(options: dict[str, Any], expected: str) -> None:
    with pytest.raises((TypeError, ValueError), match=expected):
        signalbox.receiver(post_save, **options)(receivers.saved)


def test_a_bulk_operation_is_heard_by_durable_receivers_alone() -> None:
    with pytest.raises(TypeError, match="Django sends no signal for 'bulk_create'"):
        signalbox.receiver("bulk_create")(receivers.saved)


def test_a_plain_receiver_is_connected_as_djangos_is() -> None:
    heard = []

    def plain(sender: Any, **kwargs: Any) -> None:
        heard.append(sender)

    signal = Signal()
    signalbox.receiver([signal], sender="shop.Order")(plain)
    signal.send(Order)
    signal.send(Tag)
    assert [Order] == heard


@pytest.mark.django_db
def test_nothing_is_connected_for_a_durable_receiver(make_durable: Callable[..., None]) -> None:
    before = len(post_save.receivers)
    make_durable(receivers.saved)
    assert before == len(post_save.receivers)
    assert not post_save.has_listeners(Order)


@pytest.mark.django_db(transaction=True)
@pytest.mark.every_database
def test_after_commit_runs_once_the_transaction_is_committed_and_not_if_it_is_rolled_back() -> None:
    heard = []

    def plain(sender: Any, instance: Any, **kwargs: Any) -> None:
        heard.append(instance.number)
        raise ValueError("which does not reach the caller")

    signalbox.receiver(post_save, sender="shop.Order", after_commit=True)(plain)
    try:
        with transaction.atomic():
            Order.objects.create(number="1")
            with pytest.raises(RuntimeError):
                roll_back("2")
            assert [] == heard
        assert ["1"] == heard
        with pytest.raises(RuntimeError):
            roll_back("3")
        assert ["1"] == heard
    finally:
        post_save.receivers.pop()
        post_save.sender_receivers_cache.clear()


@pytest.fixture
def signal() -> Signal:
    """A signal of the project's own."""
    return Signal()


def heard_by(signal: Signal, sender: Any = Order) -> int:
    return len(signal.send(sender))


@pytest.mark.django_db
def test_what_runs_after_the_commit_is_disconnected_as_any_receiver(signal: Signal) -> None:
    for options in ({}, {"weak": False}, {"dispatch_uid": "mine"}):
        named: dict[str, Any] = {"dispatch_uid": options.get("dispatch_uid")}
        signalbox.receiver(signal, sender=Order, after_commit=True, **options)(takes_document)
        assert 1 == heard_by(signal)
        assert not signal.disconnect(takes_document, sender=Tag, **named)
        assert signal.disconnect(takes_document, sender=Order, **named)
        assert 0 == heard_by(signal)


@pytest.mark.django_db
def test_what_runs_after_the_commit_is_connected_once(signal: Signal) -> None:
    holder = Holder()
    for function in (takes_document, holder.method):
        for _ in range(3):
            signalbox.receiver([signal, signal], sender=Order, after_commit=True)(function)
    assert 2 == heard_by(signal)
    assert signal.disconnect(holder.method, sender=Order)
    assert 1 == heard_by(signal)


@pytest.mark.django_db(transaction=True)
def test_a_method_that_runs_after_the_commit_lives_as_long_as_its_object(signal: Signal) -> None:
    heard = []

    class Listener:
        def method(self, **kwargs: Any) -> None:
            heard.append(type(self).__name__)

    one, other = Listener(), Listener()
    for listener in (one, other):
        signalbox.receiver(signal, after_commit=True)(listener.method)
    signal.send(None)
    assert ["Listener"] * 2 == heard
    gone = weakref.ref(one)
    with transaction.atomic():
        signal.send(None)
        del one, listener
    gc.collect()
    assert gone() is None
    assert ["Listener"] * 4 == heard
    signal.send(None)
    assert ["Listener"] * 5 == heard
    assert signal.disconnect(other.method)


def test_a_function_that_runs_after_the_commit_is_held_weakly(signal: Signal) -> None:
    def short_lived(**kwargs: Any) -> None: ...

    signalbox.receiver(signal, after_commit=True)(short_lived)
    assert signal.has_listeners()
    del short_lived
    gc.collect()
    assert not signal.has_listeners()


def test_what_runs_after_the_commit_is_listed_under_its_own_name_without_an_uid(signal: Signal) -> None:
    holder = Holder()
    signalbox.receiver(signal, after_commit=True)(takes_document)
    signalbox.receiver(signal, after_commit=True)(holder.method)
    found = get_connected_receivers(signal)
    assert [None, None] == [one.dispatch_uid for one in found]
    assert [f"{__name__}.takes_document", f"{__name__}.Holder.method"] == [get_name(one.receiver) for one in found]


def roll_back(number: str) -> None:
    with transaction.atomic():
        Order.objects.create(number=number)
        raise RuntimeError


@pytest.mark.every_database
@pytest.mark.usefixtures("empty_tables")
def test_a_delivery_exists_if_and_only_if_its_change_was_committed(make_durable: Callable[..., None]) -> None:
    make_durable(receivers.saved)
    with transaction.atomic():
        Order.objects.create(number="kept")
        with pytest.raises(RuntimeError):
            roll_back("undone inside")
    with pytest.raises(RuntimeError):
        roll_back("undone")
    Order.objects.create(number="autocommit")
    found = Delivery.objects.order_by("id")
    assert ["kept", "autocommit"] == [one.payload["row"]["number"] for one in found]
    for one in found:
        event = Event.objects.get(trace_id=one.trace_id, span=one.span)
        assert ("post_save", "shop.Order", one.object_key) == (event.signal, event.sender, event.object_key)


@pytest.mark.every_database
@pytest.mark.usefixtures("empty_tables")
def test_a_change_is_not_committed_if_its_deliveries_cannot_be_written(
    make_durable: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_durable(receivers.saved)
    monkeypatch.setattr(batches, "DELIVERY_TABLE", "nowhere")
    with pytest.raises(DatabaseError):
        Order.objects.create(number="1")
    assert not Order.objects.filter(number="1").exists()


@pytest.mark.usefixtures("empty_tables")
@pytest.mark.parametrize("box", [{"RECORD": ["auth"]}, {"RECORD": [], "IGNORE": ["shop"]}, {"RECORD": "audit"}])
def test_what_a_durable_receiver_waits_for_is_recorded_whatever_the_setting_says(
    make_durable: Callable[..., None], settings: Any, box: dict[str, Any]
) -> None:
    settings.SIGNALBOX = box
    make_durable(receivers.saved)
    order = Order.objects.create(number="1")
    order.save()
    Tag.objects.create(name="of another sender")
    assert 2 == Delivery.objects.count()
    assert 2 == Event.objects.filter(signal="post_save", sender="shop.Order").count()
    assert ("audit" == box["RECORD"]) == Event.objects.filter(sender="shop.Tag").exists()


@pytest.mark.usefixtures("empty_tables")
def test_a_durable_post_delete_hears_of_each_object_and_others_keep_their_fast_deletes(
    make_durable: Callable[..., None], django_assert_num_queries: Any
) -> None:
    make_durable(receivers.saves_with_number, post_delete, OrderLine)
    order = Order.objects.create(number="1")
    for sku in "abc":
        OrderLine.objects.create(order=order, sku=sku)
    OrderLine.objects.filter(sku="a").delete()
    order.delete()
    assert {"a", "b", "c"} == {one.payload["row"]["sku"] for one in Delivery.objects.all()}
    Word.objects.create(text="word")
    with transaction.atomic(), django_assert_num_queries(1):
        Word.objects.all().delete()


@pytest.mark.usefixtures("empty_tables")
def test_a_bulk_operation_makes_one_delivery(make_durable: Callable[..., None]) -> None:
    make_durable(receivers.saved, ["bulk_create", "update"])
    Order.objects.bulk_create([Order(number=str(number)) for number in range(5)])
    Order.objects.update(note="seen")
    assert ["bulk_create", "update"] == [one.signal for one in Delivery.objects.order_by("id")]
    assert 5 == Delivery.objects.earliest("id").payload["args"]["count"]


@pytest.mark.usefixtures("empty_tables")
def test_many_to_many_changes_are_delivered_once_they_are_made(make_durable: Callable[..., None]) -> None:
    make_durable(receivers.saved, m2m_changed, Order.tags.through)
    order = Order.objects.create(number="1")
    tag = Tag.objects.create(name="t")
    order.tags.add(tag)
    order.tags.remove(tag)
    assert ["post_add", "post_remove"] == [one.payload["args"]["action"] for one in Delivery.objects.order_by("id")]


@pytest.mark.every_database
@pytest.mark.usefixtures("empty_tables")
def test_a_signal_of_the_project_is_delivered_with_its_transaction_or_at_once(
    make_durable: Callable[..., None],
) -> None:
    make_durable(receivers.saved, signals.order_paid, None)
    order = Order.objects.create(number="1")
    signals.order_paid.send(sender=Order, order=order)
    assert 1 == Delivery.objects.count()
    with suppress(RuntimeError), transaction.atomic():
        signals.order_paid.send(sender=Order, order=order)
        raise RuntimeError
    with transaction.atomic():
        signals.order_paid.send(sender=Order, order=order)
        assert 0 == _committed_elsewhere()
    assert 2 == Delivery.objects.count()
    assert {"$": "model", "v": ["shop.Order", order.pk, "default"]} == Delivery.objects.earliest("id").payload[
        "serialized"
    ]["order"]


@pytest.mark.usefixtures("empty_tables")
def test_a_signal_that_is_sent_in_an_event_loop_is_delivered_with_its_trace(make_durable: Callable[..., None]) -> None:
    make_durable(receivers.saved, signals.order_paid, None)

    async def work() -> None:
        async with signalbox.trace("asynchronous"):
            await signals.order_paid.asend(sender=Order, number=1)

    asyncio.run(work())
    assert {"number": 1} == Delivery.objects.get().payload["serialized"]


def test_a_signal_of_the_project_is_named_after_the_module_that_makes_it() -> None:
    assert "tests.shop.signals.order_paid" == registry._find_signal_name(imported_here)
    assert signals.order_paid is registry.get_signal("tests.shop.signals.order_paid")


def test_a_signal_that_no_module_holds_is_refused_unless_it_is_named() -> None:
    signal = Signal()
    with pytest.raises(registry.CannotBeDurable, match=r"name it with signalbox\.register_signal"):
        signalbox.receiver(signal, durable=True)(receivers.saved)
    signalbox.register_signal(signal, "shop.nameless")
    signalbox.receiver(signal, durable=True)(receivers.saved)
    assert {"shop.nameless"} == registry.get_subscribed_signals()


def test_a_receiver_is_found_with_the_options_of_its_signal_and_sender(make_durable: Callable[..., None]) -> None:
    make_durable(receivers.saved, retries=1)
    make_durable(receivers.saved, sender="shop.Tag", retries=2)
    make_durable(receivers.saved, sender=None, retries=3)
    make_durable(receivers.saved, post_delete, retries=4)

    def retries(signal: str, sender: str) -> int:
        found = registry.find_durable_receiver("tests.outbox.receivers.saved", signal, sender)
        assert found is not None
        return found.retries

    assert [1, 2, 3] == [retries("post_save", f"shop.{name}") for name in ("Order", "Tag", "Customer")]
    assert [4, 4] == [retries("post_delete", f"shop.{name}") for name in ("Order", "Tag")]
    assert retries("m2m_changed", "shop.Order_tags")
    assert registry.find_durable_receiver("shop.gone", "post_save", "shop.Order") is None


def _committed_elsewhere() -> int:
    """What leaves later, apart from the transaction."""
    return len([trace for trace in exporter._pending_traces if any(draft.outbox_arguments for draft in trace.pending)])


def takes_document(sender: Any, document: Any, **kwargs: Any) -> None: ...


def takes_credentials(sender: Any, credentials: Any, **kwargs: Any) -> None: ...


def takes_token(sender: Any, token: Any, **kwargs: Any) -> None: ...


@pytest.mark.usefixtures("empty_tables")
def test_an_argument_that_cannot_travel_is_an_error_of_the_send(make_durable: Callable[..., None]) -> None:
    make_durable(takes_document, signals.order_paid, None)
    with pytest.raises(
        registry.CannotBeDurable, match=r"sent with 'document', which .*takes_document takes .*it is a builtins.object"
    ):
        signals.order_paid.send(sender=Order, document=object())
    signals.order_paid.send(sender=Order, document="text", other=object())
    assert {"document": "text"} == Delivery.objects.get().payload["serialized"]


@pytest.mark.usefixtures("empty_tables")
def test_a_deep_argument_is_refused_where_a_receiver_takes_it_and_never_cut(make_durable: Callable[..., None]) -> None:
    make_durable(takes_document, signals.order_paid, None)
    deep: Any = "inmost"
    for _ in range(21):
        deep = [deep]
    with pytest.raises(registry.CannotBeDurable, match="it holds more than 20 containers within one another"):
        signals.order_paid.send(sender=Order, document=deep)
    signals.order_paid.send(sender=Order, document=deep[0], other=deep)
    packed = Delivery.objects.get().payload["serialized"]
    assert {"document": deep[0]} == packed


@pytest.mark.usefixtures("empty_tables")
def test_a_secret_argument_does_not_travel(make_durable: Callable[..., None]) -> None:
    make_durable(takes_token, signals.order_paid, None)
    with pytest.raises(registry.CannotBeDurable, match="secret by its name"):
        signals.order_paid.send(sender=Order, token="t0ken")
    assert not Delivery.objects.exists()


def saved_session() -> Session:
    session = Session("hunter2")
    session._state.adding = False
    return session


@pytest.mark.usefixtures("empty_tables")
@pytest.mark.parametrize(
    "value",
    [
        "postgres://ada:hunter2@host/db",
        "pbkdf2_sha256$870000$abcDEF$hunter2hunter2",
        b'{"password": "hunter2"}',
        mark_safe("password=hunter2"),
        gettext_lazy("password=hunter2"),
        SimpleLazyObject(lambda: {"password": "hunter2"}),
        {"password": "hunter2"},
        [("Authorization", "hunter2")],
        {"raw": [b"password=hunter2"]},
        {"password=hunter2"},
        saved_session(),
        [saved_session()],
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_secret_within_an_argument_does_not_travel(make_durable: Callable[..., None], value: Any) -> None:
    bool(value)  # wakes what is lazy
    make_durable(takes_document, signals.order_paid, None)
    with pytest.raises(
        registry.CannotBeDurable, match=r"sent with 'document', which .*takes_document takes: it contains a secret"
    ):
        signals.order_paid.send(sender=Order, document=value)
    signals.order_paid.send(sender=Order, document="text", other=value)
    assert {"document": "text"} == Delivery.objects.get().payload["serialized"]


@pytest.mark.usefixtures("empty_tables")
def test_who_failed_to_log_in_travels_without_the_secret(make_durable: Callable[..., None]) -> None:
    make_durable(takes_credentials, user_login_failed, None)
    user_login_failed.send(sender="tests", credentials={"username": "ann", "password": "hunter2"}, request=None)
    packed = Delivery.objects.get().payload["serialized"]
    assert {"username": "ann", "password": REDACTED} == packed["credentials"]


@pytest.mark.usefixtures("empty_tables")
def test_secrets_of_a_row_do_not_travel(make_durable: Callable[..., None]) -> None:
    make_durable(receivers.saved, post_save, Customer)
    Customer.objects.create(name="Ann", api_token="t0ken")
    assert {"id", "name", "email"} == Delivery.objects.get().payload["row"].keys()


@pytest.mark.usefixtures("empty_tables")
@pytest.mark.parametrize("text", ["4111 1111 1111 1111", "https://ada:hunter2@host/", '{"password": "hunter2"}'])
def test_what_a_row_holds_of_secrets_does_not_travel(make_durable: Callable[..., None], text: str) -> None:
    make_durable(receivers.saved)
    Order.objects.create(number="7", note=text)
    payload = Delivery.objects.get().payload
    assert "note" not in payload["row"]
    assert "7" == payload["row"]["number"]


def test_a_model_whose_key_is_a_secret_is_refused() -> None:
    with pytest.raises(registry.CannotBeDurable, match=r"the primary key of sessions\.Session is a secret"):
        signalbox.receiver(post_save, sender=Session, durable=True)(receivers.saved)


@pytest.mark.usefixtures("empty_tables")
def test_a_login_is_delivered_with_the_recorded_facts_of_its_request(
    make_durable: Callable[..., None], client: Any
) -> None:
    from django.contrib.auth.models import User

    make_durable(receivers.saved, user_logged_in, None)
    user = User.objects.create_user("ann", password="pass")
    client.force_login(user)
    packed = Delivery.objects.get().payload["serialized"]
    assert {"$": "model", "v": ["auth.User", user.pk, "default"]} == packed["user"]
    assert set(packed["request"]) <= {"method", "path"}


def of_customer(values: Any) -> object:
    return values["customer"]


@pytest.mark.usefixtures("empty_tables")
@pytest.mark.parametrize(
    ("key", "expected"), [("pk", "shop.Order {pk}"), ("number", "7"), (of_customer, "null"), (None, "")]
)
def test_the_key_is_the_object_a_field_a_function_or_none(
    make_durable: Callable[..., None], key: Any, expected: str
) -> None:
    make_durable(receivers.saved, key=key)
    order = Order.objects.create(number="7")
    one = Delivery.objects.get()
    assert expected.format(pk=order.pk) == one.ordering_key
    assert (key is None) == (one.partition_id is None)


@pytest.mark.usefixtures("empty_tables")
def test_a_plan_knows_again_what_is_ignored_once_its_receiver_is_gone(
    make_durable: Callable[..., None], settings: Any
) -> None:
    settings.SIGNALBOX = {"IGNORE": ["shop"]}
    make_durable(receivers.saved)
    assert model_metadata.get_metadata(Order).is_recorded
    registry.disconnect("tests.outbox.receivers.saved")
    signalbox.start_recording()
    assert not model_metadata.get_metadata(Order).is_recorded
