"""The mailbox: order, room, lanes, expiry, fast paths, and that nothing of a copy stays behind.

The state machine of `test_ledger_machine` holds the rest.
"""

import random
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from flowmesh._core.commits import Ack, Back, Dead, Gone, Publish, Purge, Settle, Withdraw
from flowmesh._core.entry import Entry
from flowmesh._core.mailbox import EMPTY, Mailbox
from flowmesh.message import Message
from flowmesh.policies import MailboxOptions
from tests.core.making import Asked, Shop, bodies, dead_bodies, numbers


@pytest.fixture
def shop() -> Shop:
    """A fresh ledger."""
    return Shop()


def _append(mailbox: Mailbox, message: Message) -> None:
    """What a publisher does on its fast path."""
    assert len(mailbox.fresh) < mailbox.limit
    if mailbox.fresh is EMPTY:
        mailbox.fresh = deque()
    mailbox.fresh.append(message)
    mailbox.entered += 1
    if mailbox.armed:
        mailbox.armed = False
        mailbox.on_ready()


# Order


def test_copies_are_handed_out_in_the_order_in_which_they_entered(shop: Shop) -> None:
    """Without priorities the place alone counts."""
    mailbox = shop.mailbox("m")
    shop.put(mailbox, 1, 2, priority=0)
    shop.put(mailbox, 3, priority=9)
    assert bodies(mailbox.peek(9)) == [1, 2, 3]
    assert bodies(shop.take_all(mailbox)) == [1, 2, 3]


def test_higher_priorities_go_first_and_equal_ones_by_place(shop: Shop) -> None:
    """With priorities, 255 comes before 0."""
    mailbox = shop.mailbox("m", priorities=True)
    for priority in (0, 255, 3, 255, 0):
        shop.put(mailbox, (priority, mailbox.entered), priority=priority)
    expected = [(255, 1), (255, 3), (3, 2), (0, 0), (0, 4)]
    assert bodies(mailbox.peek(9)) == expected
    assert bodies(shop.take_all(mailbox)) == expected


@pytest.mark.parametrize("priorities", [False, True])
@pytest.mark.parametrize("delay", [0.0, 1.0])
def test_a_place_is_kept_for_life(shop: Shop, priorities: bool, delay: float) -> None:
    """Handed back in any order, at once or later, copies stand where they stood, before what entered after them."""
    mailbox = shop.mailbox("m", priorities=priorities)
    shop.put(mailbox, *range(10))
    entries = shop.take_all(mailbox)
    shop.put(mailbox, 10)
    random.Random(4).shuffle(entries)
    for entry in entries:
        shop.settle(mailbox, entry, Back(delay, "failure"))
    shop.pass_time(delay)
    assert bodies(mailbox.peek(99)) == list(range(11))
    assert bodies(shop.take_all(mailbox)) == list(range(11))


def test_peek_changes_nothing_and_stops_at_its_limit(shop: Shop) -> None:
    """It shows what would be handed out next, copies that came back and copies set aside included."""
    mailbox = shop.mailbox("m")
    shop.put(mailbox, *range(6))
    first = shop.take(mailbox, lambda entry: "lane")
    assert shop.take(mailbox, lambda entry: "lane" if entry.message.body < 4 else entry.message.body) is not None
    shop.settle(mailbox, first, Back())
    before = numbers(mailbox)
    assert [bodies(mailbox.peek(limit)) for limit in (0, 2, 99)] == [[], [0, 1], [0, 1, 2, 3, 5]]
    assert numbers(mailbox) == before


# Room


def test_capacity_counts_ready_copies_only(shop: Shop) -> None:
    """Leased and delayed copies take up no room; what comes back may exceed it."""
    mailbox = shop.mailbox("m", capacity=2, overflow="reject")
    shop.put(mailbox, 1, 2)
    leased, delayed = shop.take(mailbox), shop.take(mailbox)
    shop.settle(mailbox, delayed, Back(5.0))
    shop.put(mailbox, 3, 4)
    shop.settle(mailbox, leased, Back())
    shop.pass_time(5.0)
    assert mailbox.statistics(shop.now, 0.0).over == 2
    assert not mailbox.has_room()
    assert bodies(shop.take_all(mailbox)) == [1, 2, 3, 4]


