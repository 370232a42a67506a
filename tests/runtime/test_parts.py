"""Parts: what is declared without a mesh, added to one, and used in whichever mesh runs."""

import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Any

import anyio
import pytest
from msgspec import Struct

from flowmesh import Actor, Context, MailboxOptions, Mesh, Part, on
from flowmesh.errors import AccessRefused, InvalidBinding, InvalidHandler, MeshStopped, NotRunning, PreconditionFailed
from flowmesh.testing import BACKENDS, History, run
from flowmesh.testing.plugin import RunningMesh
from flowmesh.testing.virtual import Backend

pytestmark = pytest.mark.anyio


class Order(Struct, frozen=True):
    id: int


def shop() -> tuple[Part, Part, Actor[Order, int], list[int]]:
    """Two parts that refer to each other: one takes orders, the other charges for them."""
    seen: list[int] = []
    desk, billing = Part("desk"), Part("billing")
    orders = desk.exchange("orders", "topic")

    @billing.actor(bind=orders.on("order.*"), mailbox=MailboxOptions(capacity=10))
    async def charge(order: Order) -> int:
        seen.append(order.id)
        return 2 * order.id

    @desk.actor
    async def take(order: Order, ctx: Context) -> None:
        ctx.publish(orders, order, key="order.eu")
        ctx.tell(charge, order)

    return desk, billing, charge, seen


# Adding


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_parts_refer_to_each_other_in_any_order(running_mesh: RunningMesh, mesh_history: History, order: tuple[int, int]):
    """A part may be bound to what another declares, whichever is added first."""
    desk, billing, charge, seen = shop()
    mesh = Mesh("shop")
    for index in order:
        mesh.add((desk, billing)[index])
    async with running_mesh(mesh):
        mesh_history.sent(await desk.exchange("orders").publish(Order(1), "order.eu"))
        mesh_history.sent(await mesh.exchange("").publish(Order(2), "take"))
        assert await charge.ask(Order(4)) == 8
        await mesh.idle()
    assert sorted(seen) == [1, 2, 2, 4]


async def test_adding_to_a_running_mesh():
    """A part can be added while the mesh runs: its actors run, its sources and schedules start."""
    mesh, part, seen = Mesh("shop"), Part("late"), list[str]()

    @part.actor
    async def work(text: str) -> None:
        seen.append(text)

    @part.source
    async def poll(ctx: Any) -> None:
        await work.tell(ctx.name)

    part.every(10, work, body="tick", name="tick")
    async with mesh:
        mesh.add(part)
        await work.tell("told")
        await anyio.sleep(25)
    assert sorted(seen) == ["poll", "tick", "tick", "told"]


async def test_what_is_declared_later_is_placed_too():
    """A part that is in a mesh goes on declaring, binding and unbinding there."""
    mesh, part, seen = Mesh("shop"), Part("late"), list[str]()
    mesh.add(part)
    events = part.exchange("events", "topic")

    @part.actor(bind=events.on("a"))
    async def work(text: str) -> None:
        seen.append(text)

    async with mesh:
        events.bind(work, "b")
        events.unbind(work, "a")
        assert (await events.publish("x", "a")).routed == 0
        assert (await events.publish("y", "b")).routed == 1
        await mesh.idle()
    assert seen == ["y"]


async def test_equal_declarations_of_two_parts_are_one_thing():
    """Two parts and the mesh may declare the same exchange and mailbox; equal declarations meet in one."""
    mesh, first, second = Mesh("shop"), Part("first"), Part("second")
    for place in (first, second, mesh):
        place.exchange("events", "fanout").bind(place.mailbox("box", MailboxOptions(capacity=5)))
    mesh.add(first)
    mesh.add(second)
    async with mesh:
        receipt = await second.exchange("events").publish("x")
        assert receipt.routed == 1
        assert first.mailbox("box").statistics().ready == mesh.mailbox("box").statistics().ready == 1
        assert [message.id for message in first.mailbox("box").peek()] == [receipt.message_id]


