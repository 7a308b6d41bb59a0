from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from inspect import isclass
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import django
import pytest
from asgiref.testing import ApplicationCommunicator
from django.apps import AppConfig
from django.apps.registry import Apps
from django.contrib.auth import authenticate, logout
from django.contrib.auth.models import Group, User
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.base import BaseHandler
from django.core.handlers.wsgi import WSGIHandler
from django.core.management import call_command
from django.db import connections, models
from django.dispatch import Signal
from django.http import HttpRequest, HttpResponse
from django.template import Context, Engine, Template
from django.test import Client, override_settings
from django.urls import path

from signalbox.core import catalog
from signalbox.core.catalog import BUILTIN_SIGNALS, SignalInfo

SENT = [name for name, entry in BUILTIN_SIGNALS.items() if entry.path]
BULK = [name for name, entry in BUILTIN_SIGNALS.items() if not entry.path]


def broken(request: HttpRequest) -> HttpResponse:
    raise ZeroDivisionError


urlpatterns = [path("broken/", broken)]


@contextmanager
def recorded_sends(signal: Signal) -> Iterator[list[tuple[Any, dict[str, Any]]]]:
    """What a receiver of ``signal`` is given inside the block: senders and arguments."""
    sends: list[tuple[Any, dict[str, Any]]] = []

    def receiver(sender: object, signal: Signal, **kwargs: object) -> None:
        sends.append((sender, kwargs))

    signal.connect(receiver, weak=False)
    try:
        yield sends
    finally:
        signal.disconnect(receiver)


@pytest.fixture
def scratch(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Alias of an empty database that is migrated and flushed without harm to the others."""
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

    # At the node, to run after the database fixture's own end, which flushes this alias too.
    request.node.addfinalizer(forget)
    # Added here and not on the test: pytest-django looks up the aliases before the alias would exist.
    request.node.add_marker(pytest.mark.django_db(transaction=True, databases=["default", alias]))
    request.getfixturevalue("transactional_db")
    return alias


@pytest.fixture
def sends(name: str, request: pytest.FixtureRequest) -> list[tuple[Any, dict[str, Any]]]:
    """What the receivers of the signal ``name`` are given when Django is made to send it."""
    cause = CAUSES[name]
    if cause in CLOSE_CONNECTIONS:
        request.node.add_marker(pytest.mark.django_db(transaction=True))
    alias = request.getfixturevalue("scratch" if cause in NEED_SCRATCH else "db") or "default"
    with recorded_sends(catalog.import_signal(BUILTIN_SIGNALS[name])) as sends:
        cause(alias)
    assert sends
    return sends


def log_in_and_out(alias: str) -> None:
    User.objects.create_user("ann", password="correct horse")
    client = Client()
    assert client.login(username="ann", password="correct horse")
    client.logout()


def fail_to_log_in(alias: str) -> None:
    assert not Client().login(username="ann", password="wrong")


def save_and_delete(alias: str) -> None:
    group = Group.objects.create(name="drivers")
    group.save(update_fields=["name"])
    group.delete()


def change_groups(alias: str) -> None:
    user, group = User.objects.create(username="ann"), Group.objects.create(name="drivers")
    user.groups.add(group)
    group.user_set.remove(user)
    user.groups.clear()


def prepare_a_class(alias: str) -> None:
    meta = type("Meta", (), {"app_label": "catalog", "apps": Apps()})
    type("Prepared", (models.Model,), {"__module__": __name__, "Meta": meta})


def visit(alias: str) -> None:
    """Through the servers' own entries: the test clients send request_finished without a sender."""
    environ: dict[str, Any] = {"PATH_INFO": "/broken/"}
    setup_testing_defaults(environ)
    scope = {"type": "http", "method": "GET", "path": "/broken/", "headers": [(b"host", b"127.0.0.1")]}

    async def visit_by_asgi() -> None:
        application: Any = ApplicationCommunicator(ASGIHandler(), scope)  # type: ignore[no-untyped-call]
        await application.send_input({"type": "http.request", "body": b""})
        assert 500 == (await application.receive_output(30))["status"]
        await application.wait(30)

    with override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=[], ALLOWED_HOSTS=["127.0.0.1"]):
        WSGIHandler()(environ, lambda *status_and_headers: bytes).close()
        asyncio.run(visit_by_asgi())


