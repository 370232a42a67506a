"""What a handler may look like, what its annotations mean, and what becomes of a body that does not fit."""

import functools
import logging
import typing
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Annotated, Any, Generic, Literal, NewType, Protocol, TypedDict, TypeVar, cast, runtime_checkable

import msgspec
import pytest
from msgspec import Struct

from flowmesh import Context, InvalidHandler, MalformedMessage, Mesh, WrongBody
from tests.runtime.counting import counts

Item = TypeVar("Item")
Handling = TypeVar("Handling", bound=Callable[..., Any])
Cents = NewType("Cents", int)


class Order(Struct, frozen=True):
    id: str
    amount: int = 0


class Card(Struct, frozen=True, tag=True):
    number: str


class Cash(Struct, frozen=True, tag=True):
    amount: int


class Box(Struct, Generic[Item], frozen=True):
    content: Item


class Row(TypedDict):
    id: int


class Named(Protocol):
    id: str


@runtime_checkable
class Closable(Protocol):
    def close(self) -> None: ...


# Signatures


@pytest.mark.anyio
async def test_forms_of_a_handler():
    """A handler takes nothing, a body, a body and a Context, or a Context by name only; async or not."""
    mesh = Mesh()
    seen: list[Any] = []

    async def nothing() -> None:
        seen.append("nothing")

    async def body(order: Order) -> None:
        seen.append(order)

    async def both(order: Order, ctx: Context) -> None:
        seen.append((order, ctx.attempt))

    async def renamed(order: Order, *, turn: Context, extra: int = 3) -> None:
        seen.append((order, turn.attempt, extra))

    async def context_only(_: None, ctx: Context) -> None:
        seen.append(("none", ctx.attempt))

    async def named_only(*, ctx: Context) -> None:
        seen.append(("named", ctx.attempt))

    untyped: Any = named_only  # its Context has no default, as far as a type checker can see

    def in_thread(order: Order, ctx: Context) -> None:
        seen.append(("thread", order, ctx.attempt))

    order = Order("1")
    async with mesh:
        await mesh.actor(nothing).ask()
        await mesh.actor(body).ask(order)
        await mesh.actor(both).ask(order)
        await mesh.actor(renamed).ask(order)
        await mesh.actor(context_only).ask(None)
        await mesh.actor(untyped).ask()
        await mesh.actor(in_thread).ask(order)
    assert seen == ["nothing", order, (order, 1), (order, 1, 3), ("none", 1), ("named", 1), ("thread", order, 1)]


@pytest.mark.anyio
async def test_things_that_can_be_called():
    """Bound methods, partials, callable objects, decorated functions and lambdas are handlers, as their target says."""
    mesh = Mesh()

    class Pricing:
        def __init__(self, factor: int) -> None:
            self.factor = factor

        async def price(self, order: Order) -> int:
            return order.amount * self.factor

        async def __call__(self, order: Order) -> int:
            return order.amount + self.factor

    async def scaled(factor: int, order: Order) -> int:
        return order.amount * factor

    def logged(function: Handling) -> Handling:
        @functools.wraps(function)
        def wrapper(*args: Any) -> Any:
            return function(*args)

        return cast(Handling, wrapper)

    @mesh.actor
    @logged
    async def wrapped(order: Order) -> int:
        return order.amount

    method = mesh.actor(Pricing(2).price)
    instance = mesh.actor(Pricing(3))
    partial = mesh.actor(functools.partial(scaled, 5))
    constant = mesh.actor(lambda: 7, name="constant")
    assert [actor.name for actor in (method, instance, partial, wrapped)] == ["price", "Pricing", "scaled", "wrapped"]
    async with mesh:
        order = Order("1", 10)
        assert await method.ask(order) == 20
        assert await instance.ask(order) == 13
        assert await partial.ask(order) == 50
        assert await wrapped.ask(order) == 10
        assert await constant.ask() == 7


