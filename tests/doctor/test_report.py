"""Findings as text and as JSON."""

from __future__ import annotations

import json
from typing import Any

from signalbox.doctor import Finding, Severity, SourceLine, report


def finding(**changes: Any) -> Finding:
    values: dict[str, Any] = {
        "id": "signalbox.D009",
        "rule": "exposed-secret",
        "severity": Severity.WARNING,
        "app": "blog",
        "path": "/site/blog/signals.py",
        "line": 2,
        "location": "blog/signals.py:2",
        "signal": "user_logged_in",
        "receiver": "blog.signals.login_success",
        "message": "It prints user.password.",
        "reason": "Output is kept.",
        "hint": "Leave it out.",
        "excerpt": (
            SourceLine(number=1, text="def login_success(user, **kwargs):", highlighted=False),
            SourceLine(number=2, text="    print(user.password)", highlighted=True),
        ),
    }
    return Finding(**{**values, **changes})


def test_the_text_has_location_message_reason_hint_and_page() -> None:
    assert (
        "blog/signals.py:2  warning  exposed-secret  signalbox.D009\n"
        "  blog.signals.login_success of user_logged_in\n"
        "       1 | def login_success(user, **kwargs):\n"
        "  >    2 |     print(user.password)\n"
        "  message: It prints user.password.\n"
        "  reason:  Output is kept.\n"
        "  hint:    Leave it out.\n"
        "  page:    https://django-signalbox.readthedocs.io/en/latest/rules/D009.html\n"
        "\n"
        "The doctor found 1 warning.\n"
    ) == report.format_text([finding()])


def test_long_sentences_are_wrapped_below_their_beginning() -> None:
    lines = report.format_text([finding(reason="word " * 40, excerpt=())]).splitlines()

    assert all(len(line) <= report.LINE_WIDTH for line in lines)
    assert "           word" == lines[4][:15]


def test_a_finding_without_a_location_says_so() -> None:
    text = report.format_text([finding(path="", line=0, location="", receiver="", excerpt=())])

    assert text.startswith("(location unknown)  warning  exposed-secret  signalbox.D009\n  user_logged_in\n")


def test_the_summary_counts_by_severity() -> None:
    many = [finding(), finding(), finding(severity=Severity.ERROR), finding(severity=Severity.INFO)]

    assert "The doctor found 1 error, 2 warnings, 1 note." == report.format_summary(many)
    assert "The doctor found nothing." == report.format_summary([])


def test_json_has_one_object_a_line() -> None:
    lines = list(report.format_json_lines([finding(), finding(message="zwölf")]))

    assert [True, True] == [line.endswith("\n") and line.count("\n") == 1 for line in lines]
    first = json.loads(lines[0])
    assert {
        "id": "signalbox.D009",
        "rule": "exposed-secret",
        "severity": "warning",
        "app": "blog",
        "location": "blog/signals.py:2",
        "signal": "user_logged_in",
        "receiver": "blog.signals.login_success",
        "message": "It prints user.password.",
        "reason": "Output is kept.",
        "hint": "Leave it out.",
        "url": "https://django-signalbox.readthedocs.io/en/latest/rules/D009.html",
        "excerpt": [
            {"line": 1, "text": "def login_success(user, **kwargs):", "highlighted": False},
            {"line": 2, "text": "    print(user.password)", "highlighted": True},
        ],
    } == first
    assert "zwölf" in lines[1]
