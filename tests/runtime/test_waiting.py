"""Deadlocks: the call that would close a ring of waits raises, naming the ring; unless there is a way out of it anywhere."""

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.from_thread
import pytest
import sniffio
from msgspec import Struct

from flowmesh import Autoscale, Context, DeadlockError, MailboxOptions, Mesh, Rate, on
from flowmesh._runtime.actor import Actor
from flowmesh.testing import settled

pytestmark = pytest.mark.anyio

Handler = Callable[[int], Awaitable[Any]]


class Question(Struct, frozen=True):
    number: int


def forgotten(mesh: Mesh) -> bool:
    """Nothing is left of any wait."""
    waits: Any = mesh._engine.waits
    return not (list(waits) or waits._turns or waits._of_cell or waits._keepings or waits.suspects)


def full(name: str) -> MailboxOptions:
    """A mailbox of one."""
    del name
    return MailboxOptions(capacity=1)


# Asks


async def test_two_that_ask_each_other():
    """The second ask would close the ring: it raises at once, names it, and is not sent; both go on handling."""
    mesh = Mesh("shop")
    caught: list[DeadlockError] = []

    @mesh.actor
    async def a(number: int) -> int:
        return number if not number else await b.ask(number)

    @mesh.actor
    async def b(number: int) -> int:
        try:
            return await a.ask(number)
        except DeadlockError as error:
            caught.append(error)
            return -1

    async with mesh:
        began = anyio.current_time()
        assert await a.ask(1) == -1
        assert anyio.current_time() - began < 1, "not after the time limit"
        assert str(caught[0]).startswith("actor 'b' would wait for itself (b -> a -> b): tell instead of ask, or give one of")
        assert caught[0].ring == ("b", "a", "b")
        assert mesh.statistics().mailboxes["a"].entered == 1
        assert await a.ask(0) == 0
        assert forgotten(mesh)


async def test_uncaught_it_fails_the_turn_and_reaches_the_asker():
    """As any exception of a handler does."""
    mesh = Mesh("shop")

    @mesh.actor
    async def a(number: int) -> int:
        return await a.ask(number)

    async with mesh:
        with pytest.raises(DeadlockError, match=r"\(a -> a\)"):
            await a.ask(1)
        assert forgotten(mesh)


async def test_a_long_way_round():
    """However many take part, each of them is named, in order."""
    mesh = Mesh("shop")
    actors: list[Actor[int, int]] = []

    def asking(number: int) -> Handler:
        async def handle(body: int) -> int:
            return await actors[(number + 1) % 50].ask(body)

        return handle

    actors += [mesh.actor(asking(number), name=f"actor{number}") for number in range(50)]
    async with mesh:
        with pytest.raises(DeadlockError) as caught:
            await actors[0].ask(1)
    assert caught.value.ring == tuple(f"actor{number % 50}" for number in range(49, 100))


async def test_class_actors():
    """They have one slot each: two that ask each other close a ring as well."""
    mesh = Mesh("shop")

    class A:
        @on
        async def question(self, question: Question) -> int:
            return await mesh_b.ask(question)

    class B:
        @on
        async def question(self, question: Question) -> int:
            return await mesh_a.ask(question)

    mesh_a: Any = mesh.actor(A, name="a")
    mesh_b: Any = mesh.actor(B, name="b")
    async with mesh:
        with pytest.raises(DeadlockError, match=r"\(b -> a -> b\)"):
            await mesh_a.ask(Question(1))


async def test_a_free_slot_breaks_the_ring():
    """A second slot takes the nested question; when all slots wait, the question is one too many."""
    mesh = Mesh("shop")

    @mesh.actor(concurrency=3)
    async def pool(depth: int) -> int:
        return 0 if not depth else 1 + await pool.ask(depth - 1)

    async with mesh:
        assert await pool.ask(2) == 2
        with pytest.raises(DeadlockError, match=r"\(pool -> pool\)"):
            await pool.ask(3)
        assert await pool.ask(2) == 2


