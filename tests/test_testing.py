from __future__ import annotations

import re
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth import authenticate
from django.contrib.auth.signals import user_login_failed
from django.core.signals import got_request_exception, setting_changed
from django.db import transaction
from django.db.models.signals import post_init, post_save, pre_save
from django.dispatch import Signal
from django.test import override_settings

import signalbox
from signalbox.core.event import Outcome, PendingEvent
from signalbox.instrumentation import signals
from signalbox.pytest_plugin import signalbox_events
from signalbox.testing import RecordedEvents, Send, assert_not_sent, assert_sent, capture_events, mute_receivers
from tests.shop.models import Order, Tag
from tests.shop.signals import order_paid

__all__ = ["signalbox_events"]  # the fixture, which pytest finds here

NAME = "tests.shop.signals.order_paid"
DOCUMENT = Path(__file__).parent.parent / "docs" / "testing.md"


def listens(sender: object, **kwargs: object) -> str:
    return "heard"


def fails(sender: object, **kwargs: object) -> None:
    raise ValueError("no coal")


class connected:  # noqa: N801 - a block
    """Connect a receiver in a block."""

    def __init__(self, signal: Signal, *receivers: Any, **options: Any) -> None:
        self.signal, self.receivers, self.options = signal, receivers, options

    def __enter__(self) -> None:
        for receiver in self.receivers:
            self.signal.connect(receiver, weak=False, **self.options)

    def __exit__(self, *_: object) -> None:
        for receiver in self.receivers:
            self.signal.disconnect(receiver, **self.options)


def failure(check: AbstractContextManager[Any], *acts: Callable[[], object]) -> str:
    """What a check says in whose block ``acts`` happen."""
    try:
        with check:
            for act in acts:
                act()
    except AssertionError as error:
        return str(error)
    pytest.fail("the check passed")


def pay(**args: Any) -> None:
    order_paid.send(sender=None, **args)


# ------------------------------------------------------------------ capture_events


@pytest.mark.django_db
def test_events_of_a_block_are_collected_with_what_is_recorded_of_them() -> None:
    order = Order.objects.create(number="A-1")
    loaded = Order.objects.get()
    with signalbox.trace("pay", actor="ann"), connected(post_save, listens), capture_events() as events:
        loaded.status = "paid"
        loaded.save(update_fields=["status"])
        authenticate(username="ann", password="wrong")
    order.save()

    assert ["post_save", "user_login_failed"] == events.signals
    event = events[0]
    assert ("post_save", "shop.Order", str(order.pk), "Order A-1") == (
        event.signal,
        event.sender,
        event.object_key,
        event.object_label,
    )
    assert {"status": ["open", "paid"]} == event.changes
    assert {"created": False, "raw": False, "update_fields": ["status"]} == event.args
    assert ([f"{__name__}.listens"], []) == (event.receivers, event.errors)
    assert event.actor is not None
    assert "ann" == event.actor.label
    assert "<post_save from shop.Order Order A-1>" == repr(event)
    assert Outcome.SENT == events[1].outcome
    assert "wrong" not in str(events[1].args)


@pytest.mark.django_db
def test_rolled_back_events_are_marked() -> None:
    with capture_events() as events, transaction.atomic():
        Tag.objects.create(name="steam")
        assert events[0].outcome is None
        transaction.set_rollback(True)

    assert Outcome.ROLLED_BACK == events[0].outcome


def test_exceptions_of_receivers_are_in_the_message() -> None:
    with connected(order_paid, fails), capture_events() as events:
        order_paid.send_robust(sender=None)

    [event] = events
    assert (NAME, Outcome.SENT) == (event.signal, event.outcome)
    assert ["ValueError: no coal"] == event.errors


