"""The tables: events, and the traces they belong to. No foreign key leads out: an event outlives what it describes."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any, ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _

from signalbox.core.event import Outcome
from signalbox.core.fields import TrustedJSONField

if TYPE_CHECKING:
    from collections.abc import Callable

before_read_hooks: list[Callable[[], None]] = []
"""Called before events are read. Recording adds a flush, so that a transaction reads its own events."""


def to_datetime(microseconds: int) -> dt.datetime:
    """Return ``microseconds`` since the epoch as an aware UTC datetime, exactly."""
    return dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=microseconds)


def utc_now() -> dt.datetime:
    """Return the moment as an aware datetime; ``timezone.now()`` is naive where ``USE_TZ`` is off."""
    return dt.datetime.now(dt.UTC)


def to_microseconds(value: dt.datetime) -> int:
    """Return an aware datetime as microseconds since the epoch, exactly."""
    return (value - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)


class FlushingManager(models.Manager["Any"]):
    """Manager whose readers see what the open transaction has recorded so far."""

    def get_queryset(self) -> models.QuerySet[Any]:
        """Return the table's rows, those of the open transaction included."""
        for call in before_read_hooks:
            call()
        return super().get_queryset()


class Event(models.Model):
    """One send of one signal, or one bulk operation."""

    id = models.BigAutoField(primary_key=True)
    time = models.BigIntegerField(_("time"), help_text=_("Microseconds since 1970, UTC."))
    trace_id = models.CharField(_("trace"), max_length=32)
    span = models.BigIntegerField(help_text=_("Key of the event within its trace."))
    parent = models.BigIntegerField(null=True, help_text=_("Span of the event in whose receiver this one happened."))
    signal = models.CharField(_("signal"), max_length=200)
    sender = models.CharField(_("sender"), max_length=200)
    object_key = models.CharField(_("object key"), max_length=200)
    object_label = models.CharField(_("object"), max_length=200)
    actor_key = models.CharField(max_length=64)
    actor_label = models.CharField(_("actor"), max_length=150)
    database = models.CharField(_("database"), max_length=64)
    outcome = models.CharField(
        _("outcome"), max_length=11, choices=[(o.value, o.value.replace("_", " ")) for o in Outcome]
    )
    duration = models.BigIntegerField(_("duration"), null=True, help_text=_("Microseconds that the send took."))
    errors = models.PositiveSmallIntegerField(_("errors"), help_text=_("Receivers that raised."))
    data = TrustedJSONField()

    objects: ClassVar[FlushingManager] = FlushingManager()

    uncertain = False
    """Of an event in an object's history: whether it may have concerned it, as a bulk operation that left out keys."""

    class Meta:
        verbose_name = _("event")
        verbose_name_plural = _("events")
        ordering = ("-id",)
        default_permissions = ("view", "delete")
        indexes: ClassVar = [
            models.Index(fields=["trace_id", "id"], name="signalbox_event_trace"),
            models.Index(fields=["sender", "object_key", "id"], name="signalbox_event_object"),
            models.Index(fields=["signal", "id"], name="signalbox_event_signal"),
            models.Index(fields=["actor_key", "id"], name="signalbox_event_actor"),
        ]

    def __str__(self) -> str:
        return f"{self.signal} {self.sender} {self.object_label or self.object_key}".rstrip()

    @property
    def timestamp(self) -> dt.datetime:
        """When it was sent: aware, UTC."""
        return to_datetime(self.time)


class Trace(models.Model):
    """A unit of work; its row is written when it ends."""

    id = models.BigAutoField(primary_key=True)
    trace_id = models.CharField(_("trace"), max_length=32)
    kind = models.CharField(_("kind"), max_length=16)
    name = models.CharField(_("name"), max_length=200)
    actor_key = models.CharField(max_length=64)
    actor_label = models.CharField(_("actor"), max_length=150)
    time = models.BigIntegerField(_("start"), help_text=_("Microseconds since 1970, UTC."))
    duration = models.BigIntegerField(_("duration"), null=True, help_text=_("Microseconds; none while it runs."))
    status = models.CharField(_("status"), max_length=16)
    events = models.PositiveIntegerField(_("events"))
    errors = models.PositiveIntegerField(_("errors"))
    rolled_back = models.PositiveIntegerField(_("rolled back"))
    data = TrustedJSONField()

    objects: ClassVar[FlushingManager] = FlushingManager()

    class Meta:
        verbose_name = _("trace")
        verbose_name_plural = _("traces")
        ordering = ("-id",)
        default_permissions = ("view", "delete")
        indexes: ClassVar = [models.Index(fields=["trace_id"], name="signalbox_trace_trace")]

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    @property
    def timestamp(self) -> dt.datetime:
        """When it began: aware, UTC."""
        return to_datetime(self.time)


