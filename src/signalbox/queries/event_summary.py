"""What an event did, as one short line for people: pure functions over the event's row.

A summary contains only what the event recorded. The label of a choice or of a related object is that of the time of the
event. If only the key of an object was recorded, the key is shown, because its current label may be another one. A page
can look up the present names of objects in many-to-many changes before; the summary says that they are present ones.
The project's current models are asked for the kinds of fields only. No query is sent.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from django.apps import apps
from django.core.exceptions import FieldDoesNotExist

from signalbox.core.display_names import get_value_label, short_name
from signalbox.queries.local_time import parse_moment
from signalbox.queries.related_names import MAX_SHOWN_KEYS, get_changed_keys, get_recorded_names
from signalbox.serialization import encoder

if TYPE_CHECKING:
    from signalbox.models import Event

MAX_VALUE_LENGTH: Final = 24
"""Maximum number of characters of a value."""

MAX_LABEL_LENGTH: Final = 80
"""Maximum number of characters of an object's label, and of a path."""

MAX_ERROR_LENGTH: Final = 120
"""Maximum number of characters of an exception."""

MAX_PARTS: Final = 3
"""Maximum number of fields or arguments. The number of the others follows."""

SEPARATOR: Final = " · "

WORDS_FOR_VALUES: Final = frozenset({"", "none", "empty", "yes", "no"})
"""Words for values that are not texts. A text that equals one of them is quoted."""

HIDDEN_ARGUMENTS: Final = frozenset({"raw", "using", "update_fields", "created", "instance", "signal", "sender"})
"""Arguments of signals that a summary leaves out."""

_FIRST_STRONG_ISOLATE, _POP_ISOLATE = "\u2068", "\u2069"
_JOINERS = frozenset("\u200c\u200d")
"""Characters without a width that words of some languages and emoji need."""


@dataclass(frozen=True, slots=True)
class EventSummary:
    """What an event did, without characters that reorder or hide text."""

    subject: str
    """The object or the model. Empty if it has none."""
    detail: str
    error: str = ""
    """The exception of a receiver, the operation or the request. Empty if none was raised."""
    has_current_names: bool = False
    """Whether it contains present names of objects, which may have had others at the time of the event."""

    def __str__(self) -> str:
        return SEPARATOR.join(filter(None, (self.subject, self.error, self.detail)))

    @property
    def description(self) -> str:
        """The summary without its subject, for a row that shows the object in another column."""
        return SEPARATOR.join(filter(None, (self.error, self.detail)))


def summarize_event(event: Event) -> EventSummary:
    """Return the summary of an event. It has at most about 500 characters."""
    data = event.data if isinstance(event.data, dict) else {}
    args = data.get("args")
    args = args if isinstance(args, dict) else {}
    return EventSummary(
        _describe_subject(event, args),
        _describe_detail(event, data, args),
        _describe_error(event, data, args),
        bool(event.current_names),
    )


def to_terminal_text(summary: str) -> str:
    """Return a summary without the marks that isolate right-to-left values, which a terminal shows as codes."""
    return summary.replace(_FIRST_STRONG_ISOLATE, "").replace(_POP_ISOLATE, "")


def clean_text(text: str, max_length: int) -> str:
    """Return text of any origin on one line, truncated, with characters escaped that reorder or hide other text.

    A text with right-to-left letters is isolated, so that it does not change the order of the text around it.
    """
    line = " ".join(text[: 4 * max_length].split())
    if len(line) > max_length:
        line = f"{line[: max_length - 1]}…"
    elif len(text) > 4 * max_length:
        line += "…"
    line = escape_hidden(line)
    if line.isascii():
        return line
    is_isolated = any(unicodedata.bidirectional(char) in ("R", "AL") for char in line)
    return f"{_FIRST_STRONG_ISOLATE}{line}{_POP_ISOLATE}" if is_isolated else line


