"""Probes: what came, in which order, within which time; what did not; and what it is answered."""

import anyio
import pytest
from msgspec import Struct

from flowmesh import Mesh, NoReply, Part, Reject, Retry
from flowmesh.testing import Dead, Probe
from flowmesh.testing.plugin import RunningMesh


class Order(Struct, frozen=True):
    id: int


class Refund(Struct, frozen=True):
    id: int


def is_odd(order: Order) -> bool:
    """A condition with a name."""
    return order.id % 2 == 1


async def test_expect_takes_the_next(running_mesh: RunningMesh):
    """By type, by condition, by value: one message each, in the order in which they came."""
    mesh = Mesh("m")
    probe = Probe(mesh, "probe")
    async with running_mesh(mesh):
        for body in (Order(1), Order(3), Refund(4)):
            await probe.actor.tell(body)
        received = await probe.expect(Order)
        assert (received.body, received.attempt, received.message.key) == (Order(1), 1, "probe")
        await probe.expect(is_odd)
        await probe.expect(Refund(4))
        await probe.expect_none()


async def test_expect_waits(running_mesh: RunningMesh):
    """For as long as `within` says, in virtual time, its last moment included."""
    mesh = Mesh("m")
    probe = Probe(mesh, "probe")
    async with running_mesh(mesh):
        await probe.actor.tell(Order(1), delay=3600.0)
        assert (await probe.expect(Order, within=3600.0)).at == anyio.current_time()
        await probe.actor.tell(Order(2), delay=10.0)
        with pytest.raises(AssertionError, match=r"expected a message of type Order within 9\.5 s: no message came"):
            await probe.expect(Order, within=9.5)
        await probe.expect(Order(2), within=0.5)


async def test_expect_shows_what_came_instead(running_mesh: RunningMesh):
    """Another message fails it at once, with all that has come; and stays, to be expected."""
    mesh = Mesh("m")
    orders = mesh.exchange("orders", "topic")
    probe = Probe(mesh, "probe", bind=orders.on("order.*"))
    async with running_mesh(mesh):
        await orders.publish(Order(1), "order.eu")
        await orders.publish(Refund(2), "order.us")
        await probe.expect(Order)
        began = anyio.current_time()
        with pytest.raises(AssertionError) as caught:
            await probe.expect(lambda body: body.id == 7, within=60.0)
        assert anyio.current_time() == began
        lines = str(caught.value).splitlines()
        assert lines[0].startswith("probe 'probe' expected a message for which the lambda in test_probe.py:")
        assert "next came Refund(id=2) ('orders', key 'order.us', at 0 s)" in lines[0]
        assert lines[2:] == [
            "  expected          Order(id=1) ('orders', key 'order.eu', at 0 s)",
            "  not expected yet  Refund(id=2) ('orders', key 'order.us', at 0 s)",
        ]
        await probe.expect(Refund)


async def test_expect_says_when_nothing_came_at_all(running_mesh: RunningMesh):
    """An empty probe says so, and names what it waited for."""
    mesh = Mesh("m")
    probe = Probe(mesh, "probe")
    async with running_mesh(mesh):
        with pytest.raises(
            AssertionError, match=r"for which is_odd holds within 1 s: no message came; nothing has come at all"
        ):
            await probe.expect(is_odd)
        with pytest.raises(ValueError, match="within"):
            await probe.expect(Order, within=-1.0)


async def test_expect_all_leaves_the_order_open(running_mesh: RunningMesh):
    """Each takes a message of its own; what is missing is named, and nothing is taken then."""
    mesh = Mesh("m")
    probe = Probe(mesh, "probe")
    async with running_mesh(mesh):
        await probe.actor.tell(Refund(1))
        await probe.actor.tell(Order(1), delay=5.0)
        with pytest.raises(AssertionError, match=r"expected 3 messages within 6 s: none came for a message of type Order"):
            await probe.expect_all(Order, Order, Refund, within=6.0)
        order, refund = await probe.expect_all(Order, Refund)
        assert (order.body, refund.body) == (Order(1), Refund(1))
        await probe.expect_none(within=0.0)


async def test_expect_none_lets_the_time_pass(running_mesh: RunningMesh):
    """A message that comes within it, or had come before, is shown."""
    mesh = Mesh("m")
    probe = Probe(mesh, "probe")
    async with running_mesh(mesh):
        await probe.actor.tell(Order(1), delay=10.0)
        await probe.expect_none(within=9.0)
        assert anyio.current_time() == 9.0
        with pytest.raises(AssertionError, match=r"expected no message within 1 s, and Order\(id=1\) .* came"):
            await probe.expect_none(within=1.0)


