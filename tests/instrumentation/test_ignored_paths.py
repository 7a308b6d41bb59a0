"""Requests whose path is in ``IGNORE_PATHS``, served by Django's own handlers."""

from __future__ import annotations

import asyncio
import contextvars
import io
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator
from django.conf import settings
from django.contrib import admin
from django.contrib.auth.models import User
from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.db import connections, transaction
from django.dispatch import Signal
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import Client, override_settings
from django.urls import include, path, set_script_prefix

import signalbox
from signalbox import conf
from signalbox.models import Delivery, Event, Trace
from signalbox.outbox import registry
from signalbox.outbox.outbox_processor import OUTBOX
from signalbox.pipeline import exporter, processors, unit_of_work
from tests.instrumentation.test_boundaries import environ
from tests.outbox import receivers
from tests.shop.models import Tag

asked = Signal()
signalbox.register_signal(asked, "tests.path_asked")


def answer(request: HttpRequest, name: str = "") -> HttpResponse:
    asked.send(sender=None)
    return HttpResponse("answer")


def write(request: HttpRequest) -> HttpResponse:
    request.user.get_username()  # loads the user
    Tag.objects.create(name="written")
    return HttpResponse("written")


def roll_back(request: HttpRequest) -> HttpResponse:
    with transaction.atomic():
        Tag.objects.create(name="undone")
        transaction.set_rollback(True)
    return HttpResponse("undone")


def fail(request: HttpRequest) -> HttpResponse:
    raise ValueError("on purpose")


def stream(request: HttpRequest) -> StreamingHttpResponse:
    def parts() -> Iterator[str]:
        yield "one"
        Tag.objects.create(name="streamed")
        yield "two"

    return StreamingHttpResponse(parts())


def write_and_close() -> None:
    Tag.objects.create(name="late")
    connections.close_all()


late_threads: list[threading.Thread] = []


def write_later(request: HttpRequest) -> HttpResponse:
    late_threads.append(threading.Thread(target=contextvars.copy_context().run, args=(write_and_close,)))
    return HttpResponse("later")


def nest(request: HttpRequest) -> HttpResponse:
    with signalbox.trace("nested"):
        asked.send(sender=None)
    return HttpResponse("nested")


pages = [
    path("write/", write),
    path("roll-back/", roll_back),
    path("fail/", fail),
    path("stream/", stream),
    path("later/", write_later),
    path("nest/", nest),
    path("<path:name>", answer),
]
urlpatterns = [
    path("admin/", admin.site.urls),
    path("signalbox/", include("signalbox.urls")),
    path("quiet/", include(pages)),
    path("", answer),
    path("<path:name>", answer),
]


def build_urlconf(*patterns: Any) -> ModuleType:
    found = ModuleType("tests.urlconf")
    vars(found)["urlpatterns"] = [*patterns, path("admin/", admin.site.urls)]
    return found


QUIET = {"SIGNALBOX": {"IGNORE_PATHS": ["/quiet/*"]}}
WITHOUT_MIDDLEWARE = [name for name in settings.MIDDLEWARE if not name.startswith("signalbox.")]

pytestmark = [pytest.mark.django_db(transaction=True)]


@pytest.fixture(autouse=True)
def _site() -> Iterator[None]:
    with override_settings(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], STATIC_URL="/static/", MEDIA_URL="/media/"):
        unit_of_work.flush_all()  # events of the process, such as those of the test database
        Event.objects.all().delete()
        yield
    set_script_prefix("/")


@pytest.fixture(params=["middleware", "no middleware"])
def _with_and_without_middleware(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.param == "middleware":
        yield
        return
    with override_settings(MIDDLEWARE=WITHOUT_MIDDLEWARE):
        yield


def serve_wsgi(url: str, handler: Any = WSGIHandler, **more: str) -> str:
    statuses: list[str] = []
    application = handler() if handler is WSGIHandler else handler(WSGIHandler())

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: object = None) -> Any:
        statuses.append(status)
        return io.BytesIO().write

    response = application(environ(url, "", **more), start_response)
    b"".join(response)
    response.close()
    return statuses[0]


