"""Reading the register without being in it: a command that reads is no work of the site's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from signalbox.core import tracing
from signalbox.instrumentation import install
from signalbox.pipeline import exporter

if TYPE_CHECKING:
    from django.dispatch import Signal

_watched: dict[Signal, str] = {}


def be_quiet() -> None:
    """Record nothing of this process any more, nor what happened while it started. For a process of one's own only."""
    _watched.update(install.watched())
    exporter.forget()
    install.uninstall()
    own = tracing.process()
    own.pending.clear()
    own.late.clear()
    for counts in own.counts.values():
        counts.clear()


def watched() -> dict[Signal, str]:
    """Return the signals whose sends are recorded, or were before this process became quiet, by name."""
    return install.watched() or dict(_watched)
