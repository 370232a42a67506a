"""A state machine in 200 orders of what may happen in any order: no message is lost, doubled, overtaken, or back too early."""

from typing import Any

import anyio
import anyio.lowlevel
from msgspec import Struct
from msgspec.structs import replace

from flowmesh import Context, Machine, Mesh, Request, Restart, Retry, after, enter, on
from flowmesh.testing import History, explore, running

SENDERS = 3
MESSAGES = 8


class Work(Struct, Request[int], frozen=True):
    sender: int
    number: int


class Toggle(Struct, frozen=True):
    to: str


class GetDone(Struct, Request[tuple[tuple[int, int], ...]], frozen=True):
    pass


class Done(Struct, frozen=True):
    work: tuple[tuple[int, int], ...] = ()


class Shop(Machine, initial="closed"):
    """Works while it is open, and closes by itself; fails now and then, in the middle of a turn."""

    data: Done = Done()

    @on("open", postpone=("closed", "paused"))
    async def work(self, message: Work, ctx: Context) -> int:
        assert self.state == "open"
        before = self.data
        self.data = replace(before, work=(*before.work, (message.sender, message.number)))
        await anyio.lowlevel.checkpoint()
        if message.number % 4 == 3 and ctx.attempt == 1:
            raise OSError("in the middle")
        return len(self.data.work)

    @on
    async def get_done(self, _: GetDone) -> tuple[tuple[int, int], ...]:
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


async def working(restart: Restart | None) -> None:
    """Send work and changes of state from several tasks, ask for some, leave some; then see that all of it has been done."""
    mesh, history = Mesh("shop"), History()
    shop: Any = mesh.actor(Shop, name="shop", restart=restart, retry=Retry(3, initial=0.1, jitter="none"))
    left = list[tuple[int, int]]()

    async def send(sender: int) -> None:
        for number in range(MESSAGES):
            work = Work(sender, number)
            if number % 3 == 2:
                with anyio.move_on_after(0.05) as scope:
                    await shop.ask(work, timeout=None)
                if scope.cancelled_caught:
                    left.append((sender, number))
            else:
                await shop.tell(work)
            await anyio.lowlevel.checkpoint()

    async def change() -> None:
        for state in ("open", "paused", "closed", "open", "closed", "paused", "open"):
            await shop.tell(Toggle(state))
            await anyio.sleep(0.2)

    async with running(mesh, history=history) as time:
        async with anyio.create_task_group() as group:
            for sender in range(SENDERS):
                group.start_soon(send, sender)
            group.start_soon(change)
        for _ in range(5):  # It closes by itself, whatever is left to be done.
            await shop.tell(Toggle("open"))
            await time.advance(1.0)
        await time.idle()
        statistics = mesh.statistics()
        assert (statistics.actors["shop"].postponed, statistics.mailboxes["shop"].leased) == (0, 0)
        assert statistics.mailboxes["shop"].ready == 0
        done = await shop.ask(GetDone())
    wanted = {(sender, number) for sender in range(SENDERS) for number in range(MESSAGES)} - {*left}
    assert len(done) == len(set(done)), "done twice"
    assert wanted <= {*done}
    assert set(done) <= wanted | {*left}
    for sender in range(SENDERS):
        first_tries = [number for one, number in done if one == sender and number % 4 != 3]
        assert first_tries == sorted(first_tries), "overtaken"


def test_a_machine_that_lives_on_in_200_orders() -> None:
    """Failures are retried, and leave the state as it was."""

    async def lives_on() -> None:
        await working(None)

    explore(lives_on, seeds=200)


def test_a_machine_that_is_made_anew_in_200_orders() -> None:
    """Each failure ends an instance: the next one resumes where it was, and what was postponed waits on."""

    async def made_anew() -> None:
        await working(Restart(max=None, initial=0.05, jitter="none"))

    explore(made_anew, seeds=200)
