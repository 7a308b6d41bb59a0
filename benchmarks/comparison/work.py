"""The measured operations. Each prepares, does its work, and returns the seconds of one repetition."""

from __future__ import annotations

import gc
import time
from contextlib import contextmanager, nullcontext
from itertools import count
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import connection, transaction

from benchmarks.comparison.models import Customer, Line, Order, Tag, new_order
from benchmarks.comparison.records import Records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

LOADED = 1_000
"""Number of orders before the work."""
_counter = count(1_000)


class Work:
    """The site's filled database, and the work on it."""

    def __init__(self, loaded: int = LOADED) -> None:
        self._trace: Callable[[str], AbstractContextManager[object]] = nullcontext
        if settings.PEER.name == "signalbox":
            import signalbox

            self._trace = signalbox.trace  # it writes what is pending at its end, as at the end of a request
        Customer.objects.create(name="A customer")
        self._tags = Tag.objects.bulk_create([Tag(name=f"tag {number}") for number in range(10)])
        Order.objects.bulk_create([new_order() for _ in range(loaded)], batch_size=500)
        self._last = Order.objects.latest("pk").pk
        self.clean()

    def clean(self) -> None:
        """Delete what the last work has written, so that the next one finds the same database."""
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM comparison_order_tags")
            cursor.execute("DELETE FROM comparison_line")
            cursor.execute("DELETE FROM comparison_order WHERE id > %s", [self._last])
        Records().clear()

    @contextmanager
    def _timed(self) -> Iterator[list[float]]:
        gc.collect()
        seconds: list[float] = []
        started = time.perf_counter()
        with self._trace("comparison"):
            yield seconds
        seconds.append(time.perf_counter() - started)

    def create(self) -> float:
        orders = [new_order() for _ in range(10)]
        with self._timed() as seconds:
            for order in orders:
                order.save()
        return seconds[0] / 10

    def save_changed(self) -> float:
        keys = self._saved(10)
        with self._timed() as seconds:
            for key in keys:
                order = Order.objects.get(pk=key)
                order.quantity = next(_counter)
                order.title = f"Binding of {order.quantity} volumes"
                order.save()
        return seconds[0] / 10

    def save_unchanged(self) -> float:
        keys = self._saved(10)
        with self._timed() as seconds:
            for key in keys:
                Order.objects.get(pk=key).save()
        return seconds[0] / 10

    def bulk_create(self) -> float:
        orders = [new_order() for _ in range(100)]
        with self._timed() as seconds:
            Order.objects.bulk_create(orders)
        return seconds[0]

    def update(self) -> float:
        orders = Order.objects.filter(pk__gt=self._last - 100, pk__lte=self._last)
        with self._timed() as seconds:
            orders.update(quantity=next(_counter))
        return seconds[0]

    def delete_cascade(self) -> float:
        orders = list(Order.objects.filter(pk__in=self._saved(3)))
        Line.objects.bulk_create([Line(order=order, sku=f"sku {number}") for order in orders for number in range(10)])
        with self._timed() as seconds:
            for order in orders:
                order.delete()
        return seconds[0] / 3

    def add_tags(self) -> float:
        orders = list(Order.objects.filter(pk__in=self._saved(5)))
        with self._timed() as seconds:
            for order in orders:
                order.tags.add(*self._tags)
        return seconds[0] / 5

    def transaction(self) -> float:
        orders = [new_order() for _ in range(100)]
        with self._timed() as seconds, transaction.atomic():
            for order in orders:
                order.save()
        return seconds[0]

    def rollback(self) -> float:
        orders = [new_order() for _ in range(10)]
        with self._timed() as seconds, transaction.atomic():
            for order in orders:
                order.save()
            transaction.set_rollback(True)
        return seconds[0]

    def measure_bytes(self, rows: int) -> dict[str, float]:
        """Return the bytes by which the database grows for each created row, and for each changed row."""
        sizes = [_get_database_size()]
        for _ in range(rows // 100):
            with transaction.atomic():
                for order in [new_order() for _ in range(100)]:
                    order.save()
        sizes.append(_get_database_size())
        keys = list(Order.objects.filter(pk__gt=self._last).values_list("pk", flat=True))
        for start in range(0, len(keys), 100):
            with transaction.atomic():
                for order in Order.objects.filter(pk__in=keys[start : start + 100]):
                    order.quantity = next(_counter)
                    order.title = f"Binding of {order.quantity} volumes"
                    order.save()
        sizes.append(_get_database_size())
        return {"create": (sizes[1] - sizes[0]) / rows, "change": (sizes[2] - sizes[1]) / rows}

    def _saved(self, number: int) -> list[Any]:
        """Return the keys of new orders."""
        orders = Order.objects.bulk_create([new_order() for _ in range(number)])
        return [order.pk for order in orders]


def _get_database_size() -> int:
    """Return the bytes of all tables with their indexes."""
    statement = (
        "SELECT (page_count - freelist_count) * page_size"
        " FROM pragma_page_count, pragma_freelist_count, pragma_page_size"
        if connection.vendor == "sqlite"
        else "SELECT sum(pg_total_relation_size(oid)) FROM pg_class"
        " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    )
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return int(cursor.fetchone()[0])
