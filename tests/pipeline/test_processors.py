"""Event processors of a project: they require, change and drop events, and cannot break a write."""

from __future__ import annotations

import inspect
import logging
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from django.db import OperationalError, connection, transaction
from django.db.models.signals import post_save

import signalbox
from signalbox import testing
from signalbox.core.event import PendingEvent
from signalbox.core.query_guard import QueryForbidden
from signalbox.models import Delivery, Event
from signalbox.outbox import registry
from signalbox.outbox.outbox_processor import OUTBOX
from signalbox.pipeline import backends, batches, exporter, processors
from signalbox.pipeline.processors import EventBatch, EventProcessor
from tests.events import get_events, get_newest_event
from tests.pipeline.project_processors import NoTags, Notes, OnEvent, configured
from tests.shop import signals
from tests.shop.models import Order, Tag

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]


def test_a_dropped_event_is_not_recorded_and_its_change_is_committed() -> None:
    with configured(f"{__name__}.NoTags"):
        Tag.objects.create(name="a")
        Order.objects.create(number="A-1")
        assert [] == get_events(Tag, "post_save")
        assert 1 == len(get_events(Order, "post_save"))
        assert Tag.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_rolled_back_events_are_dropped_too() -> None:
    with configured(NoTags):
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            Tag.objects.create(name="a")
            Order.objects.create(number="A-1")
            raise ZeroDivisionError
        found = [event.sender for event in Event.objects.filter(outcome="rolled_back", signal="post_save")]
    assert ["shop.Order"] == found


delivered: list[str] = []


def deliver(instance: Tag, **kwargs: Any) -> None:
    delivered.append(instance.name)


@pytest.mark.django_db(transaction=True)
def test_an_event_with_deliveries_is_not_dropped() -> None:
    delivered.clear()
    signalbox.receiver(post_save, sender=Tag, durable=True)(deliver)
    try:
        with configured(NoTags):
            Tag.objects.create(name="a")
            assert 1 == len(get_events(Tag, "post_save"))
            testing.run_deliveries()
    finally:
        registry.disconnect(f"{__name__}.deliver")
        processors.uninstall(OUTBOX)
        signalbox.start_recording()
    assert ["a"] == delivered


