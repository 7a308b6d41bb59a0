"""``signalbox.erase()``: a person's data is replaced in every place, and what happened remains."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from io import StringIO
from typing import Any

import pytest
from django.contrib.auth import authenticate
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection, connections, transaction
from django.db.models.signals import post_save
from django.utils import timezone

import signalbox
from signalbox.core import object_keys
from signalbox.erasure import erase
from signalbox.erasure.database import DatabaseEraser
from signalbox.models import Delivery, Error, Event, Trace
from signalbox.outbox import manual_changes, replay
from signalbox.pipeline.recorded_operations import ERASED as RECORD_SIGNAL
from tests.erasure.seeding import CANARY, add_delivery, contacted, read_tables, seed_club, seed_keys, seed_person
from tests.events import get_newest_event, get_object_event
from tests.shop.models import Coded, Customer, Holder, Holding, Order, Person, Phrase, Sentence, Tag, Word

pytestmark = [pytest.mark.every_database, pytest.mark.django_db(databases=["default", "other"], transaction=True)]

TABLES_WITHOUT_PERSONS = {"signalbox_worker", "signalbox_purgestate"}
"""Tables with names of hosts, rules and senders. A table of a new model is in none of the tests until it is named."""

ROLE = f"signalbox_{uuid.uuid4().hex[:16]}"
"""Roles are shared by all databases of a server, on which other tests may run."""

SKELETON = ("id", "time", "trace_id", "span", "parent", "signal", "sender", "database", "outcome", "duration", "errors")


def read_skeleton() -> list[Any]:
    """Return what an erasure must not change."""
    events = Event.objects.exclude(signal=RECORD_SIGNAL).order_by("id")
    deliveries = Delivery.objects.order_by("id").values_list("id", "receiver", "state", "attempts", "span", "finished")
    traces = Trace.objects.order_by("id").values_list("id", "kind", "time", "duration", "status", "events", "errors")
    fields = [sorted(data.get("changes") or ()) for data in events.values_list("data", flat=True)]
    return [list(events.values_list(*SKELETON)), fields, list(deliveries), list(traces)]


def test_nothing_of_a_person_remains_in_any_column_of_any_table() -> None:
    user, customer = seed_person()
    before, skeleton = read_tables(), read_skeleton()
    assert {table for table, text in before.items() if CANARY not in text} == TABLES_WITHOUT_PERSONS
    result = signalbox.erase(actor=user, objects=[("shop.Customer", customer.pk), user])
    remaining = [row for text in read_tables().values() for row in text.split("\n") if CANARY in row]
    assert [] == remaining
    assert skeleton == read_skeleton()
    assert result.is_complete
    assert "10.77.0.1" not in "".join(read_tables().values())


def test_classes_of_exceptions_and_names_of_fields_and_receivers_remain() -> None:
    user, customer = seed_person()
    signalbox.erase(actor=user.pk, objects=[f"shop.Customer:{customer.pk}"])
    event = Event.objects.filter(data__has_key="traceback").order_by("-id")[0]
    assert {"error": "ValueError: [erased]"} == {"error": event.data["receivers"][0]["error"]}
    assert ["shop.f", "shop.g"] == [call["name"] for call in event.data["receivers"]]
    assert {"name", "email"} == event.data["changes"].keys()
    assert {"tenant", "deep"} == event.data["extra"].keys()
    assert {("ValueError", "[erased]", "shop.f")} == set(
        Error.objects.filter(fingerprint="a" * 32).values_list("exception", "message", "receiver")
    )
    assert "ValueError: [erased]" == Delivery.objects.filter(state="dead").order_by("-id")[0].error
    assert {"GET [erased]", "POST [erased]"} == set(Trace.objects.filter(kind="request").values_list("name", flat=True))


def test_the_numbers_of_a_trace_remain_and_it_can_be_shown() -> None:
    user = User.objects.create_user("anna", "anna@example.com")
    with signalbox.trace("work", actor=user) as trace:
        list(Order.objects.all())
        Order.objects.create(number="1")
    before = Trace.objects.get(trace_id=trace.id).data
    signalbox.erase(actor=user)
    after = Trace.objects.get(trace_id=trace.id).data
    assert {"send_counts", "transactions", "transaction_count"} <= after.keys()
    assert before == after
    output = StringIO()
    call_command("signalbox", "show", trace.id, stdout=output)
    assert "counted signals" in output.getvalue()


def test_the_transaction_and_the_causing_receiver_of_an_event_remain() -> None:
    def create_customer(**kwargs: Any) -> None:
        Customer.objects.create(name=CANARY)

    post_save.connect(create_customer, sender=Order)
    try:
        with signalbox.trace("work"):
            Order.objects.create(number="1")
    finally:
        post_save.disconnect(create_customer, sender=Order)
    before = get_newest_event(Customer, "post_save").data
    signalbox.erase(objects=[Customer.objects.get()])
    after = get_newest_event(Customer, "post_save").data
    for name in ("transaction", "parent_receiver"):
        assert before[name] == after[name]


def test_keys_are_erased_on_request_in_every_place() -> None:
    phrase = seed_keys()
    before = read_tables()["signalbox_event"]
    signalbox.erase(objects=[("shop.Phrase", phrase.text)])
    assert CANARY in before
    assert CANARY in read_tables()["signalbox_event"]
    signalbox.erase(objects=[("shop.Phrase", phrase.text)], keys=True)
    assert [] == [row for row in read_tables()["signalbox_event"].split("\n") if CANARY in row]


def test_the_record_of_an_erasure_with_keys_has_a_digest() -> None:
    user, customer = seed_person()
    result = signalbox.erase(actor=user, objects=[("shop.Customer", customer.pk)], keys=True, by="officer")
    record = Event.objects.get(pk=result.records["default"])
    digest = object_keys.digest_secret(str(customer.pk))
    assert ("signalbox.erased", "officer") == (record.signal, record.actor_label)
    assert [f"shop.Customer:{digest}"] == record.data["args"]["objects"]
    assert record.data["args"]["complete"]
    assert result.events == record.data["args"]["counts"]["events"]
    assert not Event.objects.filter(actor_key=str(user.pk)).exists()
    assert not Event.objects.filter(sender="shop.Customer", object_key=str(customer.pk)).exists()


def test_events_of_other_people_stay_as_they_are() -> None:
    seed_person()
    other = Customer.objects.get(name="Bert")
    rows = Event.objects.filter(sender="shop.Customer", object_key=str(other.pk))
    before = list(rows.values())
    customer = Customer.objects.create(name="Carl")
    signalbox.erase(objects=[customer])
    assert before == list(rows.values())


def test_values_that_an_actor_changed_on_other_objects_stay() -> None:
    user = User.objects.create_user("carl")
    with signalbox.trace("work", actor=user):
        order = Order.objects.create(number="A-1")
    signalbox.erase(actor=user)
    event = get_object_event(order)
    assert ("A-1", "[erased]", str(user.pk)) == (event.data["row"]["number"], event.actor_label, event.actor_key)


def test_only_the_key_of_an_object_is_erased_where_others_have_the_same_new_value() -> None:
    first, second = (Customer.objects.create(name=name) for name in ("Anna", "Bert"))
    Customer.objects.update(email="shared@example.com")
    signalbox.erase(objects=[first])
    args = get_newest_event(Customer, "update").data["args"]
    if args["keys"] is not None:
        assert {"email": "shared@example.com"} == args["values"]
        assert [{"erased": "[erased]"}, second.pk] == sorted(args["keys"], key=lambda key: not isinstance(key, dict))
    assert "shared@example.com" == signalbox.history(second).as_of(timezone.now())["email"]


def test_erased_values_are_unknown_and_not_restorable() -> None:
    customer = Customer.objects.create(name="Anna")
    created = timezone.now()
    customer.name = "Bert"
    customer.save()
    update = get_object_event(customer)
    customer.delete()
    signalbox.erase(objects=[("shop.Customer", update.object_key)])
    assert "name" in signalbox.history(Customer, update.object_key).as_of(created).unknown_fields
    update.refresh_from_db()
    preview = signalbox.preview_revert(update)
    assert not preview.can_revert
    assert "The value of 'name' was erased: it can't be restored." == preview.fields[0].reason
    deletion = get_newest_event(Customer, "post_delete")
    with pytest.raises(signalbox.RevertError, match="was erased"):
        signalbox.revert(deletion)


def test_the_state_before_a_bulk_operation_with_an_erased_key_is_unknown() -> None:
    first, second = (Customer.objects.create(name=name, email=f"{name}@example.com") for name in ("Anna", "Bert"))
    created = timezone.now()
    Customer.objects.update(email="shared@example.com")
    signalbox.erase(objects=[first])
    history = signalbox.history(first)
    assert signalbox.UNKNOWN is history.as_of(created)["email"]
    assert "email" not in history.diff(created, created)
    assert signalbox.UNKNOWN is history.diff(created, timezone.now())["email"][0]
    assert "shared@example.com" == history.as_of(timezone.now())["email"]
    assert "Bert@example.com" == signalbox.history(second).as_of(created)["email"]
    assert ["email"] == list(signalbox.history(second).diff(created, timezone.now()))


@pytest.mark.parametrize("is_deleted", [False, True])
def test_the_state_before_an_erasure_of_the_key_is_unknown(is_deleted: bool) -> None:
    phrase, other = (Phrase.objects.create(text=text, meaning="a") for text in ("person", "other"))
    sentence = Sentence.objects.create(phrase=other)
    created = timezone.now()
    phrase.meaning = "b"
    phrase.save()
    phrase.other_sentences.add(sentence)
    if is_deleted:
        phrase.delete()
    signalbox.erase(objects=[("shop.Phrase", "person")], keys=True)
    state = signalbox.history(Phrase, "person").as_of(created)
    assert state.exists
    assert {"meaning", "text"} <= state.unknown_fields
    assert signalbox.UNKNOWN is signalbox.history(sentence).as_of(created)["also"]
    assert "a" == signalbox.history(other).as_of(created)["meaning"]
    now = signalbox.history(Phrase, "person").as_of(timezone.now())
    assert (not is_deleted, None if is_deleted else "b") == (now.exists, now.get("meaning"))


def test_a_relation_of_an_object_with_an_erased_key_is_unknown() -> None:
    other = Phrase.objects.create(text="other")
    sentence = Sentence.objects.create(phrase=other)
    created = timezone.now()
    sentence.also.add(other)
    assert [] == signalbox.history(sentence).as_of(created)["also"]
    signalbox.erase(objects=[sentence], keys=True)
    assert signalbox.UNKNOWN is signalbox.history(sentence).as_of(created)["also"]
    assert ["other"] == signalbox.history(sentence).as_of(timezone.now())["also"]


def test_a_real_value_is_not_taken_for_an_erased_one() -> None:
    order = Order.objects.create(number="[erased]", meta={"erased": "[erased]"})
    created = timezone.now()
    order.number, order.meta = "2", {}
    order.save()
    event = get_object_event(order)
    assert signalbox.preview_revert(event).can_revert
    assert {"erased": "[erased]"} == signalbox.history(order).as_of(created)["meta"]
    signalbox.revert(event)
    order.refresh_from_db()
    assert ("[erased]", {"erased": "[erased]"}) == (order.number, order.meta)


def test_an_object_whose_key_is_the_replacing_text_has_its_own_history() -> None:
    word = Word.objects.create(text="[erased]", meaning="real")
    person = Word.objects.create(text="person", meaning="x")
    person.meaning = "y"
    person.save()
    event = get_object_event(person)
    signalbox.erase(objects=[person], keys=True)
    assert ["post_save"] == [one.signal for one in signalbox.history(word).events()]
    event.refresh_from_db()
    assert "The key of the object" in signalbox.preview_revert(event).error


def test_relations_with_erased_keys_are_unknown() -> None:
    phrase, other = (Phrase.objects.create(text=text) for text in ("person", "other"))
    sentence = Sentence.objects.create(phrase=other)
    start = timezone.now()
    sentence.also.add(phrase, other)
    event = get_newest_event(Sentence.also.through, "m2m_changed")
    assert [] == signalbox.history(sentence).as_of(start)["also"]
    signalbox.erase(objects=[phrase], keys=True)
    event.refresh_from_db()
    assert {"erased": "[erased]"} in event.data["args"]["added"]
    assert signalbox.UNKNOWN is signalbox.history(sentence).as_of(start)["also"]
    assert "were erased" in signalbox.preview_revert(event).error
    output = StringIO()
    call_command("signalbox", "history", "shop.Sentence", str(sentence.pk), stdout=output)
    assert "added shop.Phrase other, [erased]" in output.getvalue()


def test_a_person_is_erased_from_the_memberships_of_others() -> None:
    _, person = seed_club()
    signalbox.erase(objects=[person])
    assert CANARY not in read_tables()["signalbox_event"]
    signalbox.erase(objects=[person], keys=True)
    assert not Event.objects.filter(sender=Person._meta.label, object_key=str(person.pk)).exists()


def test_the_label_of_a_foreign_key_is_erased_in_the_events_of_the_other_object() -> None:
    first, second = (Customer.objects.create(name=name) for name in ("Anna", "Bert"))
    order = Order.objects.create(number="1", customer=first)
    order.customer = second
    order.save()
    signalbox.erase(objects=[first])
    data = get_object_event(order).data
    assert [first.pk, second.pk] == data["changes"]["customer"]
    assert {"customer": {str(second.pk): "Bert"}} == data["labels"]


def test_the_label_of_a_related_object_is_erased_in_the_events_of_the_other_object() -> None:
    order = Order.objects.create(number="1")
    first, second = (Tag.objects.create(name=name) for name in ("Anna", "Bert"))
    order.tags.add(first, second)
    signalbox.erase(objects=[first])
    args = get_newest_event(Order.tags.through, "m2m_changed").data["args"]
    assert [first.pk, second.pk] == args["added"]
    assert {"tag": {str(second.pk): "Bert"}} == args["labels"]


def test_the_label_of_an_object_is_erased_in_the_events_of_the_reverse_relation() -> None:
    order, tag = Order.objects.create(number=CANARY), Tag.objects.create(name="a")
    tag.orders.add(order)
    assert CANARY in str(get_newest_event(Order.tags.through, "m2m_changed").data)
    signalbox.erase(objects=[order])
    assert CANARY not in read_tables()["signalbox_event"]


@pytest.mark.parametrize("is_deleted", [False, True])
def test_a_failed_login_with_an_earlier_name_is_erased(is_deleted: bool) -> None:
    user = User.objects.create_user(f"{CANARY}-1", f"{CANARY}@example.com")
    User.objects.filter(pk=user.pk).update(email=f"{CANARY}2@example.com")
    user.refresh_from_db()
    user.username = f"{CANARY}-3"
    user.save()
    for name in (f"{CANARY}-1", f" {CANARY.upper()}2@example.com", f"{CANARY}-3", "someone"):
        authenticate(username=name, password="wrong")
    key = user.pk
    if is_deleted:
        user.delete()
    signalbox.erase(actor=key, objects=[("auth.User", key)])
    assert CANARY not in read_tables()["signalbox_event"]
    assert "someone" in read_tables()["signalbox_event"]


def test_a_redacted_email_address_selects_no_failed_login_of_others() -> None:
    user = User.objects.create_user("anna", "anna@example.com")
    with signalbox.trace("work", actor=user):
        Order.objects.create(number="1")
    for event in Event.objects.filter(sender="auth.User", object_key=str(user.pk)):
        event.data["row"]["email"] = "[redacted]"
        Event.objects.filter(pk=event.pk).update(data=event.data)
    authenticate(username="someone", password="wrong")
    signalbox.erase(actor=user.pk, objects=[user])
    assert "someone" in read_tables()["signalbox_event"]


def test_the_value_of_a_foreign_key_to_another_column_is_erased() -> None:
    holder, other = Holder.objects.create(code=CANARY), Holder.objects.create(code="other")
    coded = Coded.objects.create(code="A")
    holding = Holding.objects.create(holder=holder, coded=coded)
    holding.holder = other
    holding.save()
    Holding.objects.filter(pk=holding.pk).update(holder=holder)
    Holding.objects.all().delete()
    signalbox.erase(objects=[holder])
    text = read_tables()["signalbox_event"]
    assert CANARY not in text
    assert "other" in text


def test_the_label_is_erased_in_an_event_whose_argument_is_the_object() -> None:
    signalbox.register_signal(contacted, "tests.erasure.seeding.contacted")
    customer = Customer.objects.create(name=CANARY)
    order = Order.objects.create(number=f"of {CANARY}")
    contacted.send(Order, instance=order, customer=customer)
    signalbox.erase(objects=[customer])
    assert "Order of [erased]" == get_newest_event(Order, "tests.erasure.seeding.contacted").object_label


def test_the_label_is_erased_where_only_the_key_of_the_object_is_recorded() -> None:
    customer = Customer.objects.create(name=CANARY)
    order = Order.objects.create(number=f"of {CANARY}", customer_id=customer.pk)
    delivery = add_delivery(get_object_event(order), Delivery.DONE)
    Delivery.objects.filter(pk=delivery.pk).update(error=f"ValueError: no {CANARY} here", payload={})
    signalbox.erase(objects=[customer])
    delivery.refresh_from_db()
    assert "Order of [erased]" == get_object_event(order).object_label
    assert "ValueError: no [erased] here" == delivery.error


def test_a_word_that_contains_a_name_stays() -> None:
    customer = Customer.objects.create(name="Ann")
    order = Order.objects.create(number="Anna-Ann", customer=customer)
    signalbox.erase(objects=[customer])
    event = get_object_event(order)
    assert ("Order Anna-[erased]", "Anna-Ann") == (event.object_label, event.data["row"]["number"])


def test_an_event_with_an_erased_key_is_not_replayed() -> None:
    phrase = Phrase.objects.create(text="person")
    event = get_object_event(phrase)
    signalbox.erase(objects=[phrase], keys=True)
    event.refresh_from_db()
    with pytest.raises(replay.IncompleteRecord, match="erased"):
        replay.build_row(None, event, None, 0)  # type: ignore[arg-type]  # it is refused before the receiver is used


def test_a_pending_delivery_and_its_event_stay_until_it_has_run() -> None:
    customer = Customer.objects.create(name=CANARY)
    event = get_object_event(customer)
    delivery = add_delivery(event, Delivery.PENDING)
    payload = delivery.payload
    result = signalbox.erase(objects=[customer], keys=True)
    delivery.refresh_from_db()
    assert (1, False, payload) == (result.pending_deliveries, result.is_complete, delivery.payload)
    Delivery.objects.update(state=Delivery.DONE)
    assert signalbox.erase(objects=[customer], keys=True).is_complete
    assert CANARY not in "".join(read_tables().values())


def test_an_erased_delivery_is_not_run_again() -> None:
    customer = Customer.objects.create(name=CANARY)
    delivery = add_delivery(get_object_event(customer), Delivery.DEAD)
    signalbox.erase(objects=[customer])
    delivery.refresh_from_db()
    assert 0 == manual_changes.retry([delivery], "default")
    delivery.refresh_from_db()
    assert Delivery.DEAD == delivery.state


def test_a_repetition_changes_nothing_and_is_recorded() -> None:
    user, customer = seed_person()
    selected = [("shop.Customer", customer.pk)]
    signalbox.erase(actor=user, objects=selected)
    before = list(Event.objects.exclude(signal=RECORD_SIGNAL).values())
    result = signalbox.erase(actor=user, objects=selected)
    assert (0, 0, 0, {}) == (result.events, result.traces, result.deliveries, result.places)
    assert before == list(Event.objects.exclude(signal=RECORD_SIGNAL).values())
    assert 2 == Event.objects.filter(signal=RECORD_SIGNAL).count()


def test_a_dry_run_counts_what_is_erased_afterwards() -> None:
    user, customer = seed_person()
    selection: dict[str, Any] = {"actor": user, "objects": [("shop.Customer", customer.pk)], "keys": True}
    before = read_tables()
    planned = signalbox.erase(**selection, dry_run=True)
    assert before == read_tables()
    done = signalbox.erase(**selection)
    assert (planned.events, planned.traces, planned.deliveries) == (done.events, done.traces, done.deliveries)
    assert planned.places == done.places
    assert {} == planned.records


@pytest.mark.parametrize(
    ("selection", "error", "message"),
    [
        ({}, ValueError, "Neither an actor nor an object"),
        ({"objects": ["shop.Custmer:1"]}, ValueError, "Did you mean 'shop.Customer'"),
        ({"objects": ["shop.Customer"]}, ValueError, "MODEL:KEY was expected"),
        ({"objects": ["shop.Customer:x"]}, ValueError, "'x' is not a primary key of shop.Customer"),
        ({"objects": "shop.Customer:1"}, TypeError, "a list was expected"),
        ({"objects": [("shop.Customer", None)]}, ValueError, "has no primary key"),
        ({"objects": ["shop.Word:"]}, ValueError, "MODEL:KEY was expected"),
        ({"objects": [17]}, TypeError, "The object 17 can't be read"),
        ({"objects": [Customer()]}, ValueError, "An unsaved shop.Customer"),
        ({"actor": ""}, TypeError, "The actor '' can't be read"),
        ({"actor": 7, "using": "nowhere"}, ValueError, "Unknown database 'nowhere'"),
        ({"actor": 987654}, signalbox.ErasureError, "Nothing is recorded of the actor '987654'"),
        ({"objects": [("shop.Customer", 987654)]}, signalbox.ErasureError, "the object shop.Customer:987654"),
    ],
)
def test_a_bad_selector_is_an_error_before_anything_is_changed(
    selection: dict[str, Any], error: type[Exception], message: str
) -> None:
    customer = Customer.objects.create(name=CANARY)
    before = read_tables()
    if error is signalbox.ErasureError:
        selection = {**selection, "objects": [customer, *selection.get("objects", ())]}
    with pytest.raises(error, match=message):
        signalbox.erase(**selection)
    assert before == read_tables()


def test_it_cannot_be_called_in_a_transaction() -> None:
    customer = Customer.objects.create(name="Anna")
    with pytest.raises(RuntimeError, match="durable"), transaction.atomic():
        signalbox.erase(objects=[customer])


def test_every_database_with_the_tables_is_searched_unless_one_is_named() -> None:
    for alias in ("default", "other"):
        Customer.objects.using(alias).create(pk=5000, name=CANARY)
    signalbox.erase(objects=["shop.Customer:5000"], using="other")
    assert CANARY not in read_tables("other")["signalbox_event"]
    assert CANARY in read_tables()["signalbox_event"]
    assert ("default", "other") == signalbox.erase(objects=["shop.Customer:5000"]).databases
    assert CANARY not in read_tables()["signalbox_event"]


def test_a_killed_erasure_is_recorded_and_can_be_repeated() -> None:
    customer = Customer.objects.create(name=CANARY)
    for number in range(5):
        customer.email = f"{CANARY}{number}@example.com"
        customer.save()
    program = f"""
