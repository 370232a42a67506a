"""How a turn ended, as its span tells it."""

import logging

import anyio
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

from flowmesh import Context, Limit, Mesh, Reject, Retry, RetryAfter
from flowmesh.testing import VirtualClock, advance
from tests.telemetry.recording import Recorder, context_of, links_of

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """What fails here on purpose is not shown."""
    caplog.set_level(logging.CRITICAL)


def told(span: ReadableSpan) -> tuple[object, object, StatusCode]:
    """Return a span's outcome, error type and status."""
    attributes = span.attributes or {}
    return attributes.get("flowmesh.outcome"), attributes.get("error.type"), span.status.status_code


async def test_a_failure_is_an_error_with_its_exception(recorder: Recorder):
    """What a handler raises is the span's status and error type, and stands in an exception event with its traceback."""
    mesh = Mesh(tracer_provider=recorder.provider)

    class Broken(Exception):
        pass

    @mesh.actor
    async def take(number: int) -> None:
        raise Broken("in two")

    async with mesh:
        await take.tell(1)
    span = recorder.one("process take")
    kind = f"{__name__}.{Broken.__qualname__}"
    assert told(span) == ("failed", kind, StatusCode.ERROR)
    assert span.status.description == f"{kind}: in two"
    (event,) = span.events
    attributes = dict(event.attributes or {})
    assert event.name == "exception"
    assert event.timestamp == span.end_time
    assert (attributes["exception.type"], attributes["exception.message"]) == (kind, "in two")
    assert 'raise Broken("in two")' in str(attributes["exception.stacktrace"])


async def test_a_failure_that_an_asker_gets_is_an_error_too(recorder: Recorder):
    """The span tells of it even though the asker is told as well, and shows only the handler's side of it."""
    mesh = Mesh(tracer_provider=recorder.provider)

    @mesh.actor
    async def take(number: int) -> None:
        raise ValueError(number)

    async with mesh:
        with pytest.raises(ValueError, match="1"):
            await take.ask(1)
    span = recorder.one("process take")
    assert told(span) == ("failed", "ValueError", StatusCode.ERROR)
    stack = str((span.events[0].attributes or {})["exception.stacktrace"])
    assert "raise ValueError(number)" in stack
    assert "await take.ask(1)" not in stack


async def test_each_failed_attempt_is_an_error(recorder: Recorder):
    """An attempt that is retried is an error with its own outcome; the one that succeeds is none."""
    mesh = Mesh(tracer_provider=recorder.provider)

    @mesh.actor(retry=Retry(3, initial=0.0))
    async def take(number: int, ctx: Context) -> None:
        if ctx.attempt < 2:
            raise OSError("not yet")

    async with mesh:
        await take.tell(1)
        await mesh.idle()
    assert [told(span) for span in recorder.of("process take")] == [
        ("retried", "OSError", StatusCode.ERROR),
        (None, None, StatusCode.UNSET),
    ]


async def test_verdicts_are_no_errors(recorder: Recorder):
    """Reject and RetryAfter are outcomes, with the exception as an event, and leave the status alone."""
    mesh = Mesh(tracer_provider=recorder.provider)

    @mesh.actor
    async def take(number: int, ctx: Context) -> None:
        if not ctx.redelivered:
            raise RetryAfter(5)
        raise Reject("no more")

    async with mesh:
        await take.tell(1)
        await advance(6)
    later, rejected = recorder.of("process take")
    assert told(later) == ("put off", None, StatusCode.UNSET)
    assert told(rejected) == ("rejected", None, StatusCode.UNSET)
    assert [event.name for event in rejected.events] == ["exception"]
    assert links_of(rejected) == [(context_of(later).trace_id, context_of(later).span_id, "redelivered")]


async def test_a_time_limit_is_a_timeout(recorder: Recorder):
    """A handler that is cancelled by its time limit failed with TimeoutError, however its backend calls a cancellation."""
    mesh = Mesh(tracer_provider=recorder.provider)

    @mesh.actor(timeout=2.0)
    async def take(number: int) -> None:
        await anyio.sleep(60)

    async with mesh:
        await take.tell(1)
    span = recorder.one("process take")
    assert told(span) == ("failed", "TimeoutError", StatusCode.ERROR)
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.end_time - span.start_time == pytest.approx(2e9, rel=0.01)


