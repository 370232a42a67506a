"""Durable mailboxes: what outlives a run, and a process; in which order it comes back, and what says that it came before."""

import logging
import sqlite3
from pathlib import Path
from typing import Any

import anyio
import pytest
from msgspec import Struct

from flowmesh import Context, MailboxOptions, Mesh, Reject, Retry
from flowmesh.errors import (
    AlreadySettled,
    ForkedProcessError,
    MeshStopped,
    NotRunning,
    PreconditionFailed,
    StoreError,
    StoreLocked,
    Unencodable,
)
from flowmesh.stores import MemoryStore
from flowmesh.testing import advance, settled
from tests.runtime.stores import Planted, engine_of

pytestmark = pytest.mark.anyio


class Order(Struct, frozen=True):
    """A body."""

    number: int


def shop(store: MemoryStore, *, window: int = 4, **options: Any) -> Mesh:
    """A mesh whose mailboxes hold few copies in memory."""
    mesh = Mesh("shop", store=store, **options)
    engine_of(mesh).storing.window = window
    return mesh


def adds_up(mesh: Mesh, name: str) -> bool:
    """Every copy that entered is accounted for."""
    numbers = mesh.statistics().mailboxes[name]
    ended = numbers.acked + numbers.dead + numbers.expired + numbers.dropped + numbers.withdrawn + numbers.purged
    return numbers.entered == numbers.ready + numbers.leased + numbers.delayed + ended


# What comes back


async def test_what_comes_first_is_at_hand_once_the_mesh_is_entered():
    """For those who look, or take, without waiting; and a mailbox that is full drops, not only a moment later."""
    store = Planted()
    options = MailboxOptions(capacity=3, overflow="drop_oldest")
    first = shop(store)
    first.mailbox("work")
    first.mailbox("latest", options)
    async with first:
        for number in range(6):
            await first.exchange("").publish(number, "work")
            await first.exchange("").publish(number, "latest")
    second = shop(store)
    work, latest = second.mailbox("work"), second.mailbox("latest", options)
    async with second:
        assert [message.body for message in work.peek(10)] == [0, 1, 2, 3]  # its window
        delivery = work.get_nowait()
        assert delivery.message.body == 0
        await delivery.ack()
        await second.exchange("").publish(6, "latest")
        assert [message.body for message in latest.peek(10)] == [4, 5, 6]
        assert latest.statistics().dropped == 1


async def test_what_is_damaged_is_counted_in_the_run_that_finds_it(tmp_path: Path):
    """It is in quarantine then, and not handed out."""
    path = tmp_path / "shop.db"
    for is_first in (True, False):
        mesh = Mesh("shop", store=path)
        work = mesh.mailbox("work")
        async with mesh:
            if is_first:
                for number in range(3):
                    await mesh.exchange("").publish(number, "work")
            else:
                assert [message.body for message in work.peek()] == [0, 2]
                numbers = mesh.statistics().store
                assert numbers is not None
                assert numbers.quarantined == 1
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("UPDATE copies SET record = x'00' WHERE number = (SELECT min(number) + 1 FROM copies)")
        connection.close()


async def test_a_fork_gets_an_error(monkeypatch: pytest.MonkeyPatch):
    """From whatever looks at what is stored: it belongs to the process that the mesh runs in."""
    mesh = shop(Planted())
    work = mesh.mailbox("work")
    async with mesh:
        await mesh.exchange("").publish(1, "work")
        with monkeypatch.context() as fork:
            fork.setattr("flowmesh._runtime.journal.getpid", lambda: 4711)
            for call in (work.purge, work.get_nowait):
                with pytest.raises(ForkedProcessError, match=r"belongs to the process that this one \(pid 4711\) is a fork of"):
                    call()
            with pytest.raises(ForkedProcessError):
                await work.get()
            with pytest.raises(ForkedProcessError):
                async with work.consume():
                    pytest.fail("it consumes")
        assert work.purge() == 1


async def test_a_purge_that_cannot_be_written_is_refused():
    """Nobody is told that something is gone which the next run has again."""
    store = Planted()
    mesh = shop(store)
    work = mesh.mailbox("work")
    async with mesh:
        await mesh.exchange("").publish(1, "work")
        store.refuses = lambda batch: StoreError("the disk has gone")
        with pytest.raises(StoreError):
            await mesh.exchange("").publish(2, "work")
        with pytest.raises(StoreError, match="gone"):
            work.purge()
        assert work.statistics().ready == 1


