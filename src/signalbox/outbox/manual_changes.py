"""Actions of operators on deliveries: filter, retry, discard and replay."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.db import connections, transaction
from django.db.models import F, Q

from signalbox.core import loggers
from signalbox.core.event import Outcome
from signalbox.models import Delivery, Event
from signalbox.outbox import ordering, registry
from signalbox.outbox import replay as replay_source
from signalbox.outbox.queue import DeliveryQueue, get_deliveries_database, now_us
from signalbox.pipeline import batches, writer
from signalbox.serialization import encoder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from django.db.models import QuerySet

logger = loggers.get_logger("outbox")

STATES = ("pending", "due", "waiting", "running", "abandoned", "retrying", "done", "dead", "discarded")
"""States that deliveries can be filtered by: the stored ones, and finer ones of pending deliveries."""


def get_status(delivery: Delivery) -> str:
    """Return the state of a delivery: one of ``STATES``, by which ``filter_by_state`` finds it."""
    if delivery.state != Delivery.PENDING:
        return str(delivery.state)
    delivery_queue = DeliveryQueue(delivery._state.db or get_deliveries_database())
    if delivery.lease_expires_at is not None:
        return "running" if delivery.lease_expires_at > delivery_queue.lease_time else "abandoned"
    if delivery.attempts:
        return "retrying"
    is_due = delivery.next_check_at is not None and delivery.next_check_at <= delivery_queue.due_time
    return "due" if is_due else "waiting"


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
    return queryset.filter(build_state_q(queryset.db, state)) if state else queryset


def build_state_q(alias: str, state: str) -> Q:
    """Return the condition on a delivery in a state of ``STATES``.

    Raises ``ValueError`` for an unknown state.
    """
    delivery_queue = DeliveryQueue(alias)
    match state:
        case "due":
            return Q(next_check_at__lte=delivery_queue.due_time, lease_expires_at=None)
        case "waiting":  # for an earlier delivery, for its message, or for a time
            waiting = Q(state=Delivery.PENDING, attempts=0, lease_expires_at=None)
            return waiting & (Q(next_check_at=None) | Q(next_check_at__gt=delivery_queue.due_time))
        case "running":
            return Q(state=Delivery.PENDING, lease_expires_at__gt=delivery_queue.lease_time)
        case "abandoned":
            return Q(state=Delivery.PENDING, lease_expires_at__lte=delivery_queue.lease_time)
        case "retrying":
            return Q(state=Delivery.PENDING, attempts__gt=0, lease_expires_at=None)
        case "pending" | "done" | "dead" | "discarded":
            return Q(state=state)
    raise ValueError(f"{state!r} is not a state of a delivery; one of {', '.join(STATES)} was expected.")


def retry(deliveries: Iterable[Delivery], alias: str) -> int:
    """Make deliveries that are dead, discarded or waiting due now, with all their attempts; return how many.

    Each takes its old place in the order of its key, before later ones that have not run yet. Running and done
    deliveries are not changed, nor those whose payload was erased: their receivers would lack it.
    """
    count = 0
    for delivery in deliveries:
        if encoder.is_erased(delivery.payload):
            continue
        key = delivery.ordering_key
        partition_id = ordering.get_partition_id(delivery.receiver, key) if key else None
        with transaction.atomic(using=alias):
            now = DeliveryQueue(alias).lease_time
            unleased = _filter_unleased(delivery, alias, now)
            _record_lost_attempt(unleased, delivery.pk)
            count += unleased.filter(state__in=("dead", "discarded", "pending")).update(
                state="pending",
                partition_id=partition_id,
                run_at=now,
                next_check_at=now,
                lease_expires_at=None,
                attempt_started=None,
                finished=None,
                attempts=0,
                deferred_since=None,
                chain_length=1,
            )
    return count


def discard(deliveries: Iterable[Delivery], alias: str) -> int:
    """Discard deliveries that are dead or waiting, so that later ones of their keys run; return how many."""
    count = 0
    for delivery in deliveries:
        with transaction.atomic(using=alias):
            delivery_queue = DeliveryQueue(alias)
            unleased = _filter_unleased(delivery, alias, delivery_queue.lease_time)
            _record_lost_attempt(unleased, delivery.pk)
            discarded = unleased.filter(state__in=("dead", "pending")).update(
                state="discarded",
                partition_id=None,
                next_check_at=None,
                lease_expires_at=None,
                attempt_started=None,
                finished=now_us(),
            )
            if discarded and delivery.partition_id is not None:
                delivery_queue.unblock_next(delivery.partition_id, delivery.pk)
            count += discarded
    return count


@dataclass(frozen=True, kw_only=True, slots=True)
class ChangeResult:
    """What an action has done with a set of deliveries."""

    changed: int
    """Number of deliveries that were changed."""
    unchanged: dict[str, int]
    """Numbers of the others, by their state: one of ``STATES``, ``deleted``, or ``erased`` for an erased payload."""


def apply_to_each(action: Callable[[Iterable[Delivery], str], int], ids: Sequence[int], alias: str) -> ChangeResult:
    """Call ``retry`` or ``discard`` for each delivery of ``ids``, and say what happened to each.

    Each is changed in a transaction of its own. One that finished in the meantime is reported and not changed.
    """
    changed = 0
    unchanged: Counter[str] = Counter()
    for start in range(0, len(ids), 500):
        page = ids[start : start + 500]
        found = Delivery.objects.using(alias).in_bulk(page)
        for delivery_id in page:
            delivery = found.get(delivery_id)
            if delivery is not None and action([delivery], alias):
                changed += 1
                continue
            current = Delivery.objects.using(alias).filter(pk=delivery_id).first()
            unchanged["deleted" if current is None else _get_unchanged_state(current)] += 1
    return ChangeResult(changed=changed, unchanged=dict(unchanged))


def _get_unchanged_state(delivery: Delivery) -> str:
    state = get_status(delivery)
    is_finished = state in ("done", "running", "discarded")
    return "erased" if encoder.is_erased(delivery.payload) and not is_finished else state


def _filter_unleased(delivery: Delivery, alias: str, lease_time: int) -> QuerySet[Delivery]:
    """Return the row of ``delivery`` if no worker holds it at ``lease_time``."""
    is_unleased = Q(lease_expires_at=None) | Q(lease_expires_at__lte=lease_time)
    return Delivery.objects.using(alias).filter(is_unleased, pk=delivery.pk)


def _record_lost_attempt(unleased: QuerySet[Delivery], delivery_id: int) -> None:
    # The update locks the row, so that no worker leases it and records the same attempt.
    if unleased.filter(attempt_started__isnull=False).update(worker=F("worker")):
        DeliveryQueue(unleased.db).record_lost_attempt(delivery_id)


def replay(
    receiver: str, alias: str, *, since: int, until: int | None = None, missing: bool = False, dry_run: bool = False
) -> int:
    """Create deliveries to ``receiver`` for past events that it subscribes to; return how many.

    ``since`` and ``until`` are microseconds since 1970. Events that have a pending or dead delivery to the receiver are
    skipped; with ``missing``, those that have any. A recorded row may lack secrets and long texts: the rest is
    delivered. Events of other signals are skipped, and counted in the log, if an argument that the receiver takes was
    truncated or redacted.

    Raises ``LookupError`` if ``receiver`` is not the dotted name of a durable receiver.
    """
    subscriptions = [
        (signal, sender) for signal, sender, durable in registry.get_subscriptions() if durable.name == receiver
    ]
    if not subscriptions:
        known = ", ".join(sorted(registry.get_durable_receivers())) or "none"
        raise LookupError(f"{receiver!r} is not a durable receiver. Use one of: {known}.")
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
