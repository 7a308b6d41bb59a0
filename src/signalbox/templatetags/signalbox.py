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
from signalbox.core import labels
from signalbox.dashboard import formats
from signalbox.dashboard.access import can_view_dashboard
from signalbox.dashboard.links import get_delivery_url, get_object_url
from signalbox.models import Delivery, to_datetime, utc_now
from signalbox.queries.object_history import history

register = template.Library()

register.filter("duration", formats.format_duration)
register.filter("group", labels.get_signal_group)
register.filter("short_name", labels.short_name)
register.filter("short_sender", labels.short_sender)
register.filter("qualifier", labels.qualifier)
register.filter("format_value", formats.format_value)
register.filter("pretty_json", formats.format_json)
register.filter("changes", formats.get_field_diffs)
register.filter("event_summary", formats.summarize_event)


@register.filter
def time_of_day(microseconds: int) -> str:
    """Return the time of day in the current time zone, to the millisecond."""
    return localtime(to_datetime(microseconds)).strftime("%H:%M:%S.%f")[:-3]


@register.filter
def local_datetime(microseconds: int) -> dt.datetime:
    """Return the moment in the current time zone, for the ``date`` filter."""
    return localtime(to_datetime(microseconds))


@register.filter
def full_datetime(microseconds: int) -> str:
    """Return date, time and time zone, for a tooltip."""
    return localtime(to_datetime(microseconds)).strftime("%Y-%m-%d %H:%M:%S %Z")


@register.filter
def date_unless_today(microseconds: int) -> str:
    """Return the date, short; nothing if it is today's."""
    local, today = localtime(to_datetime(microseconds)), localtime(utc_now())
    return "" if local.date() == today.date() else date_format(local, "j M" if local.year == today.year else "j M Y")


@register.filter
def iso_datetime(microseconds: int) -> str:
    """Return the moment as ISO 8601, for programs."""
    return to_datetime(microseconds).isoformat()


@register.filter
def duration_from_seconds(number: float) -> str:
    """Return seconds as a person would say them."""
    return formats.format_duration(round(number * 1_000_000))


@register.filter
def delivery_state(delivery: Delivery, now: int) -> dict[str, str]:
    """Return what a delivery does at the moment ``now`` (µs), and whether that is good or bad."""
    name = delivery.state
    if delivery.state == Delivery.PENDING:
        name = (
            "running"
            if delivery.lease_expires_at and delivery.lease_expires_at > now
            else "retrying"
            if delivery.attempts
            else "due"
        )
    tones = {"done": "good", "dead": "bad", "retrying": "warning", "running": "running"}
    return {"name": name, "tone": tones.get(name, "")}


HEALTH_LABELS: Final = {
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
def health_label(name: str) -> str:
    """Return what a receiver's state is called."""
    return HEALTH_LABELS.get(name, name)


@register.simple_tag
def health_choices() -> list[tuple[str, str]]:
    """Return each state of a receiver with what it is called."""
    return list(HEALTH_LABELS.items())


@register.filter
def revert_diff(data: Mapping[str, Any]) -> list[formats.FieldDiff]:
    """Return the changes that reverting an event makes; ``has_old`` is true if the value to restore is known."""
    return [
        formats.FieldDiff(
            found.field,
            found.has_old,
            found.new,
            found.old,
            formats.diff_text(found.new, found.old) if found.parts else (),
        )
        for found in formats.get_field_diffs(data)
    ]


@register.filter
def as_words(value: object) -> str:
    """Return a name such as ``rolled_back`` as words."""
    return str(value).replace("_", " ")


@register.filter
def group_digits(number: int) -> str:
    """Return a number with thin spaces between its thousands."""
    return f"{number:,}".replace(",", "\u202f")


@register.simple_tag
def foreign_key_label(data: Mapping[str, Any], name: str, key: object) -> str:
    """Return what the object was called that a foreign key's value pointed to; empty where that is not told."""
    labels = data.get("labels")
    field_labels = labels.get(name) if isinstance(labels, Mapping) else None
    return str(field_labels.get(str(key), "")) if isinstance(field_labels, Mapping) else ""


register.simple_tag(get_object_url)
register.simple_tag(get_delivery_url)


@register.simple_tag(takes_context=True)
def signalbox_history_link(context: Any) -> str:
    """Return the button beside the admin's own history, where it is asked for and the user may follow it."""
    request: HttpRequest | None = context.get("request")
    original = context.get("original")
    form = context.get("adminform")
    if request is None or original is None or form is None or not can_view_dashboard(request.user):
        return ""
    is_enabled = getattr(form.model_admin, "signalbox_history", False) or conf.get().DASHBOARD.ADMIN_HISTORY
    if not is_enabled or original.pk is None:
        return ""
    try:
        url = get_object_url(original._meta.concrete_model._meta.label, history(original).key)
    except NoReverseMatch:  # the page has no address on this site
        return ""
    return format_html('<li><a href="{}" class="historylink">Signalbox</a></li>', url)
