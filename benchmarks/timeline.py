"""Time the pages over ten million events on PostgreSQL.

    python benchmarks/timeline.py seed [--events 10000000]
    python benchmarks/timeline.py measure [--runs 10] [--write]
    python benchmarks/timeline.py drop

``seed`` creates the database ``signalbox_timeline`` on the server of ``SIGNALBOX_BENCH_POSTGRES`` and fills it by SQL.
An existing one is dropped first. ``measure`` writes recent events, requests pages as a logged-in superuser, then writes
events of the system only, and requests the first page again. It prints milliseconds, and exits with 1 if a median is
over its aim. With ``--write`` it writes the table into docs/benchmarks.md. ``drop`` drops the database.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import django
import psycopg
from django.conf import settings

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from benchmarks import document_tables  # noqa: E402

SERVER = os.environ.get("SIGNALBOX_BENCH_POSTGRES", "postgres://postgres@127.0.0.1:5432/postgres")
NAME = "signalbox_timeline"
BATCH_ROWS = 500_000

FIRST_PAGE_AIM_MS = 100.0
SEARCH_AIM_MS = 2_500.0
"""The budget of a search is 2 seconds. Its last statement and the rest of the page come on top."""

TABLES = ("event", "trace", "error", "delivery", "attempt")
TRACE_EVENTS = 8
SECOND = 1_000_000
EVENT_US = 10_000
"""Microseconds between two events: a hundred a second."""

# A trace of eight events. One trace in ten is of a process, one in fifty of a command, the others are requests.
# One event in 1,000 has an error, one in 100 a delivery.
INSERT_EVENTS = """
INSERT INTO signalbox_event (time, trace_id, span, parent, signal, sender, object_key, object_label, actor_key,
                             actor_label, database, outcome, duration, errors, is_system, data)
SELECT :start + n * 10000,
       CASE WHEN n BETWEEN :huge AND :until THEN repeat('b', 32) ELSE md5((n / 8)::text) END,
       n,
       CASE WHEN n % 8 = 3 THEN n - 1 END,
       CASE n % 8 WHEN 0 THEN 'request_started' WHEN 7 THEN 'request_finished' WHEN 4 THEN 'm2m_changed'
                  WHEN 5 THEN 'shop.signals.order_paid'
                  ELSE CASE n % 3 WHEN 0 THEN 'pre_save' ELSE 'post_save' END END,
       CASE WHEN n % 8 IN (0, 7) THEN 'django.core.handlers.wsgi.WSGIHandler'
            WHEN n % 40 = 19 THEN 'auth.Group' ELSE 'shop.Model' || (n % 40) END,
       CASE WHEN n % 8 IN (0, 7) THEN '' ELSE (n / 8 % 200000)::text END,
       CASE WHEN n % 8 IN (0, 7) THEN '' ELSE 'Order ' || (n / 8 % 200000) END,
       CASE WHEN n / 8 % 10 = 0 THEN '' ELSE (n / 8 % 5000)::text END,
       CASE WHEN n / 8 % 10 = 0 THEN '' ELSE 'user' || (n / 8 % 5000) END,
       CASE WHEN n % 8 IN (0, 5, 7) THEN '' ELSE 'default' END,
       CASE WHEN n % 8 IN (0, 5, 7) THEN 'sent' WHEN n % 997 = 0 THEN 'rolled_back' ELSE 'committed' END,
       n * 7919 % 60000,
       CASE WHEN n % 1000 = 1 THEN 1 ELSE 0 END,
       n / 8 % 10 = 0 AND n NOT BETWEEN :huge AND :until,
       jsonb_build_object(
           'args', jsonb_build_object('created', n % 5 = 0, 'raw', false, 'update_fields', null),
           'changes', jsonb_build_object('name', jsonb_build_array('Order ' || n, 'Order ' || n + 1),
                                         'status', jsonb_build_array('open', 'paid'),
                                         'total', jsonb_build_array(n, n + 1)),
           'transaction', lpad(to_hex(n / 8), 16, '0'),
           'pre_signal_time', :start + n * 10000 - 400,
           'receivers', jsonb_build_array(
               jsonb_build_object('name', 'shop.receivers.update_stock' || n % 50, 'location', 'shop/receivers.py:12',
                                  'start_us', 90, 'duration_us', n % 900,
                                  'error', CASE WHEN n % 1000 = 1 THEN 'TimeoutError: no answer' END),
               jsonb_build_object('name', 'shop.search.index', 'location', 'shop/search.py:40',
                                  'start_us', 1000, 'duration_us', n % 70, 'error', null)))
