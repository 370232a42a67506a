"""Machines with `by=` in 200 orders: put away, made anew, and no message lost, doubled, overtaken, or back too early."""

from typing import Any

import anyio
import anyio.lowlevel
from msgspec import Struct

from flowmesh import Context, Machine, Mesh, Request, Restart, Retry, after, enter, on
from flowmesh.stores.memory import MemoryStore
from flowmesh.testing import History, explore, running

SHOPS = "abc"
MESSAGES = 6


class Work(Struct, Request[int], frozen=True):
    shop: str
    number: int


class Toggle(Struct, frozen=True):
    shop: str
    to: str


class GetDone(Struct, Request[tuple[int, ...]], frozen=True):
    shop: str


class Done(Struct, frozen=True):
    work: tuple[int, ...] = ()


class Shop(Machine, initial="closed"):
    """Works while it is open, and closes by itself; fails now and then, in the middle of a turn."""

    data: Done = Done()

    @on("open", postpone=("closed", "paused"))
    async def work(self, message: Work, ctx: Context) -> int:
        assert self.state == "open"
        before = self.data
        self.data = Done((*before.work, message.number))
        await anyio.lowlevel.checkpoint()
        if message.number % 4 == 3 and ctx.attempt == 1:
            raise OSError("in the middle")
        return len(self.data.work)

    @on
    async def get_done(self, _: GetDone) -> tuple[int, ...]:
        return self.data.work

    @on(to=("open", "paused", "closed"))
    async def toggle(self, message: Toggle, ctx: Context) -> None:
        self.become(message.to)
        await anyio.lowlevel.checkpoint()
        if ctx.attempt == 1 and message.to == "paused":
            raise OSError("in the middle")

    @enter("open", "paused", "closed")
    async def entered(self) -> None:
        await anyio.lowlevel.checkpoint()

    @after(0.5, "open", to="closed")
    async def close(self) -> None:
        await anyio.lowlevel.checkpoint()


def shop_of(message: Work | Toggle | GetDone) -> str:
    """Return the value of a message."""
    return message.shop


async def working(restart: Restart | None, *, is_stored: bool = False) -> None:
    """Send work and changes of state to shops that come and go, ask for some, leave some; then see that all has been done."""
    mesh, history = Mesh("street", store=MemoryStore() if is_stored else None), History()
    retry = Retry(3, initial=0.1, jitter="none")
    shops: Any = mesh.actor(
        Shop, name="shops", by=shop_of, idle=0.15, max_active=2, concurrency=2, restart=restart, retry=retry
    )
    left = set[tuple[str, int]]()

    async def send(shop: str) -> None:
        for number in range(MESSAGES):
            if number % 3 == 2:
                with anyio.move_on_after(0.05) as scope:
                    await shops.ask(Work(shop, number), timeout=None)
                if scope.cancelled_caught:
                    left.add((shop, number))
            else:
                await shops.tell(Work(shop, number))
            await anyio.sleep(0.1 * (number % 2))

    async def change(shop: str) -> None:
        for state in ("open", "paused", "closed", "open", "closed", "paused"):
            await shops.tell(Toggle(shop, state))
            await anyio.sleep(0.2)

    async with running(mesh, history=history) as time:
        async with anyio.create_task_group() as group:
            for shop in SHOPS:
                group.start_soon(send, shop)
                group.start_soon(change, shop)
        await time.idle()
        await time.advance(5.0)  # All are closed, or paused, and put away; what is postponed waits on.
        instances = mesh.statistics().actors["shops"].instances
        assert instances is not None
        assert (instances.active, instances.waiting) == (0, 0)
        assert instances.put_away > 2
        for _ in range(3):
            for shop in SHOPS:
                await shops.tell(Toggle(shop, "open"))
            await time.advance(1.0)
        await time.idle()
        statistics = mesh.statistics()
        assert statistics.actors["shops"].postponed == 0
        assert (statistics.mailboxes["shops"].ready, statistics.mailboxes["shops"].leased) == (0, 0)
        done = {shop: await shops.ask(GetDone(shop)) for shop in SHOPS}
    for shop in SHOPS:
        assert len(done[shop]) == len(set(done[shop])), "done twice"
        wanted = {number for number in range(MESSAGES) if (shop, number) not in left}
        assert wanted <= {*done[shop]} <= {*range(MESSAGES)}
        assert list(done[shop]) == sorted(done[shop]), "a retry keeps its lane: nothing overtakes it"


def test_machines_that_live_on_in_200_orders() -> None:
    """Failures are retried, and leave the state as it was; idle machines are put away, whatever they have postponed."""

    async def live_on() -> None:
        await working(None)

    assert explore(live_on, seeds=200) == 400


def test_machines_that_are_made_anew_in_200_orders() -> None:
    """Each failure ends an instance: the next one resumes where it was, and what was postponed waits on."""

    async def made_anew() -> None:
        await working(Restart(max=None, initial=0.05, jitter="none"))

    assert explore(made_anew, seeds=200) == 400


def test_machines_with_a_store_in_60_orders() -> None:
    """A turn is stored before the next message of its value meets the state that it leads to."""

    async def stored() -> None:
        await working(Restart(max=None, initial=0.05, jitter="none"), is_stored=True)

    assert explore(stored, seeds=60) == 120
