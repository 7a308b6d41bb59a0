from __future__ import annotations

import contextvars
import io
import os
import sqlite3
import subprocess
import sys
import unittest
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from django.core.handlers.wsgi import WSGIHandler, WSGIRequest
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.core.signals import request_finished
from django.db import connection
from django.db.backends.signals import connection_created
from django.dispatch import Signal
from django.http import HttpRequest, HttpResponse
from django.test import SimpleTestCase, override_settings
from django.urls import path

import signalbox
from signalbox.core import naming, tracing
from signalbox.instrumentation import requests, signals, test_runs
from signalbox.models import Event, Trace
from tests.shop.models import Tag

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE_ID}-00f067aa0ba902b7-01"


def tag(request: HttpRequest) -> HttpResponse:
    Tag.objects.create(name="steam")
    return HttpResponse("tagged")


def nothing(request: HttpRequest) -> HttpResponse:
    return HttpResponse("nothing")


urlpatterns = [path("tag/", tag, name="tag"), path("nothing/", nothing)]


@pytest.fixture
def site() -> Iterator[None]:
    with override_settings(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"]):
        yield


def newest(**fields: Any) -> Trace:
    found = Trace.objects.filter(**fields).order_by("-id").first()
    assert isinstance(found, Trace)
    return found


asked = Signal()
signalbox.register_signal(asked, "tests.asked")


def environ(path_info: str, query: str, **more: str) -> dict[str, Any]:
    """Return the environ of a request."""
    found: dict[str, Any] = {"PATH_INFO": path_info, "QUERY_STRING": query, **more}
    setup_testing_defaults(found)
    return found


def served(url: str, **more: str) -> str:
    """Handle one request like a WSGI server, and return the status."""
    path_info, _, query = url.partition("?")
    environment = environ(path_info, query, **more)
    answers: list[str] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: object = None) -> Any:
        answers.append(status)
        return io.BytesIO().write

    response = WSGIHandler()(environment, start_response)
    b"".join(response)
    response.close()
    return answers[0]


# ------------------------------------------------------------------ requests


@pytest.mark.django_db(transaction=True)  # a real request closes the connection
@pytest.mark.usefixtures("site")
def test_a_request_is_a_trace_with_its_data() -> None:
    served("/tag/?colour=red", REQUEST_METHOD="HEAD", REMOTE_ADDR="192.0.2.7")

    row = newest(kind="request")
    assert "HEAD /tag/?colour=red" == row.name
    assert ("HEAD", "/tag/?colour=red", "192.0.2.7") == (
        row.data["method"],
        row.data["path"],
        row.data["client_address"],
    )
    assert row.duration is not None
    assert row.duration > 0


@pytest.mark.django_db(transaction=True)  # a real request closes the connection
@pytest.mark.usefixtures("site")
def test_the_trace_names_the_view_and_the_status() -> None:
    served("/tag/")
    row = newest(kind="request")
    assert ("tag", "200") == (row.data["view"], row.status)

    served("/nothing/")
    assert f"{__name__}.nothing" == newest(kind="request").data["view"]

    served("/nowhere/")
    row = newest(kind="request")
    assert ("404", False) == (row.status, "view" in row.data)


@pytest.mark.django_db(transaction=True)  # a real request closes the connection
@pytest.mark.usefixtures("site")
def test_the_events_of_a_request_carry_its_trace_id() -> None:
    served("/tag/")
    row = newest(kind="request")
    events = list(Event.objects.filter(trace_id=row.trace_id).order_by("time", "span"))

    assert ["request_started", "post_save", "request_finished"] == [event.signal for event in events]
    assert 3 == row.events


@pytest.mark.django_db(transaction=True)  # a real request closes the connection
@pytest.mark.usefixtures("site")
def test_secrets_in_the_query_string_are_not_stored() -> None:
    served("/tag/?token=s3cr3t-value&page=2")
    row = newest(kind="request")

    assert "s3cr3t-value" not in str(row.data) + row.name
    assert "page=2" in row.data["path"]


