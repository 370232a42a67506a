"""Turns with a store: all that a turn made is written with its ack, or the turn is undone; and what a store that fails does."""

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
from msgspec import Struct

from flowmesh import Actor, ActorContext, Batch, Context, Debounce, Limit, MailboxOptions, Mesh, Request, Retry, on
from flowmesh._core.records import Batch as Written
from flowmesh.errors import StoreError, StoreFull, Unencodable
from flowmesh.testing import History, advance, explore, running, settled
from tests.runtime.stores import Planted, engine_of, full

pytestmark = pytest.mark.anyio


class Total(Struct):
    """What the class actors save."""

    sum: int = 0


class Add(Struct, frozen=True):
    """Add a number."""

    number: int


class GetTotal(Struct, Request[int], frozen=True):
    """Ask for the sum."""


class Totals:
    """Keeps a sum, and saves it with each ack."""

    def __init__(self) -> None:
        self.total: Total | None = None

    @on
    async def add(self, message: Add, ctx: Context) -> int:
        self.total = self.total or ctx.saved(Total) or Total()
        self.total.sum += message.number
        ctx.save(self.total)
        return self.total.sum

    @on
    async def get(self, message: GetTotal) -> int:
        return 0 if self.total is None else self.total.sum


class Kept(Totals):
    """The same, with a lifespan, and so with a keeper."""

    async def on_start(self, ctx: ActorContext) -> None:
        self.total = ctx.saved(Total) or Total()


class Plain:
    """Keeps nothing itself: each turn builds on what is saved."""

    @on
    async def add(self, message: Add, ctx: Context) -> None:
        before = ctx.saved(Total) or Total()
        ctx.save(Total(before.sum + message.number))

    @on
    async def get(self, message: GetTotal, ctx: Context) -> int:
        return (ctx.saved(Total) or Total()).sum


def refusing(
    count: int, *, when: Callable[[Written], bool] = lambda batch: batch.grows
) -> Callable[[Written], StoreError | None]:
    """Refuse so many batches of a kind: the disk is full."""
    left = [count]

    def refuses(batch: Written) -> StoreError | None:
        if left[0] and when(batch):
            left[0] -= 1
            return full()
        return None

    return refuses


async def test_an_output_is_there_exactly_when_its_input_is_not():
    """Whatever the moment of a crash: the input is still there, or what its turn made of it; never both, never neither."""
    store = Planted()
    images: list[Planted] = []
    mesh = Mesh("shop", store=store)
    mesh.mailbox("out")

    @mesh.actor
    async def work(number: int, ctx: Context) -> None:
        ctx.publish(mesh.exchange(""), number, key="out")
        images.append(store.image())

    async with mesh:
        for number in range(5):
            await work.tell(number)
            images.append(store.image())
        await mesh.idle()
        images.append(store.image())
    outputs = mesh.mailbox("out")
    for image in images:
        after = Mesh("shop", store=image)
        inputs, outputs = after.mailbox("work"), after.mailbox("out")
        async with after:
            await after.idle()
            found = [message.body for message in (*outputs.peek(10), *inputs.peek(10))]
            assert found == list(range(len(found)))
    assert len(outputs.peek(10)) == 5


async def test_a_turn_that_is_not_written_is_done_again(caplog: pytest.LogCaptureFixture):
    """No room for its output: the input goes back uncounted, the actor rests, and tries again; the output is there once."""
    store, attempts = Planted(), list[tuple[float, int]]()
    mesh = Mesh("shop", store=store)
    out = mesh.mailbox("out")

    @mesh.actor
    async def work(number: int, ctx: Context) -> None:
        attempts.append((anyio.current_time(), ctx.attempt))
        ctx.publish(mesh.exchange(""), number, key="out")

    async with mesh:
        await work.tell(1)
        await mesh.idle()
        store.refuses = refusing(2)
        with pytest.raises(StoreFull):
            await work.tell(7)
        store.refuses = None
        work.pause()
        await work.tell(2)
        store.refuses = refusing(2)
        work.resume()
        await mesh.idle()
        assert [message.body for message in out.peek()] == [1, 2]
    times = [moment for moment, _ in attempts[1:]]
    assert [attempt for _, attempt in attempts] == [1, 1, 1, 1]
    assert times[2] - times[0] >= 2.0
    assert "will be done again" in caplog.text