async def _no_annotation(order) -> None: ...
async def _no_annotation_second(order: Order, ctx) -> None: ...
async def _star(*orders: Order) -> None: ...
async def _stars(order: Order, **options: Order) -> None: ...
async def _context_first(ctx: Context) -> None: ...
async def _context_before_body(ctx: Context, order: Order) -> None: ...
async def _two_contexts(order: Order, ctx: Context, other: Context) -> None: ...
async def _unprovided(order: Order, pool: Mapping[str, int]) -> None: ...
async def _positional_context(order: Order, ctx: Context, /) -> None: ...
async def _unknown_context(order: Order, ctx: "Contxt") -> None: ...  # noqa: F821  # pyright: ignore[reportUndefinedVariable] - on purpose
async def _no_type(order: "3 + 4") -> None: ...  # pyright: ignore[reportInvalidTypeForm] - on purpose
async def _no_attribute(order: "typing.Ordr") -> None: ...  # pyright: ignore[reportAttributeAccessIssue] - on purpose


async def _async_generator(order: Order) -> AsyncIterator[int]:
    yield 1


def _generator(order: Order) -> Iterator[int]:
    yield 1


@pytest.mark.parametrize(
    "handler, text",
    [
        (_no_annotation, "does not say what 'order' is: annotate it with the body's type"),
        (_no_annotation_second, "does not say what 'ctx' is: annotate it with Context"),
        (lambda order: None, "does not say what 'order' is"),
        (_star, r"takes \*orders; a handler takes \(\), \(body: Type\) or \(body: Type, ctx: Context\)"),
        (_stars, r"takes \*\*options"),
        (_context_first, r"takes a Context first: the body comes first, write \(_: None, ctx: Context\)"),
        (_context_before_body, "takes a Context first"),
        (_two_contexts, "asks for 'other'"),
        (_positional_context, "takes 'ctx' by position only: move the / before it"),
        (_no_type, "has an annotation that is no type, '3 . 4'"),
        (_no_attribute, "has an annotation that is no type, 'typing.Ordr'"),
        (_async_generator, "is a generator: publish each thing with ctx.publish"),
        (_generator, "is a generator"),
        (Order, "has no method that takes messages: decorate them with flowmesh.on"),
        (3, "cannot be a handler: give a function"),
        (dict.update, "no signature that can be read|does not say what"),
    ],
)
def test_wrong_signature_fails_at_declaration(handler: Any, text: str):
    """A signature that cannot be used is refused where it is declared, naming the handler and the mend; nothing is left."""
    mesh = Mesh("shop")
    with pytest.raises(InvalidHandler, match=text) as caught:
        mesh.actor(handler, name="wrong")
    assert "handler" in str(caught.value) or handler is Order
    assert "wrong" not in mesh.topology().json()


@pytest.mark.anyio
@pytest.mark.parametrize(
    "handler, text",
    [
        (_unprovided, r"actor 'wrong' needs .*Mapping\[str, int\], which nobody provides: mesh.provide\(.*, factory\)"),
        (_unknown_context, "annotates 'ctx' with a name that is not defined: name 'Contxt'"),
    ],
)
async def test_what_is_still_missing_at_the_start(handler: Any, text: str):
    """A type may be provided, or defined, after the declaration; if it is still missing at the start, that fails."""
    mesh = Mesh("shop")
    mesh.actor(handler, name="wrong")
    with pytest.raises(InvalidHandler, match=text):
        async with mesh:
            pytest.fail("it must not start")


def test_actor_is_no_handler():
    """Declaring an actor twice is told apart from a wrong signature."""
    mesh = Mesh()

    @mesh.actor
    async def charge(order: Order) -> None: ...

    with pytest.raises(InvalidHandler, match=r"is an actor already: give mesh\.actor the function itself"):
        mesh.actor(charge, name="again")


def test_only_needed_annotations_are_evaluated():
    """What a parameter with a default or a result is annotated with does not matter, even if it is not defined."""
    mesh = Mesh()

    async def charge(order: Order, pool: "Missing" = None, n: "1 +" = 0) -> "AlsoMissing": ...  # noqa: F722, F821  # pyright: ignore - on purpose

    assert mesh.actor(charge).name == "charge"


# Names


