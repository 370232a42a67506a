"""The engine: one mesh's running parts put together, its life from start to drain, and quiescence.

Phases: NEW -> STARTING -> RUNNING -> DRAINING -> STOPPED -> STARTING ... (see ground.Phase).  Everything that runs lives in
one task group, opened by `start` and closed by `finish` in the task that entered the mesh.  A fault (a source's error, a
handler's BaseException) stops handing out, cancels the group, and leaves `finish` bare.
"""

import contextvars
from collections.abc import Callable, Coroutine
from threading import get_ident
from typing import Any

import anyio
import sniffio
from anyio.abc import TaskGroup

from flowmesh._core.commits import Release
from flowmesh._core.mailbox import Mailbox
from flowmesh._runtime.arranging import arrangement
from flowmesh._runtime.asking import Ask, Asks
from flowmesh._runtime.cancellation import without_cancellation
from flowmesh._runtime.cell import Cell
from flowmesh._runtime.classes import ClassHandler
from flowmesh._runtime.clock import is_time_virtual
from flowmesh._runtime.drain import PATIENCE, DrainReport, HardExit, deferred_in, report_on
from flowmesh._runtime.driver import Driver
from flowmesh._runtime.dumping import dump
from flowmesh._runtime.ground import Ground, Phase
from flowmesh._runtime.handler import Handler
from flowmesh._runtime.instances import Instances
from flowmesh._runtime.keeper import Keepers, current_keeping
from flowmesh._runtime.middleware import Middleware
from flowmesh._runtime.observing import Observing
from flowmesh._runtime.parking import Parking, Waiter, parking_here
from flowmesh._runtime.providing import Providing
from flowmesh._runtime.quiescence import Quiescence, wait_until
from flowmesh._runtime.recording import Recording
from flowmesh._runtime.residents import Residents
from flowmesh._runtime.room import Room
from flowmesh._runtime.scheduler import Scheduler
from flowmesh._runtime.sending import Sending
from flowmesh._runtime.signature import check_provided
from flowmesh._runtime.sources import Sources
from flowmesh._runtime.statistics import LONG, ActorStatistics, InstanceStatistics, Statistics
from flowmesh._runtime.storing import Storing
from flowmesh._runtime.supervising import Groups
from flowmesh._runtime.tracing import start_tracing, stop_tracing
from flowmesh._runtime.turns import Turns
from flowmesh._runtime.waiting import Waits
from flowmesh._runtime.watchdog import WATCH, Watchdog
from flowmesh._runtime.worker import current_worker, turn_here
from flowmesh.errors import InvalidHandler, MeshStopped, PreconditionFailed
from flowmesh.ports import Clock, Observer, Tracing

__all__ = ["Engine"]


