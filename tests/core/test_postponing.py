"""Postponed copies: leased and in nobody's hands, and back at their places, in order, when the state has changed."""

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from flowmesh._core.commits import Ack, Back, Publish, Purge, Settle, Withdraw
from flowmesh._core.entry import NO_LANE, Entry, State
from flowmesh._core.gates import Gates
from flowmesh._core.ledger import UnusableLane
from flowmesh._core.mailbox import Mailbox
from flowmesh._core.postponing import SWEPT, Postponed
from flowmesh.policies import Rate
from tests.core.making import Asked, Shop


class Kept:
    """A mailbox whose copies are postponed while their bodies are in `unwanted`."""

    def __init__(self, limit: int = 100, *, by: bool = False, gates: Gates | None = None, **options: Any) -> None:
        self.shop = Shop()
        self.box: Mailbox = self.shop.mailbox("box", **options)
        self.postponed = Postponed(self.box, limit)
        self.unwanted: set[Any] = set()
        self.lane_of = (lambda entry: entry.message.body // 100) if by else None
        self.gates = gates

    def tell(self, *bodies: Any, make_entry: Any = None) -> None:
        for body in bodies:
            self.shop.commit(Publish(self.shop.message(body), (self.box,), make_entry=make_entry))

    def take(self) -> Entry:
        """Take the next copy, which there is."""
        found = self.take_any()
        assert isinstance(found, Entry)
        return found

    def take_any(self) -> Any:
        return self.shop.ledger.take(self.box, self.shop.now, self.lane_of, self.gates, self._postpone)

    def _postpone(self, entry: Entry) -> bool:
        return entry.message.body in self.unwanted and self.postponed.add(entry)

    def want(self, *bodies: Any, lane: Any = NO_LANE) -> int:
        """Change the state: these bodies are wanted from now on. Return how many came back."""
        self.unwanted -= {*bodies}
        return self.postponed.come_back(
            self.shop.ledger, self.shop.now, lane, still=lambda entry: entry.message.body in self.unwanted
        )

    def settle(self, entry: Entry, verdict: Any = None) -> None:
        self.shop.commit(Settle(self.box, entry, verdict or Ack()))

    def handle_all(self) -> list[Any]:
        """Handle what is there; return the bodies, in order."""
        handled: list[Any] = []
        while (entry := self.take_any()) is not None:
            handled.append(entry.message.body)
            self.settle(entry)
        return handled


def test_a_postponed_copy_is_leased() -> None:
    """It takes no room and is not ready; the next one is handed out instead."""
    kept = Kept(capacity=2)
    kept.unwanted = {1}
    kept.tell(1, 2)
    entry = kept.take()
    assert entry.message.body == 2
    assert (kept.box.ready, kept.box.leased, len(kept.postponed)) == (0, 2, 1)
    assert kept.box.has_room(2)


def test_it_comes_back_before_newer_ones_in_order() -> None:
    """Places are kept for life; what is still unwanted stays."""
    kept = Kept()
    kept.unwanted = {1, 2, 3}
    kept.tell(1, 2, 3, 4)
    assert kept.handle_all() == [4]
    kept.tell(5)
    assert kept.want(3, 1) == 2
    assert kept.handle_all() == [1, 3, 5]
    assert len(kept.postponed) == 1
    assert kept.want(2) == 1
    assert kept.handle_all() == [2]
    assert kept.box.statistics(0.0, 0.0).acked == 5


def test_with_priorities_it_comes_back_by_priority_and_place() -> None:
    """As any copy that goes back to its place."""
    kept = Kept(priorities=True)
    kept.unwanted = {1, 2}
    for body, priority in ((1, 0), (2, 5), (3, 3)):
        kept.shop.commit(Publish(kept.shop.message(body, priority=priority), (kept.box,)))
    assert kept.handle_all() == [3]
    kept.shop.commit(Publish(kept.shop.message(4, priority=3), (kept.box,)))
    kept.want(1, 2)
    assert kept.handle_all() == [2, 4, 1]


def test_it_counts_neither_as_an_attempt_nor_as_a_hand_out() -> None:
    """It has not been in anybody's hands; but one that was before, stays redelivered."""
    kept = Kept(max_deliveries=2)
    kept.unwanted = {1}
    kept.tell(1)
    for _ in range(5):
        assert kept.take_any() is None
        kept.want(1)
        kept.unwanted = {1}
    kept.unwanted = set()
    entry = kept.take()
    assert (entry.failures, entry.handouts, entry.redelivered) == (0, 0, False)
    kept.settle(entry, Back())
    kept.unwanted = {1}
    assert kept.take_any() is None
    kept.want(1)
    assert kept.take().redelivered


def test_it_does_not_expire_until_it_is_back() -> None:
    """A leased copy does not; one whose time was over meanwhile is expired when it comes back, and not handed out."""
    kept = Kept(ttl=5.0)
    kept.unwanted = {1}
    kept.tell(1)
    assert kept.take_any() is None
    kept.shop.now += 60.0
    assert kept.box.expired_by(kept.shop.now, 10) == []
    assert kept.box.leased == 1
    kept.want(1)
    assert kept.take_any() is None
    assert (kept.box.leased, kept.box.expired) == (0, 1)


def test_it_is_not_purged() -> None:
    """As no leased copy is; of a mailbox that was deleted, it ends as purged when it comes back."""
    kept = Kept()
    kept.unwanted = {1, 2}
    kept.tell(1, 2)
    assert kept.take_any() is None
    kept.shop.commit(Purge(kept.box))
    assert kept.box.leased == 2
    kept.want(1)
    assert kept.handle_all() == [1]
    kept.shop.router.delete_mailbox(kept.box)
    kept.want(2)
    assert (kept.box.leased, kept.box.purged) == (0, 1)


def test_an_asker_that_leaves_withdraws_it() -> None:
    """It does not come back, and no longer counts for the limit."""
    made: list[Asked] = []

    def ask(message: Any) -> Asked:
        made.append(Asked(message, 0.0))
        return made[-1]

    kept = Kept(limit=1)
    kept.unwanted = {1, 2}
    kept.tell(1, make_entry=ask)
    assert kept.take_any() is None
    kept.shop.commit(Withdraw(kept.box, made[0]))
    assert (made[0].state, made[0].told, kept.box.withdrawn, len(kept.postponed)) == (State.ENDED, ["withdrawn"], 1, 0)
    kept.tell(2)
    assert kept.take_any() is None
    assert kept.want(1, 2) == 1
    assert kept.handle_all() == [2]


def test_a_withdrawal_that_is_given_up_leaves_it_postponed() -> None:
    """A prepared commit pins it, and lets it go again."""
    kept = Kept()
    kept.unwanted = {1}
    kept.tell(1)
    assert kept.take_any() is None
    (entry,) = [entry for copies in kept.postponed._copies.values() for entry in copies]
    commit = kept.shop.prepare(Withdraw(kept.box, entry))
    assert len(kept.postponed) == 0
    kept.shop.ledger.give_up(commit)
    assert len(kept.postponed) == 1
    kept.want(1)
    assert kept.handle_all() == [1]


def test_beyond_the_limit_it_is_handed_out() -> None:
    """The bound is of each instance: what its lane is."""
    kept = Kept(limit=2, by=True)
    kept.unwanted = {1, 2, 3, 101}
    kept.tell(1, 2, 101, 3)
    assert kept.take().message.body == 3
    assert len(kept.postponed) == 3
    assert kept.postponed.lanes() == [0, 1]


def test_the_limit_counts_what_is_there() -> None:
    """Not what an asker has taken with it."""
    kept = Kept(limit=1, by=True)
    kept.unwanted = {1, 2}
    kept.tell(1)
    assert kept.take_any() is None
    (first,) = kept.postponed._copies[0]
    kept.shop.commit(Withdraw(kept.box, first))
    kept.tell(2)
    assert kept.take_any() is None
    assert len(kept.postponed) == 1


def test_values_whose_askers_have_left_are_forgotten() -> None:
    """Once they are many: nobody else may ever ask about them."""
    kept = Kept(by=True)
    bodies = [value * 100 for value in range(1000)]
    kept.unwanted = {*bodies}
    for body in bodies:
        kept.tell(body)
        assert kept.take_any() is None
        if body:
            (entry,) = kept.postponed._copies[body // 100]
            kept.shop.commit(Withdraw(kept.box, entry))
    assert len(kept.postponed) == 1
    assert len(kept.postponed.lanes()) <= SWEPT + 2
    assert kept.want(0, lane=0) == 1
    assert kept.handle_all() == [0]


def test_it_leaves_its_lane() -> None:
    """The next one of its lane goes ahead, which may change the state; each lane comes back alone, and in order."""
    kept = Kept(by=True)
    kept.unwanted = {1, 2, 101}
    kept.tell(1, 101, 2, 3, 103)
    third, other = kept.take(), kept.take()
    assert (third.message.body, other.message.body) == (3, 103)
    kept.tell(4)
    assert kept.take_any() is None, "3 holds the lane"
    assert kept.want(1, 2, lane=0) == 2
    kept.settle(third)
    assert kept.handle_all() == [1, 2, 4]
    kept.settle(other)
    assert kept.want(101, lane=0) == 0
    assert kept.want(101, lane=1) == 1
    assert kept.handle_all() == [101]
    assert kept.box.lanes == {}


def test_it_takes_nothing_from_a_gate() -> None:
    """Gates are asked for what is handed out; one that a gate had let go lets the next one take its chance."""
    gates = Gates((Rate(1, per=10.0),), body_of=lambda entry: entry.message.body, slots=1)
    kept = Kept(gates=gates)
    kept.tell(1, 2, 3)
    first = kept.take()
    assert kept.take_any() is None, "the gate holds 2 and 3"
    kept.settle(first)
    kept.unwanted = {2}
    kept.shop.now += 10.0
    while (timer := kept.shop.ledger.timers.pop_due(kept.shop.now, 0.0)) is not None:
        timer.action(kept.shop.now)
    assert kept.take().message.body == 3
    assert len(kept.postponed) == 1


@pytest.mark.parametrize("by", [False, True])
def test_what_cannot_be_read_is_the_callers_to_settle(by: bool) -> None:
    """The copy is leased, and ends like any other; its lane is free again."""
    kept = Kept(by=by)
    kept.tell(1, 2)

    def fail(entry: Entry) -> bool:
        raise LookupError(entry.message.body)

    with pytest.raises(UnusableLane) as caught:
        kept.shop.ledger.take(kept.box, kept.shop.now, kept.lane_of, None, fail)
    assert isinstance(caught.value.__cause__, LookupError)
    kept.settle(caught.value.entry)
    assert kept.handle_all() == [2]


class Comebacks(RuleBasedStateMachine):
    """Against the plainest words: a list of bodies in order of entering, a set of those that are postponed."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = Kept(limit=5)
        self.entered: list[int] = []  # that have not ended, in order
        self.waiting: set[int] = set()
        self.held: Entry | None = None

    def _unwanted(self, body: int) -> bool:
        return body % 3 in {one % 3 for one in self.kinds}

    kinds: frozenset[int] = frozenset()

    @rule(kinds=st.frozensets(st.integers(0, 2)))
    def change(self, kinds: frozenset[int]) -> None:
        """The state changes: other kinds are unwanted."""
        self.kinds = kinds
        self.kept.unwanted = {body for body in range(500) if self._unwanted(body)}
        back = {body for body in self.waiting if not self._unwanted(body)}
        assert self.kept.want() == len(back)
        self.waiting -= back

    @rule(number=st.integers(1, 4))
    def tell(self, number: int) -> None:
        """Newer ones enter."""
        for _ in range(number):
            body = self.next
            self.next += 1
            self.kept.tell(body)
            self.entered.append(body)

    next = 0

    @rule()
    def take(self) -> None:
        """The next is handed out: the first that is not postponed, or cannot be."""
        if self.held is not None:
            return
        found = self.kept.take_any()
        for body in [body for body in self.entered if body not in self.waiting]:
            if self._unwanted(body) and len(self.waiting) < 5:
                self.waiting.add(body)
                continue
            assert found is not None
            assert found.message.body == body
            self.held = found
            return
        assert found is None

    @rule(back=st.booleans())
    def settle(self, back: bool) -> None:
        """It is acked, or goes back."""
        if self.held is not None:
            entry, self.held = self.held, None
            self.kept.settle(entry, Back() if back else Ack())
            if not back:
                self.entered.remove(entry.message.body)

    @invariant()
    def counts_agree(self) -> None:
        """Every copy is in one place."""
        assert len(self.kept.postponed) == len(self.waiting)
        assert self.kept.box.leased == len(self.waiting) + (self.held is not None)
        assert self.kept.box.ready == len(self.entered) - self.kept.box.leased


TestComebacks = Comebacks.TestCase
