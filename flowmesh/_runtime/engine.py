"""The engine: one mesh's running parts put together, its life from start to drain, and quiescence.

Phases: NEW -> STARTING -> RUNNING -> DRAINING -> STOPPED -> STARTING ... (see ground.Phase).  Everything that runs lives in
one task group, opened by `start` and closed by `finish` in the task that entered the mesh.  A fault (a source's error, a
handler's BaseException) stops handing out, cancels the group, and leaves `finish` bare.
"""

import contextlib
import contextvars
import math
from collections.abc import Awaitable, Callable, Coroutine, Generator
from threading import get_ident
from typing import Any

import anyio
from anyio.abc import TaskGroup

from flowmesh._core.commits import Purge, Release
from flowmesh._core.mailbox import Mailbox
from flowmesh._runtime.asking import Ask, Asks
from flowmesh._runtime.cancellation import without_cancellation
from flowmesh._runtime.cell import Cell
from flowmesh._runtime.context import ActorContext
from flowmesh._runtime.drain import PATIENCE, DrainReport, HardExit, deferred_in, report_on
from flowmesh._runtime.driver import Driver
from flowmesh._runtime.ground import Ground, Phase
from flowmesh._runtime.parking import Waiter, parking_here
from flowmesh._runtime.pulling import Pulling
from flowmesh._runtime.room import Room
from flowmesh._runtime.scheduler import Scheduler
from flowmesh._runtime.scheduling import Schedule
from flowmesh._runtime.sending import Sending
from flowmesh._runtime.statistics import ActorStatistics, Statistics
from flowmesh._runtime.turns import Turns
from flowmesh._runtime.worker import current_worker
from flowmesh.errors import ActorStopped, DeadlockError, MeshStopped, NotRunning, PreconditionFailed
from flowmesh.ports import Clock

__all__ = ["Engine", "Source"]

Source = Callable[[ActorContext], Awaitable[None]]


