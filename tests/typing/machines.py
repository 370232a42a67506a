"""State machines, as users write them: what the decorators keep, what an ask gives, and what is refused. Checked, never run."""

from typing import assert_type

from msgspec import Struct
from msgspec.structs import replace

from flowmesh import Actor, ActorContext, ClassActor, Context, Machine, Mesh, Request, Restart, after, enter, on

mesh = Mesh("house")


class Unlock(Struct, frozen=True):
    code: int


class Open(Struct, Request[int], frozen=True):
    pass


class Visits(Struct, frozen=True):
    count: int = 0


class Pool:
    url = ""


class Door(Machine, initial="locked", unhandled="refuse", postponed=10):
    data: Visits = Visits()

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    async def on_start(self, ctx: ActorContext) -> None:
        assert_type(self.state, str)

    @on("locked", to=("closed", "jammed"))
    async def unlock(self, message: Unlock, ctx: Context) -> None:
        self.become("closed" if message.code == 42 else "jammed")

    @on("closed", to="open", postpone="locked", ignore=("open",), refuse="jammed")
    async def open(self, message: Open) -> int:
        self.data = replace(self.data, count=self.data.count + 1)
        assert_type(self.data, Visits)
        return self.data.count

    @on
    async def anywhere(self, message: bytes) -> str:
        return self.state

    @on(to="locked")
    def slam(self, message: float) -> None: ...

    @enter("open", "closed")
    async def entered(self, ctx: Context, pool: Pool) -> None: ...

    @after(30.0, "open", to="closed")
    async def shut(self) -> None: ...


door = mesh.actor(Door)
restarted = mesh.actor(Door, name="again", restart=Restart(max=5))


async def machines(instance: Door) -> None:
    assert_type(door, ClassActor[Door])
    assert_type(restarted, ClassActor[Door])
    assert_type(await door.ask(Open()), int)
    assert_type(door.handler(Door.open), Actor[Open, int])
    assert_type(door.handler(Door.unlock), Actor[Unlock, None])
    assert_type(await door.handler(Door.anywhere).ask(b""), str)
    assert_type(await instance.open(Open()), int)
    assert_type(await instance.shut(), None)
    assert_type(Door.diagram(), str)
    assert_type(Door.states, tuple[str, ...])
    assert_type(Door.unhandled, tuple[tuple[str, type], ...])
    instance.become("open")


# Refused


class Wrong(Machine, initial=1):  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportGeneralTypeIssues]
    pass


class Forgiving(Machine, initial="a", unhandled="forgive"):  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportGeneralTypeIssues]
    @on("a", to=1)  # type: ignore[call-overload, untyped-decorator]  # pyright: ignore[reportArgumentType]
    async def one(self, message: Open) -> None: ...

    @on("a", until="b")  # type: ignore[call-overload, untyped-decorator]  # pyright: ignore[reportCallIssue, reportUntypedFunctionDecorator]
    async def two(self, message: Open) -> None: ...

    @after("a", 30.0)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    async def three(self) -> None: ...

    @enter(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    async def four(self) -> None:
        self.data = Visits()
        self.become(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        self.state = "a"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


async def refused() -> str:
    count = await door.ask(Open())
    text: str = count  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    await door.handler(Door.open).tell(Unlock(1))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    return text
