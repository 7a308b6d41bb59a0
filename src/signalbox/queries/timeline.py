"""What the page reads of the tables: by key, newest first, never counting a table and never skipping rows by number."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Self, TypeVar

from django.db import connections
from django.db.models import Count, F, IntegerField, Q, QuerySet, Value

from signalbox.dashboard import formats
from signalbox.models import Event, Trace
from signalbox.queries import time_index
from signalbox.queries.timeline_query import CRASH, WENT_WRONG, Asked

Row = TypeVar("Row", Event, Trace)

LINES: Final = 40
"""Traces on one page of the timeline."""

CHUNK: Final = 400
"""Events that one statement of a search reads at most."""

WINDOWS: Final = (1_000, 20_000)
"""Keys that one statement of a search looks through where no index leads to what is looked for: at first, and at most.
Each statement looks through twice as many as the one before."""

PATIENCE: Final = 0.06
"""Seconds after which a search rests and says how far it came."""

SMALL: Final = 100
"""Events up to which a trace's line shows what it is made of, all of it."""

SILENCE: Final = 3_600_000_000
"""Microseconds without an event after which a trace without a row is no longer said to run."""

SHARED: Final = 20
"""Rows of one trace that are read, the newest; there are more where a caller gives many requests the same id."""

MOST_ROWS: Final = 500
"""Rows of traces that one statement reads for the lines of a page."""

FRESH: Final = 100
"""Traces that one answer of the live timeline holds at most; where more are new, the page asks for its list anew."""

STRIP_EVENTS: Final = 20_000
"""Keys that the strip chart looks back over; a quarter of them where each one's data must be searched for a text."""


@dataclass(slots=True)
class Line:
    """A trace as one line of the timeline."""

    trace_id: str
    rows: list[Trace] = field(default_factory=list)
    """Its rows, the first to begin first: several where a request took up another's trace, none while it runs."""
    more: bool = False
    """Whether it has more rows than were read."""
    last: int = 0
    """The newest of its events that were seen."""
    started: int = 0
    latest: int = 0
    """When the newest of its events that were seen was sent, in microseconds."""
    signals: Counter[str] = field(default_factory=Counter)
    """What of it was looked at, by signal."""
    seen_errors: int = 0
    seen_rolled_back: int = 0
    seen_actor: str = ""
    matches: int = 0
    """How many of its events a search found, on this page."""

    @property
    def row(self) -> Trace | None:
        """The row of the work that began the trace."""
        return self.rows[0] if self.rows else None

    @property
    def running(self) -> bool:
        """Whether its row is still to come, as far as can be told: it has none, and something happened of late."""
        return not self.rows and self.latest > time.time_ns() // 1_000 - SILENCE

    @property
    def unfinished(self) -> bool:
        """Whether its row will hardly come: its process may have been killed."""
        return not self.rows and not self.running

    @property
    def kind(self) -> str:
        """Its kind; empty while it is not known."""
        return self.rows[0].kind if self.rows else ""

    @property
    def name(self) -> str:
        """What the work is called; while it runs, the signals that it has sent most."""
        if self.rows:
            return self.rows[0].name
        return ", ".join(formats.tail(signal) for signal, _ in self.signals.most_common(3)) or "no event yet"

    @property
    def actor(self) -> str:
        """Who did it."""
        return next((row.actor_label for row in self.rows if row.actor_label), self.seen_actor)

    @property
    def time(self) -> int:
        """When it began, in microseconds."""
        return min(row.time for row in self.rows) if self.rows else self.started

    @property
    def duration(self) -> int | None:
        """Microseconds from its beginning to its end."""
        ends = [row.time + row.duration for row in self.rows if row.duration is not None]
        return max(ends) - self.time if ends else None

    @property
    def events(self) -> int:
        """How many events it holds."""
        return max(sum(row.events for row in self.rows), self.signals.total())

    @property
    def errors(self) -> int:
        """How many receivers, operations and requests raised, as far as was looked."""
        crashed = sum(row.status == "500" for row in self.rows)
        return max(sum(row.errors for row in self.rows), crashed, self.seen_errors)

    @property
    def rolled_back(self) -> int:
        """How many of its events were undone."""
        return max(sum(row.rolled_back for row in self.rows), self.seen_rolled_back)

    @property
    def status(self) -> str:
        """Its status; ``running`` or ``unfinished`` where it has no row."""
        return self.rows[-1].status if self.rows else "running" if self.running else "unfinished"

    @property
    def tone(self) -> str:
        """Whether the status is good, bad or doubtful, or what it is where it has no row; empty if there is none."""
        status = self.status
        if not self.rows:
            return status
        if status.startswith("5") or status == "failed":
            return "bad"
        return "doubtful" if status.startswith("4") else "good" if status else ""

    def groups(self) -> list[tuple[str, int]]:
        """Return how many events of each group were looked at, in the groups' order."""
        found: Counter[str] = Counter()
        for signal, number in self.signals.items():
            found[formats.group(signal)] += number
        return [(group, found[group]) for group in GROUPS if found[group]]

    def mix(self) -> str:
        """Say what it is made of."""
        return ", ".join(f"{number} {group}" for group, number in self.groups()) or "no events"

    def bar(self) -> list[tuple[str, str, str]]:
        """Return each group with its beginning and its width on a bar of 100."""
        found, left = [], 0.0
        total = self.signals.total() or 1
        for group, number in self.groups():
            width = 100 * number / total
            found.append((group, f"{left:.2f}", f"{width:.2f}"))
            left += width
        return found

    def sharing(self, rows: Sequence[Trace]) -> None:
        """Set its rows, given by rising keys: the newest ``SHARED`` of them."""
        self.more = len(rows) > SHARED
        self.rows = sorted(rows[-SHARED:], key=lambda row: (row.time, row.id))

    def take(self, row: Sequence[Any]) -> None:
        """Count one event, given in the order of ``SEEN``."""
        event_id, _, moment, signal, outcome, errors, actor = row
        self.last = max(self.last, event_id)
        self.started = min(self.started or moment, moment)
        self.latest = max(self.latest, moment)
        self.signals[signal] += 1
        self.seen_errors += errors or (signal == CRASH or outcome == "failed")
        self.seen_rolled_back += outcome == "rolled_back"
        self.seen_actor = self.seen_actor or actor


