"""A process ends soon, although its database does not answer."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from signalbox.models import Event
from signalbox.pipeline import process_exit
from tests.connecting import get_connection
from tests.shop.models import Tag

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.every_database]

PROGRAM = """
import atexit, socket, sys, time
ended = 0.0  # when the program ended, before the functions that are called at exit
atexit.register(lambda: print(time.monotonic() - ended, flush=True))  # the first to be registered is the last called
import django
django.setup()
from django.db import connection
from django.dispatch import Signal
import signalbox
from signalbox.pipeline import exporter, process_exit
from tests.shop.models import Tag

listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen(5)  # accepts, and never answers
noted = Signal()
signalbox.register_signal(noted, "tests.noted")
Tag.objects.create(name="written")
with exporter.suspended():
    with signalbox.trace("work", kind="custom"):
        for _ in range(3):
            noted.send(None)
    connection.close()
if sys.argv[1] == "silent":
    connection.settings_dict.update(HOST="127.0.0.1", PORT=listener.getsockname()[1])
else:
    process_exit.EXIT_TIMEOUT = 60.0  # a busy machine takes long
ended = time.monotonic()
"""


def run(mode: str) -> tuple[float, str]:
    """Run the program. Return how many seconds its end took, and what it logged.

    The seconds are those between the program's last line and the last function that is called at exit. The start of the
    interpreter and the deletion of its modules, which take longer on a busy machine, are not part of them.
    """
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, mode], check=False, env=environment, capture_output=True, text=True, timeout=60
    )
    assert 0 == done.returncode, done.stderr
    return float(done.stdout), done.stderr


@pytest.mark.skipif(get_connection().vendor == "sqlite", reason="SQLite has no server")
def test_a_process_ends_soon_if_the_server_does_not_answer() -> None:
    seconds, log = run("silent")
    assert process_exit.EXIT_TIMEOUT <= seconds < process_exit.EXIT_TIMEOUT + 8  # a busy machine takes long
    assert "Events that could not be written before the process ended are lost: 3." in log
    assert Tag.objects.filter(name="written").exists()
    assert not Event.objects.filter(signal="tests.noted").exists()


def test_a_process_writes_what_is_pending_when_it_ends() -> None:
    _, log = run("answering")
    assert "could not be written" not in log
    assert 3 == Event.objects.filter(signal="tests.noted").count()


FAILED_SET_UP = """
import django
from django.conf import settings
settings.configure(INSTALLED_APPS=["signalbox", "no_such_package"], DATABASES={})
django.setup()
"""


def test_a_set_up_that_failed_shows_only_its_own_exception() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FAILED_SET_UP], check=False, capture_output=True, text=True, timeout=60
    )
    assert 1 == done.returncode
    assert "No module named 'no_such_package'" == done.stderr.strip().splitlines()[-1].partition(": ")[2]
    assert "signalbox" not in done.stderr.replace("/signalbox/src", "")