async def test_a_slot_that_works_breaks_the_ring():
    """All slots are taken, but one of their turns will end: the question waits for it, and is answered."""
    mesh = Mesh("shop")

    @mesh.actor(concurrency=2)
    async def pool(what: str) -> str:
        if what == "work":
            await anyio.sleep(5)
        return what if what != "ask" else await pool.ask("answer")

    async with mesh:
        await pool.tell("work")
        assert await pool.ask("ask") == "answer"
        assert forgotten(mesh)


async def test_another_actor_on_the_same_mailbox_breaks_the_ring():
    """Whoever of the competing consumers is free takes the question; it is a ring when both wait."""
    mesh = Mesh("shop")
    box = mesh.mailbox("shared")

    async def answer(depth: int) -> int:
        return 0 if not depth else 1 + await one.ask(depth - 1)

    one: Actor[int, int] = mesh.actor(answer, name="one", mailbox=box)
    mesh.actor(answer, name="two", mailbox=box)
    async with mesh:
        assert await one.ask(1) == 1
        with pytest.raises(DeadlockError) as caught:
            await one.ask(2)
        assert set(caught.value.ring) <= {"one", "two"}


async def test_a_standby_is_no_free_slot():
    """With `single_active` only the active actor of a mailbox takes anything: the other one's slot breaks no ring."""
    mesh = Mesh("shop")
    box = mesh.mailbox("shared", MailboxOptions(single_active=True))

    async def answer(depth: int) -> int:
        return 0 if not depth else 1 + await one.ask(depth - 1)

    one: Actor[int, int] = mesh.actor(answer, name="one", mailbox=box)
    mesh.actor(answer, name="two", mailbox=box)
    async with mesh:
        with pytest.raises(DeadlockError, match=r"\(one -> one\)"):
            await one.ask(1)


async def test_slots_that_may_still_come_break_the_ring():
    """Autoscale adds one when a message has waited: only at its most slots is a question one too many."""
    mesh = Mesh("shop")

    @mesh.actor(concurrency=Autoscale(1, 3, target=0.5))
    async def pool(depth: int) -> int:
        return 0 if not depth else 1 + await pool.ask(depth - 1)

    async with mesh:
        assert await pool.ask(2) == 2
        with pytest.raises(DeadlockError, match=r"\(pool -> pool\)"):
            await pool.ask(3)


async def test_a_question_that_a_gate_holds_is_let_wait():
    """The gate opens with time, so whoever waits for whom there, it goes on."""
    mesh = Mesh("shop")

    @mesh.actor(gates=[Rate(1, per=10.0)], concurrency=2)
    async def a(number: int) -> int:
        return number if not number else await b.ask(number)

    @mesh.actor
    async def b(number: int) -> int:
        return await a.ask(0)

    async with mesh:
        began = anyio.current_time()
        assert await a.ask(1) == 0
        assert anyio.current_time() - began == pytest.approx(10, abs=0.1)


async def test_a_wait_that_appears_later():
    """When a asks b nothing is wrong: b is at another message. What that asks of a later closes the ring, and raises."""
    mesh = Mesh("shop")
    caught: list[tuple[str, ...]] = []

    @mesh.actor
    async def a(number: int) -> int:
        return await b.ask(number)

    @mesh.actor
    async def b(number: int) -> int:
        if number == 1:
            await anyio.sleep(5)
            try:
                await a.ask(3)
            except DeadlockError as error:
                caught.append(error.ring)
        return number

    async with mesh:
        await b.tell(1)
        await settled()
        assert await a.ask(2) == 2
        assert caught == [("b", "a", "b")]


async def test_an_ask_that_stands_in_line_for_room():
    """It is told apart: the one before has a full mailbox."""
    mesh = Mesh("shop")

    @mesh.actor(mailbox=full("a"))
    async def a(number: int) -> int:
        await b.tell(0)
        await b.tell(0)
        return await b.ask(number)

    @mesh.actor(mailbox=full("b"), concurrency=1)
    async def b(number: int) -> int:
        if number == 0:
            await anyio.sleep(1)
        return 0 if number == 0 else await a.ask(number)

    async with mesh:
        with pytest.raises(DeadlockError) as caught:
            await a.ask(1)
        assert "(b -> a -> b)" in str(caught.value)


