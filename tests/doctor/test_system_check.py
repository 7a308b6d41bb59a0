"""The findings as Django's system checks."""

from __future__ import annotations

import subprocess

import pytest
from django.core.checks import INFO, WARNING
from django.core.checks.registry import registry

from signalbox.checks import TAG, register_checks, run_doctor_checks
from signalbox.doctor import engine
from signalbox.doctor.findings import Severity
from signalbox.doctor.system_check import build_check_message, check_signal_receivers
from tests.doctor.sites import PROJECTS_DIR, SRC_DIR, run_python
from tests.doctor.test_report import finding

_CHECK = """
import sys
import django
from django.conf import settings
settings.SILENCED_SYSTEM_CHECKS = sys.argv[1].split()
django.setup()
from django.core.checks import register
from django.core.management import call_command
from signalbox.checks import TAG
from signalbox.doctor.system_check import check_signal_receivers
register(check_signal_receivers, TAG)
call_command("check", *sys.argv[2:])
"""


def django_check(*arguments: str, silenced: str = "") -> subprocess.CompletedProcess[str]:
    return run_python(
        PROJECTS_DIR / "seed_site",
        ["-c", _CHECK, silenced, *arguments],
        debug=False,
        settings="builtinsignals.settings",
    )


def test_check_with_the_tag_shows_the_findings_and_stops_nothing() -> None:
    done = django_check("--tag", "signalbox")

    assert 0 == done.returncode
    assert "WARNINGS:\nblog/signals.py:" in done.stderr
    assert "blog.signals.log_out: (signalbox.D002) This log_out never runs." in done.stderr
    assert "HINT: Give each function its own name." in done.stderr
    assert "7 issues" in done.stderr


def test_check_fails_from_the_requested_level_on() -> None:
    assert 1 == django_check("--tag", "signalbox", "--fail-level", "WARNING").returncode


def test_a_rule_is_silenced_by_its_id() -> None:
    done = django_check("--tag", "signalbox", silenced="signalbox.D002 signalbox.D009")

    assert "D002" not in done.stderr
    assert "D009" not in done.stderr
    assert "D004" in done.stderr
    assert "(5 silenced)" in done.stderr


def test_no_finding_is_an_error_since_errors_stop_commands_that_worked() -> None:
    levels = {severity: build_check_message(finding(severity=severity)).level for severity in Severity}

    assert {Severity.ERROR: WARNING, Severity.WARNING: WARNING, Severity.INFO: INFO} == levels


def test_a_check_message_has_location_receiver_message_and_hint() -> None:
    assert (
        "blog/signals.py:2 blog.signals.login_success: (signalbox.D009) It prints user.password. Output is kept."
        "\n\tHINT: Leave it out. See https://django-signalbox.readthedocs.io/en/latest/rules/D009.html"
    ) == str(build_check_message(finding()))


def test_the_check_never_raises(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*, use_recorded_events: bool) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(engine, "build_project", fail)

    assert [("signalbox.D000", WARNING)] == [(m.id, m.level) for m in check_signal_receivers()]
    assert "the disk is gone" in caplog.text


def test_the_check_is_registered_once_under_the_tag() -> None:
    before = set(registry.registered_checks)
    try:
        register_checks()
        register_checks()

        registered: list[object] = [*registry.get_checks()]
        assert 1 == registered.count(run_doctor_checks)
        assert (TAG,) == run_doctor_checks.tags  # type: ignore[attr-defined]
    finally:
        registry.registered_checks.clear()
        registry.registered_checks.update(before)


def test_a_process_that_only_serves_does_not_load_the_doctor() -> None:
    loads = "import django, sys; django.setup(); print([name for name in sys.modules if name.startswith('signalbox.')])"
    done = run_python(SRC_DIR.parent, ["-c", loads], debug=False, settings="tests.settings")

    assert "signalbox.pipeline.exporter" in done.stdout
    assert "signalbox.doctor" not in done.stdout
