"""``manage.py signalbox status`` shows what is recorded, and exits with 1 when something is wrong."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import uuid
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import django
import pytest
from django.core.management import call_command
from django.db import connections
from django.db.models import Model
from django.test import override_settings

import signalbox
from signalbox.instrumentation import patches, recording_state
from signalbox.models import Attempt, Delivery, Error, ErrorState, Event, PurgeState, Trace, Worker
from signalbox.outbox.worker_registry import WorkerRegistration
from signalbox.pipeline import dropped_events
from signalbox.queries.status_problems import RECENT_DROP_SECONDS, ProblemCode
from tests.json_tables import find_differences, read_types

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
ROLE = f"signalbox_{uuid.uuid4().hex[:16]}"
"""Roles are shared by all databases of a server, on which other tests may run."""

pytestmark = pytest.mark.django_db(databases=["default", "other"])


@pytest.fixture(autouse=True)
def reinstalled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(dropped_events, "write_stats", dropped_events.WriteStats())
    monkeypatch.setattr(
        recording_state, "_patch_states", None
    )  # of a command that another test has run in this process
    yield
    signalbox.stop_recording()
    signalbox.start_recording()


def status(*options: str) -> tuple[int, str]:
    """Return the exit code and the output."""
    out = StringIO()
    try:
        call_command("signalbox", "status", *options, stdout=out)
    except SystemExit as exit_:
        return int(str(exit_.code)), out.getvalue()
    return 0, out.getvalue()


def status_json() -> tuple[int, dict[str, Any]]:
    code, text = status("--json")
    return code, json.loads(text)


def texts(found: dict[str, Any]) -> list[str]:
    return [one["text"] for one in found["problems"]]


def test_a_site_on_which_everything_is_recorded_has_no_problem() -> None:
    code, found = status_json()
    assert (0, [], True, False) == (code, found["problems"], found["recording"], found["disabled"])
    assert (True, []) == (found["healthy"], found["warnings"])
    assert ("atomic", False, True) == (found["autocommit"], found["lossy"], found["checked"])
    tables = [
        model._meta.db_table for model in (Event, Trace, Delivery, Attempt, Error, ErrorState, Worker, PurgeState)
    ]
    assert [(alias, tables, [], None) for alias in ("default", "other")] == [
        (one["alias"], one["tables"], one["missing"], one["error"]) for one in found["databases"]
    ]
    active = {one["target"]: one["active"] for one in found["patches"]}
    assert active["django.db.models.base.Model._save_table"]
    assert not active["django.dispatch.dispatcher.Signal._live_receivers"]
    assert {patch.target for patch in patches.PATCHES} >= active.keys()


def test_the_text_says_the_same() -> None:
    code, text = status()
    assert 0 == code
    assert text.startswith("Recording\n  state       on\n  autocommit  atomic")
    assert f"Database default\n  tables      {Event._meta.db_table}, {Trace._meta.db_table}" in text
    assert "The counters are those of this command." in text
    assert "PROBLEM" not in text
    assert text.endswith("Signalbox is healthy.\n")


def test_events_after_the_statement_are_marked_as_lossy() -> None:
    with override_settings(SIGNALBOX={"AUTOCOMMIT": "after"}):
        code, found = status_json()
        assert (0, "after", True) == (code, found["autocommit"], found["lossy"])
        assert "after, lossy" in status()[1]


def test_recording_that_is_off_is_a_problem() -> None:
    signalbox.stop_recording()
    code, found = status_json()
    expected = [{"code": "recording_off", "text": "Recording is off."}]
    assert (1, False, expected) == (code, found["recording"], found["problems"])
    assert not any(one["active"] for one in found["patches"])
    assert "PROBLEM: Recording is off." in status()[1]


def test_lost_events_are_a_problem() -> None:
    dropped_events.write_stats.add_dropped(dropped_events.DropReason.MISSING_TABLE, 2)
    dropped_events.write_stats.add_dropped(dropped_events.DropReason.REJECTED)
    dropped_events.write_stats.failures = 1
    code, found = status_json()
    assert (1, 3, 1) == (code, found["dropped"], found["failures"])
    assert {"missing_table": 2, "rejected": 1} == found["dropped_by_reason"]
    reasons = "2 missing table, 1 rejected"
    assert [f"3 events were dropped since this process started: {reasons}. See its log."] == texts(found)
    assert ["writes_failed"] == [one["code"] for one in found["warnings"]]


def test_events_that_were_lost_long_ago_are_a_warning() -> None:
    dropped_events.write_stats.add_dropped(dropped_events.DropReason.QUEUE_FULL)
    assert dropped_events.write_stats.dropped_at is not None
    dropped_events.write_stats.dropped_at -= RECENT_DROP_SECONDS
    code, found = status_json()
    assert (0, ["events_dropped"]) == (code, [one["code"] for one in found["warnings"]])
    assert "WARNING: 1 event was dropped" in status()[1]


def test_the_json_is_the_documented_one() -> None:
    with WorkerRegistration(["default"], ["mail"], 1):
        _, found = status_json()
    assert [] == find_differences(read_types("Status"), [found])


def test_every_code_and_every_reason_is_documented() -> None:
    text = (ROOT / "docs" / "commands.md").read_text()
    for mark, end, names in (
        ("codes of problems", "end of codes", ProblemCode),
        ("reasons of drops", "end of reasons", dropped_events.DropReason),
    ):
        section = text.partition(f"<!-- {mark} -->")[2].partition(f"<!-- {end} -->")[0]
        assert {name.value for name in names} == set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))


def test_a_missing_table_is_a_problem() -> None:
    connection = connections["other"]
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {Delivery._meta.db_table} RENAME TO elsewhere")
    code, found = status_json()
    assert 1 == code
    expected = "Database 'other' has no table signalbox_delivery: run manage.py migrate --database other."
    assert [expected] == texts(found)


@pytest.mark.postgres
def test_grants_that_the_role_lacks_are_a_problem() -> None:
    event, delivery = Event._meta.db_table, Delivery._meta.db_table
    with connections["default"].cursor() as cursor:
        cursor.execute(f"CREATE ROLE {ROLE}")
        cursor.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {ROLE}")
        cursor.execute(f"REVOKE INSERT ON {event}, {delivery} FROM {ROLE}")
        cursor.execute(f"SET LOCAL ROLE {ROLE}")
    code, found = status_json()
    missing = {f"INSERT ON {event}", f"INSERT ON {delivery}"}
    grants = {one["alias"]: set(one["missing_grants"]) for one in found["databases"]}
    assert (1, {"default": missing, "other": set()}) == (code, grants)
    (problem,) = texts(found)
    assert problem.startswith("The role of database 'default' lacks grants: ")
    assert all(grant in problem for grant in missing)
    assert f"PROBLEM: {problem}" in status()[1]


def test_a_method_that_can_not_be_replaced_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    signalbox.stop_recording()
    monkeypatch.setattr(django, "VERSION", (9, 0, 0, "final", 0))
    monkeypatch.setattr(Model, "refresh_from_db", lambda self, mode: None)
    signalbox.start_recording()
    code, found = status_json()
    assert (1, False) == (code, found["checked"])
    applied = {one["target"]: (one["active"], one["applicable"]) for one in found["patches"]}
    assert (False, False) == applied["django.db.models.base.Model.refresh_from_db"]
    assert "not applied" in status()[1]


@pytest.mark.django_db(transaction=True)
def test_a_process_of_its_own_records_nothing_of_itself() -> None:
    before = Event.objects.count(), Trace.objects.count()
    run = subprocess.run(
        [sys.executable, "-m", "django", "signalbox", "status", "--json"],
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "PYTHONPATH": os.pathsep.join(filter(None, ["src", ".", os.environ.get("PYTHONPATH", "")])),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    found = json.loads(run.stdout)
    assert (0, True, []) == (run.returncode, found["recording"], found["problems"])
    assert any(one["active"] for one in found["patches"])
    assert before == (Event.objects.count(), Trace.objects.count())


HANGING = """
import sys
import django
from django.conf import settings
settings.DATABASES["hanging"] = {
    "ENGINE": "django.db.backends." + sys.argv[1], "HOST": "127.0.0.1", "PORT": int(sys.argv[2]), "NAME": "hanging",
}
django.setup()
from django.core.management import execute_from_command_line
from signalbox.management.subcommands import status
status.ANSWER_SECONDS = 5.0
execute_from_command_line(["manage.py", "signalbox", "status", "--json"])
"""


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("engine", ["postgresql", "mysql"])
def test_a_server_that_does_not_answer_is_a_problem(engine: str) -> None:
    pytest.importorskip({"postgresql": "psycopg", "mysql": "MySQLdb"}[engine])
    with socket.create_server(("127.0.0.1", 0)) as server:
        run = subprocess.run(
            [sys.executable, "-c", HANGING, engine, str(server.getsockname()[1])],
            env={
                **os.environ,
                "DJANGO_SETTINGS_MODULE": "tests.settings",
                "PYTHONPATH": os.pathsep.join(filter(None, ["src", ".", os.environ.get("PYTHONPATH", "")])),
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    found = json.loads(run.stdout)
    assert (1, "") == (run.returncode, run.stderr)
    assert ["Database 'hanging' can't be read: it did not answer within 5 s"] == texts(found)
    assert [("default", None), ("other", None)] == [(one["alias"], one["error"]) for one in found["databases"][:2]]


def test_a_disabled_process_says_what_switches_recording_off() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "django", "signalbox", "status", "--json"],
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "SIGNALBOX_DISABLED": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, ["src", ".", os.environ.get("PYTHONPATH", "")])),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    found = json.loads(run.stdout)
    assert (1, True, False) == (run.returncode, found["disabled"], found["recording"])
    assert "SIGNALBOX_DISABLED switches recording off." in texts(found)