def test_drop_oldest_drops_what_would_be_handed_out_next(shop: Shop) -> None:
    """With priorities that is the highest, then the oldest; the newcomer itself if it comes first."""
    mailbox = shop.mailbox("m", capacity=2, overflow="drop_oldest", priorities=True)
    for body, priority in ((1, 1), (5, 5), (3, 3), (9, 9), (0, 0)):
        shop.put(mailbox, body, priority=priority)
    assert bodies(mailbox.peek(9)) == [1, 0]
    assert numbers(mailbox) == {"ready": 2, "entered": 5, "dropped": 3}


def test_drop_oldest_within_one_commit_is_as_one_after_the_other(shop: Shop) -> None:
    """A copy that enters with the same commit is dropped when it would be next, not one that stands behind it."""
    mailbox = shop.mailbox("m", capacity=2, overflow="drop_oldest", priorities=True)
    shop.put(mailbox, 1, priority=1)
    messages = [shop.message(priority, priority=priority) for priority in (5, 0)]
    shop.commit(*(Publish(message, (mailbox,)) for message in messages))
    assert bodies(mailbox.peek(9)) == [1, 0]


def test_drop_oldest_drops_what_is_set_aside_only_when_nothing_else_is_ready(shop: Shop) -> None:
    """What waits for its lane cannot be handed out next; but when all wait, the oldest of them goes, whatever comes."""
    mailbox = shop.mailbox("m", capacity=2, overflow="drop_oldest")
    shop.put(mailbox, "a1", "a2")
    shop.take(mailbox, _by)
    assert shop.take(mailbox, _by) is None
    shop.put(mailbox, "b1", "b2")
    assert bodies(mailbox.peek(9)) == ["a2", "b2"]
    shop.put(mailbox, "a3")
    assert bodies(mailbox.peek(9)) == ["a2", "a3"]
    assert shop.take(mailbox, _by) is None
    shop.put(mailbox, "a4")
    assert bodies(mailbox.peek(9)) == ["a3", "a4"]
    assert numbers(mailbox) == {"ready": 2, "leased": 1, "entered": 6, "dropped": 3}


def test_drop_oldest_loses_no_copy_that_was_set_aside(shop: Shop) -> None:
    """A full mailbox in which all wait for one lane drops one for each that comes, and counts it."""
    mailbox = shop.mailbox("m", capacity=2, overflow="drop_oldest", priorities=True)
    shop.put(mailbox, 1, 2)
    held = shop.take(mailbox, lambda entry: "lane")
    shop.put(mailbox, 3)
    assert shop.take(mailbox, lambda entry: "lane") is None
    shop.put(mailbox, "high", priority=9)
    assert numbers(mailbox) == {"ready": 2, "leased": 1, "entered": 4, "dropped": 1}
    assert bodies(mailbox.peek(9)) == ["high", 3]
    shop.settle(mailbox, held, Ack())
    shop.settle(mailbox, shop.take(mailbox, lambda entry: "lane"), Ack())
    assert bodies(shop.take_all(mailbox, lambda entry: "lane")) == [3]


def test_an_expired_copy_that_is_dropped_has_expired(shop: Shop) -> None:
    """What would not be handed out any more makes room by its time, not by the limit."""
    mailbox = shop.mailbox("m", capacity=2, overflow="drop_oldest")
    shop.put(mailbox, "old", ttl=1.0)
    shop.put(mailbox, "live")
    shop.now += 1.0
    shop.put(mailbox, "new")
    assert numbers(mailbox) == {"ready": 2, "entered": 3, "expired": 1}
    assert bodies(mailbox.peek(9)) == ["live", "new"]


