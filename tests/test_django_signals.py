"""Django's signals as the example site documents them, and their events."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from asgiref.testing import ApplicationCommunicator
from django.apps import AppConfig, apps
from django.conf import settings
from django.contrib.auth import authenticate, login, logout
from django.contrib.auth.backends import BaseBackend
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.core import serializers
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.core.management import call_command
from django.core.signals import got_request_exception, request_finished, request_started, setting_changed
from django.db import connections, models
from django.db.backends.signals import connection_created
from django.db.migrations import Migration
from django.db.models.signals import (
    class_prepared,
    m2m_changed,
    post_delete,
    post_init,
    post_migrate,
    post_save,
    pre_delete,
    pre_init,
    pre_migrate,
    pre_save,
)
from django.dispatch import Signal, receiver
from django.http import Http404, HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import path

import signalbox
from signalbox.instrumentation import test_runs
from signalbox.models import Event, Trace
from tests.shop.models import Order, Tag

Sends = list[tuple[Any, dict[str, Any]]]

departed = Signal()
arrived = Signal()


def home(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(10 / 0))


def hello(request: HttpRequest) -> HttpResponse:
    Tag.objects.create(name="visited")
    return HttpResponse("hello")


def missing(request: HttpRequest) -> HttpResponse:
    raise Http404


urlpatterns = [path("home/", home), path("hello/", hello), path("missing/", missing)]


@pytest.fixture
def site() -> Iterator[None]:
    with override_settings(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"]):
        yield


@contextmanager
def heard(signal: Signal, **options: Any) -> Iterator[Sends]:
    """What a receiver of ``signal`` is given inside the block."""
    sends: Sends = []

    def listen(sender: object, signal: Signal, **kwargs: Any) -> None:
        if "kwargs" in kwargs:  # Django empties the dict of pre_init while it sets the fields
            kwargs["kwargs"] = dict(kwargs["kwargs"])
        sends.append((sender, kwargs))

    signal.connect(listen, weak=False, **options)
    try:
        yield sends
    finally:
        signal.disconnect(listen, **options)


def register(signal: str, **fields: Any) -> list[Event]:
    """The register's events of ``signal``, oldest first."""
    return list(Event.objects.filter(signal=signal, **fields).order_by("time", "span"))


def mark() -> int:
    """Return the newest id of an event, after flushing pending events."""
    connections["default"].ensure_connection()
    newest = Event.objects.order_by("-id").first()
    return 0 if newest is None else int(newest.pk)


def request_with_session(user: Any = None) -> HttpRequest:
    request = HttpRequest()
    request.method, request.path = "GET", "/account/"
    request.META.update(SERVER_NAME="testserver", SERVER_PORT="80")
    request.session = Client().session
    if user is not None:
        request.user = user
    return request


# ------------------------------------------------------------------ receivers


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """Two signals of the site's own, and a trace, so that a test finds nothing of another's."""
    signalbox.register_signal(departed, "tests.departed")
    signalbox.register_signal(arrived, "tests.arrived")
    trace = test_runs.start_test("seed")
    yield
    test_runs.finish_test(trace, "ok")


@pytest.mark.django_db
def test_receivers_are_called_one_at_a_time_in_the_order_of_registration() -> None:
    called: list[str] = []

    def make(name: str) -> Callable[..., None]:
        def listen(sender: object, **kwargs: object) -> None:
            called.append(f"{name} begins")
            called.append(f"{name} ends")

        listen.__qualname__ = name
        return listen

    listening = [make(name) for name in ("third", "first", "second")]
    for one in listening:
        departed.connect(one)
    try:
        departed.send(sender=None)
    finally:
        for one in listening:
            departed.disconnect(one)

    assert ["third begins", "third ends", "first begins", "first ends", "second begins", "second ends"] == called
    [event] = register("tests.departed")
    assert [f"{__name__}.{name}" for name in ("third", "first", "second")] == [
        run["name"] for run in event.data["receivers"]
    ]


@pytest.mark.django_db
def test_certain_senders_notify_a_set_of_receivers() -> None:
    with heard(departed, sender=Tag) as of_tags, heard(departed) as of_all:
        departed.send(sender=Tag)
        departed.send(sender=Order)

    assert [Tag] == [sender for sender, _ in of_tags]
    assert [Tag, Order] == [sender for sender, _ in of_all]
    assert [("shop.Tag", 2), ("shop.Order", 1)] == [
        (event.sender, len(event.data["receivers"])) for event in register("tests.departed")
    ]


