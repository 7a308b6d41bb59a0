from __future__ import annotations

import ast
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import NamedTuple
from urllib.request import HTTPCookieProcessor, ProxyHandler, build_opener

import pytest

from signalbox.core import catalog
from signalbox.core.catalog import BUILTIN_SIGNALS

SITE = Path(__file__).parent.parent / "examples" / "builtinsignals"
SOURCE = Path(catalog.__file__).parents[2]

# The demo as its user runs it, and beside it what no one may find in its output or tables.
WATCHED_DEMO = """
import json, sys
sys.path.insert(0, ".")
import demo
from simulation import visitor

secrets = {visitor.PASSWORD, visitor.WRONG_PASSWORD, visitor.NEW_PASSWORD}

class Watched(visitor.Visitor):
    def fetch(self, *arguments):
        try:
            return super().fetch(*arguments)
        finally:
            secrets.update(cookie.value for cookie in self.cookies)

visitor.Visitor = Watched
code = demo.main()
with open(sys.argv[-1] + "/secrets.json", "w") as file:
    json.dump(sorted(secrets), file)
sys.exit(code)
"""

# The demo with a shorter visit, where what the whole one sends is not asked for.
SHORT_DEMO = """
import sys
sys.path.insert(0, ".")
import demo
from simulation.visitor import Visitor

demo.visit = demo.visit_broken = lambda site, say: Visitor(site.address).get("/branch-line/", expect=404)
demo.wait_for_last_event = lambda: None  # the logout, at the end of the whole visit
sys.exit(demo.main())
"""

# Everything that the site has a receiver for, in one process.
EVERYTHING = """
import asyncio, gc, django
django.setup()
gc.collect()
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import AsyncClient, Client, override_settings

call_command("migrate", verbosity=0)
call_command("flush", interactive=False, verbosity=0)
from blog.models import Post, Tag

ann = User.objects.create_user("ann", password="steam-and-coal")
client = Client(SERVER_NAME="localhost", raise_request_exception=False)
client.login(username="ann", password="no-steam")
client.login(username="ann", password="steam-and-coal")
client.get("/home/")
client.logout()
asyncio.run(AsyncClient(headers={"host": "localhost"}).get("/admin/login/"))
post = Post.objects.create(title="Late", author=ann)
post.tags.add(Tag.objects.create(name="trains"))
post.publish()
ann.delete()
with override_settings(LANGUAGE_CODE="cy"):
    pass
"""

# Which of the site's receivers are connected, as [signal, receiver] pairs.
CONNECTED = """
import gc, json, django
django.setup()
gc.collect()
from blog.own_signals import post_published
from signalbox.core.catalog import BUILTIN_SIGNALS, import_signal
from signalbox.core.receivers import get_connected_receivers, get_name

signals = {info.name: import_signal(info) for info in BUILTIN_SIGNALS.values() if info.path}
signals["post_published"] = post_published
connected = [(name, one.receiver) for name, value in signals.items() for one in get_connected_receivers(value)]
pairs = [(name, get_name(receiver)) for name, receiver in connected]
print(json.dumps([(name, receiver) for name, receiver in pairs if receiver.startswith("blog.")]))
"""

# The receivers and rules of the doctor's findings, in the process and its source.
DOCTOR = """
import json, django
django.setup()
from signalbox.doctor import examine

print(json.dumps([(found.receiver, found.rule) for found in examine(use_recorded_events=False)]))
"""

# The demo's last words about a database in which not much has happened.
SUMMARY = """
import json, sys
sys.path.insert(0, ".")
import demo
demo.configure_reader(sys.argv[1])
print(json.dumps(demo.print_summary(demo.Screen(colour=False))))
"""


