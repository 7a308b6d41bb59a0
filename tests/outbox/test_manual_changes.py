from __future__ import annotations

import json
import time
from contextlib import suppress
from decimal import Decimal
from io import StringIO
from typing import TYPE_CHECKING, Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.test import RequestFactory

from signalbox.models import Delivery
from signalbox.outbox import health, manual_changes, queue
from signalbox.outbox.queue import SECOND_US, SUCCEEDED, AttemptResult, DeliveryQueue, Disposition, now_us
from signalbox.outbox.run_pending import run_deliveries
from tests.json_tables import find_differences, read_types
from tests.outbox import receivers
from tests.shop import signals
from tests.shop.models import Customer, Order

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.outbox.conftest import Notes

pytestmark = [pytest.mark.every_database, pytest.mark.usefixtures("empty_tables")]

SAVED = "tests.outbox.receivers.saved"


def orders(number: int) -> list[Order]:
    with transaction.atomic():
        return [Order.objects.create(number=str(place)) for place in range(number)]


def kill(number: int = 1) -> list[int]:
    """Turn the first ``number`` due deliveries into dead letters; return their ids."""
    delivery_queue = DeliveryQueue("default")
    taken = delivery_queue.acquire(number, number)
    for one in taken:
        delivery_queue.complete(one, AttemptResult(disposition=Disposition.DEAD, error="ValueError: no"))
    return [one.id for one in taken]


def command(*arguments: str) -> str:
    output = StringIO()
    call_command("signalbox", "deliveries", *arguments, stdout=output)
    return output.getvalue()


def test_health_has_the_counts_by_state_and_the_throughput(make_durable: Callable[..., None], client: Any) -> None:
    make_durable(receivers.saved)
    [order] = orders(1)
    order.save()
    orders(2)
    kill()
    delivery_queue = DeliveryQueue("default")
    done, running = delivery_queue.acquire(2, 2)
    delivery_queue.complete(done, SUCCEEDED)
    found = health.get_health("default")
    assert (2, 1, 1, 1) == (found.pending, found.running, found.dead, found.blocked)
    assert running.id
    assert found.is_healthy
    assert round(1 / 60, 2) == found.done_per_second
    assert json.loads(command("health", "--json", "--using", "default"))["databases"][0]["dead"] == 1


@pytest.mark.django_db(databases=["default", "other"], transaction=True)
def test_the_command_shows_each_database_with_deliveries_or_the_chosen_one(
    make_durable: Callable[..., None],
) -> None:
    make_durable(receivers.saved)
    orders(1)
    both = json.loads(command("--json"))["databases"]
    assert {"default": 1, "other": 0} == {one["database"]: one["pending"] for one in both}
    [one] = json.loads(command("--json", "--using", "other"))["databases"]
    assert "other" == one["database"]
    assert ["default", "other"] == [line.split()[1] for line in command().splitlines() if "database" in line]


@pytest.mark.parametrize("words", [("deliveries", "--using", "nowhere"), ("work", "--database", "nowhere")])
def test_an_unknown_database_is_an_error_that_names_the_known_ones(words: tuple[str, ...]) -> None:
    with pytest.raises(CommandError, match=r"invalid choice: 'nowhere' \(choose from '?default'?, '?other'?\)"):
        call_command("signalbox", *words)


def test_a_worker_that_finishes_nothing_is_not_healthy(make_durable: Callable[..., None]) -> None:
    make_durable(receivers.saved)
    orders(1)
    Delivery.objects.update(next_check_at=now_us() - 61 * SECOND_US)
    assert not health.get_health("default").is_healthy
    with pytest.raises(SystemExit):
        command("health", "--using", "default")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queue, "get_delivery_databases", lambda: ["default"])
        answer = health.view(RequestFactory().get("/health/"))
    assert 503 == answer.status_code
    Delivery.objects.all().delete()
    assert health.get_health("default").is_healthy


def test_deliveries_that_wait_for_a_running_one_of_their_key_are_healthy(make_durable: Callable[..., None]) -> None:
    make_durable(receivers.saved)
    [order] = orders(1)
    order.save()
    Delivery.objects.update(next_check_at=now_us() - 61 * SECOND_US)
    assert not health.get_health("default").is_healthy
    DeliveryQueue("default").acquire(1, 1)
    assert health.get_health("default").is_healthy