async def test_a_later_turn_goes_back_with_an_earlier_one():
    """A turn that was handed over after one that is refused is refused as well, though there would be room for it."""
    store, done = Planted(), list[int]()
    mesh = Mesh("shop", store=store)
    out = mesh.mailbox("out")

    @mesh.actor
    async def work(number: int, ctx: Context) -> None:
        done.append(number)
        ctx.publish(mesh.exchange(""), number, key="out")

    async with mesh:
        work.pause()
        for number in range(3):
            await work.tell(number)
        with store.holding():
            work.resume()
            await settled()
            assert done == [0, 1]
            store.refuses = refusing(1)
        await mesh.idle()
        assert [message.body for message in out.peek()] == [0, 1, 2]
    assert done == [0, 1, 0, 1, 2]


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_no_more_than_twice_as_many_turns_as_slots_are_unwritten(concurrency: int):
    """A slot may start one more message while its last turn is being written, never two."""
    store, began = Planted(), list[int]()
    mesh = Mesh("shop", store=store)

    @mesh.actor(concurrency=concurrency)
    async def work(number: int) -> None:
        began.append(number)
        await anyio.sleep(0.01)

    async with mesh:
        work.pause()
        for number in range(20):
            await work.tell(number)
        with store.holding():
            work.resume()
            await advance(1)
            assert len(began) == 2 * concurrency
        await mesh.idle()
    assert began == list(range(20))


@pytest.mark.parametrize("kind", [Totals, Kept])
async def test_an_instance_ahead_of_what_is_saved_is_made_anew(kind: type[Totals]):
    """When its state could not be saved with the ack, the next instance begins with what is saved: nothing is added twice."""
    store = Planted()
    mesh = Mesh("shop", store=store)
    totals = mesh.actor(kind, name="totals")
    async with mesh:
        assert await totals.ask(Add(1)) == 1
        totals.pause()
        for number in (10, 100):
            await totals.tell(Add(number))
        with store.holding():
            totals.resume()
            await settled()
            store.refuses = refusing(1, when=lambda batch: bool(batch.kept))
        await mesh.idle()
        assert await totals.ask(GetTotal()) == 111
        assert mesh.statistics().actors["totals"].restarts == 1
    again = Mesh("shop", store=store)
    other = again.actor(Kept, name="totals")
    async with again:
        assert await other.ask(GetTotal()) == 111


@pytest.mark.parametrize("refused", [0, 1])
async def test_a_turn_builds_on_what_the_one_before_it_has_saved(refused: int):
    """Also while that is still being written; if it cannot be, both are taken back, and done again."""
    store = Planted()
    mesh = Mesh("shop", store=store)
    totals = mesh.actor(Plain, name="totals")
    async with mesh:
        await totals.tell(Add(1))
        await mesh.idle()
        totals.pause()
        for number in (10, 100, 1000):
            await totals.tell(Add(number))
        with store.holding():
            totals.resume()
            await settled()
            store.refuses = refusing(refused, when=lambda batch: bool(batch.kept))
        await mesh.idle()
        assert await totals.ask(GetTotal()) == 1111
    again = Mesh("shop", store=store)
    other = again.actor(Plain, name="totals")
    async with again:
        assert await other.ask(GetTotal()) == 1111


