from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest
from django.contrib.sessions.models import Session
from django.core.signals import request_started
from django.db.models.signals import post_save, pre_save
from django.dispatch import Signal

import signalbox
from signalbox.core import naming
from signalbox.outbox import durable_receiver, registration, registry
from tests.outbox import receivers
from tests.shop import signals
from tests.shop.models import Order
from tests.shop.signals import order_paid as imported_here

if TYPE_CHECKING:
    pass


class Holder:
    def method(self, **kwargs: Any) -> None: ...

    def __call__(self, **kwargs: Any) -> None: ...


def without_kwargs(sender: Any, instance: Any) -> None: ...


def test_a_receiver_that_no_worker_could_import_is_an_error() -> None:
    def local(**kwargs: Any) -> None: ...

    for function, expected in (
        (local, "is defined in a function"),
        (lambda **kwargs: None, "is defined in a function"),
        (Holder().method, "is bound to an object"),
        (Holder(), "has no dotted name"),
        (functools.partial(receivers.saved), "has no dotted name"),
        (without_kwargs, "must accept keyword arguments"),
    ):
        with pytest.raises(durable_receiver.CannotBeDurable, match=expected):
            signalbox.receiver(post_save, sender=Order, durable=True)(function)
    assert {} == registry.get_durable_receivers()


def test_a_signal_whose_arguments_can_not_be_serialized_is_an_error() -> None:
    for signal, expected in (
        (request_started, "has the request's environ, which can't be sent"),
        ("connection_created", "has a connection, which can't be sent"),
        (pre_save, "use post_save"),
        ("post_init", "is sent for each instance"),
    ):
        with pytest.raises(durable_receiver.CannotBeDurable, match=expected):
            signalbox.receiver(signal, durable=True)(receivers.saved)


def test_a_custom_signal_is_named_after_the_module_that_defines_it() -> None:
    assert "tests.shop.signals.order_paid" == registration.find_signal_name(imported_here)
    assert signals.order_paid is naming.find_signal("tests.shop.signals.order_paid")


def test_a_signal_without_a_name_in_a_module_is_an_error() -> None:
    signal = Signal()
    with pytest.raises(durable_receiver.CannotBeDurable, match=r"name it with signalbox\.register_signal"):
        signalbox.receiver(signal, durable=True)(receivers.saved)
    signalbox.register_signal(signal, "shop.nameless")
    signalbox.receiver(signal, durable=True)(receivers.saved)
    assert {"shop.nameless"} == registry.get_subscribed_signals()


def test_a_model_with_a_secret_primary_key_is_an_error() -> None:
    with pytest.raises(durable_receiver.CannotBeDurable, match=r"the primary key of sessions\.Session is a secret"):
        signalbox.receiver(post_save, sender=Session, durable=True)(receivers.saved)
