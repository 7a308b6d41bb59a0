"""Replaces the selected person's data in the contents of rows: pure functions over events, traces and deliveries."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from enum import IntEnum
from typing import Any, Final

from django.apps import apps

from signalbox.core.catalog import BUILTIN_SIGNALS
from signalbox.core.event import ERASED_COLUMNS_KEY
from signalbox.core.receiver_stats import PASSED_THROUGH_KEY
from signalbox.erasure.roles import Role, get_args
from signalbox.erasure.selection import SelectedObject, Selection
from signalbox.models import Attempt, Delivery, Error, Event, Trace
from signalbox.outbox.payload import TRACE_CONTEXT_KEY
from signalbox.serialization.encoder import ERASED, build_erased_mark, is_erased

REQUEST_ARGUMENTS: Final = ("environ", "request", "scope")
"""Arguments whose recorded form contains a request's path and user agent."""

KEPT_REQUEST_DATA: Final = frozenset({"method"})

KEPT_TRACE_DATA: Final = frozenset(
    {"attempt", "delivery", "fencing_token", "first_span", "method", "parent", "send_counts", "span", "task_id"}
    | {"transaction_count", "transactions", "view"}
)
"""Members of a trace's data that do not identify a person."""

PATH_DATA: Final = frozenset({"path"})
"""Members of a request's data that may contain data of an object that it changed."""

KEPT_DATA: Final = frozenset(
    {
        "args",
        "changes",
        "extra",
        "labels",
        "late",
        "parent_receiver",
        PASSED_THROUGH_KEY,
        "pre_signal_time",
        "receivers",
    }
    | {"row", "transaction", ERASED_COLUMNS_KEY}
)
"""Members of an event's data that are kept, or erased member by member. Others are replaced as a whole."""

KEPT_ARGUMENTS: Final = frozenset(
    {"action", "count", "created", "fields", "keys", "keys_unknown", "model", "new_keys", "object", "omitted_keys"}
    | {"origin", "part", "parts", "raw", "related_keys", "reverse", "unsent", "update_conflicts", "update_fields"}
)
"""Arguments of Django's model signals and of bulk operations that contain no values."""

KEY_LISTS: Final = ("added", "pk_set", "removed")
"""Arguments with the related keys of a many-to-many change."""

_ERROR_PATTERN: Final = re.compile(r"([\w.<>]+)(?:: .*)?", re.DOTALL)


class RequestScope(IntEnum):
    """How much of a trace's request is erased."""

    PATH = 1
    """The path: the request changed a selected object."""
    ALL = 2
    """The path, the address and the user agent: the request is that of the selected actor."""


def erase_event(
    event: Event, selection: Selection, role: Role, scope: RequestScope | None
) -> tuple[dict[str, Any], Counter[str]]:
    """Return the new values of the columns of ``event``, without those that stay, and the places that were replaced."""
    places: Counter[str] = Counter()
    eraser = _ContentEraser(event.sender, event.signal, selection, places)
    data = deepcopy(event.data)
    args = get_args(data)
    if role.own is not None:
        eraser.erase_own(data)
    elif event.signal in BUILTIN_SIGNALS and not event.object_key:
        eraser.erase_shared(args, data)
    if role.is_actor or role.is_login:
        scope = RequestScope.ALL
    if scope is not None:
        eraser.erase_requests(args, scope)
    if role.is_login:
        eraser.erase_all_members(args, "credentials")
    if role:
        eraser.erase_errors(data)
        eraser.erase_all_members(data, "extra")
    eraser.erase_references(data, args)
    is_related = bool(role) or data != event.data or refers_to_object(event, selection)
    if is_related:
        eraser.erase_names(data)
    columns = _erase_columns(event, selection, role, is_related, places)
    if (names := sorted({*data.get(ERASED_COLUMNS_KEY, ()), *columns})) and columns:
        data[ERASED_COLUMNS_KEY] = names
    if data != event.data:
        columns["data"] = data
    return columns, Counter(dict.fromkeys(places, 1))


def refers_to_object(event: Event, selection: Selection) -> bool:
    """Return whether ``event`` contains the key of a selected object."""
    places: Counter[str] = Counter()
    eraser = _ContentEraser(event.sender, event.signal, replace(selection, keys=True), places)
    data = deepcopy(event.data)
    if event.signal in BUILTIN_SIGNALS and not event.object_key:
        eraser.erase_shared(get_args(data), data)
    eraser.erase_references(data, get_args(data))
    return bool(places)


