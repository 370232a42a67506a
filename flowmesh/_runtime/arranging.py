"""Arranging: what decides orders that the mesh promises nobody.

Which of the ready actors is next, which idle worker is woken, and when a woken task goes on, are the mesh's own choice: first
come, first served, unless the context that starts it has an arrangement.  Asked once per start, for containers that choose;
a mesh without one has plain containers, and no message meets a question.
"""

import contextvars
from collections import deque
from typing import Protocol

from flowmesh._runtime.cell import Cell
from flowmesh._runtime.ground import Ground
from flowmesh._runtime.parking import Parking
from flowmesh._runtime.worker import Worker

__all__ = ["Arrangement", "arrangement"]


class Arrangement(Protocol):
    """Makes, for one run of a mesh, what is otherwise left to chance. Adapters: `flowmesh.testing.explore`."""

    def parking(self, parking: Parking) -> Parking:
        """Return what parks and wakes on behalf of the backend's own parking; a wake-up may take its time, but none is lost."""
        ...

    def ready(self, ground: Ground) -> deque[Cell]:
        """Return the ready queue: what `popleft` takes of it is next."""
        ...

    def parked(self) -> list[Worker]:
        """Return the stack of idle workers: what `pop` takes of it is woken."""
        ...

    def prefix(self) -> str:
        """Return what the ids of messages begin with; another one each time."""
        ...

    def workers(self) -> set[Worker]:
        """Return the set of workers, which is iterated when all their handlers are cancelled."""
        ...


arrangement: contextvars.ContextVar[Arrangement | None] = contextvars.ContextVar("flowmesh.arrangement", default=None)
"""What arranges the meshes that are started in this context."""
