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
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.db.models.signals import post_save
from django.test import override_settings

import signalbox
from signalbox.instrumentation import recording_state as process_recording
from signalbox.management.commands.signalbox import SUBCOMMANDS, Command
from signalbox.models import Delivery, Event, Trace, to_microseconds
from signalbox.outbox import registry
from tests import settings
from tests.json_tables import PAGE, find_differences, read_types
from tests.rows import NOON, TRACE_ID, create_event, create_trace
from tests.shop import signals as shop_signals
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
    counts = {"pre_init": {"shop.Order": 1, "shop.Invoice": 1}, "post_init": {"shop.Order": 1, "shop.Invoice": 1}}
    create_trace(id=301, name="POST /shop/orders/17/", events=2, errors=1, data={"send_counts": counts})
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


def exit_code(*words: str, out: StringIO | None = None) -> int:
    """The exit code of the command, run within this process."""
    try:
        run(*words, out=out)
    except CommandError as error:
        return error.returncode
    except SystemExit as error:
        return int(str(error.code))
    return 0


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
        with override_settings(SIGNALBOX={"CLOUDEVENTS_SOURCE": "https://shop.example/"}):
            assert output == run(*words).replace("\r\n", "\n")


def test_every_subcommand_is_documented() -> None:
    headings = re.findall(r"^## `(\w+)", DOCS.read_text(), re.MULTILINE)
    # The pages on durable receivers and on the doctor document these.
    ours = [name for name in SUBCOMMANDS if name not in ("work", "deliveries", "doctor")]
    assert ours == headings[: len(ours)]


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize(
    ("heading", "words"),
    [
        ("Event", ["events"]),
        ("Trace", ["show", TRACE_ID]),
        ("Signal", ["signals", "--signal", "post_save"]),
        ("Counts of a signal", ["stats"]),
        ("Times of a receiver", ["stats"]),
        ("State of an object", ["history", "shop.Order", "17", "--as-of", "2026-03-01T12:00:01Z"]),
    ],
)
def test_the_json_is_the_documented_one(heading: str, words: list[str]) -> None:
    found = records(*words)
    written = found[-1] if heading == "Times of a receiver" else found[0]
    assert [] == find_differences(read_types(heading), [written])


@pytest.mark.usefixtures("shop")
def test_the_keys_that_show_and_history_add_to_an_event_are_documented() -> None:
    types = read_types("Event") | read_types("Event with its context")
    assert [] == find_differences(types, records("show", "4101"))
    [added] = records("history", "shop.Order", "17")[0].keys() - read_types("Event").keys()
    assert "uncertain" == added
    assert f"adds `{added}`" in PAGE.read_text()


# ------------------------------------------------------------------ in this process


@pytest.mark.usefixtures("shop")
def test_durable_receivers_are_listed_with_the_connected_ones() -> None:
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
def test_an_empty_catalog_has_a_message() -> None:
    for words, shown in ((["events"], "No events match.\n"), (["stats"], "No events match.\n")):
        out = StringIO()
        assert (1, shown) == (exit_code(*words, out=out), out.getvalue())
    out = StringIO()
    assert (1, "") == (exit_code("events", "--json", out=out), out.getvalue())


@pytest.mark.usefixtures("shop")
def test_show_prints_the_place_and_the_effects_of_an_event() -> None:
    (first,) = records("show", "4101")
    assert (None, [4102]) == (first["parent_event_id"], first["child_event_ids"])
    assert ["POST /shop/orders/17/"] == [found["name"] for found in first["traces"]]
    (second,) = records("show", "4102")
    assert (4101, []) == (second["parent_event_id"], second["child_event_ids"])
    (third,) = records("show", "4103")
    assert [] == third["traces"]


@pytest.mark.usefixtures("_alone")
def test_an_exception_that_passed_through_a_receiver_is_shown_and_not_counted() -> None:
    call = {"name": "shop.relay", "location": "", "duration_us": 1, "error": "KeyError: 'x'", "passed_through": True}
    event = create_event(outcome="failed", data={"receivers": [call], "passed_through": True})
    assert "KeyError: 'x' (raised in a nested send, counted there)" in run("show", str(event.id))
    of_signal, of_receiver = records("stats")
    assert (1, 0, 0) == (of_signal["failed"], of_signal["errors"], of_receiver["errors"])


