from __future__ import annotations

import datetime as dt
import gc
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.db.models.signals import post_save
from django.test import override_settings

import signalbox
from signalbox.instrumentation import process as process_recording
from signalbox.management.commands.signalbox import SUBCOMMANDS
from signalbox.models import Event, Trace
from signalbox.outbox import registry
from tests import settings
from tests.rows import NOON, TRACE_ID, create_event, create_trace
from tests.shop.models import Order

DOCS = Path(__file__).parents[2] / "docs" / "commands.md"
IMPORT = "0af7651916cd43dd8448eb211c80319c"

SOURCE = (
    "\n" * 11
    + """
def send_invoice(sender, instance, created, **kwargs): ...


async def index(sender, instance, **kwargs): ...
"""
)
"""What the examples call ``shop/signals.py``."""


@pytest.fixture
def _alone(db: None) -> Iterator[None]:
    """The register holds what a test writes into it, and nothing of the test itself."""
    process_recording.disable_recording_for_process()
    Event.objects.all().delete()
    Trace.objects.all().delete()
    yield
    signalbox.start_recording()


@pytest.fixture
def shop(_alone: None) -> Iterator[None]:
    """The register of the examples: an order is paid in a request, and a command fails."""
    create_trace(id=301, name="POST /shop/orders/17/", events=2, errors=1)
    create_event(
        id=4101,
        span=1,
        errors=1,
        data={
            "args": {"created": False, "raw": False, "update_fields": None},
            "changes": {"status": ["open", "paid"], "note": ["no hurry"]},
            "receivers": [
                {
                    "name": "shop.signals.send_invoice",
                    "location": "shop/signals.py:13",
                    "duration_us": 1520,
                    "error": None,
                },
                {
                    "name": "shop.signals.index",
                    "location": "shop/signals.py:16",
                    "duration_us": 210,
                    "error": "KeyError: 'A-17'",
                },
            ],
        },
    )
    create_event(
        id=4102,
        span=2,
        parent=1,
        at=NOON + dt.timedelta(microseconds=900),
        sender="shop.Invoice",
        object_key="9",
        object_label="Invoice 9",
        duration=0,
        data={"args": {"created": True}, "row": {"id": 9, "order": 17, "total": "99.50"}},
    )
    create_event(
        id=4103,
        trace_id=IMPORT,
        at=NOON + dt.timedelta(minutes=4),
        signal="update",
        sender="shop.Order",
        object_key="",
        object_label="",
        actor_key="",
        actor_label="cron",
        outcome="rolled_back",
        duration=None,
        data={"args": {"fields": ["total"], "count": 1200}},
    )
    create_event(
        id=4104,
        trace_id="b7ad6b7169203331b7ad6b7169203331",
        at=NOON + dt.timedelta(minutes=5),
        signal="user_login_failed",
        sender="django.contrib.auth",
        object_key="",
        object_label="",
        actor_key="",
        actor_label="",
        database="",
        outcome="sent",
        duration=12,
        data={"args": {"credentials": {"username": "bob", "password": "[redacted]"}}},
    )
    module: dict[str, Any] = {"__name__": "shop.signals"}
    exec(compile(SOURCE, "shop/signals.py", "exec"), module)
    post_save.connect(module["send_invoice"], sender=Order, dispatch_uid="invoice", weak=False)
    post_save.connect(module["index"])
    yield
    post_save.disconnect(sender=Order, dispatch_uid="invoice")
    post_save.disconnect(module["index"])


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def waits(sender: Any, instance: Any, **kwargs: Any) -> None:
    """A durable receiver."""


def run(*words: str, out: StringIO | None = None) -> str:
    """What the command writes, run within this process."""
    out = out or StringIO()
    call_command("signalbox", *words, stdout=out)
    return out.getvalue()


def records(*words: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run(*words, "--json").splitlines()]


def ids(*words: str) -> list[int]:
    return [found["id"] for found in records(*words)]


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


