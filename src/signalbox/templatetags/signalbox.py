"""Template tags and filters of the dashboard and the admin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode

from django import template
from django.http import HttpRequest
from django.urls import NoReverseMatch
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.timezone import localtime
from django.utils.translation import gettext, gettext_noop
from django.utils.translation import gettext_lazy as _

from signalbox import conf
from signalbox.core import display_names
from signalbox.core.event import UNKNOWN
from signalbox.dashboard import formats
from signalbox.dashboard.access import can_view_dashboard
from signalbox.dashboard.links import (
    get_deliveries_url,
    get_delivery_url,
    get_error_url,
    get_object_url,
    get_receiver_url,
    get_signal_url,
    get_timeline_url,
)
from signalbox.dashboard.script_texts import get_script_texts
from signalbox.models import Delivery, to_datetime, utc_now
from signalbox.queries import local_time
from signalbox.queries.event_summary import escape_hidden, summarize_event
from signalbox.queries.object_history import ObjectState, history
from signalbox.queries.revert_preview import FieldRestoration, FieldStatus
from signalbox.queries.timeline_filter import SYSTEM_PARAM, TEXT_PARAM

register = template.Library()

register.filter("duration", formats.format_duration)
register.filter("group", display_names.get_signal_group)
register.filter("short_name", display_names.short_name)
register.filter("short_sender", display_names.short_sender)
register.filter("qualifier", display_names.qualifier)
register.filter("format_value", formats.format_value)
register.filter("pretty_json", formats.format_json)
register.filter("changes", formats.get_field_diffs)
register.filter("event_summary", summarize_event)
register.filter("escape_hidden", escape_hidden)
register.filter("time_of_day", local_time.format_time_of_day)
register.filter("full_datetime", local_time.format_exact)
register.filter("local_datetime", local_time.to_local)
register.filter("age", local_time.format_age)
register.simple_tag(local_time.describe_zone, name="time_zone")


@register.simple_tag
def moment(microseconds: int) -> str:
    """Return a ``<time>`` element with date and time; zone and offset are in its title."""
    local = local_time.to_local(microseconds)
    return format_html(
        '<time datetime="{}" title="{}">{} {}</time>',
        iso_datetime(microseconds),
        local_time.format_exact(microseconds),
        date_format(local, "j M Y"),
        local_time.format_time_of_day(microseconds),
    )


@register.filter
def date_unless_today(microseconds: int) -> str:
    """Return the short date; empty for today."""
    local, today = local_time.to_local(microseconds), localtime(utc_now())
    return "" if local.date() == today.date() else date_format(local, "j M" if local.year == today.year else "j M Y")


@register.filter
def iso_datetime(microseconds: int) -> str:
    """Return the time in ISO 8601 format."""
    return to_datetime(microseconds).isoformat()


@register.filter
def duration_from_seconds(number: float) -> str:
    """Return a duration in seconds as text."""
    return formats.format_duration(round(number * 1_000_000))


@register.filter
def delivery_state(delivery: Delivery, now: int) -> dict[str, str]:
    """Return name and tone (``good``, ``bad``, …) of a delivery's state at the time ``now``, in microseconds."""
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


@register.filter
def split_names(names: str) -> list[str]:
    """Return the names of a text in which commas separate them."""
    return [name for part in names.split(",") if (name := part.strip())]


@register.filter
def get_item(values: Mapping[Any, Any] | None, key: Any) -> Any:
    """Return the value of ``key``; ``None`` without one."""
    return values.get(key) if isinstance(values, Mapping) else None


HEALTH_LABELS: Final = {
    "ok": _("runs"),
    "slow": _("slow"),
    "failing": _("raises"),
    "dead": _("collected"),
    "idle": _("not called"),
    "unmeasured": _("not measured"),
    "durable": _("durable"),
}
"""Labels of the states of a receiver."""


@register.filter
def health_label(name: str) -> str:
    """Return the label of a receiver's state."""
    return str(HEALTH_LABELS.get(name, name))


@register.simple_tag
def health_choices() -> list[tuple[str, str]]:
    """Return the states of a receiver with their labels."""
    return [(name, str(label)) for name, label in HEALTH_LABELS.items()]


