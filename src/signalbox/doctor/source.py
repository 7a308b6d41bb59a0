"""Find and parse the files of the installed apps, and join the results. Nothing is imported or run."""

from __future__ import annotations

import os
import tokenize
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from importlib.machinery import PathFinder
from itertools import chain
from types import MappingProxyType
from typing import Final

from signalbox.core import catalog
from signalbox.doctor.import_graph import parse_imports
from signalbox.doctor.module_reader import ModuleReader
from signalbox.doctor.runtime import is_external, real_path
from signalbox.doctor.runtime_model import App
from signalbox.doctor.source_model import ConnectCall, Function, Module, SignalDefinition, Source
from signalbox.doctor.syntax import parse_module

SIGNAL_CLASSES: Final = frozenset(
    {"django.dispatch.Signal", "django.dispatch.dispatcher.Signal", "django.db.models.signals.ModelSignal"}
)

_SKIPPED_DIRECTORIES: Final = frozenset(
    {"__pycache__", "locale", "migrations", "node_modules", "static", "templates", "test", "tests"}
)
_SIGNAL_HINTS: Final = ("receiver", "ignal", ".connect(", ".send(", ".send_robust(", ".asend(", ".asend_robust(")


def read_source(
    apps: Iterable[App],
    aliases: Mapping[str, str],
    extra_paths: Iterable[str] = (),
    *,
    project_files: Mapping[str, str] = MappingProxyType({}),
    entry_points: Iterable[str] = (),
) -> Source:
    """Parse the apps' files.

    Args:
        apps: Whose files to read.
        aliases: Dotted path to name of the signals that the process knows.
        extra_paths: Absolute paths of files to parse even if they do not mention signals.
        project_files: Files of imported modules of the project that are in no app. They are not parsed; only their
            imports are read, from their text.
        entry_points: Dotted names of code that is imported later. Modules that are in no app are read like
            ``project_files``.
    """
    files = dict(_iter_files(apps))
    texts = {path: _read_text(path) for path in files.values()}
    required_paths = set(extra_paths)
    readers: dict[str, ModuleReader] = {}

    def parse(name: str) -> None:
        path = files[name]
        tree = parse_module(texts[path])
        if tree is not None:
            readers[name] = ModuleReader(name, path, texts[path], tree)

    for name, path in files.items():
        if path in required_paths or any(word in texts[path] for word in _SIGNAL_HINTS):
            parse(name)
    # A receiver that is connected by name may be defined in a file that does not mention signals.
    for target in {connect.receiver_path for reader in readers.values() for connect in reader.connect_calls}:
        name = target.rpartition(".")[0]
        if name in files and name not in readers:
            parse(name)
    outside_apps = {name: path for name, path in project_files.items() if name not in files}
    texts |= {path: _read_text(path) for path in outside_apps.values()}
    files |= outside_apps
    imports = {name: _parse_file_imports(name, path, texts[path]) for name, path in files.items()}
    locate = _ModuleLocator()
    queue = [*entry_points, *chain.from_iterable(imports.values())]
    while queue:
        target = queue.pop()
        for name in (target, target.rpartition(".")[0]):  # a module, or an attribute of one
            if name not in files and (path := locate(name)):
                files[name], texts[path] = path, _read_text(path)
                imports[name] = _parse_file_imports(name, path, texts[path])
                queue += imports[name]
    return _build_source(readers, files, texts, imports, aliases)


# Files


def _iter_files(apps: Iterable[App]) -> Iterator[tuple[str, str]]:
    apps = list(apps)
    roots = {app.path for app in apps}
    for app in apps:
        yield from _walk_directory(app.path, app.module, roots)


def _walk_directory(path: str, module: str, excluded: set[str]) -> Iterator[tuple[str, str]]:
    """Yield module name and path of the files in a directory, without ``excluded`` directories and parents."""
    excluded = excluded | {path}
    try:
        entries = sorted(os.scandir(path), key=lambda entry: entry.name)
    except OSError:  # an app in a zip file, or a deleted directory
        return
    for entry in entries:
        name, separator, ending = entry.name.partition(".")
        if not name.isidentifier():
            continue
        if not separator and os.path.isdir(entry.path):
            directory = _real_path(entry)
            # A folder with a manage.py is a project of its own.
            if (
                name not in _SKIPPED_DIRECTORIES
                and directory not in excluded
                and not os.path.exists(os.path.join(directory, "manage.py"))
            ):
                yield from _walk_directory(directory, f"{module}.{name}", excluded)
        elif ending == "py" and not name.startswith("test_") and name not in {"conftest", "tests"}:
            yield (module if name == "__init__" else f"{module}.{name}"), _real_path(entry)


def _real_path(entry: os.DirEntry[str]) -> str:
    """Return the path without symbolic links. The path of the directory has none."""
    return real_path(entry.path) if entry.is_symlink() else entry.path


def _read_text(path: str) -> str:
    """Return the text of a file in its declared encoding; empty if it can't be read."""
    try:
        try:
            with tokenize.open(path) as file:
                return file.read()
        except (SyntaxError, UnicodeDecodeError):  # the declared encoding is wrong
            with open(path, encoding="utf-8", errors="replace") as file:
                return file.read()
    except OSError:  # deleted since it was listed
        return ""


def _parse_file_imports(name: str, path: str, text: str) -> frozenset[str]:
    return parse_imports(text, name, package=path.endswith("__init__.py"))


