"""What can be declared in a mesh, before and while it runs: exchanges, mailboxes, actors, sources (schedules: see scheduling).

Declaring equally again, or by name alone, returns the same object; declaring differently raises PreconditionFailed.
Everything is checked before anything is changed.
"""

import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Concatenate, Final, Literal, ParamSpec, Protocol, TypedDict, TypeVar, Unpack, overload

from flowmesh._runtime.actor import Actor
from flowmesh._runtime.cell import Keying
from flowmesh._runtime.class_actor import ClassActor
from flowmesh._runtime.classes import ClassHandler
from flowmesh._runtime.context import Context
from flowmesh._runtime.declarations import (
    ActorDeclaration,
    Declaration,
    ExchangeDeclaration,
    MailboxDeclaration,
    ProvisionDeclaration,
    SourceDeclaration,
)
from flowmesh._runtime.engine import Engine
from flowmesh._runtime.exchange import Binding, Exchange, Home
from flowmesh._runtime.handler import BatchHandler, Handler
from flowmesh._runtime.keyed_actor import KeyedActor
from flowmesh._runtime.machine import Machine, machine_handler_of
from flowmesh._runtime.mailbox import Mailbox
from flowmesh._runtime.middleware import Middleware, checked_middleware
from flowmesh._runtime.signature import locals_of_caller
from flowmesh._runtime.sources import Source
from flowmesh.checks import require
from flowmesh.errors import InvalidBinding, InvalidHandler, PreconditionFailed
from flowmesh.options import check_gathering, check_options
from flowmesh.plans import second_schedule
from flowmesh.policies import Autoscale, Batch, Debounce, Gate, MailboxOptions, Restart, Retry

__all__ = ["ActorOptions", "Declaring"]

Body = TypeVar("Body")
Reply = TypeVar("Reply")
Rest = ParamSpec("Rest")
Instance = TypeVar("Instance")
Thing = TypeVar("Thing")
Value = TypeVar("Value")
Key = TypeVar("Key", contravariant=True)
Polling = TypeVar("Polling", bound=Source)


class CommonOptions(TypedDict, total=False):
    """What may be said about any actor.

    `name`: the function's name unless given. `bind`: where its messages come from: one Binding (`exchange.on(...)`) or
    several. `mailbox`: MailboxOptions for its own mailbox (named like the actor), or an existing Mailbox, which it then
    shares with the other actors on it. `concurrency`: handlers at once, or Autoscale. `retry`: what becomes of a message
    whose handler failed; None means one attempt. `timeout`: seconds for one handler call. `middleware`: what runs around its
    handler, inside the mesh's own. `gates`: what may hold a message back before its handler, or drop it: Rate, Limit,
    Breaker, Once; all must let it go. `debounce`: handle only the latest of the messages that come close together. Beside
    these, `batch=Batch(...)` lets the handler take a list of bodies. `restart`: after which failures a class actor's instance
    is made anew; None means that it lives on.
    """

    name: str | None
    bind: Binding | list[Binding] | tuple[Binding, ...] | None
    mailbox: MailboxOptions | Mailbox | None
    concurrency: int | Autoscale
    retry: Retry | None
    timeout: float | None
    middleware: Sequence[Middleware]
    gates: Sequence[Gate]
    debounce: Debounce | None
    restart: Restart | None


class ActorOptions(CommonOptions, total=False):
    """Those, and `by`: it gives a body's lane: messages with equal values are handled one at a time, in order.

    A class has one instance for each value.
    """

    by: Callable[[Any], Any] | None


class KeyedOptions(CommonOptions, total=False):
    """What may be said about a class with `by=`.

    `idle`: seconds after which an instance without a message is put away; None: never. `max_active`: so many instances at
    most: for one more, the least recently used that nothing needs is put away, or the next that has ended a turn; until then
    the message waits.
    """

    idle: float | None
    max_active: int | None


class AllOptions(ActorOptions, KeyedOptions, total=False):
    """Those and `batch`, which stands apart because it changes what type of handler is taken."""

    batch: Batch | None


