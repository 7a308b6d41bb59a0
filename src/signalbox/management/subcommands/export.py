"""``manage.py signalbox export``: the matching events as a file."""

from __future__ import annotations

import signal
import sys
import threading
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from typing import Any, cast

from django.core.management import CommandError

from signalbox.core import tracing
from signalbox.core.system_user import get_system_actor
from signalbox.instrumentation.traces import traced
from signalbox.management.output.new_file import OutputFileError, open_new_file
from signalbox.management.output.progress import Progress
from signalbox.management.output.screen import Output
from signalbox.management.subcommands import options as shared
from signalbox.models import Event
from signalbox.queries.export_formats import FORMATS
from signalbox.queries.filters import describe_params
from signalbox.queries.recorded_export import EventExport


def add_arguments(parser: ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument(
        "--format", choices=tuple(FORMATS), default="jsonl", help=f"one of {', '.join(FORMATS)} (default jsonl)"
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="write to a new file, compressed if its name ends in .gz; by default, to stdout",
    )
    parser.add_argument("--force", action="store_true", help="replace an existing file")
    shared.add_using_option(parser)
    shared.add_filter_options(parser)
    shared.add_time_options(parser)


def run(options: Mapping[str, Any], stdout: Output) -> int:
    """Write the events, the oldest first. Return 1 if none matches the options, or if the export is incomplete."""
    queryset = shared.parse_filter(options).apply(Event.objects.using(options["using"]))
    export_format = FORMATS[options["format"]]
    actor = tracing.get_current_trace().get_actor() or get_system_actor()
    with traced("command", "signalbox export") as trace:
        export = EventExport(
            queryset, export_format, described_filter=describe_params(options), origin="command", actor=actor
        )
        try:
            with closing(export), _interruptible() as check_interrupt:
                _write(export, options, stdout, check_interrupt)
        except OutputFileError as error:
            raise CommandError(str(error), returncode=2) from error
        except BrokenPipeError:  # the reader has ended, such as `| head`
            trace.status = "cancelled"
            raise
        except OSError as error:  # such as a full disk
            raise CommandError(_describe_failure(export, options, error), returncode=1) from error
        except KeyboardInterrupt:
            trace.status = "cancelled"
            sys.stderr.write(f"Interrupted after {_describe_count(export)}. {_describe_output(options)}\n")
            return 1
        finally:
            if export.is_recorded is False:
                sys.stderr.write("This export could not be recorded. The log of the process contains the error.\n")
    if options["output"]:
        stdout.write(f"Exported {_describe_count(export)} to {options['output']}.\n")
    return 0 if export.event_count else 1


def _write(
    export: EventExport, options: Mapping[str, Any], stdout: Output, check_interrupt: Callable[[], None]
) -> None:
    progress = Progress(is_shown=bool(options["output"]) or not stdout.isatty())
    opened: Any = (
        open_new_file(options["output"], overwrite=options["force"]) if options["output"] else nullcontext(None)
    )
    try:
        with opened as file:
            write, flush = (_get_stdout_writer(stdout), stdout.flush) if file is None else (file.write, file.flush)
            for part in export:
                if part:  # a range of ids without a matching event has none, and Django's stdout would end the line
                    write(part)
                    flush()  # before the export is recorded as complete: the disk may be full
                progress.update("export", export.progress, f"{export.event_count:,} events")
                check_interrupt()
    finally:
        progress.clear()


def _get_stdout_writer(stdout: Output) -> Callable[[bytes], object]:
    """Return a function that writes bytes to ``stdout``, in UTF-8 also if the terminal has another encoding."""
    buffer = getattr(stdout, "buffer", None)
    if buffer is None:
        return lambda part: stdout.write(part.decode())
    stdout.flush()
    return cast(Callable[[bytes], object], buffer.write)


@contextmanager
def _interruptible() -> Iterator[Callable[[], None]]:
    """Raise ``KeyboardInterrupt`` in the block for SIGINT and SIGTERM, so that the end is recorded and no file is left.

    Returns a function that raises it as well. Python ignores an exception of a handler that runs within ``__del__``.
    """
    received: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        received.append(number)
        raise KeyboardInterrupt

    def check() -> None:
        if received:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, interrupt)
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _describe_failure(export: EventExport, options: Mapping[str, Any], error: OSError) -> str:
    target, reason = options["output"] or "stdout", error.strerror or error
    return f"{target} can't be written: {reason}, after {_describe_count(export)}. {_describe_output(options)}"


def _describe_output(options: Mapping[str, Any]) -> str:
    return f"{options['output']} was not written." if options["output"] else "The output is incomplete."


def _describe_count(export: EventExport) -> str:
    events = "1 event" if export.event_count == 1 else f"{export.event_count:,} events"
    return f"{events} up to id {export.last_id}" if export.last_id is not None and not export.is_complete else events
