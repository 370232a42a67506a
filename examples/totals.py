"""A class actor takes one message at a time, so it sums without a lock. Its ledger, given by type, is closed after it.

python examples/totals.py
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
from msgspec import Struct

from flowmesh import Mesh, Request, on


class GetTotal(Struct, Request[int], frozen=True):
    """What is the total? The answer's type stands on the question."""


class Ledger(list[int]):
    """Where totals are written when the day is over."""


@asynccontextmanager
async def open_ledger() -> AsyncGenerator[Ledger]:
    yield (ledger := Ledger([100]))
    print(f"the ledger is closed with {ledger}")


class Totals:
    """Sums amounts, from what the ledger says."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger, self.total = ledger, ledger[-1]

    async def on_stop(self) -> None:
        self.ledger.append(self.total)

    @on
    async def sold(self, amount: int) -> None:
        self.total += amount

    @on
    async def get_total(self, _: GetTotal) -> int:
        return self.total


mesh = Mesh("totals")
mesh.provide(Ledger, open_ledger)
totals = mesh.actor(Totals)


async def main() -> None:
    async with mesh:
        await totals.tell(32)
        print(f"so far: {await totals.ask(GetTotal())}")


if __name__ == "__main__":
    anyio.run(main)