def escape_hidden(text: str) -> str:
    """Return text of any origin with characters as their codes that reorder or hide other text. Line breaks stay."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in _JOINERS or char == "\n" else char.encode("unicode_escape").decode()
        for char in text
    )


def format_value(value: Any) -> str:
    """Return a recorded value as a short text."""
    if encoder.is_recorded_expression(value):
        return clean_text(str(value[encoder.EXPRESSION_KEY]), 2 * MAX_VALUE_LENGTH)
    if encoder.is_not_restorable(value):
        return clean_text(encoder.describe_not_restorable(value), 2 * MAX_VALUE_LENGTH)
    value = encoder.unwrap_literal(value)
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        if not value:
            return "empty"
        text = clean_text(value, MAX_VALUE_LENGTH)
        return f"“{text}”" if text.casefold() in WORDS_FOR_VALUES or "→" in text or "·" in text else text
    if isinstance(value, dict) and value.keys() == {"model", "pk"}:
        return format_object(str(value["model"]), value["pk"])
    return clean_text(json.dumps(value, ensure_ascii=False, default=str), MAX_VALUE_LENGTH)


def format_object(sender: str, key: Any, label: str = "") -> str:
    """Return the name of an object: its label with the name of its model, or ``Order #7`` without a label."""
    model = clean_text(short_name(sender), 40)
    if label:
        text = clean_text(label, MAX_LABEL_LENGTH)
        return text if not model or model.casefold() in label.casefold() else f"{model} {text}"
    if encoder.is_erased(key) or key == encoder.ERASED:
        return f"{model} {encoder.ERASED}".lstrip()
    return f"{model} #{clean_text(str(key), MAX_VALUE_LENGTH)}".lstrip()


# ------------------------------------------------------------------ subject


def _describe_subject(event: Event, args: Mapping[str, Any]) -> str:
    if event.signal.startswith("user_log"):
        return _describe_user(event, args)
    if event.object_key or event.object_label:
        sender = str(args.get("object") or event.sender) if event.signal == "m2m_changed" else event.sender
        return format_object(sender, event.object_key, event.object_label)
    is_model = event.sender.count(".") == 1 and event.signal in _MODEL_SIGNALS
    return clean_text(short_name(event.sender), 40) if is_model else ""


_BULK_VERBS: Final[Mapping[str, str]] = {
    "bulk_create": "created",
    "bulk_update": "updated",
    "update": "updated",
    "bulk_delete": "deleted",
}

_MODEL_SIGNALS: Final = frozenset({*_BULK_VERBS, "pre_save", "post_save", "pre_delete", "post_delete", "m2m_changed"})

CHANGE_SIGNALS: Final = _MODEL_SIGNALS - {"pre_save", "pre_delete"}
"""The signals and operations that a change of the database has."""


def _describe_user(event: Event, args: Mapping[str, Any]) -> str:
    if event.object_label or event.object_key:
        return clean_text(event.object_label, MAX_LABEL_LENGTH) or format_object(event.sender, event.object_key)
    credentials = args.get("credentials")
    for name, value in credentials.items() if isinstance(credentials, dict) else ():
        if isinstance(value, str) and value and "password" not in name and not value.startswith("["):
            return clean_text(value, MAX_LABEL_LENGTH)
    return ""


# ------------------------------------------------------------------ detail


def _describe_detail(event: Event, data: Mapping[str, Any], args: Mapping[str, Any]) -> str:
    if event.signal in _AUTH_TEXTS:
        address = f"from {clean_text(event.client_address, 64)}" if event.client_address else ""
        return f"{_AUTH_TEXTS[event.signal]} {address}".rstrip()
    if isinstance(data.get("changes"), dict):
        return _describe_changes(event.sender, data["changes"], data.get("labels"))
    if event.signal == "m2m_changed":
        return _describe_m2m(event, args)
    if event.signal in ("post_delete", "pre_delete"):
        return _describe_delete(event, args)
    if isinstance(data.get("row"), dict):
        verb = "deleted" if event.signal == "bulk_delete" else "created"
        return verb if verb == "deleted" else _describe_created(event.sender, data["row"], data.get("labels"))
    if event.signal in _BULK_VERBS:
        return _describe_bulk(event, args)
    if args.get("created") is True:
        return "created"
    return _describe_arguments(args)


_AUTH_TEXTS: Final[Mapping[str, str]] = {
    "user_logged_in": "logged in",
    "user_logged_out": "logged out",
    "user_login_failed": "login failed",
}


