"""Django's test runner, which also reports the result of each test to the process that started it."""

from __future__ import annotations

import json
import os
import pickle
import unittest
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.test.runner import DiscoverRunner, ParallelTestSuite, RemoteTestResult, RemoteTestRunner

if TYPE_CHECKING:
    from types import TracebackType

    ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]


def report(**values: str) -> None:
    """Write a JSON object in a line to the file descriptor SIGNALBOX_SUITE_REPORT."""
    os.write(int(os.environ["SIGNALBOX_SUITE_REPORT"]), json.dumps(values).encode() + b"\n")


class Result(unittest.TextTestResult):
    """Reports the result of each test to the process that started this one.

    ``{"failed": id, "text": traceback}`` is a failure, an error or an unexpected success; a subtest counts as its test.
    ``{"skipped": id}`` is a skip, ``{"ended": id}`` follows each test, ``{"complete": "yes"}`` the last one.
    """

    def addError(self, test: unittest.TestCase, err: ExcInfo) -> None:
        """Report an error of a test, or of the preparation of a class or a module."""
        super().addError(test, err)
        report(failed=test.id(), text=self.errors[-1][1])

    def addFailure(self, test: unittest.TestCase, err: ExcInfo) -> None:
        """Report a failure."""
        super().addFailure(test, err)
        report(failed=test.id(), text=self.failures[-1][1])

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: ExcInfo | None) -> None:
        """Report a failure of a part of a test under the name of the test."""
        super().addSubTest(test, subtest, err)
        if err is not None:
            failures = self.failures if issubclass(err[0] or BaseException, test.failureException) else self.errors
            report(failed=test.id(), text=f"{subtest}\n{failures[-1][1]}")

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        """Report a test that passes although Django expects a failure."""
        super().addUnexpectedSuccess(test)
        report(failed=test.id(), text="The test passes, which Django doesn't expect.\n")

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        """Report a skip."""
        super().addSkip(test, reason)
        report(skipped=test.id())

    def stopTest(self, test: unittest.TestCase) -> None:
        """Report that a test has ended."""
        super().stopTest(test)
        report(ended=test.id())


class WorkerResult(RemoteTestResult):
    """Sends each error to the first process, which would end the run if one can't be pickled: its text does instead."""

    def portable(self, test: unittest.TestCase, err: ExcInfo) -> ExcInfo:
        """Return `err`, or an error with the same traceback as its text if `err` can't be sent."""
        try:
            pickle.loads(pickle.dumps(err))
        except Exception:  # noqa: BLE001 - it depends on the test's objects what pickle raises
            text = unittest.TestResult._exc_info_to_string(self, err, test)  # type: ignore[attr-defined]
            return AssertionError, AssertionError(text), None  # type: ignore[return-value]
        return err

    def addError(self, test: unittest.TestCase, err: ExcInfo) -> None:
        """Send an error."""
        super().addError(test, self.portable(test, err))

    def addFailure(self, test: unittest.TestCase, err: ExcInfo) -> None:
        """Send a failure."""
        super().addFailure(test, self.portable(test, err))

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: ExcInfo | None) -> None:
        """Send a failure of a part of a test."""
        super().addSubTest(test, subtest, err and self.portable(test, err))


class WorkerRunner(RemoteTestRunner):
    """Runs the tests of a class in a worker."""

    resultclass = WorkerResult


class Suite(ParallelTestSuite):
    """Runs test classes in workers."""

    runner_class = WorkerRunner


class Runner(DiscoverRunner):
    """Uses ``Result``, and refuses to run tests with a Signalbox that records nothing."""

    parallel_test_suite = Suite

    def get_resultclass(self) -> type[unittest.TextTestResult]:
        """Return the class of the results."""
        return Result

    def run_suite(self, suite: unittest.TestSuite, **kwargs: Any) -> Any:
        """Run the tests, and report that the run has come to its end."""
        result: Any = super().run_suite(suite, **kwargs)
        report(complete="yes")
        return result

    def setup_databases(self, **kwargs: Any) -> Any:
        """Make the test databases; Signalbox must have recorded something of it, for example the default site.

        Raises RuntimeError if it hasn't: every test would pass.
        """
        made = super().setup_databases(**kwargs)
        if made and apps.is_installed("signalbox"):
            from signalbox.models import Event

            if not Event.objects.exists():
                raise RuntimeError("Signalbox recorded nothing while the test databases were made")
        return made
