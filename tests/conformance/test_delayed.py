"""Deferred messages against the table of the delayed-message plugins: those cases of `delayed_dedup_hash` that are about time.

The other sections are run elsewhere, or have no counterpart: see ELSEWHERE.
"""

from typing import Any, Final

import pytest

from flowmesh._core.commits import Commit, Defer, PublishDue
from tests.conformance.loading import load
from tests.core.making import Shop, bodies, numbers

TABLE = load("delayed_dedup_hash")
DELAYED = TABLE["delayed"]

ELSEWHERE: Final = {
    "dedup": "there is no deduplication by header",
    "consistent_hash": "run in test_hash.py",
    "modulus_hash": "run in test_hash.py, as far as the consistent hash does what it does",
    "local_random": "there is no exchange type that chooses at random",
}
PARTS_NOT_APPLICABLE: Final = {
    "source": "where the table comes from",
    "declare": "every exchange takes deferred messages: there is no type for it",
    "header": "the delay is an option of the publish, in seconds, not a header",
}


def _defer(shop: Shop, body: Any, milliseconds: int) -> Commit:
    exchange = shop.router.declare_exchange("x", "fanout")
    message = shop.message(body, exchange="x")
    return shop.commit(Defer(PublishDue(exchange, message), shop.now + milliseconds / 1000))


def _arrival(shop: Shop) -> list[Any]:
    """Let each millisecond pass for ten seconds; return the bodies in the order in which they arrive."""
    arrived: list[Any] = []
    for _ in range(10_000):
        shop.pass_time(0.001)
        arrived += bodies(shop.take_all(shop.router.mailboxes["m"]))
    return arrived


def test_every_section_and_rule_is_accounted_for() -> None:
    """What is new in the table is run, or named here with the reason why not."""
    assert TABLE.keys() == {"delayed", *ELSEWHERE}
    assert DELAYED.keys() == {"cases", "rules", *PARTS_NOT_APPLICABLE}
    assert set(DELAYED["rules"]) == RULES.keys()
    assert all(callable(globals()[test]) for test in RULES.values())


@pytest.mark.parametrize("case", DELAYED["cases"], ids=lambda case: "-".join(case["arrival"]))
def test_arrival(case: dict[str, Any]) -> None:
    """Messages arrive when they are due, whatever the order in which they were published."""
    assert case.keys() <= {"publish", "timeline", "arrival"}
    shop = Shop()
    shop.bind("x", shop.mailbox("m"))
    if "publish" in case:
        for body, milliseconds in case["publish"]:
            _defer(shop, body, milliseconds)
    began = shop.now
    for at, body in case.get("timeline", ()):
        shop.pass_time(began + at / 1000 - shop.now)
        arrived_before = bodies(shop.router.mailboxes["m"].peek(9))
        assert arrived_before == case["arrival"][: len(arrived_before)]
        _defer(shop, body, int(body))
    assert _arrival(shop) == case["arrival"]


def test_routing_is_done_when_due() -> None:
    """With the bindings of that time: bound later it takes the message, unbound meanwhile it does not."""
    shop = Shop()
    before, after = shop.mailbox("before"), shop.mailbox("after")
    shop.bind("x", before)
    _defer(shop, "message", 1000)
    shop.router.unbind(shop.router.exchanges["x"], before)
    shop.bind("x", after)
    shop.pass_time(1.0)
    assert (numbers(before), bodies(after.peek(9))) == ({}, ["message"])


def test_equal_due_times_keep_their_order() -> None:
    """A thousand messages that are due at one moment arrive as they were published."""
    shop = Shop()
    shop.bind("x", shop.mailbox("m"))
    for number in range(1000):
        _defer(shop, number, 500)
    shop.pass_time(0.5)
    assert bodies(shop.router.mailboxes["m"].peek(2000)) == list(range(1000))


def test_waiting_is_no_death() -> None:
    """A deferred message has no history of deaths."""
    shop = Shop()
    shop.bind("x", shop.mailbox("m"))
    _defer(shop, "message", 1)
    shop.pass_time(0.001)
    (message,) = shop.router.mailboxes["m"].peek(9)
    assert message.deaths == ()


def test_difference_what_is_unroutable_is_told_when_it_is_due() -> None:
    """The plugin says NO_ROUTE at once, although the message may be delivered later; here it is counted when it is due."""
    shop = Shop()
    assert _defer(shop, "message", 1).notes == []
    (commit,) = shop.pass_time(0.001)
    assert [(note.kind, note.place) for note in commit.notes] == [("unroutable", "x")]


def test_difference_a_deferred_message_can_be_listed_and_cancelled() -> None:
    """The plugin can do neither; here it is a timer like any other."""
    shop = Shop()
    mailbox = shop.mailbox("m")
    shop.bind("x", mailbox)
    kept, cancelled = _defer(shop, "kept", 1), _defer(shop, "cancelled", 1)
    timers = {timer.id: timer for timer in shop.ledger.timers}
    assert timers.keys() == {*kept.timers, *cancelled.timers}
    assert shop.ledger.timers.cancel(timers[cancelled.timers[0]])
    shop.pass_time(0.001)
    assert bodies(mailbox.peek(9)) == ["kept"]


RULES: Final = {
    "routing evaluated AFTER the delay, with bindings of that time": "test_routing_is_done_when_due",
    "ordered by due time, not publish order; equal due time => publish order": "test_equal_due_times_keep_their_order",
    "no x-death headers added": "test_waiting_is_no_death",
    "mandatory not supported by the plugin (returns NO_ROUTE although later delivered: issue #7)": (
        "test_difference_what_is_unroutable_is_told_when_it_is_due"
    ),
    "no cancel, list or edit (issues #16, #147, server#3160)": (
        "test_difference_a_deferred_message_can_be_listed_and_cancelled"
    ),
}