def test_the_same_object_by_name():
    """Declaring again, equally or by name alone, returns the same object: in a mesh, and in a part, added or not."""
    mesh, part = Mesh("shop"), Part("part")
    for place in (mesh, part):
        events, box = place.exchange("events", "topic"), place.mailbox("box", MailboxOptions(capacity=5))
        if place is part:
            mesh.add(part)
        assert place.exchange("events") is place.exchange("events", "topic") is events
        assert place.mailbox("box") is place.mailbox("box", MailboxOptions(capacity=5)) is box
        with pytest.raises(PreconditionFailed, match="type is 'topic', not 'direct'"):
            place.exchange("events", "direct")

    @mesh.actor
    async def work(text: str) -> None:
        del text

    assert work.mailbox is mesh.mailbox("work") is work.mailbox


# Without a mesh


@pytest.mark.parametrize(
    "use",
    [
        lambda part, actor, box: actor.tell(Order(1)),
        lambda part, actor, box: actor.ask(Order(1)),
        lambda part, actor, box: actor.tell(Order(1), priority=3),
        lambda part, actor, box: part.exchange("events").publish(Order(1), "k"),
        lambda part, actor, box: part.exchange("events").publish_many([(Order(1), "k")]),
        lambda part, actor, box: box.get(),
        lambda part, actor, box: actor.stop(),
    ],
)
async def test_using_a_part_without_a_mesh(use: Callable[..., Any]):
    """Whatever needs a mesh raises NotRunning, naming the part and mesh.add."""
    part = Part("billing")
    actor = part.actor(_handle)
    with pytest.raises(NotRunning, match=r"part 'billing'.* has not been added to a mesh: mesh.add\(...\) it"):
        await use(part, actor, part.mailbox("box"))


@pytest.mark.parametrize(
    "use",
    [
        lambda part, actor: actor.tell_nowait(Order(1)),
        lambda part, actor: actor.pause(),
        lambda part, actor: actor.resume(),
        lambda part, actor: part.exchange("events").publish_nowait(Order(1)),
        lambda part, actor: part.exchange("events").delete(),
        lambda part, actor: part.mailbox("box").delete(),
        lambda part, actor: part.mailbox("box").get_nowait(),
    ],
)
def test_calls_without_a_mesh(use: Callable[..., Any]):
    """The same for what is not awaited; nothing has changed."""
    part = Part("billing")
    actor = part.actor(_handle)
    with pytest.raises(NotRunning, match=r"part 'billing'.* has not been added to a mesh: mesh.add\(...\) it"):
        use(part, actor)


async def test_a_plain_call_needs_no_mesh():
    """Unit tests call the function."""
    assert await Part("billing").actor(_handle)(Order(3)) == 3


async def test_added_but_not_started():
    """In a mesh that has not been started, the error names that mesh; in one that has stopped, too."""
    mesh, part = Mesh("shop"), Part("billing")
    actor = part.actor(_handle)
    mesh.add(part)
    with pytest.raises(NotRunning, match="mesh 'shop' has not been started: send inside 'async with mesh'"):
        await actor.tell(Order(1))
    async with mesh:
        await actor.tell(Order(1))
    with pytest.raises(MeshStopped, match="mesh 'shop' has stopped"):
        await actor.tell(Order(1))


# One running mesh at a time


async def test_one_running_mesh_at_a_time():
    """A part of several meshes stands for the one that runs; a second one that starts meanwhile is refused, with the mend."""
    part, first, second = Part("billing"), Mesh("first"), Mesh("second")
    actor = part.actor(_handle)
    first.add(part)
    second.add(part)
    async with first:
        assert await actor.ask(Order(1)) == 1
        with pytest.raises(PreconditionFailed, match=r"part 'billing' is in mesh 'first', which runs: .* stop that one first"):
            async with second:
                pytest.fail("it must not start")
    async with second:
        assert await actor.ask(Order(2)) == 2
        assert actor.mailbox is second.mailbox("_handle")
    async with first:
        await actor.tell(Order(3))
        await first.idle()
    assert first.mailbox("_handle").statistics().entered == 2
    assert second.mailbox("_handle").statistics().entered == 1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("again", BACKENDS)
def test_a_part_in_meshes_of_both_backends(backend: Backend, again: Backend):
    """The same part serves one mesh after another, and the same mesh again, on either backend."""
    desk, billing, charge, seen = shop()

    async def once(mesh: Mesh) -> None:
        async with mesh:
            assert await charge.ask(Order(1)) == 2
            await desk.exchange("orders").publish(Order(2), "order.eu")
            await mesh.idle()

    first, second = Mesh("first"), Mesh("second")
    for mesh in (first, second):
        mesh.add(billing)
        mesh.add(desk)
    run(once, first, backend=backend)
    run(once, second, backend=again)
    run(once, first, backend=again)
    assert seen == [1, 2] * 3