async def test_a_reply_waits_for_what_came_before_it():
    """An ask is not answered with what has not been written yet; the asker gets the error if it never is."""
    store = Planted()
    mesh = Mesh("shop", store=store)
    totals = mesh.actor(Kept, name="totals")
    answers: list[object] = []

    async def ask(question: Any) -> None:
        try:
            answers.append(await totals.ask(question))
        except StoreError as error:
            answers.append(type(error))

    async with mesh:
        async with anyio.create_task_group() as group:
            with store.holding():
                group.start_soon(ask, Add(5))
                await settled()
                group.start_soon(ask, GetTotal())
                await settled()
                store.refuses = refusing(1, when=lambda batch: bool(batch.kept))
                assert answers == []
        assert answers == [StoreFull, StoreFull]
        assert await totals.ask(GetTotal()) == 0


async def test_what_a_turn_cannot_store_is_its_failure():
    """A body in ctx.publish that no store takes fails the turn, as if the handler had raised: retried, then a dead letter."""
    mesh = Mesh("shop", store=Planted())
    mesh.mailbox("out")
    attempts: list[int] = []

    @mesh.actor(retry=Retry(2, initial=0.1))
    async def work(number: int, ctx: Context) -> None:
        attempts.append(ctx.attempt)
        ctx.publish(mesh.exchange(""), {1, 2}, key="out")

    async with mesh:
        await work.tell(1)
        await mesh.idle()
        (letter,) = mesh.dead_letters.list()
        assert letter.deaths[0].reason == "failed"
        assert "Unencodable" in letter.deaths[0].detail
        assert mesh.statistics().mailboxes["out"].entered == 0
    assert attempts == [1, 2]


async def test_a_batch_that_is_not_written_is_done_again():
    """All of its messages go back, and come in a batch again; its value is free meanwhile."""
    store, batches = Planted(), list[list[int]]()
    mesh = Mesh("shop", store=store)

    @mesh.actor(batch=Batch(3, within=1.0, by=lambda number: number % 1))
    async def work(numbers: list[int]) -> None:
        batches.append(numbers)

    async with mesh:
        store.refuses = refusing(1, when=lambda batch: bool(batch.drops))
        for number in range(3):
            await work.tell(number)
        await mesh.idle()
        numbers = mesh.statistics().mailboxes["work"]
        assert (numbers.acked, numbers.ready, numbers.leased) == (3, 0, 0)
    assert batches == [[0, 1, 2], [0, 1, 2]]


async def test_a_failure_gives_way_to_what_came_while_it_was_written():
    """Debounce: a copy whose failure is on its way to the disk when a newer one waits is dropped as soon as that is written."""
    done: list[tuple[float, int]] = []
    mesh = Mesh("shop", store=Planted())

    @mesh.actor(debounce=Debounce(quiet=1.0, max_wait=10.0), retry=Retry(5, initial=100.0, maximum=100.0, jitter="none"))
    async def work(number: int) -> None:
        await anyio.sleep(1)
        if number == 1:
            raise OSError("disk")
        done.append((anyio.current_time(), number))

    async with mesh:
        began = anyio.current_time()
        await work.tell(1)
        await anyio.sleep(1.5)
        await work.tell(2)
        await advance(20)
        assert done[0][0] - began < 10
        assert mesh.statistics().mailboxes["work"].delayed == 0


async def test_a_gate_lets_go_of_a_turn_that_is_undone():
    """A turn that goes back has ended at its gates: the next one is not held for ever."""
    store, done = Planted(), list[int]()
    mesh = Mesh("shop", store=store)

    @mesh.actor(concurrency=4, gates=[Limit(1, by=lambda number: 0)])
    async def work(number: int) -> None:
        done.append(number)

    async with mesh:
        store.refuses = refusing(1, when=lambda batch: bool(batch.drops))
        for number in range(3):
            await work.tell(number)
        await mesh.idle()
        assert mesh.statistics().mailboxes["work"].acked == 3
    assert sorted(done) == [0, 0, 1, 2]


