"""Asks: replies, errors, deadlines that travel, and an asker that leaves takes its message with it."""

import logging
import threading
from collections.abc import Callable
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest
from msgspec import Struct

from flowmesh import (
    ActorFailed,
    ActorStopped,
    Context,
    MailboxFull,
    MailboxOptions,
    Mesh,
    MeshStopped,
    NoReply,
    NotRunning,
    Reject,
    Retry,
    RetryAfter,
    Unroutable,
)
from flowmesh.testing import Swept, cancel_sweep, settled
from tests.runtime.counting import counts

pytestmark = pytest.mark.anyio


class Order(Struct, frozen=True):
    id: int


class Asking:
    """Asks in tasks of their own, and keeps what became of each."""

    def __init__(self, group: Any) -> None:
        self._group = group
        self.ended: dict[int, Any] = {}
        self.scopes: dict[int, anyio.CancelScope] = {}

    def __call__(self, actor: Any, number: int, **options: Any) -> None:
        self._group.start_soon(self._ask, actor, number, options)

    async def _ask(self, actor: Any, number: int, options: dict[str, Any]) -> None:
        with anyio.CancelScope() as self.scopes[number]:
            try:
                self.ended[number] = await actor.ask(Order(number), **options)
            except Exception as error:
                self.ended[number] = error
            except anyio.get_cancelled_exc_class():
                self.ended[number] = "cancelled"
                raise


# Answers


async def test_answers():
    """Each asker gets its own answer, whatever order they come in; None and falsy values are answers."""
    mesh = Mesh()

    @mesh.actor(concurrency=10)
    async def take(order: Order) -> int:
        await anyio.sleep(10 - order.id)
        return order.id * order.id

    @mesh.actor
    async def nothing(order: Order) -> None:
        return None

    async with mesh, anyio.create_task_group() as group:
        ask = Asking(group)
        for number in range(10):
            ask(take, number)
        await anyio.sleep(20)
        assert ask.ended == {number: number * number for number in range(10)}
        assert await nothing.ask(Order(1)) is None
    assert counts(take.mailbox) == {"entered": 10, "acked": 10}


async def test_the_handlers_own_exception():
    """In process an asker gets the very exception that the handler raised; it is neither logged nor dead-lettered."""
    mesh = Mesh()
    raised: list[BaseException] = []

    class CardDeclined(Exception):
        pass

    @mesh.actor
    async def take(order: Order) -> None:
        error = CardDeclined("no funds") if order.id else ExceptionGroup("many", [ValueError("one")])
        raised.append(error)
        raise error

    async with mesh:
        with pytest.raises(CardDeclined, match="no funds") as caught:
            await take.ask(Order(1))
        assert caught.value is raised[0]
        with pytest.raises(ExceptionGroup) as group:
            await take.ask(Order(0))
        assert group.value is raised[1]
    assert counts(take.mailbox) == {"entered": 2, "acked": 2}
    assert len(mesh.dead_letters) == 0


async def test_nothing_is_logged_for_an_asker(caplog: pytest.LogCaptureFixture):
    """What an asker gets raised is not logged as an error too."""
    mesh = Mesh()

    @mesh.actor(retry=Retry(2, initial=1))
    async def take(order: Order) -> None:
        raise ValueError

    async with mesh:
        with pytest.raises(ValueError):
            await take.ask(Order(1))
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_last_exception_after_retries():
    """An asked message is retried as `retry=` says; the asker gets the answer, or the last exception."""
    mesh = Mesh()

    @mesh.actor(retry=Retry(3, initial=1, jitter="none"))
    async def take(order: Order, ctx: Context) -> int:
        if ctx.attempt < order.id:
            raise OSError(f"attempt {ctx.attempt}")
        return ctx.attempt

    async with mesh:
        assert await take.ask(Order(3)) == 3
        with pytest.raises(OSError, match="attempt 3"):
            await take.ask(Order(9))
    assert counts(take.mailbox) == {"entered": 2, "acked": 2}


