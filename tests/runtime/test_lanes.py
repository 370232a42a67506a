"""`by=`: messages with equal values one at a time and in order, different values in parallel."""

import logging
from typing import Any

import anyio
import pytest
from msgspec import Struct

from flowmesh import Context, MailboxOptions, Mesh, Retry, RetryAfter
from flowmesh.testing import settled
from tests.runtime.counting import counts

pytestmark = pytest.mark.anyio


class Order(Struct, frozen=True):
    customer: Any
    number: int


async def test_order_and_parallelism():
    """Each value keeps its order, one at a time; different values run at once, up to `concurrency`."""
    mesh = Mesh()
    seen: dict[str, list[int]] = {}
    running: set[str] = set()
    highest = 0

    @mesh.actor(by=lambda order: order.customer, concurrency=8)
    async def take(order: Order) -> None:
        nonlocal highest
        assert order.customer not in running
        running.add(order.customer)
        highest = max(highest, len(running))
        await anyio.sleep(1 + order.number % 3)
        running.remove(order.customer)
        seen.setdefault(order.customer, []).append(order.number)

    async with mesh:
        for number in range(60):
            await take.tell(Order("abcde"[number * 7 % 5], number))
        await mesh.idle()
        assert take.cell.box.lanes == {}
    assert highest == 5
    assert all(numbers == sorted(numbers) for numbers in seen.values())
    assert sum(map(len, seen.values())) == 60
    assert counts(take.mailbox) == {"entered": 60, "acked": 60}


async def test_concurrency_bounds_lanes():
    """There are never more handlers than slots, however many values there are."""
    mesh = Mesh()
    running = highest = 0

    @mesh.actor(by=lambda order: order.customer, concurrency=3)
    async def take(order: Order) -> None:
        nonlocal running, highest
        running += 1
        highest = max(highest, running)
        await anyio.sleep(1)
        running -= 1

    async with mesh:
        for number in range(20):
            await take.tell(Order(number, number))
        began = anyio.current_time()
        await mesh.idle()
        assert anyio.current_time() - began == 7
    assert highest == 3


async def test_retry_holds_its_lane():
    """A message that awaits its retry keeps the later ones of its lane waiting, and nobody else."""
    mesh = Mesh()
    seen: list[tuple[str, int, int, float]] = []

    @mesh.actor(by=lambda order: order.customer, concurrency=4, retry=Retry(3, initial=10, factor=1, jitter="none"))
    async def take(order: Order, ctx: Context) -> None:
        seen.append((order.customer, order.number, ctx.attempt, anyio.current_time() - began))
        if order.number == 0 and ctx.attempt < 3:
            raise OSError("not yet")

    async with mesh:
        began = anyio.current_time()
        for order in (Order("a", 0), Order("a", 1), Order("b", 2), Order("a", 3), Order("b", 4)):
            await take.tell(order)
        await settled()
        assert counts(take.mailbox) == {"entered": 5, "acked": 2, "delayed": 1, "ready": 2}
        await mesh.idle()
    assert [entry[:3] for entry in seen] == [
        ("a", 0, 1),
        ("b", 2, 1),
        ("b", 4, 1),
        ("a", 0, 2),
        ("a", 0, 3),
        ("a", 1, 1),
        ("a", 3, 1),
    ]
    assert [round(entry[3]) for entry in seen] == [0, 0, 0, 10, 20, 20, 20]
    assert counts(take.mailbox) == {"entered": 5, "acked": 5}


async def test_retry_after_holds_its_lane():
    """RetryAfter holds the lane as a retry does."""
    mesh = Mesh()
    seen: list[int] = []
    put_off = True

    @mesh.actor(by=lambda order: order.customer, concurrency=4)
    async def take(order: Order) -> None:
        nonlocal put_off
        if order.number == 0 and put_off:
            put_off = False
            raise RetryAfter(5)
        seen.append(order.number)

    async with mesh:
        for number in range(3):
            await take.tell(Order("a", number))
        await take.tell(Order("b", 3))
        await mesh.idle()
    assert seen == [3, 0, 1, 2]


async def test_dead_letter_frees_its_lane():
    """A message that fails for good lets the next of its lane through."""
    mesh = Mesh()
    seen: list[int] = []

    @mesh.actor(by=lambda order: order.customer, concurrency=4)
    async def take(order: Order) -> None:
        await anyio.sleep(1)
        if order.number % 2:
            raise ValueError(order.number)
        seen.append(order.number)

    async with mesh:
        for number in range(6):
            await take.tell(Order("a", number))
        await mesh.idle()
        assert take.cell.box.lanes == {}
    assert seen == [0, 2, 4]
    assert counts(take.mailbox) == {"entered": 6, "acked": 3, "dead": 3}


