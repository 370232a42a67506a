"""Supervision groups: actors, sources and other groups that are started, restarted and ended together.

A group is a task that starts its members in order, each when the one before it is ready, and then waits for news.  A member
that fails is brought up again, by itself (`one_for_one`), with all the others (`one_for_all`), or with those after it
(`rest_for_one`); they are taken down in reverse first, and their handlers in hand are cancelled: the messages go back.  When
the budget is used up the failure escalates, to the group that this one is in, or to the mesh, which stops.  A member that has
ended by itself stays so; if it is significant, all of its group ends, in reverse.

A member that is a class actor with a `restart=` of its own is judged by that first; a function actor has nothing to make
anew, so it never fails, and is only handed nothing while its group is down.
"""

import random
from collections import deque
from collections.abc import Awaitable, Callable

import anyio
from msgspec import Struct

from flowmesh._core.retries import describe
from flowmesh._core.supervision import FRESH, Failure, History, Strategy, affected, decide
from flowmesh._runtime.cell import Cell
from flowmesh._runtime.classes import ClassHandler
from flowmesh._runtime.ground import Ground, Phase
from flowmesh._runtime.instance import Acting
from flowmesh._runtime.keeper import Keeper, Keepers, limit_reached
from flowmesh._runtime.keyed_member import KeyedMember
from flowmesh._runtime.member import Member
from flowmesh._runtime.quiescence import wait_until
from flowmesh._runtime.scheduler import Scheduler
from flowmesh._runtime.sources import Sources, Spawn
from flowmesh.policies import Restart

__all__ = ["Groups", "Plan"]


class Plan(Struct, eq=False):
    """A group as it was declared: actors, sources by name, and groups. `significant`: their indexes.

    `origin`: what was declared. `parent`: the group that it is in. `restarts`: how often it has brought somebody up again.
    """

    name: str
    strategy: Strategy
    policy: Restart
    members: "tuple[Cell | str | Plan, ...]"
    significant: frozenset[int]
    origin: object
    parent: "Plan | None" = None
    restarts: int = 0

    def contents(self) -> list[tuple[str, str]]:
        """Name the members, each with what it is."""
        return [
            ("source", one) if isinstance(one, str) else ("actor" if isinstance(one, Cell) else "group", one.name)
            for one in self.members
        ]


class FunctionMember(Member):
    """A function actor in a group: it has no instance, so it is only opened and closed."""

    __slots__ = ("_entering", "_scheduler", "cell")

    def __init__(self, ground: Ground, cell: Cell, scheduler: Scheduler, entering: set[Acting]) -> None:
        super().__init__(ground, cell.name)
        self.cell = cell
        self._scheduler = scheduler
        self._entering = entering
        if cell.is_ready:
            self.bring_up()
        else:
            entering.add(cell)

    def look(self) -> None:
        """Open the actor, or close it, as it is wanted; then let those who wait look."""
        cell = self.cell
        shall_run = self.is_wanted and self.is_due and not cell.stopped
        if shall_run != self.is_up or cell.is_ready != shall_run:
            self.is_up = cell.is_ready = shall_run
            self.is_down = not shall_run
            if shall_run:
                self._entering.discard(cell)
                self._scheduler.open(cell)
            else:
                self._entering.add(cell)
                cell.reopen()
                self._scheduler.cancel_of(cell)
        if cell.stopped:
            self._entering.discard(cell)
        super().look()

    async def until_down(self) -> None:
        """Wait until no handler of it runs."""
        await wait_until(self.ground, self.cell.stoppers(), lambda: not self.cell.running)


class GroupRun(Member):
    """A group in one run of the mesh. `news`: what members have reported; `scope`: around its watch; `born`: when all were up.

    `delay`: before the next member is brought up. `is_ending`: a significant member has ended, or all have. `limit`: what
    escalates. `rows`: what is remembered of each member.
    """

    __slots__ = ("born", "delay", "history", "is_ending", "limit", "members", "news", "plan", "rows", "scope", "significant")

    def __init__(self, ground: Ground, plan: Plan) -> None:
        super().__init__(ground, plan.name)
        self.plan = plan
        self.members: list[Member] = []
        self.significant: set[Member] = set()
        self.news: deque[tuple[Member, Failure]] = deque()
        self.history: History = FRESH
        self.rows: dict[Member, History] = {}
        self.scope = anyio.CancelScope()
        self.born: float | None = None
        self.delay = 0.0
        self.is_ending = False
        self.limit: Failure | None = None

    def take(self, member: Member, *, significant: bool) -> None:
        """Hold this member from now on."""
        self.members.append(member)
        if significant:
            self.significant.add(member)
        member.group = self
        member.report = self.note

    def note(self, member: Member, failure: Failure) -> None:
        """Take the news of a member."""
        self.news.append((member, failure))
        self.look()

    def take_down(self) -> None:
        """Take all of it down, whatever it is about to do."""
        super().take_down()
        self.scope.cancel()

    def tell(self) -> None:
        """Watch no more: the mesh leaves the members, or they have ended."""
        super().tell()
        self.scope.cancel()

    @property
    def is_entering(self) -> bool:
        """A member is just starting."""
        return any(
            one.is_entering if isinstance(one, GroupRun) else not (one.is_up or one.is_down or one.has_ended)
            for one in self.members
        )

    def affected_by(self, member: Member) -> list[Member]:
        """Return those that are brought up again with a member, in order."""
        indexes = affected(self.plan.strategy, self.members.index(member), len(self.members))
        return [self.members[index] for index in indexes]