async def test_no_retry_past_the_deadline():
    """A retry that would come after its asker's deadline is not waited for: the asker gets the failure at once."""
    mesh = Mesh()
    attempts: list[int] = []

    @mesh.actor(retry=Retry(9, initial=4, factor=1, jitter="none"))
    async def take(order: Order, ctx: Context) -> None:
        attempts.append(ctx.attempt)
        raise OSError(f"attempt {ctx.attempt}")

    async with mesh:
        began = anyio.current_time()
        with pytest.raises(OSError, match="attempt 3"):
            await take.ask(Order(1), timeout=10)
        assert anyio.current_time() - began == pytest.approx(8, abs=0.01)
        await anyio.sleep(50)
    assert attempts == [1, 2, 3]
    assert counts(take.mailbox) == {"entered": 1, "acked": 1}


async def test_verdicts_and_an_asker():
    """Reject refuses with NoReply; RetryAfter is waited for, unless it goes past the deadline."""
    mesh = Mesh()
    put_off: list[int] = []

    @mesh.actor
    async def take(order: Order) -> str:
        if order.id == 0:
            raise Reject("not today")
        if order.id not in put_off:
            put_off.append(order.id)
            raise RetryAfter(order.id)
        return "done"

    async with mesh:
        with pytest.raises(NoReply, match=r"actor 'take' rejected message .*: not today") as caught:
            await take.ask(Order(0))
        assert caught.value.reason == "rejected"
        assert caught.value.message is not None
        assert caught.value.message.body == Order(0)
        assert await take.ask(Order(5), timeout=10) == "done"
        with pytest.raises(ActorFailed, match=r"put message .* off by 15.0 s, past the deadline of its asker"):
            await take.ask(Order(15), timeout=10)
    assert counts(take.mailbox) == {"entered": 3, "acked": 3}
    assert len(mesh.dead_letters) == 0


# Deadlines


async def test_time_limit_of_an_ask():
    """An asker waits no longer than its timeout; the error names actor, message and limit."""
    mesh = Mesh()

    @mesh.actor
    async def take(order: Order) -> None:
        await anyio.sleep_forever()

    async with mesh:
        began = anyio.current_time()
        with pytest.raises(TimeoutError, match=r"actor 'take' did not answer message [0-9a-f]+-\d+ within 2.5 s"):
            await take.ask(Order(1), timeout=2.5)
        assert anyio.current_time() - began == pytest.approx(2.5, abs=0.01)
        await mesh.idle()
    assert counts(take.mailbox) == {"entered": 1, "withdrawn": 1}


async def test_default_time_limit():
    """Thirty seconds, unless told otherwise; None waits without limit; zero gives up unless the answer is there."""
    mesh = Mesh()

    @mesh.actor
    async def take(order: Order) -> str:
        await anyio.sleep(order.id)
        return "done"

    async with mesh:
        began = anyio.current_time()
        with pytest.raises(TimeoutError):
            await take.ask(Order(40))
        assert anyio.current_time() - began == pytest.approx(30, abs=0.01)
        assert await take.ask(Order(86_400), timeout=None) == "done"
        with pytest.raises(TimeoutError, match="within 0 s"):
            await take.ask(Order(10), timeout=0)


async def test_many_time_limits():
    """Asks with different limits time out each at its own, in order."""
    mesh = Mesh()

    @mesh.actor(concurrency=100)
    async def take(order: Order) -> int:
        await anyio.sleep(order.id)
        return order.id

    ended: list[tuple[int, float]] = []

    async def ask(number: int, timeout: float) -> None:
        with pytest.raises(TimeoutError):
            await take.ask(Order(1000), timeout=timeout)
        ended.append((number, anyio.current_time() - began))

    async with mesh:
        began = anyio.current_time()
        async with anyio.create_task_group() as group:
            for number in range(40):
                group.start_soon(ask, number, (3, 1, 2.5, 7)[number % 4])
    assert [round(seconds, 1) for _, seconds in ended] == [1.0] * 10 + [2.5] * 10 + [3.0] * 10 + [7.0] * 10
    assert counts(take.mailbox) == {"entered": 40, "withdrawn": 40}


