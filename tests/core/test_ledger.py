"""The ledger: what one commit does, and what a prepared one holds back. The state machine holds the rest."""

from typing import Any

import pytest

from flowmesh._core.commits import (
    Ack,
    Back,
    Commit,
    Dead,
    Defer,
    End,
    Gone,
    Publish,
    PublishDue,
    Purge,
    Release,
    Replay,
    Settle,
    Withdraw,
)
from flowmesh._core.entry import State
from flowmesh._core.ledger import UnusableLane
from flowmesh.errors import MailboxFull
from tests.core.making import Shop, bodies, dead_bodies, numbers


@pytest.fixture
def shop() -> Shop:
    """A fresh ledger."""
    return Shop()


# All or nothing


def test_a_full_reject_mailbox_refuses_the_whole_publish(shop: Shop) -> None:
    """All mailboxes are asked before any changes: the error names the full one, gives the message back, nothing entered."""
    first, full, last = shop.mailbox("first"), shop.mailbox("full", capacity=1, overflow="reject"), shop.mailbox("last")
    shop.put(full, "there")
    message = shop.message("new")
    with pytest.raises(MailboxFull, match=r"mailbox 'full' is full \(1 of 1 ready, overflow='reject'\)") as caught:
        shop.commit(Publish(message, (first, full, last)))
    assert (caught.value.message, caught.value.mailbox) == (message, "full")
    assert (numbers(first), numbers(last), bodies(full.peek(9))) == ({}, {}, ["there"])


def test_copies_of_one_commit_count_together(shop: Shop) -> None:
    """Several messages in one commit are refused when they do not fit together."""
    mailbox = shop.mailbox("m", capacity=2, overflow="reject")
    with pytest.raises(MailboxFull):
        shop.commit(*(Publish(shop.message(), (mailbox,)) for _ in range(3)))
    assert numbers(mailbox) == {}


def test_what_the_mesh_moves_is_never_refused(shop: Shop) -> None:
    """A moved message enters full `wait` and `reject` mailboxes; `over` shows it."""
    boxes = tuple(shop.mailbox(overflow, capacity=1, overflow=overflow) for overflow in ("wait", "reject"))
    for _ in range(3):
        shop.commit(Publish(shop.message(), boxes, moved=True))
    assert [box.statistics(shop.now, 0.0).over for box in boxes] == [2, 2]


def test_nowait_refuses_where_a_sender_would_wait(shop: Shop) -> None:
    """A full `wait` mailbox refuses a nowait publish, and so does one for which senders stand in line."""
    mailbox = shop.mailbox("m", capacity=1)
    mailbox.room_wanted = True
    with pytest.raises(MailboxFull):
        shop.commit(Publish(shop.message(), (mailbox,), nowait=True))
    shop.put(mailbox, 1)
    mailbox.room_wanted = False
    with pytest.raises(MailboxFull):
        shop.commit(Publish(shop.message(), (mailbox,), nowait=True))


def test_receipt_counts_tell_what_took_a_copy_and_what_left_it_out(shop: Shop) -> None:
    """One pair per message, in order."""
    keeps, drops = shop.mailbox("keeps"), shop.mailbox("drops", capacity=1, overflow="drop_newest")
    commit = shop.commit(*(Publish(shop.message(), (keeps, drops)) for _ in range(2)))
    assert commit.counts == [(2, 0), (1, 1)]


# Verdicts


def test_nack_with_a_delay_counts_a_hand_out(shop: Shop) -> None:
    """A hand-out without a verdict is counted whether the copy comes back at once or later."""
    mailbox = shop.mailbox("m", max_deliveries=3)
    shop.put(mailbox, "poison")
    for _ in range(2):
        shop.settle(mailbox, shop.take(mailbox), Back(5.0, "handout"))
        shop.pass_time(5.0)
    entry = shop.take(mailbox)
    assert entry is not None
    assert (entry.handouts, entry.failures, entry.redelivered) == (2, 0, True)
    shop.settle(mailbox, entry, Back(5.0, "handout"))
    assert numbers(mailbox) == {"entered": 1, "dead": 1}
    (letter,) = shop.ledger.dead_letters.peek(1)
    assert (letter.deaths[0].reason, letter.deaths[0].detail) == ("delivery_limit", "handed out 3 times without a verdict")


