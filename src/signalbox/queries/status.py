"""The state of Signalbox in this process and in each database: recording, tables, sizes, deliveries, workers, purges.

No query counts events or scans their table. The numbers of rows are estimates of the database.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import django
from django.core.exceptions import ImproperlyConfigured
from django.db import Error, connections, router, transaction
from django.db.models import Model

from signalbox import conf, models
from signalbox.core import clock
from signalbox.instrumentation import patching, recording_state
from signalbox.instrumentation.patching import PatchState
from signalbox.outbox import health, registry, unknown_receivers, worker_registry
from signalbox.outbox.health import Health, Lag
from signalbox.outbox.unknown_receivers import UnknownReceiver
from signalbox.outbox.worker_registry import RegisteredWorker
from signalbox.pipeline import backends, dropped_events, pending, writer
from signalbox.pipeline.backends import Grant, Storage
from signalbox.queries.answer_timeout import read_with_timeout
from signalbox.retention import overdue
from signalbox.retention import rules as retention_rules
from signalbox.retention.overdue import RetentionStatus
from signalbox.retention.rules import RetentionRules

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

TABLE_MODELS: Final = (
    models.Event,
    models.Trace,
    models.Delivery,
    models.Attempt,
    models.Error,
    models.ErrorState,
    models.Worker,
    models.PurgeState,
)


def _build_grants(privileges: str, *found: type[Model]) -> tuple[Grant, ...]:
    """Return grants for tables. Each is tested with a column that is not the primary key."""
    return tuple(
        Grant(
            privilege, model._meta.db_table, str(next(one.column for one in model._meta.fields if not one.primary_key))
        )
        for model in found
        for privilege in privileges.split()
    )


SITE_GRANTS: Final = (
    *writer.RECORDING_GRANTS,
    *_build_grants("SELECT", models.Attempt, models.Worker, models.PurgeState, models.ErrorState),
)
"""What a site needs to record and to show its pages."""

JOB_GRANTS: Final = {
    "work": (
        *_build_grants("INSERT", models.Attempt),
        *_build_grants("INSERT UPDATE DELETE", models.Worker),
    ),
    "errors": _build_grants("INSERT UPDATE", models.ErrorState),
    "purge": (
        *_build_grants("DELETE", models.Event, models.Trace, models.Delivery, models.Attempt, models.Error),
        *_build_grants("INSERT UPDATE", models.PurgeState),
    ),
    "erase": _build_grants("UPDATE", models.Attempt, models.ErrorState),
}
"""What a subcommand needs besides. Its role can be another one than that of the site."""

LOG_TABLES: Final = tuple(model._meta.db_table for model in (models.Event, models.Trace, models.Delivery, models.Error))
"""Tables that grow, whose sizes are shown."""

_DELIVERY_TABLE: Final = models.Delivery._meta.db_table
_WORKER_TABLE: Final = models.Worker._meta.db_table


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordingStatus:
    """Recording in this process, with the counters since it started."""

    is_on: bool
    is_disabled: bool
    """Whether the environment variable ``SIGNALBOX_DISABLED`` switches recording off."""
    autocommit: str
    """The setting ``AUTOCOMMIT``."""
    django_version: str
    is_django_checked: bool
    """Whether the patches were checked with this version of Django."""
    patches: tuple[PatchState, ...]
    written: int
    failures: int
    """Writes that failed. Their events may have been written later."""
    dropped: dict[str, int]
    """Lost events by reason, see ``DropReason``."""
    seconds_since_dropped: float | None
    queued: int
    """Events that wait to be written, such as while the database is unavailable."""
    late: int
    """Those of ``queued`` that a locked table has delayed."""

    @property
    def dropped_count(self) -> int:
        """Number of lost events."""
        return sum(self.dropped.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class DatabaseStatus:
    """The tables of one database."""

    alias: str
    present: tuple[str, ...] = ()
    schema: str | None = None
    """The schema in which the role finds the tables, on PostgreSQL."""
    other_schemas: tuple[str, ...] = ()
    """Other schemas that have the tables. They are not read."""
    missing: tuple[str, ...] = ()
    """Tables that a router allows and that do not exist."""
    hides_tables: bool = False
    """Whether the database hides tables for which the role has no grant: they are then in ``missing``."""
    missing_columns: tuple[str, ...] = ()
    """Columns that tables in ``present`` do not have, with their table: a migration was not applied.

    Not read if brief, because a table that is locked would let a probe wait.
    """
    missing_grants: tuple[str, ...] = ()
    """Grants for a site that the role of the connection lacks."""
    missing_job_grants: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By subcommand: grants that the role lacks for it. Another role may have them."""
    error: str | None = None
    """Why the database can't be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StorageStatus:
    """What is stored in one database."""

    alias: str
    storage: Storage
    oldest_event: int | None
    """Time of the event with the lowest id, in microseconds since the epoch; ``None`` without events."""
    newest_event: int | None
    """Time of the event with the highest id."""

    @property
    def total_bytes(self) -> int | None:
        """Bytes of all tables; ``None`` if the database has no such number."""
        sizes = [table.bytes for table in self.storage.tables.values() if table.bytes is not None]
        return sum(sizes) if sizes else None


@dataclass(frozen=True, kw_only=True, slots=True)
class DeliveryStatus:
    """The deliveries and workers of one database."""

    alias: str
    lag: Lag
    unknown: tuple[UnknownReceiver, ...]
    """Receivers that have deliveries and that the code does not have."""
    workers: tuple[RegisteredWorker, ...] | None
    """Rows of the table of workers; ``None`` if the role may not read them."""
    health: Health | None = None
    """The counts by state; ``None`` if they were not requested."""

    @property
    def alive_count(self) -> int:
        """Number of workers that are alive."""
        return sum(worker.is_alive for worker in self.workers or ())


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """The state of Signalbox, as one process sees it."""

    recording: RecordingStatus
    databases: tuple[DatabaseStatus, ...]
    storage: tuple[StorageStatus, ...]
    deliveries: tuple[DeliveryStatus, ...]
    retention: tuple[RetentionStatus, ...]
    """Empty if the setting ``RETENTION`` is not valid."""
    dispatcher: str
    """The setting ``DURABLE["DISPATCHER"]``."""
    durable_receivers: int
    """Number of durable receivers of this process."""


def get_status(*, brief: bool = False, timeout: float | None = None) -> Status:
    """Return the status.

    A database that can't be read has an error in ``databases``, and is not in ``storage`` and ``deliveries``.

    Args:
        brief: Whether to return only what decides whether Signalbox is healthy: no sizes, no counts.
        timeout: Seconds after which a database counts as one that can't be read; ``None`` waits for its answer.
    """
    recording = _get_recording_status()  # first, as opening a connection may write pending events
    rules = None if brief else _load_rules()
    found = []
    for alias in connections:
        read = partial(_read_database, alias, rules, brief=brief)
        try:
            found.append(read() if timeout is None else read_with_timeout(alias, read, timeout))
        except Error as error:
            failed = DatabaseStatus(alias=alias, error=str(error).strip() or type(error).__name__)
            found.append(_DatabaseParts(failed, None, None, None))
    return Status(
        recording=recording,
        databases=tuple(parts.database for parts in found),
        storage=tuple(parts.storage for parts in found if parts.storage is not None),
        deliveries=tuple(parts.deliveries for parts in found if parts.deliveries is not None),
        retention=tuple(parts.retention for parts in found if parts.retention is not None),
        dispatcher=conf.get().DURABLE.DISPATCHER,
        durable_receivers=len(registry.get_durable_receivers()),
    )


class _DatabaseParts(NamedTuple):
    """What is read from one database."""

    database: DatabaseStatus
    storage: StorageStatus | None
    deliveries: DeliveryStatus | None
    retention: RetentionStatus | None


def _read_database(alias: str, rules: RetentionRules | None, *, brief: bool) -> _DatabaseParts:
    with _protect_transaction(alias):
        database = _get_database_status(alias, brief=brief)
        if database.missing_columns:  # other queries would fail
            return _DatabaseParts(database, None, None, None)
        return _DatabaseParts(
            database,
            None if brief else _get_storage_status(database),
            _get_delivery_status(database, brief=brief),
            None if rules is None else _get_retention_status(database, rules),
        )


def _protect_transaction(alias: str) -> AbstractContextManager[object]:
    """Return a block whose failed query does not abort an open transaction, such as that of ATOMIC_REQUESTS."""
    return transaction.atomic(using=alias) if connections[alias].in_atomic_block else nullcontext()


def _get_recording_status() -> RecordingStatus:
    is_recording, states = recording_state.get_patch_states()
    stats = dropped_events.write_stats
    queued, late = pending.count_events()
    return RecordingStatus(
        is_on=is_recording,
        is_disabled=conf.is_disabled(),
        autocommit=conf.get().AUTOCOMMIT,
        django_version=django.get_version(),
        is_django_checked=patching.is_checked(),
        patches=tuple(states),
        written=stats.written,
        failures=stats.failures,
        dropped={reason.value: stats.dropped_by_reason[reason] for reason in sorted(stats.dropped_by_reason)},
        seconds_since_dropped=None if stats.dropped_at is None else clock.monotonic() - stats.dropped_at,
        queued=queued,
        late=late,
    )


def _get_database_status(alias: str, *, brief: bool) -> DatabaseStatus:
    connection = connections[alias]
    tables = set(connection.introspection.table_names())
    names = [model._meta.db_table for model in TABLE_MODELS]
    allowed = [model._meta.db_table for model in TABLE_MODELS if router.allow_migrate_model(alias, model)]
    has_log = tables.issuperset(LOG_TABLES)
    needed = {"site": SITE_GRANTS} | ({} if brief else JOB_GRANTS)
    if models.Event._meta.db_table not in allowed:  # such as a replica
        needed = {"site": tuple(grant for grant in SITE_GRANTS if grant.privilege == "SELECT")}
    missing_grants = {
        job: tuple(map(str, writer.get_missing_grants(connection, [one for one in grants if one.table in tables])))
        for job, grants in (needed if has_log else {}).items()
    }
    schema, schemas = backends.query_schemas(connection)
    missing_selects = missing_grants.get("site", ())
    readable = [
        model
        for model in TABLE_MODELS
        if model._meta.db_table in tables and f"SELECT ON {model._meta.db_table}" not in missing_selects
    ]
    return DatabaseStatus(
        alias=alias,
        schema=schema,
        other_schemas=tuple(name for name in schemas if name != schema),
        hides_tables=backends.get_backend(connection).hides_tables,
        present=tuple(name for name in names if name in tables),
        missing=tuple(name for name in allowed if name not in tables),
        missing_columns=() if brief else tuple(_iter_missing_columns(connection, readable)),
        missing_grants=missing_grants.pop("site", ()),
        missing_job_grants={job: grants for job, grants in missing_grants.items() if grants},
    )


def _iter_missing_columns(connection: BaseDatabaseWrapper, found: Iterable[type[Model]]) -> Iterator[str]:
    """Yield the columns, with their table, that tables of these models do not have."""
    with connection.cursor() as cursor:
        for model in found:
            table = model._meta.db_table
            name = connection.ops.quote_name(table)
            cursor.execute(f"SELECT * FROM {name} WHERE 1 = 0")  # noqa: S608 - the name of a model's table
            present = {column[0] for column in cursor.description}
            yield from (f"{table}.{one.column}" for one in model._meta.concrete_fields if one.column not in present)


def _get_storage_status(database: DatabaseStatus) -> StorageStatus | None:
    tables = [name for name in LOG_TABLES if name in database.present]
    if models.Event._meta.db_table not in tables or _lacks_select(database):
        return None
    # Its default manager would write the pending events first, which are counted.
    times = models.Event._base_manager.using(database.alias).values_list("time", flat=True)
    return StorageStatus(
        alias=database.alias,
        storage=backends.query_storage(connections[database.alias], tables),
        oldest_event=times.order_by("id").first(),
        newest_event=times.order_by("-id").first(),
    )


def _get_delivery_status(database: DatabaseStatus, *, brief: bool) -> DeliveryStatus | None:
    alias = database.alias
    if _DELIVERY_TABLE not in database.present or _lacks_select(database):
        return None
    return DeliveryStatus(
        alias=alias,
        lag=health.get_lag(alias),
        unknown=tuple(unknown_receivers.find_unknown_receivers(alias)),
        workers=_get_workers(database),
        health=None if brief else health.get_health(alias),
    )


def get_workers(alias: str) -> tuple[RegisteredWorker, ...] | None:
    """Return the workers of a database that has their table; ``None`` if the role may not read it."""
    try:
        with _protect_transaction(alias):
            return tuple(worker_registry.get_workers(alias))
    except Error as error:
        if backends.get_backend(connections[alias]).is_permission_error(error):
            return None
        raise


def _get_workers(database: DatabaseStatus) -> tuple[RegisteredWorker, ...] | None:
    if f"SELECT ON {_WORKER_TABLE}" in database.missing_grants:
        return None
    return tuple(worker_registry.get_workers(database.alias)) if _WORKER_TABLE in database.present else ()


def _lacks_select(database: DatabaseStatus) -> bool:
    return any(f"SELECT ON {table}" in database.missing_grants for table in LOG_TABLES)


def _load_rules() -> RetentionRules | None:
    try:
        return retention_rules.load()
    except ImproperlyConfigured:  # the system checks report it
        return None


def _get_retention_status(database: DatabaseStatus, rules: RetentionRules) -> RetentionStatus | None:
    table = models.PurgeState._meta.db_table
    if table not in database.present or f"SELECT ON {table}" in database.missing_grants or _lacks_select(database):
        return None
    return overdue.get_status(database.alias, rules)
