"""Time the page over a register of ten million events on PostgreSQL.

    python benchmarks/page.py seed [--events 10000000]
    python benchmarks/page.py measure [--runs 40]

``seed`` makes the database ``signalbox_page`` anew on the server of ``SIGNALBOX_BENCH_POSTGRES`` and fills it in SQL;
``measure`` writes some events that have just happened, asks for pages, as staff who have logged in, and prints
milliseconds. It exits with 1 where the slowest of twenty first pages takes 100 ms or more. ``drop`` takes the database
away again.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import django
import psycopg
from django.conf import settings

SERVER = os.environ.get("SIGNALBOX_BENCH_POSTGRES", "postgres://postgres@127.0.0.1:5432/postgres")
NAME = "signalbox_page"
LIMIT_MS = 100.0
BATCH_SIZE = 500_000

SELECT_INDEXES = (
    "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = '{table}' AND indexname NOT LIKE '%_pkey'"
)

# A request of some eight events, a hundred a second; one event in ten is of a rare kind.
INSERT_EVENTS = """
INSERT INTO signalbox_event (time, trace_id, span, parent, signal, sender, object_key, object_label, actor_key,
                             actor_label, database, outcome, duration, errors, data)
SELECT :start + n * 10000,
       CASE WHEN n BETWEEN :huge AND :huge_end THEN repeat('b', 32) ELSE md5((n / 8)::text) END,
       n,
       CASE WHEN n % 8 = 3 THEN n - 1 END,
       CASE n % 8 WHEN 0 THEN 'request_started' WHEN 7 THEN 'request_finished' WHEN 4 THEN 'm2m_changed'
                  WHEN 5 THEN 'shop.signals.order_paid'
                  ELSE CASE n % 3 WHEN 0 THEN 'pre_save' ELSE 'post_save' END END,
       CASE WHEN n % 8 IN (0, 7) THEN 'django.core.handlers.wsgi.WSGIHandler'
            WHEN n % 40 = 19 THEN 'auth.Group' ELSE 'shop.Model' || (n % 40) END,
       CASE WHEN n % 8 IN (0, 7) THEN '' ELSE (n / 8 % 200000)::text END,
       CASE WHEN n % 8 IN (0, 7) THEN '' ELSE 'Order ' || (n / 8 % 200000) END,
       (n / 8 % 5000)::text,
       'user' || (n / 8 % 5000),
       CASE WHEN n % 8 IN (0, 5, 7) THEN '' ELSE 'default' END,
       CASE WHEN n % 8 IN (0, 5, 7) THEN 'sent' WHEN n % 997 = 0 THEN 'rolled_back' ELSE 'committed' END,
       n % 5000,
       CASE WHEN n % 100003 = 0 THEN 1 ELSE 0 END,
       jsonb_build_object(
           'args', jsonb_build_object('created', n % 5 = 0, 'raw', false, 'update_fields', null),
           'changes', jsonb_build_object('name', jsonb_build_array('Group ' || n, 'Group ' || n + 1),
                                         'status', jsonb_build_array('open', 'paid'),
                                         'total', jsonb_build_array(n, n + 1)),
           'receivers', jsonb_build_array(jsonb_build_object('name', 'shop.signals.receiver' || n % 50,
                                          'location', 'shop/signals.py:12', 'duration_us', n % 900, 'error', null)))
FROM generate_series(:first::bigint, :last::bigint) n
"""
INSERT_TRACES = """
INSERT INTO signalbox_trace (trace_id, kind, name, actor_key, actor_label, time, duration, status, events, errors,
                             rolled_back, data)
SELECT md5(t::text),
       CASE WHEN t % 50 = 0 THEN 'command' ELSE 'request' END,
       CASE WHEN t % 50 = 0 THEN 'import_prices' ELSE 'POST /orders/' || t || '/' END,
       (t % 5000)::text, 'user' || (t % 5000), :start + t * 80000, 70000,
       CASE WHEN t % 10007 = 0 THEN '500' ELSE '200' END, 8, 0, 0,
       '{"path": "/orders/", "method": "POST"}'::jsonb