SECRETIVE = override_settings(SIGNALBOX={"REDACT": ["iban"]})


@pytest.mark.django_db(transaction=True)  # a real request closes the connection
@pytest.mark.usefixtures("site")
def test_secrets_in_an_address_are_not_stored() -> None:
    with SECRETIVE:
        served("/tag/?iban=DE02100100100006820101&page=2")
        trace = requests.start_request(None, {"method": "GET", "path": "/iban=DE02/", "query_string": b"iban=DE02"})
        tracing.deactivate(trace)
    row = newest(kind="request")
    stored = [row.name, row.data, trace.name, trace.data, *Event.objects.values_list("data", flat=True)]
    assert "DE02" not in str(stored)
    assert "page=2" in row.name


@pytest.mark.django_db
def test_secrets_in_a_request_that_is_an_argument_are_not_stored() -> None:
    request = HttpRequest()
    request.method, request.path, request.META["QUERY_STRING"] = "GET", "/iban=DE02/", "iban=DE02"
    with SECRETIVE, signalbox.trace("work") as trace:
        asked.send(None, request=request)
    [event] = Event.objects.filter(trace_id=trace.id)
    assert "/iban=[redacted]?iban=[redacted]" == event.data["args"]["request"]["path"]


@pytest.mark.django_db(transaction=True)  # a real request closes the connection
@pytest.mark.usefixtures("site")
def test_a_path_is_stored_as_people_read_it() -> None:
    """A WSGI server gives the bytes of a path as Latin-1, an ASGI server their text; Django quotes them once more."""
    mojibake = "/größe/東京/".encode().decode("latin-1")
    served(mojibake + "?größe=1".encode().decode("latin-1"))
    row = newest(kind="request")
    assert ("GET /größe/東京/?größe=1", "/größe/東京/?größe=1") == (row.name, row.data["path"])
    begun = Event.objects.filter(signal="request_started").latest("id")
    assert "/größe/東京/?größe=1" == begun.data["args"]["environ"]["path"]

    scope = {"method": "GET", "path": "/größe/東京/", "query_string": "größe=1".encode()}
    trace = requests.start_request(None, scope)
    tracing.deactivate(trace)
    assert "/größe/東京/?größe=1" == trace.data["path"]
    with signalbox.trace("work") as work:
        asked.send(None, request=WSGIRequest(environ(mojibake, "a=1")), scope=scope)
    [event] = Event.objects.filter(trace_id=work.id)
    assert "/größe/東京/?a=1" == event.data["args"]["request"]["path"]
    assert "/größe/東京/?größe=1" == event.data["args"]["scope"]["path"]


@pytest.mark.parametrize("path", ["/caf\xe9/", "/東京/", "/\udce9/", ""])
def test_a_path_that_is_no_utf_8_is_stored_all_the_same(path: str) -> None:
    trace = requests.start_request({"REQUEST_METHOD": "GET", "PATH_INFO": path}, None)
    tracing.deactivate(trace)
    assert path == trace.data["path"]


@pytest.mark.parametrize(
    ("trusted", "forwarded", "address"),
    [
        (0, "203.0.113.9", "192.0.2.1"),
        (0, "", "192.0.2.1"),
        (1, "", "192.0.2.1"),
        (1, "203.0.113.9", "203.0.113.9"),
        (1, "6.6.6.6, 203.0.113.9", "203.0.113.9"),
        (2, "6.6.6.6, 203.0.113.9, 198.51.100.1", "203.0.113.9"),
        (2, "203.0.113.9", "203.0.113.9"),
    ],
)
def test_a_forwarded_address_is_believed_as_far_as_proxies_are_trusted(
    trusted: int, forwarded: str, address: str
) -> None:
    with override_settings(SIGNALBOX={"TRUSTED_PROXIES": trusted}):
        assert address == requests.get_client_address("192.0.2.1", forwarded)


