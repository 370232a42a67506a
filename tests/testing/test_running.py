"""`running`: a mesh for the length of one test, held to its dead letters and left empty."""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import pytest

from flowmesh import Batch, Context, Debounce, Mesh, Rate, Reject, Retry
from flowmesh.errors import PreconditionFailed
from flowmesh.message import Death, Message, Properties
from flowmesh.testing import EPOCH, Dead, DeadLettersError, History, VirtualClock, running
from flowmesh.testing.letters import check_letters
from flowmesh.testing.plugin import RunningMesh

DAY = 86_400.0


def shop() -> tuple[Mesh, list[str]]:
    """A mesh whose actor `charge` notes what it is told, and rejects "bad"."""
    mesh, seen = Mesh("shop"), list[str]()

    @mesh.actor
    async def charge(name: str) -> None:
        if name == "bad":
            raise Reject("no credit")
        seen.append(name)

    return mesh, seen


def letter(body: str) -> Message:
    """A dead letter of `charge`."""
    return Message("m-", 1, body, properties=Properties(deaths=(Death("charge", "rejected", 1, 0.0, "", ("charge",)),)))


async def tell(mesh: Mesh, name: str, delay: float | None = None) -> None:
    """Tell `charge`."""
    await mesh.exchange("").publish(name, "charge", delay=delay)


async def test_time_is_the_tests(running_mesh: RunningMesh):
    """`advance` moves the mesh's time, and what is due on the way happens."""
    mesh, seen = shop()
    async with running_mesh(mesh) as time:
        await tell(mesh, "ada", delay=30 * DAY)
        await time.settled()
        assert seen == []
        await time.advance(30 * DAY)
        assert seen == ["ada"]


@pytest.mark.mesh_time(autojump=False)
async def test_without_autojump_only_advance_moves_time(running_mesh: RunningMesh):
    """The mark says how time runs: nothing is due before the test says so."""
    mesh, seen = shop()
    async with running_mesh(mesh) as time:
        await tell(mesh, "ada", delay=5.0)
        await time.advance(4.0)
        assert seen == []
        await time.advance(1.0)
        assert seen == ["ada"]


async def test_the_wall_clock_can_be_set(running_mesh: RunningMesh):
    """`wall=` says what it reads at first, and the clock can be shifted; without it, it starts at EPOCH."""
    mesh, _ = shop()
    async with running_mesh(mesh, wall=1000.0) as time:
        time.clock.shift_wall(500.0)
        assert time.clock.wall() == 1500.0
    async with running_mesh(mesh) as time:
        assert time.clock.wall() == EPOCH


async def test_a_clock_of_the_meshs_own_is_kept(running_mesh: RunningMesh):
    """A mesh that has a VirtualClock runs with it."""
    clock = VirtualClock(wall=7.0)
    async with running_mesh(Mesh("m", clock=clock)) as time:
        assert time.clock is clock


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_real_time_is_refused(backend: str):
    """In an event loop with real time it says what to use, and the mesh is not started."""
    mesh, _ = shop()

    async def test() -> None:
        with pytest.raises(RuntimeError, match=r"running\(\) needs an event loop with virtual time.*flowmesh.testing.run"):
            async with running(mesh):
                pass

    anyio.run(test, backend=backend)
    assert "not been started" in repr(mesh)


# Dead letters


async def test_an_unexpected_dead_letter_fails_the_test(running_mesh: RunningMesh):
    """The error names the body, where it died, why, and in which words; and how to expect it."""
    mesh, _ = shop()
    with pytest.raises(DeadLettersError, match=r"'bad' in 'charge': rejected, no credit\nexpect them") as caught:
        async with running_mesh(mesh):
            await tell(mesh, "bad")
    assert [letter.body for letter in caught.value.unexpected] == ["bad"]


async def test_a_dead_letter_of_the_drain_counts(running_mesh: RunningMesh):
    """What dies while the mesh drains is found too: it is looked at when the mesh has stopped."""
    mesh = Mesh("m")

    @mesh.actor(retry=Retry(2, initial=5.0, jitter="none"))
    async def fail() -> None:
        raise OSError("down")

    with pytest.raises(DeadLettersError, match="failed"):
        async with running_mesh(mesh):
            await fail.tell()


@pytest.mark.parametrize(
    "expected",
    [
        Dead(),
        Dead("charge"),
        Dead("charge", "rejected"),
        Dead(body=str),
        Dead(body="bad"),
        Dead(body=lambda body: body == "bad"),
    ],
    ids=str,
)
async def test_expected_dead_letters_are_left(running_mesh: RunningMesh, expected: Dead):
    """A letter is expected by its mailbox, its reason, its body, or any of them."""
    mesh, _ = shop()
    async with running_mesh(mesh, dead_letters=[expected]):
        await tell(mesh, "bad")


