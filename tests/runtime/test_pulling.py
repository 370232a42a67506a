"""Pulling without an actor: every delivery is settled once, no copy is lost on the way, and consumers are served in line."""

import contextlib
import gc
import logging
from collections.abc import AsyncGenerator

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from flowmesh import Mesh
from flowmesh._runtime.consuming import Deliveries
from flowmesh._runtime.delivery import Delivery
from flowmesh._runtime.mailbox import Mailbox
from flowmesh.errors import AlreadySettled, MeshError, MeshStopped, NotFound, NotRunning, PreconditionFailed
from flowmesh.policies import MailboxOptions
from flowmesh.testing import Swept, advance, cancel_sweep, settled

pytestmark = pytest.mark.anyio


@contextlib.asynccontextmanager
async def filled(*bodies: object, options: MailboxOptions | None = None) -> AsyncGenerator[tuple[Mesh, Mailbox]]:
    """A running mesh with one mailbox, `work`, that holds these bodies."""
    mesh = Mesh("shop", grace=1.0)
    work = mesh.mailbox("work", options)
    async with mesh:
        for body in bodies:
            await put(mesh, body)
        yield mesh, work


async def put(mesh: Mesh, body: object, **options: object) -> None:
    """Publish to the mailbox by its name."""
    await mesh.exchange("").publish(body, "work", mandatory=True, **options)  # pyright: ignore[reportArgumentType] - passed on


def forget(in_hand: list[Delivery]) -> None:
    """Let go of what is in hand, and let the collector find it."""
    in_hand.clear()
    gc.collect()


async def collect(deliveries: Deliveries, in_hand: list[Delivery]) -> None:
    """Keep everything that comes, unsettled, until nothing comes any more."""
    async for delivery in deliveries:
        in_hand.append(delivery)  # noqa: PERF401 - others look while it goes on


async def checkpoints() -> None:
    """Let the others come to rest, without `settled`: a sweep that uses that would not wait for this task."""
    for _ in range(5):
        await anyio.lowlevel.checkpoint()


def counts(mailbox: Mailbox) -> tuple[int, int, int, int]:
    """What a mailbox says of itself: ready, leased, delayed, acked; checked to add up with the rest."""
    numbers = mailbox.statistics()
    ended = numbers.acked + numbers.dead + numbers.expired + numbers.dropped + numbers.withdrawn + numbers.purged
    assert numbers.entered == numbers.ready + numbers.leased + numbers.delayed + ended
    return numbers.ready, numbers.leased, numbers.delayed, numbers.acked


# Getting


async def test_get_hands_out_in_order():
    """Get gives the oldest copy; it is leased until it is acked."""
    async with filled("a", "b") as (_, work):
        first = await work.get()
        assert (first.message.body, first.attempt, first.redelivered, first.is_settled) == ("a", 1, False, False)
        assert counts(work) == (1, 1, 0, 0)
        await first.ack()
        assert first.is_settled
        second = work.get_nowait()
        assert second.message.body == "b"
        await second.ack()
        assert counts(work) == (0, 0, 0, 2)


async def test_get_nowait_of_an_empty_mailbox():
    """get_nowait never waits: an empty mailbox is anyio.WouldBlock, and nothing is leased."""
    async with filled() as (_, work):
        with pytest.raises(anyio.WouldBlock):
            work.get_nowait()
        assert counts(work) == (0, 0, 0, 0)


async def test_get_waits_for_a_copy():
    """A get of an empty mailbox returns as soon as a copy enters, by the fast path or the careful one."""
    async with filled() as (mesh, work), anyio.create_task_group() as group:
        got: list[Delivery] = []

        async def fetch() -> None:
            got.append(await work.get())

        for options in ({}, {"priority": 3}):
            group.start_soon(fetch)
            await settled()
            assert got == []
            await put(mesh, "late", **options)
            await settled()
            assert [delivery.message.body for delivery in got] == ["late"]
            await got.pop().ack()