def test_a_receiver_must_take_the_wildcard_keyword_arguments() -> None:
    def deaf(sender: object) -> None:
        """It can't take what a signal may carry one day."""

    with (
        override_settings(DEBUG=True),
        pytest.raises(ValueError, match=r"must accept keyword arguments \(\*\*kwargs\)"),
    ):
        departed.connect(deaf)
    departed.connect(deaf)  # without DEBUG Django does not look
    try:
        with pytest.raises(TypeError, match="unexpected keyword argument 'signal'"):
            departed.send(sender=None)
    finally:
        departed.disconnect(deaf)


@pytest.mark.django_db
def test_only_a_weakly_connected_local_function_is_collected() -> None:
    called = []

    def connect() -> None:
        def weak(sender: object, **kwargs: object) -> None:
            called.append("weak")

        def strong(sender: object, **kwargs: object) -> None:
            called.append("strong")

        departed.connect(weak)
        departed.connect(strong, weak=False, dispatch_uid="strong")

    connect()
    gc.collect()
    try:
        departed.send(sender=None)
    finally:
        departed.disconnect(dispatch_uid="strong")

    assert ["strong"] == called
    [event] = register("tests.departed")
    [run] = event.data["receivers"]
    assert run["name"].endswith("connect.<locals>.strong")
    assert run["location"].startswith("tests/test_django_signals.py:")


@pytest.mark.django_db
def test_a_dispatch_uid_keeps_a_receiver_from_being_connected_twice() -> None:
    called = []

    def make() -> Callable[..., None]:
        def listen(sender: object, **kwargs: object) -> None:
            called.append(sender)

        return listen

    for _ in range(2):
        departed.connect(make(), weak=False, dispatch_uid="once")
    departed.send(sender=None)
    assert departed.disconnect(dispatch_uid="once")
    assert [None] == called

    same = make()
    for _ in range(2):
        departed.connect(same)  # the function itself is its key
    departed.send(sender=None)
    assert departed.disconnect(same)
    assert [None, None] == called

    for uid in ("one", "two"):
        departed.connect(same, dispatch_uid=uid)
    departed.send(sender=None)
    for uid in ("one", "two"):
        assert departed.disconnect(dispatch_uid=uid)
    assert 4 == len(called)
    assert [1, 1, 2] == [len(event.data["receivers"]) for event in register("tests.departed")]


@pytest.mark.django_db
def test_the_decorator_takes_one_signal_or_a_list_and_a_sender() -> None:
    called = []

    @receiver([departed, arrived], sender=Tag)
    def listen(sender: object, signal: Signal, **kwargs: object) -> None:
        called.append(signal)

    for signal in (departed, arrived):
        signal.send(sender=Tag)
        signal.send(sender=Order)
        assert signal.disconnect(listen, sender=Tag)

    assert [departed, arrived] == called
    for name in ("tests.departed", "tests.arrived"):
        of_tag, of_order = register(name)
        assert ("shop.Tag", "shop.Order") == (of_tag.sender, of_order.sender)
        [run] = of_tag.data["receivers"]
        assert run["name"].endswith("<locals>.listen")
        assert "receivers" not in of_order.data


@pytest.mark.django_db
def test_a_receiver_can_be_a_method() -> None:
    class Station:
        def __init__(self) -> None:
            self.heard = 0

        def hear(self, sender: object, **kwargs: object) -> None:
            self.heard += 1

        @classmethod
        def hear_all(cls, sender: object, **kwargs: object) -> None:
            """A method of the class."""

    station = Station()
    departed.connect(station.hear)
    departed.connect(Station.hear_all)
    departed.send(sender=None)
    assert 1 == station.heard
    assert departed.disconnect(Station.hear_all)
    [event] = register("tests.departed")
    assert ["hear", "hear_all"] == [run["name"].rpartition(".")[2] for run in event.data["receivers"]]

    del station  # a method is held as weakly as its object
    gc.collect()
    assert not departed.has_listeners()


# ------------------------------------------------------------------ login and logout


@pytest.mark.django_db
def test_user_logged_in_is_sent_by_the_user_s_class_with_request_and_user() -> None:
    user, request = User.objects.create_user("ann", password="steam"), request_with_session()
    with heard(user_logged_in) as sends:
        login(request, user)

    assert [(User, {"request": request, "user": user})] == sends
    [event] = register("user_logged_in")
    assert ("auth.User", str(user.pk), "ann") == (event.sender, event.object_key, event.object_label)
    assert {"request", "user"} == event.data["args"].keys()
    assert {"method": "GET", "path": "/account/"} == event.data["args"]["request"]
    assert user.password not in json.dumps(event.data)


