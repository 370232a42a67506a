"""What is noted of a delivery that is traced, on the way of its message: as little as a span can be built from later."""

from typing import Any

from msgspec import Struct
from opentelemetry.trace import SpanContext

from flowmesh.message import Message
from flowmesh.telemetry.context import Trace, Why

__all__ = ["Failure", "Record"]


class Failure(Struct, frozen=True):
    """What a handler let out, as text: the exception itself holds its frames, and is not kept."""

    type: str
    text: str
    stacktrace: str
    is_error: bool


class Record(Struct, gc=False):
    """One delivery. Ids are drawn when somebody asks for them: 0 until then.

    `parent`, or `link` with `why` it is a root of its own, or neither. `is_recorded`: it becomes a span; otherwise only its
    ids go further. `state`: W3C's trace state. `start`, `end`: mesh clock seconds. `extra`: attributes of the sampler.
    """

    actor: str
    mailbox: str
    message: Message
    attempt: int
    start: float
    parent: Trace | None = None
    link: Trace | None = None
    why: Why | None = None
    is_recorded: bool = True
    trace_id: int = 0
    span_id: int = 0
    flags: int = 0
    state: Any = None
    trace: Trace | None = None
    context: SpanContext | None = None
    end: float = 0.0
    wall_offset: float = 0.0
    outcome: str = "acked"
    failure: Failure | None = None
    extra: Any = None