class Engine:
    """One mesh's runtime. Made with the mesh; started and finished as often as it is entered.

    `middleware` and `observers` may be set until it starts.

    A part has one, too, that holds what is declared in it until it is added to a mesh, and is never started. `faces`: the
    handles that users hold, by what they stand for: whoever asks for a thing by its name gets the same one.
    """

    def __init__(self, name: str, *, clock: Clock | None = None, grace: float = 30.0, is_part: bool = False) -> None:
        self.ground = Ground(name, clock, is_part=is_part)
        self.grace = grace
        self.faces: dict[Any, Any] = {}
        self.last_read: Handler | None = None  # one function may be declared under thousands of names
        self.scheduler: Scheduler
        # The scheduler is made of what is made of the room, and of the waits: they ask for it when they need it.
        self.waits = Waits(
            self.ground,
            consumers_of=lambda box: self.scheduler.serving(box),  # noqa: PLW0108
            withdraw=lambda ask, box: self.asks.leave(ask, box),  # noqa: PLW0108
            keeping_here=current_keeping.get,
            awaited=lambda: self.keepers.awaited,
        )
        self.room = Room(self.ground, self.waits, lambda cell: self.scheduler.open(cell))  # noqa: PLW0108
        self.turns = Turns(self.ground, self.room, self.statistics, fault=self.fault, interrupted=self.abort)
        self.scheduler = Scheduler(self.ground, self.turns)
        self.sending = Sending(self.ground, self.room)
        self.asks = Asks(self.ground)
        self.driver = Driver(self.ground)
        self.quiescence = Quiescence(self.ground, self.scheduler, self.room)
        self.turns.resting = self.quiescence.resting
        self.residents = Residents(self.ground, self.scheduler, self.room, self.asks, forget=self._forget)
        self.storing = Storing(
            self.ground,
            Recording(self.residents.cells.values, self.scheduler.consumers_of, self.ground.router.find_mailbox),
            self.turns,
        )
        self.residents.on_declared = self.storing.adopt
        self.residents.on_changed = self.storing.recording.forget_types
        self.residents.on_joining = self.turns.gate_memory.adopt
        self.residents.on_leaving = self.turns.gate_memory.leave
        self.driver.on_wall_set = self.residents.look_at_schedules
        self.providing = Providing(self.ground)
        self.keepers = Keepers(
            self.ground,
            self.scheduler,
            entering=self.quiescence.entering,
            overview=self.statistics,
            spawn=self.spawn,
            fault=self.fault,
            note=self.note_fault,
        )
        self.turns.renew = self.keepers.renew_instance
        self.sources = Sources(self.ground, self.statistics, spawn=self.spawn, fault=self.fault)
        self.groups = Groups(
            self.ground,
            self.scheduler,
            self.keepers,
            self.sources,
            entering=self.quiescence.entering,
            stop_cell=self.residents.stop_cell,
            spawn=self.spawn,
            fault=self.fault,
        )
        self.middleware: tuple[Middleware, ...] = ()
        self.observers: tuple[Observer, ...] = ()
        self.report: DrainReport | None = None
        self.hard_exit: HardExit | None = None
        self.faults: list[BaseException] = []
        self._group: TaskGroup | None = None
        self._watchdog: Watchdog | None = None
        self._stoppers: list[Waiter] = []
        self.ground.fail = self.fault
        self.ground.in_turn = lambda: turn_here(self.ground) is not None
        self.tracing: Callable[[], Tracing | None] = lambda: None

    def _forget(self, mailbox: Mailbox) -> None:
        self.faces.pop(mailbox, None)
        self.storing.forget(mailbox)

    # Life

    async def start(self) -> None:
        """Start everything; only called by the mesh, in the task that will finish it.

        Order: what is provided, the workers, class actors as they were declared, a group with the first of its actors, then
        the other groups, schedules and sources.
        Cancellation: nothing has been started, or it has been stopped again.
        """
        ground = self.ground
        await anyio.lowlevel.checkpoint()
        if ground.phase not in (Phase.NEW, Phase.STOPPED):
            raise PreconditionFailed(f"mesh {ground.name!r} {ground.phase.value}: enter it once at a time")
        for cell in self.residents.cells.values():
            if not cell.handler.is_resolved:
                cell.resolve()
        order = self.providing.plan((cell.name, cell.handler.required) for cell in self.residents.cells.values())
        ground.clock.start()
        before, ground.phase = ground.phase, Phase.STARTING
        parking = parking_here()
        self._watch(parking)
        try:
            await self.storing.open()
            await self.providing.open(order)
        except BaseException:
            ground.phase = before
            self._watch_no_more()
            await self.storing.close()
            raise
        arranged = arrangement.get()
        ground.parking = parking if arranged is None else arranged.parking(parking)
        if arranged is not None:
            ground.prefix = arranged.prefix()
        ground.now = ground.clock.now
        ground.thread = get_ident()
        ground.cause = None
        self.faults.clear()
        self.turns.handed_back = 0
        self.turns.resting.clear()
        self.report = None
        ground.context = contextvars.copy_context()
        ground.context.run(current_worker.set, None)  # This mesh may be entered in a handler of another one.
        # What comes back from a store is dealt with in callbacks, in which anyio would not know the backend by itself.
        ground.context.run(sniffio.current_async_library_cvar.set, sniffio.current_async_library())
        ground.new_turn()
        self._rebase()
        self._instrument()
        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        ground.phase = Phase.RUNNING
        self.storing.take_up()
        has_company = ground.observing is not None or ground.tracing is not None or ground.ledger.journal is not None
        ground.defers_plainly = not has_company
        self.turns.gate_memory.begin()
        for cell in self.residents.cells.values():
            self.turns.gate_memory.adopt(cell)
        for mailbox in ground.router.mailboxes.values():
            self.residents.open_mailbox(mailbox)
        self.residents.expiring.start()
        ground.catch_up()
        self.spawn(self._run_driver)
        for cell in self.residents.cells.values():
            cell.give(self.providing.things)
        self.keepers.renew()
        self.sources.renew()
        self.groups.prepare()
        self.scheduler.start(self._group, arranged)
        await self.storing.start_reading()
        await self._start_classes()
        if ground.phase is Phase.RUNNING:
            for schedule in self.residents.schedules.values():
                schedule.start()
            self.sources.start()

    def _watch(self, parking: Parking) -> None:
        """Let a thread name who blocks the loop, until `_watch_no_more`. Virtual time waits for nobody: nothing blocks it."""
        if is_time_virtual():
            return
        ground = self.ground
        self._watchdog = Watchdog(
            ground.name, ground.log, get_ident(), is_running=parking.is_running, call_soon=parking.call_soon
        )
        try:
            WATCH.add(self._watchdog)
        except RuntimeError as error:
            ground.log.warning("mesh %r: who blocks the event loop will not be named: %s", ground.name, error)

    def _watch_no_more(self) -> None:
        if self._watchdog is not None:
            WATCH.remove(self._watchdog)
            self._watchdog = None

    async def _start_classes(self) -> None:
        """Start the class actors and groups; one that fails for good stops the mesh again, with its error."""
        try:
            for cell in list(self.residents.cells.values()):
                if self.ground.phase is not Phase.RUNNING:
                    break  # A hook has stopped the mesh, or failed.
                group = self.groups.root_of(cell)
                if group is not None:
                    await self.groups.start(group)
                elif isinstance(cell.handler, ClassHandler):
                    await self.keepers.start(cell)
            await self.groups.start_rest()
        except BaseException as error:
            await self.finish(error)  # Raises the fault instead, if one has cancelled this.
            raise
        if self.faults:
            await self.finish(None)

    def check_provided(self, name: str, handler: Handler | ClassHandler) -> None:
        """Refuse an actor, declared while the mesh runs, that asks for what is not there; before that, the start does.

        Raises:
            InvalidHandler: naming what is missing; or a class's annotation names what is not defined.
        """
        if not self._hands_out:
            return
        if isinstance(handler, ClassHandler) and not handler.is_resolved:
            try:
                handler.resolve()
            except NameError as error:
                raise InvalidHandler(f"actor {name!r} annotates a message with a name that is not defined: {error}") from error
        check_provided(name, handler.required, self.providing.things)

    def add_cell(self, cell: Cell) -> None:
        """Make an actor known; it starts with the mesh, or now if that runs.

        Raises:
            Exception: what the constructor of a class without hooks raised.
        """
        if cell.keying is not None:
            cell.instances = Instances(
                self.ground,
                cell,
                scheduler=self.scheduler,
                keepers=self.keepers,
                entering=self.quiescence.entering,
                fault=self.fault,
            )
        if not self._hands_out:
            self.residents.add_cell(cell)
            return
        cell.give(self.providing.things)
        if not cell.is_kept:
            cell.make_instance()
        self.residents.add_cell(cell)
        if cell.is_kept:
            self.keepers.begin(cell)

    @property
    def _hands_out(self) -> bool:
        return self.ground.phase in (Phase.RUNNING, Phase.DRAINING) and not self.scheduler.stopping

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
        ground.defers_plainly = False
        if self.hard_exit is not None:
            self.hard_exit.arm(self.grace + PATIENCE)
        for mailbox in ground.router.mailboxes.values():
            mailbox.is_open = False
            mailbox.refresh()
        self.sources.stop()
        self.keepers.look()
        self.groups.look()
        for schedule in self.residents.schedules.values():
            schedule.stop()
        self.driver.holds_deferred = True
        for cell in self.scheduler.gathering:
            cell()  # What waits for others waits no longer.
        self.room.turn_away(everybody=False)
        self._wake_stoppers()
        for pulling in self.residents.pullings.values():
            pulling.wake_all()
        self.quiescence.look()

    @property
    def is_running(self) -> bool:
        """It has been started, and has not come to its end."""
        return self.ground.phase in (Phase.STARTING, Phase.RUNNING, Phase.DRAINING)

    @property
    def is_stopping(self) -> bool:
        """The drain has begun, or is over."""
        return self.ground.phase in (Phase.DRAINING, Phase.STOPPED)

    async def until_stopping(self) -> None:
        """Wait until the drain has begun, or a fault has.

        Cancellation: leaves nothing behind.
        """
        await wait_until(self.ground, self._stoppers, lambda: self.ground.phase is not Phase.RUNNING)

    def abort(self) -> None:
        """Stop at once: cancel every handler; what they had goes back."""
        self.stop()
        self._stop_handling()
        if self.hard_exit is not None:
            self.hard_exit.arm(PATIENCE)
        if self._group is not None:
            self._group.cancel_scope.cancel()

    def fault(self, error: BaseException) -> None:
        """Stop by itself because of this error."""
        self.note_fault(error)
        self.abort()

    def note_fault(self, error: BaseException) -> None:
        """Let this error leave the mesh when it has stopped."""
        self.faults.append(error)
        if self.ground.cause is None:
            self.ground.cause = error

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
                self.groups.stop()
                if self.keepers.running:
                    await self.sources.until_ended(began + self.grace)
                    self._stop_handling()
                    await self.keepers.leave_all(began + self.grace)
            except anyio.get_cancelled_exc_class() as interruption:
                cancellation = interruption
        try:
            swallowed = await self._close(cancellation)
        except anyio.get_cancelled_exc_class() as interruption:
            cancellation = interruption
        finally:
            pending = None if swallowed else cancellation
            await self.storing.until_written()
            left, failed = await self.providing.close(pending)
            swallowed = (swallowed or pending is not None) and left is None
            cancellation = left or cancellation
            for failure in failed:
                self.note_fault(failure)
            self._settle_down(began)
            self._watch_no_more()
            await self.storing.close()
            self.ground.thread = None
            self._group = None
        own = [] if error is None or cancelled else [error]
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
            self.quiescence.wake_all()

        timer = self.ground.ledger.timers.set(deadline, look)
        try:
            await self.quiescence.until(lambda: not timer.is_set or self.quiescence.is_drained(deadline))
        finally:
            self.ground.ledger.timers.cancel(timer)

    async def _close(self, cancellation: BaseException | None) -> bool:
        """Cancel what still runs and wait for its end; True if the cancellation that ends the body is the mesh's own."""
        assert self._group is not None
        self.stop()
        self._stop_handling()
        if self.still_running():
            self.spawn(self._name_stubborn)
        self._group.cancel_scope.cancel()
        if cancellation is None:
            await self._group.__aexit__(None, None, None)
            return False
        return bool(await self._group.__aexit__(type(cancellation), cancellation, cancellation.__traceback__))

    def still_running(self) -> list[str]:
        """Name the handlers and lifespans that run, as a log line begins with them. May be called from any thread."""
        return [*self.scheduler.running(), *self.keepers.names()]

    def _stop_handling(self) -> None:
        """Hand out nothing more, and cancel the handlers that run."""
        if not self.scheduler.stopping:
            self.quiescence.note_end()
        self.scheduler.stop()
        self.scheduler.cancel("stop")

    async def _name_stubborn(self) -> None:
        """Name what has been cancelled and does not end. Shielded: the others are being cancelled as well."""
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as group:
                group.start_soon(self._log_stubborn)
                await self.quiescence.until(lambda: not (self.scheduler.workers or self.keepers.running))
                group.cancel_scope.cancel()

    async def _log_stubborn(self) -> None:
        await self.ground.clock.sleep(PATIENCE)
        for handler in self.still_running():
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
        ground.defers_plainly = False
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
        for cell in self.residents.cells.values():
            cell.take_back()
            self.residents.forget_gates(cell)
        self.asks.clear()
        self.driver.release_deferred()
        self.room.turn_away(everybody=True)
        stop_tracing(ground)
        ground.stopped_at = (now, ground.clock.wall())
        self._wake_stoppers()
        self.quiescence.wake_all()
        self.report = report_on(
            ground, self.scheduler.consumers_of, handed_back=self.turns.handed_back, seconds=max(0.0, now - began)
        )

    def _rebase(self) -> None:
        """Let timers and copies of an earlier run go on: this run's clock may count from elsewhere."""
        ground = self.ground
        now, wall = ground.now(), ground.clock.wall()
        stopped, stopped_wall = ground.stopped_at
        if stopped_wall:
            difference = now - (stopped + max(0.0, wall - stopped_wall))
            ground.ledger.timers.rebase(difference)
            for mailbox in (*ground.router.mailboxes.values(), ground.ledger.dead_letters):
                mailbox.rebase(difference)

    def _instrument(self) -> None:
        """Put in place what this run has around its handlers and who listens to it."""
        ground = self.ground
        observing = Observing(self.observers, ground.log, self.fault) if self.observers else None
        ground.observing = observing
        ground.ledger.on_applied = None if observing is None else observing.applied
        self.residents.surround(self.middleware)
        start_tracing(ground, self.tracing())

    async def _run_driver(self) -> None:
        try:
            await self.driver.run()
        except Exception as error:  # noqa: BLE001 - whatever a timer's action raises, no other timer would fire
            self.fault(error)

    def _wake_stoppers(self) -> None:
        for waiter in self._stoppers:
            self.ground.parking.wake(waiter)

    # Numbers

    def statistics(self, longer_than: float = LONG) -> Statistics:
        """Return the numbers of this moment, with the turns that have been running for longer than so many seconds."""
        ground = self.ground
        now, wall = ground.moment()
        running_for = self.scheduler.running_for(longer_than, now)
        return Statistics(
            mailboxes={name: box.statistics(now, wall) for name, box in ground.router.mailboxes.items()},
            actors={
                cell.name: ActorStatistics(
                    mailbox=cell.box.name,
                    slots=cell.width,
                    running=cell.running,
                    failed=cell.failed,
                    retried=cell.retried,
                    restarts=cell.restarts,
                    paused=cell.paused,
                    stopped=cell.stopped,
                    held=tuple(sorted(box.name for box in cell.held_by)),
                    progress=dict(cell.progress),
                    running_for=running_for.get(cell, {}),
                    standby=cell.standby,
                    gates=() if cell.gates is None else cell.gates.statistics(),
                    scaled=0 if cell.scaler is None else cell.scaler.changes,
                    flushed={} if cell.gathering is None else dict(cell.gathering.flushed),
                    state=None if cell.machines is None else cell.machines.state(),
                    postponed=0 if cell.machines is None else cell.machines.postponed,
                    instances=None if cell.instances is None else InstanceStatistics.of(cell.instances),
                )
                for cell in self.residents.cells.values()
            },
            unroutable={name: exchange.unroutable for name, exchange in ground.router.exchanges.items()},
            dead_letters=ground.ledger.dead_letters.statistics(now, wall),
            deferred=deferred_in(ground),
            workers=len(self.scheduler.workers),
            workers_parked=len(self.scheduler.parked),
            observers_failed=0 if ground.observing is None else ground.observing.failed,
            tracing=None if ground.tracing is None else ground.tracing.statistics(),
            schedules={name: schedule.statistics() for name, schedule in self.residents.schedules.items()},
            store=self.storing.statistics(),
        )

    def dump(self) -> str:
        """Return what everybody does at this moment, as text."""
        return dump(self.ground, self.residents.cells.values(), self.scheduler, self.keepers.running, self.room)


def _origin(error: BaseException) -> BaseException | None:
    """Return what the error came from. Its context will be the mesh's own cancellation once it is raised again."""
    return error.__cause__ if error.__suppress_context__ else error.__context__
