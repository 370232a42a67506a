"""From a Record to a span of the SDK: off the way of messages, as cheaply as the SDK's own types allow.

The SDK's spans are made by its tracers, with ids of their own and at twelve times the cost; what is built here is the same to
processors and exporters.  What does not differ between deliveries of one actor is made once.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanLimits, Tracer
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.util import types

from flowmesh.telemetry import names
from flowmesh.telemetry.context import span_context
from flowmesh.telemetry.record import Failure, Record

__all__ = ["Builder", "DeliverySpan"]

MOST_ATTRIBUTES: Final = 16
"""More than any span here has: limits above this need no looking at."""
MAX_KNOWN: Final = 4096
"""Pairs of actor and mailbox whose attributes are kept."""
NANO: Final = 1_000_000_000
CONSUMER: Final = trace.SpanKind.CONSUMER  # an Enum's members cost a look-up each
UNSET: Final = trace.Status(trace.StatusCode.UNSET)


class DeliverySpan(ReadableSpan, trace.Span):
    """The span of a delivery, as processors see it. Until `finished` they may add to it in `on_start`."""

    _is_over = False

    def finished(self) -> "DeliverySpan":
        """Return it, to be read only from now on."""
        self._is_over = True
        return self

    def is_recording(self) -> bool:
        """Whether it still takes anything."""
        return not self._is_over

    def end(self, end_time: int | None = None) -> None:
        """Do nothing: it has its end."""

    def get_span_context(self) -> trace.SpanContext:
        """Return its ids."""
        assert self._context is not None
        return self._context

    def set_attribute(self, key: str, value: types.AnyValue) -> None:
        """Set an attribute."""
        if not self._is_over:
            self._attributes = {**(self._attributes or {}), key: value}

    def set_attributes(self, attributes: Mapping[str, types.AnyValue]) -> None:
        """Set attributes."""
        for key, value in attributes.items():
            self.set_attribute(key, value)

    def add_event(self, name: str, attributes: types.Attributes = None, timestamp: int | None = None) -> None:
        """Add an event."""
        if not self._is_over:
            self._events = (*self._events, Event(name, attributes, timestamp))

    def add_link(self, context: trace.SpanContext, attributes: types.Attributes = None) -> None:
        """Add a link."""
        if not self._is_over:
            self._links = (*self._links, trace.Link(context, attributes))

    def update_name(self, name: str) -> None:
        """Change its name."""
        if not self._is_over:
            self._name = name

    def set_status(self, status: trace.Status | trace.StatusCode, description: str | None = None) -> None:
        """Set its status."""
        if not self._is_over:
            self._status = status if isinstance(status, trace.Status) else trace.Status(status, description)

    def record_exception(
        self,
        exception: BaseException,
        attributes: types.Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Add an exception as an event."""
        found = {names.EXCEPTION_TYPE: names.error_type(exception), names.EXCEPTION_MESSAGE: str(exception)}
        self.add_event(names.EXCEPTION_EVENT, {**found, **(attributes or {})}, timestamp)