# ------------------------------------------------------------------ the documentation


def examples() -> Iterator[tuple[str, str]]:
    """Each command line of the documentation, with the output that it shows."""
    for block in re.findall(r"```console\n(.*?)```", DOCS.read_text(), re.DOTALL):
        for example in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, _, output = example.partition("\n")
            yield line, output


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize(("line", "output"), list(examples()), ids=[line for line, _ in examples()])
def test_the_documentation_shows_what_the_command_writes(line: str, output: str) -> None:
    python, manage, signalbox_, *words = shlex.split(line.partition(" | ")[0])
    assert ["python", "manage.py", "signalbox"] == [python, manage, signalbox_]
    if words[0] == "tail":  # it never ends: see test_tail_shows_what_another_process_writes
        assert "" == output
    else:
        assert output == run(*words)


def test_every_subcommand_is_documented() -> None:
    headings = re.findall(r"^## `(\w+)", DOCS.read_text(), re.MULTILINE)
    # The pages on durable receivers and on the doctor document these.
    ours = [name for name in SUBCOMMANDS if name not in ("work", "deliveries", "doctor")]
    assert ours == headings[: len(ours)]


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize(
    ("heading", "words"),
    [
        ("An event", ["events"]),
        ("A trace", ["show", TRACE_ID]),
        ("A signal", ["signals"]),
        ("A signal's counts", ["stats"]),
        ("A receiver's times", ["stats"]),
    ],
)
def test_every_key_of_the_json_is_documented(heading: str, words: list[str]) -> None:
    table = DOCS.read_text().partition(f"### {heading}\n")[2].partition("\n#")[0]
    documented = re.findall(r"^\| `(\w+)`", table, re.MULTILINE)
    found = records(*words)
    written = found[-1] if heading == "A receiver's times" else found[0]
    assert documented == list(written)


# ------------------------------------------------------------------ in this process


@pytest.mark.usefixtures("shop")
def test_a_durable_receiver_is_told_beside_those_that_are_connected() -> None:
    signalbox.receiver("post_save", sender="shop.Order", durable=True)(waits)
    try:
        shown = run("signals", "--signal", "post_save")
        [found] = records("signals", "--signal", "post_save")
    finally:
        registry.disconnect(f"{__name__}.waits")
    assert re.search(rf"{__name__}\.waits +shop\.Order +durable +tests/management/test_commands\.py:\d+", shown)
    assert [f"{__name__}.waits"] == [one["name"] for one in found["receivers"] if one["durable"]]


@pytest.mark.usefixtures("shop")
def test_events_are_chosen_by_the_same_options_everywhere() -> None:
    words = shlex.split(f"--signal post_save --sender shop --actor ann --trace {TRACE_ID[:8]} --outcome committed")
    assert [4102, 4101] == ids("events", *words)
    assert [4102, 4101] == ids("events", *words, "--since", "2026-03-01", "--kind", "request")
    assert [4101] == ids("events", *words, "--before", "4102")
    assert [4104] == ids("events", "--limit", "1")
    assert [4101] == ids("events", "--object", "shop.Order:17")
    assert [4104, 4103] == ids("events", "--outcome", "sent", "--outcome", "rolled_back")
    counts = {"events": 2, "committed": 2, "rolled_back": 0, "failed": 0, "sent": 0, "errors": 1}
    assert {"signal": "post_save", **counts} == records("stats", *words)[0]


@pytest.mark.usefixtures("_alone")
def test_an_empty_register_is_told_as_such() -> None:
    assert "There are no such events.\n" == run("events")
    assert "There are no such events.\n" == run("stats")
    assert "" == run("events", "--json")