def serve_asgi(url: str) -> int:
    async def run() -> int:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "path": url,
            "query_string": b"",
            "headers": [],
        }
        communicator: Any = ApplicationCommunicator(ASGIHandler(), scope)  # type: ignore[no-untyped-call]
        await communicator.send_input({"type": "http.request", "body": b""})
        status: int = (await communicator.receive_output(30))["status"]
        while (await communicator.receive_output(30)).get("more_body"):
            pass
        await communicator.wait(5)
        return status

    return asyncio.run(run())


def recorded() -> tuple[list[str], list[str]]:
    """Return the names of the traces of requests, and the signals of all events, by time."""
    exporter.flush()
    unit_of_work.flush_all()
    traces = Trace.objects.filter(kind="request").order_by("id").values_list("name", flat=True)
    return list(traces), list(
        Event.objects.exclude(signal="setting_changed").order_by("id").values_list("signal", flat=True)
    )


NOTHING: tuple[list[str], list[str]] = ([], [])


@pytest.mark.usefixtures("_with_and_without_middleware")
@pytest.mark.parametrize("serve", [serve_wsgi, serve_asgi])
@pytest.mark.parametrize("url", ["/static/a.css", "/media/b.png", "/favicon.ico", "/static/", "/signalbox/"])
def test_a_request_of_the_default_paths_is_not_recorded(url: str, serve: Any) -> None:
    serve(url)

    assert recorded() == NOTHING


@pytest.mark.parametrize("serve", [serve_wsgi, serve_asgi])
@pytest.mark.parametrize("url", ["/", "/statics/", "/STATIC/a.css", "/x/static/a.css", "/favicon.ico/x", "/signalbox"])
@pytest.mark.usefixtures("_with_and_without_middleware")
def test_a_request_of_another_path_is_recorded(url: str, serve: Any) -> None:
    serve(url)

    assert [f"GET {url}"] == recorded()[0]


@pytest.mark.parametrize(
    ("glob", "url", "is_ignored"),
    [
        ("/a/*", "/a/b/c", True),
        ("/a/*", "/a/", True),
        ("/a/*", "/a", False),
        ("/a/*", "/A/b", False),
        ("*.map", "/js/app.js.map", True),
        ("*.map", "/app.mapped", False),
        ("/api/*/ping", "/api/v1/x/ping", True),
        ("/?", "/x", True),
        ("/?", "/xy", False),
        ("/[ab]", "/b", True),
        ("/[!ab]", "/b", False),
        ("/", "/", True),
        ("/", "/x", False),
        ("/caf\xe9", "/caf\xe9", True),
    ],
)
def test_a_glob_is_compared_with_the_whole_path(glob: str, url: str, is_ignored: bool) -> None:
    with override_settings(SIGNALBOX={"IGNORE_PATHS": [glob]}):
        serve_wsgi(url.encode().decode("latin-1"))

    assert is_ignored == (recorded() == NOTHING)


def test_a_list_replaces_the_default_and_can_extend_it() -> None:
    with override_settings(SIGNALBOX={"IGNORE_PATHS": ["/health/"]}):
        serve_wsgi("/health/")
        serve_wsgi("/static/a.css")
        serve_wsgi("/signalbox/")
    with override_settings(SIGNALBOX={"IGNORE_PATHS": [*conf.DEFAULT_IGNORE_PATHS, "/health/"]}):
        serve_wsgi("/health/")
        serve_wsgi("/static/b.css")
        serve_wsgi("/signalbox/")

    assert ["GET /static/a.css", "GET /signalbox/"] == recorded()[0]


def test_the_query_is_not_part_of_the_path() -> None:
    with override_settings(SIGNALBOX={"IGNORE_PATHS": ["/health/"]}):
        Client().get("/health/?x=1")

    assert recorded() == NOTHING


@pytest.mark.parametrize("url", ["https://cdn.example/static/", "//cdn.example/static/", "/", "", None, "http://["])
def test_a_static_url_that_is_not_a_path_ignores_nothing(url: str | None) -> None:
    with override_settings(STATIC_URL=url, MEDIA_URL=url):
        serve_wsgi("/static/a.css")
        serve_wsgi("/")

    assert ["GET /static/a.css", "GET /"] == recorded()[0]


@pytest.mark.parametrize(
    ("url", "path_info", "is_ignored"),
    [
        ("static/", "/static/a.css", True),
        ("/app/static/", "/static/a.css", True),
        ("/static/", "/static/a.css", True),
        ("", "/page/", False),
        ("static/", "/page/", False),
        ("/sta%20tic/", "/sta tic/a.css", True),
    ],
)
def test_static_files_below_a_script_name_are_ignored(url: str, path_info: str, is_ignored: bool) -> None:
    with override_settings(STATIC_URL=url, MEDIA_URL=url):
        serve_wsgi(path_info, SCRIPT_NAME="/app")

    assert is_ignored == (recorded() == NOTHING)


