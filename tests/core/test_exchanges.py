"""Binding tables: what is bound, what matches, and when two bindings are the same one."""

from collections.abc import Mapping
from enum import IntEnum, StrEnum
from math import nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmesh._core.exchanges import Exchange, Table
from flowmesh._core.indexes import INDEXES, HeadersIndex
from flowmesh._core.mailbox import Mailbox
from flowmesh.errors import InvalidBinding
from flowmesh.policies import MailboxOptions
from tests.core.reference import meets

A, B = (Mailbox(name, number, MailboxOptions()) for number, name in enumerate("ab", 1))
TYPES = sorted(INDEXES)
KEYS = {"hash": "3"}  # of a binding; any key does for the others


class Colour(StrEnum):
    RED = "red"


class Size(IntEnum):
    ONE = 1


def _table(type: str) -> Table:
    return Table(INDEXES[type]())


def _names(found: Any) -> list[str]:
    return sorted(destination.name for destination in found)


def _nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [value]
    return value


def test_direct_matches_the_equal_key() -> None:
    """A direct exchange routes to what is bound with exactly the routing key; wildcards mean nothing."""
    direct = _table("direct")
    direct.bind(A, "a.*", None)
    direct.bind(B, "a.b", None)
    assert _names(direct.match("a.b", {})) == ["b"]
    assert _names(direct.match("a.*", {})) == ["a"]
    assert _names(direct.match("a", {})) == []


def test_fanout_matches_everything() -> None:
    """A fanout exchange routes to everything bound, whatever the keys."""
    fanout = _table("fanout")
    fanout.bind(A, "x", None)
    fanout.bind(B, "y", None)
    assert _names(fanout.match("z", {})) == ["a", "b"]


def test_topic_matches_exact_keys_and_patterns() -> None:
    """A topic exchange routes by pattern, with or without wildcards."""
    topic = _table("topic")
    topic.bind(A, "a.b", None)
    topic.bind(B, "a.*", None)
    assert _names(topic.match("a.b", {})) == ["a", "b"]
    assert _names(topic.match("a.c", {})) == ["b"]
    assert _names(topic.match("a*", {})) == []


@pytest.mark.parametrize("type", TYPES)
def test_the_same_binding_twice_is_one(type: str) -> None:
    """Binding again equally changes nothing; one unbind takes it away."""
    bindings = _table(type)
    key = KEYS.get(type, "a.#")
    assert bindings.bind(A, key, {"x": 1, "y": [1, {"z": None}]})
    assert not bindings.bind(A, key, {"y": [1, {"z": None}], "x": 1})
    assert len(bindings.bindings()) == 1
    assert bindings.unbind(A, key, {"y": [1, {"z": None}], "x": 1})
    assert bindings.is_empty
    assert not bindings.unbind(A, key, {"x": 1, "y": [1, {"z": None}]})
    assert not bindings.match("a.b", {"x": 1, "y": [1, {"z": None}]})


@pytest.mark.parametrize("type", TYPES)
def test_arguments_are_part_of_a_binding(type: str) -> None:
    """Equal key and destination with other arguments are another binding: taking one away leaves the other."""
    bindings = _table(type)
    arguments: list[dict[str, Any] | None] = [None, {"n": None}, {"n": 1}, {"n": 1.0}, {"n": True}, {"n": "1"}, {"n": b"1"}]
    arguments += [{"n": [1]}, {"n": {"m": 1}}, {"m": 1}]
    key = KEYS.get(type, "k")
    for each in arguments:
        assert bindings.bind(A, key, each)
    assert len(bindings.bindings()) == len(arguments)
    for each in arguments:
        assert A in bindings.match("k", each or {})
        assert bindings.unbind(A, key, each)
    assert bindings.is_empty
    assert not bindings.match("k", {"n": 1})


@pytest.mark.parametrize("type", TYPES)
def test_no_arguments_and_empty_arguments_are_the_same(type: str) -> None:
    """None and {} are the same arguments."""
    bindings = _table(type)
    key = KEYS.get(type, "")
    assert bindings.bind(A, key, None)
    assert not bindings.bind(A, key, {})
    assert bindings.unbind(A, key, {})


@pytest.mark.parametrize(
    "one, other",
    [
        (Colour.RED, "red"),
        (Size.ONE, 1),
        (nan, float("nan")),
        ((1, "a"), [1, "a"]),
        (bytearray(b"x"), b"x"),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (0.0, -0.0),
    ],
)
def test_values_are_compared_as_they_would_travel(one: Any, other: Any) -> None:
    """Values of one kind are equal when AMQP could not tell them apart: enums are their values, tuples lists."""
    headers = _table("headers")
    headers.bind(A, "", {"n": one})
    assert not headers.bind(A, "", {"n": other})
    assert headers.match("", {"n": other})


@pytest.mark.parametrize("type", TYPES)
def test_bindings_are_listed_in_the_order_of_their_declaration(type: str) -> None:
    """`bindings()` keeps the order of declaration; one that was taken away and declared again is last."""
    bindings = _table(type)
    for destination, key in [(B, "1"), (A, "2"), (B, "3"), (A, "4")]:
        bindings.bind(destination, key, None)
    bindings.unbind(B, "1", None)
    bindings.bind(B, "1", None)
    assert [(each.destination, each.key) for each in bindings.bindings()] == [(A, "2"), (B, "3"), (A, "4"), (B, "1")]


