from __future__ import annotations

import asyncio
import csv
import gc
import io
import json
import re
from collections.abc import Mapping
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import Permission, User
from django.core.asgi import get_asgi_application
from django.db import connections
from django.test import AsyncClient, Client
from django.utils import timezone

from signalbox.models import Event
from signalbox.queries import event_stream
from tests.dashboard.browsing import AddEvent

pytestmark = [pytest.mark.django_db, pytest.mark.every_database]

ADDRESS = "/signalbox/export/"


@pytest.fixture
def exporter_client(operator: User, operator_client: Client) -> Client:
    """A client with an operator who may export."""
    operator.user_permissions.add(Permission.objects.get(codename="export_event"))
    Event.objects.all().delete()
    return operator_client


def read(response: Any) -> str:
    return b"".join(response.streaming_content).decode()


def get_record() -> Event:
    record: Event = Event.objects.get(signal="signalbox.exported")
    return record


def test_the_matching_events_are_downloaded_and_recorded(
    exporter_client: Client, add_event: AddEvent, operator: User
) -> None:
    add_event(sender="shop.Tag")
    expected = [add_event(sender="shop.Order", errors=1).id for _ in range(3)]
    answer = exporter_client.post(ADDRESS, {"format": "jsonl", "sender": "shop.Order", "outcome": "errors"})
    day = timezone.localdate()
    assert f'attachment; filename="signalbox-{day}.jsonl"' == answer["Content-Disposition"]
    assert "no-store" in answer["Cache-Control"]
    assert expected == [json.loads(line)["id"] for line in read(answer).splitlines()]
    record = get_record()
    assert str(operator.pk) == record.actor_key
    assert record.data["args"] == {
        "format": "jsonl",
        "filter": {"filter": "model:shop.Order error:*"},
        "origin": "page",
        "events": 3,
        "first_id": expected[0],
        "last_id": expected[-1],
        "is_complete": True,
    }


@pytest.mark.parametrize(("name", "media_type"), [("csv", "text/csv"), ("cloudevents", "application/x-ndjson")])
def test_each_format_has_its_media_type(
    exporter_client: Client, add_event: AddEvent, name: str, media_type: str
) -> None:
    add_event()
    answer = exporter_client.post(ADDRESS, {"format": name})
    assert answer["Content-Type"].startswith(media_type)
    text = read(answer)
    if name == "csv":
        assert ["shop.Order"] == [row["sender"] for row in csv.DictReader(io.StringIO(text, newline=""))]
    else:
        assert "1.0" == json.loads(text)["specversion"]


def test_without_the_permission_the_export_is_refused_and_its_name_is_given(
    operator_client: Client, add_event: AddEvent
) -> None:
    add_event()
    assert ADDRESS not in operator_client.get("/signalbox/").content.decode()
    answer = operator_client.post(ADDRESS, {"format": "csv"})
    assert 403 == answer.status_code
    assert "signalbox.export_event" in answer.content.decode()


def test_the_permission_to_view_events_is_needed_too(client: Client, add_event: AddEvent) -> None:
    user = User.objects.create_user("clerk", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="export_event"))
    client.force_login(user)
    assert 403 == client.post(ADDRESS, {"format": "csv"}).status_code


def test_only_a_post_with_a_csrf_token_exports(exporter_client: Client, operator: User) -> None:
    assert 405 == exporter_client.get(ADDRESS).status_code
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(operator)
    assert 403 == strict.post(ADDRESS, {"format": "csv"}).status_code
    assert not Event.objects.filter(signal="signalbox.exported").exists()


def test_a_filter_or_format_that_is_not_valid_is_refused(exporter_client: Client) -> None:
    answer = exporter_client.post(ADDRESS, {"format": "csv", "since": "noon"})
    assert 400 == answer.status_code
    assert "a time was expected" in answer.content.decode()
    assert 404 == exporter_client.post(ADDRESS, {"format": "xml"}).status_code


@pytest.mark.django_db(transaction=True)
def test_a_download_that_the_client_ends_is_recorded_as_incomplete(
    exporter_client: Client, add_event: AddEvent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "CHUNK_ROWS", 2)
    for _ in range(5):
        add_event()
    answer: Any = exporter_client.post(ADDRESS, {"format": "jsonl"})
    assert 2 == len(next(iter(answer.streaming_content)).splitlines())
    answer.close()
    found = get_record().data["args"]
    assert (False, 2) == (found["is_complete"], found["events"])


def test_an_export_begins_at_the_oldest_event_whatever_its_id(exporter_client: Client, add_event: AddEvent) -> None:
    Event.objects.all().delete()
    first_id = add_event().id + 10 * event_stream.MAX_WINDOW_IDS
    Event.objects.all().delete()
    expected = [add_event(id=id_).id for id_ in (first_id, first_id + 1)]
    answer: Any = exporter_client.post(ADDRESS, {"format": "jsonl"})
    part = next(iter(answer.streaming_content))
    answer.close()
    assert expected == [json.loads(line)["id"] for line in part.splitlines()]


@pytest.mark.django_db(transaction=True)
def test_under_asgi_the_event_loop_does_not_read(
    exporter_client: Client, operator: User, add_event: AddEvent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "CHUNK_ROWS", 2)
    expected = [add_event().id for _ in range(5)]

    async def download() -> list[str]:
        client = AsyncClient()
        await client.aforce_login(operator)
        answer: Any = await client.post(ADDRESS, {"format": "jsonl", "sender": "shop.Order"})
        assert answer.is_async
        parts = [part.decode() async for part in answer.streaming_content]
        await sync_to_async(connections.close_all)()  # the test client does not close those of its thread
        return parts

    parts = asyncio.run(download())
    assert [2, 2, 1] == [len(part.splitlines()) for part in parts]
    assert expected == [json.loads(line)["id"] for line in "".join(parts).splitlines()]
    assert get_record().data["args"]["is_complete"]


@pytest.mark.django_db(transaction=True)
def test_under_asgi_a_client_that_disconnects_is_recorded(
    exporter_client: Client, add_event: AddEvent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "CHUNK_ROWS", 2)
    for _ in range(9):
        add_event()
    page = exporter_client.get("/signalbox/")
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.content.decode())
    assert token is not None
    body = f"format=jsonl&csrfmiddlewaretoken={token[1]}".encode()
    cookies = "; ".join(f"{name}={found.value}" for name, found in exporter_client.cookies.items())
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": ADDRESS,
        "raw_path": ADDRESS.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "headers": [
            (b"host", b"testserver"),
            (b"cookie", cookies.encode()),
            (b"content-type", b"application/x-www-form-urlencoded"),
            (b"content-length", str(len(body)).encode()),
        ],
        "client": ("127.0.0.1", 1),
        "server": ("testserver", 80),
    }

    async def disconnect() -> int:
        parts = 0
        enough = asyncio.Event()
        messages = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive() -> dict[str, Any]:
            for message in messages:
                return message
            await enough.wait()
            return {"type": "http.disconnect"}

        async def send(message: Mapping[str, Any]) -> None:
            nonlocal parts
            parts += bool(message.get("body"))
            if parts == 2:
                enough.set()
                await asyncio.sleep(20)  # a slow client; the request is cancelled

        await get_asgi_application()(scope, receive, send)
        return parts

    assert 2 == asyncio.run(asyncio.wait_for(disconnect(), 15))
    found = get_record().data["args"]
    assert (False, 4) == (found["is_complete"], found["events"])
    gc.collect()  # closes the connection of the cancelled request's thread
