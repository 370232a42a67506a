"""`gates=` beside `batch=`: a message passes the gates first, and then waits for others."""

from typing import Any

import anyio
import pytest
from msgspec import Struct

from flowmesh import Batch, Breaker, Context, GateStatistics, MailboxOptions, Mesh, Once, Rate, Reject, Retry
from flowmesh.testing import History, advance, explore, running, settled
from tests.runtime.counting import counts

pytestmark = pytest.mark.anyio


class Row(Struct, frozen=True):
    number: int
    table: str = "a"


class Database:
    """What the handlers write to: it refuses while it is `away`, and notes when it was called, and with what."""

    def __init__(self, *, away: bool = False) -> None:
        self.away = away
        self.began = anyio.current_time()
        self.calls: list[tuple[float, list[int]]] = []

    def write(self, rows: list[Row]) -> None:
        self.calls.append((round(anyio.current_time() - self.began, 3), [row.number for row in rows]))
        if self.away:
            raise ConnectionError("away")


def writer(mesh: Mesh, database: Database, batch: Batch, gate: Any, **options: Any) -> Any:
    """Declare an actor that writes its batches to the database."""

    @mesh.actor(batch=batch, gates=[gate], **options)
    async def write(rows: list[Row]) -> None:
        database.write(rows)

    return write


def gate_of(mesh: Mesh) -> GateStatistics:
    """Return the numbers of the writer's gate."""
    (gate,) = mesh.statistics().actors["write"].gates
    return gate


async def test_a_rate_counts_each_message_that_is_taken_into_a_batch():
    """Ten a second in batches of five are two batches a second."""
    mesh, database = Mesh(), Database()
    write = writer(mesh, database, Batch(5, 60.0), Rate(10, per=1.0))
    async with mesh:
        for number in range(15):
            await write.tell(Row(number))
        await settled()
        assert gate_of(mesh).held == 14
        await mesh.idle()
    assert database.calls == [(0.4, [0, 1, 2, 3, 4]), (0.9, [5, 6, 7, 8, 9]), (1.4, [10, 11, 12, 13, 14])]
    assert counts(write.mailbox) == {"entered": 15, "acked": 15}


async def test_a_batch_that_fails_is_one_failure():
    """A breaker counts calls of the handler, not messages; once open, it holds what would be taken into batches."""
    mesh, database = Mesh(), Database(away=True)
    retry = Retry(9, initial=5.0, factor=1.0, maximum=5.0, jitter="none")
    write = writer(mesh, database, Batch(3, 1.0), Breaker(failures=2, pause=60.0), retry=retry)
    async with mesh:
        for number in range(3):
            await write.tell(Row(number))
        await settled()
        assert (database.calls, gate_of(mesh).condition) == ([(0.0, [0, 1, 2])], "closed")
        for number in range(3, 8):
            await write.tell(Row(number))
        await settled()
        assert database.calls[1:] == [(0.0, [3, 4, 5])]
        assert (gate_of(mesh).condition, gate_of(mesh).held) == ("open", 2)
        await advance(30)
        assert (len(database.calls), gate_of(mesh).held, write.mailbox.statistics().ready) == (2, 8, 8)
        database.away = False
        await mesh.idle()
    assert database.calls[2:] == [(60.0, [0]), (60.0, [1, 2, 3]), (60.0, [4, 5, 6]), (60.0, [7])]
    assert counts(write.mailbox) == {"entered": 8, "acked": 8}


async def test_a_probe_that_fails_waits_for_another_pause():
    """One message probes, as a batch of its own; the others use up no attempts."""
    mesh, database = Mesh(), Database(away=True)
    attempts: list[int] = []

    @mesh.actor(batch=Batch(2, 0.0), gates=[Breaker(failures=1, pause=10.0)], retry=Retry(9, initial=0.0, jitter="none"))
    async def write(rows: list[Row], ctx: Context) -> None:
        attempts.extend(item.attempt for item in ctx.batch.items)
        database.write(rows)

    async with mesh:
        for number in range(4):
            await write.tell(Row(number))
        await advance(25)
        assert database.calls == [(0.0, [0, 1]), (10.0, [0]), (20.0, [0])]
        database.away = False
        await mesh.idle()
    assert database.calls[3:] == [(30.0, [0]), (30.0, [1, 2]), (30.0, [3])]
    assert attempts == [1, 1, 2, 3, 4, 2, 1, 1]