@pytest.mark.parametrize("type", TYPES)
def test_a_destination_goes_with_all_its_bindings(type: str) -> None:
    """`unbind_all` takes every binding of one destination, and no other's; `clear` takes all."""
    bindings = _table(type)
    for key in ("1", "2", "3") if type == "hash" else ("k", "#", "a.*"):
        bindings.bind(A, key, {"key": key})
        bindings.bind(B, key, {"key": key})
    assert bindings.unbind_all(A)
    assert not bindings.unbind_all(A)
    assert {each.destination for each in bindings.bindings()} == {B}
    assert set(bindings.match("k", {"key": "k"})) == {B}
    bindings.clear()
    assert bindings.is_empty
    assert not bindings.match("k", {"key": "k"})


@pytest.mark.parametrize("type", TYPES)
def test_a_table_knows_which_of_its_destinations_are_exchanges(type: str) -> None:
    """`exchanges` holds an exchange while at least one binding leads to it."""
    bindings = _table(type)
    inner = Exchange("inner", "direct", _table("direct"))
    bindings.bind(A, "1", None)
    bindings.bind(inner, "1", None)
    bindings.bind(inner, "2", None)
    bindings.unbind(inner, "1", None)
    assert bindings.exchanges == {inner}
    bindings.unbind(inner, "2", None)
    assert not bindings.exchanges


def test_many_headers_bindings_that_share_a_want_are_not_all_looked_at() -> None:
    """Bindings that want all are found by what tells them apart, wherever it stands among their arguments."""
    headers = _table("headers")
    for number in range(100):
        headers.bind(A, str(number), {"kind": "order", "tenant": number})
    assert isinstance(headers._index, HeadersIndex)
    assert max(len(found) for found in headers._index._by_want.values()) == 1
    assert headers.match("", {"kind": "order", "tenant": 7}) == [A]
    headers.clear()
    assert not headers._index._by_want


def test_an_exchange_shows_its_name_and_type() -> None:
    """The repr is for logs and failures of tests."""
    assert repr(Exchange("x", "topic", _table("topic"))) == "<exchange 'x' topic>"


def test_arguments_are_copied() -> None:
    """What the caller does to its arguments after binding changes nothing, nested or not."""
    headers = _table("headers")
    arguments: dict[str, Any] = {"a": [1, {"b": 2}], "c": bytearray(b"c")}
    headers.bind(A, "", arguments)
    arguments["a"][1]["b"] = 3
    arguments["c"].append(0)
    arguments["d"] = 1
    assert headers.bindings()[0].arguments == {"a": [1, {"b": 2}], "c": b"c"}
    assert headers.match("", {"a": [1, {"b": 2}], "c": b"c"})
    assert not headers.match("", arguments)


@pytest.mark.parametrize(
    "arguments, text",
    [
        ({"n": {1, 2}}, "set is not hashable"),
        ({"n": memoryview(bytearray(1))}, "memoryview is not hashable"),
        ({"n": _nested(40)}, "nested deeper than 32"),
        ({1: "n"}, "must be a text, not 1"),
    ],
)
def test_arguments_that_cannot_be_compared_are_refused(arguments: Mapping[str, Any], text: str) -> None:
    """A binding that could never be found again is refused where it is made, and is not made."""
    direct = _table("direct")
    with pytest.raises(InvalidBinding, match=text):
        direct.bind(A, "", arguments)
    assert direct.is_empty


@pytest.mark.parametrize("match", ["some", "", "ALL", 1, None, ["all"]])
def test_an_unknown_x_match_is_refused(match: Any) -> None:
    """On a headers exchange, x-match is one of four texts; a binding with another one is not made."""
    headers = _table("headers")
    with pytest.raises(InvalidBinding, match="x-match must be one of all, any, all-with-x, any-with-x"):
        headers.bind(A, "", {"x-match": match, "a": 1})
    assert headers.is_empty
    assert _table("topic").bind(A, "", {"x-match": match})


@pytest.mark.parametrize("value", [{1, 2}, _nested(40)])
def test_a_header_that_cannot_be_compared_is_merely_there(value: Any) -> None:
    """A message's header with such a value meets a presence test, equals nothing, and breaks nothing."""
    headers = _table("headers")
    headers.bind(A, "", {"n": None})
    headers.bind(B, "", {"n": 1})
    assert _names(headers.match("", {"n": value})) == ["a"]


NAMES = st.sampled_from(["a", "b", "x-c"])
VALUES = st.sampled_from([None, 0, 1, True, False, "1", ""])
ARGUMENTS = st.builds(
    lambda match, wanted: {**match, **wanted},
    st.sampled_from([{}, *({"x-match": match} for match in ("all", "any", "all-with-x", "any-with-x"))]),
    st.dictionaries(NAMES, VALUES, max_size=3),
)
HEADERS = st.dictionaries(NAMES, VALUES, max_size=3)


@given(arguments=st.lists(ARGUMENTS, max_size=6), headers=st.lists(HEADERS, min_size=1, max_size=4))
def test_headers_are_matched_as_the_rules_say(arguments: list[dict[str, Any]], headers: list[dict[str, Any]]) -> None:
    """The index finds the bindings that looking at each one finds, also after half of them went."""
    index = _table("headers")
    mailboxes = [Mailbox(str(number), number, MailboxOptions()) for number in range(len(arguments))]
    for mailbox, wanted in zip(mailboxes, arguments, strict=True):
        index.bind(mailbox, "", wanted)
    for gone in (0, len(arguments) // 2):
        for mailbox in mailboxes[:gone]:
            index.unbind_all(mailbox)
        for each in headers:
            expected = {
                mailbox for mailbox, wanted in list(zip(mailboxes, arguments, strict=True))[gone:] if meets(wanted, each)
            }
            assert set(index.match("any key", each)) == expected
