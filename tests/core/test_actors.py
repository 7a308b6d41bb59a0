"""Test who the actor of a trace is."""

from __future__ import annotations

import contextvars
import threading
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject

import signalbox
from signalbox.core import actors, tracing
from signalbox.core.event import Actor
from signalbox.core.tracing import Trace

ANN = Actor(key="", label="ann")
BEN = Actor(key="", label="ben")


def user(**fields: Any) -> User:
    return User(**{"pk": 7, "username": "ann", **fields})


@pytest.mark.parametrize(
    ("given_", "actor"),
    [
        ("nightly job", Actor(key="", label="nightly job")),
        ("x" * 200, Actor(key="", label="x" * 150)),
        (AnonymousUser(), None),
        (None, None),
        (object(), None),
        (user(), Actor(key="7", label="ann")),
        (SimpleLazyObject(user), Actor(key="7", label="ann")),
        (user(pk=None), Actor(key="", label="ann")),
    ],
)
def test_an_actor_is_a_user_who_has_logged_in_or_a_text(given_: object, actor: Actor | None) -> None:
    assert actor == actors.actor_from_user(given_)


def test_the_label_of_a_user_without_a_name_is_the_key() -> None:
    class Token:
        is_authenticated = True
        pk = "service-7"

    assert Actor(key="service-7", label="") == actors.actor_from_user(Token())


@pytest.mark.django_db
def test_a_user_whose_name_was_not_loaded_is_not_loaded_for_it(django_assert_num_queries: Any) -> None:
    pk = User.objects.create_user("ann").pk
    deferred = User.objects.defer("username").get(pk=pk)
    with django_assert_num_queries(0):
        assert Actor(key=str(pk), label="") == actors.actor_from_user(deferred)


def request_of(**attributes: Any) -> tuple[Trace, HttpRequest]:
    request = HttpRequest()
    for name, value in attributes.items():
        setattr(request, name, value)
    trace = Trace("request", "GET /")
    trace.bind_request(request)
    return trace, request


def test_a_request_s_user_is_its_actor_and_one_that_comes_late_counts() -> None:
    trace, request = request_of()
    assert trace.get_actor() is None
    request.user = user()
    assert Actor(key="7", label="ann") == trace.get_actor()
    request.user = user(pk=8, username="ben")
    assert Actor(key="8", label="ben") == trace.get_actor()
    request.user = AnonymousUser()
    assert trace.get_actor() is None


def test_a_lazy_user_is_not_evaluated() -> None:
    asked = []

    def load() -> User:
        asked.append(1)
        return user()

    trace, request = request_of(user=SimpleLazyObject(load))
    assert (None, []) == (trace.get_actor(), asked)

    bool(request.user.is_authenticated)
    assert Actor(key="7", label="ann") == trace.get_actor()
    assert [1] == asked


@pytest.mark.parametrize("name", ["_cached_user", "_acached_user"])
def test_a_user_whom_the_request_keeps_aside_counts(name: str) -> None:
    trace, _ = request_of(user=SimpleLazyObject(lambda: pytest.fail("asked")), **{name: user()})

    assert Actor(key="7", label="ann") == trace.get_actor()


def test_an_explicit_actor_has_precedence_over_the_user_of_the_request() -> None:
    trace, _ = request_of(user=user())
    assert trace.set_actor(BEN) is None
    assert BEN == trace.get_actor()
    assert BEN == trace.set_actor(None)
    assert Actor(key="7", label="ann") == trace.get_actor()


def test_a_user_who_logged_out_is_the_actor_of_the_trace() -> None:
    trace, request = request_of(user=user())
    trace.get_actor()
    request.user = AnonymousUser()
    trace.freeze_actor()

    assert Actor(key="7", label="ann") == trace.get_actor()


def test_an_actor_that_is_set_outside_of_traces_is_only_that_of_its_thread() -> None:
    seen = []

    def work(name: str, ready: threading.Barrier) -> None:
        signalbox.set_actor(name)
        ready.wait(timeout=10)
        seen.append((name, tracing.get_current_trace().get_actor()))

    ready = threading.Barrier(2)
    threads = [threading.Thread(target=work, args=(name, ready)) for name in ("ann", "ben")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [("ann", ANN), ("ben", BEN)] == sorted(seen)
    assert contextvars.Context().run(tracing.get_process_trace().get_actor) is None


def test_an_actor_that_was_set_outside_of_every_trace_is_taken_back() -> None:
    def work() -> list[Actor | None]:
        signalbox.set_actor("ann")
        first = tracing.get_current_trace().get_actor()
        signalbox.set_actor(None)
        return [first, tracing.get_current_trace().get_actor()]

    assert [ANN, None] == contextvars.Context().run(work)


def test_an_actor_ends_with_its_trace() -> None:
    def work() -> Actor | None:
        with signalbox.trace("a"):
            signalbox.set_actor("ann")
        return tracing.get_current_trace().get_actor()

    assert contextvars.Context().run(work) is None
