"""Timers: what is due, in which order, and that nothing cancelled is kept."""

import math
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from flowmesh._core.timers import NEVER, TICKS_PER_SECOND, Timer, Timers, tick_of

HALF_TICK: Final = 1 / 2048
"""Exact in floats, and near enough to half a tick that two different times share one."""
WALL: Final = 1024.0


def _fired(timers: Timers, now: float, wall: float = 0.0) -> list[Any]:
    """Take out all that is due and return the actions."""
    return [timer.action for timer in iter(lambda: timers.pop_due(now, wall), None)]


def test_timers_fire_in_the_order_of_their_due_times() -> None:
    """Not before, and a due time in the past is due now."""
    timers = Timers()
    for due in (3.0, 1.0, 2.0, -5.0):
        timers.set(due, due)
    assert (_fired(timers, 0.5), _fired(timers, 2.0), _fired(timers, 9.0)) == ([-5.0], [1.0, 2.0], [3.0])
    assert len(timers) == 0


def test_equal_due_times_fire_in_the_order_in_which_they_were_set() -> None:
    """Also when some of them are cancelled, and when a timer is set while others fire."""
    timers = Timers()
    setting = [timers.set(1.0, number) for number in range(1000)]
    for timer in setting[::3]:
        timers.cancel(timer)
    timers.set(1.0, "last")
    assert _fired(timers, 1.0) == [*(number for number in range(1000) if number % 3), "last"]


def test_absolute_times_follow_the_wall_clock() -> None:
    """Each clock fires its own; due at the same moment, what was set first goes first."""
    timers = Timers()
    timers.set(50.0, "wall", on_wall=True)
    timers.set(5.0, "delay")
    assert timers.next_ticks() == (5_000, 50_000)
    assert (_fired(timers, 5.0, 49.0), _fired(timers, 5.0, 50.0)) == (["delay"], ["wall"])
    timers.set(50.0, "wall", on_wall=True)
    timers.set(5.0, "delay")
    assert _fired(timers, 5.0, 50.0) == ["wall", "delay"]


@given(st.floats(1, 1e9), st.sampled_from([False, True]))
def test_a_due_time_is_rounded_up_to_its_tick(due: float, on_wall: bool) -> None:
    """It fires by the tick that follows its due time, never more than a microsecond (or what floats can say) early."""
    timers = Timers()
    timers.set(due, "x", on_wall=on_wall)
    early, late = due - 2e-6, due + 1.1 / TICKS_PER_SECOND
    assert _fired(timers, *((0.0, early) if on_wall else (early, 0.0))) == []
    assert _fired(timers, *((0.0, late) if on_wall else (late, 0.0))) == ["x"]


def test_a_timer_for_an_infinite_time_never_fires() -> None:
    """It can be set, listed and cancelled like any other."""
    timers = Timers()
    timer = timers.set(math.inf, "never")
    assert timers.next_ticks() == (NEVER, None)
    assert _fired(timers, 1e12) == []
    assert (list(timers), timers.cancel(timer), len(timers)) == ([timer], True, 0)


def test_the_most_overdue_fires_first_whichever_clock_it_is_on() -> None:
    """When the driver is late, lateness is what counts."""
    timers = Timers()
    timers.set(8.0, "2 late")
    timers.set(97.0, "3 late", on_wall=True)
    timers.set(6.0, "4 late")
    assert _fired(timers, 10.0, 100.0) == ["4 late", "3 late", "2 late"]


def test_a_timer_is_cancelled_once_and_never_fires() -> None:
    """Cancelling what was cancelled, or has fired, says False; the action is let go."""
    timers = Timers()
    cancelled, fires = timers.set(1.0, "x"), timers.set(1.0, "y")
    assert (timers.cancel(cancelled), timers.cancel(cancelled)) == (True, False)
    assert (cancelled.action, len(timers)) == (None, 1)
    assert _fired(timers, 1.0) == ["y"]
    assert timers.cancel(fires) is False
    assert len(timers) == 0


def _objects_in(timers: Timers) -> int:
    """Return how many objects the wheel holds, whatever they are."""
    wheels = (timers._monotonic, timers._wall)
    buckets = [bucket for wheel in wheels for bucket in wheel.buckets.values()]
    inside = sum(len(bucket) for bucket in buckets if isinstance(bucket, dict))
    return len(buckets) + inside + sum(len(wheel.ticks) for wheel in wheels) + len(timers._line)


