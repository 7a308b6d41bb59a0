"""Beside OpenTelemetry's own instrumentation of Django, a request has one trace id."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent

RECEIVERS = """
import signalbox


@signalbox.receiver("post_save", sender="auth.Group", durable=True)
def deliver(sender, instance, **kwargs):
    pass
"""

PROGRAM = """
import json, sys
import django
from django.conf import settings
from opentelemetry import trace
from opentelemetry.instrumentation.django import DjangoInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

spans = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
trace.set_tracer_provider(provider)
settings.configure(
    SECRET_KEY="not-a-secret",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF="__main__",
    MIDDLEWARE=["signalbox.middleware.TraceMiddleware"],
    INSTALLED_APPS=[
        "signalbox", "signalbox.contrib.opentelemetry", "django.contrib.auth", "django.contrib.contenttypes",
    ],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": sys.argv[1]}},
    USE_TZ=True,
)
DjangoInstrumentor().instrument()
django.setup()

from django.contrib.auth.models import Group
from django.core.management import call_command
from django.http import HttpResponse
from django.test import Client
from django.urls import path

import signalbox
from signalbox.models import Delivery, Event, Trace

import receivers_of_site

def save(request):
    Group.objects.create(name=request.path)
    return HttpResponse()


urlpatterns = [path("one/", save), path("two/", save)]
call_command("migrate", verbosity=0)
signalbox.start_recording()
client = Client()
client.get("/one/")
client.get("/two/", headers={"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"})
print(json.dumps({
    "spans": [format(span.context.trace_id, "032x") for span in spans.get_finished_spans()],
    "traces": list(Trace.objects.filter(kind="request").order_by("id").values_list("trace_id", flat=True)),
    "saves": list(Event.objects.filter(signal="post_save").order_by("id").values_list("trace_id", flat=True)),
    "causes": [
        payload["trace_context"]["traceparent"][3:35]
        for payload in Delivery.objects.order_by("id").values_list("payload", flat=True)
    ],
}))
"""


@pytest.fixture
def found(tmp_path: Path) -> dict[str, list[str]]:
    packages = ("opentelemetry", "opentelemetry.instrumentation", "opentelemetry.instrumentation.django")
    if any(find_spec(name) is None for name in packages):  # a parent that is missing comes first
        reason = "no opentelemetry-instrumentation-django: run `make neighbours`"
        if os.environ.get("SIGNALBOX_REQUIRE_NEIGHBOURS"):
            pytest.fail(f"{reason} (SIGNALBOX_REQUIRE_NEIGHBOURS is set)", pytrace=False)
        pytest.skip(reason)
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "receivers_of_site.py").write_text(RECEIVERS)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "program.py"), str(tmp_path / "site.sqlite3")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == done.returncode, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


@pytest.mark.slow
def test_a_request_its_span_its_events_and_its_deliveries_have_one_trace_id(found: dict[str, list[str]]) -> None:
    first, second = found["spans"]
    assert first != second == "a" * 32, "the second request has a header"
    assert [first, second] == found["traces"] == found["saves"] == found["causes"]
