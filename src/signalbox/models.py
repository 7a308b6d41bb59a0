"""The tables of events, traces, deliveries, attempts, errors, workers and the state of purges.

They have no foreign keys: an event outlives its object.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _

from signalbox.core.attempt import AttemptOutcome
from signalbox.core.event import Outcome
from signalbox.core.fields import TrustedJSONField
from signalbox.pipeline import processors


def to_datetime(microseconds: int) -> dt.datetime:
    """Return ``microseconds`` since the epoch as an aware UTC datetime, exactly."""
    return dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=microseconds)


def utc_now() -> dt.datetime:
    """Return the moment as an aware datetime; ``timezone.now()`` is naive with ``USE_TZ = False``."""
    return dt.datetime.now(dt.UTC)


def to_microseconds(value: dt.datetime) -> int:
    """Return an aware datetime as microseconds since the epoch, exactly."""
    return (value - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)


class FlushingManager(models.Manager["Any"]):
    """Manager that includes the pending events of the open transaction."""

    def get_queryset(self) -> models.QuerySet[Any]:
        """Return the table's rows, including those of the open transaction."""
        processors.before_read()
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
    errors = models.PositiveSmallIntegerField(
        _("errors"), help_text=_("Exceptions that its receivers raised, or that it reports. Each is counted once.")
    )
    is_system = models.BooleanField(
        default=False, help_text=_("Whether it was written in the trace of a process or a test.")
    )
    data = TrustedJSONField()

    objects: ClassVar[FlushingManager] = FlushingManager()

    uncertain = False
    """In an object's history: whether the event may not concern the object, as its keys were not recorded."""

    current_names: Mapping[str, str] = MappingProxyType({})
    """In a many-to-many change: present names of objects without a recorded label, by key as text, if
    ``load_current_names()`` found them."""

    client_address = ""
    """The visitor's address, from the row of its trace, if ``load_client_addresses()`` found it."""

    class Meta:
        verbose_name = _("event")
        verbose_name_plural = _("events")
        ordering = ("-id",)
        default_permissions = ("view", "delete")
        permissions: ClassVar = [("export_event", "Can export events")]
        indexes: ClassVar = [
            models.Index(fields=["trace_id", "id"], name="signalbox_event_trace"),
            models.Index(fields=["sender", "object_key", "id"], name="signalbox_event_object"),
            models.Index(fields=["signal", "id"], name="signalbox_event_signal"),
            models.Index(fields=["actor_key", "id"], name="signalbox_event_actor"),
            models.Index(fields=["is_system", "id"], name="signalbox_event_system"),
        ]

    def __str__(self) -> str:
        return f"{self.signal} {self.sender} {self.object_label or self.object_key}".rstrip()

    @property
    def timestamp(self) -> dt.datetime:
        """When it was sent: aware, UTC."""
        return to_datetime(self.time)

    at = timestamp
    """The name of ``timestamp`` before version 0.2."""


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
        indexes: ClassVar = [models.Index(fields=["trace_id", "id"], name="signalbox_trace_trace")]

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    @property
    def timestamp(self) -> dt.datetime:
        """When it began: aware, UTC."""
        return to_datetime(self.time)

    at = timestamp
    """The name of ``timestamp`` before version 0.2."""


class Delivery(models.Model):
    """One durable receiver to run for one event. The row decides; a broker's message only wakes a worker."""

    PENDING = "pending"
    """To be run; running while its lease lasts."""
    DONE = "done"
    DEAD = "dead"
    """It used up its attempts."""
    DISCARDED = "discarded"
    """Discarded by an operator."""

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
    deferred_since = models.BigIntegerField(
        _("deferred since"),
        null=True,
        help_text=_("Since when no worker's code can run it. Empty if that was not found."),
    )
    attempts = models.PositiveIntegerField(_("attempts"), db_default=0)
    attempt_started = models.BigIntegerField(
        _("attempt started"), null=True, help_text=_("When the running attempt was counted. Empty if none is running.")
    )
    worker = models.CharField(
        _("worker"),
        max_length=128,
        db_default="",
        help_text=_("Host and process id of the last worker that leased it."),
    )
    chain_length = models.PositiveIntegerField(
        _("chain length"),
        db_default=1,
        help_text=_("Number of deliveries up to this one, each caused by the receiver of the one before."),
    )
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
            models.Index(fields=["trace_id", "id"], name="signalbox_delivery_trace"),
        ]

    def __str__(self) -> str:
        return f"{self.receiver} for {self.signal} {self.sender} {self.object_key}".rstrip()

    @property
    def timestamp(self) -> dt.datetime:
        """When its event was written: aware, UTC."""
        return to_datetime(self.created)

    at = timestamp
    """The name of ``timestamp`` before version 0.2."""


