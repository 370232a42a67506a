"""The public Mailbox: looking into it, emptying it, deleting it, and the numbers it gives."""

import math

import anyio
import pytest

from flowmesh import Mesh
from flowmesh._runtime.mailbox import Mailbox
from flowmesh.errors import MailboxFull, NoReply, NotFound, PreconditionFailed
from flowmesh.policies import MailboxOptions
from flowmesh.testing import VirtualClock, advance, settled

pytestmark = pytest.mark.anyio


async def put(mesh: Mesh, name: str, *bodies: object, **options: object) -> None:
    """Publish bodies to a mailbox by its name."""
    for body in bodies:
        await mesh.exchange("").publish(body, name, mandatory=True, **options)  # pyright: ignore[reportArgumentType] - passed on


def bodies(mailbox: Mailbox, limit: int = 100) -> list[object]:
    """What is ready in a mailbox, in the order of hand-out."""
    return [message.body for message in mailbox.peek(limit)]


# Declaring


async def test_redeclaration():
    """Declared equally, or by name alone, it is the same mailbox; differently, the error names what differs."""
    mesh = Mesh("shop")
    options = MailboxOptions(capacity=5, dead_letter=mesh.exchange("late"))
    work = mesh.mailbox("work", options)
    assert mesh.mailbox("work").core is work.core
    assert mesh.mailbox("work", MailboxOptions(capacity=5, dead_letter="late")).core is work.core
    assert work.options == options
    with pytest.raises(PreconditionFailed, match=r"mailbox 'work'.*capacity"):
        mesh.mailbox("work", MailboxOptions(capacity=6, dead_letter="late"))
    with pytest.raises(PreconditionFailed, match="mailbox 'work'"):
        mesh.mailbox("work", MailboxOptions())
    assert repr(work) == "<Mailbox 'work', 0 ready>"


@pytest.mark.parametrize("name", ["", "é" * 128, 7])
async def test_names_that_cannot_be(name: str):
    """An empty name, one over 255 bytes, or one that is no text is a ValueError; exchanges may have the same names."""
    mesh = Mesh("shop")
    with pytest.raises(ValueError, match="the name of a mailbox must"):
        mesh.mailbox(name)
    mesh.exchange("work", "fanout").bind(mesh.mailbox("work"))


# Looking


async def test_peek_is_the_order_of_hand_out():
    """Peek shows what get would give, returned copies at their places, and changes nothing."""
    mesh = Mesh("shop")
    work = mesh.mailbox("work")
    async with mesh:
        await put(mesh, "work", *"abcdef")
        leased = [await work.get() for _ in range(3)]
        await leased[2].nack()
        await leased[1].nack()
        before = work.statistics()
        assert bodies(work) == ["b", "c", "d", "e", "f"]
        assert bodies(work, 2) == ["b", "c"]
        assert bodies(work, 4) == ["b", "c", "d", "e"]
        assert bodies(work, 0) == []
        assert work.statistics() == before
        taken: list[object] = []
        for _ in range(5):
            delivery = await work.get()
            taken.append(delivery.message.body)
            await delivery.ack()
        assert taken == ["b", "c", "d", "e", "f"]
        await leased[0].ack()


async def test_priorities():
    """With priorities the highest comes first, equal ones in the order they entered; get and peek agree."""
    mesh = Mesh("shop")
    work = mesh.mailbox("work", MailboxOptions(priorities=True))
    async with mesh:
        for body, priority in (("a", 1), ("b", 255), ("c", 0), ("d", 255), ("e", 1)):
            await put(mesh, "work", body, priority=priority)
        await put(mesh, "work", "f")
        assert bodies(work) == ["b", "d", "a", "e", "c", "f"]
        taken: list[object] = []
        while work.peek(1):
            delivery = work.get_nowait()
            taken.append((delivery.message.body, delivery.message.priority))
            await delivery.ack()
        assert taken == [("b", 255), ("d", 255), ("a", 1), ("e", 1), ("c", 0), ("f", 0)]


async def test_priorities_are_ignored_without_the_option():
    """Without priorities=True place alone decides, whatever the messages say."""
    mesh = Mesh("shop")
    work = mesh.mailbox("work")
    async with mesh:
        await put(mesh, "work", "a", priority=1)
        await put(mesh, "work", "b", priority=9)
        assert bodies(work) == ["a", "b"]


