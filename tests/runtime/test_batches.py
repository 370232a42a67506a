"""`batch=`: a handler that takes a list, when it is called, and how each of its messages ends."""

import logging
from collections.abc import Sequence
from typing import Any

import anyio
import pytest
from msgspec import Struct

from flowmesh import (
    AlreadySettled,
    Batch,
    CallNext,
    Context,
    Debounce,
    InvalidHandler,
    MailboxOptions,
    Mesh,
    MeshStopped,
    Message,
    NoReply,
    Observer,
    Part,
    PreconditionFailed,
    Reject,
    Retry,
    RetryAfter,
    WrongBody,
    on,
)
from flowmesh.testing import Swept, advance, cancel_sweep, settled
from tests.runtime.counting import counts

pytestmark = pytest.mark.anyio


class Row(Struct, frozen=True):
    number: int
    table: str = "a"


Seen = list[tuple[float, list[int], str]]
"""When each batch was handed out, what was in it, and why."""


def writer(mesh: Mesh, seen: Seen, batch: Batch, *, takes: float = 0.0, **options: Any) -> Any:
    """Declare an actor that notes its batches; each takes that many seconds."""

    @mesh.actor(batch=batch, **options)
    async def write(rows: list[Row], ctx: Context) -> list[int]:
        seen.append((anyio.current_time(), [row.number for row in rows], ctx.batch.reason))
        await anyio.sleep(takes)
        return [row.number * 10 for row in rows]

    return write


# When


async def test_full_batches_at_once_and_the_rest_in_time():
    """A full batch is handed out at once, what is left over when its first has waited long enough."""
    mesh, seen = Mesh(), Seen()
    write = writer(mesh, seen, Batch(3, 5.0))
    async with mesh:
        began = anyio.current_time()
        for number in range(7):
            await write.tell(Row(number))
        await mesh.idle()
    assert seen == [(began, [0, 1, 2], "size"), (began, [3, 4, 5], "size"), (began + 5, [6], "within")]
    assert counts(write.mailbox) == {"entered": 7, "acked": 7}
    assert mesh.statistics().actors["write"].flushed == {"size": 2, "within": 1}


async def test_a_large_batch_from_a_large_backlog():
    """Batches larger than a worker's turn are filled all the same."""
    mesh, seen = Mesh(), Seen()
    write = writer(mesh, seen, Batch(1000, 5.0))
    async with mesh:
        for number in range(2500):
            await write.tell(Row(number))
        await mesh.idle()
    assert [len(numbers) for _, numbers, _ in seen] == [1000, 1000, 500]
    assert [number for _, numbers, _ in seen for number in numbers] == list(range(2500))


async def test_bytes():
    """A batch is handed out when one more would be too much; bytes count by their length."""
    mesh = Mesh()
    seen: list[tuple[list[bytes], str]] = []

    @mesh.actor(batch=Batch(100, 5.0, max_bytes=10))
    async def write(blobs: list[bytes], ctx: Context) -> None:
        seen.append((blobs, ctx.batch.reason))

    async with mesh:
        for blob in (b"aaaa", b"bbbb", b"cccc", b"d" * 20, b"e"):
            await write.tell(blob)
        await mesh.idle()
    assert seen == [([b"aaaa", b"bbbb"], "bytes"), ([b"cccc"], "bytes"), ([b"d" * 20], "bytes"), ([b"e"], "within")]


async def test_a_body_that_cannot_be_measured_is_malformed(caplog: pytest.LogCaptureFixture):
    """With max_bytes, what msgspec cannot encode is a dead letter that says so; the others go on."""
    mesh = Mesh()
    seen: list[Any] = []

    @mesh.actor(batch=Batch(2, 5.0, max_bytes=100))
    async def write(things: list[object]) -> None:
        seen.append(things)

    with caplog.at_level(logging.CRITICAL, "flowmesh"):
        async with mesh:
            await write.tell(1)
            await write.tell(object())
            await write.tell(2)
            await mesh.idle()
            (dead,) = mesh.dead_letters.list()
    assert seen == [[1, 2]]
    assert dead.deaths[0].reason == "malformed"
    assert "cannot be measured for max_bytes" in dead.deaths[0].detail