def _erase_columns(
    event: Event, selection: Selection, role: Role, is_related: bool, places: Counter[str]
) -> dict[str, Any]:
    """Return the new texts of the columns with labels and keys."""
    erased = event.data.get(ERASED_COLUMNS_KEY, ())
    wanted: list[str] = []
    if role.is_actor:
        wanted += ["actor_label", *(["actor_key"] if selection.keys else [])]
    if role.own is not None:
        wanted += ["object_label", *(["object_key"] if selection.keys else [])]
    columns: dict[str, Any] = {name: ERASED for name in wanted if getattr(event, name) and name not in erased}
    pattern = selection.build_pattern() if is_related and role.own is None else None
    if pattern is not None and (text := pattern.sub(ERASED, event.object_label)) != event.object_label:
        columns["object_label"] = text
    places.update(list(columns))
    return columns


def erase_trace(trace: Trace, selection: Selection, scope: RequestScope) -> tuple[dict[str, Any], Counter[str]]:
    """Return the new values of the columns of ``trace``, without those that stay, and the places that were replaced."""
    columns: dict[str, Any] = {}
    data = deepcopy(trace.data)
    is_actor = bool(selection.actor) and trace.actor_key == selection.actor
    if is_actor:
        columns["actor_label"] = ERASED if trace.actor_label else ""
        if selection.keys:
            columns["actor_key"] = ERASED
    pattern = selection.build_pattern()
    if trace.kind == "request":
        method, space, _ = trace.name.partition(" ")
        columns["name"] = f"{method} {ERASED}" if space else ERASED
    elif pattern is not None:
        columns["name"] = pattern.sub(ERASED, trace.name)
    for name, value in data.items():
        if (name in PATH_DATA if scope is RequestScope.PATH else name not in KEPT_TRACE_DATA) and value != "":
            data[name] = ERASED
    columns["data"] = data
    changed = {name: value for name, value in columns.items() if getattr(trace, name) != value}
    return changed, Counter(f"trace_{name}" for name in changed)


def erase_delivery(
    delivery: Delivery, selection: Selection, role: Role, scope: RequestScope | None, *, is_related: bool
) -> tuple[dict[str, Any], Counter[str]]:
    """Return the new values of the columns of a finished delivery, and the places that were replaced.

    ``is_related`` says whether its event mentions the person.
    """
    columns: dict[str, Any] = {"payload": _erase_payload(delivery, selection, role, scope)}
    pattern = selection.build_pattern()
    if role:
        columns["error"] = erase_error(delivery.error)
        columns["traceback"] = ERASED if delivery.traceback else delivery.traceback
    elif pattern is not None and is_related:
        columns["error"] = pattern.sub(ERASED, delivery.error)
        columns["traceback"] = delivery.traceback and pattern.sub(ERASED, delivery.traceback)
    if role.own is not None:
        if selection.keys:
            columns["object_key"] = ERASED
        if delivery.ordering_key and (selection.keys or not delivery.ordering_key.endswith(f" {role.own.key}")):
            columns["ordering_key"] = ERASED  # it may be the value of a field
    elif pattern is not None and (role or is_related) and pattern.search(delivery.ordering_key):
        columns["ordering_key"] = ERASED
    changed = {name: value for name, value in columns.items() if getattr(delivery, name) != value}
    return changed, Counter(f"delivery_{name}" for name in changed)


def erase_attempt(
    attempt: Attempt, selection: Selection, role: Role, *, is_related: bool
) -> tuple[dict[str, Any], Counter[str]]:
    """Return the new values of the columns of an attempt of a finished delivery, and the places that were replaced."""
    pattern = selection.build_pattern()
    if role:
        error = erase_error(attempt.error)
    elif pattern is not None and is_related:
        error = pattern.sub(ERASED, attempt.error)
    else:
        error = attempt.error
    changed = {} if error == attempt.error else {"error": error}
    return changed, Counter(f"attempt_{name}" for name in changed)


def erase_stored_error(
    error: Error, selection: Selection, *, is_own: bool, is_related: bool
) -> tuple[dict[str, Any], Counter[str]]:
    """Return the new values of the columns of an error, and the places that were replaced.

    ``is_own`` says whether its event, trace or delivery is the person's, and ``is_related`` whether it mentions them.
    """
    pattern = selection.build_pattern()
    message = error.message
    if is_own:
        message = ERASED if message else ""
    elif pattern is not None and is_related:
        message = pattern.sub(ERASED, message)
    changed = {} if message == error.message else {"message": message}
    return changed, Counter(f"error_{name}" for name in changed)


