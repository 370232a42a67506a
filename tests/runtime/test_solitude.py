"""A copy that is suspected of ending processes has its mailbox to itself: what it does next is held against nobody else."""

from collections.abc import Callable
from typing import Any

import anyio
import pytest
from msgspec import Struct

from flowmesh import Actor, Context, Limit, Machine, MailboxOptions, Mesh, Rate, Retry, on
from flowmesh._core.entry import Entry
from flowmesh._core.shelf import MARK_ALONE, is_grave
from flowmesh.message import Message
from flowmesh.testing import settled
from tests.runtime.stores import Planted

pytestmark = pytest.mark.anyio

SLOTS = 3


async def dies(store: Planted, declare: Callable[[Mesh], Actor[int, None]], hung: anyio.Event, numbers: range) -> Planted:
    """Let a mesh have as many messages in hand as it can; return what is stored at that moment, as if its process died."""
    mesh = Mesh("shop", store=store, grace=0.0)
    actor = declare(mesh)
    async with mesh:
        await mesh.exchange("").publish_many([(number, actor.name) for number in numbers])
        await hung.wait()
        return store.image()


def hanging(mesh: Mesh, hung: anyio.Event, options: MailboxOptions) -> Actor[int, None]:
    """Declare an actor whose handlers never return; the event is set when all of its slots are taken."""
    running = 0

    @mesh.actor(concurrency=SLOTS, mailbox=options)
    async def handle(number: int) -> None:
        nonlocal running
        running += 1
        if running == SLOTS:
            hung.set()
        await anyio.sleep_forever()

    return handle


async def suspected(options: MailboxOptions) -> Planted:
    """Return a store with six messages, of which the first three have been in the hands of two processes that died."""
    store = Planted()
    for numbers in (range(6), range(0)):
        hung = anyio.Event()
        store = await dies(store, lambda mesh, hung=hung: hanging(mesh, hung, options), hung, numbers)
    return store


@pytest.mark.parametrize("retry", [None, Retry(3, initial=0.0)])
async def test_nothing_of_its_mailbox_is_in_hand_with_it(retry: Retry | None) -> None:
    """The suspected ones are handled one at a time, retries included; the others together, and all of them are handled."""
    options = MailboxOptions(max_deliveries=5)
    mesh = Mesh("shop", store=await suspected(options))
    in_hand: set[int] = set()
    together: dict[int, int] = {}
    handled: list[int] = []

    @mesh.actor(concurrency=SLOTS, mailbox=options, retry=retry)
    async def handle(number: int, ctx: Context) -> None:
        in_hand.add(number)
        for one in in_hand:
            together[one] = max(together.get(one, 0), len(in_hand))
        try:
            for _ in range(5):
                await anyio.lowlevel.checkpoint()
            if retry is not None and ctx.attempt == 1:
                raise OSError
            handled.append(number)
        finally:
            in_hand.remove(number)

    async with mesh:
        await mesh.idle()
        assert len(mesh.dead_letters) == 0
    assert sorted(handled) == list(range(6))
    assert [together[number] for number in range(3)] == [1, 1, 1]
    assert max(together.values()) > 1


@pytest.mark.parametrize("slots", [1, SLOTS])
async def test_one_that_is_handed_out_once_at_most(slots: int) -> None:
    """With `max_deliveries=1` a death ends what was in hand with it, and nothing else of its mailbox."""
    options = MailboxOptions(max_deliveries=1)
    handled: list[int] = []

    def three(mesh: Mesh, hung: anyio.Event) -> Any:
        running = 0

        @mesh.actor(concurrency=slots, mailbox=options)
        async def handle(number: int) -> None:
            nonlocal running
            if len(handled) < 2:
                handled.append(number)
                return
            running += 1
            if running == slots:
                hung.set()
            await anyio.sleep_forever()

        return handle

    hung = anyio.Event()
    store = await dies(Planted(), lambda mesh: three(mesh, hung), hung, range(9))
    mesh = Mesh("shop", store=store)
    later: list[int] = []

    @mesh.actor(mailbox=options)
    async def handle(number: int) -> None:
        later.append(number)

    async with mesh:
        await mesh.idle()
        dead = [message.body for message in mesh.dead_letters.list()]
    assert handled == [0, 1]
    assert sorted(dead) == list(range(2, 2 + slots))
    assert later == list(range(2 + slots, 9))


