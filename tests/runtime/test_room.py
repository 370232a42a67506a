"""Room: senders in line before full mailboxes, and actors held because a turn of theirs overfilled one."""

import random
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from flowmesh import Mesh
from flowmesh._runtime.context import Context
from flowmesh.errors import MailboxFull, MeshStopped, NotFound, Unroutable
from flowmesh.message import Receipt
from flowmesh.policies import MailboxOptions
from flowmesh.testing import Swept, cancel_sweep, settled

pytestmark = pytest.mark.anyio

ONE = MailboxOptions(capacity=1)


def _bodies(mailbox: Any) -> list[object]:
    return [message.body for message in mailbox.peek(5000)]


async def _in_line(group: Any, *sends: Callable[[], Awaitable[object]]) -> None:
    """Start senders so that they stand in line in this order."""
    for send in sends:
        group.start_soon(send)
        await settled()


# The line


async def test_the_line_is_first_come_first_served():
    """Each copy that leaves lets in one sender, in the order in which they came, also one that comes when there is room."""
    mesh, entered = Mesh("shop"), list[int]()
    box = mesh.mailbox("box", ONE)

    async def send(number: int) -> None:
        await mesh.exchange("").publish(number, "box")
        entered.append(number)

    async with mesh, anyio.create_task_group() as group:
        await send(0)
        for number in range(1, 6):
            await _in_line(group, lambda number=number: send(number))
        assert entered == [0]
        for number in range(6):
            delivery = box.get_nowait()
            group.start_soon(send, 10 + number)  # comes when there is room: behind the line all the same
            assert delivery.message.body == number
            await delivery.ack()
            await settled()
        assert entered[:6] == [0, 1, 2, 3, 4, 5]
        assert entered[6] == 10
        group.cancel_scope.cancel()


async def test_every_way_of_sending_waits():
    """tell, ask, publish, and publish_many wait in the same line; what they sent is handled in the order of the line."""
    mesh, seen = Mesh("shop"), list[object]()

    @mesh.actor(mailbox=ONE)
    async def work(body: Any) -> object:
        seen.append(body)
        return body

    async with mesh, anyio.create_task_group() as group:
        work.pause()
        await work.tell("first")
        await _in_line(
            group,
            lambda: work.tell("tell"),
            lambda: work.ask("ask", timeout=None),
            lambda: mesh.exchange("").publish("publish", "work"),
            lambda: mesh.exchange("").publish_many([("many", "work"), ("more", "work")]),
        )
        assert work.mailbox.statistics().entered == 1
        work.resume()
        await settled()
        assert seen == ["first", "tell", "ask", "publish", "many", "more"]


async def test_gates_are_passed_one_after_another_by_mailbox_number():
    """A fan-out to several full mailboxes waits in one line at a time, in the order of their declaration, holding nothing."""
    mesh = Mesh("shop")
    names = ["a", "b", "c"]
    boxes = {name: mesh.mailbox(name, ONE) for name in names}
    for name in reversed(names):
        mesh.exchange("all", "fanout").bind(boxes[name])

    async def waiting_at() -> list[str]:
        await settled()
        return [name for name in names if boxes[name].core in mesh._engine.room._lines]

    async with mesh, anyio.create_task_group() as group:
        await mesh.exchange("all").publish(0)
        await _in_line(group, lambda: mesh.exchange("all").publish(1))
        assert await waiting_at() == ["a"]
        boxes["c"].purge()
        assert await waiting_at() == ["a"]
        boxes["a"].purge()
        assert await waiting_at() == ["b"]
        # It has been through the first gate, and holds nothing there: another one may take the room.
        assert (await mesh.exchange("").publish("other", "a")).routed == 1
        assert [_bodies(boxes[name]) for name in names] == [["other"], [0], []]
        boxes["b"].purge()
        assert await waiting_at() == []
        # Each gate once: it does not go back to the first, which may be over by what was let through.
        assert [_bodies(boxes[name]) for name in names] == [["other", 1], [1], [1]]
        assert boxes["a"].statistics().over == 1