async def test_waiting_consumers_stand_in_line():
    """Whoever waits longest is served first, and one copy is handed to one of them only."""
    async with filled() as (mesh, work):
        served: list[tuple[int, object]] = []

        async def fetch(number: int) -> None:
            delivery = await work.get()
            served.append((number, delivery.message.body))
            await delivery.ack()

        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(fetch, number)
                await settled()
            await put(mesh, "a")
            await settled()
            assert served == [(0, "a")]
            await put(mesh, "b")
            await put(mesh, "c")
        assert served == [(0, "a"), (1, "b"), (2, "c")]
        assert counts(work) == (0, 0, 0, 3)


async def test_copies_that_come_at_once_serve_the_whole_line():
    """One commit that brings several copies wakes as many consumers, each through the one before it."""
    async with filled() as (mesh, work):
        served: list[object] = []

        async def fetch() -> None:
            delivery = await work.get()
            served.append(delivery.message.body)
            await delivery.ack()

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(fetch)
            await settled()
            await mesh.exchange("").publish_many([(body, "work") for body in "abc"])
        assert served == ["a", "b", "c"]


async def test_newcomer_does_not_overtake_the_line():
    """A get that finds others waiting stands behind them, also when a copy has just entered for the first of them."""
    async with filled() as (mesh, work):
        served: list[tuple[str, object]] = []

        async def fetch(name: str) -> None:
            delivery = await work.get()
            served.append((name, delivery.message.body))
            await delivery.ack()

        async with anyio.create_task_group() as group:
            group.start_soon(fetch, "first")
            await settled()
            await put(mesh, "a")  # `first` is woken, but has not run yet
            await put(mesh, "b")
            await fetch("second")
        assert served == [("first", "a"), ("second", "b")]


async def test_cancelled_get_passes_its_wake_up_on():
    """A get that is cancelled, even after it was woken, takes no copy; the next in line gets the one that woke it."""
    mesh = Mesh("shop")
    work = mesh.mailbox("work")
    async with mesh, anyio.create_task_group() as group:
        second: list[Delivery] = []

        async def fetch() -> None:
            group.start_soon(supply)
            await (await work.get()).ack()

        async def supply() -> None:
            await anyio.lowlevel.checkpoint()
            group.start_soon(follow)
            await checkpoints()
            await put(mesh, "only")

        async def follow() -> None:
            second.append(await work.get())

        async def check(swept: Swept[None]) -> None:
            await settled()
            assert len(second) == (1 if swept.cancelled else 0)
            if not second:
                assert counts(work)[:3] == (0, 0, 0)
                await put(mesh, "for the second")
                await settled()
            assert counts(work)[:3] == (0, 1, 0)
            await second.pop().ack()

        assert await cancel_sweep(fetch, check) >= 1


@pytest.mark.parametrize("prefetch", [1, 2])
async def test_cancelled_iteration_loses_no_copy(prefetch: int):
    """Cancelling `async for` at any suspension leaves every copy ready or acked; leaving hands back what was in hand."""
    mesh = Mesh("shop")
    work = mesh.mailbox("work")
    async with mesh, anyio.create_task_group() as group:
        acked: list[int] = []

        async def consume() -> None:
            group.start_soon(supply)
            held: list[Delivery] = []
            async with work.consume(prefetch=prefetch) as deliveries:
                async for delivery in deliveries:
                    held.append(delivery)
                    if len(held) == prefetch:
                        group.start_soon(ack, held.pop(0))
                    if delivery.message.body == 4:
                        break

        async def supply() -> None:
            for number in range(5):
                await checkpoints()
                await put(mesh, number)

        async def ack(delivery: Delivery) -> None:
            await anyio.lowlevel.checkpoint()
            if not delivery.is_settled:
                await delivery.ack()
                acked.append(delivery.message.body)

        async def check(swept: Swept[None]) -> None:
            await settled()
            rest = [message.body for message in work.peek()]
            assert sorted(acked + rest) == [0, 1, 2, 3, 4]
            assert rest == sorted(rest)
            assert counts(work)[1:3] == (0, 0)
            assert work.core.consumers == 0
            work.purge()
            acked.clear()

        assert await cancel_sweep(consume, check) >= 5


