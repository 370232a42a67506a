"""One turn: attempts and their delays, verdicts, time limits, outputs that leave with the ack, and what its Context shows."""

import logging
from collections.abc import Sequence
from typing import Any

import anyio
import pytest
from msgspec import Struct

from flowmesh import (
    AccessRefused,
    AlreadySettled,
    Context,
    Mesh,
    NotFound,
    Reject,
    Retry,
    RetryAfter,
    WrongBody,
)
from flowmesh.testing import settled
from tests.runtime.counting import counts

pytestmark = pytest.mark.anyio


class Order(Struct, frozen=True):
    id: int


class Log:
    """What was logged at ERROR and above, with tracebacks."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog

    def errors(self) -> list[logging.LogRecord]:
        return [record for record in self._caplog.records if record.levelno >= logging.ERROR]

    def texts(self, level: int) -> list[str]:
        return [record.getMessage() for record in self._caplog.records if record.levelno == level]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Log:
    """What the test logs, from DEBUG on."""
    caplog.set_level(logging.DEBUG, "flowmesh")
    return Log(caplog)


async def fail_through(
    retry: Retry | None, errors: Sequence[BaseException | None]
) -> tuple[list[tuple[int, bool, float]], Mesh]:
    """Tell an actor one message that ends with these errors in turn; return (attempt, redelivered, seconds) of each turn."""
    mesh = Mesh("shop")
    turns: list[tuple[int, bool, float]] = []
    left = list(errors)

    @mesh.actor(retry=retry)
    async def take(order: Order, ctx: Context) -> None:
        turns.append((ctx.attempt, ctx.redelivered, round(anyio.current_time() - began, 6)))
        error = left.pop(0)
        if error is not None:
            raise error

    async with mesh:
        began = anyio.current_time()
        await take.tell(Order(1))
        await mesh.idle()
    return turns, mesh


# Retry


async def test_delays():
    """Delays grow by `factor` from `initial` up to `maximum`; attempts are numbered from 1."""
    retry = Retry(6, initial=1.0, factor=3.0, maximum=10.0, jitter="none")
    turns, mesh = await fail_through(retry, [OSError()] * 5 + [None])
    assert turns == [(1, False, 0), (2, True, 1), (3, True, 4), (4, True, 13), (5, True, 23), (6, True, 33)]
    assert counts(mesh.mailbox("take")) == {"entered": 1, "acked": 1}
    assert mesh.statistics().actors["take"].retried == 5
    assert mesh.statistics().actors["take"].failed == 0


async def test_full_jitter():
    """With full jitter each delay lies between zero and what it would be without; they differ."""
    mesh = Mesh()
    delays: dict[int, list[float]] = {}
    last: dict[int, float] = {}

    @mesh.actor(retry=Retry(4, initial=8.0, factor=2.0, maximum=20.0), concurrency=1)
    async def take(order: Order, ctx: Context) -> None:
        now = anyio.current_time()
        if order.id in last:
            delays.setdefault(ctx.attempt - 1, []).append(now - last[order.id])
        last[order.id] = now
        if ctx.attempt < 4:
            raise OSError

    async with mesh:
        for number in range(60):
            await take.tell(Order(number))
        await mesh.idle()
    for failures, longest in ((1, 8.0), (2, 16.0), (3, 20.0)):
        found = delays[failures]
        assert len(found) == 60
        assert min(found) >= 0
        assert max(found) <= longest + 0.01
        assert max(found) > longest / 2  # 2**-60 that this fails
        assert min(found) < longest / 2
    assert counts(take.mailbox) == {"entered": 60, "acked": 60}


async def test_attempts_are_used_up(log: Log):
    """After the last attempt the message is a dead letter, with the last exception; it is logged once, with its traceback."""
    turns, mesh = await fail_through(Retry(3, initial=1, jitter="none"), [OSError("one"), OSError("two"), OSError("three")])
    assert [turn[0] for turn in turns] == [1, 2, 3]
    assert counts(mesh.mailbox("take")) == {"entered": 1, "dead": 1}
    [letter] = mesh.dead_letters.list()
    assert (letter.deaths[0].reason, letter.deaths[0].detail) == ("failed", "OSError: three")
    [record] = log.errors()
    assert f"actor 'take' failed on message {letter.id} (attempt 3): OSError: three" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[2] is not None
    assert sum("again in 1 s" in text or "again in 2 s" in text for text in log.texts(logging.INFO)) == 2


async def test_without_retry():
    """Without `retry=` there is one attempt."""
    turns, mesh = await fail_through(None, [ValueError("no")])
    assert turns == [(1, False, 0)]
    assert counts(mesh.mailbox("take")) == {"entered": 1, "dead": 1}
    assert mesh.statistics().actors["take"].failed == 1


@pytest.mark.parametrize(
    "retry, errors, attempts",
    [
        (Retry(4, initial=0, on=(OSError,)), [ConnectionError(), ValueError()], 2),
        (Retry(4, initial=0, on=(OSError,), never=(ConnectionError,)), [OSError(), ConnectionError()], 2),
        (Retry(4, initial=0, never=(ValueError,)), [ValueError()], 1),
        (Retry(4, initial=0, on=(TimeoutError,)), [TimeoutError(), TimeoutError(), OSError()], 3),
        (Retry(2, initial=0), [OSError(), ValueError()], 2),
        (Retry(4, initial=0, on=()), [OSError()], 1),
        (Retry(4, initial=0), [ExceptionGroup("two", [ValueError(), OSError()]), ValueError(), None], 3),
    ],
)
async def test_on_and_never(retry: Retry, errors: list[BaseException | None], attempts: int):
    """Only what `on` names is retried, subclasses included, and nothing that `never` names."""
    turns, mesh = await fail_through(retry, errors)
    assert len(turns) == attempts
    ended = {"entered": 1, "acked": 1} if errors[-1] is None else {"entered": 1, "dead": 1}
    assert counts(mesh.mailbox("take")) == ended


async def test_reject(log: Log):
    """Reject makes a dead letter at once, whatever Retry says; it is a verdict, so no traceback is logged."""
    turns, mesh = await fail_through(Retry(9, initial=1), [Reject("no such customer")])
    assert len(turns) == 1
    assert counts(mesh.mailbox("take")) == {"entered": 1, "dead": 1}
    [letter] = mesh.dead_letters.list(reason="rejected")
    assert letter.deaths[0].detail == "no such customer"
    assert log.errors() == []
    assert any("rejected message" in text and "no such customer" in text for text in log.texts(logging.INFO))


async def test_retry_after_is_not_counted():
    """RetryAfter hands out again after its delay, and counts neither as an attempt nor as a hand-out without a verdict."""
    errors: Sequence[BaseException | None] = [*[RetryAfter(30)] * 25, OSError(), RetryAfter(0), None]
    turns, mesh = await fail_through(Retry(2, initial=1, jitter="none"), errors)
    assert [turn[0] for turn in turns] == [1] * 26 + [2, 2]
    assert turns[25][2] == 750
    assert turns[-1][2] == 751
    assert counts(mesh.mailbox("take")) == {"entered": 1, "acked": 1}
    assert mesh.statistics().actors["take"].retried == 1


async def test_retry_after_without_retry():
    """RetryAfter needs no `retry=`."""
    turns, mesh = await fail_through(None, [RetryAfter(5), None])
    assert [(turn[0], turn[2]) for turn in turns] == [(1, 0), (1, 5)]
    assert counts(mesh.mailbox("take")) == {"entered": 1, "acked": 1}


async def test_waiting_retry_holds_nothing():
    """While a message waits for its retry its slot serves others; it is then handed out before later ones: at its place."""
    mesh = Mesh()
    seen: list[int] = []
    gate = anyio.Event()

    @mesh.actor(retry=Retry(2, initial=10, jitter="none"))
    async def take(order: Order, ctx: Context) -> None:
        if order.id == 0 and ctx.attempt == 1:
            raise OSError
        if order.id == 2:
            await gate.wait()
        seen.append(order.id)

    async with mesh:
        for number in range(5):
            await take.tell(Order(number))
        await settled()
        assert counts(take.mailbox) == {"entered": 5, "acked": 1, "delayed": 1, "leased": 1, "ready": 2}
        await anyio.sleep(11)
        assert counts(take.mailbox) == {"entered": 5, "acked": 1, "leased": 1, "ready": 3}
        gate.set()
    assert seen == [1, 2, 0, 3, 4]


# Time limits


async def test_time_limit(log: Log):
    """A handler that runs past `timeout` is cancelled; that is a TimeoutError, a failure for Retry."""
    mesh = Mesh()
    turns: list[tuple[int, float]] = []

    @mesh.actor(timeout=5.0, retry=Retry(2, initial=1, jitter="none", on=(TimeoutError,)))
    async def take(order: Order, ctx: Context) -> None:
        turns.append((ctx.attempt, anyio.current_time() - began))
        if order.id:
            await anyio.sleep_forever()

    async with mesh:
        began = anyio.current_time()
        await take.tell(Order(1))
        await take.tell(Order(0))
        await mesh.idle()
    assert [turn[0] for turn in turns] == [1, 1, 2]
    assert [turn[1] for turn in turns] == pytest.approx([0, 5, 6], abs=0.01)
    assert counts(take.mailbox) == {"entered": 2, "acked": 1, "dead": 1}
    [letter] = mesh.dead_letters.list()
    assert letter.deaths[0].detail == f"TimeoutError: actor 'take' did not finish message {letter.id} within 5.0 s"
    [record] = log.errors()
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], TimeoutError)
    assert isinstance(record.exc_info[1].__cause__, anyio.get_cancelled_exc_class())


async def test_time_limit_starts_anew():
    """Each turn has its own limit: an earlier one that was not used up does not shorten the next."""
    mesh = Mesh()

    @mesh.actor(timeout=5.0)
    async def take(order: Order) -> None:
        await anyio.sleep(4)

    @mesh.actor(timeout=1.0)
    async def brief(order: Order) -> None:
        await anyio.sleep(0.9)

    async with mesh:
        for number in range(6):
            await take.tell(Order(number))
            await brief.tell(Order(number))
        await mesh.idle()
    assert counts(take.mailbox) == counts(brief.mailbox) == {"entered": 6, "acked": 6}


async def test_shorter_limit_after_a_longer_one():
    """A worker that has a long limit armed keeps a shorter one that comes after it."""
    mesh = Mesh()

    @mesh.actor(timeout=100.0)
    async def long(order: Order) -> None: ...

    @mesh.actor(timeout=1.0)
    async def short(order: Order) -> None:
        await anyio.sleep_forever()

    async with mesh:
        await long.tell(Order(1))
        await mesh.idle()
        began = anyio.current_time()
        await short.tell(Order(1))
        await mesh.idle()
        assert anyio.current_time() - began == pytest.approx(1, abs=0.01)
    assert counts(short.mailbox) == {"entered": 1, "dead": 1}


async def test_handler_that_returns_in_spite_of_its_limit(log: Log):
    """A handler that swallows its time limit and returns has done its work: acked, named in the log, outputs included."""
    mesh = Mesh()
    seen: list[int] = []

    @mesh.actor
    async def done(order: Order) -> None:
        seen.append(order.id)

    @mesh.actor(timeout=2.0, retry=Retry(3))
    async def take(order: Order, ctx: Context) -> None:
        ctx.tell(done, order)
        if order.id == 1:
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                pass

    async with mesh:
        receipt = await take.tell(Order(1))
        await take.tell(Order(2))
        await mesh.idle()
        assert await take.ask(Order(3)) is None
    assert seen == [1, 2, 3]
    assert counts(take.mailbox) == {"entered": 3, "acked": 3}
    assert log.texts(logging.WARNING) == [
        f"actor 'take' finished message {receipt.message_id} although its time limit of 2.0 s had passed"
    ]


async def test_handler_that_fails_while_it_is_stopped(log: Log):
    """A handler whose clean-up raises at its time limit has failed with that exception."""
    mesh = Mesh()

    @mesh.actor(timeout=2.0)
    async def take(order: Order) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError("clean-up")

    async with mesh:
        await take.tell(Order(1))
        await mesh.idle()
    assert counts(take.mailbox) == {"entered": 1, "dead": 1}
    assert mesh.dead_letters.list()[0].deaths[0].detail == "ValueError: clean-up"
    assert len(log.errors()) == 1


async def test_limit_in_a_nursery(log: Log):
    """What a nursery adds to a time limit, a group of cancellations, is still a TimeoutError; other errors in it stay."""
    mesh = Mesh()

    async def child() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError("child")

    @mesh.actor(timeout=1.0)
    async def quiet(order: Order) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            await anyio.sleep_forever()

    @mesh.actor(timeout=1.0)
    async def noisy(order: Order) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(child)
            await anyio.sleep_forever()

    async with mesh:
        with pytest.raises(TimeoutError, match="actor 'quiet' did not finish"):
            await quiet.ask(Order(1))
        with pytest.raises(ExceptionGroup) as caught:
            await noisy.ask(Order(1))
        assert [type(error) for error in caught.value.exceptions] == [ValueError]
    assert counts(quiet.mailbox) == counts(noisy.mailbox) == {"entered": 1, "acked": 1}


async def test_limit_covers_the_handler_alone():
    """A message that waits for its turn loses nothing of its time limit."""
    mesh = Mesh()

    @mesh.actor(timeout=3.0)
    async def take(order: Order) -> None:
        await anyio.sleep(2)

    async with mesh:
        for number in range(10):
            await take.tell(Order(number))
        await mesh.idle()
    assert counts(take.mailbox) == {"entered": 10, "acked": 10}


# Outputs


async def test_outputs_leave_with_the_ack():
    """What ctx.publish and ctx.tell collected is invisible until the handler returns, and then enters in order."""
    mesh = Mesh()
    events = mesh.exchange("events", "topic")
    box = mesh.mailbox("box")
    events.bind(box, "#")
    inside: list[dict[str, int]] = []

    @mesh.actor
    async def follow(order: Order) -> None: ...

    follow.pause()

    @mesh.actor
    async def take(order: Order, ctx: Context) -> None:
        ctx.publish(events, "first", key="a.b")
        ctx.tell(follow, Order(7))
        ctx.publish(events, "second", key="c", headers={"x": 1}, priority=3)
        await anyio.sleep(5)
        inside.append(counts(box) | counts(follow.mailbox))

    async with mesh:
        await take.tell(Order(1))
        await mesh.idle()
        assert inside == [{}]
        assert [(message.body, message.key, message.priority) for message in box.peek()] == [
            ("first", "a.b", 0),
            ("second", "c", 3),
        ]
        assert counts(follow.mailbox) == {"entered": 1, "ready": 1}
        assert counts(take.mailbox) == {"entered": 1, "acked": 1}


@pytest.mark.parametrize("end", [ValueError("no"), Reject("no"), RetryAfter(1000), "limit", "stop"])
async def test_outputs_of_a_turn_that_fails(end: Exception | str):
    """A turn that does not end with an ack leaves no output, deferred ones included."""
    mesh = Mesh(grace=1)
    box = mesh.mailbox("box")

    @mesh.actor
    async def follow(order: Order) -> None: ...

    follow.pause()

    @mesh.actor(timeout=3.0 if end == "limit" else None)
    async def take(order: Order, ctx: Context) -> None:
        ctx.publish(mesh.exchange(""), order, key="box")
        ctx.tell(follow, order)
        ctx.tell(follow, order, delay=5)
        if isinstance(end, Exception):
            raise end
        await anyio.sleep_forever()

    async with mesh:
        await take.tell(Order(1))
        await settled()
        if end != "stop":
            await anyio.sleep(20)
    assert counts(box) == counts(follow.mailbox) == {}
    assert mesh.statistics().deferred == 0


async def test_outputs_of_the_attempt_that_succeeds():
    """A retried turn's outputs leave once, from the attempt that succeeded."""
    mesh = Mesh()
    seen: list[int] = []

    @mesh.actor
    async def follow(attempt: int) -> None:
        seen.append(attempt)

    @mesh.actor(retry=Retry(3, initial=1))
    async def take(order: Order, ctx: Context) -> None:
        ctx.tell(follow, ctx.attempt)
        if ctx.attempt < 3:
            raise OSError

    async with mesh:
        await take.tell(Order(1))
        await mesh.idle()
    assert seen == [3]


