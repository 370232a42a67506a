"""Class actors: messages dispatched by type to the methods of one instance, one at a time."""

import abc
import asyncio
import dataclasses
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any, Literal, Protocol, runtime_checkable

import anyio
import pytest
from msgspec import Struct

from flowmesh import (
    Actor,
    Context,
    InvalidHandler,
    MailboxOptions,
    MalformedMessage,
    Mesh,
    NotFound,
    Request,
    Retry,
    WrongBody,
    on,
)
from flowmesh._runtime import classes
from flowmesh.testing import settled
from tests.runtime.counting import counts

pytestmark = pytest.mark.anyio


class Order(Struct, frozen=True, tag=True):
    id: int


class Urgent(Order, frozen=True, tag=True): ...


class GetTotal(Struct, Request[int], frozen=True, tag=True):
    times: int = 1


class Totals:
    """Sums ids."""

    def __init__(self) -> None:
        self.total = 0

    @on
    async def placed(self, message: Order) -> None:
        before = self.total
        await anyio.sleep(1)
        self.total = before + message.id

    @on
    async def get(self, message: GetTotal, ctx: Context) -> int:
        assert ctx.message.body is message
        return self.total * message.times


async def test_state_is_kept_between_messages():
    """The instance handles one message at a time, in order, so its state needs no lock."""
    mesh = Mesh("shop")
    totals = mesh.actor(Totals)
    assert isinstance(totals, Actor)
    assert (totals.name, totals.mailbox.name) == ("Totals", "Totals")
    async with mesh:
        for number in range(1, 5):
            await totals.tell(Order(number))
        assert await totals.ask(GetTotal()) == 10
        assert await totals.ask(GetTotal(times=2)) == 20
    assert counts(totals.mailbox) == {"entered": 6, "acked": 6}


async def test_each_run_has_an_instance_of_its_own():
    """A mesh that is entered again starts with fresh state; what waited in the mailbox is handled by it."""
    mesh = Mesh("shop")
    totals = mesh.actor(Totals)
    for _ in range(2):
        async with mesh:
            await totals.tell(Order(3))
            assert await totals.ask(GetTotal()) == 3
    assert totals.cell.call is None, "a mesh that does not run keeps no instance"


async def test_as_a_decorator_bare_and_with_options():
    """`@mesh.actor` and a preset work on a class; the options are a function's."""
    mesh = Mesh("shop")
    orders = mesh.exchange("orders", "topic")

    @mesh.actor
    class Bare:
        @on
        async def take(self, order: Order) -> int:
            return order.id

    @mesh.actor(name="named", bind=orders.on("#"), mailbox=MailboxOptions(capacity=5), retry=Retry(2, initial=0), timeout=3)
    class WithOptions:
        tries = 0

        @on
        async def take(self, order: Order) -> int:
            self.tries += 1
            if order.id == 1 and self.tries == 1:
                raise OSError("once")
            if order.id == 2:
                await anyio.sleep_forever()
            return self.tries

    bare: Any = Bare
    options: Any = WithOptions
    async with mesh:
        assert await bare.ask(Order(3)) == 3
        assert await options.ask(Order(1)) == 2
        assert (await orders.publish(Order(5), "any")).routed == 1
        with pytest.raises(TimeoutError, match="did not finish"):
            await options.ask(Order(2))


@pytest.mark.parametrize(
    "options, text",
    [
        ({"concurrency": 2}, "class actor 'Totals' handles one message at a time: leave concurrency= out"),
        ({"idle": 1.0}, "class actor 'Totals' has one instance, which is never put away: leave idle= out, or say by="),
        ({"max_active": 1}, "class actor 'Totals' has one instance, which is never put away: leave max_active= out"),
    ],
)
def test_options_that_a_class_does_not_take(options: Any, text: str):
    """One instance handles one message at a time: options that would mean something else are refused."""
    mesh = Mesh("shop")
    with pytest.raises(ValueError, match=text):
        mesh.actor(Totals, **options)
    with pytest.raises(ValueError, match=text):
        mesh.actor(**options)(Totals)
    with pytest.raises(TypeError, match=r"unknown actor option 'nme' \(did you mean 'name'\?\)"):
        mesh.actor(Totals, nme="x")  # pyright: ignore[reportCallIssue]
    assert mesh.actor(Totals, concurrency=1).cell.slots == 1


async def test_calling_one_names_the_mend():
    """There is no function to call: a unit test constructs the class, which stays a class."""
    totals = Mesh("shop").actor(Totals)
    with pytest.raises(TypeError, match=r"actor 'Totals' is a class: construct Totals\(\.\.\.\) and call its methods"):
        totals(Order(1))
    unit = Totals()
    await unit.placed(Order(4))
    assert unit.total == 4


