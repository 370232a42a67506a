"""Mailboxes that expire: deleted when nobody has used them for that long, and never while somebody does."""

import logging

import anyio
import pytest

from flowmesh import Mesh, Part
from flowmesh._runtime.mailbox import Mailbox
from flowmesh.errors import NotFound, PreconditionFailed, Unroutable
from flowmesh.policies import MailboxOptions
from flowmesh.testing import advance, settled
from tests.runtime.counting import counts

pytestmark = pytest.mark.anyio

FIVE = MailboxOptions(expires=5.0)


def is_there(mesh: Mesh, name: str = "replies") -> bool:
    """Whether the mesh still has the mailbox; asking is no use of it."""
    return name in mesh.statistics().mailboxes


async def test_unused_it_is_deleted_with_its_bindings():
    """After five seconds it is gone, its ready copies count as purged and are no dead letters, and nothing is bound to it."""
    mesh = Mesh("shop")
    orders, late = mesh.exchange("orders", "fanout"), mesh.mailbox("late")
    replies = mesh.mailbox("replies", MailboxOptions(expires=5.0, dead_letter="", dead_letter_key="late"))
    orders.bind(replies)
    async with mesh:
        await orders.publish("a")
        assert (await orders.publish("b", delay=60)).timer
        await advance(4.999)
        assert is_there(mesh)
        await advance(0.002)
        assert not is_there(mesh)
        assert counts(replies) == {"entered": 1, "purged": 1}
        assert (late.statistics().ready, len(mesh.dead_letters.list())) == (0, 0)
        assert mesh.topology().bindings == ()
        assert (await orders.publish("c")).routed == 0


async def test_publishing_is_no_use():
    """Messages that enter do not keep it."""
    mesh = Mesh("shop")
    mesh.mailbox("replies", FIVE)
    async with mesh:
        for _ in range(4):
            await advance(1)
            await mesh.exchange("").publish("x", "replies", mandatory=True)
        await advance(1.001)
        with pytest.raises(Unroutable, match=r"there is no mailbox 'replies', or it has been deleted: declare it"):
            await mesh.exchange("").publish("x", "replies", mandatory=True)


@pytest.mark.parametrize("use", ["get", "get_nowait", "failing get_nowait", "declaring", "declaring equally"])
async def test_uses_begin_its_time_anew(use: str):
    """A get, with or without success, and a declaration: five seconds after the last of them it is gone."""
    mesh = Mesh("shop")
    replies = mesh.mailbox("replies", FIVE)
    async with mesh:
        for _ in range(3):
            await advance(4)
            match use:
                case "get":
                    await mesh.exchange("").publish("x", "replies")
                    await (await replies.get()).ack()
                case "get_nowait":
                    await mesh.exchange("").publish("x", "replies")
                    await replies.get_nowait().ack()
                case "failing get_nowait":
                    with pytest.raises(anyio.WouldBlock):
                        replies.get_nowait()
                case "declaring":
                    assert mesh.mailbox("replies") is replies
                case _:
                    assert mesh.mailbox("replies", FIVE) is replies
        await advance(4.9)
        assert is_there(mesh)
        await advance(0.2)
        assert not is_there(mesh)


async def test_looking_is_no_use():
    """Statistics, peek, purge and a refused declaration do not keep it."""
    mesh = Mesh("shop")
    replies = mesh.mailbox("replies", FIVE)
    async with mesh:
        await advance(4)
        replies.statistics()
        replies.peek()
        replies.purge()
        with pytest.raises(PreconditionFailed, match=r"its expires is 5\.0, not None"):
            mesh.mailbox("replies", MailboxOptions())
        await advance(1.1)
        assert not is_there(mesh)


