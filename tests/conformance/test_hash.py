"""The hash exchange against the rules of RabbitMQ's consistent-hash and modulus-hash exchanges, and what LavinMQ adds.

Each rule of the table has a test, or stands in NOT_APPLICABLE with its reason; what differs has a test named
`test_difference_...`.
"""

from collections import Counter
from typing import Any, Final

import pytest

from flowmesh._core.exchanges import Exchange
from flowmesh._core.router import Router
from flowmesh.errors import InvalidBinding, PreconditionFailed
from tests.conformance.loading import load

TABLE = load("delayed_dedup_hash")
KEYS: Final = [f"key-{number}" for number in range(3000)]

NOT_APPLICABLE: Final = {
    "binding keys ignored; k bindings of one queue = weight k": "a weight is the binding key; more bindings add nothing",
    "sort destinations; phash2(routing_keys) rem N": "there is no modulus: what comes or goes would move nearly every key",
}


def _split(*names: str, weight: str = "1", **options: Any) -> tuple[Router, Exchange]:
    """A router with a hash exchange that these mailboxes are bound to."""
    router = Router()
    exchange = router.declare_exchange("split", "hash", **options)
    for name in names:
        router.bind(exchange, router.declare_mailbox(name), weight)
    return router, exchange


def _places(router: Router, exchange: Exchange, headers: dict[str, Any] | None = None) -> list[str]:
    return [mailbox.name for key in KEYS for mailbox in router.route(exchange, key, headers)]


def test_every_rule_is_accounted_for() -> None:
    """A rule that is new in the table has a test, or is named here with the reason why not."""
    rules = {*TABLE["consistent_hash"]["rules"], *TABLE["modulus_hash"]["rules"]}
    assert rules == RULES.keys() | NOT_APPLICABLE.keys()
    assert all(callable(globals()[test]) for test in RULES.values())


@pytest.mark.parametrize("key", ["1", "10", "007", str(10**200)])
def test_a_weight_is_a_number_as_text(key: str) -> None:
    """A whole number of at least 1 can be bound with."""
    router, exchange = _split("m", weight=key)
    assert [mailbox.name for mailbox in router.route(exchange, "x", None)] == ["m"]


@pytest.mark.parametrize("key", ["", "0", "00", "-1", "+1", "1.5", " 1", "1_000", "x", "\u0661", "\u00b2"])
def test_difference_a_bad_weight_is_an_invalid_binding(key: str) -> None:
    """RabbitMQ answers 406; here it is InvalidBinding, which names the weight and the mend, and nothing is bound."""
    router, exchange = _split()
    mailbox = router.declare_mailbox("m")
    with pytest.raises(InvalidBinding, match="is a weight, a whole number of at least 1 as text"):
        router.bind(exchange, mailbox, key)
    assert exchange.table.is_empty
    with pytest.raises(InvalidBinding):
        router.check_binding(exchange, mailbox, key=key, arguments=None)


def test_one_binding_of_a_mailbox_counts() -> None:
    """A second binding of the same mailbox adds nothing to its share, whatever its weight."""
    router, exchange = _split("a", "b")
    before = _places(router, exchange)
    router.bind(exchange, router.mailboxes["a"], "100")
    router.bind(exchange, router.mailboxes["a"], "1", {"another": "binding"})
    assert _places(router, exchange) == before


def test_difference_the_next_oldest_binding_counts_when_the_first_goes() -> None:
    """In RabbitMQ a mailbox leaves the ring with whichever binding goes first; here the oldest that stands has the say."""
    router, exchange = _split("a", "b")
    router.bind(exchange, router.mailboxes["a"], "99")
    router.unbind(exchange, router.mailboxes["a"], "1")
    assert Counter(_places(router, exchange))["a"] > 0.97 * len(KEYS)
    router.unbind(exchange, router.mailboxes["a"], "99")
    assert set(_places(router, exchange)) == {"b"}