async def test_get_is_cancellable_among_plenty():
    """A consumer that never has to wait lets others run all the same, and can be cancelled there."""
    async with filled(*range(1000)) as (_, work):
        taken = 0
        with anyio.move_on_after(0) as scope:
            while True:
                delivery = await work.get()
                taken += 1
                await delivery.ack()
        assert scope.cancelled_caught
        assert taken <= 64
        assert counts(work) == (1000 - taken, 0, 0, taken)


# Settling


async def test_nack_goes_back_to_its_place():
    """A copy that is handed back comes out again before younger ones, marked as redelivered."""
    async with filled("a", "b", "c") as (_, work):
        first, second = await work.get(), await work.get()
        await second.nack()
        await first.nack()
        bodies: list[object] = []
        for _ in range(3):
            delivery = await work.get()
            bodies.append((delivery.message.body, delivery.redelivered, delivery.attempt))
            await delivery.ack()
        assert bodies == [("a", True, 1), ("b", True, 1), ("c", False, 1)]


async def test_nack_with_priorities_keeps_rank_and_place():
    """In a mailbox with priorities a copy handed back stands among those of its priority, at its old place."""
    async with filled(options=MailboxOptions(priorities=True)) as (mesh, work):
        for body, priority in (("low", 1), ("high", 9), ("high too", 9)):
            await put(mesh, body, priority=priority)
        first = await work.get()
        await first.nack()
        assert [message.body for message in work.peek()] == ["high", "high too", "low"]
        assert [(await take(work)) for _ in range(3)] == ["high", "high too", "low"]


async def take(mailbox: Mailbox) -> object:
    """Get and ack."""
    delivery = await mailbox.get()
    await delivery.ack()
    return delivery.message.body


async def test_nack_with_delay_waits():
    """nack(delay) hands the copy back after that time; meanwhile it is delayed, and others are handed out."""
    async with filled("a", "b") as (_, work):
        delivery = await work.get()
        await delivery.nack(delay=5.0)
        assert counts(work) == (1, 0, 1, 0)
        assert await take(work) == "b"
        with anyio.move_on_after(4.9) as scope:
            await work.get()
        assert scope.cancelled_caught
        began = anyio.current_time()
        assert await take(work) == "a"
        assert anyio.current_time() - began == pytest.approx(0.1, abs=0.01)


async def test_nack_wakes_the_next_in_line():
    """A copy handed back goes to a consumer who waits."""
    async with filled("a") as (_, work):
        delivery = await work.get()
        got: list[Delivery] = []
        async with anyio.create_task_group() as group:

            async def fetch() -> None:
                got.append(await work.get())

            group.start_soon(fetch)
            await settled()
            await delivery.nack()
        assert got[0].redelivered
        await got[0].ack()


@pytest.mark.parametrize("delay", [-1.0, float("nan"), float("inf")])
async def test_wrong_delay_settles_nothing(delay: float):
    """A delay that is no number of seconds is refused by name, and the delivery can still be settled."""
    async with filled("a") as (_, work):
        delivery = await work.get()
        with pytest.raises(ValueError, match="delay must be zero or more seconds, not"):
            await delivery.nack(delay=delay)
        assert not delivery.is_settled
        await delivery.ack()


async def test_reject_makes_a_dead_letter():
    """Rejecting ends the copy as `rejected`, with what the consumer said."""
    async with filled("a") as (mesh, work):
        await (await work.get()).reject("no such customer")
        (letter,) = mesh.dead_letters.list()
        assert (letter.body, letter.deaths[0].reason, letter.deaths[0].detail) == ("a", "rejected", "no such customer")
        assert work.statistics().dead == 1


