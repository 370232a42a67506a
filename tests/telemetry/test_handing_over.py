"""How spans get to the SDK's processors: in time, within bounds, and whatever those do."""

import logging
from collections.abc import Callable

import anyio
import pytest
from opentelemetry import context as api
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link, StatusCode

from flowmesh import Mesh, Retry
from flowmesh._runtime import tracing
from flowmesh.telemetry import otel
from flowmesh.testing import advance
from tests.telemetry.recording import Recorder

pytestmark = pytest.mark.anyio


class Adding(SpanProcessor):
    """Adds to each span when it starts, as a baggage processor does, and tries to when it has ended."""

    def on_start(self, span: Span, parent_context: api.Context | None = None) -> None:
        span.set_attributes({"one": 1, "two": 2})
        span.set_attribute("three", 3)
        span.add_event("noticed", {"by": "me"})
        span.add_link(trace.SpanContext(1, 2, True))
        span.record_exception(ValueError("seen"))
        span.set_status(StatusCode.OK)
        span.update_name(f"{span.name}!")
        assert span.is_recording()

    def on_end(self, span: ReadableSpan) -> None:
        assert isinstance(span, trace.Span)
        assert not span.is_recording()
        span.set_attribute("late", True)
        span.end()


class Failing(SpanProcessor):
    def on_end(self, span: ReadableSpan) -> None:
        raise RuntimeError("no disk")


async def test_within_a_tenth_of_a_second(recorder: Recorder):
    """A span of a running mesh is handed over without its stopping; a mesh with nothing to hand over sets no timer."""
    mesh = Mesh(tracer_provider=recorder.provider)

    @mesh.actor
    async def take(number: int) -> None: ...

    async with mesh:
        await take.tell(1)
        await mesh.idle()
        assert recorder.spans == ()
        await advance(0.2)
        assert len(recorder.spans) == 1
        await take.tell(2)
        await advance(0.2)
        assert len(recorder.spans) == 2
        statistics = mesh.statistics().tracing
        assert statistics is not None
        assert (statistics.spans, statistics.waiting, statistics.dropped) == (2, 0, 0)


async def test_many_in_slices(recorder: Recorder, monkeypatch: pytest.MonkeyPatch):
    """However many wait, they are handed over in slices no longer than a turn, while messages go on, each once."""
    monkeypatch.setattr(tracing, "TURN_SECONDS", -1.0)  # over as soon as it is looked at
    slices: list[int] = []
    hand_over = otel.SdkTracing.hand_over

    def counted(self: otel.SdkTracing, is_over: Callable[[], bool]) -> bool:
        before = len(recorder.spans)
        waits = hand_over(self, is_over)
        slices.append(len(recorder.spans) - before)
        return waits

    monkeypatch.setattr(otel.SdkTracing, "hand_over", counted)
    mesh = Mesh(tracer_provider=recorder.provider)

    @mesh.actor(concurrency=8)
    async def take(number: int) -> None:
        await anyio.sleep(0.01 * (number % 5))

    async with mesh:
        for number in range(3000):
            await take.tell(number)
        await mesh.idle()
        await advance(1)
        assert len(recorder.spans) == 3000
        assert max(slices) == 16
    assert len({str((span.attributes or {})["messaging.message.id"]) for span in recorder.spans}) == 3000


async def test_a_full_buffer_drops_and_counts(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """More spans than may wait are dropped, counted, and the first is logged; no message is touched by it."""
    monkeypatch.setattr(otel, "CAPACITY", 10)
    mesh = Mesh(tracer_provider=recorder.provider)

    @mesh.actor
    async def take(number: int) -> None: ...

    async with mesh:
        for number in range(25):
            take.tell_nowait(number)
        await mesh.idle()
        assert mesh.statistics().mailboxes["take"].acked == 25
        statistics = mesh.statistics().tracing
        assert statistics is not None
        assert (statistics.waiting, statistics.dropped) == (10, 15)
    assert len(recorder.spans) == 10
    assert sum("dropped" in record.message for record in caplog.records) == 1


async def test_processors_may_add_to_a_span():
    """What a processor adds at the start is there at the end, and nothing after it."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Adding())
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    mesh = Mesh(tracer_provider=provider)

    @mesh.actor
    async def take(number: int) -> None: ...

    async with mesh:
        await take.tell(1)
    (span,) = exporter.get_finished_spans()
    attributes = dict(span.attributes or {})
    assert span.name == "process take!"
    assert (attributes["one"], attributes["two"], attributes["three"]) == (1, 2, 3)
    assert "late" not in attributes
    assert [event.name for event in span.events] == ["noticed", "exception"]
    assert [link.context.trace_id for link in span.links] == [1]
    assert span.status.status_code is StatusCode.OK
    assert "process take" in span.to_json()


async def test_a_processor_that_fails_stops_nothing(recorder: Recorder, caplog: pytest.LogCaptureFixture):
    """An error of a processor is logged with the message's id; the mesh goes on."""
    recorder.provider.add_span_processor(Failing())
    mesh = Mesh(tracer_provider=recorder.provider)

    @mesh.actor
    async def take(number: int) -> None: ...

    async with mesh:
        receipt = await take.tell(1)
        await advance(1)
        await take.ask(2)
    assert len(recorder.spans) == 2
    assert receipt.message_id in caplog.text
    assert "no disk" in caplog.text


async def test_the_providers_limits_hold(caplog: pytest.LogCaptureFixture):
    """Numbers and lengths of attributes, events and links are cut as the provider says."""
    caplog.set_level(logging.CRITICAL)
    exporter = InMemorySpanExporter()
    limits = SpanLimits(max_span_attributes=4, max_attribute_length=6, max_events=0, max_links=0)
    provider = TracerProvider(shutdown_on_exit=False, span_limits=limits)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    mesh = Mesh(tracer_provider=provider)

    @mesh.actor(retry=Retry(2, initial=0.0))
    async def take(number: int) -> None:
        raise ValueError("a long text")

    async with mesh:
        await take.tell(1)
        await mesh.idle()
    first, second = exporter.get_finished_spans()
    for span in (first, second):
        assert len(span.attributes or {}) == 4
        assert span.dropped_attributes > 0
        assert all(len(str(value)) <= 6 for value in (span.attributes or {}).values())
        assert not span.events
        assert not span.links

    exporter.clear()
    limits.max_events = limits.max_links = 5
    async with mesh:
        await take.tell(1)
        await mesh.idle()
    first, second = exporter.get_finished_spans()
    assert dict(first.events[0].attributes or {})["exception.message"] == "a long"
    (link,) = second.links
    assert isinstance(link, Link)
    assert dict(link.attributes or {}) == {"flowmesh.link": "redeli"}