def _describe_changes(sender: str, changes: Mapping[str, Any], labels: Any) -> str:
    texts, automatic = [], 0
    for name, pair in changes.items():
        if not isinstance(pair, list) or not pair:
            continue
        if _is_automatic(sender, name):
            automatic += 1
            continue
        values = [_format_field(sender, labels, name, value) for value in pair]
        texts.append(f"{clean_text(name, 40)} {values[0]} → {values[1]}" if len(pair) > 1 else f"{name} → {values[0]}")
    if not texts and not automatic:
        return "nothing changed"
    return _join(texts, automatic)


def _describe_created(sender: str, row: Mapping[str, Any], labels: Any) -> str:
    """Return ``created`` with the values that say most: those that are set and that people gave."""
    texts = [
        f"{clean_text(name, 40)} {_format_field(sender, labels, name, value)}"
        for name, value in row.items()
        if value not in (None, "", [], {}, False) and not _is_automatic(sender, name) and not _is_key(sender, name)
    ]
    return f"created{SEPARATOR}{_join(texts, 0)}" if texts else "created"


def _describe_delete(event: Event, args: Mapping[str, Any]) -> str:
    verb = "deleted" if event.signal == "post_delete" else "before the deletion"
    origin = args.get("origin")
    if isinstance(origin, dict) and "pk" in origin:
        return f"{verb} with {format_object(str(origin.get('model', '')), origin['pk'])}"
    return verb


def _describe_m2m(event: Event, args: Mapping[str, Any]) -> str:
    model = str(args.get("model") or "")
    name = _get_relation_name(event.sender, str(args.get("object") or ""), reverse=bool(args.get("reverse")))
    when, _, action = str(args.get("action") or "").partition("_")
    verb = {"add": "added", "remove": "removed", "clear": "cleared"}.get(action, action)
    keys = get_changed_keys(args)
    if when == "pre":
        verb = {"added": "before adding", "removed": "before removing", "cleared": "before clearing"}.get(verb, verb)
    elif verb == "cleared" and keys:
        verb = "removed"
    if keys:
        what = _format_related(model, keys[:MAX_SHOWN_KEYS], {**event.current_names, **get_recorded_names(args)})
        what += f", +{len(keys) - MAX_SHOWN_KEYS:,}" if len(keys) > MAX_SHOWN_KEYS else ""
    elif isinstance(args.get("pk_set"), str):  # redacted
        what = f"{short_name(model)} {clean_text(args['pk_set'], 30)}"
    else:
        what = f"{args['count']:,} {short_name(model)}" if isinstance(args.get("count"), int) else ""
    return f"{name}: {verb} {what}".rstrip() if name else f"{verb} {what}".rstrip()


def _format_related(model: str, keys: list[Any], names: Mapping[str, str]) -> str:
    """Return the names of objects. If one has only a key, the name of the model is before them."""
    found = ["" if encoder.is_erased(key) else names.get(str(key), "") for key in keys]
    shown = [
        clean_text(name, MAX_VALUE_LENGTH)
        if name
        else clean_text(encoder.ERASED if encoder.is_erased(key) else f"#{key}", 30)
        for key, name in zip(keys, found, strict=True)
    ]
    return ", ".join(shown) if all(found) else f"{short_name(model)} {', '.join(shown)}"


def _describe_bulk(event: Event, args: Mapping[str, Any]) -> str:
    count = args.get("count")
    rows = f"{count:,} row{'' if count == 1 else 's'}" if isinstance(count, int) else "rows"
    values, fields = args.get("values"), args.get("fields")
    if isinstance(values, dict) and values:
        texts, automatic = [], 0
        for name, value in values.items():
            if _is_automatic(event.sender, name):
                automatic += 1
            else:
                shown = _format_field(event.sender, args.get("labels"), name, value)
                texts.append(f"{clean_text(name, 40)} = {shown}")
        return f"{rows}{SEPARATOR}{_join(texts, automatic)}"
    if isinstance(fields, list) and fields:
        return f"{rows}{SEPARATOR}{_join([clean_text(str(name), 40) for name in fields], 0)}"
    return f"{rows} {_BULK_VERBS[event.signal]}"


