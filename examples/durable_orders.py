"""Orders that outlive the process: what one run has taken in and not handled, the next one handles.

python examples/durable_orders.py [FILE]    # Twice: the second run begins with what the first has left in orders.db.
"""

import sys
from pathlib import Path

import anyio
from msgspec import Struct

from flowmesh import Context, Mesh, on


class Order(Struct, frozen=True):
    """A body that a store can give back: a Struct that an actor takes."""

    id: int
    amount: float


class Sum(Struct, frozen=True):
    """What the till remembers."""

    orders: int = 0
    amount: float = 0.0


class Till:
    """Adds up what is paid; the sum is saved in the step in which the order is acknowledged, so none counts twice."""

    @on
    async def paid(self, order: Order, ctx: Context) -> None:
        before = ctx.saved(Sum) or Sum()
        ctx.save(Sum(before.orders + 1, before.amount + order.amount))
        print(f"order {order.id}: {before.amount + order.amount:.2f} in the till after {before.orders + 1} orders")


async def main(path: Path) -> None:
    mesh = Mesh("shop", store=path)
    till = mesh.actor(Till)
    async with mesh:
        print(f"{mesh.statistics().mailboxes['Till'].ready} orders are left from before")
        await mesh.idle()
        till.pause()  # The shop closes. Orders still come in.
        receipts = [await till.tell(Order(number, 9.5), require="power") for number in range(3)]
        print(f"{len(receipts)} orders taken in: {receipts[0].durability}")


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1] if len(sys.argv) > 1 else "orders.db"))
