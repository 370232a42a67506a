"""Messages that come later, and again and again.

`delay=` is measured from now and `at=` names a moment; a deferred message is routed when it is due, and until then it holds no
worker and nobody waits for it. `mesh.every` sends on a fixed beat that does not drift, however long the handler takes.

    python examples/deferred_and_periodic.py
"""

from datetime import UTC, datetime, timedelta

import anyio

from flowmesh import Mesh

mesh = Mesh("kitchen")


class Stopwatch:
    """Seconds since it was started."""

    began = 0.0

    def start(self) -> None:
        self.began = anyio.current_time()

    def __str__(self) -> str:
        return f"{anyio.current_time() - self.began:.1f} s"


stopwatch = Stopwatch()


@mesh.actor
async def remind(what: str) -> None:
    print(f"{stopwatch}: {what}")


@mesh.actor
async def stir() -> None:
    print(f"{stopwatch}: stir the soup")


mesh.every(1.0, stir)


async def main() -> None:
    stopwatch.start()
    async with mesh:
        receipt = await remind.tell("take the bread out", delay=2.5)
        await remind.tell("add the salt", at=datetime.now(UTC) + timedelta(seconds=1.5))
        print(f"{stopwatch}: the bread is in, timer {'set' if receipt.timer else 'missing'}")
        await anyio.sleep(3.2)
    print(f"{stopwatch}: dinner")


if __name__ == "__main__":
    anyio.run(main)
