"""The Mesh: the public face, and the one place that puts the running parts together.

Declarations work before and while it runs; declaring equally again returns the same object.  Nothing hangs off module
globals: a mesh is an object, and a process may run several.
"""

import functools
import inspect
import math
import signal
import threading
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, Self, TypedDict, TypeVar, Unpack, overload

import anyio

from flowmesh._core.exchanges import Exchange as CoreExchange
from flowmesh._core.mailbox import Mailbox as CoreMailbox
from flowmesh._core.topology import Topology, describe
from flowmesh._runtime.actor import Actor
from flowmesh._runtime.cell import Cell
from flowmesh._runtime.composing import check_key, suggestion
from flowmesh._runtime.context import Context
from flowmesh._runtime.deadletters import DeadLetters
from flowmesh._runtime.drain import EXIT_CLEAN, DrainReport
from flowmesh._runtime.engine import Engine, Source
from flowmesh._runtime.exchange import Binding, Exchange
from flowmesh._runtime.handler import Handler, locals_of_caller
from flowmesh._runtime.mailbox import Mailbox
from flowmesh._runtime.scheduling import Overlap, Schedule
from flowmesh._runtime.statistics import Statistics
from flowmesh.errors import InvalidBinding, InvalidHandler, PreconditionFailed
from flowmesh.policies import MailboxOptions, Retry
from flowmesh.ports import Clock

__all__ = ["ActorOptions", "Mesh"]

Body = TypeVar("Body")
Reply = TypeVar("Reply")
Rest = ParamSpec("Rest")
Polling = TypeVar("Polling", bound=Source)


class ActorOptions(TypedDict, total=False):
    """What may be said about an actor.

    `name`: the function's name unless given. `bind`: where its messages come from: one Binding (`exchange.on(...)`) or
    several. `mailbox`: MailboxOptions for its own mailbox (named like the actor), or an existing Mailbox, which it then
    shares with the other actors on it. `concurrency`: handlers at once. `retry`: what becomes of a message whose handler
    failed; None means one attempt. `timeout`: seconds for one handler call. `by`: gives a body's lane: messages with
    equal values are handled one at a time, in order.
    """

    name: str | None
    bind: Binding | list[Binding] | tuple[Binding, ...] | None
    mailbox: MailboxOptions | Mailbox | None
    concurrency: int
    retry: Retry | None
    timeout: float | None
    by: Callable[[Any], Any] | None


