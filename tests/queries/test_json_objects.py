from __future__ import annotations

from typing import Any

import pytest
from django.db import transaction
from django.db.models.signals import post_save

import signalbox
from signalbox.queries.json_objects import event_to_dict
from tests.events import get_events
from tests.json_tables import find_differences, read_types
from tests.shop.models import Order, Tag

pytestmark = pytest.mark.django_db


def add_tag(sender: Any, instance: Order, created: bool, **kwargs: Any) -> None:
    Tag.objects.create(name=instance.number)
    if not created:
        raise LookupError("no stock")


def test_the_data_of_an_event_has_the_documented_keys() -> None:
    post_save.connect(add_tag, sender=Order)
    try:
        with signalbox.trace("a purchase"):
            with transaction.atomic():
                order = Order.objects.create(number="A-17")
            order.status = "paid"
            with pytest.raises(LookupError):
                order.save()
            Order.objects.update(total=5)
    finally:
        post_save.disconnect(add_tag, sender=Order)
    data = [event_to_dict(event)["data"] for event in get_events()]
    assert {"row", "changes", "labels", "receivers", "parent_receiver"} <= {key for one in data for key in one}
    calls = [call for one in data for call in one.get("receivers", ())]
    rare = ("passed_through", "extra", "late", "erased", "pre_signal_time")
    assert [] == find_differences(read_types("keys of data"), data, optional=rare)
    assert [] == find_differences(read_types("keys of receivers"), calls, optional=("index", "passed_through"))
