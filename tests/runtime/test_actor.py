"""The public face of an actor: tell, ask, pause, resume, stop, a plain call, presets and options."""

import math
from datetime import timedelta
from typing import Any

import anyio
import pytest
from msgspec import Struct

from flowmesh import (
    ActorStopped,
    Batch,
    Context,
    DeadlockError,
    Debounce,
    Machine,
    MailboxOptions,
    Mesh,
    MeshStopped,
    NotRunning,
    PreconditionFailed,
    Restart,
    Retry,
    after,
    on,
)
from flowmesh.testing import settled
from tests.runtime.counting import counts

pytestmark = pytest.mark.anyio


class Order(Struct, frozen=True):
    id: int


# Telling and asking


async def test_tell():
    """A told message is handled once, in order; the receipt names it and the one mailbox that took it."""
    mesh = Mesh()
    seen: list[tuple[str, int]] = []

    @mesh.actor
    async def charge(order: Order, ctx: Context) -> None:
        seen.append((ctx.message.id, order.id))

    async with mesh:
        receipts = [await charge.tell(Order(1)), charge.tell_nowait(Order(2)), await charge.tell(Order(3), priority=3)]
    assert seen == [(receipt.message_id, number) for number, receipt in enumerate(receipts, 1)]
    assert [(receipt.routed, receipt.dropped, receipt.timer) for receipt in receipts] == [(1, 0, None)] * 3
    assert {receipt.durability for receipt in receipts} == {"none"}
    assert counts(charge.mailbox) == {"entered": 3, "acked": 3}


async def test_ask():
    """An asker gets what the handler returned, the very object."""
    mesh = Mesh()

    @mesh.actor
    async def echo(order: Order) -> Order:
        return order

    order = Order(1)
    async with mesh:
        assert await echo.ask(order) is order
        assert await echo.ask(order, timeout=None) is order
        assert await echo.ask(order, headers={"a": 1}, message_id="mine") is order
    assert counts(echo.mailbox) == {"entered": 3, "acked": 3}


async def test_no_body_may_be_left_out():
    """An actor without a body is told and asked without one."""
    mesh = Mesh()

    @mesh.actor
    async def tick(_: None, ctx: Context) -> int:
        return ctx.attempt

    async with mesh:
        await tick.tell()
        tick.tell_nowait()
        assert await tick.ask() == 1
    assert counts(tick.mailbox) == {"entered": 3, "acked": 3}


async def test_plain_call():
    """Calling an actor calls its function: no mailbox, no mesh that runs."""
    mesh = Mesh()

    @mesh.actor(retry=Retry(5), timeout=1.0)
    async def double(number: int) -> int:
        return 2 * number

    @mesh.actor
    def triple(number: int) -> int:
        return 3 * number

    assert await double(4) == 8
    assert await triple(4) == 12
    assert counts(double.mailbox) == {}


async def test_options_of_a_send():
    """Options reach the message as its handler sees it."""
    mesh = Mesh()
    seen: list[Any] = []

    @mesh.actor
    async def take(order: Order, ctx: Context) -> None:
        message = ctx.message
        seen.append(
            (message.id, dict(message.headers), message.priority, message.correlation_id, message.key, message.exchange)
        )

    async with mesh:
        await take.tell(Order(1), headers={"x": 1}, priority=7, message_id="m-1", correlation_id="c-1")
    assert seen == [("m-1", {"x": 1}, 7, "c-1", "take", "")]


@pytest.mark.parametrize(
    "options, error, text",
    [
        ({"prority": 3}, TypeError, "'prority' .did you mean 'priority'"),
        ({"header": {}}, TypeError, "did you mean 'headers'"),
        ({"priority": 256}, ValueError, "priority must be"),
        ({"ttl": -1}, ValueError, "ttl must be"),
        ({"mandatory": True}, TypeError, "always mandatory"),
        ({"delay": -0.5}, ValueError, "delay must be"),
    ],
)
async def test_wrong_options_of_a_send(options: dict[str, Any], error: type[Exception], text: str):
    """A wrong option is refused with its name, and the one that was meant; nothing enters."""
    mesh = Mesh()

    @mesh.actor
    async def take(order: Order) -> None: ...

    async with mesh:
        with pytest.raises(error, match=text):
            await take.tell(Order(1), **options)
        if "mandatory" not in options:
            with pytest.raises(error, match=text):
                take.tell_nowait(Order(1), **options)
        assert counts(take.mailbox) == {}