async def test_statistics():
    """The numbers say where every copy is, and they add up; the mesh's statistics hold the same ones."""
    mesh = Mesh("shop", clock=VirtualClock())
    work = mesh.mailbox("work", MailboxOptions(capacity=6, overflow="drop_newest"))
    empty = work.statistics()
    assert (empty.ready, empty.entered, empty.oldest_age, empty.over) == (0, 0, None, 0)
    async with mesh:
        await put(mesh, "work", *"abc")
        await advance(5)
        await put(mesh, "work", *"defg")  # g is dropped
        assert work.statistics().oldest_age == pytest.approx(5, abs=0.01)
        for verdict in ("ack", "reject", "nack", "keep"):
            delivery = await work.get()
            if verdict == "nack":
                await delivery.nack(delay=100)
            elif verdict != "keep":
                await getattr(delivery, verdict)()
        numbers = work.statistics()
        assert (numbers.ready, numbers.leased, numbers.delayed) == (2, 1, 1)
        assert (numbers.entered, numbers.acked, numbers.dead, numbers.dropped) == (7, 1, 1, 1)
        assert (numbers.expired, numbers.withdrawn, numbers.purged, numbers.over) == (0, 0, 0, 0)
        assert numbers.oldest_age == pytest.approx(0, abs=0.01)
        await advance(3)
        assert work.statistics().oldest_age == pytest.approx(3, abs=0.01)
        assert mesh.statistics().mailboxes["work"] == work.statistics()
        await delivery.ack()


async def test_oldest_age_of_a_copy_that_came_back():
    """A copy that was handed back is as old as it was: since it entered, not since it came back."""
    mesh = Mesh("shop", clock=VirtualClock())
    work = mesh.mailbox("work")
    async with mesh:
        await put(mesh, "work", "a")
        await advance(5)
        delivery = await work.get()
        await advance(2)
        await delivery.nack()
        assert work.statistics().oldest_age == pytest.approx(7, abs=0.01)


# Time to live


async def test_ttl_in_virtual_time():
    """A copy is ready for as long as its mailbox's ttl, or its own if that is less; then it ends as expired, by itself."""
    mesh = Mesh("shop")
    work = mesh.mailbox("work", MailboxOptions(ttl=10))
    plain = mesh.mailbox("plain")
    async with mesh:
        await put(mesh, "work", "mailbox")
        await put(mesh, "work", "message", ttl=5)
        await put(mesh, "work", "longer", ttl=50)
        await put(mesh, "plain", "message", ttl=5)
        await put(mesh, "plain", "for ever")
        await advance(4.9)
        assert bodies(work) == ["mailbox", "message", "longer"]
        await advance(0.2)
        assert (bodies(work), bodies(plain)) == (["mailbox", "longer"], ["for ever"])
        assert (work.statistics().expired, plain.statistics().expired) == (1, 1)
        await advance(5)
        assert bodies(work) == []
        assert (work.statistics().expired, work.statistics().entered) == (3, 3)
        await advance(1000)
        assert bodies(plain) == ["for ever"]


async def test_ttl_stands_still_while_leased():
    """A copy in somebody's hands does not expire there; handed back in time, it goes on from when it entered."""
    mesh = Mesh("shop")
    work = mesh.mailbox("work", MailboxOptions(ttl=10))
    async with mesh:
        await put(mesh, "work", "a")
        delivery = await work.get()
        await advance(8)
        await delivery.nack()
        assert bodies(work) == ["a"]
        await advance(3)
        assert (bodies(work), work.statistics().expired) == ([], 1)


async def test_expiry_makes_room():
    """A sender who waits for room goes on when a copy expires."""
    mesh = Mesh("shop")
    work = mesh.mailbox("work", MailboxOptions(capacity=1, ttl=10))
    async with mesh:
        await put(mesh, "work", "a")
        began = anyio.current_time()
        await put(mesh, "work", "b")
        assert anyio.current_time() - began == pytest.approx(10, abs=0.01)
        assert bodies(work) == ["b"]


async def test_ttl_zero_is_gone_at_once():
    """A ttl of zero gives a copy no time: nobody is handed it later."""
    mesh = Mesh("shop")
    work = mesh.mailbox("work", MailboxOptions(ttl=0))
    async with mesh:
        await put(mesh, "work", "a")
        with pytest.raises(anyio.WouldBlock):
            work.get_nowait()
        await settled()
        assert (work.statistics().expired, work.statistics().ready) == (1, 0)


# Purging


async def test_purge():
    """Purging ends every ready copy and says how many; what is leased or delayed stays, and is handled as ever."""
    mesh = Mesh("shop")
    work = mesh.mailbox("work")
    async with mesh:
        await put(mesh, "work", *"abcd")
        leased, delayed = await work.get(), await work.get()
        await delayed.nack(delay=5)
        assert work.purge() == 2
        assert work.purge() == 0
        numbers = work.statistics()
        assert (numbers.ready, numbers.leased, numbers.delayed, numbers.purged) == (0, 1, 1, 2)
        await leased.nack()
        await advance(6)
        assert bodies(work) == ["a", "b"]


async def test_purge_tells_askers():
    """Whoever asked what is purged gets NoReply that says so; and the mesh is idle."""
    mesh = Mesh("shop")

    @mesh.actor
    async def work(body: str) -> None: ...

    async with mesh:
        work.pause()
        caught: list[NoReply] = []
        async with anyio.create_task_group() as group:

            async def ask() -> None:
                with pytest.raises(NoReply) as refused:
                    await work.ask("a")
                caught.append(refused.value)

            group.start_soon(ask)
            await settled()
            assert work.mailbox.purge() == 1
        assert caught[0].reason == "purged"
        work.resume()
        await mesh.idle()