async def test_deferred_outputs():
    """An output's delay counts from the ack."""
    mesh = Mesh()
    due: list[float] = []

    @mesh.actor
    async def follow(order: Order) -> None:
        due.append(anyio.current_time() - began)

    @mesh.actor
    async def take(order: Order, ctx: Context) -> None:
        ctx.tell(follow, order, delay=10)
        await anyio.sleep(5)

    async with mesh:
        began = anyio.current_time()
        await take.tell(Order(1))
        await mesh.idle()
        assert mesh.statistics().deferred == 1
        await anyio.sleep(20)
    assert due == pytest.approx([15], abs=0.01)


async def test_outputs_of_an_asked_turn():
    """An asked turn's outputs leave too; the asker may see them as soon as it has its answer."""
    mesh = Mesh()
    box = mesh.mailbox("box")

    @mesh.actor
    async def take(order: Order, ctx: Context) -> int:
        ctx.publish(mesh.exchange(""), "out", key="box")
        return order.id

    async with mesh:
        assert await take.ask(Order(4)) == 4
        assert counts(box) == {"entered": 1, "ready": 1}


async def test_unroutable_output(log: Log):
    """An output that nothing is bound for is counted and logged; the turn is acked all the same."""
    mesh = Mesh()
    events = mesh.exchange("events")

    @mesh.actor
    async def take(order: Order, ctx: Context) -> None:
        ctx.publish(events, order, key="nowhere")

    async with mesh:
        for number in range(3):
            await take.tell(Order(number))
        await mesh.idle()
    assert events.unroutable == 3
    assert len(log.texts(logging.WARNING)) == 1
    assert "routes key 'nowhere' nowhere" in log.texts(logging.WARNING)[0]
    assert counts(take.mailbox) == {"entered": 3, "acked": 3}