class Mesh:
    """An engine that lives inside one asynchronous application.

        mesh = Mesh("shop")

        @mesh.actor
        async def charge(order: Order) -> Invoice: ...

        async with mesh:
            invoice = await charge.ask(order)

    Entering it starts it; leaving drains for `grace` seconds and then cancels; an exception in the body cancels at once.
    A stopped mesh can be entered again, also on the other backend.
    """

    def __init__(self, name: str = "mesh", *, clock: Clock | None = None, grace: float = 30.0) -> None:
        """Make a mesh; nothing runs yet.

        Args:
            name: for logs and the topology.
            clock: where its time comes from; None means the running event loop.
            grace: seconds that a drain may take before running handlers are cancelled.

        Raises:
            ValueError: an empty name, or a negative grace.
        """
        if not isinstance(name, str) or not name:  # pyright: ignore[reportUnnecessaryIsInstance] - users get it wrong
            raise ValueError(f"name must be a text that is not empty, not {name!r}")
        if not grace >= 0:
            raise ValueError(f"grace must be zero or more seconds, not {grace!r}")
        self._engine = Engine(name, clock=clock, grace=grace)
        self._dead_letters = DeadLetters(self._engine)

    def __repr__(self) -> str:
        return f"<Mesh {self.name!r} {self._engine.ground.phase.value}>"

    @property
    def name(self) -> str:
        """Its name."""
        return self._engine.ground.name

    # Life

    async def __aenter__(self) -> Self:
        """Start it.

        Cancellation: it has not been started.

        Raises:
            PreconditionFailed: it runs already.
            InvalidHandler: a handler names a type that is still not defined.
        """
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
        """Run until SIGINT, SIGTERM or `stop()`, then drain; a second signal stops at once.

        Signals are watched for only in the main thread. When handlers have not ended 5 s after they were cancelled, they are
        named in the log and the process exits with code 70. Cancellation: as leaving `async with mesh` by an exception.

        Returns:
            the exit code: 0, or 75 when work was handed back or left unhandled.

        Raises:
            BaseException: what stopped the mesh by itself.
        """
        with self._engine.leaving_hard():
            async with self:
                if threading.current_thread() is threading.main_thread():
                    self._engine.spawn(self._watch_signals)
                await self._engine.until_stopping()
        report = self._engine.report
        return EXIT_CLEAN if report is None else report.exit_code

    def run(self, backend: Literal["asyncio", "trio"] = "asyncio") -> int:
        """Call `serve` from synchronous code and return its exit code."""
        return anyio.run(self.serve, backend=backend)

    def stop(self) -> None:
        """Begin the drain as SIGTERM does; `serve` returns when it is over. Idempotent, and nothing if it does not run."""
        self._engine.stop()

    async def idle(self) -> None:
        """Wait until nothing is under way.

        That is: no turn runs, no delivery is leased, no sender waits for room, no retry waits, and no mailbox of a running,
        unpaused actor has a copy ready. Deferred messages, schedules, sources and unconsumed mailboxes do not count.
        Cancellation: leaves nothing behind.

        Raises:
            DeadlockError: awaited in a handler, which would wait for itself.
            NotRunning: the mesh has not been started.
            MeshStopped: it has stopped, or it stopped with something under way.
        """
        await self._engine.idle()

    @property
    def report(self) -> DrainReport | None:
        """What the last drain left behind; None before the first and while it runs."""
        return self._engine.report

    async def _watch_signals(self) -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for number in signals:
                if self._engine.is_stopping:
                    self._engine.ground.log.warning("%s again: stopping at once", number.name)
                    self._engine.abort()
                else:
                    self._engine.ground.log.info("%s: draining for up to %g s", number.name, self._engine.grace)
                    self.stop()

    # Declarations

    def exchange(
        self,
        name: str,
        type: Literal["direct", "fanout", "topic", "headers"] | None = None,
        *,
        alternate: Exchange | str | None = None,
        internal: bool | None = None,
    ) -> Exchange:
        """Declare an exchange, or find the one of that name.

        Args:
            name: at most 255 bytes; "" is the default exchange, which routes to the mailbox named by the key.
            type: "direct" unless given.
            alternate: the exchange (or its name) that gets what this one routes nowhere; looked up when used.
            internal: only exchanges may route to it; publishing to it raises AccessRefused.

        Raises:
            PreconditionFailed: it is declared differently, or the type is unknown.
            AccessRefused: the default exchange cannot be declared differently.
            ValueError: a name that is too long.
        """
        other = alternate if alternate is None or isinstance(alternate, str) else alternate.name
        return Exchange(
            self._engine, self._engine.ground.router.declare_exchange(name, type, alternate=other, internal=internal)
        )

    def mailbox(self, name: str, options: MailboxOptions | None = None) -> Mailbox:
        """Declare a mailbox, or find the one of that name.

        Args:
            name: at most 255 bytes, and not empty.
            options: its limits and rules; the defaults for a new one.

        Raises:
            PreconditionFailed: it is declared with other options.
            ValueError: a name that cannot be.
        """
        return Mailbox(self._engine, self._declare_mailbox(name, options))

    def _declare_mailbox(self, name: str, options: MailboxOptions | None) -> CoreMailbox:
        core = self._engine.ground.router.declare_mailbox(name, options)
        self._engine.open_mailbox(core)
        return core

    @overload
    def actor(self, handler: Callable[[], Awaitable[Reply]], /, **options: Unpack[ActorOptions]) -> Actor[None, Reply]: ...
    @overload
    def actor(
        self, handler: Callable[Concatenate[Body, Rest], Awaitable[Reply]], /, **options: Unpack[ActorOptions]
    ) -> Actor[Body, Reply]: ...
    @overload
    def actor(self, handler: Callable[[], Reply], /, **options: Unpack[ActorOptions]) -> Actor[None, Reply]: ...
    @overload
    def actor(
        self, handler: Callable[Concatenate[Body, Rest], Reply], /, **options: Unpack[ActorOptions]
    ) -> Actor[Body, Reply]: ...
    @overload
    def actor(self, /, **options: Unpack[ActorOptions]) -> "ActorPreset": ...
    def actor(self, handler: Callable[..., Any] | None = None, /, **options: Unpack[ActorOptions]) -> Any:
        """Declare an actor: as a decorator, bare or with options; as a call with a handler; or keep a preset.

            @mesh.actor
            async def charge(order: Order) -> Invoice: ...

            @mesh.actor(bind=orders.on("order.*.placed"), concurrency=8, retry=Retry(5))
            async def bill(order: Order, ctx: Context) -> Invoice: ...

            reliable = mesh.actor(retry=Retry(5))

        The handler takes `()`, or `(body, ...)` where the rest is annotated with Context. A plain `def` runs in a worker
        thread, which its time limit cannot interrupt. What it returns is the reply to an ask, and goes to `reply_to` if the
        message names one; otherwise it is dropped.

        Args:
            handler: the function; None for a decorator.
            **options: name, bind, mailbox, concurrency, retry, timeout, by (see ActorOptions).

        Raises:
            InvalidHandler: its signature cannot be used.
            PreconditionFailed: an actor of that name exists.
            InvalidBinding: a binding is of another mesh.
            TypeError: an unknown option, naming the one that was meant.
            ValueError: an option out of its range.
        """
        _check_options(options)
        if handler is None:
            return ActorPreset(self, options)
        return self._declare_actor(handler, options, locals_of_caller(1))

    def _declare_actor(
        self,
        function: Callable[..., Any],
        options: ActorOptions,
        local_names: Mapping[str, Any],
        *,
        schedule: str | None = None,
    ) -> Actor[Any, Any]:
        """Check everything, then declare. `schedule`: it will be fired by the schedule of this name ("": its own)."""
        if isinstance(function, Actor):
            raise InvalidHandler(f"{function!r} is an actor already: give mesh.actor the function itself")
        if inspect.isclass(function) or not callable(function):
            raise InvalidHandler(f"{function!r} cannot be a handler: give a function")
        handler = Handler(function, Context, local_names)
        name = options.get("name") or handler.name
        engine = self._engine
        if schedule is not None:
            if handler.takes_body and not (handler.is_resolved and isinstance(None, handler.accepts)):
                raise InvalidHandler(
                    f"handler {name!r} takes a message, and a schedule that decorates it has none: let it take none, or "
                    "declare an actor and give mesh.every(seconds, actor, body=...) the body"
                )
            if (schedule or name) in engine.schedules:
                raise _second_schedule(schedule or name, self.name)
        if name in engine.cells:
            raise PreconditionFailed(f"actor {name!r} exists in mesh {self.name!r}: give this one another name=")
        bindings = _bindings(options.get("bind"))
        for binding in bindings:
            if not engine.ground.router.has_exchange(binding.exchange.core):
                raise InvalidBinding(
                    f"actor {name!r} cannot be bound to exchange {binding.exchange.name!r}: it belongs to another mesh, "
                    "or is deleted"
                )
        mailbox = options.get("mailbox")
        if isinstance(mailbox, Mailbox):
            box = mailbox.core
            if not engine.ground.router.has_mailbox(box):
                raise InvalidBinding(f"mailbox {box.name!r} of actor {name!r} belongs to another mesh, or is deleted")
        else:
            box = self._declare_mailbox(name, mailbox)
        cell = Cell(
            name,
            box,
            handler,
            slots=options.get("concurrency", 1),
            retry=options.get("retry"),
            timeout=options.get("timeout"),
            by=options.get("by"),
        )
        for binding in bindings:
            engine.ground.router.bind(binding.exchange.core, box, binding.key, binding.arguments or None)
        engine.add_cell(cell)
        return Actor(engine, cell)

    @overload
    def source(self, function: Polling, /) -> Polling: ...
    @overload
    def source(self, /, *, name: str | None = None) -> Callable[[Polling], Polling]: ...
    def source(self, function: Source | None = None, /, *, name: str | None = None) -> Any:
        """Declare a source: one task that brings messages in, `async def poll(ctx: ActorContext)`.

        It starts with the mesh and is cancelled first when the mesh drains. One that returns has ended; one that raises stops
        the mesh with its error. It may await `mesh.idle()` and then call `mesh.stop()`.

        Args:
            function: the coroutine function; None for a decorator with a name.
            name: the function's name unless given.

        Raises:
            InvalidHandler: it is no coroutine function of one parameter.
            PreconditionFailed: a source of that name exists.
        """
        if function is None:
            return functools.partial(self._declare_source, name=name)
        return self._declare_source(function, name=name)

    def _declare_source(self, function: Source, /, *, name: str | None) -> Source:
        name = name or str(getattr(function, "__name__", type(function).__name__))
        if not inspect.iscoroutinefunction(function) or len(inspect.signature(function).parameters) != 1:
            raise InvalidHandler(f"source {name!r} must be written as: async def {name}(ctx: ActorContext) -> None")
        if name in self._engine.sources:
            raise PreconditionFailed(f"source {name!r} exists in mesh {self.name!r}: give this one another name=")
        self._engine.add_source(name, function)
        return function

    @overload
    def every(
        self, seconds: float, target: Actor[None, Any], *, name: str | None = None, overlap: Overlap | None = None
    ) -> Schedule: ...
    @overload
    def every(
        self, seconds: float, target: Actor[Body, Any], *, body: Body, name: str | None = None, overlap: Overlap | None = None
    ) -> Schedule: ...
    @overload
    def every(
        self,
        seconds: float,
        target: Exchange | Mailbox,
        *,
        body: Any = None,
        key: str = "",
        name: str | None = None,
        overlap: Overlap | None = None,
    ) -> Schedule: ...
    @overload
    def every(self, seconds: float, *, name: str | None = None, overlap: Overlap | None = None) -> "PeriodicActor": ...
    def every(
        self,
        seconds: float,
        target: Actor[Any, Any] | Exchange | Mailbox | None = None,
        *,
        body: Any = None,
        key: str = "",
        name: str | None = None,
        overlap: Overlap | None = None,
    ) -> Any:
        """Publish a message every so many seconds, while the mesh runs; without a target, decorate a handler that takes none.

        Due times are whole numbers of intervals after the start, so they do not drift; the first is one interval after it.

        Args:
            seconds: the interval, more than zero.
            target: an actor, a mailbox, or an exchange (with `key`).
            body: the message's body.
            key: the routing key, for an exchange.
            name: the target's name unless given; a message's id is `<name>@<due>`.
            overlap: "skip" (default for an actor): leave a fire out, counted, whose predecessor is not settled yet;
                "allow" (default for the others).

        Raises:
            ValueError: an interval that is not positive, or an unknown overlap.
            WrongBody: the actor does not take the body.
            InvalidBinding: the target belongs to another mesh, or is deleted.
            PreconditionFailed: a schedule of that name exists.
            InvalidHandler: the decorated handler takes a message.
        """
        if not (seconds > 0 and math.isfinite(seconds)):
            raise ValueError(f"seconds must be more than zero, not {seconds!r}")
        if overlap not in (None, "skip", "allow"):
            raise ValueError(f"overlap must be 'skip' or 'allow', not {overlap!r}")
        if target is None:
            caller = locals_of_caller(1)

            def declare(function: Callable[..., Any]) -> Actor[None, Any]:
                actor = self._declare_actor(function, {}, caller, schedule=name or "")
                self._schedule(seconds, actor, None, "", name or actor.name, overlap)
                return actor

            return declare
        return self._schedule(seconds, target, body, key, name or getattr(target, "name", "?"), overlap)

    def _schedule(
        self,
        seconds: float,
        target: Actor[Any, Any] | Exchange | Mailbox,
        body: Any,
        key: str,
        name: str,
        overlap: Overlap | None,
    ) -> Schedule:
        router = self._engine.ground.router
        if name in self._engine.schedules:
            raise _second_schedule(name, self.name)
        if not isinstance(target, Actor | Exchange | Mailbox):  # pyright: ignore[reportUnnecessaryIsInstance] - users get it wrong
            raise TypeError(
                f"target of schedule {name!r} must be an actor, an exchange or a mailbox of this mesh, not {target!r}"
            )
        end = target.endpoint
        if not (router.has_exchange(end) if isinstance(end, CoreExchange) else router.has_mailbox(end)):
            raise InvalidBinding(f"target {target!r} of schedule {name!r} belongs to another mesh, or is deleted")
        if isinstance(end, CoreExchange):
            exchange, key = end, check_key(key)
        else:
            exchange, key = router.default_exchange, end.name
        if isinstance(target, Actor):
            target.check_body(body)
            overlap = overlap or "skip"
        schedule = Schedule(self._engine.ground, name, seconds, exchange, key, body, overlap or "allow")
        self._engine.add_schedule(schedule)
        return schedule

    # What is there

    @property
    def dead_letters(self) -> DeadLetters:
        """Copies that could not be handled and that no dead-letter exchange took."""
        return self._dead_letters

    def statistics(self) -> Statistics:
        """Return the numbers of this moment."""
        return self._engine.statistics()

    def topology(self) -> Topology:
        """Return what is declared and bound, read from the router itself."""
        actors: dict[str, list[str]] = {}
        for cell in self._engine.cells.values():
            actors.setdefault(cell.box.name, []).append(cell.name)
        return describe(self._engine.ground.router, actors)