async def test_asks_from_outside_are_never_in_a_ring():
    """A source, the body, a request of a web server: nobody waits for them."""
    mesh = Mesh("shop")

    @mesh.actor
    async def slow(number: int) -> int:
        await anyio.sleep(1)
        return number

    async with mesh, anyio.create_task_group() as group:
        for number in range(5):
            group.start_soon(slow.ask, number)
        await settled()
        assert not list(mesh._engine.waits)


async def test_a_paused_actor_may_be_resumed():
    """Nobody knows that it will not be: the question waits."""
    mesh = Mesh("shop")

    @mesh.actor
    async def a(number: int) -> int:
        return number if not number else await a.ask(0, timeout=5)

    async with mesh, anyio.create_task_group() as group:
        a.pause()
        group.start_soon(a.tell, 0)
        await settled()
        a.resume()
        with pytest.raises(DeadlockError):
            await a.ask(1)


@pytest.mark.parametrize("seed", range(8))
async def test_whoever_may_ask_whom_nobody_waits_for_the_time_limit(seed: int):
    """Handlers do nothing but ask at random: each ask is answered or raises, and one that leads only onwards never raises."""
    dice = random.Random(seed)
    is_acyclic = seed % 2 == 0
    mesh = Mesh("shop")
    actors: list[Actor[int, int]] = []
    errors: list[BaseException] = []

    def asking(number: int) -> Handler:
        async def handle(hops: int) -> int:
            await anyio.sleep(dice.choice((0, 0.1, 0.2)))
            lowest = number + 1 if is_acyclic else 0
            for _ in range(dice.choice((0, 1, 2)) if hops and lowest < 6 else 0):
                try:
                    await actors[dice.randrange(lowest, 6)].ask(hops - 1)
                except (DeadlockError, TimeoutError) as error:
                    errors.append(error)
            return hops

        return handle

    actors += [mesh.actor(asking(number), name=f"actor{number}", concurrency=dice.choice((1, 1, 2))) for number in range(6)]
    async with mesh, anyio.create_task_group() as group:
        for _ in range(40):
            group.start_soon(lambda: dice.choice(actors).ask(4, timeout=None))
    assert forgotten(mesh)
    assert [error for error in errors if isinstance(error, TimeoutError)] == []
    assert is_acyclic == (not errors)


# Lanes


async def test_a_question_to_the_own_lane():
    """The copy is set aside behind the turn that waits for it: its ask raises, and the copy is withdrawn."""
    mesh = Mesh("shop")

    @mesh.actor(concurrency=8, by=lambda body: body[0])
    async def keyed(body: tuple[str, int]) -> int:
        return body[1] if body[1] == 0 else await keyed.ask((body[0] if body[1] == 1 else "other", 0))

    async with mesh:
        with pytest.raises(DeadlockError, match=r"\(keyed -> keyed \(lane 'eu'\)\)"):
            await keyed.ask(("eu", 1))
        assert await keyed.ask(("eu", 2)) == 0, "another lane has a slot"
        numbers = mesh.statistics().mailboxes["keyed"]
        assert (numbers.ready, numbers.leased, numbers.withdrawn) == (0, 0, 1)
        assert forgotten(mesh)


async def test_a_ring_through_a_lane():
    """The slots of the actor are free, but the lane is held by a turn that waits."""
    mesh = Mesh("shop")

    @mesh.actor(concurrency=8, by=lambda body: body)
    async def keyed(body: int) -> int:
        return await plain.ask(body)

    @mesh.actor
    async def plain(number: int) -> int:
        return await keyed.ask(number)

    async with mesh:
        with pytest.raises(DeadlockError, match=r"\(plain -> keyed \(lane 1\) -> plain\)"):
            await keyed.ask(1)


@pytest.mark.parametrize("is_class", [False, True])
async def test_a_ring_of_lanes_of_one_actor(is_class: bool):
    """Turns of one actor are told apart by their lanes, also where the lane is not what is waited for."""
    mesh = Mesh("shop")

    class Keyed:
        @on
        async def take(self, body: int) -> int:
            return await keyed.ask(3 - body)

    async def take(body: int) -> int:
        return await keyed.ask(3 - body)

    keyed: Any = mesh.actor(Keyed if is_class else take, name="keyed", by=lambda body: body, concurrency=8)
    async with mesh:
        with pytest.raises(DeadlockError, match=r"\(keyed \(lane 2\) -> keyed \(lane 1\) -> keyed \(lane 2\)\)") as caught:
            await keyed.ask(1)
    assert caught.value.ring == ("keyed", "keyed", "keyed")


