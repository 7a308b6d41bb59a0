"""``signalbox.receiver``: connect a receiver, run it after commit, or make it durable."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial, wraps
from typing import Any, Final, TypeVar, Unpack

from asgiref.sync import async_to_sync, iscoroutinefunction
from django.apps import apps
from django.db import transaction
from django.db.models import Model
from django.db.models.signals import ModelSignal
from django.dispatch import Signal

from signalbox.core.receivers import make_id
from signalbox.outbox.durable_receiver import DurableOptions
from signalbox.outbox.outbox_processor import OUTBOX
from signalbox.outbox.registration import register_durable, resolve_signal
from signalbox.pipeline import processors

ReceiverT = TypeVar("ReceiverT", bound=Callable[..., Any])


def receiver(
    signal: Signal | str | Sequence[Signal | str],
    *,
    sender: object = None,
    weak: bool = True,
    dispatch_uid: object = None,
    after_commit: bool = False,
    durable: bool = False,
    **options: Unpack[DurableOptions],
) -> Callable[[ReceiverT], ReceiverT]:
    """Return a decorator that connects a receiver, like ``django.dispatch.receiver``::

        @signalbox.receiver(post_save, sender="shop.Order", durable=True)
        def send_invoice(sender, instance, created, **kwargs): ...

    A durable receiver runs in a worker after the commit: at least once, in order, and with retries.

    Args:
        signal: A signal, the name of a built-in one (``"post_save"``, ``"bulk_create"``), or a list of them.
        sender: Sender, or a model's label (``"shop.Order"``) for any signal; ``None`` for every sender.
        weak: As for ``Signal.connect``. A durable receiver ignores it.
        dispatch_uid: As for ``Signal.connect``. A durable receiver ignores it.
        after_commit: Call the receiver in this process after the open transaction is committed.
        durable: Run the receiver in a worker after the commit.
        retries: Attempts after the first one, 8 by default.
        backoff: Seconds before the first retry, doubled for each next one; 10 by default. Or a function that returns
            the seconds for an attempt (1, 2, ...).
        key: The order of deliveries: ``"pk"`` for the object (default), the name of a field or argument, a
            function of these values, or ``None`` for no order.
        timeout: Seconds that an attempt may take, 300 by default; ``None`` for no limit.
        on_dead: ``"block"`` (default) holds back later deliveries with the key of a dead letter, ``"skip"`` does not.
        queue: Name of the queue, at most 64 characters; ``"default"`` by default.

    Raises:
        CannotBeDurable: the receiver, signal or sender cannot be used with ``durable=True``.
        TypeError: an option is unknown or does not fit the others, or a signal is not a signal.
        ValueError: the value of an option is invalid.
    """
    _check_options(after_commit, durable, options)
    signals = [signal] if isinstance(signal, Signal | str) else list(signal)
    if isinstance(sender, str):
        _check_model_label(sender)

    def decorate(function: ReceiverT) -> ReceiverT:
        if durable:
            processors.install(OUTBOX)
            register_durable(function, signals, sender, options)
            return function
        target: Callable[..., Any] = function
        keep, uid = weak, dispatch_uid
        if after_commit:
            keep = weak and hasattr(function, "__dict__")
            target = _wrap_after_commit(function, keep)
            uid = uid or make_id(function)  # by which Django finds the function itself, to disconnect it
        for each_signal in signals:
            _connect(resolve_signal(each_signal), target, sender, keep, uid)
        return function

    return decorate


def _check_options(after_commit: bool, durable: bool, options: Mapping[str, Any]) -> None:
    known = DurableOptions.__annotations__
    for name in options:
        if name not in known:
            close = get_close_matches(name, (*known, "sender", "weak", "dispatch_uid", "after_commit", "durable"), n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"the options of durable=True are {', '.join(known)}."
            raise TypeError(f"receiver() has no option {name!r}; {hint}")
    if options and not durable:
        raise TypeError(
            f"receiver() was given {', '.join(options)}, which only durable receivers have: add durable=True."
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
    "queue": (lambda v: isinstance(v, str) and 0 < len(v) <= 64, "a name of at most 64 characters"),
}


def _check_model_label(sender: str) -> None:
    if sender.count(".") != 1:
        raise ValueError(f"sender={sender!r} is not the label of a model; 'app.Model' was expected.")


def _connect(signal: Signal, target: Callable[..., Any], sender: object, weak: bool, uid: object) -> None:
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
"""The connected wrappers, by Django's id of the receiver and whether it is held weakly."""


def _wrap_after_commit(function: Any, weak: bool) -> Callable[..., None]:
    """Return the wrapper to connect for ``function``. If weak, it lives as long as the function or method object."""
    key = make_id(function), weak
    wrapper = _after_commit_wrappers.get(key)
    if wrapper is not None:
        return wrapper
    is_weak_method = weak and inspect.ismethod(function)
    get_function = weakref.WeakMethod(function) if is_weak_method else lambda: function

    @wraps(function.__func__ if is_weak_method else function)
    def after_commit(**kwargs: Any) -> None:
        target = get_function()
        if target is None:
            return
        call = async_to_sync(target) if iscoroutinefunction(target) else target

        @wraps(target)  # not a partial: Django 5.2 reads the name of a robust hook that raises
        def run() -> None:
            call(**kwargs)

        transaction.on_commit(run, using=_get_commit_alias(kwargs), robust=True)

    if is_weak_method:
        weakref.finalize(function.__self__, _release_wrapper, after_commit).atexit = False
    elif weak:
        function.__dict__["_signalbox_after_commit"] = after_commit
    after_commit._signalbox_receiver_id = key[0]  # type: ignore[attr-defined]  # read where receivers are listed
    _after_commit_wrappers[key] = after_commit
    return after_commit


def _release_wrapper(wrapper: object) -> None:
    """Do nothing. The finalizer of the method's object holds ``wrapper`` as an argument until it has called this."""


def _get_commit_alias(arguments: Mapping[str, Any]) -> str:
    """Return the database whose commit the receiver runs after: that of ``using``, or of the send's object."""
    using = arguments.get("using")
    if isinstance(using, str):
        return using
    instance = arguments.get("instance", arguments.get("user"))
    alias: str | None = instance._state.db if isinstance(instance, Model) else None
    return alias or "default"


__all__ = ["receiver"]
