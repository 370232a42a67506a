"""A provider whose spans a test can look at."""

from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Sampler
from opentelemetry.trace import SpanContext

__all__ = ["Recorder", "context_of", "links_of"]


class Recorder:
    """A provider, and what its exporter got."""

    def __init__(self, sampler: Sampler | None = None) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler, shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("application")

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        """Every span, in the order in which they were handed over."""
        return self.exporter.get_finished_spans()

    def of(self, name: str) -> list[ReadableSpan]:
        """Return the spans of this name, by their start."""
        return sorted((span for span in self.spans if span.name == name), key=lambda span: span.start_time or 0)

    def one(self, name: str) -> ReadableSpan:
        """Return the only span of this name."""
        (span,) = self.of(name)
        return span


def context_of(span: ReadableSpan) -> SpanContext:
    """Return a span's ids."""
    context = span.get_span_context()
    assert context is not None
    return context


def links_of(span: ReadableSpan) -> list[tuple[int, int, object]]:
    """Return (trace id, span id, why) of each link."""
    return [(link.context.trace_id, link.context.span_id, (link.attributes or {}).get("flowmesh.link")) for link in span.links]
