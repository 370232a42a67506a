"""Keepers: the instances of class actors, and one task for each that is entered, left or made anew.

With `by=` an actor has many (see instances.py), each with a keeper of its own, if it needs one; an instance stands here where
otherwise its actor does.

A keeper's task makes the instance, enters its lifespan (or awaits `on_start`), opens the actor, and waits; told to leave, it
waits until the actor's handlers have ended, and leaves the lifespan: entered and left by one task, so a task group or a
cancel scope inside it nests as it is written.  Handlers run on workers.  A class without hooks, without `restart=` and in no
group needs no keeper: its instance is made where the mesh starts.

Life of an instance: entering -> kept -> leaving -> gone, and the next one after a failure that its policy mends.  The keeper
stays, and so do the mailbox, its copies, bindings and references.  Actors start in the order of declaration, each when the
one before it is ready, and are left in reverse.  What no policy mends stops the mesh at once; a failure on the way out does
not keep the others from leaving in good order.
"""

import contextlib
import contextvars
import math
import random
from collections.abc import Callable
from typing import Any

import anyio

from flowmesh._core.retries import describe
from flowmesh._core.supervision import FRESH, Failure, History, decide
from flowmesh._runtime.cancellation import without_cancellation
from flowmesh._runtime.cell import Cell
from flowmesh._runtime.classes import ClassHandler
from flowmesh._runtime.context import ActorContext
from flowmesh._runtime.ground import Ground, Phase
from flowmesh._runtime.instance import Acting, Instance
from flowmesh._runtime.lineage import task_here
from flowmesh._runtime.member import Member
from flowmesh._runtime.quiescence import wait_until
from flowmesh._runtime.scheduler import Scheduler
from flowmesh._runtime.sources import Spawn
from flowmesh._runtime.statistics import Statistics
from flowmesh.errors import RestartLimitReached
from flowmesh.message import Message
from flowmesh.policies import Restart

__all__ = ["Keeper", "Keepers", "current_keeping"]

current_keeping: contextvars.ContextVar[Acting | None] = contextvars.ContextVar("flowmesh.keeping", default=None)
"""The actor whose lifespan, or a task started in it, runs now."""


class Keeper(Member):
    """One actor's keeper: of one instance after the other.

    `policy`: by which failures are judged, `history`: what that remembers; without one they are its group's, whose policy
    says which are (`group_policy`), or the mesh's. `trouble`: the failure of a handler after which the instance has to go.
    `scope`: around one instance. `born`: when that was ready, None until it is. `adopts`: the instance is there already.
    `is_renewed`: one has been made, or tried, before. `is_outdated`: the instance is ahead of what is saved, and has to go.
    `on_end`: told when it has ended.
    """

    __slots__ = (
        "adopts",
        "born",
        "cell",
        "group_policy",
        "history",
        "is_outdated",
        "is_renewed",
        "on_end",
        "policy",
        "scope",
        "task",
        "trouble",
    )

    def __init__(self, ground: Ground, cell: Acting) -> None:
        super().__init__(ground, cell.name)
        self.cell = cell
        self.policy = cell.restart
        self.group_policy: Restart | None = None
        self.history: History = FRESH
        self.trouble: Failure | None = None
        self.task: Any = None
        self.scope = anyio.CancelScope()
        self.born: float | None = None
        self.adopts = self.is_renewed = self.is_outdated = False
        self.on_end: Callable[[], None] | None = None

    @property
    def has_entered(self) -> bool:
        """It has entered the lifespan of the instance that it makes, or has made."""
        return self.born is not None

    @property
    def is_leaving(self) -> bool:
        """The instance has to go."""
        return self.is_told or not self.is_wanted or self.is_outdated or self.trouble is not None

    def take_down(self) -> None:
        """Let the instance be left; one that is still being made is cancelled."""
        super().take_down()
        if self.born is None:
            self.scope.cancel()

    def look(self) -> None:
        """Let those who wait for it look, and the keeper itself."""
        super().look()
        for waiter in self.cell.stopping:
            self.ground.parking.wake(waiter)

    async def leave(self) -> None:
        """Tell it to leave, and wait until it has.

        Cancellation: it leaves all the same.
        """
        self.tell()
        await self.until(lambda: self.has_ended)


