"""Quiescence, exactly: `mesh.idle()` waits for each thing that is under way, and for nothing else."""

from collections.abc import Awaitable, Callable

import anyio
import pytest

from flowmesh import Mesh
from flowmesh._runtime.context import Context
from flowmesh.errors import DeadlockError, MeshStopped, NotRunning
from flowmesh.policies import MailboxOptions, Retry
from flowmesh.testing import cancel_sweep, settled

pytestmark = pytest.mark.anyio


class Watch:
    """Says whether somebody who awaits `idle` is through."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.is_over = False
        self.at = 0.0

    async def wait(self) -> None:
        await self.mesh.idle()
        self.is_over = True
        self.at = anyio.current_time()


async def _watched(mesh: Mesh, script: Callable[[Watch], Awaitable[None]]) -> Watch:
    """Enter the mesh, run the script beside somebody who waits for it to be idle."""
    watch = Watch(mesh)
    async with mesh, anyio.create_task_group() as group:
        group.start_soon(watch.wait)
        await script(watch)
        await settled()
        group.cancel_scope.cancel()
    return watch


async def test_a_mesh_with_nothing_to_do_is_idle_at_once():
    """Nothing under way: no waiting, but a checkpoint all the same."""
    mesh = Mesh("shop")
    async with mesh:
        await mesh.idle()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await mesh.idle()
        assert scope.cancelled_caught


async def test_a_turn_that_runs_is_waited_for():
    """While a handler runs the mesh is not idle; the moment it returns it is."""
    mesh = Mesh("shop")

    @mesh.actor
    async def work(seconds: float) -> None:
        await anyio.sleep(seconds)

    async with mesh:
        await work.tell(3.0)
        await mesh.idle()
        assert anyio.current_time() == 3.0


async def test_a_thread_that_runs_is_waited_for():
    """A plain `def` handler is a turn like any other."""
    mesh, seen = Mesh("shop"), list[int]()

    @mesh.actor
    def work(number: int) -> None:
        seen.append(number)

    async with mesh:
        for number in range(5):
            await work.tell(number)
        await mesh.idle()
        assert seen == [0, 1, 2, 3, 4]


async def test_everything_that_a_message_leads_to_is_waited_for():
    """Outputs of turns, of their turns, and so on, are under way: idle comes after the last."""
    mesh, seen = Mesh("shop"), list[int]()

    @mesh.actor
    async def countdown(number: int, ctx: Context) -> None:
        seen.append(number)
        await anyio.sleep(0.1)
        if number:
            ctx.tell(countdown, number - 1)

    async with mesh:
        await countdown.tell(10)
        await mesh.idle()
        assert seen == list(range(10, -1, -1))


async def test_a_delivery_that_is_leased_is_waited_for():
    """A delivery of `get` or `consume` is under way until it is settled; that it is then ready again is not."""
    mesh = Mesh("shop")
    box = mesh.mailbox("box")
    for settle in ("ack", "nack", "reject"):

        async def script(watch: Watch, settle: str = settle) -> None:
            await mesh.exchange("").publish(1, "box")
            delivery = await box.get()
            watch.is_over = False
            waiting = Watch(mesh)
            async with anyio.create_task_group() as group:
                group.start_soon(waiting.wait)
                await settled()
                assert not waiting.is_over
                await getattr(delivery, settle)()
            assert waiting.is_over

        await _watched(mesh, script)
        box.purge()


async def test_a_sender_that_waits_for_room_is_waited_for():
    """A parked sender is under way, whoever it is; when it has entered, or has gone, it is not."""
    mesh = Mesh("shop")
    box = mesh.mailbox("box", MailboxOptions(capacity=1))
    for ending in ("room", "cancelled", "deleted"):
        async with mesh:
            await mesh.exchange("").publish(1, "box")
            waiting = Watch(mesh)
            async with anyio.create_task_group() as group:
                scope = anyio.CancelScope()

                async def send(scope: anyio.CancelScope = scope) -> None:
                    with scope:
                        await mesh.exchange("").publish(2, "box")

                group.start_soon(send)
                await settled()
                group.start_soon(waiting.wait)
                await settled()
                assert not waiting.is_over
                if ending == "cancelled":
                    scope.cancel()
                elif ending == "deleted":
                    box.delete()
                else:
                    box.purge()
            assert waiting.is_over
            box.purge()


async def test_a_retry_that_waits_is_waited_for():
    """A copy put back until later is under way, although nothing happens until then."""
    mesh = Mesh("shop")

    @mesh.actor(retry=Retry(3, initial=10, factor=2, jitter="none"))
    async def work(number: int, ctx: Context) -> None:
        if ctx.attempt < 3:
            raise OSError("again")

    async with mesh:
        await work.tell(1)
        await mesh.idle()
        assert anyio.current_time() == pytest.approx(30, abs=0.01)
        assert work.mailbox.statistics().acked == 1


async def test_a_retry_that_is_withdrawn_is_not():
    """When its asker leaves, a retry that waits ends, and the mesh is idle."""
    mesh = Mesh("shop")

    @mesh.actor(retry=Retry(2, initial=1000, maximum=1000, jitter="none"))
    async def work(number: int) -> None:
        raise OSError("again")

    async def ask() -> None:
        with anyio.move_on_after(5):
            await work.ask(1, timeout=None)

    watch = Watch(mesh)
    async with mesh, anyio.create_task_group() as group:
        group.start_soon(ask)
        await settled()
        group.start_soon(watch.wait)
    assert watch.at == pytest.approx(5, abs=0.01)
    assert work.mailbox.statistics().withdrawn == 1


async def test_a_retry_whose_mailbox_is_deleted_is_not():
    """Deleting the mailbox ends the retry that waits in it, and the mesh is idle."""
    mesh = Mesh("shop")

    @mesh.actor(retry=Retry(2, initial=1000, maximum=1000, jitter="none"))
    async def work(number: int) -> None:
        raise OSError("again")

    async def script(watch: Watch) -> None:
        await work.tell(1)
        await settled()
        again = Watch(mesh)
        async with anyio.create_task_group() as group:
            group.start_soon(again.wait)
            await settled()
            assert not again.is_over
            work.mailbox.delete()
        assert again.is_over

    await _watched(mesh, script)
    assert work.mailbox.statistics().purged == 1


async def test_what_is_ready_for_a_running_actor_is_waited_for():
    """A copy that is ready in the mailbox of an actor that may run is under way, even if the actor has no slot for it."""
    mesh = Mesh("shop")

    @mesh.actor(concurrency=1)
    async def work(seconds: float) -> None:
        await anyio.sleep(seconds)

    async with mesh:
        for _ in range(3):
            await work.tell(1.0)
        await mesh.idle()
        assert anyio.current_time() == 3.0


async def test_what_a_paused_actor_has_does_not_count():
    """Copies of a paused actor wait for `resume`, not the mesh for them; after `resume` they count again."""
    mesh, seen = Mesh("shop"), list[int]()

    @mesh.actor
    async def work(number: int) -> None:
        await anyio.sleep(1)
        seen.append(number)

    async with mesh:
        await work.tell(1)
        await work.tell(2)
        await settled()
        work.pause()
        await mesh.idle()
        assert seen == [1]
        await mesh.idle()
        work.resume()
        await mesh.idle()
        assert seen == [1, 2]


async def test_pausing_an_actor_ends_the_wait():
    """Pausing the only actor with something ready makes the mesh idle, and whoever waits for that hears of it."""
    mesh = Mesh("shop", grace=0)
    full = mesh.mailbox("full", MailboxOptions(capacity=1))

    @mesh.actor
    async def work(number: int, ctx: Context) -> None:
        ctx.publish(mesh.exchange(""), number, key="full")

    async def script(watch: Watch) -> None:
        for number in range(3):
            await work.tell(number)
        await settled()
        assert full.statistics().over == 1  # so `work` is held, with a copy ready
        assert not watch.is_over
        work.pause()

    watch = await _watched(mesh, script)
    assert watch.is_over


@pytest.mark.parametrize("how", ["purge", "stop", "room"])
async def test_an_actor_that_is_held_is_not_idle(how: str):
    """An actor that waits for room has not done its work: idle waits until that is gone, stopped, or done."""
    mesh = Mesh("shop", grace=0)
    full = mesh.mailbox("full", MailboxOptions(capacity=1))

    @mesh.actor
    async def work(number: int, ctx: Context) -> None:
        ctx.publish(mesh.exchange(""), number, key="full")

    async def script(watch: Watch) -> None:
        for number in range(3):
            await work.tell(number)
        await settled()
        assert not watch.is_over
        if how == "purge":
            work.mailbox.purge()
        elif how == "stop":
            await work.stop()
        else:
            full.purge()
        await settled()
        assert watch.is_over

    await _watched(mesh, script)


async def test_deferred_messages_schedules_sources_and_unconsumed_mailboxes_do_not_count():
    """What may come one day, and what nobody takes, is not under way."""
    mesh = Mesh("shop")
    mesh.mailbox("archive")

    @mesh.actor
    async def work(number: int) -> None:
        raise AssertionError("it is not due")

    @mesh.every(1000)
    async def tick() -> None:
        raise AssertionError("it is not due")

    @mesh.source
    async def poll(ctx: object) -> None:
        await anyio.sleep_forever()

    async with mesh:
        await work.tell(1, delay=100)
        await mesh.exchange("").publish(1, "archive")
        await mesh.idle()
        assert anyio.current_time() < 1


async def test_a_mailbox_whose_last_actor_stopped_does_not_count():
    """When an actor has stopped, what is ready in its mailbox is unconsumed."""
    mesh = Mesh("shop")

    @mesh.actor
    async def work(number: int) -> None:
        await anyio.sleep(1)

    async with mesh:
        await work.tell(1)
        await work.tell(2)
        await settled()
        await work.stop()
        await mesh.idle()
        assert anyio.current_time() == 1.0
        assert work.mailbox.statistics().ready == 1


async def test_expiry_ends_the_wait():
    """A held actor's last copy expires: nothing is under way any more, and whoever waits hears of it."""
    mesh = Mesh("shop", grace=0)
    mesh.mailbox("full", MailboxOptions(capacity=1))

    @mesh.actor
    async def work(number: int, ctx: Context) -> None:
        ctx.publish(mesh.exchange(""), number, key="full")

    async with mesh:
        await work.tell(0)
        await work.tell(1)
        await work.tell(2, ttl=5)
        await mesh.idle()
        assert anyio.current_time() == pytest.approx(5, abs=0.01)
        assert work.mailbox.statistics().expired == 1


