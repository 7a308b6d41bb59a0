"""The rules that decide whether Signalbox is healthy, and the problems that they find."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from django.db import DEFAULT_DB_ALIAS
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from signalbox import conf
from signalbox.core.clock import now_us
from signalbox.outbox.health import STALLED_AFTER_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from signalbox.queries.status import DatabaseStatus, DeliveryStatus, RecordingStatus, Status
    from signalbox.retention.overdue import RetentionStatus

RECENT_DROP_SECONDS: Final = 600.0
"""Seconds for which dropped events count as a problem. After that they are a warning."""


PURGE_OVERDUE_US: Final = 86_400_000_000
"""Microseconds without a purge after which it is a warning."""


class ProblemCode(StrEnum):
    """Kinds of problems."""

    RECORDING_OFF = "recording_off"
    PATCH_NOT_APPLIED = "patch_not_applied"
    DATABASE_UNREADABLE = "database_unreadable"
    TABLE_MISSING = "table_missing"
    COLUMN_MISSING = "column_missing"
    GRANT_MISSING = "grant_missing"
    EVENTS_DROPPED = "events_dropped"
    DELIVERIES_STALLED = "deliveries_stalled"
    RECEIVER_UNKNOWN = "receiver_unknown"
    # Only warnings:
    WRITES_FAILED = "writes_failed"
    DEAD_LETTERS = "dead_letters"
    NO_WORKER = "no_worker"
    PURGE_OVERDUE = "purge_overdue"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong. Signalbox is healthy if all problems are warnings."""

    code: ProblemCode
    text: str
    """What is wrong, and the remedy."""
    is_warning: bool = False


def find_problems(status: Status) -> list[Problem]:
    """Return the problems of ``status``, warnings last."""
    problems = [*_check_recording(status.recording)]
    for database in status.databases:
        problems += _check_database(database)
    for deliveries in status.deliveries:
        problems += _check_deliveries(deliveries, status)
    for retention in status.retention:
        problems += _check_retention(retention)
    return sorted(problems, key=lambda problem: problem.is_warning)


def is_healthy(problems: list[Problem]) -> bool:
    """Return True if all ``problems`` are warnings."""
    return all(problem.is_warning for problem in problems)


def _check_recording(recording: RecordingStatus) -> Iterator[Problem]:
    if recording.is_disabled:
        yield Problem(
            ProblemCode.RECORDING_OFF, _("%(name)s switches recording off.") % {"name": conf.DISABLED_VARIABLE}
        )
    elif not recording.is_on:
        yield Problem(ProblemCode.RECORDING_OFF, _("Recording is off."))
    for state in recording.patches:
        if not state.is_applicable:
            text = _("%(name)s has other parameters in this version of Django. Lost: %(lost)s.")
            text %= {"name": state.patch.target, "lost": state.patch.lost_without}
            yield Problem(ProblemCode.PATCH_NOT_APPLIED, text)
    if recording.dropped:
        seconds = recording.seconds_since_dropped
        is_old = seconds is not None and seconds > RECENT_DROP_SECONDS
        reasons = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in recording.dropped.items())
        text = ngettext(
            "%(number)d event was dropped since this process started: %(reasons)s. See its log.",
            "%(number)d events were dropped since this process started: %(reasons)s. See its log.",
            recording.dropped_count,
        )
        text %= {"number": recording.dropped_count, "reasons": reasons}
        yield Problem(ProblemCode.EVENTS_DROPPED, text, is_warning=is_old)
    if recording.failures:
        text = ngettext(
            "%(number)d write failed since this process started. See its log.",
            "%(number)d writes failed since this process started. See its log.",
            recording.failures,
        )
        text %= {"number": recording.failures}
        yield Problem(ProblemCode.WRITES_FAILED, text, is_warning=True)