async def test_a_gate_that_filled_up_meanwhile_is_waited_at():
    """A mailbox that had room when the sender came, and has none when it goes on, is a gate as well."""
    mesh = Mesh("shop")
    a, b = mesh.mailbox("a", ONE), mesh.mailbox("b", ONE)
    for box in (a, b):
        mesh.exchange("all", "fanout").bind(box)
    async with mesh, anyio.create_task_group() as group:
        await mesh.exchange("").publish(0, "b")
        await _in_line(group, lambda: mesh.exchange("all").publish(1))
        await mesh.exchange("").publish(9, "a")
        b.purge()
        await settled()
        assert (_bodies(a), _bodies(b)) == ([9], [])
        a.purge()
        await settled()
        assert (_bodies(a), _bodies(b)) == ([1], [1])


async def test_nowait_does_not_jump_the_line():
    """While senders wait, a `_nowait` send is MailboxFull even in the moment when there is room for one."""
    mesh = Mesh("shop")
    box = mesh.mailbox("box", ONE)
    work = mesh.actor(_handle, name="work", mailbox=box)
    work.pause()
    async with mesh, anyio.create_task_group() as group:
        await work.tell(1)
        for send in (lambda: work.tell_nowait(9), lambda: mesh.exchange("").publish_nowait(9, "box")):
            with pytest.raises(MailboxFull, match=r"mailbox 'box' is full \(1 of 1 ready, overflow='wait'\)"):
                send()
        await _in_line(group, lambda: work.tell(2))
        box.purge()  # there is room, and the first of the line has not run yet
        with pytest.raises(MailboxFull):
            work.tell_nowait(9)
        await settled()
        assert _bodies(box) == [2]
        box.purge()
        work.tell_nowait(3)
        assert _bodies(box) == [3]
        box.purge()


async def test_a_sender_in_a_loop_does_not_starve_the_others():
    """Ten senders that send without end to a mailbox of one place get through equally often."""
    mesh = Mesh("shop", grace=0)
    counts = [0] * 10

    @mesh.actor(mailbox=ONE)
    async def work(number: int) -> None:
        await anyio.sleep(1)

    async def send(number: int) -> None:
        while True:
            await work.tell(number)
            counts[number] += 1

    async with mesh, anyio.create_task_group() as group:
        for number in range(10):
            group.start_soon(send, number)
        await anyio.sleep(200)
        group.cancel_scope.cancel()
    assert sum(counts) >= 200
    assert max(counts) - min(counts) <= 1


# Cancelling


@pytest.mark.parametrize("gates", [1, 3])
async def test_cancelling_a_sender_at_every_checkpoint(gates: int):
    """Wherever a waiting sender is cancelled, nothing of it has entered; the others keep their order and all get in."""
    mesh = Mesh("shop", grace=0)
    boxes = [mesh.mailbox(f"box{number}", ONE) for number in range(gates)]
    for box in boxes:
        mesh.exchange("all", "fanout").bind(box)
    everybody = mesh.exchange("all")
    taken: dict[str, list[str]] = {box.name: [] for box in boxes}
    emptied = anyio.Event()

    async with mesh, anyio.create_task_group() as group:

        async def prepare() -> None:
            """Fill the mailboxes, and let one sender stand in line."""
            assert [_bodies(box) for box in boxes] == [[]] * gates
            assert (await everybody.publish("first")).routed == gates
            await _in_line(group, lambda: everybody.publish("before"))

        async def empty() -> None:
            """Take everything out, one copy at a time, until nothing comes any more."""
            while mesh._engine.ground.parked_senders or any(box.core.ready for box in boxes):
                for box in boxes:
                    await settled()
                    if box.core.ready:
                        delivery = box.get_nowait()
                        taken[box.name].append(delivery.message.body)
                        await delivery.ack()
            emptied.set()

        def make():
            nonlocal emptied
            emptied = anyio.Event()
            group.start_soon(everybody.publish, "after")  # gets its turn when the swept one stands in line
            group.start_soon(empty)
            return everybody.publish("swept")

        async def check(run: Swept[Receipt]) -> None:
            await emptied.wait()
            lines = [line[:] for line in taken.values()]
            for line in taken.values():
                line.clear()
            expected = ["first", "before", "swept", "after"]
            if run.cancelled:
                expected.remove("swept")
            assert lines == [expected] * gates
            assert not mesh._engine.room._lines
            assert not any(box.core.room_wanted for box in boxes)
            assert all(box.statistics().leased == 0 for box in boxes)
            await prepare()

        await prepare()
        assert await cancel_sweep(make, check) >= gates
        group.cancel_scope.cancel()


