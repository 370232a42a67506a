"""Tracing: every delivery is a span of OpenTelemetry, the child of whatever sent its message.

A mesh that is given no `tracer_provider=` takes the global one when it starts. Here each span is one line. What is sent with a
delay begins a trace of its own, linked to the delivery that sent it; so does another attempt.

    python examples/tracing.py
"""

import sys

import anyio
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from flowmesh import Context, Mesh, Retry

names: dict[int, str] = {}


def line(span: ReadableSpan) -> str:
    assert span.context is not None
    names[span.context.span_id] = span.name
    place = "child" if span.parent else f"linked to {names.get(span.links[0].context.span_id)}" if span.links else "root"
    outcome = (span.attributes or {}).get("flowmesh.outcome", "ok")
    return f"{span.name}: {place}, {outcome}\n"


provider = TracerProvider(shutdown_on_exit=False)
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=sys.stdout, formatter=line)))
mesh = Mesh("shop", tracer_provider=provider)


@mesh.actor
async def remind(order: int) -> None: ...


@mesh.actor(retry=Retry(2, initial=0.1))
async def charge(order: int, ctx: Context) -> None:
    if ctx.attempt == 1:
        raise OSError("the bank is closed")
    with provider.get_tracer("shop").start_as_current_span("call the bank"):
        pass


@mesh.actor
async def place(order: int, ctx: Context) -> None:
    ctx.tell(charge, order)
    ctx.tell(remind, order, delay=1)


async def main() -> None:
    async with mesh:
        with provider.get_tracer("shop").start_as_current_span("request"):
            await place.tell(42)
        await anyio.sleep(2)


if __name__ == "__main__":
    anyio.run(main)