async def test_lanes_keep_their_order_over_the_writing():
    """The next of a lane starts when the one before it is written."""
    store, done = Planted(), list[int]()
    mesh = Mesh("shop", store=store)

    @mesh.actor(concurrency=4, by=lambda number: number % 2)
    async def work(number: int) -> None:
        done.append(number)

    async with mesh:
        store.refuses = refusing(1, when=lambda batch: bool(batch.drops))
        for number in range(10):
            await work.tell(number)
        await mesh.idle()
    for lane in (0, 1):
        mine = [number for number in done if number % 2 == lane]
        assert list(dict.fromkeys(mine)) == list(range(lane, 10, 2))


# A store that is broken


async def test_a_broken_store_confirms_and_hands_out_nothing_more(caplog: pytest.LogCaptureFixture):
    """Every further publish raises, asks too; nothing durable is handed out; the mesh lives on, and can be entered again."""
    store, done = Planted(), list[int]()
    mesh = Mesh("shop", store=store)
    mesh.mailbox("light", MailboxOptions(durable=False))

    @mesh.actor
    async def work(number: int) -> None:
        done.append(number)

    async with mesh:
        work.pause()
        await work.tell(1)
        store.refuses = lambda batch: StoreError("the disk has gone")
        for _ in range(2):
            with pytest.raises(StoreError, match="gone"):
                await work.tell(2)
        with pytest.raises(StoreError, match="gone"):
            await work.ask(3)
        work.resume()
        await mesh.idle()
        assert done == []
        await mesh.exchange("").publish(4, "light")
        statistics = mesh.statistics().store
        assert statistics is not None
        assert statistics.is_broken
        assert "until the mesh is started anew" in caplog.text
    store.refuses = None
    async with mesh:
        await mesh.idle()
    assert done == [1]


async def test_a_broken_store_is_not_waited_for():
    """A mesh with a turn that could not be written, and one that waits for its retry, is idle, and drains, at once."""
    store, done = Planted(), list[int]()
    mesh = Mesh("shop", store=store, grace=30)

    @mesh.actor(retry=Retry(5, initial=10, jitter="none"))
    async def work(number: int) -> None:
        done.append(number)
        if number == 1:
            raise ValueError(number)
        store.refuses = lambda batch: StoreError("the disk has gone")

    start = anyio.current_time()
    async with mesh:
        await work.tell(1)
        await settled()
        await work.tell(2)
        await settled()
        await mesh.idle()
    assert done == [1, 2]
    assert mesh.report is not None
    assert mesh.report.unhandled == {"work": 2}
    assert anyio.current_time() - start < 1


async def test_expiry_in_a_broken_store_does_not_spin():
    """What is due and cannot be written is tried again after a while, not at once."""
    store = Planted()
    mesh = Mesh("shop", store=store)
    mesh.mailbox("work", MailboxOptions(ttl=5.0))
    async with mesh:
        await mesh.exchange("").publish(1, "work")
        store.refuses = lambda batch: StoreError("the disk has gone")
        with pytest.raises(StoreError):
            await mesh.exchange("").publish(2, "work")
        commits = [0]
        prepare = engine_of(mesh).ground.ledger.prepare

        def counting(*intents: Any, now: float) -> Any:
            commits[0] += 1
            return prepare(*intents, now=now)

        engine_of(mesh).ground.ledger.prepare = counting  # type: ignore[method-assign]
        await advance(20)
        assert commits[0] < 20


async def test_a_send_without_waiting_that_fails_is_named(caplog: pytest.LogCaptureFixture):
    """tell_nowait hands over and returns "none"; if it cannot be written, the log names the message that is lost."""
    store = Planted()
    mesh = Mesh("shop", store=store)
    mesh.mailbox("work")
    async with mesh:
        store.refuses = refusing(1)
        with caplog.at_level(logging.ERROR):
            receipt = mesh.exchange("").publish_nowait(1, "work")
            assert receipt.durability == "none"
            await mesh.idle()
        assert receipt.message_id in caplog.text


# Cancellation


