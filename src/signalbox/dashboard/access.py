"""Who may see the page, and that looking leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, Final, ParamSpec, cast

from django.conf import settings
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.db import connections, router
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.urls import NoReverseMatch, reverse
from django.views.decorators.cache import never_cache

from signalbox.core import tracing
from signalbox.models import Event
from signalbox.pipeline import writer

P = ParamSpec("P")
View = Callable[Concatenate[HttpRequest, P], HttpResponseBase]

VIEW_PERMISSION: Final = "signalbox.view_event"


def can_view_dashboard(user: Any) -> bool:
    """Tell whether ``user`` may see the page: active staff who may view events."""
    return bool(user.is_active and user.is_staff and user.has_perm(VIEW_PERMISSION))


def get_missing_tables_response() -> HttpResponse | None:
    """Return what says that there are no tables yet, and what to do; ``None`` where they are."""
    alias = router.db_for_read(Event)
    if writer.has_tables(connections[alias]):
        return None
    into = "" if alias == "default" else f" --database {alias}"
    text = f"Signalbox has no tables in database {alias!r} yet: run manage.py migrate{into}.\n"
    return HttpResponse(text, "text/plain; charset=utf-8", status=503)


def dashboard_view(view: View[P]) -> View[P]:
    """Let staff with the permission see ``view``; send the anonymous to log in, and refuse all others. Before
    ``migrate`` there is nothing to see: 503 tells so.

    A look that succeeds is not recorded: a page that polls would otherwise watch itself.
    """

    @wraps(view)
    def guarded(request: HttpRequest, *args: P.args, **kwargs: P.kwargs) -> HttpResponseBase:
        missing = get_missing_tables_response()
        if missing is not None:  # before the user is asked for, whose table may be missing as well
            return missing
        user = request.user
        if not user.is_authenticated:
            if request.headers.get("HX-Request"):
                raise PermissionDenied
            return redirect_to_login(request.get_full_path(), get_login_url())
        if not can_view_dashboard(user):
            raise PermissionDenied
        response = view(request, *args, **kwargs)
        trace = tracing.get_current_trace()
        if request.method in ("GET", "HEAD") and trace.kind == "request":
            trace.suppress()
        return response

    return cast(View[P], never_cache(guarded))


def get_login_url() -> str:
    """Return where to log in: the admin's page where there is one, else ``LOGIN_URL``."""
    try:
        return reverse("admin:login")
    except NoReverseMatch:
        return str(settings.LOGIN_URL)
