"""The errors: one tree, fields that say what they are about, and two verdicts that are no errors."""

import inspect
import math
from typing import Any

import pytest

from flowmesh import errors
from flowmesh.errors import (
    ActorFailed,
    DeliveryError,
    FlowmeshError,
    MailboxFull,
    NoReply,
    Reject,
    RetryAfter,
    WrongBody,
)
from flowmesh.message import Message

TREE = {
    "MeshError": {"MeshStopped", "NotRunning"},
    "TopologyError": {"NotFound", "PreconditionFailed", "AccessRefused", "InvalidBinding"},
    "DeliveryError": {
        "Unroutable",
        "MailboxFull",
        "AlreadySettled",
        "MalformedMessage",
        "Unencodable",
        "DurabilityUnavailable",
    },
    "ActorError": {
        "InvalidHandler",
        "WrongBody",
        "ActorStopped",
        "ActorFailed",
        "DeadlockError",
        "RestartLimitReached",
        "NoReply",
    },
    "StoreError": {"StoreFull", "StoreCorrupt", "StoreLocked", "ForkedProcessError"},
}
VERDICTS = {"Reject", "RetryAfter"}
MESSAGE = Message("m-", 1, "body")


def test_every_error_has_its_place_in_the_tree() -> None:
    """FlowmeshError, its kinds, and theirs; nothing is missing, nothing more is there, and all are exported."""
    found = {name for name, _ in inspect.getmembers(errors, inspect.isclass) if issubclass(getattr(errors, name), Exception)}
    assert found == {"FlowmeshError", *TREE, *(name for names in TREE.values() for name in names), *VERDICTS}
    assert set(errors.__all__) == found
    for kind, names in TREE.items():
        assert getattr(errors, kind).__bases__ == (FlowmeshError,)
        for name in names:
            assert getattr(errors, name).__bases__[0] is getattr(errors, kind)


def test_verdicts_are_not_errors_of_the_mesh() -> None:
    """`except FlowmeshError` in a handler does not catch its own verdict."""
    for name in VERDICTS:
        assert not issubclass(getattr(errors, name), FlowmeshError)


def test_a_wrong_body_is_a_type_error() -> None:
    """Whoever catches TypeErrors gets it."""
    assert issubclass(WrongBody, TypeError)


@pytest.mark.parametrize("name", sorted(TREE["DeliveryError"]))
def test_a_delivery_error_gives_the_message_back(name: str) -> None:
    """`.message` is what could not be delivered, or None."""
    kind: type[DeliveryError] = getattr(errors, name)
    assert kind("why", message=MESSAGE).message is MESSAGE
    assert kind("why").message is None
    assert str(kind("why")) == "why"


def test_fields_say_what_an_error_is_about() -> None:
    """The mailbox, the reason, the type, text and traceback of a failure elsewhere."""
    full = MailboxFull("full", message=MESSAGE, mailbox="m")
    assert (full.mailbox, full.message) == ("m", MESSAGE)
    refused = NoReply("none", reason="expired", message=MESSAGE)
    assert (refused.reason, refused.message) == ("expired", MESSAGE)
    failed = ActorFailed("boom", type="KeyError", traceback="Traceback ...")
    assert (failed.text, failed.type, failed.traceback, str(failed)) == ("boom", "KeyError", "Traceback ...", "boom")


def test_reject_keeps_its_reason_as_text() -> None:
    """Whatever is given; nothing is an empty reason."""
    assert (Reject("no").reason, Reject(5).reason, Reject().reason) == ("no", "5", "")


@pytest.mark.parametrize("delay", [-1, -0.001, math.nan, math.inf, 10**400, "3", True])
def test_retry_after_what_is_no_delay_is_a_value_error(delay: Any) -> None:
    """It names the argument and what was given."""
    with pytest.raises(ValueError, match=f"delay must be zero or more seconds, not {delay!r}"):
        RetryAfter(delay)


def test_retry_after_keeps_its_delay() -> None:
    """In seconds, as a float, with whatever details are of use."""
    verdict = RetryAfter(3, "the bank is closed")
    assert (verdict.delay, verdict.args) == (3.0, (3, "the bank is closed"))
    assert isinstance(verdict.delay, float)
