from __future__ import annotations

import json
from contextlib import suppress
from decimal import Decimal
from io import StringIO
from typing import TYPE_CHECKING, Any

import pytest
from django.core.management import CommandError, call_command
from django.db import transaction
from django.test import RequestFactory

from signalbox.models import Delivery
from signalbox.outbox import health, operations, queue
from signalbox.outbox.queue import SECOND_US, SUCCEEDED, AttemptResult, DeliveryQueue, Disposition, now_us
from signalbox.outbox.run_pending import run_deliveries
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
    """Make dead letters of the first deliveries."""
    delivery_queue = DeliveryQueue("default")
    taken = delivery_queue.acquire(number, number)
    for one in taken:
        delivery_queue.complete(one, AttemptResult(disposition=Disposition.DEAD, error="ValueError: no"))
    return [one.id for one in taken]


def command(*arguments: str) -> str:
    output = StringIO()
    call_command("signalbox", "deliveries", *arguments, stdout=output)
    return output.getvalue()


def test_health_tells_what_waits_what_is_dead_and_how_fast_it_goes(
    make_durable: Callable[..., None], client: Any
) -> None:
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
def test_the_command_tells_of_each_database_that_holds_deliveries_or_of_the_chosen_one(
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
def test_a_database_that_is_not_there_is_refused_with_the_names_of_those_that_are(words: tuple[str, ...]) -> None:
    with pytest.raises(CommandError, match=r"invalid choice: 'nowhere' \(choose from '?default'?, '?other'?\)"):
        call_command("signalbox", *words)


def test_a_worker_that_lives_and_gets_nothing_done_is_not_well(make_durable: Callable[..., None]) -> None:
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


def test_what_waits_for_a_long_run_of_its_key_is_no_sign_of_illness(make_durable: Callable[..., None]) -> None:
    make_durable(receivers.saved)
    [order] = orders(1)
    order.save()
    Delivery.objects.update(next_check_at=now_us() - 61 * SECOND_US)
    assert not health.get_health("default").is_healthy
    DeliveryQueue("default").acquire(1, 1)
    assert health.get_health("default").is_healthy


@pytest.mark.parametrize("well", [True, False])
def test_messages_that_nobody_takes_are_not_well(make_durable: Callable[..., None], settings: Any, well: bool) -> None:
    settings.SIGNALBOX = {"DURABLE": {"DISPATCHER": "celery"}}
    make_durable(receivers.saved)
    [order] = orders(1)
    order.save()
    long_ago = now_us() - (1 if well else 61) * SECOND_US
    Delivery.objects.update(run_at=long_ago, next_check_at=long_ago)
    DeliveryQueue("default").dispatch(10, now_us() + 60 * SECOND_US)
    DeliveryQueue("default")._park_blocked(now_us())
    found = health.get_health("default")
    assert (well, 2) == (found.is_healthy, found.due)


def test_a_dead_letter_is_run_again_in_its_old_place(make_durable: Callable[..., None], notes: Notes) -> None:
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


def test_a_discarded_dead_letter_lets_the_next_one_pass(make_durable: Callable[..., None]) -> None:
    make_durable(receivers.saved)
    [order] = orders(1)
    order.save()
    [dead] = kill()
    assert DeliveryQueue("default").acquire(10, 10) == []
    assert "1 of 1 deliveries: discarded.\n" == command("discard", "--all", "--state", "dead")
    [following] = DeliveryQueue("default").acquire(10, 10)
    assert following.id > dead
    assert "discarded" == Delivery.objects.get(pk=dead).state


def test_what_runs_can_be_neither_retried_nor_discarded(make_durable: Callable[..., None]) -> None:
    make_durable(receivers.saved)
    orders(1)
    DeliveryQueue("default").acquire(1, 1)
    assert 0 == operations.retry(Delivery.objects.all(), "default")
    assert 0 == operations.discard(Delivery.objects.all(), "default")


def test_deliveries_are_listed_by_state_and_receiver(make_durable: Callable[..., None]) -> None:
    make_durable(receivers.saved)
    orders(3)
    [dead] = kill()
    listed = [json.loads(line) for line in command("list", "--json", "--state", "dead").splitlines()]
    assert [(dead, "dead", "ValueError: no")] == [(one["id"], one["status"], one["error"]) for one in listed]
    assert 3 == len(command("list", "--json", "--receiver", "saved").splitlines())
    assert "There are no such deliveries.\n" == command("list", "--receiver", "other")
    assert SAVED in command("list")
    assert '"row"' in json.dumps(json.loads(command("show", str(dead), "--json"))["payload"])


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
    assert 3 == operations.replay(SAVED, "default", since=since, dry_run=True)
    assert 3 == operations.replay(SAVED, "default", since=since)
    assert 0 == operations.replay(SAVED, "default", since=since), "what waits is not made twice"
    run_deliveries()
    assert [str(found[0].pk), str(found[0].pk)] == [line[1] for line in notes.lines()][::2]
    assert 0 == operations.replay(SAVED, "default", since=since, missing=True)
    assert 3 == operations.replay(SAVED, "default", since=since)


def test_a_replayed_event_leaves_out_what_was_not_recorded(make_durable: Callable[..., None]) -> None:
    since = now_us()
    Customer.objects.create(name="x" * 99, api_token="t0ken")
    make_durable(receivers.saved, sender=Customer)
    operations.replay(SAVED, "default", since=since)
    assert {"id", "name", "email"} == Delivery.objects.get().payload["row"].keys()


def test_replay_of_an_unknown_receiver_names_the_known_ones(make_durable: Callable[..., None]) -> None:
    make_durable(receivers.saved)
    with pytest.raises(CommandError, match=f"no durable receiver 'shop.gone'; known: {SAVED}"):
        command("replay", "--receiver", "shop.gone", "--since", "1h")


def test_a_custom_signal_is_replayed_with_its_objects(make_durable: Callable[..., None], notes: Notes) -> None:
    since = now_us()
    order = Order.objects.create(number="1")
    signals.order_paid.send(sender=Order, order=order)
    make_durable(takes_order, signals.order_paid, None)
    assert 1 == operations.replay(f"{__name__}.takes_order", "default", since=since)
    run_deliveries()
    assert [["order", "1"]] == notes.lines()


def takes_order(sender: Any, order: Order, **kwargs: Any) -> None:
    receivers.write_line("order", order.number)


def takes_value(sender: Any, value: Any, **kwargs: Any) -> None:
    VALUES.append(value)


VALUES: list[Any] = []
REPLAYED = f"{__name__}.takes_value"


def replayed(durable: Callable[..., None], value: Any, *, kept: bool, **options: Any) -> list[Any]:
    """Return what a receiver is given of a send that is replayed to it, with and without a delivery that is kept."""
    durable(takes_value, signals.order_paid, None, **options)
    since = now_us()
    signals.order_paid.send(sender=Order, value=value)
    run_deliveries()
    if not kept:
        Delivery.objects.all().delete()
    VALUES.clear()
    operations.replay(REPLAYED, "default", since=since)
    run_deliveries()
    return VALUES


@pytest.mark.parametrize("value", [Decimal("1.50"), (1, 2), frozenset({1}), list(range(300)), "x" * 5000, Order])
def test_a_kept_delivery_tells_a_replay_what_was_sent(make_durable: Callable[..., None], value: Any) -> None:
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
def test_what_the_register_kept_in_part_is_not_replayed_and_counted(
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
def test_what_the_register_tells_by_its_form_is_replayed_as_it_was(
    make_durable: Callable[..., None], value: Any
) -> None:
    [found] = replayed(make_durable, value, kept=False)
    assert (type(value), value) == (type(found), found)


def test_objects_within_containers_are_replayed_as_objects(make_durable: Callable[..., None]) -> None:
    order = Order.objects.create(number="1")
    assert [{"orders": [order]}] == replayed(make_durable, {"orders": [order]}, kept=False)


def test_an_argument_that_the_receiver_does_not_take_is_left_out_where_it_was_cut(
    make_durable: Callable[..., None],
) -> None:
    make_durable(takes_order, signals.order_paid, None)
    since = now_us()
    signals.order_paid.send(sender=Order, order=Order.objects.create(number="1"), value=list(range(300)), other=1)
    Delivery.objects.all().delete()
    operations.replay(f"{__name__}.takes_order", "default", since=since)
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
    assert len(partitions) == operations.replay(receiver, "default", since=since)
    assert partitions == list(
        Delivery.objects.filter(id__gt=last).order_by("id").values_list("ordering_key", "partition_id")
    )