async def test_cancelling_one_of_the_line_leaves_the_others_in_order():
    """Any sender of a line may go: first, in the middle, last, also when it has just been woken; the rest keep their order."""
    for leaving in range(5):
        for when in ("waiting", "woken"):
            mesh = Mesh("shop")
            box = mesh.mailbox("box", ONE)
            entered: list[int] = []
            scopes = [anyio.CancelScope() for _ in range(5)]

            async def send(number: int, mesh: Mesh = mesh, entered: list[int] = entered, scopes: Any = scopes) -> None:
                with scopes[number]:
                    await mesh.exchange("").publish(number, "box")
                    entered.append(number)

            async with mesh, anyio.create_task_group() as group:
                await mesh.exchange("").publish("old", "box")
                for number in range(5):
                    await _in_line(group, lambda number=number: send(number))
                if when == "woken":
                    box.purge()  # wakes the first
                scopes[leaving].cancel()
                for _ in range(8):
                    await settled()
                    box.purge()
            # On trio a sender that has been woken goes through before it hears of its cancellation.
            assert [number for number in entered if number != leaving] == [n for n in range(5) if n != leaving]
            assert box.statistics().entered == 1 + len(entered) == box.statistics().purged
            assert mesh._engine.ground.parked_senders == 0


async def test_an_asker_in_line_that_runs_out_of_time_enters_nothing():
    """Waiting for room counts for the asker's time limit; when it is over its question has not entered."""
    mesh = Mesh("shop", grace=0)
    work = mesh.actor(_handle, name="work", mailbox=ONE)
    work.pause()
    async with mesh:
        await work.tell(1)
        with pytest.raises(TimeoutError, match=r"actor 'work' did not answer message .* within 3 s"):
            await work.ask(2, timeout=3)
        assert anyio.current_time() == pytest.approx(3, abs=0.01)
        assert work.mailbox.statistics().entered == 1
        assert not mesh._engine.room._lines


async def test_random_comings_and_goings():
    """Many senders, some cancelled, to many mailboxes of one place: nothing lost, nothing doubled, nobody forgotten."""
    chance = random.Random(4)
    mesh = Mesh("shop")
    boxes = [mesh.mailbox(f"box{number}", MailboxOptions(capacity=2)) for number in range(3)]
    for number, box in enumerate(boxes):
        mesh.exchange("events", "topic").bind(box, "#" if number == 0 else f"*.{number}")
    sent: list[int] = []
    seen: list[list[int]] = [[], [], []]

    async def send(number: int) -> None:
        await anyio.sleep(chance.random())
        with anyio.move_on_after(chance.choice([0.05, 100])):
            receipt = await mesh.exchange("events").publish(number, f"x.{chance.randrange(3)}")
            sent.extend([number] * receipt.routed)

    async def consume(number: int) -> None:
        async with boxes[number].consume(prefetch=1) as deliveries:
            async for delivery in deliveries:
                await anyio.sleep(chance.random() / 50)
                seen[number].append(delivery.message.body)
                await delivery.ack()

    async with mesh, anyio.create_task_group() as group:
        for number in range(3):
            group.start_soon(consume, number)
        async with anyio.create_task_group() as senders:
            for number in range(300):
                senders.start_soon(send, number)
        await anyio.sleep(20)
        group.cancel_scope.cancel()
    assert sorted(sent) == sorted([*seen[0], *seen[1], *seen[2]])
    assert len(set(sent)) > 100
    assert mesh._engine.ground.parked_senders == 0