async def test_one_value_to_a_batch():
    """With `by`, each batch has messages of one value; those of one value run one batch at a time, others beside them."""
    mesh = Mesh()
    seen: list[tuple[float, str, list[int]]] = []
    running: set[str] = set()

    @mesh.actor(batch=Batch(2, 5.0, by=lambda row: row.table), concurrency=4)
    async def write(rows: list[Row]) -> None:
        (table,) = {row.table for row in rows}
        assert table not in running
        running.add(table)
        seen.append((anyio.current_time() - began, table, [row.number for row in rows]))
        await anyio.sleep(2)
        running.remove(table)

    async with mesh:
        began = anyio.current_time()
        for number in range(5):
            await write.tell(Row(number, "a"))
        for number in range(2):
            await write.tell(Row(number, "b"))
        await mesh.idle()
        assert write.cell.box.lanes == {}
    assert seen == [(0, "a", [0, 1]), (0, "b", [0, 1]), (2, "a", [2, 3]), (5, "a", [4])]


async def test_concurrency_is_of_batches():
    """Slots are batches at once; all messages of the running ones are leased."""
    mesh, seen = Mesh(), Seen()
    write = writer(mesh, seen, Batch(2, 5.0), takes=3.0, concurrency=2)
    async with mesh:
        for number in range(7):
            await write.tell(Row(number))
        await settled()
        assert counts(write.mailbox) == {"entered": 7, "leased": 4, "ready": 3}
        assert mesh.statistics().actors["write"].running == 2
        await mesh.idle()
    assert [numbers for _, numbers, _ in seen] == [[0, 1], [2, 3], [4, 5], [6]]
    assert counts(write.mailbox) == {"entered": 7, "acked": 7}


async def test_time_that_comes_while_the_slots_are_taken():
    """A batch that is due while its actor is at work is handed out when a slot is free."""
    mesh, seen = Mesh(), Seen()
    write = writer(mesh, seen, Batch(2, 5.0), takes=20.0)
    async with mesh:
        began = anyio.current_time()
        for number in range(3):
            await write.tell(Row(number))
        await mesh.idle()
    assert seen == [(began, [0, 1], "size"), (began + 20, [2], "within")]


# What waits


async def test_what_waits_is_ready():
    """Until its batch is handed out a message is ready: it counts for capacity, is seen, and can be purged."""
    mesh, seen = Mesh(), Seen()
    write = writer(mesh, seen, Batch(3, 5.0), mailbox=MailboxOptions(capacity=3, overflow="reject"))
    async with mesh:
        await write.tell(Row(0))
        await write.tell(Row(1))
        await settled()
        assert counts(write.mailbox) == {"entered": 2, "ready": 2}
        assert [message.body.number for message in write.mailbox.peek()] == [0, 1]
        assert write.mailbox.purge() == 2
        await mesh.idle()
    assert seen == []
    assert counts(write.mailbox) == {"entered": 2, "purged": 2}


async def test_what_waits_can_expire():
    """A message that expires while it waits ends there; the rest of its batch is handed out in time."""
    mesh, seen = Mesh(), Seen()
    write = writer(mesh, seen, Batch(3, 5.0))
    async with mesh:
        began = anyio.current_time()
        await write.tell(Row(0), ttl=2.0)
        await advance(1.0)
        await write.tell(Row(1))
        await mesh.idle()
    assert seen == [(began + 6, [1], "within")]
    assert counts(write.mailbox) == {"entered": 2, "acked": 1, "expired": 1}


async def test_an_asker_that_leaves_takes_its_message_along():
    """An ask that is withdrawn before its batch is handed out is not in it; after that, its batch runs on."""
    mesh, seen = Mesh(), Seen()
    write = writer(mesh, seen, Batch(3, 5.0), takes=4.0)
    async with mesh:
        with pytest.raises(TimeoutError):
            await write.ask(Row(0), timeout=2.0)
        assert counts(write.mailbox) == {"entered": 1, "withdrawn": 1}
        await write.tell(Row(1))
        with pytest.raises(TimeoutError):
            await write.ask(Row(2), timeout=6.0)
        await mesh.idle()
    assert [numbers for _, numbers, _ in seen] == [[1, 2]]
    assert counts(write.mailbox) == {"entered": 3, "acked": 2, "withdrawn": 1}