@pytest.mark.django_db
def test_events_are_found_by_signal_and_by_sender() -> None:
    with capture_events() as events:
        Tag.objects.create(name="steam")
        order = Order.objects.create(number="A-1")
        order_paid.send(sender=Order, order=order)

    assert 3 == len(events)
    for signal in (post_save, "post_save"):
        assert ["shop.Tag", "shop.Order"] == [event.sender for event in events.filter(signal)]
    for sender in (Order, "shop.Order"):
        assert ["post_save", NAME] == events.filter(sender=sender).signals
    assert [NAME] == events.filter(order_paid, Order).signals
    assert [] == list(events.filter(order_paid, Tag))
    assert ["shop.Order"] == [event.sender for event in events[1:2]]
    assert "RecordedEvents([<post_save from shop.Tag steam>])" == repr(events[:1])


def test_events_of_other_threads_are_collected_as_well() -> None:
    with capture_events() as events:
        thread = threading.Thread(target=order_paid.send, args=(None,))
        thread.start()
        thread.join()

    assert [NAME] == events.signals


def test_blocks_within_each_other_collect_each_their_own() -> None:
    original = PendingEvent.__init__
    with capture_events() as outer:
        order_paid.send(sender=None)
        with capture_events() as inner:
            order_paid.send(sender=None)
    order_paid.send(sender=None)

    assert (2, 1) == (len(outer), len(inner))
    assert original is PendingEvent.__init__


def test_a_fixture_collects_the_events_of_a_test(signalbox_events: RecordedEvents) -> None:
    order_paid.send(sender=None)
    assert [NAME] == signalbox_events.signals


def test_recording_that_is_switched_off_can_be_collected_from_only_with_an_error() -> None:
    signalbox.stop_recording()
    try:
        with pytest.raises(RuntimeError, match=r"Call signalbox\.start_recording\(\) first"), capture_events():
            pass
    finally:
        signalbox.start_recording()


# ------------------------------------------------------------------ assert_sent


@pytest.mark.django_db
def test_a_send_that_fits_passes_and_is_handed_over() -> None:
    with assert_sent(post_save, sender=Tag, created=True, times=1) as found:
        tag = Tag.objects.create(name="steam")
        Order.objects.create(number="A-1")

    [send] = found
    assert isinstance(send, Send)
    assert (Tag, tag) == (send.sender, send.args["instance"])


@pytest.mark.parametrize("sender", [Tag, "shop.Tag", ...])
@pytest.mark.django_db
def test_a_sender_is_given_itself_or_by_its_label(sender: Any) -> None:
    with assert_sent(post_save, sender=sender):
        Tag.objects.create(name="steam")


def test_a_sender_that_is_a_text_or_nothing_is_compared() -> None:
    with (
        assert_sent(user_login_failed, sender="django.contrib.auth"),
        assert_not_sent(user_login_failed, sender=None),
        override_settings(AUTHENTICATION_BACKENDS=["django.contrib.auth.backends.RemoteUserBackend"]),
    ):
        authenticate(username="ann", password="x")
    with assert_sent(got_request_exception, sender=None):
        got_request_exception.send(sender=None, request=None)


def test_nobody_has_to_listen_and_nobody_seems_to() -> None:
    signal = Signal()
    with assert_sent(signal, times=1):
        assert not signal.has_listeners()
        assert [] == signal.send(sender=None)


def test_every_way_of_sending_counts() -> None:
    signal = Signal()

    async def listens_too(sender: object, **kwargs: object) -> str:
        return "heard too"

    with connected(signal, listens, listens_too), assert_sent(signal, times=4):
        answers = [
            signal.send(sender=None),
            signal.send_robust(sender=None),
            async_to_sync(signal.asend)(sender=None),
            async_to_sync(signal.asend_robust)(sender=None),
        ]
    assert [[(listens, "heard"), (listens_too, "heard too")]] * 4 == answers


@pytest.mark.django_db
def test_the_message_of_a_missing_send_lists_the_actual_ones() -> None:
    message = failure(
        assert_sent(post_save, sender="shop.Order", created=False, times=2),
        lambda: Order.objects.create(number="A-1"),
        lambda: Tag.objects.create(name="steam"),
    )
    assert message.startswith(
        "post_save from shop.Order with created=False was expected to be sent twice, but was sent never.\nIt was sent:"
    )
    assert "[created is True]" in message
    assert "[sender is shop.Tag; created is True]" in message
    assert "<Order: Order A-1>" in message