# What changes while a sender waits


async def test_a_mailbox_that_is_deleted_while_senders_wait():
    """All who wait there go on: to the other mailboxes if there are any, otherwise as an unroutable publish."""
    mesh = Mesh("shop")
    box, other = mesh.mailbox("box", ONE), mesh.mailbox("other")
    events = mesh.exchange("events", "fanout")
    events.bind(box)
    events.bind(other)
    outcomes: list[object] = []

    async def publish() -> None:
        outcomes.append((await events.publish(1)).routed)

    async def mandatory() -> None:
        with pytest.raises(Unroutable, match=r"there is no mailbox 'box', or it has been deleted"):
            await mesh.exchange("").publish(2, "box", mandatory=True)
        outcomes.append("unroutable")

    async with mesh, anyio.create_task_group() as group:
        await events.publish(0)
        await _in_line(group, publish, mandatory, publish)
        assert outcomes == []
        assert box.delete() == 1
        await settled()
        assert sorted(outcomes, key=str) == [1, 1, "unroutable"]
        assert _bodies(other) == [0, 1, 1]
        assert not mesh._engine.room._lines


async def test_an_exchange_that_is_deleted_while_senders_wait():
    """A sender whose exchange is gone when it is let through raises NotFound; nothing has entered, and the next goes on."""
    mesh = Mesh("shop")
    box = mesh.mailbox("box", ONE)
    events = mesh.exchange("events", "fanout")
    events.bind(box)
    errors: list[str] = []

    async def publish() -> None:
        with pytest.raises(NotFound) as caught:
            await events.publish(1)
        errors.append(str(caught.value))

    async with mesh, anyio.create_task_group() as group:
        await events.publish(0)
        await _in_line(group, publish, lambda: mesh.exchange("").publish(2, "box"))
        events.delete()
        box.purge()
        await settled()
        assert errors == ["exchange 'events' was deleted while a send to it waited for room"]
        assert _bodies(box) == [2]


async def test_a_binding_that_changes_while_a_sender_waits():
    """The route is looked up anew when a sender is let through: it goes where the bindings of then lead."""
    mesh = Mesh("shop")
    box, other = mesh.mailbox("box", ONE), mesh.mailbox("other")
    events = mesh.exchange("events", "fanout")
    events.bind(box)
    async with mesh, anyio.create_task_group() as group:
        await events.publish(0)
        await _in_line(group, lambda: events.publish(1))
        events.bind(other)
        events.unbind(box)
        box.purge()
        await settled()
        assert (_bodies(box), _bodies(other)) == ([], [1])


async def test_senders_from_outside_are_turned_away_when_the_mesh_drains():
    """When the drain begins those outside of turns get MeshStopped; those inside go on waiting, and get in."""
    mesh, outcomes = Mesh("shop"), list[str]()

    @mesh.actor(mailbox=ONE)
    async def slow(number: int) -> None:
        await anyio.sleep(1)

    @mesh.actor
    async def inside(number: int) -> None:
        await slow.tell(number)
        outcomes.append("inside entered")

    async def outside() -> None:
        with pytest.raises(MeshStopped, match=r"mesh 'shop' is draining: it takes no more messages"):
            await slow.tell(1)
        outcomes.append("outside refused")

    async with mesh, anyio.create_task_group() as group:
        await slow.tell(1)
        await settled()
        await slow.tell(2)
        await inside.tell(3)
        await _in_line(group, outside)
        mesh.stop()
        await settled()
        assert outcomes == ["outside refused"]
    assert outcomes == ["outside refused", "inside entered"]
    assert slow.mailbox.statistics().acked == 3