async def test_idle_waits_for_a_batch_that_waits():
    """A batch that waits for its time is under way, unless its actor is paused."""
    mesh, seen = Mesh(), Seen()
    write = writer(mesh, seen, Batch(3, 5.0))
    async with mesh:
        began = anyio.current_time()
        await write.tell(Row(0))
        await mesh.idle()
        assert anyio.current_time() - began == 5
        await write.tell(Row(1))
        await settled()
        write.pause()
        await mesh.idle()
        assert counts(write.mailbox) == {"entered": 2, "ready": 1, "acked": 1}
        await advance(60.0)
        assert len(seen) == 1
        write.resume()
        await mesh.idle()
    assert [numbers for _, numbers, _ in seen] == [[0], [1]]


async def test_what_waits_for_time_when_an_actor_is_resumed():
    """A pause that is shorter than `within` does not lose the time."""
    mesh, seen = Mesh(), Seen()
    write = writer(mesh, seen, Batch(3, 5.0))
    async with mesh:
        began = anyio.current_time()
        await write.tell(Row(0))
        await settled()
        write.pause()
        await advance(2.0)
        write.resume()
        await mesh.idle()
    assert seen == [(began + 5, [0], "within")]


async def test_a_drain_hands_out_what_is_there():
    """When the mesh drains, nothing waits for more; what the drain itself brings is handed out as well."""
    mesh, seen = Mesh(), Seen()
    write = writer(mesh, seen, Batch(3, 500.0))

    @mesh.actor
    async def late(number: int, ctx: Context) -> None:
        await anyio.sleep(1)
        ctx.tell(write, Row(number))

    async with mesh:
        began = anyio.current_time()
        await write.tell(Row(0))
        await late.tell(1)
        await settled()
    assert seen == [(began, [0], "drain"), (began + 1, [1], "drain")]
    assert mesh.report is not None
    assert mesh.report.exit_code == 0


async def test_stopping_the_actor_puts_what_waits_back_in_line():
    """The mailbox keeps what had waited, at its place, for whoever is fed from it next; its askers are told."""
    mesh, seen = Mesh(), Seen()
    write = writer(mesh, seen, Batch(5, 500.0))
    taken: list[int] = []
    async with mesh:
        for number in range(3):
            await write.tell(Row(number))
        await settled()
        await write.stop()
        assert counts(write.mailbox) == {"entered": 3, "ready": 3}

        @mesh.actor(mailbox=write.mailbox, by=lambda row: row.table)
        async def successor(row: Row) -> None:
            taken.append(row.number)

        await mesh.idle()
    assert taken == [0, 1, 2]
    assert seen == []


async def test_a_second_run_goes_on_with_what_waited():
    """What waits when the mesh is aborted is ready in the next run, and is gathered anew."""
    mesh, seen = Mesh(), Seen()
    write = writer(mesh, seen, Batch(5, 50.0))

    async def live() -> None:
        async with mesh:
            await write.tell(Row(0))
            await settled()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await live()
    assert counts(write.mailbox) == {"entered": 1, "ready": 1}
    async with mesh:
        await write.tell(Row(1))
        await mesh.idle()
    assert [numbers for _, numbers, _ in seen] == [[0, 1]]
    assert counts(write.mailbox) == {"entered": 2, "acked": 2}


async def test_two_batch_actors_on_one_mailbox():
    """Competing consumers each gather what they look at first; nothing is handled twice or left behind."""
    mesh = Mesh()
    box = mesh.mailbox("rows")
    first, second = Seen(), Seen()
    one = writer(mesh, first, Batch(2, 5.0), takes=1.0, mailbox=box, name="one", retry=Retry(2, initial=1.0))
    two = writer(mesh, second, Batch(3, 7.0, by=lambda row: row.table), takes=1.0, mailbox=box, name="two")
    async with mesh:
        for number in range(20):
            await (one if number % 2 else two).tell(Row(number, "ab"[number % 2]))
        await mesh.idle()
    numbers = [number for _, found, _ in (*first, *second) for number in found]
    assert sorted(numbers) == list(range(20))
    assert counts(box) == {"entered": 20, "acked": 20}


