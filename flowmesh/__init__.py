"""Flowmesh: actors, mailboxes and AMQP routing inside one asynchronous application, on trio and asyncio.

Where things are:

    mesh         Mesh: declare, start, drain
    message      Message, Receipt, Death
    policies     MailboxOptions, Retry
    errors       every error raised on purpose, and the verdicts Reject and RetryAfter
    ports        Clock
    testing      virtual time, the cancellation sweep
    cli          the `flowmesh` command
    _core        synchronous: routing, mailboxes, commits, timers
    _runtime     asynchronous: workers, turns, senders, drain
"""

from flowmesh._core.mailbox import MailboxStatistics
from flowmesh._core.topology import Topology
from flowmesh._runtime.actor import Actor
from flowmesh._runtime.context import ActorContext, Context
from flowmesh._runtime.deadletters import DeadLetters
from flowmesh._runtime.drain import DrainReport
from flowmesh._runtime.exchange import Binding, Exchange
from flowmesh._runtime.mailbox import Mailbox
from flowmesh._runtime.pulling import Deliveries, Delivery
from flowmesh._runtime.scheduling import Schedule
from flowmesh._runtime.statistics import ActorStatistics, Statistics
from flowmesh.errors import (
    AccessRefused,
    ActorError,
    ActorFailed,
    ActorStopped,
    AlreadySettled,
    DeadlockError,
    DeliveryError,
    FlowmeshError,
    InvalidBinding,
    InvalidHandler,
    MailboxFull,
    MalformedMessage,
    MeshError,
    MeshStopped,
    NoReply,
    NotFound,
    NotRunning,
    PreconditionFailed,
    Reject,
    RetryAfter,
    TopologyError,
    Unroutable,
    WrongBody,
)
from flowmesh.mesh import Mesh
from flowmesh.message import Death, Message, Receipt
from flowmesh.policies import MailboxOptions, Retry
from flowmesh.ports import Clock

__version__ = "0.1.0"

__all__ = [
    "AccessRefused",
    "Actor",
    "ActorContext",
    "ActorError",
    "ActorFailed",
    "ActorStatistics",
    "ActorStopped",
    "AlreadySettled",
    "Binding",
    "Clock",
    "Context",
    "DeadLetters",
    "DeadlockError",
    "Death",
    "Deliveries",
    "Delivery",
    "DeliveryError",
    "DrainReport",
    "Exchange",
    "FlowmeshError",
    "InvalidBinding",
    "InvalidHandler",
    "Mailbox",
    "MailboxFull",
    "MailboxOptions",
    "MailboxStatistics",
    "MalformedMessage",
    "Mesh",
    "MeshError",
    "MeshStopped",
    "Message",
    "NoReply",
    "NotFound",
    "NotRunning",
    "PreconditionFailed",
    "Receipt",
    "Reject",
    "Retry",
    "RetryAfter",
    "Schedule",
    "Statistics",
    "Topology",
    "TopologyError",
    "Unroutable",
    "WrongBody",
    "__version__",
]