def test_whoever_waits_for_room_is_told_when_there_is_some(shop: Shop) -> None:
    """Handed out, withdrawn, expired, purged: each time room appears, `on_room` is called."""
    mailbox = shop.mailbox("m", capacity=1)
    told: list[bool] = []
    mailbox.room_wanted = True
    mailbox.on_room = lambda: told.append(mailbox.has_room())
    ways: list[Callable[[Asked], Any]] = [
        lambda entry: shop.take(mailbox),
        lambda entry: shop.commit(Withdraw(mailbox, entry)),
        lambda entry: shop.pass_time(1.0),
        lambda entry: shop.commit(Purge(mailbox)),
    ]
    for way in ways:
        entry = shop.ask(mailbox, ttl=1.0)
        told.clear()
        way(entry)
        assert told[-1:] == [True]


# Lanes


def _by(entry: Entry) -> Any:
    return entry.message.body[0]


def test_one_of_a_lane_is_handed_out_at_a_time(shop: Shop) -> None:
    """The others of its lane wait, ready, at their places; other lanes go on; `by` runs once per copy."""
    mailbox, looked = shop.mailbox("m"), list[str]()

    def by(entry: Entry) -> str:
        looked.append(entry.message.body)
        return entry.message.body[0]

    shop.put(mailbox, "a1", "a2", "b1", "a3", "b2")
    first = shop.take(mailbox, by)
    assert bodies([first, *shop.take_all(mailbox, by)]) == ["a1", "b1"]
    assert numbers(mailbox) == {"ready": 3, "leased": 2, "entered": 5}
    assert bodies(mailbox.peek(9)) == ["a2", "a3", "b2"]
    shop.settle(mailbox, first, Ack())
    assert bodies(shop.take_all(mailbox, by)) == ["a2"]
    assert sorted(looked) == ["a1", "a2", "a3", "b1", "b2"]


def test_a_lane_waits_for_the_retry_of_its_first(shop: Shop) -> None:
    """While one awaits its retry nothing else of its lane is handed out, and then it goes first."""
    mailbox = shop.mailbox("m")
    shop.put(mailbox, "a1", "a2", "b1")
    shop.settle(mailbox, shop.take(mailbox, _by), Back(1.0, "failure"))
    assert bodies(shop.take_all(mailbox, _by)) == ["b1"]
    shop.pass_time(1.0)
    assert bodies(shop.take_all(mailbox, _by)) == ["a1"]


@pytest.mark.parametrize("verdict", [Ack(), Gone(), Dead("failed"), Back(), Back(1.0)])
@pytest.mark.parametrize("priorities", [False, True])
def test_a_lane_is_never_stuck_and_nothing_of_it_is_left(shop: Shop, verdict: Any, priorities: bool) -> None:
    """However its copies end, every one of a lane gets its turn, in order, and an empty lane is forgotten."""
    mailbox = shop.mailbox("m", priorities=priorities, max_deliveries=2)
    shop.put(mailbox, *(f"{lane}{number}" for number in range(5) for lane in "ab"))
    turns: list[str] = []
    while (entry := shop.take(mailbox, _by)) is not None:
        turns.append(entry.message.body)
        shop.settle(mailbox, entry, verdict if turns.count(turns[-1]) == 1 else Ack())
        shop.pass_time(1.0)
    for lane in "ab":
        own = list(dict.fromkeys(turn for turn in turns if turn[0] == lane))
        assert own == [f"{lane}{number}" for number in range(5)]
    assert (mailbox.lanes, mailbox.aside, mailbox.ready) == ({}, 0, 0)


def test_a_lane_goes_on_when_the_next_of_it_leaves_the_line(shop: Shop) -> None:
    """The next one of a lane may be withdrawn on its way back into line: then the one after it takes its chance."""
    mailbox = shop.mailbox("m")
    asks = [shop.ask(mailbox, body) for body in ("a1", "a2", "a3", "a4")]
    assert shop.take(mailbox, _by) is asks[0]
    assert shop.take(mailbox, _by) is None
    shop.settle(mailbox, asks[0], Ack())  # a2 is back in line
    commit = shop.prepare(Withdraw(mailbox, asks[1]))
    assert shop.take(mailbox, _by) is asks[2]
    shop.ledger.give_up(commit)
    shop.settle(mailbox, asks[2], Ack())
    assert shop.take(mailbox, _by) is asks[1]
    shop.commit(Withdraw(mailbox, asks[3]))
    shop.settle(mailbox, asks[1], Ack())
    assert (mailbox.lanes, numbers(mailbox)) == ({}, {"entered": 4, "acked": 3, "withdrawn": 1})