# How its messages end


async def test_replies():
    """Each asker, and each reply_to, gets its element of a list with one for each message."""
    mesh, seen = Mesh(), Seen()
    write = writer(mesh, seen, Batch(3, 5.0))
    answers = mesh.mailbox("answers")
    replies: dict[int, int] = {}
    async with mesh:

        async def ask(number: int) -> None:
            replies[number] = await write.ask(Row(number))

        async with anyio.create_task_group() as group:
            group.start_soon(ask, 1)
            group.start_soon(ask, 2)
            await write.tell(Row(3), reply_to=answers.name, correlation_id="mine")
        delivery = await answers.get()
        await delivery.ack()
        assert (delivery.message.body, delivery.message.correlation_id) == (30, "mine")
    assert replies == {1: 10, 2: 20}


@pytest.mark.parametrize("result", [None, [1], 5, "ab"])
async def test_no_replies(result: Any):
    """Anything but a list of one for each answers None."""
    mesh = Mesh()

    @mesh.actor(batch=Batch(2, 1.0))
    async def write(rows: list[Row]) -> None:
        return result

    async with mesh, anyio.create_task_group() as group:

        async def ask(number: int) -> None:
            assert await write.ask(Row(number)) is None

        group.start_soon(ask, 1)
        group.start_soon(ask, 2)


async def test_single_messages_end_as_they_are_marked(caplog: pytest.LogCaptureFixture):
    """Rejected ones are dead letters, retried ones come back uncounted, failed ones as Retry says; the others are done."""
    mesh = Mesh()
    seen: list[list[tuple[int, int]]] = []

    @mesh.actor(batch=Batch(4, 5.0), retry=Retry(2, initial=1.0, jitter="none"))
    async def write(rows: list[Row], ctx: Context) -> None:
        items = ctx.batch.items
        assert [item.body for item in items] == rows
        seen.append([(item.body.number, item.attempt) for item in items])
        for item in items:
            if item.body.number == 1:
                item.reject("no such table")
            elif item.body.number == 2 and not item.redelivered:
                item.retry(3.0)
            elif item.body.number == 3:
                item.fail(OSError("disk"))

    with caplog.at_level(logging.CRITICAL, "flowmesh"):
        async with mesh:
            for number in range(4):
                await write.tell(Row(number))
            await mesh.idle()
            dead = {message.body.number: message.deaths[0] for message in mesh.dead_letters.list()}
    assert seen == [[(0, 1), (1, 1), (2, 1), (3, 1)], [(2, 1), (3, 2)]]
    assert {number: (death.reason, death.detail) for number, death in dead.items()} == {
        1: ("rejected", "no such table"),
        3: ("failed", "OSError: disk"),
    }
    assert counts(write.mailbox) == {"entered": 4, "acked": 2, "dead": 2}


async def test_marked_askers():
    """A rejected ask is refused, one that failed for good gets the error."""
    mesh = Mesh()

    @mesh.actor(batch=Batch(3, 5.0))
    async def write(rows: list[Row], ctx: Context) -> list[int]:
        ctx.batch.items[0].reject("why")
        ctx.batch.items[1].fail(OSError("disk"))
        return [1, 2, 3]

    async with mesh, anyio.create_task_group() as group:

        async def rejected() -> None:
            with pytest.raises(NoReply) as caught:
                await write.ask(Row(0))
            assert caught.value.reason == "rejected"

        async def failed() -> None:
            with pytest.raises(OSError, match="disk"):
                await write.ask(Row(1))

        group.start_soon(rejected)
        await settled()
        group.start_soon(failed)
        await settled()
        assert await write.ask(Row(2)) == 3


