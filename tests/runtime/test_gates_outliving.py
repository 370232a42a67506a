"""Gates with a store: what `Once` and `Rate` know outlives the process, to the second, and no longer than it matters."""

import uuid
from collections.abc import Callable, Sequence
from typing import Any

import anyio
import pytest

from flowmesh import Context, Mesh, NoReply, Once, Rate, Retry
from flowmesh._runtime.gate_memory import GATE
from flowmesh.policies import Gate
from flowmesh.stores import MemoryStore
from flowmesh.testing import VirtualClock, advance
from tests.runtime.outliving import Killed, killed

pytestmark = pytest.mark.anyio

HOUR = 3600.0
YEAR = 365 * 24 * HOUR
ENDS = pytest.mark.parametrize("ends", ["killed", "stopped"])


def kept(store: MemoryStore) -> list[tuple[str, str]]:
    """What a store keeps of gates."""
    return [which for which in store._rows._kept if which[0] == GATE]


class Process:
    """One process after another, with an actor behind gates: `handled`, (when, body), of all of them."""

    def __init__(self, *gates: Gate, **options: Any) -> None:
        self.store = MemoryStore()
        self.clock = VirtualClock()
        self.gates = gates
        self.options = options
        self.handled: list[tuple[float, Any]] = []
        self.takes = 0.0
        self.fails: Sequence[Any] = ()

    async def live(
        self, *bodies: Any, seconds: float = 0.0, ends: str = "killed", then: Callable[[Mesh, Any], Any] | None = None
    ) -> list[tuple[float, Any]]:
        """Handle these, live for so long, then be killed or stop; return what has been handled by this one."""
        mesh = Mesh("shop", clock=self.clock, store=self.store, grace=0)
        before = len(self.handled)

        @mesh.actor(gates=self.gates, **self.options)
        async def work(body: Any, ctx: Context) -> None:
            self.handled.append((round(anyio.current_time(), 3), body))
            if self.takes:
                await anyio.sleep(self.takes)
            if body in self.fails:
                raise OSError(body)

        try:
            async with mesh:
                for body in bodies:
                    await work.tell(body)  # pyright: ignore[reportFunctionMemberAccess] - options decide which declaration it is
                await advance(seconds)
                if then is not None:
                    await then(mesh, work)
                if ends == "killed":
                    self.store = killed(self.store)
                    raise Killed
        except Killed:
            pass
        return self.handled[before:]


@ENDS
async def test_a_value_that_was_handled_once_is_dropped_by_the_next_process(ends: str):
    """Within its time to live, counted from the handler's start; then it is as new."""
    process = Process(Once(by=lambda body: body, ttl=60.0))
    assert await process.live("a", "a", "b", seconds=10, ends=ends) == [(0, "a"), (0, "b")]
    assert await process.live("a", "c", seconds=10, ends=ends) == [(10, "c")]
    await advance(30)
    assert await process.live("a", seconds=9, ends=ends) == []
    assert await process.live("a", "c", seconds=2, ends=ends) == []
    assert await process.live("a", "c", ends=ends) == [(61, "a")]


@ENDS
async def test_a_handler_that_was_interrupted_has_claimed_nothing(ends: str):
    """Its own copy comes back and claims the value; the second one of the value is then dropped."""
    process = Process(Once(by=lambda body: body, ttl=60.0))
    process.takes = 5.0
    assert await process.live("a", "a", seconds=1, ends=ends) == [(0, "a")]
    process.takes = 0.0
    assert await process.live(seconds=1, ends=ends) == [(1, "a")]
    assert await process.live("a", ends=ends) == []


@ENDS
async def test_a_failure_leaves_the_value_free(ends: str):
    """Another message of it is handled, by this process or the next."""
    process = Process(Once(by=lambda body: body, ttl=60.0))
    process.fails = ["a"]
    assert await process.live("a", seconds=1, ends=ends) == [(0, "a")]
    process.fails = ()
    assert await process.live("a", "a", ends=ends) == [(1, "a")]


async def test_an_ask_claims_like_any_other():
    """Its answer comes when the claim is stored, though its message is not."""

    async def ask(_mesh: Mesh, work: Any) -> None:
        await work.ask("a", timeout=5)

    async def ask_in_vain(_mesh: Mesh, work: Any) -> None:
        with pytest.raises(NoReply):
            await work.ask("a", timeout=5)

    process = Process(Once(by=lambda body: body, ttl=60.0))
    await process.live(then=ask)
    await process.live(then=ask_in_vain)


@ENDS
async def test_a_rate_is_kept_across_processes(ends: str):
    """A burst that was used up is not given anew, and what is too early for the last start waits."""
    process = Process(Rate(1, per=10.0, burst=2, by=lambda body: body[0]))
    assert await process.live("a1", "a2", "b1", seconds=1, ends=ends) == [(0, "a1"), (0, "a2"), (0, "b1")]
    assert await process.live("a3", "b2", "c1", seconds=1, ends=ends) == [(1, "b2"), (1, "c1")]
    assert await process.live(seconds=9, ends=ends) == [(10, "a3")]


