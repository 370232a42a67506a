"""A flaky source under supervision: when its feed breaks off it is brought up again, and nobody else notices.

A line that is garbled is a dead letter first; then the parser is made anew, and goes on from the state that it saved.

    python examples/supervised_ingest.py
"""

import anyio
from msgspec import Struct

from flowmesh import ActorContext, Context, Mesh, on

mesh = Mesh("ingest")
unread = ["apples 3", "pears 4", "<garbled>", "plums 5"]
breaks = ["pears 4", "plums 5"]  # Before these lines the feed breaks off, once each.


class Sum(Struct):
    """What the parser saves."""

    value: int = 0


class Parser:
    """Sums what it is told."""

    async def on_start(self, ctx: ActorContext) -> None:
        self.sum = ctx.saved(Sum) or Sum()
        print(f"the parser begins with {self.sum.value}")

    async def on_stop(self) -> None:
        print(f"the parser ends with {self.sum.value}")

    @on
    async def line(self, line: str, ctx: Context) -> None:
        self.sum.value += int(line.split()[1])
        ctx.save(self.sum)  # Takes effect with the acknowledgement, or not at all.


@mesh.source
async def read(ctx: ActorContext) -> None:
    while unread:
        if breaks and unread[0] == breaks[0]:
            raise ConnectionError(f"the feed broke off before {breaks.pop(0)!r}")
        await parser.tell(unread.pop(0))


parser = mesh.actor(Parser)
ingest = mesh.supervise("ingest", [parser, read], max=5, within=60.0)


async def main() -> None:
    async with mesh:
        await anyio.sleep(3)
    print(f"restarts: {ingest.restarts}, dead letters: {len(mesh.dead_letters.list())}")


if __name__ == "__main__":
    anyio.run(main)