@pytest.mark.parametrize("delay", [0.0, 1.0])
def test_only_what_is_said_is_counted(shop: Shop, delay: float) -> None:
    """A failure counts as a failure, a hand-out as a hand-out, and drain, stop and RetryAfter for neither."""
    mailbox = shop.mailbox("m", max_deliveries=2)
    shop.put(mailbox, 1)
    verdicts = [Back(delay), Back(delay, "failure"), Back(delay, "failure"), Back(delay, "handout"), Back(delay)]
    counts: list[tuple[int, int]] = []
    for verdict in verdicts:
        shop.settle(mailbox, shop.take(mailbox), verdict)
        shop.pass_time(delay)
        (entry,) = mailbox.entries()
        counts.append((entry.failures, entry.handouts))
    assert counts == [(0, 0), (1, 0), (2, 0), (2, 1), (2, 1)]


def test_a_waiting_retry_is_delayed_and_then_ready_at_its_place(shop: Shop) -> None:
    """A copy that is put back until later is not ready meanwhile, holds nothing up, and comes back to its old place."""
    mailbox = shop.mailbox("m")
    shop.put(mailbox, 1, 2, 3)
    shop.settle(mailbox, shop.take(mailbox), Back(1.0, "failure"))
    assert numbers(mailbox) == {"ready": 2, "delayed": 1, "entered": 3}
    assert shop.ledger.delayed == 1
    shop.settle(mailbox, shop.take(mailbox), Ack())
    shop.pass_time(1.0)
    assert bodies(shop.take_all(mailbox)) == [1, 3]
    assert (mailbox.retries, len(shop.ledger.timers)) == ({}, 0)


def test_settling_twice_is_an_error_of_the_caller(shop: Shop) -> None:
    """A copy ends once: the second settling finds a state that cannot be settled."""
    mailbox = shop.mailbox("m")
    shop.put(mailbox, 1)
    entry = shop.take(mailbox)
    shop.settle(mailbox, entry, Ack())
    with pytest.raises(AssertionError, match="cannot go from ENDED"):
        shop.settle(mailbox, entry, Ack())


@pytest.mark.parametrize(
    "verdict, outcome, counted",
    [
        (Ack(), "acked", "acked"),
        (Gone(), "withdrawn", "withdrawn"),
        (Dead("rejected"), "acked", "acked"),
        (Dead("failed"), "acked", "acked"),
    ],
)
def test_an_asked_copy_is_never_dead_lettered(shop: Shop, verdict: Any, outcome: str, counted: str) -> None:
    """Whoever asked is told how the copy ended; it leaves nothing in the dead letters."""
    mailbox = shop.mailbox("m", dead_letter="dlx")
    entry = shop.ask(mailbox)
    shop.settle(mailbox, shop.take(mailbox), verdict)
    assert entry.told == [outcome]
    assert numbers(mailbox) == {"entered": 1, counted: 1}
    assert dead_bodies(shop) == []


@pytest.mark.parametrize("way", ["withdrawn", "purged", "dropped", "expired", "left out"])
def test_an_asker_is_told_when_its_copy_ends_without_a_reply(shop: Shop, way: str) -> None:
    """Withdrawn, purged, dropped, expired, left out: each is told, once, and counted under its name."""
    overflow = "drop_newest" if way == "left out" else "drop_oldest"
    mailbox = shop.mailbox("m", capacity=1, overflow=overflow)
    if way == "left out":
        shop.put(mailbox, "first")
    entry = shop.ask(mailbox, ttl=1.0)
    match way:
        case "withdrawn":
            shop.commit(Withdraw(mailbox, entry))
        case "purged":
            shop.commit(Purge(mailbox))
        case "dropped":
            shop.put(mailbox, "newer")
        case _:
            shop.pass_time(1.0)
    counter = "dropped" if way == "left out" else way
    assert entry.told == [counter]
    assert numbers(mailbox)[counter] == 1


