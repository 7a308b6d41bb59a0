"""System checks of the setting and of where the app stands; other parts bring their own."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning as Caution, register as register_check

from signalbox import conf

TAG = "signalbox"


def register() -> None:
    """Let ``manage.py check`` run the checks."""
    register_check(check_setting, TAG)
    register_check(check_place, TAG)


def check_setting(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """E001: a key or value of ``SIGNALBOX`` that is not understood."""
    return [
        Error(message, hint=remedy, obj=f"SIGNALBOX[{key!r}]" if key else "SIGNALBOX", id="signalbox.E001")
        for key, message, remedy in conf.problems(getattr(settings, "SIGNALBOX", None))
    ]


def check_place(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """W001, W002: the app does not stand first, or the middleware is missing or not first."""
    found: list[CheckMessage] = []
    names = [config.name for config in apps.get_app_configs()]
    if names[:1] != ["signalbox"]:
        before = names[: names.index("signalbox")]
        found.append(
            Caution(
                f"class_prepared and connection_created of {', '.join(before)} are not recorded.",
                hint='Put "signalbox" first in INSTALLED_APPS.',
                id="signalbox.W001",
            )
        )
    middleware = list(getattr(settings, "MIDDLEWARE", None) or [])
    ours = "signalbox.middleware.TraceMiddleware"
    if ours not in middleware:
        found.append(
            Caution(
                "Requests are recorded without their view, status and user.",
                hint=f'Put "{ours}" first in MIDDLEWARE.',
                id="signalbox.W002",
            )
        )
    elif middleware[0] != ours:
        found.append(
            Caution(
                f"What {middleware[0]} does to a response is not seen.",
                hint=f'Put "{ours}" first in MIDDLEWARE.',
                id="signalbox.W003",
            )
        )
    return found
