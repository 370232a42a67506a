"""Sampling: the SDK's samplers evaluated in place decide as the SDK does; any other one is asked."""

import logging
import math
from collections.abc import Sequence

import pytest
from opentelemetry import trace
from opentelemetry.context import Context as ApiContext
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    DEFAULT_OFF,
    DEFAULT_ON,
    Decision,
    ParentBased,
    ParentBasedTraceIdRatio,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import Link, SpanKind, TraceState
from opentelemetry.util.types import Attributes

from flowmesh import Context, Mesh, Retry
from flowmesh.telemetry.sampling import ALL, rule_of
from flowmesh.testing import advance
from tests.telemetry.recording import Recorder, context_of, links_of

KNOWN = [
    ALWAYS_ON,
    ALWAYS_OFF,
    DEFAULT_ON,
    DEFAULT_OFF,
    TraceIdRatioBased(0.3),
    TraceIdRatioBased(0.0),
    TraceIdRatioBased(1.0),
    ParentBasedTraceIdRatio(0.3),
    ParentBased(ALWAYS_OFF, remote_parent_sampled=TraceIdRatioBased(0.6), local_parent_not_sampled=ALWAYS_ON),
]


class Odd(Sampler):
    """A sampler that nobody knows: spans of mailboxes whose name ends with "odd", whatever their parent."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, SpanKind | None, dict[str, object], int, bool]] = []

    def should_sample(
        self,
        parent_context: ApiContext | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        parent = trace.get_current_span(parent_context).get_span_context()
        self.asked.append((name, kind, dict(attributes or {}), len(links or ()), parent.is_valid))
        if name.endswith("odd"):
            return SamplingResult(Decision.RECORD_AND_SAMPLE, {"why": "odd"}, TraceState([("odd", "yes")]))
        return SamplingResult(Decision.DROP)

    def get_description(self) -> str:
        return "Odd"


@pytest.mark.parametrize("sampler", KNOWN, ids=lambda sampler: sampler.get_description()[:60])
def test_a_rule_decides_as_its_sampler(sampler: Sampler):
    """For every kind of parent and many ids, the rule says what the sampler says."""
    rule = rule_of(sampler, RandomIdGenerator())
    assert rule is not None
    ids = RandomIdGenerator()
    for _ in range(200):
        trace_id = ids.generate_trace_id()
        for remote in (False, True):
            for sampled in (False, True):
                flags = trace.TraceFlags(1 if sampled else 0)
                parent = trace.NonRecordingSpan(trace.SpanContext(trace_id, 1, remote, flags))
                said = sampler.should_sample(trace.set_span_in_context(parent, ApiContext()), trace_id, "name")
                assert rule.follows(trace_id, sampled=sampled, remote=remote) is said.decision.is_sampled()
        chosen = rule.root_id(chosen=True)
        if rule.root > 0:
            assert sampler.should_sample(ApiContext(), chosen, "name").decision.is_sampled()
        if rule.root < ALL:
            unchosen = rule.root_id(chosen=False)
            assert not sampler.should_sample(ApiContext(), unchosen, "name").decision.is_sampled()


@pytest.mark.parametrize("rate", [0.01, 0.3, 0.9])
def test_drawn_gaps_have_the_samplers_rate(rate: float):
    """Letting pass what `draw` says chooses each delivery with the sampler's probability."""
    rule = rule_of(TraceIdRatioBased(rate), RandomIdGenerator())
    assert rule is not None
    count = 20_000
    passed = sum(rule.draw() for _ in range(count))
    mean, deviation = (1 - rate) / rate, math.sqrt(1 - rate) / rate / math.sqrt(count)
    assert abs(passed / count - mean) < 6 * deviation


def test_all_and_nothing_need_no_drawing():
    """ALWAYS_ON chooses each, ALWAYS_OFF none, for ever."""
    on, off = rule_of(ALWAYS_ON, RandomIdGenerator()), rule_of(ALWAYS_OFF, RandomIdGenerator())
    assert on is not None
    assert off is not None
    assert (on.draw(), off.draw()) == (-math.inf, math.inf)


def test_what_is_not_known_is_asked():
    """A sampler of somebody else's, also inside ParentBased, and ids that are not the SDK's have no rule."""

    class Counting(IdGenerator):
        def generate_span_id(self) -> int:
            return 1

        def generate_trace_id(self) -> int:
            return 1

    class Mine(TraceIdRatioBased):
        pass

    assert rule_of(Odd(), RandomIdGenerator()) is None
    assert rule_of(ParentBased(Odd()), RandomIdGenerator()) is None
    assert rule_of(Mine(0.5), RandomIdGenerator()) is None
    assert rule_of(ALWAYS_ON, Counting()) is None


