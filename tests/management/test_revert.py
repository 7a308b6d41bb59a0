"""``manage.py signalbox revert``: the preview, the confirmation and the options."""

from __future__ import annotations

import json
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from signalbox.models import Event
from tests.events import get_newest_event, get_object_event
from tests.json_tables import find_differences, read_types
from tests.shop.models import Order, Tag

pytestmark = pytest.mark.django_db


def run(*words: str) -> tuple[str, int]:
    """Return the output and the exit code."""
    output = StringIO()
    try:
        call_command("signalbox", "revert", *words, stdout=output)
    except SystemExit as stop:
        return output.getvalue(), int(stop.code or 0)
    return output.getvalue(), 0


@pytest.fixture
def event() -> Event:
    """The event of an order that was paid."""
    order = Order.objects.create(number="A-1")
    order.status = "paid"
    order.save()
    return get_object_event(order)


def answer(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("builtins.input", lambda prompt: text)


def test_a_dry_run_shows_the_preview_and_changes_nothing(event: Event) -> None:
    output, code = run(str(event.pk), "--dry-run")
    line = next(line for line in output.splitlines() if line.startswith("status"))
    assert ["status", "paid", "·", "Paid", "open", "·", "Open"] == line.split()
    assert ("paid", 0) == (Order.objects.get().status, code)


@pytest.mark.parametrize(("text", "status"), [("y", "open"), ("Yes", "open"), ("", "paid"), ("n", "paid")])
def test_the_command_asks_for_confirmation(
    event: Event, text: str, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, text)
    output, code = run(str(event.pk))
    assert (status, status == "paid") == (Order.objects.get().status, bool(code))
    assert ("Nothing was changed." in output) is (status == "paid")


@pytest.mark.parametrize("option", ["--no-input", "--noinput", "--yes"])
def test_no_confirmation_is_needed_with_an_option(event: Event, option: str) -> None:
    output, code = run(str(event.pk), option)
    assert ("open", 0) == (Order.objects.get().status, code)
    assert f"Event {event.pk} was reverted: shop.Order {event.object_key}." in output


def test_without_an_answer_nothing_is_changed(event: Event, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(prompt: str) -> str:
        raise EOFError

    monkeypatch.setattr("builtins.input", read)
    with pytest.raises(CommandError, match="use --no-input"):
        run(str(event.pk))
    assert "paid" == Order.objects.get().status


def test_newer_values_are_named_and_the_events_values_are_an_option() -> None:
    order = Order.objects.create(number="A-1")
    Order.objects.update(status="paid")
    order.delete()
    number = str(get_newest_event(Order, "post_delete").pk)
    output, _ = run(number, "--dry-run")
    assert "a newer value than the event's" in output
    assert "--event-values restores the event's values." in output
    run(number, "--no-input", "--event-values")
    assert "open" == Order.objects.get().status
    Order.objects.get().delete()
    run(number, "--no-input")
    assert "paid" == Order.objects.get().status


def test_relations_are_restored_with_an_option() -> None:
    order = Order.objects.create(number="A-1")
    order.tags.add(Tag.objects.create(name="gift"))
    order.delete()
    number = str(get_newest_event(Order, "post_delete").pk)
    assert "The relation 'tags' is restored only on request." in run(number, "--dry-run")[0]
    output, _ = run(number, "--no-input", "--relations")
    assert "· gift" in output
    assert "gift" == Order.objects.get().tags.get().name


def test_an_event_that_can_not_be_reverted_has_the_exit_code_1(event: Event) -> None:
    Order.objects.all().delete()
    output, code = run(str(event.pk), "--no-input")
    assert ("does not exist any more" in output, code) == (True, 1)
    tag = Tag.objects.create(name="a")
    Tag(pk=tag.pk).delete()
    output, code = run(str(get_newest_event(Tag, "post_delete").pk), "--no-input", "--event-values")
    assert ("The value of 'name' was not recorded." in output, code) == (True, 1)
    assert not Tag.objects.exists()
    with pytest.raises(CommandError, match="Event 999999999 does not exist"):
        run("999999999", "--no-input")


def test_the_preview_is_also_json(event: Event) -> None:
    record: dict[str, Any] = json.loads(run(str(event.pk), "--json", "--dry-run")[0])
    assert [] == find_differences(read_types("Preview of a revert"), [record])
    [status] = [field for field in record["fields"] if field["name"] == "status"]
    assert (True, "restored", "paid", "open", "Open") == (
        record["can_revert"],
        status["status"],
        status["current"],
        status["restored"],
        status["restored_label"],
    )
    with pytest.raises(CommandError, match="--json asks for no confirmation"):
        run(str(event.pk), "--json")
    assert "paid" == Order.objects.get().status
