"""The durable receivers of this process and their subscriptions to signals and senders.

A durable receiver is not connected to its signal: a connected one would slow down every send, and is not needed, as
the send is recorded anyway. Its dotted name identifies it in this process and in the worker's.
"""

from __future__ import annotations

import inspect
import logging
import math
import random
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict

from django.apps import apps
from django.core import checks
from django.db.models import Model
from django.dispatch import Signal
from django.utils.module_loading import import_string

from signalbox.core import catalog, naming
from signalbox.pipeline import deliveries
from signalbox.pipeline.deliveries import DeliveryError
from signalbox.serialization import encoder
from signalbox.serialization.configured_redactor import get_redactor

if TYPE_CHECKING:
    pass

logger = logging.getLogger("signalbox")

SenderSpec = Any
"""A model or other class, ``"app.Model"``, or ``None`` for any."""

DEFAULT_BACKOFF_SECONDS: Final = 10.0
"""Seconds until the first retry."""

MAX_BACKOFF_SECONDS: Final = 3600.0
"""Maximum number of seconds before a retry."""

MAX_CUSTOM_BACKOFF_SECONDS: Final = 10 * 366 * 86_400.0
"""Maximum number of seconds that a ``backoff`` function may return. Columns and dates can store such times."""


class CannotBeDurable(DeliveryError, TypeError):
    """This receiver cannot be durable."""


class DurableOptions(TypedDict, total=False):
    """The options of ``durable=True``."""

    retries: int
    backoff: float | Callable[[int], float]
    key: str | Callable[[Mapping[str, Any]], object] | None
    timeout: float | None
    on_dead: Literal["block", "skip"]
    queue: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DurableReceiver:
    """A durable receiver and its options."""

    name: str
    """Its dotted name, by which a worker finds it."""
    function: Callable[..., Any]
    parameter_names: frozenset[str]
    """Names of its parameters. Other arguments go into its ``**kwargs``."""
    retries: int = 8
    """Attempts after the first. When they are used up, the delivery is a dead letter."""
    backoff: float | Callable[[int], float] = DEFAULT_BACKOFF_SECONDS
    """Seconds until the first retry, doubled for each further one, with 25% jitter; or a function of the attempt."""
    key: str | Callable[[Mapping[str, Any]], object] | None = "pk"
    """What deliveries are ordered by: the object (``"pk"``), a field or an argument, a function, or nothing."""
    timeout: float | None = 300.0
    """Maximum duration of an attempt in seconds."""
    on_dead: Literal["block", "skip"] = "block"
    """Whether a dead letter blocks later deliveries of its key."""
    queue: str = "default"
    """The queue of its deliveries. Workers may run only some queues."""

    def get_retry_delay(self, attempt: int) -> float:
        """Return the seconds to wait after the failure of ``attempt``, which is 1 or more. Errors are only logged."""
        backoff = self.backoff
        if callable(backoff):
            try:
                seconds = float(backoff(attempt))
                if math.isfinite(seconds):
                    return min(MAX_CUSTOM_BACKOFF_SECONDS, max(0.0, seconds))
                raise ValueError(f"{seconds} is not a number of seconds.")
            except BaseException:  # the receiver's error must be written, and the worker must go on
                if self.name not in _invalid_backoffs_logged:
                    _invalid_backoffs_logged.add(self.name)
                    logger.exception("The backoff of %s returned no valid time; the default is used.", self.name)
            backoff = DEFAULT_BACKOFF_SECONDS
        delay = min(MAX_BACKOFF_SECONDS, backoff * 2.0 ** min(attempt - 1, 32))
        return delay * random.uniform(0.75, 1.25)  # noqa: S311 - to keep retries apart, no secret


_invalid_backoffs_logged: Final[set[str]] = set()
"""Names of receivers whose invalid backoff was logged."""

# ------------------------------------------------------------------ durable receivers

_PRE_CHANGE_REASON: Final = "is sent before a change, and a durable receiver runs after it: use {}"

_UNSUPPORTED_SIGNALS: Final[Mapping[str, str]] = {
    "pre_init": "is sent for each instance that is made, not for a change: use post_save",
    "post_init": "is sent for each instance that is made, not for a change: use post_save",
    "class_prepared": "is sent while models are imported, before there is a database to write to: connect it plainly",
    "pre_save": _PRE_CHANGE_REASON.format("post_save"),
    "pre_delete": _PRE_CHANGE_REASON.format("post_delete"),
    "pre_migrate": _PRE_CHANGE_REASON.format("post_migrate, not durable"),
    "post_migrate": "carries stdout, apps and a plan, which can't be sent to another process: connect it plainly",
    "request_started": "carries the request's environ, which can't be sent to another process: use request_finished",
    "connection_created": "carries a connection, which can't be sent to another process: connect it plainly",
    "setting_changed": "is sent by tests, about their own process: connect it plainly",
    "template_rendered": "carries a template, which can't be sent to another process: connect it plainly",
}


