"""Replaced methods are declared, stay below other libraries, and depend on known parameters."""

from __future__ import annotations

import functools
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import django
import pytest
from django.core.checks import run_checks
from django.db import connection, connections, transaction
from django.db.models import Model, QuerySet
from django.db.models.fields import related_descriptors
from django.db.models.signals import post_save, pre_save
from django.db.models.sql.compiler import SQLCompiler
from django.test import override_settings

import signalbox
from signalbox import checks
from signalbox.core import catalog
from signalbox.instrumentation import install, patches, patching
from signalbox.models import Event
from signalbox.outbox import registry
from tests.shop.models import Order, Tag

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("django.db", "django.core", "django.test", "django.dispatch", "django.apps")


@pytest.fixture(autouse=True)
def reinstalled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start recording again after the test, with the real version and methods of Django."""
    yield
    monkeypatch.undo()
    signalbox.stop_recording()
    signalbox.start_recording()


def snapshot() -> dict[str, object]:
    """Return every attribute of Django's classes and modules, of signals, connections and managers, by its path."""
    found: dict[str, object] = {}
    for module_name, module in list(sys.modules.items()):
        if not module_name.startswith(PACKAGES):
            continue
        for name, value in list(vars(module).items()):
            if isinstance(value, type) and value.__module__ == module_name:
                found |= {
                    f"{module_name}.{value.__qualname__}.{key}": held
                    for key, held in vars(value).items()
                    if callable(held) or isinstance(held, classmethod | staticmethod | property)
                }
            elif callable(value) and getattr(value, "__module__", "").startswith(("django.", "signalbox.")):
                found[f"{module_name}.{name}"] = value
    signals = {e.path: catalog.import_signal(e) for e in catalog.BUILTIN_SIGNALS.values() if e.path}
    for signal in signals.values():
        found |= {f"signal {id(signal)} {key}": held for key, held in vars(signal).items() if callable(held)}
    for one in connections.all():
        found |= {f"connection {one.alias} {key}": held for key, held in vars(one).items() if callable(held)}
    manager_class: Any = type(Order(pk=1).tags)
    found |= {f"manager tags {key}": held for key, held in vars(manager_class).items() if callable(held)}
    return found


def declared_path(path: str) -> str:
    """Return the declared path of an attribute that ``snapshot()`` found."""
    kind, _, name = path.rpartition(" ")
    if name == "_start_transaction_under_autocommit":  # only connections to SQLite have it
        return f"django.db.backends.sqlite3.base.DatabaseWrapper.{name}"
    owner = {
        "signal": "django.dispatch.dispatcher.Signal.",
        "connection": "django.db.backends.base.base.BaseDatabaseWrapper.",
        "manager": f"{related_descriptors.__name__}.create_forward_many_to_many_manager.ManyRelatedManager.",
    }.get(kind.partition(" ")[0], "")
    return owner + name


@pytest.mark.django_db
def test_every_replaced_method_is_declared() -> None:
    connection.ensure_connection()
    signalbox.stop_recording()
    before = snapshot()
    signalbox.start_recording()
    with override_settings(SIGNALBOX={"RECORD": "all"}):
        during = snapshot()
        signalbox.stop_recording()
        after = snapshot()

    changed = {path for path in before.keys() | during.keys() if before.get(path) is not during.get(path)}
    volatile = {"setting_changed", "sender_receivers_cache"}
    replaced = {declared_path(path) for path in changed} - volatile
    declared = {patch.target for patch in patches.PATCHES}
    assert set() == replaced - declared
    # Replaced only within a block, or only by the testing tools.
    temporary = {
        *("cursor chunked_cursor savepoint set_autocommit commit rollback close".split()),
        "close_if_unusable_or_obsolete",
        "_live_receivers",
        "ready",  # until the last app is ready
    }
    release = ".".join(map(str, django.VERSION[:2]))
    expected = {patch.target for patch in patches.PATCHES if patch.name not in temporary and release in patch.versions}
    # With a durable receiver of post_delete only; and in a process that runs Django's own tests.
    expected -= {"django.db.models.deletion.Collector._has_signal_listeners"}
    if connection.vendor != "sqlite":
        expected -= {"django.db.backends.sqlite3.base.DatabaseWrapper._start_transaction_under_autocommit"}
    assert set() == expected - replaced - {"django.test.testcases.SimpleTestCase.run"}
    assert {} == {path: value for path, value in after.items() if before.get(path) is not value}