def test_the_clock_of_the_database_decides_whether_a_lease_has_expired(
    make_durable: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    if connection.vendor == "sqlite":
        pytest.skip("SQLite has no clock of its own")
    make_durable(receivers.saved)
    orders(1)
    DeliveryQueue("default").acquire(1, 1)
    host_time = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: host_time() + 600 * SECOND_US * 1000)
    assert 1 == manual_changes.filter_deliveries("default", state="running").count()
    assert 0 == manual_changes.filter_deliveries("default", state="abandoned").count()
    [one] = Delivery.objects.all()
    assert ("running", 1) == (manual_changes.get_status(one), health.get_health("default").running)
    assert 0 == manual_changes.retry([one], "default") + manual_changes.discard([one], "default")


@pytest.mark.parametrize("well", [True, False])
def test_messages_that_no_worker_processes_are_not_healthy(
    make_durable: Callable[..., None], settings: Any, well: bool
) -> None:
    settings.SIGNALBOX = {"DURABLE": {"DISPATCHER": "celery"}}
    make_durable(receivers.saved)
    [order] = orders(1)
    order.save()
    long_ago = now_us() - (1 if well else 61) * SECOND_US
    Delivery.objects.update(run_at=long_ago, next_check_at=long_ago)
    DeliveryQueue("default").dispatch(10, now_us() + 60 * SECOND_US)
    delivery_queue, now = DeliveryQueue("default"), now_us()
    delivery_queue.park(delivery_queue.find_blocked(now), now)
    found = health.get_health("default")
    assert (well, 2) == (found.is_healthy, found.due)


def test_a_retried_dead_letter_runs_in_its_old_position(make_durable: Callable[..., None], notes: Notes) -> None:
    make_durable(receivers.saved)
    [order] = orders(1)
    order.save()
    [dead] = kill()
    assert DeliveryQueue("default").acquire(10, 10) == []
    assert "1 of 1 deliveries: to be run now.\n" == command("retry", str(dead))
    delivery_queue = DeliveryQueue("default")
    [first] = delivery_queue.acquire(10, 10)
    assert (dead, 1) == (first.id, first.attempts)
    delivery_queue.complete(first, SUCCEEDED)
    assert 1 == len(delivery_queue.acquire(10, 10))


def test_a_discarded_dead_letter_does_not_block_the_next_delivery(make_durable: Callable[..., None]) -> None:
    make_durable(receivers.saved)
    [order] = orders(1)
    order.save()
    [dead] = kill()
    assert DeliveryQueue("default").acquire(10, 10) == []
    assert "1 of 1 deliveries: discarded.\n" == command("discard", "--all", "--state", "dead")
    [following] = DeliveryQueue("default").acquire(10, 10)
    assert following.id > dead
    assert "discarded" == Delivery.objects.get(pk=dead).state


def test_running_deliveries_can_be_neither_retried_nor_discarded(make_durable: Callable[..., None]) -> None:
    make_durable(receivers.saved)
    orders(1)
    DeliveryQueue("default").acquire(1, 1)
    assert 0 == manual_changes.retry(Delivery.objects.all(), "default")
    assert 0 == manual_changes.discard(Delivery.objects.all(), "default")


def test_deliveries_are_selected_by_a_filter(make_durable: Callable[..., None]) -> None:
    make_durable(receivers.saved)
    orders(3)
    [dead] = kill()
    for text in ("state:dead", "-state:pending receiver:saved", "state:dead model:shop"):
        lines = command("list", "--json", "--filter", text)
        assert [dead] == [json.loads(line)["id"] for line in lines.splitlines()]
    with pytest.raises(CommandError, match="At character 1: state is 'deed'; one of") as raised:
        command("discard", "--all", "--filter", "state:deed")
    assert 2 == raised.value.returncode
    assert "1 of 1 deliveries: discarded.\n" == command("discard", "--all", "--filter", "receiver:saved")
    assert "2 of 2 deliveries: discarded.\n" == command("discard", "--all", "--filter", "state:due,waiting")