@pytest.mark.parametrize("option", ["delay", "reply_to", "mandatory", "at"])
async def test_ask_refuses_what_makes_no_sense(option: str):
    """An ask cannot be deferred, answered elsewhere, or optional."""
    mesh = Mesh()

    @mesh.actor
    async def take(order: Order) -> None: ...

    async with mesh:
        options: Any = {option: 1}
        with pytest.raises(TypeError, match=f"ask takes no {option}"):
            await take.ask(Order(1), **options)
        wrong: tuple[Any, ...] = (-1, -1.0, math.nan, "5", True, 10**400)
        for timeout in wrong:
            with pytest.raises(ValueError, match=f"timeout must be zero or more seconds, or None, not {timeout!r}"):
                await take.ask(Order(1), timeout=timeout)
        assert counts(take.mailbox) == {}
        assert await take.ask(Order(1), timeout=5) is None


async def test_only_a_class_with_by_has_instances():
    """Another actor says what `at` is for."""
    mesh = Mesh()

    @mesh.actor
    async def take(order: Order) -> None: ...

    anything: Any = take
    with pytest.raises(AttributeError, match=r"actor 'take' has no instances to choose from: at\(\) is for a class with by="):
        anything.at("42")
    with pytest.raises(AttributeError, match="'Actor' object has no attribute 'telll'"):
        anything.telll(Order(1))
    assert not hasattr(take, "at")


async def test_before_start_and_after_stop():
    """A mesh that does not run refuses sends, saying why and what to do."""
    mesh = Mesh("shop")

    @mesh.actor
    async def take(order: Order) -> None: ...

    for send in (take.tell, take.ask):
        with pytest.raises(NotRunning, match="mesh 'shop' has not been started: send inside 'async with mesh'"):
            await send(Order(1))
    with pytest.raises(NotRunning):
        take.tell_nowait(Order(1))
    async with mesh:
        await take.tell(Order(2))
    for send in (take.tell, take.ask):
        with pytest.raises(MeshStopped, match="mesh 'shop' has stopped"):
            await send(Order(3))
    with pytest.raises(MeshStopped):
        take.tell_nowait(Order(3))
    assert counts(take.mailbox) == {"entered": 1, "acked": 1}


# Pause, resume, stop


async def test_pause_and_resume():
    """A paused actor finishes what runs and is handed nothing more; resuming goes on in order. Both are idempotent."""
    mesh = Mesh()
    seen: list[int] = []
    gate = anyio.Event()

    @mesh.actor
    async def take(order: Order) -> None:
        await gate.wait()
        seen.append(order.id)

    async with mesh:
        for number in range(4):
            await take.tell(Order(number))
        await settled()
        take.pause()
        take.pause()
        gate.set()
        await settled()
        assert seen == [0]
        assert counts(take.mailbox) == {"entered": 4, "acked": 1, "ready": 3}
        assert mesh.statistics().actors["take"].paused
        await mesh.idle()  # what a paused actor has before it does not count
        take.resume()
        take.resume()
        await mesh.idle()
        assert seen == [0, 1, 2, 3]
        assert not mesh.statistics().actors["take"].paused


async def test_resume_while_its_turn_runs():
    """Resuming a busy actor neither doubles its slot nor forgets what is ready."""
    mesh = Mesh()
    running = highest = 0
    seen: list[int] = []

    @mesh.actor
    async def take(order: Order) -> None:
        nonlocal running, highest
        running += 1
        highest = max(highest, running)
        await anyio.sleep(1)
        running -= 1
        seen.append(order.id)

    async with mesh:
        for number in range(3):
            await take.tell(Order(number))
        await settled()
        for _ in range(5):
            take.pause()
            take.resume()
            await settled()
        await mesh.idle()
    assert (highest, seen) == (1, [0, 1, 2])


async def test_pause_before_start():
    """A paused actor stays paused when its mesh starts."""
    mesh = Mesh()
    seen: list[int] = []

    @mesh.actor
    async def take(order: Order) -> None:
        seen.append(order.id)

    take.pause()
    async with mesh:
        await take.tell(Order(1))
        await settled()
        assert seen == []
        take.resume()
    assert seen == [1]


