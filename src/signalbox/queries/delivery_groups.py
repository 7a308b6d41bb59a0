"""Group deliveries by receiver and error, and count them by state. No query reads more than ``MAX_COUNTED`` rows."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from signalbox.models import Delivery
from signalbox.outbox.queue import DeliveryQueue
from signalbox.outbox.unknown_receivers import MAX_COUNTED

if TYPE_CHECKING:
    from django.db.models import QuerySet

MAX_GROUPS: Final = 100
"""Maximum number of groups that are listed, the largest first."""

MAX_SEARCHED: Final = 500_000
"""Number of the newest deliveries that are searched for a receiver."""

_VARIABLE_PART: Final = re.compile(r"'[^']*'|\"[^\"]*\"|\b0x[0-9a-fA-F]+\b|\b[0-9a-fA-F-]{16,}\b|\d+(?:\.\d+)*")


def generalize_error(error: str) -> str:
    """Return ``error`` with ``…`` for its numbers, ids and quoted texts, so that similar errors are equal."""
    return _VARIABLE_PART.sub("…", error)


@dataclass(slots=True)
class DeliveryGroup:
    """Deliveries with the same receiver, and with similar errors."""

    receiver: str
    error: str
    """The error with ``…`` for its variable parts; empty for deliveries without one."""
    ids: list[int] = field(default_factory=list)
    """Their ids, the newest first."""

    @property
    def key(self) -> str:
        """Identifier of the group in URLs and forms."""
        return hashlib.sha256(f"{self.receiver}\0{self.error}".encode()).hexdigest()[:12]

    @property
    def count(self) -> int:
        """Number of deliveries."""
        return len(self.ids)


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupedDeliveries:
    """The groups of the deliveries that a filter finds."""

    groups: list[DeliveryGroup]
    count: int
    """Number of deliveries in all groups, also in those that are not listed."""
    is_complete: bool
    """Whether these are all that the filter finds. Otherwise there are more, and each number can be higher."""

    @property
    def ids(self) -> list[int]:
        """Return the ids of all listed deliveries."""
        return [delivery_id for group in self.groups for delivery_id in group.ids]


def group_deliveries(found: QuerySet[Delivery], state: str) -> GroupedDeliveries:
    """Return the groups of ``found``, the largest first. ``state`` is that of its filter.

    The order of the rows follows an index, as a sort of a long table would take seconds.
    """
    order = ["-finished"] if state in ("done", "dead", "discarded") else [] if state else ["-id"]
    rows = list(found.order_by(*order).values_list("id", "receiver", "error")[: MAX_COUNTED + 1])
    groups: dict[tuple[str, str], DeliveryGroup] = {}
    for delivery_id, receiver, error in sorted(rows[:MAX_COUNTED], reverse=True):
        pattern = generalize_error(error)
        group = groups.setdefault((receiver, pattern), DeliveryGroup(receiver, pattern))
        group.ids.append(delivery_id)
    listed = sorted(groups.values(), key=lambda group: (-group.count, group.receiver, group.error))[:MAX_GROUPS]
    return GroupedDeliveries(
        groups=listed,
        count=min(len(rows), MAX_COUNTED),
        is_complete=len(rows) <= MAX_COUNTED and len(groups) <= MAX_GROUPS,
    )


def limit_search(found: QuerySet[Delivery], state: str) -> QuerySet[Delivery]:
    """Return the newest ``MAX_SEARCHED`` deliveries of ``found``, which is filtered by receiver.

    No index contains the receiver. Unfinished and dead deliveries are few, so all of them are searched.
    """
    if state not in ("", "done", "discarded"):
        return found
    newest_id = Delivery.objects.using(found.db).order_by("-id").values_list("id", flat=True).first() or 0
    return found.filter(id__gt=newest_id - MAX_SEARCHED)


@dataclass(frozen=True, kw_only=True, slots=True)
class StateCounts:
    """Numbers of deliveries by state, without those that are done or discarded."""

    counts: Counter[str]
    """By ``due``, ``waiting``, ``running``, ``retrying`` and ``dead``."""
    is_complete: bool
    """Whether all rows were read. Otherwise each number can be higher."""


def count_states(found: QuerySet[Delivery]) -> StateCounts:
    """Return the numbers of unfinished and dead deliveries among ``found``."""
    delivery_queue = DeliveryQueue(found.db)
    lease_time, due_time = delivery_queue.lease_time, delivery_queue.due_time
    pending = list(
        found.filter(state=Delivery.PENDING)
        .order_by()
        .values_list("lease_expires_at", "attempts", "next_check_at")[: MAX_COUNTED + 1]
    )
    dead = found.filter(state=Delivery.DEAD).order_by()[: MAX_COUNTED + 1].count()
    counts: Counter[str] = Counter()
    for lease_expires_at, attempts, next_check_at in pending[:MAX_COUNTED]:
        if lease_expires_at is not None and lease_expires_at > lease_time:
            counts["running"] += 1
        elif attempts:
            counts["retrying"] += 1
        else:
            counts["due" if next_check_at is not None and next_check_at <= due_time else "waiting"] += 1
    counts["dead"] = min(dead, MAX_COUNTED)
    return StateCounts(counts=counts, is_complete=max(len(pending), dead) <= MAX_COUNTED)
