"""The two references of PERFORMANCE.md, always measured on asyncio, in this process, right before what is compared with them.

x   one `asyncio.Queue` put and get in one task
RT  a round trip between two tasks over two `asyncio.Queue`s
ms  a millisecond, for the few figures that are times and not costs
B   a byte, for those that are neither
"""

import asyncio
from time import perf_counter_ns
from typing import Literal, assert_never

from benchmarks.workload import scaled, started

__all__ = ["Unit", "measure_reference", "put_and_get", "round_trip"]

Unit = Literal["x", "RT", "ms", "B"]


async def put_and_get(count: int) -> float:
    """Return the nanoseconds of one put and get."""
    queue: asyncio.Queue[int] = asyncio.Queue()
    start = started()
    for number in range(count):
        await queue.put(number)
        await queue.get()
    return (perf_counter_ns() - start) / count


async def round_trip(count: int) -> float:
    """Return the nanoseconds of one request and its answer."""
    requests: asyncio.Queue[int] = asyncio.Queue()
    answers: asyncio.Queue[int] = asyncio.Queue()

    async def answer() -> None:
        for _ in range(count):
            await answers.put(await requests.get())

    async with asyncio.TaskGroup() as group:
        group.create_task(answer())
        await asyncio.sleep(0)
        start = started()
        for number in range(count):
            await requests.put(number)
            await answers.get()
        end = perf_counter_ns()
    return (end - start) / count


def measure_reference(unit: Unit, *, scale: float = 1.0) -> float:
    """Return the nanoseconds (bytes, for B) of one `unit`. Runs an event loop of its own: not from inside one."""
    match unit:
        case "x":
            return asyncio.run(put_and_get(scaled(100_000, scale)))
        case "RT":
            return asyncio.run(round_trip(scaled(10_000, scale)))
        case "ms":
            return 1e6
        case "B":
            return 1.0
        case _:
            assert_never(unit)
