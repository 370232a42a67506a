"""Middleware: its order, what it may do with a turn, that its errors are its handler's, and that none costs nothing."""

import contextvars
import functools
import logging
import threading
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from msgspec import Struct

from flowmesh import CallNext, Context, InvalidHandler, Mesh, Middleware, Reject, Retry, RetryAfter
from flowmesh._runtime.cell import Cell
from tests.runtime.counting import counts

pytestmark = pytest.mark.anyio


class Order(Struct, frozen=True):
    id: int


def cell_of(actor: Any) -> Cell:
    """Return an actor's place in the scheduler."""
    return actor.cell


def naming(name: str, lines: list[str]) -> Middleware:
    """A layer that says when it is entered and left."""

    async def layer(ctx: Context, call_next: CallNext) -> object:
        lines.append(f"{name} in {ctx.message.body.id}")
        result = await call_next()
        lines.append(f"{name} out {result}")
        return result

    return layer


# What it does


async def test_first_is_outermost_and_the_mesh_stands_around_the_actor():
    """Layers nest in the order given, the mesh's around the actor's own; what the handler returns goes out through all."""
    lines: list[str] = []
    mesh = Mesh("shop", middleware=(naming("one", lines), naming("two", lines)))

    @mesh.actor(middleware=[naming("own", lines)])
    async def charge(order: Order) -> str:
        lines.append("handler")
        return f"charged {order.id}"

    async with mesh:
        assert await charge.ask(Order(7)) == "charged 7"
    out = ["own out charged 7", "two out charged 7", "one out charged 7"]
    assert lines == ["one in 7", "two in 7", "own in 7", "handler", *out]


async def test_actors_declared_while_the_mesh_runs_have_it_too():
    """An actor that is declared later stands inside the mesh's layers like any other."""
    lines: list[str] = []
    mesh = Mesh("shop", middleware=(naming("mesh", lines),))
    async with mesh:

        @mesh.actor
        async def late(order: Order) -> int:
            return order.id

        assert await late.ask(Order(1)) == 1
    assert lines == ["mesh in 1", "mesh out 1"]


async def test_it_may_change_the_reply():
    """What the outermost layer returns is the reply of an ask."""

    async def doubling(ctx: Context, call_next: CallNext) -> object:
        return 2 * await call_next()

    mesh = Mesh("shop", middleware=(doubling,))

    @mesh.actor
    async def price(order: Order) -> int:
        return order.id

    async with mesh:
        assert await price.ask(Order(21)) == 42


async def test_without_a_call_the_handler_is_skipped():
    """A layer that does not call on ends the turn: the message is acked, and what it returned is the reply."""
    ran: list[int] = []

    async def cached(ctx: Context, call_next: CallNext) -> object:
        return "cached" if ctx.message.body.id == 1 else await call_next()

    mesh = Mesh("shop", middleware=(cached,))

    @mesh.actor
    async def look_up(order: Order) -> str:
        ran.append(order.id)
        return "looked up"

    async with mesh:
        assert await look_up.ask(Order(1)) == "cached"
        assert await look_up.ask(Order(2)) == "looked up"
        await look_up.tell(Order(1))
        await mesh.idle()
        assert counts(look_up.mailbox) == {"entered": 3, "acked": 3}
    assert ran == [2]


async def test_its_context_is_the_turns():
    """Message, attempt and actor are the turn's, and what a layer collects leaves with the ack, or not at all."""
    seen: list[tuple[str, int]] = []
    audited: list[str] = []

    async def auditing(ctx: Context, call_next: CallNext) -> object:
        seen.append((ctx.actor, ctx.attempt))
        if ctx.actor == "charge":
            ctx.tell(audit, f"attempt {ctx.attempt}")
        return await call_next()

    mesh = Mesh("shop", middleware=(auditing,))

    @mesh.actor
    async def audit(line: str) -> None:
        audited.append(line)

    @mesh.actor(retry=Retry(2, initial=1.0, jitter="none"))
    async def charge(order: Order, ctx: Context) -> None:
        if ctx.attempt == 1:
            raise OSError("not yet")

    async with mesh:
        await charge.tell(Order(1))
        await mesh.idle()
    assert seen == [("charge", 1), ("charge", 2), ("audit", 1)]
    assert audited == ["attempt 2"]


async def test_a_plain_handler_runs_in_its_thread_and_the_layer_in_the_loop():
    """Around a plain `def`, a layer runs in the mesh's thread, and the handler sees the context variables that it set."""
    request: contextvars.ContextVar[int] = contextvars.ContextVar("request")
    threads: list[int] = []

    async def naming_the_request(ctx: Context, call_next: CallNext) -> object:
        request.set(ctx.message.body.id)
        threads.append(threading.get_ident())
        return await call_next()

    mesh = Mesh("shop", middleware=(naming_the_request,))

    @mesh.actor
    def charge(order: Order) -> int:
        threads.append(threading.get_ident())
        return request.get()

    async with mesh:
        assert [await charge.ask(Order(number)) for number in range(5)] == [0, 1, 2, 3, 4]
    here = threading.get_ident()
    assert [thread == here for thread in threads] == [True, False] * 5