async def test_settling_twice_names_the_first_verdict():
    """A delivery is settled once; the second try says what was done before, gives the message back, and changes nothing."""
    async with filled("a", "b", "c") as (_, work):
        acked, nacked, rejected = await work.get(), await work.get(), await work.get()
        await acked.ack()
        await nacked.nack(delay=60)
        await rejected.reject()
        for delivery, verb in ((acked, "acked"), (nacked, "handed back"), (rejected, "rejected")):
            text = f"the delivery of message {delivery.message.id} has already been {verb}: settle each delivery once"
            before = counts(work)
            for again in (delivery.ack, delivery.nack, delivery.reject):
                with pytest.raises(AlreadySettled) as caught:
                    await again()
                assert str(caught.value) == text
                assert caught.value.message is delivery.message
            assert counts(work) == before


async def test_max_deliveries_by_nack():
    """Hand-outs that end without a verdict are counted; the last one that may makes a dead letter, `delivery_limit`."""
    async with filled("a", options=MailboxOptions(max_deliveries=3)) as (mesh, work):
        for handout in range(3):
            delivery = await work.get()
            assert (delivery.redelivered, delivery.attempt) == (handout > 0, 1)
            assert len(mesh.dead_letters) == 0
            await delivery.nack()
        assert counts(work) == (0, 0, 0, 0)
        (letter,) = mesh.dead_letters.list(reason="delivery_limit")
        assert letter.deaths[0].detail == "handed out 3 times without a verdict"


async def test_leaving_does_not_count_as_a_handout():
    """What a consumer hands back by leaving, or by forgetting, does not bring a copy nearer to its limit."""
    async with filled("a", options=MailboxOptions(max_deliveries=1)) as (mesh, work):
        for _ in range(3):
            async with work.consume() as deliveries:
                delivery = await anext(aiter(deliveries))
            assert delivery.is_settled
        assert counts(work) == (1, 0, 0, 0)
        assert len(mesh.dead_letters) == 0


async def test_settling_after_the_mailbox_is_gone():
    """A leased copy of a deleted mailbox is still settled; handed back, it ends as purged."""
    async with filled("a", "b", "c") as (mesh, work):
        first, second, third = await work.get(), await work.get(), await work.get()
        assert work.delete() == 0
        await first.ack()
        await second.nack()
        await third.nack(delay=1)
        assert counts(work) == (0, 0, 0, 1)
        assert work.statistics().purged == 2
        await mesh.idle()


async def test_settling_after_the_mesh_has_stopped():
    """A delivery outlives its mesh: its verdict counts, and what is handed back is there at the next start."""
    async with filled("a", "b", "c") as (mesh, work):
        first, second, third = await work.get(), await work.get(), await work.get()
    await first.ack()
    await second.nack()
    assert counts(work) == (1, 1, 0, 1)
    async with mesh:
        await third.ack()
        assert await take(work) == "b"
        await mesh.idle()


# Forgotten deliveries


async def test_forgotten_delivery_goes_back():
    """A delivery dropped unsettled warns, naming message and mailbox, and its copy is handed out again, uncounted."""
    async with filled("a", options=MailboxOptions(max_deliveries=1)) as (mesh, work):
        in_hand = [await work.get()]
        text = (
            f"a delivery of message {in_hand[0].message.id} from mailbox 'work' was forgotten: "
            "it goes back; settle it with ack(), nack() or reject()"
        )
        with pytest.warns(ResourceWarning) as caught:
            forget(in_hand)
        assert [str(warning.message) for warning in caught] == [text]
        await mesh.idle()
        again = work.get_nowait()
        assert again.redelivered
        await again.ack()
        assert len(mesh.dead_letters) == 0


async def test_delivery_forgotten_in_a_cycle():
    """A delivery that only a cycle holds goes back when the collector finds it."""
    async with filled("a") as (_, work):
        cycle: list[object] = [await work.get()]
        cycle.append(cycle)
        del cycle
        with pytest.warns(ResourceWarning, match="was forgotten"):
            gc.collect()
        assert await take(work) == "a"


