"""Schedules: what fires again and again while a mesh runs.

A schedule has at most one timer set, for its next due time, and one for what is to be done at once.  Which due times have
been dealt with is the business of its Course (core); a plain interval is about the monotonic clock and begins anew at each
start of its mesh, everything else is about the wall clock and goes on where it was.  A fire is published when it is made and
never refused; `Round` follows its copies, so that the next fire knows whether it would overlap.

With a store every schedule goes on where it was, in the next process too: what it remembers is in the same commit as the
copies of each fire (`Remembering`), and what was going on when the process ended is taken from there.  Since an absence can
only be measured by the wall clock, a plain interval finds out by that how long it was; one set back meanwhile counts as none.
"""

import datetime
import itertools
import math
import random
from collections.abc import Iterator
from typing import Any, Final

from flowmesh._core.exchanges import Exchange
from flowmesh._core.schedules import LOOKED_BACK, Course, Interval, Plan, on_overlap
from flowmesh._core.standing import Backlog, Standing, resume, rule_of
from flowmesh._core.timers import Timer
from flowmesh._runtime.driver import WALL_JUMP
from flowmesh._runtime.firing import Round, id_of
from flowmesh._runtime.ground import TURN_MESSAGES, Ground, Phase
from flowmesh._runtime.journal import REST
from flowmesh._runtime.remembering import Remembering
from flowmesh._runtime.scheduler import Scheduler
from flowmesh._runtime.statistics import ScheduleStatistics
from flowmesh.checks import is_whole, require
from flowmesh.errors import MeshStopped, PreconditionFailed, StoreError, StoreFull
from flowmesh.message import Fire

__all__ = ["Schedule"]

_TICK: Final = 1e-6
"""Seconds: what a due time in an id is exact to."""
_LAST: Final = datetime.datetime(9999, 12, 31, tzinfo=datetime.UTC).timestamp()
"""The end of the times that a datetime tells in every zone."""


