"""What events record of a field's value, and what the field reads from it."""

from __future__ import annotations

import datetime as dt
import json
import pickle
from base64 import b64encode
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from django.core.serializers.json import DjangoJSONEncoder
from django.db import models

from signalbox.core.event import UNKNOWN
from signalbox.serialization import encoder, field_values
from signalbox.serialization.encoder import NotRestorable
from signalbox.serialization.redaction import REDACTED, Redactor
from tests.own_values import Opaque, OpaqueField, Ref, RefField
from tests.shop.models import Item10

if TYPE_CHECKING:
    TextField = models.TextField[Any, Any]
else:
    TextField = models.TextField  # generic for type checkers only


def build(field: Any) -> field_values.ValueRecorder:
    field.set_attributes_from_name("value")
    return field_values.build_recorder(field, Redactor())


class PriceDecoder(json.JSONDecoder):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "object_hook": self.read_prices})

    @staticmethod
    def read_prices(value: dict[str, Any]) -> dict[str, Any]:
        return {key: Decimal(item) if key == "price" else item for key, item in value.items()}


class LosingDecoder(json.JSONDecoder):
    def decode(self, text: str, *args: Any) -> Any:
        return {}


class SecretField(TextField):
    """Holds any Python value; its text contains all of it."""

    def get_prep_value(self, value: Any) -> Any:
        return None if value is None else self.value_to_text(value)

    def value_to_string(self, obj: Any) -> str:
        return self.value_to_text(self.value_from_object(obj))

    @staticmethod
    def value_to_text(value: Any) -> str:
        return value if isinstance(value, str) else b64encode(pickle.dumps(value)).decode()


class CountingField(RefField):
    """Counts how often it reads a value."""

    number = 0

    def to_python(self, value: Any) -> Any:
        type(self).number += 1
        return super().to_python(value)


class QueryingField(RefField):
    """Asks the database when it reads a value."""

    def to_python(self, value: Any) -> Any:
        Item10.objects.count()
        return super().to_python(value)


def test_values_of_ordinary_types_are_not_looked_at() -> None:
    ordinary = ("x", 1, True, None, UNKNOWN)
    assert {*map(type, ordinary)} <= build(models.CharField()).exact_types
    fields = [field for field in Item10._meta.concrete_fields if field.name != "data"]
    values = Item10(id=1, day=dt.date(2026, 1, 1), moment=dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
    for field in fields:
        recorder = field_values.build_recorder(field, Redactor())
        assert type(getattr(values, field.attname)) in recorder.exact_types, field.name


def test_an_ordinary_type_of_a_custom_field_is_checked_once() -> None:
    recorder = build(CountingField())
    for number in range(1, 5):
        assert number == recorder.record(number)
    checked = CountingField.number
    recorder.record(6)
    assert checked == CountingField.number
    assert "R7" == recorder.record(Ref(7))


def test_json_is_recorded_as_its_encoder_writes_it() -> None:
    recorder = build(models.JSONField(encoder=DjangoJSONEncoder, decoder=PriceDecoder))
    recorded = recorder.record(
        {"price": Decimal("1.50"), 1: (True, None), "at": dt.datetime(2026, 1, 1, 0, 0, 0, 1500, dt.UTC)}
    )
    assert {"price": "1.50", "1": [True, None], "at": "2026-01-01T00:00:00.001Z"} == recorded
    assert {"price": Decimal("1.50")} == recorder.read({"price": "1.50"})


@pytest.mark.parametrize("value", [float("nan"), {"a": [float("inf")]}, {"a": {1, 2}}, {"a": Opaque(1)}, {(1,): 2}])
def test_json_that_is_not_json_is_not_restorable(value: Any) -> None:
    assert isinstance(build(models.JSONField()).record(value), NotRestorable)


def test_json_that_contains_itself_is_not_restorable() -> None:
    value: list[Any] = []
    value.append(value)
    assert isinstance(build(models.JSONField()).record(value), NotRestorable)


def test_json_whose_decoder_loses_something_is_not_restorable() -> None:
    recorder = build(models.JSONField(decoder=LosingDecoder))
    assert {"not_restorable": '{"a":1}'} == recorder.record({"a": 1})
    assert {} == recorder.record({})


def test_a_value_without_a_restorable_form_is_recorded_as_its_class() -> None:
    assert {"not_restorable": "<tests.own_values.Opaque>"} == build(OpaqueField()).record(Opaque(1))


def test_a_text_of_a_field_does_not_contain_redacted_secrets() -> None:
    recorded = build(SecretField()).record({"password": "hunter2", "pair": (1, 2)})
    assert {"not_restorable": f'{{"password":"{REDACTED}","pair":[1,2]}}'} == recorded


def test_a_pickle_is_not_recorded_as_secrets_in_it_can_not_be_found() -> None:
    cycle: dict[str, Any] = {"name": "x"}
    cycle["me"] = cycle
    long = dict.fromkeys(map(str, range(60)), 1) | {"password": "hunter2"}
    for value in (Opaque(1), Ref(2), cycle, long):
        recorded = build(SecretField()).record(value)
        assert isinstance(recorded, NotRestorable)
        assert "gA" not in recorded["not_restorable"]


def test_redaction_finds_secrets_in_the_text_of_a_value() -> None:
    class Text(str):
        pass

    recorded = build(models.TextField()).record(Text("at postgres://me:hunter2@host/"))
    text = encoder.dump_fields({"value": recorded}, non_scalar=frozenset(), redactor=Redactor())
    assert "hunter2" not in text
    marked = encoder.dump_fields(
        {"value": NotRestorable("at postgres://me:hunter2@host/")}, non_scalar=frozenset(), redactor=Redactor()
    )
    assert REDACTED in marked
    assert "hunter2" not in marked


def test_a_field_that_queries_the_database_is_blocked() -> None:
    assert isinstance(build(QueryingField()).record(Ref(1)), NotRestorable)


def test_geometries_are_not_restorable() -> None:
    field_class = type("PointField", (RefField,), {"__module__": "django.contrib.gis.db.models.fields"})
    assert {"not_restorable": "<tests.own_values.Ref>"} == build(field_class()).record(Ref(1))


@pytest.mark.parametrize("microsecond", [0, 1, 10_000, 99_999, 100_000])
def test_times_are_recorded_with_every_microsecond(microsecond: int) -> None:
    value = dt.time(1, 2, 3, microsecond)
    recorder = build(models.TimeField())
    text = encoder.dump_fields({"value": recorder.record(value)}, non_scalar=frozenset(), redactor=Redactor())
    assert value == recorder.read(json.loads(text)["value"])


def test_offsets_with_seconds_are_recorded_exactly() -> None:
    value = dt.datetime(1880, 1, 1, tzinfo=dt.timezone(dt.timedelta(seconds=3208)))
    text = encoder.dump_fields({"value": value}, non_scalar=frozenset(), redactor=Redactor())
    assert value == dt.datetime.fromisoformat(json.loads(text)["value"])


@pytest.mark.parametrize("value", [b"", b"text", bytearray("ß", "utf-8"), memoryview(b"x")])
def test_bytes_that_are_a_text_are_read_back(value: Any) -> None:
    recorder = build(models.BinaryField())
    [text] = encoder.encode_fields({"value": recorder.record(value)}, redactor=Redactor()).values()
    assert bytes(value) == recorder.read(text)