def test_withdrawing_what_has_started_or_ended_changes_nothing(shop: Shop) -> None:
    """A leased or ended copy cannot be withdrawn."""
    mailbox = shop.mailbox("m")
    entry = shop.ask(mailbox)
    shop.take(mailbox)
    assert shop.commit(Withdraw(mailbox, entry)).changes == []
    shop.settle(mailbox, entry, Ack())
    assert shop.commit(Withdraw(mailbox, entry)).changes == []
    assert numbers(mailbox) == {"entered": 1, "acked": 1}


def test_withdrawing_a_waiting_retry_cancels_its_timer(shop: Shop) -> None:
    """Nothing is left of it."""
    mailbox = shop.mailbox("m")
    entry = shop.ask(mailbox)
    shop.settle(mailbox, shop.take(mailbox), Back(9.0))
    shop.commit(Withdraw(mailbox, entry))
    assert numbers(mailbox) == {"entered": 1, "withdrawn": 1}
    assert (len(shop.ledger.timers), mailbox.retries, shop.ledger.delayed) == (0, {}, 0)


def test_an_unusable_lane_is_the_callers_to_settle(shop: Shop) -> None:
    """When `by=` raises or gives what cannot be a lane, the copy is leased and given to the caller; the next is not harmed."""
    mailbox = shop.mailbox("m")
    shop.put(mailbox, "raises", "unhashable", "good")

    def lane_of(entry: Any) -> Any:
        if entry.message.body == "raises":
            raise LookupError("no such field")
        return [] if entry.message.body == "unhashable" else 1

    for cause in (LookupError, TypeError):
        with pytest.raises(UnusableLane) as caught:
            shop.take(mailbox, lane_of)
        assert isinstance(caught.value.__cause__, cause)
        assert caught.value.entry.state is State.LEASED
        shop.settle(mailbox, caught.value.entry, Dead("malformed"))
    assert bodies(shop.take_all(mailbox, lane_of)) == ["good"]
    assert dead_bodies(shop) == ["raises", "unhashable"]


# A deleted mailbox


def test_a_copy_that_comes_back_to_a_deleted_mailbox_ends_as_purged(shop: Shop) -> None:
    """At once or later, nothing is ready in a mailbox that nobody can reach."""
    mailbox = shop.mailbox("m")
    shop.put(mailbox, 1, 2, 3)
    entries = shop.take_all(mailbox)
    shop.settle(mailbox, entries[0], Back(1.0))
    shop.router.delete_mailbox(mailbox)
    shop.commit(Purge(mailbox, delayed=True))
    shop.settle(mailbox, entries[1], Back())
    shop.settle(mailbox, entries[2], Back(1.0, "failure"))
    assert numbers(mailbox) == {"entered": 3, "purged": 3}
    assert len(shop.ledger.timers) == 0


def test_deleting_an_empty_mailbox_closes_its_fast_path(shop: Shop) -> None:
    """A publisher that still holds a route to it goes the careful way."""
    mailbox = shop.mailbox("m")
    shop.router.delete_mailbox(mailbox)
    shop.commit(Purge(mailbox, delayed=True))
    assert mailbox.limit == -1


