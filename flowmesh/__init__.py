"""Flowmesh: actors, mailboxes and AMQP routing inside one asynchronous application, on trio and asyncio.

Where things are:

    mesh         Mesh: declare, start, drain
    message      Message, Receipt, Death, Fire, Request
    policies     MailboxOptions, Retry, Restart, Rate, Limit, Breaker, Once, Autoscale, Batch, Debounce
    errors       every error raised on purpose, and the verdicts Reject and RetryAfter
    ports        Clock, Observer, Store
    stores       MemoryStore, SQLiteStore
    testing      virtual time, the cancellation sweep
    cli          the `flowmesh` command
    _core        synchronous: routing, mailboxes, commits, timers
    _runtime     asynchronous: workers, turns, senders, drain
"""

from flowmesh._core.gates import GateStatistics
from flowmesh._core.numbers import MailboxStatistics
from flowmesh._core.topology import Topology
from flowmesh._runtime.actor import Actor
from flowmesh._runtime.batch_turns import BatchItem, BatchTurn
from flowmesh._runtime.class_actor import ClassActor
from flowmesh._runtime.consuming import Deliveries
from flowmesh._runtime.context import ActorContext, Context
from flowmesh._runtime.deadletters import DeadLetters
from flowmesh._runtime.delivery import Delivery
from flowmesh._runtime.drain import DrainReport
from flowmesh._runtime.exchange import Binding, Exchange
from flowmesh._runtime.groups import Group
from flowmesh._runtime.keyed_actor import InstanceHandle, KeyedActor
from flowmesh._runtime.machine import Machine
from flowmesh._runtime.mailbox import Mailbox
from flowmesh._runtime.marks import after, enter, on
from flowmesh._runtime.middleware import CallNext, Middleware
from flowmesh._runtime.scheduling import Schedule
from flowmesh._runtime.statistics import (
    ActorStatistics,
    InstanceStatistics,
    ScheduleStatistics,
    Statistics,
    StoreStatistics,
)
from flowmesh._runtime.timers import Timer, Timers
from flowmesh.errors import (
    AccessRefused,
    ActorError,
    ActorFailed,
    ActorStopped,
    AlreadySettled,
    DeadlockError,
    DeliveryError,
    DurabilityUnavailable,
    FlowmeshError,
    ForkedProcessError,
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
    RestartLimitReached,
    RetryAfter,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreLocked,
    TopologyError,
    Unencodable,
    Unroutable,
    WrongBody,
)
from flowmesh.mesh import Mesh, Part
from flowmesh.message import Death, Encoded, Fire, Message, Receipt, Request
from flowmesh.policies import Autoscale, Batch, Breaker, Debounce, Limit, MailboxOptions, Once, Rate, Restart, Retry
from flowmesh.ports import Clock, CommitSummary, Observer, Store, TracingStatistics
from flowmesh.stores import MemoryStore, SQLiteStore

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
    "Autoscale",
    "Batch",
    "BatchItem",
    "BatchTurn",
    "Binding",
    "Breaker",
    "CallNext",
    "ClassActor",
    "Clock",
    "CommitSummary",
    "Context",
    "DeadLetters",
    "DeadlockError",
    "Death",
    "Debounce",
    "Deliveries",
    "Delivery",
    "DeliveryError",
    "DrainReport",
    "DurabilityUnavailable",
    "Encoded",
    "Exchange",
    "Fire",
    "FlowmeshError",
    "ForkedProcessError",
    "GateStatistics",
    "Group",
    "InstanceHandle",
    "InstanceStatistics",
    "InvalidBinding",
    "InvalidHandler",
    "KeyedActor",
    "Limit",
    "Machine",
    "Mailbox",
    "MailboxFull",
    "MailboxOptions",
    "MailboxStatistics",
    "MalformedMessage",
    "MemoryStore",
    "Mesh",
    "MeshError",
    "MeshStopped",
    "Message",
    "Middleware",
    "NoReply",
    "NotFound",
    "NotRunning",
    "Observer",
    "Once",
    "Part",
    "PreconditionFailed",
    "Rate",
    "Receipt",
    "Reject",
    "Request",
    "Restart",
    "RestartLimitReached",
    "Retry",
    "RetryAfter",
    "SQLiteStore",
    "Schedule",
    "ScheduleStatistics",
    "Statistics",
    "Store",
    "StoreCorrupt",
    "StoreError",
    "StoreFull",
    "StoreLocked",
    "StoreStatistics",
    "Timer",
    "Timers",
    "Topology",
    "TopologyError",
    "TracingStatistics",
    "Unencodable",
    "Unroutable",
    "WrongBody",
    "__version__",
    "after",
    "enter",
    "on",
]
