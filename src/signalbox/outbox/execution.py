"""Execute one attempt of a delivery: rebuild the arguments, call the receiver, and return the result."""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from importlib import import_module
from traceback import format_tb
from typing import TYPE_CHECKING, Any, Final

from asgiref.sync import async_to_sync, iscoroutinefunction
from django.apps import apps
from django.core.exceptions import ObjectDoesNotExist, ValidationError
from django.db import Error, connections
from django.db.models import QuerySet
from django.utils.functional import SimpleLazyObject

from signalbox.core import catalog, tracing
from signalbox.core.text import sanitize_text
from signalbox.core.tracing import Trace
from signalbox.models import Event
from signalbox.outbox import queue, registry, serializer
from signalbox.outbox.queue import SUCCEEDED, AttemptResult, Disposition, LeasedDelivery
from signalbox.pipeline import backends, exporter
from signalbox.serialization import encoder
from signalbox.serialization.configured_redactor import get_redactor

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.models import Model

    from signalbox.outbox.registry import DurableReceiver

logger = logging.getLogger("signalbox")

DEFERRED_RETRY_SECONDS: Final = 30.0
"""Seconds until a delivery is tried again whose receiver this version of the code does not have."""

TIMEOUT_GRACE_SECONDS: Final = 10.0
"""Seconds that a receiver has to end after its timeout, before its process is abandoned."""

MAX_TRACEBACK_CHARS: Final = 8_000
"""Maximum length of a stored traceback."""

MAX_CHAINED_EXCEPTIONS: Final = 5
"""Maximum number of exceptions of a chain in a stored traceback."""

WORKER_LOST_ERROR: Final = "The worker died in each attempt, or lost its lease, and wrote nothing."


class NotRunnableHere(Exception):
    """This process can't run the delivery. A process with another version of the code may."""


class TimeLimitExceeded(BaseException):
    """The receiver takes longer than its timeout. Not an ``Exception``, because receivers catch those."""


@dataclass(frozen=True, kw_only=True)
class DeliveryContext:
    """The argument ``delivery`` of a durable receiver."""

    id: int
    """The idempotency key: the same in each attempt, and unique within one database."""
    attempt: int
    """1 for the first."""
    key: str
    """The ordering key."""
    trace_id: str
    """The trace in which the event happened."""
    span: int
    """The event's key within its trace."""
    alias: str
    """The database that holds the delivery and its event."""
    created: int
    """When the event was written, in microseconds since 1970."""

    @cached_property
    def event(self) -> Event | None:
        """The event, with its changes, actor and receivers; ``None`` if it was purged."""
        events = Event.objects.using(self.alias).filter(trace_id=self.trace_id, span=self.span)
        event: Event | None = events.order_by("id").first()
        return event


# ------------------------------------------------------------------ arguments


def load_receiver(delivery: LeasedDelivery) -> DurableReceiver:
    """Return the receiver of a delivery, after importing its module if necessary.

    Raises ``NotRunnableHere`` if this version of the code does not have it.
    """
    durable = registry.find_durable_receiver(delivery.receiver, delivery.signal, delivery.sender)
    if durable is not None:
        return durable
    parts = delivery.receiver.split(".")
    reason = "it is not registered as a durable receiver here"
    for end in range(len(parts) - 1, 0, -1):
        try:
            import_module(".".join(parts[:end]))
            break
        except Exception as error:  # noqa: BLE001 - a module may raise any error, and another version may not
            reason = f"{'.'.join(parts[:end])} can't be imported: {error!r}"
    durable = registry.find_durable_receiver(delivery.receiver, delivery.signal, delivery.sender)
    if durable is None:
        raise NotRunnableHere(f"{delivery.receiver} waits: {reason}")
    return durable


def build_arguments(delivery: LeasedDelivery, durable: DurableReceiver) -> dict[str, Any]:
    """Return the keyword arguments of a delivery's receiver.

    An instance that the receiver takes only through ``**kwargs`` is loaded lazily. Raises ``NotRunnableHere`` if this
    version of the code does not have the model or the signal.
    """
    try:
        signal = registry.get_signal(delivery.signal)
        arguments = {"signal": signal, "sender": _load_sender(delivery), **_build_signal_arguments(delivery)}
    except (LookupError, ImportError) as error:
        raise NotRunnableHere(f"{delivery.receiver} waits: {error}") from error
    load = arguments.get("instance")
    if type(load) is partial:
        arguments["instance"] = load() if "instance" in durable.parameter_names else SimpleLazyObject(load)
    return arguments