async def test_wrong_outputs():
    """A wrong output is refused where it is collected, and what was collected before still leaves."""
    mesh, other = Mesh("one"), Mesh("other")
    foreign = other.exchange("events")
    internal = mesh.exchange("hidden", internal=True)
    gone = mesh.exchange("gone")
    gone.delete()
    box = mesh.mailbox("box")

    async def handle(order: Order) -> None: ...

    follow = mesh.actor(handle, name="follow")
    stranger = other.actor(handle, name="follow")
    refused: list[str] = []
    wrong: Any = 5

    @mesh.actor
    async def take(order: Order, ctx: Context) -> None:
        ctx.publish(mesh.exchange(""), "good", key="box")
        attempts: list[Any] = [
            (WrongBody, lambda: ctx.tell(follow, wrong)),
            (NotFound, lambda: ctx.publish(foreign, order, key="a")),
            (NotFound, lambda: ctx.tell(stranger, order)),
            (NotFound, lambda: ctx.publish(gone, order, key="a")),
            (AccessRefused, lambda: ctx.publish(internal, order, key="a")),
            (TypeError, lambda: ctx.publish(mesh.exchange(""), order, key="box", mandatory=True)),  # pyright: ignore[reportCallIssue] - on purpose
            (TypeError, lambda: ctx.publish(mesh.exchange(""), order, key="box", prority=1)),  # pyright: ignore[reportCallIssue] - on purpose
            (ValueError, lambda: ctx.publish(mesh.exchange(""), order, key="k" * 256)),
            (ValueError, lambda: ctx.tell(follow, order, delay=-1)),
        ]
        for error, call in attempts:
            with pytest.raises(error) as caught:
                call()
            refused.append(str(caught.value))

    async with mesh:
        await take.ask(Order(1))
    assert len(refused) == 9
    assert [message.body for message in box.peek()] == ["good"]
    assert counts(follow.mailbox) == counts(stranger.mailbox) == {}


