"""The one setting, ``SIGNALBOX``: typed, read on use, never written to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal, TypeGuard, cast

from django.conf import settings

PRESETS: Final = ("all", "audit")
"""``"all"``: every signal. ``"audit"``: what changed data, who came in, what failed."""

DEFAULT_IGNORE: Final = (
    "sessions",
    "admin.LogEntry",
    "contenttypes",
    "migrations",
    "staticfiles",
    "signalbox",
)
"""Senders that are bookkeeping rather than news: app labels, or models as ``app.Model``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """The keys of ``SIGNALBOX``, each with its default."""

    RECORD: str | tuple[str, ...] = "all"
    """A preset, or the names of signals and groups to record (``"post_save"``, ``"auth"``, ``"shop.signals.paid"``)."""
    IGNORE: tuple[str, ...] = DEFAULT_IGNORE
    """Senders that are not recorded: app labels, or models as ``app.Model``."""
    ON_ERROR: Literal["log", "raise"] = "log"
    """What a failing write of events does: ``"log"`` keeps the application's rows, ``"raise"`` rolls them back."""
    BULK: Literal["keys", "rows", "off"] = "keys"
    """What a bulk operation makes: ``"keys"`` one event with the keys, ``"rows"`` one event each, ``"off"`` none."""
    TRUSTED_PROXIES: int = 0
    """How many proxies in front of the site append to ``X-Forwarded-For``; 0 leaves the header unread."""
    ENGINE: Literal["worker", "celery", "tasks", "immediate"] = "worker"
    """Who runs durable receivers: ``manage.py signalbox work``, Celery's workers, a backend of Django's Tasks, or for
    development the process itself, right after the commit."""
    KEEP_DELIVERIES: float = 7
    """Days for which deliveries that are done are kept; 0 deletes them at once. Dead ones stay."""
    LEASE: float = 30
    """Seconds after which a delivery whose worker says nothing any more is run by another."""
    REDISPATCH: float = 60
    """Seconds after which a message to an engine that led to nothing is sent again."""
    SHOW_SOURCE: bool = False
    """Whether the page's map shows the source of receivers."""
    ADMIN_HISTORY: bool = False
    """Whether every model's page in the admin has a button that leads to the object's history here."""
    REDACT: tuple[str, ...] = ()
    """More names of fields, arguments and keys whose values are never stored."""
    MODELS: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By model, as ``app.Model``: ``exclude`` and ``redact`` list fields, ``record`` is ``False`` to leave it out."""
    KEEP: str | Callable[[Mapping[str, Any]], Any] | None = None
    """A callable, or its dotted path, that may drop an event or add to it."""

    def __post_init__(self) -> None:
        for key in ("RECORD", "IGNORE", "REDACT"):
            value = getattr(self, key)
            if isinstance(value, list | set | frozenset):
                object.__setattr__(self, key, tuple(value))


KEYS: Final = tuple(f.name for f in fields(Config))


@dataclass(slots=True)
class _Cache:
    """The last setting seen, by identity, with its reading: ``override_settings`` puts another dict in its place."""

    raw: object = field(default_factory=object)
    config: Config = field(default_factory=Config)


_cache = _Cache()


def get() -> Config:
    """Return the configuration in force; keys that are unknown are left out, those of the wrong kind fall back to their
    defaults, but for what is right in them of what is to be kept secret.

    What is wrong is said by the system checks; recording goes on with what is right.
    """
    # Django keeps what it was asked for in the instance; its own way there takes ten times as long.
    kept = object.__getattribute__(settings, "__dict__")
    raw = kept["SIGNALBOX"] if "SIGNALBOX" in kept else getattr(settings, "SIGNALBOX", None)
    if raw is not _cache.raw:
        _cache.config = parse(raw)
        _cache.raw = raw
    return _cache.config


configured_models: Final[dict[str, Mapping[str, Any]]] = {}
"""What code said of models, by label in lower case: the same as ``MODELS``, which wins."""


def get_model_options(label: str) -> Mapping[str, Any]:
    """Return what was said of the model with this label in lower case, of no other."""
    said = next((own for name, own in get().MODELS.items() if name.lower() == label), {})
    return {**configured_models.get(label, {}), **said}


def get_fields_by_option(option: Literal["exclude", "redact"]) -> dict[str, frozenset[str]]:
    """Return the fields that ``option`` lists, by model's label in lower case."""
    labels = {*configured_models, *(name.lower() for name in get().MODELS)}
    return {label: frozenset(fields) for label in labels if (fields := get_model_options(label).get(option))}


def parse(raw: object) -> Config:
    """Return the configuration that ``raw`` says, leaving out what ``problems`` complains about.

    Of what is to be kept secret the entries that are right stay: one that is wrong must not lay the others open.
    """
    if not isinstance(raw, Mapping):
        return Config()
    wrong = {key for key, _, _ in get_errors(raw)}
    found: dict[str, Any] = {key: raw[key] for key in KEYS if key in raw and key not in wrong}
    if "REDACT" in wrong:
        found["REDACT"] = _get_valid_strings(raw["REDACT"])
    if "MODELS" in wrong:
        found["MODELS"] = _get_valid_models(raw["MODELS"])
    return Config(**found)


