"""Timers: what is due, in which order, and that nothing cancelled is kept."""

import gc
import math
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from msgspec import Struct

from flowmesh._core.timers import NEVER, TICKS_PER_SECOND, Item, Timer, Timers, tick_of
from flowmesh._core.wheel import due_of, timer_of
from flowmesh.message import Message

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
    inside = sum(len(bucket) for bucket in buckets if isinstance(bucket, list))
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


def test_deferred_messages_are_taken_out_up_to_the_first_other_timer() -> None:
    """Of so many at most, in order, whatever their ticks; what was cancelled is passed over."""
    timers = Timers()
    a, b, c, d = (Message("m-", number, None) for number in range(4))
    setting = [timers.set(due, action) for due, action in ((1.0, a), (1.1, b), (1.2, c), (1.3, "other"), (1.4, d))]
    timers.cancel(setting[1])
    runs = [[_message(item) for item in timers.pop_deferrals(limit, 2.0, 0.0)] for limit in (1, 9, 9)]
    assert runs == [[a], [c], []]
    assert _fired(timers, 2.0) == ["other", d]


def _message(item: Item) -> Message:
    return item if isinstance(item, Message) else item.action


def test_a_message_may_be_its_own_timer() -> None:
    """It is due at its timestamp with its serial as the id, in its turn; it gets a timer only when one is asked for."""
    timers = Timers()
    timers.set(1.0, "first")
    messages = [Message("m-", next(timers.numbers), None, timestamp=due) for due in (1.0, 3.0, 1.0, 2.0)]
    for message in messages:
        timers.defer(message)
    timers.set(1.0, "last")
    assert timers.next_ticks() == (1000, None)
    assert timers.pop_deferrals(9, 1.0, 0.0) == []  # a timer that is none is the next one
    fired = [timers.pop_due(1.0, 0.0) for _ in range(4)]
    assert [timer.action for timer in fired if timer] == ["first", messages[0], messages[2], "last"]
    assert timers.pop_deferrals(9, 2.0, 0.0) == [messages[3]]
    assert messages[3].timestamp == 2.0
    (timer,) = timers
    assert (timer.id, timer.due, timer.action, messages[1].timestamp) == (messages[1].serial, 3.0, messages[1], 0.0)
    assert timers.find(timer.id) is timer
    newest = Message("m-", next(timers.numbers), None, timestamp=2.5)
    timers.defer(newest)  # there is an index now, which must know it
    found = timers.find(timer.id + 4)
    assert found is not None
    assert found.action is newest
    assert timers.cancel(found)
    assert _fired(timers, 9.0) == [messages[1]]


def test_what_stands_in_line_can_be_asked_for() -> None:
    """A message that is its own timer gets one there as well, and can be cancelled and moved."""
    timers = Timers()
    messages = [Message("m-", next(timers.numbers), None, timestamp=due) for due in (1.0, 1.1, 1.2, 1.3)]
    for message in messages:
        timers.defer(message)
    assert timers.pop_deferrals(1, 2.0, 0.0) == [messages[0]]
    second, third, fourth = sorted(timers, key=lambda timer: timer.due)
    assert timers.cancel(second)
    assert timers.move(third, 5.0)
    assert _fired(timers, 9.0) == [messages[3], messages[2]]
    assert not fourth.is_set


def test_a_timer_beside_messages_can_be_cancelled() -> None:
    """The last of its tick takes its place, a message too, and they still go in the order in which they were set."""
    timers = Timers()
    messages = [Message("m-", next(timers.numbers), None, timestamp=1.0) for _ in range(2)]
    timer = timers.set(1.0, "a timer")
    for message in messages:
        timers.defer(message)
    assert timers.cancel(timer)
    assert timers.pop_deferrals(9, 1.0, 0.0) == messages


def test_what_is_set_late_goes_before_what_was_due_after_it() -> None:
    """Also when those already stand in line to be taken out."""
    timers = Timers()
    for due in (1.0, 2.0, 3.0):
        timers.set(due, Message("m-", 0, due))
    first = timers.pop_deferrals(1, 9.0, 0.0)
    timers.set(2.5, Message("m-", 0, 2.5))
    assert [due_of(item) for item in (*first, *timers.pop_deferrals(9, 9.0, 0.0))] == [1.0, 2.0, 2.5, 3.0]


def test_the_garbage_collector_knows_nothing_of_deferred_messages() -> None:
    """A hundred thousand of them are not looked at by each collection, and do not make it collect."""
    timers = Timers()
    assert not gc.is_tracked(timers.set(1.0, Message("m-", 1, [])))
    assert gc.is_tracked(timers.set(1.0, []))


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


class Waiting(Struct):
    """What the machine knows of one that is set. `turn`: among equals."""

    due: float
    on_wall: bool
    turn: int
    is_held: bool = False


