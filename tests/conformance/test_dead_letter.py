"""Dead-lettering as RabbitMQ's own suite tells it, case by case.

RUN holds the cases that are carried out, NOT_APPLICABLE those that have no counterpart, with the reason.  What differs has a
test of its own, named `test_difference_...`: nothing that a mailbox was told to keep is lost, it rests in `mesh.dead_letters`.
"""

from collections.abc import Callable
from typing import Any, Final, get_args

import pytest

from flowmesh._core.commits import Ack, Back, Dead
from flowmesh._core.entry import Entry
from flowmesh._core.mailbox import Mailbox
from flowmesh.message import Death, DeathReason
from tests.conformance.loading import load
from tests.core.making import Shop, bodies, dead_bodies, numbers

TABLE = load("dead_letter")
CASES: Final[dict[str, Any]] = {case["name"]: case for case in TABLE["cases"]}
MESSAGES: Final = ("msg1", "msg2", "msg3")
REJECTED: Final = Dead("rejected")

NO_CC = "a message has one key; there are no CC and BCC headers"
NO_POLICIES = "a mailbox's options are fixed when it is declared: there are no policies beside them"

NOT_APPLICABLE: Final = {
    "dead_letter_policy": NO_POLICIES,
    "dead_letter_override_policy": NO_POLICIES,
    "dead_letter_routing_key_header_CC/BCC": NO_CC,
    "dead_letter_headers_BCC": NO_CC,
}

SECTIONS_RUN: Final = {"cases", "reasons", "x_death_entry", "x_first_last", "effects", "client_republish", "cycle_rule"}
SECTIONS_NOT_APPLICABLE: Final = {
    "source": "where the table comes from",
    "also": "where the table comes from",
    "at_least_once": "dead-lettering is part of the same commit: there is no worker between the two mailboxes",
}


class Bench:
    """A mailbox `q` whose letters go to `dlq`, both on the default exchange as in RabbitMQ's suite."""

    def __init__(self, *, key: str | None = "dlq", **options: Any) -> None:
        self.shop = Shop()
        self.dlq = self.shop.mailbox("dlq")
        if key is not None:
            options["dead_letter_key"] = key
        self.q = self.shop.mailbox("q", dead_letter="", **options)

    def get(self, count: int, mailbox: Mailbox | None = None) -> list[Entry]:
        taken = [self.shop.take(mailbox or self.q) for _ in range(count)]
        return [entry for entry in taken if entry is not None]

    def settle(self, verdict: Any, *entries: Entry) -> None:
        for entry in entries:
            self.shop.settle(self.q, entry, verdict)

    @property
    def left(self) -> list[Any]:
        return bodies(self.q.peek(999))

    @property
    def dead(self) -> list[Any]:
        return bodies(self.dlq.peek(999))

    @property
    def deaths(self) -> tuple[Death, ...]:
        (letter,) = self.dlq.peek(9)
        return letter.deaths


RUN: Final[dict[str, Callable[[Any], None]]] = {}


