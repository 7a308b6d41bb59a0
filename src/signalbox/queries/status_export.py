"""The status as JSON data. Its keys are documented in ``docs/json.md``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from signalbox.models import to_datetime
from signalbox.queries.status_problems import is_healthy

if TYPE_CHECKING:
    from signalbox.outbox.worker_registry import RegisteredWorker
    from signalbox.queries.status import DatabaseStatus, DeliveryStatus, Status, StorageStatus
    from signalbox.queries.status_problems import Problem
    from signalbox.retention.overdue import RetentionStatus


def status_to_dict(status: Status, problems: list[Problem]) -> dict[str, Any]:
    """Return the data of ``signalbox status --json``."""
    recording = status.recording
    storage = {one.alias: one for one in status.storage}
    deliveries = {one.alias: one for one in status.deliveries}
    retention = {one.alias: one for one in status.retention}
    return {
        "healthy": is_healthy(problems),
        "problems": [_problem_to_dict(problem) for problem in problems if not problem.is_warning],
        "warnings": [_problem_to_dict(problem) for problem in problems if problem.is_warning],
        "recording": recording.is_on,
        "disabled": recording.is_disabled,
        "autocommit": recording.autocommit,
        "lossy": recording.autocommit == "after",
        "django": recording.django_version,
        "checked": recording.is_django_checked,
        "written": recording.written,
        "dropped": recording.dropped_count,
        "dropped_by_reason": recording.dropped,
        "seconds_since_dropped": recording.seconds_since_dropped,
        "failures": recording.failures,
        "queued": recording.queued,
        "late": recording.late,
        "dispatcher": status.dispatcher,
        "durable_receivers": status.durable_receivers,
        "databases": [
            _database_to_dict(one)
            | _storage_to_dict(storage.get(one.alias))
            | _deliveries_to_dict(deliveries.get(one.alias))
            | _retention_to_dict(retention.get(one.alias))
            for one in status.databases
        ],
        "patches": [
            {
                "target": state.patch.target,
                "active": state.is_active,
                "applicable": state.is_applicable,
                "lost_without": state.patch.lost_without,
            }
            for state in recording.patches
        ],
    }


def _problem_to_dict(problem: Problem) -> dict[str, str]:
    return {"code": problem.code.value, "text": problem.text}


def _database_to_dict(database: DatabaseStatus) -> dict[str, Any]:
    return {
        "alias": database.alias,
        "schema": database.schema,
        "other_schemas": list(database.other_schemas),
        "tables": list(database.present),
        "missing": list(database.missing),
        "missing_columns": list(database.missing_columns),
        "missing_grants": list(database.missing_grants),
        "missing_job_grants": {job: list(grants) for job, grants in database.missing_job_grants.items()},
        "error": database.error,
    }


def _storage_to_dict(storage: StorageStatus | None) -> dict[str, Any]:
    if storage is None:
        return {"storage": None}
    return {
        "storage": {
            "tables": {
                name: {"estimated_rows": table.rows, "bytes": table.bytes}
                for name, table in storage.storage.tables.items()
            },
            "bytes": storage.total_bytes,
            "file_bytes": storage.storage.file_bytes,
            "oldest_event": _format_time(storage.oldest_event),
            "newest_event": _format_time(storage.newest_event),
        }
    }


def _deliveries_to_dict(deliveries: DeliveryStatus | None) -> dict[str, Any]:
    if deliveries is None:
        return {"deliveries": None, "workers": None}
    figures = {} if deliveries.health is None else asdict(deliveries.health)
    figures.pop("database", None)
    workers = None if deliveries.workers is None else [_worker_to_dict(worker) for worker in deliveries.workers]
    return {"deliveries": figures, "workers": workers}


def _retention_to_dict(retention: RetentionStatus | None) -> dict[str, Any]:
    if retention is None:
        return {"retention": None}
    return {
        "retention": {
            "days": retention.days,
            "overdue_seconds": retention.overdue_seconds,
            "last_purge": _format_time(retention.last_purge),
            "next_purge": _format_time(retention.next_purge),
        }
    }


def _format_time(time: int | None) -> str | None:
    return None if time is None else to_datetime(time).isoformat()


def _worker_to_dict(worker: RegisteredWorker) -> dict[str, Any]:
    return {**asdict(worker), "queues": list(worker.queues), "alive": worker.is_alive}
