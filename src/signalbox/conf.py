"""The setting ``SIGNALBOX`` and the environment variable ``SIGNALBOX_DISABLED``: types, defaults and validation.

Each key is a field of one of the dataclasses below, with its type, default and rule. The setting is read when it is
used and never changed.

It is longer than other modules because each key has its rule, its documentation and its errors in one place.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from difflib import get_close_matches
from typing import Any, Final, Literal, NamedTuple, TypeAlias, TypeGuard, TypeVar, cast, get_args

from django.conf import settings

PRESETS: Final = ("all", "audit")
"""``"all"`` records every signal. ``"audit"`` records data changes, logins and errors."""

DEFAULT_IGNORE: Final = (
    "sessions",
    "admin.LogEntry",
    "contenttypes",
    "migrations",
    "staticfiles",
    "signalbox",
)
"""Senders that are ignored by default: app labels, or models as ``app.Model``."""

DASHBOARD_PATHS: Final = "dashboard"

DEFAULT_IGNORE_PATHS: Final = ("static", "media", "/favicon.ico", DASHBOARD_PATHS)
"""Paths whose requests are ignored by default. See ``Config.IGNORE_PATHS``."""

PATH_NAMES: Final = ("static", "media", DASHBOARD_PATHS)
"""Entries of ``IGNORE_PATHS`` that are names of paths, not globs."""

BulkMode: TypeAlias = Literal["keys", "rows", "count", "off"]
ErrorPolicy: TypeAlias = Literal["log", "raise"]
AutocommitMode: TypeAlias = Literal["atomic", "after"]
Dispatcher: TypeAlias = Literal["worker", "celery", "tasks", "immediate"]


MAX_DAYS: Final = 36_500
"""Maximum number of days of a retention rule: a hundred years."""

# ------------------------------------------------------------------ rules


class _Rule(NamedTuple):
    """The values that a key accepts."""

    expected: str
    """What an error message says was expected."""
    accepts: Callable[[object], bool]


def _rule(expected: str, accepts: Callable[[object], bool]) -> dict[str, _Rule]:
    """Return a rule as metadata of a dataclass field."""
    return {"rule": _Rule(expected, accepts)}


def _choice(literal: Any) -> dict[str, _Rule]:
    """Return the rule of a key that accepts the values of a ``Literal`` type."""
    values = get_args(literal)
    *others, last = (f'"{value}"' for value in values)
    return _rule(f"{', '.join(others)} or {last}", lambda value: value in values)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_string_list(value: object) -> bool:
    return isinstance(value, list | tuple | set | frozenset) and all(isinstance(item, str) for item in value)


def _is_path_list(value: object) -> bool:
    return _is_string_list(value) and all(map(_is_path, cast("Iterable[str]", value)))


def _is_path(entry: str) -> bool:
    """Return True for a name, and for a glob that can match a path: one that begins with a slash or a wildcard."""
    return entry in PATH_NAMES or entry.startswith(("/", "*", "?", "["))


def _is_record(value: object) -> bool:
    return value in PRESETS if isinstance(value, str) else _is_string_list(value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_processor_list(value: object) -> bool:
    return isinstance(value, list | tuple) and all(map(_is_processor, value))


def _is_processor(entry: object) -> bool:
    """Return True for a dotted path, a dict that names one, a class or an object."""
    if isinstance(entry, Mapping):
        known = entry.keys() <= {"PROCESSOR", "OPTIONS"} and isinstance(entry.get("OPTIONS", {}), Mapping)
        return known and isinstance(entry.get("PROCESSOR"), str | type)
    return not isinstance(entry, bool | int | float | None)


def _is_period(value: object) -> bool:
    return value is None or (_is_number(value) and 0 <= value <= MAX_DAYS)


def _is_uri_reference(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[!-~]*", value) is not None and not set(value) & set('<>"{}|\\^`')


_STRINGS: Final = _rule("a list of strings", _is_string_list)
_BOOLEAN: Final = _rule("True or False", lambda value: isinstance(value, bool))
_SECONDS: Final = _rule("a number of seconds above 0", lambda value: _is_number(value) and value > 0)


# ------------------------------------------------------------------ keys


@dataclass(frozen=True, kw_only=True, slots=True)
class DurableConfig:
    """The keys of ``SIGNALBOX["DURABLE"]``: how durable receivers run."""

    DISPATCHER: Dispatcher = field(default="worker", metadata=_choice(Dispatcher))
    """What runs deliveries: ``manage.py signalbox work``, Celery, Django's Tasks, or the process itself."""
    LEASE: float = field(default=30, metadata=_SECONDS)
    """Seconds without a renewal after which another worker may run a delivery."""
    REDISPATCH: float = field(default=60, metadata=_SECONDS)
    """Seconds after which a delivery that was sent to Celery or to Tasks and did not start is sent again."""
    UNKNOWN_AFTER: float = field(default=86_400, metadata=_SECONDS)
    """Seconds after which a delivery that no worker's code can run becomes a dead letter."""
    MAX_CHAIN: int = field(
        default=25,
        metadata=_rule("a number of deliveries, 1 or more", lambda value: _is_count(value) and value != 0),
    )
    """Maximum number of deliveries in a chain, each caused by the receiver of the one before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DashboardConfig:
    """The keys of ``SIGNALBOX["DASHBOARD"]``: what the pages show."""

    SHOW_SOURCE: bool = field(default=False, metadata=_BOOLEAN)
    """Whether the pages show the source code of receivers."""
    ADMIN_HISTORY: bool = field(default=False, metadata=_BOOLEAN)
    """Whether the admin page of every model links to the history of the object."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """The keys of ``SIGNALBOX``."""

    RECORD: str | tuple[str, ...] = field(
        default="all", metadata=_rule('"all", "audit" or a list of signal names', _is_record)
    )
    """A preset, or the names of signals and groups to record (``"post_save"``, ``"auth"``, ``"shop.signals.paid"``)."""
    IGNORE: tuple[str, ...] = field(default=DEFAULT_IGNORE, metadata=_STRINGS)
    """Senders that are not recorded: app labels, or models as ``app.Model``."""
    IGNORE_PATHS: tuple[str, ...] = field(
        default=DEFAULT_IGNORE_PATHS,
        metadata=_rule(
            'a list of globs that begin with "/" or "*", or of the names "static", "media" and "dashboard"',
            _is_path_list,
        ),
    )
    """Paths whose requests are not recorded, except for their writes: globs, or ``"static"`` (``STATIC_URL``),
    ``"media"`` (``MEDIA_URL``) and ``"dashboard"`` (where ``signalbox.urls`` is included)."""
    MODELS: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Options by model, as ``app.Model``: ``exclude``, ``redact`` and ``clear`` list fields, ``record`` and
    ``old_values`` can be ``False``."""
    REDACT: tuple[str, ...] = field(default=(), metadata=_STRINGS)
    """More names of fields, arguments and keys whose values are not stored."""
    BULK: BulkMode = field(default="keys", metadata=_choice(BulkMode))
    """What a bulk operation records: ``"keys"`` one event with keys, ``"rows"`` one event per row, ``"count"`` one
    event with the number of rows, whose statement is not changed, ``"off"`` none."""
    AUTOCOMMIT: AutocommitMode = field(default="atomic", metadata=_choice(AutocommitMode))
    """How a write in autocommit is recorded: ``"atomic"`` runs it in a transaction with its event, ``"after"`` writes
    the event after the statement, and a crash may lose the events of the last moments."""
    ON_ERROR: ErrorPolicy = field(default="log", metadata=_choice(ErrorPolicy))
    """When events can't be written: ``"log"`` commits the transaction without them, ``"raise"`` rolls it back."""
    LOCK_TIMEOUT: float = field(default=0.5, metadata=_SECONDS)
    """Seconds that a transaction waits at most for a lock on the tables of events. The event is then written later."""
    TRUSTED_PROXIES: int = field(default=0, metadata=_rule("a number of proxies, 0 or more", _is_count))
    """Number of proxies in front of the site that append to ``X-Forwarded-For``. 0 ignores the header."""
    CLOUDEVENTS_SOURCE: str = field(
        default="", metadata=_rule("a URI, as https://shop.example/, in ASCII characters", _is_uri_reference)
    )
    """Attribute ``source`` of exported CloudEvents. Empty for a path with the project's name."""
    PROCESSORS: tuple[Any, ...] = field(
        default=(),
        metadata=_rule('a list of dotted paths, or dicts with "PROCESSOR" and "OPTIONS"', _is_processor_list),
    )
    """Event processors of the project: dotted paths of subclasses of ``signalbox.EventProcessor``."""
    SEND_SPANS: bool = field(default=False, metadata=_BOOLEAN)
    """Whether ``signalbox.contrib.opentelemetry`` starts a span for each send with receivers."""
    RETENTION: Mapping[str, float | None] = field(default_factory=dict)
    """Days for which rows are stored, by model, signal, group or table; ``None`` keeps them for ever. Without an entry
    nothing is deleted."""
    DURABLE: DurableConfig = field(default_factory=DurableConfig)
    DASHBOARD: DashboardConfig = field(default_factory=DashboardConfig)

    def __post_init__(self) -> None:
        for key in ("RECORD", "IGNORE", "IGNORE_PATHS", "REDACT", "PROCESSORS"):
            value = getattr(self, key)
            if isinstance(value, list | set | frozenset):
                object.__setattr__(self, key, tuple(value))


