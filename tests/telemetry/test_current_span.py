"""The current span in a handler: the delivery's own, whatever kind of handler, and nothing of it stays behind."""

from contextvars import ContextVar
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from flowmesh import Actor, CallNext, Context, Mesh, Retry, on
from tests.telemetry.recording import Recorder, context_of

pytestmark = pytest.mark.anyio

tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


def current() -> trace.SpanContext:
    """Return the ids of the current span."""
    return trace.get_current_span().get_span_context()


async def test_it_is_the_deliverys(recorder: Recorder):
    """Each delivery sees its own ids, in whatever order the handlers of several slots go on."""
    mesh = Mesh(tracer_provider=recorder.provider)
    seen: dict[str, list[trace.SpanContext]] = {}

    @mesh.actor(concurrency=3)
    async def take(number: int, ctx: Context) -> None:
        mine = seen.setdefault(ctx.message.id, [current()])
        for step in range(3):
            await anyio.sleep((number * 7 + step) % 3)
            mine.append(current())

    async with mesh:
        for number in range(9):
            await take.tell(number)
    spans = {(span.attributes or {})["messaging.message.id"]: context_of(span) for span in recorder.of("process take")}
    assert len(spans) == 9
    assert seen == {name: [context] * 4 for name, context in spans.items()}


async def test_it_records_nothing_itself(recorder: Recorder):
    """It carries ids and takes no attributes: the span is built off the path."""
    mesh = Mesh(tracer_provider=recorder.provider)

    @mesh.actor
    async def take(number: int) -> None:
        span = trace.get_current_span()
        span.set_attribute("mine", number)
        assert not span.is_recording()

    async with mesh:
        await take.ask(1)
    assert "mine" not in (recorder.one("process take").attributes or {})


@pytest.mark.parametrize("kind", ["plain", "context", "timeout", "thread", "stepped", "task"])
async def test_what_a_handler_opens_is_a_child(recorder: Recorder, kind: str):
    """A span that the handler's own code opens is a child of the delivery: also in a thread, a stepped handler, a task."""
    mesh = Mesh(tracer_provider=recorder.provider)

    def work() -> None:
        with recorder.tracer.start_as_current_span("work"):
            pass

    async def plain(number: int) -> None:
        work()

    async def with_context(number: int, ctx: Context) -> None:
        await anyio.lowlevel.checkpoint()
        work()

    async def stepped(number: int) -> None:
        tenant.set(f"tenant-{number}")
        await anyio.sleep(0.1)
        work()

    async def with_task(number: int) -> None:
        async def task() -> None:
            work()

        async with anyio.create_task_group() as group:
            group.start_soon(task)

    def in_thread(number: int) -> None:
        work()

    handlers: dict[str, Any] = {
        "plain": plain,
        "timeout": plain,
        "context": with_context,
        "stepped": stepped,
        "task": with_task,
        "thread": in_thread,
    }
    take: Actor[int, object] = mesh.actor(handlers[kind], name="take", timeout=5.0 if kind == "timeout" else None)
    async with mesh:
        for number in range(4):
            await take.tell(number)
    deliveries = {context_of(span).span_id: context_of(span).trace_id for span in recorder.of("process take")}
    works = recorder.of("work")
    assert len(works) == len(deliveries) == 4
    assert {span.parent.span_id for span in works if span.parent is not None} == set(deliveries)
    assert all(span.parent is not None and deliveries[span.parent.span_id] == context_of(span).trace_id for span in works)


async def test_what_is_sent_inside_an_opened_span_is_its_child(recorder: Recorder):
    """A send inside a span that the handler opened is that span's child; after it, the delivery's again."""
    mesh = Mesh(tracer_provider=recorder.provider)

    @mesh.actor
    async def second(number: int) -> None: ...

    @mesh.actor
    async def first(number: int) -> None:
        with recorder.tracer.start_as_current_span("work"):
            await second.tell(1)
        await second.tell(2)

    async with mesh:
        await first.tell(1)
    one, two = recorder.of("process second")
    assert one.parent == recorder.one("work").context
    assert two.parent == recorder.one("process first").context


