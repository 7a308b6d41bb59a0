"""Measure a purge of the event log, and how long writers wait beside it.

The older half of the events is due. A process saves objects in autocommit, in turns without and beside a purge in
another process, which is stopped after each turn. The ratio is that of the 95th percentiles of both turns. Each figure
is the median of the rounds.

    python benchmarks/purge.py [--database sqlite|postgres|mariadb] [--rows 1000000] [--rounds 5] [--seconds 20]
        [--write]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from benchmarks import document_tables  # noqa: E402

DATABASES = {
    "sqlite": ("sqlitewal", "SQLite, WAL"),
    "postgres": ("postgres", "PostgreSQL"),
    "mariadb": ("mariadb", "MariaDB"),
}
HEAD = """\
| database | measured | events | rows purged a second | p95 before | beside | ratio | longest before | beside |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |"""
WARM_UP_SECONDS = 2.0
SEED_ROWS = 1000
MAX_RATIO = 1.2
"""The aim. A greater ratio is bold."""
DAY_US = 86_400_000_000
TEXT = "A text of the size of a recorded change. " * 10
TRACE_ID = {
    "sqlite": "printf('%032x', (span + {count}) / 10)",
    "postgresql": "lpad(to_hex((span + {count}) / 10), 32, '0')",
    "mysql": "lpad(lower(hex((span + {count}) DIV 10)), 32, '0')",
}
"""SQL of the trace of a copied event: ten events have the same."""


def main() -> None:
    """Measure every database, print the table, and write it into the documentation on request."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--database", choices=tuple(DATABASES), action="append", help="default: all")
    parser.add_argument("--rows", type=int, default=1_000_000, help="events, of which half are old")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each of the two turns of a round")
    parser.add_argument("--write", action="store_true", help="write the table into docs/benchmarks.md")
    parser.add_argument("--run", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--purge", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run or options.purge:
        setup()
        run_purge() if options.purge else measure(options.rows, options.rounds, options.seconds)
        return
    results = {}
    for database in options.database or DATABASES:
        environment = {
            **os.environ,
            "SIGNALBOX_TEST_DB": DATABASES[database][0],
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]),
        }
        given = {"--rows": options.rows, "--rounds": options.rounds, "--seconds": options.seconds}
        arguments = [text for name, value in given.items() for text in (name, str(value))]
        found = subprocess.run(
            [sys.executable, __file__, "--run", *arguments],
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        results[database] = json.loads(found.stdout)
        rows = build_rows(results, options)
        if options.write:
            write(ROOT / "docs" / "benchmarks.md", rows)
    print(build_table(rows))


def setup() -> None:
    """Set Django up. PostgreSQL waits for the disk, as by default."""
    import django
    from django.conf import settings

    settings.DATABASES["default"]["OPTIONS"].pop("options", None)
    django.setup()


def measure(rows: int, rounds: int, seconds: float) -> None:
    """Measure one database and print the figures as JSON."""
    from django.test.utils import setup_databases, teardown_databases

    from signalbox.management.output.progress import Progress
    from signalbox.pipeline import exporter

    old = setup_databases(verbosity=0, interactive=False)
    progress = Progress()
    try:
        progress.update("fill", None, f"{rows:,} events")
        fill(rows)
        write_for(WARM_UP_SECONDS)
        found: list[dict[str, float]] = []
        loads = []
        while len(found) < rounds and has_old_events():
            progress.update("measure", None, f"round {len(found) + 1} of {rounds}")
            found.append(measure_round(seconds))
            loads.append(os.getloadavg()[0])
        progress.clear()
        figures = {key: statistics.median(one[key] for one in found) for key in found[0]}
        figures |= {"longest_ms": max(one["longest_ms"] for one in found), "rounds": len(found)}
        figures["load"] = statistics.median(loads)
        print(json.dumps(figures))
    finally:
        exporter.discard_pending()  # they would be written at the end of the process, to tables that were deleted
        teardown_databases(old, verbosity=0)


def measure_round(seconds: float) -> dict[str, float]:
    """Write without a purge, then beside one in another process, which is stopped after ``seconds``."""
    before = write_for(seconds)
    with subprocess.Popen([sys.executable, __file__, "--purge"], stdout=subprocess.PIPE, text=True) as purge:
        assert purge.stdout is not None
        purge.stdout.readline()  # it begins
        beside = write_for(seconds, lambda: purge.poll() is not None)
        purge.send_signal(signal.SIGINT)
        result = json.loads(purge.stdout.readline())
    return {
        "rows_per_second": result["deleted"] / result["seconds"],
        "before_ms": get_p95(before) * 1000,
        "beside_ms": get_p95(beside) * 1000,
        "ratio": get_p95(beside) / get_p95(before),
        "longest_before_ms": max(before) * 1000,
        "longest_ms": max(beside) * 1000,
    }


def run_purge() -> None:
    """Purge the old events until SIGINT arrives. Print a line at the start, and the number of deleted rows."""
    from signalbox.retention.purging import Purge

    purge = Purge("default")
    print("started", flush=True)
    started = time.monotonic()
    with suppress(KeyboardInterrupt):
        purge.delete_before(time.time_ns() // 1000 - 30 * DAY_US, ["post_save"])
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    print(json.dumps({"deleted": sum(purge.deleted.values()), "seconds": time.monotonic() - started}), flush=True)


def has_old_events() -> bool:
    """Return whether a purge would delete something."""
    from signalbox.models import Event

    time_us: int | None = Event._base_manager.order_by("id").values_list("time", flat=True).first()
    return time_us is not None and time_us < time.time_ns() // 1000 - 30 * DAY_US


def fill(rows: int) -> None:
    """Replace the events by ``rows`` new ones, by copies within the database. The first half is 90 days old."""
    from django.db import connection

    from signalbox.models import Event

    table, half = Event._meta.db_table, rows // 2
    changed = ("time", "span", "trace_id")
    names = [connection.ops.quote_name(one.column) for one in Event._meta.fields if one.column not in ("id", *changed)]
    columns = ", ".join([*changed, *names])
    Event._base_manager.all()._raw_delete("default")  # type: ignore[attr-defined]
    old = time.time_ns() // 1000 - 90 * DAY_US
    Event._base_manager.bulk_create(build_event(number, old) for number in range(min(SEED_ROWS, half)))

    def copy(source: str, count: int, later_us: int) -> None:
        trace_id = TRACE_ID[connection.vendor].format(count=count)
        values = ", ".join([f"time + {later_us}", f"span + {count}", trace_id, *names])
        with connection.cursor() as cursor:
            cursor.execute(f"INSERT INTO {table} ({columns}) SELECT {values} FROM {source} ORDER BY id")

    count = min(SEED_ROWS, half)
    while count < half:
        copy(f"{table} WHERE span < {half - count}", count, count)
        count = min(2 * count, half)
    copy(table, half, 89 * DAY_US)
    with connection.cursor() as cursor:
        cursor.execute({"mysql": f"ANALYZE TABLE {table}"}.get(connection.vendor, "ANALYZE"))


def build_event(number: int, time_us: int) -> Any:
    """Return an event as a save of an order records it."""
    from signalbox.models import Event

    return Event(
        time=time_us + number,
        trace_id=f"{number // 10:032x}",
        span=number,
        signal="post_save",
        sender="shop.Order" if number % 3 else "shop.Tag",
        object_key=str(number),
        object_label=f"Order {number}",
        actor_key=str(number % 100),
        actor_label="ann",
        database="default",
        outcome="committed",
        duration=1000,
        errors=0,
        data={"changes": {"note": ["", TEXT]}},
    )


def write_for(seconds: float, has_ended: Callable[[], bool] = lambda: False) -> list[float]:
    """Save objects for ``seconds``, or until ``has_ended()`` returns True; return the seconds of each save."""
    from tests.shop.models import Tag

    found = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not has_ended():
        started = time.perf_counter()
        Tag.objects.create(name="tag")
        found.append(time.perf_counter() - started)
        time.sleep(0.002)
    return found


def get_p95(times: Iterable[float]) -> float:
    """Return the 95th percentile, by the nearest-rank method."""
    ordered = sorted(times)
    return ordered[max(0, -(-95 * len(ordered) // 100) - 1)]


def build_rows(results: dict[str, dict[str, float]], options: argparse.Namespace) -> dict[str, str]:
    """Return a line of the table by the title of a database."""
    rows = {}
    for database, one in results.items():
        ratio = f"{one['ratio']:.2f}"
        measured = (
            f"{time.strftime('%Y-%m-%d')}, {one['rounds']} rounds of {options.seconds:g} s, load {one['load']:.1f}"
        )
        cells = [
            DATABASES[database][1],
            measured,
            f"{options.rows:,}",
            f"{one['rows_per_second']:,.0f}",
            f"{one['before_ms']:.1f} ms",
            f"{one['beside_ms']:.1f} ms",
            ratio if one["ratio"] <= MAX_RATIO else f"**{ratio}**",
            f"{one['longest_before_ms']:.0f} ms",
            f"{one['longest_ms']:.0f} ms",
        ]
        rows[DATABASES[database][1]] = f"| {' | '.join(cells)} |"
    return rows


def build_table(rows: dict[str, str]) -> str:
    """Return the table in Markdown, with the databases in their order."""
    titles = [title for _, title in DATABASES.values()]
    return "\n".join([HEAD, *(rows[title] for title in titles if title in rows)])


def write(path: Path, rows: dict[str, str]) -> None:
    """Replace the lines of the measured databases in the document's table, and keep the others."""
    lines = document_tables.read(path, "purge").splitlines()
    kept = {line.split(" | ")[0].removeprefix("| "): line for line in lines if line.startswith("| ")}
    document_tables.replace(path, "purge", build_table(kept | rows))


if __name__ == "__main__":
    main()