def carries_out(name: str) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Register what carries a case out."""

    def register(run: Callable[[Any], None]) -> Callable[[Any], None]:
        assert name not in RUN
        RUN[name] = run
        return run

    return register


def test_every_case_and_section_is_accounted_for() -> None:
    """A case that is new in the table is run, or named here with the reason why not."""
    assert len(CASES) == len(TABLE["cases"])
    assert not RUN.keys() & NOT_APPLICABLE.keys()
    assert CASES.keys() == RUN.keys() | NOT_APPLICABLE.keys()
    assert TABLE.keys() == SECTIONS_RUN | SECTIONS_NOT_APPLICABLE.keys()


@pytest.mark.parametrize("name", [name for name in CASES if name not in NOT_APPLICABLE])
def test_the_case(name: str) -> None:
    """It ends as the table says."""
    RUN[name](CASES[name])


@carries_out("dead_letter_nack")
def _nack(case: Any) -> None:
    bench = Bench()
    bench.shop.put(bench.q, *MESSAGES)
    bench.settle(REJECTED, bench.get(3)[0])
    assert bench.dead == case["dlq"]


@carries_out("dead_letter_multiple_nack")
def _nack_multiple(case: Any) -> None:
    bench = Bench()
    bench.shop.put(bench.q, *MESSAGES)
    bench.settle(REJECTED, *bench.get(3))
    assert bench.dead == case["dlq"]


@carries_out("dead_letter_nack_requeue")
def _nack_requeue(case: Any) -> None:
    bench = Bench()
    bench.shop.put(bench.q, *MESSAGES)
    bench.settle(Back(), bench.get(3)[2])
    assert (bench.left, bench.dead) == (case["queue"], case["dlq"])


@carries_out("dead_letter_nack_requeue_multiple")
def _nack_requeue_multiple(case: Any) -> None:
    bench = Bench()
    bench.shop.put(bench.q, *MESSAGES)
    bench.settle(Back(), *bench.get(3))
    assert (bench.left, bench.dead) == (case["queue"], case["dlq"])


@carries_out("dead_letter_reject")
def _reject(case: Any) -> None:
    bench = Bench()
    bench.shop.put(bench.q, *MESSAGES)
    bench.settle(REJECTED, *bench.get(1))
    assert (bench.left, bench.dead) == (case["queue"], case["dlq"])


@carries_out("dead_letter_reject_many")
def _reject_many(case: Any) -> None:
    assert case["dlq"] == "1..100 in order"
    bench = Bench()
    bench.shop.put(bench.q, *range(1, 101))
    bench.settle(REJECTED, *bench.get(100))
    assert bench.dead == list(range(1, 101))


@carries_out("dead_letter_reject_requeue")
def _reject_requeue(case: Any) -> None:
    bench = Bench()
    bench.shop.put(bench.q, *MESSAGES)
    bench.settle(Back(), *bench.get(1))
    assert (bodies(bench.get(3)), bench.dead) == (case["queue"], case["dlq"])


@carries_out("dead_letter_nack_requeue_nack_norequeue_basic_get")
def _requeue_then_reject(case: Any) -> None:
    bench = Bench()
    bench.shop.put(bench.q, *MESSAGES)
    first, second, third = bench.get(3)
    bench.settle(Back(), first, second)
    again = bench.get(2)
    assert bodies(again) == ["msg1", "msg2"]
    bench.settle(REJECTED, third, *again)
    assert bench.dead == case["dlq"]


@carries_out("dead_letter_ttl")
def _ttl(case: Any) -> None:
    bench = Bench(ttl=case["q"]["x-message-ttl"] / 1000)
    bench.shop.put(bench.q, "msg1")
    bench.shop.pass_time(0.001)
    assert (bench.left, bench.dead) == ([], case["dlq"])


@carries_out("dead_letter_max_length_drop_head")
def _drop_head(case: Any) -> None:
    bench = Bench(capacity=case["q"]["x-max-length"], overflow="drop_oldest")
    bench.shop.put(bench.q, *MESSAGES)
    assert (bench.left, bench.dead) == (case["queue"], case["dlq"])


@carries_out("dead_letter_max_length_reject_publish_dlx")
def _reject_publish_dlx(case: Any) -> None:
    bench = Bench(capacity=case["q"]["x-max-length"], overflow="drop_newest")
    bench.shop.put(bench.q, *MESSAGES)
    assert (bench.left, bench.dead) == (case["queue"], case["dlq"])


@carries_out("dead_letter_missing_exchange")
def _missing_exchange(case: Any) -> None:
    shop = Shop()
    q, dlq = shop.mailbox("q", dead_letter="dlx"), shop.mailbox("dlq")
    shop.put(q, "msg1", "msg2")
    shop.settle(q, shop.take(q), REJECTED)
    shop.bind("dlx", dlq)
    shop.settle(q, shop.take(q), REJECTED)
    assert bodies(dlq.peek(9)) == case["dlq"]


def test_difference_a_letter_whose_exchange_is_missing_is_not_lost() -> None:
    """RabbitMQ loses it silently; here it rests in `mesh.dead_letters`."""
    shop = Shop()
    q = shop.mailbox("q", dead_letter="dlx")
    shop.put(q, "msg1")
    shop.settle(q, shop.take(q), REJECTED)
    assert dead_bodies(shop) == ["msg1"]


@carries_out("dead_letter_routing_key")
def _routing_key(case: Any) -> None:
    assert "routed with original key" in case["do"]
    shop = Shop()
    q, by_own_key = shop.mailbox("q", dead_letter="dlx"), shop.mailbox("dlq")
    shop.router.bind(shop.router.declare_exchange("dlx"), by_own_key, "q")
    shop.put(q, "msg1")
    shop.settle(q, shop.take(q), REJECTED)
    (letter,) = by_own_key.peek(9)
    assert (letter.exchange, letter.key) == ("dlx", "q")


def test_difference_a_letter_that_routes_nowhere_is_not_lost() -> None:
    """RabbitMQ loses it (or keeps it in its queue, at least once); here it rests in `mesh.dead_letters`."""
    shop = Shop()
    q = shop.mailbox("q", dead_letter="dlx")
    shop.router.declare_exchange("dlx")
    shop.put(q, "msg1")
    shop.settle(q, shop.take(q), REJECTED)
    assert dead_bodies(shop) == ["msg1"]


@carries_out("dead_letter_routing_key_cycle_max_length")
def _cycle_by_length(case: Any) -> None:
    bench = Bench(key=None, capacity=case["q"]["x-max-length"], overflow="drop_oldest")
    bench.shop.put(bench.q, "msg1", "msg2")
    (entry,) = bench.get(9)
    assert entry.message.body == "msg2"
    bench.settle(Ack(), entry)
    assert bench.left == case["queue"]


@carries_out("dead_letter_routing_key_cycle_ttl")
def _cycle_by_ttl(case: Any) -> None:
    bench = Bench(key=None, ttl=case["q"]["x-message-ttl"] / 1000)
    bench.shop.put(bench.q, "msg1")
    bench.shop.pass_time(0.001)
    assert bench.left == case["queue"]


def test_difference_a_letter_whose_cycle_is_cut_is_not_lost() -> None:
    """RabbitMQ drops it; here it rests in `mesh.dead_letters`, counted as dead."""
    bench = Bench(key=None, ttl=1.0)
    bench.shop.put(bench.q, "msg1")
    bench.shop.pass_time(1.0)
    assert dead_bodies(bench.shop) == ["msg1"]
    assert numbers(bench.q) == {"entered": 1, "dead": 1}


@carries_out("dead_letter_routing_key_cycle_with_reject")
def _cycle_by_reject(case: Any) -> None:
    bench = Bench(key=None)
    bench.shop.put(bench.q, "msg1")
    for count in (1, 2):
        bench.settle(REJECTED, *bench.get(1))
        (message,) = bench.q.peek(9)
        assert [death.count for death in message.deaths] == [count]
    assert bench.left == case["queue"]


@carries_out("dead_letter_reject_expire_expire")
def _reject_expire_expire(case: Any) -> None:
    assert case["topology"] == "b -rejected-> a2(ttl5) -expired-> a3(ttl5) -expired-> b"
    shop = Shop()
    b = shop.mailbox("b", dead_letter="", dead_letter_key="a2")
    shop.mailbox("a2", ttl=0.005, dead_letter="", dead_letter_key="a3")
    shop.mailbox("a3", ttl=0.005, dead_letter="", dead_letter_key="b")
    shop.put(b, "msg1")
    for _ in range(2):
        shop.settle(b, shop.take(b), REJECTED)
        shop.pass_time(0.005)
        shop.pass_time(0.005)
        assert bodies(b.peek(9)) == ["msg1"]


def _entry_as_rabbitmq(death: Death) -> dict[str, Any]:
    """An x-death entry, as far as a case of the table looks at it."""
    entry: dict[str, Any] = {
        "count": death.count,
        "reason": death.reason,
        "queue": {"q": "Q", "dlx1": "Dlx1"}.get(death.mailbox, death.mailbox),
        "time": "timestamp",
        "exchange": death.exchange,
        "routing-keys": [{"q": "Q"}.get(key, key) for key in death.keys],
    }
    if death.ttl is not None:
        entry["original-expiration"] = str(round(death.ttl * 1000))
    return entry


def _check_entries(deaths: tuple[Death, ...], expected: list[dict[str, Any]]) -> None:
    assert len(deaths) == len(expected)
    for death, entry in zip(deaths, expected, strict=True):
        found = _entry_as_rabbitmq(death)
        for name, value in entry.items():
            if value == "ABSENT":
                assert name not in found
            else:
                keys = [key for key in value if not key.startswith("cc ")] if name == "routing-keys" else value
                assert found[name] == keys


@carries_out("dead_letter_headers")
def _headers(case: Any) -> None:
    bench = Bench()
    bench.shop.put(bench.q, "msg1")
    bench.settle(REJECTED, *bench.get(1))
    _check_entries(bench.deaths, case["expect"]["x-death"])
    assert bench.deaths[0].time == bench.shop.now + 1000.0


@carries_out("dead_letter_headers_reason_expired")
def _headers_expired(case: Any) -> None:
    bench = Bench(ttl=case["q"]["x-message-ttl"] / 1000)
    bench.shop.put(bench.q, "msg1")
    bench.shop.pass_time(0.001)
    _check_entries(bench.deaths, case["expect"]["x-death"])


@carries_out("dead_letter_headers_reason_expired_per_message")
def _headers_expired_per_message(case: Any) -> None:
    bench = Bench()
    bench.shop.put(bench.q, "msg1", ttl=int(case["msg"]["expiration"]) / 1000)
    bench.shop.pass_time(0.001)
    _check_entries(bench.deaths, case["expect"]["x-death"])
    (letter,) = bench.dlq.peek(9)
    assert letter.expires is None


@carries_out("dead_letter_headers_reason_maxlen")
def _headers_maxlen(case: Any) -> None:
    bench = Bench(capacity=1, overflow="drop_oldest")
    bench.shop.put(bench.q, "msg1", "msg2")
    _check_entries(bench.deaths, case["expect"]["x-death"])


@carries_out("dead_letter_headers_should_be_appended_for_each_event")
def _headers_appended(case: Any) -> None:
    assert case["topology"] == "Q->Dlx1->Dlx2"
    shop = Shop()
    q = shop.mailbox("q", dead_letter="", dead_letter_key="dlx1")
    first = shop.mailbox("dlx1", dead_letter="", dead_letter_key="dlx2")
    last = shop.mailbox("dlx2")
    shop.put(q, "msg1")
    shop.settle(q, shop.take(q), REJECTED)
    shop.settle(first, shop.take(first), REJECTED)
    _check_entries(last.peek(9)[0].deaths, case["expect"]["x-death"])


@carries_out("dead_letter_headers_first_death")
def _headers_first_death(case: Any) -> None:
    expected = case["expect_every_hop"]
    shop = Shop()
    boxes = [shop.mailbox("Q", dead_letter="", dead_letter_key="DLQ"), shop.mailbox("DLQ", dead_letter="", dead_letter_key="Q")]
    shop.put(boxes[0], "msg1")
    for hop in range(6):
        shop.settle(boxes[hop % 2], shop.take(boxes[hop % 2]), REJECTED)
        (message,) = boxes[(hop + 1) % 2].peek(9)
        first = message.first_death
        assert first is not None
        assert first.reason == expected["x-first-death-reason"]
        assert first.mailbox == expected["x-first-death-queue"]
        assert first.exchange == expected["x-first-death-exchange"]


@carries_out("stream (q1 expiration 0 -> q2 ttl 2500 -> q3)")
def _two_hops_of_expiry(case: Any) -> None:
    """But for the CC and BCC headers, which a message does not have."""
    shop = Shop()
    q1 = shop.mailbox("q1", dead_letter="", dead_letter_key="q2")
    shop.mailbox("q2", ttl=2.5, dead_letter="", dead_letter_key="q3")
    q3 = shop.mailbox("q3")
    shop.put(q1, "msg1", ttl=int(case["msg"]["expiration"]) / 1000)
    shop.pass_time(0.0)
    shop.pass_time(2.5)
    (message,) = q3.peek(9)
    first, last = message.first_death, message.deaths[0]
    assert first is not None
    assert [first.reason, first.mailbox, first.exchange] == case["expect"]["x-first-death"]
    assert [last.reason, last.mailbox, last.exchange] == case["expect"]["x-last-death"]
    _check_entries(message.deaths, case["expect"]["x-death"])


@carries_out("aio-pika test_expiration")
def _expiration(case: Any) -> None:
    bench = Bench()
    bench.shop.put(bench.q, "msg1", ttl=0.5)
    bench.shop.pass_time(0.5)
    assert _entry_as_rabbitmq(bench.deaths[0])["original-expiration"] == case["expect"]["x-death[0].original-expiration"]


# The other sections


def test_an_entry_has_the_fields_of_x_death() -> None:
    """Each of the table's fields, with what is said of it."""
    found = _entry_as_rabbitmq(Death("q", "expired", 1, 0.0, "x", ("k",), ttl=1.0))
    assert found.keys() == {name for name, *_ in TABLE["x_death_entry"]["fields_in_order"]}


