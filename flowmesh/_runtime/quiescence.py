"""Quiescence: whether anything is under way, and waiting for it to end (DESIGN 5, Idle).

Read in O(1) from counters: the scheduler's ready queue and workers, leases of manual consumers, parked senders, what is on its
way to the store, waiting retries, and the actors that are held or not ready yet.  Whoever changes one of them to its resting
value calls `look`.
"""

import math
from collections.abc import Callable

import anyio

from flowmesh._core.commits import Release
from flowmesh._core.mailbox import Mailbox
from flowmesh._runtime.cell import Cell
from flowmesh._runtime.ground import Ground, Phase
from flowmesh._runtime.instance import Acting
from flowmesh._runtime.parking import Waiter
from flowmesh._runtime.room import Room
from flowmesh._runtime.scheduler import Scheduler
from flowmesh._runtime.worker import turn_here
from flowmesh.errors import DeadlockError, MeshStopped

__all__ = ["Quiescence"]


class Quiescence:
    """Knows when a mesh has come to rest, and who waits for that."""

    def __init__(self, ground: Ground, scheduler: Scheduler, room: Room) -> None:
        self._ground = ground
        self._scheduler = scheduler
        self._room = room
        self._idlers: list[Waiter] = []
        self._ended_idle = False
        self.entering: set[Acting] = set()  # class actors whose instance is being made
        self.resting: set[Cell] = set()  # actors that are left alone for a while
        ground.look_idle = self.look

    @property
    def is_idle(self) -> bool:
        """Nothing is under way, retries and what gates hold included."""
        ledger = self._ground.ledger
        if not self._is_quiet or self._gates_hold(None):
            return False
        return not ledger.delayed or (_is_closed(ledger.dead_letters) and not self._has_retries(math.inf))

    @property
    def _is_quiet(self) -> bool:
        ground = self._ground
        return (
            self._scheduler.is_quiet
            and not ground.leases
            and not ground.parked_senders
            and not ground.storing
            and not any(
                cell.box.ready and not (cell.paused or cell.stopped or cell.standby or _is_closed(cell.box))
                for cell in (*self._room.held, *self.entering, *self.resting)
            )
            and not any(  # What gates hold is looked at where that is asked for.
                cell.box.ready > len(cell.box.held) and not (cell.paused or cell.stopped or cell.standby)
                for cell in self._scheduler.gathering
            )
        )

    def is_drained(self, deadline: float) -> bool:
        """Nothing is under way that could end before the deadline."""
        if not self._is_quiet:
            return False
        if self._gates_hold(deadline):
            return False
        return not (self._ground.ledger.delayed and self._has_retries(deadline))

    def _has_retries(self, deadline: float) -> bool:
        """A copy waits for its retry, which comes by then, and will be handed out."""
        releases = ((timer.action, timer.due) for timer in self._ground.ledger.timers if isinstance(timer.action, Release))
        return any(due <= deadline and not _is_closed(release.mailbox) for release, due in releases)

    def _gates_hold(self, deadline: float | None) -> bool:
        """A gate of an actor that is not paused holds something: that may go before the deadline, or at all."""
        admission = self._ground.ledger.admission
        for box in tuple(admission.holding):
            if not box.held:
                admission.holding.discard(box)
            elif all(cell.paused for cell in self._scheduler.consumers_of(box)):
                continue
            elif deadline is None or admission.frees_by(box, deadline):
                return True
        return False

    def note_end(self) -> None:
        """Note whether the mesh is at rest now that it stops handing out: what `idle` says from then on."""
        self._ended_idle = self.is_idle

    async def idle(self) -> None:
        """Wait until nothing is under way.

        Cancellation: leaves nothing behind.

        Raises:
            DeadlockError: called from a turn, which would wait for itself.
            NotRunning: the mesh has not been started.
            MeshStopped: it has stopped, with something under way.
        """
        ground = self._ground
        turn = turn_here(ground)
        if turn is not None:
            name = "?" if turn.cell is None else turn.cell.name
            raise DeadlockError(
                f"actor {name!r} would wait for its own turn to end: await mesh.idle() from a source or from outside",
                ring=(name, name),
            )
        if ground.phase in (Phase.NEW, Phase.STARTING):
            raise ground.not_running("await mesh.idle() inside 'async with mesh'")
        if ground.phase is not Phase.STOPPED:
            await self.until(lambda: self.is_idle or ground.phase is Phase.STOPPED)
            if self._ended_idle or not self._scheduler.stopping:
                return
        raise MeshStopped(f"mesh {ground.name!r} has stopped: nothing runs that could come to rest") from ground.cause

    async def until(self, is_over: Callable[[], bool]) -> None:
        """Wait until this holds; looked at whenever the mesh may have come to rest.

        Cancellation: leaves nothing behind.
        """
        await wait_until(self._ground, self._idlers, is_over, changed=self._count_idlers)

    def look(self) -> None:
        """Let those who wait look, if there may be something to see."""
        if self._idlers and (self._is_quiet or not self._scheduler.workers):
            self.wake_all()

    def wake_all(self) -> None:
        """Let those who wait look, whatever there is."""
        for waiter in self._idlers:
            self._ground.parking.wake(waiter)

    def _count_idlers(self) -> None:
        self._ground.has_idlers = bool(self._idlers)


def _is_closed(box: Mailbox) -> bool:
    """Nothing of it is handed out any more: its store is broken."""
    return box.shelf is not None and box.shelf.is_closed


async def wait_until(
    ground: Ground, waiters: list[Waiter], is_over: Callable[[], bool], *, changed: Callable[[], None] | None = None
) -> None:
    """Wait among `waiters` until `is_over`; `changed` is told when their number has.

    Cancellation: leaves nothing behind.
    """
    if is_over():
        await anyio.lowlevel.checkpoint()
        return
    waiter = Waiter()
    waiters.append(waiter)
    if changed is not None:
        changed()
    try:
        while not is_over():
            await ground.parking.park(waiter)
    finally:
        waiters.remove(waiter)
        if changed is not None:
            changed()