async def test_what_is_purged_is_gone_at_once():
    """For those who ask, before it is written; what is purged twice is counted once."""
    mesh = shop(Planted())
    work = mesh.mailbox("work")
    async with mesh:
        for number in range(6):  # more than a window
            await mesh.exchange("").publish(number, "work")
        assert work.purge() == 6
        assert work.statistics().ready == 0
        assert work.peek() == []
        assert work.purge() == 0
        await mesh.idle()
        await mesh.exchange("").publish(7, "work")
        assert (work.statistics().purged, work.statistics().ready) == (6, 1)
        assert adds_up(mesh, "work")


async def test_what_was_published_is_handled_by_the_next_mesh():
    """Messages lie in the store when their mesh has stopped; another one with the same actor handles them, in order."""
    store, seen = Planted(), list[int]()
    first = shop(store)
    first.mailbox("work")
    async with first:
        for number in range(20):
            receipt = await first.exchange("").publish(number, "work")
            assert receipt.durability == "process"
    second = shop(store)

    @second.actor
    async def work(number: int, ctx: Context) -> None:
        assert not ctx.redelivered
        seen.append(number)

    async with second:
        assert second.statistics().mailboxes["work"].entered == 20
        await second.idle()
        assert adds_up(second, "work")
    assert seen == list(range(20))


async def test_a_crash_repeats_what_was_in_hand_and_says_so():
    """What a handler had when the process died comes again, flagged; what had been acknowledged does not."""
    store = Planted()
    first, began = shop(store), anyio.Event()

    @first.actor(name="work")
    async def hang(number: int) -> None:
        if number == 2:
            began.set()
            await anyio.sleep(1)

    async with first:
        for number in range(4):
            await hang.tell(number)
        await began.wait()
        await settled()
        left = store.image()
    second, seen = shop(left), list[tuple[int, bool]]()

    @second.actor
    async def work(number: int, ctx: Context) -> None:
        seen.append((number, ctx.redelivered))

    async with second:
        await second.idle()
    assert [number for number, _ in seen] == [2, 3]
    assert seen[0] == (2, True)


async def test_a_message_that_kills_the_process_ends_as_a_dead_letter(caplog: pytest.LogCaptureFixture):
    """Each death of the process in its handler counts; past `max_deliveries` it is a dead letter; the others are handled."""
    store, done = Planted(), list[int]()
    for _ in range(8):
        mesh, began = shop(store), anyio.Event()

        @mesh.actor(mailbox=MailboxOptions(max_deliveries=3))
        async def work(number: int, began: anyio.Event = began) -> None:
            if number == 1:
                began.set()
                await anyio.sleep_forever()
            done.append(number)

        mesh.configure(grace=0.0)
        async with mesh:
            if not done and not mesh.statistics().mailboxes["work"].entered:
                for number in range(4):
                    await work.tell(number)
            with anyio.move_on_after(10):
                await mesh.idle()
            store = store.image()
    assert sorted(done) == [0, 2, 3]
    last = shop(store)
    async with last:
        (letter,) = last.dead_letters.list()
        assert (letter.body, letter.deaths[0].reason) == (1, "delivery_limit")
    assert "handed out 3 times" in caplog.text


async def test_a_clean_stop_in_hand_is_redelivered_but_uncounted():
    """What a drain hands back is redelivered, and the window around it is not suspected of anything."""
    store = Planted()
    first = shop(store, grace=1.0)

    @first.actor(name="work")
    async def hang(number: int) -> None:
        await anyio.sleep_forever()

    async with first:
        for number in range(3):
            await hang.tell(number)
    second, seen = shop(store), list[tuple[int, bool, int]]()

    @second.actor
    async def work(number: int, ctx: Context) -> None:
        seen.append((number, ctx.redelivered, ctx.attempt))

    async with second:
        await second.idle()
    assert seen == [(0, True, 1), (1, False, 1), (2, False, 1)]


