"""What an event says of a save: which fields changed, from what to what, on every kind of field."""

from __future__ import annotations

import copy
import datetime as dt
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import django
import pytest
from django.core.files.base import ContentFile
from django.db import connection, models
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from django.utils.functional import lazy
from pytest_django import DjangoAssertNumQueries

import signalbox
from signalbox import conf
from signalbox.core.event import UNKNOWN
from signalbox.instrumentation import model_metadata
from signalbox.serialization import encoder
from signalbox.serialization.diff import (
    NON_EXPRESSION_TYPES,
    FieldSet,
    RowChange,
    build_row,
    describe,
    diff,
    get_choice_labels,
    is_equal,
)
from signalbox.serialization.redaction import REDACTED, Redactor
from tests.events import get_changes, get_events, get_newest_event, get_object_event
from tests.shop.fields import Money
from tests.shop.models import Attachment, Big, Customer, Enrolment, Item10, Measure, Note, Order, OrderLine, Person, Tag

database = [pytest.mark.every_database, pytest.mark.django_db]


def everywhere(test: Any) -> Any:
    """This test concerns every database."""
    for mark in database:
        test = mark(test)
    return test


# ------------------------------------------------------------------ the pure part


class _Verbatim:
    """Records every value as it is."""

    exact_types = NON_EXPRESSION_TYPES

    def record(self, value: Any) -> Any:
        return value

    def encodes(self, value: Any) -> bool:
        return False

    def stores_equally(self, first: Any, second: Any) -> bool:
        return False


def fields(*names: str, **options: Any) -> FieldSet:
    settled: dict[str, Any] = {
        "names": names,
        "attnames": names,
        "secret": frozenset(),
        "to_python": tuple(lambda value: value for _ in names),
        "non_scalar": frozenset(),
        "redactor": Redactor(),
        "excluded": frozenset(),
        "choices": {},
        "primary_key": frozenset(),
        "recorders": tuple(_Verbatim() for _ in names),
        "json_positions": (),
        "exact_types": tuple(NON_EXPRESSION_TYPES for _ in names),
    }
    return FieldSet(**{**settled, **options})


def test_only_different_values_are_changes() -> None:
    change = RowChange(fields("a", "b"), (1, 2), (1, 3))
    assert {"b": [2, 3]} == diff(change)
    assert ("changes", {"b": [2, 3]}) == describe(change)


def test_a_created_and_a_deleted_row_are_recorded_completely() -> None:
    assert ("row", {"a": 1}) == describe(RowChange(fields("a"), None, (1,)))
    assert ("row", {"a": 1}) == describe(RowChange(fields("a"), (1,), None))
    assert ("row", {}) == describe(RowChange(fields("a"), UNKNOWN, None))


def test_an_unknown_old_value_is_left_out_and_not_invented() -> None:
    assert {"a": [1], "b": [2]} == diff(RowChange(fields("a", "b"), UNKNOWN, (1, 2)))
    assert {"a": [1]} == diff(RowChange(fields("a", "b"), [UNKNOWN, 2], (1, 2)))
    assert {"b": 2} == build_row([UNKNOWN, 2], fields("a", "b"))


def test_a_field_that_was_not_written_did_not_change() -> None:
    assert {} == diff(RowChange(fields("a"), (1,), [UNKNOWN]))


def test_the_same_value_of_another_type_is_not_a_change() -> None:
    read = fields("a", to_python=(int,))
    assert {} == diff(RowChange(read, (72,), ("72",)))
    assert {"a": [72, "73"]} == diff(RowChange(read, (72,), ("73",)))


def test_a_value_that_its_field_cannot_read_is_recorded_unchanged() -> None:
    assert {"a": [72, "x"]} == diff(RowChange(fields("a", to_python=(int,)), (72,), ("x",)))