def _load_sender(delivery: LeasedDelivery) -> Any:
    entry = catalog.BUILTIN_SIGNALS.get(delivery.signal)
    if entry is not None and entry.group in ("model", "bulk"):
        return apps.get_model(delivery.sender)
    if not delivery.sender:
        return None
    try:
        return serializer.import_class(delivery.sender)
    except (LookupError, ImportError):
        return delivery.sender  # the name of a module or an app, or any other text


def _build_signal_arguments(delivery: LeasedDelivery) -> dict[str, Any]:
    payload = delivery.payload
    serialized = payload.get("serialized")
    if serialized is not None:
        return {name: serializer.deserialize(value) for name, value in serialized.items()}
    args = dict(payload.get("args") or {})
    using = delivery.database
    match delivery.signal:
        case "post_save":
            fields = args.get("update_fields")
            return {
                "instance": partial(load_current_instance, delivery, delivery.sender, payload.get("row")),
                "created": bool(args.get("created")),
                "raw": bool(args.get("raw")),
                "update_fields": None if fields is None else frozenset(fields),
                "using": using,
            }
        case "post_delete":
            instance = rebuild_deleted(delivery, payload.get("row") or {})
            return {"instance": instance, "using": using, "origin": args.get("origin", instance)}
        case "m2m_changed":
            model = apps.get_model(args["model"])
            keys = args.get("pk_set") or args.get("added") or args.get("removed")
            has_keys = isinstance(keys, list)
            return {
                "instance": load_current_instance(delivery, args["object"], None)
                if delivery.object_key
                else apps.get_model(args["object"]),
                "action": args["action"],
                "reverse": bool(args.get("reverse")),
                "model": model,
                "pk_set": {model._meta.pk.to_python(key) for key in keys or ()}
                if has_keys and args["action"] != "post_clear"
                else None,
                "using": using,
            }
        case "bulk_create" | "bulk_update" | "update" | "bulk_delete":
            if not delivery.object_key:
                return {**args, "using": using}
            # With BULK = "rows" each row has its own event.
            return {
                **args,
                "using": using,
                "instance": partial(load_current_instance, delivery, delivery.sender, payload.get("row")),
            }
    return {name: _load_recorded_value(value) for name, value in args.items()}


def _load_recorded_value(value: Any) -> Any:
    """Return an argument of a replayed event as it was recorded, with the object loaded if it is one."""
    if isinstance(value, dict) and value.keys() == {"model", "pk"} and isinstance(value["model"], str):
        return serializer.load_instance(value["model"], value["pk"], queue.get_deliveries_database())
    return value


def load_current_instance(delivery: LeasedDelivery, label: str, row: dict[str, Any] | None) -> Model:
    """Return the object from the database. If it was deleted, return an unsaved one with the recorded values."""
    model: type[Model] = apps.get_model(label)
    key = _parse_primary_key(delivery, model, row)
    try:
        return QuerySet(model, using=delivery.database).get(pk=key)
    except ObjectDoesNotExist:
        return _rebuild_instance(delivery, model, row or {})


def rebuild_deleted(delivery: LeasedDelivery, row: dict[str, Any]) -> Model:
    """Return an unsaved object with the recorded values of a deleted one."""
    return _rebuild_instance(delivery, apps.get_model(delivery.sender), row)


def _parse_primary_key(delivery: LeasedDelivery, model: type[Model], row: dict[str, Any] | None) -> Any:
    fields = model._meta.pk_fields
    if row is not None and all(field.name in row for field in fields):
        values = [row[field.name] for field in fields]  # exact, while the event's key may be truncated
    elif len(fields) > 1:
        values = json.loads(delivery.object_key)
    else:
        values = [delivery.object_key]
    values = [field.to_python(value) for field, value in zip(fields, values, strict=True)]
    return tuple(values) if len(fields) > 1 else values[0]


def _rebuild_instance(delivery: LeasedDelivery, model: type[Model], row: dict[str, Any]) -> Model:
    values = {}
    for model_field in model._meta.concrete_fields:
        if model_field.name in row:
            try:
                values[model_field.attname] = model_field.to_python(row[model_field.name])
            except ValidationError:  # the field has changed since
                continue
    if delivery.object_key and not any(field.attname in values for field in model._meta.pk_fields):
        key = _parse_primary_key(delivery, model, None)
        keys = key if isinstance(key, tuple) else (key,)
        values |= {field.attname: value for field, value in zip(model._meta.pk_fields, keys, strict=True)}
    return serializer.build_unsaved_instance(model, values, delivery.database)