def migrate_and_flush(alias: str) -> None:
    call_command("migrate", database=alias, verbosity=0, interactive=False)
    call_command("flush", database=alias, verbosity=0, interactive=False)


def override_a_setting(alias: str) -> None:
    with override_settings(LANGUAGE_CODE="cy"):
        pass


def render_a_template(alias: str) -> None:
    Engine().from_string("steam").render(Context())


def open_a_connection(alias: str) -> None:
    connections[alias].ensure_connection()


def do_nothing() -> None:
    pass


def run_a_task(alias: str) -> None:
    from django.tasks import task

    with override_settings(TASKS={"default": {"BACKEND": "django.tasks.backends.immediate.ImmediateBackend"}}):
        task(do_nothing).enqueue()


CAUSES: dict[str, Callable[[str], None]] = {
    "user_logged_in": log_in_and_out,
    "user_logged_out": log_in_and_out,
    "user_login_failed": fail_to_log_in,
    "pre_init": save_and_delete,
    "post_init": save_and_delete,
    "pre_save": save_and_delete,
    "post_save": save_and_delete,
    "pre_delete": save_and_delete,
    "post_delete": save_and_delete,
    "m2m_changed": change_groups,
    "class_prepared": prepare_a_class,
    "request_started": visit,
    "request_finished": visit,
    "got_request_exception": visit,
    "pre_migrate": migrate_and_flush,
    "post_migrate": migrate_and_flush,
    "setting_changed": override_a_setting,
    "template_rendered": render_a_template,
    "connection_created": open_a_connection,
    "task_enqueued": run_a_task,
    "task_started": run_a_task,
    "task_finished": run_a_task,
}
NEED_SCRATCH = {migrate_and_flush, open_a_connection}
CLOSE_CONNECTIONS = {visit}  # and so end the transaction of a test that expects to be in one


def is_of_kind(kind: str, sender: object) -> bool:
    """Whether ``sender`` is what ``kind`` says."""
    match kind:
        case "model":
            return isclass(sender) and issubclass(sender, models.Model)
        case "through":
            return sender in {field.remote_field.through for field in (User.groups.field, User.user_permissions.field)}
        case "handler":
            return isclass(sender) and issubclass(sender, BaseHandler)
        case "class":
            return isclass(sender) and not issubclass(sender, (models.Model, BaseHandler))
        case "module":
            return isinstance(sender, str) and import_module(sender).__name__ == sender
        case "app_config":
            return isinstance(sender, AppConfig)
        case "none":
            return sender is None
        case "any":
            return not isclass(sender) and not isinstance(sender, (str, AppConfig)) and sender is not None
    raise ValueError(f"no such kind of sender: {kind!r}")


@pytest.mark.parametrize("name", SENT)
def test_the_arguments_that_arrive_are_those_of_the_catalogue(
    name: str, sends: list[tuple[Any, dict[str, Any]]]
) -> None:
    arrived = [set(arguments) for _, arguments in sends]

    assert set(BUILTIN_SIGNALS[name].args) == set.union(*arrived)
    assert set(BUILTIN_SIGNALS[name].args) - BUILTIN_SIGNALS[name].optional == set.intersection(*arrived)


@pytest.mark.parametrize("name", SENT)
def test_the_sender_is_of_the_kind_that_the_catalogue_says(name: str, sends: list[tuple[Any, dict[str, Any]]]) -> None:
    assert [] == [sender for sender, _ in sends if not is_of_kind(BUILTIN_SIGNALS[name].sender_kind, sender)]


def test_flush_sends_post_migrate_without_plan_and_apps(scratch: str) -> None:
    call_command("migrate", database=scratch, verbosity=0, interactive=False)
    with recorded_sends(catalog.import_signal(BUILTIN_SIGNALS["post_migrate"])) as sends:
        call_command("flush", database=scratch, verbosity=0, interactive=False)

    entry = BUILTIN_SIGNALS["post_migrate"]
    assert {frozenset(entry.args) - entry.optional} == {frozenset(arguments) for _, arguments in sends}