class PeriodicActor(Protocol):
    """What `mesh.every(seconds)` returns: a decorator for a handler that takes no message."""

    @overload
    def __call__(self, handler: Callable[[], Awaitable[Reply]], /) -> Actor[None, Reply]: ...
    @overload
    def __call__(self, handler: Callable[Concatenate[None, Rest], Awaitable[Reply]], /) -> Actor[None, Reply]: ...
    @overload
    def __call__(self, handler: Callable[[], Reply], /) -> Actor[None, Reply]: ...
    @overload
    def __call__(self, handler: Callable[Concatenate[None, Rest], Reply], /) -> Actor[None, Reply]: ...


class ActorPreset:
    """Options to declare actors with: what `mesh.actor(retry=...)` returns. Decorates as often as you like."""

    def __init__(self, mesh: Mesh, options: ActorOptions) -> None:
        self._mesh = mesh
        self._options = options

    @overload
    def __call__(self, handler: Callable[[], Awaitable[Reply]], /) -> Actor[None, Reply]: ...
    @overload
    def __call__(self, handler: Callable[Concatenate[Body, Rest], Awaitable[Reply]], /) -> Actor[Body, Reply]: ...
    @overload
    def __call__(self, handler: Callable[[], Reply], /) -> Actor[None, Reply]: ...
    @overload
    def __call__(self, handler: Callable[Concatenate[Body, Rest], Reply], /) -> Actor[Body, Reply]: ...
    def __call__(self, handler: Callable[..., Any], /) -> Any:
        """Declare an actor with these options; as `mesh.actor`."""
        return self._mesh._declare_actor(handler, self._options, locals_of_caller(1))  # pyright: ignore[reportPrivateUsage] - one face in two classes