@pytest.mark.django_db(transaction=True)  # a real request closes the connection
@pytest.mark.usefixtures("site")
def test_a_valid_traceparent_is_continued() -> None:
    served("/tag/", HTTP_TRACEPARENT=TRACEPARENT)

    row = newest(kind="request")
    assert (TRACE_ID, "00f067aa0ba902b7") == (row.trace_id, row.data["parent"])
    assert TRACE_ID == Event.objects.filter(signal="post_save").latest("id").trace_id


@pytest.mark.django_db(transaction=True)  # a real request closes the connection
@pytest.mark.usefixtures("site")
@pytest.mark.parametrize(
    "header",
    ["", "nonsense", f"00-{'0' * 32}-00f067aa0ba902b7-01", TRACEPARENT.upper(), f"{TRACEPARENT},{TRACEPARENT}"],
)
def test_an_invalid_traceparent_is_ignored(header: str) -> None:
    served("/tag/", HTTP_TRACEPARENT=header)

    row = newest(kind="request")
    assert TRACE_ID != row.trace_id
    assert 32 == len(row.trace_id)
    assert "parent" not in row.data


def test_the_headers_of_an_asgi_scope_are_read_as_those_of_wsgi() -> None:
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/tag/",
        "query_string": b"page=2",
        "client": ("192.0.2.1", 1234),
        "headers": [
            (b"traceparent", TRACEPARENT.encode()),
            (b"x-forwarded-for", b"6.6.6.6"),
            (b"X-Forwarded-For", b"203.0.113.9"),
        ],
    }
    with override_settings(SIGNALBOX={"TRUSTED_PROXIES": 1}):
        trace = requests.start_request(None, scope)
        tracing.deactivate(trace)

    assert (TRACE_ID, "GET /tag/?page=2") == (trace.id, trace.name)
    assert ("GET", "/tag/?page=2", "203.0.113.9") == tuple(
        trace.data[key] for key in ("method", "path", "client_address")
    )


def test_a_traceparent_that_is_sent_twice_is_none() -> None:
    headers = [(b"traceparent", TRACEPARENT.encode())] * 2
    trace = requests.start_request(None, {"method": "GET", "path": "/", "headers": headers})
    tracing.deactivate(trace)

    assert TRACE_ID != trace.id


def test_a_scope_that_says_next_to_nothing_makes_a_trace_all_the_same() -> None:
    trace = requests.start_request(None, {})
    tracing.deactivate(trace)

    assert ("request", "", "") == (trace.kind, trace.data["client_address"], trace.data["method"])


def test_ending_a_request_where_none_began_does_nothing() -> None:
    before = tracing.get_current_trace()
    requests.finish_request()
    assert tracing.get_current_trace() is before


# ------------------------------------------------------------------ connections


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """Collect the aliases of the connections that the block opens."""
    aliases: list[str] = []

    def note(sender: object, connection: Any, **kwargs: object) -> None:
        aliases.append(connection.alias)

    connection_created.connect(note, weak=False)
    try:
        yield aliases
    finally:
        connection_created.disconnect(note)


@pytest.mark.every_database
@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("url", ["/tag/", "/nothing/"])
def test_a_request_opens_one_connection_and_closes_it(url: str, opened: list[str]) -> None:
    connection.close()
    assert 0 == connection.settings_dict["CONN_MAX_AGE"]
    served(url)

    assert connection.connection is None
    assert ["default"] == opened
    assert url in newest(kind="request").name


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("site")
def test_a_persistent_connection_stays_open(opened: list[str]) -> None:
    connection.close()
    connection.settings_dict["CONN_MAX_AGE"] = None
    try:
        served("/tag/")
        kept = connection.connection
        served("/tag/")
        assert kept is not None
        assert kept is connection.connection
        assert ["default"] == opened
    finally:
        connection.settings_dict["CONN_MAX_AGE"] = 0
        connection.close()


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("site")
def test_a_receiver_that_raises_at_the_end_leaves_no_connection_open() -> None:
    def fail(sender: object, **kwargs: object) -> None:
        raise ValueError("late")

    request_finished.connect(fail, weak=False)
    try:
        with pytest.raises(ValueError, match="late"):
            served("/tag/")
    finally:
        request_finished.disconnect(fail)

    assert "close_if_unusable_or_obsolete" not in connection.__dict__
    [event] = Event.objects.filter(signal="request_finished", trace_id=newest(kind="request").trace_id)
    assert ("failed", 1) == (event.outcome, event.errors)