class Schedule:
    """A rule that makes messages again and again.

    `fired`, `skipped` (the one before was not settled) and `missed` (nobody was there in time, and it was not made up for)
    count fires since the declaration. A fire's message has the id `<name>@<due>`, the due time in UTC, and is made once.
    """

    _ground: Ground
    _exchange: Exchange
    _key: str
    _scheduler: Scheduler

    def __init__(self, name: str, plan: Plan, body: Any, aim: tuple[Any, str]) -> None:
        self.name = name
        self.fired = 0
        self.skipped = 0
        self.missed = 0
        self.is_paused = False
        self.is_cancelled = False
        self.known_in: list[dict[str, Schedule]] = []
        self._plan = plan
        self._body = body
        self._aim = aim  # the handle of what it fires at, and the key
        self._course: Course | None = None
        self._is_running = False
        self._timer: Timer | None = None  # for the next due time
        self._soon: Timer | None = None  # for what is to be done at once
        self._due: float | None = None  # what the timer is for, on the schedule's own clock
        self._late = 0.0  # how much later than that the timer is set on purpose
        self._offset = 0.0  # from the schedule's own clock to the wall clock
        self._told = -math.inf  # the last due time, in wall time, that an id was made of
        self._triggered = -math.inf  # the last one of `trigger_now`
        self._anchor = 0.0  # of a plain interval, in wall time as ids tell it
        self._backlog = Backlog()  # due times, in wall time, that are still to be fired
        self._unreported = 0  # missed since the last fire
        self._memory = Remembering(name, self._backlog, self._stand)
        self._has_been_told = False  # to pause, or not to, while the mesh did not run
        self._round = Round(self._go_on)

    def __repr__(self) -> str:
        return f"<Schedule {self.name!r}>"

    def is_declared_as(self, plan: Plan, *, body: Any, aim: tuple[Any, str]) -> bool:
        """It is what this declares: the same due times, the same message to the same target."""
        is_same_aim = aim[0] is self._aim[0] and aim[1] == self._aim[1]
        is_same_body = body is self._body or (type(body) is type(self._body) and bool(body == self._body))
        return is_same_aim and is_same_body and plan == self._plan

    def attach(self, ground: Ground, exchange: Exchange, *, key: str, scheduler: Scheduler) -> None:
        """Fire into this exchange from now on: it has been declared in a mesh, or its part has been added to one."""
        self._ground = ground
        self._exchange = exchange
        self._key = key
        self._scheduler = scheduler
        self._has_lost_target = False

    # What users ask and say

    @property
    def next_fire(self) -> datetime.datetime | None:
        """When it is due next (aware), or None: it is paused, cancelled or over, waits for a fire, or its mesh does not run."""
        if self._due is None or self.is_paused or self._due + self._offset >= _LAST:
            return None
        return self._told_as(self._due + self._offset)

    def upcoming(self, limit: int = 10, *, after: datetime.datetime | None = None) -> list[datetime.datetime]:
        """Return the next due times, also before the mesh runs; a pause is not looked at.

        Without `start=`, an interval counts from the start of its mesh: before that, as if it started now. With
        `fixed_delay=True` it is as if every fire were settled at once.

        Args:
            limit: how many, at most; at least 1. What comes after the year 9999 is left out.
            after: the first one is later than this; None means now.

        Raises:
            ValueError: `after` has no time zone, or `limit` is no whole number of at least 1.
        """
        require(is_whole(limit) and limit >= 1, "limit", "a whole number of at least 1", limit)
        if after is not None and after.tzinfo is None:
            raise ValueError(f"after must have a time zone, as in datetime.now(UTC), not {after!r}")
        if self.is_cancelled:
            return []
        dues = itertools.takewhile(lambda due: due < _LAST, self._dues(None if after is None else after.timestamp()))
        found = itertools.islice(dues, limit)
        return [self._told_as(due) for due in found]

    def pause(self) -> None:
        """Fire no more until `resume`; due times meanwhile are passed over. Idempotent.

        A fire that has come due and has not been made, as it waits for its jitter, is missed. With a store a pause outlives
        the process. What is said before the mesh starts stands, whatever the store says.
        """
        if self._give_up_late():
            self._set_next()
        self.is_paused = True
        self._has_been_told = not self._is_running
        self._give_up_arrived()
        self._remember()

    def resume(self) -> None:
        """Fire again, at the due times that it would have had. Idempotent."""
        if self.is_paused and self._is_running and self._course is not None:
            moment = self._moment()
            self._course.pass_over(moment)
            if self._due is not None and self._due <= moment:
                self._set_next()
        self.is_paused = False
        self._has_been_told = not self._is_running
        self._remember()
        self._go_on()

    def cancel(self) -> None:
        """End it for good: its name is free again, what has been fired goes on, what waits is skipped. Idempotent.

        A store forgets it, too, if the mesh runs.
        """
        was_running = self._is_running
        self.is_cancelled = True
        self.skipped += self._backlog.drop_waiting()
        self.stop()
        if was_running:
            self._memory.forget(self._ground)
        for schedules in self.known_in:
            if schedules.get(self.name) is self:
                del schedules[self.name]
        self.known_in.clear()

    def trigger_now(self) -> bool:
        """Fire now, beside its due times, even if it is paused; `overlap` counts for this one as well.

        Returns:
            False if it was skipped, or went nowhere.

        Raises:
            NotRunning, MeshStopped: its mesh does not run, or drains.
            MeshError: called from a foreign thread.
            PreconditionFailed: it is cancelled.
        """
        ground = self._ground
        if self.is_cancelled:
            raise PreconditionFailed(f"schedule {self.name!r} is cancelled: declare it anew to fire it")
        ground.check_sender()
        if ground.phase is not Phase.RUNNING:
            raise MeshStopped(f"mesh {ground.name!r} {ground.phase.value}: its schedules fire no more")
        now = max(self._moment() + self._offset, self._triggered + _TICK)
        following = None if self._due is None else self._due + self._offset
        while now in (self._told, following) or now in self._backlog.waiting:
            now += _TICK  # Its id is its own.
        self._triggered = now
        is_made = self._offer(now)
        self._remember()
        return is_made

    def statistics(self) -> ScheduleStatistics:
        """Return the numbers of this moment."""
        return ScheduleStatistics(
            fired=self.fired,
            skipped=self.skipped,
            missed=self.missed,
            waiting=len(self._backlog.waiting),
            next_fire=self.next_fire,
            paused=self.is_paused,
        )

    # What the mesh says

    def forget(self) -> None:
        """Remember no due time that was dealt with: the next run is the first. For tests, whose clock begins anew."""
        if not self._is_running:
            self._course = None
            self._told = -math.inf

    def start(self) -> None:
        """Begin. The mesh calls this."""
        if self.is_cancelled:
            return
        ground = self._ground
        now, wall = ground.now(), ground.clock.wall()
        self._is_running = True
        standing = self._memory.recall(ground)
        if self._memory.is_on:
            self._round = Round(self._go_on)  # What there was of another one has come back as copies that know no round.
        is_known = standing is not None and self._take_up(standing, now, wall)
        if not is_known:
            if self._course is None or not self._plan.on_wall:
                self._course = self._plan.course_from(wall if self._plan.on_wall else now, wall, told=self._told)
            self._set_offset(now, wall)
            self._anchor = now + self._offset
            self._memory.change()
        self._has_been_told = False
        if not self._plan.fixed_delay:
            self._look(self._moment(), late=0.0)
        elif not (self._round.is_open or self._due is not None):
            assert self._course is not None
            self._set_timer(self._course.next(self._course.end))
        self._go_on()
        self._memory.write(ground)

    def _set_offset(self, now: float, wall: float, lived: float = -math.inf) -> None:
        if not self._plan.on_wall:
            # Ids go on from where an earlier run had come to, should the wall clock have been set back meanwhile.
            self._offset = max(wall, self._told, lived) - now

    def _take_up(self, standing: Standing, now: float, wall: float) -> bool:
        """Go on where it stood, and be paused if it was; False if it has another rule than it had."""
        ground, plan = self._ground, self._plan
        self._told, self._triggered = standing.told, standing.triggered
        was_paused = standing.is_paused
        if not self._has_been_told:
            if was_paused and not self.is_paused:
                ground.log.warning(
                    "schedule %r is paused, as it was when its mesh ended: resume() it to have it fire", self.name
                )
            self.is_paused = was_paused
        if standing.rule != rule_of(plan):
            ground.log.info("schedule %r has another rule than in the store: it begins anew", self.name)
            self._backlog.drop_waiting()
            self._backlog.drop_arrived()
            self._course = None
            return False
        self._unreported = standing.missed
        self._anchor = standing.anchor
        self._set_offset(now, wall, max((end for _, end in standing.lived), default=-math.inf))
        if plan.fixed_delay:
            self._course = plan.course_from(now, wall, told=self._told)
            if standing.due is not None:
                # Late, or as early as it can be: it was set by a clock that may have been set since.
                due = max(now, min(standing.due - self._offset, self._course.next(now) or math.inf))
                self._course = plan.course_at(due)
                self._set_timer(due)
            return True
        moment = wall if plan.on_wall else now
        self._course = resume(plan, standing, moment, self._offset)
        if was_paused and not self.is_paused:
            self._course.pass_over(moment)
        arrived = self._backlog.drop_arrived()
        in_time = self._course.in_time(arrived, moment + self._offset)
        self._backlog.arrive(in_time)
        self._note_missed(len(arrived) - len(in_time))
        return True

    def stop(self) -> None:
        """Set no more timers; what waits for the fire before it goes on when the mesh is entered again. The mesh calls this."""
        if not self._is_running:
            return
        if not (self._memory.is_on or self._plan.on_wall):
            self._give_up_late()  # The next run begins anew.
        self._is_running = False
        self._clear_timer()
        if self._soon is not None:
            self._ground.ledger.timers.cancel(self._soon)
            self._soon = None
        waiting = len(self._backlog.waiting)
        if self._memory.is_on:
            self._memory.write(self._ground)
            self._backlog.clear()  # The store has it.
        else:
            self._give_up_arrived()
        if waiting and not self.is_cancelled:
            self._ground.log.warning(
                "schedule %r stops while %d of its fires wait for the one before: they are made when the mesh is entered again",
                self.name,
                waiting,
            )

    def look_again(self) -> None:
        """Look at the clock now: it may have been set. The mesh calls this."""
        if not self._is_running:
            return
        if self._plan.on_wall:
            self._clear_timer()
            self._look(self._moment(), late=0.0)
        else:
            # Its due times stay. What they are called follows the wall clock ahead, never back: no id is made twice.
            ahead = self._ground.clock.wall() - self._ground.now() - self._offset
            if ahead > WALL_JUMP:
                self._offset += ahead
                self._anchor += ahead

    # Due times

    def _moment(self) -> float:
        """Return the time on its own clock: a monotonic one is never before where the course has come to, not by rounding."""
        if self._plan.on_wall:
            return self._ground.clock.wall()
        now = self._ground.now()
        return now if self._course is None else max(now, self._course.end)

    def _come_due(self, _now: float) -> None:
        assert self._timer is not None
        moment, late = max(self._moment(), self._timer.due), self._late
        self._timer = self._due = None
        self._look(moment, late=late)

    def _look(self, moment: float, *, late: float) -> None:
        """Deal with what has come due, and set the timer for what comes next."""
        assert self._course is not None
        if self.is_paused:
            self._course.pass_over(moment)
            self._memory.change()
        else:
            arrival = self._course.arrive(moment, late=late)
            self._note_missed(arrival.missed)
            if arrival.is_cut:
                self._ground.log.warning(
                    "schedule %r was away for more than %d due times: older ones are not counted", self.name, LOOKED_BACK
                )
            if arrival.due or arrival.missed:
                self._backlog.arrive(due + self._offset for due in arrival.due)
                self._memory.change()
        self._work()
        if not self._plan.fixed_delay:
            self._set_timer(self._course.next(moment))

    def _set_timer(self, due: float | None) -> None:
        self._due, self._late = due, 0.0
        if due is None:
            return
        plan = self._plan
        if plan.jitter:
            assert self._course is not None
            following = None if plan.fixed_delay else self._course.next(due)
            most = plan.jitter if following is None else min(plan.jitter, following - due)
            self._late = most * random.random()  # noqa: S311 - spreads load, guards nothing
        self._timer = self._ground.ledger.timers.set(due + self._late, self._come_due, on_wall=plan.on_wall)

    def _set_next(self) -> None:
        """Set the timer for the next due time, in place of one that has been dealt with before its time."""
        assert self._course is not None
        self._clear_timer()
        if self._plan.fixed_delay:
            self._go_on()
        else:
            self._set_timer(self._course.next(self._moment()))

    def _clear_timer(self) -> None:
        self._due = None
        if self._timer is not None:
            self._ground.ledger.timers.cancel(self._timer)
            self._timer = None

    def _dues(self, after: float | None) -> Iterator[float]:
        """Its due times in wall time, after a moment of it."""
        plan, course, offset = self._plan, self._course, self._offset
        now = wall = self._ground.clock.wall()
        if self._is_running and not plan.on_wall:
            now = self._ground.now()
        elif course is None or not plan.on_wall:
            course, offset = plan.course_from(wall, wall), 0.0
        assert course is not None
        if self._is_running and plan.fixed_delay and self._due is None:
            course = plan.course_from(now, math.inf)
        moment: float | None = now if after is None else after - offset
        while moment is not None:
            moment = course.next(moment)
            if moment is not None:
                yield moment + offset

    def _told_as(self, wall: float) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(wall, self._plan.zone)

    def _note_missed(self, count: int) -> None:
        if count:
            self.missed += count
            self._unreported += count
            self._ground.log.info("schedule %r missed %d of its due times: nobody was there in time", self.name, count)

    def _give_up_arrived(self) -> None:
        self._note_missed(len(self._backlog.drop_arrived()))

    def _give_up_late(self) -> bool:
        """Give up a fire that has come due and waits for its jitter; False if there is none: a pause has passed over it."""
        if self.is_paused or self._due is None or not self._late or self._due > self._moment():
            return False
        assert self._course is not None
        arrival = self._course.arrive(self._moment())
        self._note_missed(len(arrival.due) + arrival.missed)
        return True

    # What it remembers

    def _remember(self) -> None:
        """Write where it stands: that has changed."""
        if self._is_running:
            self._memory.change()
            self._memory.write(self._ground)

    def _stand(self, done: int) -> Standing:
        """Return where it stands; `done`: of its backlog."""
        plan, course, offset = self._plan, self._course, self._offset
        assert course is not None
        lived, number = course.lived, 0
        if plan.fixed_delay:
            lived = ()
        elif not plan.on_wall:
            assert isinstance(course.rule, Interval)
            lived, number = ((course.end + offset, course.end + offset),), course.rule.number(course.end)
        return Standing(
            rule=rule_of(plan),
            lived=lived,
            here=course.here if plan.on_wall else 0,
            anchor=self._anchor,
            number=number,
            due=self._due + offset if plan.fixed_delay and self._due is not None else None,
            told=self._told,
            triggered=self._triggered,
            missed=self._unreported,
            is_paused=self.is_paused,
            done=done,
            waiting=len(self._backlog.waiting),
        )

    # Fires

    def _work(self, _now: float = 0.0) -> None:
        """Fire what waited for the one before, then what has come due: one, usually, or a turn's worth of many."""
        self._soon = None
        backlog = self._backlog
        if backlog.waiting and not (self._round.is_open or self.is_paused):
            self._send(backlog.next_waiting())
        for _ in range(min(TURN_MESSAGES, len(backlog.arrived))):
            self._memory.change()
            self._offer(backlog.next_arrived())
        self._go_on()
        self._memory.write(self._ground)

    def _go_on(self) -> None:
        """See what can be done now, and let it be done soon; also called in the middle of a commit, when a round has ended."""
        if not self._is_running:
            return
        must_write = False
        if self._plan.fixed_delay and not self._round.is_open and self._due is None:
            self._course = self._plan.course_from(self._ground.now(), math.inf)
            self._set_timer(self._course.next(self._ground.now()))
            must_write = self._memory.change()
        can_send = bool(self._backlog.waiting) and not (self._round.is_open or self.is_paused)
        if (can_send or self._backlog.arrived or must_write) and self._soon is None:
            self._soon = self._ground.ledger.timers.set(self._ground.now(), self._work)

    def _offer(self, due: float) -> bool:
        """Fire, skip, or wait, as the rule for overlaps says; `due` is in wall time."""
        waiting = len(self._backlog.waiting)
        match on_overlap(self._plan.overlap or "allow", is_open=self._round.is_open, waiting=waiting):
            case "fire":
                return self._send(due)
            case "wait":
                self._backlog.wait(due)
                return True
            case "overtake":
                self.skipped += self._backlog.drop_waiting()
                self._backlog.wait(due)
                self._round.cancel(self._ground, self._scheduler)
                return True
            case "skip":
                self.skipped += 1
                self._ground.log.debug("schedule %r skipped a fire: the previous one is not settled yet", self.name)
                return False

    def _send(self, due: float) -> bool:
        """Make the message of a fire, and publish it."""
        ground, exchange = self._ground, self._exchange
        if exchange.deleted:
            if not self._has_lost_target:
                self._has_lost_target = True
                ground.log.warning(
                    "schedule %r fires into exchange %r, which is gone: cancel it (said once)", self.name, exchange.name
                )
            return False
        fire = Fire(
            schedule=self.name,
            scheduled=self._told_as(due),
            fired=self._told_as(due if due == self._triggered else ground.clock.wall()),
            missed=self._unreported,
            previous=None if self._round.is_open else self._round.outcome,
        )
        self.fired += 1
        self._unreported = 0
        self._told = max(self._told, due)
        self._round = Round(self._go_on)
        self._memory.change()
        mailboxes = ground.router.route(exchange, self._key, {})
        if mailboxes:
            if self._plan.fixed_delay:
                self._clear_timer()

            def on_written(error: StoreError | None) -> None:
                self._memory.note(error)
                if error is not None:
                    self._take_back(due, fire.missed, error)

            kept = self._memory.keeps(ground)
            self._round.publish(
                ground, exchange, mailboxes, key=self._key, body=self._body, fire=fire, kept=kept, on_written=on_written
            )
        else:
            ground.note_unroutable(exchange.name, self._key, id_of(fire))
        if self._plan.fixed_delay:
            self._clear_timer()
            self._go_on()
        return bool(mailboxes)

    def _take_back(self, due: float, missed: int, error: StoreError) -> None:
        """Let a fire that could not be stored be made when it can be."""
        self.fired -= 1
        self._unreported += missed
        if not isinstance(error, StoreFull) or not self._is_running:
            return  # The store does not know of it: it is made up for when that is opened again.
        course, moment = self._course, self._moment() + self._offset
        assert course is not None
        self._ground.log.warning("schedule %r could not store a fire, and tries again in %g s: %s", self.name, REST, error)
        backlog = self._backlog
        backlog.put_back(due)
        arrived = backlog.drop_arrived()
        chosen = course.choose(sorted(arrived), moment)
        backlog.arrive(chosen)
        self._note_missed(len(arrived) - len(chosen))
        self._memory.change()
        if self._soon is None:
            self._soon = self._ground.ledger.timers.set(self._ground.now() + REST, self._work)
