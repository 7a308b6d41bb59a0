"""What an event has to do with the selected person."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from signalbox.core.event import ERASED_COLUMNS_KEY
from signalbox.erasure.selection import SelectedObject, Selection
from signalbox.models import Event


@dataclass(frozen=True, slots=True)
class Role:
    """What an event has to do with the selected person."""

    is_actor: bool = False
    own: SelectedObject | None = None
    """The selected object whose event it is."""
    is_login: bool = False
    """Whether it is a failed login with the actor's name."""

    def __bool__(self) -> bool:
        return self.is_actor or self.own is not None or self.is_login


def get_role(event: Event, selection: Selection) -> Role:
    """Return the role of the selected person in ``event``."""
    return Role(
        is_actor=bool(selection.actor) and event.actor_key == selection.actor,
        own=next((one for one in selection.objects if _is_own_event(event, one)), None),
        is_login=_is_login_of(event, selection),
    )


def _is_own_event(event: Event, one: SelectedObject) -> bool:
    if event.object_key != one.key or "object_key" in event.data.get(ERASED_COLUMNS_KEY, ()):
        return False
    args = get_args(event.data)
    if event.signal == "m2m_changed":
        return args.get("object") in one.senders
    references = [
        value for name in ("instance", "user") if isinstance(value := args.get(name), dict) and "model" in value
    ]
    return one.is_reference(references[0]) if references else event.sender in one.senders


def _is_login_of(event: Event, selection: Selection) -> bool:
    if event.signal != "user_login_failed" or not selection.logins:
        return False
    credentials = get_args(event.data).get("credentials")
    return isinstance(credentials, dict) and any(
        isinstance(value, str) and value.strip().casefold() in selection.logins for value in credentials.values()
    )


def get_args(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recorded arguments of an event or a delivery; an empty dict without any."""
    args = data.get("args")
    return args if isinstance(args, dict) else {}


def get_recorded_values(event: Event, key: str, name: str) -> list[Any]:
    """Return the values that ``event`` contains of a field of the object with this key."""
    args, row, changes = get_args(event.data), event.data.get("row"), event.data.get("changes")
    found = list(changes.get(name, ())) if isinstance(changes, dict) else []
    if isinstance(row, dict):
        found.append(row.get(name))
    values, keys = args.get("values"), args.get("keys")
    if isinstance(values, dict) and (event.object_key or (isinstance(keys, list) and key in map(str, keys))):
        found.append(values.get(name))
    return found
