"""Test deliveries whose receiver was renamed: they are reported, and end after a time."""

from __future__ import annotations

import json
from io import StringIO
from typing import TYPE_CHECKING, Any

import pytest
from django.core import checks
from django.core.management import CommandError, call_command
from django.db.models import F
from django.test import RequestFactory

from signalbox.models import Delivery
from signalbox.outbox import health, manual_changes, queue
from signalbox.outbox.claiming import MAX_RUN_LENGTH
from signalbox.outbox.execution import execute
from signalbox.outbox.queue import SECOND_US, DeliveryQueue, now_us
from signalbox.outbox.unknown_receivers import find_unknown_receivers
from signalbox.outbox.worker import Worker, WorkerOptions
from tests.outbox import receivers
from tests.shop.models import Order

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.every_database, pytest.mark.usefixtures("empty_tables")]

RENAMED = "tests.outbox.receivers.was_saved"
DAY_US = 86_400 * SECOND_US


def create_renamed(make_durable: Callable[..., None], number: int = 2) -> None:
    """Create ``number`` deliveries of one object to a receiver that was renamed since."""
    make_durable(receivers.saved)
    order = Order.objects.create(number="1")
    for _ in range(number - 1):
        order.save()
    Delivery.objects.update(receiver=RENAMED)


def run_next() -> None:
    """Run the oldest delivery. Of equal times, a database may acquire any."""
    Delivery.objects.filter(state="pending").update(run_at=0, next_check_at=F("id"))
    delivery_queue = DeliveryQueue("default")
    [found] = delivery_queue.acquire(1, 1)
    delivery_queue.complete(found, execute(found))


def defer(since_us: int) -> None:
    """Defer the next delivery as if a worker had done it ``since_us`` microseconds ago."""
    run_next()
    Delivery.objects.exclude(deferred_since=None).update(deferred_since=now_us() - since_us)


def command(*arguments: str) -> str:
    output = StringIO()
    call_command("signalbox", "deliveries", *arguments, stdout=output)
    return output.getvalue()


def test_a_delivery_waits_for_its_receiver_until_the_time_is_over(make_durable: Callable[..., None]) -> None:
    create_renamed(make_durable)
    defer(DAY_US - 60 * SECOND_US)
    run_next()
    first, second = Delivery.objects.order_by("id")
    assert ("pending", 0, True) == (first.state, first.attempts, first.deferred_since is not None)
    assert ("pending", None) == (second.state, second.deferred_since)


def test_a_delivery_without_receiver_becomes_dead_with_the_later_ones_of_its_key(
    make_durable: Callable[..., None],
) -> None:
    create_renamed(make_durable, 3)
    defer(DAY_US)
    run_next()
    for one in Delivery.objects.all():
        assert ("dead", 0, None, None) == (one.state, one.attempts, one.next_check_at, one.lease_expires_at)
        assert f"{RENAMED} waits: it is not registered as a durable receiver here" in one.error
        assert 'No worker could run it for DURABLE["UNKNOWN_AFTER"], 86400 seconds' in one.error


def test_a_worker_ends_a_whole_run_of_deliveries_without_receiver(make_durable: Callable[..., None]) -> None:
    create_renamed(make_durable, MAX_RUN_LENGTH)
    Delivery.objects.filter(pk=Delivery.objects.earliest("id").pk).update(deferred_since=now_us() - DAY_US)
    assert 0 == Worker(WorkerOptions(burst=True, databases=("default",))).run()
    rows = Delivery.objects.values_list("state", "attempts", "next_check_at", "lease_expires_at")
    assert [("dead", 0, None, None)] * MAX_RUN_LENGTH == list(rows)


def test_a_delivery_without_receiver_does_not_end_those_of_other_keys(make_durable: Callable[..., None]) -> None:
    create_renamed(make_durable, 2)
    Delivery.objects.update(deferred_since=now_us() - DAY_US)
    Order.objects.create(number="2")
    run_next()
    assert ["dead", "dead", "pending"] == list(Delivery.objects.order_by("id").values_list("state", flat=True))


def test_a_setting_limits_how_long_a_delivery_waits_for_its_receiver(
    make_durable: Callable[..., None], settings: Any
) -> None:
    settings.SIGNALBOX = {"DURABLE": {"UNKNOWN_AFTER": 5}}
    create_renamed(make_durable, 1)
    defer(6 * SECOND_US)
    run_next()
    assert "dead" == Delivery.objects.get().state


def test_a_retried_delivery_waits_the_whole_time_again(make_durable: Callable[..., None]) -> None:
    create_renamed(make_durable, 1)
    defer(DAY_US)
    run_next()
    manual_changes.retry(Delivery.objects.all(), "default")
    run_next()
    assert "pending" == Delivery.objects.get().state


def test_a_receiver_that_was_found_again_is_not_deferred(make_durable: Callable[..., None]) -> None:
    make_durable(receivers.never_works)
    Order.objects.create(number="1")
    Delivery.objects.update(deferred_since=now_us() - DAY_US)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIGNALBOX_TEST_NOTES", "/dev/null")
        run_next()
    one = Delivery.objects.get()
    assert ("pending", 1, None) == (one.state, one.attempts, one.deferred_since)