FROM generate_series(:first::bigint, :last::bigint) n
"""
INSERT_TRACES = """
INSERT INTO signalbox_trace (trace_id, kind, name, actor_key, actor_label, time, duration, status, events, errors,
                             rolled_back, data)
SELECT md5(t::text),
       CASE WHEN t % 10 = 0 THEN 'process' WHEN t % 50 = 1 THEN 'command' ELSE 'request' END,
       CASE WHEN t % 10 = 0 THEN 'gunicorn' WHEN t % 50 = 1 THEN 'import_prices'
            ELSE CASE t % 3 WHEN 0 THEN 'POST' ELSE 'GET' END || ' /orders/' || t || '/' END,
       CASE WHEN t % 10 = 0 THEN '' ELSE (t % 5000)::text END,
       CASE WHEN t % 10 = 0 THEN '' ELSE 'user' || (t % 5000) END,
       :start + t * 80000, 70000,
       CASE WHEN t % 10 = 0 THEN '' WHEN t % 50 = 1 THEN 'ok' WHEN t % 10007 = 0 THEN '500' ELSE '200' END,
       8, CASE WHEN t % 125 = 0 THEN 1 ELSE 0 END, 0,
       jsonb_build_object('path', '/orders/' || t || '/', 'method', 'POST', 'view', 'shop.views.order',
                          'client_address', '127.0.0.1', 'transaction_count', 1, 'transactions', jsonb_build_array(
           jsonb_build_object('id', lpad(to_hex(t), 16, '0'), 'database', 'default', 'outcome', 'committed',
                              'time_us', :start + t * 80000 + 60000, 'events', 5)))
FROM generate_series(:first::bigint, :last::bigint) t
"""
INSERT_ERRORS = """
INSERT INTO signalbox_error (trace_id, span, position, delivery_id, attempt, fingerprint, time, exception, message,
                             file, line, function, receiver, data)
SELECT md5((n / 8)::text), n, 0, NULL, NULL, md5('error' || n / 1000 % 200), :start + n * 10000,
       'builtins.TimeoutError', 'no answer after ' || n % 90 || ' s', 'shop/receivers.py', 12, 'update_stock',
       'shop.receivers.update_stock' || n / 1000 % 50,
       '{"frames": [["shop/receivers.py", 12, "update_stock"], ["shop/stock.py", 30, "reserve"]]}'::jsonb
FROM generate_series(:first::bigint, :last::bigint) e, LATERAL (SELECT e * 1000 + 1 AS n) numbered
"""
INSERT_DELIVERIES = """
INSERT INTO signalbox_delivery (receiver, queue, ordering_key, partition_id, trace_id, span, signal, sender, object_key,
                                database, state, run_at, next_check_at, attempts, created, finished, worker, payload)
SELECT 'shop.receivers.send_invoice' || d % 20, 'default', '', NULL, md5((n / 8)::text), n, 'post_save',
       'shop.Model' || (n % 40), (n / 8 % 200000)::text, 'default',
       CASE WHEN d % 1009 = 0 THEN 'dead' WHEN d > :until THEN 'pending' ELSE 'done' END,
       :start + n * 10000, CASE WHEN d > :until THEN :start + n * 10000 END, 1, :start + n * 10000,
       CASE WHEN d <= :until OR d % 1009 = 0 THEN :start + n * 10000 + 200000 END, 'web1:4242',
       jsonb_build_object('args', jsonb_build_object('created', true), 'instance',
                          jsonb_build_object('model', 'shop.Model' || (n % 40), 'pk', n / 8 % 200000))
