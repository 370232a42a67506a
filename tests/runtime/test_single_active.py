"""`single_active`: of several consumers of one mailbox the first is handed everything, until it leaves."""

from collections.abc import Awaitable, Callable

import anyio
import pytest

from flowmesh import Context, Mailbox, Mesh, on
from flowmesh._runtime.consuming import Deliveries
from flowmesh.errors import PreconditionFailed
from flowmesh.policies import MailboxOptions
from flowmesh.testing import advance, settled
from tests.runtime.counting import counts

pytestmark = pytest.mark.anyio

SINGLE = MailboxOptions(single_active=True)


class Team:
    """A mesh with actors `a`, `b` and `c` on one mailbox; each notes what it was handed, and takes a second for it."""

    def __init__(self, options: MailboxOptions = SINGLE) -> None:
        self.mesh = Mesh("shop")
        self.box = self.mesh.mailbox("work", options)
        self.seen: list[tuple[str, object]] = []
        self.a, self.b, self.c = (self.mesh.actor(self._handler(name), name=name, mailbox=self.box) for name in "abc")

    def _handler(self, name: str) -> Callable[[int], Awaitable[str]]:
        async def handle(body: int) -> str:
            self.seen.append((name, body))
            await anyio.sleep(1)
            return name

        return handle

    async def put(self, *bodies: int) -> None:
        for body in bodies:
            await self.mesh.exchange("").publish(body, "work")

    def standby(self) -> list[str]:
        return [name for name, actor in self.mesh.statistics().actors.items() if actor.standby]


async def test_without_it_actors_compete():
    """By default every actor of the mailbox is handed messages: the counterpart of what follows."""
    team = Team(MailboxOptions())
    async with team.mesh:
        await team.put(1, 2, 3)
        await team.mesh.idle()
        assert {name for name, _ in team.seen} == {"a", "b", "c"}
        assert team.standby() == []
        assert team.box.statistics().standby == 0


async def test_the_first_actor_is_handed_everything_in_order():
    """However busy it is, the others get nothing; statistics say who stands by."""
    team = Team()
    async with team.mesh:
        await team.put(1, 2, 3, 4)
        await advance(1.5)
        assert team.standby() == ["b", "c"]
        assert (team.box.statistics().consumers, team.box.statistics().standby) == (3, 2)
        await team.mesh.idle()
    assert team.seen == [("a", 1), ("a", 2), ("a", 3), ("a", 4)]
    assert counts(team.box) == {"entered": 4, "acked": 4}


async def test_when_it_stops_the_next_takes_over():
    """What the stopped one has in hand it finishes; the rest goes to the next, in the order of registration."""
    team = Team()
    async with team.mesh:
        await team.put(1, 2, 3, 4)
        await advance(0.5)
        await team.a.stop()
        assert team.standby() == ["c"]
        await team.put(5)
        await advance(2)
        await team.b.stop()
        await team.mesh.idle()
        assert team.standby() == []
        assert counts(team.box) == {"entered": 5, "acked": 5}
    assert (len(team.seen), {body for _, body in team.seen}) == (5, {1, 2, 3, 4, 5})
    assert [name for name, _ in team.seen] == sorted(name for name, _ in team.seen)
    assert {name for name, _ in team.seen} == {"a", "b", "c"}


async def test_the_next_takes_over_at_once():
    """RabbitMQ's rule: it does not wait for what the one before has in hand."""
    team = Team()
    async with team.mesh, anyio.create_task_group() as group:
        await team.put(1, 2)
        await advance(0.5)
        group.start_soon(team.a.stop)
        await settled()
        assert team.seen == [("a", 1), ("b", 2)]


async def test_one_on_standby_may_stop_without_a_change():
    """When one that stands by leaves, nothing is handed over, and it is no longer next."""
    team = Team()
    async with team.mesh:
        await team.b.stop()
        await team.put(1)
        await team.mesh.idle()
        await team.a.stop()
        await team.put(2)
        await team.mesh.idle()
    assert team.seen == [("a", 1), ("c", 2)]