@pytest.mark.django_db
def test_user_logged_out_is_sent_by_the_user_s_class_with_request_and_user() -> None:
    user = User.objects.create_user("ann")
    request = request_with_session(user)
    with heard(user_logged_out, sender=User) as sends:
        logout(request)

    assert [(User, {"request": request, "user": user})] == sends
    [event] = register("user_logged_out")
    assert ("auth.User", str(user.pk), "sent") == (event.sender, event.object_key, event.outcome)


@pytest.mark.django_db
def test_user_logged_out_of_nobody_has_the_class_of_none_as_sender_and_no_user() -> None:
    """The document says that the sender is None; Django sends ``type(None)``, so ``sender=User`` does not hear it."""
    request = request_with_session(AnonymousUser())
    with heard(user_logged_out) as sends, heard(user_logged_out, sender=User) as of_users:
        logout(request)

    assert ([(type(None), {"request": request, "user": None})], []) == (sends, of_users)
    [event] = register("user_logged_out")
    assert ("", "", None) == (event.sender, event.object_key, event.data["args"]["user"])


@pytest.mark.django_db
def test_user_login_failed_is_recorded_with_cleansed_credentials() -> None:
    request = request_with_session()
    with heard(user_login_failed) as sends:
        assert authenticate(request, username="ann", password="s3cr3t") is None
        assert authenticate(username="ann", password="s3cr3t") is None

    cleansed = {"username": "ann", "password": "*" * 20}
    sender = "django.contrib.auth"
    assert [
        (sender, {"credentials": cleansed, "request": request}),
        (sender, {"credentials": cleansed, "request": None}),
    ] == sends
    first, second = register("user_login_failed")
    assert {"credentials", "request"} == first.data["args"].keys()
    assert (sender, "sent") == (first.sender, first.outcome)
    assert {"method": "GET", "path": "/account/"} == first.data["args"]["request"]
    assert second.data["args"]["request"] is None
    assert "ann" == first.data["args"]["credentials"]["username"]
    assert "s3cr3t" not in json.dumps([first.data, second.data])


class Tokens(BaseBackend):
    """A project's own backend, which takes credentials that Django's own doesn't know."""

    def authenticate(self, request: Any, api_token: str = "", pin: str = "", **kwargs: Any) -> None:
        return None


@pytest.mark.django_db
@override_settings(AUTHENTICATION_BACKENDS=[f"{__name__}.Tokens"])
def test_credentials_that_match_a_sensitive_pattern_are_not_sent_in_the_clear() -> None:
    with heard(user_login_failed) as sends:
        authenticate(api_token="s3cr3t-token", secret_word="s3cr3t-word", station="Crewe")

    [(_, arguments)] = sends
    assert {"api_token": "*" * 20, "secret_word": "*" * 20, "station": "Crewe"} == arguments["credentials"]
    [event] = register("user_login_failed")
    assert "Crewe" == event.data["args"]["credentials"]["station"]
    assert "s3cr3t-" not in json.dumps(event.data)


# ------------------------------------------------------------------ models


@pytest.mark.django_db
def test_pre_init_has_the_arguments_of_the_constructor_and_post_init_the_instance() -> None:
    with signalbox.trace("seed") as trace, heard(pre_init) as before, heard(post_init) as after:
        tag = Tag(7, name="steam")
        assert [(Tag, {"args": (7,), "kwargs": {"name": "steam"}})] == before
        assert [(Tag, {"instance": tag})] == after
        tag.save()
        Tag.objects.get()  # what is loaded is instantiated, too
    assert (2, 2) == (len(before), len(after))
    assert (7, "steam") == before[1][1]["args"]

    counts = Trace.objects.get(trace_id=trace.id).data["send_counts"]
    assert {"pre_init": {"shop.Tag": 2}, "post_init": {"shop.Tag": 2}} == counts


def test_pre_init_is_sent_before_and_post_init_after_the_fields_are_set() -> None:
    seen: list[Any] = []

    def before(sender: object, **kwargs: object) -> None:
        seen.append("before")

    def after(sender: object, instance: Tag, **kwargs: object) -> None:
        seen.append(instance.name)

    pre_init.connect(before, sender=Tag)
    post_init.connect(after, sender=Tag)
    try:
        Tag(name="steam")
    finally:
        pre_init.disconnect(before, sender=Tag)
        post_init.disconnect(after, sender=Tag)

    assert ["before", "steam"] == seen


