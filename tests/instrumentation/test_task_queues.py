from __future__ import annotations

import contextvars
import logging
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import celery
import django
import pytest
from asgiref.sync import async_to_sync
from celery import signals
from celery.contrib.testing.worker import start_worker
from django.contrib.auth.models import User
from django.dispatch import Signal
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import path

import signalbox
from signalbox.core import tracing
from signalbox.instrumentation import task_queues
from signalbox.models import Error, Event, Trace
from tests.shop.models import Tag

LIBRARY = "django.tasks" if django.VERSION >= (6, 0) else "django_tasks"
IMMEDIATE = f"{LIBRARY}.backends.immediate.ImmediateBackend"
django_task: Any = import_module(LIBRARY).task

signalbox.start_recording()  # the libraries have been imported only now


@pytest.fixture
def app() -> Iterator[Any]:
    """An app of Celery with jobs, which run where they are sent."""
    made: Any = celery.Celery("tests", broker="memory://", backend="cache+memory://", set_as_current=False)
    made.conf.update(task_always_eager=True, task_default_queue=f"signalbox-{uuid.uuid4().hex}")

    @made.task(name="shop.tag", shared=False)  # type: ignore[untyped-decorator]
    def tag(name: str) -> str:
        Tag.objects.create(name=name)
        return tracing.get_current_trace().id

    @made.task(name="shop.fail", shared=False)  # type: ignore[untyped-decorator]
    def fail() -> None:
        Tag.objects.create(name="ash")
        raise ValueError("no coal")

    @made.task(name="shop.fail_unpicklable", shared=False)  # type: ignore[untyped-decorator]
    def fail_unpicklable() -> None:
        raise Unpicklable("no key")

    @made.task(name="shop.again", shared=False, bind=True, max_retries=1)  # type: ignore[untyped-decorator]
    def again(self: Any) -> None:
        Tag.objects.create(name="again")
        raise self.retry(countdown=0)

    yield made
    made.close()


@django_task  # type: ignore[untyped-decorator]
def tag_later(name: str) -> None:
    Tag.objects.create(name=name)


@django_task  # type: ignore[untyped-decorator]
def fail_later() -> None:
    Tag.objects.create(name="ash")
    raise ValueError("no coal")


@pytest.fixture
def immediate() -> Iterator[None]:
    with override_settings(TASKS={"default": {"BACKEND": IMMEDIATE}}):
        yield


class Unpicklable(Exception):
    """An exception that Celery can't send to another process."""

    def __init__(self, lock: object) -> None:
        super().__init__(lock)
        self.lock = threading.Lock()


def newest(**fields: Any) -> Trace:
    found = Trace.objects.filter(**fields).order_by("-id").first()
    assert isinstance(found, Trace)
    return found


# ------------------------------------------------------------------ Celery


@pytest.mark.django_db
def test_an_eager_job_is_a_trace_of_the_work_that_sent_it(app: Any) -> None:
    with signalbox.trace("import", actor="nightly") as around:
        app.tasks["shop.tag"].delay("steam")

    row = newest(kind="task")
    assert ("shop.tag", "ok", "nightly") == (row.name, row.status, row.actor_label)
    assert around.id == row.trace_id == Event.objects.get(signal="post_save", object_label="steam").trace_id
    assert tracing.get_current_trace().kind != "task"


@pytest.mark.django_db
def test_an_eager_job_without_a_sender_has_its_own_trace(app: Any) -> None:
    trace_id = contextvars.Context().run(lambda: app.tasks["shop.tag"].delay("steam").get())

    assert trace_id != tracing.get_process_trace().id
    assert trace_id == newest(kind="task").trace_id


@pytest.mark.django_db
@pytest.mark.parametrize(("name", "status"), [("shop.fail", "failed"), ("shop.again", "retry")])
def test_a_job_s_trace_ends_with_its_state(app: Any, name: str, status: str) -> None:
    with signalbox.trace("around") as around:
        app.tasks[name].apply(throw=False)
        assert tracing.get_current_trace() is around

    assert (name, status) == Trace.objects.filter(kind="task").order_by("id").values_list("name", "status")[0]


def read_errors() -> list[tuple[str, str, str, int | None]]:
    return [(row.exception, row.message, row.function, row.span) for row in Error.objects.order_by("id")]


FAIL = ("ValueError", "no coal", "app.<locals>.fail", None)


@pytest.mark.django_db
def test_an_exception_that_fails_a_job_is_one_error_of_the_job_s_trace(app: Any) -> None:
    app.tasks["shop.fail"].apply(throw=False)

    assert [FAIL] == read_errors()
    row = newest(kind="task")
    assert (1, row.trace_id) == (row.errors, Error.objects.get().trace_id)
    assert "tests/instrumentation/test_task_queues.py" == Error.objects.get().file