class Attempt(models.Model):
    """One call of a durable receiver for a delivery. Its row is written with its result.

    The row of an attempt whose worker wrote no result is written by the next one that leases the delivery.
    """

    id = models.BigAutoField(primary_key=True)
    delivery_id = models.BigIntegerField(_("delivery"))
    fencing_token = models.BigIntegerField(help_text=_("That of its lease. Each lease has at most one attempt."))
    number = models.PositiveIntegerField(_("number"), help_text=_("1 for the first, and after a retry by an operator."))
    started = models.BigIntegerField(_("started"), help_text=_("Microseconds since 1970, UTC, by the worker's clock."))
    ended = models.BigIntegerField(_("ended"), help_text=_("For a lost attempt: when its lease expired."))
    outcome = models.CharField(
        _("outcome"), max_length=10, choices=[(o.value, o.value.replace("_", " ")) for o in AttemptOutcome]
    )
    retry_at = models.BigIntegerField(
        _("retry at"), null=True, help_text=_("When the next attempt is due, if this one decided it.")
    )
    error = models.CharField(_("error"), max_length=600, db_default="")
    worker = models.CharField(_("worker"), max_length=128, db_default="", help_text=_("Its host and process id."))

    objects: ClassVar[models.Manager[Attempt]] = models.Manager()

    class Meta:
        verbose_name = _("attempt")
        verbose_name_plural = _("attempts")
        ordering = ("delivery_id", "fencing_token")
        default_permissions = ("view",)
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["delivery_id", "fencing_token"], name="signalbox_attempt_lease")
        ]

    def __str__(self) -> str:
        return f"attempt {self.number} of delivery {self.delivery_id}: {self.outcome.replace('_', ' ')}"


class Error(models.Model):
    """One exception that was raised. Its row is written with the event, trace or attempt that it is counted with."""

    id = models.BigAutoField(primary_key=True)
    trace_id = models.CharField(_("trace"), max_length=32)
    span = models.BigIntegerField(
        null=True, help_text=_("Key of the event within its trace. Empty if the exception ended the work itself.")
    )
    position = models.PositiveIntegerField(help_text=_("Position among the errors of its event, from 0."))
    delivery_id = models.BigIntegerField(_("delivery"), null=True, help_text=_("Empty if no durable receiver raised."))
    attempt = models.PositiveIntegerField(_("attempt"), null=True, help_text=_("Number of the delivery's attempt."))
    fingerprint = models.CharField(
        _("fingerprint"), max_length=32, help_text=_("The same for errors of one class, file, function and receiver.")
    )
    time = models.BigIntegerField(_("time"), help_text=_("Microseconds since 1970, UTC."))
    exception = models.CharField(_("exception"), max_length=200, help_text=_("Dotted name of its class."))
    message = models.CharField(_("message"), max_length=500)
    file = models.CharField(_("file"), max_length=300, help_text=_("That of the innermost frame of the project."))
    line = models.PositiveIntegerField(_("line"), null=True)
    function = models.CharField(_("function"), max_length=200)
    receiver = models.CharField(_("receiver"), max_length=200, help_text=_("Empty if no receiver raised."))
    data = TrustedJSONField()

    objects: ClassVar[FlushingManager] = FlushingManager()

    class Meta:
        verbose_name = _("error")
        verbose_name_plural = _("errors")
        ordering = ("-id",)
        default_permissions = ()
        indexes: ClassVar = [
            models.Index(fields=["fingerprint", "id"], name="signalbox_error_fingerprint"),
            models.Index(fields=["trace_id"], name="signalbox_error_trace"),
        ]

    def __str__(self) -> str:
        return f"{self.exception}: {self.message}" if self.message else self.exception

    @property
    def timestamp(self) -> dt.datetime:
        """When it was raised: aware, UTC."""
        return to_datetime(self.time)

    @property
    def place(self) -> str:
        """``file:line in function``; empty if it has no traceback."""
        return f"{self.file}:{self.line} in {self.function}" if self.file else ""