def _describe_arguments(args: Mapping[str, Any]) -> str:
    for name in ("environ", "scope", "request"):
        facts = args.get(name)
        if isinstance(facts, dict) and facts.get("method") and args.keys() <= {name, "exception"}:
            return f"{clean_text(str(facts['method']), 10)} {clean_text(str(facts.get('path', '')), MAX_LABEL_LENGTH)}"
    if isinstance(connection := args.get("connection"), dict) and connection.keys() == {"alias", "vendor"}:
        return f"{clean_text(str(connection['vendor']), 24)}, {clean_text(str(connection['alias']), 40)}"
    if isinstance(args.get("plan"), list):
        number = len(args["plan"])
        return f"{number} migration{'' if number == 1 else 's'}"
    if "setting" in args:
        return f"{clean_text(str(args['setting']), 40)} = {format_value(args.get('value'))}"
    texts = [
        f"{clean_text(name, 40)} {format_value(value)}"
        for name, value in args.items()
        if name not in HIDDEN_ARGUMENTS and name != "exception" and value not in (None, "", [], {}, False)
    ]
    return _join(texts, 0)


def _join(texts: list[str], automatic: int) -> str:
    """Return the first texts, the number of the others, and the number of fields that Django sets."""
    parts = texts[:MAX_PARTS]
    if len(texts) > MAX_PARTS:
        parts.append(f"+{len(texts) - MAX_PARTS}")
    if automatic:
        parts.append(f"+{automatic} automatic")
    return ", ".join(parts)


# ------------------------------------------------------------------ error


def _describe_error(event: Event, data: Mapping[str, Any], args: Mapping[str, Any]) -> str:
    return next((clean_text(text, MAX_ERROR_LENGTH) for text in _iter_errors(event, data, args)), "")


def _iter_errors(event: Event, data: Mapping[str, Any], args: Mapping[str, Any]) -> Iterator[str]:
    receivers = data.get("receivers")
    calls = receivers if isinstance(receivers, list) else []
    # An exception of a nested send has its own row, so that of this event's own receivers is first.
    for call in sorted(
        (call for call in calls if isinstance(call, dict)), key=lambda call: bool(call.get("passed_through"))
    ):
        if call.get("error"):
            yield str(call["error"])
    if isinstance(args.get("exception"), str) and args["exception"]:
        yield args["exception"]
    if event.outcome == "failed":
        yield "failed"


# ------------------------------------------------------------------ kinds of fields


def _get_field(sender: str, name: str) -> Any:
    """Return the field of the project's current model; ``None`` if it has no such field or was removed."""
    try:
        return apps.get_model(sender)._meta.get_field(name)
    except (LookupError, ValueError, FieldDoesNotExist):
        return None


def _is_automatic(sender: str, name: str) -> bool:
    """Return whether Django sets the field at each save, or when the row is created."""
    field = _get_field(sender, name)
    return bool(getattr(field, "auto_now", False) or getattr(field, "auto_now_add", False))


def _is_key(sender: str, name: str) -> bool:
    return bool(getattr(_get_field(sender, name), "primary_key", False)) or name == "id"


def _format_field(sender: str, labels: Any, name: str, value: Any) -> str:
    """Return a field's value: its recorded label, the key of a related object, or the value."""
    plain = encoder.unwrap_literal(value)
    if label := get_value_label(labels, name, plain):
        return clean_text(label, MAX_VALUE_LENGTH)
    field = _get_field(sender, name)
    if getattr(field, "many_to_one", False) or getattr(field, "one_to_one", False):
        if isinstance(plain, int) and not isinstance(plain, bool):
            return f"#{plain}"
    elif isinstance(plain, str) and getattr(field, "get_internal_type", str)() == "DateTimeField":
        return _format_moment(plain)
    return format_value(value)


def _format_moment(text: str) -> str:
    """Return a recorded moment in the current time zone. A text that is not a moment is returned as a value."""
    moment = parse_moment(text)
    return format_value(text) if moment is None else f"{moment:%Y-%m-%d %H:%M:%S}"


def _get_relation_name(through: str, sender: str, *, reverse: bool) -> str:
    """Return the name of the many-to-many field, on the side of ``sender``; empty if it is not known."""
    try:
        meta = apps.get_model(sender)._meta
    except (LookupError, ValueError):
        return ""
    relations: Iterable[Any] = meta.related_objects if reverse else meta.many_to_many
    for relation in relations:
        table = getattr(relation, "through", None) if reverse else relation.remote_field.through
        if table is not None and table._meta.label == through:
            return str(relation.get_accessor_name() if reverse else relation.name)
    return ""
