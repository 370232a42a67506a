"""S2: one task asks and waits for each reply before it asks again."""

from collections.abc import Sequence
from time import perf_counter_ns

from benchmarks.harness import Bound, Figure, Scenario
from benchmarks.workload import Pair, scaled, started
from flowmesh import Mesh

__all__ = ["ASKING"]


async def _ask(scale: float) -> Sequence[float]:
    count = scaled(20_000, scale)
    mesh = Mesh("bench")

    @mesh.actor
    async def answer(body: Pair) -> int:
        return body.number

    async with mesh:
        start = started()
        for number in range(count):
            await answer.ask(Pair(number, "text"))
        ended = perf_counter_ns()
    return ((ended - start) / count,)


ASKING = Scenario(
    "S2",
    "ask round trip, default time limit",
    (Figure("ask", "RT", {"asyncio": Bound(1.6, 1.0), "trio": Bound(2.2, 1.35)}),),
    _ask,
)
