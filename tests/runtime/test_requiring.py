"""What a publish requires, and what its receipt says that it got."""

import datetime

import anyio
import pytest

from flowmesh import DurabilityUnavailable, Encoded, MailboxOptions, MemoryStore, Mesh, Part, Receipt, Unencodable
from flowmesh._core.records import Batch
from flowmesh.errors import ForkedProcessError, PreconditionFailed, StoreError
from flowmesh.message import Durability
from flowmesh.testing import settled
from tests.runtime.stores import Planted

pytestmark = pytest.mark.anyio


class Secret:
    """A body of which nobody knows how it would be stored."""


def shop(durability: Durability) -> Mesh:
    """A mesh with a store of this level, and a mailbox that has none of it."""
    mesh = Mesh("shop", store=None if durability == "none" else MemoryStore(durability=durability))

    @mesh.actor(name="work")
    async def work(body: int) -> None:
        del body

    mesh.mailbox("fleeting", MailboxOptions(durable=False))
    return mesh


@pytest.mark.parametrize("durability", ["none", "process", "power"])
async def test_a_receipt_says_what_its_message_survives(durability: Durability):
    """The store's level, whichever way the message went; "none" for a send that does not wait, and for a mailbox without."""
    mesh = shop(durability)
    async with mesh:
        work, exchange = mesh.mailbox("work"), mesh.exchange("")
        assert (await exchange.publish(1, "work")).durability == durability
        assert (await exchange.publish(1, "work", priority=1)).durability == durability
        assert (await exchange.publish(1, "work", delay=1.0)).durability == durability
        assert [receipt.durability for receipt in await exchange.publish_many([(1, "work"), (2, "work")])] == [durability] * 2
        assert exchange.publish_nowait(1, "work").durability == "none"
        assert (await exchange.publish(1, "fleeting")).durability == "none"
        del work


async def test_the_weakest_mailbox_says_what_is_promised():
    """A message for a durable mailbox and for one that is not survives nothing, as far as its publisher can know."""
    mesh = shop("power")
    everything = mesh.exchange("everything", "fanout")
    everything.bind(mesh.mailbox("fleeting"))
    everything.bind(mesh.mailbox("kept"))
    async with mesh:
        receipt = await everything.publish(1)
        assert (receipt.routed, receipt.durability) == (2, "none")


@pytest.mark.parametrize("durability, enough", [("none", ()), ("process", ("process",)), ("power", ("process", "power"))])
async def test_less_than_is_required_is_refused(durability: Durability, enough: tuple[Durability, ...]):
    """DurabilityUnavailable names the mailbox and both levels, gives the message back, and no mailbox has a copy."""
    mesh = shop(durability)
    async with mesh:
        exchange = mesh.exchange("")
        levels: tuple[Durability, ...] = ("process", "power")
        for level in levels:
            if level in enough:
                assert (await exchange.publish(1, "work", require=level)).routed == 1
                continue
            reason = f"requires '{level}', and mailbox 'work' promises '{durability}'"
            with pytest.raises(DurabilityUnavailable, match=reason) as refused:
                await exchange.publish(1, "work", require=level)
            assert refused.value.message is not None
            assert refused.value.message.body == 1
            with pytest.raises(DurabilityUnavailable, match="deferred to mailbox 'work' of mesh 'shop' survives '"):
                await exchange.publish(1, "work", require=level, delay=1.0)
            with pytest.raises(DurabilityUnavailable, match="fleeting"):
                await exchange.publish(1, "fleeting", require=level)
        for level in enough:
            with pytest.raises(DurabilityUnavailable, match="declare it without durable=False, or require less"):
                await exchange.publish(1, "fleeting", require=level)
            with pytest.raises(DurabilityUnavailable, match="declare that without durable=False, or require less"):
                await exchange.publish(1, "fleeting", require=level, delay=1.0)
        with pytest.raises(DurabilityUnavailable, match="await the send"):
            exchange.publish_nowait(1, "work", require="process")
        await mesh.idle()
        assert mesh.statistics().mailboxes["work"].entered == len(enough)


