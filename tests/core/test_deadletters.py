"""Dead-lettering: the history of deaths, the rule that cuts cycles, and where a dead copy goes."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmesh._core.commits import Back, Dead, Publish, Settle
from flowmesh._core.deadletters import RESTING, bury, closes_cycle
from flowmesh.message import Death, DeathReason, Message
from tests.core.ledger_model import died, is_cycle
from tests.core.making import Shop, bodies, dead_bodies, numbers

REASONS: tuple[DeathReason, ...] = ("rejected", "failed", "delivery_limit", "malformed", "expired", "maxlen")


@pytest.fixture
def shop() -> Shop:
    """A fresh ledger."""
    return Shop()


# The history


def test_a_first_death_says_where_why_when_and_how_it_came_there() -> None:
    """Mailbox, reason, count, time, and the exchange and key that it was published with."""
    message = Message("m-", 1, "body", "orders", "eu", 5.0)
    dead = bury(message, "charge", "failed", wall=9.0, detail="boom", exchange="dlx", key="k")
    expected = Death("charge", "failed", 1, 9.0, "orders", ("eu",), None, "boom", 0)
    assert dead.deaths == (expected,)
    assert (dead.exchange, dead.key, dead.id, dead.body, dead.timestamp) == ("dlx", "k", "m-1", "body", 5.0)
    assert dead.first_death == expected


def test_the_same_death_again_is_counted_and_comes_first() -> None:
    """One entry per mailbox and reason: time, exchange and keys of the first time, the detail of the last."""
    message = Message("m-", 1, "body", "first", "k")
    for wall, mailbox, detail in ((1.0, "a", "one"), (2.0, "b", ""), (3.0, "a", "two")):
        message = bury(message, mailbox, "failed", wall=wall, detail=detail, exchange="dlx", key="dead")
    assert message.deaths == (
        Death("a", "failed", 2, 1.0, "first", ("k",), None, "two", 0),
        Death("b", "failed", 1, 2.0, "dlx", ("dead",), None, "", 1),
    )
    assert message.first_death is message.deaths[0]


def test_a_dead_letter_neither_expires_nor_is_waited_for() -> None:
    """Its own ttl is kept in the history; everything else stays as it was."""
    message = Message("m-", 1, "body").with_properties(
        ttl=2.0, expires=7.0, deadline=8.0, headers={"a": 1}, priority=3, correlation_id="c", reply_to="r"
    )
    dead = bury(message, "m", "expired", wall=0.0)
    assert (dead.properties.ttl, dead.expires, dead.deadline, dead.deaths[0].ttl) == (None, None, None, 2.0)
    assert (dict(dead.headers), dead.priority, dead.correlation_id, dead.reply_to) == ({"a": 1}, 3, "c", "r")


STEPS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(REASONS)), max_size=12)


@given(steps=STEPS, target=st.sampled_from("abcd"))
def test_history_and_cycles_are_as_rabbitmq_tells_them(steps: list[tuple[str, DeathReason]], target: str) -> None:
    """Any series of deaths gives the history of the plain model, and the same answer to whether it closes a cycle."""
    message = expected = Message("m-", 1, "body", "x", "k").with_properties(ttl=1.0)
    for number, (mailbox, reason) in enumerate(steps):
        message = bury(message, mailbox, reason, wall=float(number), detail=str(number), exchange="dlx", key="d")
        expected = died(expected, mailbox, reason, str(number), "dlx", "d", float(number))
    assert message == expected
    assert closes_cycle(message.deaths, target) == is_cycle(expected, target)
    assert sum(death.count for death in message.deaths) == len(steps)
    if steps:
        assert message.first_death is not None
        assert (message.first_death.mailbox, message.first_death.reason) == steps[0]


# The cycle rule


@pytest.mark.parametrize("reason", REASONS)
def test_only_deaths_that_nobody_decides_close_a_cycle(reason: DeathReason) -> None:
    """expired, maxlen and delivery_limit do; what a handler decided never does."""
    assert closes_cycle((Death("m", reason, 1, 0.0, "", ()),), "m") == (reason in ("expired", "maxlen", "delivery_limit"))


def test_one_decided_death_on_the_way_round_keeps_a_cycle_open() -> None:
    """Only the deaths since it was last there count, in their order."""
    expired, rejected = Death("a", "expired", 1, 0.0, "", ()), Death("b", "rejected", 1, 0.0, "", ())
    assert not closes_cycle((rejected, expired), "a")
    assert closes_cycle((expired, rejected), "a")
    assert not closes_cycle((expired, rejected), "b")
    assert not closes_cycle((), "a")


# Where it goes


def _die(shop: Shop, reason: DeathReason, **options: Any) -> list[str]:
    """Let one copy die of a reason; return the kinds of notes."""
    if reason == "maxlen":
        mailbox = shop.mailbox("m", capacity=1, overflow="drop_newest", **options)
        shop.put(mailbox, "other")
        message = shop.message("x", key="m")
        return [note.kind for note in shop.commit(Publish(message, (mailbox,))).notes]
    if reason == "expired":
        mailbox = shop.mailbox("m", ttl=1.0, **options)
        shop.put(mailbox, "x")
        return [note.kind for commit in shop.pass_time(1.0) for note in commit.notes]
    mailbox = shop.mailbox("m", max_deliveries=1, **options)
    shop.put(mailbox, "x")
    verdict = Back(0.0, "handout") if reason == "delivery_limit" else Dead(reason, "why")
    return [note.kind for note in shop.settle(mailbox, shop.take(mailbox), verdict).notes]


@pytest.mark.parametrize("reason", REASONS)
def test_with_a_dead_letter_exchange_every_reason_goes_there(shop: Shop, reason: DeathReason) -> None:
    """Published with its own key, or with `dead_letter_key`; counted as dead."""
    dead = shop.mailbox("dead")
    shop.bind("dlx", dead)
    assert _die(shop, reason, dead_letter="dlx", dead_letter_key="k") == []
    (letter,) = dead.peek(9)
    assert (letter.body, letter.exchange, letter.key, letter.deaths[0].reason) == ("x", "dlx", "k", reason)
    assert shop.router.mailboxes["m"].dead == 1
    assert dead_bodies(shop) == []


@pytest.mark.parametrize("reason", REASONS)
def test_without_one_what_a_handler_decided_rests_and_the_others_are_counted(shop: Shop, reason: DeathReason) -> None:
    """rejected, failed, delivery_limit and malformed rest in `mesh.dead_letters`; expired and maxlen are only counted."""
    assert _die(shop, reason) == (["buried"] if reason in RESTING else [])
    assert dead_bodies(shop) == (["x"] if reason in RESTING else [])
    counter = {"expired": "expired", "maxlen": "dropped"}.get(reason, "dead")
    assert getattr(shop.router.mailboxes["m"], counter) == 1


@pytest.mark.parametrize("reason", REASONS)
@pytest.mark.parametrize("broken", ["missing", "bound to nothing"])
def test_a_dead_letter_exchange_that_leads_nowhere_loses_nothing(shop: Shop, reason: DeathReason, broken: str) -> None:
    """Gone, or routing nowhere: the copy rests, with the exchange and key that it had."""
    if broken == "bound to nothing":
        shop.router.declare_exchange("dlx", "fanout")
    assert _die(shop, reason, dead_letter="dlx", dead_letter_key="k") == ["buried"]
    (letter,) = shop.ledger.dead_letters.peek(9)
    assert (letter.body, letter.exchange, letter.key, letter.deaths[0].reason) == ("x", "", "m", reason)


def test_the_exchange_is_looked_up_when_the_copy_dies(shop: Shop) -> None:
    """Declared or bound later, it takes the next one."""
    mailbox, dead = shop.mailbox("m", dead_letter="dlx"), shop.mailbox("dead")
    shop.put(mailbox, 1, 2)
    shop.settle(mailbox, shop.take(mailbox), Dead("rejected"))
    shop.bind("dlx", dead)
    shop.settle(mailbox, shop.take(mailbox), Dead("rejected"))
    assert (dead_bodies(shop), bodies(dead.peek(9))) == ([1], [2])


def test_a_cut_cycle_is_told_and_its_copy_rests(shop: Shop) -> None:
    """Where others take the letter it only misses the one mailbox; where nobody does, it rests."""
    mailbox, other = shop.mailbox("m", ttl=1.0, dead_letter="dlx"), shop.mailbox("other")
    shop.bind("dlx", mailbox)
    shop.put(mailbox, "rests")
    (commit,) = shop.pass_time(1.0)
    assert [(note.kind, note.place) for note in commit.notes] == [("cut", "m"), ("buried", "m")]
    shop.bind("dlx", other)
    shop.put(mailbox, "goes on")
    (commit,) = shop.pass_time(1.0)
    assert [(note.kind, note.place) for note in commit.notes] == [("cut", "m")]
    assert (dead_bodies(shop), bodies(other.peek(9))) == (["rests"], ["goes on"])
    assert numbers(mailbox) == {"entered": 2, "dead": 2}


def test_dead_letters_enter_full_mailboxes_by_their_policies(shop: Shop) -> None:
    """`wait` and `reject` take them over capacity; the drop policies treat them as any copy."""
    boxes = {name: shop.mailbox(name, capacity=1, overflow=name) for name in ("wait", "reject", "drop_oldest", "drop_newest")}
    mailbox = shop.mailbox("m", dead_letter="dlx")
    shop.bind("dlx", *boxes.values())
    for box in boxes.values():
        shop.put(box, "old")
    shop.put(mailbox, "dead")
    shop.settle(mailbox, shop.take(mailbox), Dead("failed"))
    assert {name: bodies(box.peek(9)) for name, box in boxes.items()} == {
        "wait": ["old", "dead"],
        "reject": ["old", "dead"],
        "drop_oldest": ["dead"],
        "drop_newest": ["old"],
    }


def test_a_rejected_copy_may_come_back_for_ever(shop: Shop) -> None:
    """Somebody decides each time, so nothing is cut; the history stays one entry."""
    mailbox = shop.mailbox("m", dead_letter="")
    shop.put(mailbox, "x")
    for count in range(1, 5):
        shop.commit(*(Settle(mailbox, entry, Dead("rejected")) for entry in shop.take_all(mailbox)))
        (message,) = mailbox.peek(9)
        assert [(death.mailbox, death.count) for death in message.deaths] == [("m", count)]
