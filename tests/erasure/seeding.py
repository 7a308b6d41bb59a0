"""Fills the event log with a person's data, in every place in which it can be stored."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from django.apps import apps
from django.contrib.auth.models import User
from django.db import connections
from django.dispatch import Signal
from django.test import Client

import signalbox
from signalbox.models import Attempt, Delivery, Error, ErrorState, Event
from signalbox.pipeline import exporter
from tests.shop.models import Club, Customer, Membership, Order, Person, Phrase, Sentence, Word

CANARY = "zqcanary"
"""Is contained in each text that identifies the person, and nowhere else."""

contacted = Signal()


def read_tables(using: str = "default") -> dict[str, str]:
    """Return the contents of all columns of each table of the app as text, in lower case."""
    for one in connections.all():
        one.ensure_connection()
    exporter.flush()  # the events of the process
    found = {}
    for model in apps.get_app_config("signalbox").get_models():
        with connections[using].cursor() as cursor:
            cursor.execute(f"SELECT * FROM {model._meta.db_table} ORDER BY {model._meta.pk.column}")
            found[model._meta.db_table] = "\n".join(
                json.dumps(row, default=str, ensure_ascii=False) for row in cursor.fetchall()
            ).lower()
    return found


def seed_person() -> tuple[User, Customer]:
    """Record the work of a user and the life of the customer that has the same name."""
    signalbox.register_signal(contacted, "tests.erasure.seeding.contacted")
    user = User.objects.create_user(f"{CANARY}-anna", f"{CANARY}@example.com", "password", is_staff=True)
    client = Client(HTTP_USER_AGENT=f"{CANARY}-agent", HTTP_HOST="testserver")
    client.post("/admin/login/", {"username": f"{CANARY}-anna", "password": "wrong"})
    client.post(f"/admin/login/?next=/{CANARY}/", {"username": f"{CANARY}-anna", "password": "password"})
    client.get(f"/admin/?q={CANARY}", REMOTE_ADDR="10.77.0.1")
    customer = Customer.objects.create(name=f"{CANARY.title()} Anna", email=f"{CANARY}@example.com")
    other = Customer.objects.create(name="Bert", email="bert@example.com")
    with signalbox.trace(f"call {CANARY.title()} Anna", actor=user):
        customer.email = f"{CANARY}2@example.com"
        customer.save()
        order = Order.objects.create(customer=customer, number="1", note="")
        order.customer = other
        order.save()
        order.customer = customer
        order.save()
        contacted.send(Customer, instance=customer, email=f"{CANARY}@example.com", words=[CANARY], first=True)
        contacted.send(Order, instance=customer, email=f"{CANARY}@example.com")
    Customer.objects.filter(pk=customer.pk).update(name=f"{CANARY} two")
    Customer.objects.filter(pk__in=[customer.pk, other.pk]).update(api_token="")
    Order.objects.filter(pk=order.pk).update(customer=customer)
    Customer.objects.bulk_update([customer], ["name"])
    _add_rare_data(user, customer)
    Customer.objects.get(pk=customer.pk).delete()
    return user, customer


def _add_rare_data(user: User, customer: Customer) -> None:
    """Add the parts that event processors, failing receivers and other versions store."""
    template = Event.objects.filter(sender="shop.Customer", object_key=str(customer.pk)).first()
    assert template is not None
    for actor_key, key, label in (
        (str(user.pk), "", ""),
        ("", str(customer.pk), f"{CANARY} Anna"),
        (str(user.pk), str(customer.pk), f"{CANARY} Anna"),
    ):
        data: dict[str, Any] = {
            "args": {"created": False, "raw": False, "update_fields": None, "other": CANARY},
            "changes": {"name": [f"{CANARY} 1", f"{CANARY} 2"], "email": [f"{CANARY}@example.com"]},
            "labels": {"name": {"x": CANARY}},
            "receivers": [
                {"name": "shop.f", "location": "f.py:1", "duration_us": 5, "error": f"ValueError: no {CANARY}\nat x"},
                {"name": "shop.g", "location": "", "duration_us": 5, "error": None},
            ],
            "extra": {"tenant": CANARY, "deep": {"list": [CANARY]}},
            "traceback": f"File x, line 1, in f\n name = '{CANARY}'",
        }
        if not key:
            data = {
                "args": {"exception": f"KeyError: '{CANARY}'"},
                "receivers": data["receivers"],
                "extra": data["extra"],
            }
        values = {field.attname: getattr(template, field.attname) for field in Event._meta.concrete_fields}
        values |= {"id": None, "actor_key": actor_key, "actor_label": f"{CANARY}-anna" if actor_key else ""}
        values |= {"object_key": key, "object_label": label, "data": data, "span": len(key) * 1000 + len(actor_key)}
        add_error(Event.objects.create(**values))
        for state in (Delivery.DONE, Delivery.DEAD, Delivery.DISCARDED):
            add_delivery(Event(**values), state)
    with suppress(ValueError), signalbox.trace("fails", actor=user):
        raise ValueError(f"no {CANARY}")
    actor_label = f"{CANARY}-anna"
    ErrorState.objects.create(
        fingerprint="a" * 32, state="muted", changed=1, actor_key=str(user.pk), actor_label=actor_label
    )
    orphan = Event(trace_id="f" * 32, span=77, signal="post_save", sender="shop.Customer", object_key=str(customer.pk))
    add_delivery(orphan, Delivery.DONE)


def add_error(event: Event, delivery: Delivery | None = None) -> Error:
    """Add an error of ``event``, or of an attempt of its delivery, with the person's data."""
    error: Error = Error.objects.create(
        trace_id=event.trace_id,
        span=event.span,
        position=0,
        delivery_id=None if delivery is None else delivery.pk,
        attempt=None if delivery is None else 1,
        fingerprint="a" * 32,
        time=1,
        exception="ValueError",
        message=f"no {CANARY}",
        file="f.py",
        line=1,
        function="f",
        receiver="shop.f",
        data={"frames": [["f.py", 1, "f"]]},
    )
    return error


