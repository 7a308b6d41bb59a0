from __future__ import annotations

from typing import Any

import pytest

from signalbox.management.subcommands import history
from signalbox.models import Event


@pytest.mark.parametrize(
    ("signal", "args", "expected"),
    [
        ("bulk_create", {"count": 1}, "created"),
        ("bulk_create", {"count": 2}, "created, with 1 other"),
        ("bulk_create", {"count": 1_501}, "created, with 1,500 others"),
        ("update", {"values": {"note": "x"}, "count": 1}, "note = x (1 row)"),
        ("update", {"values": {"note": "x"}, "count": 2_000}, "note = x (2,000 rows)"),
        ("update", {"values": {"note": "x"}}, "note = x"),
        ("bulk_update", {"fields": ["note", "total"], "count": 1}, "note, total (1 row)"),
    ],
)
def test_a_line_counts_the_rows_of_a_bulk_operation(signal: str, args: dict[str, Any], expected: str) -> None:
    assert expected == history.summarize_event(Event(signal=signal, sender="shop.Order", data={"args": args}))