def _unhashable(order: Order) -> Any:
    return [order.customer]


def _raising(order: Order) -> Any:
    if order.customer == "bad":
        raise KeyError("no such customer")
    return order.customer


def _bad_lists(order: Order) -> Any:
    return [] if order.customer == "bad" else order.customer


@pytest.mark.parametrize(
    "by, text", [(_raising, "KeyError: 'no such customer'"), (_bad_lists, "TypeError: unhashable type: 'list'")]
)
async def test_no_lane(by: Any, text: str, caplog: pytest.LogCaptureFixture):
    """A message whose `by=` raises, or gives what cannot be a lane, is malformed: logged, buried, the others go on."""
    mesh = Mesh()
    seen: list[int] = []

    @mesh.actor(by=by, concurrency=2)
    async def take(order: Order) -> None:
        seen.append(order.number)

    with caplog.at_level(logging.ERROR, "flowmesh"):
        async with mesh:
            for number in range(6):
                await take.tell(Order("bad" if number % 3 == 1 else "good", number))
            await mesh.idle()
    assert seen == [0, 2, 3, 5]
    assert counts(take.mailbox) == {"entered": 6, "acked": 4, "dead": 2}
    letters = mesh.dead_letters.list(reason="malformed")
    assert [letter.body.number for letter in letters] == [1, 4]
    assert f"by= of actor 'take' gave no lane: {text}" in letters[0].deaths[0].detail
    assert len(caplog.records) == 2
    assert caplog.records[0].exc_info is not None


async def test_by_that_raises_a_base_exception():
    """A BaseException of `by=` stops the mesh as a handler's does: it leaves bare, and the message is ready at its place."""
    mesh = Mesh()

    class Fatal(BaseException):
        pass

    def by(order: Order) -> str:
        raise Fatal(order.customer)

    @mesh.actor(by=by)
    async def take(order: Order) -> None:
        pytest.fail("no lane")

    async def run() -> None:
        async with mesh:
            await take.tell(Order("ada", 1))
            await anyio.sleep_forever()

    with pytest.raises(Fatal, match="ada"):
        await run()
    assert counts(take.mailbox) == {"entered": 1, "ready": 1}
    assert len(mesh.dead_letters) == 0


async def test_by_on_a_shared_mailbox_with_two_types():
    """Two actors of different types on one mailbox: each converts the body to its own, whoever looked at it first."""

    class Wide(Struct, frozen=True):
        customer: str
        number: int
        note: str = ""

    mesh = Mesh()
    shared = mesh.mailbox("shared")
    seen: list[object] = []

    @mesh.actor(mailbox=shared, by=lambda order: order.customer, retry=Retry(2, initial=1, jitter="none"))
    async def narrow(order: Order) -> None:
        narrow.pause()
        raise OSError

    @mesh.actor(mailbox=shared)
    async def wide(order: Wide) -> None:
        seen.append(order)

    async with mesh:
        wide.pause()
        await mesh.exchange("").publish({"customer": "ada", "number": 1}, "shared")
        await mesh.idle()
        wide.resume()
        await anyio.sleep(2)
    assert seen == [Wide("ada", 1)]


async def test_all_unhashable():
    """Even if no message has a lane, the actor goes on and nothing is lost."""
    mesh = Mesh()

    @mesh.actor(by=_unhashable)
    async def take(order: Order) -> None:
        pytest.fail("no lane")

    async with mesh:
        for number in range(200):
            await take.tell(Order("a", number))
        await mesh.idle()
    assert counts(take.mailbox) == {"entered": 200, "dead": 200}


async def test_by_runs_once_per_copy_on_the_converted_body():
    """`by` sees the body as the handler does, and is asked once, however often its message waits or is retried."""
    mesh = Mesh()
    asked: list[Any] = []
    attempts: list[int] = []

    def by(order: Order) -> str:
        asked.append(order)
        return order.customer

    @mesh.actor(by=by, bind=mesh.exchange("in").on("a"), concurrency=3, retry=Retry(3, initial=1, jitter="none"))
    async def take(order: Order, ctx: Context) -> None:
        attempts.append(order.number)
        await anyio.sleep(1)
        if ctx.attempt < 3:
            raise OSError

    async with mesh:
        for number in range(4):
            await mesh.exchange("in").publish({"customer": "a", "number": number}, "a")
        await mesh.idle()
    assert asked == [Order("a", number) for number in range(4)]
    assert attempts == [number for number in range(4) for _ in range(3)]


