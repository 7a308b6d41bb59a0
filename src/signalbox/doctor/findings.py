"""The findings of the doctor."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

DOCUMENTATION_URL: Final = "https://django-signalbox.readthedocs.io/en/latest/"
"""Where this documentation is published. ``pyproject.toml`` has the same address."""


class Severity(IntEnum):
    """The severity of a finding."""

    INFO = 20
    """Worth knowing; it may be intended."""
    WARNING = 30
    """It works, but has a hidden cost or fails in some situations."""
    ERROR = 40
    """The receiver never runs, or always raises an exception."""

    @property
    def label(self) -> str:
        """Lower-case name, as used on the command line and in JSON."""
        return self.name.lower()


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceLine:
    """One line of source in a finding's excerpt."""

    number: int
    """Line number in the file, from 1."""
    text: str
    """The line without its line break and without secrets."""
    highlighted: bool
    """Whether this is the line of the finding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One defect, with its effect and its fix."""

    id: str
    """Id of the rule as Django's checks know it, such as ``signalbox.D002``."""
    rule: str
    """Name of the rule, such as ``shadowed-receiver``."""
    severity: Severity
    """The severity."""
    app: str
    """Label of the app that the place belongs to; empty where it is in none."""
    path: str
    """Absolute path of the file; empty where the place is not known."""
    line: int
    """Line in the file; 0 where the place is not known."""
    location: str
    """``file:line`` with a shortened path; empty if unknown."""
    signal: str
    """Short name of a built-in signal, dotted path of another; several are joined by commas."""
    receiver: str
    """Dotted name of the receiver; empty where the finding is about a signal."""
    message: str
    """What happens at run time."""
    reason: str
    """Why it happens."""
    hint: str
    """What to change."""
    excerpt: tuple[SourceLine, ...] = ()
    """The source around the place without secrets; empty if it can't be read."""

    @property
    def url(self) -> str:
        """Address of the page about the rule."""
        return f"{DOCUMENTATION_URL}rules/{self.id.rpartition('.')[2]}.html"

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as plain values, ready for a JSON encoder."""
        return {
            "id": self.id,
            "rule": self.rule,
            "severity": self.severity.label,
            "app": self.app,
            "location": self.location,
            "signal": self.signal,
            "receiver": self.receiver,
            "message": self.message,
            "reason": self.reason,
            "hint": self.hint,
            "url": self.url,
            "excerpt": [
                {"line": line.number, "text": line.text, "highlighted": line.highlighted} for line in self.excerpt
            ],
        }
