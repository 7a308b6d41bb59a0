"""What runs and what is written, put side by side for the rules."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from signalbox.doctor import factories
from signalbox.doctor.recorded_stats import Record
from signalbox.doctor.runtime import Connection, Model, Runtime, Sender
from signalbox.doctor.scopes import Frame
from signalbox.doctor.source_model import Connect, Function, Module, Source


@dataclass(frozen=True, kw_only=True, eq=False)
class Heard:
    """One function that hears one signal, by the process or by the source."""

    signal: str
    """The signal by name."""
    function: Function
    """The function."""
    connect: Connect | None
    """Where the source connects it."""
    connection: Connection | None
    """How the process has it connected."""

    @property
    def receiver(self) -> str:
        """Its dotted name."""
        return self.function.dotted

    @property
    def later(self) -> bool:
        """Whether signalbox runs it after commit."""
        return self.connect is not None and self.connect.later


@dataclass(frozen=True, kw_only=True, eq=False)
class Project:
    """All that a rule may ask."""

    runtime: Runtime
    """The process."""
    source: Source
    """The source."""
    records: tuple[Record, ...] = ()
    """How receivers did in the recorded events."""
    _frames: dict[Function, tuple[Frame, ...]] = field(default_factory=dict, repr=False)

    @cached_property
    def live(self) -> Mapping[tuple[str, str, int], tuple[Connection, ...]]:
        """Connections whose receiver lives, by signal, file and first line."""
        found: defaultdict[tuple[str, str, int], list[Connection]] = defaultdict(list)
        for connection in self.runtime.connections:
            if connection.alive and connection.path:
                found[connection.signal, connection.path, connection.line].append(connection)
        return {key: tuple(connections) for key, connections in found.items()}

    @cached_property
    def sites(self) -> Mapping[tuple[str, str, int], tuple[Connect, ...]]:
        """Where the source connects a function, by signal and the function's file and first line."""
        found: defaultdict[tuple[str, str, int], list[Connect]] = defaultdict(list)
        for connect in self.source.connects:
            if connect.function:
                for signal in connect.signals:
                    found[signal, connect.function.path, connect.function.line].append(connect)
        return {key: tuple(connects) for key, connects in found.items()}

    @cached_property
    def heard(self) -> tuple[Heard, ...]:
        """Every function that hears a signal, once for each signal."""
        found: dict[tuple[str, str, int], Heard] = {}
        for key, connects in self.sites.items():
            function = connects[0].function
            connection = next(iter(self.live.get(key, ())), None)
            if function:  # it has one, by which it was filed
                found[key] = Heard(signal=key[0], function=function, connect=connects[0], connection=connection)
        for key, connections in self.live.items():
            function = self.source.functions.get(key[1:])
            if key not in found and function:
                found[key] = Heard(signal=key[0], function=function, connect=None, connection=connections[0])
        return tuple(found.values())

    def frames(self, heard: Heard) -> tuple[Frame, ...]:
        """Return the receiver, and the functions of its module that it calls itself, as they run for a send."""
        found = self._frames.get(heard.function)
        if found is None:
            found = self._frames[heard.function] = tuple(self._called(heard.function))
        return found

    def _called(self, function: Function) -> Iterator[Frame]:
        frame = Frame(function=function)
        yield frame
        told = {function}
        for call, conditions in function.calls:
            called = self.source.named.get(function.resolve(call.func))
            if (
                called
                and called.module == function.module
                and not called.opaque
                and not called.method
                and called not in told
            ):
                told.add(called)
                yield frame.calling(called, call, conditions)

    def hands_on(self, signal: str) -> bool:
        """Whether others than the places that are read may send or hear the signal."""
        return self.source.hands_on(signal) or signal in self.runtime.entries or signal in self._held_elsewhere

    @cached_property
    def _held_elsewhere(self) -> frozenset[str]:
        """The signals that an imported module holds whose source isn't read, as a library's."""
        return frozenset(
            signal
            for path, signal in self.runtime.aliases.items()
            if not {path.rpartition(".")[0], path.rpartition(".")[0].rpartition(".")[0]} & self.source.files.keys()
        )

    def loaded(self, module: str) -> bool:
        """Whether the module is imported."""
        return module in self.runtime.modules

    def connections(self, connect: Connect, signal: str) -> tuple[Connection, ...]:
        """Return what lives in the process of what the source connects there."""
        function = connect.function or self.made(connect)
        return self.live.get((signal, function.path, function.line), ()) if function else ()

    def made(self, connect: Connect) -> Function | None:
        """Return the function that a call makes anew for this connection."""
        factory = self.source.named.get(connect.target) if connect.kind == "temporary" else None
        return factories.product(factory, self.source.named) if factory else None

    def site(self, connection: Connection) -> Connect | None:
        """Return where the source makes this connection: where the sender agrees, else where no other's does."""
        key = (connection.signal, connection.path, connection.line)
        sites = self.sites.get(key, ())
        agreeing = [site for site in sites if self.agrees(site, connection.sender)]
        senders = [other.sender for other in self.live.get(key, ())]
        spare = [site for site in sites if not any(self.agrees(site, sender) for sender in senders)]
        return next(iter(agreeing or spare or sites), None)

    @staticmethod
    def agrees(connect: Connect, sender: Sender) -> bool:
        """Whether the sender as written may be that of a connection, by its last name."""
        if connect.sender is None or sender.kind == "any":
            return (connect.sender is None) == (sender.kind == "any")
        return (
            bool(sender.name)
            and ast.unparse(connect.sender).strip("'\"").rpartition(".")[2] == sender.name.rpartition(".")[2]
        )

    def held(self, connect: Connect, signal: str) -> bool:
        """Whether something keeps the receiver: it lives, and not by the accident of DEBUG."""
        return any(not connection.accidental for connection in self.connections(connect, signal))

    def module(self, name: str) -> Module | None:
        """Return a parsed module."""
        return self.source.modules.get(name)

    def model(self, path: str) -> Model | None:
        """Return the model at a dotted path; an import may lead to it by way of another module of its app."""
        home, _, name = path.rpartition(".")
        module = self.source.modules.get(home)
        for candidate in (path, *(f"{star}.{name}" for star in (module.stars if module else ()))):
            found = self._models_by_path.get(candidate) or self._models_by_name.get((candidate.partition(".")[0], name))
            if found:
                return found
        return None

    @cached_property
    def _models_by_path(self) -> Mapping[str, Model]:
        return {model.path: model for model in self.runtime.models.values()}

    @cached_property
    def _models_by_name(self) -> Mapping[tuple[str, str], Model | None]:
        found: dict[tuple[str, str], Model | None] = {}
        for model in self.runtime.models.values():
            key = (model.path.partition(".")[0], model.path.rpartition(".")[2])
            found[key] = None if key in found else model  # two of one name: the import says nothing
        return found

    def sender_models(self, heard: Heard) -> tuple[Model, ...]:
        """Return the models that the function listens to; none if it hears all, or if they can't be told."""
        key = (heard.signal, heard.function.path, heard.function.line)
        models = [connection.sender.model for connection in self.live.get(key, ())]
        models += [self.model(connect.sender_path) for connect in self.sites.get(key, ()) if connect.sender_path]
        return tuple({model.label: model for model in models if model}.values())

    def senderless(self, heard: Heard) -> bool:
        """Whether the function hears every sender: by the process where it lives there, else by the source."""
        key = (heard.signal, heard.function.path, heard.function.line)
        if connections := self.live.get(key):
            return any(connection.sender.kind == "any" for connection in connections)
        return any(connect.sender is None for connect in self.sites.get(key, ()))