async def test_delivery_forgotten_in_another_thread():
    """The collector may run in any thread: the copy goes back in the loop's own."""
    async with filled("a") as (_, work):
        in_hand = [await work.get()]
        with pytest.warns(ResourceWarning, match="was forgotten"):
            await anyio.to_thread.run_sync(forget, in_hand)
        assert await take(work) == "a"


async def test_forgotten_delivery_frees_its_place_in_the_prefetch():
    """A consumer that forgets a delivery is handed the copy again, in its place."""
    async with filled("a") as (_, work), work.consume(prefetch=1) as deliveries:
        iterator = aiter(deliveries)
        in_hand = [await anext(iterator)]
        with pytest.warns(ResourceWarning, match="was forgotten"):
            forget(in_hand)
        again = await anext(iterator)
        assert (again.message.body, again.redelivered) == ("a", True)
        await again.ack()


async def test_delivery_forgotten_after_the_mesh_stopped():
    """A delivery forgotten while its mesh does not run goes back, at the latest when that starts again."""
    mesh = Mesh("shop", grace=0)
    work = mesh.mailbox("work")
    async with mesh:
        await put(mesh, "a")
        in_hand = [await work.get()]
    with pytest.warns(ResourceWarning, match="was forgotten"):
        forget(in_hand)
    async with mesh:
        await mesh.idle()
        assert await take(work) == "a"


async def test_delivery_forgotten_after_its_mailbox_was_deleted():
    """Forgotten when neither mesh runs nor mailbox is there any more: its lease ends when the mesh starts again."""
    mesh = Mesh("shop", grace=0)
    work = mesh.mailbox("work")
    async with mesh:
        await put(mesh, "a")
        in_hand = [await work.get()]
        work.delete()
    with pytest.warns(ResourceWarning, match="was forgotten"):
        forget(in_hand)
    async with mesh:
        await mesh.idle()
        assert counts(work) == (0, 0, 0, 0)


# Consuming


async def test_consume_gives_at_most_prefetch():
    """No more than `prefetch` deliveries are unsettled at a time; settling one, in whatever way, lets the next come."""
    async with filled(*range(6)) as (_, work), work.consume(prefetch=2) as deliveries:
        iterator = aiter(deliveries)
        in_hand = [await anext(iterator), await anext(iterator)]
        for verdict in ("ack", "nack", "reject"):
            with anyio.move_on_after(1) as scope:
                await anext(iterator)
            assert scope.cancelled_caught
            assert counts(work)[1] == 2
            delivery = in_hand.pop()
            await (delivery.nack(delay=100) if verdict == "nack" else getattr(delivery, verdict)())
            in_hand.append(await anext(iterator))


async def test_several_tasks_share_one_consumer():
    """Tasks that iterate over the same deliveries share its prefetch; each copy goes to one of them."""
    async with filled() as (mesh, work):
        seen: list[int] = []
        most = 0

        async def loop(deliveries: Deliveries) -> None:
            nonlocal most
            async for delivery in deliveries:
                most = max(most, counts(work)[1])
                await anyio.sleep(1)
                seen.append(delivery.message.body)
                await delivery.ack()

        async with work.consume(prefetch=2) as deliveries, anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(loop, deliveries)
            await settled()
            for number in range(10):
                await put(mesh, number)
            await mesh.idle()
            await advance(10)
            assert sorted(seen) == list(range(10))
            assert most == 2
            group.cancel_scope.cancel()


async def test_cancelled_iteration_gives_its_place_up():
    """When a task that waits for a copy is cancelled, the one that waits for its place among the prefetch takes over."""
    async with filled() as (mesh, work), work.consume(prefetch=1) as deliveries, anyio.create_task_group() as group:
        in_hand: list[Delivery] = []
        first = anyio.CancelScope()

        async def fetch() -> None:
            with first:
                await collect(deliveries, [])

        group.start_soon(fetch)
        await settled()
        group.start_soon(collect, deliveries, in_hand)
        await settled()
        first.cancel()
        await settled()
        await put(mesh, "a")
        await settled()
        assert [delivery.message.body for delivery in in_hand] == ["a"]
        group.cancel_scope.cancel()


