"""The predictions of the doctor about the seed project are true."""

from __future__ import annotations

import pytest

from tests.doctor.sites import PROJECTS_DIR, run_python

_LOG_OUT = """
import django
django.setup()
from django.contrib.auth.models import User
from django.contrib.auth.signals import user_logged_out
print("ran:", len(user_logged_out.send(User, request=None, user=User(username="ada"))))
"""
_FLUSH = """
import django
django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0)
call_command("flush", interactive=False, verbosity=0)
"""
_LOAD = """
import django
django.setup()
from django.contrib.auth.models import User
User.from_db("default", [field.attname for field in User._meta.concrete_fields], [1, "pbkdf2_sha256$hash", *[None] * 9])
"""
_LOG_IN = """
import django
django.setup()
from django.contrib.auth.models import User
from django.contrib.auth.signals import user_logged_in
from blog.signals import login_success
print("ran:", sum(r is login_success for r, _ in user_logged_in.send_robust(User, request=None, user=User())))
"""


def output(script: str, *, debug: bool) -> str:
    done = run_python(PROJECTS_DIR / "seed_site", ["-c", script], debug=debug, settings="builtinsignals.settings")
    return done.stdout + done.stderr


@pytest.mark.parametrize(("debug", "times"), [(True, 1), (False, 0)])
def test_a_shadowed_receiver_runs_only_with_debug_on(debug: bool, times: int) -> None:
    assert f"ran: {times}" in output(_LOG_OUT, debug=debug)


@pytest.mark.parametrize("debug", [True, False])
def test_a_receiver_connected_again_with_the_same_sender_runs_once(debug: bool) -> None:
    assert "ran: 1" in output(_LOG_IN, debug=debug)


def test_a_receiver_that_wants_the_plan_of_a_migration_breaks_flush() -> None:
    words = "TypeError: at_end_migrate_flush() missing 2 required positional arguments: 'plan' and 'apps'"

    assert words in output(_FLUSH, debug=False)


def test_the_arguments_of_pre_init_contain_the_password() -> None:
    assert "pbkdf2_sha256$hash" in output(_LOAD, debug=False)