@pytest.mark.usefixtures("shop")
def test_show_prints_a_trace_with_its_events() -> None:
    lines = run("show", TRACE_ID).splitlines()
    assert f"trace {TRACE_ID}" == lines[0]
    assert "  request POST /shop/orders/17/ 200 48.2 ms" == lines[1]
    assert re.search(r"^4101 .* post_save  ", lines[4])
    assert re.search(r"shop.signals.send_invoice  ", lines[5])
    assert re.search(r"^4102 .*   post_save  ", lines[7])
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
    assert 2 == raised.value.returncode


@pytest.mark.usefixtures("_alone")
@pytest.mark.parametrize("wanted", ["17", "12345678", "9" * 30, TRACE_ID[:8], TRACE_ID])
def test_a_missing_event_or_trace_is_an_error(wanted: str) -> None:
    with pytest.raises(CommandError, match=f"(Event|Trace) {wanted} does not exist. ") as raised:
        run("show", wanted)
    assert 1 == raised.value.returncode
    assert "purged" not in str(raised.value)


@pytest.mark.usefixtures("_alone")
def test_only_an_event_below_the_newest_is_said_to_be_purged() -> None:
    event = create_event()
    with pytest.raises(CommandError, match=f"Event {event.id + 1} does not exist. The newest event is {event.id}."):
        run("show", str(event.id + 1))
    Event.objects.filter(id=event.id).delete()
    newest = create_event()
    with pytest.raises(
        CommandError, match=f"Event {newest.id - 1} does not exist. It was purged, or no event was written"
    ):
        run("show", str(newest.id - 1))


@pytest.mark.usefixtures("_alone")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["events", "--since", "noon"], "since is 'noon'; a time was expected"),
        (["tail", "--trace", "zz"], "trace is 'zz'; 8 to 32 hexadecimal digits were expected."),
        (["events", "--signal", "post_sav"], "Did you mean 'post_save'?"),
        (
            ["events", "--signal", "tests.shop.signals.order_payd"],
            f"Did you mean '{shop_signals.__name__}.order_paid'?",
        ),
        (["events", "--signal", "tests.shop.no_module.order_paid"], "signal is 'tests.shop.no_module.order_paid'; the"),
        (["stats", "--sender", "shop.Ordr"], "sender is 'shop.Ordr'; an installed app, a model as shop.Order or"),
        (["signals", "--sender", "shop.Ordr"], "Did you mean 'shop.Order'?"),
        (["tail", "--sender", "shopp"], "Did you mean 'shop'?"),
        (["events", "--object", "shop.Ordr:17"], "Did you mean 'shop.Order'?"),
        (["events", "--kind", "requst"], "Did you mean 'request'?"),
        (["stats", "--kind", "foo"], "kind is 'foo'; one of request, command, task, test, shell, process, custom or"),
        (["events", "--database", "defualt"], "Did you mean 'default'?"),
        (["events", "--limit", "0"], "'0' is not a number above 0"),
        (["deliveries", "list", "--limit", "-1"], "-1' is not a number above 0"),
        (["deliveries", "list", "--before", "9" * 20], "'99999999999999999999' is greater than"),
        (["events", "--limit", "many"], "'many' is not a number above 0"),
        (["events", "--outcome", "lost"], "invalid choice: 'lost'"),
        (["events", "--using", "nowhere"], "invalid choice: 'nowhere'"),
        (["events", "--limit", "9" * 20], "'99999999999999999999' is greater than"),
        (["events", "--before", "9" * 20], "'99999999999999999999' is greater than"),
        (["show", "first"], "'first' is neither an event's id nor 8 to 32 hexadecimal digits of a trace's id"),
        (["show", "9" * 33], "is neither an event's id"),
        (["show", TRACE_ID[:7]], "is neither an event's id"),
    ],
)
def test_invalid_options_are_errors(words: list[str], message: str) -> None:
    with pytest.raises(CommandError, match=re.escape(message)) as raised:
        run(*words)
    # Outside of a process of its own, argparse's errors have no code.
    assert raised.value.returncode in (1, 2)