def _check_database(database: DatabaseStatus) -> Iterator[Problem]:
    if database.error is not None:
        text = _("Database '%(alias)s' can't be read: %(error)s")
        text %= {"alias": database.alias, "error": database.error}
        yield Problem(ProblemCode.DATABASE_UNREADABLE, text)
    into = "" if database.alias == DEFAULT_DB_ALIAS else f" --database {database.alias}"
    command = f"manage.py migrate{into}"
    if database.missing:
        text = _("Database '%(alias)s' has no table %(names)s: run %(command)s.")
        text %= {"alias": database.alias, "names": ", ".join(database.missing), "command": command}
        if database.hides_tables:
            text = f"{text} {_('MariaDB and MySQL also hide a table if the role has no grant for it.')}"
        yield Problem(ProblemCode.TABLE_MISSING, text)
    if database.missing_columns:
        text = _("Database '%(alias)s' has no column %(names)s: run %(command)s.")
        text %= {"alias": database.alias, "names": ", ".join(database.missing_columns), "command": command}
        yield Problem(ProblemCode.COLUMN_MISSING, text)
    if database.missing_grants:
        text = _("The role of database '%(alias)s' lacks grants: %(names)s.")
        text %= {"alias": database.alias, "names": ", ".join(database.missing_grants)}
        yield Problem(ProblemCode.GRANT_MISSING, text)


def _check_deliveries(deliveries: DeliveryStatus, status: Status) -> Iterator[Problem]:
    if not deliveries.lag.is_processing:
        seconds = round(deliveries.lag.oldest_due_seconds)
        text = _(
            "Deliveries in database '%(alias)s' are due, the oldest for %(seconds)d s, and none was done in the last "
            "minute."
        )
        text %= {"alias": deliveries.alias, "seconds": seconds}
        yield Problem(ProblemCode.DELIVERIES_STALLED, f"{text} {_advise(deliveries, status.dispatcher)}")
    elif _needs_worker(status) and deliveries.workers is not None and not deliveries.alive_count:
        text = _("No worker is alive for database '%(alias)s'. Start manage.py signalbox work.")
        text %= {"alias": deliveries.alias}
        yield Problem(ProblemCode.NO_WORKER, text, is_warning=True)
    for receiver in deliveries.unknown:
        if receiver.deferred_seconds > STALLED_AFTER_SECONDS:
            yield Problem(ProblemCode.RECEIVER_UNKNOWN, str(receiver))
    if deliveries.health is not None and deliveries.health.dead:
        text = ngettext(
            "%(number)d dead letter in database '%(alias)s': retry or discard it (manage.py signalbox deliveries).",
            "%(number)d dead letters in database '%(alias)s': retry or discard them (manage.py signalbox deliveries).",
            deliveries.health.dead,
        )
        text %= {"number": deliveries.health.dead, "alias": deliveries.alias}
        yield Problem(ProblemCode.DEAD_LETTERS, text, is_warning=True)


def _check_retention(retention: RetentionStatus) -> Iterator[Problem]:
    if retention.last_purge is None:
        is_late = bool(retention.overdue_seconds)
        text = _("Database '%(alias)s' was never purged, and SIGNALBOX[\"RETENTION\"] is set.")
    else:
        is_late = now_us() - retention.last_purge > PURGE_OVERDUE_US
        text = _("Database '%(alias)s' was not purged for a day, and SIGNALBOX[\"RETENTION\"] is set.")
    if retention.has_limit and is_late:
        text %= {"alias": retention.alias}
        advice = _("Start manage.py signalbox work, or run manage.py signalbox purge regularly.")
        yield Problem(ProblemCode.PURGE_OVERDUE, f"{text} {advice}", is_warning=True)


def _needs_worker(status: Status) -> bool:
    return status.dispatcher == "worker" and status.durable_receivers > 0


def _advise(deliveries: DeliveryStatus, dispatcher: str) -> str:
    alive = deliveries.alive_count
    if dispatcher in ("celery", "tasks"):
        relay = _("The relay is alive.") if alive else _("No relay is alive: start manage.py signalbox work.")
        name = "Celery" if dispatcher == "celery" else _("the backend of Django's Tasks")
        return f"{relay} {_('Check that the workers of %(name)s run.') % {'name': name}}"
    if dispatcher == "immediate":
        return _("The dispatcher is 'immediate': the next commit with a delivery runs them.")
    if alive:
        text = ngettext(
            "%(number)d worker is alive: check which receivers run, and the queues of the workers.",
            "%(number)d workers are alive: check which receivers run, and the queues of the workers.",
            alive,
        )
        return text % {"number": alive}
    return _("No worker is alive: start manage.py signalbox work.")
