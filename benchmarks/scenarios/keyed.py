"""S10k and S8k: one class actor with `by=`, and what its instances cost.

S10k is S10 with values instead of actors: one producer tells a value chosen at random among ten thousand, each of which has an
instance with state, made before the clock starts. S8k weighs them as S8 does: what an active instance adds (its lane and the
user's own object included), and what a value weighs of all that have been seen, when one of eleven is active.
"""

import gc
import tracemalloc
from collections.abc import Sequence
from random import Random

from msgspec import Struct

from benchmarks.harness import Bound, Figure, Scenario
from benchmarks.workload import Countdown, scaled, started
from flowmesh import Mesh, on

__all__ = ["KEYED", "KEYED_MEMORY"]


class Deposit(Struct, frozen=True):
    """A message for one value."""

    account: int
    amount: int


def _account_of(message: Deposit) -> int:
    return message.account


async def _keyed(scale: float) -> Sequence[float]:
    count = scaled(100_000, scale)
    countdown = Countdown(count)
    mesh = Mesh("bench")

    class Account:
        def __init__(self) -> None:
            self.balance = 0

        @on
        async def deposit(self, message: Deposit) -> None:
            self.balance += message.amount
            countdown.left -= 1
            if not countdown.left:
                countdown.end()

    accounts = mesh.actor(Account, by=_account_of, idle=60.0)
    values = range(scaled(10_000, scale))
    chosen = Random(10).choices(values, k=count)
    async with mesh:
        countdown.left += len(values)
        for account in values:
            await accounts.tell(Deposit(account, 0))
        await mesh.idle()
        start = started()
        for number, account in enumerate(chosen):
            await accounts.tell(Deposit(account, number))
        await countdown.wait()
    return ((countdown.ended - start) / count,)


class _Account:
    __slots__ = ("balance",)

    def __init__(self) -> None:
        self.balance = 0

    @on
    async def deposit(self, message: Deposit) -> None:
        self.balance += message.amount


async def _memory(scale: float) -> Sequence[float]:
    active, seen = scaled(10_000, scale), scaled(100_000, scale)
    mesh = Mesh("bench")
    accounts = mesh.actor(_Account, by=_account_of, max_active=active)
    values = list(range(active + seen))  # a user's own values are not the engine's
    async with mesh:
        tracemalloc.start()
        try:
            empty = _held()
            for value in values[:active]:
                await accounts.tell(Deposit(value, 1))
            await mesh.idle()
            made = _held()
            for value in values[active:]:
                await accounts.tell(Deposit(value, 1))
            await mesh.idle()
            passed = _held()
        finally:
            tracemalloc.stop()
    return (made - empty) / active, (passed - empty) / (active + seen)


def _held() -> int:
    """Return the bytes that are allocated now, garbage aside."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


KEYED = Scenario("S10k", "random over ten thousand values of one class", (Figure.alike("tell", "x", Bound(5.0, 3.0)),), _keyed)
KEYED_MEMORY = Scenario(
    "S8k",
    "memory of a class with by=",
    (
        Figure.alike("active instance", "B", Bound(gate=1000.0, goal=600.0)),
        Figure.alike("value seen, one of eleven active", "B", Bound(gate=100.0, goal=60.0)),
    ),
    _memory,
)
