"""`consume(priority=)`: consumers of higher priority are served first, as long as they have places."""

import contextlib

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmesh import Mailbox, Mesh
from flowmesh._runtime.consuming import Deliveries
from flowmesh._runtime.delivery import Delivery
from flowmesh.errors import PreconditionFailed
from flowmesh.testing import BACKENDS, Swept, advance, cancel_sweep, run, settled
from flowmesh.testing.virtual import Backend
from tests.runtime.counting import counts

pytestmark = pytest.mark.anyio


class Taking:
    """Consumers of one mailbox, `work`, that note what they get, in order; each holds it until it is told to ack."""

    def __init__(self) -> None:
        self.mesh = Mesh("shop", grace=1.0)
        self.box: Mailbox = self.mesh.mailbox("work")
        self.seen: list[tuple[str, object]] = []
        self.in_hand: list[Delivery] = []

    async def put(self, *bodies: object) -> None:
        await self.mesh.exchange("").publish_many([(body, "work") for body in bodies])

    async def collect(self, deliveries: Deliveries, name: str) -> None:
        async for delivery in deliveries:
            self.seen.append((name, delivery.message.body))
            self.in_hand.append(delivery)

    async def next_of(self, deliveries: Deliveries) -> object:
        self.in_hand.append(await anext(deliveries))
        return self.in_hand[-1].message.body

    async def ack_all(self) -> None:
        while self.in_hand:
            await self.in_hand.pop(0).ack()


async def test_the_higher_is_served_until_its_places_are_taken():
    """Two places of the higher one first, then the lower one; when a place is free again it is the higher one's turn."""
    t = Taking()
    async with (
        t.mesh,
        t.box.consume(2, priority=-1) as low,
        t.box.consume(2, priority=5) as high,
        anyio.create_task_group() as group,
    ):
        group.start_soon(t.collect, low, "low")
        group.start_soon(t.collect, high, "high")
        await settled()
        await t.put(1, 2, 3)
        await settled()
        assert sorted(t.seen) == [("high", 1), ("high", 2), ("low", 3)]
        await t.in_hand.pop(t.seen.index(("high", 1))).ack()
        await t.put(4)
        await settled()
        assert t.seen[-1] == ("high", 4)
        await t.put(5, 6)
        await settled()
        assert t.seen[-1] == ("low", 5)
        assert counts(t.box) == {"entered": 6, "acked": 1, "leased": 4, "ready": 1}
        await t.ack_all()
        group.cancel_scope.cancel()


async def test_a_busy_higher_one_with_places_keeps_them():
    """While it is busy elsewhere its places are filled before a lower one gets anything; it finds them when it asks."""
    t = Taking()
    async with t.mesh, t.box.consume(2, priority=1) as high, t.box.consume() as low, anyio.create_task_group() as group:
        group.start_soon(t.collect, low, "low")
        await settled()
        await t.put(1, 2, 3)
        await settled()
        assert t.seen == [("low", 3)]
        assert counts(t.box) == {"entered": 3, "leased": 3}
        first, second = await anext(high), await anext(high)
        assert (first.message.body, second.message.body, first.redelivered) == (1, 2, False)
        await first.ack()
        await second.ack()
        await t.ack_all()
        group.cancel_scope.cancel()


async def test_what_was_kept_and_not_asked_for_goes_back():
    """A higher one that leaves hands back what it kept, to be handed out in order; nothing is lost or doubled."""
    t = Taking()
    async with t.mesh, t.box.consume() as low, anyio.create_task_group() as group:
        async with t.box.consume(2, priority=1):
            group.start_soon(t.collect, low, "low")
            await t.put(1, 2, 3)
            await settled()
            assert t.seen == [("low", 3)]
        await settled()
        assert t.seen == [("low", 3), ("low", 1), ("low", 2)]
        await t.ack_all()
        assert counts(t.box) == {"entered": 3, "acked": 3}
        group.cancel_scope.cancel()


async def test_equal_ones_take_turns():
    """Consumers of one priority that wait for messages get them in turn, whatever the number."""
    t = Taking()

    async def serve(deliveries: Deliveries, name: str) -> None:
        async for delivery in deliveries:
            t.seen.append((name, delivery.message.body))
            await delivery.ack()

    async with t.mesh, anyio.create_task_group() as group:
        async with t.box.consume(priority=7) as one, t.box.consume(priority=7) as two, t.box.consume() as low:
            for deliveries, name in ((one, "one"), (two, "two"), (low, "low")):
                group.start_soon(serve, deliveries, name)
                await settled()
            for number in range(6):
                await t.put(number)
                await settled()
        assert [name for name, _ in t.seen] == ["one", "two"] * 3


