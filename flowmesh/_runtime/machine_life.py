"""The life of one state machine: it resumes where it was saved, or begins; handles messages; gives back what it has postponed.

A turn: the handler of the pair (state, type), then the `@enter` method of the state that it leads to, if any, and then, with
the ack and in its commit, the new state and the data.  What follows the commit in the same step: the state's timeout, and what
was postponed.  A turn that does not end so has changed nothing.
"""

import functools
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext
from typing import Any, Final, cast, get_args

import anyio
import msgspec
from msgspec import Raw

from flowmesh._core.commits import Defer, Intent
from flowmesh._core.entry import NO_LANE
from flowmesh._core.machines import Handling, Otherwise, Response
from flowmesh._runtime.composing import compose
from flowmesh._runtime.context import ActorContext, Context, home_of, is_asked, starting
from flowmesh._runtime.effects import Effects, saved_state
from flowmesh._runtime.ground import Ground
from flowmesh._runtime.instance import Acting, Instance
from flowmesh._runtime.machine_handler import LIFE, MachineHandler, untyped_data
from flowmesh._runtime.machines import Machines
from flowmesh._runtime.position import Change, Position, SavedMachine, StateTimeout
from flowmesh._runtime.reminding import reminders_of
from flowmesh._runtime.signature import named
from flowmesh.errors import InvalidHandler, PreconditionFailed, Reject
from flowmesh.message import Message

__all__ = ["Life", "living"]

_TIMEOUT: Final = "flowmesh.state"


@asynccontextmanager
async def living(handler: MachineHandler, instance: Any, actor_context: object) -> AsyncGenerator[None]:
    """Let an instance live in its own hooks: it resumes before them, begins in them, and gives back what it has postponed."""
    context = cast("ActorContext", actor_context)
    life = Life(handler, instance, *home_of(context))
    setattr(instance, LIFE, life)
    async with nullcontext() if handler.own_hooks is None else handler.own_hooks(instance, context):
        await life.begin(context)
        try:
            yield
        finally:
            life.end()