class _ModuleLocator:
    """Finds the files of the project's own modules, imported or not."""

    def __init__(self) -> None:
        self._roots: dict[str, list[str]] = {}

    def __call__(self, name: str) -> str:
        """Return the file of a module; empty if there is none or if it is external."""
        top, _, rest = name.partition(".")
        roots = self._roots.get(top)
        if roots is None:
            roots = self._roots[top] = list(self._find_roots(top)) if top.isidentifier() else []
        stems = [os.path.join(root, *rest.split(".")) if rest else root for root in roots]
        paths = [stem + ending for stem in stems for ending in (".py", f"{os.sep}__init__.py")]
        return next((real_path(path) for path in paths if os.path.isfile(path)), "")

    @staticmethod
    def _find_roots(top: str) -> Iterator[str]:
        """Yield the paths of the top-level module or package, without the file extension."""
        spec = PathFinder.find_spec(top)
        if spec is not None:
            locations = spec.submodule_search_locations or [(spec.origin or "").removesuffix(".py")]
            yield from (
                location for location in locations if not is_external(location) and not is_external(real_path(location))
            )


# All files


def _build_source(
    readers: Mapping[str, ModuleReader],
    files: Mapping[str, str],
    texts: Mapping[str, str],
    imports: Mapping[str, frozenset[str]],
    aliases: Mapping[str, str],
) -> Source:
    signal_names = {**aliases, **{name: name for name in catalog.BUILTIN_SIGNALS}}
    definitions = tuple(_iter_signal_definitions(readers.values(), aliases, signal_names))
    resolver = _Resolver(readers, signal_names)
    return Source(
        modules=resolver.modules,
        connect_calls=tuple(_iter_connect_calls(readers.values(), resolver)),
        disconnected=frozenset(
            (signal, local_name)
            for reader in readers.values()
            for path, local_name in reader.disconnected
            for signal in resolver.iter_signals([path], reader)
        ),
        send_calls=tuple(
            replace(send, signal=signal)
            for reader in readers.values()
            for path, send in reader.send_calls
            for signal in resolver.iter_signals([path], reader)
        ),
        signal_definitions=definitions,
        escaping_signals=_find_escaping_signals(readers.values(), files, resolver),
        functions={(f.path, f.line): f for reader in readers.values() for f in reader.functions},
        files=files,
        texts=texts,
        imports=imports,
    )


class _Resolver:
    """Finds signals, functions and modules by the dotted paths in the source."""

    def __init__(self, readers: Mapping[str, ModuleReader], signal_names: Mapping[str, str]) -> None:
        self.signal_names = signal_names
        self.modules = {
            name: Module(
                name=name,
                path=reader.path,
                tree=reader.tree,
                names=reader.names,
                star_imports=tuple(reader.star_imports),
                is_script=reader.is_script,
            )
            for name, reader in readers.items()
        }
        self._functions = {f.dotted_name: f for reader in readers.values() for f in reader.functions}

    def find_function(self, path: str) -> Function | None:
        """Return the function at a dotted path, also by way of an instance that a module holds."""
        if path in self._functions:
            return self._functions[path]
        owner, _, name = path.rpartition(".")
        if owner in self.modules:
            return self._functions.get(f"{self.modules[owner].instances.get(name)}.__call__")
        owner, _, instance = owner.rpartition(".")
        if owner in self.modules:
            return self._functions.get(f"{self.modules[owner].instances.get(instance)}.{name}")
        return None

    def iter_signals(self, paths: Iterable[str], reader: ModuleReader) -> Iterator[str]:
        """Yield the names of the signals at dotted paths, also by way of star imports."""
        for path in paths:
            local_name = path.removeprefix(f"{reader.name}.")
            candidates = (path, *(f"{star}.{local_name}" for star in reader.star_imports))
            yield from {self.signal_names[candidate] for candidate in candidates if candidate in self.signal_names}


def _iter_signal_definitions(
    readers: Iterable[ModuleReader], aliases: Mapping[str, str], signal_names: dict[str, str]
) -> Iterator[SignalDefinition]:
    """Yield the definitions of signals, and add new signals to ``signal_names``."""
    for reader in readers:
        for path, class_path, line in reader.signal_definitions:
            # Signals of imported modules are known. Elsewhere, a class named Signal may be another library's.
            if path in aliases or class_path in SIGNAL_CLASSES:
                yield SignalDefinition(
                    module=reader.name,
                    path=reader.path,
                    line=line,
                    signal=signal_names.setdefault(path, path),
                    in_class=path.count(".") > reader.name.count(".") + 1,
                )


def _iter_connect_calls(readers: Iterable[ModuleReader], resolver: _Resolver) -> Iterator[ConnectCall]:
    for reader in readers:
        for connect_call in reader.connect_calls:
            signals = tuple(dict.fromkeys(resolver.iter_signals(connect_call.signals, reader)))
            if signals:
                function = connect_call.function
                if function is None and connect_call.kind in {"function", "other"}:
                    function = resolver.find_function(connect_call.receiver_path)
                yield replace(connect_call, signals=signals, function=function)


def _find_escaping_signals(
    readers: Iterable[ModuleReader], files: Mapping[str, str], resolver: _Resolver
) -> frozenset[str]:
    """Return the signals that code uses as values, directly or by way of their module."""
    signals_by_module: defaultdict[str, set[str]] = defaultdict(set)
    for path, signal in resolver.signal_names.items():
        if (owner := path.rpartition(".")[0]) in files:
            signals_by_module[owner].add(signal)
    found: set[str] = set()
    for reader in readers:
        found.update(resolver.iter_signals(reader.mentioned_paths, reader))
        found.update(signal for path in reader.mentioned_paths for signal in signals_by_module.get(path, ()))
    return frozenset(found)
