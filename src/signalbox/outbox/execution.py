"""One attempt: the arguments made again as Django gives them, the receiver called, the outcome judged."""

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
from signalbox.core.tracing import Trace
from signalbox.models import Event
from signalbox.outbox import registry, serializer
from signalbox.outbox.queue import DONE, Claimed, Result, Verdict
from signalbox.pipeline import backends, exporter
from signalbox.serialization import encoder

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.models import Model

    from signalbox.outbox.registry import Durable

logger = logging.getLogger("signalbox")

DEFERRED_PAUSE: Final = 30.0
"""Seconds until a delivery is looked at again whose receiver this version of the code does not have."""

GRACE: Final = 10.0
"""Seconds that a receiver is given to end after its timeout, before its process is given up."""

LONGEST_TRACEBACK: Final = 8_000
"""Characters of a failed attempt's traceback that are kept."""

MOST_CAUSES: Final = 5
"""Exceptions of a chain that are told."""

DIED: Final = "The worker died in each attempt, or lost its lease, and wrote nothing."


class Deferred(Exception):
    """This process can't run the delivery; another, or a later one, can."""


class TimedOut(BaseException):
    """The receiver takes longer than its timeout. No ``Exception``: receivers catch those."""


@dataclass(frozen=True, kw_only=True)
class Delivering:
    """What a durable receiver is told of its delivery, as the argument ``delivery``."""

    id: int
    """The same at each attempt: the idempotency key. Unique within one database."""
    attempt: int
    """1 for the first."""
    key: str
    """What it is ordered by."""
    trace_id: str
    """The trace in which the event happened."""
    span: int
    """The event's key within its trace."""
    alias: str
    """The database that holds the delivery and its event."""
    created: int
    """When the event was written: microseconds since the epoch."""

    @cached_property
    def event(self) -> Event | None:
        """The event, with its changes, actor and receivers; ``None`` if it was purged."""
        found: Event | None = (
            Event.objects.using(self.alias).filter(trace_id=self.trace_id, span=self.span).order_by("id").first()
        )
        return found


# ------------------------------------------------------------------ arguments


def durable_of(claimed: Claimed) -> Durable:
    """Return the receiver of a delivery, importing its module if nobody has.

    Raises ``Deferred`` if this version of the code doesn't have it.
    """
    durable = registry.named(claimed.receiver, claimed.signal, claimed.sender)
    if durable is not None:
        return durable
    parts = claimed.receiver.split(".")
    reason = "it is not registered as a durable receiver here"
    for end in range(len(parts) - 1, 0, -1):
        try:
            import_module(".".join(parts[:end]))
            break
        except Exception as error:  # noqa: BLE001 - a module may raise anything; whatever it is, it may be deployed anew
            reason = f"{'.'.join(parts[:end])} can't be imported: {error!r}"
    durable = registry.named(claimed.receiver, claimed.signal, claimed.sender)
    if durable is None:
        raise Deferred(f"{claimed.receiver} waits: {reason}")
    return durable


def arguments(claimed: Claimed, durable: Durable) -> dict[str, Any]:
    """Return the keyword arguments of a delivery's receiver.

    An object that the receiver does not name, and that falls into its ``**kwargs``, is loaded when it is first looked
    at. Raises ``Deferred`` where a model or signal is unknown to this version of the code.
    """
    try:
        signal = registry.signal_named(claimed.signal)
        named = {"signal": signal, "sender": _sender(claimed), **_named(claimed)}
    except (LookupError, ImportError) as error:
        raise Deferred(f"{claimed.receiver} waits: {error}") from error
    load = named.get("instance")
    if type(load) is partial:
        named["instance"] = load() if "instance" in durable.named else SimpleLazyObject(load)
    return named


def _sender(claimed: Claimed) -> Any:
    entry = catalog.BUILTIN.get(claimed.signal)
    if entry is not None and entry.group in ("model", "bulk"):
        return apps.get_model(claimed.sender)
    if not claimed.sender:
        return None
    try:
        return serializer.class_named(claimed.sender)
    except (LookupError, ImportError):
        return claimed.sender  # a module's or an app's name, or a text