# Tasks that a handler starts


async def test_tasks_of_the_turn_count_as_the_turn():
    """A task in a group of the handler's, however deep, keeps the turn from ending: its ask closes the ring."""
    mesh = Mesh("shop")

    @mesh.actor
    async def a(number: int) -> int:
        async with anyio.create_task_group() as group:
            group.start_soon(deeper)
        return number

    async def deeper() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(b.ask, 1)

    @mesh.actor
    async def b(number: int) -> int:
        return await a.ask(number)

    async with mesh:
        with pytest.raises(ExceptionGroup) as caught:
            await a.ask(1)
        rings = caught.value.subgroup(lambda error: isinstance(error, DeadlockError) and error.ring == ("b", "a", "b"))
        assert rings is not None


async def test_the_tasks_call_may_be_the_one_that_closes_it():
    """It raises in that task."""
    mesh = Mesh("shop")

    @mesh.actor
    async def a(number: int) -> list[str]:
        caught: list[str] = []

        async def ask() -> None:
            try:
                await a.ask(number)
            except DeadlockError as error:
                caught.append(str(error.ring))

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            group.start_soon(ask)
        return caught

    async with mesh:
        assert await a.ask(1) == ["('a', 'a')"] * 2


async def test_tasks_that_nobody_waits_for_are_nobodys():
    """A task in a group from elsewhere outlives the turn that started it: its ask is answered when the turn has ended."""
    mesh = Mesh("shop")
    answers: list[int] = []

    @mesh.actor
    async def a(number: int) -> int:
        if number:
            group.start_soon(left_behind)
            await anyio.sleep(5)
        return number

    async def left_behind() -> None:
        answers.append(await b.ask(0))

    @mesh.actor
    async def b(number: int) -> int:
        return await a.ask(number)

    async with mesh, anyio.create_task_group() as group:
        assert await a.ask(1) == 1
        await mesh.idle()
        await settled()
        assert answers == [0]


async def test_a_task_of_asyncios_own_is_nobodys():
    """`asyncio.create_task` does not say who waits, so it is not taken for the turn's."""
    if sniffio.current_async_library() != "asyncio":
        return
    mesh = Mesh("shop")

    @mesh.actor
    async def a(number: int) -> int:
        task = asyncio.create_task(b.ask(0)) if number else None
        await anyio.sleep(5)
        return number if task is None else 0

    @mesh.actor
    async def b(number: int) -> int:
        return await a.ask(number)

    async with mesh:
        assert await a.ask(1) == 0
        await mesh.idle()


async def test_a_handler_in_a_thread():
    """What it calls in the loop is its turn's."""
    mesh = Mesh("shop")

    @mesh.actor
    def a(number: int) -> int:
        return anyio.from_thread.run(b.ask, number)

    @mesh.actor
    async def b(number: int) -> int:
        return await a.ask(number)

    async with mesh:
        with pytest.raises(DeadlockError, match=r"\(b -> a -> b\)"):
            await a.ask(1)


# Room


def telling(
    mesh: Mesh, count: int, *, twice: bool = True, around: Callable[[], Any] = anyio.CancelScope
) -> list[Actor[int, None]]:
    """A ring of actors with mailboxes of one, each of which tells the next after a second."""
    actors: list[Actor[int, None]] = []

    def handler(number: int) -> Handler:
        async def handle(body: int) -> None:
            await anyio.sleep(1 + number)
            for _ in range(1 + twice):
                with around():
                    await actors[(number + 1) % count].tell(body)

        return handle

    actors += [mesh.actor(handler(number), name=f"actor{number}", mailbox=full("")) for number in range(count)]
    return actors


