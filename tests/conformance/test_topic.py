"""Topic exchanges route as RabbitMQ's own test suites say."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest

from flowmesh._core.exchanges import Exchange
from flowmesh._core.patterns import matches
from flowmesh._core.router import Router
from tests.conformance.loading import load

SUITE = load("rabbitmq_topic_routing_suite")
MATRIX = load("derived_topic_edge_matrix")
VALIDATION = load("rabbitmq_topic_binding_validation")


def _by_key(cases: Sequence[Mapping[str, Any]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=[case["key"] or "(empty)" for case in cases])


def bound(bindings: Iterable[Mapping[str, Any]]) -> tuple[Router, Exchange]:
    """Declare a topic exchange and a table's queues, and bind them as it says."""
    router = Router()
    exchange = router.declare_exchange("topic", "topic")
    for binding in bindings:
        mailbox = router.declare_mailbox(binding["queue"])
        assert router.bind(exchange, mailbox, binding["pattern"], binding.get("arguments"))
    return router, exchange


def _check(router: Router, exchange: Exchange, case: Mapping[str, Any]) -> None:
    for _ in range(2):  # looked up, then cached
        found = [mailbox.name for mailbox in router.route(exchange, case["key"], None)]
        assert sorted(found) == sorted(case["queues"])


@_by_key(SUITE["cases"])
def test_the_routing_suite(case: Mapping[str, Any]) -> None:
    """Phase 1: each key reaches the queues of the table, t27 once although it is bound twice."""
    _check(*bound(SUITE["bindings"]), case)


@_by_key(SUITE["phase2"]["cases"])
def test_the_routing_suite_after_unbinding(case: Mapping[str, Any]) -> None:
    """Phase 2: with some bindings taken away, what has been routed before follows."""
    router, exchange = bound(SUITE["bindings"])
    for earlier in SUITE["cases"]:
        _check(router, exchange, earlier)
    for number in SUITE["phase2"]["removed_binding_numbers_1based"]:
        gone = SUITE["bindings"][number - 1]
        mailbox = router.declare_mailbox(gone["queue"])
        assert router.unbind(exchange, mailbox, gone["pattern"], gone.get("arguments"))
    _check(router, exchange, case)


@_by_key(SUITE["phase3"]["cases"])
def test_the_routing_suite_after_deleting(case: Mapping[str, Any]) -> None:
    """Phase 3: a deleted exchange routes nowhere."""
    router, exchange = bound(SUITE["bindings"])
    router.delete_exchange(exchange)
    _check(router, exchange, case)


@_by_key(MATRIX["cases"])
def test_the_edges(case: Mapping[str, Any]) -> None:
    """Empty words, empty keys, and wildcards beside each other."""
    _check(*bound(MATRIX["bindings"]), case)


@_by_key([*SUITE["cases"], *MATRIX["cases"]])
def test_one_pattern_alone_agrees_with_the_tables(case: Mapping[str, Any]) -> None:
    """Matching a single pattern says the same as the trie of all."""
    bindings = SUITE["bindings"] if case in SUITE["cases"] else MATRIX["bindings"]
    found = {binding["queue"] for binding in bindings if matches(binding["pattern"], case["key"])}
    assert found == set(case["queues"])


@pytest.mark.parametrize("pattern", VALIDATION["accept"])
def test_patterns_that_are_accepted(pattern: str) -> None:
    """Every pattern that RabbitMQ accepts can be bound."""
    router, exchange = bound([{"queue": "q", "pattern": pattern}])
    assert [binding.key for binding in exchange.table.bindings()] == [pattern]
    assert router.unbind(exchange, router.declare_mailbox("q"), pattern)


@pytest.mark.parametrize("pattern", VALIDATION["reject"], ids=lambda pattern: pattern[:20])
def test_any_number_of_hashes_is_accepted(pattern: str) -> None:
    """A difference: newer RabbitMQs refuse more than two `#`; here such a pattern is bound, and matches."""
    router, exchange = bound([{"queue": "q", "pattern": pattern}])
    key = pattern.replace("#.", "").replace(".#", "").replace("#", "").replace("*", "word")
    assert [mailbox.name for mailbox in router.route(exchange, key, None)] == ["q"]
    longer = ".".join(f"more.{word}.more" if word == "#" else word.replace("*", "word") for word in pattern.split(".")[:20])
    longer += "" if len(pattern.split(".")) <= 20 else ".end"
    assert [mailbox.name for mailbox in router.route(exchange, longer, None)] == ["q"]
    assert router.unbind(exchange, router.declare_mailbox("q"), pattern)
    assert router.route(exchange, key, None) == ()