class Declaring:
    """Whatever things can be declared in."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def name(self) -> str:
        """Its name."""
        return self._engine.ground.name

    def exchange(
        self,
        name: str,
        type: Literal["direct", "fanout", "topic", "headers", "hash"] | None = None,
        *,
        alternate: Exchange | str | None = None,
        internal: bool | None = None,
        durable: bool | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> Exchange:
        """Declare an exchange, or find the one of that name.

        Args:
            name: at most 255 bytes; "" is the default exchange, which routes to the mailbox named by the key.
            type: "direct" unless given.
            alternate: the exchange (or its name) that gets what this one routes nowhere; looked up when used.
            internal: only exchanges may route to it; publishing to it raises AccessRefused.
            durable: whether messages that are deferred to it are stored until they are due. None: if the mesh has a store;
                True: the mesh must have one; False: never. What lies in mailboxes is theirs to keep.
            arguments: for type "hash": {"hash-header": name} hashes that header of a message instead of its key.

        Raises:
            PreconditionFailed: it is declared differently, or the type is unknown, or takes no such arguments; or it is to be
                durable, and the mesh runs without a store.
            AccessRefused: the default exchange cannot be declared differently.
            ValueError: a name that is too long.
        """
        engine = self._engine
        require(durable in (None, True, False), "durable", "True, False, or None", durable)
        engine.storing.check_exchange(name, durable=durable)
        other = alternate if alternate is None or isinstance(alternate, str) else alternate.name
        core = engine.ground.router.declare_exchange(
            name, type, alternate=other, internal=internal, durable=durable, arguments=arguments
        )
        face: Exchange | None = engine.faces.get(core)
        if face is None or face.core.deleted:
            face = face or Exchange(engine, core, self._home)
            engine.faces[core] = face
            self._keep(ExchangeDeclaration(face, name, type, other, internal, durable, arguments))
        return face

    def mailbox(self, name: str, options: MailboxOptions | None = None) -> Mailbox:
        """Declare a mailbox, or find the one of that name.

        Args:
            name: at most 255 bytes, and not empty.
            options: its limits and rules; the defaults for a new one.

        Raises:
            PreconditionFailed: it is declared with other options.
            ValueError: a name that cannot be.
        """
        engine = self._engine
        core = engine.residents.declare_mailbox(name, options)
        face: Mailbox | None = engine.faces.get(core)
        if face is None or face.core.deleted:
            face = face or Mailbox(engine, core, self._home)
            engine.faces[core] = face
            self._keep(MailboxDeclaration(face, name, options))
        return face

    @overload
    def actor(
        self,
        handler: Callable[Concatenate[list[Body], Rest], Awaitable[list[Reply]]],
        /,
        *,
        batch: Batch,
        **options: Unpack[ActorOptions],
    ) -> Actor[Body, Reply]: ...
    @overload
    def actor(
        self,
        handler: Callable[Concatenate[list[Body], Rest], Awaitable[None]],
        /,
        *,
        batch: Batch,
        **options: Unpack[ActorOptions],
    ) -> Actor[Body, None]: ...
    @overload
    def actor(
        self, handler: Callable[Concatenate[list[Body], Rest], list[Reply]], /, *, batch: Batch, **options: Unpack[ActorOptions]
    ) -> Actor[Body, Reply]: ...
    @overload
    def actor(
        self, handler: Callable[Concatenate[list[Body], Rest], None], /, *, batch: Batch, **options: Unpack[ActorOptions]
    ) -> Actor[Body, None]: ...
    @overload
    def actor(self, /, *, batch: Batch, **options: Unpack[ActorOptions]) -> "BatchPreset": ...
    @overload
    def actor(
        self, handler: type[Instance], /, *, by: Callable[[Any], Value], **options: Unpack[KeyedOptions]
    ) -> KeyedActor[Instance, Value]: ...
    @overload
    def actor(self, handler: type[Instance], /, **options: Unpack[CommonOptions]) -> ClassActor[Instance]: ...
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
    def actor(self, /, *, by: Callable[[Any], Value] | None, **options: Unpack[KeyedOptions]) -> "KeyedPreset[Value]": ...
    @overload
    def actor(self, /, **options: Unpack[CommonOptions]) -> "ActorPreset": ...
    def actor(self, handler: Callable[..., Any] | None = None, /, **options: Unpack[AllOptions]) -> Any:
        """Declare an actor: as a decorator, bare or with options; as a call with a function or a class; or keep a preset.

            @mesh.actor
            async def charge(order: Order) -> Invoice: ...

            @mesh.actor(bind=orders.on("order.*.placed"), concurrency=8, retry=Retry(5))
            async def bill(order: Order, ctx: Context) -> Invoice: ...

            reliable = mesh.actor(retry=Retry(5))
            totals = mesh.actor(Totals)

        The handler takes `()`, or `(body, ...)` where the rest is annotated with Context, or with the type of a provided
        thing. A plain `def` runs in a worker thread, which its time limit cannot interrupt. What it returns is the reply to
        an ask, and goes to `reply_to` if the message names one; otherwise it is dropped.

        A class takes messages with the methods that are marked with `on`, one at a time. Each run of the mesh has an instance
        of its own, made with provided things, within its `lifespan`, or between its `on_start` and `on_stop`.

        With `by=` a class has one instance for each value, made by its first message and put away after `idle` seconds without
        one: `totals = mesh.actor(Totals, by=lambda message: message.account, idle=60.0, concurrency=8)`. Each takes one
        message at a time, in order; up to `concurrency` of them work at once.

        With `batch=Batch(size, within)` a function takes a list: `async def write(rows: list[Row], ctx: Context) -> None`. The
        actor is told one body at a time. `ctx.batch` has the messages, to settle single ones otherwise. Each asker gets its
        element of a returned list that has one for each message, and None otherwise.

        Args:
            handler: the function or class; None for a decorator.
            **options: name, bind, mailbox, concurrency, retry, timeout, by, middleware, gates, debounce, restart (see
                ActorOptions); restart only for a class, concurrency for one with by; idle and max_active only for a class with
                by (see KeyedOptions); batch, for a function.

        Raises:
            InvalidHandler: its signature cannot be used.
            PreconditionFailed: an actor of that name exists.
            InvalidBinding: a binding is of another mesh.
            TypeError: an unknown option, naming the one that was meant.
            ValueError: an option out of its range.
        """
        check_options(options, AllOptions.__annotations__)
        if handler is None:
            return ActorPreset(self, options)
        return self._declare_actor(handler, options, locals_of_caller(1))

    def _declare_actor(
        self,
        function: Callable[..., Any],
        options: AllOptions,
        local_names: Mapping[str, Any],
        *,
        schedule: str | None = None,
    ) -> Actor[Any, Any]:
        """Check everything, then declare. `schedule`: it will be fired by the schedule of this name ("": its own)."""
        if isinstance(function, Actor):
            raise InvalidHandler(f"{function!r} is an actor already: give mesh.actor the function itself")
        if not callable(function):
            raise InvalidHandler(f"{function!r} cannot be a handler: give a function, or the class itself")
        handler = self._engine.last_read
        is_plain = not any(options.get(option) is not None for option in _READ_WITH)
        if not is_plain or handler is None or handler.function is not function or not handler.is_resolved:
            handler = _read(function, local_names, options)
            self._engine.last_read = handler if is_plain and isinstance(handler, Handler) else None
        name = options.get("name") or handler.name
        engine = self._engine
        if schedule is not None:
            if handler.takes_body and not (handler.is_resolved and isinstance(None, handler.accepts)):
                raise InvalidHandler(
                    f"handler {name!r} takes a message, and a schedule that decorates it has none: let it take none, or "
                    "declare an actor and give mesh.every(seconds, actor, body=...) the body"
                )
            if (schedule or name) in engine.residents.schedules:
                raise second_schedule(engine, schedule or name)
        bindings = _bindings(options.get("bind"))
        for binding in bindings:
            self._check_reference(binding.exchange, f"actor {name!r} cannot be bound to exchange {binding.exchange.name!r}")
        mailbox = options.get("mailbox")
        check_gathering(name, options)
        if isinstance(mailbox, Mailbox):
            self._check_reference(mailbox, f"actor {name!r} cannot be fed from mailbox {mailbox.name!r}")
        keying: Keying | None = None
        made: type[Actor[Any, Any]] = Actor
        if isinstance(handler, ClassHandler):
            made = ClassActor[Any]
            if options.get("by") is not None:
                made, keying = KeyedActor[Any, Any], Keying(options.get("idle"), options.get("max_active"))
        actor = made(self._home)
        declaration = ActorDeclaration(
            actor,
            name,
            handler,
            mailbox,
            slots=options.get("concurrency", 1),
            retry=options.get("retry"),
            timeout=options.get("timeout"),
            by=options.get("by"),
            middleware=checked_middleware(options.get("middleware") or ()),
            gates=tuple(options.get("gates") or ()),
            gather=options.get("batch") or options.get("debounce"),
            restart=options.get("restart"),
            keying=keying,
        )
        declaration.check(engine)
        declaration.place(engine)
        self._keep(declaration)
        for binding in bindings:
            binding.exchange.bind(actor, binding.key, arguments=binding.arguments or None)
        return actor

    def provide(self, type: type[Thing], factory: Callable[..., AbstractAsyncContextManager[Thing]]) -> None:
        """Provide a thing: what handlers, class actors and other factories are given where they annotate a parameter with it.

            @asynccontextmanager
            async def open_pool(settings: Settings) -> AsyncIterator[Pool]:
                async with Pool(settings.url) as pool:
                    yield pool

            mesh.provide(Pool, open_pool)

        It is opened when the mesh starts, before its actors and after what the factory asks for, and closed when it has
        drained, in reverse; once per run of the mesh, in the task that enters and leaves it. It is closed normally whatever
        ended the mesh, unless that is a cancellation.

        Args:
            type: what parameters are annotated with.
            factory: gives an async context manager; its parameters are provided things, by their types.

        Raises:
            PreconditionFailed: another factory provides this type, or the mesh runs.
            InvalidHandler: the factory's signature cannot be used.
        """
        provider = self._engine.providing.add(type, factory)
        self._keep(ProvisionDeclaration(type, provider))

    @overload
    def source(self, function: Polling, /) -> Polling: ...
    @overload
    def source(self, /, *, name: str | None = None) -> Callable[[Polling], Polling]: ...
    def source(self, function: Source | None = None, /, *, name: str | None = None) -> Any:
        """Declare a source: one task that brings messages in, `async def poll(ctx: ActorContext)`.

        It starts with the mesh and is cancelled first when the mesh drains. One that returns has ended; one that raises stops
        the mesh with its error, unless a group holds it (`supervise`). It may await `mesh.idle()` and then call `mesh.stop()`.

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
        (parameter,) = inspect.signature(function).parameters.values()
        if parameter.annotation in (Context, "Context"):
            raise InvalidHandler(
                f"source {name!r} has no message, so no Context: annotate {parameter.name!r} with ActorContext, "
                "and send with await exchange.publish(...)"
            )
        declaration = SourceDeclaration(name, function)
        if name in self._engine.sources:
            raise PreconditionFailed(f"source {name!r} exists in {self._engine.ground.label}: give this one another name=")
        declaration.place(self._engine)
        self._keep(declaration)
        return function

    # What a mesh and a part do differently

    _home: Home | None = None
    """The part that keeps what is bound to its things."""

    def _keep(self, declaration: Declaration) -> None:
        """Remember a declaration that stands in the own engine now. A mesh has nothing to remember it for."""

    def _check_reference(self, thing: Exchange | Mailbox | Actor[Any, Any], what: str) -> None:
        """Refuse a thing that is not here.

        Raises:
            InvalidBinding: it belongs to another mesh, or is deleted.
        """
        if thing.endpoint.deleted:
            raise InvalidBinding(f"{what}, which has been deleted: declare it again")
        if thing.engine is not self._engine:
            raise InvalidBinding(f"{what}: it belongs to {_owner(thing)}")