async def test_a_retry_waits_on_over_a_restart():
    """A copy that awaits its retry still does in the next process, with its failures counted."""
    store = Planted()
    first = shop(store)

    @first.actor(name="work", retry=Retry(3, initial=60.0, jitter="none"))
    async def fail(number: int) -> None:
        raise OSError("down")

    async with first:
        began = anyio.current_time()
        await fail.tell(1)
        await advance(5)
        left = store.image()
    second, seen = shop(left), list[tuple[int, float]]()

    @second.actor(retry=Retry(3))
    async def work(number: int, ctx: Context) -> None:
        seen.append((ctx.attempt, anyio.current_time() - began))

    async with second:
        await second.idle()
    assert seen == [(2, pytest.approx(60, abs=0.1))]


# Order, and what is not stored


async def test_an_ask_does_not_overtake_what_lies_on_disk():
    """An ask is not stored, and keeps its place all the same: behind all that was told before it, ahead of what comes later."""
    mesh, seen = shop(Planted()), list[object]()

    @mesh.actor
    async def work(body: int) -> int:
        seen.append(body)
        return body

    async with mesh:
        work.pause()
        for number in range(20):
            await work.tell(number)
        async with anyio.create_task_group() as group:
            group.start_soon(work.ask, 100)
            await settled()
            for number in range(20, 30):
                await work.tell(number)
            work.resume()
        await mesh.idle()
        assert adds_up(mesh, "work")
    assert seen == [*range(20), 100, *range(20, 30)]


async def test_an_asker_behind_the_tail_may_leave():
    """An ask that waits behind what lies on disk ends as withdrawn when its asker's time is up."""
    mesh = shop(Planted())

    @mesh.actor
    async def work(body: int) -> int:
        return body

    async with mesh:
        work.pause()
        for number in range(20):
            await work.tell(number)
        with pytest.raises(TimeoutError):
            await work.ask(100, timeout=5)
        assert mesh.statistics().mailboxes["work"].withdrawn == 1
        work.resume()
        await mesh.idle()
        assert mesh.statistics().mailboxes["work"].acked == 20
        assert adds_up(mesh, "work")


async def test_priorities_come_first_from_disk_too():
    """Copies of higher priority go before all others, whether in memory or read back."""
    store, seen = Planted(), list[tuple[int, int]]()
    options = MailboxOptions(priorities=True)
    first = shop(store)
    first.mailbox("work", options)
    async with first:
        for number in range(24):
            await first.exchange("").publish(number, "work", priority=number % 3)
    second = shop(store)

    @second.actor(mailbox=options)
    async def work(number: int) -> None:
        seen.append((number % 3, number))

    async with second:
        await second.idle()
    assert seen == sorted(seen, key=lambda one: (-one[0], one[1]))
    assert len(seen) == 24


@pytest.mark.parametrize("reads", [1, 2])
async def test_only_a_window_is_in_memory(reads: int):
    """However many copies there are, few of them are in memory at a time."""
    mesh, most = shop(Planted()), 0

    @mesh.actor(concurrency=reads)
    async def work(number: int) -> None:
        nonlocal most
        core = engine_of(mesh).ground.router.mailboxes["work"]
        most = max(most, len(core.fresh) + len(core.heap))
        await anyio.sleep(0.01)

    async with mesh:
        work.pause()
        for number in range(100):
            await work.tell(number)
        work.resume()
        await mesh.idle()
    assert most <= 8


async def test_expiry_of_all_in_memory_reads_on():
    """When what is in memory has expired, the rest is read on and expires as well; nothing is left lying."""
    mesh = shop(Planted())
    mesh.mailbox("work", MailboxOptions(ttl=5.0))
    async with mesh:
        for number in range(20):
            await mesh.exchange("").publish(number, "work")
        await advance(6)
        numbers = mesh.statistics().mailboxes["work"]
        assert (numbers.expired, numbers.ready) == (20, 0)


async def test_purge_ends_what_lies_on_disk():
    """A purge ends all that is ready, in memory or not; what comes later stays; nothing of it comes back."""
    store = Planted()
    mesh = shop(store)
    box = mesh.mailbox("work")
    async with mesh:
        for number in range(20):
            await mesh.exchange("").publish(number, "work")
        assert box.purge() == 20
        await mesh.exchange("").publish(99, "work")
        await mesh.idle()
        assert box.statistics().purged == 20
        assert adds_up(mesh, "work")
    again = shop(store)
    async with again:
        assert [message.body for message in again.mailbox("work").peek()] in ([], [99])
        await again.idle()
        assert [message.body for message in again.mailbox("work").peek()] == [99]