# Dispatch


class Base:
    @on
    async def order(self, message: Order) -> str:
        return "order"

    @on
    async def either(self, message: bytes | None) -> str:
        return "bytes or None"

    async def not_marked(self, message: str) -> str:
        return "never"


class Derived(Base):
    async def order(self, message: Order) -> str:
        return "derived order"

    @on
    async def urgent(self, message: Urgent) -> str:
        return "urgent"

    @on
    async def number(self, message: float) -> str:
        return "float"

    either = None  # pyright: ignore[reportAssignmentType] - takes it away

    @on
    async def listed(self, message: list[int]) -> str:
        return "list"


@pytest.mark.parametrize("cached", [1000, 0])
async def test_dispatch_by_type_along_the_mro(cached: int, monkeypatch: pytest.MonkeyPatch):
    """The nearest class wins; inherited methods count, an override takes the place, and each member of a union is taken."""
    monkeypatch.setattr(classes, "_MAX_CACHED", cached)
    mesh = Mesh("shop")

    class Rush(Urgent, frozen=True, tag=True): ...

    class Other(Order, frozen=True, tag=True): ...

    base, derived = mesh.actor(Base), mesh.actor(Derived)
    async with mesh:
        assert [await base.ask(body) for body in (Order(1), Urgent(1), b"", None)] == ["order"] * 2 + ["bytes or None"] * 2
        answers = [await derived.ask(body) for body in (Order(1), Other(1), Urgent(1), Rush(1), Rush(2), 1.5, 3, True, [1])]
        assert answers == ["derived order"] * 2 + ["urgent"] * 3 + ["float"] * 3 + ["list"]
        for body in (b"", None, "text", {}):
            with pytest.raises(WrongBody, match=r"actor 'Derived' takes Order or Urgent or float or list\[int\], not "):
                await derived.tell(body)
        with pytest.raises(WrongBody):
            derived.tell_nowait("text")
    assert counts(derived.mailbox)["entered"] == 9


async def test_registered_subclasses_and_catch_all():
    """A class registered with an ABC goes to the ABC's method; `object` takes what no other method does."""
    mesh = Mesh("shop")

    class Shape(abc.ABC):  # noqa: B024 - only to register with
        pass

    @Shape.register
    class Square: ...

    class Drawing:
        @on
        async def shape(self, message: Shape) -> str:
            return "shape"

        @on
        async def text(self, message: str | Literal[7]) -> str:
            return "text or int"

    class All(Drawing):
        @on
        async def rest(self, message: object) -> str:
            return "rest"

    drawing, everything = mesh.actor(Drawing), mesh.actor(All)
    async with mesh:
        assert [await drawing.ask(body) for body in (Square(), "", 7)] == ["shape", "text or int", "text or int"]
        assert [await everything.ask(body) for body in ("", b"", None)] == ["text or int", "rest", "rest"]
        with pytest.raises(WrongBody):
            await drawing.tell(b"")


async def test_bodies_that_arrive_in_another_shape():
    """Through an exchange they are converted: to the one type, or to the one of several that their tag names."""
    mesh = Mesh("shop")
    default = mesh.exchange("")

    class One:
        @on
        async def take(self, message: Order) -> None:
            seen.append(message)

    class Untagged(Struct, frozen=True):
        id: int

    class Unclear:
        @on
        async def a(self, message: Untagged) -> None: ...
        @on
        async def b(self, message: Order) -> None: ...

    seen: list[Any] = []

    class Several(One):
        @on
        async def get(self, message: GetTotal) -> None:
            seen.append(message)

    mesh.actor(One)
    mesh.actor(Several)
    mesh.actor(Unclear)
    async with mesh:
        await default.publish({"type": "Order", "id": 1}, "One")
        await default.publish({"type": "GetTotal", "times": 3}, "Several")
        await default.publish({"type": "Order", "id": 2}, "Several")
        await default.publish({"type": "Nothing"}, "Several")
        await default.publish({"id": 2}, "Unclear")
        await mesh.idle()
    assert sorted(seen, key=repr) == [GetTotal(3), Order(1), Order(2)]
    dead = [one.deaths[0] for one in mesh.dead_letters.list()]
    assert sorted((death.mailbox, death.reason) for death in dead) == [("Several", "malformed"), ("Unclear", "malformed")]
    with pytest.raises(MalformedMessage, match=r"actor 'Unclear' takes .*cannot be converted"):
        mesh._engine.residents.cells["Unclear"].handler.convert({"id": 1})


