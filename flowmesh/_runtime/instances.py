"""The instances of a class actor with `by=`: one for each value, made by its first message, put away when nothing needs it.

An instance lives in its value's lane (see aside.py), which is open while it is ready.  So a message that comes while it
starts, restarts or leaves is set aside like any whose lane is busy, and loses neither its place nor its turn; and as long as
the one before has not been left, no other instance moves in.  Classes with hooks, with `restart=` or in a group have a keeper
for each instance; the others are made and dropped at once, without a task.

The least recently used goes first.  An instance with a message anywhere on the way, a retry and a held one too, or with a
pending `ctx.timer`, is not put away.  But while values stand in line, one that has had a turn goes before its next message if
no other can: that message and those after it keep their places, and their value stands in line again, behind the others.
Nothing is kept of a value whose instance is gone, but what it has saved.

The order of use is found when it is asked for: a use only leaves its moment on the instance, and no two have the same.
`_order` is a heap of such moments, each as old as its instance's latest or older; so the first that is still right is of the
least recently used.
"""

import heapq
import math
from collections.abc import Callable
from typing import Any

from flowmesh._core.entry import Entry
from flowmesh._core.supervision import Failure
from flowmesh._core.timers import Timer
from flowmesh._runtime.cell import Cell, Keying
from flowmesh._runtime.ground import Ground
from flowmesh._runtime.instance import Acting, Instance
from flowmesh._runtime.keeper import Keeper, Keepers
from flowmesh._runtime.parking import Waiter
from flowmesh._runtime.quiescence import wait_until
from flowmesh._runtime.scheduler import Scheduler
from flowmesh.policies import Restart

__all__ = ["Instances"]