async def test_deadline_travels():
    """A nested ask inherits the earlier deadline, over any number of hops, and never a later one."""
    mesh = Mesh()
    seen: dict[str, tuple[float | None, float]] = {}

    def left(ctx: Context) -> float:
        assert ctx.message.deadline is not None
        return round(ctx.message.deadline - anyio.current_time(), 3)

    @mesh.actor
    async def last(order: Order, ctx: Context) -> str:
        seen["last"] = (left(ctx), 0)
        await anyio.sleep_forever()
        return "never"

    @mesh.actor
    async def middle(order: Order, ctx: Context) -> str:
        seen["middle"] = (left(ctx), 0)
        await anyio.sleep(1)
        return await last.ask(order, timeout=None)

    @mesh.actor
    async def first(order: Order, ctx: Context) -> str:
        seen["first"] = (left(ctx), 0)
        await anyio.sleep(1)
        return await middle.ask(order, timeout=60)

    @mesh.actor
    async def brief(order: Order, ctx: Context) -> str:
        with pytest.raises(TimeoutError, match=r"actor 'last' did not answer .* within 2 s"):
            await last.ask(order, timeout=2)
        return "in time"

    async with mesh:
        began = anyio.current_time()
        with pytest.raises(TimeoutError):
            await first.ask(Order(1), timeout=5)
        assert anyio.current_time() - began == pytest.approx(5, abs=0.01)
        assert seen == {"first": (5, 0), "middle": (4, 0), "last": (3, 0)}
        await mesh.idle()
        assert await brief.ask(Order(2), timeout=5) == "in time"
        assert seen["last"] == (2, 0)
    for actor in (first, middle):
        numbers = counts(actor.mailbox)
        assert numbers.pop("entered") == 1
        assert sum(numbers.values()) == 1


async def test_tells_do_not_inherit_a_deadline():
    """Only asks carry the deadline: what is told in an asked turn outlives its asker."""
    mesh = Mesh()
    deadlines: list[float | None] = []

    @mesh.actor
    async def follow(order: Order, ctx: Context) -> None:
        deadlines.append(ctx.message.deadline)

    @mesh.actor
    async def take(order: Order, ctx: Context) -> None:
        await follow.tell(order)
        ctx.tell(follow, order)

    async with mesh:
        await take.ask(Order(1), timeout=5)
        await mesh.idle()
    assert deadlines == [None, None]


@pytest.mark.parametrize("steps", range(5))
async def test_answer_in_the_tick_of_the_deadline(steps: int):
    """When answer and deadline come together, the asker has one or the other, and its message ends once."""
    mesh = Mesh()

    @mesh.actor(concurrency=50)
    async def take(order: Order) -> int:
        await anyio.sleep(0.998 + 0.0005 * (order.id % 9))
        for _ in range(steps):
            await anyio.lowlevel.checkpoint()
        return order.id

    async with mesh, anyio.create_task_group() as group:
        ask = Asking(group)
        for number in range(45):
            ask(take, number, timeout=1)
        await anyio.sleep(3)
        answered = [number for number, value in ask.ended.items() if value == number]
        late = [number for number, value in ask.ended.items() if isinstance(value, TimeoutError)]
        assert len(answered) + len(late) == 45
        assert answered
        assert late
        assert counts(take.mailbox) == {"entered": 45, "acked": len(answered), "withdrawn": len(late)}


# Leaving


async def test_leaving_while_queued():
    """A message whose asker leaves before it has started is withdrawn; the others keep their order."""
    mesh = Mesh()
    seen: list[int] = []

    @mesh.actor
    async def take(order: Order) -> int:
        seen.append(order.id)
        await anyio.sleep(10)
        return order.id

    async with mesh, anyio.create_task_group() as group:
        ask = Asking(group)
        for number in range(6):
            ask(take, number, timeout=None)
            await settled()
        for number in (1, 3, 4):
            ask.scopes[number].cancel()
        await settled()
        assert counts(take.mailbox) == {"entered": 6, "leased": 1, "withdrawn": 3, "ready": 2}
        assert [message.body.id for message in take.mailbox.peek()] == [2, 5]
        await mesh.idle()
        assert seen == [0, 2, 5]
        await settled()
        assert ask.ended == {0: 0, 1: "cancelled", 2: 2, 3: "cancelled", 4: "cancelled", 5: 5}
    assert counts(take.mailbox) == {"entered": 6, "acked": 3, "withdrawn": 3}