async def test_publishing_at_once():
    """What a handler publishes itself happens at once, whatever becomes of its turn."""
    mesh = Mesh()
    box = mesh.mailbox("box")

    @mesh.actor
    async def take(order: Order, ctx: Context) -> None:
        await mesh.exchange("").publish("now", "box")
        assert counts(box) == {"entered": 1, "ready": 1}
        raise ValueError

    async with mesh:
        await take.tell(Order(1))
        await mesh.idle()
    assert counts(box) == {"entered": 1, "ready": 1}
    assert counts(take.mailbox) == {"entered": 1, "dead": 1}


# What messages of a turn inherit


async def test_correlation_and_cause():
    """Outputs, and sends in a turn, name their cause and inherit the correlation id, unless given their own."""
    mesh = Mesh()
    seen: dict[str, tuple[str | None, str | None]] = {}

    @mesh.actor
    async def follow(name: str, ctx: Context) -> None:
        seen[name] = (ctx.message.correlation_id, ctx.message.cause)

    @mesh.actor
    async def take(order: Order, ctx: Context) -> None:
        ctx.tell(follow, "output")
        ctx.tell(follow, "own", correlation_id="own")
        await follow.tell("told")
        await follow.ask("asked")
        await mesh.exchange("").publish("published", "follow")
        follow.tell_nowait("nowait")

    async with mesh:
        receipt = await take.tell(Order(1), correlation_id="c-1")
        await mesh.idle()
        plain = await take.tell(Order(2))
        first, seen = seen, {}
        await mesh.idle()
        await follow.tell("outside")
        await mesh.idle()
    assert first.pop("own") == ("own", receipt.message_id)
    assert first == dict.fromkeys(["output", "told", "asked", "published", "nowait"], ("c-1", receipt.message_id))
    assert seen.pop("outside") == (None, None)
    assert seen.pop("own") == ("own", plain.message_id)
    assert seen == dict.fromkeys(["output", "told", "asked", "published", "nowait"], (None, plain.message_id))


