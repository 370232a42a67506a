"""`explore`: a race that the usual order hides is found, its seed is named, and the seed brings it back."""

import random
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from flowmesh import MailboxOptions, Mesh, Retry
from flowmesh._runtime.arranging import arrangement
from flowmesh.testing import BACKENDS, explore, run, running
from flowmesh.testing.virtual import Backend

ROOT = Path(__file__).parents[2]
Test = Callable[[], Awaitable[None]]
Trace = list[tuple[str, int]]


async def audit_before_booking() -> None:
    """A planted race: nothing says that `book` handles an order before `audit` does, but the usual order has it so."""
    mesh = Mesh("bank")
    orders = mesh.exchange("orders", "fanout")
    booked, missed = set[int](), list[int]()

    @mesh.actor(bind=orders.on())
    async def book(order: int) -> None:
        booked.add(order)

    @mesh.actor(bind=orders.on())
    async def audit(order: int) -> None:
        if order not in booked:
            missed.append(order)

    async with running(mesh):
        await orders.publish(1)
    assert missed == []


async def lost_update() -> None:
    """A planted race: two actors read a balance, let others run, and write it; which of them wins is chance."""
    mesh = Mesh("bank")
    account = {"balance": 0}

    async def add(amount: int) -> None:
        before = account["balance"]
        await mesh.exchange("").publish(amount, "log")
        account["balance"] = before + amount

    mesh.actor(add, name="first")
    mesh.actor(add, name="second")
    mesh.mailbox("log")
    async with running(mesh):
        await mesh.exchange("").publish(1, "first")
        await mesh.exchange("").publish(2, "second")
    assert account["balance"] == 3


async def reply_before_sibling() -> None:
    """A planted race: of two askers, the one who asked first is not always the first who goes on."""
    mesh, order = Mesh("m"), list[int]()

    @mesh.actor
    async def echo(number: int) -> int:
        return number

    async def ask(number: int) -> None:
        order.append(await echo.ask(number))

    async with running(mesh), anyio.create_task_group() as group:
        for number in (1, 2, 3):
            group.start_soon(ask, number)
            await anyio.lowlevel.checkpoint()
    assert order == [1, 2, 3]


async def no_race() -> None:
    """Correct: one mailbox keeps its order, whatever happens between."""
    mesh, seen = Mesh("m"), list[int]()

    @mesh.actor(mailbox=MailboxOptions(capacity=2))
    async def note(number: int) -> None:
        await anyio.lowlevel.checkpoint()
        seen.append(number)

    async with running(mesh):
        for number in range(10):
            await note.tell(number)
    assert seen == list(range(10))


def busy(trace: Trace) -> Test:
    """A test that leaves a trace of everything: asks, retries with jitter, limits, cancellation, a full mailbox."""

    async def test() -> None:
        mesh = Mesh("m")
        numbers = mesh.exchange("numbers", "fanout")

        @mesh.actor(bind=numbers.on(), concurrency=3, retry=Retry(3, initial=0.1))
        async def flaky(number: int) -> int:
            trace.append(("flaky", number))
            await anyio.sleep(0.01)
            if random.random() < 0.5:
                raise OSError
            return number

        @mesh.actor(bind=numbers.on(), mailbox=MailboxOptions(capacity=1), timeout=0.05)
        async def slow(number: int) -> None:
            try:
                await anyio.sleep(0.1 * number)
            finally:
                trace.append(("slow", number))

        async def ask(number: int) -> None:
            with anyio.move_on_after(0.02):
                await slow.ask(number)
            trace.append(("asked", number))

        async with running(mesh, grace=0.2, dead_letters="any"), anyio.create_task_group() as group:
            for number in range(4):
                group.start_soon(ask, number)
                await numbers.publish(number)

    return test


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("race", [audit_before_booking, lost_update, reply_before_sibling])
def test_a_planted_race_is_found(race: Test, backend: Backend):
    """200 orders show it, and the error says which did and how to see it again."""
    with pytest.raises(AssertionError) as caught:
        explore(race, seeds=200, backend=backend)
    note = caught.value.__notes__[-1]
    assert f"explore({race.__name__}, seed=" in note  # type: ignore[attr-defined]
    seed = int(note.partition("seed=")[2].partition(",")[0])
    assert f"after {seed} orders that passed" in note
    for _ in range(3):
        with pytest.raises(AssertionError):
            eval(note.splitlines()[-1], {"explore": explore, race.__name__: race})  # type: ignore[attr-defined]


