"""What lets the slots of an actor follow its load (Autoscale): a look every half of `target` seconds while there is a need.

Asleep, it has no timer: when the actor is at its fewest slots, has one free and nothing to look at, or may not run.  The
mailbox, and whoever opens the actor, wakes it.  Only copies that could run now if there were a slot count as waiting: not
those that a gate holds, nor those whose lane is busy.
"""

from collections.abc import Callable

from flowmesh._core.autoscale import LOOKS, next_width
from flowmesh._core.entry import Entry, State
from flowmesh._core.timers import Timer
from flowmesh._runtime.cell import Cell
from flowmesh._runtime.ground import Ground
from flowmesh.message import Message
from flowmesh.policies import Autoscale

__all__ = ["Scaler"]


class Scaler:
    """One actor's. `open` lets the scheduler serve it, after slots were added."""

    def __init__(self, ground: Ground, cell: Cell, policy: Autoscale, open: Callable[[Cell], None]) -> None:
        self._ground = ground
        self._cell = cell
        self._policy = policy
        self._open = open
        self._timer: Timer | None = None
        self._idle_looks = 0
        self.changes = 0

    def reset(self) -> None:
        """Begin at the fewest slots: the mesh starts."""
        self._timer = None
        self._idle_looks = self.changes = 0
        self._set(self._policy.min)

    def wake(self) -> None:
        """Look again in a while, if that is not planned already."""
        if self._timer is None or not self._timer.is_set:
            due = self._ground.now() + self._policy.target / LOOKS
            self._timer = self._ground.ledger.timers.set(due, self._look)

    def _look(self, now: float) -> None:
        self._timer = None
        cell = self._cell
        if cell.closed:
            return
        waited = self._waited(now)
        self._idle_looks = 0 if waited is not None or cell.running >= cell.width else self._idle_looks + 1
        width = next_width(self._policy, cell.width, waited=waited, running=cell.running, idle_looks=self._idle_looks)
        if width != cell.width:
            before, self._idle_looks = cell.width, 0
            self.changes += 1
            self._set(width)
            self._ground.log.info(
                "actor %r: %d slots instead of %d (%s)",
                cell.name,
                width,
                before,
                "nothing to do" if waited is None else f"a message has waited {waited:.3g} s",
            )
            if width > before:
                self._open(cell)
        if waited is not None or cell.running >= cell.width or cell.width > self._policy.min:
            self.wake()

    def _set(self, width: int) -> None:
        cell = self._cell
        cell.set_width(width)
        if cell.gates is not None:
            self._ground.ledger.admission.set_slots(cell.box, cell.gates, width, self._ground.now())

    def _waited(self, now: float) -> float | None:
        """Return how long the first copy in line has waited, None if there is none."""
        box = self._cell.box
        if box.heap:
            item: Entry | Message = box.heap[0][2]
        elif box.fresh:
            item = box.fresh[0]
        else:
            return None
        if isinstance(item, Entry):
            return now - item.since if item.state is State.READY else 0.0
        return now + self._ground.wall_offset - item.timestamp
