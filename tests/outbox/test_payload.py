from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from django.contrib.auth.signals import user_login_failed
from django.contrib.sessions.models import Session
from django.db.models.signals import post_save
from django.utils.functional import SimpleLazyObject
from django.utils.safestring import mark_safe
from django.utils.translation import gettext_lazy

from signalbox.models import Delivery
from signalbox.outbox import durable_receiver
from signalbox.serialization.redaction import REDACTED
from tests.outbox import receivers
from tests.shop import signals
from tests.shop.models import Customer, Order

if TYPE_CHECKING:
    from collections.abc import Callable


def takes_document(sender: Any, document: Any, **kwargs: Any) -> None: ...


def takes_credentials(sender: Any, credentials: Any, **kwargs: Any) -> None: ...


def takes_token(sender: Any, token: Any, **kwargs: Any) -> None: ...


@pytest.mark.usefixtures("empty_tables")
def test_an_argument_that_can_not_be_serialized_is_an_error_of_the_send(make_durable: Callable[..., None]) -> None:
    make_durable(takes_document, signals.order_paid, None)
    with pytest.raises(
        durable_receiver.CannotBeDurable,
        match=r"sent with 'document', which .*takes_document takes .*it is a builtins.object",
    ):
        signals.order_paid.send(sender=Order, document=object())
    signals.order_paid.send(sender=Order, document="text", other=object())
    assert {"document": "text"} == Delivery.objects.get().payload["serialized"]


@pytest.mark.usefixtures("empty_tables")
def test_a_deep_argument_is_an_error_if_a_receiver_takes_it_and_never_truncated(
    make_durable: Callable[..., None],
) -> None:
    make_durable(takes_document, signals.order_paid, None)
    deep: Any = "inmost"
    for _ in range(21):
        deep = [deep]
    with pytest.raises(durable_receiver.CannotBeDurable, match="it has more than 20 nested containers"):
        signals.order_paid.send(sender=Order, document=deep)
    signals.order_paid.send(sender=Order, document=deep[0], other=deep)
    packed = Delivery.objects.get().payload["serialized"]
    assert {"document": deep[0]} == packed


@pytest.mark.usefixtures("empty_tables")
def test_a_secret_argument_is_not_stored(make_durable: Callable[..., None]) -> None:
    make_durable(takes_token, signals.order_paid, None)
    with pytest.raises(durable_receiver.CannotBeDurable, match="secret by its name"):
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
def test_a_secret_within_an_argument_is_not_stored(make_durable: Callable[..., None], value: Any) -> None:
    bool(value)  # evaluates a lazy object
    make_durable(takes_document, signals.order_paid, None)
    with pytest.raises(
        durable_receiver.CannotBeDurable,
        match=r"sent with 'document', which .*takes_document takes: it contains a secret",
    ):
        signals.order_paid.send(sender=Order, document=value)
    signals.order_paid.send(sender=Order, document="text", other=value)
    assert {"document": "text"} == Delivery.objects.get().payload["serialized"]


@pytest.mark.usefixtures("empty_tables")
def test_a_failed_login_is_stored_without_the_secret(make_durable: Callable[..., None]) -> None:
    make_durable(takes_credentials, user_login_failed, None)
    user_login_failed.send(sender="tests", credentials={"username": "ann", "password": "hunter2"}, request=None)
    packed = Delivery.objects.get().payload["serialized"]
    assert {"username": "ann", "password": REDACTED} == packed["credentials"]


@pytest.mark.usefixtures("empty_tables")
def test_secret_fields_of_a_row_are_not_stored(make_durable: Callable[..., None]) -> None:
    make_durable(receivers.saved, post_save, Customer)
    Customer.objects.create(name="Ann", api_token="t0ken")
    assert {"id", "name", "email"} == Delivery.objects.get().payload["row"].keys()


@pytest.mark.usefixtures("empty_tables")
@pytest.mark.parametrize("text", ["4111 1111 1111 1111", "https://ada:hunter2@host/", '{"password": "hunter2"}'])
def test_secrets_in_the_values_of_a_row_are_not_stored(make_durable: Callable[..., None], text: str) -> None:
    make_durable(receivers.saved)
    Order.objects.create(number="7", note=text)
    payload = Delivery.objects.get().payload
    assert "note" not in payload["row"]
    assert "7" == payload["row"]["number"]
