"""Publish and subscribe: a topic exchange chooses its listeners, a fanout exchange tells all of them.

A publish makes one copy for each mailbox that a binding leads to, and says how many there were. `watch` hears of every reading
taken on a roof, wherever it is; what it publishes itself leaves with its ack, and so reaches `siren` and `diary` only when
the reading has been handled.

    python examples/publish_subscribe.py
"""

import anyio
from msgspec import Struct

from flowmesh import Context, Mesh


class Reading(Struct, frozen=True):
    """A temperature, in degrees Celsius."""

    sensor: str
    celsius: float


mesh = Mesh("weather")
readings = mesh.exchange("readings", "topic")
alarms = mesh.exchange("alarms", "fanout")


@mesh.actor(bind=readings.on("eu.#"))
async def europe(reading: Reading) -> None:
    print(f"europe notes {reading.celsius:.1f} from {reading.sensor}")


@mesh.actor(bind=readings.on("*.*.roof"))
async def watch(reading: Reading, ctx: Context) -> None:
    if reading.celsius > 40:
        ctx.publish(alarms, reading)


@mesh.actor(bind=alarms.on())
async def siren(reading: Reading) -> None:
    print(f"siren: {reading.sensor} is at {reading.celsius:.1f}!")


@mesh.actor(bind=alarms.on())
async def diary(reading: Reading) -> None:
    print(f"diary: alarm at {reading.sensor}")


async def main() -> None:
    async with mesh:
        for key, celsius in [("eu.berlin.roof", 21.5), ("eu.madrid.roof", 43.0), ("us.nome.cellar", 4.0)]:
            receipt = await readings.publish(Reading(key, celsius), key)
            print(f"{key} went to {receipt.routed} mailboxes")
        await mesh.idle()


if __name__ == "__main__":
    anyio.run(main)