class Unwilling:
    """A value that can't be compared, as arrays of numbers can't."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise ValueError("the truth value is ambiguous")


def test_values_that_refuse_to_be_compared_are_taken_for_different() -> None:
    assert not is_equal(Unwilling(), 1)
    one, other = Unwilling(), Unwilling()
    assert {"a": [one, other]} == diff(RowChange(fields("a"), (one,), (other,)))
    assert {"a": one} == build_row([one], fields("a"))


def test_a_secret_change_shows_without_its_values() -> None:
    secret = fields("a", secret=frozenset({"a"}))
    assert {"a": [REDACTED, REDACTED]} == diff(RowChange(secret, ("x",), ("y",)))
    assert {"a": [None, REDACTED]} == diff(RowChange(secret, (None,), ("y",)))
    assert {"a": [REDACTED]} == diff(RowChange(secret, UNKNOWN, ("y",)))
    assert {"a": REDACTED} == build_row(("x",), secret)
    assert {"a": None} == build_row((None,), secret)


def test_excluded_fields_are_in_neither() -> None:
    without = fields("a", "b", excluded=frozenset({"a"}))
    assert {"b": [1, 2]} == diff(RowChange(without, (1, 1), (2, 2)))
    assert {"b": 1} == build_row((1, 1), without)


def test_choices_are_called_by_their_name() -> None:
    named = fields("a", choices={"a": {"x": "Ex", 1: "One"}})
    assert {"a": {"x": "Ex", "1": "One"}} == get_choice_labels({"a": ["x", 1]}, named)
    assert {"a": {"x": "Ex"}} == get_choice_labels({"a": ["x", "unknown"]}, named)
    assert {} == get_choice_labels({"a": ["unknown", None]}, named)


@pytest.mark.parametrize(
    "value",
    [
        Decimal("2.00"),
        dt.date(2026, 3, 1),
        dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC),
        dt.time(12, 30),
        dt.timedelta(days=1),
        uuid.UUID(int=1),
        1.5,
        True,
    ],
    ids=repr,
)
def test_a_choice_of_any_type_is_called_by_its_name(value: Any) -> None:
    named = fields("a", choices={"a": {value: "This"}})
    encoded = encoder.encode_fields({"a": value}, redactor=named.redactor)["a"]
    assert {"a": {str(encoded): "This"}} == get_choice_labels({"a": value}, named)
    assert {} == get_choice_labels({"a": {"not": "hashable"}}, named)


# ------------------------------------------------------------------ every kind of field


@everywhere
def test_ten_fields_are_recorded_as_json() -> None:
    moment = dt.datetime(2024, 2, 29, 23, 59, 59, 123456, tzinfo=dt.UTC)
    item = Item10.objects.create(
        name="Käse",
        count=-1,
        price=Decimal("9.90"),
        weight=0.5,
        day=dt.date(2024, 2, 29),
        moment=moment,
        data={"a": [1]},
    )
    told = get_object_event(item).data["row"]
    assert {
        "id": item.pk,
        "name": "Käse",
        "description": "",
        "count": -1,
        "price": "9.90",
        "weight": 0.5,
        "active": True,
        "day": "2024-02-29",
        "moment": "2024-02-29T23:59:59.123456+00:00",
        "data": {"a": [1]},
    } == told


@everywhere
def test_texts_assigned_for_other_types_are_no_changes() -> None:
    item = Item10.objects.create(count=72, price=Decimal("9.90"), day=dt.date(2024, 2, 29), weight=0.5)
    item.count, item.price, item.day, item.weight = "72", "9.90", "2024-02-29", "0.5"
    item.save()
    assert {} == get_changes(item)
    item.count = "73"
    item.save()
    assert ["count"] == list(get_changes(item))


@everywhere
def test_a_save_that_changes_nothing_is_an_event_without_changes() -> None:
    tag = Tag.objects.create(name="steam")
    tag.save()
    event = get_object_event(tag)
    assert ({}, False) == (event.data["changes"], event.data["args"]["created"])


@pytest.fixture
def audit() -> Iterator[None]:
    with override_settings(SIGNALBOX={"RECORD": "audit"}):
        yield


@everywhere
@pytest.mark.usefixtures("audit")
def test_the_audit_preset_drops_a_save_that_changes_nothing() -> None:
    tag = Tag.objects.create(name="steam")
    tag.save()
    tag.name = "diesel"
    tag.save()
    assert [True, False] == [event.data["args"]["created"] for event in get_events(Tag, "post_save")]


@everywhere
def test_a_generated_column_is_recorded_only_with_the_value_of_the_database() -> None:
    measure = Measure.objects.create(width=6, height=7)
    if connection.features.can_return_columns_from_insert:
        assert 42 == get_object_event(measure).data["row"]["area"]
    measure = Measure.objects.get(pk=measure.pk)
    measure.width = 7
    measure.save()
    told = get_changes(measure)
    assert [6, 7] == told["width"]
    if django.VERSION >= (6, 0) and connection.features.can_return_rows_from_update:
        assert [42, 49] == told["area"]
    else:
        assert "area" not in told
    measure.refresh_from_db()
    measure.height = 8
    measure.save(update_fields=["height"])
    if django.VERSION >= (6, 0) and connection.features.can_return_rows_from_update:
        assert {"height": [7, 8], "area": [49, 56]} == get_changes(measure)
    else:
        assert {"height": [7, 8]} == get_changes(measure)
    measure.width = 1
    measure.save()
    told = get_changes(measure)
    assert [7, 1] == told.pop("width")
    assert told in ({}, {"area": [56, 8]})


@everywhere
def test_a_value_of_a_custom_field_is_recorded_as_the_text_of_the_field() -> None:
    note = Note.objects.create(text="tea", price=Money(Decimal("12.50"), "EUR"))
    assert "12.50 EUR" == get_object_event(note).data["row"]["price"]
    note = Note.objects.get(pk=note.pk)
    note.price = Money(Decimal("13.00"), "EUR")
    note.save()
    assert {"price": ["12.50 EUR", "13.00 EUR"]} == get_changes(note)
    note.price = "13.00 EUR"  # type: ignore[assignment]
    note.save()
    assert {} == get_changes(note)


@everywhere
def test_a_file_is_recorded_as_its_name(settings: Any, tmp_path: Any) -> None:
    settings.MEDIA_ROOT = str(tmp_path)
    attachment = Attachment.objects.create(name="a", file=ContentFile(b"one", name="one.txt"))
    assert "attachments/one.txt" == get_object_event(attachment).data["row"]["file"]
    attachment.file.save("two.txt", ContentFile(b"two"))
    assert {"file": ["attachments/one.txt", "attachments/two.txt"]} == get_changes(attachment)
    found = Attachment.objects.get()
    found.file.name = "attachments/three.txt"
    found.save()
    assert {"file": ["attachments/two.txt", "attachments/three.txt"]} == get_changes(found)
    found.file.delete()
    assert {"file": ["attachments/three.txt", ""]} == get_changes(found)


@everywhere
def test_json_changed_in_place_is_a_change() -> None:
    order = Order.objects.create(number="A-1", meta={"a": [1, 2]})
    order.meta["a"].append(3)
    order.save()
    assert [{"a": [1, 2]}, {"a": [1, 2, 3]}] == get_changes(order)["meta"]


@everywhere
@pytest.mark.parametrize(
    ("old", "new"), [({"admin": 0}, {"admin": False}), ([{"on": [True]}], [{"on": [1]}]), (1, True)]
)
def test_json_s_truth_values_are_no_numbers(old: Any, new: Any) -> None:
    order = Order.objects.create(number="A-1", meta=old)
    order.meta = new
    order.save()
    assert [old, new] == get_changes(order)["meta"]
    assert [type(old), type(new)] == [type(value) for value in get_changes(order)["meta"]]
    order.meta = copy.deepcopy(new)
    order.save()
    assert "meta" not in get_changes(order)


@everywhere
def test_json_changed_after_the_save_does_not_change_the_event() -> None:
    order = Order.objects.create(number="A-1", meta={"a": [1]})
    order.meta["a"].append(2)
    assert {"a": [1]} == get_object_event(order).data["row"]["meta"]


@contextmanager
def table_of_postgresql(name: str, **members: Any) -> Iterator[Any]:
    """Make a model of the shop's with fields that only PostgreSQL has."""
    meta = type("Meta", (), {"app_label": "shop"})
    model: Any = type(name, (models.Model,), {"__module__": __name__, "Meta": meta, **members})
    try:
        with connection.schema_editor() as editor:
            editor.create_model(model)
        yield model
    finally:
        from django.apps import apps

        del apps.all_models["shop"][name.lower()]
        apps.clear_cache()