def resolve_signal(signal: Signal | str) -> Signal:
    """Return the signal itself.

    Raises ``TypeError`` for the name of a bulk operation, for which Django sends nothing.
    """
    if isinstance(signal, Signal):
        return signal
    entry = catalog.BUILTIN_SIGNALS.get(signal)
    if entry is not None and not entry.path:
        raise TypeError(
            f"Django sends no signal for {signal!r}: only a durable receiver receives it, add durable=True."
        )
    found = catalog.import_signal(entry) if entry is not None else import_string(signal)
    if not isinstance(found, Signal):
        raise TypeError(f"{signal!r} is a {type(found).__name__}; a signal, or the name of one, was expected.")
    return found


def register_durable(
    function: Callable[..., Any], signals: Sequence[Signal | str], sender: SenderSpec, options: DurableOptions
) -> None:
    """Subscribe ``function`` to ``signals`` from ``sender`` as a durable receiver.

    Raises ``CannotBeDurable`` if another process could not find the function, a signal or the sender.
    """
    name = _get_importable_name(function)
    if apps.apps_ready and not apps.is_installed("signalbox"):
        raise CannotBeDurable(f"{name} can't be a durable receiver: {_NOT_INSTALLED}")
    checks.register(check_installed, "signalbox")
    if sender is not None and not isinstance(sender, str | type):
        raise CannotBeDurable(
            f"{name}: the sender {_format_type_name(sender)} is not a class, so other processes can't find it."
        )
    durable = DurableReceiver(
        name=name, function=function, parameter_names=_get_parameter_names(function, name), **options
    )
    for signal in signals:
        signal_name = _get_signal_name(signal, name)
        _subscribe(durable, signal_name, sender)
    deliveries.notify_subscribed()


_NOT_INSTALLED: Final = '"signalbox" is not in INSTALLED_APPS, so nothing is recorded and no delivery is created.'


def check_installed(app_configs: Any = None, **kwargs: Any) -> list[checks.CheckMessage]:
    """Check that the app is installed (E013) if a durable receiver was registered before the apps were loaded."""
    if apps.is_installed("signalbox"):
        return []
    return [
        checks.Error(
            f"{name} is a durable receiver, but {_NOT_INSTALLED}",
            hint='Put "signalbox" first in INSTALLED_APPS.',
            id="signalbox.E013",
        )
        for name in sorted(get_durable_receivers())
    ]


def _get_importable_name(function: Any) -> str:
    """Return the dotted name of ``function``.

    Raises ``CannotBeDurable`` if another process could not import it by that name.
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
        raise CannotBeDurable(f"{name} is defined in a function, so a worker can't import it: {remedy}.")
    if module == "__main__":
        raise CannotBeDurable(
            f"{name} is defined in the script that runs here, which a worker does not run: move it to a module."
        )
    if len(name) > 200:
        raise CannotBeDurable(f"{name} is longer than 200 characters: shorten it.")
    return name


def _format_type_name(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _get_parameter_names(function: Callable[..., Any], name: str) -> frozenset[str]:
    parameters = inspect.signature(function).parameters.values()
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        raise CannotBeDurable(f"{name} must accept keyword arguments (**kwargs), like every receiver.")
    return frozenset(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))


def _get_signal_name(signal: Signal | str, receiver_name: str) -> str:
    """Return the name under which ``signal`` is recorded.

    Raises ``CannotBeDurable`` for a signal whose arguments can't be serialized or that other processes can't find.
    """
    if isinstance(signal, str):
        entry = catalog.BUILTIN_SIGNALS.get(signal)
        if entry is not None and entry.group == "bulk":
            return signal
        signal = resolve_signal(signal)
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
    recorded_name = signal_names.get(signal) or _find_signal_name(signal)
    if recorded_name is None:
        raise CannotBeDurable(
            f"{receiver_name}: its signal has no name in any module by which a worker could find it; assign it in a "
            "module, or name it with signalbox.register_signal(signal, 'shop.signals.paid') first."
        )
    return register_signal_name(signal, recorded_name)


signal_names: weakref.WeakKeyDictionary[Signal, str] = weakref.WeakKeyDictionary()
"""The names under which custom signals are recorded."""


def register_signal_name(signal: Signal, name: str) -> str:
    """Set the name under which a custom signal is recorded, move its subscriptions to it, and return it."""
    previous_name = signal_names.get(signal)
    signal_names[signal] = name
    if previous_name is not None and previous_name != name and previous_name in _receivers_by_signal:
        for sender, durables in _receivers_by_signal.pop(previous_name).items():
            for durable in durables:
                _add_subscription(durable, name, sender)
    return name


def _find_signal_name(signal: Signal) -> str | None:
    """Return the name of ``signal`` in the module that defines it, else in one that imports it."""
    locations = [
        (module_name, name)
        for module_name, module in naming.get_sorted_modules()
        if module_name != "__main__"
        for name, value in list(getattr(module, "__dict__", {}).items())
        if value is signal
    ]
    return naming.get_signal_name(signal, locations) if locations else None


def get_signal(name: str) -> Signal | None:
    """Return the signal that is recorded as ``name``; ``None`` for a bulk operation.

    Raises ``ImportError`` if there is none.
    """
    entry = catalog.BUILTIN_SIGNALS.get(name)
    if entry is not None:
        return catalog.import_signal(entry) if entry.path else None
    for signal, signal_name in signal_names.items():
        if signal_name == name:
            return signal
    imported = import_string(name)
    if not isinstance(imported, Signal):
        raise ImportError(f"{name} is not a signal.")
    return imported


_receivers_by_signal: dict[str, dict[str | None, tuple[DurableReceiver, ...]]] = {}
"""Receivers by name of signal and label of sender, which is ``None`` for receivers of any sender."""


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
    deliveries.notify_subscribed()


receiver_locations: dict[str, set[str]] = {}
"""Locations of the functions of each durable receiver's name. More than one is a name clash."""


