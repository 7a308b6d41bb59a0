"""One process of the comparison: makes its database, then does what its standard input names.

Each line of standard input is JSON, a list of a name and its arguments. Each answer is a line of JSON. At the end of
the input the database is deleted.
"""

from __future__ import annotations

import gc
import json
import os
import re
import sys
from importlib.metadata import version


def main() -> None:
    """Answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # other output is not an answer
    import django

    django.setup()
    from django.conf import settings
    from django.db import connection
    from django.test.utils import setup_databases, teardown_databases

    def answer(value: object) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    databases = setup_databases(verbosity=0, interactive=False)
    try:
        from benchmarks.comparison.observing import observe_all
        from benchmarks.comparison.work import Work

        work = Work()
        with connection.cursor() as cursor:
            cursor.execute("SELECT sqlite_version()" if connection.vendor == "sqlite" else "SHOW server_version")
            number = re.match(r"[\d.]+", cursor.fetchone()[0])
        answer(
            {
                "database": f"{connection.display_name} {number and number[0]}",
                "version": version(settings.PEER.distribution) if settings.PEER.distribution else "",
            }
        )
        gc.collect()
        gc.freeze()
        for line in sys.stdin:
            name, *arguments = json.loads(line)
            result = observe_all() if name == "observe_all" else getattr(work, name)(*arguments)
            work.clean()
            answer(result)
    finally:
        teardown_databases(databases, verbosity=0)
    os._exit(0)  # Signalbox would write pending events, and has no table any more


if __name__ == "__main__":
    main()