class BatchPreset(Protocol):
    """What `mesh.actor(batch=...)` returns: a decorator for handlers that take a list."""

    @overload
    def __call__(self, handler: Callable[Concatenate[list[Body], Rest], Awaitable[list[Reply]]], /) -> Actor[Body, Reply]: ...
    @overload
    def __call__(self, handler: Callable[Concatenate[list[Body], Rest], Awaitable[None]], /) -> Actor[Body, None]: ...
    @overload
    def __call__(self, handler: Callable[Concatenate[list[Body], Rest], list[Reply]], /) -> Actor[Body, Reply]: ...
    @overload
    def __call__(self, handler: Callable[Concatenate[list[Body], Rest], None], /) -> Actor[Body, None]: ...


class KeyedPreset(Protocol[Key]):
    """What `mesh.actor(by=...)` returns: a decorator for handlers, and for classes with an instance for each value."""

    @overload
    def __call__(self, handler: type[Instance], /) -> KeyedActor[Instance, Key]: ...
    @overload
    def __call__(self, handler: Callable[Concatenate[Body, Rest], Awaitable[Reply]], /) -> Actor[Body, Reply]: ...
    @overload
    def __call__(self, handler: Callable[Concatenate[Body, Rest], Reply], /) -> Actor[Body, Reply]: ...