async def test_ttl_counts_from_entering():
    """A message that waited for room long beyond its ttl has all of it left when it enters; so has a question."""
    mesh = Mesh("shop", grace=0)
    box = mesh.mailbox("box", ONE)
    work = mesh.actor(_handle, name="work", mailbox=box)
    work.pause()
    async with mesh, anyio.create_task_group() as group:
        await work.tell(0)
        await _in_line(group, lambda: work.tell(1, ttl=5))
        await anyio.sleep(100)
        box.purge()
        await anyio.sleep(4)
        assert _bodies(box) == [1]
        await _in_line(group, lambda: work.ask(2, ttl=5, timeout=None))
        await anyio.sleep(1.5)
        assert _bodies(box) == [2]
        assert box.statistics().expired == 1
        await anyio.sleep(3)
        assert _bodies(box) == [2]
        work.resume()


# Holds


async def test_an_actor_whose_turn_overfilled_a_mailbox_is_held():
    """It is handed nothing more until there is room there; statistics show for what; then it goes on by itself."""
    mesh, seen = Mesh("shop", grace=0), list[int]()
    out = mesh.mailbox("out", MailboxOptions(capacity=2))

    @mesh.actor
    async def work(number: int, ctx: Context) -> None:
        seen.append(number)
        ctx.publish(mesh.exchange(""), number, key="out")
        ctx.publish(mesh.exchange(""), -number, key="out")

    async with mesh:
        for number in range(1, 8):
            await work.tell(number)
        await settled()
        assert seen == [1, 2]
        assert mesh.statistics().actors["work"].held == ("out",)
        assert out.statistics().over == 2
        await out.get_nowait().ack()
        await out.get_nowait().ack()
        await settled()
        assert seen == [1, 2]  # at capacity: there is no room yet
        await out.get_nowait().ack()
        await settled()
        assert seen == [1, 2, 3]
        out.purge()
        await settled()
        assert seen == [1, 2, 3, 4, 5]
        assert mesh.statistics().actors["work"].held == ("out",)
        out.delete()
        await settled()
        assert seen == [1, 2, 3, 4, 5, 6, 7]
        assert mesh.statistics().actors["work"].held == ()


async def test_a_held_actor_waits_for_every_mailbox_that_it_overfilled():
    """Two mailboxes overfilled: room in one of them is not enough."""
    mesh, seen = Mesh("shop", grace=0), list[int]()
    outs = [mesh.mailbox(name, ONE) for name in ("a", "b")]
    for out in outs:
        mesh.exchange("all", "fanout").bind(out)

    @mesh.actor
    async def work(number: int, ctx: Context) -> None:
        seen.append(number)
        ctx.publish(mesh.exchange("all"), number)
        ctx.publish(mesh.exchange("all"), number)

    async with mesh:
        await work.tell(1)
        await work.tell(2)
        await settled()
        assert mesh.statistics().actors["work"].held == ("a", "b")
        outs[0].purge()
        await settled()
        assert (seen, mesh.statistics().actors["work"].held) == ([1], ("b",))
        outs[1].purge()
        await settled()
        assert seen == [1, 2]


async def test_a_hold_and_a_line_share_the_room():
    """Senders and a held actor stand in one line for the same mailbox: neither takes all the room from the other."""
    mesh = Mesh("shop", grace=0)
    out = mesh.mailbox("out", ONE)
    handled: list[object] = []

    @mesh.actor
    async def work(number: int, ctx: Context) -> None:
        ctx.publish(mesh.exchange(""), "actor", key="out")
        ctx.publish(mesh.exchange(""), "actor", key="out")

    async def send() -> None:
        while True:
            await mesh.exchange("").publish("sender", "out")

    async with mesh, anyio.create_task_group() as group:
        for number in range(100):
            await work.tell(number)
        group.start_soon(send)
        group.start_soon(send)
        for _ in range(60):
            await settled()
            delivery = out.get_nowait()
            handled.append(delivery.message.body)
            await delivery.ack()
        group.cancel_scope.cancel()
    assert 10 <= handled.count("sender") <= 50
    assert handled.count("actor") + handled.count("sender") == 60


