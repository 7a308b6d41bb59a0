from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from signalbox.queries import filter_suggestions
from tests.dashboard.browsing import AddEvent, AddTrace

pytestmark = pytest.mark.django_db


def test_names_of_the_project_are_suggested(operator_client: Client, add_event: AddEvent, add_trace: AddTrace) -> None:
    add_event(trace_id=add_trace().trace_id)
    found = {
        token["name"]: dict(token["values"])
        for token in operator_client.get("/signalbox/suggestions/").json()["tokens"]
    }
    assert {"post_save", "bulk_create"} <= found["signal"].keys()
    assert {"shop.Order", "auth.User"} <= found["model"].keys()
    assert "django.contrib.auth.models.update_last_login" in found["receiver"].values()
    assert "Order 7" == found["object"]["shop.Order:7"]
    assert "15 minutes ago" == found["since"]["15m"]
    assert "/orders/7/" in found["path"]


def test_suggestions_read_no_whole_table(
    operator_client: Client, add_event: AddEvent, add_trace: AddTrace, django_assert_max_num_queries: Any
) -> None:
    with django_assert_max_num_queries(8):
        filter_suggestions.get_suggestions()
