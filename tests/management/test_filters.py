"""The text of a filter in commands: the same events as on the page, budgets, and errors."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from signalbox.models import Event
from signalbox.queries import window_search
from tests.rows import create_event

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def empty(db: None) -> None:
    Event.objects.all().delete()


def run(*arguments: str) -> str:
    stdout = io.StringIO()
    call_command("signalbox", *arguments, stdout=stdout)
    return stdout.getvalue()


def run_json(*arguments: str) -> list[Any]:
    return [json.loads(line) for line in run(*arguments, "--json").splitlines()]


def test_a_text_selects_events_in_each_command() -> None:
    call = {"name": "shop.signals.send_invoice", "location": "", "duration_us": 60_000, "error": None}
    slow = create_event(data={"receivers": [call]})
    create_event(data={"receivers": [{**call, "duration_us": 10}]})
    text = "receiver:send_invoice took>50ms"
    assert [slow.id] == [one["id"] for one in run_json("events", text)]
    assert [slow.id] == [one["id"] for one in run_json("events", "receiver:send_invoice", "took>50ms")]
    assert [slow.id] == [json.loads(line)["id"] for line in run("export", text).splitlines()]
    assert 1 == run_json("stats", text)[0]["events"]
    assert ["post_save"] == [one["signal"] for one in run_json("signals", "signal:post_save")]
    assert ["signalbox.exported"] == [one["signal"] for one in run_json("events", "-signal:post_save -model:shop")]


def test_options_and_text_are_combined() -> None:
    wanted = create_event(signal="update", duration=70_000)
    create_event(signal="update")
    create_event(duration=70_000)
    assert [wanted.id] == [one["id"] for one in run_json("events", "took>50ms", "--signal", "update")]


def test_tokens_may_be_before_and_after_options_and_have_a_minus() -> None:
    wanted = create_event(signal="update", duration=70_000, actor_label="grace")
    create_event(signal="update", duration=70_000)
    create_event(duration=70_000, actor_label="grace")
    for words in (
        ("took>50ms", "--limit", "5", "-signal:post_save", "-actor:ann"),
        ("--limit", "5", "-actor:ann", "took>50ms", "-signal:post_save"),
        ("-took<=50ms", "-signal:post_save", "--", "-ann"),
    ):
        assert [wanted.id] == [json.loads(line)["id"] for line in run("events", "--json", *words).splitlines()]


@pytest.mark.parametrize("words", [("-x",), ("took>50ms", "--limt", "5"), ("-x", "-signal:update")])
def test_an_unknown_option_is_not_a_token(words: tuple[str, ...]) -> None:
    with pytest.raises(CommandError, match="unrecognized arguments: -"):
        run("events", *words)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-signl:x", "At character 1: 'signl' is not a token."),
        ("signl:x", "At character 1: 'signl' is not a token."),
        ("signal:post_sav", "Did you mean 'post_save'?"),
        ("-signal:post_sav x", "Did you mean 'post_save'?"),
        ('"x', "The quote has no end."),
    ],
)
def test_an_invalid_text_is_refused_with_code_2(text: str, message: str) -> None:
    with pytest.raises(CommandError) as raised:
        run("events", text)
    assert message in str(raised.value)
    assert 2 == raised.value.returncode


def test_tail_refuses_what_is_not_known_of_running_traces() -> None:
    for text in ("path:/orders/*", "status>=500", "-kind:test x"):
        with pytest.raises(CommandError, match="a running trace has no"):
            run("tail", text)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_search, "FIRST_WINDOW", 2)
    monkeypatch.setattr(window_search, "WIDEST_WINDOW", 2)


@pytest.mark.usefixtures("narrow")
def test_a_budget_stops_a_search_that_continues_where_it_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    first = create_event(duration=70_000)
    for _ in range(20):
        create_event()
    with pytest.raises(SystemExit):
        run("events", "took>50ms", "--budget", "0us")
    said = capsys.readouterr().err
    assert "Continue with --before" in said or "before its first event" in said
    before = str(first.id + 1)
    assert [first.id] == [one["id"] for one in run_json("events", "took>50ms", "--before", before, "--budget", "1m")]
    assert [first.id] == [one["id"] for one in run_json("events", "took>50ms")]


def test_a_budget_is_a_duration() -> None:
    with pytest.raises(CommandError, match="is not a duration"):
        run("events", "--budget", "2")


def test_the_help_lists_all_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        call_command("signalbox", "events", "--help")
    said = capsys.readouterr().out
    assert "receiver:send_invoice" in said
    assert "took>50ms" in said
