from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connections, transaction

from signalbox.core.query_guard import QueryForbidden, call_isolated, call_without_queries
from tests.connecting import get_connection
from tests.shop.models import Tag

pytestmark = pytest.mark.django_db


def query() -> None:
    Tag.objects.count()


def test_a_callback_may_not_query() -> None:
    with pytest.raises(QueryForbidden):
        call_without_queries(query, connection=get_connection())
    query()


def test_a_callback_s_result_is_returned() -> None:
    assert "3" == call_without_queries(str, 3, connection=None)
    assert "3" == call_isolated(str, 3)


@pytest.mark.parametrize("alias", ["default", "other"])
def test_a_callback_in_a_new_thread_may_not_open_a_connection(alias: str) -> None:
    def query_guarded() -> str:
        try:
            call_isolated(lambda: Tag.objects.using(alias).count())
        except QueryForbidden:
            return "forbidden"
        finally:
            connections.close_all()
        return "queried"

    with ThreadPoolExecutor(1) as executor:
        assert "forbidden" == executor.submit(query_guarded).result()


def test_a_callback_that_catches_the_error_leaves_the_transaction_as_it_was() -> None:
    def save() -> None:
        try:
            with transaction.atomic():
                Tag.objects.create(name="refused")
        except QueryForbidden:
            return

    with transaction.atomic():
        call_isolated(save)
        assert not get_connection().needs_rollback
        Tag.objects.create(name="kept")
    assert ["kept"] == list(Tag.objects.values_list("name", flat=True))


def get_blocked_methods() -> dict[str, Any]:
    """Return the methods that the connection has while a callback runs."""
    return call_without_queries(lambda: {"cursor": vars(get_connection())["cursor"]}, connection=get_connection())


def test_a_block_that_was_left_behind_removes_itself() -> None:
    """As after an exception of a signal handler that struck while the guard was being removed."""
    get_connection().__dict__.update(get_blocked_methods())
    query()
    assert "cursor" not in get_connection().__dict__


def test_a_cursor_method_of_another_tool_is_restored() -> None:
    def cursor(*args: Any, **kwargs: Any) -> Any:
        return type(get_connection()).cursor(get_connection(), *args, **kwargs)

    get_connection().__dict__["cursor"] = cursor
    try:
        call_without_queries(str, 3, connection=get_connection())
        assert cursor is get_connection().__dict__["cursor"]
        get_connection().__dict__.update(get_blocked_methods())
        query()
        assert cursor is get_connection().__dict__["cursor"]
    finally:
        del get_connection().__dict__["cursor"]