async def test_reply_to():
    """What a told handler returns goes to `reply_to`, correlated, with the ack; a failed turn sends no reply."""
    mesh = Mesh()
    replies = mesh.mailbox("replies")

    @mesh.actor(retry=Retry(2, initial=1))
    async def take(order: Order, ctx: Context) -> str:
        if order.id == 2 or ctx.attempt == 1:
            raise OSError
        return f"done {order.id}"

    @mesh.actor
    async def by_name(order: Order) -> None: ...

    async with mesh:
        receipt = await take.tell(Order(1), reply_to=replies, correlation_id="c-1")
        await take.tell(Order(2), reply_to="replies")
        await mesh.idle()
        [reply] = replies.peek()
        assert (reply.body, reply.correlation_id, reply.cause, reply.reply_to) == ("done 1", "c-1", receipt.message_id, None)
        await by_name.tell(Order(3), reply_to="replies")
        await mesh.idle()
        assert [message.body for message in replies.peek()] == ["done 1", None]


async def test_reply_to_nowhere(log: Log):
    """A reply whose mailbox is gone is unroutable: logged, and the turn is acked."""
    mesh = Mesh()

    @mesh.actor
    async def take(order: Order) -> str:
        return "lost"

    async with mesh:
        await take.tell(Order(1), reply_to="nowhere")
        await mesh.idle()
    assert counts(take.mailbox) == {"entered": 1, "acked": 1}
    assert "routes key 'nowhere' nowhere" in log.texts(logging.WARNING)[0]