async def test_stop():
    """Stopping waits for what runs, keeps mailbox and bindings, and frees the name; a successor takes over."""
    mesh = Mesh()
    seen: list[Any] = []
    orders = mesh.exchange("orders")

    @mesh.actor(bind=orders.on("a"))
    async def take(order: Order) -> None:
        await anyio.sleep(5)
        seen.append(order.id)

    async with mesh:
        for number in range(3):
            await orders.publish(Order(number), "a")
        await settled()
        began = anyio.current_time()
        await take.stop()
        assert anyio.current_time() - began == 5
        await take.stop()
        assert seen == [0]
        assert "take" not in mesh.statistics().actors
        assert counts(take.mailbox) == {"entered": 3, "acked": 1, "ready": 2}
        with pytest.raises(ActorStopped, match="actor 'take' has been stopped: nobody would answer"):
            await take.ask(Order(9))
        await take.tell(Order(3))  # its mailbox still takes messages
        await mesh.idle()

        @mesh.actor(name="take")
        async def successor(order: Order) -> None:
            seen.append(("successor", order.id))

        await mesh.idle()
        assert seen == [0, *(("successor", number) for number in (1, 2, 3))]
        assert counts(take.mailbox) == {"entered": 4, "acked": 4}


async def test_stop_leaves_competing_actors_alone():
    """Another actor on the mailbox takes what the stopped one would have taken, and answers its askers."""
    mesh = Mesh()
    box = mesh.mailbox("box")

    @mesh.actor(mailbox=box)
    async def first(order: Order) -> str:
        await anyio.sleep(1)
        return "first"

    @mesh.actor(mailbox=box)
    async def second(order: Order) -> str:
        await anyio.sleep(1)
        return "second"

    answers: list[str] = []

    async def ask(number: int) -> None:
        answers.append(await second.ask(Order(number)))

    async with mesh, anyio.create_task_group() as group:
        for number in range(4):
            group.start_soon(ask, number)
        await settled()
        await first.stop()
    assert answers.count("second") == 3
    assert answers.count("first") == 1
    assert counts(box) == {"entered": 4, "acked": 4}


async def test_stop_from_its_own_turn():
    """An actor that would wait for itself to stop is told so, and lives on."""
    mesh = Mesh()

    @mesh.actor
    async def take(order: Order) -> str:
        with pytest.raises(DeadlockError, match=r"actor 'take' would wait for itself to stop \(take -> take\)"):
            await take.stop()
        return "alive"

    async with mesh:
        assert await take.ask(Order(1)) == "alive"
        assert await take.ask(Order(2)) == "alive"


async def test_cancelled_stop():
    """Whoever gives up waiting for a stop has stopped the actor all the same; its running turn ends in peace."""
    mesh = Mesh()
    seen: list[int] = []

    @mesh.actor
    async def take(order: Order) -> None:
        await anyio.sleep(5)
        seen.append(order.id)

    async with mesh:
        await take.tell(Order(1))
        await take.tell(Order(2))
        await settled()
        with anyio.move_on_after(1) as scope:
            await take.stop()
        assert scope.cancelled_caught
        await anyio.sleep(10)
        assert seen == [1]
        assert counts(take.mailbox) == {"entered": 2, "acked": 1, "ready": 1}


async def test_stop_before_start():
    """An actor can be stopped before the mesh starts; it then never runs."""
    mesh = Mesh()

    @mesh.actor
    async def take(order: Order) -> None:
        pytest.fail("stopped")

    await take.stop()
    async with mesh:
        await take.tell(Order(1))
        await settled()
        assert counts(take.mailbox) == {"entered": 1, "ready": 1}


# Declarations


async def test_presets():
    """Options that are kept declare any number of actors, each with them and with a name of its own."""
    mesh = Mesh()
    reliable = mesh.actor(retry=Retry(3, initial=1, jitter="none"), concurrency=2)
    attempts: list[tuple[str, int]] = []

    @reliable
    async def one(order: Order, ctx: Context) -> None:
        attempts.append((ctx.actor, ctx.attempt))
        raise OSError

    @reliable
    async def two(order: Order, ctx: Context) -> None:
        attempts.append((ctx.actor, ctx.attempt))

    async with mesh:
        await one.tell(Order(1))
        await two.tell(Order(1))
        await mesh.idle()
    assert sorted(attempts) == [("one", 1), ("one", 2), ("one", 3), ("two", 1)]
    slots = {name: actor.slots for name, actor in mesh.statistics().actors.items()}
    assert slots == {"one": 2, "two": 2}


