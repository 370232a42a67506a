"""When a batch is handed out and with what: the rule against a model, and the rule carried out in a mailbox."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flowmesh._core.batches import BatchLease, Lots
from flowmesh._core.commits import Ack, Back, Purge, Settle, Withdraw
from flowmesh._core.gates import TurnEnd
from flowmesh.policies import Batch, Breaker, Once, Rate
from tests.core.desk import OPERATIONS, Desk
from tests.core.making import bodies, numbers

# The rule


class Model:
    """The rule, said in the plainest way: a list of what waits."""

    def __init__(self, rule: Batch) -> None:
        self.rule = rule
        self.waiting: list[tuple[str, int, float, int]] = []  # value, item, since, size
        self.held: set[str] = set()

    def lot(self, value: str) -> list[tuple[str, int, float, int]]:
        return [record for record in self.waiting if record[0] == value]

    def is_full(self, value: str) -> bool:
        lot, limit = self.lot(value), self.rule.max_bytes
        return len(lot) >= self.rule.size or (limit is not None and sum(record[3] for record in lot) >= limit)

    def late(self, now: float) -> dict[str, float]:
        free = {record[0] for record in self.waiting} - self.held
        oldest = {value: min(record[2] for record in self.lot(value)) + self.rule.within for value in free}
        return {value: due for value, due in oldest.items() if due <= now}

    def may_be_due(self, now: float) -> set[str]:
        late = self.late(now)
        if late:
            return {value for value, due in late.items() if due == min(late.values())}
        return {record[0] for record in self.waiting if self.is_full(record[0])} - self.held


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from("abc"), st.integers(0, 5), st.integers(0, 30)),
        st.tuples(st.just("discard"), st.sampled_from("abc"), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("hold"), st.sampled_from("abc"), st.just(0), st.just(0)),
        st.tuples(st.just("free"), st.sampled_from("abc"), st.just(0), st.just(0)),
        st.tuples(st.just("wait"), st.just(""), st.integers(1, 8), st.just(0)),
    ),
    max_size=40,
)


@given(STEPS, st.integers(1, 4), st.integers(0, 10), st.one_of(st.none(), st.integers(1, 60)))
def test_the_rule_does_what_the_model_does(
    steps: list[tuple[str, str, int, int]], size: int, within: int, limit: int | None
) -> None:
    """What is due is one of those that the model says, for one of its reasons; and somebody looks again in time."""
    rule = Batch(size, within, max_bytes=limit)
    lots, model, now = Lots(rule), Model(rule), 100.0
    for number, (step, value, amount, bytes_) in enumerate(steps):
        if step == "add":
            lots.add(value, number, since=now - amount, size=bytes_)
            model.waiting.append((value, number, now - amount, bytes_))
        elif step == "discard" and model.lot(value):
            record = model.lot(value)[amount % len(model.lot(value))]
            lots.discard(value, record[1])
            model.waiting.remove(record)
        elif step == "hold":
            lots.hold(value)
            model.held.add(value)
        elif step == "free":
            lots.free(value)
            model.held.discard(value)
        elif step == "wait":
            now += amount
        found = lots.due(now)
        allowed = model.may_be_due(now)
        assert (found is None) == (not allowed)
        if found is not None:
            due, reason = found
            assert due in allowed
            lot = model.lot(str(due))
            assert (reason == "size") == (len(lot) >= size)
            assert reason != "bytes" or model.is_full(str(due))
            assert reason != "within" or due in model.late(now)
            assert reason != "drain"
        free = {record[0] for record in model.waiting} - model.held
        assert (lots.due(now, everything=True) is None) == (not free)
        if free:
            look = lots.next_due()
            assert look is not None
            assert look <= min(record[2] for record in model.waiting if record[0] in free) + within
        assert len(lots) == len({record[0] for record in model.waiting} | model.held)


def test_lots_whose_time_has_come_go_before_full_ones() -> None:
    """A flood of full batches of one value does not keep another one's first message waiting."""
    lots = Lots(Batch(2, 5.0))
    lots.add("slow", 0, since=0.0)
    lots.add("fast", 1, since=5.0)
    lots.add("fast", 2, since=5.0)
    assert lots.due(4.9) == ("fast", "size")
    assert lots.due(5.0) == ("slow", "within")