async def test_leaving_hands_back():
    """Leaving the block, by an exception too, hands back what is unsettled, at its place; what is settled stays so."""
    async with filled("a", "b", "c", "d") as (_, work):
        in_hand: list[Delivery] = []

        async def consume() -> None:
            async with work.consume() as deliveries:
                async for delivery in deliveries:
                    in_hand.append(delivery)
                    if delivery.message.body == "b":
                        await delivery.ack()
                    if delivery.message.body == "c":
                        raise LookupError

        with pytest.raises(LookupError):
            await consume()
        assert [message.body for message in work.peek()] == ["a", "c", "d"]
        assert counts(work) == (3, 0, 0, 1)
        with pytest.raises(AlreadySettled, match="has already been handed back"):
            await in_hand[0].ack()


@pytest.mark.parametrize("ready", [0, 1])
async def test_leaving_ends_the_iterations_of_other_tasks(ready: int):
    """Tasks that still iterate when the block is left end, whatever they wait for, and take no copy after that."""
    async with filled(*range(ready)) as (mesh, work):
        ended: list[str] = []
        in_hand: list[Delivery] = []

        async def loop(deliveries: Deliveries, name: str) -> None:
            await collect(deliveries, in_hand)
            ended.append(name)

        async with anyio.create_task_group() as group, work.consume(prefetch=1) as deliveries:
            group.start_soon(loop, deliveries, "first")
            await settled()
            group.start_soon(loop, deliveries, "second")
            await settled()
            assert (len(in_hand), ended) == (ready, [])
        assert sorted(ended) == ["first", "second"]
        await put(mesh, "new")
        assert counts(work) == (ready + 1, 0, 0, 0)


async def test_consumers_are_counted_while_they_consume():
    """A mailbox with an open consumer is in use, and is not when that has left."""
    async with filled() as (_, work):
        async with work.consume():
            with pytest.raises(PreconditionFailed, match=r"mailbox 'work' is in use: it has 1 consumer\(s\)"):
                work.delete(if_unused=True)
        work.delete(if_unused=True)


@pytest.mark.parametrize("prefetch", [0, -1, True, 1.5, "many"])
async def test_prefetch_is_a_positive_whole_number(prefetch: int):
    """A prefetch that cannot be is refused by name."""
    async with filled() as (_, work):
        with pytest.raises(ValueError, match="prefetch must be a whole number of at least 1, not"):
            work.consume(prefetch)


async def test_deliveries_outside_their_block():
    """Nothing is handed out where nobody would hand it back: before the block, after it, or in a second one."""
    async with filled("a") as (_, work):
        deliveries = work.consume()
        with pytest.raises(PreconditionFailed, match="iterate inside the block: async with"):
            await anext(aiter(deliveries))
        async with deliveries:
            with pytest.raises(PreconditionFailed, match="are being consumed already"):
                await deliveries.__aenter__()
        with pytest.raises(PreconditionFailed, match="iterate inside the block: async with"):
            await anext(aiter(deliveries))
        async with deliveries:
            delivery = await anext(aiter(deliveries))
            await delivery.ack()
        assert counts(work) == (0, 0, 0, 1)
        assert work.core.consumers == 0


# The mesh around it


async def test_idle_waits_for_leases():
    """A mesh is not idle while a delivery is unsettled, nor while a copy that was handed back waits for its time."""
    async with filled("a") as (mesh, work):
        delivery = await work.get()
        with anyio.move_on_after(1) as scope:
            await mesh.idle()
        assert scope.cancelled_caught
        await delivery.nack(delay=7)
        began = anyio.current_time()
        await mesh.idle()
        assert anyio.current_time() - began == pytest.approx(7, abs=0.01)
        assert await take(work) == "a"
        await mesh.idle()


