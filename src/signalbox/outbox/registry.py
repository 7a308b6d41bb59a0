"""``signalbox.receiver``: which receivers are durable, and the deliveries that an event makes of them.

A durable receiver is not connected to its signal: a connected one would cost every send, and is not needed, as the
register sees the send anyway. It is found by its dotted name, in this process and in the worker's.
"""

from __future__ import annotations

import inspect
import logging
import math
import random
import sys
import weakref
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict, TypeVar, Unpack

from asgiref.sync import async_to_sync, iscoroutinefunction
from django.apps import apps
from django.db import DatabaseError, router, transaction
from django.db.models import Model
from django.db.models.signals import ModelSignal
from django.dispatch import Signal
from django.utils.module_loading import import_string

from signalbox import conf
from signalbox.core import catalog, naming, tracing
from signalbox.core.event import UNKNOWN, Outcome, PendingEvent
from signalbox.core.receivers import make_id
from signalbox.outbox import ordering, serializer
from signalbox.pipeline import batches, writer
from signalbox.serialization import encoder
from signalbox.serialization.diff import is_expression
from signalbox.serialization.redaction import REDACTED, Redactor, redact

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    from signalbox.serialization.diff import RowChange

logger = logging.getLogger("signalbox")

ReceiverT = TypeVar("ReceiverT", bound=Callable[..., Any])
SenderSpec = Any
"""A model or other class, ``"app.Model"``, or ``None`` for any."""

DEFAULT_BACKOFF_SECONDS: Final = 10.0
"""Seconds until the first retry."""
MAX_BACKOFF_SECONDS: Final = 3600.0
"""Seconds that a retry waits at most."""
MAX_CUSTOM_BACKOFF_SECONDS: Final = 10 * 366 * 86_400.0
"""Seconds that it waits at most where a function tells it: a column, and a date, takes any such time."""


class CannotBeDurable(TypeError):
    """This receiver cannot be durable."""


class EnqueueError(DatabaseError):
    """The deliveries of an event could not be written."""


USER_ERRORS: Final = (CannotBeDurable, EnqueueError, ordering.OrderingKeyError)
"""What leaves a ``send()``: a delivery must not be lost in silence."""


class DurableOptions(TypedDict, total=False):
    """What ``durable=True`` can be told."""

    retries: int
    backoff: float | Callable[[int], float]
    key: str | Callable[[Mapping[str, Any]], object] | None
    timeout: float | None
    on_dead: Literal["block", "skip"]
    queue: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DurableReceiver:
    """A durable receiver and how to run it."""

    name: str
    """Its dotted name, by which a worker finds it."""
    function: Callable[..., Any]
    parameter_names: frozenset[str]
    """The arguments it names; the others fall into its ``**kwargs``."""
    retries: int = 8
    """Attempts after the first; then it is a dead letter."""
    backoff: float | Callable[[int], float] = DEFAULT_BACKOFF_SECONDS
    """Seconds until the first retry, doubled with each one and blurred by a quarter; or a function of the attempt."""
    key: str | Callable[[Mapping[str, Any]], object] | None = "pk"
    """What deliveries are ordered by: the object, one of its fields or an argument, a function, or nothing."""
    timeout: float | None = 300.0
    """Seconds an attempt may take."""
    on_dead: Literal["block", "skip"] = "block"
    """Whether a dead letter holds up the later deliveries of its key."""
    queue: str = "default"
    """Which workers run it."""

    def get_retry_delay(self, attempt: int) -> float:
        """Return the seconds to wait after the failure of ``attempt``, which is 1 or more. Raises nothing."""
        first = self.backoff
        if callable(first):
            try:
                told = float(first(attempt))
                if math.isfinite(told):
                    return min(MAX_CUSTOM_BACKOFF_SECONDS, max(0.0, told))
                raise ValueError(f"{told} seconds can't be waited.")
            except BaseException:  # the receiver's own error is to be written, and the worker to go on
                if self.name not in _invalid_backoffs_logged:
                    _invalid_backoffs_logged.add(self.name)
                    logger.exception("The backoff of %s tells no time; the usual one is taken.", self.name)
            first = DEFAULT_BACKOFF_SECONDS
        pause = min(MAX_BACKOFF_SECONDS, first * 2.0 ** min(attempt - 1, 32))
        return pause * random.uniform(0.75, 1.25)  # noqa: S311 - to keep retries apart, no secret


