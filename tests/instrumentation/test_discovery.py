from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from django.core.signals import request_started
from django.db.models.signals import post_save
from django.dispatch import Signal
from django.test import Client, override_settings

import signalbox
from signalbox.core import naming, tracing
from signalbox.instrumentation import discovery, install, test_runs
from signalbox.instrumentation import signals as signal_patches
from signalbox.models import Event
from tests.shop import signals
from tests.shop.signals import order_paid


@pytest.fixture(autouse=True)
def trace() -> Iterator[tracing.Trace]:
    """Give each test its own trace, so that no test finds the events of another."""
    begun = test_runs.start_test("custom")
    yield begun
    test_runs.finish_test(begun, "ok")


@pytest.fixture
def imported() -> Iterator[Any]:
    """Import a module of the shop that does not exist yet."""
    names: list[str] = []

    def make(name: str, **members: Any) -> ModuleType:
        module = ModuleType(name)
        vars(module).update(members)
        sys.modules[name] = module
        names.append(name)
        return module

    yield make
    for name in names:
        del sys.modules[name]
    discovery.reset()


def recorded() -> list[str]:
    return [event.signal for event in Event.objects.filter(trace_id=tracing.get_current_trace().id).order_by("span")]


@pytest.mark.django_db
def test_a_sender_that_is_a_text_is_recorded_without_secrets() -> None:
    order_paid.send(sender="postgres://ada:hunter2@host/db?password=hunter2")

    [event] = Event.objects.filter(trace_id=tracing.get_current_trace().id)
    assert "postgres://ada:[redacted]@host/db?password=[redacted]" == event.sender


@pytest.mark.django_db
def test_a_signal_in_a_module_of_an_installed_app_is_recorded_by_its_dotted_name() -> None:
    order_paid.send(sender="till", number="A-1")

    [event] = Event.objects.filter(trace_id=tracing.get_current_trace().id)
    assert ("tests.shop.signals.order_paid", "till", {"number": "A-1"}) == (
        event.signal,
        event.sender,
        event.data["args"],
    )


def test_a_signal_is_named_after_the_module_that_makes_it() -> None:
    assert sys.modules[__name__].order_paid is signals.order_paid
    assert "tests.shop.signals.order_paid" == install.get_recorded_signals()[order_paid]


@pytest.mark.parametrize("module", ["tests.shop.looked", "tests.shop.deep.down.signals"])
@pytest.mark.django_db
def test_a_module_that_is_imported_later_is_found_by_the_next_search(imported: Any, module: str) -> None:
    late = Signal()
    imported(module, late=late)
    assert "send" not in vars(late)
    install.discover_signals_if_imported()
    late.send(sender=None)

    assert [f"{module}.late"] == recorded()


@pytest.mark.django_db
def test_a_module_that_is_imported_later_is_found_when_a_request_begins(imported: Any) -> None:
    late = Signal()
    imported("tests.shop.requested", late=late)
    Client().get("/nowhere/")
    late.send(sender=None)

    assert ["tests.shop.requested.late"] == recorded()


@pytest.mark.django_db
def test_a_name_that_is_added_to_a_module_later_is_found(imported: Any) -> None:
    module, late = imported("tests.shop.late", first=Signal()), Signal()
    install.discover_signals()
    module.late = late
    install.discover_signals()
    late.send(sender=None)

    assert ["tests.shop.late.late"] == recorded()


@pytest.mark.parametrize("module", ["elsewhere.signals", "tests.shopping.signals", "tests"])
def test_a_module_of_no_installed_app_is_ignored(imported: Any, module: str) -> None:
    outside = Signal()
    if module == "tests":
        sys.modules["tests"].outside = outside  # type: ignore[attr-defined]
    else:
        imported(module, outside=outside)
    try:
        install.discover_signals()
        assert not set(signal_patches.SEND_METHODS) & vars(outside).keys()
    finally:
        vars(sys.modules["tests"]).pop("outside", None)


def test_a_signal_of_django_s_is_no_signal_of_the_app_that_imports_it(imported: Any) -> None:
    imported("tests.shop.late", post_save=post_save, request_started=request_started)
    install.discover_signals()

    assert ("post_save", "request_started") == (
        install.get_recorded_signals()[post_save],
        install.get_recorded_signals()[request_started],
    )


def test_modules_that_are_odd_are_survived(imported: Any) -> None:
    class Lazy:
        """An object in place of a module."""

        __slots__ = ()

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(name)

    class Pretender:
        @property  # type: ignore[misc]
        def __class__(self) -> Any:
            raise AttributeError("no class")

    imported("tests.shop.late", pretender=Pretender())
    lazy: Any = Lazy()
    sys.modules["tests.shop.lazy"] = lazy
    missing: Any = None
    sys.modules["tests.shop.missing"] = missing
    try:
        install.discover_signals()
    finally:
        del sys.modules["tests.shop.lazy"], sys.modules["tests.shop.missing"]


# ------------------------------------------------------------------ track