def test_a_purge_empties_the_lanes(shop: Shop) -> None:
    """What was set aside is purged; the lanes of what is leased stay held."""
    mailbox = shop.mailbox("m")
    shop.put(mailbox, "a1", "a2", "b1", "b2")
    first, second = shop.take(mailbox, _by), shop.take(mailbox, _by)
    assert shop.take(mailbox, _by) is None
    shop.commit(Purge(mailbox))
    shop.put(mailbox, "a3")
    assert shop.take(mailbox, _by) is None
    shop.settle(mailbox, first, Ack())
    shop.settle(mailbox, second, Ack())
    assert bodies(shop.take_all(mailbox, _by)) == ["a3"]
    assert numbers(mailbox) == {"leased": 1, "entered": 5, "acked": 2, "purged": 2}


# Expiry


@pytest.mark.parametrize(
    "mailbox_ttl, message_ttl, lives", [(2.0, None, 2.0), (None, 2.0, 2.0), (2.0, 3.0, 2.0), (3.0, 2.0, 2.0), (0.0, 9.0, 0.0)]
)
def test_the_smaller_ttl_holds(shop: Shop, mailbox_ttl: float | None, message_ttl: float | None, lives: float) -> None:
    """Counted from entering; one that has expired is never handed out, however late the timer is."""
    mailbox = shop.mailbox("m", ttl=mailbox_ttl)
    shop.put(mailbox, "x", ttl=message_ttl)
    if lives:
        shop.pass_time(lives - 0.5)
        assert numbers(mailbox) == {"ready": 1, "entered": 1}
        shop.now += 0.5
    assert shop.take(mailbox) is None
    assert numbers(mailbox) == {"entered": 1, "expired": 1}


def test_a_copy_set_aside_expires_in_time(shop: Shop) -> None:
    """So does one that came back; a leased one does not, but it does when it is handed back."""
    mailbox = shop.mailbox("m", ttl=1.0)
    shop.put(mailbox, "a1", "a2", "b1")
    leased = shop.take(mailbox, _by)
    shop.settle(mailbox, shop.take(mailbox, _by), Back())
    shop.pass_time(1.0)
    assert numbers(mailbox) == {"leased": 1, "entered": 3, "expired": 2}
    shop.settle(mailbox, leased, Back())
    assert numbers(mailbox) == {"entered": 3, "expired": 3}


def test_a_retry_that_comes_due_after_its_time_expires(shop: Shop) -> None:
    """A delayed copy is not handed out after its ttl either."""
    mailbox = shop.mailbox("m", ttl=1.0)
    shop.put(mailbox, "x")
    shop.settle(mailbox, shop.take(mailbox), Back(2.0, "failure"))
    shop.pass_time(1.0)
    assert numbers(mailbox) == {"delayed": 1, "entered": 1}
    shop.pass_time(1.0)
    assert numbers(mailbox) == {"entered": 1, "expired": 1}


# Statistics


def test_oldest_age_is_that_of_the_oldest_ready_copy(shop: Shop) -> None:
    """None when nothing is ready; counted from entering this mailbox, for a dead letter too."""
    mailbox, dead = shop.mailbox("m", dead_letter="", dead_letter_key="dead"), shop.mailbox("dead")

    def age(of: Mailbox) -> float | None:
        return of.statistics(shop.now, shop.now + 1000.0).oldest_age

    assert age(mailbox) is None
    shop.put(mailbox, 1)
    shop.pass_time(3.0)
    shop.put(mailbox, 2)
    assert age(mailbox) == 3.0
    shop.settle(mailbox, shop.take(mailbox), Dead("failed"))
    shop.pass_time(2.0)
    assert (age(mailbox), age(dead)) == (2.0, 2.0)


