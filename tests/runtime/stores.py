"""Stores that tests of the runtime plant: one whose end can be had at any moment, and one that fails when it is told to."""

import copy
from collections.abc import Callable, Generator
from contextlib import contextmanager

from flowmesh import Mesh
from flowmesh._core.records import Batch, Row
from flowmesh._runtime.engine import Engine
from flowmesh.errors import StoreError, StoreFull
from flowmesh.stores import MemoryStore

__all__ = ["Planted", "engine_of", "full"]


class Planted(MemoryStore):
    """A MemoryStore that refuses what `refuses` says, and of which an image can be taken: what a crash would leave.

    `batches`: what it was given. `is_held`: nothing is carried out until `let_go`.
    """

    def __init__(self, *, refuses: Callable[[Batch], StoreError | None] | None = None) -> None:
        super().__init__(durability="process")
        self.refuses = refuses
        self.batches: list[Batch] = []
        self.broken: StoreError | None = None
        self.is_held = False
        self._held: list[Callable[[], None]] = []

    def append(self, batch: Batch, /) -> None:
        """Write a batch, unless it is refused; an error other than StoreFull breaks the store."""
        self.batches.append(batch)
        if self.is_held:
            self._held.append(lambda: self._append(batch))
        else:
            self._append(batch)

    def _append(self, batch: Batch) -> None:
        error = self.broken
        if error is None and batch.after is not None and batch.after.refused is not None:
            error = full()
        if error is None and self.refuses is not None:
            error = self.refuses(batch)
        if error is None:
            super().append(batch)
            return
        if not isinstance(error, StoreFull):
            self.broken = error
        batch.refused = error
        refused = Batch(lambda _: batch.done(error))  # In its turn among the others.
        super().append(refused)

    def read(self, first: int, last: int, /, *, limit: int, done: Callable[[list[Row] | StoreError], None]) -> None:
        """Read, in its turn among the batches."""
        if self.is_held:
            self._held.append(lambda: MemoryStore.read(self, first, last, limit=limit, done=done))
        else:
            super().read(first, last, limit=limit, done=done)

    @contextmanager
    def holding(self) -> Generator[None]:
        """Carry out nothing within this block, and everything at its end."""
        self.is_held = True
        try:
            yield
        finally:
            self.let_go()

    def let_go(self) -> None:
        """Carry out what has been held, and hold no more."""
        self.is_held = False
        held, self._held = self._held, []
        for action in held:
            action()

    def image(self) -> "Planted":
        """Return a store with what is in this one at this moment: what is left if the process dies now."""
        left = Planted()
        left._rows = copy.deepcopy(self._rows)
        return left

    def open(self):
        """Open it anew, mended."""
        self.broken = None
        return super().open()


def full() -> StoreFull:
    """Return the error of a full disk."""
    return StoreFull("the disk is full")


def engine_of(mesh: Mesh) -> Engine:
    """Return what a mesh hides."""
    return mesh._engine
