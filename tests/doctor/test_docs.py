"""The documentation of the doctor matches the code."""

from __future__ import annotations

from pathlib import Path

from benchmarks import doctor as benchmark
from signalbox.doctor import report
from signalbox.doctor.rules import RULES

PAGE = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text()


def test_the_table_of_rules_is_that_of_the_code() -> None:
    table = PAGE.partition("<!-- rules -->\n")[2].partition("\n<!-- end of rules -->")[0]

    assert report.build_rules_table() == table.strip()


def test_the_limit_of_time_is_that_of_the_benchmark() -> None:
    text = " ".join(PAGE.partition("## Speed\n")[2].split())

    assert f"a generated project of {benchmark.APPS} apps and {benchmark.RECEIVERS:,} receivers" in text
    assert f"more than {benchmark.LIMIT_SECONDS:g} seconds of processor time" in text


def test_ids_are_unique_and_in_order() -> None:
    assert [f"signalbox.D{number:03}" for number in range(1, len(RULES) + 1)] == [rule.id for rule in RULES.values()]
