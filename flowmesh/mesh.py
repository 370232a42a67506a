"""The Mesh and its Parts: the public face, and the one place that puts the running parts together.

Declarations work before and while it runs; declaring equally again returns the same object.  Nothing hangs off module
globals: a mesh is an object, and a process may run several.
"""

import contextlib
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypedDict, TypeVar, Unpack

import anyio
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from flowmesh._core.topology import Topology, describe
from flowmesh._runtime.actor import Actor
from flowmesh._runtime.clock import SystemClock
from flowmesh._runtime.deadletters import DeadLetters
from flowmesh._runtime.declarations import Declaration
from flowmesh._runtime.drain import EXIT_CLEAN, DrainReport
from flowmesh._runtime.engine import Engine
from flowmesh._runtime.exchange import Exchange
from flowmesh._runtime.mailbox import Mailbox
from flowmesh._runtime.middleware import Middleware, checked_middleware
from flowmesh._runtime.observing import checked_observers
from flowmesh._runtime.placing import Placement
from flowmesh._runtime.serving import serving
from flowmesh._runtime.statistics import LONG, Statistics
from flowmesh._runtime.timers import Timers
from flowmesh.checks import suggestion
from flowmesh.errors import InvalidBinding, PreconditionFailed
from flowmesh.ports import Clock, Observer, Store, Tracing
from flowmesh.stores import SQLiteStore
from flowmesh.supervising import Supervising
from flowmesh.telemetry import Metrics, metrics_for, tracing_for

__all__ = ["Mesh", "Part"]

Provider = TypeVar("Provider")


class MeshOptions(TypedDict, total=False):
    """What may be said about a mesh.

    `clock`: where its time comes from; None means the running event loop. `store`: what outlives it: a store, or the path of
    an SQLite file; None: nothing does. `middleware`: layers around every handler, the
    outermost first. `observers`: told at fixed points of each message's life. `grace`: seconds that a drain may take
    before running handlers are cancelled. `tracer_provider`, `meter_provider`: whose spans and metrics are made; None means
    the global ones when the mesh starts.
    """

    clock: Clock | None
    store: Store | str | os.PathLike[str] | None
    middleware: Sequence[Middleware]
    observers: Sequence[Observer]
    grace: float
    tracer_provider: TracerProvider | None
    meter_provider: MeterProvider | None


class Configuration(MeshOptions, total=False):
    """What `mesh.configure` takes: the options of Mesh, and `provide`.

    `provide`: things by their type, instead of what `mesh.provide` declares: each the thing itself, or a factory as there.
    """

    provide: Mapping[Any, Any]


