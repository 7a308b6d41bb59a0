"""A program that starts writers, for a test that kills them: `python -m tests.exactness.writer`.

For each seed that it reads, it forks a process that writes until it is killed, and prints its process id. When that
process has ended, it prints its exit status. A fork starts immediately, but a new interpreter would first import
Django, which takes a second.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import traceback
from contextlib import suppress

import django
from django.db import transaction


class Rollback(Exception):
    """Leaves a block that is to be rolled back."""


def print_line(message: object) -> None:
    """Write a line to the standard output in one call."""
    os.write(1, f"{message}\n".encode())


class RandomWriter:
    """Writes random rows in random transactions."""

    def __init__(self, seed: int) -> None:
        from tests.shop.models import Order, Tag

        self.chance = random.Random(seed)
        self.order_class = Order
        self.tags = [Tag.objects.create(name=str(number)) for number in range(3)]
        self.keys: list[int] = []

    def write_one(self) -> None:
        """Create, update, tag or delete an order."""
        if self.chance.random() < 0.5 or not self.keys:
            self.keys.append(self.order_class.objects.create(number="0").pk)
            return
        order = self.order_class.objects.filter(pk=self.chance.choice(self.keys)).first()
        if order is None:
            return
        lot = self.chance.random()
        if lot < 0.6:
            order.number = str(int(order.number) + 1)
            order.save()
        elif lot < 0.8:
            self.chance.choice([order.tags.add, order.tags.remove])(self.chance.choice(self.tags))
        else:
            order.delete()

    def write_several(self) -> None:
        """Write in an open transaction, with savepoints. Raises ``Rollback`` now and then."""
        for _ in range(self.chance.randint(1, 6)):
            if self.chance.random() < 0.3:
                self.write_in_savepoint()
            else:
                self.write_one()
        if self.chance.random() < 0.1:
            raise Rollback

    def write_in_savepoint(self) -> None:
        """Write within a savepoint, which is rolled back now and then."""
        with suppress(Rollback), transaction.atomic():
            self.write_one()
            if self.chance.random() < 0.4:
                raise Rollback

    def write_transaction(self) -> None:
        """Write in autocommit, in an event loop, in a manual transaction or in an atomic block."""
        lot = self.chance.random()
        if lot < 0.35:
            self.write_one()
        elif lot < 0.4:
            asyncio.run(self.order_class.objects.acreate(number="0"))
        elif lot < 0.5:
            transaction.set_autocommit(False)
            with suppress(Rollback):
                self.write_several()
            self.chance.choice([transaction.commit, transaction.commit, transaction.rollback])()
            transaction.set_autocommit(True)
        else:
            with suppress(Rollback), transaction.atomic():
                self.write_several()


def write_randomly(seed: int) -> None:
    """Write random rows until the process is killed. Report the first one."""
    from signalbox.pipeline import unit_of_work

    writer = RandomWriter(seed)
    unit_of_work.FLUSH_THRESHOLD = writer.chance.choice([1, 3, 1000, 1000])
    writer.write_one()
    print_line("writing")
    while True:
        writer.write_transaction()


def main() -> None:
    """Start one writer for each line of the standard input."""
    django.setup()
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            try:
                write_randomly(int(line))
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
                raise
            finally:
                os._exit(1)  # the test should have killed it
        print_line(pid)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print_line(status)


if __name__ == "__main__":
    main()