@pytest.mark.parametrize("expected", [Dead("other"), Dead("charge", "expired"), Dead(body=int)], ids=str)
async def test_an_expected_dead_letter_must_come(running_mesh: RunningMesh, expected: Dead):
    """What was expected and is not there is an error, beside what is there and was not expected."""
    mesh, _ = shop()
    with pytest.raises(DeadLettersError, match=r"nobody expected(.|\n)*no dead letter was left that fits") as caught:
        async with running_mesh(mesh, dead_letters=[expected]):
            await tell(mesh, "bad")
    assert caught.value.missing == [expected]


@pytest.mark.parametrize(
    "left, expected",
    [
        (["bad"] * 2, [Dead("charge")] * 2),
        (["bad"] * 2, [Dead("charge", count=2)]),
        (["bad"] * 3, [Dead("charge", count=None)]),
        (["bad"] * 3, [Dead("charge", count=2), Dead(count=None)]),
        (["bad", "worse"], [Dead("charge"), Dead(body="bad")]),
        (["worse", "bad"], [Dead("charge"), Dead(body="bad")]),
        (["bad", "worse", "bad"], [Dead(), Dead(body="bad", count=None), Dead(body="bad")]),
    ],
)
def test_each_expected_dead_letter_is_another_one(left: list[str], expected: list[Dead]):
    """One that fits several entries counts for the one that makes them all come true."""
    check_letters([letter(body) for body in left], expected)


@pytest.mark.parametrize(
    "left, expected, unexpected, missing, text",
    [
        (["bad"], [Dead("charge")] * 3, [], [Dead("charge")] * 2, r"in 'charge': any reason \(2 more\)$"),
        (["bad"], [Dead("charge", count=2)], [], [Dead("charge", count=2)], "in 'charge': any reason$"),
        ([], [Dead("charge", count=None)], [], [Dead("charge", count=None)], "in 'charge': any reason$"),
        (["bad"] * 2, [Dead("charge")], ["bad"], [], r"expected were left \(1\)"),
        (["bad"] * 2, [Dead(body="bad"), Dead(body="worse")], ["bad"], [Dead(body="worse")], "expected were left"),
        (["worse", "bad"], [Dead(body="bad", count=None)], ["worse"], [], "expected were left"),
    ],
)
def test_dead_letters_are_counted(left: list[str], expected: list[Dead], unexpected: list[str], missing: list[Dead], text: str):
    """An entry stands for one letter, or for `count`: what is left over and what is missing is named."""
    with pytest.raises(DeadLettersError, match=text) as caught:
        check_letters([letter(body) for body in left], expected)
    assert ([letter.body for letter in caught.value.unexpected], caught.value.missing) == (unexpected, missing)


@pytest.mark.parametrize("count", [0, -1, 1.5, True, "2"])
def test_a_count_that_is_none(count: Any):
    """It is refused where it is written."""
    with pytest.raises(ValueError, match="count must be a whole number of at least 1, or None, not "):
        Dead(count=count)


async def test_any_dead_letters_may_be_left(running_mesh: RunningMesh):
    """dead_letters="any" does not look."""
    mesh, _ = shop()
    async with running_mesh(mesh, dead_letters="any"):
        await tell(mesh, "bad")


async def test_a_letter_that_the_test_dealt_with_is_not_left(running_mesh: RunningMesh):
    """What was replayed with success, or purged, is no dead letter any more; what died again is."""
    mesh, _ = shop()
    async with running_mesh(mesh):
        await tell(mesh, "bad")
        await mesh.idle()
        assert mesh.dead_letters.purge() == 1

    async def replay() -> None:
        async with running_mesh(mesh):
            await tell(mesh, "bad")
            await mesh.idle()
            await mesh.dead_letters.replay()

    with pytest.raises(DeadLettersError):
        await replay()


async def test_a_failing_test_is_told_of_the_dead_letters(running_mesh: RunningMesh):
    """Its own error stays, with a note that lists them: they are often the reason."""
    mesh, _ = shop()

    async def fail() -> None:
        async with running_mesh(mesh):
            await tell(mesh, "bad")
            await mesh.idle()
            raise AssertionError("mine")

    with pytest.raises(AssertionError, match=r"^mine") as caught:
        await fail()
    assert any("'bad' in 'charge': rejected" in note for note in caught.value.__notes__)


# What is left


async def test_the_next_test_finds_nothing(running_mesh: RunningMesh):
    """Ready messages, deferred ones and dead letters are thrown away when the block is left."""
    mesh, seen = shop()
    inbox = mesh.mailbox("inbox")
    async with running_mesh(mesh, dead_letters="any") as time:
        await mesh.exchange("").publish("x", "inbox")
        await tell(mesh, "later", delay=DAY)
        await tell(mesh, "bad")
    async with running_mesh(mesh) as time:
        await time.advance(2 * DAY)
        assert (seen, len(mesh.dead_letters), inbox.statistics().ready, mesh.statistics().deferred) == ([], 0, 0, 0)


