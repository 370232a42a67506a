"""What the mesh promises holds in every order: important scripts, each under 200 orders on each backend, with a history."""

import contextlib

import anyio
import pytest
from msgspec import Struct

from flowmesh import Context, MailboxOptions, Mesh, Part, Retry
from flowmesh.errors import MeshStopped, NoReply
from flowmesh.testing import EPOCH, Dead, History
from flowmesh.testing.plugin import RunningMesh

pytestmark = pytest.mark.mesh_orders(200)


class Job(Struct, frozen=True):
    number: int
    fails: int = 0


async def test_a_work_queue_with_retries(running_mesh: RunningMesh, mesh_history: History):
    """Every job is done once, or dies once; retries, several workers, a full mailbox and outputs do not change that."""
    mesh = Mesh("work")
    done = mesh.mailbox("done")

    @mesh.actor(concurrency=3, mailbox=MailboxOptions(capacity=4), retry=Retry(3, initial=0.1, factor=2.0))
    async def work(job: Job, ctx: Context) -> None:
        await anyio.sleep(0.01 * (job.number % 3))
        if ctx.attempt <= job.fails:
            raise OSError("not yet")
        ctx.publish(mesh.exchange(""), job, key="done")

    jobs = [Job(number, fails=number % 4) for number in range(12)]
    async with running_mesh(mesh, dead_letters=[Dead("work", "failed", lambda job: job.fails == 3, count=3)]):
        async with anyio.create_task_group() as group:
            for job in jobs:
                group.start_soon(work.tell, job)
        await mesh.idle()
        numbers = work.mailbox.statistics()
        assert (numbers.entered, numbers.acked, numbers.dead, numbers.ready) == (12, 9, 3, 0)
        published = {message.body.number for message in done.peek(100)}
        assert published == {job.number for job in jobs if job.fails < 3}
    assert len(mesh_history.handled("work")) == 9


async def test_lanes_keep_their_order(running_mesh: RunningMesh, mesh_history: History):
    """With `by`, the jobs of one lane are begun and ended one after another, as they came, retries included."""
    mesh, begun, in_hand = Mesh("lanes"), dict[int, list[int]](), set[int]()

    @mesh.actor(by=lambda job: job.number % 3, concurrency=4, retry=Retry(2, initial=0.5))
    async def work(job: Job, ctx: Context) -> None:
        lane = job.number % 3
        assert lane not in in_hand
        in_hand.add(lane)
        try:
            await anyio.sleep(0.01 * (job.number % 2))
            if ctx.attempt <= job.fails:
                raise OSError("not yet")
            begun.setdefault(lane, []).append(job.number)
        finally:
            in_hand.discard(lane)

    async with running_mesh(mesh):
        for number in range(12):
            await work.tell(Job(number, fails=int(number % 5 == 0)))
    assert begun == {lane: list(range(lane, 12, 3)) for lane in range(3)}


async def test_asks_that_are_cancelled(running_mesh: RunningMesh, mesh_history: History):
    """Whoever asks gets its own answer, its own time limit or its cancellation; no copy stays, whenever the asker leaves."""
    mesh, outcomes = Mesh("asks"), dict[int, str]()

    @mesh.actor(concurrency=2, mailbox=MailboxOptions(capacity=2))
    async def answer(number: int) -> int:
        await anyio.sleep(0.02)
        if number % 5 == 4:
            raise OSError(str(number))
        return number

    async def ask(number: int) -> None:
        outcomes[number] = "cancelled"
        try:
            with anyio.move_on_after(0.03 if number % 3 == 0 else 10.0):
                assert await answer.ask(number, timeout=0.05 if number % 3 == 1 else None) == number
                outcomes[number] = "answered"
        except TimeoutError:
            outcomes[number] = "timed out"
        except OSError as error:
            outcomes[number] = f"failed: {error}"

    async with running_mesh(mesh):
        async with anyio.create_task_group() as group:
            for number in range(12):
                group.start_soon(ask, number)
        await mesh.idle()
        numbers = answer.mailbox.statistics()
        assert numbers.acked + numbers.withdrawn == numbers.entered
        assert (numbers.ready, numbers.leased, mesh.statistics().workers_parked) == (0, 0, mesh.statistics().workers)
    assert len(outcomes) == 12
    assert all(outcomes[number] in ("answered", f"failed: {number}") for number in range(12) if number % 3 == 2)