def environment(place: Path, **more: str) -> dict[str, str]:
    """What a process of the site finds in its environment; nothing of this test run's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DJANGO_", "SIGNALBOX_"))}
    return {
        **kept,
        "PYTHONPATH": str(SOURCE),
        "DJANGO_SETTINGS_MODULE": "builtinsignals.settings",
        "BUILTINSIGNALS_DB": str(place / "site.sqlite3"),
        **more,
    }


def site_runs(*words: str, place: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the site's folder to its end."""
    return subprocess.run(
        [sys.executable, "-W", "error", *words],
        cwd=SITE,
        env=environment(place, **more),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


class Visit(NamedTuple):
    """A run of ``demo.py --once``."""

    code: int
    output: str
    site_output: str
    tables: str
    deliveries: dict[str, tuple[str, int]]
    """State and number of attempts of the delivery of each durable receiver."""
    secrets: list[str]


@pytest.fixture(scope="module")
def visit(tmp_path_factory: pytest.TempPathFactory) -> Visit:
    place = tmp_path_factory.mktemp("demo")
    run = site_runs("-c", WATCHED_DEMO, "--once", "--port", "0", "--keep", str(place), place=place)
    rows = []
    with closing(sqlite3.connect(place / "site.sqlite3")) as connection:
        for table in ("signalbox_event", "signalbox_trace", "signalbox_delivery", "signalbox_attempt"):
            rows += connection.execute(f"SELECT * FROM {table}").fetchall()
        deliveries = connection.execute("SELECT receiver, state, attempts FROM signalbox_delivery").fetchall()
    return Visit(
        code=run.returncode,
        output=run.stdout + run.stderr,
        site_output=(place / "site.log").read_text(),
        tables="\n".join(map(str, rows)),
        deliveries={receiver.rpartition(".")[2]: (state, attempts) for receiver, state, attempts in deliveries},
        secrets=json.loads((place / "secrets.json").read_text()),
    )


@pytest.mark.slow
def test_the_demo_records_every_signal_of_the_document(visit: Visit) -> None:
    assert (0, "Every signal was recorded.") == (visit.code, visit.output.strip().splitlines()[-1]), visit.output


@pytest.mark.slow
def test_the_demo_prints_a_table_of_the_signals_in_the_order_of_the_document(visit: Visit) -> None:
    _, _, table = visit.output.partition("\nsignal ")
    rows = [line.split() for line in table.splitlines()[1:] if line][:-1]
    expected = [name for name, entry in BUILTIN_SIGNALS.items() if entry.group != "task"]
    assert [*expected, "post_published"] == [row[0] for row in rows]
    assert [] == [row for row in rows if int(row[2]) < 1]


@pytest.mark.slow
def test_the_demo_prints_each_event_on_a_line_with_what_became_of_it(visit: Visit) -> None:
    def line(*words: str) -> str | None:
        return next((line for line in visit.output.splitlines() if all(word in line for word in words)), None)

    assert line("user_login_failed", "django.contrib.auth", "sent", "login_failed")
    assert line("post_save", "auth.User", "porter", "signalman", "committed", "at_ending_save")
    assert line("post_delete", "auth.User", "porter", "signalman", "committed", "at_ending_delete")
    assert line("post_save", "blog.Post", "rolled_back")
    assert line("update", "blog.Post", "committed")


@pytest.mark.slow
def test_the_durable_receivers_of_the_demo_end_as_their_docstrings_say(visit: Visit) -> None:
    expected = {
        "send_receipt": ("done", 1),
        "pack": ("done", 1),
        "book_courier": ("done", 3),
        "notify_warehouse": ("dead", 3),
        "print_catalogue": ("done", 1),
    }
    assert expected == visit.deliveries
    assert "Subject: Your Order 1" in visit.site_output


@pytest.mark.slow
def test_the_rolled_back_checkout_of_the_demo_leaves_events_and_no_effect(visit: Visit) -> None:
    lines = [line for line in visit.output.splitlines() if "Order 2" in line]
    assert 2 == len(lines)  # the order and its products
    assert all("rolled_back" in line for line in lines)
    assert "Your Order 2" not in visit.site_output


@pytest.mark.slow
def test_the_readme_shows_lines_that_the_demo_prints(visit: Visit) -> None:
    _, _, shown = (SITE.parent.parent / "README.md").read_text().partition("```text\n")
    lines = shown.partition("```")[0].splitlines()
    assert len(lines) >= 5
    assert all(re.match(r"\d\d:\d\d:\d\d\.\d{3} ", line) for line in lines)
    printed = {line[13:] for line in visit.output.splitlines()}
    assert [] == [line for line in lines if line[13:] not in printed]


@pytest.mark.slow
def test_no_secret_of_the_demo_is_printed_or_recorded(visit: Visit) -> None:
    assert len(visit.secrets) >= 5  # three passwords, a session's key, a CSRF token
    for secret in [*visit.secrets, "pbkdf2_sha256$"]:
        assert secret not in visit.output
        assert secret not in visit.site_output
        assert secret not in visit.tables


@pytest.mark.slow
def test_the_demo_runs_until_it_is_interrupted_and_stops_its_server(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-u", "-c", SHORT_DEMO, "--port", str(port), "--keep", str(tmp_path)],
        cwd=SITE,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout
        link = next(line.split()[-1] for line in process.stdout if "See it live" in line)
        opener = build_opener(ProxyHandler({}), HTTPCookieProcessor())
        with opener.open(link, timeout=30) as answer:
            assert (f"http://127.0.0.1:{port}/signalbox/", True) == (answer.url, b"signalman" in answer.read())
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=90)
    finally:
        process.kill()
        process.wait()
    assert (0, "") == (process.returncode, rest if "Traceback" in rest else "")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=10)


