"""Instances that come and go, in 200 orders of what may happen in any order: nothing is lost, doubled or out of order."""

import functools
from collections import Counter
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest
from msgspec import Struct

from flowmesh import ActorContext, Context, Mesh, Request, Restart, Retry, on
from flowmesh._core.commits import Owner
from flowmesh.testing import History, explore, running

KEYS = "abcde"
MESSAGES = 6


class Add(Struct, frozen=True):
    key: str
    number: int


class Get(Struct, Request[int], frozen=True):
    key: str


class Late(Struct, frozen=True):
    key: str


class State(Struct):
    total: int = 0
    last: int = -1


def key_of(message: Any) -> str:
    """Return the value of a message."""
    return str(message.key)


async def passing() -> None:
    """Tell and ask instances that are put away all the time, fail now and then, and are stopped and started slowly."""
    mesh, alive, made, history = Mesh("bank"), Counter[str](), list[str](), History()

    class Account:
        async def on_start(self, ctx: ActorContext) -> None:
            self.name = ctx.name
            alive[self.name] += 1
            made.append(self.name)
            assert alive[self.name] == 1, "never two"
            self.state = ctx.saved(State) or State()
            await anyio.sleep(0.02)
            if len(made) % 7 == 3:
                alive[self.name] -= 1
                raise ConnectionError("at the start")

        async def on_stop(self) -> None:
            await anyio.sleep(0.03)
            alive[self.name] -= 1

        @on
        async def add(self, message: Add, ctx: Context) -> None:
            assert alive == Counter({**alive, self.name: 1})
            assert self.name == f"Account[{message.key}]"
            await anyio.lowlevel.checkpoint()
            if message.number % 5 == 3 and ctx.attempt == 1:
                raise OSError("in the middle")
            assert message.number > self.state.last, "in order"
            self.state.total += 1
            self.state.last = message.number
            ctx.save(self.state)

        @on
        async def get(self, message: Get) -> int:
            await anyio.lowlevel.checkpoint()
            return self.state.total

    accounts = mesh.actor(
        Account,
        by=key_of,
        idle=0.2,
        max_active=3,
        concurrency=4,
        retry=Retry(2, initial=0.05),
        restart=Restart(max=None, initial=0.01),
    )
    async with running(mesh, history=history):
        async with anyio.create_task_group() as group:
            for index, key in enumerate(KEYS):

                async def send(key: str = key, pause: float = 0.02 * (index + 1)) -> None:
                    for number in range(MESSAGES):
                        await accounts.at(key).tell(Add(key, number))
                        if number == MESSAGES // 2:
                            with anyio.move_on_after(pause):
                                await accounts.at(key).ask(Get(key))
                        await anyio.sleep(pause)

                group.start_soon(send)
        await mesh.idle()
        await anyio.sleep(60.0)
        instances = mesh.statistics().actors["Account"].instances
        assert instances is not None
        assert (instances.active, instances.waiting) == (0, 0)
        assert instances.put_away > 2
        saved = mesh._engine.ground.ledger.saved
        for key in KEYS:
            assert msgspec.msgpack.decode(saved[Owner("Account", key)], type=State).total == MESSAGES
    assert alive.total() == 0
    numbers = accounts.mailbox.statistics()
    assert numbers.ready == numbers.leased == numbers.delayed == numbers.dead == 0


async def crowding(*, is_kept: bool, max_active: int, concurrency: int) -> None:
    """Tell three values all at once: there are always more of them than places, and each has more messages than one."""
    mesh, alive, history, counted = Mesh("bank"), Counter[str](), History(), dict[str, list[int]]()

    class Bare:
        @on
        async def add(self, message: Add, ctx: Context) -> None:
            numbers = counted.setdefault(message.key, [])
            assert not numbers or message.number > numbers[-1], "in order"
            alive[message.key] += 1
            assert alive[message.key] == 1, "one at a time"
            try:
                await anyio.lowlevel.checkpoint()
                if message.number % 5 == 3 and ctx.attempt == 1:
                    raise OSError("in the middle")
                if message.number == 2:
                    ctx.timer("late", 0.1, Late(message.key))
            finally:
                alive[message.key] -= 1
            numbers.append(message.number)

        @on
        async def late(self, message: Late) -> None: ...

    class Kept(Bare):
        async def on_start(self, ctx: ActorContext) -> None:
            self.name = ctx.name
            alive[self.name] += 1
            assert alive[self.name] == 1, "never two"
            await anyio.sleep(0.02)

        async def on_stop(self) -> None:
            await anyio.sleep(0.03)
            alive[self.name] -= 1

    crowd = mesh.actor(
        Kept if is_kept else Bare,
        by=key_of,
        max_active=max_active,
        concurrency=concurrency,
        retry=Retry(2, initial=0.05),
        idle=0.5,
    )
    async with running(mesh, history=history):
        for number in range(MESSAGES):
            for key in "abc":
                await crowd.tell(Add(key, number))
            if number == MESSAGES // 2:
                await anyio.sleep(0.05)
        await mesh.idle()
        assert counted == {key: list(range(MESSAGES)) for key in "abc"}
        await anyio.sleep(60.0)
        instances = mesh.statistics().actors[crowd.name].instances
        assert instances is not None
        assert (instances.active, instances.waiting) == (0, 0)
        assert instances.put_away > 3
    assert alive.total() == 0


@pytest.mark.parametrize("is_kept", [False, True])
@pytest.mark.parametrize("max_active, concurrency", [(1, 1), (1, 3), (2, 3)])
def test_no_order_starves_anybody(is_kept: bool, max_active: int, concurrency: int):
    """However often instances make way for each other, each message is handled once, by one instance at a time, in order."""
    crowd = functools.partial(crowding, is_kept=is_kept, max_active=max_active, concurrency=concurrency)
    assert explore(crowd, seeds=40) == 80


def test_no_order_loses_anything():
    """Each message counts once, on the one instance of its value, in order, however often it was put away."""
    assert explore(passing, seeds=200) == 400
