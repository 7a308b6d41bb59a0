"""Builds the events of bulk operations: one for the operation, or one for each row."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from signalbox.core import interrupts, loggers, tracing
from signalbox.core.event import UNKNOWN, PendingEvent
from signalbox.instrumentation import model_metadata
from signalbox.pipeline import unit_of_work
from signalbox.serialization.diff import RowChange

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from django.db.backends.base.base import BaseDatabaseWrapper

    from signalbox.core.event import Rollbackable
    from signalbox.instrumentation.model_metadata import ModelMetadata
    from signalbox.instrumentation.returning_request import ReturningRequest

logger = loggers.get_logger("recording")

MAX_RECORDED_KEYS: Final = 10_000
"""Keys in one event. The event of a larger operation has the first of them, and the number of all."""


@contextmanager
def log_errors(operation: str, metadata: ModelMetadata) -> Iterator[None]:
    """Log exceptions of the block. The application does not get them, as its rows are written."""
    try:
        yield
    except Exception as error:
        interrupts.raise_if_interrupt(error)
        logger.exception("%s of %s could not be recorded.", operation, metadata.label)


def _build_event(operation: str, metadata: ModelMetadata, connection: BaseDatabaseWrapper) -> PendingEvent:
    event = tracing.build_event(operation, metadata.label, connection.alias)
    event.duration = 0
    return event


def record_operation(
    operation: str,
    metadata: ModelMetadata,
    connection: BaseDatabaseWrapper,
    count: int,
    keys: list[Any] | None,
    extra_args: dict[str, Any],
    rollbackable: Rollbackable | None = None,
) -> None:
    """Add the event of an operation on ``count`` rows. ``keys`` are their first keys, None if unknown.

    A negative ``count`` is unknown: psycopg returns it within a pipeline.
    """
    if not count:
        return
    event = _build_event(operation, metadata, connection)
    args: dict[str, Any] = {"count": count if count > 0 else None, **extra_args, "keys": None}
    if keys is not None:
        encoded = args["keys"] = encode_keys(metadata, keys)
        if count > len(encoded):
            args["omitted_keys"] = count - len(encoded)
    event.args = args
    event.rollbackable = rollbackable
    add_event(event, connection)


def encode_keys(metadata: ModelMetadata, keys: list[Any]) -> list[Any]:
    """Return the first ``MAX_RECORDED_KEYS`` of ``keys`` as they are recorded."""
    encoded = keys[:MAX_RECORDED_KEYS]
    return (
        encoded
        if {*map(type, encoded)} <= {int} and not metadata.has_secret_pk
        else [metadata.format_key(key) for key in encoded]
    )


def record_whole_rows(
    operation: str, metadata: ModelMetadata, connection: BaseDatabaseWrapper, requested: ReturningRequest
) -> None:
    """Add an event for each created or deleted row that a statement returned."""
    positions = [metadata.fields.attnames.index(field.attname) for field in requested.fields]
    for values in requested.rows or ():
        row = align_values(metadata, positions, values)
        key = tuple(row[position] for position, _ in metadata.pk_positions)
        change = (
            RowChange(metadata.fields, row, None)
            if operation == "bulk_delete"
            else RowChange(metadata.fields, None, row)
        )
        event = build_row_event(
            operation, metadata, connection, metadata.format_key(key if len(key) > 1 else key[0]), change, None
        )
        add_event(event, connection)


def build_row_event(
    operation: str,
    metadata: ModelMetadata,
    connection: BaseDatabaseWrapper,
    key: str,
    change: RowChange,
    rollbackable: Rollbackable | None,
) -> PendingEvent:
    """Return the event of one row.

    Args:
        operation: The name of the operation, such as ``"update"``.
        metadata: The metadata of the model.
        connection: The connection that wrote the row.
        key: The primary key as text.
        change: The old and new values.
        rollbackable: The state to restore on a rollback, if any.
    """
    event = _build_event(operation, metadata, connection)
    event.key = key
    event.change = change
    event.rollbackable = rollbackable
    return event


def add_event(event: PendingEvent, connection: BaseDatabaseWrapper) -> None:
    """Add ``event`` to the transaction of ``connection``."""
    unit_of_work.get_or_attach(connection).add(event)


def align_values(metadata: ModelMetadata, positions: Sequence[int], values: Sequence[Any]) -> list[Any]:
    """Return a row with ``values`` at ``positions`` of the concrete fields, and ``UNKNOWN`` elsewhere."""
    aligned: list[Any] = [UNKNOWN] * len(metadata.fields.names)
    for position, value in zip(positions, values, strict=True):
        aligned[position] = value
    return aligned


def get_keys(metadata: ModelMetadata, requested: ReturningRequest) -> list[Any] | None:
    """Return the primary keys of the rows, None if they are unknown. Composite keys are tuples."""
    if requested.rows is None:
        return None
    size = len(metadata.pk_fields)
    return [row[0] for row in requested.rows] if size == 1 else [tuple(row[:size]) for row in requested.rows]


def get_related_keys(metadata: ModelMetadata, requested: ReturningRequest) -> dict[str, Any]:
    """Return the keys on both sides of the rows of a many-to-many relation, by the name of the foreign key."""
    if not metadata.through_fields or requested.rows is None:
        return {}
    columns = list(zip(*requested.rows, strict=True))[len(metadata.pk_fields) :]
    return {
        "related_keys": {
            field.name: encode_keys(model_metadata.get_metadata(field.related_model), list(column))
            for field, column in zip(metadata.through_fields, columns, strict=False)
        }
    }


def get_unknown_reason(requested: ReturningRequest) -> dict[str, str]:
    """Return the reason for unknown keys as an argument of the event; empty if the keys are known."""
    return {"keys_unknown": requested.unknown_reason} if requested.unknown_reason else {}