def test_deliveries_are_listed_by_state_and_receiver(make_durable: Callable[..., None]) -> None:
    make_durable(receivers.saved)
    orders(3)
    [dead] = kill()
    listed = [json.loads(line) for line in command("list", "--json", "--state", "dead").splitlines()]
    assert [(dead, "dead", "ValueError: no")] == [(one["id"], one["status"], one["error"]) for one in listed]
    assert 3 == len(command("list", "--json", "--receiver", "saved").splitlines())
    with pytest.raises(SystemExit, match="1"):
        command("list", "--receiver", "other")
    assert SAVED in command("list")
    assert '"row"' in json.dumps(json.loads(command("show", str(dead), "--json"))["payload"])


def test_the_json_is_the_documented_one(make_durable: Callable[..., None]) -> None:
    make_durable(receivers.saved)
    orders(2)
    [dead] = kill()
    Delivery.objects.filter(state="pending").update(receiver="shop.receivers.removed", deferred_since=1)
    documented = read_types("Delivery")
    context = {"payload", "traceback", "attempts_made"}
    listed = [json.loads(line) for line in command("list", "--json").splitlines()]
    assert [] == find_differences({key: kind for key, kind in documented.items() if key not in context}, listed)
    shown = json.loads(command("show", str(dead), "--json"))
    assert [] == find_differences(documented, [shown])
    assert [] == find_differences(read_types("Attempt"), shown["attempts_made"])
    output = StringIO()
    with suppress(SystemExit):  # deliveries of an unknown receiver are not healthy
        call_command("signalbox", "deliveries", "--json", "--using", "default", stdout=output)
    assert [] == find_differences(read_types("Health of deliveries"), [json.loads(output.getvalue())])


def test_the_age_of_the_oldest_delivery_is_shown_if_one_is_due(make_durable: Callable[..., None]) -> None:
    assert "oldest" not in command("--using", "default")
    make_durable(receivers.saved)
    orders(1)
    assert "s due" in command("--using", "default")


def test_past_events_are_replayed_to_a_new_receiver_in_their_order(
    make_durable: Callable[..., None], notes: Notes
) -> None:
    since = now_us()
    found = orders(2)
    with suppress(RuntimeError), transaction.atomic():
        found[0].save()
        raise RuntimeError
    found[0].save()
    found[1].delete()
    make_durable(receivers.saved)
    assert 3 == manual_changes.replay(SAVED, "default", since=since, dry_run=True)
    assert 3 == manual_changes.replay(SAVED, "default", since=since)
    assert 0 == manual_changes.replay(SAVED, "default", since=since), "what waits is not made twice"
    run_deliveries()
    assert [str(found[0].pk), str(found[0].pk)] == [line[1] for line in notes.lines()][::2]
    assert 0 == manual_changes.replay(SAVED, "default", since=since, missing=True)
    assert 3 == manual_changes.replay(SAVED, "default", since=since)


def test_a_replayed_event_leaves_out_what_was_not_recorded(make_durable: Callable[..., None]) -> None:
    since = now_us()
    Customer.objects.create(name="x" * 99, api_token="t0ken")
    make_durable(receivers.saved, sender=Customer)
    manual_changes.replay(SAVED, "default", since=since)
    assert {"id", "name", "email"} == Delivery.objects.get().payload["row"].keys()


def test_replay_to_an_unknown_receiver_is_an_error_that_names_the_known_ones(make_durable: Callable[..., None]) -> None:
    make_durable(receivers.saved)
    with pytest.raises(CommandError, match=rf"'shop.gone' is not a durable receiver\. Use one of: {SAVED}"):
        command("replay", "--receiver", "shop.gone", "--since", "1h")


def test_a_custom_signal_is_replayed_with_its_objects(make_durable: Callable[..., None], notes: Notes) -> None:
    since = now_us()
    order = Order.objects.create(number="1")
    signals.order_paid.send(sender=Order, order=order)
    make_durable(takes_order, signals.order_paid, None)
    assert 1 == manual_changes.replay(f"{__name__}.takes_order", "default", since=since)
    run_deliveries()
    assert [["order", "1"]] == notes.lines()


def takes_order(sender: Any, order: Order, **kwargs: Any) -> None:
    receivers.write_line("order", order.number)


def takes_value(sender: Any, value: Any, **kwargs: Any) -> None:
    VALUES.append(value)


VALUES: list[Any] = []
REPLAYED = f"{__name__}.takes_value"


