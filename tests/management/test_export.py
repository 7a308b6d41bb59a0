from __future__ import annotations

import csv
import gzip
import io
import json
import os
import pwd
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import override_settings

import signalbox
from signalbox.instrumentation import recording_state as process_recording
from signalbox.models import Event, Trace
from tests.rows import TRACE_ID, build_event, create_event

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.every_database]


@pytest.fixture(autouse=True)
def _alone(transactional_db: None) -> Iterator[None]:
    """The tables contain only what a test writes into them."""
    process_recording.disable_recording_for_process()
    Event.objects.all().delete()
    Trace.objects.all().delete()
    yield
    signalbox.start_recording()


def export(*words: str) -> str:
    """Return what the command writes in this process."""
    out = io.StringIO()
    call_command("signalbox", "export", *words, stdout=out)
    return out.getvalue()


def start(*words: str, stdout: Any = subprocess.PIPE, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "django", "signalbox", *words],
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings", **environment},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )


def create_events(number: int, **values: Any) -> None:
    for first in range(1, number + 1, 1000):
        Event.objects.bulk_create(
            build_event(span=span, **values) for span in range(first, min(first + 1000, number + 1))
        )


def get_record() -> Event:
    """Return the event of the only export."""
    record: Event = Event.objects.get(signal="signalbox.exported")
    return record


# ------------------------------------------------------------------ the events


def test_the_lines_are_those_of_events_in_the_order_of_their_ids() -> None:
    create_events(450)
    call_command("signalbox", "events", "--json", "--limit", "1000", stdout=(out := io.StringIO()))
    assert export().splitlines() == out.getvalue().splitlines()[::-1]


def test_the_filters_are_those_of_events() -> None:
    create_event(id=1, sender="shop.Order", outcome="committed")
    create_event(id=2, sender="shop.Order", outcome="rolled_back")
    create_event(id=3, sender="shop.Tag", outcome="rolled_back")
    words = ("--sender", "shop.Order", "--outcome", "rolled_back", "--since", "2026-03-01", "--until", "2026-03-01")
    assert [2] == [json.loads(line)["id"] for line in export(*words).splitlines()]


def test_events_written_during_the_export_are_not_exported() -> None:
    create_events(201)

    class Busy(io.StringIO):
        def write(self, text: str) -> int:
            create_event(span=10_000)
            return super().write(text)

    out = Busy()
    call_command("signalbox", "export", stdout=out)
    assert 201 == len(out.getvalue().splitlines())


def test_no_matching_event_has_the_exit_code_1() -> None:
    with pytest.raises(SystemExit) as raised:
        export("--format", "csv")
    assert 1 == raised.value.code
    assert 0 == get_record().data["args"]["events"]


def measure_peak_memory(*words: str) -> int:
    """Return the peak memory of the command in a process of its own, in kilobytes."""
    script = (
        "import resource, sys, django\n"
        "from django.core.management import execute_from_command_line\n"
        "execute_from_command_line(['manage.py', 'signalbox', *sys.argv[1:]])\n"
        "sys.stderr.write(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *words],
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=240,
        check=True,
    )
    return int(done.stderr)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["export"],
        ["export", "--format", "csv"],
        ["export", "--format", "cloudevents"],
        ["events", "--json", "--limit", "1000000"],
    ],
    ids=" ".join,
)
def test_the_peak_of_memory_does_not_grow_with_the_number_of_events(words: list[str]) -> None:
    data = {"args": {"note": "x" * 500}}
    create_events(2_000, data=data)
    small = measure_peak_memory(*words)
    create_events(38_000, data=data)
    large = measure_peak_memory(*words)
    assert large < small + 5_000, f"{small} kB for 2,000 events, {large} kB for 40,000"


# ------------------------------------------------------------------ the record


def test_an_export_is_recorded_with_its_user_filter_and_number() -> None:
    create_events(3)
    done = start("export", "--format", "csv", "--sender", "shop.Order")
    assert ("", 0) == (done.communicate(timeout=60)[1], done.returncode)
    record = get_record()
    first, last = (Event.objects.filter(sender="shop.Order").order_by(order)[0].id for order in ("id", "-id"))
    assert record.data["args"] == {
        "format": "csv",
        "filter": {"sender": ["shop.Order"]},
        "origin": "command",
        "events": 3,
        "first_id": first,
        "last_id": last,
        "is_complete": True,
    }
    user = pwd.getpwuid(os.getuid()).pw_name
    assert ("signalbox.Event", "sent", user) == (record.sender, record.outcome, record.actor_label)
    trace = Trace.objects.get(trace_id=record.trace_id)
    assert ("command", "signalbox export", "ok", 1) == (trace.kind, trace.name, trace.status, trace.events)


@pytest.mark.parametrize("environment", [{}, {"SIGNALBOX_DISABLED": "1"}], ids=["enabled", "disabled"])
def test_no_setting_hides_the_record(environment: dict[str, str]) -> None:
    create_events(1)
    done = start("export", **environment)
    assert ("", 0) == (done.communicate(timeout=60)[1], done.returncode)
    assert 1 == get_record().data["args"]["events"]


