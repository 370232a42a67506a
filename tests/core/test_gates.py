"""Gates in the core: the cell rate algorithm against a simple model, the whole mechanism by a state machine."""

import math
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flowmesh._core.commits import Ack, Back, Dead, Publish, Purge, Settle, Withdraw
from flowmesh._core.entry import Entry, State
from flowmesh._core.gate_kinds import BreakerState, LimitState, OnceState, RateState
from flowmesh._core.gate_states import TurnEnd, Verdict
from flowmesh._core.gates import Gates
from flowmesh._core.mailbox import Mailbox
from flowmesh.errors import Reject
from flowmesh.policies import Breaker, Limit, Once, Rate
from tests.core.making import Asked, Shop

GO, HOLD, DROP = Verdict.GO, Verdict.HOLD, Verdict.DROP
DONE, BACK, FAILED = TurnEnd(is_done=True), TurnEnd(), TurnEnd(error=OSError())


def copy(place: int = 0) -> Entry:
    """Return a copy that stands nowhere."""
    return Entry(Shop().message(), 0.0, place)


# Rate


@given(
    n=st.integers(1, 20),
    per=st.integers(1, 40),
    burst=st.integers(1, 5),
    steps=st.lists(st.tuples(st.integers(0, 8), st.booleans()), max_size=80),
)
def test_rate_against_a_leaky_bucket(n: int, per: int, burst: int, steps: list[tuple[int, bool]]) -> None:
    """A start is let through exactly when a bucket that leaks `n` in `per` seconds and takes `burst` has room for one more."""
    state = RateState(Rate(n, per=per, burst=burst))
    now, level, looked = 0.0, 0.0, 0.0
    for wait, by_its_time in steps:
        # Either to the very moment that `when` names, or by a step that falls between.
        now = max(now, state.when(None, now)) if by_its_time else now + wait * per / n * 0.37
        level, looked = max(0.0, level - (now - looked) * n / per), now
        if abs(level - (burst - 1)) > 1e-4:
            expected = GO if level <= burst - 1 else HOLD
            assert state.look(None, copy(), now, is_behind=False) is expected
        verdict = state.look(None, copy(), now, is_behind=False)
        assert (verdict is GO) == (state.when(None, now) <= now + 1e-6)
        if by_its_time:
            assert verdict is GO
        if verdict is GO:
            state.start(None, copy(), now)
            level += 1


@given(n=st.integers(1, 50), per=st.floats(0.01, 100), burst=st.integers(1, 10), count=st.integers(1, 60))
def test_rate_over_any_window(n: int, per: float, burst: int, count: int) -> None:
    """Of starts as early as may be, no window of t seconds sees more than burst + t * n / per."""
    state = RateState(Rate(n, per=per, burst=burst))
    times: list[float] = []
    now = 0.0
    for _ in range(count):
        now = max(now, state.when(None, now))
        state.start(None, copy(), now)
        times.append(now)
    for first in range(count):
        for last in range(first, count):
            assert last - first + 1 <= burst + (times[last] - times[first]) * n / per + 1e-3


@pytest.mark.parametrize("n, per, most", [(1, 1.0, 1), (100, 1.0, 1), (1000, 1.0, 10), (5000, 0.5, 100)])
def test_the_default_burst_is_what_ten_milliseconds_allow(n: int, per: float, most: int) -> None:
    """So the steps of a timer do not slow down a high rate, and a low one is spaced evenly."""
    state = RateState(Rate(n, per=per))
    started = 0
    while state.look(None, copy(), 5.0, is_behind=False) is GO:
        state.start(None, copy(), 5.0)
        started += 1
    assert started == most


# Each kind forgets


@pytest.mark.parametrize(
    "state",
    [
        RateState(Rate(2, per=3.0, burst=4)),
        OnceState(Once(by=abs, ttl=7.0)),
        BreakerState(Breaker(failures=3, within=5.0, pause=2.0)),
        LimitState(Limit(2)),
    ],
    ids=lambda state: type(state).__name__,
)
@settings(max_examples=60)
@given(steps=st.lists(st.tuples(st.integers(0, 4), st.sampled_from([DONE, BACK, FAILED]), st.floats(0, 3)), max_size=40))
def test_values_fade(state: Any, steps: list[tuple[int, TurnEnd, float]]) -> None:
    """`fade` names when to look again until nothing is known; then a value is treated as a new one."""
    now = 100.0
    for value, ending, wait in steps:
        entry = copy()
        if state.look(value, entry, now, is_behind=False) is GO:
            state.start(value, entry, now)
            state.end(value, entry, now, ending)
        now += wait
    for _ in range(100):
        due = state.fade(now)
        if due is None:
            break
        assert due > now
        now = due
    assert state.values() == 0
    assert state.condition() in (None, "closed")


