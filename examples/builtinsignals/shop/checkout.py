"""Places orders."""

from __future__ import annotations

from collections.abc import Sequence

from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction

from shop.models import Order, Product
from shop.payments import charge


@transaction.atomic
def place_order(buyer: AbstractBaseUser, skus: Sequence[str], card: str) -> Order:
    """Place an order and take its products from the stock. If the card is declined, everything is rolled back."""
    products = Product.objects.select_for_update().filter(sku__in=skus)
    order = Order.objects.create(buyer=buyer, total=sum(product.price for product in products))
    order.products.add(*products)
    for product in products:
        product.stock -= 1
        product.save(update_fields=["stock"])
    charge(card, order.total)
    return order
