"""Whose child a delivery's span is, and when it is a root of its own."""

import itertools
import logging

import pytest
from opentelemetry import trace

from flowmesh import Context, MailboxOptions, Mesh, Retry
from flowmesh.testing import advance
from tests.telemetry.recording import Recorder, context_of, links_of

pytestmark = pytest.mark.anyio

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{SPAN}-01"


async def test_a_delivery_is_one_consumer_span(recorder: Recorder):
    """A message from outside of any span is a root: CONSUMER, named and described as the messaging conventions say."""
    mesh = Mesh(tracer_provider=recorder.provider)
    orders = mesh.exchange("orders", "topic")

    @mesh.actor(name="billing", bind=orders.on("order.*"), mailbox=mesh.mailbox("bills"))
    async def bill(number: int) -> None: ...

    async with mesh:
        receipt = await orders.publish(1, "order.placed", correlation_id="conversation")
    span = recorder.one("process bills")
    assert span.kind is trace.SpanKind.CONSUMER
    assert span.parent is None
    assert not span.links
    assert span.status.status_code is trace.StatusCode.UNSET
    assert dict(span.attributes or {}) == {
        "messaging.system": "flowmesh",
        "messaging.destination.name": "bills",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.message.id": receipt.message_id,
        "messaging.message.conversation_id": "conversation",
        "flowmesh.actor": "billing",
        "flowmesh.attempt": 1,
        "flowmesh.exchange": "orders",
        "flowmesh.key": "order.placed",
    }
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.name == "flowmesh"
    assert span.resource is recorder.provider.resource


@pytest.mark.parametrize("way", ["ask", "tell", "publish", "tell_nowait", "publish_many", "publish with options"])
async def test_the_senders_span_is_the_parent(recorder: Recorder, way: str):
    """Whichever way a message is sent inside a span of the application, its delivery is that span's child."""
    mesh = Mesh(tracer_provider=recorder.provider)
    orders = mesh.exchange("orders")

    @mesh.actor(bind=orders.on("key"))
    async def take(number: int) -> None: ...

    async with mesh:
        await orders.publish(0, "key")  # so that the route is known
        with recorder.tracer.start_as_current_span("request") as request:
            match way:
                case "ask":
                    await take.ask(1)
                case "tell":
                    await take.tell(1)
                case "publish":
                    await orders.publish(1, "key")
                case "tell_nowait":
                    take.tell_nowait(1)
                case "publish_many":
                    await orders.publish_many([(1, "key")])
                case _:
                    await orders.publish(1, "key", headers={"a": "b"})
    root, child = recorder.of("process take")
    assert root.parent is None
    assert child.parent == request.get_span_context()
    assert context_of(child).trace_id == request.get_span_context().trace_id


@pytest.mark.parametrize("way", ["ask", "tell", "publish", "ctx.tell", "ctx.publish", "reply_to", "headers"])
async def test_a_turn_is_the_parent_of_what_it_sends(recorder: Recorder, way: str):
    """Whatever a turn sends, asks, collects or replies is handled in a child of the turn's own span."""
    mesh = Mesh(tracer_provider=recorder.provider)
    news = mesh.exchange("news")

    @mesh.actor(bind=news.on("key"))
    async def second(number: int) -> int:
        return number

    @mesh.actor
    async def first(number: int, ctx: Context) -> int:
        match way:
            case "ask":
                await second.ask(number)
            case "tell":
                await second.tell(number)
            case "publish":
                await news.publish(number, "key")
            case "ctx.tell":
                ctx.tell(second, number)
            case "ctx.publish":
                ctx.publish(news, number, key="key")
            case "headers":
                await second.tell(number, headers={"a": 1})
            case _:
                pass
        return number

    async with mesh:
        await first.tell(1, reply_to=second.mailbox if way == "reply_to" else None)
    parent, child = recorder.one("process first"), recorder.one("process second")
    assert child.parent == parent.context
    assert context_of(child).trace_id == context_of(parent).trace_id
    assert not child.links


async def test_each_copy_of_a_publish_is_a_child(recorder: Recorder):
    """A message that goes to several mailboxes has a span in each, all children of the sender."""
    mesh = Mesh(tracer_provider=recorder.provider)
    news = mesh.exchange("news", "fanout")

    @mesh.actor(bind=news.on())
    async def one(number: int) -> None: ...

    @mesh.actor(bind=news.on())
    async def two(number: int) -> None: ...

    async with mesh:
        with recorder.tracer.start_as_current_span("request") as request:
            await news.publish(1)
    assert recorder.one("process one").parent == request.get_span_context()
    assert recorder.one("process two").parent == request.get_span_context()
    assert context_of(recorder.one("process one")).span_id != context_of(recorder.one("process two")).span_id


