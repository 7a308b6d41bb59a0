"""What the timeline is narrowed to: read from the address, said in the address, turned into a query."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Self
from urllib.parse import urlencode

from django.db.models import Exists, OuterRef, Q

from signalbox.models import Trace
from signalbox.queries.filters import Filter, FilterError

LABELS: Final[Mapping[str, str]] = {
    "text": "Text",
    "group": "Group",
    "signal": "Signal",
    "sender": "Sender",
    "object": "Object",
    "actor": "Actor",
    "outcome": "Outcome",
    "kind": "Kind of trace",
    "status": "Status",
    "since": "From",
    "until": "To",
}
"""Every part that the page asks for, with what it is called there."""

ERRORS: Final = "errors"
"""The outcome that asks for events that tell of an error, whatever became of their change."""

CRASH: Final = "got_request_exception"
"""The signal of a request that ended in an exception."""

WENT_WRONG: Final = Q(errors__gt=0) | Q(outcome="failed") | Q(signal=CRASH)
"""What the row of such an event meets: a receiver raised, the operation did, or the request."""

NOTHING: Final = Q(pk__in=[])


LONGEST: Final = 200
"""Characters of a value in an address that are read."""


def clean(given: str) -> str:
    """Return what an address gives as a value that every database takes: PostgreSQL knows no text with a NUL."""
    return given.replace("\0", "")[:LONGEST]


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What an address asks for."""

    parts: Mapping[str, str] = field(default_factory=dict)
    """What was given, by name, as it was given."""
    wanted: Filter = field(default_factory=Filter)
    """What it means."""
    errors: bool = False
    """Whether events are wanted that tell of an error."""
    status: str = ""
    """The status of the traces that are wanted; ``5xx`` stands for all that begin with 5."""
    problem: str = ""
    """Why it means nothing; empty if it does."""

    @classmethod
    def read(cls, given: Mapping[str, str]) -> Self:
        """Return what ``given`` asks for; of what can't be read, ``problem`` tells."""
        parts = {name: value for name in LABELS if (value := clean(given.get(name, "")).strip())}
        errors = parts.get("outcome") == ERRORS
        meant = {name: value for name, value in parts.items() if not (name == "outcome" and errors)}
        try:
            return cls(parts=parts, wanted=Filter.parse(meant), errors=errors, status=parts.get("status", ""))
        except FilterError as error:
            return cls(parts=parts, problem=str(error))

    def __bool__(self) -> bool:
        return bool(self.parts)

    @property
    def address(self) -> str:
        """The query of the address that asks for this."""
        return urlencode(self.parts)

    def chips(self) -> list[tuple[str, str, str]]:
        """Return each part as its label, its value, and the address without it."""
        return [
            (LABELS[name], value, urlencode({k: v for k, v in self.parts.items() if k != name}))
            for name, value in self.parts.items()
        ]

    @property
    def jumps(self) -> bool:
        """Whether an index leads to what is asked for; what is left must be looked for, event by event."""
        return self.parts.keys() <= {"since", "until"} or self.parts.keys() in ({"signal"}, {"object"})

    def conditions(self) -> Q:
        """Return what an event's row must meet."""
        if self.problem:
            return NOTHING
        found = self.wanted.conditions()
        if self.errors:
            found &= WENT_WRONG
        if self.status:
            many = re.fullmatch("([1-5])xx", self.status)
            status = Q(status__startswith=many[1]) if many else Q(status=self.status)
            found &= Q(Exists(Trace.objects.filter(status, trace_id=OuterRef("trace_id"))))
        return found