FROM generate_series(:first::bigint, :last::bigint) d, LATERAL (SELECT d * 100 + 2 AS n) numbered
"""
INSERT_ATTEMPTS = """
INSERT INTO signalbox_attempt (delivery_id, fencing_token, number, started, ended, outcome, error, worker)
SELECT d + 1, 1, 1, :start + n * 10000 + 100000, :start + n * 10000 + 200000,
       CASE WHEN d % 1009 = 0 THEN 'failed' ELSE 'succeeded' END,
       CASE WHEN d % 1009 = 0 THEN 'TimeoutError: no answer' ELSE '' END, 'web1:4242'
FROM generate_series(:first::bigint, :last::bigint) d, LATERAL (SELECT d * 100 + 2 AS n) numbered
WHERE d <= :until
"""

# What is seldom, and slow where a page reads without bounds: an object of many events, a trace that many requests
# share, and one event of a trace of very many, which seems to run.
INSERT_OBJECT_EVENTS = """
INSERT INTO signalbox_event (time, trace_id, span, parent, signal, sender, object_key, object_label, actor_key,
                             actor_label, database, outcome, duration, errors, is_system, data)
SELECT :start + n, md5('object' || n / 8), n, NULL, 'post_save', 'auth.Group', '4242', 'A long life', '1', 'user1',
       'default', 'committed', 100, 0, false,
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
                             actor_label, database, outcome, duration, errors, is_system, data)
VALUES (:start, repeat(':letter', 32), :start, NULL, 'post_save', 'shop.Model1', '1', 'One', '', '', 'default',
        'committed', 100, 0, false, '{}'::jsonb)
"""

# Traces of processes and tests only: half of the events are in one trace, the others in traces of eight.
INSERT_SYSTEM_EVENTS = """
INSERT INTO signalbox_event (time, trace_id, span, parent, signal, sender, object_key, object_label, actor_key,
                             actor_label, database, outcome, duration, errors, is_system, data)
SELECT :start + n * 10, CASE WHEN n < :number / 2 THEN repeat('e', 32) ELSE md5('system' || n / 8) END,
       2000000000000 + n, NULL, 'post_save', 'shop.Model' || (n % 40), (n % 200000)::text, 'Order ' || n % 200000,
       '', '', 'default', 'committed', 100, 0, true,
       jsonb_build_object('args', jsonb_build_object('created', false, 'raw', false, 'update_fields', null),
                          'transaction', lpad(to_hex(n / 8), 16, '0'),
                          'changes', jsonb_build_object('name', jsonb_build_array('Order ' || n, repeat('x', 200))))
FROM generate_series(0, :number::bigint - 1) n
"""
INSERT_SYSTEM_TRACES = """
INSERT INTO signalbox_trace (trace_id, kind, name, actor_key, actor_label, time, duration, status, events, errors,
                             rolled_back, data)
SELECT CASE WHEN t = 0 THEN repeat('e', 32) ELSE md5('system' || t) END,
       CASE t % 2 WHEN 0 THEN 'process' ELSE 'test' END,
       'import', '', '', :start + t * 80, 70, '', 8, 0, 0, '{}'::jsonb
FROM generate_series(0, :number::bigint / 8) t WHERE t = 0 OR t >= :number / 16
"""
RECENT_EVENTS = 20_000
"""Events that are written before pages are measured, the last of them now: as many as the histogram reads."""

SYSTEM_EVENTS = 300_000
"""Newest events that are all of traces of the system, when the first page is measured again."""


def fill_statement(statement: str, **values: object) -> str:
    """Return a statement with its values; they are numbers of this program's own."""
    for name, value in sorted(values.items(), reverse=True):
        statement = statement.replace(f":{name}", str(value))
    return statement