async def test_fifty_with_full_mailboxes(caplog: pytest.LogCaptureFixture):
    """The last of fifty that send into full mailboxes raises, and the ring names them all."""
    mesh = Mesh("shop", grace=0)
    actors = telling(mesh, 50)
    async with mesh:
        for _ in range(2):
            for actor in actors:
                await actor.tell(1)
                await settled()
        await anyio.sleep(60)
        (line,) = (record for record in caplog.records if "actor 'actor49' failed" in record.getMessage())
        shown = " -> ".join(["actor49", *(f"actor{number} (mailbox full)" for number in range(50))])
        assert f"actor 'actor49' would wait for itself ({shown}): send with ctx.tell or ctx.publish" in line.getMessage()
        assert mesh.dead_letters.list()[0].body == 1
        assert forgotten(mesh) is False, "the others wait for room, in a row that moves now"


async def test_a_full_mailbox_of_ones_own():
    """Nobody else empties it."""
    mesh = Mesh("shop")
    caught: list[str] = []

    @mesh.actor(mailbox=full("a"))
    async def a(number: int) -> None:
        for _ in range(2 * number):
            try:
                await a.tell(0)
            except DeadlockError as error:
                caught.append(str(error))

    async with mesh:
        await a.tell(1)
        await mesh.idle()
        assert len(caught) == 1
        assert caught[0].startswith(
            "actor 'a' would wait for itself (a -> a (mailbox full)): send with ctx.tell or ctx.publish"
        )
        assert mesh.statistics().mailboxes["a"].entered == 2


async def test_a_mailbox_of_another_name_is_named():
    """So that one finds it."""
    mesh = Mesh("shop")
    box = mesh.mailbox("orders", MailboxOptions(capacity=1))
    events = mesh.exchange("events")
    events.bind(box, "order")

    @mesh.actor(mailbox=box)
    async def take(number: int) -> str:
        try:
            for _ in range(2 * number):
                await events.publish(0, "order")
        except DeadlockError as error:
            return str(error)
        return ""

    async with mesh:
        assert "(take -> take (mailbox 'orders' full))" in await take.ask(1, timeout=None)


async def test_a_ring_of_asks_and_waits_for_room():
    """What kind of wait closes the ring makes no difference; each part of it is named for what it is."""
    mesh = Mesh("shop", grace=0)
    caught: list[str] = []

    @mesh.actor(mailbox=full("a"))
    async def a(number: int) -> None:
        await anyio.sleep(1)
        try:
            await b.ask(number)
        except DeadlockError as error:
            caught.append(str(error))

    @mesh.actor
    async def b(number: int) -> None:
        for _ in range(3):
            await a.tell(number)

    async with mesh:
        await a.tell(0)
        await settled()
        await b.tell(0)
        await settled()
        await anyio.sleep(2)
        assert "(a -> b -> a (mailbox full))" in caught[0]


@pytest.mark.parametrize("limit", ["scope", "timeout", "asker"])
async def test_a_wait_for_room_with_a_time_limit_is_let_wait(limit: str):
    """It ends by itself: the scope around it, the actor's time limit or the leaving asker ends it, and nothing is raised."""
    mesh = Mesh("shop")
    ended: list[str] = []

    async def handle(number: int) -> None:
        began = anyio.current_time()
        try:
            with anyio.move_on_after(3 if limit == "scope" else None):
                for _ in range(2 * number):
                    await a.tell(0)
        except DeadlockError:
            ended.append("deadlock")
        finally:
            if number:
                ended.append(f"{anyio.current_time() - began:.0f}")

    a: Actor[int, None] = mesh.actor(handle, name="a", mailbox=full("a"), timeout=3 if limit == "timeout" else None)
    async with mesh:
        if limit == "asker":
            with pytest.raises(TimeoutError):
                await a.ask(1, timeout=3)
        else:
            await a.tell(1)
        await mesh.idle()
        assert ended == ["3"]