@pytest.mark.parametrize("options", [{"priorities": True}, {"ttl": 99.0}, {}])
def test_oldest_age_looks_behind_the_head(shop: Shop, options: Any) -> None:
    """With priorities, and with copies set aside, the oldest need not be the next."""
    mailbox = shop.mailbox("m", **options)
    shop.put(mailbox, "a0")
    shop.put(mailbox, "a1")
    shop.pass_time(1.0)
    shop.take(mailbox, _by)
    assert shop.take(mailbox, _by) is None
    shop.put(mailbox, "b1", priority=9)
    shop.pass_time(1.0)
    oldest = mailbox.statistics(shop.now, shop.now + 1000.0).oldest_age
    assert oldest == 2.0


# Fast paths


def test_the_fast_path_of_publishers_ends_at_capacity(shop: Shop) -> None:
    """Exactly as many plain appends are allowed as there is room for, whatever stands elsewhere than in the deque."""
    mailbox = shop.mailbox("m", capacity=6)
    shop.put(mailbox, "a1", "a2", "back")
    shop.take(mailbox, _by)
    shop.settle(mailbox, shop.take(mailbox, _by), Back())  # in the heap; a2 is set aside
    while len(mailbox.fresh) < mailbox.limit:
        _append(mailbox, shop.message("fresh"))
    assert mailbox.ready == 6
    assert bodies(mailbox.peek(9)) == ["a2", "back", "fresh", "fresh", "fresh", "fresh"]


@pytest.mark.parametrize("why", ["closed", "priorities", "ttl", "tracked", "deleted", "room wanted", "arriving"])
def test_whatever_is_unusual_closes_the_fast_path_of_publishers(shop: Shop, why: str) -> None:
    """A copy that needs an entry, or a mailbox that needs care, sends every publisher the careful way."""
    mailbox = shop.mailbox("m", priorities=why == "priorities", ttl=1.0 if why == "ttl" else None)
    mailbox.is_open = why != "closed"
    mailbox.tracked = why == "tracked"
    mailbox.deleted = why == "deleted"
    mailbox.room_wanted = why == "room wanted"
    if why == "arriving":
        shop.prepare(Publish(shop.message(), (mailbox,)))
    mailbox.refresh()
    assert mailbox.limit == -1


def test_the_fast_path_of_consumers_closes_while_something_came_back(shop: Shop) -> None:
    """What came back goes first, so nobody may pop from the deque himself until it has been taken."""
    mailbox = shop.mailbox("m")
    shop.put(mailbox, 1, 2)
    assert not mailbox.careful
    shop.settle(mailbox, shop.take(mailbox), Back())
    assert mailbox.careful
    assert bodies([shop.take(mailbox)]) == [1]
    assert not mailbox.careful
    mailbox.room_wanted = True
    mailbox.refresh()
    assert mailbox.careful


def test_a_consumer_that_is_armed_is_told_once(shop: Shop) -> None:
    """Entered, handed back, released, given up, or next in its lane: whatever appears is told, and disarms."""
    mailbox, told = shop.mailbox("m"), list[int]()
    mailbox.on_ready = lambda: told.append(mailbox.ready)

    def arm() -> None:
        assert not mailbox.has_next
        mailbox.armed = True
        told.clear()

    arm()
    shop.put(mailbox, "a1", "a2")
    assert told == [1]
    first = shop.take(mailbox, _by)
    assert shop.take(mailbox, _by) is None
    arm()
    shop.settle(mailbox, first, Back(1.0))
    assert told == []
    shop.pass_time(1.0)
    assert len(told) == 1
    first = shop.take(mailbox, _by)
    shop.take_all(mailbox, _by)
    arm()
    shop.settle(mailbox, first, Ack())
    assert len(told) == 1
    second = shop.take(mailbox, _by)
    arm()
    shop.settle(mailbox, second, Back())
    assert len(told) == 1
    commit = shop.prepare(Purge(mailbox))
    arm()
    shop.ledger.give_up(commit)
    assert len(told) == 1


