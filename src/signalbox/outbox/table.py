"""Statements on the table of deliveries in one database: transactions, round trips and clocks."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from django.db import connections, transaction

from signalbox import conf
from signalbox.core.attempt import AttemptOutcome
from signalbox.outbox.database_clock import SECOND_US, get_due_time, get_lease_time
from signalbox.outbox.deliveries import LeasedDelivery
from signalbox.outbox.partitions import TABLE, first_in_partition_sql, runnable_sql
from signalbox.pipeline import backends
from signalbox.pipeline.backends import postgresql

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from django.db.backends.base.base import BaseDatabaseWrapper

_LEASED_COLUMNS: Final = (
    "id receiver queue ordering_key partition_id trace_id span signal sender object_key database attempts "
    "fencing_token created payload chain_length deferred_since attempt_started"
)
ATTEMPT_STARTED_INDEX: Final = 17
"""Index of ``attempt_started`` in a row of these columns."""
QUALIFIED_LEASED_COLUMNS: Final = ", ".join(f"d.{name}" for name in _LEASED_COLUMNS.split())
DISABLE_JIT_SQL: Final = "SET LOCAL jit TO off"
"""PostgreSQL overestimates the cost of the search for due deliveries, and compiling it takes longer than running it."""


DUE_SQL: Final = "d.next_check_at <= %s AND (d.lease_expires_at IS NULL OR d.lease_expires_at <= %s)"
"""The condition that ``d`` is due. Its parameters are ``due_time`` and ``lease_time``."""


ATTEMPT_TABLE: Final = "signalbox_attempt"
LOST_ERROR: Final = "The worker was killed, or lost its lease, and wrote no result."


def insert_lost_attempts_sql(source: str) -> str:
    """Return the SQL that inserts an attempt for each row of ``source`` whose attempt has no result.

    ``source`` is a table of leased deliveries, as they were before another lease, and may end with conditions.
    """
    return (
        f"INSERT INTO {ATTEMPT_TABLE} (delivery_id, fencing_token, number, started, ended, outcome, error, worker) "
        "SELECT s.id, s.fencing_token, s.attempts, s.attempt_started, s.lease_expires_at, "
        f"'{AttemptOutcome.LOST.value}', '{LOST_ERROR}', s.worker FROM {source}"
    )


class Statement(NamedTuple):
    """A statement of a transaction, with its parameters."""

    sql: str
    params: list[Any]
    requires_first: bool = False
    """Whether it is only executed if the first statement of the transaction has changed a row."""


class DeliveryTable:
    """The table of deliveries in one database."""

    def __init__(self, alias: str, queues: Sequence[str] = ()) -> None:
        self.alias = alias
        self.queues = tuple(queues)

    @property
    def connection(self) -> BaseDatabaseWrapper:
        """This thread's connection."""
        return connections[self.alias]

    @property
    def _first_in_partition(self) -> str:
        return first_in_partition_sql(self.connection.vendor)

    @property
    def _runnable(self) -> str:
        """The SQL condition that ``d`` is the first of its partition and that no later one is leased at its parameter.

        A later one may be: it started before ``d`` was inserted or retried.
        """
        return runnable_sql(self.connection.vendor, "p.id <> d.id AND (p.id < d.id OR p.lease_expires_at > %s)")

    @property
    def lease_time(self) -> int:
        """The time that leases are compared with, in microseconds since the epoch."""
        return get_lease_time(self.connection)

    @property
    def due_time(self) -> int:
        """The time until which deliveries are due, in microseconds since the epoch."""
        return get_due_time(self.connection)

    def get_now_and_lease_expiry(self) -> tuple[int, int]:
        """Return the time for leases and the expiry of one that starts now. Call it after waiting for locks."""
        now = self.lease_time
        return now, now + int(conf.get().DURABLE.LEASE * SECOND_US)

    def get_queue_condition(self) -> str:
        """Return the SQL condition that ``d`` belongs to the queues of this worker. ``queues`` are its parameters."""
        return f" AND d.queue IN ({build_placeholders(self.queues)})" if self.queues else ""

    def _build_leased_delivery(self, row: Sequence[Any], *, attempt_started: bool) -> LeasedDelivery:
        payload = row[14]
        return LeasedDelivery(
            id=row[0],
            receiver=row[1],
            queue=row[2],
            ordering_key=row[3],
            partition_id=row[4],
            trace_id=row[5],
            span=row[6],
            signal=row[7],
            sender=row[8],
            object_key=row[9],
            database=row[10],
            attempts=row[11],
            fencing_token=row[12],
            created=row[13],
            payload=json.loads(payload) if isinstance(payload, str | bytes) else payload,
            alias=self.alias,
            chain_length=row[15],
            deferred_since=row[16],
            attempt_started=attempt_started,
        )

    def _record_lost_attempts(self, cursor: Any, rows: Sequence[Sequence[Any]]) -> None:
        """Insert the attempts of ``rows`` that have no result. ``rows`` are locked, and have expired leases."""
        ids = [row[0] for row in rows if row[ATTEMPT_STARTED_INDEX] is not None]
        if ids:
            source = f"{TABLE} s WHERE s.id IN ({build_placeholders(ids)}) AND s.attempt_started IS NOT NULL"
            cursor.execute(insert_lost_attempts_sql(source), ids)

    def _execute(self, build_statements: Callable[[], Sequence[Statement]]) -> list[int]:
        """Run the statements in one transaction, in one message on PostgreSQL; return the counts of changed rows.

        ``build_statements`` is called once the write lock is held, because the statements contain the time.
        """
        connection = self.connection
        if connection.vendor == "postgresql":
            return self._execute_in_one_statement(build_statements())
        counts: list[int] = []
        backend = backends.get_backend(connection)
        with backend.relaxed_durability(), self._write_transaction(), connection.cursor() as cursor:
            for statement in build_statements():
                if statement.requires_first and not counts[0]:
                    counts.append(0)
                    continue
                cursor.execute(statement.sql, statement.params)
                counts.append(cursor.rowcount)
        return counts

    def _execute_in_one_statement(self, statements: Sequence[Statement]) -> list[int]:
        parts = []
        for number, statement in enumerate(statements):
            # The first statement must finish, with the locks that it waits for, before the others read.
            after = f" AND (SELECT count(*) FROM w0) >= {int(statement.requires_first)}" if number else ""
            parts.append(f"w{number} AS ({statement.sql}{after} RETURNING 1)")
        row_counts = [f"(SELECT count(*) FROM w{number})" for number in range(len(statements))]
        sql = f"{postgresql.DISABLE_SYNCHRONOUS_COMMIT_SQL}; WITH {', '.join(parts)} SELECT {', '.join(row_counts)}"
        return list(self.fetch_in_one_round_trip(sql, [value for one in statements for value in one.params])[0])

    def fetch_in_one_round_trip(self, sql: str, params: Sequence[Any]) -> list[Any]:
        """Send several statements in one message to PostgreSQL; return the rows of the last one."""
        connection = self.connection
        connection.ensure_connection()
        with connection.wrap_database_errors, postgresql.PostgreSQLBackend(connection).create_cursor() as cursor:
            cursor.execute(sql, params)
            while hasattr(cursor, "nextset") and cursor.description is None and cursor.nextset():
                pass
            return list(cursor.fetchall())

    @contextmanager
    def _write_transaction(self) -> Iterator[None]:
        """Open a transaction that takes SQLite's write lock at its start. One that reads first may fail immediately."""
        connection = self.connection
        if connection.vendor != "sqlite" or connection.in_atomic_block:
            with transaction.atomic(using=self.alias, savepoint=False):
                yield
            return
        with connection.cursor() as cursor:
            cursor.execute("BEGIN IMMEDIATE")
            try:
                yield
                cursor.execute("COMMIT")
            except BaseException:
                if connection.connection is not None and connection.connection.in_transaction:
                    cursor.execute("ROLLBACK")
                raise


def build_placeholders(values: Collection[Any]) -> str:
    """Return a placeholder for each of ``values``."""
    return ", ".join(["%s"] * len(values))
