"""Reads ``Signal.receivers``: the connected receivers of a signal and their names. No other module reads it.

Django keeps a receiver as a tuple of three fields on 5.2 and of four on 6.x.
"""

from __future__ import annotations

import os
import sys
import weakref
from dataclasses import dataclass
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any, NamedTuple

from django.dispatch.dispatcher import NONE_ID

from signalbox.core import interrupts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from django.dispatch import Signal


@dataclass(frozen=True, kw_only=True, slots=True)
class ConnectedReceiver:
    """One entry in a signal's list of receivers."""

    receiver: Any
    """The callable itself; ``None`` when it was connected weakly and has been collected."""
    sender: Any
    """The sender; ``None`` for any sender, or if Django keeps only an id that is not of a model or an app."""
    sender_key: object
    """The id by which Django compares senders; equal to ``any_sender`` for receivers of every sender."""
    weak: bool
    """Whether the signal has only a weak reference to the receiver."""
    dispatch_uid: object | None
    """The ``dispatch_uid`` it was connected with, if any."""
    is_async: bool
    """Whether it is a coroutine function."""

    @property
    def any_sender(self) -> bool:
        """Whether it is called for every sender."""
        return self.sender_key == NONE_ID


class CodeLocation(NamedTuple):
    """The name of a receiver and its location."""

    name: str
    """Dotted name, as ``shop.signals.send_invoice``."""
    location: str
    """``file:line`` of the function's definition; empty if it has none."""


def get_connected_receivers(signal: Signal) -> list[ConnectedReceiver]:
    """Return the receivers of ``signal`` in the order of their connection, including dead references."""
    entries = list(signal.receivers)
    senders = _get_senders_by_id() if any(len(entry) < 4 for entry in entries) else {}
    return [_build_connected_receiver(entry, senders) for entry in entries]


def has_receiver_outside_django(signal: Signal, sender: Any) -> bool:
    """Return True if a send from ``sender`` reaches a receiver that is not part of Django."""
    keys = (NONE_ID, make_id(sender))
    for (_, sender_key), reference, *_ in list(signal.receivers):
        receiver: Any = reference() if isinstance(reference, weakref.ReferenceType) else reference
        if sender_key in keys and receiver is not None and not is_in_django(get_name(receiver)):
            return True
    return False


def is_in_django(name: str) -> bool:
    """Return True if ``name``, the dotted name of a receiver, is that of Django's own code."""
    return name.startswith("django.")


def _build_connected_receiver(entry: Any, senders: Mapping[object, Any]) -> ConnectedReceiver:
    (receiver_key, sender_key), receiver, *rest = entry
    is_async = rest[-1]
    sender_ref = rest[0] if len(rest) > 1 else None
    weak = isinstance(receiver, weakref.ReferenceType)
    target = receiver() if isinstance(receiver, weakref.ReferenceType) else receiver
    return ConnectedReceiver(
        receiver=target,
        sender=_get_sender(sender_key, sender_ref, senders),
        sender_key=sender_key,
        weak=weak,
        dispatch_uid=None
        if target is None or receiver_key == make_id(target)
        else _get_dispatch_uid(receiver_key, target),
        is_async=bool(is_async),
    )


def make_id(target: Any) -> object:
    """Return the key Django gives a receiver that was connected without a ``dispatch_uid``."""
    if hasattr(target, "__func__"):
        return (id(target.__self__), id(target.__func__))
    return id(target)


def _get_dispatch_uid(receiver_key: object, target: Any) -> object | None:
    """Return the ``dispatch_uid`` within ``receiver_key``; a bare int that is not the receiver's id is one as well.

    The wrapper of a receiver that runs after the commit has the id of that receiver.
    """
    stands_for = vars(target).get("_signalbox_receiver_id") if type(target) is FunctionType else None
    return None if receiver_key in (make_id(target), stands_for) else receiver_key


def _get_sender(sender_key: object, sender_ref: Any, senders: Mapping[object, Any]) -> Any:
    if sender_key == NONE_ID:
        return None
    if sender_ref is not None:
        return sender_ref()
    return senders.get(sender_key)


