"""S6: deferred tells that fall due at random within the second after their call.

The cost is CPU time of the process, from the first call to the last handled message: waiting for a due time costs nothing.
Lateness is taken on every tenth message, so that taking it hardly shows in the cost.
"""

from collections.abc import Sequence
from random import Random
from time import perf_counter_ns, process_time_ns

from msgspec import Struct

from benchmarks.harness import Bound, Figure, Scenario
from benchmarks.workload import Countdown, percentile, scaled, started
from flowmesh import Mesh

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
    return (countdown.ended - start) / count, percentile(lateness, 99)


DEFERRED = Scenario(
    "S6",
    "deferred tells due within a second",
    (
        Figure.alike("CPU, call to handled", "x", Bound(goal=3.5)),
        Figure.alike("lateness p99", "ms", Bound(goal=3.0)),
    ),
    _deferred,
)
