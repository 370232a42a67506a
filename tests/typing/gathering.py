"""Actors whose messages wait for others: a batch handler takes a list, and its actor is told one item at a time.

Checked, never run. Of refused lines see declaring.py.
"""

from typing import assert_type

from msgspec import Struct

from flowmesh import Actor, Batch, BatchItem, BatchTurn, Context, Debounce, Mesh, Receipt, Retry


class Row(Struct, frozen=True):
    number: int


mesh = Mesh("rows")


@mesh.actor(batch=Batch(100, 0.5, by=lambda row: row.number, max_bytes=1_000_000), retry=Retry(3), concurrency=4)
async def write(rows: list[Row], ctx: Context) -> None:
    assert_type(ctx.batch, BatchTurn)
    assert_type(ctx.batch.items, tuple[BatchItem, ...])
    assert_type(ctx.batch.waited, float)
    if ctx.batch.reason == "within":
        ctx.batch.items[0].reject("why")
        ctx.batch.items[1].retry(2.0)
        ctx.batch.items[2].fail(ValueError(rows[2].number))
        ctx.batch.items[3].fail(ValueError)


@mesh.actor(batch=Batch(10, 1.0))
async def number(rows: list[Row]) -> list[int]:
    return [row.number for row in rows]


@mesh.actor(batch=Batch(10, 1.0))
def plain(rows: list[Row]) -> list[int]:
    return [row.number for row in rows]


@mesh.actor(batch=Batch(10, 1.0))
def plain_without_reply(rows: list[Row]) -> None:
    print(rows)


async def takes_list(rows: list[Row]) -> list[str]:
    return [str(row.number) for row in rows]


called = mesh.actor(takes_list, batch=Batch(10, 1.0), name="called")
not_a_batch = mesh.actor(takes_list, name="whole")


@mesh.actor(debounce=Debounce(0.5, 5.0, by=lambda row: row.number))
async def index(row: Row) -> int:
    return row.number


async def using() -> None:
    assert_type(write, Actor[Row, None])
    assert_type(number, Actor[Row, int])
    assert_type(plain, Actor[Row, int])
    assert_type(plain_without_reply, Actor[Row, None])
    assert_type(called, Actor[Row, str])
    assert_type(not_a_batch, Actor[list[Row], list[str]])
    assert_type(index, Actor[Row, int])
    assert_type(await write.tell(Row(1)), Receipt)
    assert_type(await number.ask(Row(1)), int)
    await write.tell([Row(1)])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await number.ask("no row")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@mesh.actor(batch=Batch(10, 1.0))  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue,reportArgumentType,reportUntypedFunctionDecorator]
async def takes_one(row: Row) -> None:
    print(row)