def _named(claimed: Claimed) -> dict[str, Any]:
    payload = claimed.payload
    packed = payload.get("packed")
    if packed is not None:
        return {name: serializer.unpack(value) for name, value in packed.items()}
    args = dict(payload.get("args") or {})
    using = claimed.database
    match claimed.signal:
        case "post_save":
            fields = args.get("update_fields")
            return {
                "instance": partial(instance_of, claimed, claimed.sender, payload.get("row")),
                "created": bool(args.get("created")),
                "raw": bool(args.get("raw")),
                "update_fields": None if fields is None else frozenset(fields),
                "using": using,
            }
        case "post_delete":
            instance = gone(claimed, payload.get("row") or {})
            return {"instance": instance, "using": using, "origin": args.get("origin", instance)}
        case "m2m_changed":
            model = apps.get_model(args["model"])
            keys = args.get("pk_set") or args.get("added") or args.get("removed")
            known = isinstance(keys, list)
            return {
                "instance": instance_of(claimed, args["object"], None)
                if claimed.object_key
                else apps.get_model(args["object"]),
                "action": args["action"],
                "reverse": bool(args.get("reverse")),
                "model": model,
                "pk_set": {model._meta.pk.to_python(key) for key in keys or ()}
                if known and args["action"] != "post_clear"
                else None,
                "using": using,
            }
        case "bulk_create" | "bulk_update" | "update" | "bulk_delete":
            if not claimed.object_key:
                return {**args, "using": using}
            # Under BULK = "rows" each row is an event of its own.
            return {
                **args,
                "using": using,
                "instance": partial(instance_of, claimed, claimed.sender, payload.get("row")),
            }
    return {name: _recorded(value) for name, value in args.items()}


def _recorded(value: Any) -> Any:
    """Return an argument as the register keeps it, with objects loaded: of an event that is replayed."""
    if isinstance(value, dict) and value.keys() == {"model", "pk"} and isinstance(value["model"], str):
        return serializer.load(value["model"], value["pk"], registry.home())
    return value


def instance_of(claimed: Claimed, label: str, row: dict[str, Any] | None) -> Model:
    """Return the object as it is now; if it is gone, as the event recorded it, unsaved."""
    model: type[Model] = apps.get_model(label)
    key = _primary_key(claimed, model, row)
    try:
        return QuerySet(model, using=claimed.database).get(pk=key)
    except ObjectDoesNotExist:
        return _rebuilt(claimed, model, row or {})


def gone(claimed: Claimed, row: dict[str, Any]) -> Model:
    """Return a deleted object as it was recorded, unsaved."""
    return _rebuilt(claimed, apps.get_model(claimed.sender), row)


def _primary_key(claimed: Claimed, model: type[Model], row: dict[str, Any] | None) -> Any:
    fields = model._meta.pk_fields
    if row is not None and all(field.name in row for field in fields):
        values = [row[field.name] for field in fields]  # exact, where the event's key may be shortened
    elif len(fields) > 1:
        values = json.loads(claimed.object_key)
    else:
        values = [claimed.object_key]
    values = [field.to_python(value) for field, value in zip(fields, values, strict=True)]
    return tuple(values) if len(fields) > 1 else values[0]


def _rebuilt(claimed: Claimed, model: type[Model], row: dict[str, Any]) -> Model:
    values = {}
    for one in model._meta.concrete_fields:
        if one.name in row:
            try:
                values[one.attname] = one.to_python(row[one.name])
            except ValidationError:  # the field has changed since
                continue
    if claimed.object_key and not any(one.attname in values for one in model._meta.pk_fields):
        key = _primary_key(claimed, model, None)
        keys = key if isinstance(key, tuple) else (key,)
        values |= {one.attname: value for one, value in zip(model._meta.pk_fields, keys, strict=True)}
    return serializer.unsaved(model, values, claimed.database)


