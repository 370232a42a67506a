"""`mesh.timers`: what waits for its time can be seen, cancelled and moved, whatever state the mesh is in."""

import datetime
from threading import get_ident
from typing import Any

import anyio
import anyio.to_thread
import pytest
from msgspec import Struct

from flowmesh import Context, MailboxOptions, Mesh, MeshError, NotFound, NotRunning, Retry, on
from flowmesh.testing import EPOCH, VirtualClock, advance, settled

pytestmark = pytest.mark.anyio


def _wall(seconds: float) -> datetime.datetime:
    """Return the wall-clock time that many seconds after virtual time began."""
    return datetime.datetime.fromtimestamp(EPOCH + seconds, datetime.UTC)


def _shop() -> tuple[Mesh, Any, list[tuple[float, object]]]:
    mesh, seen = Mesh("shop", clock=VirtualClock()), list[tuple[float, object]]()

    @mesh.actor(name="late")
    async def late(body: object) -> None:
        seen.append((round(anyio.current_time(), 1), body))

    return mesh, late, seen


async def test_what_waits_is_listed_in_the_order_in_which_it_is_due():
    """Delays and absolute times alike, with where they go; what is due goes from the list."""
    mesh, late, _ = _shop()
    events = mesh.exchange("events", "topic")
    async with mesh:
        third = await late.tell("third", delay=30)
        second = await events.publish("second", "a.b", at=_wall(20), message_id="m2")
        (first,) = await events.publish_many([("first", "a")], delay=10)
        assert [timer.id for timer in mesh.timers.list()] == [first.timer, second.timer, third.timer]
        assert [timer.id for timer in mesh.timers.list(limit=1)] == [first.timer]
        seen = [(timer.exchange, timer.key, timer.message.body) for timer in mesh.timers.list()]
        assert seen == [("events", "a", "first"), ("events", "a.b", "second"), ("", "late", "third")]
        assert [timer.due for timer in mesh.timers.list()] == [_wall(10), _wall(20), _wall(30)]
        assert mesh.timers.list()[1].message.id == second.message_id == "m2"
        await advance(15)
        assert [timer.id for timer in mesh.timers.list()] == [second.timer, third.timer]
        assert len(mesh.timers) == mesh.statistics().deferred == 2


async def test_only_deferred_messages_are_shown():
    """Retries, time limits, schedules and expiry are the mesh's own business: neither listed, nor found, nor cancelled."""
    mesh, late, _ = _shop()

    @mesh.actor(retry=Retry(2, initial=50, jitter="none"), timeout=60)
    async def failing(body: int) -> None:
        raise OSError

    mesh.every(7, late, body="beat")
    mesh.mailbox("expiring", MailboxOptions(ttl=100))
    async with mesh:
        await mesh.exchange("").publish("x", "expiring")
        await failing.tell(1)
        await advance(1)
        own = [timer.id for timer in mesh._engine.ground.ledger.timers]
        assert len(own) >= 3
        assert (mesh.timers.list(), len(mesh.timers)) == ([], 0)
        assert [mesh.timers.get(str(id)) for id in own] == [None] * len(own)
        assert [mesh.timers.cancel(str(id)) for id in own] == [False] * len(own)


async def test_a_cancelled_message_never_comes():
    """Cancel says whether it was in time."""
    mesh, late, seen = _shop()
    async with mesh:
        goes, stays = await late.tell("goes", delay=10), await late.tell("stays", delay=10)
        assert mesh.timers.cancel(goes.timer)
        assert (mesh.timers.cancel(goes.timer), mesh.timers.get(goes.timer)) == (False, None)
        await advance(11)
        assert mesh.timers.cancel(stays.timer) is False
    assert seen == [(10.0, "stays")]


async def test_a_moved_message_comes_at_its_new_time():
    """Earlier, later, and from one clock to the other; its id stays, and the driver wakes for the earlier time."""
    mesh, late, seen = _shop()
    async with mesh:
        ids = [(await late.tell(body, delay=100)).timer for body in ("earlier", "later", "wall")]
        await late.tell("fixed", delay=100)
        await advance(10)
        assert mesh.timers.move(ids[0], delay=5).due == _wall(15)
        assert mesh.timers.move(ids[1], delay=200).due == _wall(210)
        moved = mesh.timers.move(ids[2], at=_wall(50))
        assert (moved.id, moved.due, mesh.timers.get(ids[2])) == (ids[2], _wall(50), moved)
        await advance(300)
    assert seen == [(15.0, "earlier"), (50.0, "wall"), (100.0, "fixed"), (210.0, "later")]


async def test_a_message_moved_to_a_time_that_others_have_is_the_last_of_them():
    """As if it were set now."""
    mesh, late, seen = _shop()
    async with mesh:
        first = await late.tell("moved", delay=1)
        await late.tell("there", delay=9)
        mesh.timers.move(first.timer, delay=9)
        await advance(10)
    assert [body for _, body in seen] == ["there", "moved"]


