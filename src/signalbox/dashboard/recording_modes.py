"""How the sends of a signal are recorded in this process, and which setting decides it."""

from __future__ import annotations

from typing import NamedTuple

from django.utils.translation import gettext as _

from signalbox import conf
from signalbox.core import catalog
from signalbox.instrumentation import install
from signalbox.instrumentation.init_counter import INIT_SIGNALS
from signalbox.instrumentation.recording_filter import RecordingFilter
from signalbox.outbox import registry


class RecordingMode(NamedTuple):
    """The result for one signal."""

    name: str
    """``event``, ``counted`` or ``off``."""
    label: str
    """The same as words of the page."""
    reason: str
    """The setting that decides it."""
    note: str
    """What the mode leaves out; empty if nothing."""


def get_recording_mode(name: str) -> RecordingMode:
    """Return how sends of the signal ``name`` are recorded."""
    if conf.is_disabled() or not install.is_recording():
        return _build_off(_("Recording is off in this process."))
    config = conf.get()
    entry = catalog.BUILTIN_SIGNALS.get(name)
    recording_filter = RecordingFilter(config)
    setting = f"RECORD = {_format_record(config.RECORD)}"
    is_selected = name in recording_filter or (entry is None and recording_filter.includes_custom(name))
    if entry is not None and entry.group == "bulk" and config.BULK == "off":
        setting, is_selected = 'BULK = "off"', False
    if not is_selected:
        if name in registry.get_subscribed_signals() or name in install.get_recorded_signals().values():
            reason = _("%(setting)s leaves it out. A durable receiver or an event processor needs it.")
            note = _("Only sends that one of them needs have an event.")
            return RecordingMode("event", _("Event, for some senders"), reason % {"setting": setting}, note)
        return _build_off(_("%(setting)s leaves it out.") % {"setting": setting})
    reason = _("%(setting)s includes it.") % {"setting": setting}
    if name in INIT_SIGNALS:
        note = _("Each trace has the number of its sends by sender, and no event.")
        return RecordingMode("counted", _("Counted"), reason, note)
    if name in catalog.START_UP_SIGNALS:
        note = _("Sends that only Django receives are counted by trace. Others have an event.")
        return RecordingMode("counted", _("Counted, or an event"), reason, note)
    return RecordingMode("event", _("Event"), reason, _describe_omissions(name, recording_filter))


def _build_off(reason: str) -> RecordingMode:
    return RecordingMode("off", _("Off"), reason, "")


def _describe_omissions(name: str, recording_filter: RecordingFilter) -> str:
    if name in ("pre_save", "pre_delete"):
        return _("Without receivers it has no event. The event of the write has its time.")
    if recording_filter.is_audit and name == "post_save":
        return _("A save that changes nothing is not recorded.")
    return ""


def _format_record(value: str | tuple[str, ...]) -> str:
    return f'"{value}"' if isinstance(value, str) else "[" + ", ".join(f'"{item}"' for item in value) + "]"