@pytest.mark.usefixtures("shop")
def test_show_tells_where_an_event_happened_and_what_it_led_to() -> None:
    (first,) = records("show", "4101")
    assert (None, [4102]) == (first["parent_event_id"], first["child_event_ids"])
    assert ["POST /shop/orders/17/"] == [found["name"] for found in first["traces"]]
    (second,) = records("show", "4102")
    assert (4101, []) == (second["parent_event_id"], second["child_event_ids"])
    (third,) = records("show", "4103")
    assert [] == third["traces"]


@pytest.mark.usefixtures("shop")
def test_a_trace_is_shown_with_what_happened_in_it() -> None:
    lines = run("show", TRACE_ID).splitlines()
    assert f"trace {TRACE_ID}" == lines[0]
    assert "  request POST /shop/orders/17/ 200 48.2 ms" == lines[1]
    assert re.search(r"^4101 .* post_save  ", lines[4])
    assert re.search(r"^4102 .*   post_save  ", lines[5])
    assert [301, 4101, 4102] == [found["id"] for found in records("show", TRACE_ID)]
    assert "  It has not ended." == run("show", IMPORT).splitlines()[1]


@pytest.mark.usefixtures("shop")
def test_a_trace_is_shown_by_how_its_id_begins() -> None:
    assert run("show", TRACE_ID) == run("show", TRACE_ID[:8])
    create_event(trace_id="12345678" + "a" * 24)
    assert "trace 12345678aaaa" in run("show", "12345678")
    create_event(id=12345678)
    assert "event 12345678" in run("show", "12345678")


@pytest.mark.usefixtures("shop")
def test_a_beginning_of_several_traces_is_an_error_that_names_two() -> None:
    create_trace(trace_id=TRACE_ID[:8] + "f" * 24)
    with pytest.raises(
        CommandError, match=f"Several traces begin with 4bf92f35, as {TRACE_ID} and 4bf92f35ffff"
    ) as raised:
        run("show", TRACE_ID[:8])
    assert 1 == raised.value.returncode


@pytest.mark.usefixtures("_alone")
@pytest.mark.parametrize("wanted", ["17", "12345678", "9" * 30, TRACE_ID[:8], TRACE_ID])
def test_what_is_not_there_is_an_error(wanted: str) -> None:
    with pytest.raises(CommandError, match=f"There is no (event|trace) {wanted}: it was purged") as raised:
        run("show", wanted)
    assert 1 == raised.value.returncode


@pytest.mark.usefixtures("_alone")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["events", "--since", "noon"], "since is 'noon'; a time was expected"),
        (["tail", "--trace", "zz"], "trace is 'zz'; 4 to 32 hexadecimal digits were expected."),
        (["events", "--limit", "0"], "'0' is not a number above 0"),
        (["events", "--limit", "many"], "'many' is not a number above 0"),
        (["events", "--outcome", "lost"], "invalid choice: 'lost'"),
        (["events", "--using", "nowhere"], "invalid choice: 'nowhere'"),
        (["events", "--limit", "9" * 20], "'99999999999999999999' is greater than"),
        (["events", "--before", "9" * 20], "'99999999999999999999' is greater than"),
        (["show", "first"], "'first' is neither an event's number nor 8 to 32 hexadecimal digits of a trace's id"),
        (["show", "9" * 33], "is neither an event's number"),
        (["show", TRACE_ID[:7]], "is neither an event's number"),
    ],
)
def test_what_is_not_understood_is_an_error(words: list[str], message: str) -> None:
    with pytest.raises(CommandError, match=re.escape(message)):
        run(*words)


@pytest.mark.django_db(databases=["default", "other"])
@pytest.mark.usefixtures("_alone")
def test_the_tables_of_another_database_are_read_with_using() -> None:
    create_event(object_label="here")
    create_event(object_label="there", using="other")
    assert ["here"] == [found["object_label"] for found in records("events")]
    assert "there" in [found["object_label"] for found in records("events", "--using", "other")]


