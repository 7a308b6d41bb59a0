from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth import login, logout
from django.contrib.auth.models import User
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.db import connection, connections
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import AsyncClient, Client, RequestFactory, override_settings
from django.urls import path, register_converter
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.test import APIClient
from rest_framework.views import APIView

import signalbox
from signalbox.core import tracing
from signalbox.middleware import TraceMiddleware
from signalbox.models import Event, Trace
from tests.shop import signals
from tests.shop.models import Tag

OURS = "signalbox.middleware.TraceMiddleware"
AUTH = [
    OURS,
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]


def tag(request: HttpRequest, name: str = "steam") -> HttpResponse:
    Tag.objects.create(name=name)
    return HttpResponse("tagged")


def tag_as_user(request: HttpRequest) -> HttpResponse:
    if not request.user.is_authenticated:
        return HttpResponse("who?", status=401)
    return tag(request)


def broken(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(10 / 0))


def leave(request: HttpRequest) -> HttpResponse:
    logout(request)
    return HttpResponse("bye")


def tag_for(request: HttpRequest, token: str) -> HttpResponse:
    signals.order_paid.send(sender=Tag, request=request, requests=[request])
    return tag(request)


def log_in(request: HttpRequest, token: str) -> HttpResponse:
    login(request, User.objects.get())
    return tag(request)


class UpsideDown:
    """A value that differs from the text in the URL."""

    regex = "[a-z0-9]+"

    def to_python(self, value: str) -> str:
        return value[::-1]

    to_url = to_python


register_converter(UpsideDown, "upside_down")


def fail(request: HttpRequest, token: str) -> HttpResponse:
    raise ValueError


def become(request: HttpRequest) -> HttpResponse:
    """A view that sets the actor itself."""
    signalbox.set_actor("robot")
    return tag(request)


def stream(request: HttpRequest) -> StreamingHttpResponse:
    def rows() -> Iterator[bytes]:
        for name in ("first", "second"):
            Tag.objects.create(name=f"{name} {tracing.get_current_trace().id}")
            yield b"row"

    return StreamingHttpResponse(rows())


async def astream(request: HttpRequest) -> StreamingHttpResponse:
    async def rows() -> AsyncIterator[bytes]:
        for name in ("first", "second"):
            await Tag.objects.acreate(name=f"{name} {tracing.get_current_trace().id}")
            yield b"row"

    return StreamingHttpResponse(rows())


def tag_in_a_thread(name: str) -> None:
    Tag.objects.create(name=name)
    connection.close()


async def atag(request: HttpRequest) -> HttpResponse:
    """Stop in the middle until every other request is there too."""
    signalbox.set_actor(request.GET["name"])
    before = tracing.get_current_trace()
    await MEETING.wait()
    assert tracing.get_current_trace() is before
    await Tag.objects.acreate(name=request.GET["name"])
    await sync_to_async(tag_in_a_thread, thread_sensitive=False)(request.GET["name"])
    return HttpResponse(before.id)


def slow(request: HttpRequest) -> HttpResponse:
    """The same in threads."""
    signalbox.set_actor(request.GET["name"])
    THREADS.wait(timeout=20)
    Tag.objects.create(name=request.GET["name"])
    return HttpResponse(tracing.get_current_trace().id)


async def forever(request: HttpRequest) -> HttpResponse:
    await Tag.objects.acreate(name="steam")
    STARTED.set()
    await asyncio.sleep(60)
    return HttpResponse("never")


def exit_process(request: HttpRequest) -> HttpResponse:
    Tag.objects.create(name="steam")
    raise SystemExit(1)  # as gunicorn's signal handler does in a worker that has taken too long


class Meeting:
    """Where several coroutines wait for each other; ``asyncio.Barrier`` belongs to one loop."""

    def __init__(self) -> None:
        self.number = 0
        self.expected = 1

    async def wait(self) -> None:
        self.number += 1
        while self.number < self.expected:  # noqa: ASYNC110 - an Event belongs to one loop, too
            await asyncio.sleep(0.001)


MEETING = Meeting()
THREADS = threading.Barrier(3)
STARTED = threading.Event()


class Token(BaseAuthentication):  # type: ignore[misc]
    def authenticate(self, request: Request) -> tuple[User, None] | None:
        name = request.META.get("HTTP_AUTHORIZATION", "").removeprefix("Token ")
        return (User.objects.get(username=name), None) if name else None