def test_a_glob_is_compared_with_the_script_name() -> None:
    with override_settings(SIGNALBOX={"IGNORE_PATHS": ["/app/health/"]}):
        serve_wsgi("/health/", SCRIPT_NAME="/app")
        serve_wsgi("/health/")

    assert ["GET /health/"] == recorded()[0]


def test_the_static_files_handler_of_runserver_is_ignored() -> None:
    with override_settings(SIGNALBOX={"IGNORE": []}):
        assert "200 OK" == serve_wsgi("/static/signalbox/signalbox.css", StaticFilesHandler)
        assert "404 Not Found" == serve_wsgi("/static/none.css", StaticFilesHandler)

    assert recorded() == NOTHING


# ------------------------------------------------------------------ writes


@pytest.mark.usefixtures("_with_and_without_middleware")
@pytest.mark.every_database
@pytest.mark.parametrize("autocommit", ["atomic", "after"])
def test_a_write_in_an_ignored_request_is_recorded_with_its_trace(autocommit: str) -> None:
    with override_settings(SIGNALBOX={**QUIET["SIGNALBOX"], "AUTOCOMMIT": autocommit}):
        serve_wsgi("/quiet/write/")

    assert (["GET /quiet/write/"], ["post_save"]) == recorded()
    row, event = Trace.objects.get(kind="request"), Event.objects.exclude(signal="setting_changed").get()
    assert (row.trace_id, 1) == (event.trace_id, row.events)


@pytest.mark.every_database
def test_a_write_in_an_ignored_request_has_the_actor() -> None:
    user = User.objects.create_user("ann", is_staff=True)
    client = Client()
    client.force_login(user)
    Event.objects.all().delete()
    with override_settings(**QUIET):
        client.get("/quiet/write/")

    recorded()
    assert ["ann"] == list(Event.objects.filter(sender="shop.Tag").values_list("actor_label", flat=True))
    assert ["ann"] == list(Trace.objects.filter(name="GET /quiet/write/").values_list("actor_label", flat=True))


def test_a_write_by_asgi_in_an_ignored_request_is_recorded() -> None:
    with override_settings(**QUIET):
        serve_asgi("/quiet/write/")

    assert (["GET /quiet/write/"], ["post_save"]) == recorded()


def test_a_rolled_back_write_in_an_ignored_request_is_recorded() -> None:
    with override_settings(**QUIET):
        serve_wsgi("/quiet/roll-back/")

    assert (["GET /quiet/roll-back/"], ["post_save"]) == recorded()
    assert ["rolled_back"] == list(Event.objects.filter(signal="post_save").values_list("outcome", flat=True))


def test_a_write_while_an_ignored_response_is_streamed_is_recorded() -> None:
    with override_settings(**QUIET):
        serve_wsgi("/quiet/stream/")

    assert (["GET /quiet/stream/"], ["post_save"]) == recorded()


@pytest.mark.every_database
def test_a_write_after_the_end_of_an_ignored_request_still_has_a_trace() -> None:
    with override_settings(**QUIET):
        serve_wsgi("/quiet/later/")
        thread = late_threads.pop()
        thread.start()
        thread.join()

    assert (["GET /quiet/later/"], ["post_save"]) == recorded()
    assert Trace.objects.get(kind="request").trace_id == Event.objects.exclude(signal="setting_changed").get().trace_id


def test_an_ignored_request_that_fails_without_a_write_is_not_recorded() -> None:
    with override_settings(**QUIET):
        Client(raise_request_exception=False).get("/quiet/fail/")

    assert recorded() == NOTHING


def test_a_trace_within_an_ignored_request_is_recorded() -> None:
    with override_settings(**QUIET):
        serve_wsgi("/quiet/nest/")

    assert ([], ["tests.path_asked"]) == recorded()
    assert Trace.objects.filter(name="nested").exists()


