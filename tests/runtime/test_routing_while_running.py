"""Declaring, binding, unbinding and deleting while messages flow: each publish is routed by the topology of its moment."""

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmesh import Mesh
from flowmesh._runtime.mailbox import Mailbox
from flowmesh.errors import NotFound, Unroutable
from flowmesh.policies import MailboxOptions
from flowmesh.testing import BACKENDS, Probe, advance, run, settled
from flowmesh.testing.plugin import RunningMesh
from flowmesh.testing.virtual import Backend

pytestmark = pytest.mark.anyio


def bodies(mailbox: Mailbox) -> list[object]:
    """What is ready in a mailbox."""
    return [message.body for message in mailbox.peek(1000)]


async def test_every_change_is_seen_by_the_next_publish():
    """A cached route is never older than the topology: bind, unbind, declare, delete, alternate, exchange to exchange."""
    mesh = Mesh("shop")
    orders = mesh.exchange("orders", "topic", alternate="rest")
    one, two = mesh.mailbox("one"), mesh.mailbox("two")

    async def reached() -> set[str]:
        boxes: set[str] = set()
        for _ in range(2):  # the second takes the cached route
            receipt = await orders.publish("x", "a.b")
            boxes = {box.name for box in (one, two) if box.purge()}
            assert receipt.routed == len(boxes)
        return boxes

    async with mesh:
        assert await reached() == set()
        orders.bind(one, "a.*")
        assert await reached() == {"one"}
        orders.bind(two, "#")
        assert await reached() == {"one", "two"}
        orders.unbind(one, "a.*")
        assert await reached() == {"two"}
        orders.unbind(two, "#")
        assert await reached() == set()
        rest = mesh.exchange("rest", "fanout")  # the alternate is declared only now
        rest.bind(one)
        assert await reached() == {"one"}
        rest.bind(two)
        assert await reached() == {"one", "two"}
        further = mesh.exchange("further", "direct")
        orders.bind(further, "a.#")  # now it has a match, which leads nowhere
        assert await reached() == set()
        further.bind(two, "a.b")
        assert await reached() == {"two"}
        further.delete()
        assert await reached() == {"one", "two"}
        rest.delete()
        assert await reached() == set()


async def test_deleted_mailbox_gets_nothing_more():
    """A mailbox deleted and declared again is another one, which nothing is bound to."""
    mesh = Mesh("shop")
    orders, box = mesh.exchange("orders", "fanout"), mesh.mailbox("box")
    orders.bind(box)
    async with mesh:
        await orders.publish("a")
        assert box.delete() == 1
        again = mesh.mailbox("box")
        assert (await orders.publish("b")).routed == 0
        assert (await mesh.exchange("").publish("c", "box")).routed == 1
        orders.bind(again)
        assert (await orders.publish("d")).routed == 1
        assert bodies(again) == ["c", "d"]


async def test_actor_declared_while_running(running_mesh: RunningMesh):
    """An actor declared on a running mesh is bound and handles what comes from then on, and what lay in its mailbox."""
    mesh = Mesh("shop")
    orders, waiting = mesh.exchange("orders", "fanout"), mesh.mailbox("late")
    orders.bind(waiting)
    async with running_mesh(mesh):
        await orders.publish("before")
        late = Probe(mesh, "late", bind=orders.on())
        await orders.publish("after")
        await late.expect("before")
        await late.expect("after")
        await late.expect_none()


async def test_binding_changes_while_a_sender_waits():
    """A sender that waits for room is routed anew when it goes on: bound mailboxes get a copy, unbound ones none."""
    mesh = Mesh("shop")
    orders = mesh.exchange("orders", "fanout")
    full, left, joined = mesh.mailbox("full", MailboxOptions(capacity=1)), mesh.mailbox("left"), mesh.mailbox("joined")
    orders.bind(full)
    orders.bind(left)
    async with mesh, anyio.create_task_group() as group:
        await orders.publish("filler")
        receipts: list[int] = []

        async def publish() -> None:
            receipts.append((await orders.publish("x")).routed)

        group.start_soon(publish)
        await settled()
        orders.unbind(left)
        orders.bind(joined)
        assert full.purge() == 1
        await settled()
        assert receipts == [2]
        assert (bodies(full), bodies(left), bodies(joined)) == (["x"], ["filler"], ["x"])


async def test_exchange_deleted_while_a_sender_waits():
    """The sender gets NotFound, and nothing has entered; a mandatory one whose bindings went gets Unroutable."""
    mesh = Mesh("shop")
    orders, full, other = mesh.exchange("orders", "fanout"), mesh.mailbox("full", MailboxOptions(capacity=1)), mesh.mailbox("o")
    orders.bind(full)
    orders.bind(other)
    async with mesh, anyio.create_task_group() as group:
        await orders.publish("filler")
        ended: list[str] = []

        async def publish(error: type[Exception], text: str) -> None:
            with pytest.raises(error, match=text):
                await orders.publish("x", mandatory=True)
            ended.append(error.__name__)

        group.start_soon(publish, Unroutable, "exchange 'orders' routes key '' to no mailbox")
        await settled()
        orders.unbind(full)
        orders.unbind(other)
        full.purge()
        await settled()
        assert ended == ["Unroutable"]
        orders.bind(full)
        await orders.publish("filler")
        group.start_soon(publish, NotFound, "exchange 'orders' was deleted while a send to it waited for room")
        await settled()
        orders.delete()
        full.purge()
        await settled()
        assert ended == ["Unroutable", "NotFound"]
        assert bodies(other) == ["filler"]
        await mesh.idle()