def test_the_usual_order_hides_the_race():
    """Without `explore`, asyncio's order never shows it: the races above are found by the orders, not by luck."""
    for race in (audit_before_booking, reply_before_sibling):
        for _ in range(20):
            run(race, backend="asyncio")


def test_a_correct_test_passes_in_every_order():
    """On both backends, and the number of runs is returned."""
    assert explore(no_race, seeds=100) == 200


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_seed_is_always_the_same_order(backend: Backend):
    """Two runs of one seed leave the same trace; different seeds leave many."""
    traces = set[tuple[tuple[str, int], ...]]()
    for seed in range(40):
        first, second = Trace(), Trace()
        assert explore(busy(first), seed=seed, backend=backend) == 1
        explore(busy(second), seed=seed, backend=backend)
        assert first == second
        traces.add(tuple(first))
    assert len(traces) > 20


PROGRAM = """
from flowmesh.testing import explore
from tests.testing.test_exploring import busy
for seed in range(20):
    trace = []
    explore(busy(trace), seed=seed)
    print(trace)
"""


def test_a_seed_is_the_same_order_in_another_process():
    """Neither addresses nor hashes nor what ran before have a say: a failure on one machine is replayed on another."""
    outputs = [
        subprocess.run(
            [sys.executable, "-c", f"{padding}\n{PROGRAM}"],
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed, padding in (("1", ""), ("2", "kept = [object() for _ in range(12345)]"))
    ]
    assert outputs[0] == outputs[1]
    assert len(set(outputs[0].splitlines())) > 10


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_replay_has_the_same_message_ids(backend: Backend):
    """What an id begins with is drawn from the seed, another for each mesh; so a test that looks at ids is replayed as well."""

    async def ids() -> None:
        for _ in range(2):
            mesh = Mesh("m")
            box = mesh.mailbox("box")
            async with running(mesh):
                receipt = await mesh.exchange("").publish(1, "box")
                (message,) = box.peek()
                assert message.id == receipt.message_id
                seen.append(message.id)

    seen: list[str] = []
    for seed in (7, 7, 8):
        explore(ids, seed=seed, backend=backend)
    assert seen[:2] == seen[2:4]
    assert len(set(seen)) == 4


def test_nothing_stays_behind():
    """After a run, random numbers go on as before, nothing is arranged, and a mesh has its plain containers again."""
    mesh = Mesh("m")

    async def test() -> None:
        async with running(mesh):
            pass

    random.seed(1)
    expected = random.random()
    random.seed(1)
    explore(test, seeds=3)
    assert random.random() == expected
    assert arrangement.get() is None
    run(test)
    scheduler = mesh._engine.scheduler
    assert [type(scheduler.ready).__name__, type(scheduler.parked), type(scheduler.workers)] == ["deque", list, set]


def test_seeds_can_be_named():
    """`seeds` may be the seeds themselves, to look where nobody has; none at all is refused."""
    assert explore(no_race, seeds=range(1000, 1010), backend="trio") == 10
    with pytest.raises(ValueError, match="nothing would be tried"):
        explore(no_race, seeds=0)


def test_time_runs_as_told():
    """Options of `run` are passed on."""

    async def test() -> None:
        assert anyio.current_time() >= 50.0

    explore(test, seeds=2, start=50.0)
