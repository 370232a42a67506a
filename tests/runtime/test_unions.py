"""Unions: what many tell at the same moment enters as one, into memory or behind what lies on disk; or none of it does."""

import gc
import weakref
from math import inf

import anyio
import pytest
from msgspec import Struct

from flowmesh import Context, MailboxOptions, MemoryStore, Mesh
from flowmesh._core.records import Batch
from flowmesh._core.shelf import Shelf
from flowmesh.errors import StoreError, StoreFull
from flowmesh.testing import settled
from tests.runtime.stores import Planted, engine_of, full

pytestmark = pytest.mark.anyio

WINDOW = 4


class Parcel(Struct, frozen=True, weakref=True):
    """A body of which it can be seen when it has gone."""

    number: int


def shop(store: Planted) -> Mesh:
    """A mesh whose mailboxes hold few copies in memory."""
    mesh = Mesh("shop", store=store)
    engine_of(mesh).storing.window = WINDOW
    return mesh


def shelf_of(mesh: Mesh) -> Shelf:
    """Return the shelf of the mailbox `work`."""
    shelf = engine_of(mesh).ground.router.mailboxes["work"].shelf
    assert shelf is not None
    return shelf


async def test_senders_that_are_ahead_of_the_window_still_enter_as_one():
    """Each message is handled once, in the order of its sender, and the store is given few batches."""
    store, seen = Planted(), list[tuple[int, int]]()
    mesh = shop(store)

    @mesh.actor(concurrency=3)
    async def work(body: list[int]) -> None:
        seen.append((body[0], body[1]))

    async def send(sender: int) -> None:
        for number in range(5):
            receipt = await work.tell([sender, number])
            assert receipt.durability == "process"

    async with mesh:
        async with anyio.create_task_group() as senders:
            for sender in range(40):
                senders.start_soon(send, sender)
        await mesh.idle()
        numbers = mesh.statistics().mailboxes["work"]
        assert (numbers.entered, numbers.acked, numbers.ready) == (200, 200, 0)
        assert (shelf_of(mesh).tail, shelf_of(mesh).coming, shelf_of(mesh).arriving) == (0, 0, 0)
    assert sorted(seen) == [(sender, number) for sender in range(40) for number in range(5)]
    for sender in range(40):
        assert [number for which, number in seen if which == sender] == list(range(5))
    assert len([batch for batch in store.batches if batch.puts]) <= 30


async def test_what_is_written_is_freed_without_the_garbage_collector():
    """A union hangs on nothing, itself included, once its senders have been told and its acks are written."""
    mesh, bodies = Mesh("shop", store=MemoryStore()), list[weakref.ref[Parcel]]()

    @mesh.actor
    async def work(body: Parcel) -> None:
        bodies.append(weakref.ref(body))

    async with mesh:
        gc.collect()
        gc.disable()
        try:
            for number in range(5):
                await work.tell(Parcel(number))
            await mesh.idle()
            alive = [body() for body in bodies[:-1]]  # The worker may still have the last one at hand.
        finally:
            gc.enable()
    assert alive == [None] * 4


async def test_what_joined_the_tail_is_not_marked():
    """After a crash it comes back in order, and only what was in memory may have been in somebody's hands."""
    store, seen = Planted(), list[tuple[int, bool]]()
    first = shop(store)

    @first.actor(name="work")
    async def never(number: int) -> None:
        raise AssertionError(number)

    async with first:
        never.pause()
        async with anyio.create_task_group() as senders:
            for number in range(20):
                senders.start_soon(never.tell, number)
        assert (shelf_of(first).tail, first.statistics().mailboxes["work"].ready) == (20 - WINDOW, 20)
        image = store.image()
        never.mailbox.purge()
    second = shop(image)

    @second.actor
    async def work(number: int, ctx: Context) -> None:
        seen.append((number, ctx.redelivered))

    async with second:
        await second.idle()
    assert sorted(number for number, _ in seen) == list(range(20))
    assert [redelivered for _, redelivered in seen] == [True] * WINDOW + [False] * (20 - WINDOW)