class ActorPreset:
    """Options to declare actors with: what `mesh.actor(retry=...)` returns. Decorates as often as you like."""

    def __init__(self, place: Declaring, options: AllOptions) -> None:
        self._place = place
        self._options = options

    @overload
    def __call__(self, handler: type[Instance], /) -> ClassActor[Instance]: ...
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
        return self._place._declare_actor(handler, self._options, locals_of_caller(1))  # pyright: ignore[reportPrivateUsage] - one face in two classes


def _owner(thing: Exchange | Mailbox | Actor[Any, Any]) -> str:
    ground = thing.engine.ground
    return (
        f"{ground.label}, which has not been added here: mesh.add(...) it first"
        if ground.is_part
        else f"another {ground.label}"
    )


_READ_WITH: Final = ("batch", "idle", "max_active", "restart")
"""The options that decide how a function is read, or that it cannot have."""


def _read(function: Any, local_names: Mapping[str, Any], options: AllOptions) -> Handler | ClassHandler:
    if not inspect.isclass(function):
        kind = Handler if options.get("batch") is None else BatchHandler
        found = kind(function, Context, local_names)
        name = options.get("name") or found.name
        for option in ("idle", "max_active"):
            if options.get(option) is not None:
                raise ValueError(
                    f"actor {name!r} is a function, which has no instances to put away: leave {option}= out, or write a "
                    "class and say by="
                )
        if options.get("restart") is not None:
            raise ValueError(
                f"actor {name!r} is a function, and there is nothing of it to make anew: leave restart= out and say with "
                "retry= what becomes of its messages, or write a class"
            )
        return found
    is_machine = issubclass(function, Machine)
    handler = machine_handler_of(function) if is_machine else ClassHandler(function, Context, local_names)
    name = options.get("name") or handler.name
    if (handler.postpones or handler.has_timeouts) and options.get("debounce") is not None:
        why = "postpones messages" if handler.postpones else "has states that last for a while, whose end would count as one"
        raise ValueError(f"machine {name!r} {why}: leave debounce= out, and put it on the actor that tells it")
    if options.get("by") is None:
        if options.get("concurrency", 1) != 1:
            raise ValueError(
                f"class actor {name!r} handles one message at a time: leave concurrency= out, say by= to have one "
                "instance for each value, or write a function if there is no state to keep"
            )
        for option in ("idle", "max_active"):
            if options.get(option) is not None:
                raise ValueError(
                    f"class actor {name!r} has one instance, which is never put away: leave {option}= out, or say by= "
                    "to have one for each value"
                )
    if options.get("batch") is not None:
        raise ValueError(f"class actor {name!r} takes one message at a time: leave batch= out, or write a function")
    return handler


def _bindings(bind: Any) -> list[Binding]:
    several = isinstance(bind, list | tuple)
    found: list[Any] = [] if bind is None else [*bind] if several else [bind]
    for binding in found:
        if not isinstance(binding, Binding):
            meant = f": say bind={binding.name}.on(key)" if isinstance(binding, Exchange) else ""
            raise InvalidBinding(f"bind= takes exchange.on(...), or a list of them, not {binding!r}{meant}")
    return found
