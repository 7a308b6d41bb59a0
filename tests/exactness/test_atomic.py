"""Events follow the transactions of `atomic()`."""

from __future__ import annotations

import pytest
from django.db import IntegrityError, connection, connections, transaction
from django.test import Client, override_settings

from signalbox.models import Event
from signalbox.pipeline import unit_of_work
from tests.exactness import register
from tests.exactness.blocks import create_tag, rolled_back_atomic, savepoint
from tests.shop.models import ExpressOrder, Order, Ref, Restaurant, Uniq

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "other"]),
    pytest.mark.usefixtures("flush_threshold"),
]


def test_an_atomic_block_commits_its_rows_with_their_events() -> None:
    with transaction.atomic():
        create_tag("a")
        create_tag("b")
        assert [] == register.assert_rows_match()
    assert ["a", "b"] == register.assert_rows_match()


def test_an_atomic_block_that_raises_leaves_neither() -> None:
    with rolled_back_atomic():
        create_tag("a")
    assert [] == register.assert_rows_match()


def test_an_inner_block_that_raises_rolls_back_its_own_events() -> None:
    with transaction.atomic():
        create_tag("a")
        with rolled_back_atomic():
            create_tag("b")
        create_tag("c")
        with transaction.atomic():
            create_tag("d")
    assert ["a", "c", "d"] == register.assert_rows_match()


def test_a_released_block_is_rolled_back_with_the_block_around_it() -> None:
    with transaction.atomic():
        create_tag("a")
        with rolled_back_atomic():
            create_tag("b")
            with transaction.atomic():
                create_tag("c")
    assert ["a"] == register.assert_rows_match()


def test_a_block_without_savepoint_that_raises_rolls_back_the_transaction() -> None:
    with transaction.atomic():
        create_tag("a")
        with rolled_back_atomic(savepoint=False):
            create_tag("b")
    assert [] == register.assert_rows_match()


def test_a_durable_block_commits_its_events() -> None:
    with transaction.atomic(durable=True):
        create_tag("a")
    assert ["a"] == register.assert_rows_match()


def test_set_rollback_rolls_back_the_events() -> None:
    with transaction.atomic():
        create_tag("a")
        transaction.set_rollback(True)
    assert [] == register.assert_rows_match()


def test_set_rollback_of_an_inner_block_rolls_back_only_its_events() -> None:
    with transaction.atomic():
        create_tag("a")
        with transaction.atomic():
            create_tag("b")
            transaction.set_rollback(True)
    assert ["a"] == register.assert_rows_match()


def test_savepoints_of_the_application() -> None:
    with transaction.atomic():
        create_tag("a")
        first = savepoint()
        create_tag("b")
        transaction.savepoint_rollback(first)
        create_tag("c")
        second = savepoint()
        create_tag("d")
        transaction.savepoint_commit(second)
    assert ["a", "c", "d"] == register.assert_rows_match()


def test_a_savepoint_can_be_rolled_back_twice() -> None:
    with transaction.atomic():
        create_tag("a")
        outer = savepoint()
        create_tag("b")
        savepoint()
        create_tag("c")
        transaction.savepoint_rollback(outer)
        create_tag("d")
        transaction.savepoint_rollback(outer)
        create_tag("e")
    assert ["a", "e"] == register.assert_rows_match()


def test_releasing_a_savepoint_releases_those_within() -> None:
    with transaction.atomic():
        outer = savepoint()
        create_tag("a")
        savepoint()
        create_tag("b")
        transaction.savepoint_commit(outer)
        create_tag("c")
    assert ["a", "b", "c"] == register.assert_rows_match()


def test_savepoints_with_a_name_that_was_used_before() -> None:
    with transaction.atomic():
        savepoint()
        create_tag("a")
        transaction.clean_savepoints()
        same = savepoint()
        create_tag("b")
        transaction.savepoint_rollback(same)
        create_tag("c")
    assert ["a", "c"] == register.assert_rows_match()


def test_events_written_early_are_written_again_after_a_rollback_to_a_savepoint() -> None:
    with transaction.atomic():
        create_tag("a")
        before = savepoint()
        create_tag("b")
        unit_of_work.flush_all()
        transaction.savepoint_rollback(before)
        create_tag("c")
        unit_of_work.flush_all()
    assert ["a", "c"] == register.assert_rows_match()


def test_updates_and_deletes() -> None:
    kept, lost = create_tag("kept"), create_tag("lost")
    with transaction.atomic():
        kept.name = "kept on"
        kept.save()
        with rolled_back_atomic():
            kept.delete()
        lost.delete()
    assert ["kept on"] == register.assert_rows_match()


