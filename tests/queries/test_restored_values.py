"""What a row's history restores is equal in SQL, for every field of Django and one's own classes of values."""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from django.core.serializers.json import DjangoJSONEncoder
from django.db import models
from django.utils import timezone
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import signalbox
from signalbox.queries.revert import RevertError, revert
from signalbox.serialization.configured_redactor import get_redactor
from tests.events import get_newest_event
from tests.own_values import Opaque, OpaqueField, Ref, RefField
from tests.restoring import check_restored, get_columns, table

pytestmark = [pytest.mark.every_database, pytest.mark.django_db(transaction=True)]


class Color(models.TextChoices):
    RED = "red"
    BLUE = "blue"


class Plain(enum.Enum):
    ONE = "one"
    TWO = "two"


class Mixed(str, enum.Enum):  # noqa: UP042 - the text of a member is another one
    ONE = "one"
    TWO = "two"


class Size(models.IntegerChoices):
    SMALL = 1
    LARGE = 2


class Words:
    """An object with a text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text


OTHER_TEXTS = [*Color, *Plain, *Mixed, Words("w"), SafeString("s"), gettext_lazy("Yes"), ["a", 1], (2,)]
"""Values that a text field stores as text. They are drawn by their number: hypothesis 6.170 takes a member of ``Mixed``
for a text that it has drawn itself, and fails."""


def is_stored_unchanged(value: str) -> bool:
    """Hypothesis also draws constants of the source, which has names and forms of secrets."""
    redactor = get_redactor()
    return not redactor.is_secret(value) and value == redactor.redact_text(value)


text = st.text(st.characters(exclude_categories=["C"], exclude_characters="\ufffd"), max_size=30).filter(
    is_stored_unchanged
)
int32 = st.integers(-(2**31), 2**31 - 1)
int64 = st.integers(-(2**63), 2**63 - 1)
positive = st.integers(0, 2**31 - 1)
moment = st.datetimes(
    dt.datetime(1000, 1, 2),  # noqa: DTZ001 - the zone is drawn
    dt.datetime(9999, 12, 30),  # noqa: DTZ001
    timezones=st.sampled_from([dt.UTC, dt.timezone(dt.timedelta(hours=-3.5)), dt.timezone(dt.timedelta(seconds=3208))]),
)
decimals = st.decimals(-(10**6), 10**6, places=3) | st.sampled_from(
    [Decimal("1E+3"), Decimal("-0.0"), Decimal("1.500")]
)
json_scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | text | st.floats(-(10.0**12), 10.0**12)
json_values = st.recursive(
    json_scalars.filter(lambda value: value is not None),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=8,
)
uuids = st.uuids(version=4).flatmap(lambda value: st.sampled_from([value, f"urn:uuid:{value}", value.hex.upper()]))

Case = tuple[Callable[[], Any], st.SearchStrategy[Any]]

CASES: dict[str, Case] = {
    "BigIntegerField": (models.BigIntegerField, int64),
    "BinaryField": (models.BinaryField, text.map(str.encode)),
    "BooleanField": (models.BooleanField, st.booleans() | st.sampled_from([0, 1, "t", "False"])),
    "CharField": (
        lambda: models.CharField(max_length=60),
        text
        | int64
        | decimals
        | moment
        | st.floats()
        | st.uuids(version=4)
        | st.booleans()
        | st.integers(0, len(OTHER_TEXTS) - 1).map(OTHER_TEXTS.__getitem__),
    ),
    "DateField": (models.DateField, st.dates(dt.date(1000, 1, 2), dt.date(9999, 12, 30)) | moment),
    "DateTimeField": (models.DateTimeField, moment),
    "DecimalField": (
        lambda: models.DecimalField(max_digits=12, decimal_places=3),
        decimals | st.integers(-(10**6), 10**6) | decimals.map(float) | decimals.map(str),
    ),
    "DurationField": (models.DurationField, st.timedeltas(dt.timedelta(days=-9999), dt.timedelta(days=9999))),
    "EmailField": (models.EmailField, text),
    "FileField": (models.FileField, text),
    "FilePathField": (models.FilePathField, text),
    "FloatField": (
        models.FloatField,
        st.floats(-1e15, 1e15, allow_subnormal=False) | st.integers(-(2**53), 2**53) | decimals,
    ),
    "GenericIPAddressField": (
        models.GenericIPAddressField,
        st.ip_addresses().map(str) | st.just("::ffff:10.0.0.1"),
    ),
    "ImageField": (lambda: models.ImageField(width_field=None), text),
    "IntegerField": (models.IntegerField, int32 | int32.map(str) | st.sampled_from([*Size, Decimal(2), 1.0, True])),
    "JSONField": (models.JSONField, json_values | st.sampled_from([(1, 2), {1: "a"}, {"a": (1, Color.RED)}])),
    "PositiveBigIntegerField": (models.PositiveBigIntegerField, st.integers(0, 2**63 - 1)),
    "PositiveIntegerField": (models.PositiveIntegerField, positive),
    "PositiveSmallIntegerField": (models.PositiveSmallIntegerField, st.integers(0, 32767)),
    "SlugField": (models.SlugField, text),
    "SmallIntegerField": (models.SmallIntegerField, st.integers(-32768, 32767)),
    "TextField": (models.TextField, text | st.sampled_from([*Color])),
    "TimeField": (models.TimeField, st.times()),
    "URLField": (models.URLField, text),
    "UUIDField": (models.UUIDField, uuids),
    "JSON of an encoder": (
        lambda: models.JSONField(encoder=DjangoJSONEncoder),
        st.dictionaries(
            text, decimals | moment | st.dates() | st.uuids(version=4) | st.lists(decimals, max_size=2), max_size=3
        ),
    ),
    "own class": (RefField, st.builds(Ref, int64) | int64),
    "nullable own class": (lambda: RefField(null=True), st.none() | st.builds(Ref, int64)),
    "nullable": (lambda: models.DecimalField(max_digits=12, decimal_places=3, null=True), st.none() | decimals),
}
"""Of each class of fields how to make one, and values of it."""

KEYS_AND_RELATIONS = {
    *("AutoField", "BigAutoField", "SmallAutoField", "CompositePrimaryKey", "Field", "ForeignKey", "ForeignObject"),
    *("GeneratedField", "ManyToManyField", "OneToOneField", "OrderWrt"),
    *("CommaSeparatedIntegerField", "IPAddressField", "NullBooleanField"),  # for migrations only
}
"""Classes without values of their own, and keys, which other tests restore."""


def postgres_cases() -> dict[str, Case]:
    from django.contrib.postgres import fields
    from django.db.backends.postgresql.psycopg_any import DateRange, DateTimeTZRange, NumericRange

    numbers = st.integers(-1000, 1000)

    def ranges(kind: Any, bounds: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        some = st.builds(
            lambda pair, form: kind(pair[0], pair[1], form),
            st.lists(bounds, min_size=2, max_size=2).map(sorted),
            st.sampled_from(["[]", "[)", "(]", "()"]),
        )
        return some | bounds.map(lambda low: kind(low, None)) | st.just(kind(empty=True))

    def lists(of: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.lists(of, max_size=4) | st.lists(of, max_size=2).map(tuple)

    return {
        "array of integers": (lambda: fields.ArrayField(models.IntegerField()), lists(int32 | st.none())),
        "array of texts": (lambda: fields.ArrayField(models.TextField()), lists(text)),
        "array of arrays": (
            lambda: fields.ArrayField(fields.ArrayField(models.IntegerField())),
            st.lists(st.lists(int32, min_size=2, max_size=2), max_size=3),
        ),
        "array of decimals": (
            lambda: fields.ArrayField(models.DecimalField(max_digits=12, decimal_places=3)),
            lists(decimals),
        ),
        "array of times": (lambda: fields.ArrayField(models.DateTimeField()), lists(moment)),
        "array of UUIDs": (lambda: fields.ArrayField(models.UUIDField()), lists(st.uuids(version=4))),
        "array of JSON": (lambda: fields.ArrayField(models.JSONField()), lists(st.dictionaries(text, json_scalars))),
        "array of own classes": (lambda: fields.ArrayField(RefField()), lists(st.builds(Ref, int64))),
        "array of addresses": (
            lambda: fields.ArrayField(models.GenericIPAddressField()),
            lists(st.ip_addresses().map(str)),
        ),
        "IntegerRangeField": (fields.IntegerRangeField, ranges(NumericRange, numbers)),
        "BigIntegerRangeField": (fields.BigIntegerRangeField, ranges(NumericRange, numbers) | st.just((1, 5))),
        "DecimalRangeField": (fields.DecimalRangeField, ranges(NumericRange, decimals)),
        "DateTimeRangeField": (fields.DateTimeRangeField, ranges(DateTimeTZRange, moment)),
        "DateRangeField": (fields.DateRangeField, ranges(DateRange, st.dates(dt.date(1000, 1, 1)))),
    }


def test_every_field_class_of_django_has_a_case() -> None:
    classes = {
        name for name, found in vars(models).items() if isinstance(found, type) and issubclass(found, models.Field)
    }
    assert classes - KEYS_AND_RELATIONS <= CASES.keys()


def check(case: Case, examples: int = 8) -> None:
    make, values = case
    with table(make()) as model:

        @settings(
            max_examples=examples,
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
        )
        @given(values, values)
        def restores(first: Any, second: Any) -> None:
            check_restored(model, {"value": first}, {"value": second})

        restores()


def test_history_restores_a_large_float_in_a_text_field() -> None:
    with table(models.CharField(max_length=60)) as model:
        check_restored(model, {"value": 1e16}, {"value": "x"})


@pytest.mark.parametrize("name", CASES)
def test_history_restores_the_values_of_every_field_class_of_django(name: str) -> None:
    check(CASES[name])


@pytest.mark.postgres
def test_history_restores_arrays_and_ranges() -> None:
    for case in postgres_cases().values():
        check(case, 5)


@pytest.mark.parametrize("nullable", [False, True])
def test_history_restores_a_foreign_key_to_a_key_of_ones_own_class(nullable: bool) -> None:
    class Owner(models.Model):
        id = RefField(primary_key=True)

        class Meta:
            app_label = "shop"

    class Badge(models.Model):
        owner = models.OneToOneField(Owner, models.CASCADE, primary_key=True)

        class Meta:
            app_label = "shop"

    fields = (
        models.ForeignKey(Owner, models.CASCADE, null=nullable),
        models.ForeignKey(Badge, models.CASCADE, null=nullable),
    )
    with table(*fields, targets=(Owner, Badge)) as model:
        one, two = Owner._base_manager.create(id=Ref(1)), Owner._base_manager.create(id=Ref(2))
        badges = [Badge._base_manager.create(owner=owner) for owner in (one, two)]
        check_restored(model, {"value": one, "value2": badges[0]}, {"value": two, "value2": badges[1]})
        check_restored(model, {"value_id": Ref(2), "value2_id": Ref(1)}, {"value_id": Ref(1)})
        assert "R1" == get_newest_event(Owner, "post_save", object_key="R1").data["row"]["id"]
        key = badges[1].pk
        badges[1].delete()
        revert(get_newest_event(Badge, "post_delete"))
        assert [key] == list(Badge._base_manager.filter(owner=two).values_list("pk", flat=True))


def assert_refused(field: models.Field[Any, Any], first: Any, second: Any, text: str = "") -> Any:
    """Assert that neither value is restored, and that the error names the field. Return what was recorded of them."""
    with table(field) as model:
        row: Any = model._base_manager.create(value=first)
        row = model._base_manager.get(pk=row.pk)
        created = timezone.now()
        setattr(row, "value", second)  # noqa: B010 - a field that is made here
        row.save()
        event = get_newest_event(model, "post_save")
        history = signalbox.history(row)
        assert frozenset({"value"}) == history.as_of(created).unknown_fields
        with pytest.raises(RevertError, match=f"'value'.*{text}"):
            revert(event)
        held = get_columns(model, row.pk)
        row.delete()
        with pytest.raises(RevertError, match="'value'"):
            revert(get_newest_event(model, "post_delete"))
        assert 1 == len(held)
        return event.data["changes"]["value"]


def test_a_value_that_its_field_does_not_read_back_is_refused_by_name() -> None:
    found = assert_refused(OpaqueField(), Opaque(1), Opaque(2))
    name = "<tests.own_values.Opaque>"
    assert [{"not_restorable": name}, {"not_restorable": name}] == found


def test_bytes_that_are_no_text_are_refused_by_name() -> None:
    found = assert_refused(models.BinaryField(), b"\xff\x00", b"\xfe\x00")
    assert [{"not_restorable": '{"bytes":2}'}] * 2 == found


def test_a_dict_of_the_form_of_the_mark_is_restored() -> None:
    with table(models.JSONField()) as model:
        check_restored(model, {"value": {"not_restorable": "a"}}, {"value": {"not_restorable": "b"}})
        check_restored(model, {"value": [{"not_restorable": "a"}, 1]}, {"value": {"literal": {"not_restorable": "b"}}})


def test_null_of_a_file_field_is_restored_as_the_empty_text_that_django_saves() -> None:
    with table(models.FileField(null=True)) as model:
        row = model._base_manager.create(value="a.txt")
        model._base_manager.update(value=None)
        assert [None] == get_columns(model, row.pk)
        loaded = model._base_manager.get(pk=row.pk)
        loaded.delete()
        restored = revert(get_newest_event(model, "post_delete"))
        assert [""] == get_columns(model, restored.pk)
        model._base_manager.update(value=None)
        model._base_manager.get(pk=restored.pk).save()
        assert [""] == get_columns(model, restored.pk)


def _save_and_get_changes(field: models.Field[Any, Any], first: Any, second: Any, *, reload: bool) -> Any:
    """Save ``second`` over ``first``. Return the recorded changes, after a revert has restored the column."""
    with table(field) as model:
        row: Any = model._base_manager.create(value=first)
        before = get_columns(model, row.pk)
        if reload:
            row = model._base_manager.get(pk=row.pk)
        row.value = second
        row.save()
        event = get_newest_event(model, "post_save", object_key=str(row.pk))
        changes = event.data["changes"]
        if changes:
            signalbox.revert(event)
        assert before == get_columns(model, row.pk)
        return changes


@pytest.mark.parametrize(
    ("first", "second", "recorded"),
    [
        ({"a": Decimal("1.50")}, {"a": Decimal("1.5")}, [{"a": "1.50"}, {"a": "1.5"}]),
        ({"a": 1}, {"a": Decimal(1)}, [{"a": 1}, {"a": "1"}]),
        (
            [dt.datetime(2026, 1, 1, tzinfo=dt.UTC)],
            [dt.datetime(2026, 1, 1, 2, tzinfo=dt.timezone(dt.timedelta(hours=2)))],
            [["2026-01-01T00:00:00Z"], ["2026-01-01T02:00:00+02:00"]],
        ),
    ],
)
def test_values_that_are_equal_in_python_are_a_change_if_their_json_differs(
    first: Any, second: Any, recorded: Any
) -> None:
    field = models.JSONField(encoder=DjangoJSONEncoder)
    assert {"value": recorded} == _save_and_get_changes(field, first, second, reload=False)


def test_a_number_that_becomes_a_text_of_json_is_a_change_of_a_loaded_row() -> None:
    field = models.JSONField(encoder=DjangoJSONEncoder)
    assert {"value": [{"a": 1}, {"a": "1"}]} == _save_and_get_changes(field, {"a": 1}, {"a": Decimal(1)}, reload=True)


@pytest.mark.parametrize("reload", [True, False])
def test_another_spelling_of_an_address_is_not_a_change(reload: bool) -> None:
    field = models.GenericIPAddressField()
    assert {} == _save_and_get_changes(field, "::1", "0:0:0:0:0:0:0:1", reload=reload)
    assert {"value": ["::1", "::2"]} == _save_and_get_changes(field, "::1", "0:0::0:2", reload=reload)


class Amount:
    """A value that refuses to be compared, as amounts of different currencies do."""

    def __init__(self, text: str) -> None:
        self.text = text

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return self.text

    def __eq__(self, other: object) -> bool:
        raise TypeError("these amounts can't be compared")


class AmountField(models.CharField):  # type: ignore[type-arg]
    """A text that is read as an ``Amount``."""

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Any:
        return self.to_python(value)

    def to_python(self, value: Any) -> Any:
        return value if value is None or isinstance(value, Amount) else Amount(value)

    def get_prep_value(self, value: Any) -> Any:
        return None if value is None else str(value)


def test_history_restores_values_that_refuse_to_be_compared() -> None:
    with table(AmountField(max_length=20)) as model:
        check_restored(model, {"value": Amount("1 EUR")}, {"value": Amount("2 USD")})


class WordsField(models.TextField):  # type: ignore[type-arg]
    """Words that are written without their order and case, as an empty text if there are none."""

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Any:
        return value.split()

    def get_prep_value(self, value: Any) -> Any:
        words = value.split() if isinstance(value, str) else value or ()
        return " ".join(sorted(word.lower() for word in words))


@pytest.mark.parametrize("reload", [True, False])
@pytest.mark.parametrize(("first", "second"), [([], ""), (None, []), (["a", "b"], "B A")])
def test_values_that_a_field_writes_equally_are_not_a_change(first: Any, second: Any, reload: bool) -> None:
    assert {} == _save_and_get_changes(WordsField(null=True), first, second, reload=reload)


def test_a_deletion_with_a_value_that_is_written_equally_has_no_older_values(caplog: pytest.LogCaptureFixture) -> None:
    with table(WordsField(null=True)) as model:
        model._base_manager.create(value=None)
        row = model._base_manager.get()
        row.save()
        row.delete()
        signalbox.revert(get_newest_event(model, "post_delete"))
        assert [""] == get_columns(model, model._base_manager.get().pk)
    assert "older values" not in caplog.text


def test_a_row_is_found_by_a_key_that_its_field_does_not_prepare_as_text() -> None:
    class Span(models.Model):
        length = models.DurationField(primary_key=True)
        value = models.TextField()

        class Meta:
            app_label = "shop"

    with table(model=Span) as model:
        row: Any = model._base_manager.create(length=dt.timedelta(days=1, microseconds=5), value="old")
        row.value = "new"
        row.save()
        signalbox.revert(get_newest_event(model, "post_save"))
        row.refresh_from_db()
        assert "old" == row.value
