"""`concurrency=Autoscale(...)`: slots that follow the load."""

import logging

import anyio
import pytest

from flowmesh import Autoscale, Limit, Mesh, Rate, on
from flowmesh.testing import settled
from tests.runtime.counting import counts

pytestmark = pytest.mark.anyio


async def test_grows_and_shrinks_under_a_stepped_load(caplog: pytest.LogCaptureFixture):
    """Slots grow while messages wait longer than the target, fit the load while it lasts, and shrink when it is over."""
    mesh = Mesh()
    waits: list[float] = []

    @mesh.actor(concurrency=Autoscale(1, 32, target=0.5))
    async def take(sent: float) -> None:
        waits.append(anyio.current_time() - sent)
        await anyio.sleep(1)

    def slots() -> int:
        return mesh.statistics().actors["take"].slots

    async def load(per_second: int, seconds: int) -> None:
        for _ in range(per_second * seconds):
            await take.tell(anyio.current_time())
            await anyio.sleep(1 / per_second)

    with caplog.at_level(logging.INFO, "flowmesh"):
        async with mesh:
            assert slots() == 1
            await load(1, 10)
            assert slots() == 1  # a second of work a second: one slot is enough
            await load(10, 20)
            assert 10 <= slots() <= 16  # ten seconds of work a second need ten slots
            assert max(waits[-50:]) <= 0.5
            await load(2, 30)
            assert slots() <= 4
            await mesh.idle()
            await anyio.sleep(20)
            assert slots() == 1
            scaled = mesh.statistics().actors["take"].scaled
    changes = [record.getMessage() for record in caplog.records if "slots instead of" in record.getMessage()]
    assert len(changes) == scaled
    assert changes[0].startswith("actor 'take': 2 slots instead of 1 (a message has waited 0.")
    assert changes[-1] == "actor 'take': 1 slots instead of 2 (nothing to do)"
    assert counts(take.mailbox) == {"entered": 270, "acked": 270}


async def test_bounds():
    """There are never more handlers than `max`, never fewer slots than `min`."""
    mesh = Mesh()
    running = highest = 0

    @mesh.actor(concurrency=Autoscale(2, 5, target=0.1))
    async def take(number: int) -> None:
        nonlocal running, highest
        running += 1
        highest = max(highest, running)
        await anyio.sleep(1)
        running -= 1

    async with mesh:
        for number in range(50):
            await take.tell(number)
        await settled()
        assert running == 2
        await mesh.idle()
        assert mesh.statistics().actors["take"].slots == 5
        await anyio.sleep(10)
        assert mesh.statistics().actors["take"].slots == 2
    assert highest == 5


async def test_asleep_it_has_no_timer():
    """An actor at rest, or paused, is not looked at: nothing is left among the timers. Work wakes it again."""
    mesh = Mesh()

    @mesh.actor(concurrency=Autoscale(1, 8, target=0.5))
    async def take(number: int) -> None:
        await anyio.sleep(1)

    timers = take.engine.ground.ledger.timers
    async with mesh:
        for _ in range(2):
            for number in range(20):
                await take.tell(number)
            await mesh.idle()
            await anyio.sleep(20)
            assert len(timers) == 0
        take.pause()
        for number in range(20):
            await take.tell(number)
        await anyio.sleep(20)
        assert len(timers) == 0
        assert mesh.statistics().actors["take"].slots == 1
        take.resume()
        await mesh.idle()
        assert mesh.statistics().actors["take"].slots > 1


async def test_what_a_gate_or_a_lane_holds_is_no_backlog():
    """More slots would not help those that wait for a gate or for their lane: they raise nothing."""
    mesh = Mesh()

    @mesh.actor(concurrency=Autoscale(1, 8, target=0.1), gates=[Rate(1, per=1.0)])
    async def slow(number: int) -> None: ...

    @mesh.actor(concurrency=Autoscale(2, 8, target=0.1), by=lambda number: 0)
    async def lane(number: int) -> None:
        await anyio.sleep(1)

    async with mesh:
        for number in range(5):
            await slow.tell(number)
            await lane.tell(number)
        await mesh.idle()
        assert [mesh.statistics().actors[name].scaled for name in ("slow", "lane")] == [0, 0]


async def test_with_a_gate_that_keeps_the_slots():
    """Where a gate looks at messages while all slots are busy, the slots follow the load all the same."""
    mesh = Mesh()
    running = highest = 0

    @mesh.actor(concurrency=Autoscale(1, 4, target=0.5), gates=[Limit(1, by=lambda number: number, surplus="drop_new")])
    async def take(number: int) -> None:
        nonlocal running, highest
        running += 1
        highest = max(highest, running)
        await anyio.sleep(1)
        running -= 1

    async with mesh:
        for number in range(40):
            await take.tell(number)
        await settled()
        assert running == 1
        await mesh.idle()
    assert highest == 4
    assert counts(take.mailbox) == {"entered": 40, "acked": 40}


async def test_plain_functions_get_threads():
    """A plain `def` runs in as many threads as there are slots, however many those have become."""
    mesh = Mesh()

    @mesh.actor(concurrency=Autoscale(1, 4, target=0.5))
    def take(number: int) -> None: ...

    async with mesh:
        take.cell.set_width(3)
        assert take.cell.limiter is not None
        assert take.cell.limiter.total_tokens == 3


async def test_each_run_begins_at_the_fewest():
    """What an earlier run had come to is forgotten."""
    mesh = Mesh()

    @mesh.actor(concurrency=Autoscale(1, 8, target=0.1))
    async def take(number: int) -> None:
        await anyio.sleep(1)

    async with mesh:
        for number in range(30):
            await take.tell(number)
        await mesh.idle()
        assert mesh.statistics().actors["take"].slots > 1
    async with mesh:
        statistics = mesh.statistics().actors["take"]
        assert (statistics.slots, statistics.scaled) == (1, 0)


async def test_not_for_classes():
    """A class actor handles one message at a time: it takes no Autoscale."""

    class Desk:
        @on
        async def number(self, number: int) -> None: ...

    with pytest.raises(ValueError, match="handles one message at a time"):
        Mesh().actor(Desk, concurrency=Autoscale(1, 2))