class Api(APIView):  # type: ignore[misc]
    authentication_classes = [Token]
    permission_classes: list[Any] = []

    def post(self, request: Request) -> Response:
        Tag.objects.create(name="steam")
        return Response({"tagged": True})


urlpatterns = [
    path("tag/", tag, name="tag"),
    path("tag/<str:name>/", tag, name="tag-by-name"),
    path("activate/<str:token>/", tag_for, name="activate"),
    path("activate/<str:token>/in/", log_in),
    path("activate/<str:token>/broken/", fail),
    path("mapped/<upside_down:token>/", tag_for),
    path("me/", tag_as_user),
    path("broken/", broken),
    path("leave/", leave),
    path("become/", become),
    path("stream/", stream),
    path("astream/", astream),
    path("atag/", atag),
    path("slow/", slow),
    path("forever/", forever),
    path("exit/", exit_process),
    path("api/", Api.as_view(), name="api"),
]


@pytest.fixture(autouse=True)
def site() -> Iterator[None]:
    with override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=AUTH, ALLOWED_HOSTS=["*"]):
        yield


@pytest.fixture
def ann(db: None) -> User:
    return User.objects.create_user("ann", password="steam")


def newest(**fields: Any) -> Trace:
    found = Trace.objects.filter(kind="request", **fields).order_by("-id").first()
    assert isinstance(found, Trace)
    return found


def tags(**fields: Any) -> QuerySet[Event]:
    found: QuerySet[Event] = Event.objects.filter(signal="post_save", sender="shop.Tag", **fields)
    return found


def saved(**fields: Any) -> Event:
    found = tags(**fields).order_by("-id").first()
    assert isinstance(found, Event)
    return found


# ------------------------------------------------------------------ view and status


@pytest.mark.django_db
def test_a_request_is_recorded_with_the_name_of_its_view_and_its_status() -> None:
    Client().get("/tag/coal/")

    assert ("tag-by-name", "200") == (newest().data["view"], newest().status)


@pytest.mark.django_db
@pytest.mark.parametrize("rest", ["", "in/", "broken/"])
def test_a_url_parameter_with_a_secret_name_is_redacted(ann: User, rest: str) -> None:
    Client(raise_request_exception=False).get(f"/activate/hunter2x/{rest}?a=1")

    row = newest()
    address = f"/activate/[redacted]/{rest}?a=1"
    assert (f"GET {address}", address) == (row.name, row.data["path"])
    told = [str(event.data) for event in Event.objects.filter(trace_id=row.trace_id)]
    assert not any("hunter2x" in data for data in told)
    assert any(address in data for data in told)


@pytest.mark.django_db
def test_a_secret_that_a_converter_changed_is_redacted() -> None:
    Client().get("/mapped/hunter2x/?a=1")

    row = newest()
    assert "/mapped/<upside_down:token>/?a=1" == row.data["path"]
    assert not any("hunter2x" in str(event.data) for event in Event.objects.filter(trace_id=row.trace_id))


@pytest.mark.django_db(transaction=True)
def test_a_secret_url_parameter_of_an_asynchronous_site_is_redacted() -> None:
    async_to_sync(AsyncClient().get)("/activate/hunter2x/")

    row = newest()
    assert "GET /activate/[redacted]/" == row.name
    assert not any("hunter2x" in str(event.data) for event in Event.objects.filter(trace_id=row.trace_id))


@pytest.mark.django_db
def test_a_view_that_raises_is_a_status_of_500_with_the_exception() -> None:
    response = Client(raise_request_exception=False).get("/broken/")

    row = newest()
    assert (500, "500", f"{__name__}.broken") == (response.status_code, row.status, row.data["view"])
    event = Event.objects.get(signal="got_request_exception")
    assert (row.trace_id, "ZeroDivisionError: division by zero") == (event.trace_id, event.data["args"]["exception"])


@pytest.mark.django_db
def test_an_exception_that_leaves_the_site_is_a_status_of_500() -> None:
    def interrupted(request: HttpRequest) -> HttpResponse:
        raise KeyboardInterrupt

    before = tracing.get_current_trace()
    with pytest.raises(KeyboardInterrupt):
        TraceMiddleware(interrupted)(RequestFactory().get("/tag/"))

    assert tracing.get_current_trace() is before