@pytest.mark.postgres
@pytest.mark.django_db
def test_an_array_changed_in_place_is_a_change() -> None:
    from django.contrib.postgres.fields import ArrayField

    with table_of_postgresql("Shelf", books=ArrayField(models.CharField(max_length=20))) as shelves:
        shelves.objects.create(books=["Emma"])
        shelf = shelves.objects.get()
        shelf.books.append("Persuasion")
        shelf.save()
        assert {"books": [["Emma"], ["Emma", "Persuasion"]]} == get_changes(shelf)


@pytest.mark.postgres
@pytest.mark.django_db
def test_a_range_is_recorded_as_its_serializer_writes_it_and_can_be_restored() -> None:
    from django.contrib.postgres.fields import IntegerRangeField

    with table_of_postgresql("Stretch", miles=IntegerRangeField()) as stretches:
        stretches.objects.create(miles=(1, 5))
        stretch = stretches.objects.get()
        was = stretch.miles
        stretch.miles = (2, 9)
        stretch.save()
        old, new = get_changes(stretch)["miles"]
        assert ({"lower": "1", "upper": "5", "bounds": "[)"}, [2, 9]) == (json.loads(old), new)
        signalbox.revert(get_object_event(stretch))
        assert was == stretches.objects.get().miles
        stretches.objects.update(miles=was)
        assert old == get_newest_event(stretches, "update").data["args"]["values"]["miles"]


