"""Short names of signals and senders, for people."""

from __future__ import annotations

from signalbox.core import catalog


def get_signal_group(signal: str) -> str:
    """Return a signal's group by its name: ``model`` for ``post_save``, ``custom`` for what Django doesn't know."""
    entry = catalog.BUILTIN_SIGNALS.get(signal)
    return entry.group if entry else "custom"


def short_name(dotted: str) -> str:
    """Return the last part of a dotted name."""
    return dotted.rpartition(".")[2]


def qualifier(dotted: str) -> str:
    """Return a dotted name without its last part, with the dot that follows it."""
    before, dot, _ = dotted.rpartition(".")
    return before + dot


def short_sender(sender: str) -> str:
    """Return a model's label as it is, and of a longer dotted name the last part."""
    return sender if sender.count(".") < 2 else short_name(sender)