async def test_the_time_at_a_breaker_counts_as_waiting():
    """What has failed and come back is held for longer than `within`: it goes as soon as the breaker lets it through."""
    mesh, database = Mesh(), Database(away=True)
    retry = Retry(3, initial=0.5, jitter="none")
    write = writer(mesh, database, Batch(3, 1.0), Breaker(failures=1, pause=10.0), retry=retry)
    async with mesh:
        for number in range(5):
            await write.tell(Row(number))
        await advance(5)
        database.away = False
        await mesh.idle()
    assert database.calls == [(0.0, [0, 1, 2]), (10.0, [0]), (10.0, [1, 2, 3]), (10.0, [4])]


async def test_what_comes_back_from_a_breaker_before_its_time_waits_for_the_rest_of_it():
    """`within` is counted from when it came back and was held; handed out and come back once more, it is counted anew."""
    mesh, database = Mesh(), Database(away=True)
    retry = Retry(9, initial=2.0, factor=1.0, jitter="none")
    write = writer(mesh, database, Batch(2, 5.0), Breaker(failures=1, pause=4.0), retry=retry)
    async with mesh:
        await write.tell(Row(0))
        await advance(6)
        assert database.calls == [(5.0, [0])]  # comes back at 7, and is held until 9
        await advance(8)
        assert database.calls[1:] == [(12.0, [0])]  # comes back at 14, and is held until 16
        database.away = False
        await advance(6)
        assert database.calls[2:] == [(19.0, [0])]


async def test_what_waits_in_a_batch_is_called_back_when_the_breaker_opens():
    """Messages that had been let through before are held as well, and lose neither their place nor an attempt."""
    mesh, database = Mesh(), Database(away=True)
    by_table = Batch(2, 30.0, by=lambda row: row.table)
    write = writer(mesh, database, by_table, Breaker(failures=1, pause=100.0), retry=Retry(3, initial=1.0, jitter="none"))
    async with mesh:
        await write.tell(Row(0, "early"))
        await settled()
        assert gate_of(mesh).held == 0
        for number in (1, 2):
            await write.tell(Row(number, "full"))
        await advance(60)
        assert database.calls == [(0.0, [1, 2])]
        assert (gate_of(mesh).held, write.mailbox.statistics().ready) == (3, 3)
        database.away = False
        await mesh.idle()
    assert database.calls[1:] == [(100.0, [0]), (100.0, [1, 2])]
    assert counts(write.mailbox) == {"entered": 3, "acked": 3}


async def test_a_breaker_for_each_value_of_a_batch():
    """A message that is marked as failed tells of its own value alone, and each value once for a call."""
    mesh = Mesh()
    breaker = Breaker(failures=2, pause=50.0, by=lambda row: row.table)

    @mesh.actor(batch=Batch(4, 1.0), gates=[breaker], retry=Retry(9, initial=2.0, factor=1.0, jitter="none"))
    async def write(rows: list[Row], ctx: Context) -> None:
        for item in ctx.batch.items:
            if item.body.table == "down" and anyio.current_time() < 40:
                item.fail(ConnectionError("no answer"))
        seen.append([row.number for row in rows])

    seen: list[list[int]] = []
    async with mesh:
        for number, table in enumerate(("up", "down", "down", "up")):
            await write.tell(Row(number, table))
        await settled()
        assert gate_of(mesh).condition == "closed"
        await advance(10)
        assert gate_of(mesh).condition == "open"
        assert gate_of(mesh).held == 2
        await write.tell(Row(4, "up"))
        await advance(1)
        await mesh.idle()
    assert seen == [[0, 1, 2, 3], [1, 2], [4], [1], [2]]
    assert counts(write.mailbox) == {"entered": 5, "acked": 5}


async def test_a_probe_that_ends_while_it_waits_makes_room_for_another():
    """What has passed a breaker, and is purged or expires before its batch, is not waited for."""
    mesh, database = Mesh(), Database(away=True)
    write = writer(mesh, database, Batch(2, 5.0), Breaker(failures=1, pause=10.0))
    async with mesh:
        for number in range(2):
            await write.tell(Row(number))
        await advance(1)
        assert gate_of(mesh).condition == "open"
        database.away = False
        await advance(10)
        await write.tell(Row(2), ttl=1.0)  # takes the chance to probe, and waits for a second one
        await settled()
        assert gate_of(mesh).condition == "half-open"
        await advance(2)
        assert write.mailbox.statistics().expired == 1
        await write.tell(Row(3))
        await settled()
        assert (gate_of(mesh).condition, gate_of(mesh).held) == ("half-open", 0)
        write.mailbox.purge()
        await write.tell(Row(4))
        await mesh.idle()
        assert gate_of(mesh).condition == "closed"
        mesh.dead_letters.purge()
    assert [numbers for _, numbers in database.calls] == [[0, 1], [4]]


