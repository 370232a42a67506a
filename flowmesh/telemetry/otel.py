"""Tracing with OpenTelemetry's SDK: which deliveries become spans, whose children they are, and when they are built.

On a message's way a delivery that is traced costs a Record in a buffer; the spans are built from it in batches, when a timer
of the mesh fires, and handed to the provider's own processors.  The buffer holds CAPACITY records; when it is full a new one
is dropped and counted.

A delivery is the child of what its message carries: of the turn that sent it, of the application's span, of a
`traceparent` header.  It is a root of its own, linked to that, when the message came back (redelivered, retried, a dead
letter), was deferred, or was told its own actor in a turn: a trace ends, and a loop is many traces.  A child follows its
parent's sampling; a new root is decided on anew, a redelivery as its first hand-out was.
"""

import logging
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from random import getrandbits
from typing import Any, Final, cast

from opentelemetry import context as api
from opentelemetry import trace
from opentelemetry.sdk.trace import Tracer

from flowmesh.message import Message
from flowmesh.ports import Ending, TracingStatistics, Turn
from flowmesh.telemetry.context import Trace, TurnSpan, Why, flags_of, read_headers, sender_variable, span_context, trace_of
from flowmesh.telemetry.names import TRACEPARENT, error_type
from flowmesh.telemetry.record import Failure, Record
from flowmesh.telemetry.sampling import ALL, rule_of
from flowmesh.telemetry.spans import Builder

__all__ = ["CAPACITY", "SdkTracing"]

CAPACITY: Final = 16_384
"""Records that wait to be built; a further one is dropped."""
SAMPLED: Final = int(trace.TraceFlags.SAMPLED)
RANDOM: Final = int(getattr(trace.TraceFlags, "RANDOM_TRACE_ID", 0))
NOT_FAILED: Final = frozenset({"rejected", "put off", "handed back", "withdrawn", "dropped"})
"""Outcomes of an exception that are verdicts, not errors."""
_TURN: Final = api.create_key("flowmesh-turn")


