"""Durable receivers: what they cost who saves, and how many a worker runs, beside others in the same run.

One worker each, a receiver that does nothing, the database's fsync as it is (SQLite: WAL, synchronous FULL).

    python benchmarks/delivery.py [--database sqlite|postgres|mariadb] [--number 2000] [--peer NAME] [--rounds 60]

Contestants that are not installed are left out; procrastinate works on PostgreSQL alone, Celery over the Redis of
SIGNALBOX_TEST_REDIS.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

NAMES = {"sqlite": "sqlitewal", "postgres": "postgres", "mariadb": "mariadb"}
WORKERS = {
    "signalbox": ["-m", "django", "signalbox", "work", "--burst"],
    "django-tasks-db": ["-m", "django", "db_worker", "--batch", "--no-startup-delay", "--verbosity", "0"],
    "django-ox": ["-m", "django", "ox_worker", "--batch", "--concurrency", "1"],
    "procrastinate": ["-m", "django", "procrastinate", "worker", "--one-shot", "--concurrency", "1"],
    "celery": ["-m", "celery", "-A", "benchmarks.peers.noop:celery", "worker", "-P", "solo", "-l", "ERROR"],
}
MODULES = {"django-tasks-db": "django_tasks_db", "django-ox": "django_ox"}


def main() -> None:
    """Run every contestant on every database, and the cost of saving."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--database", choices=tuple(NAMES), action="append")
    parser.add_argument("--number", type=int, default=2000, help="deliveries of each contestant")
    parser.add_argument("--rounds", type=int, default=60, help="rounds of saving")
    parser.add_argument("--peer", choices=tuple(WORKERS), action="append")
    parser.add_argument("--run", choices=(*WORKERS, "saving"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run == "saving":
        saving(options.rounds)
    elif options.run:
        contest(options.run, options.number)
    else:
        for database in options.database or NAMES:
            print(f"\n{database}", flush=True)
            for name in (*(options.peer or WORKERS), "saving"):
                start(name, database, options)


def start(name: str, database: str, options: argparse.Namespace) -> None:
    """Run one contestant in a process of its own: settings are read once."""
    if name == "procrastinate" and database != "postgres":
        return
    if name not in ("signalbox", "saving") and find_spec(MODULES.get(name, name)) is None:
        print(f"{name:20} is not installed")
        return
    environment = {
        **os.environ,
        "SIGNALBOX_TEST_DB": NAMES[database],
        "SIGNALBOX_BENCH_PEER": "signalbox" if name == "saving" else name,
        "SIGNALBOX_BENCH_NUMBER": str(options.number),
        "SIGNALBOX_BENCH_RESULT": tempfile.mktemp(),  # the run's own, and read once
        "DJANGO_SETTINGS_MODULE": "benchmarks.peers.settings",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]),
    }
    arguments = [__file__, "--run", name, "--number", str(options.number), "--rounds", str(options.rounds)]
    subprocess.run([sys.executable, *arguments], env=environment, check=True)


def contest(name: str, number: int) -> None:
    """Put ``number`` of them into the database, let the worker run, and print what it did in a second."""
    from tests import services

    os.environ["SIGNALBOX_BENCH_BROKER"] = services.ADDRESSES["redis"]
    import django

    django.setup()
    from django.db import connection, connections, transaction
    from django.test.utils import setup_databases, teardown_databases

    old = setup_databases(verbosity=0, interactive=False)
    try:
        from benchmarks.peers import noop

        began = time.perf_counter()
        for _ in range(number // 100):
            with transaction.atomic():
                for _ in range(100):
                    put(name, noop.noop)
        spent = time.perf_counter() - began
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("ANALYZE")
        connections.close_all()
        result = Path(os.environ["SIGNALBOX_BENCH_RESULT"])
        with subprocess.Popen(
            [sys.executable, *WORKERS[name]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as worker:
            end = time.monotonic() + 300
            while not (result.exists() and result.read_text()) and time.monotonic() < end and worker.poll() is None:
                time.sleep(0.05)
            time.sleep(0.5)
            worker.terminate()
        seconds = float(result.read_text())
        print(
            f"{name:20}{number / seconds:8.0f} run a second     put in {spent / number * 1e6:6.0f} us each", flush=True
        )
    finally:
        teardown_databases(old, verbosity=0)


def put(name: str, noop: Any) -> None:
    """Enqueue one, as a site does."""
    if name == "signalbox":
        from tests.shop.models import Tag

        Tag(name="tag").save()
    elif name == "procrastinate":
        noop.defer()
    elif name == "celery":
        noop.delay()
    else:
        noop.enqueue()


def saving(rounds: int) -> None:
    """Print what a save costs with a durable receiver, as a ratio to the same, recorded, without."""
    import django

    django.setup()
    from django.db import transaction
    from django.test.utils import setup_databases, teardown_databases

    import signalbox
    from signalbox.delivery import registry
    from tests.shop.models import Item10

    old = setup_databases(verbosity=0, interactive=False)
    try:
        from benchmarks.peers import noop

        registry.disconnect("benchmarks.peers.noop.noop")

        def create(number: int) -> None:
            with transaction.atomic():
                for _ in range(number):
                    Item10(name="name", description="text", count=1).save(force_insert=True)

        def save() -> None:
            item.count += 1
            item.save()

        item = Item10.objects.create(name="name")
        for title, times, work in (
            ("one save a transaction", 20, lambda: create(1)),
            ("100 saves a transaction", 1, lambda: create(100)),
            ("one autocommit save", 20, save),
        ):
            ratios = []
            gc.collect()
            gc.disable()
            for _ in range(rounds):
                without = timed(work, times)
                signalbox.receiver("post_save", sender=Item10, durable=True)(noop.noop)
                timed(work, 1)
                with_it = timed(work, times)
                registry.disconnect("benchmarks.peers.noop.noop")
                signalbox.install()
                timed(work, 1)
                after = timed(work, times)
                ratios.append(2 * with_it / (without + after))
            gc.enable()
            print(f"{title:28} with a durable receiver: {statistics.median(ratios):.3f} of without", flush=True)
    finally:
        teardown_databases(old, verbosity=0)


def timed(work: Callable[[], object], times: int) -> float:
    """Return the seconds of one call."""
    began = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - began) / times


if __name__ == "__main__":
    main()
