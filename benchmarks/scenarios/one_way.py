"""S1 and S1c: one producer task, one handler, messages of their own, all default features on."""

from collections.abc import Sequence
from contextvars import ContextVar

from benchmarks.harness import Bound, Figure, Scenario
from benchmarks.workload import Countdown, Pair, scaled, started
from flowmesh import Mesh, on

__all__ = ["CONTEXT", "ONE_WAY"]

_MESSAGES = 100_000
_SEEN: ContextVar[int] = ContextVar("_SEEN", default=0)


async def _tell(count: int) -> float:
    countdown = Countdown(count)
    mesh = Mesh("bench")

    @mesh.actor
    async def receive(body: Pair) -> None:
        del body
        countdown.left -= 1
        if not countdown.left:
            countdown.end()

    async with mesh:
        start = started()
        for number in range(count):
            await receive.tell(Pair(number, "text"))
        await countdown.wait()
    return (countdown.ended - start) / count


async def _tell_class(count: int) -> float:
    countdown = Countdown(count)
    mesh = Mesh("bench")

    class Receiver:
        @on
        async def receive(self, body: Pair) -> None:
            del body
            countdown.left -= 1
            if not countdown.left:
                countdown.end()

        @on
        async def other(self, body: str) -> None: ...

    receiver = mesh.actor(Receiver)
    async with mesh:
        start = started()
        for number in range(count):
            await receiver.tell(Pair(number, "text"))
        await countdown.wait()
    return (countdown.ended - start) / count


async def _publish(count: int) -> float:
    countdown = Countdown(count)
    mesh = Mesh("bench")
    orders = mesh.exchange("orders", "direct")

    @mesh.actor
    async def receive(body: Pair) -> None:
        del body
        countdown.left -= 1
        if not countdown.left:
            countdown.end()

    orders.bind(receive, "placed")
    async with mesh:
        start = started()
        for number in range(count):
            await orders.publish(Pair(number, "text"), "placed")
        await countdown.wait()
    return (countdown.ended - start) / count


async def _one_way(scale: float) -> Sequence[float]:
    count = scaled(_MESSAGES, scale)
    return await _tell(count), await _publish(count), await _tell_class(count)


async def _context(scale: float) -> Sequence[float]:
    count = scaled(_MESSAGES, scale)
    countdown = Countdown(count)
    mesh = Mesh("bench")

    @mesh.actor
    async def receive(body: Pair) -> None:
        _SEEN.set(body.number)
        countdown.left -= 1
        if not countdown.left:
            countdown.end()

    async with mesh:
        start = started()
        for number in range(count):
            await receive.tell(Pair(number, "text"))
        await countdown.wait()
    return ((countdown.ended - start) / count,)


ONE_WAY = Scenario(
    "S1",
    "one producer, one handler",
    (
        Figure.alike("tell", "x", Bound(4.0, 2.0)),
        Figure("publish to a direct exchange", "x"),
        Figure("tell a class with two methods", "x"),
    ),
    _one_way,
)

CONTEXT = Scenario("S1c", "the handler sets a context variable", (Figure.alike("tell", "x", Bound(6.0, 3.0)),), _context)