# Declaring


async def test_declaring_again_loses_nothing():
    """A mailbox that is not durable, asked for again while the mesh runs, keeps what is in it."""
    mesh = shop(Planted())
    mesh.mailbox("light", MailboxOptions(durable=False))
    async with mesh:
        receipt = await mesh.exchange("").publish(1, "light")
        assert receipt.durability == "none"
        assert [message.body for message in mesh.mailbox("light").peek()] == [1]
        later = mesh.mailbox("later")
        assert (await mesh.exchange("").publish(2, "later")).durability == "process"
        await mesh.idle()
        assert [message.body for message in later.peek()] == [2]


async def test_durable_without_a_store_is_refused():
    """A mailbox that must be durable needs a store: said when the mesh starts, or where it is declared."""
    mesh = Mesh("shop")
    mesh.mailbox("work", MailboxOptions(durable=True))
    with pytest.raises(PreconditionFailed, match="has no store"):
        async with mesh:
            pass
    other = Mesh("shop")
    async with other:
        with pytest.raises(PreconditionFailed, match="has no store"):
            other.mailbox("work", MailboxOptions(durable=True))


async def test_a_mailbox_that_nothing_declares_is_kept_and_shown(caplog: pytest.LogCaptureFixture):
    """The copies of a renamed actor stay in the store, warned about and counted, and are handled when it has its name again."""
    store, seen = Planted(), list[int]()
    first = shop(store)
    first.mailbox("old name")
    async with first:
        await first.exchange("").publish(1, "old name")
    async with shop(store) as second:
        statistics = second.statistics().store
        assert statistics is not None
        assert statistics.unclaimed == {"old name": 1}
        assert "'old name'" in caplog.text
    third = shop(store)

    @third.actor(name="old name")
    async def work(number: int) -> None:
        seen.append(number)

    async with third:
        await third.idle()
    assert seen == [1]


async def test_a_deleted_mailbox_does_not_come_back():
    """What was in it is gone from the store, also when it was deleted between two runs."""
    store = Planted()
    mesh = shop(store)
    one, two = mesh.mailbox("one"), mesh.mailbox("two")
    async with mesh:
        await mesh.exchange("").publish(1, "one")
        await mesh.exchange("").publish(2, "two")
        one.delete()
    two.delete()
    async with mesh:
        statistics = mesh.statistics().store
        assert statistics is not None
        assert statistics.unclaimed == {}
        assert mesh.mailbox("one").peek() == mesh.mailbox("two").peek() == []


async def test_a_store_belongs_to_one_mesh_at_a_time():
    """A second mesh is refused, and the first one goes on as if nothing had been."""
    store = Planted()
    async with shop(store) as first:
        first.mailbox("work")
        with pytest.raises(StoreLocked):
            async with shop(store):
                pass
        assert (await first.exchange("").publish(1, "work")).durability == "process"


# Runs of one mesh


async def test_a_mesh_goes_on_where_it_stopped():
    """The same mesh, entered again, has each copy once: that of the store."""
    mesh, seen = shop(Planted()), list[int]()

    @mesh.actor
    async def work(number: int) -> None:
        seen.append(number)

    async with mesh:
        work.pause()
        for number in range(12):
            await work.tell(number)
    work.resume()
    async with mesh:
        await mesh.idle()
        assert adds_up(mesh, "work")
    assert seen == list(range(12))


async def test_without_its_store_a_mesh_leaves_alone_what_is_there():
    """A mesh that runs once without its store handles none of it; with the store again, all of it, once."""
    store, seen = Planted(), list[int]()
    mesh = shop(store)

    @mesh.actor
    async def work(number: int) -> None:
        seen.append(number)

    async with mesh:
        work.pause()
        await work.tell(1)
    work.resume()
    mesh.configure(store=None)
    async with mesh:
        await work.tell(2)
        await mesh.idle()
    mesh.configure(store=store)
    async with mesh:
        await mesh.idle()
    assert seen == [2, 1]


