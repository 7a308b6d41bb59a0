"""System checks of the setting and the installation. Other packages define their own."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache, wraps
from typing import TYPE_CHECKING, Any

import django
from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags
from django.core.checks import Warning as CheckWarning
from django.core.checks import register as register_check

from signalbox import conf
from signalbox.core import catalog, naming
from signalbox.instrumentation import model_metadata, patches, patching
from signalbox.outbox import receiver_checks as delivery
from signalbox.outbox import registry
from signalbox.pipeline import configured_processors
from signalbox.retention import rules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from signalbox.instrumentation.patches import Patch

TAG = "signalbox"


def register_checks() -> None:
    """Register the checks of ``manage.py check``."""
    for check in (
        check_setting,
        check_environment,
        check_names,
        check_processors,
        check_installation_order,
        check_patches,
        delivery.check_receivers,
        delivery.check_dispatcher,
        delivery.check_recording_enabled,
    ):
        register_check(_limit_to_own_app(check), TAG)
    register_check(_limit_to_own_app(check_production), TAG, deploy=True)
    register_check(run_doctor_checks, TAG)
    register_check(delivery.check_unknown_receivers, Tags.database)


@cache
def _limit_to_own_app(check: Callable[..., list[CheckMessage]]) -> Callable[..., list[CheckMessage]]:
    """Return a check that has no messages if other apps are checked, as by ``manage.py check shop``."""

    @wraps(check)
    def limited(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
        if app_configs is not None and all(config.name != "signalbox" for config in app_configs):
            return []
        return check(app_configs, **kwargs)

    return limited


def run_doctor_checks(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """D: findings of the doctor, which is imported here because a server does not need it."""
    if not apps.is_installed("signalbox"):  # a test limits the current apps
        return []
    from signalbox.doctor import system_check

    return system_check.check_signal_receivers(app_configs, **kwargs)


def check_setting(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """E001: a key or value of ``SIGNALBOX`` is not valid."""
    raw = getattr(settings, "SIGNALBOX", None)
    errors = conf.get_errors(raw)
    retention = raw.get("RETENTION") if isinstance(raw, Mapping) else None
    if isinstance(retention, Mapping) and not apps.stored_app_configs:  # a test limits the current apps
        errors += rules.find_unknown_names(retention)
    return [
        Error(message, hint=hint, obj=conf.format_path(path), id="signalbox.E001") for path, message, hint in errors
    ]


def check_production(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """W014, W015, of ``check --deploy``: every send is recorded, or events are stored without a limit."""
    config = conf.get()
    found: list[CheckMessage] = []
    if config.RECORD == "all":
        found.append(
            CheckWarning(
                'SIGNALBOX["RECORD"] is "all", which records every send, even in requests that only read.',
                hint='Set it to "audit" to record data changes, logins and errors.',
                obj='SIGNALBOX["RECORD"]',
                id="signalbox.W014",
            )
        )
    if not config.RETENTION:
        found.append(
            CheckWarning(
                'SIGNALBOX["RETENTION"] is not set, so events are never deleted.',
                hint="Set the number of days after which events are deleted.",
                obj='SIGNALBOX["RETENTION"]',
                id="signalbox.W015",
            )
        )
    return found


def check_environment(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """W006: the value of ``SIGNALBOX_DISABLED`` is not known."""
    message = conf.get_environment_error()
    if message is None:
        return []
    return [CheckWarning(message, hint="Set it to 1 to switch recording off, or to 0.", id="signalbox.W006")]


def check_names(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """W004, W005: the setting names a signal, an app, a model or a field that does not exist."""
    if apps.stored_app_configs:  # a test limits the current apps
        return []
    config = conf.get()
    groups = {entry.group for entry in catalog.BUILTIN_SIGNALS.values()} | {"custom"}
    known = catalog.BUILTIN_SIGNALS.keys() | groups | set(naming.get_tracked_signals().values())
    found: list[CheckMessage] = [
        CheckWarning(
            f'SIGNALBOX["RECORD"] names {name!r}, which is not a known signal.',
            hint=_suggest_signal(name, known | naming.get_sibling_signals(name)),
            obj='SIGNALBOX["RECORD"]',
            id="signalbox.W004",
        )
        for name in (() if isinstance(config.RECORD, str) else config.RECORD)
        if name not in known and not _may_be_defined(name)
    ]
    labels = {config.label for config in apps.get_app_configs()} | set(conf.DEFAULT_IGNORE)
    models = {model._meta.label.lower() for model in apps.get_models(include_auto_created=True)}
    found += [
        CheckWarning(
            f'SIGNALBOX["{key}"] names {name!r}, which is not an installed app or model.',
            hint="Name an app by its label, a model as app.Model.",
            obj=f'SIGNALBOX["{key}"]',
            id="signalbox.W005",
        )
        for key, names in (("IGNORE", config.IGNORE), ("MODELS", config.MODELS))
        for name in names
        if name not in labels and name.lower() not in models
    ]
    found += [
        CheckWarning(
            f'SIGNALBOX["MODELS"] names {field!r}, which is not a recordable field of {label}.',
            hint=_suggest_match(field, known_fields) or f"It has {', '.join(sorted(known_fields))}.",
            obj='SIGNALBOX["MODELS"]',
            id="signalbox.W005",
        )
        for label, options in config.MODELS.items()
        if label.lower() in models
        for known_fields in [model_metadata.get_recordable_fields(apps.get_model(label))]
        for field in (name for option in conf.FIELD_OPTIONS for name in options.get(option, ()))
        if field not in known_fields
    ]
    return found


def _may_be_defined(name: str) -> bool:
    """Return whether the module of ``name`` has this signal, or is not imported yet."""
    module, dot, _ = name.rpartition(".")
    return bool(dot) and (module not in sys.modules or name in naming.get_sibling_signals(name))


def check_processors(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """E002: an event processor of the setting can't be used."""
    return [
        Error(
            f'SIGNALBOX["PROCESSORS"]: {configured_processors.format_entry(entry)} {reason}. '
            "Events are recorded without it.",
            hint='Name a subclass of signalbox.EventProcessor by its dotted path, such as "shop.recording.AddTenant".',
            obj='SIGNALBOX["PROCESSORS"]',
            id="signalbox.E002",
        )
        for entry, reason in configured_processors.get_errors()
    ]


