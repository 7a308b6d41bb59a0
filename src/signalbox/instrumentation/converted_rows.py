"""Converts the rows that a statement returned by their fields, and adds them to the request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from signalbox.core import interrupts
from signalbox.instrumentation.filter_keys import is_integer_field
from signalbox.instrumentation.returning_request import NOT_READABLE

if TYPE_CHECKING:
    from signalbox.instrumentation.returning_request import ReturningRequest


def add_converted_rows(compiler: Any, requested: ReturningRequest, rows: Any) -> None:
    """Add ``rows`` of the database to ``requested``, up to its ``max_rows``, converted by their fields."""
    if requested.max_rows is not None:
        rows = rows[: max(0, requested.max_rows - len(requested.rows or ()))]
    if not all(map(is_integer_field, requested.fields)):
        table = requested.model._meta.db_table
        try:
            converters = compiler.get_converters([field.get_col(table) for field in requested.fields])
            rows = list(compiler.apply_converters(rows, converters)) if converters else rows
        except Exception as error:  # noqa: BLE001 - the statement is executed in any case
            interrupts.raise_if_interrupt(error)
            requested.mark_unknown(NOT_READABLE)
            return
    requested.add_rows(rows)