class DropEverything(signalbox.EventProcessor):
    def on_event(self, event: Any) -> None:
        event.extra = {"site": "north"}

    def on_trace_end(self, trace: Any) -> bool:
        return False


def test_an_event_processor_can_add_data_and_not_drop_the_record() -> None:
    create_events(1)
    processor = f"{__name__}.DropEverything"
    with override_settings(SIGNALBOX={"RECORD": [], "IGNORE": ["signalbox"], "PROCESSORS": [processor]}):
        signalbox.start_recording()
        try:
            export()
        finally:
            signalbox.stop_recording()
    assert {"site": "north"} == get_record().data["extra"]


def test_the_record_can_be_found_before_the_first_export() -> None:
    with pytest.raises(SystemExit) as raised:  # no error about an unknown signal
        call_command("signalbox", "events", "--signal", "signalbox.exported", stdout=io.StringIO())
    assert 1 == raised.value.code


def test_a_secret_in_the_filter_is_redacted() -> None:
    with pytest.raises(SystemExit):
        export("--text", "password=hunter2")
    assert "hunter2" not in json.dumps(get_record().data)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_export_keeps_no_file_and_is_recorded(number: int, tmp_path: Path) -> None:
    create_events(20_000)
    target = tmp_path / "events.csv.gz"
    started = start("export", "--format", "csv", "--output", str(target))
    until = time.monotonic() + 30
    while not any(path.stat().st_size > 4_096 for path in tmp_path.iterdir()):  # more than the header
        assert time.monotonic() < until
        time.sleep(0.01)
    started.send_signal(number)
    out, err = started.communicate(timeout=60)
    assert ("", 1) == (out, started.returncode), err
    found = get_record().data["args"]
    assert (
        f"Interrupted after {found['events']:,} events up to id {found['last_id']}. {target} was not written.\n" == err
    )
    assert (False, []) == (found["is_complete"], list(tmp_path.iterdir()))
    assert 0 < found["events"] < 20_000


def test_a_reader_that_ends_early_is_no_error_and_recorded() -> None:
    create_events(5_000)
    started = start("export")
    assert started.stdout is not None
    started.stdout.readline()
    started.stdout.close()
    assert started.stderr is not None
    assert (0, "") == (started.wait(60), started.stderr.read())
    started.stderr.close()
    found = get_record().data["args"]
    assert not found["is_complete"]
    assert found["events"] < 5_000


@pytest.mark.parametrize("number", [3, 5_000])
def test_a_full_disk_is_an_error_and_the_export_is_recorded_as_incomplete(number: int) -> None:
    create_events(number)
    with open("/dev/full", "w") as full:
        started = start("export", stdout=full)
        _, err = started.communicate(timeout=60)
    found = get_record().data["args"]
    assert (1, False) == (started.returncode, found["is_complete"]), err
    count = f"{found['events']} events" + (f" up to id {found['last_id']}" if found["events"] else "")
    message = f"stdout can't be written: No space left on device, after {count}. The output is incomplete."
    assert f"CommandError: {message}\n" == err


# ------------------------------------------------------------------ the file


def test_a_file_is_private_and_the_command_says_what_it_contains(tmp_path: Path) -> None:
    create_events(1_234)
    target = tmp_path / "events.jsonl"
    assert f"Exported 1,234 events to {target}.\n" == export("--output", str(target))
    assert 0o600 == stat.S_IMODE(target.stat().st_mode)
    assert 1_234 == len(target.read_text().splitlines())
    assert [target] == list(tmp_path.iterdir())


def test_a_file_whose_name_ends_in_gz_is_compressed(tmp_path: Path) -> None:
    create_events(2)
    target = tmp_path / "events.jsonl.gz"
    export("--output", str(target))
    assert 2 == len(gzip.decompress(target.read_bytes()).splitlines())


def test_an_existing_file_is_replaced_only_by_force(tmp_path: Path) -> None:
    create_events(1)
    target = tmp_path / "events.jsonl"
    target.write_text("precious")
    with pytest.raises(CommandError, match=r"events.jsonl exists. Name another file, or replace it with --force."):
        export("--output", str(target))
    assert "precious" == target.read_text()
    export("--output", str(target), "--force")
    assert TRACE_ID in target.read_text()


def test_a_device_and_a_missing_directory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="is not a regular file"):
        export("--output", str(tmp_path), "--force")
    with pytest.raises(CommandError, match="can't be written: No such file or directory"):
        export("--output", str(tmp_path / "missing" / "events.csv"))


def test_progress_is_shown_on_a_terminal_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    create_events(401)
    monkeypatch.setattr("signalbox.management.output.progress.REDRAW_SECONDS", 0)
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    export("--output", str(tmp_path / "events.jsonl"))
    assert "\r\x1b[Kexport  [############------------]   50%  200 events" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_csv_in_a_pipe_is_utf8_whatever_the_encoding_of_the_process_is() -> None:
    create_event(object_label="Straße")
    started = start("export", "--format", "csv", PYTHONIOENCODING="ascii")
    out, err = started.communicate(timeout=60)
    assert ("", 0) == (err, started.returncode)
    assert ["Straße"] == [row["object_label"] for row in csv.DictReader(io.StringIO(out, newline=""))]
