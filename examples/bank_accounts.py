"""A bank: one instance for each account, made by its first message, put away when nothing needs it, and back as it was saved.

python examples/bank_accounts.py
"""

import anyio
from msgspec import Struct

from flowmesh import ActorContext, Context, Mesh, Reject, Request, on


class Move(Struct, Request[int], frozen=True):
    """Take so much out of an account, and put it into another one; the answer is what is left. Cash comes from nowhere."""

    account: str
    cents: int
    to: str | None = None


class Account(Struct):
    """One account, and what it saves."""

    cents: int = 0

    async def on_start(self, ctx: ActorContext) -> None:
        self.cents = (ctx.saved(Account) or self).cents
        print(f"{ctx.name} opens with {self.cents}")

    @on
    async def move(self, message: Move, ctx: Context) -> int:
        if self.cents < message.cents:
            raise Reject(f"only {self.cents} in {message.account}")
        self.cents -= message.cents
        ctx.save(self)
        if message.to is not None:
            ctx.tell(accounts.at(message.to), Move(message.to, -message.cents))
        return self.cents


mesh = Mesh("bank")
accounts = mesh.actor(Account, by=lambda message: message.account, idle=60.0, concurrency=8)


async def main() -> None:
    async with mesh:
        await accounts.at("ann").tell(Move("ann", -100))
        print(f"ann has {await accounts.ask(Move('ann', 30, to='bob'))} left")
        await anyio.sleep(120)
        print(f"bob has {await accounts.ask(Move('bob', 10, to='ann'))} left")


if __name__ == "__main__":
    anyio.run(main)
