"""The pool of workers: as many handlers at once as slots, as many workers as handlers that wait, and turns for everybody."""

import itertools

import anyio
import anyio.lowlevel
import pytest
from msgspec import Struct

from flowmesh import Mesh
from flowmesh._runtime.ground import TURN_MESSAGES
from flowmesh._runtime.scheduler import MAX_PARKED
from flowmesh.testing import VirtualClock, settled
from tests.runtime.counting import counts

pytestmark = pytest.mark.anyio


@pytest.fixture
def turns_between(anyio_backend_name: str) -> int:
    """Between two runs of one task any other runs at most so often: trio shuffles each round of tasks, asyncio does not."""
    return 2 if anyio_backend_name == "trio" else 1


class Order(Struct, frozen=True):
    id: int


class Level:
    """How many are inside, and the most there have been."""

    def __init__(self) -> None:
        self.now = self.highest = 0

    def __enter__(self) -> None:
        self.now += 1
        self.highest = max(self.highest, self.now)

    def __exit__(self, *exc: object) -> None:
        self.now -= 1


@pytest.mark.parametrize("slots", [1, 2, 7, 64])
async def test_concurrency_is_exact(slots: int):
    """With enough messages, exactly `concurrency` handlers run at once: never more, and no slot stays empty."""
    mesh = Mesh()
    level = Level()

    @mesh.actor(concurrency=slots)
    async def take(order: Order) -> None:
        with level:
            await anyio.sleep(1)

    async with mesh:
        began = anyio.current_time()
        for number in range(3 * slots):
            await take.tell(Order(number))
        await settled()
        assert mesh.statistics().actors["take"].running == slots
        assert counts(take.mailbox) == {"entered": 3 * slots, "leased": slots, "ready": 2 * slots}
        await mesh.idle()
        assert anyio.current_time() - began == pytest.approx(3)
    assert level.highest == slots
    assert counts(take.mailbox) == {"entered": 3 * slots, "acked": 3 * slots}


async def test_slots_fill_up_as_messages_come():
    """A message that comes while another is handled takes a free slot at once; one slot keeps strict order."""
    mesh = Mesh()
    started: list[float] = []

    @mesh.actor(concurrency=3)
    async def take(order: Order) -> None:
        started.append(anyio.current_time() - began)
        await anyio.sleep(10)

    async with mesh:
        began = anyio.current_time()
        for number in range(4):
            await take.tell(Order(number))
            await anyio.sleep(1)
        await mesh.idle()
    assert started == pytest.approx([0, 1, 2, 10], abs=0.01)


async def test_order_with_one_slot():
    """One slot handles in the order of entering, however its handler waits."""
    mesh = Mesh()
    seen: list[int] = []

    @mesh.actor
    async def take(order: Order) -> None:
        for _ in range(order.id % 4):
            await anyio.lowlevel.checkpoint()
        seen.append(order.id)

    async with mesh:
        for number in range(500):
            await take.tell(Order(number))
        await mesh.idle()
    assert seen == list(range(500))


async def test_pool_stays_small_for_handlers_that_do_not_suspend():
    """Handlers that never wait need no more than a worker and its standby, however many actors and messages."""
    mesh = Mesh()
    handled = itertools.count()

    async def handle(order: Order) -> None:
        next(handled)

    actors = [mesh.actor(handle, name=f"actor-{number}", concurrency=4) for number in range(100)]
    async with mesh:
        for number in range(30):
            for actor in actors:
                await actor.tell(Order(number))
        await mesh.idle()
        assert mesh.statistics().workers <= 2
    assert next(handled) == 3000


async def test_pool_grows_with_handlers_that_wait():
    """Each handler that waits has a worker; nobody waits for another actor's handler."""
    mesh = Mesh()
    level = Level()

    async def handle(order: Order) -> None:
        with level:
            await anyio.sleep(10)

    actors = [mesh.actor(handle, name=f"actor-{number}") for number in range(100)]
    async with mesh:
        began = anyio.current_time()
        for actor in actors:
            await actor.tell(Order(1))
        await settled()
        assert level.now == 100
        assert 100 <= mesh.statistics().workers <= 101
        await mesh.idle()
        assert anyio.current_time() - began == pytest.approx(10)


