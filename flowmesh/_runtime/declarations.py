"""Declarations as data: what was declared, so that it can be placed in any mesh, and again in another one.

A mesh places each declaration in its engine at once.  A part keeps them, and they are placed when it is added to a mesh.
Placing points the handles that users hold (Exchange, Mailbox, Actor, Schedule) at that engine, and is idempotent: what is
there already, from the same declaration or an equal one, is found.

    check(engine)    raises what placing would raise; nothing has changed
    misses(engine)   names a thing that it refers to and that is not in this engine (yet), or None
    place(engine)    declares it there
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

from msgspec import Struct

from flowmesh._core.exchanges import Exchange as CoreExchange
from flowmesh._core.mailbox import Mailbox as CoreMailbox
from flowmesh._runtime.actor import Actor
from flowmesh._runtime.cell import Cell, Keying
from flowmesh._runtime.classes import ClassHandler
from flowmesh._runtime.engine import Engine
from flowmesh._runtime.exchange import Exchange
from flowmesh._runtime.groups import Group
from flowmesh._runtime.handler import Handler
from flowmesh._runtime.mailbox import Mailbox
from flowmesh._runtime.middleware import Middleware
from flowmesh._runtime.providing import Provider
from flowmesh._runtime.scheduling import Schedule
from flowmesh._runtime.sources import Source
from flowmesh._runtime.supervising import Plan
from flowmesh.errors import PreconditionFailed
from flowmesh.policies import Autoscale, Batch, Debounce, Gate, MailboxOptions, Restart, Retry

__all__ = [
    "ActorDeclaration",
    "BindingDeclaration",
    "Declaration",
    "ExchangeDeclaration",
    "GroupDeclaration",
    "Handle",
    "MailboxDeclaration",
    "ProvisionDeclaration",
    "ScheduleDeclaration",
    "SourceDeclaration",
]


class Handle(Protocol):
    """What users hold of a declared thing."""

    @property
    def engine(self) -> Engine:
        """The engine that it is in."""
        ...

    @property
    def endpoint(self) -> CoreExchange | CoreMailbox:
        """The core's end of it."""
        ...


class Declaration(Protocol):
    """One thing that was declared; see the module."""

    def check(self, engine: Engine) -> None:
        """Raise what `place` would raise."""
        ...

    def misses(self, engine: Engine) -> Handle | None:
        """Return what it refers to and is not in this engine."""
        ...

    def place(self, engine: Engine) -> None:
        """Declare it in this engine."""
        ...


class ExchangeDeclaration(Struct, frozen=True, eq=False):
    """An exchange."""

    handle: Exchange
    name: str
    type: str | None
    alternate: str | None
    internal: bool | None
    durable: bool | None
    arguments: Mapping[str, Any] | None

    def check(self, engine: Engine) -> None:
        """Refuse one that is declared differently there."""
        if engine.ground.router.find_exchange(self.name) is not None:
            self._declare(engine)

    def misses(self, engine: Engine) -> Handle | None:
        """Nothing: it refers to others by name."""
        del engine

    def place(self, engine: Engine) -> None:
        """Declare it."""
        self.handle.attach(engine, self._declare(engine))

    def _declare(self, engine: Engine) -> CoreExchange:
        engine.storing.check_exchange(self.name, durable=self.durable)
        return engine.ground.router.declare_exchange(
            self.name,
            self.type,
            alternate=self.alternate,
            internal=self.internal,
            durable=self.durable,
            arguments=self.arguments,
        )


class MailboxDeclaration(Struct, frozen=True, eq=False):
    """A mailbox."""

    handle: Mailbox
    name: str
    options: MailboxOptions | None

    def check(self, engine: Engine) -> None:
        """Refuse one that is declared differently there."""
        router = engine.ground.router
        if router.find_mailbox(self.name) is not None:
            router.declare_mailbox(self.name, self.options)

    def misses(self, engine: Engine) -> Handle | None:
        """Nothing: it refers to others by name."""
        del engine

    def place(self, engine: Engine) -> None:
        """Declare it."""
        self.handle.attach(engine, engine.residents.declare_mailbox(self.name, self.options))