async def test_leaving_while_running():
    """A handler whose asker leaves is cancelled, it alone; its message is withdrawn and its slot free."""
    mesh = Mesh()
    ended: list[tuple[int, str]] = []

    @mesh.actor(concurrency=3, retry=Retry(5))
    async def take(order: Order) -> int:
        try:
            await anyio.sleep(10)
        except anyio.get_cancelled_exc_class():
            ended.append((order.id, "cancelled"))
            raise
        ended.append((order.id, "done"))
        return order.id

    async with mesh, anyio.create_task_group() as group:
        ask = Asking(group)
        for number in range(4):
            ask(take, number)
            await settled()
        await anyio.sleep(5)
        ask.scopes[1].cancel()
        await settled()
        assert ended == [(1, "cancelled")]
        assert mesh.statistics().actors["take"].running == 3
        await mesh.idle()
        await settled()
        assert ask.ended == {0: 0, 1: "cancelled", 2: 2, 3: 3}
    assert sorted(ended) == [(0, "done"), (1, "cancelled"), (2, "done"), (3, "done")]
    assert counts(take.mailbox) == {"entered": 4, "acked": 3, "withdrawn": 1}


async def test_leaving_while_awaiting_a_retry():
    """A message that awaits its retry is withdrawn with its asker, and not attempted again."""
    mesh = Mesh()
    attempts: list[int] = []

    @mesh.actor(retry=Retry(5, initial=10, jitter="none"))
    async def take(order: Order, ctx: Context) -> None:
        attempts.append(ctx.attempt)
        raise OSError

    async with mesh:
        with anyio.move_on_after(15):
            await take.ask(Order(1), timeout=None)
        assert counts(take.mailbox) == {"entered": 1, "withdrawn": 1}
        await mesh.idle()
        await anyio.sleep(100)
    assert attempts == [1, 2]
    assert counts(take.mailbox) == {"entered": 1, "withdrawn": 1}


async def test_leaving_while_set_aside_in_a_lane():
    """A message that waits for its lane is withdrawn with its asker; one that holds its lane, awaiting a retry, frees it."""
    mesh = Mesh()
    seen: list[int] = []

    @mesh.actor(by=lambda order: "one lane", concurrency=3, retry=Retry(2, initial=100, jitter="none"))
    async def take(order: Order) -> int:
        seen.append(order.id)
        if order.id == 0:
            raise OSError
        return order.id

    async with mesh, anyio.create_task_group() as group:
        ask = Asking(group)
        for number in range(4):
            ask(take, number, timeout=None)
            await settled()
        assert counts(take.mailbox) == {"entered": 4, "delayed": 1, "ready": 3}
        ask.scopes[2].cancel()
        await settled()
        assert counts(take.mailbox) == {"entered": 4, "delayed": 1, "ready": 2, "withdrawn": 1}
        assert seen == [0]
        ask.scopes[0].cancel()
        await mesh.idle()
        assert seen == [0, 1, 3]
        await settled()
        assert ask.ended == {0: "cancelled", 1: 1, 2: "cancelled", 3: 3}
        assert take.cell.box.lanes == {}
    assert counts(take.mailbox) == {"entered": 4, "acked": 2, "withdrawn": 2}