async def test_a_start_counts_for_the_rate_however_its_turn_ends():
    """A retry's starts, too."""
    process = Process(Rate(1, per=10.0), retry=Retry(2, initial=1.0, jitter="none"))
    process.fails = ["a"]
    assert await process.live("a", seconds=12) == [(0, "a"), (10, "a")]
    assert await process.live("b", seconds=9) == [(20, "b")]


@pytest.mark.parametrize("jump", [-1.0, -HOUR, -YEAR])
async def test_a_clock_that_is_set_back_holds_nothing_for_longer(jump: float):
    """A value is claimed for its time to live at most, and a rate waits for no more than its whole burst."""
    process = Process(Once(by=lambda body: body, ttl=60.0), Rate(1, per=10.0))
    await process.live("a")
    process.clock.shift_wall(jump)
    assert await process.live("a", "b", seconds=59) == [(10, "b")]
    await advance(2)
    assert [body for _, body in await process.live("a", seconds=20)] == ["a"]


@pytest.mark.parametrize("jump", [1.0, HOUR, YEAR])
async def test_a_clock_that_is_set_ahead_looks_like_an_absence(jump: float):
    """What would be over is over."""
    process = Process(Once(by=lambda body: body, ttl=60.0))
    await process.live("a")
    process.clock.shift_wall(jump)
    assert [body for _, body in await process.live("a", seconds=58)] == ([] if jump == 1 else ["a"])


@ENDS
async def test_what_does_not_matter_any_more_leaves_the_store(ends: str):
    """While the mesh runs, or when the next one opens the store: it holds what is active, whatever has been."""
    process = Process(Once(by=lambda body: body, ttl=60.0), Rate(1000, per=1.0, by=lambda body: body), concurrency=50)
    await process.live(*range(50), seconds=1, ends=ends)
    assert len(kept(process.store)) == 50
    await process.live(*range(50, 70), seconds=59.8, ends=ends)
    assert len(kept(process.store)) == 20
    await advance(60)
    await process.live(seconds=1, ends=ends)
    assert kept(process.store) == []


async def test_a_claim_that_is_over_does_not_stay_when_the_next_one_fails():
    """The value is free, in the store as well."""
    process = Process(Once(by=lambda body: body, ttl=5.0))
    await process.live("a", seconds=4.9, ends="stopped")
    process.takes = 1.0
    process.fails = ["a"]
    await advance(0.05)

    async def after(_mesh: Mesh, work: Any) -> None:
        await advance(0.06)
        await work.tell("a")
        await advance(10)

    await process.live(then=after, ends="stopped")
    assert kept(process.store) == []


@pytest.mark.parametrize("value", ["text", 7, -1.5, b"bytes", None, True, uuid.UUID(int=1), ("a", (1, b"b"))])
async def test_values_that_come_back_equal_are_kept(value: Any):
    """Text, numbers, bytes, None, UUIDs, and tuples of these."""
    process = Process(Once(by=lambda _: value, ttl=60.0))
    assert len(await process.live("x")) == 1
    assert await process.live("x") == []


@pytest.mark.parametrize("value", [frozenset({1}), 1 << 70, "\udc80", ("a", frozenset({1}))])
async def test_other_values_end_with_the_process(value: Any, caplog: pytest.LogCaptureFixture):
    """They work as ever while it lives, and the log says once what becomes of them."""
    process = Process(Once(by=lambda _: value, ttl=60.0))
    assert len(await process.live("x", "x")) == 1
    assert len(await process.live("x", "x")) == 1
    said = [record for record in caplog.records if "a store cannot give back" in record.getMessage()]
    assert len(said) == 2  # by each process


async def test_another_gate_at_its_place_begins_anew():
    """What was kept belongs to the kind of gate at its number; it is taken out of the store."""
    process = Process(Once(by=lambda body: body, ttl=60.0))
    await process.live("a")
    process.gates = (Rate(1, per=1.0),)
    assert len(await process.live("a", seconds=3)) == 1
    assert kept(process.store) == []


async def test_an_actor_that_is_declared_while_the_mesh_runs_goes_on_too():
    """Also when it is stopped, and declared anew, in the same run."""
    process = Process(Once(by=lambda body: body, ttl=60.0))
    await process.live("a")
    seen: list[str] = []

    async def note(body: str) -> None:
        seen.append(body)

    mesh = Mesh("shop", clock=process.clock, store=process.store, grace=0)
    async with mesh:
        for body in ("b", "c"):
            work = mesh.actor(note, name="work", gates=process.gates)
            for each in ("a", "b", body):
                await work.tell(each)
            await mesh.idle()
            await work.stop()
    assert seen == ["b", "c"]


async def test_what_an_undeclared_actor_knew_is_kept():
    """Until it is over."""
    process = Process(Once(by=lambda body: body, ttl=60.0))
    await process.live("a")
    async with Mesh("shop", clock=process.clock, store=process.store):
        await advance(1)
    assert await process.live("a") == []


async def test_without_a_store_nothing_is_remembered():
    """Claims belong to one run of the mesh then."""
    clock, seen = VirtualClock(), list[str]()
    mesh = Mesh("shop", clock=clock)

    @mesh.actor(gates=[Once(by=lambda body: body)])
    async def work(body: str) -> None:
        seen.append(body)

    for _ in range(2):
        async with mesh:
            await work.tell("a")
            await work.tell("a")
    assert seen == ["a", "a"]