@pytest.mark.anyio
async def test_a_whole_trace_is_sampled_or_none_of_it():
    """With a share sampled, all deliveries and spans that come of one message are there, or none."""
    recorder = Recorder(ParentBased(TraceIdRatioBased(0.5)))
    mesh = Mesh(tracer_provider=recorder.provider)

    @mesh.actor(concurrency=500)
    async def third(number: int) -> None:
        if number >= 0:
            await third.ask(-1)  # of an asker, so no new root
        with recorder.tracer.start_as_current_span("work"):
            pass

    @mesh.actor
    async def second(number: int, ctx: Context) -> None:
        ctx.tell(third, number)

    @mesh.actor
    async def first(number: int) -> None:
        await second.tell(number)
        await third.ask(number)

    async with mesh:
        for number in range(100):
            await first.tell(number)
        await mesh.idle()
    traces: dict[int, list[str]] = {}
    for span in recorder.spans:
        traces.setdefault(context_of(span).trace_id, []).append(span.name)
    assert 10 < len(traces) < 90
    whole = sorted(["process first", "process second", *["process third", "work"] * 4])
    assert all(sorted(names) == whole for names in traces.values())
    assert {trace_id % ALL < ALL // 2 for trace_id in traces} == {True}


@pytest.mark.anyio
async def test_another_attempt_is_sampled_as_the_first(caplog: pytest.LogCaptureFixture):
    """With a share sampled, a message shows all of its attempts or none; its failures leave nothing to the next message."""
    caplog.set_level(logging.CRITICAL)
    recorder = Recorder(ParentBased(TraceIdRatioBased(0.5)))
    mesh = Mesh(tracer_provider=recorder.provider)

    @mesh.actor
    async def second(number: int) -> None: ...

    @mesh.actor(retry=Retry(2, initial=1.0))
    async def first(number: int, ctx: Context) -> None:
        await second.tell(number)
        if ctx.attempt == 1:
            raise OSError("not yet")

    async with mesh:
        with trace.use_span(trace.NonRecordingSpan(trace.SpanContext(1, 2, True, trace.TraceFlags(1)))):
            await first.tell(-1)  # a sampled one, whatever comes by chance
        for number in range(100):
            await first.tell(number)
        await mesh.idle()
    attempts: dict[object, set[object]] = {}
    for span in recorder.of("process first"):
        attributes = span.attributes or {}
        attempts.setdefault(attributes["messaging.message.id"], set()).add(attributes["flowmesh.attempt"])
    assert 10 < len(attempts) < 90
    assert all(found == {1, 2} for found in attempts.values())
    senders = [span.context for span in recorder.of("process first")]
    parents = [span.parent for span in recorder.of("process second")]
    assert len(senders) == len(parents)
    assert all(sender in parents for sender in senders)


@pytest.mark.anyio
async def test_unsampled_spans_of_the_application_stay_so():
    """Inside an application's span that was not sampled, nothing is: neither the delivery nor what comes of it."""
    recorder = Recorder(ParentBased(ALWAYS_ON))
    unsampled = trace.NonRecordingSpan(trace.SpanContext(5, 6, False, trace.TraceFlags(0)))
    mesh = Mesh(tracer_provider=recorder.provider)
    seen: list[int] = []

    @mesh.actor
    async def second(number: int) -> None:
        seen.append(trace.get_current_span().get_span_context().trace_id)

    @mesh.actor
    async def first(number: int, ctx: Context) -> None:
        ctx.tell(second, number)
        await second.ask(number)

    async with mesh:
        with trace.use_span(unsampled):
            await first.tell(1)
        await mesh.idle()
    assert seen == [5, 5]
    assert recorder.spans == ()


@pytest.mark.anyio
@pytest.mark.parametrize("way", ["deferred", "self", "self deferred"])
async def test_a_new_root_is_decided_on_anew(way: str):
    """What an unsampled turn defers or sends to itself begins a new trace, so the sampler decides on it again."""
    recorder = Recorder(ParentBased(TraceIdRatioBased(0.5)))
    mesh = Mesh(tracer_provider=recorder.provider)

    @mesh.actor
    async def take(number: int, ctx: Context) -> None:
        if number:
            if way == "self":
                await take.tell(number - 1)
            else:
                ctx.tell(take, number - 1, delay=1)

    async with mesh:
        await take.tell(200)
        await advance(300)
        await mesh.idle()
    assert 40 < len(recorder.spans) < 160
    linked = [span for span in recorder.spans if span.links]
    assert 10 < len(linked) < len(recorder.spans)  # those whose predecessor was sampled as well
    known = {(context_of(span).trace_id, context_of(span).span_id) for span in recorder.spans}
    assert all(links_of(span)[0][:2] in known for span in linked)


@pytest.mark.anyio
async def test_an_unknown_sampler_is_asked():
    """It is asked once per delivery, with name, kind, attributes and parent; its attributes and trace state are taken."""
    sampler = Odd()
    recorder = Recorder(sampler)
    mesh = Mesh(tracer_provider=recorder.provider)
    seen: list[trace.SpanContext] = []

    @mesh.actor
    async def odd(number: int) -> None:
        seen.append(trace.get_current_span().get_span_context())

    @mesh.actor
    async def even(number: int) -> None:
        seen.append(trace.get_current_span().get_span_context())
        await odd.tell(number)

    async with mesh:
        receipt = await even.tell(1)
    assert [asked[0] for asked in sampler.asked] == ["process even", "process odd"]
    assert {asked[1] for asked in sampler.asked} == {SpanKind.CONSUMER}
    assert sampler.asked[0][2]["messaging.message.id"] == receipt.message_id
    assert [asked[4] for asked in sampler.asked] == [False, True]
    (span,) = recorder.spans
    assert span.name == "process odd"
    assert (span.attributes or {})["why"] == "odd"
    assert context_of(span).trace_state.to_header() == "odd=yes"
    assert span.parent == seen[0]
    assert seen[0].trace_id == seen[1].trace_id
    assert (seen[0].trace_flags.sampled, seen[1].trace_flags.sampled) == (False, True)


@pytest.mark.anyio
async def test_a_sampler_that_fails_stops_nothing(caplog: pytest.LogCaptureFixture):
    """A sampler that raises is logged; the message is handled, untraced."""

    class Broken(Odd):
        def should_sample(self, *args: object, **options: object) -> SamplingResult:
            raise RuntimeError("no idea")

    recorder = Recorder(Broken())
    mesh = Mesh(tracer_provider=recorder.provider)

    @mesh.actor
    async def take(number: int) -> int:
        return number

    async with mesh:
        assert await take.ask(1) == 1
    assert recorder.spans == ()
    assert "no idea" in caplog.text
