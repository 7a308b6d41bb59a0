from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.db.models.signals import post_migrate, post_save
from django.dispatch import Signal

from signalbox.core import receivers
from signalbox.core.receivers import get_connected_receivers
from tests.shop.models import Order, Tag

HERE = "tests/core/test_receivers.py:"


def listen(sender: object, **kwargs: object) -> None:
    """A receiver."""


async def alisten(sender: object, **kwargs: object) -> None:
    """An asynchronous one."""


class Station:
    def hear(self, sender: object, **kwargs: object) -> None:
        """A method."""

    def __call__(self, sender: object, **kwargs: object) -> None:
        """An object that can be called."""


@contextmanager
def connection(signal: Signal, receiver: Any, **options: Any) -> Iterator[receivers.ConnectedReceiver]:
    """What is read of one receiver that is connected in the block."""
    signal.connect(receiver, **options)
    try:
        yield get_connected_receivers(signal)[-1]
    finally:
        signal.disconnect(receiver, sender=options.get("sender"), dispatch_uid=options.get("dispatch_uid"))


# ------------------------------------------------------------------ what is connected


def test_nothing_is_connected_to_a_new_signal() -> None:
    assert [] == get_connected_receivers(Signal())


def test_receivers_are_returned_in_the_order_of_connection() -> None:
    signal, station = Signal(), Station()
    for receiver in (station, listen, alisten):
        signal.connect(receiver)

    assert [station, listen, alisten] == [one.receiver for one in get_connected_receivers(signal)]
    assert [False, False, True] == [one.is_async for one in get_connected_receivers(signal)]


def test_a_receiver_of_every_sender_has_no_sender() -> None:
    with connection(Signal(), listen) as found:
        assert (None, True) == (found.sender, found.any_sender)


@pytest.mark.parametrize("sender", [Tag, Order])
def test_a_model_as_sender_is_found_on_each_version_of_django(sender: type) -> None:
    with connection(post_save, listen, sender=sender) as found:
        assert (sender, False) == (found.sender, found.any_sender)


def test_a_lazy_sender_is_returned_as_the_model() -> None:
    post_save.connect(listen, sender="shop.Tag")
    try:
        assert Tag is get_connected_receivers(post_save)[-1].sender
    finally:
        post_save.disconnect(listen, sender="shop.Tag")


def test_an_app_as_sender_is_found_on_each_version_of_django() -> None:
    app = apps.get_app_config("shop")
    with connection(post_migrate, listen, sender=app) as found:
        assert (app, False) == (found.sender, found.any_sender)


def test_another_sender_is_returned_if_django_keeps_it() -> None:
    """Before Django 6.0 a signal keeps only the id of its sender, with which models and apps can be found."""
    with connection(Signal(), listen, sender=Station) as found:
        assert not found.any_sender
        assert found.sender in (Station, None)
        assert id(Station) == found.sender_key


def test_a_text_as_sender_is_returned_if_django_keeps_it() -> None:
    sender = "django.contrib.auth"
    with connection(Signal(), listen, sender=sender) as found:
        assert not found.any_sender


@pytest.mark.parametrize("receiver", [listen, alisten, Station(), Station().hear], ids=lambda one: type(one).__name__)
def test_weak_and_strong_references_are_distinguished(receiver: Any) -> None:
    for weak in (True, False):
        with connection(Signal(), receiver, weak=weak, dispatch_uid="x") as found:
            assert weak == found.weak


def test_a_receiver_that_was_collected_is_none() -> None:
    signal = Signal()

    def connect() -> None:
        def gone(sender: object, **kwargs: object) -> None:
            """Local, and weakly held."""

        signal.connect(gone)

    connect()
    gc.collect()
    assert [(None, True)] == [(one.receiver, one.weak) for one in get_connected_receivers(signal)]


@pytest.mark.parametrize("uid", ["once", 7, ("shop", "once"), 1.5])
@pytest.mark.parametrize("sender", [None, Tag])
def test_a_dispatch_uid_is_returned(uid: object, sender: type | None) -> None:
    with connection(Signal(), listen, dispatch_uid=uid, sender=sender) as found:
        assert (uid, listen) == (found.dispatch_uid, found.receiver)


@pytest.mark.parametrize("receiver", [listen, alisten, Station(), Station().hear, partial(listen)], ids=range(5))
def test_a_receiver_connected_without_a_dispatch_uid_has_none(receiver: Any) -> None:
    with connection(Signal(), receiver, weak=False) as found:
        assert found.dispatch_uid is None


def test_reading_changes_nothing() -> None:
    signal = Signal()
    signal.connect(listen)
    before = list(signal.receivers)
    get_connected_receivers(signal)
    assert before == signal.receivers
    assert [(listen, None)] == signal.send(sender=None)


# ------------------------------------------------------------------ names and places


def decorated(function: Callable[..., None]) -> Callable[..., None]:
    @wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        function(*args, **kwargs)

    return wrapper


@decorated
def wrapped(sender: object, **kwargs: object) -> None:
    """Wrapped in another function."""