async def test_equal_ones_that_are_busy_are_filled_in_turn():
    """When a lower one asks, the places of busy equal ones are filled one each at a time."""
    t = Taking()
    async with t.mesh, t.box.consume(2, priority=3) as one, t.box.consume(2, priority=3) as two, t.box.consume() as low:
        await t.put(1, 2, 3, 4, 5)
        assert await t.next_of(low) == 5
        assert [await t.next_of(one) for _ in range(2)] == [1, 3]
        assert [await t.next_of(two) for _ in range(2)] == [2, 4]


async def test_three_levels():
    """The highest that has a place is always first; each level passes on only what it cannot take."""
    t = Taking()
    async with t.mesh, t.box.consume(1) as low, t.box.consume(1, priority=1) as middle, t.box.consume(1, priority=2) as high:
        await t.put(1, 2, 3, 4)
        assert [await t.next_of(each) for each in (low, middle, high)] == [3, 2, 1]
        assert counts(t.box) == {"entered": 4, "leased": 3, "ready": 1}


async def test_a_newcomer_of_higher_priority_goes_before_the_line():
    """Whoever waits in line with a lower priority is served after it, however long it has waited."""
    t = Taking()
    async with t.mesh, anyio.create_task_group() as group, t.box.consume() as low, t.box.consume(1, priority=1) as high:
        group.start_soon(t.collect, low, "low")
        await settled()
        group.start_soon(t.collect, high, "high")
        await settled()
        await t.put(1, 2)
        await settled()
        assert sorted(t.seen) == [("high", 1), ("low", 2)]
        group.cancel_scope.cancel()


async def test_get_has_priority_zero():
    """A get comes after consumers above zero that have a place, and before those below."""
    t = Taking()
    async with t.mesh, t.box.consume(1, priority=1) as high, t.box.consume(priority=-1):
        await t.put(1)
        with pytest.raises(anyio.WouldBlock):
            t.box.get_nowait()
        await t.put(2)
        delivery = t.box.get_nowait()
        assert delivery.message.body == 2
        await delivery.ack()
        assert await t.next_of(high) == 1
        await t.put(3)
        await (await t.box.get()).ack()


async def test_get_nowait_leaves_what_a_higher_one_has_been_woken_for():
    """In the tick in which a copy wakes a higher one that waits, a get does not take it away."""
    t = Taking()
    async with t.mesh, anyio.create_task_group() as group, t.box.consume(priority=1) as high:
        group.start_soon(t.collect, high, "high")
        await settled()
        await t.put(1)
        with pytest.raises(anyio.WouldBlock):
            t.box.get_nowait()
        await settled()
        assert t.seen == [("high", 1)]
        group.cancel_scope.cancel()


async def test_a_task_that_waits_for_a_place_finds_what_was_kept():
    """A place that comes free may be filled by a lower one's asking: the task that waited for it is not forgotten."""
    t = Taking()
    async with t.mesh, anyio.create_task_group() as group, t.box.consume(1, priority=1) as high, t.box.consume() as low:
        await t.put(1)
        first = await anext(high)
        group.start_soon(t.collect, high, "high")
        await settled()
        await t.put(2, 3)
        await first.ack()  # wakes the task, which has not run yet when a lower one asks
        assert await t.next_of(low) == 3
        await settled()
        assert t.seen == [("high", 2)]
        group.cancel_scope.cancel()


async def test_an_actor_that_takes_over_gets_what_was_kept():
    """What a consumer kept and has not seen is the actor's that was declared on its mailbox."""
    t = Taking()
    seen: list[int] = []
    async with t.mesh, t.box.consume(2, priority=1) as high, t.box.consume() as low:
        await t.put(1, 2, 3)
        last = await anext(low)

        async def handler(body: int) -> None:
            seen.append(body)

        t.mesh.actor(handler, mailbox=t.box)
        await settled()
        assert seen == [1, 2]
        with pytest.raises(PreconditionFailed, match="now feeds actor 'handler'"):
            await anext(high)
        await last.ack()
        assert counts(t.box) == {"entered": 3, "acked": 3}


async def test_drain_does_not_hand_out_what_was_kept():
    """When the mesh drains, iterations end; what was kept lies ready again."""
    t = Taking()
    ended: list[int] = []

    async def use() -> None:
        async with t.box.consume(2, priority=1) as high:
            async with t.box.consume() as low:
                await t.put(1, 2, 3)
                await (await anext(low)).ack()
                await anyio.sleep(10)
            ended.extend([delivery.message.body async for delivery in high])

    async with anyio.create_task_group() as group, t.mesh:
        group.start_soon(use)
        await advance(9.5)
    assert ended == []
    assert counts(t.box) == {"entered": 3, "acked": 1, "ready": 2}


