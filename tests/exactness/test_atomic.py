"""Transactions as Django's `atomic` makes them."""

from __future__ import annotations

import pytest
from django.db import IntegrityError, connection, connections, transaction
from django.test import Client, override_settings

from signalbox.models import Event
from signalbox.pipeline import unit_of_work
from tests.exactness import register
from tests.exactness.blocks import savepoint, tag, undone
from tests.shop.models import ExpressOrder, Order, Ref, Restaurant, Uniq

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "other"]),
    pytest.mark.usefixtures("spill"),
]


def test_an_atomic_block_commits_its_rows_with_their_events() -> None:
    with transaction.atomic():
        tag("a")
        tag("b")
        assert [] == register.exact()
    assert ["a", "b"] == register.exact()


def test_an_atomic_block_that_raises_leaves_neither() -> None:
    with undone():
        tag("a")
    assert [] == register.exact()


def test_an_inner_block_that_raises_takes_its_own_events_with_it() -> None:
    with transaction.atomic():
        tag("a")
        with undone():
            tag("b")
        tag("c")
        with transaction.atomic():
            tag("d")
    assert ["a", "c", "d"] == register.exact()


def test_a_released_block_goes_with_the_block_around_it() -> None:
    with transaction.atomic():
        tag("a")
        with undone():
            tag("b")
            with transaction.atomic():
                tag("c")
    assert ["a"] == register.exact()


def test_a_block_without_savepoint_that_raises_takes_the_transaction_with_it() -> None:
    with transaction.atomic():
        tag("a")
        with undone(savepoint=False):
            tag("b")
    assert [] == register.exact()


def test_a_durable_block_commits_its_events() -> None:
    with transaction.atomic(durable=True):
        tag("a")
    assert ["a"] == register.exact()


def test_set_rollback_takes_the_events_with_it() -> None:
    with transaction.atomic():
        tag("a")
        transaction.set_rollback(True)
    assert [] == register.exact()


def test_set_rollback_of_an_inner_block_is_the_inner_blocks_alone() -> None:
    with transaction.atomic():
        tag("a")
        with transaction.atomic():
            tag("b")
            transaction.set_rollback(True)
    assert ["a"] == register.exact()


def test_savepoints_of_ones_own() -> None:
    with transaction.atomic():
        tag("a")
        first = savepoint()
        tag("b")
        transaction.savepoint_rollback(first)
        tag("c")
        second = savepoint()
        tag("d")
        transaction.savepoint_commit(second)
    assert ["a", "c", "d"] == register.exact()


def test_a_savepoint_can_be_rolled_back_twice() -> None:
    with transaction.atomic():
        tag("a")
        outer = savepoint()
        tag("b")
        savepoint()
        tag("c")
        transaction.savepoint_rollback(outer)
        tag("d")
        transaction.savepoint_rollback(outer)
        tag("e")
    assert ["a", "e"] == register.exact()


def test_releasing_a_savepoint_releases_those_within() -> None:
    with transaction.atomic():
        outer = savepoint()
        tag("a")
        savepoint()
        tag("b")
        transaction.savepoint_commit(outer)
        tag("c")
    assert ["a", "b", "c"] == register.exact()


def test_savepoints_whose_names_are_given_again() -> None:
    with transaction.atomic():
        savepoint()
        tag("a")
        transaction.clean_savepoints()
        same = savepoint()
        tag("b")
        transaction.savepoint_rollback(same)
        tag("c")
    assert ["a", "c"] == register.exact()


def test_what_was_written_early_is_written_again_after_its_savepoint_was_rolled_back() -> None:
    with transaction.atomic():
        tag("a")
        before = savepoint()
        tag("b")
        unit_of_work.flush_all()
        transaction.savepoint_rollback(before)
        tag("c")
        unit_of_work.flush_all()
    assert ["a", "c"] == register.exact()


def test_updates_and_deletes() -> None:
    kept, lost = tag("kept"), tag("lost")
    with transaction.atomic():
        kept.name = "kept on"
        kept.save()
        with undone():
            kept.delete()
        lost.delete()
    assert ["kept on"] == register.exact()


