"""Finds the requests whose path is in the setting ``IGNORE_PATHS``."""

from __future__ import annotations

import sys
import weakref
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import unquote, urlsplit

from django.conf import settings
from django.urls import Resolver404, URLResolver, get_resolver, get_script_prefix

from signalbox import conf
from signalbox.core import interrupts, loggers

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = loggers.get_logger("recording")

APP_NAME: Final = "signalbox"
"""The ``app_name`` of ``signalbox.urls``."""

_URL_SETTINGS: Final = {"static": "STATIC_URL", "media": "MEDIA_URL"}

Include: TypeAlias = tuple[URLResolver, ...]
"""A place where a URLconf includes ``signalbox.urls``: the resolvers that lead to it, below the root."""

_includes: weakref.WeakKeyDictionary[URLResolver, list[Include]] = weakref.WeakKeyDictionary()
"""By the resolver of a URLconf. Another URLconf, or a changed ``ROOT_URLCONF``, has another resolver."""


def is_ignored_path(path: str, path_info: str) -> bool:
    """Return True if an entry of ``IGNORE_PATHS``, other than ``"dashboard"``, matches a request.

    Call it only while the request is handled, as Django then knows its ``SCRIPT_NAME``.

    Args:
        path: The path of the request, with ``SCRIPT_NAME``.
        path_info: The path without ``SCRIPT_NAME``.
    """
    for entry in conf.get().IGNORE_PATHS:
        if entry in _URL_SETTINGS:
            prefix = _get_url_prefix(getattr(settings, _URL_SETTINGS[entry], None), get_script_prefix())
            # Django serves static files by the path without SCRIPT_NAME.
            if prefix and (path.startswith(prefix) or path_info.startswith(prefix)):
                return True
        elif fnmatchcase(path, entry):
            return True
    return False


@lru_cache(maxsize=32)
def _get_url_prefix(url: object, script_prefix: str) -> str:
    """Return the path that ``STATIC_URL`` or ``MEDIA_URL`` names, with a slash; empty for a host or for every path."""
    try:
        parts = urlsplit(str(url or ""))
    except ValueError:  # it is not a URL
        return ""
    path = "/" + unquote(parts.path).strip("/") + "/"
    is_everything = path in ("//", script_prefix)  # Django makes the path of the site from an empty setting
    return "" if parts.scheme or parts.netloc or is_everything else path


def is_dashboard(path_info: str, urlconf: Any, match: Any) -> bool:
    """Return True if the setting ignores the dashboard, and a request is for one of its pages.

    A URL below the dashboard that no view answers counts as well, such as one with status 404.

    Args:
        path_info: The path of the request without ``SCRIPT_NAME``.
        urlconf: The URLconf of the request, None for ``ROOT_URLCONF``.
        match: The ``ResolverMatch`` of the request, None if it has none or is not known.
    """
    if conf.DASHBOARD_PATHS not in conf.get().IGNORE_PATHS:
        return False
    if match is not None:
        return APP_NAME in match.app_names
    try:
        return _is_below_include(path_info, urlconf)
    except Exception as error:  # noqa: BLE001 - the project's URLconf may raise anything
        interrupts.raise_if_interrupt(error)
        logger.debug("The URLconf could not be searched for the dashboard: %r", error)
        return False


def _is_below_include(path_info: str, urlconf: Any) -> bool:
    urlconf = settings.ROOT_URLCONF if urlconf is None else urlconf
    if isinstance(urlconf, str) and urlconf not in sys.modules:
        return False  # no URL of this request was resolved
    root = get_resolver(urlconf)
    includes = _includes.get(root)
    if includes is None:
        includes = _includes[root] = list(_find_includes(root))
    path = path_info.removeprefix("/")
    rests = [rest for include in includes if (rest := _match_include(include, path)) is not None]
    if not rests and not any(_match_include(include, f"{path}/") == "" for include in includes):
        return False
    try:
        return APP_NAME in root.resolve(path_info).app_names
    except Resolver404:
        # A dashboard at the root of the site does not own every path. The last slash may be missing.
        return not rests or any(rest != path for rest in rests)


def _find_includes(resolver: URLResolver, parents: Include = ()) -> Iterator[Include]:
    for pattern in resolver.url_patterns:
        if isinstance(pattern, URLResolver):
            here = (*parents, pattern)
            if pattern.app_name == APP_NAME:
                yield here
            else:
                yield from _find_includes(pattern, here)


def _match_include(include: Include, path: str) -> str | None:
    """Return the part of ``path`` below ``include``, None if the path is not below it."""
    rest: str = path
    for resolver in include:
        found = resolver.pattern.match(rest)
        if not found:
            return None
        rest = found[0]
    return rest