@pytest.mark.parametrize(
    "items, size, fits", [(1, 10, True), (1, 11, True), (2, 10, True), (2, 11, False), (3, 9, True), (4, 4, False)]
)
def test_what_fits(items: int, size: int, fits: bool) -> None:
    """A batch has no more items and bytes than the rule says, but always one."""
    assert Lots(Batch(3, 1.0, max_bytes=10)).fits(items, size) is fits


# In a mailbox


def settle(desk: Desk, lease: BatchLease | None, *verdicts: Any) -> None:
    """Settle the copies of a batch: with these verdicts, or all acknowledged."""
    assert lease is not None
    given = verdicts or (Ack(),) * len(lease.copies)
    pairs = zip(lease.copies, given, strict=True)
    desk.shop.commit(*(Settle(desk.box, copy, verdict) for copy, verdict in pairs))
    desk.gathered.settled(lease)


def test_full_batches_in_order() -> None:
    """Each has `size` messages, in order; what is left over waits, ready."""
    desk = Desk(Batch(3, 5.0))
    desk.shop.put(desk.box, *range(8))
    first, second, third = desk.take(), desk.take(), desk.take()
    assert first is not None
    assert second is not None
    assert (bodies(first.copies), bodies(second.copies), third) == ([0, 1, 2], [3, 4, 5], None)
    assert first.reason == "size"
    assert numbers(desk.box) == {"entered": 8, "ready": 2, "leased": 6}
    settle(desk, first)
    settle(desk, second)
    assert numbers(desk.box) == {"entered": 8, "ready": 2, "acked": 6}
    assert bodies(desk.box.peek(5)) == [6, 7]


def test_the_oldest_waits_within() -> None:
    """The time runs from when it entered; what has come by then goes along."""
    desk = Desk(Batch(3, 5.0))
    desk.shop.put(desk.box, 0)
    desk.shop.pass_time(4.9)
    desk.shop.put(desk.box, 1)
    assert desk.take() is None
    assert desk.gathered.next_due() == pytest.approx(desk.shop.now + 0.1)
    desk.shop.pass_time(0.1)
    lease = desk.take()
    assert lease is not None
    assert (lease.body, lease.reason, round(lease.waited, 3)) == ([0, 1], "within", 5.0)
    assert desk.box.lanes == {}


def test_bytes() -> None:
    """A batch takes what fits, in order; a larger message makes one of its own."""
    desk = Desk(Batch(10, 5.0, max_bytes=10))
    desk.shop.put(desk.box, "aaaa", "bbbb", "cccc", "dddddddddddd", "e")
    found: list[Any] = []
    while (lease := desk.take()) is not None:
        found.append((lease.body, lease.reason))
    assert found == [(["aaaa", "bbbb"], "bytes"), (["cccc"], "bytes"), (["dddddddddddd"], "bytes")]
    last = desk.take(everything=True)
    assert last is not None
    assert (last.body, last.reason) == (["e"], "drain")


def test_one_batch_of_a_value_at_a_time() -> None:
    """With `by`, each batch has one value, and its next one waits until it is settled."""
    desk = Desk(Batch(2, 5.0, by=lambda body: body[0]))
    desk.shop.put(desk.box, "a1", "b1", "a2", "a3", "a4", "b2")
    first, second = desk.take(), desk.take()
    assert first is not None
    assert second is not None
    assert (first.body, second.body, desk.take()) == (["a1", "a2"], ["b1", "b2"], None)
    settle(desk, first)
    assert desk.freed == 1
    third = desk.take()
    assert third is not None
    assert third.body == ["a3", "a4"]