@pytest.mark.parametrize("then", ["applied", "given up"])
def test_a_mailbox_deleted_under_a_prepared_commit_purges_it_too(shop: Shop, then: str) -> None:
    """What was to enter, to come back, or was bound when its mailbox was deleted ends as purged, whatever happens next."""
    mailbox = shop.mailbox("m")
    ready, delayed, leased = (shop.ask(mailbox) for _ in range(3))
    assert shop.take(mailbox) is ready
    assert shop.take(mailbox) is delayed
    assert shop.take(mailbox) is leased
    shop.settle(mailbox, ready, Back())
    shop.settle(mailbox, delayed, Back(1.0))
    commits = [
        shop.prepare(Withdraw(mailbox, ready)),
        shop.prepare(Release(mailbox, delayed)),
        shop.prepare(Settle(mailbox, leased, Back())),
        shop.prepare(Publish(shop.message(), (mailbox,))),
    ]
    shop.router.delete_mailbox(mailbox)
    shop.commit(Purge(mailbox, delayed=True))
    for commit in commits:
        (shop.apply if then == "applied" else shop.ledger.give_up)(commit)
    if then == "applied":
        assert numbers(mailbox) == {"entered": 4, "withdrawn": 1, "purged": 3}
    else:
        assert numbers(mailbox) == {"entered": 3, "leased": 1, "purged": 2}
        shop.settle(mailbox, leased, Back())
        assert numbers(mailbox) == {"entered": 3, "purged": 3}
    assert (mailbox.arriving, mailbox.pinned, mailbox.peek(9)) == (0, 0, [])


# Two phases


def test_a_prepared_publish_is_invisible_and_counts_as_room(shop: Shop) -> None:
    """Nobody sees the copy, nobody can take its room; applied it stands behind what stood there before."""
    mailbox = shop.mailbox("m", capacity=2, overflow="reject")
    shop.put(mailbox, 1)
    commit = shop.prepare(Publish(shop.message(2), (mailbox,)))
    assert (numbers(mailbox), bodies(mailbox.peek(9)), mailbox.limit) == ({"ready": 1, "entered": 1}, [1], -1)
    with pytest.raises(MailboxFull):
        shop.prepare(Publish(shop.message(3), (mailbox,)))
    shop.apply(commit)
    assert bodies(shop.take_all(mailbox)) == [1, 2]


def test_a_copy_that_is_to_enter_cannot_be_withdrawn(shop: Shop) -> None:
    """Until its commit is applied it is not there: an asker that leaves before that leaves it alone."""
    mailbox = shop.mailbox("m")
    entry = shop.ask(shop.mailbox("other"))
    entry.queued = False
    commit = shop.prepare(Publish(entry.message, (mailbox,), make_entry=lambda message: entry))
    assert shop.commit(Withdraw(mailbox, entry)).changes == []
    shop.apply(commit)
    assert numbers(mailbox) == {"ready": 1, "entered": 1}
    shop.commit(Withdraw(mailbox, entry))
    assert numbers(mailbox) == {"entered": 1, "withdrawn": 1}


def test_what_is_bound_cannot_be_handed_out_expired_or_purged(shop: Shop) -> None:
    """A copy that a prepared commit ends is left alone by everything else, and still takes up room."""
    mailbox = shop.mailbox("m", capacity=1, overflow="reject")
    entry = shop.ask(mailbox, ttl=1.0)
    commit = shop.prepare(Withdraw(mailbox, entry))
    assert shop.take(mailbox) is None
    assert [expiry.changes for expiry in shop.pass_time(1.0)] == [[]]
    assert shop.commit(Purge(mailbox, delayed=True)).changes == []
    assert shop.commit(Withdraw(mailbox, entry)).changes == []
    with pytest.raises(MailboxFull):
        shop.put(mailbox, 2)
    shop.apply(commit)
    assert entry.told == ["withdrawn"]
    assert numbers(mailbox) == {"entered": 1, "withdrawn": 1}