async def test_context_variables_reach_the_handler_and_nobody_else():
    """What a layer sets its handler sees; the next message begins with the mesh's context, whoever is handled."""
    request: contextvars.ContextVar[int | None] = contextvars.ContextVar("request", default=None)
    before: list[int | None] = []
    seen: list[int | None] = []

    async def naming_the_request(ctx: Context, call_next: CallNext) -> object:
        before.append(request.get())
        request.set(ctx.message.body.id)
        return await call_next()

    mesh = Mesh("shop")

    @mesh.actor(middleware=[naming_the_request])
    async def charge(order: Order) -> None:
        await anyio.sleep(0.1)
        seen.append(request.get())

    @mesh.actor
    async def other(order: Order) -> None:
        before.append(request.get())

    async with mesh:
        for number in range(1, 6):
            await charge.tell(Order(number))
            await other.tell(Order(number))
        await mesh.idle()
    assert seen == [1, 2, 3, 4, 5]
    assert before == [None] * 10


async def test_a_partial_and_an_object_are_layers():
    """Whatever is called with (ctx, call_next) and awaited will do: a partial, an instance with an async `__call__`."""

    async def adding(amount: int, ctx: Context, call_next: CallNext) -> object:
        return amount + await call_next()

    class Counting:
        calls = 0

        async def __call__(self, ctx: Context, call_next: CallNext) -> object:
            self.calls += 1
            return await call_next()

    counting = Counting()
    mesh = Mesh("shop", middleware=[functools.partial(adding, 1), counting])

    @mesh.actor
    async def price(order: Order) -> int:
        return order.id

    async with mesh:
        assert await price.ask(Order(1)) == 2
    assert counting.calls == 1


# Its errors


async def test_its_error_is_the_handlers_failure(caplog: pytest.LogCaptureFixture):
    """A layer that raises fails the message: retried, then dead, logged once with the layer in its traceback."""
    attempts: list[int] = []

    async def refusing(ctx: Context, call_next: CallNext) -> object:
        attempts.append(ctx.attempt)
        raise OSError("the gate is closed")

    mesh = Mesh("shop", middleware=(refusing,))

    @mesh.actor(retry=Retry(3, initial=0.1))
    async def charge(order: Order) -> None:
        raise AssertionError("was handled")

    async with mesh:
        await charge.tell(Order(1))
        await mesh.idle()
        assert counts(charge.mailbox) == {"entered": 1, "dead": 1}
        (letter,) = mesh.dead_letters.list()
    assert attempts == [1, 2, 3]
    assert letter.deaths[0].detail == "OSError: the gate is closed"
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.exc_info
    assert record.exc_info[2] is not None
    assert "refusing" in [frame.name for frame in traceback.extract_tb(record.exc_info[2])]


async def test_its_error_reaches_the_asker():
    """An asker gets what a layer raised in place of the reply."""

    async def refusing(ctx: Context, call_next: CallNext) -> object:
        await call_next()
        raise PermissionError("not for you")

    mesh = Mesh("shop", middleware=(refusing,))

    @mesh.actor
    async def price(order: Order) -> int:
        return order.id

    async with mesh:
        with pytest.raises(PermissionError, match="not for you"):
            await price.ask(Order(1))
        assert counts(price.mailbox) == {"entered": 1, "acked": 1}


async def test_it_may_turn_a_failure_into_a_success_or_a_verdict():
    """A layer that catches what the handler raised decides: its return is a success, its Reject and RetryAfter are verdicts."""
    handled: list[int] = []

    async def judging(ctx: Context, call_next: CallNext) -> object:
        try:
            return await call_next()
        except KeyError:
            return "forgiven"
        except ValueError as error:
            raise Reject(str(error)) from error
        except OSError as error:
            raise RetryAfter(2.0) from error

    mesh = Mesh("shop", middleware=(judging,))

    @mesh.actor
    async def charge(order: Order) -> str:
        handled.append(order.id)
        if order.id == 1:
            raise KeyError("k")
        if order.id == 2:
            raise ValueError("v")
        if handled.count(3) == 1:
            raise OSError("o")
        return "done"

    async with mesh:
        assert await charge.ask(Order(1)) == "forgiven"
        await charge.tell(Order(2))
        began = anyio.current_time()
        await charge.tell(Order(3))
        await mesh.idle()
        assert anyio.current_time() - began == pytest.approx(2.0, abs=0.01)
        assert counts(charge.mailbox) == {"entered": 3, "acked": 2, "dead": 1}
        assert mesh.dead_letters.list()[0].deaths[0].reason == "rejected"


