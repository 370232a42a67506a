"""Retries and dead letters: a failed message is tried again, then put aside, and replayed when the fault is mended.

`pay` is tried three times when the bank does not answer. An invoice that no retry can help is rejected at once. Neither is
lost: dead letters keep the message and the history of its deaths.

    python examples/retry_and_replay.py
"""

import anyio
from msgspec import Struct

from flowmesh import Context, Mesh, Reject, Retry


class Invoice(Struct, frozen=True):
    """What is owed to whom."""

    to: str
    amount: int


class Bank:
    """Something outside that fails."""

    is_open = False


mesh = Mesh("payments")
bank = Bank()


@mesh.actor(retry=Retry(attempts=3, initial=0.5, on=(ConnectionError,)))
async def pay(invoice: Invoice, ctx: Context) -> None:
    if invoice.amount <= 0:
        raise Reject(f"nothing to pay to {invoice.to}")
    if not bank.is_open:
        print(f"attempt {ctx.attempt} to pay {invoice.to}: no answer")
        raise ConnectionError("the bank does not answer")
    print(f"paid {invoice.amount} to {invoice.to}")


async def main() -> None:
    async with mesh:
        await pay.tell(Invoice("ada", 120))
        await pay.tell(Invoice("bob", 0))
        await mesh.idle()  # A message that awaits its retry counts as work.
        for letter in mesh.dead_letters.list():
            death = letter.deaths[0]
            print(f"dead letter to {letter.body.to}, {death.reason}: {death.detail}")
        bank.is_open = True
        print(f"{await mesh.dead_letters.replay()} replayed")
        await mesh.idle()
        print(f"still dead: {[letter.body.to for letter in mesh.dead_letters.list()]}")


if __name__ == "__main__":
    anyio.run(main)