async def test_purge_makes_room():
    """Senders who wait for room go on, in their order, when the mailbox is purged."""
    mesh = Mesh("shop")
    work = mesh.mailbox("work", MailboxOptions(capacity=2))
    async with mesh, anyio.create_task_group() as group:
        await put(mesh, "work", *"ab")
        for body in "cde":
            group.start_soon(put, mesh, "work", body)
            await settled()
        assert work.purge() == 2
        await settled()
        assert bodies(work) == ["c", "d"]
        work.purge()


async def test_purge_of_a_stopped_mesh():
    """What a mesh left behind can be looked at, purged and deleted while it does not run; also before it ever ran."""
    mesh = Mesh("shop", clock=VirtualClock())
    work, other = mesh.mailbox("work"), mesh.mailbox("other")
    assert (work.purge(), bodies(work), work.statistics().ready) == (0, [], 0)
    assert other.delete() == 0
    async with mesh:
        await put(mesh, "work", *"abc")
    assert bodies(work) == ["a", "b", "c"]
    assert work.purge() == 3
    assert work.delete() == 0


# Deleting


async def test_delete():
    """Deleting ends ready and delayed copies as purged, takes the bindings, and says how many were ready; then it is gone."""
    mesh = Mesh("shop")
    work, orders = mesh.mailbox("work"), mesh.exchange("orders", "fanout")
    orders.bind(work)
    async with mesh:
        for body in "abc":
            await orders.publish(body)
        delivery = await work.get()
        await delivery.nack(delay=5)
        assert work.delete() == 2
        assert work.delete(if_empty=True, if_unused=True) == 0
        numbers = work.statistics()
        assert (numbers.ready, numbers.delayed, numbers.purged, numbers.entered) == (0, 0, 3, 3)
        assert (await orders.publish("d")).routed == 0
        assert "work" not in mesh.statistics().mailboxes
        await mesh.idle()
        again = mesh.mailbox("work")
        assert again.core is not work.core
        await put(mesh, "work", "new")
        assert (bodies(again), bodies(work)) == (["new"], [])
        with pytest.raises(NotFound, match="mailbox 'work' has been deleted"):
            work.get_nowait()


async def test_delete_on_conditions():
    """if_empty and if_unused refuse by name, with numbers, and change nothing."""
    mesh = Mesh("shop")
    work = mesh.mailbox("work")

    @mesh.actor
    async def busy() -> None: ...

    async with mesh:
        await put(mesh, "work", "a")
        with pytest.raises(PreconditionFailed, match="mailbox 'work' is not empty: 1 copies are ready in it"):
            work.delete(if_empty=True)
        with pytest.raises(PreconditionFailed, match=r"mailbox 'busy' is in use: it has 1 consumer\(s\)"):
            busy.mailbox.delete(if_unused=True)
        assert bodies(work) == ["a"]
        await busy.stop()
        assert busy.mailbox.delete(if_unused=True, if_empty=True) == 0
        assert work.delete(if_unused=True) == 1


async def test_delete_lets_waiting_senders_go():
    """Senders who wait for room in a mailbox that is deleted go on: their message is routed anew, to nobody."""
    mesh = Mesh("shop")
    work, orders = mesh.mailbox("work", MailboxOptions(capacity=1)), mesh.exchange("orders", "fanout")
    other = mesh.mailbox("other")
    orders.bind(work)
    orders.bind(other)
    async with mesh:
        await orders.publish("a")
        receipts: list[int] = []
        async with anyio.create_task_group() as group:

            async def publish() -> None:
                receipts.append((await orders.publish("b")).routed)

            group.start_soon(publish)
            await settled()
            assert (receipts, bodies(other)) == ([], ["a"])
            work.delete()
        assert (receipts, bodies(other)) == ([1], ["a", "b"])


# Full mailboxes


async def test_publish_nowait_does_not_wait():
    """A full `wait` mailbox refuses publish_nowait by name, with its numbers; nothing enters anywhere."""
    mesh = Mesh("shop")
    work, orders, other = mesh.mailbox("work", MailboxOptions(capacity=1)), mesh.exchange("orders", "fanout"), mesh.mailbox("o")
    orders.bind(work)
    orders.bind(other)
    async with mesh:
        orders.publish_nowait("a")
        with pytest.raises(MailboxFull, match=r"mailbox 'work' is full \(1 of 1 ready, overflow='wait'\)") as caught:
            orders.publish_nowait("b")
        assert (caught.value.mailbox, caught.value.message is not None) == ("work", True)
        assert bodies(other) == ["a"]


@pytest.mark.parametrize(
    "name, value",
    [
        ("capacity", 0),
        ("capacity", True),
        ("overflow", "drop"),
        ("ttl", -1.0),
        ("ttl", math.nan),
        ("max_deliveries", 0),
        ("dead_letter_key", "k"),
    ],
)
def test_wrong_options(name: str, value: object):
    """An option out of its range is refused where it is written, by name."""
    with pytest.raises(ValueError, match=f"^{name} "):
        MailboxOptions(**{name: value})  # pyright: ignore[reportArgumentType] - as a user might
