"""What the page's templates, and the admin's, say with tags and filters."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

from django import template
from django.http import HttpRequest
from django.urls import NoReverseMatch
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.timezone import localtime

from signalbox import conf
from signalbox.dashboard import formats
from signalbox.dashboard.access import allowed
from signalbox.dashboard.links import delivery_address, object_address
from signalbox.models import Delivery, moment, now
from signalbox.queries.object_history import history

register = template.Library()

register.filter("duration", formats.duration)
register.filter("group", formats.group)
register.filter("tail", formats.tail)
register.filter("short", formats.short)
register.filter("head", formats.head)
register.filter("value", formats.text)
register.filter("pretty", formats.pretty)
register.filter("changes", formats.changes)
register.filter("gist", formats.gist)


@register.filter
def clock(microseconds: int) -> str:
    """Return the time of day in the current time zone, to the millisecond."""
    return localtime(moment(microseconds)).strftime("%H:%M:%S.%f")[:-3]


@register.filter
def day(microseconds: int) -> dt.datetime:
    """Return the moment in the current time zone, for the ``date`` filter."""
    return localtime(moment(microseconds))


@register.filter
def full(microseconds: int) -> str:
    """Return date, time and time zone, for a tooltip."""
    return localtime(moment(microseconds)).strftime("%Y-%m-%d %H:%M:%S %Z")


@register.filter
def other_day(microseconds: int) -> str:
    """Return the date, short; nothing if it is today's."""
    at, today = localtime(moment(microseconds)), localtime(now())
    return "" if at.date() == today.date() else date_format(at, "j M" if at.year == today.year else "j M Y")


@register.filter
def iso(microseconds: int) -> str:
    """Return the moment as ISO 8601, for programs."""
    return moment(microseconds).isoformat()


@register.filter
def seconds(number: float) -> str:
    """Return seconds as a person would say them."""
    return formats.duration(round(number * 1_000_000))


@register.filter
def delivery_state(one: Delivery, now: int) -> dict[str, str]:
    """Return what a delivery does at the moment ``now`` (µs), and whether that is good or bad."""
    name = one.state
    if one.state == Delivery.PENDING:
        name = "running" if one.lease and one.lease > now else "retrying" if one.attempts else "due"
    tones = {"done": "good", "dead": "bad", "retrying": "doubtful", "running": "running"}
    return {"name": name, "tone": tones.get(name, "")}


HEALTH: Final = {
    "ok": "runs",
    "slow": "slow",
    "failing": "raises",
    "dead": "collected",
    "idle": "not called",
    "unmeasured": "not measured",
    "durable": "durable",
}
"""What the page calls the states of a receiver."""


@register.filter
def health(name: str) -> str:
    """Return what a receiver's state is called."""
    return HEALTH.get(name, name)


@register.simple_tag
def healths() -> list[tuple[str, str]]:
    """Return each state of a receiver with what it is called."""
    return list(HEALTH.items())


@register.filter
def undoing(data: Mapping[str, Any]) -> list[formats.Changed]:
    """Return what putting an event's changes back would change; ``known`` tells whether it is known what comes back."""
    return [
        formats.Changed(
            found.field, found.known, found.new, found.old, formats.inline(found.new, found.old) if found.pieces else ()
        )
        for found in formats.changes(data)
    ]


@register.filter
def words(value: object) -> str:
    """Return a name such as ``rolled_back`` as words."""
    return str(value).replace("_", " ")


@register.filter
def spaced(number: int) -> str:
    """Return a number with thin spaces between its thousands."""
    return f"{number:,}".replace(",", "\u202f")


@register.simple_tag
def labelled(data: Mapping[str, Any], name: str, key: object) -> str:
    """Return what the object was called that a foreign key's value pointed to; empty where that is not told."""
    labels = data.get("labels")
    told = labels.get(name) if isinstance(labels, Mapping) else None
    return str(told.get(str(key), "")) if isinstance(told, Mapping) else ""


register.simple_tag(object_address)

register.simple_tag(delivery_address)
register.simple_tag(delivery_address)


@register.simple_tag(takes_context=True)
def signalbox_history_link(context: Any) -> str:
    """Return the button beside the admin's own history, where it is asked for and the user may follow it."""
    request: HttpRequest | None = context.get("request")
    original = context.get("original")
    form = context.get("adminform")
    if request is None or original is None or form is None or not allowed(request.user):
        return ""
    wanted = getattr(form.model_admin, "signalbox_history", False) or conf.get().ADMIN_HISTORY
    if not wanted or original.pk is None:
        return ""
    try:
        address = object_address(original._meta.concrete_model._meta.label, history(original).key)
    except NoReverseMatch:  # the page has no address on this site
        return ""
    return format_html('<li><a href="{}" class="historylink">Signalbox</a></li>', address)
