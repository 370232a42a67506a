"""A class actor with `by=` as a member of a supervision group: all of its instances come and go with the group.

It is up while its instances may be made, which their messages do.  An instance that fails, and that has no `restart=` of its
own or has used that up, fails the member: all instances are left, what they had in hand goes back, and the group judges.
"""

from flowmesh._core.supervision import Failure
from flowmesh._runtime.cell import Cell
from flowmesh._runtime.ground import Ground
from flowmesh._runtime.instance import Acting
from flowmesh._runtime.instances import Instances
from flowmesh._runtime.member import Member
from flowmesh._runtime.quiescence import wait_until
from flowmesh._runtime.scheduler import Scheduler
from flowmesh.policies import Restart

__all__ = ["KeyedMember"]


class KeyedMember(Member):
    """One such actor in a group. `failure`: why it goes down by itself."""

    __slots__ = ("_entering", "_instances", "_scheduler", "cell", "failure")

    def __init__(self, ground: Ground, cell: Cell, scheduler: Scheduler, entering: set[Acting], policy: Restart) -> None:
        super().__init__(ground, cell.name)
        assert isinstance(cell.instances, Instances)
        self.cell = cell
        self.failure: Failure | None = None
        self._instances = cell.instances
        self._scheduler = scheduler
        self._entering = entering
        self._instances.supervise(policy, self._fail, self.look)
        if cell.is_ready:
            self.bring_up()
        else:
            entering.add(cell)

    def _fail(self, _keeper: object, failure: Failure) -> None:
        """Go down: an instance has failed for good."""
        if self.is_up:
            self.failure = failure
            self.is_wanted = False
            self.look()

    def look(self) -> None:
        """Open the actor, or close it and leave its instances, as it is wanted; then let those who wait look."""
        cell = self.cell
        shall_run = self.is_wanted and self.is_due and not cell.stopped
        if shall_run != self.is_up or cell.is_ready != shall_run:
            self.is_up = cell.is_ready = shall_run
            if shall_run:
                self.is_down = False
                self._entering.discard(cell)
                self._scheduler.open(cell)
            elif not cell.stopped:  # Otherwise whoever stops it leaves them.
                self._entering.add(cell)
                cell.reopen()
                self._instances.take_down()
        if cell.stopped:
            self._entering.discard(cell)
        self.is_down = not (self.is_up or self._instances.count)
        if self.is_down and self.failure is not None and self.report is not None:
            failure, self.failure = self.failure, None
            self.report(self, failure)
        super().look()

    async def until_down(self) -> None:
        """Wait until no handler of it runs and all instances are gone."""
        await wait_until(self.ground, self.cell.stoppers(), lambda: not (self.cell.running or self._instances.count))
