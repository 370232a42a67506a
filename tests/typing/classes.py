"""What users declare as class actors and provide, and the types that both checkers infer for it. Checked, never run.

Of refused lines see declaring.py.
"""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Any, Self, assert_type

from msgspec import Struct

from flowmesh import Actor, ActorContext, ClassActor, Context, Group, Mesh, Receipt, Request, Restart, Retry, on


class OrderPlaced(Struct, frozen=True):
    order: str


class OrderChanged(Struct, frozen=True):
    order: str


class GetTotal(Struct, Request[int], frozen=True):
    order: str


class Settings:
    url: str = ""


class Pool:
    def __init__(self, url: str) -> None:
        self.url = url


class Client:
    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


mesh = Mesh("shop")


# Provided things


@asynccontextmanager
async def open_pool(settings: Settings) -> AsyncGenerator[Pool]:
    yield Pool(settings.url)


def open_settings() -> AbstractAsyncContextManager[Settings]:
    raise NotImplementedError


async def no_context_manager() -> Pool:
    return Pool("")


mesh.provide(Settings, open_settings)
mesh.provide(Pool, open_pool)
mesh.provide(Client, Client)


@mesh.actor
async def bill(order: OrderPlaced, ctx: Context, pool: Pool) -> str:
    return pool.url


assert_type(bill, Actor[OrderPlaced, str])


def refused_things() -> None:
    mesh.provide(Settings, open_pool)  # type: ignore[arg-type]
    mesh.provide(Pool, no_context_manager)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    mesh.provide(Pool, Pool(""))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# Class actors


class Totals:
    def __init__(self, pool: Pool) -> None:
        self.totals: dict[str, int] = {}

    @asynccontextmanager
    async def lifespan(self, ctx: ActorContext) -> AsyncGenerator[None]:
        ctx.log.info("%s", ctx.name)
        yield

    @on
    async def placed(self, message: OrderPlaced | OrderChanged, ctx: Context) -> None: ...

    @on
    async def total(self, message: GetTotal) -> int:
        return self.totals[message.order]

    @on
    def in_a_thread(self, message: bytes, pool: Pool) -> str:
        return pool.url


totals = mesh.actor(Totals)
durable = mesh.actor(Totals, name="again", retry=Retry(3))
preset = mesh.actor(retry=Retry(3))
restarted = mesh.actor(Totals, name="restarted", restart=Restart(max=5, within=30.0))


async def class_actors() -> None:
    assert_type(totals, ClassActor[Totals])
    assert_type(durable, ClassActor[Totals])
    assert_type(preset(Totals), ClassActor[Totals])
    assert_type(await totals.ask(GetTotal("42")), int)
    assert_type(await totals.ask(GetTotal("42"), timeout=None, priority=3), int)
    assert_type(await totals.ask(OrderPlaced("42")), Any)
    assert_type(await totals.tell(OrderPlaced("42")), Receipt)
    an_actor: Actor[OrderPlaced, None] = totals
    await an_actor.tell(OrderPlaced("42"))
    mesh.every(60.0, totals, body=GetTotal("42"))


# Supervision


class Saved(Struct, frozen=True):
    total: int


@mesh.source
async def poll(ctx: ActorContext) -> None: ...


inner = mesh.supervise("inner", [totals, bill])
outer = mesh.supervise(
    "outer", [inner, poll, restarted], strategy="rest_for_one", max=None, within=60.0, significant=[poll, inner]
)


def supervised(ctx: Context, hook: ActorContext) -> None:
    assert_type(restarted, ClassActor[Totals])
    assert_type(outer, Group)
    assert_type(outer.restarts, int)
    assert_type(ctx.saved(Saved), Saved | None)
    assert_type(hook.saved(Saved), Saved | None)
    ctx.save(Saved(1))
    ctx.timer("tick", 1.0, GetTotal("42"))
    ctx.watch(bill, GetTotal("42"))
    hook.timer("tick", 1.0, GetTotal("42"))
    hook.watch(totals, GetTotal("42"))


def refused_supervision(ctx: Context) -> None:
    mesh.actor(Totals, restart=3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    mesh.supervise("group", [1])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    mesh.supervise("group", [totals], strategy="all")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    mesh.supervise("group", [totals], max=1.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ctx.save(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ctx.watch("bill", 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def one_method() -> None:
    total = totals.handler(Totals.total)
    placed = totals.handler(Totals.placed)
    threaded = totals.handler(Totals.in_a_thread)
    assert_type(total, Actor[GetTotal, int])
    assert_type(placed, Actor[OrderPlaced | OrderChanged, None])
    assert_type(threaded, Actor[bytes, str])
    assert_type(await total.ask(GetTotal("42")), int)
    await placed.tell(OrderChanged("42"))


async def refused_messages(ctx: Context) -> None:
    total = await totals.ask(GetTotal("42"))
    text: str = total  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    await totals.handler(Totals.total).tell(OrderPlaced(text))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ctx.tell(totals.handler(Totals.total), OrderPlaced("42"))  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]
    totals.handler(Pool.__init__)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    totals(GetTotal("42"))