class Instances:
    """The instances of one actor.

    `active`: all but those in line, by value. `line`: those that wait until another has been put away. `is_kept`: each needs
    a keeper. `group_policy`, `report`: of their keepers, when the actor is in a group; `on_gone`: told when one has gone.
    `put_away`: how many have been. `latest`: the moment at which one of them was used last.
    """

    def __init__(
        self,
        ground: Ground,
        cell: Cell,
        *,
        scheduler: Scheduler,
        keepers: Keepers,
        entering: set[Acting],
        fault: Callable[[BaseException], None],
    ) -> None:
        handler = cell.handler
        self._ground = ground
        self._cell = cell
        self._box = cell.box
        self._scheduler = scheduler
        self._keepers = keepers
        self._entering = entering
        self._fault = fault
        self._keying = cell.keying or Keying()
        self.is_kept = cell.restart is not None or getattr(handler, "hooks", None) is not None
        self.active: dict[Any, Instance] = {}
        self.line: dict[Any, Instance] = {}
        self.put_away = 0
        self.latest = -math.inf
        self.now: Callable[[], float] = ground.now
        self.group_policy: Restart | None = None
        self.report: Callable[[Any, Failure], None] | None = None
        self.on_gone: Callable[[], None] | None = None
        self._order: list[tuple[float, Instance]] = []
        self._is_ordered = self._keying.idle is not None or self._keying.max_active is not None
        self._leaving = 0
        self._idle_timer: Timer | None = None
        self._soon: Timer | None = None

    @property
    def count(self) -> int:
        """How many there are: those that start and those that leave, too."""
        return len(self.active)

    @property
    def waiting(self) -> int:
        """How many values wait in line."""
        return len(self.line)

    def of(self, entry: Entry | None) -> Instance:
        """Return the instance that a copy in hand is handled by."""
        assert entry is not None
        tenant = self._box.lanes[entry.lane].tenant
        assert isinstance(tenant, Instance)
        return tenant

    # Coming

    def lodge(self, value: Any) -> None:
        """Make the instance of a value, or let it stand in line: a message of it has come."""
        instance = Instance(self._cell, value, self)
        self._box.move_in(value, instance)
        if self._is_full and not self.line:  # Otherwise there was nobody to put away for the first in line.
            self._make_room(more=1)
        if not self._is_full:
            self._begin(instance)
            return
        instance.is_waiting = True
        self.line[value] = instance
        self._entering.add(instance)

    def make_way(self, value: Any) -> None:
        """Put one away for those in line: the least recently used, or the one of a value that would be handed a message now."""
        instance = self.active.get(value)
        if instance is None or not instance.may_make_way or self._leaving >= len(self.line) or self._scheduler.stopping:
            return
        if instance.is_resting is None:
            return  # It has had no turn yet, and has stood in line for it.
        first = self._first()
        self._put_away(first if first is not None and first.may_go else instance)

    def _begin(self, instance: Instance) -> None:
        """Make an instance, or start its keeper."""
        self.now = self._ground.now
        instance.is_waiting = False
        self._entering.discard(instance)
        self.active[instance.value] = instance
        self._note_use(instance)
        if self._is_ordered:
            heapq.heappush(self._order, (instance.idle_since, instance))
        self._watch_idle(instance.idle_since)
        if self.is_kept:
            self._keep(instance)
            instance.keeper.bring_up()
            return
        self._make(instance)
        instance.open()

    def _make(self, instance: Instance) -> None:
        """Make what an instance without a keeper handles its messages with."""
        try:
            # In a context of its own: it is neither the turn that a worker does just now, nor a part of it.
            made = self._ground.context.copy().run(instance.handler.make, self._cell.things or {})
        except BaseException as error:  # noqa: BLE001 - as one that fails at the start of the mesh
            self._fault(error)
            return
        instance.set_instance(made)

    def renew(self, entry: Entry) -> None:
        """Make the instance that a copy was handled by anew, whatever its policy: it is ahead of what is saved."""
        instance = self.find(entry)
        if instance is None or instance.is_leaving:
            return
        if instance.keeper is not None:
            self._keepers.renew_instance(instance)
            return
        instance.end_incarnation()
        instance.restarts += 1
        instance.is_ready = False
        self._make(instance)

    def _keep(self, instance: Instance) -> None:
        keeper = self._keepers.keep(instance)
        keeper.group_policy = self.group_policy
        keeper.report = self.report
        keeper.on_end = lambda: self._gone(instance)

    def supervise(self, policy: Restart, report: Callable[[Any, Failure], None], on_gone: Callable[[], None]) -> None:
        """Let a group judge them: each has a keeper from now on."""
        self.is_kept = True
        self.group_policy, self.report, self.on_gone = policy, report, on_gone
        for instance in list(self.active.values()):
            self._keep(instance)

    # Going

    def look_at_line(self) -> None:
        """Take the news that an instance may be able to make room for those in line."""
        if self._soon is None:
            # Soon: what its turn has collected, a timer for one, takes effect after this.
            self._soon = self._ground.ledger.timers.set(self.now(), self._make_room_soon)

    def find(self, entry: Entry) -> Instance | None:
        """Return the instance that lives in a copy's lane, if one does still."""
        lane = self._box.lanes.get(entry.lane)
        return lane.tenant if lane is not None and isinstance(lane.tenant, Instance) else None

    def ended(self, entry: Entry) -> None:
        """Let who waits for its end look: a handler has ended, and its copy may hold the lane on."""
        instance = self.find(entry)
        if instance is not None:
            instance.look()

    def wake(self, waiter: Waiter) -> None:
        """Wake who waits for a change of an instance."""
        self._ground.parking.wake(waiter)

    def cancel(self, instance: Instance) -> None:
        """Cancel the handler that an instance runs: its message goes back."""
        message = instance.message
        if message is not None:
            self._scheduler.cancel_of(self._cell, message)

    @property
    def _is_full(self) -> bool:
        return self._keying.max_active is not None and len(self.active) >= self._keying.max_active

    def _make_room_soon(self, _now: float) -> None:
        self._soon = None
        self._make_room()

    def _make_room(self, more: int = 0) -> None:
        """Put one instance away for each value in line, and so many more; the least recently used of those that may go."""
        last = self.latest
        while self._is_full and self._leaving < len(self.line) + more:
            instance = self._first()
            if instance is None or instance.idle_since > last:
                return  # All have been looked at.
            self._look_at(instance)

    def _note_use(self, instance: Instance) -> None:
        now = self.now()
        instance.idle_since = self.latest = now if now > self.latest else math.nextafter(self.latest, math.inf)

    def _first(self) -> Instance | None:
        """Return the least recently used instance; it is the first in `_order` then."""
        order = self._order
        while order:
            moment, instance = order[0]
            if self.active.get(instance.value) is not instance:
                heapq.heappop(order)
            elif moment < instance.idle_since:
                heapq.heapreplace(order, (instance.idle_since, instance))
            else:
                return instance
        return None

    def _look_at(self, first: Instance) -> None:
        """Put the least recently used instance away; one that is needed, or on its way, counts as used now."""
        if first.may_go:
            heapq.heappop(self._order)
            self._put_away(first)
        else:
            self._note_use(first)

    def _put_away(self, instance: Instance) -> None:
        self.put_away += 1
        self._leave(instance)

    def _leave(self, instance: Instance) -> None:
        """Let an instance go: its lane is closed until it is gone."""
        if instance.is_leaving:
            return
        instance.is_ready = False
        instance.is_leaving = True
        self._leaving += 1
        if instance.keeper is None:
            instance.end_incarnation()
            self._gone(instance)
        else:
            self._entering.add(instance)
            instance.keeper.tell()

    def _gone(self, instance: Instance) -> None:
        """Let the lane of an instance that is gone be looked at again, and the line move on."""
        if self.active.pop(instance.value, None) is None:
            return
        self._leaving -= instance.is_leaving
        self._entering.discard(instance)
        self._box.move_out(instance.value)
        self._move_line()
        for waiter in self._cell.stopping:
            self._ground.parking.wake(waiter)
        if self.on_gone is not None:
            self.on_gone()

    def _move_line(self) -> None:
        while self.line and not self._is_full and not self._scheduler.stopping:
            instance = next(iter(self.line.values()))
            if instance.live:
                del self.line[instance.value]
                self._begin(instance)
            else:
                self._drop(instance)  # Its messages have been withdrawn, or have expired.

    def _drop(self, instance: Instance) -> None:
        """Take one out of the line: its first message will put it there again."""
        del self.line[instance.value]
        self._entering.discard(instance)
        self._box.move_out(instance.value)

    def _forget_line(self) -> None:
        for instance in list(self.line.values()):
            self._drop(instance)

    # Idle ones

    def _watch_idle(self, now: float) -> None:
        if self._keying.idle is not None and self._idle_timer is None:
            self._idle_timer = self._ground.ledger.timers.set(now + self._keying.idle, self._look_idle)

    def _look_idle(self, now: float) -> None:
        """Put away what has had no message for so long; one timer for all, always for the first."""
        idle = self._keying.idle
        assert idle is not None
        self._idle_timer = None
        while (instance := self._first()) is not None:
            due = instance.idle_since + idle
            if due > now:
                self._idle_timer = self._ground.ledger.timers.set(due, self._look_idle)
                return
            self._look_at(instance)

    # Leaving all

    def take_down(self) -> None:
        """Let all go, their handlers cancelled: what they had goes back."""
        self._forget_line()
        for instance in list(self.active.values()):
            keeper: Keeper = instance.keeper
            keeper.take_down()
            self._leave(instance)

    async def leave(self) -> None:
        """Wait until no handler runs, put all instances away, and wait until they are gone.

        Cancellation: they go all the same, once their handlers have ended.
        """
        self._forget_line()
        for instance in list(self.active.values()):
            if instance.keeper is not None:
                self._leave(instance)
            else:
                instance.is_ready = False  # Another actor may be fed from the mailbox by now.
        cell = self._cell
        await wait_until(
            self._ground,
            cell.stoppers(),
            lambda: cell.running == 0 and all(instance.keeper is None for instance in self.active.values()),
        )
        self.clear()

    def clear(self) -> None:
        """Forget all: no handler runs, and the keepers have ended."""
        timers = self._ground.ledger.timers
        self._order.clear()
        self.latest = -math.inf
        for timer in (self._idle_timer, self._soon):
            if timer is not None:
                timers.cancel(timer)
        self._idle_timer = self._soon = None
        self.on_gone = None
        self._forget_line()
        for instance in list(self.active.values()):
            instance.is_ready = False
            instance.end_incarnation()
            self._gone(instance)