def test_a_failure_does_not_outlive_its_window() -> None:
    """Failures that are further apart than `within` never open it; those that are not, do."""
    state = BreakerState(Breaker(failures=2, within=10.0, pause=5.0))
    for now in (0.0, 11.0, 22.0):
        state.start(None, entry := copy(), now)
        state.end(None, entry, now, FAILED)
        assert state.condition() == "closed"
    state.start(None, entry := copy(), 31.0)
    state.end(None, entry, 31.0, FAILED)
    assert state.condition() == "open"
    assert state.when(None, 31.0) == 36.0


def test_a_rejection_closes_what_probes() -> None:
    """Who rejects a message has answered: the probe did not fail."""
    state = BreakerState(Breaker(failures=1, pause=5.0))
    for error, condition in ((OSError(), "open"), (Reject("no"), "closed")):
        state.start(None, entry := copy(), 10.0)
        state.end(None, entry, 10.0, TurnEnd(error=error))
        assert state.condition() == condition


# The whole mechanism


class GatesMachine(RuleBasedStateMachine):
    """Copies enter, are handed out, end in all ways and are withdrawn, while time passes: what gates promise holds always.

    Bodies are (lane, value); time passes with all timers that fall due on the way.
    """

    shop: Shop
    mailbox: Mailbox
    gates: Gates
    with_lanes = False

    @initialize(
        policies=st.lists(
            st.sampled_from(
                [
                    Rate(2, per=1.0, by=lambda body: body[1]),
                    Rate(5, per=1.0, burst=3),
                    Limit(1, by=lambda body: body[1]),
                    Limit(2, by=lambda body: body[1], surplus="drop_old"),
                    Limit(1, by=lambda body: body[1], surplus="keep_newest"),
                    Limit(2, by=lambda body: body[1], surplus="drop_new"),
                    Limit(2, by=lambda body: body[1], surplus="cancel_running"),
                    Limit(3),
                    Breaker(failures=2, within=3.0, pause=1.5),
                    Once(by=lambda body: body[1], ttl=2.5),
                ]
            ),
            min_size=1,
            max_size=3,
            unique_by=id,
        ),
        with_lanes=st.booleans(),
        priorities=st.booleans(),
        overflow=st.sampled_from(["wait", "drop_oldest"]),
    )
    def begin(self, policies: list[Any], with_lanes: bool, priorities: bool, overflow: str) -> None:
        self.shop = Shop()
        self.mailbox = self.shop.mailbox("box", capacity=12, priorities=priorities, overflow=overflow)
        self.gates = Gates(policies, body_of=lambda entry: entry.message.body, slots=4)
        self.policies = policies
        self.with_lanes = with_lanes
        self.running: list[Entry] = []
        self.claimed: dict[Any, float] = {}
        self.starts: list[tuple[float, Any]] = []

    @rule(lane=st.integers(0, 2), value=st.integers(0, 2), priority=st.integers(0, 2), ttl=st.sampled_from([None, None, 2.0]))
    def enter(self, lane: int, value: int, priority: int, ttl: float | None) -> None:
        message = self.shop.message((lane, value), priority=priority, ttl=ttl)
        self.shop.commit(Publish(message, (self.mailbox,), moved=True))

    @rule(lane=st.integers(0, 2), value=st.integers(0, 2))
    def ask(self, lane: int, value: int) -> None:
        message = self.shop.message((lane, value))
        self.shop.commit(
            Publish(message, (self.mailbox,), moved=True, make_entry=lambda message: Asked(message, self.shop.now))
        )

    @rule()
    def take(self) -> None:
        lane_of = (lambda entry: entry.message.body[0]) if self.with_lanes else None
        while True:
            entry = self.shop.ledger.take(self.mailbox, self.shop.now, lane_of, self.gates)
            self.gates.superseded.clear()
            if entry is None:
                break
            assert isinstance(entry, Entry)
            value = entry.message.body[1]
            for policy in self.policies:
                if isinstance(policy, Once):
                    assert self.claimed.get(value, -math.inf) <= self.shop.now
                    self.claimed[value] = self.shop.now + policy.ttl
            self.running.append(entry)
            self.starts.append((self.shop.now, value))
        if not self.mailbox.has_next:
            self._check_limits()

    @precondition(lambda self: self.running)
    @rule(
        number=st.integers(0, 100),
        verdict=st.sampled_from(["ack", "ack", "ack", "retry", "later", "dead", "back"]),
    )
    def settle(self, number: int, verdict: str) -> None:
        entry = self.running.pop(number % len(self.running))
        value = entry.message.body[1]
        error = OSError() if verdict in ("retry", "later", "dead") else None
        settled = {
            "ack": Ack(),
            "retry": Back(0.0, "failure"),
            "later": Back(0.7, "failure"),
            "dead": Dead("failed"),
            "back": Back(),
        }[verdict]
        self.shop.commit(Settle(self.mailbox, entry, settled))
        self.shop.ledger.admission.end(self.mailbox, entry, TurnEnd(verdict == "ack", error), self.shop.now)
        if verdict != "ack":
            self.claimed.pop(value, None)

    @precondition(lambda self: self.mailbox.entries())
    @rule(number=st.integers(0, 100))
    def withdraw(self, number: int) -> None:
        entries = self.mailbox.entries()
        self.shop.commit(Withdraw(self.mailbox, entries[number % len(entries)]))

    @precondition(lambda self: self.mailbox.entries())
    @rule(number=st.integers(0, 100))
    def prepare_and_give_up(self, number: int) -> None:
        entries = self.mailbox.entries()
        commit = self.shop.prepare(Withdraw(self.mailbox, entries[number % len(entries)]))
        self.take()
        self.shop.ledger.give_up(commit)

    @rule()
    def purge(self) -> None:
        self.shop.commit(Purge(self.mailbox))

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0, 3.0]))
    def pass_time(self, seconds: float) -> None:
        until = self.shop.now + seconds
        timers = self.shop.ledger.timers
        while (timer := timers.pop_due(until, 0.0)) is not None:
            self.shop.now = max(self.shop.now, timer.due)
            if callable(timer.action):
                timer.action(self.shop.now)
            else:
                self.shop.commit(timer.action)
        self.shop.now = until

    def _check_limits(self) -> None:
        """After a look at everything, what is held is held for a reason."""
        for line in self.gates.lines.values():
            if line.live:
                number, value = line.key
                # A due time is rounded up to the wheel's tick of a millisecond.
                assert self.gates.states[number].when(value, self.shop.now) > self.shop.now - 0.001

    @invariant()
    def limits_are_kept(self) -> None:
        if not hasattr(self, "gates"):
            return
        for policy in self.policies:
            if isinstance(policy, Limit):
                for value in (0, 1, 2):
                    running = [entry for entry in self.running if policy.by is None or entry.message.body[1] == value]
                    assert len(running) <= policy.n
            if isinstance(policy, Rate):
                for value in (0, 1, 2):
                    times = [at for at, of in self.starts if policy.by is None or of == value][-20:]
                    burst = 1 if policy.burst is None else policy.burst
                    for number, first in enumerate(times):
                        for count, last in enumerate(times[number:], 1):
                            assert count <= burst + (last - first) * policy.n / policy.per + 1e-3
        if self.gates.slots is not None:
            assert len(self.running) <= self.gates.slots.n

    @invariant()
    def books_are_balanced(self) -> None:
        if not hasattr(self, "gates"):
            return
        mailbox = self.mailbox
        assert mailbox.leased == len(self.running)
        held = [entry for entry in mailbox.held if entry.state is State.ASIDE]
        assert len(held) == len(mailbox.held)
        assert sum(line.live for line in self.gates.lines.values()) == len(held)
        lanes = sum(lane.live for lane in mailbox.lanes.values())
        assert mailbox.aside == len(held) + lanes
        for line in self.gates.lines.values():
            # Something will move it: a released copy, a timer, or the end of what runs.
            is_timed = line.timer is not None and line.timer.is_set
            has_running = any(entry.gated.values[line.key[0]] == line.key[1] for entry in self.running)
            assert line.released is not None or is_timed or has_running, line.key
            if line.released is not None:
                assert line.released.state is State.READY
                assert line.released.queued

    def teardown(self) -> None:
        """In the end everything comes through, and nothing is left."""
        if not hasattr(self, "gates"):
            return
        for _ in range(400):
            while self.running:
                self.settle(0, "ack")
            self.take()
            self.pass_time(1.0)
            if not (self.running or self.mailbox.ready or self.mailbox.delayed):
                break
        assert (self.mailbox.ready, self.mailbox.delayed, self.mailbox.leased) == (0, 0, 0)
        self.pass_time(70.0)
        assert self.gates.lines == {}
        assert sum(state.values() for state in self.gates.states) == 0
        assert dict(self.mailbox.held) == {}
        assert self.mailbox.lanes == {}


