"""A batched writer: rows come one at a time and go to the database several at a time.

A row that the database refuses becomes a dead letter alone; the others of its batch are stored.

    python examples/batched_writer.py
"""

import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing

import anyio
from msgspec import Struct

from flowmesh import Batch, Context, Mesh, Retry


class Reading(Struct, frozen=True):
    """What one sensor measured."""

    id: int
    celsius: float


mesh = Mesh("readings")


@asynccontextmanager
async def open_database() -> AsyncGenerator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute("create table reading (id integer primary key, celsius real check (celsius > -273.15))")
        yield database  # The actor is given it, by its type.


mesh.provide(sqlite3.Connection, open_database)


@mesh.actor(batch=Batch(100, 0.5), retry=Retry(3, on=(sqlite3.OperationalError,)))
async def store(readings: list[Reading], ctx: Context, database: sqlite3.Connection) -> None:
    with database:  # One transaction.
        for reading, item in zip(readings, ctx.batch.items, strict=True):
            try:
                database.execute("insert into reading values (?, ?)", (reading.id, reading.celsius))
            except sqlite3.IntegrityError as error:
                item.reject(str(error))
    print(f"{database.total_changes} stored by now: a batch of {len(readings)}, because of {ctx.batch.reason}")


async def main() -> None:
    async with mesh:
        for number in range(250):
            await store.tell(Reading(number, -300.0 if number == 42 else 20.0))
        await mesh.idle()
        for message in mesh.dead_letters.list():
            print(f"refused: {message.body} ({message.deaths[0].detail})")


if __name__ == "__main__":
    anyio.run(main)
