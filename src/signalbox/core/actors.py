"""Decides who the actor of an event is: the user of a request, or what was set with ``signalbox.set_actor()``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.utils.functional import empty

from signalbox.core.event import Actor
from signalbox.core.text import fit_column

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.http import HttpRequest


class RequestUser:
    """The user of a request as the actor. A lazy user is not evaluated, so no query is run."""

    __slots__ = ("_actor", "_request", "_user", "last_actor")

    def __init__(self, request: HttpRequest) -> None:
        self._request = request
        self._user: object = None
        self._actor: Actor | None = None
        self.last_actor: Actor | None = None
        """The last user that was seen, after a logout too."""

    def get_actor(self) -> Actor | None:
        """Return the request's user if it is loaded. It can be set late, as by Django REST framework."""
        state = self._request.__dict__
        user: Any = state.get("user")
        if user is None:
            return None
        if user is self._user:
            return self._actor
        loaded = getattr(user, "_wrapped", user)
        if loaded is empty:  # request.auser() loads the user and leaves request.user lazy
            loaded = state.get("_cached_user") or state.get("_acached_user")
            return None if loaded is None else actor_from_user(loaded)
        self._actor = actor_from_user(loaded)
        self._user = user
        self.last_actor = self._actor or self.last_actor
        return self._actor


def actor_from_user(user: Any) -> Actor | None:
    """Return ``user`` as an actor, ``None`` for an anonymous one. It reads what is loaded and runs no query."""
    if isinstance(user, str):
        return build_actor("", user)
    if not getattr(user, "is_authenticated", False):
        return None
    user = getattr(user, "_wrapped", user)  # a lazy user, which the line above has loaded
    state = getattr(user, "__dict__", {})
    name = state.get(getattr(type(user), "USERNAME_FIELD", "username"), "")
    key = getattr(user, "pk", None)
    return build_actor("" if key is None else str(key), str(name), type(user))


def _keep_actor(key: str, label: str, user_model: type | None) -> tuple[str, str]:
    return key, label


redact_actor: Callable[[str, str, type | None], tuple[str, str]] = _keep_actor
"""Return the key and the label of an actor without secrets, given the class of the user. Recording replaces it."""


def build_actor(key: str, label: str, user_model: type | None = None) -> Actor:
    """Return an actor as the columns take it, without secrets."""
    key, label = redact_actor(key, label, user_model)
    return Actor(key=fit_column(key, 64), label=fit_column(label, 150))