FROM generate_series(:first::bigint, :last::bigint) t
"""

# What is seldom, and slow where a page reads without bounds: an object of many events, a trace that many requests
# share, and one event of a trace of very many, which seems to run.
INSERT_OBJECT_EVENTS = """
INSERT INTO signalbox_event (time, trace_id, span, parent, signal, sender, object_key, object_label, actor_key,
                             actor_label, database, outcome, duration, errors, data)
SELECT :start + n, md5('object' || n / 8), n, NULL, 'post_save', 'auth.Group', '4242', 'A long life', '1', 'user1',
       'default', 'committed', 100, 0,
       jsonb_build_object('args', jsonb_build_object('created', false),
                          'changes', jsonb_build_object('name', jsonb_build_array(n::text, (n + 1)::text)))
FROM generate_series(1, :number::bigint) n
"""
INSERT_SHARED_TRACE = """
INSERT INTO signalbox_trace (trace_id, kind, name, actor_key, actor_label, time, duration, status, events, errors,
                             rolled_back, data)
SELECT repeat('c', 32), 'request', 'GET /shared/' || t, '', '', :start + t, 100, '200', 1, 0, 0,
       '{"path": "/shared/", "method": "GET", "view": "shop.views.shared", "client_address": "127.0.0.1"}'::jsonb
FROM generate_series(1, :number::bigint) t
"""
INSERT_ONE_EVENT = """
INSERT INTO signalbox_event (time, trace_id, span, parent, signal, sender, object_key, object_label, actor_key,
                             actor_label, database, outcome, duration, errors, data)
VALUES (:start, repeat(':letter', 32), :start, NULL, 'post_save', 'shop.Model1', '1', 'One', '', '', 'default',
        'committed', 100, 0, '{}'::jsonb)
"""
RECENT_EVENTS = 20_000
"""Events that are written before pages are measured, the last of them now: as many as the histogram reads."""


def fill_statement(statement: str, **values: object) -> str:
    """Return a statement with its values; they are numbers of this program's own."""
    for name, value in sorted(values.items(), reverse=True):
        statement = statement.replace(f":{name}", str(value))
    return statement


def configure() -> None:
    """Make this process a site with the page and the admin on that database."""
    address = urlsplit(SERVER)
    settings.configure(
        SECRET_KEY="a benchmark's",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF="page",
        USE_TZ=True,
        STATIC_URL="static/",
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
        INSTALLED_APPS=[
            "signalbox",
            *(
                f"django.contrib.{name}"
                for name in ("admin", "auth", "contenttypes", "sessions", "messages", "staticfiles")
            ),
        ],
        MIDDLEWARE=[
            "signalbox.middleware.TraceMiddleware",
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django.contrib.messages.middleware.MessageMiddleware",
        ],
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "APP_DIRS": True,
                "OPTIONS": {
                    "context_processors": [
                        "django.template.context_processors.request",
                        "django.contrib.auth.context_processors.auth",
                        "django.contrib.messages.context_processors.messages",
                    ]
                },
            }
        ],
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": NAME,
                "HOST": address.hostname or "",
                "PORT": address.port or "",
                "USER": address.username or "",
                "PASSWORD": address.password or "",
                "CONN_MAX_AGE": None,
            }
        },
    )
    django.setup()


def __getattr__(name: str) -> Any:
    """Give the addresses when they are asked for: this module is the root of them too."""
    if name != "urlpatterns":
        raise AttributeError(name)
    from django.contrib import admin
    from django.urls import include, path

    return [path("admin/", admin.site.urls), path("signalbox/", include("signalbox.urls"))]


def execute_on_server(statement: str) -> None:
    """Run a statement on the server, outside of the benchmark's database."""
    with psycopg.connect(SERVER, autocommit=True) as connection:
        connection.execute(statement.encode())