async def test_leaving_a_thread():
    """A handler in a thread cannot be cancelled: its asker leaves at once, and the thread's work counts as done."""
    mesh = Mesh()
    gate = threading.Event()
    inside = threading.Event()

    @mesh.actor
    def take(order: Order) -> int:
        inside.set()
        assert gate.wait(20)
        return order.id

    async with mesh, anyio.create_task_group() as group:
        ask = Asking(group)
        ask(take, 1, timeout=None)
        await anyio.to_thread.run_sync(inside.wait)
        ask.scopes[1].cancel()
        await settled()
        assert ask.ended == {1: "cancelled"}
        assert counts(take.mailbox) == {"entered": 1, "leased": 1}
        gate.set()
        assert await take.ask(Order(2)) == 2
    assert counts(take.mailbox) == {"entered": 2, "acked": 2}


async def test_leaving_a_nested_ask():
    """When the outermost asker leaves, the handlers below it are cancelled one after another."""
    mesh = Mesh()
    cancelled: list[str] = []

    async def note(name: str, wait: Callable[[], Any]) -> None:
        try:
            await wait()
        except anyio.get_cancelled_exc_class():
            cancelled.append(name)
            raise

    @mesh.actor
    async def last(order: Order) -> None:
        await note("last", anyio.sleep_forever)

    @mesh.actor
    async def first(order: Order) -> None:
        await note("first", lambda: last.ask(order, timeout=None))

    async with mesh:
        with anyio.move_on_after(5):
            await first.ask(Order(1), timeout=None)
        await mesh.idle()
        assert sorted(cancelled) == ["first", "last"]
    assert counts(first.mailbox) == counts(last.mailbox) == {"entered": 1, "withdrawn": 1}


def _quick(mesh: Mesh) -> Any:
    @mesh.actor
    async def take(order: Order) -> int:
        return order.id

    return take


def _waiting(mesh: Mesh) -> Any:
    @mesh.actor(timeout=100)
    async def take(order: Order) -> int:
        await anyio.lowlevel.checkpoint()
        await anyio.sleep(1)
        return order.id

    return take


def _retried(mesh: Mesh) -> Any:
    @mesh.actor(retry=Retry(3, initial=1, jitter="none"))
    async def take(order: Order, ctx: Context) -> int:
        if ctx.attempt < 3:
            raise OSError
        return order.id

    return take


def _full(mesh: Mesh) -> Any:
    @mesh.actor(mailbox=MailboxOptions(capacity=1))
    async def take(order: Order) -> int:
        await anyio.sleep(1)
        return order.id

    return take


def _in_lanes(mesh: Mesh) -> Any:
    @mesh.actor(by=lambda order: "lane", concurrency=2)
    async def take(order: Order) -> int:
        await anyio.sleep(1)
        return order.id

    return take


def _busy(mesh: Mesh) -> Any:
    @mesh.actor(mailbox=MailboxOptions(priorities=True, ttl=100))
    async def take(order: Order) -> int:
        await anyio.sleep(1)
        return order.id

    return take


def _in_thread(mesh: Mesh) -> Any:
    @mesh.actor
    def take(order: Order) -> int:
        return order.id

    return take


@pytest.mark.parametrize("declare", [_quick, _waiting, _retried, _full, _in_lanes, _busy, _in_thread])
async def test_cancelled_at_every_checkpoint(declare: Callable[[Mesh], Any]):
    """Wherever an ask is cancelled its message ends once, as acked or withdrawn; its neighbours are answered."""
    mesh = Mesh()
    take = declare(mesh)
    answers: list[int] = []
    left = 0
    rounds = 0

    async def neighbour(number: int) -> None:
        answers.append(await take.ask(Order(number), timeout=None))

    async def ask() -> int:
        nonlocal rounds
        rounds += 1
        return await take.ask(Order(7), timeout=None)

    async def check(swept: Swept[int]) -> None:
        nonlocal left
        left += swept.cancelled
        assert swept.cancelled or swept.value == 7
        await mesh.idle()
        await settled()
        numbers = counts(take.mailbox)
        ended = numbers.pop("withdrawn", 0) + numbers.pop("acked", 0)
        assert numbers.pop("entered", 0) == ended
        assert numbers == {}
        for number in range(3):
            group.start_soon(neighbour, number)
        await settled()

    async with mesh, anyio.create_task_group() as group:
        for number in range(3):
            group.start_soon(neighbour, number)
        await settled()
        checkpoints = await cancel_sweep(ask, check)
        assert checkpoints >= 1
        await mesh.idle()
    assert left >= 1
    assert answers.count(0) == answers.count(1) == answers.count(2) == len(answers) // 3 == rounds + 1
    statistics = take.mailbox.statistics()
    assert statistics.acked >= len(answers) + rounds - left
    assert take.cell.box.lanes == {}