def test_what_comes_back_waits_anew_and_keeps_its_place() -> None:
    """A copy that is handed back is the first of its next batch, and waits `within` again for others."""
    desk = Desk(Batch(2, 5.0))
    desk.shop.put(desk.box, 0, 1)
    lease = desk.take()
    desk.shop.pass_time(9.0)
    settle(desk, lease, Ack(), Back())
    assert desk.take() is None
    assert numbers(desk.box) == {"entered": 2, "ready": 1, "acked": 1}
    desk.shop.put(desk.box, 2)
    again = desk.take()
    assert again is not None
    assert again.body == [1, 2]
    assert again.redelivered


def test_expired_and_withdrawn_and_purged_copies_are_not_in_it() -> None:
    """What waits is ready: it can expire, be withdrawn and purged, and counts no more."""
    desk = Desk(Batch(4, 50.0), ttl=10.0)
    ask = desk.shop.ask(desk.box, "asked")
    desk.shop.put(desk.box, 1)
    desk.gather()
    desk.shop.commit(Withdraw(desk.box, ask))
    desk.shop.pass_time(6.0)
    desk.shop.put(desk.box, 2)
    desk.gather()
    desk.shop.pass_time(6.0)
    assert numbers(desk.box) == {"entered": 3, "ready": 1, "withdrawn": 1, "expired": 1}
    lease = desk.take(everything=True)
    assert lease is not None
    assert lease.body == [2]
    desk.shop.put(desk.box, 3, 4)
    desk.gather()
    desk.shop.commit(Purge(desk.box))
    assert desk.take(everything=True) is None
    assert numbers(desk.box) == {"entered": 5, "leased": 1, "withdrawn": 1, "expired": 1, "purged": 2}
    assert desk.box.lanes == {}


def test_one_that_expires_as_it_is_handed_out_is_left_out() -> None:
    """An expired copy is never handed out, even before its timer has fired."""
    desk = Desk(Batch(2, 50.0), ttl=10.0)
    desk.shop.put(desk.box, 1)
    desk.gather()
    desk.shop.now += 10.0
    assert desk.take(everything=True) is None
    assert numbers(desk.box) == {"entered": 1, "expired": 1}


def test_drop_oldest_drops_what_waits() -> None:
    """A mailbox that drops its oldest may drop one that waits for its batch."""
    desk = Desk(Batch(3, 50.0), capacity=3, overflow="drop_oldest")
    desk.shop.put(desk.box, 0, 1)
    desk.gather()
    desk.shop.put(desk.box, 2)
    desk.shop.put(desk.box, 3)
    assert numbers(desk.box) == {"entered": 4, "ready": 3, "dropped": 1}
    lease = desk.take()
    assert lease is not None
    assert len(lease.body) == 3


def test_a_prepared_purge_that_is_given_up_shows_them_again() -> None:
    """What was pinned stands in line again, at its place, and is gathered anew."""
    desk = Desk(Batch(3, 50.0))
    desk.shop.put(desk.box, 0, 1)
    desk.gather()
    commit = desk.shop.prepare(Purge(desk.box))
    assert desk.take(everything=True) is None
    desk.shop.ledger.give_up(commit)
    lease = desk.take(everything=True)
    assert lease is not None
    assert lease.body == [0, 1]