class Keepers:
    """The instances of one mesh's class actors.

    `running`: the keepers that have not ended, in the order of their start. `awaited`: the actor whose start the later ones
    wait for, while the mesh starts.
    """

    def __init__(
        self,
        ground: Ground,
        scheduler: Scheduler,
        *,
        entering: set[Acting],
        overview: Callable[[], Statistics],
        spawn: Spawn,
        fault: Callable[[BaseException], None],
        note: Callable[[BaseException], None],
    ) -> None:
        self._ground = ground
        self._scheduler = scheduler
        self._entering = entering
        self._overview = overview
        self._spawn = spawn
        self._fault = fault
        self._note = note
        self._all_leave = False
        self.running: dict[Keeper, None] = {}
        self.awaited: Cell | None = None

    def renew(self) -> None:
        """Get ready for another run of the mesh."""
        self._all_leave = False

    async def start(self, cell: Cell) -> None:
        """Start a class actor, and wait until it is ready; no longer than until the mesh stops, unless it is just starting.

        Cancellation: leaves it alone; the keepers are the mesh's to end.

        Raises:
            Exception: what the constructor of a class that needs no keeper raised. The failure of a keeper is a fault instead.
        """
        keeper = self.begin(cell)
        if keeper is not None:
            self.awaited = cell
            try:
                await keeper.until(
                    lambda: keeper.is_up or keeper.has_ended or (keeper.is_down and self._ground.phase is not Phase.RUNNING)
                )
            finally:
                self.awaited = None

    def begin(self, cell: Cell) -> Keeper | None:
        """Start one class actor: make its instance, or start its keeper, which is returned.

        Raises:
            Exception: what the constructor of a class that needs no keeper raised.
        """
        if not cell.is_kept:
            cell.make_instance()
            self._scheduler.open(cell)
            return None
        keeper = self.keep(cell)
        keeper.bring_up()
        return keeper

    def keep(self, cell: Acting) -> Keeper:
        """Return the keeper of an actor: the one that it has, or a new one, which makes no instance before it is brought up."""
        if isinstance(cell.keeper, Keeper):
            return cell.keeper
        keeper = cell.keeper = Keeper(self._ground, cell)
        cell.judge = self._notice
        if cell.is_ready:
            keeper.adopts = True
            keeper.bring_up()
        else:
            self._entering.add(cell)
        self.running[keeper] = None
        self._spawn(self._run, keeper)
        return keeper

    def renew_instance(self, cell: Acting) -> None:
        """Let an actor have a new instance, whatever its policy: this one is ahead of what is saved."""
        keeper = cell.keeper
        if isinstance(keeper, Keeper) and keeper.is_up and not self._all_leave:
            keeper.is_outdated = True
            self._close(keeper)
            keeper.look()

    def names(self) -> list[str]:
        """Name the lifespans that have not ended. May be called from any thread."""
        return [f"lifespan of actor {keeper.cell.name!r}" for keeper in list(self.running)]

    def look(self) -> None:
        """Let those who wait for a keeper look: the mesh stops."""
        for keeper in self.running:
            keeper.look()

    async def leave_all(self, deadline: float) -> None:
        """Leave them all, the last first, each before the next; give up at the deadline.

        Cancellation: those that have been told leave all the same.
        """
        self._all_leave = True
        ground = self._ground
        for keeper in reversed(list(self.running)):
            if ground.now() >= deadline:
                return
            timer = ground.ledger.timers.set(deadline, keeper.look_late)
            try:
                # Those of one actor are left together: no order is among them.
                for one in [keeper] if keeper.is_told else self._beside(keeper):
                    one.tell()
                    if one.born is None:
                        one.scope.cancel()  # Nothing waits for it, or the drain would not be over.
                await keeper.until(lambda one=keeper, late=timer: one.has_ended or not late.is_set)
            finally:
                ground.ledger.timers.cancel(timer)

    def _beside(self, keeper: Keeper) -> list[Keeper]:
        """Return the keepers of all instances of an actor."""
        actor = keeper.cell.actor
        return [keeper] if keeper.cell is actor else [one for one in self.running if one.cell.actor is actor]

    # One keeper's task

    async def _run(self, keeper: Keeper) -> None:
        """Keep one actor: one instance after the other, each entered and left here."""
        ground, cell = self._ground, keeper.cell
        current_keeping.set(cell)
        keeper.task = task_here()
        try:
            while await keeper.until_due():
                failure = await self._live(keeper)
                if failure is not None:
                    self._judge(keeper, failure)
        finally:
            keeper.has_ended = keeper.is_down = True
            self.running.pop(keeper, None)
            self._entering.discard(cell)
            if keeper.on_end is not None:
                keeper.on_end()
            keeper.look()
            ground.look_idle()

    async def _live(self, keeper: Keeper) -> Failure | None:
        """Keep one instance from its making to its end; return what has to be judged."""
        ground, cell = self._ground, keeper.cell
        error: BaseException | None = None
        keeper.trouble = keeper.born = None
        keeper.is_outdated = False
        keeper.is_down = False
        cell.restarts += keeper.is_renewed
        keeper.is_renewed = True
        keeper.scope = anyio.CancelScope()
        try:
            with keeper.scope:
                await self._keep(keeper)
                if not keeper.is_leaving:
                    raise RuntimeError(f"lifespan of actor {cell.name!r} has ended by itself")
        except BaseException as caught:
            error = without_cancellation(caught)
            if isinstance(error, anyio.get_cancelled_exc_class()):
                if anyio.current_effective_deadline() == -math.inf:
                    raise
                ground.parking.forgive()
                error = RuntimeError(f"lifespan of actor {cell.name!r} was cancelled by something inside it")
        finally:
            keeper.is_up = False
            cell.end_incarnation()
            self._close(keeper)
            keeper.is_down = True
            keeper.look()
        return self._found(keeper, error)

    def _found(self, keeper: Keeper, error: BaseException | None) -> Failure | None:
        """Put together what one instance's life has come to."""
        trouble = keeper.trouble
        if keeper.is_told:  # It was leaving for good: nothing is made anew.
            if error is not None and not self._is_mended(keeper, error):
                self._fail(error)
            return None
        if error is None:
            return trouble
        if not keeper.is_wanted and isinstance(error, Exception):
            self._ground.log.error(
                "actor %r failed as it was left with its group: %s", keeper.name, describe(error), exc_info=error
            )
            return None
        lived = 0.0 if keeper.born is None else self._ground.now() - keeper.born
        return Failure(error, None if trouble is None else trouble.message, lived)

    def _is_mended(self, keeper: Keeper, error: BaseException) -> bool:
        """Whether the policy of an instance for one value makes the failure of its leaving no reason to stop the mesh."""
        policy = keeper.policy or keeper.group_policy
        if self._all_leave or policy is None or not isinstance(keeper.cell, Instance):
            return False
        if decide(Failure(error), FRESH, self._ground.now(), policy=policy).verdict != "restart":
            return False
        self._ground.log.error("actor %r failed as it was left: %s", keeper.name, describe(error), exc_info=error)
        return True

    async def _keep(self, keeper: Keeper) -> None:
        ground, cell, handler = self._ground, keeper.cell, keeper.cell.handler
        assert isinstance(handler, ClassHandler)
        instance: Any = None
        surroundings: contextlib.AbstractAsyncContextManager[Any] = contextlib.nullcontext()
        if not keeper.adopts:
            instance = handler.make(cell.things or {})
            if handler.hooks is not None:
                surroundings = handler.hooks(instance, ActorContext(cell.name, ground.log, self._overview, ground, cell))
        async with surroundings:
            if not keeper.adopts:
                cell.set_instance(instance)
            keeper.adopts = False
            del instance  # Only its handlers hold it.
            self._entering.discard(cell)
            keeper.is_up, keeper.born = True, ground.now()
            if isinstance(cell, Instance):
                cell.open()
            else:
                self._scheduler.open(cell)
            keeper.look()
            try:
                await wait_until(
                    ground, cell.stoppers(), lambda: keeper.is_leaving and (not cell.has_in_hand or not keeper.is_wanted)
                )
            finally:
                keeper.is_up = False
                self._close(keeper)
                if cell.running:
                    await self._end_handlers(cell)
                if cell.committing:  # The next instance begins with what this one has saved.
                    await wait_until(ground, cell.stoppers(), lambda: not cell.committing)

    async def _end_handlers(self, cell: Acting) -> None:
        """Cancel the handlers of an actor whose lifespan ends under them, and wait: nothing of it is taken from them."""
        if isinstance(cell, Instance):
            cell.cancel()
        else:
            self._scheduler.cancel_of(cell)
        with anyio.CancelScope(shield=True):
            await wait_until(self._ground, cell.stoppers(), lambda: not cell.running)

    def _close(self, keeper: Keeper) -> None:
        """Hand the actor nothing more; if it will be opened again, what it has is still to be handled."""
        keeper.cell.is_ready = False
        keeper.cell.reopen()
        if not keeper.is_told:
            self._entering.add(keeper.cell)

    # Judging

    def _notice(self, cell: Acting, error: BaseException, message: Message) -> None:
        """Take the news that a handler has failed and its message is settled: does the instance have to go?"""
        keeper = cell.keeper
        if not isinstance(keeper, Keeper) or not keeper.is_up or self._all_leave:
            return
        if keeper.is_leaving:
            self._close(keeper)  # Before its task gets to it: nothing more for an instance whose handler has failed.
            return
        policy = keeper.policy or keeper.group_policy
        if policy is None:
            return  # The actor lives on.
        now = self._ground.now()
        if isinstance(error, anyio.get_cancelled_exc_class()):
            error = RuntimeError(f"a handler of actor {cell.name!r} was cancelled by something inside it")
        failure = Failure(error, message.id, now - (keeper.born or now), of_handler=True)
        if decide(failure, keeper.history, now, policy=policy).verdict == "go_on":
            return
        keeper.trouble = failure
        self._close(keeper)
        keeper.look()

    def _judge(self, keeper: Keeper, failure: Failure) -> None:
        """Decide what becomes of an actor whose instance is gone."""
        policy, error = keeper.policy, failure.error
        assert error is not None
        if policy is None:
            self._escalate(keeper, failure, error)
            return
        now, chance = self._ground.now(), random.random()  # noqa: S311 - jitter
        decision = decide(failure, keeper.history, now, policy=policy, chance=chance)
        if decision.verdict == "restart":
            keeper.history = decision.history
            self._ground.log.warning(
                "actor %r is made anew in %.3g s (%d in a row): %s",
                keeper.name,
                decision.delay,
                decision.history.row,
                describe(error),
                exc_info=None if failure.of_handler else error,  # A handler's has been logged with its message.
            )
            keeper.bring_up(decision.delay)
            return
        keeper.history = FRESH
        self._escalate(keeper, failure, limit_reached("actor", keeper.name, policy, error) if decision.is_limit else error)

    def _escalate(self, keeper: Keeper, failure: Failure, error: BaseException) -> None:
        if keeper.report is None or not isinstance(error, Exception):
            keeper.tell()
            self._fail(error)
        else:
            keeper.take_down()
            keeper.report(keeper, Failure(error, failure.message, failure.lived))

    def _fail(self, error: BaseException) -> None:
        """Stop the mesh because of this, unless it is stopping anyway, and in good order."""
        if self._all_leave:
            self._note(error)
        else:
            self._fault(error)


def limit_reached(what: str, name: str, policy: Restart, error: BaseException) -> RestartLimitReached:
    """Return the error of somebody whose budget is used up, from the last failure."""
    limit = RestartLimitReached(
        f"{what} {name!r} needed more than {policy.max} restarts within {policy.within:g} s; the last failure: "
        f"{describe(error)}. Mend that, or allow more with max= and within=",
        name=name,
    )
    limit.__cause__ = error
    return limit