@pytest.mark.django_db
def test_pre_save_and_post_save_carry_instance_raw_using_and_update_fields() -> None:
    with heard(pre_save, sender=Tag) as before, heard(post_save, sender=Tag) as after:
        tag = Tag(name="steam")
        tag.save()
        tag.save(update_fields=["name"])

    common = {"instance": tag, "raw": False, "using": "default"}
    assert [{**common, "update_fields": None}, {**common, "update_fields": frozenset({"name"})}] == [
        arguments for _, arguments in before
    ]
    assert [
        {**common, "created": True, "update_fields": None},
        {**common, "created": False, "update_fields": frozenset({"name"})},
    ] == [arguments for _, arguments in after]
    assert [Tag] * 4 == [sender for sender, _ in (*before, *after)]

    for event, fields in zip(register("pre_save", sender="shop.Tag"), (None, ["name"]), strict=True):
        assert {"raw": False, "update_fields": fields} == event.data["args"]
        assert (str(tag.pk), "default", "committed") == (event.object_key, event.database, event.outcome)
    for event, created, fields in zip(register("post_save"), (True, False), (None, ["name"]), strict=True):
        assert {"created": created, "raw": False, "update_fields": fields} == event.data["args"]
        assert (str(tag.pk), "default", "committed") == (event.object_key, event.database, event.outcome)


@pytest.mark.django_db
def test_pre_save_is_sent_before_the_row_is_there_and_post_save_after() -> None:
    there = {}

    def look(sender: object, signal: Signal, **kwargs: object) -> None:
        there[signal] = Tag.objects.exists()

    for signal in (pre_save, post_save):
        signal.connect(look, sender=Tag)
    try:
        Tag.objects.create(name="steam")
    finally:
        for signal in (pre_save, post_save):
            signal.disconnect(look, sender=Tag)

    assert {pre_save: False, post_save: True} == there


@pytest.mark.django_db
def test_raw_is_true_while_a_fixture_is_loaded() -> None:
    with heard(pre_save, sender=Tag) as before, heard(post_save, sender=Tag) as after:
        for found in serializers.deserialize("json", '[{"model": "shop.tag", "pk": 7, "fields": {"name": "steam"}}]'):
            found.save()

    assert [True, True] == [arguments["raw"] for _, arguments in (*before, *after)]
    assert [True, True] == [event.data["args"]["raw"] for event in (*register("pre_save"), *register("post_save"))]


@pytest.mark.django_db(databases=["default", "other"])
def test_using_is_the_alias_of_the_database_that_is_used() -> None:
    with heard(pre_save) as saving, heard(post_delete) as deleted:
        tag = Tag(name="steam")
        tag.save(using="other")
        tag.delete(using="other")

    assert ["other", "other"] == [arguments["using"] for _, arguments in (*saving, *deleted)]
    found = Event.objects.using("other").filter(sender="shop.Tag", signal__in=["pre_save", "post_delete"])
    assert {("pre_save", "other"), ("post_delete", "other")} == {(event.signal, event.database) for event in found}


@pytest.mark.django_db
@pytest.mark.parametrize("by", ["instance", "queryset"])
def test_a_delete_is_recorded_from_the_instance_and_from_the_queryset(by: str) -> None:
    tag = Tag.objects.create(name="steam")
    key, there = tag.pk, {}

    def look(sender: Any, signal: Signal, instance: Tag, **kwargs: object) -> None:
        there[signal] = (sender, instance, instance.pk, Tag.objects.filter(pk=key).exists(), kwargs["using"])

    for signal in (pre_delete, post_delete):
        signal.connect(look)
    try:
        if by == "instance":
            tag.delete()
        else:
            Tag.objects.filter(name="steam").delete()
    finally:
        for signal in (pre_delete, post_delete):
            signal.disconnect(look)

    assert (Tag, key, True, "default") == (there[pre_delete][0], *there[pre_delete][2:])
    assert (Tag, key, False, "default") == (there[post_delete][0], *there[post_delete][2:])
    assert isinstance(there[post_delete][1], Tag)
    for name in ("pre_delete", "post_delete"):
        [event] = register(name, sender="shop.Tag")
        assert (str(key), "steam", "default", "committed") == (
            event.object_key,
            event.object_label,
            event.database,
            event.outcome,
        )


@pytest.mark.django_db
def test_a_delete_of_several_rows_has_an_event_for_each() -> None:
    for name in ("steam", "coal"):
        Tag.objects.create(name=name)
    with heard(pre_delete) as before, heard(post_delete) as after:
        Tag.objects.all().delete()

    names = {"steam", "coal"}
    assert names == {arguments["instance"].name for _, arguments in before}
    assert names == {arguments["instance"].name for _, arguments in after}
    assert names == {event.object_label for event in register("post_delete")}