async def test_once_claims_when_a_message_is_taken_into_a_batch():
    """A second one is dropped while the first waits; one that ends before its batch frees its value."""
    mesh, database = Mesh(), Database()
    write = writer(mesh, database, Batch(3, 10.0), Once(by=lambda row: row.number))
    async with mesh:
        await write.tell(Row(1), ttl=1.0)
        await write.tell(Row(1))
        await settled()
        assert gate_of(mesh).dropped == 1
        await advance(2)
        await write.tell(Row(1))
        await write.tell(Row(1))
        await mesh.idle()
    assert database.calls == [(12.0, [1])]
    assert counts(write.mailbox) == {"entered": 4, "acked": 1, "expired": 1, "dropped": 2}


async def test_a_rejected_message_counts_for_no_breaker():
    """Who rejects has answered, for a batch and for a single message of it."""
    mesh = Mesh()

    @mesh.actor(batch=Batch(2, 1.0), gates=[Breaker(failures=1)])
    async def write(rows: list[Row], ctx: Context) -> None:
        if rows[0].number:
            raise Reject("no")
        ctx.batch.items[1].reject("not this one")

    async with mesh:
        for number in (0, 1, 2, 3):
            await write.tell(Row(number))
        await mesh.idle()
        assert (gate_of(mesh).condition, len(mesh.dead_letters)) == ("closed", 3)


async def test_a_value_that_a_gate_does_not_get_is_malformed():
    """The message is a dead letter, and its batch goes without it."""
    mesh, database = Mesh(), Database()
    write = writer(mesh, database, Batch(2, 1.0), Rate(100, per=1.0, by=lambda row: 1 // row.number))
    async with mesh:
        for number in (1, 0, 2):
            await write.tell(Row(number))
        await mesh.idle()
        (letter,) = mesh.dead_letters.list()
        assert letter.deaths[0].reason == "malformed"
        assert "gave Rate no value" in letter.deaths[0].detail
    assert [numbers for _, numbers in database.calls] == [[1, 2]]


async def test_a_drain_does_not_wait_for_what_a_breaker_holds():
    """What cannot go within the grace stays in the mailbox, at its place, and goes on in the next run."""
    mesh, database = Mesh(grace=30.0), Database(away=True)
    retry = Retry(9, initial=200.0, maximum=200.0, jitter="none")
    write = writer(mesh, database, Batch(2, 1.0), Breaker(failures=1, pause=100.0), retry=retry)
    async with mesh:
        for number in range(5):
            await write.tell(Row(number))
        await advance(2)
        assert gate_of(mesh).held == 3
        stopping = anyio.current_time()
    assert anyio.current_time() - stopping < 1
    assert [message.body.number for message in write.mailbox.peek()] == [0, 1, 2, 3, 4]
    database.away = False
    async with mesh:  # its breakers know nothing any more
        await mesh.idle()
    assert [numbers for _, numbers in database.calls][1:] == [[0, 1], [2, 3], [4]]


async def test_another_actor_takes_what_has_passed_the_gates_of_one_that_stops():
    """What waited for its batch lies in the mailbox again, and has started nowhere."""
    mesh, database = Mesh(), Database()
    shared = mesh.mailbox("shared", MailboxOptions(single_active=True))
    write = writer(mesh, database, Batch(3, 60.0), Rate(1, per=1.0), mailbox=shared)
    taken: list[int] = []

    @mesh.actor(mailbox=shared)
    async def take(row: Row) -> None:
        taken.append(row.number)

    async with mesh:
        for number in range(4):
            await mesh.exchange("").publish(Row(number), "shared")
        await advance(1.5)
        await write.stop()
        await mesh.idle()
    assert (taken, database.calls) == ([0, 1, 2, 3], [])
    assert counts(shared) == {"entered": 4, "acked": 4}


def test_nothing_is_lost_or_doubled_in_any_order():
    """A database that comes and goes, gates with values, several batches at once: every message is written in the end."""

    async def test() -> None:
        mesh, written = Mesh("writers"), list[int]()
        calls = 0

        @mesh.actor(
            batch=Batch(3, 0.5, by=lambda row: row.table),
            gates=[Rate(20, per=1.0), Breaker(failures=1, pause=2.0, by=lambda row: row.table)],
            retry=Retry(20, initial=0.3, jitter="full"),
            concurrency=2,
        )
        async def write(rows: list[Row]) -> None:
            nonlocal calls
            calls += 1
            await anyio.sleep(0.1)
            if calls % 3 == 0:
                raise ConnectionError
            written.extend(row.number for row in rows)

        async with running(mesh, history=History()):
            for number in range(24):
                await write.tell(Row(number, "ab"[number % 2]))
            await mesh.idle()
        assert sorted(written) == list(range(24))

    explore(test, seeds=25)