@pytest.mark.usefixtures("_alone")
def test_names_that_were_recorded_are_accepted_though_nothing_is_installed_by_them() -> None:
    create_event(id=1, signal="old.signals.sold", sender="old.Article", database="gone", object_key="3")
    create_trace(kind="cron")
    for words in (
        ["--signal", "old.signals.sold"],
        ["--sender", "old.Article"],
        ["--sender", "old"],
        ["--object", "old.Article:3"],
        ["--database", "gone"],
        ["--kind", "cron"],
    ):
        assert [1] == ids("events", *words)


@pytest.mark.usefixtures("_alone")
@pytest.mark.parametrize(
    "words",
    [
        ["--signal", "update"],
        ["--signal", "tests.outbox.celery_app.sold"],  # a module that is not imported
        ["--sender", "shop.ORDER"],
        ["--sender", "django.contrib.auth"],
        ["--sender", "tests.management.test_commands.Terminal.Button"],
        ["--kind", "task"],
    ],
)
def test_names_of_the_project_are_accepted_before_anything_is_recorded(words: list[str]) -> None:
    assert 1 == exit_code("events", *words)


@pytest.mark.django_db(databases=["default", "other"])
@pytest.mark.usefixtures("_alone")
def test_the_tables_of_another_database_are_read_with_using() -> None:
    create_event(object_label="here")
    create_event(object_label="there", using="other")
    assert ["here"] == [found["object_label"] for found in records("events")]
    assert "there" in [found["object_label"] for found in records("events", "--using", "other")]


