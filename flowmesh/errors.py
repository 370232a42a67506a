"""Every error that Flowmesh raises on purpose, and the two verdicts that a handler may raise.

An error says whose fault it is, names the thing and the mend, and carries what it is about in fields: a DeliveryError gives
the message back.  Time limits end in the builtin TimeoutError; a wrong argument is a ValueError that names it.
"""

from typing import Any

from flowmesh.checks import is_seconds, require
from flowmesh.message import Message

__all__ = [
    "AccessRefused",
    "ActorError",
    "ActorFailed",
    "ActorStopped",
    "AlreadySettled",
    "DeadlockError",
    "DeliveryError",
    "DurabilityUnavailable",
    "FlowmeshError",
    "ForkedProcessError",
    "InvalidBinding",
    "InvalidHandler",
    "MailboxFull",
    "MalformedMessage",
    "MeshError",
    "MeshStopped",
    "NoReply",
    "NotFound",
    "NotRunning",
    "PreconditionFailed",
    "Reject",
    "RestartLimitReached",
    "RetryAfter",
    "StoreCorrupt",
    "StoreError",
    "StoreFull",
    "StoreLocked",
    "TopologyError",
    "Unencodable",
    "Unroutable",
    "WrongBody",
]


class FlowmeshError(Exception):
    """The root of all errors that Flowmesh raises on purpose."""


class MeshError(FlowmeshError):
    """The mesh is not in the state that the call needs."""


class MeshStopped(MeshError):
    """The mesh is draining or has stopped; when it stopped by itself, the cause is chained."""


class NotRunning(MeshError):
    """The thing belongs to no running mesh."""


class TopologyError(FlowmeshError):
    """A declaration, binding or deletion is refused; the topology is as before."""


class NotFound(TopologyError):
    """No exchange, mailbox or actor of that name is declared here."""


class PreconditionFailed(TopologyError):
    """It is declared differently, of an unknown type, or a condition of the call does not hold."""


class AccessRefused(TopologyError):
    """The default exchange cannot be bound or deleted; an internal one cannot be published to."""


class InvalidBinding(TopologyError):
    """The two ends, the key or the arguments of a binding do not fit."""


class DeliveryError(FlowmeshError):
    """One message could not be delivered or settled; `.message` gives it back."""

    def __init__(self, text: str, *, message: Message | None = None) -> None:
        super().__init__(text)
        self.message = message


class Unroutable(DeliveryError):
    """No mailbox is bound for the message, and it was mandatory."""


class MailboxFull(DeliveryError):
    """A full mailbox refused the whole publish; no mailbox took a copy. `.mailbox` names it."""

    def __init__(self, text: str, *, message: Message | None = None, mailbox: str = "") -> None:
        super().__init__(text, message=message)
        self.mailbox = mailbox


class AlreadySettled(DeliveryError):
    """The delivery has been settled before."""


class MalformedMessage(DeliveryError):
    """The body cannot be turned into what its handler takes."""


class Unencodable(DeliveryError):
    """The body cannot be stored so that it would come back with the same type, or a header cannot be stored."""


class DurabilityUnavailable(DeliveryError):
    """A publish required more than one of its mailboxes promises; no mailbox took a copy."""


class ActorError(FlowmeshError):
    """A declaration of an actor, or a call to one, failed."""


class InvalidHandler(ActorError):
    """A handler, middleware or observer cannot be used as it is written; raised where it is declared.

    Misuse that shows only in a turn (a middleware that calls its handler twice) fails that turn.
    """


class WrongBody(ActorError, TypeError):
    """The actor does not take a body of this type."""


class ActorStopped(ActorError):
    """The actor has been stopped and answers nobody."""


class ActorFailed(ActorError):
    """The handler failed in a way that cannot be raised as it was: its type's name, text and traceback as texts."""

    def __init__(self, text: str, *, type: str = "", traceback: str = "") -> None:
        super().__init__(text)
        self.type = type
        self.text = text
        self.traceback = traceback


class RestartLimitReached(ActorError):
    """An actor or a supervision group, `.name`, needed more restarts than it is allowed; the cause is the last failure."""

    def __init__(self, text: str, *, name: str = "") -> None:
        super().__init__(text)
        self.name = name


class DeadlockError(ActorError):
    """The wait would close a ring in which everybody waits for the next; the text names the ring.

    `.ring`: the names of its actors, from the one that raises this to itself.
    """

    def __init__(self, text: str, *, ring: tuple[str, ...] = ()) -> None:
        super().__init__(text)
        self.ring = ring


class NoReply(ActorError):
    """The message was refused, so no reply will come; `.reason` says why (expired, dropped, purged, rejected)."""

    def __init__(self, text: str, *, reason: str, message: Message | None = None) -> None:
        super().__init__(text)
        self.reason = reason
        self.message = message


class StoreError(FlowmeshError):
    """The store could not do what it was asked for. What it has confirmed before stays confirmed."""


class StoreFull(StoreError):
    """There is no room on the store's disk: nothing was written. What is settled still is; it takes more when there is room."""


class StoreCorrupt(StoreError):
    """The store's file is not what was written there."""


class StoreLocked(StoreError):
    """Another process, `.pid`, owns the store."""

    def __init__(self, text: str, *, pid: int | None = None) -> None:
        super().__init__(text)
        self.pid = pid


class ForkedProcessError(StoreError):
    """The store was opened by a process of which this one is a fork: only that one may use it."""


class Reject(Exception):
    """A verdict that a handler raises: this message is a dead letter now, whatever the retry policy says."""

    def __init__(self, reason: object = "") -> None:
        super().__init__(reason)
        self.reason: str = str(reason)


class RetryAfter(Exception):
    """A verdict that a handler raises: hand this message out again after `delay` seconds; counts for no limit."""

    def __init__(self, delay: float, *details: Any) -> None:
        require(is_seconds(delay), "delay", "zero or more seconds", delay)
        super().__init__(delay, *details)
        self.delay = float(delay)