SECTIONS: Final[dict[str, type[DurableConfig | DashboardConfig]]] = {
    "DURABLE": DurableConfig,
    "DASHBOARD": DashboardConfig,
}
"""The keys whose value is a dict with keys of its own, by name."""

KEYS: Final = tuple(found.name for found in fields(Config))
"""The keys at the top level."""

PATHS: Final = tuple(
    path
    for key in KEYS
    for path in ([(key, nested.name) for nested in fields(SECTIONS[key])] if key in SECTIONS else [(key,)])
)
"""Every key that has a value, as a path: ``("BULK",)``, ``("DURABLE", "LEASE")``."""


# ------------------------------------------------------------------ reading


@dataclass(slots=True)
class _Cache:
    """The setting that was read last and its configuration. ``override_settings`` assigns another dict."""

    raw: object = field(default_factory=object)
    config: Config = field(default_factory=Config)


_cache = _Cache()


def get() -> Config:
    """Return the current configuration.

    It leaves out unknown keys and uses the default for a value that is not valid. Of ``REDACT`` and ``MODELS`` it uses
    the valid entries. ``RETENTION`` is empty if one entry is not valid, so that nothing is deleted by mistake. The
    system checks report the errors.
    """
    raw = getattr(settings, "SIGNALBOX", None)
    if raw is not _cache.raw:
        _cache.config = parse(raw)
        _cache.raw = raw
    return _cache.config