@pytest.mark.parametrize("way", ["scope", "group"])
async def test_a_publish_that_is_handed_over_returns_its_receipt(way: str):
    """Once the store has it, a cancellation waits: the receipt is returned, and what comes next is not struck by it."""
    store = Planted()
    mesh = Mesh("shop", store=store)
    mesh.mailbox("work")
    receipts: list[Any] = []
    async with mesh:
        store.is_held = True

        async def publish(scope: anyio.CancelScope) -> None:
            with scope:
                receipts.append(await mesh.exchange("").publish(1, "work"))
            await anyio.sleep(1)
            receipts.append("on its way")

        async with anyio.create_task_group() as group:
            scope = anyio.CancelScope() if way == "scope" else group.cancel_scope
            group.start_soon(publish, anyio.CancelScope() if way == "group" else scope)
            await settled()
            scope.cancel()
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
                store.let_go()
                await anyio.sleep(0.1)
    assert receipts[0].durability == "process"
    assert receipts[1:] == (["on its way"] if way == "scope" else [])


async def test_a_mesh_that_is_aborted_waits_for_what_is_being_written():
    """A handler that waits for its publish when everything is cancelled gets its receipt; nothing hangs."""
    store, receipts = Planted(), list[Any]()
    mesh = Mesh("shop", store=store)
    mesh.mailbox("out")

    @mesh.actor
    async def work(number: int) -> None:
        receipts.append(await mesh.exchange("").publish(number, "out"))

    async def let_go() -> None:
        await anyio.sleep(1)
        store.let_go()

    async def run(group: anyio.abc.TaskGroup) -> None:
        async with mesh:
            work.pause()
            await work.tell(1)
            store.is_held = True
            work.resume()
            await settled()
            group.start_soon(let_go)
            raise RuntimeError("stop")

    async with anyio.create_task_group() as group:
        with pytest.raises(RuntimeError, match="stop"):
            await run(group)
    assert [receipt.durability for receipt in receipts] == ["process"]


# Deferred messages


@pytest.mark.parametrize("jump", [-3600.0, 0.0, 40.0, 3600.0])
async def test_a_deferred_message_enters_once_whatever_the_clock_does(jump: float):
    """Over a crash and a clock that is set: it is entered once, when the wall clock says that it is due."""
    store = Planted()
    first = Mesh("shop", store=store)
    first.mailbox("work")
    async with running(first):
        await first.exchange("").publish(1, "work", delay=60)
        left = store.image()
    second = Mesh("shop", store=left)
    box = second.mailbox("work")
    wall = engine_of(first).ground.stopped_at[1] + jump
    async with running(second, wall=wall, leftovers="keep"):
        await advance(3600 + 120)
        assert [message.body for message in box.peek()] == [1]
        assert second.timers.list() == []


async def test_moved_and_cancelled_timers_are_stored_so():
    """What was moved is due at its new time in the next process, and what was cancelled is not there, at whatever moment."""
    store = Planted()
    mesh = Mesh("shop", store=store)
    mesh.mailbox("work")
    async with mesh:
        publish = partial(mesh.exchange("").publish, key="work")
        moved, cancelled = await publish(1, delay=10), await publish(2, delay=10)
        mesh.timers.move(moved.timer, delay=500)
        assert mesh.timers.cancel(cancelled.timer)
        early = mesh.exchange("").publish_nowait(3, "work", delay=10)
        assert mesh.timers.cancel(early.timer)
        assert not mesh.timers.cancel(early.timer)
        await mesh.idle()
        left = store.image()
    again = Mesh("shop", store=left)
    box = again.mailbox("work")
    async with again:
        (timer,) = again.timers.list()
        assert (timer.id, timer.message.body) == (moved.timer, 1)
        await advance(600)
        assert [message.body for message in box.peek()] == [1]


async def test_deferred_messages_of_mailboxes_that_are_not_durable_stay_with_the_mesh():
    """They are in no store, and wait on when the same mesh is entered again."""
    mesh = Mesh("shop", store=Planted())
    box = mesh.mailbox("light", MailboxOptions(durable=False))
    async with mesh:
        await mesh.exchange("").publish(1, "light", delay=50)
    async with mesh:
        assert len(mesh.timers.list()) == 1
        await advance(60)
        assert [message.body for message in box.peek()] == [1]