@pytest.mark.anyio
async def test_local_names():
    """An annotation may be text that names a local type of the declaring function, also inside another one."""
    mesh = Mesh()

    class Local(Struct, frozen=True):
        id: int

    @mesh.actor
    async def one(local: "Local") -> int:
        return local.id

    @mesh.actor(name="several")
    async def many(local: "list[Local]") -> int:
        return len(local)

    @mesh.actor
    async def nested(local: list["Local"] | None) -> int:
        return 0 if local is None else local[0].id

    async with mesh:
        assert await one.ask(Local(4)) == 4
        assert await many.ask([Local(4), Local(5)]) == 2
        assert await nested.ask([Local(6)]) == 6
        receipt = await mesh.exchange("").publish([{"id": 5}], "nested")
        assert receipt.routed == 1
        await mesh.idle()
        with pytest.raises(WrongBody, match=r"actor 'one' takes .*Local, not int: 3"):
            await one.tell(3)  # pyright: ignore[reportArgumentType] - on purpose


@pytest.mark.anyio
async def test_forward_names():
    """A type may be defined after the handler, in its module or in the declaring function, until the mesh starts."""
    mesh = Mesh()

    @mesh.actor
    async def late(order: "LaterInModule") -> str:
        return order.id

    @mesh.actor
    async def later(order: "LaterHere") -> str:
        return order.name

    class LaterHere(Struct):
        name: str

    async with mesh:
        assert await late.ask(LaterInModule("1")) == "1"
        assert await later.ask(LaterHere("2")) == "2"
        with pytest.raises(WrongBody):
            await late.ask(LaterHere("2"))  # pyright: ignore[reportArgumentType] - on purpose


class LaterInModule(Struct):
    id: str


@pytest.mark.anyio
async def test_name_that_is_never_defined():
    """A mesh does not start with an actor whose body's type does not exist, and says which."""
    mesh = Mesh()

    @mesh.actor
    async def charge(order: "Nowhere") -> None: ...  # noqa: F821  # pyright: ignore[reportUndefinedVariable] - on purpose

    with pytest.raises(
        InvalidHandler, match="actor 'charge' annotates its body with a name that is not defined: name 'Nowhere'"
    ):
        async with mesh:
            pytest.fail("it must not start")


@pytest.mark.anyio
async def test_forward_context_is_refused():
    """A Context in the body's place is found when the name is defined, too."""
    mesh = Mesh()

    @mesh.actor
    async def charge(ctx: "Turn") -> None: ...  # pyright: ignore[reportInvalidTypeForm] - on purpose

    Turn = Context  # noqa: N806 - a type's name
    with pytest.raises(InvalidHandler, match="takes a Context first"):
        async with mesh:
            pytest.fail("it must not start")


@pytest.mark.anyio
async def test_forward_name_of_an_actor_declared_while_running():
    """An actor that is declared while the mesh runs looks its forward names up at its first message, however it comes."""
    mesh = Mesh()
    seen: list[Any] = []
    async with mesh:

        @mesh.actor
        async def late(order: "Coming | None") -> None:
            seen.append(order)

        class Coming(Struct):
            id: int

        default = mesh.exchange("")
        await default.publish(Coming(1), "late")
        await default.publish(None, "late")
        await default.publish({"id": 3}, "late")
        await mesh.idle()
        assert seen == [Coming(1), None, Coming(3)]
        assert counts(late.mailbox) == {"entered": 3, "acked": 3}


@pytest.mark.anyio
async def test_unresolvable_name_of_an_actor_declared_while_running(caplog: pytest.LogCaptureFixture):
    """Its messages are malformed, with the reason, and the mesh goes on."""
    mesh = Mesh()
    async with mesh:

        @mesh.actor
        async def late(order: "NeverComing") -> None: ...  # noqa: F821  # pyright: ignore[reportUndefinedVariable] - on purpose

        await mesh.exchange("").publish(1, "late")
        await mesh.idle()
        assert "'late' annotates its body with a name that is not defined" in mesh.dead_letters.list()[0].deaths[0].detail
        assert counts(late.mailbox) == {"entered": 1, "dead": 1}
        with pytest.raises(InvalidHandler, match="NeverComing"):
            await late.tell(1)


# Bodies