@pytest.mark.parametrize("taken", [False, True])
def test_a_copy_whose_time_was_over_while_bound_expires_when_its_commit_is_given_up(shop: Shop, taken: bool) -> None:
    """Its timer has fired for nothing, so another one is set, wherever the copy stood."""
    mailbox = shop.mailbox("m")
    entry = shop.ask(mailbox, ttl=1.0)
    if taken:
        shop.settle(mailbox, shop.take(mailbox), Back())
    commit = shop.prepare(Withdraw(mailbox, entry))
    if taken:
        assert shop.take(mailbox) is None
    shop.pass_time(1.0)
    shop.ledger.give_up(commit)
    assert numbers(mailbox) == {"ready": 1, "entered": 1}
    shop.pass_time(0.0)
    assert numbers(mailbox) == {"entered": 1, "expired": 1}


@pytest.mark.parametrize("bound_by", ["withdraw", "purge", "release"])
def test_a_retry_that_was_due_while_bound_is_released_when_its_commit_is_given_up(shop: Shop, bound_by: str) -> None:
    """Its timer has fired for nothing, so another one is set: the copy does not wait for ever."""
    mailbox = shop.mailbox("m")
    entry = shop.ask(mailbox)
    shop.settle(mailbox, shop.take(mailbox), Back(1.0))
    intents: dict[str, Any] = {
        "withdraw": Withdraw(mailbox, entry),
        "purge": Purge(mailbox, delayed=True),
        "release": Release(mailbox, entry),
    }
    commit = shop.prepare(intents[bound_by])
    assert [fired.changes for fired in shop.pass_time(1.0)] == [[]]
    shop.ledger.give_up(commit)
    assert numbers(mailbox) == {"delayed": 1, "entered": 1}
    shop.pass_time(0.0)
    assert shop.take(mailbox) is entry


def test_purging_leaves_alone_the_retries_that_another_commit_settles(shop: Shop) -> None:
    """A purge that meets a bound retry takes the others."""
    mailbox = shop.mailbox("m")
    entries = [shop.ask(mailbox) for _ in range(2)]
    for _ in entries:
        shop.settle(mailbox, shop.take(mailbox), Back(1.0))
    commit = shop.prepare(Withdraw(mailbox, entries[0]))
    shop.commit(Purge(mailbox, delayed=True))
    shop.apply(commit)
    assert numbers(mailbox) == {"entered": 2, "withdrawn": 1, "purged": 1}


def test_a_prepared_purge_keeps_the_room_it_will_free(shop: Shop) -> None:
    """Until it is applied, no publisher may use the fast path into what is still full; given up, the order is as before."""
    mailbox = shop.mailbox("m", capacity=3)
    shop.put(mailbox, 1, 2, 3)
    commit = shop.prepare(Purge(mailbox))
    assert len(mailbox.fresh) >= mailbox.limit
    assert mailbox.peek(9) == []
    shop.ledger.give_up(commit)
    assert bodies(shop.take_all(mailbox)) == [1, 2, 3]


def test_giving_up_tells_those_who_wait_for_room(shop: Shop) -> None:
    """The room that a prepared copy held is free again."""
    mailbox, told = shop.mailbox("m", capacity=1), list[bool]()
    commit = shop.prepare(Publish(shop.message(), (mailbox,)))
    mailbox.room_wanted = True
    mailbox.on_room = lambda: told.append(mailbox.has_room())
    shop.ledger.give_up(commit)
    assert told == [True]


def test_giving_up_opens_the_fast_path_again(shop: Shop) -> None:
    """With nothing to arrive any more, publishers may append."""
    mailbox = shop.mailbox("m", capacity=5)
    commit = shop.prepare(Publish(shop.message(), (mailbox,)))
    assert mailbox.limit == -1
    shop.ledger.give_up(commit)
    assert mailbox.limit == 5