# Errors and the log


async def test_exceptions_are_logged_exactly_once(log: Log):
    """One line with a traceback for a failed message, whoever else logs; none for one that an asker takes."""
    mesh = Mesh("shop")

    @mesh.actor
    async def take(order: Order) -> None:
        raise ValueError("no good")

    async with mesh:
        receipt = await take.tell(Order(1))
        await mesh.idle()
        with pytest.raises(ValueError, match="no good"):
            await take.ask(Order(2))
    [record] = log.errors()
    assert record.name == "flowmesh.shop"
    assert record.getMessage() == f"actor 'take' failed on message {receipt.message_id} (attempt 1): ValueError: no good"
    assert record.exc_info is not None
    error = record.exc_info[1]
    assert error is not None
    traceback = error.__traceback__
    names = []
    while traceback is not None:
        names.append(traceback.tb_frame.f_code.co_name)
        traceback = traceback.tb_next
    assert names[-1] == "take"
    assert len(mesh.dead_letters) == 1


async def test_ctx_log(log: Log):
    """ctx.log names the actor and the message in the line and in the record's fields."""
    mesh = Mesh("shop")

    @mesh.actor
    async def take(order: Order, ctx: Context) -> None:
        ctx.log.info("charging %d", order.id, extra={"amount": 5})
        assert ctx.log is ctx.log

    async with mesh:
        receipt = await take.tell(Order(1))
        await mesh.idle()
    [record] = [record for record in log._caplog.records if "charging" in record.getMessage()]
    assert record.getMessage() == f"[take {receipt.message_id}] charging 1"
    assert record.name == "flowmesh.shop"
    fields: Any = record
    assert (fields.actor, fields.message_id, fields.amount) == ("take", receipt.message_id, 5)