class Builder:
    """Makes the spans of one tracer, with its resource, scope and limits."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        # The tracer keeps both to itself; should their names change, the defaults hold.
        self._scope: Any = getattr(tracer, "_instrumentation_scope", None) or InstrumentationScope(names.SCOPE)
        self._limits: SpanLimits = getattr(tracer, "_span_limits", None) or SpanLimits()
        self._is_limited = not _is_wide(self._limits)
        self._known: dict[tuple[str, str], tuple[str, dict[str, types.AnyValue]]] = {}

    def build(self, record: Record, context: trace.SpanContext) -> DeliverySpan:
        """Return the span of a delivery that is over."""
        name, common = self._common(record)
        attributes = self._attributes(record, common)
        if record.outcome != "acked":
            attributes[names.OUTCOME] = record.outcome
        if record.extra:
            attributes.update(record.extra)
        # Separately: their sum has too many digits for a float's nanoseconds.
        offset = int(record.wall_offset * NANO)
        end = offset + int(record.end * NANO)
        events: Sequence[Event] = ()
        status = UNSET
        failure = record.failure
        if failure is not None and failure.is_error:
            attributes[names.ERROR_TYPE] = failure.type
            status = trace.Status(trace.StatusCode.ERROR, f"{failure.type}: {failure.text}")
        if failure is not None:
            events = self._events(failure, end)
        return DeliverySpan(
            name,
            context,
            None if record.parent is None else span_context(record.parent),
            self._tracer.resource,
            self._limited(attributes) if self._is_limited else attributes,
            events,
            () if record.link is None else self.links(record),
            CONSUMER,
            None,
            status,
            offset + int(record.start * NANO),
            end,
            self._scope,
        )

    def name(self, record: Record) -> str:
        """Return the span's name."""
        return self._common(record)[0]

    def attributes_before(self, record: Record) -> dict[str, types.AnyValue]:
        """Return what is known before the handler runs: a sampler may decide by it."""
        return self._attributes(record, self._common(record)[1])

    def links(self, record: Record) -> Sequence[trace.Link]:
        """Return where a root comes from."""
        if record.link is None:
            return ()
        attributes: Any = {names.LINK: record.why}
        if self._is_limited:
            limits = self._limits
            if limits.max_links == 0:
                return ()
            attributes = BoundedAttributes(
                limits.max_link_attributes, attributes, max_value_len=limits.max_attribute_length, immutable=True
            )
        return (trace.Link(span_context(record.link), attributes),)

    def _common(self, record: Record) -> tuple[str, dict[str, types.AnyValue]]:
        """Return the name and the attributes that all deliveries of one actor have."""
        place = (record.actor, record.mailbox)
        found = self._known.get(place)
        if found is None:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            attributes: dict[str, types.AnyValue] = {
                names.SYSTEM: names.SYSTEM_NAME,
                names.DESTINATION: record.mailbox,
                names.OPERATION_NAME: names.PROCESS,
                names.OPERATION_TYPE: names.PROCESS,
                names.ACTOR: record.actor,
            }
            found = self._known[place] = (names.span_name(record.mailbox), attributes)
        return found

    def _attributes(self, record: Record, common: dict[str, types.AnyValue]) -> dict[str, types.AnyValue]:
        message = record.message
        own = common.copy()
        own[names.MESSAGE_ID] = message.id
        own[names.ATTEMPT] = record.attempt
        if message.exchange:
            own[names.EXCHANGE] = message.exchange
            own[names.KEY] = message.key
        if record.why == "redelivered":
            own[names.REDELIVERED] = True
        correlation_id = message.properties.correlation_id
        if correlation_id is not None:
            own[names.CONVERSATION] = correlation_id
        return own

    def _events(self, failure: Failure, end: int) -> Sequence[Event]:
        attributes: Any = {
            names.EXCEPTION_TYPE: failure.type,
            names.EXCEPTION_MESSAGE: failure.text,
            names.EXCEPTION_STACKTRACE: failure.stacktrace,
        }
        if self._is_limited:
            limits = self._limits
            if limits.max_events == 0:
                return ()
            attributes = BoundedAttributes(
                limits.max_event_attributes, attributes, max_value_len=limits.max_attribute_length, immutable=True
            )
        return (Event(names.EXCEPTION_EVENT, attributes, end),)

    def _limited(self, attributes: dict[str, types.AnyValue]) -> BoundedAttributes:
        limits = self._limits
        return BoundedAttributes(
            limits.max_span_attributes, attributes, max_value_len=limits.max_span_attribute_length, immutable=True
        )


def _is_wide(limits: SpanLimits) -> bool:
    """Nothing that is built here reaches these limits."""
    counts = (
        limits.max_span_attributes,
        limits.max_event_attributes,
        limits.max_link_attributes,
        limits.max_events,
        limits.max_links,
    )
    lengths = (limits.max_attribute_length, limits.max_span_attribute_length)
    return all(count is None or count >= MOST_ATTRIBUTES for count in counts) and all(length is None for length in lengths)
