"""URLs with query parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlencode

from django.db import router
from django.urls import reverse

from signalbox.models import Error
from signalbox.outbox import queue
from signalbox.queries.filter_language import TEXT_NAME, Token, resolve_name
from signalbox.queries.timeline_filter import TEXT_PARAM

if TYPE_CHECKING:
    from signalbox.models import Delivery


def get_object_url(sender: str, key: str) -> str:
    """Return the URL of an object's history."""
    return f"{reverse('signalbox:object')}?{urlencode({'sender': sender, 'key': key})}"


def get_receiver_url(name: str) -> str:
    """Return the URL of a receiver's page. Its name is a parameter, as it may contain ``<locals>`` or brackets."""
    return f"{reverse('signalbox:receiver')}?{urlencode({'name': name})}"


def get_signal_url(name: str) -> str:
    """Return the URL of a signal's page."""
    return f"{reverse('signalbox:signal')}?{urlencode({'name': name})}"


def get_timeline_url(**filters: str) -> str:
    """Return the URL of the timeline with these tokens, without empty ones; ``text`` is a text to search for."""
    url = reverse("signalbox:timeline")
    text = " ".join(str(_build_token(name, value)) for name, value in filters.items() if value)
    return f"{url}?{urlencode({TEXT_PARAM: text})}" if text else url


def _build_token(name: str, value: str) -> Token:
    return Token(TEXT_NAME, "", (value,)) if name == "text" else Token(resolve_name(name), ":", (value,))


def get_deliveries_url(receiver: str, state: str = "", alias: str | None = None) -> str:
    """Return the URL of the deliveries of a receiver in a state, with their database if that is not the default one."""
    using = "" if alias in (None, queue.get_deliveries_database()) else alias
    params = {"receiver": receiver, "state": state, "using": using}
    return f"{reverse('signalbox:deliveries')}?{urlencode({name: value for name, value in params.items() if value})}"


def get_delivery_url(delivery: Delivery) -> str:
    """Return the URL of a delivery, with its database if that is not the default one for deliveries."""
    url, alias = reverse("signalbox:delivery", args=[delivery.pk]), delivery._state.db
    return url if alias in (None, queue.get_deliveries_database()) else f"{url}?{urlencode({'using': alias})}"


def get_error_url(error: Error) -> str:
    """Return the URL of the group of an error, with its database if that is not the default one for errors."""
    return add_error_alias(reverse("signalbox:error", args=[error.fingerprint]), error._state.db)


def add_error_alias(url: str, alias: str | None) -> str:
    """Return the URL of a page of errors with its database, if that is not the default one."""
    return url if alias in (None, router.db_for_read(Error)) else f"{url}?{urlencode({'using': alias})}"
