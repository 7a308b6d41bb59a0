"""The durable receivers of this process and their subscriptions to signals and senders.

``registration`` adds them. A durable receiver is not connected to its signal.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import TYPE_CHECKING, Any

from signalbox.core import naming

if TYPE_CHECKING:
    from django.dispatch import Signal

    from signalbox.outbox.durable_receiver import DurableReceiver

_receivers_by_signal: dict[str, dict[str | None, tuple[DurableReceiver, ...]]] = {}
"""Receivers by name of signal and label of sender, which is ``None`` for receivers of any sender."""


receiver_locations: dict[str, set[str]] = {}
"""Locations of the functions of each durable receiver's name. More than one is a name clash."""


def _get_location(function: Any) -> str:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return "" if code is None else f"{code.co_filename}:{code.co_firstlineno}"


def add_subscription(durable: DurableReceiver, signal: str, sender: str | None) -> None:
    """Subscribe a receiver. One of the same name is replaced: it was connected or imported again."""
    receiver_locations.setdefault(durable.name, set()).add(_get_location(durable.function))
    by_sender = _receivers_by_signal.setdefault(signal, {})
    others = tuple(other for other in by_sender.get(sender, ()) if other.name != durable.name)
    by_sender[sender] = (*others, durable)


def register_signal_name(signal: Signal, name: str) -> str:
    """Set the name under which a custom signal is recorded, move its subscriptions to it, and return it."""
    previous_name = naming.recorded_names.get(signal)
    naming.recorded_names[signal] = name
    if previous_name is not None and previous_name != name and previous_name in _receivers_by_signal:
        for sender, durables in _receivers_by_signal.pop(previous_name).items():
            for durable in durables:
                add_subscription(durable, name, sender)
    return name


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


def import_receiver_module(name: str) -> str:
    """Import the module of the receiver ``name``, or the next outer one that exists; return why it may not be found."""
    parts = name.split(".")
    reason = "it is not registered as a durable receiver here"
    for end in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:end])
        try:
            import_module(module)
            break
        except Exception as error:  # noqa: BLE001 - a module may raise any error, and another version may not
            reason = f"{module} can't be imported: {error!r}"
    return reason


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
