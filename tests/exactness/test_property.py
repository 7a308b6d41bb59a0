"""Random programs of transactions: replaying the events results in exactly the stored rows."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from typing import Any

import pytest
from django.db import DatabaseError, IntegrityError, connection, transaction
from django.test import override_settings
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from signalbox.pipeline import backends, unit_of_work
from tests.exactness import register
from tests.exactness.blocks import Rollback, savepoint
from tests.shop.models import Friend, Order, Tag, Uniq

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])

Step = tuple[Any, ...]

WHICH = st.integers(0, 3)
WRITES = st.one_of(
    st.tuples(st.just("create")),
    st.tuples(st.just("update"), WHICH),
    st.tuples(st.just("delete"), WHICH),
    st.tuples(st.just("add"), WHICH, WHICH),
    st.tuples(st.just("remove"), WHICH, WHICH),
    st.tuples(st.just("clear"), WHICH),
    st.tuples(st.just("flush")),
    st.tuples(st.just("clash"), st.booleans(), st.booleans()),
    st.tuples(st.just("bulk_create"), st.integers(1, 3)),
    st.tuples(st.just("bulk_update")),
    st.tuples(st.just("bulk_change"), WHICH),
    st.tuples(st.just("bulk_delete"), WHICH),
    st.tuples(st.just("elsewhere"), st.booleans(), st.booleans()),
)


def _deeper(steps: st.SearchStrategy[Step]) -> st.SearchStrategy[Step]:
    several = st.lists(steps, max_size=5)
    return st.one_of(
        st.tuples(st.just("block"), st.booleans(), st.booleans(), several),
        st.tuples(st.just("savepoint"), st.booleans(), several),
    )


STEPS = st.recursive(WRITES, _deeper, max_leaves=12)
PROGRAMS = st.lists(
    st.one_of(STEPS, st.tuples(st.just("manual"), st.booleans(), st.lists(STEPS, max_size=6))), max_size=6
)


def atomic(own_savepoint: bool = True) -> Any:
    """An atomic block. Django does not recover from one in a manual transaction that PostgreSQL has aborted."""
    if not connection.in_atomic_block and not connection.autocommit and backends.is_transaction_aborted(connection):
        raise DatabaseError("The transaction is aborted.")
    return transaction.atomic(savepoint=own_savepoint)


class Program:
    """Runs a program. Its instances remain when their rows are rolled back, as in an application."""

    def __init__(self) -> None:
        self.orders: list[Order] = []
        self.tags = [Tag.objects.create(name=str(number)) for number in range(4)]
        self.friends: list[Friend] = []
        self.number = 0
        Uniq.objects.create(k="taken")

    def run(self, steps: list[Step]) -> None:
        for name, *arguments in steps:
            getattr(self, name)(*arguments)

    def _number(self) -> str:
        self.number += 1
        return str(self.number)

    def _stored(self, which: int) -> Order | None:
        return Order.objects.order_by("pk")[which : which + 1].first()

    def create(self) -> None:
        self.orders.append(Order.objects.create(number=self._number()))

    def update(self, which: int) -> None:
        if self.orders:
            order = self.orders[which % len(self.orders)]
            order.number = self._number()
            order.save()

    def delete(self, which: int) -> None:
        if order := self._stored(which):
            order.delete()

    def add(self, which: int, tag: int) -> None:
        if order := self._stored(which):
            order.tags.add(self.tags[tag])

    def remove(self, which: int, tag: int) -> None:
        if order := self._stored(which):
            order.tags.remove(self.tags[tag])

    def clear(self, which: int) -> None:
        if order := self._stored(which):
            order.tags.clear()

    def flush(self) -> None:
        unit_of_work.flush_all()

    def clash(self, inner: bool, bulk: bool) -> None:
        """Write a row that the database rejects.

        PostgreSQL then rejects all statements until the transaction or a savepoint is rolled back.
        """
        with suppress(IntegrityError), atomic() if inner else nullcontext():
            Uniq.objects.create(k=f"free {self._number()}")
            if bulk:
                Uniq.objects.bulk_create([Uniq(k=self._number()), Uniq(k="taken")])
            else:
                Uniq.objects.create(k="taken")

    def bulk_create(self, number: int) -> None:
        self.friends += Friend.objects.bulk_create([Friend(name=self._number()) for _ in range(number)])

    def bulk_update(self) -> None:
        for friend in self.friends:
            friend.name = self._number()
        Friend.objects.bulk_update(self.friends, ["name"])

    def bulk_change(self, which: int) -> None:
        Friend.objects.filter(pk__in=self._keys(which)).update(name=self._number())

    def bulk_delete(self, which: int) -> None:
        Friend.objects.filter(pk__in=self._keys(which))._raw_delete("default")

    def _keys(self, which: int) -> list[int]:
        return list(Friend.objects.order_by("pk").values_list("pk", flat=True)[: which + 1])

    def elsewhere(self, block: bool, fails: bool) -> None:
        """Write to another database, which has its own transactions."""
        with suppress(Rollback), transaction.atomic(using="other") if block else nullcontext():
            Tag.objects.using("other").create(name=self._number())
            if fails and block:
                raise Rollback

    def block(self, own_savepoint: bool, fails: bool, steps: list[Step]) -> None:
        with suppress(Rollback, DatabaseError), atomic(own_savepoint):
            self.run(steps)
            if fails:
                raise Rollback

    def savepoint(self, undone: bool, steps: list[Step]) -> None:
        if not connection.in_atomic_block or connection.needs_rollback:
            self.run(steps)
            return
        before = savepoint()
        self.run(steps)
        if undone:
            transaction.savepoint_rollback(before)
        else:
            transaction.savepoint_commit(before)

    def manual(self, commits: bool, steps: list[Step]) -> None:
        transaction.set_autocommit(False)
        with suppress(DatabaseError):
            self.run(steps)
        if commits and not connection.needs_rollback:
            transaction.commit()
        else:
            transaction.rollback()
        transaction.set_autocommit(True)


@settings(max_examples=30, suppress_health_check=list(HealthCheck))
@given(flush_threshold=st.sampled_from([1, 2, 5, 1000]), program=PROGRAMS, bulk=st.sampled_from(["keys", "rows"]))
@example(
    flush_threshold=2,
    bulk="keys",
    program=[("block", True, False, [("create",), ("savepoint", True, [("update", 0)]), ("update", 0)])],
)
@example(
    flush_threshold=1000, bulk="keys", program=[("manual", True, [("block", True, False, [("create",)]), ("flush",)])]
)
@example(flush_threshold=1, bulk="keys", program=[("create",), ("block", True, True, [("update", 0)]), ("update", 0)])
@example(
    flush_threshold=1, bulk="keys", program=[("manual", True, [("create",), ("clash", False, False), ("create",)])]
)
@example(
    flush_threshold=1000,
    bulk="rows",
    program=[("manual", True, [("savepoint", True, [("clash", False, True)]), ("create",)])],
)
@example(
    flush_threshold=1,
    bulk="rows",
    program=[
        ("manual", True, [("block", True, True, [("bulk_create", 1)]), ("bulk_create", 1), ("bulk_update",)])  # one key
    ],
)
def test_replayed_events_result_in_exactly_the_stored_rows(
    flush_threshold: int, bulk: str, program: list[Step]
) -> None:
    for alias in ("default", "other"):
        register.empty_tables(alias)
    with pytest.MonkeyPatch.context() as patch, override_settings(SIGNALBOX={"BULK": bulk}):
        patch.setattr(unit_of_work, "FLUSH_THRESHOLD", flush_threshold)
        Program().run(program)
    for sender in ("shop.Order", "shop.Friend", "shop.Uniq"):
        register.assert_rows_match(sender)
    register.assert_rows_match("shop.Tag", "other")
    assert register.read_tag_links() == register.replay_tag_links()
