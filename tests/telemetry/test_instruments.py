"""Metrics: what a collector gets is what `mesh.statistics()` says, and costs no message anything."""

import gc
import weakref

import anyio
import anyio.to_thread
import pytest
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from flowmesh import Breaker, MailboxOptions, Mesh, Rate, Reject, Restart, on
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


def of(**attributes: str) -> tuple[tuple[str, object], ...]:
    """Return the attributes of a point of Flowmesh's own."""
    return tuple(sorted((f"flowmesh.{key}", text) for key, text in attributes.items()))


async def test_what_holds_messages_back_is_collected():
    """Gates of one kind are told apart by number, in their order; of a breaker the condition is a number."""
    collector = Collector()
    mesh = Mesh("numbers", meter_provider=collector.provider)
    rates = [Rate(1, per=60.0), Rate(1, per=3600.0)]

    @mesh.actor(gates=[Breaker(failures=1, pause=30.0)])
    async def pay(amount: int) -> None:
        raise Reject("no") if amount else ConnectionError

    @mesh.actor(gates=rates)
    async def send(number: int) -> None:
        del number

    async with mesh:
        assert collector.collect()["flowmesh.gate.open"] == {of(actor="pay", gate="Breaker"): 0}
        for number in range(3):
            await send.tell(number)
            await pay.tell(number)
        await advance(1)
        found = collector.collect()
        assert found["flowmesh.gate.open"] == {of(actor="pay", gate="Breaker"): 1}
        assert found["flowmesh.gate.held"] == {
            of(actor="pay", gate="Breaker"): 2,
            of(actor="send", gate="Rate"): 2,
            of(actor="send", gate="Rate 2"): 0,
        }
        await advance(60)  # the first gate lets them go, and what the second holds has not started; the breaker has probed
        found = collector.collect()
        assert found["flowmesh.gate.open"] == {of(actor="pay", gate="Breaker"): 0}
        assert found["flowmesh.gate.held"][of(actor="send", gate="Rate 2")] == 2
    collector.provider.shutdown()


async def test_consumers_slots_restarts_and_fires_are_collected():
    """Who is on standby, how wide an actor is, how often an instance was made anew, and what schedules did."""
    collector = Collector()
    mesh = Mesh("numbers", meter_provider=collector.provider)
    shared = mesh.mailbox("shared", MailboxOptions(single_active=True))

    @mesh.actor(mailbox=shared, concurrency=3)
    async def first(number: int) -> None:
        del number

    @mesh.actor(mailbox=shared)
    async def second(number: int) -> None:
        del number

    class Frail:
        @on
        async def fall(self, number: int) -> None:
            raise RuntimeError(number)

    frail = mesh.actor(Frail, name="frail", restart=Restart(5, initial=0.0))

    @mesh.every(10)
    async def slow() -> None:
        await anyio.sleep(15)

    async with mesh:
        await frail.tell(1)
        await advance(31)
        found = collector.collect()
        assert found["flowmesh.mailbox.consumers"][box("shared", state="active")] == 1
        assert found["flowmesh.mailbox.consumers"][box("shared", state="standby")] == 1
        assert found["flowmesh.actor.slots"][of(actor="first")] == 3
        assert found["flowmesh.actor.restarts"] == {
            of(actor=name): number for name, number in (("first", 0), ("second", 0), ("frail", 1), ("slow", 0))
        }
        assert found["flowmesh.schedule.fires"] == {
            of(schedule="slow", outcome=outcome): number for outcome, number in (("fired", 2), ("skipped", 1), ("missed", 0))
        }
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
