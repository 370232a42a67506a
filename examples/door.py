"""A door is a state machine: who knocks while it is locked waits, in order, until it is unlocked; open, it shuts by itself.

python examples/door.py
"""

import anyio
from msgspec import Struct

from flowmesh import Machine, Mesh, Request, after, enter, on


class Unlock(Struct, frozen=True):
    """Try a code."""

    code: int


class Knock(Struct, Request[str], frozen=True):
    """Ask to be let in."""

    who: str


class Door(Machine, initial="locked"):
    """Each method says in which states it handles its message, where that leads, and what is done with it elsewhere."""

    @on("locked", to=("closed",), ignore=("closed", "open"))
    async def unlock(self, message: Unlock) -> None:
        if message.code == 42:
            self.become("closed")

    @on("closed", "open", to="open", postpone="locked")
    async def open(self, message: Knock) -> str:
        return f"welcome {message.who}"

    @enter("closed", "open")
    async def entered(self) -> None:
        print(f"the door is {self.state}")

    @after(30.0, "open", to="closed")
    async def shut(self) -> None:
        print("nobody came for 30 s")


mesh = Mesh("house")
door = mesh.actor(Door)


async def main() -> None:
    async with mesh:
        for message in (Knock("ada"), Unlock(41), Unlock(42)):
            await door.tell(message)
        print(await door.ask(Knock("bob")))
        await anyio.sleep(31.0)


if __name__ == "__main__":
    anyio.run(main)