class Groups:
    """The supervision groups of one mesh. `plans`: as declared, by name; `runs`: of this run of the mesh."""

    def __init__(
        self,
        ground: Ground,
        scheduler: Scheduler,
        keepers: Keepers,
        sources: Sources,
        *,
        entering: set[Acting],
        stop_cell: Callable[[Cell], Awaitable[None]],
        spawn: Spawn,
        fault: Callable[[BaseException], None],
    ) -> None:
        self._ground = ground
        self._scheduler = scheduler
        self._keepers = keepers
        self._sources = sources
        self._entering = entering
        self._stop_cell = stop_cell
        self._spawn = spawn
        self._fault = fault
        self.plans: dict[str, Plan] = {}
        self.holders: dict[Cell | str | Plan, Plan] = {}
        self.runs: dict[Plan, GroupRun] = {}

    # Declaring

    def add(self, plan: Plan) -> None:
        """Make a group known; it starts with the mesh, or takes over its members now if that runs."""
        self.plans[plan.name] = plan
        for member in plan.members:
            self.holders[member] = plan
            if isinstance(member, Cell) and member.keying is None:
                member.is_kept = isinstance(member.handler, ClassHandler)
            elif isinstance(member, Plan):
                member.parent = plan
        if self._ground.phase is Phase.RUNNING:
            self._build(plan).bring_up()

    # Running

    def prepare(self) -> None:
        """Get ready for a run of the mesh: functions in groups are closed until their group has started them."""
        self.runs.clear()
        for member in self.holders:
            if isinstance(member, Cell):
                member.is_ready = False

    def root_of(self, cell: Cell) -> Plan | None:
        """Return the outermost group that holds an actor, or None."""
        plan = self.holders.get(cell)
        while plan is not None and plan.parent is not None:
            plan = plan.parent
        return plan

    async def start(self, plan: Plan) -> None:
        """Start an outermost group, unless it has been, and wait until all of it is up.

        No longer than until the mesh stops, unless a member is just starting.

        Cancellation: leaves it alone; the groups are the mesh's to end.
        """
        if plan in self.runs:
            return
        run = self._build(plan)
        run.bring_up()
        await run.until(lambda: run.is_up or run.has_ended or (self._ground.phase is not Phase.RUNNING and not run.is_entering))

    async def start_rest(self) -> None:
        """Start the groups that hold no actor; as `start`."""
        for plan in list(self.plans.values()):
            if plan.parent is None and self._ground.phase is Phase.RUNNING:
                await self.start(plan)

    def stop(self) -> None:
        """Watch no more: the mesh leaves the members in its own order."""
        for run in self.runs.values():
            run.tell()

    def look(self) -> None:
        """Let those who wait for a group look: the mesh stops."""
        for run in self.runs.values():
            run.look()

    def _build(self, plan: Plan) -> GroupRun:
        run = self.runs.get(plan)
        if run is not None:
            return run
        run = self.runs[plan] = GroupRun(self._ground, plan)
        for index, member in enumerate(plan.members):
            if not (isinstance(member, Cell) and member.stopped):
                run.take(self._member_of(run, member), significant=index in plan.significant)
        self._spawn(self._run, run)
        return run

    def _member_of(self, run: GroupRun, member: Cell | str | Plan) -> Member:
        match member:
            case Cell():
                return self._actor_of(run, member)
            case str():
                return self._sources.take(member)
            case Plan():
                return self._build(member)

    def _actor_of(self, run: GroupRun, cell: Cell) -> Member:
        found: Member
        if cell.instances is not None:
            found = KeyedMember(self._ground, cell, self._scheduler, self._entering, run.plan.policy)
        elif isinstance(cell.handler, ClassHandler):
            found = keeper = self._keepers.keep(cell)
            keeper.group_policy = run.plan.policy
        else:
            found = FunctionMember(self._ground, cell, self._scheduler, self._entering)

        def note_stopped() -> None:
            found.has_ended = True
            found.look()
            run.note(found, Failure(None))

        cell.watch(run, note_stopped)
        return found

    # One group's task

    async def _run(self, run: GroupRun) -> None:
        """Start the members, watch them, and take them down when the group shall be down."""
        try:
            while await run.until_due():
                run.is_down, run.born, run.limit = False, None, None
                run.history = FRESH
                run.rows.clear()
                run.delay = 0.0
                run.scope = anyio.CancelScope()
                with run.scope:
                    await self._watch(run)
                run.is_up = False
                if run.is_told:
                    return
                if run.is_ending:
                    await self._end_members(run)
                    return
                await self._take_down(run.members)
                run.is_down = True
                run.look()
                if run.limit is not None and run.report is not None:
                    run.report(run, run.limit)
        except Exception as error:  # noqa: BLE001 - a bug of ours must stop the mesh, not just this group
            self._fault(error)
        finally:
            run.is_up, run.is_down, run.has_ended = False, True, True
            run.look()
            if run.is_ending and run.report is not None and not run.is_told:
                run.report(run, Failure(None))

    async def _watch(self, run: GroupRun) -> None:
        """Bring up what is down, in order, and settle the news; return when all of it shall go down, or end."""
        while run.is_wanted and not run.is_ending:
            if run.news:
                await self._settle(run, *run.news.popleft())
                continue
            lacking = next((member for member in run.members if member.is_lacking), None)
            if lacking is None:
                if not run.is_up:
                    run.is_up, run.born = True, self._ground.now()
                    run.look()
                await run.until(lambda: bool(run.news) or any(one.is_lacking for one in run.members))
                continue
            if lacking.is_down and not lacking.is_wanted:
                lacking.bring_up(run.delay)
                run.delay = 0.0
            # One that goes down by itself reports in the moment in which it is down.
            await run.until(
                lambda one=lacking: bool(run.news) or one.is_up or one.has_ended or (one.is_down and not one.is_wanted)
            )

    async def _settle(self, run: GroupRun, member: Member, failure: Failure) -> None:
        """Do what the news of one member calls for."""
        plan = run.plan
        if failure.error is None:
            run.is_ending = member in run.significant or all(one.has_ended for one in run.members)
            if run.is_ending:
                self._ground.log.info("group %r ends: its member %r has ended", run.name, member.name)
            return
        now, chance = self._ground.now(), random.random()  # noqa: S311 - jitter
        row = run.rows.get(member, FRESH)  # The budget is the group's, the waits are each member's own.
        history = History(run.history.charges, row.row, row.wait)
        decision = decide(failure, history, now, policy=plan.policy, chance=chance)
        if decision.verdict != "restart":
            error = limit_reached("group", plan.name, plan.policy, failure.error) if decision.is_limit else failure.error
            run.is_wanted = False
            if run.report is None:
                self._fault(error)
            else:
                run.limit = Failure(error, failure.message, 0.0 if run.born is None else now - run.born)
            return
        run.history = run.rows[member] = decision.history
        plan.restarts += 1
        again = run.affected_by(member)
        self._ground.log.warning(
            "group %r: %r has failed; %s again in %.3g s: %s",
            plan.name,
            member.name,
            ", ".join(repr(one.name) for one in again if not one.has_ended),
            decision.delay,
            describe(failure.error),
            exc_info=failure.error if failure.message is None else None,  # A handler's has been logged with its message.
        )
        if plan.strategy == "one_for_one":
            member.bring_up(decision.delay)
            return
        run.is_up = False
        run.delay = decision.delay
        await self._take_down(again)
        run.news = deque((one, news) for one, news in run.news if news.error is None or one not in again)

    async def _take_down(self, members: list[Member]) -> None:
        """Take these down, the last first, each before the next."""
        for member in reversed(members):
            if not member.has_ended:
                member.take_down()
                await member.until_down()

    async def _end_members(self, run: GroupRun) -> None:
        """End all of a group, the last first: its actors as by `stop()`."""
        for member in reversed(run.members):
            if isinstance(member, GroupRun):
                if not member.has_ended:
                    member.is_ending = True
                    member.report = None
                    member.scope.cancel()
                    member.bring_up()  # One that is down has to get to its end, too.
                    await member.until(lambda one=member: one.has_ended)
            elif isinstance(member, Keeper | FunctionMember | KeyedMember):
                if not member.cell.actor.stopped:
                    await self._stop_cell(member.cell.actor)
            elif not member.has_ended:
                member.tell()
                await member.until_down()
