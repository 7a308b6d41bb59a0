"""Errors, grouped by their fingerprint (`core/error_fingerprint.py`): class, file, function and receiver.

A group is computed from the newest rows. It has no row that recording would have to update.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from django.db.models import Count, Max, Min, OuterRef, Q, QuerySet, Subquery

from signalbox.core.clock import now_us
from signalbox.models import Error, ErrorState

MAX_ERRORS: Final = 20_000
"""Newest errors that the groups are computed from."""

WINDOW_DAYS: Final = 30
"""Older errors are not counted. In days."""

PAGE_SIZE: Final = 50
"""Groups, or errors of one group, on one page."""

REGRESSED: Final = "regressed"
"""The state of a resolved group with a newer error."""

STATES: Final = (ErrorState.OPEN, ErrorState.RESOLVED, ErrorState.MUTED)
"""States that groups can be filtered by. Regressed groups are open."""

MAX_TRACE_ERRORS: Final = 20
"""Errors that the page of a trace shows."""

_DAY_US: Final = 86_400_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class ErrorGroup:
    """The errors with one fingerprint."""

    newest: Error
    """The newest error, with the class and the place of all."""
    count: int
    """Number of errors in the window."""
    trace_count: int
    """Number of traces in the window that have one."""
    first_seen: int
    """Time of the oldest stored error, in microseconds since the epoch."""
    last_seen: int
    """Time of the newest error in the window."""
    decision: ErrorState | None
    """What an operator decided about it last, None if nothing."""

    @property
    def fingerprint(self) -> str:
        """The fingerprint of its errors."""
        return self.newest.fingerprint

    @property
    def state(self) -> str:
        """``open``, ``resolved``, ``muted`` or ``regressed``."""
        return get_state(self.decision, self.last_seen)

    @property
    def version(self) -> int:
        """What ``change_state()`` expects: the time of the last decision, 0 without one."""
        return 0 if self.decision is None else self.decision.changed


@dataclass(frozen=True, kw_only=True, slots=True)
class ErrorPage:
    """One page of groups, by their newest errors."""

    groups: list[ErrorGroup]
    next_cursor: int | None
    """``before`` of the next page, None on the last page."""
    is_cut_off: bool
    """Whether there are more errors than ``MAX_ERRORS`` within ``WINDOW_DAYS``."""


def get_state(decision: ErrorState | None, last_seen: int) -> str:
    """Return the state of a group, given its newest error's time in microseconds."""
    if decision is None:
        return ErrorState.OPEN
    if decision.state == ErrorState.RESOLVED and last_seen > decision.changed:
        return REGRESSED
    return str(decision.state)


def get_error_page(alias: str, *, state: str = "", text: str = "", before: int | None = None) -> ErrorPage:
    """Return groups of errors of a database.

    Args:
        alias: The alias of the database.
        state: One of ``STATES``; empty for all. Regressed groups are open.
        text: A part of the class, the message, the file, the function or the receiver. A group has the errors with it.
        before: The cursor of the page.
    """
    window, is_cut_off = _get_window(alias)
    errors = window
    if text:
        columns = ("exception", "message", "file", "function", "receiver")
        matching = Q()
        for column in columns:
            matching |= Q(**{f"{column}__icontains": text})
        errors = errors.filter(matching)
    rows = list(
        errors.order_by()
        .values_list("fingerprint")
        .annotate(count=Count("id"), newest=Max("id"), last_seen=Max("time"))
        .order_by("-newest")
    )
    decisions = get_decisions(alias)
    # A newer error without the text decides whether its group has regressed.
    last_seen = dict(window.order_by().values_list("fingerprint").annotate(last_seen=Max("time"))) if text else {}
    rows = [(*row[:3], last_seen.get(row[0], row[3])) for row in rows]
    wanted = [
        row
        for row in rows
        if (before is None or row[2] < before) and _has_state(get_state(decisions.get(row[0]), row[3]), state)
    ]
    shown = wanted[:PAGE_SIZE]
    groups = _build_groups(alias, errors, shown, decisions)
    return ErrorPage(
        groups=groups, next_cursor=shown[-1][2] if len(wanted) > PAGE_SIZE else None, is_cut_off=is_cut_off
    )


def _has_state(found: str, wanted: str) -> bool:
    return not wanted or found == wanted or (found == REGRESSED and wanted == ErrorState.OPEN)


def _get_window(alias: str) -> tuple[QuerySet[Error], bool]:
    """Return the errors from which groups are computed, and whether ``MAX_ERRORS`` has left some out."""
    newest = Error.objects.using(alias).order_by("-id").values_list("id", flat=True).first() or 0
    since = now_us() - WINDOW_DAYS * _DAY_US
    lowest = newest - MAX_ERRORS
    older = Error.objects.using(alias).filter(id__lte=lowest).order_by("-id").values_list("time", flat=True).first()
    return Error.objects.using(alias).filter(id__gt=lowest, time__gte=since), older is not None and older >= since


def _build_groups(
    alias: str,
    errors: QuerySet[Error],
    rows: Sequence[tuple[str, int, int, int]],
    decisions: Mapping[str, ErrorState],
) -> list[ErrorGroup]:
    """Return the groups of ``rows``: fingerprint, number of errors, id of the newest one, and its time."""
    stored = Error.objects.using(alias)
    oldest = Error.objects.using(alias).filter(fingerprint=OuterRef("fingerprint")).order_by("fingerprint", "id")
    with_first_seen = stored.annotate(first_seen=Subquery(oldest.values("time")[:1]))
    newest: dict[int, Any] = with_first_seen.in_bulk([row[2] for row in rows])
    fingerprints = [row[0] for row in rows]
    counted = errors.filter(fingerprint__in=fingerprints).order_by()
    trace_counts = dict(counted.values_list("fingerprint").annotate(number=Count("trace_id", distinct=True)))
    return [
        ErrorGroup(
            newest=newest[newest_id],
            count=count,
            trace_count=trace_counts.get(fingerprint, 0),
            first_seen=newest[newest_id].first_seen,
            last_seen=last_seen,
            decision=decisions.get(fingerprint),
        )
        for fingerprint, count, newest_id, last_seen in rows
        if newest_id in newest  # a purge may have deleted it since
    ]


