"""Random pipelines: whatever is sent, deferred, asked, retried or looped, each delivery has one span, and the tree is right."""

import logging
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct
from opentelemetry.sdk.trace import ReadableSpan

from flowmesh import Context, Mesh, Retry
from flowmesh.testing import BACKENDS, advance, run
from flowmesh.testing.virtual import Backend
from tests.telemetry.recording import Recorder, context_of, links_of

ACTORS = ("a", "b", "c")
WAYS = ("tell", "ask", "publish", "ctx.tell", "ctx.publish", "defer", "ctx.defer")


class Step(Struct, frozen=True):
    """What one delivery does: fail so often first, then send each of these on."""

    actor: str
    failures: int
    then: "tuple[tuple[str, Step], ...]" = ()


def steps() -> st.SearchStrategy[Step]:
    """Return pipelines of a few steps."""
    leaves = st.builds(Step, st.sampled_from(ACTORS), st.integers(0, 2))
    return st.recursive(
        leaves,
        lambda children: st.builds(
            Step,
            st.sampled_from(ACTORS),
            st.integers(0, 1),
            st.lists(st.tuples(st.sampled_from(WAYS), children), max_size=3).map(tuple),
        ),
        max_leaves=6,
    )


class Seen(Struct):
    """One delivery, as the handler saw it: its message, attempt, what caused it and how that was sent."""

    id: str
    attempt: int
    cause: str | None
    actor: str


@pytest.mark.parametrize("backend", BACKENDS)
@given(pipelines=st.lists(steps(), min_size=1, max_size=3))
@settings(max_examples=500)
def test_every_delivery_has_one_span_in_the_right_place(backend: Backend, pipelines: list[Step]):
    """A span is its cause's child; a root, linked, when it was deferred, retried or sent by its own mailbox's turn."""
    recorder = Recorder()
    seen: list[Seen] = []
    deferred: set[str] = set()

    async def main() -> None:
        mesh = Mesh("pipelines", tracer_provider=recorder.provider)
        news = mesh.exchange("news")

        async def handle(step: Step, ctx: Context) -> None:
            seen.append(Seen(ctx.message.id, ctx.attempt, ctx.message.cause, ctx.actor))
            if ctx.attempt <= step.failures:
                raise OSError("not yet")
            for way, then in step.then:
                target = actors[then.actor]
                match way:
                    case "tell":
                        await target.tell(then)
                    case "ask":
                        await answering.ask(then)
                    case "publish":
                        await news.publish(then, then.actor)
                    case "ctx.tell":
                        ctx.tell(target, then)
                    case "ctx.publish":
                        ctx.publish(news, then, key=then.actor)
                    case "defer":
                        deferred.add((await target.tell(then, delay=3)).message_id)
                    case _:
                        name = f"late-{len(seen)}-{len(deferred)}"
                        deferred.add(name)
                        ctx.tell(target, then, delay=3, message_id=name)

        actors = {name: mesh.actor(handle, name=name, retry=Retry(5, initial=0.5), concurrency=2) for name in ACTORS}
        answering = mesh.actor(handle, name="answering", retry=Retry(5, initial=0.5), concurrency=50)
        for name, actor in actors.items():
            news.bind(actor, name)
        async with mesh:
            for step in pipelines:
                await actors[step.actor].tell(step)
            await mesh.idle()
            for _ in range(8):
                await advance(4)
                await mesh.idle()

    log = logging.getLogger("flowmesh.pipelines")
    log.setLevel(logging.CRITICAL)
    try:
        run(main, backend=backend)
    finally:
        log.setLevel(logging.NOTSET)
        recorder.provider.shutdown()
    spans: dict[tuple[object, object], ReadableSpan] = {}
    for span in recorder.spans:
        attributes = span.attributes or {}
        spans[attributes["messaging.message.id"], attributes["flowmesh.attempt"]] = span
    assert Counter((one.id, one.attempt) for one in seen) == Counter(spans.keys())
    assert len(recorder.spans) == len(spans) == len({context_of(span).span_id for span in recorder.spans})
    actor_of = {one.id: one.actor for one in seen}
    last = {one.id: one.attempt for one in seen}  # in the order of their attempts: the one that sent anything
    for one in seen:
        span = spans[one.id, one.attempt]
        if one.attempt > 1:
            first = context_of(spans[one.id, 1])
            assert span.parent is None
            assert links_of(span) == [(first.trace_id, first.span_id, "redelivered")]
        elif one.cause is None:
            assert span.parent is None
            assert not span.links
        else:
            sender = context_of(spans[one.cause, last[one.cause]])
            loops = actor_of[one.cause] == one.actor != "answering"  # an asker waits for it: a child, even of its own actor
            why = "deferred" if one.id in deferred else "self" if loops else None
            if why is None:
                assert span.parent == sender
                assert context_of(span).trace_id == sender.trace_id
                assert not span.links
            else:
                assert span.parent is None
                assert links_of(span) == [(sender.trace_id, sender.span_id, why)]
    roots = [context_of(span).trace_id for span in recorder.spans if span.parent is None]
    assert len(roots) == len(set(roots))
