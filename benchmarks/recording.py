"""What recording costs, as ratios to bare Django in the same run.

Each row alternates bare Django with recording, round by round, and prints the median of the rounds' ratios. Databases:
SQLite with the journal that Django leaves it, and in WAL mode, each a file; PostgreSQL at SIGNALBOX_TEST_POSTGRES and,
where it is asked for, MariaDB at SIGNALBOX_TEST_MARIADB, with their fsync as it is.

    python benchmarks/recording.py [--database sqlite|sqlitewal|postgres|mariadb] [--rounds 1.0] [--only TEXT]
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

USUAL = ("sqlite", "sqlitewal", "postgres")
DATABASES = (*USUAL, "mariadb")
PRESETS = ("audit", "all")


def main() -> None:
    """Set up the database, run every row, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--database", choices=DATABASES)
    parser.add_argument("--rounds", type=float, default=1.0, help="factor on the number of rounds")
    parser.add_argument("--only", default="", help="run the rows whose name holds this text")
    options = parser.parse_args()
    if options.database is None:
        # One process a database: settings are read once.
        for database in USUAL:
            arguments = [sys.executable, __file__, "--database", database, "--rounds", str(options.rounds)]
            os.spawnv(os.P_WAIT, sys.executable, [*arguments, "--only", options.only])
        return
    run(options.database, options.rounds, options.only)


def run(database: str, factor: float, only: str) -> None:
    """Print the table of one database."""
    os.environ["SIGNALBOX_TEST_DB"] = database
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    import django

    django.setup()
    from django.db import connection
    from django.test.utils import setup_databases, teardown_databases

    from signalbox.pipeline import exporter

    serve()
    wait_for_the_disk(database)
    old = setup_databases(verbosity=0, interactive=False, aliases={"default"})
    try:
        print(
            f"\n{connection.display_name} ({database}), Django {django.get_version()}, Python {sys.version.split()[0]}"
        )
        print(f"{'':44}{'bare':>12}" + "".join(f"{preset:>10}" for preset in PRESETS))
        for name, rounds, work in rows():
            if only in name:
                measure(name, max(5, int(rounds * factor)), work)
    finally:
        exporter.discard_pending()  # what waits would be written at the end of the process, to tables that are gone
        teardown_databases(old, verbosity=0)


def wait_for_the_disk(database: str) -> None:
    """Let commits wait for the disk, as Django leaves it, and as the tests' need not."""
    from django.conf import settings

    options = settings.DATABASES["default"]["OPTIONS"]
    if database == "sqlite":
        del options["init_command"]
    elif database == "postgres":
        del options["options"]


def serve() -> None:
    """Let this module be the site's addresses: one, which saves a row."""
    from django.conf import settings
    from django.http import HttpRequest, HttpResponse
    from django.urls import path

    def save(request: HttpRequest) -> HttpResponse:
        from tests.shop.models import Tag

        Tag.objects.create(name="saved")
        return HttpResponse("saved")

    globals()["urlpatterns"] = [path("bench/save/", save)]
    settings.ROOT_URLCONF = __name__


def measure(name: str, rounds: int, work: Callable[[], float]) -> None:
    """Print one row: the bare time, and the ratio of each preset."""
    from django.test import override_settings

    import signalbox

    def recorded(preset: str) -> float:
        with override_settings(SIGNALBOX={"RECORD": preset}):
            signalbox.start_recording()
            work()
            return work()

    def bare() -> float:
        signalbox.stop_recording()
        work()
        return work()

    ratios: dict[str, list[float]] = {preset: [] for preset in PRESETS}
    times = []
    gc.collect()
    gc.freeze()
    for _ in range(rounds):
        for preset in PRESETS:
            signalbox.stop_recording()
            gc.collect()
            gc.disable()
            before = bare()
            with_it = recorded(preset)
            after = bare()
            gc.enable()
            ratios[preset].append(2 * with_it / (before + after))
            times.append(before)
        empty()
    gc.unfreeze()
    figures = "".join(f"{statistics.median(ratios[preset]):10.3f}" for preset in PRESETS)
    print(f"{name:44}{statistics.median(times) * 1e6:9.0f} us{figures}", flush=True)