async def test_awaited_in_a_handler_it_raises_deadlock_error():
    """A handler that awaits it would wait for itself: the call raises, naming the actor and the way out."""
    mesh, texts = Mesh("shop"), list[str]()

    @mesh.actor
    async def work(number: int) -> None:
        with pytest.raises(DeadlockError) as caught:
            await mesh.idle()
        texts.append(str(caught.value))

    async with mesh:
        await work.tell(1)
        await mesh.idle()
    assert texts == ["actor 'work' would wait for its own turn to end: await mesh.idle() from a source or from outside"]


async def test_a_handler_may_wait_for_another_mesh():
    """Only the mesh whose turn it is would wait for itself."""
    mesh, other, seen = Mesh("shop"), Mesh("store"), list[int]()

    @other.actor
    async def there(number: int) -> None:
        await anyio.sleep(1)
        seen.append(number)

    @mesh.actor
    async def here(number: int) -> None:
        await there.tell(number)
        await other.idle()
        seen.append(number + 1)

    async with other, mesh:
        await here.tell(1)
        await mesh.idle()
    assert seen == [1, 2]


async def test_a_source_awaits_idle_and_stops_the_mesh():
    """The way a job ends by itself: its source has sent everything, awaits idle, and stops."""
    mesh, seen = Mesh("shop"), list[int]()

    @mesh.actor(concurrency=3)
    async def work(number: int) -> None:
        await anyio.sleep(1)
        seen.append(number)

    @mesh.source
    async def poll(ctx: object) -> None:
        for number in range(200):
            await work.tell(number)
        await mesh.idle()
        mesh.stop()

    assert await mesh.serve() == 0
    assert sorted(seen) == list(range(200))
    assert mesh.report is not None
    assert not mesh.report.unhandled