FIELD_OPTIONS: Final = ("exclude", "redact", "clear")
"""Options of a model that list fields: not recorded, redacted, and encrypted by a package but stored in clear text."""

configured_models: Final[dict[str, Mapping[str, Any]]] = {}
"""Options that code has set, by the model's label in lower case. ``MODELS`` takes precedence."""


def get_model_options(label: str) -> Mapping[str, Any]:
    """Return the options of the model with this label in lower case, without those of its parents."""
    options = next((own for name, own in get().MODELS.items() if name.lower() == label), {})
    return {**configured_models.get(label, {}), **options}


def get_fields_by_option(option: Literal["exclude", "redact", "clear"]) -> dict[str, frozenset[str]]:
    """Return the fields that ``option`` lists, by the model's label in lower case."""
    labels = {*configured_models, *(name.lower() for name in get().MODELS)}
    return {label: frozenset(names) for label in labels if (names := get_model_options(label).get(option))}


ConfigT = TypeVar("ConfigT", bound=Config | DurableConfig | DashboardConfig)


def parse(raw: object) -> Config:
    """Return the configuration that ``raw`` describes, without the entries that ``get_errors`` reports.

    The valid entries of ``REDACT`` and ``MODELS`` are used, as one that is not valid must not expose the others.
    """
    return _parse_keys(Config, raw)


def _parse_keys(cls: type[ConfigT], raw: object) -> ConfigT:
    given = raw if isinstance(raw, Mapping) else {}
    values: dict[str, Any] = {}
    for found in fields(cls):
        key = found.name
        if key not in given:
            continue
        rule: _Rule | None = found.metadata.get("rule")
        if cls is Config and key in SECTIONS:
            values[key] = _parse_keys(SECTIONS[key], given[key])
        elif key == "MODELS":
            values[key] = given[key] if _is_valid_models(given[key]) else _get_valid_models(given[key])
        elif key == "RETENTION":
            values[key] = dict(given[key]) if _is_valid_retention(given[key]) else {}
        elif rule is not None and rule.accepts(given[key]):
            values[key] = given[key]
        elif key == "REDACT":
            values[key] = _get_valid_strings(given[key])
    return cls(**values)


