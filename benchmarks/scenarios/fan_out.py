"""S3: a fanout exchange with ten actors; the figure is the cost of one delivery, not of one publish."""

from collections.abc import Sequence

from benchmarks.harness import Bound, Figure, Scenario
from benchmarks.workload import Countdown, Pair, scaled, started
from flowmesh import Mesh

__all__ = ["FAN_OUT"]

_ACTORS = 10


async def _fan_out(scale: float) -> Sequence[float]:
    count = scaled(20_000, scale)
    countdown = Countdown(count * _ACTORS)
    mesh = Mesh("bench")
    everyone = mesh.exchange("everyone", "fanout")

    async def receive(body: Pair) -> None:
        del body
        countdown.left -= 1
        if not countdown.left:
            countdown.end()

    for number in range(_ACTORS):
        everyone.bind(mesh.actor(receive, name=f"receiver-{number}"))
    async with mesh:
        start = started()
        for number in range(count):
            await everyone.publish(Pair(number, "text"))
        await countdown.wait()
    return ((countdown.ended - start) / (count * _ACTORS),)


FAN_OUT = Scenario("S3", "fan-out to ten actors", (Figure.alike("per delivery", "x", Bound(2.0, 0.9)),), _fan_out)