def test_the_table_is_still_about_these_rules() -> None:
    """What the sections say in words is what the tests of this module and of `test_deadletters` hold to."""
    assert TABLE["x_death_entry"]["array_order"] == "most recent first"
    assert TABLE["x_death_entry"]["compression"].startswith(
        "one entry per {queue,reason}; repeat => count+1 and moved to front"
    )
    assert TABLE["x_first_last"].keys() == {
        "x-first-death-{reason,queue,exchange}",
        "x-last-death-{reason,queue,exchange}",
    }
    assert TABLE["cycle_rule"].startswith("reason 'rejected' => never a cycle.")


def test_difference_there_are_two_more_reasons() -> None:
    """RabbitMQ's four, and `failed` (retries used up) and `malformed`, which a handler decides as it does `rejected`."""
    assert set(get_args(DeathReason)) == {*TABLE["reasons"], "failed", "malformed"}


EFFECTS: Final = {
    "exchange": lambda letter: letter.exchange == "dlx",
    "routing_key": lambda letter: letter.key == "k",
    "expiration": lambda letter: (letter.expires, letter.properties.ttl, letter.deaths[0].ttl) == (None, None, 9.0),
    "priority": lambda letter: letter.priority == 7,
}


def test_the_effects_on_the_message() -> None:
    """Exchange and key are set, the expiration is removed and remembered, the priority is kept; there is no CC and BCC."""
    assert TABLE["effects"].keys() == EFFECTS.keys() | {"CC", "BCC"}
    shop = Shop()
    q, dlq = shop.mailbox("q", dead_letter="dlx", dead_letter_key="k"), shop.mailbox("dlq")
    shop.bind("dlx", dlq)
    shop.put(q, "msg1", ttl=9.0, priority=7)
    shop.settle(q, shop.take(q), REJECTED)
    (letter,) = dlq.peek(9)
    assert [name for name, holds in EFFECTS.items() if not holds(letter)] == []


def test_a_history_that_a_publisher_sends_is_not_believed() -> None:
    """An x-death header is a header like any other: the first death here begins a new history."""
    assert "NOT trusted" in TABLE["client_republish"]
    bench = Bench(ttl=1.0)
    bench.shop.put(bench.q, "msg1", headers={"x-death": [{"queue": "elsewhere", "reason": "rejected", "count": 3}]})
    bench.shop.pass_time(1.0)
    assert [(death.mailbox, death.reason, death.count) for death in bench.deaths] == [("q", "expired", 1)]
