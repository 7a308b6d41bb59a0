"""The guide to an object's history shows what the code makes: each of its examples runs here."""

from __future__ import annotations

import datetime as dt
import doctest
import re
import shlex
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db.models import F
from django.test import override_settings
from django.utils import timezone

import signalbox
from signalbox import conf
from signalbox.dashboard.links import get_object_url
from signalbox.instrumentation import model_metadata
from signalbox.models import Event, to_microseconds
from tests.shop import models

DOCS = Path(__file__).parent.parent / "docs" / "history.md"
START = dt.datetime(2026, 3, 1, 9, 0, tzinfo=dt.UTC)


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", DOCS.read_text(), re.DOTALL)


@pytest.fixture
def lived(db: None, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The life of the first example, with the times and numbers of the page."""
    monkeypatch.setitem(sys.modules, "shop", models)
    monkeypatch.setitem(sys.modules, "shop.models", models)
    monkeypatch.setattr(timezone, "now", lambda: START)
    names: dict[str, Any] = {}
    models.Customer.objects.filter(pk=1).delete()
    signalbox.set_actor("ann")
    try:
        exec(blocks("python")[0].replace('name="Ada"', 'id=1, name="Ada"'), names)
    finally:
        signalbox.set_actor(None)
    told = list(signalbox.history(models.Order, 17))
    shift = 4100
    Event.objects.update(id=F("id") + 10**6)  # no other has a number that is given here
    for number, event in enumerate(reversed(told), start=1):
        moment = to_microseconds(START + dt.timedelta(minutes=number))
        data = dict(event.data)
        if "pre_signal_time" in data:
            data["pre_signal_time"] = moment - 90 * 10**6  # before the relations were deleted
        Event.objects.filter(pk=event.pk + 10**6).update(id=shift + number, time=moment, data=data)
    return names


def run(words: list[str]) -> str:
    output = StringIO()
    call_command("signalbox", *words, stdout=output)
    return output.getvalue()


@pytest.mark.usefixtures("lived")
def test_the_page_shows_what_the_command_writes() -> None:
    examples = blocks("console")
    assert 4 == len(examples)
    for example in examples:
        line, _, expected = example.removeprefix("$ ").partition("\n")
        assert expected == run(shlex.split(line)[3:])
    assert not models.Order.objects.exists()


def test_the_page_shows_what_the_code_answers(lived: dict[str, Any]) -> None:
    source = "".join(blocks("pycon"))
    names = {**lived, "signalbox": signalbox}
    test = doctest.DocTestParser().get_doctest(source, names, "history.md", str(DOCS), 0)
    report = StringIO()
    try:
        results = doctest.DocTestRunner(verbose=False).run(test, out=report.write)
    finally:
        conf.configured_models.clear()
        model_metadata.clear_cache()
    assert (0, True) == (results.failed, results.attempted > 10), report.getvalue()


def test_the_settings_of_the_page_are_right() -> None:
    [setting] = [block for block in blocks("python") if block.startswith("SIGNALBOX")]
    names: dict[str, Any] = {}
    exec(setting, names)
    assert [] == conf.get_errors(names["SIGNALBOX"])


@pytest.mark.usefixtures("lived")
def test_the_json_holds_the_same() -> None:
    import json

    lines = run(["history", "shop.Order", "17", "--json", "--limit", "2"]).splitlines()
    assert ["post_delete", "bulk_delete"] == [json.loads(line)["signal"] for line in lines]
    state = json.loads(run(["history", "shop.Order", "17", "--json", "--as-of", "2026-03-01T09:04:30+00:00"]))
    assert (True, "paid", []) == (state["exists"], state["fields"]["status"], state["unknown_fields"])


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("words", "text", "code"),
    [
        (["shop.Gone", "1"], "Unknown model 'shop.Gone'", 2),
        (["Order", "1"], "Unknown model 'Order'. Use app_label.Model.", 2),
        (["shop.Order", "1", "--as-of", "nope"], "as-of is 'nope'; a time was expected", 2),
        (["shop.Order", "x"], "'x' is not a primary key of shop.Order", 2),
        (["shop.Enrolment", "17"], "'17' is not a primary key of shop.Enrolment", 2),
        (["shop.Order", "99"], "Nothing is recorded of shop.Order 99", 1),
    ],
)
def test_the_error_names_a_missing_object(words: list[str], text: str, code: int) -> None:
    from django.core.management import CommandError

    with pytest.raises(CommandError, match=text) as caught:
        run(["history", *words])
    assert code == caught.value.returncode


@pytest.mark.django_db
@override_settings(AUTH_USER_MODEL="shop.Customer")
def test_a_model_that_another_replaces_is_named_with_it() -> None:
    from django.core.management import CommandError

    with pytest.raises(CommandError, match=r"auth\.User is not in use: shop\.Customer replaces it") as caught:
        run(["history", "auth.User", "1"])
    assert 1 == caught.value.returncode


def test_the_address_of_the_object_page_is_the_documented_one() -> None:
    assert f"`{get_object_url('shop.Order', '17')}`" in DOCS.read_text()


@pytest.mark.django_db
def test_an_object_with_a_composite_key_is_named_in_json() -> None:
    person = models.Person.objects.create(name="Ada")
    models.Enrolment.objects.create(person=person, course="maths", grade="A")
    assert "created" in run(["history", "shop.Enrolment", f'[{person.pk},"maths"]'])
