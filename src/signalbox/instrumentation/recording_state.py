"""Disables recording in a process that only reads the event log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from signalbox.core import tracing
from signalbox.instrumentation import install, patching
from signalbox.pipeline import exporter

if TYPE_CHECKING:
    from django.dispatch import Signal

    from signalbox.instrumentation.patching import PatchState

_recorded_signals: dict[Signal, str] = {}
_patch_states: tuple[bool, list[PatchState]] | None = None
"""What ``get_patch_states`` returned before recording was disabled."""


def disable_recording_for_process() -> None:
    """Stop recording in this process, and discard its events so far. Only for a process that runs one command."""
    global _patch_states
    _patch_states = get_patch_states()
    _recorded_signals.update(install.get_recorded_signals())
    exporter.discard_pending()
    install.stop_recording()
    process_trace = tracing.get_process_trace()
    process_trace.pending.clear()
    process_trace.updates.clear()
    process_trace.send_counts.clear()


def get_recorded_signals() -> dict[Signal, str]:
    """Return the names of the recorded signals, by signal; those from before recording was disabled."""
    return install.get_recorded_signals() or dict(_recorded_signals)


def get_patch_states() -> tuple[bool, list[PatchState]]:
    """Return whether this process records, and the states of the patches; those from before it was disabled."""
    if _patch_states is not None and not install.is_recording():
        return _patch_states
    is_recording = install.is_recording()
    return is_recording, list(patching.get_states(is_recording=is_recording))
