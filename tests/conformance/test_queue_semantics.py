"""Length limits, priorities, delivery counts and bindings of queues, case by case.

Each case of the table is run, or stands in NOT_APPLICABLE with its reason; what differs has a test named `test_difference_...`.
"""

import json
from collections.abc import Callable
from typing import Any, Final

import pytest

from flowmesh._core.commits import Back, Dead, Publish
from flowmesh._core.router import Router
from flowmesh.errors import AccessRefused, MailboxFull, NotFound
from flowmesh.policies import MailboxOptions, Overflow
from tests.conformance.loading import load
from tests.core.making import Shop, bodies, dead_bodies, numbers

TABLE = load("queue_semantics")

OVERFLOWS: Final[dict[str, Overflow]] = {
    "drop-head": "drop_oldest",
    "drop-head (default)": "drop_oldest",
    "reject-publish": "reject",
}
NO_BYTES = "bodies are shared, not encoded: a mailbox counts copies, not bytes"
NO_AMQP_1 = "there are no AMQP 1.0 outcomes: a delivery is acked, handed back or dead-lettered"
NO_CONNECTION = "a consumer in process has no connection that could be lost"

NOT_APPLICABLE: Final = {
    "x-max-length-bytes": NO_BYTES,
    "body bytes only": NO_BYTES,
    "both limits: whichever hit first": NO_BYTES,
    "policy+argument: minimum": "a mailbox's options are fixed when it is declared: there are no policies beside them",
    "AMQP 1.0 released": NO_AMQP_1,
    "AMQP 1.0 rejected": NO_AMQP_1,
    "AMQP 1.0 modified delivery-failed=false": NO_AMQP_1,
    "AMQP 1.0 modified delivery-failed=true": NO_AMQP_1,
    "client crash / connection loss": NO_CONNECTION,
    "network partition (consumer node suspected)": NO_CONNECTION,
    "consumer timeout": "a pulled delivery may be held as long as its owner likes",
    "basic.reject": "rejecting is a dead letter at once; to hand back is one verb, `nack`",
    "bind to reply-to pseudo queue": "a reply goes straight to the asker: there is no pseudo-queue",
}
SECTIONS: Final = {
    "length_limit": "run",
    "length_rules": "run",
    "priority_classic": "run",
    "delivery_count_table": "run",
    "delivery_limit": "run",
    "bindings": "run",
    "sources": "where the table comes from",
    "priority_args": "a mailbox has all 256 priorities or none; the range is checked where a message is sent",
    "priority_quorum_4_3": "priorities are those of classic queues: opt-in, 0 to 255, a returned copy at its place",
    "delayed_retry_4_3": "the delay before a retry is the actor's `Retry`, not the mailbox's",
    "sac": "run in test_single_active.py",
}


def test_every_section_is_accounted_for() -> None:
    """A section that is new in the table is run, or named here with the reason why not."""
    assert TABLE.keys() == SECTIONS.keys()


# Length limits


def _name(case: Any) -> str:
    return json.dumps(case)[:60]


@pytest.mark.parametrize("case", TABLE["length_limit"], ids=_name)
def test_length_limits(case: dict[str, Any]) -> None:
    """What remains, and which publishes were refused."""
    arguments = case["args"]
    if "x-max-length-bytes" in arguments:
        assert arguments.keys() & NOT_APPLICABLE.keys()
        return
    assert arguments.keys() <= {"x-max-length", "x-overflow"}
    assert case.keys() <= {"args", "overflow", "publish", "remaining", "confirms", "do", "get_order", "note"}
    overflow = OVERFLOWS[arguments.get("x-overflow") or case["overflow"]]
    shop = Shop()
    q = shop.mailbox("q", capacity=arguments["x-max-length"], overflow=overflow)
    if "do" in case:
        assert case["do"] == "publish 1; get(unacked); publish 2 (accepted: only READY messages count); nack requeue 1"
        shop.put(q, "1")
        first = shop.take(q)
        shop.put(q, "2")
        shop.settle(q, first, Back())
        assert bodies(shop.take_all(q)) == case["get_order"]
        return
    confirms = [_publish(shop, "q", body) for body in case["publish"]]
    assert confirms == case.get("confirms", ["ack"] * len(confirms))
    assert bodies(q.peek(9)) == case["remaining"]