def _get_location(function: Any) -> str:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return "" if code is None else f"{code.co_filename}:{code.co_firstlineno}"


def _add_subscription(durable: DurableReceiver, signal: str, sender: str | None) -> None:
    """Subscribe a receiver. One of the same name is replaced: it was connected or imported again."""
    receiver_locations.setdefault(durable.name, set()).add(_get_location(durable.function))
    by_sender = _receivers_by_signal.setdefault(signal, {})
    others = tuple(other for other in by_sender.get(sender, ()) if other.name != durable.name)
    by_sender[sender] = (*others, durable)


def disconnect(name: str) -> bool:
    """Remove the durable receiver with this dotted name; return whether there was one."""
    removed = False
    for signal, by_sender in list(_receivers_by_signal.items()):
        for sender, durables in list(by_sender.items()):
            remaining = tuple(durable for durable in durables if durable.name != name)
            removed |= len(remaining) < len(durables)
            if remaining:
                by_sender[sender] = remaining
            else:
                del by_sender[sender]
        if not by_sender:
            del _receivers_by_signal[signal]
    receiver_locations.pop(name, None)
    return removed


def get_durable_receivers() -> dict[str, DurableReceiver]:
    """Return every durable receiver by name."""
    return {durable.name: durable for _, _, durable in get_subscriptions()}


def get_subscriptions() -> list[tuple[str, str | None, DurableReceiver]]:
    """Return all subscriptions: name of the signal, label of the sender (``None``: any) and receiver."""
    return [
        (signal, sender, durable)
        for signal, by_sender in _receivers_by_signal.items()
        for sender, durables in by_sender.items()
        for durable in durables
    ]


def find_durable_receiver(name: str, signal: str, sender: str | None = None) -> DurableReceiver | None:
    """Return the durable receiver ``name`` as it is subscribed to ``signal`` from ``sender``, a label.

    Its options may differ by subscription. If it is not subscribed so any more, return another subscription's: to
    ``signal`` from any sender, then from another sender, then to another signal.
    """
    candidates = [
        ((subscribed_signal == signal, subscribed_sender in (sender, None), subscribed_sender == sender), durable)
        for subscribed_signal, subscribed_sender, durable in get_subscriptions()
        if durable.name == name
    ]
    return max(candidates, key=lambda candidate: candidate[0])[1] if candidates else None


def get_subscribed_signals() -> frozenset[str]:
    """Return the names of the signals with a durable receiver."""
    return frozenset(_receivers_by_signal)


def has_subscriber(signal: str, sender: str) -> bool:
    """Return whether a durable receiver is subscribed to ``signal`` from ``sender``, a label."""
    by_sender = _receivers_by_signal.get(signal)
    return by_sender is not None and (sender in by_sender or None in by_sender)


def is_subscribed_sender(sender: str) -> bool:
    """Return whether a durable receiver names ``sender``. It is then recorded although the setting ignores it."""
    return any(sender in by_sender for by_sender in _receivers_by_signal.values())


def get_subscribers(signal: str, sender: str) -> tuple[DurableReceiver, ...]:
    """Return the durable receivers of ``signal`` from ``sender``, each once."""
    by_sender = _receivers_by_signal.get(signal)
    if by_sender is None:
        return ()
    of_sender = by_sender.get(sender, ())
    unconditional = by_sender.get(None, ())
    if not of_sender or not unconditional:
        return of_sender or unconditional
    names = {durable.name for durable in of_sender}
    return (*of_sender, *(durable for durable in unconditional if durable.name not in names))