@pytest.mark.django_db(transaction=True)
def test_a_request_that_a_server_ends_with_its_process_has_a_complete_trace() -> None:
    handler = WSGIHandler()
    before = tracing.get_current_trace()
    with pytest.raises(SystemExit):
        handler(RequestFactory().get("/exit/").environ, lambda *_: lambda data: None)

    assert tracing.get_current_trace() is before
    row = newest()
    assert ("500", f"{__name__}.exit_process") == (row.status, row.data["view"])
    assert row.duration is not None
    signals = Event.objects.filter(trace_id=row.trace_id).order_by("span").values_list("signal", flat=True)
    assert ["request_started", "post_save"] == [s for s in signals if s != "connection_created"]


@pytest.mark.django_db
def test_a_handler_that_announces_no_request_still_gets_a_trace() -> None:
    before = tracing.get_current_trace()
    TraceMiddleware(tag)(RequestFactory().get("/tag/?a=1"))

    assert ("GET /tag/?a=1", "200") == (newest().name, newest().status)
    assert newest().trace_id == saved().trace_id
    assert tracing.get_current_trace() is before


@pytest.mark.django_db(transaction=True)
def test_an_asynchronous_handler_that_announces_no_request_still_gets_a_trace() -> None:
    async def view(request: HttpRequest) -> HttpResponse:
        await Tag.objects.acreate(name="steam")
        return HttpResponse(status=201)

    handler: Any = TraceMiddleware(view)
    async_to_sync(handler)(RequestFactory().get("/tag/"))

    assert ("201", saved().trace_id) == (newest().status, newest().trace_id)


@pytest.mark.django_db
def test_without_the_middleware_a_request_is_a_trace_without_view_and_status() -> None:
    with override_settings(MIDDLEWARE=[]):
        Client().get("/tag/")

    row = newest()
    assert ("GET /tag/", "", False) == (row.name, row.status, "view" in row.data)
    assert row.trace_id == saved().trace_id


@pytest.mark.django_db
def test_a_request_without_changes_has_only_the_events_of_its_signals() -> None:
    with override_settings(SIGNALBOX={"RECORD": "audit"}):
        Client().get("/nowhere/")
        assert not Trace.objects.filter(kind="request").exists()


# ------------------------------------------------------------------ the actor


def test_the_user_is_the_actor_without_a_query_more(ann: User, django_assert_num_queries: Any) -> None:
    client = Client()
    client.force_login(ann)
    with django_assert_num_queries(3):  # session, user, tag
        client.get("/me/")

    event = saved()
    assert (str(ann.pk), "ann") == (event.actor_key, event.actor_label)
    assert (str(ann.pk), "ann") == (newest().actor_key, newest().actor_label)


def test_a_user_whom_the_view_does_not_ask_for_is_not_asked_for(ann: User, django_assert_num_queries: Any) -> None:
    client = Client()
    client.force_login(ann)
    with django_assert_num_queries(1):  # tag: neither session nor user
        client.get("/tag/")

    assert ("", "") == (saved().actor_key, newest().actor_key)


@pytest.mark.django_db
def test_an_anonymous_visitor_is_no_actor() -> None:
    Client().get("/me/")

    assert ("401", "", "") == (newest().status, newest().actor_key, newest().actor_label)


def test_a_user_who_logs_out_is_the_actor_of_the_logout(ann: User) -> None:
    client = Client()
    client.force_login(ann)
    client.get("/leave/")

    assert "ann" == Event.objects.get(signal="user_logged_out").actor_label
    assert "ann" == newest().actor_label


def test_a_user_who_logs_in_is_the_actor_of_later_events(ann: User) -> None:
    def enter(request: HttpRequest) -> HttpResponse:
        login(request, ann)
        return tag(request)

    urlpatterns.append(path("enter/", enter))
    try:
        Client().get("/enter/")
    finally:
        urlpatterns.pop()

    assert ["ann"] * 3 == [
        Event.objects.get(signal="user_logged_in").actor_label,
        saved().actor_label,
        newest().actor_label,
    ]


