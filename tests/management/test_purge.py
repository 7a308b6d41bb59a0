from __future__ import annotations

import datetime as dt
import io
import json
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.core.management import CommandError, call_command

import signalbox
from signalbox.models import Event, PurgeState
from signalbox.retention.purging import PurgeProgress
from tests.json_tables import find_differences, read_types
from tests.rows import create_event

pytestmark = [pytest.mark.django_db]


@pytest.fixture(autouse=True)
def _events(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    request.getfixturevalue("_django_db_helper")
    monkeypatch.setattr(django_settings, "SIGNALBOX", {"RETENTION": {"events": 5}}, raising=False)
    Event._base_manager.all().delete()
    PurgeState.objects.all().delete()
    for days, signal in ((9, "post_save"), (9, "post_delete"), (1, "post_save")):
        create_event(at=dt.datetime.now(dt.UTC) - dt.timedelta(days=days), signal=signal)


def run(*arguments: str) -> str:
    output = io.StringIO()
    call_command("signalbox", "purge", "--database", "default", *arguments, stdout=output)
    return output.getvalue()


def test_the_numbers_of_deleted_rows_are_written_by_rule() -> None:
    assert ["database  rule    rows", "default   events     2"] == run("--dry-run").splitlines()
    assert 3 == Event.objects.count()
    written = json.loads(run("--json"))
    assert {"database": "default", "rule": "events", "rows": 2, "dry_run": False} == written
    assert [] == find_differences(read_types("Purged rows"), [written])
    assert 1 == Event.objects.count()


def test_without_rules_the_command_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(django_settings, "SIGNALBOX", {})
    assert 'Nothing is deleted: SIGNALBOX["RETENTION"] has no rules, and --before is not given.\n' == run()


def test_without_rules_there_is_no_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(django_settings, "SIGNALBOX", {})
    assert "" == run("--json")


def test_an_interrupted_purge_writes_what_it_has_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: Any, on_progress: Any, **options: Any) -> None:
        on_progress(PurgeProgress(database="default", rule="events", deleted=1, fraction=0.5))
        raise KeyboardInterrupt

    monkeypatch.setattr(signalbox, "purge", interrupt)
    output = io.StringIO()
    with pytest.raises(CommandError, match="was interrupted") as error:
        call_command("signalbox", "purge", "--database", "default", "--json", stdout=output)
    assert 1 == error.value.returncode
    assert {"database": "default", "rule": "events", "rows": 1, "dry_run": False} == json.loads(output.getvalue())


@pytest.mark.parametrize(("answer", "left"), [("y", 2), ("n", 3)])
def test_a_purge_before_a_time_is_confirmed(answer: str, left: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda _: answer)
    arguments = ("--before", "5d", "--signal", "post_save")
    if answer == "n":
        with pytest.raises(SystemExit):
            run(*arguments)
    else:
        run(*arguments)
    assert left == Event.objects.count()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--signal", "post_save"], "add --before"),
        (["--before", "soon"], "a time was expected"),
        (["--before", "5d", "--no-input", "--signal", "post_saved"], "Did you mean 'post_save'"),
        (["--before", "5d", "--json"], "--json asks for no confirmation"),
        (["--before", "5d", "--no-input", "--sender", ""], "a name was expected"),
    ],
)
def test_a_wrong_option_is_an_error_and_deletes_nothing(arguments: list[str], message: str) -> None:
    with pytest.raises(CommandError, match=message):
        run(*arguments)
    assert 3 == Event.objects.count()


def test_an_invalid_rule_is_an_error_and_deletes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(django_settings, "SIGNALBOX", {"RETENTION": {"events": 5, "auht": 1}})
    with pytest.raises(CommandError, match='Did you mean "auth"'):
        run()
    assert 3 == Event.objects.count()


@pytest.mark.every_database
@pytest.mark.django_db(transaction=True)
def test_the_space_is_released_where_that_is_supported(settings: Any) -> None:
    if settings.DATABASES["default"]["ENGINE"].endswith("mysql"):
        with pytest.raises(CommandError, match="OPTIMIZE TABLE"):
            run("--vacuum")
        assert 3 == Event.objects.filter(object_key="17").count()
    else:
        run("--vacuum")
        assert 1 == Event.objects.filter(object_key="17").count()