async def test_idle_workers_are_bounded():
    """After a burst no more than a bounded number of workers is kept, and they serve the next one."""
    mesh = Mesh()

    @mesh.actor(concurrency=500)
    async def take(order: Order) -> None:
        await anyio.sleep(1)

    async with mesh:
        for burst in range(1, 4):
            for number in range(300):
                await take.tell(Order(number))
            await settled()
            assert counts(take.mailbox) == {"entered": 300 * burst, "leased": 300} | (
                {"acked": 300 * (burst - 1)} if burst > 1 else {}
            )
            assert mesh.statistics().workers >= 300
            await mesh.idle()
            await settled()
            statistics = mesh.statistics()
            assert statistics.workers == statistics.workers_parked == MAX_PARKED
    assert mesh.statistics().workers == 0


async def test_competing_actors():
    """Actors on one mailbox share its messages, each with its own slots; each message goes to one of them."""
    mesh = Mesh()
    box = mesh.mailbox("box")
    levels = {"one": Level(), "two": Level(), "three": Level()}
    seen: dict[str, list[int]] = {name: [] for name in levels}
    slots = {"one": 1, "two": 2, "three": 3}

    def declare(name: str) -> None:
        @mesh.actor(name=name, mailbox=box, concurrency=slots[name])
        async def take(order: Order) -> None:
            with levels[name]:
                await anyio.sleep(1)
            seen[name].append(order.id)

    for name in levels:
        declare(name)
    async with mesh:
        began = anyio.current_time()
        for number in range(60):
            await mesh.exchange("").publish(Order(number), "box")
        await mesh.idle()
        assert anyio.current_time() - began == pytest.approx(10)
    assert {name: level.highest for name, level in levels.items()} == slots
    assert sorted(number for numbers in seen.values() for number in numbers) == list(range(60))
    assert all(seen.values())
    assert counts(box) == {"entered": 60, "acked": 60}


async def test_competing_actors_one_paused():
    """What a paused actor does not take, the others do."""
    mesh = Mesh()
    box = mesh.mailbox("box")
    seen: list[str] = []

    async def one(order: Order) -> None:
        seen.append("one")

    async def two(order: Order) -> None:
        seen.append("two")

    first, second = mesh.actor(one, mailbox=box), mesh.actor(two, mailbox=box)
    async with mesh:
        for actor, name in ((first, "two"), (second, "one")):
            seen.clear()
            actor.pause()
            for number in range(10):
                await mesh.exchange("").publish(Order(number), "box")
            await mesh.idle()
            assert seen == [name] * 10
            actor.resume()
    assert counts(box) == {"entered": 20, "acked": 20}


async def test_a_turn_of_messages(turns_between: int):
    """A worker handles no more than 64 messages of handlers that do not wait before the loop's other tasks get their turn."""
    mesh = Mesh()
    handled = 0
    others: list[int] = []

    @mesh.actor
    async def take(order: Order) -> None:
        nonlocal handled
        handled += 1

    async def other() -> None:
        while handled < 1000:
            await anyio.lowlevel.checkpoint()
            others.append(handled)

    async with mesh:
        take.pause()
        for number in range(1000):
            take.tell_nowait(Order(number))
        async with anyio.create_task_group() as group:
            group.start_soon(other)
            await anyio.lowlevel.checkpoint()
            take.resume()
            await mesh.idle()
    steps = [after - before for before, after in itertools.pairwise(others)]
    assert TURN_MESSAGES <= max(steps) <= TURN_MESSAGES * turns_between


class SteppingClock(VirtualClock):
    """A clock on which each message takes half a millisecond: its handler moves it."""

    spent = 0.0

    def start(self) -> None:
        super().start()
        now = self.now
        self.now = lambda: now() + self.spent


