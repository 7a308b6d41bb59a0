"""Pages with status 403, 404 and 503 that name the permission, the retention or the command that helps."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any, Final

from django.conf import settings
from django.db import connections, router, transaction
from django.shortcuts import render
from django.utils.translation import gettext

from signalbox import conf
from signalbox.core import loggers
from signalbox.models import Event
from signalbox.pipeline import missing_tables

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse

logger = loggers.get_logger("dashboard")

GRANT_CODE: Final = (
    "from django.contrib.auth import get_user_model; from django.contrib.auth.models import Permission; "
    "get_user_model()._default_manager.get_by_natural_key({name}).user_permissions.add("
    "Permission.objects.get(content_type__app_label={app}, codename={codename}))"
)
"""Python code that grants a permission to a user."""


def render_forbidden(request: HttpRequest, permission: str, *, needs_staff: bool = False) -> HttpResponse:
    """Return the page with status 403 that names ``permission``, or that the user is not staff."""
    app, _, codename = permission.partition(".")
    # JSON is valid Python here, and its double quotes need no escapes within the single quotes of a shell.
    values = {"name": request.user.get_username(), "app": app, "codename": codename}
    code = GRANT_CODE.format_map({name: json.dumps(value) for name, value in values.items()})
    context = {
        "permission": permission,
        "needs_staff": needs_staff,
        "command": f"manage.py shell -c {shlex.quote(code)}",
        "home_url": "" if needs_staff or not request.user.has_perm("signalbox.view_event") else "signalbox:timeline",
    }
    return render(request, "signalbox/forbidden.html", context, status=403)


def render_missing(request: HttpRequest, text: str) -> HttpResponse:
    """Return the page with status 404. ``text`` says what is missing."""
    return render(request, "signalbox/missing.html", {"text": text, "rules": describe_retention()}, status=404)


def describe_retention() -> str:
    """Return the setting ``RETENTION`` as text; empty if nothing is deleted."""
    rules = conf.get().RETENTION
    parts = [
        gettext("%(name)s after %(days)g days") % {"name": name, "days": days}
        for name, days in rules.items()
        if days is not None
    ]
    return ", ".join(parts)


def get_missing_tables_response(request: HttpRequest) -> HttpResponse | None:
    """Return a page with status 503 if the tables do not exist; ``None`` if they do."""
    alias = router.db_for_read(Event)
    if missing_tables.has_tables(connections[alias]):
        return None
    into = "" if alias == "default" else f" --database {alias}"
    title = gettext("Signalbox has no tables in database “%(alias)s”.") % {"alias": alias}
    return _render_unavailable(request, title=title, command=f"manage.py migrate{into}", error="")


def render_database_error(request: HttpRequest, error: Exception) -> HttpResponse:
    """Return the page with status 503 for an unavailable database. Its error is shown only with ``DEBUG``."""
    logger.error("The dashboard could not read the database: %s", error, exc_info=error)
    for connection in connections.all(initialized_only=True):
        if connection.in_atomic_block:  # of ATOMIC_REQUESTS
            transaction.set_rollback(True, using=connection.alias)
    return _render_unavailable(
        request,
        title=gettext("The database is not available."),
        command="manage.py signalbox status",
        error=str(error).strip() if settings.DEBUG else "",
    )


def _render_unavailable(request: HttpRequest, **context: Any) -> HttpResponse:
    return render(request, "signalbox/unavailable.html", context, status=503)