def _erase_payload(delivery: Delivery, selection: Selection, role: Role, scope: RequestScope | None) -> Any:
    """Return the payload of a finished delivery without the selected person's data."""
    if role.own is not None or role.is_login or is_erased(delivery.payload):
        return build_erased_mark()
    payload = deepcopy(delivery.payload)
    eraser = _ContentEraser(delivery.sender, delivery.signal, selection, Counter())
    args = get_args(payload)
    if delivery.signal in BUILTIN_SIGNALS and not delivery.object_key:
        eraser.erase_shared(args, payload)
    if role.is_actor:
        scope = RequestScope.ALL
    for arguments in (args, payload.get("serialized") or {}):
        if scope is not None:
            eraser.erase_requests(arguments, scope)
    trace_context = payload.get(TRACE_CONTEXT_KEY)
    if scope is RequestScope.ALL and isinstance(trace_context, dict):
        trace_context.pop("tracestate", None)  # its content is up to the client
    before = deepcopy(payload)
    eraser.erase_references(payload, args)
    if selection.keys and (payload != before or _refers(payload, selection)):
        return build_erased_mark()
    return payload


def _refers(value: Any, selection: Selection) -> bool:
    """Return whether serialized arguments contain a selected object."""
    if isinstance(value, dict):
        content = value.get("v")
        if value.get("$") == "model" and isinstance(content, list):
            return any(content[0] in one.senders and one.is_key(content[1]) for one in selection.objects)
        return any(_refers(item, selection) for item in value.values())
    return isinstance(value, list) and any(_refers(item, selection) for item in value)


def erase_error(text: str) -> str:
    """Return the text of an exception with its class and without its message."""
    found = _ERROR_PATTERN.fullmatch(text)
    if not text or (found is not None and found[1] == text):
        return text
    return ERASED if found is None else f"{found[1]}: {ERASED}"