class ActorDeclaration(Struct, frozen=True, eq=False):
    """An actor, without its bindings. `mailbox`: the options of its own, or the handle of one that it shares.

    `keying`: of a class with `by=`.
    """

    handle: Actor[Any, Any]
    name: str
    handler: Handler | ClassHandler
    mailbox: MailboxOptions | Mailbox | None
    slots: int | Autoscale
    retry: Retry | None
    timeout: float | None
    by: Callable[[Any], Any] | None
    middleware: tuple[Middleware, ...]
    gates: tuple[Gate, ...] = ()
    gather: Batch | Debounce | None = None
    restart: Restart | None = None
    keying: Keying | None = None

    def check(self, engine: Engine) -> None:
        """Refuse a second actor of its name, and a mailbox that is declared differently there, or is a keyed actor's."""
        found = engine.residents.cells.get(self.name)
        if found is not None and found.declared_as is not self.handle:
            raise PreconditionFailed(f"actor {self.name!r} exists in {engine.ground.label}: give this one another name=")
        engine.check_provided(self.name, self.handler)
        router = engine.ground.router
        if not isinstance(self.mailbox, Mailbox) and router.find_mailbox(self.name) is not None:
            router.declare_mailbox(self.name, self.mailbox)
        if found is None:
            self._check_alone(engine)

    def _check_alone(self, engine: Engine) -> None:
        """Refuse to let another actor be handed what an instance of a keyed one is there for."""
        name = self.mailbox.name if isinstance(self.mailbox, Mailbox) else self.name
        box = engine.ground.router.find_mailbox(name)
        for other in () if box is None else engine.scheduler.consumers_of(box):
            if self.keying is not None or other.keying is not None:
                keyed = self.name if self.keying is not None else other.name
                raise PreconditionFailed(
                    f"actors {other.name!r} and {self.name!r} cannot share mailbox {name!r}: {keyed!r} has an instance for "
                    "each value of by=, which is handed all of its messages; bind a mailbox of its own, or stop the other"
                )

    def misses(self, engine: Engine) -> Handle | None:
        """A mailbox that it shares."""
        return self.mailbox if isinstance(self.mailbox, Mailbox) and self.mailbox.engine is not engine else None

    def place(self, engine: Engine) -> None:
        """Declare it and let it run."""
        cell = engine.residents.cells.get(self.name)
        if cell is None:
            box = self._mailbox_in(engine)
            cell = Cell(
                self.name,
                box,
                self.handler,
                slots=self.slots,
                retry=self.retry,
                timeout=self.timeout,
                by=self.by,
                middleware=self.middleware,
                gates=self.gates,
                gather=self.gather,
                restart=self.restart,
                keying=self.keying,
            )
            cell.declared_as = self.handle
            engine.add_cell(cell)
        self.handle.attach(engine, cell)

    def _mailbox_in(self, engine: Engine) -> CoreMailbox:
        shared = self.mailbox
        if not isinstance(shared, Mailbox):
            return engine.residents.declare_mailbox(self.name, shared)
        if shared.engine is engine:
            return shared.core
        # In its own part, which never runs: one that stands for it.
        return engine.residents.declare_mailbox(shared.name, shared.options)


class BindingDeclaration(Struct, frozen=True, eq=False):
    """A binding; with `is_undone`, the end of one."""

    source: Exchange
    destination: Handle
    key: str
    arguments: Mapping[str, Any] | None
    is_undone: bool = False

    def check(self, engine: Engine) -> None:
        """Nothing: its key and arguments were checked when it was made."""
        del engine

    def misses(self, engine: Engine) -> Handle | None:
        """One of its ends."""
        return next((end for end in (self.source, self.destination) if end.engine is not engine), None)

    def place(self, engine: Engine) -> None:
        """Bind, or unbind."""
        router = engine.ground.router
        change = router.unbind if self.is_undone else router.bind
        change(self.source.core, self.destination.endpoint, self.key, self.arguments)