async def test_leftovers_can_be_kept(running_mesh: RunningMesh):
    """leftovers="keep" leaves them for the next run; dead letters from before are not this run's."""
    mesh, seen = shop()
    async with running_mesh(mesh, dead_letters="any", leftovers="keep"):
        await tell(mesh, "later", delay=DAY)
        await tell(mesh, "bad")
    async with running_mesh(mesh) as time:
        await time.advance(DAY)
        assert (seen, len(mesh.dead_letters)) == (["later"], 1)


async def test_what_was_configured_is_taken_back(running_mesh: RunningMesh):
    """Middleware, observers, grace and provided things hold for one run; the mesh's own observers are told as well."""
    own, guest = History(), History()

    class Pool:
        def __init__(self, size: int) -> None:
            self.size = size

    @asynccontextmanager
    async def open_pool() -> AsyncGenerator[Pool]:
        yield Pool(1)

    mesh = Mesh("m", observers=[own], grace=3.0)
    mesh.provide(Pool, open_pool)

    @mesh.actor
    async def size(_: None, pool: Pool) -> int:
        return pool.size

    async with running_mesh(mesh, observers=[guest], grace=1.0, provide={Pool: Pool(2)}):
        assert await size.ask() == 2
    async with running_mesh(mesh):
        assert await size.ask() == 1
    assert (len(own.handled("size")), len(guest.handled("size"))) == (2, 1)


async def test_a_running_mesh_is_not_disturbed(running_mesh: RunningMesh):
    """A second run of a mesh that runs is refused, and changes nothing of the first."""
    mesh, seen = shop()
    async with running_mesh(mesh) as time:
        await tell(mesh, "ada", delay=5.0)
        with pytest.raises(PreconditionFailed):
            async with running_mesh(mesh):
                pass
        await time.advance(5.0)
        assert seen == ["ada"]


async def test_a_history_is_checked(running_mesh: RunningMesh):
    """With a history, a clean run has no findings, lanes, priorities, retries and leftovers included."""
    mesh, history = Mesh("m"), History()
    inbox = mesh.mailbox("inbox")

    @mesh.actor(by=lambda number: number % 2, concurrency=2, retry=Retry(2, initial=1.0))
    async def lanes(number: int, ctx: Context) -> None:
        await anyio.sleep(1.0)
        if number == 3 and ctx.attempt == 1:
            raise OSError
        ctx.publish(mesh.exchange(""), number, key="inbox")

    async with running_mesh(mesh, history=history):
        for number in (1, 2, 3, 4, 5, 6):
            history.sent(await lanes.tell(number))
        await mesh.idle()
        assert sorted(history.handled("lanes")) == [1, 2, 3, 4, 5, 6]
    assert inbox.statistics().purged == 6
    assert {record.mailbox for record in history.records} == {"lanes", "inbox"}


async def test_values_of_batches_bursts_and_gates_are_lanes_of_the_history(running_mesh: RunningMesh):
    """What an actor keeps apart by a value may overtake other values; the history does not take that for a fault."""
    mesh, handled = Mesh("shop"), list[int]()

    @mesh.actor(batch=Batch(2, 5.0, by=lambda number: number % 2))
    async def write(numbers: list[int]) -> None:
        handled.extend(numbers)

    @mesh.actor(debounce=Debounce(8.0, 23.0, by=lambda number: number % 2))
    async def index(number: int) -> None:
        handled.append(number)

    @mesh.actor(gates=[Rate(1, per=10.0, by=lambda number: number % 2)])
    async def send(number: int) -> None:
        handled.append(number)

    async with running_mesh(mesh, history=History()) as time:
        for number in (1, 2, 4):
            await write.tell(number)
        await time.idle()
        assert handled == [2, 4, 1]
        handled.clear()
        for number in (1, 3, 5, 7, 9, 2, 11):  # the odd ones keep coming, until `max_wait` is over
            await time.advance(3.8)
            await index.tell(number)
        await time.idle()
        assert handled == [11, 2]
        handled.clear()
        for number in (1, 3, 2):
            await send.tell(number)
        await time.idle()
        assert handled == [1, 2, 3]


def test_it_is_a_context_manager():
    """Nothing happens before it is entered."""
    assert isinstance(running(Mesh("m")), AbstractAsyncContextManager)


async def test_a_cron_fires_in_each_test_of_a_shared_mesh(running_mesh: RunningMesh):
    """Each run begins anew, its schedules too: what fired in one test fires in the next, at the same virtual times."""
    mesh, fires = Mesh("shared"), list[int]()

    @mesh.cron("0 9 * * *")
    async def report() -> None:
        fires.append(1)

    for _ in range(2):
        fires.clear()
        async with running_mesh(mesh, wall=EPOCH) as time:
            await time.advance(3 * 86_400)
        assert len(fires) == 3
