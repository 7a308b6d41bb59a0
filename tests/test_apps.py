"""The app config of Signalbox."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from django.apps import apps

from signalbox.models import Event
from signalbox.pipeline import unit_of_work

WITHOUT_OTHER_APPS = """
import sys
import django
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["signalbox"],
    MIDDLEWARE=["signalbox.middleware.TraceMiddleware"],
    ROOT_URLCONF="site_urls",
    SECRET_KEY="not-a-secret",
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}],
)
django.setup()
import types
from django import forms
from django.core.management import call_command
from django.http import HttpResponse
from django.template import engines
from django.test import Client
from django.urls import include, path

class Form(forms.Form):
    name = forms.CharField()

def view(request):
    return HttpResponse(engines["django"].from_string("{{ form.name }}").render({"form": Form()}))

urls = sys.modules["site_urls"] = types.ModuleType("site_urls")
urls.urlpatterns = [path("", view), path("signalbox/", include("signalbox.urls"))]
call_command("check")
call_command("migrate", verbosity=0)
print(Client().get("/").content.decode())
from signalbox.models import Event
print(Event.objects.filter(signal="request_finished").count())
"""


@pytest.mark.django_db
def test_a_second_call_of_ready_does_not_flush_twice_before_a_read(monkeypatch: pytest.MonkeyPatch) -> None:
    apps.get_app_config("signalbox").ready()
    flushes: list[None] = []
    flush_all = unit_of_work.flush_all

    def count_and_flush() -> None:
        flushes.append(None)
        flush_all()

    monkeypatch.setattr(unit_of_work, "flush_all", count_and_flush)
    Event.objects.count()
    assert [None] == flushes


def test_a_site_without_django_s_own_apps_renders_templates_and_is_recorded() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "DJANGO_SETTINGS_MODULE"}

    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_OTHER_APPS],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == ['<input type="text" name="name" required id="id_name">', "1"]