async def test_an_exception_fails_all(caplog: pytest.LogCaptureFixture):
    """All messages fail, each by its own count; marks are forgotten; the traceback is logged once."""
    mesh = Mesh()
    seen: list[list[tuple[int, int]]] = []

    @mesh.actor(batch=Batch(2, 5.0), retry=Retry(2, initial=1.0, jitter="none"))
    async def write(rows: list[Row], ctx: Context) -> None:
        seen.append([(item.body.number, item.attempt) for item in ctx.batch.items])
        ctx.batch.items[0].reject("forgotten")
        raise OSError("disk")

    async with mesh:
        began = anyio.current_time()
        await write.tell(Row(0))
        await write.tell(Row(1))
        await settled()
        assert counts(write.mailbox) == {"entered": 2, "delayed": 2}
        await mesh.idle()
        assert anyio.current_time() - began == 1
        assert [message.deaths[0].reason for message in mesh.dead_letters.list()] == ["failed", "failed"]
    assert seen == [[(0, 1), (1, 1)], [(0, 2), (1, 2)]]
    assert counts(write.mailbox) == {"entered": 2, "dead": 2}
    assert len([record for record in caplog.records if record.exc_info]) == 1
    statistics = mesh.statistics().actors["write"]
    assert (statistics.failed, statistics.retried) == (2, 2)


@pytest.mark.parametrize("error, ends", [(Reject("no"), {"dead": 2}), (RetryAfter(600), {"delayed": 2})])
async def test_verdicts_are_for_all(error: Exception, ends: dict[str, int]):
    """A raised Reject or RetryAfter is said of every message of the batch."""
    mesh = Mesh()

    @mesh.actor(batch=Batch(2, 5.0))
    async def write(rows: list[Row]) -> None:
        raise error

    async with mesh:
        await write.tell(Row(0))
        await write.tell(Row(1))
        await settled()
        assert counts(write.mailbox) == {"entered": 2, **ends}
        mesh.stop()


async def test_the_time_limit_is_for_the_batch(caplog: pytest.LogCaptureFixture):
    """`timeout` is for one call; when it passes, all its messages fail."""
    mesh = Mesh()

    @mesh.actor(batch=Batch(2, 5.0), timeout=3.0)
    async def write(rows: list[Row]) -> None:
        await anyio.sleep(60)

    with caplog.at_level(logging.CRITICAL, "flowmesh"):
        async with mesh:
            await write.tell(Row(0))
            with pytest.raises(TimeoutError, match=r"within 3\.0 s"):
                await write.ask(Row(1))
            await mesh.idle()
    assert counts(write.mailbox) == {"entered": 2, "dead": 1, "acked": 1}


async def test_a_mark_is_made_once_and_in_its_turn():
    """A second mark, and one after the turn, raise AlreadySettled and change nothing."""
    mesh = Mesh()
    kept: list[Any] = []

    @mesh.actor(batch=Batch(1, 5.0))
    async def write(rows: list[Row], ctx: Context) -> None:
        (item,) = ctx.batch.items
        item.retry(9.0)
        with pytest.raises(AlreadySettled, match="marked already"):
            item.reject("twice")
        assert repr(item).startswith("<BatchItem 0 of 1: Message(")
        kept.append(item)

    async with mesh:
        await write.tell(Row(0))
        await settled()
        with pytest.raises(AlreadySettled, match="has ended"):
            kept[0].reject("late")
        assert counts(write.mailbox) == {"entered": 1, "delayed": 1}
        mesh.stop()
        mesh.dead_letters.purge()


@pytest.mark.parametrize("error", ["no answer", None, 3, int, KeyboardInterrupt, KeyboardInterrupt()])
async def test_a_mark_that_is_no_exception_is_refused(error: Any):
    """It is an error of the call, which marks nothing: the message can still be marked."""
    mesh = Mesh()

    @mesh.actor(batch=Batch(1, 5.0))
    async def write(rows: list[Row], ctx: Context) -> None:
        (item,) = ctx.batch.items
        with pytest.raises(ValueError, match=r"^error of item\.fail\(\) must be an exception, not "):
            item.fail(error)
        item.reject("still to be marked")

    async with mesh:
        await write.tell(Row(0))
        await mesh.idle()
        (letter,) = mesh.dead_letters.list()
        assert letter.deaths[0].detail == "still to be marked"
        mesh.dead_letters.purge()