def _get_senders_by_id() -> dict[object, Any]:
    """Return models and apps by id: before Django 6.0 a signal keeps no reference to its senders, only their ids."""
    from django.apps import apps

    models = apps.get_models(include_auto_created=True, include_swapped=True)
    return {id(sender): sender for sender in (*models, *apps.get_app_configs())}


_locations: dict[int, tuple[weakref.ref[Any], CodeLocation]] = {}


def get_code_location(receiver: Any) -> CodeLocation:
    """Return the name and location of ``receiver``. They are cached by identity, not by ``==`` or ``hash()``."""
    target = receiver.__func__ if type(receiver) is MethodType else receiver
    known = _locations.get(id(target))
    if known is not None and known[0]() is target:
        return known[1]
    found = _find_code_location(target)
    key = id(target)
    try:
        _locations[key] = (weakref.ref(target, lambda _: _locations.pop(key, None)), found)
    except TypeError:  # weak references are impossible, so it is not cached
        return found
    return found


def get_name(receiver: Any) -> str:
    """Return the dotted name of ``receiver``; it never raises and never calls ``str()`` or ``repr()`` on it."""
    return get_code_location(receiver).name


def get_location(receiver: Any) -> str:
    """Return ``file:line`` of ``receiver``, or an empty text."""
    return get_code_location(receiver).location


def _find_code_location(receiver: Any) -> CodeLocation:
    try:
        return CodeLocation(_get_name(receiver), _get_location(receiver))
    except Exception as error:  # noqa: BLE001 - a receiver's own __getattr__ may raise anything; its type cannot
        interrupts.raise_if_interrupt(error)
        kind = type(receiver)
        return CodeLocation(f"{kind.__module__}.{kind.__qualname__}", "")


def _get_name(receiver: Any) -> str:
    if isinstance(receiver, partial):
        return f"functools.partial({_get_name(receiver.func)})"
    if isinstance(receiver, MethodType):
        return _get_name(receiver.__func__)
    if isinstance(receiver, FunctionType) and receiver.__qualname__ == receiver.__code__.co_qualname:
        # A wrapper has the name of its own code if what it wraps has none, as Sentry's of a partial or an instance.
        wrapped = receiver.__dict__.get("__wrapped__")
        if wrapped is not None and wrapped is not receiver:
            return _get_name(wrapped)
    qualname = getattr(receiver, "__qualname__", None)
    if isinstance(qualname, str):
        return f"{getattr(receiver, '__module__', None) or '?'}.{qualname}"
    kind = type(receiver)
    return f"{kind.__module__}.{kind.__qualname__}"


def _get_location(receiver: Any) -> str:
    code = get_code(receiver)
    return "" if code is None else f"{shorten_path(code.co_filename)}:{code.co_firstlineno}"


def get_code(receiver: Any) -> CodeType | None:
    """Return the code object that runs when ``receiver`` is called, through partials, methods and wrappers."""
    for _ in range(20):  # a chain of wrappers may be a circle
        if isinstance(receiver, partial):
            receiver = receiver.func
        elif isinstance(receiver, MethodType):
            receiver = receiver.__func__
        elif isinstance(receiver, FunctionType):
            inner = receiver.__dict__.get("__wrapped__")
            if inner is None:
                return receiver.__code__
            receiver = inner
        else:
            call = getattr(type(receiver), "__call__", None)  # noqa: B004 - it is the function itself that is wanted
            if not isinstance(call, FunctionType):
                return None
            receiver = call
    return None


def shorten_path(path: str) -> str:
    """Return ``path`` relative to the working directory, a folder of packages or an entry of ``sys.path``."""
    for packages in (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}"):
        if packages in path:  # an environment may be in the working directory
            return path.rpartition(packages)[2]
    for root in (os.getcwd(), *sys.path):
        if root and path.startswith(root + os.sep):
            return path[len(root) + 1 :]
    return path