# Mistakes


async def test_something_missing_is_named_at_start():
    """A mesh with a part whose other half has not been added does not start; the error names both and the mend."""
    _, billing, _, _ = shop()
    mesh = Mesh("shop")
    mesh.add(billing)
    text = r"part 'billing' refers to <Exchange 'orders' topic> of part 'desk', which is not in mesh 'shop': mesh.add"
    with pytest.raises(InvalidBinding, match=text):
        async with mesh:
            pytest.fail("it must not start")


async def test_something_missing_is_named_when_added_to_a_running_mesh():
    """A running mesh takes in nothing of a part whose other half is missing."""
    desk, billing, charge, _ = shop()
    mesh = Mesh("shop")
    async with mesh:
        before = mesh.topology().json()
        with pytest.raises(InvalidBinding, match=r"part 'billing' refers to .* of part 'desk'"):
            mesh.add(billing)
        assert mesh.topology().json() == before
        mesh.add(desk)
        mesh.add(billing)
        assert await charge.ask(Order(1)) == 2


def test_a_part_that_contradicts_the_mesh():
    """What is declared differently is refused when the part is added, and nothing of it has been taken in."""

    def contradict(declare: Callable[[Any], Any], *, text: str) -> None:
        mesh, part = Mesh("shop"), Part("part")
        part.exchange("unrelated")
        mesh.exchange("events", "topic")
        mesh.mailbox("box", MailboxOptions(capacity=5))
        mesh.actor(_handle, name="work")
        mesh.source(_poll)
        mesh.every(1, mesh.mailbox("box"), name="tick")
        declare(part)
        before = mesh.topology().json()
        with pytest.raises(PreconditionFailed, match=text):
            mesh.add(part)
        assert mesh.topology().json() == before

    async def other(order: Order) -> None:
        del order

    async def another(ctx: Any) -> None:
        del ctx

    contradict(lambda part: part.exchange("events", "fanout"), text="exchange 'events' is declared differently")
    contradict(lambda part: part.mailbox("box", MailboxOptions(capacity=6)), text="mailbox 'box' is declared differently")
    contradict(lambda part: part.actor(other, name="work"), text="actor 'work' exists in mesh 'shop': give this one another")
    contradict(lambda part: part.source(another, name="_poll"), text="source '_poll' exists in mesh 'shop'")
    contradict(lambda part: part.every(1, part.mailbox("box"), name="tick"), text="schedule 'tick' exists in mesh 'shop'")


def test_mistakes_inside_a_part():
    """A part refuses at once what a mesh would refuse at once."""
    part = Part("part")
    orders = part.exchange("orders", "headers")
    part.actor(_handle)
    with pytest.raises(PreconditionFailed, match="actor '_handle' exists in part 'part'"):
        part.actor(_handle)
    with pytest.raises(InvalidBinding, match="x-match"):
        orders.bind(part.mailbox("box"), arguments={"x-match": "most"})
    with pytest.raises(AccessRefused, match="the default exchange cannot be bound"):
        part.exchange("").bind(part.mailbox("box"))
    with pytest.raises(InvalidHandler, match="annotate it"):
        part.actor(lambda order: None)
    with pytest.raises(ValueError, match="name must be a text that is not empty"):
        Part("")
    with pytest.raises(TypeError, match=r"mesh.add takes a Part, not <Mesh 'other'"):
        Mesh("shop").add(Mesh("other"))  # pyright: ignore[reportArgumentType]


def test_a_mesh_does_not_refer_to_a_part_that_is_elsewhere():
    """What a mesh itself declares may refer to a part only when that is in it."""
    mesh, part = Mesh("shop"), Part("billing")
    orders = part.exchange("orders")
    with pytest.raises(
        InvalidBinding, match=r"cannot be bound to exchange 'orders': it belongs to part 'billing', which has not been added"
    ):
        mesh.actor(_handle, bind=orders.on("a"))
    mesh.add(part)
    mesh.actor(_handle, bind=orders.on("a"))
    Mesh("other").add(part)
    with pytest.raises(InvalidBinding, match="it belongs to another mesh 'other'"):
        mesh.actor(_handle, name="again", bind=orders.on("a"))