GROUPS: Final = ("model", "bulk", "auth", "custom", "task", "management", "database", "request", "test")
"""The groups of signals, in the order in which the page shows them."""

SEEN: Final = ("id", "trace_id", "time", "signal", "outcome", "errors", "actor_label")


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """One page of the timeline."""

    lines: list[Line]
    older: int | None
    """Where the next page begins; ``None`` at the end of the table."""
    complete: bool
    """Whether the page is full, or the table at its end; else the search rested."""
    reached: int | None
    """The time up to which was searched, in microseconds, where the search rested."""


class _Search(NamedTuple):
    lines: dict[str, Line]
    older: int | None
    complete: bool
    reached: int | None


def page(asked: Asked, before: int | None = None, size: int = LINES) -> Page:
    """Return the traces of the newest events that ``asked`` finds, below the key ``before``."""
    found = _search(asked, before, size)
    lines = list(found.lines.values())
    _complete(lines)
    return Page(lines=lines, older=found.older, complete=found.complete, reached=found.reached)


def _search(asked: Asked, before: int | None, size: int) -> _Search:
    began = time.monotonic()
    floor, cursor = _bounds(asked, before)
    matching = Event.objects.filter(asked.conditions()).order_by("-id")
    lines: dict[str, Line] = {}
    full: set[str] = set()
    window, widest = WINDOWS
    while cursor > floor:
        bottom = floor if asked.jumps and not full else max(floor, cursor - window)
        query = matching.filter(id__lt=cursor, id__gte=bottom)
        if full:
            query = query.exclude(trace_id__in=full)
        rows = list(query.values_list(*SEEN)[:CHUNK])
        shown_above = _also_above(asked, before, {row[1] for row in rows} - lines.keys())
        for row in rows:
            if row[1] in shown_above:
                continue
            line = lines.get(row[1])
            if line is None:
                if len(lines) == size:
                    return _Search(lines, row[0] + 1, True, None)
                line = lines[row[1]] = Line(row[1])
            line.take(row)
            line.matches += 1
        if len(rows) == CHUNK:
            cursor = rows[-1][0]
            if len({row[1] for row in rows}) <= size // 4:  # a trace of very many events would be all that is read
                full |= {row[1] for row in rows}
        else:
            cursor, window = bottom, min(2 * window, widest)
        if cursor > floor and time.monotonic() - began > PATIENCE:
            reached = rows[-1][2] if rows else _time_at(cursor)
            if reached is None:  # nothing lies further back
                break
            return _Search(lines, cursor, False, reached)
    return _Search(lines, None, True, None)