class Mesh(Supervising):
    """An engine that lives inside one asynchronous application.

        mesh = Mesh("shop")

        @mesh.actor
        async def charge(order: Order) -> Invoice: ...

        async with mesh:
            invoice = await charge.ask(order)

    Entering it starts it; leaving drains for `grace` seconds and then cancels; an exception in the body cancels at once.
    A stopped mesh can be entered again, also on the other backend.
    """

    def __init__(self, name: str = "mesh", **options: Unpack[MeshOptions]) -> None:
        """Make a mesh; nothing runs yet.

        Args:
            name: for logs and the topology.
            **options: by name. `store=None`: where mailboxes, deferred messages, schedules, dead letters and saved state
                outlive the process: a store, or the path of a file for SQLiteStore; None: nowhere.
                `clock=None`: where its time comes from; None means the running event loop.
                `middleware=()`: what runs around every handler call, the first outermost: `async def (ctx, call_next) ->
                object`, which awaits `call_next()` once, or skips the handler; what it returns or raises is the outcome.
                `observers=()`: who is told what becomes of each copy of a message (see Observer). `grace=30.0`: seconds
                that a drain may take before running handlers are cancelled. `tracer_provider=None`: of OpenTelemetry's
                SDK, whose spans the deliveries become; None means the global one when the mesh starts. Without an SDK
                nothing is traced, and tracing costs nothing. `meter_provider=None`: who collects the numbers of
                `statistics()`; None means the global one when the mesh starts.

        Raises:
            ValueError: an empty name, a negative grace, or a store's path that is ":memory:" or a URL.
            InvalidHandler: a middleware is no coroutine function of two parameters, or an observer cannot be asked.
            TypeError: an unknown option, naming the one that was meant; `tracer_provider` or `meter_provider` is none.
        """
        _check_name(name)
        super().__init__(Engine(name))
        self._tracer_provider: TracerProvider | None = None
        self._meter_provider: MeterProvider | None = None
        self._metrics: Metrics | None = None
        self._engine.tracing = self._start_telemetry
        if "provide" in options:
            raise TypeError("provide is an option of mesh.configure, not of Mesh: write mesh.provide(Type, factory)")
        self.configure(**options)
        self._dead_letters = DeadLetters(self._engine)
        self._timers = Timers(self._engine)
        self._parts: dict[Part, Placement] = {}

    def __repr__(self) -> str:
        return f"<Mesh {self.name!r} {self._engine.ground.phase.value}>"

    def configure(self, **options: Unpack[Configuration]) -> None:
        """Change options that Mesh takes, until it starts (or while it is stopped): for command lines and tests.

        Args:
            **options: those of Mesh, and provide (see Configuration); what
                is left out stays as it is.

        Raises:
            PreconditionFailed: the mesh runs.
            ValueError: an option out of its range.
            TypeError: an unknown option, naming the one that was meant.
            InvalidHandler: a factory's signature cannot be used.
        """
        engine = self._engine
        if engine.is_running:
            raise PreconditionFailed(f"mesh {self.name!r} runs: configure it before it starts")
        for name in options:
            if name not in Configuration.__annotations__:
                raise TypeError(f"unknown mesh option {name!r}{suggestion(name, Configuration.__annotations__)}")
        grace = options.get("grace", engine.grace)
        if not (isinstance(grace, int | float) and grace >= 0):  # pyright: ignore[reportUnnecessaryIsInstance] - users get it wrong
            raise ValueError(f"grace must be zero or more seconds, not {grace!r}")
        middleware = checked_middleware(options.get("middleware", engine.middleware))
        observers = checked_observers(options.get("observers", engine.observers))
        tracer_provider = _checked_provider(
            "tracer_provider", options.get("tracer_provider", self._tracer_provider), TracerProvider
        )
        meter_provider = _checked_provider("meter_provider", options.get("meter_provider", self._meter_provider), MeterProvider)
        store = _store_of(options.get("store"))
        engine.providing.replace(options.get("provide", {}))
        if meter_provider is not self._meter_provider:
            self._metrics = None
        self._tracer_provider, self._meter_provider = tracer_provider, meter_provider
        engine.middleware, engine.observers, engine.grace = middleware, observers, grace
        if "store" in options:
            engine.storing.store = store
        if "clock" in options:
            engine.ground.clock = options["clock"] or SystemClock()

    # Parts

    def add(self, part: "Part") -> None:
        """Take in what a part declares, now and later. Idempotent; the order of parts does not matter.

        A part may be added to several meshes, of which one may run at a time: its actors and exchanges stand for those of
        that mesh. While this mesh runs, everything that the part refers to must be in it.

        Raises:
            PreconditionFailed: it declares something differently than this mesh; nothing has been taken in.
            InvalidBinding: the mesh runs, and the part refers to another part that has not been added.
            TypeError: it is no part.
        """
        if not isinstance(part, Part):  # pyright: ignore[reportUnnecessaryIsInstance] - users get it wrong
            raise TypeError(f"mesh.add takes a Part, not {part!r}")
        if part in self._parts:
            return
        placement = part._placement  # pyright: ignore[reportPrivateUsage] - both are this module's
        placement.check(self._engine)
        self._parts[part] = placement
        if placement.is_free:
            placement.attach(self._engine)
            self._settle_parts()

    def _settle_parts(self) -> None:
        for placement in self._parts.values():
            placement.settle()

    def _gather_parts(self) -> None:
        for placement in self._parts.values():
            placement.attach(self._engine)
        self._settle_parts()
        for placement in self._parts.values():
            placement.check_complete()

    # Life

    async def __aenter__(self) -> Self:
        """Start it.

        Cancellation: it has not been started.

        Raises:
            PreconditionFailed: it runs already, or one of its parts runs in another mesh.
            InvalidHandler: a handler names a type that is still not defined, or asks for what nobody provides.
            InvalidBinding: a part refers to another part that has not been added.
            BaseException: what a factory of a provided thing, or a class actor, failed with, bare.
        """
        self._gather_parts()
        await self._engine.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:  # Not bool: what a handler of this mesh or the body raised is never swallowed.
        """Drain for `grace` seconds, then cancel what still runs; with an exception, cancel at once.

        Cancellation: cancels at once; what handlers had in hand goes back.

        Raises:
            BaseException: what stopped the mesh by itself, bare; a group if several errors did.
        """
        return await self._engine.finish(exc)

    async def serve(self) -> int:
        """Run until SIGINT, SIGTERM or `stop()`, then drain; a second signal stops at once, a third ends the process.

        Signals are heard from before the mesh starts, and only in the main thread. A handler that blocks the event loop for a
        second is named in the log, with its message and place; SIGUSR1 logs `dump()`. `grace` + 5 s after the drain
        began, or 5 s after everything was to stop at once, what still runs is named, and the process exits with code 70.
        Cancellation: as leaving `async with mesh` by an exception.

        Returns:
            the exit code: 0, or 75 when work was handed back or left unhandled.

        Raises:
            BaseException: what stopped the mesh by itself.
        """
        with serving(self._engine) as until_stopping:
            async with self:
                await until_stopping()
        report = self._engine.report
        return EXIT_CLEAN if report is None else report.exit_code

    def run(self, backend: Literal["asyncio", "trio"] = "asyncio") -> int:
        """Call `serve` from synchronous code and return its exit code."""
        return anyio.run(self.serve, backend=backend)

    @contextlib.asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncGenerator[None]:
        """Run as long as an ASGI application: `app = FastAPI(lifespan=mesh.lifespan)`, or Starlette's.

        Entering starts the mesh, leaving drains it; requests use its actors and exchanges directly. Signals are the server's
        business. Cancellation: as `async with mesh`.

        Args:
            app: the application, which calls this; not used.
        """
        del app
        async with self:
            yield

    def stop(self) -> None:
        """Begin the drain as SIGTERM does; `serve` returns when it is over. Idempotent, and nothing if it does not run."""
        self._engine.stop()

    async def idle(self) -> None:
        """Wait until nothing is under way.

        That is: no turn runs, no delivery is leased, no sender waits for room, no retry waits, and no mailbox of a running,
        unpaused actor has a copy ready, held by a gate or not. Deferred messages, schedules, sources, unconsumed mailboxes
        and what a Machine has postponed do not count.
        Cancellation: leaves nothing behind.

        Raises:
            DeadlockError: awaited in a handler, which would wait for itself.
            NotRunning: the mesh has not been started.
            MeshStopped: it has stopped, or it stopped with something under way.
        """
        await self._engine.quiescence.idle()

    @property
    def report(self) -> DrainReport | None:
        """What the last drain left behind; None before the first and while it runs."""
        return self._engine.report

    def _start_telemetry(self) -> Tracing | None:
        if self._metrics is None:
            self._metrics = metrics_for(self._meter_provider, self.name, self._engine.statistics)
        return tracing_for(self._tracer_provider, self._engine.ground.log)

    # What is there

    @property
    def dead_letters(self) -> DeadLetters:
        """Copies that could not be handled and that no dead-letter exchange took."""
        return self._dead_letters

    @property
    def timers(self) -> Timers:
        """Messages that wait for their time, and the timers that actors have set."""
        return self._timers

    def statistics(self, *, longer_than: float = LONG) -> Statistics:
        """Return the numbers of this moment.

        Args:
            longer_than: the turns that have been running for more than so many seconds are listed, by actor, in
                `running_for`.
        """
        return self._engine.statistics(longer_than)

    def dump(self) -> str:
        """Return, as text for people, what everybody does at this moment.

        For each actor that has something to do: its slots, what is ready, what holds it; for each of its turns the message, for
        how many seconds it has been running, whom it waits for, and the line of the application's code that it stands in.
        Then the senders that wait for room. Call it in the mesh's thread; under `serve` and `run`, SIGUSR1 logs it.
        """
        return self._engine.dump()

    def topology(self) -> Topology:
        """Return what is declared and bound, read from the router itself."""
        actors: dict[str, list[str]] = {}
        for cell in self._engine.residents.cells.values():
            actors.setdefault(cell.box.name, []).append(cell.name)
        cells = self._engine.residents.cells.values()
        instances = {cell.name: cell.instances.count for cell in cells if cell.instances is not None}
        return describe(self._engine.ground.router, actors, self._engine.waits.seen, instances)


