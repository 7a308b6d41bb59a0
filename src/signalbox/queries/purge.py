"""Delete old rows of the event log, by the rules of retention or before a time."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping

from django.core.exceptions import ImproperlyConfigured
from django.db import Error, connections
from django.utils import timezone

from signalbox.models import to_microseconds, utc_now
from signalbox.pipeline import backends
from signalbox.queries.filter_names import check_names
from signalbox.queries.filters import EventFilter, FilterError
from signalbox.retention import purging, rules


class PurgeError(Exception):
    """Databases could not be purged completely. The next purge continues."""

    def __init__(self, deleted: dict[str, dict[str, int]], errors: Mapping[str, Error]) -> None:
        self.deleted = deleted
        """The number of deleted rows, by database and rule, as ``purge()`` returns it."""
        self.errors = dict(errors)
        """The error of each database that was not purged completely."""
        super().__init__("; ".join(map(self._describe, errors)))

    def _describe(self, alias: str) -> str:
        error = self.errors[alias]
        if backends.get_backend(connections[alias]).is_permission_error(error):
            grants = "A purge needs SELECT and DELETE on the tables, and INSERT and UPDATE on signalbox_purgestate"
            return f"The role of database {alias!r} lacks a grant: {str(error).strip()}. {grants}."
        return f"Database {alias!r} could not be purged: {str(error).strip() or type(error).__name__}"


def purge(
    *,
    before: dt.datetime | None = None,
    signal: str | Iterable[str] | None = None,
    sender: str | Iterable[str] | None = None,
    using: str | None = None,
    dry_run: bool = False,
    on_progress: Callable[[purging.PurgeProgress], object] | None = None,
) -> dict[str, dict[str, int]]:
    """Delete the rows of the event log that ``SIGNALBOX["RETENTION"]`` does not keep, or the events before a time.

    It deletes in short transactions, and can be ended and repeated at any time. Events with a pending delivery or a
    dead letter are kept, and so are traces with events. It must not be called in a transaction.

    Args:
        before: Delete the events before this time instead of applying the setting; an aware datetime. Without
            ``signal`` and ``sender``, the traces without events that ended before are deleted too.
        signal: With ``before``: only events of these signals; by default, of all.
        sender: With ``before``: only events of these senders, as ``shop.Order``, or ``shop`` for the whole app; by
            default, of all.
        using: Alias of the database; by default, all that have the tables.
        dry_run: Delete nothing, and return the numbers of rows that would be deleted.
        on_progress: Called with a ``PurgeProgress`` during the work.

    Returns:
        The number of deleted rows by database and rule, as ``{"default": {"events": 1200, "traces": 80}}``.

    Raises:
        PurgeError: databases could not be purged, such as because they are not available. The others were purged.
        ImproperlyConfigured: the setting has an invalid rule, or no database has the tables, or not that of ``using``.
        ValueError: ``before`` is in the future, a name is empty or neither in the project nor recorded, ``signal`` or
            ``sender`` contains no name, or is given without ``before``.
        TypeError: ``before`` is not an aware datetime.
        RuntimeError: a transaction is open.
    """
    signals, senders = _to_names("signal", signal), _to_names("sender", sender)
    _check_before(before, has_selection=bool(signals or senders))
    aliases, errors = _find_databases(using)
    selection = EventFilter.parse({"signal": signals, "sender": senders})
    _check_selection(selection, aliases)
    retention_rules = rules.load() if before is None else None
    deleted = {}
    for alias in aliases:
        found = purging.Purge(alias, dry_run=dry_run, on_progress=on_progress)
        deleted[alias] = found.deleted
        try:
            if retention_rules is not None:
                found.apply_rules(retention_rules)
            elif before is not None:
                found.delete_before(to_microseconds(before), selection.signal, selection.sender)
        except Error as error:
            errors[alias] = error
    if errors:
        raise PurgeError(deleted, errors)
    return deleted


def _to_names(field: str, given: str | Iterable[str] | None) -> list[str]:
    """Return the names; none for ``None``, which means all. Anything else that is empty would delete too much."""
    if given is None:
        return []
    names = [given] if isinstance(given, str) else list(given)
    if not names or not all(name.strip() for name in names):
        raise FilterError(field, str(given), "a name was expected, or None for all.")
    return names


def _check_before(before: dt.datetime | None, *, has_selection: bool) -> None:
    if before is None:
        if has_selection:
            raise ValueError("signal and sender select events before a time: add before.")
        return
    if not isinstance(before, dt.datetime) or timezone.is_naive(before):  # type: ignore[redundant-expr]
        raise TypeError(f"before is {before!r}; an aware datetime was expected, as timezone.now() returns.")
    if before > utc_now():
        raise FilterError("before", before.isoformat(), "a time in the past was expected.")


def _find_databases(using: str | None) -> tuple[list[str], dict[str, Error]]:
    if using is None:
        aliases, errors = purging.find_purge_databases()
        if not aliases and not errors:
            raise ImproperlyConfigured("No database has Signalbox's tables: run manage.py migrate.")
        return aliases, errors
    try:
        if purging.has_tables(using):
            return [using], {}
    except Error as error:
        return [], {using: error}
    raise ImproperlyConfigured(f"Database {using!r} does not have Signalbox's tables: run manage.py migrate.")


def _check_selection(selection: EventFilter, aliases: Iterable[str]) -> None:
    """Raise ``FilterError`` if a name is neither in the project nor recorded in any of the databases."""
    error: FilterError | None = None
    for alias in aliases:
        try:
            check_names(selection, using=alias)
        except FilterError as unknown:
            error = unknown
        else:
            return
    if error is not None:
        raise error


__all__ = ["PurgeError", "purge"]