@pytest.mark.parametrize("collected", [False, True])
async def test_a_deferred_message_is_a_linked_root(recorder: Recorder, collected: bool):
    """A message that is routed later begins a trace of its own, linked to the turn or span that sent it."""
    mesh = Mesh(tracer_provider=recorder.provider)

    @mesh.actor
    async def second(number: int) -> None: ...

    @mesh.actor
    async def first(number: int, ctx: Context) -> None:
        if collected:
            ctx.tell(second, number, delay=5)
        else:
            await second.tell(number, delay=5)

    async with mesh:
        await first.tell(1)
        await mesh.idle()
        await advance(6)
        await mesh.idle()
    sender, later = recorder.one("process first"), recorder.one("process second")
    assert later.parent is None
    assert context_of(later).trace_id != context_of(sender).trace_id
    assert links_of(later) == [(context_of(sender).trace_id, context_of(sender).span_id, "deferred")]


async def test_a_schedules_message_is_a_root(recorder: Recorder):
    """A fire comes from no span: a root without a link."""
    mesh = Mesh(tracer_provider=recorder.provider)

    @mesh.every(10)
    async def tick() -> None: ...

    async with mesh:
        await advance(25)
    first, second = recorder.of("process tick")
    assert first.parent is second.parent is None
    assert not first.links
    assert not second.links
    assert context_of(first).trace_id != context_of(second).trace_id


@pytest.mark.parametrize("way", ["tell", "ctx.tell", "publish"])
async def test_a_self_send_is_a_linked_root(recorder: Recorder, way: str):
    """What a turn sends to its own mailbox begins a trace of its own: a loop does not make an endless trace."""
    mesh = Mesh(tracer_provider=recorder.provider)
    again = mesh.exchange("again", "fanout")

    @mesh.actor
    async def count(number: int, ctx: Context) -> None:
        if number:
            if way == "tell":
                await count.tell(number - 1)
            elif way == "publish":
                await again.publish(number - 1)
            else:
                ctx.tell(count, number - 1)

    again.bind(count)
    async with mesh:
        await count.tell(2)
    spans = sorted(recorder.of("process count"), key=lambda span: str((span.attributes or {})["messaging.message.id"]))
    assert [span.parent for span in spans] == [None] * 3
    assert len({context_of(span).trace_id for span in spans}) == 3
    for before, after in itertools.pairwise(spans):
        assert links_of(after) == [(context_of(before).trace_id, context_of(before).span_id, "self")]


async def test_retries_are_roots_linked_to_the_first_attempt(recorder: Recorder, caplog: pytest.LogCaptureFixture):
    """One span per attempt; the first is the sender's child, the others are roots linked to the first."""
    caplog.set_level(logging.CRITICAL)
    mesh = Mesh(tracer_provider=recorder.provider)

    @mesh.actor(retry=Retry(3, initial=1.0, jitter="none"))
    async def take(number: int, ctx: Context) -> None:
        if ctx.attempt < 3:
            raise OSError("not yet")

    async with mesh:
        with recorder.tracer.start_as_current_span("request") as request:
            await take.tell(1)
        await mesh.idle()
    first, second, third = recorder.of("process take")
    assert first.parent == request.get_span_context()
    for span in (second, third):
        assert span.parent is None
        assert links_of(span) == [(context_of(first).trace_id, context_of(first).span_id, "redelivered")]
        assert context_of(span).trace_id != context_of(first).trace_id
    assert context_of(second).trace_id != context_of(third).trace_id
    assert [(span.attributes or {})["flowmesh.attempt"] for span in (first, second, third)] == [1, 2, 3]
    assert [(span.attributes or {}).get("flowmesh.redelivered") for span in (first, second, third)] == [None, True, True]


async def test_a_dead_letter_is_linked_to_its_sender(recorder: Recorder, caplog: pytest.LogCaptureFixture):
    """The delivery of a dead letter is a root, linked to where its message came from."""
    caplog.set_level(logging.CRITICAL)
    mesh = Mesh(tracer_provider=recorder.provider)
    graves = mesh.exchange("graves", "fanout")

    @mesh.actor(bind=graves.on())
    async def mourn(number: int) -> None: ...

    @mesh.actor(mailbox=MailboxOptions(dead_letter="graves"))
    async def take(number: int) -> None:
        raise ValueError(number)

    async with mesh:
        with recorder.tracer.start_as_current_span("request") as request:
            await take.tell(1)
    sent = request.get_span_context()
    letter = recorder.one("process mourn")
    assert letter.parent is None
    assert links_of(letter) == [(sent.trace_id, sent.span_id, "redelivered")]