async def test_drain_ends_waiting_consumers():
    """When the mesh drains a waiting get raises MeshStopped and `async for` ends, wherever it waits."""
    mesh = Mesh("shop", grace=5)
    work, full = mesh.mailbox("work"), mesh.mailbox("full")
    ended: list[str] = []

    async def fetch() -> None:
        with pytest.raises(MeshStopped, match="mesh 'shop' is draining: nothing more is handed out"):
            await work.get()
        ended.append("get")

    async def loop(mailbox: Mailbox) -> None:
        async with mailbox.consume(prefetch=1) as deliveries:
            await collect(deliveries, in_hand)
        ended.append(mailbox.name)

    in_hand: list[Delivery] = []
    async with anyio.create_task_group() as group, mesh:
        group.start_soon(fetch)
        group.start_soon(loop, work)
        group.start_soon(loop, full)
        await mesh.exchange("").publish("a", "full")
        await settled()
        assert len(in_hand) == 1
        mesh.stop()
        await settled()
        assert sorted(ended) == ["full", "get", "work"]
        with pytest.raises(MeshStopped):
            work.get_nowait()
    assert counts(full) == (1, 0, 0, 0)


async def test_drain_waits_for_deliveries_in_hand():
    """A drain gives a consumer its grace to settle what it has; what it acks in that time is acked."""
    mesh = Mesh("shop", grace=5)
    work = mesh.mailbox("work")

    async def handle() -> None:
        delivery = await work.get()
        await anyio.sleep(2)
        await delivery.ack()

    async with anyio.create_task_group() as group:
        async with mesh:
            await put(mesh, "a")
            group.start_soon(handle)
            await settled()
            began = anyio.current_time()
        assert anyio.current_time() - began == pytest.approx(2, abs=0.01)
        assert counts(work) == (0, 0, 0, 1)


async def test_fault_ends_waiting_consumers_with_its_cause():
    """When the mesh stops by itself, a waiting get raises MeshStopped from what stopped it."""
    mesh = Mesh("shop")
    work = mesh.mailbox("work")
    caught: list[BaseException | None] = []
    failure = OSError("disk gone")

    @mesh.source
    async def poll(ctx: object) -> None:
        await anyio.sleep(1)
        raise failure

    async def fetch() -> None:
        with pytest.raises(MeshStopped) as stopped:
            await work.get()
        caught.append(stopped.value.__cause__)

    async with anyio.create_task_group() as group:
        with pytest.raises(OSError, match="disk gone"):  # noqa: PT012 - leaving the mesh raises
            async with mesh:
                group.start_soon(fetch)
                await anyio.sleep(10)
    assert caught == [failure]


async def test_deleting_the_mailbox_ends_its_consumers():
    """A waiting get of a mailbox that is deleted raises NotFound; `async for` ends, and its deliveries are still settled."""
    async with filled("a") as (mesh, work):
        ended: list[str] = []
        in_hand: list[Delivery] = []

        async def fetch() -> None:
            with pytest.raises(NotFound, match="mailbox 'work' has been deleted: declare it again to pull from it"):
                await work.get()
            ended.append("get")

        async def loop() -> None:
            async with work.consume(prefetch=1) as deliveries:
                await collect(deliveries, in_hand)
                await in_hand[0].ack()
            ended.append("consume")

        async with anyio.create_task_group() as group:
            group.start_soon(loop)
            await settled()
            group.start_soon(fetch)
            await settled()
            work.delete()
        assert sorted(ended) == ["consume", "get"]
        assert counts(work) == (0, 0, 0, 1)
        with pytest.raises(NotFound):
            work.get_nowait()
        await mesh.idle()


async def test_not_running():
    """Pulling from a mesh that has not started raises NotRunning; from one that has stopped, MeshStopped."""
    mesh = Mesh("shop")
    work = mesh.mailbox("work")
    text = "mesh 'shop' has not been started: pull from a mailbox inside 'async with mesh'"
    with pytest.raises(NotRunning, match=text):
        work.get_nowait()
    with pytest.raises(NotRunning, match=text):
        await work.get()
    with pytest.raises(NotRunning, match=text):
        async with work.consume():
            pass
    async with mesh:
        pass
    with pytest.raises(MeshStopped, match="mesh 'shop' has stopped: nothing more is handed out"):
        await work.get()