async def test_a_mark_of_an_exception_class_is_an_instance_of_it():
    """As by `raise`; what an asker gets, and what `retry=` is asked about, is an exception."""
    mesh = Mesh()
    attempts: list[int] = []

    @mesh.actor(batch=Batch(1, 5.0), retry=Retry(2, initial=1.0, on=(OSError,)))
    async def write(rows: list[Row], ctx: Context) -> None:
        (item,) = ctx.batch.items
        attempts.append(item.attempt)
        item.fail(ConnectionError)

    async with mesh:
        with pytest.raises(ConnectionError):
            await write.ask(Row(0))
        mesh.dead_letters.purge()
    assert attempts == [1, 2]


async def test_outputs_leave_with_the_batch():
    """What a batch collects takes effect with its ack, once, with the first message as its cause."""
    mesh = Mesh()
    told: list[Message] = []

    @mesh.actor
    async def done(count: int, ctx: Context) -> None:
        told.append(ctx.message)

    @mesh.actor(batch=Batch(2, 5.0))
    async def write(rows: list[Row], ctx: Context) -> None:
        assert ctx.message.deadline is None
        ctx.tell(done, len(rows))

    async with mesh:
        first = await write.tell(Row(0), correlation_id="one")
        await write.tell(Row(1), correlation_id="two")
        await write.tell(Row(2), correlation_id="three")
        await write.ask(Row(3), correlation_id="three")
        await mesh.idle()
    assert [message.body for message in told] == [2, 2]
    assert [message.correlation_id for message in told] == [None, "three"]
    assert told[0].cause == first.message_id


async def test_malformed_messages_leave_the_others_alone(caplog: pytest.LogCaptureFixture):
    """Each body is checked and converted by itself; what cannot be is a dead letter, and is in no batch."""
    mesh, seen = Mesh(), Seen()
    rows = mesh.exchange("rows", "fanout")
    write = writer(mesh, seen, Batch(2, 5.0), bind=rows.on())
    with caplog.at_level(logging.CRITICAL, "flowmesh"):
        async with mesh:
            await rows.publish({"number": 1})
            await rows.publish("nonsense")
            await rows.publish({"number": 2, "table": "b"})
            await mesh.idle()
            assert [message.body for message in mesh.dead_letters.list()] == ["nonsense"]
    assert [numbers for _, numbers, _ in seen] == [[1, 2]]
    assert counts(write.mailbox) == {"entered": 3, "acked": 2, "dead": 1}


async def test_a_value_that_cannot_be_had_is_malformed(caplog: pytest.LogCaptureFixture):
    """When `by` raises, or gives what has no hash, that message is a dead letter."""
    mesh, seen = Mesh(), Seen()
    writer(mesh, seen, Batch(1, 5.0, by=lambda row: {}[row] if row.number else [row.number]))
    with caplog.at_level(logging.CRITICAL, "flowmesh"):
        async with mesh:
            await mesh.exchange("").publish(Row(0), "write")
            await mesh.exchange("").publish(Row(1), "write")
            await mesh.idle()
            assert [message.deaths[0].reason for message in mesh.dead_letters.list()] == ["malformed"] * 2
    assert seen == []


async def test_a_plain_function_runs_in_a_thread():
    """A plain `def` takes a list as well, and may mark its messages from there."""
    mesh = Mesh()

    @mesh.actor(batch=Batch(2, 5.0))
    def write(rows: list[Row], ctx: Context) -> list[int]:
        ctx.batch.items[0].reject("why")
        return [row.number for row in rows]

    async with mesh:
        await write.tell(Row(1))
        assert await write.ask(Row(2)) == 2
        await mesh.idle()
    assert counts(write.mailbox) == {"entered": 2, "acked": 1, "dead": 1}


# Who stands around


class Diary(Observer):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def handed_out(self, message: Message, mailbox: str, /, *, actor: str | None, attempt: int) -> None:
        self.lines.append(f"out {message.body.number}")

    def settled(self, message: Message, mailbox: str, /, *, outcome: str) -> None:
        self.lines.append(f"{outcome} {message.body.number}")