@pytest.mark.parametrize("priority", [True, 1.0, "1", None])
async def test_a_priority_is_a_whole_number(priority: int):
    """Any whole number will do, also below zero; anything else is refused by name."""
    t = Taking()
    with pytest.raises(ValueError, match="priority must be a whole number, not"):
        t.box.consume(priority=priority)
    t.box.consume(priority=-(10**9))


async def test_cancelled_iterations_lose_nothing():
    """Wherever a consumer is cancelled beside one of another priority, every copy is acked, or ready when both have left."""
    t = Taking()

    async def supply() -> None:
        await anyio.sleep(1)
        await t.put(1, 2, 3)

    async with t.mesh, anyio.create_task_group() as group:

        async def consume() -> None:
            group.start_soon(supply)
            async with t.box.consume(1, priority=1) as high, t.box.consume() as low, anyio.create_task_group() as inner:
                inner.start_soon(t.collect, high, "high")
                await (await anext(low)).ack()
                for _ in range(2):
                    await anyio.sleep(1)
                    await t.ack_all()
                inner.cancel_scope.cancel()

        async def check(swept: Swept[None]) -> None:
            await anyio.sleep(5)
            t.in_hand.clear()
            numbers = counts(t.box)
            assert "leased" not in numbers, swept.place
            assert t.box.purge() == numbers.get("ready", 0)
            bodies = [body for _, body in t.seen]
            assert len(bodies) == len(set(bodies)), swept.place
            t.seen.clear()

        assert await cancel_sweep(consume, check) >= 3


# Against a model


class Model:
    """What consumers get that ask one after another: lists of numbers, and the rule as it is told."""

    def __init__(self, windows: list[tuple[int, int]]) -> None:
        self.windows = windows  # prefetch and priority
        self.ready: list[int] = []
        self.kept: list[list[int]] = [[] for _ in windows]
        self.asked: list[list[int]] = [[] for _ in windows]

    def has_place(self, window: int) -> bool:
        return len(self.kept[window]) + len(self.asked[window]) < self.windows[window][0]

    def ask(self, window: int) -> int | None:
        if self.kept[window]:
            self.asked[window].append(self.kept[window].pop(0))
            return self.asked[window][-1]
        if not self.has_place(window):
            return None
        while self.ready:
            above = [
                other
                for other, (_, priority) in enumerate(self.windows)
                if priority > self.windows[window][1] and self.has_place(other)
            ]
            if not above:
                self.asked[window].append(self.ready.pop(0))
                return self.asked[window][-1]
            highest = max(self.windows[other][1] for other in above)
            for other in [each for each in above if self.windows[each][1] == highest][: len(self.ready)]:
                self.kept[other].append(self.ready.pop(0))
        return None


_windows = st.lists(st.tuples(st.integers(1, 3), st.integers(-1, 2)), min_size=1, max_size=4)
_steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(1, 4)),
        st.tuples(st.just("ask"), st.integers(0, 3)),
        st.tuples(st.just("ask"), st.integers(0, 3)),
        st.tuples(st.just("ack"), st.integers(0, 3)),
    ),
    max_size=40,
)


async def _play(windows: list[tuple[int, int]], steps: list[tuple[str, int]]) -> None:
    t, model, serial = Taking(), Model(windows), 0
    in_hand: list[list[Delivery]] = [[] for _ in windows]
    async with t.mesh, contextlib.AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(t.box.consume(prefetch, priority=priority)) for prefetch, priority in windows]
        for verb, number in steps:
            window = number % len(windows)
            if verb == "put":
                bodies = range(serial, serial + number)
                serial += number
                await t.put(*bodies)
                model.ready += bodies
            elif verb == "ask":
                found = None
                with anyio.move_on_after(0.01):
                    in_hand[window].append(await anext(opened[window]))
                    found = in_hand[window][-1].message.body
                assert found == model.ask(window)
            elif in_hand[window]:
                await in_hand[window].pop(0).ack()
                model.asked[window].pop(0)
            leased = sum(map(len, model.kept + model.asked))
            assert (t.box.statistics().ready, t.box.statistics().leased) == (len(model.ready), leased)
        unsettled = sum(map(len, model.kept + model.asked))
    assert t.box.statistics().ready == len(model.ready) + unsettled


@pytest.mark.parametrize("backend", BACKENDS)
@given(windows=_windows, steps=_steps)
def test_consumers_get_what_the_rule_gives_them(backend: Backend, windows: list[tuple[int, int]], steps: list[tuple[str, int]]):
    """Whoever asks, in whatever order: each copy goes to the highest that has a place, and none is lost or doubled."""
    run(_play, windows, steps, backend=backend)