@pytest.mark.parametrize(
    "when, text",
    [
        ({}, "needs delay= or at="),
        ({"delay": 1, "at": _wall(1)}, "both given"),
        ({"delay": -1}, "delay must be zero or more"),
        ({"delay": float("nan")}, "delay must be zero or more"),
        ({"at": datetime.datetime(2030, 1, 1)}, "at must be a datetime with a time zone"),  # noqa: DTZ001 - what is refused
    ],
)
async def test_a_move_to_no_time_is_refused(when: dict[str, Any], text: str):
    """One of delay and at, in its range; the timer stays as it was."""
    mesh, late, seen = _shop()
    async with mesh:
        receipt = await late.tell("x", delay=10)
        with pytest.raises(ValueError, match=text):
            mesh.timers.move(receipt.timer, **when)
        await advance(11)
    assert seen == [(10.0, "x")]


@pytest.mark.parametrize("id", ["", "999", "x", "-1", "²", 7, None])
async def test_an_id_that_is_none_finds_nothing(id: Any):
    """To get it gives None, to cancel it False, to move it NotFound."""
    mesh, late, _ = _shop()
    async with mesh:
        await late.tell("x", delay=10)
        assert (mesh.timers.get(id), mesh.timers.cancel(id)) == (None, False)
        with pytest.raises(NotFound, match="routed, or was cancelled"):
            mesh.timers.move(id, delay=1)


async def test_what_is_no_id_is_refused_with_the_id_that_was_meant():
    """A receipt that is taken for its timer's id would be found never, and nobody would be told."""
    mesh, late, seen = _shop()
    async with mesh:
        receipt = await late.tell("x", delay=10)
        (timer,) = mesh.timers.list()
        wrong: list[tuple[Any, str]] = [
            (receipt, r"takes the id of a timer, not .*: say receipt\.timer$"),
            (timer, r"takes the id of a timer, not .*: say timer\.id$"),
            (timer.message, r": say receipt\.timer, of its receipt$"),
            (b"1", "takes the id of a timer, not b'1'$"),
        ]
        for given, text in wrong:
            for use in (mesh.timers.get, mesh.timers.cancel, lambda id: mesh.timers.move(id, delay=1)):
                with pytest.raises(TypeError, match=text):
                    use(given)
        await advance(11)
    assert seen == [(10.0, "x")]


async def test_before_the_start_there_is_nothing_and_a_delay_has_no_clock():
    """Nothing can be deferred before; asking is allowed."""
    mesh, _, _ = _shop()
    assert (mesh.timers.list(), len(mesh.timers), mesh.timers.get("1"), mesh.timers.cancel("1")) == ([], 0, None, False)
    with pytest.raises(NotRunning, match="give at= instead"):
        mesh.timers.move("1", delay=1)


async def test_while_it_is_stopped_timers_are_seen_cancelled_and_moved():
    """By `at=`, for a delay would count from no clock; the ids are the same in the next run."""
    mesh, late, seen = _shop()
    async with mesh:
        ids = [(await late.tell(body, delay=delay)).timer for body, delay in (("a", 10), ("b", 20), ("c", 30))]
    await advance(5)
    assert [timer.due for timer in mesh.timers.list()] == [_wall(10), _wall(20), _wall(30)]
    assert mesh.timers.cancel(ids[0])
    with pytest.raises(NotRunning):
        mesh.timers.move(ids[1], delay=1)
    mesh.timers.move(ids[1], at=_wall(40))
    await advance(5)
    async with mesh:
        assert [(timer.id, timer.due) for timer in mesh.timers.list()] == [(ids[2], _wall(30)), (ids[1], _wall(40))]
        await advance(50)
    assert seen == [(30.0, "c"), (40.0, "b")]


async def test_while_it_drains_what_has_come_due_is_still_there():
    """It is not routed any more, keeps its id, and can be cancelled or put off; the next run goes on with it."""
    mesh, late, seen = _shop()
    ids: list[str | None] = []
    listed: list[list[str]] = []

    @mesh.actor
    async def slow(body: int, ctx: Context) -> None:
        await anyio.sleep(10)
        listed.append([timer.id for timer in mesh.timers.list()])
        assert mesh.timers.cancel(ids[0])
        mesh.timers.move(ids[1], delay=50)

    async with mesh:
        ids += [(await late.tell(body, delay=delay)).timer for body, delay in (("a", 1), ("b", 2), ("c", 3))]
        await slow.tell(1)
    assert (listed, seen) == ([ids], [])
    assert mesh.report is not None
    assert mesh.report.deferred == 2
    async with mesh:
        await advance(100)
    assert seen == [(10.0, "c"), (60.0, "b")]