async def test_a_consumer_keeps_it_and_its_leaving_begins_its_time():
    """While a consumer is there it stays for any length of time; five seconds after the last one has left it goes."""
    mesh = Mesh("shop")
    replies = mesh.mailbox("replies", FIVE)
    async with mesh:
        async with replies.consume():
            async with replies.consume():
                await advance(100)
            await advance(100)
            assert is_there(mesh)
            assert not list(mesh._engine.ground.ledger.timers)
        await advance(4.9)
        assert is_there(mesh)
        await advance(0.2)
        assert not is_there(mesh)


async def test_waiting_in_get_keeps_it():
    """Somebody who waits for a copy uses it, for as long as that takes; cancelled, its time begins."""
    mesh = Mesh("shop")
    replies = mesh.mailbox("replies", FIVE)
    async with mesh, anyio.create_task_group() as group:
        scope = anyio.CancelScope()

        async def wait() -> None:
            with scope:
                await replies.get()

        group.start_soon(wait)
        await advance(100)
        assert is_there(mesh)
        scope.cancel()
        await settled()
        await advance(4.9)
        assert is_there(mesh)
        await advance(0.2)
        assert not is_there(mesh)


async def test_a_delivery_in_hand_is_no_use_and_is_still_settled():
    """What was taken by get does not keep it; settled after it is gone, it counts, and handed back it is purged."""
    mesh = Mesh("shop")
    replies = mesh.mailbox("replies", FIVE)
    async with mesh:
        await mesh.exchange("").publish_many([("a", "replies"), ("b", "replies")])
        first, second = await replies.get(), await replies.get()
        await advance(5.1)
        assert not is_there(mesh)
        await first.ack()
        await second.nack()
        assert counts(replies) == {"entered": 2, "acked": 1, "purged": 1}


async def test_an_actor_keeps_its_mailbox_until_it_stops():
    """An actor is a consumer, paused or not; once stopped, its mailbox's time begins, and its askers have been told."""
    mesh = Mesh("shop")

    @mesh.actor(mailbox=FIVE)
    async def work(body: str) -> None: ...

    async with mesh:
        work.pause()
        await advance(100)
        assert is_there(mesh, "work")
        await work.stop()
        await advance(4.9)
        assert is_there(mesh, "work")
        await advance(0.2)
        assert not is_there(mesh, "work")
        with pytest.raises(Unroutable, match="there is no mailbox 'work'"):
            await work.tell("x")


async def test_handles_say_what_happened_and_what_to_do():
    """Pulling and binding raise NotFound, which names the reason and the mend; declaring it again makes a new one."""
    mesh = Mesh("shop")
    orders, replies = mesh.exchange("orders", "fanout"), mesh.mailbox("replies", FIVE)
    async with mesh:
        await advance(5.1)
        said = r"mailbox 'replies' has been deleted \(nobody used it for 5 s, its expires=\): declare it again to pull from it"
        with pytest.raises(NotFound, match=said):
            await replies.get()
        with pytest.raises(NotFound, match=said):
            replies.get_nowait()
        with pytest.raises(NotFound, match=said):
            async with replies.consume():
                pass
        with pytest.raises(NotFound, match="'replies' has been deleted: declare it again to bind it"):
            orders.bind(replies)
        assert replies.delete() == 0
        again = mesh.mailbox("replies", FIVE)
        assert again is not replies
        orders.bind(again)
        await advance(4.9)
        assert (await orders.publish("x")).routed == 1
        await advance(0.2)
        assert not is_there(mesh)


async def test_it_is_logged(caplog: pytest.LogCaptureFixture):
    """Whoever lost messages by it is warned of their number; an empty one is only noted."""
    caplog.set_level(logging.INFO, logger="flowmesh.shop")
    mesh = Mesh("shop")
    mesh.mailbox("empty", FIVE)
    mesh.mailbox("full", FIVE)
    async with mesh:
        await mesh.exchange("").publish_many([("a", "full"), ("b", "full")])
        await advance(5.1)
    told = [(record.levelname, record.getMessage()) for record in caplog.records if "nobody" in record.getMessage()]
    assert told == [
        ("INFO", "mailbox 'empty' has been deleted: nobody used it for 5 s"),
        ("WARNING", "mailbox 'full' has been deleted: nobody used it for 5 s; ready copies that were purged: 2"),
    ]


