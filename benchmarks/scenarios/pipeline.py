"""S5: five actors in a row, each handler tells the next: cost of a message under load, and its latency when alone.

Latency runs from the call of `tell` to the end of the fifth handler, with one message in the mesh at a time.
"""

from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter_ns

import anyio

from benchmarks.harness import Bound, Figure, Scenario
from benchmarks.workload import Countdown, Pair, percentile, scaled, started
from flowmesh import Mesh

__all__ = ["PIPELINE"]

_STAGES = 5

Tell = Callable[[Pair], Awaitable[object]]


def _chain(mesh: Mesh, last: Callable[[Pair], Awaitable[None]]) -> Tell:
    """Declare the five actors, `last` being the fifth one's handler, and return what tells the first."""
    following: Tell = mesh.actor(last, name=f"stage-{_STAGES}").tell
    for stage in range(_STAGES - 1, 0, -1):
        following = mesh.actor(_forward(following), name=f"stage-{stage}").tell
    return following


def _forward(following: Tell) -> Callable[[Pair], Awaitable[None]]:
    async def forward(body: Pair) -> None:
        await following(body)

    return forward


async def _cost(count: int) -> float:
    countdown = Countdown(count)
    mesh = Mesh("bench")

    async def last(body: Pair) -> None:
        del body
        countdown.left -= 1
        if not countdown.left:
            countdown.end()

    tell = _chain(mesh, last)
    async with mesh:
        start = started()
        for number in range(count):
            await tell(Pair(number, "text"))
        await countdown.wait()
    return (countdown.ended - start) / count


async def _latencies(count: int) -> list[int]:
    mesh = Mesh("bench")
    ended = 0
    arrived = anyio.Event()

    async def last(body: Pair) -> None:
        nonlocal ended
        del body
        ended = perf_counter_ns()
        arrived.set()

    tell = _chain(mesh, last)
    latencies: list[int] = []
    async with mesh:
        started()
        for number in range(count):
            start = perf_counter_ns()
            await tell(Pair(number, "text"))
            await arrived.wait()
            latencies.append(ended - start)
            arrived = anyio.Event()
            await mesh.idle()
    return latencies


async def _pipeline(scale: float) -> Sequence[float]:
    cost = await _cost(scaled(20_000, scale))
    latencies = await _latencies(scaled(5_000, scale))
    return cost, percentile(latencies, 50), percentile(latencies, 99)


PIPELINE = Scenario(
    "S5",
    "five stages",
    (
        Figure.alike("per message", "x", Bound(15.0, 8.0)),
        Figure.alike("latency p50", "RT", Bound(8.0, 3.0)),
        Figure.alike("latency p99", "RT", Bound(25.0, 9.0)),
    ),
    _pipeline,
)