def replayed(durable: Callable[..., None], value: Any, *, kept: bool, **options: Any) -> list[Any]:
    """Return the arguments of a replayed send, with and without a stored delivery."""
    durable(takes_value, signals.order_paid, None, **options)
    since = now_us()
    signals.order_paid.send(sender=Order, value=value)
    run_deliveries()
    if not kept:
        Delivery.objects.all().delete()
    VALUES.clear()
    manual_changes.replay(REPLAYED, "default", since=since)
    run_deliveries()
    return VALUES


@pytest.mark.parametrize("value", [Decimal("1.50"), (1, 2), frozenset({1}), list(range(300)), "x" * 5000, Order])
def test_a_replay_uses_the_arguments_of_a_stored_delivery(make_durable: Callable[..., None], value: Any) -> None:
    [found] = replayed(make_durable, value, kept=True)
    assert (type(value), value) == (type(found), found)


@pytest.mark.parametrize(
    "value",
    [
        list(range(300)),
        "x" * 5000,
        {str(number): number for number in range(60)},
        [[[[[[["deep"]]]]]]],
        b"x" * 5000,
        bytes(range(200, 250)),
        {"bytes": 9, "text": "a dict that looks as bytes that were cut"},
    ],
)
def test_incompletely_recorded_events_are_counted_and_not_replayed(
    make_durable: Callable[..., None], caplog: pytest.LogCaptureFixture, value: Any
) -> None:
    assert [] == replayed(make_durable, value, kept=False)
    assert f"1 events can't be replayed to {REPLAYED}" in caplog.text


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, {"$": 2}]},
        "Wait… (or not)",
        b"text",
        2**60,
        None,
        {"model": "shop.Nothing", "pk": 1},
        {"model": "shop.Order", "pk": "no number"},
    ],
)
def test_objects_and_bytes_are_recognized_by_their_recorded_form(make_durable: Callable[..., None], value: Any) -> None:
    [found] = replayed(make_durable, value, kept=False)
    assert (type(value), value) == (type(found), found)


def test_objects_within_containers_are_replayed_as_objects(make_durable: Callable[..., None]) -> None:
    order = Order.objects.create(number="1")
    assert [{"orders": [order]}] == replayed(make_durable, {"orders": [order]}, kept=False)


def test_a_truncated_argument_is_left_out_if_the_receiver_does_not_take_it(
    make_durable: Callable[..., None],
) -> None:
    make_durable(takes_order, signals.order_paid, None)
    since = now_us()
    signals.order_paid.send(sender=Order, order=Order.objects.create(number="1"), value=list(range(300)), other=1)
    Delivery.objects.all().delete()
    manual_changes.replay(f"{__name__}.takes_order", "default", since=since)
    assert {"order", "other"} == Delivery.objects.get().payload["serialized"].keys()


def by_pk(values: Any) -> Any:
    return values["value"].pk


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("key", ["value", by_pk, "pk"])
def test_a_replayed_signal_has_the_partition_of_the_sent_one(
    make_durable: Callable[..., None], key: Any, kept: bool
) -> None:
    make_durable(takes_value, signals.order_paid, None, key=key)
    order = Order.objects.create(number="1")
    since = now_us()
    signals.order_paid.send(sender=Order, value=order, instance=order)
    assert_same_partitions_replayed(REPLAYED, since, kept)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("key", ["customer", "total", "placed", "pk", lambda values: values["customer"]])
def test_a_replayed_save_has_the_partition_of_the_live_one(
    make_durable: Callable[..., None], key: Any, kept: bool
) -> None:
    make_durable(receivers.saved, key=key)
    customer = Customer.objects.create(name="Ann")
    since = now_us()
    order = Order.objects.create(number="1", customer=customer)
    order.number = "2"
    order.save()
    order.save(update_fields=["number"])
    assert 1 == Delivery.objects.values("partition_id").distinct().count()
    assert_same_partitions_replayed(SAVED, since, kept)


def assert_same_partitions_replayed(receiver: str, since: int, kept: bool) -> None:
    partitions = list(Delivery.objects.order_by("id").values_list("ordering_key", "partition_id"))
    if kept:
        Delivery.objects.update(state="done", partition_id=None, next_check_at=None)
        last = Delivery.objects.latest("id").id
    else:
        Delivery.objects.all().delete()
        last = 0
    assert len(partitions) == manual_changes.replay(receiver, "default", since=since)
    assert partitions == list(
        Delivery.objects.filter(id__gt=last).order_by("id").values_list("ordering_key", "partition_id")
    )