async def test_purging_needs_the_store():
    """What lies in a closed store cannot be purged, and the call says so instead of bringing it back later."""
    mesh = shop(Planted())
    box = mesh.mailbox("work")
    async with mesh:
        receipt = await mesh.exchange("").publish(1, "work", delay=50)
    for call in (box.purge, mesh.dead_letters.purge, lambda: mesh.timers.cancel(receipt.timer)):
        with pytest.raises(NotRunning, match="store"):
            call()


async def test_a_delivery_of_an_earlier_run_is_settled_no_more():
    """It went back when its run ended: it is handed out again, flagged, and the old delivery says what happened."""
    mesh = shop(Planted())
    box = mesh.mailbox("work")
    async with mesh:
        await mesh.exchange("").publish(1, "work")
        old = await box.get()
    with pytest.raises(MeshStopped):
        await old.ack()
    async with mesh:
        new = await box.get()
        assert new.redelivered
        with pytest.raises(AlreadySettled, match="earlier run"):
            await old.ack()
        await new.ack()
        assert adds_up(mesh, "work")
        assert box.statistics().leased == 0
        await mesh.idle()


# Bodies


async def test_bodies_come_back_with_their_types():
    """A Struct comes back as the type that an actor takes; what no actor takes is refused where it is sent."""
    store, seen = Planted(), list[object]()
    mesh = shop(store)

    @mesh.actor
    async def work(order: Order) -> None:
        seen.append(order)

    async with mesh:
        work.pause()
        await work.tell(Order(7))
        mesh.mailbox("free")
        with pytest.raises(Unencodable, match="no actor"):
            await mesh.exchange("").publish({1, 2}, "free")
        assert mesh.statistics().mailboxes["free"].entered == 0
    work.resume()
    async with mesh:
        await mesh.idle()
    assert seen == [Order(7)]


async def test_a_body_of_an_unknown_type_is_malformed_with_its_bytes():
    """When the type's actor is gone, the body says what it was; an actor that takes something else rejects it as malformed."""
    store = Planted()
    first = shop(store)

    @first.actor(name="work")
    async def before(order: Order) -> None:
        raise AssertionError("it is paused")

    async with first:
        before.pause()
        await before.tell(Order(7))
    second = shop(store)

    @second.actor
    async def work(text: str) -> None:
        raise AssertionError("it takes no orders")

    async with second:
        await second.idle()
        (letter,) = second.dead_letters.list()
        assert letter.type == "Order"
        assert letter.deaths[0].reason == "malformed"
        assert "Order" in letter.deaths[0].detail
    third = shop(store)
    handled: list[Order] = []

    @third.actor(name="work")
    async def after(order: Order) -> None:
        handled.append(order)

    async with third:
        assert await third.dead_letters.replay() == 1
        await third.idle()
    assert handled == [Order(7)]


async def test_dead_letters_outlive_the_process():
    """They are listed as soon as the mesh runs, can be replayed, and are purged for good."""
    store = Planted()
    mesh = shop(store)

    @mesh.actor
    async def work(number: int) -> None:
        raise Reject("no")

    async with mesh:
        for number in range(3):
            await work.tell(number)
        await mesh.idle()
    again = shop(store)
    again.mailbox("work")
    async with again:
        assert [letter.body for letter in again.dead_letters.list()] == [0, 1, 2]
        assert await again.dead_letters.replay(limit=1) == 1
        assert again.dead_letters.purge() == 2
    async with shop(store) as last:
        assert last.dead_letters.list() == []


async def test_a_dead_letter_that_cannot_be_stored_is_kept_and_named(caplog: pytest.LogCaptureFixture):
    """It dies in a mailbox that is not durable, with a body that no store takes: it rests in memory, and the log says so."""
    mesh = shop(Planted())

    @mesh.actor(mailbox=MailboxOptions(durable=False))
    async def work(body: object) -> None:
        raise Reject("no")

    async with mesh:
        with caplog.at_level(logging.ERROR):
            await work.tell({1, 2})
            await mesh.idle()
        assert "kept in memory only" in caplog.text
        assert [letter.body for letter in mesh.dead_letters.list()] == [{1, 2}]
