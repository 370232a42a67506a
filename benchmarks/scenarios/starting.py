"""S7b: how soon a mesh whose store has a million messages handles the first one, and what it holds in memory by then.

The file is made once per process and size, by a mesh that publishes and handles nothing. Memory is what Python has allocated at
most between the start and the first message, as tracemalloc sees it, in a start of its own; SQLite's cache of pages, which is
bounded by itself, is not in it. Both figures must not depend on how many messages there are.
"""

import functools
import gc
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter_ns

import anyio

from benchmarks.harness import Bound, Figure, Scenario
from benchmarks.workload import Pair, scaled, started
from flowmesh import Actor, MailboxOptions, Mesh
from flowmesh.stores import SQLiteStore

__all__ = ["STARTING"]

_CHUNK = 1000


class _Store:
    """A file with that many messages, once it has been filled; gone with the process."""

    def __init__(self, messages: int) -> None:
        self.messages = messages
        self._folder = TemporaryDirectory(prefix="flowmesh-")
        self._is_filled = False

    async def filled(self) -> Path:
        path = Path(self._folder.name) / "shop.db"
        if not self._is_filled:
            mesh, receive, _ = _mesh_on(path)
            async with mesh:
                receive.pause()
                default = mesh.exchange("")
                for first in range(0, self.messages, _CHUNK):
                    numbers = range(first, min(first + _CHUNK, self.messages))
                    await default.publish_many([(Pair(number, "text"), receive.name) for number in numbers])
            self._is_filled = True
        return path


_store = functools.cache(_Store)


def _mesh_on(path: Path) -> tuple[Mesh, Actor[Pair, None], anyio.Event]:
    """Return a mesh whose only actor ends the measurement at its first message."""
    mesh = Mesh("bench", store=SQLiteStore(path, durability="process"), grace=0.0)
    is_handled = anyio.Event()

    async def receive(body: Pair) -> None:
        del body
        is_handled.set()

    return mesh, mesh.actor(receive, mailbox=MailboxOptions(capacity=1 << 30)), is_handled


async def _starting(scale: float) -> Sequence[float]:
    path = await _store(scaled(1_000_000, scale)).filled()
    mesh, _, is_handled = _mesh_on(path)
    start = started()
    async with mesh:
        await is_handled.wait()
        seconds = perf_counter_ns() - start
    return seconds, await _held(path)


async def _held(path: Path) -> float:
    """Return the bytes that a start allocates at most."""
    mesh, _, is_handled = _mesh_on(path)
    gc.collect()
    tracemalloc.start()
    try:
        async with mesh:
            await is_handled.wait()
            return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


STARTING = Scenario(
    "S7b",
    "start with a million stored messages",
    (
        Figure.alike("start to the first handled", "ms", Bound(gate=2000.0, goal=200.0)),
        Figure.alike("memory of a start", "B", Bound(gate=8e6, goal=4e6)),
    ),
    _starting,
)
