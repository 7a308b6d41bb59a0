"""Test durable receivers of objects with values and keys of custom classes."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from django.core.serializers.json import DjangoJSONEncoder
from django.db import models
from django.db.models.signals import post_delete, post_save
from django.dispatch import Signal

import signalbox
from signalbox.models import Delivery
from signalbox.outbox import serializer
from signalbox.outbox.run_pending import run_deliveries
from tests.own_values import Opaque, OpaqueField, Ref, RefField
from tests.restoring import table

pytestmark = [pytest.mark.every_database, pytest.mark.django_db(transaction=True)]

shipped = Signal()

received: list[dict[str, Any]] = []


def hears_change(sender: Any, instance: Any, **kwargs: Any) -> None:
    received.append({"instance": instance})


def hears_send(sender: Any, owner: Any, car: Any, **kwargs: Any) -> None:
    received.append({"owner": owner, "car": car})


@pytest.fixture
def car_model() -> Iterator[Any]:
    received.clear()
    meta = type("Meta", (), {"app_label": "shop"})
    key = RefField(primary_key=True)
    owner: Any = type("Owner", (models.Model,), {"__module__": __name__, "Meta": meta, "id": key})
    fields = (
        models.ForeignKey(owner, models.CASCADE),
        RefField(),
        models.JSONField(encoder=DjangoJSONEncoder),
        models.BinaryField(),
        models.TimeField(),
    )
    with table(*fields, targets=(owner,)) as model:
        yield model


def make(model: Any, number: int = 1) -> Any:
    owner = model._meta.get_field("value").related_model
    return model.objects.create(
        value=owner.objects.create(id=Ref(number)),
        value2=Ref(7),
        value3={"price": Decimal("1.50")},
        value4=b"\xff\x00",
        value5=dt.time(1, 2, 3, 10_000),
    )


def test_a_deleted_object_has_the_values_that_its_fields_read(
    make_durable: Callable[..., None], car_model: Any
) -> None:
    make_durable(hears_change, signals=post_delete, sender="shop.Kept")
    make(car_model)
    car_model.objects.get().delete()
    run_deliveries()
    instance = received[0]["instance"]
    assert (Ref(1), Ref(7), {"price": "1.50"}) == (instance.value_id, instance.value2, instance.value3)
    assert dt.time(1, 2, 3, 10_000) == instance.value5
    assert {"value4"} == instance.get_deferred_fields()


@pytest.mark.parametrize(("key", "expected"), [("value", "shop.Owner R1"), ("value2", "R7")])
def test_a_value_of_a_custom_class_orders_deliveries(
    make_durable: Callable[..., None], car_model: Any, key: str, expected: str
) -> None:
    make_durable(hears_change, sender="shop.Kept", key=key)
    make(car_model)
    assert expected == Delivery.objects.get().ordering_key


def test_a_saved_object_with_a_custom_key_class_is_passed(make_durable: Callable[..., None], car_model: Any) -> None:
    make_durable(hears_change, signals=post_save, sender="shop.Owner")
    owner = car_model._meta.get_field("value").related_model.objects.create(id=Ref(5))
    run_deliveries()
    assert [owner] == [one["instance"] for one in received]


def test_an_object_with_a_custom_key_is_an_argument_of_a_custom_signal(
    make_durable: Callable[..., None], car_model: Any
) -> None:
    signalbox.receiver(shipped, durable=True)(hears_send)
    car = make(car_model, 3)
    shipped.send(None, owner=car.value, car=car)
    run_deliveries()
    assert [{"owner": car.value, "car": car}] == received
    assert Ref(3) == received[0]["owner"].pk


def test_a_key_that_its_field_does_not_read_back_is_not_serializable() -> None:
    class Vault(models.Model):
        id = OpaqueField(primary_key=True)

        class Meta:
            app_label = "shop"

    one = Vault(id=Opaque(1))
    one._state.adding = False
    with pytest.raises(serializer.NotSerializable, match="Opaque"):
        serializer.serialize(one)