# ------------------------------------------------------------------ the attempt


@dataclass(kw_only=True, slots=True)
class Attempt:
    """A receiver that is running, as who watches over it sees it."""

    claimed: Claimed
    timeout: float | None
    thread: int
    asynchronous: bool = False
    """Whether its loop ends it, in another thread: it is not interrupted, and given up all the same."""
    began: float = field(default_factory=time.monotonic)
    over: bool = False
    interrupted: bool = False
    """Whether ``TimedOut`` is on its way to it."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def late(self) -> float:
        """Return the seconds by which it exceeds its timeout; negative or 0 while it does not."""
        return 0.0 if self.timeout is None else time.monotonic() - self.began - self.timeout

    def interrupt(self) -> None:
        """Raise ``TimedOut`` in the receiver, as soon as Python code runs in it."""
        with self.lock:
            if not (self.over or self.interrupted or self.asynchronous):
                self.interrupted = True
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.thread), ctypes.py_object(TimedOut))

    def end(self) -> None:
        """The receiver has returned: nothing is raised in it any more."""
        with self.lock:
            self.over = True
        if self.interrupted:  # it may be on its way still: let it arrive here, and nowhere else
            deadline = time.monotonic() + 1
            while time.monotonic() < deadline:
                time.sleep(0.001)


class Watch:
    """The attempts that are under way in this process."""

    def __init__(self) -> None:
        self.attempts: dict[int, Attempt] = {}

    @contextmanager
    def over(self, claimed: Claimed, timeout: float | None, *, asynchronous: bool) -> Iterator[None]:
        """Watch over the block, which is the call of the receiver."""
        me = threading.get_ident()
        attempt = self.attempts[me] = Attempt(claimed=claimed, timeout=timeout, thread=me, asynchronous=asynchronous)
        try:
            try:
                yield
            except TimedOut:
                attempt.interrupted = False
                raise
            finally:
                attempt.end()
        finally:
            self.attempts.pop(me, None)


def attempt(claimed: Claimed, watch: Watch | None = None) -> Result:
    """Run the receiver of ``claimed`` and return what became of it.

    Whatever it raises is its failure, ``SystemExit`` too. Only Ctrl-C leaves here, which the main thread alone gets.
    """
    try:
        durable = durable_of(claimed)
    except Deferred as error:
        return _deferred(claimed, error)
    if claimed.attempts > durable.retries + 1:  # counted before each, and none has said what became of it
        return replace(failed(claimed, durable, DIED), tried=False)
    others = {connection for connection in connections.all(initialized_only=True) if _in_transaction(connection)}
    try:
        call(claimed, durable, watch)
    except Deferred as error:
        return _deferred(claimed, error)
    except TimedOut:
        for connection in connections.all(initialized_only=True):  # it may have been in the middle of a statement
            if connection not in others:
                _throw_away(connection)
        return failed(claimed, durable, f"TimedOut: it took longer than its timeout of {durable.timeout:g} seconds")
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            raise
        text, told = encoder.exception_text(error, redactor=registry.redactor()), _told(error)
        logger.warning("%s failed (attempt %d).\n%s", claimed.receiver, claimed.attempts, told)
        return failed(claimed, durable, text, told)
    finally:
        _tidy(others)
    return DONE


def call(claimed: Claimed, durable: Durable, watch: Watch | None = None) -> None:
    """Call the receiver; what it raises leaves here.

    What happens in it belongs to the trace of its event, and tells it as its origin.
    """
    named = arguments(claimed, durable)
    named["delivery"] = Delivering(
        id=claimed.id,
        attempt=claimed.attempts,
        key=claimed.key,
        trace_id=claimed.trace_id,
        span=claimed.span,
        alias=claimed.alias,
        created=claimed.created,
    )
    asynchronous = iscoroutinefunction(durable.receiver)
    target = async_to_sync(partial(_limited, durable)) if asynchronous else durable.receiver
    watch = watch or Watch()
    with _traced(claimed), watch.over(claimed, durable.timeout, asynchronous=asynchronous):
        target(**named)


async def _limited(durable: Durable, **named: Any) -> None:
    """Await an asynchronous receiver no longer than it may take: its loop runs in a thread that nobody interrupts.

    One that blocks its loop, or swallows the cancellation, is left to who watches over it.
    """
    try:
        async with asyncio.timeout(durable.timeout) as limit:
            await durable.receiver(**named)
    except TimeoutError:
        if limit.expired():
            raise TimedOut from None
        raise


@contextmanager
def _traced(claimed: Claimed) -> Iterator[None]:
    trace = Trace("task", claimed.receiver, trace_id=claimed.trace_id)
    trace.data = {"delivery": claimed.id, "attempt": claimed.attempts, "span": claimed.span}
    tracing.enter(trace)
    token = tracing.running.set(claimed.span)
    status = "failed"
    try:
        yield
        status = "ok"
    finally:
        tracing.running.reset(token)
        tracing.leave(trace)
        trace.counts = {}  # what it loaded is no news; a trace without events leaves no row
        exporter.end(trace, status)


def _in_transaction(connection: BaseDatabaseWrapper) -> bool:
    if connection.connection is None:
        return False
    if connection.in_atomic_block or not connection.autocommit:
        return True
    # A BEGIN of the receiver's own, of which Django knows nothing; MySQL's drivers neither.
    if connection.vendor == "postgresql":
        return not backends.ended(connection)
    try:
        return connection.vendor == "sqlite" and backends.begun(connection)
    except Error:  # it is closed
        return False


def _tidy(others: Collection[BaseDatabaseWrapper]) -> None:
    """Leave no connection behind in a transaction or broken, whatever the receiver did with it.

    ``others`` were in somebody's transaction before the receiver was called: that is theirs.
    """
    for connection in connections.all(initialized_only=True):
        if connection.connection is None or connection in others:
            continue
        if _in_transaction(connection) or connection.errors_occurred:
            _throw_away(connection)


def _throw_away(connection: BaseDatabaseWrapper) -> None:
    """Close a connection and forget what its wrapper thinks of it: the next use makes a new one."""
    try:
        connection.close()
    finally:
        del connections[connection.alias]


def failed(claimed: Claimed, durable: Durable, error: str, traceback: str | None = None) -> Result:
    """Return what a failed attempt leads to: the next one, or a dead letter."""
    if claimed.attempts <= durable.retries:
        pause = durable.pause(claimed.attempts)
        return Result(verdict=Verdict.RETRY, error=error, traceback=traceback, pause=pause)
    logger.error("%s for %s %s is a dead letter: %s", claimed.receiver, claimed.sender, claimed.object_key, error)
    return Result(verdict=Verdict.DEAD, error=error, traceback=traceback, skip=durable.on_dead == "skip")


def _told(error: BaseException) -> str:
    """Return where ``error`` was raised and what led to it, the cause first, without secrets; the end if it is long."""
    redactor = registry.redactor()
    told: list[str] = []
    found: BaseException | None = error
    while found is not None and len(told) < MOST_CAUSES:
        places = "".join(format_tb(found.__traceback__))
        told.insert(0, redactor.text(places) + encoder.exception_text(found, redactor=redactor))
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)
    text = encoder.clean("\n\n".join(told))
    return text if len(text) <= LONGEST_TRACEBACK else "…" + text[-LONGEST_TRACEBACK:]


def _deferred(claimed: Claimed, error: Deferred) -> Result:
    text = registry.redactor().text(encoder.clean(str(error)))[:500]
    logger.warning("Delivery %d is put off: %s", claimed.id, text)
    return Result(verdict=Verdict.DEFERRED, error=text, pause=DEFERRED_PAUSE, tried=False)