async def _take(order: Order) -> None: ...


@pytest.mark.parametrize(
    "options, error, text",
    [
        ({"concurency": 2}, TypeError, "unknown actor option 'concurency' .did you mean 'concurrency'"),
        ({"retries": Retry(2)}, TypeError, "unknown actor option 'retries' .did you mean 'retry'"),
        ({"time_out": 3.0}, TypeError, "did you mean 'timeout'"),
        ({"mailboxes": None}, TypeError, "did you mean 'mailbox'"),
        ({"xyz": 1}, TypeError, "unknown actor option 'xyz'$"),
        ({"concurrency": 0}, ValueError, "concurrency must be a whole number of at least 1, or Autoscale, not 0"),
        ({"concurrency": True}, ValueError, "concurrency must be a whole number"),
        ({"concurrency": 1.5}, ValueError, "concurrency must be a whole number"),
        ({"timeout": 0}, ValueError, "timeout must be more than zero seconds, or None, not 0"),
        ({"timeout": float("nan")}, ValueError, "timeout must be more than zero"),
        ({"retry": 3}, ValueError, "retry must be a Retry, or None, not 3: write "),
        ({"mailbox": "orders"}, ValueError, "mailbox must be MailboxOptions or a Mailbox, not 'orders'"),
        ({"by": "customer"}, ValueError, "by must be a function of the body, or None, not 'customer'"),
    ],
)
async def test_wrong_options_of_an_actor(options: dict[str, Any], error: type[Exception], text: str):
    """A wrong option is refused where it stands, decorator or call, naming it and the one that was meant."""
    mesh = Mesh()
    with pytest.raises(error, match=text):
        mesh.actor(**options)
    with pytest.raises(error, match=text):
        mesh.actor(_take, **options)
    assert mesh.actor(_take).name == "_take"


class Till:
    """A class actor."""

    @on
    async def take(self, order: Order) -> None: ...


class Door(Machine, initial="shut", unhandled="ignore"):
    """A machine whose state lasts for a while."""

    @on("shut", to="open")
    async def take(self, order: Order) -> None: ...

    @after(1.0, "open", to="shut")
    async def close(self) -> None: ...


@pytest.mark.parametrize(
    "handler, options, text",
    [
        (_take, {"retry": 3}, r"^retry of actor 'bill' must be a Retry, or None, not 3: write retry=Retry\(3\)"),
        (_take, {"by": "customer"}, "^by of actor 'bill' must be a function of the body"),
        (_take, {"timeout": timedelta(0)}, "^timeout of actor 'bill' must be .*: write timeout=0, in seconds"),
        (_take, {"concurency": 2}, "^unknown option 'concurency' of actor 'bill' .did you mean 'concurrency'"),
        (_take, {"idle": 3.0}, "^actor 'bill' is a function, which has no instances"),
        (_take, {"restart": Restart()}, "^actor 'bill' is a function, and there is nothing"),
        (Till, {"concurrency": 2}, "^class actor 'bill' handles one message"),
        (Till, {"idle": 3.0}, "^class actor 'bill' has one instance"),
        (Till, {"batch": Batch(2, 1.0)}, "^class actor 'bill' takes one message"),
        (Door, {"debounce": Debounce(1.0, 2.0)}, "^machine 'bill' has states that last"),
    ],
)
async def test_wrong_options_of_an_actor_with_a_name(handler: Any, options: dict[str, Any], text: str):
    """What is wrong with an option names the actor as `name=` does, for several may have one function."""
    with pytest.raises((TypeError, ValueError), match=text):
        Mesh().actor(handler, name="bill", **options)
    with pytest.raises((TypeError, ValueError), match=text):
        Mesh().actor(name="bill", **options)(handler)


async def test_options_that_are_none():
    """None for an option is as if it had not been given."""
    mesh = Mesh()
    nothing: Any = dict.fromkeys(["name", "bind", "mailbox", "retry", "timeout", "by"])
    take = mesh.actor(_take, **nothing, concurrency=1)
    assert (take.name, take.mailbox.name) == ("_take", "_take")


