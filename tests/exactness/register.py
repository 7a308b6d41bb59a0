"""Reads the tables as another process does: on separate connections, without Django and Signalbox."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import closing
from typing import Any, Final, NamedTuple

from django.db import connections

MODEL_COLUMNS: Final = {
    "shop.Tag": ("shop_tag", "id", "name"),
    "shop.Order": ("shop_order", "id", "number"),
    "shop.ExpressOrder": ("shop_order", "id", "number"),
    "shop.Uniq": ("shop_uniq", "id", "k"),
    "shop.Ref": ("shop_ref", "id", "order_id"),
    "shop.Place": ("shop_place", "id", "name"),
    "shop.Restaurant": ("shop_restaurant", "place_ptr_id", "stars"),
    "shop.Friend": ("shop_friend", "id", "name"),
}
"""By model: its table, the column of its key, and the column that is compared."""
FIELD_NAMES: Final = {"order_id": "order"}
"""Names of fields that differ from the names of their columns."""

TABLES: Final = (
    "shop_order_tags",
    "shop_ref",
    "shop_friend_friends",
    "shop_friend",
    "shop_order",
    "shop_restaurant",
    "shop_place",
    "shop_tag",
    "shop_hold",
    "shop_uniq",
    "signalbox_event",
    "signalbox_trace",
    "signalbox_error",
)


NOT_RECORDED: Final = "(not recorded)"
"""Placeholder for a value that a bulk operation does not record."""


class StoredEvent(NamedTuple):
    """One event of the table."""

    signal: str
    sender: str
    key: str
    outcome: str
    data: dict[str, Any]


def open_connection(alias: str) -> Any:
    """Return a new connection of the driver in autocommit."""
    connection = connections[alias]
    settings = connection.settings_dict
    match connection.vendor:
        case "sqlite":
            return sqlite3.connect(settings["NAME"], timeout=20, isolation_level=None)
        case "postgresql":
            import psycopg

            return psycopg.connect(
                host=settings["HOST"],
                port=settings["PORT"],
                user=settings["USER"],
                password=settings["PASSWORD"],
                dbname=settings["NAME"],
                autocommit=True,
            )
        case _:
            import MySQLdb

            return MySQLdb.connect(
                host=settings["HOST"],
                port=int(settings["PORT"] or 3306),
                user=settings["USER"],
                password=settings["PASSWORD"],
                database=settings["NAME"],
                autocommit=True,
                charset="utf8mb4",
            )


def execute(alias: str, *statements: str) -> list[tuple[Any, ...]]:
    """Run SQL without Django. Return the rows of the last statement."""
    rows: list[tuple[Any, ...]] = []
    with closing(open_connection(alias)) as raw, closing(raw.cursor()) as cursor:
        for statement in statements:
            cursor.execute(statement)
            rows = list(cursor.fetchall()) if cursor.description else []
    return rows


def empty_tables(alias: str) -> None:
    """Delete all rows of the tables."""
    execute(alias, "BEGIN", *(f"DELETE FROM {table}" for table in TABLES), "COMMIT")


def read_events(alias: str = "default") -> list[StoredEvent]:
    """Return the committed events, in the order in which they were written."""
    found = execute(alias, "SELECT e.signal, sender, object_key, outcome, data FROM signalbox_event e ORDER BY id")
    return [
        StoredEvent(signal, sender, key, outcome, json.loads(data) if isinstance(data, str | bytes) else data)
        for signal, sender, key, outcome, data in found
    ]


def read_recorded_values(outcome: str, signal: str, alias: str = "default") -> list[str]:
    """Return the values of the compared column in the events with this outcome and signal."""
    return [
        str(event.data["row"][_get_field_name(event.sender)])
        for event in read_events(alias)
        if (event.outcome, event.signal) == (outcome, signal)
    ]


def read_rows(sender: str, alias: str = "default") -> dict[str, str]:
    """Return the values of the compared column in the stored rows, by key."""
    table, key, column = MODEL_COLUMNS[sender]
    return {str(pk): str(value) for pk, value in execute(alias, f"SELECT {key}, {column} FROM {table}")}


def replay_rows(sender: str, alias: str = "default") -> dict[str, str]:
    """Return the rows that result from the committed events, by key.

    Asserts that no event is missing and that none was written twice.
    """
    found: dict[str, str] = {}
    for event in read_events(alias):
        if event.sender == sender and event.outcome == "committed":
            if "keys" in event.data.get("args", ()) and "row" not in event.data:
                _replay_keys(event, found)
            else:
                _replay_row(event, found, _get_field_name(sender))
    return found


def _replay_keys(event: StoredEvent, found: dict[str, str]) -> None:
    """Apply a bulk operation whose values are not recorded."""
    for key in map(str, event.data["args"]["keys"]):
        assert (key in found) == (event.signal != "bulk_create"), f"created twice, or not at all: {event}"
        found[key] = NOT_RECORDED
        if event.signal == "bulk_delete":
            del found[key]


def _replay_row(event: StoredEvent, found: dict[str, str], field: str) -> None:
    if event.signal == "bulk_create" or (event.signal == "post_save" and event.data["args"]["created"]):
        assert event.key not in found, f"created twice: {event}"
        found[event.key] = str(event.data["row"][field])
    elif event.signal in ("post_delete", "bulk_delete"):
        assert event.key in found, f"deleted, but never created: {event}"
        del found[event.key]
    elif event.signal in ("post_save", "bulk_update", "update"):
        assert event.key in found, f"updated, but never created: {event}"
        if change := event.data.get("changes", {}).get(field):
            found[event.key] = str(change[-1])


def _get_field_name(sender: str) -> str:
    column = MODEL_COLUMNS[sender][2]
    return FIELD_NAMES.get(column, column)


def assert_rows_match(sender: str = "shop.Tag", alias: str = "default") -> list[str]:
    """Assert that the events result in exactly the stored rows. Return their values, sorted."""
    stored_rows = read_rows(sender, alias)
    replayed_rows = replay_rows(sender, alias)
    assert replayed_rows == {
        key: NOT_RECORDED if replayed_rows.get(key) == NOT_RECORDED else value for key, value in stored_rows.items()
    }
    return sorted(stored_rows.values())


def count_signals(alias: str = "default") -> Counter[tuple[str, str]]:
    """Return how often each ``(signal, outcome)`` was written."""
    return Counter((event.signal, event.outcome) for event in read_events(alias))


def read_tag_links(alias: str = "default") -> set[tuple[str, str]]:
    """Return the stored pairs of keys of an order and a tag."""
    found = execute(alias, "SELECT order_id, tag_id FROM shop_order_tags")
    return {(str(order), str(tag)) for order, tag in found}


def replay_tag_links(alias: str = "default") -> set[tuple[str, str]]:
    """Return the pairs that result from the committed events."""
    found: set[tuple[str, str]] = set()
    for event in read_events(alias):
        if event.outcome == "committed" and event.signal == "m2m_changed":
            args = event.data["args"]
            found |= {(event.key, str(key)) for key in args.get("added", ())}
            found -= {(event.key, str(key)) for key in args.get("removed", ())}
        elif (event.outcome, event.signal, event.sender) == ("committed", "post_delete", "shop.Order"):
            found = {(order, tag) for order, tag in found if order != event.key}
    return found