async def test_a_paused_one_stays_the_active_one():
    """Paused it is busy, not gone: messages wait, and the mesh is at rest meanwhile; stopped while paused, it is gone."""
    team = Team()
    async with team.mesh:
        team.a.pause()
        await team.put(1)
        await team.mesh.idle()
        assert (team.seen, team.standby()) == ([], ["b", "c"])
        team.a.resume()
        await team.mesh.idle()
        team.a.pause()
        await team.put(2)
        await team.a.stop()
        await team.mesh.idle()
        assert team.seen == [("a", 1), ("b", 2)]


async def test_pausing_one_on_standby_counts_when_it_takes_over():
    """It takes over all the same, and is the active one that is paused."""
    team = Team()
    async with team.mesh:
        team.b.pause()
        await team.a.stop()
        await team.put(1)
        await team.mesh.idle()
        assert (team.seen, team.standby()) == ([], ["c"])
        team.b.resume()
        await team.mesh.idle()
        assert team.seen == [("b", 1)]


async def test_asking_one_on_standby_is_answered_by_the_active_one():
    """The message goes to the mailbox that they share."""
    team = Team()
    async with team.mesh:
        assert await team.b.ask(1) == "a"


async def test_it_holds_in_every_run_of_the_mesh():
    """The order of registration is that of declaring, also when the mesh is started again."""
    team = Team()
    for body in (1, 2):
        async with team.mesh:
            await team.put(body)
            await team.mesh.idle()
    assert team.seen == [("a", 1), ("a", 2)]


async def test_concurrency_is_the_active_actor_s_own():
    """One consumer may have several slots: single means one actor, not one message."""
    mesh = Mesh("shop")
    box = mesh.mailbox("work", SINGLE)
    running: list[int] = []

    async def first(body: int) -> None:
        running.append(body)
        await anyio.sleep(1)

    async def second(body: int) -> None:
        raise AssertionError

    mesh.actor(first, mailbox=box, concurrency=2)
    mesh.actor(second, mailbox=box)
    async with mesh:
        await mesh.exchange("").publish_many([(number, "work") for number in range(4)])
        await settled()
        assert running == [0, 1]
        await mesh.idle()
        assert running == [0, 1, 2, 3]


async def test_a_class_actor_on_standby_has_its_instance_ready():
    """Its lifespan is entered at the start; it is handed messages only when it takes over."""
    mesh = Mesh("shop")
    box = mesh.mailbox("work", SINGLE)
    seen: list[str] = []

    async def first(body: str) -> None:
        seen.append(f"first {body}")

    class Second:
        async def on_start(self) -> None:
            seen.append("started")

        @on
        async def take(self, body: str) -> None:
            seen.append(f"second {body}")

    one = mesh.actor(first, mailbox=box)
    mesh.actor(Second, mailbox=box)
    async with mesh:
        await mesh.exchange("").publish("a", "work")
        await mesh.idle()
        await one.stop()
        await mesh.exchange("").publish("b", "work")
        await mesh.idle()
    assert seen == ["started", "first a", "second b"]


async def test_a_ring_through_the_active_one_is_found():
    """An actor on standby gives no room, so it does not break a ring of held actors: the mailbox grows instead."""
    mesh = Mesh("shop")
    narrow = MailboxOptions(capacity=1, single_active=True)
    ping, pong = mesh.mailbox("ping", narrow), mesh.mailbox("pong", narrow)
    handled: list[int] = []

    def bouncing(name: str, target: str) -> Callable[[int, Context], Awaitable[None]]:
        async def bounce(body: int, ctx: Context) -> None:
            handled.append(body)
            for _ in range(2 if body else 0):
                ctx.publish(mesh.exchange(""), body - 1, key=target)

        bounce.__name__ = name
        return bounce

    for number in range(2):
        mesh.actor(bouncing(f"ping{number}", "pong"), mailbox=ping)
        mesh.actor(bouncing(f"pong{number}", "ping"), mailbox=pong)
    async with mesh:
        await mesh.exchange("").publish(4, "ping")
        await mesh.idle()
    assert len(handled) == 31


