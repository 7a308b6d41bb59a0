"""``manage.py signalbox erase``: options, output, exit codes, progress and interruption."""

from __future__ import annotations

import json
import sys
from io import StringIO

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command

import signalbox
from signalbox.management.output.progress import Progress
from signalbox.models import Delivery, Event
from tests.erasure.seeding import CANARY, add_delivery, read_tables
from tests.events import get_object_event
from tests.json_tables import find_differences, read_types
from tests.shop.models import Customer

pytestmark = pytest.mark.django_db(databases=["default", "other"], transaction=True)


def run(*words: str) -> tuple[str, int]:
    """Return the output and the exit code."""
    output = StringIO()
    try:
        call_command("signalbox", "erase", *words, stdout=output)
    except SystemExit as stop:
        return output.getvalue(), int(stop.code or 0)
    return output.getvalue(), 0


@pytest.fixture
def customer() -> Customer:
    """A customer with two events."""
    created = Customer.objects.create(name=CANARY)
    created.email = f"{CANARY}@example.com"
    created.save()
    return created


def test_it_erases_and_writes_the_counts_by_place(customer: Customer) -> None:
    output, code = run("--object", f"shop.Customer:{customer.pk}", "--by", "officer")
    assert 0 == code
    assert ["object_label", "2"] in [line.split() for line in output.splitlines()]
    assert "Data of 2 events, 0 traces and 0 deliveries were erased in default, other." in output
    assert CANARY not in read_tables()["signalbox_event"]
    record = Event.objects.get(signal="signalbox.erased")
    assert f"Event {record.pk} of the database default records the erasure." in output
    assert "officer" == record.actor_label


def test_a_dry_run_changes_nothing(customer: Customer) -> None:
    before = read_tables()
    output, code = run("--object", f"shop.Customer:{customer.pk}", "--dry-run")
    assert 0 == code
    assert "would be erased" in output
    assert before == read_tables()


def test_the_result_as_json(customer: Customer) -> None:
    output, code = run("--object", f"shop.Customer:{customer.pk}", "--json", "--database", "default")
    result = json.loads(output)
    assert (0, 2, ["default"], True) == (code, result["events"], result["databases"], result["complete"])
    assert [] == find_differences(read_types("Erasure"), [result])


def test_an_actor_and_its_user_are_erased_together() -> None:
    user = User.objects.create_user(CANARY)
    with signalbox.trace("work", actor=user):
        user.first_name = CANARY
        user.save()
    assert 0 == run("--actor", str(user.pk), "--object", f"auth.User:{user.pk}")[1]
    assert CANARY not in "".join(read_tables().values())


def test_pending_deliveries_are_reported_with_an_exit_code(customer: Customer) -> None:
    add_delivery(get_object_event(customer), Delivery.PENDING)
    output, code = run("--object", f"shop.Customer:{customer.pk}")
    assert 1 == code
    assert "Left unchanged: 1 pending delivery and its event. Run the command again" in output


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "Neither an actor nor an object"),
        (["--object", "shop.Custmer:1"], 2, "Did you mean 'shop.Customer'"),
        (["--object", "shop.Customer:x"], 2, "is not a primary key"),
        (["--actor", "987654"], 1, "Nothing is recorded of the actor '987654'"),
    ],
)
def test_a_bad_selector_is_an_error(words: list[str], code: int, message: str) -> None:
    with pytest.raises(CommandError, match=message) as raised:
        run(*words)
    assert code == raised.value.returncode
    assert "Nothing was erased." in str(raised.value)


def test_an_interrupted_erasure_says_how_much_was_done(customer: Customer, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: Progress, name: str, fraction: float | None, text: str) -> None:
        if not text.endswith(" 0 rows erased"):
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "update", interrupt)
    with pytest.raises(CommandError, match=r"Interrupted: 2 rows were erased\. Run the command again") as raised:
        run("--object", f"shop.Customer:{customer.pk}", "--database", "default")
    assert 130 == raised.value.returncode


class Terminal(StringIO):
    """A stderr that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_the_progress_is_shown_on_a_terminal_only(customer: Customer, monkeypatch: pytest.MonkeyPatch) -> None:
    for error, is_shown in ((Terminal(), True), (StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", error)
        run("--object", f"shop.Customer:{customer.pk}")
        assert is_shown is ("events examined" in error.getvalue())