async def test_middleware_once_and_observers_for_each():
    """A layer runs around the call, once for a batch; observers are told of every copy."""
    diary, calls = Diary(), list[int]()

    async def layer(ctx: Context, call_next: CallNext) -> object:
        calls.append(len(ctx.batch.items))
        return await call_next()

    mesh, seen = Mesh(observers=[diary], middleware=[layer]), Seen()
    write = writer(mesh, seen, Batch(2, 5.0))
    async with mesh:
        await write.tell(Row(0))
        await write.tell(Row(1))
        await mesh.idle()
    assert calls == [2]
    assert diary.lines == ["out 0", "out 1", "acked 0", "acked 1"]


# Stop and cancel


async def test_a_stop_hands_all_of_it_back(caplog: pytest.LogCaptureFixture):
    """A batch that is cancelled by the stop goes back to its places; an asker in it is told."""
    mesh, seen = Mesh(grace=1.0), Seen()
    write = writer(mesh, seen, Batch(3, 5.0), takes=60.0)
    with caplog.at_level(logging.CRITICAL, "flowmesh"):
        async with anyio.create_task_group() as group:

            async def ask() -> None:
                with pytest.raises(MeshStopped):
                    await write.ask(Row(1), timeout=None)

            async with mesh:
                await write.tell(Row(0))
                group.start_soon(ask)
                await settled()
                await write.tell(Row(2))
                await settled()
                await write.tell(Row(3))
    assert [message.body.number for message in write.mailbox.peek()] == [0, 2, 3]
    assert counts(write.mailbox) == {"entered": 4, "ready": 3, "withdrawn": 1}
    assert mesh.report is not None
    assert mesh.report.handed_back == 2
    async with mesh:
        await settled()
        assert [numbers for _, numbers, _ in seen][1:] == [[0, 2, 3]]
        mesh._engine.abort()
    assert counts(write.mailbox) == {"entered": 4, "ready": 3, "withdrawn": 1}


async def test_a_fault_hands_all_of_it_back():
    """A BaseException stops the mesh; all messages of the batch lie ready again."""

    class Bang(BaseException):
        pass

    mesh = Mesh()

    @mesh.actor(batch=Batch(2, 5.0))
    async def write(rows: list[Row]) -> None:
        raise Bang

    async def live() -> None:
        async with mesh:
            await write.tell(Row(0))
            await write.tell(Row(1))
            await anyio.sleep_forever()

    with pytest.raises(Bang):
        await live()
    assert counts(write.mailbox) == {"entered": 2, "ready": 2}


async def test_asking_is_cancellable_at_every_point():
    """Wherever an asker is cancelled, its message ends once, and the others of its batch are handled once."""
    mesh, seen = Mesh(), Seen()
    write = writer(mesh, seen, Batch(2, 5.0), takes=1.0)
    async with mesh:

        async def ask() -> int:
            await write.tell(Row(1))
            await anyio.lowlevel.checkpoint()
            return await write.ask(Row(2))

        async def check(swept: Swept[int]) -> None:
            await mesh.idle()
            found = counts(write.mailbox)
            assert found["entered"] == found.get("acked", 0) + found.get("withdrawn", 0)
            assert [number for _, numbers, _ in seen for number in numbers].count(1) <= 1
            assert write.cell.box.lanes == {}
            seen.clear()

        assert await cancel_sweep(ask, check) >= 2


async def test_stopping_a_mesh_is_cancellable_at_every_point(caplog: pytest.LogCaptureFixture):
    """Wherever the body of a mesh is cancelled, every message is handled, or ready, and counted once."""
    made: list[tuple[Mesh, Any, Seen]] = []

    async def live() -> None:
        mesh, seen = Mesh(grace=2.0), Seen()
        write = writer(mesh, seen, Batch(2, 3.0, by=lambda row: row.table), takes=1.0, concurrency=2)
        made.append((mesh, write, seen))
        async with mesh:
            for number in range(5):
                await write.tell(Row(number, "ab"[number % 2]))
                await anyio.sleep(0.5)

    async def check(swept: Swept[None]) -> None:
        _, write, _ = made.pop()
        found = counts(write.mailbox)
        assert found.get("entered", 0) == found.get("acked", 0) + found.get("ready", 0)
        assert write.cell.box.lanes == {}

    with caplog.at_level(logging.CRITICAL, "flowmesh"):
        assert await cancel_sweep(live, check) >= 5


