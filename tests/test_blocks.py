"""The transactions that recording opens, and how it finds their connection."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import connections
from django.utils.connection import ConnectionDoesNotExist

from signalbox.recording import blocks


def found() -> tuple[Any, Any]:
    return blocks.connection_of("default"), connections["default"]


def in_thread() -> tuple[Any, Any]:
    pair: list[Any] = []

    def look() -> None:
        pair.extend(found())

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    return pair[0], pair[1]


async def in_loop() -> tuple[Any, Any]:
    return found()


async def beside_loop() -> tuple[Any, Any]:
    return await sync_to_async(found)()


def test_the_connection_is_the_one_that_django_finds_wherever_it_is_asked() -> None:
    pairs = {
        "here": found(),
        "in a thread": in_thread(),
        "in an event loop": asyncio.run(in_loop()),
        "beside an event loop": async_to_sync(beside_loop)(),
    }
    assert dict.fromkeys(pairs, True) == {name: mine is its for name, (mine, its) in pairs.items()}
    assert pairs["here"][0] is not pairs["in a thread"][0]
    assert blocks._storage is not None, "it is found the short way, unless asgiref keeps it elsewhere by now"


def test_another_connection_that_is_put_in_its_place_is_found() -> None:
    before = connections["default"]
    other = before.copy()
    connections["default"] = other
    try:
        assert other is blocks.connection_of("default")
    finally:
        connections["default"] = before
    assert before is blocks.connection_of("default")


def test_a_database_that_there_is_not_is_djangos_error() -> None:
    with pytest.raises(ConnectionDoesNotExist):
        blocks.connection_of("nowhere")
