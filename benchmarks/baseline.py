"""What primitives cost on this machine: the yardstick for "can the engine afford one of these per message?".

Each is run in a tight loop, five times; the smallest figure counts, less what the empty loop costs.  An estimate of costs,
not a benchmark of the engine.
"""

import asyncio
import heapq
import itertools
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Final

import anyio
import anyio.lowlevel
import anyio.to_thread
import trio
from msgspec import Struct

from benchmarks.report import table
from benchmarks.workload import Pair, started

__all__ = ["show_baseline"]

_SYNC_TURNS: Final = 200_000
_ASYNC_TURNS: Final = 5_000
_ATTEMPTS: Final = 5

Loop = Callable[[int], None]
AsyncLoop = Callable[[int], Awaitable[None]]


class _Collected(Struct):
    number: int
    text: str


@dataclass
class _Plain:
    number: int
    text: str


_VARIABLE: ContextVar[int] = ContextVar("_VARIABLE")


async def _handler(body: object) -> None:
    del body


def _empty(count: int) -> None:
    for _ in range(count):
        pass


def _struct(count: int) -> None:
    for number in range(count):
        Pair(number, "text")


def _struct_collected(count: int) -> None:
    for number in range(count):
        _Collected(number, "text")


def _dataclass(count: int) -> None:
    for number in range(count):
        _Plain(number, "text")


def _dict_hit(count: int) -> None:
    found = {str(number): number for number in range(1000)}
    for _ in range(count):
        found["500"]


def _deque(count: int) -> None:
    items: deque[int] = deque()
    for number in range(count):
        items.append(number)
        items.popleft()


def _try(count: int) -> None:
    for number in range(count):
        try:
            abs(number)
        except ValueError:
            break


def _monotonic(count: int) -> None:
    for _ in range(count):
        time.monotonic()


def _variable(count: int) -> None:
    for number in range(count):
        _VARIABLE.reset(_VARIABLE.set(number))


def _compare_contexts(count: int) -> None:
    clean = copy_context()
    for _ in range(count):
        if copy_context() != clean:
            break


def _run_in_context(count: int) -> None:
    run = copy_context().run
    for number in range(count):
        run(abs, number)


def _counter(count: int) -> None:
    serials = itertools.count()
    for _ in range(count):
        next(serials)


def _counter_text(count: int) -> None:
    serials = itertools.count()
    for _ in range(count):
        f"0123456789ab-{next(serials)}"


def _uuid(count: int) -> None:
    for _ in range(count):
        uuid.uuid4()


def _heap(count: int) -> None:
    heap = [(number * 7919 % 10_007, number) for number in range(10_000)]
    heapq.heapify(heap)
    for number in range(count):
        heapq.heappush(heap, (number * 7919 % 10_007, number))
        heapq.heappop(heap)


async def _await_handler(count: int) -> None:
    for number in range(count):
        await _handler(number)


async def _asyncio_turn(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def _trio_turn(count: int) -> None:
    for _ in range(count):
        await trio.lowlevel.checkpoint()


async def _anyio_turn(count: int) -> None:
    for _ in range(count):
        await anyio.lowlevel.checkpoint()


async def _move_on_after(count: int) -> None:
    for _ in range(count):
        with anyio.move_on_after(60):  # noqa: ASYNC100 - the empty scope is what is measured
            pass


async def _event(count: int) -> None:
    for _ in range(count):
        anyio.Event().set()


async def _lock(count: int) -> None:
    lock = anyio.Lock()
    for _ in range(count):
        async with lock:
            pass


async def _task_group(count: int) -> None:
    for _ in range(count):
        async with anyio.create_task_group():
            pass


async def _task(count: int) -> None:
    async with anyio.create_task_group() as group:
        for number in range(count):
            group.start_soon(_handler, number)
            if number % 100 == 99:
                await anyio.lowlevel.checkpoint()


async def _thread_hop(count: int) -> None:
    for number in range(count):
        await anyio.to_thread.run_sync(abs, number)


# name, (backend,) loop, the published figure in µs, and by how much to divide the number of turns for the slow ones
_SYNC: Final[tuple[tuple[str, Loop, str, int], ...]] = (
    ("Struct(gc=False)", _struct, "0.04", 1),
    ("Struct", _struct_collected, "", 1),
    ("dataclass", _dataclass, "0.14", 1),
    ("dict hit", _dict_hit, "0.02", 1),
    ("deque append + popleft", _deque, "0.03", 1),
    ("try/except around a call", _try, "0.02", 1),
    ("time.monotonic", _monotonic, "0.04", 1),
    ("ContextVar set + reset", _variable, "0.11", 1),
    ("copy_context() == clean", _compare_contexts, "0.02", 1),
    ("Context.run", _run_in_context, "", 1),
    ("counter id", _counter, "0.03", 1),
    ("prefix + counter as text", _counter_text, "0.11", 1),
    ("uuid4", _uuid, "1.3", 10),
    ("heap push + pop at 10,000", _heap, "0.29", 1),
)

_ASYNC: Final[tuple[tuple[str, str, AsyncLoop, str, int], ...]] = (
    ("await a handler that does not suspend", "asyncio", _await_handler, "0.08", 1),
    ("loop turn, native", "asyncio", _asyncio_turn, "1.8", 1),
    ("loop turn, native", "trio", _trio_turn, "3.2", 1),
    ("loop turn, anyio", "asyncio", _anyio_turn, "2.6", 1),
    ("loop turn, anyio", "trio", _anyio_turn, "3.8", 1),
    ("move_on_after", "asyncio", _move_on_after, "4.3", 1),
    ("move_on_after", "trio", _move_on_after, "6.8", 1),
    ("anyio.Event create + set", "asyncio", _event, "1.0", 1),
    ("anyio.Event create + set", "trio", _event, "1.0", 1),
    ("anyio.Lock", "asyncio", _lock, "5", 1),
    ("anyio.Lock", "trio", _lock, "5", 1),
    ("task group", "asyncio", _task_group, "8–12", 1),
    ("task group", "trio", _task_group, "8–12", 1),
    ("task per message, anyio", "asyncio", _task, "13.4", 1),
    ("task per message, anyio", "trio", _task, "", 1),
    ("thread hop", "asyncio", _thread_hop, "30–47", 10),
    ("thread hop", "trio", _thread_hop, "30–47", 10),
)


def show_baseline(*, scale: float = 1.0) -> str:
    """Measure all primitives and return the table, in microseconds."""
    turns, async_turns = max(100, round(_SYNC_TURNS * scale)), max(100, round(_ASYNC_TURNS * scale))
    loop = _best(_empty, turns)
    lines = [("an empty loop turn", "", f"{loop / 1000:.3f}", "")]
    for name, run, known, fewer in _SYNC:
        lines.append((name, "", f"{max(0.0, _best(run, turns // fewer) - loop) / 1000:.3f}", known))
    for name, backend, run, known, fewer in _ASYNC:
        cost = anyio.run(_best_async, run, async_turns // fewer, backend=backend)
        lines.append((name, backend, f"{max(0.0, cost - loop) / 1000:.3f}", known))
    return table(("primitive", "backend", "µs here", "µs published"), lines)


def _best(run: Loop, count: int) -> float:
    readings: list[float] = []
    for _ in range(_ATTEMPTS):
        start = started()
        run(count)
        readings.append((perf_counter_ns() - start) / count)
    return min(readings)


async def _best_async(run: AsyncLoop, count: int) -> float:
    readings: list[float] = []
    for _ in range(_ATTEMPTS):
        start = started()
        await run(count)
        readings.append((perf_counter_ns() - start) / count)
    return min(readings)