import os, signal, django
django.setup()
import signalbox
from signalbox.erasure import database, row_batches
row_batches.BATCH_SIZE = 2
write, written = database.DatabaseEraser._report, []
def report(self):
    written.append(1)
    if self.record_id is not None:
        os.kill(os.getpid(), signal.SIGKILL)
database.DatabaseEraser._report = report
signalbox.erase(objects=["shop.Customer:{customer.pk}"], using="default")
"""
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"}
    killed = subprocess.run([sys.executable, "-c", program], env=environment, check=False)
    assert -signal.SIGKILL == killed.returncode
    assert CANARY in read_tables()["signalbox_event"]
    record = Event.objects.get(signal=RECORD_SIGNAL)
    assert 1 <= record.data["args"]["counts"]["events"] <= 2
    assert not record.data["args"]["complete"]
    signalbox.erase(objects=[customer])
    assert CANARY not in read_tables()["signalbox_event"]


def test_an_erasure_of_keys_that_was_interrupted_between_two_persons_can_be_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = (Customer.objects.create(name=f"{CANARY}{number}") for number in range(2))
    selected = [("shop.Customer", first.pk), ("shop.Customer", second.pk)]
    update_events = DatabaseEraser._update_events

    def interrupt(self: DatabaseEraser, events: Any, scopes: Any) -> bool:
        if any(event.object_key == str(second.pk) for event in events):
            raise KeyboardInterrupt
        return update_events(self, events, scopes)

    with monkeypatch.context() as patch:
        patch.setattr(DatabaseEraser, "_update_events", interrupt)
        patch.setattr(DatabaseEraser, "_iter_mentions", lambda self, selection: iter(()))
        with pytest.raises(KeyboardInterrupt):
            signalbox.erase(objects=selected, keys=True, using="default")
    assert f"{CANARY}0" not in read_tables()["signalbox_event"]
    assert f"{CANARY}1" in read_tables()["signalbox_event"]
    signalbox.erase(objects=selected, keys=True, using="default")
    assert CANARY not in read_tables()["signalbox_event"]


@pytest.mark.postgres
def test_a_role_without_the_grant_gets_a_clear_error() -> None:
    customer = Customer.objects.create(name=CANARY)
    before = read_tables()
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE ROLE {ROLE} NOLOGIN")
        cursor.execute(f"GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA public TO {ROLE}")
        cursor.execute(f"SET ROLE {ROLE}")
    try:
        with pytest.raises(signalbox.ErasureError, match="GRANT UPDATE ON signalbox_event"):
            signalbox.erase(objects=[customer], using="default")
    finally:
        with connection.cursor() as cursor:
            cursor.execute("RESET ROLE")
            cursor.execute(f"DROP OWNED BY {ROLE}")
            cursor.execute(f"DROP ROLE {ROLE}")
    assert before == read_tables()


def test_the_operator_is_the_actor_of_the_trace_or_the_given_one() -> None:
    customer = Customer.objects.create(name="Anna")
    with signalbox.trace("erasure", actor="data protection officer"):
        result = signalbox.erase(objects=[customer])
    assert "data protection officer" == Event.objects.get(pk=result.records["default"]).actor_label
    assert erase.Erasure is signalbox.Erasure
    assert "default" in connections
