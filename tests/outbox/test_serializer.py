from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import pytest
from django.utils.functional import SimpleLazyObject
from django.utils.translation import gettext_lazy
from hypothesis import given
from hypothesis import strategies as st

from signalbox.outbox import serializer
from tests.shop.models import Document, Order

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.datetimes(timezones=st.none() | st.just(dt.UTC))
    | st.dates()
    | st.times()
    | st.timedeltas(min_value=dt.timedelta(-9999), max_value=dt.timedelta(9999))
    | st.binary()
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.just("$"), inner)
        | st.frozensets(scalars)
    ),
    max_leaves=20,
)


@given(values)
def test_a_deserialized_value_is_equal_and_has_the_same_type(value: Any) -> None:
    arrived = serializer.deserialize(json.loads(json.dumps(serializer.serialize(value))))
    assert value == arrived
    assert type(value) is type(arrived)


class Colour(Enum):
    RED = 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (object(), "it is a builtins.object"),
        (Colour.RED, "it is a tests.outbox.test_serializer.Colour"),
        ({1: 2}, "has a key of type int"),
        (Order(), "it is an unsaved shop.Order"),
    ],
)
def test_a_value_that_would_be_deserialized_as_another_is_an_error(value: Any, expected: str) -> None:
    with pytest.raises(serializer.NotSerializable, match=expected):
        serializer.serialize([value])


def test_a_lazy_object_is_not_evaluated() -> None:
    lazy = SimpleLazyObject(lambda: 1)
    with pytest.raises(serializer.NotSerializable, match="was not evaluated yet"):
        serializer.serialize(lazy)
    assert lazy + 1 == 2
    assert 1 == serializer.deserialize(serializer.serialize(lazy))


def test_a_container_that_contains_itself_is_an_error() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(serializer.NotSerializable, match="nested containers"):
        serializer.serialize(value)


def test_choices_and_lazy_texts_become_texts_and_classes_stay_classes() -> None:
    assert "paid" == serializer.deserialize(serializer.serialize(Order.Status.PAID))
    assert "yes" == serializer.deserialize(serializer.serialize(gettext_lazy("yes")))
    assert [Order, UUID, Decimal] == serializer.deserialize(serializer.serialize([Order, UUID, Decimal]))


@pytest.mark.django_db
def test_an_object_is_loaded_and_a_deleted_one_has_its_primary_key() -> None:
    order = Order.objects.create(number="1")
    packed = serializer.serialize(order)
    Order.objects.update(number="2")
    assert "2" == serializer.deserialize(packed).number
    order.delete()
    arrived = serializer.deserialize(packed)
    assert arrived._state.adding
    assert "number" in arrived.get_deferred_fields()


class Holder:
    class Held:
        """A nested class."""


def test_a_nested_class_is_deserialized() -> None:
    assert Holder.Held is serializer.deserialize(json.loads(json.dumps(serializer.serialize(Holder.Held))))


def test_a_class_that_was_serialized_by_its_dotted_name_is_still_read() -> None:
    assert Decimal is serializer.deserialize({"$": "class", "v": "decimal.Decimal"})
    assert Holder.Held is serializer.deserialize({"$": "class", "v": f"{__name__}.Holder.Held"})


def test_a_class_that_can_not_be_imported_by_its_name_is_an_error() -> None:
    class Local: ...

    stranger = type("Holder", (), {"__module__": __name__})
    for kind in (Local, stranger, type(None)):
        with pytest.raises(serializer.NotSerializable, match="can't be imported by its name"):
            serializer.serialize(kind)
    with pytest.raises(ImportError, match="can't be imported"):
        serializer.import_class(f"{__name__}:Holder.Gone")


def test_an_unsaved_object_with_a_default_primary_key_is_an_error() -> None:
    with pytest.raises(serializer.NotSerializable, match=r"it is an unsaved shop\.Document"):
        serializer.serialize(Document(title="not in the table"))


@pytest.mark.parametrize(("containers", "refused"), [(serializer.MAX_DEPTH, False), (serializer.MAX_DEPTH + 1, True)])
def test_containers_are_serialized_to_the_documented_depth(containers: int, refused: bool) -> None:
    value: Any = "inmost"
    for _ in range(containers):
        value = [value]
    assert refused == isinstance(serializer.mark_too_deep(value), serializer.TooDeepMarker)
    if refused:
        for one in (value, serializer.mark_too_deep(value)):
            with pytest.raises(serializer.NotSerializable, match="more than 20 nested containers"):
                serializer.serialize(one)
    else:
        assert value == serializer.deserialize(serializer.serialize(value))
