"""Ask: send a message and await its handler's result, until a deadline that travels with it.

`quote` asks `stock` in its turn. It allows 30 seconds, but a nested ask never outlives the one it serves: when the customer's
time is up, all three stop at the same moment and nobody works for an answer that no one awaits.

    python examples/ask_with_deadline.py
"""

import anyio
from msgspec import Struct

from flowmesh import Mesh


class Item(Struct, frozen=True):
    """Something for sale, and how many seconds it takes to find it."""

    name: str
    search: float


mesh = Mesh("shop")


@mesh.actor
async def stock(item: Item) -> int:
    try:
        await anyio.sleep(item.search)
    except anyio.get_cancelled_exc_class():
        print(f"stock stops looking for {item.name}")
        raise
    return 12


@mesh.actor
async def quote(item: Item) -> str:
    pieces = await stock.ask(item, timeout=30.0)
    return f"{pieces} pieces of {item.name}, 3.50 each"


async def main() -> None:
    async with mesh:
        print(await quote.ask(Item("tea", search=0.2), timeout=1.0))
        began = anyio.current_time()
        try:
            print(await quote.ask(Item("saffron", search=20.0), timeout=1.0))
        except TimeoutError:
            print(f"no answer about saffron after {anyio.current_time() - began:.1f} s")
        await mesh.idle()


if __name__ == "__main__":
    anyio.run(main)