class _ContentEraser:
    """Replaces parts of one row's JSON in place, and counts the places."""

    def __init__(self, sender: str, signal: str, selection: Selection, places: Counter[str]) -> None:
        self._sender, self._signal = sender, signal
        self._selection, self._places = selection, places
        entry = BUILTIN_SIGNALS.get(signal)
        self._is_model_signal = entry is not None and entry.group in ("model", "bulk")

    def erase_own(self, data: dict[str, Any]) -> None:
        """Replace the values of a selected object: its row, changes, labels and the arguments."""
        keys = frozenset() if self._selection.keys else _get_key_fields(self._sender)
        row, changes = data.get("row"), data.get("changes")
        if isinstance(row, dict):
            self._replace_members(row, {name for name in row if name not in keys}, "values")
        if isinstance(changes, dict):
            for name, pair in changes.items():
                if not all(map(is_erased, pair)):
                    changes[name] = [build_erased_mark() for _ in pair]
                    self._places["values"] += 1
        if data.pop("labels", None) is not None:
            self._places["values"] += 1
        self._replace_members(data, {name for name in data if name not in KEPT_DATA}, "values")
        args = get_args(data)
        self._erase_update_values(args)
        kept = {*REQUEST_ARGUMENTS, "values", *(KEPT_ARGUMENTS if self._is_model_signal else ())}
        replaced = {
            name
            for name, value in args.items()
            if name not in kept and not isinstance(value, bool | None) and not _is_reference(value)
        }
        self._replace_members(args, replaced, "arguments")

    def erase_shared(self, args: dict[str, Any], data: dict[str, Any]) -> None:
        """Replace the parts of selected objects in the event of a bulk operation on several objects."""
        keys = args.get("keys")
        if not isinstance(keys, list):
            return
        objects = [one for one in self._selection.objects if self._sender in one.senders]
        named = [any(one.is_key(key) for one in objects) or is_erased(key) for key in keys]
        if not any(named):
            return
        has_others = not all(named) or args.get("count", len(keys)) > len(keys)
        if not has_others:
            self._erase_update_values(args)
            self.erase_errors(data)
            self.erase_all_members(data, "extra")
        if self._selection.keys or (has_others and args.get("values")):
            for name in ("keys", "new_keys"):
                self._erase_keys(args, name, objects)

    def _erase_update_values(self, args: dict[str, Any]) -> None:
        values = args.get("values")
        if isinstance(values, dict):
            self._replace_members(values, set(values), "values")
        if self._is_model_signal and args.pop("labels", None) is not None:
            self._places["values"] += 1

    def _erase_keys(self, args: dict[str, Any], name: str, objects: list[SelectedObject]) -> None:
        recorded = args.get(name)
        keys = recorded if isinstance(recorded, list) else []
        for index, key in enumerate(keys):
            if any(one.is_key(key) for one in objects):
                keys[index] = build_erased_mark()
                self._places["other_keys"] += 1
        if recorded is not None and any(one.is_key(recorded) for one in objects) and not keys:
            args[name] = build_erased_mark()
            self._places["other_keys"] += 1

    def erase_requests(self, args: dict[str, Any], scope: RequestScope) -> None:
        """Replace what the arguments contain of a request, and the text of its exception."""
        for name in REQUEST_ARGUMENTS:
            found = args.get(name)
            if isinstance(found, dict):
                replaced = PATH_DATA if scope is RequestScope.PATH else found.keys() - KEPT_REQUEST_DATA
                for member in replaced & found.keys():
                    if found[member] not in ("", ERASED):
                        found[member] = ERASED
                        self._places["request"] += 1
        error = args.get("exception")
        if isinstance(error, str) and erase_error(error) != error:
            args["exception"] = erase_error(error)
            self._places["errors"] += 1

    def erase_errors(self, data: dict[str, Any]) -> None:
        """Replace the messages of the exceptions of receivers. Their classes stay."""
        for call in _iter_calls(data):
            if (text := erase_error(call["error"])) != call["error"]:
                call["error"] = text
                self._places["errors"] += 1

    def erase_all_members(self, data: dict[str, Any], name: str) -> None:
        """Replace the values of a dict in ``data``. Its keys stay."""
        found = data.get(name)
        if isinstance(found, dict):
            self._replace_members(found, set(found), name)

    def erase_names(self, data: dict[str, Any]) -> None:
        """Replace the known names in the messages of exceptions, in an event of others."""
        pattern = self._selection.build_pattern()
        if pattern is None:
            return
        for call in _iter_calls(data):
            if (text := pattern.sub(ERASED, call["error"])) != call["error"]:
                call["error"] = text
                self._places["errors"] += 1

    def erase_references(self, data: dict[str, Any], args: dict[str, Any]) -> None:
        """Replace the labels of selected objects in references to them, and the keys if these are erased too."""
        for one in self._selection.objects:
            names = one.foreign_keys.get(self._sender, frozenset())
            self._erase_labels(data, one, names)
            self._erase_labels(args, one, names)
            for name in names:
                if self._selection.keys or (self._sender, name) in one.target_fields:
                    self._erase_foreign_key(data, args, one, name)
            if self._selection.keys and args.get("model") in one.senders:
                for name in KEY_LISTS:
                    self._erase_keys(args, name, [one])
        if self._selection.keys and args:
            self._erase_object_references(args)

    def _erase_labels(self, data: dict[str, Any], one: SelectedObject, names: frozenset[str]) -> None:
        labels = data.get("labels")
        if not isinstance(labels, dict):
            return
        for name in names:
            found = labels.get(name)
            for value in one.get_foreign_key_values(self._sender, name):
                if isinstance(found, dict) and found.pop(value, None) is not None:
                    self._places["other_labels"] += 1
            if found == {}:
                del labels[name]

    def _erase_foreign_key(self, data: dict[str, Any], args: dict[str, Any], one: SelectedObject, name: str) -> None:
        """Replace the values of a foreign key that refer to an object: its key, or the value of another field."""
        place = "other_values" if (self._sender, name) in one.target_fields else "other_keys"

        def refers(value: Any) -> bool:
            return one.is_foreign_key(self._sender, name, value)

        for values in (data.get("row"), args.get("values")):
            if isinstance(values, dict) and refers(values.get(name)):
                self._replace_members(values, {name}, place)
        for lists in (data.get("changes"), args.get("related_keys")):
            found = lists.get(name) if isinstance(lists, dict) else None
            if isinstance(lists, dict) and isinstance(found, list) and any(map(refers, found)):
                lists[name] = [build_erased_mark() if refers(value) else value for value in found]
                self._places[place] += 1
            elif isinstance(lists, dict) and refers(found):
                self._replace_members(lists, {name}, place)

    def _erase_object_references(self, value: Any) -> None:
        if isinstance(value, dict):
            if any(one.is_reference(value) for one in self._selection.objects):
                value["pk"] = build_erased_mark()
                self._places["other_keys"] += 1
            value = list(value.values())
        for item in value if isinstance(value, list) else ():
            self._erase_object_references(item)

    def _replace_members(self, values: dict[str, Any], names: set[str], place: str) -> None:
        for name in names:
            if not is_erased(values[name]):
                values[name] = build_erased_mark()
                self._places[place] += 1


def _iter_calls(data: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the receivers that raised an exception."""
    calls = data.get("receivers")
    for call in calls if isinstance(calls, list) else ():
        if isinstance(call, dict) and isinstance(call.get("error"), str) and call["error"]:
            yield call


def _is_reference(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"model", "pk"}


def _get_key_fields(sender: str) -> frozenset[str]:
    try:
        model = apps.get_model(sender)
    except (LookupError, ValueError):
        return frozenset()
    return frozenset(field.name for field in model._meta.pk_fields)
