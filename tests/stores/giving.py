"""Give batches to a store and wait for what it says, on either backend or none."""

from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from typing import Final

import anyio.to_thread

from flowmesh._core.records import Batch, Row, Trial, line_of, number_of
from flowmesh.errors import StoreError
from flowmesh.stores import MemoryStore, SQLiteStore

__all__ = ["EVERYTHING", "LINE", "OTHER", "AnyStore", "batch_of", "copy", "give", "give_now", "read", "read_now"]

AnyStore = MemoryStore | SQLiteStore

LINE: Final = line_of(1, 0)
OTHER: Final = line_of(2, 0)
EVERYTHING: Final = (0, (1 << 63) - 1)
PATIENCE: Final = 30.0


def copy(place: int, *, line: int = LINE, body: bytes | None = None) -> tuple[int, bytes]:
    """Return a copy to put: its number, and a record that tells which it is."""
    return number_of(line, place), f"record {line}/{place}".encode() if body is None else body


def batch_of(
    *puts: tuple[int, bytes],
    drops: Iterable[int] = (),
    trials: Iterable[tuple[int, Trial]] = (),
    marks: Mapping[int, int] | None = None,
    sweeps: Iterable[tuple[int, int]] = (),
    timers: Iterable[tuple[int, bytes | None]] = (),
    kept: Iterable[tuple[str, str, bytes | None]] = (),
    mailboxes: Iterable[tuple[int, str | None]] = (),
) -> tuple[Batch, Future[StoreError | None]]:
    """Return a batch, and what will hold what its `done` is called with."""
    said: Future[StoreError | None] = Future()
    batch = Batch(said.set_result)
    batch.puts.extend(puts)
    batch.drops.extend(drops)
    batch.trials.extend(trials)
    batch.marks.update(marks or {})
    batch.sweeps.extend(sweeps)
    batch.timers.extend(timers)
    batch.kept.extend(kept)
    batch.mailboxes.extend(mailboxes)
    return batch, said


async def give(store: AnyStore, *puts: tuple[int, bytes], **changes: object) -> StoreError | None:
    """Append one batch and return what was said of it."""
    batch, said = batch_of(*puts, **changes)  # pyright: ignore[reportArgumentType] - checked by batch_of
    store.append(batch)
    return await anyio.to_thread.run_sync(said.result, PATIENCE)


async def read(store: AnyStore, first: int = EVERYTHING[0], last: int = EVERYTHING[1], *, limit: int = 1000) -> list[Row]:
    """Read copies; what could not be read is raised."""
    said: Future[list[Row] | StoreError] = Future()
    store.read(first, last, limit=limit, done=said.set_result)
    rows = await anyio.to_thread.run_sync(said.result, PATIENCE)
    if isinstance(rows, StoreError):
        raise rows
    return rows


def give_now(store: SQLiteStore, *puts: tuple[int, bytes], **changes: object) -> StoreError | None:
    """As `give`, without an event loop."""
    batch, said = batch_of(*puts, **changes)  # pyright: ignore[reportArgumentType] - checked by batch_of
    store.append(batch)
    return said.result(PATIENCE)


def read_now(store: SQLiteStore, first: int = EVERYTHING[0], last: int = EVERYTHING[1], *, limit: int = 1000) -> list[Row]:
    """As `read`, without an event loop."""
    said: Future[list[Row] | StoreError] = Future()
    store.read(first, last, limit=limit, done=said.set_result)
    rows = said.result(PATIENCE)
    if isinstance(rows, StoreError):
        raise rows
    return rows
