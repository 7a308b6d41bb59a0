"""A program that starts writers, for a test that kills them: `python -m tests.exactness.writer`.

For each seed that it reads it forks a process which writes until it is killed, and says its number; when that process
has ended it says how. Both speak on the standard output. A fork is there at once, where a new interpreter would first
import Django for a second.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING

import django

if TYPE_CHECKING:
    from tests.shop.models import Tag


def print_line(message: object) -> None:
    """Say it in a line of the standard output, at once and whole."""
    os.write(1, f"{message}\n".encode())


def write_randomly(seed: int) -> None:
    """Write at random, without end; say so after the first row."""
    from django.db import transaction

    from signalbox.pipeline import unit_of_work
    from tests.exactness.blocks import Rollback
    from tests.shop.models import Order, Tag

    chance = random.Random(seed)
    unit_of_work.FLUSH_THRESHOLD = chance.choice([1, 3, 1000, 1000])
    tags = [Tag.objects.create(name=str(number)) for number in range(3)]
    keys: list[int] = []

    def one() -> None:
        if chance.random() < 0.5 or not keys:
            keys.append(Order.objects.create(number="0").pk)
            return
        order = Order.objects.filter(pk=chance.choice(keys)).first()
        if order is None:
            return
        lot = chance.random()
        if lot < 0.6:
            order.number = str(int(order.number) + 1)
            order.save()
        elif lot < 0.8:
            _tag(order, chance.choice(tags))
        else:
            order.delete()

    def _tag(order: Order, tag: Tag) -> None:
        chance.choice([order.tags.add, order.tags.remove])(tag)

    def several() -> None:
        for _ in range(chance.randint(1, 6)):
            if chance.random() < 0.3:
                with suppress(Rollback), transaction.atomic():
                    one()
                    if chance.random() < 0.4:
                        raise Rollback
            else:
                one()
        if chance.random() < 0.1:
            raise Rollback

    one()
    print_line("writing")
    while True:
        lot = chance.random()
        if lot < 0.35:
            one()
        elif lot < 0.4:
            asyncio.run(Order.objects.acreate(number="0"))
        elif lot < 0.5:
            transaction.set_autocommit(False)
            with suppress(Rollback):
                several()
            chance.choice([transaction.commit, transaction.commit, transaction.rollback])()
            transaction.set_autocommit(True)
        else:
            with suppress(Rollback), transaction.atomic():
                several()


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
                os._exit(1)  # it was to be killed
        print_line(pid)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print_line(status)


if __name__ == "__main__":
    main()