async def test_many_may_wait_and_each_may_leave():
    """Several wait at once; one that is cancelled leaves nothing behind."""
    mesh = Mesh("shop")

    @mesh.actor
    async def work(seconds: float) -> None:
        await anyio.sleep(seconds)

    watches = [Watch(mesh) for _ in range(3)]
    async with mesh:
        await work.tell(2.0)
        async with anyio.create_task_group() as group:
            for watch in watches[:2]:
                group.start_soon(watch.wait)
            with anyio.move_on_after(1):
                await watches[2].wait()
        assert [watch.at for watch in watches] == [2.0, 2.0, 0.0]
        assert not mesh._engine.quiescence._idlers
        assert not mesh._engine.ground.has_idlers


async def test_cancelling_the_wait_at_every_checkpoint_leaves_nothing():
    """Wherever whoever waits is cancelled, it is forgotten, and the mesh goes on."""
    mesh = Mesh("shop")

    @mesh.actor
    async def work(seconds: float) -> None:
        await anyio.sleep(seconds)

    async def wait() -> None:
        work.tell_nowait(1.0)
        await mesh.idle()

    def check(swept: object) -> None:
        assert not mesh._engine.quiescence._idlers
        assert not mesh._engine.ground.has_idlers

    async with mesh:
        assert await cancel_sweep(wait, check) >= 1
    assert work.mailbox.statistics().acked == work.mailbox.statistics().entered