def add_delivery(event: Event, state: str) -> Delivery:
    """Add a delivery of ``event`` with the person's data."""
    delivery: Delivery = Delivery.objects.create(
        receiver="shop.receivers.send_invoice",
        queue="default",
        ordering_key=f"shop.Customer {event.object_key}" if state == Delivery.DONE else f"{CANARY}@example.com",
        trace_id=event.trace_id,
        span=event.span,
        signal=event.signal,
        sender=event.sender,
        object_key=event.object_key,
        database="default",
        state=state,
        run_at=1,
        created=1,
        error=f"ValueError: {CANARY}",
        traceback=f"Traceback\nValueError: {CANARY}",
        payload={
            "trace_context": {"traceparent": "00-1-1-01", "tracestate": f"vendor={CANARY}"},
            **(
                {"args": {"request": {"method": "GET", "path": f"/{CANARY}"}}, "row": {"name": CANARY}}
                if event.object_key
                else {"serialized": {"request": {"method": "GET", "path": f"/{CANARY}"}}}
            ),
        },
    )
    Attempt.objects.create(
        delivery_id=delivery.pk,
        fencing_token=1,
        number=1,
        started=1,
        ended=2,
        outcome="failed",
        error=f"ValueError: {CANARY}",
    )
    add_error(event, delivery)
    return delivery


def seed_keys() -> Phrase:
    """Record the life of an object whose primary key identifies the person, and the objects that refer to it."""
    signalbox.register_signal(contacted, "tests.erasure.seeding.contacted")
    phrase = Phrase.objects.create(text=f"{CANARY}-key", meaning="m")
    other = Phrase.objects.create(text="other", meaning="m")
    sentence = Sentence.objects.create(phrase=other)
    sentence.phrase = phrase
    sentence.save()
    sentence.also.add(phrase, other)
    phrase.other_sentences.remove(sentence)
    phrase.other_sentences.add(sentence)
    sentence.also.remove(phrase)
    sentence.also.add(phrase)
    contacted.send(Word, instance=phrase, friends=[other, phrase])
    contacted.send(Word, friends=[other, phrase])
    Phrase.objects.filter(text__in=[phrase.text, "other"]).update(meaning="n")
    Phrase.objects.filter(text=phrase.text).update(meaning="o")
    Sentence.objects.update(phrase=phrase)
    Phrase.objects.bulk_update([phrase, other], ["meaning"])
    Sentence.objects.all().delete()
    Phrase.objects.get(pk=phrase.pk).delete()
    return phrase


def seed_club() -> tuple[Club, Person]:
    """Record a membership of a person."""
    club, person = Club.objects.create(name="Chess"), Person.objects.create(name=CANARY)
    Membership.objects.create(club=club, person=person)
    club.members.remove(person)
    return club, person
