"""Measures the search for secrets in texts without secrets.

`redact_data` searches the text of a field, `redact_text` any other text, such as an exception's, and `is_clean` the
JSON of a row. Each figure is the processor time of the fastest of many turns, in microseconds.

    python benchmarks/redaction.py [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path
from time import thread_time
from timeit import repeat

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from benchmarks import corpus  # noqa: E402
from signalbox.serialization.redaction import Redactor  # noqa: E402

ROW = json.dumps(
    {
        "id": 4711,
        "number": "2026-00471",
        "customer": 812,
        "status": "paid",
        "total": "1299.90",
        "currency": "EUR",
        "weight": 1.25,
        "is_gift": False,
        "created_at": "2026-11-28T21:30:00.123456+00:00",
        "email": "jane.doe@example.com",
        "note": corpus.ordinary(140),
    },
    separators=(",", ":"),
)
AIMS = {
    ("letters", 500): 3,
    ("letters", 5_000): 20,
    ("ordinary", 500): 12,
    ("ordinary", 5_000): 100,
    ("row", len(ROW)): 2.5,
}
"""Microseconds, by kind of text and number of characters."""
CALLS = 50


def measure(turns: int) -> list[dict[str, object]]:
    """Return a row for each text and each search."""
    redactor = Redactor()
    rows: list[dict[str, object]] = []
    for (kind, length), aim in AIMS.items():
        text = ROW if kind == "row" else getattr(corpus, kind)(length)
        for name in ("is_clean",) if kind == "row" else ("redact_data", "redact_text"):
            search = getattr(redactor, name)
            if search(text) not in (text, True):
                raise ValueError(f"{name} finds a secret in the text of {length} characters: use one without.")
            seconds = (
                min(
                    repeat(lambda search=search, text=text: search(text), number=CALLS, repeat=turns, timer=thread_time)
                )
                / CALLS
            )
            rows.append({"text": kind, "characters": length, "search": name, "us": seconds * 1e6, "aim": aim})
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the turns")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")
    options = parser.parse_args()
    rows = measure(20 if options.quick else 200)
    print(f"Python {platform.python_version()}, microseconds")
    print(f"{'text':10}{'characters':>12}{'search':>13}{'us':>10}{'aim':>8}")
    for row in rows:
        met = "" if row["us"] <= row["aim"] else "  missed"
        print(
            f"{row['text']:10}{row['characters']:>12,}{row['search']:>13}{row['us']:>10.2f}{row['aim']:>8}{met}",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
