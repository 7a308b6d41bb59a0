"""What the doctor hands out: findings."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any


class Severity(IntEnum):
    """How much a finding hurts."""

    INFO = 20
    """Worth knowing; it may be meant so."""
    WARNING = 30
    """It works, and will surprise: by its cost, at another signal, or once something fails."""
    ERROR = 40
    """It doesn't do what is written: a receiver that never runs, or raises whenever it does."""

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
    """Whether it is the line that the finding is about."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One defect, with what it does and how it is mended."""

    id: str
    """Id of the rule as Django's checks know it: ``signalbox.D002``."""
    rule: str
    """Name of the rule: ``shadowed-receiver``."""
    severity: Severity
    """How much it hurts."""
    app: str
    """Label of the app that the place belongs to; empty where it is in none."""
    path: str
    """Absolute path of the file; empty where the place is not known."""
    line: int
    """Line in the file; 0 where the place is not known."""
    location: str
    """``file:line`` as a person would say it; empty where it is not known."""
    signal: str
    """Short name of a built-in signal, dotted path of another; several are joined by commas."""
    receiver: str
    """Dotted name of the receiver; empty where the finding is about a signal."""
    message: str
    """What happens at run time."""
    reason: str
    """Why it happens."""
    hint: str
    """What to write instead."""
    excerpt: tuple[SourceLine, ...] = ()
    """The source around the place, secrets taken out; empty where it can't be read."""

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
            "excerpt": [
                {"line": line.number, "text": line.text, "highlighted": line.highlighted} for line in self.excerpt
            ],
        }
