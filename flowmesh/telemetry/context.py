"""Trace contexts: what a message carries, what is current in a handler, and what stands in its headers.

Needs the API alone.  A context variable is never set for a message: each worker has one span object for life, whose ids are
those of the delivery that the worker has in hand when somebody asks.
"""

import contextvars
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

from msgspec import Struct
from opentelemetry import context as api
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from flowmesh.message import Message
from flowmesh.ports import Turn
from flowmesh.telemetry.names import TRACEPARENT, TRACESTATE

__all__ = ["Trace", "TurnSpan", "Why", "flags_of", "read_headers", "sender_variable", "span_context", "trace_of"]

Why = Literal["deferred", "self", "redelivered"]
"""Why a delivery is a root of its own, linked to where its message comes from."""

_PROPAGATOR: Final = TraceContextTextMapPropagator()
_FLAGS: Final = tuple(trace.TraceFlags(flags) for flags in range(4))


class Trace(Struct, frozen=True, gc=False):
    """The ids of one span, as they travel on a message.

    `trace_id` 0: there are none; the message only says that it begins a new trace. `mailbox`: of the turn that sent it, or
    None. `deferred`: it was routed later. `state`: W3C's, an OpenTelemetry TraceState, or None.
    """

    trace_id: int
    span_id: int
    flags: int
    state: Any = None
    remote: bool = False
    mailbox: str | None = None
    deferred: bool = False


def flags_of(flags: int) -> trace.TraceFlags:
    """Return them as OpenTelemetry knows them."""
    return _FLAGS[flags] if flags < len(_FLAGS) else trace.TraceFlags(flags)


def span_context(found: Trace) -> trace.SpanContext:
    """Return it as OpenTelemetry knows it."""
    return trace.SpanContext(found.trace_id, found.span_id, found.remote, flags_of(found.flags), found.state)


def trace_of(found: trace.SpanContext, *, deferred: bool, mailbox: str | None = None) -> Trace:
    """Return an OpenTelemetry context as it travels."""
    state = found.trace_state or None
    return Trace(found.trace_id, found.span_id, int(found.trace_flags), state, found.is_remote, mailbox, deferred)


def read_headers(headers: Mapping[str, Any], *, deferred: bool) -> Trace | None:
    """Return the W3C trace context that stands in a message's headers, or None if it is malformed."""
    carrier = {name: headers[name] for name in (TRACEPARENT, TRACESTATE) if isinstance(headers.get(name), str)}
    found = trace.get_current_span(_PROPAGATOR.extract(carrier, api.Context())).get_span_context()
    return trace_of(found, deferred=deferred) if found.is_valid else None


def sender_variable() -> Callable[[], object]:
    """Return what gives the calling task's OpenTelemetry context, which is empty and false outside of any span.

    The API keeps it in a context variable; asking that directly costs a tenth of asking the API.
    """
    mark = api.Context({"flowmesh": True})
    token = api.attach(mark)
    try:
        for variable, value in contextvars.copy_context().items():
            if value is mark:
                return variable.get
    finally:
        api.detach(token)
    return api.get_current  # another implementation of the API's context


class TurnSpan(trace.NonRecordingSpan):
    """The current span in the handlers of one worker: whatever delivery that has in hand.

    It records nothing itself; what the handler's own code opens is its child.
    """

    def __init__(self, turn: Turn, ids: Callable[["TurnSpan"], trace.SpanContext]) -> None:
        super().__init__(trace.INVALID_SPAN_CONTEXT)
        self.turn = turn
        self._ids = ids
        self.unsampled: tuple[Message | None, trace.SpanContext] = (None, trace.INVALID_SPAN_CONTEXT)

    def get_span_context(self) -> trace.SpanContext:
        """Return the ids of the delivery in hand; invalid between deliveries."""
        return self._ids(self)

    def __repr__(self) -> str:
        return f"<TurnSpan {self.get_span_context()!r}>"