@pytest.mark.django_db
def test_an_exception_that_celery_can_not_pickle_has_its_own_class_and_place(app: Any) -> None:
    app.tasks["shop.fail_unpicklable"].apply(throw=False)

    assert [(f"{__name__}.Unpicklable", "no key", "app.<locals>.fail_unpicklable", None)] == read_errors()


@pytest.mark.django_db
@pytest.mark.parametrize("is_thrown", [True, False])
def test_an_exception_of_a_job_that_reaches_the_sender_is_one_error(app: Any, is_thrown: bool) -> None:
    with pytest.raises(ValueError, match="no coal"), signalbox.trace("around"):
        app.tasks["shop.fail"].apply(throw=is_thrown).get()

    assert [FAIL] == read_errors()
    assert "failed" == newest(kind="task").status


@pytest.mark.django_db
def test_a_job_that_is_tried_again_has_no_error_until_it_fails(app: Any) -> None:
    app.tasks["shop.again"].apply(throw=False)

    [(exception, _, _, _)] = read_errors()
    assert "celery.exceptions.MaxRetriesExceededError" == exception


@pytest.mark.django_db
def test_a_receiver_s_exception_that_fails_the_job_is_one_error(app: Any) -> None:
    sent = Signal()
    signalbox.register_signal(sent, "tests.sent_by_a_job")

    def refuse(**named: Any) -> None:
        raise LookupError("no stock")

    @app.task(name="shop.send", shared=False)  # type: ignore[untyped-decorator]
    def send() -> None:
        sent.send(None)

    sent.connect(refuse)
    send.apply(throw=False)

    [(exception, _, function, span)] = read_errors()
    assert "LookupError" == exception
    assert function.endswith("refuse")
    assert span is not None
    assert "failed" == newest(kind="task").status


@pytest.mark.django_db
def test_a_failed_job_of_another_process_does_not_change_the_current_trace() -> None:
    with signalbox.trace("around") as around:
        signals.task_failure.send(None, task_id="unknown", exception=ValueError("lost"), traceback="text")

    assert 0 == around.errors
    assert not Error.objects.exists()