def test_an_unknown_receiver_is_found_with_counts_and_similar_names(make_durable: Callable[..., None]) -> None:
    create_renamed(make_durable)
    assert [] == find_unknown_receivers("default")  # another process may have it
    [found] = find_unknown_receivers("default", import_modules=True)
    assert (RENAMED, 2, 0, 0.0) == (found.name, found.pending, found.dead, found.deferred_seconds)
    assert ("tests.outbox.receivers.saved",) == found.similar_names
    defer(90 * SECOND_US)
    [found] = find_unknown_receivers("default")
    assert 89 < found.deferred_seconds < 200


def test_deliveries_without_receiver_are_not_healthy(make_durable: Callable[..., None]) -> None:
    create_renamed(make_durable)
    defer(30 * SECOND_US)
    assert health.get_health("default").is_healthy  # as during a deploy
    defer(61 * SECOND_US)
    found = health.get_health("default")
    assert (False, True, 2) == (found.is_healthy, found.is_processing, found.unknown)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queue, "get_delivery_databases", lambda: ["default"])
        answer = health.view(RequestFactory().get("/health/"))
    assert (503, False) == (answer.status_code, b"was_saved" in answer.content)


def test_the_command_names_unknown_receivers(make_durable: Callable[..., None]) -> None:
    create_renamed(make_durable)
    defer(61 * SECOND_US)
    json_output = StringIO()
    with pytest.raises(SystemExit) as raised:
        call_command("signalbox", "deliveries", "--json", "--using", "default", stdout=json_output)
    assert 1 == raised.value.code
    [found] = json.loads(json_output.getvalue())["databases"]
    assert (False, 2) == (found["healthy"], found["unknown"])
    assert [(RENAMED, 2)] == [(one["name"], one["pending"]) for one in found["unknown_receivers"]]
    output = StringIO()
    with pytest.raises(SystemExit):
        call_command("signalbox", "deliveries", "--using", "default", stdout=output)
    assert f"{RENAMED} is not a durable receiver of this code: 2 deliveries wait, 0 are dead." in output.getvalue()
    assert "Similar: tests.outbox.receivers.saved." in output.getvalue()
    assert "No worker is running" not in output.getvalue()


@pytest.mark.django_db(databases=["default", "other"], transaction=True)
def test_the_checks_of_a_database_name_unknown_receivers(make_durable: Callable[..., None]) -> None:
    create_renamed(make_durable)
    [found] = [one for one in checks.run_checks(databases=["default", "other"]) if one.id == "signalbox.W013"]
    assert (
        f"In the database 'default', {RENAMED} is not a durable receiver of this code: 2 deliveries wait" in found.msg
    )
    assert not [one for one in checks.run_checks() if one.id == "signalbox.W013"]


@pytest.mark.parametrize("action", ["show", "retry", "discard"])
@pytest.mark.parametrize("number", [999_999_999, 2**63])
def test_a_delivery_that_does_not_exist_is_an_error(action: str, number: int) -> None:
    with pytest.raises(
        CommandError, match=f"These deliveries do not exist in the database 'default': {number}"
    ) as raised:
        command(action, str(number))
    assert 1 == raised.value.returncode


def test_one_of_several_ids_that_does_not_exist_changes_nothing(make_durable: Callable[..., None]) -> None:
    create_renamed(make_durable, 1)
    one = Delivery.objects.get()
    with pytest.raises(CommandError, match=r": 999999999\. "):
        command("discard", str(one.id), "999999999")
    assert "pending" == Delivery.objects.get().state


@pytest.mark.parametrize("text", ["9" * 5000, "x", "1.5"])
def test_an_id_that_no_delivery_can_have_is_a_wrong_argument(text: str) -> None:
    with pytest.raises(CommandError, match="is not the id of a delivery"):
        command("show", text)


def test_each_state_in_the_list_finds_its_delivery(make_durable: Callable[..., None]) -> None:
    make_durable(receivers.saved, key=None)
    for number in range(8):
        Order.objects.create(number=str(number))
    now = now_us()
    hour = 3600 * SECOND_US
    changes: list[dict[str, Any]] = [
        {},
        {"run_at": now + hour, "next_check_at": now + hour},
        {"lease_expires_at": now + hour, "attempts": 1},
        {"lease_expires_at": now - hour, "attempts": 1},
        {"attempts": 2, "run_at": now + hour, "next_check_at": now + hour},
        {"state": "done", "next_check_at": None},
        {"state": "dead", "next_check_at": None},
        {"state": "discarded", "next_check_at": None},
    ]
    for one, change in zip(Delivery.objects.order_by("id"), changes, strict=True):
        Delivery.objects.filter(id=one.id).update(**change)
    printed = {int(line.split()[0]): line.split()[1] for line in command("list").splitlines()[1:]}
    assert ["due", "waiting", "running", "abandoned", "retrying", "done", "dead", "discarded"] == [
        printed[number] for number in sorted(printed)
    ]
    for number, word in printed.items():
        found = [json.loads(line)["id"] for line in command("list", "--json", "--state", word).splitlines()]
        assert number in found
    assert 5 == len(command("list", "--json", "--state", "pending").splitlines())