def _bounds(asked: Asked, before: int | None) -> tuple[int, int]:
    """Return the least key to look at, and the one to look below."""
    newest = newest_event()
    first, below = 0, newest + 1 if before is None else min(before, newest + 1)
    since, until = asked.wanted.since, asked.wanted.until
    if since is not None:
        first = _first_at(time_index.written_from(since)) or newest + 1
    if until is not None:
        below = min(below, _first_at(time_index.written_until(until)) or newest + 1)
    return first, below


def _first_at(moment: int) -> int | None:
    return time_index.first_at(Event.objects.all(), time_index.TIMES[Event], moment)


def _time_at(key: int) -> int | None:
    found: int | None = Event.objects.filter(id__lte=key).order_by("-id").values_list("time", flat=True).first()
    return found


def _also_above(asked: Asked, before: int | None, trace_ids: set[str]) -> set[str]:
    """Return those traces that an earlier page has shown, by a newer event.

    It looks no further than one step of a search does: a trace with nothing in between for longer is shown twice.
    """
    if before is None or not trace_ids:
        return set()
    near = (before, before + WINDOWS[1])
    query = Event.objects.filter(asked.conditions(), trace_id__in=trace_ids, id__range=near)
    return set(query.order_by().values_list("trace_id", flat=True).distinct())


def _complete(lines: Sequence[Line]) -> None:
    """Give each line its trace's rows and, where the trace is small, the whole of its events."""
    by_id = {line.trace_id: line for line in lines}
    for trace_id, rows in _rows(by_id).items():
        by_id[trace_id].sharing(rows)
    partial = [
        line for line in lines if line.signals.total() < (line.events if line.rows else SMALL) and line.events <= SMALL
    ]
    if not partial:
        return
    for line in partial:
        line.signals.clear()
        line.seen_errors = line.seen_rolled_back = 0
    for row in _around(partial):
        by_id[row[1]].take(row)


def _around(lines: Sequence[Line]) -> list[Any]:
    """Return the newest events of these traces, ``SEEN`` of each."""
    least, greatest = min(line.last for line in lines), max(line.last for line in lines)
    near = WINDOWS[1]
    if greatest - least <= 2 * near:
        # No further than one search goes: of a trace that is larger than it looks, a part will do.
        query = Event.objects.filter(trace_id__in=[line.trace_id for line in lines])
        query = query.filter(id__range=(least - near, greatest + near)).order_by("-id")
        return list(query.values_list(*SEEN)[: SMALL * LINES])
    # Lines that a filter found far apart: one statement for all would read what lies between them.
    return [row for line in lines for row in _of(line.trace_id, "-").values_list(*SEEN)[:SMALL]]


def _of(trace_id: str, backwards: str = "") -> QuerySet[Event]:
    """Return a trace's events in the order of their keys.

    With ``=`` and an order by the key alone, PostgreSQL reads the whole table in that order where it takes the trace
    for a large one; in the order of both it has the trace's index.
    """
    events = Event.objects.filter(trace_id__range=(trace_id, trace_id))
    return events.order_by(f"{backwards}trace_id", f"{backwards}id")