ADD = ("pre_add", "post_add")
REMOVE = ("pre_remove", "post_remove")
CLEAR = ("pre_clear", "post_clear")


@pytest.mark.django_db
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("actions", [ADD, REMOVE, CLEAR])
def test_m2m_changed_is_sent_by_the_table_between_with_each_action(actions: tuple[str, str], reverse: bool) -> None:
    order, tag = Order.objects.create(number="A-1"), Tag.objects.create(name="steam")
    near, far, manager = (tag, order, tag.orders) if reverse else (order, tag, order.tags)
    if actions != ADD:
        order.tags.add(tag)
    begin = mark()
    with heard(m2m_changed) as sends:
        if actions == ADD:
            manager.add(far)  # type: ignore[arg-type]
        elif actions == REMOVE:
            manager.remove(far)  # type: ignore[arg-type]
        else:
            manager.clear()

    for _, arguments in sends:
        arguments.pop("raw", None)  # Django 6.1
    keys = None if actions == CLEAR else {far.pk}
    assert [
        (
            Order.tags.through,
            {
                "instance": near,
                "action": action,
                "reverse": reverse,
                "model": type(far),
                "pk_set": keys,
                "using": "default",
            },
        )
        for action in actions
    ] == sends
    events = register("m2m_changed", id__gt=begin)
    assert list(actions) == [event.data["args"]["action"] for event in events]
    for event in events:
        assert ("shop.Order_tags", str(near.pk), "default", "committed") == (
            event.sender,
            event.object_key,
            event.database,
            event.outcome,
        )
        assert (reverse, type(far)._meta.label) == (event.data["args"]["reverse"], event.data["args"]["model"])
    if keys is not None:
        assert [[far.pk]] * 2 == [event.data["args"]["pk_set"] for event in events]


@pytest.mark.django_db
def test_m2m_changed_is_sent_for_set_as_well() -> None:
    order = Order.objects.create(number="A-1")
    steam, coal = Tag.objects.create(name="steam"), Tag.objects.create(name="coal")
    order.tags.add(steam)
    with heard(m2m_changed) as sends:
        order.tags.set([coal])

    assert [*REMOVE, *ADD] == [arguments["action"] for _, arguments in sends]


CLASS_PREPARED = """
from django.apps import AppConfig
from django.db.models.signals import class_prepared

class Early(AppConfig):
    name = "early"
    heard_early, heard_late = [], []

    def __init__(self, *args):
        super().__init__(*args)
        class_prepared.connect(self.early)

    def early(self, sender, **kwargs):
        self.heard_early.append((sender._meta.label, sorted(set(kwargs) - {"signal"})))

    def late(self, sender, **kwargs):
        self.heard_late.append(sender._meta.label)

    def ready(self):
        class_prepared.connect(self.late)
"""

CLASS_PREPARED_MODELS = """
from django.db import models

class Engine(models.Model):
    class Meta:
        app_label = "early"
"""