def _get_valid_strings(value: object) -> tuple[str, ...]:
    """Return the strings in ``value``; a single string counts as a list of one."""
    if isinstance(value, str):
        return (value,)
    is_list = isinstance(value, list | tuple | set | frozenset)
    return tuple(item for item in cast("Iterable[object]", value) if isinstance(item, str)) if is_list else ()


def _is_valid_models(value: object) -> bool:
    return isinstance(value, Mapping) and next(_iter_model_errors(value), None) is None


def _is_valid_retention(value: object) -> bool:
    return isinstance(value, Mapping) and next(_iter_retention_errors(value), None) is None


def _get_valid_models(value: object) -> dict[str, dict[str, Any]]:
    """Return the valid options in ``value``, by model."""
    found: dict[str, dict[str, Any]] = {}
    for label, options in value.items() if isinstance(value, Mapping) else ():
        if _is_model_label(label) and isinstance(options, Mapping):
            lists = {key: _get_valid_strings(options[key]) for key in FIELD_OPTIONS if key in options}
            flags = {key: options[key] for key in ("record", "old_values") if isinstance(options.get(key), bool)}
            found[label] = {**lists, **flags}
    return found


# ------------------------------------------------------------------ errors


class SettingError(NamedTuple):
    """An error in the setting."""

    path: tuple[object, ...]
    """The keys that lead to the value, from the top; empty for the setting itself."""
    message: str
    hint: str
    """Advice for the user."""


def format_path(path: Iterable[object]) -> str:
    """Return a path as Python code: ``SIGNALBOX["DURABLE"]["LEASE"]``."""
    return "SIGNALBOX" + "".join(f"[{_format_value(key)}]" for key in path)


def get_errors(raw: object) -> list[SettingError]:
    """Return the errors in ``raw``, the value of the setting."""
    if raw is None:
        return []
    if not isinstance(raw, Mapping):
        return [_build_error((), raw, "a dict", 'Write SIGNALBOX = {"RECORD": "all"}.')]
    return list(_iter_errors(Config, raw, ()))


def _iter_errors(cls: type[Any], raw: Mapping[Any, Any], section: tuple[str, ...]) -> Iterator[SettingError]:
    found = {one.name: one for one in fields(cls)}
    for key, value in raw.items():
        path = (*section, key)
        if key not in found:
            yield SettingError(path, f"{format_path(path)} is not a known key.", _suggest_key(section, str(key)))
        elif key in _ENTRY_ERRORS:
            iter_entry_errors, hint = _ENTRY_ERRORS[key]
            yield from (
                iter_entry_errors(value) if isinstance(value, Mapping) else (_build_error(path, value, "a dict", hint),)
            )
        elif not section and key in SECTIONS:
            if isinstance(value, Mapping):
                yield from _iter_errors(SECTIONS[key], value, (key,))
            else:
                names = ", ".join(one.name for one in fields(SECTIONS[key]))
                yield _build_error(path, value, "a dict", f"Its keys are {names}. Each is optional.")
        elif not (rule := found[key].metadata["rule"]).accepts(value):
            used = "" if found[key].default is MISSING else f" to use {_format_default(found[key].default)}"
            yield _build_error(path, value, rule.expected, f"Correct the value, or remove the key{used}.")


def _build_error(path: tuple[object, ...], value: object, expected: str, hint: str) -> SettingError:
    return SettingError(path, f"{format_path(path)} is {_format_value(value)}. Expected {expected}.", hint)


_MODEL_RULES: Final = {
    "exclude": _STRINGS["rule"],
    "redact": _STRINGS["rule"],
    "clear": _STRINGS["rule"],
    "record": _BOOLEAN["rule"],
    "old_values": _BOOLEAN["rule"],
}
_MODELS_HINT: Final = 'Write "MODELS": {"shop.Order": {"exclude": ["note"], "redact": ["total"], "record": True}}.'


def _is_model_label(label: object) -> TypeGuard[str]:
    return isinstance(label, str) and label.count(".") == 1


def _iter_model_errors(value: Mapping[Any, Any]) -> Iterator[SettingError]:
    for label, options in value.items():
        path = ("MODELS", label)
        if not _is_model_label(label):
            yield SettingError(path, f"{format_path(path)} does not name a model. Expected app.Model.", _MODELS_HINT)
        elif not isinstance(options, Mapping):
            yield _build_error(path, options, "a dict", _MODELS_HINT)
        else:
            for key, option in options.items():
                if key not in _MODEL_RULES:
                    hint = _suggest_model_option(str(key))
                    yield SettingError((*path, key), f"{format_path((*path, key))} is not a known key.", hint)
                elif not _MODEL_RULES[key].accepts(option):
                    yield _build_error((*path, key), option, _MODEL_RULES[key].expected, _MODELS_HINT)


