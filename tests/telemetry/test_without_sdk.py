"""Who sets up no SDK gets no spans and pays nothing: no message carries anything, no current span is made."""

import os
import subprocess
import sys

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

import flowmesh.telemetry
from flowmesh import Context, Mesh
from flowmesh._runtime.ground import Ground
from flowmesh.message import PLAIN
from tests.telemetry.recording import Recorder


def ground_of(mesh: Mesh) -> Ground:
    """Return what the mesh stands on."""
    return mesh._engine.ground


async def drive(mesh: Mesh) -> list[object]:
    """Send in each way, inside a span that somebody else made, and return what the messages carried."""
    carried: list[object] = []

    @mesh.actor
    async def second(number: int, ctx: Context) -> None:
        carried.append(ctx.message.properties.trace)
        assert trace.get_current_span().get_span_context() == outer.get_span_context()

    @mesh.actor
    async def first(number: int, ctx: Context) -> None:
        carried.append(ctx.message.properties.trace)
        if number == 0:
            assert ctx.message.properties is PLAIN
        await second.tell(number)
        await second.ask(number)
        ctx.tell(second, number)

    outer = trace.NonRecordingSpan(trace.SpanContext(1, 2, False, trace.TraceFlags(1)))
    with trace.use_span(outer):
        async with mesh:
            await first.tell(0)
            await first.tell(1, headers={"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"})
            await mesh.idle()
    return carried


@pytest.mark.anyio
@pytest.mark.parametrize("provider", [None, trace.NoOpTracerProvider(), trace.ProxyTracerProvider()])
async def test_nothing_is_carried(provider: trace.TracerProvider | None):
    """Without a provider, or with one that does nothing, messages carry no trace, not even one from their headers."""
    mesh = Mesh(tracer_provider=provider)
    assert await drive(mesh) == [None] * 8
    assert ground_of(mesh).tracing is None
    assert ground_of(mesh).sender is None
    assert mesh.statistics().tracing is None


@pytest.mark.anyio
async def test_a_disabled_sdk_is_none(monkeypatch: pytest.MonkeyPatch):
    """OTEL_SDK_DISABLED makes the SDK's provider one that does nothing."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert await drive(Mesh(tracer_provider=TracerProvider(shutdown_on_exit=False))) == [None] * 8


@pytest.mark.anyio
async def test_a_provider_that_is_not_the_sdks_is_named(caplog: pytest.LogCaptureFixture):
    """Spans are built through the SDK: a provider of another make gets none, and the log says so."""

    class Mine(trace.TracerProvider):
        def get_tracer(self, *args: object, **options: object) -> trace.Tracer:
            raise AssertionError("never asked")

    assert await drive(Mesh(tracer_provider=Mine())) == [None] * 8
    assert "is not a TracerProvider of OpenTelemetry's SDK" in caplog.text


def test_what_is_no_provider_is_refused():
    """tracer_provider= names what it wants."""
    with pytest.raises(TypeError, match="tracer_provider must be a TracerProvider"):
        Mesh(tracer_provider=object())  # pyright: ignore[reportArgumentType]


@pytest.mark.anyio
async def test_the_global_provider_is_taken_when_the_mesh_starts(recorder: Recorder, monkeypatch: pytest.MonkeyPatch):
    """A provider that is set up after the mesh was made, and before it starts, is the one that counts."""
    mesh = Mesh()

    @mesh.actor
    async def take(number: int) -> None: ...

    async with mesh:
        await take.tell(1)
    monkeypatch.setattr(flowmesh.telemetry.trace, "get_tracer_provider", lambda: recorder.provider)
    async with mesh:
        await take.tell(2)
    assert len(recorder.of("process take")) == 1


def test_the_sdk_is_not_imported():
    """Importing flowmesh, and running a mesh, imports none of the SDK."""
    code = (
        "import sys, anyio, flowmesh\n"
        "async def main():\n"
        "    async with flowmesh.Mesh(): pass\n"
        "anyio.run(main)\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry.sdk')])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ))
    assert run.stdout.strip() == "[]"


@pytest.mark.anyio
async def test_the_provider_can_be_configured(recorder: Recorder):
    """mesh.configure takes the provider until the mesh starts, as for every option."""
    mesh = Mesh()
    mesh.configure(tracer_provider=recorder.provider)

    @mesh.actor
    async def take(number: int) -> None: ...

    async with mesh:
        await take.tell(1)
    mesh.configure(tracer_provider=None)
    async with mesh:
        await take.tell(2)
    assert len(recorder.of("process take")) == 1
    with pytest.raises(TypeError, match="tracer_provider must be a TracerProvider"):
        mesh.configure(tracer_provider=3)  # pyright: ignore[reportArgumentType]
