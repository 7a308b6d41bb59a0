"""The trace of a process and of its command, in processes of ``manage.py``."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import django
import pytest

SETTINGS = """
SECRET_KEY = "x"
USE_TZ = True
DEBUG = True
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = [
    "signalbox", "shop", "django.contrib.auth", "django.contrib.contenttypes", "django.contrib.staticfiles",
]
MIDDLEWARE = ["signalbox.middleware.TraceMiddleware"]
ROOT_URLCONF = "site_urls"
STATIC_URL = "static/"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "site.sqlite3"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
"""
URLS = "urlpatterns = []\n"
MODELS = """
from django.db import models
class Order(models.Model):
    number = models.CharField(max_length=20)
"""
COMMAND = """
import subprocess, sys, threading
from django.contrib.auth import authenticate
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import connections
from shop.models import Order

def in_thread():
    Order.objects.create(number="thread")
    connections.close_all()

class Command(BaseCommand):
    def add_arguments(self, parser):
        parser.add_argument("steps", nargs="*")

    def handle(self, *args, steps, **options):
        for step in steps:
            if step == "save":
                Order.objects.create(number="saved")
            elif step == "read":
                list(Order.objects.all())
            elif step == "login":
                authenticate(username="ann", password="wrong")
            elif step == "thread":
                thread = threading.Thread(target=in_thread)
                thread.start()
                thread.join()
            elif step == "call":
                call_command("work", "save")
            elif step == "process":
                subprocess.run([sys.executable, "manage.py", "work", "save"], check=True)
            elif step == "fail":
                raise CommandError("on purpose")
"""
MANAGE = """
import os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "site_settings"
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
"""
READY = """
from django.apps import AppConfig
class ShopConfig(AppConfig):
    name = "shop"
    def ready(self):
        import os
        if os.environ.get("WRITE_IN_READY"):
            self.get_model("Order").objects.create(number="ready")
"""

Manage = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a project that is migrated and has no events."""
    place = tmp_path_factory.mktemp("project")
    commands = place / "shop" / "management" / "commands"
    commands.mkdir(parents=True)
    for name, text in {
        "site_settings.py": SETTINGS,
        "site_urls.py": URLS,
        "manage.py": MANAGE,
        "shop/__init__.py": "",
        "shop/apps.py": READY,
        "shop/models.py": MODELS,
        "shop/management/__init__.py": "",
        "shop/management/commands/__init__.py": "",
        "shop/management/commands/work.py": COMMAND,
    }.items():
        (place / name).write_text(text)
    run(place, "makemigrations", "shop")
    run(place, "migrate")
    with closing(sqlite3.connect(place / "site.sqlite3")) as database:
        kinds = database.execute("SELECT kind, name FROM signalbox_trace").fetchall()
        assert kinds == [("command", "migrate")]
        database.execute("DELETE FROM signalbox_trace")
        database.execute("DELETE FROM signalbox_event")
        database.commit()
    return place


@pytest.fixture
def manage(project: Path, tmp_path: Path) -> Manage:
    """Return a function that runs a command in the project, and returns its traces: kind, name, status, events."""
    shutil.copytree(project, tmp_path, dirs_exist_ok=True)

    def manage(*arguments: str, code: int = 0, **environment: str) -> list[tuple[Any, ...]]:
        run(tmp_path, *arguments, code=code, **environment)
        return read(tmp_path, "SELECT kind, name, status, events FROM signalbox_trace ORDER BY time, id")

    return manage


def run(place: Path, *arguments: str, code: int = 0, **environment: str) -> None:
    found = subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=place,
        env=build_environment(**environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert code == found.returncode, found.stderr


def build_environment(**environment: str) -> dict[str, str]:
    paths = [os.path.abspath(entry) for entry in sys.path if entry]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment}


def read(place: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(place / "site.sqlite3")) as database:
        return database.execute(query).fetchall()


def test_a_command_of_manage_py_and_its_process_are_one_trace(manage: Manage, tmp_path: Path) -> None:
    assert [("command", "work", "ok", 2)] == manage("work", "save", "login")

    [(data, started)] = read(tmp_path, "SELECT data, time FROM signalbox_trace")
    counts = json.loads(data)["send_counts"]
    assert {"django.db.backends.sqlite3.base.DatabaseWrapper": 1} == counts["connection_created"]
    assert 1 == counts["class_prepared"]["shop.Order"]
    assert 1 == counts["pre_init"]["shop.Order"]
    assert [("post_save",), ("user_login_failed",)] == read(
        tmp_path, f"SELECT signal FROM signalbox_event WHERE time > {started} ORDER BY time"
    )


def test_an_event_before_the_command_belongs_to_its_trace(manage: Manage) -> None:
    assert [("command", "work", "ok", 2)] == manage("work", "save", WRITE_IN_READY="1")


def test_a_command_that_fails_gives_its_status_to_the_trace(manage: Manage) -> None:
    assert [("command", "work", "failed", 1)] == manage("work", "save", "fail", code=1)


def test_a_thread_of_a_command_belongs_to_its_trace(manage: Manage) -> None:
    assert [("command", "work", "ok", 2)] == manage("work", "save", "thread")


def test_a_command_that_a_command_calls_has_its_own_trace(manage: Manage) -> None:
    assert [("command", "work", "ok", 1), ("command", "work", "ok", 1)] == manage("work", "save", "call")


def test_a_process_that_a_command_starts_has_its_own_trace(manage: Manage) -> None:
    assert [("command", "work", "ok", 1), ("command", "work", "ok", 1)] == manage("work", "save", "process")


@pytest.mark.parametrize("arguments", [("check",), ("work",)])
def test_a_command_that_only_starts_leaves_no_trace(manage: Manage, arguments: tuple[str, ...]) -> None:
    # From 6.1 on the checks use the database, and what they count is written: they create two users.
    expected = [] if django.VERSION < (6, 1) else [("command", *arguments, "ok", 0)]
    assert expected == manage(*arguments)


def test_a_command_that_loads_objects_has_their_number(manage: Manage) -> None:
    manage("work", "save")
    assert ("command", "work", "ok", 0) == manage("work", "read")[-1]


def test_a_shell_is_one_trace(manage: Manage) -> None:
    code = "from shop.models import Order; Order.objects.create(number='shell')"
    assert [("shell", "shell", "ok", 1)] == manage("shell", "-c", code)


def test_signalbox_commands_that_read_leave_no_trace(manage: Manage) -> None:
    assert [] == manage("signalbox", "status")


@pytest.mark.parametrize("options", [["--noreload"], []])
def test_a_server_leaves_no_trace_of_its_start_or_of_static_files(
    manage: Manage, tmp_path: Path, options: list[str]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    server = subprocess.Popen(
        [sys.executable, "manage.py", "runserver", port, *options],
        cwd=tmp_path,
        env=build_environment(PYTHONUNBUFFERED="1"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 40
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/static/signalbox/signalbox.css") as response:
                    assert 200 == response.status
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.2)
        urllib.request.urlopen(f"http://127.0.0.1:{port}/").close()  # Django's page for a project without URLs
        query = "SELECT kind, name, status, events FROM signalbox_trace ORDER BY id"
        while not read(tmp_path, query):  # the request ends after its response was sent
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        os.killpg(server.pid, signal.SIGINT)
        server.wait(20)

    assert [("request", "GET /", "200", 2)] == read(tmp_path, query)