# Methods


async def test_context_and_plain_methods_side_by_side():
    """Each method gets what it asks for, the Context by position or by name; what it collects leaves with the ack."""
    mesh = Mesh("shop")

    class Mixed:
        @on
        async def with_context(self, message: int, context: Context) -> str:
            context.tell(log, "collected")
            return context.actor

        @on
        async def by_name(self, message: str, *, turn: Context) -> int:
            return turn.attempt

        @on
        async def without(self, message: bytes) -> bytes:
            return message

    lines: list[str] = []

    @mesh.actor
    async def log(line: str) -> None:
        lines.append(line)

    mixed = mesh.actor(Mixed)
    async with mesh:
        assert [await mixed.ask(body) for body in (1, "", b"x")] == ["Mixed", 1, b"x"]
        await mesh.idle()
    assert lines == ["collected"]


async def test_middleware_around_a_class():
    """Layers stand around the methods of a class as around a function, whether they take a Context or not."""
    layers: list[str] = []

    async def note(ctx: Context, call_next: Callable[[], Awaitable[object]]) -> object:
        layers.append(f"{ctx.actor} {ctx.message.body}")
        return await call_next()

    mesh = Mesh("shop", middleware=[note])

    class Pair:
        @on
        async def number(self, message: int, ctx: Context) -> int:
            return message + ctx.attempt

        @on
        def text(self, message: str) -> str:
            return message.upper()

    class Single:
        @on
        async def text(self, message: str) -> str:
            return message.upper()

    pair, single = mesh.actor(Pair), mesh.actor(Single)
    async with mesh:
        assert [await pair.ask(1), await pair.ask("a"), await single.ask("b")] == [2, "A", "B"]
        late = mesh.actor(Single, name="late")
        assert await late.ask("c") == "C"
    assert layers == ["Pair 1", "Pair a", "Single b", "late c"]


async def test_plain_methods_run_in_a_thread():
    """A plain `def` does not hold up the loop; still one message at a time."""
    mesh = Mesh("shop")

    class Blocking:
        @on
        def block(self, message: int) -> bool:
            return threading.current_thread() is threading.main_thread()

        @on
        async def loop(self, message: str) -> bool:
            return threading.current_thread() is threading.main_thread()

    class Single:
        @on
        def block(self, message: int, *, ctx: Context) -> tuple[bool, str]:
            return threading.current_thread() is threading.main_thread(), ctx.actor

    blocking, single = mesh.actor(Blocking), mesh.actor(Single)
    async with mesh:
        assert await blocking.ask(1) is False
        assert await blocking.ask("") is True
        assert await single.ask(1) == (False, "Single")


async def test_fast_path():
    """Methods without a Context are awaited directly: a single one as it is, several through one look at a dict."""
    mesh = Mesh("shop")

    class Single:
        @on
        async def take(self, message: Order) -> int:
            return message.id

    single, derived, totals = mesh.actor(Single), mesh.actor(Derived), mesh.actor(Totals)
    async with mesh:
        assert single.cell.is_plain
        assert single.cell.accepts is Order
        assert getattr(single.cell.function, "__func__", None) is Single.take
        assert derived.cell.is_plain
        assert not totals.cell.is_plain
        assert await single.ask(Order(2)) == 2


async def test_a_struct_a_dataclass_and_a_dict():
    """Constructors that are generated are given things, too; what has a default keeps it."""
    mesh = Mesh("shop")

    class Struct_(Struct):  # noqa: N801
        base: int
        extra: float = 0.5

        @on
        async def add(self, message: Order) -> float:
            return self.base + self.extra + message.id

    @dataclasses.dataclass
    class Data:
        base: int
        extra: float = 0.5

        @on
        async def add(self, message: Order) -> float:
            return self.base + self.extra + message.id

    class Mapped(dict[str, int]):
        @on
        async def add(self, message: Order) -> float:
            return len(self) + 10.5 + message.id

    @asynccontextmanager
    async def ten() -> AsyncGenerator[int]:
        yield 10

    mesh.provide(int, ten)
    actors = mesh.actor(Struct_), mesh.actor(Data), mesh.actor(Mapped)
    async with mesh:
        assert [await actor.ask(Order(1)) for actor in actors] == [11.5, 11.5, 11.5]