class Delivery(models.Model):
    """One durable receiver to run for one event. Its row is the truth; a broker's message is a hint."""

    PENDING = "pending"
    """To be run; running while its lease lasts."""
    DONE = "done"
    DEAD = "dead"
    """It used up its attempts."""
    DISCARDED = "discarded"
    """Somebody decided that it need not be run."""

    id = models.BigAutoField(primary_key=True)
    receiver = models.CharField(_("receiver"), max_length=200)
    queue = models.CharField(_("queue"), max_length=64)
    ordering_key = models.CharField(_("ordering key"), max_length=200)
    partition_id = models.BigIntegerField(
        null=True,
        help_text=_(
            "Deliveries of one partition run one at a time, in the order of their ids. Empty if it is in none."
        ),
    )
    trace_id = models.CharField(_("trace"), max_length=32)
    span = models.BigIntegerField(help_text=_("Key of the event within its trace."))
    signal = models.CharField(_("signal"), max_length=200)
    sender = models.CharField(_("sender"), max_length=200)
    object_key = models.CharField(_("object key"), max_length=200)
    database = models.CharField(_("database"), max_length=64)
    state = models.CharField(
        _("state"), max_length=10, db_default=PENDING, choices=[(s, s) for s in (PENDING, DONE, DEAD, DISCARDED)]
    )
    run_at = models.BigIntegerField(_("run at"), help_text=_("Microseconds since 1970, UTC. It does not run earlier."))
    next_check_at = models.BigIntegerField(
        null=True,
        help_text=_("When it becomes due, or its lease or its broker message expires. Empty if it needs no check."),
    )
    lease_expires_at = models.BigIntegerField(
        _("lease expires"),
        null=True,
        help_text=_("Until then only the worker that holds it may run it. Empty if unleased."),
    )
    attempts = models.PositiveIntegerField(_("attempts"), db_default=0)
    fencing_token = models.BigIntegerField(
        db_default=0, help_text=_("Incremented by each lease, so that a worker with an expired one cannot write.")
    )
    error = models.CharField(_("error"), max_length=600, db_default="")
    # Null: MySQL's texts have no plain default, and rows are written without it.
    traceback = models.TextField(_("traceback"), null=True)  # noqa: DJ001
    created = models.BigIntegerField(_("created"), help_text=_("Microseconds since 1970, UTC."))
    finished = models.BigIntegerField(_("finished"), null=True, help_text=_("When it was done, dead or discarded."))
    payload = TrustedJSONField()

    objects: ClassVar[FlushingManager] = FlushingManager()

    class Meta:
        verbose_name = _("delivery")
        verbose_name_plural = _("deliveries")
        ordering = ("-id",)
        default_permissions = ("view", "change", "delete")
        indexes: ClassVar = [
            # Finished rows have null in the columns of the first two indexes. Not every backend has partial indexes.
            models.Index(fields=["next_check_at"], name="signalbox_delivery_next_check"),
            models.Index(fields=["partition_id", "lease_expires_at", "id"], name="signalbox_delivery_partition"),
            models.Index(fields=["state", "finished"], name="signalbox_delivery_state"),
            models.Index(fields=["trace_id"], name="signalbox_delivery_trace"),
        ]

    def __str__(self) -> str:
        return f"{self.receiver} for {self.signal} {self.sender} {self.object_key}".rstrip()

    @property
    def timestamp(self) -> dt.datetime:
        """When its event was written: aware, UTC."""
        return to_datetime(self.created)
