"""Register durable receivers: check that another process can find them, their signals and their senders.

A durable receiver is not connected to its signal: a connected one would slow down every send, and is not needed, as
the send is recorded anyway. Its dotted name identifies it in this process and in the worker's.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from django.apps import apps
from django.core import checks
from django.db.models import Model
from django.dispatch import Signal
from django.utils.module_loading import import_string

from signalbox.core import catalog, naming
from signalbox.outbox import registry
from signalbox.outbox.durable_receiver import CannotBeDurable, DurableOptions, DurableReceiver
from signalbox.pipeline import processors
from signalbox.serialization import encoder
from signalbox.serialization.configured_redactor import get_redactor

SenderSpec = Any
"""A model or other class, ``"app.Model"``, or ``None`` for any."""

_REMEDY: Final = "connect the receiver without durable=True"
_PRE_CHANGE_REASON: Final = "is sent before a change, and a durable receiver runs after it: use {}"

_UNSUPPORTED_SIGNALS: Final[Mapping[str, str]] = {
    "pre_init": "is sent for each instance that is made, not for a change: use post_save",
    "post_init": "is sent for each instance that is made, not for a change: use post_save",
    "class_prepared": f"is sent while models are imported, before there is a database to write to: {_REMEDY}",
    "pre_save": _PRE_CHANGE_REASON.format("post_save"),
    "pre_delete": _PRE_CHANGE_REASON.format("post_delete"),
    "pre_migrate": _PRE_CHANGE_REASON.format("post_migrate, without durable=True"),
    "post_migrate": f"has the arguments stdout, apps and a plan, which can't be sent to another process: {_REMEDY}",
    "request_started": "has the request's environ, which can't be sent to another process: use request_finished",
    "connection_created": f"has a connection, which can't be sent to another process: {_REMEDY}",
    "setting_changed": f"is sent by tests, about their own process: {_REMEDY}",
    "template_rendered": f"has a template, which can't be sent to another process: {_REMEDY}",
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
        raise CannotBeDurable(f"{name} can't be a durable receiver: {NOT_INSTALLED}")
    checks.register(check_installed, "signalbox")
    if sender is not None and not isinstance(sender, str | type):
        raise CannotBeDurable(
            f"{name}: the sender {_format_type_name(sender)} is not a class, so other processes can't find it."
        )
    if get_redactor().redact_text(queue_name := options.get("queue", "")) != queue_name:
        raise CannotBeDurable(
            f"{name}: the name of its queue contains a secret, which is not stored: rename the queue."
        )
    durable = DurableReceiver(
        name=name, function=function, parameter_names=_get_parameter_names(function, name), **options
    )
    for signal in signals:
        signal_name = _get_signal_name(signal, name)
        _subscribe(durable, signal_name, sender)
    processors.notify_changed()


NOT_INSTALLED: Final = '"signalbox" is not in INSTALLED_APPS, so nothing is recorded and no delivery is created.'


def check_installed(app_configs: Any = None, **kwargs: Any) -> list[checks.CheckMessage]:
    """Check that the app is installed (E013) if a durable receiver was registered before the apps were loaded."""
    if apps.is_installed("signalbox"):
        return []
    return [
        checks.Error(
            f"{name} is a durable receiver, but {NOT_INSTALLED}",
            hint='Put "signalbox" first in INSTALLED_APPS.',
            id="signalbox.E013",
        )
        for name in sorted(registry.get_durable_receivers())
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
                reason = "has a task's result, which its backend stores: connect the receiver without durable=True"
            if reason is not None:
                raise CannotBeDurable(f"{receiver_name} can't be a durable receiver of {name}: {name} {reason}.")
            return name
    recorded_name = naming.recorded_names.get(signal) or find_signal_name(signal)
    if recorded_name is None:
        raise CannotBeDurable(
            f"{receiver_name}: its signal has no name in any module by which a worker could find it; assign it in a "
            "module, or name it with signalbox.register_signal(signal, 'shop.signals.paid') first."
        )
    return registry.register_signal_name(signal, recorded_name)


def find_signal_name(signal: Signal) -> str | None:
    """Return the name of ``signal`` in the module that defines it, else in one that imports it."""
    locations = [
        (module_name, name)
        for module_name, module in naming.get_sorted_modules()
        if module_name != "__main__"
        for name, value in list(getattr(module, "__dict__", {}).items())
        if value is signal
    ]
    return naming.get_signal_name(signal, locations) if locations else None


def _subscribe(durable: DurableReceiver, signal: str, sender: SenderSpec) -> None:
    if isinstance(sender, str):
        app, model = sender.split(".")
        apps.lazy_model_operation(partial(_subscribe_model, durable, signal), (app, model.lower()))
    elif sender is None:
        registry.add_subscription(durable, signal, None)
    elif issubclass(sender, Model):
        _subscribe_model(durable, signal, sender)
    else:
        registry.add_subscription(durable, signal, f"{sender.__module__}.{sender.__qualname__}"[:200])


def _subscribe_model(durable: DurableReceiver, signal: str, model: type[Model]) -> None:
    if encoder.has_secret_pk(model, get_redactor()):
        raise CannotBeDurable(
            f"{durable.name}: the primary key of {model._meta.label} is a secret, which is not stored, so a worker "
            "could not load the object: connect the receiver without durable=True."
        )
    registry.add_subscription(durable, signal, model._meta.label)
    processors.notify_changed()