@pytest.mark.django_db
def test_a_signal_that_is_tracked_is_recorded_by_the_name_it_is_given() -> None:
    signal = Signal()
    signalbox.register_signal(signal, "partner.payment")
    signal.send(sender=None)

    assert ["partner.payment"] == recorded()


@pytest.mark.django_db
def test_a_signal_that_is_tracked_again_has_its_new_name() -> None:
    signal = Signal()
    signalbox.register_signal(signal, "partner.first")
    signalbox.register_signal(signal, "partner.second")
    signal.send(sender=None)

    assert ["partner.second"] == recorded()


@pytest.mark.django_db
def test_a_signal_of_an_app_keeps_the_name_that_it_was_tracked_by(imported: Any) -> None:
    late = Signal()
    signalbox.register_signal(late, "till.late")
    imported("tests.shop.late", late=late)
    install.discover_signals()
    late.send(sender=None)

    assert ["till.late"] == recorded()


@pytest.mark.parametrize("wrong", [None, "post_save", object()])
def test_an_object_that_is_not_a_signal_can_not_be_tracked(wrong: Any) -> None:
    with pytest.raises(TypeError, match=rf"given {type(wrong).__name__}; a django\.dispatch\.Signal was expected"):
        signalbox.register_signal(wrong, "x")


def test_the_name_of_a_tracked_signal_does_not_keep_it_alive() -> None:
    import gc
    import weakref

    signal = Signal()
    naming.track(signal, "partner.gone")
    reference = weakref.ref(signal)
    del signal
    gc.collect()
    assert reference() is None


# ------------------------------------------------------------------ RECORD


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("record", "names"),
    [
        ("all", ["tests.shop.signals.order_paid", "partner.payment"]),
        ("audit", []),
        (["custom"], ["tests.shop.signals.order_paid", "partner.payment"]),
        (["tests.shop.signals.order_paid"], ["tests.shop.signals.order_paid"]),
        (["partner.payment"], ["partner.payment"]),
        (["post_save"], []),
    ],
)
def test_the_setting_says_which_are_recorded(record: Any, names: list[str]) -> None:
    signal = Signal()
    signalbox.register_signal(signal, "partner.payment")
    with override_settings(SIGNALBOX={"RECORD": record}):
        order_paid.send(sender=None)
        signal.send(sender=None)

    assert names == [name for name in recorded() if name != "setting_changed"]


@pytest.mark.django_db
def test_signals_are_found_again_after_recording_is_restarted() -> None:
    signalbox.stop_recording()
    try:
        assert not set(signal_patches.SEND_METHODS) & vars(order_paid).keys()
    finally:
        signalbox.start_recording()
    order_paid.send(sender=None)

    assert ["tests.shop.signals.order_paid"] == recorded()


@pytest.mark.django_db
def test_signals_of_django_that_are_imported_late_are_found_if_listed() -> None:
    from django.template import Context, Engine

    with override_settings(SIGNALBOX={"RECORD": ["test"]}):
        Engine().from_string("steam").render(Context())
    assert "template_rendered" in recorded()


# ------------------------------------------------------------------ a script of its own

SCRIPT_SETTINGS = """
SECRET_KEY = "x"
USE_TZ = True
INSTALLED_APPS = {apps}
DATABASES = {{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": {name!r}}}}}
"""

SCRIPT = """
import sys
import django
django.setup()
from signalbox.models import Event
from till.late import paid
replaced = [name for config in django.apps.apps.get_app_configs() for name in vars(config) if name == "ready"]
paid.send(sender=None, number=7)
assert not replaced, replaced
print([(event.signal, event.data["args"]) for event in Event.objects.all()])
"""


@pytest.mark.parametrize(
    "apps",
    [
        ["signalbox", "till"],
        *(
            pytest.param(apps, marks=pytest.mark.slow)
            for apps in (["till", "signalbox"], ["signalbox", "till", "signalbox_last"])
        ),
    ],
)
def test_a_signal_that_an_app_imports_when_it_is_ready_is_recorded_in_a_plain_script(
    apps: list[str], tmp_path: Path
) -> None:
    for name in ("till", "signalbox_last"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    (tmp_path / "till" / "late.py").write_text("from django.dispatch import Signal\npaid = Signal()\n")
    (tmp_path / "till" / "apps.py").write_text(
        "from django.apps import AppConfig\n"
        "class TillConfig(AppConfig):\n"
        "    name = 'till'\n"
        "    def ready(self):\n"
        "        import till.late\n"
    )
    (tmp_path / "script_settings.py").write_text(
        SCRIPT_SETTINGS.format(apps=apps, name=os.fspath(tmp_path / "db.sqlite3"))
    )
    path = os.pathsep.join([os.fspath(tmp_path), *sys.path])
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "script_settings", "PYTHONPATH": path}
    outputs = [
        subprocess.run(
            [sys.executable, *words], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        for words in (["-m", "django", "migrate", "-v", "0", "--skip-checks", "signalbox"], ["-c", SCRIPT])
    ]
    assert ["", ""] == [done.stderr for done in outputs]
    assert "('till.late.paid', {'number': 7})" in outputs[-1].stdout