def _rows(trace_ids: Iterable[str]) -> dict[str, list[Trace]]:
    """Return the newest rows of each trace, ``SHARED`` of them and one more where there are more."""
    found: dict[str, list[Trace]] = {}
    left = set(trace_ids)
    while left:
        rows = list(Trace.objects.filter(trace_id__in=left).defer("data").order_by()[:MOST_ROWS])
        of_each: dict[str, list[Trace]] = {}
        for row in rows:
            of_each.setdefault(row.trace_id, []).append(row)
        if len(rows) < MOST_ROWS:
            return found | {trace_id: sorted(of, key=_key)[-SHARED - 1 :] for trace_id, of in of_each.items()}
        # A caller that gives everybody the same id would have all of its rows read: it is asked for by itself.
        shared = max(of_each, key=lambda trace_id: len(of_each[trace_id]))
        found[shared] = _newest_rows(Trace.objects.defer("data"), shared)
        left.discard(shared)
    return found


def _newest_rows(rows: QuerySet[Trace], trace_id: str) -> list[Trace]:
    return list(rows.filter(trace_id=trace_id).order_by("-id")[: SHARED + 1])[::-1]


def _key(row: Trace) -> int:
    return row.id


def newest_event() -> int:
    """Return the greatest key of an event, 0 where there is none."""
    return Event.objects.order_by("-id").values_list("id", flat=True).first() or 0


# ------------------------------------------------------------------ what is new


class Gap(NamedTuple):
    """Keys that were passed and not there: their transaction may still be open."""

    table: int
    """0 for events, 1 for traces."""
    first: int
    last: int
    since: int
    """When they were missed, in seconds."""


@dataclass(frozen=True, slots=True)
class Position:
    """How far a live page has read. It travels in the page, so that the server keeps nothing."""

    event: int
    trace: int
    gaps: tuple[Gap, ...] = ()

    @classmethod
    def now(cls) -> Self:
        """Return the position at the end of the tables, with what is missing before it: where a transaction is open,
        keys will come that lie below the greatest."""
        ends: list[int] = []
        gaps: list[Gap] = []
        now = int(time.time())
        for table, rows in enumerate((Event.objects.all(), Trace.objects.all())):
            # SQLite has one writer at a time: nothing comes there below the greatest key.
            look_back = 1 if connections[rows.db].vendor == "sqlite" else LOOK_BACK
            keys = list(rows.order_by("-id").values_list("id", flat=True)[:look_back])[::-1]
            ends.append(keys[-1] if keys else 0)
            if look_back > 1 and keys:
                # The table's beginning is known only where it was reached.
                first = keys[0] if len(keys) == look_back else 1
                gaps += _holes(Gap(table, first, keys[-1], now), keys)[-GAPS:]
        return cls(ends[0], ends[1], tuple(gaps[-GAPS:]))

    @classmethod
    def read(cls, text: str) -> Self:
        """Return the position that ``text`` says, the end of the tables where it says none."""
        try:
            keys, *gaps = ([_number(part) for part in parts.split(".")] for parts in text.split("~")[: GAPS + 1])
            event, trace = keys
            missing = tuple(Gap(*gap) for gap in gaps)
        except (ValueError, TypeError):
            return cls.now()
        return cls(event, trace, missing) if all(gap.table in (0, 1) for gap in missing) else cls.now()

    def __str__(self) -> str:
        return "~".join([f"{self.event}.{self.trace}", *(".".join(map(str, gap)) for gap in self.gaps)])


def _number(text: str) -> int:
    """Return a number that every database takes for a key."""
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise ValueError(text)
    return int(text)


GAPS: Final = 20
"""Gaps that a position remembers, the newest first."""

OPEN_FOR: Final = 60
"""Seconds after which a gap is taken for one that stays: its transaction was rolled back."""


LOOK_BACK: Final = 1_000
"""Keys among which a page that is opened looks for gaps."""

MOST_NEWS: Final = 2_000
"""Rows of each table that one look for news reads."""