def empty() -> None:
    """Delete what the rounds have written, so that the last runs on what the first ran on."""
    from django.db import connection

    with connection.cursor() as cursor:
        for table in ("signalbox_event", "signalbox_trace"):
            cursor.execute(f"{'DELETE FROM' if connection.vendor == 'sqlite' else 'TRUNCATE'} {table}")


def rows() -> Iterator[tuple[str, int, Callable[[], float]]]:
    """Return name, rounds and work of each row; work returns the seconds it took."""
    import datetime as dt
    from decimal import Decimal

    from django.db import transaction
    from django.test import Client

    from tests.shop.models import Item10, Order, Tag

    day, moment = dt.date(2026, 1, 1), dt.datetime(2026, 1, 1, tzinfo=dt.UTC)

    def item(name: str = "name", **values: Any) -> Item10:
        return Item10(
            name=name,
            description="text",
            count=1,
            price=Decimal("1.50"),
            weight=1.5,
            active=True,
            day=day,
            moment=moment,
            data={},
            **values,
        )

    def timed(action: Callable[[], object], times: int = 1) -> float:
        began = time.perf_counter()
        for _ in range(times):
            action()
        return (time.perf_counter() - began) / times

    Item10.objects.all().delete()
    Item10.objects.bulk_create([item() for _ in range(10_000)], batch_size=500)
    loaded = list(Item10.objects.order_by("pk")[:100])
    counter = iter(range(1, 10**9))

    def create(number: int) -> Callable[[], None]:
        def work() -> None:
            with transaction.atomic():
                for _ in range(number):
                    item().save(force_insert=True)

        return work

    def update(number: int) -> Callable[[], None]:
        def work() -> None:
            with transaction.atomic():
                for one in loaded[:number]:
                    one.count = next(counter)
                    one.save()

        return work

    def save_alone() -> None:
        loaded[0].count = next(counter)
        loaded[0].save()

    def delete() -> float:
        with transaction.atomic():
            made = [item() for _ in range(100)]
            for one in made:
                one.save(force_insert=True)
        began = time.perf_counter()
        with transaction.atomic():
            for one in made:
                one.delete()
        return time.perf_counter() - began

    def add_tags() -> float:
        with transaction.atomic():
            order.tags.clear()
        return timed(in_transaction(lambda: order.tags.add(*tags)))

    def fast_delete() -> float:
        with transaction.atomic():
            Item10.objects.bulk_create([item(name="gone") for _ in range(1_000)], batch_size=500)
        return timed(in_transaction(Item10.objects.filter(name="gone").delete))

    def bulk_create() -> float:
        taken = timed(in_transaction(lambda: Item10.objects.bulk_create([item(name="gone") for _ in range(1_000)])))
        Item10.objects.filter(name="gone")._raw_delete("default")
        return taken

    def in_transaction(action: Callable[[], object]) -> Callable[[], None]:
        def work() -> None:
            with transaction.atomic():
                action()

        return work

    order = Order.objects.create(number="A-1")
    tags = [Tag.objects.create(name=str(number)) for number in range(10)]
    client = Client(raise_request_exception=False)
    assert client.post("/bench/save/").content == b"saved"

    yield "create, 1 per transaction", 60, lambda: timed(create(1), 10)
    yield "create, 100 per transaction", 60, lambda: timed(create(100))
    yield "update, 1 per transaction", 60, lambda: timed(update(1), 10)
    yield "update, 100 per transaction", 60, lambda: timed(update(100))
    yield "one autocommit save", 60, lambda: timed(save_alone, 10)
    yield "delete, 100 one by one per transaction", 30, delete
    yield "load 10,000 instances", 15, lambda: timed(lambda: list(Item10.objects.all()))
    yield "add 10 tags", 60, add_tags
    update_all = in_transaction(lambda: Item10.objects.update(count=next(counter)))
    yield "update() of 10,000 rows", 15, lambda: timed(update_all)
    yield "bulk_create of 1,000", 20, bulk_create
    yield "fast delete of 1,000", 20, fast_delete
    yield "request that saves one row", 40, lambda: timed(lambda: client.post("/bench/save/"), 5)
    yield "request answered with 404", 40, lambda: timed(lambda: client.get("/nowhere/"), 5)


if __name__ == "__main__":
    main()