TestGatesMachine = GatesMachine.TestCase
TestGatesMachine.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


def test_who_is_held_is_not_overtaken() -> None:
    """A newcomer goes behind those that are held, even if it is looked at in the moment in which one may go."""
    shop = Shop()
    mailbox = shop.mailbox("box")
    gates = Gates([Rate(1, per=10.0)], body_of=lambda entry: entry.message.body, slots=4)
    taken: list[int] = []

    def take() -> None:
        while isinstance(entry := shop.ledger.take(mailbox, shop.now, None, gates), Entry):
            taken.append(entry.message.body)

    for number in (0, 1):
        shop.commit(Publish(shop.message(number), (mailbox,)))
        take()
    shop.now += 10.0
    shop.commit(Publish(shop.message(2), (mailbox,)))
    take()
    assert taken == [0, 1]
    assert mailbox.ready == 1


def test_only_the_probe_decides() -> None:
    """What was running when the breaker opened says nothing about the service when it ends, neither good nor bad."""
    state = BreakerState(Breaker(failures=1, pause=5.0))
    early, late, bad, probe = (copy() for _ in range(4))
    for entry in (early, late, bad):
        state.start(None, entry, 10.0)
    state.end(None, bad, 10.0, FAILED)
    state.end(None, early, 12.0, DONE)
    assert state.when(None, 12.0) == 15.0
    state.start(None, probe, 15.0)
    state.end(None, late, 16.0, DONE)
    assert state.condition() == "half-open"
    state.end(None, probe, 17.0, DONE)
    assert state.condition() == "closed"