@pytest.mark.parametrize("slots", [1, SLOTS])
async def test_it_goes_on_after_a_plain_ack(slots: int) -> None:
    """Acks that are written together end the solitude as well: the next one is handed out."""
    options = MailboxOptions(max_deliveries=5)
    mesh = Mesh("shop", store=await suspected(options))
    handled: list[int] = []

    @mesh.actor(concurrency=slots, mailbox=options)
    async def handle(number: int) -> None:
        handled.append(number)

    async with mesh:
        await mesh.idle()
        await handle.tell(6)
        await mesh.idle()
    assert sorted(handled) == list(range(7))


async def test_what_cannot_start_keeps_nobody_waiting() -> None:
    """A suspected copy that a gate holds back, or whose lane is busy, is set aside like any other."""
    options = MailboxOptions(max_deliveries=5)
    mesh = Mesh("shop", store=await suspected(options))
    handled: list[int] = []

    @mesh.actor(concurrency=SLOTS, mailbox=options, by=lambda number: number % 2, gates=[Limit(1, by=lambda _: "one")])
    async def handle(number: int) -> None:
        await anyio.lowlevel.checkpoint()
        handled.append(number)

    async with mesh:
        await mesh.idle()
    assert sorted(handled) == list(range(6))


class Go(Struct, frozen=True):
    pass


class Want(Struct, frozen=True):
    pass


class Shy(Machine, initial="out"):
    @on("out", to="in", ignore="in")
    async def go(self, message: Go) -> None: ...

    @on("in", postpone="out")
    async def want(self, message: Want) -> None: ...


@pytest.mark.parametrize("waits_for", ["a gate", "a state"])
async def test_what_waits_is_not_suspected_of_more(waits_for: str) -> None:
    """Who was never handed out is held against once at most, however often its process dies while it waits."""
    store, options = Planted(), MailboxOptions(max_deliveries=3)
    for death in range(6):
        mesh = Mesh("shop", store=store, grace=0.0)
        handled: list[int] = []

        async def handle(number: int, handled: list[int] = handled) -> None:
            handled.append(number)

        if waits_for == "a gate":
            actor: Actor[Any, Any] = mesh.actor(handle, gates=[Rate(1, per=1e6)], mailbox=options)
            sent: list[Any] = [1, 2, 3]
        else:
            actor = mesh.actor(Shy, mailbox=options)
            sent = [Want(), Want()]
        async with mesh:
            if not death:
                await mesh.exchange("").publish_many([(body, actor.name) for body in sent])
            await settled()
            assert mesh.dead_letters.list() == []
            assert len(handled) == (not death and waits_for == "a gate")
            store = store.image()  # as if its process died


async def test_manual_consumer_gets_one_at_a_time() -> None:
    """A consumer that holds a suspected delivery is given nothing else until it has settled it."""
    options = MailboxOptions(max_deliveries=5)
    mesh = Mesh("shop", store=await suspected(options))
    mailbox = mesh.mailbox("handle", options)
    async with mesh, mailbox.consume(prefetch=6) as deliveries:
        seen: list[int] = []
        async for delivery in deliveries:
            seen.append(delivery.message.body)
            if len(seen) <= 3:
                assert mailbox.statistics().leased == 1
            await delivery.ack()
            if len(seen) == 6:
                break
    assert sorted(seen) == list(range(6))


@pytest.mark.parametrize(
    "handouts, limit, grave", [(0, 20, False), (1, 20, False), (2, 20, True), (1, 2, True), (1, 3, False), (0, 1, False)]
)
def test_when_a_copy_is_grave(handouts: int, limit: int, grave: bool) -> None:
    """From two processes on, or where one more would be one too many."""
    entry = Entry(Message("m", 1, None), 0.0)
    entry.alone, entry.handouts = MARK_ALONE, handouts
    assert is_grave(entry, limit) == grave
    entry.alone = 0  # Not of a store, or not suspected: who nacks it has given it back himself.
    assert not is_grave(entry, limit)
