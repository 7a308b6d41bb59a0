"""System checks of durable receivers and of the dispatcher that runs them."""

from __future__ import annotations

from importlib.util import find_spec
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

import django
from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error
from django.core.checks import Warning as CheckWarning
from django.db import Error as DatabaseError
from django.db import connections, router
from django.db.models import Model

from signalbox import conf
from signalbox.outbox import registry
from signalbox.outbox.queue import TABLE
from signalbox.outbox.unknown_receivers import UnknownReceiver, find_unknown_receivers

if TYPE_CHECKING:
    from collections.abc import Collection


def check_receivers(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """Check that workers find each durable receiver by its name (E010), and that its database has the table (W010)."""
    check_messages: list[CheckMessage] = []
    for name, durable in registry.get_durable_receivers().items():
        try:
            resolve_name(name)
        except (ImportError, AttributeError, ValueError) as error:
            check_messages.append(
                Error(
                    f"The durable receiver {name} can't be imported by its name, so no worker will run it: {error}",
                    hint="Define it as a function of a module, under its own name.",
                    obj=durable.function,
                    id="signalbox.E010",
                )
            )
    check_messages += [
        _build_name_clash_error(name, places) for name, places in registry.receiver_locations.items() if len(places) > 1
    ]
    check_messages += [
        _build_missing_table_warning(*subscribed) for subscribed in sorted(_find_receivers_without_table())
    ]
    return check_messages


def _build_name_clash_error(name: str, locations: Collection[str]) -> CheckMessage:
    return Error(
        f"Functions in {' and '.join(sorted(locations))} are durable receivers of the same name, {name}: a worker "
        "only finds the last of them.",
        hint="Give each function a different name.",
        id="signalbox.E010",
    )


def _find_receivers_without_table() -> set[tuple[str, str, str]]:
    """Return receivers with a sender and its database, where that database is given no table of deliveries."""
    subscriptions = registry.get_subscriptions()
    if not subscriptions:
        return set()
    from signalbox.models import Delivery  # not apps.get_model(): the current apps can be limited

    models = {model._meta.label: model for model in apps.get_models(include_auto_created=True)}
    return {
        (durable.name, sender, alias)
        for _, sender, durable in subscriptions
        if sender in models and not router.allow_migrate_model(alias := _get_write_database(models[sender]), Delivery)
    }


def _get_write_database(model: type[Model]) -> str:
    alias: str = router.db_for_write(model)
    return alias


def _build_missing_table_warning(name: str, sender: str, alias: str) -> CheckMessage:
    return CheckWarning(
        f"The rows of {sender} are in the database {alias!r}, where a router does not allow Signalbox's tables. So "
        f"deliveries to {name} are written after the commit. If the process dies in between, they are lost.",
        hint=f"Make the router's allow_migrate() allow the app signalbox in {alias!r} too.",
        id="signalbox.W010",
    )


def check_unknown_receivers(
    app_configs: Any = None, *, databases: Collection[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Check that this code has the receivers of the deliveries in ``databases`` (W013). None is read without them."""
    if not databases or not apps.is_installed("signalbox"):
        return []
    return [
        CheckWarning(
            f"In the database {alias!r}, {unknown}",
            hint="Restore the name until its deliveries have run, or discard them and replay their events to the new "
            'name. They become dead letters after DURABLE["UNKNOWN_AFTER"] seconds.',
            obj=unknown.name,
            id="signalbox.W013",
        )
        for alias in databases
        for unknown in _find_unknown_receivers(alias)
    ]


def _find_unknown_receivers(alias: str) -> list[UnknownReceiver]:
    """Return the unknown receivers in a database; none if it has no tables yet or is unavailable."""
    try:
        has_table = TABLE in connections[alias].introspection.table_names()
        return find_unknown_receivers(alias, import_modules=True) if has_table else []
    except DatabaseError:
        return []


def check_recording_enabled(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """Check that recording is on if there are durable receivers (W012): without it they get no deliveries."""
    names = sorted(registry.get_durable_receivers())
    if not names or not conf.is_disabled():
        return []
    return [
        CheckWarning(
            f"{conf.DISABLED_VARIABLE} switches recording off. No delivery is created for {', '.join(names)}.",
            hint=f"Remove the environment variable {conf.DISABLED_VARIABLE} and restart every process.",
            id="signalbox.W012",
        )
    ]


def check_dispatcher(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """Check that the dispatcher is installed and configured (E011) and that workers do not prefetch messages (W011)."""
    match conf.get().DURABLE.DISPATCHER:
        case "celery":
            return _check_celery()
        case "tasks":
            return _check_django_tasks()
    return []


def _check_celery() -> list[CheckMessage]:
    if find_spec("celery") is None:
        return [_build_not_installed_error("celery", 'pip install "django-signalbox[celery]"')]
    from celery import current_app

    if current_app.conf.worker_prefetch_multiplier != 1:
        return [
            CheckWarning(
                "Celery's workers reserve more messages than they run, so messages wait while other workers are idle.",
                hint="Set worker_prefetch_multiplier = 1 in Celery's configuration.",
                id="signalbox.W011",
            )
        ]
    return []


def _check_django_tasks() -> list[CheckMessage]:
    if django.VERSION < (6, 0) and find_spec("django_tasks") is None:
        return [_build_not_installed_error("tasks", 'pip install "django-signalbox[tasks]"')]
    if not getattr(settings, "TASKS", None):
        return [
            Error(
                'SIGNALBOX["DURABLE"]["DISPATCHER"] is "tasks", but TASKS names no backend: the relay would run each '
                "delivery itself.",
                hint='Set TASKS = {"default": {"BACKEND": ...}} to a backend with a worker.',
                id="signalbox.E011",
            )
        ]
    return []


def _build_not_installed_error(dispatcher: str, hint: str) -> CheckMessage:
    message = f'SIGNALBOX["DURABLE"]["DISPATCHER"] is "{dispatcher}", which is not installed.'
    return Error(message, hint=hint, id="signalbox.E011")
