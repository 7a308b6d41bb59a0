"""``SIGNALBOX_DISABLED``: recording is off for the whole process, and reading still works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from django.core.checks import run_checks
from django.db import connections
from django.test import Client

import signalbox
from signalbox import checks, testing
from signalbox.instrumentation import install
from signalbox.models import Event
from tests.events import get_newest_event
from tests.shop.models import Order, Tag

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = """
import json
import django
django.setup()
import signalbox
from django.db import connection, transaction
from django.test import Client
from signalbox.instrumentation import install
from signalbox.models import Event
from tests.shop.models import Order, Tag
from tests.shop.signals import order_paid
from tests.test_transparency import traces_left

before = Event.objects.count()
signalbox.start_recording()
with signalbox.trace("work", actor="Ann"), transaction.atomic():
    order = Order.objects.create(number="A-1")
    order.note = "n"
    order.save()
    Tag.objects.bulk_create([Tag(name="a"), Tag(name="b")])
    order.tags.set(Tag.objects.all())
    order_paid.send(sender=Order, order=order)
client = Client()
response = client.get("/admin/login/")
connection.ensure_connection()
print(json.dumps({
    "recording": install.is_recording(),
    "patched": sorted(traces_left()),
    "signals": len(install.get_recorded_signals()),
    "status": response.status_code,
    "middleware": "TraceMiddleware" in repr(client.handler._middleware_chain),
    "orders": Order.objects.count(),
    "events": Event.objects.count() - before,
}))
"""


def run(*arguments: str, value: str) -> subprocess.CompletedProcess[str]:
    """Run Python on the site of the tests, in a process of its own."""
    for alias in connections:
        connections[alias].close()
    return subprocess.run(
        [sys.executable, *arguments],
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "SIGNALBOX_DISABLED": value,
            "PYTHONPATH": os.pathsep.join(filter(None, ["src", ".", os.environ.get("PYTHONPATH", "")])),
        },
        check=True,
        capture_output=True,
        text=True,
    )


@pytest.fixture
def disabled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Switch recording off, as if this process had been started with the variable."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIGNALBOX_DISABLED", "1")
        signalbox.start_recording()
        yield
    signalbox.start_recording()


@pytest.mark.every_database
@pytest.mark.django_db(transaction=True)
def test_a_disabled_process_patches_nothing_and_records_nothing() -> None:
    found = json.loads(run("-c", PROGRAM, value="1").stdout)

    expected = {"recording": False, "patched": [], "signals": 0, "middleware": False, "events": 0}
    assert {**expected, "status": 200, "orders": 1} == found


@pytest.mark.django_db(transaction=True)
def test_the_same_process_records_with_the_variable_switched_off() -> None:
    found = json.loads(run("-c", PROGRAM, value="0").stdout)

    assert (True, True, 200) == (found["recording"], "Model._save_table" in found["patched"], found["status"])
    assert {"post_save", "bulk_create", "m2m_changed"} <= set(Event.objects.values_list("signal", flat=True))


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_commands_read_earlier_events() -> None:
    Order.objects.create(number="A-1")
    assert Event.objects.filter(signal="post_save").exists()

    events = run("-m", "django", "signalbox", "events", "--signal", "post_save", "--json", value="yes")
    assert ["shop.Order"] == [json.loads(line)["sender"] for line in events.stdout.splitlines()]
    assert "" == events.stderr

    signals = run("-m", "django", "signalbox", "signals", "--json", value="yes")
    rows = [json.loads(line) for line in signals.stdout.splitlines()]
    assert {False} == {row["recorded"] for row in rows}
    assert {1} == {row["events"] for row in rows if row["signal"] == "post_save"}


@pytest.mark.django_db(transaction=True)
def test_the_pages_read_earlier_events(admin_user: Any, disabled: None) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SIGNALBOX_DISABLED")
        signalbox.start_recording()
        Order.objects.create(number="A-4711")
    signalbox.start_recording()
    number = Event.objects.count()
    event = get_newest_event(Order, "post_save")

    client = Client()
    client.force_login(admin_user)
    assert 200 == client.get("/signalbox/").status_code
    assert b"A-4711" in client.get(f"/signalbox/event/{event.pk}/").content
    assert number == Event.objects.count()


@pytest.mark.django_db
def test_code_of_the_project_does_not_switch_it_on(disabled: None) -> None:
    before = Event.objects.count()
    signalbox.start_recording()
    Tag.objects.create(name="a")
    assert not install.is_recording()
    assert before == Event.objects.count()


def test_capture_events_says_why_nothing_is_recorded(disabled: None) -> None:
    with (
        pytest.raises(RuntimeError, match=r"SIGNALBOX_DISABLED is set in the environment\. Unset it\."),
        testing.capture_events(),
    ):
        raise AssertionError("The block must not run.")


def test_an_unknown_value_is_a_warning_and_recording_stays_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNALBOX_DISABLED", "on")
    signalbox.start_recording()
    assert install.is_recording()

    message = 'The environment variable SIGNALBOX_DISABLED is "on", which is not a known value. Recording is on.'
    assert [(message, "Set it to 1 to switch recording off, or to 0.")] == [
        (found.msg, found.hint) for found in run_checks(tags=[checks.TAG], databases=[]) if found.id == "signalbox.W006"
    ]
    assert [message] == run("-c", "import django; django.setup()", value="on").stderr.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("value", ["1", "0", ""])
def test_a_known_value_is_not_a_warning(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNALBOX_DISABLED", value)
    assert [] == checks.check_environment()
    assert "" == run("-c", "import django; django.setup()", value=value).stderr