def test_the_message_says_that_a_signal_was_not_sent_at_all() -> None:
    expected = "was expected to be sent at least once, but was sent never."
    assert f"{NAME} {expected} No {NAME} was sent at all." == failure(assert_sent(order_paid))
    assert f"The signal {expected} It was not sent at all." == failure(assert_sent(Signal()))


def test_an_unknown_argument_is_in_the_message() -> None:
    assert "[no argument colour]" in failure(assert_sent(order_paid, colour="red"), lambda: pay(order=1))


def test_a_send_too_many_is_in_the_message() -> None:
    assert "expected to be sent once, but was sent 12 times" in failure(assert_sent(order_paid, times=1), *[pay] * 12)


def test_a_long_list_is_cut() -> None:
    assert "and 3 more" in failure(assert_sent(order_paid, sender=Tag), *[pay] * 13)


def test_a_value_whose_repr_raises_can_be_in_the_message() -> None:
    class Hostile:
        def __repr__(self) -> str:
            raise ValueError("no")

        def __eq__(self, other: object) -> bool:
            return NotImplemented

        __hash__ = None  # type: ignore[assignment]

    assert "Hostile" in failure(assert_sent(order_paid, order=1), lambda: pay(order=Hostile()))


def test_an_exception_of_the_block_is_not_hidden() -> None:
    with pytest.raises(ValueError, match="no coal"), assert_sent(order_paid):
        raise ValueError("no coal")


@pytest.mark.parametrize("check", [assert_sent, assert_not_sent])
def test_an_argument_that_is_not_a_signal_is_refused(check: Any) -> None:
    with pytest.raises(TypeError, match=r"signal is 'post_save'. Expected a .*Signal"), check("post_save"):
        pass


@pytest.mark.parametrize("installed", [True, False])
def test_the_signal_is_as_before_afterwards(installed: bool) -> None:
    if not installed:
        signalbox.stop_recording()
    try:
        before = {name: vars(order_paid).get(name) for name in signals.SEND_METHODS}
        with assert_sent(order_paid):
            order_paid.send(sender=None)
        failure(assert_sent(order_paid))
        assert before == {name: vars(order_paid).get(name) for name in signals.SEND_METHODS}
    finally:
        signalbox.start_recording()


def test_recording_that_was_installed_again_meanwhile_stays_installed() -> None:
    with assert_sent(setting_changed), assert_sent(order_paid):
        order_paid.send(sender=None)
        with override_settings(SIGNALBOX={"RECORD": "audit"}):
            pass
    with capture_events() as events:
        order_paid.send(sender=None)

    assert [NAME] == events.signals


# ------------------------------------------------------------------ assert_not_sent


@pytest.mark.django_db
def test_a_send_that_does_not_fit_is_no_offence() -> None:
    with assert_not_sent(post_save, sender=Order), assert_not_sent(post_save, sender=Tag, created=False):
        Tag.objects.create(name="steam")


@pytest.mark.django_db
def test_an_unexpected_send_is_in_the_message() -> None:
    message = failure(assert_not_sent(post_save, sender=Tag), lambda: Tag.objects.create(name="steam"))
    assert message.startswith(
        "post_save from shop.Tag was expected not to be sent, but was sent once:\n  from shop.Tag"
    )
    assert "instance=<Tag: steam>" in message


# ------------------------------------------------------------------ mute_receivers


def test_receivers_of_a_muted_signal_do_not_run() -> None:
    signal = Signal()
    with connected(signal, listens):
        with mute_receivers(signal):
            assert [] == signal.send(sender=None) == signal.send_robust(sender=None)
            assert not signal.has_listeners()
        assert [(listens, "heard")] == signal.send(sender=None)


def test_a_muted_receiver_does_not_run_and_the_others_do() -> None:
    first, second = Signal(), Signal()
    with connected(first, fails, listens), connected(second, fails):
        with mute_receivers(fails):
            assert [(listens, "heard")] == first.send(sender=None)
            assert [] == second.send(sender=None)
        with pytest.raises(ValueError, match="no coal"):
            first.send(sender=None)