class SdkTracing:
    """`ports.Tracing` on a tracer of the SDK."""

    def __init__(self, tracer: Tracer, log: logging.Logger) -> None:
        self.sender = sender_variable()
        self.wake: Callable[[], None] = _nothing
        self._log = log
        self._sampler = tracer.sampler
        self._ids = tracer.id_generator
        self._processor = tracer.span_processor
        self._builder = Builder(tracer)
        self._rule = rule_of(tracer.sampler, tracer.id_generator)
        is_random: Callable[[], bool] | None = getattr(tracer.id_generator, "is_trace_id_random", None)
        self._root_flags = RANDOM if is_random is not None and is_random() else 0
        self._buffer: deque[Record] = deque()
        self._is_awake = False
        self._spans = self._dropped = self._malformed = 0

    def draw(self) -> float:
        """Return how many deliveries to let pass until the next chosen one; a sampler that has to be asked is, each time."""
        return float("-inf") if self._rule is None else self._rule.draw()

    def follow(self, turn: Turn) -> object:
        """Make a worker's deliveries the current span of its task."""
        context = trace.set_span_in_context(TurnSpan(turn, self._ids_of))
        api.attach(api.set_value(_TURN, turn, context))
        return self.sender()

    # A turn

    def begin_plain(self, actor: str, mailbox: str, message: Message, now: float, /) -> Record | None:
        """Note that a handler is about to be called with a chosen message that carries nothing."""
        if self._rule is None:
            return self._ask(Record(actor, mailbox, message, 1, now))
        if message.origin is not None:
            return None  # Its sender's turn was not sampled, or it would carry that.
        return Record(actor, mailbox, message, 1, now)

    def begin(
        self,
        actor: str,
        mailbox: str,
        message: Message,
        now: float,
        *,
        chosen: bool,
        first: object | None = None,
        attempt: int = 1,
        asked: bool = False,
    ) -> Record | None:
        """Note that a handler is about to be called."""
        carried: Any = message.properties.trace
        if first is None:
            if attempt > 1 and self._rule is not None:
                return None  # It would remember a first attempt that was sampled.
            if carried is None:
                return self.begin_plain(actor, mailbox, message, now) if chosen else None
        record = Record(actor, mailbox, message, attempt, now)
        source = cast("Trace", first or carried)
        came_back = first is not None or bool(message.properties.deaths)
        why = "redelivered" if came_back else _why_root(source, None if asked else mailbox)
        if why is not None:
            record.why = why
            record.link = source if source.trace_id else None
        elif source.trace_id:
            record.parent = source
        else:
            return None  # Of an unsampled turn that asks its own actor.
        return self._ask(record) if self._rule is None else self._decide(record, chosen=chosen)

    def _decide(self, record: Record, *, chosen: bool) -> Record | None:
        """Evaluate a known sampler."""
        parent, rule = record.parent, self._rule
        assert rule is not None
        if parent is None:
            if record.why == "redelivered" and record.link is not None:
                chosen = bool(record.link.flags & SAMPLED)
            return record if chosen else None
        record.trace_id, record.state = parent.trace_id, parent.state
        sampled = rule.follows(parent.trace_id, sampled=bool(parent.flags & SAMPLED), remote=parent.remote)
        record.flags = (parent.flags & ~SAMPLED) | (SAMPLED if sampled else 0)
        record.is_recorded = sampled
        return record

    def _ask(self, record: Record) -> Record:
        """Ask an unknown sampler, as the SDK would."""
        parent = record.parent
        context = api.Context()
        if parent is not None:
            context = trace.set_span_in_context(trace.NonRecordingSpan(span_context(parent)), context)
        record.trace_id = self._ids.generate_trace_id() if parent is None else parent.trace_id
        try:
            result: Any = self._sampler.should_sample(
                context,
                record.trace_id,
                self._builder.name(record),
                trace.SpanKind.CONSUMER,
                self._builder.attributes_before(record),
                self._builder.links(record),
            )
        except Exception:  # noqa: BLE001 - whatever somebody else's sampler raises, the message goes on
            self._log.exception("the sampler %r failed: the delivery is not traced", self._sampler)
            record.is_recorded = False
            return record
        flags = self._root_flags if parent is None else parent.flags & ~SAMPLED
        record.flags = flags | (SAMPLED if result.decision.is_sampled() else 0)
        record.is_recorded = result.decision.is_recording()
        record.state = result.trace_state
        record.extra = result.attributes
        return record

    def end(self, span: Record, now: float, wall_offset: float, ending: Ending | None = None, /) -> None:
        """Note that the turn is over; without an `ending` it was acked."""
        if not span.is_recorded:
            return
        if len(self._buffer) >= CAPACITY:
            self._dropped += 1
            if self._dropped == 1:
                self._log.warning("%d spans wait to be built: further ones are dropped, and counted", CAPACITY)
            return
        span.end = now
        span.wall_offset = wall_offset
        if ending is not None:
            span.outcome = ending.outcome
            if ending.error is not None:
                is_error = ending.outcome not in NOT_FAILED or not isinstance(ending.error, Exception)
                span.failure = _failure(ending.error, is_error=is_error)
        self._buffer.append(span)
        if not self._is_awake:
            self._is_awake = True
            self.wake()

    def memory(self, span: Record) -> Trace:
        """Return what a copy that is handed back remembers of its first hand-out."""
        return self._trace(span)

    # Ids

    def _draw_ids(self, record: Record) -> None:
        if not record.trace_id:
            rule = self._rule
            if rule is None:
                record.trace_id = self._ids.generate_trace_id()
            elif rule.root >= ALL:
                record.trace_id = getrandbits(128) or 1  # as the SDK's generator, which a rule is for, but without its frame
            else:
                record.trace_id = rule.root_id(chosen=record.is_recorded)
            record.flags = self._root_flags | (SAMPLED if record.is_recorded else 0)
        if not record.span_id:
            record.span_id = self._ids.generate_span_id() if self._rule is None else getrandbits(64) or 1

    def _trace(self, record: Record) -> Trace:
        if record.trace is None:
            self._draw_ids(record)
            record.trace = Trace(record.trace_id, record.span_id, record.flags, record.state, False, record.mailbox)
        return record.trace

    def _context(self, record: Record) -> trace.SpanContext:
        if record.context is None:
            self._draw_ids(record)
            record.context = trace.SpanContext(record.trace_id, record.span_id, False, flags_of(record.flags), record.state)
        return record.context

    def _ids_of(self, current: TurnSpan) -> trace.SpanContext:
        """Return the ids of what a worker has in hand; those of an unsampled delivery are made for whoever asks."""
        record, message = current.turn.span, current.turn.message
        if record is not None:
            return self._context(record)
        if message is None:
            return trace.INVALID_SPAN_CONTEXT
        if current.unsampled[0] is not message:
            unsampled = Record("", "", message, 1, 0.0, is_recorded=False)
            current.unsampled = (message, self._context(unsampled))
        return current.unsampled[1]

    # Sending

    def carried(self, headers: Mapping[str, Any], *, mailbox: str | None, deferred: bool, in_turn: bool) -> Trace | None:
        """Return what a message takes along from where it is sent."""
        if TRACEPARENT in headers:
            found = read_headers(headers, deferred=deferred)
            if found is not None:
                return found
            self._malformed += 1
        context: Any = self.sender()
        if not context:
            return Trace(0, 0, 0, deferred=deferred) if in_turn else None  # The turn is another mesh's, which is not traced.
        turn: Turn | None = context.get(_TURN)
        own = None if turn is None or turn.message is None else turn.mailbox
        span = trace.get_current_span(context)
        if type(span) is TurnSpan:
            record = span.turn.span
            if record is None:
                # A new root follows, whose sampling is decided on anew; anything else stays unsampled with its turn.
                return Trace(0, 0, 0, None, False, own, deferred) if deferred or (mailbox and mailbox == own) else None
            carried = self._trace(record)
            return _deferred(carried) if deferred else carried
        found = span.get_span_context()
        return trace_of(found, deferred=deferred, mailbox=own) if found.is_valid else None

    # Off the path

    def hand_over(self, is_over: Callable[[], bool]) -> bool:
        """Build the spans that wait and hand them to the processors, until `is_over`; return whether some still wait."""
        buffer, builder, processor = self._buffer, self._builder, self._processor
        while buffer:
            record = buffer.popleft()
            try:
                span = builder.build(record, self._context(record))
                processor.on_start(cast("Any", span))  # Not the SDK's own type; as good to whoever adds to it.
                processor.on_end(span.finished())
            except Exception:  # noqa: BLE001 - nor may a processor stop the mesh
                self._log.exception("a span processor failed: the span of message %s is lost", record.message.id)
            self._spans += 1
            if not self._spans % 16 and is_over():
                break
        self._is_awake = bool(buffer)
        return self._is_awake

    def statistics(self) -> TracingStatistics:
        """Return the numbers of this moment."""
        return TracingStatistics(self._spans, len(self._buffer), self._dropped, self._malformed)


def _why_root(carried: Trace, mailbox: str | None) -> Why | None:
    """Return why a delivery begins a trace of its own, or None if it is a child of what its message carries.

    `mailbox`: it came through, None for an ask: its trace ends with the asker's turn, even if that is of the same actor.
    """
    if carried.deferred:
        return "deferred"
    if mailbox is None:
        return None if carried.mailbox is not None or carried.trace_id else "self"
    return "self" if carried.mailbox == mailbox or not carried.trace_id else None


def _deferred(carried: Trace) -> Trace:
    return Trace(
        carried.trace_id, carried.span_id, carried.flags, carried.state, carried.remote, carried.mailbox, deferred=True
    )


def _failure(error: BaseException, *, is_error: bool) -> Failure:
    return Failure(error_type(error), str(error), "".join(traceback.format_exception(error)), is_error)


def _nothing() -> None:
    return None