class News(NamedTuple):
    """What is new since a position."""

    trace_ids: list[str]
    """The traces of which something is new, the newest last."""
    position: Position
    """The position after them."""
    behind: bool
    """Whether more is new than one look reads or one answer holds: the list is to be asked for anew."""


def news(position: Position) -> News:
    """Return what is new since ``position``.

    One statement, which finds nothing where nothing is new. A key's order is not the order of commits: keys that are
    missing are looked for again.
    """
    conditions = [Q(id__gt=position.event), Q(id__gt=position.trace)]
    for gap in position.gaps:
        conditions[gap.table] |= Q(id__range=(gap.first, gap.last))
    events, traces = (
        _first(queryset.filter(condition), MOST_NEWS)
        .annotate(table=Value(table, output_field=IntegerField()))
        .values_list("table", "id", "trace_id")
        for table, (queryset, condition) in enumerate(
            zip((Event.objects.all(), Trace.objects.all()), conditions, strict=True)
        )
    )
    rows = sorted(events.union(traces, all=True))
    now = int(time.time())
    after: list[int] = []
    gaps: list[Gap] = []
    behind = False
    for table, before in enumerate((position.event, position.trace)):
        keys = [key for found, key, _ in rows if found == table]
        behind |= len(keys) == MOST_NEWS
        after.append(max([before, *keys]))
        gaps += _gaps(table, before, [gap for gap in position.gaps if gap.table == table], keys, now)
    newest: dict[str, int] = {}
    for _, key, trace_id in rows:
        newest.pop(trace_id, None)
        newest[trace_id] = key
    reached = Position(after[0], after[1], tuple(sorted(gaps, key=lambda gap: gap.since)[-GAPS:]))
    return News(list(newest), reached, behind or len(newest) > FRESH)


def _first(rows: QuerySet[Row], most: int) -> QuerySet[Row]:
    """Return the ``most`` rows with the least keys, so that they can be part of a union."""
    least = rows.order_by("id")[:most]
    if connections[rows.db].features.supports_slicing_ordering_in_compound:
        return least
    return rows.model._base_manager.using(rows.db).filter(id__in=least.values("id")).order_by()


def _gaps(table: int, before: int, gaps: Iterable[Gap], keys: Sequence[int], now: int) -> list[Gap]:
    """Return the gaps that stay open and those that ``keys``, in rising order, leave beyond ``before``."""
    found = []
    for gap in gaps:
        if now - gap.since <= OPEN_FOR:
            inside = [key for key in keys if gap.first <= key <= gap.last]
            found += _holes(gap, inside)
    above = [key for key in keys if key > before]
    return found + (_holes(Gap(table, before + 1, above[-1], now), above) if above else [])


def _holes(gap: Gap, present: Iterable[int]) -> list[Gap]:
    """Return what is left of ``gap`` without the keys that are ``present``."""
    found, first = [], gap.first
    for key in present:
        if key > first:
            found.append(gap._replace(first=first, last=key - 1))
        first = key + 1
    if first <= gap.last:
        found.append(gap._replace(first=first))
    return found


def lines_of(trace_ids: Sequence[str], asked: Asked, newest: int) -> list[Line]:
    """Return the lines of these traces, in this order, without those in which ``asked`` finds nothing; ``newest`` is
    the greatest key that was seen."""
    found: Mapping[str, int] = dict.fromkeys(trace_ids, 0)
    if asked and trace_ids:
        found = matches(trace_ids, asked, newest)
    lines = [Line(trace_id, last=newest, matches=found[trace_id]) for trace_id in trace_ids if trace_id in found]
    _complete(lines)
    return lines


def matches(trace_ids: Sequence[str], asked: Asked, newest: int) -> dict[str, int]:
    """Return in how many of their newest events ``asked`` finds something, by trace; those in which it finds none are
    left out. It looks no further back than one step of a search does."""
    near = Event.objects.filter(asked.conditions(), trace_id__in=trace_ids, id__gt=newest - WINDOWS[1])
    return dict(near.order_by().values_list("trace_id").annotate(number=Count("id")))


