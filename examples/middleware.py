"""Middleware: what every handler needs around it, written once.

`named` puts the request's number where each log line can find it; `timed` says how long a turn took, however it ended;
`paid_up` stands around one actor only and answers in the handler's place when it must not run.

    python examples/middleware.py
"""

import contextvars

import anyio
from msgspec import Struct

from flowmesh import CallNext, Context, Mesh

request: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="none")


class Order(Struct, frozen=True):
    """Who wants what."""

    customer: str
    item: str


async def named(ctx: Context, call_next: CallNext) -> object:
    request.set(f"{ctx.message.headers.get('request', 'none')}, attempt {ctx.attempt}")
    return await call_next()


async def timed(ctx: Context, call_next: CallNext) -> object:
    began = anyio.current_time()
    try:
        return await call_next()
    finally:
        print(f"{ctx.actor} took {anyio.current_time() - began:.1f} s (request {request.get()})")


async def paid_up(ctx: Context, call_next: CallNext) -> object:
    return f"{ctx.message.body.customer} owes us money" if ctx.message.body.customer == "bob" else await call_next()


mesh = Mesh("shop", middleware=(named, timed))


@mesh.actor(middleware=[paid_up])
async def sell(order: Order) -> str:
    await anyio.sleep(0.5)
    return f"sold {order.item} to {order.customer} (request {request.get()})"


async def main() -> None:
    async with mesh:
        print(await sell.ask(Order("ada", "a kite"), headers={"request": "A1"}))
        print(await sell.ask(Order("bob", "a boat"), headers={"request": "B2"}))


if __name__ == "__main__":
    anyio.run(main)