# Which rules of the doctor each mistake of blog/broken.py breaks.
MISTAKES = {
    "login_success": {"connected-twice", "exposed-secret"},
    "log_out": {"shadowed-receiver", "exposed-secret"},
    "at_beginning_init": {"exposed-secret"},
    "at_ending_init": {"exposed-secret"},
    "at_beginning_request": {"exposed-secret"},
    "before_install_app": {"runs-once-per-app"},
    "at_end_migrate_flush": {"wrong-signature", "runs-once-per-app"},
    "at_class_prepared": {"connected-too-late"},
    "at_tags_changed": {"wrong-sender"},
    "<lambda>": {"short-lived-receiver"},
    "at_beginning_delete": {"global-receiver"},
    "mail_author": {"effect-before-commit"},
}


def test_the_doctor_finds_each_mistake_of_the_broken_receivers(tmp_path: Path) -> None:
    run = site_runs("-c", DOCTOR, place=tmp_path, BUILTINSIGNALS_BROKEN="1")
    assert 0 == run.returncode, run.stderr

    found: dict[str, set[str]] = {}
    for receiver, rule in json.loads(run.stdout):
        found.setdefault(receiver.removeprefix("blog.broken."), set()).add(rule)
    assert {} == {
        name: rules - found.get(name, set()) for name, rules in MISTAKES.items() if rules - found.get(name, set())
    }
    assert set(MISTAKES) == set(found)


def test_the_doctor_finds_nothing_on_the_site_without_the_broken_receivers(tmp_path: Path) -> None:
    run = site_runs("-c", DOCTOR, place=tmp_path)
    assert (0, "[]") == (run.returncode, run.stdout.strip()), run.stderr


@pytest.mark.slow
def test_the_demo_ends_with_links_to_pages_that_show_what_they_say(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-u", "demo.py", "--port", "0", "--keep", str(tmp_path), "--no-color"],
        cwd=SITE,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout
        printed = []
        for line in process.stdout:
            printed.append(line)
            if "/signalbox/health/" in line:  # the last link
                break
        links = dict(re.findall(r"^  (\S.*?)  +(http\S+)$", "".join(printed), re.MULTILINE))
        opener = build_opener(ProxyHandler({}), HTTPCookieProcessor())
        opener.open(next(line.split()[-1] for line in printed if "See it live" in line), timeout=60).close()
        pages = {}
        for title, address in links.items():
            with opener.open(address, timeout=60) as answer:
                pages[title] = answer.read().decode()
        root = links["all deliveries"].removesuffix("deliveries/")
        with opener.open(f"{root}doctor/findings/", timeout=120) as answer:
            findings = answer.read().decode()
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=90)
    assert 0 == process.returncode
    assert "got_request_exception" in pages["a request that failed"]
    assert "rolled back" in pages["the checkout that was rolled back"]
    assert "Signal lamp" in pages["everything that happened to one product"]
    assert "notify_warehouse" in pages["a delivery that failed three times: a dead letter"]
    assert "book_courier" in pages["all deliveries"]
    assert {"shadowed-receiver", "raising-receiver", "slow-receiver", "all-deliveries-dead"} <= set(
        re.findall(r"[a-z]+(?:-[a-z]+)+", findings)
    )
    assert len(pages) == 9