async def test_context_variables():
    """A method that changes one does not leak the change into the next message, and keeps its instance."""
    mesh = Mesh("shop")

    class Setting:
        def __init__(self) -> None:
            self.count = 0

        @on
        async def take(self, message: Order) -> tuple[int, int]:
            before = _seen.get()
            _seen.set(message.id)
            self.count += 1
            return before, self.count

        @on
        async def other(self, message: str, ctx: Context) -> int:
            return _seen.get()

    setting = mesh.actor(Setting)
    async with mesh:
        assert [await setting.ask(Order(number)) for number in (1, 2, 3)] == [(0, 1), (0, 2), (0, 3)]
        assert setting.cell.is_stepped
        assert await setting.ask("") == 0


_seen: ContextVar[int] = ContextVar("_seen", default=0)


async def test_names_that_are_defined_later():
    """Annotations of methods may name local types, types that are defined later, and types of the class itself."""
    mesh = Mesh("shop")

    class Local(Struct, frozen=True): ...

    class Later:
        class Inner(Struct, frozen=True): ...

        @on
        async def local(self, message: "Local") -> str:
            return "local"

        @on
        async def inner(self, message: "Inner") -> str:
            return "inner"

        @on
        async def later(self, message: "DefinedLater | None") -> str:
            return "later"

    actor = mesh.actor(Later)

    class DefinedLater(Struct, frozen=True): ...

    async with mesh:
        assert [await actor.ask(body) for body in (Local(), Later.Inner(), DefinedLater(), None)] == [
            "local",
            "inner",
            "later",
            "later",
        ]

        class Never:
            @on
            async def take(self, message: "Nowhere") -> None: ...  # noqa: F821  # pyright: ignore[reportUndefinedVariable]

        with pytest.raises(InvalidHandler, match="actor 'Never' annotates a message with a name that is not defined"):
            mesh.actor(Never)


# What is refused


class NoMethod:
    async def take(self, message: Order) -> None: ...


class TwoForOne:
    @on
    async def first(self, message: Order) -> None: ...
    @on
    async def second(self, message: bytes | Order) -> None: ...


class NoMessage:
    @on
    async def take(self) -> None: ...


class NoAnnotation:
    @on
    async def take(self, message) -> None: ...


class ContextFirst:
    @on
    async def take(self, ctx: Context) -> None: ...


class NoSelf:
    @on
    async def take() -> None: ...


class Static:
    @staticmethod
    @on
    async def take(message: Order) -> None: ...


class Stars:
    @on
    async def take(self, message: Order, *others: Mapping[str, int]) -> None: ...


class Drawable(Protocol):
    def draw(self) -> None: ...


@runtime_checkable
class Checkable(Protocol):
    def draw(self) -> None: ...


class ByProtocol:
    @on
    async def take(self, message: Checkable) -> None: ...


class Initialised:
    def __init__(self, limit) -> None: ...

    @on
    async def take(self, message: Order) -> None: ...


@pytest.mark.parametrize(
    "kind, text",
    [
        (NoMethod, r"class .*NoMethod has no method that takes messages: decorate them with flowmesh\.on"),
        (TwoForOne, "class .*TwoForOne: 'first' and 'second' both take Order: one method for each type"),
        (NoMessage, r"method 'take' takes no message; a method takes \(self, message: Type\)"),
        (NoAnnotation, r"handler .*NoAnnotation.take does not say what 'message' is"),
        (ContextFirst, "takes a Context first"),
        (NoSelf, "has no signature that can be read"),
        (Static, "'take' takes messages, and is no method but <staticmethod"),
        (Stars, r"takes \*others"),
        (ByProtocol, "method 'take' takes Checkable, a Protocol: messages are dispatched by their classes"),
        (Initialised, "method .*Initialised.__init__ does not say what 'limit' is"),
    ],
)
def test_classes_that_cannot_be_used(kind: type[Any], text: str):
    """A class that cannot be an actor is refused where it is declared, naming the place and the mend."""
    mesh = Mesh("shop")
    with pytest.raises(InvalidHandler, match=text):
        mesh.actor(kind, name="wrong")
    assert "wrong" not in mesh.topology().json()


@pytest.mark.parametrize("thing", [Order, staticmethod(len), property(len), 3])
def test_on_goes_on_methods(thing: Any):
    """Whatever else it is put on is refused at once."""
    with pytest.raises(InvalidHandler, match=r"@on goes on a method"):
        on(thing)


# One method as an actor