@pytest.mark.usefixtures("_alone")
@pytest.mark.parametrize("word", ["events", "doctor"])
def test_a_site_without_a_database_is_told_so(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def complain(*args: Any, **options: Any) -> None:
        raise ImproperlyConfigured("settings.DATABASES is improperly configured.")

    monkeypatch.setattr(import_module(SUBCOMMANDS[word].module), "run", complain)
    with pytest.raises(CommandError, match=r"settings\.DATABASES is improperly configured") as raised:
        run(word)
    assert 1 == raised.value.returncode


@pytest.mark.usefixtures("shop")
def test_options_may_stand_after_the_subcommand() -> None:
    assert run("events") == run("events", "--no-color", "--traceback", "-v", "2")


@pytest.mark.usefixtures("_alone")
def test_the_doctor_is_asked_through_the_same_command() -> None:
    with pytest.raises(CommandError, match="astrology"):
        run("doctor", "--rule", "astrology")


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize(
    "words",
    [
        ["events", "--since", "5m"],
        ["stats", "--since", "5m"],
        ["signals", "--since", "2h"],
        ["history", "shop.Order", "17", "--as-of", "5m"],
        ["show", "4101"],
    ],
)
def test_a_site_without_time_zones_is_read_as_well(words: list[str]) -> None:
    with override_settings(USE_TZ=False):
        assert run(*words, out=Terminal())


# ------------------------------------------------------------------ terminals


@pytest.fixture
def colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")


@pytest.mark.usefixtures("shop", "colours")
@pytest.mark.parametrize("words", [["events"], ["stats"], ["signals"], ["show", "4101"], ["show", TRACE_ID]])
def test_colours_are_for_terminals_alone(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    gc.collect()  # receivers of objects that are gone must not go between two runs
    coloured = run(*words, out=Terminal())
    assert "\x1b[" in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    uncoloured = run(*words, out=Terminal())
    assert plain(coloured) == uncoloured
    assert "\x1b" not in uncoloured
    monkeypatch.delenv("NO_COLOR")
    assert uncoloured == run(*words, "--no-color", out=Terminal())
    monkeypatch.setenv("TERM", "dumb")
    assert uncoloured == run(*words, out=Terminal())
    assert "\x1b" not in run(*words)
    assert "\x1b[" in run(*words, "--force-color")


@pytest.mark.usefixtures("shop", "colours")
def test_without_rich_a_terminal_gets_plain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    coloured = run("events", out=Terminal())
    monkeypatch.setitem(sys.modules, "rich.style", None)
    assert plain(coloured) == run("events", out=Terminal())


@pytest.mark.usefixtures("shop", "colours")
@pytest.mark.parametrize("columns", [200, 120, 80, 60, 45])
@pytest.mark.parametrize("words", [["events"], ["stats"], ["signals"], ["show", TRACE_ID]])
def test_lines_fit_into_the_terminal(words: list[str], columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = plain(run(*words, out=Terminal())).splitlines()
    tables = [line for line in lines if not line.startswith(("trace", "  request", "Counted", "4 events"))]
    assert [] == [line for line in tables if len(line) > columns]
    assert any(re.search(r"post_save|order_", line) for line in tables)


@pytest.mark.usefixtures("_alone", "colours")
def test_a_label_cannot_drive_the_terminal() -> None:
    create_event(object_label="\x1b[2J\x07\u202egone\r\n", actor_label="\x9b31m")
    shown = run("events", "--no-color", out=Terminal())
    assert 2 == len(shown.splitlines())
    assert r"\x1b[2J\x07\u202egone" in shown
    assert re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", shown) is None


# ------------------------------------------------------------------ processes of their own


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "django", "signalbox", *words]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings", "PYTHONUNBUFFERED": "", **more}


def process(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*words), env=environment(**more), capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (["events", "--limit", "1"], 0, ""),
        (["show", "9223372036854775807"], 1, "There is no event 9223372036854775807"),
        (["events", "--since", "noon"], 2, "since is 'noon'; a time was expected"),
        (["events", "--outcome", "lost"], 2, "invalid choice: 'lost'"),
        ([], 2, "SUBCOMMAND"),
    ],
)
def test_the_exit_code_says_what_happened(words: list[str], code: int, error: str) -> None:
    done = process(*words)
    assert code == done.returncode
    assert error in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "word", [pytest.param("events", marks=pytest.mark.every_database), "stats", "signals", "doctor"]
)
@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("_alone")
def test_reading_is_not_recorded(word: str) -> None:
    done = process(word)
    assert (0, "") == (done.returncode, done.stderr)
    assert [] == list(Event.objects.all())
    assert [] == list(Trace.objects.all())