def test_an_exception_is_logged_once_and_the_event_recorded(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(event: PendingEvent) -> None:
        raise ValueError("no")

    with caplog.at_level(logging.ERROR), configured(OnEvent(refuse)):
        Tag.objects.create(name="a")
        Tag.objects.create(name="b")
        assert 2 == len(get_events(Tag, "post_save"))
    [record] = [record for record in caplog.records if "event processor" in record.message]
    assert "OnEvent raised an exception in on_event()." in record.message
    assert record.exc_info


def test_a_result_of_another_type_is_logged_and_the_event_recorded(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR), configured(OnEvent(lambda event: 7)):
        Tag.objects.create(name="a")
        assert 1 == len(get_events(Tag, "post_save"))
    assert ["returned a int. Expected the event or None."] == [
        record.args[1] for record in caplog.records if isinstance(record.args, tuple)
    ]


@pytest.mark.parametrize("attribute", ["trace", "span", "time", "signal", "sender", "key", "using"])
def test_attributes_that_identify_an_event_cannot_be_changed(attribute: str, caplog: pytest.LogCaptureFixture) -> None:
    def change(event: PendingEvent) -> PendingEvent:
        setattr(event, attribute, "another")
        event.label = "changed"
        return event

    with caplog.at_level(logging.ERROR), configured(OnEvent(change)):
        tag = Tag.objects.create(name="a")
        event = get_newest_event(Tag, "post_save")
    assert (str(tag.pk), "changed") == (event.object_key, event.object_label)
    assert any("changed an event in on_event()" in record.message for record in caplog.records)


def test_added_data_that_is_not_a_dict_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    def add(event: PendingEvent) -> PendingEvent:
        event.extra = 7  # type: ignore[assignment]
        return event

    with caplog.at_level(logging.ERROR), configured(OnEvent(add)):
        Tag.objects.create(name="a")
        assert "extra" not in get_newest_event(Tag, "post_save").data
    assert any("OnEvent raised an exception in on_event()" in record.message for record in caplog.records)


def test_events_that_a_processor_causes_are_recorded_without_calling_it_again() -> None:
    calls = []

    class Sends(EventProcessor):
        def on_event(self, event: PendingEvent) -> PendingEvent:
            calls.append(event.sender)
            signals.order_paid.send(sender=Order, order=None)
            return event

    with configured(Sends, RECORD=["post_save", "tests.shop.signals.order_paid"]):
        Tag.objects.create(name="a")
        assert 1 == Event.objects.filter(signal="tests.shop.signals.order_paid").count()
    assert ["shop.Tag"] == calls


# ------------------------------------------------------------------ wanted sends


class WantsPaid(EventProcessor):
    """Wants a signal that the setting excludes."""

    def wants(self, signal: str, sender: str) -> bool:
        return signal == "tests.shop.signals.order_paid"


def test_a_wanted_signal_is_recorded_although_the_setting_excludes_it() -> None:
    paid = Event.objects.filter(signal="tests.shop.signals.order_paid")
    with configured(NoTags, RECORD=["post_save"]):
        signals.order_paid.send(sender=Order, order=None)
        assert 0 == paid.count()
    with configured(WantsPaid, RECORD=["post_save"]):
        signals.order_paid.send(sender=Order, order=None)
        assert 1 == paid.count()


@pytest.mark.parametrize("answer", ["post_save", 7, [["post_save"]]], ids=repr)
def test_wanted_signals_of_another_type_are_logged(answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    class Wants(WantsPaid):
        def get_wanted_signals(self) -> Any:
            return answer

    with caplog.at_level(logging.ERROR), configured(Wants):
        assert frozenset() == processors.get_wanted_signals()
        Tag.objects.create(name="a")
        assert 1 == len(get_events(Tag, "post_save"))
    assert any("Wants raised an exception" in record.message for record in caplog.records)


# ------------------------------------------------------------------ flush, commit, rollback


class OnFlush(EventProcessor):
    """Calls a function for each batch."""

    def __init__(self, function: Callable[[EventBatch], Any]) -> None:
        self.function = function

    def on_flush(self, batch: EventBatch) -> None:
        self.function(batch)


def add_half_a_delivery(batch: EventBatch) -> None:
    batch.deliveries.append(("receiver",))


def add_and_raise(batch: EventBatch) -> None:
    batch.deliveries.append(("receiver",) * len(batches.DELIVERY_COLUMNS))
    raise ValueError("no")


def remove_events(batch: EventBatch) -> None:
    batch.events.clear()


def replace_lists(batch: EventBatch) -> None:
    batch.events = batch.deliveries = None  # type: ignore[assignment]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "function", [add_half_a_delivery, add_and_raise, remove_events, replace_lists], ids=lambda one: one.__name__
)
def test_a_processor_cannot_break_a_write(function: Callable[[EventBatch], None]) -> None:
    with configured(OnFlush(function)):
        with transaction.atomic():
            Tag.objects.create(name="a")
        assert 1 == len(get_events(Tag, "post_save"))
    assert (1, 0) == (Tag.objects.count(), Delivery.objects.count())


def build_delivery(event: PendingEvent) -> tuple[Any, ...]:
    values = {
        "receiver": "tests.removed",
        "queue": "default",
        "trace_id": event.trace.id,
        "span": event.span,
        "signal": event.signal,
        "sender": event.sender,
        "database": event.using,
        "payload": "{}",
    }
    kinds = dict(batches.DELIVERY_COLUMNS)
    return tuple(values.get(name, "" if kinds[name] == "text" else 0) for name in kinds)


@pytest.mark.django_db(transaction=True)
def test_a_processor_can_add_deliveries_before_a_write() -> None:
    def add(batch: EventBatch) -> None:
        batch.deliveries += [build_delivery(event) for event in batch.events if event.sender == "shop.Tag"]

    with configured(OnFlush(add)), transaction.atomic():
        Tag.objects.create(name="a")
    assert [("tests.removed", "post_save")] == list(Delivery.objects.values_list("receiver", "signal"))


@pytest.mark.django_db(transaction=True)
def test_a_processor_is_called_again_if_a_write_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []

    def add(batch: EventBatch) -> None:
        names = [event.sender for event in batch.events if event.signal == "tests.shop.signals.order_paid"]
        if names:
            calls.append(names)
            batch.deliveries += [build_delivery(event) for event in batch.events if event.sender in names]

    def fail(*_: Any, **__: Any) -> None:
        raise OperationalError("the server closed the connection")

    with configured(OnFlush(add), RECORD=["tests.shop.signals.order_paid"]):
        with monkeypatch.context() as patch:
            patch.setattr(type(backends.get_backend(connection)), "write", fail)
            with signalbox.trace("work"):
                signals.order_paid.send(sender=Order, order=None)
        assert [["shop.Order"]] == calls
        exporter.flush()
    assert [["shop.Order"]] * 2 == calls
    assert ["tests.shop.signals.order_paid"] == list(Delivery.objects.values_list("signal", flat=True))


@pytest.mark.django_db(transaction=True)
def test_a_processor_can_write_after_a_commit_and_is_not_called_for_it() -> None:
    calls = []

    class Writes(EventProcessor):
        def on_commit(self, batch: EventBatch) -> None:
            senders = [event.sender for event in batch.events if event.signal == "post_save"]
            calls.extend(senders)
            if senders:
                Order.objects.create(number=f"A-{len(calls)}")

    with configured(Writes, RECORD=["post_save"]):
        Tag.objects.create(name="a")
        assert 1 == len(get_events(Order, "post_save"))
    assert ["shop.Tag"] == calls


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_a_processor_is_not_called_for_a_transaction_that_django_does_not_know(end: str) -> None:
    notes = Notes()
    with configured(notes):
        with connection.cursor() as cursor:
            cursor.execute("BEGIN")
            Tag.objects.create(name="a")
            cursor.execute(end)
        assert (end == "COMMIT") == bool(get_events(Tag, "post_save"))
    assert ["flush"] == [what for what, senders in notes.calls if "shop.Tag" in senders]


class Interrupt(Exception):
    """The exception of a time limit."""


def raise_interrupt(number: int, frame: Any) -> None:
    raise Interrupt


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("is_in_transaction", [True, False], ids=["atomic", "exporter"])
def test_an_interrupt_after_a_commit_reaches_the_application(is_in_transaction: bool) -> None:
    class Slow(EventProcessor):
        def on_commit(self, batch: EventBatch) -> None:
            if any(event.sender.endswith(("Tag", "Order")) for event in batch.events):
                signal.raise_signal(signal.SIGUSR1)

    previous = signal.signal(signal.SIGUSR1, raise_interrupt)
    try:
        with configured(Slow, RECORD=["post_save", "tests.shop.signals.order_paid"]):
            if is_in_transaction:
                with pytest.raises(Interrupt), transaction.atomic():
                    Tag.objects.create(name="a")
            else:
                with pytest.raises(Interrupt), signalbox.trace("work"):
                    signals.order_paid.send(sender=Order, order=None)
                exporter.flush()
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert (1, 1 if is_in_transaction else 0) == (
        Event.objects.filter(signal__in=["post_save", "tests.shop.signals.order_paid"]).count(),
        Tag.objects.count(),
    )
    assert (True, False) == (connection.get_autocommit(), connection.in_atomic_block)


@pytest.mark.django_db(transaction=True)
def test_a_processor_is_called_for_flush_commit_and_rollback() -> None:
    notes = Notes()
    with configured(notes):
        with transaction.atomic():
            Tag.objects.create(name="a")
            with suppress(ZeroDivisionError), transaction.atomic():
                Order.objects.create(number="A-1")
                raise ZeroDivisionError
        of_shop = [(what, senders) for what, senders in notes.calls if any("shop." in sender for sender in senders)]
    assert ("rollback", ["shop.Order"]) == of_shop[0]
    assert [("flush", ["shop.Tag"]), ("commit", ["shop.Tag"])] == [call for call in of_shop if "shop.Tag" in call[1]]


@pytest.mark.django_db(transaction=True)
def test_a_rolled_back_transaction_is_not_reported_as_committed() -> None:
    notes = Notes()
    with configured(notes), suppress(ZeroDivisionError), transaction.atomic():
        Tag.objects.create(name="a")
        raise ZeroDivisionError
    assert ["rollback"] == [what for what, senders in notes.calls if "shop.Tag" in senders and what != "flush"]


# ------------------------------------------------------------------ queries


def count_rows_of_a_missing_table() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM nothing_there")


def count_and_go_on() -> None:
    with suppress(Exception):
        count_rows_of_a_missing_table()


def save_another() -> None:
    with suppress(Exception):
        Tag.objects.create(name="another")


def save_another_in_a_block() -> None:
    with suppress(Exception), transaction.atomic():
        Tag.objects.create(name="another")


def update_all() -> None:
    with suppress(Exception):
        Tag.objects.update(name="another")


def undo() -> None:
    with suppress(Exception):
        connection.rollback()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "query",
    [count_rows_of_a_missing_table, count_and_go_on, save_another, save_another_in_a_block, update_all, undo],
    ids=lambda query: query.__name__,
)
@pytest.mark.parametrize("where", ["autocommit", "atomic", "read within"])
def test_a_processor_cannot_query_or_end_the_transaction(query: Callable[[], None], where: str) -> None:
    asked = []

    def ask(event: PendingEvent) -> PendingEvent:
        asked.append(event)
        query()
        return event

    with configured(OnEvent(ask)):
        if where == "autocommit":
            Tag.objects.create(name="a")
        else:
            with transaction.atomic():
                Tag.objects.create(name="a")
                if where == "read within":
                    assert 1 == len(get_events(Tag, "post_save"))
                Order.objects.create(number="A-1")
        assert 1 == len(get_events(Tag, "post_save"))
    assert 1 == len(asked)
    assert ["a"] == list(Tag.objects.values_list("name", flat=True))
    assert (True, False, False) == (
        connection.get_autocommit(),
        connection.in_atomic_block,
        connection.needs_rollback,
    )


def test_a_query_raises_query_forbidden() -> None:
    raised: list[BaseException] = []

    def ask(event: PendingEvent) -> PendingEvent:
        try:
            Tag.objects.count()
        except QueryForbidden as error:
            raised.append(error)
        return event

    with configured(OnEvent(ask)):
        Tag.objects.create(name="a")
    assert ["A callback may not query the database."] == [str(error) for error in raised]


# ------------------------------------------------------------------ before a read


def test_processors_are_called_before_events_are_read() -> None:
    class Reads(EventProcessor):
        calls = 0

        def before_read(self) -> None:
            Reads.calls += 1

    with configured(Reads):
        Event.objects.count()
    assert 1 <= Reads.calls


def test_a_processor_can_read_events_before_a_read() -> None:
    depth = []

    class Reads(EventProcessor):
        def before_read(self) -> None:
            depth.append(len(inspect.stack(0)))
            Event.objects.count()

    with configured(Reads):
        Event.objects.count()
    assert 1 == len(depth)