# No reply


async def test_expired():
    """A message that expires before its turn leaves its asker without reply."""
    mesh = Mesh()

    @mesh.actor(mailbox=MailboxOptions(ttl=5))
    async def take(order: Order) -> None: ...

    @mesh.actor
    async def other(order: Order) -> None: ...

    async with mesh, anyio.create_task_group() as group:
        ask = Asking(group)
        for number, actor in enumerate((take, other)):
            actor.pause()
            ask(actor, number, **({} if actor is take else {"ttl": 3}))
        await anyio.sleep(6)
        for error in ask.ended.values():
            assert isinstance(error, NoReply)
            assert error.reason == "expired"
            assert error.message is not None
            assert "was expired: no reply will come" in str(error)
        assert set(ask.ended) == {0, 1}
    assert counts(take.mailbox) == counts(other.mailbox) == {"entered": 1, "expired": 1}
    assert len(mesh.dead_letters) == 0


@pytest.mark.parametrize("overflow, loser", [("drop_oldest", 0), ("drop_newest", 1)])
async def test_dropped(overflow: Any, loser: int):
    """A message that a drop policy drops leaves its asker without reply, even with a dead-letter exchange."""
    mesh = Mesh()
    mesh.exchange("dead", "fanout").bind(mesh.mailbox("graves"))

    @mesh.actor(mailbox=MailboxOptions(capacity=1, overflow=overflow, dead_letter="dead"))
    async def take(order: Order) -> int:
        return order.id

    async with mesh, anyio.create_task_group() as group:
        ask = Asking(group)
        take.pause()
        for number in range(2):
            ask(take, number)
            await settled()
        error = ask.ended[loser]
        assert isinstance(error, NoReply)
        assert error.reason == "dropped"
        take.resume()
        await mesh.idle()
        await settled()
        assert ask.ended[1 - loser] == 1 - loser
    assert counts(take.mailbox) == {"entered": 2, "acked": 1, "dropped": 1}
    assert counts(mesh.mailbox("graves")) == {}


@pytest.mark.parametrize("how", ["purge", "delete"])
async def test_purged(how: str):
    """Purging or deleting the mailbox leaves its askers without reply; what runs is answered."""
    mesh = Mesh()

    @mesh.actor
    async def take(order: Order) -> int:
        await anyio.sleep(5)
        return order.id

    async with mesh, anyio.create_task_group() as group:
        ask = Asking(group)
        for number in range(3):
            ask(take, number)
            await settled()
        if how == "purge":
            assert take.mailbox.purge() == 2
        else:
            assert take.mailbox.delete() == 2
        await settled()
        for number in (1, 2):
            assert isinstance(ask.ended[number], NoReply)
            assert ask.ended[number].reason == "purged"
        await anyio.sleep(6)
        assert ask.ended[0] == 0
        if how == "delete":
            with pytest.raises(Unroutable):
                await take.ask(Order(9))
    assert counts(take.mailbox) == {"entered": 3, "acked": 1, "purged": 2}


async def test_deleted_while_it_awaits_its_retry():
    """Deleting the mailbox ends a message that awaits its retry as well, or that fails afterwards."""
    mesh = Mesh()

    @mesh.actor(retry=Retry(5, initial=100), concurrency=2)
    async def take(order: Order) -> None:
        await anyio.sleep(order.id)
        raise OSError

    async with mesh, anyio.create_task_group() as group:
        ask = Asking(group)
        ask(take, 0, timeout=None)
        ask(take, 5, timeout=None)
        await settled()
        take.mailbox.delete()
        await settled()
        assert isinstance(ask.ended[0], NoReply)
        await anyio.sleep(6)
        assert isinstance(ask.ended[5], NoReply)
        assert ask.ended[0].reason == ask.ended[5].reason == "purged"
        await mesh.idle()
    assert counts(take.mailbox) == {"entered": 2, "purged": 2}