@pytest.mark.skipif(settings.DATABASE != "sqlite", reason="an empty database is a file that is not there")
def test_tables_that_are_missing_are_told_with_the_remedy() -> None:
    run_ = f"{settings.RUN_ID}_empty"
    try:
        done = process("events", SIGNALBOX_TEST_RUN=run_)
    finally:
        for file in Path(settings.DATABASES["default"]["NAME"]).parent.glob(f"signalbox_{run_}_*"):
            file.unlink()
    assert 1 == done.returncode
    expected = "Database 'default' has no table signalbox_event and no table signalbox_trace: run manage.py migrate."
    assert f"CommandError: {expected}\n" == done.stderr


@contextmanager
def running(*words: str) -> Iterator[subprocess.Popen[str]]:
    started = subprocess.Popen(
        command(*words), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


def line_of(started: subprocess.Popen[str], wanted: str) -> str:
    """The next line that holds ``wanted``."""
    assert started.stdout is not None
    for line in started.stdout:
        if wanted in line:
            return line
    raise AssertionError(f"tail ended without {wanted!r}: {started.stderr.read() if started.stderr else ''}")


@pytest.mark.every_database
@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("_alone")
def test_tail_shows_what_another_process_writes() -> None:
    create_event(object_label="before", signal="shop.signals.paid")
    with running("tail", "--json", "-n", "1", "--signal", "shop.signals.paid", "--sender", "shop.Order") as tail:
        assert "before" == json.loads(line_of(tail, "before"))["object_label"]
        for label in ("first", "second"):
            create_event(object_label="of another signal")
            create_event(object_label=label, signal="shop.signals.paid")
            written = time.monotonic()
            assert label == json.loads(line_of(tail, "{"))["object_label"]
            assert time.monotonic() - written < 2
            time.sleep(1.5)  # by now it looks once in a second
        tail.send_signal(signal.SIGINT)
        out, err = tail.communicate(timeout=20)
        assert (0, "", "") == (tail.returncode, out, err)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("words", [["events", "--limit", "3000"], ["tail", "-n", "3000"]])
def test_a_reader_that_has_seen_enough_is_no_error(words: list[str]) -> None:
    for _ in range(600):  # more than a pipe holds
        create_event(data={"note": "x" * 200})
    with running(*words, "--json") as started:
        line_of(started, "{")
        assert started.stdout is not None
        started.stdout.close()
        assert 0 == started.wait(30)
        assert started.stderr is not None
        assert "" == started.stderr.read()


@pytest.mark.django_db(transaction=True)
def test_a_real_terminal_gets_colours_and_a_heading() -> None:
    create_event(object_label="Order A-17")
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command("events", "--sender", "shop.Order"), env=environment(TERM="xterm", COLUMNS="100"), stdout=theirs
    ) as started:
        os.close(theirs)
        shown = b""
        try:
            while chunk := os.read(ours, 65536):
                shown += chunk
        except OSError:  # Linux says so when the other side has been closed
            assert started.wait(30) == 0
        finally:
            os.close(ours)
    heading, first = shown.decode().splitlines()[:2]
    assert "\x1b[1m" in heading
    assert ["id", "time", "signal", "sender", "object"] == plain(heading).split()[:5]
    assert "Order A-17" in first
