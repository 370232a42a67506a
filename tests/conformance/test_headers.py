"""Headers exchanges route as RabbitMQ, LavinMQ and rabbitmq-mock say."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from flowmesh._core.router import Router
from flowmesh.errors import InvalidBinding
from tests.conformance.loading import load

TABLE = load("headers_exchange")


def _cases() -> Iterator[Any]:
    for group in TABLE["groups"]:
        for case in group["cases"]:
            yield pytest.param(group["bindings"], case, id=f"{group['name']}-{case['headers']}")


@pytest.mark.parametrize("bindings, case", list(_cases()))
def test_headers_exchanges(bindings: list[Mapping[str, Any]], case: Mapping[str, Any]) -> None:
    """A message reaches the queues of the table, whatever its key."""
    router = Router()
    exchange = router.declare_exchange("headers", TABLE["exchange_type"])
    for binding in bindings:
        assert router.bind(exchange, router.declare_mailbox(binding["queue"]), "", binding["arguments"])
    for key in ("", "any.key"):
        found = [mailbox.name for mailbox in router.route(exchange, key, case["headers"])]
        assert sorted(found) == sorted(case["queues"])


@pytest.mark.parametrize("match", TABLE["validation"]["x-match"])
def test_known_ways_to_match(match: str) -> None:
    """The four values of x-match are accepted."""
    router = Router()
    exchange, mailbox = router.declare_exchange("h", "headers"), router.declare_mailbox("m")
    assert router.bind(exchange, mailbox, "", {"x-match": match, "a": 1})


def test_all_is_the_default() -> None:
    """Without x-match, all arguments must be met."""
    assert TABLE["validation"]["absent"] == "all"
    router = Router()
    exchange, mailbox = router.declare_exchange("h", "headers"), router.declare_mailbox("m")
    router.bind(exchange, mailbox, "", {"a": 1, "b": 2})
    assert router.route(exchange, "", {"a": 1}) == ()
    assert router.route(exchange, "", {"a": 1, "b": 2}) == (mailbox,)


@pytest.mark.parametrize("rule, match", [("other_string", "most"), ("non_string_type", 1), ("non_string_type", True)])
def test_unknown_ways_to_match(rule: str, match: Any) -> None:
    """Any other x-match is refused: RabbitMQ says 406 PRECONDITION_FAILED, here the binding is invalid."""
    assert TABLE["validation"][rule].startswith("406")
    router = Router()
    exchange, mailbox = router.declare_exchange("h", "headers"), router.declare_mailbox("m")
    with pytest.raises(InvalidBinding, match="x-match must be one of"):
        router.bind(exchange, mailbox, "", {"x-match": match})


def test_identity_of_a_binding() -> None:
    """Source, destination, key and arguments are what a binding is known by; the arguments' order is not."""
    assert TABLE["binding_identity"].startswith("{source,destination,key,arguments}; argument order irrelevant")
    router = Router()
    exchange, other = router.declare_exchange("h", "headers"), router.declare_exchange("i", "headers")
    mailboxes = [router.declare_mailbox(name) for name in ("m", "n")]
    for source in (exchange, other):
        for mailbox in mailboxes:
            for key in ("", "k"):
                assert router.bind(source, mailbox, key, {"a": 1, "b": 2})
                assert router.bind(source, mailbox, key, {"a": 1})
                assert not router.bind(source, mailbox, key, {"b": 2, "a": 1})