def test_the_guide_shows_the_same_table() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = text.partition("| class | methods | reason | lost without it |\n| --- | --- | --- | --- |\n")[2]
    rows = [re.split(r" *\| *", line)[1:-1] for line in table.partition("\n\n")[0].splitlines()]
    grouped: dict[tuple[str, str], tuple[list[str], list[str]]] = {}
    for patch in patches.PATCHES:
        owner, _, name = patch.target.rpartition(".")
        methods, losses = grouped.setdefault((owner.rpartition(".")[2], patch.reason), ([], []))
        is_everywhere = patch.versions == patches.CHECKED_VERSIONS
        methods.append(f"`{name}`" if is_everywhere else f"`{name}` ({', '.join(patch.versions)})")
        losses.append(patch.lost_without)
    assert rows == [
        [f"`{owner}`", ", ".join(methods), reason, ", ".join(dict.fromkeys(losses))]
        for (owner, reason), (methods, losses) in grouped.items()
    ]
    assert len(rows) <= 26  # it fits on a screen


@pytest.mark.parametrize(
    "patch", [one for one in patches.PATCHES if one.place != "manager"], ids=lambda one: one.target
)
def test_the_declared_parameters_are_those_of_django(patch: patches.Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    if f"{django.VERSION[0]}.{django.VERSION[1]}" != patches.CHECKED_VERSIONS[-1]:
        pytest.skip("the declaration has the parameters of the newest version that was checked")
    signalbox.stop_recording()
    monkeypatch.setattr(django, "VERSION", (9, 0, 0, "final", 0))
    assert [] == [found.target for found in patching.find_inapplicable() if found is patch]


def test_a_replacement_has_the_attributes_of_the_original_function() -> None:
    insert: Any = QuerySet._insert  # type: ignore[attr-defined]
    assert (insert.queryset_only, insert.alters_data, insert.__name__) == (False, True, "_insert")
    assert Model.refresh_from_db.__doc__
    assert hasattr(Tag._default_manager.__class__.from_queryset(QuerySet), "_insert")


# ------------------------------------------------------------------ other libraries


def wrap_save_table(calls: list[str], name: str) -> Any:
    """Put a wrapper on ``Model._save_table`` as another library does, and return what it wrapped."""
    wrapped: Any = Model.__dict__["_save_table"]

    def _save_table(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        return wrapped(self, *args, **kwargs)

    Model._save_table = _save_table  # type: ignore[attr-defined]
    return wrapped


@pytest.fixture
def djangos() -> Iterator[Any]:
    """Django's own method, which is restored after the test."""
    signalbox.stop_recording()
    original = Model.__dict__["_save_table"]
    yield original
    signalbox.stop_recording()
    Model._save_table = original  # type: ignore[attr-defined]
    signalbox.start_recording()


def saves() -> list[str]:
    """Save an object, and return its events."""
    before = Event.objects.count()
    Tag.objects.create(name="a")
    return list(Event.objects.order_by("pk").values_list("signal", flat=True)[before:])


@pytest.mark.django_db
def test_a_wrapper_from_before_is_called_and_restored(djangos: Any) -> None:
    calls: list[str] = []
    wrap_save_table(calls, "theirs")
    theirs = Model.__dict__["_save_table"]
    signalbox.start_recording()
    assert ["post_save"] == saves()
    assert ["theirs"] == calls

    signalbox.stop_recording()
    assert theirs is Model.__dict__["_save_table"]


@pytest.mark.django_db
def test_a_wrapper_on_top_stays_when_recording_is_installed_again(djangos: Any) -> None:
    calls: list[str] = []
    signalbox.start_recording()
    wrap_save_table(calls, "theirs")
    install.update_subscriptions()
    with override_settings(SIGNALBOX={"RECORD": "audit"}):
        assert ["post_save"] == saves()
    assert ["theirs"] == calls
    assert ["post_save"] == saves()


@pytest.mark.django_db
def test_below_a_wrapper_on_top_a_replacement_only_calls_its_predecessor(djangos: Any) -> None:
    calls: list[str] = []
    signalbox.start_recording()
    ours = wrap_save_table(calls, "theirs")
    signalbox.stop_recording()
    assert [] == saves()
    assert ["theirs"] == calls

    Model._save_table = ours  # type: ignore[attr-defined]
    signalbox.start_recording()
    assert ["post_save"] == saves()
    signalbox.stop_recording()
    assert djangos is Model.__dict__["_save_table"]


@pytest.mark.django_db
def test_a_send_that_another_library_has_put_on_a_signal_is_called_and_restored() -> None:
    calls: list[Any] = []
    signalbox.stop_recording()
    djangos_send = pre_save.send

    def theirs(*args: Any, **named: Any) -> Any:
        calls.append(named["sender"])
        return djangos_send(*args, **named)

    pre_save.send = theirs  # type: ignore[method-assign]
    try:
        signalbox.start_recording()
        Tag.objects.create(name="a")
        assert [Tag] == calls
        signalbox.stop_recording()
        assert theirs is pre_save.send
    finally:
        del pre_save.__dict__["send"]


@pytest.mark.django_db
def test_a_send_on_top_of_a_recorded_one_stays(djangos: Any) -> None:
    signalbox.start_recording()
    calls: list[str] = []
    ours = post_save.send

    @functools.wraps(ours)
    def theirs(*args: Any, **named: Any) -> Any:
        calls.append("theirs")
        return ours(*args, **named)

    post_save.send = theirs  # type: ignore[method-assign]
    try:
        signalbox.stop_recording()
        assert [] == saves()
        signalbox.start_recording()
        assert ["post_save"] == saves()
        assert ["theirs", "theirs"] == calls
    finally:
        post_save.send = ours  # type: ignore[method-assign]
        signalbox.stop_recording()
    assert not set(patches.SEND_METHODS) & post_save.__dict__.keys()


@pytest.mark.django_db(transaction=True)
def test_methods_that_other_libraries_put_on_a_connection_are_called_and_restored() -> None:
    calls: list[str] = []
    signalbox.stop_recording()
    raw: Any = connections["default"]

    def put(name: str) -> None:
        wrapped = raw._commit

        def _commit(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return wrapped(*args, **kwargs)

        raw._commit = _commit

    try:
        put("below")
        signalbox.start_recording()
        assert ["post_save"] == saves()
        assert ["below"] == calls
        put("above")
        signalbox.stop_recording()
        Tag.objects.create(name="b")
        with transaction.atomic():
            Tag.objects.create(name="c")
        assert ["below", "above", "below"] == calls
        signalbox.start_recording()
        assert ["post_save"] == saves()
    finally:
        raw.__dict__.pop("_commit", None)
        raw.close()


@pytest.mark.django_db
def test_a_method_of_a_base_class_that_is_replaced_later_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    statements: list[str] = []
    original: Any = SQLCompiler.execute_sql

    def execute_sql(self: Any, *args: Any, **kwargs: Any) -> Any:
        statements.append(type(self).__name__)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(SQLCompiler, "execute_sql", execute_sql)
    signalbox.stop_recording()
    Tag.objects.all()._raw_delete("default")
    assert ["SQLDeleteCompiler"] == statements

    signalbox.start_recording()
    with override_settings(SIGNALBOX={"BULK": "off"}):
        Tag.objects.all()._raw_delete("default")
    assert ["SQLDeleteCompiler"] * 2 == statements


def test_wrong_arguments_raise_the_error_of_django() -> None:
    queryset: Any = Order.objects.all()
    with pytest.raises(TypeError, match=r"^QuerySet\.update\(\) takes 1 positional argument but 2 were given$"):
        queryset.update({"status": "open"})


@pytest.mark.django_db
def test_unknown_arguments_reach_a_wrapper_below(djangos: Any) -> None:
    signalbox.stop_recording()
    given: list[Any] = []
    original: Any = QuerySet.bulk_create

    def bulk_create(self: Any, objs: Any, *args: Any, theirs: Any = None, **kwargs: Any) -> Any:
        given.append(theirs)
        return original(self, objs, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(QuerySet, "bulk_create", bulk_create)
        signalbox.start_recording()
        QuerySet(Tag).bulk_create([Tag(name="a")], theirs=1)  # type: ignore[call-arg, arg-type]
        signalbox.stop_recording()
    assert [1] == given


# ------------------------------------------------------------------ newer versions of Django


def found_checks() -> list[tuple[str | None, str]]:
    return [(found.id, found.msg) for found in run_checks(tags=[checks.TAG], databases=[])]


def test_a_newer_version_with_the_same_signatures_is_recorded_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    if f"{django.VERSION[0]}.{django.VERSION[1]}" != patches.CHECKED_VERSIONS[-1]:
        pytest.skip("older versions have other signatures")
    signalbox.stop_recording()
    monkeypatch.setattr(django, "VERSION", (9, 0, 0, "final", 0))
    signalbox.start_recording()
    assert install.is_recording()
    ids = [id_ for id_, _ in found_checks()]
    assert ("signalbox.W007" in ids, "signalbox.W008" in ids) == (True, False)


@pytest.mark.django_db
def test_a_changed_signature_is_not_replaced_and_a_warning_names_the_lost_events(
    djangos: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def _save_table(self: Any, *args: Any) -> Any:
        return djangos(self, *args)

    monkeypatch.setattr(django, "VERSION", (9, 0, 0, "final", 0))
    Model._save_table = _save_table  # type: ignore[attr-defined]
    signalbox.start_recording()

    assert _save_table is Model.__dict__["_save_table"]
    Tag.objects.create(name="a")
    [message] = [text for id_, text in found_checks() if id_ == "signalbox.W008" and "_save_table" in text]
    assert "Changes of saved rows" in message
    assert "Model._save_table" in " ".join(
        state.patch.target for state in patching.get_states(is_recording=True) if not state.is_applicable
    )
    assert "signalbox.E012" not in [id_ for id_, _ in found_checks()]


def receive_saved(**named: Any) -> None:
    """A durable receiver."""


def test_a_durable_receiver_that_depends_on_a_changed_method_is_an_error(
    djangos: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def _save_table(self: Any, plan: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr(registry, "get_subscriptions", lambda: iter([("post_save", "shop.Tag", _Named)]))
    monkeypatch.setattr(django, "VERSION", (9, 0, 0, "final", 0))
    Model._save_table = _save_table  # type: ignore[attr-defined]
    signalbox.start_recording()
    [message] = [text for id_, text in found_checks() if id_ == "signalbox.E012"]
    assert "tests.receive_saved" in message
    assert "django.db.models.base.Model._save_table" in message


class _Named:
    name = "tests.receive_saved"
    function = receive_saved


def test_nothing_is_recorded_if_connections_can_not_be_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    from django.db.backends.base.base import BaseDatabaseWrapper

    signalbox.stop_recording()
    monkeypatch.setattr(django, "VERSION", (9, 0, 0, "final", 0))
    monkeypatch.setattr(BaseDatabaseWrapper, "_commit", lambda self, mode: None)
    signalbox.start_recording()
    assert not install.is_recording()
    assert "send" not in post_save.__dict__
    assert "signalbox.W008" in [id_ for id_, _ in found_checks()]