def test_at_most_one_destination() -> None:
    """Every message goes to exactly one of what is bound, and to none when nothing is."""
    router, exchange = _split("a", "b", "c")
    assert len(_places(router, exchange)) == len(KEYS)
    assert set(_places(router, exchange)) == {"a", "b", "c"}
    empty, nothing = _split()
    assert empty.route(nothing, "x", None) == ()


def test_hash_header() -> None:
    """With {"hash-header": name} the header decides, not the key; messages without it all go to one mailbox."""
    router, exchange = _split("a", "b", "c", arguments={"hash-header": "tenant"})
    assert len(set(_places(router, exchange, {"tenant": "t1"}))) == 1
    assert len(set(_places(router, exchange, {"other": "t1"}))) == 1
    tenants = {router.route(exchange, "k", {"tenant": f"t{number}"})[0].name for number in range(50)}
    assert tenants == {"a", "b", "c"}


def test_a_header_and_a_key_of_the_same_text_are_placed_alike() -> None:
    """Two exchanges with the same bindings, one by key and one by header, agree: what belongs together stays together."""
    by_key, by_header = _split("a", "b", "c"), _split("a", "b", "c", arguments={"hash-header": "tenant"})
    for key in KEYS[:100]:
        (one,), (other,) = by_key[0].route(by_key[1], key, None), by_header[0].route(by_header[1], "", {"tenant": key})
        assert one.name == other.name


@pytest.mark.parametrize(
    "type, arguments",
    [
        ("hash", {"hash-property": "message_id"}),
        ("hash", {"hash-header": "a", "hash-property": "message_id"}),
        ("hash", {"x-hash-on": "a"}),
        ("hash", {"hash-header": 1}),
        ("hash", {"hash-header": ""}),
        ("topic", {"hash-header": "a"}),
    ],
)
def test_difference_other_arguments_are_refused(type: str, arguments: dict[str, Any]) -> None:
    """A property cannot be hashed (an id in a header can), and an argument that means nothing here is refused."""
    with pytest.raises(PreconditionFailed, match=r"cannot have the arguments .*'hash-header': name"):
        Router().declare_exchange("x", type, arguments=arguments)


def test_arguments_are_part_of_the_declaration() -> None:
    """Declaring with another header is declaring differently; the arguments are the exchange's own copy."""
    arguments = {"hash-header": "a"}
    router, exchange = _split(arguments=arguments)
    arguments["hash-header"] = "b"
    assert router.declare_exchange("split", "hash", arguments={"hash-header": "a"}) is exchange
    for other in ({"hash-header": "b"}, {}):
        with pytest.raises(PreconditionFailed, match="its arguments is"):
            router.declare_exchange("split", "hash", arguments=other)
    with pytest.raises(PreconditionFailed):
        router.declare_exchange("split", "hash")


def test_difference_the_mapping_is_stable() -> None:
    """RabbitMQ's may change at a restart; here it depends on names and weights alone, not on the order of binding."""
    one, other = _split("a", "b", "c"), _split("c", "a", "b")
    assert _places(*one) == _places(*other)
    router, exchange = one
    router.unbind(exchange, router.mailboxes["b"], "1")
    router.bind(exchange, router.mailboxes["b"], "1")
    assert _places(router, exchange) == _places(*other)


def test_a_mailbox_and_an_exchange_of_the_same_name_are_two() -> None:
    """Destinations are told apart by their kind: a message goes to one of the two, or through the other."""
    router, exchange = _split("a")
    inner = router.declare_exchange("a", "fanout")
    router.bind(inner, router.declare_mailbox("behind"))
    router.bind(exchange, inner, "1")
    assert set(_places(router, exchange)) == {"a", "behind"}


RULES: Final = {
    "binding key = integer weight as string (else 406)": "test_difference_a_bad_weight_is_an_invalid_binding",
    "one binding per queue counted": "test_one_binding_of_a_mailbox_counts",
    "at most one destination": "test_at_most_one_destination",
    "arguments hash-header | hash-property (LavinMQ x-hash-on)": "test_hash_header",
    "mapping may change across RabbitMQ restarts": "test_difference_the_mapping_is_stable",
    "stable over restarts": "test_difference_the_mapping_is_stable",
}