@pytest.mark.parametrize("grace", [0.0, 0.05, 30.0])
async def test_a_drain(running_mesh: RunningMesh, mesh_history: History, grace: float):
    """Every copy is done or lies in its mailbox again when the mesh has stopped; what was sent in time is in one of the two."""
    mesh, taken, refused = Mesh("drain"), list[int](), list[int]()

    @mesh.actor(concurrency=2, mailbox=MailboxOptions(capacity=3), retry=Retry(2, initial=0.02))
    async def first(number: int, ctx: Context) -> None:
        await anyio.sleep(0.02)
        if ctx.attempt == 1 and number % 2:
            raise OSError("not yet")
        ctx.tell(second, number)

    @mesh.actor
    async def second(number: int) -> None:
        await anyio.sleep(0.01)

    async def send(number: int) -> None:
        try:
            await first.tell(number)
            taken.append(number)
        except MeshStopped:
            refused.append(number)

    async def ask() -> None:
        with contextlib.suppress(MeshStopped, NoReply, OSError):  # Or it is answered in time.
            await first.ask(100, timeout=None)

    async with anyio.create_task_group() as group, running_mesh(mesh, grace=grace, leftovers="keep"):
        group.start_soon(ask)
        for number in range(8):
            group.start_soon(send, number)
        await anyio.sleep(0.03)
    assert sorted(taken + refused) == list(range(8))
    one, two = first.mailbox.statistics(), second.mailbox.statistics()
    assert one.entered == one.acked + one.ready + one.withdrawn
    assert two.entered == two.acked + two.ready
    assert mesh.report is not None
    assert sum(mesh.report.unhandled.values()) == one.ready + two.ready
    if grace == 30.0:
        assert sorted(mesh_history.handled("second")) == sorted(mesh_history.handled("first"))
        assert one.ready == two.ready == 0


async def test_parts_and_a_schedule(running_mesh: RunningMesh, mesh_history: History):
    """Parts that send to each other, pause and resume, and are fired by a schedule, lose and repeat nothing."""
    mesh, desk, billing = Mesh("shop"), Part("desk"), Part("billing")
    orders = desk.exchange("orders", "topic")
    charged, audited = list[int](), list[int]()

    @billing.actor(bind=orders.on("order.#"), concurrency=2)
    async def charge(number: int) -> int:
        await anyio.sleep(0.01)
        charged.append(number)
        return number

    @billing.actor(bind=orders.on("order.eu"))
    async def audit(number: int) -> None:
        audited.append(number)

    @desk.actor
    async def take(number: int, ctx: Context) -> None:
        ctx.publish(orders, number, key="order.eu" if number % 2 else "order.us")

    @desk.every(1.0)
    async def tick(_: None, ctx: Context) -> None:
        ctx.tell(take, 100)

    mesh.add(billing)
    mesh.add(desk)
    async with running_mesh(mesh, wall=EPOCH) as time:
        for number in range(6):
            await take.tell(number)
            if number == 2:
                audit.pause()
        await time.advance(3.5)
        audit.resume()
        await mesh.idle()
    assert sorted(charged) == [0, 1, 2, 3, 4, 5, 100, 100, 100]
    assert audited == [1, 3, 5]


async def test_a_mesh_that_is_stopped_and_entered_again(running_mesh: RunningMesh, mesh_history: History):
    """What a stop hands back is handled in the next run, once, and in order."""
    mesh, done = Mesh("again"), list[int]()

    @mesh.actor
    async def work(number: int) -> None:
        await anyio.sleep(0.1)
        done.append(number)

    async with running_mesh(mesh, grace=0.25, leftovers="keep"):
        for number in range(6):
            await work.tell(number)
    assert done == list(range(len(done)))
    async with running_mesh(mesh):
        await mesh.idle()
    assert done == list(range(6))
