"""Access to the dashboard: authentication, permissions and checks that apply to every view."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, Final, ParamSpec, cast

from django.conf import settings
from django.core.exceptions import BadRequest, PermissionDenied
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponseBase
from django.urls import NoReverseMatch, reverse
from django.views.decorators.cache import never_cache

from signalbox.dashboard import error_pages, languages


class MissingPermission(PermissionDenied):
    """The user lacks a permission, which the page with status 403 names."""

    def __init__(self, permission: str) -> None:
        super().__init__(f"The permission {permission} is required.")
        self.permission = permission
        """Its app label and codename, such as ``signalbox.view_event``."""


P = ParamSpec("P")
View = Callable[Concatenate[HttpRequest, P], HttpResponseBase]

VIEW_PERMISSION: Final = "signalbox.view_event"


def can_view_dashboard(user: Any) -> bool:
    """Return True if ``user`` may use the dashboard: active staff with permission to view events."""
    return bool(user.is_active and user.is_staff and user.has_perm(VIEW_PERMISSION))


def is_storable_id(text: str) -> bool:
    """Return True if ``text`` is a number that fits into an id column."""
    return text.isascii() and text.isdigit() and len(text) < 19


def refuse_nul(request: HttpRequest) -> None:
    """Raise ``BadRequest`` if a parameter contains NUL, which PostgreSQL rejects in a query."""
    pairs = [*request.GET.lists(), *(request.POST.lists() if request.method == "POST" else ())]
    if any("\0" in text for name, values in pairs for text in (name, *values)):
        raise BadRequest("A parameter contains the character NUL. Remove it.")


def dashboard_view(view: View[P]) -> View[P]:
    """Restrict ``view`` to staff with the permission to view events.

    Anonymous users are redirected to the login page, all others are refused with a page that names what they lack.
    Without tables or a database the response has status 503. A view that raises ``Http404`` gets the dashboard's page.
    """

    @wraps(view)
    def guarded(request: HttpRequest, *args: P.args, **kwargs: P.kwargs) -> HttpResponseBase:
        refuse_nul(request)
        with languages.use_complete_language():
            try:
                missing = error_pages.get_missing_tables_response(request)
                if missing is not None:  # checked before request.user, as the table of users may be missing too
                    return missing
                return _check_access(request) or view(request, *args, **kwargs)
            except MissingPermission as error:
                return error_pages.render_forbidden(request, error.permission)
            except Http404 as error:
                return error_pages.render_missing(request, str(error))
            except (OperationalError, InterfaceError) as error:
                return error_pages.render_database_error(request, error)

    return cast(View[P], never_cache(guarded))


def _check_access(request: HttpRequest) -> HttpResponseBase | None:
    """Return the response for a user who may not use the dashboard; ``None`` for others."""
    user = request.user
    if not user.is_authenticated:
        if request.headers.get("HX-Request"):
            raise PermissionDenied
        from django.contrib.auth.views import redirect_to_login  # needs an installed app, which a site may not have

        return redirect_to_login(request.get_full_path(), get_login_url())
    if not can_view_dashboard(user):
        return error_pages.render_forbidden(request, VIEW_PERMISSION, needs_staff=not user.is_staff)
    return None


def require_permission(user: Any, permission: str) -> None:
    """Raise ``MissingPermission`` if ``user`` lacks ``permission``."""
    if not user.has_perm(permission):
        raise MissingPermission(permission)


def get_login_url() -> str:
    """Return the URL of the login page: that of the admin if it is installed, else ``LOGIN_URL``."""
    try:
        return reverse("admin:login")
    except NoReverseMatch:
        return str(settings.LOGIN_URL)
