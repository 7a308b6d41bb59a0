"""Disables recording in a process that only reads the event log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from signalbox.core import tracing
from signalbox.instrumentation import install
from signalbox.pipeline import exporter

if TYPE_CHECKING:
    from django.dispatch import Signal

_recorded_signals: dict[Signal, str] = {}


def disable_recording_for_process() -> None:
    """Stop recording in this process, and discard its events so far. Only for a process that runs one command."""
    _recorded_signals.update(install.get_recorded_signals())
    exporter.discard_pending()
    install.stop_recording()
    process_trace = tracing.get_process_trace()
    process_trace.pending.clear()
    process_trace.updates.clear()
    for counts in process_trace.init_counts.values():
        counts.clear()


def get_recorded_signals() -> dict[Signal, str]:
    """Return the signals whose sends are recorded, or were before this process became quiet, by name."""
    return install.get_recorded_signals() or dict(_recorded_signals)