async def test_two_actors_of_one_name():
    """A name is given once per mesh; the first actor stays as it is."""
    mesh = Mesh("shop")
    first = mesh.actor(_take, name="take")
    with pytest.raises(PreconditionFailed, match="actor 'take' exists in mesh 'shop': give this one another name="):
        mesh.actor(_take, name="take", concurrency=3)
    Mesh("other").actor(_take, name="take")
    async with mesh:
        assert await first.ask(Order(1)) is None
    assert mesh.statistics().actors["take"].slots == 1


async def test_wrong_declaration_leaves_nothing():
    """What is refused leaves no mailbox and no binding behind."""
    mesh, other = Mesh("one"), Mesh("other")
    foreign = other.exchange("orders")
    own = mesh.exchange("orders")
    with pytest.raises(Exception, match="exchange 'orders': it belongs to another mesh"):
        mesh.actor(_take, bind=[own.on("a"), foreign.on("a")])
    with pytest.raises(Exception, match="actor '_take' cannot be fed from mailbox 'box': it belongs to another mesh 'other'"):
        mesh.actor(_take, mailbox=other.mailbox("box"))
    with pytest.raises(Exception, match=r"bind= takes exchange\.on"):
        mesh.actor(_take, bind="orders")  # pyright: ignore[reportCallIssue,reportArgumentType] - on purpose
    assert mesh.statistics().mailboxes == {}
    async with mesh:
        receipt = await own.publish(Order(1), "a")
        assert receipt.routed == 0


async def test_mailbox_of_its_own():
    """An actor's mailbox is named like the actor and has the options given; an existing one is shared."""
    mesh = Mesh()
    own = mesh.actor(_take, name="own", mailbox=MailboxOptions(capacity=3))
    box = mesh.mailbox("box")
    shared = mesh.actor(_take, name="shared", mailbox=box)
    assert (own.mailbox.name, own.mailbox.options.capacity) == ("own", 3)
    assert (shared.mailbox.name, shared.name) == ("box", "shared")
    assert repr(shared) == "<Actor 'shared' on mailbox 'box'>"
    async with mesh:
        await mesh.exchange("").publish(Order(1), "own")
        await shared.tell(Order(2))
    assert counts(own.mailbox) == counts(box) == {"entered": 1, "acked": 1}


async def test_declared_while_running():
    """An actor can be declared while the mesh runs, and takes what its mailbox already holds."""
    mesh = Mesh()
    box = mesh.mailbox("box")
    seen: list[int] = []
    async with mesh:
        for number in range(3):
            await mesh.exchange("").publish(Order(number), "box")

        @mesh.actor(mailbox=box, concurrency=2)
        async def take(order: Order) -> None:
            seen.append(order.id)

        @mesh.actor
        def in_thread(order: Order) -> int:
            return order.id

        await mesh.idle()
        assert seen == [0, 1, 2]
        assert await in_thread.ask(Order(5)) == 5


async def test_mesh_that_is_entered_again():
    """A stopped mesh starts again with its actors, and what lay ready is handled then."""
    mesh = Mesh()
    seen: list[int] = []

    @mesh.actor
    async def take(order: Order) -> None:
        seen.append(order.id)

    take.pause()
    async with mesh:
        await take.tell(Order(1))
    take.resume()
    assert seen == []
    async with mesh:
        await take.tell(Order(2))
    assert seen == [1, 2]
    assert counts(take.mailbox) == {"entered": 2, "acked": 2}


async def test_idle_actors_of_one_function_share_what_they_have_not_used():
    """Empty containers, default options and what is known of the function are one for all, until an actor needs its own."""
    mesh = Mesh("shop")

    async def receive(body: int, ctx: Context) -> None:
        ctx.progress(1, 2)
        await anyio.sleep_forever()

    first, second = (mesh.actor(receive, name=name).cell for name in ("first", "second"))
    for shared in ("handler", "held_by", "waiting_asks", "progress", "stopping"):
        assert getattr(first, shared) is getattr(second, shared)
    for shared in ("fresh", "heap", "lanes", "retries", "deadlines", "last_resort", "options"):
        assert getattr(first.box, shared) is getattr(second.box, shared)
    with pytest.raises(PreconditionFailed, match="exists"):
        mesh.actor(receive, name="first")  # one function, but not the same actor