async def test_nothing_is_left_behind(recorder: Recorder):
    """After a turn, failed or cancelled, the next message of the same worker has its own ids; the sender's are untouched."""
    mesh = Mesh(tracer_provider=recorder.provider)
    seen: list[int] = []

    @mesh.actor(timeout=1.0, retry=Retry(2, initial=0.0))
    async def take(number: int) -> None:
        seen.append(current().span_id)
        if number == 1:
            raise ValueError(number)
        if number == 2:
            await anyio.sleep(10)

    async with mesh:
        for number in range(4):
            await take.tell(number)
        await mesh.idle()
        assert current() == trace.INVALID_SPAN_CONTEXT
    assert len(seen) == len(set(seen)) == len(recorder.of("process take")) == 6
    assert set(seen) == {context_of(span).span_id for span in recorder.of("process take")}


async def test_it_does_not_retire_workers(recorder: Recorder):
    """A handler that looks at the current span, or opens one, is not taken for one that changes its context."""
    mesh = Mesh(tracer_provider=recorder.provider)
    tasks: set[int] = set()

    @mesh.actor
    async def take(number: int) -> None:
        tasks.add(anyio.get_current_task().id)
        current()
        with recorder.tracer.start_as_current_span("work"):
            pass

    async with mesh:
        for number in range(50):
            await take.tell(number)
        await mesh.idle()
        assert mesh.statistics().workers == 1
    assert len(tasks) == 1


@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_an_unsampled_delivery_gives_ids_that_are_not_sampled(kind: str):
    """What a handler of an unsampled delivery opens is not sampled on its own, and sees one trace for the whole turn."""
    recorder = Recorder(ALWAYS_OFF)
    mesh = Mesh(tracer_provider=recorder.provider)
    seen: list[trace.SpanContext] = []

    def look(number: int) -> None:
        seen.extend((current(), current()))
        with recorder.tracer.start_as_current_span("work"):
            pass

    async def look_async(number: int) -> None:
        look(number)

    take = mesh.actor(look_async if kind == "async" else look, name="take")
    async with mesh:
        await take.tell(1)
        await take.tell(2)
    assert recorder.spans == ()
    assert seen[0] == seen[1] != seen[2] == seen[3]
    assert all(context.is_valid and not context.trace_flags.sampled for context in seen)


async def test_a_task_that_outlives_its_handler(recorder: Recorder):
    """Between deliveries its worker has nothing in hand, and neither has such a task; what it sends is a root."""
    mesh = Mesh(tracer_provider=recorder.provider)
    seen: list[trace.SpanContext] = []

    @mesh.actor
    async def second(number: int) -> None: ...

    async with anyio.create_task_group() as group:

        async def linger() -> None:
            await anyio.sleep(5)
            seen.append(current())
            await second.tell(1)

        @mesh.actor
        async def first(number: int) -> None:
            group.start_soon(linger)

        async with mesh:
            await first.tell(1)
            await anyio.sleep(10)
    assert seen == [trace.INVALID_SPAN_CONTEXT]
    assert recorder.one("process second").parent is None


async def test_class_actors_and_middleware(recorder: Recorder):
    """A class actor's handlers see their delivery, and so does what stands around a handler; its hooks have no span."""
    seen: list[trace.SpanContext] = []

    async def around(ctx: Context, call_next: CallNext) -> object:
        seen.append(current())
        return await call_next()

    mesh = Mesh(tracer_provider=recorder.provider, middleware=[around])

    class Totals:
        async def on_start(self) -> None:
            assert current() == trace.INVALID_SPAN_CONTEXT

        @on
        async def add(self, number: int) -> int:
            seen.append(current())
            return number

    totals = mesh.actor(Totals, name="totals")
    async with mesh:
        assert await totals.ask(3) == 3
    assert seen == [context_of(recorder.one("process totals"))] * 2
