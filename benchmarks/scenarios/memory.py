"""S8: what an idle actor and a queued message weigh.

Measured with tracemalloc: the bytes of all blocks that Python allocated for so many of them, divided by their number.  An idle
actor has a name of its own and one binding, and its mesh runs; what the tables that they stand in grew by is included, the
handler's function, shared by all, is not, nor what the engine knows about it.  A queued message is a `tell` to a paused actor;
its body is included.  The figures are bytes, not ratios, and have nothing to do with the speed of the machine.
"""

import gc
import tracemalloc
from collections.abc import Sequence

from benchmarks.harness import Bound, Figure, Scenario
from benchmarks.workload import Pair, scaled
from flowmesh import MailboxOptions, Mesh

__all__ = ["MEMORY"]


async def _receive(body: Pair) -> None:
    del body


async def _memory(scale: float) -> Sequence[float]:
    actors, messages = scaled(10_000, scale), scaled(100_000, scale)
    mesh = Mesh("bench")
    orders = mesh.exchange("orders", "topic")
    async with mesh:
        full = mesh.actor(_receive, name="full", mailbox=MailboxOptions(capacity=messages), bind=orders.on("full"))
        full.pause()
        names = [f"actor-{number}" for number in range(actors)]  # a user's own names are not the engine's
        numbers = list(range(messages))
        tracemalloc.start()
        try:
            empty = _held()
            kept = [mesh.actor(_receive, name=name, bind=orders.on(name)) for name in names]
            declared = _held()
            for number in numbers:
                await full.tell(Pair(number, "text"))
            queued = _held()
        finally:
            tracemalloc.stop()
        full.mailbox.purge()
    return (declared - empty) / len(kept), (queued - declared) / messages


def _held() -> int:
    """Return the bytes that are allocated now, garbage aside."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


MEMORY = Scenario(
    "S8",
    "memory",
    (
        Figure.alike("idle actor, name and binding", "B", Bound(gate=1000.0, goal=400.0)),
        Figure.alike("queued message", "B", Bound(gate=260.0, goal=160.0)),
    ),
    _memory,
)
