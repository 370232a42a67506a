"""A machine's class, where it is made: what it lists, what it inherits, what is refused, and its diagram."""

from collections.abc import Callable
from enum import StrEnum
from typing import Any

import pytest
from msgspec import Struct

from flowmesh import Batch, Context, Debounce, InvalidHandler, Machine, Mesh, after, enter, on


class Unlock(Struct, frozen=True):
    pass


class Open(Struct, frozen=True):
    pass


class Loose(Struct):
    count: int = 0


def test_states_and_unhandled_pairs_are_listed() -> None:
    """When the class is made, in order; there are unhandled ones only where the class says what becomes of them."""

    class Door(Machine, initial="locked", unhandled="refuse"):
        @on("locked", to="closed")
        async def unlock(self, message: Unlock) -> None: ...

        @on("closed", to="open")
        async def open(self, message: Open) -> None: ...

    assert Door.states == ("locked", "closed", "open")
    assert Door.unhandled == (("locked", Open), ("closed", Unlock), ("open", Unlock), ("open", Open))
    assert Machine.states == Machine.unhandled == ()


def test_a_class_that_says_nothing_of_a_pair_is_not_made() -> None:
    """The error lists all of them, by type, and the mends."""
    with pytest.raises(InvalidHandler) as caught:

        class Door(Machine, initial="locked"):
            @on("locked", to="closed")
            async def unlock(self, message: Unlock) -> None: ...

            @on("closed", to="locked", postpone="locked")
            async def open(self, message: Open) -> None: ...

    assert "Door says nothing of Unlock in 'closed'; name the state in on(...)" in str(caught.value).replace(":", ";")
    assert "postpone=, ignore= or refuse=" in str(caught.value)
    assert "unhandled='refuse' or 'ignore'" in str(caught.value)


def test_a_diagram_is_drawn_from_the_class() -> None:
    """No mesh is needed."""

    class Door(Machine, initial="locked", unhandled="ignore"):
        @on("locked", to="closed")
        async def unlock(self, message: Unlock) -> None: ...

        @on("closed", to="open", postpone="locked")
        async def open(self, message: Open) -> None: ...

        @after(30.0, "open", to="closed")
        async def shut(self) -> None: ...

    assert Door.diagram() == (
        "stateDiagram-v2\n    [*] --> locked\n    locked --> closed: Unlock\n    closed --> open: Open\n"
        "    open --> closed: after 30 s\n    note right of locked: postpones Open\n"
    )


def test_a_subclass_inherits_and_changes() -> None:
    """The initial state, the rules and the methods; what overrides a method keeps what that said, or says something else."""

    class Base(Machine, unhandled="refuse"):
        @on("a", to="b")
        async def go(self, message: Open) -> None: ...

    class First(Base, initial="a"):
        pass

    class Second(First):
        async def go(self, message: Open) -> None: ...

        @on("b", to="a")
        async def back(self, message: Unlock) -> None: ...

    class Third(Second):
        @on("a", to="c")
        async def go(self, message: Open) -> None: ...

        @on("c", to="b")
        async def further(self, message: Open) -> None: ...

    assert Base.states == ()
    assert First.states == ("a", "b")
    assert Second.diagram().count("-->") == 3
    assert Third.states == ("a", "c", "b")
    assert First.unhandled == (("b", Open),)
    with pytest.raises(InvalidHandler, match=r"Base has no initial state: class Base\(Machine, initial='...'\)"):
        Mesh("house").actor(Base)
    with pytest.raises(InvalidHandler, match="has no initial state"):
        Base.diagram()


def test_states_may_be_a_str_enum() -> None:
    """They are the texts that they are."""

    class State(StrEnum):
        ON = "on"
        OFF = "off"

    class Switch(Machine, initial=State.OFF):
        @on(State.OFF, to=State.ON, ignore=State.ON)
        async def switch(self, message: Open) -> None: ...

    assert [(state, type(state)) for state in Switch.states] == [("off", str), ("on", str)]


class Forward(Machine, initial="a", unhandled="refuse"):
    """Takes a message that is defined further down."""

    @on("a")
    async def take(self, message: "Late", ctx: Context) -> None: ...

    @on("a", to="b")
    async def go(self, message: Open) -> None: ...


class Late(Struct, frozen=True):
    pass


def test_a_type_that_is_not_defined_yet_is_looked_up_later() -> None:
    """When it is needed first; so are the pairs."""
    assert Forward.unhandled == ()
    assert "a --> b: Open" in Forward.diagram()
    assert Forward.unhandled == (("b", Late), ("b", Open))


class Ahead(Machine, initial="a"):
    """Its data are of a type that is defined further down."""

    data: "LateData"

    def __init__(self) -> None:
        self.data = LateData(3)

    @on("a", to="b")
    async def go(self, message: Open) -> int:
        return self.data.count

    @on("b")
    async def stay(self, message: Open) -> None: ...

    @enter("b")
    async def entered(self, late: "LateData | None" = None) -> None: ...


class LateData(Struct, frozen=True):
    count: int


@pytest.mark.anyio
async def test_data_of_a_type_that_is_not_defined_yet() -> None:
    """It is looked up when the mesh starts, too."""
    mesh = Mesh("house")
    actor = mesh.actor(Ahead)
    async with mesh:
        assert await actor.handler(Ahead.go).ask(Open()) == 3
        assert mesh.statistics().actors["Ahead"].state == "b"