def test_a_token_that_is_read_in_the_view_names_the_actor(ann: User, django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(2):  # user, tag
        response = APIClient().post("/api/", headers={"authorization": "Token ann"})

    assert (200, "ann", "ann") == (response.status_code, saved().actor_label, newest().actor_label)
    assert "api" == newest().data["view"]


def test_force_authenticate_names_the_actor(ann: User, django_assert_num_queries: Any) -> None:
    client = APIClient()
    client.force_authenticate(ann)
    with django_assert_num_queries(1):  # tag
        client.post("/api/")

    assert ("ann", "ann") == (saved().actor_label, newest().actor_label)


class Header:
    """A project's own authentication, which stands last."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        Tag.objects.create(name="before")
        request.user = User.objects.get(username=request.headers["x-user"])
        return self.get_response(request)


def test_a_middleware_of_the_project_s_own_names_the_actor_when_it_sets_the_user(ann: User) -> None:
    with override_settings(MIDDLEWARE=[*AUTH, f"{__name__}.Header"]):
        Client().get("/tag/", headers={"x-user": "ann"})

    assert ("", "ann") == (saved(object_label="before").actor_label, saved(object_label="steam").actor_label)
    assert "ann" == newest().actor_label


def test_a_view_may_name_the_actor_itself(ann: User) -> None:
    client = Client()
    client.force_login(ann)
    client.get("/become/")
    client.get("/me/")

    assert ["ann", "robot"] == list(tags().order_by("-id").values_list("actor_label", flat=True))


@pytest.mark.django_db(transaction=True)
def test_a_user_who_is_loaded_asynchronously_is_the_actor() -> None:
    ann = User.objects.create_user("ann")

    async def view(request: Any) -> HttpResponse:
        user = await request.auser()
        await Tag.objects.acreate(name="steam")
        return HttpResponse(user.get_username())

    async def visit() -> Any:
        client = AsyncClient()
        await client.aforce_login(ann)
        return await client.get("/auser/")

    urlpatterns.append(path("auser/", view))
    try:
        assert b"ann" == async_to_sync(visit)().content
    finally:
        urlpatterns.pop()

    assert ("ann", "ann") == (saved().actor_label, newest().actor_label)


# ------------------------------------------------------------------ no leak from one request to another


@pytest.mark.django_db
def test_after_a_request_its_trace_is_no_longer_current() -> None:
    before = tracing.get_current_trace()
    for url in ("/tag/", "/become/", "/nowhere/"):
        Client().get(url)
        assert tracing.get_current_trace() is before
    Client(raise_request_exception=False).get("/broken/")
    assert tracing.get_current_trace() is before
    with pytest.raises(ZeroDivisionError):
        Client().get("/broken/")
    assert tracing.get_current_trace() is before


@pytest.mark.django_db(transaction=True)  # a real request closes the connection
def test_a_response_that_is_never_closed_ends_when_the_next_request_begins() -> None:
    def unclosed(url: str) -> None:
        environ: dict[str, Any] = {"PATH_INFO": url}
        setup_testing_defaults(environ)
        WSGIHandler()(environ, lambda *_: lambda data: None)

    before = tracing.get_current_trace()
    unclosed("/become/")
    assert tracing.get_current_trace() is not before
    Client().get("/tag/")

    assert tracing.get_current_trace() is before
    rows = list(Trace.objects.filter(kind="request").order_by("id").values_list("data__view", "status", "actor_label"))
    assert [(f"{__name__}.become", "200", "robot"), ("tag", "200", "")] == rows
    assert [("robot",), ("",)] == list(tags().order_by("id").values_list("actor_label"))


@pytest.mark.django_db
def test_what_happens_while_a_response_is_streamed_belongs_to_its_request() -> None:
    before = tracing.get_current_trace()
    response = Client().get("/stream/")
    assert b"rowrow" == b"".join(response)

    assert tracing.get_current_trace() is before
    row = newest()
    labels = list(tags(trace_id=row.trace_id).values_list("object_label", flat=True))
    assert [f"second {row.trace_id}", f"first {row.trace_id}"] == labels


async def served(url: str, disconnect: asyncio.Event | None = None) -> bytes:
    """What an ASGI server does for one request; returns the body."""
    target, _, query = url.partition("?")
    body: list[bytes] = []
    finished = asyncio.Event()
    asked = False

    async def receive() -> dict[str, Any]:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await (disconnect or finished).wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        body.append(message.get("body", b""))

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "path": target,
        "query_string": query.encode(),
        "headers": [(b"host", b"testserver")],
        "client": ("192.0.2.1", 1),
        "server": ("testserver", 80),
    }
    handler: Any = ASGIHandler()
    await handler(scope, receive, send)
    return b"".join(body)


@pytest.mark.django_db(transaction=True)
def test_concurrent_asynchronous_requests_do_not_meet() -> None:
    names = [f"visitor {number}" for number in range(6)]
    MEETING.number, MEETING.expected = 0, len(names)

    async def visit() -> list[bytes]:
        return await asyncio.gather(*(served(f"/atag/?name={name.replace(' ', '%20')}") for name in names))

    before = tracing.get_current_trace()
    ids = [body.decode() for body in asyncio.run(visit())]

    assert tracing.get_current_trace() is before
    assert len(names) == len(set(ids))
    expected = sorted((name, name, trace_id) for name, trace_id in zip(names, ids, strict=True) for _ in range(2))
    rows = tags().values_list("object_label", "actor_label", "trace_id")
    assert expected == sorted(rows)
    actors = Trace.objects.filter(kind="request", trace_id__in=ids).values_list("actor_label", "trace_id")
    assert sorted(zip(names, ids, strict=True)) == sorted(actors)


@pytest.mark.django_db(transaction=True)
def test_concurrent_requests_of_the_asynchronous_client_do_not_meet() -> None:
    names = ["ann", "ben", "cat"]
    MEETING.number, MEETING.expected = 0, len(names)

    async def visit() -> list[Any]:
        return await asyncio.gather(*(AsyncClient().get(f"/atag/?name={name}") for name in names))

    responses = async_to_sync(visit)()

    rows = set(tags().values_list("actor_label", "trace_id"))
    assert sorted((name, r.content.decode()) for name, r in zip(names, responses, strict=True)) == sorted(rows)


@pytest.mark.django_db(transaction=True)
def test_concurrent_requests_in_threads_do_not_meet() -> None:
    names = ["ann", "ben", "cat"]
    ids = {}

    def visit(name: str) -> None:
        try:
            for _ in range(2):  # the second in the same thread
                ids[name] = Client().get(f"/slow/?name={name}").content.decode()
            assert tracing.get_current_trace() is tracing.get_process_trace()
        finally:
            connection.close()

    threads = [threading.Thread(target=visit, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    rows = tags().values_list("object_label", "actor_label")
    assert sorted((name, name) for name in names for _ in range(2)) == sorted(rows)
    assert 3 == len(set(ids.values()))
    assert 6 == Trace.objects.filter(kind="request", status="200").count()


@pytest.mark.django_db(transaction=True)
def test_an_asynchronous_stream_belongs_to_its_request() -> None:
    before = tracing.get_current_trace()
    assert b"rowrow" == asyncio.run(served("/astream/"))

    assert tracing.get_current_trace() is before
    row = newest()
    labels = tags(trace_id=row.trace_id).values_list("object_label", flat=True)
    assert [f"second {row.trace_id}", f"first {row.trace_id}"] == list(labels)
    assert "200" == row.status


@pytest.mark.django_db(transaction=True)
def test_a_closed_connection_of_the_client_ends_the_request() -> None:
    STARTED.clear()

    async def visit() -> None:
        gone = asyncio.Event()
        request = asyncio.create_task(served("/forever/", gone))
        while not STARTED.is_set():  # noqa: ASYNC110 - set in another loop's time
            await asyncio.sleep(0.001)
        gone.set()
        await request

    asyncio.run(visit())

    row = newest()
    assert ("cancelled", f"{__name__}.forever") == (row.status, row.data["view"])
    signals = Event.objects.filter(trace_id=row.trace_id).order_by("span").values_list("signal", flat=True)
    assert ["request_started", "post_save", "request_finished"] == [s for s in signals if s != "connection_created"]


@pytest.mark.django_db(transaction=True)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Django does not close the body
def test_a_request_that_a_stopping_server_cancels_has_a_complete_trace() -> None:
    STARTED.clear()

    async def visit() -> None:
        request = asyncio.create_task(served("/forever/"))
        while not STARTED.is_set():  # noqa: ASYNC110 - set in another loop's time
            await asyncio.sleep(0.001)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        await sync_to_async(connections.close_all)()

    asyncio.run(visit())
    gc.collect()

    row = newest()
    assert ("cancelled", f"{__name__}.forever") == (row.status, row.data["view"])
    assert row.duration is not None
    signals = Event.objects.filter(trace_id=row.trace_id).order_by("span").values_list("signal", flat=True)
    assert ["request_started", "post_save"] == [s for s in signals if s != "connection_created"]


@pytest.mark.django_db(transaction=True)
def test_an_exception_of_an_asynchronous_site_is_noted_with_its_request() -> None:
    async def visit() -> None:
        await served("/broken/")

    asyncio.run(visit())

    event = Event.objects.get(signal="got_request_exception")
    assert "ZeroDivisionError: division by zero" == event.data["args"]["exception"]
    assert (newest().trace_id, "500") == (event.trace_id, newest().status)
