"""Measure the cost of a save with durable receivers, and the deliveries per second of a worker, beside other queues.

Each contestant has one worker and a receiver that does nothing. The database syncs as usual (SQLite: WAL, synchronous
FULL). The contestants take turns, round by round. The table has the medians of the rounds and of their ratios.

    python benchmarks/delivery.py [--database sqlite|postgres|mariadb] [--number 2000] [--rounds 5] [--save-rounds 60]

A contestant that is not installed is an error, unless `--without NAME` leaves it out: django-ox needs Python 3.12.
procrastinate works only on PostgreSQL. Celery uses the Redis of SIGNALBOX_TEST_REDIS, and no database.
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
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

TEST_DATABASES = {"sqlite": "sqlitewal", "postgres": "postgres", "mariadb": "mariadb"}
DEFAULT_DATABASES = ("sqlite", "postgres")
WORKER_COMMANDS = {
    "signalbox": ["-m", "django", "signalbox", "work", "--burst"],
    "django-tasks-db": ["-m", "django", "db_worker", "--batch", "--no-startup-delay", "--verbosity", "0"],
    "django-ox": ["-m", "django", "ox_worker", "--batch", "--concurrency", "1"],
    "procrastinate": ["-m", "django", "procrastinate", "worker", "--one-shot", "--concurrency", "1"],
    "celery": ["-m", "celery", "-A", "benchmarks.peers.noop:celery", "worker", "-P", "solo", "-l", "ERROR"],
}
PEERS = tuple(name for name in WORKER_COMMANDS if name != "signalbox")


def main() -> None:
    """Run every contestant on every database, and the cost of save()."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--database", choices=tuple(TEST_DATABASES), action="append", help="default: sqlite and postgres"
    )
    parser.add_argument("--number", type=int, default=2000, help="deliveries of each contestant and round")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the contest")
    parser.add_argument("--save-rounds", type=int, default=60, help="rounds of the measurement of save(); 0: none")
    parser.add_argument("--without", choices=PEERS, action="append", default=[], help="leave a peer out")
    parser.add_argument("--run", choices=(*WORKER_COMMANDS, "save"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.number % 100:
        parser.error("--number is put in by transactions of 100")
    if options.run == "save":
        measure_save(options.save_rounds)
    elif options.run:
        run_contestant(options.run, options.number)
    else:
        versions = get_peer_versions([name for name in PEERS if name not in options.without])
        print(f"Python {sys.version.split()[0]}, Django {version('Django')}, {', '.join(versions)}")
        for database in options.database or DEFAULT_DATABASES:
            print_comparison(database, options)


def get_peer_versions(peers: list[str]) -> list[str]:
    """Return the other queues with their versions. Exit with an error if one is not installed."""
    found, missing = [], []
    for name in peers:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        sys.exit(
            f"not installed: {', '.join(missing)}. `make bench-delivery` installs them (on Python 3.12 or later: "
            f"PYTHON=python3.12 VENV=.venv-3.12), {' '.join(f'--without {name}' for name in missing)} leaves them out."
        )
    return found


def print_comparison(database: str, options: argparse.Namespace) -> None:
    """Print the table of one database."""
    left_out = {*options.without, *(() if database == "postgres" else ("procrastinate",))}
    names = [name for name in WORKER_COMMANDS if name not in left_out]
    rates: dict[str, list[float]] = {name: [] for name in names}
    puts: dict[str, list[float]] = {name: [] for name in names}
    for number in range(options.rounds):
        for name in names if number % 2 else reversed(names):
            rate, put = run_in_subprocess(name, database, options).split()
            rates[name].append(float(rate))
            puts[name].append(float(put))
    print(f"\n{database}: {options.rounds} rounds of {options.number}\n")
    print(f"{'':18}{'run a second':>14}{'least - most':>16}{'signalbox is':>14}{'put in, each':>15}")
    for name in names:
        ratio = statistics.median(ours / theirs for ours, theirs in zip(rates["signalbox"], rates[name], strict=True))
        span = f"{min(rates[name]):.0f} - {max(rates[name]):.0f}"
        print(
            f"{name:18}{statistics.median(rates[name]):14.0f}{span:>16}{ratio:>12.2f} x"
            f"{statistics.median(puts[name]):12.0f} us"
        )
    if options.save_rounds:
        print(run_in_subprocess("save", database, options), flush=True)


def run_in_subprocess(name: str, database: str, options: argparse.Namespace) -> str:
    """Run one contestant in a new process, because settings are read once; return its output as numbers."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "SIGNALBOX_TEST_DB": TEST_DATABASES[database],
            "SIGNALBOX_BENCH_PEER": "signalbox" if name == "save" else name,
            "SIGNALBOX_BENCH_NUMBER": str(options.number),
            "SIGNALBOX_BENCH_RESULT": str(Path(folder, "result")),
            "DJANGO_SETTINGS_MODULE": "benchmarks.peers.settings",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]),
        }
        arguments = [
            __file__,
            "--run",
            name,
            "--number",
            str(options.number),
            "--save-rounds",
            str(options.save_rounds),
        ]
        done = subprocess.run(
            [sys.executable, *arguments], env=environment, check=True, stdout=subprocess.PIPE, text=True
        )
        return done.stdout


def run_contestant(name: str, number: int) -> None:
    """Enqueue ``number`` items, run the worker, and print its rate per second and the seconds per enqueued item."""
    from tests import services

    os.environ["SIGNALBOX_BENCH_BROKER"] = services.ADDRESSES["redis"]
    import django

    django.setup()
    from django.db import connection, connections, transaction
    from django.test.utils import setup_databases, teardown_databases

    from signalbox.pipeline import exporter

    old = setup_databases(verbosity=0, interactive=False)
    try:
        from benchmarks.peers import noop

        began = time.perf_counter()
        for _ in range(number // 100):
            with transaction.atomic():
                for _ in range(100):
                    enqueue(name, noop.noop)
        spent = time.perf_counter() - began
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("ANALYZE")
        connections.close_all()
        result = Path(os.environ["SIGNALBOX_BENCH_RESULT"])
        with subprocess.Popen(
            [sys.executable, *WORKER_COMMANDS[name]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as worker:
            end = time.monotonic() + 300
            while not (result.exists() and result.read_text()) and time.monotonic() < end and worker.poll() is None:
                time.sleep(0.05)
            time.sleep(0.5)
            worker.terminate()
        if not result.exists():
            sys.exit(f"{name} did not run all: its worker ended with status {worker.returncode}.")
        print(number / float(result.read_text()), spent / number * 1e6)
    finally:
        exporter.discard_pending()  # they would be written at the end of the process, to tables that were deleted
        teardown_databases(old, verbosity=0)
        if name == "celery":
            delete_redis_keys()


def delete_redis_keys() -> None:
    """Delete the keys of this run's Celery queue in Redis."""
    import redis

    from benchmarks.peers import noop

    with redis.Redis.from_url(os.environ["SIGNALBOX_BENCH_BROKER"]) as client:
        for key in client.scan_iter(f"{noop.QUEUE}:*"):
            client.delete(key)


def enqueue(name: str, task: Any) -> None:
    """Enqueue one item, as a site does."""
    if name == "signalbox":
        from tests.shop.models import Tag

        Tag(name="tag").save()
    elif name == "procrastinate":
        task.defer()
    elif name == "celery":
        task.delay()
    else:
        task.enqueue()


def measure_save(rounds: int) -> None:
    """Print the cost of a save with a durable receiver, as a ratio to a recorded save without."""
    import django

    django.setup()
    from django.db import transaction
    from django.test.utils import setup_databases, teardown_databases

    import signalbox
    from signalbox.outbox import registry
    from signalbox.pipeline import exporter
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
                without = time_call(work, times)
                signalbox.receiver("post_save", sender=Item10, durable=True)(noop.noop)
                time_call(work, 1)
                with_it = time_call(work, times)
                registry.disconnect("benchmarks.peers.noop.noop")
                signalbox.start_recording()
                time_call(work, 1)
                after = time_call(work, times)
                ratios.append(2 * with_it / (without + after))
            gc.enable()
            print(f"{title:28} with a durable receiver: {statistics.median(ratios):.3f} of without")
    finally:
        exporter.discard_pending()  # as above
        teardown_databases(old, verbosity=0)


def time_call(work: Callable[[], object], times: int) -> float:
    """Return the seconds of one call."""
    began = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - began) / times


if __name__ == "__main__":
    main()