async def test_asking_a_full_reject_mailbox():
    """A full `reject` mailbox refuses the ask; nothing is left of it."""
    mesh = Mesh()

    @mesh.actor(mailbox=MailboxOptions(capacity=1, overflow="reject"))
    async def take(order: Order) -> int:
        return order.id

    async with mesh:
        take.pause()
        await take.tell(Order(1))
        with pytest.raises(MailboxFull, match="mailbox 'take' is full"):
            await take.ask(Order(2))
        take.resume()
        await mesh.idle()
        assert await take.ask(Order(3)) == 3
    assert counts(take.mailbox) == {"entered": 2, "acked": 2}


# Stops


async def test_actor_that_stops():
    """Stopping an actor fails its askers at once: queued, in a lane, awaiting a retry or room; what runs is answered."""
    mesh = Mesh()
    gate = anyio.Event()

    @mesh.actor(
        by=lambda order: order.id % 2,
        mailbox=MailboxOptions(capacity=3),
        concurrency=2,
        retry=Retry(5, initial=1000, jitter="none"),
    )
    async def take(order: Order) -> int:
        if order.id == 1:
            raise OSError
        await gate.wait()
        return order.id

    async with mesh, anyio.create_task_group() as group:
        ask = Asking(group)
        for number in range(7):
            ask(take, number, timeout=None)
            await settled()
        group.start_soon(take.stop)
        await settled()
        assert set(ask.ended) == set(range(1, 7))
        for error in ask.ended.values():
            assert isinstance(error, ActorStopped)
            assert "actor 'take' was stopped before it handled message" in str(error)
        gate.set()
        await settled()
        assert ask.ended[0] == 0
    numbers = counts(take.mailbox)
    assert numbers.pop("acked") == 1
    assert numbers.pop("withdrawn") == numbers.pop("entered") - 1
    assert numbers == {}


async def test_actor_that_stops_and_then_fails():
    """A running message that would be retried by a stopped actor fails its asker at once, not at the deadline."""
    mesh = Mesh()

    @mesh.actor(retry=Retry(5, initial=1))
    async def take(order: Order) -> None:
        await anyio.sleep(5)
        raise OSError("lost")

    async with mesh, anyio.create_task_group() as group:
        ask = Asking(group)
        ask(take, 1, timeout=None)
        await settled()
        await take.stop()
        await settled()
        error = ask.ended[1]
        assert isinstance(error, ActorStopped)
        assert isinstance(error.__cause__, OSError)
    assert counts(take.mailbox) == {"entered": 1, "withdrawn": 1}


async def test_mesh_that_stops():
    """At the end of the drain whoever still waits gets MeshStopped; what was answered within grace is answered."""
    mesh = Mesh("shop", grace=10)

    @mesh.actor
    async def take(order: Order) -> int:
        await anyio.sleep(8)
        return order.id

    async with anyio.create_task_group() as group:
        ask = Asking(group)
        async with mesh:
            for number in range(3):
                ask(take, number, timeout=None)
                await settled()
        await settled()
        assert ask.ended[0] == 0
        for number in (1, 2):
            assert isinstance(ask.ended[number], MeshStopped)
            assert "mesh 'shop' has stopped: no reply will come" in str(ask.ended[number])
    assert counts(take.mailbox) == {"entered": 3, "acked": 1, "withdrawn": 2}