async def test_progress():
    """ctx.progress is shown by the statistics while the turn runs, per message, and gone with it, however it ends."""
    mesh = Mesh()

    @mesh.actor(concurrency=2, timeout=100)
    async def take(order: Order, ctx: Context) -> None:
        ctx.progress(1, 10)
        await anyio.sleep(1)
        ctx.progress(5)
        await anyio.sleep(order.id)
        raise ValueError

    async with mesh:
        one, two = await take.tell(Order(1)), await take.tell(Order(1000))
        await settled()
        assert mesh.statistics().actors["take"].progress == {one.message_id: (1, 10), two.message_id: (1, 10)}
        await anyio.sleep(1.5)
        assert mesh.statistics().actors["take"].progress == {one.message_id: (5, None), two.message_id: (5, None)}
        await anyio.sleep(1)
        assert mesh.statistics().actors["take"].progress == {two.message_id: (5, None)}
        await mesh.idle()
        assert mesh.statistics().actors["take"].progress == {}


async def test_ctx_statistics():
    """ctx.statistics are the mesh's numbers, its own turn included."""
    mesh = Mesh()

    @mesh.actor
    async def take(order: Order, ctx: Context) -> int:
        assert ctx.statistics.actors["take"].running == 1
        return ctx.statistics.mailboxes["take"].leased

    async with mesh:
        assert await take.ask(Order(1)) == 1


@pytest.mark.parametrize("end", ["return", "raise", "limit"])
async def test_kept_context(end: str):
    """A Context that was kept refuses to collect once its turn has ended, however it ended, and reports no progress."""
    mesh = Mesh()
    kept: list[Context] = []
    box = mesh.mailbox("box")

    @mesh.actor(timeout=1)
    async def take(order: Order, ctx: Context) -> None:
        kept.append(ctx)
        if end == "raise":
            raise ValueError
        if end == "limit":
            await anyio.sleep_forever()

    async with mesh:
        receipt = await take.tell(Order(1))
        await mesh.idle()
        [context] = kept
        for refuse in (
            lambda: context.publish(mesh.exchange(""), 1, key="box"),
            lambda: context.tell(take, Order(2)),
        ):
            with pytest.raises(AlreadySettled, match=f"the turn of message {receipt.message_id} has ended") as caught:
                refuse()
            assert caught.value.message is context.message
        context.progress(1, 2)
        assert mesh.statistics().actors["take"].progress == {}
    assert counts(box) == {}