async def test_only_wait_mailboxes_hold():
    """An output that goes over a `reject` mailbox, or into one that drops, holds nobody."""
    for overflow in ("reject", "drop_oldest", "drop_newest"):
        mesh, seen = Mesh("shop", grace=0), list[int]()
        mesh.mailbox("out", MailboxOptions(capacity=1, overflow=overflow))

        @mesh.actor
        async def work(number: int, ctx: Context, mesh: Any = mesh, seen: Any = seen) -> None:
            seen.append(number)
            ctx.publish(mesh.exchange(""), number, key="out")

        async with mesh:
            for number in range(5):
                await work.tell(number)
            await mesh.idle()
        assert seen == [0, 1, 2, 3, 4]


async def test_a_hold_outlives_the_mesh():
    """An actor that is held when the mesh stops is held when it is entered again, and released by room then."""
    mesh, seen = Mesh("shop", grace=0), list[int]()
    out = mesh.mailbox("out", ONE)

    @mesh.actor
    async def work(number: int, ctx: Context) -> None:
        seen.append(number)
        ctx.publish(mesh.exchange(""), number, key="out")
        ctx.publish(mesh.exchange(""), number, key="out")

    async with mesh:
        await work.tell(1)
        await work.tell(2)
        await settled()
    async with mesh:
        await settled()
        assert seen == [1]
        out.purge()
        await settled()
        assert seen == [1, 2]


@pytest.mark.parametrize("size", [1, 2, 3])
async def test_a_ring_of_holds_is_not_closed(size: int, caplog: pytest.LogCaptureFixture):
    """Actors that overfill each other in a ring are not all held: the mailbox grows, one warning names the ring, all ends."""
    mesh = Mesh("shop")
    actors: list[Any] = []
    handled = 0

    def declare(number: int) -> Any:
        async def work(left: int, ctx: Context) -> None:
            nonlocal handled
            handled += 1
            if left:
                following = actors[(number + 1) % size]
                ctx.tell(following, left - 1)
                ctx.tell(following, left - 1)

        return mesh.actor(work, name=f"actor{number}", mailbox=ONE)

    actors.extend(declare(number) for number in range(size))
    async with mesh:
        await actors[0].tell(7)
        await mesh.idle()
    assert handled == 2**8 - 1
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert warnings[0].startswith("actors wait for room in a ring (actor")
    ring = warnings[0].partition("(")[2].partition(")")[0].split(" -> ")
    assert ring[0] == ring[-1]
    assert sorted(ring[1:]) == [f"actor{number}" for number in range(size)]
    assert "grows beyond its capacity of 1 instead" in warnings[0]


async def test_a_ring_that_a_free_consumer_breaks_is_held():
    """When one of a mailbox's consumers can go on, there will be room: the hold is taken, and nothing is warned of."""
    mesh = Mesh("shop")
    shared = mesh.mailbox("shared", ONE)
    seen: list[str] = []

    @mesh.actor(mailbox=shared)
    async def loops(number: int, ctx: Context) -> None:
        seen.append("loops")
        if number:
            ctx.publish(mesh.exchange(""), 0, key="shared")
            ctx.publish(mesh.exchange(""), 0, key="shared")

    @mesh.actor(mailbox=shared)
    async def helps(number: int) -> None:
        seen.append("helps")

    async with mesh:
        helps.pause()
        await loops.tell(1)
        helps.resume()
        await mesh.idle()
    assert len(seen) == 3
    assert shared.statistics().acked == 3


async def _handle(body: Any) -> None:
    pass