_invalid_backoffs_logged: Final[set[str]] = set()
"""Receivers of whose backoff it was said that it tells no time."""


def receiver(
    signal: Signal | str | Sequence[Signal | str],
    *,
    sender: SenderSpec = None,
    weak: bool = True,
    dispatch_uid: object = None,
    after_commit: bool = False,
    durable: bool = False,
    **options: Unpack[DurableOptions],
) -> Callable[[ReceiverT], ReceiverT]:
    """Connect a receiver, as ``django.dispatch.receiver`` does, and more::

        @signalbox.receiver(post_save, sender="shop.Order", durable=True)
        def send_invoice(sender, instance, created, **kwargs): ...

    ``signal`` may be a list, and the name of a built-in signal. ``sender`` may be ``"app.Model"`` for any signal.
    ``after_commit=True`` calls the receiver in this process once the open transaction is committed, and not if it is
    rolled back. ``durable=True`` lets a worker call it: after the commit, at least once, in order, with retries.

    Raises ``NotDurable`` for a receiver or signal that cannot be, ``TypeError`` and ``ValueError`` for options that
    are not understood.
    """
    _check_options(after_commit, durable, options)
    signals = [signal] if isinstance(signal, Signal | str) else list(signal)
    if isinstance(sender, str):
        _check_model_label(sender)

    def decorate(function: ReceiverT) -> ReceiverT:
        if durable:
            _register_durable(function, signals, sender, options)
            return function
        target: Callable[..., Any] = function
        keep, uid = weak, dispatch_uid
        if after_commit:
            keep = weak and hasattr(function, "__dict__")
            target = _wrap_after_commit(function, keep)
            uid = uid or make_id(function)  # by which Django finds the function itself, to disconnect it
        for one in signals:
            _connect(_resolve_signal(one), target, sender, keep, uid)
        return function

    return decorate


# ------------------------------------------------------------------ options