class Engine:
    """One mesh's runtime. Made with the mesh; started and finished as often as it is entered."""

    def __init__(self, name: str, *, clock: Clock | None, grace: float) -> None:
        self.ground = Ground(name, clock)
        self.grace = grace
        self.scheduler: Scheduler
        # The scheduler is made of what is made of the room: both ask for it when they need it.
        self.room = Room(self.ground, lambda box: self.scheduler.consumers_of(box), lambda cell: self.scheduler.open(cell))  # noqa: PLW0108
        self.turns = Turns(self.ground, self.room, self.statistics, fault=self.fault, interrupted=self.abort)
        self.scheduler = Scheduler(self.ground, self.turns)
        self.sending = Sending(self.ground, self.room)
        self.asks = Asks(self.ground)
        self.driver = Driver(self.ground)
        self.cells: dict[str, Cell] = {}
        self.sources: dict[str, Source] = {}
        self.schedules: dict[str, Schedule] = {}
        self.pullings: dict[Mailbox, Pulling] = {}
        self.report: DrainReport | None = None
        self.hard_exit: HardExit | None = None
        self.faults: list[BaseException] = []
        self._group: TaskGroup | None = None
        self._source_scopes: list[anyio.CancelScope] = []
        self._idlers: list[Waiter] = []
        self._stoppers: list[Waiter] = []
        self._stopped_at = (0.0, 0.0)
        self._ended_idle = False
        self.ground.look_idle = self._look_idle
        self.ground.in_turn = self._in_turn

    # Life

    async def start(self) -> None:
        """Start everything; only called by the mesh, in the task that will finish it.

        Cancellation: nothing has been started.
        """
        ground = self.ground
        await anyio.lowlevel.checkpoint()
        if ground.phase not in (Phase.NEW, Phase.STOPPED):
            raise PreconditionFailed(f"mesh {ground.name!r} {ground.phase.value}: enter it once at a time")
        for cell in self.cells.values():
            if not cell.handler.is_resolved:
                cell.resolve()
        ground.clock.start()
        ground.phase = Phase.STARTING
        ground.parking = parking_here()
        ground.now = ground.clock.now
        ground.thread = get_ident()
        ground.cause = None
        self.faults.clear()
        self.turns.handed_back = 0
        self.report = None
        ground.context = contextvars.copy_context()
        ground.new_turn()
        self._rebase()
        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        self._source_scopes.clear()
        ground.phase = Phase.RUNNING
        for mailbox in ground.router.mailboxes.values():
            self.open_mailbox(mailbox)
        for pulling in self.pullings.values():
            pulling.take_forgotten()
        self.spawn(self._run_driver)
        self.scheduler.start(self._group)
        for schedule in self.schedules.values():
            schedule.start()
        for name in self.sources:
            self.spawn(self._run_source, name)

    def spawn(self, function: Callable[..., Coroutine[Any, Any, None]], *args: object) -> None:
        """Start a task of the mesh's own, in the context that the mesh was entered in."""
        assert self._group is not None
        self.ground.context.run(self._group.start_soon, function, *args)

    def stop(self) -> None:
        """Begin the drain: what comes from outside stops, what is in hand goes on. Idempotent."""
        ground = self.ground
        if ground.phase is not Phase.RUNNING:
            return
        ground.phase = Phase.DRAINING
        if self.hard_exit is not None:
            self.hard_exit.arm(self.grace + PATIENCE)
        for mailbox in ground.router.mailboxes.values():
            mailbox.is_open = False
            mailbox.refresh()
        for scope in self._source_scopes:
            scope.cancel()
        for schedule in self.schedules.values():
            schedule.stop()
        self.driver.holds_deferred = True
        self.room.turn_away(everybody=False)
        self._wake(self._stoppers)
        for pulling in self.pullings.values():
            pulling.wake_all()
        self._look_idle()

    @property
    def is_stopping(self) -> bool:
        """The drain has begun, or is over."""
        return self.ground.phase in (Phase.DRAINING, Phase.STOPPED)

    async def until_stopping(self) -> None:
        """Wait until the drain has begun, or a fault has.

        Cancellation: leaves nothing behind.
        """
        await self._wait(self._stoppers, lambda: self.ground.phase is not Phase.RUNNING)

    def abort(self) -> None:
        """Stop at once: cancel every handler; what they had goes back."""
        self.stop()
        self._stop_handling()
        if self.hard_exit is not None:
            self.hard_exit.arm(PATIENCE)
        if self._group is not None:
            self._group.cancel_scope.cancel()

    @contextlib.contextmanager
    def leaving_hard(self) -> Generator[None]:
        """In this block a drain that does not end ends the process."""
        self.hard_exit = hard_exit = HardExit(self.ground.name, self.ground.log, self.scheduler.running)
        try:
            yield
        finally:
            hard_exit.disarm()
            self.hard_exit = None

    def fault(self, error: BaseException) -> None:
        """Stop by itself because of this error."""
        self.faults.append(error)
        if self.ground.cause is None:
            self.ground.cause = error
        self.abort()

    async def finish(self, error: BaseException | None) -> bool:
        """Drain, or stop at once if the body ended with an error; True if that error was this mesh's own cancellation.

        Cancellation: stops at once; everything is handed back.

        Raises:
            BaseException: the fault that stopped the mesh, bare; a group if several did.
        """
        began = self.ground.now()
        cancelled = error is not None and isinstance(without_cancellation(error), anyio.get_cancelled_exc_class())
        cancellation = error if cancelled else None
        swallowed = False
        if error is None and not self.faults:
            self.stop()
            try:
                await self._drain(began + self.grace)
            except anyio.get_cancelled_exc_class() as interruption:
                cancellation = interruption
        try:
            swallowed = await self._close(cancellation)
        except anyio.get_cancelled_exc_class() as interruption:
            cancellation = interruption
        finally:
            self._settle_down(began)
            self._group = None
        own = [] if error is None or error is cancellation else [error]
        failures = [*own, *(fault for fault in self.faults if fault is not error)]
        if len(failures) > 1:
            raise BaseExceptionGroup(f"mesh {self.ground.name!r} stopped for several reasons", failures)
        if failures and not own:
            raise failures[0] from _origin(failures[0])
        if cancellation is not None and not swallowed and cancellation is not error:
            raise cancellation
        return swallowed

    async def _drain(self, deadline: float) -> None:
        def look(_now: float) -> None:
            self._wake(self._idlers)

        timer = self.ground.ledger.timers.set(deadline, look)
        try:
            await self._wait(self._idlers, lambda: self.ground.now() >= deadline or self._is_drained(deadline))
        finally:
            self.ground.ledger.timers.cancel(timer)

    async def _close(self, cancellation: BaseException | None) -> bool:
        """Cancel what still runs and wait for its end; True if the cancellation that ends the body is the mesh's own."""
        assert self._group is not None
        self.stop()
        self._stop_handling()
        if self.scheduler.running():
            self.spawn(self._name_stubborn)
        self._group.cancel_scope.cancel()
        if cancellation is None:
            await self._group.__aexit__(None, None, None)
            return False
        return bool(await self._group.__aexit__(type(cancellation), cancellation, cancellation.__traceback__))

    def _stop_handling(self) -> None:
        """Hand out nothing more, and cancel the handlers that run."""
        if not self.scheduler.stopping:
            self._ended_idle = self.is_idle
        self.scheduler.stop()
        self.scheduler.cancel("stop")

    async def _name_stubborn(self) -> None:
        """Name the handlers that have been cancelled and do not end. Shielded: the others are being cancelled as well."""
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as group:
                group.start_soon(self._log_stubborn)
                await self._wait(self._idlers, lambda: not self.scheduler.workers)
                group.cancel_scope.cancel()

    async def _log_stubborn(self) -> None:
        await self.ground.clock.sleep(PATIENCE)
        for handler in self.scheduler.running():
            self.ground.log.error(
                "%s was cancelled %g s ago and still runs: it swallows its cancellation, or is at work in a thread; "
                "the mesh waits for it",
                handler,
                PATIENCE,
            )

    def _settle_down(self, began: float) -> None:
        """Bring everything to rest: nobody waits any more, and what is left lies ready."""
        ground, ledger = self.ground, self.ground.ledger
        ground.phase = Phase.STOPPED
        now = ground.now()
        for mailbox in ground.router.mailboxes.values():
            for entry in list(mailbox.retries):
                ground.tell(ledger.commit(Release(mailbox, entry), now=now))
            for entry in mailbox.entries():
                if isinstance(entry, Ask):
                    stopped = MeshStopped(f"mesh {ground.name!r} has stopped: no reply will come")
                    stopped.__cause__ = ground.cause
                    entry.fail(stopped)
                    self.asks.leave(entry, mailbox)
        for timer in list(ledger.timers):
            if callable(timer.action):
                ledger.timers.cancel(timer)
        self.asks.clear()
        self.driver.release_deferred()
        self.room.turn_away(everybody=True)
        self._stopped_at = (now, ground.clock.wall())
        self._wake(self._stoppers)
        self._wake(self._idlers)
        self.report = report_on(
            ground, self.scheduler.consumers_of, handed_back=self.turns.handed_back, seconds=max(0.0, now - began)
        )
        ground.thread = None

    def _rebase(self) -> None:
        """Let timers and copies of an earlier run go on: this run's clock may count from elsewhere."""
        ground = self.ground
        now, wall = ground.now(), ground.clock.wall()
        stopped, stopped_wall = self._stopped_at
        if stopped_wall:
            difference = now - (stopped + max(0.0, wall - stopped_wall))
            ground.ledger.timers.rebase(difference)
            for mailbox in (*ground.router.mailboxes.values(), ground.ledger.dead_letters):
                mailbox.rebase(difference)

    # Parts

    def open_mailbox(self, mailbox: Mailbox) -> None:
        """Let publishers use their fast path into it while the mesh runs."""
        mailbox.is_open = self.ground.phase is Phase.RUNNING
        mailbox.refresh()

    def add_cell(self, cell: Cell) -> None:
        """Make an actor known and let it run."""
        self.cells[cell.name] = cell
        self.scheduler.join(cell)
        pulling = self.pullings.pop(cell.box, None)
        if pulling is not None:
            pulling.take_over(cell.name)

    def add_source(self, name: str, source: Source) -> None:
        """Make a source known; it starts with the mesh, or now if that runs."""
        self.sources[name] = source
        if self.ground.phase is Phase.RUNNING:
            self.spawn(self._run_source, name)

    def add_schedule(self, schedule: Schedule) -> None:
        """Make a schedule known; it starts with the mesh, or now if that runs."""
        self.schedules[schedule.name] = schedule
        if self.ground.phase is Phase.RUNNING:
            schedule.start()

    async def stop_cell(self, cell: Cell) -> None:
        """Stop an actor: it is handed nothing more; wait until what it has in hand is finished.

        Its mailbox and bindings stay, and another actor may take them over. Whoever waits for its answer fails at once.
        Cancellation: the actor is stopped all the same.

        Raises:
            DeadlockError: called from one of its own turns.
        """
        worker = current_worker.get()
        if worker is not None and worker.cell is cell and worker.message is not None:
            raise DeadlockError(
                f"actor {cell.name!r} would wait for itself to stop ({cell.name} -> {cell.name}): stop it from elsewhere"
            )
        if not cell.stopped:
            cell.stopped = True
            cell.reopen()
            self.scheduler.leave(cell)
            if self.cells.get(cell.name) is cell:
                del self.cells[cell.name]
            if not self.scheduler.consumers_of(cell.box):
                for entry in (*cell.box.entries(), *cell.waiting_asks):
                    if isinstance(entry, Ask):
                        entry.fail(
                            ActorStopped(f"actor {cell.name!r} was stopped before it handled message {entry.message.id}")
                        )
                        entry.stop_waiting()
                        self.asks.leave(entry, cell.box)
            self._look_idle()
        if self.ground.phase in (Phase.RUNNING, Phase.DRAINING):
            await self._wait(cell.stopping, lambda: cell.running == 0)

    def pulling(self, mailbox: Mailbox) -> Pulling:
        """Return the manual consumers of a mailbox.

        Raises:
            PreconditionFailed: actors are fed from it.
        """
        consumers = self.scheduler.consumers_of(mailbox)
        if consumers:
            raise PreconditionFailed(
                f"mailbox {mailbox.name!r} feeds actor {consumers[0].name!r}: bind a mailbox of its own to pull from, "
                "or stop the actor"
            )
        if mailbox.deleted:
            return Pulling(self.ground, mailbox)  # Not kept: it only refuses.
        if mailbox not in self.pullings:
            self.pullings[mailbox] = Pulling(self.ground, mailbox)
        return self.pullings[mailbox]

    def delete_mailbox(self, mailbox: Mailbox, *, if_unused: bool, if_empty: bool) -> int:
        """Delete a mailbox; its ready and delayed copies end as purged. Return how many were ready."""
        ground = self.ground
        if mailbox.deleted:
            return 0
        ready = mailbox.ready
        ground.router.delete_mailbox(mailbox, if_unused=if_unused, if_empty=if_empty)
        ground.ledger.commit(Purge(mailbox, delayed=True), now=self.moment()[0])
        mailbox.refresh()
        self.room.look_again(mailbox)
        pulling = self.pullings.pop(mailbox, None)
        if pulling is not None:
            pulling.wake_all()
        self._look_idle()
        return ready

    async def _run_driver(self) -> None:
        try:
            await self.driver.run()
        except Exception as error:  # noqa: BLE001 - whatever a timer's action raises, no other timer would fire
            self.fault(error)

    async def _run_source(self, name: str) -> None:
        if self.ground.phase is not Phase.RUNNING:
            return  # The drain began before this task did.
        context = ActorContext(name, self.ground.log, self.statistics)
        with anyio.CancelScope() as scope:
            self._source_scopes.append(scope)
            try:
                await self.sources[name](context)
            except BaseException as error:
                rest = without_cancellation(error)
                if not isinstance(rest, anyio.get_cancelled_exc_class()):
                    # One that was about to send when the drain began has ended like the others.
                    if not (isinstance(rest, MeshStopped) and self.is_stopping):
                        self.fault(rest)
                elif scope.cancel_called or anyio.current_effective_deadline() == -math.inf:
                    raise
                else:
                    self.ground.parking.forgive()
                    self.fault(RuntimeError(f"source {name!r} was cancelled by something inside it"))

    # Quiescence

    async def idle(self) -> None:
        """Wait until nothing is under way (DESIGN 5, Idle).

        Cancellation: leaves nothing behind.

        Raises:
            DeadlockError: called from a turn, which would wait for itself.
            NotRunning: the mesh has not been started.
            MeshStopped: it has stopped, with something under way.
        """
        worker = current_worker.get()
        if worker is not None and worker.message is not None and worker.ground is self.ground:
            name = "?" if worker.cell is None else worker.cell.name
            raise DeadlockError(
                f"actor {name!r} would wait for its own turn to end: await mesh.idle() from a source or from outside"
            )
        if self.ground.phase in (Phase.NEW, Phase.STARTING):
            raise NotRunning(f"mesh {self.ground.name!r} {self.ground.phase.value}: await mesh.idle() inside 'async with mesh'")
        if self.ground.phase is not Phase.STOPPED:
            await self._wait(self._idlers, lambda: self.is_idle or self.ground.phase is Phase.STOPPED)
            if self._ended_idle or not self.scheduler.stopping:
                return
        raise MeshStopped(f"mesh {self.ground.name!r} has stopped: nothing runs that could come to rest") from self.ground.cause

    @property
    def is_idle(self) -> bool:
        """Nothing is under way, retries included."""
        return self._is_quiet and not self.ground.ledger.delayed

    @property
    def _is_quiet(self) -> bool:
        ground = self.ground
        return (
            self.scheduler.is_quiet
            and not ground.leases
            and not ground.parked_senders
            and not any(cell.box.ready and not (cell.paused or cell.stopped) for cell in self.room.held)
        )

    def _is_drained(self, deadline: float) -> bool:
        """Nothing is under way that could end before the deadline."""
        ledger = self.ground.ledger
        if not self._is_quiet:
            return False
        if not ledger.delayed:
            return True
        return not any(isinstance(timer.action, Release) and timer.due <= deadline for timer in ledger.timers)

    def _in_turn(self) -> bool:
        worker = current_worker.get()
        return worker is not None and worker.message is not None and worker.ground is self.ground

    def _look_idle(self) -> None:
        if self._idlers and self._is_quiet:
            self._wake(self._idlers)

    async def _wait(self, waiters: list[Waiter], is_over: Callable[[], bool]) -> None:
        if is_over():
            await anyio.lowlevel.checkpoint()
            return
        waiter = Waiter()
        waiters.append(waiter)
        self.ground.has_idlers = bool(self._idlers)
        try:
            while not is_over():
                await self.ground.parking.park(waiter)
        finally:
            waiters.remove(waiter)
            self.ground.has_idlers = bool(self._idlers)

    def _wake(self, waiters: list[Waiter]) -> None:
        for waiter in waiters:
            self.ground.parking.wake(waiter)

    # Numbers

    def moment(self) -> tuple[float, float]:
        """Return the mesh clock's seconds and the wall clock's; of the moment it stopped, when it does not run."""
        ground = self.ground
        return self._stopped_at if ground.thread is None else (ground.now(), ground.clock.wall())

    def statistics(self) -> Statistics:
        """Return the numbers of this moment."""
        ground = self.ground
        now, wall = self.moment()
        return Statistics(
            mailboxes={name: box.statistics(now, wall) for name, box in ground.router.mailboxes.items()},
            actors={
                cell.name: ActorStatistics(
                    mailbox=cell.box.name,
                    slots=cell.slots,
                    running=cell.running,
                    failed=cell.failed,
                    retried=cell.retried,
                    paused=cell.paused,
                    stopped=cell.stopped,
                    held=tuple(sorted(box.name for box in cell.held_by)),
                    progress=dict(cell.progress),
                )
                for cell in self.cells.values()
            },
            unroutable={name: exchange.unroutable for name, exchange in ground.router.exchanges.items()},
            dead_letters=ground.ledger.dead_letters.statistics(now, wall),
            deferred=deferred_in(ground) + self.driver.held,
            workers=len(self.scheduler.workers),
            workers_parked=len(self.scheduler.parked),
        )


def _origin(error: BaseException) -> BaseException | None:
    """Return what the error came from. Its context will be the mesh's own cancellation once it is raised again."""
    return error.__cause__ if error.__suppress_context__ else error.__context__
