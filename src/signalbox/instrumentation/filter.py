"""What is recorded: the setting, resolved to the names of signals."""

from __future__ import annotations

from typing import Final

from signalbox import conf
from signalbox.core import catalog

AUDIT: Final = frozenset(
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
"""What changed data, who came in, what failed."""


class Scope:
    """The signals that are recorded."""

    __slots__ = ("audit", "everything", "names")

    def __init__(self, config: conf.Config) -> None:
        self.everything = config.RECORD == "all"
        self.audit = config.RECORD == "audit"
        """Whether a save that changed nothing is no news."""
        wanted = AUDIT if self.audit else frozenset(config.RECORD) if not self.everything else frozenset()
        self.names = frozenset(
            name
            for name, entry in catalog.BUILTIN_SIGNALS.items()
            if self.everything or name in wanted or entry.group in wanted
        ) | (wanted - catalog.BUILTIN_SIGNALS.keys())

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def custom(self, name: str) -> bool:
        """Tell whether the custom signal of this dotted name is recorded."""
        return self.everything or "custom" in self.names or name in self.names
