"""Resolves the RECORD setting to names of signals."""

from __future__ import annotations

from typing import Final

from signalbox import conf
from signalbox.core import catalog

AUDIT_SIGNALS: Final = frozenset(
    {
        "post_save",
        "post_delete",
        "m2m_changed",
        "bulk_create",
        "bulk_update",
        "update",
        "bulk_delete",
        "user_logged_in",
        "user_logged_out",
        "user_login_failed",
        "got_request_exception",
    }
)
"""Data changes, logins and errors."""


class RecordingFilter:
    """The signals that are recorded."""

    __slots__ = ("is_audit", "records_all", "signal_names")

    def __init__(self, config: conf.Config) -> None:
        self.records_all = config.RECORD == "all"
        self.is_audit = config.RECORD == "audit"
        """True if saves that change nothing are not recorded."""
        selected = AUDIT_SIGNALS if self.is_audit else frozenset(config.RECORD) if not self.records_all else frozenset()
        self.signal_names = frozenset(
            name
            for name, entry in catalog.BUILTIN_SIGNALS.items()
            if self.records_all or name in selected or entry.group in selected
        ) | (selected - catalog.BUILTIN_SIGNALS.keys())

    def __contains__(self, name: object) -> bool:
        return name in self.signal_names

    def includes_custom(self, name: str) -> bool:
        """Return True if the custom signal of this dotted name is recorded."""
        return self.records_all or "custom" in self.signal_names or name in self.signal_names