# Headers


async def test_traceparent_is_the_parent(recorder: Recorder):
    """A W3C traceparent among the headers makes the delivery a child of that remote span, with its tracestate."""
    mesh = Mesh(tracer_provider=recorder.provider)

    @mesh.actor
    async def take(number: int) -> None: ...

    async with mesh:
        with recorder.tracer.start_as_current_span("request"):  # what the headers say goes before it
            await take.tell(1, headers={"traceparent": TRACEPARENT, "tracestate": "vendor=value"})
    span = recorder.one("process take")
    assert span.parent is not None
    assert (span.parent.trace_id, span.parent.span_id) == (int(TRACE, 16), int(SPAN, 16))
    assert span.parent.is_remote
    assert context_of(span).trace_id == int(TRACE, 16)
    assert context_of(span).trace_state.to_header() == "vendor=value"
    assert not context_of(span).is_remote


async def test_an_unsampled_traceparent_stays_unsampled(recorder: Recorder):
    """A remote parent that was not sampled has no spans below it, whatever comes of it; its trace id goes on all the same."""
    mesh = Mesh(tracer_provider=recorder.provider)
    seen: list[trace.SpanContext] = []

    @mesh.actor
    async def second(number: int) -> None:
        seen.append(trace.get_current_span().get_span_context())

    @mesh.actor
    async def first(number: int, ctx: Context) -> None:
        seen.append(trace.get_current_span().get_span_context())
        await second.tell(number)
        ctx.tell(second, number)

    async with mesh:
        await first.tell(1, headers={"traceparent": f"00-{TRACE}-{SPAN}-00"})
    assert recorder.spans == ()
    assert len(seen) == 3
    assert {context.trace_id for context in seen} == {int(TRACE, 16)}
    assert not any(context.trace_flags.sampled for context in seen)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "nonsense",
        TRACEPARENT.replace("00-", "ff-", 1),
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        TRACEPARENT.upper(),
        7,
        None,
        TRACEPARENT.encode(),
    ],
)
async def test_a_malformed_traceparent_is_ignored_and_counted(recorder: Recorder, value: object):
    """A traceparent that is none is no parent, breaks nothing, and shows in the statistics."""
    mesh = Mesh(tracer_provider=recorder.provider)

    @mesh.actor
    async def take(number: int) -> None: ...

    async with mesh:
        await take.tell(1, headers={"traceparent": value})
        await take.tell(1, headers={"traceparent": TRACEPARENT})
    first, second = sorted(recorder.of("process take"), key=lambda span: span.parent is not None)
    assert first.parent is None
    assert second.parent is not None
    statistics = mesh.statistics().tracing
    assert statistics is not None
    assert (statistics.malformed, statistics.spans) == (1, 2)


async def test_between_meshes(recorder: Recorder):
    """A turn of one mesh is the parent of what it sends to another; an untraced mesh's turn is nobody's."""
    traced, other, untraced = Mesh("a", tracer_provider=recorder.provider), Mesh("b", tracer_provider=recorder.provider), Mesh()

    @other.actor
    async def take(number: int) -> None: ...

    @traced.actor
    async def known(number: int) -> None:
        await take.tell(number)

    @untraced.actor
    async def unknown(number: int) -> None:
        await take.tell(number)

    async with other, traced, untraced:
        await known.tell(1)
        await unknown.tell(2)
        await traced.idle()
        await untraced.idle()
    parents = [span.parent for span in recorder.of("process take")]
    assert sorted(parents, key=lambda parent: parent is None) == [recorder.one("process known").context, None]


async def test_asking_oneself_is_a_child(recorder: Recorder):
    """An asker waits for the answer, so its question belongs to its trace, even when it asks its own actor."""
    mesh = Mesh(tracer_provider=recorder.provider)

    @mesh.actor(concurrency=2)
    async def take(number: int) -> int:
        return 1 + await take.ask(number - 1) if number else 0

    async with mesh:
        assert await take.ask(1) == 1
    outer, inner = sorted(recorder.of("process take"), key=lambda span: span.parent is not None)
    assert outer.parent is None
    assert inner.parent == outer.context
    assert not inner.links