def _publish(shop: Shop, name: str, body: Any, **properties: Any) -> str:
    try:
        shop.put(shop.router.mailboxes[name], body, **properties)
    except MailboxFull:
        return "nack"
    return "ack"


LENGTH_RULES: Final = {
    "limit counts READY messages only": "test_length_limits",
    "multi-queue publish with one reject => one basic.nack, others still enqueue": (
        "test_difference_one_full_mailbox_refuses_the_whole_publish"
    ),
    "overflow reject without confirms: silently dropped": "test_difference_a_refused_publish_always_raises",
}


def test_every_length_rule_is_accounted_for() -> None:
    """Each has its test, or the reason why not."""
    assert {rule for rule in TABLE["length_rules"] if rule not in NOT_APPLICABLE} == LENGTH_RULES.keys()
    assert all(callable(globals()[test]) for test in LENGTH_RULES.values())


def test_difference_one_full_mailbox_refuses_the_whole_publish() -> None:
    """RabbitMQ puts the message into the other queues; here it enters all of its mailboxes or none."""
    shop = Shop()
    full, other = shop.mailbox("full", capacity=1, overflow="reject"), shop.mailbox("other")
    shop.put(full, "there")
    with pytest.raises(MailboxFull):
        shop.commit(Publish(shop.message("new"), (full, other)))
    assert (bodies(full.peek(9)), other.peek(9)) == (["there"], [])


def test_difference_a_refused_publish_always_raises() -> None:
    """Without publisher confirms RabbitMQ drops it silently; here nobody need ask for confirms."""
    shop = Shop()
    full = shop.mailbox("full", capacity=1, overflow="reject")
    shop.put(full, "there")
    with pytest.raises(MailboxFull):
        shop.put(full, "new")


# Priorities


def _priority(value: int | None) -> dict[str, int]:
    return {} if value is None else {"priority": value}


@pytest.mark.parametrize("case", TABLE["priority_classic"], ids=_name)
def test_priorities(case: dict[str, Any]) -> None:
    """Higher first, equal ones in order, requeued ones at their place, limits and dead letters in order of hand-out."""
    known = {"max", "publish", "get", "note", "requeue_all", "after_requeue_get", "x-max-length", "overflow", "dlx"}
    assert case.keys() <= {*known, "nack_multiple", "dlq"}
    shop = Shop()
    options: dict[str, Any] = {"dead_letter": "", "dead_letter_key": "dlq"} if "dlx" in case else {}
    if "x-max-length" in case:
        options |= {"capacity": case["x-max-length"], "overflow": OVERFLOWS[case["overflow"]]}
    q, dlq = shop.mailbox("q", priorities=True, **options), shop.mailbox("dlq")
    for value in case["publish"]:
        # Above the queue's maximum RabbitMQ clamps, which a mailbox with all 256 priorities need not: see the difference.
        _publish(shop, "q", str(value), **_priority(value and min(value, case["max"])))
    if "dlq" in case:
        for entry in shop.take_all(q):
            shop.settle(q, entry, Dead("rejected"))
        assert bodies(dlq.peek(9)) == [str(value) for value in case["dlq"]]
        return
    entries = shop.take_all(q)
    assert bodies(entries) == [str(value) for value in case["get"]]
    if case.get("requeue_all"):
        for entry in entries:
            shop.settle(q, entry, Back())
        assert bodies(shop.take_all(q)) == [str(value) for value in case["after_requeue_get"]]


def test_difference_every_priority_counts() -> None:
    """RabbitMQ clamps to the queue's maximum, so that 10 waits behind 5 where the maximum is 5; here 10 goes first."""
    (case,) = [case for case in TABLE["priority_classic"] if "clamped" in case.get("note", "")]
    shop = Shop()
    q = shop.mailbox("q", priorities=True)
    for value in case["publish"]:
        _publish(shop, "q", str(value), **_priority(value))
    assert bodies(shop.take_all(q)) == ["10", "5", "None", "0", "None"]


# Delivery counts


