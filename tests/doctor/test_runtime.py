"""Reading the process."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from django.core.files.storage import FileSystemStorage, InMemoryStorage
from django.core.signals import request_finished
from django.db.models.signals import post_save
from django.dispatch import Signal
from django.test import override_settings

from signalbox.core import naming
from signalbox.core.catalog import BUILTIN_SIGNALS
from signalbox.doctor import examine, runtime, source
from signalbox.doctor.project import Project
from signalbox.doctor.runtime_model import Connection, Sender
from signalbox.instrumentation import install

SIGNAL = Signal()
KEPT: list[Callable[..., None]] = []
NAME = f"{__name__}.SIGNAL"


@pytest.fixture(autouse=True)
def _quiet() -> None:
    SIGNAL.receivers = []


def connections() -> list[Connection]:
    return [connection for connection in runtime.read_runtime().connections if connection.signal == NAME]


def make() -> Callable[..., None]:
    def inner(sender: object, **kwargs: Any) -> None: ...

    return inner


class Handler:
    def on_send(self, sender: object, **kwargs: Any) -> None: ...

    def __call__(self, sender: object, **kwargs: Any) -> None: ...


async def coroutine(sender: object, **kwargs: Any) -> None: ...


def test_a_custom_signal_is_known_by_its_dotted_path() -> None:
    assert NAME == runtime.read_runtime().aliases[NAME]


def test_a_signal_has_the_same_name_as_in_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    thing = Signal()
    (tmp_path / "models.py").write_text("thing = Signal()\n")
    for name, file in (("tests.shop.deep.models", str(tmp_path / "models.py")), ("tests.shop.aside", None)):
        module = ModuleType(name)
        vars(module).update(thing=thing, __file__=file)
        monkeypatch.setitem(sys.modules, name, module)
    install.discover_signals()

    assert "tests.shop.deep.models.thing" == runtime.read_runtime().aliases["tests.shop.aside.thing"]
    assert "tests.shop.deep.models.thing" == install.get_recorded_signals()[thing]


def test_a_signal_has_the_name_that_track_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    payment = Signal()
    monkeypatch.setattr(sys.modules[__name__], "payment", payment, raising=False)
    naming.track(payment, "partner.payment")

    assert "partner.payment" == runtime.read_runtime().aliases[f"{__name__}.payment"]


def test_a_signal_that_a_library_holds_may_be_sent_there() -> None:
    process = replace(runtime.read_runtime(), aliases={"library.paid": "shop.events.paid", "shop.lost": "shop.lost"})
    written = source.read_source([], process.aliases, project_files={"shop": os.devnull})
    project = Project(runtime=process, source=written)

    assert (True, False) == (project.escapes("shop.events.paid"), project.escapes("shop.lost"))


def test_a_built_in_signal_is_known_by_its_short_name_wherever_it_is_imported() -> None:
    aliases = runtime.read_runtime().aliases

    assert "post_save" == aliases["django.db.models.signals.post_save"]
    assert "post_save" == aliases[f"{__name__}.post_save"]
    assert post_save is not None


def test_a_function_is_read_with_place_signature_and_sender() -> None:
    inner = make()
    SIGNAL.connect(inner, sender=Handler)

    (connection,) = connections()

    assert (__file__, inner.__code__.co_firstlineno) == (connection.path, connection.line)
    assert f"{__name__}.make.<locals>.inner" == connection.receiver
    assert Sender(kind="class", name=f"{__name__}.Handler") == connection.sender
    assert [("sender", "keyword", True), ("kwargs", "kwargs", False)] == [
        (p.name, p.kind, p.required) for p in connection.parameters or ()
    ]
    assert (True, True, False) == (connection.is_alive, connection.weak, connection.is_async)


def test_methods_partials_instances_and_coroutines_are_read() -> None:
    handler, kept = Handler(), partial(make(), extra=1)
    for receiver in (handler.on_send, kept, handler, coroutine):
        SIGNAL.connect(receiver)

    assert [
        f"{__name__}.Handler.on_send",
        f"functools.partial({__name__}.make.<locals>.inner)",
        f"{__name__}.Handler",
        f"{__name__}.coroutine",
    ] == [connection.receiver for connection in connections()]
    assert [False, False, False, True] == [connection.is_async for connection in connections()]


def test_a_collected_receiver_is_seen_while_its_place_is_in_the_list() -> None:
    SIGNAL.connect(make())
    gc.collect()

    assert [False] == [connection.is_alive for connection in connections()]
    findings = [
        finding for finding in examine(rules=["dead-receiver"], use_recorded_events=False) if finding.signal == NAME
    ]
    assert ["1 receiver(s) of this signal will never run again."] == [finding.message for finding in findings]


def test_collected_storages_are_not_reported() -> None:
    storages = [FileSystemStorage(), InMemoryStorage()]
    storages.clear()
    gc.collect()

    gone = [c for c in runtime.read_runtime().connections if c.signal == "setting_changed" and not c.is_alive]
    assert 2 <= len(gone)
    assert [] == [
        finding
        for finding in examine(rules=["dead-receiver"], use_recorded_events=False)
        if finding.signal in BUILTIN_SIGNALS
    ]


@override_settings(DEBUG=True)
def test_with_debug_on_only_the_signature_cache_keeps_a_receiver() -> None:
    KEPT[:] = [make()]
    SIGNAL.connect(make())
    SIGNAL.connect(KEPT[0])

    assert [True, False] == [connection.kept_by_debug_cache for connection in connections()]


def test_with_debug_off_no_cache_keeps_a_receiver() -> None:
    kept = make()
    SIGNAL.connect(kept)

    assert [False] == [connection.kept_by_debug_cache for connection in connections()]


@override_settings(DEBUG=True)
def test_the_cache_does_not_reference_a_strongly_connected_receiver() -> None:
    SIGNAL.connect(make(), weak=False)

    assert [False] == [connection.kept_by_debug_cache for connection in connections()]


def test_reading_does_not_evaluate_lazy_objects() -> None:
    read: list[str] = []

    class Lazy:
        @property  # type: ignore[misc]
        def __class__(self) -> type:
            read.append("class")
            return Signal

    globals()["lazy"] = Lazy()
    try:
        runtime.read_runtime()
    finally:
        del globals()["lazy"]

    assert [] == read


def test_djangos_own_receivers_belong_to_no_app_of_the_project() -> None:
    process = runtime.read_runtime()
    own = {connection.path for connection in process.connections if connection.signal == "request_finished"}

    assert request_finished.receivers
    assert [] == [path for path in own if (app := process.find_app_by_path(path)) and app.is_project_app]
