"""The numbers of a mesh: what each one counts, at any moment, in every phase."""

from typing import Any

import anyio
import pytest

from flowmesh import Mesh
from flowmesh._runtime.context import Context
from flowmesh.errors import Reject
from flowmesh.policies import MailboxOptions, Retry
from flowmesh.testing import VirtualClock, settled

pytestmark = pytest.mark.anyio


def _adds_up(numbers: Any) -> bool:
    ended = numbers.acked + numbers.dead + numbers.expired + numbers.dropped + numbers.withdrawn + numbers.purged
    return numbers.entered == numbers.ready + numbers.leased + numbers.delayed + ended


async def test_before_the_start():
    """A mesh that has not been started has numbers as well: all zero, for everything that is declared."""
    mesh = Mesh("shop")
    mesh.mailbox("box")
    mesh.actor(_handle, name="work", concurrency=3)
    mesh.exchange("events")
    numbers = mesh.statistics()
    assert sorted(numbers.mailboxes) == ["box", "work"]
    assert numbers.mailboxes["box"].entered == 0
    assert numbers.mailboxes["box"].oldest_age is None
    assert (numbers.actors["work"].slots, numbers.actors["work"].running, numbers.actors["work"].mailbox) == (3, 0, "work")
    assert numbers.unroutable == {"": 0, "events": 0}
    assert (numbers.deferred, numbers.workers, numbers.workers_parked) == (0, 0, 0)


async def test_while_work_is_under_way():
    """Running turns, leases, retries, what waits and how long: each stands in its own number, and they add up."""
    mesh = Mesh("shop", clock=VirtualClock(), grace=0)
    gate = anyio.Event()

    @mesh.actor(concurrency=2, retry=Retry(2, initial=1000, maximum=1000, jitter="none"))
    async def work(what: str, ctx: Context) -> None:
        if what == "fail":
            raise OSError("again")
        if what == "reject":
            raise Reject("no")
        if what == "wait":
            ctx.progress(1, 4)
            await gate.wait()

    async with mesh:
        for what in ("done", "fail", "reject", "wait", "wait", "ready", "ready"):
            await work.tell(what, message_id=None)
        await settled()
        await anyio.sleep(7)
        mailbox, actor = mesh.statistics().mailboxes["work"], mesh.statistics().actors["work"]
        assert (mailbox.entered, mailbox.ready, mailbox.leased, mailbox.delayed) == (7, 2, 2, 1)
        assert (mailbox.acked, mailbox.dead, mailbox.over) == (1, 1, 0)
        assert mailbox.oldest_age == pytest.approx(7, abs=0.01)
        assert _adds_up(mailbox)
        assert (actor.running, actor.slots, actor.failed, actor.retried) == (2, 2, 1, 1)
        assert list(actor.progress.values()) == [(1, 4), (1, 4)]
        assert mesh.statistics().dead_letters.ready == 1
        assert mesh.statistics().workers >= 2
        gate.set()
        await settled()
        assert mesh.statistics().actors["work"].running == 0
        assert mesh.statistics().actors["work"].progress == {}
        assert mesh.statistics().mailboxes["work"] == work.mailbox.statistics()
    after = mesh.statistics()
    assert (after.workers, after.workers_parked) == (0, 0)
    assert (after.mailboxes["work"].delayed, after.mailboxes["work"].ready) == (0, 1)
    assert _adds_up(after.mailboxes["work"])


async def test_every_way_to_end_has_its_count():
    """acked, dead, expired, dropped, withdrawn and purged each count what ended so, and nothing else."""
    mesh = Mesh("shop", clock=VirtualClock())
    default = mesh.exchange("")
    boxes = {
        "acked": mesh.mailbox("acked"),
        "dead": mesh.mailbox("dead"),
        "expired": mesh.mailbox("expired", MailboxOptions(ttl=1)),
        "dropped": mesh.mailbox("dropped", MailboxOptions(capacity=1, overflow="drop_newest")),
        "purged": mesh.mailbox("purged"),
    }
    work = mesh.actor(_handle, name="withdrawn")
    work.pause()
    async with mesh:
        for name in boxes:
            await default.publish(1, name)
        await default.publish(2, "dropped")
        await boxes["acked"].get_nowait().ack()
        await boxes["dead"].get_nowait().reject("no")
        boxes["purged"].purge()
        with pytest.raises(TimeoutError):
            await work.ask(1, timeout=2)
        numbers = mesh.statistics().mailboxes
    for name in (*boxes, "withdrawn"):
        ended = {key: getattr(numbers[name], key) for key in ("acked", "dead", "expired", "dropped", "withdrawn", "purged")}
        assert ended == {**dict.fromkeys(ended, 0), name: 1}, name
        assert _adds_up(numbers[name])


async def test_deferred_messages_are_counted_while_they_wait():
    """From the publish until they are routed, also while the mesh drains and when it has stopped."""
    mesh = Mesh("shop", clock=VirtualClock())
    counts: list[int] = []

    @mesh.actor
    async def slow(number: int) -> None:
        await anyio.sleep(10)
        counts.append(mesh.statistics().deferred)

    async with mesh:
        await slow.tell(1)
        await settled()
        await slow.tell(2, delay=5)
        await slow.tell(3, delay=50)
        counts.append(mesh.statistics().deferred)
    counts.append(mesh.statistics().deferred)
    assert counts == [2, 2, 2]


async def test_what_an_actor_is():
    """Its mailbox, whether it is paused or stopped, and what it is held by; one that has stopped is not shown any more."""
    mesh = Mesh("shop")
    box = mesh.mailbox("box")
    first, second = mesh.actor(_handle, name="first", mailbox=box), mesh.actor(_handle, name="second", mailbox=box)
    async with mesh:
        first.pause()
        actors = mesh.statistics().actors
        assert (actors["first"].paused, actors["second"].paused) == (True, False)
        assert {actor.mailbox for actor in actors.values()} == {"box"}
        await second.stop()
        assert list(mesh.statistics().actors) == ["first"]


async def test_a_handler_and_a_source_see_the_same_numbers():
    """`ctx.statistics` is `mesh.statistics()` of that moment."""
    mesh, seen = Mesh("shop"), list[tuple[int, int]]()

    @mesh.actor
    async def work(number: int, ctx: Context) -> None:
        numbers = ctx.statistics
        seen.append((numbers.actors["work"].running, numbers.mailboxes["work"].leased))

    async with mesh:
        await work.tell(1)
        await mesh.idle()
    assert seen == [(1, 1)]


async def test_numbers_are_of_one_moment():
    """What was returned does not change any more."""
    mesh = Mesh("shop")
    mesh.mailbox("box")
    async with mesh:
        before = mesh.statistics()
        await mesh.exchange("").publish(1, "box")
        assert before.mailboxes["box"].entered == 0
        assert mesh.statistics().mailboxes["box"].entered == 1


async def _handle(body: Any) -> None:
    pass
