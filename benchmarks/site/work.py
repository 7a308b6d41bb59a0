"""The measured work. Each method prepares, does its work once, and returns the seconds of one repetition."""

from __future__ import annotations

import gc
import time
import tracemalloc
from contextlib import nullcontext
from itertools import count
from typing import TYPE_CHECKING, Self

from django.apps import apps
from django.contrib.auth import get_user_model
from django.db import connection, transaction
from django.test import Client

from benchmarks import corpus
from benchmarks.site.models import Customer, Offer, Order, Tag, new_offer, new_order

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

LOADED = 10_000
"""Number of rows of each table before the work."""


class Timer:
    """Measures the seconds of its block. Earlier garbage is collected before; collection is on within the block."""

    def __enter__(self) -> Self:
        gc.collect()
        self._start = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        self.seconds = time.perf_counter() - self._start


class Work:
    """The site's filled database, and the work on it."""

    def __init__(self, recorded: bool, loaded: int = LOADED) -> None:
        self.text = corpus.ordinary(500)
        self._counter = count(1_000)
        self._trace: Callable[[str], AbstractContextManager[object]] = nullcontext
        self._tables: list[str] = []
        if recorded:
            import signalbox

            self._trace = signalbox.trace
            models = apps.get_app_config("signalbox").get_models()
            self._tables = [connection.ops.quote_name(model._meta.db_table) for model in models]
        Customer.objects.bulk_create([Customer(name=f"Customer {number}") for number in range(10)])
        self._tags = Tag.objects.bulk_create([Tag(name=f"tag {number}") for number in range(10)])
        Order.objects.bulk_create([new_order(self.text) for _ in range(loaded)], batch_size=500)
        Offer.objects.bulk_create([new_offer(self.text) for _ in range(loaded)], batch_size=500)
        self._last = Order.objects.latest("pk").pk
        self._client = Client(raise_request_exception=True)
        self._client.force_login(get_user_model().objects.create_user("ada"))
        self.clean()

    def clean(self) -> None:
        """Delete what the last work has written, so that the next one finds the same database."""
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM site_order_tags")
            cursor.execute("DELETE FROM site_order WHERE id > %s", [self._last])
            if connection.vendor == "postgresql" and self._tables:
                cursor.execute(f"TRUNCATE {', '.join(self._tables)}")
            else:
                for table in self._tables:
                    cursor.execute(f"DELETE FROM {table}")

    def events(self) -> int:
        """Return how many events are in the database."""
        return apps.get_model("signalbox", "Event").objects.count()

    def stored(self, rows: int = 2_000) -> float:
        """Return the bytes that one saved row takes, with indexes, and with its event if there is one."""
        before = _database_size()
        for _ in range(rows // 100):
            self.save_100()
        return (_database_size() - before) / rows

    # --- Work

    def autocommit_save(self) -> float:
        orders = [new_order(self.text) for _ in range(10)]
        with Timer() as timer:
            for order in orders:
                order.save()
        return timer.seconds / 10

    def autocommit_saves_in_trace(self) -> float:
        orders = [new_order(self.text) for _ in range(100)]
        with Timer() as timer, self._trace("benchmark"):
            for order in orders:
                order.save()
        return timer.seconds / 100

    def save_1(self) -> float:
        orders = [new_order(self.text) for _ in range(10)]
        with Timer() as timer:
            for order in orders:
                with transaction.atomic():
                    order.save()
        return timer.seconds / 10

    def save_100(self) -> float:
        orders = [new_order(self.text) for _ in range(100)]
        with Timer() as timer, transaction.atomic():
            for order in orders:
                order.save()
        return timer.seconds / 100

    def update_100(self) -> float:
        orders = self._saved(100)
        with Timer() as timer, transaction.atomic():
            for order in orders:
                order.quantity = next(self._counter)
                order.title = f"Binding of {order.quantity} volumes"
                order.save()
        return timer.seconds / 100

    def delete_100(self) -> float:
        orders = self._saved(100)
        with Timer() as timer, transaction.atomic():
            for order in orders:
                order.delete()
        return timer.seconds / 100

    def add_10_tags(self) -> float:
        orders = self._saved(5)
        with Timer() as timer:
            for order in orders:
                order.tags.add(*self._tags)
        return timer.seconds / 5

    def update_1000(self) -> float:
        orders = Order.objects.filter(pk__gt=self._last - 1_000, pk__lte=self._last)
        with Timer() as timer:
            orders.update(quantity=next(self._counter))
        return timer.seconds

    def bulk_create_1000(self) -> float:
        orders = [new_order(self.text) for _ in range(1_000)]
        with Timer() as timer:
            Order.objects.bulk_create(orders)
        return timer.seconds

    def load_orders(self) -> float:
        with Timer() as timer:
            rows = list(Order.objects.all())
        del rows
        return timer.seconds

    def load_offers(self) -> float:
        with Timer() as timer:
            rows = list(Offer.objects.all())
        del rows
        return timer.seconds

    def memory_orders(self) -> float:
        """Return the size of a loaded order in bytes, not seconds."""
        return _allocated(lambda: list(Order.objects.all()))

    def memory_offers(self) -> float:
        """Return the size of a loaded offer in bytes, not seconds."""
        return _allocated(lambda: list(Offer.objects.all()))

    def request(self) -> float:
        with Timer() as timer:
            for _ in range(5):
                self._client.post("/save/")
        return timer.seconds / 5

    def _saved(self, number: int) -> list[Order]:
        """Return new orders, loaded from the database."""
        Order.objects.bulk_create([new_order(self.text) for _ in range(number)])
        return list(Order.objects.filter(pk__gt=self._last))


def _allocated(load: Callable[[], list[object]]) -> float:
    """Return the bytes in memory of each kept row."""
    gc.collect()
    tracemalloc.start()
    try:
        rows = load()
        gc.collect()
        return tracemalloc.get_traced_memory()[0] / len(rows)
    finally:
        tracemalloc.stop()


def _database_size() -> int:
    """Return the bytes in use by the database."""
    statements = {
        "sqlite": "SELECT (page_count - freelist_count) * page_size"
        " FROM pragma_page_count, pragma_freelist_count, pragma_page_size",
        "postgresql": "SELECT pg_database_size(current_database())",
        "mysql": "SELECT SUM(data_length + index_length) FROM information_schema.tables"
        " WHERE table_schema = DATABASE()",
    }
    with connection.cursor() as cursor:
        if connection.vendor == "mysql":
            tables = ", ".join(map(connection.ops.quote_name, connection.introspection.table_names(cursor)))
            cursor.execute(f"ANALYZE TABLE {tables}")
            cursor.fetchall()
        cursor.execute(statements[connection.vendor])
        return int(cursor.fetchone()[0])
