"""Addresses that are built from names rather than routed by keys."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlencode

from django.urls import reverse

from signalbox.outbox import queue

if TYPE_CHECKING:
    from signalbox.models import Delivery


def get_object_url(sender: str, key: str) -> str:
    """Return the address of an object's history."""
    return f"{reverse('signalbox:object')}?{urlencode({'sender': sender, 'key': key})}"


def get_delivery_url(delivery: Delivery) -> str:
    """Return the address of a delivery, in whatever database it is."""
    url, alias = reverse("signalbox:delivery", args=[delivery.pk]), delivery._state.db
    return url if alias in (None, queue.get_deliveries_database()) else f"{url}?{urlencode({'using': alias})}"