_RETENTION_HINT: Final = 'Write "RETENTION": {"events": 90, "traces": 90, "deliveries": 7, "shop.Order": None}.'


def _iter_retention_errors(value: Mapping[Any, Any]) -> Iterator[SettingError]:
    """Yield the errors in the types of the rules. ``retention.rules`` finds unknown names."""
    for name, days in value.items():
        path = ("RETENTION", name)
        if not isinstance(name, str) or not name:
            message = f"{format_path(path)} does not name a model, a signal, a group or a table. Expected a text."
            yield SettingError(path, message, _RETENTION_HINT)
        elif not _is_period(days):
            yield _build_error(path, days, f"a number of days from 0 to {MAX_DAYS}, or None", _RETENTION_HINT)


_ENTRY_ERRORS: Final[Mapping[str, tuple[Callable[[Mapping[Any, Any]], Iterator[SettingError]], str]]] = {
    "MODELS": (_iter_model_errors, _MODELS_HINT),
    "RETENTION": (_iter_retention_errors, _RETENTION_HINT),
}
"""The keys whose value is a dict with names of the project: its errors, and a hint."""


def _suggest_model_option(key: str) -> str:
    """Return a hint with the option of a model that was probably meant by ``key``."""
    close = get_close_matches(key.lower(), _MODEL_RULES, n=1)
    return f"Did you mean {_format_value(close[0])}?" if close else f"Known keys: {', '.join(_MODEL_RULES)}."


def is_valid_model_options(options: Mapping[str, Any]) -> bool:
    """Return whether ``options`` are valid as the options of a model."""
    return all(key in _MODEL_RULES and _MODEL_RULES[key].accepts(value) for key, value in options.items())


def _format_value(value: object) -> str:
    """Return ``value`` for a message: strings and numbers in full, others by type, as they may contain a secret."""
    if isinstance(value, str):
        return json.dumps(value[:80], ensure_ascii=False)
    return repr(value)[:80] if isinstance(value, int | float | bool | None) else f"a {type(value).__name__}"


def _format_default(default: object) -> str:
    return "the default" if isinstance(default, tuple) and default else f"the default, {_format_value(default)}"


def _suggest_key(section: tuple[str, ...], key: str) -> str:
    """Return a hint with the key that was probably meant by ``key`` in ``section``."""
    name = key.upper()
    if name == "RETENTION_DAYS":
        return 'Write SIGNALBOX["RETENTION"]["deliveries"] instead.'
    known = {path[-1]: path for path in PATHS if path[:-1] == section}
    if not section:
        known.update({key: (key,) for key in SECTIONS})
    elsewhere = {path[-1]: path for path in PATHS}
    target = known.get(name) or elsewhere.get(name)
    for names in (known, elsewhere) if target is None else ():
        if close := get_close_matches(name, names, n=1):
            target = names[close[0]]
            break
    if target is None:
        return f"Known keys: {', '.join(known)}."
    return f"Did you mean {_format_value(target[-1]) if target[:-1] == section else format_path(target)}?"


# ------------------------------------------------------------------ the environment

DISABLED_VARIABLE: Final = "SIGNALBOX_DISABLED"
"""The environment variable that switches recording off."""
DISABLED_VALUES: Final = ("1", "true", "yes")
ENABLED_VALUES: Final = ("", "0", "false", "no")


def is_disabled() -> bool:
    """Return whether the environment switches recording off. An unknown value does not."""
    return _read_disabled_variable() in DISABLED_VALUES


def get_environment_error() -> str | None:
    """Return the error in the value of ``SIGNALBOX_DISABLED``; ``None`` if it is valid."""
    value = _read_disabled_variable()
    if value in DISABLED_VALUES or value in ENABLED_VALUES:
        return None
    shown = _format_value(os.environ[DISABLED_VARIABLE])
    return f"The environment variable {DISABLED_VARIABLE} is {shown}, which is not a known value. Recording is on."


def _read_disabled_variable() -> str:
    return os.environ.get(DISABLED_VARIABLE, "").strip().lower()


__all__ = ["DEFAULT_IGNORE_PATHS"]