def test_every_trigger_is_accounted_for() -> None:
    """Of RabbitMQ's triggers one has a counterpart, and differs."""
    triggers = {row["trigger"]: row for row in TABLE["delivery_count_table"]}
    assert {trigger for trigger in triggers if trigger not in NOT_APPLICABLE} == {"basic.nack"}
    assert triggers["basic.nack"]["delivery_count"] is False


def test_difference_a_nack_counts() -> None:
    """RabbitMQ does not count basic.nack for the delivery limit; here `nack` is a hand-out that ended without a verdict."""
    shop = Shop()
    q = shop.mailbox("q")
    shop.put(q, "x")
    shop.settle(q, shop.take(q), Back(0.0, "handout"))
    entry = shop.take(q)
    assert entry is not None
    assert (entry.handouts, entry.redelivered) == (1, True)


def test_the_delivery_limit() -> None:
    """The default is RabbitMQ's; what exceeds it is a dead letter of that reason."""
    limit = TABLE["delivery_limit"]
    assert limit["exceeded"] == "drop or dead-letter reason delivery_limit"
    assert MailboxOptions().max_deliveries == limit["default"]
    shop = Shop()
    q = shop.mailbox("q")
    shop.put(q, "poison")
    handed_out = 0
    while (entry := shop.take(q)) is not None:
        handed_out += 1
        shop.settle(q, entry, Back(0.0, "handout"))
    assert handed_out == limit["default"]
    assert numbers(q) == {"entered": 1, "dead": 1}
    assert shop.ledger.dead_letters.peek(1)[0].deaths[0].reason == "delivery_limit"


def test_difference_the_limit_is_the_number_of_deliveries() -> None:
    """RabbitMQ's limit counts returns, so a copy is delivered once more than it says; and here -1 does not lift it."""
    shop = Shop()
    q = shop.mailbox("q", max_deliveries=1)
    shop.put(q, "x")
    shop.settle(q, shop.take(q), Back(0.0, "handout"))
    assert (shop.take(q), dead_bodies(shop)) == (None, ["x"])
    with pytest.raises(ValueError, match="max_deliveries"):
        MailboxOptions(max_deliveries=TABLE["delivery_limit"]["disable"])


# Bindings


def _bound() -> tuple[Router, Any, Any]:
    router = Router()
    return router, router.declare_exchange("x", "direct"), router.declare_mailbox("q")


def _arguments_are_identity() -> str:
    router, exchange, q = _bound()
    for number in (1, 2):
        router.bind(exchange, q, "k", {"n": number})
    assert router.route(exchange, "k", {}) == (q,)
    router.unbind(exchange, q, "k", {"n": 1})
    assert router.route(exchange, "k", {}) == (q,)
    return "one copy; removing one keeps routing"


def _bind_unknown() -> str:
    router, exchange, q = _bound()
    router.delete_mailbox(q)
    with pytest.raises(NotFound):
        router.bind(exchange, q, "k")
    return "404 NOT_FOUND"


def _bind_default() -> str:
    router, _, q = _bound()
    with pytest.raises(AccessRefused):
        router.bind(router.default_exchange, q, "k")
    return "403 ACCESS_REFUSED"


def _bind_again() -> str:
    router, exchange, q = _bound()
    assert [router.bind(exchange, q, "k") for _ in range(2)] == [True, False]
    assert router.route(exchange, "k", {}) == (q,)
    return "no-op bind-ok"


def _unbind_absent() -> str:
    router, exchange, q = _bound()
    assert not router.unbind(exchange, q, "k")
    return "unbind-ok (RabbitMQ idempotent)"


BINDINGS: Final[dict[str, Callable[[], str]]] = {
    "two bindings differing only in arguments, same key": _arguments_are_identity,
    "bind to unknown queue/exchange": _bind_unknown,
    "bind to default exchange": _bind_default,
    "bind again identical": _bind_again,
    "unbind of absent binding": _unbind_absent,
}


@pytest.mark.parametrize("case", TABLE["bindings"], ids=_name)
def test_bindings(case: dict[str, str]) -> None:
    """What is allowed, what is refused, what is nothing new."""
    ((name, expected),) = case.items()
    if name not in NOT_APPLICABLE:
        assert BINDINGS[name]() == expected
