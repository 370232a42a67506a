"""Processes that die: what a store had when a process was killed, for the next one to open."""

import copy
from collections.abc import Callable

from flowmesh._core.records import Batch
from flowmesh.errors import StoreFull
from flowmesh.stores import MemoryStore

__all__ = ["DyingStore", "FullStore", "Killed", "killed"]


class Killed(Exception):
    """The process has been killed."""


def killed(store: MemoryStore) -> MemoryStore:
    """Return the store as the next process finds it if this one is killed now; what this one still does is lost."""
    survivor = MemoryStore()
    survivor._rows = copy.deepcopy(store._rows)
    return survivor


class DyingStore(MemoryStore):
    """A store whose process is killed when it is given its so-and-so-many-th batch: that and all later ones are lost.

    `survivor`: what is left once that has happened. `on_death`: called then.
    """

    def __init__(self, of: MemoryStore, dies_at: int) -> None:
        super().__init__()
        self._rows = of._rows
        self.left = dies_at
        self.survivor: MemoryStore | None = None
        self.on_death: Callable[[], None] = lambda: None

    def append(self, batch: Batch, /) -> None:
        """Write it, unless this is the end."""
        self.left -= 1
        if self.left == 0:
            self.survivor = killed(self)
            self.on_death()
        super().append(batch)


class FullStore(MemoryStore):
    """A store that has no room while `is_full`: it refuses what grows, and takes the rest."""

    is_full = False

    def append(self, batch: Batch, /) -> None:
        """Write it, or say that there is no room."""
        if self.is_full and batch.grows:
            done = batch.done
            refusal = Batch(lambda _error: done(StoreFull("no room")))
            refusal.drops.append(0)
            batch = refusal
        super().append(batch)