def test_giving_up_a_settlement_leaves_the_copy_leased(shop: Shop) -> None:
    """A turn whose commit could not be written is still the worker's to settle; its outputs never were."""
    mailbox, other = shop.mailbox("m"), shop.mailbox("other")
    shop.put(mailbox, 1, 2, 3)
    for verdict in (Ack(), Back(1.0, "failure"), Dead("failed")):
        entry = shop.take(mailbox)
        assert entry is not None
        output = PublishDue(shop.router.default_exchange, shop.message(key="other"))
        commit = shop.prepare(Settle(mailbox, entry, verdict), output)
        shop.ledger.give_up(commit)
        assert (entry.state, entry.failures) == (State.LEASED, 0)
        shop.settle(mailbox, entry, Ack())
    assert (numbers(mailbox), numbers(other), dead_bodies(shop)) == ({"entered": 3, "acked": 3}, {}, [])


# Who listens


def test_who_listens_is_told_of_each_commit_when_all_of_it_is_done(shop: Shop) -> None:
    """One that is only prepared, or given up, is not told; one that expires on the way of a hand-out is."""
    told: list[tuple[int, dict[str, int]]] = []
    mailbox = shop.mailbox("m", ttl=1.0)
    shop.ledger.on_applied = lambda commit: told.append((len(commit.changes), numbers(mailbox)))
    shop.put(mailbox, 1)
    shop.ledger.give_up(shop.prepare(Publish(shop.message(), (mailbox,))))
    assert told == [(1, {"ready": 1, "entered": 1})]
    shop.now += 1.0
    assert shop.take(mailbox) is None
    assert told[1:] == [(1, {"entered": 1, "expired": 1})]


def test_who_listens_is_told_what_ends_because_a_commit_was_given_up(shop: Shop) -> None:
    """A copy that was bound while its mailbox was deleted ends as purged, and that is told as well."""
    told: list[Commit] = []
    mailbox = shop.mailbox("m")
    entry = shop.ask(mailbox)
    commit = shop.prepare(Withdraw(mailbox, entry))
    shop.router.delete_mailbox(mailbox)
    shop.ledger.on_applied = told.append
    shop.ledger.give_up(commit)
    assert [caught_up.changes for caught_up in told] == [[End(mailbox, entry, "purged", State.READY)]]
    assert numbers(mailbox) == {"entered": 1, "purged": 1}


# Deferred messages and dead letters


def test_a_deferred_message_is_routed_with_the_bindings_of_then(shop: Shop) -> None:
    """Its ttl starts and its timestamp is taken when it is due."""
    late = shop.mailbox("late")
    exchange = shop.router.declare_exchange("x", "fanout")
    message = shop.message("deferred", exchange="x", ttl=2.0)
    commit = shop.commit(Defer(PublishDue(exchange, message, ttl=2.0), shop.now + 5.0))
    assert commit.timers == [timer.id for timer in shop.ledger.timers]
    shop.bind("x", late)
    shop.pass_time(5.0)
    (found,) = late.peek(9)
    assert (found.id, found.expires, found.timestamp) == (message.id, shop.now + 2.0, shop.now + 1000.0)
    shop.pass_time(2.0)
    assert numbers(late) == {"entered": 1, "expired": 1}


def test_a_deferred_message_that_nobody_takes_is_told(shop: Shop) -> None:
    """A deleted exchange, or one that routes nowhere, leaves a note."""
    exchange = shop.router.declare_exchange("x", "fanout")
    message = shop.message(exchange="x")
    for target in (exchange, None):
        (note,) = shop.commit(PublishDue(target, message)).notes
        assert (note.kind, note.place, note.message) == ("unroutable", "x", message)


def test_a_deferred_message_is_for_the_exchange_that_has_its_name_then(shop: Shop) -> None:
    """One that was deleted and declared again takes it, with its new bindings; one that is gone leaves a note."""
    late = shop.mailbox("late")
    for delay in (1.0, 2.0):
        shop.commit(Defer(PublishDue(shop.router.declare_exchange("x"), shop.message(exchange="x")), shop.now + delay))
    shop.router.delete_exchange(shop.router.exchanges["x"])
    assert [note.kind for commit in shop.pass_time(1.0) for note in commit.notes] == ["unroutable"]
    shop.router.declare_exchange("x", "fanout")
    shop.bind("x", late)
    shop.pass_time(1.0)
    assert late.ready == 1


