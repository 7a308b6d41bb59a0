"""One process of the benchmark: makes its database, then does the work that its standard input names.

Each line of standard input is JSON, a list of a method of `Work` and the number of characters of a row's text. Each
answer is a line of JSON. At the end of the input the database is deleted.
"""

from __future__ import annotations

import gc
import json
import os
import re
import sys


def main() -> None:
    """Answer until the input ends."""
    if os.environ["SIGNALBOX_BENCH_JSON"] == "standard":
        sys.modules["orjson"] = None  # as if it weren't installed
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # other output is not an answer
    import django

    django.setup()
    from django.conf import settings
    from django.db import connection
    from django.test.utils import setup_databases, teardown_databases

    from benchmarks import corpus

    def answer(value: object) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    databases = setup_databases(verbosity=0, interactive=False)
    try:
        from benchmarks.site.work import Work

        work = Work(not settings.BARE)
        with connection.cursor() as cursor:
            cursor.execute("SELECT sqlite_version()" if connection.vendor == "sqlite" else "SELECT version()")
            version = re.search(r"\d+(\.\d+)+", cursor.fetchone()[0])
        answer({"django": django.get_version(), "database": f"{connection.display_name} {version and version[0]}"})
        gc.collect()
        gc.freeze()
        for line in sys.stdin:
            name, characters = json.loads(line)
            work.text = corpus.ordinary(characters)
            result = getattr(work, name)()
            events = None if settings.BARE else work.events()
            work.clean()
            answer({"result": result, "events": events})
    finally:
        teardown_databases(databases, verbosity=0)
    os._exit(0)  # Signalbox would write pending events, and has no table any more


main()