# Nothing grows without bound, nothing is slow


def test_withdrawn_copies_leave_the_middle_of_the_line(shop: Shop) -> None:
    """Askers that come and go while nobody consumes leave nothing behind, and the order of the others stays."""
    mailbox = shop.mailbox("m")
    shop.put(mailbox, "first")
    for number in range(5_000):
        shop.commit(Withdraw(mailbox, shop.ask(mailbox)))
        if number % 1_000 == 0:
            shop.put(mailbox, number)
    assert len(mailbox.fresh) < 200
    assert numbers(mailbox) == {"ready": 6, "entered": 5_006, "withdrawn": 5_000}
    assert bodies(shop.take_all(mailbox)) == ["first", 0, 1_000, 2_000, 3_000, 4_000]


def test_withdrawn_copies_leave_the_heap(shop: Shop) -> None:
    """The same in a mailbox with priorities, and what a prepared commit binds stays."""
    mailbox = shop.mailbox("m", priorities=True)
    bound = [shop.ask(mailbox, number) for number in range(100)]
    commits = [shop.prepare(Withdraw(mailbox, entry)) for entry in bound]
    for _ in range(5_000):
        shop.commit(Withdraw(mailbox, shop.ask(mailbox, priority=5)))
    assert len(mailbox.heap) < 600
    for commit in commits:
        shop.ledger.give_up(commit)
    assert shop.take_all(mailbox) == bound