@everywhere
@pytest.mark.parametrize("label", [lazy(lambda: str(Tag.objects.count()), str)(), lazy(lambda: str(1 / 0), str)()])
def test_a_label_that_queries_or_fails_is_left_out_and_no_event_is_lost(
    label: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    choices: Any = model_metadata.get_metadata(Order).fields.choices
    monkeypatch.setitem(choices["status"], "open", label)
    with CaptureQueriesContext(connection) as captured:
        order = Order.objects.create(number="A-1")
        order.status = "paid"
        order.save()
        Order.objects.update(status="open")
        created, saved = get_events(Order, "post_save")
    assert not [query for query in captured if "shop_tag" in query["sql"]]
    assert ("open", None) == (created.data["row"]["status"], created.data.get("labels"))
    assert {"status": {"paid": "Paid"}} == saved.data["labels"]
    assert {"status": "open"} == get_newest_event(Order, "update").data["args"]["values"]


@everywhere
def test_choices_have_their_labels_beside_their_values() -> None:
    order = Order.objects.create(number="A-1")
    order.status = Order.Status.PAID
    order.save()
    data = get_object_event(order).data
    assert ["open", "paid"] == data["changes"]["status"]
    assert {"open": "Open", "paid": "Paid"} == data["labels"]["status"]


@everywhere
def test_a_foreign_key_has_a_label_where_its_object_is_loaded(
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    ada, bob = Customer.objects.create(name="Ada"), Customer.objects.create(name="Bob")
    order = Order.objects.create(number="A-1", customer=ada)
    assert {str(ada.pk): "Ada"} == get_object_event(order).data["labels"]["customer"]
    with django_assert_num_queries(1):
        order.customer = bob
        order.save()
    data = get_object_event(order).data
    assert [ada.pk, bob.pk] == data["changes"]["customer"]
    assert {str(bob.pk): "Bob"} == data["labels"]["customer"]
    with django_assert_num_queries(1):
        order.customer_id = ada.pk
        order.save()
    data = get_object_event(order).data
    assert ([bob.pk, ada.pk], None) == (data["changes"]["customer"], data.get("labels", {}).get("customer"))


@everywhere
def test_a_label_that_would_ask_the_database_is_left_out(django_assert_num_queries: DjangoAssertNumQueries) -> None:
    line = OrderLine.objects.create(order=Order.objects.create(number="A-1"), sku="nut")
    asking: Any = lambda self: f"{Order.objects.get(pk=self.order_id)}/{self.sku}"  # noqa: E731
    OrderLine.__str__ = asking  # type: ignore[method-assign]
    model_metadata.clear_cache()
    try:
        with django_assert_num_queries(1):
            line.save()
        assert "" == get_object_event(line).object_label
    finally:
        del OrderLine.__str__
        model_metadata.clear_cache()


@everywhere
def test_a_change_of_a_secret_is_recorded_without_the_values() -> None:
    customer = Customer.objects.create(name="Ada", api_token="veil-1")
    customer.api_token = "veil-2"
    customer.save()
    assert {"api_token": [REDACTED, REDACTED]} == get_changes(customer)
    assert "veil" not in str([event.data for event in get_events(Customer)])


@everywhere
def test_a_label_does_not_contain_a_field_that_the_settings_redact() -> None:
    with override_settings(SIGNALBOX={"REDACT": ["iban"]}):
        customer = Customer.objects.create(name="Ada, iban: DE02100100100006820101")
        assert f"Ada, iban: {REDACTED}" == get_object_event(customer).object_label


@everywhere
def test_the_primary_key_is_not_a_change() -> None:
    person = Person.objects.create(name="Ada")
    for made in (Big.objects.create(id=2**62, name="x"), Enrolment.objects.create(person=person, course="maths")):
        setattr(made, "name" if isinstance(made, Big) else "grade", "A")
        made.save()
        assert {"name", "grade"} >= set(get_changes(made))


# ------------------------------------------------------------------ what a project says of its models


@everywhere
def test_a_model_can_leave_out_fields_hide_them_or_not_be_recorded() -> None:
    models_said = {
        "shop.Order": {"exclude": ["note"], "redact": ["number"]},
        "shop.Tag": {"record": False},
    }
    with override_settings(SIGNALBOX={"MODELS": models_said}):
        order = Order.objects.create(number="A-1", note="secret note")
        Tag.objects.create(name="steam")
        told = get_object_event(order).data["row"]
        assert (REDACTED, False) == (told["number"], "note" in told)
        order.note, order.number = "b", "A-2"
        order.save()
        told = get_changes(order)
        assert ([REDACTED, REDACTED], False) == (told["number"], "note" in told)
        Order.objects.filter(pk=order.pk).update(note="leaks?", number="leaks?")
        order.tags.add(Tag.objects.get())
        assert "leaks?" not in str([event.data for event in get_events()])
        assert "A-1" not in str([(event.object_label, event.data) for event in get_events()])
        assert [] == get_events(Tag, "post_save")


@everywhere
def test_the_configuration_of_a_model_applies_to_its_proxy() -> None:
    from tests.shop.models import ExpressOrder

    with override_settings(SIGNALBOX={"MODELS": {"shop.Order": {"exclude": ["note"]}}}):
        assert "note" not in get_object_event(ExpressOrder.objects.create(number="A-1", note="x")).data["row"]
    with override_settings(SIGNALBOX={"MODELS": {"shop.Order": {"record": False}}}):
        ExpressOrder.objects.create(number="A-2")
        assert 1 == len(get_events(ExpressOrder, "post_save"))


@everywhere
def test_the_configuration_of_a_parent_applies_to_its_child() -> None:
    from tests.shop.models import Place, Restaurant

    with override_settings(SIGNALBOX={"MODELS": {"shop.Place": {"redact": ["name"]}}}):
        lion = Restaurant.objects.create(name="veil-1", stars=1)
        lion.name = "veil-2"
        lion.save()
        Restaurant.objects.update(name="veil-3")
        assert {"name": [REDACTED, REDACTED]} == get_changes(lion)
        assert REDACTED == get_newest_event(Restaurant, "update").data["args"]["values"]["name"]
        with override_settings(SIGNALBOX={"BULK": "rows", "MODELS": {"shop.Place": {"redact": ["name"]}}}):
            Restaurant.objects.update(name="veil-4")
        lion.delete()
        assert "veil" not in str([(event.object_label, event.data) for event in get_events()])
    with override_settings(SIGNALBOX={"MODELS": {"shop.Place": {"exclude": ["name"]}}}):
        lion = Restaurant.objects.create(name="veil-1", stars=1)
        assert "name" not in get_object_event(lion).data["row"]
    with override_settings(SIGNALBOX={"MODELS": {"shop.Restaurant": {"redact": ["name"]}}}):
        assert "Inn" == get_object_event(Place.objects.create(name="Inn")).data["row"]["name"]
        assert REDACTED == get_object_event(Restaurant.objects.create(name="Inn")).data["row"]["name"]


@pytest.fixture
def unconfigured() -> Iterator[None]:
    yield
    conf.configured_models.clear()
    model_metadata.clear_cache()


@everywhere
@pytest.mark.usefixtures("unconfigured")
def test_code_can_say_the_same_and_the_setting_wins() -> None:
    signalbox.configure_model(Order, exclude=["note"])
    assert "note" not in get_object_event(Order.objects.create(number="A-1", note="x")).data["row"]
    with override_settings(SIGNALBOX={"MODELS": {"shop.Order": {"exclude": []}}}):
        assert "note" in get_object_event(Order.objects.create(number="A-2", note="x")).data["row"]
    signalbox.configure_model(Order, record=False)
    Order.objects.create(number="A-3")
    assert 2 == len(get_events(Order, "post_save"))


@pytest.mark.usefixtures("unconfigured")
def test_configuring_an_unknown_field_or_option_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"has no field .notes. that is recorded; it has customer, "):
        signalbox.configure_model(Order, exclude=["notes"])
    with pytest.raises(
        TypeError, match=r"exclude=\[...\], redact=\[...\], clear=\[...\], record=False or old_values=False"
    ):
        signalbox.configure_model(Order, hide=["note"])  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="was expected"):
        signalbox.configure_model(Order, record="no")  # type: ignore[arg-type]


def test_a_wrong_setting_of_models_is_an_error_of_the_checks() -> None:
    from signalbox import conf

    wrongs: Any = ({"Order": {}}, {"shop.Order": []}, {"shop.Order": {"hide": []}}, {"shop.Order": {"record": "no"}})
    for wrong in wrongs:
        [(path, message, _)] = conf.get_errors({"MODELS": wrong})
        assert "MODELS" == path[0]
        assert message.startswith('SIGNALBOX["MODELS"]["')
    assert [] == conf.get_errors({"MODELS": {"shop.Order": {"exclude": ["a"], "redact": ["b"], "record": True}}})
