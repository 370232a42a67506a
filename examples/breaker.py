"""A breaker in front of a service that is away: messages are held instead of failing one by one.

The bank fails for seven seconds. After two failures the breaker opens; then one message every three seconds probes, the others
wait, unharmed, at their places. When a probe comes through, all of them go.

    python examples/breaker.py
"""

import anyio
from msgspec import Struct

from flowmesh import Breaker, Context, Mesh, Retry

mesh = Mesh("payments")
began: list[float] = []


class Payment(Struct, frozen=True):
    """Who is paid."""

    name: str


def seconds() -> float:
    return anyio.current_time() - began[0]


async def bank() -> None:
    await anyio.sleep(0.1)
    if seconds() < 7:
        raise TimeoutError


@mesh.actor(gates=[Breaker(failures=2, within=10.0, pause=3.0)], retry=Retry(5, initial=0.5, jitter="none"))
async def pay(payment: Payment, ctx: Context) -> None:
    try:
        await bank()
    except TimeoutError:
        print(f"{seconds():.1f} s: no answer for {payment.name}, attempt {ctx.attempt}")
        raise
    print(f"{seconds():.1f} s: paid {payment.name}")


async def main() -> None:
    began.append(anyio.current_time())
    async with mesh:
        for name in ("ada", "bob", "cyd", "dan", "eve"):
            await pay.tell(Payment(name))
        await anyio.sleep(1)
        (gate,) = mesh.statistics().actors["pay"].gates
        print(f"{seconds():.1f} s: the breaker is {gate.condition}, {gate.held} payments are held")
        await mesh.idle()
        print(f"{mesh.statistics().mailboxes['pay'].acked} paid, {len(mesh.dead_letters)} lost")


if __name__ == "__main__":
    anyio.run(main)
