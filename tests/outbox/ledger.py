"""Compare the transactions of a test with the calls of its receivers."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

from django.db import transaction

from signalbox.models import Delivery, Event
from tests.outbox.receivers import get_saved_note
from tests.shop.models import Order

if TYPE_CHECKING:
    from pathlib import Path


class ForcedRollback(Exception):
    """Raised to roll back a transaction."""


class Ledger:
    """Saves orders, each time with another note, and keeps a list of the committed notes."""

    def __init__(self, order_count: int) -> None:
        self.committed: dict[int, list[str]] = defaultdict(list)
        self.rolled_back: set[str] = set()
        self.orders: list[Order] = []
        self._note_count = 0
        for number in range(order_count):
            order = Order(number=str(number))
            saved = self._save(order)
            self.committed[order.pk].append(saved)
            self.orders.append(order)

    def __len__(self) -> int:
        return sum(map(len, self.committed.values()))

    def write(self) -> None:
        """Save some orders in autocommit or in a transaction, and roll back all, a savepoint, or nothing."""
        chosen = random.sample(self.orders, random.randint(1, 4))
        if random.random() < 0.2:
            for order in chosen:
                self.committed[order.pk].append(self._save(order))
            return
        saved = []
        try:
            with transaction.atomic():
                for order in chosen:
                    if random.random() < 0.2:
                        with suppress(ForcedRollback), transaction.atomic():
                            self.rolled_back.add(self._save(order))
                            raise ForcedRollback
                    saved.append((order.pk, self._save(order)))
                if random.random() < 0.3:
                    raise ForcedRollback
        except ForcedRollback:
            self.rolled_back.update(text for _, text in saved)
        else:
            for key, text in saved:
                self.committed[key].append(text)

    def _save(self, order: Order) -> str:
        self._note_count += 1
        order.note = f"note-{self._note_count}"
        order.save()
        return order.note


@dataclass(kw_only=True, slots=True)
class ReceiverCall:
    """A call of the receiver."""

    started_ns: int
    key: int
    note: str
    delivery: int
    attempt: int
    process_group: int
    pid: int
    thread: int
    finished_ns: int | None = None


@dataclass(slots=True)
class CallLog:
    """The calls in the notes of the receiver."""

    path: Path
    calls: list[ReceiverCall] = field(default_factory=list)
    finished_count: int = 0
    _offset: int = 0
    _unfinished: dict[tuple[int, int], ReceiverCall] = field(default_factory=dict)

    def read_new(self) -> list[ReceiverCall]:
        """Return the calls that have begun since the last call of this method."""
        with self.path.open("rb") as file:
            file.seek(self._offset)
            text = file.read()
        text = text[: text.rfind(b"\n") + 1]
        self._offset += len(text)
        new = []
        for line in text.decode().splitlines():
            word, moment, key, about, *numbers = line.split()
            delivery, attempt, group, pid, thread = map(int, numbers)
            if word == "finish":
                self._unfinished.pop((delivery, attempt)).finished_ns = int(moment)
                self.finished_count += 1
                continue
            run = ReceiverCall(
                started_ns=int(moment),
                key=int(key),
                note=about,
                delivery=delivery,
                attempt=attempt,
                process_group=group,
                pid=pid,
                thread=thread,
            )
            assert (delivery, attempt) not in self._unfinished, f"an attempt ran twice: {run}"
            self._unfinished[delivery, attempt] = run
            new.append(run)
        self.calls += new
        return new


def assert_consistent(ledger: Ledger, call_log: CallLog, kill_times: dict[int, int]) -> str:
    """Assert that the receiver ran for every committed note and no other; return the number of assertions.

    ``deaths``: when SIGKILL was sent, by process or process group.
    """
    call_log.read_new()
    wanted = Counter(text for texts in ledger.committed.values() for text in texts)
    notes = {(one.trace_id, one.span): get_saved_note(one) for one in Event.objects.filter(signal="post_save")}
    delivered = Counter(notes[one] for one in Delivery.objects.values_list("trace_id", "span"))
    assert wanted == delivered, "a delivery for every save that was committed, and for no other"
    assert not set(delivered) & ledger.rolled_back
    assert not Delivery.objects.exclude(state="done").exists()
    attempts = Counter((run.delivery, run.attempt) for run in call_log.calls)
    assert {1} == set(attempts.values()), "no attempt ran twice"
    lasts = {(run.pid, run.thread): run for run in sorted(call_log.calls, key=lambda run: run.started_ns)}
    by_key = defaultdict(list)
    for run in sorted(call_log.calls, key=lambda run: run.started_ns):
        by_key[run.key].append(run)
    again = 0
    for key, mine in by_key.items():
        assert ledger.committed[key] == [text for text, _ in groupby(run.note for run in mine)], "all, and in order"
        for one, following in pairwise(mine):
            dead = kill_times.get(one.pid, kill_times.get(one.process_group))
            over = one.finished_ns or dead
            assert over is not None, f"it did not end, and was not killed: {one}"
            assert over <= following.started_ns, f"two of one key at a time: {one} {following}"
            if one.note == following.note:
                again += 1
                assert dead is not None, f"it ran again though its process lived: {one} {following}"
                assert dead <= following.started_ns, f"it ran again before its process died: {one} {following}"
                assert one is lasts[one.pid, one.thread], (
                    f"its process lived long enough to finish it: {one} {following}"
                )
                assert one.attempt < following.attempt
    assert ledger.committed.keys() == by_key.keys()
    broken = sum(run.finished_ns is None for run in call_log.calls)
    return (
        f"{len(kill_times)} killed; {len(wanted)} committed, {len(ledger.rolled_back)} rolled back, "
        f"{len(call_log.calls)} runs: {broken} broken off, {again} run again"
    )