@pytest.mark.every_database
def test_an_event_with_a_durable_receiver_in_an_ignored_request_is_recorded() -> None:
    signalbox.receiver(asked, durable=True)(receivers.saved)
    try:
        with override_settings(**QUIET):
            serve_wsgi("/quiet/page/")
    finally:
        for name in list(registry.get_durable_receivers()):
            registry.disconnect(name)
        processors.uninstall(OUTBOX)
        signalbox.start_recording()

    assert (["GET /quiet/page/"], ["tests.path_asked"]) == recorded()
    assert 1 == Delivery.objects.count()


# ------------------------------------------------------------------ the dashboard


@pytest.mark.usefixtures("_with_and_without_middleware")
@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("/signalbox/", 200),
        ("/signalbox", 301),
        ("/signalbox/map", 301),
        ("/signalbox/event/9/", 404),
        ("/signalbox/none/", 404),
        ("/signalbox/live/", 204),
    ],
)
def test_no_page_of_the_dashboard_is_recorded_whatever_it_answers(url: str, status: int) -> None:
    urlconf = build_urlconf(path("signalbox/", include("signalbox.urls")))
    client = Client()
    client.force_login(User.objects.create_superuser("ann"))
    Event.objects.all().delete()
    with override_settings(ROOT_URLCONF=urlconf):
        assert status == client.get(url).status_code

    assert recorded() == NOTHING


@pytest.mark.usefixtures("_with_and_without_middleware")
@pytest.mark.parametrize(
    ("prefix", "url"),
    [
        ("<slug:tenant>/log/", "/ann/log/"),
        ("<slug:tenant>/log/", "/ann/log/none/"),
        ("", "/map/"),
        ("x/", "/x/map"),
    ],
)
def test_the_dashboard_is_found_wherever_it_is_included(prefix: str, url: str) -> None:
    with override_settings(ROOT_URLCONF=build_urlconf(path(prefix, include("signalbox.urls")))):
        Client(raise_request_exception=False).get(url)

    assert recorded() == NOTHING


@pytest.mark.usefixtures("_with_and_without_middleware")
def test_the_dashboard_is_found_in_a_nested_namespace() -> None:
    inner = ([path("log/", include("signalbox.urls", namespace="second"))], "inner")
    with override_settings(ROOT_URLCONF=build_urlconf(path("in/", include(inner, namespace="inner")))):
        Client(raise_request_exception=False).get("/in/log/none/")

    assert recorded() == NOTHING


@pytest.mark.usefixtures("_with_and_without_middleware")
@pytest.mark.parametrize("url", ["/none/", "/page/", "/admin/login/"])
def test_other_pages_are_recorded_if_the_dashboard_is_at_the_root(url: str) -> None:
    urlconf = build_urlconf(path("page/", answer), path("", include("signalbox.urls")))
    with override_settings(ROOT_URLCONF=urlconf):
        Client().get(url)

    assert [f"GET {url}"] == recorded()[0]


def use_other_urlconf(get_response: Any) -> Any:
    def middleware(request: HttpRequest) -> Any:
        request.urlconf = OTHER_URLCONF  # type: ignore[assignment]
        return get_response(request)

    return middleware


OTHER_URLCONF = build_urlconf(path("other/", include("signalbox.urls")), path("signalbox/", answer))


@pytest.mark.parametrize("first", [["signalbox.middleware.TraceMiddleware"], []])
def test_the_dashboard_is_that_of_the_urlconf_of_the_request(first: list[str]) -> None:
    with override_settings(MIDDLEWARE=[*first, f"{__name__}.use_other_urlconf", *WITHOUT_MIDDLEWARE]):
        serve_wsgi("/other/")
        serve_wsgi("/other/none/")
        serve_wsgi("/signalbox/")

    assert ["GET /signalbox/"] == recorded()[0]


def answer_early(get_response: Any) -> Any:
    return lambda request: HttpResponse("early")


@pytest.mark.parametrize("urlconf", ["tests.no_such_urlconf", None, 7])
def test_a_broken_urlconf_does_not_change_the_response(urlconf: object) -> None:
    with override_settings(ROOT_URLCONF=urlconf, MIDDLEWARE=[f"{__name__}.answer_early"]):
        assert "200 OK" == serve_wsgi("/signalbox/")

    assert ["GET /signalbox/"] == recorded()[0]


def test_a_site_without_the_dashboard_records_that_path() -> None:
    with override_settings(ROOT_URLCONF=build_urlconf()):
        Client().get("/signalbox/")

    assert ["GET /signalbox/"] == recorded()[0]