class TimersMachine(RuleBasedStateMachine):
    """Timers against a list that is sorted each time. Times are whole and half ticks, so that a tick holds different ones.

    What is set is known by its id: a message that is its own timer has no other until somebody asks.
    """

    def __init__(self) -> None:
        super().__init__()
        self.timers = Timers()
        self.now = 0.0
        self.turn = 0
        self.set: dict[int, Waiting] = {}

    @rule(ticks=st.integers(-4, 40), on_wall=st.booleans(), many=st.sampled_from([1, 1, 70]))
    def set_some(self, ticks: int, on_wall: bool, many: int) -> None:
        for _ in range(many):
            due = self.time(ticks, on_wall)
            timer = self.timers.set(due, Message("m-", 1, None), on_wall=on_wall)
            self.set[timer.id] = Waiting(due, on_wall, self.next_turn())

    @rule(ticks=st.integers(-4, 40), many=st.sampled_from([1, 1, 70]), directly=st.booleans())
    def defer_some(self, ticks: int, many: int, directly: bool) -> None:
        """Messages that are their own timers; `directly`: as senders put them where others of their tick are."""
        for _ in range(many):
            due = self.time(ticks, False)
            number = self.timers.give_number()
            message = Message("m-", number, None, timestamp=due)
            bucket = self.timers.deferring.get(tick_of(due)) if directly else None
            if isinstance(bucket, list):
                bucket.append(message)
            else:
                self.timers.defer(message)
            self.set[number] = Waiting(due, False, self.next_turn())

    @precondition(lambda self: self.set)
    @rule(data=st.data(), most=st.booleans())
    def cancel(self, data: st.DataObject, most: bool) -> None:
        for number in list(self.set)[1:] if most else [self.one_of(data)]:
            timer = self.timer(number)
            assert self.timers.cancel(timer)
            assert not self.timers.cancel(timer)
            del self.set[number]

    @precondition(lambda self: self.set)
    @rule(data=st.data(), ticks=st.integers(-4, 40), on_wall=st.booleans())
    def move(self, data: st.DataObject, ticks: int, on_wall: bool) -> None:
        number = self.one_of(data)
        due = self.time(ticks, on_wall)
        assert self.timers.move(self.timer(number), due, on_wall=on_wall)
        self.set[number] = Waiting(due, on_wall, self.next_turn())

    @rule(ticks=st.integers(0, 20), at_most=st.sampled_from([1, 3, 1000]), holds=st.booleans(), in_runs=st.booleans())
    def fire(self, ticks: int, at_most: int, holds: bool, in_runs: bool) -> None:
        """All that is due, or only some of it: then the others stand in line, and can still be cancelled and moved."""
        self.now += ticks * HALF_TICK
        due = sorted(
            (number for number, one in self.set.items() if not one.is_held and self.ticks_left(one) <= 0),
            key=lambda number: self.rank(self.set[number]),
        )
        fired: list[Timer] = []
        while len(fired) < min(at_most, len(due)):
            if in_runs:
                run = self.timers.pop_deferrals(at_most - len(fired), self.now, self.now + WALL)
                fired += [timer_of(item) if isinstance(item, Message) else item for item in run]
            else:
                timer = self.timers.pop_due(self.now, self.now + WALL)
                assert timer is not None
                fired.append(timer)
        assert [timer.id for timer in fired] == due[:at_most]
        assert [timer.due for timer in fired] == [self.set[timer.id].due for timer in fired]
        assert not any(timer.is_set for timer in fired)
        for timer in fired:
            if holds:
                self.timers.hold(timer)
                self.set[timer.id].is_held = True
            else:
                del self.set[timer.id]
        if len(fired) == len(due):
            assert self.timers.pop_due(self.now, self.now + WALL) is None

    @rule()
    def release(self) -> None:
        self.timers.release()
        for one in self.set.values():
            one.is_held = False

    @rule(seconds=st.integers(-5, 5))
    def rebase(self, seconds: int) -> None:
        """The monotonic clock counts from elsewhere: nothing is nearer or further away than before."""
        self.timers.rebase(float(seconds))
        for timer in self.timers:
            assert timer.due == self.set[timer.id].due + (0 if timer.on_wall else seconds)
        self.timers.rebase(float(-seconds))

    @rule()
    def find(self) -> None:
        for number in self.set:
            timer = self.timers.find(number)
            assert timer is not None
            assert timer.id == number
            assert timer.is_set
        assert self.timers.find(0) is None

    @rule()
    def look(self) -> None:
        """All that is set is there once."""
        assert sorted(timer.id for timer in self.timers) == sorted(self.set)

    def time(self, ticks: int, on_wall: bool) -> float:
        return self.now + ticks * HALF_TICK + (WALL if on_wall else 0.0)

    def next_turn(self) -> int:
        self.turn += 1
        return self.turn

    def one_of(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from(list(self.set)))

    def timer(self, number: int) -> Timer:
        return next(timer for timer in self.timers if timer.id == number)

    def ticks_left(self, one: Waiting) -> int:
        now = self.now + (WALL if one.on_wall else 0.0)
        return tick_of(one.due) - int(now * TICKS_PER_SECOND)

    def rank(self, one: Waiting) -> tuple[int, float, int]:
        left = one.due - (WALL if one.on_wall else 0.0)
        return self.ticks_left(one), left, one.turn

    @invariant()
    def the_next_tick_is_that_of_the_next_one(self) -> None:
        for on_wall, tick in zip((False, True), self.timers.next_ticks(), strict=True):
            waiting = (one.due for one in self.set.values() if one.on_wall is on_wall and not one.is_held)
            assert tick == min(map(tick_of, waiting), default=None)


def test_timers_agree_with_a_sorted_list() -> None:
    """Whatever is set, cancelled, moved, fired, held and rebased, on both clocks."""
    run_state_machine_as_test(TimersMachine, settings=settings(stateful_step_count=30))