BODIES: list[tuple[Any, list[Any], list[Any]]] = [
    (int, [1, True], ["1", 1.5, None]),
    (float, [1.5, 1], ["1"]),
    (str, ["a"], [b"a", 1]),
    (None, [None], [0, ""]),
    (Any, [1, None, "a", Order("1")], []),
    (object, [1, None], []),
    (Order, [Order("1")], [{"id": "1"}, None, Card("1")]),
    (Order | None, [Order("1"), None], [1]),
    (typing.Optional[Order], [Order("1"), None], [1]),  # noqa: UP045 - the old spelling counts, too
    (typing.Union[Card, Cash], [Card("1"), Cash(1)], [Order("1")]),  # noqa: UP007 - as above
    (Card | list[Cash], [Card("1"), [Cash(1)], []], [Cash(1), ()]),
    (int | float, [1, 1.5], ["1"]),
    (Literal["a", "b", 1], ["a", 1], [1.5, None]),
    (Cents, [Cents(3), 3], ["3"]),
    (Row, [{"id": 1}], [[1], Order("1")]),
    (Box[int], [Box(1)], [Order("1")]),
    (dict[str, int], [{}, {"a": 1}], [[]]),
    (tuple[int, ...], [(1,)], [[1]]),
    (Mapping[str, int], [{}], [[]]),
    (Annotated[int, msgspec.Meta(gt=0)], [1], ["1"]),
    (Named, [Order("1"), 3], []),  # cannot be checked
    (Closable, [open], [3]),
    (Item, [1, "a"], []),
    (type[Order], [Order], [Order("1")]),
]


@pytest.mark.anyio
@pytest.mark.parametrize("annotation, taken, refused", BODIES, ids=[str(body[0]) for body in BODIES])
async def test_bodies(annotation: Any, taken: list[Any], refused: list[Any]):
    """`tell` and `ask` check a body against the annotation, shallowly, and hand over the same object."""
    if taken == [open]:

        class Closing:
            def close(self) -> None: ...

        taken = [Closing()]
    mesh = Mesh()
    seen: list[Any] = []

    async def take(body: Any) -> None:
        seen.append(body)

    take.__annotations__["body"] = annotation
    actor: Any = mesh.actor(take)
    async with mesh:
        for body in taken:
            await actor.tell(body)
        for body in refused:
            with pytest.raises(WrongBody, match=rf"actor 'take' takes .*, not {type(body).__qualname__}: ") as caught:
                await actor.tell(body)
            assert isinstance(caught.value, TypeError)
            with pytest.raises(WrongBody):
                actor.tell_nowait(body)
            with pytest.raises(WrongBody):
                await actor.ask(body)
    assert len(seen) == len(taken)
    assert all(one is other for one, other in zip(seen, taken, strict=True))
    entered = {"entered": len(taken), "acked": len(taken)}
    assert counts(actor.mailbox) == entered


@pytest.mark.anyio
async def test_body_for_a_handler_without_one():
    """A handler that takes no body is told without one; through an exchange it takes any message."""
    mesh = Mesh()
    turns: list[int] = []
    wrong: Any = 5

    @mesh.actor
    async def tick() -> None:
        turns.append(1)

    async with mesh:
        await tick.tell()
        await mesh.exchange("").publish(Order("1"), "tick")
        with pytest.raises(WrongBody, match="actor 'tick' takes no body, not int: 5"):
            await tick.tell(wrong)
    assert len(turns) == 2


@pytest.mark.anyio
async def test_long_body_is_shortened_in_the_error():
    """A WrongBody names the body, but not all of it."""
    mesh = Mesh()

    @mesh.actor
    async def take(body: int) -> None: ...

    async with mesh:
        with pytest.raises(WrongBody) as caught:
            await take.tell("x" * 5000)  # pyright: ignore[reportArgumentType] - on purpose
    assert len(str(caught.value)) < 150


# Conversion


@pytest.mark.anyio
@pytest.mark.parametrize(
    "annotation, body, converted",
    [
        (Order, {"id": "1", "amount": 3}, Order("1", 3)),
        (Order | None, {"id": "1"}, Order("1")),
        (Card | Cash, {"type": "Cash", "amount": 3}, Cash(3)),
        (list[int], (1, 2), [1, 2]),
        (Box[int], {"content": 3}, Box(3)),
        (float, 3, 3),
    ],
)
async def test_conversion(annotation: Any, body: Any, converted: Any):
    """A body that comes through an exchange and is not of the handler's type is converted at hand-out, in process too."""
    mesh = Mesh()
    seen: list[Any] = []

    async def take(body: Any) -> None:
        seen.append(body)

    take.__annotations__["body"] = annotation
    actor: Any = mesh.actor(take, bind=mesh.exchange("in").on("a"))
    async with mesh:
        await mesh.exchange("in").publish(body, "a")
    assert seen == [converted]
    assert type(seen[0]) is type(converted)
    assert counts(actor.mailbox) == {"entered": 1, "acked": 1}


