"""Measure the deliveries of one key per second that a worker with 1, 2, 4 and 8 threads runs.

All deliveries have one key, so they run one at a time. More threads cannot make them faster and must not make them
slower. The numbers of threads take turns, round by round. A ratio is the median of the rounds' ratios to one thread.

    python benchmarks/hot_key.py [--database sqlite|postgres|mariadb] [--number 1000] [--rounds 3] [--dead 10000]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

TEST_DATABASES = {"sqlite": "sqlitewal", "postgres": "postgres", "mariadb": "mariadb"}
THREADS = (1, 2, 4, 8)
TIMEOUT_SECONDS = 300


def main() -> None:
    """Measure every database and print the rates."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--database", choices=tuple(TEST_DATABASES), action="append", help="default: all")
    parser.add_argument("--number", type=int, default=1000, help="deliveries of each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dead", type=int, default=0, help="finished deliveries that stay in PostgreSQL's index")
    parser.add_argument("--threads", type=int, action="append", help="with 1 first; default: 1, 2, 4 and 8")
    parser.add_argument("--run", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        measure(options.number, options.rounds, options.dead, options.threads or THREADS)
        return
    for database in options.database or TEST_DATABASES:
        print(f"\n{database}: {options.rounds} rounds of {options.number}, {options.dead} dead", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            environment = {
                **os.environ,
                "SIGNALBOX_TEST_DB": TEST_DATABASES[database],
                "SIGNALBOX_BENCH_PEER": "signalbox",
                "SIGNALBOX_BENCH_NUMBER": str(options.number),
                "SIGNALBOX_BENCH_RESULT": str(Path(folder, "result")),
                "DJANGO_SETTINGS_MODULE": "benchmarks.peers.settings",
                "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]),
            }
            numbers = ["--number", str(options.number), "--rounds", str(options.rounds), "--dead", str(options.dead)]
            numbers += [f"--threads={threads}" for threads in options.threads or ()]
            subprocess.run([sys.executable, __file__, "--run", *numbers], env=environment, check=True)


def measure(number: int, rounds: int, dead: int, all_threads: Sequence[int]) -> None:
    """Measure one database and print its rates."""
    import django

    django.setup()
    from django.test.utils import setup_databases, teardown_databases

    from signalbox.pipeline import exporter

    old = setup_databases(verbosity=0, interactive=False)
    try:
        from benchmarks.peers import noop

        assert noop.NUMBER == number, "the receiver is connected"
        rates: dict[int, list[float]] = {threads: [] for threads in all_threads}
        for turn in range(rounds):
            for threads in all_threads if turn % 2 else reversed(all_threads):
                rates[threads].append(measure_rate(number, threads, dead))
        for threads in all_threads:
            ratios = [mine / one for mine, one in zip(rates[threads], rates[all_threads[0]], strict=True)]
            print(
                f"{threads} threads: {statistics.median(rates[threads]):6.0f} per second "
                f"({min(rates[threads]):.0f} to {max(rates[threads]):.0f}), "
                f"{statistics.median(ratios):.2f} of one thread",
                flush=True,
            )
    finally:
        exporter.discard_pending()  # they would be written at the end of the process, to tables that were deleted
        teardown_databases(old, verbosity=0)


def measure_rate(number: int, threads: int, dead: int) -> float:
    """Run ``number`` deliveries of one key by one worker; return how many it ran per second."""
    from django.db import connection, connections, transaction

    from signalbox.models import Delivery
    from tests.shop.models import Tag

    Delivery.objects.all().delete()
    with transaction.atomic():
        tag = Tag.objects.create(name="tag")
        for _ in range(number - 1):
            tag.save()
    snapshot = connections.create_connection("default")
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("VACUUM ANALYZE signalbox_delivery")
        if dead:
            with snapshot.cursor() as cursor:  # while it is open, no entry of the index is removed
                cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
                cursor.execute("SELECT count(*) FROM signalbox_delivery")
            leave_dead_entries(dead)
    connections.close_all()
    result = Path(os.environ["SIGNALBOX_BENCH_RESULT"])
    result.unlink(missing_ok=True)
    try:
        subprocess.run(
            [sys.executable, "-m", "django", "signalbox", "work", "--burst", "--threads", str(threads)],
            check=True,
            timeout=TIMEOUT_SECONDS,
            stderr=subprocess.DEVNULL,
        )
    finally:
        snapshot.close()
    if not result.exists():
        sys.exit(f"{Delivery.objects.filter(state='pending').count()} deliveries were not run with {threads} threads.")
    return number / float(result.read_text())


def leave_dead_entries(count: int) -> None:
    """Insert and delete deliveries that precede the others of their key."""
    from signalbox.models import Delivery

    pattern = Delivery.objects.earliest("id")
    fields = {field.attname: getattr(pattern, field.attname) for field in Delivery._meta.fields if field.name != "id"}
    rows = [Delivery(**fields, id=pattern.pk - 10 * count + number) for number in range(count)]
    Delivery.objects.bulk_create(rows, batch_size=1000)
    Delivery.objects.filter(id__lt=pattern.pk).delete()


if __name__ == "__main__":
    main()