CLASS_PREPARED_PROGRAM = """
import django, json
django.setup()
from django.apps import apps
from django.core.management import call_command
config = apps.get_app_config("early")
print(json.dumps([config.heard_early, config.heard_late]))
call_command("migrate", verbosity=0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("first", [True, False])
def test_class_prepared_is_heard_from_the_app_s_constructor_and_not_from_ready(first: bool, tmp_path: Path) -> None:
    place = tmp_path / "early"
    place.mkdir()
    (place / "__init__.py").write_text("")
    (place / "apps.py").write_text(CLASS_PREPARED)
    (place / "models.py").write_text(CLASS_PREPARED_MODELS)
    own = ["signalbox", "early"] if first else ["early", "signalbox"]
    (tmp_path / "site_settings.py").write_text(
        f"SECRET_KEY = 'x'\nUSE_TZ = True\nINSTALLED_APPS = {[*own, 'django.contrib.contenttypes']!r}\n"
        f"DATABASES = {{'default': {{'ENGINE': 'django.db.backends.sqlite3', 'NAME': {str(tmp_path / 'db')!r}}}}}\n"
        "DEFAULT_AUTO_FIELD = 'django.db.models.BigAutoField'\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", CLASS_PREPARED_PROGRAM],
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "site_settings",
            "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)]),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (0, "") == (run.returncode, run.stderr)

    early, late = json.loads(run.stdout)
    assert ["early.Engine", []] in early
    assert [] == late
    with closing(sqlite3.connect(tmp_path / "db")) as database:
        rows = database.execute("SELECT sender FROM signalbox_event WHERE signal = 'class_prepared'").fetchall()
    assert ("early.Engine",) in rows


@pytest.mark.django_db
def test_class_prepared_is_sent_by_the_class() -> None:
    from django.apps.registry import Apps

    meta = type("Meta", (), {"app_label": "seed", "apps": Apps()})
    with heard(class_prepared) as sends:
        made = type("Prepared", (models.Model,), {"__module__": __name__, "Meta": meta})

    assert [(made, {})] == sends
    assert ["seed.Prepared"] == [event.sender for event in register("class_prepared", sender="seed.Prepared")]


# ------------------------------------------------------------------ requests


def visit(url: str) -> tuple[str, dict[str, Any]]:
    """Visit ``url`` as a server does; returns the status and the environ."""
    environ: dict[str, Any] = {"PATH_INFO": url}
    setup_testing_defaults(environ)
    statuses: list[str] = []

    def start_response(status: str, headers: object, exc_info: object = None) -> Any:
        statuses.append(status)
        return lambda data: None

    response = WSGIHandler()(environ, start_response)
    b"".join(response)
    response.close()
    return statuses[0], environ


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("site")
def test_a_request_begins_and_ends_with_a_signal_of_its_handler() -> None:
    begin = mark()
    with heard(request_started) as started, heard(request_finished) as finished:
        status, environ = visit("/hello/")
        assert [(WSGIHandler, {})] == finished

    assert ("200 OK", [(WSGIHandler, {"environ": environ})]) == (status, started)
    handler = "django.core.handlers.wsgi.WSGIHandler"
    [event] = register("request_started", id__gt=begin)
    assert (handler, "sent") == (event.sender, event.outcome)
    assert ("GET", "/hello/") == (event.data["args"]["environ"]["method"], event.data["args"]["environ"]["path"])
    [event] = register("request_finished", id__gt=begin)
    assert handler == event.sender


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("site")
def test_request_finished_is_recorded_after_the_response_was_delivered() -> None:
    environ: dict[str, Any] = {"PATH_INFO": "/hello/"}
    setup_testing_defaults(environ)
    with heard(request_finished) as finished:
        response = WSGIHandler()(environ, lambda *_: lambda data: None)
        assert [b"hello"] == list(response)
        assert [] == finished
        response.close()
        assert [(WSGIHandler, {})] == finished


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("site")
def test_an_asynchronous_handler_gives_its_scope_in_the_place_of_an_environ() -> None:
    scope = {"type": "http", "method": "GET", "path": "/hello/", "headers": [(b"host", b"testserver")]}

    async def visit_by_asgi() -> None:
        application: Any = ApplicationCommunicator(ASGIHandler(), scope)  # type: ignore[no-untyped-call]
        await application.send_input({"type": "http.request", "body": b""})
        assert 200 == (await application.receive_output(30))["status"]
        await application.receive_output(30)
        await application.wait(30)

    begin = mark()
    with heard(request_started) as started, heard(request_finished) as finished:
        asyncio.run(visit_by_asgi())

    assert [ASGIHandler] == [sender for sender, _ in started] == [sender for sender, _ in finished]
    assert ["scope"] == list(started[0][1])
    [event] = register("request_started", id__gt=begin)
    assert ("django.core.handlers.asgi.ASGIHandler", "/hello/") == (event.sender, event.data["args"]["scope"]["path"])


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("site")
def test_got_request_exception_is_sent_by_none_with_the_request() -> None:
    begin = mark()
    with heard(got_request_exception) as sends:
        status, _ = visit("/home/")

    [(sender, arguments)] = sends
    assert ("500 Internal Server Error", None, ["request"]) == (status, sender, list(arguments))
    assert "/home/" == arguments["request"].path
    [event] = register("got_request_exception", id__gt=begin)
    assert ("", "sent") == (event.sender, event.outcome)
    assert {"method": "GET", "path": "/home/"} == event.data["args"]["request"]
    assert "ZeroDivisionError: division by zero" == event.data["args"]["exception"]


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("site")
def test_got_request_exception_is_not_sent_for_an_answer_that_is_raised() -> None:
    """The document says "an exception"; ``Http404`` and its kin are answers."""
    with heard(got_request_exception) as sends:
        assert "404 Not Found" == visit("/missing/")[0]

    assert [] == sends


# ------------------------------------------------------------------ management


@pytest.fixture
def scratch(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Alias of an empty database."""
    alias = "scratch"
    connections.settings[alias] = {
        **connections.settings["default"],
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(tmp_path / "scratch.sqlite3"),
        "OPTIONS": {},
    }

    def forget() -> None:
        connections[alias].close()
        del connections[alias]
        del connections.settings[alias]

    request.node.addfinalizer(forget)
    request.node.add_marker(pytest.mark.django_db(transaction=True, databases=["default", alias]))
    request.getfixturevalue("transactional_db")
    return alias