@pytest.mark.anyio
async def test_converted_body_does_not_change_the_message():
    """Each actor converts for itself; the shared message keeps its body, and a retry converts no second time."""
    mesh = Mesh()
    bodies: list[Any] = []

    @mesh.actor(bind=mesh.exchange("in", "fanout").on())
    async def one(order: Order, ctx: Context) -> None:
        bodies.append((order, ctx.message.body))

    @mesh.actor(bind=mesh.exchange("in").on())
    async def other(order: dict[str, Any]) -> None:
        bodies.append(order)

    async with mesh:
        await mesh.exchange("in").publish({"id": "1"})
    assert sorted(map(str, bodies)) == sorted(map(str, [(Order("1"), {"id": "1"}), {"id": "1"}]))


@pytest.mark.anyio
async def test_malformed_body(caplog: pytest.LogCaptureFixture):
    """A body that cannot be converted is a dead letter with its reason, logged once; its neighbours are handled."""
    mesh = Mesh("shop")
    seen: list[str] = []

    @mesh.actor(bind=mesh.exchange("in").on("a"), concurrency=2)
    async def take(order: Order) -> None:
        seen.append(order.id)

    @mesh.actor(bind=mesh.exchange("in").on("a"))
    async def untouched(order: Any) -> None: ...

    with caplog.at_level(logging.INFO, "flowmesh"):
        async with mesh:
            publish = mesh.exchange("in").publish
            await publish({"id": "1"}, "a")
            bad = await publish({"id": 2}, "a")
            await publish("?", "a")
            await publish(Order("4"), "a")
    assert seen == ["1", "4"]
    assert counts(take.mailbox) == {"entered": 4, "acked": 2, "dead": 2}
    assert counts(untouched.mailbox) == {"entered": 4, "acked": 4}
    letters = mesh.dead_letters.list(reason="malformed")
    assert [letter.body for letter in letters] == [{"id": 2}, "?"]
    death = letters[0].deaths[0]
    assert (death.mailbox, death.reason, death.count) == ("take", "malformed", 1)
    assert "actor 'take' takes Order, and a body of type dict cannot be converted to it" in death.detail
    assert "$.id" in death.detail
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 2
    assert errors[0].name == "flowmesh.shop"
    assert f"actor 'take' cannot take message {bad.message_id}: MalformedMessage" in errors[0].getMessage()


@pytest.mark.anyio
async def test_malformed_question(caplog: pytest.LogCaptureFixture):
    """An asker whose body passes the shallow check but not `by=` gets the error; nothing is logged or buried."""
    mesh = Mesh()

    @mesh.actor(by=lambda order: order.nothing)
    async def take(order: Order) -> None: ...

    async with mesh:
        with pytest.raises(MalformedMessage, match="by= of actor 'take' gave no lane: AttributeError") as caught:
            await take.ask(Order("1"))
        assert caught.value.message is not None
        assert caught.value.message.body == Order("1")
    assert counts(take.mailbox) == {"entered": 1, "acked": 1}
    assert len(mesh.dead_letters) == 0
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.anyio
async def test_deep_body_is_malformed():
    """A body nested too deeply to be converted is a dead letter, not the end of a worker."""
    mesh = Mesh()

    class Node(Struct):
        child: "Node | None" = None

    @mesh.actor(bind=mesh.exchange("in").on("a"))
    async def take(node: Node) -> None: ...

    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"child": deep}
    async with mesh:
        await mesh.exchange("in").publish(deep, "a")
        await mesh.idle()
        assert counts(take.mailbox) == {"entered": 1, "dead": 1}
        assert await take.ask(Node()) is None
    while deep:
        deep = deep.pop("child", {})  # Taken apart from the outside: its own end would recurse as deeply.