@pytest.mark.mesh_time(autojump=False)
async def test_expect_none_moves_the_time(running_mesh: RunningMesh):
    """Also where nothing else does."""
    mesh = Mesh("m")
    probe = Probe(mesh, "probe")
    async with running_mesh(mesh):
        await probe.actor.tell(Order(1), delay=10.0)
        await probe.expect_none(within=9.0)
        with pytest.raises(AssertionError):
            await probe.expect_none(within=1.0)
        await probe.expect(Order)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_probes_work_in_real_time(backend: str):
    """A test of real sockets can use them as well; times are real then."""

    async def test() -> None:
        mesh = Mesh("m")
        probe = Probe(mesh, "probe")
        async with mesh:
            await probe.actor.tell(Order(1))
            await probe.expect(Order, within=30.0)
            await probe.expect_none(within=0.0)

    anyio.run(test, backend=backend)


# Answers


async def test_answers(running_mesh: RunningMesh):
    """A value for all, other ones for the next few, a function of the body; None where nothing was said."""
    mesh = Mesh("m")
    probe = Probe(mesh, "probe")
    async with running_mesh(mesh):
        assert await probe.actor.ask(Order(1)) is None
        probe.answers("all")
        probe.answers(lambda order: order.id * 2, times=2)
        assert [await probe.actor.ask(Order(number)) for number in (1, 2, 3)] == [2, 4, "all"]


async def test_failing_answers(running_mesh: RunningMesh):
    """An exception, or a class of them, is raised; a verdict is a verdict; and a retry is a message that comes again."""
    mesh = Mesh("m")
    probe = Probe(mesh, "probe", retry=Retry(3, initial=1.0, jitter="none"))
    async with running_mesh(mesh, dead_letters=[Dead("probe", "rejected", Refund)]):
        probe.answers(OSError("down"), times=1)
        probe.answers(lambda _: ConnectionError("still down"), times=1)
        await probe.actor.tell(Order(1))
        assert [(await probe.expect(Order, within=60.0)).attempt for _ in range(3)] == [1, 2, 3]
        await probe.expect_none(within=60.0)
        probe.answers(Reject("no"))
        await probe.actor.tell(Refund(1))
        with pytest.raises(NoReply, match="rejected"):
            await probe.actor.ask(Order(2))


async def test_hold_and_reply(running_mesh: RunningMesh):
    """What is held stays in hand until the test answers it; then its asker has the answer."""
    mesh, replies = Mesh("m"), list[object]()
    probe = Probe(mesh, "probe", concurrency=3)

    async def ask(number: int) -> None:
        try:
            replies.append(await probe.actor.ask(Order(number)))
        except OSError as error:
            replies.append(str(error))

    async with running_mesh(mesh) as time:
        probe.hold()
        async with anyio.create_task_group() as group:
            for number in (1, 2, 3):
                group.start_soon(ask, number)
                await time.settled()
            first, second, _ = await probe.expect_all(Order(1), Order(2), Order(3))
            await time.advance(5.0)
            assert replies == []
            second.reply("second")
            await time.settled()
            first.reply(OSError("first"))
            await time.settled()
            with pytest.raises(RuntimeError, match="answered already: call probe"):
                second.reply("again")
            probe.answers("rest")
            probe.release()
        assert replies == ["second", "first", "rest"]
        assert await probe.actor.ask(Order(4)) == "rest"


async def test_what_is_cancelled_in_hand_is_not_in_hand(running_mesh: RunningMesh):
    """An asker that leaves takes its message with it; `release` has nothing to answer then."""
    mesh = Mesh("m")
    probe = Probe(mesh, "probe")
    async with running_mesh(mesh) as time:
        probe.hold()
        with pytest.raises(TimeoutError):
            await probe.actor.ask(Order(1), timeout=1.0)
        await time.settled()
        probe.answers("kept", times=1)
        probe.release()
        assert await probe.actor.ask(Order(2)) == "kept"


# Its life


async def test_each_run_begins_with_nothing(running_mesh: RunningMesh):
    """A probe that is declared with the mesh has forgotten what came in the run before."""
    mesh = Mesh("m")
    probe = Probe(mesh, "probe")
    for _ in range(2):
        async with running_mesh(mesh):
            await probe.actor.tell(Order(1))
            await mesh.idle()
            assert len(probe.received) == 1
            assert repr(probe) == "<Probe 'probe', 1 of 1 messages not expected yet>"


async def test_a_new_probe_takes_the_place_of_the_old(running_mesh: RunningMesh):
    """Each test may declare its probe in a mesh that all of them share; bindings are added."""
    mesh = Mesh("m")
    orders = mesh.exchange("orders", "topic")
    old = Probe(mesh, "probe")
    new = Probe(mesh, "probe", bind=orders.on("a"))
    newest = Probe(mesh, "probe", bind=[orders.on("b")])
    assert old.actor is newest.actor
    async with running_mesh(mesh):
        await orders.publish(1, "a")
        await orders.publish(2, "b")
        await newest.expect(1)
        await newest.expect(2)
        assert (old.received, new.received) == ([], [])


async def test_a_probe_in_a_part(running_mesh: RunningMesh):
    """It is declared in a Part as in a mesh."""
    part, mesh = Part("p"), Mesh("m")
    probe = Probe(part, "probe")
    mesh.add(part)
    async with running_mesh(mesh):
        await probe.actor.tell(1)
        await probe.expect(1)