@given(OPERATIONS, st.integers(1, 3), st.booleans())
def test_counts_always_add_up(steps: list[tuple[str, int]], size: int, by: bool) -> None:
    """Whatever happens to copies that wait: each is counted once, no batch mixes values, and nothing stays behind."""
    desk = Desk(Batch(size, 5.0, by=(lambda body: body % 2) if by else None))
    shop, box = desk.shop, desk.box
    leases: list[BatchLease] = []
    for step, amount in steps:
        desk.do(step, amount)
        if step in ("take", "drain"):
            lease = desk.take(everything=step == "drain")
            if lease is not None:
                assert len(lease.copies) <= size
                assert not by or len({body % 2 for body in lease.body}) == 1
                leases.append(lease)
        elif step in ("ack", "back", "later") and leases:
            lease = leases.pop(amount % len(leases))
            verdict = {"ack": Ack(), "back": Back(), "later": Back(4.0, "failure")}[step]
            settle(desk, lease, *(verdict,) * len(lease.copies))
        numbers(box)
        assert box.leased == sum(len(lease.copies) for lease in leases)
    for lease in leases:
        settle(desk, lease)
    shop.pass_time(100.0)
    while (lease := desk.take(everything=True)) is not None:
        settle(desk, lease)
    assert box.ready == box.leased == box.delayed == 0
    assert box.lanes == {}
    assert len(desk.gathered._lots) == 0  # state only for active values


GATES = st.lists(
    st.sampled_from(
        [
            Rate(1, per=2.0),
            Rate(1, per=3.0, by=lambda body: body % 2),
            Breaker(failures=1, pause=4.0),
            Breaker(failures=2, within=20.0, pause=4.0, by=lambda body: body % 3),
            Once(by=lambda body: body, ttl=6.0),
        ]
    ),
    max_size=2,
)


PROBED = [("put", 1), ("put", 2), ("take", 0), ("back", 0), ("pass", 5), ("gather", 0)]
"""A batch fails, and when the breaker's pause is over one of its messages waits to probe."""


@given(OPERATIONS, GATES, st.booleans())
@example(steps=[*PROBED, ("purge", 0), ("put", 3)], gates=[Breaker(failures=1, pause=4.0)], by=False)
@example(steps=[*PROBED, ("give_up", 0), ("put", 3)], gates=[Breaker(failures=1, pause=4.0)], by=False)
@example(
    steps=[("put", 1), ("gather", 0), ("put", 2), ("put", 4), ("take", 0), ("back", 0), ("drain", 0)],
    gates=[Breaker(failures=1, pause=4.0)],
    by=True,
)
def test_with_gates_counts_add_up_and_nothing_stays_behind(steps: list[tuple[str, int]], gates: list[Any], by: bool) -> None:
    """No copy is handed out that an open breaker holds, but for its probe; all go in the end, and no gate waits for one."""
    desk = Desk(Batch(2, 5.0, by=(lambda body: body % 2) if by else None), gates=gates)
    shop, box = desk.shop, desk.box
    leases: list[BatchLease] = []

    def end(lease: BatchLease, verdict: Ack | Back) -> None:
        settle(desk, lease, *(verdict,) * len(lease.copies))
        told: set[tuple[int, Any]] = set()
        for copy in lease.copies:
            error = None if isinstance(verdict, Ack) else OSError()
            shop.ledger.admission.end(box, copy, TurnEnd(isinstance(verdict, Ack), error), shop.now, told)

    for step, amount in steps:
        desk.do(step, amount)
        if step in ("take", "drain"):
            lease = desk.take(everything=step == "drain")
            if lease is not None:
                assert not any(desk.gates.calls_back(copy) for copy in lease.copies)
                leases.append(lease)
        elif step in ("ack", "back", "later") and leases:
            end(leases.pop(amount % len(leases)), {"ack": Ack(), "back": Back(), "later": Back(4.0, "failure")}[step])
        numbers(box)
        assert box.leased == sum(len(lease.copies) for lease in leases)
    for lease in leases:
        end(lease, Ack())
    for _ in range(len(steps) + 10):  # the slowest of the gates lets one go in four seconds
        shop.pass_time(4.0)
        while (lease := desk.take(everything=True)) is not None:
            end(lease, Ack())
    assert box.ready == box.leased == box.delayed == 0
    assert (box.lanes, desk.gates.lines) == ({}, {})
    shop.pass_time(100.0)
    assert [state.values() for state in desk.gates.states] == [0] * len(gates)
