"""What an operator does with deliveries: look, try again, let go, send past events once more."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from django.db import connections, transaction
from django.db.models import Q

from signalbox.core.event import Outcome
from signalbox.models import Delivery, Event
from signalbox.outbox import ordering, registry
from signalbox.outbox import replay as replay_source
from signalbox.outbox.queue import DeliveryQueue, now_us
from signalbox.pipeline import batches, writer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from django.db.models import QuerySet

logger = logging.getLogger("signalbox")

STATES = ("pending", "due", "running", "retrying", "done", "dead", "discarded")
"""By which deliveries are looked for: as they are stored, and finer for those that are pending."""


def filter_deliveries(
    alias: str, *, state: str = "", receiver: str = "", queue: str = "", key: str | None = None
) -> QuerySet[Delivery]:
    """Return deliveries, newest first. ``receiver`` is a part of a dotted name.

    Raises ``ValueError`` for a state that there is not.
    """
    found = Delivery.objects.using(alias).order_by("-id")
    if receiver:
        found = found.filter(receiver__contains=receiver)
    if queue:
        found = found.filter(queue=queue)
    if key is not None:
        found = found.filter(key=key)
    return filter_by_state(found, state)


def filter_by_state(queryset: QuerySet[Delivery], state: str) -> QuerySet[Delivery]:
    """Return the deliveries of ``found`` that are in a state of ``STATES``; all of them for an empty one.

    Raises ``ValueError`` for a state that there is not.
    """
    moment = now_us()
    match state:
        case "":
            return queryset
        case "due":
            return queryset.filter(next_check_at__lte=moment, lease_expires_at=None)
        case "running":
            return queryset.filter(state=Delivery.PENDING, lease_expires_at__gt=moment)
        case "retrying":
            return queryset.filter(state=Delivery.PENDING, attempts__gt=0, lease_expires_at=None)
        case "pending" | "done" | "dead" | "discarded":
            return queryset.filter(state=state)
    raise ValueError(f"{state!r} is no state of a delivery; one of {', '.join(STATES)} was expected.")


def retry(deliveries: Iterable[Delivery], alias: str) -> int:
    """Let deliveries that are dead, discarded or waiting be run now, with all their attempts; return how many.

    Each takes its old place in the order of its key, before the later ones that have not run yet. What runs, or is
    done, is left alone.
    """
    number = 0
    for one in deliveries:
        lane = ordering.get_partition_id(one.receiver, one.ordering_key) if one.ordering_key else None
        moment = now_us()
        with transaction.atomic(using=alias):
            waiting = Delivery.objects.using(alias).filter(
                Q(lease=None) | Q(lease__lt=moment), pk=one.pk, state__in=("dead", "discarded", "pending")
            )
            number += waiting.update(
                state="pending", lane=lane, due=moment, wake=moment, lease=None, finished=None, attempts=0
            )
    return number


def discard(deliveries: Iterable[Delivery], alias: str) -> int:
    """Let deliveries go that are dead or waiting; what stands behind them is run. Return how many."""
    number = 0
    for one in deliveries:
        moment = now_us()
        with transaction.atomic(using=alias):
            waiting = Delivery.objects.using(alias).filter(
                Q(lease=None) | Q(lease__lt=moment), pk=one.pk, state__in=("dead", "pending")
            )
            gone = waiting.update(state="discarded", lane=None, wake=None, lease=None, finished=moment)
            if gone and one.partition_id is not None:
                DeliveryQueue(alias).unblock_next(one.partition_id, one.pk)
            number += gone
    return number


def replay(
    receiver: str, alias: str, *, since: int, until: int | None = None, missing: bool = False, dry_run: bool = False
) -> int:
    """Make deliveries to ``receiver`` of the events it listens to since a moment (microseconds); return how many.

    Events with a delivery to it that is pending or dead are left out; with ``missing`` also those with any. Of an
    event whose row the register keeps in part, secrets and long texts hidden, that part is delivered. A signal's event
    is left out if an argument that the receiver takes was cut or hidden; how many were is logged.

    Raises ``LookupError`` if there is no durable receiver of this dotted name.
    """
    waiting = [(signal, sender) for signal, sender, durable in registry.get_subscriptions() if durable.name == receiver]
    if not waiting:
        known = ", ".join(sorted(registry.get_durable_receivers())) or "none"
        raise LookupError(f"There is no durable receiver {receiver!r}; known: {known}.")
    number = lost = 0
    wanted = Q()
    for signal, sender in waiting:
        wanted |= Q(signal=signal) if sender is None else Q(signal=signal, sender=sender)
    events = Event.objects.using(alias).filter(
        wanted, time__gte=since, outcome__in=(Outcome.COMMITTED.value, Outcome.SENT.value)
    )
    if until is not None:
        events = events.filter(time__lt=until)
    last = 0
    while page := list(events.filter(id__gt=last).order_by("id")[:500]):
        last = page[-1].id
        chosen = [event for event in _exclude_delivered(page, receiver, alias, missing) if not _is_pre_change(event)]
        kept = replay_source.get_stored_payloads(chosen, alias)
        rows = []
        for event in chosen:
            durable = registry.find_durable_receiver(receiver, event.signal, event.sender)
            try:
                if durable is not None:
                    rows.append(
                        replay_source.build_row(durable, event, kept.get((event.trace_id, event.span)), now_us())
                    )
            except (replay_source.IncompleteRecord, ordering.OrderingKeyError):
                lost += 1
        if rows and not dry_run:
            writer.write(connections[alias], batches.Batch(deliveries=rows))
        number += len(rows)
    if lost:
        logger.warning(
            "%d events can't be replayed to %s: what it takes of them was not kept as it was.", lost, receiver
        )
    return number


def _exclude_delivered(events: Sequence[Event], receiver: str, alias: str, missing: bool) -> list[Event]:
    theirs = Delivery.objects.using(alias).filter(receiver=receiver, trace_id__in={event.trace_id for event in events})
    if not missing:
        theirs = theirs.filter(state__in=("pending", "dead"))
    there = set(theirs.values_list("trace_id", "span"))
    return [event for event in events if (event.trace_id, event.span) not in there]


def _is_pre_change(event: Event) -> bool:
    args = event.data.get("args")
    return event.signal == "m2m_changed" and isinstance(args, dict) and str(args.get("action")).startswith("pre_")
