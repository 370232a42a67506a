"""S9: what tracing adds to S1. One mesh without a tracer, one that samples nothing, one that samples everything, in turns.

Every figure is the median of differences between meshes that ran right after each other, per message.  "On the path" ends
with the last handled message: spans are built later, at the latest when the mesh stops; "with the spans built" ends then,
when all of them have been handed to the SDK's batch processor.
"""

import statistics
from collections.abc import Sequence
from time import perf_counter_ns

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler, TraceIdRatioBased

from benchmarks.harness import Bound, Figure, Scenario
from benchmarks.workload import Countdown, Pair, scaled, started
from flowmesh import Mesh

__all__ = ["TRACING"]

_MESSAGES = 10_000  # in one go: as many as a mailbox holds, and fewer than spans may wait
_ROUNDS = 9
_LEAST = 0.1  # nanoseconds; a difference below what can be measured is shown as none


class _Discard(SpanExporter):
    """An exporter whose own cost is nothing."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Take them."""
        del spans
        return SpanExportResult.SUCCESS


def _provider(sampler: Sampler) -> TracerProvider:
    provider = TracerProvider(sampler, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(_Discard(), max_queue_size=2 * _MESSAGES))
    return provider


async def _run(count: int, provider: TracerProvider | None) -> tuple[float, float]:
    """Return the nanoseconds per message until the last is handled, and until the mesh has stopped."""
    countdown = Countdown(count)
    mesh = Mesh("bench", tracer_provider=provider)

    @mesh.actor
    async def receive(body: Pair) -> None:
        del body
        countdown.left -= 1
        if not countdown.left:
            countdown.end()

    async with mesh:
        start = started()
        for number in range(count):
            await receive.tell(Pair(number, "text"))
        await countdown.wait()
    return (countdown.ended - start) / count, (perf_counter_ns() - start) / count


async def _tracing(scale: float) -> Sequence[float]:
    count = scaled(_MESSAGES, scale)
    samplers = (ALWAYS_OFF, ParentBased(TraceIdRatioBased(0.001)), ALWAYS_ON)
    providers = [_provider(sampler) for sampler in samplers]
    differences: list[list[float]] = [[], [], [], []]
    try:
        for _ in range(_ROUNDS):
            for index, provider in enumerate(providers):
                plain = await _run(count, None)
                traced = await _run(count, provider)
                differences[index].append(traced[0] - plain[0])
                if index == len(providers) - 1:  # everything sampled
                    differences[-1].append(traced[1] - plain[1])
    finally:
        for provider in providers:
            provider.shutdown()
    return [max(_LEAST, statistics.median(found)) for found in differences]


TRACING = Scenario(
    "S9",
    "tracing added to S1",
    (
        Figure.alike("added, nothing sampled", "x", Bound(0.3, 0.1)),
        Figure.alike("added, a thousandth sampled", "x", Bound(0.3, 0.1)),
        Figure.alike("added on the path, all sampled", "x", Bound(2.5, 0.7)),
        Figure("added with the spans built", "x"),
    ),
    _tracing,
)