# ------------------------------------------------------------------ one trace, one event, one object


def line_of(trace_id: str) -> Line:
    """Return the line of a trace, with the data of its rows, and without its events."""
    line = Line(trace_id)
    line.sharing(_newest_rows(Trace.objects.all(), trace_id))
    return line


def name_of(trace_id: str) -> str:
    """Return what the work of a trace is called; empty while it runs."""
    line = Line(trace_id)
    line.sharing(_newest_rows(Trace.objects.defer("data"), trace_id))
    return line.row.name if line.row else ""


def trace_events(trace_id: str, after: int = 0, most: int = 500) -> tuple[list[Event], int | None]:
    """Return a trace's events beyond the key ``after``, in the order of their keys, and where the next ones begin."""
    rows = list(_of(trace_id).filter(id__gt=after)[: most + 1])
    return rows[:most], rows[most - 1].id if len(rows) > most else None


def object_events(sender: str, key: str, before: int | None = None, most: int = 100) -> tuple[list[Event], int | None]:
    """Return the events of an object below the key ``before``, newest first, and where the next ones begin."""
    query = Event.objects.filter(sender=sender, object_key=key)
    if before is not None:
        query = query.filter(id__lt=before)
    rows = list(query.order_by("-id")[: most + 1])
    return rows[:most], rows[most - 1].id if len(rows) > most else None


def neighbours(event: Event) -> tuple[Event | None, Event | None]:
    """Return the events of the same object before and after ``event``."""
    if not event.object_key:
        return None, None
    same = Event.objects.filter(sender=event.sender, object_key=event.object_key)
    earlier = same.filter(id__lt=event.id).order_by("-id").first()
    return earlier, same.filter(id__gt=event.id).order_by("id").first()


# ------------------------------------------------------------------ sums over the latest events


def strip(asked: Asked, since: int, step: int) -> list[tuple[int, str, int, int]]:
    """Return ``(time, group, events, errors)`` of each step since ``since``; all times in microseconds."""
    floor = newest_event() - (STRIP_EVENTS // 4 if asked.wanted.text else STRIP_EVENTS)
    query = Event.objects.filter(asked.conditions(), id__gt=floor, time__gte=since).order_by()
    rows = query.annotate(bucket=F("time") - F("time") % step).values_list("bucket", "signal")
    found: Counter[tuple[int, str]] = Counter()
    failed: Counter[tuple[int, str]] = Counter()
    for bucket, signal, number, errors in rows.annotate(number=Count("id"), failed=Count("id", filter=WENT_WRONG)):
        found[bucket, formats.group(signal)] += number
        failed[bucket, formats.group(signal)] += errors
    return [(bucket, group, number, failed[bucket, group]) for (bucket, group), number in sorted(found.items())]


def strip_begins(since: int) -> int | None:
    """Return the time before which the strip does not look, where its limit is the reason, in microseconds."""
    reached = _time_at(newest_event() - STRIP_EVENTS)
    return reached if reached is not None and reached > since else None


def recent_names(most: int = 3000) -> dict[str, list[str]]:
    """Return the signals, senders and actors of the latest events."""
    newest = newest_event()
    found: dict[str, list[str]] = {}
    for name in ("signal", "sender", "actor_label"):
        query = Event.objects.filter(id__gt=newest - most).order_by().values_list(name, flat=True).distinct()
        found[name] = sorted(value for value in query if value)
    return found


def recent_objects(most: int = 3000, shown: int = 200) -> dict[str, str]:
    """Return the objects of the latest events, the newest first: how each is asked for, and what it is called."""
    query = Event.objects.filter(id__gt=newest_event() - most).exclude(object_key="").order_by("-id")
    found: dict[str, str] = {}
    for sender, key, label in query.values_list("sender", "object_key", "object_label").iterator():
        found.setdefault(f"{sender}:{key}", label)
        if len(found) == shown:
            break
    return found