# ------------------------------------------------------------------ commands


class Sweep(BaseCommand):
    """A command of a project."""

    def add_arguments(self, parser: Any) -> None:
        parser.add_argument("--fail", action="store_true")
        parser.add_argument("--leave", type=int)

    def handle(self, *args: Any, **options: Any) -> None:
        Tag.objects.create(name="swept")
        if options["fail"]:
            raise CommandError("no broom")
        if options["leave"] is not None:
            sys.exit(options["leave"])


def command(module: str = "shop.management.commands.sweep") -> BaseCommand:
    command: BaseCommand = type("Command", (Sweep,), {"__module__": module})()
    return command


@pytest.mark.django_db
def test_a_command_is_a_trace_by_its_name() -> None:
    call_command(command())

    row = newest(kind="command")
    assert ("sweep", "ok", 1) == (row.name, row.status, row.events)
    assert row.trace_id == Event.objects.get(signal="post_save").trace_id


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("options", "status"), [({"fail": True}, "failed"), ({"leave": 3}, "failed"), ({"leave": 0}, "ok")]
)
def test_a_command_that_fails_says_so(options: dict[str, Any], status: str) -> None:
    with pytest.raises((CommandError, SystemExit)):
        call_command(command(), **options)

    assert status == newest(kind="command").status


@pytest.mark.django_db
def test_a_command_within_a_command_is_a_trace_within_a_trace() -> None:
    with signalbox.trace("around") as around:
        call_command(command())
        Tag.objects.create(name="after")

    assert [around.id] == list(Event.objects.filter(object_label="after").values_list("trace_id", flat=True))
    assert around.id != newest(kind="command").trace_id


@pytest.mark.django_db
def test_a_server_s_command_is_no_trace_as_its_requests_are() -> None:
    before = tracing.get_current_trace()
    call_command(command("django.core.management.commands.runserver"))

    assert not Trace.objects.filter(name="runserver").exists()
    assert tracing.get_current_trace() is before


@pytest.mark.django_db
def test_a_shell_is_a_trace_whose_events_do_not_wait_for_its_end() -> None:
    seen: list[str] = []

    class Shell(BaseCommand):
        def handle(self, *args: Any, **options: Any) -> None:
            departed.send(sender=None)
            seen.extend(Event.objects.filter(signal="tests.departed").values_list("trace_id", flat=True))

    departed = Signal()
    signalbox.register_signal(departed, "tests.departed")
    call_command(type("Command", (Shell,), {"__module__": "django.core.management.commands.shell"})())

    assert [newest(kind="shell").trace_id] == seen


def test_a_process_without_traces_writes_its_events_when_it_ends(tmp_path: Any) -> None:
    code = """
import django; django.setup()
from django.conf import settings
from django.core.management import call_command
call_command("migrate", verbosity=0)
from django.contrib.auth import authenticate
authenticate(username="ann", password="wrong")
"""
    run = run_python(code, tmp_path)
    assert (0, "") == (run.returncode, run.stderr)

    with closing(sqlite3.connect(tmp_path / "site.sqlite3")) as database:
        rows = database.execute(
            "SELECT t.kind, t.name FROM signalbox_event e JOIN signalbox_trace t USING (trace_id) "
            "WHERE e.signal = 'user_login_failed'"
        ).fetchall()
    assert [("process", "-c")] == rows


LOADING = """
import django; django.setup()
from django.db import connections
from tests.shop.models import Tag
Tag.objects.create(name="a")
from django.contrib.auth import authenticate
authenticate(username="ann", password="wrong")
before = connections["default"].settings_dict["NAME"]
for _ in range(3):
    Tag.objects.get()
"""