class ErrorState(models.Model):
    """What an operator decided about the errors with one fingerprint. Errors without a row are open."""

    RESOLVED = "resolved"
    """The defect was removed. An error that is raised later has regressed."""
    MUTED = "muted"
    """It is recorded, and neither listed nor coloured."""
    OPEN = "open"
    """It was reopened."""

    fingerprint = models.CharField(_("fingerprint"), max_length=32, primary_key=True)
    state = models.CharField(_("state"), max_length=8, choices=[(s, s) for s in (OPEN, RESOLVED, MUTED)])
    changed = models.BigIntegerField(_("changed"), help_text=_("Microseconds since 1970, UTC."))
    actor_key = models.CharField(max_length=64)
    actor_label = models.CharField(_("actor"), max_length=150)

    objects: ClassVar[models.Manager[ErrorState]] = models.Manager()

    class Meta:
        verbose_name = _("state of an error")
        verbose_name_plural = _("states of errors")
        default_permissions = ("change",)

    def __str__(self) -> str:
        return f"{self.fingerprint} {self.state}"

    @property
    def timestamp(self) -> dt.datetime:
        """When it was changed: aware, UTC."""
        return to_datetime(self.changed)


class PurgeState(models.Model):
    """What a purge has to remember: rows for rules, for senders with deleted events, and for times of purges."""

    name = models.CharField(max_length=220, primary_key=True)
    fingerprint = models.CharField(max_length=64, default="", help_text=_("Digest of the rules of the scan."))
    position = models.BigIntegerField(default=0, help_text=_("Rows up to this id are not scanned again."))
    scanned_to = models.BigIntegerField(default=0, help_text=_("Where an interrupted scan continues."))
    is_full_scan = models.BooleanField(default=False)
    full_scan_at = models.BigIntegerField(
        default=0, help_text=_("Microseconds since 1970, UTC: when the table was last scanned from the beginning.")
    )
    horizon = models.BigIntegerField(
        default=0, help_text=_("Microseconds since 1970, UTC: earlier events of the sender may have been deleted.")
    )
    run_at = models.BigIntegerField(
        default=0,
        help_text=_("Microseconds since 1970, UTC: of the next purge by workers, or the last purge."),
    )

    class Meta:
        verbose_name = _("state of purges")
        verbose_name_plural = _("states of purges")
        default_permissions = ()

    def __str__(self) -> str:
        return self.name


class Worker(models.Model):
    """A process of ``manage.py signalbox work``. It has a row in each database whose deliveries it runs."""

    id = models.CharField(primary_key=True, max_length=32)
    host = models.CharField(_("host"), max_length=200)
    pid = models.BigIntegerField(_("process id"))
    version = models.CharField(_("version"), max_length=32, help_text=_("Version of Signalbox."))
    queues = models.CharField(
        _("queues"), max_length=600, help_text=_("Queues that it processes, separated by commas. Empty for all.")
    )
    threads = models.PositiveIntegerField(
        _("threads"), help_text=_("Deliveries that it runs at the same time. 0 if it only sends messages to a broker.")
    )
    started = models.BigIntegerField(
        _("started"), help_text=_("Microseconds since 1970, UTC, of the clock of the database.")
    )
    heartbeat = models.BigIntegerField(_("heartbeat"), help_text=_("When it last updated the row, by the same clock."))

    class Meta:
        verbose_name = _("worker")
        verbose_name_plural = _("workers")
        ordering = ("host", "pid")
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.host} {self.pid}"
