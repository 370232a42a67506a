"""S10: one producer tells actors chosen at random among ten thousand."""

from collections.abc import Sequence
from random import Random

from benchmarks.harness import Bound, Figure, Scenario
from benchmarks.workload import Countdown, Pair, scaled, started
from flowmesh import Mesh

__all__ = ["MANY_ACTORS"]


async def _many_actors(scale: float) -> Sequence[float]:
    count = scaled(100_000, scale)
    countdown = Countdown(count)
    mesh = Mesh("bench")

    async def receive(body: Pair) -> None:
        del body
        countdown.left -= 1
        if not countdown.left:
            countdown.end()

    actors = [mesh.actor(receive, name=f"actor-{number}") for number in range(scaled(10_000, scale))]
    chosen = Random(10).choices(actors, k=count)
    async with mesh:
        start = started()
        for number, actor in enumerate(chosen):
            await actor.tell(Pair(number, "text"))
        await countdown.wait()
    return ((countdown.ended - start) / count,)


MANY_ACTORS = Scenario("S10", "random over ten thousand actors", (Figure.alike("tell", "x", Bound(5.0, 3.0)),), _many_actors)
