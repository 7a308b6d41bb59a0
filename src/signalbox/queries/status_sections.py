"""The status as sections of labelled texts, for the terminal and for the dashboard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from django.template.defaultfilters import filesizeformat
from django.utils.timezone import localtime
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from signalbox import conf
from signalbox.core.text import format_duration
from signalbox.instrumentation import patches
from signalbox.models import to_datetime
from signalbox.outbox.unknown_receivers import MAX_COUNTED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from signalbox.outbox.health import Health
    from signalbox.outbox.worker_registry import RegisteredWorker
    from signalbox.queries.status import DatabaseStatus, DeliveryStatus, RecordingStatus, Status, StorageStatus
    from signalbox.retention.overdue import RetentionStatus

MAX_LISTED: Final = 10
"""Maximum number of lost workers, and of other schemas, that are listed."""

AUTOCOMMIT_TEXTS: Final = {
    "atomic": gettext_lazy("atomic: a write in autocommit commits with its event"),
    "after": gettext_lazy("after, lossy: a crash can lose the events of the last writes in autocommit"),
}

DISPATCHER_TEXTS: Final = {
    "worker": gettext_lazy("worker: manage.py signalbox work runs the deliveries"),
    "celery": gettext_lazy("celery: Celery runs the deliveries; only relays are listed here"),
    "tasks": gettext_lazy("tasks: the backend of Django's Tasks runs the deliveries; only relays are listed here"),
    "immediate": gettext_lazy("immediate: deliveries run in the process of the site, after the commit"),
}


class Row(NamedTuple):
    """One labelled text."""

    label: str
    text: str
    tone: str = ""
    """``good``, ``caution``, ``bad`` or ``dim``; empty for none."""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the status with its title."""

    title: str
    rows: tuple[Row, ...]
    note: str = ""


def build_sections(status: Status, *, process_note: str) -> list[Section]:
    """Return the sections of ``status``. ``process_note`` says whose counters those of this process are."""
    sections = [
        Section(_("Recording"), tuple(_iter_recording(status.recording))),
        Section(_("This process"), tuple(_iter_process(status.recording)), process_note),
    ]
    storage = {one.alias: one for one in status.storage}
    sections += [
        Section(
            _("Database %(alias)s") % {"alias": database.alias},
            tuple(_iter_database(database, storage.get(database.alias))),
        )
        for database in status.databases
    ]
    has_several = len(status.deliveries) > 1
    sections += [
        Section(_name_section(_("Deliveries"), one.alias if has_several else ""), tuple(_iter_deliveries(one, status)))
        for one in status.deliveries
    ]
    has_several = len(status.retention) > 1
    sections += [
        Section(_name_section(_("Retention"), one.alias if has_several else ""), tuple(_iter_retention(one)))
        for one in status.retention
    ]
    return sections


def _name_section(title: str, alias: str) -> str:
    return _("%(title)s in %(alias)s") % {"title": title, "alias": alias} if alias else title


def _iter_recording(recording: RecordingStatus) -> Iterator[Row]:
    disabled = _("switched off by %(name)s") % {"name": conf.DISABLED_VARIABLE} if recording.is_disabled else ""
    state = _("on") if recording.is_on else _("off")
    yield Row(_("state"), _join(state, disabled), "good" if recording.is_on else "bad")
    is_lossy = recording.autocommit == "after"
    yield Row(_("autocommit"), str(AUTOCOMMIT_TEXTS[recording.autocommit]), "caution" if is_lossy else "")
    checked = _("not checked; checked are %(names)s") % {"names": ", ".join(patches.CHECKED_VERSIONS)}
    yield Row("django", _join(recording.django_version, "" if recording.is_django_checked else checked))
    active = sum(state.is_active for state in recording.patches)
    rejected = sum(not state.is_applicable for state in recording.patches)
    text = _("%(active)d of %(all)d active") % {"active": active, "all": len(recording.patches)}
    refused = _("%(number)d not applied") % {"number": rejected} if rejected else ""
    yield Row(_("patches"), _join(text, refused), "bad" if rejected else "")