@pytest.mark.usefixtures("_alone")
@pytest.mark.parametrize("word", ["events", "doctor"])
def test_a_site_without_a_database_gets_an_error(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def complain(*args: Any, **options: Any) -> None:
        raise ImproperlyConfigured("settings.DATABASES is improperly configured.")

    monkeypatch.setattr(import_module(SUBCOMMANDS[word].module), "run", complain)
    with pytest.raises(CommandError, match=r"settings\.DATABASES is improperly configured") as raised:
        run(word)
    assert 1 == raised.value.returncode


@pytest.mark.usefixtures("shop")
def test_options_are_allowed_after_the_subcommand() -> None:
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
    out = Terminal()
    with override_settings(USE_TZ=False):
        assert exit_code(*words, out=out) == (1 if words[0] in ("events", "stats") else 0)
    assert out.getvalue()


@pytest.mark.usefixtures("shop")
def test_times_and_spans_are_written_alike_by_every_subcommand() -> None:
    created = to_microseconds(NOON)
    Delivery.objects.create(
        id=5, trace_id=TRACE_ID, span=1, run_at=created, created=created, payload={}, next_check_at=None
    )
    (event,) = [found for found in records("events") if found["id"] == 4101]
    (delivery,) = records("deliveries", "list")
    assert (event["time"], event["span"], event["trace_id"]) == (
        delivery["created"],
        delivery["span"],
        delivery["trace_id"],
    )
    assert (event["time"], None, None) == (
        delivery["run_at"],
        delivery["next_check_at"],
        delivery["finished"],
    )
    (state,) = records("history", "shop.Order", "17", "--as-of", "2026-03-01T12:00:01Z")
    assert "2026-03-01T12:00:01.000000+00:00" == state["at"]


# ------------------------------------------------------------------ exit codes

EXIT_CODES = [
    ("status", [], 0),
    ("tail", ["--signal", "post_sav"], 2),
    ("events", [], 0),
    ("events", ["--signal", "pre_save"], 1),
    ("events", ["--sender", "shop.Nope"], 2),
    ("show", ["4101"], 0),
    ("show", ["4999"], 1),
    ("show", [IMPORT[:8]], 0),
    ("export", [], 0),
    ("export", ["--signal", "pre_save"], 1),
    ("export", ["--sender", "shop.Nope"], 2),
    ("export", ["--output", "/"], 2),
    ("history", ["shop.Order", "17"], 0),
    ("history", ["shop.Tag", "18"], 1),
    ("history", ["shop.Nope", "17"], 2),
    ("revert", ["4999", "--dry-run"], 1),
    ("revert", ["4101", "--json"], 2),
    ("erase", ["--object", "shop.Order:17", "--dry-run"], 0),
    ("erase", ["--object", "shop.Order:18000"], 1),
    ("erase", ["--object", "shop.Nope:17"], 2),
    ("erase", [], 2),
    ("signals", ["--signal", "post_save"], 0),
    ("signals", ["--signal", "post_save", "--group", "auth"], 1),
    ("signals", ["--signal", "post_sav"], 2),
    ("errors", [], 1),
    ("errors", ["12345678"], 1),
    ("errors", ["--resolve"], 2),
    ("stats", [], 0),
    ("stats", ["--signal", "pre_save"], 1),
    ("stats", ["--kind", "foo"], 2),
    ("purge", [], 0),
    ("purge", ["--before", "soon"], 2),
    ("purge", ["--before", "90d", "--no-input", "--sender", "shop.Nope"], 2),
    ("work", ["--threads", "0"], 2),
    ("deliveries", ["show", "1"], 1),
    ("deliveries", ["list"], 1),
    ("deliveries", ["retry"], 2),
    ("doctor", ["--rule", "astrology"], 2),
    ("doctor", ["--app", "astrology"], 2),
]


@pytest.mark.django_db(databases="__all__")
@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize(("name", "words", "code"), EXIT_CODES)
def test_the_exit_code_is_the_documented_one(name: str, words: list[str], code: int) -> None:
    assert code == exit_code(name, *words)


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_an_unknown_option_is_bad_usage_of_every_subcommand(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = {"show": ["1"], "history": ["shop.Order", "1"], "revert": ["1"]}.get(name, [])
    with pytest.raises(SystemExit) as raised:
        Command().run_from_argv(["manage.py", "signalbox", name, *arguments, "--astrology"])
    assert 2 == raised.value.code
    assert "unrecognized arguments: --astrology" in capsys.readouterr().err


def test_exit_codes_are_documented_and_tested_of_every_subcommand() -> None:
    table = DOCS.read_text().partition("| subcommand | exit code 1 |")[2].partition("\n\n")[0]
    documented = re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\|([^|]*)\|", table, re.MULTILINE)))
    assert sorted(SUBCOMMANDS) == sorted(documented) == sorted({name for name, *_ in EXIT_CODES})


# ------------------------------------------------------------------ terminals


@pytest.fixture
def colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")


@pytest.mark.usefixtures("shop", "colours")
@pytest.mark.parametrize("words", [["events"], ["stats"], ["signals"], ["show", "4101"], ["show", TRACE_ID]])
def test_colours_are_only_for_terminals(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    gc.collect()  # dead receivers must not be collected between two runs
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


@pytest.mark.usefixtures("shop", "colours")
@pytest.mark.parametrize("columns", [120, 80, 60, 45, 30, 20])
@pytest.mark.parametrize("words", [["events"], ["show", TRACE_ID], ["events", "--signal", "post_save"]])
def test_outcome_and_failure_are_shown_however_narrow_the_terminal_is(
    words: list[str], columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = plain(run(*words, out=Terminal())).splitlines()
    assert 1 == sum("FAILED" in line for line in lines)
    assert 2 == sum("committed" in line for line in lines)
    events = list(takewhile(lambda line: not line.startswith("counted signals"), lines))
    assert [] == [line for line in events if len(line) > columns and not line.startswith(("trace", "  request"))]


@pytest.mark.usefixtures("shop", "colours")
@pytest.mark.parametrize("columns", [80, 45, 40])
def test_failures_are_counted_however_narrow_the_terminal_is(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    headings = [line for line in plain(run("stats", out=Terminal())).splitlines() if "errors" in line]
    assert [True, False] == ["failed" in line for line in headings]


@pytest.mark.usefixtures("_alone", "colours")
def test_of_many_receivers_the_one_that_failed_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "45")
    calls = [
        {"name": f"shop.{name}", "location": "", "duration_us": 1, "error": error}
        for name, error in (("broken", "KeyError: 'x'"), ("first_of_the_others", None), ("second_of_the_others", None))
    ]
    create_event(errors=1, data={"receivers": calls})
    assert plain(run("events", out=Terminal())).endswith("FAILED\n")
    assert "first_of_the_others, second_of_the_others, broken FAILED" in run("events")


@pytest.mark.usefixtures("_alone", "colours")
def test_a_label_cannot_drive_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    create_event(object_label="\x1b[2J\x07\u202egone\r\n", actor_label="\x9b31m")
    shown = run("events", "--no-color", out=Terminal())
    assert 2 == len(shown.splitlines())
    assert r"\x1b[2J\x07\u202egone" in shown
    assert re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", shown) is None


@pytest.mark.usefixtures("shop")
def test_times_are_in_the_zone_of_the_site_or_with_utc_in_utc() -> None:
    with override_settings(TIME_ZONE="Asia/Kolkata"):
        shown = run("events", "--object", "shop.Order:17")
        assert "time Kolkata" in shown
        assert "2026-03-01 17:30:00.000000+05:30" in shown
        shown = run("events", "--object", "shop.Order:17", "--utc")
        assert "time UTC" in shown
        assert "2026-03-01 12:00:00.000000+00:00" in shown
        assert [4101] == ids("events", "--object", "shop.Order:17", "--since", "2026-03-01T17:30")
        assert 1 == exit_code("events", "--object", "shop.Order:17", "--since", "2026-03-01T17:30", "--utc")
        assert "17:30:00.000000 Asia/Kolkata (UTC+05:30)" in run("show", "4101")
        assert "12:00:00.000000 UTC" in run("show", "4101", "--utc")
        assert "+05:30" not in run("history", "shop.Order", "17", "--utc")


@pytest.mark.usefixtures("_alone")
def test_the_summary_of_an_event_can_not_drive_the_terminal() -> None:
    create_event(data={"changes": {"note": ["\x1b[2J", "\u202eשלם\u200b"]}})
    shown = run("events", "--no-color")
    assert r"note \x1b[2J → \u202eשלם\u200b" in shown
    assert re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u202e\u2066-\u2069]", shown) is None


# ------------------------------------------------------------------ processes of their own


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "django", "signalbox", *words]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings", "PYTHONUNBUFFERED": "", **more}


def process(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*words), env=environment(**more), capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.usefixtures("_alone")
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (["events", "--limit", "1"], 1, ""),
        (["show", "9223372036854775807"], 1, "Event 9223372036854775807 does not exist"),
        (["events", "--since", "noon"], 2, "since is 'noon'; a time was expected"),
        pytest.param(["events", "--outcome", "lost"], 2, "invalid choice: 'lost'", marks=pytest.mark.slow),
        pytest.param([], 2, "SUBCOMMAND", marks=pytest.mark.slow),
    ],
)
def test_the_exit_code_says_what_happened(words: list[str], code: int, error: str) -> None:
    done = process(*words)
    assert code == done.returncode
    assert error in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "word",
    [
        pytest.param("events", marks=pytest.mark.every_database),
        *(pytest.param(word, marks=pytest.mark.slow) for word in ("stats", "signals", "doctor")),
    ],
)
@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("_alone")
def test_reading_is_not_recorded(word: str) -> None:
    done = process(word)
    assert (1 if word in ("events", "stats") else 0, "") == (done.returncode, done.stderr)
    assert [] == list(Event.objects.all())
    assert [] == list(Trace.objects.all())


