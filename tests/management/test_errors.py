"""``manage.py signalbox errors`` lists errors, and sets their states."""

from __future__ import annotations

import json
import os
import pwd
from contextlib import suppress
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from signalbox.core.clock import now_us
from signalbox.models import Error, ErrorState
from tests.json_tables import find_differences, read_types

pytestmark = [pytest.mark.django_db, pytest.mark.every_database]


@pytest.fixture(autouse=True)
def errors(db: None) -> None:
    for prefix in ("ab", "cd"):
        Error.objects.create(
            trace_id="1" * 32,
            span=1,
            position=0,
            fingerprint=prefix * 16,
            time=now_us(),
            exception=f"shop.{prefix.title()}Error",
            message="no price",
            file="shop/prices.py",
            line=7,
            function="get_price",
            receiver="shop.receivers.save",
            data={"frames": []},
        )


def run(*words: str) -> str:
    stdout = StringIO()
    with suppress(SystemExit):  # nothing was found
        call_command("signalbox", "errors", *words, stdout=stdout)
    return stdout.getvalue()


def records(*words: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run(*words, "--json").splitlines()]


def test_the_list_has_class_place_and_receiver() -> None:
    text = run()
    for part in ("abababab", "open", "shop.AbError", "shop/prices.py:7", "shop.receivers.save"):
        assert part in text
    assert ["cd" * 16] == [record["fingerprint"] for record in records("--text", "cderr")]
    assert 1 == len(records("--limit", "1"))


def test_the_json_is_the_documented_one() -> None:
    run("abababab", "--resolve")
    assert [] == find_differences(read_types("Error"), records("--state", "all"))


def test_errors_are_resolved_muted_and_reopened_by_their_ids() -> None:
    [record] = records("abababab", "--resolve")
    assert ("resolved", pwd.getpwuid(os.getuid()).pw_name) == (record["state"], record["changed_by"])
    assert "resolved" == ErrorState.objects.get().state
    assert ["cd" * 16] == [one["fingerprint"] for one in records()]
    assert ["ab" * 16] == [one["fingerprint"] for one in records("--state", "resolved")]
    run("ab" * 16, "cdcdcdcd", "--mute")
    assert "No errors match." in run()
    assert 2 == len(records("--state", "all"))
    run("abababab", "--reopen")
    assert ["open"] == [one["state"] for one in records()]


def test_a_user_without_a_name_changes_an_error_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container, the user may have only a number."""
    monkeypatch.setattr(os, "getuid", lambda: 7_654_321)
    [record] = records("abababab", "--resolve")
    assert ("resolved", "uid 7654321") == (record["state"], record["changed_by"])


def test_a_variable_of_the_environment_does_not_change_who_did_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "somebody else")
    [record] = records("abababab", "--resolve")
    assert pwd.getpwuid(os.getuid()).pw_name == record["changed_by"]


def test_a_text_that_would_control_the_terminal_is_escaped() -> None:
    Error.objects.update(message="\x1b[2J\r\n\u202egone", receiver="a\x07", exception="\x1b]0;x")
    text = run()
    assert not {"\x1b", "\x07", "\r", "\u202e"} & set(text)
    assert "gone" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mute"], "--mute needs the ids of errors"),
        (["99999999", "--mute"], "no stored error has this id"),
        (["xyz", "--mute"], "8 to 32 hexadecimal digits"),
        (["--limit", "0"], "'0' is not a number above 0"),
    ],
)
def test_a_wrong_use_changes_nothing(words: list[str], message: str) -> None:
    with pytest.raises(CommandError, match=message):
        call_command("signalbox", "errors", *words, stdout=StringIO())
    assert not ErrorState.objects.exists()