async def test_before_the_start_and_after_the_stop():
    """A mesh that does not run cannot come to rest: NotRunning before, MeshStopped after."""
    mesh = Mesh("shop")
    with pytest.raises(NotRunning, match=r"mesh 'shop' has not been started"):
        await mesh.idle()
    async with mesh:
        pass
    with pytest.raises(MeshStopped, match=r"mesh 'shop' has stopped"):
        await mesh.idle()


async def test_whoever_waits_while_it_drains_is_told_how_it_ended():
    """A clean drain ends in idleness; one that hands work back ends the wait with MeshStopped."""
    for seconds, outcome in ((1.0, "idle"), (100.0, "stopped")):
        mesh, outcomes = Mesh("shop", grace=10), list[str]()

        @mesh.actor
        async def work(seconds: float) -> None:
            await anyio.sleep(seconds)

        async def wait(mesh: Mesh = mesh, outcomes: list[str] = outcomes) -> None:
            try:
                await mesh.idle()
                outcomes.append("idle")
            except MeshStopped:
                outcomes.append("stopped")

        async with anyio.create_task_group() as group, mesh:
            await work.tell(seconds)
            group.start_soon(wait)
            await settled()
        assert outcomes == [outcome]


async def test_it_is_read_in_constant_time():
    """With thousands of idle actors and mailboxes nothing is scanned: no mailbox is looked at."""
    mesh = Mesh("shop")
    looks: list[str] = []
    for number in range(100):
        mesh.actor(_work, name=f"actor-{number}")
    async with mesh:
        await settled()
        for cell in mesh._engine.residents.cells.values():
            cell.box = _Watched(cell.box, looks)  # pyright: ignore[reportAttributeAccessIssue]
        assert mesh._engine.quiescence.is_idle
        for cell in mesh._engine.residents.cells.values():
            cell.box = cell.box.box  # pyright: ignore[reportAttributeAccessIssue]
    assert looks == []


async def _work(number: int) -> None:
    pass


class _Watched:
    def __init__(self, box: object, looks: list[str]) -> None:
        self.box = box
        self._looks = looks

    def __getattr__(self, name: str) -> object:
        self._looks.append(name)
        return getattr(self.box, name)