async def test_a_foreign_thread_is_refused():
    """The wheel belongs to the mesh's thread; reading is its caller's risk, changing is not possible."""
    mesh, late, _ = _shop()
    async with mesh:
        receipt = await late.tell("x", delay=10)
        here = get_ident()

        def elsewhere() -> None:
            assert get_ident() != here
            for change in (mesh.timers.cancel, lambda id: mesh.timers.move(id, delay=1)):
                with pytest.raises(MeshError, match="another thread"):
                    change(receipt.timer)

        await anyio.to_thread.run_sync(elsewhere)
        assert len(mesh.timers) == 1


async def test_what_is_shown_does_not_change_afterwards():
    """The message of a Timer is stamped with the due time of then, although the one that enters is stamped when it does."""
    mesh = Mesh("shop", clock=VirtualClock())
    box = mesh.mailbox("box")
    async with mesh:
        await mesh.exchange("").publish("x", "box")
        await mesh.exchange("").publish("y", "box", delay=10)
        (timer,) = mesh.timers.list()
        mesh.timers.move(timer.id, delay=20)
        await advance(21)
        assert timer.message.timestamp == timer.due.timestamp() == pytest.approx(EPOCH + 10, abs=0.01)
        assert timer.message.id == box.peek()[1].id
        assert box.peek()[1].timestamp == pytest.approx(EPOCH + 20, abs=0.01)


# Timers that actors have set


class Start(Struct, frozen=True):
    key: str
    delay: float


class Tick(Struct, frozen=True):
    key: str


def _ticking(mesh: Mesh, ticks: list[tuple[float, str]], **options: Any) -> Any:
    class Ticking:
        @on
        async def start(self, message: Start, ctx: Context) -> None:
            ctx.timer("tick", message.delay, Tick(message.key))

        @on
        async def tick(self, message: Tick, ctx: Context) -> None:
            ticks.append((round(anyio.current_time(), 1), ctx.message.id))

    return mesh.actor(Ticking, **options)


async def test_timers_of_actors_are_listed():
    """With who has set them, their names, and the message that will come; what has fired is gone."""
    mesh, ticks = Mesh("shop", clock=VirtualClock()), list[tuple[float, str]]()
    ticking = _ticking(mesh, ticks)
    async with mesh:
        began = await ticking.tell(Start("a", 20.0))
        deferred = await ticking.tell(Start("b", 30.0), delay=40.0)
        await settled()
        (timer, other) = mesh.timers.list()
        assert (other.id, other.actor, other.name) == (deferred.timer, None, None)
        assert (timer.actor, timer.name, timer.due, timer.key) == ("Ticking", "tick", _wall(20), "Ticking")
        assert (timer.message.body, timer.message.cause, len(mesh.timers)) == (Tick("a"), began.message_id, 2)
        assert mesh.timers.get(timer.id) == timer
        await advance(20.0)
        assert ticks == [(20.0, timer.message.id)]
        assert mesh.timers.list() == [other]


async def test_timers_of_actors_are_cancelled_and_moved():
    """As a deferred message; a timer that is set again under the name of one that was moved replaces it."""
    mesh, ticks = Mesh("shop", clock=VirtualClock()), list[tuple[float, str]]()
    ticking = _ticking(mesh, ticks)
    async with mesh:
        await ticking.tell(Start("a", 20.0))
        await settled()
        (timer,) = mesh.timers.list()
        assert mesh.timers.cancel(timer.id)
        assert not mesh.timers.cancel(timer.id)
        await ticking.tell(Start("a", 20.0))
        await settled()
        (timer,) = mesh.timers.list()
        assert mesh.timers.move(timer.id, delay=50.0).id == timer.id
        await advance(30.0)
        assert ticks == []
        assert mesh.timers.move(timer.id, at=_wall(35.0)).due == _wall(35.0)
        await advance(10.0)
        assert ticks == [(35.0, timer.message.id)]
        for delay in (20.0, 30.0):
            await ticking.tell(Start("a", delay))
            await settled()
            mesh.timers.move(mesh.timers.list()[0].id, delay=5.0)
        assert len(mesh.timers) == 1
        await advance(5.0)
        assert len(ticks) == 2


async def test_a_timer_dies_with_its_instance_and_no_longer_keeps_it_when_it_is_cancelled():
    """It is not listed any more when its instance has gone; cancelled, it makes room for a value that waits."""
    mesh, ticks = Mesh("shop", clock=VirtualClock()), list[tuple[float, str]]()
    ticking = _ticking(mesh, ticks, by=lambda message: message.key, max_active=1)
    async with mesh:
        await ticking.tell(Start("a", 20.0))
        await ticking.tell(Start("b", 20.0))
        await settled()
        (timer,) = mesh.timers.list()
        assert timer.actor == "Ticking[a]"
        mesh.timers.cancel(timer.id)
        await settled()
        (timer,) = mesh.timers.list()
        assert timer.actor == "Ticking[b]"
        await ticking.stop()
        assert mesh.timers.list() == []