# By hand


async def take(deliveries: Deliveries, name: str, seen: list[tuple[str, object]], *, lasting: float = 0.0) -> None:
    """Ack what comes, and note it."""
    async for delivery in deliveries:
        seen.append((name, delivery.message.body))
        await anyio.sleep(lasting)
        await delivery.ack()


async def test_manual_consumers_take_over_in_the_order_of_opening():
    """The first block that was entered is served; when it is left, what it had goes back, and the next is served."""
    mesh = Mesh("shop")
    box = mesh.mailbox("work", SINGLE)
    seen: list[tuple[str, object]] = []
    async with mesh, anyio.create_task_group() as group:
        async with box.consume() as first:
            for name in ("second", "third"):
                group.start_soon(consume, box, name, seen)
                await settled()
            await mesh.exchange("").publish_many([(number, "work") for number in range(3)])
            one, two = await anext(first), await anext(first)
            await settled()
            assert (first.is_active, seen) == (True, [])
            assert (box.statistics().consumers, box.statistics().standby) == (3, 2)
            assert (one.message.body, two.message.body) == (0, 1)
            await one.ack()
        assert not first.is_active
        await settled()
        assert seen == [("second", 1), ("second", 2)]
        assert counts(box) == {"entered": 3, "acked": 3}
        group.cancel_scope.cancel()


async def consume(box: Mailbox, name: str, seen: list[tuple[str, object]]) -> None:
    """Consume until cancelled."""
    async with box.consume() as deliveries:
        await take(deliveries, name, seen)


async def test_a_full_prefetch_hands_nothing_to_the_others():
    """The active consumer with nothing but unsettled deliveries is busy: messages wait for it."""
    mesh = Mesh("shop")
    box = mesh.mailbox("work", SINGLE)
    seen: list[tuple[str, object]] = []
    async with mesh, anyio.create_task_group() as group, box.consume(prefetch=1) as first:
        group.start_soon(consume, box, "second", seen)
        await mesh.exchange("").publish_many([(number, "work") for number in range(2)])
        delivery = await anext(first)
        await advance(60)
        assert seen == []
        await delivery.ack()
        last = await anext(first)
        assert last.message.body == 1
        group.cancel_scope.cancel()


async def test_one_that_stands_by_and_leaves_changes_nothing():
    """It may come and go; the one behind it takes over."""
    mesh = Mesh("shop")
    box = mesh.mailbox("work", SINGLE)
    seen: list[tuple[str, object]] = []
    async with mesh, anyio.create_task_group() as group:
        async with box.consume(), box.consume(priority=9) as second:
            assert not second.is_active
            group.start_soon(consume, box, "third", seen)
            await mesh.exchange("").publish("x", "work")
            await settled()
        await settled()
        assert seen == [("third", "x")]
        group.cancel_scope.cancel()


async def test_get_would_go_around_it():
    """Get and get_nowait are refused, whether or not there is a consumer (RabbitMQ: 405 RESOURCE_LOCKED); nothing is leased."""
    mesh = Mesh("shop")
    box = mesh.mailbox("work", SINGLE)
    async with mesh:
        await mesh.exchange("").publish("x", "work")
        with pytest.raises(PreconditionFailed, match=r"single active consumer.*: use async with mailbox\.consume\(\)"):
            await box.get()
        with pytest.raises(PreconditionFailed, match="which a get would go around"):
            box.get_nowait()
        assert counts(box) == {"entered": 1, "ready": 1}


async def test_drain_ends_those_that_stand_by():
    """A consumer that never was active ends with the mesh, like the others."""
    mesh = Mesh("shop", grace=1.0)
    box = mesh.mailbox("work", SINGLE)
    ended: list[str] = []

    async def run(name: str) -> None:
        async with box.consume() as deliveries:
            await take(deliveries, name, [])
        ended.append(name)

    async with anyio.create_task_group() as group, mesh:
        for name in "abc":
            group.start_soon(run, name)
        await settled()
    assert sorted(ended) == ["a", "b", "c"]