def _iter_process(recording: RecordingStatus) -> Iterator[Row]:
    yield Row(_("written"), _count_events(recording.written))
    reasons = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in recording.dropped.items())
    dropped = _count_events(recording.dropped_count) + (f" ({reasons})" if reasons else "")
    ago = ""
    if reasons and recording.seconds_since_dropped is not None:
        ago = _("the last %(age)s") % {"age": _format_age(recording.seconds_since_dropped)}
    yield Row(_("dropped"), _join(dropped, ago), "bad" if recording.dropped else "")
    writes = ngettext("%(number)s write", "%(number)s writes", recording.failures) % {
        "number": f"{recording.failures:,}"
    }
    yield Row(_("failed"), writes, "caution" if recording.failures else "")
    yield Row(
        _("queued"),
        _join(_count_events(recording.queued), _("%(number)s of them late") % {"number": f"{recording.late:,}"}),
    )


def _iter_database(database: DatabaseStatus, storage: StorageStatus | None) -> Iterator[Row]:
    if database.error is not None:
        yield Row(_("error"), database.error, "bad")
        return
    yield Row(_("tables"), ", ".join(database.present) or _("none"))
    if database.schema is not None:
        names, count = ", ".join(database.other_schemas[:MAX_LISTED]), len(database.other_schemas)
        if count > MAX_LISTED:
            names = _("%(names)s and %(number)s more") % {"names": names, "number": f"{count - MAX_LISTED:,}"}
        not_read = _("not read: %(names)s") % {"names": names}
        yield Row(_("schema"), f"{database.schema}; {not_read}" if count else database.schema)
    if missing := (*database.missing, *database.missing_columns):
        yield Row(_("missing"), ", ".join(missing), "bad")
    yield (
        Row(_("grants"), _("missing: %(names)s") % {"names": ", ".join(database.missing_grants)}, "bad")
        if database.missing_grants
        else Row(_("grants"), _("complete") if database.present else _("none needed"))
    )
    for job, grants in database.missing_job_grants.items():
        yield Row(job, _("needs a role that also has %(names)s") % {"names": ", ".join(grants)})
    if storage is None:
        return
    for name, table in storage.storage.tables.items():
        size = "" if table.bytes is None else format_bytes(table.bytes)
        yield Row(name.removeprefix("signalbox_"), _join(_describe_rows(table.rows), size))
    if storage.total_bytes is not None:
        yield Row(_("size"), format_bytes(storage.total_bytes))
    if storage.storage.file_bytes is not None:
        yield Row(_("size"), _join(format_bytes(storage.storage.file_bytes), _("the whole file")))
    yield Row(_("oldest"), _format_time(storage.oldest_event))
    yield Row(_("newest"), _format_time(storage.newest_event))


def _iter_deliveries(deliveries: DeliveryStatus, status: Status) -> Iterator[Row]:
    yield Row(_("dispatcher"), str(DISPATCHER_TEXTS[status.dispatcher]))
    yield Row(_("receivers"), _("%(number)d durable") % {"number": status.durable_receivers})
    if deliveries.health is not None:
        yield Row(_("states"), _format_counts(deliveries.health))
        rate = _("%(number)s done a second, over a minute") % {"number": f"{deliveries.health.done_per_second:g}"}
        yield Row(_("rate"), rate)
    lag = deliveries.lag
    text = _("none")
    if lag.oldest_due_seconds:
        text = _join(_format_seconds(lag.oldest_due_seconds), _("of the oldest due delivery"))
    yield Row(_("lag"), text, "" if lag.is_processing else "bad")
    yield from (Row(_("unknown"), str(receiver), "caution") for receiver in deliveries.unknown)
    yield from _iter_workers(deliveries, status)