class Part(Supervising):
    """A set of declarations, to be added to a mesh: what a module of an application brings.

        billing = Part("billing")

        @billing.actor
        async def charge(order: Order) -> Invoice: ...

        mesh.add(billing)

    What it declares can be referred to at once, by other parts too, and used when the part is in a running mesh. What is
    declared or bound after it has been added is placed in that mesh as well.
    """

    def __init__(self, name: str) -> None:
        """Make a part.

        Args:
            name: for messages about it; names of actors and exchanges are not prefixed with it.

        Raises:
            ValueError: an empty name.
        """
        _check_name(name)
        super().__init__(Engine(name, is_part=True))
        self._placement = self._home = Placement(self._engine)

    def __repr__(self) -> str:
        return f"<Part {self.name!r} {self._placement}>"

    def _keep(self, declaration: Declaration) -> None:
        self._placement.keep(declaration)

    def _check_reference(self, thing: Exchange | Mailbox | Actor[Any, Any], what: str) -> None:
        if thing.endpoint.deleted:
            raise InvalidBinding(f"{what}, which has been deleted: declare it again")


def _store_of(store: Any) -> Store | None:
    if store is None or callable(getattr(store, "append", None)):
        return store
    if isinstance(store, str | os.PathLike) and os.fspath(store):
        return SQLiteStore(os.fspath(store))
    raise TypeError(f"store must be a path, a store such as SQLiteStore('shop.db'), or None, not {store!r}")


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not name:
        raise ValueError(f"name must be a text that is not empty, not {name!r}")


def _checked_provider(name: str, found: Provider | None, kind: type[Provider]) -> Provider | None:
    if found is not None and not isinstance(found, kind):
        raise TypeError(f"{name} must be a {kind.__name__} of OpenTelemetry, not {found!r}")
    return found