@pytest.mark.parametrize("on_wall", [False, True])
@pytest.mark.parametrize("spread", [1e-6, 1.0])
def test_a_million_timers_set_and_cancelled_leave_nothing(on_wall: bool, spread: float) -> None:
    """Behind one that stays, in one tick or in a tick each, on both clocks: the wheel is as small as before, all the while."""
    timers, most = Timers(), 0
    timers.set(1e9, "stays", on_wall=on_wall)
    for number in range(1_000_000 // 4):  # a million in all
        timers.cancel(timers.set(1e6 + number * spread, number, on_wall=on_wall))
        if number % 1000 == 0:
            most = max(most, _objects_in(timers))
    assert most < 200
    assert (len(timers), [timer.action for timer in timers]) == (1, ["stays"])


def test_a_hundred_thousand_waiting_timers_are_let_go_when_they_are_cancelled() -> None:
    """In any order: neither a tick, nor a bucket, nor an action is kept."""
    timers = Timers()
    setting = [timers.set(number % 977 / 10, object()) for number in range(100_000)]
    assert len(timers) == 100_000
    assert timers.find(setting[5].id) is setting[5]  # so there is an index, too
    for timer in setting[::-1]:
        assert timers.cancel(timer)
    assert _objects_in(timers) < 200
    assert (len(timers), timers._by_id, {timer.action for timer in setting}) == (0, {}, {None})


def test_a_timer_is_found_by_its_id_while_it_is_set() -> None:
    """Before and after the first question, and not once it has fired, or was cancelled."""
    timers = Timers()
    first, second = timers.set(1.0, "first"), timers.set(2.0, "second")
    assert (timers.find(first.id), timers.find(second.id), timers.find(99)) == (first, second, None)
    third = timers.set(3.0, "third", on_wall=True)
    assert timers.find(third.id) is third
    timers.cancel(second)
    assert _fired(timers, 1.0) == ["first"]
    assert [timers.find(timer.id) for timer in (first, second, third)] == [None, None, third]


def test_a_moved_timer_keeps_its_id_and_goes_last_among_equals() -> None:
    """Moving is as setting anew: to another time, to the other clock, or out of the line of those that are due."""
    timers = Timers()
    early, late, due = timers.set(1.0, "early"), timers.set(5.0, "late"), timers.set(1.0, "due")
    number = early.id
    assert timers.move(early, 5.0)
    assert (early.id, timers.find(number)) == (number, early)
    assert timers.pop_due(1.0, 0.0) is due
    assert not timers.move(due, 9.0)
    others = [timers.set(6.0, "a"), timers.set(6.0, "b")]
    assert timers.pop_due(6.0, 0.0) is late
    assert timers.move(others[0], 50.0, on_wall=True)
    assert (_fired(timers, 6.0, 49.0), _fired(timers, 6.0, 50.0)) == (["early", "b"], ["a"])


def test_what_is_held_stays_set_and_is_not_due_until_it_is_released() -> None:
    """With its id and its turn; it can be cancelled and moved meanwhile."""
    timers = Timers()
    setting = [timers.set(1.0, name) for name in "abcd"]
    for _ in setting:
        timer = timers.pop_due(1.0, 0.0)
        assert timer is not None
        timers.hold(timer)
    assert (len(timers), _fired(timers, 9.0), timers.find(setting[0].id)) == (4, [], setting[0])
    assert timers.cancel(setting[1])
    assert timers.move(setting[2], 3.0)
    timers.set(1.0, "new")
    timers.release()
    assert (_fired(timers, 1.0), _fired(timers, 3.0)) == (["a", "d", "new"], ["c"])


def test_a_run_ends_at_the_first_timer_of_another_type() -> None:
    """Of so many at most, in order; what was cancelled is passed over."""
    timers = Timers()
    for action in ("a", "b", "c", 1, "d"):
        timers.set(1.0, action)
    timers.cancel(next(timer for timer in timers if timer.action == "b"))
    runs = [[timer.action for timer in timers.pop_run(str, limit, 1.0, 0.0)] for limit in (1, 9, 9)]
    assert runs == [["a"], ["c"], []]
    assert _fired(timers, 1.0) == [1, "d"]


@given(st.lists(st.floats(0, 100), max_size=60), st.floats(-1e12, 1e12))
def test_rebase_keeps_what_is_left_and_the_order(dues: list[float], difference: float) -> None:
    """Delays are what is left of them on the other clock, absolute times stay; equal ones in the order of setting."""
    timers = Timers()
    setting = [timers.set(due, number) for number, due in enumerate(dues)]
    absolute = timers.set(50.0, "wall", on_wall=True)
    timers.rebase(difference)
    assert [timer.due for timer in setting] == [due + difference for due in dues]
    assert absolute.due == 50.0
    expected = sorted(range(len(dues)), key=lambda number: (dues[number] + difference, number))
    assert _fired(timers, 200.0 + difference) == expected
    assert len(timers) == 1


class TimersMachine(RuleBasedStateMachine):
    """Timers against a list that is sorted each time. Times are whole and half ticks, so that a tick holds different ones."""

    def __init__(self) -> None:
        super().__init__()
        self.timers = Timers()
        self.now = 0.0
        self.turn = 0
        self.set: dict[Timer, int] = {}  # with its turn among equals
        self.held: set[Timer] = set()

    @rule(ticks=st.integers(-4, 40), on_wall=st.booleans(), many=st.sampled_from([1, 1, 70]))
    def set_some(self, ticks: int, on_wall: bool, many: int) -> None:
        for _ in range(many):
            self.note(self.timers.set(self.time(ticks, on_wall), object(), on_wall=on_wall))

    @precondition(lambda self: self.set)
    @rule(data=st.data(), most=st.booleans())
    def cancel(self, data: st.DataObject, most: bool) -> None:
        for timer in list(self.set)[1:] if most else [self.one_of(data)]:
            assert self.timers.cancel(timer)
            assert not self.timers.cancel(timer)
            self.forget(timer)

    @precondition(lambda self: self.set)
    @rule(data=st.data(), ticks=st.integers(-4, 40), on_wall=st.booleans())
    def move(self, data: st.DataObject, ticks: int, on_wall: bool) -> None:
        timer = self.one_of(data)
        assert self.timers.move(timer, self.time(ticks, on_wall), on_wall=on_wall)
        self.held.discard(timer)
        self.note(timer)

    @rule(ticks=st.integers(0, 20), at_most=st.sampled_from([1, 3, 1000]), holds=st.booleans(), in_runs=st.booleans())
    def fire(self, ticks: int, at_most: int, holds: bool, in_runs: bool) -> None:
        """All that is due, or only some of it: then the others stand in line, and can still be cancelled and moved."""
        self.now += ticks * HALF_TICK
        due = sorted((timer for timer in self.set if timer not in self.held and self.ticks_left(timer) <= 0), key=self.rank)
        fired: list[Timer] = []
        while len(fired) < min(at_most, len(due)):
            if in_runs:
                fired += self.timers.pop_run(object, at_most - len(fired), self.now, self.now + WALL)
            else:
                timer = self.timers.pop_due(self.now, self.now + WALL)
                assert timer is not None
                fired.append(timer)
        assert fired == due[:at_most]
        assert not any(timer.is_set for timer in fired)
        for timer in fired:
            if holds:
                self.timers.hold(timer)
                self.held.add(timer)
            else:
                self.forget(timer)
        if len(fired) == len(due):
            assert self.timers.pop_due(self.now, self.now + WALL) is None

    @rule()
    def release(self) -> None:
        self.timers.release()
        self.held.clear()

    @rule(seconds=st.integers(-5, 5))
    def rebase(self, seconds: int) -> None:
        """The monotonic clock counts from elsewhere: nothing is nearer or further away than before."""
        before = {timer: timer.due - self.now for timer in self.set if not timer.on_wall}
        self.timers.rebase(float(seconds))
        for timer, left in before.items():
            assert timer.due == self.now + left + seconds
        self.timers.rebase(float(-seconds))

    @rule(data=st.data())
    def find(self, data: st.DataObject) -> None:
        for timer in self.set:
            assert self.timers.find(timer.id) is timer
        assert self.timers.find(0) is None

    def time(self, ticks: int, on_wall: bool) -> float:
        return self.now + ticks * HALF_TICK + (WALL if on_wall else 0.0)

    def note(self, timer: Timer) -> None:
        self.turn += 1
        self.set[timer] = self.turn

    def forget(self, timer: Timer) -> None:
        del self.set[timer]
        self.held.discard(timer)

    def one_of(self, data: st.DataObject) -> Timer:
        return data.draw(st.sampled_from(list(self.set)))

    def ticks_left(self, timer: Timer) -> int:
        now = self.now + (WALL if timer.on_wall else 0.0)
        return tick_of(timer.due) - int(now * TICKS_PER_SECOND)

    def rank(self, timer: Timer) -> tuple[int, float, int]:
        left = timer.due - (WALL if timer.on_wall else 0.0)
        return self.ticks_left(timer), left, self.set[timer]

    @invariant()
    def all_that_is_set_is_there_once(self) -> None:
        assert sorted(timer.id for timer in self.timers) == sorted(timer.id for timer in self.set)
        for on_wall, tick in zip((False, True), self.timers.next_ticks(), strict=True):
            waiting = (timer for timer in self.set if timer.on_wall is on_wall and timer not in self.held)
            assert tick == min((tick_of(timer.due) for timer in waiting), default=None)


def test_timers_agree_with_a_sorted_list() -> None:
    """Whatever is set, cancelled, moved, fired, held and rebased, on both clocks."""
    run_state_machine_as_test(TimersMachine, settings=settings(stateful_step_count=30))