def test_replay_gives_fresh_attempts_and_keeps_the_history(shop: Shop) -> None:
    """The letter is acked where it rested and enters the mailbox it died in; replaying it again does nothing."""
    mailbox = shop.mailbox("m")
    shop.put(mailbox, "x")
    for _ in range(3):
        shop.settle(mailbox, shop.take(mailbox), Back(0.0, "failure"))
    shop.settle(mailbox, shop.take(mailbox), Dead("failed", "boom"))
    (letter,) = shop.ledger.dead_letters.entries()
    shop.commit(Replay(letter, mailbox))
    assert shop.commit(Replay(letter, mailbox)).changes == []
    entry = shop.take(mailbox)
    assert entry is not None
    assert (entry.failures, entry.redelivered, entry.message.deaths[0].detail) == (0, False, "boom")
    assert numbers(shop.ledger.dead_letters) == {"entered": 1, "acked": 1}


def test_old_dead_letters_make_room_and_each_is_told(shop: Shop) -> None:
    """The place where dead letters rest holds 10,000; of what is more, also within one commit, the oldest go, with a note."""
    mailbox, letters = shop.mailbox("m"), shop.ledger.dead_letters
    assert (letters.options.capacity, letters.options.overflow) == (10_000, "drop_oldest")
    shop.put(mailbox, *range(10_002))
    entries = shop.take_all(mailbox)
    shop.settle(mailbox, entries[0], Dead("failed"))
    commit = shop.commit(*(Settle(mailbox, entry, Dead("failed")) for entry in entries[1:]))
    assert bodies(note.message for note in commit.notes if note.kind == "evicted") == [0, 1]
    assert bodies(letters.peek(1)) == [2]
    assert numbers(letters) == {"ready": 10_000, "entered": 10_002, "dropped": 2}


# Nothing grows without bound, nothing is slow


def test_a_chain_of_ten_thousand_evictions_is_one_commit(shop: Shop) -> None:
    """Each mailbox pushes its copy on to the next: a loop, not a recursion, linear in their number."""
    boxes = [
        shop.mailbox(f"m{number}", capacity=1, overflow="drop_oldest", dead_letter="", dead_letter_key=f"m{number + 1}")
        for number in range(10_000)
    ]
    for number, box in enumerate(boxes):
        shop.put(box, number)
    commit = shop.commit(Publish(shop.message("new"), (boxes[0],)))
    assert bodies(boxes[0].peek(1)) == ["new"]
    assert [bodies(box.peek(1)) for box in boxes[1:]] == [[number] for number in range(9_999)]
    assert dead_bodies(shop) == [9_999]
    assert len(commit.changes) == 20_001


def test_one_copy_dies_through_a_long_chain(shop: Shop) -> None:
    """A thousand mailboxes that expire at once pass a copy on with its whole history."""
    boxes = [shop.mailbox(f"m{number}", ttl=0.0, dead_letter="", dead_letter_key=f"m{number + 1}") for number in range(1000)]
    shop.put(boxes[0], "x")
    shop.pass_time(0.0)
    (letter,) = shop.ledger.dead_letters.peek(1)
    assert [death.mailbox for death in letter.deaths] == [f"m{number}" for number in reversed(range(1000))]
    assert letter.first_death == letter.deaths[-1]


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
def test_one_commit_may_overfill_a_mailbox_many_times(shop: Shop, overflow: str) -> None:
    """A commit of 100,000 copies for one place is planned: a look through those before, for each, would not end in time."""
    count = 100_000
    mailbox = shop.mailbox("m", capacity=1, overflow=overflow)
    shop.commit(*(Publish(shop.message(number), (mailbox,)) for number in range(count)))
    assert numbers(mailbox) == {"ready": 1, "entered": count, "dropped": count - 1}
    assert bodies(mailbox.peek(1)) == [count - 1 if overflow == "drop_oldest" else 0]
