"""What users write with a store: meshes that have one, what it promises, and its errors."""

from pathlib import Path
from typing import Literal, assert_type

from msgspec import Struct

from flowmesh import (
    DurabilityUnavailable,
    Encoded,
    ForkedProcessError,
    MailboxOptions,
    MemoryStore,
    Mesh,
    Message,
    SQLiteStore,
    Store,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreLocked,
    StoreStatistics,
    Unencodable,
)


class Order(Struct, frozen=True):
    number: int


def stores() -> None:
    for store in (MemoryStore(), SQLiteStore("shop.db"), SQLiteStore(Path("shop.db"), durability="process")):
        one: Store = store
        assert_type(one.durability, Literal["none", "process", "power"])
        Mesh("shop", store=one)
    Mesh("shop", store="shop.db").configure(store=None)
    SQLiteStore("shop.db", durability="some")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    MailboxOptions(durable=False)
    MailboxOptions(durable="yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


mesh = Mesh("shop", store="shop.db")


@mesh.actor
async def charge(order: Order) -> None:
    del order


async def sends() -> None:
    receipt = await charge.tell(Order(1), require="power")
    assert_type(receipt.durability, Literal["none", "process", "power"])
    await mesh.exchange("orders").publish(Order(1), "placed", require="process")
    await charge.tell(Order(1), require="sometimes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(mesh.statistics().store, StoreStatistics | None)


def failures(error: Exception, body: object) -> None:
    match error:
        case Unencodable() | DurabilityUnavailable():
            assert_type(error.message, Message | None)
        case StoreLocked():
            assert_type(error.pid, int | None)
        case StoreFull() | StoreCorrupt() | ForkedProcessError():
            known: StoreError = error
            del known
        case _:
            pass
    if isinstance(body, Encoded):
        assert_type(body.type, str)
        assert_type(body.data, bytes)
