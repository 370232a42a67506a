"""The envelope, the receipt, the history of deaths."""

import gc
from types import MappingProxyType
from typing import Any

import pytest
from msgspec import Struct

from flowmesh.message import PLAIN, Death, Message, Properties, Receipt


class Order(Struct, frozen=True):
    """A body without a tag."""

    number: int


class Paid(Struct, frozen=True, tag="order.paid"):
    """A body with one."""


class Shipped(Struct, frozen=True, tag=7):
    """A body whose tag is a number."""


def test_an_id_is_a_counter_behind_a_prefix_or_what_was_given() -> None:
    """The text is made when somebody looks; the cause's the same way."""
    message = Message("mesh-1-", 5, None, origin=4)
    assert (message.id, message.cause) == ("mesh-1-5", "mesh-1-4")
    given = Message("mesh-1-", "order:7", None, origin="order:6")
    assert (given.id, given.cause) == ("order:7", "order:6")
    assert Message("mesh-1-", 1, None).cause is None


@pytest.mark.parametrize(
    "body, name", [(Paid(), "order.paid"), (Shipped(), "7"), (Order(1), "Order"), (5, "int"), (None, "NoneType")]
)
def test_the_type_is_the_tag_or_the_name_of_the_class(body: Any, name: str) -> None:
    """Whatever the body is, it has a name."""
    assert Message("m-", 1, body).type == name


def test_what_most_messages_do_not_carry_is_shared() -> None:
    """A plain message has empty headers, no limits, no deaths, and the one empty set of properties."""
    message = Message("m-", 1, "body")
    assert message.properties is PLAIN
    assert (dict(message.headers), message.priority, message.deaths, message.first_death) == ({}, 0, (), None)
    rest = ("content_type", "deadline", "expires", "reply_to", "correlation_id", "run")
    assert [getattr(message, name) for name in rest] == [None] * len(rest)


def test_properties_are_read_through_the_message() -> None:
    """Each under its own name."""
    values: dict[str, Any] = {
        "priority": 9,
        "deadline": 1.0,
        "expires": 2.0,
        "reply_to": "replies",
        "correlation_id": "c",
        "content_type": "application/json",
        "deaths": (Death("m", "failed", 1, 0.0, "", ()),),
        "run": object(),
    }
    message = Message("m-", 1, "body").with_properties(**values)
    assert {name: getattr(message, name) for name in values} == values


def test_a_message_cannot_be_changed() -> None:
    """Neither itself nor its headers; a changed one is another with the same id, and the first stays as it was."""
    headers = {"a": 1}
    message = Message("m-", 1, "body", properties=Properties(headers=headers))
    for name in ("body", "key", "serial"):
        with pytest.raises(AttributeError):
            setattr(message, name, "other")
    with pytest.raises(TypeError):
        message.headers["a"] = 2  # type: ignore[index] # pyright: ignore[reportIndexIssue] - that is the test
    assert isinstance(message.headers, MappingProxyType)
    changed = message.with_properties(priority=3)
    assert (changed.id, changed.priority, message.priority, changed.headers) == (message.id, 3, 0, message.headers)


def test_the_first_death_is_the_one_before_which_there_was_none() -> None:
    """Wherever it stands in the history."""
    first = Death("a", "rejected", 2, 5.0, "", (), order=0)
    second = Death("b", "expired", 1, 5.0, "", (), order=1)
    for deaths in ((first, second), (second, first)):
        assert Message("m-", 1, None).with_properties(deaths=deaths).first_death is first


def test_a_queued_message_costs_the_garbage_collector_nothing() -> None:
    """A hundred thousand queued messages are not looked at by each collection."""
    assert not gc.is_tracked(Message("m-", 1, Order(1)))
    assert not gc.is_tracked(Receipt("m-", 1, 1))


def test_a_receipt_says_what_became_of_a_publish() -> None:
    """Readable, with the id as text; the timer is shown when there is one."""
    receipt = Receipt("m-", 5, 2, 1)
    assert (receipt.message_id, Receipt("m-", "mine", 0).message_id) == ("m-5", "mine")
    assert repr(receipt) == "Receipt(message_id='m-5', routed=2, dropped=1, durability='none')"
    deferred = "Receipt(message_id='m-5', routed=0, dropped=0, durability='none', timer='3')"
    assert repr(Receipt("m-", 5, 0, timer_number=3)) == deferred


def test_repr_shows_the_id():
    """A message shows itself by its id, which is what replay and logs name, not by what the id is made of."""
    message = Message("m", 1, {"a": 1}, "orders", "placed")
    assert repr(message) == "Message(id='m1', exchange='orders', key='placed', body={'a': 1})"
