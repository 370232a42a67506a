"""Timers: what is due, in which order, and that nothing cancelled is kept."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from flowmesh._core.timers import Timer, Timers


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
    assert timers.next_due() == (5.0, 50.0)
    assert (_fired(timers, 5.0, 49.0), _fired(timers, 5.0, 50.0)) == (["delay"], ["wall"])
    timers.set(50.0, "wall", on_wall=True)
    timers.set(5.0, "delay")
    assert _fired(timers, 5.0, 50.0) == ["wall", "delay"]


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


def test_cancelled_timers_do_not_pile_up() -> None:
    """Set and cancelled a hundred thousand times behind one that stays, the heap stays small."""
    timers = Timers()
    timers.set(1.0, "stays")
    for number in range(100_000):
        timers.cancel(timers.set(1e9 + number, number))
    held = [value for value in vars(timers).values() if isinstance(value, list)]
    assert sum(len(heap) for heap in held) < 200
    assert (len(timers), [timer.action for timer in timers]) == (1, ["stays"])


def test_whoever_waits_is_told_of_an_earlier_timer() -> None:
    """Only one that is due before the horizon of its own clock, and only while somebody wants to know."""
    timers, told = Timers(), list[str]()
    timers.set(0.0, None)
    timers.on_early = lambda: told.append("early")
    timers.horizon, timers.wall_horizon = 10.0, 1000.0
    timers.set(10.0, None)
    timers.set(1000.0, None, on_wall=True)
    assert told == []
    timers.set(9.9, None)
    timers.set(999.0, None, on_wall=True)
    assert told == ["early", "early"]


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
    """Timers against a list that is sorted each time."""

    def __init__(self) -> None:
        super().__init__()
        self.timers = Timers()
        self.now = 0.0
        self.set: list[Timer] = []

    @rule(delay=st.integers(-2, 20), on_wall=st.booleans(), many=st.sampled_from([1, 1, 70]))
    def set_some(self, delay: int, on_wall: bool, many: int) -> None:
        offset = 1000.0 if on_wall else 0.0
        self.set += [self.timers.set(self.now + delay + offset, object(), on_wall=on_wall) for _ in range(many)]

    @precondition(lambda self: self.set)
    @rule(data=st.data(), most=st.booleans())
    def cancel(self, data: st.DataObject, most: bool) -> None:
        chosen = self.set[1:] if most else [data.draw(st.sampled_from(self.set))]
        for timer in chosen:
            assert self.timers.cancel(timer)
            self.set.remove(timer)

    @rule(seconds=st.integers(0, 10))
    def fire(self, seconds: int) -> None:
        self.now += seconds
        due = [timer for timer in self.set if self.left(timer) <= 0]
        for expected in sorted(due, key=lambda timer: (self.left(timer), timer.id)):
            assert self.timers.pop_due(self.now, self.now + 1000.0) is expected
            assert not expected.is_set
            self.set.remove(expected)
        assert self.timers.pop_due(self.now, self.now + 1000.0) is None

    def left(self, timer: Timer) -> float:
        return timer.due - self.now - (1000.0 if timer.on_wall else 0.0)

    @invariant()
    def all_that_is_set_is_there_once(self) -> None:
        assert len(self.timers) == len(self.set)
        assert sorted(timer.id for timer in self.timers) == sorted(timer.id for timer in self.set)
        for on_wall, due in zip((False, True), self.timers.next_due(), strict=True):
            assert due == min((timer.due for timer in self.set if timer.on_wall is on_wall), default=None)


def test_timers_agree_with_a_sorted_list() -> None:
    """Whatever is set, cancelled and fired, on both clocks."""
    run_state_machine_as_test(TimersMachine, settings=settings(stateful_step_count=30))
