"""The public base class of state machines: `class Door(Machine, initial="locked")`.

The class is read and checked where it is made: its states, its transitions, and what is done with every message type in every
state.  It is declared as any class actor, and handles one message at a time.
"""

from typing import Any, ClassVar

from flowmesh._core.diagrams import diagram_of
from flowmesh._core.machines import Machinery
from flowmesh._runtime.context import Context
from flowmesh._runtime.machine_handler import MachineHandler, Unhandled
from flowmesh._runtime.machine_life import Life, living
from flowmesh._runtime.position import Position
from flowmesh._runtime.signature import locals_of_caller
from flowmesh.errors import InvalidHandler

__all__ = ["Machine", "machine_handler_of"]

POSTPONED = 1000
"""Messages that a machine postpones at once, unless it says otherwise."""


class _Rules:
    """What a machine's class says of itself; a subclass says only what is different."""

    def __init__(self, initial: str | None, unhandled: Unhandled, postponed: int) -> None:
        self.initial = initial
        self.unhandled: Unhandled = unhandled
        self.postponed = postponed


class Machine:
    """A class actor that handles each message by the state it is in. Subclass it, and declare it with `mesh.actor`.

        class Door(Machine, initial="locked"):
            @on("locked", to="closed", ignore=("closed", "open"))
            async def unlock(self, message: Unlock) -> None: ...

            @on("closed", to="open", postpone="locked", ignore="open")
            async def open(self, message: Open) -> None: ...

            @after(30.0, "open", to="closed")
            async def shut(self) -> None: ...

    What is postponed stays leased, and comes back when the state has changed: before newer messages, in order. A change of
    state takes effect with the ack: a turn that fails leaves the state, and `self.data`, as they were. Both are saved with it,
    and a machine that is made anew resumes where it was.

    For data that is kept with the state, annotate it: `data: Visits = Visits()`, with a frozen msgspec.Struct, and replace it:
    `self.data = msgspec.structs.replace(self.data, count=1)`. Other attributes are the instance's, and end with it.

    What it is told is said where the class begins, `class Door(Machine, initial=..., unhandled=..., postponed=...)`.

    Args:
        initial: the state it begins in; a class without it is a base for others.
        unhandled: what is done with a message type in a state of which nothing is said: "forbid" (default: the class is
            not made, and the error lists them), "refuse" (dead letter, `rejected`; an asker gets NoReply) or "ignore".
        postponed: messages that one machine postpones at once (default 1000); one more is refused.

    Raises:
        InvalidHandler: where the class is made: it makes no sense; names what, and how to mend it.
    """

    states: ClassVar[tuple[str, ...]] = ()
    """Its states, the initial one first."""
    unhandled: ClassVar[tuple[tuple[str, type], ...]] = ()
    """The pairs of a state and a message type of which nothing is said."""
    _flowmesh_rules: ClassVar[_Rules] = _Rules(None, "forbid", POSTPONED)
    _flowmesh_handler: ClassVar[MachineHandler | None] = None
    _flowmesh_life: Life | None = None
    _flowmesh_position: Position | None = None  # of an instance that no mesh has made

    def __init_subclass__(
        cls, *, initial: str | None = None, unhandled: Unhandled | None = None, postponed: int | None = None, **options: Any
    ) -> None:
        super().__init_subclass__(**options)
        place, above = f"{cls.__module__}.{cls.__qualname__}", cls._flowmesh_rules
        if unhandled not in (None, "forbid", "refuse", "ignore"):
            raise InvalidHandler(f"machine {place}: unhandled must be 'forbid', 'refuse' or 'ignore', not {unhandled!r}")
        if initial is not None and (not isinstance(initial, str) or not initial):  # pyright: ignore[reportUnnecessaryIsInstance] - users get it wrong
            raise InvalidHandler(f"machine {place}: initial must be the name of a state, not {initial!r}")
        if postponed is not None and (type(postponed) is not int or postponed < 1):
            raise InvalidHandler(f"machine {place}: postponed must be a whole number of at least 1, not {postponed!r}")
        cls._flowmesh_rules = rules = _Rules(
            above.initial if initial is None else str.__str__(initial),
            above.unhandled if unhandled is None else unhandled,
            above.postponed if postponed is None else postponed,
        )
        if rules.initial is None:
            return

        def tell(machinery: Machinery) -> None:
            cls.states, cls.unhandled = machinery.states, machinery.unhandled

        cls._flowmesh_handler = MachineHandler(
            cls,
            Context,
            locals_of_caller(1),
            initial=rules.initial,
            unhandled=rules.unhandled,
            limit=rules.postponed,
            tell=tell,
            living=living,
        )

    @property
    def state(self) -> str:
        """The state it is in. In a turn that is the one in which the turn began; in an `@enter` method, the one entered."""
        life = self._flowmesh_life
        return self._alone().state if life is None else life.position.current

    def become(self, state: str) -> None:
        """Let this turn lead to a state, one of its handler's `to=`; with the ack, or not at all. The last call counts.

        Leading to the state it is in enters that anew: its `@enter` method is called and its timeout begins again, but what
        is postponed stays so. On an instance that no mesh has made, as in a unit test, it leads there at once.

        Raises:
            InvalidHandler: the handler's `to=` does not name the state; or this is no turn.
        """
        if self._flowmesh_life is not None:
            self._flowmesh_life.position.choose(state)
            return
        known = machine_handler_of(type(self)).machinery.states
        if state not in known:
            listed = ", ".join(map(repr, known))
            raise InvalidHandler(f"machine {type(self).__qualname__} has no state {state!r}: it has {listed}")
        self._alone().state = state

    @classmethod
    def diagram(cls) -> str:
        """Return the machine as a Mermaid state diagram, with every transition that it declares.

        Raises:
            InvalidHandler: an annotation names something that is not defined; or the class has no initial state.
        """
        return diagram_of(machine_handler_of(cls).machinery)

    def _alone(self) -> Position:
        """Return the position of an instance that no mesh has made."""
        if self._flowmesh_position is None:
            self._flowmesh_position = Position(type(self).__name__, machine_handler_of(type(self)).initial)
        return self._flowmesh_position


def machine_handler_of(kind: type[Machine]) -> MachineHandler:
    """Return what a machine's class is read as.

    Raises:
        InvalidHandler: it has no initial state.
    """
    handler = kind._flowmesh_handler  # pyright: ignore[reportPrivateUsage] - not for users
    if handler is None or handler.kind is not kind:
        raise InvalidHandler(
            f"machine {kind.__module__}.{kind.__qualname__} has no initial state: class {kind.__name__}(Machine, initial='...')"
        )
    return handler
