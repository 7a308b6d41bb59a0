"""The comparison behind `make django-suite`: which failures of Django's tests count."""

from __future__ import annotations

import pytest

from tests.django_suite import run, sources
from tests.django_suite.run import Expected, Run, judge


def failing(*names: str) -> Run:
    return Run(ended={*names}, failed=dict.fromkeys(names, "AssertionError: no"))


def allowing(name: str) -> Expected:
    return Expected(test=name, django=["6.1"], databases=["sqlite"], reason="It compares statements.")


def test_a_failure_with_signalbox_only_counts() -> None:
    verdict = judge(failing("a.tests.T.test_a", "a.tests.T.test_b"), failing("a.tests.T.test_b"), [])
    assert (verdict.failed, verdict.alike) == (["a.tests.T.test_a"], ["a.tests.T.test_b"])


def test_an_expected_failure_does_not_count() -> None:
    entry = allowing("a.tests.T.test_a")
    verdict = judge(failing("a.tests.T.test_a", "a.tests.T.test_b"), Run(), [entry])
    assert (verdict.failed, verdict.expected) == (["a.tests.T.test_b"], [entry])


def test_an_expected_failure_that_passes_is_reported_if_it_was_run() -> None:
    allowed = [allowing("a.tests.T.test_a"), allowing("b.tests.T.test_b")]
    assert judge(Run(ended={"a.tests.T.test_a"}), Run(), allowed).passed == ["a.tests.T.test_a"]


def test_a_class_that_cannot_be_prepared_without_signalbox_does_not_count() -> None:
    name = "setUpClass (a.tests.T)"
    assert judge(failing(name), failing(name), []).alike == [name]


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("basic.tests.ModelTest.test_save", "basic.tests.ModelTest.test_save"),
        ("setUpClass (basic.tests.ModelTest)", "basic.tests.ModelTest"),
        ("tearDownModule (basic.tests)", "basic.tests"),
        ("unittest.loader._FailedTest.basic.tests", "basic.tests"),
    ],
)
def test_a_label_runs_what_failed_again(name: str, label: str) -> None:
    assert run.label(name) == label


def test_reports_of_one_test_are_put_together() -> None:
    taken = Run()
    for line in ('{"failed": "t", "text": "one\\n"}', '{"failed": "t", "text": "two\\n"}', '{"ended": "t"}'):
        taken.take(line)
    assert (taken.ended, taken.failed) == ({"t"}, {"t": "one\ntwo\n"})


def test_the_exception_of_a_failure_is_shown() -> None:
    text = "Traceback (most recent call last):\n  a\ndjango.db.utils.DataError: wrong\n\nDiff is 9 characters long."
    assert run.last_error(text) == "django.db.utils.DataError: wrong"


def test_each_expected_failure_says_where_and_why() -> None:
    for entry in run.expected():
        assert {*entry.databases} <= {*run.DATABASES}
        assert entry.databases
        assert entry.django
        assert len(entry.reason) > 20


def test_requirements_leave_out_options_and_comments() -> None:
    text = "-r other.txt\n# a comment\nredis >= 5.1.0\npylibmc; sys_platform != 'win32'  # compiled\n\n"
    assert sources.requirements(text) == ["redis >= 5.1.0", "pylibmc; sys_platform != 'win32'"]