# ------------------------------------------------------------------ the attempt


@dataclass(kw_only=True, slots=True)
class RunningAttempt:
    """A running receiver, as the watchdog sees it."""

    delivery: LeasedDelivery
    timeout: float | None
    thread_id: int
    is_async: bool = False
    """Whether the event loop cancels it at its timeout. It is not interrupted, but abandoned like others."""
    started_at: float = field(default_factory=time.monotonic)
    finished: bool = False
    interrupted: bool = False
    """Whether ``TimeLimitExceeded`` has been scheduled in its thread."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def get_overrun_seconds(self) -> float:
        """Return the seconds by which it exceeds its timeout; negative or 0 while it does not."""
        return 0.0 if self.timeout is None else time.monotonic() - self.started_at - self.timeout

    def interrupt(self) -> None:
        """Raise ``TimeLimitExceeded`` in the receiver, as soon as it executes Python code."""
        with self.lock:
            if not (self.finished or self.interrupted or self.is_async):
                self.interrupted = True
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self.thread_id), ctypes.py_object(TimeLimitExceeded)
                )

    def finish(self) -> None:
        """Record that the receiver has returned, so that it is not interrupted any more."""
        with self.lock:
            self.finished = True
        if self.interrupted:  # the exception may still be pending: wait until it is raised here
            deadline = time.monotonic() + 1
            while time.monotonic() < deadline:
                time.sleep(0.001)


class Watchdog:
    """The running attempts of this process."""

    def __init__(self) -> None:
        self.attempts: dict[int, RunningAttempt] = {}

    @contextmanager
    def watching(self, delivery: LeasedDelivery, timeout: float | None, *, is_async: bool) -> Iterator[None]:
        """Register the call of the receiver in the block as a running attempt."""
        thread_id = threading.get_ident()
        attempt = self.attempts[thread_id] = RunningAttempt(
            delivery=delivery, timeout=timeout, thread_id=thread_id, is_async=is_async
        )
        try:
            try:
                yield
            except TimeLimitExceeded:
                attempt.interrupted = False
                raise
            finally:
                attempt.finish()
        finally:
            self.attempts.pop(thread_id, None)


def execute(delivery: LeasedDelivery, watchdog: Watchdog | None = None) -> AttemptResult:
    """Run the receiver of ``delivery`` and return the result.

    Any exception of the receiver is a failed attempt, even ``SystemExit``. Only ``KeyboardInterrupt`` in the main
    thread is raised.
    """
    try:
        durable = load_receiver(delivery)
    except NotRunnableHere as error:
        return _build_deferred_result(delivery, error)
    if delivery.attempts > durable.retries + 1:  # each attempt was counted at its start, and none wrote a result
        return replace(build_failure_result(delivery, durable, WORKER_LOST_ERROR), receiver_called=False)
    excluded = {connection for connection in connections.all(initialized_only=True) if _is_in_transaction(connection)}
    try:
        call_receiver(delivery, durable, watchdog)
    except NotRunnableHere as error:
        return _build_deferred_result(delivery, error)
    except TimeLimitExceeded:
        for connection in connections.all(initialized_only=True):  # it may have been in the middle of a statement
            if connection not in excluded:
                _discard_connection(connection)
        return build_failure_result(
            delivery, durable, f"TimeLimitExceeded: it took longer than its timeout of {durable.timeout:g} seconds"
        )
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            raise
        text, traceback = encoder.format_exception(error, redactor=get_redactor()), _format_traceback(error)
        logger.warning("%s failed (attempt %d).\n%s", delivery.receiver, delivery.attempts, traceback)
        return build_failure_result(delivery, durable, text, traceback)
    finally:
        _reset_connections(excluded)
    return SUCCEEDED


def call_receiver(delivery: LeasedDelivery, durable: DurableReceiver, watchdog: Watchdog | None = None) -> None:
    """Call the receiver. Its exceptions are raised.

    Events that it causes belong to the trace of the delivery's event and have that event as their parent.
    """
    kwargs = build_arguments(delivery, durable)
    kwargs["delivery"] = DeliveryContext(
        id=delivery.id,
        attempt=delivery.attempts,
        key=delivery.ordering_key,
        trace_id=delivery.trace_id,
        span=delivery.span,
        alias=delivery.alias,
        created=delivery.created,
    )
    is_async = iscoroutinefunction(durable.function)
    target = async_to_sync(partial(_await_with_timeout, durable)) if is_async else durable.function
    watchdog = watchdog or Watchdog()
    with _trace_attempt(delivery), watchdog.watching(delivery, durable.timeout, is_async=is_async):
        target(**kwargs)


async def _await_with_timeout(durable: DurableReceiver, **kwargs: Any) -> None:
    """Await an asynchronous receiver until its timeout. Its event loop runs in a thread that is not interrupted.

    The watchdog's owner handles a receiver that blocks its loop or ignores the cancellation.
    """
    try:
        async with asyncio.timeout(durable.timeout) as limit:
            await durable.function(**kwargs)
    except TimeoutError:
        if limit.expired():
            raise TimeLimitExceeded from None
        raise


@contextmanager
def _trace_attempt(delivery: LeasedDelivery) -> Iterator[None]:
    trace = Trace("task", delivery.receiver, trace_id=delivery.trace_id)
    trace.data = {"delivery": delivery.id, "attempt": delivery.attempts, "span": delivery.span}
    tracing.activate(trace)
    token = tracing.running_span.set(delivery.span)
    status = "failed"
    try:
        yield
        status = "ok"
    finally:
        tracing.running_span.reset(token)
        tracing.deactivate(trace)
        trace.init_counts = {}  # loaded instances are not recorded, and a trace without events has no row
        exporter.finish_trace(trace, status)


def _is_in_transaction(connection: BaseDatabaseWrapper) -> bool:
    if connection.connection is None:
        return False
    try:
        with connection.wrap_database_errors:
            # The receiver may have executed BEGIN itself, which Django does not notice.
            return backends.in_transaction(connection) or backends.has_foreign_transaction(connection)
    except Error:  # it is closed
        return False


def _reset_connections(excluded: Collection[BaseDatabaseWrapper]) -> None:
    """Discard connections that the receiver has left broken or in a transaction.

    ``excluded`` were in a transaction of the caller before the receiver was called.
    """
    for connection in connections.all(initialized_only=True):
        if connection.connection is None or connection in excluded:
            continue
        if _is_in_transaction(connection) or connection.errors_occurred:
            _discard_connection(connection)


def _discard_connection(connection: BaseDatabaseWrapper) -> None:
    """Close a connection and remove its wrapper, so that the next use creates another."""
    try:
        connection.close()
    except Error:  # MySQL's driver raises if the receiver has closed it already
        connection.connection = None
    finally:
        del connections[connection.alias]


def build_failure_result(
    delivery: LeasedDelivery, durable: DurableReceiver, error: str, traceback: str | None = None
) -> AttemptResult:
    """Return the result of a failed attempt: a retry, or a dead letter."""
    if delivery.attempts <= durable.retries:
        delay = durable.get_retry_delay(delivery.attempts)
        return AttemptResult(disposition=Disposition.RETRY, error=error, traceback=traceback, retry_delay=delay)
    logger.error("%s for %s %s is a dead letter: %s", delivery.receiver, delivery.sender, delivery.object_key, error)
    return AttemptResult(
        disposition=Disposition.DEAD, error=error, traceback=traceback, releases_partition=durable.on_dead == "skip"
    )


def _format_traceback(error: BaseException) -> str:
    """Return the redacted traceback of ``error`` and its causes, the first cause first, truncated at the start."""
    redactor = get_redactor()
    parts: list[str] = []
    current: BaseException | None = error
    while current is not None and len(parts) < MAX_CHAINED_EXCEPTIONS:
        frames = "".join(format_tb(current.__traceback__))
        parts.insert(0, redactor.redact_text(frames) + encoder.format_exception(current, redactor=redactor))
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    text = sanitize_text("\n\n".join(parts))
    return text if len(text) <= MAX_TRACEBACK_CHARS else "…" + text[-MAX_TRACEBACK_CHARS:]


def _build_deferred_result(delivery: LeasedDelivery, error: NotRunnableHere) -> AttemptResult:
    text = get_redactor().redact_text(sanitize_text(str(error)))[:500]
    logger.warning("Delivery %d is deferred: %s", delivery.id, text)
    return AttemptResult(
        disposition=Disposition.DEFERRED, error=text, retry_delay=DEFERRED_RETRY_SECONDS, receiver_called=False
    )