def configure() -> None:
    """Make this process a site with the pages and the admin on that database."""
    address = urlsplit(SERVER)
    settings.configure(
        SECRET_KEY="a benchmark's",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF="timeline",
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

    from signalbox.dashboard.health_probe import probe

    return [
        path("admin/", admin.site.urls),
        path("signalbox/", include("signalbox.urls")),
        path("probe/", probe),
    ]


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
    start = time.time_ns() // 1000 - events * EVENT_US
    bounds = {"start": start, "huge": events * 4 // 10, "until": events // 2 - 1}
    deliveries = {**bounds, "until": events // 100 - 20}
    with connection.cursor() as cursor:
        cursor.execute("SET maintenance_work_mem = '512MB'")
        for table, statement, number, values in (
            ("event", INSERT_EVENTS, events, bounds),
            ("trace", INSERT_TRACES, events // TRACE_EVENTS, bounds),
            ("error", INSERT_ERRORS, events // 1000, bounds),
            ("delivery", INSERT_DELIVERIES, events // 100, deliveries),
            ("attempt", INSERT_ATTEMPTS, events // 100, deliveries),
        ):
            # It can be filled again after a crash of the server.
            cursor.execute(f"ALTER TABLE signalbox_{table} SET UNLOGGED")
            indexes = _drop_indexes(cursor, table)
            for first in range(0, number, BATCH_ROWS):
                last = min(first + BATCH_ROWS, number) - 1
                cursor.execute(fill_statement(statement, first=first, last=last, **values))
                print(f"\r{table}: {last + 1:>11,} rows, {time.monotonic() - started:5.0f} s", end="", flush=True)
            extra = {"event": (INSERT_OBJECT_EVENTS, 300), "trace": (INSERT_SHARED_TRACE, 200)}.get(table)
            if extra is not None:
                cursor.execute(fill_statement(extra[0], start=start, number=events // extra[1]))
            for definition in indexes:
                cursor.execute(definition)
            cursor.execute(f"VACUUM (ANALYZE) signalbox_{table}")
            print(f", indexed {time.monotonic() - started:5.0f} s", flush=True)


def _drop_indexes(cursor: Any, table: str) -> list[str]:
    """Drop the indexes of a table without constraints; return the statements that make them again."""
    cursor.execute(
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = %s AND indexdef NOT LIKE 'CREATE UNIQUE%%'",
        [f"signalbox_{table}"],
    )
    found = cursor.fetchall()
    for name, _ in found:
        cursor.execute(f'DROP INDEX "{name}"')
    return [definition for _, definition in found]


def write_recent_events() -> None:
    """Write the events of the last minutes, and one each of the shared trace and of the huge one."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT max(span) / 8 * 8 + 8 FROM signalbox_event WHERE span < 1000000000000")
        first = cursor.fetchone()[0]
        last = first + RECENT_EVENTS - 1
        start = time.time_ns() // 1000 - last * EVENT_US
        cursor.execute(fill_statement(INSERT_EVENTS, first=first, last=last, start=start, huge=-2, until=-1))
        cursor.execute(fill_statement(INSERT_TRACES, first=first // 8, last=last // 8, start=start))
        for letter in "bc":
            cursor.execute(fill_statement(INSERT_ONE_EVENT, start=time.time_ns() // 1000, letter=letter))
        cursor.execute("ANALYZE signalbox_event, signalbox_trace")


def write_system_events() -> None:
    """Write ``SYSTEM_EVENTS`` events of the system only."""
    from django.db import connection

    with connection.cursor() as cursor:
        start = time.time_ns() // 1000 - SYSTEM_EVENTS * 10
        for statement in (INSERT_SYSTEM_EVENTS, INSERT_SYSTEM_TRACES):
            cursor.execute(fill_statement(statement, start=start, number=SYSTEM_EVENTS))
        cursor.execute("ANALYZE signalbox_event, signalbox_trace")


def delete_system_events() -> None:
    """Delete what an earlier ``measure`` wrote with ``write_system_events()``."""
    from django.db import connection

    with connection.cursor() as cursor:
        for table in ("event", "trace"):
            cursor.execute(f"SELECT min(id) FROM signalbox_{table} WHERE trace_id = repeat('e', 32)")
            (first,) = cursor.fetchone()
            if first is not None:
                cursor.execute(f"DELETE FROM signalbox_{table} WHERE id >= {first}")
                cursor.execute(f"VACUUM (ANALYZE) signalbox_{table}")


class Page(NamedTuple):
    """An address that is requested."""

    name: str
    address: str
    aim_ms: float | None = None
    """The longest median."""


def list_searches(key: int) -> list[Page]:
    """Return the pages of the timeline. ``key`` is that of the newest event."""
    from signalbox.models import Event

    root = "/signalbox/"
    middle = Event.objects.filter(id__gte=key // 3).order_by("id")[0].timestamp.isoformat()
    filters = (
        "signal:shop.signals.order_paid",
        "signal:class_prepared",
        "model:shop.Model11",
        "object:shop.Model11:76",
        "actor:77",
        "actor:user77",
        "actor:nobody",
        "outcome:rolled_back",
        "error:*",
        "error:TimeoutError",
        "error:KeyError",
        "took>50ms",
        "took>1s",
        "path:/orders/*",
        "path:/nowhere",
        "status:500",
        "kind:command",
        "receiver:shop.receivers.update_stock7",
        "receiver:nowhere",
        "group:custom",
        "order",
        "nowhere",
        f"until:{middle}",
    )
    older = [
        Page("second page", f"{root}?before={key - 400}", FIRST_PAGE_AIM_MS),
        Page("older, from the middle", f"{root}?before={key // 3}", FIRST_PAGE_AIM_MS),
        Page("older, within a trace of a tenth of all events", f"{root}?before={key * 9 // 20}", SEARCH_AIM_MS),
        Page("*Show system*", f"{root}?system=1", FIRST_PAGE_AIM_MS),
    ]
    return older + [Page(f"`{text}`", f"{root}?q={quote(text)}", SEARCH_AIM_MS) for text in filters]


def list_other_pages(key: int, trace_id: str) -> list[Page]:
    """Return the pages besides the timeline. ``key`` is that of the newest event, and ``trace_id`` of its trace."""
    from signalbox.models import Delivery, Event, Trace
    from signalbox.queries import live_updates

    last_trace = Trace.objects.order_by("-id").values_list("id", flat=True)[0]
    end = live_updates.Position.at_end()
    group = (
        Event.objects.filter(sender="auth.Group", id__lt=key // 2).order_by("-id").values_list("object_key", flat=True)
    )
    first_of_life = Event.objects.filter(sender="auth.Group", object_key="4242").order_by("id")[0].id
    shared, huge = "c" * 32, "b" * 32
    root, fingerprint = "/signalbox/", hashlib.md5(b"error7", usedforsecurity=False).hexdigest()
    return [
        Page("idle poll", f"{root}live/?position={end}"),
        Page("poll with 20 new traces", f"{root}live/?position={end.event_id - 160}.{last_trace}"),
        Page("poll with 20 new traces, `order`", f"{root}live/?position={end.event_id - 160}.{last_trace}&q=order"),
        Page("poll that is far behind", f"{root}live/?position={end.event_id - 1_000_000}.{last_trace - 100_000}"),
        Page("histogram", f"{root}histogram/"),
        Page("histogram, `order`", f"{root}histogram/?q=order"),
        Page("suggestions", f"{root}suggestions/"),
        Page("trace", f"{root}trace/{trace_id}/"),
        Page("trace of a tenth of all events", f"{root}trace/{huge}/"),
        Page("trace that many requests share", f"{root}trace/{shared}/"),
        Page("event", f"{root}event/{key}/"),
        Page("object", f"{root}object/?sender=auth.Group&key={group[0]}"),
        Page("object with one of 300 events", f"{root}object/?sender=auth.Group&key=4242"),
        Page("the same, at its beginning", f"{root}object/?sender=auth.Group&key=4242&before={first_of_life + 50}"),
        Page("errors", f"{root}errors/"),
        Page("one error", f"{root}errors/{fingerprint}/"),
        Page("deliveries", f"{root}deliveries/"),
        Page("deliveries, done", f"{root}deliveries/?state=done"),
        Page("deliveries of a receiver", f"{root}deliveries/?receiver=shop.receivers.send_invoice7"),
        Page("delivery", f"{root}deliveries/{Delivery.objects.earliest('id').id}/"),
        Page("receiver", f"{root}receiver/?name=shop.receivers.update_stock7"),
        Page("signal", f"{root}signal/?name=post_save"),
        Page("map", f"{root}map/"),
        Page("status", f"{root}health/"),
        Page("probe", "/probe/"),
        Page("admin: events", "/admin/signalbox/event/"),
        Page("admin: events rolled back", "/admin/signalbox/event/?outcome=rolled_back"),
        Page("admin: events of a trace", f"/admin/signalbox/event/?q={trace_id}"),
        Page("admin: traces", "/admin/signalbox/trace/"),
        Page("admin: a trace", f"/admin/signalbox/trace/?q={trace_id}"),
    ]


class Measurement(NamedTuple):
    """The times of one page, in milliseconds."""

    page: Page
    median_ms: float
    shortest_ms: float
    processor_ms: float
    """Mean processor time of a request, in this process and in that of the database."""
    statements: int
    """Number of SQL statements of one request."""
    is_cut_off: bool
    """Whether the page says where its search stopped."""

    @property
    def is_met(self) -> bool:
        """Whether the median is within the aim, if there is one."""
        return self.page.aim_ms is None or self.median_ms < self.page.aim_ms


def measure(runs: int, *, write: bool) -> int:
    """Print how long each page takes; return the exit code."""
    from django.contrib.auth import get_user_model
    from django.db import connection
    from django.test import Client

    from signalbox.dashboard import health_probe
    from signalbox.models import Event

    health_probe.CACHE_SECONDS = 0.0  # type: ignore[misc]
    delete_system_events()
    write_recent_events()
    user: Any = get_user_model()
    client = Client()
    client.force_login(user.objects.filter(username="bench").first() or user.objects.create_superuser("bench"))
    newest = Event.objects.filter(signal="request_finished", sender="django.core.handlers.wsgi.WSGIHandler")
    key, trace_id = newest.order_by("-id").values_list("id", "trace_id")[0]
    first = Page("first page", "/signalbox/", FIRST_PAGE_AIM_MS)
    pages = [first, *list_searches(key), *list_other_pages(key, trace_id)]
    found = [measure_page(client, page, runs) for page in pages]
    write_system_events()
    name = f"first page, the newest {SYSTEM_EVENTS:,} events are of the system"
    found.append(measure_page(client, first._replace(name=name), runs))
    found.append(measure_page(client, Page("the same, *Show system*", "/signalbox/?system=1", FIRST_PAGE_AIM_MS), runs))
    with connection.cursor() as cursor:
        cursor.execute("SELECT reltuples FROM pg_class WHERE relname = 'signalbox_event'")
        events = round(cursor.fetchone()[0], -5)
        sizes = []
        for expression in ("pg_table_size('signalbox_event')", "pg_indexes_size('signalbox_event')"):
            cursor.execute(f"SELECT {expression} / (SELECT reltuples FROM pg_class WHERE relname = 'signalbox_event')")
            sizes.append(cursor.fetchone()[0])
        version = f"PostgreSQL {connection.pg_version // 10000}"
    text = build_table(
        found,
        f"Measured on {time.strftime('%Y-%m-%d')}: {events:,.0f} events, {sizes[0]:.0f} bytes of each in the table and "
        f"{sizes[1]:.0f} in its indexes; {version}, Django {django.get_version()}, {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f} at the end; {runs} requests of each page.",
    )
    print(text)
    if write:
        document_tables.replace(ROOT / "docs" / "benchmarks.md", "timeline", text)
    return int(not all(one.is_met for one in found))


def measure_page(client: Any, page: Page, runs: int) -> Measurement:
    """Request a page once to warm up, and then ``runs`` times."""
    from django.db import connection

    statements: list[str] = []

    def count(execute: Any, sql: str, *rest: Any) -> Any:
        statements.append(sql)
        return execute(sql, *rest)

    with connection.execute_wrapper(count):
        answer = client.get(page.address)
    if answer.status_code not in (200, 204) and page.name != "probe":  # without a worker, deliveries are late
        raise SystemExit(f"{page.address} answered {answer.status_code}.")
    times = []
    used = get_processor_ms()
    for _ in range(runs):
        started = time.perf_counter()
        client.get(page.address)
        times.append((time.perf_counter() - started) * 1000)
    used = (get_processor_ms() - used) / runs
    is_cut_off = b"search-paused" in answer.content
    found = Measurement(page, statistics.median(times), min(times), used, len(statements), is_cut_off)
    note = f"{'stopped' if is_cut_off else '':8}{'' if found.is_met else 'MISSED'}"
    print(
        f"{page.name:<60}{found.median_ms:>9.1f}{found.shortest_ms:>9.1f}{used:>7.0f} ms {note}",
        file=sys.stderr,
        flush=True,
    )
    return found


def get_processor_ms() -> float:
    """Return the processor time of this process, and of the database's for its connection if it is on this machine."""
    from django.db import connection

    found = time.process_time() * 1000
    stat = Path(f"/proc/{connection.connection.info.backend_pid}/stat")
    if urlsplit(SERVER).hostname in ("127.0.0.1", "localhost") and stat.exists():
        user, system = stat.read_text().rpartition(")")[2].split()[11:13]
        found += (int(user) + int(system)) * 1000 / os.sysconf("SC_CLK_TCK")
    return found


def build_table(measurements: Iterable[Measurement], head: str) -> str:
    """Return the table in Markdown, below ``head``. A median over its aim is bold."""
    lines = [
        head,
        "",
        "| page | median, ms | shortest | processor | statements | search |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for one in measurements:
        median = f"{one.median_ms:,.1f}" if one.is_met else f"**{one.median_ms:,.1f}**"
        stopped = "stopped" if one.is_cut_off else ""
        times = f"{median} | {one.shortest_ms:,.1f} | {one.processor_ms:,.0f}"
        lines.append(f"| {one.page.name} | {times} | {one.statements} | {stopped} |")
    return "\n".join(lines)


def main() -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("seed").add_argument("--events", type=int, default=10_000_000)
    measured = commands.add_parser("measure")
    measured.add_argument("--runs", type=int, default=10)
    measured.add_argument("--write", action="store_true", help="write the table into docs/benchmarks.md")
    commands.add_parser("drop")
    options = parser.parse_args()
    if options.command == "drop":
        execute_on_server(f'DROP DATABASE IF EXISTS "{NAME}"')
        return 0
    configure()
    if options.command == "measure":
        return measure(options.runs, write=options.write)
    create_database(options.events)
    return 0


if __name__ == "__main__":
    sys.modules["timeline"] = sys.modules["__main__"]
    sys.exit(main())
