"""Which of the messages of one value is handled, and when: the rule against a model, and the rule carried out in a mailbox."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from flowmesh._core.commits import Ack, Back, Settle
from flowmesh._core.debouncing import Bursts
from flowmesh._core.entry import Entry
from flowmesh.policies import Debounce
from tests.core.desk import OPERATIONS, Desk
from tests.core.making import numbers

STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["add", "old"]), st.sampled_from("ab")),
        st.tuples(st.sampled_from(["discard", "hold", "free", "take"]), st.sampled_from("ab")),
        st.tuples(st.just("wait"), st.sampled_from([1, 2, 5])),
    ),
    max_size=40,
)


@given(STEPS, st.integers(0, 4), st.integers(0, 8))
def test_the_rule_does_what_the_model_does(steps: list[tuple[str, Any]], quiet: int, more: int) -> None:
    """The one that came last waits; it is due when it has been quiet, or the burst has lasted long enough, and not before."""
    rule = Debounce(quiet, quiet + more)
    bursts, now = Bursts(rule), 100.0
    waiting: dict[str, tuple[int, float, float]] = {}  # item, which is its place; first; last
    held: set[str] = set()
    for number, (step, value) in enumerate(steps, start=1):
        if step == "wait":
            now += value
        elif step == "add":
            before = waiting.get(value)
            assert bursts.add(value, number, place=number, since=now) == (None if before is None else before[0])
            waiting[value] = (number, now if before is None else before[1], now)
        elif step == "old" and value in waiting:
            assert bursts.add(value, -number, place=-number, since=now - 50) == -number
        elif step == "discard" and value in waiting:
            bursts.discard(value, waiting.pop(value)[0])
        elif step == "hold":
            bursts.hold(value)
            held.add(value)
        elif step == "free":
            bursts.free(value)
            held.discard(value)
        due = {value: min(last + quiet, first + quiet + more) for value, (_, first, last) in waiting.items()}
        due = {value: when for value, when in due.items() if value not in held}
        found = bursts.due(now)
        if due and min(due.values()) <= now:
            assert found in {waiting[value][0] for value, when in due.items() if when == min(due.values())}
        else:
            assert found is None
        assert bursts.next_due() == min(due.values(), default=None)
        assert (bursts.due(now, everything=True) is None) == (not due)
        assert len(bursts) == len(held | waiting.keys())


def test_only_the_latest_and_only_when_quiet() -> None:
    """Each newer one ends the one before it, as dropped; the time runs from the newest."""
    desk = Desk(Debounce(2.0, 60.0))
    for number in range(5):
        desk.shop.put(desk.box, number)
        assert desk.take() is None
        desk.shop.pass_time(1.9)
    assert numbers(desk.box) == {"entered": 5, "ready": 1, "dropped": 4}
    desk.shop.pass_time(0.1)
    entry = desk.take()
    assert entry.message.body == 4
    desk.shop.settle(desk.box, entry, Ack())
    assert numbers(desk.box) == {"entered": 5, "acked": 1, "dropped": 4}
    assert desk.box.lanes == {}


def test_at_the_latest_after_max_wait() -> None:
    """A burst that does not end is handled all the same, and then begins anew."""
    desk = Desk(Debounce(2.0, 5.0))
    taken: list[tuple[float, int]] = []
    for number in range(12):
        desk.shop.put(desk.box, number)
        if (entry := desk.take()) is not None:
            taken.append((desk.shop.now - 100.0, entry.message.body))
            desk.shop.settle(desk.box, entry, Ack())
        desk.shop.pass_time(1.0)
    assert taken == [(5.0, 5), (11.0, 11)]


def test_one_that_waits_for_its_retry_gives_way() -> None:
    """A newer message makes the retry of an older one pointless: that is dropped, and the newer one waits no longer for it."""
    desk = Desk(Debounce(2.0, 60.0))
    desk.shop.put(desk.box, "old")
    desk.shop.pass_time(2.0)
    desk.shop.settle(desk.box, desk.take(), Back(30.0, "failure"))
    assert numbers(desk.box) == {"entered": 1, "delayed": 1}
    desk.shop.put(desk.box, "new")
    assert desk.take() is None
    assert numbers(desk.box) == {"entered": 2, "ready": 1, "dropped": 1}
    assert desk.freed == 1
    desk.shop.pass_time(2.0)
    assert desk.take().message.body == "new"


def test_one_that_comes_back_gives_way_to_what_came_meanwhile() -> None:
    """The newer one came while the older was in hand: when that fails, it is dropped at once."""
    desk = Desk(Debounce(2.0, 60.0))
    desk.shop.put(desk.box, "old")
    desk.shop.pass_time(2.0)
    entry = desk.take()
    desk.shop.put(desk.box, "new")
    desk.shop.pass_time(2.0)
    assert desk.take() is None  # its value is in hand
    desk.shop.settle(desk.box, entry, Back(30.0, "failure"))
    assert desk.take().message.body == "new"
    assert numbers(desk.box) == {"entered": 2, "leased": 1, "dropped": 1}


def test_one_that_comes_back_alone_is_handed_out_at_once() -> None:
    """A retry has waited for quiet already."""
    desk = Desk(Debounce(2.0, 60.0))
    desk.shop.put(desk.box, "only")
    desk.shop.pass_time(2.0)
    desk.shop.settle(desk.box, desk.take(), Back())
    assert desk.take().message.body == "only"


def test_asks_that_give_way_are_told() -> None:
    """The asker of a message that gives way learns that it was dropped."""
    desk = Desk(Debounce(2.0, 60.0))
    ask = desk.shop.ask(desk.box)
    desk.shop.put(desk.box, "newer")
    desk.gather()
    assert ask.told == ["dropped"]


@given(OPERATIONS, st.booleans())
def test_counts_always_add_up(steps: list[tuple[str, int]], by: bool) -> None:
    """Whatever happens: each copy is counted once, one of a value is in hand at a time, and none after a newer one."""
    desk = Desk(Debounce(1.0, 4.0, by=(lambda body: body % 2) if by else None))
    shop, box = desk.shop, desk.box
    leased: list[Entry] = []
    newest: dict[Any, int] = {}
    for step, amount in steps:
        desk.do(step, amount)
        if step in ("take", "drain"):
            entry = desk.take(everything=step == "drain")
            if entry is not None:
                value = entry.lane[1]
                assert value not in {other.lane[1] for other in leased}
                assert entry.place >= newest.get(value, -1)
                newest[value] = entry.place
                leased.append(entry)
        elif step in ("ack", "back", "later") and leased:
            verdict = {"ack": Ack(), "back": Back(), "later": Back(4.0, "failure")}[step]
            shop.commit(Settle(box, leased.pop(amount % len(leased)), verdict))
        numbers(box)
        assert box.leased == len(leased)
    for entry in leased:
        shop.commit(Settle(box, entry, Ack()))
    shop.pass_time(100.0)
    while (entry := desk.take(everything=True)) is not None:
        shop.commit(Settle(box, entry, Ack()))
    assert box.ready == box.leased == box.delayed == 0
    assert box.lanes == {}
    assert len(desk.gathered._bursts) == 0  # state only for active values