class Life:
    """One machine of a mesh: an instance and its position. `lane`: its value, NO_LANE for an actor that is one machine."""

    def __init__(self, handler: MachineHandler, instance: Any, ground: Ground, cell: Acting) -> None:
        assert cell.actor.machines is not None
        self._handler = handler
        self._instance = instance
        self._ground = ground
        self._cell = cell
        self._machines: Machines = cell.actor.machines
        self._lane: Any = cell.value if isinstance(cell, Instance) else NO_LANE
        self._is_new = True
        self._timeout = 0  # the number of the message that ends this state
        self._is_over = False
        self.position = Position(cell.name, handler.machinery.initial)
        self._resume()

    def _resume(self) -> None:
        handler, instance, name = self._handler, self._instance, self._cell.name
        saved = saved_state(self._ground, self._cell, SavedMachine)
        if saved is not None:
            if saved.state not in handler.machinery.states:
                raise PreconditionFailed(
                    f"actor {name!r} was saved in state {saved.state!r}, which class {handler.place} does not have: keep the "
                    "state until no machine is in it, with a handler that leads out of it"
                )
            self._is_new = False
            self.position.state = saved.state
            if handler.data_type is not None:
                instance.data = self._decoded(saved.data)
        elif handler.data_type is not None and not hasattr(instance, "data"):
            raise InvalidHandler(
                f"machine {handler.place} says what its data is, and has none: write data: {named(handler.data_type)} = ..., "
                "or set self.data in __init__"
            )
        if handler.data_type is None and hasattr(instance, "data"):
            raise InvalidHandler(untyped_data(handler.place, instance.data))

    def _decoded(self, data: Raw) -> Any:
        kind = self._handler.data_type
        try:
            return msgspec.msgpack.decode(data, type=kind)
        except msgspec.ValidationError as error:
            raise PreconditionFailed(
                f"the data that actor {self._cell.name!r} has saved are no {named(kind)}: {error}; give new fields defaults"
            ) from error

    async def begin(self, actor_context: ActorContext) -> None:
        """Enter the initial state, in a turn of no message, unless it has resumed; its timeout begins.

        Cancellation: it has not begun.
        """
        handler, position = self._handler, self.position
        position.data = self._data()
        method = handler.machinery.entries.get(position.state) if self._is_new else None
        if method is None:
            self._begin_timeout(None)
        else:
            context = starting(actor_context, self._message())
            position.begin(Handling(method, (position.state,), goes=True))
            position.leads_to()
            try:
                await handler.actions_of(self._instance, self._cell.things or {}, anyio.CapacityLimiter(1))[method](context)
                change = position.change(self._data())
            finally:
                position.abandon()
                context.end()
            assert change is not None
            self._collect(context, change)
            self._commit(context)
        self._machines.adopt(position, self._lane)

    def end(self) -> None:
        """Give back what it has postponed: the next machine, or whoever takes its mailbox over, will look at it.

        One of several that is put away leaves it where it is: the next one will resume in the same state.
        """
        self._is_over = True
        self._machines.leave(self._lane, resumes=isinstance(self._cell, Instance) and self._cell.is_leaving)

    # Turns

    def bind(self, things: Mapping[Any, Any]) -> Callable[..., Any]:
        """Return what its messages are handled with: a dispatch by state and type."""
        handler, instance, position = self._handler, self._instance, self.position
        limiter = anyio.CapacityLimiter(1)
        methods = handler.calls_of(instance, things, limiter)
        actions = handler.actions_of(instance, things, limiter)
        names = {name: method.handler.context_as for name, method in handler.methods.items()}
        entries = handler.machinery.entries

        async def handle(body: Any, *, context: Context) -> Any:
            self._undo()  # A turn that failed around its handler may have left something behind.
            response = handler.response_to(position.state, body)
            if isinstance(body, StateTimeout) and (response is None or body.number != self._timeout):
                return None  # It was on its way when the state was left.
            if not isinstance(response, Handling):
                return self._otherwise(context, body, response)
            if isinstance(body, StateTimeout):
                call = functools.partial(actions[response.method], context)
            else:
                name = names[response.method]
                given = {} if name is None else {name: context}
                call = functools.partial(methods[response.method], body, **given)
            position.begin(response)
            try:
                result = await call()
                entered = position.leads_to()
                if entered is not None and entered in entries:
                    await actions[entries[entered]](context)
                change = position.change(self._data())
                if change is not None:
                    self._collect(context, change)
            except BaseException:
                self._undo()
                raise
            return result

        return handle

    def _otherwise(self, context: Context, body: object, response: Response | None) -> None:
        """Be done with a message that no handler is given."""
        handler = self._handler
        is_ignored = response is Otherwise.IGNORE or (response is None and handler.unhandled == "ignore")
        if is_ignored and not is_asked(context):
            return
        pair = f"{type(body).__name__} in state {self.position.state!r}"
        if response is Otherwise.POSTPONE:
            raise Reject(f"actor {context.actor!r} has postponed {handler.limit} messages, and cannot postpone {pair} as well")
        does = "ignores" if is_ignored else "does not handle" if response is None else "refuses"
        raise Reject(f"actor {context.actor!r} {does} {pair}")

    def _collect(self, context: Context, change: Change) -> None:
        """Let a change take effect with the ack.

        Raises:
            TypeError: its data are not of the type that the class says, and could not be taken up again.
        """
        kind = self._handler.data_type
        if kind is not None and not isinstance(change.data, get_args(kind) or kind):
            raise TypeError(f"machine {self._cell.name!r} has data of type {named(kind)}, and was given {change.data!r:.80}")
        if context.effects is None:
            context.effects = Effects(self._ground, self._cell, context.message)
        saved = SavedMachine(change.state, Raw(msgspec.msgpack.encode(change.data)))
        context.effects.settle(saved, lambda: self._settle(change, context.message))

    def _settle(self, change: Change, message: Message) -> None:
        if self._is_over:  # It was being stored at the end of a drain: whoever resumes there will find it.
            return
        is_other = self.position.settle(change)
        if change.enters:
            self._begin_timeout(message)
        if is_other:
            self._machines.changed(self._lane)

    def _begin_timeout(self, parent: Message | None) -> None:
        """End the timeout of the state before, and begin that of this one."""
        reminders = reminders_of(self._ground, self._cell)
        reminders.cancel(_TIMEOUT)
        timeout = self._handler.machinery.timeouts.get(self.position.state)
        self._timeout = next(self._machines.serials)
        if timeout is not None:
            reminders.set(_TIMEOUT, timeout.delay, StateTimeout(self._timeout), parent)

    def _undo(self) -> None:
        self.position.abandon()
        if self._handler.data_type is not None and self._instance.data is not self.position.data:
            self._instance.data = self.position.data

    def _data(self) -> Any:
        return None if self._handler.data_type is None else self._instance.data

    # The turn of no message

    def _message(self) -> Message:
        ground = self._ground
        exchange, now = ground.router.default_exchange.name, ground.now()
        return compose(ground, None, exchange=exchange, key=self._cell.box.name, options={}, parent=None, now=now)

    def _commit(self, context: Context) -> None:
        ground, effects = self._ground, context.effects
        assert effects is not None
        now = ground.now()
        intents: list[Intent] = [] if effects.save is None else [effects.save]
        for output in context.outputs:
            due = output.due(ground, now)
            intents.append(output.action() if due is None else Defer(output.action(), due[0], on_wall=due[1]))
        commit = ground.ledger.commit(*intents, now=now)
        if commit.notes:
            ground.tell(commit)
        effects.carry_out()
