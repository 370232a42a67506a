"""All names that telemetry gives to the outside: spans, attributes, outcomes, instruments.

They follow OpenTelemetry's semantic conventions for messaging (still "development" there; version 1.44), so a change of them
is a change of this file alone.  What the conventions have no word for stands under `flowmesh.`.
"""

from typing import Final

__all__ = [
    "ACTOR",
    "ATTEMPT",
    "CONSUMERS",
    "CONVERSATION",
    "DEFERRED",
    "DESTINATION",
    "ENDED",
    "ENTERED",
    "ERROR_TYPE",
    "EXCEPTION_ESCAPED",
    "EXCEPTION_EVENT",
    "EXCEPTION_MESSAGE",
    "EXCEPTION_STACKTRACE",
    "EXCEPTION_TYPE",
    "EXCHANGE",
    "FAILURES",
    "FIRES",
    "GATE",
    "HELD",
    "KEY",
    "LINK",
    "MESH",
    "MESSAGES",
    "MESSAGE_ID",
    "OLDEST_AGE",
    "OPEN",
    "OPERATION_NAME",
    "OPERATION_TYPE",
    "OUTCOME",
    "PROCESS",
    "REDELIVERED",
    "RESTARTS",
    "RETRIES",
    "RUNNING",
    "SCHEDULE",
    "SCHEMA_URL",
    "SCOPE",
    "SLOTS",
    "STATE",
    "SYSTEM",
    "SYSTEM_NAME",
    "TRACEPARENT",
    "TRACESTATE",
    "UNROUTABLE",
    "error_type",
    "span_name",
]

SCOPE: Final = "flowmesh"
"""The instrumentation scope of all spans and instruments."""
SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"

SYSTEM: Final = "messaging.system"
SYSTEM_NAME: Final = "flowmesh"
DESTINATION: Final = "messaging.destination.name"
OPERATION_NAME: Final = "messaging.operation.name"
OPERATION_TYPE: Final = "messaging.operation.type"
PROCESS: Final = "process"
MESSAGE_ID: Final = "messaging.message.id"
CONVERSATION: Final = "messaging.message.conversation_id"
ERROR_TYPE: Final = "error.type"

ACTOR: Final = "flowmesh.actor"
ATTEMPT: Final = "flowmesh.attempt"
REDELIVERED: Final = "flowmesh.redelivered"
EXCHANGE: Final = "flowmesh.exchange"
KEY: Final = "flowmesh.key"
OUTCOME: Final = "flowmesh.outcome"
LINK: Final = "flowmesh.link"
"""On a link: why its span is a root of its own (see `Why` in context.py)."""

MESH: Final = "flowmesh.mesh"
STATE: Final = "flowmesh.state"
GATE: Final = "flowmesh.gate"
SCHEDULE: Final = "flowmesh.schedule"

MESSAGES: Final = "flowmesh.mailbox.messages"
ENTERED: Final = "flowmesh.mailbox.entered"
ENDED: Final = "flowmesh.mailbox.ended"
OLDEST_AGE: Final = "flowmesh.mailbox.oldest_age"
CONSUMERS: Final = "flowmesh.mailbox.consumers"
SLOTS: Final = "flowmesh.actor.slots"
RUNNING: Final = "flowmesh.actor.running"
FAILURES: Final = "flowmesh.actor.failures"
RETRIES: Final = "flowmesh.actor.retries"
RESTARTS: Final = "flowmesh.actor.restarts"
HELD: Final = "flowmesh.gate.held"
OPEN: Final = "flowmesh.gate.open"
FIRES: Final = "flowmesh.schedule.fires"
UNROUTABLE: Final = "flowmesh.exchange.unroutable"
DEFERRED: Final = "flowmesh.deferred"
"""Instruments."""

EXCEPTION_EVENT: Final = "exception"
EXCEPTION_TYPE: Final = "exception.type"
EXCEPTION_MESSAGE: Final = "exception.message"
EXCEPTION_STACKTRACE: Final = "exception.stacktrace"
EXCEPTION_ESCAPED: Final = "exception.escaped"

TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"
"""W3C Trace Context, as message headers."""


def span_name(mailbox: str) -> str:
    """Return the name of a delivery's span: the operation and the destination."""
    return f"{PROCESS} {mailbox}"


def error_type(error: BaseException) -> str:
    """Return the type of an error as `error.type` and `exception.type` want it."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