async def test_it_runs_inside_the_time_limit():
    """The limit of the actor covers its layers; a layer that is too slow fails the message as a handler does."""

    async def slow(ctx: Context, call_next: CallNext) -> object:
        await anyio.sleep(6.0)
        return await call_next()

    mesh = Mesh("shop", middleware=(slow,))

    @mesh.actor(timeout=5.0)
    async def charge(order: Order) -> None:
        raise AssertionError("was handled")

    async with mesh:
        began = anyio.current_time()
        with pytest.raises(TimeoutError, match="within 5"):
            await charge.ask(Order(1))
        assert anyio.current_time() - began == pytest.approx(5.0, abs=0.01)


async def test_it_may_swallow_the_time_limit(caplog: pytest.LogCaptureFixture):
    """A layer that swallows the cancellation of its time limit counts as done, and is named in the log."""

    async def stubborn(ctx: Context, call_next: CallNext) -> object:
        try:
            return await call_next()
        except anyio.get_cancelled_exc_class():
            return None

    mesh = Mesh("shop")
    handled: list[int] = []

    @mesh.actor(timeout=1.0, middleware=[stubborn])
    async def charge(order: Order) -> None:
        if order.id == 1:
            await anyio.sleep(10.0)
        handled.append(order.id)

    async with mesh:
        await charge.tell(Order(1))
        await charge.tell(Order(2))
        await mesh.idle()
        assert counts(charge.mailbox) == {"entered": 2, "acked": 2}
    assert handled == [2]
    assert "although its time limit of 1.0 s had passed" in caplog.text


async def test_a_stop_hands_the_message_back():
    """A message whose layer is cancelled by the stop of its mesh goes back, uncounted, and its layer is unwound."""
    left: list[str] = []

    async def waiting(ctx: Context, call_next: CallNext) -> object:
        try:
            return await call_next()
        finally:
            left.append("left")

    mesh = Mesh("shop", grace=1.0, middleware=(waiting,))

    @mesh.actor
    async def charge(order: Order) -> None:
        await anyio.sleep_forever()

    async with mesh:
        await charge.tell(Order(1))
        await anyio.sleep(0.1)
    assert left == ["left"]
    assert counts(charge.mailbox) == {"entered": 1, "ready": 1}


async def test_its_base_exception_stops_the_mesh():
    """A BaseException of a layer leaves `async with mesh` bare, and its message goes back."""

    async def leaving(ctx: Context, call_next: CallNext) -> object:
        raise SystemExit(3)

    mesh = Mesh("shop", middleware=(leaving,))

    @mesh.actor
    async def charge(order: Order) -> None: ...

    async def run() -> None:
        async with mesh:
            await charge.tell(Order(1))
            await anyio.sleep(1.0)

    with pytest.raises(SystemExit):
        await run()
    assert counts(charge.mailbox) == {"entered": 1, "ready": 1}


# call_next is called once, and awaited


async def fail_with(layer: Middleware, handled: list[int]) -> BaseException:
    """Ask an actor behind this layer, and return the error."""
    mesh = Mesh("shop", middleware=(layer,))

    @mesh.actor
    async def charge(order: Order) -> None:
        handled.append(order.id)
        await anyio.sleep(1.0)

    async with mesh:
        with pytest.raises(InvalidHandler) as raised:
            await charge.ask(Order(1))
    return raised.value


async def test_calling_on_twice_is_an_error():
    """A handler runs once in a turn: the second call raises, and says to leave it to Retry."""

    async def twice(ctx: Context, call_next: CallNext) -> object:
        await call_next()
        return await call_next()

    handled: list[int] = []
    error = await fail_with(twice, handled)
    assert "twice called call_next twice" in str(error)
    assert "retry=" in str(error)
    assert handled == [1]


async def test_a_call_that_is_not_awaited_is_an_error():
    """A handler that a layer forgot to await has not run: the message must not count as done."""

    async def forgetful(ctx: Context, call_next: CallNext) -> object:
        return call_next()

    handled: list[int] = []
    error = await fail_with(forgetful, handled)
    assert "forgetful returned before its call_next() had ended" in str(error)
    assert "await call_next()" in str(error)
    assert handled == []


async def test_a_call_in_a_task_that_outlives_the_layer_is_an_error():
    """A layer cannot leave its handler running behind it: its turn would be settled without it."""
    errors: list[BaseException] = []
    async with anyio.create_task_group() as group:

        async def spawning(ctx: Context, call_next: CallNext) -> object:
            async def run() -> None:
                await call_next()

            group.start_soon(run)
            await anyio.sleep(0.1)
            return None

        errors.append(await fail_with(spawning, []))
        group.cancel_scope.cancel()
    assert "spawning returned before its call_next() had ended" in str(errors[0])


