"""What the timeline is narrowed to: read from the address, said in the address, turned into a query."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Self
from urllib.parse import urlencode

from django.db.models import Exists, OuterRef, Q

from signalbox.models import Trace
from signalbox.queries.filters import EventFilter, FilterError

FIELD_LABELS: Final[Mapping[str, str]] = {
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

ERRORS_OUTCOME: Final = "errors"
"""The outcome that asks for events that tell of an error, whatever became of their change."""

REQUEST_EXCEPTION_SIGNAL: Final = "got_request_exception"
"""The signal of a request that ended in an exception."""

ERRORS_ONLY: Final = Q(errors__gt=0) | Q(outcome="failed") | Q(signal=REQUEST_EXCEPTION_SIGNAL)
"""What the row of such an event meets: a receiver raised, the operation did, or the request."""

MATCH_NOTHING: Final = Q(pk__in=[])


MAX_VALUE_LENGTH: Final = 200
"""Characters of a value in an address that are read."""


def clean_param(value: str) -> str:
    """Return what an address gives as a value that every database takes: PostgreSQL knows no text with a NUL."""
    return value.replace("\0", "")[:MAX_VALUE_LENGTH]


@dataclass(frozen=True, kw_only=True, slots=True)
class TimelineQuery:
    """What an address asks for."""

    params: Mapping[str, str] = field(default_factory=dict)
    """What was given, by name, as it was given."""
    event_filter: EventFilter = field(default_factory=EventFilter)
    """What it means."""
    errors_only: bool = False
    """Whether events are wanted that tell of an error."""
    status: str = ""
    """The status of the traces that are wanted; ``5xx`` stands for all that begin with 5."""
    error: str = ""
    """Why it means nothing; empty if it does."""

    @classmethod
    def parse(cls, params: Mapping[str, str]) -> Self:
        """Return what ``params`` ask for; of what can't be read, ``error`` tells."""
        parts = {name: value for name in FIELD_LABELS if (value := clean_param(params.get(name, "")).strip())}
        errors = parts.get("outcome") == ERRORS_OUTCOME
        meant = {name: value for name, value in parts.items() if not (name == "outcome" and errors)}
        try:
            return cls(
                params=parts, event_filter=EventFilter.parse(meant), errors_only=errors, status=parts.get("status", "")
            )
        except FilterError as error:
            return cls(params=parts, error=str(error))

    def __bool__(self) -> bool:
        return bool(self.params)

    @property
    def query_string(self) -> str:
        """The query of the address that asks for this."""
        return urlencode(self.params)

    def active_filters(self) -> list[tuple[str, str, str]]:
        """Return each part as its label, its value, and the address without it."""
        return [
            (FIELD_LABELS[name], value, urlencode({k: v for k, v in self.params.items() if k != name}))
            for name, value in self.params.items()
        ]

    @property
    def is_indexed(self) -> bool:
        """Whether an index leads to what is asked for; what is left must be looked for, event by event."""
        return self.params.keys() <= {"since", "until"} or self.params.keys() in ({"signal"}, {"object"})

    def to_q(self) -> Q:
        """Return what an event's row must meet."""
        if self.error:
            return MATCH_NOTHING
        found = self.event_filter.to_q()
        if self.errors_only:
            found &= ERRORS_ONLY
        if self.status:
            many = re.fullmatch("([1-5])xx", self.status)
            status = Q(status__startswith=many[1]) if many else Q(status=self.status)
            found &= Q(Exists(Trace.objects.filter(status, trace_id=OuterRef("trace_id"))))
        return found
