"""A batched writer: rows come one at a time and go to the database several at a time.

`store` takes a list. It is called when 100 rows are there, or when the first of them has waited for half a second, so a busy
hour costs one transaction for 100 rows, and in a quiet one no row waits long. A row that the database refuses is rejected
alone: it becomes a dead letter, and the others of its batch are stored. If the whole call fails, all of it is tried again.

Run it:

    python examples/batched_writer.py

It prints each batch with the reason why it was written, then what the database holds, and what it refused.
"""

import sqlite3

import anyio
from msgspec import Struct

from flowmesh import Batch, Context, Mesh, Retry


class Reading(Struct, frozen=True):
    """What one sensor measured."""

    id: int
    celsius: float


mesh = Mesh("readings")
database = sqlite3.connect(":memory:")
database.execute("create table reading (id integer primary key, celsius real check (celsius > -273.15))")


@mesh.actor(batch=Batch(100, 0.5), retry=Retry(3, on=(sqlite3.OperationalError,)))
async def store(readings: list[Reading], ctx: Context) -> None:
    with database:  # One transaction.
        for reading, item in zip(readings, ctx.batch.items, strict=True):
            try:
                database.execute("insert into reading values (?, ?)", (reading.id, reading.celsius))
            except sqlite3.IntegrityError as error:
                item.reject(str(error))
    print(f"{len(readings)} readings, because of {ctx.batch.reason}")


async def main() -> None:
    async with mesh:
        for number in range(250):
            await store.tell(Reading(number, -300.0 if number == 42 else number / 10))
        await mesh.idle()
        print(f"{database.execute('select count(*) from reading').fetchone()[0]} are stored")
        for message in mesh.dead_letters.list():
            print(f"refused: {message.body} ({message.deaths[0].detail})")
    database.close()


if __name__ == "__main__":
    anyio.run(main)