def _suggest_signal(name: str, known: Iterable[str]) -> str:
    return (
        _suggest_match(name, known)
        or "Name one of Django's signals, a group of them, or a signal of your own by its dotted name."
    )


def _suggest_match(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, known, n=1)
    return f"Did you mean {close[0]!r}?" if close else ""


def check_patches(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """W007, W008, E012: this version of Django was not checked, and methods that recording replaces have changed."""
    if patching.is_checked():
        return []
    version = f"Django {django.VERSION[0]}.{django.VERSION[1]}"
    inapplicable = patching.find_inapplicable()
    found: list[CheckMessage] = [
        CheckWarning(
            f"{patch.target} has other parameters in {version} and is not replaced. Not recorded: "
            f"{patch.lost_without}.",
            hint="Upgrade django-signalbox.",
            obj=patch.target,
            id="signalbox.W008",
        )
        for patch in inapplicable
    ]
    found += _find_receivers_without_patch(inapplicable, version)
    found.append(
        CheckWarning(
            f"Signalbox was not tested with {version}, only with Django {', '.join(patches.CHECKED_VERSIONS)}.",
            hint="Upgrade django-signalbox.",
            id="signalbox.W007",
        )
    )
    return found


def _find_receivers_without_patch(inapplicable: Sequence[Patch], version: str) -> Iterator[CheckMessage]:
    by_signal = patching.find_dependent_signals(inapplicable)
    needed: dict[str, dict[str, None]] = {}
    for signal, _, durable in registry.get_subscriptions():
        for patch in (*by_signal.get(signal, ()), *by_signal.get(patches.EVERY_SIGNAL, ())):
            needed.setdefault(durable.name, {})[patch.target] = None
    for name, targets in needed.items():
        yield Error(
            f"The durable receiver {name} does not get all events in {version}, because it depends on "
            f"{', '.join(targets)}.",
            hint="Upgrade django-signalbox, or use an earlier version of Django.",
            id="signalbox.E012",
        )


def check_installation_order(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """W001 to W003: the app is not first, or the middleware is missing or not first."""
    if not apps.is_installed("signalbox"):  # a test limits the current apps
        return []
    found: list[CheckMessage] = []
    names = [config.name for config in apps.get_app_configs()]
    if "signalbox" in names[1:]:
        before = names[: names.index("signalbox")]
        found.append(
            CheckWarning(
                f"Signals that {', '.join(before)} may send before recording starts are not recorded.",
                hint='Put "signalbox" first in INSTALLED_APPS.',
                id="signalbox.W001",
            )
        )
    middleware = list(getattr(settings, "MIDDLEWARE", None) or [])
    ours = "signalbox.middleware.TraceMiddleware"
    if ours not in middleware:
        found.append(
            CheckWarning(
                "Requests are recorded without their view, status and user.",
                hint=f'Put "{ours}" first in MIDDLEWARE.',
                id="signalbox.W002",
            )
        )
    elif middleware[0] != ours:
        found.append(
            CheckWarning(
                f"Changes of a response by {middleware[0]} are not recorded.",
                hint=f'Put "{ours}" first in MIDDLEWARE.',
                id="signalbox.W003",
            )
        )
    return found