async def _handle(order: Order) -> int:
    return order.id


async def _poll(ctx: Any) -> None:
    del ctx


# Configuring


async def test_configure_until_it_starts():
    """Options can be changed until the mesh starts, and again when it has stopped; what is left out stays."""
    mesh = Mesh("shop", grace=5)
    mesh.configure(grace=0)
    mesh.configure()
    async with mesh:
        with pytest.raises(PreconditionFailed, match="mesh 'shop' runs: configure it before it starts"):
            mesh.configure(grace=1)
    mesh.configure(grace=1)
    with pytest.raises(ValueError, match="grace must be zero or more seconds, not -1"):
        mesh.configure(grace=-1)
    with pytest.raises(TypeError, match=r"unknown mesh option 'grase' \(did you mean 'grace'\?\)"):
        mesh.configure(grase=1)  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize(
    "store, error, message",
    [
        (":memory:", ValueError, r"not ':memory:': write store=flowmesh\.MemoryStore\(\)"),
        ("sqlite:///shop.db", ValueError, r"not a URL \(sqlite://\.\.\.\): write store='shop\.db'"),
        ("amqp://me:secret@broker", ValueError, r"not a URL \(amqp://\.\.\.\).*a broker is no store$"),
        ("", TypeError, "store must be a path"),
    ],
)
def test_path_of_a_store_is_that_of_a_file(store: str, error: type[Exception], message: str):
    """What names a database elsewhere is refused with what to write, where it is said, and nothing is configured by half."""
    with pytest.raises(error, match=message):
        Mesh("shop", store=store)
    mesh = Mesh("shop", grace=5)
    with pytest.raises(error, match=message):
        mesh.configure(grace=0, store=store)
    assert mesh._engine.grace == 5


class Pool:
    """A thing that is provided."""


async def test_configure_replaces_what_is_provided():
    """A test gives its own thing for a type, of whatever type, or a factory; parts and mesh provide as declared otherwise."""

    @contextlib.asynccontextmanager
    async def opened() -> AsyncGenerator[Pool]:
        yield real

    real, fake = Pool(), object()
    mesh, part = Mesh("shop"), Part("billing")
    part.provide(Pool, opened)

    @part.actor
    async def which(number: int, pool: Pool) -> object:
        return pool

    mesh.add(part)
    async with mesh:
        assert await which.ask(1) is real
    for given in (fake, lambda: contextlib.nullcontext(fake)):
        mesh.configure(provide={Pool: given})
        async with mesh:
            assert await which.ask(1) is fake


async def test_two_parts_provide_one_type():
    """Two parts may name the same factory for a type, and not different ones."""

    @contextlib.asynccontextmanager
    async def opened() -> AsyncGenerator[Pool]:
        yield Pool()

    @contextlib.asynccontextmanager
    async def otherwise() -> AsyncGenerator[Pool]:
        yield Pool()

    mesh = Mesh("shop")
    parts = [Part(str(number)) for number in range(3)]
    for part, factory in zip(parts, (opened, opened, otherwise), strict=True):
        part.provide(Pool, factory)
    mesh.add(parts[0])
    mesh.add(parts[1])
    with pytest.raises(PreconditionFailed, match=r"Pool is provided in mesh 'shop' already"):
        mesh.add(parts[2])


async def test_a_class_actor_in_a_part():
    """A class actor of a part, and its views, stand for the mesh that runs; each run has an instance of its own."""

    class Total:
        def __init__(self) -> None:
            self.total = 0

        @on
        async def add(self, amount: int) -> int:
            self.total += amount
            return self.total

    part = Part("sums")
    total = part.actor(Total)
    add = total.handler(Total.add)
    for name in ("first", "second"):
        mesh = Mesh(name)
        mesh.add(part)
        async with mesh:
            assert await total.ask(1) == 1
            assert await add.ask(2) == 3
            assert add.mailbox is mesh.mailbox("Total")


# In an application


async def test_lifespan_runs_the_mesh():
    """`mesh.lifespan` is an ASGI lifespan: started when it is entered with the application, drained when it is left."""
    mesh = Mesh("shop")
    actor = mesh.actor(_handle)
    async with mesh.lifespan(object()):
        assert await actor.ask(Order(1)) == 1
        await actor.tell(Order(2))
    assert actor.mailbox.statistics().acked == 2