async def test_time_counts_only_while_the_mesh_runs():
    """Its time begins when the mesh starts, each time it is started; nothing expires before, or between two runs."""
    mesh = Mesh("shop")
    mesh.mailbox("replies", FIVE)
    await anyio.sleep(60)
    async with mesh:
        await advance(4)
    await anyio.sleep(60)
    async with mesh:
        await advance(4.9)
        assert is_there(mesh)
        await advance(0.2)
        assert not is_there(mesh)


async def test_nothing_expires_while_the_mesh_drains():
    """What the drain leaves behind stays where it is, so that its report is true."""
    mesh = Mesh("shop", grace=60)

    @mesh.actor
    async def slow(body: str) -> None:
        await anyio.sleep(30)

    mesh.mailbox("replies", FIVE)
    async with mesh:
        await mesh.exchange("").publish("kept", "replies")
        await slow.tell("x")
        await settled()
    assert mesh.report is not None
    assert mesh.report.seconds >= 29
    assert mesh.report.unconsumed == {"replies": 1}


async def test_deleted_before_its_time():
    """A mailbox that is deleted by hand does not expire, and a new one of its name has its own time."""
    mesh = Mesh("shop")
    replies = mesh.mailbox("replies", FIVE)
    async with mesh:
        await advance(3)
        replies.delete()
        again: Mailbox = mesh.mailbox("replies", FIVE)
        await advance(3)
        assert is_there(mesh)
        assert not again.core.lapsed
        await advance(2.1)
        assert not is_there(mesh)


async def test_idle_does_not_wait_for_it():
    """A mailbox that will expire is nothing under way."""
    mesh = Mesh("shop")
    mesh.mailbox("replies", MailboxOptions(expires=1e9))
    async with mesh:
        began = anyio.current_time()
        await mesh.idle()
        assert anyio.current_time() == began


async def test_declared_by_a_part_and_while_it_runs():
    """It does not matter where it was declared, or when."""
    mesh, part = Mesh("shop"), Part("billing")
    part.mailbox("early", FIVE)
    mesh.add(part)
    async with mesh:
        await advance(3)
        part.mailbox("late", FIVE)
        await advance(2.1)
        assert (is_there(mesh, "early"), is_there(mesh, "late")) == (False, True)
        await advance(3)
        assert not is_there(mesh, "late")


async def test_a_sender_that_waits_for_room_is_let_go():
    """A sender in the line of a mailbox that expires finds nobody to send to, and is not stuck."""
    mesh = Mesh("shop")
    mesh.mailbox("replies", MailboxOptions(capacity=1, expires=5.0))
    async with mesh, anyio.create_task_group() as group:
        await mesh.exchange("").publish("a", "replies")
        routed: list[int] = []

        async def send() -> None:
            routed.append((await mesh.exchange("").publish("b", "replies")).routed)

        group.start_soon(send)
        await advance(4.9)
        assert routed == []
        await advance(0.2)
        assert routed == [0]


async def test_a_thousand_that_are_used_again_and_again_need_a_thousand_timers():
    """However often it is used, a mailbox has one timer at most."""
    mesh = Mesh("shop")
    boxes = [mesh.mailbox(f"m{number}", FIVE) for number in range(1000)]
    async with mesh:
        for _ in range(5):
            for box in boxes:
                with pytest.raises(anyio.WouldBlock):
                    box.get_nowait()
            assert sum(1 for _ in mesh._engine.ground.ledger.timers) == 1000
        await advance(5.1)
        assert mesh.statistics().mailboxes == {}
        assert mesh._engine.faces == {mesh.exchange("").core: mesh.exchange("")}
