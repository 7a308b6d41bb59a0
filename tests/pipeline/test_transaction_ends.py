"""A trace has the times of the commits and rollbacks of its transactions, and each event knows its transaction."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import transaction
from django.db.models.signals import post_save

import signalbox
from signalbox.core import clock, tracing
from signalbox.models import Event, Trace
from tests.shop.models import Order

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.every_database]


class Undone(Exception):
    """Rolls a block back."""


def get_ends(name: str) -> list[dict[str, Any]]:
    data: dict[str, Any] = Trace.objects.get(name=name).data
    assert len(data["transactions"]) == min(data["transaction_count"], tracing.MAX_TRANSACTION_ENDS)
    return list(data["transactions"])


def test_a_commit_is_later_than_its_last_event_and_has_their_number() -> None:
    with signalbox.trace("work"):
        with transaction.atomic():
            Order.objects.create(number="1")
            Order.objects.create(number="2")
        after = clock.now_us()
        Order.objects.create(number="3")  # its own transaction
    first, second, third = Event.objects.filter(signal="post_save").order_by("id")
    assert first.data["transaction"] == second.data["transaction"] != third.data["transaction"]
    both, alone = get_ends("work")
    assert (first.data["transaction"], "committed", 2) == (both["id"], both["outcome"], both["events"])
    assert second.time <= both["time_us"] <= after <= alone["time_us"]
    assert (third.data["transaction"], 1) == (alone["id"], alone["events"])
    assert "default" == both["database"]


def test_a_rollback_is_recorded() -> None:
    with signalbox.trace("work"), pytest.raises(Undone), transaction.atomic():
        Order.objects.create(number="1")
        raise Undone
    [end] = get_ends("work")
    event = Event.objects.get(signal="post_save")
    assert ("rolled_back", event.data["transaction"], 1) == (end["outcome"], end["id"], end["events"])
    assert "savepoint" not in end


def test_a_rollback_to_a_savepoint_does_not_end_the_transaction() -> None:
    with signalbox.trace("work"), transaction.atomic():
        Order.objects.create(number="1")
        with pytest.raises(Undone), transaction.atomic():
            Order.objects.create(number="2")
            raise Undone
        Order.objects.create(number="3")
    undone, committed = get_ends("work")
    assert (True, "rolled_back", 1) == (undone["savepoint"], undone["outcome"], undone["events"])
    assert ("committed", 2, undone["id"]) == (committed["outcome"], committed["events"], committed["id"])
    assert undone["time_us"] <= committed["time_us"]
    assert {undone["id"]} == {event.data["transaction"] for event in Event.objects.filter(signal="post_save")}


def test_ends_beyond_the_limit_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "MAX_TRANSACTION_ENDS", 3)
    with signalbox.trace("work"):
        for number in range(5):
            Order.objects.create(number=str(number))
    data = Trace.objects.get(name="work").data
    assert (3, 5) == (len(data["transactions"]), data["transaction_count"])


def test_the_events_of_a_receiver_know_its_position_and_when_it_began() -> None:
    def first(**named: Any) -> None:
        pass

    def second(instance: Order, **named: Any) -> None:
        if instance.number == "1":
            Order.objects.create(number="nested")

    post_save.connect(first, sender=Order)
    post_save.connect(second, sender=Order)
    try:
        with signalbox.trace("work"), transaction.atomic():
            Order.objects.create(number="1")
    finally:
        post_save.disconnect(first, sender=Order)
        post_save.disconnect(second, sender=Order)
    outer = next(event for event in Event.objects.filter(signal="post_save") if event.parent is None)
    nested = Event.objects.get(parent=outer.span)
    assert 1 == nested.data["parent_receiver"]
    assert "parent_receiver" not in outer.data
    early, late = outer.data["receivers"]
    assert early["start_us"] + early["duration_us"] <= late["start_us"] + 1
    assert outer.time + late["start_us"] <= nested.time <= outer.time + late["start_us"] + late["duration_us"] + 1