async def test_one_method_as_an_actor():
    """It is the same actor; only what it takes is narrower."""
    mesh = Mesh("shop")
    totals = mesh.actor(Totals)
    get, placed = totals.handler(Totals.get), totals.handler(Totals.placed)
    assert isinstance(get, Actor)
    assert get.cell is totals.cell
    assert totals.handler(Totals.get) is get, "asking again does not make another one"
    async with mesh:
        await placed.tell(Urgent(5))
        assert await get.ask(GetTotal(2)) == 10
        wrong: Any = Order(1)
        with pytest.raises(WrongBody, match="get of actor 'Totals' takes GetTotal, not Order: "):
            await get.tell(wrong)
        with pytest.raises(WrongBody):
            await get.ask(wrong)
        with pytest.raises(WrongBody):
            get.tell_nowait(wrong)
        await get.stop()
        assert totals.cell.call is None, "the instance goes with the actor"
    assert counts(totals.mailbox) == {"entered": 2, "acked": 2}


async def test_only_methods_that_take_messages():
    """A method that is not marked, or of another class, gives no actor."""
    totals, derived = Mesh("shop").actor(Totals), Mesh("other").actor(Derived)
    for actor, method in ((totals, Derived.urgent), (derived, Derived.not_marked), (derived, Base.order), (totals, len)):
        untyped: Any = actor
        with pytest.raises(NotFound, match="is no method of actor"):
            untyped.handler(method)
    mesh = Mesh("shop")
    later = mesh.actor(Derived).handler(Derived.urgent)
    async with mesh:
        assert await later.ask(Urgent(1)) == "urgent"


# Failures


async def test_an_asker_that_leaves(caplog: pytest.LogCaptureFixture):
    """The handler of a class actor runs on, since nobody has written what its state is half-way; a function's is cancelled."""
    mesh, ended = Mesh("shop"), list[str]()

    class Slow:
        @on
        async def take(self, message: Order) -> None:
            await anyio.sleep(10)
            ended.append("class")
            if message.id:
                raise ValueError("too late")

    @mesh.actor
    async def slow(message: Order) -> None:
        await anyio.sleep(10)
        ended.append("function")

    slow_class = mesh.actor(Slow)
    async with mesh:
        for actor in (slow, slow_class):
            with pytest.raises(TimeoutError):
                await actor.ask(Order(0), timeout=1)
        with anyio.move_on_after(15):
            await slow_class.ask(Order(1), timeout=None)
            pytest.fail("it starts when the one before it ends")
        await mesh.idle()
    assert ended == ["class", "class"]
    assert counts(slow_class.mailbox) == {"entered": 2, "acked": 1, "withdrawn": 1}
    assert "failed on message" in caplog.text
    assert "whose asker has left: ValueError: too late" in caplog.text
    assert counts(slow.mailbox) == {"entered": 1, "withdrawn": 1}


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
@pytest.mark.parametrize("is_kept", [False, True])
@pytest.mark.parametrize("options", [{}, {"by": lambda message: message}])
async def test_a_constructor_that_is_cancelled_by_something_inside_it(is_kept: bool, options: dict[str, Any]):
    """A cancellation that nobody asked for leaves the mesh as an error; asyncio alone lets anybody raise one."""
    mesh = Mesh("shop")

    class Bare:
        def __init__(self) -> None:
            raise asyncio.CancelledError("nobody")

        @on
        async def add(self, number: int) -> None: ...

    class Kept(Bare):
        async def on_start(self) -> None: ...

    actor: Any = mesh.actor(Kept if is_kept else Bare, **options)

    async def start() -> None:
        async with mesh:
            await actor.tell(1)
            await anyio.sleep_forever()

    with pytest.raises(RuntimeError, match=r"the constructor of .*(Bare|Kept) was cancelled by something inside it"):
        await start()


async def test_a_constructor_that_fails():
    """The mesh does not start, with that error bare; declared while it runs, the declaration fails with it."""
    mesh, fails = Mesh("shop"), [True]

    class Fragile:
        def __init__(self) -> None:
            if fails:
                raise OSError("broken")

        @on
        async def take(self, message: Order) -> int:
            return message.id

    fragile = mesh.actor(Fragile)
    with pytest.raises(OSError, match="broken"):
        async with mesh:
            pytest.fail("it must not start")
    fails.clear()
    async with mesh:
        assert await fragile.ask(Order(1)) == 1
        fails.append(True)
        with pytest.raises(OSError, match="broken"):
            mesh.actor(Fragile, name="late")
        fails.clear()
        assert await mesh.actor(Fragile, name="late").ask(Order(2)) == 2
        await settled()


async def test_a_class_of_a_module_that_is_nowhere():
    """A module that was executed without being put into sys.modules may declare classes without a constructor of their own."""
    mesh = Mesh("shop")

    class Nowhere:
        @on
        async def take(self, number: int) -> int:
            return number

    Nowhere.__module__ = "nowhere"
    nowhere = mesh.actor(Nowhere)
    async with mesh:
        assert await nowhere.ask(1) == 1
