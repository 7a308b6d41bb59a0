"""The panel in real requests, with the real toolbar in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from signalbox.core.tracing import MAX_TRANSACTION_ENDS
from tests.contrib.packages import require

require("debug_toolbar")


def run_site(store: str) -> dict[str, Any]:
    """Return the results of the site."""
    answer = subprocess.run(
        [sys.executable, "-m", "tests.contrib.debug_toolbar.site"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=os.environ | {"TOOLBAR_STORE": f"debug_toolbar.store.{store}", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert 0 == answer.returncode, answer.stderr
    found: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module", params=["MemoryStore", "DatabaseStore"])
def results(request: pytest.FixtureRequest) -> dict[str, Any]:
    return run_site(request.param)


def test_a_request_shows_each_receiver_with_its_queries(results: dict[str, Any]) -> None:
    receivers = results["change"]["stats"]["receivers"]
    assert [("copy_order", "Order 1", 4), ("read_tag", "of order 1", 1), ("read_tag", "undone", 1)] == [
        (row["name"].rpartition(".")[2], row["object"], row["queries"]) for row in receivers
    ]
    assert all(row["duration_ms"] > 0 for row in receivers)
    assert "copy_order" in results["change"]["panel"]


def test_receivers_of_the_toolbar_are_left_out(results: dict[str, Any]) -> None:
    stats = results["template"]["stats"]
    assert ["template_rendered"] == [row["signal"].rpartition(".")[2] for row in stats["events"]]
    # The other one is that of Django's test client.
    assert (2, ["store_rendered_templates)"]) == (
        stats["events"][0]["receiver_count"],
        [row["name"].rpartition(".")[2] for row in stats["receivers"]],
    )


def test_a_request_shows_bulk_operations_commits_and_rollbacks(results: dict[str, Any]) -> None:
    stats = results["change"]["stats"]
    assert [("update", "shop.Order", "committed")] == [
        (row["signal"], row["sender"], row["outcome"]) for row in stats["operations"]
    ]
    # The order and its tag are two writes in autocommit, the update is a third.
    assert (3, 1) == (stats["commits"], stats["rollbacks"])
    assert ["committed"] * 3 + ["rolled_back"] == [row["outcome"] for row in stats["events"]]


def test_more_transactions_than_are_listed_are_counted(results: dict[str, Any]) -> None:
    stats = results["often"]["stats"]
    listed, omitted = len(stats["ends"]), stats["omitted_end_count"]  # the store has saved before, in the same trace
    assert listed + omitted == MAX_TRANSACTION_ENDS + 5
    assert omitted >= 5
    assert f"<td>at least {listed}</td><td>at least 0</td>" in results["often"]["panel"]
    assert f"{omitted} more commits and rollbacks." in results["often"]["panel"]
    assert 0 == results["change"]["stats"]["omitted_end_count"]


def test_the_panel_links_to_the_trace_of_its_request(results: dict[str, Any]) -> None:
    stats = results["change"]["stats"]
    assert f"/signalbox/trace/{stats['trace_id']}/" == stats["trace_url"]
    assert stats["trace_url"] in results["change"]["panel"]
    assert results["trace_exists"]


def test_the_side_bar_has_the_numbers_also_in_the_history(results: dict[str, Any]) -> None:
    for text in (results["change"]["page"], results["change"]["history"].encode().decode("unicode_escape")):
        assert "4 events, 5 queries in receivers" in text


def test_an_asynchronous_view_is_collected_too(results: dict[str, Any]) -> None:
    if "async" not in results:
        pytest.skip("the toolbar's store in the database can't be used in an event loop")
    receivers = results["async"]["stats"]["receivers"]
    assert [("copy_order", 4), ("read_tag", 1)] == [
        (row["name"].rpartition(".")[2], row["queries"]) for row in receivers
    ]


def test_an_intercepted_redirect_has_the_panel(results: dict[str, Any]) -> None:
    assert (200, 3) == (results["redirect"]["status"], results["redirect"]["stats"]["event_count"])
    assert "3 events, 4 queries in receivers" in results["redirect"]["page"]


def test_a_request_without_changes_is_empty(results: dict[str, Any]) -> None:
    assert "0 events, 0 queries in receivers" in results["read"]["page"]
    assert "No receiver ran" in results["read"]["panel"]


def test_the_panel_says_why_nothing_is_stored(results: dict[str, Any]) -> None:
    assert "IGNORE_PATHS contains this path" in results["ignored"]["panel"]
    assert "Recording is off" in results["not_recording"]["panel"]
    assert "Recording is off" in results["not_recording"]["page"]


def test_nothing_is_collected_if_the_panel_or_the_toolbar_is_off(results: dict[str, Any]) -> None:
    assert {} == results["off"]["stats"]
    assert not results["hidden"]
    assert (0, 0) == (results["collectors"], results["wrappers"])


def test_the_time_of_receivers_is_a_server_timing(results: dict[str, Any]) -> None:
    assert 'desc="Signal receivers"' in results["change"]["server_timing"]
