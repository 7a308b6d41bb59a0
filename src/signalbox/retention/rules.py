"""The rules of ``SIGNALBOX["RETENTION"]``: which rule applies to an event, and errors in their names.

An event's rule is the most specific one: of its model, then of its signal, then of the signal's group, then of the
table. Of several equally specific rules, the one with the longest period applies.

``purging`` keeps some rows regardless of their rule, such as events with pending deliveries.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import IntEnum
from typing import Any, Final, get_args

from django.apps import apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from signalbox import conf
from signalbox.core import naming
from signalbox.core.catalog import Group
from signalbox.core.display_names import get_signal_group

TABLES: Final = ("events", "traces", "deliveries", "dead_deliveries")
"""The names of rules for whole tables, and for the dead letters among the deliveries."""

DELIVERY_STATES: Final = {"deliveries": ("done", "discarded"), "dead_deliveries": ("dead",)}
"""The states of the deliveries that a rule is about."""

GROUPS: Final[tuple[str, ...]] = get_args(Group)

DAY_US: Final = 86_400_000_000


class Rank(IntEnum):
    """How specific a rule is."""

    TABLE = 0
    GROUP = 1
    SIGNAL = 2
    MODEL = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One entry of the setting."""

    name: str
    """Its name in the setting, or that of another selection of events."""
    days: float | None
    """Days for which a row is stored; ``None`` keeps it for ever."""
    rank: Rank
    matches: Callable[[str, str], bool]
    """Whether it is about the events of a signal and a sender."""

    def get_cutoff(self, now: int) -> int:
        """Return the time (µs) before which rows are deleted. The rule has a period."""
        if self.days is None:
            raise ValueError(f"The rule {self.name!r} keeps its rows for ever.")
        return now - int(self.days * DAY_US)


class RetentionRules:
    """The rules of one value of the setting."""

    def __init__(self, raw: Mapping[str, float | None]) -> None:
        """``raw`` is valid: ``find_errors()`` has found nothing."""
        self.days = dict(raw)
        """Days by rule; ``None`` keeps rows for ever."""
        self.table_days: dict[str, float | None] = {name: raw[name] for name in TABLES if name in raw}
        """Days by table, of the tables with a rule."""
        self.event_rules = [_build_rule(name, days) for name, days in raw.items() if name not in TABLES[1:]]
        self.fingerprint = hashlib.sha256(json.dumps(sorted(raw.items())).encode()).hexdigest()
        """Differs if the setting differs."""
        self._found: dict[tuple[str, str], Rule | None] = {}

    def find(self, signal: str, sender: str) -> Rule | None:
        """Return the rule that applies to the events of a signal and a sender; ``None`` if none does."""
        key = (signal, sender)
        if key not in self._found:
            matching = [rule for rule in self.event_rules if rule.matches(signal, sender)]
            self._found[key] = max(matching, key=_get_precedence, default=None)
        return self._found[key]


def load() -> RetentionRules:
    """Return the rules of the setting.

    Raises ``ImproperlyConfigured`` if an entry is not valid: no row is deleted by a setting with an error.
    """
    raw = getattr(settings, "SIGNALBOX", None) or {}
    given = raw.get("RETENTION", {}) if isinstance(raw, Mapping) else {}
    errors = [error for error in conf.get_errors(raw) if error.path[:1] == ("RETENTION",)]
    if not errors and isinstance(given, Mapping):
        errors = find_unknown_names(given)
    if errors:
        texts = " ".join(f"{error.message} {error.hint}" for error in errors)
        raise ImproperlyConfigured(f"{texts} Nothing was deleted.")
    return RetentionRules(conf.get().RETENTION)


def find_unknown_names(raw: Mapping[Any, Any]) -> list[conf.SettingError]:
    """Return an error for each rule whose name is neither a model, a signal, a group nor a table.

    Entries that ``conf.get_errors()`` reports are left out.
    """
    found = []
    for name in raw:
        if not isinstance(name, str) or not name or _is_known(name):
            continue
        path = ("RETENTION", name)
        message = f"{conf.format_path(path)} is not known. Expected a model as app.Model, a signal, a group or a table."
        found.append(conf.SettingError(path, message, _suggest(name)))
    return found


def _is_known(name: str) -> bool:
    return name in TABLES or name in GROUPS or _find_model(name) is not None or naming.is_known_signal(name)


def _suggest(name: str) -> str:
    if apps.is_installed(name) or any(config.label == name for config in apps.get_app_configs()):
        return f'{name!r} is an app. Name each of its models, such as "{name}.Model".'
    labels = [model._meta.label for model in apps.get_models(include_auto_created=True)]
    names = [*TABLES, *GROUPS, *naming.get_known_signals(), *naming.get_sibling_signals(name), *labels]
    by_lower_case = {one.lower(): one for one in reversed(names)}
    close = get_close_matches(name.lower(), by_lower_case, n=1)
    if close:
        return f'Did you mean "{by_lower_case[close[0]]}"?'
    return f"Tables: {', '.join(TABLES)}. Groups: {', '.join(GROUPS)}. A custom signal has its dotted name."


def _get_precedence(rule: Rule) -> tuple[int, float]:
    return rule.rank, float("inf") if rule.days is None else rule.days


def _build_rule(name: str, days: float | None) -> Rule:
    if name == "events":
        return Rule(name=name, days=days, rank=Rank.TABLE, matches=lambda signal, sender: True)
    if name in GROUPS:
        return Rule(name=name, days=days, rank=Rank.GROUP, matches=lambda signal, _: get_signal_group(signal) == name)
    model = _find_model(name)
    if model is not None:
        senders = get_senders(model)
        return Rule(name=name, days=days, rank=Rank.MODEL, matches=lambda _, sender: sender in senders)
    return Rule(name=name, days=days, rank=Rank.SIGNAL, matches=lambda signal, _: signal == name)


def _find_model(label: str) -> Any:
    """Return the model with a label, in any case; ``None`` if there is none."""
    return next((model for model in _get_models() if model._meta.label_lower == label.lower()), None)


def _get_models() -> Iterable[Any]:
    return apps.get_models(include_auto_created=True, include_swapped=True)


def get_senders(model: Any) -> frozenset[str]:
    """Return the senders that a rule for ``model`` is about, as events contain them.

    These are the model, its proxies, and the tables of many-to-many relations that Django created for its fields. A
    child of multi-table inheritance is a model of its own.
    """
    return frozenset(one._meta.label for one in _get_models() if _belongs_to(one, model))


def _belongs_to(sender: Any, model: Any) -> bool:
    owner = sender._meta.auto_created or sender
    if sender is model:
        return True
    same_table = owner._meta.concrete_model is model._meta.concrete_model
    return bool(same_table and owner._meta.concrete_model is not None and issubclass(owner, model))