async def test_what_cannot_join_the_tail_is_refused():
    """Each sender is told so, nothing is counted, and there is room again as soon as the store has some."""
    is_full = False

    def refuses(batch: Batch) -> StoreError | None:
        return full() if is_full and batch.grows else None

    mesh, seen, refused = shop(Planted(refuses=refuses)), list[int](), list[int]()

    @mesh.actor
    async def work(number: int) -> None:
        seen.append(number)

    async def send(number: int) -> None:
        try:
            await work.tell(number)
        except StoreFull:
            refused.append(number)

    async with mesh:
        work.pause()
        for number in range(WINDOW + 2):
            await work.tell(number)
        assert shelf_of(mesh).is_deep
        is_full = True
        async with anyio.create_task_group() as senders:
            for number in range(100, 110):
                senders.start_soon(send, number)
        assert sorted(refused) == list(range(100, 110))
        assert (shelf_of(mesh).tail, shelf_of(mesh).coming) == (2, 0)
        assert mesh.statistics().mailboxes["work"].entered == WINDOW + 2
        is_full = False
        await work.tell(200)
        work.resume()
        await mesh.idle()
    assert seen == [*range(WINDOW + 2), 200]


async def test_a_purge_ends_what_is_joining_the_tail():
    """What was on its way when the tail was purged has gone with it; what is told then stays."""
    store, seen = Planted(), list[int]()
    mesh = shop(store)

    @mesh.actor
    async def work(number: int) -> None:
        seen.append(number)

    async with mesh, anyio.create_task_group() as senders:
        work.pause()
        for number in range(WINDOW + 2):
            await work.tell(number)
        with store.holding():
            for number in range(100, 103):
                senders.start_soon(work.tell, number)
            await settled()
            assert shelf_of(mesh).coming == 3
            work.mailbox.purge()
        await settled()
        numbers = mesh.statistics().mailboxes["work"]
        assert (numbers.entered, numbers.purged, numbers.ready) == (WINDOW + 5, WINDOW + 5, 0)
        await work.tell(200)
        work.resume()
        await mesh.idle()
    assert seen == [200]


async def test_capacity_counts_what_lies_in_the_tail():
    """A sender that finds no room there waits for it, as everywhere."""
    mesh, seen, told = shop(Planted()), list[int](), list[int]()
    mesh.mailbox("work", MailboxOptions(capacity=WINDOW + 4))

    @mesh.actor
    async def work(number: int) -> None:
        seen.append(number)

    async def send(number: int) -> None:
        await work.tell(number)
        told.append(number)

    async with mesh, anyio.create_task_group() as senders:
        work.pause()
        for number in range(WINDOW + 1):
            await work.tell(number)
        for number in range(100, 106):
            senders.start_soon(send, number)
        await settled()
        assert len(told) == 3
        assert mesh.statistics().mailboxes["work"].ready == WINDOW + 4
        work.resume()
        await mesh.idle()
    assert sorted(seen) == [*range(WINDOW + 1), *range(100, 106)]
    assert sorted(told) == list(range(100, 106))


async def test_a_union_waits_for_handlers_whose_turn_ends_early():
    """Or what they leave in each round would become a tail, which is read back at many times the cost."""
    store, handled, most = Planted(), 0, 0
    mesh = Mesh("shop", store=store)

    @mesh.actor(concurrency=60)
    async def work(number: int) -> None:
        nonlocal handled, most
        most = max(most, len(engine_of(mesh).ground.router.mailboxes["work"].fresh))
        if handled % 60 < 4:
            engine_of(mesh).ground.turn_ends = -inf
        handled += 1

    async def send() -> None:
        for number in range(10):
            await work.tell(number)

    async with mesh:
        async with anyio.create_task_group() as senders:
            for _ in range(60):
                senders.start_soon(send)
        await mesh.idle()
    assert handled == 600
    assert {len(batch.drops) for batch in store.batches if batch.drops} == {60}
    assert most < 60  # No round has left anything to the next.