def _iter_workers(deliveries: DeliveryStatus, status: Status) -> Iterator[Row]:
    if deliveries.workers is None:
        yield Row(_("workers"), _("the role of the connection may not read them"), "bad")
        return
    name = _("workers") if status.dispatcher in ("worker", "immediate") else _("relays")
    lost = len(deliveries.workers) - deliveries.alive_count
    is_missing = status.dispatcher == "worker" and status.durable_receivers and not deliveries.alive_count
    alive_text = _("%(number)d alive") % {"number": deliveries.alive_count}
    lost_text = _("%(number)d lost") % {"number": lost} if lost else ""
    yield Row(name, _join(alive_text, lost_text), "caution" if is_missing or lost else "")
    listed_lost = 0
    for worker in deliveries.workers:
        listed_lost += not worker.is_alive
        if worker.is_alive or listed_lost <= MAX_LISTED:
            yield Row(f"{worker.host} {worker.pid}", _describe_worker(worker), "" if worker.is_alive else "caution")
    if lost > MAX_LISTED:
        text = _("%(number)s more lost ones are not listed") % {"number": f"{lost - MAX_LISTED:,}"}
        yield Row(_("others"), text, "dim")


def _iter_retention(retention: RetentionStatus) -> Iterator[Row]:
    if not retention.days:
        yield Row(_("rules"), _("none: rows are stored for ever"))
        return
    yield Row(_("rules"), ", ".join(f"{name} {_format_days(days)}" for name, days in retention.days.items()))
    due = ", ".join(
        _("%(name)s for %(time)s") % {"name": name, "time": _format_seconds(seconds)}
        for name, seconds in retention.overdue_seconds.items()
    )
    yield Row(_("due"), due or _("none"))
    yield Row(_("last purge"), _format_time(retention.last_purge))
    yield Row(
        _("next purge"), _("not by a worker") if retention.next_purge is None else _format_time(retention.next_purge)
    )


def _format_days(days: float | None) -> str:
    if days is None:
        return _("for ever")
    return _("1 day") if days == 1 else _("%(number)s days") % {"number": f"{days:g}"}


def _describe_worker(worker: RegisteredWorker) -> str:
    threads = ngettext("%(number)d thread", "%(number)d threads", worker.threads) % {"number": worker.threads}
    return _join(
        _("alive") if worker.is_alive else _("lost"),
        _("heartbeat %(age)s") % {"age": _format_age(worker.heartbeat_seconds)},
        _("started %(age)s") % {"age": _format_age(worker.running_seconds)},
        threads if worker.threads else _("relay"),
        _("queues %(names)s") % {"names": ", ".join(worker.queues)} if worker.queues else _("all queues"),
        _("version %(number)s") % {"number": worker.version},
    )


def _join(*texts: str) -> str:
    """Return the texts that are not empty, separated by commas."""
    return ", ".join(filter(None, texts))


def _count_events(number: int) -> str:
    return ngettext("%(number)s event", "%(number)s events", number) % {"number": f"{number:,}"}


def _describe_rows(number: int | None) -> str:
    if number is None:
        return _("unknown number of rows")
    return ngettext("about %(number)s row", "about %(number)s rows", number) % {"number": f"{number:,}"}


def _format_counts(figures: Health) -> str:
    names = {
        "pending": _("pending"),
        "due": _("due"),
        "running": _("running"),
        "retrying": _("retrying"),
        "blocked": _("blocked"),
        "dead": _("dead"),
        "unknown": _("unknown"),
    }
    counts = [(getattr(figures, name), text) for name, text in names.items()]
    return ", ".join(f"{count:,}{'+' if count >= MAX_COUNTED else ''} {text}" for count, text in counts)


def format_bytes(number: int) -> str:
    """Return a number of bytes as text."""
    return filesizeformat(number).replace("\xa0", " ")


def _format_time(microseconds: int | None) -> str:
    return _("none") if microseconds is None else localtime(to_datetime(microseconds)).strftime("%Y-%m-%d %H:%M:%S %Z")


def _format_seconds(seconds: float) -> str:
    return format_duration(round(seconds * 1_000_000))


def _format_age(seconds: float) -> str:
    return _("%(time)s ago") % {"time": _format_seconds(seconds)}