async def test_pulling_from_a_foreign_thread():
    """A thread that is not the mesh's is refused and told how to do it."""
    async with filled("a") as (_, work):
        with pytest.raises(MeshError, match=r"runs in another thread: pull with anyio\.from_thread\.run\(mailbox\.get\)"):
            await anyio.to_thread.run_sync(work.get_nowait)
        assert await take(work) == "a"


async def test_actor_s_mailbox_is_not_pulled_from():
    """get, get_nowait and consume refuse a mailbox that feeds an actor, by name; not any more once the actor is stopped."""
    mesh = Mesh("shop")

    @mesh.actor
    async def work(body: str) -> None: ...

    text = "mailbox 'work' feeds actor 'work': bind a mailbox of its own to pull from, or stop the actor"
    async with mesh:
        with pytest.raises(PreconditionFailed, match=text):
            work.mailbox.get_nowait()
        with pytest.raises(PreconditionFailed, match=text):
            await work.mailbox.get()
        with pytest.raises(PreconditionFailed, match=text):
            work.mailbox.consume()
        await work.stop()
        await put(mesh, "a")
        assert await take(work.mailbox) == "a"


async def test_actor_takes_a_mailbox_over():
    """An actor declared on a mailbox that is being pulled from takes it over.

    Consumers who wait, or come for more, get PreconditionFailed that names the actor; what they have in hand they settle, and
    what they hand back goes to the actor. Every copy is handled once.
    """
    mesh = Mesh("shop")
    work = mesh.mailbox("work")
    handled: list[str] = []
    turned_away: list[str] = []

    async def fetch() -> None:
        with pytest.raises(PreconditionFailed, match="mailbox 'work' now feeds actor 'worker'"):
            await work.get()
        turned_away.append("get")

    async def loop() -> None:
        async with work.consume(prefetch=1) as deliveries:
            with pytest.raises(PreconditionFailed, match="mailbox 'work' now feeds actor 'worker'"):
                await collect(deliveries, in_hand)
        turned_away.append("consume")

    in_hand: list[Delivery] = []
    async with mesh, anyio.create_task_group() as group:
        await put(mesh, "in hand")
        await put(mesh, "acked")
        group.start_soon(loop)
        await settled()
        kept = await work.get()
        group.start_soon(fetch)
        await settled()

        async def worker(body: str) -> None:
            handled.append(body)

        mesh.actor(worker, mailbox=work)
        await put(mesh, "new")
        await kept.ack()
        await mesh.idle()
        assert sorted(turned_away) == ["consume", "get"]
        assert sorted(handled) == ["in hand", "new"]
        assert counts(work) == (0, 0, 0, 3)


async def test_expired_copies_are_not_handed_out():
    """A consumer gets the first copy whose time is not over; one that expires in its hands may still be acked."""
    async with filled(options=MailboxOptions(ttl=5)) as (mesh, work):
        await put(mesh, "old")
        await advance(3)
        await put(mesh, "young")
        await advance(3)
        delivery = work.get_nowait()
        assert delivery.message.body == "young"
        await advance(10)
        await delivery.ack()
        assert (work.statistics().expired, work.statistics().acked) == (1, 1)


async def test_expired_in_hand_and_handed_back(caplog: pytest.LogCaptureFixture):
    """A copy whose time is over when it is handed back ends as expired: it would never be handed out."""
    caplog.set_level(logging.DEBUG, "flowmesh.shop")
    async with filled("a", options=MailboxOptions(ttl=5)) as (_, work):
        delivery = await work.get()
        await advance(6)
        await delivery.nack()
        assert (counts(work), work.statistics().expired) == ((0, 0, 0, 0), 1)
        assert "forgotten" not in caplog.text
