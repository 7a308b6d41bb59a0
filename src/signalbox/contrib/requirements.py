"""Import the packages that optional parts need, with a clear error if one is missing."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from django.core.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from types import ModuleType


def require(module: str, *, app: str, extra: str) -> ModuleType:
    """Return ``module``, which the app ``app`` needs.

    Raises:
        ImproperlyConfigured: it is not installed. The message has the command that installs ``extra``.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise
        raise ImproperlyConfigured(
            f'INSTALLED_APPS has "{app}", which needs the package {error.name!r}. It is not installed. '
            f'Run: python -m pip install "django-signalbox[{extra}]"'
        ) from error