@register.filter
def revert_diff_parts(field: FieldRestoration) -> tuple[formats.DiffPart, ...]:
    """Return the inline diff of a field's current and restored text; empty if both are short."""
    return formats.diff_long_texts(field.current, field.restored) if field.status == FieldStatus.RESTORED else ()


@register.filter
def is_unknown(field: FieldRestoration, name: str) -> bool:
    """Return True if the field's ``current`` or ``restored`` value is unknown."""
    return getattr(field, name) is UNKNOWN


TRANSLATED_NAMES: Final = (
    gettext_noop("committed"),
    gettext_noop("rolled back"),
    gettext_noop("failed"),
    gettext_noop("sent"),
    gettext_noop("errors"),
    gettext_noop("succeeded"),
    gettext_noop("timed out"),
    gettext_noop("lost"),
    # States of deliveries.
    gettext_noop("pending"),
    gettext_noop("due"),
    gettext_noop("waiting"),
    gettext_noop("running"),
    gettext_noop("abandoned"),
    gettext_noop("retrying"),
    gettext_noop("done"),
    gettext_noop("dead"),
    gettext_noop("discarded"),
    # States of errors.
    gettext_noop("open"),
    gettext_noop("resolved"),
    gettext_noop("muted"),
    gettext_noop("regressed"),
    gettext_noop("all"),
    # Kinds and states of traces.
    gettext_noop("request"),
    gettext_noop("command"),
    gettext_noop("task"),
    gettext_noop("process"),
    gettext_noop("test"),
    gettext_noop("ok"),
    gettext_noop("unfinished"),
    # What a revert does with a field.
    gettext_noop("restored"),
    gettext_noop("left unchanged"),
    gettext_noop("not restored"),
    gettext_noop("set to its default"),
    gettext_noop("can't be restored"),
)
"""Outcomes, states and kinds as words. The calls mark them for translation."""


@register.filter
def as_words(value: object) -> str:
    """Return a name such as ``rolled_back`` as words, in the active language. A number is returned unchanged."""
    text = str(value).replace("_", " ")
    return gettext(text) if text else ""


@register.filter
def group_digits(number: int) -> str:
    """Return a number with thin spaces between its thousands."""
    return f"{number:,}".replace(",", "\u202f")


@register.simple_tag
def value_label(data: Mapping[str, Any], name: str, value: object) -> str:
    """Return what is shown beside a field's value; or nothing."""
    return formats.get_label(data.get("labels"), name, value)


@register.simple_tag
def state_label(state: ObjectState, name: str) -> str:
    """Return what is shown beside a field's value in an object's state; or nothing."""
    return state.get_label(name) or local_time.describe_moment(state[name])


@register.simple_tag
def restoration_label(value: object, label: str) -> str:
    """Return what is shown beside a value in the preview of a revert; or nothing."""
    return label or local_time.describe_moment(value)


@register.simple_tag(takes_context=True)
def link_query(context: Any, **params: Any) -> str:
    """Return the query string of a link that keeps the timeline's filter of this page, with ``params``; or nothing."""
    request: HttpRequest = context["request"]
    kept = {name: request.GET.get(name, "") for name in (TEXT_PARAM, SYSTEM_PARAM)}
    given = {name: value for name, value in {**params, **kept}.items() if value not in ("", None)}
    return f"?{urlencode(given)}" if given else ""


register.simple_tag(get_object_url)
register.simple_tag(get_script_texts, name="script_texts")
register.simple_tag(get_delivery_url)
register.simple_tag(get_error_url)
register.simple_tag(get_deliveries_url)
register.simple_tag(get_receiver_url)
register.simple_tag(get_signal_url)
register.simple_tag(get_timeline_url)


@register.simple_tag(takes_context=True)
def signalbox_history_link(context: Any) -> str:
    """Return the link to Signalbox beside the admin's history; empty if it is off or the user lacks the permission."""
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
    except NoReverseMatch:  # the site does not include the dashboard's URLs
        return ""
    return format_html('<li><a href="{}" class="historylink">Signalbox</a></li>', url)