@pytest.mark.parametrize(
    ("receiver", "name"),
    [
        (listen, "listen"),
        (alisten, "alisten"),
        (wrapped, "wrapped"),
        (Station().hear, "Station.hear"),
        (Station.hear, "Station.hear"),
        (Station(), "Station"),
        (Station, "Station"),
    ],
)
def test_the_name_of_a_receiver_is_its_dotted_name(receiver: Any, name: str) -> None:
    assert f"{__name__}.{name}" == receivers.get_name(receiver)


def test_the_name_of_a_partial_contains_its_function() -> None:
    assert f"functools.partial({__name__}.listen)" == receivers.get_name(partial(partial(listen), number=7))
    assert receivers.get_location(listen) == receivers.get_location(partial(listen, number=7))


@pytest.mark.parametrize("receiver", [listen, alisten, wrapped, Station().hear, Station()])
def test_the_location_of_a_receiver_is_file_and_line(receiver: Any) -> None:
    place, _, line = receivers.get_location(receiver).rpartition(":")
    source = Path(__file__).read_text(encoding="utf-8").splitlines()

    assert HERE == f"{place}:"
    assert "def " in source[int(line) - 1] or "@" in source[int(line) - 1]


def test_the_location_of_a_decorated_receiver_is_its_own() -> None:
    line = int(receivers.get_location(wrapped).rpartition(":")[2])
    assert "@decorated" == Path(__file__).read_text(encoding="utf-8").splitlines()[line - 1]


@pytest.mark.parametrize("receiver", [print, len, int, "".join, 7, None])
def test_a_receiver_without_source_has_no_location(receiver: Any) -> None:
    assert "" == receivers.get_location(receiver)
    assert receivers.get_name(receiver)


class Hostile:
    def __call__(self, sender: object, **kwargs: object) -> None:
        """It can be called, and that is all."""

    def __getattribute__(self, name: str) -> Any:
        raise ZeroDivisionError(name)

    def __repr__(self) -> str:
        raise ZeroDivisionError("repr")

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError("eq")

    def __hash__(self) -> int:
        raise ZeroDivisionError("hash")


class Liar:
    """Its names are not texts."""

    def __init__(self) -> None:
        vars(self).update(__qualname__=object(), __module__=7, __wrapped__=self)

    def __call__(self, sender: object, **kwargs: object) -> None:
        """As above."""


def test_the_name_of_a_hostile_receiver_is_its_class() -> None:
    hostile = Hostile()
    assert f"{__name__}.Hostile" == receivers.get_name(hostile)
    assert receivers.get_location(hostile) in ("", receivers.get_location(Hostile.__call__))
    assert receivers.get_name(Liar()).endswith("Liar")


def test_wrappers_that_go_in_circles_have_no_place() -> None:
    def first() -> None:
        """It wraps the second."""

    def second() -> None:
        """It wraps the first."""

    first.__wrapped__ = second  # type: ignore[attr-defined]
    second.__wrapped__ = first  # type: ignore[attr-defined]
    assert "" == receivers.get_location(first)


def test_a_name_is_found_once_and_forgotten_with_its_receiver() -> None:
    def local(sender: object, **kwargs: object) -> None:
        """It goes away."""

    location = receivers.get_code_location(local)
    assert location is receivers.get_code_location(local)
    references = sys.getrefcount(location)
    del local
    gc.collect()
    assert references - 1 == sys.getrefcount(location)


def test_another_object_at_the_same_address_is_not_taken_for_the_first() -> None:
    names = set()
    for number in range(50):
        namespace: dict[str, Any] = {}
        exec(f"def made_{number}(sender, **kwargs): pass", namespace)
        names.add(receivers.get_name(namespace[f"made_{number}"]).rpartition(".")[2])
        del namespace
    assert {f"made_{number}" for number in range(50)} == names


def test_methods_of_two_objects_share_a_name() -> None:
    assert receivers.get_code_location(Station().hear) is receivers.get_code_location(Station().hear)


def test_a_path_is_relative_to_the_working_directory_or_to_a_folder_of_modules() -> None:
    assert "tests/core/test_receivers.py" == receivers.shorten_path(__file__)
    assert "django/dispatch/dispatcher.py" == receivers.shorten_path(
        str(sys.modules["django.dispatch.dispatcher"].__file__)
    )
    assert "/nowhere/x.py" == receivers.shorten_path("/nowhere/x.py")


def test_a_wrapper_of_a_nameless_callable_is_named_after_the_callable() -> None:
    def wrap(receiver: Any) -> Any:  # as Sentry's client does within a send
        @wraps(receiver)
        def wrapper(*args: object, **kwargs: object) -> Any:
            return receiver(*args, **kwargs)

        return wrapper

    names = [f"{__name__}.Station", f"functools.partial({__name__}.listen)", f"{__name__}.Station.hear"]
    station = Station()
    for name, receiver in zip(names, (station, partial(listen), station.hear), strict=True):
        assert name == receivers.get_name(wrap(receiver)) == receivers.get_name(wrap(wrap(receiver)))
