"""Reading the source."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from signalbox.doctor import source
from signalbox.doctor.import_graph import resolve_import_name
from signalbox.doctor.runtime import real_path
from signalbox.doctor.runtime_model import App
from signalbox.doctor.source_model import ConnectCall, Source

ALIASES = {
    "django.db.models.signals.post_save": "post_save",
    "django.db.models.signals.pre_save": "pre_save",
    "django.db.models.signals.post_delete": "post_delete",
}

CONNECTING = """
from django.db.models.signals import post_save
from django.dispatch import receiver

@receiver(post_save)
def gehört(sender, **kwargs): ...
"""


def read(directory: Path, **files: str) -> Source:
    app = directory / "shop"
    app.mkdir()
    (app / "__init__.py").touch()
    for name, text in files.items():
        (app / f"{name}.py").write_text(dedent(text))
    path = real_path(str(app))
    return source.read_source([App(label="shop", module="shop", path=path, is_project_app=True, position=0)], ALIASES)


def only(found: Source) -> ConnectCall:
    (connect,) = found.connect_calls
    return connect


@pytest.mark.parametrize(
    "imports",
    [
        "from django.db.models.signals import post_save",
        "from django.db.models.signals import post_save as post_save",
        "from django.db.models import signals\npost_save = signals.post_save",
        "import django.db.models.signals\npost_save = django.db.models.signals.post_save",
        "from django.db.models.signals import *",
    ],
)
def test_a_signal_is_recognised_however_it_is_imported(tmp_path: Path, imports: str) -> None:
    found = read(tmp_path, receivers=imports + "\ndef on_save(sender, **kwargs): ...\npost_save.connect(on_save)\n")

    assert (("post_save",), "shop.receivers.on_save", "function") == (
        only(found).signals,
        only(found).receiver_path,
        only(found).kind,
    )


def test_objects_that_look_like_signals_are_ignored(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        receivers="""
            import sqlite3
            from sockets import channel
            sqlite3.connect("file")
            channel.connect(print)
            channel.send("receiver")
        """,
    )

    assert ((), ()) == (found.connect_calls, found.send_calls)


def test_a_decorator_may_have_several_signals_and_be_repeated(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        receivers="""
            from django.db.models.signals import post_delete, post_save, pre_save
            from django.dispatch import receiver

            @receiver([post_save, post_delete], sender="shop.Order", weak=False, dispatch_uid="x")
            @receiver(signal=pre_save)
            def on_save(sender, **kwargs): ...
        """,
    )

    assert [("post_save", "post_delete"), ("pre_save",)] == [connect.signals for connect in found.connect_calls]
    assert [False, True] == [connect.weak for connect in found.connect_calls]
    assert [5, 6] == [connect.line for connect in found.connect_calls]
    assert {5} == {connect.function.line for connect in found.connect_calls if connect.function}


def test_a_loop_over_signals_connects_each(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        receivers="""
            from django.db.models import signals
            def on_save(sender, **kwargs): ...
            for signal in (signals.pre_save, signals.post_save):
                signal.connect(on_save, None, False)
        """,
    )

    assert (("pre_save", "post_save"), False, None, True) == (
        only(found).signals,
        only(found).weak,
        only(found).sender_node,
        only(found).in_loop,
    )


def test_signalboxs_own_decorator_says_when_the_receiver_runs(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        receivers="""
            from django.db.models.signals import post_save
            from signalbox import receiver

            @receiver(post_save, durable=True)
            def later(sender, **kwargs): ...

            @receiver("post_save", sender="shop.Order", after_commit=False)
            def at_once(sender, **kwargs): ...
        """,
    )

    assert [("later", True), ("at_once", False)] == [(c.receiver_text, c.after_commit) for c in found.connect_calls]
    assert [("post_save",), ("post_save",)] == [connect.signals for connect in found.connect_calls]
    assert [True, True] == [connect.is_signalbox for connect in found.connect_calls]


def test_a_receiver_is_found_in_a_module_that_does_not_mention_signals(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        apps="""
            from django.apps import AppConfig

            class Config(AppConfig):
                def ready(self):
                    from django.db.models.signals import post_save
                    from .handlers import on_save
                    post_save.connect(on_save, sender=self.get_model("Order"))
        """,
        handlers="""
            def on_save(sender, **kwargs): ...
        """,
    )

    connect = only(found)
    assert connect.function is not None
    assert ("shop.handlers.on_save", 2) == (connect.function.dotted_name, connect.function.line)
    assert connect.enclosing_function is not None
    assert connect.enclosing_function.is_app_config_hook


def test_a_signal_of_a_module_that_is_not_imported_is_known_by_its_definition(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        events="from django.dispatch import Signal\npaid = Signal()\n",
        views="from .events import paid\ndef pay(order):\n    paid.send_robust(sender=None, order=order)\n",
    )

    assert ["shop.events.paid"] == [definition.signal for definition in found.signal_definitions]
    assert [("shop.events.paid", "send_robust", frozenset({"order"}))] == [
        (s.signal, s.method, s.argument_names) for s in found.send_calls
    ]
    assert not found.escapes("shop.events.paid")


def test_a_signal_given_to_other_code_may_be_sent_there(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        events="from django.dispatch import Signal\npaid = Signal()\nlost = Signal()\n",
        views="from .events import paid\nimport shop.tools\nshop.tools.later(paid)\n",
    )

    assert (True, False) == (found.escapes("shop.events.paid"), found.escapes("shop.events.lost"))


def test_tests_migrations_and_projects_of_their_own_are_left_out(tmp_path: Path) -> None:
    for folder in ("tests", "migrations", "example"):
        (tmp_path / "shop" / folder).mkdir(parents=True)
        (tmp_path / "shop" / folder / "receivers.py").touch()
    (tmp_path / "shop" / "example" / "manage.py").touch()
    (tmp_path / "shop" / "test_shop.py").touch()
    (tmp_path / "shop" / "models.py").touch()
    app = App(label="shop", module="shop", path=real_path(str(tmp_path / "shop")), is_project_app=True, position=0)

    assert ["shop.models"] == list(source.read_source([app], ALIASES).files)


def test_a_file_with_other_syntax_is_skipped(tmp_path: Path) -> None:
    found = read(tmp_path, receivers="{% if signal %}\nclass {{ name }}:\n")

    assert () == found.connect_calls


@pytest.mark.parametrize(
    ("name", "level", "package", "expected"),
    [
        ("shop.signals", 0, False, "shop.signals"),
        ("signals", 1, False, "shop.signals"),
        ("", 1, False, "shop"),
        ("signals", 1, True, "shop.views.signals"),
        ("core", 2, True, "shop.core"),
    ],
)
def test_relative_imports_are_made_absolute(name: str, level: int, package: bool, expected: str) -> None:
    assert expected == resolve_import_name(name, level, "shop.views", package=package)


def test_imports_are_found_however_they_are_written(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        views="""
            import a, b.c as d  # and more
            from e import (
                f,  # first
                g as h,
            )
            def view():
                from . import i
        """,
    )

    assert {"a", "b.c", "e", "e.f", "e.g", "shop", "shop.i"} == found.imports["shop.views"]


def test_a_recursive_link_is_followed_once(tmp_path: Path) -> None:
    inner = tmp_path / "shop" / "inner"
    inner.mkdir(parents=True)
    (inner / "models.py").touch()
    (tmp_path / "shop" / "loop").symlink_to(tmp_path / "shop", target_is_directory=True)
    (inner / "loop").symlink_to(tmp_path / "shop", target_is_directory=True)
    (inner / "nowhere").symlink_to(inner / "nowhere")
    app = App(label="shop", module="shop", path=real_path(str(tmp_path / "shop")), is_project_app=True, position=0)

    assert ["shop.inner.models"] == list(source.read_source([app], ALIASES).files)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(CONNECTING.encode("utf-8-sig"), id="a byte order mark"),
        pytest.param(b"# -*- coding: latin-1 -*-\n" + CONNECTING.encode("latin-1"), id="an encoding"),
        pytest.param(CONNECTING.encode(), id="neither"),
    ],
)
def test_a_file_is_read_in_its_declared_encoding(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "receivers.py").write_bytes(text)
    app = App(label="shop", module="shop", path=real_path(str(tmp_path / "shop")), is_project_app=True, position=0)

    assert ["shop.receivers.gehört"] == [
        connect.receiver_path for connect in source.read_source([app], ALIASES).connect_calls
    ]


@pytest.mark.parametrize("text", [b"\xff\xfe = 1\n", b"def x(:\n"])
def test_every_signal_in_an_unparsable_file_may_be_sent_there(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "events.py").write_text(
        "from django.dispatch import Signal\npaid = Signal()\nlost = Signal()\n"
    )
    (tmp_path / "shop" / "views.py").write_bytes(text + b"from .events import paid\npaid.send(sender=None)\n")
    app = App(label="shop", module="shop", path=real_path(str(tmp_path / "shop")), is_project_app=True, position=0)

    found = source.read_source([app], ALIASES)

    assert (True, False) == (found.escapes("shop.events.paid"), found.escapes("shop.events.lost"))


@pytest.mark.parametrize(
    "use",
    [
        "later(partial(events.paid.send, sender=None))",
        "tell = events.paid.send_robust",
        "TELL = {'paid': events.paid.asend}",
        "import_string('shop.events.paid')",
    ],
)
def test_code_with_a_signals_method_or_name_may_send_it(tmp_path: Path, use: str) -> None:
    found = read(
        tmp_path,
        events="from django.dispatch import Signal\npaid = Signal()\nlost = Signal()\n",
        signals=f"from . import events\n{use}\n",
    )

    assert (True, False) == (found.escapes("shop.events.paid"), found.escapes("shop.events.lost"))


def test_code_with_a_module_may_send_its_signals(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        events="from django.dispatch import Signal\npaid = Signal()\n",
        signals="from . import events\ndef tell(name):\n    getattr(events, name).send(sender=None)\n",
    )

    assert found.escapes("shop.events.paid")


def test_imported_modules_outside_of_apps_are_read_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "counter.py").write_text("from shop.events import paid\npaid.send(sender=None)\n")

    found = read(
        tmp_path,
        events="from django.dispatch import Signal\npaid = Signal()\n",
        views="def pay():\n    import counter\n",
    )

    assert found.escapes("shop.events.paid")


def test_the_urlconf_is_followed_though_it_is_in_no_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "roads.py").write_text("from django.urls import path\nfrom till import counter\n")
    (tmp_path / "till").mkdir()
    (tmp_path / "till" / "counter.py").write_text("import shop.views\n")

    found = source.read_source(
        [], ALIASES, entry_points=["roads", "django.middleware.common.CommonMiddleware", "default"]
    )

    assert {"roads": str(tmp_path / "roads.py"), "till.counter": str(tmp_path / "till" / "counter.py")} == found.files
    assert {"shop.views"} == found.imports["till.counter"]
