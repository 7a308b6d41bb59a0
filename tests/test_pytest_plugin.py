from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

SETTINGS = """
from tests.settings import *
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
ROOT_URLCONF = "site_urls"
"""

URLS = """
from django.http import HttpResponse
from django.urls import path
urlpatterns = [path("", lambda request: HttpResponse("hello"))]
"""

CONFTEST = """
import pytest

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item):
    # The database is still the test's.
    if item.get_closest_marker("django_db"):
        from signalbox.models import Trace
        print("ROWS", [(row.kind, row.name, row.status, row.events) for row in Trace.objects.filter(kind="test")])
"""

TESTS = """
import logging
import pytest
from django.test import Client, SimpleTestCase
from signalbox.core import tracing
from signalbox.models import Event, Trace
from tests.shop.models import Tag

def current():
    trace = tracing.get_current_trace()
    return trace.kind, trace.name

def test_a_test_is_a_trace(request):
    assert ("test", request.node.nodeid) == current()

def test_events_are_collected_without_a_database(signalbox_events):
    from django.test import override_settings
    with override_settings(LANGUAGE_CODE="cy"):
        pass
    assert ["setting_changed"] * 2 == signalbox_events.signals

def test_a_visit_without_a_database_logs_nothing(caplog):
    with caplog.at_level(logging.INFO):
        assert 200 == Client().get("/").status_code
    assert [] == [record for record in caplog.records if record.name.partition(".")[0] == "signalbox"]

@pytest.mark.django_db
def test_events_carry_the_test_s_trace(request, signalbox_events):
    migrations = Trace.objects.filter(name="migrate").values("trace_id")
    assert [] == list(Event.objects.exclude(trace_id__in=migrations).values())
    Tag.objects.create(name="steam")
    assert ["post_save"] == signalbox_events.filter(sender="shop.Tag").signals
    assert tracing.get_current_trace().id == Event.objects.get(signal="post_save").trace_id

@pytest.mark.django_db(transaction=True)
def test_a_transactional_test_is_a_trace_as_well():
    Tag.objects.create(name="steam")
    assert tracing.get_current_trace().id == Event.objects.get(signal="post_save").trace_id

@pytest.mark.django_db
def test_a_test_that_fails():
    Tag.objects.create(name="steam")
    raise ValueError("on purpose")

@pytest.fixture
def broken():
    raise ValueError("on purpose")

def test_a_test_whose_fixture_fails(broken):
    pass

def test_after_it_the_trace_is_the_next_test_s(request):
    trace = tracing.get_current_trace()
    assert ("test", request.node.nodeid) == current()
    assert trace.previous is None or trace.previous.kind != "test"

class TestCases(SimpleTestCase):
    def test_a_test_case_is_one_trace(self):
        kind, name = current()
        assert "test" == kind
        assert name.endswith("::TestCases::test_a_test_case_is_one_trace")
"""

# What Django's own runner finds.
UNITTESTS = """
from django.test import SimpleTestCase, TestCase
from signalbox.core import tracing
from signalbox.models import Event
from tests.shop.models import Tag

class Simple(SimpleTestCase):
    def test_is_a_trace(self):
        self.assertEqual(("test", self.id()), (tracing.get_current_trace().kind, tracing.get_current_trace().name))

class Tags(TestCase):
    def setUp(self):
        Tag.objects.create(name="set up")

    def test_carries_its_trace(self):
        Tag.objects.create(name="steam")
        ids = Event.objects.filter(signal="post_save").values_list("trace_id", flat=True)
        self.assertEqual({tracing.get_current_trace().id}, set(ids))
        self.assertEqual(("test", self.id()), (tracing.get_current_trace().kind, tracing.get_current_trace().name))

    def test_does_not_see_the_other_s(self):
        self.assertEqual(1, Event.objects.filter(signal="post_save").count())
"""

PLUGIN = [] if entry_points(group="pytest11", name="signalbox") else ["-p", "signalbox.pytest_plugin"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "site_settings.py").write_text(SETTINGS)
    (tmp_path / "site_urls.py").write_text(URLS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nDJANGO_SETTINGS_MODULE = site_settings\n")
    (tmp_path / "conftest.py").write_text(CONFTEST)
    return tmp_path


def run(project: Path, *words: str, **environment: str) -> str:
    """Run Python on the project and return what it says."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "DJANGO_"))}
    finished = subprocess.run(
        [sys.executable, *words],
        cwd=project,
        env={**kept, "PYTHONPATH": os.pathsep.join([str(project), *filter(None, sys.path)]), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return finished.stdout + finished.stderr


def test_each_test_of_pytest_is_a_trace(project: Path) -> None:
    (project / "test_site.py").write_text(TESTS)
    output = run(project, "-m", "pytest", *PLUGIN, "-p", "no:randomly", "-p", "no:cacheprovider", "-rA")

    assert "7 passed" in output, output
    assert "1 failed" in output
    assert "1 error" in output
    rows = re.findall(r"^ROWS (.*)$", output, re.MULTILINE)
    assert {
        "[('test', 'test_site.py::test_events_carry_the_test_s_trace', 'ok', 1)]",
        "[('test', 'test_site.py::test_a_test_that_fails', 'failed', 1)]",
        "[('test', 'test_site.py::test_a_transactional_test_is_a_trace_as_well', 'ok', 1)]",
    } == set(rows)


@pytest.mark.slow
def test_without_signalbox_in_the_project_the_plugin_does_nothing(project: Path) -> None:
    (project / "site_settings.py").write_text(
        "SECRET_KEY = 'x'\nINSTALLED_APPS = ['django.contrib.contenttypes']\nUSE_TZ = True\n"
    )
    (project / "conftest.py").unlink()
    (project / "test_site.py").write_text(
        "import sys\ndef test_it():\n    assert 'signalbox.instrumentation.install' not in sys.modules\n"
    )
    assert "1 passed" in run(project, "-m", "pytest", *PLUGIN, "-p", "no:randomly", "-p", "no:cacheprovider")


@pytest.mark.slow
def test_without_django_the_plugin_does_nothing(project: Path) -> None:
    (project / "pytest.ini").write_text("[pytest]\n")
    (project / "conftest.py").unlink()
    (project / "test_plain.py").write_text("import sys\ndef test_it():\n    assert 'django' not in sys.modules\n")
    words = ["-m", "pytest", *PLUGIN, "-p", "no:django", "-p", "no:randomly", "-p", "no:cacheprovider"]
    assert "1 passed" in run(project, *words)


@pytest.mark.parametrize("words", [[], ["--parallel", "2"]])
@pytest.mark.slow
def test_each_test_of_django_s_runner_is_a_trace(project: Path, words: list[str]) -> None:
    (project / "site_tests.py").write_text(UNITTESTS)
    settings = {"DJANGO_SETTINGS_MODULE": "site_settings"}
    output = run(project, "-m", "django", "test", "site_tests", *words, **settings)

    assert "Ran 3 tests" in output, output
    assert "\nOK\n" in output