@pytest.mark.parametrize("what", ["ttl", "asker"])
async def test_a_full_mailbox_that_empties_itself_is_no_ring(what: str):
    """A copy that expires, or whose asker leaves in time, makes room."""
    mesh = Mesh("shop")
    done: list[float] = []

    @mesh.actor(mailbox=full("a"))
    async def a(number: int) -> None:
        if number:
            await anyio.sleep(1)
            await a.tell(0)
            done.append(anyio.current_time())

    async def ask() -> None:
        with pytest.raises(TimeoutError):
            await a.ask(0, timeout=5)

    async with mesh, anyio.create_task_group() as group:
        began = anyio.current_time()
        await a.tell(1)
        await settled()
        if what == "ttl":
            await a.tell(0, ttl=5)
        else:
            group.start_soon(ask)
        await anyio.sleep(10)
        assert done == [pytest.approx(began + 5, abs=0.1)]


async def test_a_hold_that_would_close_a_ring_with_an_ask_is_not_taken(caplog: pytest.LogCaptureFixture):
    """What a turn leaves behind may overfill the mailbox of one that waits for this very actor: it is not held then."""
    mesh = Mesh("shop")

    @mesh.actor(mailbox=full("a"))
    async def a(number: int) -> int:
        return 0 if not number else await b.ask(0)

    @mesh.actor
    async def b(number: int, ctx: Context) -> int:
        if number:
            await anyio.sleep(1)
            for _ in range(3):
                ctx.tell(a, 0)
        return number

    async with mesh:
        await b.tell(1)
        await settled()
        assert await a.ask(1) == 0
        await mesh.idle()
        assert any("actors wait for room in a ring (b -> a -> b)" in line for line in caplog.messages)


async def test_an_ask_of_a_held_actor_closes_the_ring():
    """It is held until there is room in the asker's own mailbox, so it would never answer."""
    mesh = Mesh("shop")

    @mesh.actor(mailbox=full("a"))
    async def a(number: int) -> str:
        if not number:
            return ""
        await anyio.sleep(5)
        try:
            return await b.ask(0)
        except DeadlockError as error:
            return str(error)

    @mesh.actor
    async def b(number: int, ctx: Context) -> str:
        for _ in range(3 * number):
            ctx.tell(a, 0)
        return "answered"

    async with mesh, anyio.create_task_group() as group:
        answers: list[str] = []

        async def ask() -> None:
            answers.append(await a.ask(1))

        group.start_soon(ask)
        await settled()
        await b.tell(1)
        await anyio.sleep(6)
        assert "(a -> b -> a (mailbox full))" in answers[0]


@pytest.mark.parametrize("seed", range(6))
async def test_whoever_may_tell_whom_nobody_waits_for_ever(seed: int):
    """Handlers with mailboxes of one tell at random: the mesh comes to rest: who would close a ring breaks it."""
    dice = random.Random(seed)
    mesh = Mesh("shop")
    actors: list[Actor[int, None]] = []
    rings: list[DeadlockError] = []

    def handler() -> Handler:
        async def handle(hops: int) -> None:
            await anyio.sleep(dice.choice((0, 0.1, 0.2)))
            for _ in range(dice.choice((1, 2)) if hops else 0):
                try:
                    await dice.choice(actors).tell(hops - 1)
                except DeadlockError as error:
                    rings.append(error)

        return handle

    actors += [
        mesh.actor(handler(), name=f"actor{number}", concurrency=dice.choice((1, 2)), mailbox=full("")) for number in range(5)
    ]
    async with mesh:
        for _ in range(30):
            await dice.choice(actors).tell(5)
        await mesh.idle()
        assert rings
        assert forgotten(mesh)


# Stopping


@pytest.mark.parametrize("first", ["stop", "ask"])
async def test_stopping_one_that_waits_for_the_stopper(first: str):
    """Whichever of the two waits comes second raises; a stop that raises has stopped nothing."""
    mesh = Mesh("shop")
    caught: list[str] = []

    @mesh.actor
    async def a(number: int) -> None:
        await anyio.sleep(1 if first == "stop" else 2)
        try:
            await b.stop()
        except DeadlockError as error:
            caught.append(str(error))

    @mesh.actor
    async def b(number: int) -> None:
        await anyio.sleep(2 if first == "stop" else 1)
        try:
            await a.ask(number)
        except DeadlockError as error:
            caught.append(str(error))

    async with mesh:
        await b.tell(1)
        await a.tell(1)
        await anyio.sleep(3.5)
        if first == "stop":
            assert "(b -> a -> b (stopping))" in caught[0]
        else:
            assert caught == ["actor 'a' would wait for itself to stop (a -> b (stopping) -> a): stop it from elsewhere"]
        assert ("b" in mesh.statistics().actors) == (first == "ask")


