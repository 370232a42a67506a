"""S6: deferred tells that fall due at random within the second after their call.

The cost is CPU time of the process, from the first call to the last handled message: waiting for a due time costs nothing.
Lateness is taken on every tenth message, so that taking it hardly shows in the cost.

Schedule and cancel is measured on the wheel itself, as one measures a loop's `call_at` and `cancel`: so many timers are set for
random times within a second, and then cancelled. What the same costs who defers a message and cancels it by its id is shown
beside it.
"""

from collections.abc import Sequence
from random import Random
from time import perf_counter_ns, process_time_ns

from msgspec import Struct

from benchmarks.harness import Bound, Figure, Scenario
from benchmarks.workload import Countdown, percentile, scaled, started
from flowmesh import Actor, Mesh
from flowmesh._core.timers import Timers

__all__ = ["DEFERRED"]

_SAMPLED = 10


class Due(Struct, frozen=True, gc=False):
    """The payload. `nanoseconds`: when it is due on the performance counter; 0 where lateness is not taken."""

    number: int
    nanoseconds: int


async def _deferred(scale: float) -> Sequence[float]:
    count = scaled(100_000, scale)
    chance = Random(6)
    delays = [chance.random() for _ in range(count)]
    countdown = Countdown(count, clock=process_time_ns)
    lateness: list[int] = []
    mesh = Mesh("bench")

    @mesh.actor
    async def receive(body: Due) -> None:
        if body.nanoseconds:
            lateness.append(perf_counter_ns() - body.nanoseconds)
        countdown.left -= 1
        if not countdown.left:
            countdown.end()

    async with mesh:
        start = started(process_time_ns)
        for number, delay in enumerate(delays):
            due = 0 if number % _SAMPLED else perf_counter_ns() + round(delay * 1e9)
            await receive.tell(Due(number, due), delay=delay)
        await countdown.wait()
        by_id = await _tell_and_cancel(mesh, receive, delays)
    return (countdown.ended - start) / count, percentile(lateness, 99), _set_and_cancel(delays), by_id


def _set_and_cancel(delays: Sequence[float]) -> float:
    timers = Timers()
    start = started()
    waiting = [timers.set(delay, None) for delay in delays]
    for timer in waiting:
        timers.cancel(timer)
    return (perf_counter_ns() - start) / len(delays)


async def _tell_and_cancel(mesh: Mesh, receive: Actor[Due, None], delays: Sequence[float]) -> float:
    start = started()
    waiting = [await receive.tell(Due(0, 0), delay=3600 + delay) for delay in delays]
    for receipt in waiting:
        mesh.timers.cancel(receipt.timer)
    return (perf_counter_ns() - start) / len(delays)


DEFERRED = Scenario(
    "S6",
    "deferred tells due within a second",
    (
        Figure.alike("CPU, call to handled", "x", Bound(gate=6.0, goal=3.5)),
        Figure.alike("lateness p99", "ms", Bound(gate=10.0, goal=3.0)),
        Figure.alike("schedule + cancel alone", "x", Bound(gate=2.0, goal=0.8)),
        Figure("tell, then cancel by id", "x"),
    ),
    _deferred,
)
