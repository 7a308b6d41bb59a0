"""Measures what the metrics and the spans add to a save with two receivers, on SQLite in memory.

Each configuration is a process of its own. They take turns, in another order in each round. A figure is the processor
time of a save in a transaction of 100; the table has the medians of the rounds, and of the rounds' ratios.

    python benchmarks/telemetry.py [--rounds N] [--write]

`--write` writes the table of docs/observability.md.
"""

from __future__ import annotations

import argparse
import datetime as dt
import platform
import random
import subprocess
import sys
from pathlib import Path
from statistics import median
from time import thread_time

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from benchmarks import document_tables  # noqa: E402

PAGE = ROOT / "docs" / "observability.md"

PROMETHEUS, OPENTELEMETRY = "signalbox.contrib.prometheus", "signalbox.contrib.opentelemetry"
CONFIGURATIONS: dict[str, tuple[tuple[str, ...], bool]] = {
    "Signalbox only": ((), False),
    "metrics": ((PROMETHEUS,), False),
    "trace ids": ((OPENTELEMETRY,), False),
    "trace ids and `SEND_SPANS`": ((OPENTELEMETRY,), True),
}
"""The apps of each configuration, and whether each send has a span."""
SAVES = 100


def serve(name: str) -> None:
    """Set up the site of a configuration. Then print the seconds of a save for each line of the standard input."""
    import django
    from django.conf import settings

    apps, send_spans = CONFIGURATIONS[name]
    settings.configure(
        SECRET_KEY="a benchmark's",
        USE_TZ=True,
        INSTALLED_APPS=["signalbox", *apps, "django.contrib.contenttypes", "django.contrib.auth"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        SIGNALBOX={"RECORD": "audit", "SEND_SPANS": send_spans},
    )
    if send_spans:
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        trace.set_tracer_provider(provider)
    django.setup()
    from django.contrib.auth.models import Group
    from django.core.management import call_command
    from django.db import transaction
    from django.db.models.signals import post_save

    from signalbox.models import Event

    call_command("migrate", verbosity=0)
    receivers = [lambda **named: None for _ in range(2)]
    for receiver in receivers:
        post_save.connect(receiver, sender=Group)
    number = 0
    for _ in sys.stdin:
        started = thread_time()
        with transaction.atomic():
            for _ in range(SAVES):
                number += 1
                Group.objects.create(name=f"group {number}")
        seconds = (thread_time() - started) / SAVES
        if send_spans:
            if len(exporter.get_finished_spans()) < 3 * SAVES:
                raise ValueError("Each save has three spans: one of the send, and one of each receiver.")
            exporter.clear()
        written = Event.objects.filter(signal="post_save", sender="auth.Group").count()
        if written != number:
            raise ValueError(f"{written} events were written, {number} were expected.")
        print(seconds, flush=True)


def measure(rounds: int) -> dict[str, list[float]]:
    """Return the seconds of a save in each round, by configuration."""
    sites = {
        name: subprocess.Popen(
            [sys.executable, __file__, "--serve", name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for name in CONFIGURATIONS
    }
    found: dict[str, list[float]] = {name: [] for name in CONFIGURATIONS}
    for number in range(rounds + 1):
        for name in random.sample(list(sites), len(sites)):
            site = sites[name]
            if site.stdin is None or site.stdout is None:
                raise ValueError("The processes have pipes.")
            site.stdin.write("\n")
            site.stdin.flush()
            line = site.stdout.readline()
            if not line:
                raise SystemExit(f"The site with {name} has ended; its error is above.")
            if number:  # the first round warms up
                found[name].append(float(line))
        print(f"\rround {number} of {rounds}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    for site in sites.values():
        site.communicate()
    return found


def build_table(found: dict[str, list[float]]) -> str:
    """Return the table in Markdown, with the date and the versions."""
    import django
    import opentelemetry.sdk.version
    import prometheus_client  # noqa: F401 - the sites need it

    base = found[next(iter(CONFIGURATIONS))]
    rows = [
        f"| {name} | {median(seconds) * 1e6:,.0f} µs | "
        f"{median(one / other for one, other in zip(seconds, base, strict=True)):.2f} |"
        for name, seconds in found.items()
    ]
    today = dt.datetime.now(dt.UTC).date()
    head = (
        f"Measured on {today}: Python {platform.python_version()}, Django {django.get_version()}, "
        f"OpenTelemetry SDK {opentelemetry.sdk.version.__version__}, {len(base)} rounds."
    )
    return "\n".join([head, "", "| apps | processor time of a save | ratio |", "| --- | --- | --- |", *rows])


def main() -> None:
    """Measure, and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40, metavar="N")
    parser.add_argument("--write", action="store_true", help="write the table of docs/observability.md")
    parser.add_argument("--serve", choices=CONFIGURATIONS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    table = build_table(measure(options.rounds))
    print(table)
    if options.write:
        document_tables.replace(PAGE, "telemetry", table)


if __name__ == "__main__":
    main()
