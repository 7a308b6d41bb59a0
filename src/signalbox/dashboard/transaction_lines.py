"""The commits and rollbacks of a trace, as lines on a time axis. Their times are stored with the row of the trace."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, NamedTuple

from django.utils.translation import gettext, ngettext

from signalbox.dashboard import formats

if TYPE_CHECKING:
    from signalbox.dashboard.time_axis import TimeAxis
    from signalbox.queries.transaction_ends import TransactionEnd

MAX_LINES: Final = 20
"""Maximum number of commits and rollbacks that are drawn, in order of time."""

LABEL_PERCENT: Final = 14
"""Width of the label of a line, in per cent of the axis."""


class TransactionLine(NamedTuple):
    """A commit or a rollback with its position."""

    end: TransactionEnd
    position: str
    """Its position, in per cent of the axis."""
    offset_us: int
    """Microseconds from the start of the axis."""
    has_label: bool
    """Whether there is room for its label."""

    def __str__(self) -> str:
        number = self.end.event_count
        values = {
            "kind": self.label,
            "number": number,
            "database": self.end.database,
            "time": formats.format_duration(self.offset_us),
        }
        if number is None:
            return gettext("%(kind)s on %(database)s at %(time)s") % values
        return (
            ngettext(
                "%(kind)s of %(number)d event on %(database)s at %(time)s",
                "%(kind)s of %(number)d events on %(database)s at %(time)s",
                number,
            )
            % values
        )

    @property
    def label(self) -> str:
        """Its label: ``commit``, ``rollback`` or ``savepoint rollback``, in the active language."""
        if self.end.outcome == "committed":
            return gettext("commit")
        return gettext("savepoint rollback") if self.end.is_savepoint else gettext("rollback")

    @property
    def is_label_left(self) -> bool:
        """Whether its label is on its left, as it does not fit on its right."""
        return float(self.position) > 100 - LABEL_PERCENT


def build_lines(ends: Iterable[TransactionEnd], axis: TimeAxis) -> list[TransactionLine]:
    """Return the first ``MAX_LINES`` ends on the axis as lines."""
    lines: list[TransactionLine] = []
    last_label = -100.0
    for end in ends:
        if len(lines) == MAX_LINES:
            break
        if not axis.start <= end.time <= axis.end:
            continue
        percent = axis.get_percent(end.time)
        has_label = percent - last_label >= LABEL_PERCENT
        last_label = percent if has_label else last_label
        lines.append(TransactionLine(end, axis.place(end.time), end.time - axis.start, has_label))
    return lines