async def test_deferred_message_takes_the_bindings_of_its_time(caplog: pytest.LogCaptureFixture):
    """A deferred message is routed when it is due; if its exchange is gone by then, the log says so."""
    mesh = Mesh("shop")
    orders, before, after = mesh.exchange("orders", "fanout"), mesh.mailbox("before"), mesh.mailbox("after")
    orders.bind(before)
    async with mesh:
        receipt = await orders.publish("x", delay=10)
        assert (receipt.routed, receipt.timer is not None) == (0, True)
        second = await orders.publish("y", delay=20)
        orders.unbind(before)
        orders.bind(after)
        await advance(11)
        assert (bodies(before), bodies(after)) == ([], ["x"])
        orders.delete()
        await advance(10)
        assert f"message {second.message_id} was due for exchange 'orders', which is gone" in caplog.messages


async def test_changes_between_the_turns_of_a_flow():
    """Rebinding under load loses and doubles nothing: every message is where the bindings of its moment led."""
    mesh = Mesh("shop")
    orders, one, two = mesh.exchange("orders", "direct"), mesh.mailbox("one"), mesh.mailbox("two")
    expected: dict[str, list[int]] = {"one": [], "two": []}
    bound = "one"
    orders.bind(one, "k")
    done = False

    async def rebind() -> None:
        nonlocal bound
        boxes = {"one": one, "two": two}
        while not done:
            other = "two" if bound == "one" else "one"
            orders.bind(boxes[other], "k")
            orders.unbind(boxes[bound], "k")
            bound = other
            await anyio.lowlevel.checkpoint()

    async with mesh, anyio.create_task_group() as group:
        group.start_soon(rebind)
        for number in range(1000):
            await orders.publish(number, "k")  # may suspend before it is routed, never after
            expected[bound].append(number)
        done = True
        assert {name: bodies(mesh.mailbox(name)) for name in expected} == expected
        assert min(len(numbers) for numbers in expected.values()) > 0


_changes = st.lists(
    st.tuples(
        st.sampled_from(["bind", "unbind", "delete mailbox", "delete exchange", "publish", "publish", "publish"]),
        st.integers(0, 2),
        st.integers(0, 4),
        st.sampled_from(["a", "a.b", "*", "#"]),
    ),
    max_size=40,
)


@pytest.mark.parametrize("backend", BACKENDS)
@given(changes=_changes)
def test_warm_routes_equal_fresh_ones(backend: Backend, changes: list[tuple[str, int, int, str]]):
    """Whatever changes between publishes, a mesh with warm routes reaches what a new mesh of the same topology reaches."""

    async def main() -> None:
        mesh = Mesh("shop", grace=0)
        types = ("topic", "fanout", "direct")
        bindings: set[tuple[int, int, str]] = set()

        def ends(of: Mesh) -> list[object]:
            boxes = [of.mailbox(f"m{number}", MailboxOptions(overflow="drop_oldest")) for number in range(2)]
            return [*(of.exchange(f"x{number}", type) for number, type in enumerate(types)), *boxes]

        async with mesh:
            for verb, source, end, key in changes:
                found = ends(mesh)
                exchange, destination = found[source], found[end]
                if verb == "bind":
                    exchange.bind(destination, key)  # pyright: ignore[reportAttributeAccessIssue] - an Exchange
                    bindings.add((source, end, key))
                elif verb == "unbind":
                    exchange.unbind(destination, key)  # pyright: ignore[reportAttributeAccessIssue] - an Exchange
                    bindings.discard((source, end, key))
                elif verb == "delete mailbox":
                    found[3 + end % 2].delete()  # pyright: ignore[reportAttributeAccessIssue] - a Mailbox
                    bindings = {each for each in bindings if each[1] != 3 + end % 2}
                elif verb == "delete exchange":
                    exchange.delete()  # pyright: ignore[reportAttributeAccessIssue] - an Exchange
                    bindings = {each for each in bindings if source not in each[:2]}
                else:
                    routing_key = "a" if key == "*" else "a.b" if key == "#" else key
                    warm = await exchange.publish("x", routing_key)  # pyright: ignore[reportAttributeAccessIssue] - an Exchange
                    fresh = Mesh("fresh", grace=0)
                    others = ends(fresh)
                    for each in bindings:
                        others[each[0]].bind(others[each[1]], each[2])  # pyright: ignore[reportAttributeAccessIssue] - as above
                    route = fresh._engine.ground.router.route(others[source].core, routing_key, None)  # pyright: ignore[reportAttributeAccessIssue] - the core's own answer
                    assert warm.routed == len(route)

    run(main, backend=backend)