def test_the_sender_of_a_logout_without_a_user_is_the_class_of_none(db: None) -> None:
    client = Client()
    request = HttpRequest()
    request.session = client.session
    with recorded_sends(catalog.import_signal(BUILTIN_SIGNALS["user_logged_out"])) as sends:
        logout(request)

    assert [(type(None), None)] == [(sender, arguments["user"]) for sender, arguments in sends]


def test_a_failed_login_without_a_request_carries_none_as_its_request(db: None) -> None:
    with recorded_sends(catalog.import_signal(BUILTIN_SIGNALS["user_login_failed"])) as sends:
        assert authenticate(username="ann", password="wrong") is None

    assert [("django.contrib.auth", None)] == [(sender, arguments["request"]) for sender, arguments in sends]


def test_a_rendered_template_is_sender_and_argument(db: None) -> None:
    with recorded_sends(catalog.import_signal(BUILTIN_SIGNALS["template_rendered"])) as sends:
        render_a_template("")

    [(sender, arguments)] = sends
    assert isinstance(sender, Template)
    assert sender is arguments["template"]


def test_every_signal_of_django_is_in_the_catalogue() -> None:
    undocumented = {"autoreload_started", "file_changed"}  # between runserver's own parts
    sources = Path(django.__file__).parent.rglob("*.py")
    found = {
        name
        for source in sources
        if "conf/app_template" not in source.as_posix()
        for name in re.findall(r"^(\w+) = \w*Signal\(", source.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert set(SENT) | undocumented == found


def test_every_signal_of_the_catalogue_is_sent_by_a_test() -> None:
    assert set(SENT) <= set(CAUSES)


def test_an_entry_leads_to_its_signal_by_its_name() -> None:
    for name in SENT:
        entry = BUILTIN_SIGNALS[name]
        assert entry.name == name == entry.path.rpartition(".")[2]
        assert isinstance(catalog.import_signal(entry), Signal)


def test_setting_changed_is_the_signal_that_the_test_tools_send() -> None:
    from django.test import signals

    assert signals.setting_changed is catalog.import_signal(BUILTIN_SIGNALS["setting_changed"])


def test_the_order_is_that_of_the_groups() -> None:
    groups = list(dict.fromkeys(entry.group for entry in BUILTIN_SIGNALS.values()))
    tasks = ["task"] if django.VERSION >= (6, 0) else []
    assert ["auth", "model", "request", "management", "test", "database", *tasks, "bulk"] == groups


def test_partners_are_each_others_and_of_one_group() -> None:
    for entry in BUILTIN_SIGNALS.values():
        if entry.counterpart:
            assert entry.name == BUILTIN_SIGNALS[entry.counterpart].counterpart
            assert entry.group == BUILTIN_SIGNALS[entry.counterpart].group


def test_optional_arguments_are_arguments() -> None:
    for entry in BUILTIN_SIGNALS.values():
        assert entry.optional <= set(entry.args)


def test_bulk_operations_have_no_signal_and_asking_for_it_says_so() -> None:
    assert ["bulk_create", "bulk_update", "update", "bulk_delete"] == BULK
    for name in BULK:
        with pytest.raises(ValueError, match=f"'{name}' has no Signal object"):
            catalog.import_signal(BUILTIN_SIGNALS[name])


def test_a_path_that_leads_nowhere_is_an_import_error() -> None:
    lost: SignalInfo = replace(BUILTIN_SIGNALS["post_save"], path="django.db.models.signals.post_sive")
    with pytest.raises(ImportError, match="post_sive"):
        catalog.import_signal(lost)


def test_reading_the_catalogue_imports_nothing_of_the_test_tools() -> None:
    program = (
        "import sys, signalbox.core.catalog; print([name for name in sys.modules if name.startswith('django.test')])"
    )
    source = str(Path(catalog.__file__).parents[2])
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {source!r}); {program}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "[]" == run.stdout.strip()
