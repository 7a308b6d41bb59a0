"""The page with the metrics, of one process and of gunicorn's."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from django.db import connections
from django.dispatch import Signal
from django.test import Client, RequestFactory, override_settings
from django.urls import path

import signalbox
from signalbox.models import Event
from tests.contrib.packages import require

require("prometheus_client", "gunicorn")

from prometheus_client.parser import text_string_to_metric_families  # noqa: E402

from signalbox.contrib.prometheus.views import metrics  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.contrib.prometheus.conftest import Samples


@pytest.mark.django_db(databases=["default", "other"])
def test_the_page_has_the_metrics_of_the_process_in_the_format_of_the_scraper(
    sample: Samples, rf: RequestFactory
) -> None:
    response = metrics(rf.get("/metrics"))
    assert 200 == response.status_code
    assert response["Content-Type"].startswith("text/plain; version=0.0.4")
    assert b"signalbox_events_total" in response.content
    assert b"# TYPE signalbox_write_seconds histogram" in response.content
    assert b"# TYPE signalbox_deliveries gauge" in response.content
    open_metrics = metrics(rf.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"}))
    assert open_metrics["Content-Type"].startswith("application/openmetrics-text")
    assert open_metrics.content.endswith(b"# EOF\n")


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
def test_the_request_of_a_scraper_has_no_events(sample: Samples, rf: RequestFactory) -> None:
    signal = Signal()
    signalbox.register_signal(signal, "shop.signals.scraped")
    with signalbox.trace("GET /metrics", kind="request") as trace:
        signal.send(None)
        metrics(rf.get("/metrics"))
    assert not Event.objects.filter(trace_id=trace.id).exists()


@pytest.mark.django_db(databases=["default", "other"])
@pytest.mark.parametrize("accept", ["application/openmetrics-text; version=newest", "text/plain; version=", "\xff;,="])
def test_an_invalid_format_is_answered_with_a_valid_one(sample: Samples, rf: RequestFactory, accept: str) -> None:
    response = metrics(rf.get("/metrics", headers={"accept": accept}))
    assert 200 == response.status_code
    assert b"signalbox_events" in response.content


@pytest.mark.django_db(databases=["default", "other"])
@override_settings(
    ROOT_URLCONF=__name__,
    MIDDLEWARE=[
        "signalbox.middleware.TraceMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.auth.middleware.LoginRequiredMiddleware",
    ],
)
def test_the_page_needs_no_login(sample: Samples, client: Client) -> None:
    assert 200 == client.get("/metrics").status_code


def test_the_page_needs_no_transaction() -> None:
    assert set(connections) == metrics._non_atomic_requests  # type: ignore[attr-defined]


urlpatterns = [path("metrics", metrics)]


def run_gauge(folder: Path, value: int) -> int:
    """Set a gauge in a process that is killed. Return its id."""
    code = (
        "import os, signal; from prometheus_client import Gauge; "
        f"Gauge('length', 'Length.', multiprocess_mode='livesum').set({value}); os.kill(os.getpid(), signal.SIGKILL)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)}
    )
    process.wait(30)
    return process.pid


@pytest.mark.django_db(databases=["default", "other"])
def test_a_killed_process_does_not_count_in_live_gauges(
    tmp_path: Path, rf: RequestFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = tmp_path / f"gauge_livesum_{run_gauge(tmp_path, 7)}.db"
    assert ended.exists()
    running = tmp_path / f"gauge_livesum_{os.getpid()}.db"
    running.write_bytes(ended.read_bytes())
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    assert b"\nlength 7.0\n" in metrics(rf.get("/metrics")).content
    assert not ended.exists()
    assert running.exists()


SILENT_SITE = """
import sys, time
from django.conf import settings
settings.configure(
    ROOT_URLCONF="tests.contrib.prometheus.test_views",
    INSTALLED_APPS=["signalbox", "signalbox.contrib.prometheus"],
    MIDDLEWARE=["signalbox.middleware.TraceMiddleware"],
    ALLOWED_HOSTS=["*"],
    USE_TZ=True,
    DATABASES={"default": {
        "ENGINE": "django.db.backends.postgresql", "NAME": "site", "HOST": "127.0.0.1", "PORT": sys.argv[1],
        "ATOMIC_REQUESTS": True,
    }},
)
import django
django.setup()
from django.test import Client
started = time.monotonic()
response = Client().get("/metrics")
assert 200 == response.status_code, response.status_code
assert b"# TYPE signalbox_deliveries gauge" in response.content
print(time.monotonic() - started)
"""


@pytest.mark.slow
def test_the_page_answers_while_the_server_of_the_database_does_not() -> None:
    require("psycopg")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        done = subprocess.run(
            [sys.executable, "-c", SILENT_SITE, str(silent.getsockname()[1])],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert 0 == done.returncode, done.stderr
    assert float(done.stdout) < 10


def test_the_page_is_only_read(rf: RequestFactory) -> None:
    assert 405 == metrics(rf.post("/metrics")).status_code


# ------------------------------------------------------------------ gunicorn


def environment(tmp_path: Path) -> dict[str, str]:
    folder = tmp_path / "metrics"
    folder.mkdir(exist_ok=True)
    python_path = os.pathsep.join(filter(None, ["src", ".", os.environ.get("PYTHONPATH", "")]))
    return {
        **os.environ,
        "PYTHONPATH": python_path,
        "SIGNALBOX_TEST_SITE": str(tmp_path / "site.sqlite3"),
        "PROMETHEUS_MULTIPROC_DIR": str(folder),
    }


@contextmanager
def serve(tmp_path: Path, *options: str) -> Iterator[str]:
    """Serve the site with two processes of gunicorn, and yield its address."""
    load = "import tests.contrib.prometheus.site; from django.core.management import call_command; "
    migrate = f"{load}call_command('migrate', verbosity=0)"
    variables = environment(tmp_path)
    subprocess.run([sys.executable, "-c", migrate], env=variables, check=True)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "gunicorn", "-w", "2", "-b", f"127.0.0.1:{port}"]
    command += [*options, "tests.contrib.prometheus.site:application"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=variables, stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def get(address: str) -> str:
    deadline = time.monotonic() + 60
    while True:
        try:
            with urlopen(address, timeout=30) as response:  # loopback
                text: str = response.read().decode()
                return text
        except (URLError, ConnectionError):
            assert time.monotonic() < deadline, f"no answer from {address}"
            time.sleep(0.1)


def read_samples(text: str) -> dict[tuple[str, ...], float]:
    return {
        (found.name, *(value for _, value in sorted(found.labels.items()))): found.value
        for family in text_string_to_metric_families(text)
        for found in family.samples
    }


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--preload",)])
def test_the_page_adds_the_metrics_of_all_processes_of_gunicorn(tmp_path: Path, options: tuple[str, ...]) -> None:
    with serve(tmp_path, *options) as address:
        processes: set[str] = set()
        saved = 0
        deadline = time.monotonic() + 60
        while len(processes) < 2:
            processes.add(get(f"{address}/save/?name={saved}"))
            saved += 1
            assert time.monotonic() < deadline, "one process serves every request"
        work = "from tests.contrib.prometheus.site import Group; Group.objects.create(name='other process')"
        subprocess.run([sys.executable, "-c", work], env=environment(tmp_path), check=True)
        saved += 1
        found = read_samples(get(f"{address}/metrics"))
        assert saved == found["signalbox_events_total", "model", "committed"]
        assert found["signalbox_write_seconds_count",] >= saved
        assert 0 == found["signalbox_exporter_queue_length",]
        assert 0 == found["signalbox_oldest_due_delivery_age_seconds",]
        get(f"{address}/metrics")
        assert saved == read_samples(get(f"{address}/metrics"))["signalbox_events_total", "model", "committed"]


def start(tmp_path: Path, **variables: str) -> str:
    """Return the error output of a process that starts the site."""
    done = subprocess.run(
        [sys.executable, "-c", "import tests.contrib.prometheus.site"],
        env={**environment(tmp_path), **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stderr


def test_a_missing_directory_of_the_multiprocess_mode_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    error = start(tmp_path, PROMETHEUS_MULTIPROC_DIR="/missing/metrics")
    assert "ImproperlyConfigured: The environment variable PROMETHEUS_MULTIPROC_DIR is '/missing/metrics'" in error
    assert "Create an empty directory there before the server starts." in error