async def test_an_asker_that_leaves_withdraws(recorder: Recorder):
    """A handler that is cancelled because its asker has left did not fail."""
    mesh = Mesh(tracer_provider=recorder.provider)

    @mesh.actor
    async def take(number: int) -> None:
        await anyio.sleep(60)

    async with mesh:
        with pytest.raises(TimeoutError):
            await take.ask(1, timeout=1)
    assert told(recorder.one("process take")) == ("withdrawn", None, StatusCode.UNSET)


async def test_a_newer_message_drops(recorder: Recorder):
    """A handler that is cancelled because a gate lets a newer message take its place did not fail; that one was acked."""
    mesh = Mesh(tracer_provider=recorder.provider)

    @mesh.actor(gates=[Limit(1, surplus="cancel_running")])
    async def take(number: int) -> None:
        await anyio.sleep(5)

    async with mesh:
        for number in range(2):
            await take.tell(number)
            await advance(1)
    assert [told(span)[0] for span in recorder.of("process take")] == ["dropped", None]


async def test_handed_back_and_handled_in_the_next_run(recorder: Recorder):
    """A handler that the stop cancels handed its message back; the next run's delivery is linked to that."""
    mesh = Mesh(grace=1.0, tracer_provider=recorder.provider)
    is_first = True

    @mesh.actor
    async def take(number: int) -> None:
        nonlocal is_first
        if is_first:
            is_first = False
            await anyio.sleep(60)

    async with mesh:
        await take.tell(1)
    async with mesh:
        await mesh.idle()
    first, second = recorder.of("process take")
    assert told(first) == ("handed back", None, StatusCode.UNSET)
    assert told(second) == (None, None, StatusCode.UNSET)
    assert links_of(second) == [(context_of(first).trace_id, context_of(first).span_id, "redelivered")]


async def test_what_stops_the_mesh_is_an_error(recorder: Recorder):
    """A BaseException hands its message back, and its span is an error; it was handed over before the mesh is left."""
    mesh = Mesh(tracer_provider=recorder.provider)

    @mesh.actor
    async def take(number: int) -> None:
        raise SystemExit(3)

    async def body() -> None:
        async with mesh:
            await take.tell(1)
            await anyio.sleep(60)

    with pytest.raises(SystemExit):
        await body()
    assert told(recorder.one("process take")) == ("handed back", "SystemExit", StatusCode.ERROR)


@pytest.mark.parametrize("lanes", [False, True])
async def test_what_a_handler_cannot_take_is_an_error(recorder: Recorder, lanes: bool):
    """A malformed message has its span although no handler is called: its parent's child, with the outcome malformed."""
    mesh = Mesh(tracer_provider=recorder.provider)
    news = mesh.exchange("news", "fanout")

    @mesh.actor(bind=news.on(), by=(lambda number: number) if lanes else None)
    async def take(number: int) -> None: ...

    async with mesh:
        with recorder.tracer.start_as_current_span("request") as request:
            await news.publish("seven")
        await mesh.idle()
    span = recorder.one("process take")
    assert told(span) == ("malformed", "flowmesh.errors.MalformedMessage", StatusCode.ERROR)
    assert span.parent == request.get_span_context()


async def test_times_are_the_meshs(recorder: Recorder):
    """A span begins and ends by the wall clock of the mesh, here a virtual one."""
    clock = VirtualClock()
    mesh = Mesh(clock=clock, tracer_provider=recorder.provider)

    @mesh.actor
    async def take(number: int) -> None:
        await anyio.sleep(3600)

    async with mesh:
        sent = clock.wall()
        await take.tell(1)
        await mesh.idle()
        done = clock.wall()
    span = recorder.one("process take")
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.start_time / 1e9 == pytest.approx(sent, abs=0.01)
    assert span.end_time / 1e9 == pytest.approx(done, abs=0.01)
    assert done - sent == pytest.approx(3600, abs=0.01)