async def test_a_call_after_the_layer_has_returned_is_an_error():
    """A `call_next` that was kept calls nothing any more."""
    kept: list[CallNext] = []

    async def keeping(ctx: Context, call_next: CallNext) -> object:
        kept.append(call_next)
        return None

    mesh = Mesh("shop", middleware=(keeping,))

    @mesh.actor
    async def charge(order: Order) -> None: ...

    async with mesh:
        await charge.ask(Order(1))
        with pytest.raises(InvalidHandler, match="keeping has returned"):
            await kept[0]()


async def test_an_error_before_the_await_stands():
    """When a layer raises after it made the call and before it awaited it, its own error is the failure."""

    async def failing(ctx: Context, call_next: CallNext) -> object:
        following = call_next()
        raise InvalidHandler("of its own")
        await following

    assert str(await fail_with(failing, [])) == "of its own"


# Declaring it


def plain(ctx: Context, call_next: CallNext) -> object:
    """No coroutine function."""


async def with_one(ctx: Context) -> object:
    """Too few parameters."""


async def with_three(ctx: Context, call_next: CallNext, third: int) -> object:
    """Too many parameters."""


class AClass:
    async def __call__(self, ctx: Context, call_next: CallNext) -> object:
        return await call_next()


@pytest.mark.parametrize("wrong", [plain, with_one, with_three, AClass, 7], ids=str)
def test_what_cannot_be_a_layer_is_refused_where_it_is_declared(wrong: Any):
    """A layer that is no coroutine function of two parameters is named, with what to write instead."""
    mesh = Mesh("shop")
    makers: list[Callable[[], object]] = [lambda: Mesh("shop", middleware=(wrong,)), lambda: mesh.actor(middleware=[wrong])]
    for make in makers:
        with pytest.raises(InvalidHandler, match=r"async def \w+\(ctx: Context, call_next: CallNext\) -> object") as raised:
            make()
        assert getattr(wrong, "__qualname__", "7") in str(raised.value)


@pytest.mark.parametrize("wrong", [with_one, "timing", None], ids=str)
def test_middleware_is_a_sequence(wrong: Any):
    """A single function, or none, in place of a sequence is refused with the mend."""
    with pytest.raises(TypeError, match="middleware must be a sequence"):
        Mesh("shop", middleware=wrong)


# What it costs


async def test_none_costs_nothing():
    """Without middleware a handler stays plain; with one it is not, and only where it stands."""

    async def layer(ctx: Context, call_next: CallNext) -> object:
        return await call_next()

    mesh = Mesh("shop")

    @mesh.actor
    async def plain_one(order: Order) -> None: ...
    @mesh.actor(middleware=[layer])
    async def layered(order: Order) -> None: ...
    @mesh.actor(middleware=())
    async def with_no_layer(order: Order) -> None: ...

    async with mesh:
        assert [cell_of(actor).is_plain for actor in (plain_one, layered, with_no_layer)] == [True, False, True]


async def test_composed_once():
    """Layers are composed when the mesh starts: no message changes the chain that its actor has."""

    async def layer(ctx: Context, call_next: CallNext) -> object:
        return await call_next()

    mesh = Mesh("shop", middleware=(layer,))

    @mesh.actor
    async def charge(order: Order) -> None: ...

    chains: list[Callable[..., Awaitable[Any]] | None] = []
    async with mesh:
        chains.append(cell_of(charge).chain)
        for number in range(3):
            await charge.ask(Order(number))
            chains.append(cell_of(charge).chain)
    assert chains[0] is not None
    assert all(chain is chains[0] for chain in chains)


async def test_call_next_may_be_given_the_context():
    """`call_next(ctx)` is `call_next()`; anything else is a mistake that fails the turn with its name."""

    async def handing_on(ctx: Context, call_next: CallNext) -> object:
        return await call_next(ctx)

    async def mistaken(ctx: Context, call_next: CallNext) -> object:
        return await call_next(ctx.message)  # pyright: ignore[reportArgumentType]

    mesh = Mesh("shop")

    @mesh.actor(middleware=[handing_on, handing_on])
    async def right(number: int) -> int:
        return number + 1

    @mesh.actor(middleware=[mistaken])
    async def wrong(number: int) -> int:
        return number + 1

    async with mesh:
        assert await right.ask(1) == 2
        with pytest.raises(InvalidHandler, match=r"mistaken called call_next with Message\(.*; call it with that, or"):
            await wrong.ask(1)
