"""Metrics: what a collector gets is what `mesh.statistics()` says, and costs no message anything."""

import gc
import weakref

import anyio
import anyio.to_thread
import pytest
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from flowmesh import Mesh, Reject
from flowmesh.telemetry.instruments import TRIES, Metrics, Numbers
from flowmesh.testing import advance

pytestmark = pytest.mark.anyio

Points = dict[str, dict[tuple[tuple[str, object], ...], float]]


class Collector:
    """A provider, and what it collects."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader], shutdown_on_exit=False)

    def collect(self) -> Points:
        """Return instrument -> (attributes but the mesh's) -> value."""
        found: Points = {}
        data = self.reader.get_metrics_data()
        for resource in data.resource_metrics if data is not None else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    points = found.setdefault(metric.name, {})
                    for point in metric.data.data_points:
                        attributes = dict(point.attributes or {})
                        assert attributes.pop("flowmesh.mesh") == "numbers"
                        points[tuple(sorted(attributes.items()))] = getattr(point, "value")  # noqa: B009 - not of histograms
        return found


def box(name: str, **more: str) -> tuple[tuple[str, object], ...]:
    """Return the attributes of a mailbox's point."""
    return tuple(
        sorted({"messaging.destination.name": name, **{f"flowmesh.{key}": text for key, text in more.items()}}.items())
    )


async def test_a_collector_gets_the_statistics():
    """Each instrument gives the numbers of the moment, by mailbox, actor and exchange."""
    collector = Collector()
    mesh = Mesh("numbers", meter_provider=collector.provider)
    news = mesh.exchange("news")
    mesh.mailbox("pile")

    @mesh.actor
    async def take(number: int) -> None:
        if number == 3:
            raise Reject("no")
        if number == 4:
            await anyio.sleep(60)

    async with mesh:
        for number in range(5):
            await take.tell(number)
        await take.tell(1, delay=100)
        await mesh.exchange("").publish("paper", "pile")
        await news.publish("nothing is bound")
        await advance(5)
        found = await anyio.to_thread.run_sync(collector.collect)  # as exporters do
        assert found["flowmesh.mailbox.messages"][box("take", state="leased")] == 1
        assert found["flowmesh.mailbox.messages"][box("pile", state="ready")] == 1
        assert found["flowmesh.mailbox.entered"][box("take")] == 5
        assert found["flowmesh.mailbox.ended"][box("take", outcome="acked")] == 3
        assert found["flowmesh.mailbox.ended"][box("take", outcome="dead")] == 1
        assert found["flowmesh.mailbox.oldest_age"][box("pile")] == pytest.approx(5, abs=0.1)
        assert found["flowmesh.mailbox.oldest_age"][box("take")] == 0
        assert found["flowmesh.actor.running"] == {(("flowmesh.actor", "take"),): 1}
        assert found["flowmesh.actor.failures"] == {(("flowmesh.actor", "take"),): 1}
        assert found["flowmesh.actor.retries"] == {(("flowmesh.actor", "take"),): 0}
        assert found["flowmesh.exchange.unroutable"][("flowmesh.exchange", "news"),] == 1
        assert found["flowmesh.deferred"] == {(): 1}
        await advance(60)
        assert collector.collect()["flowmesh.mailbox.ended"][box("take", outcome="acked")] == 4
    collector.provider.shutdown()


async def test_one_collection_is_of_one_moment():
    """All instruments of a collection read the same numbers, which are asked for once."""
    collector = Collector()
    mesh = Mesh("numbers")
    asked = 0

    class Counting:
        def read(self) -> Numbers:
            nonlocal asked
            asked += 1
            return mesh.statistics()

    counting = Counting()
    Metrics(collector.provider.get_meter("test"), "numbers", counting.read)
    for expected in (1, 2, 3):
        collector.collect()
        assert asked == expected
    collector.provider.shutdown()


async def test_a_change_meanwhile():
    """A reading that meets a change is taken again; one that always does is left out."""
    collector = Collector()
    mesh = Mesh("numbers")
    failures = 0

    class Restless:
        def read(self) -> Numbers:
            nonlocal failures
            if failures:
                failures -= 1
                raise RuntimeError("dictionary changed size during iteration")
            return mesh.statistics()

    restless = Restless()
    Metrics(collector.provider.get_meter("test"), "numbers", restless.read)
    failures = TRIES - 1
    assert "flowmesh.deferred" in collector.collect()
    failures = 10**6
    assert not collector.collect().get("flowmesh.deferred")
    collector.provider.shutdown()


async def test_meshes_share_a_provider_and_are_not_kept_alive(caplog: pytest.LogCaptureFixture):
    """Several meshes, each entered twice, collect into one provider without a warning; one that is gone is not collected."""
    collector = Collector()
    mesh, other = Mesh("numbers", meter_provider=collector.provider), Mesh("other", meter_provider=collector.provider)
    for _ in range(2):
        async with mesh, other:
            pass
    assert not caplog.records
    engine = weakref.ref(other._engine)
    del other
    gc.collect()
    assert engine() is None
    assert collector.collect()["flowmesh.deferred"] == {(): 0}
    collector.provider.shutdown()


async def test_without_an_sdk_there_are_none():
    """The API's own providers collect nothing, so no instruments are made."""
    for provider in (None, metrics.NoOpMeterProvider()):
        mesh = Mesh(meter_provider=provider)
        async with mesh:
            pass
        assert mesh._metrics is None


async def test_what_is_no_provider_is_refused():
    """meter_provider= names what it wants."""
    with pytest.raises(TypeError, match="meter_provider must be a MeterProvider"):
        Mesh(meter_provider=object())  # pyright: ignore[reportArgumentType]