async def test_unconvertible_body_has_no_lane():
    """A body that cannot be converted is malformed before `by` is asked, with the conversion's reason."""
    mesh = Mesh()

    @mesh.actor(by=lambda order: order.customer, bind=mesh.exchange("in").on("a"))
    async def take(order: Order) -> None: ...

    async with mesh:
        await mesh.exchange("in").publish({"customer": "a"}, "a")
        await mesh.exchange("in").publish(Order("a", 1), "a")
        await mesh.idle()
    assert counts(take.mailbox) == {"entered": 2, "acked": 1, "dead": 1}
    assert "missing required field `number`" in mesh.dead_letters.list()[0].deaths[0].detail


async def test_none_is_a_lane():
    """None, like any hashable value, is a lane of its own; equal values are one lane."""
    mesh = Mesh()
    running: list[Any] = []

    @mesh.actor(by=lambda order: order.customer, concurrency=8)
    async def take(order: Order) -> None:
        running.append(order.customer)
        await anyio.sleep(1)

    async with mesh:
        for customer in (None, None, 1, 1.0, True, (1, 2), (1, 2)):
            await take.tell(Order(customer, 0))
        await settled()
        assert running == [None, 1, (1, 2)]
        await mesh.idle()
    assert len(running) == 7


async def test_lane_and_priorities():
    """In a mailbox with priorities a lane is served by priority, then place."""
    mesh = Mesh()
    seen: list[int] = []

    @mesh.actor(by=lambda order: order.customer, mailbox=MailboxOptions(priorities=True), concurrency=2)
    async def take(order: Order) -> None:
        await anyio.sleep(1)
        seen.append(order.number)

    async with mesh:
        await take.tell(Order("a", 0))
        await settled()
        for number, priority in ((1, 0), (2, 9), (3, 5), (4, 9)):
            await take.tell(Order("a", number), priority=priority)
        await mesh.idle()
    assert seen == [0, 2, 4, 3, 1]


async def test_lanes_of_competing_actors():
    """Two actors with `by=` on one mailbox share its lanes."""
    mesh = Mesh()
    box = mesh.mailbox("box")
    running: set[str] = set()
    seen: list[int] = []

    async def handle(order: Order) -> None:
        assert order.customer not in running
        running.add(order.customer)
        await anyio.sleep(1)
        running.remove(order.customer)
        seen.append(order.number)

    for name in ("one", "two"):
        mesh.actor(handle, name=name, mailbox=box, by=lambda order: order.customer, concurrency=2)
    async with mesh:
        for number in range(20):
            await mesh.exchange("").publish(Order("abc"[number % 3], number), "box")
        await mesh.idle()
    for lane in range(3):
        numbers = [number for number in seen if number % 3 == lane]
        assert numbers == sorted(numbers)
    assert counts(box) == {"entered": 20, "acked": 20}


async def test_many_values_leave_no_state():
    """Values are unlimited; state is kept only for those that are active."""
    mesh = Mesh()

    @mesh.actor(by=lambda order: order.customer, concurrency=4)
    async def take(order: Order) -> None:
        assert len(take.cell.box.lanes) <= 4

    async with mesh:
        for number in range(2000):
            await take.tell(Order(number, number))
        await mesh.idle()
        assert take.cell.box.lanes == {}
    assert counts(take.mailbox) == {"entered": 2000, "acked": 2000}


async def test_purge_and_lanes():
    """Purging takes what is set aside, too; the lane's holder goes on and later messages follow."""
    mesh = Mesh()
    seen: list[int] = []

    @mesh.actor(by=lambda order: order.customer, concurrency=2)
    async def take(order: Order) -> None:
        await anyio.sleep(1)
        seen.append(order.number)

    async with mesh:
        for number in range(5):
            await take.tell(Order("a", number))
        await settled()
        assert take.mailbox.purge() == 4
        await take.tell(Order("a", 5))
        await mesh.idle()
    assert seen == [0, 5]
    assert counts(take.mailbox) == {"entered": 6, "acked": 2, "purged": 4}


async def test_asks_in_lanes():
    """Asked messages keep their lane's order and are answered."""
    mesh = Mesh()
    answers: list[int] = []

    @mesh.actor(by=lambda order: order.customer, concurrency=4)
    async def take(order: Order) -> int:
        await anyio.sleep(1)
        return order.number

    async def ask(number: int) -> None:
        answers.append(await take.ask(Order("a", number)))

    began = anyio.current_time()
    async with mesh, anyio.create_task_group() as group:
        for number in range(4):
            group.start_soon(ask, number)
            await settled()
    assert answers == [0, 1, 2, 3]
    assert anyio.current_time() - began == 4
    assert counts(take.mailbox) == {"entered": 4, "acked": 4}