@pytest.fixture
def _logging_as_it_was() -> Iterator[None]:
    """Restore the root logger of this process, which a worker of Celery changes."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    root.handlers[:] = handlers


@pytest.mark.redis
@pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")  # by Celery
@pytest.mark.django_db(transaction=True, databases=["default", "other"])  # the worker checks the project
@pytest.mark.usefixtures("_logging_as_it_was")
def test_a_job_continues_the_trace_and_the_actor_of_the_request(app: Any, redis_url: str) -> None:
    user = User.objects.create_user("ann")
    app.conf.update(task_always_eager=False, broker_url=redis_url, result_backend=redis_url)
    with start_worker(app, perform_ping_check=False, pool="solo", loglevel=logging.ERROR):
        with signalbox.trace("order", actor=user) as trace:
            ran_in = app.tasks["shop.tag"].delay("steam").get(timeout=20)
        alone = contextvars.Context().run(lambda: app.tasks["shop.tag"].delay("alone").get(timeout=20))
        with pytest.raises(ValueError, match="no coal"):
            app.tasks["shop.fail"].delay().get(timeout=20)
        app.control.purge()

    assert [FAIL] == read_errors()
    assert trace.id == ran_in
    assert alone not in (trace.id, tracing.get_process_trace().id)
    event = Event.objects.get(signal="post_save", object_label="steam")
    assert (trace.id, str(user.pk), "ann") == (event.trace_id, event.actor_key, event.actor_label)
    assert "" == Event.objects.get(signal="post_save", object_label="alone").actor_label
    rows = Trace.objects.filter(kind="task").order_by("id")
    assert [("shop.tag", "ok", "ann"), ("shop.tag", "ok", ""), ("shop.fail", "failed", "")] == [
        (row.name, row.status, row.actor_label) for row in rows
    ]


@pytest.mark.parametrize("sent", [None, "ann", ["ann"], [1, 2], ["1", "ann", "x"], {"1": "ann"}])
def test_an_actor_in_a_message_that_signalbox_did_not_write_is_none(sent: object) -> None:
    request = SimpleNamespace(**{task_queues.ACTOR_HEADER: sent})
    signals.task_prerun.send(None, task_id="17", task=SimpleNamespace(name="shop.tag", request=request))
    try:
        trace = tracing.get_current_trace()
        assert ("task", "shop.tag", None) == (trace.kind, trace.name, trace.get_actor())
    finally:
        signals.task_postrun.send(None, task_id="17", state="SUCCESS")


def test_a_message_without_a_dict_of_headers_is_ignored() -> None:
    assert all(error is None for _, error in signals.before_task_publish.send(None, headers=None))


def test_a_message_keeps_the_traceparent_that_the_application_gave_it() -> None:
    headers = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
    with signalbox.trace("order", actor="ann"):
        signals.before_task_publish.send(None, headers=headers)

    assert "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01" == headers["traceparent"]
    assert ["", "ann"] == headers[task_queues.ACTOR_HEADER]  # type: ignore[comparison-overlap]


def test_the_end_of_a_job_that_began_before_recording_ends_nothing() -> None:
    with signalbox.trace("around") as around:
        signals.task_postrun.send(None, task_id="unknown", state="SUCCESS")
        assert tracing.get_current_trace() is around


@pytest.mark.slow
@pytest.mark.parametrize("module", ["celery", "django.tasks", "django_tasks"])
def test_nothing_is_imported_that_the_project_does_not_use(module: str) -> None:
    code = f"import django, sys; django.setup(); sys.exit({module!r} in sys.modules)"
    assert 0 == subprocess.run([sys.executable, "-c", code], check=False).returncode


def test_recording_that_is_switched_off_disconnects_celery_s_signals() -> None:
    before = len(signals.task_prerun.receivers)
    signalbox.stop_recording()
    try:
        assert before - 1 == len(signals.task_prerun.receivers)
    finally:
        signalbox.start_recording()
    assert before == len(signals.task_prerun.receivers)


# ------------------------------------------------------------------ Django's Tasks


@pytest.mark.django_db
@pytest.mark.usefixtures("immediate")
def test_a_task_is_a_trace_by_its_dotted_path() -> None:
    with signalbox.trace("order", actor="ann") as around:
        result = tag_later.enqueue("steam")

    row = newest(kind="task")
    assert (f"{__name__}.tag_later", "ok", "ann") == (row.name, row.status, row.actor_label)
    assert (around.id, result.id) == (row.trace_id, row.data["task_id"])
    assert around.id == Event.objects.get(signal="post_save").trace_id
    assert tracing.get_current_trace().kind != "task"


@pytest.mark.django_db
@pytest.mark.usefixtures("immediate")
def test_a_task_that_fails_says_so() -> None:
    fail_later.enqueue()

    row = newest(kind="task")
    assert ("failed", 1) == (row.status, row.errors)
    [error] = Error.objects.all()
    assert ("ValueError", "no coal", "fail_later", row.trace_id) == (
        error.exception,
        error.message,
        error.function,
        error.trace_id,
    )


@pytest.mark.django_db
@pytest.mark.usefixtures("immediate")
def test_a_task_that_fails_while_an_exception_is_handled_has_its_own_error() -> None:
    try:
        raise LookupError("handled")
    except LookupError:
        fail_later.enqueue()
        tag_later.enqueue("steam")

    assert ["ValueError"] == list(Error.objects.values_list("exception", flat=True))


@pytest.mark.django_db
@pytest.mark.usefixtures("immediate")
def test_a_failure_that_a_backend_reports_without_its_exception_has_the_class() -> None:
    found: list[Any] = []
    finished = import_module(f"{LIBRARY}.signals").task_finished
    started = import_module(f"{LIBRARY}.signals").task_started

    def keep(task_result: Any, **named: Any) -> None:
        found.append(task_result)

    finished.connect(keep)
    try:
        fail_later.enqueue()
    finally:
        finished.disconnect(keep)
    Error.objects.all().delete()
    started.send(None, task_result=found[0])
    finished.send(None, task_result=found[0])

    [error] = Error.objects.all()
    assert ("ValueError", "", "", None) == (error.exception, error.message, error.file, error.line)


def enqueue(request: HttpRequest) -> HttpResponse:
    tag_later.enqueue("steam")
    return HttpResponse("later")


async def aenqueue(request: HttpRequest) -> HttpResponse:
    await tag_later.aenqueue("steam")
    return HttpResponse(tracing.get_current_trace().kind)


urlpatterns = [path("enqueue/", enqueue), path("aenqueue/", aenqueue)]


@pytest.mark.django_db
@pytest.mark.usefixtures("immediate")
@override_settings(ROOT_URLCONF=__name__)
def test_a_task_within_a_request_has_the_request_s_trace_id() -> None:
    Client().get("/enqueue/")

    assert newest(kind="request").trace_id == newest(kind="task").trace_id


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("immediate")
@override_settings(ROOT_URLCONF=__name__)
def test_a_task_within_an_asynchronous_request_leaves_the_request_s_trace_current() -> None:
    response = async_to_sync(AsyncClient().get)("/aenqueue/")

    assert b"request" == response.content
    assert newest(kind="request").trace_id == newest(kind="task").trace_id