async def test_mesh_that_faults():
    """When the mesh stops by itself its askers get MeshStopped, from the cause."""
    mesh = Mesh()

    @mesh.actor(concurrency=2)
    async def take(order: Order) -> None:
        await anyio.sleep_forever()

    @mesh.source
    async def poll(ctx: Any) -> None:
        await anyio.sleep(5)
        raise KeyError("source")

    async with anyio.create_task_group() as group:
        ask = Asking(group)
        with pytest.raises(KeyError):  # noqa: PT012 - the mesh is left by it
            async with mesh:
                for number in range(4):
                    ask(take, number, timeout=None)
                await anyio.sleep_forever()
        await settled()
        assert set(ask.ended) == {0, 1, 2, 3}
        for error in ask.ended.values():
            assert isinstance(error, MeshStopped)
            assert isinstance(error.__cause__, KeyError)
    assert counts(take.mailbox) == {"entered": 4, "withdrawn": 4}


async def test_asking_while_it_drains():
    """While the mesh drains, turns may still ask; others may not."""
    mesh = Mesh()
    answers: list[int] = []

    @mesh.actor
    async def last(order: Order) -> int:
        return order.id

    @mesh.actor
    async def first(order: Order) -> None:
        await anyio.sleep(5)
        answers.append(await last.ask(order))

    async with anyio.create_task_group() as group:
        ask = Asking(group)
        async with mesh:
            await first.tell(Order(3))
            await settled()
            mesh.stop()
            ask(last, 4)
            await settled()
            assert isinstance(ask.ended[4], MeshStopped)
        assert answers == [3]
        with pytest.raises((MeshStopped, NotRunning)):
            await last.ask(Order(5))
    assert counts(last.mailbox) == {"entered": 1, "acked": 1}


# Waiting for room


async def test_waiting_for_room_counts():
    """The time limit covers waiting for room; an ask that never got in leaves nothing."""
    mesh = Mesh()

    @mesh.actor(mailbox=MailboxOptions(capacity=1))
    async def take(order: Order) -> int:
        return order.id

    async with mesh:
        take.pause()
        await take.tell(Order(1))
        began = anyio.current_time()
        with pytest.raises(TimeoutError, match=r"actor 'take' did not answer message .* within 4 s"):
            await take.ask(Order(2), timeout=4)
        assert anyio.current_time() - began == pytest.approx(4, abs=0.01)
        assert counts(take.mailbox) == {"entered": 1, "ready": 1}
        take.resume()
        await mesh.idle()
        assert await take.ask(Order(3), timeout=4) == 3
    assert counts(take.mailbox) == {"entered": 2, "acked": 2}


async def test_asks_in_line():
    """Askers that wait for room get in first come, first served; one that leaves lets the next through."""
    mesh = Mesh()
    seen: list[int] = []

    @mesh.actor(mailbox=MailboxOptions(capacity=1))
    async def take(order: Order) -> int:
        seen.append(order.id)
        await anyio.sleep(1)
        return order.id

    async with mesh, anyio.create_task_group() as group:
        ask = Asking(group)
        for number in range(8):
            ask(take, number, timeout=None)
            await settled()
        ask.scopes[2].cancel()
        ask.scopes[5].cancel()
        await settled()
        await mesh.idle()
        await settled()
        assert seen == [0, 1, 3, 4, 6, 7]
        assert ask.ended == {number: "cancelled" if number in (2, 5) else number for number in range(8)}
    assert counts(take.mailbox) == {"entered": 6, "acked": 6}


# A paused actor


async def test_asking_a_paused_actor():
    """A paused actor's askers wait until it is resumed, or their time is up."""
    mesh = Mesh()

    @mesh.actor
    async def take(order: Order) -> int:
        return order.id

    async with mesh, anyio.create_task_group() as group:
        take.pause()
        ask = Asking(group)
        ask(take, 1, timeout=5)
        ask(take, 2, timeout=None)
        await anyio.sleep(10)
        assert isinstance(ask.ended[1], TimeoutError)
        assert counts(take.mailbox) == {"entered": 2, "withdrawn": 1, "ready": 1}
        take.resume()
        await settled()
        assert ask.ended[2] == 2
    assert counts(take.mailbox) == {"entered": 2, "acked": 1, "withdrawn": 1}