# Mistakes


def declare(**options: Any) -> None:
    """Declare an actor whose handler takes a list."""

    async def write(rows: list[Row]) -> None: ...

    Mesh().actor(write, **options)


@pytest.mark.parametrize(
    "options, text",
    [
        ({"batch": 5}, "batch must be a Batch, not 5: write batch=Batch(100, 0.5)"),
        ({"debounce": 5}, "debounce must be a Debounce, or None, not 5: write debounce="),
        ({"batch": Batch(1, 1.0), "debounce": Debounce(1.0, 1.0)}, "cannot have both batch= and debounce="),
        (
            {"batch": Batch(1, 1.0), "by": len},
            "has batch=, which keeps values apart and in order itself: say Batch(..., by=...)",
        ),
        ({"debounce": Debounce(1.0, 1.0), "by": len}, "say Debounce(..., by=...)"),
        ({"batch": Batch(10_001, 1.0)}, "would never get a full batch: its mailbox has room for 10000 messages, size is 10001"),
        ({"batch": Batch(3, 1.0), "mailbox": MailboxOptions(capacity=2)}, "has room for 2 messages, size is 3"),
        ({"batch": Batch(3, 1.0), "mailbox": Mesh().mailbox("m", MailboxOptions(capacity=2))}, "has room for 2 messages"),
    ],
)
async def test_options_that_make_no_sense(options: dict[str, Any], text: str):
    """Each is refused where the actor is declared, with its mend."""
    with pytest.raises(ValueError) as caught:
        declare(**options)
    assert text in str(caught.value)


async def test_handlers_that_take_no_list():
    """A batch handler takes a list, and says of what."""
    mesh = Mesh()

    async def takes_one(row: Row) -> None: ...
    async def takes_some(rows: Sequence[Row]) -> None: ...
    async def takes_any(rows: list) -> None: ...  # type: ignore[type-arg]
    async def takes_nothing() -> None: ...

    for handler in (takes_one, takes_some, takes_any, takes_nothing):
        with pytest.raises(InvalidHandler, match=r"is given a list: annotate its first parameter with list\[\.\.\.\]"):
            mesh.actor(handler, batch=Batch(2, 1.0))  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue,reportArgumentType]


async def test_classes_take_no_batch():
    """A class actor takes one message at a time."""

    class Totals:
        @on
        async def add(self, row: Row) -> None: ...

    with pytest.raises(ValueError, match="class actor 'Totals' takes one message at a time: leave batch= out"):
        Mesh().actor(Totals, batch=Batch(2, 1.0))  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue,reportArgumentType]


async def test_what_it_is_told():
    """The actor is told one item; a list of them is refused, and a turn without a batch has none."""
    mesh, seen = Mesh(), Seen()
    write = writer(mesh, seen, Batch(2, 5.0))

    @mesh.actor
    async def single(row: Row, ctx: Context) -> None:
        with pytest.raises(PreconditionFailed, match="actor 'single' takes one message at a time"):
            print(ctx.batch)

    async with mesh:
        with pytest.raises(WrongBody, match=r"actor 'write' takes .*Row, not list"):
            await write.tell([Row(1)])
        await single.ask(Row(1))


async def test_names_that_are_defined_later_and_parts():
    """The item's type may be defined after the handler; a part with a batch actor can be added to a mesh."""
    part, seen = Part("rows"), list[Any]()

    @part.actor(batch=Batch(2, 1.0))
    async def write(rows: list["Later"]) -> None:
        seen.append(rows)

    class Later(Struct, frozen=True):
        number: int

    mesh = Mesh()
    mesh.add(part)
    async with mesh:
        await write.tell(Later(1))
        await mesh.idle()
    assert seen == [[Later(1)]]
