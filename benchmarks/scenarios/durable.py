"""S7: a hundred senders, one durable mailbox, acks written: with an SQLite file, at both levels.

The file lies in the folder for temporary files: at "power" the figure is its disk's as much as the engine's, so the fsync alone
is shown beside it, as a hundred senders share it.  Timed from the first send until everything is on disk, the acks too.
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter_ns
from typing import Final, Literal

import anyio

from benchmarks.harness import Bound, Figure, Scenario
from benchmarks.workload import Pair, scaled, started
from flowmesh import Mesh, SQLiteStore

__all__ = ["DURABLE"]

_MESSAGES: Final = 20_000
_SENDERS: Final = 100


async def _enqueue_and_ack(durability: Literal["power", "process"], count: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        mesh = Mesh("bench", store=SQLiteStore(Path(folder) / "bench.db", durability=durability))

        @mesh.actor(concurrency=_SENDERS)
        async def receive(body: Pair) -> None:
            del body

        each = max(1, count // _SENDERS)

        async def send() -> None:
            for number in range(each):
                await receive.tell(Pair(number, "text"))

        async with mesh:
            start = started()
            async with anyio.create_task_group() as senders:
                for _ in range(_SENDERS):
                    senders.start_soon(send)
            await mesh.idle()
            ended = perf_counter_ns()
    return (ended - start) / (each * _SENDERS)


def _fsync(times: int) -> float:
    """Return what one of a hundred senders pays for an fsync of 4 KiB that all of them wait for."""
    with tempfile.NamedTemporaryFile() as file:
        start = started()
        for _ in range(times):
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
        return (perf_counter_ns() - start) / times / _SENDERS


async def _durable(scale: float) -> Sequence[float]:
    count = scaled(_MESSAGES, scale)
    return (await _enqueue_and_ack("power", count), await _enqueue_and_ack("process", count), _fsync(scaled(200, scale)))


DURABLE = Scenario(
    "S7",
    "durable enqueue and ack, 100 senders",
    (
        Figure.alike("fsynced (power)", "x", Bound(30.0, 18.0)),
        Figure.alike("survives the process", "x", Bound(15.0, 8.0)),
        Figure("an fsync, shared by 100", "x"),
    ),
    _durable,
)