async def test_what_is_deferred_to_an_exchange_that_is_not_durable_is_not_stored():
    """Its receipt says so, more is refused, and the next run knows nothing of it; what lies in mailboxes is theirs to keep."""
    store = MemoryStore(durability="process")
    for is_first in (True, False):
        mesh = Mesh("shop", store=store)
        kept, fleeting = mesh.exchange("kept", "fanout", durable=True), mesh.exchange("fleeting", "fanout", durable=False)
        work = mesh.mailbox("work")
        kept.bind(work)
        fleeting.bind(work)
        async with mesh:
            if is_first:
                assert (await kept.publish(1, delay=60.0)).durability == "process"
                assert (await fleeting.publish(2, delay=60.0)).durability == "none"
                assert (await fleeting.publish(3)).durability == "process"
                with pytest.raises(DurabilityUnavailable, match=r"deferred to exchange 'fleeting' .* without durable=False"):
                    await fleeting.publish(4, delay=60.0, require="process")
            else:
                assert [message.body for message in work.peek()] == [3]
                assert [timer.message.body for timer in mesh.timers.list()] == [1]


async def test_an_exchange_that_must_be_durable():
    """Needs a store, when the mesh starts or while it runs; declared differently it is refused, in a part as well."""
    mesh = Mesh("shop")
    mesh.exchange("kept", durable=True)
    with pytest.raises(
        PreconditionFailed, match="exchange 'kept' is declared durable, and mesh 'shop' has no store: give it one"
    ):
        async with mesh:
            pytest.fail("it has started")
    running = Mesh("shop")
    running.exchange("plain", durable=False)
    with pytest.raises(PreconditionFailed, match="durable"):
        running.exchange("plain", durable=True)
    assert running.exchange("plain").name == "plain"
    with pytest.raises(ValueError, match="durable must be True, False, or None, not 'yes'"):
        running.exchange("other", durable="yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - refused
    part = Part("parts")
    part.exchange("of part", durable=True)
    async with running:
        with pytest.raises(PreconditionFailed, match="exchange 'late' is declared durable"):
            running.exchange("late", durable=True)
    running.add(part)
    with pytest.raises(PreconditionFailed, match="exchange 'of part' is declared durable"):
        async with running:
            pytest.fail("it has started")


async def test_a_level_that_is_none_is_refused():
    """A level that does not exist is a ValueError naming those that do."""
    mesh = shop("power")
    async with mesh:
        with pytest.raises(ValueError, match="require must be one of none, process, power"):
            await mesh.exchange("").publish(1, "work", require="always")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def test_a_body_that_cannot_come_back_is_refused_and_changes_nothing():
    """Unencodable, by the short way and by the long one, and as a deferred message; the mailbox has entered nothing."""
    mesh = Mesh("shop", store=MemoryStore())
    kept = mesh.mailbox("kept")
    async with mesh:
        exchange = mesh.exchange("")
        at = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
        with pytest.raises(Unencodable, match=r"mailbox 'kept' cannot store .* so that it comes back as Secret: ") as refused:
            await exchange.publish(Secret(), "kept")
        assert isinstance(refused.value.message.body if refused.value.message else None, Secret)
        with pytest.raises(Unencodable, match="no actor of the mesh takes that type"):
            await exchange.publish(Secret(), "kept", priority=3)
        with pytest.raises(Unencodable):
            await exchange.publish(Secret(), "kept", at=at)
        with pytest.raises(Unencodable):
            exchange.publish_nowait(Secret(), "kept")
        with pytest.raises(Unencodable):
            await exchange.publish({"a": [Secret()]}, "kept")
        assert kept.statistics().entered == 0
        assert (await exchange.publish({"a": [1, 2.0, "b", None, b"c"]}, "kept")).routed == 1


async def test_a_header_that_cannot_be_stored_is_named():
    """Unencodable says which of several it is, whether the message enters at once or later; without one, that it is none."""
    mesh = Mesh("shop", store=MemoryStore())
    kept = mesh.mailbox("kept")
    async with mesh:
        exchange = mesh.exchange("")
        headers = {"x-shop": "north", "x-till": {"numbers": [1 << 70]}, "x-clerk": 3}
        for delay in (None, 30.0):
            with pytest.raises(Unencodable, match=r"^mailbox 'kept' cannot store header 'x-till' of message") as refused:
                await exchange.publish(1, "kept", headers=headers, delay=delay)
            assert refused.value.message is not None
            assert refused.value.message.headers == headers
        with pytest.raises(Unencodable, match=r"^mailbox 'kept' cannot store a property of message"):
            await exchange.publish(1, "kept", headers={"x-shop": "north"}, correlation_id="\ud800")
        assert kept.statistics().entered == 0


async def test_a_body_whose_type_nobody_knew_can_be_published_again():
    """What came back as Encoded is stored as what it was, and comes back as Secret: that once somebody takes its type."""
    store = MemoryStore()
    first = Mesh("shop", store=store)
    first.mailbox("kept")
    async with first:
        for _ in range(2):
            await first.exchange("").publish(Encoded("int", b"\x05"), "kept")
    second = Mesh("shop", store=store)
    kept = second.mailbox("kept")
    async with second:
        for _ in range(2):
            delivery = await kept.get()
            assert delivery.message.body == 5
            await delivery.ack()


async def test_many_senders_each_get_what_became_of_theirs():
    """Senders of the same moment share a batch; each has the receipt of its own message."""
    mesh = Mesh("shop", store=MemoryStore(durability="process"))
    kept = mesh.mailbox("kept")
    receipts: dict[int, Receipt] = {}

    async def send(number: int) -> None:
        receipts[number] = await mesh.exchange("").publish(number, "kept")

    async with mesh:
        async with anyio.create_task_group() as senders:
            for number in range(200):
                senders.start_soon(send, number)
        assert {receipt.durability for receipt in receipts.values()} == {"process"}
        assert len({receipt.message_id for receipt in receipts.values()}) == 200
        stood = [(message.id, message.body) for message in kept.peek(limit=200)]
        assert sorted(body for _, body in stood) == list(range(200))
        assert all(receipts[body].message_id == id for id, body in stood)


async def test_everybody_whose_message_comes_together_when_the_store_breaks_is_told_once():
    """One batch is under way when it breaks, the next has come together: all senders get the error, and the numbers add up."""
    store = Planted(refuses=lambda batch: StoreError("the disk is gone") if batch.puts else None)
    mesh = Mesh("shop", store=store)
    kept = mesh.mailbox("kept")
    told: list[str] = []

    async def send(number: int) -> None:
        try:
            await mesh.exchange("").publish(number, "kept")
        except StoreError as error:
            told.append(str(error))

    async with mesh:
        store.is_held = True
        async with anyio.create_task_group() as senders:
            for number in range(5):
                senders.start_soon(send, number)
            await settled()  # The first batch is in the store's hands,
            for number in range(5):
                senders.start_soon(send, number)
            await settled()  # and the second has come together.
            store.let_go()
        assert told == ["the disk is gone"] * 10
        await mesh.idle()
        statistics = mesh.statistics()
        assert (kept.statistics().entered, kept.statistics().ready) == (0, 0)
        assert statistics.store is not None
        assert (statistics.store.is_broken, statistics.store.in_flight) == (True, 0)
        shelf = kept.core.shelf
        assert shelf is not None
        assert (shelf.arriving, kept.core.arriving) == (0, 0)


async def test_everybody_is_told_when_the_store_takes_nothing_any_more():
    """A store that refuses to be given anything, as in a fork of its owner, is broken: nobody waits for ever."""

    class Forked(MemoryStore):
        is_fork = False

        def append(self, batch: Batch, /) -> None:
            if self.is_fork:
                raise ForkedProcessError("this is a fork")
            super().append(batch)

    store = Forked(durability="process")
    mesh = Mesh("shop", store=store)
    mesh.mailbox("kept")
    told: list[type[Exception]] = []

    async def send(number: int) -> None:
        try:
            await mesh.exchange("").publish(number, "kept")
        except StoreError as error:
            told.append(type(error))

    async with mesh:
        store.is_fork = True
        async with anyio.create_task_group() as senders:
            for number in range(3):
                senders.start_soon(send, number)
        assert told == [ForkedProcessError] * 3
        await mesh.idle()
        statistics = mesh.statistics().store
        assert statistics is not None
        assert statistics.in_flight == 0
        store.is_fork = False