def test_reset_puts_back_what_is_held() -> None:
    """After a reset everything that was held lies in line at its place, no timer is left, and values are new."""
    shop = Shop()
    mailbox = shop.mailbox("box")
    gates = Gates([Rate(1, per=10.0), Limit(1)], body_of=lambda entry: entry.message.body, slots=1)
    for number in range(4):
        shop.commit(Publish(shop.message(number), (mailbox,)))
    assert isinstance(shop.ledger.take(mailbox, shop.now, None, gates), Entry)
    assert shop.ledger.take(mailbox, shop.now, None, gates) is None
    shop.ledger.admission.reset(mailbox, gates)
    assert len(shop.ledger.timers) == 0
    assert (mailbox.ready, mailbox.aside, len(mailbox.held)) == (3, 0, 0)
    found = shop.ledger.take(mailbox, shop.now, None, gates)
    assert isinstance(found, Entry)
    assert found.message.body == 1


def test_a_released_copy_whose_lane_is_held_at_the_same_gate() -> None:
    """A copy that its gate lets go, and whose lane is held by one that waits at that gate, passes its chance on to it."""
    machine = GatesMachine()
    machine.begin(policies=[Rate(2, per=1.0, by=lambda body: body[1])], with_lanes=True, priorities=False, overflow="wait")
    for lane, ttl in ((0, None), (0, None), (2, None), (2, None), (0, 2.0)):
        machine.enter(lane=lane, value=0, priority=0, ttl=ttl)
    machine.prepare_and_give_up(number=0)
    machine.settle(number=0, verdict="ack")
    machine.prepare_and_give_up(number=1)
    machine.prepare_and_give_up(number=2)  # it held its lane, and finds another there when it is shown again
    machine.teardown()


def test_nobody_asks_for_the_value_of_what_is_the_runtimes_own() -> None:
    """No `by=` could read it, so it passes those gates; others hold it like anything else."""

    class Own(Entry, eq=False):
        is_own: ClassVar[bool] = True

    policies = (Rate(1, per=1.0), Once(by=len), Limit(1, by=len))
    shop, gates = Shop(), Gates(policies, body_of=lambda entry: entry.message.body, slots=1)
    box = shop.mailbox("box")
    for body in (1, 2):
        shop.commit(Publish(shop.message(body), (box,), make_entry=lambda message: Own(message, 0.0)))
    assert shop.ledger.take(box, 0.0, None, gates) is not None
    assert shop.ledger.take(box, 0.0, None, gates) is None, "the rate is for all"
