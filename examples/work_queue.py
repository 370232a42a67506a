"""A work queue: workers compete for the messages of one mailbox, and each message goes to one of them.

`shrink` has three slots, so three pictures are in hand at once and the next is taken as soon as one is done. The finished ones
wait in a plain mailbox until somebody pulls them: what is not acknowledged goes back.

    python examples/work_queue.py
"""

import anyio
from msgspec import Struct

from flowmesh import Context, Mesh


class Picture(Struct, frozen=True):
    """A picture, and how many seconds of work it is."""

    name: str
    seconds: float


mesh = Mesh("pictures")
finished = mesh.mailbox("finished")
default = mesh.exchange("")  # Routes to the mailbox that the key names.
ALBUM = [
    Picture("alps", 3.0),
    Picture("boat", 1.0),
    Picture("cat", 2.5),
    Picture("dunes", 1.0),
    Picture("elk", 2.5),
    Picture("fjord", 1.5),
]


@mesh.actor(concurrency=3)
async def shrink(picture: Picture, ctx: Context) -> None:
    await anyio.sleep(picture.seconds)
    ctx.publish(default, picture, key=finished.name)


async def main() -> None:
    began = anyio.current_time()
    async with mesh:
        for picture in ALBUM:
            await shrink.tell(picture)
        todo = {picture.name for picture in ALBUM}
        async with finished.consume(prefetch=2) as deliveries:
            async for delivery in deliveries:
                name = delivery.message.body.name
                print(f"{anyio.current_time() - began:.1f} s: {name}")
                await delivery.ack()
                todo.remove(name)
                if not todo:
                    break
    print(f"{sum(picture.seconds for picture in ALBUM)} seconds of work, done in {anyio.current_time() - began:.1f}")


if __name__ == "__main__":
    anyio.run(main)
