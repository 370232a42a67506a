"""Single active consumers against the cases of RabbitMQ's suite, with actors and with consumers by hand.

Each case of the table is run, or stands in NOT_APPLICABLE with its reason.
"""

from typing import Any, Final

import anyio
import pytest

from flowmesh import MailboxOptions, Mesh
from flowmesh.errors import PreconditionFailed
from flowmesh.testing import settled, virtual_backend
from tests.conformance.loading import load

pytestmark = pytest.mark.anyio
CASES: Final[dict[str, Any]] = {name: case for each in load("queue_semantics")["sac"] for name, case in each.items()}
SINGLE: Final = MailboxOptions(single_active=True)
NOT_APPLICABLE: Final = {"exclusive_consume": "a mailbox is not exclusive: there is no such flag that could be refused"}


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    """A fresh event loop with virtual time, of each backend in turn."""
    return virtual_backend(request.param)


def test_every_case_is_accounted_for() -> None:
    """A case that is new in the table has a test, or is named here with the reason why not."""
    assert CASES.keys() == TESTS.keys() | NOT_APPLICABLE.keys()
    assert all(callable(globals()[test]) for tests in TESTS.values() for test in tests)


async def test_actors_all_messages_go_to_one_consumer():
    """Of two actors the first is handed all five messages."""
    case = CASES["all_messages_go_to_one_consumer"]
    mesh = Mesh("shop")
    box = mesh.mailbox("work", SINGLE)
    delivered = [0] * case["consumers"]

    def counting(number: int) -> Any:
        async def handle(body: int) -> None:
            delivered[number] += 1
            await anyio.sleep(1)

        return handle

    for number in range(case["consumers"]):
        mesh.actor(counting(number), name=f"actor{number}", mailbox=box)
    async with mesh:
        for number in range(case["publish"]):
            await mesh.exchange("").publish(number, "work")
        await mesh.idle()
    assert delivered == case["delivered"]


async def test_by_hand_all_messages_go_to_one_consumer():
    """The same for consumers by hand: the second, asked for, gets nothing while the first is there."""
    case = CASES["all_messages_go_to_one_consumer"]
    mesh = Mesh("shop")
    box = mesh.mailbox("work", SINGLE)
    async with mesh, box.consume() as first, box.consume() as second:
        for number in range(case["publish"]):
            await mesh.exchange("").publish(number, "work")
        in_hand = [await anext(first) for _ in range(case["publish"])]
        with anyio.move_on_after(1) as waiting:
            await anext(second)
        assert waiting.cancelled_caught
        assert [len(in_hand), box.statistics().ready] == [5, 0]


async def test_actors_cancel_active():
    """The next is active at once; what the stopped one has in hand stays its own, and is acked when it has finished."""
    mesh = Mesh("shop")
    box = mesh.mailbox("work", SINGLE)
    seen: list[tuple[str, int]] = []

    async def first(body: int) -> None:
        seen.append(("first", body))
        await anyio.sleep(10)

    async def second(body: int) -> None:
        seen.append(("second", body))

    one = mesh.actor(first, mailbox=box)
    mesh.actor(second, mailbox=box)
    async with mesh, anyio.create_task_group() as group:
        await mesh.exchange("").publish_many([(1, "work"), (2, "work")])
        await settled()
        group.start_soon(one.stop)
        await settled()
        assert seen == [("first", 1), ("second", 2)]
        assert (box.statistics().leased, box.statistics().acked) == (1, 1)
        await anyio.sleep(11)
        assert box.statistics().acked == 2


async def test_by_hand_difference_cancel_active():
    """The next is active at once; what the one that left has not settled goes back, as without `single_active`."""
    mesh = Mesh("shop")
    box = mesh.mailbox("work", SINGLE)
    async with mesh:
        await mesh.exchange("").publish("m1", "work")
        async with box.consume() as first:
            delivery = await anext(first)
        assert delivery.is_settled
        async with box.consume() as second:
            assert second.is_active
            again = await anext(second)
            assert (again.message.body, again.redelivered) == ("m1", True)


async def test_qos1():
    """With a prefetch of one: the first gets m1, settles it and leaves; the second gets m2."""
    mesh = Mesh("shop")
    box = mesh.mailbox("work", SINGLE)
    got: list[object] = []

    async def second() -> None:
        async with box.consume(1) as deliveries:
            delivery = await anext(deliveries)
            got.append(delivery.message.body)
            await delivery.ack()

    async with mesh, anyio.create_task_group() as group:
        await mesh.exchange("").publish_many([("m1", "work"), ("m2", "work")])
        async with box.consume(1) as first:
            delivery = await anext(first)
            group.start_soon(second)
            await settled()
            await delivery.ack()
            assert (delivery.message.body, got) == ("m1", [])
        await settled()
        assert got == ["m2"]


async def test_basic_get():
    """A get would go around the active consumer, and is refused."""
    async with Mesh("shop") as mesh:
        with pytest.raises(PreconditionFailed, match="single active consumer"):
            mesh.mailbox("work", SINGLE).get_nowait()


TESTS: Final = {
    "all_messages_go_to_one_consumer": [
        "test_actors_all_messages_go_to_one_consumer",
        "test_by_hand_all_messages_go_to_one_consumer",
    ],
    "cancel_active": ["test_actors_cancel_active", "test_by_hand_difference_cancel_active"],
    "qos1": ["test_qos1"],
    "basic.get": ["test_basic_get"],
}
