"""Receivers that Sentry wraps keep their names in events, in the listing of signals and as durable receivers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import pytest

PROGRAM = """
import json
from functools import partial
from io import StringIO

from django.conf import settings
from tests import settings as site

settings.configure(
    **{name: getattr(site, name) for name in dir(site) if name.isupper() and name != "DATABASES"},
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
)
if %(with_sentry)r:
    from tests.neighbours import telemetry
    telemetry.start_sentry()
import django
django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0)

import sentry_sdk
import signalbox
from django.dispatch import Signal
from signalbox.models import Event
from signalbox.outbox import registry
from tests.outbox import receivers
from tests.shop import signals

class Station:
    def hear(self, **kwargs): pass
    def __call__(self, **kwargs): pass

def listen(**kwargs): pass

station, bound = Station(), partial(listen)
rings = Signal()
signalbox.register_signal(rings, "tests.rings")
for receiver in (listen, station, station.hear, bound):
    rings.connect(receiver, weak=False)
with signalbox.trace("rings"):
    rings.send(None)
listing = StringIO()
call_command("signalbox", "signals", "--json", stdout=listing)
traced = sentry_sdk.trace(receivers.saved)
signalbox.receiver("post_save", sender="shop.Order", durable=True)(traced)
event = Event.objects.get(signal="tests.rings")
print(json.dumps({
    "event": [call["name"] for call in event.data["receivers"]],
    "locations": [call["location"] for call in event.data["receivers"]],
    "listing": sorted(line for line in listing.getvalue().splitlines() if "tests.rings" in line),
    "durable": sorted(registry.get_durable_receivers()),
}))
"""


def observe(*, with_sentry: bool) -> dict[str, Any]:
    program = PROGRAM % {"with_sentry": with_sentry}
    ran = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ}, capture_output=True, text=True, check=False
    )
    assert 0 == ran.returncode, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


@pytest.mark.skipif(find_spec("sentry_sdk") is None, reason="sentry-sdk is not installed")
def test_receivers_that_sentry_wraps_keep_their_names() -> None:
    wrapped = observe(with_sentry=True)
    assert [
        "__main__.listen",
        "__main__.Station",
        "__main__.Station.hear",
        "functools.partial(__main__.listen)",
    ] == wrapped["event"]
    assert ["tests.outbox.receivers.saved"] == wrapped["durable"]
    assert observe(with_sentry=False) == wrapped