def _second_schedule(name: str, mesh: str) -> PreconditionFailed:
    return PreconditionFailed(f"schedule {name!r} exists in mesh {mesh!r}: give this one another name=")


def _bindings(bind: Any) -> list[Binding]:
    found = [] if bind is None else [bind] if isinstance(bind, Binding) else list(bind)
    for binding in found:
        if not isinstance(binding, Binding):
            raise InvalidBinding(f"bind= takes exchange.on(...), or a list of them, not {binding!r}")
    return found


def _check_options(options: Mapping[str, Any]) -> None:
    known = ActorOptions.__annotations__
    for name, value in options.items():
        if name not in known:
            raise TypeError(f"unknown actor option {name!r}{suggestion(name, known)}")
        if value is None:
            continue
        if name == "concurrency" and (type(value) is not int or value < 1):
            raise ValueError(f"concurrency must be a whole number of at least 1, not {value!r}")
        if name == "timeout" and not value > 0:
            raise ValueError(f"timeout must be more than zero seconds, or None, not {value!r}")
        if name == "retry" and not isinstance(value, Retry):
            raise ValueError(f"retry must be a Retry, or None, not {value!r}")
        if name == "mailbox" and not isinstance(value, MailboxOptions | Mailbox):
            raise ValueError(f"mailbox must be MailboxOptions or a Mailbox, not {value!r}")
        if name == "by" and not callable(value):
            raise ValueError(f"by must be a function of the body, not {value!r}")
