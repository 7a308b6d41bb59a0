"""Actions of operators on deliveries: filter, retry, discard and replay."""

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
"""States that deliveries can be filtered by: the stored ones, and finer ones of pending deliveries."""


def filter_deliveries(
    alias: str, *, state: str = "", receiver: str = "", queue: str = "", key: str | None = None
) -> QuerySet[Delivery]:
    """Return deliveries, newest first. ``receiver`` is a part of a dotted name, ``key`` an ordering key.

    Raises ``ValueError`` for an unknown state.
    """
    queryset = Delivery.objects.using(alias).order_by("-id")
    if receiver:
        queryset = queryset.filter(receiver__contains=receiver)
    if queue:
        queryset = queryset.filter(queue=queue)
    if key is not None:
        queryset = queryset.filter(ordering_key=key)
    return filter_by_state(queryset, state)


def filter_by_state(queryset: QuerySet[Delivery], state: str) -> QuerySet[Delivery]:
    """Return the deliveries of ``queryset`` in a state of ``STATES``; all of them for an empty one.

    Raises ``ValueError`` for an unknown state.
    """
    now = now_us()
    match state:
        case "":
            return queryset
        case "due":
            return queryset.filter(next_check_at__lte=now, lease_expires_at=None)
        case "running":
            return queryset.filter(state=Delivery.PENDING, lease_expires_at__gt=now)
        case "retrying":
            return queryset.filter(state=Delivery.PENDING, attempts__gt=0, lease_expires_at=None)
        case "pending" | "done" | "dead" | "discarded":
            return queryset.filter(state=state)
    raise ValueError(f"{state!r} is not a state of a delivery; one of {', '.join(STATES)} was expected.")


def retry(deliveries: Iterable[Delivery], alias: str) -> int:
    """Make deliveries that are dead, discarded or waiting due now, with all their attempts; return how many.

    Each takes its old place in the order of its key, before later ones that have not run yet. Running and done
    deliveries are not changed.
    """
    count = 0
    for delivery in deliveries:
        key = delivery.ordering_key
        partition_id = ordering.get_partition_id(delivery.receiver, key) if key else None
        now = now_us()
        with transaction.atomic(using=alias):
            unleased = _filter_unleased(delivery, alias, now)
            count += unleased.filter(state__in=("dead", "discarded", "pending")).update(
                state="pending",
                partition_id=partition_id,
                run_at=now,
                next_check_at=now,
                lease_expires_at=None,
                finished=None,
                attempts=0,
            )
    return count


def discard(deliveries: Iterable[Delivery], alias: str) -> int:
    """Discard deliveries that are dead or waiting, so that later ones of their keys run; return how many."""
    count = 0
    for delivery in deliveries:
        now = now_us()
        with transaction.atomic(using=alias):
            unleased = _filter_unleased(delivery, alias, now)
            discarded = unleased.filter(state__in=("dead", "pending")).update(
                state="discarded", partition_id=None, next_check_at=None, lease_expires_at=None, finished=now
            )
            if discarded and delivery.partition_id is not None:
                DeliveryQueue(alias).unblock_next(delivery.partition_id, delivery.pk)
            count += discarded
    return count


def _filter_unleased(delivery: Delivery, alias: str, now: int) -> QuerySet[Delivery]:
    """Return the row of ``delivery`` if no worker holds it."""
    return Delivery.objects.using(alias).filter(Q(lease_expires_at=None) | Q(lease_expires_at__lt=now), pk=delivery.pk)


def replay(
    receiver: str, alias: str, *, since: int, until: int | None = None, missing: bool = False, dry_run: bool = False
) -> int:
    """Create deliveries to ``receiver`` for past events that it subscribes to; return how many.

    ``since`` and ``until`` are microseconds since 1970. Events that have a pending or dead delivery to the receiver are
    skipped; with ``missing``, those that have any. A recorded row may lack secrets and long texts: the rest is
    delivered. Events of other signals are skipped, and counted in the log, if an argument that the receiver takes was
    truncated or redacted.

    Raises ``LookupError`` if there is no durable receiver with this dotted name.
    """
    subscriptions = [
        (signal, sender) for signal, sender, durable in registry.get_subscriptions() if durable.name == receiver
    ]
    if not subscriptions:
        known = ", ".join(sorted(registry.get_durable_receivers())) or "none"
        raise LookupError(f"There is no durable receiver {receiver!r}; known: {known}.")
    count = incomplete = 0
    condition = Q()
    for signal, sender in subscriptions:
        condition |= Q(signal=signal) if sender is None else Q(signal=signal, sender=sender)
    events = Event.objects.using(alias).filter(
        condition, time__gte=since, outcome__in=(Outcome.COMMITTED.value, Outcome.SENT.value)
    )
    if until is not None:
        events = events.filter(time__lt=until)
    last_id = 0
    while page := list(events.filter(id__gt=last_id).order_by("id")[:500]):
        last_id = page[-1].id
        selected = [event for event in _exclude_delivered(page, receiver, alias, missing) if not _is_pre_change(event)]
        payloads = replay_source.get_stored_payloads(selected, alias)
        rows = []
        for event in selected:
            durable = registry.find_durable_receiver(receiver, event.signal, event.sender)
            try:
                if durable is not None:
                    rows.append(
                        replay_source.build_row(durable, event, payloads.get((event.trace_id, event.span)), now_us())
                    )
            except (replay_source.IncompleteRecord, ordering.OrderingKeyError):
                incomplete += 1
        if rows and not dry_run:
            writer.write(connections[alias], batches.Batch(deliveries=rows))
        count += len(rows)
    if incomplete:
        logger.warning(
            "%d events can't be replayed to %s: arguments that it takes were recorded incompletely.",
            incomplete,
            receiver,
        )
    return count


def _exclude_delivered(events: Sequence[Event], receiver: str, alias: str, missing: bool) -> list[Event]:
    existing = Delivery.objects.using(alias).filter(
        receiver=receiver, trace_id__in={event.trace_id for event in events}
    )
    if not missing:
        existing = existing.filter(state__in=("pending", "dead"))
    delivered = set(existing.values_list("trace_id", "span"))
    return [event for event in events if (event.trace_id, event.span) not in delivered]


def _is_pre_change(event: Event) -> bool:
    args = event.data.get("args")
    return event.signal == "m2m_changed" and isinstance(args, dict) and str(args.get("action")).startswith("pre_")
