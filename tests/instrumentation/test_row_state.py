"""The old values: known if a row was read or written, otherwise unknown."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import django
import pytest
from django.core import serializers
from django.db import connection, connections, transaction
from django.db.models import F, Model
from django.db.models.signals import post_init
from django.test import override_settings
from pytest_django import DjangoAssertNumQueries

import signalbox
from signalbox.core.event import UNKNOWN
from signalbox.instrumentation import model_metadata, row_state
from signalbox.pipeline import unit_of_work
from tests.events import get_changes, get_events, get_object_event
from tests.shop.fields import Money, Vector
from tests.shop.models import (
    Attachment,
    Customer,
    Document,
    Embedding,
    ExpressOrder,
    Note,
    Order,
    Place,
    Restaurant,
    Tag,
    Uniq,
)

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]


class Undone(Exception):
    """Rolls back a block of a test."""


def order(**values: Any) -> Order:
    return Order.objects.create(**{"number": "A-1", "note": "fresh", **values})


def private(instance: Any) -> list[str]:
    """Return the attributes of recording on an instance."""
    return [name for name in vars(instance._state) if "signalbox" in name]


# ------------------------------------------------------------------ known values


def test_a_loaded_object_knows_its_old_values() -> None:
    found = Order.objects.get(pk=order().pk)
    found.note = "stale"
    found.save()
    assert ["fresh", "stale"] == get_changes(found)["note"]


def test_a_created_object_knows_its_initial_values() -> None:
    made = order()
    made.note = "stale"
    made.save()
    assert ["fresh", "stale"] == get_changes(made)["note"]


def test_each_save_is_compared_with_the_one_before() -> None:
    made = order()
    for note in ("one", "two", "two"):
        made.note = note
        made.save()
    told = [event.data["changes"].get("note") for event in get_events(Order, "post_save")[1:]]
    assert [["fresh", "one"], ["one", "two"], None] == told


def test_a_save_makes_no_query_more(django_assert_num_queries: DjangoAssertNumQueries) -> None:
    found = Order.objects.get(pk=order().pk)
    found.note = "stale"
    with django_assert_num_queries(1):
        found.save()
    with django_assert_num_queries(1):
        Tag.objects.create(name="new")
    tag = Tag.objects.get()
    with django_assert_num_queries(1):
        Tag(pk=tag.pk, name="blind").save(force_update=True)


@pytest.mark.parametrize(
    "read",
    [
        lambda: Order.objects.only("meta").get(),
        lambda: Order.objects.only("note", "meta").get(),
        lambda: Order.objects.defer("note", "number").get(),
        lambda: Order.objects.raw("SELECT id, meta FROM shop_order")[0],
        lambda: Order.objects.raw("SELECT meta, id, note FROM shop_order")[0],
    ],
    ids=["only", "only two", "defer", "raw", "raw in another order"],
)
def test_a_change_in_place_of_an_object_read_in_part_is_recorded(read: Callable[[], Order]) -> None:
    order(meta={"seats": [1, 2]})
    found = read()
    found.meta["seats"].append(3)
    found.save(update_fields=["meta"])
    assert {"meta": [{"seats": [1, 2]}, {"seats": [1, 2, 3]}]} == get_changes(found)


def test_a_field_of_ones_own_and_a_file_that_are_read_in_part_are_known_too() -> None:
    Note.objects.create(text="a", price=Money(Decimal(5), "EUR"))
    note = Note.objects.only("price").get()
    note.price = Money(Decimal(7), "EUR")
    note.save(update_fields=["price"])
    assert {"price": ["5 EUR", "7 EUR"]} == get_changes(note)
    Attachment.objects.create(name="a", file="old.txt")
    attachment = Attachment.objects.only("file").get()
    attachment.file.name = "new.txt"
    attachment.save(update_fields=["file"])
    assert {"file": ["old.txt", "new.txt"]} == get_changes(attachment)


def test_a_blind_save_by_key_does_not_invent_old_values() -> None:
    tag = Tag.objects.create(name="steam")
    Tag(pk=tag.pk, name="diesel").save()
    event = get_object_event(tag)
    assert False is event.data["args"]["created"]
    assert {"name": ["diesel"]} == event.data["changes"]


def test_a_key_changed_in_memory_writes_another_row_with_unknown_old_values() -> None:
    first, second = Tag.objects.create(name="first"), Tag.objects.create(name="second")
    first.pk = second.pk
    first.name = "third"
    first.save()
    assert {"name": ["third"]} == get_changes(second)


def test_a_key_changed_in_memory_deletes_another_row_with_unknown_values() -> None:
    first, second = Tag.objects.create(name="first"), Tag.objects.create(name="second")
    key = second.pk
    first.pk = key
    first.delete()
    [event] = get_events(Tag, "post_delete")
    assert (str(key), {"id": key}) == (event.object_key, event.data["row"])


def test_a_deleted_object_that_was_never_read_records_only_its_key() -> None:
    tag = Tag.objects.create(name="steam")
    key = tag.pk
    Tag(pk=key).delete()
    [event] = get_events(Tag, "post_delete")
    assert {"id": key} == event.data["row"]


def test_a_deleted_object_records_its_row_and_no_assigned_values() -> None:
    tag = Tag.objects.create(name="steam")
    key = tag.pk
    tag.name = "never saved"
    tag.delete()
    [event] = get_events(Tag, "post_delete")
    assert {"id": key, "name": "steam"} == event.data["row"]


def test_a_value_assigned_before_the_first_save_is_not_a_change() -> None:
    tag = Tag(name="first")
    tag.name = "second"
    tag.save()
    event = get_object_event(tag)
    assert True is event.data["args"]["created"]
    assert {"id": tag.pk, "name": "second"} == event.data["row"]
    assert "changes" not in event.data


def test_a_copy_without_a_key_is_created_and_changes_nothing_of_the_original() -> None:
    made = order()
    original = made.pk
    made.pk = None
    made._state.adding = True
    made.number = "A-2"
    made.save()
    assert original != made.pk
    event = get_object_event(made)
    assert True is event.data["args"]["created"]
    assert "A-2" == event.data["row"]["number"]
    made.number = "A-3"
    made.save()
    assert ["A-2", "A-3"] == get_changes(made)["number"]


def test_a_copy_without_a_key_that_takes_itself_for_saved_is_created_too() -> None:
    tag = Tag.objects.create(name="steam")
    original, tag.pk = tag.pk, None
    tag.save()
    assert original != tag.pk
    assert {"id": tag.pk, "name": "steam"} == get_object_event(tag).data["row"]


def test_a_forced_insert_is_a_creation_regardless_of_known_values() -> None:
    tag = Tag.objects.create(name="steam")
    other = Tag.objects.get(pk=tag.pk)
    tag.delete()
    other.save(force_insert=True)
    assert {"id": other.pk, "name": "steam"} == get_object_event(other).data["row"]


def test_a_save_with_a_default_key_is_an_insert() -> None:
    document = Document.objects.create(title="Notes")
    document.title = "More notes"
    document.save()
    assert {"title": ["Notes", "More notes"]} == get_changes(document)


# ------------------------------------------------------------------ deferred fields


@pytest.mark.parametrize("deferring", [Order.objects.defer("note"), Order.objects.only("number")])
def test_a_deferred_field_that_is_overwritten_has_no_known_old_value(deferring: Any) -> None:
    found = deferring.get(pk=order().pk)
    found.note = "stale"
    found.save()
    assert ["stale"] == get_changes(found)["note"]
    found.note = "staler"
    found.save()
    assert ["stale", "staler"] == get_changes(found)["note"]


def test_a_deferred_field_that_is_not_loaded_is_neither_written_nor_recorded() -> None:
    found = Order.objects.defer("note").get(pk=order().pk)
    found.number = "A-2"
    found.save()
    told = get_changes(found)
    assert ["A-1", "A-2"] == told["number"]
    assert "note" not in told


def test_a_deferred_field_that_was_fetched_has_its_old_value() -> None:
    found = Order.objects.only("number").get(pk=order(meta={"a": 1}).pk)
    assert ("fresh", {"a": 1}) == (found.note, found.meta)
    found.note = "stale"
    found.meta["a"] = 2
    found.save()
    told = get_changes(found)
    assert (["fresh", "stale"], [{"a": 1}, {"a": 2}]) == (told["note"], told["meta"])


@pytest.mark.skipif(django.VERSION < (6, 1), reason="fetch modes came with Django 6.1")
def test_values_fetched_for_all_peers_are_known() -> None:
    from django.db.models import FETCH_PEERS

    for number in ("A-1", "A-2"):
        order(number=number, meta={"of": number})
    first, second = Order.objects.all().fetch_mode(FETCH_PEERS).defer("note", "meta").order_by("number")
    assert ("fresh", {"of": "A-1"}) == (first.note, first.meta)
    assert {"note", "meta"} <= second.__dict__.keys()
    second.note = "stale"
    second.meta["of"] = "nobody"
    second.save()
    assert (["fresh", "stale"], [{"of": "A-2"}, {"of": "nobody"}]) == (
        get_changes(second)["note"],
        get_changes(second)["meta"],
    )


@pytest.mark.skipif(django.VERSION < (6, 1), reason="fetch modes came with Django 6.1")
def test_a_peer_that_was_overwritten_before_the_others_fetched_stays_unknown() -> None:
    from django.db.models import FETCH_PEERS

    for number in ("A-1", "A-2"):
        order(number=number)
    first, second = Order.objects.all().fetch_mode(FETCH_PEERS).defer("note").order_by("number")
    second.note = "stale"
    assert "fresh" == first.note
    second.save()
    assert ["stale"] == get_changes(second)["note"]


def test_deleting_an_object_that_was_read_in_part_records_that_part() -> None:
    found = Order.objects.only("number").get(pk=order().pk)
    found.note = "never saved"
    key = found.pk
    found.delete()
    [event] = get_events(Order, "post_delete")
    assert {"id": key, "number": "A-1"} == event.data["row"]


# ------------------------------------------------------------------ reading as Django reads


def _as_told(instance: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    state = {name: value for name, value in vars(instance._state).items() if "signalbox" not in name}
    return {name: value for name, value in vars(instance).items() if name != "_state"}, state


@pytest.mark.parametrize("mode", [{}, {"fetch_mode": "peers"}] if django.VERSION >= (6, 1) else [{}])
@pytest.mark.parametrize("read", ["a whole row", "a part", "a tuple"])
def test_a_row_that_is_read_becomes_the_same_object_as_in_django(read: str, mode: dict[str, Any]) -> None:
    names = [field.attname for field in Order._meta.concrete_fields]
    values: list[Any] = [None] * len(names)
    if read == "a part":
        names, values = names[:2], values[:2]
    model_metadata.get_metadata(Order)
    original = inspect.unwrap(Model.__dict__["from_db"].__func__)
    assert original.__module__ == Model.__module__
    theirs = original(Order, "default", names, list(values), **mode)
    ours = Order.from_db("default", names, tuple(values) if read == "a tuple" else list(values), **mode)
    assert _as_told(theirs) == _as_told(ours)
    assert [row_state.ROW_ATTRIBUTE] == private(ours)


def test_a_from_db_that_is_not_djangos_is_called() -> None:
    def theirs(cls: Any, db: Any, field_names: Any, values: Any) -> Any:
        made = cls(*values)
        made.theirs = True
        return made

    signalbox.stop_recording()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Model, "from_db", classmethod(theirs))
        signalbox.start_recording()
        tag: Any = Tag.from_db("default", ["id", "name"], [1, "read"])
        assert (1, "read", True, [row_state.ROW_ATTRIBUTE]) == (tag.pk, tag.name, tag.theirs, private(tag))
        signalbox.stop_recording()
    signalbox.start_recording()


# ------------------------------------------------------------------ refresh_from_db


def test_a_refreshed_object_is_compared_with_its_refreshed_values() -> None:
    made = order()
    Order.objects.filter(pk=made.pk).update(note="from elsewhere")
    made.refresh_from_db()
    made.note = "stale"
    made.save()
    assert ["from elsewhere", "stale"] == get_changes(made)["note"]


@pytest.mark.parametrize("fields", [None, ["note"]])
def test_values_that_were_refreshed_in_a_rolled_back_block_are_not_old_values(fields: Any) -> None:
    made = order()
    with pytest.raises(Undone), transaction.atomic():
        Order.objects.filter(pk=made.pk).update(note="undone")
        made.refresh_from_db(fields=fields)
        assert "undone" == made.note
        raise Undone
    made.save()
    assert ["fresh", "undone"] == get_changes(made)["note"]


def test_a_refresh_in_a_rolled_back_block_is_undone_with_the_changes_around_it() -> None:
    made = order()
    made.note = "saved"
    made.save()
    with pytest.raises(Undone), transaction.atomic():
        made.note = "one"
        made.save()
        with transaction.atomic():
            Order.objects.update(note="two")
            made.refresh_from_db()
        made.note = "three"
        made.save()
        raise Undone
    made.save()
    assert ["saved", "three"] == get_changes(made)["note"]


def test_refreshing_again_and_again_in_one_transaction_keeps_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_of_work, "FLUSH_THRESHOLD", 10)
    order()
    for _ in range(100):
        Order.objects.get().refresh_from_db()
    found = unit_of_work.get_unit_of_work(connections["default"])
    assert found is not None
    assert 25 > len(found.rollbackables)


@pytest.mark.parametrize("fields", [["note"], {"note"}, iter(["note"])], ids=["list", "set", "iterator"])
def test_a_field_refreshed_by_name_keeps_the_known_values_of_others(fields: Any) -> None:
    if not isinstance(fields, list | set):
        fields = iter(["note"])
    made = order()
    Order.objects.filter(pk=made.pk).update(note="from elsewhere")
    made.number = "A-2"
    made.refresh_from_db(fields=fields)
    made.note = "stale"
    made.save()
    told = get_changes(made)
    assert (["from elsewhere", "stale"], ["A-1", "A-2"]) == (told["note"], told["number"])


def test_a_foreign_key_can_be_refreshed_by_either_name() -> None:
    ada, bob = Customer.objects.create(name="Ada"), Customer.objects.create(name="Bob")
    for name in ("customer", "customer_id"):
        made = order(customer=ada)
        Order.objects.filter(pk=made.pk).update(customer=bob)
        made.refresh_from_db(fields=[name])
        made.customer = ada
        made.save()
        assert [bob.pk, ada.pk] == get_changes(made)["customer"]


def test_refreshing_from_a_queryset_that_defers_knows_only_what_it_read() -> None:
    made = order()
    made.note = "assigned"
    made.number = "assigned"
    made.refresh_from_db(from_queryset=Order.objects.defer("note"))
    assert ("assigned", "A-1") == (made.note, made.number)
    made.save()
    assert ["fresh", "assigned"] == get_changes(made)["note"]


def test_a_blind_object_that_is_refreshed_is_blind_no_more() -> None:
    tag = Tag(pk=Tag.objects.create(name="steam").pk)
    tag.refresh_from_db()
    tag.name = "diesel"
    tag.save()
    assert {"name": ["steam", "diesel"]} == get_changes(tag)


# ------------------------------------------------------------------ update_fields and expressions


def test_update_fields_records_only_written_values_and_keeps_the_rest() -> None:
    made = order()
    made.note, made.number = "stale", "A-2"
    made.save(update_fields=["note"])
    event = get_object_event(made)
    assert {"note": ["fresh", "stale"]} == event.data["changes"]
    assert ["note"] == event.data["args"]["update_fields"]
    made.save()
    assert ["A-1", "A-2"] == get_changes(made)["number"]


def test_update_fields_may_name_a_foreign_key_by_its_column() -> None:
    ada = Customer.objects.create(name="Ada")
    made = order()
    made.customer = ada
    made.save(update_fields=["customer_id"])
    assert {"customer": [None, ada.pk]} == get_changes(made)


def test_a_blind_save_of_one_field_is_followed_by_one_that_knows_it() -> None:
    tag = Order(pk=order().pk)
    tag.note = "stale"
    tag.save(update_fields=["note"])
    assert {"note": ["stale"]} == get_changes(tag)
    tag.note = "staler"
    tag.save(update_fields=["note"])
    assert {"note": ["stale", "staler"]} == get_changes(tag)


def test_an_expression_records_the_value_of_the_database_or_its_text() -> None:
    from decimal import Decimal

    made = order(total=Decimal(10))
    made.total = F("total") + 5
    made.save()
    old, new = get_changes(made)["total"]
    assert "10" in old
    if django.VERSION >= (6, 0) and connection.features.can_return_rows_from_update:
        assert "15.00" == new
    else:
        assert {"expression": "F(total) + Value(5)"} == new
    made = Order.objects.get(pk=made.pk)
    made.total = Decimal(20)
    made.save()
    assert ["15.00", "20"] == get_changes(made)["total"]


def test_the_old_value_after_an_unread_expression_is_unknown() -> None:
    from decimal import Decimal

    made = order(total=Decimal(10))
    made.total = F("total") + 5
    made.save()
    returned = not hasattr(made.__dict__.get("total", F("total")), "resolve_expression")
    made.total = Decimal(20)
    made.save()
    assert ([["15.00", "20"], ["20"]][not returned]) == get_changes(made)["total"]


def test_an_expression_that_stays_on_the_object_is_a_change_each_time_it_is_saved() -> None:
    customer = Customer.objects.create(name="Ada")
    made = order(customer=customer, number="1")
    made.number = F("note")
    made.note = "second"
    made.save()
    made.save()
    [*_, first, second] = get_events(Order, "post_save")
    assert "number" in first.data["changes"]
    stays = hasattr(made.__dict__.get("number"), "resolve_expression")
    assert stays == ("number" in second.data.get("changes", {}))
    assert stays == (django.VERSION < (6, 0))


def test_an_expression_on_creation_records_the_value_of_the_database() -> None:
    from django.db.models import Value
    from django.db.models.functions import Concat

    tag = Tag.objects.create(name=Concat(Value("st"), Value("eam")))
    told = get_object_event(tag).data["row"]["name"]
    if django.VERSION >= (6, 0) and connection.features.can_return_columns_from_insert:
        assert "steam" == told
    else:
        assert {"expression": "Concat(ConcatPair(Value('st'), Value('eam')))"} == told


# ------------------------------------------------------------------ rolled back


def test_a_rolled_back_savepoint_restores_the_known_values() -> None:
    made = order()
    with pytest.raises(Undone), transaction.atomic():
        made.note = "undone"
        made.save()
        raise Undone
    made.save()
    assert ["fresh", "undone"] == get_changes(made)["note"]


def test_nested_savepoints_give_back_step_by_step() -> None:
    made = order()
    with transaction.atomic():
        made.note = "one"
        made.save()
        with pytest.raises(Undone), transaction.atomic():
            made.note = "two"
            made.save()
            made.note = "three"
            made.save()
            raise Undone
        made.note = "four"
        made.save()
    assert ["one", "four"] == get_changes(made)["note"]


@pytest.mark.django_db(transaction=True)
def test_a_rolled_back_transaction_restores_the_known_values() -> None:
    made = order()
    with pytest.raises(Undone), transaction.atomic():
        made.note = "undone"
        made.save()
        raise Undone
    made.save()
    assert ["fresh", "undone"] == get_changes(made)["note"]


def test_a_creation_that_was_rolled_back_is_a_creation_again() -> None:
    tag = Tag(name="steam")
    with pytest.raises(Undone), transaction.atomic():
        tag.save()
        raise Undone
    tag.save()
    assert {"id": tag.pk, "name": "steam"} == get_object_event(tag).data["row"]


def test_bulk_writes_that_are_rolled_back_restore_the_known_values() -> None:
    made = order()
    with pytest.raises(Undone), transaction.atomic():
        made.note = "undone"
        Order.objects.bulk_update([made], ["note"])
        raise Undone
    made.save()
    assert ["fresh", "undone"] == get_changes(made)["note"]


def test_a_save_that_failed_keeps_the_known_values() -> None:
    Uniq.objects.create(k="taken")
    mine = Uniq.objects.create(k="mine")
    mine.k = "taken"
    with pytest.raises(django.db.IntegrityError), transaction.atomic():
        mine.save()
    mine.k = "free"
    mine.save()
    assert {"k": ["mine", "free"]} == get_changes(mine)


# ------------------------------------------------------------------ values of the application


def test_pickles_and_copies_carry_nothing() -> None:
    made = order()
    found = Order.objects.get(pk=made.pk)
    for instance in (made, found):
        assert private(instance)
        for twin in (pickle.loads(pickle.dumps(instance)), copy.copy(instance), copy.deepcopy(instance)):
            assert [] == private(twin)
            assert instance == twin
            assert instance.__dict__.keys() == twin.__dict__.keys() - {"_django_version"}


def test_a_pickle_is_the_one_that_django_makes() -> None:
    found = Order.objects.get(pk=order().pk)
    with_recording = pickle.dumps(found)
    signalbox.stop_recording()
    try:
        assert pickle.dumps(Order.objects.get(pk=found.pk)) == with_recording
    finally:
        signalbox.start_recording()


def test_a_copy_and_its_original_do_not_meet() -> None:
    made = order()
    twin = copy.copy(made)
    twin.note = "stale"
    twin.save()
    assert ["stale"] == get_changes(made)["note"]
    made.note = "staler"
    made.save()
    assert ["fresh", "staler"] == get_changes(made)["note"]


def test_an_unpickled_object_that_is_deleted_records_the_values_it_carries() -> None:
    tag = Tag.objects.create(name="steam")
    key = tag.pk
    pickle.loads(pickle.dumps(tag)).delete()
    [event] = get_events(Tag, "post_delete")
    assert {"id": key, "name": "steam"} == event.data["row"]


def test_uninstalling_leaves_django_as_it_was() -> None:
    signalbox.stop_recording()
    try:
        assert [] == private(Tag.objects.create(name="steam"))
        assert [] == private(Tag.objects.get())
        from_db: Any = Order.from_db
        modules = {Order.refresh_from_db.__module__, from_db.__func__.__module__}
        assert {"django.db.models.base"} == modules
    finally:
        signalbox.start_recording()


def test_a_model_whose_from_db_is_its_own_is_still_read(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def from_db(cls: Any, /, db: Any, field_names: Any, values: Any, **modes: Any) -> Any:
        seen.append(cls)
        return super(Tag, cls).from_db(db, field_names, values, **modes)

    monkeypatch.setattr(Tag, "from_db", classmethod(from_db), raising=False)
    found = Tag.objects.get(pk=Tag.objects.create(name="steam").pk)
    found.name = "diesel"
    found.save()
    assert ([Tag], {"name": ["steam", "diesel"]}) == (seen, get_changes(found))


def test_values_that_are_neither_true_nor_false_are_read_and_recorded() -> None:
    Embedding.objects.create(vector=Vector(1, 2))
    for found in (Embedding.objects.get(), Embedding.objects.only("vector").get()):
        assert (1.0, 2.0) == found.vector.numbers
    found = Embedding.objects.get()
    found.word = "signal"
    found.save()
    assert {"word": ["", "signal"]} == get_changes(found)
    found.vector = Vector(3.0, 4.0)
    found.save()
    assert {"vector": ["1.0 2.0", "3.0 4.0"]} == get_changes(found)


def test_a_value_changed_in_place_is_compared_with_the_value_read() -> None:
    made = order(meta={"list": [1, {"deep": 1}]})
    found = Order.objects.get(pk=made.pk)
    for instance, steps in ((made, (1, 2)), (found, (2, 3))):
        instance.refresh_from_db()
        instance.meta["list"][1]["deep"] = steps[1]
        instance.save()
        before, after = ({"list": [1, {"deep": step}]} for step in steps)
        assert [before, after] == get_changes(instance)["meta"]


# ------------------------------------------------------------------ inheritance


def test_a_child_records_its_parents_fields_as_its_own() -> None:
    lion = Restaurant.objects.create(name="Lion", stars=3)
    assert {"id", "name", "place_ptr", "stars"} == get_object_event(lion).data["row"].keys()
    found = Restaurant.objects.get()
    found.name, found.stars = "Golden Lion", 4
    found.save()
    assert {"name": ["Lion", "Golden Lion"], "stars": [3, 4]} == get_changes(found)
    assert [] == get_events(Place, "post_save")


def test_a_childs_parents_field_can_be_updated_by_name() -> None:
    found = Restaurant.objects.get(pk=Restaurant.objects.create(name="Lion", stars=3).pk)
    found.name = "Golden Lion"
    found.save(update_fields=["name"])
    assert {"name": ["Lion", "Golden Lion"]} == get_changes(found)


def test_a_parent_that_becomes_a_child_is_a_creation_of_the_child() -> None:
    place = Place.objects.create(name="Lion")
    lion = Restaurant(place_ptr=place, stars=3)
    lion.__dict__.update({"name": place.name})
    lion.save()
    event = get_object_event(lion)
    assert (True, 3, "Lion") == (event.data["args"]["created"], event.data["row"]["stars"], event.data["row"]["name"])


def test_a_raw_save_of_a_child_records_no_values_of_the_parent_s_table() -> None:
    place = Place.objects.create(name="Lion")
    Restaurant(place_ptr_id=place.pk, stars=3).save_base(raw=True)
    Restaurant(place_ptr_id=place.pk, stars=4).save_base(raw=True)
    created, changed = get_events(Restaurant, "post_save")
    assert {"place_ptr": place.pk, "stars": 3} == created.data["row"]
    assert {"stars": [4]} == changed.data["changes"]
    assert "Lion" == signalbox.history(Restaurant, place.pk).as_of(changed.at)["name"]


def test_a_child_with_its_parents_attributes_is_saved_with_it_and_recorded() -> None:
    place = Place.objects.get(pk=Place.objects.create(name="Lion").pk)
    child = Restaurant(place_ptr_id=place.pk)
    child.__dict__.update(place.__dict__)  # both have the same state
    child.stars = 3
    child.save()
    place.name = "Bear"
    place.save()
    child.stars = 4
    child.save()
    assert ["committed"] * 2 == [event.outcome for event in get_events(Restaurant, "post_save")]
    assert [4] == get_changes(child)["stars"][-1:]
    assert ["Bear"] == get_changes(place)["name"][-1:]


def test_deleting_a_child_records_both_rows() -> None:
    lion = Restaurant.objects.create(name="Lion", stars=3)
    key = lion.pk
    lion.delete()
    [child], [parent] = get_events(Restaurant, "post_delete"), get_events(Place, "post_delete")
    assert {"id": key, "name": "Lion", "place_ptr": key, "stars": 3} == child.data["row"]
    assert {"id": key, "name": "Lion"} == parent.data["row"]


def test_a_proxy_is_recorded_under_its_own_name_and_diffed_all_the_same() -> None:
    found = ExpressOrder.objects.get(pk=order().pk)
    found.note = "stale"
    found.save()
    assert ["fresh", "stale"] == get_changes(found)["note"]
    assert "shop.ExpressOrder" == get_object_event(found).sender


# ------------------------------------------------------------------ raw


def test_a_loaded_fixture_is_marked_raw() -> None:
    text = serializers.serialize("json", [Tag(pk=7, name="steam")])
    for number, [loaded] in enumerate((serializers.deserialize("json", text), serializers.deserialize("json", text))):
        loaded.save()
        event = get_object_event(loaded.object)
        assert (True, number == 0) == (event.data["args"]["raw"], event.data["args"]["created"])


def test_unknown_is_the_only_placeholder() -> None:
    found = Order.objects.only("number").get(pk=order().pk)
    plan = model_metadata.get_metadata(Order)
    row = row_state.get_known_row(plan, found._state)
    known = {name for name, value in zip(plan.fields.names, row, strict=True) if value is not UNKNOWN}
    assert {"id", "number"} == known


# ------------------------------------------------------------------ copies of values


def test_values_that_the_application_keeps_are_its_own() -> None:
    """The list that Django passes to ``from_db`` is not changed, and no value of it is shared."""
    made = Order.objects.create(number="A-1", meta={"deep": [1]})
    given: list[list[Any]] = []
    original = Model.__dict__["from_db"].__func__

    def from_db(cls: Any, db: Any, field_names: Any, values: Any, *args: Any, **kwargs: Any) -> Any:
        before = list(values)
        instance = original(cls, db, field_names, values, *args, **kwargs)
        assert all(was is value for was, value in zip(before, values, strict=True))
        given.append(values)
        return instance

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Model, "from_db", classmethod(from_db))
        first, second = Order.objects.get(pk=made.pk), Order.objects.get(pk=made.pk)
    first.meta["mine"] = True
    first.meta["deep"].append(2)
    position = [field.attname for field in Order._meta.concrete_fields].index("meta")
    assert first.meta is given[0][position]
    first.save()
    assert [{"deep": [1]}, {"deep": [1, 2], "mine": True}] == get_changes(first)["meta"]
    assert {"deep": [1]} == second.meta


@pytest.mark.parametrize("name", ["loop", "dict", "shared", "deep"])
def test_nested_values_are_copied_once_for_each_place(name: str) -> None:
    loop: list[Any] = [1]
    loop.append(loop)
    holder: dict[str, Any] = {"name": "x"}
    holder["me"] = holder
    shared: list[Any] = []
    for _ in range(60):
        shared = [shared, shared]
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    value: Any = {"loop": loop, "dict": holder, "shared": shared, "deep": deep}[name]

    copied: Any = row_state.copy_value(value)
    assert copied is not value
    if name == "loop":
        assert copied[1] is copied
    elif name == "dict":
        assert copied["me"] is copied
    elif name == "shared":
        assert copied[0] is copied[1]
    else:
        assert copied[0][0] is not value[0][0]


def test_a_container_whose_own_code_fails_is_unknown() -> None:
    class Broken(dict[str, Any]):
        def items(self) -> Any:
            raise RuntimeError

    assert row_state.copy_value([Broken(a=1)]) is UNKNOWN


def test_the_old_value_is_the_value_read_before_post_init() -> None:
    made = Order.objects.create(number="A-1", meta={"old": 1})

    def upgrade(instance: Any, **named: Any) -> None:
        instance.meta.setdefault("version", 2)

    post_init.connect(upgrade, sender=Order)
    try:
        loaded = Order.objects.get(pk=made.pk)
        loaded.save()
    finally:
        post_init.disconnect(upgrade, sender=Order)
    assert [{"old": 1}, {"old": 1, "version": 2}] == get_changes(loaded)["meta"]


def test_a_model_can_do_without_old_values() -> None:
    with override_settings(SIGNALBOX={"MODELS": {"shop.Order": {"old_values": False}}}):
        made = order()
        loaded = Order.objects.get(pk=made.pk)
        assert [] == private(loaded)
        loaded.note = "new"
        loaded.save(update_fields=["note"])
        assert [] == [name for name in private(loaded) if "row" in name]
        assert ["new"] == get_changes(loaded)["note"]
        key = loaded.pk
        loaded.note = "not saved"
        loaded.delete()
    [event] = get_events(Order, "post_delete")
    assert {"id": key} == event.data["row"]
