"""A mailer; its pool of connections is opened before it and closed after it. Run it: python examples/mailer.py."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from sqlite3 import Connection, connect

import anyio

from flowmesh import Context, Mesh, Retry, on

Pool = list[Connection]


@asynccontextmanager
async def open_pool() -> AsyncGenerator[Pool]:
    with closing(connect(":memory:")) as database:
        database.execute("create table sent (address text)")
        yield [database]
        print("sent:", *(address for (address,) in database.execute("select * from sent")))


class Mailer:
    """Sends one letter at a time, and notes it."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        print("connected to the mail server")
        yield
        print("disconnected")

    @on
    async def send(self, address: str, ctx: Context) -> None:
        database = self.pool.pop()
        try:
            with database:  # One transaction.
                database.execute("insert into sent values (?)", [address])
                if ctx.attempt == 1 and address.startswith("bob"):
                    raise ConnectionError("the server has hung up")
        finally:
            self.pool.append(database)


mesh = Mesh("post")
mesh.provide(Pool, open_pool)
mailer = mesh.actor(Mailer, retry=Retry(3, on=(ConnectionError,)))


async def main() -> None:
    async with mesh:
        for name in ("ann", "bob", "eve"):
            await mailer.tell(f"{name}@example.org")


if __name__ == "__main__":
    anyio.run(main)
