"""The examined project: the input of every rule.

It joins the process and the source. ``selection`` decides which findings are reported.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from signalbox.core.receiver_stats import ReceiverStats
from signalbox.doctor import factories
from signalbox.doctor.recorded_stats import DeliveryStats
from signalbox.doctor.runtime_model import Connection, Model, Runtime, Sender
from signalbox.doctor.scopes import Frame
from signalbox.doctor.source_model import ConnectCall, Function, Module, Source


@dataclass(frozen=True, kw_only=True, eq=False)
class Subscription:
    """One function connected to one signal, according to the process or the source."""

    signal: str
    """The signal by name."""
    function: Function
    """The function."""
    connect: ConnectCall | None
    """The call in the source that connects it."""
    connection: Connection | None
    """Its connection in the process."""

    @property
    def receiver(self) -> str:
        """Its dotted name."""
        return self.function.dotted_name

    @property
    def after_commit(self) -> bool:
        """Return True if signalbox runs it after commit."""
        return self.connect is not None and self.connect.after_commit


@dataclass(frozen=True, kw_only=True, eq=False)
class Project:
    """The process, the source and the recorded statistics."""

    runtime: Runtime
    """The process."""
    source: Source
    """The source."""
    receiver_stats: tuple[ReceiverStats, ...] = ()
    """Statistics of receivers in the recorded events."""
    delivery_stats: tuple[DeliveryStats, ...] = ()
    """Statistics of the stored deliveries of durable receivers."""
    _frame_cache: dict[Function, tuple[Frame, ...]] = field(default_factory=dict, repr=False)

    @cached_property
    def live_connections(self) -> Mapping[tuple[str, str, int], tuple[Connection, ...]]:
        """Connections whose receiver was not collected, by signal, file and first line."""
        connections_by_key: defaultdict[tuple[str, str, int], list[Connection]] = defaultdict(list)
        for connection in self.runtime.connections:
            if connection.is_alive and connection.path:
                connections_by_key[connection.signal, connection.path, connection.line].append(connection)
        return {key: tuple(connections) for key, connections in connections_by_key.items()}

    @cached_property
    def connect_calls(self) -> Mapping[tuple[str, str, int], tuple[ConnectCall, ...]]:
        """Calls in the source that connect a function, by signal and the function's file and first line."""
        calls_by_key: defaultdict[tuple[str, str, int], list[ConnectCall]] = defaultdict(list)
        for connect in self.source.connect_calls:
            if connect.function:
                for signal in connect.signals:
                    calls_by_key[signal, connect.function.path, connect.function.line].append(connect)
        return {key: tuple(connects) for key, connects in calls_by_key.items()}

    @cached_property
    def subscriptions(self) -> tuple[Subscription, ...]:
        """Every function that is connected to a signal, once for each signal."""
        subscriptions: dict[tuple[str, str, int], Subscription] = {}
        for key, connects in self.connect_calls.items():
            function = connects[0].function
            connection = next(iter(self.live_connections.get(key, ())), None)
            if function:  # always, as its line is part of the key
                subscriptions[key] = Subscription(
                    signal=key[0], function=function, connect=connects[0], connection=connection
                )
        for key, connections in self.live_connections.items():
            function = self.source.functions.get(key[1:])
            if key not in subscriptions and function:
                subscriptions[key] = Subscription(
                    signal=key[0], function=function, connect=None, connection=connections[0]
                )
        return tuple(subscriptions.values())

    def get_frames(self, subscription: Subscription) -> tuple[Frame, ...]:
        """Return the frames of the receiver and of the functions of its module that it calls directly."""
        frames = self._frame_cache.get(subscription.function)
        if frames is None:
            frames = self._frame_cache[subscription.function] = tuple(self._iter_frames(subscription.function))
        return frames

    def _iter_frames(self, function: Function) -> Iterator[Frame]:
        frame = Frame(function=function)
        yield frame
        visited = {function}
        for call, conditions in function.calls:
            called = self.source.functions_by_name.get(function.resolve(call.func))
            if (
                called
                and called.module == function.module
                and not called.has_unknown_decorator
                and not called.is_method
                and called not in visited
            ):
                visited.add(called)
                yield frame.enter_call(called, call, conditions)

    def escapes(self, signal: str) -> bool:
        """Return True if unread code may send the signal or connect to it."""
        return (
            self.source.escapes(signal)
            or signal in self.runtime.entry_points
            or signal in self._signals_of_unread_modules
        )

    @cached_property
    def _signals_of_unread_modules(self) -> frozenset[str]:
        """The signals of imported modules whose source is not read, such as those of libraries."""
        return frozenset(
            signal
            for path, signal in self.runtime.aliases.items()
            if not {path.rpartition(".")[0], path.rpartition(".")[0].rpartition(".")[0]} & self.source.files.keys()
        )

    def is_loaded(self, module: str) -> bool:
        """Return True if the module is imported."""
        return module in self.runtime.modules

    def find_connections(self, connect: ConnectCall, signal: str) -> tuple[Connection, ...]:
        """Return the live connections that a call in the source made."""
        function = connect.function or self.get_factory_product(connect)
        return self.live_connections.get((signal, function.path, function.line), ()) if function else ()

    def get_factory_product(self, connect: ConnectCall) -> Function | None:
        """Return the function that a factory creates for this connection; ``None`` without a factory."""
        factory = self.source.functions_by_name.get(connect.receiver_path) if connect.kind == "temporary" else None
        return factories.find_factory_product(factory, self.source.functions_by_name) if factory else None

    def find_connect_call(self, connection: Connection) -> ConnectCall | None:
        """Return the call that made a connection: one with its sender, else one that matches no other connection."""
        key = (connection.signal, connection.path, connection.line)
        connect_calls = self.connect_calls.get(key, ())
        matching = [
            connect_call for connect_call in connect_calls if self.sender_matches(connect_call, connection.sender)
        ]
        senders = [other.sender for other in self.live_connections.get(key, ())]
        unclaimed = [
            connect_call
            for connect_call in connect_calls
            if not any(self.sender_matches(connect_call, sender) for sender in senders)
        ]
        return next(iter(matching or unclaimed or connect_calls), None)

    @staticmethod
    def sender_matches(connect: ConnectCall, sender: Sender) -> bool:
        """Return True if the sender in the source may be that of a connection, by the last part of its name."""
        if connect.sender_node is None or sender.kind == "any":
            return (connect.sender_node is None) == (sender.kind == "any")
        return (
            bool(sender.name)
            and ast.unparse(connect.sender_node).strip("'\"").rpartition(".")[2] == sender.name.rpartition(".")[2]
        )

    def is_kept_alive(self, connect: ConnectCall, signal: str) -> bool:
        """Return True if the receiver is alive, and not only because of a cache that Django fills under ``DEBUG``."""
        return any(not connection.kept_by_debug_cache for connection in self.find_connections(connect, signal))

    def is_up_to_date(self, function: Function) -> bool:
        """Return True if the process runs the function's file as it is now.

        That is so if the source defines each function that the imported module holds.
        """
        prefix = f"{function.module}."
        return all(
            (path, line) in self.source.functions
            for name, (path, line) in self.runtime.module_functions.items()
            if name.startswith(prefix) and path == function.path
        )

    def get_module(self, name: str) -> Module | None:
        """Return a parsed module."""
        return self.source.modules.get(name)

    def get_model(self, path: str) -> Model | None:
        """Return the model at a dotted path, also if another module of its app imports it."""
        module_name, _, name = path.rpartition(".")
        module = self.source.modules.get(module_name)
        for candidate in (path, *(f"{star}.{name}" for star in (module.star_imports if module else ()))):
            model = self._models_by_path.get(candidate) or self._models_by_name.get((candidate.partition(".")[0], name))
            if model:
                return model
        return None

    @cached_property
    def _models_by_path(self) -> Mapping[str, Model]:
        return {model.path: model for model in self.runtime.models.values()}

    @cached_property
    def _models_by_name(self) -> Mapping[tuple[str, str], Model | None]:
        models: dict[tuple[str, str], Model | None] = {}
        for model in self.runtime.models.values():
            key = (model.path.partition(".")[0], model.path.rpartition(".")[2])
            models[key] = None if key in models else model  # ambiguous
        return models

    def get_sender_models(self, subscription: Subscription) -> tuple[Model, ...]:
        """Return the models that the function is connected to; empty if it receives every sender, or if unknown."""
        key = (subscription.signal, subscription.function.path, subscription.function.line)
        models = [connection.sender.model for connection in self.live_connections.get(key, ())]
        models += [
            self.get_model(connect.sender_path) for connect in self.connect_calls.get(key, ()) if connect.sender_path
        ]
        return tuple({model.label: model for model in models if model}.values())

    def receives_every_sender(self, subscription: Subscription) -> bool:
        """Return True if the function receives every sender, by its live connections, else by the source."""
        key = (subscription.signal, subscription.function.path, subscription.function.line)
        if connections := self.live_connections.get(key):
            return any(connection.sender.kind == "any" for connection in connections)
        return any(connect.sender_node is None for connect in self.connect_calls.get(key, ()))
