"""A small site that gunicorn serves: it saves an object for each request, and has a page with the metrics."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import django
from django.conf import settings

if TYPE_CHECKING:
    from django.http import HttpRequest

settings.configure(
    SECRET_KEY="not-a-secret",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF="tests.contrib.prometheus.site",
    INSTALLED_APPS=[
        "signalbox",
        "signalbox.contrib.prometheus",
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
    ],
    MIDDLEWARE=["signalbox.middleware.TraceMiddleware"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": os.environ["SIGNALBOX_TEST_SITE"],
            "OPTIONS": {"timeout": 20},
        }
    },
    USE_TZ=True,
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup()

from django.contrib.auth.models import Group  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.http import HttpResponse  # noqa: E402
from django.urls import path  # noqa: E402

from signalbox.contrib.prometheus.views import metrics  # noqa: E402


def save(request: HttpRequest) -> HttpResponse:
    """Save an object and respond with the id of the process."""
    Group.objects.create(name=request.GET["name"])
    return HttpResponse(str(os.getpid()))


urlpatterns = [path("save/", save), path("metrics", metrics)]
application = get_wsgi_application()