@pytest.mark.slow
@pytest.mark.every_database
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("end", ["", "connections.close_all()"], ids=["open", "closed"])
def test_counts_after_the_first_event_of_a_process_are_written_when_it_ends(end: str, tmp_path: Any) -> None:
    Event.objects.all().delete()
    run = run_python(f"{LOADING}{end}\n", tmp_path, "tests.settings")
    assert (0, "") == (run.returncode, run.stderr)
    row = newest(kind="process", name="-c")
    assert 1 == Trace.objects.filter(trace_id=row.trace_id).count()
    # One is made, and loaded three times.
    assert {"pre_init": {"shop.Tag": 4}, "post_init": {"shop.Tag": 4}} == {
        signal: {"shop.Tag": models["shop.Tag"]}
        for signal, models in row.data["send_counts"].items()
        if signal.endswith("_init")
    }
    assert row.duration is not None
    assert row.duration > 0
    assert Event.objects.filter(trace_id=row.trace_id).count() == row.events


@pytest.mark.every_database
@pytest.mark.django_db(transaction=True)
def test_a_process_whose_test_database_no_longer_exists_ignores_the_other_one(tmp_path: Any) -> None:
    Event.objects.all().delete()
    Trace.objects.all().delete()
    other = 'connections.close_all(); connections["default"].settings_dict["NAME"] = ' + repr(str(tmp_path / "none"))
    run = run_python(f"{LOADING}{other}\n", tmp_path, "tests.settings")
    assert (0, "") == (run.returncode, run.stderr)
    assert not (tmp_path / "none").exists()
    assert newest(kind="process", name="-c").duration is None


def run_python(code: str, place: Any, module: str = "site_settings") -> subprocess.CompletedProcess[str]:
    settings = f"""
from tests.settings import *
DATABASES = {{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": {str(place / "site.sqlite3")!r}}}}}
"""
    (place / "site_settings.py").write_text(settings)
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": module,
            "PYTHONPATH": os.pathsep.join([str(place), *filter(None, sys.path)]),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


# ------------------------------------------------------------------ tests of Django's runner


class Signals(SimpleTestCase):
    """Run by hand below, not by pytest."""

    __test__ = False
    databases = {"default"}
    seen: list[tracing.Trace] = []

    def test_passes(self) -> None:
        self.seen.append(tracing.get_current_trace())

    def test_fails(self) -> None:
        self.seen.append(tracing.get_current_trace())
        self.fail("on purpose")


@pytest.mark.django_db
@pytest.mark.parametrize(("method", "status"), [("test_passes", "ok"), ("test_fails", "failed")])
def test_a_test_of_django_s_runner_is_a_trace(method: str, status: str) -> None:
    Signals.seen.clear()
    test_runs.install()
    result = unittest.TestResult()
    # In an empty context: the plugin has already made this test a trace.
    contextvars.Context().run(lambda: SimpleTestCase.run(Signals(method), result))

    [trace] = Signals.seen
    assert ("test", f"{__name__}.Signals.{method}", status) == (trace.kind, trace.name, trace.status)


def test_recording_that_is_switched_off_leaves_django_s_classes_as_they_were() -> None:
    signalbox.stop_recording()
    try:
        assert "run" not in SimpleTestCase.__dict__
        assert "execute" in BaseCommand.__dict__
        assert not hasattr(BaseCommand.__dict__["execute"], "__wrapped__")
        assert not set(signals.SEND_METHODS) & request_finished.__dict__.keys()
    finally:
        signalbox.start_recording()


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("site")
def test_a_boundary_that_is_watched_later_still_ends_its_request() -> None:
    with override_settings(SIGNALBOX={"RECORD": ["model", "custom"]}):
        signalbox.register_signal(request_finished, "tests.request_finished")
        before = tracing.get_current_trace()
        try:
            served("/tag/")
        finally:
            del naming._tracked_names[request_finished]

        assert tracing.get_current_trace() is before
        assert "200" == newest(kind="request").status