def migrate(alias: str) -> None:
    call_command("migrate", database=alias, verbosity=0, interactive=False)


WITH_MODELS = [config for config in apps.get_app_configs() if config.models_module is not None]
WITHOUT_MODELS = [config for config in apps.get_app_configs() if config.models_module is None]


def test_migrations_have_events_before_and_after_for_each_app_with_models(scratch: str) -> None:
    begin = mark()
    with heard(pre_migrate) as before, heard(post_migrate) as after:
        migrate(scratch)

    assert {"staticfiles", "messages"} <= {config.label for config in WITHOUT_MODELS}
    for sends, name in ((before, "pre_migrate"), (after, "post_migrate")):
        assert WITH_MODELS == [sender for sender, _ in sends]
        recorded = register(name, database=scratch, id__gt=begin)
        # Those of Signalbox itself and of the senders that are ignored are not news.
        ignored = {"signalbox", "sessions", "contenttypes"}
        assert [c.name for c in WITH_MODELS if c.label not in ignored] == [event.sender for event in recorded]
        for event in recorded:
            assert {"app_config", "verbosity", "interactive", "plan", "apps"} <= event.data["args"].keys()
            assert (0, False) == (event.data["args"]["verbosity"], event.data["args"]["interactive"])
            assert ["auth.0001_initial", False] in event.data["args"]["plan"]


def test_the_arguments_of_pre_migrate_and_post_migrate_are_what_the_document_says(scratch: str) -> None:
    with heard(pre_migrate) as before, heard(post_migrate) as after:
        migrate(scratch)

    for sender, arguments in (*before, *after):
        assert isinstance(sender, AppConfig)
        assert sender is arguments["app_config"]
        assert (0, False, scratch) == (arguments["verbosity"], arguments["interactive"], arguments["using"])
        assert all(isinstance(one, Migration) and rolled_back is False for one, rolled_back in arguments["plan"])
    # The state of the project before, and after the run; never the global registry.
    assert "auth.User" not in {model._meta.label for model in before[0][1]["apps"].get_models()}
    assert "auth.User" in {model._meta.label for model in after[0][1]["apps"].get_models()}
    assert after[0][1]["apps"].get_model("auth", "User") is not User


def test_a_migration_that_is_rolled_back_says_so_in_the_plan(scratch: str) -> None:
    migrate(scratch)
    with heard(post_migrate) as after:
        call_command("migrate", "sessions", "zero", database=scratch, verbosity=0, interactive=False)

    assert [("0001_initial", True)] == [(one.name, rolled_back) for one, rolled_back in after[0][1]["plan"]]
    assert [["sessions.0001_initial", True]] == register("post_migrate", database=scratch)[-1].data["args"]["plan"]


def test_post_migrate_is_sent_even_if_no_migrations_are_run(scratch: str) -> None:
    migrate(scratch)
    begin = mark()
    with heard(pre_migrate) as before, heard(post_migrate) as after:
        migrate(scratch)

    assert (len(WITH_MODELS), len(WITH_MODELS)) == (len(before), len(after))
    assert [] == after[0][1]["plan"]
    assert [] == register("post_migrate", id__gt=begin)[0].data["args"]["plan"]


def test_flush_sends_post_migrate_without_plan_and_apps(scratch: str) -> None:
    """The document lists both for every send: a receiver that requires them fails at flush."""
    migrate(scratch)
    begin = mark()
    with heard(pre_migrate) as before, heard(post_migrate) as after:
        call_command("flush", database=scratch, verbosity=0, interactive=False)

    assert ([], len(WITH_MODELS)) == (before, len(after))
    assert {"app_config", "verbosity", "interactive", "using"} <= after[0][1].keys()
    assert not {"plan", "apps"} & after[0][1].keys()
    events = register("post_migrate", id__gt=begin, database=scratch)
    assert "tests.shop" in [event.sender for event in events]
    assert not {"plan", "apps"} & events[0].data["args"].keys()


def test_a_receiver_of_post_migrate_that_requires_the_plan_fails_at_flush(scratch: str) -> None:
    migrate(scratch)

    def listen(sender: object, plan: object, apps: object, **kwargs: object) -> None:
        """As the document writes it."""

    post_migrate.connect(listen)
    try:
        with pytest.raises(TypeError, match="missing 2 required positional arguments: 'plan' and 'apps'"):
            call_command("flush", database=scratch, verbosity=0, interactive=False)
    finally:
        post_migrate.disconnect(listen)