def get_first_seen(alias: str, fingerprint: str) -> int:
    """Return the time of the oldest stored error of a group, in microseconds; 0 if it has none."""
    oldest = _order_group(alias, fingerprint).values_list("time", flat=True).first()
    return oldest or 0


def _order_group(alias: str, fingerprint: str, direction: str = "") -> QuerySet[Error]:
    # Ordered by both columns, so that PostgreSQL reads the index of the fingerprint and not the primary key.
    errors = Error.objects.using(alias).filter(fingerprint__range=(fingerprint, fingerprint))
    return errors.order_by(f"{direction}fingerprint", f"{direction}id")


def find_group(alias: str, fingerprint: str) -> ErrorGroup | None:
    """Return the group with ``fingerprint``, None if no error of it is stored."""
    newest = _order_group(alias, fingerprint, "-").first()
    if newest is None:
        return None
    window, _ = _get_window(alias)
    counted = window.filter(fingerprint=fingerprint).order_by()
    sums = counted.aggregate(number=Count("id"), traces=Count("trace_id", distinct=True), last=Max("time"))
    return ErrorGroup(
        newest=newest,
        count=sums["number"],
        trace_count=sums["traces"],
        first_seen=get_first_seen(alias, fingerprint),
        last_seen=sums["last"] or newest.time,
        decision=ErrorState.objects.using(alias).filter(fingerprint=fingerprint).first(),
    )


def find_fingerprints(alias: str, prefix: str) -> list[str]:
    """Return at most two fingerprints that begin with ``prefix``, hexadecimal digits in lower case."""
    between = (prefix.ljust(32, "0"), prefix.ljust(32, "f"))
    found = Error.objects.using(alias).filter(fingerprint__range=between).order_by("fingerprint")
    first = found.values_list("fingerprint", flat=True).first()
    if first is None:
        return []
    second = found.filter(fingerprint__gt=first).values_list("fingerprint", flat=True).first()
    return [first] if second is None else [first, second]


def get_group_errors(alias: str, fingerprint: str, before: int | None = None) -> tuple[list[Error], int | None]:
    """Return the errors of a group below the id ``before``, newest first, and ``before`` of the next page."""
    errors = _order_group(alias, fingerprint, "-")
    if before is not None:
        errors = errors.filter(id__lt=before)
    rows = list(errors[: PAGE_SIZE + 1])
    return rows[:PAGE_SIZE], rows[PAGE_SIZE - 1].id if len(rows) > PAGE_SIZE else None


# ------------------------------------------------------------------ errors of traces


@dataclass(frozen=True, kw_only=True, slots=True)
class TraceError:
    """One error of a trace."""

    error: Error
    state: str
    """The state of its group."""


class TraceErrorCount(NamedTuple):
    """The stored errors of one trace."""

    muted: int
    """Number of errors whose groups are muted."""
    fingerprint: str
    """The group of its first error that is not muted, otherwise of its first one."""


def get_trace_errors(alias: str, trace_id: str) -> tuple[list[TraceError], bool]:
    """Return the first errors of a trace in their order, and whether it has more than ``MAX_TRACE_ERRORS``."""
    rows = list(Error.objects.using(alias).filter(trace_id=trace_id).order_by("time", "id")[: MAX_TRACE_ERRORS + 1])
    decisions = get_decisions(alias, {row.fingerprint for row in rows})
    errors = [
        TraceError(error=row, state=get_state(decisions.get(row.fingerprint), row.time))
        for row in rows[:MAX_TRACE_ERRORS]
    ]
    return errors, len(rows) > MAX_TRACE_ERRORS


def count_trace_errors(alias: str, trace_ids: Iterable[str]) -> dict[str, TraceErrorCount]:
    """Return the errors of several traces, by trace id."""
    rows = Error.objects.using(alias).filter(trace_id__in=list(trace_ids)).order_by()
    by_group = list(rows.values_list("trace_id", "fingerprint").annotate(number=Count("id"), first=Min("id")))
    if not by_group:
        return {}
    decisions = get_decisions(alias, {row[1] for row in by_group})
    muted = {one.fingerprint for one in decisions.values() if one.state == ErrorState.MUTED}
    found: dict[str, TraceErrorCount] = {}
    for trace_id in {row[0] for row in by_group}:
        groups = [row for row in by_group if row[0] == trace_id]
        first = min(groups, key=lambda row: (row[1] in muted, row[3]))
        muted_count = sum(row[2] for row in groups if row[1] in muted)
        found[trace_id] = TraceErrorCount(muted=muted_count, fingerprint=first[1])
    return found


def get_decisions(alias: str, fingerprints: Iterable[str] | None = None) -> dict[str, ErrorState]:
    """Return the decisions about groups, by fingerprint; without ``fingerprints`` all of them."""
    decisions = ErrorState.objects.using(alias)
    return {
        one.fingerprint: one
        for one in (decisions.all() if fingerprints is None else decisions.filter(fingerprint__in=list(fingerprints)))
    }