class ProvisionDeclaration(Struct, frozen=True, eq=False):
    """A provided thing."""

    kind: Any
    provider: Provider

    def check(self, engine: Engine) -> None:
        """Refuse a second factory of its type, and one for a mesh that runs."""
        engine.providing.check(self.kind, self.provider)

    def misses(self, engine: Engine) -> Handle | None:
        """Nothing: what it needs is looked for when the mesh starts."""
        del engine

    def place(self, engine: Engine) -> None:
        """Make it known."""
        engine.providing.take(self.kind, self.provider)


class SourceDeclaration(Struct, frozen=True, eq=False):
    """A source."""

    name: str
    function: Source

    def check(self, engine: Engine) -> None:
        """Refuse a second one of its name."""
        if engine.sources.find(self.name) not in (None, self.function):
            raise PreconditionFailed(f"source {self.name!r} exists in {engine.ground.label}: give this one another name=")

    def misses(self, engine: Engine) -> Handle | None:
        """Nothing."""
        del engine

    def place(self, engine: Engine) -> None:
        """Declare it; it starts with the mesh."""
        if self.name not in engine.sources:
            engine.sources.add(self.name, self.function)


class GroupDeclaration(Struct, frozen=True, eq=False):
    """A supervision group. `sources`: the names of those of its members that are sources, by their functions."""

    handle: Group
    sources: Mapping[Any, str]

    def check(self, engine: Engine) -> None:
        """Refuse a second group of its name, and a member that is in a group."""
        name, mine = self.handle.name, {_kind_and_name(member, self.sources) for member in self.handle.members}
        for plan in engine.groups.plans.values():
            if plan.origin is self.handle:
                continue
            if plan.name == name:
                raise PreconditionFailed(f"group {name!r} exists in {engine.ground.label}: give this one another name")
            taken = mine.intersection(plan.contents())
            if taken:
                kind, member = min(taken)
                raise PreconditionFailed(
                    f"{kind} {member!r} is in group {plan.name!r}: a member has one group, which may be in another"
                )

    def misses(self, engine: Engine) -> Handle | None:
        """An actor of it; sources and groups are of its own part."""
        for member in self.handle.members:
            if isinstance(member, Actor):
                actor = cast("Actor[Any, Any]", member)
                if actor.engine is not engine:
                    return actor
        return None

    def place(self, engine: Engine) -> None:
        """Declare it; it starts with the mesh."""
        handle = self.handle
        members = tuple(self._member(member) for member in handle.members)
        plan = engine.groups.plans.get(handle.name)
        if plan is None or plan.members != members:  # An actor of it may have been stopped, and declared anew.
            plan = Plan(handle.name, handle.strategy, handle.policy, members, handle.significant, handle)
            engine.groups.add(plan)
        handle.attach(engine, plan)

    def _member(self, member: Any) -> Cell | str | Plan:
        if isinstance(member, Actor):
            return cast("Actor[Any, Any]", member).cell
        return member.plan if isinstance(member, Group) else self.sources[member]


class ScheduleDeclaration(Struct, frozen=True, eq=False):
    """A schedule, and what it fires at."""

    handle: Schedule
    target: Handle
    key: str

    def check(self, engine: Engine) -> None:
        """Refuse a second one of its name."""
        if engine.residents.schedules.get(self.handle.name) not in (None, self.handle):
            raise PreconditionFailed(
                f"schedule {self.handle.name!r} exists in {engine.ground.label}: give this one another name="
            )

    def misses(self, engine: Engine) -> Handle | None:
        """Its target."""
        return None if self.target.engine is engine else self.target

    def place(self, engine: Engine) -> None:
        """Let it fire at its target there, from the start of the mesh."""
        end = self.target.endpoint
        is_exchange = isinstance(end, CoreExchange)
        exchange = end if is_exchange else engine.ground.router.default_exchange
        key = self.key if is_exchange else end.name
        self.handle.attach(engine.ground, exchange, key=key, scheduler=engine.scheduler)
        engine.residents.add_schedule(self.handle)


def _kind_and_name(member: Any, sources: Mapping[Any, str]) -> tuple[str, str]:
    if isinstance(member, Actor):
        return "actor", cast("Actor[Any, Any]", member).name
    return ("group", member.name) if isinstance(member, Group) else ("source", sources[member])
