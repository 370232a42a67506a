"""What lives in a mesh: actors, schedules, manual consumers, mailboxes; how each is added, and how it leaves."""

import functools
from collections.abc import Callable

from flowmesh._core.commits import Purge
from flowmesh._core.mailbox import Mailbox
from flowmesh._runtime.asking import Ask, Asks
from flowmesh._runtime.cell import Cell
from flowmesh._runtime.expiring import Expiring
from flowmesh._runtime.ground import Ground, Phase
from flowmesh._runtime.keeper import current_keeping
from flowmesh._runtime.middleware import Middleware, compose_layers
from flowmesh._runtime.pulling import Pulling
from flowmesh._runtime.quiescence import wait_until
from flowmesh._runtime.room import Room
from flowmesh._runtime.scheduler import Scheduler
from flowmesh._runtime.scheduling import Schedule
from flowmesh._runtime.worker import turn_here
from flowmesh.errors import ActorStopped, DeadlockError, PreconditionFailed
from flowmesh.policies import MailboxOptions

__all__ = ["Residents"]


class Residents:
    """The actors, schedules and manual consumers of one mesh, by name. All may be added before and while it runs.

    `forget` is called with each mailbox that has been deleted, `on_declared` with each that is declared; `on_changed` when
    an actor has come or gone.
    """

    def __init__(
        self, ground: Ground, scheduler: Scheduler, room: Room, asks: Asks, *, forget: Callable[[Mailbox], object]
    ) -> None:
        self._ground = ground
        self._forget = forget
        self.expiring = Expiring(
            ground,
            delete=lambda mailbox: self.delete_mailbox(mailbox, if_unused=False, if_empty=False),
            is_awaited=self._is_awaited,
        )
        self._scheduler = scheduler
        self._room = room
        self._asks = asks
        self.on_changed: Callable[[], None] = _forget_nothing
        self.on_declared: Callable[[Mailbox], None] = _nothing
        self.on_joining: Callable[[Cell], None] = _no_cell
        self.on_leaving: Callable[[Cell], None] = _no_cell
        self.cells: dict[str, Cell] = {}
        self.schedules: dict[str, Schedule] = {}
        self.pullings: dict[Mailbox, Pulling] = {}
        self._layers: tuple[Middleware, ...] = ()

    # Actors

    def surround(self, layers: tuple[Middleware, ...]) -> None:
        """Put the mesh's layers around every actor's handler from now on: it starts."""
        self._layers = layers
        for cell in self.cells.values():
            self._surround(cell)

    def _surround(self, cell: Cell) -> None:
        cell.chain = compose_layers((*self._layers, *cell.middleware))
        cell.observed = self._ground.observing is not None
        cell.settle_call()

    def add_cell(self, cell: Cell) -> None:
        """Make an actor known and let it run."""
        self.cells[cell.name] = cell
        self.on_changed()
        self._surround(cell)
        self.on_joining(cell)
        self._scheduler.join(cell)
        pulling = self.pullings.pop(cell.box, None)
        if pulling is not None:
            pulling.take_over(cell.name)

    async def stop_cell(self, cell: Cell) -> None:
        """Stop an actor: it is handed nothing more; wait until what it has in hand is finished, and its lifespan left.

        Its mailbox and bindings stay, and another actor may take them over. Whoever waits for its answer fails at once.
        Cancellation: the actor is stopped all the same.

        Raises:
            DeadlockError: called from one of its own turns, from its lifespan, or from a turn that one of its own waits for.
        """
        turn = turn_here(self._ground)
        keeping = current_keeping.get()
        if (turn is not None and turn.cell is cell) or (keeping is not None and keeping.actor is cell):
            raise DeadlockError(
                f"actor {cell.name!r} would wait for itself to stop ({cell.name} -> {cell.name}): stop it from elsewhere",
                ring=(cell.name, cell.name),
            )
        wait = self._room.waits.stop(cell) if self._ground.phase in (Phase.RUNNING, Phase.DRAINING) else None
        try:
            await self._stop_cell(cell)
        finally:
            if wait is not None:
                self._room.waits.end(wait)

    async def _stop_cell(self, cell: Cell) -> None:
        watchers: list[Callable[[], None]] = []
        if not cell.stopped:
            cell.stopped = True
            watchers += cell.watchers.values()
            cell.reopen()
            self._scheduler.leave(cell)
            self.expiring.used(cell.box)
            self.forget_gates(cell)
            if self.cells.get(cell.name) is cell:
                del self.cells[cell.name]
            self.on_changed()
            if not self._scheduler.consumers_of(cell.box):
                self._fail_askers(cell)
            self._ground.look_idle()
        if self._ground.phase in (Phase.RUNNING, Phase.DRAINING):
            try:
                keeping = cell.instances or cell.keeper
                if keeping is not None:
                    await keeping.leave()
                else:
                    await wait_until(self._ground, cell.stoppers(), lambda: not cell.has_in_hand)
                cell.take_back()
            finally:
                for watcher in watchers:
                    watcher()

    def forget_gates(self, cell: Cell) -> None:
        """Let an actor's gates know nothing any more; what they held lies in line again."""
        if cell.gates is not None:
            self.on_leaving(cell)
            self._ground.ledger.admission.reset(cell.box, cell.gates)

    def _fail_askers(self, cell: Cell) -> None:
        for entry in (*cell.box.entries(), *cell.waiting_asks):
            if isinstance(entry, Ask):
                entry.fail(ActorStopped(f"actor {cell.name!r} was stopped before it handled message {entry.message.id}"))
                entry.stop_waiting()
                self._asks.leave(entry, cell.box)

    # Schedules

    def add_schedule(self, schedule: Schedule) -> None:
        """Make a schedule known; it starts with the mesh, or now if that runs."""
        if schedule.name in self.schedules or schedule.is_cancelled:
            return  # Its part has been added before, or it has ended.
        self.schedules[schedule.name] = schedule
        schedule.known_in.append(self.schedules)
        if self._ground.phase is Phase.RUNNING:
            schedule.start()

    def look_at_schedules(self) -> None:
        """Let every schedule look at the clock again: somebody has set it."""
        for schedule in list(self.schedules.values()):
            schedule.look_again()

    # Mailboxes and manual consumers

    def declare_mailbox(self, name: str, options: MailboxOptions | None) -> Mailbox:
        """Declare a mailbox, or find it, and open it if the mesh runs."""
        mailbox = self._ground.router.declare_mailbox(name, options)
        self.on_declared(mailbox)
        self.open_mailbox(mailbox)
        self.expiring.used(mailbox)
        return mailbox

    def open_mailbox(self, mailbox: Mailbox) -> None:
        """Let publishers use their fast path into it while the mesh runs, unless somebody wants to know what enters."""
        mailbox.is_open = self._ground.phase is Phase.RUNNING and self._ground.observing is None
        mailbox.refresh()

    def pulling(self, mailbox: Mailbox) -> Pulling:
        """Return the manual consumers of a mailbox.

        Raises:
            PreconditionFailed: actors are fed from it.
        """
        consumers = self._scheduler.consumers_of(mailbox)
        if consumers:
            raise PreconditionFailed(
                f"mailbox {mailbox.name!r} feeds actor {consumers[0].name!r}: bind a mailbox of its own to pull from, "
                "or stop the actor"
            )
        if mailbox in self.pullings:
            return self.pullings[mailbox]
        pulling = Pulling(self._ground, mailbox, used=functools.partial(self.expiring.used, mailbox))
        if not mailbox.deleted:  # Otherwise it only refuses.
            self.pullings[mailbox] = pulling
        return pulling

    def _is_awaited(self, mailbox: Mailbox) -> bool:
        pulling = self.pullings.get(mailbox)
        return pulling is not None and pulling.is_awaited

    def delete_mailbox(self, mailbox: Mailbox, *, if_unused: bool, if_empty: bool) -> int:
        """Delete a mailbox; its ready and delayed copies end as purged. Return how many were ready."""
        ground = self._ground
        if mailbox.deleted:
            return 0
        ready = mailbox.ready
        ground.router.delete_mailbox(mailbox, if_unused=if_unused, if_empty=if_empty)
        ground.ledger.commit(Purge(mailbox, delayed=True), now=ground.moment()[0])
        for cell in self._scheduler.consumers_of(mailbox):
            if cell.machines is not None:
                cell.machines.release()  # No message will come that could change its state.
        mailbox.refresh()
        self._room.look_again(mailbox)
        pulling = self.pullings.pop(mailbox, None)
        if pulling is not None:
            pulling.wake_all()
        self._forget(mailbox)
        ground.look_idle()
        return ready


def _nothing(_mailbox: Mailbox) -> None:
    return None


def _no_cell(_cell: Cell) -> None:
    return None


def _forget_nothing() -> None:
    return None