async def test_stopping_one_that_works_waits():
    """Its turn ends by itself."""
    mesh = Mesh("shop")

    @mesh.actor
    async def b(number: int) -> None:
        await anyio.sleep(3)

    @mesh.actor
    async def a(number: int) -> str:
        await b.stop()
        return "stopped"

    async with mesh:
        await b.tell(1)
        assert await a.ask(1) == "stopped"


async def test_idle_inside_a_turn_names_its_ring():
    """It would wait for itself."""
    mesh = Mesh("shop")

    @mesh.actor
    async def a(number: int) -> tuple[str, ...]:
        try:
            await mesh.idle()
        except DeadlockError as error:
            return error.ring
        return ()

    async with mesh:
        assert await a.ask(1) == ("a", "a")


# Starting


async def test_a_start_that_asks_its_own_actor():
    """Its instance is there when the start is over: the ask raises at once, and stops the mesh as any failing start."""
    mesh = Mesh("shop")

    class Totals:
        async def on_start(self) -> None:
            await totals.ask(Question(1))

        @on
        async def question(self, question: Question) -> int:
            return question.number

    totals: Any = mesh.actor(Totals, name="totals")
    began = anyio.current_time()
    with pytest.raises(DeadlockError, match=r"\(totals -> totals \(starting\)\)"):
        async with mesh:
            raise AssertionError("started")
    assert anyio.current_time() - began < 1
    assert forgotten(mesh)


@pytest.mark.parametrize("through", [False, True])
@pytest.mark.parametrize("has_hooks", [False, True])
async def test_a_start_that_asks_a_class_actor_declared_later(has_hooks: bool, through: bool):
    """The later one starts when this one has, so it would never answer; asked through another actor, that one's ask raises."""
    mesh = Mesh("shop")

    class First:
        async def on_start(self) -> None:
            await anyio.sleep(1)
            await (between if through else later).ask(Question(1))

        @on
        async def question(self, question: Question) -> int:
            return question.number

    class Later:
        if has_hooks:

            async def on_start(self) -> None: ...

        @on
        async def question(self, question: Question) -> int:
            return question.number

    mesh.actor(First, name="first")

    @mesh.actor
    async def between(question: Question) -> int:
        return await later.ask(question)

    later: Any = mesh.actor(Later, name="later")
    with pytest.raises(DeadlockError) as caught:
        async with mesh:
            raise AssertionError("started")
    if through:
        assert "(between -> later (not started yet) -> first -> between)" in str(caught.value)
    else:
        assert "(first -> later (not started yet) -> first)" in str(caught.value)


async def test_what_a_lifespan_leaves_running_may_ask_its_own_actor():
    """Only the start itself keeps the instance from being there; a task beside it does not."""
    mesh = Mesh("shop")
    answers: list[int] = []

    class Totals:
        @asynccontextmanager
        async def lifespan(self) -> AsyncGenerator[None]:
            async with anyio.create_task_group() as group:
                group.start_soon(self.beside)
                await anyio.sleep(1)
                yield

        async def beside(self) -> None:
            answers.append(await totals.ask(Question(7)))

        @on
        async def question(self, question: Question) -> int:
            return question.number

    totals: Any = mesh.actor(Totals, name="totals")
    async with mesh:
        await settled()
        assert answers == [7]


async def test_a_turn_that_asks_a_starting_actor_waits():
    """The start goes on by itself, and then the question is answered."""
    mesh = Mesh("shop")

    class Slow:
        async def on_start(self) -> None:
            await anyio.sleep(5)

        @on
        async def question(self, question: Question) -> int:
            return question.number

    @mesh.actor
    async def a(number: int) -> int:
        return await slow.ask(Question(number))

    async with mesh:
        slow: Any = mesh.actor(Slow, name="slow")
        assert await a.ask(3) == 3