def test_the_demo_says_that_its_port_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        started = time.monotonic()
        run = site_runs("demo.py", "--once", "--port", str(port), place=tmp_path)
    assert 2 == run.returncode
    assert f"Port {port} of 127.0.0.1 can't be used" in run.stderr
    assert "Traceback" not in run.stderr
    assert time.monotonic() - started < 30


@pytest.mark.slow
def test_the_table_names_the_signals_of_which_nothing_was_recorded(tmp_path: Path) -> None:
    migrated = site_runs("manage.py", "migrate", place=tmp_path)
    assert 0 == migrated.returncode, migrated.stderr
    run = site_runs("-c", SUMMARY, str(tmp_path / "site.sqlite3"), place=tmp_path)
    assert 0 == run.returncode, run.stderr

    *_, missing = run.stdout.splitlines()
    assert {"user_logged_in", "post_save", "m2m_changed", "update", "post_published"} <= set(json.loads(missing))
    assert not {"post_migrate", "connection_created"} & set(json.loads(missing))


def functions(module: str) -> list[str]:
    """The names of all functions at the top of one of the blog's modules, a name as often as it is defined."""
    tree = ast.parse((SITE / "blog" / f"{module}.py").read_text())
    return [f"blog.{module}.{node.name}" for node in tree.body if isinstance(node, ast.FunctionDef)]


@pytest.mark.parametrize("debug", ["0", "1"])
def test_each_receiver_of_the_site_is_connected_once_and_none_is_shadowed(debug: str, tmp_path: Path) -> None:
    run = site_runs("-c", CONNECTED, place=tmp_path, BUILTINSIGNALS_DEBUG=debug)
    assert 0 == run.returncode, run.stderr

    pairs = json.loads(run.stdout)
    written = functions("signals") + functions("early")
    assert [] == [name for name, times in Counter(written).items() if times > 1]
    assert sorted(written) == sorted(receiver for _, receiver in pairs)
    every = {name for name, entry in BUILTIN_SIGNALS.items() if entry.path and entry.group != "task"}
    assert every - {"template_rendered"} | {"post_published"} == {name for name, _ in pairs}


@pytest.mark.slow
@pytest.mark.parametrize("debug", ["0", "1"])
def test_every_receiver_of_the_site_runs(debug: str, tmp_path: Path) -> None:
    run = site_runs("-c", EVERYTHING, place=tmp_path, BUILTINSIGNALS_DEBUG=debug)
    assert 0 == run.returncode, run.stderr

    banners = Counter(re.findall(r"^-- (\w+)", run.stderr, re.MULTILINE))
    every = {name for name, entry in BUILTIN_SIGNALS.items() if entry.path and entry.group != "task"}
    assert every - {"template_rendered"} | {"post_published"} == set(banners)
    # With one sender they run once per command, and flush sends post_migrate without a plan.
    assert (1, 2) == (banners["pre_migrate"], banners["post_migrate"])
    assert (1, 1, 1) == (banners["user_logged_in"], banners["user_login_failed"], banners["user_logged_out"])
    assert (2, 1) == (banners["setting_changed"], banners["post_published"])
    assert re.search("request_started +django.test.client.AsyncClientHandler +GET /admin/login/", run.stderr)
    for secret in ("steam-and-coal", "no-steam", "pbkdf2_sha256", "sessionid", "csrftoken"):
        assert secret not in run.stderr


def test_the_migrations_of_the_site_fit_its_models(tmp_path: Path) -> None:
    run = site_runs("manage.py", "makemigrations", "--check", place=tmp_path)
    assert (0, "No changes detected") == (run.returncode, run.stdout.strip())


def test_what_takes_the_pictures_needs_no_settings_of_its_own() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    root = Path(__file__).resolve().parent.parent
    script = root / "examples/screenshots.py"
    code = f"import runpy; runpy.run_path({str(script)!r}, run_name='screenshots')"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, env=environment, timeout=60)
