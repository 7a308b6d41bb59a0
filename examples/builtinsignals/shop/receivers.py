"""Durable receivers: they run in ``manage.py signalbox work``, after the commit of the change.

No delivery is created for an order that is rolled back. A receiver that raises an exception is called again.
"""

from __future__ import annotations

import time
from http.client import HTTPConnection
from typing import Any

from django.conf import settings
from django.core.mail import send_mail
from django.db.models import Model
from django.db.models.signals import m2m_changed, post_save

from shop.models import Order, Product
from signalbox import receiver


@receiver(post_save, sender=Order, durable=True)
def send_receipt(sender: type[Model], instance: Order, created: bool, **kwargs: Any) -> None:
    if created:
        send_mail(f"Your {instance}", f"You pay {instance.total}.", None, [instance.buyer.email])


@receiver(m2m_changed, sender=Order.products.through, durable=True)
def pack(sender: type[Model], instance: Order, action: str, pk_set: set[int], **kwargs: Any) -> None:
    print(f"{instance}: {action} products {sorted(pk_set)}")


@receiver(post_save, sender=Order, durable=True, retries=3, backoff=0.5)
def book_courier(sender: type[Model], instance: Order, delivery: Any, **kwargs: Any) -> None:
    """Fail twice, as services do, and then succeed."""
    if delivery.attempt < 3:
        raise TimeoutError(f"the courier's service did not answer to call {delivery.attempt}")


@receiver(post_save, sender=Order, durable=True, retries=2, backoff=0.5)
def notify_warehouse(sender: type[Model], instance: Order, **kwargs: Any) -> None:
    """Fail each time, because nothing listens at the address: after two retries the delivery is a dead letter."""
    warehouse = HTTPConnection(settings.WAREHOUSE, timeout=5)
    try:
        warehouse.request("POST", "/orders/", body=str(instance.pk))
        warehouse.getresponse()
    finally:
        warehouse.close()


@receiver(["bulk_create", "bulk_update"], sender=Product, durable=True)
def print_catalogue(sender: type[Model], count: int, **kwargs: Any) -> None:
    """Take a second: slow work does not delay the import or the visitor."""
    time.sleep(1)
    print(f"a new catalogue is printed after a change of {count} products")