def _get_valid_strings(value: object) -> tuple[str, ...]:
    """Return the texts in ``value``; one that stands alone is meant as a list of one."""
    if isinstance(value, str):
        return (value,)
    many = isinstance(value, list | tuple | set | frozenset)
    return tuple(item for item in cast("Iterable[object]", value) if isinstance(item, str)) if many else ()


def _get_valid_models(value: object) -> dict[str, dict[str, Any]]:
    """Return what is said in ``value`` of models, without what can't be said of one."""
    found: dict[str, dict[str, Any]] = {}
    for label, options in value.items() if isinstance(value, Mapping) else ():
        if isinstance(label, str) and label.count(".") == 1 and isinstance(options, Mapping):
            right = {key: _get_valid_strings(options[key]) for key in ("exclude", "redact") if key in options}
            kept = {"record": options["record"]} if isinstance(options.get("record"), bool) else {}
            found[label] = {**right, **kept}
    return found


def get_errors(raw: object) -> list[tuple[str, str, str]]:
    """Return what is wrong with ``raw`` as ``(key, what is wrong, remedy)``."""
    if raw is None:
        return []
    if not isinstance(raw, Mapping):
        return [
            ("", f"SIGNALBOX is {_format_value(raw)}; a dict was expected.", 'Write SIGNALBOX = {"RECORD": "all"}.')
        ]
    found = []
    for key, value in raw.items():
        if key not in KEYS:
            found.append((str(key), f"SIGNALBOX has no key {key!r}.", _suggest_key(str(key))))
        elif (expected := _get_expected(key, value)) is not None:
            found.append(
                (
                    key,
                    f"SIGNALBOX[{key!r}] is {_format_value(value)}; {expected} was expected.",
                    f"See the setting {key}.",
                )
            )
    return found


def _get_expected(key: str, value: object) -> str | None:
    """Return what should stand at ``key``, or ``None`` where ``value`` is right."""
    match key:
        case "RECORD":
            right = value in PRESETS if isinstance(value, str) else _is_string_list(value)
            return None if right else '"all", "audit" or a list of signal names'
        case "IGNORE" | "REDACT":
            return None if _is_string_list(value) else "a list of texts"
        case "SHOW_SOURCE" | "ADMIN_HISTORY":
            return None if isinstance(value, bool) else "True or False"
        case "ON_ERROR":
            return None if value in ("log", "raise") else '"log" or "raise"'
        case "BULK":
            return None if value in ("keys", "rows", "off") else '"keys", "rows" or "off"'
        case "MODELS":
            return None if _is_valid_models(value) else _MODELS_FORMAT
        case "KEEP":
            right = value is None or isinstance(value, str) or callable(value)
            return None if right else "a callable or its dotted path"
        case "ENGINE":
            return (
                None
                if value in ("worker", "celery", "tasks", "immediate")
                else '"worker", "celery", "tasks" or "immediate"'
            )
        case "KEEP_DELIVERIES":
            return None if _is_number(value) and value >= 0 else "a number of days, 0 or more,"
        case "LEASE" | "REDISPATCH":
            return None if _is_number(value) and value > 0 else "a number of seconds above 0"
        case "TRUSTED_PROXIES":
            right = isinstance(value, int) and not isinstance(value, bool) and value >= 0
            return None if right else "a number of proxies, 0 or more,"
    raise AssertionError(key)  # pragma: no cover - a key of Config without a rule


_MODELS_FORMAT: Final = 'a dict as {"shop.Order": {"exclude": [...], "redact": [...], "record": True}}'


def _is_valid_models(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(label, str)
        and label.count(".") == 1
        and isinstance(options, Mapping)
        and is_valid_model_options(options)
        for label, options in value.items()
    )


def is_valid_model_options(options: Mapping[str, Any]) -> bool:
    """Tell whether ``options`` says of a model what can be said of one."""
    return all(
        _is_string_list(value) if key in ("exclude", "redact") else key == "record" and isinstance(value, bool)
        for key, value in options.items()
    )


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_string_list(value: object) -> bool:
    return isinstance(value, list | tuple | set | frozenset) and all(isinstance(item, str) for item in value)


def _format_value(value: object) -> str:
    """Return ``value`` for a message: texts and numbers as they are, others by type, as a setting may hold a secret."""
    return repr(value)[:80] if isinstance(value, str | int | float | bool | None) else f"a {type(value).__name__}"


def _suggest_key(key: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(key.upper(), KEYS, n=1)
    return f"Did you mean {close[0]!r}?" if close else f"Known keys: {', '.join(KEYS)}."
