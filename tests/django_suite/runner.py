"""Django's test runner, which also reports the result of each test to the process that started it."""

from __future__ import annotations

import json
import os
import unittest
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.test.runner import DiscoverRunner

if TYPE_CHECKING:
    from types import TracebackType

    ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]


class Result(unittest.TextTestResult):
    """Writes a JSON object per line to the file descriptor SIGNALBOX_SUITE_REPORT.

    ``{"failed": id, "text": traceback}`` for each failure, error and unexpected success (a subtest counts as its test),
    ``{"skipped": id}`` for each skip, ``{"ended": id}`` for each test that has ended.
    """

    def report(self, **values: str) -> None:
        """Write one line. Only the process that starts the workers does."""
        os.write(int(os.environ["SIGNALBOX_SUITE_REPORT"]), json.dumps(values).encode() + b"\n")

    def addError(self, test: unittest.TestCase, err: ExcInfo) -> None:
        """Report an error of a test, or of the preparation of a class or a module."""
        super().addError(test, err)
        self.report(failed=test.id(), text=self.errors[-1][1])

    def addFailure(self, test: unittest.TestCase, err: ExcInfo) -> None:
        """Report a failure."""
        super().addFailure(test, err)
        self.report(failed=test.id(), text=self.failures[-1][1])

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: ExcInfo | None) -> None:
        """Report a failure of a part of a test under the name of the test."""
        super().addSubTest(test, subtest, err)
        if err is not None:
            failures = self.failures if issubclass(err[0] or BaseException, test.failureException) else self.errors
            self.report(failed=test.id(), text=f"{subtest}\n{failures[-1][1]}")

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        """Report a test that passes although Django expects a failure."""
        super().addUnexpectedSuccess(test)
        self.report(failed=test.id(), text="The test passes, which Django doesn't expect.\n")

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        """Report a skip."""
        super().addSkip(test, reason)
        self.report(skipped=test.id())

    def stopTest(self, test: unittest.TestCase) -> None:
        """Report that a test has ended."""
        super().stopTest(test)
        self.report(ended=test.id())


class Runner(DiscoverRunner):
    """Uses ``Result``, and refuses to run tests with a Signalbox that records nothing."""

    def get_resultclass(self) -> type[unittest.TextTestResult]:
        """Return the class of the results."""
        return Result

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