def test_what_is_set_aside_and_withdrawn_leaves_its_lane(shop: Shop) -> None:
    """A lane whose first takes long does not keep those that have left."""
    mailbox = shop.mailbox("m", overflow="drop_oldest")
    shop.put(mailbox, "a0")
    held = shop.take(mailbox, _by)
    for many in (1, 1_000):
        for _ in range(2_000 // many):
            entries = [shop.ask(mailbox, "a1") for _ in range(many)]
            assert shop.take(mailbox, _by) is None
            for entry in entries:
                shop.commit(Withdraw(mailbox, entry))
        assert len(mailbox.lanes["a"].waiting) < 200
    assert len(mailbox.lanes["a"].waiting) < 200
    assert len(mailbox.last_resort) < 200
    shop.settle(mailbox, held, Ack())
    assert (mailbox.lanes, mailbox.aside) == ({}, 0)


def test_deadlines_of_copies_that_are_gone_are_forgotten(shop: Shop) -> None:
    """Copies with a long ttl that are handled at once leave no heap of deadlines behind, and no heap of timers."""
    mailbox = shop.mailbox("m", ttl=3600.0)
    for number in range(5_000):
        shop.put(mailbox, number, ttl=3600.0 - number / 10)
        shop.settle(mailbox, shop.take(mailbox), Ack())
    assert len(mailbox.deadlines) < 200
    assert len(shop.ledger.timers) <= 1


def test_a_copy_that_comes_and_goes_does_not_pile_up_deadlines(shop: Shop) -> None:
    """One copy handed back again and again is watched once."""
    mailbox = shop.mailbox("m", ttl=3600.0)
    shop.put(mailbox, "x")
    for _ in range(5_000):
        shop.settle(mailbox, shop.take(mailbox), Back())
    assert len(mailbox.deadlines) < 200
    shop.pass_time(3600.0)
    assert numbers(mailbox) == {"entered": 1, "expired": 1}


def _seconds_each(work: Callable[[int], None], count: int) -> float:
    """The time of one of `count` steps, the best of three."""
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        work(count)
        best = min(best, time.perf_counter() - began)
    return best / count


@pytest.mark.parametrize("way", ["back", "withdraw", "withdraw aside", "evict", "evict aside", "expire"])
def test_no_step_of_a_message_looks_at_all_others(way: str) -> None:
    """With 40,000 copies in the mailbox each step still ends in time: one that scanned would take minutes for all."""
    count = 40_000
    shop = Shop()
    overflow = "drop_oldest" if way.startswith("evict") else "wait"
    mailbox = shop.mailbox("m", overflow=overflow, capacity=count, ttl=1.0 if way == "expire" else None)
    asks = [shop.ask(mailbox, f"{number}" if way == "evict aside" else "a") for number in range(count)]
    match way:
        case "back":
            for entry in shop.take_all(mailbox):
                shop.settle(mailbox, entry, Back())
            assert shop.take_all(mailbox) == asks
        case "withdraw" | "withdraw aside":
            if way == "withdraw aside":
                shop.take_all(mailbox, lambda entry: "lane")
            for entry in asks[:0:-1]:
                shop.commit(Withdraw(mailbox, entry))
        case "evict" | "evict aside":
            if way == "evict aside":
                lanes = count // 2
                held = shop.take_all(mailbox, lambda entry: int(entry.message.body) % lanes)
                assert len(held) == lanes
                shop.put(mailbox, *("b" for _ in range(lanes)))
                shop.take_all(mailbox, lambda entry: 0)
            shop.put(mailbox, *("b" for _ in range(count)))
            assert mailbox.ready == count
        case _:
            shop.pass_time(1.0)
            assert numbers(mailbox) == {"entered": count, "expired": count}


def test_equal_places_do_not_compare_copies() -> None:
    """A copy that is set aside, shown and set aside again has two records; neither is handed out twice."""
    shop = Shop()
    mailbox = shop.mailbox("m", overflow="drop_oldest")
    asks = [shop.ask(mailbox, "a") for _ in range(3)]
    held = shop.take(mailbox, _by)
    for _ in range(3):
        assert shop.take(mailbox, _by) is None
        shop.ledger.give_up(shop.prepare(Withdraw(mailbox, asks[1])))
    assert shop.take(mailbox, _by) is None
    assert mailbox.entries() == asks[1:]
    assert numbers(mailbox) == {"ready": 2, "leased": 1, "entered": 3}
    for expected in asks[1:]:
        shop.settle(mailbox, held, Ack())
        held = shop.take(mailbox, _by)
        assert held is expected


def test_rebase_moves_every_time_that_is_waited_for(shop: Shop) -> None:
    """On a clock that counts from elsewhere, what stands in the mailbox lives as long as it would have."""
    mailbox = shop.mailbox("m", ttl=2.0)
    shop.put(mailbox, "waits", "retries")
    for _ in range(2):
        shop.settle(mailbox, shop.take(mailbox), Back(0.0))
    shop.now += 1.0
    shop.ledger.timers.rebase(-50.0)
    mailbox.rebase(-50.0)
    shop.now -= 50.0
    shop.ledger.wall_offset += 50.0
    assert mailbox.statistics(shop.now, 0.0).oldest_age == 1.0
    shop.pass_time(0.5)
    assert numbers(mailbox) == {"ready": 2, "entered": 2}
    shop.pass_time(0.5)
    assert numbers(mailbox) == {"entered": 2, "expired": 2}


def test_a_settlement_of_a_plain_copy_is_one_count(shop: Shop) -> None:
    """A plain message that is acked through the ledger needs no entry."""
    mailbox = shop.mailbox("m")
    shop.put(mailbox, 1)
    item = shop.ledger.take(mailbox, shop.now)
    assert isinstance(item, Message)
    shop.commit(Settle(mailbox, item, Ack()))
    assert (numbers(mailbox), dead_bodies(shop)) == ({"entered": 1, "acked": 1}, [])


def test_an_idle_mailbox_has_no_deque() -> None:
    """An empty mailbox can be asked for everything without one."""
    mailbox = Mailbox("m", 1, MailboxOptions())
    assert mailbox.fresh is EMPTY
    assert (mailbox.pop(), mailbox.peek(1), mailbox.entries(), mailbox.clear(0.0), mailbox.has_next) == (
        None,
        [],
        [],
        [],
        False,
    )