def test_the_save_after_a_rolled_back_update_records_its_change_again() -> None:
    one = create_tag("a")
    with rolled_back_atomic():
        one.name = "b"
        one.save()
    one.save()
    assert ["b"] == register.assert_rows_match()


def test_both_databases() -> None:
    with transaction.atomic(), transaction.atomic(using="other"):
        create_tag("a")
        create_tag("b", "other")
    with rolled_back_atomic(using="other"):
        with transaction.atomic():
            create_tag("c")
        create_tag("d", "other")
    assert ["a", "c"] == register.assert_rows_match()
    assert ["b"] == register.assert_rows_match(alias="other")


def test_an_integrity_error_within_a_savepoint() -> None:
    with transaction.atomic():
        Uniq.objects.create(k="a")
        with pytest.raises(IntegrityError), transaction.atomic():
            Uniq.objects.create(k="a")
        Uniq.objects.create(k="b")
    assert ["a", "b"] == register.assert_rows_match("shop.Uniq")


def test_a_child_and_its_parent_are_one_event() -> None:
    Restaurant.objects.create(name="Lion", stars=2)
    with transaction.atomic():
        Restaurant.objects.create(name="Swan", stars=3)
    with rolled_back_atomic():
        Restaurant.objects.create(name="Bear", stars=4)
    assert ["2", "3"] == register.assert_rows_match("shop.Restaurant")
    assert ["Lion", "Swan"] == sorted(register.read_rows("shop.Place").values())
    assert 2 == register.count_signals()["post_save", "committed"]


def test_a_proxys_rows() -> None:
    ExpressOrder.objects.create(number="a")
    with rolled_back_atomic():
        ExpressOrder.objects.create(number="b")
    assert ["a"] == register.assert_rows_match("shop.ExpressOrder")


def test_long_transactions_are_written_early_and_stay_small(flush_threshold: int) -> None:
    connection.ensure_connection()
    own = unit_of_work.get_unit_of_work(connections["default"])
    assert own is not None
    with transaction.atomic():
        for number in range(2500):
            create_tag(str(number))
            assert len(own.events) <= 2 * flush_threshold  # pre_save and post_save
    assert 2500 == len(register.assert_rows_match())


def test_a_long_transaction_that_is_rolled_back_leaves_nothing() -> None:
    with rolled_back_atomic():
        create_tag("a")
        with transaction.atomic():
            for number in range(1200):
                create_tag(str(number))
    assert [] == register.assert_rows_match()


def test_on_commit_hooks_find_the_events_committed() -> None:
    seen: list[object] = []
    with transaction.atomic():
        create_tag("a")
        transaction.on_commit(lambda: seen.append(register.assert_rows_match()))
        transaction.on_commit(lambda: seen.append(create_tag("from the hook").name))
    assert [["a"], "from the hook"] == seen
    assert ["a", "from the hook"] == register.assert_rows_match()


def test_on_commit_hooks_of_a_rolled_back_savepoint_do_not_run() -> None:
    with transaction.atomic():
        with rolled_back_atomic():
            transaction.on_commit(lambda: pytest.fail("the hook ran"))
        create_tag("a")
    assert ["a"] == register.assert_rows_match()


@pytest.mark.skipif(not connection.features.can_defer_constraint_checks, reason="constraints are checked at once")
def test_a_deferred_constraint_that_fails_at_commit() -> None:
    def commit() -> None:
        with transaction.atomic():
            Order.objects.create(number="a")
            Ref.objects.create(order_id=999_999)

    with pytest.raises(IntegrityError):
        commit()
    assert [] == register.assert_rows_match("shop.Order")
    assert [] == register.assert_rows_match("shop.Ref")
    create_tag("after")
    assert ["after"] == register.assert_rows_match()


@override_settings(ROOT_URLCONF="tests.exactness.urls")
def test_atomic_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)
    client = Client(raise_request_exception=False)
    assert [200, 500] == [client.get("/well/").status_code, client.get("/badly/").status_code]
    assert ["well"] == register.assert_rows_match()
    rolled_back = [] if unit_of_work.FLUSH_THRESHOLD == 1 else ["badly"]
    assert rolled_back == register.read_recorded_values("rolled_back", "post_save")


def test_a_read_finds_the_events_of_its_own_transaction() -> None:
    with transaction.atomic():
        create_tag("a")
        assert ["committed"] == [event.outcome for event in Event.objects.filter(signal="post_save")]
        assert [] == register.read_recorded_values("committed", "post_save")
    assert ["a"] == register.assert_rows_match()