def test_a_rolled_back_update_is_told_again_by_the_next() -> None:
    one = tag("a")
    with undone():
        one.name = "b"
        one.save()
    one.save()
    assert ["b"] == register.exact()


def test_both_databases() -> None:
    with transaction.atomic(), transaction.atomic(using="other"):
        tag("a")
        tag("b", "other")
    with undone(using="other"):
        with transaction.atomic():
            tag("c")
        tag("d", "other")
    assert ["a", "c"] == register.exact()
    assert ["b"] == register.exact(alias="other")


def test_an_integrity_error_within_a_savepoint() -> None:
    with transaction.atomic():
        Uniq.objects.create(k="a")
        with pytest.raises(IntegrityError), transaction.atomic():
            Uniq.objects.create(k="a")
        Uniq.objects.create(k="b")
    assert ["a", "b"] == register.exact("shop.Uniq")


def test_a_child_and_its_parent_make_one_event() -> None:
    Restaurant.objects.create(name="Lion", stars=2)
    with transaction.atomic():
        Restaurant.objects.create(name="Swan", stars=3)
    with undone():
        Restaurant.objects.create(name="Bear", stars=4)
    assert ["2", "3"] == register.exact("shop.Restaurant")
    assert ["Lion", "Swan"] == sorted(register.rows("shop.Place").values())
    assert 2 == register.signals()["post_save", "committed"]


def test_a_proxys_rows() -> None:
    ExpressOrder.objects.create(number="a")
    with undone():
        ExpressOrder.objects.create(number="b")
    assert ["a"] == register.exact("shop.ExpressOrder")


def test_long_transactions_are_written_early_and_stay_small(spill: int) -> None:
    connection.ensure_connection()
    own = unit_of_work.get_unit_of_work(connections["default"])
    assert own is not None
    with transaction.atomic():
        for number in range(2500):
            tag(str(number))
            assert len(own.events) <= 2 * spill  # pre_save and post_save
    assert 2500 == len(register.exact())


def test_a_long_transaction_that_is_rolled_back_leaves_nothing() -> None:
    with undone():
        tag("a")
        with transaction.atomic():
            for number in range(1200):
                tag(str(number))
    assert [] == register.exact()


def test_on_commit_hooks_find_the_events_committed() -> None:
    seen: list[object] = []
    with transaction.atomic():
        tag("a")
        transaction.on_commit(lambda: seen.append(register.exact()))
        transaction.on_commit(lambda: seen.append(tag("from the hook").name))
    assert [["a"], "from the hook"] == seen
    assert ["a", "from the hook"] == register.exact()


def test_on_commit_hooks_of_a_rolled_back_savepoint_do_not_run() -> None:
    with transaction.atomic():
        with undone():
            transaction.on_commit(lambda: pytest.fail("the hook ran"))
        tag("a")
    assert ["a"] == register.exact()


@pytest.mark.skipif(not connection.features.can_defer_constraint_checks, reason="constraints are checked at once")
def test_a_deferred_constraint_that_fails_at_commit() -> None:
    def commit() -> None:
        with transaction.atomic():
            Order.objects.create(number="a")
            Ref.objects.create(order_id=999_999)

    with pytest.raises(IntegrityError):
        commit()
    assert [] == register.exact("shop.Order")
    assert [] == register.exact("shop.Ref")
    tag("after")
    assert ["after"] == register.exact()


@override_settings(ROOT_URLCONF="tests.exactness.urls")
def test_atomic_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)
    client = Client(raise_request_exception=False)
    assert [200, 500] == [client.get("/well/").status_code, client.get("/badly/").status_code]
    assert ["well"] == register.exact()
    rolled_back = [] if unit_of_work.FLUSH_THRESHOLD == 1 else ["badly"]
    assert rolled_back == register.told("rolled_back", "post_save")


def test_readers_see_what_their_own_transaction_recorded() -> None:
    with transaction.atomic():
        tag("a")
        assert ["committed"] == [event.outcome for event in Event.objects.filter(signal="post_save")]
        assert [] == register.told("committed", "post_save")
    assert ["a"] == register.exact()
