"""What one would use instead, measured the same way: one task sends, another receives; then requests and answers.

The buffers hold as many items as a mailbox does.  None of these routes, checks, counts, retries or keeps a message until its
handler has succeeded.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter_ns

import anyio
import anyio.lowlevel
import trio

from benchmarks.harness import BOTH, Figure, Scenario
from benchmarks.workload import CAPACITY, Pair, scaled, started

__all__ = ["PEERS"]

_FIGURES = (Figure("one way", "x"), Figure("round trip", "RT"))

Put = Callable[[Pair], Awaitable[object]]
Get = Callable[[], Awaitable[Pair]]
Close = Callable[[], None]
Pipe = Callable[[float], tuple[Put, Get, Close]]
"""Makes a pipe of that capacity between two tasks; returns its two ends and what closes both."""


async def _one_way(pipe: Pipe, count: int) -> float:
    put, get, close = pipe(CAPACITY)
    start = ended = 0

    async def receive() -> None:
        nonlocal ended
        for _ in range(count):
            await get()
        ended = perf_counter_ns()

    async with anyio.create_task_group() as group:
        group.start_soon(receive)
        await anyio.lowlevel.checkpoint()
        start = started()
        for number in range(count):
            await put(Pair(number, "text"))
    close()
    return (ended - start) / count


async def _round_trip(pipe: Pipe, count: int) -> float:
    put_request, get_request, close_requests = pipe(math.inf)
    put_answer, get_answer, close_answers = pipe(math.inf)
    start = ended = 0

    async def answer() -> None:
        for _ in range(count):
            await put_answer(await get_request())

    async with anyio.create_task_group() as group:
        group.start_soon(answer)
        await anyio.lowlevel.checkpoint()
        start = started()
        for number in range(count):
            await put_request(Pair(number, "text"))
            await get_answer()
        ended = perf_counter_ns()
    close_requests()
    close_answers()
    return (ended - start) / count


def _measured(pipe: Pipe) -> Callable[[float], Awaitable[Sequence[float]]]:
    async def run(scale: float) -> Sequence[float]:
        return await _one_way(pipe, scaled(100_000, scale)), await _round_trip(pipe, scaled(10_000, scale))

    return run


def _queue(capacity: float) -> tuple[Put, Get, Close]:
    queue: asyncio.Queue[Pair] = asyncio.Queue(0 if math.isinf(capacity) else int(capacity))
    return queue.put, queue.get, _nothing


def _stream(capacity: float) -> tuple[Put, Get, Close]:
    send, receive = anyio.create_memory_object_stream[Pair](capacity)
    return send.send, receive.receive, _both(send.close, receive.close)


def _channel(capacity: float) -> tuple[Put, Get, Close]:
    send, receive = trio.open_memory_channel[Pair](capacity)
    return send.send, receive.receive, _both(send.close, receive.close)


def _both(first: Close, second: Close) -> Close:
    def close() -> None:
        first()
        second()

    return close


def _nothing() -> None:
    return None


PEERS = (
    Scenario("queue", "asyncio.Queue between two tasks", _FIGURES, _measured(_queue), ("asyncio",)),
    Scenario("stream", "anyio memory object stream between two tasks", _FIGURES, _measured(_stream), BOTH),
    Scenario("channel", "trio memory channel between two tasks", _FIGURES, _measured(_channel), ("trio",)),
)