def create_database(events: int) -> None:
    """Make the database and fill it; indexes are made when the rows are there."""
    from django.core.management import call_command
    from django.db import connection

    execute_on_server(f'DROP DATABASE IF EXISTS "{NAME}"')
    execute_on_server(f'CREATE DATABASE "{NAME}"')
    call_command("migrate", verbosity=0)
    started = time.monotonic()
    with connection.cursor() as cursor:
        cursor.execute("SET synchronous_commit = off")
        cursor.execute("TRUNCATE signalbox_event, signalbox_trace RESTART IDENTITY")
        start = time.time_ns() // 1000 - events * 10_000
        huge = {"huge": events * 4 // 10, "huge_end": events // 2 - 1}
        for table, statement, number in (("event", INSERT_EVENTS, events), ("trace", INSERT_TRACES, events // 8)):
            cursor.execute(SELECT_INDEXES.format(table=f"signalbox_{table}"))
            indexes = cursor.fetchall()
            for index, _ in indexes:
                cursor.execute(f'DROP INDEX "{index}"')
            for first in range(0, number, BATCH_SIZE):
                last = min(first + BATCH_SIZE, number) - 1
                cursor.execute(fill_statement(statement, first=first, last=last, start=start, **huge))
                print(f"\r{table}s {last + 1:>11,}  {time.monotonic() - started:5.0f} s", end="", flush=True)
            extra = INSERT_OBJECT_EVENTS if table == "event" else INSERT_SHARED_TRACE
            cursor.execute(fill_statement(extra, start=start, number=events // (300 if table == "event" else 200)))
            cursor.execute("SET maintenance_work_mem = '512MB'")
            for _, definition in indexes:
                cursor.execute(definition)
            print(f"  indexed {time.monotonic() - started:5.0f} s")
        cursor.execute("VACUUM (ANALYZE) signalbox_event")
        cursor.execute("VACUUM (ANALYZE) signalbox_trace")
        cursor.execute("SELECT pg_size_pretty(pg_total_relation_size('signalbox_event'))")
        print(f"{events:,} events: {cursor.fetchone()[0]}, {time.monotonic() - started:.0f} s")


def write_recent_events() -> None:
    """Write the events of the last minutes, and one each of the shared trace and of the huge one."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT max(span) / 8 * 8 + 8 FROM signalbox_event WHERE span < 1000000000000")
        first = cursor.fetchone()[0]
        last = first + RECENT_EVENTS - 1
        start = time.time_ns() // 1000 - last * 10_000
        cursor.execute(fill_statement(INSERT_EVENTS, first=first, last=last, start=start, huge=-2, huge_end=-1))
        cursor.execute(fill_statement(INSERT_TRACES, first=first // 8, last=last // 8, start=start))
        for letter in "bc":
            cursor.execute(fill_statement(INSERT_ONE_EVENT, start=time.time_ns() // 1000, letter=letter))
        cursor.execute("ANALYZE signalbox_event, signalbox_trace")


def get_page_urls() -> dict[str, str]:
    """Return what is asked for, by name; the first is what the limit is about."""
    from signalbox.models import Event, Trace
    from signalbox.queries import timeline

    newest = Event.objects.order_by("-id").filter(signal="request_finished").first()
    assert newest is not None
    key, trace_id = newest.id, newest.trace_id
    middle = Event.objects.filter(id__gte=key // 3).order_by("id")[0].at.isoformat()
    last_trace = Trace.objects.order_by("-id").values_list("id", flat=True)[0]
    end = timeline.Position.at_end()
    group = (
        Event.objects.filter(sender="auth.Group", id__lt=key // 2).order_by("-id").values_list("object_key", flat=True)
    )
    life = Event.objects.filter(sender="auth.Group", object_key="4242").order_by("id")
    first_of_life = life.values_list("id", flat=True)[0]
    shared, huge = "c" * 32, "b" * 32
    root = "/signalbox/"
    return {
        "first page": root,
        "older, from the middle": f"{root}?before={key // 3}",
        "older, within a huge trace": f"{root}?before={key * 9 // 20}",
        "signal": f"{root}?signal=shop.signals.order_paid",
        "signal that is not there": f"{root}?signal=class_prepared",
        "group": f"{root}?group=custom",
        "sender": f"{root}?sender=shop.Model11",
        "object": f"{root}?object=shop.Model11:76",
        "actor": f"{root}?actor=77",
        "outcome": f"{root}?outcome=rolled_back",
        "errors (1 in 100,003)": f"{root}?outcome=errors",
        "kind": f"{root}?kind=command",
        "status (1 in 10,007)": f"{root}?status=5xx",
        "text": f"{root}?text=order+1999",
        "text that is not there": f"{root}?text=nowhere",
        "text, within a huge trace": f"{root}?text=order+1999&before={key * 9 // 20}",
        "time range in the middle": f"{root}?until={middle.replace('+', '%2B')}",
        "idle poll": f"{root}live/?position={end}",
        "poll with 20 new traces": f"{root}live/?position={end.event_id - 160}.{last_trace}",
        "poll with 20 new, filtered": f"{root}live/?position={end.event_id - 160}.{last_trace}&text=order",
        "poll that is far behind": f"{root}live/?position={end.event_id - 1_000_000}.{last_trace - 100_000}",
        "paused, far behind": f"{root}live/?count=1&position={end.event_id - 1_000_000}.{last_trace - 100_000}",
        "histogram": f"{root}histogram/",
        "histogram, filtered by text": f"{root}histogram/?text=order",
        "suggestions": f"{root}suggestions/",
        "trace": f"{root}trace/{trace_id}/",
        "trace of a million events": f"{root}trace/{huge}/",
        "trace shared by 50,000": f"{root}trace/{shared}/",
        "tree of a million events": f"{root}trace/{huge}/tree/",
        "event": f"{root}event/{key}/",
        "event of a shared trace": f"{root}event/{Event.objects.filter(trace_id=shared)[0].id}/",
        "object's history": f"{root}object/?sender=auth.Group&key={group[0]}",
        "object of 33,000 events": f"{root}object/?sender=auth.Group&key=4242",
        "the same, at its beginning": f"{root}object/?sender=auth.Group&key=4242&before={first_of_life + 50}",
        "object, model not installed": f"{root}object/?sender=shop.Model11&key=76",
        "map": f"{root}map/",
        "admin: events": "/admin/signalbox/event/",
        "admin: events rolled back": "/admin/signalbox/event/?outcome=rolled_back",
        "admin: events of a trace": f"/admin/signalbox/event/?q={trace_id}",
        "admin: traces": "/admin/signalbox/trace/",
        "admin: a trace": f"/admin/signalbox/trace/?q={trace_id}",
    }


def measure_pages(runs: int) -> int:
    """Print how long each page takes; return the exit code."""
    from django.contrib.auth import get_user_model
    from django.db import connection
    from django.test import Client

    user: Any = get_user_model()
    client = Client()
    write_recent_events()
    client.force_login(user.objects.filter(username="bench").first() or user.objects.create_superuser("bench"))
    first = 0.0
    print(f"{'page':<30}{'median':>9}{'p95':>9}{'longest':>9}{'queries':>9}   ms")
    for name, address in get_page_urls().items():
        statements: list[str] = []

        def count(execute: Any, sql: str, *rest: Any, statements: list[str] = statements) -> Any:
            statements.append(sql)
            return execute(sql, *rest)

        with connection.execute_wrapper(count):
            answer = client.get(address)
            assert answer.status_code in (200, 204), f"{address} answered {answer.status_code}"
        times = sorted(time_call_ms(lambda address=address: client.get(address)) for _ in range(runs))  # type: ignore[misc]
        p95 = times[min(len(times) - 1, len(times) * 95 // 100)]
        first = first or p95
        print(f"{name:<30}{times[len(times) // 2]:>9.1f}{p95:>9.1f}{times[-1]:>9.1f}{len(statements):>9}")
    print(f"p95 of the first page: {first:.1f} ms; {LIMIT_MS:.0f} ms is the limit")
    return int(first >= LIMIT_MS)


def time_call_ms(call: Callable[[], object]) -> float:
    """Return the milliseconds that ``call`` takes."""
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1000


def main() -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(description="Time the page over millions of events.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("seed").add_argument("--events", type=int, default=10_000_000)
    commands.add_parser("measure").add_argument("--runs", type=int, default=40)
    commands.add_parser("drop")
    options = parser.parse_args()
    if options.command == "drop":
        execute_on_server(f'DROP DATABASE IF EXISTS "{NAME}"')
        return 0
    configure()
    if options.command == "measure":
        return measure_pages(options.runs)
    create_database(options.events)
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))
    sys.modules["page"] = sys.modules["__main__"]
    sys.exit(main())