@pytest.mark.anyio
async def test_data_that_only_the_instance_has() -> None:
    """They would be lost at a restart, too: the start says so, and not the first restart by silence."""
    mesh = Mesh("house")

    class Forgetful(Machine, initial="a"):
        def __init__(self) -> None:
            self.data = LateData(1)

        @on("a")
        async def take(self, message: Open) -> None: ...

    mesh.actor(Forgetful)
    with pytest.raises(InvalidHandler, match=r"Forgetful has data without a type, .*data: LateData, with a frozen"):
        async with mesh:
            pytest.fail("it has started")


def test_a_type_that_is_never_defined_is_named() -> None:
    """Where it is needed first."""

    class Never(Machine, initial="a"):
        @on("a")
        async def take(self, message: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821  # pyright: ignore[reportUndefinedVariable] - that is what is wrong

    class Dataless(Machine, initial="a"):
        data: "Nowhere"  # type: ignore[name-defined]  # noqa: F821  # pyright: ignore[reportUndefinedVariable] - the same

        @on("a")
        async def take(self, message: Open) -> None: ...

    for machine in (Never, Dataless):
        text = f"{machine.__name__} has an annotation with a name that is not defined: .*Nowhere"
        with pytest.raises(InvalidHandler, match=text):
            machine.diagram()


class Entering(Machine, initial="a"):
    @on("a")
    async def take(self, message: Open) -> None: ...

    @enter("a")
    async def entered(self) -> None: ...


def _machine(**members: Any) -> Callable[[], object]:
    return lambda: type("Door", (Machine,), members, initial="a")  # type: ignore[call-overload]


@on("a")
async def _take(self: Any, message: Open) -> None: ...


@on("a", to="b")
async def _go(self: Any, message: Unlock) -> None: ...


@on("a")
async def _nothing(self: Any) -> None: ...


@enter("a")
async def _entered(self: Any, message) -> None: ...  # type: ignore[no-untyped-def]


@pytest.mark.parametrize(
    "make, text",
    [
        (_machine(), r"Door has no method that takes messages"),
        (_machine(take=_nothing), r"method 'take' takes no message"),
        (_machine(take=_take, entered=_entered), r"does not say what 'message' is.*an @enter or @after method takes"),
        (_machine(take=_take, entered=enter("b")(lambda self: None)), r"state 'b' is never entered"),
        (lambda: type("Sub", (Entering,), {"entered": 3}), r"Sub: 'entered' is no method but 3"),
        (_machine(take=_take, data=Loose(), __annotations__={"data": Loose}), r"data of type Loose: .*frozen msgspec.Struct"),
        (_machine(take=_take, data=1, __annotations__={"data": int}), r"data of type int: .*frozen msgspec.Struct"),
        (_machine(take=_take, data=LateData(1)), r"has data without a type, .*: annotate them in the class, data: LateData"),
        (lambda: type("Door", (Machine,), {"take": _take}, initial=""), r"initial must be the name of a state, not ''"),
        (lambda: type("Door", (Machine,), {"take": _take}, initial="a", unhandled="no"), r"must be 'forbid', 'refuse' or"),
        (lambda: type("Door", (Machine,), {"take": _take}, initial="a", postponed=0), r"postponed must be a whole number"),
        (lambda: on("a", to=""), r"to takes names of states, not ''"),
        (lambda: on("a", 1), r"on takes names of states, not 1"),  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType] - refused
        (enter, r"enter needs the name of a state: @enter\('open'\)"),
        (lambda: after(1.0), r"after needs the name of a state"),
        (lambda: after("open", "a"), r"after needs a delay in seconds first, @after\(30.0, 'open'\), not 'open'"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - refused
        (lambda: enter("a")(property(_take)), r"@enter goes on a method"),  # type: ignore[type-var]  # pyright: ignore[reportArgumentType] - refused
        (lambda: after(1.0, "a")(staticmethod(_take)), r"@after goes on a method"),
        (lambda: on("a")(Open), r"@on goes on a method"),
    ],
)
def test_what_cannot_be_meant_is_refused(make: Callable[[], object], text: str) -> None:
    """Where it is written, with its mend."""
    with pytest.raises(InvalidHandler, match=text):
        make()


def test_only_a_machine_has_states() -> None:
    """A class actor whose `on` names some is refused; a machine is one actor, whose messages are not gathered."""

    class Plain:
        @on("a")
        async def take(self, message: Open) -> None: ...

    class Waiting(Machine, initial="a", unhandled="refuse"):
        @on("a", to="b")
        async def go(self, message: Unlock) -> None: ...

        @on("b", postpone="a")
        async def take(self, message: Open) -> None: ...

    mesh = Mesh("house")
    with pytest.raises(InvalidHandler, match=r"Plain: 'take' speaks of states: only a flowmesh.Machine has some"):
        mesh.actor(Plain)
    with pytest.raises(ValueError, match=r"machine 'Waiting' postpones messages: leave debounce= out"):
        mesh.actor(Waiting, debounce=Debounce(1.0, max_wait=2.0))

    class Ending(Machine, initial="open", unhandled="refuse"):
        @on("closed")
        async def take(self, _: int) -> None: ...

        @after(1.0, "open", to="closed")
        async def close(self) -> None: ...

    with pytest.raises(ValueError, match=r"machine 'Ending' has states that last for a while, .*: leave debounce= out"):
        mesh.actor(Ending, debounce=Debounce(1.0, max_wait=2.0))
    with pytest.raises(ValueError, match=r"takes one message at a time: leave batch= out"):
        mesh.actor(Waiting, batch=Batch(2, 1.0))  # pyright: ignore[reportArgumentType,reportCallIssue] - the types refuse it, too