class Station:
    def __init__(self) -> None:
        self.heard = 0

    def hear(self, sender: object, **kwargs: object) -> None:
        self.heard += 1

    def __call__(self, sender: object, **kwargs: object) -> None:
        self.heard += 1


def test_a_method_a_partial_and_an_object_can_be_muted() -> None:
    signal, one, other = Signal(), Station(), Station()
    part = partial(Station.hear, other)
    with connected(signal, one.hear, other.hear, part, other):
        with mute_receivers(other.hear):
            signal.send(sender=None)
        assert (1, 2) == (one.heard, other.heard)
        with mute_receivers(part, other):
            signal.send(sender=None)
        assert (2, 3) == (one.heard, other.heard)


def test_an_asynchronous_receiver_can_be_muted() -> None:
    signal, heard = Signal(), []

    async def hear(sender: object, **kwargs: object) -> None:
        heard.append(sender)

    with connected(signal, hear, listens), mute_receivers(hear):
        assert [(listens, "heard")] == async_to_sync(signal.asend)(sender=None)
        assert [(listens, "heard")] == signal.send(sender=None)
    assert [] == heard


@pytest.mark.django_db
def test_a_muted_signal_is_recorded() -> None:
    with connected(post_save, fails), mute_receivers(post_save, pre_save), capture_events() as events:
        Tag.objects.create(name="steam")

    assert (["post_save"], []) == (events.signals, events[0].receivers)


def test_signals_of_every_instance_can_be_muted() -> None:
    with connected(post_init, fails, sender=Tag), mute_receivers(post_init):
        Tag(name="steam")


def test_receivers_connected_within_the_block_stay_connected() -> None:
    signal = Signal()
    signal.connect(listens)
    with mute_receivers(signal):
        signal.connect(fails)
        signal.disconnect(listens)
    try:
        with pytest.raises(ValueError, match="no coal"):
            signal.send(sender=None)
    finally:
        signal.disconnect(fails)
    assert [] == signal.receivers


def test_muting_blocks_can_be_nested_and_end_with_an_exception() -> None:
    original = Signal._live_receivers
    signal = Signal()
    with connected(signal, fails, listens):
        with mute_receivers(listens), mute_receivers(fails):
            assert [] == signal.send(sender=None)
        with pytest.raises(KeyError), mute_receivers(listens), mute_receivers(fails):
            raise KeyError
        assert original is Signal._live_receivers
        with mute_receivers(fails), mute_receivers(signal):
            assert [] == signal.send(sender=None)


def test_a_signal_is_muted_in_every_thread() -> None:
    signal = Signal()
    answers = []
    with connected(signal, listens), mute_receivers(signal):
        thread = threading.Thread(target=lambda: answers.append(signal.send(sender=None)))
        thread.start()
        thread.join()
    assert [[]] == answers


def test_a_target_that_cannot_be_muted_is_refused() -> None:
    name: Any = "post_save"
    with pytest.raises(TypeError, match="'post_save'; a signal or a receiver was expected"), mute_receivers(name):
        pass
    with pytest.raises(TypeError, match="given nothing"), mute_receivers():
        pass


# ------------------------------------------------------------------ the document


@pytest.mark.django_db
def test_the_examples_of_the_document_work(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 4

    def send_invoice(sender: object, **kwargs: object) -> None:
        raise AssertionError("an invoice was sent")

    names: dict[str, Any] = {"Order": Order, "Tag": Tag, "order_paid": order_paid, "send_invoice": send_invoice}
    with connected(post_save, send_invoice, sender=Tag), capture_events() as events:
        for block in blocks:
            exec(compile(block, str(DOCUMENT), "exec"), names)
        tests = [value for name, value in names.items() if name.startswith("test_")]
        assert tests
        for test in tests:
            collected = {"signalbox_events": events} if "signalbox_events" in test.__code__.co_varnames else {}
            test(**collected)


def test_the_document_describes_every_tool() -> None:
    from signalbox import testing

    text = DOCUMENT.read_text(encoding="utf-8")
    assert [] == [name for name in testing.__all__ if f"`{name}" not in text and f"{name}(" not in text]