# ------------------------------------------------------------------ tests


@pytest.mark.django_db
def test_setting_changed_is_sent_when_a_value_is_applied_and_when_it_is_restored() -> None:
    with signalbox.trace("seed") as trace, heard(setting_changed) as sends, override_settings(LANGUAGE_CODE="cy"):
        assert 1 == len(sends)

    assert [
        {"setting": "LANGUAGE_CODE", "value": "cy", "enter": True},
        {"setting": "LANGUAGE_CODE", "value": "en-us", "enter": False},
    ] == [arguments for _, arguments in sends]
    events = register("setting_changed", trace_id=trace.id)
    assert [arguments for _, arguments in sends] == [event.data["args"] for event in events]
    assert ["LANGUAGE_CODE"] * 2 == [event.object_key for event in events]


@pytest.mark.django_db
def test_setting_changed_of_a_setting_that_did_not_exist_ends_with_none() -> None:
    with signalbox.trace("seed") as trace, heard(setting_changed) as sends, override_settings(STATION="Crewe"):
        pass

    assert [("Crewe", True), (None, False)] == [(arguments["value"], arguments["enter"]) for _, arguments in sends]
    events = register("setting_changed", trace_id=trace.id)
    assert [("Crewe", True), (None, False)] == [
        (event.data["args"]["value"], event.data["args"]["enter"]) for event in events
    ]


@pytest.mark.django_db
def test_the_event_of_a_changed_secret_setting_has_no_value() -> None:
    with signalbox.trace("seed") as trace, override_settings(SECRET_KEY="s3cr3t-key"):
        pass

    events = register("setting_changed", trace_id=trace.id)
    assert 2 == len(events)
    assert "s3cr3t-key" not in json.dumps([event.data for event in events])


@pytest.mark.django_db
def test_setting_changed_is_sent_by_the_settings_handler() -> None:
    handler: Any = settings
    with signalbox.trace("seed") as trace, heard(setting_changed) as sends:
        with override_settings(LANGUAGE_CODE="cy"):
            during = type(handler._wrapped)
        after = type(handler._wrapped)

    assert [during, after] == [sender for sender, _ in sends]
    assert [f"{sender.__module__}.{sender.__qualname__}" for sender in (during, after)] == [
        event.sender for event in register("setting_changed", trace_id=trace.id)
    ]


def test_setting_changed_is_sent_by_the_context_manager_of_test_cases(settings: Any) -> None:
    from django.test import SimpleTestCase

    with heard(setting_changed) as sends, SimpleTestCase().settings(LANGUAGE_CODE="cy"):
        pass

    assert [True, False] == [arguments["enter"] for _, arguments in sends]


def test_setting_changed_can_be_imported_from_both_places() -> None:
    from django.core import signals as core_signals
    from django.test import signals as test_signals

    assert core_signals.setting_changed is test_signals.setting_changed


# ------------------------------------------------------------------ database wrappers


def test_connection_created_is_sent_by_the_wrapper_s_class_for_each_connection(scratch: str) -> None:
    with signalbox.trace("seed") as trace, heard(connection_created) as sends:
        for alias in ("default", scratch):
            connections[alias].close()
            connections[alias].ensure_connection()
            connections[alias].ensure_connection()

    assert [
        (type(connections["default"]), {"connection": connections["default"]}),
        (type(connections[scratch]), {"connection": connections[scratch]}),
    ] == [(sender, {"connection": arguments["connection"]}) for sender, arguments in sends]
    events = register("connection_created", trace_id=trace.id)
    wrappers = [f"{type(c).__module__}.{type(c).__qualname__}" for c in (connections["default"], connections[scratch])]
    assert wrappers == [event.sender for event in events]
    assert [{"alias": alias, "vendor": connections[alias].vendor} for alias in ("default", scratch)] == [
        event.data["args"]["connection"] for event in events
    ]


def test_a_command_may_be_sent_to_each_connection_that_is_created(scratch: str) -> None:
    def prepare(sender: object, connection: Any, **kwargs: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute("CREATE TEMPORARY TABLE prepared (id integer)")

    connections[scratch].close()
    connection_created.connect(prepare)
    try:
        with connections[scratch].cursor() as cursor:
            cursor.execute("SELECT count(*) FROM prepared")
            assert (0,) == cursor.fetchone()
    finally:
        connection_created.disconnect(prepare)
