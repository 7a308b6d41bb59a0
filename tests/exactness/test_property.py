"""Random programs of transactions: whatever they do, the events tell of exactly the rows that are there."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from django.db import connection, transaction
from django.db.transaction import TransactionManagementError
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from signalbox import buffer
from tests.exactness import register
from tests.exactness.blocks import Undo, savepoint
from tests.shop.models import Order, Tag

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


class Program:
    """Runs a program. Its instances live on when their rows are rolled back, as an application's do."""

    def __init__(self) -> None:
        self.orders: list[Order] = []
        self.tags = [Tag.objects.create(name=str(number)) for number in range(4)]
        self.number = 0

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
        buffer.flush_all()

    def block(self, own_savepoint: bool, fails: bool, steps: list[Step]) -> None:
        with suppress(Undo, TransactionManagementError), transaction.atomic(savepoint=own_savepoint):
            self.run(steps)
            if fails:
                raise Undo

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
        with suppress(TransactionManagementError):
            self.run(steps)
        if commits and not connection.needs_rollback:
            transaction.commit()
        else:
            transaction.rollback()
        transaction.set_autocommit(True)


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(spill=st.sampled_from([1, 2, 5, 1000]), program=PROGRAMS)
@example(spill=2, program=[("block", True, False, [("create",), ("savepoint", True, [("update", 0)]), ("update", 0)])])
@example(spill=1000, program=[("manual", True, [("block", True, False, [("create",)]), ("flush",)])])
@example(spill=1, program=[("create",), ("block", True, True, [("update", 0)]), ("update", 0)])
def test_events_tell_of_exactly_the_rows_that_are_there(spill: int, program: list[Step]) -> None:
    register.empty("default")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(buffer, "SPILL", spill)
        Program().run(program)
    register.exact("shop.Order")
    assert register.links() == register.replayed_links()
