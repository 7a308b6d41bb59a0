"""The recent runs of one receiver: calls in recorded sends, and attempts of its deliveries."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from signalbox.core.attempt import AttemptOutcome
from signalbox.core.receiver_stats import CallTotals, ReceiverStats, get_raised_error
from signalbox.models import Attempt, Delivery
from signalbox.outbox import queue
from signalbox.queries.recent_sends import BUDGET_SECONDS, RecentSend, RecentSends

MAX_FAILURES: Final = 10
"""Number of recent failures that are returned."""

MAX_COUNTED: Final = 1_000
"""Maximum number of deliveries that are counted in one state."""

MAX_NEWEST_DELIVERIES: Final = 20_000
"""Newest keys of deliveries among which done and discarded deliveries, and attempts, are searched."""

MAX_ATTEMPTS: Final = 1_000
"""Maximum number of attempts that are read."""


class Failure(NamedTuple):
    """One call that raised an exception."""

    send: RecentSend
    error: str
    """The exception as ``Type: message``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SignalRuns:
    """The calls of a receiver in the recent sends of one signal."""

    stats: ReceiverStats
    recent_sends: RecentSends


@dataclass(frozen=True, kw_only=True, slots=True)
class ReceiverRuns:
    """The calls of a receiver in recent sends."""

    total: ReceiverStats
    by_signal: tuple[SignalRuns, ...]
    failures: tuple[Failure, ...]
    """The newest calls that raised an exception."""


def summarize_runs(receiver: str, found: Iterable[RecentSends]) -> ReceiverRuns:
    """Return the calls of ``receiver``, a dotted name, in the sends ``found``."""
    total = CallTotals()
    by_signal: dict[str, tuple[CallTotals, RecentSends]] = {}
    failures: list[Failure] = []
    for recent in found:
        if recent.signal is not None:
            by_signal[recent.signal] = CallTotals(), recent
        for send in recent.sends:
            for call in send.calls or ():
                if call["name"] != receiver:
                    continue
                total.add_call(call)
                by_signal.setdefault(send.signal, (CallTotals(), recent))[0].add_call(call)
                if error := get_raised_error(call):
                    failures.append(Failure(send, error))
    return ReceiverRuns(
        total=total.build_stats("", receiver),
        by_signal=tuple(
            SignalRuns(stats=totals.build_stats(signal, receiver), recent_sends=recent)
            for signal, (totals, recent) in by_signal.items()
        ),
        failures=tuple(sorted(failures, key=lambda failure: -failure.send.id)[:MAX_FAILURES]),
    )


class StateCount(NamedTuple):
    """The number of a receiver's deliveries in one state."""

    state: str
    number: int
    has_more: bool
    """Whether there are more than ``number``, which is the limit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReceiverDeliveries:
    """The deliveries of one durable receiver in one database."""

    alias: str
    counts: tuple[StateCount, ...]
    """Pending and dead deliveries, up to ``MAX_COUNTED``, and the done and discarded ones among the newest
    ``MAX_NEWEST_DELIVERIES`` keys."""
    attempts: ReceiverStats
    """The newest attempts."""
    dead: tuple[Delivery, ...]
    """The newest dead deliveries."""
    is_limited: bool
    """Whether there are older deliveries, in which done and discarded ones and attempts were not searched."""
    is_out_of_time: bool
    """Whether ``BUDGET_SECONDS`` ended before everything was read."""


def read_deliveries(receiver: str, *, budget_seconds: float = BUDGET_SECONDS) -> list[ReceiverDeliveries]:
    """Return the deliveries of ``receiver`` in each database that has some."""
    deadline = time.monotonic() + budget_seconds
    found = [_read_database(receiver, alias, deadline) for alias in queue.get_delivery_databases()]
    return [one for one in found if any(item.number for item in one.counts)]


def _read_database(receiver: str, alias: str, deadline: float) -> ReceiverDeliveries:
    deliveries = Delivery.objects.using(alias).order_by()
    newest_id = deliveries.order_by("-id").values_list("id", flat=True).first() or 0
    floor = newest_id - MAX_NEWEST_DELIVERIES
    own = deliveries.filter(receiver=receiver)
    counts, ids, dead = [], [], []
    for state in (Delivery.PENDING, Delivery.DEAD, Delivery.DONE, Delivery.DISCARDED):
        if time.monotonic() > deadline:
            break
        rows = own.filter(state=state)
        if state in (Delivery.DONE, Delivery.DISCARDED):
            rows = rows.filter(id__gt=floor)
        number = rows.values("id")[: MAX_COUNTED + 1].count()
        counts.append(StateCount(state, min(number, MAX_COUNTED), number > MAX_COUNTED))
    if time.monotonic() <= deadline:
        ids = list(own.filter(id__gt=floor).order_by("-id").values_list("id", flat=True)[:MAX_COUNTED])
        dead = list(own.filter(state=Delivery.DEAD).order_by("-finished").defer("payload")[:MAX_FAILURES])
    return ReceiverDeliveries(
        alias=alias,
        counts=tuple(counts),
        attempts=_read_attempts(receiver, alias, ids),
        dead=tuple(dead),
        is_limited=floor > 0,
        is_out_of_time=time.monotonic() > deadline,
    )


def _read_attempts(receiver: str, alias: str, delivery_ids: Sequence[int]) -> ReceiverStats:
    totals = CallTotals()
    if delivery_ids:
        attempts = Attempt.objects.using(alias).filter(delivery_id__in=delivery_ids).order_by("-id")
        for started, ended, outcome, error in attempts.values_list("started", "ended", "outcome", "error")[
            :MAX_ATTEMPTS
        ]:
            # A lost attempt ends with its lease, not with its run.
            duration = None if outcome == AttemptOutcome.LOST else max(ended - started, 0)
            is_failure = outcome != AttemptOutcome.SUCCEEDED
            totals.add_call({"duration_us": duration, "error": (error or outcome) if is_failure else ""})
    return totals.build_stats("", receiver)


def count_dead_deliveries() -> dict[str, int]:
    """Return the number of dead deliveries by receiver, among the newest ``MAX_NEWEST_DELIVERIES`` of each database."""
    found: dict[str, int] = {}
    for alias in queue.get_delivery_databases():
        dead = Delivery.objects.using(alias).filter(state=Delivery.DEAD).order_by("-finished")
        for receiver in dead.values_list("receiver", flat=True)[:MAX_NEWEST_DELIVERIES]:
            found[receiver] = found.get(receiver, 0) + 1
    return found