async def test_an_unencodable_deferred_message_is_refused():
    """It is refused where it is sent, not when it is due."""
    mesh = Mesh("shop", store=Planted())
    mesh.mailbox("work")
    async with mesh:
        with pytest.raises(Unencodable):
            await mesh.exchange("").publish({1, 2}, "work", delay=5)
        assert mesh.timers.list() == []


# Whatever the order


async def commits_in_flight() -> None:
    """Room, withdrawal, expiry, purge and unbinding while commits are on their way; some find no room on the disk."""
    store = Planted(refuses=refusing(2, when=lambda batch: batch.grows and len(store.batches) % 7 == 3))
    mesh, history = Mesh("shop", store=store, grace=60.0), History()
    engine_of(mesh).storing.window = 1000
    orders = mesh.exchange("orders", "fanout")
    spare = mesh.mailbox("spare", MailboxOptions(capacity=3, overflow="drop_oldest", ttl=2.0))
    orders.bind(spare)

    @mesh.actor(bind=orders.on(), concurrency=2, mailbox=MailboxOptions(capacity=4), retry=Retry(2, initial=0.01))
    async def work(number: int, ctx: Context) -> int:
        if number % 5 == 4 and ctx.attempt == 1:
            raise OSError("again")
        if number % 3 == 0:
            ctx.publish(mesh.exchange(""), number, key="spare")
        return number

    async def publish(base: int) -> None:
        for number in range(base, base + 6):
            with suppress(StoreFull):
                history.sent(await orders.publish(number))

    async def ask() -> None:
        with suppress(TimeoutError, StoreFull):
            await work.ask(1000, timeout=0.0005)

    async def disturb() -> None:
        await anyio.lowlevel.checkpoint()
        spare.purge()
        orders.unbind(spare)
        await anyio.sleep(1)
        orders.bind(spare)

    async with running(mesh, history=history, dead_letters="any"):
        async with anyio.create_task_group() as group:
            for base in (0, 100):
                group.start_soon(publish, base)
            group.start_soon(ask)
            group.start_soon(disturb)
        await mesh.idle()
        numbers = mesh.statistics().mailboxes["work"]
        assert (numbers.ready, numbers.leased, numbers.delayed) == (0, 0, 0)


def test_commits_in_flight_in_any_order():
    """No order loses, doubles or reorders a copy."""
    explore(commits_in_flight, seeds=200)


@pytest.mark.parametrize("rule", [Debounce(0.3, max_wait=5.0), Batch(4, within=0.3)])
async def test_what_gathers_waits_for_the_copies_that_are_still_to_be_marked(rule: Debounce | Batch):
    """After a crash each copy is marked by itself before it is looked at; the ones before it do not go alone meanwhile."""
    seen: list[Any] = []
    store = Planted()

    def shop(store: Planted) -> tuple[Mesh, Actor[Any, Any]]:
        mesh = Mesh("shop", store=store, grace=0)

        async def work(body: Any) -> None:
            seen.append(body)

        work.__annotations__["body"] = list[int] if isinstance(rule, Batch) else int
        options: Any = {"batch": rule} if isinstance(rule, Batch) else {"debounce": rule}
        actor: Actor[Any, Any] = mesh.actor(work, **options)
        actor.pause()
        return mesh, actor

    first, _ = shop(store)
    async with first:
        await first.exchange("").publish_many([(number, "work") for number in range(4)])
        left = store.image()
    second, work = shop(left)
    async with second:
        left.is_held = True
        work.resume()
        early: list[Any] = []
        for _ in range(3):  # One mark after another is written, and longer than they wait for each other.
            await advance(1.0)
            left.let_go()
            left.is_held = True
            await settled()
            early += seen
        left.let_go()
        await second.idle()
    assert early == []
    assert seen == ([[0, 1, 2, 3]] if isinstance(rule, Batch) else [3])