async def test_a_turn_of_time(turns_between: int):
    """A worker yields after 2 ms, if its handlers take long."""
    clock = SteppingClock()
    mesh = Mesh(clock=clock)
    handled = 0
    others: list[int] = []

    @mesh.actor
    async def take(order: Order) -> None:
        nonlocal handled
        handled += 1
        clock.spent += 0.0005

    async def other() -> None:
        while handled < 100:
            await anyio.lowlevel.checkpoint()
            others.append(handled)

    async with mesh:
        take.pause()
        for number in range(100):
            take.tell_nowait(Order(number))
        async with anyio.create_task_group() as group:
            group.start_soon(other)
            await anyio.lowlevel.checkpoint()
            take.resume()
            await mesh.idle()
    steps = [after - before for before, after in itertools.pairwise(others)]
    assert 4 <= max(steps) <= 5 * turns_between


async def test_senders_yield(turns_between: int):
    """A sender that never waits lets others run every 64 sends at the latest."""
    mesh = Mesh()
    sent = 0
    others: list[int] = []

    @mesh.actor
    async def take(order: Order) -> None: ...

    async def other() -> None:
        while sent < 1000:
            await anyio.lowlevel.checkpoint()
            others.append(sent)

    async with mesh, anyio.create_task_group() as group:
        take.pause()
        group.start_soon(other)
        await anyio.lowlevel.checkpoint()
        for number in range(1000):
            await take.tell(Order(number))
            sent += 1
    steps = [after - before for before, after in itertools.pairwise(others)]
    assert 1 <= max(steps) <= TURN_MESSAGES * turns_between


async def test_ready_actors_take_turns():
    """An actor with many messages does not keep the others waiting: each gets its turn."""
    mesh = Mesh()
    seen: list[str] = []

    async def busy(order: Order) -> None:
        seen.append("busy")

    async def calm(order: Order) -> None:
        seen.append("calm")

    loud, quiet = mesh.actor(busy), mesh.actor(calm)
    async with mesh:
        loud.pause()
        quiet.pause()
        for number in range(1000):
            loud.tell_nowait(Order(number))
        quiet.tell_nowait(Order(0))
        loud.resume()
        quiet.resume()
        await mesh.idle()
    assert seen.index("calm") <= TURN_MESSAGES
    assert len(seen) == 1001


async def test_ping_pong():
    """Two actors that tell each other finish, without growing the pool."""
    mesh = Mesh()
    hops = 0

    @mesh.actor
    async def ping(order: Order) -> None:
        nonlocal hops
        hops += 1
        if order.id:
            await pong.tell(Order(order.id - 1))

    @mesh.actor
    async def pong(order: Order) -> None:
        nonlocal hops
        hops += 1
        if order.id:
            await ping.tell(Order(order.id - 1))

    async with mesh:
        await ping.tell(Order(999))
        await mesh.idle()
        assert mesh.statistics().workers <= 2
    assert hops == 1000


async def test_nothing_is_lost_in_a_crowd():
    """Many actors, many senders, handlers that wait in different ways: every message is handled exactly once."""
    mesh = Mesh()
    seen: list[tuple[int, int]] = []

    def declare(number: int):
        @mesh.actor(name=f"actor-{number}", concurrency=1 + number % 3)
        async def take(order: Order) -> None:
            if order.id % 3 == 0:
                await anyio.sleep(0.001 * (order.id % 7))
            elif order.id % 3 == 1:
                await anyio.lowlevel.checkpoint()
            seen.append((number, order.id))

        return take

    actors = [declare(number) for number in range(20)]

    async def send(start: int) -> None:
        for number in range(start, start + 100):
            for actor in actors:
                await actor.tell(Order(number))
            if number % 5 == 0:
                await anyio.sleep(0.002)

    async with mesh:
        async with anyio.create_task_group() as group:
            for start in range(0, 500, 100):
                group.start_soon(send, start)
        await mesh.idle()
        assert all(counts(actor.mailbox) == {"entered": 500, "acked": 500} for actor in actors)
    assert sorted(seen) == [(actor, number) for actor in range(20) for number in range(500)]