@pytest.mark.skipif(settings.DATABASE != "sqlite", reason="an empty database is a file that is not there")
def test_the_error_of_missing_tables_names_the_remedy() -> None:
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


@pytest.mark.slow
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
            assert label == json.loads(line_of(tail, "{"))["object_label"]
            time.sleep(1.5)  # by now it looks once in a second
        tail.send_signal(signal.SIGINT)
        out, err = tail.communicate(timeout=20)
        assert (0, "", "") == (tail.returncode, out, err)


@pytest.mark.slow
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
    assert ["id", "time", "UTC", "signal", "sender"] == plain(heading).split()[:5]
    assert "Order A-17" in first


def test_without_a_subcommand_the_subcommands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        Command().run_from_argv(["manage.py", "signalbox"])
    printed = capsys.readouterr().err
    assert 2 == ended.value.code
    assert [] == [name for name in SUBCOMMANDS if f"\n    {name} " not in printed]


@pytest.mark.django_db(transaction=True, databases="__all__")
def test_a_worker_on_a_terminal_says_how_many_receivers_are_connected() -> None:
    terminal, pipe = Terminal(), StringIO()
    call_command("signalbox", "work", "--burst", stdout=terminal)
    call_command("signalbox", "work", "--burst", stdout=pipe)
    expected = "No durable receiver is connected: import its module in ready() of its app. Ctrl-C stops the worker.\n"
    assert (expected, "") == (terminal.getvalue(), pipe.getvalue())