def _check_options(after_commit: bool, durable: bool, options: Mapping[str, Any]) -> None:
    known = DurableOptions.__annotations__
    for name in options:
        if name not in known:
            close = get_close_matches(name, (*known, "sender", "weak", "dispatch_uid", "after_commit", "durable"), n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"the options of durable=True are {', '.join(known)}."
            raise TypeError(f"receiver() has no option {name!r}; {hint}")
    if options and not durable:
        raise TypeError(
            f"receiver() was given {', '.join(options)}, which durable receivers have alone: add durable=True."
        )
    if durable and after_commit:
        raise TypeError("A durable receiver runs after the commit anyway: leave out after_commit.")
    for name, value in options.items():
        if not _OPTION_CHECKS[name][0](value):
            raise ValueError(f"receiver() was given {name}={value!r}; {_OPTION_CHECKS[name][1]} was expected.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_OPTION_CHECKS: Final[Mapping[str, tuple[Callable[[Any], bool], str]]] = {
    "retries": (lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= 0, "a whole number, 0 or more,"),
    "backoff": (lambda v: callable(v) or (_is_number(v) and v > 0), "seconds, or a function of the attempt,"),
    "key": (lambda v: v is None or callable(v) or (isinstance(v, str) and v != ""), "a name, a function or None"),
    "timeout": (lambda v: v is None or (_is_number(v) and v > 0), "a number of seconds, or None,"),
    "on_dead": (lambda v: v in ("block", "skip"), '"block" or "skip"'),
    "queue": (lambda v: isinstance(v, str) and 0 < len(v) <= 64, "a name of at most 64 letters"),
}


def _check_model_label(sender: str) -> None:
    if sender.count(".") != 1:
        raise ValueError(f"sender={sender!r} names no model; 'app.Model' was expected.")


def _resolve_signal(signal: Signal | str) -> Signal:
    """Return the signal itself.

    Raises ``TypeError`` for the name of a bulk operation, for which Django sends nothing.
    """
    if isinstance(signal, Signal):
        return signal
    entry = catalog.BUILTIN_SIGNALS.get(signal)
    if entry is not None and not entry.path:
        raise TypeError(
            f"Django sends no signal for {signal!r}: only a durable receiver hears of it, add durable=True."
        )
    found = catalog.import_signal(entry) if entry is not None else import_string(signal)
    if not isinstance(found, Signal):
        raise TypeError(f"{signal!r} is a {type(found).__name__}; a signal, or the name of one, was expected.")
    return found


# ------------------------------------------------------------------ receivers of this process


def _connect(signal: Signal, target: Callable[..., Any], sender: SenderSpec, weak: bool, uid: object) -> None:
    if isinstance(sender, str) and not isinstance(signal, ModelSignal):
        app, model = sender.split(".")
        apps.lazy_model_operation(partial(_connect_model, signal, target, weak, uid), (app, model.lower()))
        return
    signal.connect(target, sender=sender, weak=weak, dispatch_uid=uid)


def _connect_model(signal: Signal, target: Callable[..., Any], weak: bool, uid: object, model: type[Model]) -> None:
    signal.connect(target, sender=model, weak=weak, dispatch_uid=uid)


_after_commit_wrappers: weakref.WeakValueDictionary[tuple[object, bool], Callable[..., None]] = (
    weakref.WeakValueDictionary()
)
"""By Django's id of a receiver, and whether it is held weakly, what is connected for it."""


def _wrap_after_commit(function: Any, weak: bool) -> Callable[..., None]:
    """Return what to connect for ``function``; held weakly, it lives as long as the function, or a method's object."""
    key = make_id(function), weak
    known = _after_commit_wrappers.get(key)
    if known is not None:
        return known
    bound = weak and inspect.ismethod(function)
    find = weakref.WeakMethod(function) if bound else lambda: function

    @wraps(function.__func__ if bound else function)
    def after_commit(**kwargs: Any) -> None:
        found = find()
        if found is None:
            return
        call = async_to_sync(found) if iscoroutinefunction(found) else found

        @wraps(found)  # not a partial: Django 5.2 asks a robust hook that raises for its name
        def run() -> None:
            call(**kwargs)

        transaction.on_commit(run, using=_get_commit_alias(kwargs), robust=True)

    if bound:
        weakref.finalize(function.__self__, _release_wrapper, after_commit).atexit = False
    elif weak:
        function.__dict__["_signalbox_after_commit"] = after_commit
    after_commit.signalbox_id = key[0]  # type: ignore[attr-defined]  # read where receivers are listed
    _after_commit_wrappers[key] = after_commit
    return after_commit


def _release_wrapper(wrapper: object) -> None:
    """The object of a method is gone, and with this call what was held for as long as it lived."""


def _get_commit_alias(arguments: Mapping[str, Any]) -> str:
    """Return the database whose commit is waited for: the one that the send names, or that of its object."""
    using = arguments.get("using")
    if isinstance(using, str):
        return using
    about = arguments.get("instance", arguments.get("user"))
    alias: str | None = about._state.db if isinstance(about, Model) else None
    return alias or "default"


# ------------------------------------------------------------------ durable receivers

_PRE_CHANGE_REASON: Final = "comes before the change it announces, and a durable receiver after: use {}"
_UNSUPPORTED_SIGNALS: Final[Mapping[str, str]] = {
    "pre_init": "is sent for each instance that is made, not for a change: use post_save",
    "post_init": "is sent for each instance that is made, not for a change: use post_save",
    "class_prepared": "is sent while models are imported, before there is a database to write to: connect it plainly",
    "pre_save": _PRE_CHANGE_REASON.format("post_save"),
    "pre_delete": _PRE_CHANGE_REASON.format("post_delete"),
    "pre_migrate": _PRE_CHANGE_REASON.format("post_migrate, not durable"),
    "post_migrate": "carries stdout, apps and a plan, which cannot travel to another process: connect it plainly",
    "request_started": "carries the request's environ, which cannot travel to another process: use request_finished",
    "connection_created": "carries a connection, which cannot travel to another process: connect it plainly",
    "setting_changed": "is sent by tests, about their own process: connect it plainly",
    "template_rendered": "carries a template and its context, which cannot travel: connect it plainly",
}


def _register_durable(
    function: Callable[..., Any], signals: Sequence[Signal | str], sender: SenderSpec, options: DurableOptions
) -> None:
    name = _get_importable_name(function)
    if sender is not None and not isinstance(sender, str | type):
        raise CannotBeDurable(
            f"{name}: the sender {_format_type_name(sender)} can't be found by another process; give a class or a model."
        )
    durable = DurableReceiver(
        name=name, function=function, parameter_names=_get_parameter_names(function, name), **options
    )
    for signal in signals:
        signal_name = _get_signal_name(signal, name)
        _subscribe(durable, signal_name, sender)
    writer.delivery_source = sys.modules[__name__]
    for call in subscription_callbacks:
        call()


def _get_importable_name(function: Any) -> str:
    """Return the dotted name of ``function``.

    Raises ``NotDurable`` where another process could not import it by that name.
    """
    module, qualname = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    remedy = "define it as a function of a module"
    if not isinstance(module, str) or not isinstance(qualname, str):
        raise CannotBeDurable(
            f"A {_format_type_name(function)} has no dotted name by which a worker could import it: {remedy}."
        )
    name = f"{module}.{qualname}"
    if inspect.ismethod(function):
        raise CannotBeDurable(f"{name} is bound to an object of this process: {remedy}.")
    if "<locals>" in qualname or "<lambda>" in qualname:
        raise CannotBeDurable(f"{name} stands within a function, where a worker cannot import it: {remedy}.")
    if module == "__main__":
        raise CannotBeDurable(
            f"{name} stands in the script that runs here, which a worker does not run: move it to a module."
        )
    if len(name) > 200:
        raise CannotBeDurable(f"{name} is longer than 200 characters: shorten it.")
    return name


def _format_type_name(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _get_parameter_names(function: Callable[..., Any], name: str) -> frozenset[str]:
    parameters = inspect.signature(function).parameters.values()
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        raise CannotBeDurable(f"{name} must accept keyword arguments (**kwargs), as every receiver.")
    return frozenset(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))


def _get_signal_name(signal: Signal | str, receiver_name: str) -> str:
    """Return the name under which ``signal`` is recorded.

    Raises ``NotDurable`` for one that carries what cannot travel, or that no other process can name.
    """
    if isinstance(signal, str):
        entry = catalog.BUILTIN_SIGNALS.get(signal)
        if entry is not None and entry.group == "bulk":
            return signal
        signal = _resolve_signal(signal)
    if not isinstance(signal, Signal):
        raise TypeError(
            f"receiver() was given {_format_type_name(signal)}; a signal, a list of signals or a name was expected."
        )
    for name, entry in catalog.BUILTIN_SIGNALS.items():
        module = sys.modules.get(entry.path.rpartition(".")[0])
        if module is not None and getattr(module, entry.path.rpartition(".")[2], None) is signal:
            reason = _UNSUPPORTED_SIGNALS.get(name)
            if entry.group == "task":
                reason = "carries a task's result, which its backend keeps: connect it plainly"
            if reason is not None:
                raise CannotBeDurable(f"{receiver_name} can't be a durable receiver of {name}: {name} {reason}.")
            return name
    found = signal_names.get(signal) or _find_signal_name(signal)
    if found is None:
        raise CannotBeDurable(
            f"{receiver_name}: its signal stands in no module under a name of its own, by which a worker could find "
            "it; assign it in a module, or name it with signalbox.register_signal(signal, 'shop.signals.paid') first."
        )
    return register_signal_name(signal, found)


signal_names: weakref.WeakKeyDictionary[Signal, str] = weakref.WeakKeyDictionary()
"""The names under which custom signals are recorded."""


def register_signal_name(signal: Signal, name: str) -> str:
    """Recording, or ``track()``, has given a custom signal its name: its receivers are found under it from now on."""
    before = signal_names.get(signal)
    signal_names[signal] = name
    if before is not None and before != name and before in _receivers_by_signal:
        for sender, durables in _receivers_by_signal.pop(before).items():
            for durable in durables:
                _add_subscription(durable, name, sender)
    return name


def _find_signal_name(signal: Signal) -> str | None:
    """Return the name of ``signal`` in the module that makes it, else in one that imports it from there."""
    places = [
        (module_name, name)
        for module_name, module in naming.get_sorted_modules()
        if module_name != "__main__"
        for name, value in list(getattr(module, "__dict__", {}).items())
        if value is signal
    ]
    return naming.get_signal_name(signal, places) if places else None


def get_signal(name: str) -> Signal | None:
    """Return the signal that is recorded as ``name``; ``None`` for a bulk operation.

    Raises ``ImportError`` if there is none.
    """
    entry = catalog.BUILTIN_SIGNALS.get(name)
    if entry is not None:
        return catalog.import_signal(entry) if entry.path else None
    for signal, known in signal_names.items():
        if known == name:
            return signal
    found = import_string(name)
    if not isinstance(found, Signal):
        raise ImportError(f"{name} is no signal.")
    return found


_receivers_by_signal: dict[str, dict[str | None, tuple[DurableReceiver, ...]]] = {}
"""By name of signal, then by label of sender: ``None`` for receivers of any sender."""

subscription_callbacks: list[Callable[[], None]] = []
"""Called when a durable receiver has been registered: recording must hear its signal."""


def _subscribe(durable: DurableReceiver, signal: str, sender: SenderSpec) -> None:
    if isinstance(sender, str):
        app, model = sender.split(".")
        apps.lazy_model_operation(partial(_subscribe_model, durable, signal), (app, model.lower()))
    elif sender is None:
        _add_subscription(durable, signal, None)
    elif issubclass(sender, Model):
        _subscribe_model(durable, signal, sender)
    else:
        _add_subscription(durable, signal, f"{sender.__module__}.{sender.__qualname__}"[:200])


def _subscribe_model(durable: DurableReceiver, signal: str, model: type[Model]) -> None:
    if encoder.has_secret_pk(model, get_redactor()):
        raise CannotBeDurable(
            f"{durable.name}: the primary key of {model._meta.label} is a secret, which is not stored, so a worker "
            "could not load the object: connect it plainly."
        )
    _add_subscription(durable, signal, model._meta.label)
    for call in subscription_callbacks:
        call()


receiver_locations: dict[str, set[str]] = {}
"""By name of a durable receiver, where functions of that name stand: more than one place is a clash."""


def _get_location(function: Any) -> str:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return "" if code is None else f"{code.co_filename}:{code.co_firstlineno}"


def _add_subscription(durable: DurableReceiver, signal: str, sender: str | None) -> None:
    """Subscribe; a receiver of the same name is the same receiver, connected again or imported anew."""
    receiver_locations.setdefault(durable.name, set()).add(_get_location(durable.function))
    by_sender = _receivers_by_signal.setdefault(signal, {})
    others = tuple(known for known in by_sender.get(sender, ()) if known.name != durable.name)
    by_sender[sender] = (*others, durable)


def disconnect(name: str) -> bool:
    """Forget the durable receiver of this dotted name; return whether there was one."""
    found = False
    for signal, by_sender in list(_receivers_by_signal.items()):
        for sender, durables in list(by_sender.items()):
            left = tuple(durable for durable in durables if durable.name != name)
            found |= len(left) < len(durables)
            if left:
                by_sender[sender] = left
            else:
                del by_sender[sender]
        if not by_sender:
            del _receivers_by_signal[signal]
    receiver_locations.pop(name, None)
    return found


def get_durable_receivers() -> dict[str, DurableReceiver]:
    """Return every durable receiver by name."""
    return {durable.name: durable for _, _, durable in get_subscriptions()}


def get_subscriptions() -> list[tuple[str, str | None, DurableReceiver]]:
    """Return what is subscribed: signal, sender (``None``: any) and receiver."""
    return [
        (signal, sender, durable)
        for signal, by_sender in _receivers_by_signal.items()
        for sender, durables in by_sender.items()
        for durable in durables
    ]


def find_durable_receiver(name: str, signal: str, sender: str | None = None) -> DurableReceiver | None:
    """Return the durable receiver ``name`` as it is registered for ``signal`` from ``sender``, a label.

    If it no longer is: as it is for ``signal`` from any, or another sender, else as it is for another signal.
    """
    found = [(heard == signal, of in (sender, None), of == sender, one) for heard, of, one in get_subscriptions()]
    mine = [entry for entry in found if entry[3].name == name]
    return max(mine, key=lambda entry: entry[:3])[3] if mine else None


def get_subscribed_signals() -> frozenset[str]:
    """Return the names of the signals that durable receivers wait for."""
    return frozenset(_receivers_by_signal)


def has_subscriber(signal: str, sender: str) -> bool:
    """Tell whether a durable receiver waits for ``signal`` from ``sender``, a label; recorded then, whatever is not."""
    by_sender = _receivers_by_signal.get(signal)
    return by_sender is not None and (sender in by_sender or None in by_sender)


def is_subscribed_sender(sender: str) -> bool:
    """Tell whether a durable receiver names ``sender``, which is recorded then even if the setting ignores it."""
    return any(sender in by_sender for by_sender in _receivers_by_signal.values())


def _get_subscribers(signal: str, sender: str) -> tuple[DurableReceiver, ...]:
    by_sender = _receivers_by_signal.get(signal)
    if by_sender is None:
        return ()
    named = by_sender.get(sender, ())
    anyway = by_sender.get(None, ())
    if not named or not anyway:
        return named or anyway
    return (*named, *(durable for durable in anyway if all(durable.name != other.name for other in named)))


# ------------------------------------------------------------------ events to deliveries


class SerializedArguments(dict[str, Any]):
    """A send's arguments as they travel."""

    def __init__(self, arguments: Mapping[str, Any], ordering_keys: Mapping[str, str]) -> None:
        super().__init__(arguments)
        self.ordering_keys = ordering_keys
        """By receiver what its delivery is ordered by: told of the arguments themselves, while they are at hand."""


def serialize_arguments(
    signal: str, sender: str, arguments: Mapping[str, Any], recorded_arguments: Mapping[str, Any]
) -> SerializedArguments:
    """Return a send's arguments as they travel; ``facts`` are the recorded ones, which stand in for a request.

    Raises ``NotDurable`` for an argument that a durable receiver names and that cannot travel, or holds a secret: a
    value is stored as it is or not at all. Only ``credentials`` go without the secret ones, as they tell who failed.
    """
    bounded = {name: serializer.mark_too_deep(value) for name, value in arguments.items()}
    packed = _serialize_arguments(signal, sender, bounded, recorded_arguments)
    about = ordering.build_instance_key(arguments.get("instance", arguments.get("user")), get_redactor())
    told = {name: REDACTED if packed.get(name) == REDACTED else value for name, value in arguments.items()}
    takers = _get_subscribers(signal, sender)
    return SerializedArguments(
        packed, {one.name: ordering.get_ordering_key(one, about, told, get_redactor()) for one in takers}
    )


def _serialize_arguments(
    signal: str, sender: str, arguments: Mapping[str, Any], recorded_arguments: Mapping[str, Any]
) -> dict[str, Any]:
    packed = {}
    for name, value in arguments.items():
        takers = [durable.name for durable in _get_subscribers(signal, sender) if name in durable.parameter_names]
        if name == "request":
            packed[name] = recorded_arguments.get(name)
        elif get_redactor().should_redact(name, value):
            if takers:
                raise CannotBeDurable(
                    f"{signal} was sent with {name!r}, which {takers[0]} takes: it is secret by its name, and is not "
                    "stored. Let the receiver load it, or give the argument a name that opens no door."
                )
            packed[name] = REDACTED
        else:
            try:
                found = serializer.serialize(redact(serializer.resolve_lazy(value), get_redactor()))
            except serializer.NotSerializable as error:
                if takers:
                    raise CannotBeDurable(
                        f"{signal} was sent with {name!r}, which {takers[0]} takes and which cannot travel to a "
                        f"worker: {error}. Send its key, or what JSON can say."
                    ) from error
                continue
            if name == "credentials" or not _contains_secret(found):
                packed[name] = found
            elif takers:
                raise CannotBeDurable(
                    f"{signal} was sent with {name!r}, which {takers[0]} takes: it holds a secret, which is not "
                    "stored. Let the receiver load it."
                )
    return packed


def _contains_secret(serialized: Any) -> bool:
    """Tell whether a secret was taken out of what travels, or would have to be: an object's key that is one itself."""
    if isinstance(serialized, str):
        return REDACTED in serialized
    if isinstance(serialized, list):
        return any(map(_contains_secret, serialized))
    if not isinstance(serialized, dict):
        return False
    match serialized.get(serializer.TYPE_TAG):
        case "bytes":
            return REDACTED.encode() in b64decode(serialized["v"])
        case "model":
            return encoder.has_secret_pk(apps.get_model(serialized["v"][0]), get_redactor())
    return any(map(_contains_secret, (*serialized, *serialized.values())))


def build_delivery_rows(event: PendingEvent) -> Sequence[batches.TableRow]:
    """Return the deliveries that a committed event makes, in the order of ``tables.DELIVERY_COLUMNS``."""
    takers = _get_subscribers(event.signal, event.sender)
    if not takers or event.outcome is Outcome.ROLLED_BACK or _is_pre_change(event):
        return ()
    now = tracing.now() // 1000
    values = _get_known_values(event)
    payload = _build_payload(event, values)
    facts = (event.trace.id, event.span, event.signal, event.sender, event.key, event.using)
    return [
        build_delivery_row(durable, facts, key, payload, now)
        for durable, key in zip(takers, _get_ordering_keys(event, takers, values), strict=True)
    ]


def _get_ordering_keys(
    event: PendingEvent, subscribers: Sequence[DurableReceiver], values: Mapping[str, Any]
) -> list[str]:
    """Return what the deliveries to ``takers`` are ordered by.

    Raises ``ordering.NotOrdered`` where that can't be known.
    """
    about = ordering.build_object_key(ordering.get_model_label(event.signal, event.sender, event.args), event.key)
    if isinstance(event.outbox_arguments, SerializedArguments):
        return [event.outbox_arguments.ordering_keys.get(durable.name, about) for durable in subscribers]
    row = None
    if event.change is not None and any(durable.key not in ("pk", None) for durable in subscribers):
        model = ordering.find_model(event.sender)
        row = (
            None
            if model is None
            else ordering.RowReference(model, event.using, event.key, _get_unloaded_fields(event.change))
        )
    return [ordering.get_ordering_key(durable, about, values, get_redactor(), row) for durable in subscribers]


def _get_unloaded_fields(change: RowChange) -> set[str]:
    """Return names of fields whose values nobody knows, as they were not loaded or the database makes them."""
    fields = change.fields
    known = [row for row in (change.new, change.old) if row is not None and row is not UNKNOWN]
    unread = set(fields.names) - fields.secret - fields.excluded
    for place, name in enumerate(fields.names):
        value = next((row[place] for row in known if row[place] is not UNKNOWN), UNKNOWN)
        if value is not UNKNOWN and not is_expression(value):
            unread.discard(name)
    return unread


def _is_pre_change(event: PendingEvent) -> bool:
    """Tell whether an ``m2m_changed`` announces its change; it is delivered once the change is made."""
    args = event.args
    return event.signal == "m2m_changed" and isinstance(args, Mapping) and str(args.get("action")).startswith("pre_")


EventReference = tuple[str, int, str, str, str, str]
"""What a delivery repeats of its event: trace, span, signal, sender, object key, database."""


def build_delivery_row(
    durable: DurableReceiver, event_reference: EventReference, ordering_key: str, payload: str, run_at: int
) -> batches.TableRow:
    """Return one delivery's row, in the order of ``tables.DELIVERY_COLUMNS``."""
    trace_id, span, signal, sender, object_key, using = event_reference
    lane = ordering.get_partition_id(durable.name, ordering_key) if ordering_key else None
    return (
        durable.name,
        durable.queue,
        ordering_key,
        lane,
        trace_id,
        span,
        signal,
        sender,
        object_key,
        using,
        run_at,
        run_at,
        run_at,
        payload,
    )


def _get_known_values(event: PendingEvent) -> dict[str, Any]:
    """Return what is known of the event by name: the row's fields, or the arguments."""
    if event.change is not None:
        return _get_row_values(event.change)
    if event.outbox_arguments is not None:
        return dict(event.outbox_arguments)
    return dict(event.args) if isinstance(event.args, Mapping) else {}


_EXACT_TYPE_NAMES: Final = frozenset(
    {"str", "int", "float", "bool", "NoneType", "Decimal", "datetime", "date", "time", "timedelta", "UUID"}
)


def _get_row_values(change: RowChange) -> dict[str, Any]:
    """Return the row's values by field: each exactly, or not at all where it is secret or unknown."""
    fields, old, new = change.fields, change.old, change.new
    if new is None or new is UNKNOWN:
        old, new = None, old
    if new is UNKNOWN or new is None:
        return {}
    before = new if old is None or old is UNKNOWN else old
    found = {}
    for name, was, written in zip(fields.names, before, new, strict=True):
        value = was if written is UNKNOWN else written
        if value is UNKNOWN or name in fields.secret or name in fields.excluded or is_expression(value):
            continue
        if name not in fields.non_scalar or type(value).__name__ in _EXACT_TYPE_NAMES:
            found[name] = value
        elif isinstance(value, dict | list):
            if redact(value, fields.redactor) == value:
                found[name] = value
        elif hasattr(value, "field") and hasattr(value, "name"):  # a FieldFile is stored by its name
            found[name] = value.name
    return found


MAX_ROW_CHARS: Final = 256 * 1024
"""Characters of a row's text that a delivery carries; the longest values of a larger row stay behind."""


def _build_payload(event: PendingEvent, values: dict[str, Any]) -> str:
    """Return as JSON text what the receiver is to be given, besides the object itself."""
    if event.outbox_arguments is not None:
        return '{"packed":' + encoder.dumps(event.outbox_arguments) + "}"
    args = event.args
    text = "{}" if args is None else args if type(args) is str else encoder.dumps(args)
    if event.change is None:
        return '{"args":' + text + "}"
    row = encoder.dumps(values)
    hides = event.change.fields.redactor
    if len(row) > MAX_ROW_CHARS or not hides.is_clean(row):
        data = hides.redact_data
        values = {
            k: v for k, v in values.items() if not isinstance(v, str) or (len(v) <= MAX_ROW_CHARS // 8 and data(v) == v)
        }
        row = encoder.dumps(values)
    return '{"args":' + text + ',"row":' + row + "}"


_cached_redactor: tuple[conf.Config, Redactor] | None = None


def get_redactor() -> Redactor:
    """Return the redactor that the setting asks for."""
    global _cached_redactor
    config = conf.get()
    if _cached_redactor is None or _cached_redactor[0] is not config:
        _cached_redactor = (config, Redactor(config.REDACT, conf.get_fields_by_option("redact")))
    return _cached_redactor[1]


def reset_redactor() -> None:
    """Make it anew: code has said something of a model."""
    global _cached_redactor
    _cached_redactor = None


# ------------------------------------------------------------------ the engine "immediate"


def on_deliveries_written(connection: BaseDatabaseWrapper) -> None:
    """Let the deliveries just written be run by this process after the commit, if the setting says so."""
    if conf.get().ENGINE != "immediate":
        return

    def run_due() -> None:
        import_string("signalbox.outbox.dispatch.immediate.run_due")(connection.alias)

    if connection.in_atomic_block:
        transaction.on_commit(run_due, using=connection.alias, robust=True)
    elif connection.get_autocommit():
        run_due()
    else:  # within the commit of a transaction that Django has left already: what is added now still runs
        hooks: list[Any] = connection.run_on_commit
        hooks.append((set(), run_due, True))


def get_deliveries_database() -> str:
    """Return the alias of the database that holds the deliveries of events which no change ties to another."""
    alias: str = router.db_for_write(apps.get_model("signalbox", "Delivery"))
    return alias
